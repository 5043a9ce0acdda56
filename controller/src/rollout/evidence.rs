//! The comparison behind a gate: canary against control, metric by metric, looked at after every report.
//!
//! Types agreed between the gate (which asks) and the test (which answers). Totals are kept per device and arms by moments
//! over devices, because windows of one device are not independent: a station's own offset would otherwise look like a
//! difference between versions. What stays true: adding the same totals twice changes nothing, as a device's new totals
//! replace its old ones.
use leeway_protocol::digest::Digest;
use leeway_protocol::time::Timestamp;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// What a guardrail compares. Every metric is a share of trials, so that one test serves them all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Metric {
    /// Inferences that failed, of inferences; lower is better.
    ErrorRatio,
    /// Inferences slower than the signed limit's bucket, of inferences; lower is better.
    SlowRatio,
    /// Right labels, of labels; higher is better.
    LabelledAccuracy,
    /// Accuracy estimated from calibrated confidence, of decisions; higher is better. Blind to concept drift.
    EstimatedAccuracy,
    /// Devices lost, reverted or refused for a reason that speaks against the model, of devices asked; lower is better.
    DeviceFailures,
}

impl Metric {
    /// Every metric, in the order they are shown.
    pub const ALL: [Self; 5] = [Self::ErrorRatio, Self::SlowRatio, Self::LabelledAccuracy, Self::EstimatedAccuracy, Self::DeviceFailures];

    /// Whether more is better.
    pub fn higher_is_better(self) -> bool {
        matches!(self, Self::LabelledAccuracy | Self::EstimatedAccuracy)
    }

    /// The name it has in JSON and on the command line.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ErrorRatio => "error_ratio",
            Self::SlowRatio => "slow_ratio",
            Self::LabelledAccuracy => "labelled_accuracy",
            Self::EstimatedAccuracy => "estimated_accuracy",
            Self::DeviceFailures => "device_failures",
        }
    }

    /// What people call it.
    pub fn title(self) -> &'static str {
        match self {
            Self::ErrorRatio => "error ratio",
            Self::SlowRatio => "share of slow inferences",
            Self::LabelledAccuracy => "measured accuracy",
            Self::EstimatedAccuracy => "estimated accuracy",
            Self::DeviceFailures => "share of failed devices",
        }
    }
}

/// What one device has contributed to one metric so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Totals {
    /// Trials: inferences, labels, decisions.
    pub n: f64,
    /// Of these, hits (a sum of probabilities for an estimate).
    pub x: f64,
}

/// One side of a comparison: moments over its devices' totals (enough for a cluster-robust variance of x/n).
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Arm {
    /// Devices with at least one trial.
    pub devices: u64,
    /// Sum of n.
    pub n: f64,
    /// Sum of x.
    pub x: f64,
    /// Sum of n².
    pub n2: f64,
    /// Sum of x².
    pub x2: f64,
    /// Sum of n·x.
    pub nx: f64,
}

impl Arm {
    /// Replace a device's totals by its newer ones; `old` is the default for a device's first.
    pub fn replace(&mut self, old: Totals, new: Totals) {
        self.devices = (self.devices + u64::from(new.n > 0.0)).saturating_sub(u64::from(old.n > 0.0));
        self.n += new.n - old.n;
        self.x += new.x - old.x;
        self.n2 += new.n * new.n - old.n * old.n;
        self.x2 += new.x * new.x - old.x * old.x;
        self.nx += new.n * new.x - old.n * old.x;
    }

    /// The share, if there was a trial.
    pub fn share(&self) -> Option<f64> {
        (self.n > 0.0).then(|| self.x / self.n)
    }
}

/// Both sides of one metric.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Arms {
    /// Devices of the stage, while they run the new version.
    pub canary: Arm,
    /// Devices held back, while they run the baseline; counted only from the canary's first window on, so that both sides saw the same days.
    pub control: Arm,
}

/// Everything ingestion has added up for one rollout.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Evidence {
    /// Comparisons; frozen in a stage that holds no control group.
    pub arms: BTreeMap<Metric, Arms>,
    /// Inferences the new version served, in all stages.
    pub inferences: u64,
    /// Of these, failed against the model.
    pub errors: u64,
    /// Devices whose windows for the new version were accepted.
    pub devices: u64,
    /// Controller's clock at the last such window: a gate that has heard nothing in its stage never passes.
    pub last_at: Option<Timestamp>,
    /// The manifest these are for; evidence for any other is not counted.
    pub manifest: Option<Digest>,
}

/// When a difference is too much, and how sure one must be.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// How much worse the canary may be, as an absolute difference of shares.
    pub margin: f64,
    /// Chance of a wrong failure over the whole rollout, however often one looks.
    pub alpha: f64,
    /// Trials needed on each side before a verdict other than inconclusive.
    pub min_trials: u64,
    /// Devices needed on each side likewise.
    pub min_devices: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { margin: 0.05, alpha: 0.01, min_trials: 200, min_devices: 1 }
    }
}

/// Three-valued: no data is never a pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Surely not worse than the margin allows.
    Pass,
    /// Not enough seen to say either.
    Inconclusive,
    /// Surely worse than the control.
    Fail,
}

/// What a comparison says now.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Verdict {
    /// Of which metric.
    pub metric: Metric,
    /// Pass, fail or neither.
    pub outcome: Outcome,
    /// Canary minus control.
    pub estimate: Option<f64>,
    /// Lower end of the always-valid interval of that difference.
    pub lower: Option<f64>,
    /// Its upper end.
    pub upper: Option<f64>,
    /// The same for people: measured against limit, with sizes of both sides.
    pub sentence: String,
}

// `pub fn compare(metric: Metric, canary: &Arm, control: &Arm, limits: &Limits) -> Verdict` belongs here; the gate calls it.
