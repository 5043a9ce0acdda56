//! What watching a model costs: inference with the recorder on against the bare engine on the same model, in turns in one run.
//!
//!     cargo run --release -p leeway-agent --example bench_overhead [confined]
//!
//! Batches of both kinds take turns, so that a busy machine hits both alike; medians over the batches are compared. The bare
//! engine runs the same optimised plan (the same weights in the same memory) without anything of ours around it. The last
//! column is the whole way of a request inside the process: tensors of the wire in and out, checks, engine, record.
//! With `confined` the process first confines itself as the runner does: what that costs is the difference of two runs.
//! Not a test: figures are for reading.
use std::hint::black_box;
use std::io::Cursor;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context as _, Result};
use leeway_agent::recorder::row::{Decider, Row};
use leeway_agent::recorder::{Inference, Recorder};
use leeway_agent::runtime::host::{Host, Request};
use leeway_agent::runtime::onnx::{Dimension, Graph, Model, Node, OperatorSet, Shape, Tensor, TensorType, Type, ValueInfo, element};
use leeway_agent::runtime::release::{Files, Organs, Release};
use leeway_agent::runtime::{Limits, Plan, prescan, tensors};
use leeway_protocol::assignment::{CapturePolicy, Windows};
use leeway_protocol::digest::Digest;
use leeway_protocol::manifest::{Blob, Calibration, Decision, Golden, GoldenVector, Lineage, Manifest};
use leeway_protocol::profile::{Cuts, FeatureReference, Reference, SPECIALS, Source};
use leeway_protocol::tensor::{DType, Tensor as Wire, TensorSpec};
use leeway_protocol::time::Timestamp;
use prost::Message as _;
use tract_onnx::prelude::{Framework as _, InferenceModelExt as _, IntoRunnable as _, IntoTValue as _, TValue, tvec};

/// Batches of each kind.
const BATCHES: usize = 300;
/// Each batch takes about so long.
const BATCH_NANOS: u64 = 2_000_000;
/// Different inputs, so that branches cannot be learnt by heart.
const ROWS: usize = 64;
const INPUTS: usize = 64;
const CLASSES: usize = 10;

fn main() -> Result<()> {
    if std::env::args().any(|argument| argument == "confined") {
        println!("{}", leeway_agent::io::runner::confine(&[]).sentence());
    }
    println!("{INPUTS} inputs, {CLASSES} outputs and the confidence: {} features of 10 bins\n", INPUTS + CLASSES + 1);
    println!(
        "{:>8} {:>12} {:>12} {:>8} {:>10} {:>12} {:>14}",
        "hidden", "bare us", "watched us", "ratio", "sampled", "ns/feature", "whole host us"
    );
    for hidden in [48, 224, 448, 640, 1_200] {
        let line = measure(hidden)?;
        println!("{line}");
    }
    Ok(())
}

fn measure(hidden: usize) -> Result<String> {
    let (bytes, manifest) = perceptron(hidden)?;
    let rows: Vec<Wire> = (0..ROWS).map(|i| Wire::f32("x", &[1, INPUTS as u64], &values(i as u64, INPUTS))).collect();
    let plan = Arc::new(Plan::load(&prescan(bytes.clone(), &Limits::default())?, &manifest)?);
    let mut session = plan.spawn()?;
    let mut bare = plan.engine().spawn()?;
    let natives: Vec<TValue> = rows.iter().map(|row| Ok(session.natives(std::slice::from_ref(row))?.remove(0))).collect::<Result<_>>()?;
    let windows = Windows { max_inferences: 1_000, max_ms: u64::MAX };
    let digest = Digest::of(&manifest.to_bytes());
    let mut recorder = Recorder::new(&manifest, digest, windows, CapturePolicy::default());
    let decider = Decider::new(&manifest);
    let mut host = Host::new();
    let mut organs = Memory { started: Instant::now(), bytes, manifest: manifest.to_bytes() };
    let files = Files { model: "model", manifest: "manifest", digest: None };
    let release = Release::load(&mut organs, files, leeway_agent::control::Role::Active);
    host.install(now(), leeway_agent::control::Slot::A, leeway_agent::control::Role::Active, release);
    let warm = time(200, |i| drop(black_box(bare.run(tvec![natives[i % ROWS].clone()]))));
    let per_batch = ((BATCH_NANOS / warm.max(1)) as usize).clamp(10, 2_000);
    let (mut without, mut with, mut whole) = (Vec::new(), Vec::new(), Vec::new());
    let (mut inferences, mut recorded) = (0u64, 0u64);
    for _ in 0..BATCHES {
        without.push(time(per_batch, |i| drop(black_box(bare.run(tvec![natives[i % ROWS].clone()])))));
        with.push(time(per_batch, |i| {
            watched(&mut session, &mut recorder, decider, &organs, &natives[i % ROWS], inferences + i as u64);
            if recorder.is_due(now()) {
                recorded += recorder.close(now()).map_or(0, |window| window.recorded);
            }
        }));
        inferences += per_batch as u64;
        whole.push(time(per_batch, |i| {
            let request = Request { id: i as u64, inputs: std::slice::from_ref(&rows[i % ROWS]), nulls: &[], data_time: None };
            drop(black_box(host.infer(now(), &organs, &request)));
            drop(host.notices());
        }));
    }
    recorded += recorder.close(now()).map_or(0, |window| window.recorded);
    let (bare_us, watched_us) = (median(&mut without) / 1e3, median(&mut with) / 1e3);
    let feature = per_feature(&manifest, &natives, &mut session)?;
    let sampled = 100.0 * recorded as f64 / inferences as f64;
    let ratio = watched_us / bare_us;
    let host_us = median(&mut whole) / 1e3;
    Ok(format!("{hidden:>8} {bare_us:>12.2} {watched_us:>12.2} {ratio:>8.4} {sampled:>9.1}% {feature:>12.2} {host_us:>14.2}"))
}

