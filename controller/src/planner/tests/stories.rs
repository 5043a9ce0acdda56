//! What happens, told as plan and report; each story also checks by numbers what its snapshot only shows.
use std::sync::Arc;

use leeway_protocol::assignment::Intent;
use leeway_protocol::ids::Version;

use super::world::{Takes, World, line, manifest_of, name, quick, show};
use crate::fleet::Arm;
use crate::planner::{Plan, Step};
use crate::registry::{Alias, VersionStatus};
use crate::rollout::evidence::Outcome;
use crate::rollout::{Membership, Move, OnSuccess, RolloutPolicy, RolloutState};

pub(super) fn told(plan: &Plan) -> Vec<String> {
    let device = |step: &Step| if let Step::SetDesired { device, .. } = step { Some(device.to_string()) } else { None };
    plan.steps.iter().filter_map(device).collect()
}

pub(super) fn until(world: &mut World, wanted: &str, id: &str) -> i64 {
    for step in 0..400 {
        if world.phase(id) == wanted {
            return step;
        }
        world.pass(1000);
    }
    panic!("{id} is {} and not {wanted}:\n{}", world.phase(id), show(&Plan::default(), &world.report));
}

#[test]
fn a_canary_begins_with_three_of_sixty_spread_over_the_cohorts_and_twelve_held_back() {
    let mut world = World::new();
    world.roll_out("2", quick());
    let plan = world.tick();
    let canaries = told(&plan);
    assert_eq!(canaries.len(), 3);
    for cohort in ["coast", "hills", "plain"] {
        assert_eq!(canaries.iter().filter(|d| d.starts_with(cohort)).count(), 1, "{canaries:?}");
    }
    let held: Vec<_> = world.state.fleet.iter().filter(|d| d.part.as_ref().is_some_and(|p| p.arm == Arm::Control)).collect();
    assert_eq!(held.len(), 12);
    assert!(held.iter().all(|d| !canaries.contains(&d.id.to_string())));
    insta::assert_snapshot!("canary_start", show(&plan, &world.report));
}

#[test]
fn who_does_not_run_the_baseline_is_no_control_while_others_do() {
    let held = |world: &mut World| {
        world.roll_out("2", quick());
        world.tick();
        let held = world.state.fleet.iter().filter(|d| d.part.as_ref().is_some_and(|p| p.arm == Arm::Control));
        held.map(|d| d.id.to_string()).collect::<Vec<_>>()
    };
    let usual = held(&mut World::with(&["coast"], 10));
    assert_eq!(usual.len(), 2);
    let mut world = World::with(&["coast"], 10);
    for device in &usual {
        // It went back to what it had before the baseline.
        world.edit_device(device, |reported| reported.active.as_mut().expect("something runs").manifest = manifest_of("0"));
    }
    let others = held(&mut world);
    assert_eq!(others.len(), 2);
    assert!(usual.iter().all(|device| !others.contains(device)), "{others:?} instead of {usual:?}");
    let mut nobody = World::with(&["coast"], 10);
    for n in 0..10 {
        nobody.edit_device(&format!("coast-{n:02}"), |reported| {
            reported.active.as_mut().expect("something runs").manifest = manifest_of("0")
        });
    }
    assert_eq!(held(&mut nobody), usual, "with no better one, the order decides");
}

#[test]
fn a_good_version_widens_by_its_shares_and_completes() {
    let mut world = World::new();
    world.roll_out("2", quick());
    let mut seen = Vec::new();
    for _ in 0..120 {
        world.pass(1000);
        let now = world.told().get("2").copied().unwrap_or(0);
        if seen.last() != Some(&now) {
            seen.push(now);
        }
        if world.phase("r2") == "completed" {
            break;
        }
    }
    assert_eq!(seen, [3, 15, 60], "floor of 5 %, 25 % and 100 % of 60");
    world.settle();
    assert!(world.state.fleet.iter().all(|d| d.desired.as_ref().unwrap().generation.0 == 2), "each device was told once");
    assert_eq!(world.phase("r2"), "completed");
    let model_line = &world.state.lines[&line()];
    assert_eq!(model_line.champion(), Some(&name::<Version>("2")));
    assert_eq!(model_line.aliases.current(Alias::Challenger), None);
    assert!(world.state.cohorts.values().all(|c| c.last_known_good == Some(name("2"))));
    assert!(world.state.fleet.iter().all(|d| d.proves(manifest_of("2"))));
    insta::assert_snapshot!("completed", show(&Plan::default(), &world.report));
}

