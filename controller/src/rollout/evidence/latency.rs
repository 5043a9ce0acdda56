//! Latency, by quantiles: is the canary's slow end slower than the control group's, whatever the signed limit says?
//!
//! **The unit is the device.** Its value is the p95 of its own latency histogram over its first [`TIMED`] timed inferences, taken
//! once and never again: a device that serves a million slow inferences is one slow device. The first window of a device is left
//! out, because a version that has just been started is slow for reasons that pass, and controls were not started just now.
//!
//! **Null**: at every latency x, the share of canary devices at x·(1 + tolerance) or above is not larger than the share of control
//! devices at x or above. **Guarantee**: failed with chance `alpha` at most, over all looks of the whole rollout, exact at any size
//! ([`crate::sequential::ladder`], which also says why the confidence bands of Howard and Ramdas 2022 were tried and not taken).
//! **Pass**: never slower by more than the margin at *any* latency could hardly be proven, so this says less: the median canary
//! device is surely not slower than the median control device by more than the margin; wrong with `pass_alpha` at most.
//!
//! **Limits** have a meaning of their own here: `margin` and `tolerance` are relative. 0.5 is half as slow again, 1 twice as slow.
//! Estimate, lower and upper are the ratio of the medians minus 1. `rows`, `sharing` and `rho` are of no effect, `min_trials`
//! neither, and `min_devices` is at least [`FEW`].
//!
//! **Resolution.** Histograms have one bucket to the octave ([`leeway_protocol::report::LATENCY_BUCKETS`]). Within it the value is
//! read off as if the logarithms were normal there (their normal scores are interpolated), which is good to some 10 % where a
//! device's inferences spread over two or three buckets, and only to a factor of two where all lie in one. Being slower by exactly
//! an octave moves every bucket by one, so a tolerance of 0, 1 or 3 means true latencies, exactly; one between these means latencies
//! as read off, and in a fleet of very steady devices whose latency lies just below a bucket's edge, a few percent may look like
//! more than half as slow again. That is why the default policy tolerates 1.
use super::*;
use crate::sequential::boundary::normal_quantile;
use crate::sequential::ladder::{Gap, Ladder, Median, slower};

/// The quantile of a device's own latency that stands for it.
pub const QUANTILE: f64 = 0.95;
/// Timed inferences after which it is taken: five of them lie above.
pub const TIMED: u64 = 100;
/// Devices needed on each side before the absence of proof is a pass.
pub const FEW: u64 = 5;

/// Values of both arms' devices.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Paces {
    /// Devices of the stage.
    pub canary: Ladder,
    /// Devices held back.
    pub control: Ladder,
}

impl Paces {
    /// The same without some of their devices.
    pub fn without(&self, some: &Self) -> Self {
        Self { canary: self.canary.without(&some.canary), control: self.control.without(&some.control) }
    }
}

/// A device's histogram while it has too few timed inferences to stand for it: (bucket, inferences), in order.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Timing(Vec<(u8, u64)>);

impl Timing {
    /// Add a window's histogram.
    pub fn add(&mut self, buckets: &[u32]) {
        for (bucket, &more) in buckets.iter().enumerate().filter(|(_, n)| **n > 0) {
            let (bucket, more) = (bucket.min(usize::from(u8::MAX)) as u8, u64::from(more));
            match self.0.binary_search_by_key(&bucket, |b| b.0) {
                Ok(i) => self.0.iter_mut().skip(i).take(1).for_each(|b| b.1 = b.1.saturating_add(more)),
                Err(i) => self.0.insert(i, (bucket, more)),
            }
        }
    }

    /// What stands for the device, as the logarithm to base 2 of nanoseconds; `None` while there are too few.
    pub fn value(&self) -> Option<f64> {
        let all: u64 = self.0.iter().map(|b| b.1).sum();
        if all < TIMED {
            return None;
        }
        let wanted = QUANTILE * all as f64;
        let score = |rank: f64| normal_score((rank + 0.5) / (all as f64 + 1.0));
        let mut below = 0.0;
        for &(bucket, n) in &self.0 {
            let upto = below + n as f64;
            if upto >= wanted {
                let (low, high) = (score(below), score(upto));
                return Some(f64::from(bucket) + ((score(wanted) - low) / (high - low)).clamp(0.0, 1.0));
            }
            below = upto;
        }
        None
    }
}

