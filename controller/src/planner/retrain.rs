//! Asking for a better model, and bringing out what came of it.
//!
//! Whether there is reason to ask is decided by [`crate::retraining::trigger`]; here its answer becomes a step, or sentences in
//! the line's report. A version that training brought is rolled out by the line's own policy, once, unless one of its
//! ancestors failed in the fleet: a child of a bad parent is shown to a person instead.
use std::sync::Arc;

use leeway_protocol::digest::Digest;
use leeway_protocol::ids::{Line, RolloutId, Version};
use leeway_protocol::time::Timestamp;

use super::draft::Draft;
use super::plan::Step;
use super::report::say;
use crate::registry::lineage::poisoned_ancestor;
use crate::registry::{ModelLine, ModelVersion, VersionStatus};
use crate::retraining::job::{JobState, RetrainRequest, TrainingJob};
use crate::retraining::trigger::{self, Ask, Condition, Limit, Load, Withheld};
use crate::rollout::{Actor, Rollout, RolloutSpec};
use crate::snapshot::Snapshot;

/// Bring out what is ready, and ask for what is needed.
pub fn decide(draft: &mut Draft<'_>) {
    let lines: Vec<Arc<ModelLine>> = draft.state.lines.values().cloned().collect();
    for line in lines {
        bring_out(draft, &line);
        if let Err(why) = ask(draft, &line) {
            let report = draft.report.lines.entry(line.line.clone()).or_default();
            why.into_iter().for_each(|sentence| say(&mut report.why, sentence));
        }
    }
}

/// Roll out every version a job has published, once. Where a risk budget stands in between, looking ahead takes seconds and is done
/// outside of planning ([`to_foresee`]).
fn bring_out(draft: &mut Draft<'_>, line: &ModelLine) {
    for (version, job) in brought(&draft.state, line) {
        let why = if let Some(ancestor) = poisoned(&draft.state, &version) {
            format!(
                "Version {} is not rolled out by itself: it descends from {ancestor}, which failed in the fleet. A person may.",
                version.version
            )
        } else if line.rollout.risk.is_some() {
            format!(
                "Version {} is rolled out by itself only within the risk budget of its line; the event log says where it breaks it.",
                version.version
            )
        } else {
            create(draft, line, &version, &job);
            continue;
        };
        say(&mut draft.report.lines.entry(line.line.clone()).or_default().why, why);
    }
}

/// Versions that a job has published, that no rollout has brought out, and that are newer than the champion.
fn brought(state: &Snapshot, line: &ModelLine) -> Vec<(Arc<ModelVersion>, Arc<TrainingJob>)> {
    let jobs = state.jobs.values().filter(|job| job.request.line == line.line);
    let champion = line.champion().and_then(|champion| state.version(&line.line, champion));
    jobs.filter_map(|job| {
        let JobState::Published { version } = &job.state else { return None };
        let version = state.version(&line.line, version)?;
        let is_out = state.rollouts.values().any(|rollout| is_of(rollout, version));
        let is_older = champion.is_some_and(|champion| champion.seq >= version.seq);
        (version.status == VersionStatus::Published && !is_out && !is_older).then(|| (version.clone(), job.clone()))
    })
    .collect()
}

fn poisoned(state: &Snapshot, version: &ModelVersion) -> Option<Version> {
    poisoned_ancestor(version, &state.manifests()).map(|ancestor| ancestor.version.clone())
}

/// Versions that training has brought and that are rolled out once they are foreseen to keep to their line's risk budget, each with the
/// reason of its rollout.
pub fn to_foresee(state: &Snapshot) -> Vec<(Arc<ModelVersion>, String)> {
    let lines = state.lines.values().filter(|line| line.rollout.risk.is_some());
    let brought = lines.flat_map(|line| brought(state, line));
    let sound = brought.filter(|(version, _)| poisoned(state, version).is_none());
    sound.map(|(version, job)| (version.clone(), reason(&version, &job))).collect()
}

fn reason(version: &ModelVersion, job: &TrainingJob) -> String {
    format!("Training job {} brought version {}: {}", job.request.id, version.version, job.request.reason)
}

/// The rollout that brought a version out, the latest if there were several.
pub fn rollout_of<'a>(state: &'a Snapshot, line: &Line, version: &Version) -> Option<&'a Rollout> {
    let of = state.rollouts.values().filter(|rollout| rollout.spec.line == *line && rollout.spec.version == *version);
    of.max_by_key(|rollout| rollout.created_at).map(Arc::as_ref)
}

fn is_of(rollout: &Rollout, version: &ModelVersion) -> bool {
    rollout.spec.line == version.line && rollout.spec.version == version.version
}

