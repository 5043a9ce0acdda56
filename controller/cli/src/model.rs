//! `leeway model`: publish a release, and see what there is.
use std::io::Write as _;
use std::path::PathBuf;

use clap::Subcommand;
use leeway_controller::io::web::resource::Level;
use leeway_controller::io::web::resource::model::{Document, Lineage, Model, VersionDetail};
use leeway_controller::io::web::words;
use leeway_protocol::ids::{Line, Version};

use crate::context::Context;
use crate::failure::{During as _, Outcome};
use crate::output::{self, Style, facts, put, table};

mod bundle;
mod describe;
mod names;
mod publish;
mod sketch;

/// Models.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Sign a release with the line's key, here, and upload it.
    Publish(Box<publish::Publish>),
    /// Upload a signed targets document, such as one that grants or revokes a trainer.
    PublishTargets {
        /// The document, as `leeway keys` wrote it.
        file: PathBuf,
    },
    /// Upload the next root, of the image repository or of the director, after a change of keys.
    PublishRoot {
        /// The root, as `leeway keys` wrote it.
        file: PathBuf,
        /// New targets to go with it, when so many targets keys change that the served ones would count for nothing.
        #[arg(long)]
        targets: Option<PathBuf>,
    },
    /// Upload a line's releases that were signed again, by another key or for another quarter.
    PublishRole {
        /// Whose: LINE, or LINE-auto for its trainer.
        role: String,
        /// The document, as `leeway keys renew` wrote it.
        file: PathBuf,
    },
    /// Model lines with their versions.
    List,
    /// One version, or the champion of a line.
    Show {
        /// The model line.
        line: Line,
        /// The version.
        version: Option<Version>,
    },
    /// What an ONNX file needs, and whether devices can run it. Needs no controller.
    Inspect {
        /// The file.
        onnx: PathBuf,
    },
    /// Aliases of a line; with --history how they moved, who moved them, and why.
    Aliases(names::Show),
    /// Point an alias to a version, or take it away.
    Alias(names::Point),
    /// Show, set or remove tags of a line or of a version.
    Tag(names::Tag),
    /// Deprecate or yank a version, or take that back.
    Mark(names::Mark),
    /// Quantile sketches (KLL, as Apache DataSketches writes them) of captured inputs or of a table.
    Sketch(sketch::Sketch),
    /// What a version was made from, and what was made from it.
    Lineage {
        /// The model line.
        line: Line,
        /// The version.
        version: Version,
    },
    /// The bill of materials of a version, as CycloneDX 1.6.
    Bom {
        /// The model line.
        line: Line,
        /// The version.
        version: Version,
    },
    /// The provenance of a version, as its maker signed it: SLSA v1 in a DSSE envelope.
    Provenance {
        /// The model line.
        line: Line,
        /// The version.
        version: Version,
    },
    /// The OpenSSF Model Signing bundle that came with a version.
    Bundle {
        /// The model line.
        line: Line,
        /// The version.
        version: Version,
    },
    /// Make an OpenSSF Model Signing bundle of a file or a folder. Needs no controller.
    SignBundle(bundle::Sign),
    /// Check an OpenSSF Model Signing bundle against a file or a folder. Needs no controller.
    VerifyBundle(bundle::Verify),
}

/// Run it.
pub fn run(command: &Command, context: &Context) -> Outcome {
    match command {
        Command::Publish(args) => publish::run(args, context),
        Command::PublishTargets { file } => publish::targets(file, context),
        Command::PublishRoot { file, targets } => publish::root(file, targets.as_deref(), context),
        Command::PublishRole { role, file } => publish::role(role, file, context),
        Command::List => list(context),
        Command::Show { line, version } => show(context, line, version.as_ref()),
        Command::Inspect { onnx } => describe::run(onnx, context),
        Command::Aliases(args) => names::show(args, context),
        Command::Alias(args) => names::point(args, context),
        Command::Tag(args) => names::tag(args, context),
        Command::Mark(args) => names::mark(args, context),
        Command::Sketch(args) => sketch::run(args, context),
        Command::Bom { line, version } => document(context, line, version, "bom"),
        Command::Provenance { line, version } => document(context, line, version, "provenance"),
        Command::Bundle { line, version } => document(context, line, version, "bundle"),
        Command::SignBundle(args) => bundle::sign(args),
        Command::VerifyBundle(args) => bundle::verify(args),
        Command::Lineage { line, version } => {
            let graph: Lineage = context.client.read(&format!("/api/v1/models/{line}/versions/{version}/lineage"))?;
            if context.json {
                return output::json(&graph);
            }
            put!("{}", lineage(&context.style, &graph));
            Ok(())
        }
    }
}

/// A document of a version, byte for byte: somebody else's tool reads it.
fn document(context: &Context, line: &Line, version: &Version, which: &str) -> Outcome {
    let bytes = context.client.bytes(&format!("/api/v1/models/{line}/versions/{version}/{which}"))?;
    std::io::stdout().write_all(&bytes).during("writing")
}

