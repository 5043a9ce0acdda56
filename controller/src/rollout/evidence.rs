//! The comparison behind a gate: canary against control, metric by metric, looked at after every report.
//!
//! Types agreed between the gate (which asks) and the test (which answers). Totals are kept per device and arms by moments
//! over devices, because windows of one device are not independent: a station's own offset would otherwise look like a
//! difference between versions. What stays true: adding the same totals twice changes nothing, as a device's new totals
//! replace its old ones.
//!
//! **Null of a failure**: the canary's share is worse than the control's by no more than the margin. **Guarantee**: over a whole
//! rollout, looked at after every report, the chance that [`compare`] ever fails a canary for which that is true is at most
//! `alpha` per metric (divide by the number of guardrails for the rollout as a whole). A pass is the mirror image: non-inferiority,
//! wrong with at most `pass_alpha`. Half of each chance goes to each of two tests:
//!
//! 1. a universal e-value, exact at any size: the likelihood of both arms under a Jeffreys mixture over the largest likelihood
//!    the null can reach. The true pair is in the null, so the ratio is at most a martingale of mean 1 (Wasserman, Ramdas and
//!    Balakrishnan 2020; Ville). It carries rare events such as errors and the first few rows;
//! 2. the normal-mixture confidence sequence of the difference (`sequential::interval`), asymptotic, stronger by about one
//!    standard error at some hundred rows; only where both arms have at least [`NORMAL_FROM`] hits and misses.
//!
//! **Dependence.** Rows are discounted, not trusted: (a) rows of one device by their autocorrelation; (b) devices of one arm by
//! `sharing`: at its default 1 an arm counts as *one* device's rows, because stations under one sky are right and wrong on the
//! same days; (c) devices differ for good (offsets), so a variance between devices, estimated over both arms, stays however many
//! rows arrive. Both arms see the same days, which makes the true difference steadier than assumed here: conservative.
//! The guarantee is as good as these discounts; with `sharing` 0 for devices that do share events it does not hold.
//!
//! Fixed percentages ("pause at 5 % failures") were measured against this: they abort 40 % of healthy rollouts or expose six
//! times as many devices.
use leeway_protocol::digest::Digest;
use leeway_protocol::time::Timestamp;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

use crate::sequential::interval::{self, half_width};
use crate::sequential::{Dependence, effective_devices, ln_beta, log_mean, log_ratio};

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
    /// Chance of a wrong pass over the whole rollout, when the canary is in truth worse by more than the margin.
    pub pass_alpha: f64,
    /// How far devices see the same events, 0 to 1; 1 counts each side as one device (no effect on device failures).
    pub sharing: f64,
    /// Lag-1 autocorrelation of hits within a device.
    pub rho: f64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { margin: 0.05, alpha: 0.01, min_trials: 200, min_devices: 1, pass_alpha: 0.05, sharing: 1.0, rho: 0.1 }
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

/// Hits and misses each side needs, after discounting, before the normal approximation is used.
const NORMAL_FROM: f64 = 8.0;
/// Variance of a difference for which the interval is narrowest: two arms of some 150 rows at shares near one half.
const TUNED_FOR: f64 = 1.0 / 300.0;
/// Failure shares a bad release may have, for the test of device failures.
const FAILURE_SHARES: [f64; 5] = [0.1, 0.2, 0.4, 0.7, 0.95];

