//! This instrument: a device against the rest of its cohort in the same block of time.
//!
//! Season and weather are common to a device and its cohort in the same days and drop out. What is left is the instrument's own
//! difference, which its base period shows. Against the training reference 100 % of sound devices alarm falsely in a seasonal
//! fleet, against the cohort alone 51 %. Two models of "own difference" are used:
//!
//! - an *offset* in the feature's own unit, read off the base period's quantiles: then the device's cumulative share at a cut lies
//!   between its cohort's shares at the cuts that far to either side, and one cut further at least. This is an interval, not a
//!   number, on purpose: when the world bunches its values at a cut (rounded visibility, calm wind), an offset that was harmless
//!   moves a tenth of the values across it. Difference in differences on the logit scale, `logit F_cohort,t + logit
//!   F_device,base − logit F_cohort,base`, raised 10 to 40 false alarms on 20 stations in 45 years of the real weather that way; the
//!   interval raises none, and finds stuck, dead, shifted and silent instruments within one to five months of daily values.
//! - for a device that differs by more (a station on a mountain), that logit shift, beside the plain interval.
//!
//! Missing and not-finite values are compared with the tight tolerance. Only inputs are watched: outputs and confidence are the
//! model's doing. An alarm stands until somebody sees to it ([`super::Monitor::repaired`]): a broken instrument may look sound in
//! a season that hides it.
//!
//! **Dependence is measured, not assumed**: in the base period the blocks' differences scatter around their mean with some
//! multiple φ of the binomial variance. Weather that lasts for days makes φ large; stations under one sky see the same
//! days, which makes it small. The median φ of the cohort, times a safety factor, tempers the evidence and says how well a base of so
//! many rows is known. **Guarantee**: as in `drift`, with the null "the device's mean share stays within the tolerance of that
//! interval", as far as φ of the base period goes on to hold; so it is approximate where the cohort layer's is exact.
//!
//! What stays true: an instrument that is under alarm does not belong to the "rest" that others are compared with.
use std::collections::{BTreeMap, BTreeSet};

use leeway_protocol::ids::{Cohort, DeviceId};
use leeway_protocol::profile::{Cuts, FeatureReference, SPECIALS, Special};
use serde::{Deserialize, Serialize};

use super::components::{Component, Set, Shares, components};
use super::verdict::{About, Kind, Step, Stream, Verdict, add};
use super::window::{Block, Tally};
use super::{Setting, Standing};
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
    /// The alarm that stands, as it was last judged.
    alarm: Option<Verdict>,
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
            let (scatter, parts) = (self.scatter(index), components(&feature.cuts));
            for (device, tally) in block.iter().filter(|(device, _)| !is_standing(device)) {
                let speaks = speaking.contains(device);
                if speaking.len() < MIN_OTHERS + usize::from(speaks) {
                    continue;
                }
                let instrument = self
                    .devices
                    .entry(device.clone())
                    .or_default()
                    .entry(index)
                    .or_insert_with(|| Instrument { stream: Stream::latching(feature), ..Instrument::default() });
                let facts = Facts { setting, feature, parts: &parts, index, start_ms, tally, total: &total, speaks, scatter, threshold };
                instrument.judge(&facts);
                if instrument.stream.is_alarmed() {
                    let about = About { index, cohort, device: Some(device), threshold };
                    instrument.alarm = Some(instrument.stream.verdict(feature, &about, None));
                    excluded.insert((device.clone(), index));
                }
            }
        }
        excluded
    }

    /// The median scatter of all instruments for this feature whose base is complete enough.
    fn scatter(&self, index: usize) -> Option<f64> {
        let mut factors: Vec<f64> =
            self.devices.values().filter_map(|d| d.get(&index)).filter_map(|i| i.scatter.factor(i.blocks)).collect();
        factors.sort_by(f64::total_cmp);
        factors.get(factors.len() / 2).map(|f| (f * SAFETY).max(MIN_SCATTER))
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
        let (own_base, rest_base) = (Shares::new(&self.own), Shares::new(&self.rest));
        let offset = offset(edges(&facts.feature.cuts), &own_base, &rest_base);
        let bounds = |set: Set| allowed(&facts.feature.cuts, set, offset, &own_base, &rest_base, &rest_shares);
        let step = Step {
            start_ms: facts.start_ms,
            parts: facts.parts,
            expected: &expected,
            expected_rows: self.own.iter().sum::<f64>() / spread,
            bounds: Some(&bounds),
            observed: own,
            eta: (1.0 / spread).min(1.0),
            tolerance: &facts.setting.policy.device_tolerance,
            threshold: facts.threshold,
        };
        self.stream.update(&step);
    }
}

fn sets(cuts: &Cuts) -> Vec<Set> {
    match cuts {
        Cuts::Numeric { .. } => (1..cuts.bins()).map(Set::Below).collect(),
        Cuts::Categorical { .. } => (0..cuts.bins()).map(Set::Bin).collect(),
    }
}

