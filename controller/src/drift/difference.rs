//! This instrument: a device against the rest of its cohort in the same block of time.
//!
//! Difference in differences: what the device's share at a cut should be now is its cohort's share now, moved on the logit scale
//! by what lay between the two in the device's base period,
//!
//! ```text
//! p(cut, t) = logistic( logit F_cohort,t + logit F_device,base − logit F_cohort,base )
//! ```
//!
//! so a constant offset of the instrument, the season and the weather all drop out. Against the training reference 100 % of sound
//! devices alarm falsely in a seasonal fleet, against the cohort alone 51 %, this way none of 500, and 20 of 20 broken ones
//! are found. Only inputs are watched: outputs and confidence are the model's doing, not an instrument's.
//!
//! **Dependence is measured, not assumed**: in the base period the blocks' differences scatter around their mean with some
//! multiple φ of the binomial variance. Weather that lasts for days makes φ large; stations under one sky see the same
//! days, which makes it small. The median φ of the cohort, times a safety factor, tempers the evidence and says how well a base of so
//! many rows is known. **Guarantee**: as in `drift`, with the null "the device's mean share stays within the tolerance of that
//! prediction", as far as φ of the base period goes on to hold; so it is approximate where the cohort layer's is exact.
//!
//! What stays true: an instrument that is under alarm does not belong to the "rest" that others are compared with.
use std::collections::{BTreeMap, BTreeSet};

use leeway_protocol::ids::{Cohort, DeviceId};
use leeway_protocol::profile::{Cuts, FeatureReference, SPECIALS, Special};
use serde::{Deserialize, Serialize};

use super::Setting;
use super::components::{Set, Shares};
use super::verdict::{About, Kind, Step, Stream, Verdict, add};
use super::window::{Block, Tally};
use crate::sequential::{Dependence, logistic, logit};

/// Whether the feature is read by an instrument.
pub fn is_instrument(feature: &FeatureReference) -> bool {
    Kind::of(&feature.source) == Kind::Input
}

/// Other devices needed to compare with: one alone would make two suspects of every difference.
const MIN_OTHERS: usize = 3;
/// The measured scatter is multiplied by this: it is a median over few blocks.
const SAFETY: f64 = 1.5;
/// It is taken as at least this: no base is known ten times better than its rows say.
const MIN_SCATTER: f64 = 0.2;
/// Base blocks from which a device's scatter counts.
const MIN_SCATTER_BLOCKS: u32 = 4;

/// All devices of the cohort.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct DeviceLayer {
    /// By device, then by feature of the reference (only instruments).
    devices: BTreeMap<DeviceId, BTreeMap<usize, Instrument>>,
}

/// One instrument against the rest.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
struct Instrument {
    blocks: u32,
    own: Vec<f64>,
    rest: Vec<f64>,
    scatter: Scatter,
    stream: Stream,
}

/// Moments of the difference of shares over base blocks.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
struct Scatter {
    rows: f64,
    /// Σ n·d per set.
    sums: Vec<f64>,
    /// Σ n·d², over all sets.
    squares: f64,
    /// Σ n·p(1 − p), over all sets.
    binomial: f64,
}

impl Scatter {
    fn add(&mut self, sets: &[Set], own: &Shares, rest: &Shares) {
        let rows = own.finite();
        let differences: Vec<f64> = sets.iter().map(|&s| own.share(s) - rest.share(s)).collect();
        add(&mut self.sums, &differences, rows);
        self.squares += rows * differences.iter().map(|d| d * d).sum::<f64>();
        self.binomial += rows * sets.iter().map(|&s| rest.share(s)).map(|p| p * (1.0 - p)).sum::<f64>();
        self.rows += rows;
    }

    /// Variance of a block's difference as a multiple of the binomial one.
    fn factor(&self, blocks: u32) -> Option<f64> {
        if blocks < MIN_SCATTER_BLOCKS || self.binomial <= 0.0 || self.rows <= 0.0 {
            return None;
        }
        let around = self.squares - self.sums.iter().map(|s| s * s).sum::<f64>() / self.rows;
        Some(around.max(0.0) / f64::from(blocks - 1) / (self.binomial / self.rows))
    }
}

