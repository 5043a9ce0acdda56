//! Models: which version serves where, whether it is better, and where it comes from.
use leeway_protocol::time::Timestamp;
use maud::{Markup, html};

use super::charts::{lineage, version_class};
use super::layout::{Area, Frame, head, page};
use super::parts::{badge, card, command, digest, empty, flush, tile, when};
use super::rollout::rollout_rows;
use crate::io::web::resource::Level;
use crate::io::web::resource::model::{CalibrationBin, Document, Model, VersionDetail, VersionSummary};
use crate::io::web::resource::training::TrainingJob;
use crate::io::web::words;

/// All lines.
pub fn models_page(now: Timestamp, seq: u64, models: &[Model], jobs: &[TrainingJob]) -> Markup {
    let sentence = match models.len() {
        0 => "No model has been published yet.".to_owned(),
        _ => format!(
            "{} with {}.",
            words::plural(models.len() as u64, "model line"),
            words::plural(models.iter().map(|m| m.versions.len() as u64).sum(), "version")
        ),
    };
    page(
        Frame { area: Area::Models, title: "Models", seq },
        html! {
            div #models data-live {
                (head(&[], "Models", html! {}, html! { (sentence) }))
                div.stack {
                    @if models.is_empty() {
                        section.card { (empty("Publish the first model", "The release key signs on your machine; the controller checks the model in a throw-away runner and never sees the key.", Some("leeway model publish model.onnx --line rain --version 1.0.0 --key release.key --reference train.csv"))) }
                    }
                    @for model in models { (line_card(now, model)) }
                    @if !models.is_empty() { (jobs_card(now, jobs)) }
                }
            }
        },
    )
}

/// One line.
pub fn model_page(now: Timestamp, seq: u64, model: &Model, jobs: &[TrainingJob]) -> Markup {
    let next = model.versions.first().map_or("1.0.0", |v| v.version.as_str());
    page(
        Frame { area: Area::Models, title: &model.line, seq },
        html! {
            div #model data-live {
                (head(&[("/models", "Models")], &model.line, html! { @for (alias, version) in &model.aliases { span.tag { (alias) " → " (version) } } }, html! { (model.sentence) }))
                div.stack {
                    (line_card(now, model))
                    (jobs_card(now, jobs))
                    (card("Roll a version out", html! {}, html! { (command(&format!("leeway rollout create --line {} --version {next}", model.line))) }))
                }
            }
        },
    )
}

fn line_card(now: Timestamp, model: &Model) -> Markup {
    let metrics = metric_names(&model.versions);
    flush(
        &model.line,
        html! { code { (model.signature) } },
        html! {
            table {
                thead { tr { th { "Version" } th { "State" } th { "Signed by" } @for name in &metrics { th.num { (words::capital(&name.replace('_', " "))) } } th.num { "Devices" } th.num { "Size" } th.num { "Registered" } } }
                tbody {
                    @for v in &model.versions {
                        tr {
                            td {
                                i class={ "swatch " (version_class(v.seq)) } {} " "
                                a href={ "/models/" (v.line) "/versions/" (v.version) } { (v.version) }
                                @for alias in &v.aliases { " " span.tag { (alias) } }
                                span.sub { (words::capital(&v.reason)) }
                            }
                            td { (badge(v.level, &v.state)) }
                            td { (v.signer) }
                            @for name in &metrics { td.num { (words::or_unknown(v.metrics.get(name).copied(), words::number)) } }
                            td.num { (words::count(v.devices)) }
                            td.num { (words::bytes(v.bytes)) }
                            td.num { (when(now, v.registered_at)) }
                        }
                    }
                }
            }
        },
    )
}

/// Training jobs shown on a page.
const MAX_JOBS: usize = 10;

fn jobs_card(now: Timestamp, jobs: &[TrainingJob]) -> Markup {
    flush(
        "Training",
        html! { @if jobs.len() > MAX_JOBS { "the newest " (MAX_JOBS) " of " (jobs.len()) ". " } a href="/episodes" { "All episodes" } },
        html! {
            @if jobs.is_empty() {
                (empty("No better model was asked for yet", "The controller asks when drift comes with a loss of accuracy; the trainer worker does the work with its own key.", Some("leeway trainer work --key trainer.key --root 1.root.json")))
            } @else {
                table {
                    thead { tr { th { "Job" } th { "State" } th.num { "Changed" } } }
                    tbody { @for j in jobs.iter().take(MAX_JOBS) { tr {
                        td { a href={ "/episodes/" (j.id) } { (j.id) } ": " (j.sentence) span.sub { "Asked " (when(now, j.created_at)) ": " (j.reason) } }
                        td { (badge(j.level, &j.state)) }
                        td.num { (when(now, j.updated_at)) }
                    } } }
                }
            }
        },
    )
}

