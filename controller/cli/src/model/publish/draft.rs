//! The manifest, from what the file says, what the flags say, and what the model answers. Pure.
use std::collections::BTreeMap;

use leeway_controller::reference;
use leeway_controller::reference::table::Table;
use leeway_protocol::digest::Digest;
use leeway_protocol::manifest::{
    Blob, CONFIDENCE_BINS, Calibration, Dataset, Decision, Golden, GoldenVector, Limits, Lineage, Manifest, StateLink,
};
use leeway_protocol::profile::{Cuts, FeatureReference, Reference, SPECIALS, Source};
use leeway_protocol::tensor::{DType, Tensor, TensorSpec};
use leeway_protocol::time::Timestamp;

use super::answers::{Answer, Answers};
use super::{Publish, Reading};
use crate::failure::{Failure, Outcome};
use crate::model::describe::{Described, Port};

/// Golden vectors taken, spread evenly over the reference.
const GOLDEN: usize = 16;
/// f32 arithmetic in another order, on another processor.
const RTOL: f64 = 1e-3;
const ATOL: f64 = 1e-4;
/// A tolerance that takes any answer: only for the manifest with which the model is asked for its answers.
const ANYTHING: f64 = 1e300;
/// Every fifth row is held out for calibration and metrics.
const HOLDOUT: usize = 5;
/// Output elements watched for drift; of an embedding only the first.
const MAX_OUTPUTS: usize = 16;

/// Inputs, outputs, state and constants with concrete sizes.
#[derive(Debug, Clone)]
pub(super) struct Shape {
    inputs: Vec<TensorSpec>,
    outputs: Vec<TensorSpec>,
    state: Vec<StateLink>,
    constants: Vec<Tensor>,
}

impl Shape {
    /// Inputs that the application gives.
    fn free(&self) -> impl Iterator<Item = (usize, &TensorSpec)> {
        self.inputs
            .iter()
            .enumerate()
            .filter(|(_, s)| !self.state.iter().any(|l| l.input == s.name) && !self.constants.iter().any(|c| c.name == s.name))
    }
}

/// From the description and the flags.
pub(super) fn shape(args: &Publish, described: &Described) -> Outcome<Shape> {
    let given = |port: &Port| args.shapes.iter().find(|(name, _)| *name == port.name).map(|(_, sizes)| sizes.as_slice());
    let specs = |ports: &[Port]| ports.iter().map(|p| p.spec(given(p))).collect::<Outcome<Vec<_>>>();
    let (inputs, outputs) = (specs(&described.inputs)?, specs(&described.outputs)?);
    for (name, _) in &args.shapes {
        if !inputs.iter().chain(&outputs).any(|s| s.name == *name) {
            return Err(Failure::new(format!("--shape names {name:?}, which is neither an input nor an output")).code(2));
        }
    }
    let state = args.states.iter().map(|(input, output)| StateLink { input: input.clone(), output: output.clone() }).collect();
    let constant = |(name, values): &(String, Vec<f64>)| {
        let spec = inputs
            .iter()
            .find(|s| s.name == *name)
            .ok_or_else(|| Failure::new(format!("--constant names {name:?}, which is no input")).code(2))?;
        let count = spec.elements().unwrap_or(0);
        let all: Vec<f64> = if let [one] = values[..] { vec![one; count] } else { values.clone() };
        if all.len() != count {
            return Err(Failure::new(format!("--constant {name} has {} values, the input has {count} elements", all.len())).code(2));
        }
        Ok(tensor(spec, &all))
    };
    let constants = args.constants.iter().map(constant).collect::<Outcome<Vec<_>>>()?;
    Ok(Shape { inputs, outputs, state, constants })
}

/// The table's columns that are the inputs' elements, in order.
pub(super) fn columns(args: &Publish, shape: &Shape, table: &Table) -> Outcome<Vec<String>> {
    let label = args.label_column.as_deref();
    let all = || table.names.iter().filter(|n| Some(n.as_str()) != label).cloned().collect();
    let chosen: Vec<String> = if args.features.is_empty() { all() } else { args.features.clone() };
    for name in chosen.iter().map(String::as_str).chain(label) {
        table.column(name)?;
    }
    let need: usize = shape.free().filter_map(|(_, s)| s.elements()).sum();
    if chosen.len() != need {
        let problem =
            format!("the model takes {need} values a row, the reference has {} columns for them ({})", chosen.len(), chosen.join(", "));
        return Err(Failure::new(problem)
            .code(2)
            .help("name the columns in the order of the inputs' elements with --features a,b,…, and the truth with --label-column"));
    }
    Ok(chosen)
}

