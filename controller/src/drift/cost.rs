//! What a shift costs: a fall of accuracy estimated from what the feature is worth to the model, without new labels.
//!
//! *The world moved*: the accuracy is the average over bins of how often the model is right there, so with the new shares it becomes
//! another average. That is exact where only this feature's distribution changed and the truth given the inputs stayed (covariate
//! shift); features that move together count each other's part, so their costs must not be added. Values outside the regular bins are
//! taken to say nothing: what permuting the feature leaves. *An instrument broke*: its values stand beside other features that did not
//! move, which the bins know nothing of; as many of them as the distribution lost its place with are taken to say nothing, at worst.
//!
//! The interval says how well the publisher's labelled rows know these accuracies; it knows nothing of other features or of concept
//! drift. What stays true: an estimate decides nothing but how loudly a shift is told of.
use leeway_protocol::profile::{FeatureReference, SPECIALS, Worth};
use serde::{Deserialize, Serialize};

/// Half the width of a 95 % interval, in standard errors.
const WIDTH: f64 = 1.96;
/// Rows at least behind a permuted accuracy; publishing asks about fewer of none.
const PERMUTED_ROWS: f64 = 200.0;

/// An estimated fall of accuracy, as a share: 0.02 is two points. Negative where the shift makes the model's work easier.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Cost {
    /// The estimate.
    pub accuracy: f64,
    /// Lower end of its 95 % interval.
    pub low: f64,
    /// Upper end.
    pub high: f64,
}

impl Cost {
    /// What it costs that the world's shares of this feature are `observed` (counts) instead of `expected` (masses).
    pub fn of_the_world(feature: &FeatureReference, expected: &[f64], observed: &[f64]) -> Option<Self> {
        let worth = feature.worth.as_ref()?;
        let (mut cost, mut variance) = (0.0, 0.0);
        let (mut special, rows) = (0.0, observed.iter().sum::<f64>());
        if rows <= 0.0 {
            return None;
        }
        for (bin, (p, n)) in expected.iter().zip(observed).enumerate() {
            let lost = p - n / rows;
            match bin.checked_sub(SPECIALS).and_then(|b| Some((worth.accuracy.get(b)?, worth.rows.get(b)?))) {
                Some((&right, &rows)) => {
                    cost += lost * right;
                    variance += lost * lost * error(right, rows as f64);
                }
                None => special += lost,
            }
        }
        cost += special * worth.permuted;
        variance += special * special * error(worth.permuted, PERMUTED_ROWS);
        Some(Self::around(cost, variance))
    }

    /// What it costs, at worst, that one instrument shows `observed` (counts) instead of `expected` (masses).
    pub fn of_an_instrument(feature: &FeatureReference, expected: &[f64], observed: &[f64]) -> Option<Self> {
        let Worth { permuted, intact, .. } = feature.worth.as_ref()?;
        let rows = observed.iter().sum::<f64>();
        if rows <= 0.0 {
            return None;
        }
        let lost: f64 = 0.5 * expected.iter().zip(observed).map(|(p, n)| (p - n / rows).abs()).sum::<f64>();
        let variance = error(*permuted, PERMUTED_ROWS) + error(*intact, PERMUTED_ROWS);
        Some(Self::around(lost * (intact - permuted), lost * lost * variance))
    }

    fn around(accuracy: f64, variance: f64) -> Self {
        let half = WIDTH * variance.sqrt();
        Self { accuracy, low: accuracy - half, high: accuracy + half }
    }

    /// Whether it is below `bound` beyond doubt.
    pub fn is_below(&self, bound: f64) -> bool {
        self.high < bound
    }

    /// It as the end of a verdict's sentence.
    pub(super) fn words(&self, of_an_instrument: bool, harmless: f64) -> String {
        let points = |share: f64| format!("{:.1}", share * 100.0 + 0.0);
        if self.is_below(harmless) {
            let easier = if self.high < 0.0 { "if anything, it makes the model's work easier" } else { "it costs next to nothing" };
            return format!(
                " As far as this feature alone goes, {easier} ({} points of accuracy); it is shown, not acted on.",
                points(self.accuracy)
            );
        }
        let (low, high) = (points(self.low.max(0.0)), points(self.high));
        if of_an_instrument {
            format!(" At worst it costs this device {} points of accuracy ({low} to {high}).", points(self.accuracy.max(0.0)))
        } else {
            format!(
                " Estimated cost: {} points of accuracy ({low} to {high}), if only this feature changed.",
                points(self.accuracy.max(0.0))
            )
        }
    }
}

