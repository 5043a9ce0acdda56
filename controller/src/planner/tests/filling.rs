//! A control group that is drawn over several plans: the same one, and complete before anybody is told.
use std::collections::BTreeSet;

use super::world::{World, quick};
use crate::fleet::{Arm, Fleet};
use crate::planner::Step;
use crate::rollout::RolloutState;

fn parts(world: &World, arm: Arm) -> BTreeSet<String> {
    let has = |device: &crate::fleet::Device| device.part.as_ref().is_some_and(|part| part.arm == arm);
    world.state.fleet.iter().filter(|device| has(device)).map(|device| device.id.to_string()).collect()
}

/// What one plan without a bound would hold back and tell.
fn at_once() -> (BTreeSet<String>, BTreeSet<String>) {
    let mut world = World::new();
    world.roll_out("2", quick());
    world.tick();
    (parts(&world, Arm::Control), parts(&world, Arm::Canary))
}

#[test]
fn a_control_group_drawn_in_pieces_is_the_same_and_comes_before_every_canary() {
    let (held, told) = at_once();
    assert_eq!((held.len(), told.len()), (12, 3));
    for most in 1..=16 {
        let mut world = World::new();
        world.policy.devices_per_plan = most;
        world.roll_out("2", quick());
        let mut plans = 0;
        loop {
            let plan = world.step();
            plans += 1;
            let tells = plan.steps.iter().any(|step| matches!(step, Step::SetDesired { .. }));
            assert!(!tells || parts(&world, Arm::Control).len() == 12, "{most}: told before the control group is complete");
            assert!(matches!(world.rollout("r2").state, RolloutState::Running { soaking_since: None, .. }), "{most}");
            if plan.wake_at != Some(world.now) {
                break;
            }
            let report = &world.report.rollouts[&world.rollout("r2").id];
            let says = report.why.iter().any(|why| why.contains("are still to be held back"));
            assert_eq!(says, parts(&world, Arm::Control).len() < 12, "{most}: {:?}", report.why);
        }
        assert_eq!((parts(&world, Arm::Control), parts(&world, Arm::Canary)), (held.clone(), told.clone()), "{most} in a plan");
        assert!(plans >= 15_usize.div_ceil(most) && plans <= 15_usize.div_ceil(most) + 2, "{most} in a plan: {plans} plans");
    }
}

#[test]
fn a_controller_that_restarts_in_the_middle_goes_on_and_no_deadline_runs_meanwhile() {
    let (held, told) = at_once();
    let mut world = World::new();
    world.policy.devices_per_plan = 5;
    world.roll_out("2", quick());
    world.step();
    assert_eq!((parts(&world, Arm::Control).len(), parts(&world, Arm::Canary).len()), (5, 0));
    // What it noted is gone, and it was away for longer than the stage's deadline.
    let devices: Vec<_> = world.state.fleet.iter().collect();
    world.state.fleet = Fleet::default();
    devices.iter().for_each(|device| world.state.fleet.insert(device.as_ref().clone()));
    world.now = world.now.plus_millis(121_000);
    world.step();
    assert_eq!((parts(&world, Arm::Control).len(), parts(&world, Arm::Canary).len()), (10, 0));
    assert_eq!(world.phase("r2"), "running", "what is still being drawn has no deadline");
    world.tick();
    assert_eq!((parts(&world, Arm::Control), parts(&world, Arm::Canary)), (held, told));
    assert_eq!(world.phase("r2"), "running");
}

#[test]
fn whoever_must_go_back_does_so_over_as_many_plans() {
    let mut world = World::new();
    world.policy.devices_per_plan = 4;
    world.roll_out("2", quick());
    super::stories::until(&mut world, "completed", "r2");
    for _ in 0..5 {
        world.pass(1_000);
    }
    let versions = std::sync::Arc::make_mut(&mut world.state.versions);
    let version = versions.get_mut(&(super::world::line(), super::world::name("2"))).unwrap();
    std::sync::Arc::make_mut(version).status = crate::registry::VersionStatus::Yanked { reason: "a test".to_owned() };
    let plan = world.tick();
    let back = plan.steps.iter().filter(|step| matches!(step, Step::SetDesired { .. })).count();
    assert_eq!(back, 60, "everyone at this moment, four at a time");
}
