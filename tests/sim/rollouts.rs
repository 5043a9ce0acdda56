//! Promises of the whole: real planner, real ingestion, real agents, and everything that fails in between.
use std::sync::LazyLock;

use leeway_controller::fleet::DeviceSettings;
use leeway_controller::rollout::{GatePolicy, RolloutPolicy, Stage};
use leeway_firmware_sim::fault;
use leeway_firmware_sim::model::Behaviour;
use leeway_firmware_sim::rng::Rng;
use leeway_firmware_sim::scenario::{Act, Scenario, policies};
use leeway_firmware_sim::trial::{self, Failure};
use leeway_firmware_sim::watch::Invariant;
use leeway_firmware_sim::world::{BuildError, World, start};

use crate::controller::Controller;
use crate::stories::{Ended, holds, live_all, seeds};

/// Stories in every run.
const SEEDS: u64 = 300;
/// The second release comes when the first has reached everyone in a calm world.
const SECOND_MS: u64 = 150_000;
const STORM_MS: u64 = 400_000;

static ENDED: LazyLock<Vec<Ended>> = LazyLock::new(|| {
    live_all(seeds(SEEDS), |seed| {
        let mut world = begin(scenario(seed)).expect("the world begins");
        let violation = trial::live(&mut world);
        let kept = world.press().releases().last().is_some_and(|release| release.behaviour.is_kept());
        let phases: Vec<&str> = world.authority().rollouts().map(|rollout| rollout.state.phase()).collect();
        (violation, format!("{} {}", if kept { "keepable" } else { "bad" }, phases.join(" ")))
    })
});

fn kept(invariant: Invariant) {
    holds(&ENDED, invariant, shorten);
}

fn shorten(seed: u64) -> Option<Failure> {
    trial::shorten_with(scenario(seed), begin).expect("the world begins")
}

/// A good release for everyone, then one that may be bad in any way.
fn scenario(seed: u64) -> Scenario {
    let rng = Rng::new(seed).fork("rollout", 0);
    let mut choice = rng.fork("choices", 0);
    let devices = 6 + choice.index(7);
    let after_secs = choice.between(0, 8) as u32;
    let second = match choice.below(9) {
        0 => Behaviour::CrashesOnLoad,
        1 => Behaviour::CrashesServing { after_secs },
        2 => Behaviour::HangsServing { after_secs },
        3 => Behaviour::AnswersNan,
        4 => Behaviour::MissesGolden,
        5 | 6 => Behaviour::Serves { accuracy: 50 },
        _ => Behaviour::Serves { accuracy: 92 },
    };
    let mut acts = vec![(2_000, Act::Release(Behaviour::Serves { accuracy: 90 })), (SECOND_MS, Act::Release(second))];
    if choice.chance(0.5) {
        acts.push((choice.between(5_000, STORM_MS), Act::Restart));
    }
    acts.sort_by_key(|(at, _)| *at);
    let faults = fault::draw(&mut rng.fork("faults", 0), devices, STORM_MS, true);
    Scenario { seed, devices, storm_ms: STORM_MS, factory: true, stolen_director: false, padding: 0, acts, faults }
}

fn begin(scenario: Scenario) -> Result<World<Controller>, BuildError> {
    World::new(scenario, |devices, press| Controller::new(devices, press, start(), policy()))
}

/// A rollout on the scale of seconds.
fn policy() -> RolloutPolicy {
    let stage = |name: &str, share: f64| Stage { soak_ms: 10_000, deadline_ms: 240_000, ..Stage::share(name, share) };
    let (shadow, probation, windows, capture) = policies();
    RolloutPolicy {
        stages: vec![stage("canary", 0.2), stage("half", 0.5), stage("all", 1.0)],
        control_share: 0.2,
        gate: GatePolicy { lost_after_ms: 120_000, ..GatePolicy::default() },
        max_in_flight: 4,
        // Fewer than four in flight would tell in a minute, so that this bound is met in most stories.
        max_per_minute: 5,
        device_deadline_ms: 60_000,
        settings: DeviceSettings { spread_ms: 500, window: None, shadow, probation, windows, capture },
        ..RolloutPolicy::default()
    }
}

#[test]
fn the_share_of_devices_on_a_new_version_never_exceeds_what_the_stage_allows() {
    kept(Invariant::ExposureWithinCap);
}

#[test]
fn after_a_rollback_is_planned_no_device_commits_the_bad_version() {
    kept(Invariant::NoCommitAfterRollback);
}

#[test]
fn no_data_is_never_a_pass() {
    kept(Invariant::NoDataIsNoPass);
}

#[test]
fn acknowledged_reports_are_applied_exactly_once() {
    kept(Invariant::CountedExactlyOnce);
}

#[test]
fn every_promise_of_the_devices_holds_under_the_real_planner() {
    for invariant in Invariant::OF_DEVICES {
        kept(invariant);
    }
}

/// Stories in which nothing happens prove nothing.
#[test]
fn good_releases_get_through_the_storm_and_bad_ones_do_not() {
    let count = |wanted: &dyn Fn(&str) -> bool| ENDED.iter().filter(|story| wanted(&story.note)).count();
    let all = ENDED.len();
    if all < 20 {
        return;
    }
    let through = count(&|note| note == "keepable completed completed");
    let back = count(&|note| note.ends_with("completed rolled_back"));
    let bad_through = count(&|note| note == "bad completed completed");
    assert!(through * 10 >= all && back * 4 >= all, "of {all} stories {through} let a second release through and {back} rolled one back");
    assert_eq!(bad_through, 0, "a release that no device keeps never completes");
}
