//! `leeway cohort`: parts of the fleet, by label.
use clap::Subcommand;
use leeway_controller::fleet::Selector;
use leeway_controller::fleet::preview::Preview;
use leeway_controller::io::web::resource::fleet::CohortRow;
use leeway_protocol::ids::{Cohort, Line, Version};
use serde_json::json;

use crate::client::query;
use crate::context::Context;
use crate::failure::Outcome;
use crate::output::{self, put, putln, table};

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
    /// Who a selector would take, without changing anything.
    Preview {
        /// Who, such as `region=coast`; every device if absent.
        #[arg(short = 'l', long, default_value = "")]
        selector: Selector,
        /// The cohort it is meant for, new or known.
        #[arg(long)]
        cohort: Option<Cohort>,
        /// Lower ranks are asked first where several match.
        #[arg(long, default_value_t = 0)]
        rank: u32,
    },
}

/// Run it.
pub fn run(command: &Command, context: &Context) -> Outcome {
    let rows: Vec<CohortRow> = match command {
        Command::Preview { selector, cohort, rank } => return preview(selector, cohort.as_ref(), *rank, context),
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

fn preview(selector: &Selector, cohort: Option<&Cohort>, rank: u32, context: &Context) -> Outcome {
    let mut asked = vec![("selector", selector.to_string()), ("rank", rank.to_string())];
    asked.extend(cohort.map(|cohort| ("cohort", cohort.to_string())));
    let found: Preview = context.client.read(&format!("/api/v1/cohort-preview?{}", query(&asked)))?;
    if context.json {
        return output::json(&found);
    }
    putln!("{}", context.style.plain(&found.sentence));
    let rows: Vec<Vec<String>> = found
        .overlaps
        .iter()
        .map(|o| {
            let from = o.cohort.clone().unwrap_or_else(|| "no cohort".to_owned());
            vec![from, o.devices.to_string(), if o.moves { "would move" } else { "stay" }.to_owned()]
        })
        .collect();
    put!("{}", table(&context.style, &["NOW IN", "MATCHING", ""], &rows));
    if !found.examples.is_empty() {
        putln!("such as {}", found.examples.join(", "));
    }
    Ok(())
}
