//! Failed devices: each device is one trial, so nothing is discounted.
//!
//! With a control group, **the null** is: a canary device fails no more often than a control device (plus the tolerance, if the
//! policy grants one). **Guarantee**: over all looks of the whole rollout, a canary for which that is true is failed with chance
//! `alpha` at most. The method is [`crate::sequential::boundary`]: conditional on the failures, so that the baseline need not be
//! known, and with all of `alpha` spent by the time the fleet is through. The proof that failures are within the margin is a
//! universal e-value (Wasserman, Ramdas and Balakrishnan 2020): a mixture of alternatives, over the largest likelihood that the
//! null "worse by the margin or more" can reach; it is wrong with chance `pass_alpha` at most.
//!
//! *When* controls are looked at matters as much as how many there are. A control that was looked at once, before the canaries'
//! bad day, is no control: with such counts a promise of 5 % becomes some 30 % (the warning table of `bench_gate`). Count a control's
//! state over the same days as the canaries', again with each of them if the group is small.
//!
//! The two arms must be asked the same: a failure that only a device can show that was told something (a refused model, say) is
//! harm by its nature if the control group was told nothing; what a policy takes for usual there belongs in its tolerance.
//!
//! Without a control group there is nothing to compare with. The null is then absolute: a device fails with chance `margin` at
//! most; a mixture of point alternatives is the e-process against it.
use super::rows::{Side, largest};
use super::*;
use crate::sequential::boundary::{Horizon, Look, Table};
use crate::sequential::{interval, ln_beta, log_mean, log_ratio};

/// Failure shares a bad release may have.
const BAD_SHARES: [f64; 5] = [0.1, 0.2, 0.4, 0.7, 0.95];
/// Failures and successes that a healthy release is taken to have shown before; shapes the bet, never its validity.
const HEALTHY: (f64, f64) = (0.5, 12.0);

/// Compare the failed devices of both arms in a rollout that can reach `horizon`.
pub fn judge(arms: &Arms, limits: &Limits, horizon: Horizon) -> Verdict {
    let (canary, control) = (&arms.canary, &arms.control);
    if canary.n <= 0.0 {
        let sentence = "Failed devices: no device has answered yet.".to_owned();
        return Verdict { metric: METRIC, outcome: Outcome::Inconclusive, estimate: None, lower: None, upper: None, sentence };
    }
    if control.n <= 0.0 { alone(canary, limits) } else { against(canary, control, limits, horizon) }
}

const METRIC: Metric = Metric::DeviceFailures;

fn against(canary: &Arm, control: &Arm, limits: &Limits, horizon: Horizon) -> Verdict {
    let count = |x: f64| x.max(0.0).round() as u64;
    let table = Table {
        canary: count(canary.n),
        canary_failed: count(canary.x),
        control: count(control.n),
        control_failed: count(control.x),
        tolerance: limits.tolerated(),
    };
    let alpha = limits.alpha();
    let look = table.look(horizon, alpha);
    let (difference, lower, upper) = table.difference(horizon, alpha);
    let enough = canary.devices >= limits.min_devices && control.devices >= limits.min_devices;
    let proof = -limits.pass_alpha.clamp(1e-12, 1.0).ln();
    let fine = enough && difference < limits.margin && universal(canary, control, limits.margin) >= proof;
    let worse = look.chance <= look.level;
    let outcome = match (worse, fine) {
        (true, _) => Outcome::Fail,
        (false, true) => Outcome::Pass,
        (false, false) => Outcome::Inconclusive,
    };
    let sentence = sentence(&table, look, (difference, lower, upper), outcome, limits);
    Verdict { metric: METRIC, outcome, estimate: Some(difference), lower: Some(lower), upper: Some(upper), sentence }
}

fn sentence(table: &Table, look: Look, (difference, lower, upper): (f64, f64, f64), outcome: Outcome, limits: &Limits) -> String {
    let points = |share: f64| share * 100.0;
    let sides = format!("canary {} of {}, control {} of {}", table.canary_failed, table.canary, table.control_failed, table.control);
    let range = format!("worse by {:.1} points, surely between {:.1} and {:.1}", points(difference), points(lower), points(upper));
    let allowed = match limits.tolerated() {
        0.0 => String::new(),
        tolerated => format!("{:.1} are tolerated; ", points(tolerated)),
    };
    let luck = format!("chance alone does this in {} of rollouts", percent(look.chance));
    let why = match outcome {
        Outcome::Fail => format!("{allowed}{luck}, and {} is proof at this point: fail", percent(look.level)),
        Outcome::Pass => format!("within the {:.1} allowed: pass", points(limits.margin)),
        Outcome::Inconclusive => format!("{allowed}{luck}, and {} would be proof at this point: inconclusive", percent(look.level)),
    };
    format!("Failed devices: {sides}; {range}; {why}.")
}

/// A small share for people: two digits that count.
fn percent(share: f64) -> String {
    match share * 100.0 {
        p if p >= 1.0 => format!("{p:.0} %"),
        p if p >= 0.1 => format!("{p:.1} %"),
        p if p >= 0.01 => format!("{p:.2} %"),
        _ => "less than 0.01 %".to_owned(),
    }
}

/// ln of the universal e-value against "canary share minus control share is on the other side of `margin`".
fn universal(canary: &Arm, control: &Arm, margin: f64) -> f64 {
    let side = |arm: &Arm| Side { bad: arm.x.clamp(0.0, arm.n), rows: arm.n, variance: 0.0 };
    let sides = [side(canary), side(control)];
    let beta = |s: &Side, (a, b): (f64, f64)| ln_beta(s.bad + a, s.rows - s.bad + b) - ln_beta(a, b);
    let bad = |s: &Side| log_mean(BAD_SHARES.map(|p: f64| s.bad * p.ln() + (s.rows - s.bad) * (1.0 - p).ln()));
    let healthy = beta(&sides[1], HEALTHY);
    let jeffreys = sides.iter().map(|s| beta(s, (0.5, 0.5))).sum();
    log_mean([jeffreys, bad(&sides[0]) + healthy, beta(&sides[0], HEALTHY) + healthy]) - largest(&sides, margin)
}

/// A canary without controls, against the margin itself.
fn alone(canary: &Arm, limits: &Limits) -> Verdict {
    let allowed = limits.margin.clamp(0.001, 0.999);
    let share = canary.x / canary.n;
    let evidence = log_mean(BAD_SHARES.map(|p| log_ratio(canary.x, canary.n, p.max(allowed), allowed)));
    let range = interval::share(canary.x, canary.n, limits.alpha());
    let enough = canary.devices >= limits.min_devices;
    // A few devices can never show a small failure share for sure: what they can do is not to fail, and to have answered at all.
    let outcome = match (evidence >= -(limits.alpha().clamp(1e-12, 1.0).ln()), enough && share <= allowed) {
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
    Verdict { metric: METRIC, outcome, estimate: Some(share), lower: Some(range.lower), upper: Some(range.upper), sentence }
}
