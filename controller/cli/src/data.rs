//! `leeway data`: datasets by name, side by side, as files; and which data, code, run and parent a version comes from.
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use clap::{Subcommand, ValueEnum};
use leeway_controller::dataset::compare::Comparison;
use leeway_controller::dataset::external::MAX_DVC_BYTES;
use leeway_controller::dataset::{DataFile, External};
use leeway_controller::io::web::resource::Page;
use leeway_controller::io::web::resource::dataset::{DatasetDetail, DatasetSummary, ImportDataset, Origin};
use leeway_controller::io::web::words;
use leeway_protocol::digest::Digest;
use leeway_protocol::ids::{Line, Version};
use leeway_protocol::manifest::Blob;

use crate::client::query;
use crate::context::Context;
use crate::failure::{During as _, Failure, Outcome};
use crate::output::{self, Style, facts, put, table, wrap};

/// Pages of a list that are read: a hundred thousand datasets.
const MAX_PAGES: usize = 200;
/// Datasets on one page.
const PAGE: usize = 500;
/// Sources and files shown.
const SHOWN: usize = 20;

/// Shown by `leeway data --help`.
const EXAMPLES: &str = "\
A dataset is named by the digest of its manifest, or the beginning of it, by its title, or by the digest of one of its files.

Examples:
  leeway data list --line rain
  leeway data show 4f2a91
  leeway data diff 4f2a91 8c03de                     rows, devices, labels, and which features moved
  leeway data export 4f2a91 --out train.parquet      for pandas, DuckDB, …
  leeway data export 4f2a91 --file holdout --format csv | head
  leeway data import archive.csv --line rain --label-column rain --dvc archive.csv.dvc
  leeway data origin rain auto-4                     which data, which code, which run, which parent, who approved";

/// Datasets.
#[derive(Debug, Subcommand)]
#[command(after_help = EXAMPLES)]
pub enum Command {
    /// Datasets, newest first.
    List {
        /// Only of this model line.
        #[arg(long)]
        line: Option<Line>,
    },
    /// One dataset: where its rows come from, how they were chosen, what was trained on it.
    Show {
        /// The dataset.
        dataset: String,
    },
    /// Two datasets side by side: rows, devices, labels, and how far each feature moved.
    Diff {
        /// The first.
        first: String,
        /// The second, which is compared with the first.
        second: String,
    },
    /// Write a file of a dataset, as Parquet or CSV. What is written is checked against the dataset's manifest.
    Export {
        /// The dataset.
        dataset: String,
        /// Which of its files; `data` for an imported dataset.
        #[arg(long, default_value = "train")]
        file: String,
        /// In which form; as it is kept if absent.
        #[arg(long)]
        format: Option<Format>,
        /// Where to; standard output if absent.
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
    },
    /// Make a dataset of a CSV or Parquet file, kept byte for byte, with references to where else it lies.
    Import {
        /// The file.
        file: PathBuf,
        /// The model line it is for.
        #[arg(long)]
        line: Line,
        /// What to call it; the file's name if absent.
        #[arg(long)]
        title: Option<String>,
        /// The column with the labels.
        #[arg(long)]
        label_column: Option<String>,
        /// The column with the weights.
        #[arg(long)]
        weight_column: Option<String>,
        /// The .dvc file that tracks it.
        #[arg(long, value_name = "FILE.dvc")]
        dvc: Option<PathBuf>,
        /// Where it lies in lakeFS: lakefs://REPOSITORY/COMMIT/PATH.
        #[arg(long, value_name = "URI")]
        lakefs: Option<String>,
    },
    /// Which data, which code, which run, which parent, and who approved: for one version.
    Origin {
        /// The model line.
        line: Line,
        /// The version.
        version: Version,
    },
}

/// The form of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// Typed columns.
    Parquet,
    /// Text.
    Csv,
}

impl Format {
    fn as_str(self) -> &'static str {
        match self {
            Self::Parquet => "parquet",
            Self::Csv => "csv",
        }
    }
}

/// Run it.
pub fn run(command: &Command, context: &Context) -> Outcome {
    let (style, client) = (&context.style, &context.client);
    match command {
        Command::List { line } => list(line.as_ref(), context),
        Command::Show { dataset } => {
            let detail: DatasetDetail = client.read(&address(dataset))?;
            said(context, &detail, |detail| show(style, detail))
        }
        Command::Diff { first, second } => {
            let made: Comparison = client.read(&format!("{}/compare/{}", address(first), escaped(second)))?;
            said(context, &made, |made| diff(style, made))
        }
        Command::Export { dataset, file, format, out } => export(context, dataset, file, *format, out.as_deref()),
        Command::Import { .. } => import(command, context),
        Command::Origin { line, version } => {
            let origin: Origin = client.read(&format!("/api/v1/models/{line}/versions/{version}/origin"))?;
            said(context, &origin, |origin| origin.sentences.iter().map(|s| wrap(&style.plain(s), style.columns, 2) + "\n").collect())
        }
    }
}

