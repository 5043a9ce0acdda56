//! Aliases with their history, tags, and candidates that nobody signed.
use std::collections::BTreeMap;

use leeway_protocol::time::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// The aliases of a line.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Aliases {
    /// The line.
    pub line: String,
    /// Which version each alias names now, by alias.
    pub aliases: Vec<AliasRow>,
    /// How they moved, oldest first.
    pub history: Vec<AliasMove>,
    /// Older moves than those; the event log has them (kind `alias`).
    pub older: u64,
}

/// One alias.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct AliasRow {
    /// Its name.
    pub alias: String,
    /// The version it points to.
    pub version: String,
    /// Whether it decides what devices run; rollouts move those.
    pub decides: bool,
}

/// One move of an alias.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct AliasMove {
    /// When.
    #[schema(value_type = String, format = DateTime)]
    pub at: Timestamp,
    /// Which alias.
    pub alias: String,
    /// Where it pointed before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// Where it points since; absent if it was taken away.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<String>,
    /// Who: a person, a program, or the controller.
    pub by: String,
    /// The rollout that moved it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rollout: Option<String>,
    /// Why, in a sentence.
    pub reason: String,
}

/// Tags of a line or of a version.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Tagged {
    /// The line.
    pub line: String,
    /// The version; absent for the line's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// The tags.
    pub tags: BTreeMap<String, String>,
}

/// A version that another tool registered, and that nobody signed. No device can be told to run it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct CandidateSummary {
    /// Its name.
    pub version: String,
    /// Where whoever registered it said the model lies.
    pub source: String,
    /// Who registered it.
    pub by: String,
    /// When.
    #[schema(value_type = String, format = DateTime)]
    pub registered_at: Timestamp,
    /// Its tags.
    pub tags: BTreeMap<String, String>,
    /// What it lacks, and the command that gives it.
    pub sentence: String,
}
