//! This instrument: a device against the rest of its cohort in the same block of time.
//!
//! Season and weather are common to a device and its cohort in the same days and drop out. What is left is the instrument's own
//! difference, which its base period shows. Against the training reference 100 % of sound devices alarm falsely in a seasonal
//! fleet, against the cohort alone 51 %. What a sound instrument may show is an interval per set of bins, the part that two answers have in
//! common ([`expected`]):
//!
//! - *offset*: the device's cumulative share at a cut lies between its cohort's shares at the cuts its offset away, one further at
//!   least. Wide, but it holds when the world bunches its values at a cut (rounded visibility, calm wind), where difference in
//!   differences alone raised 10 to 40 false alarms on 20 stations in 45 years of the real weather.
//! - *difference in differences*: the cohort's share now, shifted by the device's own logit difference, as wide as the other devices
//!   miss that prediction beyond noise ([`scatter::Agreement`]); from eight others on. It is what finds shifts below a tenth of share: of
//!   shifts by half a standard deviation in a seasonal, autocorrelated fleet the offset alone missed 75 % for three days.
//!
//! Missing and not-finite values are compared with the tight tolerance. Only inputs are watched: outputs and confidence are the
//! model's doing. An alarm stands until somebody sees to it ([`super::Monitor::repaired`]): a broken instrument may look sound in
//! a season that hides it.
//!
//! **Dependence is measured, not assumed**: in the base period the blocks' differences scatter around their mean with some
//! multiple φ of the binomial variance. Weather that lasts for days makes φ large; stations under one sky see the same
//! days, which makes it small. The median φ of the cohort, times a safety factor, tempers the evidence and says how well a base of so
//! many rows is known; a device that reports more autocorrelation than the median is tempered by as much more. Missing values have a φ of
//! their own: values that last for hours say nothing about how gaps come (with the values' φ, 5 % nulls took 17 windows and were
//! missed by half within three days, now 5).
//!
//! **The base grows** while it is short and nothing stirs: a day of autocorrelated rows leaves a quarter of share in doubt, and would
//! for ever. A block is judged before it is learnt from, so what is expected of it never depends on it.
//!
//! **Guarantee**: as in `drift`, with the null "the device's mean share stays within the tolerance of that interval", as far as φ and
//! the neighbours' misses go on to hold; so it is approximate where the cohort layer's is exact. `examples/bench_drift.rs` counts.
//!
//! What stays true: an instrument that is under alarm does not belong to the "rest" that others are compared with.
use std::collections::{BTreeMap, BTreeSet};

use leeway_protocol::ids::{Cohort, DeviceId};
use leeway_protocol::profile::FeatureReference;
use serde::{Deserialize, Serialize};

use super::components::{Component, Set, Shares, Weights, components};
use super::verdict::{About, Kind, Step, Stream, Verdict, add};
use super::window::{Block, Tally};
use super::{Setting, Standing};
use crate::sequential::Dependence;
use expected::{allowed, edges, offset, predict, shifted};
pub(super) use expected::{around, sets};
use scatter::{Agreement, Habit, Miss, Scatter};

mod expected;
mod scatter;

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
/// Effective rows at which a base period is long enough: its own uncertainty (Dvoretzky–Kiefer–Wolfowitz) is then 5 points of share.
const LEARN_ROWS: f64 = 1520.0;
/// It is at most this many times `base_blocks` long: where rows say next to nothing, more of them do not help.
const MAX_BASE: u32 = 60;

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
    /// By how much it misses what is predicted of it.
    #[serde(default)]
    habit: Habit,
    stream: Stream,
    /// The alarm that stands, as it was last judged.
    alarm: Option<Verdict>,
}

