//! One device, one assignment after another: what is accepted, what is refused and why, what is taken back.
use leeway_protocol::assignment::Intent;
use leeway_protocol::digest::Digest;
use leeway_protocol::manifest::{Manifest, TargetCustom};
use leeway_protocol::reason::Code;
use leeway_protocol::reported::Phase;

use super::repo::{Repo, start};
use super::world::World;
use crate::action::DiskPath;
use crate::deployment::Deployment;
use crate::event::Event;

fn repo(behaviour: &str) -> Repo {
    let mut repo = Repo::new();
    repo.release("1.0.0", 1, "good");
    repo.release("2.0.0", 2, behaviour);
    repo
}

#[test]
fn a_release_goes_all_the_way_and_says_so() {
    let mut world = World::settled(repo("good"));
    let mut phases = vec![world.phase()];
    world.desire(world.repo.install(2, "2.0.0"));
    for _ in 0..20 {
        world.run_for(1);
        if *phases.last().unwrap() != world.phase() {
            phases.push(world.phase());
        }
    }
    assert_eq!(phases, [Phase::Committed, Phase::Shadowing, Phase::Probation, Phase::Committed]);
    world.run_for(65);
    let reported = world.last_reported();
    let active = reported.active.unwrap();
    assert_eq!((active.version.as_str(), active.manifest), ("2.0.0", world.manifest_of("2.0.0")));
    assert!(active.golden.is_some() && active.inferences > 0);
    assert_eq!(reported.last_known_good, Some(world.manifest_of("1.0.0")));
    assert_eq!((reported.generation.0, reported.phase, reported.outbox, reported.dropped), (2, Phase::Committed, 0, 0));
    assert!(reported.shadow.unwrap().compared >= 20);
    assert!(reported.conditions.iter().all(|c| c.holds), "{:?}", reported.conditions);
    assert!(reported.trusted.timestamp > 0 && reported.trusted.root == 1);
    let told: Vec<_> = world.events().iter().map(|e| (e.generation.0, e.phase)).collect();
    assert_eq!(told, [(1, Phase::Probation), (1, Phase::Committed), (2, Phase::Probation), (2, Phase::Committed)]);
    world.check_rest();
    world.power_cycle();
    world.run_for(2);
    assert_eq!((world.phase(), world.version()), (Phase::Committed, "2.0.0".to_owned()));
}

/// What happens to release 2.0.0, and what answers afterwards.
fn fate(mut world: World, document: Vec<u8>) -> (Phase, String, World) {
    world.desire(document);
    world.run_for(240);
    let (phase, code) = (world.phase(), world.code());
    (phase, code, world)
}

#[test]
fn every_way_to_fail_has_its_phase_and_code() {
    let table = [
        ("golden-mismatch", Phase::Refused, "golden-mismatch"),
        ("golden-mismatch-later", Phase::Refused, "golden-mismatch"),
        ("prescan-refused", Phase::Refused, "prescan-refused"),
        ("dies-loading", Phase::Refused, "load-failed"),
        ("too-much-memory", Phase::Refused, "too-much-memory"),
        ("too-slow", Phase::Refused, "too-slow"),
        ("loads-slowly", Phase::Refused, "too-slow"),
        ("disagrees", Phase::Refused, "shadow-diverged"),
        ("crashes-beside", Phase::Refused, "crashed"),
        ("crashes", Phase::Reverted, "crashed"),
        ("hangs", Phase::Reverted, "hung"),
        ("nan", Phase::Reverted, "output-not-finite"),
        ("fails", Phase::Reverted, "inference-errors"),
    ];
    for (behaviour, phase, code) in table {
        let world = World::settled(repo(behaviour));
        let document = world.repo.install(2, "2.0.0");
        let (got_phase, got_code, mut world) = fate(world, document.clone());
        assert_eq!((got_phase, got_code.as_str()), (phase, code), "{behaviour}: {:#?}", world.log);
        assert_eq!(world.version(), "1.0.0", "{behaviour}");
        assert_eq!(world.last_reported().reason.unwrap().code.as_str(), code);
        let last = world.events().pop().unwrap();
        assert_eq!((last.phase, last.manifest), (phase, Some(world.manifest_of("2.0.0"))), "{behaviour}");
        world.check_rest();

        // The same document again, also after a restart, changes nothing and runs nothing.
        let runs = world.answered.len();
        world.desire(document);
        world.run_for(30);
        assert!(world.logged("already failed on this device"), "{behaviour}");
        world.power_cycle();
        world.run_for(200);
        assert_eq!((world.phase(), world.code().as_str(), world.version().as_str()), (phase, code, "1.0.0"), "{behaviour}");
        assert_eq!(world.answered.len(), runs + 1, "{behaviour}: only the restart of the good model");

        // A newer assignment may try again.
        world.desire(world.repo.install(3, "2.0.0"));
        world.run_for(240);
        assert_eq!((world.phase(), world.state().generation.0), (phase, 3), "{behaviour}");
    }
}