impl DeviceLayer {
    /// Judge a block; which (device, feature) pairs are under alarm afterwards.
    pub(super) fn judge(
        &mut self,
        setting: &Setting<'_>,
        start_ms: i64,
        block: &Block,
        standing: &BTreeSet<DeviceId>,
    ) -> BTreeSet<(DeviceId, usize)> {
        let threshold = setting.device_threshold();
        let mut alarmed = BTreeSet::new();
        for (index, feature) in setting.reference.features.iter().enumerate().filter(|(_, f)| is_instrument(f)) {
            let under_alarm = |layer: &Self, device: &DeviceId| standing.contains(device) || layer.is_alarmed(device, index, threshold);
            let mut total: Vec<f64> = Vec::new();
            let mut speaking = BTreeSet::new();
            for (device, tally) in block {
                if !under_alarm(self, device) {
                    add(&mut total, tally.features.get(index).map_or(&[], Vec::as_slice), 1.0);
                    speaking.insert(device.clone());
                }
            }
            let scatter = self.scatter(index);
            for (device, tally) in block.iter().filter(|(d, _)| !standing.contains(*d)) {
                let speaks = speaking.contains(device);
                if speaking.len() < MIN_OTHERS + usize::from(speaks) {
                    continue;
                }
                let instrument = self
                    .devices
                    .entry(device.clone())
                    .or_default()
                    .entry(index)
                    .or_insert_with(|| Instrument { stream: Stream::new(feature), ..Instrument::default() });
                let facts = Facts { setting, feature, index, start_ms, tally, total: &total, speaks, scatter, threshold };
                instrument.judge(&facts);
                if self.is_alarmed(device, index, threshold) {
                    alarmed.insert((device.clone(), index));
                }
            }
        }
        alarmed
    }

    /// The median scatter of all instruments for this feature whose base is complete enough.
    fn scatter(&self, index: usize) -> Option<f64> {
        let mut factors: Vec<f64> =
            self.devices.values().filter_map(|d| d.get(&index)).filter_map(|i| i.scatter.factor(i.blocks)).collect();
        factors.sort_by(f64::total_cmp);
        factors.get(factors.len() / 2).map(|f| (f * SAFETY).max(MIN_SCATTER))
    }

    fn is_alarmed(&self, device: &DeviceId, index: usize, threshold: f64) -> bool {
        self.devices.get(device).and_then(|d| d.get(&index)).is_some_and(|i| i.stream.log_evidence() >= threshold)
    }

    pub(super) fn alarmed(&self, threshold: f64) -> BTreeSet<DeviceId> {
        let any = |features: &BTreeMap<usize, Instrument>| features.values().any(|i| i.stream.log_evidence() >= threshold);
        self.devices.iter().filter(|(_, features)| any(features)).map(|(device, _)| device.clone()).collect()
    }

    pub(super) fn forget(&mut self, device: &DeviceId) {
        self.devices.remove(device);
    }

    pub(super) fn verdicts(&self, setting: &Setting<'_>, cohort: &Cohort) -> Vec<Verdict> {
        let threshold = setting.device_threshold();
        let mut verdicts = Vec::new();
        for (device, features) in &self.devices {
            for (&index, instrument) in features {
                let Some(feature) = setting.reference.features.get(index) else { continue };
                if instrument.stream.log_evidence() >= threshold {
                    let about = About { index, cohort, device: Some(device), threshold };
                    verdicts.push(instrument.stream.verdict(feature, &about, None));
                }
            }
        }
        verdicts
    }
}

/// All that one instrument is judged by in one block.
struct Facts<'a> {
    setting: &'a Setting<'a>,
    feature: &'a FeatureReference,
    index: usize,
    start_ms: i64,
    tally: &'a Tally,
    total: &'a [f64],
    /// Whether the device's own counts are in `total`.
    speaks: bool,
    scatter: Option<f64>,
    threshold: f64,
}

