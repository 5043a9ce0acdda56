//! Episodes: from a cause to its outcome, each step with its time and its sentence, and what was not done.
use leeway_protocol::time::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::Level;

/// An episode in a list.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct EpisodeSummary {
    /// Its name: that of its training job.
    pub id: String,
    /// Model line.
    pub line: String,
    /// What caused it: `drift`, `scheduled`, `called` or `asked`.
    pub cause: String,
    /// The step it is at, or ended at.
    pub step: String,
    /// How to read it.
    pub level: Level,
    /// Where it is, in a sentence.
    pub sentence: String,
    /// Why it began, in a sentence.
    pub reason: String,
    /// When it began.
    #[schema(value_type = String, format = DateTime)]
    pub began_at: Timestamp,
    /// When it last changed.
    #[schema(value_type = String, format = DateTime)]
    pub updated_at: Timestamp,
}

/// A cause to which nothing was done, and why.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct WithheldCause {
    /// Model line.
    pub line: String,
    /// When.
    #[schema(value_type = String, format = DateTime)]
    pub at: Timestamp,
    /// What it was: `drift`, `scheduled`, `called` or `asked`.
    pub cause: String,
    /// What forbade it, such as `cool-down` or `cost`.
    pub limits: Vec<String>,
    /// Both in a sentence.
    pub sentence: String,
}

/// Episodes, and causes that began none, newest first.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct EpisodeList {
    /// Episodes.
    pub episodes: Vec<EpisodeSummary>,
    /// Causes that began none.
    pub withheld: Vec<WithheldCause>,
}

/// Where something is shown.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Link {
    /// What.
    pub title: String,
    /// Its path on this controller.
    pub href: String,
}

/// One step of an episode.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct EpisodeStep {
    /// `cause`, `data`, `run`, `candidate`, `evaluation`, `shadow`, `canary` or `outcome`.
    pub name: String,
    /// `done`, `now`, `ahead`, or `not-done` where the episode ended before it.
    pub state: String,
    /// How to read it.
    pub level: Level,
    /// When it was done, or began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub at: Option<Timestamp>,
    /// What happened, or why it did not.
    pub sentence: String,
    /// More of it, in sentences.
    pub details: Vec<String>,
    /// Where it is shown.
    pub links: Vec<Link>,
}

/// An episode, whole.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Episode {
    /// What the list says.
    #[serde(flatten)]
    pub summary: EpisodeSummary,
    /// Its steps, in order.
    pub steps: Vec<EpisodeStep>,
    /// Causes of the same line to which nothing was done, since the episode before this one.
    pub withheld: Vec<WithheldCause>,
}

/// What another system says when it calls for a better model.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RetrainCall {
    /// What it calls itself.
    pub source: String,
    /// Why, in a sentence.
    pub reason: String,
    /// Its own key for this call: the same key again asks for nothing new.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// What it measured, in sentences.
    #[serde(default)]
    pub evidence: Vec<String>,
}

/// What came of a call.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct RetrainAnswer {
    /// `asked`, `known` where the same key has asked before, or `withheld`.
    pub outcome: String,
    /// The same in a sentence.
    pub sentence: String,
    /// The episode, if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub episode: Option<String>,
    /// What forbade it.
    #[serde(default)]
    pub limits: Vec<String>,
}
