//! Judging a stage: the gate, the soak, the deadline, and the report that says which of them holds things up.
use std::sync::Arc;

use leeway_protocol::time::Timestamp;

use super::passed;
use super::scene::Scene;
use super::slices::{self, Judgement};
use crate::planner::draft::{Draft, devices, duration};
use crate::planner::plan::Step;
use crate::planner::report::{Condition, RolloutReport, say};
use crate::replay::{Basis, Inputs};
use crate::rollout::evidence::Outcome;
use crate::rollout::gate::{GateReport, Question, judge};
use crate::rollout::standing::millis;
use crate::rollout::{Move, RolloutState, Standing};

/// Milliseconds as time arithmetic has them.
pub(super) fn ms(ms: u64) -> i64 {
    millis(ms)
}

/// At most one move of the rollout, and its report.
pub(super) fn decide(draft: &mut Draft<'_>, scene: &Scene) {
    let gate = ask(draft, scene);
    let steps = draft.steps();
    let mut report =
        RolloutReport { headline: scene.headline(), counts: scene.counts, failures: scene.failures(), ..RolloutReport::default() };
    report.if_aborted = if_aborted(scene);
    let to = match (&scene.rollout.state, gate.outcome) {
        (_, Outcome::Fail) => for_whom(draft, scene, &gate, &mut report),
        (RolloutState::Running { .. }, _) => running(draft, scene, &gate, &mut report),
        (RolloutState::Paused { .. }, outcome) => {
            say(&mut report.why, "Paused: nobody new is told; the gate goes on judging.");
            if outcome == Outcome::Inconclusive {
                say(&mut report.why, gate.sentence.clone());
            }
            None
        }
        _ => None,
    };
    explain(scene, &mut report);
    report.conditions = conditions(scene, &gate);
    report.gate = Some(gate.clone());
    draft.report.rollouts.insert(scene.rollout.id.clone(), report);
    if let Some(to) = to {
        draft.push(Step::MoveRollout { rollout: scene.rollout.id.clone(), to });
    }
    if draft.steps() > steps {
        let basis = basis(draft, scene, &gate);
        draft.base(basis);
    }
}

/// The gate has failed: everyone goes back, or one part of the fleet does, or those on the way are waited for.
fn for_whom(draft: &mut Draft<'_>, scene: &Scene, gate: &GateReport, report: &mut RolloutReport) -> Option<Move> {
    match slices::judge(draft, scene, gate) {
        Judgement::Everyone(to) => Some(to),
        Judgement::Slice(step) => {
            draft.push(*step);
            None
        }
        Judgement::Wait(sentence) => {
            say(&mut report.why, sentence);
            None
        }
    }
}

/// Whether the gate fails as things stand.
pub(super) fn fails(draft: &Draft<'_>, scene: &Scene) -> bool {
    gate(draft, scene).outcome == Outcome::Fail
}

/// The gate with what is asked of versions whose ancestors failed somewhere.
pub(super) fn ask(draft: &Draft<'_>, scene: &Scene) -> GateReport {
    gate(draft, scene).beside(slices::checks(draft, scene))
}

/// What the gate says about the devices of `scene`.
pub(super) fn gate(draft: &Draft<'_>, scene: &Scene) -> GateReport {
    asked(draft, scene, judge)
}

/// Put the gate's question about the devices of `scene`.
fn asked<T>(draft: &Draft<'_>, scene: &Scene, answer: impl FnOnce(&Question<'_>) -> T) -> T {
    let evidence: Option<&Arc<_>> = draft.state.evidence.get(&scene.rollout.id);
    let evidence = evidence.map(Arc::as_ref).filter(|e| e.manifest.is_none_or(|m| m == scene.version.manifest.digest));
    // What devices showed that are not part of this any more says nothing about the others.
    let left_out = scene.left_out();
    let rest = evidence.filter(|_| !left_out.is_empty()).map(|evidence| evidence.without(&left_out));
    let evidence = rest.as_ref().or(evidence);
    answer(&Question {
        policy: &scene.rollout.spec.policy.gate,
        evidence,
        failures: scene.failures(),
        counts: &scene.counts,
        reach: scene.reach(),
        by_slice: !scene.rollout.spec.policy.slice_by.is_empty(),
        has_baseline: scene.rollout.spec.baseline.is_some(),
        soaking_since: scene.soaking_since,
        stage: scene.outcome(),
        abort: &scene.rollout.spec.policy.abort,
        dismissed: &scene.rollout.dismissed,
        compare: draft.policy().compare,
    })
}

