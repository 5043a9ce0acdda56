//! Training done by another system: one contract (submit under a key, poll, take what it made), told to any HTTP API by configuration.
//!
//! Airflow, Kubeflow Pipelines, SageMaker Pipelines and GitHub Actions are the same thing to us: a request that starts a run with
//! parameters, and another that says where it is. They differ in paths, words and in how they treat a request they have seen before, so
//! those are [`config`]; `deploy/trainers/` holds one file for each, and the tests run exactly these files. What a run needs it fetches
//! from the controller, and what it made it delivers there (`leeway trainer fetch` and `deliver`); the worker takes it from there, tries it
//! out and alone can sign it. So the other system needs no key of ours but a publisher's token, and we no key of its storage.
//!
//! **At most one run for a job.** The key is made of the job and its data, so it is the same after a restart and on another worker. Before
//! each submission the intent is written down ([`run::Record`]), and a submission whose answer was lost is never simply repeated: it is
//! repeated only where the service itself takes a second one for the first (`idempotent`), or where a list that was asked long enough
//! (`settle_secs`) does not hold the key; otherwise a person is told.
//!
//! Pure: [`run::Run`] says what to ask next and is told what was heard; time is handed in.
use std::collections::BTreeMap;

use leeway_protocol::digest::Digest;

use super::TrainSpec;

pub mod aws;
pub mod config;
pub mod run;
pub mod template;

pub use config::{Config, ConfigError};
pub use run::{Answer, Next, Record, Request, Run, Standing};

/// The longest parameter that is handed over: what SageMaker takes.
const MAX_PARAM: usize = 1_000;

/// What a run is told, by name: strings, because every one of the services takes those.
pub type Params = BTreeMap<String, String>;

/// The key of a job's run: the same after a restart, another for other data.
pub fn key(job: &str, train: Digest, holdout: Digest) -> String {
    let digest = Digest::of(format!("{job}\n{train}\n{holdout}").as_bytes());
    let hex: String = digest.hex().chars().take(40).collect();
    format!("leeway-{hex}")
}

/// The names of what a run is told.
const PARAMS: [&str; 8] =
    ["leeway_job", "leeway_key", "leeway_url", "leeway_line", "leeway_train", "leeway_holdout", "leeway_parent", "leeway_reason"];

/// What a run is told.
pub fn params(spec: &TrainSpec, key: &str, url: &str) -> Params {
    let digest = |role: &str| spec.datasets.iter().find(|d| d.role == role).map(|d| d.digest.to_string()).unwrap_or_default();
    let values = [
        spec.job.clone(),
        key.to_owned(),
        url.to_owned(),
        spec.line.to_string(),
        digest("train"),
        digest("holdout"),
        spec.parent.map(|d| d.to_string()).unwrap_or_default(),
        spec.reason.clone(),
    ];
    PARAMS.into_iter().zip(values).map(|(name, value)| (name.to_owned(), value.chars().take(MAX_PARAM).collect())).collect()
}

#[cfg(test)]
mod tests;
