//! One contract for everything that trains: submit a spec, poll, collect artifacts. Three implementations.
//!
//! [`builtin::Builtin`] fits in a thread of its own; [`command::Command`] runs any program in a folder of its own; [`remote::Remote`] has
//! another system do it, over HTTP. All run in the trainer *worker*, a process that holds the trainer's key and that the controller
//! cannot reach into: the controller only keeps the job's state. [`candidate`] turns what came back into a release candidate, the same
//! way for all.
use std::path::Path;

use leeway_protocol::ids::Version;
use leeway_protocol::manifest::Manifest;
use leeway_protocol::time::Timestamp;

use crate::io::preflight::{Prediction, Runner, RunnerError};
use crate::io::training::ExternalRun;
use crate::reference::worth::{Judged, Question, Questions};
use crate::trainer::{Artifacts, Rows, TrainError, TrainSpec, draft};

pub mod builtin;
pub mod command;
pub mod remote;

/// Where a submitted job is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Progress {
    /// Still at it.
    Running,
    /// Artifacts can be collected.
    Done,
    /// It broke, in a sentence.
    Failed(String),
}

/// Why a trainer did not do as asked.
#[derive(Debug, thiserror::Error)]
pub enum TrainerError {
    /// Nobody submitted it.
    #[error("no job {0:?} was submitted to this trainer")]
    UnknownJob(String),
    /// Not done, or failed.
    #[error("job {0:?} has no artifacts: it is not done")]
    NotDone(String),
    /// The folder or program.
    #[error("{what}")]
    Io {
        /// What was being done.
        what: String,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// What it left behind cannot be read.
    #[error("the trainer's {file} cannot be used: {why}")]
    Artifact {
        /// Which file.
        file: &'static str,
        /// What is wrong.
        why: String,
    },
    /// The data or the fit.
    #[error(transparent)]
    Train(#[from] TrainError),
    /// The rows.
    #[error("the dataset cannot be read: {0}")]
    Rows(#[from] crate::dataset::frame::FrameError),
    /// Another system, or its file.
    #[error("{0}")]
    Remote(String),
    /// The model does not run.
    #[error("the trained model does not run: {0}")]
    Runner(#[from] RunnerError),
}

/// Something that trains.
pub trait Trainer: Send {
    /// Begin `spec` on the two tables, Parquet (or CSV, from an older controller). Submitting a job again changes nothing.
    fn submit(&mut self, spec: &TrainSpec, train: &[u8], holdout: &[u8]) -> Result<(), TrainerError>;
    /// Where a job is; never blocks.
    fn poll(&mut self, job: &str) -> Result<Progress, TrainerError>;
    /// What a done job made.
    fn collect(&mut self, job: &str) -> Result<Artifacts, TrainerError>;
    /// Where another system does the work, for people to see.
    fn external(&self, job: &str) -> Option<ExternalRun> {
        let _ = job;
        None
    }
    /// Whether what a done job made is to be taken from the controller, where its run delivered it.
    fn wants_delivery(&self, job: &str) -> bool {
        let _ = job;
        false
    }
    /// Take it.
    fn take_delivery(&mut self, job: &str, delivered: Delivered) {
        let _ = (job, delivered);
    }
}

/// The files that a run delivered.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Delivered {
    /// `model.onnx`.
    pub model: Vec<u8>,
    /// `golden.json`.
    pub golden: Vec<u8>,
    /// `metrics.json`.
    pub metrics: Option<Vec<u8>>,
}

/// Turn artifacts into a model with its manifest: the runner answers for every row, as a device would, and reference, calibration
/// and metrics are made from its answers. `dir` is an existing folder for temporary files.
pub async fn candidate(
    runner: &Runner,
    dir: &Path,
    spec: &TrainSpec,
    version: Version,
    artifacts: &Artifacts,
    tables: (&[u8], &[u8]),
    now: Timestamp,
) -> Result<Manifest, TrainerError> {
    let (train, holdout) = (Rows::parse(tables.0, spec)?, Rows::parse(tables.1, spec)?);
    // The runner wants a manifest: a first one whose profile nobody reads, since it takes the answers to make the right one.
    let (flat_train, flat_holdout) = (vec![0.5; train.len()], vec![0.5; holdout.len()]);
    let first = draft::manifest(spec, version.clone(), artifacts, (&train, &flat_train), (&holdout, &flat_holdout), now)?;
    let (model_path, manifest_path) = (dir.join("model.onnx"), dir.join("manifest.json"));
    write(&model_path, &artifacts.model)?;
    write(&manifest_path, &first.to_bytes())?;
    runner.preflight(&model_path, &manifest_path).await?;
    let mut answers = Vec::new();
    for (name, rows) in [("train-rows.csv", &train), ("holdout-rows.csv", &holdout)] {
        let path = dir.join(name);
        write(&path, csv(&spec.features, rows.inputs.iter().cloned()).as_bytes())?;
        let predictions = runner.predict(&model_path, &manifest_path, &path).await?;
        if predictions.len() != rows.len() {
            let why = format!("it gave {} answers for {} rows", predictions.len(), rows.len());
            return Err(TrainerError::Artifact { file: "model.onnx", why });
        }
        answers.push(predictions.iter().map(probability).collect::<Vec<f64>>());
    }
    let (on_train, on_holdout) = (answers.first().map_or(&[][..], Vec::as_slice), answers.get(1).map_or(&[][..], Vec::as_slice));
    let mut artifacts = artifacts.clone();
    // By weight: what the capture policy preferred is not what the fleet sees.
    artifacts.metrics.insert("holdout_accuracy".to_owned(), holdout.accuracy(on_holdout.iter().copied()));
    artifacts
        .metrics
        .insert("holdout_effective_rows".to_owned(), crate::reference::effective_rows(holdout.weights.iter().copied()).round());
    artifacts.metrics.insert("holdout_rows".to_owned(), holdout.len() as f64);
    artifacts.metrics.insert("train_rows".to_owned(), train.len() as f64);
    let mut manifest = draft::manifest(spec, version, &artifacts, (&train, on_train), (&holdout, on_holdout), now)?;
    let judge = |(row, (p, y)): (usize, (&f64, &bool))| Judged { row, decision: class(*p >= 0.5), truth: Some(class(*y)) };
    let judged: Vec<Judged> = on_holdout.iter().zip(&holdout.labels).enumerate().map(judge).collect();
    if let Some(questions) = Questions::new(spec.features.len(), judged.len()) {
        let path = dir.join("permuted-rows.csv");
        write(&path, csv(&spec.features, questions.iter().map(|q| permuted(&holdout, q))).as_bytes())?;
        let answers = runner.predict(&model_path, &manifest_path, &path).await?;
        let answers: Vec<Option<f64>> = answers.iter().map(|a| Some(a.decision).filter(|d| d.is_finite())).collect();
        let value = |feature: usize, row: usize| holdout.inputs.get(row).and_then(|x| x.get(feature)).map(|v| f64::from(*v));
        questions.measure(&judged, &mut manifest.reference.features, value, &answers);
    }
    Ok(manifest)
}

fn class(is_one: bool) -> f64 {
    f64::from(u8::from(is_one))
}

/// A held-out row with one value from another.
fn permuted(holdout: &Rows, q: Question) -> Vec<f32> {
    let mut row = holdout.inputs.get(q.row).cloned().unwrap_or_default();
    let value = holdout.inputs.get(q.from).and_then(|x| x.get(q.feature));
    if let (Some(mine), Some(theirs)) = (row.get_mut(q.feature), value) {
        *mine = *theirs;
    }
    row
}

fn probability(prediction: &Prediction) -> f64 {
    if prediction.decision >= 0.5 { prediction.confidence } else { 1.0 - prediction.confidence }
}

fn csv(features: &[String], rows: impl Iterator<Item = Vec<f32>>) -> String {
    use std::fmt::Write as _;
    let mut text = features.join(",");
    text.push('\n');
    for row in rows {
        for (i, value) in row.iter().enumerate() {
            let comma = if i == 0 { "" } else { "," };
            let _ = write!(text, "{comma}{value}");
        }
        text.push('\n');
    }
    text
}

fn write(path: &Path, bytes: &[u8]) -> Result<(), TrainerError> {
    std::fs::write(path, bytes).map_err(|source| TrainerError::Io { what: format!("writing {}", path.display()), source })
}
