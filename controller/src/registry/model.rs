//! A model line: one purpose, one input and output shape, a sequence of versions, and how the controller treats them.
use leeway_protocol::digest::Digest;
use leeway_protocol::ids::{Line, Version};
use leeway_protocol::time::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::alias::{Alias, Aliases};
use super::book::Book;
use crate::retraining::trigger::{TriggerPolicy, Withheld};
use crate::rollout::RolloutPolicy;
use crate::rollout::standing::millis;

/// Refusals kept with a line; older ones stay in the event log.
const MAX_WITHHELD: usize = 32;

/// A model line.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ModelLine {
    /// Its name.
    pub line: Line,
    /// What it is for, in a sentence.
    #[serde(default)]
    pub task: String,
    /// Digest of inputs and outputs every version must have.
    pub io: Option<Digest>,
    /// Champion and challenger, with their history.
    #[serde(default)]
    pub aliases: Aliases,
    /// How a version of this line is rolled out unless told otherwise.
    #[serde(default)]
    pub rollout: RolloutPolicy,
    /// When a better model is asked for.
    #[serde(default)]
    pub retrain: RetrainPolicy,
    /// When it was created.
    pub created_at: Timestamp,
    /// Times there was cause to ask for a better model and something forbade it, the latest last, at most [`MAX_WITHHELD`].
    #[serde(default)]
    pub withheld: Vec<Withheld>,
    /// What people and other tools wrote about it: names, tags, candidates. Nothing is decided by it.
    #[serde(default)]
    pub book: Book,
}

impl ModelLine {
    /// A line without versions.
    pub fn new(line: Line, created_at: Timestamp) -> Self {
        let (aliases, rollout, retrain, withheld) = Default::default();
        Self { line, task: String::new(), io: None, aliases, rollout, retrain, created_at, withheld, book: Book::default() }
    }

    /// Write down that a better model was not asked for.
    pub fn withhold(&mut self, withheld: Withheld) {
        if self.withheld.len() >= MAX_WITHHELD {
            self.withheld.remove(0);
        }
        self.withheld.push(withheld);
    }

    /// What the fleet runs, or goes to.
    pub fn champion(&self) -> Option<&Version> {
        self.aliases.current(Alias::Champion)
    }
}

/// When a better model is asked for, and how often at most. An alarm alone is not a reason: the world may have moved without
/// hurting, and a retraining storm costs more than it brings.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RetrainPolicy {
    /// Whether the controller may ask at all.
    pub enabled: bool,
    /// Loss of accuracy (share) against the expected one that is tolerated.
    pub max_accuracy_loss: f64,
    /// Labels needed before a measured accuracy counts.
    pub min_labels: u64,
    /// Cohorts with an alarm needed before the line is retrained.
    pub min_cohorts: u32,
    /// Time between two requests, milliseconds.
    pub cool_down_ms: u64,
    /// Requests within any `period_ms`, at most.
    pub max_per_period: u32,
    /// Length of that period: a week.
    pub period_ms: u64,
    /// Captured rows with a label needed before training makes sense.
    pub min_rows: u64,
    /// Trainer to use: `builtin`, or the name of a command trainer.
    pub trainer: String,
    /// Ask at least so often, milliseconds, whether or not anything drifted; 0 for never.
    pub every_ms: u64,
    /// What one run costs, as declared: in cents, minutes of a machine, or whatever the budget is in.
    pub cost_per_run: u64,
    /// What the runs of any 30 days may cost in all, a person's included; no bound if absent.
    pub cost_per_month: Option<u64>,
}

impl RetrainPolicy {
    /// The part of it that [`crate::retraining::trigger`] decides by.
    pub fn trigger(&self) -> TriggerPolicy {
        TriggerPolicy {
            automatic: self.enabled,
            loss: self.max_accuracy_loss,
            min_labels: self.min_labels,
            min_rows: self.min_rows,
            cool_down_ms: millis(self.cool_down_ms),
            max_jobs: self.max_per_period,
            period_ms: millis(self.period_ms),
            min_cohorts: self.min_cohorts,
            every_ms: millis(self.every_ms),
            cost_per_run: self.cost_per_run,
            cost_per_month: self.cost_per_month,
        }
    }
}

impl Default for RetrainPolicy {
    fn default() -> Self {
        Self {
            enabled: true,
            max_accuracy_loss: 0.03,
            min_labels: 200,
            min_cohorts: 1,
            cool_down_ms: 24 * 3_600_000,
            max_per_period: 3,
            period_ms: 7 * 24 * 3_600_000,
            min_rows: 500,
            trainer: "builtin".to_owned(),
            every_ms: 0,
            cost_per_run: 0,
            cost_per_month: None,
        }
    }
}
