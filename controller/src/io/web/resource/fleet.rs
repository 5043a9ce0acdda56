//! The fleet at a glance: what is wrong now, and where each version runs.
use leeway_protocol::time::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::Level;
use super::event::Event;
use super::rollout::RolloutSummary;

/// The whole fleet.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Fleet {
    /// The worst level of the attention list.
    pub level: Level,
    /// The state of the fleet in a sentence.
    pub sentence: String,
    /// What needs a person, worst first.
    pub attention: Vec<Attention>,
    /// Figures.
    pub totals: Totals,
    /// Where each version runs.
    pub cohorts: Vec<CohortRow>,
    /// Rollouts that are not over.
    pub rollouts: Vec<RolloutSummary>,
    /// The newest events.
    pub events: Vec<Event>,
}

/// Something that needs a person.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Attention {
    /// How bad.
    pub level: Level,
    /// What, in a sentence.
    pub sentence: String,
    /// Since when.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub since: Option<Timestamp>,
    /// Where to look, as a path of the dashboard.
    pub href: String,
    /// What to do next.
    pub action: String,
}

/// Figures of the fleet.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Totals {
    /// Devices enrolled.
    pub devices: u64,
    /// Of these, connected.
    pub online: u64,
    /// Inferences reported since the controller started.
    pub inferences: u64,
    /// Inferences per second over the last reports; absent before there are any.
    pub inferences_per_second: Option<f64>,
    /// Share of inferences that failed, against the model, in the last reports.
    pub error_ratio: Option<f64>,
    /// 95th percentile of the latency in the last reports, microseconds.
    pub latency_p95_us: Option<f64>,
    /// Accuracy measured with labels, newest period.
    pub accuracy: Option<f64>,
    /// Windows stored since the controller started.
    pub reports: u64,
    /// Messages refused since the controller started.
    pub refused: u64,
}

/// One cohort and what runs there.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct CohortRow {
    /// The cohort.
    pub cohort: String,
    /// How devices come into it.
    pub selector: String,
    /// Devices in it.
    pub devices: u64,
    /// Of these, connected.
    pub online: u64,
    /// What its devices run, by line and version, oldest version first.
    pub versions: Vec<VersionCount>,
    /// Worst state in it.
    pub level: Level,
    /// A sentence.
    pub sentence: String,
}

/// Devices that run one version.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct VersionCount {
    /// Model line.
    pub line: String,
    /// Version; empty when the device reports none.
    pub version: String,
    /// Place of the version in its line, for the order of colours.
    pub seq: u64,
    /// Devices.
    pub devices: u64,
}
