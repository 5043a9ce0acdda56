//! How far a feature has moved, apart from how sure that is.
//!
//! PSI with half a count added to every bin on both sides (an empty bin would make it infinite, and filling it with 1e-4 gives
//! 5 % false alarms where 0.1 % are meant), the largest difference of the cumulative shares with its interval, and the
//! Wasserstein distance in the feature's own unit, as far as the regular bins show it. What stays true: none of them decides anything.
use leeway_protocol::profile::{Cuts, FeatureReference, SPECIALS, Special};
use serde::{Deserialize, Serialize};

use super::components::{Set, Shares};

/// Level of the interval around the largest difference.
const INTERVAL_ALPHA: f64 = 0.05;

/// Which way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Direction {
    /// No clear way.
    None,
    /// Values are higher.
    Higher,
    /// Values are lower.
    Lower,
    /// More at both ends.
    Wider,
    /// Less at both ends.
    Narrower,
    /// One bin holds far more than it should: stuck, or one category took over.
    Stuck,
    /// Categories in other shares.
    Mix,
    /// Values are missing.
    Missing,
    /// Values are not finite numbers.
    NotFinite,
    /// Below everything in the reference.
    Below,
    /// Above everything in the reference.
    Above,
    /// Categories the reference never saw.
    Unseen,
}

impl Direction {
    /// In words, after "moved" or "reads".
    pub fn as_str(self) -> &'static str {
        match self {
            Self::None => "differently",
            Self::Higher => "higher",
            Self::Lower => "lower",
            Self::Wider => "wider",
            Self::Narrower => "narrower",
            Self::Stuck => "stuck",
            Self::Mix => "to another mix",
            Self::Missing => "missing",
            Self::NotFinite => "not a number",
            Self::Below => "below its known range",
            Self::Above => "above its known range",
            Self::Unseen => "unseen values",
        }
    }
}

/// How far, which way, and where it shows best.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Magnitude {
    /// Population stability index over all bins, smoothed.
    pub psi: f64,
    /// Largest difference of cumulative (or, for categories, single) shares.
    pub sup_cdf: f64,
    /// Lower end of its 95 % interval.
    pub sup_cdf_low: f64,
    /// Upper end.
    pub sup_cdf_high: f64,
    /// Distance in the feature's unit, within the regular bins; `None` for categories.
    pub wasserstein: Option<f64>,
    /// Which way.
    pub direction: Direction,
    /// Where the largest difference is: a set in words, its share now and the expected one.
    pub shows: Option<(String, f64, f64)>,
}

/// Compare counts with expected masses; `eta` tempers the counts for the interval.
pub fn magnitude(feature: &FeatureReference, expected: &[f64], observed: &[f64], eta: f64) -> Magnitude {
    let (want, seen) = (Shares::new(expected), Shares::new(observed));
    let bins = feature.cuts.bins();
    let sets: Vec<Set> = match feature.cuts {
        Cuts::Numeric { .. } => (0..=bins).map(Set::Below).collect(),
        Cuts::Categorical { .. } => (0..bins).map(Set::Bin).collect(),
    };
    let difference = |set: Set| if seen.finite() > 0.0 { seen.share(set) - want.share(set) } else { 0.0 };
    let sup_cdf = sets.iter().map(|&s| difference(s).abs()).fold(0.0, f64::max);
    let half = ((2.0 / INTERVAL_ALPHA).ln() / (2.0 * (seen.finite() * eta).max(1.0))).sqrt();
    let wasserstein = match &feature.cuts {
        Cuts::Numeric { edges } => Some(distance(edges, &difference)),
        Cuts::Categorical { .. } => None,
    };
    let (direction, at) = direction(feature, &want, &seen, &sets, sup_cdf);
    let shows = at.map(|set| (words(&feature.cuts, set), seen.share(set), want.share(set)));
    Magnitude {
        psi: psi(expected, observed),
        sup_cdf,
        sup_cdf_low: (sup_cdf - half).max(0.0),
        sup_cdf_high: (sup_cdf + half).min(1.0),
        wasserstein,
        direction,
        shows,
    }
}

