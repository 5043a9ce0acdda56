//! What the demo's people do by hand: the first model from the first years, a sabotaged one, and an honest newer one.
//!
//! Everything goes through the same functions as in production: the dataset's split, the built-in trainer, the runner's answers.
use std::path::Path;
use std::time::Duration;

use leeway_controller::io::preflight::Runner;
use leeway_controller::io::trainer::builtin::Builtin;
use leeway_controller::io::trainer::{Progress, Trainer as _, candidate};
use leeway_controller::retraining::dataset::{DatasetPolicy, Sample, snapshot};
use leeway_controller::trainer::fit::{self, Model};
use leeway_controller::trainer::{Rows, TrainSpec, draft, onnx, tabular_io};
use leeway_firmware_sim::sensor::Sensor;
use leeway_firmware_sim::weather::{FEATURES, Weather};
use leeway_protocol::capture::CapturedRow;
use leeway_protocol::digest::Digest;
use leeway_protocol::ids::{Line, Version};
use leeway_protocol::manifest::{Blob, Manifest};
use leeway_protocol::time::Timestamp;

use crate::failure::{During, Failure, Outcome};

/// Stations whose readings the people's models are trained on.
const TAUGHT_BY: u64 = 6;
/// How often the trainer is asked whether it is done.
const POLL: Duration = Duration::from_millis(20);
/// Polls before giving up: two minutes.
const MAX_POLLS: usize = 6_000;

/// A model and its manifest, not yet signed.
#[derive(Debug, Clone)]
pub struct Lesson {
    /// The ONNX file.
    pub model: Vec<u8>,
    /// Everything else.
    pub manifest: Manifest,
    /// The fitted formula, to compute what it would have decided.
    pub formula: Model,
}

/// What is taught, and from what.
#[derive(Debug, Clone)]
pub struct Subject<'a> {
    /// The line.
    pub line: &'a Line,
    /// The version's name.
    pub version: &'a str,
    /// First and last day (exclusive) of the readings.
    pub days: std::ops::Range<usize>,
    /// The parent's manifest.
    pub parent: Option<Digest>,
    /// Why, in a sentence.
    pub reason: &'a str,
}

/// Train a model on what some stations read in `subject.days`.
pub async fn teach(runner: &Runner, dir: &Path, weather: &Weather, subject: &Subject<'_>, now: Timestamp) -> Outcome<Lesson> {
    let features: Vec<String> = FEATURES.map(str::to_owned).to_vec();
    let samples = readings(weather, subject)?;
    let policy = DatasetPolicy { max_rows: usize::MAX, ..DatasetPolicy::default() };
    let data = snapshot(&policy, &features, &samples, subject.version).during("cutting the dataset")?;
    let (inputs, outputs) = tabular_io(features.len());
    let spec = TrainSpec {
        v: 1,
        job: format!("by-hand-{}", subject.version),
        line: subject.line.clone(),
        parent: subject.parent,
        reason: subject.reason.to_owned(),
        features,
        label: "label".to_owned(),
        weight: Some("weight".to_owned()),
        inputs,
        outputs,
        datasets: data.info.lineage("bellevue readings"),
    };
    let mut trainer = Builtin::default();
    trainer.submit(&spec, &data.train, &data.holdout).during("starting the training")?;
    for _ in 0..MAX_POLLS {
        match trainer.poll(&spec.job).during("training")? {
            Progress::Running => tokio::time::sleep(POLL).await,
            Progress::Done => break,
            Progress::Failed(why) => return Err(Failure::new(why)),
        }
    }
    let artifacts = trainer.collect(&spec.job).during("training")?;
    let version: Version = subject.version.parse().during("naming the version")?;
    let manifest =
        candidate(runner, dir, &spec, version, &artifacts, (&data.train, &data.holdout), now).await.during("describing the model")?;
    // The same rows give the same weights: this is the formula inside the file.
    let formula = fit::fit(&Rows::parse(&data.train, &spec).during("reading the dataset")?).during("training")?;
    Ok(Lesson { model: artifacts.model, manifest, formula })
}

/// The same model with its weights turned round. It passes its own self-test, because the saboteur made the golden vectors too,
/// and it claims the honest model's accuracy.
pub fn sabotage(honest: &Lesson, version: &str) -> Outcome<Lesson> {
    let mut formula = honest.formula.clone();
    formula.weights.iter_mut().for_each(|w| *w = -*w);
    formula.bias = -formula.bias;
    let old = &honest.manifest;
    let model = onnx::write(&formula, &old.inputs, &old.outputs).during("writing the sabotaged model")?;
    let rows: Vec<Vec<f32>> =
        old.golden.vectors.iter().filter_map(|v| v.inputs.first()).map(|t| t.to_f64().iter().map(|x| *x as f32).collect()).collect();
    let rows = Rows { labels: vec![false; rows.len()], weights: vec![1.0; rows.len()], inputs: rows };
    let golden = draft::golden_from(&old.inputs, &old.outputs, &rows, |x| vec![formula.probability(x) as f32]);
    let version = version.parse().during("naming the version")?;
    let manifest = Manifest { version, model: Blob::of(&model), golden, ..old.clone() };
    Ok(Lesson { model, manifest, formula })
}

fn readings(weather: &Weather, subject: &Subject<'_>) -> Outcome<Vec<Sample>> {
    let mut samples = Vec::new();
    for station in 0..TAUGHT_BY {
        let sensor = Sensor::new(station_seed(station), None);
        let device: leeway_protocol::ids::DeviceId = format!("archive-{station}").parse().during("naming a station")?;
        for day in subject.days.clone() {
            let Some(reading) = sensor.read(weather, day) else { break };
            let row = CapturedRow {
                request: day as u64,
                at: reading.at,
                inputs: reading.features.to_vec(),
                decided: 0.0,
                confidence: 0.0,
                label: Some(if reading.rain { 1.0 } else { 0.0 }),
                inclusion: 1.0,
            };
            samples.push(Sample {
                device: device.clone(),
                cohort: "archive".parse().during("naming a cohort")?,
                manifest: Digest::of(b"archive"),
                row,
            });
        }
    }
    Ok(samples)
}

/// The seed of a station's instruments and key.
pub fn station_seed(index: u64) -> u64 {
    0x1949_0000 + index
}
