//! Error rates and speed of the comparison, simulated with seeds.
use super::*;
use crate::sequential::tests::Chance;

fn arm(devices: &[Totals]) -> Arm {
    devices.iter().fold(Arm::default(), |mut arm, &totals| {
        arm.replace(Totals::default(), totals);
        arm
    })
}

fn limits() -> Limits {
    Limits { min_trials: 30, ..Limits::default() }
}

/// How devices of a simulated rollout are right and wrong.
#[derive(Clone, Copy)]
struct World {
    canary: f64,
    control: f64,
    /// Standard deviation of a device's own share.
    own: f64,
    /// Chance that a day is decided for all devices of a version alike.
    sky: f64,
}

/// 3 canaries, 12 controls, windows of `rows` labels; what the verdict was after which window, if it was ever decided.
fn rollout(chance: &mut Chance, world: World, windows: u32, rows: u32) -> (Outcome, u32) {
    let shares: Vec<f64> = (0..15).map(|i| if i < 3 { world.canary } else { world.control } + world.own * chance.normal()).collect();
    let mut totals = [Totals::default(); 15];
    for window in 1..=windows {
        for _ in 0..rows {
            let common = chance.hit(world.sky).then(|| chance.uniform());
            for (total, share) in totals.iter_mut().zip(&shares) {
                total.n += 1.0;
                total.x += f64::from(u8::from(common.unwrap_or_else(|| chance.uniform()) < *share));
            }
        }
        let verdict = compare(Metric::LabelledAccuracy, &arm(&totals[..3]), &arm(&totals[3..]), &limits());
        if verdict.outcome != Outcome::Inconclusive {
            return (verdict.outcome, window);
        }
    }
    (Outcome::Inconclusive, windows)
}

#[test]
fn a_canary_at_the_margin_is_hardly_ever_failed_however_often_one_looks() {
    let worlds = [
        World { canary: 0.75, control: 0.80, own: 0.0, sky: 0.0 },
        World { canary: 0.75, control: 0.80, own: 0.0, sky: 0.9 },
        World { canary: 0.75, control: 0.80, own: 0.02, sky: 0.6 },
        World { canary: 0.45, control: 0.50, own: 0.0, sky: 0.3 },
    ];
    let mut chance = Chance::new(7);
    for world in worlds {
        let failed = (0..100).filter(|_| rollout(&mut chance, world, 40, 30).0 == Outcome::Fail).count();
        assert!(failed <= 1, "{failed} of 100 failed wrongly at alpha 1 %: own {} sky {}", world.own, world.sky);
    }
}

#[test]
fn a_canary_worse_than_the_margin_is_hardly_ever_passed() {
    let mut chance = Chance::new(8);
    for (canary, sky) in [(0.74, 0.0), (0.74, 0.9), (0.6, 0.5)] {
        let world = World { canary, control: 0.80, own: 0.0, sky };
        let passed = (0..100).filter(|_| rollout(&mut chance, world, 40, 30).0 == Outcome::Pass).count();
        assert!(passed <= 5, "{passed} of 100 passed wrongly at 5 %: {canary}");
    }
}

#[test]
fn sabotage_fails_within_a_handful_of_windows_and_a_better_model_passes() {
    let mut chance = Chance::new(9);
    let mut windows_needed = |canary: f64, control: f64, rows: u32, want: Outcome| {
        let world = World { canary, control, own: 0.02, sky: 0.5 };
        let mut needed: Vec<u32> = (0..30)
            .map(|_| {
                let (outcome, window) = rollout(&mut chance, world, 200, rows);
                assert_eq!(outcome, want, "{canary} against {control}");
                window
            })
            .collect();
        needed.sort_unstable();
        (needed[15], needed[29])
    };
    // Weights that guess: 50 % and 30 % right against 80 %, 100 labels a window and device.
    let coin = windows_needed(0.5, 0.8, 100, Outcome::Fail);
    let upside_down = windows_needed(0.3, 0.8, 30, Outcome::Fail);
    let against_old = windows_needed(0.48, 0.7, 100, Outcome::Fail);
    let better = windows_needed(0.8, 0.6, 30, Outcome::Pass);
    println!("windows, median and worst: coin {coin:?}, upside down {upside_down:?}, 0.48 vs 0.70 {against_old:?}, better {better:?}");
    assert!(coin.1 <= 3 && upside_down.1 <= 3 && against_old.0 <= 4 && against_old.1 <= 8 && better.1 <= 6);
}

