//! What is tested about one feature: shares of sets of bins, each a little wrong in each direction.
//!
//! A set is everything below an inner cut (mean and spread show there), one regular bin (a stuck sensor shows there), or one
//! special bin. For each set, direction and effect d the increment is the likelihood ratio of "expected ± tolerance ± d" against
//! "expected ± tolerance". The null side already contains the tolerance, so E[L] ≤ 1 for every share within it, and a
//! share that wanders inside the tolerance for ever raises nothing. Special bins have a tight tolerance of their own: 5 % nulls
//! where there were none is news within one or two windows, while the cuts are taken over finite values only.
use leeway_protocol::profile::{Cuts, SPECIALS, Special};
use serde::{Deserialize, Serialize};

use crate::sequential::EDGE;

/// Effects beyond the tolerance that are looked for in cuts and bins; between two of them little power is lost.
const EFFECTS: [f64; 5] = [0.02, 0.05, 0.1, 0.2, 0.4];
/// The same for special bins, which are nearly empty in the reference.
const SPECIAL_EFFECTS: [f64; 4] = [0.01, 0.05, 0.2, 0.5];
/// Chance that a reference made from few rows is further from its own world than the widened tolerance.
const REFERENCE_ALPHA: f64 = 1e-3;

/// ln 0, finite so that it can be added.
const NOTHING_TO_FIND: f64 = -1e30;

/// How far a share may be from the expected one before it counts as moved. Widened where the expectation itself comes from few rows.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tolerance {
    /// Cumulative shares at inner cuts.
    pub share: f64,
    /// Shares of single regular bins.
    pub bin: f64,
    /// Shares of special bins: null, not finite, below, above, unseen.
    pub special: f64,
}

/// A set of bins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Set {
    /// Everything below regular bin `.0`, of the finite values.
    Below(usize),
    /// Regular bin `.0`, of the finite values.
    Bin(usize),
    /// A special bin, of all values.
    Special(Special),
}

/// One component of a feature's detector.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Component {
    /// Whose share.
    pub set: Set,
    /// Whether more, or less, than expected is looked for.
    pub up: bool,
    /// How much beyond the tolerance.
    pub effect: f64,
}

/// The components of a feature cut like this, in the order of their recursions; the order is part of the stored state.
pub fn components(cuts: &Cuts) -> Vec<Component> {
    let bins = cuts.bins();
    let both = |set| EFFECTS.into_iter().flat_map(move |effect| [true, false].map(|up| Component { set, up, effect }));
    let up = |set| EFFECTS.into_iter().map(move |effect| Component { set, up: true, effect });
    let special = |which| SPECIAL_EFFECTS.into_iter().map(move |effect| Component { set: Set::Special(which), up: true, effect });
    let always = [Special::Null, Special::NotFinite].into_iter().flat_map(special);
    match cuts {
        Cuts::Numeric { .. } => {
            let outside = [Special::Below, Special::Above].into_iter().flat_map(special);
            let cuts = (1..bins).flat_map(|i| both(Set::Below(i)));
            cuts.chain((0..bins).flat_map(|i| up(Set::Bin(i)))).chain(always).chain(outside).collect()
        }
        Cuts::Categorical { .. } => (0..bins).flat_map(|i| both(Set::Bin(i))).chain(always).chain(special(Special::Unseen)).collect(),
    }
}

/// Sums over the bins of one feature, from which the share of any set follows.
#[derive(Debug, Clone, PartialEq)]
pub struct Shares {
    total: f64,
    finite: f64,
    bins: Vec<f64>,
    /// `below[i]`: everything below regular bin i.
    below: Vec<f64>,
}

impl Shares {
    /// From counts or masses per bin, special bins first.
    pub fn new(bins: &[f64]) -> Self {
        let at = |i: usize| bins.get(i).copied().unwrap_or(0.0);
        let total: f64 = bins.iter().sum();
        let mut sum = at(Special::Below as usize);
        let mut below = Vec::with_capacity(bins.len());
        for &n in bins.iter().skip(SPECIALS) {
            below.push(sum);
            sum += n;
        }
        below.push(sum);
        let finite = (total - at(Special::Null as usize) - at(Special::NotFinite as usize)).max(0.0);
        Self { total, finite, bins: bins.to_vec(), below }
    }

