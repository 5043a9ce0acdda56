//! `leeway cohort`: parts of the fleet, by label.
use clap::Subcommand;
use leeway_controller::fleet::Selector;
use leeway_controller::io::web::resource::fleet::CohortRow;
use leeway_protocol::ids::{Cohort, Line, Version};
use serde_json::json;

use crate::context::Context;
use crate::failure::Outcome;
use crate::output::{self, put, table};

/// Cohorts.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Cohorts and what runs there.
    List,
    /// Create or change a cohort.
    Set {
        /// The cohort.
        cohort: Cohort,
        /// The model line that serves it.
        #[arg(long)]
        line: Line,
        /// Who belongs to it, such as `region=coast`; every device if absent.
        #[arg(short = 'l', long, default_value = "")]
        selector: Selector,
        /// Lower ranks are asked first where several match.
        #[arg(long, default_value_t = 0)]
        rank: u32,
        /// What its devices go back to.
        #[arg(long)]
        last_known_good: Option<Version>,
    },
}

/// Run it.
pub fn run(command: &Command, context: &Context) -> Outcome {
    let rows: Vec<CohortRow> = match command {
        Command::List => context.client.read("/api/v1/cohorts")?,
        Command::Set { cohort, line, selector, rank, last_known_good } => {
            let body = json!({ "line": line, "selector": selector.to_string(), "rank": rank, "last_known_good": last_known_good });
            context.client.put(&format!("/api/v1/cohorts/{cohort}"), &body)?
        }
    };
    if context.json {
        return output::json(&rows);
    }
    if rows.is_empty() {
        eprintln!("no cohort yet");
        eprintln!("help: `leeway cohort set NAME --line LINE -l region=coast` makes one");
        return Ok(());
    }
    let cells = rows.iter().map(|r| {
        let runs: Vec<String> = r
            .versions
            .iter()
            .map(|v| {
                if v.version.is_empty() { format!("no model ({})", v.devices) } else { format!("{} {} ({})", v.line, v.version, v.devices) }
            })
            .collect();
        vec![r.cohort.clone(), r.selector.clone(), context.style.tint(r.level, &format!("{}/{}", r.online, r.devices)), runs.join(", ")]
    });
    put!("{}", table(&context.style, &["COHORT", "SELECTOR", "ONLINE", "RUNS"], &cells.collect::<Vec<_>>()));
    Ok(())
}
