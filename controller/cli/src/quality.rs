//! `leeway quality`: accuracy measured and estimated, and whom to ask for labels.
use clap::Subcommand;
use leeway_controller::io::web::resource::drift::{Accuracy, Quality, QualityNow};
use leeway_controller::io::web::resource::labels::LabelsWanted;
use leeway_controller::io::web::words;
use leeway_protocol::ids::{Cohort, Line};

use crate::context::Context;
use crate::failure::Outcome;
use crate::output::{self, Style, put, table, wrap};

/// Devices listed under each share; `--json` has all.
const SHOWN: usize = 12;

/// What stands under `leeway quality labels --help`.
const LABELS_HELP: &str = "\
The plan is for one day (UTC) and the same all day. `quality.labels` in the configuration says how many labels a line asks for
(per_day), which share goes to all decisions alike (floor) and how many are asked of a device at once (per_visit).

Each device is asked for labels of a random sample of its decisions of the day; the application posts them to its own agent:
  curl -d '{\"id\": \"order-17\", \"label\": 1}' http://127.0.0.1:8000/leeway/v1/feedback

Examples:
  leeway quality labels rain
  leeway quality labels rain --json | jq '.shares[].devices[] | {device, labels, inclusion}'";

/// Quality.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Accuracy of a line's champion, cohort by cohort: measured, estimated, corrected, and whether the labels drifted.
    Show {
        /// The model line.
        line: Line,
        /// Only this cohort.
        #[arg(long)]
        cohort: Option<Cohort>,
    },
    /// Which devices to ask for how many labels today, and why.
    #[command(after_help = LABELS_HELP)]
    Labels {
        /// The model line.
        line: Line,
    },
}

/// Run it.
pub fn run(command: &Command, context: &Context) -> Outcome {
    match command {
        Command::Show { line, cohort } => {
            let query = cohort.as_ref().map(|c| format!("?cohort={c}")).unwrap_or_default();
            let quality: Quality = context.client.read(&format!("/api/v1/models/{line}/quality{query}"))?;
            if context.json {
                return output::json(&quality);
            }
            put!("{}", show(&context.style, &quality));
        }
        Command::Labels { line } => {
            let wanted: LabelsWanted = context.client.read(&format!("/api/v1/models/{line}/labels/wanted"))?;
            if context.json {
                return output::json(&wanted);
            }
            put!("{}", labels(&context.style, &wanted));
        }
    }
    Ok(())
}

fn show(style: &Style, quality: &Quality) -> String {
    let mut text = format!("{}\n\n", style.bold(&wrap(&style.plain(&quality.sentence), style.columns, 0)));
    let share = |x: Option<f64>| words::or_unknown(x, words::percent);
    let span = |s: Option<Accuracy>| {
        words::or_unknown(s, |s| format!("{} ({} – {})", words::percent(s.estimate), words::percent(s.lower), words::percent(s.upper)))
    };
    let row = |now: &QualityNow| {
        vec![
            now.cohort.clone(),
            now.version.clone(),
            span(now.measured),
            words::count(now.labels),
            share(now.estimated),
            span(now.corrected),
            share(now.expected),
            format!("{} of {}", words::number(now.log_evidence), words::number(now.threshold)),
        ]
    };
    let rows: Vec<Vec<String>> = quality.now.iter().map(row).collect();
    let heads = ["COHORT", "VERSION", "MEASURED", "LABELS", "ESTIMATED*", "CORRECTED BY LABELS", "AT TRAINING", "DRIFT EVIDENCE"];
    text += &table(style, &heads, &rows);
    if !quality.assumption.is_empty() {
        text += &format!("\n{}\n", style.dim(&wrap(&style.plain(&format!("* {}", quality.assumption)), style.columns, 2)));
    }
    for now in quality.now.iter().filter(|now| now.labels > 0 && !now.also.is_empty()) {
        let said: Vec<String> = now
            .also
            .iter()
            .map(|o| format!("{} {}", o.method, o.last.map_or_else(|| "none".to_owned(), |at| format!("a rise on {}", words::date(at)))))
            .collect();
        let line = format!("{}: also {} (no budget of false alarms; nothing follows from them)", now.cohort, said.join(", "));
        text += &format!("{}\n", style.dim(&style.plain(&line)));
    }
    text
}

fn labels(style: &Style, wanted: &LabelsWanted) -> String {
    let mut text = format!("{}\n", style.bold(&wrap(&style.plain(&format!("{}: {}", wanted.day, wanted.sentence)), style.columns, 0)));
    for share in &wanted.shares {
        let head = format!(
            "{} {}: {} labels a day of {} decisions, each asked with probability {}",
            share.cohort,
            share.version,
            words::number(share.labels_per_day),
            words::count(share.decisions_per_day.round() as u64),
            words::number(share.inclusion)
        );
        text += &format!("\n{}\n  {}\n", style.plain(&head), wrap(&style.plain(&share.reason), style.columns, 2));
        let row = |ask: &leeway_controller::io::web::resource::labels::LabelAsk| {
            vec![
                ask.device.clone(),
                ask.labels.to_string(),
                words::count(ask.decisions_per_day.round() as u64),
                words::number(ask.inclusion),
            ]
        };
        let rows: Vec<Vec<String>> = share.devices.iter().take(SHOWN).map(row).collect();
        if !rows.is_empty() {
            text += &table(style, &["DEVICE", "LABELS", "DECISIONS A DAY", "PROBABILITY"], &rows);
        }
        if share.devices.len() > SHOWN {
            text += &format!("and {} more; --json has all\n", share.devices.len() - SHOWN);
        }
    }
    text
}