/// The z with P(Z < z) = `p`.
fn normal_score(p: f64) -> f64 {
    if p < 0.5 { -normal_quantile(p) } else { normal_quantile(1.0 - p) }
}

const METRIC: Metric = Metric::Latency;

/// Compare the devices of both arms.
pub fn judge(paces: &Paces, limits: &Limits) -> Verdict {
    let (canary, control) = (&paces.canary, &paces.control);
    let (alpha, tolerated) = (limits.alpha(), limits.tolerated());
    let (Some(new), Some(old)) = (canary.median(alpha / 2.0), control.median(alpha / 2.0)) else {
        let missing = if canary.devices == 0 { "canary" } else { "control device" };
        let sentence = format!("Latency: nothing to compare yet, no {missing} has had {TIMED} timed inferences after its first window.");
        return Verdict { metric: METRIC, outcome: Outcome::Inconclusive, estimate: None, lower: None, upper: None, sentence };
    };
    let nats = -alpha.clamp(1e-12, 1.0).ln();
    let (evidence, gap) = slower(canary, control, 1.0 + tolerated, nats);
    let bounds = |alpha: f64| Some((canary.median(alpha / 2.0)?, control.median(alpha / 2.0)?));
    let fine = bounds(limits.pass_alpha).and_then(|(new, old)| Some(new.upper? - old.lower?));
    let enough = [canary, control].iter().all(|side| side.devices >= limits.min_devices);
    let outcome = match (enough && evidence >= nats, enough && fine.is_some_and(|most| most < (1.0 + limits.margin).log2())) {
        (true, _) => Outcome::Fail,
        (false, true) => Outcome::Pass,
        (false, false) => Outcome::Inconclusive,
    };
    let ratio = |octaves: f64| octaves.exp2() - 1.0;
    let lower = new.lower.zip(old.upper).map(|(new, old)| ratio(new - old));
    let upper = new.upper.zip(old.lower).map(|(new, old)| ratio(new - old));
    let estimate = ratio(new.value - old.value);
    let sentence = sentence((canary, &new), (control, &old), estimate, outcome, gap, limits);
    Verdict { metric: METRIC, outcome, estimate: Some(estimate), lower, upper, sentence }
}

type Group<'a> = (&'a Ladder, &'a Median);

fn sentence(canary: Group<'_>, control: Group<'_>, ratio: f64, outcome: Outcome, gap: Option<Gap>, limits: &Limits) -> String {
    let side = |(ladder, median): Group<'_>| {
        let range = match (median.lower, median.upper) {
            (Some(low), Some(high)) => format!("{} to {}", figure(low), figure(high)),
            _ => "too few to bound it".to_owned(),
        };
        let devices = if ladder.devices == 1 { "device" } else { "devices" };
        format!("{} ms ({range}) on {} {devices}", figure(median.value), ladder.devices)
    };
    let tolerated = limits.tolerated() * 100.0;
    let end = match (outcome, gap) {
        (Outcome::Fail, Some(Gap { at, high, low })) => format!(
            "{:.0} % of canaries take {} ms or longer, and {:.0} % of controls {} ms or longer, more than {tolerated:.0} % slower is proven: fail",
            high * 100.0,
            figure(at + (1.0 + limits.tolerated()).log2()),
            low * 100.0,
            figure(at)
        ),
        (Outcome::Fail, None) => format!("more than the {tolerated:.0} % allowed: fail"),
        (Outcome::Pass, _) => format!("within the {:.0} % allowed: pass", limits.margin * 100.0),
        (Outcome::Inconclusive, _) => format!("{tolerated:.0} % allowed: inconclusive, more devices are needed"),
    };
    let slower = if ratio < 0.0 { format!("{:.0} % faster", -ratio * 100.0) } else { format!("{:.0} % slower", ratio * 100.0) };
    format!("Median device's p95 latency: canary {}, control {}; {slower}; {end}.", side(canary), side(control))
}

/// Milliseconds with about three digits that count.
fn figure(octaves: f64) -> String {
    match octaves.exp2() / 1e6 {
        ms if ms >= 100.0 => format!("{ms:.0}"),
        ms if ms >= 1.0 => format!("{ms:.1}"),
        ms => format!("{ms:.3}"),
    }
}

#[cfg(test)]
mod tests;