#[test]
fn a_runner_that_lies_about_the_model_is_not_believed() {
    let (phase, code, world) = {
        let world = World::settled(repo("says-another"));
        let document = world.repo.install(2, "2.0.0");
        fate(world, document)
    };
    assert_eq!((phase, code.as_str(), world.version().as_str()), (Phase::Refused, "digest-mismatch", "1.0.0"));
}

#[test]
fn what_is_signed_wrongly_or_not_allowed_is_refused() {
    type Spoil = fn(&mut Repo);
    let table: [(&str, Spoil, &str); 12] = [
        ("a flipped byte in the model", |r| flip(r, "model"), "digest-mismatch"),
        ("a flipped byte in the manifest", |r| flip(r, "manifest"), "digest-mismatch"),
        ("a longer model", |r| r.blobs.values_mut().filter(|b| b.starts_with(b"2.0.0")).for_each(|b| b.push(0)), "length-mismatch"),
        ("a stranger signs the line's role", stranger_signs, "signature-invalid"),
        ("the timestamp is rubbish", |r| drop(r.files.insert("timestamp.json".into(), b"{}".to_vec())), "signature-invalid"),
        ("an old timestamp is replayed", replay_timestamp, "metadata-rollback"),
        ("nothing is served", |r| r.files.clear(), "metadata-unavailable"),
        ("the models are gone", |r| r.blobs.clear(), "download-failed"),
        ("the release is withdrawn", withdraw, "not-listed"),
        ("the model is revoked", |r| revoke(r, "2.0.0"), "revoked"),
        ("the floor is above it", |r| r.policy(|p| p.min_seq = 3), "below-floor"),
        ("the trainer has no grant any more", |r| r.policy(|p| p.trainer = None), "not-listed"),
    ];
    for (what, spoil, code) in table {
        let mut repo = repo("good");
        repo.release_with("rain-auto", "auto-3", 3, "good", |_, _| {});
        let mut world = World::settled(repo);
        let version = if what.contains("trainer") { "auto-3" } else { "2.0.0" };
        let document = world.repo.install(2, version);
        spoil(&mut world.repo);
        world.desire(document);
        world.run_for(900);
        assert_eq!((world.phase(), world.code().as_str()), (Phase::Refused, code), "{what}: {:#?}", world.log);
        assert_eq!(world.version(), "1.0.0", "{what}");
        world.check_rest_of_blobs();
    }
}

impl World {
    fn check_rest_of_blobs(&self) {
        assert!(self.disk.paths(crate::action::Dir::Blobs).len() <= 3);
    }
}

fn flip(repo: &mut Repo, what: &str) {
    let target = repo.targets["2.0.0"].sha256;
    for (digest, bytes) in &mut repo.blobs {
        let is_model = *digest == target;
        let is_manifest = bytes.starts_with(b"{") && bytes.windows(7).any(|w| w == b"\"2.0.0\"");
        if (what == "model" && is_model) || (what == "manifest" && is_manifest) {
            bytes[8] ^= 1;
        }
    }
}

fn revoke(repo: &mut Repo, version: &str) {
    let digest = repo.targets[version].sha256;
    repo.policy(|p| {
        p.revoked.insert(digest);
    });
}

fn stranger_signs(repo: &mut Repo) {
    let newest = repo.files.keys().filter(|n| n.ends_with(".rain.json")).max().unwrap().clone();
    // The thief holds the online keys, so the snapshot lists his file properly; the line's key he does not have.
    let bytes = repo.files[&newest].clone();
    let text = String::from_utf8(bytes).unwrap();
    let at = text.find("\"sig\":\"").unwrap() + 7;
    let mut forged = text.into_bytes();
    forged[at] = if forged[at] == b'a' { b'b' } else { b'a' };
    repo.list_anyway("rain", &newest, forged);
}