#[test]
fn widening_keeps_everyone_and_says_what_was_measured() {
    let mut world = World::new();
    world.roll_out("2", quick());
    let first = told(&world.tick());
    let mut widened = Plan::default();
    for _ in 0..60 {
        let plan = world.pass(1000);
        if !told(&plan).is_empty() {
            widened = plan;
            break;
        }
    }
    let more = told(&widened);
    assert_eq!(more.len(), 12);
    assert!(more.iter().all(|d| !first.contains(d)), "nobody is told twice");
    insta::assert_snapshot!("widening", show(&widened, &world.report));
}

#[test]
fn a_gate_without_data_waits_and_then_pauses_but_never_passes() {
    let mut world = World::new();
    world.roll_out("2", quick());
    world.tick();
    let ids: Vec<String> = world.state.fleet.iter().map(|d| d.id.to_string()).collect();
    // Devices act, but no report about the version is ever ingested.
    for second in 0..200 {
        world.now = world.now.plus_millis(1000);
        ids.iter().for_each(|id| world.follow(id));
        world.tick();
        if second == 5 {
            insta::assert_snapshot!("gate_waiting", show(&Plan::default(), &world.report));
        }
        assert_ne!(world.rollout("r2").state.stage(), Some(1), "no data is never a pass");
    }
    assert_eq!(world.phase("r2"), "paused");
    insta::assert_snapshot!("gate_never_heard", show(&Plan::default(), &world.report));
}

#[test]
fn a_bad_version_is_taken_back_from_everyone_and_poisoned() {
    let mut world = World::new();
    world.broken.insert("2".to_owned());
    world.roll_out("2", quick());
    let canaries = told(&world.tick());
    let mut back = Plan::default();
    for _ in 0..120 {
        let plan = world.pass(1000);
        if plan.steps.iter().any(|s| matches!(s, Step::SetDesired { desired, .. } if desired.intent == Intent::Rollback)) {
            back = plan;
            break;
        }
    }
    let sorted = |mut names: Vec<String>| {
        names.sort();
        names
    };
    assert_eq!(sorted(told(&back)), sorted(canaries.clone()), "exactly the exposed devices go back");
    let poison = back.steps.iter().position(|s| matches!(s, Step::MarkVersion { .. })).unwrap();
    let first = back.steps.iter().position(|s| matches!(s, Step::SetDesired { .. })).unwrap();
    assert!(poison < first);
    for id in &canaries {
        let desired = world.device(id).desired.clone().unwrap();
        assert_eq!(desired.version, Some(name("1")));
        assert_eq!(desired.generation.0, 3, "an older version under a higher generation");
    }
    insta::assert_snapshot!("gate_failed", show(&back, &world.report));
    until(&mut world, "rolled_back", "r2");
    world.settle();
    assert!(matches!(world.state.version(&line(), &name("2")).unwrap().status, VersionStatus::Poisoned { .. }));
    assert!(world.state.fleet.iter().all(|d| d.proves(manifest_of("1"))));
    assert_eq!(world.state.lines[&line()].champion(), Some(&name("1")));

    // Asked for again, it is refused and nobody is told.
    world.edit_rollout("r2", |r| r.id = name("old"));
    world.roll_out("2", quick());
    let plan = world.tick();
    assert_eq!(told(&plan), Vec::<String>::new());
    assert_eq!(world.phase("r2"), "aborted");
    insta::assert_snapshot!("poisoned", show(&plan, &world.report));
}

#[test]
fn a_rollback_waits_for_the_reachable_and_is_waiting_for_the_others() {
    let mut world = World::new();
    world.broken.insert("2".to_owned());
    let mut policy = quick();
    policy.stages.remove(0);
    world.roll_out("2", policy);
    let canaries = told(&world.tick());
    world.pass(1000);
    world.pass(1000);
    let away = canaries[0].clone();
    assert!(world.device(&away).runs(manifest_of("2")));
    world.online(&away, false);
    until(&mut world, "rolled_back", "r2");
    assert!(world.device(&away).runs(manifest_of("2")), "it does not know yet");
    assert_eq!(world.device(&away).desired.as_ref().unwrap().version, Some(name("1")));
    world.online(&away, true);
    world.settle();
    assert!(world.device(&away).proves(manifest_of("1")));
}

