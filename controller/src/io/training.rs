//! The queue of training jobs, from request to candidate to verdict.
//!
//! The worker that trains is another process, with the trainer's key; it asks for work, says that it is alive, and brings a
//! candidate. The controller makes the dataset, tries the candidate out in a child, and lets champion and challenger answer the
//! same held-out rows. Whether the challenger won is decided by `retraining::gate`, not here. Each step is a state of the job in
//! the store, so a restart goes on where it was. What stays true: a job that is over stays over; the worker never decides.
use std::collections::BTreeSet;
use std::sync::Arc;

use leeway_protocol::digest::Digest;
use leeway_protocol::ids::{Line, Version};
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
use crate::retraining::gate::Comparison;
use crate::retraining::job::{JobState, TrainingJob};
use crate::snapshot::Snapshot;
use crate::trainer::TrainSpec;

mod judge;

pub(super) use judge::run;

/// A worker that was not heard of for so long has lost its job to the next one.
const LEASE_MS: i64 = 10 * 60_000;
/// An approved candidate that nobody signed for so long is given up: its worker is gone, and its line would wait for ever.
const SIGNING_MS: i64 = 7 * 86_400_000;
/// Times a job is given to a worker.
const MAX_CLAIMS: u32 = 5;
/// Captured rows read for one dataset: some gigabytes at a hundred features, far above what a dataset keeps.
const MAX_SAMPLES: usize = 2_000_000;

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
    /// The dataset's name: the digest of its manifest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dataset: Option<Digest>,
}

/// What a worker brings; both blobs were uploaded before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Candidate {
    /// The ONNX file.
    pub model: Digest,
    /// The manifest.
    pub manifest: Blob,
    /// The record of the run; workers of older releases bring none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run: Option<Blob>,
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
    /// Where another system does the work, as the worker says.
    #[serde(default)]
    pub run: Option<ExternalRun>,
    /// What that system delivered for the worker to take, until it took it.
    #[serde(default)]
    pub delivery: Option<Delivery>,
}

/// A run of another system.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExternalRun {
    /// Which system, as the worker's configuration calls it.
    pub executor: String,
    /// Its own name for the run.
    pub run: String,
    /// What it last said of it.
    pub state: String,
    /// Where it shows it, if it said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
}

/// What a run left; all three blobs were uploaded before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Delivery {
    /// The ONNX file.
    pub model: Blob,
    /// Golden vectors, in the command trainer's form.
    pub golden: Blob,
    /// Metrics, likewise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metrics: Option<Blob>,
}

