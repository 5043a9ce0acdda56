//! What each input is worth to a model: asked of the model itself, on labelled rows that it was not trained on.
//!
//! Two measurements, for two ways in which an input can change. *Accuracy by bin*: how often the model is right where the value lies in
//! one bin. If only this feature's distribution changes (covariate shift: the truth given the inputs stays), the accuracy becomes the
//! average over the new shares. *Permutation* (Breiman, Random Forests, 2001): how often it is right when the value comes from another
//! row; what is left when an instrument says nothing about the world any more. Importance is the share of decisions that the
//! permutation changes, which needs no labels.
//!
//! What stays true: the same rows give the same questions, so that a manifest made twice is made alike.
use leeway_protocol::profile::{FeatureReference, SPECIALS, Worth};

/// Rows asked about with permuted values, over all features: publishing may take about twice as long, not ten times.
const MAX_ASKED: usize = 50_000;
/// Rows per feature: the standard error of a share is then about one point.
const MAX_ROWS: usize = 2_000;
/// Below so many rows a share says too little to be signed.
const MIN_ROWS: usize = 200;

/// A row that the model decided.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Judged {
    /// Its row in the data.
    pub row: usize,
    /// The class decided.
    pub decision: f64,
    /// The true class, where it is known.
    pub truth: Option<f64>,
}

/// Which rows to ask about again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Questions {
    features: usize,
    /// Places among the judged rows.
    asked: Vec<usize>,
}

/// One row to ask about: every value as it is, but `feature`'s from another row. Both are places among the judged rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Question {
    /// Whose value is exchanged.
    pub feature: usize,
    /// The row.
    pub row: usize,
    /// Where the value comes from.
    pub from: usize,
}

impl Questions {
    /// What to ask about so many features with so many judged rows; nothing where there are too few to learn anything from.
    pub fn new(features: usize, judged: usize) -> Option<Self> {
        let rows = judged.min(MAX_ROWS).min(MAX_ASKED / features.max(1));
        if features == 0 || rows < MIN_ROWS {
            return None;
        }
        Some(Self { features, asked: order(judged, 0).into_iter().take(rows).collect() })
    }

    /// All of them, feature by feature.
    pub fn iter(&self) -> impl Iterator<Item = Question> {
        (0..self.features).flat_map(move |feature| {
            let shuffled = order(self.asked.len(), feature as u64 + 1);
            let pairs: Vec<(usize, usize)> =
                shuffled.into_iter().zip(&self.asked).filter_map(|(at, &row)| Some((row, *self.asked.get(at)?))).collect();
            pairs.into_iter().map(move |(row, from)| Question { feature, row, from })
        })
    }

    /// Write what the answers say into the features. `value` gives a judged row's value of a feature, `answers` the decisions in the order
    /// of the questions, `None` where the model gave none; judged rows without the truth give no worth, only importance.
    pub fn measure(
        &self,
        judged: &[Judged],
        features: &mut [FeatureReference],
        value: impl Fn(usize, usize) -> Option<f64>,
        answers: &[Option<f64>],
    ) {
        let rows = self.asked.len();
        for (index, feature) in features.iter_mut().enumerate().take(self.features) {
            let (mut answered, mut changed, mut known, mut right, mut intact) = (0u32, 0u32, 0u32, 0u32, 0u32);
            for (&at, answer) in self.asked.iter().zip(answers.iter().skip(index * rows)) {
                let (Some(row), Some(answer)) = (judged.get(at), answer) else { continue };
                answered += 1;
                changed += u32::from(!is_same(*answer, row.decision));
                if let Some(truth) = row.truth {
                    known += 1;
                    intact += u32::from(is_same(row.decision, truth));
                    right += u32::from(is_same(*answer, truth));
                }
            }
            let share = |n: u32, of: u32| f64::from(n) / f64::from(of.max(1));
            if (answered as usize) < MIN_ROWS {
                continue;
            }
            feature.importance = Some(share(changed, answered));
            if known as usize >= MIN_ROWS {
                feature.worth = Some(by_bin(feature, judged, |row| value(index, row), share(right, known), share(intact, known)));
            }
        }
    }
}

/// Classes are whole numbers.
fn is_same(a: f64, b: f64) -> bool {
    (a - b).abs() < 0.5
}

fn by_bin(feature: &FeatureReference, judged: &[Judged], value: impl Fn(usize) -> Option<f64>, permuted: f64, intact: f64) -> Worth {
    let bins = feature.cuts.bins();
    let (mut rows, mut right) = (vec![0u64; bins], vec![0u64; bins]);
    let (mut all, mut all_right) = (0u64, 0u64);
    for row in judged {
        let Some(is_right) = row.truth.map(|truth| is_same(row.decision, truth)) else { continue };
        all += 1;
        all_right += u64::from(is_right);
        let Some(bin) = feature.cuts.bin(value(row.row)).checked_sub(SPECIALS) else { continue };
        if let (Some(n), Some(k)) = (rows.get_mut(bin), right.get_mut(bin)) {
            *n += 1;
            *k += u64::from(is_right);
        }
    }
    let overall = all_right as f64 / all.max(1) as f64;
    let share = |(&k, &n): (&u64, &u64)| if n == 0 { overall } else { k as f64 / n as f64 };
    Worth { accuracy: right.iter().zip(&rows).map(share).collect(), rows, permuted, intact }
}

