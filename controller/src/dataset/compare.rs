//! Two datasets side by side: rows, devices, labels, and how far each feature moved.
//!
//! The same measures as for drift (PSI with half a count, the largest gap of the cumulative shares), with the first dataset as the
//! reference: its weighted deciles are the bins. Both are samples, so a gap is set beside the gap that chance alone would give two
//! samples of their size (Kolmogorov–Smirnov, 95 %). Rows weigh by the inverse of the probability they were captured with; sizes
//! are what the rows are worth. Days under one sky are not independent, so chance is more than that figure, never less: the
//! sentence says "more than chance" and not "significant". What stays true: nothing is decided here.
use std::collections::{BTreeMap, BTreeSet};

use leeway_protocol::profile::{Cuts, SPECIALS, Source};
use serde::{Deserialize, Serialize};

use super::Labels;
use crate::drift::magnitude::magnitude;
use crate::reference::{effective_rows, masses, weighted_feature};

/// Devices named on each side.
const MAX_NAMED: usize = 20;
/// Two-sample Kolmogorov–Smirnov bound at 95 %, for samples of one row each.
const KS_95: f64 = 1.358;

/// The rows of a dataset, for comparing.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Side {
    /// What people call it.
    pub title: String,
    /// Features by name.
    pub features: Vec<(String, Vec<Option<f64>>)>,
    /// Labels by row.
    pub labels: Vec<Option<f64>>,
    /// One over the inclusion probability by row; empty if all weigh the same.
    pub weights: Vec<f64>,
    /// Device and request by row; empty if that is not known.
    pub rows: Vec<(String, u64)>,
}

/// What is different.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Comparison {
    /// Rows in the first and the second.
    #[schema(value_type = Vec<u64>)]
    pub rows: (u64, u64),
    /// Rows that are in both, by device and request; absent if one of them does not know its devices.
    pub shared_rows: Option<u64>,
    /// Devices in both.
    pub shared_devices: u64,
    /// Devices only in the first, and the first of them by name.
    pub devices_gone: Named,
    /// Devices only in the second.
    pub devices_new: Named,
    /// Labels by class: share of the weight in the first and the second.
    #[schema(value_type = BTreeMap<String, Vec<f64>>)]
    pub labels: BTreeMap<String, (f64, f64)>,
    /// Features in both, those that moved most first.
    pub features: Vec<Moved>,
    /// Features only in the first.
    pub features_gone: Vec<String>,
    /// Features only in the second.
    pub features_new: Vec<String>,
    /// In a sentence.
    pub sentence: String,
}

/// Some things, of which not all may be named.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Named {
    /// How many.
    pub count: u64,
    /// The first by name.
    pub names: Vec<String>,
}

/// How far one feature moved.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Moved {
    /// The feature.
    pub feature: String,
    /// Population stability index over the first's bins.
    pub psi: f64,
    /// Largest gap of the cumulative shares (for categories: of a share).
    pub gap: f64,
    /// The gap that chance alone gives samples of this size in one of twenty comparisons, were rows independent.
    pub chance: f64,
    /// Which way, in words.
    pub direction: String,
    /// Distance in the feature's own unit; absent for categories.
    pub wasserstein: Option<f64>,
}

/// The second against the first.
pub fn compare(first: &Side, second: &Side) -> Comparison {
    let sizes = (worth(first), worth(second));
    let chance = if sizes.0 > 0.0 && sizes.1 > 0.0 { KS_95 * ((sizes.0 + sizes.1) / (sizes.0 * sizes.1)).sqrt() } else { 1.0 };
    let theirs: BTreeMap<&str, &Vec<Option<f64>>> = second.features.iter().map(|(name, values)| (name.as_str(), values)).collect();
    let mut features: Vec<Moved> = first
        .features
        .iter()
        .filter_map(|(name, before)| moved(name, (before, &first.weights), (theirs.get(name.as_str())?, &second.weights), sizes.1, chance))
        .collect();
    features.sort_by(|a, b| b.psi.total_cmp(&a.psi).then_with(|| a.feature.cmp(&b.feature)));
    let names = |side: &Side| side.features.iter().map(|(name, _)| name.clone()).collect::<BTreeSet<_>>();
    let (old, new) = (names(first), names(second));
    let devices = |side: &Side| side.rows.iter().map(|(device, _)| device.clone()).collect::<BTreeSet<_>>();
    let (were, are) = (devices(first), devices(second));
    let known = !first.rows.is_empty() && !second.rows.is_empty();
    let mut made = Comparison {
        rows: (first.labels.len() as u64, second.labels.len() as u64),
        shared_rows: known.then(|| shared(first, second)),
        shared_devices: were.intersection(&are).count() as u64,
        devices_gone: named(were.difference(&are)),
        devices_new: named(are.difference(&were)),
        labels: classes(first, second),
        features,
        features_gone: old.difference(&new).cloned().collect(),
        features_new: new.difference(&old).cloned().collect(),
        sentence: String::new(),
    };
    made.sentence = made.words(&first.title, &second.title);
    made
}

