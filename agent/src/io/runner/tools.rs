//! The runtime for people and programs that do not serve: would this model run, what is in it, what does it say.
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead as _, BufReader, BufWriter, Write as _};

use anyhow::Context as _;
use leeway_protocol::manifest::MAX_MODEL_BYTES;
use leeway_protocol::reason::Reason;
use leeway_protocol::tensor::TensorSpec;
use serde_json::json;

use super::rows::Columns;
use super::sandbox::{self, CPU_SECONDS, Keep, Memory};
use super::{DONE, FileOrgans, Options, REFUSED};
use crate::confinement::Confinement;
use crate::control::{Role, Slot};
use crate::recorder::row::{Decider, Elements};
use crate::runtime::prescan::Port;
use crate::runtime::release::{Files, Organs as _, Release};
use crate::runtime::{Limits, prescan, tensors};

/// The longest line of a CSV file: a few thousand features.
const MAX_LINE: usize = 16 << 20;

/// What a device would do with a release, run here: one JSON object, status 0 if it would serve.
pub(super) fn preflight(options: &Options) -> anyhow::Result<u8> {
    let (confined, loaded) = load(options, Some(CPU_SECONDS))?;
    match loaded {
        Ok(release) => {
            let p = &release.proof;
            let proof = json!({
                "manifest": p.manifest, "model": p.model, "golden": p.golden,
                "load_ms": p.load_ms, "p50_us": p.p50_us, "p99_us": p.p99_us, "rss_bytes": p.rss_bytes,
            });
            println!("{}", json!({"ok": true, "proof": proof, "confined": confined.sentence()}));
            Ok(DONE)
        }
        Err(reason) => refused(&reason),
    }
}

fn refused(reason: &Reason) -> anyhow::Result<u8> {
    println!("{}", json!({"ok": false, "reason": reason, "sentence": reason.to_string()}));
    Ok(REFUSED)
}

/// A model that nobody has judged yet, loaded where it can do no harm: its files are opened, then everything else is given away.
fn load(options: &Options, cpu_seconds: Option<u64>) -> anyhow::Result<(Confinement, Result<Release, Reason>)> {
    let (model, manifest) = (options.one("--model")?, options.one("--manifest")?);
    let (mut organs, confined) = confine(&[model, manifest], cpu_seconds)?;
    let files = Files { model, manifest, digest: None };
    Ok((confined, Release::load(&mut organs, files, Role::Candidate)))
}

/// Open these files and give everything else away.
fn confine(files: &[&str], cpu_seconds: Option<u64>) -> anyhow::Result<(FileOrgans, Confinement)> {
    let mut opened = BTreeMap::new();
    for path in files {
        opened.insert((*path).to_owned(), File::open(path).with_context(|| (*path).to_owned())?);
    }
    let organs = FileOrgans::of_runner(".").with_opened(opened).bounded(Memory::of_process(true), Slot::A);
    let confinement = sandbox::confine(&Keep { folders: Vec::new(), cpu_seconds });
    if let Some(problem) = confinement.problem() {
        eprintln!("leeway-runner: {problem}");
    }
    Ok((organs, confinement))
}

/// What is in a model, as far as the file says; needs no manifest.
pub(super) fn describe(options: &Options) -> anyhow::Result<u8> {
    let model = options.one("--model")?;
    let (mut organs, _) = confine(&[model], Some(CPU_SECONDS))?;
    let bytes = organs.read(model, MAX_MODEL_BYTES).map_err(anyhow::Error::msg)?;
    let length = bytes.len();
    let scanned = match prescan(bytes, &Limits::default()) {
        Ok(scanned) => scanned,
        Err(error) => return refused(&error.reason()),
    };
    let ports = |ports: &[Port]| ports.iter().map(port).collect::<Vec<_>>();
    let described = json!({
        "ok": true, "digest": scanned.digest, "length": length, "producer": scanned.producer, "opset": scanned.opset, "nodes": scanned.nodes,
        "parameters": scanned.parameters, "operators": scanned.operators, "inputs": ports(&scanned.inputs), "outputs": ports(&scanned.outputs),
    });
    println!("{described}");
    Ok(DONE)
}