fn replay_timestamp(repo: &mut Repo) {
    // Version 1 of the same repository, signed by the same keys: the ceremony is deterministic.
    repo.files.insert("timestamp.json".to_owned(), Repo::new().files["timestamp.json"].clone());
}

fn withdraw(repo: &mut Repo) {
    let role = repo.state.role("rain").unwrap();
    let path = repo.targets["2.0.0"].path.clone();
    let builder = leeway_protocol::trust::repository::RoleBuilder::after(&role, false, start().plus_secs(86_400 * 30));
    let bytes = builder.withdraw(&path).sign(&[repo.keys.key("rain").unwrap()]).unwrap();
    let signer = repo.signer.clone();
    repo.state.accept_role("rain", &bytes, &signer, start()).unwrap();
    repo.files = repo.state.files().clone();
}

#[test]
fn a_manifest_must_agree_with_its_target_in_every_point() {
    type Spoil = fn(&mut Manifest, &mut TargetCustom);
    let table: [(&str, Spoil, &str); 6] = [
        ("another seq", |m, _| m.seq = 9, "manifest-invalid"),
        ("another version", |m, _| m.version = "9.9.9".parse().unwrap(), "manifest-invalid"),
        ("another line", |m, _| m.line = "wind".parse().unwrap(), "manifest-invalid"),
        ("another model", |m, _| m.model.length += 1, "manifest-invalid"),
        ("other inputs", |m, c| (m.golden.vectors[0].inputs[0].name, m.inputs[0].name, c.seq) = ("z".into(), "z".into(), 3), "io-mismatch"),
        ("no golden vectors", |m, _| m.golden.vectors.clear(), "manifest-invalid"),
    ];
    for (what, spoil, code) in table {
        let mut repo = repo("good");
        repo.release_with("rain", "3.0.0", 3, "good", spoil);
        let mut world = World::settled(repo);
        world.desire(world.repo.install(2, "3.0.0"));
        world.run_for(60);
        assert_eq!((world.phase(), world.code().as_str(), world.version().as_str()), (Phase::Refused, code, "1.0.0"), "{what}");
    }
}

#[test]
fn a_trainers_release_runs_only_with_the_granted_inputs_and_outputs() {
    let mut granted = repo("good");
    granted.release_with("rain-auto", "auto-3", 3, "good", |_, _| {});
    let mut world = World::settled(granted);
    world.desire(world.repo.install(2, "auto-3"));
    world.run_until(60, |w| w.phase() == Phase::Committed && w.state().generation.0 == 2);
    assert_eq!(world.version(), "auto-3");

    // The controller would not list it; a thief of the controller does.
    let mut repo = repo("good");
    repo.policy(|p| p.trainer.as_mut().unwrap().io = Digest::of(b"another signature"));
    let released =
        std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| repo.release_with("rain-auto", "auto-4", 4, "good", |_, _| {})));
    if released.is_ok() {
        let mut world = World::settled(repo);
        world.desire(world.repo.install(2, "auto-4"));
        world.run_for(60);
        assert_eq!((world.phase(), world.code().as_str()), (Phase::Refused, "io-mismatch"));
    }
}

#[test]
fn a_rollback_needs_no_network_and_no_shadow() {
    let mut world = World::settled(repo("good"));
    world.desire(world.repo.install(2, "2.0.0"));
    world.run_until(60, |w| w.phase() == Phase::Committed && w.version() == "2.0.0");
    world.run_for(2);
    world.http = false;
    let downloads = world.downloads;
    world.desire(world.repo.rollback(3, "1.0.0"));
    world.run_for(2);
    assert_eq!((world.phase(), world.version().as_str(), world.downloads), (Phase::Committed, "1.0.0", downloads));
    assert_eq!(world.answered.len(), 3, "1.0.0, 2.0.0, 1.0.0: no throw-away run counts here");
    // And forward again, which is an install and needs the metadata.
    world.desire(world.repo.install(4, "2.0.0"));
    world.run_for(5);
    assert_eq!((world.phase(), world.code().as_str()), (Phase::Waiting, "metadata-unavailable"));
    world.http = true;
    world.run_until(120, |w| w.version() == "2.0.0" && w.phase() == Phase::Committed);
    assert_eq!(world.downloads, downloads, "both releases lie in the slots");
}

