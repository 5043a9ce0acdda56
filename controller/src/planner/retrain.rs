//! Asking for a better model, and bringing out what came of it.
//!
//! An alarm is not a reason: features may move without hurting. The planner asks when enough cohorts have both, an alarm and a
//! loss of accuracy (measured where there are labels, estimated where there are not), and then not more often than the line's
//! policy allows. Every condition that is not met is a sentence in the line's report. A version that training brought is
//! rolled out by the line's own policy, once, unless one of its ancestors failed in the fleet: a child of a bad parent is
//! shown to a person instead.
use std::sync::Arc;

use leeway_protocol::digest::Digest;
use leeway_protocol::ids::{Cohort, Line, RolloutId, Version};

use super::draft::{Draft, duration};
use super::plan::Step;
use super::report::say;
use crate::registry::lineage::poisoned_ancestor;
use crate::registry::{ModelLine, ModelVersion, RetrainPolicy, VersionStatus};
use crate::retraining::job::{JobState, RetrainRequest, TrainingJob, Trigger};
use crate::rollout::standing::millis;
use crate::rollout::{Actor, Rollout, RolloutSpec};
use crate::snapshot::CohortHealth;

/// Bring out what is ready, and ask for what is needed.
pub fn decide(draft: &mut Draft<'_>) {
    let lines: Vec<Arc<ModelLine>> = draft.state.lines.values().cloned().collect();
    for line in lines {
        bring_out(draft, &line);
        if let Err(why) = ask(draft, &line) {
            say(&mut draft.report.lines.entry(line.line.clone()).or_default().why, why);
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
fn ask(draft: &mut Draft<'_>, line: &ModelLine) -> Result<(), String> {
    let policy = &line.retrain;
    if !policy.enabled {
        return Err("Retraining is switched off for this line.".to_owned());
    }
    let champion = line.champion().ok_or("There is no champion to retrain.")?;
    let champion = draft.state.version(&line.line, champion).ok_or("The champion is not registered.")?.clone();
    let hurt = hurting(draft, line, &champion, policy);
    if hurt.cohorts.is_empty() || hurt.cohorts.len() < policy.min_cohorts as usize {
        return Err(hurt.why_not(policy));
    }
    blocked(draft, line, policy)?;
    if hurt.rows < policy.min_rows {
        return Err(format!("{} labelled rows were captured; {} are needed to train.", hurt.rows, policy.min_rows));
    }
    let at = draft.now();
    let names = hurt.cohorts.iter().map(Cohort::as_str).collect::<Vec<_>>().join(", ");
    let reason =
        format!("{} moved and accuracy fell in {names}: version {} is to be retrained.", features(&hurt.features), champion.version);
    let request = RetrainRequest {
        id: format!("{}-{}", line.line, at.as_millis()),
        line: line.line.clone(),
        parent: champion.version.clone(),
        trigger: Trigger::Drift { features: hurt.features.clone() },
        cohorts: hurt.cohorts.clone(),
        reason,
        evidence: hurt.evidence,
        asked_at: at,
    };
    draft.push(Step::RequestRetraining { request });
    Ok(())
}

fn features(names: &[String]) -> String {
    match names {
        [one] => format!("Feature {one}"),
        [first, second] => format!("Features {first} and {second}"),
        [first, .., last] => format!("{} features ({first} to {last})", names.len()),
        [] => "No feature".to_owned(),
    }
}

/// One job and one rollout at a time, not too soon, not too often.
fn blocked(draft: &mut Draft<'_>, line: &ModelLine, policy: &RetrainPolicy) -> Result<(), String> {
    let now = draft.now();
    let jobs: Vec<Arc<TrainingJob>> = draft.state.jobs.values().filter(|j| j.request.line == line.line).cloned().collect();
    if let Some(job) = jobs.iter().find(|j| j.state.is_open()) {
        return Err(format!("Training job {} is {} already.", job.request.id, job.state.as_str()));
    }
    if let Some(rollout) = draft.state.rollouts.values().find(|r| r.spec.line == line.line && !r.state.is_over()) {
        return Err(format!("Rollout {} is {}; its outcome is awaited first.", rollout.id, rollout.state.phase()));
    }
    let asked = |j: &Arc<TrainingJob>| j.request.asked_at;
    if let Some(last) = jobs.iter().map(asked).max() {
        let free_at = last.plus_millis(millis(policy.cool_down_ms));
        if now < free_at {
            draft.wake(free_at);
            return Err(format!(
                "The last request was made {} ago; the next may come in {}.",
                duration(now.millis_since(last)),
                duration(free_at.millis_since(now))
            ));
        }
    }
    let period = millis(policy.period_ms);
    let recent: Vec<_> = jobs.iter().map(asked).filter(|at| now.millis_since(*at) < period).collect();
    if recent.len() >= policy.max_per_period as usize {
        if let Some(first) = recent.iter().min() {
            draft.wake(first.plus_millis(period));
        }
        return Err(format!("{} requests were made within {}, which is the most allowed.", recent.len(), duration(period)));
    }
    Ok(())
}

/// Cohorts that have both an alarm and a loss.
#[derive(Default)]
struct Hurt {
    cohorts: Vec<Cohort>,
    features: Vec<String>,
    evidence: Vec<String>,
    rows: u64,
    moved: usize,
    worse: usize,
}

impl Hurt {
    fn why_not(&self, policy: &RetrainPolicy) -> String {
        match (self.moved, self.worse, self.cohorts.len()) {
            (0, 0, _) => "No drift alarm stands, and accuracy is as expected.".to_owned(),
            (_, 0, _) => "Features have moved, but accuracy is as expected: that alone is no reason to retrain.".to_owned(),
            (0, _, _) => "Accuracy has fallen without a drift alarm: labels or the sensors should be looked at.".to_owned(),
            (_, _, 0) => "Features have moved in some cohorts and accuracy fell in others, in none both.".to_owned(),
            (_, _, have) => format!("{have} cohorts have both an alarm and a loss of accuracy; {} are needed.", policy.min_cohorts),
        }
    }
}

fn hurting(draft: &Draft<'_>, line: &ModelLine, champion: &ModelVersion, policy: &RetrainPolicy) -> Hurt {
    let mut hurt = Hurt::default();
    for cohort in draft.cohorts(&line.line) {
        let Some(health) = draft.state.health.get(&cohort.name) else { continue };
        if health.manifest != Some(champion.manifest.digest) {
            continue;
        }
        hurt.rows += health.labelled_rows;
        let loss = loss(health, policy);
        hurt.moved += usize::from(!health.moved.is_empty());
        hurt.worse += usize::from(loss.is_some());
        let (Some(loss), false) = (loss, health.moved.is_empty()) else { continue };
        hurt.evidence.push(format!("Cohort {}: {loss}", cohort.name));
        for (feature, sentence) in &health.moved {
            hurt.evidence.push(format!("Cohort {}: {sentence}", cohort.name));
            if !hurt.features.contains(feature) {
                hurt.features.push(feature.clone());
            }
        }
        hurt.cohorts.push(cohort.name.clone());
    }
    hurt.features.sort();
    hurt
}

/// The loss of accuracy in a sentence, if it is more than tolerated. Labels, where there are enough, outweigh any estimate.
fn loss(health: &CohortHealth, policy: &RetrainPolicy) -> Option<String> {
    let expected = health.expected_accuracy?;
    let (now, how) = match health.measured_accuracy {
        Some((share, labels)) if labels >= policy.min_labels => (share, format!("measured on {labels} labels")),
        _ => (health.estimated_accuracy?, "estimated from confidence".to_owned()),
    };
    let percent = |share: f64| share * 100.0;
    let fell = expected - now > policy.max_accuracy_loss;
    fell.then(|| {
        format!(
            "accuracy {:.1} % ({how}) against {:.1} % expected; tolerated is a loss of {:.1} points.",
            percent(now),
            percent(expected),
            percent(policy.max_accuracy_loss)
        )
    })
}
