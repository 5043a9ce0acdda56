//! What a table of data looks like, as the reference profile and calibration that a manifest carries.
//!
//! Edges are quantiles of the reference itself, so every regular bin holds about a tenth of it and a shift anywhere moves mass
//! between bins. Special bins (null, not finite, below, above, unseen) get the mass the reference really had, mostly none.
//! What stays true: masses are exactly the shares of the rows given; nothing is smoothed or invented.
use leeway_protocol::manifest::{CONFIDENCE_BINS, Calibration};
use leeway_protocol::profile::{Cuts, FeatureReference, Source};

pub mod derived;
pub mod npy;
pub mod table;

/// Regular bins of a numeric feature.
const NUMERIC_BINS: usize = 10;
/// Whole-number features with at most so many values are categories.
const MAX_CATEGORIES: usize = 12;

/// The reference of one feature from its values; `None` is a missing value. At least one finite value is needed.
pub fn feature(name: &str, source: Source, values: &[Option<f64>]) -> Option<FeatureReference> {
    let mut finite: Vec<f64> = values.iter().flatten().copied().filter(|v| v.is_finite()).collect();
    finite.sort_by(f64::total_cmp);
    let cuts = categories(&finite).or_else(|| quantiles(&finite))?;
    Some(cut(name, source, cuts, values))
}

/// The same for a feature that is a measurement even where the reference happens to hold whole numbers only.
pub fn measured(name: &str, source: Source, values: &[Option<f64>]) -> Option<FeatureReference> {
    let mut finite: Vec<f64> = values.iter().flatten().copied().filter(|v| v.is_finite()).collect();
    finite.sort_by(f64::total_cmp);
    Some(cut(name, source, quantiles(&finite)?, values))
}

fn cut(name: &str, source: Source, cuts: Cuts, values: &[Option<f64>]) -> FeatureReference {
    let mut counts = vec![0u64; leeway_protocol::profile::SPECIALS + cuts.bins()];
    for value in values {
        if let Some(count) = counts.get_mut(cuts.bin(*value)) {
            *count += 1;
        }
    }
    let total = values.len().max(1) as f64;
    let masses = counts.iter().map(|&n| n as f64 / total).collect();
    FeatureReference { name: name.to_owned(), source, cuts, masses, importance: None }
}

fn categories(sorted: &[f64]) -> Option<Cuts> {
    let whole = |v: &f64| v.fract() == 0.0 && v.abs() < 1e15;
    if sorted.is_empty() || !sorted.iter().all(whole) {
        return None;
    }
    let mut values: Vec<i64> = sorted.iter().map(|&v| v as i64).collect();
    values.dedup();
    (values.len() <= MAX_CATEGORIES).then_some(Cuts::Categorical { values })
}

fn quantiles(sorted: &[f64]) -> Option<Cuts> {
    let last = sorted.len().checked_sub(1)?;
    let mut edges: Vec<f64> = (0..=NUMERIC_BINS).filter_map(|i| sorted.get(last * i / NUMERIC_BINS).copied()).collect();
    edges.dedup();
    if let [only] = edges[..] {
        // A constant feature: one bin around it, everything else is below or above.
        edges = vec![only, only + only.abs().max(1.0) * 1e-6];
    }
    Some(Cuts::Numeric { edges })
}

/// Accuracy by confidence from held-out decisions: (confidence, right). Edges are quantiles of the confidence, so that every bin
/// has data; they always rise.
pub fn calibration(decisions: &[(f64, bool)]) -> Calibration {
    let mut sorted: Vec<f64> = decisions.iter().map(|d| d.0).filter(|c| c.is_finite()).collect();
    sorted.sort_by(f64::total_cmp);
    let at =
        |i: usize| sorted.get((sorted.len().saturating_sub(1)) * i / CONFIDENCE_BINS).copied().unwrap_or(i as f64 / CONFIDENCE_BINS as f64);
    let mut edges: Vec<f64> = (0..=CONFIDENCE_BINS).map(at).collect();
    for i in 1..edges.len() {
        // Equal quantiles (a model that is always sure) would make an edge that does not rise.
        let floor = edges[i - 1] + 1e-9;
        edges[i] = edges[i].max(floor);
    }
    let mut calibration = Calibration { edges, accuracy: Vec::new(), rows: vec![0; CONFIDENCE_BINS] };
    let mut right = [0u64; CONFIDENCE_BINS];
    for (confidence, correct) in decisions {
        let bin = calibration.bin(*confidence).min(CONFIDENCE_BINS - 1);
        calibration.rows[bin] += 1;
        right[bin] += u64::from(*correct);
    }
    let overall = right.iter().sum::<u64>() as f64 / decisions.len().max(1) as f64;
    let share = |(right, rows): (&u64, &u64)| if *rows == 0 { overall } else { *right as f64 / *rows as f64 };
    calibration.accuracy = right.iter().zip(&calibration.rows).map(share).collect();
    calibration
}

#[cfg(test)]
mod tests {
    use super::*;
    use leeway_protocol::profile::Reference;

    #[test]
    fn numeric_features_get_tenths_and_odd_values_their_own_bins() {
        let mut values: Vec<Option<f64>> = (0..1000).map(|i| Some(f64::from(i) / 7.0)).collect();
        values.push(None);
        values.push(Some(f64::NAN));
        let made = feature("wind", Source::Confidence, &values).unwrap();
        assert!((made.masses[0] - 1.0 / 1002.0).abs() < 1e-12 && (made.masses[1] - 1.0 / 1002.0).abs() < 1e-12);
        assert!(made.masses[5..].iter().all(|m| (m - 0.1).abs() < 0.002), "{:?}", made.masses);
        assert!(Reference { rows: 1002, features: vec![made] }.check().is_ok());
    }

    #[test]
    fn few_whole_values_are_categories_and_constants_still_have_a_bin() {
        let flags: Vec<Option<f64>> = (0..100).map(|i| Some(f64::from(i % 3))).collect();
        assert_eq!(feature("kind", Source::Confidence, &flags).unwrap().cuts, Cuts::Categorical { values: vec![0, 1, 2] });
        let constant = feature("flat", Source::Confidence, &[Some(0.5); 20]).unwrap();
        assert!(Reference { rows: 20, features: vec![constant] }.check().is_ok());
        assert!(feature("empty", Source::Confidence, &[None, Some(f64::NAN)]).is_none());
    }

    #[test]
    fn calibration_is_the_share_of_right_decisions_per_bin() {
        let decisions: Vec<(f64, bool)> = (0..1000).map(|i| (0.5 + f64::from(i) / 2000.0, i >= 500)).collect();
        let made = calibration(&decisions);
        assert_eq!(made.rows.iter().sum::<u64>(), 1000);
        assert!(made.accuracy[0] < 0.01 && made.accuracy[9] > 0.99);
        let sure = calibration(&[(1.0, true), (1.0, false)]);
        assert!(sure.edges.windows(2).all(|w| w[0] < w[1]) && sure.accuracy.len() == 10);
        assert_eq!(calibration(&[]).edges.len(), 11);
    }
}
