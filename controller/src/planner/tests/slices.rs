//! A version that fails on one part of the fleet only: that part goes back and stays back, the rest goes on, and what is trained from
//! it must pass there first.
use std::sync::Arc;

use super::world::{Takes, World, line, name, quick, version};
use crate::registry::{Slice, VersionStatus};
use crate::rollout::RolloutPolicy;

/// Every fifth of sixty devices is of the revision `b`.
fn fleet() -> World {
    let mut world = World::with(&["coast"], 60);
    for i in 0..60 {
        let mut device = world.state.fleet.device_mut(&name(&format!("coast-{i:02}"))).unwrap();
        device.labels.insert("hw".to_owned(), if i % 5 == 0 { "b" } else { "a" }.to_owned());
        device.labels.insert("site".to_owned(), format!("{}", i % 3));
    }
    world
}

fn by_hardware() -> RolloutPolicy {
    let mut policy = quick();
    policy.stages[0].share = 0.25;
    policy.balance_by = Some("hw".to_owned());
    policy
}

fn of_revision(world: &World, revision: &str) -> Vec<String> {
    let is = |labels: &std::collections::BTreeMap<String, String>| labels.get("hw").is_some_and(|hw| hw == revision);
    world.state.fleet.iter().filter(|d| is(&d.labels)).map(|d| d.id.to_string()).collect()
}

fn running(world: &World, revision: &str, version: &str) -> usize {
    let runs = |id: &String| world.device(id).active().is_some_and(|r| r.version.as_str() == version);
    of_revision(world, revision).iter().filter(|id| runs(id)).count()
}

fn fails_on(world: &mut World, revision: &str, version: &str, how: Takes) {
    for id in of_revision(world, revision) {
        world.takes.insert((id, version.to_owned()), how);
    }
}

fn until_over(world: &mut World, rollout: &str) {
    for _ in 0..300 {
        if world.rollout(rollout).state.is_over() {
            return;
        }
        world.pass(1000);
    }
    panic!("{} is {}: {:?}", rollout, world.phase(rollout), world.report.rollouts);
}

#[test]
fn the_part_that_fails_goes_back_and_the_rest_goes_on() {
    let mut world = fleet();
    fails_on(&mut world, "b", "2", Takes::Reverts);
    world.roll_out("2", by_hardware());
    let mut told_b = 0;
    for _ in 0..300 {
        world.pass(1000);
        told_b = told_b.max(
            of_revision(&world, "b").iter().filter(|id| world.device(id).part.as_ref().is_some_and(|p| p.exposed_at.is_some())).count(),
        );
    }
    assert_eq!(world.phase("r2"), "completed");
    let two = world.state.version(&line(), &name("2")).unwrap().clone();
    assert_eq!(two.status, VersionStatus::Published);
    assert_eq!(two.poisoned_for.len(), 1);
    let poisoned = &two.poisoned_for[0];
    assert_eq!(poisoned.slice, Slice::new("hw", "b"));
    assert!(poisoned.reason.contains("failing devices have hw=b, and 0 of"), "{}", poisoned.reason);
    assert_eq!((running(&world, "a", "2"), running(&world, "b", "1")), (48, 12));
    assert!(told_b <= 3, "{told_b} devices of the bad part ever ran it: a quarter of twelve is three");

    // The cohort's last known good has moved on, theirs has not; nor do new devices of that revision get it, or those relabelled.
    world.settle();
    assert_eq!(running(&world, "b", "1"), 12);
    world.enrol("coast-new", "coast");
    world.state.fleet.device_mut(&name("coast-new")).unwrap().labels.insert("hw".to_owned(), "b".to_owned());
    world.settle();
    assert_eq!(running(&world, "b", "1"), 13);
    world.state.fleet.device_mut(&name("coast-new")).unwrap().labels.insert("hw".to_owned(), "a".to_owned());
    world.settle();
    assert_eq!((running(&world, "a", "2"), running(&world, "b", "1")), (49, 12));
}

#[test]
fn what_descends_from_it_is_tried_there_first_and_waits_for_it() {
    let mut world = fleet();
    fails_on(&mut world, "b", "2", Takes::Reverts);
    world.roll_out("2", by_hardware());
    until_over(&mut world, "r2");
    let parent = version("2", 2, None).manifest.digest;
    let three = Arc::make_mut(&mut world.state.versions).get_mut(&(line(), name("3"))).unwrap();
    Arc::make_mut(three).lineage.parent = Some(parent);
    // Of revision b nobody answers: sound devices elsewhere are not enough.
    fails_on(&mut world, "b", "3", Takes::Hangs);
    let mut policy = by_hardware();
    policy.stages[0].share = 0.05;
    world.roll_out("3", policy);
    for _ in 0..60 {
        world.pass(1000);
    }
    let tried = of_revision(&world, "b").iter().filter(|id| world.device(id).part_in(&name("r3")).is_some_and(|p| p.attempts > 0)).count();
    assert_eq!((world.rollout("r3").stage().map(|(i, _)| i), tried), (Some(0), 1), "one of three canaries is of that part");
    let gate = world.report.rollouts[&name("r3")].gate.clone().unwrap();
    assert!(gate.checks.iter().any(|c| c.sentence.contains("failed on devices with hw=b: 1 of them must prove")), "{gate:?}");

    let mut world = fleet();
    fails_on(&mut world, "b", "2", Takes::Reverts);
    world.roll_out("2", by_hardware());
    until_over(&mut world, "r2");
    let three = Arc::make_mut(&mut world.state.versions).get_mut(&(line(), name("3"))).unwrap();
    Arc::make_mut(three).lineage.parent = Some(parent);
    world.roll_out("3", by_hardware());
    until_over(&mut world, "r3");
    world.settle();
    assert_eq!((world.phase("r3"), running(&world, "a", "3"), running(&world, "b", "3")), ("completed", 48, 12));
}

