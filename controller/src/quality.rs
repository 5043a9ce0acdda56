//! Quality: how often the model is right, measured where labels arrive and estimated where they do not.
//!
//! Two figures, never mixed. *Measured*: labels by device and block, with an interval that holds at all times. *Estimated*: counts
//! of decisions by confidence bin times the accuracy each bin had on held-out data (CBPE from ten bins: on census data its
//! error is .005 where keeping the old figure gives .009). The estimate **assumes no concept drift** and is blind to it: with 15 %
//! of labels flipped it is wrong by 10 points, and on the weather it misses most of the fall. So every estimate carries that label,
//! and a concept-drift detector ([`labels`]) watches the labels themselves, with ADWIN and Page–Hinkley beside it ([`classic`]).
//! A third figure joins the two without the assumption: the prediction corrected by labels ([`powered`]). Which devices to ask
//! for labels, and how many, is planned in [`asking`].
//!
//! One [`Quality`] belongs to one manifest in one cohort; charts merge them ([`points`]). Keyed by application time where there is
//! one, so that fifty years replayed in two minutes read as fifty years. What stays true: a window's labels count once, in
//! the block in which they arrived.
pub mod asking;
pub mod classic;
pub mod estimate;
pub mod labels;
pub mod powered;

use std::collections::BTreeMap;

use leeway_protocol::digest::Digest;
use leeway_protocol::ids::DeviceId;
use leeway_protocol::manifest::{CONFIDENCE_BINS, Calibration, Manifest};
use leeway_protocol::report::{Labelled, WindowReport};
use leeway_protocol::time::Timestamp;
use serde::{Deserialize, Serialize};

use crate::sequential::detector::Budget;
use crate::sequential::interval::{self, Interval};
use crate::sequential::{Dependence, effective_devices};
use asking::LabelPolicy;
use classic::Opinion;
use labels::Concept;
use powered::{BinCount, Powered, Stratum};

/// How quality is judged.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct QualityPolicy {
    /// Blocks of so many milliseconds, on the application's axis where there is one.
    pub block_ms: i64,
    /// "Lately" is this long.
    pub recent_ms: i64,
    /// Blocks that wait for late windows before the detector takes them.
    pub late_blocks: i64,
    /// Rise of the error share that does not count as concept drift.
    pub tolerance: f64,
    /// Expected false alarms of concept drift in the whole fleet, per period.
    pub budget: Budget,
    /// Chance that an interval of measured accuracy is ever wrong.
    pub alpha: f64,
    /// Autocorrelation of being right, within a device.
    pub rho: f64,
    /// How far devices are right and wrong on the same events, 0 to 1.
    pub sharing: f64,
    /// How many labels are asked for, and where.
    pub labels: LabelPolicy,
}

impl Default for QualityPolicy {
    fn default() -> Self {
        Self {
            block_ms: 86_400_000,
            recent_ms: 30 * 86_400_000,
            late_blocks: 1,
            tolerance: 0.02,
            budget: Budget::default(),
            alpha: 0.05,
            rho: 0.1,
            sharing: 1.0,
            labels: LabelPolicy::default(),
        }
    }
}

/// Blocks kept; older ones are forgotten. Fifty years of months are 600.
pub const MAX_BLOCKS: usize = 4096;
/// Devices told apart within one block; more are counted together, which only widens intervals.
const MAX_DEVICES: usize = 4096;

/// What one block, or one point of a chart, holds.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Block {
    /// Decisions.
    pub decisions: u64,
    /// Sum of their estimated accuracies, over those with a confidence.
    pub estimated_sum: f64,
    /// Decisions with a confidence.
    pub confident: u64,
    /// Labels.
    pub labels: u64,
    /// Right ones.
    pub correct: u64,
    /// Labels by device.
    by_device: BTreeMap<DeviceId, u64>,
    /// Decisions and labels by confidence bin; empty without a decision.
    #[serde(default)]
    bins: Vec<BinCount>,
}

impl Block {
    fn add(&mut self, other: &Self) {
        self.decisions += other.decisions;
        self.estimated_sum += other.estimated_sum;
        self.confident += other.confident;
        self.labels += other.labels;
        self.correct += other.correct;
        for (device, labels) in &other.by_device {
            *self.by_device.entry(device.clone()).or_default() += labels;
        }
        if !other.bins.is_empty() {
            self.bins.resize(CONFIDENCE_BINS, BinCount::default());
            self.bins.iter_mut().zip(&other.bins).for_each(|(bin, more)| bin.add(*more));
        }
    }

    fn label(&mut self, device: &DeviceId, labels: Labelled) {
        self.labels += labels.rows;
        self.correct += labels.correct;
        if labels.rows > 0 && (self.by_device.len() < MAX_DEVICES || self.by_device.contains_key(device)) {
            *self.by_device.entry(device.clone()).or_default() += labels.rows;
        }
    }

