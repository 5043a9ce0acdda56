//! Files that rot or that the disk refuses to give: what is there twice heals the other, and what is lost does not open a way back.
use leeway_protocol::reported::Phase;

use super::repo::{Repo, start};
use super::world::World;
use crate::action::{Dir, DiskOp, DiskPath};
use crate::event::Event;

fn repo() -> Repo {
    let mut repo = Repo::new();
    repo.release("1.0.0", 1, "good");
    repo.release("2.0.0", 2, "good");
    repo
}

fn tuf(name: &str) -> DiskPath {
    DiskPath::tuf(name).unwrap()
}

#[test]
fn roots_lie_there_twice_and_either_copy_will_do() {
    let copies = [DiskPath::image_root(), DiskPath::enrolled_director_root(), tuf("root.json"), DiskPath::director_root()];
    for path in copies {
        let mut world = World::settled(repo());
        let whole = world.disk.read(&path).unwrap_or_else(|| panic!("{path} is not there")).to_vec();
        world.disk.rot(&path);
        world.power_cycle();
        world.run_for(3);
        assert_eq!(world.version(), "1.0.0", "{path}");
        world.desire(world.repo.install(2, "2.0.0"));
        world.run_until(60, |w| w.version() == "2.0.0" && w.phase() == Phase::Committed);
        if path.dir() == Dir::Roots {
            assert!(world.logged("takes its place"), "{path}: {:?}", world.log);
        } else {
            assert_eq!(world.disk.read(&path), Some(whole.as_slice()), "{path} is written again");
        }
    }
}

#[test]
fn metadata_that_rotted_is_not_replaced_by_an_older_one() {
    let older = {
        let mut repo = Repo::new();
        repo.release("1.0.0", 1, "good");
        repo.files
    };
    for rotten in [&["timestamp.json", "snapshot.json", "targets.json", "rain.json"][..], &["timestamp.json", "snapshot.json"]] {
        let mut world = World::settled(repo());
        rotten.iter().for_each(|name| world.disk.rot(&tuf(name)));
        let newest = std::mem::replace(&mut world.repo.files, older.clone());
        world.power_cycle();
        world.desire(world.repo.install(2, "2.0.0"));
        world.run_for(60);
        assert_eq!(world.version(), "1.0.0");
        assert!(world.logged("was accepted before its file was lost"), "{rotten:?}: {:?}", world.log);
        assert_eq!(world.state().trusted.timestamp, 0, "nothing of it is believed");
        world.repo.files = newest;
        world.run_until(1_000, |w| w.version() == "2.0.0" && w.phase() == Phase::Committed);
    }
}

#[test]
fn a_message_that_the_disk_refuses_to_give_is_sent_later() {
    let mut world = World::settled(repo());
    world.receipts = false;
    world.broker = false;
    world.run_for(1);
    world.desire(world.repo.install(2, "2.0.0"));
    world.broker = true;
    world.run_until(60, |w| !w.disk.paths(Dir::Outbox).is_empty());
    let message = world.disk.paths(Dir::Outbox).remove(0);
    let refuse = |world: &mut World| world.feed(Event::Read { path: message.clone(), result: Err("I/O error".to_owned()) });
    refuse(&mut world);
    assert!(world.logged("I/O error; it is tried again"), "{:?}", world.log);
    assert!(world.disk.read(&message).is_some() && world.state().dropped == 0);
    // A sector that is gone for good: it is given up in the end.
    for _ in 0..40 {
        world.run_for(400);
        refuse(&mut world);
    }
    assert!(world.disk.read(&message).is_none() && world.state().dropped == 1, "{:?}", world.log);
}

#[test]
fn an_assignment_that_came_under_a_clock_in_2099_is_followed_when_the_clock_is_right() {
    let mut world = World::new(repo());
    world.now = start().plus_secs(73 * 365 * 86_400);
    world.boot();
    world.desire(world.repo.install(1, "1.0.0"));
    world.run_for(60);
    assert!(world.version().is_empty() && world.logged("expired"), "by 2099 all of it is over");
    // Set right while it runs and stays connected: nobody sends it again.
    world.now = start().plus_secs(60);
    world.feed(Event::Tick);
    world.run_until(600, |w| w.phase() == Phase::Committed && w.version() == "1.0.0");
}

#[test]
fn what_the_disk_would_not_remove_is_removed_later() {
    let mut world = World::settled(repo());
    world.receipts = false;
    world.desire(world.repo.install(2, "2.0.0"));
    world.run_until(60, |w| w.phase() == Phase::Committed && w.version() == "2.0.0" && !w.disk.paths(Dir::Outbox).is_empty());
    let waiting = world.disk.paths(Dir::Outbox);
    let numbers: Vec<(u64, u64)> = waiting.iter().filter_map(DiskPath::as_outbox).map(|name| (name.boot.0, name.counter)).collect();
    world.disk.keeps = true;
    let receipt = world.receipt(&numbers);
    world.feed(Event::Receipt(receipt));
    world.run_for(20);
    assert_eq!(world.disk.paths(Dir::Outbox), waiting);
    assert!(world.logged("the disk refused to remove outbox/"), "{:?}", world.log);
    world.disk.keeps = false;
    world.run_for(10);
    assert_eq!(world.disk.paths(Dir::Outbox), []);
    world.check_rest();
    // A disk that never lets go costs a bound of tries, and nothing else.
    world.desire(world.repo.install(3, "1.0.0"));
    world.disk.keeps = true;
    world.run_until(600, |w| w.phase() == Phase::Committed && w.version() == "1.0.0");
    world.run_for(3_000);
    let refused = world.log.iter().filter(|(_, sentence)| sentence.contains("refused to remove")).count();
    world.run_for(600);
    assert_eq!(world.log.iter().filter(|(_, sentence)| sentence.contains("refused to remove")).count(), refused, "it tries for ever");
}

#[test]
fn a_committed_release_whose_files_are_gone_is_installed_again_by_the_same_assignment() {
    let mut world = World::settled(repo());
    for blob in world.disk.paths(Dir::Blobs) {
        world.disk.perform(&DiskOp::Remove { path: blob }).unwrap();
    }
    world.disk.perform(&DiskOp::SyncDir { dir: Dir::Blobs }).unwrap();
    world.power_cycle();
    assert!(world.logged("files of a release are missing"));
    world.run_until(60, |w| w.phase() == Phase::Committed && w.version() == "1.0.0");
    assert_eq!(world.state().generation.0, 1);
    // Where it was refused or taken back before, nothing is begun anew.
    world.power_cycle();
    world.run_for(5);
    assert_eq!((world.version().as_str(), world.phase()), ("1.0.0", Phase::Committed));
}