    /// (in the set, in all) for a set.
    pub fn of(&self, set: Set) -> (f64, f64) {
        match set {
            Set::Below(i) => (self.below.get(i).copied().unwrap_or(self.finite), self.finite),
            Set::Bin(i) => (self.bins.get(SPECIALS + i).copied().unwrap_or(0.0), self.finite),
            Set::Special(which) => (self.bins.get(which as usize).copied().unwrap_or(0.0), self.total),
        }
    }

    /// The share of a set; 0 of nothing.
    pub fn share(&self, set: Set) -> f64 {
        let (part, all) = self.of(set);
        if all > 0.0 { part / all } else { 0.0 }
    }

    /// All values, missing ones included.
    pub fn total(&self) -> f64 {
        self.total
    }

    /// Finite values.
    pub fn finite(&self) -> f64 {
        self.finite
    }
}

/// How much one counted row is worth, and how many rows the expectation comes from. Missing and strange values come and go for reasons
/// of their own, so their rows are weighed apart from those of the values.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Weights {
    /// η of cuts and regular bins.
    pub eta: f64,
    /// Rows behind their expected shares.
    pub rows: f64,
    /// η of special bins.
    pub special_eta: f64,
    /// Rows behind theirs.
    pub special_rows: f64,
}

impl Weights {
    /// The same for all sets.
    pub fn even(eta: f64, rows: f64) -> Self {
        Self { eta, rows, special_eta: eta, special_rows: rows }
    }

    fn of(&self, set: Set) -> (f64, f64) {
        if matches!(set, Set::Special(_)) { (self.special_eta, self.special_rows) } else { (self.eta, self.rows) }
    }
}

/// ln L of every component: `observed` counts, weighed, against the lowest and highest share that `expected` allows each set.
pub fn increments(
    components: &[Component],
    expected: impl Fn(Set) -> (f64, f64),
    observed: &Shares,
    weights: &Weights,
    tolerance: &Tolerance,
) -> Vec<f64> {
    // Components of one set follow each other: what is allowed, and the null's logarithms, are the costly part.
    let mut known: Option<Known> = None;
    let one = |c: &Component| {
        let (hits, rows) = observed.of(c.set);
        if rows <= 0.0 {
            return 0.0;
        }
        let (set, bounds, nulls) = known.get_or_insert_with(|| (c.set, expected(c.set), [None; 2]));
        if *set != c.set {
            (*set, *bounds, *nulls) = (c.set, expected(c.set), [None; 2]);
        }
        let (eta, expected_rows) = weights.of(c.set);
        let share = if c.up { bounds.1 } else { bounds.0 }.clamp(0.0, 1.0);
        let null = nulls[usize::from(c.up)].get_or_insert_with(|| {
            let slack = slack(c.set, share, expected_rows, tolerance);
            Null::new(if c.up { share + slack } else { share - slack })
        });
        // Where the tolerance already reaches the end of the scale there is nothing left to find. L = 0, not 1: a recursion
        // that learns nothing must not grow with time.
        if null.share <= 0.0 || null.share >= 1.0 {
            return NOTHING_TO_FIND;
        }
        let p0 = null.share;
        let p1 = if c.up { (p0 + c.effect).min(0.5 * (1.0 + p0)) } else { (p0 - c.effect).max(0.5 * p0) };
        let p1 = p1.clamp(EDGE, 1.0 - EDGE);
        eta * (hits * (p1.ln() - null.log) + (rows - hits) * ((1.0 - p1).ln() - null.log_rest))
    };
    components.iter().map(one).collect()
}

/// A set, what is allowed of it, and the null's side below and above.
type Known = (Set, (f64, f64), [Option<Null>; 2]);

