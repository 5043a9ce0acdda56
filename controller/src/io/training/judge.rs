//! What becomes of a candidate: tried out in a child, held against the champion on the same held-out rows, and against what the devices have.
//!
//! Whether it won is decided by [`gate`], not here. What stays true: what is wrong with the candidate ends its job; what is wrong with us
//! is tried again.
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::super::control::publish::read_manifest;
use super::super::control::{ControlError, Inner};
use super::super::preflight::{Passed, Prediction, RunnerError};
use super::{JobData, job_data, parent, set_state};
use crate::planner::retrain::rollout_of;
use crate::registry::ModelVersion;
use crate::retraining::gate::{self, Cost, Outcome, Paired};
use crate::retraining::job::{JobState, TrainingJob};

/// Time between two looks for jobs that wait for an evaluation.
const LOOK: Duration = Duration::from_secs(2);

/// Judge candidates as they come, and those that a restart left unjudged.
pub(in crate::io) async fn run(inner: Arc<Inner>) {
    loop {
        let waiting: Vec<Arc<TrainingJob>> = {
            let ledger = inner.ledger();
            ledger.snapshot.jobs.values().filter(|j| matches!(j.state, JobState::Evaluating { .. })).cloned().collect()
        };
        for job in waiting {
            if let Err(error) = evaluate(&inner, &job).await {
                tracing::error!("the candidate of training job {} could not be judged: {error}; trying again", job.request.id);
            }
        }
        tokio::select! {
            () = inner.evaluate.notified() => {}
            () = tokio::time::sleep(LOOK) => {}
        }
    }
}

async fn evaluate(inner: &Inner, job: &TrainingJob) -> Result<(), ControlError> {
    let mut data = job_data(inner, &job.request.id)?;
    let verdict = match judge(inner, job, &mut data).await {
        Ok(state) => state,
        // What is wrong with the candidate ends the job; what is wrong with us is tried again.
        Err(ControlError::Invalid(sentence)) => JobState::Failed { sentence },
        Err(other) => return Err(other),
    };
    set_state(inner, &job.request.id, verdict, Some(data)).await
}

async fn judge(inner: &Inner, job: &TrainingJob, data: &mut JobData) -> Result<JobState, ControlError> {
    let lost = |what: &str| ControlError::Invalid(what.to_owned());
    let candidate = data.candidate.ok_or_else(|| lost("its candidate is not known"))?;
    let dataset = data.dataset.clone().ok_or_else(|| lost("its dataset is not known"))?;
    let challenger = read_manifest(inner, candidate.manifest).await.map_err(ControlError::Invalid)?;
    let champion = parent(inner, job)?;
    if challenger.model.digest != candidate.model || challenger.line != job.request.line || challenger.io_digest() != champion.io {
        return Err(lost("the candidate's manifest names another model or line, or other inputs and outputs than the champion has"));
    }
    if challenger.lineage.parent != Some(champion.manifest.digest) {
        return Err(lost("the candidate's manifest does not name the champion as its parent"));
    }
    let (model, manifest) = (inner.blobs.path(candidate.model), inner.blobs.path(candidate.manifest.digest));
    let passed = inner.runner.preflight(&model, &manifest).await?;
    let bytes =
        inner.blobs.bytes(dataset.holdout.digest, dataset.holdout.length).await?.ok_or_else(|| lost("its held-out rows are gone"))?;
    let rows = super::super::dataset::Csv::of(inner, bytes).await?;
    let new = inner.runner.predict(&model, &manifest, rows.path()).await?;
    let (old_model, old_manifest) = (inner.blobs.path(champion.model.digest), inner.blobs.path(champion.manifest.digest));
    // A champion that cannot answer is our trouble and not the candidate's.
    let ours = |e: RunnerError| ControlError::Unavailable(e.to_string());
    let old = inner.runner.predict(&old_model, &old_manifest, rows.path()).await.map_err(ours)?;
    let timed = inner.runner.preflight(&old_model, &old_manifest).await.map_err(ours)?;
    let policy = &inner.training.gate;
    let pairs = pairs(&policy.guards, rows.bytes(), &old, &new).map_err(ControlError::Unavailable)?;
    let bounds = gate::cost::Bounds { p99_us: challenger.limits.p99_us, rss_bytes: challenger.limits.rss_bytes };
    let cost = Cost::of(&policy.cost, run_of(&timed), run_of(&passed), classes(inner, &champion), bounds);
    let comparison = gate::compare(policy, &pairs).with_cost(cost);
    let sentence = comparison.sentence.clone();
    let state = match comparison.outcome {
        Outcome::Won => JobState::Approved { candidate: candidate.manifest.digest, sentence },
        Outcome::Lost => JobState::Lost { sentence },
        Outcome::NotEnoughLabels { .. } => JobState::Undecided { sentence },
    };
    data.comparison = Some(comparison);
    Ok(state)
}