fn worth(side: &Side) -> f64 {
    if side.weights.is_empty() { side.labels.len() as f64 } else { effective_rows(side.weights.iter().copied()) }
}

fn shared(first: &Side, second: &Side) -> u64 {
    let there: BTreeSet<(&str, u64)> = first.rows.iter().map(|(device, request)| (device.as_str(), *request)).collect();
    second.rows.iter().filter(|(device, request)| there.contains(&(device.as_str(), *request))).count() as u64
}

fn named<'a>(all: impl Iterator<Item = &'a String>) -> Named {
    let mut made = Named::default();
    for name in all {
        made.count += 1;
        if made.names.len() < MAX_NAMED {
            made.names.push(name.clone());
        }
    }
    made
}

type Column<'a> = (&'a [Option<f64>], &'a [f64]);

fn moved(
    name: &str,
    before: (&Vec<Option<f64>>, &Vec<f64>),
    after: (&Vec<Option<f64>>, &Vec<f64>),
    size: f64,
    chance: f64,
) -> Option<Moved> {
    let (before, after): (Column<'_>, Column<'_>) = ((before.0, before.1), (after.0, after.1));
    let reference = weighted_feature(name, Source::Confidence, before.0, before.1)?;
    let now = masses(&reference.cuts, after.0, after.1);
    let counts: Vec<f64> = now.iter().map(|mass| mass * size).collect();
    let far = magnitude(&reference, &reference.masses, &counts, 1.0);
    // Values beyond the first's range are above its last edge: the cumulative shares see them at that edge.
    let special = (0..SPECIALS).map(|bin| (counts_share(&now, bin) - counts_share(&reference.masses, bin)).abs()).fold(0.0, f64::max);
    let gap = far.sup_cdf.max(special);
    let wasserstein = far.wasserstein.filter(|_| matches!(reference.cuts, Cuts::Numeric { .. }));
    Some(Moved { feature: name.to_owned(), psi: far.psi, gap, chance, direction: far.direction.as_str().to_owned(), wasserstein })
}

fn counts_share(masses: &[f64], bin: usize) -> f64 {
    masses.get(bin).copied().unwrap_or(0.0)
}

/// Share of the weight by class, where labels are classes in both.
fn classes(first: &Side, second: &Side) -> BTreeMap<String, (f64, f64)> {
    let of = |side: &Side| {
        let names = Labels::of(side.labels.iter().copied()).classes;
        let (mut sums, mut total): (BTreeMap<String, f64>, f64) = (names.into_keys().map(|class| (class, 0.0)).collect(), 0.0);
        for (row, label) in side.labels.iter().enumerate() {
            let weight = side.weights.get(row).copied().unwrap_or(1.0);
            if let Some(sum) = label.and_then(|label| sums.get_mut(&format!("{label}"))) {
                *sum += weight;
                total += weight;
            }
        }
        sums.into_iter().map(|(class, sum)| (class, if total > 0.0 { sum / total } else { 0.0 })).collect::<BTreeMap<_, _>>()
    };
    let (before, after) = (of(first), of(second));
    let both: BTreeSet<&String> = before.keys().chain(after.keys()).collect();
    let share = |side: &BTreeMap<String, f64>, class: &String| side.get(class).copied().unwrap_or(0.0);
    both.into_iter().map(|class| (class.clone(), (share(&before, class), share(&after, class)))).collect()
}