#[test]
fn what_fails_everywhere_or_for_no_reason_in_sight_goes_back_everywhere() {
    for (bad, why) in [(vec!["a", "b"], "everywhere"), (vec![], "at random")] {
        let mut world = fleet();
        for revision in bad {
            fails_on(&mut world, revision, "2", Takes::Reverts);
        }
        if why == "at random" {
            (0..60).filter(|i| i % 7 < 2).for_each(|i| {
                world.takes.insert((format!("coast-{i:02}"), "2".to_owned()), Takes::Reverts);
            });
        }
        world.roll_out("2", by_hardware());
        until_over(&mut world, "r2");
        let two = world.state.version(&line(), &name("2")).unwrap();
        assert_eq!((world.phase("r2"), two.poisoned_for.len()), ("rolled_back", 0), "{why}");
        assert!(matches!(two.status, VersionStatus::Poisoned { .. }));
        world.settle();
        assert_eq!(running(&world, "a", "1") + running(&world, "b", "1"), 60, "{why}");
    }
}

#[test]
fn nobody_is_left_out_where_the_policy_names_no_label() {
    let mut world = fleet();
    fails_on(&mut world, "b", "2", Takes::Reverts);
    world.roll_out("2", RolloutPolicy { slice_by: Vec::new(), ..by_hardware() });
    until_over(&mut world, "r2");
    assert_eq!(world.phase("r2"), "rolled_back");
}

#[test]
fn a_rollback_goes_at_its_rate_and_those_that_run_the_version_go_first() {
    let mut world = World::with(&["coast"], 60);
    world.roll_out("2", quick());
    until_over(&mut world, "r2");
    world.policy.rollback_per_minute = 20;
    let two = Arc::make_mut(&mut world.state.versions).get_mut(&(line(), name("2"))).unwrap();
    Arc::make_mut(two).status = VersionStatus::Yanked { reason: "A person says so.".to_owned() };
    let told = |world: &World| world.told().get("1").copied().unwrap_or_default();
    world.pass(1000);
    assert_eq!(told(&world), 20);
    assert!(world.report.notes.iter().any(|n| n.contains("40 devices wait to be called back")), "{:?}", world.report.notes);
    (0..58).for_each(|_| drop(world.pass(1000)));
    assert_eq!(told(&world), 20);
    (0..65).for_each(|_| drop(world.pass(1000)));
    assert_eq!(told(&world), 60, "the rest a minute and two minutes later");
}

#[test]
fn a_metric_that_is_bad_on_one_part_takes_that_part_back_and_a_bad_one_everywhere_takes_everyone() {
    // Every device comes through its trial; on revision b half of the answers are wrong.
    let mut world = fleet();
    world.sick = Some(Slice::new("hw", "b"));
    let mut policy = by_hardware();
    policy.control_share = 0.2;
    world.roll_out("2", policy.clone());
    for _ in 0..300 {
        world.pass(1000);
    }
    assert_eq!(world.phase("r2"), "completed", "{:?}", world.report.rollouts);
    let two = world.state.version(&line(), &name("2")).unwrap().clone();
    assert_eq!((two.status.clone(), two.poisoned_for.len()), (VersionStatus::Published, 1));
    let poisoned = &two.poisoned_for[0];
    assert_eq!(poisoned.slice, Slice::new("hw", "b"));
    assert!(poisoned.reason.starts_with("Devices with hw=b: Measured accuracy: canary 50.0 %"), "{}", poisoned.reason);
    assert!(poisoned.reason.ends_with("Without them the check passes."), "{}", poisoned.reason);
    world.settle();
    assert_eq!((running(&world, "a", "2"), running(&world, "b", "1")), (48, 12));

    let mut world = fleet();
    world.broken.insert("2".to_owned());
    world.roll_out("2", policy.clone());
    until_over(&mut world, "r2");
    let two = world.state.version(&line(), &name("2")).unwrap();
    assert_eq!((world.phase("r2"), two.poisoned_for.len()), ("rolled_back", 0));

    // Where no label is named, nobody is told apart, and a fifth of the devices is too few to prove the harm: it never goes on.
    let mut world = fleet();
    world.sick = Some(Slice::new("hw", "b"));
    world.roll_out("2", RolloutPolicy { slice_by: Vec::new(), ..policy });
    for _ in 0..300 {
        world.pass(1000);
    }
    let two = world.state.version(&line(), &name("2")).unwrap();
    assert_eq!((world.phase("r2"), two.poisoned_for.len(), world.rollout("r2").stage().map(|(i, _)| i)), ("paused", 0, Some(0)));
}
