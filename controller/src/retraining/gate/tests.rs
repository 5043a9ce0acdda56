//! Error rates of the gate, simulated with seeds, and its three outcomes.
use super::*;
use crate::sequential::tests::Chance;

const DAY: i64 = 86_400_000;

/// `days` of five stations in two cohorts; both models are right with these chances, with `sky` deciding a day for all stations at once.
fn rows(chance: &mut Chance, days: i64, champion: f64, challenger: [f64; 2], sky: f64) -> Vec<Paired> {
    let mut rows = Vec::new();
    for day in 0..days {
        let common = chance.hit(sky).then(|| (chance.uniform(), chance.uniform()));
        for station in 0..5 {
            let slice = usize::from(station > 2);
            let (a, b) = common.unwrap_or_else(|| (chance.uniform(), chance.uniform()));
            // Independent draws, so equal models disagree on many rows, as two trees do.
            rows.push(Paired {
                slice: Some(["coast", "plain"][slice].parse().unwrap()),
                at: Timestamp::from_millis(day * DAY + station * 1000),
                weight: 1.0,
                champion: a < champion,
                challenger: b < challenger[slice],
            });
        }
    }
    rows
}

#[test]
fn an_equal_model_is_hardly_ever_promoted_even_when_stations_share_their_days() {
    for sky in [0.0, 0.9] {
        let mut chance = Chance::new(11);
        let won = (0..200)
            .filter(|_| compare(&GatePolicy::default(), &rows(&mut chance, 365, 0.75, [0.75; 2], sky)).outcome == Outcome::Won)
            .count();
        assert!(won <= 14, "{won} of 200 promoted at alpha 5 %, sky {sky}");
        let mut chance = Chance::new(12);
        let naive = (0..100)
            .filter(|_| {
                let c = compare(&GatePolicy::default(), &rows(&mut chance, 365, 0.75, [0.75; 2], sky));
                c.challenger > c.champion
            })
            .count();
        assert!(naive > 30, "the naive rule promotes about half: {naive}");
    }
}

#[test]
fn a_better_model_wins_a_worse_one_loses_and_few_labels_decide_nothing() {
    let mut chance = Chance::new(13);
    let policy = GatePolicy::default();
    let better = compare(&policy, &rows(&mut chance, 365, 0.60, [0.78; 2], 0.5));
    assert_eq!(better.outcome, Outcome::Won, "{}", better.sentence);
    assert!(better.sentence.contains("It won") && better.log_evidence > 3.0, "{}", better.sentence);
    let worse = compare(&policy, &rows(&mut chance, 365, 0.78, [0.70; 2], 0.5));
    assert_eq!(worse.outcome, Outcome::Lost, "{}", worse.sentence);
    let slice = compare(&policy, &rows(&mut chance, 365, 0.70, [0.90, 0.50], 0.0));
    assert!(slice.outcome == Outcome::Lost && slice.sentence.contains("At plain"), "{}", slice.sentence);
    let few = compare(&policy, &rows(&mut chance, 10, 0.60, [0.78; 2], 0.5));
    assert!(matches!(few.outcome, Outcome::NotEnoughLabels { needed } if (60..20_000).contains(&needed)), "{few:?}");
    let close = compare(&policy, &rows(&mut chance, 200, 0.75, [0.77; 2], 0.5));
    assert!(matches!(close.outcome, Outcome::NotEnoughLabels { needed } if needed > 1000), "{}", close.sentence);
    let none = compare(&policy, &[]);
    assert!(matches!(none.outcome, Outcome::NotEnoughLabels { .. }), "{}", none.sentence);
}

#[test]
fn the_needed_labels_decide_most_of_the_time() {
    let mut chance = Chance::new(14);
    let policy = GatePolicy { slice_margin: 0.1, ..GatePolicy::default() };
    let first = compare(&policy, &rows(&mut chance, 30, 0.70, [0.78; 2], 0.3));
    let Outcome::NotEnoughLabels { needed } = first.outcome else { panic!("{}", first.sentence) };
    let days = (needed / 5) as i64;
    let won = (0..40).filter(|_| compare(&policy, &rows(&mut chance, days, 0.70, [0.78; 2], 0.3)).outcome == Outcome::Won).count();
    assert!(won >= 20, "{won} of 40 won with {needed} rows");
}
