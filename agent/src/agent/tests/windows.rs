//! Maintenance windows: an install waits for its window, a rollback does not, and a device without a clock says so.
use leeway_protocol::assignment::{Intent, Window};
use leeway_protocol::reported::Phase;

use super::repo::{Repo, start};
use super::world::World;

fn repo() -> Repo {
    let mut repo = Repo::new();
    for (version, seq) in [("1.0.0", 1), ("2.0.0", 2), ("3.0.0", 3)] {
        repo.release(version, seq, "good");
    }
    repo
}

/// A window of half an hour that opens `minutes` after the world's beginning.
fn opens_after(minutes: i64) -> Option<Window> {
    let day = |minute: i64| {
        let of_day = (start().as_millis() / 60_000 + minute).rem_euclid(24 * 60);
        format!("{:02}:{:02}", of_day / 60, of_day % 60)
    };
    let json = serde_json::json!({ "from": day(minutes), "to": day(minutes + 30), "utc_offset_minutes": 0 });
    serde_json::from_value(json).unwrap()
}

fn desire(world: &mut World, generation: u64, intent: Intent, version: &str, window: Option<Window>) {
    let mut assignment = world.repo.assignment(generation, intent, Some(version));
    assignment.window = window;
    world.desire(world.repo.sign(&assignment, Some(version)));
}

#[test]
fn an_install_waits_for_its_window_and_says_so() {
    let mut world = World::settled(repo());
    desire(&mut world, 2, Intent::Install, "2.0.0", opens_after(20));
    world.run_for(600);
    assert_eq!((world.phase(), world.code().as_str(), world.version().as_str()), (Phase::Waiting, "maintenance-window", "1.0.0"));
    assert!(world.last_reported().reason.unwrap().detail.contains("it opens in"), "the controller knows why");
    world.power_cycle();
    world.run_for(60);
    assert_eq!((world.phase(), world.version().as_str()), (Phase::Waiting, "1.0.0"), "over a restart too");
    world.run_until(1200, |w| w.phase() == Phase::Committed && w.version() == "2.0.0");
    assert!(world.now.millis_since(start()) >= 20 * 60_000, "not before it opened");
}

#[test]
fn an_open_window_lets_it_begin_at_once_and_a_rollback_never_waits() {
    let mut world = World::settled(repo());
    desire(&mut world, 2, Intent::Install, "2.0.0", opens_after(-10));
    world.run_until(120, |w| w.phase() == Phase::Committed && w.version() == "2.0.0");
    desire(&mut world, 3, Intent::Rollback, "1.0.0", opens_after(600));
    world.run_until(120, |w| w.phase() == Phase::Committed && w.version() == "1.0.0");
    // One that has to be fetched does not wait either.
    desire(&mut world, 4, Intent::Rollback, "3.0.0", opens_after(600));
    world.run_until(120, |w| w.phase() == Phase::Committed && w.version() == "3.0.0");
}

#[test]
fn a_device_whose_clock_cannot_be_trusted_waits_for_one_and_then_refuses() {
    let mut world = World::settled(repo());
    let real = world.now;
    world.now = start().plus_secs(73 * 365 * 86_400);
    desire(&mut world, 2, Intent::Install, "2.0.0", opens_after(-10));
    world.run_for(120);
    assert_eq!((world.phase(), world.code().as_str(), world.version().as_str()), (Phase::Waiting, "clock-untrusted", "1.0.0"));
    world.now = real.plus_secs(120);
    world.run_until(300, |w| w.phase() == Phase::Committed && w.version() == "2.0.0");

    // The clock stays wrong: after a day somebody has to look.
    world.now = start().plus_secs(73 * 365 * 86_400);
    desire(&mut world, 3, Intent::Install, "3.0.0", opens_after(-10));
    world.run_for(60);
    assert_eq!(world.code(), "clock-untrusted");
    for _ in 0..24 * 61 {
        world.now = world.now.plus_secs(60);
        world.run_for(1);
    }
    assert_eq!((world.phase(), world.code().as_str(), world.version().as_str()), (Phase::Refused, "clock-untrusted", "2.0.0"));
}
