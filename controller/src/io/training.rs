//! The queue of training jobs, from request to candidate to verdict.
//!
//! The worker that trains is another process, with the trainer's key; it asks for work, says that it is alive, and brings a
//! candidate. The controller makes the dataset, tries the candidate out in a child, and lets champion and challenger answer the
//! same held-out rows. Whether the challenger won is decided by `retraining::gate`, not here. Each step is a state of the job in
//! the store, so a restart goes on where it was. What stays true: a job that is over stays over; the worker never decides.
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use leeway_protocol::digest::Digest;
use leeway_protocol::ids::{Cohort, Line, Version};
use leeway_protocol::manifest::{Blob, Manifest};
use leeway_protocol::profile::Source;
use leeway_protocol::time::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::checkpoint;
use super::clock;
use super::control::decisions::draft;
use super::control::publish::read_manifest;
use super::control::{ControlError, Controller, Inner, Touched, document};
use super::store::{Kind, Log, MAX_PAGE};
use crate::ingest::Body;
use crate::registry::ModelVersion;
pub use crate::retraining::TrainingPolicy;
use crate::retraining::dataset::{self, DatasetInfo, Sample};
use crate::retraining::gate::{self, Comparison, Outcome, Paired};
use crate::retraining::job::{JobState, TrainingJob};
use crate::snapshot::Snapshot;
use crate::trainer::TrainSpec;

/// A worker that was not heard of for so long has lost its job to the next one.
const LEASE_MS: i64 = 10 * 60_000;
/// An approved candidate that nobody signed for so long is given up: its worker is gone, and its line would wait for ever.
const SIGNING_MS: i64 = 7 * 86_400_000;
/// Times a job is given to a worker.
const MAX_CLAIMS: u32 = 5;
/// Captured rows read for one dataset: some gigabytes at a hundred features, far above what a dataset keeps.
const MAX_SAMPLES: usize = 2_000_000;
/// Time between two looks for jobs that wait for an evaluation.
const LOOK: Duration = Duration::from_secs(2);

/// What a worker needs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct JobSpec {
    /// The job's name.
    pub job: String,
    /// Its line.
    pub line: Line,
    /// Trainer to use: `builtin`, or the name of a command trainer.
    pub trainer: String,
    /// What is asked of the trainer.
    pub spec: TrainSpec,
    /// The training rows, a blob.
    pub train: Blob,
    /// The held-out rows, a blob: for calibration and metrics, never to learn from.
    pub holdout: Blob,
    /// The parent's manifest.
    pub parent: Blob,
    /// The parent's model.
    pub parent_model: Blob,
    /// Name the version will have.
    pub version: Version,
    /// Number the version will have.
    pub seq: u64,
    /// The worker must be heard of within so many milliseconds.
    pub lease_ms: i64,
}

/// What a worker brings; both blobs were uploaded before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Candidate {
    /// The ONNX file.
    pub model: Digest,
    /// The manifest.
    pub manifest: Blob,
}

/// What a job works with; a document of the store.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct JobData {
    /// The dataset, once it is made.
    #[serde(default)]
    pub dataset: Option<DatasetInfo>,
    /// Times it was given to a worker.
    #[serde(default)]
    pub claims: u32,
    /// The worker was heard of at.
    #[serde(default)]
    pub heard_at: Option<Timestamp>,
    /// The candidate.
    #[serde(default)]
    pub candidate: Option<Candidate>,
    /// Champion against challenger.
    #[serde(default)]
    pub comparison: Option<Comparison>,
}

impl Controller {
    /// What a job works with.
    pub fn job_data(&self, job: &str) -> Result<JobData, ControlError> {
        job_data(&self.inner, job)
    }