#[test]
fn one_canary_that_fails_by_the_model_is_enough_but_a_refused_signature_only_stops() {
    for (code, phase) in [
        ("golden-mismatch", "rolled_back"),
        ("crashed", "rolled_back"),
        ("digest-mismatch", "paused"),
        ("signature-invalid", "paused"),
        ("disk-full", "paused"),
    ] {
        let mut world = World::with(&["coast"], 10);
        world.takes.insert(("*".to_owned(), "2".to_owned()), Takes::Refuses(code));
        world.roll_out("2", quick());
        world.tick();
        let seconds = until(&mut world, phase, "r2");
        assert!(seconds < 10, "{code}: waiting longer would tell nothing more");
        let poisoned = matches!(world.state.version(&line(), &name("2")).unwrap().status, VersionStatus::Poisoned { .. });
        assert_eq!(poisoned, phase == "rolled_back", "{code}");
        assert_eq!(world.told().get("2").copied().unwrap_or(0), usize::from(phase == "paused"), "{code}");
        if code == "digest-mismatch" {
            insta::assert_snapshot!("refused_by_signature", show(&Plan::default(), &world.report));
        }
    }
}

#[test]
fn a_device_that_goes_back_alone_takes_its_success_back() {
    let mut world = World::new();
    let mut policy = quick();
    policy.stages.remove(0);
    world.roll_out("2", policy);
    let canaries = told(&world.tick());
    assert_eq!(canaries.len(), 15);
    for id in &canaries[..2] {
        world.takes.insert((id.clone(), "2".to_owned()), Takes::Reverts);
    }
    until(&mut world, "rolled_back", "r2");
    let parts = canaries.iter().map(|id| world.device(id).part.clone().unwrap());
    let (failed, fine): (Vec<_>, Vec<_>) = parts.partition(|p| p.failure.is_some());
    assert_eq!((failed.len(), fine.len()), (2, 13));
    assert!(failed.iter().all(|p| p.exposed_at.is_some() && p.proven_at.is_none()));
}

#[test]
fn a_paused_rollout_tells_nobody_and_is_still_judged() {
    let mut world = World::new();
    world.roll_out("2", quick());
    world.tick();
    world.settle();
    world.act("r2", Move::Pause { reason: "Lunch.".to_owned(), passed: false });
    for _ in 0..60 {
        assert_eq!(told(&world.pass(1000)), Vec::<String>::new());
    }
    insta::assert_snapshot!("paused", show(&Plan::default(), &world.report));
    world.broken.insert("2".to_owned());
    until(&mut world, "rolled_back", "r2");
}

#[test]
fn resuming_judges_the_paused_stage_again_and_promoting_moves_on() {
    let mut world = World::new();
    let mut policy = quick();
    policy.stages[0].on_success = OnSuccess::Pause;
    world.roll_out("2", policy);
    world.tick();
    until(&mut world, "paused", "r2");
    assert!(matches!(world.rollout("r2").state, RolloutState::Paused { stage: 0, passed: true, .. }));
    world.act("r2", Move::Promote { reason: "Looks good.".to_owned() });
    world.tick();
    assert_eq!(world.rollout("r2").state.stage(), Some(1));
    world.act("r2", Move::Pause { reason: "Wait.".to_owned(), passed: false });
    world.act("r2", Move::Resume { reason: "Go on.".to_owned() });
    assert!(matches!(world.rollout("r2").state, RolloutState::Running { stage: 1, soaking_since: None, .. }));
    world.act("r2", Move::PromoteAll { reason: "Everyone.".to_owned() });
    world.tick();
    assert_eq!(world.told().get("2"), Some(&60));
    world.act("r2", Move::Promote { reason: "Enough.".to_owned() });
    world.tick();
    assert_eq!(world.state.lines[&line()].champion(), Some(&name("2")), "a person's completion settles like any other");
}

#[test]
fn offline_devices_are_not_told_not_counted_and_not_forgotten() {
    let mut world = World::new();
    let away: Vec<String> = world.state.fleet.iter().filter(|d| d.id.as_str().starts_with("coast")).map(|d| d.id.to_string()).collect();
    away.iter().for_each(|id| world.online(id, false));
    world.roll_out("2", quick());
    let first = world.tick();
    assert!(told(&first).iter().all(|d| !away.contains(d)));
    insta::assert_snapshot!("offline", show(&first, &world.report));
    until(&mut world, "completed", "r2");
    assert_eq!(world.told().get("2"), Some(&60), "the twenty that were away wait for it in their retained state");
    assert!(away.iter().all(|id| world.device(id).part.is_none()));
    away.iter().for_each(|id| world.online(id, true));
    world.settle();
    assert!(world.state.fleet.iter().all(|d| d.proves(manifest_of("2"))));
}