/// Variance of a share that was measured on so many rows; of the share that one more right and one more wrong would give, so that a
/// bin of three right answers is not taken for sure.
fn error(share: f64, rows: f64) -> f64 {
    let smoothed = (share * rows + 1.0) / (rows + 2.0);
    smoothed * (1.0 - smoothed) / (rows + 2.0)
}

#[cfg(test)]
mod tests {
    use leeway_protocol::profile::{Cuts, Source};

    use super::*;

    fn feature(accuracy: [f64; 4], permuted: f64) -> FeatureReference {
        let masses = [vec![0.0; SPECIALS], vec![0.25; 4]].concat();
        let worth = Worth { accuracy: accuracy.to_vec(), rows: vec![1_000; 4], permuted, intact: accuracy.iter().sum::<f64>() / 4.0 };
        let cuts = Cuts::Numeric { edges: vec![0.0, 1.0, 2.0, 3.0, 4.0] };
        FeatureReference {
            name: "wind".into(),
            source: Source::Input { tensor: 0, index: 0 },
            cuts,
            masses,
            importance: None,
            worth: Some(worth),
        }
    }

    fn counts(regular: [f64; 4], nulls: f64) -> Vec<f64> {
        let mut all = vec![0.0; SPECIALS];
        all[0] = nulls;
        [all, regular.to_vec()].concat()
    }

    #[test]
    fn the_cost_is_the_new_average_of_what_each_bin_is_worth() {
        let uneven = feature([0.9, 0.9, 0.8, 0.6], 0.5);
        // Shares, cost: mean accuracy is .8 as trained.
        let table = [
            ([25.0, 25.0, 25.0, 25.0], 0.0, 0.0),
            ([0.0, 0.0, 0.0, 100.0], 0.0, 0.2),
            ([50.0, 50.0, 0.0, 0.0], 0.0, -0.1),
            ([12.5, 12.5, 12.5, 12.5], 50.0, 0.15),
        ];
        for (regular, nulls, want) in table {
            let cost = Cost::of_the_world(&uneven, &uneven.masses, &counts(regular, nulls)).unwrap();
            assert!((cost.accuracy - want).abs() < 1e-9 && cost.low <= want && want <= cost.high, "{regular:?}: {cost:?}");
            assert!(cost.high - cost.low < 0.08, "{cost:?}");
        }
        assert_eq!(Cost::of_the_world(&uneven, &uneven.masses, &counts([0.0; 4], 0.0)), None);
        assert_eq!(Cost::of_the_world(&FeatureReference { worth: None, ..uneven.clone() }, &uneven.masses, &counts([1.0; 4], 0.0)), None);
    }

    #[test]
    fn a_stuck_instrument_costs_what_permuting_it_costs_and_one_nobody_looks_at_nothing() {
        let stuck = counts([0.0, 100.0, 0.0, 0.0], 0.0);
        let important = feature([0.9; 4], 0.5);
        let cost = Cost::of_an_instrument(&important, &important.masses, &stuck).unwrap();
        assert!((cost.accuracy - 0.3).abs() < 1e-9 && !cost.is_below(0.005), "{cost:?}");
        assert!(cost.words(true, 0.005).contains("At worst it costs this device 30.0 points"), "{}", cost.words(true, 0.005));
        let ignored = feature([0.9; 4], 0.9);
        let cost = Cost::of_the_world(&ignored, &ignored.masses, &counts([24.0, 26.0, 24.0, 26.0], 0.0)).unwrap();
        assert!(cost.is_below(0.005) && cost.words(false, 0.005).contains("next to nothing (0.0 points"), "{}", cost.words(false, 0.005));
    }
}