    /// Give the oldest waiting job of one of `lines` (of any line, if none is named) to a worker.
    pub async fn claim_job(&self, worker: &str, lines: &[Line]) -> Result<Option<JobSpec>, ControlError> {
        let inner = &self.inner;
        let worker: String = worker.chars().take(80).collect();
        let at = clock::now();
        give_up_unsigned(inner, at).await?;
        let Some(job) = waiting(inner, lines, at)? else { return Ok(None) };
        let mut data = job_data(inner, &job.request.id)?;
        if data.claims >= MAX_CLAIMS {
            let sentence = format!("It was given to a worker {MAX_CLAIMS} times, and none brought a candidate.");
            set_state(inner, &job.request.id, JobState::Failed { sentence }, None).await?;
            return Ok(None);
        }
        if data.dataset.is_none() {
            match make_dataset(inner, &job).await? {
                Ok(info) => data.dataset = Some(info),
                Err(sentence) => {
                    set_state(inner, &job.request.id, JobState::Failed { sentence }, None).await?;
                    return Ok(None);
                }
            }
        }
        data.claims += 1;
        data.heard_at = Some(at);
        let spec = spec(inner, &job, &data).await?;
        let taken = |found: &TrainingJob| found.state == job.state;
        let state = JobState::Running { worker, since: at };
        if set_state_if(inner, &job.request.id, taken, state, Some(data)).await?.is_none() {
            return Ok(None);
        }
        Ok(Some(spec))
    }

    /// A worker is still at it.
    pub async fn keep_job(&self, job: &str, worker: &str) -> Result<(), ControlError> {
        let _turn = self.inner.turn.lock().await;
        expect_worker(&self.inner.ledger().snapshot, job, worker)?;
        let mut data = job_data(&self.inner, job)?;
        data.heard_at = Some(clock::now());
        let write = document(Kind::JobData, job.to_owned(), Some(&data))?;
        let batch = super::store::Batch { at: clock::now(), writes: vec![write], events: Vec::new(), urgent: true };
        self.inner.store.commit(batch).await?;
        Ok(())
    }

    /// A worker brings a candidate; it is tried out and compared in the background.
    pub async fn submit_candidate(&self, job: &str, worker: &str, candidate: Candidate) -> Result<Arc<TrainingJob>, ControlError> {
        expect_worker(&self.inner.ledger().snapshot, job, worker)?;
        let model = self.inner.blobs.length(candidate.model).await;
        if model.is_none() || !self.inner.blobs.has(candidate.manifest).await {
            return Err(ControlError::Invalid("upload the candidate's model and manifest before submitting it".to_owned()));
        }
        let mut data = job_data(&self.inner, job)?;
        data.candidate = Some(candidate);
        data.heard_at = Some(clock::now());
        let mine = |found: &TrainingJob| matches!(&found.state, JobState::Running { worker: owner, .. } if owner == worker);
        let state = JobState::Evaluating { candidate: candidate.manifest.digest };
        let changed = set_state_if(&self.inner, job, mine, state, Some(data)).await?;
        self.inner.evaluate.notify_one();
        changed.ok_or_else(|| ControlError::Conflict(format!("training job {job} was given to another worker meanwhile")))
    }

    /// A worker gives up: on a job of its own, or on signing what was approved.
    pub async fn fail_job(&self, job: &str, worker: &str, sentence: &str) -> Result<(), ControlError> {
        let found = self.inner.ledger().snapshot.jobs.get(job).map(|found| found.state.clone());
        let Some(before) = found.filter(|state| matches!(state, JobState::Approved { .. })) else {
            expect_worker(&self.inner.ledger().snapshot, job, worker)?;
            let sentence: String = sentence.chars().take(500).collect();
            return set_state(&self.inner, job, JobState::Failed { sentence }, None).await;
        };
        let sentence = format!("It won, but worker {worker} could not sign it: {sentence}").chars().take(500).collect();
        let changed = set_state_if(&self.inner, job, |found| found.state == before, JobState::Failed { sentence }, None).await?;
        changed.map(drop).ok_or_else(|| ControlError::Conflict(format!("training job {job} is not approved any more")))
    }
}

fn expect_worker(state: &Snapshot, job: &str, worker: &str) -> Result<(), ControlError> {
    let found = state.jobs.get(job).ok_or_else(|| ControlError::NotFound(format!("there is no training job {job}")))?;
    match &found.state {
        JobState::Running { worker: owner, .. } if owner == worker => Ok(()),
        JobState::Running { worker: owner, .. } => Err(ControlError::Conflict(format!("training job {job} belongs to worker {owner}"))),
        other => Err(ControlError::Conflict(format!("training job {job} is {}, not running", other.as_str()))),
    }
}