type Predictions = [Prediction];

fn run_of(passed: &Passed) -> gate::cost::Run {
    gate::cost::Run { p50_us: passed.p50_us, p99_us: passed.p99_us, rss_bytes: passed.rss_bytes }
}

/// What each class of devices showed of the champion in the rollout that brought it out: the medians of the slices it kept apart.
fn classes(inner: &Inner, champion: &ModelVersion) -> Vec<gate::cost::Class> {
    /// For the bounds of a median, which are not used here.
    const ALPHA: f64 = 0.05;
    let state = &inner.ledger().snapshot;
    let Some(rollout) = rollout_of(state, &champion.line, &champion.version) else { return Vec::new() };
    let apart = state.evidence.get(&rollout.id).map(|evidence| evidence.apart.clone()).unwrap_or_default();
    let shown = apart.into_iter().filter_map(|(name, apart)| {
        let median = apart.latency.canary.median(ALPHA)?;
        // The ladder's steps are logarithms to base 2 of nanoseconds.
        Some(gate::cost::Class { name, devices: apart.latency.canary.devices, p95_us: median.value.exp2() / 1000.0 })
    });
    shown.collect()
}

/// Both models' answers beside the truth.
fn pairs(guards: &gate::Guards, holdout: &[u8], old: &Predictions, new: &Predictions) -> Result<Vec<Paired>, String> {
    let text = std::str::from_utf8(holdout).map_err(|e| e.to_string())?;
    let mut reader = csv::Reader::from_reader(text.as_bytes());
    let headers = reader.headers().map_err(|e| e.to_string())?.clone();
    let column = |name: &str| headers.iter().position(|h| h == name).ok_or_else(|| format!("the held-out rows have no column {name:?}"));
    let (label, weight, at, cohort) = (column("label")?, column("weight")?, column("at")?, column("cohort")?);
    let own = ["label", "weight", "at", "device", "cohort", "inclusion", "request", "served_by"];
    let features: Vec<(usize, &str)> = headers.iter().enumerate().filter(|(_, name)| !own.contains(name)).collect();
    let mut pairs = Vec::new();
    for (i, row) in reader.records().enumerate() {
        let row = row.map_err(|e| e.to_string())?;
        let number = |column: usize| row.get(column).and_then(|v| v.parse::<f64>().ok());
        let (Some(old), Some(new)) = (old.get(i), new.get(i)) else {
            return Err("the models answered fewer rows than are held out".to_owned());
        };
        let Some(label) = number(label) else { continue };
        // The exact class; a missing answer (NaN) is never right.
        let right = |decision: f64| (decision - label).abs() < 0.5;
        let values: BTreeMap<&str, f64> = features.iter().filter_map(|(column, name)| Some((*name, number(*column)?))).collect();
        let at = row.get(at).and_then(|at| at.parse().ok()).unwrap_or_default();
        let seen = gate::guards::Row { cohort: row.get(cohort), at, features: &values, confidence: old.confidence };
        pairs.push(Paired {
            slices: guards.slices(&seen),
            at,
            weight: number(weight).unwrap_or(1.0),
            champion: right(old.decision),
            challenger: right(new.decision),
        });
    }
    Ok(pairs)
}
