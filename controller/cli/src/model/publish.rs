//! `leeway model publish`: make the manifest, try the model out, sign with the line's key, upload.
//!
//! Everything that says what the model is, is measured here from its own answers on the reference data, in the same runner that
//! devices have. The key never leaves this machine, and nothing is uploaded before the signature is made.
use std::fs;
use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use leeway_controller::io::web::words;
use leeway_controller::reference::worth::{Judged, Questions};
use leeway_protocol::digest::Digest;
use leeway_protocol::ids::{Line, Version};
use leeway_protocol::manifest::{Decision, Golden, MAX_MODEL_BYTES, Manifest, Redact};
use leeway_protocol::profile::{FeatureReference, Source};
use leeway_protocol::trust::metadata::{Document, Root};

use super::describe::{describe, refusal, runner};
use crate::context::Context;
use crate::failure::{During, Failure, Outcome};
use crate::output::{self, putln};
use crate::release::Release;
use crate::{keys, now, release};

mod answers;
mod attach;
mod data;
mod draft;
mod import;
mod view;

use answers::Answers;
use data::Data;

/// `leeway model publish`.
#[derive(Debug, Clone, Args)]
pub struct Publish {
    /// The ONNX file.
    #[arg(required_unless_present_any = ["from_mlflow", "from_hf"])]
    pub onnx: Option<PathBuf>,
    /// Take model, run, columns and sizes from a folder that `mlflow.onnx.save_model` wrote; flags win. What has no place is listed.
    #[arg(long, value_name = "DIR", conflicts_with = "from_hf")]
    pub from_mlflow: Option<PathBuf>,
    /// Take licence, tags and reported metrics from a folder with a Hugging Face model card (README.md), and its *.onnx; flags win.
    #[arg(long, value_name = "DIR")]
    pub from_hf: Option<PathBuf>,
    /// The model line.
    #[arg(long)]
    pub line: Line,
    /// A new name within the line.
    #[arg(long)]
    pub version: Version,
    /// The line's release key.
    #[arg(long)]
    pub key: PathBuf,
    /// The image repository's root of trust; `../repository/1.root.json` beside the key if absent.
    #[arg(long, value_name = "FILE")]
    pub root: Option<PathBuf>,
    /// What the world looked like at training time: CSV with a header, or parquet; or an array with a row per first axis (`.npy`),
    /// or a folder of them, named after the inputs.
    #[arg(long, value_name = "FILE|FOLDER")]
    pub reference: PathBuf,
    /// What an input or output is, so that its looks are watched and not its elements: `x=image,layout=nhwc,white=255`,
    /// `wave=audio,rate=16000`, `ids=text,padding=0,unknown=1`, `vector=embedding,seed=7,directions=16`. Black and white of
    /// normalised channels: `black=-2.1/-2/-1.8,white=2.2/2.4/2.6`.
    #[arg(long = "view", value_name = "NAME=KIND,…", value_parser = view::asked)]
    pub views: Vec<view::Asked>,
    /// What captured rows may not hold: a feature by name, taken out (`drop`) or rounded to its bin (`coarsen`), or a whole
    /// input (`x=drop`). Devices too old to know of it refuse the version.
    #[arg(long = "redact", value_name = "NAME=drop|coarsen", value_parser = view::redact)]
    pub redact: Vec<(String, Redact)>,
    /// The column that holds the truth; needed for every model that decides.
    #[arg(long, value_name = "NAME")]
    pub label_column: Option<String>,
    /// Input columns in the order of the inputs' elements; all but the label column if absent.
    #[arg(long, value_delimiter = ',', value_name = "A,B,…")]
    pub features: Vec<String>,
    /// How a decision is read from the outputs.
    #[arg(long, value_enum, default_value_t = Reading::Auto)]
    pub decision: Reading,
    /// Class 1 from this probability up.
    #[arg(long, default_value_t = 0.5)]
    pub threshold: f64,
    /// Golden vectors from the training framework (JSON). Without it they are computed here, by the runner itself.
    #[arg(long, value_name = "FILE")]
    pub golden: Option<PathBuf>,
    /// Sizes that the file leaves open, such as `x=1,8`.
    #[arg(long = "shape", value_name = "NAME=1,8", value_parser = sizes)]
    pub shapes: Vec<(String, Vec<u64>)>,
    /// An input that never changes, such as `sr=16000`.
    #[arg(long = "constant", value_name = "NAME=VALUE", value_parser = values)]
    pub constants: Vec<(String, Vec<f64>)>,
    /// Recurrent state, such as `h=hn`: which output feeds which input.
    #[arg(long = "state", value_name = "INPUT=OUTPUT", value_parser = pair)]
    pub states: Vec<(String, String)>,
    /// Repository or name of the training code.
    #[arg(long, default_value = "")]
    pub code: String,
    /// Its revision.
    #[arg(long, default_value = "")]
    pub code_revision: String,
    /// The version it was retrained from.
    #[arg(long)]
    pub parent: Option<Version>,
    /// An offline metric, such as `auc=0.91`.
    #[arg(long = "metric", value_name = "NAME=VALUE", value_parser = metric)]
    pub metrics: Vec<(String, f64)>,
    /// Why it was made, in a sentence.
    #[arg(long, default_value = "")]
    pub reason: String,
    #[command(flatten)]
    pub attach: attach::Attach,
    /// Do everything but sign and upload.
    #[arg(long)]
    pub dry_run: bool,
}