fn job_data(inner: &Inner, job: &str) -> Result<JobData, ControlError> {
    let Some(bytes) = inner.store.doc(Kind::JobData, job)? else { return Ok(JobData::default()) };
    serde_json::from_slice(&bytes).map_err(|e| ControlError::Unavailable(format!("what training job {job} works with cannot be read: {e}")))
}

/// End jobs whose winner nobody signed.
async fn give_up_unsigned(inner: &Inner, at: Timestamp) -> Result<(), ControlError> {
    let jobs = Arc::clone(&inner.ledger().snapshot.jobs);
    let old = |job: &TrainingJob| matches!(job.state, JobState::Approved { .. }) && at.millis_since(job.updated_at) > SIGNING_MS;
    for job in jobs.values().filter(|job| old(job)) {
        let sentence = format!("It won, but in {} days no worker signed it: is the worker that trained it gone?", SIGNING_MS / 86_400_000);
        set_state_if(inner, &job.request.id, |found| old(found), JobState::Failed { sentence }, None).await?;
    }
    Ok(())
}

/// The oldest job that waits, or whose worker has gone silent.
fn waiting(inner: &Inner, lines: &[Line], at: Timestamp) -> Result<Option<Arc<TrainingJob>>, ControlError> {
    let jobs = Arc::clone(&inner.ledger().snapshot.jobs);
    let mut open: Vec<&Arc<TrainingJob>> = jobs.values().filter(|j| lines.is_empty() || lines.contains(&j.request.line)).collect();
    open.sort_by_key(|job| job.request.asked_at);
    for job in open {
        let free = match &job.state {
            JobState::Queued => true,
            JobState::Running { since, .. } => {
                let heard = job_data(inner, &job.request.id)?.heard_at.unwrap_or(*since);
                at.millis_since(heard) > LEASE_MS
            }
            _ => false,
        };
        if free {
            return Ok(Some(Arc::clone(job)));
        }
    }
    Ok(None)
}

async fn set_state(inner: &Inner, job: &str, state: JobState, data: Option<JobData>) -> Result<(), ControlError> {
    set_state_if(inner, job, |found| found.state.is_open(), state, data).await.map(|_| ())
}

/// Move a job if it still is as expected; its new form, or `None` if it is not.
async fn set_state_if(
    inner: &Inner,
    job: &str,
    expected: impl FnOnce(&TrainingJob) -> bool,
    to: JobState,
    data: Option<JobData>,
) -> Result<Option<Arc<TrainingJob>>, ControlError> {
    let _turn = inner.turn.lock().await;
    let at = clock::now();
    let mut state = inner.ledger().snapshot.clone();
    let Some(found) = Arc::make_mut(&mut state.jobs).get_mut(job).filter(|found| expected(found)) else { return Ok(None) };
    let changed = Arc::make_mut(found);
    changed.state = to;
    changed.updated_at = at;
    let changed = Arc::clone(found);
    let event = draft(
        at,
        "controller",
        &format!("training.{}", changed.state.as_str()),
        format!("training/{job}"),
        sentence(&changed),
        json!({ "state": changed.state }),
    );
    let more = data.map(|data| document(Kind::JobData, job.to_owned(), Some(&data))).transpose()?;
    state.revision += 1;
    let touched = Touched { jobs: BTreeSet::from([job.to_owned()]), ..Touched::default() };
    inner.settle(state, &touched, more.into_iter().collect(), vec![event], at).await?;
    Ok(Some(changed))
}