fn reading(args: &Publish, shape: &Shape) -> Outcome<Decision> {
    // Classifiers of scikit-learn give the label first, as an integer, and then the probabilities; confidence is in the latter.
    let output = shape.outputs.iter().position(|spec| spec.dtype == DType::F32).unwrap_or(0);
    let elements = shape.outputs.get(output).and_then(TensorSpec::elements).unwrap_or(0);
    let binary = Decision::Binary { output, index: 0, threshold: args.threshold };
    let decision = match (args.decision, elements) {
        (Reading::Auto, _) if args.label_column.is_none() => Decision::None,
        (Reading::None, _) => Decision::None,
        (Reading::Auto, 1) | (Reading::Binary, _) => binary,
        (Reading::Auto | Reading::Classes, _) => Decision::Classes { output },
    };
    if decision != Decision::None && args.label_column.is_none() {
        let problem = "a model that decides needs the truth for its reference rows, to say how far its confidence can be believed";
        return Err(Failure::new(problem).code(2).help("name the column with --label-column, or say --decision none"));
    }
    Ok(decision)
}

/// A manifest good enough to be answered with.
pub(super) fn first(args: &Publish, shape: &Shape, columns: &[String], table: &Table, model: &[u8], at: Timestamp) -> Outcome<Manifest> {
    let decision = reading(args, shape)?;
    let features = inputs(shape, columns, table)?;
    let filled =
        (0..table.rows()).find(|&row| columns.iter().all(|c| table.column(c).ok().and_then(|d| d.get(row).copied().flatten()).is_some()));
    let row = filled.ok_or_else(|| Failure::new("every row of the reference has a missing value, so the model cannot be tried on any"))?;
    let vector = GoldenVector {
        inputs: row_tensors(shape, columns, table, row),
        outputs: shape.outputs.iter().map(|s| tensor(s, &vec![0.0; s.elements().unwrap_or(0)])).collect(),
    };
    let even = |i: usize| i as f64 / CONFIDENCE_BINS as f64;
    let calibration = match decision {
        Decision::None => Calibration::default(),
        _ => Calibration {
            edges: (0..=CONFIDENCE_BINS).map(even).collect(),
            accuracy: vec![0.0; CONFIDENCE_BINS],
            rows: vec![0; CONFIDENCE_BINS],
        },
    };
    Ok(Manifest {
        v: 1,
        line: args.line.clone(),
        version: args.version.clone(),
        seq: 0,
        model: Blob::of(model),
        inputs: shape.inputs.clone(),
        outputs: shape.outputs.clone(),
        state: shape.state.clone(),
        constants: shape.constants.clone(),
        decision,
        reference: Reference { rows: table.rows() as u64, features },
        calibration,
        golden: Golden { rtol: 0.0, atol: ANYTHING, vectors: vec![vector] },
        limits: Limits::default(),
        lineage: Lineage::default(),
        created_at: at,
    })
}

/// What the caller read for the manifest.
#[derive(Debug)]
pub(super) struct MadeFrom {
    /// Digest of the reference file.
    pub data: Digest,
    /// Golden vectors of the training framework, where given.
    pub golden: Option<Golden>,
    /// The manifest of the version it was trained from.
    pub parent: Option<Digest>,
    /// The run that trained it, elsewhere.
    pub run: Option<String>,
}

/// The manifest that is signed.
pub(super) fn manifest(
    args: &Publish,
    first: Manifest,
    columns: &[String],
    table: &Table,
    answers: &Answers,
    made_from: MadeFrom,
) -> Outcome<Manifest> {
    let shape = Shape {
        inputs: first.inputs.clone(),
        outputs: first.outputs.clone(),
        state: first.state.clone(),
        constants: first.constants.clone(),
    };
    let mut features = first.reference.features.clone();
    features.extend(outputs(&shape, answers));
    let decides = first.decision != Decision::None;
    if decides {
        let confidences: Vec<Option<f64>> = answers.rows.iter().map(|a| Some(a.confidence)).collect();
        features.extend(reference::feature("confidence", Source::Confidence, &confidences));
    }
    let judged = judged(args, table, answers)?;
    let calibration = if decides { reference::calibration(&judged) } else { Calibration::default() };
    let mut metrics: BTreeMap<String, f64> = args.metrics.iter().cloned().collect();
    if !judged.is_empty() {
        let right = judged.iter().filter(|(_, right)| *right).count();
        metrics.insert("accuracy".to_owned(), right as f64 / judged.len() as f64);
    }
    let golden = match made_from.golden {
        Some(golden) => golden,
        None => computed(&shape, columns, table, answers)?,
    };
    let name = args.reference.file_name().map_or_else(String::new, |n| n.to_string_lossy().into_owned());
    let datasets = vec![Dataset { role: "reference".to_owned(), name, digest: made_from.data, rows: table.rows() as u64 }];
    let lineage = Lineage {
        code: args.code.clone(),
        code_revision: args.code_revision.clone(),
        datasets,
        parent: made_from.parent,
        training_run: made_from.run,
        metrics,
        reason: args.reason.clone(),
    };
    Ok(Manifest { reference: Reference { rows: first.reference.rows, features }, calibration, golden, lineage, ..first })
}

