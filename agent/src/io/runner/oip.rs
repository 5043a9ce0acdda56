//! The Open Inference Protocol's JSON forms: what is read, what is written.
//!
//! Errors are the protocol's `{"error": "…"}`. Types and shapes must be the model's exactly; nothing is reshaped or cast
//! silently. Beyond the protocol, and only where it leaves room: `parameters` of a request may hold `data_time` (the
//! application's own time), those of an answer hold `decision` and `confidence`.
use std::collections::BTreeMap;

use leeway_protocol::manifest::Manifest;
use leeway_protocol::tensor::{DType, Tensor, TensorSpec};
use leeway_protocol::time::Timestamp;
use serde::{Deserialize, Serialize};

use super::engine::{Answered, Ask};
use super::numbers::Numbers;
use super::requests;

/// Inputs one request may hold; more than a model can have.
const MAX_INPUTS: usize = 64;
/// The longest request id.
const MAX_ID: usize = 256;

#[derive(Debug, Deserialize)]
pub(super) struct InferRequest {
    #[serde(default)]
    id: Option<String>,
    #[serde(default)]
    parameters: BTreeMap<String, serde_json::Value>,
    inputs: Vec<Input>,
    #[serde(default)]
    outputs: Vec<Wanted>,
}

#[derive(Debug, Deserialize)]
struct Input {
    name: String,
    shape: Vec<u64>,
    datatype: String,
    #[serde(default)]
    data: Option<Numbers>,
}

#[derive(Debug, Deserialize)]
struct Wanted {
    name: String,
}

/// What was asked, checked against the model that serves.
#[derive(Debug)]
pub(super) struct Checked {
    pub(super) ask: Ask,
    pub(super) id: String,
    /// Places of the outputs to send, in order.
    pub(super) wanted: Vec<usize>,
}

impl InferRequest {
    /// Check it against the model; `number` is for a request without an id.
    pub(super) fn check(self, manifest: &Manifest, number: impl FnOnce() -> u64) -> Result<Checked, String> {
        if self.inputs.len() > MAX_INPUTS {
            return Err(format!("{} inputs are more than the bound of {MAX_INPUTS}", self.inputs.len()));
        }
        let wanted = wanted(manifest, &self.outputs)?;
        let data_time = data_time(&self.parameters)?;
        let mut given: BTreeMap<String, Input> = BTreeMap::new();
        for input in self.inputs {
            if let Some(twice) = given.insert(input.name.clone(), input) {
                return Err(format!("input {:?} is given twice", twice.name));
            }
        }
        let (mut inputs, mut nulls) = (Vec::new(), Vec::new());
        for (place, (_, spec)) in manifest.free_inputs().enumerate() {
            let input = given.remove(&spec.name).ok_or_else(|| format!("input {:?} is missing: {}", spec.name, expected(spec)))?;
            let (tensor, missing) = input.tensor(spec)?;
            inputs.push(tensor);
            nulls.extend(missing.into_iter().map(|element| (place, element)));
        }
        if let Some(name) = given.keys().next() {
            let known: Vec<&str> = manifest.free_inputs().map(|(_, spec)| spec.name.as_str()).collect();
            return Err(format!("the model has no input {:?} to give; it takes {known:?}", name.chars().take(80).collect::<String>()));
        }
        let (id, number) = match self.id.filter(|id| !id.is_empty()) {
            Some(id) if id.len() > MAX_ID => return Err(format!("the id is longer than {MAX_ID} bytes")),
            Some(id) => {
                let number = requests::number(&id);
                (id, number)
            }
            None => {
                let number = number();
                (requests::name(number), number)
            }
        };
        Ok(Checked { ask: Ask { id: number, inputs, nulls, data_time }, id, wanted })
    }
}

impl Input {
    fn tensor(self, spec: &TensorSpec) -> Result<(Tensor, Vec<usize>), String> {
        if self.datatype != spec.dtype.oip() || self.shape != spec.shape {
            let got: String = self.datatype.chars().take(20).collect();
            let shape: Vec<u64> = self.shape.into_iter().take(16).collect();
            return Err(format!("input {:?} is {got} {shape:?}: {}", spec.name, expected(spec)));
        }
        self.data.ok_or_else(|| format!("input {:?} has no data; the JSON form is served, not binary tensors", spec.name))?.tensor(spec)
    }
}