/// Where a job is, in a sentence.
pub fn sentence(job: &TrainingJob) -> String {
    let (id, line) = (&job.request.id, &job.request.line);
    match &job.state {
        JobState::Queued => format!("Training job {id} waits for a worker."),
        JobState::Running { worker, .. } => format!("Worker {worker} trains a new model for {line} ({id})."),
        JobState::Evaluating { candidate } => {
            format!("A candidate of {id} is here ({}); it is tried out and compared with the champion.", candidate.short())
        }
        JobState::Approved { sentence, .. } => format!("The candidate of {id} won: {sentence} It waits for the trainer's signature."),
        JobState::Published { version } => format!("Training job {id} became version {version}."),
        JobState::Lost { sentence } => format!("The candidate of {id} did not win: {sentence}"),
        JobState::Undecided { sentence } => format!("The candidate of {id} could not be judged: {sentence}"),
        JobState::Failed { sentence } => format!("Training job {id} failed: {sentence}"),
    }
}

/// Names of the elements of the free inputs, as the reference calls them.
pub(super) fn features(manifest: &Manifest) -> Vec<String> {
    let mut names = Vec::new();
    for (tensor, spec) in manifest.free_inputs() {
        for index in 0..spec.elements().unwrap_or(0) {
            let here = Source::Input { tensor, index };
            let known = manifest.reference.features.iter().find(|f| f.source == here).map(|f| f.name.clone());
            names.push(known.unwrap_or_else(|| format!("{}_{index}", spec.name)));
        }
    }
    names
}

/// The version a job starts from.
fn parent(inner: &Inner, job: &TrainingJob) -> Result<Arc<ModelVersion>, ControlError> {
    let found = inner.ledger().snapshot.version(&job.request.line, &job.request.parent).cloned();
    found
        .ok_or_else(|| ControlError::NotFound(format!("version {} of {} is not registered any more", job.request.parent, job.request.line)))
}

/// Make the dataset from what was captured; a sentence if it cannot be made.
async fn make_dataset(inner: &Arc<Inner>, job: &TrainingJob) -> Result<Result<DatasetInfo, String>, ControlError> {
    let parent = parent(inner, job)?;
    let manifest = read_manifest(inner, parent.manifest).await.map_err(ControlError::Unavailable)?;
    let (names, id, line) = (features(&manifest), job.request.id.clone(), job.request.line.clone());
    let reader = Arc::clone(inner);
    let made = tokio::task::spawn_blocking(move || {
        let samples = samples(&reader, &line)?;
        Ok::<_, ControlError>(dataset::snapshot(&reader.training.dataset, &names, &samples, &id))
    });
    let made = made.await.map_err(|e| ControlError::Unavailable(e.to_string()))??;
    match made {
        Err(error) => Ok(Err(error.to_string())),
        Ok(made) => {
            inner.blobs.put(&made.train).await?;
            inner.blobs.put(&made.holdout).await?;
            Ok(Ok(made.info))
        }
    }
}

/// Every captured row of a line, the newest [`MAX_SAMPLES`].
pub(super) fn samples(inner: &Inner, line: &Line) -> Result<Vec<Sample>, ControlError> {
    let (mut out, mut next) = (std::collections::VecDeque::new(), 0);
    loop {
        let records = inner.store.records(Log::Captures, next, MAX_PAGE)?;
        let Some(last) = records.last().map(|record| record.seq) else { break };
        for record in records {
            let Some(message) = checkpoint::read(Log::Captures, &record.bytes) else { continue };
            let Body::Capture(batch) = message.body else { continue };
            let (of_line, cohort) = {
                let ledger = inner.ledger();
                let of_line = ledger.manifest(batch.manifest).is_some_and(|m| m.line == *line);
                let device = ledger.snapshot.fleet.device(&message.device);
                (of_line, device.and_then(|d| ledger.snapshot.cohort_of(&d).map(|c| c.name.clone())))
            };
            let Some(cohort) = cohort.filter(|_| of_line) else { continue };
            for row in batch.rows {
                out.push_back(Sample { device: message.device.clone(), cohort: cohort.clone(), manifest: batch.manifest, row });
            }
            while out.len() > MAX_SAMPLES {
                out.pop_front();
            }
        }
        next = last + 1;
    }
    Ok(out.into())
}

