//! A runnable model and its sessions.
//!
//! A plan is made once per model and shared; a session belongs to one stream of inferences, keeps the recurrent state between
//! them and is spawned once, because spawning per call costs as much as a small model. One plan per shape: the manifest's.
//!
//! What stays true: outputs that leave a session have the manifest's types and shapes; after any error or caught panic the
//! engine's state is made anew, so a failed inference cannot spoil the next one.
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use leeway_protocol::manifest::Manifest;
use leeway_protocol::tensor::{DType, Tensor, TensorSpec};
use tract_onnx::prelude::{Datum as _, DatumType, IntoRunnable as _, IntoTValue as _, TValue, TVec, TypedModel, TypedSimplePlan};
use tract_onnx::tract_core::internal::TypedSimpleState;

use super::prescan::Scanned;
use super::recipe::{self, LoadError, chain, panic_text};
use super::tensors::{self, InputError};

/// Where the engine's n-th input comes from.
#[derive(Debug, Clone, Copy)]
enum Feed {
    /// The n-th free input, with its place among the manifest's inputs.
    Free(usize),
    /// The n-th state tensor.
    State(usize),
}

/// A loaded, optimised model.
#[derive(Debug)]
pub struct Plan {
    plan: Arc<TypedSimplePlan>,
    inputs: Vec<TensorSpec>,
    outputs: Vec<TensorSpec>,
    feeds: Vec<Feed>,
    /// For each state tensor: its input's type and shape, and the output that becomes it.
    state: Vec<(TensorSpec, usize)>,
}

/// An inference without an answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InferError {
    /// The request does not fit the model.
    #[error(transparent)]
    Input(#[from] InputError),
    /// The engine refused.
    #[error("the model failed: {0}")]
    Engine(String),
    /// The engine panicked; it was caught.
    #[error("the engine broke down: {0}")]
    Panic(String),
    /// An output is not what the manifest says.
    #[error("output {name:?} is {got}, the manifest says {need}")]
    Output {
        /// Which output.
        name: String,
        /// Type and shape it must have.
        need: String,
        /// Type and shape it has.
        got: String,
    },
}

impl Plan {
    /// Load a scanned model as its manifest says.
    pub fn load(scanned: &Scanned, manifest: &Manifest) -> Result<Self, LoadError> {
        Self::of(recipe::load(scanned, manifest)?, manifest)
    }

    /// The same without the engine's optimiser, to compare with.
    pub fn load_as_written(scanned: &Scanned, manifest: &Manifest) -> Result<Self, LoadError> {
        Self::of(recipe::load_as_written(scanned, manifest)?, manifest)
    }

    fn of(model: TypedModel, manifest: &Manifest) -> Result<Self, LoadError> {
        let made = catch_unwind(AssertUnwindSafe(|| model.into_runnable()));
        let plan = made.map_err(|p| LoadError::Panic(panic_text(&*p)))?.map_err(|e| LoadError::Engine(chain(&e)))?;
        let mut feeds = Vec::new();
        let mut state = Vec::new();
        for (at, spec) in manifest.inputs.iter().enumerate() {
            if manifest.constants.iter().any(|c| c.name == spec.name) {
                continue;
            }
            let link = manifest.state.iter().find(|link| link.input == spec.name);
            match link.and_then(|link| manifest.outputs.iter().position(|o| o.name == link.output)) {
                Some(output) => {
                    feeds.push(Feed::State(state.len()));
                    state.push((spec.clone(), output));
                }
                None => feeds.push(Feed::Free(at)),
            }
        }
        Ok(Self { plan, inputs: manifest.inputs.clone(), outputs: manifest.outputs.clone(), feeds, state })
    }

    /// A new stream of inferences, its recurrent state at zero.
    pub fn spawn(self: &Arc<Self>) -> Result<Session, InferError> {
        let state = self.plan.spawn().map_err(|e| InferError::Engine(chain(&e)))?;
        let expected = self.outputs.iter().map(|spec| (tensors::datum_type(spec.dtype), tensors::sizes(&spec.shape))).collect();
        let mut session = Session { plan: Arc::clone(self), engine: state, expected, is_spoiled: false, state: Vec::new() };
        session.reset();
        Ok(session)
    }

    /// The engine's own plan, for whoever wants to compare with the engine alone.
    pub fn engine(&self) -> &Arc<TypedSimplePlan> {
        &self.plan
    }

    /// Inputs in the manifest's order.
    pub fn inputs(&self) -> &[TensorSpec] {
        &self.inputs
    }

    /// Outputs in the manifest's order.
    pub fn outputs(&self) -> &[TensorSpec] {
        &self.outputs
    }

    /// Places of the free inputs among the manifest's inputs, in the order they are given.
    pub fn free(&self) -> impl Iterator<Item = usize> {
        self.feeds.iter().filter_map(|feed| match feed {
            Feed::Free(at) => Some(*at),
            Feed::State(_) => None,
        })
    }
}