/// How a decision is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Reading {
    /// By the first float output. One element: binary; several: classes; without a label column: none.
    Auto,
    /// The first element of the first float output is the probability of class 1.
    Binary,
    /// The first float output holds class probabilities.
    Classes,
    /// A regression or an embedding.
    None,
}

/// Run it.
pub fn run(args: &Publish, context: &Context) -> Outcome {
    let (mut args, onnx, imported) = import::resolve(args)?;
    let onnx = onnx.as_path();
    let model = read_model(onnx)?;
    let bundle = args.attach.bundle(onnx, &model)?;
    let label = args.label_column.clone();
    let (data, digest) = Data::read(&args.reference, label.as_deref())?;
    let described = describe(onnx)?;
    import::sizes(&mut args, &imported, &described);
    let args = &args;
    let shape = draft::shape(args, &described)?;
    let data = data.fit(&args.features, label.as_deref(), &shape)?;
    let parent = args.parent.as_ref().map(|version| parent(context, &args.line, version)).transpose()?;
    let dir = tempfile::tempdir().during("making a temporary folder")?;
    let manifest_path = dir.path().join("manifest.json");

    // The runner wants a manifest before it answers: a first one whose tolerance takes any answer.
    let first = draft::first(args, &shape, &data, &model, now())?;
    fs::write(&manifest_path, first.to_bytes()).during("writing the first manifest")?;
    let rows = dir.path().join("rows.csv");
    fs::write(&rows, answers::csv(&data)).during("writing the rows")?;
    let (said, _) = runner("predict", &[("--model", onnx), ("--manifest", &manifest_path), ("--rows", &rows)])?;
    if said.starts_with(b"{") {
        return Err(refusal(onnx, &said));
    }
    let answers = answers::parse(&said, &first)?;

    let golden = args.golden.as_ref().map(|path| read_golden(path)).transpose()?;
    let made_from = draft::MadeFrom { data: digest, golden, parent, run: imported.run.clone() };
    let mut manifest = draft::manifest(args, first, &data, &answers, made_from)?;
    measure(args, &mut manifest, &data, &answers, &[("--model", onnx), ("--manifest", &manifest_path), ("--rows", &rows)])?;
    fs::write(&manifest_path, manifest.to_bytes()).during("writing the manifest")?;
    let (said, yes) = runner("preflight", &[("--model", onnx), ("--manifest", &manifest_path)])?;
    if !yes {
        return Err(refusal(onnx, &said));
    }
    for left in &imported.left {
        eprintln!("note: not taken over: {left}");
    }
    tell(args, &manifest, answers.rows.len());
    if args.dry_run {
        if context.json {
            return output::json(&manifest);
        }
        putln!("dry run: nothing was signed or uploaded");
        return Ok(());
    }
    let key = keys::read_key(&args.key)?;
    let root = root_path(args);
    let root = fs::read(&root).during(format!("reading the root of trust {}", root.display()))?;
    let release = Release::of(&model).with(args.attach.build(), bundle);
    let published = release::publish(&context.client, &root, &key, &release, &manifest, now())?;
    tag(args, &imported, context);
    if context.json {
        return output::json(
            &serde_json::json!({ "line": args.line, "version": args.version, "seq": published.manifest.seq, "manifest": published.blob, "model": published.manifest.model, "io": published.manifest.io_digest() }),
        );
    }
    putln!("published {} {} (number {}), manifest {}", args.line, args.version, published.manifest.seq, published.blob.digest.short());
    eprintln!("help: bring it out with `leeway rollout create --line {} --version {}`", args.line, args.version);
    Ok(())
}

