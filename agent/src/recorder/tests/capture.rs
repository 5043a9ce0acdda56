//! What is captured: probabilities that are true (by simulation), budgets that hold all day, and values that never leave.
use leeway_protocol::assignment::Priority;
use leeway_protocol::capture::CapturedRow;
use leeway_protocol::manifest::Redact;

use super::*;

const DAY: i64 = 86_400_000;

fn policy(uniform: f64, max_rows_per_day: u64, uncertain: f64, rare: f64) -> CapturePolicy {
    let priority = Priority { uncertain, rare, disagreement: 0.0 };
    CapturePolicy { uniform, max_rows_per_day, priority, ..CapturePolicy::default() }
}

/// Numbers of 0 to 1 that look like chance.
fn noise(seed: u64, i: u64) -> f64 {
    super::memory::share(super::memory::hash(super::memory::hash(seed) ^ i))
}

/// One simulated day: probability, value, moment of each request. In the afternoon the world shifts, and three times as many ask.
fn a_day(seed: u64, n: u64) -> Vec<(i64, f32, f32)> {
    let at = |i: u64| {
        let share = i as f64 / n as f64;
        let day = if share < 0.25 { 2.0 * share } else { 0.5 + (share - 0.25) / 1.5 };
        (day * DAY as f64) as i64
    };
    let one = |i: u64| {
        let late = if at(i) > DAY / 2 { 0.3 } else { 0.0 };
        let p = noise(seed, 2 * i) as f32;
        let x = if noise(seed, 2 * i + 1) < 0.02 { 1.5 } else { (p + late) % 1.0 };
        (at(i), x, p)
    };
    (0..n).map(one).collect()
}

fn capture(policy: CapturePolicy, manifest: &Manifest, day: &[(i64, f32, f32)]) -> Vec<CapturedRow> {
    let mut recorder = recorder(manifest, u64::MAX, policy);
    let mut rows = Vec::new();
    for (id, (now, x, p)) in day.iter().enumerate() {
        serve(&mut recorder, manifest, *now, plain(id as u64, *x, *p));
        if id % 500 == 0 {
            rows.extend(recorder.captured(true).into_iter().flat_map(|b| b.rows));
        }
    }
    rows.extend(recorder.captured(true).into_iter().flat_map(|b| b.rows));
    rows
}

#[test]
fn weighted_sums_are_unbiased_under_every_policy() {
    let manifest = two_features();
    let truth_of = |day: &[(i64, f32, f32)], of: &dyn Fn(&(i64, f32, f32)) -> f64| day.iter().map(of).sum::<f64>();
    // Generous, pressed hard by the budget, and preferring what is uncertain or rare; the last all at once.
    for case in [policy(0.1, 100_000, 0.0, 0.0), policy(0.5, 150, 0.0, 0.0), policy(0.02, 100_000, 0.6, 1.0), policy(0.05, 200, 0.8, 0.9)] {
        let day = a_day(7, 4_000);
        let wanted =
            [truth_of(&day, &|_| 1.0), truth_of(&day, &|d| f64::from(d.1)), truth_of(&day, &|d| f64::from(u8::from(d.0 > DAY / 2)))];
        let days = 300;
        let (mut sums, mut squares, mut most) = ([0.0; 3], [0.0; 3], 0);
        for salt in 0..days {
            let rows = capture(CapturePolicy { salt, ..case }, &manifest, &day);
            most = most.max(rows.len());
            let mut estimates = [0.0; 3];
            for row in &rows {
                let weight = 1.0 / f64::from(row.inclusion);
                let late = f64::from(u8::from(day[row.request as usize].0 > DAY / 2));
                for (sum, value) in estimates.iter_mut().zip([1.0, f64::from(row.inputs[0]), late]) {
                    *sum += weight * value;
                }
            }
            for i in 0..3 {
                sums[i] += estimates[i];
                squares[i] += estimates[i] * estimates[i];
            }
        }
        assert!(most as u64 <= case.max_rows_per_day, "{case:?}: {most}");
        for i in 0..3 {
            let n = days as f64;
            let mean = sums[i] / n;
            let error = ((squares[i] / n - mean * mean) / n).sqrt();
            assert!((mean - wanted[i]).abs() < 4.0 * error, "{case:?}, sum {i}: {mean} for {} ± {error}", wanted[i]);
            assert!(error / wanted[i] < 0.03, "the test could not tell: {case:?}, sum {i}: {error} of {}", wanted[i]);
        }
    }
}

