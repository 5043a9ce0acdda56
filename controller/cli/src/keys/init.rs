//! `leeway keys init`: all keys and first documents of a new fleet.
use std::path::{Path, PathBuf};

use clap::Args;
use leeway_protocol::ids::Line;
use leeway_protocol::time::Timestamp;
use leeway_protocol::trust::repository::{self, Ceremony, Custody, Lifetimes, LineGrant};

use super::write_new;
use crate::failure::{During, Failure, Outcome};
use crate::output::putln;

/// `leeway keys init`.
#[derive(Debug, Args)]
pub struct Init {
    /// Folder to make.
    #[arg(long)]
    pub out: PathBuf,
    /// A model line; may be given several times.
    #[arg(long = "line", required = true)]
    pub lines: Vec<Line>,
}

pub(super) fn run(args: &Init, now: Timestamp) -> Outcome {
    init(&args.out, &args.lines, now)?;
    putln!("made the keys of a new fleet in {}", args.out.display());
    putln!("keep offline/ with three people, release/ and trainer/ on their machines; give the controller only controller/");
    Ok(())
}

/// Make a new fleet's keys in the new folder `out`.
pub fn init(out: &Path, lines: &[Line], now: Timestamp) -> Outcome<Ceremony> {
    let grants: Vec<LineGrant> = lines.iter().map(|line| LineGrant { line: line.clone(), trainer_io: None }).collect();
    let mut broken = None;
    let mut seed = || {
        let mut seed = [0; 32];
        if let Err(e) = getrandom::fill(&mut seed) {
            broken = Some(e);
        }
        seed
    };
    let made = repository::ceremony(&grants, &Lifetimes::default(), now, &mut seed).during("signing the first documents")?;
    if let Some(e) = broken {
        return Err(Failure::new(format!("the system gives no random numbers: {e}")));
    }
    for key in &made.keys {
        let folder = match key.custody {
            Custody::Offline => "offline",
            Custody::Release => "release",
            Custody::Trainer => "trainer",
            Custody::Online => "controller",
        };
        write_new(&out.join(folder).join(format!("{}.key", key.name)), key.key.to_key_file(&key.name).as_bytes(), 0o600)?;
    }
    for folder in ["controller", "repository"] {
        for (name, bytes) in
            [("1.root.json", &made.image_root), ("1.targets.json", &made.image_targets), ("director.1.root.json", &made.director_root)]
        {
            write_new(&out.join(folder).join(name), bytes, 0o644)?;
        }
    }
    Ok(made)
}
