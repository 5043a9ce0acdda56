//! The second leg of a comparison: every trial counts, discounted for what devices have in common.
//!
//! **Null**: the canary's share is worse than the control's by no more than the margin. **Guarantee**: over a whole rollout,
//! looked at after every report, a canary for which that is true is failed with chance `alpha` at most, *as far as the discounts
//! are right*; a pass is the mirror image (non-inferiority), wrong with at most `pass_alpha`. Half of each chance goes to each of
//! two tests:
//!
//! 1. a universal e-value, exact at any size: the likelihood of both arms under a Jeffreys mixture over the largest likelihood
//!    the null can reach. The true pair is in the null, so the ratio is at most a martingale of mean 1 (Wasserman, Ramdas and
//!    Balakrishnan 2020; Ville). It carries rare events such as errors and the first few rows;
//! 2. the normal-mixture confidence sequence of the difference (`sequential::interval`), asymptotic, stronger by about one
//!    standard error at some hundred rows; only where both arms have at least [`NORMAL_FROM`] hits and misses.
//!
//! A trial may be a share instead of a yes or no (an estimate, a user metric): the likelihood ratio is convex in its value, so its
//! expectation is at most that of a yes or no with the same mean, and the guarantee stands.
//!
//! **Dependence.** Rows are discounted, not trusted: (a) rows of one device by their autocorrelation; (b) devices of one arm by
//! `sharing`: at its default 1 an arm counts as *one* device's rows, because stations under one sky are right and wrong on the
//! same days; (c) devices differ for good (offsets), so a variance between devices, estimated over both arms, stays however many
//! rows arrive. Both arms see the same days, which makes the true difference steadier than assumed here: conservative.
//! With `sharing` 0 for devices that do share events the guarantee does not hold. Why have this leg at all: three canaries can
//! never be refuted as three devices, but a model that guesses on all three shows within a hundred labels.
use super::*;
use crate::sequential::interval::half_width;
use crate::sequential::{Dependence, effective_devices, ln_beta};

/// Hits and misses each side needs, after discounting, before the normal approximation is used.
const NORMAL_FROM: f64 = 8.0;
/// Devices' worth of caution about the spread between devices.
const FEW: f64 = 4.0;
/// Variance of a difference for which the interval is narrowest: two arms of some 150 rows at shares near one half.
const TUNED_FOR: f64 = 1.0 / 300.0;

/// Compare the trials of both arms.
pub(super) fn judge(metric: Metric, canary: &Arm, control: &Arm, limits: &Limits) -> Verdict {
    let (Some(new), Some(old)) = (canary.share(), control.share()) else {
        let missing = if canary.share().is_none() { "the canary" } else { "the control group" };
        let sentence = format!("{}: nothing to compare yet, {missing} has reported nothing for it.", capital(&metric.title()));
        return Verdict { metric, outcome: Outcome::Inconclusive, estimate: None, lower: None, upper: None, sentence };
    };
    let spread = between_devices([canary, control], limits);
    let sides = [canary, control].map(|arm| Side::of(arm, metric, spread, limits));
    let difference = new - old;
    let variance = sides[0].variance + sides[1].variance;
    let width = |alpha: f64| half_width(variance, TUNED_FOR, alpha);
    let worse_by = if metric.higher_is_better(limits) { -difference } else { difference };
    let normal = sides.iter().all(|s| s.bad.min(s.rows - s.bad) >= NORMAL_FROM);
    let refutes = |alpha: f64, margin: f64| universal(&sides, margin) >= (2.0 / alpha.clamp(1e-12, 1.0)).ln();
    let (alpha, tolerated) = (limits.alpha(), limits.tolerated());
    let worse = worse_by > tolerated && (refutes(alpha, tolerated) || (normal && worse_by - width(alpha) > tolerated));
    let fine = worse_by < limits.margin
        && (refutes(limits.pass_alpha, limits.margin) || (normal && worse_by + width(limits.pass_alpha) < limits.margin));
    let enough = [canary, control].iter().all(|a| a.n >= limits.min_trials as f64 && a.devices >= limits.min_devices);
    let outcome = match (enough, worse, fine) {
        (true, true, _) => Outcome::Fail,
        (true, false, true) => Outcome::Pass,
        _ => Outcome::Inconclusive,
    };
    let half = width(alpha);
    let (lower, upper) = ((difference - half).max(-1.0), (difference + half).min(1.0));
    let sentence = sentence(metric, [canary, control], worse_by, half, outcome, enough, limits);
    Verdict { metric, outcome, estimate: Some(difference), lower: Some(lower), upper: Some(upper), sentence }
}

/// One side in terms of bad trials, discounted.
pub(super) struct Side {
    pub(super) bad: f64,
    pub(super) rows: f64,
    pub(super) variance: f64,
}

impl Side {
    fn of(arm: &Arm, metric: Metric, spread: f64, limits: &Limits) -> Self {
        let hits = arm.x.clamp(0.0, arm.n);
        let bad = if metric.higher_is_better(limits) { arm.n - hits } else { hits };
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
    // A spread seen on few devices is often too small: the fewer, the more is added.
    if weight > 0.0 { (sum / weight).max(0.0) * (1.0 + FEW / weight) } else { 0.0 }
}

/// ln of the universal e-value against "canary bad share minus control bad share is on the other side of `margin`".
fn universal(sides: &[Side; 2], margin: f64) -> f64 {
    let jeffreys = sides.iter().map(|s| ln_beta(s.bad + 0.5, s.rows - s.bad + 0.5) - ln_beta(0.5, 0.5)).sum::<f64>();
    jeffreys - largest(sides, margin)
}

/// ln of the largest likelihood on the line "canary bad share = control bad share + margin".
pub(super) fn largest(sides: &[Side; 2], margin: f64) -> f64 {
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
    likelihood(0.5 * (low + high))
}

/// Steps of the search on the boundary: (2/3)^60 of the unit interval is below 1e-10.
const TERNARY_STEPS: u32 = 60;

fn sentence(metric: Metric, arms: [&Arm; 2], worse_by: f64, half: f64, outcome: Outcome, enough: bool, limits: &Limits) -> String {
    let side = |name: &str, arm: &Arm| {
        let devices = if arm.devices == 1 { "device" } else { "devices" };
        format!("{name} {:.1} % of {:.0} on {} {devices}", arm.share().unwrap_or(0.0) * 100.0, arm.n, arm.devices)
    };
    let margin = limits.margin * 100.0;
    let (low, high) = ((worse_by - half) * 100.0, (worse_by + half) * 100.0);
    let range = format!("worse by {:.1} points, surely between {:.1} and {:.1}", worse_by * 100.0, low.max(-100.0), high.min(100.0));
    let end = match outcome {
        Outcome::Fail => format!("more than the {:.1} allowed: fail", limits.tolerated() * 100.0),
        Outcome::Pass => format!("within the {margin:.1} allowed: pass"),
        Outcome::Inconclusive if !enough => {
            format!("{} trials and {} devices are needed on each side: inconclusive", limits.min_trials, limits.min_devices)
        }
        Outcome::Inconclusive => format!("{margin:.1} allowed: inconclusive, more reports are needed"),
    };
    format!("{}: {}, {}; {range}; {end}.", capital(&metric.title()), side("canary", arms[0]), side("control", arms[1]))
}
