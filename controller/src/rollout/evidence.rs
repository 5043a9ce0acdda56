//! The comparison behind a gate: canary against control, metric by metric, looked at after every report.
//!
//! Types agreed between the gate (which asks) and the tests (which answer). Fixed percentages ("pause at 5 % failures") were
//! measured against these: they abort 40 % of healthy rollouts or expose four times as many devices (`bench_gate` prints the table).
//! Every test may be looked at after every report, needs no known baseline, and answers *fail* (surely worse than tolerated),
//! *pass* (surely within the margin) or *inconclusive*, with an interval that holds at all times at once and a sentence.
//!
//! | what | unit | test | guarantee |
//! |---|---|---|---|
//! | [`failures`] | the device | conditional two-by-two test with its error spent by a known horizon | enumerated over the whole null |
//! | [`devices`] | the device's own share, once | betting on two bounded means | exact at any size |
//! | [`latency`] | the device's own p95, once | betting on the share above every latency, averaged | exact at any size |
//! | [`rows`] | the discounted trial | universal e-value, mixture confidence sequence | as good as the discounts |
//!
//! Shares of trials are judged by the last two together, each with its part of the metric's `alpha` ([`Limits::rows`]); which
//! part of the operator's one number a metric gets is the gate's business ([`super::gate::GatePolicy::false_abort`]).
//!
//! Totals are kept per device and arms by moments over devices, because windows of one device are not independent: a station's
//! own offset would otherwise look like a difference between versions. What stays true: adding the same totals twice changes
//! nothing, as a device's new totals replace its old ones.
use leeway_protocol::digest::Digest;
use leeway_protocol::report::UserMetric;
use leeway_protocol::time::Timestamp;
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::collections::BTreeMap;

use crate::sequential::boundary::Horizon;

pub mod apart;
mod assignment;
pub mod devices;
pub mod failures;
pub mod latency;
pub mod metric;
mod rows;

pub use assignment::{SampleRatio, sample_ratio};
pub use devices::Settled;
pub use latency::Paces;

/// What a guardrail compares. All but two are shares of trials, so that one test serves them all.
///
/// In documents it is a text, `error_ratio` or `user:retry`; how it is written and read is in [`metric`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(remote = "Self")]
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
    /// Decisions that would have to be others for a window to look like the control group's usual ones, of decisions; lower is
    /// better only where a new version is not meant to decide differently.
    OutputShift,
    /// The p95 of a device's latency, over devices; lower is better. Its limits are relative: see [`latency`].
    Latency,
    /// What the application tells about its own business, of all it told under that name; its guardrail says which way is good.
    User(UserMetric),
}

impl Metric {
    /// Every metric that needs no application, in the order they are shown.
    pub const ALL: [Self; 7] = [
        Self::ErrorRatio,
        Self::SlowRatio,
        Self::LabelledAccuracy,
        Self::EstimatedAccuracy,
        Self::DeviceFailures,
        Self::OutputShift,
        Self::Latency,
    ];

    /// Whether more is better: a user metric's limits say it themselves, and are refused if they do not.
    pub fn higher_is_better(self, limits: &Limits) -> bool {
        match self {
            Self::User(_) => limits.higher_is_better != Some(false),
            known => matches!(known, Self::LabelledAccuracy | Self::EstimatedAccuracy),
        }
    }

    /// The word it has in JSON and on the command line; a user metric is more than a word, and its [`Display`](std::fmt::Display)
    /// has the name too.
    fn word(self) -> &'static str {
        match self {
            Self::ErrorRatio => "error_ratio",
            Self::SlowRatio => "slow_ratio",
            Self::LabelledAccuracy => "labelled_accuracy",
            Self::EstimatedAccuracy => "estimated_accuracy",
            Self::DeviceFailures => "device_failures",
            Self::OutputShift => "output_shift",
            Self::Latency => "latency",
            Self::User(_) => "user",
        }
    }

    /// What people call it.
    pub fn title(self) -> Cow<'static, str> {
        let title = match self {
            Self::ErrorRatio => "error ratio",
            Self::SlowRatio => "share of slow inferences",
            Self::LabelledAccuracy => "measured accuracy",
            Self::EstimatedAccuracy => "estimated accuracy (assumes no concept drift)",
            Self::DeviceFailures => "share of failed devices",
            Self::OutputShift => "shift of the decisions",
            Self::Latency => "latency",
            Self::User(name) => return format!("user metric {name}").into(),
        };
        title.into()
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

