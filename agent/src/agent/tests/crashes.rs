//! Power cuts between any two actions, and disks that refuse: whatever happens, the device ends where it was asked to be.
use leeway_protocol::reported::Phase;

use super::disk::Trouble;
use super::repo::Repo;
use super::world::World;
use crate::action::{Dir, DiskPath};

fn repo() -> Repo {
    let mut repo = Repo::new();
    repo.release("1.0.0", 1, "good");
    repo.release("2.0.0", 2, "good");
    repo
}

/// A whole install from the assignment to the commit, cut at every action; then the same for a rollback.
#[test]
fn a_power_cut_at_any_action_of_an_install_converges() {
    let mut cuts = 0;
    for cut in 0.. {
        let mut world = World::settled(repo());
        (world.done, world.dies_after) = (0, Some(cut));
        world.desire(world.repo.install(2, "2.0.0"));
        world.run_until(60, |w| w.version() == "2.0.0" && w.phase() == Phase::Committed);
        world.run_for(2);
        if !world.dead {
            break;
        }
        cuts += 1;
        world.dies_after = None;
        world.power_cycle();
        world.run_for(1);
        assert!(!world.version().is_empty(), "cut {cut}: nothing answers one second after the power is back");
        world.run_until(120, |w| w.version() == "2.0.0" && w.phase() == Phase::Committed);
        world.run_for(3);
        world.check_rest();
        assert_eq!(world.last_reported().generation.0, 2, "cut {cut}");
    }
    assert!(cuts > 80, "only {cuts} cuts: the install does less than it must");
}

#[test]
fn a_power_cut_at_any_action_of_the_first_install_converges() {
    for cut in 0.. {
        let mut world = World::new(repo());
        (world.done, world.dies_after) = (0, Some(cut));
        world.boot();
        world.desire(world.repo.install(1, "1.0.0"));
        world.run_until(60, |w| w.version() == "1.0.0" && w.phase() == Phase::Committed);
        world.run_for(2);
        if !world.dead {
            break;
        }
        world.dies_after = None;
        world.power_cycle();
        world.run_until(120, |w| w.version() == "1.0.0" && w.phase() == Phase::Committed);
        world.run_for(3);
        world.check_rest();
    }
}

#[test]
fn a_power_cut_at_any_action_of_a_rollback_converges_without_a_download() {
    for cut in 0.. {
        let mut world = World::settled(repo());
        world.desire(world.repo.install(2, "2.0.0"));
        world.run_until(60, |w| w.version() == "2.0.0" && w.phase() == Phase::Committed);
        world.run_for(2);
        world.http = false;
        (world.done, world.dies_after) = (0, Some(cut));
        world.desire(world.repo.rollback(3, "1.0.0"));
        world.run_until(60, |w| w.version() == "1.0.0" && w.phase() == Phase::Committed);
        world.run_for(2);
        if !world.dead {
            break;
        }
        world.dies_after = None;
        world.power_cycle();
        world.run_until(60, |w| w.version() == "1.0.0" && w.phase() == Phase::Committed && w.state().generation.0 == 3);
        world.run_for(3);
        world.check_rest();
    }
}

/// A bad release, the agent killed (the disk keeps everything) and the power cut at every action of its failure: the device
/// always ends on the good one and never commits the bad one.
#[test]
fn a_cut_at_any_action_of_a_revert_never_commits_the_bad_release() {
    for power in [false, true] {
        for cut in 0.. {
            let mut repo = Repo::new();
            repo.release("1.0.0", 1, "good");
            repo.release("2.0.0", 2, "nan");
            let mut world = World::settled(repo);
            (world.done, world.dies_after) = (0, Some(cut));
            world.desire(world.repo.install(2, "2.0.0"));
            world.run_until(60, |w| w.phase() == Phase::Reverted);
            world.run_for(2);
            if !world.dead {
                break;
            }
            world.dies_after = None;
            if power {
                world.power_cycle();
            } else {
                world.boot();
            }
            world.run_until(120, |w| w.phase() == Phase::Reverted && w.version() == "1.0.0");
            world.run_for(3);
            world.check_rest();
            assert!(!world.events().iter().any(|e| e.phase == Phase::Committed && e.generation.0 == 2), "cut {cut}");
        }
    }
}

