//! Estimates, intervals and concept drift on simulated labels.
use leeway_protocol::ids::WindowId;
use leeway_protocol::manifest::CONFIDENCE_BINS;
use leeway_protocol::report::{Errors, LATENCY_BUCKETS, Labelled};

use super::*;
use crate::sequential::tests::Chance;

const DAY: i64 = 86_400_000;

fn calibration() -> Calibration {
    let edges = (0..=10).map(|i| 0.5 + f64::from(i) * 0.05).collect();
    Calibration { edges, accuracy: (0..10).map(|i| 0.55 + f64::from(i) * 0.05).collect(), rows: vec![100; 10] }
}

fn report(day: i64, confidence: [u32; CONFIDENCE_BINS], labels: u64, correct: u64) -> WindowReport {
    let at = Timestamp::from_millis(day * DAY + DAY / 2);
    let mut labelled = [Labelled::default(); CONFIDENCE_BINS];
    labelled[0] = Labelled { rows: labels, correct };
    WindowReport {
        manifest: Digest::of(b"m"),
        model: Digest::of(b"o"),
        window: WindowId(day as u64),
        opened_at: at,
        closed_at: at,
        inferences: confidence.iter().map(|&n| u64::from(n)).sum(),
        recorded: 0,
        errors: Errors::default(),
        latency: vec![0; LATENCY_BUCKETS],
        rho_percent: vec![],
        features: vec![],
        confidence,
        classes: vec![],
        labelled,
        data_time: Some((at, at)),
        user: Default::default(),
    }
}

fn device(i: usize) -> DeviceId {
    format!("d-{i}").parse().unwrap()
}

#[test]
fn the_estimate_is_counts_times_what_each_bin_was_worth() {
    let c = calibration();
    assert!((estimate::held_out(&c).unwrap() - 0.775).abs() < 1e-12);
    let mut counts = [0; CONFIDENCE_BINS];
    counts[0] = 30;
    counts[9] = 10;
    let (sum, rows) = estimate::sum(&counts, &c);
    assert!((sum / rows as f64 - (0.55 * 30.0 + 10.0) / 40.0).abs() < 1e-12);
    assert_eq!(estimate::sum(&counts, &Calibration::default()), (0.0, 0));
}

#[test]
fn years_are_years_of_the_application() {
    let policy = QualityPolicy { block_ms: 30 * DAY, recent_ms: 365 * DAY, ..QualityPolicy::default() };
    let mut quality = Quality::new(Digest::of(b"m"), &calibration());
    // 1949 begins 7,670 days before 1970.
    for month in 0..24 {
        for d in 0..3 {
            assert!(quality.observe(&policy, &calibration(), &device(d), &report(-7_670 + month * 30, [3; CONFIDENCE_BINS], 30, 24)));
        }
    }
    let years = points([&quality], &policy, Period::Years);
    let names: Vec<String> = years.iter().map(|p| p.at.to_string()).collect();
    assert_eq!(names, ["1949-01-01T00:00:00Z", "1950-01-01T00:00:00Z"]);
    assert_eq!(years.iter().map(|p| p.block.labels).sum::<u64>(), 24 * 90);
    let measured = years[0].measured.unwrap();
    assert!((measured.estimate - 0.8).abs() < 1e-9 && measured.lower > 0.65 && measured.upper < 0.92, "{measured:?}");
    let verdict = quality.verdict(&policy, 3);
    assert!(!verdict.concept_drift && verdict.sentence.contains("assumes no concept drift"), "{}", verdict.sentence);
    assert!(verdict.sentence.starts_with("Measured accuracy 80.0 %"), "{}", verdict.sentence);
    let other = WindowReport { manifest: Digest::of(b"x"), ..report(0, [0; 10], 0, 0) };
    assert!(!quality.observe(&policy, &calibration(), &device(0), &other));
    assert_eq!(points([&quality], &policy, Period::Millis(60 * DAY)).len(), 12);
    let bytes = postcard::to_stdvec(&quality).unwrap();
    assert_eq!(postcard::from_bytes::<Quality>(&bytes).unwrap(), quality);
}

/// The day concept drift was seen, with 3 devices of 30 labels a day.
fn alarm(chance: &mut Chance, policy: &QualityPolicy, days: i64, accuracy: impl Fn(i64) -> f64) -> Option<i64> {
    let mut quality = Quality::new(Digest::of(b"m"), &calibration());
    (0..days).find(|&day| {
        for d in 0..3 {
            let correct = chance.hits(30, accuracy(day));
            quality.observe(policy, &calibration(), &device(d), &report(day, [0; 10], 30, correct));
        }
        quality.verdict(policy, 100).concept_drift
    })
}

