//! What a shift costs decides how loudly it is told of, and which is named first.
use leeway_protocol::profile::Worth;

use super::*;

#[test]
fn the_costly_shift_comes_first_and_the_harmless_one_is_not_shouted() {
    let mut reference = reference(3);
    let worth = |accuracy: [f64; 10], permuted| Some(Worth { accuracy: accuracy.to_vec(), rows: vec![5_000; 10], permuted, intact: 0.9 });
    // The model does not look at the first; it is bad where the second is high; nobody measured the third.
    reference.features[0].worth = worth([0.9; 10], 0.9);
    reference.features[1].worth = worth([0.95, 0.95, 0.95, 0.95, 0.95, 0.95, 0.95, 0.9, 0.8, 0.65], 0.8);
    let policy = DriftPolicy { block_ms: BLOCK_MS, ..DriftPolicy::default() };
    let setting = Setting { reference: &reference, policy: &policy, devices: 1, cohorts: 1 };
    let mut chance = Chance::new(7);
    let mut monitor = monitor(&reference);
    for block in 0..30 {
        // The first moves the furthest.
        let rows: Vec<_> =
            (0..200).map(|_| vec![Some(chance.normal() + 1.5), Some(chance.normal() + 1.0), Some(chance.normal() + 1.0)]).collect();
        monitor.observe(&setting, &device(0), &report(&reference, block, 0, &rows)).unwrap();
    }
    let verdicts = monitor.world(&setting);
    let told: Vec<(usize, bool, bool)> = verdicts.iter().map(|v| (v.index, v.moved, v.harmless)).collect();
    assert_eq!(told[0], (1, true, false), "{told:?}");
    assert!(told.contains(&(0, true, true)) && told.contains(&(2, true, false)), "{told:?}");
    let costly = verdicts[0].cost.unwrap();
    assert!(costly.low > 0.05 && costly.high < 0.15, "{costly:?}");
    assert!(verdicts[0].sentence.contains("Estimated cost: "), "{}", verdicts[0].sentence);
    let harmless = verdicts.iter().find(|v| v.index == 0).unwrap();
    assert!(harmless.sentence.contains("it is shown, not acted on"), "{}", harmless.sentence);
    assert_eq!(verdicts.iter().find(|v| v.index == 2).unwrap().cost, None);
    let shout_all = DriftPolicy { harmless: 0.0, ..policy };
    let verdicts = monitor.world(&Setting { policy: &shout_all, ..setting });
    assert!(verdicts.iter().all(|v| !v.harmless), "{verdicts:?}");
}
