//! `leeway model sketch`: KLL quantile sketches of captured inputs or of a table, and reading those of other tools.
use std::fs;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use clap::Args;
use leeway_controller::io::sketches::ColumnSketch;
use leeway_controller::io::web::resource::sketch::Sketches;
use leeway_controller::io::web::words;
use leeway_controller::reference::table::Table;
use leeway_protocol::digest::Digest;
use leeway_protocol::ids::Line;
use serde_json::{Value, json};

use crate::context::Context;
use crate::failure::{During, Failure, Outcome};
use crate::output::{self, put, table};

/// `leeway model sketch`.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  leeway model sketch rain --out sketches\n  leeway model sketch --table train.csv --out sketches\n  leeway model sketch --read sketches/temp.kll\n\nPython reads them with datasketches.kll_floats_sketch.deserialize. A sketch holds raw values: pass it on as you would the rows."
)]
pub struct Sketch {
    /// Of what this line's devices captured.
    #[arg(required_unless_present_any = ["table", "read"], conflicts_with_all = ["table", "read"])]
    pub line: Option<Line>,
    /// Of the columns of a table here, CSV or parquet. Needs no controller.
    #[arg(long, value_name = "FILE", conflicts_with = "read")]
    pub table: Option<PathBuf>,
    /// Show sketches that this or another tool wrote. Needs no controller.
    #[arg(long, value_name = "FILE", num_args = 1..)]
    pub read: Vec<PathBuf>,
    /// Write each as NAME.kll into this folder, with index.json that holds their digests.
    #[arg(long, value_name = "DIR", conflicts_with = "read")]
    pub out: Option<PathBuf>,
}

/// Run it.
pub fn run(args: &Sketch, context: &Context) -> Outcome {
    let sketches = match (&args.line, &args.table) {
        (Some(line), _) => captured(line, context)?,
        (None, Some(path)) => of_table(path)?,
        (None, None) => args.read.iter().map(|path| read(path)).collect::<Outcome<Vec<_>>>()?,
    };
    if let Some(dir) = &args.out {
        write(dir, &sketches)?;
    }
    if context.json {
        return output::json(&sketches.iter().map(about).collect::<Vec<_>>());
    }
    let number = |s: &ColumnSketch, at: usize| s.quantiles.get(at).map_or_else(|| "-".to_owned(), |v| words::number(f64::from(*v)));
    let row = |s: &ColumnSketch| {
        let counts = [s.name.clone(), words::count(s.n), words::count(s.missing)];
        counts.into_iter().chain([0, 1, 3, 5, 6].map(|at| number(s, at))).collect()
    };
    let rows: Vec<Vec<String>> = sketches.iter().map(row).collect();
    put!("{}", table(&context.style, &["FEATURE", "ROWS", "MISSING", "LEAST", "5 %", "MEDIAN", "95 %", "GREATEST"], &rows));
    Ok(())
}

fn about(s: &ColumnSketch) -> Value {
    json!({ "name": s.name, "format": "kll-f32", "n": s.n, "missing": s.missing, "rank_error": s.rank_error, "quantiles": s.quantiles, "digest": s.digest(), "length": s.bytes.len() })
}

fn captured(line: &Line, context: &Context) -> Outcome<Vec<ColumnSketch>> {
    let answer: Sketches = context.client.read(&format!("/api/v1/models/{line}/sketches"))?;
    eprintln!("{}", answer.sentence);
    let one = |s: &leeway_controller::io::web::resource::sketch::Sketch| {
        let bytes = STANDARD.decode(&s.bytes).during(format!("reading the sketch of {}", s.name))?;
        if Digest::of(&bytes).to_string() != s.digest {
            return Err(Failure::new(format!("the sketch of {} does not have its digest: ask again", s.name)));
        }
        let read = ColumnSketch::read(&s.name, &bytes).during(format!("reading the sketch of {}", s.name))?;
        Ok(ColumnSketch { missing: s.missing, ..read })
    };
    answer.features.iter().map(one).collect()
}

fn of_table(path: &Path) -> Outcome<Vec<ColumnSketch>> {
    let reading = format!("reading {}", path.display());
    let table = Table::parse(&fs::read(path).during(&reading)?).during(&reading)?;
    let one = |name: &String| {
        let values = table.column(name)?.iter().map(|value| value.map(|v| v as f32));
        ColumnSketch::of(name, values).during(format!("sketching {name}"))
    };
    table.names.iter().map(one).collect()
}

fn read(path: &Path) -> Outcome<ColumnSketch> {
    let bytes = fs::read(path).during(format!("reading {}", path.display()))?;
    let name = path.file_stem().map_or_else(String::new, |name| name.to_string_lossy().into_owned());
    ColumnSketch::read(&name, &bytes).map_err(|e| Failure::new(format!("{}: {e}", path.display())).code(2))
}

fn write(dir: &Path, sketches: &[ColumnSketch]) -> Outcome {
    fs::create_dir_all(dir).during(format!("making {}", dir.display()))?;
    let mut index = Vec::new();
    for (number, sketch) in sketches.iter().enumerate() {
        // A column's name is whatever somebody wrote into a table's head.
        let plain = |b: u8| b.is_ascii_alphanumeric() || b == b'_' || b == b'-';
        let is_plain = !sketch.name.is_empty() && sketch.name.len() <= 100 && sketch.name.bytes().all(plain);
        let file = if is_plain { format!("{}.kll", sketch.name) } else { format!("column-{number}.kll") };
        let path = dir.join(&file);
        fs::write(&path, &sketch.bytes).during(format!("writing {}", path.display()))?;
        let mut entry = about(sketch);
        entry["file"] = json!(file);
        index.push(entry);
    }
    let path = dir.join("index.json");
    fs::write(&path, serde_json::to_vec_pretty(&index).during("writing the index")?).during(format!("writing {}", path.display()))
}