#[test]
fn a_short_budget_lasts_all_day_and_is_never_exceeded() {
    let manifest = two_features();
    let day = a_day(3, 20_000);
    let mut kept = 0;
    for salt in 0..20 {
        let rows = capture(CapturePolicy { salt, ..policy(1.0, 240, 0.0, 0.0) }, &manifest, &day);
        let hour = |row: &CapturedRow| day[row.request as usize].0 / (DAY / 6);
        let by_hours: Vec<usize> = (0..6).map(|h| rows.iter().filter(|r| hour(r) == h).count()).collect();
        assert!(by_hours.iter().all(|&n| n >= 10), "{by_hours:?}");
        assert!(rows.len() <= 240, "{}", rows.len());
        kept += rows.len();
    }
    assert!(kept / 20 > 170, "most of the budget is used: {}", kept / 20);
    // Bytes bind like rows: a row of two values has 56.
    let bytes = CapturePolicy { max_bytes_per_day: 56 * 100, ..policy(1.0, 1_000_000, 0.0, 0.0) };
    let rows = capture(bytes, &manifest, &day);
    assert!((50..=100).contains(&rows.len()), "{}", rows.len());
}

#[test]
fn the_uncertain_and_the_rare_come_first_and_say_so() {
    let mut manifest = two_features();
    manifest.reference.features[0].masses = vec![0.0, 0.0, 0.0, 0.0, 0.0, 0.995, 0.005];
    manifest.reference.features[1].masses = vec![0.0, 0.0, 0.0, 0.0, 0.0, 0.5, 0.5];
    let rows = capture(policy(0.05, 1_000_000, 0.5, 0.9), &manifest, &a_day(5, 8_000));
    for row in &rows {
        // The test's model: p is the probability of class 1, the threshold a half.
        let margin = (f64::from(row.confidence) - 0.5) * 2.0;
        let wanted = if row.inputs[0] > 1.0 { 0.9 } else { (0.5 * (1.0 - margin)).max(0.05) };
        assert!((f64::from(row.inclusion) - wanted).abs() < 1e-6, "{row:?}: {wanted}");
    }
    let sure = rows.iter().filter(|r| r.confidence > 0.95 && r.inputs[0] <= 1.0).count();
    let unsure = rows.iter().filter(|r| r.confidence < 0.55 && r.inputs[0] <= 1.0).count();
    let rare = rows.iter().filter(|r| r.inputs[0] > 1.0).count();
    assert!(unsure > 5 * sure && sure > 10 && (120..175).contains(&rare), "{unsure} {sure} {rare}");
}

#[test]
fn a_shadow_that_says_otherwise_makes_a_row_worth_keeping() {
    let manifest = two_features();
    let priority = Priority { disagreement: 0.8, ..Priority::default() };
    let mut recorder = recorder(&manifest, u64::MAX, CapturePolicy { priority, ..policy(0.1, 1_000_000, 0.0, 0.0) });
    for id in 0..10_000u64 {
        serve(&mut recorder, &manifest, 1, plain(id, 0.5, 0.9));
        // For a third there is no shadow at all.
        if id % 3 != 0 {
            recorder.compared(id % 3 == 1);
        }
    }
    let rows: Vec<CapturedRow> = recorder.captured(true).into_iter().flat_map(|b| b.rows).collect();
    for (rest, inclusion, about) in [(0, 0.1, 333), (1, 0.8, 2_666), (2, 0.1, 333)] {
        let of: Vec<_> = rows.iter().filter(|r| r.request % 3 == rest).collect();
        assert!(of.iter().all(|r| r.inclusion == inclusion), "{rest}");
        assert!(of.len().abs_diff(about) < about / 5, "{rest}: {}", of.len());
    }
}

#[test]
fn what_is_redacted_never_leaves() {
    let mut manifest = manifest_with(vec![
        (Source::Input { tensor: 0, index: 0 }, Cuts::Numeric { edges: vec![0.0, 1.0, 2.0] }),
        (Source::Input { tensor: 0, index: 1 }, Cuts::Numeric { edges: vec![-1.0, 1.0] }),
    ]);
    manifest.v = 2;
    manifest.redact = [("f0".to_owned(), Redact::Coarsen), ("f1".to_owned(), Redact::Drop)].into();
    let mut kept = recorder(&manifest, 1_000, policy(1.0, 1_000_000, 0.0, 0.0));
    for (id, x) in [0.2, 1.9, -7.0, 9.0, f32::NAN].into_iter().enumerate() {
        serve(&mut kept, &manifest, 1, plain(id as u64, x, 0.9));
    }
    let rows: Vec<CapturedRow> = kept.captured(true).into_iter().flat_map(|b| b.rows).collect();
    let first: Vec<String> = rows.iter().map(|r| r.inputs[0].to_string()).collect();
    assert_eq!(first, ["0.5", "1.5", "0", "2", "NaN"]);
    assert!(rows.iter().all(|r| r.inputs.len() == 2 && r.inputs[1].is_nan()));
    manifest.redact = [("x".to_owned(), Redact::Drop)].into();
    let mut dropped = recorder(&manifest, 1_000, policy(1.0, 1_000_000, 0.0, 0.0));
    serve(&mut dropped, &manifest, 1, plain(0, 0.2, 0.9));
    assert!(dropped.captured(true)[0].rows[0].inputs.iter().all(|x| x.is_nan()));
    manifest.golden.vectors.clear();
}
