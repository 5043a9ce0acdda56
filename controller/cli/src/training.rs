//! `leeway trainer`: training jobs, the worker that does them, and the episodes they belong to.
use clap::Subcommand;
use leeway_controller::io::web::resource::ActionRequest;
use leeway_controller::io::web::resource::episode::RetrainCall;
use leeway_controller::io::web::resource::training::TrainingJob;
use leeway_controller::io::web::words;
use leeway_protocol::ids::Line;

use crate::context::Context;
use crate::failure::Outcome;
use crate::output::{self, put, table};
use crate::{delivery, episode, worker};

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
    /// Every episode of retraining, newest first, and every cause that began none.
    Episodes,
    /// One episode: cause, data, run, candidate, evaluation, shadow, canary, outcome.
    Episode {
        /// Its name: that of its training job.
        id: String,
    },
    /// Call for a better model as another system does: bound by the line's limits. Exit code 6 if they forbid it.
    ///
    /// Example: leeway trainer call rain --source nightly-report --key 2026-11-24 --reason "accuracy fell below 70 %"
    Call {
        /// The model line.
        line: Line,
        /// What the calling system is called.
        #[arg(long)]
        source: String,
        /// Why, in a sentence.
        #[arg(long)]
        reason: String,
        /// A key of your own: the same key again asks for nothing new.
        #[arg(long)]
        key: Option<String>,
    },
    /// Fetch what a job is to be made of into a folder: spec.json, train.csv, holdout.csv. For a run of another system.
    Fetch(delivery::Folder),
    /// Deliver what a run made, from the same folder: model.onnx, golden.json and, if there is one, metrics.json. The worker takes it.
    Deliver(delivery::Folder),
}

/// Run it.
pub fn run(command: &Command, context: &Context) -> Outcome {
    let jobs: Vec<TrainingJob> = match command {
        Command::Work(work) => return worker::run(work, &context.client),
        Command::Episodes => return episode::list(context),
        Command::Episode { id } => return episode::show(context, id),
        Command::Call { line, source, reason, key } => {
            let call = RetrainCall { source: source.clone(), reason: reason.clone(), key: key.clone(), evidence: Vec::new() };
            return episode::call(context, line, &call);
        }
        Command::Fetch(folder) => return delivery::fetch(folder, &context.client),
        Command::Deliver(folder) => return delivery::deliver(folder, &context.client),
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