/// What the runner does around the engine for one request, from the engine's tensors to the record.
fn watched(
    session: &mut leeway_agent::runtime::Session,
    recorder: &mut Recorder,
    decider: Decider,
    organs: &Memory,
    native: &TValue,
    id: u64,
) {
    let inputs = [tensors::elements(native)];
    if !inputs[0].all_finite() {
        return;
    }
    let before = organs.nanos();
    let Ok(outputs) = session.run(std::slice::from_ref(native)) else { return };
    let after = organs.nanos();
    let outputs = [tensors::elements(&outputs[0])];
    if !outputs[0].all_finite() {
        return;
    }
    let decided = decider.decide(&outputs);
    let row = Row { inputs: &inputs, outputs: &outputs, nulls: &[] };
    let recorded = recorder.answered(now(), &Inference { request: id, nanos: after - before, data_time: None, row, decided });
    if recorder.wants_timing() {
        recorder.measured(organs.nanos() - after, recorded);
    }
}

/// Nanoseconds per feature value when every inference is recorded, the always-on part taken off.
fn per_feature(manifest: &Manifest, natives: &[TValue], session: &mut leeway_agent::runtime::Session) -> Result<f64> {
    let mut outputs = Vec::new();
    for native in natives {
        outputs.push(session.run(std::slice::from_ref(native))?.remove(0));
    }
    let decider = Decider::new(manifest);
    let cost = |manifest: &Manifest| {
        let windows = Windows { max_inferences: u64::MAX, max_ms: u64::MAX };
        let mut recorder = Recorder::new(manifest, Digest::of(b"m"), windows, CapturePolicy::default());
        let mut best = f64::INFINITY;
        for _ in 0..30 {
            let nanos = time(2_000, |i| {
                let (inputs, outputs) = ([tensors::elements(&natives[i % ROWS])], [tensors::elements(&outputs[i % ROWS])]);
                let decided = decider.decide(&outputs);
                let row = Row { inputs: &inputs, outputs: &outputs, nulls: &[] };
                // A second of inference pays for any recording.
                let inference = Inference { request: i as u64, nanos: 1_000_000_000, data_time: None, row, decided };
                black_box(recorder.answered(now(), &inference));
            });
            best = best.min(nanos as f64);
        }
        best
    };
    let none = Manifest { reference: Reference::default(), ..manifest.clone() };
    Ok((cost(manifest) - cost(&none)) / manifest.reference.features.len() as f64)
}

/// Nanoseconds per turn.
fn time(turns: usize, mut work: impl FnMut(usize)) -> u64 {
    let started = Instant::now();
    (0..turns).for_each(&mut work);
    (started.elapsed().as_nanos() / turns as u128) as u64
}

fn median(values: &mut [u64]) -> f64 {
    values.sort_unstable();
    values[values.len() / 2] as f64
}

fn now() -> Timestamp {
    Timestamp::from_secs(1_000)
}

struct Memory {
    started: Instant,
    bytes: Vec<u8>,
    manifest: Vec<u8>,
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
fn values(seed: u64, n: usize) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..n).map(|_| next()).collect()
}

/// 64 → hidden → hidden → 10 with Softmax, and a manifest that watches every input, output and the confidence.
fn perceptron(hidden: usize) -> Result<(Vec<u8>, Manifest)> {
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
        FeatureReference { name, source, cuts, masses, importance: None }
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