#[test]
fn late_joiners_enter_at_the_stage_and_obey_share_and_rate() {
    let mut world = World::new();
    let policy = RolloutPolicy { max_per_minute: 5, max_in_flight: 100, ..quick() };
    world.roll_out("2", policy.clone());
    world.tick();
    for i in 0..40 {
        world.enrol(&format!("late-{i:02}"), "coast");
    }
    let plan = world.tick();
    let twos = |plan: &Plan| {
        plan.steps.iter().filter(|s| matches!(s, Step::SetDesired { desired, .. } if desired.version == Some(name("2")))).count()
    };
    assert_eq!(twos(&plan), 2, "5 % of 100 are five, three have it already");
    assert_eq!(told(&plan).len(), 40, "the others get their cohort's last known good");
    insta::assert_snapshot!(
        "late_joiners",
        show(
            &Plan {
                steps: plan
                    .steps
                    .iter()
                    .filter(|s| !matches!(s, Step::SetDesired { desired, .. } if desired.rollout.is_none()))
                    .cloned()
                    .collect(),
                wake_at: None
            },
            &world.report
        )
    );
    let mut minute = Vec::new();
    for _ in 0..300 {
        minute.push(twos(&world.pass(1000)));
        assert!(minute.iter().rev().take(60).sum::<usize>() <= 5, "never more than five a minute");
    }

    let mut frozen = World::new();
    let mut policy = quick();
    policy.stages.iter_mut().for_each(|s| s.membership = Membership::Frozen);
    frozen.roll_out("2", policy);
    frozen.tick();
    frozen.now = frozen.now.plus_millis(1);
    for i in 0..40 {
        frozen.enrol(&format!("late-{i:02}"), "coast");
    }
    assert_eq!(twos(&frozen.tick()), 0);
}

#[test]
fn in_flight_and_overdue_devices_are_bounded_and_visible() {
    let mut world = World::new();
    let mut policy = RolloutPolicy { max_in_flight: 4, ..quick() };
    policy.stages.remove(0);
    // Four of fifteen will be stuck.
    policy.stages[0].success_share = 0.7;
    world.roll_out("2", policy);
    assert_eq!(told(&world.tick()).len(), 4);
    let stuck: Vec<String> =
        world.state.fleet.iter().filter(|d| d.part.as_ref().is_some_and(|p| p.arm == Arm::Canary)).map(|d| d.id.to_string()).collect();
    for id in &stuck {
        world.takes.insert((id.clone(), "2".to_owned()), Takes::Hangs);
    }
    for _ in 0..29 {
        assert_eq!(told(&world.pass(1000)), Vec::<String>::new());
    }
    assert_eq!(told(&world.pass(1000)).len(), 4, "overdue devices hold nobody up");
    world.pass(1000);
    insta::assert_snapshot!("overdue", show(&Plan::default(), &world.report));
    until(&mut world, "completed", "r2");
    assert_eq!(world.report.rollouts.len(), 0);
}

#[test]
fn one_rollout_per_line_and_the_next_one_says_what_it_waits_for() {
    let mut world = World::new();
    world.roll_out("2", quick());
    world.tick();
    world.roll_out("3", quick());
    world.pass(1000);
    assert_eq!(world.phase("r3"), "planned");
    assert_eq!(world.report.rollouts[&name("r3")].headline, "Waits for rollout r2 of the same line, which is running.");
    until(&mut world, "completed", "r3");
    assert_eq!(world.told().get("3"), Some(&60));
}

#[test]
fn aborting_sends_everyone_back_without_poisoning() {
    let mut world = World::new();
    world.roll_out("2", quick());
    world.tick();
    world.settle();
    let meaning = world.report.rollouts[&name("r2")].if_aborted.clone();
    assert_eq!(meaning.len(), 3);
    assert!(meaning[0].starts_with("15 devices that run the version go back"), "{meaning:?}");
    assert!(meaning[1].starts_with("45 devices that have not been told"), "{meaning:?}");
    world.act("r2", Move::Abort { reason: "Changed our mind.".to_owned() });
    until(&mut world, "aborted", "r2");
    assert_eq!(world.told().get("1"), Some(&60));
    assert_eq!(world.state.version(&line(), &name("2")).unwrap().status, VersionStatus::Published);
}

