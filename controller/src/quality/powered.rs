//! Accuracy from few labels and many predictions of it: the prediction-powered mean with an interval that holds at all times.
//!
//! **Estimate** (Angelopoulos, Bates, Fannjiang, Jordan and Zrnic, "Prediction-powered inference", Science 2023): what confidence
//! predicts over *all* decisions, plus what labels show that prediction to be wrong by on the labelled ones. Labels correct the
//! prediction whatever it is worth, so this does **not** assume that there is no concept drift; a good prediction makes it
//! narrower than labels alone, a useless one a little wider.
//!
//! **Interval**: the prediction's mean over the decisions made is known exactly, and only the correction is uncertain. Its values,
//! weight · (right − predicted), are bounded by the calibration table and the weights, which were fixed before any label, so
//! betting holds at any size ([`bounded`]). **Null**: the correction over all decisions is m. **Guarantee**: for decisions chosen
//! to be labelled with known probabilities, whatever the answer was, the chance of ever being wrong is at most α, for
//! rows independent after tempering; for stretches that begin at a fixed time and grow. A stretch that slides (lately) has that
//! guarantee at each look.
//!
//! **Unequal inclusion**: a decision of a stratum asked with probability π counts π̄/π (Horvitz–Thompson; Zrnic and Candès, "Active
//! statistical inference", 2024). Where no plan was followed, labels are taken as a random sample of their stratum's decisions and π
//! is the share that was labelled. That is an assumption: users who label what looked wrong break it for every method.
use leeway_protocol::manifest::CONFIDENCE_BINS;
use serde::{Deserialize, Serialize};

use crate::sequential::bounded::{self, Seen};
use crate::sequential::interval::Interval;

/// Weights are at most this: a stratum asked far too rarely for its size would decide alone. Cutting biases towards the prediction
/// there, so [`Powered::cut`] tells.
const MAX_WEIGHT: f64 = 20.0;

/// Counts of one confidence bin.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BinCount {
    /// Decisions.
    pub decisions: u64,
    /// Labels.
    pub labels: u64,
    /// Right ones.
    pub correct: u64,
}

impl BinCount {
    pub(super) fn add(&mut self, other: Self) {
        self.decisions += other.decisions;
        self.labels += other.labels;
        self.correct += other.correct;
    }
}

/// Decisions that were chosen for labelling alike: one version in one cohort, or devices asked for the same share.
#[derive(Debug, Clone, PartialEq)]
pub struct Stratum<'a> {
    /// Counts by confidence bin.
    pub bins: &'a [BinCount],
    /// The accuracy predicted for each bin.
    pub predicted: [f64; CONFIDENCE_BINS],
    /// Factor that tempers the labels.
    pub eta: f64,
    /// Probability that a decision was asked for its label; the labelled share if no plan was followed.
    pub inclusion: Option<f64>,
}

/// The estimate.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Powered {
    /// Estimate and interval.
    pub interval: Interval,
    /// What confidence alone predicts.
    pub predicted: f64,
    /// By how much the labels correct that.
    pub correction: f64,
    /// Labels used.
    pub labels: u64,
    /// Decisions they speak for: those of strata without a label are left out.
    pub decisions: u64,
    /// Whether a weight had to be cut, so that a part of the fleet was asked too rarely for its size.
    pub cut: bool,
}

impl Stratum<'_> {
    fn sum(&self, of: impl Fn(&BinCount) -> u64) -> f64 {
        self.bins.iter().map(|bin| of(bin) as f64).sum()
    }

    /// The probability with which its decisions were asked.
    fn asked(&self) -> f64 {
        let share = self.sum(|b| b.labels) / self.sum(|b| b.decisions).max(1.0);
        self.inclusion.unwrap_or(share).clamp(0.0, 1.0)
    }
}

/// Accuracy over the decisions of all strata; `None` before the first label, and without a decision that has a confidence.
pub fn accuracy(strata: &[Stratum<'_>], alpha: f64) -> Option<Powered> {
    // A stratum nobody asks has no correction: it is not spoken for.
    let strata: Vec<&Stratum<'_>> = strata.iter().filter(|s| s.asked() > 0.0).collect();
    let decisions: f64 = strata.iter().map(|s| s.sum(|b| b.decisions)).sum();
    let labels: f64 = strata.iter().map(|s| s.sum(|b| b.labels)).sum();
    if decisions <= 0.0 || labels <= 0.0 {
        return None;
    }
    let worth = |s: &Stratum<'_>| s.bins.iter().zip(s.predicted).map(|(bin, f)| bin.decisions as f64 * f).sum::<f64>();
    let predicted = strata.iter().map(|s| worth(s)).sum::<f64>() / decisions;
    let asked = strata.iter().map(|s| s.asked() * s.sum(|b| b.decisions)).sum::<f64>() / decisions;
    let (mut seen, mut low, mut high, mut cut) = (Vec::new(), 0.0f64, 0.0f64, false);
    for stratum in strata {
        let wanted = asked / stratum.asked().max(1e-9);
        cut |= wanted > MAX_WEIGHT;
        let weight = wanted.min(MAX_WEIGHT);
        for (bin, predicted) in stratum.bins.iter().zip(stratum.predicted) {
            low = low.min(-weight * predicted);
            high = high.max(weight * (1.0 - predicted));
            let (right, wrong) = (bin.correct.min(bin.labels), bin.labels.saturating_sub(bin.correct));
            seen.push(Seen { value: weight * (1.0 - predicted), count: right as f64 * stratum.eta });
            seen.push(Seen { value: -weight * predicted, count: wrong as f64 * stratum.eta });
        }
    }
    let correction = bounded::interval(&seen, low, high, alpha);
    let share = |x: f64| (predicted + x).clamp(0.0, 1.0);
    let interval = Interval { estimate: share(correction.estimate), lower: share(correction.lower), upper: share(correction.upper) };
    let (labels, decisions) = (labels as u64, decisions as u64);
    Some(Powered { interval, predicted, correction: correction.estimate, labels, decisions, cut })
}

#[cfg(test)]
mod tests;