fn distance(edges: &[f64], difference: &impl Fn(Set) -> f64) -> f64 {
    // |F − F_ref| at both edges of each bin, by the trapezium rule.
    edges
        .windows(2)
        .enumerate()
        .map(|(i, edge)| (edge[1] - edge[0]) * 0.5 * (difference(Set::Below(i)).abs() + difference(Set::Below(i + 1)).abs()))
        .sum()
}

fn psi(expected: &[f64], observed: &[f64]) -> f64 {
    let total: f64 = observed.iter().sum();
    // A bin that neither side ever filled says nothing and would only dilute the others.
    let live: Vec<(f64, f64)> = expected.iter().zip(observed).filter(|&(&p, &n)| p > 0.0 || n > 0.0).map(|(&p, &n)| (p, n)).collect();
    let size = total + 0.5 * live.len() as f64;
    let share = |n: f64| (n + 0.5) / size;
    live.iter().map(|&(p, n)| (share(n), share(p * total))).map(|(q, p)| (q - p) * (q / p).ln()).sum()
}

fn direction(feature: &FeatureReference, want: &Shares, seen: &Shares, sets: &[Set], sup: f64) -> (Direction, Option<Set>) {
    let specials = [
        (Special::Null, Direction::Missing),
        (Special::NotFinite, Direction::NotFinite),
        (Special::Below, Direction::Below),
        (Special::Above, Direction::Above),
        (Special::Unseen, Direction::Unseen),
    ];
    let excess = |set: Set| seen.share(set) - want.share(set);
    let special = specials.map(|(s, d)| (Set::Special(s), d)).into_iter().max_by(|a, b| excess(a.0).total_cmp(&excess(b.0)));
    if let Some((set, direction)) = special.filter(|&(set, _)| excess(set) > sup.max(0.004) * 0.5 && excess(set) > 0.004) {
        return (direction, Some(set));
    }
    if seen.finite() <= 0.0 || sup < 0.005 {
        return (Direction::None, None);
    }
    let bins = feature.cuts.bins();
    let fullest = (0..bins).map(Set::Bin).max_by(|&a, &b| excess(a).total_cmp(&excess(b)));
    if let Some(set) = fullest.filter(|&set| seen.share(set) > 0.5 && excess(set) > 0.25) {
        return (Direction::Stuck, Some(set));
    }
    let at = sets.iter().copied().max_by(|&a, &b| excess(a).abs().total_cmp(&excess(b).abs()));
    if matches!(feature.cuts, Cuts::Categorical { .. }) {
        return (Direction::Mix, at);
    }
    let most = |sign: f64| sets.iter().map(|&s| sign * excess(s)).fold(0.0, f64::max);
    let (lower, higher) = (most(1.0), most(-1.0));
    let way = if lower > 2.0 * higher {
        Direction::Lower
    } else if higher > 2.0 * lower {
        Direction::Higher
    } else {
        // More below the low cuts and less below the high ones: both ends are fuller.
        let (front, back) = sets.split_at(sets.len() / 2);
        let lean = |part: &[Set]| part.iter().map(|&s| excess(s)).sum::<f64>();
        if lean(front) > lean(back) { Direction::Wider } else { Direction::Narrower }
    };
    (way, at)
}

fn words(cuts: &Cuts, set: Set) -> String {
    match (set, cuts) {
        (Set::Special(Special::Null), _) => "missing".to_owned(),
        (Set::Special(Special::NotFinite), _) => "not a number".to_owned(),
        (Set::Special(Special::Unseen), _) => "values the reference never saw".to_owned(),
        (Set::Special(Special::Below), Cuts::Numeric { edges }) => format!("below {}", short(edges.first())),
        (Set::Special(Special::Above), Cuts::Numeric { edges }) => format!("above {}", short(edges.last())),
        (Set::Below(i), Cuts::Numeric { edges }) => format!("below {}", short(edges.get(i))),
        (Set::Bin(i), Cuts::Numeric { edges }) => format!("between {} and {}", short(edges.get(i)), short(edges.get(i + 1))),
        (Set::Bin(i), Cuts::Categorical { values }) => values.get(i).map_or_else(|| "?".to_owned(), |v| format!("equal to {v}")),
        _ => "elsewhere".to_owned(),
    }
}