#[test]
fn concept_drift_is_found_and_false_alarms_keep_the_budget() {
    let policy =
        QualityPolicy { budget: Budget { false_alarms: 1.0, period_ms: 60 * DAY }, sharing: 0.0, rho: 0.0, ..QualityPolicy::default() };
    let mut chance = Chance::new(5);
    // Held-out accuracy is .775, tolerance .02: at the edge of the null.
    let wrong = (0..100).filter(|_| alarm(&mut chance, &policy, 60, |_| 0.755).is_some()).count();
    assert!(wrong <= 1, "{wrong} false alarms where 1 is allowed");
    for (after, within) in [(0.6, 12), (0.5, 6)] {
        let day = alarm(&mut chance, &policy, 120, |day| if day < 40 { 0.78 } else { after });
        assert!(day.is_some_and(|d| d >= 40 && d <= 40 + within), "{after}: {day:?}");
    }
}

#[test]
fn the_corrected_estimate_and_other_opinions_stand_beside() {
    let policy = QualityPolicy { sharing: 0.0, rho: 0.0, ..QualityPolicy::default() };
    let mut quality = Quality::new(Digest::of(b"m"), &calibration());
    let mut chance = Chance::new(7);
    // The estimate says .775 for ever; from day 30 on half of the labels say otherwise.
    for day in 0..60 {
        let correct = chance.hits(40, if day < 30 { 0.78 } else { 0.5 });
        quality.observe(&policy, &calibration(), &device(day as usize % 3), &report(day, [20; 10], 40, correct));
    }
    let verdict = quality.verdict(&policy, 3);
    let powered = verdict.powered.unwrap();
    assert!((verdict.estimated.unwrap() - 0.775).abs() < 1e-9 && (powered.interval.estimate - 0.73).abs() < 0.06, "{powered:?}");
    assert!(powered.interval.upper < 0.79 && powered.labels == 1_200 && powered.decisions == 6_000, "{powered:?}");
    assert!(verdict.concept_drift);
    assert_eq!(verdict.also.iter().map(|o| o.method.as_str()).collect::<Vec<_>>(), ["ADWIN", "Page–Hinkley"]);
    assert!(verdict.also.iter().all(|o| o.rises > 0), "{:?}", verdict.also);
    for words in ["The estimate corrected by the labels: ", "Also: ADWIN a rise on 1970-", "without a budget of false alarms"] {
        assert!(verdict.sentence.contains(words), "{words}: {}", verdict.sentence);
    }
}

#[test]
fn labels_of_a_window_that_came_late_count_with_the_next_block() {
    let policy = QualityPolicy { sharing: 0.0, rho: 0.0, ..QualityPolicy::default() };
    let evidence = |late: bool| {
        let mut quality = Quality::new(Digest::of(b"m"), &calibration());
        (0..10).for_each(|day| _ = quality.observe(&policy, &calibration(), &device(0), &report(day, [0; 10], 10, 8)));
        if late {
            // A device was offline and sends what it saw on day 3, when that day is judged.
            quality.observe(&policy, &calibration(), &device(1), &report(3, [0; 10], 200, 60));
        }
        (10..13).for_each(|day| _ = quality.observe(&policy, &calibration(), &device(0), &report(day, [0; 10], 10, 8)));
        quality.verdict(&policy, 1)
    };
    let (without, with) = (evidence(false), evidence(true));
    assert!(with.log_evidence > 20.0 && without.log_evidence < 3.0, "{} {}", with.log_evidence, without.log_evidence);
    assert_eq!(with.labels, without.labels + 200);
}

#[test]
fn what_an_older_controller_wrote_down_is_read() {
    let policy = QualityPolicy::default();
    let mut quality = Quality::new(Digest::of(b"m"), &calibration());
    (0..5).for_each(|day| _ = quality.observe(&policy, &calibration(), &device(0), &report(day, [1; 10], 10, 8)));
    let mut json = serde_json::to_value(&quality).unwrap();
    json.as_object_mut().unwrap().remove("worth");
    let concept = json["concept"].as_object_mut().unwrap();
    for newer in ["late", "classic"] {
        concept.remove(newer);
    }
    json["blocks"].as_object_mut().unwrap().values_mut().for_each(|b| _ = b.as_object_mut().unwrap().remove("bins"));
    let mut old: Quality = serde_json::from_value(json).unwrap();
    assert_eq!(old.verdict(&policy, 1).powered, None);
    old.observe(&policy, &calibration(), &device(0), &report(6, [1; 10], 10, 8));
    assert!(old.verdict(&policy, 1).powered.is_some());
}