impl DeviceLayer {
    /// Judge a block; which (device, feature) pairs do not speak for the world: those under alarm, now or since an earlier manifest.
    pub(super) fn judge(
        &mut self,
        setting: &Setting<'_>,
        cohort: &Cohort,
        start_ms: i64,
        block: &Block,
        standing: &Standing,
    ) -> BTreeSet<(DeviceId, usize)> {
        let threshold = setting.device_threshold();
        let mut excluded = BTreeSet::new();
        for (index, feature) in setting.reference.features.iter().enumerate().filter(|(_, f)| is_instrument(f)) {
            let is_standing = |device: &DeviceId| standing.get(device).is_some_and(|alarms| alarms.contains_key(&feature.name));
            let (mut total, mut speaking) = (Vec::new(), BTreeSet::new());
            for (device, tally) in block {
                if is_standing(device) || self.is_alarmed(device, index) {
                    excluded.insert((device.clone(), index));
                } else {
                    add(&mut total, tally.features.get(index).map_or(&[], Vec::as_slice), 1.0);
                    speaking.insert(device);
                }
            }
            let (scatter, parts, sets) = (self.scatter(index), components(&feature.cuts), sets(&feature.cuts));
            let serial = median(speaking.iter().filter_map(|d| block.get(*d)).map(|t| serial(t, index)).collect()).unwrap_or(1.0);
            let special = self.special_scatter(index);
            let mut waiting = Vec::new();
            let mut agreement = Agreement::default();
            for (device, tally) in block.iter().filter(|(device, _)| !is_standing(device)) {
                let speaks = speaking.contains(device);
                if speaking.len() < MIN_OTHERS + usize::from(speaks) {
                    continue;
                }
                let (parts, sets, total) = (&parts, &sets, &total);
                let facts =
                    Facts { setting, feature, parts, sets, index, start_ms, tally, total, speaks, scatter, serial, special, threshold };
                if let Some(outlook) = self.instrument(device, index, feature).prepare(&facts) {
                    if speaks {
                        agreement.add(&outlook.miss);
                    }
                    waiting.push((device, facts, outlook));
                }
            }
            for (device, facts, outlook) in waiting {
                let widths = agreement.widths(&outlook.miss, facts.speaks);
                let instrument = self.instrument(device, index, feature);
                instrument.judge(&facts, &outlook, widths.as_deref());
                if instrument.stream.is_alarmed() {
                    let about = About { index, cohort, device: Some(device), threshold, harmless: setting.policy.harmless };
                    instrument.alarm = Some(instrument.stream.verdict(feature, &about, None));
                    excluded.insert((device.clone(), index));
                }
            }
        }
        excluded
    }

    fn instrument(&mut self, device: &DeviceId, index: usize, feature: &FeatureReference) -> &mut Instrument {
        let fresh = || Instrument { stream: Stream::latching(feature), ..Instrument::default() };
        self.devices.entry(device.clone()).or_default().entry(index).or_insert_with(fresh)
    }

    /// The median scatter of all instruments for this feature whose base is complete enough.
    fn scatter(&self, index: usize) -> Option<f64> {
        let factors = self.devices.values().filter_map(|d| d.get(&index)).filter_map(|i| i.scatter.factor(i.blocks)).collect();
        median(factors).map(|f| (f * SAFETY).max(MIN_SCATTER))
    }

    /// The same for missing and strange values, over the devices that had any in their base; where next to none had, nothing is known
    /// against their being independent.
    fn special_scatter(&self, index: usize) -> f64 {
        let factors: Vec<f64> =
            self.devices.values().filter_map(|d| d.get(&index)).filter_map(|i| i.scatter.special_factor(i.blocks)).collect();
        if factors.len() < MIN_OTHERS { 1.0 } else { median(factors).map_or(1.0, |f| (f * SAFETY).max(1.0)) }
    }

    /// By how much devices differ in one feature: the variance of their shares beyond noise, per compared set; empty while unknown.
    pub(super) fn between(&self, index: usize) -> Vec<f64> {
        let mut count = 0.0;
        let mut sums: Vec<f64> = Vec::new();
        for instrument in self.devices.values().filter_map(|d| d.get(&index)).filter(|i| i.alarm.is_none()) {
            let Some(variances) = instrument.scatter.own_way(instrument.blocks) else { continue };
            add(&mut sums, &variances, 1.0);
            count += 1.0;
        }
        if count < MIN_OTHERS as f64 { Vec::new() } else { sums.iter().map(|s| (s / count).max(0.0)).collect() }
    }

    fn is_alarmed(&self, device: &DeviceId, index: usize) -> bool {
        self.devices.get(device).and_then(|d| d.get(&index)).is_some_and(|i| i.alarm.is_some())
    }

    /// Devices with alarms.
    pub(super) fn alarms(&self) -> impl Iterator<Item = (&DeviceId, impl Iterator<Item = &Verdict>)> {
        let any = |features: &BTreeMap<usize, Instrument>| features.values().any(|i| i.alarm.is_some());
        let devices = self.devices.iter().filter(move |(_, features)| any(features));
        devices.map(|(device, features)| (device, features.values().filter_map(|i| i.alarm.as_ref())))
    }

    pub(super) fn forget(&mut self, device: &DeviceId) {
        self.devices.remove(device);
    }
}

