//! Small fleets of which the answer is known, and what must hold of every answer.
use leeway_protocol::reason::{Code, Reason};
use leeway_protocol::reported::Phase;
use leeway_protocol::time::Timestamp;

use super::*;
use crate::fleet::contact::HOUR_MS;
use crate::planner::tests::world::{World, line, name};
use crate::rollout::evidence::{Arm, Arms, Evidence, Metric};
use crate::rollout::gate::Need;
use crate::rollout::{Actor, RolloutPolicy, RolloutSpec, Stage};
use std::sync::Arc;

const MINUTE: u64 = 60_000;

/// One stage for everyone, ten minutes of soak, nothing that takes a device long.
fn at_once(per_minute: u32) -> RolloutPolicy {
    let stage = Stage { soak_ms: 10 * MINUTE, deadline_ms: 30 * 24 * 60 * MINUTE, ..Stage::share("all", 1.0) };
    let mut policy = RolloutPolicy { stages: vec![stage], max_per_minute: per_minute, ..RolloutPolicy::default() };
    policy.settings.spread_ms = 0;
    policy.settings.shadow.min_inferences = 0;
    policy.settings.probation.min_inferences = 0;
    policy.settings.windows.max_ms = 5 * MINUTE;
    // There is nobody to compare with while everyone gets it.
    policy.gate.guardrails.clear();
    policy
}

/// Five per cent, then everyone.
fn canary_first() -> RolloutPolicy {
    let mut policy = at_once(1000);
    policy.stages.insert(0, Stage { soak_ms: 30 * MINUTE, ..Stage::share("canary", 0.05) });
    policy.gate = crate::rollout::GatePolicy::default();
    policy.gate.guardrails.iter_mut().for_each(|rail| rail.need = Need::IfSeen);
    policy
}

fn rollout(world: &World, policy: RolloutPolicy) -> Rollout {
    assert_eq!(policy.check(), Ok(()));
    let baseline = world.state.lines.get(&line()).and_then(|l| l.champion().cloned());
    let spec = RolloutSpec { line: line(), version: name("2"), baseline, policy };
    Rollout::new(name("rain-2"), spec, "A test asked.".to_owned(), Actor::Person("ada".to_owned()), world.now)
}

fn ask(world: &World, policy: RolloutPolicy, effort: Effort) -> Forecast {
    let rollout = rollout(world, policy);
    foresee(&Question { snapshot: &world.state, policy: &world.policy, rollout: &rollout, now: world.now, seed: 1, effort }).unwrap()
}

const FEW: Effort = Effort { max_devices: 2_000, max_runs: 12, work: 400_000 };

/// A fleet whose earlier rollouts say that nothing ever fails and no label comes.
fn flawless(devices: usize) -> World {
    let mut world = World::with(&["coast"], devices);
    let mut earlier = rollout(&world, at_once(1000));
    (earlier.id, earlier.spec.version) = (name("rain-1"), name("1"));
    earlier.state = crate::rollout::RolloutState::Completed { at: world.now, settled: true };
    let part = |at| crate::fleet::Part {
        rollout: name("rain-1"),
        arm: crate::fleet::Arm::Canary,
        stage: 0,
        at,
        attempts: 1,
        exposed_at: Some(at),
        proven_at: Some(at),
        failure: None,
        failed_at: None,
        deferred_at: None,
        proof_inferences: 1,
        recalled: false,
    };
    let now = world.now;
    for id in world.state.fleet.iter().map(|d| d.id.clone()).collect::<Vec<_>>() {
        world.state.fleet.device_mut(&id).unwrap().part = Some(part(now));
    }
    Arc::make_mut(&mut world.state.rollouts).insert(name("rain-1"), Arc::new(earlier));
    hear(&mut world, Metric::ErrorRatio, 0.0);
    world
}