fn said<T: serde::Serialize>(context: &Context, value: &T, text: impl FnOnce(&T) -> String) -> Outcome {
    if context.json {
        return output::json(value);
    }
    put!("{}", text(value));
    Ok(())
}

fn escaped(name: &str) -> String {
    query(&[("", name.to_owned())]).split_off(1)
}

fn address(dataset: &str) -> String {
    format!("/api/v1/datasets/{}", escaped(dataset))
}

fn list(line: Option<&Line>, context: &Context) -> Outcome {
    let (mut all, mut cursor): (Vec<DatasetSummary>, Option<String>) = (Vec::new(), None);
    for _ in 0..MAX_PAGES {
        let mut asked = vec![("limit", PAGE.to_string())];
        asked.extend(line.map(|line| ("line", line.to_string())));
        asked.extend(cursor.map(|cursor| ("cursor", cursor)));
        let page: Page<DatasetSummary> = context.client.read(&format!("/api/v1/datasets?{}", query(&asked)))?;
        all.extend(page.items);
        cursor = page.next_cursor;
        if cursor.is_none() {
            break;
        }
    }
    if context.json {
        return output::json(&all);
    }
    if all.is_empty() {
        eprintln!("no dataset yet");
        eprintln!("help: a training job makes one of what devices captured; `leeway data import FILE --line LINE` brings one");
        return Ok(());
    }
    let now = output::now();
    let rows: Vec<Vec<String>> = all
        .iter()
        .map(|d| {
            let made = words::ago(now, d.made_at);
            vec![short(&d.dataset), d.line.clone(), d.title.clone(), words::count(d.rows), words::count(d.devices), made, d.made_by.clone()]
        })
        .collect();
    put!("{}", table(&context.style, &["DATASET", "LINE", "TITLE", "ROWS", "DEVICES", "MADE", "BY"], &rows));
    Ok(())
}

/// The beginning of a digest, enough to name it by.
fn short(digest: &str) -> String {
    digest.trim_start_matches("sha256:").chars().take(12).collect()
}