/// Slices kept apart in one rollout: a label with more values than this is a name, not a kind of device.
pub const MAX_SLICES: usize = 64;

/// Everything ingestion has added up for one rollout.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Evidence {
    /// Comparisons; frozen in a stage that holds no control group.
    pub arms: BTreeMap<Metric, Arms>,
    /// Devices that settled, each with its own share: what [`devices`] compares.
    #[serde(default)]
    pub settled: BTreeMap<Metric, Settled>,
    /// The same arms for each part of the fleet that the policy may judge apart, such as `hw=rev-b`; at most [`MAX_SLICES`].
    #[serde(default)]
    pub slices: BTreeMap<String, BTreeMap<Metric, Arms>>,
    /// Latencies of devices that had enough timed inferences: what [`latency`] compares. In `arms`, each of them is one trial.
    #[serde(default)]
    pub latency: Paces,
    /// What devices of each slice showed beside their arms.
    #[serde(default)]
    pub apart: BTreeMap<String, apart::Apart>,
    /// Decisions of the control group by class: what [`Metric::OutputShift`] is measured from.
    #[serde(default)]
    pub usual: Vec<f64>,
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
    /// How much worse the canary may be, as an absolute difference of shares, and still pass.
    pub margin: f64,
    /// How much worse it may be before that is harm; the margin if absent. With 0, any difference that is proven fails.
    pub tolerance: Option<f64>,
    /// Chance of a wrong failure over the whole rollout, however often one looks; absent: this check's part of the gate's `false_abort`.
    pub alpha: Option<f64>,
    /// Part of `alpha` and `pass_alpha` for the test that counts discounted trials, 0 to 1; the rest is for the one that counts
    /// devices. Of no effect on device failures.
    pub rows: f64,
    /// Trials needed on each side before a verdict other than inconclusive.
    pub min_trials: u64,
    /// Devices needed on each side likewise.
    pub min_devices: u64,
    /// Chance of a wrong pass over the whole rollout, when the canary is in truth worse by more than the margin.
    pub pass_alpha: f64,
    /// How far devices see the same events, 0 to 1; 1 counts each side as one device (no effect on device failures).
    pub sharing: f64,
    /// Lag-1 autocorrelation of hits within a device.
    pub rho: f64,
    /// Whether more is better. Needed for a user metric, refused for every other, whose way is known.
    pub higher_is_better: Option<bool>,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            margin: 0.05,
            tolerance: None,
            alpha: None,
            rows: 0.5,
            min_trials: 200,
            min_devices: 1,
            pass_alpha: 0.05,
            sharing: 1.0,
            rho: 0.1,
            higher_is_better: None,
        }
    }
}

/// The chance of a wrong failure where neither the policy nor the gate says one.
const ALPHA: f64 = 0.01;

impl Limits {
    /// The chance of a wrong failure.
    pub fn alpha(&self) -> f64 {
        self.alpha.unwrap_or(ALPHA)
    }

    /// How much worse the canary may be before that is harm.
    pub fn tolerated(&self) -> f64 {
        self.tolerance.unwrap_or(self.margin)
    }

    /// The limits of one of two tests that share the error: of the one over rows, and of the one over devices.
    pub fn legs(&self) -> [Self; 2] {
        let rows = self.rows.clamp(0.0, 1.0);
        [rows, 1.0 - rows].map(|part| Self { alpha: Some(self.alpha() * part), pass_alpha: self.pass_alpha * part, ..*self })
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

/// Compare canary with control on one metric, from the arms alone: trials, discounted, or failed devices in a fleet of unknown size.
pub fn compare(metric: Metric, canary: &Arm, control: &Arm, limits: &Limits) -> Verdict {
    match metric {
        Metric::DeviceFailures => failures::judge(&Arms { canary: *canary, control: *control }, limits, Horizon::OPEN),
        // What latencies there are is not in the arms.
        Metric::Latency => latency::judge(&Paces::default(), limits),
        _ => rows::judge(metric, canary, control, limits),
    }
}

fn capital(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map_or_else(String::new, |first| first.to_uppercase().chain(chars).collect())
}

#[cfg(test)]
mod tests;