/// One stream of inferences.
#[derive(Debug)]
pub struct Session {
    plan: Arc<Plan>,
    engine: TypedSimpleState,
    /// Types and shapes the outputs must have, in the engine's words and beside the session: what follows every inference
    /// should not have to fetch memory from far away.
    expected: TVec<(DatumType, TVec<usize>)>,
    /// The engine did not come back in order from its latest run, and is made anew before the next.
    is_spoiled: bool,
    state: Vec<TValue>,
}

impl Session {
    /// The plan it runs.
    pub fn plan(&self) -> &Arc<Plan> {
        &self.plan
    }

    /// Forget the recurrent state.
    pub fn reset(&mut self) {
        self.state = self.plan.state.iter().map(|(spec, _)| tensors::zeros(spec).into_tvalue()).collect();
    }

    /// Run on tensors of the wire: one per free input, in order.
    pub fn infer(&mut self, inputs: &[Tensor]) -> Result<Vec<Tensor>, InferError> {
        let natives = self.natives(inputs)?;
        let outputs = self.run(&natives)?;
        let named = outputs.iter().zip(&self.plan.outputs);
        Ok(named.filter_map(|(native, spec)| tensors::from_native(native, &spec.name)).collect())
    }

    /// The engine's form of the free inputs, checked.
    pub fn natives(&self, inputs: &[Tensor]) -> Result<TVec<TValue>, InputError> {
        let need = self.plan.free().count();
        if inputs.len() != need {
            return Err(InputError::Count { need, got: inputs.len() });
        }
        let specs = self.plan.free().filter_map(|at| self.plan.inputs.get(at));
        specs.zip(inputs).map(|(spec, tensor)| Ok(tensors::to_native(tensor, spec)?.into_tvalue())).collect()
    }

    /// Run on the engine's tensors: one per free input, in order, of the manifest's types and shapes.
    pub fn run(&mut self, free: &[TValue]) -> Result<TVec<TValue>, InferError> {
        let inputs = if self.state.is_empty() { free.iter().cloned().collect() } else { self.feed(free)? };
        if self.is_spoiled {
            self.engine = self.plan.plan.spawn().map_err(|e| InferError::Engine(chain(&e)))?;
        }
        self.is_spoiled = true;
        let engine = &mut self.engine;
        let ran = catch_unwind(AssertUnwindSafe(|| engine.run(inputs)));
        let outputs = ran.map_err(|panic| InferError::Panic(panic_text(&*panic)))?;
        let mut outputs = outputs.map_err(|e| InferError::Engine(chain(&e)))?;
        self.is_spoiled = false;
        for (at, (native, (datum, shape))) in outputs.iter_mut().zip(&self.expected).enumerate() {
            if native.datum_type() != *datum || native.shape() != shape.as_slice() {
                let spec = self.plan.outputs.get(at).ok_or_else(|| InferError::Engine("more outputs than described".to_owned()))?;
                conform(native, spec)?;
            }
        }
        for (state, (_, output)) in self.state.iter_mut().zip(&self.plan.state) {
            if let Some(next) = outputs.get(*output) {
                *state = next.clone();
            }
        }
        Ok(outputs)
    }

    /// The engine's inputs: what was given, and recurrent state in its places.
    fn feed(&self, free: &[TValue]) -> Result<TVec<TValue>, InputError> {
        let mut given = free.iter();
        let mut inputs = TVec::with_capacity(self.plan.feeds.len());
        for feed in &self.plan.feeds {
            let value = match feed {
                Feed::Free(_) => given.next(),
                Feed::State(at) => self.state.get(*at),
            };
            let got = free.len();
            inputs.push(value.cloned().ok_or_else(|| InputError::Count { need: self.plan.free().count(), got })?);
        }
        Ok(inputs)
    }
}

/// Give an output the type the manifest says, or refuse it.
fn conform(native: &mut TValue, spec: &TensorSpec) -> Result<(), InferError> {
    if native.datum_type().is_tdim() && spec.dtype == DType::I64 {
        let cast = native.cast_to_dt(i64::datum_type()).map_err(|e| InferError::Engine(chain(&e)))?;
        *native = cast.into_owned().into_tvalue();
    }
    let dtype = tensors::dtype(native.datum_type());
    let shape = native.shape();
    let fits = dtype == Some(spec.dtype) && shape.len() == spec.shape.len() && shape.iter().zip(&spec.shape).all(|(&a, &b)| a as u64 == b);
    if fits {
        return Ok(());
    }
    let shape: Vec<u64> = shape.iter().map(|&n| n as u64).collect();
    let got = dtype.map_or_else(|| format!("{:?}", native.datum_type()), |d| tensors::spec_text(d, &shape));
    Err(InferError::Output { name: spec.name.clone(), need: tensors::spec_text(spec.dtype, &spec.shape), got })
}