/// Metric columns shown in a table; the version's page has them all.
const MAX_METRIC_COLUMNS: usize = 3;

fn metric_names(versions: &[VersionSummary]) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    for name in versions.iter().flat_map(|v| v.metrics.keys()) {
        if !names.contains(name) && names.len() < MAX_METRIC_COLUMNS {
            names.push(name.clone());
        }
    }
    names
}

/// One version.
pub fn version_page(now: Timestamp, seq: u64, detail: &VersionDetail) -> Markup {
    let v = &detail.summary;
    let up = format!("/models/{}", v.line);
    page(
        Frame { area: Area::Models, title: &format!("{} {}", v.line, v.version), seq },
        html! {
            div #version data-live {
                (head(&[("/models", "Models"), (&up, &v.line)], &v.version, html! { (badge(v.level, &v.state)) @for alias in &v.aliases { span.tag { (alias) } } }, html! { (words::capital(&v.reason)) }))
                div.stack {
                    div.tiles {
                        (tile("Devices running it", html! { (words::count(v.devices)) }, html! {}))
                        @for (name, value) in v.metrics.iter().take(4) { (tile(&words::capital(&name.replace('_', " ")), html! { (words::number(*value)) }, html! { "offline" })) }
                        (tile("Size", html! { (words::bytes(v.bytes)) }, html! { (detail.limits) }))
                    }
                    div.two { (supply(now, detail)) (interface(detail)) }
                    (card("Lineage", html! { "what it was made from, and what was made from it" }, lineage(&detail.lineage, &own_node(detail))))
                    @if !detail.calibration.is_empty() { (calibration(&detail.calibration)) }
                    @if detail.rollouts.is_empty() {
                        (card("Not rolled out yet", html! {}, command(&format!("leeway rollout create --line {} --version {}", v.line, v.version))))
                    } @else { (flush("Rollouts", html! {}, rollout_rows(now, &detail.rollouts))) }
                }
            }
        },
    )
}

fn own_node(detail: &VersionDetail) -> String {
    detail.summary.manifest.clone()
}

fn supply(now: Timestamp, detail: &VersionDetail) -> Markup {
    let v = &detail.summary;
    card(
        "Supply chain",
        html! { (badge(Level::Ok, "signature verified")) },
        html! {
            dl.facts {
                dt { "Signed by" } dd { (v.signer) }
                dt { "Origin" } dd { @if v.origin == "auto" { "the trainer, under its own delegated role" } @else { "a person, with the line's release key" } }
                dt { "Manifest" } dd { (digest(&v.manifest)) }
                dt { "Model file" } dd { (digest(&v.model)) }
                dt { "Made" } dd { (when(now, detail.created_at)) }
                dt { "Registered" } dd { (when(now, v.registered_at)) }
                dt { "Golden vectors" } dd { (detail.golden) }
                dt { "Provenance" } dd { (document(detail.provenance.as_ref(), "this release came without")) }
                dt { "Model signature" } dd { (document(detail.bundle.as_ref(), "this release came without")) }
                dt { "Bill of materials" } dd { a href=(detail.bom) { "CycloneDX 1.6" } }
            }
        },
    )
}

fn document(document: Option<&Document>, none: &str) -> Markup {
    html! { @match document { Some(d) => a href=(d.href) { (d.sentence) }, None => (none) } }
}

fn interface(detail: &VersionDetail) -> Markup {
    card(
        "Inputs and outputs",
        html! { (words::count(detail.reference_rows)) " reference rows" },
        html! {
            dl.facts {
                @for t in &detail.inputs { dt { @if t.role == "free" { "input" } @else { (t.role) } } dd { code { (t.name) ": " (t.dtype) (shape(&t.shape)) } } }
                @for t in &detail.outputs { dt { "output" } dd { code { (t.name) ": " (t.dtype) (shape(&t.shape)) } } }
                dt { "Decision" } dd { (detail.decision) }
                dt { "Watched" } dd { (detail.features.join(", ")) }
            }
        },
    )
}

fn shape(sizes: &[u64]) -> String {
    format!("[{}]", sizes.iter().map(u64::to_string).collect::<Vec<_>>().join(","))
}

fn calibration(bins: &[CalibrationBin]) -> Markup {
    flush(
        "Calibration",
        html! { "accuracy by confidence on held-out data; what the label-free estimate rests on" },
        html! {
            table {
                thead { tr { th { "Confidence" } th.num { "Accuracy" } th.num { "Rows" } } }
                tbody { @for b in bins { tr { td { (format!("{:.2} – {:.2}", b.from, b.to)) } td.num { @if b.rows == 0 { (words::UNKNOWN) } @else { (words::percent(b.accuracy)) } } td.num { (words::count(b.rows)) } } } }
            }
        },
    )
}