/// The null's side of a likelihood ratio.
#[derive(Debug, Clone, Copy)]
struct Null {
    share: f64,
    log: f64,
    log_rest: f64,
}

impl Null {
    fn new(share: f64) -> Self {
        let p = share.clamp(EDGE, 1.0 - EDGE);
        Self { share, log: p.ln(), log_rest: (1.0 - p).ln() }
    }
}

/// The tolerance of a set, widened by how far a share estimated from `rows` rows may be from the truth.
fn slack(set: Set, share: f64, rows: f64, tolerance: &Tolerance) -> f64 {
    let rows = rows.max(1.0);
    let nats = (2.0 / REFERENCE_ALPHA).ln();
    match set {
        // Dvoretzky–Kiefer–Wolfowitz: for all cuts at once.
        Set::Below(_) => tolerance.share.max((nats / (2.0 * rows)).sqrt()),
        // Bernstein, for one share.
        Set::Bin(_) => tolerance.bin.max((2.0 * share * (1.0 - share) * nats / rows).sqrt() + nats / (3.0 * rows)),
        // Nothing seen in `rows` rows leaves room for a share of ln(1/alpha)/rows.
        Set::Special(_) => tolerance.special.max((2.0 * share * nats / rows).sqrt() - (REFERENCE_ALPHA.ln() / rows)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sequential::log_ratio;

    fn cuts() -> Cuts {
        Cuts::Numeric { edges: (0..=10).map(f64::from).collect() }
    }

    const TOLERANCE: Tolerance = Tolerance { share: 0.03, bin: 0.02, special: 0.001 };

    #[test]
    fn ten_bins_make_some_hundred_and_fifty_components() {
        assert_eq!(components(&cuts()).len(), 9 * 10 + 10 * 5 + 4 * 4);
        assert_eq!(components(&Cuts::Categorical { values: vec![0, 1] }).len(), 2 * 10 + 3 * 4);
    }

    #[test]
    fn every_component_has_mean_at_most_one_within_the_tolerance() {
        // E[L] of one row, exactly: the null's own share p gives p·L(1) + (1 − p)·L(0).
        let mut masses = vec![0.0; SPECIALS];
        masses.extend([0.02, 0.03, 0.05, 0.1, 0.1, 0.2, 0.2, 0.1, 0.1, 0.1]);
        let expected = Shares::new(&masses);
        let components = components(&cuts());
        for (i, c) in components.iter().enumerate() {
            let share = expected.share(c.set);
            let slack = slack(c.set, share, 1e9, &TOLERANCE);
            let one = |hit: f64| {
                let ln_l = |k: f64| {
                    let p0 = if c.up { share + slack } else { share - slack };
                    if p0 <= 0.0 {
                        return 0.0;
                    }
                    let p1 = if c.up { (p0 + c.effect).min(0.5 * (1.0 + p0)) } else { (p0 - c.effect).max(0.5 * p0) };
                    log_ratio(k, 1.0, p1, p0)
                };
                hit * ln_l(1.0).exp() + (1.0 - hit) * ln_l(0.0).exp()
            };
            for p in [share - slack, share, share + slack] {
                assert!(one(p.clamp(0.0, 1.0)) <= 1.0 + 1e-9, "component {i} {c:?} at {p}");
            }
        }
    }

    #[test]
    fn five_percent_nulls_are_loud_in_one_window() {
        let mut masses = vec![0.0; SPECIALS];
        masses.extend([0.1; 10]);
        let expected = Shares::new(&masses);
        let mut counts = vec![5.0, 0.0, 0.0, 0.0, 0.0];
        counts.extend([9.5; 10]);
        let all = increments(
            &components(&cuts()),
            |set| (expected.share(set), expected.share(set)),
            &Shares::new(&counts),
            &Weights::even(1.0, 50_000.0),
            &TOLERANCE,
        );
        let best = all.iter().copied().fold(f64::MIN, f64::max);
        assert!((12.0..16.0).contains(&best), "{best}");
    }
}
