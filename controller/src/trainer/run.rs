//! The record of one training run: which code, with which parameters, in which environment, on which data, from when to when.
//!
//! The worker writes it, because the worker is where the run was; its digest goes into the signed provenance of the model, so the
//! record cannot be changed afterwards without anybody noticing. What a training program tells of itself (`run.json`) stands beside
//! what the worker measured (the digest of the script) and never in its place. What stays true: a record is about one job and one
//! model file, and bounded.
use std::collections::BTreeMap;

use leeway_protocol::digest::Digest;
use leeway_protocol::ids::Line;
use leeway_protocol::time::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The largest record that is read.
pub const MAX_RUN_BYTES: u64 = 256 << 10;
/// Parameters, packages or metrics of one run.
const MAX_ENTRIES: usize = 256;
/// The longest name or value of one.
const MAX_TEXT: usize = 500;

/// What happened.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct RunRecord {
    /// Form: 1.
    pub v: u32,
    /// The training job.
    pub job: String,
    /// The model line.
    #[schema(value_type = String)]
    pub line: Line,
    /// The worker that ran it.
    pub worker: String,
    /// Name of the training code.
    pub code: String,
    /// Its revision.
    pub code_revision: String,
    /// What the code was told, by name.
    #[serde(default)]
    pub parameters: BTreeMap<String, String>,
    /// Where it ran: programs and packages with their versions.
    #[serde(default)]
    pub environment: BTreeMap<String, String>,
    /// What chance was drawn from, if any was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seed: Option<String>,
    /// The dataset's name, if it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub dataset: Option<Digest>,
    /// Digest of the training rows.
    #[schema(value_type = String)]
    pub train: Digest,
    /// Digest of the held-out rows.
    #[schema(value_type = String)]
    pub holdout: Digest,
    /// Manifest of the model it started from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub parent: Option<Digest>,
    /// The ONNX file that came out.
    #[schema(value_type = String)]
    pub model: Digest,
    /// What the trainer measured.
    #[serde(default)]
    pub metrics: BTreeMap<String, f64>,
    /// When it began, by the worker's clock.
    #[schema(value_type = String, format = DateTime)]
    pub started_at: Timestamp,
    /// When it was done.
    #[schema(value_type = String, format = DateTime)]
    pub ended_at: Timestamp,
}

/// What a training program tells of itself, in `run.json`. All of it may be left out.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Told {
    /// Revision of the code, such as a commit; the digest of the script if absent.
    pub code_revision: Option<String>,
    /// Parameters by name.
    pub parameters: BTreeMap<String, Value>,
    /// Programs and packages with their versions.
    pub environment: BTreeMap<String, Value>,
    /// The seed.
    pub seed: Option<Value>,
}

/// A record that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// Not this document.
    #[error("the record of the run cannot be read")]
    Json(#[from] serde_json::Error),
    /// Another form, or past the bounds.
    #[error(
        "the record of the run has another form than 1, or more than {MAX_ENTRIES} entries of {MAX_TEXT} characters in one of its lists"
    )]
    Form,
    /// About something else.
    #[error("the record of the run is about another job, model or dataset than the candidate")]
    Other,
}

impl RunRecord {
    /// The bytes whose digest is signed.
    pub fn to_bytes(&self) -> Vec<u8> {
        serde_json::to_vec_pretty(self).unwrap_or_default()
    }

    /// Read one.
    pub fn parse(bytes: &[u8]) -> Result<Self, RunError> {
        if bytes.len() as u64 > MAX_RUN_BYTES {
            return Err(RunError::Form);
        }
        let run: Self = serde_json::from_slice(bytes)?;
        let lists = [&run.parameters, &run.environment];
        let names = [&run.job, &run.worker, &run.code, &run.code_revision];
        let fits = |text: &str| text.chars().count() <= MAX_TEXT;
        let bounded = lists.iter().all(|l| l.len() <= MAX_ENTRIES && l.iter().all(|(k, v)| fits(k) && fits(v)));
        if run.v != 1 || !bounded || run.metrics.len() > MAX_ENTRIES || !names.into_iter().chain(&run.seed).all(|text| fits(text)) {
            return Err(RunError::Form);
        }
        Ok(run)
    }

    /// Refuse one that is not about this job and model.
    pub fn is_about(&self, job: &str, model: Digest, train: Digest) -> Result<(), RunError> {
        if self.job == job && self.model == model && self.train == train { Ok(()) } else { Err(RunError::Other) }
    }

