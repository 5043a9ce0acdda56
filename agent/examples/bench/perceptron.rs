//! What the benchmarks share: a perceptron with its manifest, rows that look like noise, and the runner's organs in memory.
use std::io::Cursor;
use std::time::Instant;

use anyhow::{Context as _, Result};
use leeway_agent::runtime::onnx::{Dimension, Graph, Model, Node, OperatorSet, Shape, Tensor, TensorType, Type, ValueInfo, element};
use leeway_agent::runtime::release::Organs;
use leeway_agent::runtime::tensors;
use leeway_protocol::manifest::{Blob, Calibration, Decision, Golden, GoldenVector, Lineage, Manifest};
use leeway_protocol::profile::{Cuts, FeatureReference, Reference, SPECIALS, Source};
use leeway_protocol::tensor::{DType, Tensor as Wire, TensorSpec};
use leeway_protocol::time::Timestamp;
use prost::Message as _;
use tract_onnx::prelude::{Framework as _, InferenceModelExt as _, IntoRunnable as _, IntoTValue as _, tvec};

pub(crate) const INPUTS: usize = 64;
pub(crate) const CLASSES: usize = 10;

pub(crate) fn now() -> Timestamp {
    Timestamp::from_secs(1_000)
}

pub(crate) struct Memory {
    pub(crate) started: Instant,
    pub(crate) bytes: Vec<u8>,
    pub(crate) manifest: Vec<u8>,
}

impl Organs for Memory {
    fn read(&mut self, path: &str, _: u64) -> Result<Vec<u8>, String> {
        Ok(if path == "model" { self.bytes.clone() } else { self.manifest.clone() })
    }

    fn nanos(&self) -> u64 {
        self.started.elapsed().as_nanos() as u64
    }

    fn resident_bytes(&self) -> u64 {
        0
    }
}

/// Values in -1..1 that look like noise and are the same in every run.
pub(crate) fn values(seed: u64, n: usize) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..n).map(|_| next()).collect()
}

/// 64 → hidden → hidden → 10 with Softmax, and a manifest that watches every input, output and the confidence.
pub(crate) fn perceptron(hidden: usize) -> Result<(Vec<u8>, Manifest)> {
    let node = |op: &str, inputs: &[&str], output: &str| Node {
        op_type: op.into(),
        input: inputs.iter().map(|&s| s.to_owned()).collect(),
        output: vec![output.to_owned()],
        ..Node::default()
    };
    let weights = |name: &str, rows: usize, columns: usize| {
        let scale = (1.0 / rows as f32).sqrt() * 2.0;
        let data = values(name.len() as u64 + rows as u64, rows * columns).into_iter().map(|x| x * scale).collect();
        Tensor {
            name: name.into(),
            dims: vec![rows as i64, columns as i64],
            data_type: element::FLOAT,
            float_data: data,
            ..Tensor::default()
        }
    };
    let value = |name: &str, size: usize| {
        let dim = [1, size as i64].map(|value| Dimension { value, param: String::new() }).to_vec();
        ValueInfo {
            name: name.into(),
            kind: Some(Type { tensor: Some(TensorType { elem_type: element::FLOAT, shape: Some(Shape { dim }) }) }),
        }
    };
    let graph = Graph {
        node: vec![
            node("MatMul", &["x", "w1"], "a"),
            node("Relu", &["a"], "b"),
            node("MatMul", &["b", "ww2"], "c"),
            node("Relu", &["c"], "d"),
            node("MatMul", &["d", "www3"], "e"),
            node("Softmax", &["e"], "p"),
        ],
        initializer: vec![weights("w1", INPUTS, hidden), weights("ww2", hidden, hidden), weights("www3", hidden, CLASSES)],
        input: vec![value("x", INPUTS)],
        output: vec![value("p", CLASSES)],
    };
    let opset = OperatorSet { domain: String::new(), version: 17 };
    let bytes = Model { ir_version: 8, opset_import: vec![opset], graph: Some(graph), ..Model::default() }.encode_to_vec();
    let x = Wire::f32("x", &[1, INPUTS as u64], &values(0, INPUTS));
    let native = tensors::to_native(&x, &x.spec())?.into_tvalue();
    let runnable = tract_onnx::onnx().model_for_read(&mut Cursor::new(&bytes))?.into_optimized()?.into_runnable()?;
    let answer = tensors::from_native(&runnable.run(tvec![native])?[0], "p").context("an output of a type the wire does not have")?;
    let spec = |name: &str, size: usize| TensorSpec { name: name.into(), dtype: DType::F32, shape: vec![1, size as u64] };
    let edges = |low: f64, high: f64| Cuts::Numeric { edges: (0..=10).map(|i| low + (high - low) * f64::from(i) / 10.0).collect() };
    let feature = |name: String, source: Source, cuts: Cuts| {
        let mut masses = vec![0.0; SPECIALS + cuts.bins()];
        masses[SPECIALS] = 1.0;
        FeatureReference { name, source, cuts, masses, importance: None, worth: None }
    };
    let mut features: Vec<FeatureReference> =
        (0..INPUTS).map(|index| feature(format!("x{index}"), Source::Input { tensor: 0, index }, edges(-1.0, 1.0))).collect();
    features.extend((0..CLASSES).map(|index| feature(format!("p{index}"), Source::Output { tensor: 0, index }, edges(0.0, 1.0))));
    features.push(feature("confidence".into(), Source::Confidence, edges(0.0, 1.0)));
    let manifest = Manifest {
        v: 1,
        line: "bench".parse()?,
        version: "1".parse()?,
        seq: 1,
        model: Blob::of(&bytes),
        inputs: vec![spec("x", INPUTS)],
        outputs: vec![spec("p", CLASSES)],
        state: vec![],
        constants: vec![],
        redact: Default::default(),
        decision: Decision::Classes { output: 0 },
        reference: Reference { rows: 1, features },
        calibration: Calibration { edges: (0..=10).map(|i| f64::from(i) / 10.0).collect(), accuracy: vec![0.5; 10], rows: vec![1; 10] },
        golden: Golden { rtol: 1e-3, atol: 1e-4, vectors: vec![GoldenVector { inputs: vec![x], outputs: vec![answer] }] },
        limits: leeway_protocol::manifest::Limits::default(),
        lineage: Lineage::default(),
        created_at: now(),
    };
    Ok((bytes, manifest))
}
