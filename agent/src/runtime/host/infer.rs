//! One request through the active model, its record, and afterwards its shadow.
use leeway_protocol::manifest::Manifest;
use leeway_protocol::profile::Source;
use leeway_protocol::tensor::Tensor;
use leeway_protocol::time::Timestamp;
use tract_onnx::prelude::{TValue, TVec};

use super::compare::agree;
use super::{Host, Seat};
use crate::recorder::row::{Decided, Elements, Row};
use crate::recorder::{Failure, Inference};
use crate::runtime::plan::InferError;
use crate::runtime::release::Organs;
use crate::runtime::tensors;

/// An inference longer than this many times the self-test's 99th percentile is counted as over its time limit ...
const TIMED_OUT_FACTOR: u64 = 50;
/// ... if it also took this long: a busy moment on a small device is not a fault of a fast model.
const TIMED_OUT_NANOS: u64 = 1_000_000_000;

/// What an application asks.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    /// Device-unique number; a later label names it.
    pub id: u64,
    /// One per free input of the manifest, in order.
    pub inputs: &'a [Tensor],
    /// Elements for which there was no value, as (place in `inputs`, element); the tensor holds NaN or 0 there.
    pub nulls: &'a [(usize, usize)],
    /// The application's own time.
    pub data_time: Option<Timestamp>,
}

/// What it gets.
#[derive(Debug, Clone, PartialEq)]
pub struct Answer {
    /// Every output of the manifest, in order.
    pub outputs: Vec<Tensor>,
    /// The decision, if the model makes one.
    pub decided: Option<Decided>,
    /// What the model took, nanoseconds.
    pub nanos: u64,
}

/// Why it gets nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Nobody serves.
    #[error("no model is active on this device yet: wait until it is ready")]
    NoModel,
    /// The request does not fit.
    #[error("{0}")]
    Rejected(String),
    /// The model failed.
    #[error("{0}")]
    Failed(String),
    /// The output is not a number although the inputs are.
    #[error("output {0:?} holds NaN or infinity for finite inputs; the model cannot answer this request")]
    NotFinite(String),
    /// The output is not a number because an input was not.
    #[error("output {0:?} holds NaN or infinity because an input does; send finite values")]
    InputNotFinite(String),
}

/// A request the shadow has still to run on.
#[derive(Debug)]
pub(super) struct Pending {
    inputs: TVec<TValue>,
    decided: Option<Decided>,
    first: Option<f64>,
}

impl Host {
    /// Answer a request with the active model and count it. The shadow is not run yet: see [`Self::follow_up`].
    pub fn infer(&mut self, now: Timestamp, organs: &dyn Organs, request: &Request<'_>) -> Result<Answer, Refusal> {
        let slot = self.active.ok_or(Refusal::NoModel)?;
        let watched = self.shadow.is_some();
        let seat = self.seats.get_mut(&slot).ok_or(Refusal::NoModel)?;
        let limit = (seat.release.proof.p99_us * 1_000 * TIMED_OUT_FACTOR).max(TIMED_OUT_NANOS);
        match seat.answer(now, organs, request, watched) {
            Ok((answer, pending)) => {
                self.pending = pending;
                if answer.nanos > limit {
                    self.count(now, Failure::TimedOut, true);
                }
                self.close_if_due(now);
                Ok(answer)
            }
            Err(Refused { failure, refusal, counted }) => {
                self.count(now, failure, !counted);
                self.close_if_due(now);
                Err(refusal)
            }
        }
    }

    fn close_if_due(&mut self, now: Timestamp) {
        let Some(slot) = self.active else { return };
        let Some(seat) = self.seats.get(&slot) else { return };
        if seat.recorder.is_due(now) || seat.recorder.has_full_batch() {
            self.close(now, slot, false);
        }
    }

    /// Run the shadow on the latest request. Called after the application has its answer, so a shadow delays nobody's.
    pub fn follow_up(&mut self, organs: &dyn Organs) {
        let Some(pending) = self.pending.take() else { return };
        let Some((slot, comparison)) = self.shadow.as_mut() else { return };
        let Some(seat) = self.seats.get_mut(slot) else { return };
        let before = organs.nanos();
        let ran = seat.release.session.run(&pending.inputs);
        let nanos = organs.nanos().saturating_sub(before);
        let agreed = ran.is_ok_and(|outputs| {
            let elements: TVec<Elements<'_>> = outputs.iter().map(|o| tensors::elements(o)).collect();
            let decided = seat.decider.decide(&elements);
            let first = elements.first().copied().unwrap_or(Elements::Absent);
            elements.iter().all(Elements::all_finite) && agree((pending.decided, pending.first), (decided, first))
        });
        comparison.count(agreed, nanos);
        if let Some(active) = self.active.and_then(|slot| self.seats.get_mut(&slot)) {
            active.recorder.compared(!agreed);
        }
    }
}