    /// In a sentence.
    pub fn sentence(&self) -> String {
        let secs = self.ended_at.millis_since(self.started_at).max(0) as f64 / 1000.0;
        let seed = self.seed.as_ref().map_or_else(|| "no seed".to_owned(), |seed| format!("seed {seed}"));
        format!(
            "Run {} by worker {}: {} at {}, {} parameters, {seed}, {} programs and packages, from {} for {secs:.1} s.",
            self.job,
            self.worker,
            self.code,
            self.code_revision,
            self.parameters.len(),
            self.environment.len(),
            self.started_at
        )
    }
}

/// What a program told, as texts and within the bounds; what is past them is left out.
pub fn texts(told: &BTreeMap<String, Value>) -> BTreeMap<String, String> {
    told.iter().take(MAX_ENTRIES).map(|(name, value)| (cut(name), text(value))).collect()
}

/// One value as a text.
pub fn text(value: &Value) -> String {
    match value {
        Value::String(text) => cut(text),
        other => cut(&other.to_string()),
    }
}

fn cut(text: &str) -> String {
    text.chars().take(MAX_TEXT).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run() -> RunRecord {
        RunRecord {
            v: 1,
            job: "rain-7".into(),
            line: "rain".parse().unwrap(),
            worker: "worker-1".into(),
            code: "python train.py".into(),
            code_revision: "4f2a".into(),
            parameters: BTreeMap::from([("max_depth".to_owned(), "3".to_owned())]),
            environment: BTreeMap::from([("scikit-learn".to_owned(), "1.7.2".to_owned())]),
            seed: Some("0".into()),
            dataset: Some(Digest::of(b"dataset")),
            train: Digest::of(b"train"),
            holdout: Digest::of(b"holdout"),
            parent: None,
            model: Digest::of(b"model"),
            metrics: BTreeMap::from([("auc".to_owned(), 0.9)]),
            started_at: Timestamp::from_secs(100),
            ended_at: Timestamp::from_secs(112),
        }
    }

    #[test]
    fn a_record_reads_back_and_is_about_one_model() {
        let run = run();
        assert_eq!(RunRecord::parse(&run.to_bytes()).unwrap(), run);
        assert!(run.is_about("rain-7", Digest::of(b"model"), Digest::of(b"train")).is_ok());
        for (job, model, train) in [("rain-8", "model", "train"), ("rain-7", "other", "train"), ("rain-7", "model", "other")] {
            let about = run.is_about(job, Digest::of(model.as_bytes()), Digest::of(train.as_bytes()));
            assert!(matches!(about, Err(RunError::Other)), "{job} {model} {train}");
        }
        let said = run.sentence();
        assert!(said.contains("python train.py at 4f2a") && said.contains("seed 0") && said.contains("for 12.0 s"), "{said}");
    }

    #[test]
    fn a_record_past_its_bounds_is_refused() {
        let many: BTreeMap<String, String> = (0..=MAX_ENTRIES).map(|i| (i.to_string(), String::new())).collect();
        let long = BTreeMap::from([("x".to_owned(), "y".repeat(MAX_TEXT + 1))]);
        for bad in [
            RunRecord { v: 2, ..run() },
            RunRecord { parameters: many, ..run() },
            RunRecord { environment: long, ..run() },
            RunRecord { code_revision: "y".repeat(MAX_TEXT + 1), ..run() },
        ] {
            assert!(matches!(RunRecord::parse(&bad.to_bytes()), Err(RunError::Form)));
        }
    }

    #[test]
    fn what_a_program_tells_becomes_texts_within_the_bounds() {
        let told: Told = serde_json::from_str(r#"{"parameters": {"depth": 3, "loss": "log", "deep": {"a": [1]}}, "seed": 7}"#).unwrap();
        let made = texts(&told.parameters);
        assert_eq!((made["depth"].as_str(), made["loss"].as_str(), made["deep"].as_str()), ("3", "log", r#"{"a":[1]}"#));
        assert_eq!(told.seed.as_ref().map(text).as_deref(), Some("7"));
        let huge = BTreeMap::from([("x".repeat(2 * MAX_TEXT), Value::from("y".repeat(2 * MAX_TEXT)))]);
        assert!(texts(&huge).iter().all(|(k, v)| k.len() == MAX_TEXT && v.len() == MAX_TEXT));
        assert!(serde_json::from_str::<Told>(r#"{"params": {}}"#).is_err(), "a misspelt key is said, not lost");
    }
}
