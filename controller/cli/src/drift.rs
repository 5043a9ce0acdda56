//! `leeway drift`: which features moved, how sure that is, and whether it matters.
use clap::Subcommand;
use leeway_controller::io::web::resource::Level;
use leeway_controller::io::web::resource::drift::{Drift, FeatureDrift, Quality};
use leeway_controller::io::web::words;
use leeway_protocol::ids::{Cohort, Line};

use crate::context::Context;
use crate::failure::Outcome;
use crate::output::{self, Style, put, table, wrap};

/// Drift.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Features of a model line, moved ones first, with the accuracy estimated and measured.
    Show {
        /// The model line.
        line: Line,
        /// Only this cohort.
        #[arg(long)]
        cohort: Option<Cohort>,
    },
}

/// Run it.
pub fn run(command: &Command, context: &Context) -> Outcome {
    let Command::Show { line, cohort } = command;
    let query = cohort.as_ref().map(|c| format!("?cohort={c}")).unwrap_or_default();
    let drift: Drift = context.client.read(&format!("/api/v1/models/{line}/drift{query}"))?;
    if context.json {
        return output::json(&drift);
    }
    let quality: Quality = context.client.read(&format!("/api/v1/models/{line}/quality{query}"))?;
    put!("{}", render(&context.style, &drift, &quality));
    Ok(())
}

fn state(f: &FeatureDrift) -> &'static str {
    match (f.moved, f.release, f.harmless) {
        (false, ..) => "as trained",
        (true, true, _) => "moved with the release",
        (true, false, true) => "moved, harmless",
        (true, false, false) => "moved",
    }
}

/// As text.
pub fn render(style: &Style, drift: &Drift, quality: &Quality) -> String {
    let mut text = format!(
        "{} {}\n",
        style.tint(drift.level, style.sign(drift.level)),
        style.bold(&wrap(&style.plain(&drift.sentence), style.columns, 2))
    );
    text += &format!("  {}\n", style.dim(&style.plain(&format!("reference: {} · current: {}", drift.reference, drift.current))));
    if !quality.sentence.is_empty() {
        text += &format!("  {}\n", wrap(&style.plain(&quality.sentence), style.columns, 2));
    }
    text.push('\n');
    let rows: Vec<Vec<String>> = drift
        .features
        .iter()
        .map(|f| {
            vec![
                words::plain(&f.name),
                f.cohort.clone().unwrap_or_else(|| "all".to_owned()),
                style.state(f.level, state(f)),
                format!("{} of {}", words::number(f.log_evidence), words::number(f.threshold)),
                words::number(f.psi),
                words::percent(f.sup_cdf),
                words::count(f.n),
                f.cost.filter(|_| f.moved).map_or_else(String::new, |c| format!("{:.1} pt", c.accuracy * 100.0 + 0.0)),
                if f.moved { f.direction.clone() } else { String::new() },
            ]
        })
        .collect();
    text += &table(style, &["FEATURE", "COHORT", "STATE", "EVIDENCE", "PSI", "CDF GAP", "N", "COSTS", "READS"], &rows);
    for d in &drift.devices {
        text += &format!("\n{} {}\n", style.state(Level::Warn, &d.device), wrap(&style.plain(&d.sentence), style.columns, 2));
    }
    text
}