fn show(style: &Style, detail: &DatasetDetail) -> String {
    let (d, m) = (&detail.summary, &detail.manifest);
    let file = |f: &DataFile| format!("{} {} rows, {}, {}, {}", f.role, words::count(f.rows), f.format, words::bytes(f.length), f.digest);
    let columns: Vec<String> = m.columns.iter().map(|c| format!("{} {}", c.name, c.r#type)).collect();
    let chosen = m.selection.as_ref().map_or_else(String::new, |s| {
        format!(
            "seed {:?}, {} of {} time blocks held out, {} rows twice, {} unusable, {} next to a held-out block",
            s.seed,
            s.blocks.1,
            s.blocks.0 + s.blocks.1,
            s.duplicates,
            s.unusable,
            s.embargoed
        )
    });
    let parents: Vec<String> = m.parents.iter().map(|p| format!("{} {}", p.how, short(&p.digest.to_string()))).collect();
    let elsewhere: Vec<String> = m.external.iter().map(|e| format!("{} at {}", e.uri, e.revision)).collect();
    let span = m.first.zip(m.last).map_or_else(String::new, |(first, last)| format!("{first} to {last}"));
    let mut text = facts(
        style,
        &[
            ("Dataset", style.bold(&d.dataset)),
            ("Title", format!("{} ({}, line {})", d.title, d.origin, d.line)),
            ("What", wrap(&d.sentence, style.columns, 13)),
            ("Made", format!("{} by {}", d.made_at, d.made_by)),
            (
                "Rows",
                format!("{}, worth {} of equal weight to train on", words::count(m.rows), words::count(m.effective_rows.round() as u64)),
            ),
            ("From", span),
            ("Labels", m.labels.words()),
            ("Devices", words::count(m.device_count)),
            ("Cohorts", m.cohorts.iter().map(|(name, rows)| format!("{name} ({rows})")).collect::<Vec<_>>().join(", ")),
            ("Chosen", wrap(&chosen, style.columns, 13)),
            ("Columns", wrap(&columns.join(", "), style.columns, 13)),
            ("Parents", parents.join(", ")),
            ("Elsewhere", elsewhere.join(", ")),
            ("Trained", detail.versions.join(", ")),
        ],
    );
    for f in m.files.iter().take(SHOWN) {
        text += &facts(style, &[("File     ", file(f))]);
    }
    if !m.sources.is_empty() {
        let served = |s: &leeway_controller::dataset::SourceWindow| {
            let name = s.version.as_ref().map_or_else(|| s.served_by.short(), ToString::to_string);
            vec![name, s.first.to_string(), s.last.to_string(), words::count(s.rows), words::count(s.devices)]
        };
        let rows: Vec<Vec<String>> = m.sources.iter().take(SHOWN).map(served).collect();
        text += &format!("\n{}", table(style, &["SERVED BY", "FIRST", "LAST", "ROWS", "DEVICES"], &rows));
    }
    text
}

fn diff(style: &Style, made: &Comparison) -> String {
    let mut text = format!("{}\n\n", wrap(&style.plain(&made.sentence), style.columns, 0));
    let percent = |share: f64| format!("{:.1} %", share * 100.0);
    let labels: Vec<Vec<String>> = made.labels.iter().map(|(class, (a, b))| vec![class.clone(), percent(*a), percent(*b)]).collect();
    if !labels.is_empty() {
        text += &format!("{}\n", table(style, &["CLASS", "FIRST", "SECOND"], &labels));
    }
    let moved = |f: &leeway_controller::dataset::compare::Moved| {
        let reads = if f.gap > f.chance { f.direction.clone() } else { "as chance would".to_owned() };
        let distance = f.wasserstein.map_or_else(String::new, words::number);
        vec![words::plain(&f.feature), format!("{:.3}", f.psi), format!("{:.3}", f.gap), format!("{:.3}", f.chance), distance, reads]
    };
    let features: Vec<Vec<String>> = made.features.iter().map(moved).collect();
    text += &table(style, &["FEATURE", "PSI", "LARGEST GAP", "BY CHANCE", "DISTANCE", "MOVED"], &features);
    let named = |what: &str, names: &[String]| if names.is_empty() { String::new() } else { format!("{what}: {}\n", names.join(", ")) };
    text += &named("features only in the first", &made.features_gone);
    text += &named("features only in the second", &made.features_new);
    text += &named("devices only in the first", &made.devices_gone.names);
    text += &named("devices only in the second", &made.devices_new.names);
    text
}

fn export(context: &Context, dataset: &str, role: &str, format: Option<Format>, out: Option<&Path>) -> Outcome {
    let detail: DatasetDetail = context.client.read(&address(dataset))?;
    let roles: Vec<&str> = detail.manifest.files.iter().map(|f| f.role.as_str()).collect();
    let missing =
        || Failure::new(format!("the dataset has no file {role:?}")).code(5).help(format!("--file is one of {}", roles.join(", ")));
    let file = detail.manifest.file(role).ok_or_else(missing)?;
    let form = format.map_or(file.format.as_str(), |form| form.as_str());
    let asked = query(&[("format", form.to_owned())]);
    // By its whole name: a beginning could by now mean another.
    let whole = address(&detail.summary.dataset);
    let bytes = context.client.bytes(&format!("{whole}/files/{}?{asked}", escaped(role)))?;
    let expected = if form == file.format { Some(file.digest) } else { file.content };
    let got = Digest::of(&bytes);
    if expected.is_some_and(|expected| expected != got) {
        return Err(Failure::new(format!("what the controller sent has digest {got}: it is not what the dataset's manifest names")));
    }
    match out {
        Some(path) => {
            fs::write(path, &bytes).during(format!("writing {}", path.display()))?;
            eprintln!("{}: {} rows of {role} data, {}, {got}", path.display(), words::count(file.rows), words::bytes(bytes.len() as u64));
            Ok(())
        }
        None => match std::io::stdout().lock().write_all(&bytes) {
            Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(error).during("writing to standard output"),
            _ => Ok(()),
        },
    }
}

fn import(command: &Command, context: &Context) -> Outcome {
    let Command::Import { file, line, title, label_column, weight_column, dvc, lakefs } = command else { return Ok(()) };
    let bytes = fs::read(file).during(format!("reading {}", file.display()))?;
    let mut external = Vec::new();
    if let Some(path) = dvc {
        let text = fs::read(path).during(format!("reading {}", path.display()))?;
        if text.len() > MAX_DVC_BYTES {
            return Err(Failure::new(format!("{} is too large for a .dvc file", path.display())).code(2));
        }
        let made = External::dvc(&String::from_utf8_lossy(&text), bytes.len() as u64);
        external.push(made.map_err(|e| Failure::new(format!("{}: {e}", path.display())).code(2))?);
    }
    if let Some(uri) = lakefs {
        external.push(External::lakefs(uri).map_err(|e| Failure::new(e).code(2))?);
    }
    let name = file.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    context.client.send_bytes("/api/v1/blobs", "application/octet-stream", &bytes)?;
    let asked = ImportDataset {
        title: title.clone().unwrap_or(name),
        line: line.to_string(),
        file: Blob::of(&bytes).digest.to_string(),
        label: label_column.clone(),
        weight: weight_column.clone(),
        external,
    };
    let made: DatasetSummary = context.client.send("/api/v1/datasets", &asked)?;
    said(context, &made, |made| format!("{}\n{}\n", made.dataset, made.sentence))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_escaped_where_they_become_a_part_of_an_address() {
        assert_eq!(address("sha256:4f2a"), "/api/v1/datasets/sha256%3A4f2a");
        assert_eq!(address("my data/1"), "/api/v1/datasets/my%20data%2F1");
        assert_eq!(short("sha256:0123456789abcdef"), "0123456789ab");
    }
}