impl Comparison {
    fn words(&self, first: &str, second: &str) -> String {
        let mut parts = vec![match self.shared_rows {
            Some(shared) => format!("{second} has {} rows, {first} has {}; {shared} are in both", self.rows.1, self.rows.0),
            None => format!("{second} has {} rows, {first} has {}", self.rows.1, self.rows.0),
        }];
        if self.devices_new.count + self.devices_gone.count > 0 {
            parts.push(format!("{} devices are new, {} are gone", self.devices_new.count, self.devices_gone.count));
        }
        let largest = self.labels.iter().max_by(|a, b| (a.1.1 - a.1.0).abs().total_cmp(&(b.1.1 - b.1.0).abs()));
        match largest {
            Some((class, (before, after))) if (after - before).abs() >= 0.0005 => {
                parts.push(format!("class {class} went from {:.1} % to {:.1} % of the labels", before * 100.0, after * 100.0));
            }
            Some(_) => parts.push("labels are in the same shares".to_owned()),
            None => {}
        }
        let beyond: Vec<&Moved> = self.features.iter().filter(|f| f.gap > f.chance).collect();
        parts.push(match beyond.first() {
            Some(most) => format!(
                "{} of {} features moved by more than chance, most of all {} ({}, PSI {:.2}, largest gap {:.2})",
                beyond.len(),
                self.features.len(),
                most.feature,
                most.direction,
                most.psi,
                most.gap
            ),
            None if self.features.is_empty() => "they have no feature in common".to_owned(),
            None => "no feature moved by more than chance".to_owned(),
        });
        parts.join("; ") + "."
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn side(title: &str, rows: u64, shift: f64, positive: u64) -> Side {
        let value = |i: u64| (i * 7919 % rows) as f64 / rows as f64;
        Side {
            title: title.to_owned(),
            features: vec![
                ("wind".to_owned(), (0..rows).map(|i| Some(value(i) + shift)).collect()),
                ("kind".to_owned(), (0..rows).map(|i| Some((i % 3) as f64)).collect()),
            ],
            labels: (0..rows).map(|i| Some(f64::from(u8::from(i % 10 < positive)))).collect(),
            weights: Vec::new(),
            rows: (0..rows).map(|i| (format!("d-{}", i % 5), i)).collect(),
        }
    }

    #[test]
    fn a_dataset_is_like_itself() {
        let one = side("a", 1000, 0.0, 3);
        let made = compare(&one, &one);
        assert_eq!((made.rows, made.shared_rows, made.shared_devices), ((1000, 1000), Some(1000), 5));
        assert!(made.features.iter().all(|f| f.psi < 1e-9 && f.gap < 1e-9), "{:?}", made.features);
        assert_eq!(
            made.sentence,
            "a has 1000 rows, a has 1000; 1000 are in both; labels are in the same shares; no feature moved by more than chance."
        );
    }

    #[test]
    fn what_moved_is_named_with_its_direction_and_labels_with_their_shares() {
        let mut later = side("b", 1200, 0.2, 6);
        later.rows.iter_mut().skip(1000).for_each(|row| row.0 = "new".to_owned());
        later.features.push(("rain".to_owned(), vec![Some(1.0); 1200]));
        let made = compare(&side("a", 1000, 0.0, 3), &later);
        assert_eq!((made.features[0].feature.as_str(), made.features[1].feature.as_str()), ("wind", "kind"));
        let wind = &made.features[0];
        assert!((wind.gap - 0.2).abs() < 0.02 && wind.psi > 0.2 && wind.gap > wind.chance, "{wind:?}");
        assert!(["higher", "above its known range"].contains(&wind.direction.as_str()), "{wind:?}");
        assert!(made.features[1].gap < made.features[1].chance);
        assert_eq!(
            (made.devices_new.names.as_slice(), made.features_new.as_slice()),
            (["new".to_owned()].as_slice(), ["rain".to_owned()].as_slice())
        );
        let (before, after) = made.labels["1"];
        assert!((before - 0.3).abs() < 1e-9 && (after - 0.6).abs() < 1e-9);
        assert!(
            made.sentence.contains("% of the labels; 1 of 2 features moved by more than chance, most of all wind"),
            "{}",
            made.sentence
        );
    }

    /// The second kept every positive and a fifth of the rest; with weights it is the first again.
    #[test]
    fn a_selective_capture_is_no_change() {
        let all = side("a", 10_000, 0.0, 3);
        let keep = |i: usize| all.labels[i] == Some(1.0) || i % 50 < 10;
        let rows: Vec<usize> = (0..10_000).filter(|i| keep(*i)).collect();
        let pick = |values: &Vec<Option<f64>>| rows.iter().map(|i| values[*i]).collect::<Vec<_>>();
        let kept = Side {
            title: "b".to_owned(),
            features: all.features.iter().map(|(name, values)| (name.clone(), pick(values))).collect(),
            labels: pick(&all.labels),
            weights: rows.iter().map(|i| if all.labels[*i] == Some(1.0) { 1.0 } else { 5.0 }).collect(),
            rows: rows.iter().map(|i| all.rows[*i].clone()).collect(),
        };
        let made = compare(&all, &kept);
        assert!((made.labels["1"].1 - 0.3).abs() < 0.01, "{:?}", made.labels);
        assert!(made.features.iter().all(|f| f.gap < f.chance), "{:?}", made.features);
        let naive = compare(&all, &Side { weights: Vec::new(), ..kept });
        assert!(naive.labels["1"].1 > 0.6, "{:?}", naive.labels);
    }

    #[test]
    fn datasets_that_share_nothing_say_so() {
        let bare =
            Side { title: "c".to_owned(), features: vec![("x".to_owned(), vec![None, None])], labels: vec![None, None], ..Side::default() };
        let made = compare(&side("a", 100, 0.0, 5), &bare);
        assert!(made.sentence.ends_with("they have no feature in common.") && made.shared_rows.is_none(), "{}", made.sentence);
        assert_eq!(compare(&bare, &bare).features.len(), 0, "a feature without a value has no bins");
    }
}
