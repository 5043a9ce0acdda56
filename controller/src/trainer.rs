//! The built-in trainer: labelled rows in, a plain ONNX model and everything a manifest says about it out. Pure.
//!
//! Logistic regression over standardised features and their products, fitted by linfa. The scaler, the products and the clipping
//! of outliers are part of the graph, made of operators every engine has (Max, Min, Gemm, Mul, Concat, Sigmoid), so the device
//! needs nothing but the file. A command trainer can bring any other model; what follows from its outputs (reference profile,
//! calibration, golden vectors) is made here in the same way for both.
//!
//! What stays true: the same rows give the same bytes.
use std::collections::BTreeMap;

use leeway_protocol::digest::Digest;
use leeway_protocol::ids::Line;
use leeway_protocol::manifest::{Dataset, Golden, Manifest};
use leeway_protocol::tensor::TensorSpec;
use serde::{Deserialize, Serialize};

use crate::reference::table::{Table, TableError};

pub mod draft;
pub mod fit;
pub mod onnx;
pub mod remote;
pub mod run;

/// What a trainer is asked to do; also the JSON file that a command trainer reads.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TrainSpec {
    /// Form: 1.
    pub v: u32,
    /// The job, unique; submitting the same job twice is submitting it once.
    pub job: String,
    /// The model line.
    pub line: Line,
    /// Digest of the parent's manifest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<Digest>,
    /// Why, in a sentence.
    pub reason: String,
    /// Feature columns in the order of the input's elements.
    pub features: Vec<String>,
    /// The label column.
    pub label: String,
    /// A column of weights (inverse inclusion probabilities), if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weight: Option<String>,
    /// Inputs the model must have; the trainer's grant is for exactly these.
    pub inputs: Vec<TensorSpec>,
    /// Outputs likewise.
    pub outputs: Vec<TensorSpec>,
    /// The data, with roles `train` and `holdout`.
    pub datasets: Vec<Dataset>,
}

/// What a trainer brings back.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Artifacts {
    /// The ONNX file.
    pub model: Vec<u8>,
    /// Metrics the trainer measured itself, by name.
    pub metrics: BTreeMap<String, f64>,
    /// Golden vectors from the training framework, if it made some.
    pub golden: Option<Golden>,
    /// What made it: name and revision of the training code.
    pub code: String,
    /// Revision of that code.
    pub code_revision: String,
    /// What the code was told.
    pub parameters: BTreeMap<String, String>,
    /// Programs and packages it ran with.
    pub environment: BTreeMap<String, String>,
    /// What chance was drawn from, if any was.
    pub seed: Option<String>,
}

/// Rows ready to learn from: no missing features or labels.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Rows {
    /// Feature values by row.
    pub inputs: Vec<Vec<f32>>,
    /// Classes, 0 or 1.
    pub labels: Vec<bool>,
    /// Weights, 1 on average.
    pub weights: Vec<f64>,
}

/// Why nothing could be trained.
#[derive(Debug, thiserror::Error)]
pub enum TrainError {
    /// The data.
    #[error(transparent)]
    Table(#[from] TableError),
    /// Too little, or only one class.
    #[error(
        "there is too little to learn from: {rows} complete rows, {positive} of class 1; at least {MIN_ROWS} rows with {MIN_CLASS} of each class are needed"
    )]
    TooLittle {
        /// Complete rows.
        rows: usize,
        /// Of class 1.
        positive: usize,
    },
    /// The optimiser.
    #[error("the fit did not converge: {0}")]
    Fit(String),
    /// Manifest pieces that do not fit together.
    #[error("the trained model does not fit what was asked for: {0}")]
    Shape(String),
}

/// Fewer rows than this teach nothing that can be measured.
pub const MIN_ROWS: usize = 200;
/// Fewer rows of a class likewise.
pub const MIN_CLASS: usize = 20;

impl Rows {
    /// The complete rows of a dataset's bytes, as the spec names its columns.
    pub fn parse(bytes: &[u8], spec: &TrainSpec) -> Result<Self, TrainError> {
        let wanted = |name: &str| spec.features.iter().any(|f| f == name) || name == spec.label || spec.weight.as_deref() == Some(name);
        Self::from_table(&Table::parse_only(bytes, wanted)?, &spec.features, &spec.label, spec.weight.as_deref())
    }

    /// The complete rows of a table. Rows with a missing feature or label are left out: a model that never saw them should not
    /// pretend it did.
    pub fn from_table(table: &Table, features: &[String], label: &str, weight: Option<&str>) -> Result<Self, TrainError> {
        let columns = features.iter().map(|name| table.column(name)).collect::<Result<Vec<_>, _>>()?;
        let (labels, weights) = (table.column(label)?, weight.map(|w| table.column(w)).transpose()?);
        let mut rows = Self::default();
        for (row, label) in labels.iter().enumerate() {
            let values: Option<Vec<f32>> =
                columns.iter().map(|c| c.get(row).copied().flatten().filter(|v| v.is_finite()).map(|v| v as f32)).collect();
            let (Some(values), Some(label)) = (values, label) else { continue };
            rows.inputs.push(values);
            rows.labels.push(*label >= 0.5);
            rows.weights.push(weights.and_then(|w| w.get(row).copied().flatten()).filter(|w| *w > 0.0).unwrap_or(1.0));
        }
        let positive = rows.labels.iter().filter(|l| **l).count();
        if rows.labels.len() < MIN_ROWS || positive < MIN_CLASS || rows.labels.len() - positive < MIN_CLASS {
            return Err(TrainError::TooLittle { rows: rows.labels.len(), positive });
        }
        Ok(rows)
    }