/// `datatype` is the Open Inference Protocol's name, `BYTES` for texts, which this runtime does not serve, or null for
/// another such type; unknown sizes are -1.
fn port(port: &Port) -> serde_json::Value {
    use crate::runtime::onnx::element;
    let datatype = match port.element {
        element::FLOAT => Some("FP32"),
        element::INT8 => Some("INT8"),
        element::UINT8 => Some("UINT8"),
        element::INT32 => Some("INT32"),
        element::INT64 => Some("INT64"),
        element::BOOL => Some("BOOL"),
        // Known, and not served either: whoever asks can say so.
        element::STRING => Some("BYTES"),
        _ => None,
    };
    let size = |size: &Option<u64>| size.and_then(|n| i64::try_from(n).ok()).unwrap_or(-1);
    let shape = port.shape.as_ref().map(|sizes| sizes.iter().map(size).collect::<Vec<_>>());
    json!({"name": port.name, "datatype": datatype, "shape": shape})
}

/// One line per row: decision, confidence, then every element of the outputs that are not state. A row the model has no
/// answer for gives a line of empty fields, so lines stay rows, and a word on stderr; status 1 if there was one.
pub(super) fn predict(options: &Options) -> anyhow::Result<u8> {
    let path = options.one("--rows")?.to_owned();
    let file = File::open(&path).with_context(|| path.clone())?;
    // As many rows as there are: whoever asked is there to stop it.
    let mut release = match load(options, None)?.1 {
        Ok(release) => release,
        Err(reason) => return refused(&reason),
    };
    let mut lines = BufReader::new(file).split(b'\n');
    let mut out = BufWriter::new(std::io::stdout().lock());
    let first = text(lines.next().with_context(|| format!("{path} is empty"))?)?;
    let (columns, header) = Columns::new(&release.manifest, &first).map_err(|e| anyhow::anyhow!("{path}: {e}"))?;
    writeln!(out, "{}", heading(&release))?;
    let mut unanswered = 0u64;
    let head = if header { None } else { Some(Ok(first.into_bytes())) };
    for (number, line) in head.into_iter().chain(lines).enumerate() {
        let line = text(line)?;
        if line.trim().is_empty() {
            continue;
        }
        match answer(&mut release, &columns, &line) {
            Ok(answer) => writeln!(out, "{answer}")?,
            Err(error) => {
                unanswered += 1;
                writeln!(out, ",")?;
                eprintln!("leeway-runner: {path}, row {}: {error}", number + 1);
            }
        }
    }
    out.flush()?;
    Ok(if unanswered == 0 { DONE } else { REFUSED })
}

fn text(line: std::io::Result<Vec<u8>>) -> anyhow::Result<String> {
    let line = line?;
    anyhow::ensure!(line.len() <= MAX_LINE, "a line of {} bytes is longer than {MAX_LINE}", line.len());
    String::from_utf8(line).context("the file is not text")
}

fn outputs(release: &Release) -> impl Iterator<Item = (usize, &TensorSpec)> {
    let state = &release.manifest.state;
    release.manifest.outputs.iter().enumerate().filter(move |(_, spec)| !state.iter().any(|link| link.output == spec.name))
}

fn heading(release: &Release) -> String {
    let mut names = vec!["decision".to_owned(), "confidence".to_owned()];
    for (_, spec) in outputs(release) {
        names.extend((0..spec.elements().unwrap_or(0)).map(|i| format!("{}_{i}", spec.name.replace(',', "_"))));
    }
    names.join(",")
}

fn answer(release: &mut Release, columns: &Columns, line: &str) -> Result<String, String> {
    let (inputs, nulls) = columns.row(line)?;
    if !nulls.is_empty() && !release.takes_missing {
        return Err("a value is missing, and this model was not proved on missing values".to_owned());
    }
    let natives = release.session.natives(&inputs).map_err(|e| e.to_string())?;
    let natives = release.session.run(&natives).map_err(|e| e.to_string())?;
    let elements: Vec<Elements<'_>> = natives.iter().map(|n| tensors::elements(n)).collect();
    let decided = Decider::new(&release.manifest).decide(&elements);
    let mut fields = match decided {
        Some(d) => vec![d.class.to_string(), d.confidence.to_string()],
        // Without a decision the first value is what a regression says.
        None => vec![elements.first().and_then(|e| e.at(0)).map_or_else(String::new, |x| (x as f32).to_string()), String::new()],
    };
    for (at, _) in outputs(release) {
        match elements.get(at) {
            Some(Elements::F32(values)) => fields.extend(values.iter().map(ToString::to_string)),
            Some(other) => fields.extend((0..other.len()).filter_map(|i| other.at(i)).map(|x| x.to_string())),
            None => {}
        }
    }
    Ok(fields.join(","))
}