/// Let the earlier rollout's control group have measured this.
fn hear(world: &mut World, metric: Metric, share: f64) {
    let all = Arc::make_mut(&mut world.state.evidence).entry(name("rain-1")).or_default();
    let (n, x) = (100_000.0, 100_000.0 * share);
    let control = Arm { devices: 1, n, x, n2: n * n, x2: x * x, nx: n * x };
    Arc::<Evidence>::make_mut(all).arms.insert(metric, Arms { canary: Arm::default(), control });
}

/// Give every device this week: whether it is online in the hour `h` of the week.
fn live(world: &mut World, week: impl Fn(usize, i64) -> bool) {
    let now = world.now.as_millis() / HOUR_MS;
    for (i, id) in world.state.fleet.sorted().iter().map(|d| d.id.clone()).collect::<Vec<_>>().into_iter().enumerate() {
        let presence = &mut world.state.fleet.device_mut(&id).unwrap().presence;
        (presence.online, presence.contact) = (false, Default::default());
        for hour in now - 168..=now {
            let at = Timestamp::from_millis(hour * HOUR_MS);
            // Contact is recorded to the hour: an hour that ends it would count as online, so it ends a millisecond before.
            let online = week(i, hour);
            let at = if online { at } else { at.plus_millis(-1) };
            presence.turn(online, at);
        }
        let last = (now - 168..=now).rev().find(|hour| week(i, *hour)).unwrap_or(now - 200);
        presence.last_seen = Some(Timestamp::from_millis(last * HOUR_MS));
    }
}

fn near(ms: Option<u64>, expected: u64, percent: u64) -> bool {
    ms.is_some_and(|ms| ms.abs_diff(expected) * 100 <= expected * percent)
}

#[test]
fn everyone_online_at_ten_a_minute_takes_what_it_must() {
    let world = flawless(100);
    let forecast = ask(&world, at_once(10), FEW);
    // The hundredth is told after nine minutes, the ninety-fifth too; then load (5 s) and trial (60 s).
    let last = 9 * MINUTE + 65_000;
    assert!(near(forecast.reach.most_median_ms, last, 2), "{:?}", forecast.reach);
    assert!(near(forecast.reach.all_median_ms, last, 2), "{:?}", forecast.reach);
    // A soak of ten minutes follows, and a report within it (windows of five minutes).
    assert!(near(forecast.reach.complete_median_ms, last + 10 * MINUTE, 6), "{:?}", forecast.reach);
    assert_eq!((forecast.devices, forecast.simulated, forecast.reach.unreached), (100, 100, 0));
    assert_eq!(forecast.peak.devices_per_minute, 10);
    assert_eq!(forecast.peak.bytes_per_second, 10 * 2_000 / 60);
    assert!(forecast.sentences[0].starts_with("Reaches 95 % of 100 devices in 10 min "), "{}", forecast.sentences[0]);
}

#[test]
fn half_a_day_offline_makes_the_slow_ones_wait_for_morning() {
    let mut world = flawless(60);
    let begin = world.now.as_millis() / HOUR_MS;
    let always = ask(&world, at_once(1000), FEW);
    // Every other device is there twelve hours of each day, and now is not among them: it comes in six hours.
    live(&mut world, |i, hour| i % 2 == 0 || (hour - begin - 6).rem_euclid(24) < 12);
    let forecast = ask(&world, at_once(1000), FEW);
    let (before, after) = (always.reach.most_median_ms.unwrap(), forecast.reach.most_median_ms.unwrap());
    assert!(before < 5 * MINUTE, "{before}");
    // Within the hour in which they come: the record is no finer.
    let hour = HOUR_MS as u64;
    assert!((5 * hour..=7 * hour).contains(&after), "{after}");
    assert_eq!((forecast.reach.unreached, forecast.reach.long_away), (0, 0));

    // Bound by a rate and away every other six hours, now too: six hours of telling take twelve.
    let rate = |world: &World| {
        let rollout = rollout(world, at_once(1));
        let (snapshot, policy, now) = (&world.state, &world.policy, world.now);
        let study = Study::new(&Question { snapshot, policy, rollout: &rollout, now, seed: 1, effort: FEW }).unwrap();
        *Run::new(&study, Effect::none(&study.base), "one", true).go().reached_ms.last().unwrap() as f64 / HOUR_MS as f64
    };
    let mut world = flawless(360);
    let steady = rate(&world);
    assert!((steady - 6.0).abs() < 0.1, "{steady}");
    live(&mut world, |_, hour| (hour - begin).rem_euclid(12) >= 6);
    let doubled = rate(&world);
    // The fleet's clock stands at 46 minutes past, and the record is fine to the hour.
    assert!((11.0..=12.3).contains(&doubled), "{steady} {doubled}");
}