/// (Confidence, right) of the held-out rows.
fn judged(args: &Publish, table: &Table, answers: &Answers) -> Outcome<Vec<(f64, bool)>> {
    let Some(label) = &args.label_column else { return Ok(Vec::new()) };
    let truth = table.column(label)?;
    let held_out = answers.rows.iter().filter(|a| a.row % HOLDOUT == 0 || answers.rows.len() < 100);
    let judge = |a: &Answer| truth.get(a.row).copied().flatten().map(|t| (a.confidence, (t - a.decision).abs() < 0.5));
    let judged: Vec<(f64, bool)> = held_out.filter_map(judge).filter(|(c, _)| c.is_finite()).collect();
    if judged.is_empty() && args.decision != Reading::None {
        return Err(Failure::new(format!("no held-out row has both an answer and a value in column {label:?}")).code(2));
    }
    Ok(judged)
}

fn inputs(shape: &Shape, columns: &[String], table: &Table) -> Outcome<Vec<FeatureReference>> {
    let mut names = columns.iter();
    let mut features = Vec::new();
    for (tensor, spec) in shape.free() {
        for index in 0..spec.elements().unwrap_or(0) {
            let Some(name) = names.next() else { break };
            let made = reference::feature(name, Source::Input { tensor, index }, table.column(name)?);
            features.push(made.ok_or_else(|| Failure::new(format!("column {name:?} has no value to make a reference from")).code(2))?);
        }
    }
    Ok(features)
}

fn outputs(shape: &Shape, answers: &Answers) -> Vec<FeatureReference> {
    let mut features = Vec::new();
    let mut at = 0;
    for (tensor, spec) in shape.outputs.iter().enumerate().filter(|(_, s)| !shape.state.iter().any(|l| l.output == s.name)) {
        let elements = spec.elements().unwrap_or(0);
        for index in 0..elements {
            if features.len() < MAX_OUTPUTS {
                let values: Vec<Option<f64>> = answers.rows.iter().map(|a| a.outputs.get(at + index).copied()).collect();
                let name = if elements == 1 { spec.name.clone() } else { format!("{}_{index}", spec.name) };
                features.extend(reference::feature(&name, Source::Output { tensor, index }, &values).map(continuous));
            }
        }
        at += elements;
    }
    features
}

/// An output that happened to be whole numbers on the reference is still continuous: categories would call anything else unseen.
fn continuous(feature: FeatureReference) -> FeatureReference {
    let Cuts::Categorical { values } = &feature.cuts else { return feature };
    let (Some(low), Some(high)) = (values.first(), values.last()) else { return feature };
    let edges = vec![*low as f64, (*high as f64).max(*low as f64 + 1.0)];
    let special: Vec<f64> = feature.masses.iter().take(SPECIALS).copied().collect();
    let inside = 1.0 - special.iter().sum::<f64>();
    FeatureReference { cuts: Cuts::Numeric { edges }, masses: special.into_iter().chain([inside]).collect(), ..feature }
}

/// Golden vectors from the runner's own answers.
fn computed(shape: &Shape, columns: &[String], table: &Table, answers: &Answers) -> Outcome<Golden> {
    if !shape.state.is_empty() {
        return Err(Failure::new("golden vectors of a model with state cannot be computed from single rows")
            .code(2)
            .help("give those of the training framework with --golden"));
    }
    let step = (answers.rows.len() / GOLDEN).max(1);
    let vector = |answer: &Answer| {
        let mut values = answer.outputs.iter().copied();
        let outputs =
            shape.outputs.iter().map(|s| tensor(s, &values.by_ref().take(s.elements().unwrap_or(0)).collect::<Vec<_>>())).collect();
        GoldenVector { inputs: row_tensors(shape, columns, table, answer.row), outputs }
    };
    Ok(Golden { rtol: RTOL, atol: ATOL, vectors: answers.rows.iter().step_by(step).take(GOLDEN).map(vector).collect() })
}

fn row_tensors(shape: &Shape, columns: &[String], table: &Table, row: usize) -> Vec<Tensor> {
    let mut names = columns.iter();
    let value = |name: &String| table.column(name).ok().and_then(|c| c.get(row).copied().flatten()).unwrap_or(0.0);
    shape.free().map(|(_, spec)| tensor(spec, &names.by_ref().take(spec.elements().unwrap_or(0)).map(value).collect::<Vec<_>>())).collect()
}

/// Values in the type of a tensor.
fn tensor(spec: &TensorSpec, values: &[f64]) -> Tensor {
    let data = values
        .iter()
        .flat_map(|&v| match spec.dtype {
            DType::F32 => (v as f32).to_le_bytes().to_vec(),
            DType::I8 => (v as i8).to_le_bytes().to_vec(),
            DType::U8 => (v as u8).to_le_bytes().to_vec(),
            DType::I32 => (v as i32).to_le_bytes().to_vec(),
            DType::I64 => (v as i64).to_le_bytes().to_vec(),
            DType::Bool => vec![u8::from(v != 0.0)],
        })
        .collect();
    Tensor { name: spec.name.clone(), dtype: spec.dtype, shape: spec.shape.clone(), data }
}

#[cfg(test)]
mod tests;