/// Ask the model what its inputs are worth to it, where it decides row by row, each element is a feature, and there are rows enough.
fn measure(args: &Publish, manifest: &mut Manifest, data: &Data, answers: &Answers, files: &[(&str, &Path); 3]) -> Outcome {
    let judged: Vec<Judged> = draft::judged(args, data, answers)?.into_iter().map(|(_, judged)| judged).collect();
    let Data::Table(table, columns) = data else { return Ok(()) };
    let is_element = |f: &FeatureReference| matches!(f.source, Source::Input { .. });
    let elements = manifest.reference.features.iter().take_while(|f| is_element(f)).count();
    let asks = manifest.decision != Decision::None && manifest.state.is_empty() && elements == columns.len();
    let Some(questions) = Questions::new(columns.len(), judged.len()).filter(|_| asks) else { return Ok(()) };
    let [(_, onnx), _, (_, rows)] = files;
    fs::write(rows, answers::questions_csv(columns, table, &judged, &questions)?).during("writing the rows")?;
    let (said, _) = runner("predict", files)?;
    if said.starts_with(b"{") {
        return Err(refusal(onnx, &said));
    }
    let values = columns.iter().map(|name| table.column(name)).collect::<Result<Vec<_>, _>>()?;
    let value = |feature: usize, row: usize| values.get(feature).and_then(|column| column.get(row).copied().flatten());
    questions.measure(&judged, &mut manifest.reference.features, value, &answers::decisions(&said));
    Ok(())
}

/// Upload a signed targets document.
pub fn targets(file: &Path, context: &Context) -> Outcome {
    let bytes = fs::read(file).during(format!("reading {}", file.display()))?;
    context.client.send_bytes("/api/v1/tuf/targets", "application/json", &bytes)?;
    putln!("published {}", file.display());
    Ok(())
}

/// Upload the next root; which repository's it is, it says itself. With new targets, both at once.
pub fn root(file: &Path, targets: Option<&Path>, context: &Context) -> Outcome {
    let bytes = fs::read(file).during(format!("reading {}", file.display()))?;
    let document = Document::<Root>::parse(&bytes, 1 << 20).during(format!("reading {}", file.display()))?;
    let director = keys::is_director(document.claims());
    let body = match targets {
        None => bytes,
        Some(_) if director => return Err(Failure::new("the director's root comes alone: it names no people who sign targets").code(2)),
        Some(targets) => {
            let text = |bytes: Vec<u8>| String::from_utf8(bytes).during("reading the documents");
            let targets = fs::read(targets).during(format!("reading {}", targets.display()))?;
            serde_json::to_vec(&serde_json::json!({ "root": text(bytes)?, "targets": text(targets)? })).during("putting them together")?
        }
    };
    let repository = if director { "director" } else { "image" };
    context.client.send_bytes(&format!("/api/v1/tuf/roots/{repository}"), "application/json", &body)?;
    putln!("published {}: version {} of the {repository} root", file.display(), document.version());
    Ok(())
}

