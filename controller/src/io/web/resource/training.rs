//! Training jobs: what the trigger asked for, what the worker made of it, and what the gate said.
use leeway_protocol::time::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::Level;

/// One job.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct TrainingJob {
    /// Its name.
    pub id: String,
    /// Model line.
    pub line: String,
    /// State in one word: `queued`, `claimed`, `evaluating`, `approved`, `published`, `rejected`, `failed`.
    pub state: String,
    /// How to read it.
    pub level: Level,
    /// Its state in a sentence.
    pub sentence: String,
    /// Why it was asked for, in a sentence.
    pub reason: String,
    /// When it was asked for.
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Timestamp,
    /// When it last changed.
    #[schema(value_type = String, format = DateTime)]
    pub updated_at: Timestamp,
    /// Digest of the training rows.
    pub dataset: Option<String>,
    /// Version that came out of it.
    pub version: Option<String>,
    /// What the worker needs to train; only in the answer to a claim.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub spec: Option<serde_json::Value>,
}

/// The answer to a worker that is still at it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct JobKept {
    /// What a run of another system has delivered for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub delivery: Option<crate::io::training::Delivery>,
}
