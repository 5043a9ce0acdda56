//! From an alarm to a retrained version on every device, and what keeps that from happening too often.
use std::sync::Arc;

use leeway_protocol::reason::{Code, Reason};
use leeway_protocol::reported::Phase;

use super::stories::{told, until};
use super::world::{World, line, manifest_of, name, show, version};
use crate::foresight::RiskBudget;
use crate::planner::retrain::to_foresee;
use crate::planner::{Plan, Step};
use crate::registry::VersionStatus;
use crate::retraining::job::JobState;
use crate::retraining::trigger::Limit;
use crate::snapshot::CohortHealth;

fn drifted(rows: u64) -> CohortHealth {
    CohortHealth {
        manifest: Some(manifest_of("1")),
        moved: [("dew_point".to_owned(), "Dew point has moved up (PSI 0.31).".to_owned())].into(),
        expected_accuracy: Some(0.82),
        measured_accuracy: Some((0.71, 900)),
        estimated_accuracy: Some(0.78),
        labelled_rows: rows,
        ..CohortHealth::default()
    }
}

#[test]
fn drift_that_hurts_asks_for_retraining_once_and_the_outcome_is_rolled_out() {
    let mut world = World::new();
    world.set_health("coast", CohortHealth { measured_accuracy: Some((0.82, 900)), estimated_accuracy: Some(0.81), ..drifted(900) });
    assert_eq!(world.tick().steps, [], "features that moved without hurting are no reason");
    insta::assert_snapshot!("drift_that_does_not_hurt", show(&Plan::default(), &world.report));
    world.set_health("coast", drifted(900));
    let plan = world.tick();
    insta::assert_snapshot!("drift", show(&plan, &world.report));
    assert_eq!(world.state.jobs.len(), 1);
    assert_eq!(world.pass(1000).steps, [], "one open job per line");

    finish(&mut world, JobState::Lost { sentence: "No better.".to_owned() });
    let plan = world.pass(1000);
    let [Step::WithholdRetraining { withheld, .. }] = &plan.steps[..] else { panic!("{:?}", plan.steps) };
    assert_eq!(withheld.limits, [Limit::CoolDown].into(), "{}", withheld.sentence);
    assert_eq!(world.pass(1000).steps, [], "a refusal is written down once");
    let (plan, report) = world.plan();
    assert!(plan.wake_at.is_some() && report.lines[&line()].why[0].contains("the next may be asked for in"), "{report:?}");
    world.now = world.now.plus_millis(24 * 3_600_000);
    world.tick();
    assert_eq!(world.state.jobs.len(), 2);

    let child = version("auto-2", 4, Some("1"));
    Arc::make_mut(&mut world.state.versions).insert((line(), child.version.clone()), Arc::new(child));
    finish(&mut world, JobState::Published { version: name("auto-2") });
    let plan = world.tick();
    assert_eq!(told(&plan).len(), 3, "the version training brought begins with its canary");
    until(&mut world, "completed", "rain-auto-2");
    assert_eq!(world.state.lines[&line()].champion(), Some(&name("auto-2")));
}

/// Nothing is done; that nothing is asked for may be written down.
fn only_withholds(plan: &Plan) -> bool {
    plan.steps.iter().all(|step| matches!(step, Step::WithholdRetraining { .. }))
}

fn finish(world: &mut World, state: JobState) {
    let jobs = Arc::make_mut(&mut world.state.jobs);
    for job in jobs.values_mut().filter(|j| j.state.is_open()) {
        Arc::make_mut(job).state = state.clone();
    }
}

