//! Rollouts: stages, target against actual, the guardrails that compare canary with control, and what may be done now.
use leeway_protocol::time::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::event::Event;
use super::{Condition, Level};
use crate::foresight::Forecast;
use crate::rollout::shared::Trait;

/// A rollout in a list.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct RolloutSummary {
    /// Its name.
    pub id: String,
    /// Model line.
    pub line: String,
    /// What runs before.
    pub from_version: Option<String>,
    /// What is rolled out.
    pub to_version: String,
    /// State in one word, as in the state machine.
    pub phase: String,
    /// How to read it.
    pub level: Level,
    /// Its state in a sentence.
    pub sentence: String,
    /// Current stage, counted from 1; 0 before the first.
    pub stage: u32,
    /// Number of stages.
    pub stages: u32,
    /// Devices that should have it now.
    pub target_devices: u64,
    /// Devices that run it now.
    pub actual_devices: u64,
    /// Devices it may reach in the end.
    pub fleet_devices: u64,
    /// Devices that ever ran it.
    pub exposed: u64,
    /// When it was made.
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Timestamp,
    /// When it last changed.
    #[schema(value_type = String, format = DateTime)]
    pub updated_at: Timestamp,
}

/// A rollout, whole.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Rollout {
    /// What a list shows.
    pub summary: RolloutSummary,
    /// Rises with every change; the ETag.
    pub revision: u64,
    /// What may be done now: some of `approve`, `pause`, `resume`, `promote`, `promote-all`, `retry`, `dismiss`, `abort`.
    pub allowed_actions: Vec<String>,
    /// What happens next, in a sentence.
    pub next: String,
    /// Its stages, in order.
    pub stages: Vec<Stage>,
    /// Canary against control, metric by metric.
    pub guardrails: Vec<Guardrail>,
    /// What else the gate looks at: enough devices, enough inferences, failures.
    pub checks: Vec<Check>,
    /// Whether the comparison itself can be trusted.
    pub conditions: Vec<Condition>,
    /// Devices that refused or went back.
    pub failing: Vec<FailingDevice>,
    /// How many failing devices there are in all.
    pub failing_total: u64,
    /// What the devices that the model failed on share, the most telling first.
    #[serde(default)]
    pub shared: Vec<Trait>,
    /// Parts of the fleet that the version failed on and that are left out, each with the reason, in sentences.
    #[serde(default)]
    pub left_out: Vec<String>,
    /// What each action would do to devices, in sentences.
    pub consequences: Vec<Consequence>,
    /// Its latest events.
    pub events: Vec<Event>,
    /// What was asked for.
    #[schema(value_type = Object)]
    pub spec: serde_json::Value,
}

/// What an action would do.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Consequence {
    /// The action.
    pub action: String,
    /// What it does, with figures.
    pub sentence: String,
}

/// One stage.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Stage {
    /// Its name.
    pub name: String,
    /// Who is in it, in words: `10 % of every cohort`.
    pub target: String,
    /// State in one word: `pending`, `running`, `soaking`, `passed`, `failed`, `paused`.
    pub state: String,
    /// How to read it.
    pub level: Level,
    /// Its state in a sentence.
    pub sentence: String,
    /// Share of the selected devices on the new version when the stage is complete, 0 to 1.
    pub share: f64,
    /// Devices that should have it.
    pub target_devices: u64,
    /// Where those devices are.
    pub actual: Progress,
    /// How long it soaks, milliseconds.
    pub soak_ms: u64,
    /// How much of that is left; absent when it is not soaking.
    pub soak_left_ms: Option<u64>,
    /// When it began.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub opened_at: Option<Timestamp>,
    /// When it ended.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub closed_at: Option<Timestamp>,
}

/// Where the devices of a stage are. Devices that a later rollout has taken in since are not counted any more.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Progress {
    /// Not asked yet, or asked and silent.
    pub pending: u64,
    /// Fetching, testing or in the shadow run.
    pub working: u64,
    /// On trial.
    pub probation: u64,
    /// Run it for good.
    pub committed: u64,
    /// Refused it or went back on their own.
    pub failed: u64,
    /// Taken back by plan.
    pub rolled_back: u64,
}