/// Without the list the device would, after one bad hour, fall back to what the whole fleet has just left.
#[test]
fn what_failed_in_the_fleet_is_not_fallen_back_to() {
    for (avoid, answers) in [(true, ""), (false, "2.0.0")] {
        let mut world = World::settled(repo("good"));
        world.desire(world.repo.install(2, "2.0.0"));
        world.run_until(60, |w| w.phase() == Phase::Committed && w.version() == "2.0.0");
        let mut back = world.repo.assignment(3, Intent::Rollback, Some("1.0.0"));
        back.avoid = if avoid { vec![world.manifest_of("2.0.0")] } else { Vec::new() };
        world.desire(world.repo.sign(&back, Some("1.0.0")));
        world.run_until(60, |w| w.phase() == Phase::Committed && w.version() == "1.0.0");
        world.run_for(2);
        world.check_rest();
        for _ in 0..5 {
            world.kill_runner();
            world.run_for(20);
        }
        assert_eq!((world.phase(), world.version().as_str()), (Phase::Reverted, answers), "avoid: {avoid}");
        // A power cut does not make it forget.
        world.power_cycle();
        world.run_for(5);
        assert_eq!(world.version(), answers, "avoid: {avoid}");
    }
}

#[test]
fn a_rollback_in_the_middle_of_a_trial_is_immediate() {
    let mut world = World::settled(repo("good"));
    world.desire(world.repo.install(2, "2.0.0"));
    world.run_until(60, |w| w.phase() == Phase::Probation);
    world.http = false;
    world.desire(world.repo.rollback(3, "1.0.0"));
    world.run_for(1);
    assert_eq!((world.phase(), world.version().as_str()), (Phase::Committed, "1.0.0"));
    let told: Vec<_> = world.events().iter().map(|e| (e.generation.0, e.phase, e.reason.as_ref().map(|r| r.code.clone()))).collect();
    assert!(told.contains(&(2, Phase::Reverted, Some(Code::Superseded))), "{told:?}");
}

/// Found by seed 111 of the simulation: the runner was still loading what the older assignment asked for, answered with it, and
/// the agent, content with what had answered until then, let it.
#[test]
fn a_change_of_mind_while_the_runner_loads_leaves_the_right_model_answering() {
    let mut world = World::settled(repo("good"));
    world.desire(world.repo.install(2, "2.0.0"));
    world.run_until(60, |w| w.phase() == Phase::Committed && w.version() == "2.0.0");
    world.run_for(2);
    world.desire(world.repo.rollback(3, "1.0.0"));
    world.desire(world.repo.rollback(4, "2.0.0"));
    world.run_for(3);
    assert_eq!((world.phase(), world.version().as_str(), world.state().generation.0), (Phase::Committed, "2.0.0", 4));
    assert_eq!(world.really_answers(), Some(world.manifest_of("2.0.0")));
    world.check_rest();
}

#[test]
fn a_rollback_to_what_rotted_on_disk_downloads_it_again() {
    let mut world = World::settled(repo("good"));
    world.desire(world.repo.install(2, "2.0.0"));
    world.run_until(60, |w| w.phase() == Phase::Committed && w.version() == "2.0.0");
    let model = world.repo.targets["1.0.0"].sha256;
    world.disk.rot(&DiskPath::blob(&model));
    world.desire(world.repo.rollback(3, "1.0.0"));
    world.run_until(90, |w| w.phase() == Phase::Committed && w.version() == "1.0.0");
    world.run_for(2);
    world.check_rest();
}

#[test]
fn a_newer_assignment_ends_the_older_one_wherever_it_is() {
    type There = fn(&World) -> bool;
    let reached: [(&str, There); 5] = [
        ("waiting", |w| w.phase() == Phase::Waiting),
        ("self-testing", |w| w.phase() == Phase::SelfTesting),
        ("shadowing", |w| w.phase() == Phase::Shadowing),
        ("probation", |w| w.phase() == Phase::Probation),
        ("refused", |w| w.phase() == Phase::Refused),
    ];
    for (what, there) in reached {
        let behaviour = match what {
            "self-testing" => "loads-forever",
            "refused" => "golden-mismatch",
            _ => "good",
        };
        let mut repo = repo(behaviour);
        repo.release("3.0.0", 3, "good");
        let mut world = World::settled(repo);
        let mut assignment = world.repo.assignment(2, Intent::Install, Some("2.0.0"));
        if what == "waiting" {
            assignment.spread_ms = 1_000_000;
        }
        world.desire(world.repo.sign(&assignment, Some("2.0.0")));
        world.run_until(60, there);
        world.desire(world.repo.install(3, "3.0.0"));
        world.run_until(120, |w| w.phase() == Phase::Committed && w.version() == "3.0.0");
        world.run_for(2);
        world.check_rest();
        // The old one, replayed from the broker, is ignored.
        world.desire(world.repo.install(2, "2.0.0"));
        world.run_for(30);
        assert_eq!((world.version().as_str(), world.state().generation.0), ("3.0.0", 3), "{what}");
    }
}

