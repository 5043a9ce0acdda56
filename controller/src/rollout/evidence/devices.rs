//! The first leg of a comparison: every device counts once, whatever it served.
//!
//! **Null**: the mean over canary devices of a device's own bad share is above that of control devices by no more than the
//! margin. **Guarantee**: failed with chance `alpha` at most, over all looks of the whole rollout, exact at any size, however
//! the inferences of one device depend on each other; a pass (worse by less than the margin) is wrong with at most `pass_alpha`.
//! The method is betting (Waudby-Smith and Ramdas 2024), in [`crate::sequential::bets`]. Assumed: devices are drawn into their
//! arms, and tell more than one thing between them. Where all live under one sky (one storm fails them all on the same days) the
//! arms still see the same days, but the mean over devices then speaks of these days only.
//!
//! A device is counted when it has [`SETTLED`] trials, with the share it has then, and never again: looking at it a hundred
//! times more must not make it a hundred devices. What goes wrong later is the business of [`super::rows`].
use super::*;
use crate::sequential::bets::{Values, excess};

/// Trials after which a device's own share stands for it.
pub const SETTLED: f64 = 50.0;

/// Bad shares of both arms' devices.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Settled {
    /// Devices of the stage.
    pub canary: Values,
    /// Devices held back.
    pub control: Values,
}

/// What a device's totals stand for once it settles with them: its bad share; `None` before, and ever after.
pub fn settles(metric: Metric, limits: &Limits, old: Totals, new: Totals) -> Option<f64> {
    let share = new.x / new.n;
    (old.n < SETTLED && new.n >= SETTLED).then(|| if metric.higher_is_better(limits) { 1.0 - share } else { share })
}

/// Compare the devices of both arms; `None` while one of them has no device that settled.
pub fn judge(metric: Metric, settled: &Settled, limits: &Limits) -> Option<Verdict> {
    let (canary, control) = (&settled.canary, &settled.control);
    let (new, old) = (canary.mean()?, control.mean()?);
    let nats = |alpha: f64| -alpha.clamp(1e-12, 1.0).ln();
    let (alpha, tolerated) = (limits.alpha(), limits.tolerated());
    let worse = excess(canary, control, tolerated, nats(alpha)) >= nats(alpha);
    let fine = excess(control, canary, -limits.margin, nats(limits.pass_alpha)) >= nats(limits.pass_alpha);
    let outcome = match (worse, fine) {
        (true, _) => Outcome::Fail,
        (false, true) => Outcome::Pass,
        (false, false) => Outcome::Inconclusive,
    };
    let ((low_a, high_a), (low_b, high_b)) = (canary.interval(alpha / 2.0), control.interval(alpha / 2.0));
    let worse_by = (new - old, low_a - high_b, high_a - low_b);
    let end = match outcome {
        Outcome::Fail => format!("more than the {:.1} allowed: fail", tolerated * 100.0),
        Outcome::Pass => format!("within the {:.1} allowed: pass", limits.margin * 100.0),
        Outcome::Inconclusive => format!("{:.1} allowed: inconclusive, more devices are needed", tolerated * 100.0),
    };
    let name = capital(&metric.title());
    let better = metric.higher_is_better(limits);
    let good = |bad: f64| if better { 1.0 - bad } else { bad } * 100.0;
    let side = |name: &str, values: &Values, mean: f64| format!("{name} {:.1} % as the mean of {} devices", good(mean), values.devices);
    let sides = format!("{}, {}", side("canary", canary, new), side("control", control, old));
    let range =
        format!("worse by {:.1} points, surely between {:.1} and {:.1}", worse_by.0 * 100.0, worse_by.1 * 100.0, worse_by.2 * 100.0);
    let sign = |(e, low, high): (f64, f64, f64)| if better { (-e, -high, -low) } else { (e, low, high) };
    let (estimate, lower, upper) = sign(worse_by);
    let sentence = format!("{name}, device by device: {sides}; {range}; {end}.");
    Some(Verdict { metric, outcome, estimate: Some(estimate), lower: Some(lower), upper: Some(upper), sentence })
}

/// One verdict of two legs: harm proven by either, else safety proven by either, else what the rows say.
pub fn join(rows: Verdict, devices: Option<Verdict>) -> Verdict {
    match devices {
        Some(devices) if devices.outcome == Outcome::Fail && rows.outcome != Outcome::Fail => devices,
        Some(devices) if devices.outcome == Outcome::Pass && rows.outcome == Outcome::Inconclusive => devices,
        _ => rows,
    }
}
