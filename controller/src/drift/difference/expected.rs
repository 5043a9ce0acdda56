//! What a sound instrument may show now, given its base period and what its cohort shows.
//!
//! Two answers. [`predict`] is a number per bin: difference in differences, the cohort's share now shifted by the device's own logit
//! difference of the base period. [`allowed`] is an interval per set, for cohorts too small to show how far that number can be trusted
//! ([`super::scatter::Agreement`] says it where the cohort is large enough): an *offset* in the feature's own unit, read off the base
//! period's quantiles, puts the device's cumulative share at a cut between its cohort's shares at the cuts that far to either side,
//! and one cut further at least. What stays true: the base period itself lies in its interval.
use leeway_protocol::profile::{Cuts, FeatureReference, SPECIALS, Special};

use crate::drift::components::{Set, Shares};
use crate::sequential::{logistic, logit};

/// The sets by which a device is compared with its cohort.
pub(in crate::drift) fn sets(cuts: &Cuts) -> Vec<Set> {
    match cuts {
        Cuts::Numeric { .. } => (1..cuts.bins()).map(Set::Below).collect(),
        Cuts::Categorical { .. } => (0..cuts.bins()).map(Set::Bin).collect(),
    }
}

pub(super) fn edges(cuts: &Cuts) -> &[f64] {
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
pub(super) fn offset(edges: &[f64], own: &Shares, rest: &Shares) -> Option<f64> {
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
pub(super) fn allowed(cuts: &Cuts, set: Set, offset: Option<f64>, own: &Shares, rest: &Shares, now: &Shares) -> (f64, f64) {
    let rows = own.finite();
    let smooth = |share: f64, rows: f64| logit((share * rows + 0.5) / (rows + 1.0));
    let edges = edges(cuts);
    let cut = |i: usize| {
        let (low_cut, high_cut) = span(edges, i, offset.unwrap_or(0.0));
        let low = |shares: &Shares| low_cut.map_or(0.0, |a| shares.share(Set::Below(a)));
        let high = |shares: &Shares| shares.share(Set::Below(high_cut));
        let was = own.share(Set::Below(i));
        // Where the base period itself lies outside (a steep or lopsided distribution has no one offset), it is carried on as a shift.
        let own_way = if was < low(rest) {
            smooth(was, rows) - smooth(low(rest), rows)
        } else if was > high(rest) {
            smooth(was, rows) - smooth(high(rest), rows)
        } else {
            return (low(now), high(now));
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

/// Difference in differences: the share each compared set should have.
pub(super) fn shifted(sets: &[Set], own: &Shares, rest: &Shares, now: &Shares) -> Vec<f64> {
    let (rows, size) = (own.finite(), now.finite().max(1.0));
    // The same half row is added to both bases, so that equal shares, or none, give no shift at all.
    let smooth = |share: f64, rows: f64| logit((share * rows + 0.5) / (rows + 1.0));
    sets.iter().map(|&s| logistic(smooth(now.share(s), size) + smooth(own.share(s), rows) - smooth(rest.share(s), rows))).collect()
}

/// The interval around those shares, `widths` to each side; the whole of it for sets that are not compared.
pub(in crate::drift) fn around(cuts: &Cuts, set: Set, shares: &[f64], widths: &[f64]) -> (f64, f64) {
    let within = |at: usize| match (shares.get(at), widths.get(at)) {
        (Some(share), Some(width)) => ((share - width).max(0.0), (share + width).min(1.0)),
        _ => (0.0, 1.0),
    };
    match (cuts, set) {
        (Cuts::Numeric { .. }, Set::Below(i)) => i.checked_sub(1).map_or((0.0, 1.0), within),
        (Cuts::Numeric { .. }, Set::Bin(i)) => (0.0, (within(i).1 - i.checked_sub(1).map_or(0.0, |below| within(below).0)).max(0.0)),
        (Cuts::Categorical { .. }, Set::Bin(i)) => within(i),
        _ => (0.0, 1.0),
    }
}

/// The masses the device should show now, for people.
pub(super) fn predict(feature: &FeatureReference, own: &[f64], rest: &[f64], now: &Shares) -> Vec<f64> {
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
