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
                slices: vec![["coast", "plain"][slice].to_owned()],
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

/// Pairs of single rows, one a day: `discordance` of them differ, by `gain` more in favour of the challenger.
fn single(chance: &mut Chance, rows: i64, discordance: f64, gain: f64) -> Vec<Paired> {
    (0..rows)
        .map(|day| {
            let differ = chance.hit(discordance);
            let challenger = if differ { chance.hit(0.5 + 0.5 * gain / discordance) } else { chance.hit(0.75) };
            Paired { slices: Vec::new(), at: Timestamp::from_millis(day * DAY), weight: 1.0, champion: challenger != differ, challenger }
        })
        .collect()
}

/// The rate that is stated, at several discordances and sizes: the count of promotions of equal models must be one that a binomial
/// with `alpha` gives with a chance above one in ten thousand; "higher accuracy wins" is shown beside it on the same draws.
#[test]
fn an_equal_model_is_promoted_at_most_at_the_stated_rate() {
    let policy = GatePolicy::default();
    const DRAWS: u64 = 600;
    // P(X > 56) < 1e-4 for X ~ Binomial(600, 0.05).
    const MOST: u64 = 56;
    for (discordance, rows) in [(0.05, 200), (0.05, 1000), (0.15, 100), (0.15, 365), (0.3, 365), (0.3, 1000)] {
        let mut chance = Chance::new(21);
        let (mut won, mut higher) = (0, 0);
        for _ in 0..DRAWS {
            let result = compare(&policy, &single(&mut chance, rows, discordance, 0.0));
            won += u64::from(result.outcome == Outcome::Won);
            higher += u64::from(result.challenger > result.champion);
        }
        assert!(won <= MOST, "{won} of {DRAWS} equal models promoted at {discordance} discordance and {rows} rows");
        assert!(higher > DRAWS * 35 / 100, "the naive rule promoted only {higher}");
    }
}

#[test]
fn missing_labels_follow_the_discordance_and_the_gain_that_is_wanted() {
    let of = |discordance: f64, wanted: f64| {
        let policy = GatePolicy { wanted_gain: wanted, ..GatePolicy::default() };
        compare(&policy, &single(&mut Chance::new(24), 200, discordance, 0.015))
    };
    let needed = |result: &Comparison| match result.outcome {
        Outcome::NotEnoughLabels { needed } => needed,
        other => panic!("{other:?} {}", result.sentence),
    };
    let (plain, fine, wide) = (of(0.15, 0.03), of(0.15, 0.01), of(0.3, 0.03));
    // Connor: (1.645 √.15 + .842 √(.15 − .0009))² / .0009 = 1029.
    assert!((700..1500).contains(&needed(&plain)), "{}", plain.sentence);
    assert!(needed(&fine) > 7 * needed(&plain) && needed(&wide) > needed(&plain) * 3 / 2, "{} {}", needed(&fine), needed(&wide));
    assert_eq!(plain.missing(), Some(needed(&plain) - 200));
    assert!(plain.sentence.contains(&format!("about {} more labelled rows are needed", needed(&plain) - 200)), "{}", plain.sentence);
    // With so many labels, a model that is better by so much wins four times of five.
    let (mut chance, policy) = (Chance::new(23), GatePolicy::default());
    let won =
        (0..100).filter(|_| compare(&policy, &single(&mut chance, needed(&plain) as i64, 0.15, 0.03)).outcome == Outcome::Won).count();
    assert!((65..=95).contains(&won), "{won} of 100");
}

#[test]
fn a_hard_case_that_was_declared_must_have_been_seen() {
    let case = guards::HardCase { name: "freezing".to_owned(), unsure_below: Some(0.0), ..guards::HardCase::default() };
    let policy = GatePolicy { guards: Guards { hard: vec![case], ..Guards::default() }, ..GatePolicy::default() };
    let mut pairs = rows(&mut Chance::new(13), 365, 0.60, [0.78; 2], 0.5);
    assert_eq!(compare(&GatePolicy::default(), &pairs).outcome, Outcome::Won);
    let unseen = compare(&policy, &pairs);
    assert!(matches!(unseen.outcome, Outcome::NotEnoughLabels { .. }), "{}", unseen.sentence);
    assert!(unseen.sentence.contains("too few of them so far are of freezing (0 days)"), "{}", unseen.sentence);
    for pair in pairs.iter_mut().filter(|pair| pair.at.as_millis() % (10 * DAY) < DAY) {
        pair.slices.push("freezing".to_owned());
        (pair.champion, pair.challenger) = (true, false);
    }
    let worse = compare(&policy, &pairs);
    assert!(worse.outcome == Outcome::Lost && worse.sentence.contains("At freezing it is 100.0 points worse"), "{}", worse.sentence);
}

#[test]
fn a_winner_that_the_devices_cannot_carry_has_lost() {
    let won = compare(&GatePolicy::default(), &rows(&mut Chance::new(13), 365, 0.60, [0.78; 2], 0.5));
    let run = |p50_us| cost::Run { p50_us, p99_us: p50_us, rss_bytes: 1 << 20 };
    let bounds = cost::Bounds { p99_us: 10_000, rss_bytes: 1 << 30 };
    let cost = |p50_us| Cost::of(&CostPolicy::default(), run(600), run(p50_us), Vec::new(), bounds);
    let fine = won.clone().with_cost(cost(700));
    assert!(fine.outcome == Outcome::Won && fine.sentence.contains("Here it takes 700 µs"), "{}", fine.sentence);
    let slow = won.with_cost(cost(9_000));
    assert!(slow.outcome == Outcome::Lost && slow.sentence.ends_with("more than 5 times as long, so it lost."), "{}", slow.sentence);
}
