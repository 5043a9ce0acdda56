//! What a feature looked like at training time, and exact integer counts of what it looks like now.
//!
//! Exact bins, not sketches: about twenty bytes a feature on the wire, merging is addition, and a statistic over them has no
//! sketch error to correct for (a KS test on a KLL sketch of ordinary size fires falsely on 30–100 % of windows).
//! What stays true: every observed value lands in exactly one bin, so the bins of a feature sum to the number observed.
use serde::{Deserialize, Serialize};

use crate::statistic::{Figure, Place, View};

/// Where a feature's value comes from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "from")]
pub enum Source {
    /// One element (row-major index) of an input tensor.
    Input {
        /// Index of the input.
        tensor: usize,
        /// Element.
        index: usize,
    },
    /// A summary over one channel (axis 1) of a large input tensor: never per pixel.
    Channel {
        /// Index of the input.
        tensor: usize,
        /// Which channel.
        channel: usize,
        /// Which summary.
        stat: Stat,
    },
    /// One element of an output tensor.
    Output {
        /// Index of the output.
        tensor: usize,
        /// Element.
        index: usize,
    },
    /// The confidence of the decision, 0 to 1.
    Confidence,
    /// A number derived from a whole tensor: an image, a sound, a text or an embedding. A device that does not know the view or the
    /// figure refuses the manifest rather than counting something else.
    Derived {
        /// Which tensor.
        of: Place,
        /// What the tensor is.
        view: View,
        /// Which number.
        #[serde(flatten)]
        figure: Figure,
    },
}

/// A summary of a channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stat {
    /// Arithmetic mean.
    Mean,
    /// Standard deviation (population).
    Std,
    /// Smallest.
    Min,
    /// Largest.
    Max,
}

/// How a feature is cut into regular bins.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum Cuts {
    /// `edges` rises strictly; bin i holds edges[i] <= x < edges[i+1], the last bin its upper edge too.
    Numeric {
        /// At least 2: minimum, inner quantile edges, maximum of the reference.
        edges: Vec<f64>,
    },
    /// One bin per known value.
    Categorical {
        /// The values, rising.
        values: Vec<i64>,
    },
}

/// The bins every feature has before its regular ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Special {
    /// No value given.
    Null = 0,
    /// NaN or infinite.
    NotFinite = 1,
    /// Below the reference's minimum.
    Below = 2,
    /// Above the reference's maximum.
    Above = 3,
    /// A category the reference never saw.
    Unseen = 4,
}

/// The number of special bins; regular bin i is at `SPECIALS + i`.
pub const SPECIALS: usize = 5;
/// The most regular bins a feature may have: bounds a report, and more tell no more at window sizes of hundreds.
pub const MAX_BINS: usize = 64;
/// The most features a manifest may describe: bounds a report to some 70 KB.
pub const MAX_FEATURES: usize = 512;

/// One feature of the reference profile, signed with the manifest.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FeatureReference {
    /// The name people know it by.
    pub name: String,
    /// Where its value comes from.
    pub source: Source,
    /// How it is cut.
    pub cuts: Cuts,
    /// Share of the reference in each bin, special bins first; sums to 1.
    pub masses: Vec<f64>,
    /// Share of the model's decisions that change when this feature's values are permuted among the rows, if the publisher measured it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub importance: Option<f64>,
    /// What the feature is worth to the accuracy, if there were labels to measure it with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub worth: Option<Worth>,
}

/// What an input is worth to the model's accuracy, measured on labelled rows that it was not trained on: from these, what a shift of
/// its distribution costs can be estimated without new labels.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Worth {
    /// Accuracy on the rows whose value lies in each regular bin; the overall accuracy where there were none.
    pub accuracy: Vec<f64>,
    /// Rows behind each of them.
    pub rows: Vec<u64>,
    /// Accuracy on the same rows with this feature's values permuted among them (Breiman 2001): what is left when the value says
    /// nothing.
    pub permuted: f64,
    /// Accuracy on the rows that were permuted, as they are.
    pub intact: f64,
}

/// What the inputs, outputs and confidence looked like on the reference data.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Reference {
    /// Rows it was made from.
    pub rows: u64,
    /// Its features.
    pub features: Vec<FeatureReference>,
}

/// A reference that no device could count against.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("reference profile, feature {feature:?}: {problem}")]
pub struct ReferenceError {
    feature: String,
    problem: &'static str,
}

impl Cuts {
    /// The number of regular bins.
    pub fn bins(&self) -> usize {
        match self {
            Self::Numeric { edges } => edges.len().saturating_sub(1),
            Self::Categorical { values } => values.len(),
        }
    }

    /// The bin `value` belongs to, special bins first. `None` stands for "no value given".
    #[inline]
    pub fn bin(&self, value: Option<f64>) -> usize {
        let Some(x) = value else { return Special::Null as usize };
        if !x.is_finite() {
            return Special::NotFinite as usize;
        }
        match self {
            Self::Numeric { edges } => numeric_bin(edges, x),
            Self::Categorical { values } => match values.binary_search(&(x.round() as i64)) {
                Ok(at) => SPECIALS + at,
                Err(_) => Special::Unseen as usize,
            },
        }
    }
}

#[inline]
fn numeric_bin(edges: &[f64], x: f64) -> usize {
    let (Some(&low), Some(&high)) = (edges.first(), edges.last()) else { return Special::Unseen as usize };
    if x < low {
        return Special::Below as usize;
    }
    if x > high {
        return Special::Above as usize;
    }
    // A linear scan without branches beats a binary search at the ten or so edges a feature has.
    let at_or_below = edges.iter().map(|&edge| usize::from(x >= edge)).sum::<usize>();
    SPECIALS + (at_or_below - 1).min(edges.len() - 2)
}