    fn sort(&mut self, report: &WindowReport) {
        self.bins.resize(CONFIDENCE_BINS, BinCount::default());
        for ((bin, &decisions), labelled) in self.bins.iter_mut().zip(&report.confidence).zip(&report.labelled) {
            bin.add(BinCount { decisions: u64::from(decisions), labels: labelled.rows, correct: labelled.correct });
        }
    }

    /// Decisions and labels by confidence bin; empty without a decision.
    pub fn bins(&self) -> &[BinCount] {
        &self.bins
    }

    /// Estimated accuracy. Assumes no concept drift.
    pub fn estimated(&self) -> Option<f64> {
        (self.confident > 0).then(|| self.estimated_sum / self.confident as f64)
    }

    /// Measured accuracy with its interval.
    pub fn measured(&self, policy: &QualityPolicy) -> Option<Interval> {
        let eta = self.eta(policy);
        (self.labels > 0).then(|| interval::share(self.correct as f64 * eta, self.labels as f64 * eta, policy.alpha))
    }

    /// The factor that tempers this block's labels.
    pub(crate) fn eta(&self, policy: &QualityPolicy) -> f64 {
        let (sum, squares) = self.by_device.values().fold((0.0, 0.0), |(s, q), &n| (s + n as f64, q + (n * n) as f64));
        Dependence { rho: policy.rho, sharing: policy.sharing }.eta(effective_devices(sum, squares))
    }
}

/// Quality of one manifest in one cohort.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Quality {
    manifest: Digest,
    /// Accuracy on held-out data at training time.
    expected: Option<f64>,
    blocks: BTreeMap<i64, Block>,
    concept: Concept,
    data_time: bool,
    /// What a decision of each confidence bin was worth on held-out data.
    #[serde(default)]
    worth: Vec<f64>,
}

impl Quality {
    /// Nothing seen yet. The expected accuracy is the calibration table's own.
    pub fn new(manifest: Digest, calibration: &Calibration) -> Self {
        let worth = estimate::worth(calibration).map(Vec::from).unwrap_or_default();
        let (expected, concept) = (estimate::held_out(calibration), Concept::default());
        Self { manifest, expected, blocks: BTreeMap::new(), concept, data_time: false, worth }
    }

    /// Of a manifest whose digest is known.
    pub fn of(digest: Digest, manifest: &Manifest) -> Self {
        Self::new(digest, &manifest.calibration)
    }

    /// The manifest it is about.
    pub fn manifest(&self) -> Digest {
        self.manifest
    }

    /// Accuracy on held-out data at training time.
    pub fn expected(&self) -> Option<f64> {
        self.expected
    }

    /// Whether the axis is the application's time.
    pub fn data_time(&self) -> bool {
        self.data_time
    }

    /// Add one accepted window (duplicates are the caller's to drop). Windows of another manifest are refused with `false`.
    pub fn observe(&mut self, policy: &QualityPolicy, calibration: &Calibration, device: &DeviceId, report: &WindowReport) -> bool {
        if report.manifest != self.manifest {
            return false;
        }
        self.data_time |= report.data_time.is_some();
        let at = report.data_time.map_or(report.closed_at, |(_, last)| last);
        let index = at.as_millis().div_euclid(policy.block_ms.max(1));
        let labels = report.labels();
        let (estimated_sum, confident) = estimate::sum(&report.confidence, calibration);
        let block = self.blocks.entry(index).or_default();
        block.decisions += report.inferences;
        block.estimated_sum += estimated_sum;
        block.confident += confident;
        block.label(device, labels);
        if let Some(worth) = estimate::worth(calibration) {
            block.sort(report);
            self.worth = worth.to_vec();
        }
        self.concept.keep_late(index, device, labels);
        self.concept.judge(policy, self.expected, &self.blocks);
        while self.blocks.len() > MAX_BLOCKS {
            self.blocks.pop_first();
        }
        true
    }

    /// Everything of the last `recent_ms`.
    pub fn recent(&self, policy: &QualityPolicy) -> Block {
        let last = self.blocks.last_key_value().map_or(0, |(&i, _)| i);
        let span = (policy.recent_ms / policy.block_ms.max(1)).max(1);
        let mut sum = Block::default();
        self.blocks.range(last - span + 1..).for_each(|(_, b)| sum.add(b));
        sum
    }

    /// A block as a stratum of its own, for [`powered::accuracy`]; `None` for a model without a decision.
    pub fn stratum<'a>(&self, policy: &QualityPolicy, block: &'a Block) -> Option<Stratum<'a>> {
        let predicted: [f64; CONFIDENCE_BINS] = self.worth.as_slice().try_into().ok()?;
        (!block.bins.is_empty()).then(|| Stratum { bins: &block.bins, predicted, eta: block.eta(policy), inclusion: None })
    }

    /// The judgement now; `streams` such monitors share the budget.
    pub fn verdict(&self, policy: &QualityPolicy, streams: u64) -> QualityVerdict {
        let recent = self.recent(policy);
        let threshold = policy.budget.log_threshold(streams, policy.block_ms, 1.0);
        let log_evidence = self.concept.log_evidence();
        let mut verdict = QualityVerdict {
            expected: self.expected,
            estimated: recent.estimated(),
            measured: recent.measured(policy),
            powered: self.stratum(policy, &recent).and_then(|stratum| powered::accuracy(&[stratum], policy.alpha)),
            labels: recent.labels,
            also: self.concept.opinions(),
            concept_drift: log_evidence >= threshold,
            log_evidence,
            log_threshold: threshold,
            since: self.concept.since(policy),
            sentence: String::new(),
        };
        verdict.sentence = verdict.words();
        verdict
    }
}