fn expected(spec: &TensorSpec) -> String {
    format!("expected {} of shape {:?}", spec.dtype.oip(), spec.shape)
}

/// Outputs asked for by name; without names, all but recurrent state, which the runner keeps itself.
fn wanted(manifest: &Manifest, names: &[Wanted]) -> Result<Vec<usize>, String> {
    if names.is_empty() {
        let is_state = |name: &str| manifest.state.iter().any(|link| link.output == name);
        return Ok((0..manifest.outputs.len()).filter(|&i| manifest.outputs.get(i).is_some_and(|o| !is_state(&o.name))).collect());
    }
    let place = |wanted: &Wanted| {
        let known: Vec<&str> = manifest.outputs.iter().map(|o| o.name.as_str()).collect();
        let at = known.iter().position(|name| *name == wanted.name);
        at.ok_or_else(|| format!("the model has no output {:?}; it has {known:?}", wanted.name.chars().take(80).collect::<String>()))
    };
    names.iter().take(leeway_protocol::manifest::MAX_TENSORS).map(place).collect()
}

/// `parameters.data_time`: RFC 3339 in UTC, or milliseconds since 1970.
fn data_time(parameters: &BTreeMap<String, serde_json::Value>) -> Result<Option<Timestamp>, String> {
    match parameters.get("data_time") {
        None | Some(serde_json::Value::Null) => Ok(None),
        Some(serde_json::Value::String(text)) => text.parse().map(Some).map_err(|e| format!("parameters.data_time: {e}")),
        Some(value) => match value.as_i64() {
            Some(ms) => Ok(Some(Timestamp::from_millis(ms))),
            None => Err("parameters.data_time must be a moment such as 2026-11-23T05:00:00Z or milliseconds since 1970".to_owned()),
        },
    }
}

#[derive(Debug, Serialize)]
pub(super) struct InferResponse {
    model_name: String,
    model_version: String,
    id: String,
    parameters: Decision,
    outputs: Vec<Output>,
}

#[derive(Debug, Serialize)]
struct Decision {
    #[serde(skip_serializing_if = "Option::is_none")]
    decision: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    confidence: Option<f64>,
}

#[derive(Debug, Serialize)]
struct Output {
    name: String,
    datatype: &'static str,
    shape: Vec<u64>,
    data: Data,
}

/// Values in their own type, so that a float is written with the digits a float needs and no more.
#[derive(Debug, Serialize)]
#[serde(untagged)]
enum Data {
    Floats(Vec<f32>),
    Ints(Vec<i64>),
    Bools(Vec<bool>),
}

impl InferResponse {
    pub(super) fn new(answered: Answered, id: String, wanted: &[usize]) -> Self {
        let Answered { answer, manifest } = answered;
        let outputs = wanted.iter().filter_map(|&at| answer.outputs.get(at)).map(output).collect();
        let parameters = Decision { decision: answer.decided.map(|d| d.class), confidence: answer.decided.map(|d| d.confidence) };
        Self { model_name: manifest.line.to_string(), model_version: manifest.version.to_string(), id, parameters, outputs }
    }
}

fn output(tensor: &Tensor) -> Output {
    let data = match tensor.dtype {
        DType::F32 => Data::Floats(tensor.data.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect()),
        DType::I64 => Data::Ints(tensor.data.as_chunks::<8>().0.iter().map(|b| i64::from_le_bytes(*b)).collect()),
        DType::Bool => Data::Bools(tensor.data.iter().map(|b| *b != 0).collect()),
        DType::I8 | DType::U8 | DType::I32 => Data::Ints(tensor.to_f64().into_iter().map(|x| x as i64).collect()),
    };
    Output { name: tensor.name.clone(), datatype: tensor.dtype.oip(), shape: tensor.shape.clone(), data }
}

/// `GET /v2/models/{name}`.
pub(super) fn metadata(manifest: &Manifest) -> serde_json::Value {
    let tensor = |spec: &TensorSpec| serde_json::json!({"name": spec.name, "datatype": spec.dtype.oip(), "shape": spec.shape});
    serde_json::json!({
        "name": manifest.line,
        "versions": [manifest.version],
        "platform": "onnx_tract",
        "inputs": manifest.free_inputs().map(|(_, spec)| tensor(spec)).collect::<Vec<_>>(),
        "outputs": manifest.outputs.iter().map(tensor).collect::<Vec<_>>(),
    })
}