/// What serving a request gives: an answer and what the shadow needs, or what to count and what to say.
type Served = Result<(Answer, Option<Pending>), Refused>;

/// A refusal; `counted` when the recorder has it already.
struct Refused {
    failure: Failure,
    refusal: Refusal,
    counted: bool,
}

impl Seat {
    fn answer(&mut self, now: Timestamp, organs: &dyn Organs, request: &Request<'_>, watched: bool) -> Served {
        let refused = |failure, refusal| Refused { failure, refusal, counted: false };
        let rejected = |e: &dyn std::fmt::Display| refused(Failure::Rejected, Refusal::Rejected(e.to_string()));
        let session = &mut self.release.session;
        let natives = session.natives(request.inputs).map_err(|e| rejected(&e))?;
        let free: TVec<usize> = session.plan().free().collect();
        let manifest = &self.release.manifest;
        let mut inputs: TVec<Elements<'_>> = TVec::new();
        inputs.resize(manifest.inputs.len(), Elements::Absent);
        for (&at, native) in free.iter().zip(&natives) {
            if let Some(place) = inputs.get_mut(at) {
                *place = tensors::elements(native);
            }
        }
        let nulls = request.nulls.iter().filter_map(|(given, element)| Some((*free.get(*given)?, *element))).collect::<Vec<_>>();
        let sound = nulls.is_empty() && inputs.iter().all(Elements::all_finite);
        if !sound && !self.release.takes_missing {
            self.recorder.missing(now, &Row { inputs: &inputs, outputs: &[], nulls: &nulls });
            let refusal = Refusal::Rejected(missing_text(manifest, &inputs, &nulls));
            return Err(Refused { failure: Failure::Rejected, refusal, counted: true });
        }
        let before = organs.nanos();
        let outputs = session.run(&natives).map_err(|e| match e {
            InferError::Input(e) => rejected(&e),
            other => refused(Failure::Failed, Refusal::Failed(other.to_string())),
        })?;
        let after = organs.nanos();
        let nanos = after.saturating_sub(before);
        let elements: TVec<Elements<'_>> = outputs.iter().map(|o| tensors::elements(o)).collect();
        if let Some(broken) = elements.iter().position(|e| !e.all_finite()) {
            let name = manifest.outputs.get(broken).map_or_else(String::new, |spec| spec.name.clone());
            let told =
                if sound { (Failure::NotFinite, Refusal::NotFinite(name)) } else { (Failure::Rejected, Refusal::InputNotFinite(name)) };
            return Err(refused(told.0, told.1));
        }
        let decided = self.decider.decide(&elements);
        let row = Row { inputs: &inputs, outputs: &elements, nulls: &nulls };
        let inference = Inference { request: request.id, nanos, data_time: request.data_time, row, decided };
        let recorded = self.recorder.answered(now, &inference);
        if self.recorder.wants_timing() {
            self.recorder.measured(organs.nanos().saturating_sub(after), recorded);
        }
        self.inferences += 1;
        let first = elements.first().and_then(|e| e.at(0));
        let named = outputs.iter().zip(&manifest.outputs);
        let answer = Answer { outputs: named.filter_map(|(o, spec)| tensors::from_native(o, &spec.name)).collect(), decided, nanos };
        let pending = watched.then(|| Pending { inputs: natives.clone(), decided, first });
        Ok((answer, pending))
    }
}

/// Names the first value that is missing, by its feature if the reference knows it.
fn missing_text(manifest: &Manifest, inputs: &[Elements<'_>], nulls: &[(usize, usize)]) -> String {
    let broken = |(tensor, elements): (usize, &Elements<'_>)| {
        let element = (0..elements.len()).find(|&i| elements.at(i).is_some_and(|x| !x.is_finite()))?;
        Some((tensor, element))
    };
    let first = nulls.first().copied().or_else(|| inputs.iter().enumerate().find_map(broken));
    let Some((tensor, element)) = first else { return "an input is not a finite number".to_owned() };
    let source = Source::Input { tensor, index: element };
    let feature = manifest.reference.features.iter().find(|f| f.source == source).map_or_else(String::new, |f| format!(" ({})", f.name));
    let input = manifest.inputs.get(tensor).map_or("", |spec| spec.name.as_str());
    format!(
        "element {element}{feature} of input {input:?} has no finite value, and this model was not proved on missing values: \
         send a number, or publish it with a golden vector that holds NaN"
    )
}