#[test]
fn rare_errors_are_judged_by_the_exact_test() {
    let side = |devices: usize, n: f64, x: f64| arm(&vec![Totals { n, x }; devices]);
    let limits = Limits { margin: 0.01, ..Limits::default() };
    let judge = |canary: Arm, control: Arm| compare(Metric::ErrorRatio, &canary, &control, &limits);
    assert_eq!(judge(side(3, 1000.0, 60.0), side(12, 1000.0, 0.0)).outcome, Outcome::Fail);
    assert_eq!(judge(side(3, 1000.0, 1.0), side(12, 1000.0, 1.0)).outcome, Outcome::Inconclusive);
    assert_eq!(judge(side(3, 3000.0, 0.0), side(12, 3000.0, 0.0)).outcome, Outcome::Pass);
    let verdict = judge(side(3, 1000.0, 60.0), side(12, 1000.0, 0.0));
    assert!(verdict.sentence.contains("6.0 % of 3000 on 3 devices") && verdict.sentence.ends_with("fail."), "{}", verdict.sentence);
}

#[test]
fn no_data_is_never_a_pass() {
    let some = arm(&[Totals { n: 500.0, x: 450.0 }]);
    for metric in Metric::ALL {
        assert_eq!(compare(metric, &Arm::default(), &some, &limits()).outcome, Outcome::Inconclusive, "{metric:?}");
    }
    assert_eq!(compare(Metric::LabelledAccuracy, &some, &Arm::default(), &limits()).outcome, Outcome::Inconclusive);
    let few = arm(&[Totals { n: 20.0, x: 0.0 }]);
    let verdict = compare(Metric::LabelledAccuracy, &few, &some, &limits());
    assert!(verdict.outcome == Outcome::Inconclusive && verdict.sentence.contains("needed on each side"), "{}", verdict.sentence);
}

#[test]
fn failing_devices_stop_a_rollout_early_and_healthy_ones_do_not() {
    let asked = |n: usize, failed: usize| arm(&(0..n).map(|i| Totals { n: 1.0, x: f64::from(u8::from(i < failed)) }).collect::<Vec<_>>());
    let judge = |n, failed| compare(Metric::DeviceFailures, &asked(n, failed), &Arm::default(), &Limits::default()).outcome;
    assert_eq!(judge(3, 3), Outcome::Fail);
    assert_eq!(judge(3, 1), Outcome::Inconclusive);
    assert_eq!(judge(3, 0), Outcome::Pass);
    assert_eq!(judge(40, 1), Outcome::Pass);
    // The chance to ever fail a fleet in which 5 % of the devices fail, looked at after each device.
    let mut chance = Chance::new(10);
    let wrong = (0..300)
        .filter(|_| {
            let mut failed = 0;
            (1..=200).any(|n| {
                failed += usize::from(chance.hit(0.05));
                judge(n, failed) == Outcome::Fail
            })
        })
        .count();
    assert!(wrong <= 3, "{wrong} of 300 at alpha 1 %");
}

#[test]
fn a_broken_assignment_is_noticed() {
    let fair = sample_ratio(52, 1000, 0.05, 0.01);
    assert!(!fair.broken && fair.log_evidence < 0.0 && fair.sentence.ends_with("as a fair draw may turn out."), "{}", fair.sentence);
    let lost = sample_ratio(0, 200, 0.05, 0.01);
    assert!(
        lost.broken && lost.sentence.starts_with("0 of 200 eligible devices are canaries (0.0 %, asked for 5.0 %)"),
        "{}",
        lost.sentence
    );
    assert!(sample_ratio(100, 1000, 0.05, 1e-4).broken && !sample_ratio(0, 0, 0.05, 0.01).broken);
}

/// One rollout over `canaries` devices of uneven worth, four controls observed with each, on days that are good and bad for both
/// arms: after which device Leeway stops it at 5 %, and after which "more than 5 % of the group" does.
fn failures(chance: &mut Chance, canaries: usize, harm: f64) -> (Option<usize>, Option<usize>) {
    let limits = Limits { alpha: Some(0.05), tolerance: Some(0.0), ..Limits::default() };
    let horizon = Horizon { canary: canaries as u64, control: 4 * canaries as u64 };
    let mut arms = Arms::default();
    let (mut ours, mut theirs) = (None, None);
    for n in 1..=canaries {
        let day = if (n / 20) % 7 == 3 { 3.0 } else { 0.7 };
        // A tenth of the devices has half of the failures: 2 % over all.
        let mut ask = |arm: &mut Arm, harm: f64| {
            let own = if chance.hit(0.1) { 0.1 } else { 0.0111 };
            arm.replace(Totals::default(), Totals { n: 1.0, x: f64::from(u8::from(chance.hit(own * day * harm))) });
        };
        ask(&mut arms.canary, harm);
        (0..4).for_each(|_| ask(&mut arms.control, 1.0));
        let fails = || super::failures::judge(&arms, &limits, horizon).outcome == Outcome::Fail;
        ours = ours.or_else(|| fails().then_some(n));
        theirs = theirs.or((arms.canary.x > 0.05 * canaries as f64).then_some(n));
    }
    (ours, theirs)
}