#[test]
fn who_never_comes_is_named() {
    let mut world = flawless(40);
    live(&mut world, |i, _| i >= 3);
    let forecast = ask(&world, at_once(1000), FEW);
    assert_eq!((forecast.reach.unreached, forecast.reach.long_away), (3, 3));
    assert_eq!(forecast.reach.unreached_names, ["coast-00", "coast-01", "coast-02"]);
    assert!(forecast.reach.most_median_ms.is_none(), "37 of 40 are less than 95 %");
    assert!(forecast.sentences[0].contains("of 40 devices; 95 % are not reached within"), "{}", forecast.sentences[0]);
}

#[test]
fn harm_that_the_gate_sees_is_stopped_and_harm_it_cannot_see_is_said() {
    let mut world = flawless(200);
    let forecast = ask(&world, canary_first(), FEW);
    let of = |forecast: &Forecast, harm: Harm| forecast.harms.iter().find(|h| h.harm == harm).unwrap().clone();
    let failing = of(&forecast, Harm::InferenceErrors);
    assert!(failing.stopped.share > 0.99 && failing.exposed_p90 <= 10, "{failing:?}");
    assert!(
        failing.sentence.contains("devices (nine runs of ten: at most 10) will have run it before it is taken back"),
        "{}",
        failing.sentence
    );
    // Nobody labels: a version that is wrong and sure of itself goes everywhere.
    let blind = of(&forecast, Harm::AccuracyLoss);
    assert!(blind.stopped.share < 0.5 && blind.exposed_median >= 195, "{blind:?}");
    assert!(blind.sentence.contains("the gate does not see it (it stops a good version as often)"), "{}", blind.sentence);
    assert!(forecast.assumed.iter().any(|s| s.contains("No labels")));
    // With labels on every inference it is another matter.
    hear(&mut world, Metric::LabelledAccuracy, 0.9);
    let mut policy = canary_first();
    for rail in &mut policy.gate.guardrails {
        (rail.limits.sharing, rail.limits.margin) = (0.0, 0.02);
    }
    let seen = of(&ask(&world, policy, FEW), Harm::AccuracyLoss);
    assert!(seen.stopped.share > 0.8 && seen.exposed_median < 200, "{seen:?}");
}

#[test]
fn a_gate_that_is_too_jumpy_is_seen_to_stop_good_versions() {
    let world = World::with(&["coast"], 200);
    let mut jumpy = canary_first();
    (jumpy.gate.max_failed, jumpy.gate.max_failed_share) = (1, 0.0);
    let forecast = ask(&world, jumpy, Effort { max_runs: 60, ..FEW });
    // 200 devices of which 2 % fail: hardly a run without one.
    assert!(forecast.false_abort.share > 0.9, "{:?}", forecast.false_abort);
    assert!(forecast.false_abort.low < forecast.false_abort.share && forecast.false_abort.runs >= 5);
    let calm = ask(&flawless(200), canary_first(), FEW);
    assert!(calm.false_abort.share < 0.2 && calm.false_abort.high > 0.0, "{:?}", calm.false_abort);
}

