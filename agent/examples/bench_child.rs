//! What it costs that the model lives in a child of its own: the same request answered inside the process and by the child.
//!
//!     cargo run --release -p leeway-agent --example bench_child [MODEL.onnx MANIFEST.json]
//!
//! Both ways take tensors or a request, check, infer, record and answer; the child's adds JSON, HTTP, a Unix socket and two
//! changes of process, and it is confined. Batches of both kinds take turns, so that a busy machine hits both alike. Without
//! arguments the models are perceptrons of three sizes. The last columns are the bare engine's time and the price, the
//! difference of the medians. Not a test: figures are for reading.
use std::hint::black_box;
use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, ExitCode, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use leeway_agent::control::{Decoder, Role, RunnerCommand, RunnerNotice, Slot, encode};
use leeway_agent::runtime::host::{Host, Request};
use leeway_agent::runtime::release::{Files, Release};
use leeway_agent::runtime::{Limits, Plan, prescan};
use leeway_protocol::digest::Digest;
use leeway_protocol::manifest::Manifest;
use leeway_protocol::tensor::{DType, Tensor as Wire};
use tract_onnx::prelude::{TValue, tvec};

#[path = "bench/perceptron.rs"]
mod perceptron;
use perceptron::{Memory, now, perceptron, values};

/// Batches of each kind, and requests in each.
const BATCHES: usize = 100;
const PER_BATCH: usize = 40;
/// Different inputs, so that branches cannot be learnt by heart.
const ROWS: usize = 64;
/// The longest answer of the child.
const PATIENCE: Duration = Duration::from_secs(30);

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if args.first().is_some_and(|first| first == "runner") {
        return leeway_agent::io::runner::main(args.into_iter().skip(1));
    }
    match run(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &[String]) -> Result<()> {
    println!(
        "{:>24} {:>10} {:>12} {:>12} {:>11} {:>11} {:>10}",
        "model", "engine us", "process p50", "process p99", "child p50", "child p99", "price us"
    );
    if let [model, manifest] = args {
        let name = Path::new(model).file_stem().and_then(|name| name.to_str()).unwrap_or("model").to_owned();
        let manifest = Manifest::parse(&std::fs::read(manifest).with_context(|| format!("{manifest} cannot be read"))?)?;
        println!("{}", measure(&name, &std::fs::read(model).with_context(|| format!("{model} cannot be read"))?, &manifest)?);
        return Ok(());
    }
    for hidden in [48, 448, 1_200] {
        let (bytes, manifest) = perceptron(hidden)?;
        println!("{}", measure(&format!("perceptron {hidden}"), &bytes, &manifest)?);
    }
    Ok(())
}

fn measure(name: &str, bytes: &[u8], manifest: &Manifest) -> Result<String> {
    let rows: Vec<Vec<Wire>> = (0..ROWS).map(|row| inputs(manifest, row as u64)).collect::<Result<_>>()?;
    let plan = Arc::new(Plan::load(&prescan(bytes.to_vec(), &Limits::default())?, manifest)?);
    let session = plan.spawn()?;
    let natives = rows.iter().map(|row| Ok(session.natives(row)?.remove(0))).collect::<Result<Vec<TValue>>>()?;
    let mut bare = plan.engine().spawn()?;
    let mut host = Host::new();
    let mut organs = Memory { started: Instant::now(), bytes: bytes.to_vec(), manifest: manifest.to_bytes() };
    let files = Files { model: "model", manifest: "manifest", digest: None };
    let release = Release::load(&mut organs, files, Role::Active);
    host.install(now(), Slot::A, Role::Active, release);
    let mut runner = Runner::start(bytes, manifest)?;
    let requests: Vec<Vec<u8>> = rows.iter().map(|row| http(manifest, row)).collect();
    let (mut engine, mut process, mut child) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..BATCHES {
        for i in 0..PER_BATCH {
            let native = tvec![natives[i % ROWS].clone()];
            engine.push(nanos(|| drop(black_box(bare.run(native)))));
        }
        for i in 0..PER_BATCH {
            let request = Request { id: i as u64, inputs: &rows[i % ROWS], nulls: &[], data_time: None };
            process.push(nanos(|| drop(black_box(host.infer(now(), &organs, &request)))));
            drop(host.notices());
        }
        for i in 0..PER_BATCH {
            let mut answer = Ok(());
            child.push(nanos(|| answer = runner.ask(&requests[i % ROWS])));
            answer?;
        }
    }
    let us = |sorted: &mut Vec<u64>, share: f64| {
        sorted.sort_unstable();
        sorted[(sorted.len() as f64 * share) as usize] as f64 / 1e3
    };
    let (bare, inside, outside) = (us(&mut engine, 0.5), us(&mut process, 0.5), us(&mut child, 0.5));
    let (late_inside, late_outside) = (us(&mut process, 0.99), us(&mut child, 0.99));
    Ok(format!(
        "{name:>24} {bare:>10.1} {inside:>12.1} {late_inside:>12.1} {outside:>11.1} {late_outside:>11.1} {:>10.1}",
        outside - inside
    ))
}