/// Upload a line's releases, signed again.
pub fn role(role: &str, file: &Path, context: &Context) -> Outcome {
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    if role.is_empty() || !role.bytes().all(plain) {
        return Err(Failure::new(format!("{role:?} is no role: name a line, or LINE-auto for its trainer")).code(2));
    }
    let bytes = fs::read(file).during(format!("reading {}", file.display()))?;
    context.client.send_bytes(&format!("/api/v1/tuf/roles/{role}"), "application/json", &bytes)?;
    putln!("published {}", file.display());
    Ok(())
}

/// What is kept beside the manifest. The release stands without it, so a refusal here is said and undoes nothing.
fn tag(args: &Publish, imported: &import::Imported, context: &Context) {
    if imported.tags.is_empty() {
        return;
    }
    let path = format!("/api/v1/models/{}/versions/{}/tags", args.line, args.version);
    let body = serde_json::json!({ "tags": imported.changes() });
    match context.client.send::<serde_json::Value>(&path, &body) {
        Ok(_) => eprintln!("tagged with {} of what was imported", words::plural(imported.tags.len() as u64, "value")),
        Err(failure) => eprintln!("note: the version is published, but its tags were not set: {failure}"),
    }
}

fn tell(args: &Publish, manifest: &Manifest, rows: usize) {
    let metrics: Vec<String> = manifest.lineage.metrics.iter().map(|(name, value)| format!("{name} {}", words::number(*value))).collect();
    eprintln!(
        "answered {} of the reference's rows{}",
        words::count(rows as u64).replace('\u{202f}', " "),
        if metrics.is_empty() { String::new() } else { format!(": {}", metrics.join(", ")) }
    );
    if args.golden.is_none() {
        eprintln!(
            "note: golden vectors were computed by this runner itself: they prove that devices compute the same, not that the runtime is right; --golden takes those of the training framework"
        );
    }
    eprintln!("tried out: it loads, and gives its golden outputs");
}

fn read_model(path: &Path) -> Outcome<Vec<u8>> {
    let length = fs::metadata(path).during(format!("reading {}", path.display()))?.len();
    if length > MAX_MODEL_BYTES {
        return Err(Failure::new(format!("{} has {length} bytes, the bound is {MAX_MODEL_BYTES}", path.display())).code(2));
    }
    fs::read(path).during(format!("reading {}", path.display()))
}

fn read_golden(path: &Path) -> Outcome<Golden> {
    let bytes = fs::read(path).during(format!("reading {}", path.display()))?;
    serde_json::from_slice(&bytes).map_err(|e| {
        Failure::new(format!("{}: {e}", path.display()))
            .code(2)
            .help("golden vectors are JSON: {rtol, atol, vectors: [{inputs: […], outputs: […]}]}")
    })
}

fn parent(context: &Context, line: &Line, version: &Version) -> Outcome<Digest> {
    let detail: leeway_controller::io::web::resource::model::VersionDetail =
        context.client.read(&format!("/api/v1/models/{line}/versions/{version}"))?;
    detail.summary.manifest.parse().during("reading the parent's digest")
}

fn root_path(args: &Publish) -> PathBuf {
    let beside = || args.key.parent().and_then(Path::parent).unwrap_or(Path::new(".")).join("repository/1.root.json");
    args.root.clone().unwrap_or_else(beside)
}

pub(super) fn pair(text: &str) -> Result<(String, String), String> {
    text.split_once('=').map(|(a, b)| (a.to_owned(), b.to_owned())).ok_or_else(|| format!("{text:?} is not of the form NAME=VALUE"))
}

fn list<T: std::str::FromStr>(text: &str) -> Result<(String, Vec<T>), String> {
    let (name, list) = pair(text)?;
    let items = list.split(',').map(|n| n.trim().parse().map_err(|_| format!("{n:?} in {text:?} is not a number")));
    Ok((name, items.collect::<Result<_, _>>()?))
}

fn sizes(text: &str) -> Result<(String, Vec<u64>), String> {
    list(text)
}

fn values(text: &str) -> Result<(String, Vec<f64>), String> {
    list(text)
}

fn metric(text: &str) -> Result<(String, f64), String> {
    let (name, value) = pair(text)?;
    Ok((name, value.parse().map_err(|_| format!("{value:?} is not a number"))?))
}