#[test]
fn a_rollout_that_would_stand_still_is_seen_to() {
    let world = flawless(40);
    let mut policy = at_once(1000);
    policy.gate = crate::rollout::GatePolicy::default();
    policy.stages[0].deadline_ms = 60 * MINUTE;
    let forecast = ask(&world, policy, FEW);
    // The error ratio must be compared, and in an only stage nobody is held back to compare with.
    assert!(forecast.held_up.share > 0.99 && forecast.reach.complete_median_ms.is_none(), "{:?}", forecast.held_up);
    assert!(forecast.reach.reached >= 38, "{:?}", forecast.reach);
    assert!(
        forecast.sentences.iter().any(|s| s.starts_with("It stands still and waits for a person in 100.0 %")),
        "{:?}",
        forecast.sentences
    );
}

#[test]
fn what_applications_will_tell_is_not_foreseen_and_said_so() {
    let world = flawless(40);
    let plain = ask(&world, canary_first(), FEW);
    let mut policy = canary_first();
    let limits = crate::rollout::evidence::Limits { higher_is_better: Some(true), ..Default::default() };
    let rail = crate::rollout::Guardrail { metric: name("user:pick_success"), limits, need: Need::Always, ..Default::default() };
    policy.gate.guardrails.push(rail);
    let told = ask(&world, policy, FEW);
    assert_eq!((told.held_up, told.reach.complete_median_ms), (plain.held_up, plain.reach.complete_median_ms));
    let said = |forecast: &Forecast| forecast.assumed.iter().any(|s| s.contains("the runs wait for no check of user:pick_success"));
    assert!(said(&told) && !said(&plain), "{:?}", told.assumed);
}

#[test]
fn a_budget_that_is_not_met_is_named() {
    let world = flawless(100);
    let mut policy = canary_first();
    let harms = vec![Harm::InferenceErrors, Harm::AccuracyLoss];
    policy.risk = Some(RiskBudget { max_exposed_if_bad: Some(0.1), harms, max_days: Some(0.01), max_false_abort: None });
    let forecast = ask(&world, policy.clone(), FEW);
    // Nobody labels, so the loss of accuracy reaches everyone; and forty minutes of soaking are more than a hundredth of a day.
    assert_eq!(forecast.broken.len(), 2, "{:?}", forecast.broken);
    assert!(
        forecast.broken[0].contains("100 devices (100.0 %) may have run it before it is stopped; the budget allows 10.0 %"),
        "{:?}",
        forecast.broken
    );
    assert!(forecast.broken[1].contains("the budget allows 14 min 24 s"), "{:?}", forecast.broken);
    assert!(forecast.sentences.iter().any(|s| s.starts_with("Beyond its risk budget: ")));
    let seen = vec![Harm::InferenceErrors];
    policy.risk = Some(RiskBudget { max_exposed_if_bad: Some(0.1), harms: seen, max_false_abort: Some(0.5), max_days: Some(1.0) });
    assert_eq!(ask(&world, policy.clone(), FEW).broken, Vec::<String>::new());
    policy.risk = Some(RiskBudget { max_false_abort: Some(1.5), ..RiskBudget::default() });
    assert!(policy.check().unwrap_err().to_string().contains("max_false_abort is 1.5"));
}

