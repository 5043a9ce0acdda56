//! Asking for a better model from outside: a person by hand, another system by a call.
//!
//! Both are held against the same table of limits as the controller's own causes. What is refused is written down like what is done:
//! the row of the log carries the sentence that the caller is given. What stays true: the same key of the same line asks once, however
//! often a caller that heard no answer repeats itself.
use std::sync::Arc;

use leeway_protocol::ids::{Line, Version};
use leeway_protocol::time::Timestamp;

use super::decisions::{draft, json_of, reason};
use super::{ControlError, Controller, Touched};
use crate::audit::Draft;
use crate::retraining::job::{RetrainRequest, TrainingJob, Trigger};
use crate::retraining::trigger::{Load, Refusal, Withheld, limits};
use crate::snapshot::Snapshot;

/// The longest name of a calling system, and the longest key of a call.
const MAX_SOURCE: usize = 80;
/// Sentences of evidence that a call may bring.
const MAX_EVIDENCE: usize = 16;

/// A call of another system.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Call {
    /// What it calls itself.
    pub source: String,
    /// Why, in a sentence.
    pub reason: String,
    /// Its own key for this call.
    pub key: Option<String>,
    /// What it measured, in sentences.
    pub evidence: Vec<String>,
}

/// What came of asking.
#[derive(Debug, Clone, PartialEq)]
pub enum Answer {
    /// A job was made.
    Asked(Arc<TrainingJob>),
    /// The same key has asked before: its job.
    Known(Arc<TrainingJob>),
    /// Not now, and why.
    Withheld(Withheld),
}

impl Controller {
    /// Ask for a better model by hand.
    pub async fn request_retraining(&self, line: &Line, why: &str, by: &str) -> Result<Arc<TrainingJob>, ControlError> {
        let why = reason(why)?;
        let trigger = Trigger::Asked { by: by.to_owned() };
        match self.ask_retraining(line, trigger, why, Vec::new(), by).await? {
            Answer::Asked(job) | Answer::Known(job) => Ok(job),
            Answer::Withheld(withheld) => Err(ControlError::Conflict(withheld.sentence)),
        }
    }

    /// Another system has found cause to ask for a better model.
    pub async fn call_retraining(&self, line: &Line, call: Call, by: &str) -> Result<Answer, ControlError> {
        let why = reason(&call.reason)?;
        let plain = |text: &str| !text.is_empty() && text.len() <= MAX_SOURCE && !text.chars().any(char::is_control);
        if !plain(&call.source) || !call.key.as_deref().is_none_or(plain) || call.evidence.len() > MAX_EVIDENCE {
            return Err(ControlError::Invalid(format!(
                "a call names its source and, if it likes, a key, each in at most {MAX_SOURCE} characters, and at most {MAX_EVIDENCE} sentences of evidence"
            )));
        }
        let evidence = call.evidence.iter().map(|sentence| reason(sentence)).collect::<Result<Vec<_>, _>>()?;
        let trigger = Trigger::Called { by: by.to_owned(), source: call.source, key: call.key };
        self.ask_retraining(line, trigger, why, evidence, by).await
    }

    async fn ask_retraining(
        &self,
        line: &Line,
        trigger: Trigger,
        why: String,
        evidence: Vec<String>,
        by: &str,
    ) -> Result<Answer, ControlError> {
        let change = |state: &mut Snapshot, at: Timestamp| {
            let parent = champion(state, line)?;
            if let Some(job) = known(state, line, &trigger) {
                return Ok((Answer::Known(job), Touched::default(), Vec::new()));
            }
            let refusals = refusals(state, line, &trigger, at);
            if !refusals.is_empty() {
                return Ok(withhold(state, line, Withheld::new(trigger, &why, &refusals, at), by));
            }
            let cohorts = state.cohorts.values().filter(|c| c.line == *line).map(|c| c.name.clone()).collect();
            let cost = state.lines.get(line).map_or(0, |found| found.retrain.cost_per_run);
            let id = format!("{line}-{}", at.as_millis());
            let line = line.clone();
            let request = RetrainRequest {
                id: id.clone(),
                line: line.clone(),
                parent,
                trigger,
                cohorts,
                reason: why.clone(),
                evidence,
                asked_at: at,
                cost,
            };
            let event = draft(at, by, "retraining.requested", format!("models/{line}"), why, json_of(&request));
            let job = Arc::new(TrainingJob::new(request));
            Arc::make_mut(&mut state.jobs).insert(id.clone(), Arc::clone(&job));
            Ok((Answer::Asked(job), Touched { jobs: [id].into(), ..Touched::default() }, vec![event]))
        };
        self.inner.decide(change).await
    }
}

fn champion(state: &Snapshot, line: &Line) -> Result<Version, ControlError> {
    let found = state.lines.get(line).ok_or_else(|| ControlError::NotFound(format!("there is no model line {line}")))?;
    found.champion().cloned().ok_or_else(|| ControlError::Conflict(format!("line {line} has no champion to retrain yet")))
}

/// The job that this very call has asked for before.
fn known(state: &Snapshot, line: &Line, trigger: &Trigger) -> Option<Arc<TrainingJob>> {
    let Trigger::Called { source, key: Some(key), .. } = trigger else { return None };
    let same = |job: &&Arc<TrainingJob>| {
        let Trigger::Called { source: theirs, key: Some(known), .. } = &job.request.trigger else { return false };
        job.request.line == *line && theirs == source && known == key
    };
    state.jobs.values().find(same).cloned()
}

fn refusals(state: &Snapshot, line: &Line, trigger: &Trigger, now: Timestamp) -> Vec<Refusal> {
    let Some(found) = state.lines.get(line) else { return Vec::new() };
    let jobs: Vec<&TrainingJob> = state.jobs.values().map(Arc::as_ref).filter(|job| job.request.line == *line).collect();
    let rollout_open = state.rollouts.values().any(|r| r.spec.line == *line && !r.state.is_over());
    let champion = found.champion().and_then(|version| state.version(line, version)).map(|version| version.manifest.digest);
    let cohorts = state.cohorts.values().filter(|cohort| cohort.line == *line);
    let health = cohorts.filter_map(|cohort| state.health.get(&cohort.name)).filter(|health| health.manifest == champion);
    let rows = health.map(|health| health.labelled_rows).sum();
    limits(&found.retrain.trigger(), trigger, &Load { jobs: &jobs, rollout_open, rows, cohorts: None, since: found.created_at, now })
}

fn withhold(state: &mut Snapshot, line: &Line, withheld: Withheld, by: &str) -> (Answer, Touched, Vec<Draft>) {
    if let Some(found) = Arc::make_mut(&mut state.lines).get_mut(line) {
        Arc::make_mut(found).withhold(withheld.clone());
    }
    let data = json_of(&withheld);
    let event = draft(withheld.at, by, "retraining.withheld", format!("models/{line}"), withheld.sentence.clone(), data);
    (Answer::Withheld(withheld), Touched { lines: [line.clone()].into(), ..Touched::default() }, vec![event])
}
