//! What a table of data looks like, as the reference profile and calibration that a manifest carries.
//!
//! Edges are quantiles of the reference itself, so every regular bin holds about a tenth of it and a shift anywhere moves mass
//! between bins. Special bins (null, not finite, below, above, unseen) get the mass the reference really had, mostly none.
//! Rows that were captured with different probabilities count by the inverse of them (Horvitz–Thompson): otherwise what the capture
//! policy preferred would look like the world, and the next alarm would only say so. What stays true: masses are exactly the
//! (weighted) shares of the rows given; nothing is smoothed or invented.
use leeway_protocol::manifest::{CONFIDENCE_BINS, Calibration};
use leeway_protocol::profile::{Cuts, FeatureReference, Source};

pub mod derived;
pub mod npy;
pub mod table;
pub mod worth;

/// Regular bins of a numeric feature.
const NUMERIC_BINS: usize = 10;
/// Whole-number features with at most so many values are categories.
const MAX_CATEGORIES: usize = 12;

/// The reference of one feature from its values; `None` is a missing value. At least one finite value is needed.
pub fn feature(name: &str, source: Source, values: &[Option<f64>]) -> Option<FeatureReference> {
    weighted_feature(name, source, values, &[])
}

/// The same for a feature that is a measurement even where the reference happens to hold whole numbers only.
pub fn measured(name: &str, source: Source, values: &[Option<f64>]) -> Option<FeatureReference> {
    let cuts = quantiles(&finite(values, &[]))?;
    Some(cut(name, source, cuts, values, &[]))
}

/// The same of rows with weights; a row without one weighs 1.
pub fn weighted_feature(name: &str, source: Source, values: &[Option<f64>], weights: &[f64]) -> Option<FeatureReference> {
    let finite = finite(values, weights);
    let cuts = categories(&finite).or_else(|| quantiles(&finite))?;
    Some(cut(name, source, cuts, values, weights))
}

/// Finite values with their weights, rising.
fn finite(values: &[Option<f64>], weights: &[f64]) -> Vec<(f64, f64)> {
    let weight = |row: usize| weights.get(row).copied().unwrap_or(1.0);
    let known = values.iter().enumerate().filter_map(|(row, value)| Some(((*value)?, weight(row))));
    let mut finite: Vec<(f64, f64)> = known.filter(|(value, _)| value.is_finite()).collect();
    finite.sort_by(|a, b| a.0.total_cmp(&b.0));
    finite
}

fn cut(name: &str, source: Source, cuts: Cuts, values: &[Option<f64>], weights: &[f64]) -> FeatureReference {
    let masses = masses(&cuts, values, weights);
    FeatureReference { name: name.to_owned(), source, cuts, masses, importance: None, worth: None }
}

/// Share of the weight in each bin of `cuts`, special bins first.
pub fn masses(cuts: &Cuts, values: &[Option<f64>], weights: &[f64]) -> Vec<f64> {
    let mut sums = vec![0.0; leeway_protocol::profile::SPECIALS + cuts.bins()];
    let mut total = 0.0;
    for (row, value) in values.iter().enumerate() {
        let weight = weights.get(row).copied().unwrap_or(1.0);
        total += weight;
        if let Some(sum) = sums.get_mut(cuts.bin(*value)) {
            *sum += weight;
        }
    }
    let total = if total > 0.0 { total } else { 1.0 };
    sums.iter().map(|sum| sum / total).collect()
}

/// How many rows of equal weight say as much as these, (Σw)²/Σw² (Kish).
pub fn effective_rows(weights: impl Iterator<Item = f64>) -> f64 {
    let (sum, squares) = weights.fold((0.0, 0.0), |(sum, squares), w| (sum + w, squares + w * w));
    if squares > 0.0 { sum * sum / squares } else { 0.0 }
}

fn categories(sorted: &[(f64, f64)]) -> Option<Cuts> {
    let whole = |v: f64| v.fract() == 0.0 && v.abs() < 1e15;
    if sorted.is_empty() || !sorted.iter().all(|(v, _)| whole(*v)) {
        return None;
    }
    let mut values: Vec<i64> = sorted.iter().map(|(v, _)| *v as i64).collect();
    values.dedup();
    (values.len() <= MAX_CATEGORIES).then_some(Cuts::Categorical { values })
}

fn quantiles(sorted: &[(f64, f64)]) -> Option<Cuts> {
    let mut edges = cuts_at(sorted, NUMERIC_BINS)?;
    edges.dedup();
    if let [only] = edges[..] {
        // A constant feature: one bin around it, everything else is below or above.
        edges = vec![only, only + only.abs().max(1.0) * 1e-6];
    }
    Some(Cuts::Numeric { edges })
}