#[test]
fn a_healthy_rollout_is_aborted_as_often_as_stated_and_a_bad_one_is_stopped_before_a_fixed_share_would() {
    let mut chance = Chance::new(41);
    let (runs, canaries) = (200, 250);
    let aborted = (0..runs).filter(|_| failures(&mut chance, canaries, 1.0).0.is_some()).count();
    // More than 18 of 200 at a true 5 % has a chance below 1 %; none at all would mean that the error is not spent.
    assert!((1..=18).contains(&aborted), "{aborted} of {runs} healthy rollouts aborted at a stated 5 %");
    let mut stops: Vec<(usize, usize)> = (0..60)
        .map(|_| failures(&mut chance, canaries, 5.0))
        .map(|(ours, theirs)| (ours.unwrap_or(canaries + 1), theirs.unwrap_or(canaries + 1)))
        .collect();
    let (earlier, median) = (stops.iter().filter(|(ours, theirs)| ours < theirs).count(), stops.len() / 2);
    stops.sort_unstable();
    assert!(earlier >= 54 && stops[median].0 <= 75, "{earlier} of 60 before the fixed share, {} devices", stops[median].0);
}

#[test]
fn failed_devices_are_compared_with_the_control_group() {
    let trials = |n: usize, x: usize| arm(&(0..n).map(|i| Totals { n: 1.0, x: f64::from(u8::from(i < x)) }).collect::<Vec<_>>());
    let limits = Limits { alpha: Some(0.05), tolerance: Some(0.0), ..Limits::default() };
    let judge = |canary: Arm, control: Arm, limits: &Limits| {
        super::failures::judge(&Arms { canary, control }, limits, Horizon { canary: 400, control: 100 })
    };
    let harm = judge(trials(60, 9), trials(100, 2), &limits);
    assert_eq!(harm.outcome, Outcome::Fail, "{}", harm.sentence);
    assert!(harm.sentence.starts_with("Failed devices: canary 9 of 60, control 2 of 100; worse by 13.0 points, surely between"));
    assert!(harm.lower.unwrap() > 0.0 && harm.upper.unwrap() < 0.4);
    // A broken fleet fails in both arms, and that is not the version's doing.
    assert_eq!(judge(trials(60, 9), trials(100, 13), &limits).outcome, Outcome::Inconclusive);
    assert_eq!(judge(trials(60, 9), trials(100, 2), &Limits { tolerance: Some(0.1), ..limits }).outcome, Outcome::Inconclusive);
    let safe = judge(trials(300, 2), trials(100, 1), &limits);
    assert_eq!(safe.outcome, Outcome::Pass, "{}", safe.sentence);
    assert!(safe.sentence.ends_with("within the 5.0 allowed: pass."), "{}", safe.sentence);
    let none = judge(Arm::default(), trials(100, 0), &limits);
    assert_eq!(none.outcome, Outcome::Inconclusive);
}