impl FeatureReference {
    /// All bins, special ones included.
    pub fn bins(&self) -> usize {
        SPECIALS + self.cuts.bins()
    }
}

impl Reference {
    /// Refuse edges that do not rise, masses that are not shares, and sizes past the bounds.
    pub fn check(&self) -> Result<(), ReferenceError> {
        let error = |feature: &str, problem| ReferenceError { feature: feature.to_owned(), problem };
        if self.features.len() > MAX_FEATURES {
            return Err(error("*", "more features than the bound of 512"));
        }
        for f in &self.features {
            let fail = |problem| Err(error(&f.name, problem));
            match &f.cuts {
                Cuts::Numeric { edges } if edges.len() < 2 => return fail("needs at least two edges"),
                Cuts::Numeric { edges } if edges.iter().any(|e| !e.is_finite()) => return fail("an edge is not a finite number"),
                Cuts::Numeric { edges } if edges.windows(2).any(|w| w[0] >= w[1]) => return fail("edges must rise strictly"),
                Cuts::Categorical { values } if values.is_empty() || values.windows(2).any(|w| w[0] >= w[1]) => {
                    return fail("category values must rise strictly");
                }
                _ => {}
            }
            if f.cuts.bins() > MAX_BINS {
                return fail("more bins than the bound of 64");
            }
            if f.masses.len() != f.bins() || f.masses.iter().any(|m| !(0.0..=1.0).contains(m)) {
                return fail("masses must be one share from 0 to 1 per bin");
            }
            if (f.masses.iter().sum::<f64>() - 1.0).abs() > 1e-6 {
                return fail("masses must sum to 1");
            }
            if f.importance.is_some_and(|i| !(0.0..=1.0).contains(&i)) {
                return fail("importance must be a share from 0 to 1");
            }
            if let Some(worth) = &f.worth {
                let shares = worth.accuracy.iter().chain([&worth.permuted, &worth.intact]);
                if worth.accuracy.len() != f.cuts.bins() || worth.rows.len() != worth.accuracy.len() {
                    return fail("worth must have one accuracy and one number of rows per regular bin");
                }
                if shares.into_iter().any(|a| !(0.0..=1.0).contains(a)) {
                    return fail("worth must be accuracies from 0 to 1");
                }
            }
        }
        Ok(())
    }

    /// Zero counts, one list of bins per feature.
    pub fn empty_counts(&self) -> Vec<Counts> {
        self.features.iter().map(|f| Counts(vec![0; f.bins()])).collect()
    }
}

/// Exact counts per bin of one feature, special bins first.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts(pub Vec<u32>);

impl Counts {
    /// Everything counted.
    pub fn total(&self) -> u64 {
        self.0.iter().map(|&n| u64::from(n)).sum()
    }

    /// Add another window's counts. Counts of another shape are refused unchanged: they belong to another reference.
    pub fn merge(&mut self, other: &Self) -> bool {
        if self.0.len() != other.0.len() {
            return false;
        }
        for (mine, theirs) in self.0.iter_mut().zip(&other.0) {
            *mine = mine.saturating_add(*theirs);
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_has_exactly_one_bin() {
        let cuts = Cuts::Numeric { edges: vec![0.0, 1.0, 2.0, 4.0] };
        let table = [
            (None, 0),
            (Some(f64::NAN), 1),
            (Some(f64::INFINITY), 1),
            (Some(-0.1), 2),
            (Some(4.1), 3),
            (Some(0.0), 5),
            (Some(0.99), 5),
            (Some(1.0), 6),
            (Some(2.0), 7),
            (Some(4.0), 7),
        ];
        for (value, bin) in table {
            assert_eq!(cuts.bin(value), bin, "{value:?}");
        }
        let cuts = Cuts::Categorical { values: vec![-1, 3] };
        assert_eq!([cuts.bin(Some(-1.0)), cuts.bin(Some(3.0)), cuts.bin(Some(2.0))], [5, 6, 4]);
    }

    #[test]
    fn a_bad_reference_is_refused_by_name() {
        let good = FeatureReference {
            name: "wind".into(),
            source: Source::Input { tensor: 0, index: 0 },
            cuts: Cuts::Numeric { edges: vec![0.0, 1.0] },
            masses: vec![0.0, 0.0, 0.0, 0.0, 0.0, 1.0],
            importance: None,
            worth: None,
        };
        let reference = |f: FeatureReference| Reference { rows: 10, features: vec![f] };
        assert!(reference(good.clone()).check().is_ok());
        let edges = |edges: Vec<f64>| FeatureReference { cuts: Cuts::Numeric { edges }, ..good.clone() };
        for bad in [
            edges(vec![]),
            edges(vec![1.0]),
            edges(vec![1.0, 1.0]),
            edges(vec![0.0, f64::NAN]),
            FeatureReference { masses: vec![1.0], ..good.clone() },
        ] {
            assert!(reference(bad).check().unwrap_err().to_string().contains("wind"));
        }
    }

    #[test]
    fn merging_is_addition_and_other_shapes_are_refused() {
        let mut counts = Counts(vec![1, 2]);
        assert!(counts.merge(&Counts(vec![3, u32::MAX])));
        assert_eq!(counts, Counts(vec![4, u32::MAX]));
        assert!(!counts.merge(&Counts(vec![1])));
        assert_eq!(counts.total(), 4 + u64::from(u32::MAX));
    }
}