impl Progress {
    /// All devices counted.
    pub fn total(&self) -> u64 {
        self.pending + self.working + self.probation + self.committed + self.failed + self.rolled_back
    }
}

/// One metric, canary against control.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Guardrail {
    /// Its name in the API: `error_ratio`, `label_accuracy`, …
    pub metric: String,
    /// For people.
    pub title: String,
    /// `pass`, `fail`, `waiting`, `inconclusive` or `info`.
    pub verdict: String,
    /// How to read it.
    pub level: Level,
    /// Unit of the values: `%`, `µs`, or empty.
    pub unit: String,
    /// The canary's estimate.
    pub canary: Option<f64>,
    /// Observations in the canary arm.
    pub canary_n: u64,
    /// The control's estimate.
    pub control: Option<f64>,
    /// Observations in the control arm.
    pub control_n: u64,
    /// Difference or ratio that is judged.
    pub difference: Option<f64>,
    /// Lower end of its confidence sequence.
    pub lower: Option<f64>,
    /// Upper end.
    pub upper: Option<f64>,
    /// What it may not pass.
    pub threshold: Option<f64>,
    /// Whether a larger difference is worse.
    pub higher_is_worse: bool,
    /// The verdict in a sentence, with figures.
    pub sentence: String,
}

/// Something the gate looks at besides the comparisons.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Check {
    /// What.
    pub name: String,
    /// `pass`, `fail` or `inconclusive`.
    pub verdict: String,
    /// How to read it.
    pub level: Level,
    /// Measured against limit, in a sentence.
    pub sentence: String,
}

/// A device on which the release does not run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct FailingDevice {
    /// Which.
    pub device: String,
    /// Its cohort.
    pub cohort: String,
    /// `refused` or `reverted`.
    pub phase: String,
    /// Code of the reason.
    pub code: String,
    /// The reason in a sentence.
    pub sentence: String,
    /// When it said so.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub at: Option<Timestamp>,
}

/// What `POST /api/v1/rollouts` takes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateRollout {
    /// Model line.
    pub line: String,
    /// Version to roll out.
    pub version: String,
    /// Name of the rollout; made from line and version if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// Stages; the line's default policy if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub policy: Option<serde_json::Value>,
    /// Why, in a sentence.
    #[serde(default)]
    pub reason: String,
    /// Begin it even if it is foreseen to cost more than its own risk budget allows; needs a reason.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub force: bool,
}

/// What applying a file came to.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct AppliedRollout {
    /// `created`, `amended` or `unchanged`.
    pub did: String,
    /// The same in a sentence.
    pub sentence: String,
    /// The rollout as it is now.
    pub rollout: Rollout,
}

/// One device of a rollout.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct RolloutDevice {
    /// Which.
    pub device: String,
    /// Where it stands: `unseen`, `installing`, `running`, `overdue`, …
    pub standing: String,
    /// The same in a sentence.
    pub sentence: String,
    /// What ending the rollout now would mean for it; absent once the rollout is over.
    pub if_aborted: Option<String>,
    /// How often it was told to install.
    pub attempts: u32,
    /// When it was taken in.
    #[schema(value_type = String, format = DateTime)]
    pub at: Timestamp,
}

/// What a dry run answers: the rollout as it would be, and who could not take it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct RolloutPlan {
    /// What would happen, in a sentence.
    pub sentence: String,
    /// The stages with the devices they would reach now.
    pub stages: Vec<PlannedStage>,
    /// Devices that would not be reached, with the reason.
    pub left_out: Vec<String>,
    /// What could not pass with the devices that are there now, in sentences.
    #[serde(default)]
    pub warnings: Vec<String>,
    /// Bytes to move in all.
    pub bytes: u64,
    /// What would become of it, if that was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub forecast: Option<Forecast>,
}

/// One stage of a dry run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct PlannedStage {
    /// Its name.
    pub name: String,
    /// Who is in it, in words.
    pub target: String,
    /// Devices on the new version when it is complete.
    pub devices: u64,
    /// How long it soaks, milliseconds.
    pub soak_ms: u64,
}
