//! Clocks that are wrong, and what a device remembers of the time: expiry blocks what is new, and never stops what runs.
use leeway_protocol::assignment::Intent;
use leeway_protocol::reported::Phase;
use leeway_protocol::time::Timestamp;

use super::repo::{Repo, start};
use super::world::World;

const DAY: i64 = 86_400;
const YEAR: i64 = 365 * DAY;

fn repo() -> Repo {
    let mut repo = Repo::new();
    for (version, seq) in [("1.0.0", 1), ("2.0.0", 2), ("3.0.0", 3)] {
        repo.release(version, seq, "good");
    }
    repo
}

/// The repository's online roles and an assignment, both signed at `at`.
fn signed_at(world: &mut World, at: Timestamp, generation: u64, version: &str) -> Vec<u8> {
    let signer = world.repo.signer.clone();
    world.repo.state.refresh(&signer, at).unwrap();
    world.repo.files = world.repo.state.files().clone();
    let mut assignment = world.repo.assignment(generation, Intent::Install, Some(version));
    assignment.issued_at = at;
    signer.sign_assignment(&assignment, Some(&world.repo.targets[version]), at).unwrap()
}

fn clock_is_sane(world: &World) -> bool {
    world.state().conditions.iter().any(|c| c.kind == "ClockSane" && c.holds)
}

#[test]
fn a_clock_in_2099_neither_stops_a_device_nor_blinds_it() {
    let mut world = World::settled(repo());
    world.now = start().plus_secs(73 * YEAR);
    world.run_for(30);
    assert_eq!((world.phase(), world.version().as_str(), clock_is_sane(&world)), (Phase::Committed, "1.0.0", false));
    // A moment was signed before, so 2099 is not believed, and what is fresh by that moment is installed.
    world.desire(world.repo.install(2, "2.0.0"));
    world.run_until(60, |w| w.phase() == Phase::Committed && w.version() == "2.0.0");
    world.power_cycle();
    world.run_for(10);
    assert_eq!((world.version().as_str(), clock_is_sane(&world)), ("2.0.0", false), "over a restart too");
    world.now = start().plus_secs(600);
    world.run_for(10);
    assert!(clock_is_sane(&world), "set right again");
}

#[test]
fn a_device_that_has_never_heard_a_signed_moment_believes_its_clock_and_recovers() {
    let mut world = World::new(repo());
    world.now = start().plus_secs(73 * YEAR);
    world.boot();
    world.desire(world.repo.install(1, "1.0.0"));
    world.run_for(60);
    assert!(world.version().is_empty() && world.logged("expired"), "by 2099 all of it is over");
    world.now = start().plus_secs(60);
    world.power_cycle();
    world.run_until(600, |w| w.phase() == Phase::Committed && w.version() == "1.0.0");
}

#[test]
fn a_clock_set_back_across_a_restart_revives_nothing_that_is_over() {
    let mut world = World::settled(repo());
    let yesterday = world.repo.install(3, "3.0.0");
    world.now = start().plus_secs(20 * DAY);
    let today = world.now;
    let document = signed_at(&mut world, today, 2, "2.0.0");
    world.desire(document);
    world.run_until(120, |w| w.phase() == Phase::Committed && w.version() == "2.0.0");
    // The clock goes back to where the old document was good; the device remembers the newest moment that was signed.
    world.now = start().plus_secs(DAY);
    world.power_cycle();
    world.desire(yesterday);
    world.run_for(60);
    assert_eq!((world.state().generation.0, world.version().as_str()), (2, "2.0.0"));
    assert!(world.logged("expired") && !clock_is_sane(&world));
}

#[test]
fn metadata_that_expired_while_the_device_was_off_blocks_what_is_new_and_stops_nothing() {
    let mut world = World::settled(repo());
    world.now = start().plus_secs(3 * DAY);
    world.power_cycle();
    world.run_for(10);
    assert_eq!((world.version().as_str(), world.phase()), ("1.0.0", Phase::Committed), "a good model goes on");
    world.desire(world.repo.install(2, "2.0.0"));
    world.run_for(30);
    assert_eq!((world.phase(), world.code().as_str(), world.version().as_str()), (Phase::Refused, "metadata-expired", "1.0.0"));
    assert!(world.state().conditions.iter().any(|c| c.kind == "MetadataFresh" && !c.holds), "and it says so");
}

#[test]
fn what_a_lost_director_key_said_of_the_time_is_bounded_and_goes_with_the_key() {
    let mut world = World::settled(repo());
    let far = start().plus_secs(8_000 * YEAR);
    let mut assignment = world.repo.assignment(2, Intent::Install, Some("2.0.0"));
    assignment.issued_at = far;
    world.desire(world.repo.sign(&assignment, Some("2.0.0")));
    world.run_for(10);
    assert_eq!(world.state().generation.0, 2, "the thief's choice among approved releases is followed");
    let believed = world.agent.clock.trusted();
    assert!(believed < start().plus_secs(3 * YEAR), "but not its year: {believed}");
    world.power_cycle();
    assert!(world.agent.clock.trusted() <= believed.plus_secs(60));
    // The key is changed; from then on the device goes by its clock and by what the new key says.
    let fresh = leeway_protocol::trust::keyring::SigningKey::from_seed(&[201; 32]);
    let roots: Vec<_> = ["root-1", "root-2"].iter().map(|name| world.repo.keys.key(name).unwrap().clone()).collect();
    let old = leeway_protocol::trust::tuf::RootChain::new(&world.repo.keys.director_root, None).unwrap();
    let next = leeway_protocol::trust::repository::RootBuilder::after(old.root(), start().plus_secs(2 * YEAR))
        .role("targets", &[fresh.public()], 1)
        .sign(&roots.iter().collect::<Vec<_>>())
        .unwrap();
    world.repo.files.insert("director/2.root.json".to_owned(), next);
    world.repo.signer.director = fresh;
    world.desire(world.repo.install(3, "3.0.0"));
    world.run_until(600, |w| w.phase() == Phase::Committed && w.version() == "3.0.0");
    assert!(world.agent.clock.trusted() < start().plus_secs(DAY));
    world.power_cycle();
    world.run_for(3);
    assert!(world.agent.clock.trusted() < start().plus_secs(DAY), "and over a restart");
}

#[test]
fn a_release_may_go_down_to_the_floor_and_no_further() {
    let mut world = World::settled(repo());
    world.repo.policy(|p| p.min_seq = 2);
    for (generation, version) in [(2, "3.0.0"), (3, "2.0.0")] {
        world.desire(world.repo.install(generation, version));
        world.run_until(60, |w| w.phase() == Phase::Committed && w.version() == version);
    }
    world.desire(world.repo.install(4, "1.0.0"));
    world.run_for(30);
    assert_eq!((world.phase(), world.code().as_str(), world.version().as_str()), (Phase::Refused, "below-floor", "2.0.0"));
    world.desire(world.repo.install(5, "3.0.0"));
    world.run_until(60, |w| w.phase() == Phase::Committed && w.version() == "3.0.0");
}
