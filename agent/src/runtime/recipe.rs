//! From checked bytes to an optimised graph: the way of loading that was never worse than any other.
//!
//! Value infos are ignored (a stale symbolic batch in them makes a model fail as soon as the inputs are concrete), every
//! input gets the manifest's concrete shape, inputs that never change become weights of the graph before it is built (a
//! run-time `If` or sample rate keeps its branches un-optimised: 15 times slower), outputs nobody declared are cut off, and
//! our own operators replace the engine's slow or unsafe ones.
//!
//! Panics inside the engine are caught here and in [`super::plan`] and become errors; a crash is the supervisor's matter.
use std::panic::{AssertUnwindSafe, catch_unwind};

use leeway_protocol::manifest::Manifest;
use leeway_protocol::reason::{Code, Reason};
use leeway_protocol::tensor::{DType, Tensor, TensorSpec};
use prost::Message as _;
use tract_onnx::Onnx;
use tract_onnx::pb;
use tract_onnx::prelude::{Framework as _, InferenceFact, InferenceModel, InferenceModelExt as _, TractResult, TypedModel};
use tract_onnx::tract_core::ops::gru_seq::GruSeq;
use tract_onnx::tract_core::ops::logic::IfThenElse;
use tract_onnx::tract_core::ops::scan::Scan;

use super::prescan::Scanned;
use super::tensors::{datum_type, dtype, sizes, spec_text};
use super::{onnx::element, ops};

/// Why a model does not load.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LoadError {
    /// The file is not the one the manifest names.
    #[error("the model file is not the one its manifest names (digest differs): publish both together")]
    OtherFile,
    /// Manifest and graph disagree.
    #[error("manifest and model disagree: {0}")]
    Mismatch(String),
    /// The engine refused.
    #[error("the engine cannot run it: {0}")]
    Engine(String),
    /// The engine panicked; it was caught.
    #[error("the engine broke down while loading it: {0}")]
    Panic(String),
}

impl LoadError {
    /// The reason a device reports.
    pub fn reason(&self) -> Reason {
        let code = match self {
            Self::OtherFile => Code::DigestMismatch,
            Self::Mismatch(_) => Code::IoMismatch,
            Self::Engine(_) | Self::Panic(_) => Code::LoadFailed,
        };
        Reason::new(code, self)
    }
}

/// The engine with our operators.
pub fn framework() -> Onnx {
    let mut onnx = tract_onnx::onnx().with_ignore_value_info(true);
    ops::register(&mut onnx.op_register);
    onnx
}

/// Load and optimise.
pub fn load(scanned: &Scanned, manifest: &Manifest) -> Result<TypedModel, LoadError> {
    guard(|| {
        let typed = typed(scanned, manifest)?;
        typed.into_decluttered().and_then(TypedModel::into_optimized).map_err(|e| LoadError::Engine(chain(&e)))
    })
}

/// Load as the file has it, every operator by itself: slower, and without what the engine's optimiser does to it.
pub fn load_as_written(scanned: &Scanned, manifest: &Manifest) -> Result<TypedModel, LoadError> {
    guard(|| typed(scanned, manifest))
}

fn typed(scanned: &Scanned, manifest: &Manifest) -> Result<TypedModel, LoadError> {
    if scanned.digest != manifest.model.digest {
        return Err(LoadError::OtherFile);
    }
    let proto = pb::ModelProto::decode(scanned.bytes()).map_err(|e| LoadError::Engine(e.to_string()))?;
    let proto = rewire(proto, manifest)?;
    let typed = build(&proto, manifest).map_err(|e| LoadError::Engine(chain(&e)))?;
    check_outputs(&typed, manifest)?;
    Ok(typed)
}

/// Run `work`, turning a panic into an error.
fn guard<T>(work: impl FnOnce() -> Result<T, LoadError>) -> Result<T, LoadError> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| Err(LoadError::Panic(panic_text(&*panic))))
}

/// What a panic said.
pub(super) fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    text.unwrap_or("no message").chars().take(200).collect()
}

/// An engine error with its causes, cut to a readable length.
pub(super) fn chain(error: &tract_onnx::prelude::TractError) -> String {
    let text = error.chain().map(ToString::to_string).collect::<Vec<_>>().join(": ");
    text.replace('\n', " ").chars().take(300).collect()
}