fn edges(cuts: &Cuts) -> &[f64] {
    match cuts {
        Cuts::Numeric { edges } => edges,
        Cuts::Categorical { .. } => &[],
    }
}

/// An offset of up to this share of the inner cuts' range is carried over in the feature's own unit; a device that differs by more
/// in its base period (a station on a mountain) is predicted by difference in differences.
const MAX_OFFSET: f64 = 0.5;
/// How far the instrument's quantiles lay from its cohort's in the base period, in the feature's unit (the median over the inner
/// cuts, straight lines within bins); `None` if that is more than an offset.
fn offset(edges: &[f64], own: &Shares, rest: &Shares) -> Option<f64> {
    let bins = edges.len().saturating_sub(1);
    let edge = |i: usize| edges.get(i).copied().unwrap_or(0.0);
    let below = |i: usize| rest.share(Set::Below(i));
    let away = |i: usize| {
        let share = own.share(Set::Below(i));
        let b = (1..=bins).find(|&b| below(b) >= share).unwrap_or(bins);
        let (from, to) = (below(b - 1), below(b));
        let part = if to > from { ((share - from) / (to - from)).clamp(0.0, 1.0) } else { 0.5 };
        (edge(b - 1) + part * (edge(b) - edge(b - 1)) - edge(i)).abs()
    };
    let mut distances: Vec<f64> = (1..bins).map(away).collect();
    distances.sort_by(f64::total_cmp);
    let offset = distances.get(distances.len() / 2).copied().unwrap_or(0.0);
    let range = edge(bins.saturating_sub(1)) - edge(1);
    (offset <= MAX_OFFSET * range).then_some(offset)
}

/// The cuts that a value at cut `i` may come from under an offset: always the next one on either side, because the world may bunch
/// its values at a cut anew, and an offset that lay harmless between two cuts then crosses one.
fn span(edges: &[f64], i: usize, offset: f64) -> (Option<usize>, usize) {
    let at = edges.get(i).copied().unwrap_or(f64::INFINITY);
    let low = (0..i).rev().find(|&a| edges.get(a).is_some_and(|&e| e <= at - offset));
    let high = (i + 1..edges.len()).find(|&b| edges.get(b).is_some_and(|&e| e >= at + offset)).unwrap_or(edges.len());
    (low, high)
}

/// The lowest and highest share of a set that a sound instrument may show now.
fn allowed(cuts: &Cuts, set: Set, offset: Option<f64>, own: &Shares, rest: &Shares, now: &Shares) -> (f64, f64) {
    let rows = own.finite();
    let smooth = |share: f64, rows: f64| logit((share * rows + 0.5) / (rows + 1.0));
    let edges = edges(cuts);
    let cut = |i: usize| {
        let (low_cut, high_cut) = span(edges, i, offset.unwrap_or(0.0));
        let low = |shares: &Shares| low_cut.map_or(0.0, |a| shares.share(Set::Below(a)));
        let high = |shares: &Shares| shares.share(Set::Below(high_cut));
        let was = own.share(Set::Below(i));
        let own_way = match offset {
            None if was < low(rest) => smooth(was, rows) - smooth(low(rest), rows),
            None if was > high(rest) => smooth(was, rows) - smooth(high(rest), rows),
            _ => return (low(now), high(now)),
        };
        let moved = |share: f64| logistic(smooth(share, now.finite().max(1.0)) + own_way);
        // Where the world itself has changed its shape since, the shift may not hold: both the shifted and the plain share are allowed.
        (moved(low(now)).min(low(now)), moved(high(now)).max(high(now)))
    };
    let plain = |set: Set| {
        let share = now.share(set);
        (share, (share + (own.share(set) - rest.share(set)).max(0.0)).min(1.0))
    };
    match (cuts, set) {
        (Cuts::Numeric { .. }, Set::Below(i)) => cut(i),
        (Cuts::Numeric { .. }, Set::Bin(i)) => (0.0, (cut(i + 1).1 - cut(i).0).clamp(0.0, 1.0)),
        // Out of range is below the first edge, or not below the last one: an offset reaches there from the outermost bin.
        (Cuts::Numeric { .. }, Set::Special(Special::Below)) => (0.0, cut(0).1.max(plain(set).1)),
        (Cuts::Numeric { .. }, Set::Special(Special::Above)) => (0.0, (1.0 - cut(cuts.bins()).0).max(plain(set).1)),
        (Cuts::Categorical { .. }, Set::Bin(_)) => {
            let shift = smooth(own.share(set), rows) - smooth(rest.share(set), rows);
            let p = logistic(smooth(now.share(set), now.finite().max(1.0)) + shift);
            (p, p)
        }
        _ => plain(set),
    }
}

/// The masses the device should show now, for people.
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