/// A row of noise for every input.
fn inputs(manifest: &Manifest, row: u64) -> Result<Vec<Wire>> {
    let one = |input: &leeway_protocol::tensor::TensorSpec| {
        if input.dtype != DType::F32 {
            bail!("input {} is not of floats: this benchmark draws floats", input.name);
        }
        let size: u64 = input.shape.iter().product();
        Ok(Wire::f32(&input.name, &input.shape, &values(row, usize::try_from(size)?)))
    };
    let [only] = manifest.inputs.as_slice() else { bail!("this benchmark asks models with one input") };
    Ok(vec![one(only)?])
}

/// The request as an application writes it.
fn http(manifest: &Manifest, row: &[Wire]) -> Vec<u8> {
    let tensor = |wire: &Wire| {
        let floats: Vec<f32> = wire.data.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
        serde_json::json!({ "name": wire.name, "datatype": "FP32", "shape": wire.shape, "data": floats })
    };
    let body = serde_json::json!({ "inputs": row.iter().map(tensor).collect::<Vec<_>>() }).to_string();
    let line = &manifest.line;
    let head = format!("POST /v2/models/{line}/infer HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n");
    format!("{head}content-length: {}\r\n\r\n{body}", body.len()).into_bytes()
}

/// The child, asked over one connection that stays open.
struct Runner {
    child: Child,
    _stdin: ChildStdin,
    _dir: tempfile::TempDir,
    stream: UnixStream,
    answer: Vec<u8>,
}

impl Runner {
    fn start(bytes: &[u8], manifest: &Manifest) -> Result<Self> {
        let dir = tempfile::tempdir()?;
        std::fs::write(dir.path().join("model"), bytes)?;
        std::fs::write(dir.path().join("manifest"), manifest.to_bytes())?;
        let socket = dir.path().join("socket");
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["runner", "serve", "--unix"]).arg(&socket).arg("--dir").arg(dir.path());
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let (mut stdin, mut stdout) = (child.stdin.take().context("no stdin")?, child.stdout.take().context("no stdout")?);
        let load = RunnerCommand::Load {
            slot: Slot::A,
            role: Role::Active,
            model_path: "model".to_owned(),
            manifest_path: "manifest".to_owned(),
            manifest: Digest::of(&manifest.to_bytes()),
        };
        stdin.write_all(&encode(&load)?)?;
        let (mut decoder, mut buffer) = (Decoder::default(), [0; 4096]);
        loop {
            match decoder.take::<RunnerNotice>()? {
                Some(RunnerNotice::Loaded { .. }) => break,
                Some(RunnerNotice::LoadFailed { reason, .. }) => bail!("the child does not load it: {reason:?}"),
                Some(_) => {}
                None => match stdout.read(&mut buffer)? {
                    0 => bail!("the child ended"),
                    n => decoder.push(&buffer[..n]),
                },
            }
        }
        // Its notices go on; somebody must read them.
        std::thread::spawn(move || std::io::copy(&mut stdout, &mut std::io::sink()));
        let stream = UnixStream::connect(&socket)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        Ok(Self { child, _stdin: stdin, _dir: dir, stream, answer: vec![0; 64 << 10] })
    }

    fn ask(&mut self, request: &[u8]) -> Result<()> {
        self.stream.write_all(request)?;
        let mut held = 0;
        loop {
            match self.stream.read(&mut self.answer[held..])? {
                0 => bail!("the child hung up, or its answer is too long"),
                n => held += n,
            }
            let text = std::str::from_utf8(&self.answer[..held])?;
            let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
            let length = head.lines().find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length: ")?.parse::<usize>().ok());
            if body.len() >= length.context("an answer without a length")? {
                return if head.starts_with("HTTP/1.1 200") { Ok(()) } else { bail!("{text}") };
            }
        }
    }
}

impl Drop for Runner {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn nanos(work: impl FnOnce()) -> u64 {
    let started = Instant::now();
    work();
    started.elapsed().as_nanos() as u64
}