/// Constants become weights, outputs are those of the manifest in its order, inputs too.
fn rewire(mut proto: pb::ModelProto, manifest: &Manifest) -> Result<pb::ModelProto, LoadError> {
    let mismatch = |what: String| Err(LoadError::Mismatch(what));
    let Some(graph) = proto.graph.as_mut() else { return mismatch("the file holds no graph".to_owned()) };
    graph.value_info.clear();
    let weights: std::collections::BTreeSet<String> = graph.initializer.iter().map(|t| t.name.clone()).collect();
    let mut declared = std::mem::take(&mut graph.input);
    for spec in &manifest.inputs {
        let Some(at) = declared.iter().position(|info| info.name == spec.name) else {
            return mismatch(format!("the model has no input {:?}", spec.name));
        };
        let info = declared.swap_remove(at);
        match manifest.constants.iter().find(|tensor| tensor.name == spec.name) {
            Some(constant) => graph.initializer.push(weight(constant)),
            None if weights.contains(&spec.name) => return mismatch(format!("{:?} is a weight of the model, not an input", spec.name)),
            None => graph.input.push(info),
        }
    }
    if let Some(left) = declared.iter().find(|info| !weights.contains(&info.name)) {
        return mismatch(format!("the model needs an input {:?} that the manifest does not describe", left.name));
    }
    let mut outputs = Vec::new();
    for spec in &manifest.outputs {
        let Some(info) = graph.output.iter().find(|info| info.name == spec.name) else {
            return mismatch(format!("the model has no output {:?}", spec.name));
        };
        // Which type an output has, the manifest says; the file's may be a map, or texts that are places among them here.
        outputs.push(pb::ValueInfoProto { r#type: None, ..info.clone() });
    }
    graph.output = outputs;
    Ok(proto)
}

fn weight(constant: &Tensor) -> pb::TensorProto {
    let data_type = match constant.dtype {
        DType::F32 => element::FLOAT,
        DType::I8 => element::INT8,
        DType::U8 => element::UINT8,
        DType::I32 => element::INT32,
        DType::I64 => element::INT64,
        DType::Bool => element::BOOL,
    };
    let dims = constant.shape.iter().map(|&n| n as i64).collect();
    pb::TensorProto { name: constant.name.clone(), dims, data_type, raw_data: constant.data.clone(), ..Default::default() }
}

fn build(proto: &pb::ModelProto, manifest: &Manifest) -> TractResult<TypedModel> {
    let mut model: InferenceModel = framework().model_for_proto_model(proto)?;
    let free = manifest.inputs.iter().filter(|spec| !manifest.constants.iter().any(|c| c.name == spec.name));
    for (at, spec) in free.enumerate() {
        let fact = InferenceFact::dt_shape(datum_type(spec.dtype), sizes(&spec.shape));
        model.set_input_fact(at, fact)?;
    }
    let mut model = model.into_typed()?;
    forget(&mut model);
    Ok(model)
}

/// Loops begin every inference with the state the graph gives them.
///
/// The engine keeps a loop's state (a recurrent layer is a loop) from one run of a session to the next unless it is told not to, so
/// an answer would depend on the inferences before it. State that shall live on is an output that the manifest links to an input.
fn forget(model: &mut TypedModel) {
    for node in &mut model.nodes {
        if let Some(scan) = node.op_as_mut::<Scan>() {
            scan.reset_every_turn = true;
            forget(&mut scan.body);
        } else if let Some(gru) = node.op_as_mut::<GruSeq>() {
            gru.reset_every_turn = true;
        } else if let Some(branches) = node.op_as_mut::<IfThenElse>() {
            forget(&mut branches.then_body);
            forget(&mut branches.else_body);
        }
    }
}

/// Types and shapes of the outputs must be those the manifest promises to the application.
fn check_outputs(model: &TypedModel, manifest: &Manifest) -> Result<(), LoadError> {
    for (at, spec) in manifest.outputs.iter().enumerate() {
        let fact = model.output_fact(at).map_err(|e| LoadError::Engine(chain(&e)))?;
        let shape: Option<Vec<u64>> = fact.shape.as_concrete().map(|s| s.iter().map(|&n| n as u64).collect());
        let element = if fact.datum_type.is_tdim() { Some(DType::I64) } else { dtype(fact.datum_type) };
        // A shape that depends on the data is checked at every inference instead.
        let fits = element == Some(spec.dtype) && shape.as_ref().is_none_or(|s| *s == spec.shape);
        if !fits {
            let found = match (element, shape) {
                (Some(element), Some(shape)) => spec_text(element, &shape),
                (Some(element), None) => element.oip().to_owned(),
                (None, _) => format!("{:?}", fact.datum_type),
            };
            return Err(LoadError::Mismatch(format!("output {:?} is {found}, the manifest says {}", spec.name, describe(spec))));
        }
    }
    Ok(())
}

fn describe(spec: &TensorSpec) -> String {
    spec_text(spec.dtype, &spec.shape)
}