/// Compare canary with control on one metric.
pub fn compare(metric: Metric, canary: &Arm, control: &Arm, limits: &Limits) -> Verdict {
    if metric == Metric::DeviceFailures {
        return device_failures(canary, control, limits);
    }
    let (Some(new), Some(old)) = (canary.share(), control.share()) else {
        let missing = if canary.share().is_none() { "the canary" } else { "the control group" };
        let sentence = format!("{}: nothing to compare yet, {missing} has reported nothing for it.", capital(metric.title()));
        return Verdict { metric, outcome: Outcome::Inconclusive, estimate: None, lower: None, upper: None, sentence };
    };
    let spread = between_devices([canary, control], limits);
    let sides = [canary, control].map(|arm| Side::of(arm, metric, spread, limits));
    let difference = new - old;
    let variance = sides[0].variance + sides[1].variance;
    let width = |alpha: f64| half_width(variance, TUNED_FOR, alpha);
    let worse_by = if metric.higher_is_better() { -difference } else { difference };
    let normal = sides.iter().all(|s| s.bad.min(s.rows - s.bad) >= NORMAL_FROM);
    let refutes = |alpha: f64| universal(&sides, limits.margin) >= (2.0 / alpha.clamp(1e-12, 1.0)).ln();
    let worse = worse_by > limits.margin && (refutes(limits.alpha) || (normal && worse_by - width(limits.alpha) > limits.margin));
    let fine = worse_by < limits.margin && (refutes(limits.pass_alpha) || (normal && worse_by + width(limits.pass_alpha) < limits.margin));
    let enough = [canary, control].iter().all(|a| a.n >= limits.min_trials as f64 && a.devices >= limits.min_devices);
    let outcome = match (enough, worse, fine) {
        (true, true, _) => Outcome::Fail,
        (true, false, true) => Outcome::Pass,
        _ => Outcome::Inconclusive,
    };
    let half = width(limits.alpha);
    let (lower, upper) = ((difference - half).max(-1.0), (difference + half).min(1.0));
    let sentence = sentence(metric, [canary, control], worse_by, half, outcome, enough, limits);
    Verdict { metric, outcome, estimate: Some(difference), lower: Some(lower), upper: Some(upper), sentence }
}

/// One side in terms of bad trials, discounted.
struct Side {
    bad: f64,
    rows: f64,
    variance: f64,
}

impl Side {
    fn of(arm: &Arm, metric: Metric, spread: f64, limits: &Limits) -> Self {
        let hits = arm.x.clamp(0.0, arm.n);
        let bad = if metric.higher_is_better() { arm.n - hits } else { hits };
        let devices = effective_devices(arm.n, arm.n2);
        let eta = Dependence { rho: limits.rho, sharing: limits.sharing }.eta(devices);
        let share = (bad * eta + 0.5) / (arm.n * eta + 1.0);
        let noise = share * (1.0 - share);
        let variance = noise / (arm.n * eta).max(1.0) + spread / devices;
        // Rows that would give this variance on their own; never more than are there.
        let rows = (noise / variance).min(arm.n * eta);
        Self { bad: bad / arm.n * rows, rows, variance }
    }
}

/// Variance of a device's own share around its arm's, beyond chance, by moments over both arms; 0 with one device each.
fn between_devices(arms: [&Arm; 2], limits: &Limits) -> f64 {
    let serial = Dependence { rho: limits.rho, sharing: 0.0 }.eta(1.0);
    let (sum, weight) = arms.iter().fold((0.0, 0.0), |(sum, weight), arm| {
        let Some(p) = arm.share().filter(|_| arm.devices >= 2 && arm.n2 > 0.0) else { return (sum, weight) };
        let free = arm.devices as f64 - 1.0;
        let scatter = (arm.x2 - 2.0 * p * arm.nx + p * p * arm.n2).max(0.0) * arm.devices as f64 / free;
        let excess = (scatter - p * (1.0 - p) * arm.n / serial) / arm.n2;
        (sum + free * excess, weight + free)
    });
    if weight > 0.0 { (sum / weight).max(0.0) } else { 0.0 }
}

/// ln of the universal e-value against "canary bad share minus control bad share is on the other side of `margin`".
fn universal(sides: &[Side; 2], margin: f64) -> f64 {
    let mixture: f64 = sides.iter().map(|s| ln_beta(s.bad + 0.5, s.rows - s.bad + 0.5) - ln_beta(0.5, 0.5)).sum();
    let likelihood = |control: f64| {
        let ln = |hits: f64, p: f64| if hits > 0.0 { hits * p.max(1e-300).ln() } else { 0.0 };
        let one = |s: &Side, p: f64| ln(s.bad, p) + ln(s.rows - s.bad, 1.0 - p);
        one(&sides[0], control + margin) + one(&sides[1], control)
    };
    // The observed pair lies outside the null, and the likelihood is concave: its maximum over the null is on the boundary line.
    let (mut low, mut high) = (0f64.max(-margin), 1f64.min(1.0 - margin));
    for _ in 0..TERNARY_STEPS {
        let (a, b) = (low + (high - low) / 3.0, high - (high - low) / 3.0);
        if likelihood(a) < likelihood(b) { low = a } else { high = b }
    }
    mixture - likelihood(0.5 * (low + high))
}

