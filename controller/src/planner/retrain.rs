//! Asking for a better model, and bringing out what came of it.
//!
//! Whether there is reason to ask is decided by [`crate::retraining::trigger`]; here its answer becomes a step, or sentences in
//! the line's report. A version that training brought is rolled out by the line's own policy, once, unless one of its
//! ancestors failed in the fleet: a child of a bad parent is shown to a person instead.
use std::sync::Arc;

use leeway_protocol::digest::Digest;
use leeway_protocol::ids::{Line, RolloutId, Version};

use super::draft::Draft;
use super::plan::Step;
use super::report::say;
use crate::registry::lineage::poisoned_ancestor;
use crate::registry::{ModelLine, ModelVersion, VersionStatus};
use crate::retraining::job::{JobState, RetrainRequest, TrainingJob};
use crate::retraining::trigger::{self, Ask, Condition};
use crate::rollout::{Actor, Rollout, RolloutSpec};

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

/// Roll out every version a job has published, once.
fn bring_out(draft: &mut Draft<'_>, line: &ModelLine) {
    let jobs: Vec<Arc<TrainingJob>> = draft.state.jobs.values().filter(|j| j.request.line == line.line).cloned().collect();
    for job in jobs {
        let JobState::Published { version } = &job.state else { continue };
        let Some(version) = draft.state.version(&line.line, version).cloned() else { continue };
        if version.status != VersionStatus::Published || draft.state.rollouts.values().any(|r| is_of(r, &version)) {
            continue;
        }
        let newer = line.champion().and_then(|c| draft.state.version(&line.line, c)).is_some_and(|c| c.seq >= version.seq);
        if newer {
            continue;
        }
        let bad = poisoned_ancestor(&version, &draft.state.manifests()).map(|v| v.version.clone());
        if let Some(ancestor) = bad {
            let why = format!(
                "Version {} is not rolled out by itself: it descends from {ancestor}, which failed in the fleet. A person may.",
                version.version
            );
            say(&mut draft.report.lines.entry(line.line.clone()).or_default().why, why);
            continue;
        }
        create(draft, line, &version, &job);
    }
}

fn is_of(rollout: &Rollout, version: &ModelVersion) -> bool {
    rollout.spec.line == version.line && rollout.spec.version == version.version
}

fn create(draft: &mut Draft<'_>, line: &ModelLine, version: &ModelVersion, job: &TrainingJob) {
    let Some(id) = rollout_id(&version.line, &version.version) else { return };
    let baseline = line.champion().cloned();
    let spec = RolloutSpec { line: line.line.clone(), version: version.version.clone(), baseline, policy: line.rollout.clone() };
    let reason = format!("Training job {} brought version {}: {}", job.request.id, version.version, job.request.reason);
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
    }
    let ask = trigger::decide(&policy, &conditions, jobs.iter().map(Arc::as_ref), rollout_open, now)?;
    if ask.cohorts.len() < line.retrain.min_cohorts as usize {
        return Err(vec![format!("{} cohorts have a reason to retrain; {} are needed.", ask.cohorts.len(), line.retrain.min_cohorts)]);
    }
    let Ask { trigger, cohorts, reason, evidence } = ask;
    let id = format!("{}-{}", line.line, now.as_millis());
    let (line, parent) = (line.line.clone(), champion.version.clone());
    draft.push(Step::RequestRetraining { request: RetrainRequest { id, line, parent, trigger, cohorts, reason, evidence, asked_at: now } });
    Ok(())
}

/// What is known about the line's cohorts; health of another version than the champion says nothing about it.
fn conditions(draft: &Draft<'_>, line: &ModelLine, champion: &ModelVersion) -> Vec<Condition> {
    let mut conditions = Vec::new();
    for cohort in draft.cohorts(&line.line) {
        let Some(health) = draft.state.health.get(&cohort.name).filter(|h| h.manifest == Some(champion.manifest.digest)) else { continue };
        conditions.push(Condition {
            cohort: Some(cohort.name.clone()),
            moved: health.moved.iter().map(|(name, sentence)| (name.clone(), sentence.clone())).collect(),
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