/// What a step that was just taken was made from.
fn basis(draft: &Draft<'_>, scene: &Scene, said: &GateReport) -> Basis {
    let inputs = asked(draft, scene, Inputs::of).with_besides_of(said);
    Basis { rollout: scene.rollout.id.clone(), inputs, said: said.clone() }
}

/// What a running stage whose gate has not failed does next.
fn running(draft: &mut Draft<'_>, scene: &Scene, gate: &GateReport, report: &mut RolloutReport) -> Option<Move> {
    let now = draft.now();
    if let Some(alarm) = gate.alarm() {
        return Some(Move::Pause { reason: format!("An alarm stands: {alarm} Dismiss it, or end the rollout."), passed: false });
    }
    let filled = scene.is_filled();
    let Some(since) = scene.soaking_since else {
        if filled && scene.counts.running > 0 {
            let reason =
                format!("Stage {} is filled: {} run version {}.", scene.stage.name, devices(scene.counts.running), scene.version.version);
            return Some(Move::Soak { reason });
        }
        if let Some(reason) = hopeless(scene, filled) {
            return Some(Move::Pause { reason, passed: false });
        }
        if scene.counts.deferred > 0 && scene.counts.in_flight() == 0 {
            // Their windows open when they open; a device whose window never does is overdue in the end.
            return None;
        }
        return deadline(draft, scene, scene.last_progress(), "The stage did not fill in time", gate, report);
    };
    if scene.counts.running == 0 {
        return Some(Move::Unsoak { reason: "No device proves to run the version any more; the soak begins anew.".to_owned() });
    }
    let soaked_at = since.plus_millis(ms(scene.stage.soak_ms));
    report.soaked_at = Some(soaked_at);
    draft.wake(soaked_at);
    if now < soaked_at {
        say(&mut report.why, format!("Soaks for another {}.", duration(soaked_at.millis_since(now))));
    }
    match gate.outcome {
        Outcome::Pass if now >= soaked_at => {
            if let Err(sentence) = passed(draft, scene, &gate.sentence) {
                say(&mut report.why, sentence);
            }
            None
        }
        Outcome::Pass => None,
        _ => {
            say(&mut report.why, gate.sentence.clone());
            let from = since.max(scene.since);
            deadline(draft, scene, from.max(soaked_at), "No verdict by the deadline", gate, report)
        }
    }
}

/// Everyone who could be told has refused or fallen overdue: waiting for the deadline would tell nothing more.
fn hopeless(scene: &Scene, filled: bool) -> Option<String> {
    let counts = &scene.counts;
    if !filled || counts.told() == 0 || counts.running > 0 || scene.retries_pending() {
        return None;
    }
    let refused = scene.first_failed().and_then(|device| device.part_in(&scene.rollout.id)?.failure.clone());
    let why = match refused {
        Some(reason) => format!(" The first reason: {reason}"),
        None => String::new(),
    };
    Some(format!(
        "None of {} told in stage {} runs the version: {} refused it or went back, {} overdue, {} silent since they ran it.{why}",
        devices(counts.told()),
        scene.stage.name,
        counts.failed_otherwise + counts.failed_by_model,
        counts.overdue + counts.unanswered,
        counts.lost
    ))
}

fn deadline(
    draft: &mut Draft<'_>,
    scene: &Scene,
    from: Timestamp,
    what: &str,
    gate: &GateReport,
    report: &mut RolloutReport,
) -> Option<Move> {
    let at = from.plus_millis(ms(scene.stage.deadline_ms));
    report.deadline_at = Some(at);
    draft.wake(at);
    if draft.now() < at {
        return None;
    }
    let reason = format!("{what} ({}): {}", duration(ms(scene.stage.deadline_ms)), gate.sentence);
    Some(Move::Pause { reason, passed: false })
}

