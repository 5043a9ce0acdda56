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
use std::sync::Arc;
use std::time::Instant;

use anyhow::Result;
use leeway_agent::recorder::row::{Decider, Row};
use leeway_agent::recorder::{Inference, Recorder};
use leeway_agent::runtime::host::{Host, Request};
use leeway_agent::runtime::release::{Files, Organs as _, Release};
use leeway_agent::runtime::{Limits, Plan, prescan, tensors};
use leeway_protocol::assignment::{CapturePolicy, Windows};
use leeway_protocol::digest::Digest;
use leeway_protocol::manifest::Manifest;
use leeway_protocol::profile::Reference;
use leeway_protocol::tensor::Tensor as Wire;
use tract_onnx::prelude::{TValue, tvec};

#[path = "bench/perceptron.rs"]
mod perceptron;
use perceptron::{CLASSES, INPUTS, Memory, now, perceptron, values};

/// Batches of each kind.
const BATCHES: usize = 300;
/// Each batch takes about so long.
const BATCH_NANOS: u64 = 2_000_000;
/// Different inputs, so that branches cannot be learnt by heart.
const ROWS: usize = 64;

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