    /// Number of rows.
    pub fn len(&self) -> usize {
        self.labels.len()
    }

    /// Share of the weight that probabilities of class 1, one per row, are right on.
    pub fn accuracy(&self, probabilities: impl Iterator<Item = f64>) -> f64 {
        let each = probabilities.zip(&self.labels).zip(&self.weights);
        let (right, all) = each.fold((0.0, 0.0), |(right, all), ((p, y), w)| (right + if (p >= 0.5) == *y { *w } else { 0.0 }, all + w));
        if all > 0.0 { right / all } else { 0.0 }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty()
    }
}

/// Train on `train`, judge on `holdout`, and describe the result.
pub fn train(spec: &TrainSpec, train: &Rows, holdout: &Rows) -> Result<(Artifacts, fit::Model), TrainError> {
    let model = fit::fit(train)?;
    let accuracy = |rows: &Rows| rows.accuracy(rows.inputs.iter().map(|x| model.probability(x)));
    let metrics = BTreeMap::from([
        ("train_accuracy".to_owned(), accuracy(train)),
        ("holdout_accuracy".to_owned(), accuracy(holdout)),
        ("train_rows".to_owned(), train.len() as f64),
        ("holdout_rows".to_owned(), holdout.len() as f64),
    ]);
    let artifacts = Artifacts {
        model: onnx::write(&model, &spec.inputs, &spec.outputs)?,
        metrics,
        golden: Some(draft::golden_from(&spec.inputs, &spec.outputs, holdout, |x| vec![model.probability(x) as f32])),
        code: "leeway built-in logistic regression".to_owned(),
        code_revision: env!("CARGO_PKG_VERSION").to_owned(),
        parameters: fit::parameters(),
        environment: BTreeMap::from([("leeway".to_owned(), env!("CARGO_PKG_VERSION").to_owned())]),
        seed: None,
    };
    Ok((artifacts, model))
}

/// The shape of every binary tabular model: one row of `features` values in, the probability of class 1 out.
pub fn tabular_io(features: usize) -> (Vec<TensorSpec>, Vec<TensorSpec>) {
    use leeway_protocol::tensor::DType::F32;
    let spec = |name: &str, width: usize| vec![TensorSpec { name: name.to_owned(), dtype: F32, shape: vec![1, width as u64] }];
    (spec("x", features), spec("probability", 1))
}

/// Whether a manifest is one this trainer can retrain: one f32 row in, one probability out.
pub fn is_tabular(manifest: &Manifest) -> bool {
    let row = |spec: &TensorSpec| spec.dtype == leeway_protocol::tensor::DType::F32 && matches!(spec.shape[..], [1, _]);
    matches!((&manifest.inputs[..], &manifest.outputs[..]), ([x], [y]) if row(x) && row(y) && y.elements() == Some(1))
        && manifest.state.is_empty()
        && manifest.constants.is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A world where class 1 is an ellipse: the products are needed.
    pub(super) fn world(rows: usize, seed: u64) -> Rows {
        let mut state = seed;
        let mut next = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            ((state >> 33) as f64 / f64::from(1u32 << 31) * 4.0 - 2.0) as f32
        };
        let mut made = Rows::default();
        for _ in 0..rows {
            let x = vec![next(), next() * 10.0 + 100.0, next()];
            made.labels.push(x[0] * x[0] + ((x[1] - 100.0) / 10.0).powi(2) < 1.5);
            made.inputs.push(x);
            made.weights.push(1.0);
        }
        made
    }

    fn spec() -> TrainSpec {
        let (inputs, outputs) = tabular_io(3);
        TrainSpec {
            v: 1,
            job: "j".into(),
            line: "rain".parse().unwrap(),
            parent: None,
            reason: "test".into(),
            features: ["a", "b", "c"].map(str::to_owned).to_vec(),
            label: "y".into(),
            weight: None,
            inputs,
            outputs,
            datasets: Vec::new(),
        }
    }

    #[test]
    fn it_learns_a_curve_and_gives_the_same_bytes_again() {
        let (artifacts, _) = train(&spec(), &world(3000, 1), &world(1000, 2)).unwrap();
        assert!(artifacts.metrics["holdout_accuracy"] > 0.93, "{:?}", artifacts.metrics);
        let (again, _) = train(&spec(), &world(3000, 1), &world(1000, 2)).unwrap();
        assert_eq!(again.model, artifacts.model);
    }

    #[test]
    fn too_little_data_is_said_so() {
        let few = world(MIN_ROWS - 1, 1);
        let table = Table {
            names: vec!["a".into(), "y".into()],
            columns: vec![few.inputs.iter().map(|x| Some(f64::from(x[0]))).collect(), vec![Some(1.0); few.len()]],
        };
        let error = Rows::from_table(&table, &["a".to_owned()], "y", None).unwrap_err();
        assert!(error.to_string().contains("199 complete rows"), "{error}");
    }
}
