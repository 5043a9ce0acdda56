//! `leeway apply`: make rollouts what their files say, again and again, as a pipeline does after each merge.
use std::path::{Path, PathBuf};

use clap::Args;
use leeway_controller::io::web::resource::rollout::AppliedRollout;
use leeway_controller::rollout::file::RolloutFile;

use crate::context::Context;
use crate::failure::{During, Failure, Outcome};
use crate::output::{self, putln};
use crate::rollout::file;

/// `leeway apply`.
#[derive(Debug, Args)]
pub struct Apply {
    /// A rollout's file, or a directory of them (`*.yaml`, `*.yml`, `*.json`, in order of their names).
    #[arg(short = 'f', long = "file", value_name = "FILE|DIR", required = true)]
    pub files: Vec<PathBuf>,
    /// Change a rollout that exists, if it is still at this revision; only what it has not reached yet can be changed.
    #[arg(long, value_name = "N")]
    pub if_revision: Option<u64>,
    /// Only read and check the files; asks no controller.
    #[arg(long)]
    pub check: bool,
}

/// Read everything first, so that a mistake in the last file leaves the first one unapplied too.
pub fn run(args: &Apply, context: impl FnOnce() -> Outcome<Context>) -> Outcome {
    let mut all = Vec::new();
    for path in args.files.iter().map(|path| listed(path)).collect::<Outcome<Vec<_>>>()?.concat() {
        all.extend(file::read(&path)?);
    }
    if let Some(twice) = twice(&all) {
        return Err(Failure::new(format!("two files name rollout {twice}")).code(2));
    }
    if args.if_revision.is_some() && all.len() > 1 {
        return Err(Failure::new("--if-revision is about one rollout, and the files have several").code(2));
    }
    if args.check {
        for file in &all {
            putln!("rollout {} is in order: {} {}", file.name, file.line, file.version);
        }
        return Ok(());
    }
    let context = context()?;
    let mut done = Vec::new();
    for one in &all {
        let path = format!("/api/v1/rollouts/{}", one.name);
        let applied: AppliedRollout = context.client.put_bound(&path, &file::request(one)?, args.if_revision)?;
        if !context.json {
            putln!("{} {}", applied.did, context.style.plain(&applied.sentence));
        }
        done.push(applied);
    }
    if context.json { output::json(&done) } else { Ok(()) }
}

fn twice(all: &[RolloutFile]) -> Option<&str> {
    let mut seen = std::collections::BTreeSet::new();
    all.iter().map(|file| file.name.as_str()).find(|name| !seen.insert(*name))
}

/// The files of a directory, or the file itself.
fn listed(path: &Path) -> Outcome<Vec<PathBuf>> {
    if !path.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let mut found = Vec::new();
    for entry in std::fs::read_dir(path).during(format!("reading {}", path.display()))? {
        let path = entry.during(format!("reading {}", path.display()))?.path();
        if path.extension().is_some_and(|e| e == "yaml" || e == "yml" || e == "json") {
            found.push(path);
        }
    }
    found.sort();
    if found.is_empty() {
        return Err(Failure::new(format!("{}: there is no .yaml, .yml or .json file in it", path.display())).code(2));
    }
    Ok(found)
}