/// Steps of the search on the boundary: (2/3)^60 of the unit interval is below 1e-10.
const TERNARY_STEPS: u32 = 60;

/// Each asked device is one trial, so nothing is discounted; the control group is asked nothing and need not have trials.
fn device_failures(canary: &Arm, control: &Arm, limits: &Limits) -> Verdict {
    let metric = Metric::DeviceFailures;
    let base = control.share().unwrap_or(0.0);
    let allowed = (base + limits.margin).clamp(0.001, 0.999);
    let Some(share) = canary.share() else {
        let sentence = "Failed devices: no device has answered yet.".to_owned();
        return Verdict { metric, outcome: Outcome::Inconclusive, estimate: None, lower: None, upper: None, sentence };
    };
    let evidence = log_mean(FAILURE_SHARES.iter().map(|&p| log_ratio(canary.x, canary.n, p.max(allowed), allowed)));
    let range = interval::share(canary.x, canary.n, limits.alpha);
    let enough = canary.devices >= limits.min_devices;
    // A few devices can never show a small failure share for sure: what they can do is not to fail, and to have answered at all.
    let outcome = match (evidence >= -(limits.alpha.clamp(1e-12, 1.0).ln()), enough && share <= allowed) {
        (true, _) => Outcome::Fail,
        (false, true) => Outcome::Pass,
        (false, false) => Outcome::Inconclusive,
    };
    let verdict = match outcome {
        Outcome::Fail => "surely more than allowed: fail",
        Outcome::Pass => "no evidence of more than allowed: pass",
        Outcome::Inconclusive => "too few to say: inconclusive",
    };
    let sentence = format!("Failed devices: {} of {} asked, at most {:.1} % allowed; {verdict}.", canary.x, canary.n, allowed * 100.0);
    Verdict { metric, outcome, estimate: Some(share - base), lower: Some(range.lower - base), upper: Some(range.upper - base), sentence }
}

fn sentence(metric: Metric, arms: [&Arm; 2], worse_by: f64, half: f64, outcome: Outcome, enough: bool, limits: &Limits) -> String {
    let side = |name: &str, arm: &Arm| {
        let devices = if arm.devices == 1 { "device" } else { "devices" };
        format!("{name} {:.1} % of {:.0} on {} {devices}", arm.share().unwrap_or(0.0) * 100.0, arm.n, arm.devices)
    };
    let margin = limits.margin * 100.0;
    let (low, high) = ((worse_by - half) * 100.0, (worse_by + half) * 100.0);
    let range = format!("worse by {:.1} points, surely between {:.1} and {:.1}", worse_by * 100.0, low.max(-100.0), high.min(100.0));
    let end = match outcome {
        Outcome::Fail => format!("more than the {margin:.1} allowed: fail"),
        Outcome::Pass => format!("within the {margin:.1} allowed: pass"),
        Outcome::Inconclusive if !enough => {
            format!("{} trials and {} devices are needed on each side: inconclusive", limits.min_trials, limits.min_devices)
        }
        Outcome::Inconclusive => format!("{margin:.1} allowed: inconclusive, more reports are needed"),
    };
    format!("{}: {}, {}; {range}; {end}.", capital(metric.title()), side("canary", arms[0]), side("control", arms[1]))
}

fn capital(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map_or_else(String::new, |first| first.to_uppercase().chain(chars).collect())
}

/// Whether the canary's size fits the share that was asked for: ln of an e-value against "each of `eligible` devices is a canary
/// with chance `share`". Above ln(1/alpha) the assignment itself is broken (a lost cohort, a stuck bucket), and no comparison
/// of the arms can be trusted.
pub fn sample_ratio(canary_devices: u64, eligible: u64, share: f64) -> f64 {
    let (hits, rows) = (canary_devices.min(eligible) as f64, eligible as f64);
    let mixture = ln_beta(hits + 0.5, rows - hits + 0.5) - ln_beta(0.5, 0.5);
    let p = share.clamp(1e-6, 1.0 - 1e-6);
    mixture - (hits * p.ln() + (rows - hits) * (1.0 - p).ln())
}

#[cfg(test)]
mod tests;
