//! Retraining: when a better model is asked for, from what data, and when it wins.
pub mod dataset;
pub mod gate;
pub mod job;
pub mod trigger;

use serde::{Deserialize, Serialize};

/// How data is made and candidates are judged.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TrainingPolicy {
    /// From rows to datasets.
    pub dataset: dataset::DatasetPolicy,
    /// When a challenger wins.
    pub gate: gate::GatePolicy,
}