#[test]
fn starts_on_trial_are_used_up_by_power_cuts_too() {
    let mut world = World::settled(repo());
    world.desire(world.repo.install(2, "2.0.0"));
    world.run_until(60, |w| w.phase() == Phase::Probation);
    for _ in 0..2 {
        world.power_cycle();
        world.run_for(1);
        assert_eq!(world.phase(), Phase::Probation);
    }
    world.power_cycle();
    world.run_for(1);
    assert_eq!((world.phase(), world.code().as_str(), world.version().as_str()), (Phase::Reverted, "crashed", "1.0.0"));
}

/// The disk refuses everything, or one directory, for a while, from every second of an install on.
#[test]
fn a_disk_that_refuses_for_a_while_delays_and_breaks_nothing() {
    for trouble in [Trouble::Full, Trouble::Broken] {
        for dir in [None, Some(Dir::Top), Some(Dir::Tuf), Some(Dir::Director), Some(Dir::Blobs), Some(Dir::Staging), Some(Dir::Outbox)] {
            for from in 0..12 {
                let mut world = World::settled(repo());
                if from == 0 {
                    world.disk.trouble = Some((dir, trouble));
                }
                world.desire(world.repo.install(2, "2.0.0"));
                world.run_for(from);
                world.disk.trouble = Some((dir, trouble));
                for _ in 0..20 {
                    world.run_for(1);
                    assert!(world.really_answers().is_some(), "{trouble:?} in {dir:?} from second {from}: nothing answers");
                }
                world.disk.trouble = None;
                world.run_for(1_000);
                let place = format!("{trouble:?} in {dir:?} from second {from}: {:#?}", world.log);
                let ended = (world.phase(), world.version());
                assert!(
                    ended == (Phase::Committed, "2.0.0".to_owned())
                        || (ended == (Phase::Reverted, "1.0.0".to_owned()) && world.code().starts_with("disk-")),
                    "{ended:?} {place}"
                );
                world.check_rest();
                let before = world.state();
                world.power_cycle();
                world.run_for(3);
                assert_eq!(
                    (world.phase(), world.version(), world.state().generation),
                    (before.phase, before.active.unwrap().version.to_string(), before.generation),
                    "{place}"
                );
            }
        }
    }
}

#[test]
fn a_disk_that_refuses_from_the_start_still_serves_and_says_nothing_it_could_repeat() {
    let mut world = World::settled(repo());
    world.run_for(2);
    let (said, boot) = (world.opened.len(), world.state().boot);
    world.disk.trouble = Some((None, Trouble::Full));
    world.power_cycle();
    world.run_for(20);
    assert_eq!(world.version(), "1.0.0");
    assert_eq!(world.opened.len(), said, "nothing is sealed before the number of the start is on disk");
    world.disk.trouble = None;
    world.run_for(20);
    assert!(world.opened.len() > said && world.last_reported().boot > boot);
}

#[test]
fn rotten_documents_cost_nothing_that_matters() {
    let paths = [
        DiskPath::state(),
        DiskPath::counters(),
        DiskPath::desired(),
        DiskPath::tuf("timestamp.json").unwrap(),
        DiskPath::tuf("snapshot.json").unwrap(),
        DiskPath::tuf("targets.json").unwrap(),
        DiskPath::tuf("rain.json").unwrap(),
    ];
    for path in paths {
        let mut world = World::settled(repo());
        world.disk.rot(&path);
        world.power_cycle();
        world.run_for(3);
        assert_eq!((world.version().as_str(), world.state().generation.0), ("1.0.0", 1), "{path}");
        world.desire(world.repo.install(2, "2.0.0"));
        world.run_until(60, |w| w.version() == "2.0.0" && w.phase() == Phase::Committed);
    }
    // Both copies of the state: the assignment is followed again from its signature, and no number is used twice.
    let mut world = World::settled(repo());
    let boot = world.state().boot;
    world.disk.rot(&DiskPath::state());
    world.disk.rot(&DiskPath::counters());
    world.power_cycle();
    assert!(world.logged("a copy of the state was damaged"));
    assert!(world.state().boot.0 > boot.0 + 1_000_000);
    world.run_until(60, |w| w.version() == "1.0.0" && w.phase() == Phase::Committed);
    assert_eq!(world.state().generation.0, 1);
}
