//! Coverage over all looks, for good and for useless predictions, equal and unequal inclusion; and when it is worth it.
use super::*;
use crate::sequential::tests::Chance;

/// A cohort: decisions a block, how confidence is spread over the bins, and how wrong the predictions are.
struct Cohort {
    decisions: u64,
    /// Probability that a decision is asked for its label.
    asked: f64,
    /// Truth in bin b is predicted(b) + this.
    off: f64,
}

/// Sharp predictions: .55 to 1.0 by bin.
fn predicted() -> [f64; CONFIDENCE_BINS] {
    std::array::from_fn(|bin| 0.55 + 0.05 * bin as f64 - if bin == 9 { 0.01 } else { 0.0 })
}

/// One stretch: after every block the interval is looked at; whether it ever missed, and its last width.
fn run(chance: &mut Chance, cohorts: &[Cohort], blocks: usize, alpha: f64, told: bool) -> (bool, f64) {
    let mut bins = vec![[BinCount::default(); CONFIDENCE_BINS]; cohorts.len()];
    let (mut missed, mut width) = (false, 1.0);
    let truth = |cohort: &Cohort, bin: usize| (predicted()[bin] + cohort.off).clamp(0.0, 1.0);
    // The mean of the rows' expectations over the decisions made.
    let (mut expected, mut made) = (0.0, 0.0);
    for _ in 0..blocks {
        for (cohort, counts) in cohorts.iter().zip(&mut bins) {
            for _ in 0..cohort.decisions {
                let bin = (chance.uniform() * CONFIDENCE_BINS as f64) as usize;
                counts[bin].decisions += 1;
                expected += truth(cohort, bin);
                made += 1.0;
                if chance.hit(cohort.asked) {
                    counts[bin].labels += 1;
                    counts[bin].correct += u64::from(chance.hit(truth(cohort, bin)));
                }
            }
        }
        let strata: Vec<Stratum<'_>> = cohorts
            .iter()
            .zip(&bins)
            .map(|(c, bins)| Stratum { bins, predicted: predicted(), eta: 1.0, inclusion: told.then_some(c.asked) })
            .collect();
        if let Some(found) = accuracy(&strata, alpha) {
            missed |= expected / made < found.interval.lower || expected / made > found.interval.upper;
            width = found.interval.upper - found.interval.lower;
        }
    }
    (missed, width)
}

#[test]
fn it_covers_at_all_looks_whatever_the_predictions_are_worth() {
    let cohort = |decisions, asked, off| Cohort { decisions, asked, off };
    let table: [(&str, Vec<Cohort>, bool); 5] = [
        ("predictions that hold", vec![cohort(100, 0.1, 0.0)], false),
        ("concept drift: the predictions are 15 points too high", vec![cohort(100, 0.1, -0.15)], false),
        ("unequal inclusion, known", vec![cohort(60, 0.2, 0.0), cohort(60, 0.05, -0.3)], true),
        ("unequal inclusion, taken from the labels", vec![cohort(60, 0.2, 0.0), cohort(60, 0.05, -0.3)], false),
        ("few labels", vec![cohort(20, 0.05, -0.1)], false),
    ];
    let (runs, alpha) = (100, 0.1);
    for (seed, (name, cohorts, told)) in table.iter().enumerate() {
        let mut chance = Chance::new(80 + seed as u64);
        let missed = (0..runs).filter(|_| run(&mut chance, cohorts, 20, alpha, *told).0).count();
        // At a stated 10 % more than 17 of 100 has a chance of 1 %.
        assert!(missed <= 17, "{name}: {missed} of {runs} at a stated 10 %");
    }
}

#[test]
fn unweighted_labels_would_be_wrong_where_inclusion_differs() {
    // Half of the decisions are right always, half never; the right half is asked nine times as often.
    let bin = |labels, correct| [BinCount { decisions: 1_000, labels, correct }; 1];
    let (right, wrong) = (bin(90, 90), bin(10, 0));
    let of = |bins, inclusion| Stratum { bins, predicted: [0.5; CONFIDENCE_BINS], eta: 1.0, inclusion };
    for known in [false, true] {
        let inclusion = |share| known.then_some(share);
        let found = accuracy(&[of(&right, inclusion(0.09)), of(&wrong, inclusion(0.01))], 0.05).unwrap();
        assert!((found.interval.estimate - 0.5).abs() < 1e-9, "{found:?}");
        assert!(found.interval.lower < 0.5 && found.interval.upper > 0.5 && !found.cut);
    }
    assert!((found_unweighted(&right, &wrong) - 0.9).abs() < 1e-9);
}

fn found_unweighted(right: &[BinCount], wrong: &[BinCount]) -> f64 {
    let sum = |of: fn(&BinCount) -> u64| right.iter().chain(wrong).map(of).sum::<u64>() as f64;
    sum(|b| b.correct) / sum(|b| b.labels)
}

#[test]
fn good_predictions_make_it_narrower_and_edges_hold() {
    let mut bins = [BinCount::default(); CONFIDENCE_BINS];
    // Decisions are either a coin's toss or sure, and the table knows which.
    bins[0] = BinCount { decisions: 5_000, labels: 200, correct: 100 };
    bins[9] = BinCount { decisions: 5_000, labels: 200, correct: 199 };
    let mut known = [0.75; CONFIDENCE_BINS];
    let blind = known;
    (known[0], known[9]) = (0.5, 0.99);
    let width = |predicted| {
        let found = accuracy(&[Stratum { bins: &bins, predicted, eta: 1.0, inclusion: None }], 0.05).unwrap();
        assert!((found.interval.estimate - 0.7475).abs() < 1e-3, "{found:?}");
        assert!((found.predicted + found.correction - found.interval.estimate).abs() < 1e-9);
        found.interval.upper - found.interval.lower
    };
    assert!(width(known) < 0.93 * width(blind), "{} {}", width(known), width(blind));
    assert_eq!(accuracy(&[], 0.05), None);
    let unlabelled = [BinCount { decisions: 9, labels: 0, correct: 0 }];
    let rare = [BinCount { decisions: 100_000, labels: 1, correct: 1 }];
    let often = [BinCount { decisions: 1_000, labels: 900, correct: 1 }];
    let of = |bins| Stratum { bins, predicted: blind, eta: 1.0, inclusion: None };
    assert_eq!(accuracy(&[of(&unlabelled[..])], 0.05), None);
    let found = accuracy(&[of(&rare[..]), of(&often[..])], 0.05).unwrap();
    assert!(found.interval.lower < found.interval.upper && found.cut && found.labels == 901, "{found:?}");
    let found = accuracy(&[of(&rare[..]), of(&unlabelled[..])], 0.05).unwrap();
    assert_eq!((found.decisions, found.cut), (100_000, false), "nothing is said of what nobody labelled");
}