/// What is known about quality now.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct QualityVerdict {
    /// Accuracy on held-out data at training time.
    pub expected: Option<f64>,
    /// Estimated from confidence, lately; assumes no concept drift.
    pub estimated: Option<f64>,
    /// Measured with labels, lately.
    pub measured: Option<Interval>,
    /// The estimate corrected by the labels, lately; assumes nothing about concept drift.
    #[serde(default)]
    pub powered: Option<Powered>,
    /// Labels behind it.
    pub labels: u64,
    /// What ADWIN and Page–Hinkley say about the same labels. They have no budget, and nothing follows from them.
    #[serde(default)]
    pub also: Vec<Opinion>,
    /// Whether the labels say that the errors rose past the tolerance.
    pub concept_drift: bool,
    /// ln of the evidence for that.
    pub log_evidence: f64,
    /// What it must reach.
    pub log_threshold: f64,
    /// Since when the evidence has been growing.
    pub since: Option<Timestamp>,
    /// All of it in a sentence.
    pub sentence: String,
}

impl QualityVerdict {
    fn words(&self) -> String {
        let percent = |share: f64| format!("{:.1} %", share * 100.0);
        let measured = match self.measured {
            Some(m) => format!(
                "measured accuracy {} of {} labels (surely {} to {})",
                percent(m.estimate),
                self.labels,
                percent(m.lower),
                percent(m.upper)
            ),
            None => "no labels lately".to_owned(),
        };
        let estimated = self.estimated.map_or_else(
            || "no confidence to estimate from".to_owned(),
            |e| format!("estimated {} from confidence (assumes no concept drift)", percent(e)),
        );
        let expected = self.expected.map(|e| format!("; {} was measured when it was trained", percent(e))).unwrap_or_default();
        let concept = if self.concept_drift {
            let since = self.since.map(|at| format!(" since {}", at.to_string().chars().take(10).collect::<String>())).unwrap_or_default();
            format!(
                " Errors have risen past the tolerance{since} (evidence e^{:.1} against e^{:.1}).",
                self.log_evidence, self.log_threshold
            )
        } else {
            String::new()
        };
        let powered = self.powered.map(|p| {
            let i = p.interval;
            format!(" The estimate corrected by the labels: {} (surely {} to {}).", percent(i.estimate), percent(i.lower), percent(i.upper))
        });
        let also = if self.labels > 0 && !self.also.is_empty() {
            let words: Vec<String> = self.also.iter().map(Opinion::words).collect();
            format!(" Also: {} (without a budget of false alarms; nothing follows from them).", words.join(", "))
        } else {
            String::new()
        };
        let powered = powered.unwrap_or_default();
        let text = format!("{measured}, {estimated}{expected}.{powered}{concept}{also}");
        let mut chars = text.chars();
        chars.next().map_or_else(String::new, |first| first.to_uppercase().chain(chars).collect())
    }
}

/// How a chart's axis is cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Period {
    /// Calendar years (UTC).
    Years,
    /// Stretches of so many milliseconds.
    Millis(i64),
}

/// One point of a chart.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Point {
    /// Start of the period.
    pub at: Timestamp,
    /// What it holds.
    pub block: Block,
    /// Measured accuracy with its interval.
    pub measured: Option<Interval>,
}

/// The series of several monitors (cohorts, manifests) on one axis, rising. Blocks are counted in the period they begin in.
pub fn points<'a>(monitors: impl IntoIterator<Item = &'a Quality>, policy: &QualityPolicy, period: Period) -> Vec<Point> {
    let mut sums: BTreeMap<i64, (Timestamp, Block)> = BTreeMap::new();
    for (&index, block) in monitors.into_iter().flat_map(|q| &q.blocks) {
        let start = Timestamp::from_millis(index * policy.block_ms.max(1));
        let (key, at) = match period {
            Period::Years => {
                // The middle of a block decides its year, so that a block that begins on the last days of December does not.
                let middle = start.plus_millis(policy.block_ms / 2).to_string();
                let year = middle.get(..4).unwrap_or("1970");
                (year.parse().unwrap_or(0), format!("{year}-01-01T00:00:00Z").parse().unwrap_or(start))
            }
            Period::Millis(length) => {
                let key = start.as_millis().div_euclid(length.max(1));
                (key, Timestamp::from_millis(key * length.max(1)))
            }
        };
        sums.entry(key).or_insert_with(|| (at, Block::default())).1.add(block);
    }
    sums.into_values().map(|(at, block)| Point { at, measured: block.measured(policy), block }).collect()
}

#[cfg(test)]
mod tests;