#[test]
fn devices_count_once_and_each_leg_has_its_part_of_the_error() {
    let first = Totals { n: 30.0, x: 24.0 };
    let settled = Totals { n: 60.0, x: 45.0 };
    assert_eq!(devices::settles(Metric::LabelledAccuracy, &Limits::default(), Totals::default(), first), None);
    assert_eq!(devices::settles(Metric::LabelledAccuracy, &Limits::default(), first, settled), Some(0.25));
    assert_eq!(devices::settles(Metric::ErrorRatio, &Limits::default(), first, settled), Some(0.75));
    assert_eq!(devices::settles(Metric::ErrorRatio, &Limits::default(), settled, Totals { n: 600.0, x: 450.0 }), None);
    let limits = Limits { alpha: Some(0.02), rows: 0.75, ..Limits::default() };
    assert_eq!(limits.legs().map(|l| l.alpha()), [0.015, 0.005]);

    let group = |share: f64, n: usize| {
        (0..n).fold(crate::sequential::bets::Values::default(), |mut values, i| {
            values.add(share + if i % 2 == 0 { 0.02 } else { -0.02 });
            values
        })
    };
    let judge = |canary: f64, n: usize| {
        let settled = Settled { canary: group(canary, n), control: group(0.2, 4 * n) };
        devices::judge(Metric::LabelledAccuracy, &settled, &Limits::default()).unwrap()
    };
    let harm = judge(0.5, 40);
    assert_eq!(harm.outcome, Outcome::Fail, "{}", harm.sentence);
    assert!(harm.sentence.starts_with("Measured accuracy, device by device: canary 50.0 % as the mean of 40 devices, control 80.0 %"));
    assert!(harm.upper.unwrap() < 0.0, "accuracy fell: {:?}", harm.upper);
    assert_eq!(judge(0.2, 120).outcome, Outcome::Pass);
    assert_eq!(judge(0.2, 3).outcome, Outcome::Inconclusive);
    assert!(devices::judge(Metric::ErrorRatio, &Settled::default(), &Limits::default()).is_none());
}

#[test]
fn a_slice_is_taken_out_exactly_and_what_overlaps_it_is_not_judged_any_more() {
    let totals = |n: f64, x: f64| Totals { n, x };
    let mut evidence = Evidence::default();
    let devices = [("hw=a", "site=1", 900.0, 9.0), ("hw=a", "site=2", 100.0, 2.0), ("hw=b", "site=1", 500.0, 90.0)];
    for (hw, site, n, x) in devices {
        evidence.arms.entry(Metric::ErrorRatio).or_default().canary.replace(Totals::default(), totals(n, x));
        evidence.settled.entry(Metric::ErrorRatio).or_default().canary.add(x / n);
        evidence.latency.canary.add(if hw == "hw=b" { 25.0 } else { 22.0 });
        (evidence.inferences, evidence.errors) = (evidence.inferences + (n - x) as u64, evidence.errors + x as u64);
        for slice in [hw, site] {
            let arms = evidence.slices.entry(slice.to_owned()).or_default().entry(Metric::ErrorRatio).or_default();
            arms.canary.replace(Totals::default(), totals(n, x));
            let apart = evidence.apart.entry(slice.to_owned()).or_default();
            apart.settled.entry(Metric::ErrorRatio).or_default().canary.add(x / n);
            apart.latency.canary.add(if hw == "hw=b" { 25.0 } else { 22.0 });
        }
    }
    let b: crate::registry::Slice = "hw=b".parse().unwrap();
    let site: crate::registry::Slice = "site=1".parse().unwrap();
    let rest = evidence.without(&[&b]);
    assert_eq!(rest.arms[&Metric::ErrorRatio].canary, arm(&[totals(900.0, 9.0), totals(100.0, 2.0)]));
    assert_eq!((rest.inferences, rest.errors, rest.latency.canary.devices), (989, 11, 2));
    assert_eq!(rest.settled[&Metric::ErrorRatio].canary.devices, 2);
    assert!(rest.slices["site=1"].is_empty() && rest.slices["hw=b"].is_empty() && !rest.slices["hw=a"].is_empty());
    assert_eq!(rest.slices.len(), evidence.slices.len(), "what a slice may use of the error does not grow again");
    // A device of both would be taken out twice: of another label, nothing is.
    assert_eq!(evidence.without(&[&b, &site]), rest);
    assert_eq!(evidence.without(&[&b, &b]), rest);
    // What an earlier rollout left out has shown nothing in this one.
    assert_eq!(evidence.without(&[&"site=9".parse().unwrap(), &b]), rest);
    assert_eq!(evidence.without(&[]), evidence);
    let unknown = evidence.without(&[&"hw=c".parse().unwrap()]);
    assert_eq!((&unknown.arms, unknown.errors), (&evidence.arms, evidence.errors));
    // However late slices appear, all their tests together use no more than is there.
    let used: f64 = (1..=MAX_SLICES).map(|k| 1.0 / apart::tests(k)).sum();
    assert!((used - 1.0).abs() < 1e-12);
}

#[test]
fn sums_are_read_as_they_were_written_bit_for_bit() {
    let mut chance = Chance::new(77);
    for _ in 0..2_000 {
        let mut arm = Arm::default();
        arm.replace(Totals::default(), Totals { n: 1e3 * chance.uniform(), x: 1e3 * chance.uniform() });
        let again: Arm = serde_json::from_slice(&serde_json::to_vec(&arm).unwrap()).unwrap();
        assert_eq!(again, arm);
    }
}