#[test]
fn hold_keeps_what_runs_and_lets_a_trial_end() {
    let mut world = World::settled(repo("good"));
    world.desire(world.repo.assign(2, Intent::Hold, None));
    world.run_for(3);
    assert_eq!((world.phase(), world.version().as_str(), world.state().generation.0), (Phase::Idle, "1.0.0", 2));
    world.desire(world.repo.install(3, "2.0.0"));
    world.run_until(60, |w| w.phase() == Phase::Probation);
    world.desire(world.repo.assign(4, Intent::Hold, None));
    world.run_until(60, |w| w.phase() == Phase::Committed);
    assert_eq!((world.version().as_str(), world.state().generation.0), ("2.0.0", 4));
}

#[test]
fn assignments_of_strangers_for_others_or_for_yesterday_change_nothing() {
    let mut world = World::settled(repo("good"));
    let good = world.repo.install(2, "2.0.0");
    let mut forged = good.clone();
    let at = forged.windows(7).position(|w| w == b"\"sig\":\"").unwrap() + 8;
    forged[at] ^= 1;
    let mut for_another = world.repo.assignment(2, Intent::Install, Some("2.0.0"));
    for_another.device = "dev-2".parse().unwrap();
    let for_another = world.repo.sign(&for_another, Some("2.0.0"));
    let mut inner_differs = world.repo.assignment(2, Intent::Install, Some("2.0.0"));
    inner_differs.release = world.repo.assignment(2, Intent::Install, Some("1.0.0")).release;
    let inner_differs = world.repo.sign(&inner_differs, Some("2.0.0"));
    for document in [forged, for_another, inner_differs, world.repo.install(1, "2.0.0"), b"{}".to_vec(), vec![], vec![b'['; 200_000]] {
        world.desire(document);
        world.run_for(20);
        assert_eq!((world.phase(), world.version().as_str(), world.state().generation.0), (Phase::Committed, "1.0.0", 1));
    }
    // Expired: eight days later, by a clock that the device believes.
    world.now = world.now.plus_secs(8 * 86_400);
    world.desire(good);
    world.run_for(20);
    assert_eq!((world.version().as_str(), world.state().generation.0), ("1.0.0", 1));
    assert!(world.logged("expired"));
}

#[test]
fn expired_metadata_installs_nothing_and_stops_nothing() {
    let mut world = World::settled(repo("good"));
    world.run_for(1);
    world.now = start().plus_secs(2 * 86_400);
    world.desire(world.repo.install(2, "2.0.0"));
    world.run_for(30);
    assert_eq!((world.phase(), world.code().as_str(), world.version().as_str()), (Phase::Refused, "metadata-expired", "1.0.0"));
    let fresh = world.state().conditions.into_iter().find(|c| c.kind == "MetadataFresh").unwrap();
    assert!(!fresh.holds && fresh.message.contains("expired"), "{}", fresh.message);
    // The repository is signed again: the device finds out by itself.
    let signer = world.repo.signer.clone();
    world.repo.state.refresh(&signer, world.now).unwrap();
    world.repo.files = world.repo.state.files().clone();
    world.run_until(1_000, |w| w.phase() == Phase::Committed && w.version() == "2.0.0");
}

