//! Why each other thing did not happen, in sentences; what pages and the command line show beside a plan.
use std::collections::BTreeMap;
use std::sync::Arc;

use leeway_protocol::ids::{Cohort, Line, RolloutId};
use leeway_protocol::time::Timestamp;
use serde::{Deserialize, Serialize};

use crate::replay::Basis;
use crate::rollout::evidence::Arms;
use crate::rollout::gate::{Counts, GateReport};

/// The most sentences kept per subject: a page shows ten, and a report is written with every plan.
pub const MAX_SENTENCES: usize = 20;

/// Something that holds or does not, as in the API: `{type, status, reason, message}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Condition {
    /// What, in CamelCase: `Progressing`, `GatePassing`, `TelemetryArriving`, `DevicesReachable`, `ControlHeld`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Whether it holds; `None` if that is not known.
    pub status: Option<bool>,
    /// In one CamelCase word.
    pub reason: String,
    /// In a sentence.
    pub message: String,
}

/// Why nothing else happened, for everything that could have.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct PlanReport {
    /// The moment it was planned for.
    pub at: Timestamp,
    /// Every rollout that is not over.
    pub rollouts: BTreeMap<RolloutId, RolloutReport>,
    /// Every cohort.
    pub cohorts: BTreeMap<Cohort, CohortReport>,
    /// Every line.
    pub lines: BTreeMap<Line, LineReport>,
    /// What concerns none of these.
    pub notes: Vec<String>,
    /// What steps of the plan were made from, by their place in it; kept with their events.
    #[serde(skip)]
    pub bases: BTreeMap<usize, Arc<Basis>>,
}

/// One rollout.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct RolloutReport {
    /// Its state in a sentence: what every surface shows first.
    pub headline: String,
    /// Its devices.
    pub counts: Counts,
    /// Device failures of both sides, as the gate compares them.
    #[serde(default)]
    #[schema(value_type = Object)]
    pub failures: Arms,
    /// What the gate says.
    pub gate: Option<GateReport>,
    /// Why it does not go on, the most important first.
    pub why: Vec<String>,
    /// The end of the soak, if it soaks.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub soaked_at: Option<Timestamp>,
    /// The moment at which no verdict pauses it.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub deadline_at: Option<Timestamp>,
    /// What holds and what does not.
    pub conditions: Vec<Condition>,
    /// What ending it now would mean, in three sentences.
    pub if_aborted: Vec<String>,
}

/// One cohort.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct CohortReport {
    /// Its devices.
    pub devices: usize,
    /// Of these, on what they should be.
    pub converged: usize,
    /// Why the others are not, and what else did not happen.
    pub why: Vec<String>,
}

/// One line.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct LineReport {
    /// Why no better model was asked for, or no rollout begun.
    pub why: Vec<String>,
}

/// Add a sentence unless it is there or there are enough.
pub fn say(sentences: &mut Vec<String>, sentence: impl Into<String>) {
    let sentence = sentence.into();
    if sentences.len() < MAX_SENTENCES && !sentences.contains(&sentence) {
        sentences.push(sentence);
    }
}
