//! `leeway replay`: every alarm and every decision, computed again from what is stored.
use std::path::PathBuf;

use clap::Args;
use leeway_controller::io::offline::Stopped;
use leeway_controller::replay::{Report, Tally};

use crate::failure::{Failure, Outcome};
use crate::output::{self, put};

/// `leeway replay`.
#[derive(Debug, Args)]
#[command(after_help = "\
Ends with 0 if everything that could be computed again is equal bit for bit, and with 3 if not. The directory's controller must be stopped;
a copy of a stopped one will do, and nothing in it is changed but what the controller's own next start would repair.

Examples:
  leeway replay --data /var/lib/leeway
  leeway replay --data copy --json | jq .differences")]
pub struct Replay {
    /// The data directory of a controller that is stopped, or a copy of one.
    #[arg(long)]
    pub data: PathBuf,
}

/// Run it.
pub fn run(args: &Replay, json: bool) -> Outcome {
    let report = Stopped::open(&args.data)?.replay()?;
    if json {
        output::json(&report)?;
    } else {
        put!("{}", render(&report));
    }
    if report.is_equal() {
        return Ok(());
    }
    let first = report.differences.first();
    let help = match first {
        Some(one) if one.what.contains("may count otherwise") => {
            "it was decided by another engine: replay it with that version of the program"
        }
        _ => "compare the data with a backup; `leeway audit verify` says whether the event log itself was changed",
    };
    Err(Failure::new(format!("{} of what was recorded does not come out again", report.different)).code(3).help(help))
}

fn render(report: &Report) -> String {
    let row = |what: &str, tally: &Tally| format!("{what:<10} {:>8} {:>10} {:>8}\n", tally.recorded, tally.recomputed, tally.equal);
    let mut text = format!("{:<10} {:>8} {:>10} {:>8}\n", "", "RECORDED", "RECOMPUTED", "EQUAL");
    text += &row("alarms", &report.alarms);
    text += &row("decisions", &report.decisions);
    text += &row("streams", &report.streams);
    text += &format!("from {} windows and {} notes ({} bytes), by {}\n", report.windows, report.notes, report.note_bytes, report.engine);
    for sentence in &report.cannot {
        text += &format!("not replayed: {sentence}\n");
    }
    for d in &report.differences {
        let seq = d.seq.map(|seq| format!(" (event {seq})")).unwrap_or_default();
        text += &format!("different: {}{seq} at {}\n  recorded   {}\n  recomputed {}\n", d.what, d.path, d.recorded, d.recomputed);
    }
    text
}