#[test]
fn a_revoked_release_stops_at_the_next_refresh() {
    for (what, trial) in [("committed", false), ("on trial", true)] {
        let mut world = World::settled(repo("good"));
        world.desire(world.repo.install(2, "2.0.0"));
        let wanted = if trial { Phase::Probation } else { Phase::Committed };
        world.run_until(60, |w| w.phase() == wanted && w.state().generation.0 == 2);
        revoke(&mut world.repo, "2.0.0");
        if trial {
            // A trial ends before the next refresh comes by itself; this one is asked for.
            world.agent.refresh(None);
            world.feed(Event::Tick);
        }
        world.run_until(6 * 3_600, |w| w.version() == "1.0.0");
        assert_eq!((world.phase(), world.code().as_str()), (Phase::Reverted, "revoked"), "{what}");
        world.forbidden.insert(world.manifest_of("2.0.0"));
        world.power_cycle();
        world.run_for(10);
        assert_eq!(world.version(), "1.0.0", "{what}");
        // The last release is revoked too: nothing answers, and the device says so.
        revoke(&mut world.repo, "1.0.0");
        world.run_until(6 * 3_600, |w| w.version().is_empty());
        assert_eq!(world.really_answers(), None);
        assert!(world.state().conditions.iter().any(|c| c.kind == "ModelVerified" && !c.holds));
    }
}

#[test]
fn the_floor_is_taken_over_only_after_a_commit() {
    let mut world = World::settled(repo("nan"));
    world.repo.release("3.0.0", 3, "good");
    world.repo.policy(|p| p.min_seq = 2);
    world.desire(world.repo.install(2, "2.0.0"));
    world.run_until(60, |w| w.phase() == Phase::Reverted);
    assert_eq!(world.version(), "1.0.0", "a floor that no release has proved yet walls nothing off");
    world.desire(world.repo.install(3, "3.0.0"));
    world.run_until(60, |w| w.phase() == Phase::Committed && w.version() == "3.0.0");
    assert_eq!(world.state().last_known_good, None, "below the floor now");
    // From now on the device itself keeps the floor, whatever the metadata says.
    world.repo.policy(|p| p.min_seq = 0);
    world.power_cycle();
    world.desire(world.repo.install(4, "1.0.0"));
    world.run_for(60);
    assert_eq!((world.phase(), world.code().as_str()), (Phase::Refused, "below-floor"));
}

#[test]
fn crashes_outside_a_trial_are_borne_until_they_come_in_a_burst() {
    let mut world = World::settled(repo("good"));
    world.desire(world.repo.install(2, "2.0.0"));
    world.run_until(60, |w| w.phase() == Phase::Committed && w.version() == "2.0.0");
    for _ in 0..10 {
        world.kill_runner();
        world.run_for(300);
        assert_eq!((world.phase(), world.version().as_str()), (Phase::Committed, "2.0.0"));
    }
    world.run_for(600);
    for _ in 0..5 {
        world.kill_runner();
        world.run_for(15);
    }
    assert_eq!((world.phase(), world.code().as_str(), world.version().as_str()), (Phase::Reverted, "crashed", "1.0.0"));
    let told = world.events().pop().unwrap();
    assert_eq!((told.phase, told.manifest), (Phase::Reverted, Some(world.manifest_of("2.0.0"))));
    for _ in 0..5 {
        world.kill_runner();
        world.run_for(15);
    }
    assert_eq!((world.version().as_str(), world.really_answers()), ("", None));
}

#[test]
fn a_runner_that_cannot_begin_blames_no_release() {
    let mut world = World::settled(repo("good"));
    world.port_taken = true;
    world.kill_runner();
    world.run_for(900);
    assert_eq!((world.phase(), world.really_answers()), (Phase::Committed, None), "waits for the port, however long");
    world.port_taken = false;
    world.run_for(60);
    assert_eq!((world.phase(), world.version().as_str()), (Phase::Committed, "1.0.0"));

    let mut world = World::new(repo("good"));
    world.port_taken = true;
    world.boot();
    world.desire(world.repo.install(1, "1.0.0"));
    world.run_for(900);
    assert_eq!(world.phase(), Phase::Probation, "no start on trial was used up");
    world.port_taken = false;
    world.run_until(120, |w| w.phase() == Phase::Committed && w.version() == "1.0.0");
}