fn create(draft: &mut Draft<'_>, line: &ModelLine, version: &ModelVersion, job: &TrainingJob) {
    let Some(id) = rollout_id(&version.line, &version.version) else { return };
    let baseline = line.champion().cloned();
    let spec = RolloutSpec { line: line.line.clone(), version: version.version.clone(), baseline, policy: line.rollout.clone() };
    let reason = reason(version, job);
    let rollout = Rollout::new(id, spec, reason, Actor::Controller, draft.now());
    draft.push(Step::CreateRollout { rollout: Box::new(rollout) });
}

/// The name of a version's rollout: `rain-auto-3`; shortened by a digest if that is too long for a name.
pub fn rollout_id(line: &Line, version: &Version) -> Option<RolloutId> {
    let plain = format!("{line}-{version}");
    plain.parse().ok().or_else(|| format!("{line}-{}", Digest::of(plain.as_bytes()).short()).parse().ok())
}

/// Ask for a better model, or say why not.
fn ask(draft: &mut Draft<'_>, line: &ModelLine) -> Result<(), Vec<String>> {
    let missing = |what: &str| vec![format!("{what}; there is nothing to retrain.")];
    let champion = line.champion().ok_or_else(|| missing("There is no champion"))?;
    let champion = draft.state.version(&line.line, champion).ok_or_else(|| missing("The champion is not registered"))?.clone();
    let conditions = conditions(draft, line, &champion);
    let jobs: Vec<Arc<TrainingJob>> = draft.state.jobs.values().filter(|j| j.request.line == line.line).cloned().collect();
    let rollout_open = draft.state.rollouts.values().any(|r| r.spec.line == line.line && !r.state.is_over());
    let (policy, now) = (line.retrain.trigger(), draft.now());
    for job in &jobs {
        draft.wake(job.updated_at.plus_millis(policy.cool_down_ms));
        draft.wake(job.request.asked_at.plus_millis(policy.period_ms));
        draft.wake(job.request.asked_at.plus_millis(trigger::limits::MONTH_MS));
    }
    let known: Vec<&TrainingJob> = jobs.iter().map(Arc::as_ref).collect();
    let load = Load { jobs: &known, rollout_open, rows: 0, cohorts: None, since: line.created_at, now };
    if let Some(at) = trigger::next_on_schedule(&policy, &load) {
        draft.wake(at);
    }
    match trigger::decide(&policy, &conditions, &load) {
        Ok(Ask { trigger, cohorts, reason, evidence, .. }) => {
            let id = format!("{}-{}", line.line, now.as_millis());
            let (line, parent, cost) = (line.line.clone(), champion.version.clone(), policy.cost_per_run);
            let request = RetrainRequest { id, line, parent, trigger, cohorts, reason, evidence, asked_at: now, cost };
            draft.push(Step::RequestRetraining { request });
            Ok(())
        }
        Err(no) => {
            if let Some((trigger, reason, refusals)) = no.withheld {
                withhold(draft, line, Withheld::new(trigger, &reason, &refusals, now), load.last_asked());
            }
            Err(no.why)
        }
    }
}

/// Write down that there was cause, once. A job or a rollout that is under way is the answer to the cause, and not a refusal of it.
fn withhold(draft: &mut Draft<'_>, line: &ModelLine, withheld: Withheld, last_asked: Option<Timestamp>) {
    let answered = withheld.limits.contains(&Limit::JobOpen) || withheld.limits.contains(&Limit::RolloutOpen);
    if !answered && withheld.is_news(&line.withheld, last_asked) {
        draft.push(Step::WithholdRetraining { line: line.line.clone(), withheld });
    }
}

/// What is known about the line's cohorts; health of another version than the champion says nothing about it.
fn conditions(draft: &Draft<'_>, line: &ModelLine, champion: &ModelVersion) -> Vec<Condition> {
    let mut conditions = Vec::new();
    for cohort in draft.cohorts(&line.line) {
        let Some(health) = draft.state.health.get(&cohort.name).filter(|h| h.manifest == Some(champion.manifest.digest)) else { continue };
        conditions.push(Condition {
            cohort: Some(cohort.name.clone()),
            // What one feature alone would cost is an estimate; a loss that is measured counts whatever moved.
            moved: health.moved.iter().chain(&health.harmless).map(|(name, sentence)| (name.clone(), sentence.clone())).collect(),
            outputs: health.outputs.clone(),
            concept_drift: health.concept_drift,
            expected: health.expected_accuracy,
            measured: health.measured_accuracy,
            estimated: health.estimated_accuracy,
            rows: health.labelled_rows,
        });
    }
    conditions
}