/// All that one instrument is judged by in one block.
struct Facts<'a> {
    setting: &'a Setting<'a>,
    feature: &'a FeatureReference,
    parts: &'a [Component],
    /// Sets by which it is compared.
    sets: &'a [Set],
    index: usize,
    start_ms: i64,
    tally: &'a Tally,
    total: &'a [f64],
    /// Whether the device's own counts are in `total`.
    speaks: bool,
    scatter: Option<f64>,
    /// The median of the factors that the devices' reported autocorrelations stand for.
    serial: f64,
    /// How many times the binomial variance missing and strange values have.
    special: f64,
    threshold: f64,
}

/// How many times the binomial variance a device's autocorrelation gives its counts.
fn serial(tally: &Tally, index: usize) -> f64 {
    1.0 / Dependence { rho: tally.rho(index), sharing: 0.0 }.eta(1.0)
}

fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied()
}

/// What is known of one instrument before its block is judged.
struct Outlook {
    /// The share each compared set should have.
    shares: Vec<f64>,
    /// Its cohort's counts without its own.
    rest: Vec<f64>,
    /// φ: how many times the binomial variance its blocks have.
    spread: f64,
    /// By how much it misses them.
    miss: Miss,
}

impl Instrument {
    /// Learn, while the base period lasts; after it, what this block should show.
    fn prepare(&mut self, facts: &Facts<'_>) -> Option<Outlook> {
        let own = facts.tally.features.get(facts.index)?;
        let mut rest = facts.total.to_vec();
        if facts.speaks {
            add(&mut rest, own, -1.0);
        }
        if own.iter().sum::<f64>() <= 0.0 || rest.iter().sum::<f64>() <= 0.0 {
            return None;
        }
        if self.blocks < facts.setting.policy.base_blocks {
            self.learn(facts, own, &rest);
            return None;
        }
        // Devices are not alike: one whose rows depend on each other more than the median's is tempered by as much more.
        let serial = serial(facts.tally, facts.index);
        let spread = facts.scatter.map_or(serial, |median| median * (serial / facts.serial).max(1.0));
        let (seen, rest_now) = (Shares::new(own), Shares::new(&rest));
        let base = Shares::new(&self.own);
        let rest_base = Shares::new(&self.rest);
        let shares = shifted(facts.sets, &base, &rest_base, &rest_now);
        let miss = Miss::new(facts.sets, &seen, &shares, (spread / SAFETY, base.finite()), &self.habit);
        let miss = miss.of(facts.sets, &base, &rest_base);
        self.habit.add(&miss);
        Some(Outlook { shares, rest, spread, miss })
    }

    fn judge(&mut self, facts: &Facts<'_>, outlook: &Outlook, widths: Option<&[f64]>) {
        let Some(own) = facts.tally.features.get(facts.index) else { return };
        let (own_base, rest_base, rest_now) = (Shares::new(&self.own), Shares::new(&self.rest), Shares::new(&outlook.rest));
        let cuts = &facts.feature.cuts;
        let offset = offset(edges(cuts), &own_base, &rest_base);
        let bounds = |set: Set| {
            let (low, high) = allowed(cuts, set, offset, &own_base, &rest_base, &rest_now);
            let (least, most) = widths.map_or((0.0, 1.0), |w| around(cuts, set, &outlook.shares, w));
            // Either holds for a sound instrument. Where they exclude each other, one of them is wrong, and nobody knows which.
            if low.max(least) <= high.min(most) { (low.max(least), high.min(most)) } else { (low.min(least), high.max(most)) }
        };
        let expected = predict(facts.feature, &self.own, &self.rest, &rest_now);
        let known_rows = self.own.iter().sum::<f64>() / outlook.spread;
        let step = Step {
            start_ms: facts.start_ms,
            parts: facts.parts,
            expected: &expected,
            bounds: Some(&bounds),
            observed: own,
            weights: Weights {
                eta: (1.0 / outlook.spread).min(1.0),
                rows: known_rows,
                special_eta: 1.0 / facts.special,
                special_rows: own_base.total() / facts.special,
            },
            tolerance: &facts.setting.policy.device_tolerance,
            threshold: facts.threshold,
        };
        self.stream.update(&step);
        // A short base leaves so much doubt about the device's own difference that little can be found; it goes on while nothing stirs.
        let is_short = known_rows < LEARN_ROWS && self.blocks < facts.setting.policy.base_blocks.saturating_mul(MAX_BASE);
        if is_short && !self.stream.is_stirring() {
            self.learn(facts, own, &outlook.rest);
        }
    }

    fn learn(&mut self, facts: &Facts<'_>, own: &[f64], rest: &[f64]) {
        self.blocks += 1;
        add(&mut self.own, own, 1.0);
        add(&mut self.rest, rest, 1.0);
        self.scatter.add(facts.sets, &Shares::new(own), &Shares::new(rest));
    }
}