/// Four significant digits at most.
fn short(value: Option<&f64>) -> String {
    let Some(&x) = value else { return "?".to_owned() };
    let digits = (3 - x.abs().max(1e-9).log10().floor() as i32).clamp(0, 6) as usize;
    let text = format!("{x:.digits$}");
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
}

/// What each bin holds, special ones first, for a chart: label and whether it is special.
pub fn bin_labels(feature: &FeatureReference) -> Vec<(String, bool)> {
    let special = ["null", "not finite", "below", "above", "unseen"].map(|label| (label.to_owned(), true));
    let regular: Vec<(String, bool)> = match &feature.cuts {
        Cuts::Numeric { edges } => edges.windows(2).map(|e| (format!("{} – {}", short(e.first()), short(e.last())), false)).collect(),
        Cuts::Categorical { values } => values.iter().map(|v| (v.to_string(), false)).collect(),
    };
    debug_assert_eq!(special.len(), SPECIALS);
    special.into_iter().chain(regular).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use leeway_protocol::profile::Source;

    fn feature() -> FeatureReference {
        let mut masses = vec![0.0; SPECIALS];
        masses.extend([0.25; 4]);
        let cuts = Cuts::Numeric { edges: vec![0.0, 1.0, 2.0, 3.0, 4.0] };
        FeatureReference { name: "wind".into(), source: Source::Input { tensor: 0, index: 0 }, cuts, masses, importance: None, worth: None }
    }

    #[test]
    fn direction_and_distance_read_as_a_person_would() {
        let f = feature();
        let judge = |counts: [f64; 9]| magnitude(&f, &f.masses, &counts, 1.0);
        let cases = [
            ([0.0, 0.0, 0.0, 0.0, 0.0, 250.0, 250.0, 250.0, 250.0], Direction::None),
            ([0.0, 0.0, 0.0, 0.0, 0.0, 400.0, 300.0, 200.0, 100.0], Direction::Lower),
            ([0.0, 0.0, 0.0, 0.0, 0.0, 100.0, 200.0, 300.0, 400.0], Direction::Higher),
            ([0.0, 0.0, 0.0, 0.0, 0.0, 400.0, 100.0, 100.0, 400.0], Direction::Wider),
            ([0.0, 0.0, 0.0, 0.0, 0.0, 100.0, 400.0, 400.0, 100.0], Direction::Narrower),
            ([0.0, 0.0, 0.0, 0.0, 0.0, 10.0, 980.0, 10.0, 0.0], Direction::Stuck),
            ([300.0, 0.0, 0.0, 0.0, 0.0, 175.0, 175.0, 175.0, 175.0], Direction::Missing),
            ([0.0, 0.0, 0.0, 900.0, 0.0, 25.0, 25.0, 25.0, 25.0], Direction::Above),
        ];
        for (counts, want) in cases {
            let got = judge(counts);
            assert_eq!(got.direction, want, "{counts:?} {got:?}");
        }
        let lower = judge(cases[1].0);
        assert!((lower.sup_cdf - 0.2).abs() < 1e-9 && lower.sup_cdf_low < 0.2 && lower.sup_cdf_high > 0.2);
        assert_eq!(lower.shows, Some(("below 2".to_owned(), 0.7, 0.5)));
        assert!((lower.wasserstein.unwrap() - 0.5).abs() < 1e-9);
        assert!(judge(cases[0].0).psi < 1e-9 && lower.psi > 0.2);
        assert!(judge([0.0; 9]).psi < 1e-9);
    }

    #[test]
    fn a_bin_that_was_empty_does_not_make_it_infinite() {
        let f = feature();
        let got = magnitude(&f, &f.masses, &[0.0, 10.0, 0.0, 0.0, 0.0, 240.0, 250.0, 250.0, 250.0], 1.0);
        assert!(got.psi.is_finite() && got.psi < 0.1, "{}", got.psi);
    }
}