/// Smallest value, largest, and those between that cut the weight into `parts` equal ones.
fn cuts_at(sorted: &[(f64, f64)], parts: usize) -> Option<Vec<f64>> {
    let last = sorted.len().checked_sub(1)?;
    let equal = sorted.windows(2).all(|pair| pair[0].1 == pair[1].1);
    if equal {
        return Some((0..=parts).filter_map(|i| sorted.get(last * i / parts)).map(|(v, _)| *v).collect());
    }
    let total: f64 = sorted.iter().map(|(_, w)| w).sum();
    let (mut row, mut sum) = (0, 0.0);
    let mut edges = Vec::with_capacity(parts + 1);
    for i in 0..parts {
        while row < last && sum + sorted.get(row).map_or(0.0, |(_, w)| *w) <= total * i as f64 / parts as f64 {
            sum += sorted.get(row).map_or(0.0, |(_, w)| *w);
            row += 1;
        }
        edges.extend(sorted.get(row).map(|(v, _)| *v));
    }
    edges.extend(sorted.last().map(|(v, _)| *v));
    Some(edges)
}

/// Accuracy by confidence from held-out decisions: (confidence, right). Edges are quantiles of the confidence, so that every bin
/// has data; they always rise.
pub fn calibration(decisions: &[(f64, bool)]) -> Calibration {
    weighted_calibration(decisions, &[])
}

/// The same of rows with weights; a row without one weighs 1. `rows` of a bin is what its rows are worth together.
pub fn weighted_calibration(decisions: &[(f64, bool)], weights: &[f64]) -> Calibration {
    let weight = |row: usize| weights.get(row).copied().unwrap_or(1.0);
    let mut sorted: Vec<(f64, f64)> = decisions.iter().enumerate().map(|(row, d)| (d.0, weight(row))).filter(|c| c.0.is_finite()).collect();
    sorted.sort_by(|a, b| a.0.total_cmp(&b.0));
    let even = || (0..=CONFIDENCE_BINS).map(|i| i as f64 / CONFIDENCE_BINS as f64).collect();
    let mut edges = cuts_at(&sorted, CONFIDENCE_BINS).unwrap_or_else(even);
    for i in 1..edges.len() {
        // Equal quantiles (a model that is always sure) would make an edge that does not rise.
        let floor = edges[i - 1] + 1e-9;
        edges[i] = edges[i].max(floor);
    }
    let mut calibration = Calibration { edges, accuracy: Vec::new(), rows: vec![0; CONFIDENCE_BINS] };
    // Per bin: Σw of right decisions, Σw, Σw².
    let mut sums = [(0.0, 0.0, 0.0); CONFIDENCE_BINS];
    for (row, (confidence, correct)) in decisions.iter().enumerate() {
        let (sum, w) = (&mut sums[calibration.bin(*confidence).min(CONFIDENCE_BINS - 1)], weight(row));
        *sum = (sum.0 + if *correct { w } else { 0.0 }, sum.1 + w, sum.2 + w * w);
    }
    let (right, all) = sums.iter().fold((0.0, 0.0), |(right, all), sum| (right + sum.0, all + sum.1));
    let overall = if all > 0.0 { right / all } else { 0.0 };
    calibration.rows = sums.iter().map(|sum| if sum.2 > 0.0 { (sum.1 * sum.1 / sum.2).round() as u64 } else { 0 }).collect();
    calibration.accuracy = sums.iter().map(|sum| if sum.1 > 0.0 { sum.0 / sum.1 } else { overall }).collect();
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

    /// A capture policy that keeps every row above 0.5 and a tenth of the rest: with weights, the reference is the world's again.
    #[test]
    fn rows_count_by_the_inverse_of_the_probability_they_were_captured_with() {
        let world: Vec<f64> = (0..20_000).map(|i| f64::from(i * 7919 % 20_000) / 20_000.0).collect();
        let kept: Vec<(f64, f64)> = world
            .iter()
            .enumerate()
            .filter_map(|(i, &v)| if v > 0.5 { Some((v, 1.0)) } else { (i % 10 == 0).then_some((v, 10.0)) })
            .collect();
        let values: Vec<Option<f64>> = kept.iter().map(|k| Some(k.0)).collect();
        let weights: Vec<f64> = kept.iter().map(|k| k.1).collect();
        let honest = weighted_feature("x", Source::Confidence, &values, &weights).unwrap();
        let Cuts::Numeric { edges } = &honest.cuts else { panic!("numbers") };
        for (i, edge) in edges.iter().enumerate() {
            assert!((edge - i as f64 / 10.0).abs() < 0.01, "{edges:?}");
        }
        assert!(honest.masses[5..].iter().all(|m| (m - 0.1).abs() < 0.005), "{:?}", honest.masses);
        let naive = feature("x", Source::Confidence, &values).unwrap();
        let Cuts::Numeric { edges } = &naive.cuts else { panic!("numbers") };
        assert!(edges[5] > 0.6, "without weights the median of what was kept is not the world's: {edges:?}");
        let worth = effective_rows(weights.iter().copied());
        assert!((worth - 3636.0).abs() < 5.0, "{} rows are worth {worth}", kept.len());
        // Right only above 0.5: half of the world.
        let decisions: Vec<(f64, bool)> = kept.iter().map(|k| (k.0, k.0 > 0.5)).collect();
        let made = weighted_calibration(&decisions, &weights);
        let mean = |c: &Calibration| c.accuracy.iter().sum::<f64>() / CONFIDENCE_BINS as f64;
        assert!((mean(&made) - 0.5).abs() < 0.01 && mean(&calibration(&decisions)) > 0.7);
    }
}