impl Instrument {
    fn judge(&mut self, facts: &Facts<'_>) {
        let Some(own) = facts.tally.features.get(facts.index) else { return };
        let mut rest = facts.total.to_vec();
        if facts.speaks {
            add(&mut rest, own, -1.0);
        }
        let (own_shares, rest_shares) = (Shares::new(own), Shares::new(&rest));
        if own.iter().sum::<f64>() <= 0.0 || rest.iter().sum::<f64>() <= 0.0 {
            return;
        }
        if self.blocks < facts.setting.policy.base_blocks {
            self.blocks += 1;
            add(&mut self.own, own, 1.0);
            add(&mut self.rest, &rest, 1.0);
            self.scatter.add(&sets(&facts.feature.cuts), &own_shares, &rest_shares);
            return;
        }
        let reported = Dependence { rho: facts.tally.rho(facts.index), sharing: 0.0 }.eta(1.0);
        let spread = facts.scatter.unwrap_or(1.0 / reported);
        let expected = predict(facts.feature, &self.own, &self.rest, &rest_shares);
        let step = Step {
            start_ms: facts.start_ms,
            expected: &expected,
            expected_rows: self.own.iter().sum::<f64>() / spread,
            observed: own,
            eta: (1.0 / spread).min(1.0),
            tolerance: &facts.setting.policy.device_tolerance,
            threshold: facts.threshold,
        };
        self.stream.update(facts.feature, &step);
    }
}

fn sets(cuts: &Cuts) -> Vec<Set> {
    match cuts {
        Cuts::Numeric { .. } => (1..cuts.bins()).map(Set::Below).collect(),
        Cuts::Categorical { .. } => (0..cuts.bins()).map(Set::Bin).collect(),
    }
}

/// The masses the device should show now.
fn predict(feature: &FeatureReference, own: &[f64], rest: &[f64], now: &Shares) -> Vec<f64> {
    let (own, rest) = (Shares::new(own), Shares::new(rest));
    let mut masses = vec![0.0; feature.bins()];
    for special in [Special::Null, Special::NotFinite, Special::Below, Special::Above, Special::Unseen] {
        let set = Set::Special(special);
        let excess = (own.share(set) - rest.share(set)).max(0.0);
        masses[special as usize] = (now.share(set) + excess).min(1.0);
    }
    let missing = (masses[Special::Null as usize] + masses[Special::NotFinite as usize]).min(1.0);
    let outside: f64 = [Special::Below, Special::Above, Special::Unseen].iter().map(|&s| masses[s as usize]).sum();
    let inside = (1.0 - missing - outside).max(0.0);
    // The same half row is added to both bases, so that equal shares, or none, give no shift at all.
    let rows = own.finite();
    let shift = |set: Set| logit((own.share(set) * rows + 0.5) / (rows + 1.0)) - logit((rest.share(set) * rows + 0.5) / (rows + 1.0));
    let moved = |set: Set| {
        let size = now.finite().max(1.0);
        logistic(logit((now.share(set) * size + 0.5) / (size + 1.0)) + shift(set))
    };
    let finite = (1.0 - missing).max(1e-9);
    let bins = feature.cuts.bins();
    match &feature.cuts {
        Cuts::Numeric { .. } => {
            let (floor, ceiling) = (masses[Special::Below as usize], 1.0 - missing - masses[Special::Above as usize]);
            let mut below = floor;
            for i in 0..bins {
                let next =
                    if i + 1 < bins { (moved(Set::Below(i + 1)) * finite).clamp(below, ceiling.max(below)) } else { ceiling.max(below) };
                masses[SPECIALS + i] = next - below;
                below = next;
            }
        }
        Cuts::Categorical { .. } => {
            let raw: Vec<f64> = (0..bins).map(|i| moved(Set::Bin(i))).collect();
            let sum: f64 = raw.iter().sum::<f64>().max(1e-12);
            raw.iter().enumerate().for_each(|(i, m)| masses[SPECIALS + i] = m / sum * inside);
        }
    }
    masses
}