#[test]
fn a_device_that_refused_the_parent_is_counted_out() {
    let mut world = World::with(&["coast"], 30);
    for (id, code) in [("coast-03", Code::TooMuchMemory), ("coast-07", Code::DiskFull), ("coast-09", Code::Crashed)] {
        world.edit_device(id, |reported| {
            (reported.phase, reported.reason) = (Phase::Refused, Some(Reason::new(code, "")));
        });
    }
    let parent = crate::planner::tests::world::manifest_of("1");
    let key = (line(), name("2"));
    let versions = Arc::make_mut(&mut world.state.versions);
    Arc::make_mut(versions.get_mut(&key).unwrap()).lineage.parent = Some(parent);
    let forecast = ask(&world, at_once(1000), FEW);
    let named: Vec<_> = forecast.unfit.iter().flat_map(|group| group.names.clone()).collect();
    assert_eq!(named, ["coast-03", "coast-07"], "{:?}", forecast.unfit);
    assert!(forecast.sentences.iter().any(|s| s.contains("1 device will refuse it. Its last word was: There is not enough disk space")));
    // An agent release on which the parent loaded nowhere will not load the child on its other devices either.
    for (i, id) in ["coast-10", "coast-11", "coast-12"].into_iter().enumerate() {
        world.edit_device(id, |reported| {
            (reported.agent, reported.active) = ("0.3".to_owned(), None);
            if i < 2 {
                (reported.phase, reported.reason) = (Phase::Refused, Some(Reason::new(Code::PrescanRefused, "")));
            }
        });
    }
    let forecast = ask(&world, at_once(1000), FEW);
    let old = forecast.unfit.iter().find(|group| group.why.starts_with("Agent 0.3 has loaded no version")).map(|group| group.names.clone());
    assert_eq!(old, Some(vec!["coast-12".to_owned()]), "{:?}", forecast.unfit);
}

#[test]
fn one_seed_one_answer_and_another_seed_another() {
    let mut world = World::with(&["coast", "hills"], 30);
    live(&mut world, |i, hour| (hour + i as i64).rem_euclid(24) < 16);
    let rollout = rollout(&world, canary_first());
    let ask = |seed| {
        let question = Question { snapshot: &world.state, policy: &world.policy, rollout: &rollout, now: world.now, seed, effort: FEW };
        foresee(&question).unwrap()
    };
    assert_eq!(ask(1), ask(1));
    assert_ne!(ask(1), ask(2));
}

#[test]
fn a_large_fleet_is_drawn_and_says_so() {
    let world = World::with(&["coast", "hills"], 300);
    let whole = ask(&world, canary_first(), FEW);
    let drawn = ask(&world, canary_first(), Effort { max_devices: 150, ..FEW });
    assert_eq!((drawn.devices, drawn.simulated, whole.simulated), (600, 150, 600));
    assert!(drawn.assumed.iter().any(|s| s.starts_with("150 devices drawn by cohort stand for 600")));
    assert!(near(Some(drawn.reach.reached), whole.reach.reached, 5), "{} {}", drawn.reach.reached, whole.reach.reached);
    // One device a minute takes ten hours, in whatever steps a sample of it can be told.
    let slow = ask(&world, at_once(1), Effort { max_devices: 60, max_runs: 2, ..FEW });
    assert!(slow.reach.complete_median_ms.is_some_and(|ms| ms >= 600 * MINUTE), "{:?}", slow.reach);
}

#[test]
fn nothing_real_is_changed_and_an_unknown_version_has_no_answer() {
    let world = World::with(&["coast"], 20);
    let before = world.state.clone();
    ask(&world, at_once(1000), FEW);
    assert_eq!(world.state.fleet, before.fleet);
    assert_eq!(world.state.rollouts, before.rollouts);
    let mut strange = rollout(&world, at_once(1000));
    strange.spec.version = name("9");
    let question = Question { snapshot: &world.state, policy: &world.policy, rollout: &strange, now: world.now, seed: 1, effort: FEW };
    assert!(foresee(&question).is_none());
}

#[test]
fn intervals_cover_what_they_should() {
    let some = Likelihood::of(4, 300);
    assert!((some.share - 0.0133).abs() < 1e-3 && (some.low - 0.0052).abs() < 1e-3 && (some.high - 0.0338).abs() < 1e-3, "{some:?}");
    assert_eq!(some.words(), "1.3 % (0.5–3.4)");
    let (none, all) = (Likelihood::of(0, 100), Likelihood::of(100, 100));
    assert!(none.low <= 0.0 && none.high > 0.03 && all.low < 0.97 && all.high >= 1.0);
    assert!(Likelihood::of(0, 0).high >= 1.0 - 1e-9, "no run says nothing");
}