/// A fixed order of `0..n` that looks like chance; another one for every seed.
fn order(n: usize, seed: u64) -> Vec<usize> {
    let mut places: Vec<usize> = (0..n).collect();
    places.sort_by_cached_key(|&i| mixed(mixed(seed) ^ i as u64));
    places
}

/// The finaliser of SplitMix64 (Steele, Lea and Flood 2014).
fn mixed(seed: u64) -> u64 {
    let x = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

#[cfg(test)]
mod tests {
    use leeway_protocol::profile::{Reference, Source};

    use super::*;
    use crate::reference;

    const ROWS: usize = 4_000;

    /// Three inputs in -1..1: the first decides, the second breaks the truth where it is high, the third is noise.
    fn value(feature: usize, row: usize) -> Option<f64> {
        Some(mixed((row * 3 + feature) as u64) as f64 / u64::MAX as f64 * 2.0 - 1.0)
    }

    fn decide(values: [f64; 3]) -> f64 {
        f64::from(u8::from(values[0] > 0.0))
    }

    fn truth(row: usize) -> f64 {
        let [a, b] = [0, 1].map(|f| value(f, row).unwrap());
        f64::from(u8::from((a > 0.0) != (b > 0.6)))
    }

    fn world() -> (Vec<Judged>, Vec<FeatureReference>) {
        let judge = |row: usize| Judged { row, decision: decide([0, 1, 2].map(|f| value(f, row).unwrap())), truth: Some(truth(row)) };
        let feature = |f: usize| {
            let values: Vec<Option<f64>> = (0..ROWS).map(|row| value(f, row)).collect();
            reference::feature(["a", "b", "c"][f], Source::Input { tensor: 0, index: f }, &values).unwrap()
        };
        ((0..ROWS).map(judge).collect(), (0..3).map(feature).collect())
    }

    #[test]
    fn a_model_says_what_its_inputs_are_worth() {
        let (judged, mut features) = world();
        let questions = Questions::new(3, judged.len()).unwrap();
        let ask = |q: Question| {
            let mut values = [0, 1, 2].map(|f| value(f, judged[q.row].row).unwrap());
            values[q.feature] = value(q.feature, judged[q.from].row).unwrap();
            Some(decide(values))
        };
        let answers: Vec<Option<f64>> = questions.iter().map(ask).collect();
        assert_eq!(answers.len(), 3 * MAX_ROWS);
        questions.measure(&judged, &mut features, value, &answers);
        let importance: Vec<f64> = features.iter().map(|f| f.importance.unwrap()).collect();
        assert!((importance[0] - 0.5).abs() < 0.04, "{importance:?}");
        assert_eq!(importance[1..], [0.0, 0.0]);
        let worth: Vec<&Worth> = features.iter().map(|f| f.worth.as_ref().unwrap()).collect();
        assert!((worth[0].intact - 0.8).abs() < 0.03 && (worth[0].permuted - 0.5).abs() < 0.04, "{:?}", worth[0]);
        // The model does not look at the second input, so no permutation shows it; where it is high, the model is wrong all the same.
        assert_eq!(worth[1].intact, worth[1].permuted);
        assert!(worth[1].accuracy[9] < 0.05 && worth[1].accuracy[0] > 0.95, "{:?}", worth[1]);
        assert!(Reference { rows: ROWS as u64, features }.check().is_ok());
    }

    #[test]
    fn too_little_to_learn_from_is_not_asked_about() {
        for (features, rows, asked) in [(0, 5_000, None), (3, 100, None), (300, 5_000, None), (3, 500, Some(500)), (100, 9_000, Some(500))]
        {
            assert_eq!(Questions::new(features, rows).map(|q| q.asked.len()), asked, "{features} features, {rows} rows");
        }
        // Rows without an answer count for nothing, rows without the truth for importance alone.
        let (mut judged, mut features) = world();
        let questions = Questions::new(3, judged.len()).unwrap();
        questions.measure(&judged, &mut features, value, &vec![None; 3 * MAX_ROWS]);
        assert!(features.iter().all(|f| f.importance.is_none() && f.worth.is_none()));
        judged.iter_mut().for_each(|j| j.truth = None);
        questions.measure(&judged, &mut features, value, &vec![Some(1.0); 3 * MAX_ROWS]);
        assert!(features.iter().all(|f| f.importance.is_some() && f.worth.is_none()));
    }
}