/// Text that another system says about a run and that is kept.
const MAX_SAID: usize = 500;

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

    /// A worker is still at it, or the system that works for it is; the job as it works with it now.
    pub async fn keep_job(&self, job: &str, worker: &str, run: Option<ExternalRun>) -> Result<JobData, ControlError> {
        let _turn = self.inner.turn.lock().await;
        expect_worker(&self.inner.ledger().snapshot, job, worker)?;
        let mut data = job_data(&self.inner, job)?;
        data.heard_at = Some(clock::now());
        if let Some(run) = run {
            let short = |text: String| text.chars().take(MAX_SAID).collect();
            let ExternalRun { executor, run, state, url } = run;
            data.run = Some(ExternalRun { executor: short(executor), run: short(run), state: short(state), url: url.map(short) });
        }
        self.keep_data(job, &data).await?;
        Ok(data)
    }

    async fn keep_data(&self, job: &str, data: &JobData) -> Result<(), ControlError> {
        let write = document(Kind::JobData, job.to_owned(), Some(data))?;
        let batch = super::store::Batch { at: clock::now(), writes: vec![write], events: Vec::new(), urgent: true };
        self.inner.store.commit(batch).await?;
        Ok(())
    }

    /// What the system that works for a worker has made, for the worker to take. It signs nothing and decides nothing by that.
    pub async fn deliver(&self, job: &str, delivery: Delivery) -> Result<(), ControlError> {
        for blob in [Some(delivery.model), Some(delivery.golden), delivery.metrics].into_iter().flatten() {
            if self.inner.blobs.length(blob.digest).await != Some(blob.length) {
                return Err(ControlError::Invalid(format!("upload {} with its {} bytes before delivering it", blob.digest, blob.length)));
            }
        }
        let _turn = self.inner.turn.lock().await;
        match self.inner.ledger().snapshot.jobs.get(job).map(|found| &found.state) {
            None => return Err(ControlError::NotFound(format!("there is no training job {job}"))),
            Some(JobState::Running { .. }) => {}
            Some(other) => return Err(ControlError::Conflict(format!("training job {job} is {}, not running", other.as_str()))),
        }
        let mut data = job_data(&self.inner, job)?;
        data.delivery = Some(delivery);
        self.keep_data(job, &data).await
    }

    /// What a job that is running is to be made of, for the system that works for its worker.
    pub async fn job_spec(&self, job: &str) -> Result<JobSpec, ControlError> {
        let found = self.inner.ledger().snapshot.jobs.get(job).cloned();
        let found = found.ok_or_else(|| ControlError::NotFound(format!("there is no training job {job}")))?;
        if !matches!(found.state, JobState::Running { .. }) {
            return Err(ControlError::Conflict(format!("training job {job} is {}, not running", found.state.as_str())));
        }
        spec(&self.inner, &found, &job_data(&self.inner, job)?).await
    }

    /// A worker brings a candidate; it is tried out and compared in the background.
    pub async fn submit_candidate(&self, job: &str, worker: &str, candidate: Candidate) -> Result<Arc<TrainingJob>, ControlError> {
        expect_worker(&self.inner.ledger().snapshot, job, worker)?;
        let model = self.inner.blobs.length(candidate.model).await;
        if model.is_none() || !self.inner.blobs.has(candidate.manifest).await {
            return Err(ControlError::Invalid("upload the candidate's model and manifest before submitting it".to_owned()));
        }
        let mut data = job_data(&self.inner, job)?;
        if let (Some(run), Some(dataset)) = (candidate.run, &data.dataset) {
            super::dataset::check_run(&self.inner, run, job, candidate.model, dataset.train.digest).await?;
        }
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
    changed.move_to(to, at);
    let changed = Arc::clone(found);
    let event = draft(
        at,
        "controller",
        &format!("training.{}", changed.state.as_str()),
        format!("training/{job}"),
        changed.sentence(),
        json!({ "state": changed.state }),
    );
    let more = data.map(|data| document(Kind::JobData, job.to_owned(), Some(&data))).transpose()?;
    state.revision += 1;
    let touched = Touched { jobs: BTreeSet::from([job.to_owned()]), ..Touched::default() };
    inner.settle(state, &touched, more.into_iter().collect(), vec![event], at).await?;
    Ok(Some(changed))
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
    let manifest = match read_manifest(inner, parent.manifest).await {
        Ok(manifest) => manifest,
        // What the controller has lost does not come back by asking for ever.
        Err(why) => return Ok(Err(format!("What the champion is given cannot be read: {why}."))),
    };
    let (names, id, line) = (features(&manifest), job.request.id.clone(), job.request.line.clone());
    let reader = Arc::clone(inner);
    let made = tokio::task::spawn_blocking(move || {
        let samples = samples(&reader, &line)?;
        Ok::<_, ControlError>(dataset::snapshot(&reader.training.dataset, &names, &samples, &id))
    });
    let made = made.await.map_err(|e| ControlError::Unavailable(e.to_string()))??;
    Ok(match made {
        Err(error) => Err(error.to_string()),
        Ok(made) => Ok(super::dataset::keep(inner, &job.request, &parent, made).await?),
    })
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
        datasets: info.lineage(&info.manifest.map_or_else(|| request.id.clone(), |name| name.to_string())),
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
        dataset: info.manifest,
    })
}
