//! Outputs that are not what the release's own reference says, from its first block on, are the release's doing.
use super::*;

/// The verdict about the output, if it moved: an input and an output, shifted from the given blocks on, over 40 blocks of a monitor
/// that follows another one or not.
fn told(follows: bool, input_from: i64, output_from: i64) -> Option<Verdict> {
    let mut reference = reference(2);
    reference.features[1].source = Source::Output { tensor: 0, index: 0 };
    let policy = DriftPolicy { block_ms: BLOCK_MS, ..DriftPolicy::default() };
    let setting = Setting { reference: &reference, policy: &policy, devices: 1, cohorts: 1 };
    let mut chance = Chance::new(31);
    let mut monitor = monitor(&reference);
    if follows {
        monitor = monitor.rebase(Digest::of(b"m"), &reference);
    }
    for block in 0..40 {
        let shift = |from| if block >= from { 1.0 } else { 0.0 };
        let rows: Vec<_> =
            (0..100).map(|_| vec![Some(chance.normal() + shift(input_from)), Some(chance.normal() + shift(output_from))]).collect();
        monitor.observe(&setting, &device(0), &report(&reference, block, 0, &rows)).unwrap();
    }
    monitor.world(&setting).into_iter().find(|v| v.index == 1 && v.moved)
}

#[test]
fn a_shift_at_the_change_of_versions_is_blamed_on_the_release() {
    const NEVER: i64 = i64::MAX;
    let table = [
        (true, NEVER, 0, true),
        // The first model of a cohort follows none; a shift that comes later, or with the inputs, is the world's.
        (false, NEVER, 0, false),
        (true, NEVER, 20, false),
        (true, 0, 0, false),
    ];
    for (follows, input, output, blamed) in table {
        let verdict = told(follows, input, output).expect("the output moved");
        assert_eq!(verdict.release, blamed, "{follows} {input} {output}: {}", verdict.sentence);
        assert_eq!(verdict.sentence.contains("look at the release"), blamed, "{}", verdict.sentence);
    }
    assert_eq!(told(true, NEVER, NEVER), None);
}