/// Who holds things up, in the order of what a person can do about it.
fn explain(scene: &Scene, report: &mut RolloutReport) {
    let counts = &scene.counts;
    let mut tell = |count: usize, places: &[Standing], what: &str| {
        if count > 0 {
            let names = scene.names(places);
            say(&mut report.why, format!("{} {what}: {names}.", devices(count)));
        }
    };
    tell(counts.failed_by_model, &[Standing::FailedByModel], "refused the version or went back, because of the model");
    tell(counts.lost, &[Standing::Lost], "ran the version and have been silent since");
    tell(counts.failed_otherwise, &[Standing::FailedOtherwise], "refused the version for reasons that do not speak against the model");
    tell(counts.overdue, &[Standing::Overdue], "overdue, not counted for or against the model");
    tell(counts.unanswered, &[Standing::Unanswered], "told, and took no note of it in time");
    tell(counts.deferred, &[Standing::Deferred], "waiting for their maintenance window");
    tell(counts.in_flight(), &[Standing::Unseen, Standing::Installing, Standing::OnTrial], "on the way");
    if counts.unreachable > 0 {
        say(
            &mut report.why,
            format!("{} away for too long to wait for: left out of the stage until they return.", devices(counts.unreachable)),
        );
    }
    if counts.held_back > 0 {
        say(&mut report.why, format!("{} held back one version behind, until a person releases them.", devices(counts.held_back)));
    }
    if counts.away > 0 && scene.places() > 0 {
        say(&mut report.why, format!("{} offline: told when they return.", devices(counts.away)));
    }
    if counts.waiting > 0 && scene.places() > 0 {
        say(&mut report.why, format!("{} wait for their turn (rate and in-flight caps).", devices(counts.waiting)));
    }
    if counts.waiting > 0 && scene.places() == 0 {
        say(
            &mut report.why,
            format!("{} wait for a later stage: this one allows {} of {}.", devices(counts.waiting), counts.allowed, counts.members),
        );
    }
}

fn conditions(scene: &Scene, gate: &GateReport) -> Vec<Condition> {
    let counts = &scene.counts;
    let condition = |kind: &str, status: Option<bool>, reason: &str, message: String| Condition {
        kind: kind.to_owned(),
        status,
        reason: reason.to_owned(),
        message,
    };
    let (passing, reason) = match gate.outcome {
        Outcome::Pass => (Some(true), "Passed"),
        Outcome::Fail => (Some(false), "MetricRegressed"),
        Outcome::Inconclusive => (None, "Inconclusive"),
    };
    let paused = matches!(scene.rollout.state, RolloutState::Paused { .. });
    let mut all = vec![
        condition("Progressing", Some(!paused), if paused { "Paused" } else { "Running" }, scene.headline()),
        condition("GatePassing", passing, reason, gate.sentence.clone()),
    ];
    let heard = gate.checks.iter().find(|c| c.name == "inferences");
    if let Some(check) = heard {
        let (arriving, reason) = match check.outcome {
            Outcome::Pass => (Some(true), "Heard"),
            _ if scene.soaking_since.is_none() => (None, "Filling"),
            _ => (Some(false), "Waiting"),
        };
        all.push(condition("TelemetryArriving", arriving, reason, check.sentence.clone()));
    }
    if scene.holds_control() {
        let missing = scene.missing_control();
        let message = format!("{} held back to compare with; {missing} missing.", devices(counts.control));
        all.push(condition("ControlHeld", Some(counts.control > 0), if missing == 0 { "Held" } else { "Missing" }, message));
    }
    let away = counts.away + counts.lost + counts.unreachable;
    let message = format!("{} of the stage's {} members cannot be reached.", devices(away), counts.members + counts.unreachable);
    all.push(condition("DevicesReachable", Some(away == 0), if away == 0 { "Reachable" } else { "Away" }, message));
    all
}

/// What ending it now would mean.
fn if_aborted(scene: &Scene) -> Vec<String> {
    let counts = &scene.counts;
    let never = counts.members.saturating_sub(counts.told());
    vec![
        format!("{} that run the version go back to their cohort's last known good.", devices(counts.running + counts.lost)),
        format!("{} that have not been told never will be.", devices(never)),
        format!(
            "{} in the middle of it stop where they are, and go back if they have already switched.",
            devices(counts.in_flight() + counts.deferred + counts.overdue + counts.unanswered)
        ),
    ]
}