async fn spec(inner: &Inner, job: &TrainingJob, data: &JobData) -> Result<JobSpec, ControlError> {
    let parent = parent(inner, job)?;
    let manifest = read_manifest(inner, parent.manifest).await.map_err(ControlError::Unavailable)?;
    let info = data.dataset.as_ref().ok_or_else(|| ControlError::Unavailable("the dataset is not made yet".to_owned()))?;
    let (request, line) = (&job.request, &job.request.line);
    let (seq, trainer, version) = {
        let ledger = inner.ledger();
        let versions = || ledger.snapshot.versions.values().filter(|v| v.line == *line);
        let seq = versions().map(|v| v.seq).max().unwrap_or(0) + 1;
        let trainer = ledger.snapshot.lines.get(line).map_or_else(|| "builtin".to_owned(), |l| l.retrain.trainer.clone());
        let free = (seq..).map(|n| format!("auto-{n}")).filter_map(|name| name.parse::<Version>().ok());
        let version = free.take(1000).find(|name| versions().all(|v| v.version != *name));
        (seq, trainer, version)
    };
    let version = version.ok_or_else(|| ControlError::Unavailable("no free version name was found".to_owned()))?;
    let train_spec = TrainSpec {
        v: 1,
        job: request.id.clone(),
        line: line.clone(),
        parent: Some(parent.manifest.digest),
        reason: request.reason.clone(),
        features: features(&manifest),
        label: "label".to_owned(),
        weight: Some("weight".to_owned()),
        inputs: manifest.inputs.clone(),
        outputs: manifest.outputs.clone(),
        datasets: info.lineage(&request.id),
    };
    Ok(JobSpec {
        job: request.id.clone(),
        line: line.clone(),
        trainer,
        spec: train_spec,
        train: info.train,
        holdout: info.holdout,
        parent: parent.manifest,
        parent_model: parent.model,
        version,
        seq,
        lease_ms: LEASE_MS,
    })
}

/// Judge candidates as they come, and those that a restart left unjudged.
pub(super) async fn run(inner: Arc<Inner>) {
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
    inner.runner.preflight(&model, &manifest).await?;
    let rows_path = inner.blobs.path(dataset.holdout.digest);
    let new = inner.runner.predict(&model, &manifest, &rows_path).await?;
    let (old_model, old_manifest) = (inner.blobs.path(champion.model.digest), inner.blobs.path(champion.manifest.digest));
    // A champion that cannot answer is our trouble and not the candidate's.
    let old = inner.runner.predict(&old_model, &old_manifest, &rows_path).await.map_err(|e| ControlError::Unavailable(e.to_string()))?;
    let bytes =
        inner.blobs.bytes(dataset.holdout.digest, dataset.holdout.length).await?.ok_or_else(|| lost("its held-out rows are gone"))?;
    let pairs = pairs(&bytes, &old, &new).map_err(ControlError::Unavailable)?;
    let comparison = gate::compare(&inner.training.gate, &pairs);
    let sentence = comparison.sentence.clone();
    let state = match comparison.outcome {
        Outcome::Won => JobState::Approved { candidate: candidate.manifest.digest, sentence },
        Outcome::Lost => JobState::Lost { sentence },
        Outcome::NotEnoughLabels { .. } => JobState::Undecided { sentence },
    };
    data.comparison = Some(comparison);
    Ok(state)
}

type Predictions = [super::preflight::Prediction];

/// Both models' answers beside the truth.
fn pairs(holdout: &[u8], old: &Predictions, new: &Predictions) -> Result<Vec<Paired>, String> {
    let text = std::str::from_utf8(holdout).map_err(|e| e.to_string())?;
    let mut reader = csv::Reader::from_reader(text.as_bytes());
    let headers = reader.headers().map_err(|e| e.to_string())?.clone();
    let column = |name: &str| headers.iter().position(|h| h == name).ok_or_else(|| format!("the held-out rows have no column {name:?}"));
    let (label, weight, at, cohort) = (column("label")?, column("weight")?, column("at")?, column("cohort")?);
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
        pairs.push(Paired {
            slice: row.get(cohort).and_then(|name| name.parse::<Cohort>().ok()),
            at: row.get(at).and_then(|at| at.parse().ok()).unwrap_or_default(),
            weight: number(weight).unwrap_or(1.0),
            champion: right(old.decision),
            challenger: right(new.decision),
        });
    }
    Ok(pairs)
}