fn list(context: &Context) -> Outcome {
    let models: Vec<Model> = context.client.read("/api/v1/models")?;
    if context.json {
        return output::json(&models);
    }
    if models.is_empty() {
        eprintln!("no model has been published yet");
        eprintln!("help: `leeway model publish model.onnx --line LINE --version VERSION --key LINE.key --reference data.csv`");
        return Ok(());
    }
    let now = output::now();
    let mut rows = Vec::new();
    for v in models.iter().flat_map(|m| &m.versions) {
        rows.push(vec![
            v.line.clone(),
            v.version.clone(),
            context.style.state(v.level, &v.state),
            v.aliases.join(","),
            v.signer.clone(),
            words::count(v.devices),
            words::bytes(v.bytes),
            words::ago(now, v.registered_at),
        ]);
    }
    for (line, c) in models.iter().flat_map(|m| m.candidates.iter().map(|c| (m.line.clone(), c))) {
        let (state, age) = (context.style.state(Level::Idle, "candidate"), words::ago(now, c.registered_at));
        rows.push(vec![line, c.version.clone(), state, String::new(), "nobody".to_owned(), "0".to_owned(), String::new(), age]);
    }
    put!("{}", table(&context.style, &["LINE", "VERSION", "STATE", "ALIAS", "SIGNED BY", "DEVICES", "SIZE", "REGISTERED"], &rows));
    Ok(())
}

fn show(context: &Context, line: &Line, version: Option<&Version>) -> Outcome {
    let version = match version {
        Some(version) => version.to_string(),
        None => {
            let model: Model = context.client.read(&format!("/api/v1/models/{line}"))?;
            let champion = model.aliases.get("champion").cloned();
            champion
                .or_else(|| model.versions.first().map(|v| v.version.clone()))
                .ok_or_else(|| crate::failure::Failure::new(format!("line {line} has no version yet")).code(5))?
        }
    };
    let detail: VersionDetail = context.client.read(&format!("/api/v1/models/{line}/versions/{version}"))?;
    if context.json {
        return output::json(&detail);
    }
    put!("{}", render(&context.style, &detail));
    Ok(())
}

fn render(style: &Style, d: &VersionDetail) -> String {
    let v = &d.summary;
    let tensor = |t: &leeway_controller::io::web::resource::model::TensorInfo| {
        format!("{}: {}{:?}{}", t.name, t.dtype, t.shape, if t.role == "free" { String::new() } else { format!(" ({})", t.role) })
    };
    let metrics: Vec<String> = v.metrics.iter().map(|(name, value)| format!("{name} {}", words::number(*value))).collect();
    facts(
        style,
        &[
            ("Version", format!("{} {}", style.bold(&format!("{} {}", v.line, v.version)), v.aliases.join(" "))),
            ("State", format!("{}  {}", style.state(v.level, &v.state), words::plural(v.devices, "device"))),
            ("Why", v.reason.clone()),
            ("Signed by", format!("{} ({})", v.signer, v.origin)),
            ("Manifest", v.manifest.clone()),
            ("Model", format!("{}  {}", v.model, words::bytes(v.bytes))),
            ("I/O digest", d.io.clone()),
            ("Inputs", d.inputs.iter().map(tensor).collect::<Vec<_>>().join(", ")),
            ("Outputs", d.outputs.iter().map(tensor).collect::<Vec<_>>().join(", ")),
            ("Decision", d.decision.clone()),
            ("Reference", format!("{} rows: {}", words::count(d.reference_rows), d.features.join(", "))),
            ("Golden", d.golden.clone()),
            ("Limits", d.limits.clone()),
            ("Metrics", metrics.join(", ")),
            ("Tags", v.tags.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(", ")),
            ("Provenance", document_line(d.provenance.as_ref())),
            ("Signature", document_line(d.bundle.as_ref())),
        ],
    )
}

/// One document that came with a version, as the page says it too.
fn document_line(document: Option<&Document>) -> String {
    document
        .map_or_else(|| "this release came without".to_owned(), |d| format!("{} ({}, {})", d.sentence, d.digest, words::bytes(d.length)))
}

fn lineage(style: &Style, graph: &Lineage) -> String {
    let label = |id: &str| graph.nodes.iter().find(|n| n.id == id).map_or_else(|| id.to_owned(), |n| n.label.clone());
    let rows: Vec<Vec<String>> = graph
        .nodes
        .iter()
        .map(|n| {
            let from: Vec<String> = graph.edges.iter().filter(|e| e.to == n.id).map(|e| format!("{} {}", e.kind, label(&e.from))).collect();
            vec![n.kind.clone(), n.label.clone(), n.detail.clone(), from.join(", ")]
        })
        .collect();
    table(style, &["KIND", "NAME", "DETAIL", "MADE FROM"], &rows)
}
