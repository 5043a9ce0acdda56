//! What neighbours say about an instrument: lopsided values, slow ones, gaps, and cohorts that are few.
use super::*;

/// Sixteen stations with values of their own, no common sky; `value` is told the station, its latent series and the block.
fn stations(
    reference: &Reference,
    (seed, blocks, rho): (u64, i64, f64),
    value: impl Fn(usize, f64, i64, &mut Chance) -> Option<f64>,
) -> (Monitor, BTreeMap<DeviceId, i64>) {
    let policy = DriftPolicy {
        budget: Budget { false_alarms: 1.0, period_ms: 720 * BLOCK_MS },
        block_ms: BLOCK_MS,
        season_ms: 12 * BLOCK_MS,
        base_blocks: 12,
        ..DriftPolicy::default()
    };
    let setting = Setting { reference, policy: &policy, devices: 2_000, cohorts: 100 };
    let mut chance = Chance::new(seed);
    let mut series: Vec<Series> = (0..16).map(|_| Series { rho, last: chance.normal() }).collect();
    let mut monitor = monitor(reference);
    let mut alarmed = BTreeMap::new();
    // What the recorder makes of such a series: a single bin's indicator forgets sooner than the value.
    let told = (75.0 * rho) as u8;
    for block in 0..blocks {
        for (i, series) in series.iter_mut().enumerate() {
            let rows: Vec<_> = (0..100).map(|_| (series.next(&mut chance), block)).collect();
            let rows: Vec<_> = rows.into_iter().map(|(z, block)| vec![value(i, z, block, &mut chance)]).collect();
            monitor.observe(&setting, &device(i), &report(reference, block, told, &rows)).unwrap();
        }
        for device in monitor.broken() {
            alarmed.entry(device).or_insert(block);
        }
    }
    (monitor, alarmed)
}

/// Offsets of −2 to 2 times 0.2, in steps.
fn offset(station: usize) -> f64 {
    0.2 * (station as f64 / 3.75 - 2.0)
}

#[test]
fn an_offset_of_a_lopsided_value_is_no_fault() {
    // Log-normal: half the values lie in a tenth of the range, and an offset that is nothing at the top empties bins at the bottom.
    let mut reference = reference(1);
    let edges = [-4.5].into_iter().chain(DECILES).chain([4.5]).map(f64::exp).collect();
    reference.features[0].cuts = Cuts::Numeric { edges };
    for seed in 0..3 {
        let (_, alarmed) = stations(&reference, (seed, 60, 0.0), |i, z, _, _| Some(z.exp() + offset(i)));
        assert!(alarmed.is_empty(), "seed {seed}: {alarmed:?}");
    }
}

#[test]
fn half_a_deviation_is_seen_among_neighbours() {
    // Hardly more than the interval that an offset of one cut leaves, and soon seen, because the others agree so well.
    let shift = |i, block| if i == 3 && block >= 24 { 0.5 } else { 0.0 };
    let (monitor, alarmed) = stations(&reference(1), (5, 50, 0.0), |i, z, block, _| Some(z + offset(i) + shift(i, block)));
    assert_eq!(alarmed.keys().collect::<Vec<_>>(), [&device(3)]);
    assert!(alarmed[&device(3)] < 48, "{alarmed:?}");
    assert!(monitor.instruments()[0].sentence.contains("station-03 reads higher"), "{}", monitor.instruments()[0].sentence);
}

#[test]
fn slow_values_do_not_hide_gaps() {
    // Autocorrelation 0.9 makes a hundred values worth five; it says nothing about five that are missing.
    let (monitor, alarmed) =
        stations(&reference(1), (6, 50, 0.9), |i, z, block, chance| (i != 3 || block < 30 || !chance.hit(0.05)).then_some(z + offset(i)));
    assert_eq!(alarmed.keys().collect::<Vec<_>>(), [&device(3)]);
    assert!(alarmed[&device(3)] < 42, "{alarmed:?}");
    assert!(monitor.instruments()[0].sentence.contains("is missing"), "{}", monitor.instruments()[0].sentence);
}

#[test]
fn gaps_that_always_came_in_bursts_are_no_news() {
    // Every station loses a fifth of an hour's values once in ten hours; that no gap is alone shows in the base.
    let (_, alarmed) = stations(&reference(1), (7, 100, 0.0), |i, z, block, chance| {
        (!(block * 7 + i as i64 * 3 + block / 10).rem_euclid(10).eq(&0) || !chance.hit(0.2)).then_some(z)
    });
    assert!(alarmed.is_empty(), "{alarmed:?}");
}

#[test]
fn a_few_stations_are_not_the_world() {
    // Five stations whose offsets happen to point one way: 0.12 of a deviation, nearly five points of share, for good.
    let reference = reference(1);
    let policy = DriftPolicy {
        budget: Budget { false_alarms: 1.0, period_ms: 720 * BLOCK_MS },
        block_ms: BLOCK_MS,
        season_ms: 12 * BLOCK_MS,
        base_blocks: 6,
        sharing: 0.0,
        ..DriftPolicy::default()
    };
    let setting = Setting { reference: &reference, policy: &policy, devices: 100, cohorts: 20 };
    let run = |offsets: [f64; 5]| {
        let mut chance = Chance::new(9);
        let mut monitor = monitor(&reference);
        for block in 0..100 {
            for (i, offset) in offsets.iter().enumerate() {
                let rows: Vec<_> = (0..100).map(|_| vec![Some(chance.normal() + offset)]).collect();
                monitor.observe(&setting, &device(i), &report(&reference, block, 0, &rows)).unwrap();
            }
        }
        monitor.world(&setting)[0].moved
    };
    assert!(!run([-0.25, -0.1, 0.15, 0.3, 0.5]), "devices that differ as much as that make no world");
    assert!(run([0.12; 5]), "five that agree do");
}

#[test]
fn a_checkpoint_from_before_the_count_goes_on() {
    let reference = reference(1);
    let policy = DriftPolicy { block_ms: BLOCK_MS, ..DriftPolicy::default() };
    let setting = Setting { reference: &reference, policy: &policy, devices: 3, cohorts: 1 };
    let mut monitor = monitor(&reference);
    let rows = vec![vec![Some(0.0)]; 10];
    for i in 0..3 {
        monitor.observe(&setting, &device(i), &report(&reference, 0, 0, &rows)).unwrap();
    }
    let mut json = serde_json::to_value(&monitor).unwrap();
    json["blocks"].as_object_mut().unwrap().remove("heard").unwrap();
    let mut restored: Monitor = serde_json::from_value(json).unwrap();
    for i in 0..2 {
        for m in [&mut monitor, &mut restored] {
            m.observe(&setting, &device(i), &report(&reference, 2, 0, &rows)).unwrap();
        }
    }
    assert_eq!(restored, monitor);
    assert_eq!(restored.observe(&setting, &device(2), &report(&reference, 0, 0, &rows)), Err(Refusal::Late), "block 0 was judged");
}
