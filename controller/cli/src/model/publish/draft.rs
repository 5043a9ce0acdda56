//! The manifest, from what the file says, what the flags say, and what the model answers. Pure.
use std::collections::BTreeMap;

use leeway_controller::reference;
use leeway_controller::reference::derived;
use leeway_controller::reference::table::Table;
use leeway_controller::reference::worth::Judged;
use leeway_protocol::digest::Digest;
use leeway_protocol::manifest::{
    Blob, CONFIDENCE_BINS, Calibration, Dataset, Decision, Golden, GoldenVector, Limits, Lineage, Manifest, StateLink,
};
use leeway_protocol::profile::{Cuts, FeatureReference, Reference, SPECIALS, Source};
use leeway_protocol::statistic::{Place, View};
use leeway_protocol::tensor::{DType, Elements, Tensor, TensorSpec};
use leeway_protocol::time::Timestamp;

use super::answers::{Answer, Answers};
use super::data::Data;
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
/// Elements of an array's input that are watched one by one; more of them need a view.
const MAX_ELEMENTS: usize = 64;
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
    pub(super) fn free(&self) -> impl Iterator<Item = (usize, &TensorSpec)> {
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
pub(super) fn columns(features: &[String], label: Option<&str>, shape: &Shape, table: &Table) -> Outcome<Vec<String>> {
    let all = || table.names.iter().filter(|n| Some(n.as_str()) != label).cloned().collect();
    let chosen: Vec<String> = if features.is_empty() { all() } else { features.to_vec() };
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
pub(super) fn first(args: &Publish, shape: &Shape, data: &Data, model: &[u8], at: Timestamp) -> Outcome<Manifest> {
    let decision = reading(args, shape)?;
    let features = inputs(args, shape, data)?;
    let filled = (0..data.rows()).find(|&row| data.values(row).iter().all(Option::is_some));
    let row = filled.ok_or_else(|| Failure::new("every row of the reference has a missing value, so the model cannot be tried on any"))?;
    let vector = GoldenVector {
        inputs: row_tensors(shape, data, row),
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
        v: if args.redact.is_empty() { 1 } else { 2 },
        line: args.line.clone(),
        version: args.version.clone(),
        seq: 0,
        model: Blob::of(model),
        inputs: shape.inputs.clone(),
        outputs: shape.outputs.clone(),
        state: shape.state.clone(),
        constants: shape.constants.clone(),
        redact: args.redact.iter().cloned().collect(),
        decision,
        reference: Reference { rows: data.rows() as u64, features },
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
pub(super) fn manifest(args: &Publish, first: Manifest, data: &Data, answers: &Answers, made_from: MadeFrom) -> Outcome<Manifest> {
    let shape = Shape {
        inputs: first.inputs.clone(),
        outputs: first.outputs.clone(),
        state: first.state.clone(),
        constants: first.constants.clone(),
    };
    let mut features = first.reference.features.clone();
    features.extend(outputs(args, &shape, answers)?);
    let decides = first.decision != Decision::None;
    if decides {
        let confidences: Vec<Option<f64>> = answers.rows.iter().map(|a| Some(a.confidence)).collect();
        features.extend(reference::feature("confidence", Source::Confidence, &confidences));
    }
    let right = |(confidence, j): (f64, Judged)| j.truth.map(|truth| (confidence, (truth - j.decision).abs() < 0.5));
    let judged: Vec<(f64, bool)> = judged(args, data, answers)?.into_iter().filter_map(right).collect();
    let calibration = if decides { reference::calibration(&judged) } else { Calibration::default() };
    let mut metrics: BTreeMap<String, f64> = args.metrics.iter().cloned().collect();
    if !judged.is_empty() {
        let right = judged.iter().filter(|(_, right)| *right).count();
        metrics.insert("accuracy".to_owned(), right as f64 / judged.len() as f64);
    }
    let golden = match made_from.golden {
        Some(golden) => golden,
        None => computed(&shape, data, answers)?,
    };
    let name = args.reference.file_name().map_or_else(String::new, |n| n.to_string_lossy().into_owned());
    let datasets = vec![Dataset { role: "reference".to_owned(), name, digest: made_from.data, rows: data.rows() as u64 }];
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

/// The held-out rows that the model decided, with its confidence and, where there is a label column, the truth.
pub(super) fn judged(args: &Publish, data: &Data, answers: &Answers) -> Outcome<Vec<(f64, Judged)>> {
    let truth = args.label_column.as_ref().map(|label| data.labels(label)).transpose()?;
    let held_out = answers.rows.iter().filter(|a| a.row % HOLDOUT == 0 || answers.rows.len() < 100);
    let judge = |a: &Answer| {
        let truth = truth.and_then(|column| column.get(a.row).copied().flatten());
        (a.confidence, Judged { row: a.row, decision: a.decision, truth })
    };
    let judged: Vec<(f64, Judged)> = held_out.map(judge).filter(|(c, _)| c.is_finite()).collect();
    if let Some(label) = &args.label_column
        && args.decision != Reading::None
        && judged.iter().all(|(_, j)| j.truth.is_none())
    {
        return Err(Failure::new(format!("no held-out row has both an answer and a value in column {label:?}")).code(2));
    }
    Ok(judged)
}

fn inputs(args: &Publish, shape: &Shape, data: &Data) -> Outcome<Vec<FeatureReference>> {
    let mut features = Vec::new();
    let mut first = 0;
    for (at, (tensor, spec)) in shape.free().enumerate() {
        let elements = spec.elements().unwrap_or(0);
        match (args.views.iter().find(|asked| asked.name == spec.name), data) {
            (Some(asked), _) => {
                let (view, directions) = asked.view(spec)?;
                let mut figures = derived::Figures::new(&view, directions);
                data.each(at, first, spec, |row| figures.see(row));
                features.extend(figures.references(&spec.name, Place::Input(tensor)));
            }
            (None, Data::Table(table, columns)) => {
                for (index, name) in columns.get(first..first + elements).unwrap_or(&[]).iter().enumerate() {
                    let made = reference::feature(name, Source::Input { tensor, index }, table.column(name)?);
                    features
                        .push(made.ok_or_else(|| Failure::new(format!("column {name:?} has no value to make a reference from")).code(2))?);
                }
            }
            (None, Data::Arrays(_)) if elements > MAX_ELEMENTS => {
                let failure = Failure::new(format!("input {:?} has {elements} elements, too many to be watched one by one", spec.name));
                return Err(failure.code(2).help(format!("say what it is: --view {}=image (or audio, text, embedding)", spec.name)));
            }
            (None, Data::Arrays(_)) => {
                let mut values = vec![Vec::new(); elements];
                data.each(at, first, spec, |row| values.iter_mut().enumerate().for_each(|(i, values)| values.push(row.at(i))));
                let made = |(index, values): (usize, &Vec<Option<f64>>)| {
                    reference::feature(&format!("{}_{index}", spec.name), Source::Input { tensor, index }, values)
                };
                features.extend(values.iter().enumerate().filter_map(made));
            }
        }
        first += elements;
    }
    let known = |name: &str| shape.inputs.iter().chain(&shape.outputs).any(|spec| spec.name == name);
    match args.views.iter().find(|asked| !known(&asked.name)) {
        Some(asked) => Err(Failure::new(format!("--view names {:?}, which is neither an input nor an output", asked.name)).code(2)),
        None => Ok(features),
    }
}

fn outputs(args: &Publish, shape: &Shape, answers: &Answers) -> Outcome<Vec<FeatureReference>> {
    let mut features = Vec::new();
    let mut at = 0;
    for (tensor, spec) in shape.outputs.iter().enumerate().filter(|(_, s)| !shape.state.iter().any(|l| l.output == s.name)) {
        let elements = spec.elements().unwrap_or(0);
        if let Some(asked) = args.views.iter().find(|asked| asked.name == spec.name) {
            features.extend(seen(&asked.view(spec)?, spec, tensor, answers, at));
            at += elements;
            continue;
        }
        for index in 0..elements {
            if features.len() < MAX_OUTPUTS {
                let values: Vec<Option<f64>> = answers.rows.iter().map(|a| a.outputs.get(at + index).copied()).collect();
                let name = if elements == 1 { spec.name.clone() } else { format!("{}_{index}", spec.name) };
                features.extend(reference::feature(&name, Source::Output { tensor, index }, &values).map(continuous));
            }
        }
        at += elements;
    }
    Ok(features)
}

/// The derived statistics of an output whose elements begin at `at` in the answers.
fn seen((view, directions): &(View, u32), spec: &TensorSpec, tensor: usize, answers: &Answers, at: usize) -> Vec<FeatureReference> {
    let mut figures = derived::Figures::new(view, *directions);
    for answer in &answers.rows {
        let own: Vec<f32> = answer.outputs.iter().skip(at).take(spec.elements().unwrap_or(0)).map(|&x| x as f32).collect();
        figures.see(&Elements::F32(&own));
    }
    figures.references(&spec.name, Place::Output(tensor))
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
fn computed(shape: &Shape, data: &Data, answers: &Answers) -> Outcome<Golden> {
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
        GoldenVector { inputs: row_tensors(shape, data, answer.row), outputs }
    };
    Ok(Golden { rtol: RTOL, atol: ATOL, vectors: answers.rows.iter().step_by(step).take(GOLDEN).map(vector).collect() })
}

fn row_tensors(shape: &Shape, data: &Data, row: usize) -> Vec<Tensor> {
    let values = data.values(row);
    let mut values = values.iter().map(|value| value.unwrap_or(0.0));
    shape.free().map(|(_, spec)| tensor(spec, &values.by_ref().take(spec.elements().unwrap_or(0)).collect::<Vec<_>>())).collect()
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