#[test]
fn a_child_of_a_poisoned_parent_is_left_to_a_person() {
    let mut world = World::new();
    world.set_health("coast", drifted(900));
    world.tick();
    let versions = Arc::make_mut(&mut world.state.versions);
    Arc::make_mut(versions.get_mut(&(line(), name("2"))).unwrap()).status = VersionStatus::Poisoned { reason: "Bad.".to_owned() };
    let child = version("auto-2", 4, Some("2"));
    versions.insert((line(), child.version.clone()), Arc::new(child));
    for job in Arc::make_mut(&mut world.state.jobs).values_mut() {
        Arc::make_mut(job).state = JobState::Published { version: name("auto-2") };
    }
    assert!(only_withholds(&world.tick()));
    assert!(world.report.lines[&line()].why[0].contains("descends from 2, which failed in the fleet"), "{:?}", world.report.lines);
}

#[test]
fn what_training_brings_to_a_line_with_a_risk_budget_is_not_begun_by_planning() {
    let mut world = World::new();
    world.set_health("coast", drifted(900));
    world.tick();
    world.edit_line(|line| line.rollout.risk = Some(RiskBudget { max_days: Some(1.0), ..RiskBudget::default() }));
    let child = version("auto-2", 4, Some("1"));
    Arc::make_mut(&mut world.state.versions).insert((line(), child.version.clone()), Arc::new(child));
    assert!(to_foresee(&world.state).is_empty(), "nothing is published yet");
    finish(&mut world, JobState::Published { version: name("auto-2") });
    assert!(only_withholds(&world.tick()));
    assert!(world.report.lines[&line()].why[0].contains("only within the risk budget"), "{:?}", world.report.lines);
    let due = to_foresee(&world.state);
    assert!(due.len() == 1 && due[0].0.version == name("auto-2") && due[0].1.contains("Training job"), "{due:?}");
    world.edit_line(|line| line.rollout.risk = None);
    assert!(to_foresee(&world.state).is_empty(), "without a budget planning begins it");
    assert!(!world.tick().steps.is_empty());
}

#[test]
fn requests_are_bounded_per_period() {
    let mut world = World::new();
    world.edit_line(|l| (l.retrain.cool_down_ms, l.retrain.max_per_period) = (1000, 3));
    world.set_health("coast", drifted(900));
    for _ in 0..50 {
        world.pass(60_000);
        for job in Arc::make_mut(&mut world.state.jobs).values_mut() {
            Arc::make_mut(job).state = JobState::Undecided { sentence: "More labels.".to_owned() };
        }
    }
    assert_eq!(world.state.jobs.len(), 3);
    assert!(world.report.lines[&line()].why[0].contains("3 in this period, 3 are allowed"));
}

/// Found by seed 116 of the simulation: a committed model rotted on a flash, and nobody told the device to fetch it again.
#[test]
fn what_failed_for_no_fault_of_the_model_is_tried_again_after_a_while() {
    for (code, told_again) in [(Code::DigestMismatch, true), (Code::DiskFull, true), (Code::GoldenMismatch, false)] {
        let mut world = World::new();
        world.edit_device("coast-03", |reported| {
            (reported.phase, reported.reason, reported.active) = (Phase::Reverted, Some(Reason::new(code.clone(), "x")), None);
        });
        let before = world.device("coast-03").desired.as_ref().unwrap().generation;
        assert_eq!(world.pass(800_000).steps, [], "{code:?}: not at once");
        world.pass(100_000);
        let after = world.device("coast-03").desired.clone().unwrap();
        assert_eq!(after.generation > before, told_again, "{code:?}");
        assert!(!told_again || after.reason.contains("a reason of its own"), "{}", after.reason);
    }
}

/// Found by seed 603 of the simulation: a thief of the director's key had used the number of the next assignment.
#[test]
fn a_device_led_away_with_the_directors_key_is_led_back() {
    let mut world = World::new();
    world.edit_device("hills-07", |reported| reported.active.as_mut().unwrap().manifest = manifest_of("3"));
    let before = world.device("hills-07").desired.as_ref().unwrap().generation;
    world.pass(1000);
    let desired = world.device("hills-07").desired.clone().unwrap();
    assert!(desired.generation > before && desired.manifest == Some(manifest_of("1")), "{desired:?}");
    assert!(desired.reason.contains("change the director's key"), "{}", desired.reason);
}