#[test]
fn a_first_version_is_judged_absolutely_and_a_bad_first_one_stays_where_it_is() {
    let mut world = World::bare(&["coast"], 20);
    world.roll_out("1", quick());
    let plan = world.tick();
    assert_eq!(told(&plan).len(), 1);
    until(&mut world, "completed", "r1");
    assert!(world.state.fleet.iter().all(|d| d.proves(manifest_of("1"))));

    let mut bad = World::bare(&["coast"], 20);
    bad.roll_out("1", quick());
    bad.tick();
    bad.pass(1000);
    bad.act("r1", Move::Abort { reason: "No.".to_owned() });
    until(&mut bad, "aborted", "r1");
    let held = bad.state.fleet.iter().filter(|d| d.desired.as_ref().is_some_and(|d| d.intent == Intent::Hold)).count();
    assert_eq!(held, 1);
}

#[test]
fn an_approval_must_come_from_somebody_else() {
    let mut world = World::new();
    world.roll_out("2", RolloutPolicy { require_approval: true, ..quick() });
    assert_eq!(world.tick().steps, []);
    let now = world.now;
    let approve = Move::Approve { remark: "Fine.".to_owned() };
    world.edit_rollout("r2", |r| r.make(&approve, &crate::rollout::Actor::Person("ada".to_owned()), now).unwrap());
    assert_eq!(world.tick().steps, [], "ada created it");
    world.act("r2", approve);
    assert_eq!(told(&world.tick()).len(), 3);
}

#[test]
fn a_yanked_champion_is_replaced_by_the_one_before() {
    let mut world = World::new();
    world.roll_out("2", quick());
    until(&mut world, "completed", "r2");
    let versions = Arc::make_mut(&mut world.state.versions);
    Arc::make_mut(versions.get_mut(&(line(), name("2"))).unwrap()).status = VersionStatus::Yanked { reason: "Licence.".to_owned() };
    let plan = world.tick();
    assert_eq!(told(&plan).len(), 60);
    assert_eq!(world.state.lines[&line()].champion(), Some(&name("1")));
    world.settle();
    assert!(world.state.fleet.iter().all(|d| d.proves(manifest_of("1"))));
}

#[test]
fn a_failed_device_is_told_again_only_when_a_person_asks() {
    let mut world = World::new();
    let mut policy = quick();
    policy.stages.remove(0);
    world.roll_out("2", policy);
    let canaries = told(&world.tick());
    let id = canaries[0].as_str();
    world.takes.insert((id.to_owned(), "2".to_owned()), Takes::Refuses("disk-full"));
    world.settle();
    assert_eq!(world.device(id).desired.as_ref().unwrap().generation.0, 2);
    world.takes.clear();
    world.state.fleet.device_mut(&name(id)).unwrap().retry = true;
    world.settle();
    let device = world.device(id);
    assert_eq!(device.desired.as_ref().unwrap().generation.0, 3);
    assert!(device.proves(manifest_of("2")) && !device.retry);
    assert_eq!(device.part.as_ref().unwrap().attempts, 2);
}

#[test]
fn silence_after_exposure_counts_against_the_version_only_beside_a_control_group_that_is_heard() {
    let mut world = World::new();
    let mut policy = quick();
    policy.stages.remove(0);
    policy.stages[0].soak_ms = 600_000;
    world.roll_out("2", policy);
    let canaries = told(&world.tick());
    world.settle();
    canaries.iter().take(14).for_each(|id| world.online(id, false));
    for _ in 0..59 {
        world.pass(1000);
    }
    assert_eq!(world.phase("r2"), "running", "brief absence is no verdict");
    until(&mut world, "rolled_back", "r2");

    // The same with the whole fleet gone: an outage, not a bad model.
    let mut world = World::new();
    let mut policy = quick();
    policy.stages.remove(0);
    policy.stages[0].soak_ms = 600_000;
    world.roll_out("2", policy);
    world.tick();
    world.settle();
    let all: Vec<String> = world.state.fleet.iter().map(|d| d.id.to_string()).collect();
    all.iter().for_each(|id| world.online(id, false));
    for _ in 0..100 {
        world.pass(1000);
    }
    assert_ne!(world.phase("r2"), "rolled_back");
    assert_ne!(world.report.rollouts[&name("r2")].gate.as_ref().unwrap().outcome, Outcome::Pass);
}