#[test]
fn the_factory_release_is_the_last_resort_and_is_tested_at_every_boot() {
    let mut world = World::new(repo("good"));
    let model = b"0.0.1 good".to_vec();
    let manifest = super::repo::manifest("rain", "0.0.1", 0, &model);
    world.disk.put(DiskPath::factory_model(), model);
    world.disk.put(DiskPath::factory_manifest(), manifest.to_bytes());
    world.boot();
    world.run_for(2);
    assert_eq!((world.phase(), world.version().as_str()), (Phase::Idle, "0.0.1"));
    world.desire(world.repo.install(1, "1.0.0"));
    world.run_until(60, |w| w.version() == "1.0.0" && w.phase() == Phase::Committed);
    let model = world.repo.targets["1.0.0"].sha256;
    world.disk.rot(&DiskPath::blob(&model));
    world.power_cycle();
    world.run_for(3);
    assert_eq!((world.phase(), world.code().as_str(), world.version().as_str()), (Phase::Reverted, "digest-mismatch", "0.0.1"));
    world.disk.rot(&DiskPath::factory_model());
    world.power_cycle();
    world.run_for(3);
    assert_eq!(world.version(), "", "nothing is left that may answer");
    world.desire(world.repo.install(2, "1.0.0"));
    world.run_until(60, |w| w.version() == "1.0.0" && w.phase() == Phase::Committed);
}

#[test]
fn no_comparison_in_time_does_not_stop_a_release() {
    let (phase, _, world) = {
        let world = World::settled(repo("no-comparison"));
        let document = world.repo.install(2, "2.0.0");
        fate(world, document)
    };
    assert_eq!((phase, world.version().as_str()), (Phase::Committed, "2.0.0"));
}

#[test]
fn a_clock_that_jumps_makes_no_hang_and_passes_no_trial() {
    let mut world = World::settled(repo("good"));
    world.desire(world.repo.install(2, "2.0.0"));
    world.run_until(60, |w| w.phase() == Phase::Probation);
    world.now = world.now.plus_secs(20_000);
    world.feed(Event::Tick);
    assert!(matches!(world.agent.deployment(), Deployment::Probation(_)), "time alone is no inference");
    world.now = start().plus_secs(-40 * 365 * 86_400);
    world.feed(Event::Tick);
    world.run_until(60, |w| w.phase() == Phase::Committed);
    assert!(world.state().conditions.iter().any(|c| c.kind == "ClockSane" && !c.holds));
    assert_eq!(world.version(), "2.0.0");
}

#[test]
fn downloads_are_spread_by_device_and_generation_only() {
    let mut waits = Vec::new();
    for _ in 0..2 {
        let mut world = World::settled(repo("good"));
        let mut assignment = world.repo.assignment(2, Intent::Install, Some("2.0.0"));
        assignment.spread_ms = 600_000;
        world.desire(world.repo.sign(&assignment, Some("2.0.0")));
        let from = world.now;
        world.run_until(601, |w| w.phase() != Phase::Waiting);
        waits.push(world.now.millis_since(from));
    }
    assert_eq!(waits[0], waits[1]);
    assert!(waits[0] > 1_000 && waits[0] < 600_000, "{waits:?}");
}

#[test]
fn a_rotated_director_key_is_found_by_the_root() {
    let mut world = World::settled(repo("good"));
    let fresh = leeway_protocol::trust::keyring::SigningKey::from_seed(&[200; 32]);
    let roots: Vec<_> = ["root-1", "root-2", "root-3"].iter().map(|name| world.repo.keys.key(name).unwrap().clone()).collect();
    let old: leeway_protocol::trust::tuf::RootChain =
        leeway_protocol::trust::tuf::RootChain::new(&world.repo.keys.director_root, None).unwrap();
    let next = leeway_protocol::trust::repository::RootBuilder::after(old.root(), start().plus_secs(86_400 * 300))
        .role("targets", &[fresh.public()], 1)
        .sign(&roots.iter().collect::<Vec<_>>())
        .unwrap();
    world.repo.signer.director = fresh;
    world.receipts = false;
    let document = world.repo.install(2, "2.0.0");
    world.desire(document.clone());
    world.run_for(5);
    assert_eq!(world.state().generation.0, 1);
    world.repo.files.insert("director/2.root.json".to_owned(), next);
    world.desire([document.as_slice(), b" "].concat());
    world.run_until(60, |w| w.version() == "2.0.0" && w.phase() == Phase::Committed);
    world.power_cycle();
    world.run_for(3);
    assert_eq!((world.phase(), world.version().as_str()), (Phase::Committed, "2.0.0"));
    // The old key is worth nothing any more.
    world.repo.signer.director = world.repo.keys.key("director").unwrap().clone();
    world.desire(world.repo.install(3, "1.0.0"));
    world.run_for(60);
    assert_eq!(world.state().generation.0, 2);
}
