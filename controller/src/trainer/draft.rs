//! From a trained model's outputs to what the manifest says: reference profile, calibration, golden vectors.
//!
//! The same for every trainer: `evaluate` is the built-in formula, or the runner's answers for a model that a command brought.
use leeway_protocol::ids::Version;
use leeway_protocol::manifest::{Blob, Decision, Golden, GoldenVector, Limits, Lineage, Manifest};
use leeway_protocol::profile::{FeatureReference, Reference, Source};
use leeway_protocol::tensor::{Tensor, TensorSpec};
use leeway_protocol::time::Timestamp;

use super::{Artifacts, Rows, TrainError, TrainSpec};
use crate::reference;

/// Golden vectors taken, spread evenly over the held-out rows.
const GOLDEN_VECTORS: usize = 8;
/// Tolerances: f32 arithmetic in another order.
const RTOL: f64 = 1e-3;
const ATOL: f64 = 1e-4;
/// Classes are decided at this probability.
const THRESHOLD: f64 = 0.5;

/// Golden vectors from held-out rows and `evaluate`, which gives the output's values for a row.
pub fn golden_from(inputs: &[TensorSpec], outputs: &[TensorSpec], rows: &Rows, evaluate: impl Fn(&[f32]) -> Vec<f32>) -> Golden {
    let (Some(x), Some(y)) = (inputs.first(), outputs.first()) else { return Golden::default() };
    let step = (rows.len() / GOLDEN_VECTORS).max(1);
    let vector = |row: &Vec<f32>| GoldenVector {
        inputs: vec![Tensor::f32(&x.name, &x.shape, row)],
        outputs: vec![Tensor::f32(&y.name, &y.shape, &evaluate(row))],
    };
    Golden { rtol: RTOL, atol: ATOL, vectors: rows.inputs.iter().step_by(step).take(GOLDEN_VECTORS).map(vector).collect() }
}

/// The whole manifest, ready to be signed. `train` and `holdout` come with the model's probability for each of their rows.
/// `seq` is set when it is published.
pub fn manifest(
    spec: &TrainSpec,
    version: Version,
    artifacts: &Artifacts,
    train: (&Rows, &[f64]),
    holdout: (&Rows, &[f64]),
    now: Timestamp,
) -> Result<Manifest, TrainError> {
    let confidence = |p: f64| p.max(1.0 - p);
    let decisions: Vec<(f64, bool)> =
        holdout.1.iter().zip(&holdout.0.labels).map(|(p, y)| (confidence(*p), (*p >= THRESHOLD) == *y)).collect();
    let golden = match &artifacts.golden {
        Some(golden) => golden.clone(),
        None => return Err(TrainError::Shape("the trainer brought no golden vectors".to_owned())),
    };
    let manifest = Manifest {
        v: 1,
        line: spec.line.clone(),
        version,
        seq: 0,
        model: Blob::of(&artifacts.model),
        inputs: spec.inputs.clone(),
        outputs: spec.outputs.clone(),
        state: Vec::new(),
        constants: Vec::new(),
        redact: Default::default(),
        decision: Decision::Binary { output: 0, index: 0, threshold: THRESHOLD },
        reference: profile(spec, train.0, train.1)?,
        calibration: reference::weighted_calibration(&decisions, &holdout.0.weights),
        golden,
        limits: Limits::default(),
        lineage: Lineage {
            code: artifacts.code.clone(),
            code_revision: artifacts.code_revision.clone(),
            datasets: spec.datasets.clone(),
            parent: spec.parent,
            training_run: Some(spec.job.clone()),
            metrics: artifacts.metrics.clone(),
            reason: spec.reason.clone(),
        },
        created_at: now,
    };
    Manifest::parse(&manifest.to_bytes()).map_err(|e| TrainError::Shape(e.to_string()))
}

fn profile(spec: &TrainSpec, rows: &Rows, probabilities: &[f64]) -> Result<Reference, TrainError> {
    let missing = |name: &str| TrainError::Shape(format!("feature {name:?} has no values to make a reference from"));
    let mut features: Vec<FeatureReference> = Vec::new();
    for (index, name) in spec.features.iter().enumerate() {
        let values: Vec<Option<f64>> = rows.inputs.iter().map(|x| x.get(index).map(|v| f64::from(*v))).collect();
        let made = reference::weighted_feature(name, Source::Input { tensor: 0, index }, &values, &rows.weights);
        features.push(made.ok_or_else(|| missing(name))?);
    }
    let outputs: Vec<Option<f64>> = probabilities.iter().copied().map(Some).collect();
    let confidences: Vec<Option<f64>> = probabilities.iter().map(|p| Some(p.max(1.0 - p))).collect();
    let weighted = |name: &str, source, values: &[Option<f64>]| {
        reference::weighted_feature(name, source, values, &rows.weights).ok_or_else(|| missing(name))
    };
    let output = weighted("probability", Source::Output { tensor: 0, index: 0 }, &outputs)?;
    let confidence = weighted("confidence", Source::Confidence, &confidences)?;
    features.extend([output, confidence]);
    // What the rows are worth: the reference's own sampling error is part of every judgement about drift.
    let worth = reference::effective_rows(rows.weights.iter().copied()).round().max(1.0) as u64;
    Ok(Reference { rows: worth, features })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trainer::tests::world;
    use crate::trainer::{tabular_io, train};

    #[test]
    fn a_trained_model_becomes_a_manifest_that_adds_up() {
        let (inputs, outputs) = tabular_io(3);
        let spec = TrainSpec {
            v: 1,
            job: "job-1".into(),
            line: "rain".parse().unwrap(),
            parent: None,
            reason: "first".into(),
            features: ["a", "b", "c"].map(str::to_owned).to_vec(),
            label: "y".into(),
            weight: None,
            inputs,
            outputs,
            datasets: Vec::new(),
        };
        let (learn, held) = (world(2000, 1), world(1000, 2));
        let (artifacts, model) = train(&spec, &learn, &held).unwrap();
        let of = |rows: &Rows| rows.inputs.iter().map(|x| model.probability(x)).collect::<Vec<_>>();
        let made =
            manifest(&spec, "1".parse().unwrap(), &artifacts, (&learn, &of(&learn)), (&held, &of(&held)), Timestamp::from_secs(5)).unwrap();
        assert_eq!(made.golden.vectors.len(), 8);
        assert_eq!(made.reference.features.len(), 5);
        assert_eq!(made.calibration.rows.iter().sum::<u64>(), 1000);
        assert!(super::super::is_tabular(&made));
        let bare = Artifacts { golden: None, ..artifacts };
        assert!(manifest(&spec, "1".parse().unwrap(), &bare, (&learn, &of(&learn)), (&held, &of(&held)), Timestamp::from_secs(5)).is_err());
    }
}
