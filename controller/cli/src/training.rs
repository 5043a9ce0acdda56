//! `leeway trainer`: training jobs, and the worker that does them.
use clap::Subcommand;
use leeway_controller::io::web::resource::ActionRequest;
use leeway_controller::io::web::resource::training::TrainingJob;
use leeway_controller::io::web::words;
use leeway_protocol::ids::Line;

use crate::context::Context;
use crate::failure::Outcome;
use crate::output::{self, put, table};
use crate::worker;

/// Training.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Pull jobs, train, and sign what won. Holds the trainer's key.
    Work(worker::Work),
    /// Every job, newest first.
    List,
    /// Ask for a better model by hand.
    Request {
        /// The model line.
        line: Line,
        /// Why, for the audit trail.
        #[arg(long)]
        reason: String,
    },
}

/// Run it.
pub fn run(command: &Command, context: &Context) -> Outcome {
    let jobs: Vec<TrainingJob> = match command {
        Command::Work(work) => return worker::run(work, &context.client),
        Command::List => context.client.read("/api/v1/training/jobs")?,
        Command::Request { line, reason } => {
            vec![context.client.send(&format!("/api/v1/models/{line}/retrain"), &ActionRequest { reason: reason.clone(), check: None })?]
        }
    };
    if context.json {
        return output::json(&jobs);
    }
    if jobs.is_empty() {
        eprintln!("no training job yet");
        eprintln!("help: the controller asks for one when drift hurts; `leeway trainer request LINE --reason …` asks by hand");
        return Ok(());
    }
    let now = output::now();
    let rows: Vec<Vec<String>> = jobs
        .iter()
        .map(|j| vec![j.id.clone(), context.style.state(j.level, &j.state), words::ago(now, j.updated_at), j.sentence.clone()])
        .collect();
    put!("{}", table(&context.style, &["JOB", "STATE", "CHANGED", "WHAT"], &rows));
    Ok(())
}
