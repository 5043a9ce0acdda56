//! Windows are exact, labels find their bin, samples keep their probability, and everything stays within its bound.
use leeway_protocol::assignment::{CapturePolicy, Windows};
use leeway_protocol::digest::Digest;
use leeway_protocol::manifest::{Blob, Calibration, Decision, Golden, Limits, Lineage, Manifest};
use leeway_protocol::profile::{Cuts, FeatureReference, Reference, SPECIALS, Source};
use leeway_protocol::report::WindowReport;
use leeway_protocol::tensor::{DType, TensorSpec};
use leeway_protocol::time::Timestamp;

use super::row::{Decider, Elements};
use super::*;

/// A manifest with two float inputs in one tensor, a probability, and the given features.
pub(crate) fn manifest_with(features: Vec<(Source, Cuts)>) -> Manifest {
    let features = features.into_iter().enumerate().map(|(i, (source, cuts))| {
        let bins = SPECIALS + cuts.bins();
        let mut masses = vec![0.0; bins];
        masses[SPECIALS] = 1.0;
        FeatureReference { name: format!("f{i}"), source, cuts, masses, importance: None, worth: None }
    });
    let spec = |name: &str, shape: &[u64]| TensorSpec { name: name.into(), dtype: DType::F32, shape: shape.to_vec() };
    Manifest {
        v: 1,
        line: "rain".parse().unwrap(),
        version: "1".parse().unwrap(),
        seq: 1,
        model: Blob::of(b"model"),
        inputs: vec![spec("x", &[1, 2])],
        outputs: vec![spec("p", &[1, 1])],
        state: vec![],
        constants: vec![],
        redact: Default::default(),
        decision: Decision::Binary { output: 0, index: 0, threshold: 0.5 },
        reference: Reference { rows: 10, features: features.collect() },
        calibration: Calibration { edges: (0..=10).map(|i| f64::from(i) / 10.0).collect(), accuracy: vec![0.5; 10], rows: vec![1; 10] },
        golden: Golden::default(),
        limits: Limits::default(),
        lineage: Lineage::default(),
        created_at: Timestamp::default(),
    }
}

fn two_features() -> Manifest {
    manifest_with(vec![
        (Source::Input { tensor: 0, index: 0 }, Cuts::Numeric { edges: vec![0.0, 1.0, 2.0] }),
        (Source::Confidence, Cuts::Numeric { edges: vec![0.5, 0.75, 1.0] }),
    ])
}

fn recorder(manifest: &Manifest, max_inferences: u64, capture: CapturePolicy) -> Recorder {
    Recorder::new(manifest, Digest::of(b"manifest"), Windows { max_inferences, max_ms: 10_000 }, capture)
}

struct Request<'a> {
    id: u64,
    x: [f32; 2],
    p: f32,
    nulls: &'a [(usize, usize)],
}

fn serve(recorder: &mut Recorder, manifest: &Manifest, now: i64, request: Request<'_>) -> bool {
    let (inputs, outputs) = ([Elements::F32(&request.x)], [request.p]);
    let outputs = [Elements::F32(&outputs)];
    let decided = Decider::new(manifest).decide(&outputs);
    let row = Row { inputs: &inputs, outputs: &outputs, nulls: request.nulls };
    let at = Timestamp::from_secs(500 + request.id as i64);
    let inference = Inference { request: request.id, nanos: 1_000_000, data_time: Some(at), row, decided };
    recorder.answered(Timestamp::from_millis(now), &inference)
}

fn many(recorder: &mut Recorder, manifest: &Manifest, ids: std::ops::Range<u64>, now: i64) {
    for id in ids {
        serve(recorder, manifest, now, plain(id, 0.5, 0.9));
    }
}

fn plain(id: u64, x: f32, p: f32) -> Request<'static> {
    Request { id, x: [x, 0.0], p, nulls: &[] }
}

#[test]
fn a_window_is_exact_and_passes_the_wire_check() {
    let manifest = two_features();
    let mut recorder = recorder(&manifest, 6, CapturePolicy::default());
    let values = [0.5, 1.5, f32::NAN, -1.0, 9.0];
    for (i, x) in values.into_iter().enumerate() {
        assert!(!recorder.is_due(Timestamp::from_millis(1_000)));
        assert!(serve(&mut recorder, &manifest, 1_000, plain(i as u64, x, 0.875)));
    }
    serve(&mut recorder, &manifest, 2_000, Request { id: 5, x: [0.5, 0.0], p: 0.375, nulls: &[(0, 0)] });
    recorder.failed(Timestamp::from_millis(2_500), Failure::Rejected);
    assert!(recorder.is_due(Timestamp::from_millis(2_500)));
    assert!(recorder.label(Timestamp::from_millis(2_600), 0, 1.0));
    assert!(recorder.label(Timestamp::from_millis(2_600), 1, 0.0));
    assert!(!recorder.label(Timestamp::from_millis(2_600), 1, 0.0), "a label counts once");
    assert!(!recorder.label(Timestamp::from_millis(2_600), 99, 0.0), "an unknown request");

    let report = recorder.close(Timestamp::from_millis(3_000)).unwrap();
    assert_eq!(WindowReport::parse(&report.to_bytes()), Ok(report.clone()));
    assert_eq!((report.inferences, report.recorded, report.errors.rejected), (6, 6, 1));
    assert_eq!(report.features[0].0, [1, 1, 1, 1, 0, 1, 1]);
    assert_eq!(report.features[1].0, [0, 0, 0, 0, 0, 1, 5]);
    assert_eq!(report.classes, [1, 5]);
    assert_eq!(report.confidence, [0, 0, 0, 0, 0, 0, 1, 0, 5, 0]);
    assert_eq!((report.labels().rows, report.labels().correct), (2, 1));
    assert_eq!(report.data_time, Some((Timestamp::from_secs(500), Timestamp::from_secs(505))));
    assert_eq!((report.opened_at.as_millis(), report.closed_at.as_millis()), (1_000, 3_000));
    assert_eq!(recorder.close(Timestamp::from_millis(4_000)), None, "an empty window is not sent");
    // Labels alone: by the application's time this is where the data stood, not where the clock on the wall is.
    assert!(recorder.label(Timestamp::from_millis(5_000), 2, 1.0));
    let labels = recorder.close(Timestamp::from_millis(6_000)).unwrap();
    assert_eq!((labels.inferences, labels.data_time), (0, Some((Timestamp::from_secs(505), Timestamp::from_secs(505)))));
}

#[test]
fn windows_close_by_time_even_when_the_clock_steps_back() {
    let manifest = two_features();
    let mut recorder = recorder(&manifest, 1_000, CapturePolicy::default());
    assert!(!recorder.is_due(Timestamp::from_millis(99_000_000)), "nothing happened yet");
    serve(&mut recorder, &manifest, 50_000, plain(0, 0.5, 0.9));
    assert!(!recorder.is_due(Timestamp::from_millis(59_999)));
    assert!(recorder.is_due(Timestamp::from_millis(60_000)));
    assert!(recorder.is_due(Timestamp::from_millis(1_000)));
    let report = recorder.close(Timestamp::from_millis(1_000)).unwrap();
    assert_eq!(report.closed_at, report.opened_at);
}

#[test]
fn a_label_after_its_window_counts_in_the_next_one() {
    let manifest = two_features();
    let mut recorder = recorder(&manifest, 1, CapturePolicy::default());
    serve(&mut recorder, &manifest, 1, plain(3, 0.5, 0.25));
    assert_eq!(recorder.close(Timestamp::from_millis(2)).unwrap().labels().rows, 0);
    assert!(recorder.label(Timestamp::from_millis(3), 3, 0.0));
    let late = recorder.close(Timestamp::from_millis(4)).unwrap();
    assert_eq!((late.inferences, late.labels().rows, late.labels().correct, late.window.0), (0, 1, 1, 1));
}

#[test]
fn what_the_application_tells_is_added_up_by_name_and_bounded() {
    let manifest = two_features();
    let mut recorder = recorder(&manifest, 1_000, CapturePolicy::default());
    let value = |name: &str, value| (name.parse().unwrap(), UserValue::of(value).unwrap());
    let at = Timestamp::from_millis;
    recorder.told(at(1), &[value("pick_success", 1.0), value("retry", 0.0), value("pick_success", 0.25)]).unwrap();
    serve(&mut recorder, &manifest, 2, plain(3, 0.5, 0.9));
    assert!(recorder.answered_to(3) && !recorder.answered_to(4));
    assert!(recorder.label(at(2), 3, 1.0) && recorder.answered_to(3), "a label does not make it forgotten");
    let six: Vec<_> = (0..6).map(|i| value(&format!("m{i}"), 1.0)).collect();
    recorder.told(at(3), &six).unwrap();
    let refused = recorder.told(at(3), &[value("retry", 1.0), value("ninth", 1.0)]).unwrap_err().to_string();
    assert_eq!(refused, "a window counts at most 8 metrics by name, and holds m0, m1, m2, m3, m4, m5, pick_success, retry: use these");
    recorder.told(at(4), &[value("retry", 1.0)]).unwrap();
    let report = recorder.close(at(5)).unwrap();
    assert_eq!(WindowReport::parse(&report.to_bytes()), Ok(report.clone()));
    let totals = |name: &str| report.user.get(&name.parse().unwrap()).map(|t| (t.trials, t.sum_millionths));
    assert_eq!([totals("pick_success"), totals("retry"), totals("ninth")], [Some((2, 1_250_000)), Some((2, 1_000_000)), None]);
    assert_eq!(report.user.len(), 8);
    // The next window begins with no names, is worth sending for what was told alone, and closes by time.
    assert_eq!(recorder.close(at(6)), None);
    recorder.told(at(7), &[value("ninth", 1.0)]).unwrap();
    assert!(!recorder.is_due(at(8)) && recorder.is_due(at(10_007)));
    let alone = recorder.close(at(10_007)).unwrap();
    assert_eq!((alone.inferences, alone.user.len()), (0, 1));
    let nine: Vec<_> = (0..9).map(|i| value(&format!("m{i}"), 1.0)).collect();
    assert!(recorder.told(at(10_008), &nine).unwrap_err().to_string().ends_with("by name: send fewer names"));
    assert_eq!(recorder.close(at(10_009)), None, "what was refused opens no window");
}

#[test]
fn answers_of_a_model_without_decisions_are_known_too() {
    let manifest = Manifest { decision: Decision::None, ..two_features() };
    let mut recorder = recorder(&manifest, 1_000, CapturePolicy::default());
    serve(&mut recorder, &manifest, 1, plain(3, 0.5, 0.9));
    assert!(recorder.answered_to(3));
    assert!(!recorder.label(Timestamp::from_millis(2), 3, 1.0), "there is no decision to label");
    assert_eq!(recorder.close(Timestamp::from_millis(3)).unwrap().labels().rows, 0);
}

#[test]
fn samples_are_chosen_by_hash_within_the_daily_budget() {
    let manifest = two_features();
    let policy = CapturePolicy { uniform: 0.25, max_rows_per_day: 10_000, labelled_only: false, ..CapturePolicy::default() };
    let mut open = recorder(&manifest, 1_000, policy);
    many(&mut open, &manifest, 0..4_000, 1);
    let rows: Vec<_> = open.captured(true).into_iter().flat_map(|b| b.rows).collect();
    assert!((900..1_100).contains(&rows.len()), "{}", rows.len());
    assert!(rows.iter().all(|r| r.inclusion == 0.25 && r.label.is_none() && r.inputs == [0.5, 0.0]));
    assert_eq!(rows[0].at, Timestamp::from_secs(500 + rows[0].request as i64));

    let mut bounded = recorder(&manifest, 1_000, CapturePolicy { max_rows_per_day: 7, ..policy });
    for day in 0..3 {
        many(&mut bounded, &manifest, 0..4_000, 1 + day * 86_400_000);
        let kept = bounded.captured(true).iter().map(|b| b.rows.len()).sum::<usize>();
        assert!((1..=7).contains(&kept), "day {day}: {kept}");
    }

    let mut neighbour = recorder(&manifest, 1_000, CapturePolicy { salt: 7, ..policy });
    many(&mut neighbour, &manifest, 0..4_000, 1);
    let theirs: Vec<u64> = neighbour.captured(true).into_iter().flat_map(|b| b.rows).map(|r| r.request).collect();
    let both = rows.iter().filter(|r| theirs.contains(&r.request)).count();
    assert!((180..330).contains(&both), "another device keeps other rows of the same requests: {both} in common");

    let mut none = recorder(&manifest, 1_000, CapturePolicy::default());
    many(&mut none, &manifest, 0..100, 1);
    assert!(none.captured(true).is_empty());
}

#[test]
fn labels_complete_samples_and_only_labelled_ones_may_leave() {
    let manifest = two_features();
    let policy = CapturePolicy { uniform: 1.0, max_rows_per_day: 100_000, labelled_only: true, ..CapturePolicy::default() };
    let mut recorder = recorder(&manifest, 1_000, policy);
    many(&mut recorder, &manifest, 0..10, 1);
    assert!(recorder.captured(false).is_empty());
    assert!(recorder.label(Timestamp::from_millis(2), 4, 1.0));
    let rows: Vec<_> = recorder.captured(false).into_iter().flat_map(|b| b.rows).collect();
    assert_eq!(rows.len(), 1);
    assert_eq!((rows[0].request, rows[0].label, rows[0].decided), (4, Some(1.0), 1.0));
    assert!(recorder.captured(true).is_empty(), "the others have no label");
}

#[test]
fn unlabelled_samples_leave_after_their_patience_and_memory_is_bounded() {
    let manifest = two_features();
    let policy = CapturePolicy { uniform: 1.0, max_rows_per_day: u64::MAX, labelled_only: false, ..CapturePolicy::default() };
    let mut recorder = recorder(&manifest, 1_000, policy);
    serve(&mut recorder, &manifest, 1, plain(0, 0.5, 0.9));
    for window in 0..PATIENCE_WINDOWS {
        recorder.close(Timestamp::from_millis(2));
        assert!(recorder.captured(false).is_empty(), "window {window}");
        serve(&mut recorder, &manifest, 3, plain(1 + window, 0.5, 0.9));
    }
    recorder.close(Timestamp::from_millis(4));
    assert_eq!(recorder.captured(false).iter().map(|b| b.rows.len()).sum::<usize>(), 1);
    many(&mut recorder, &manifest, 0..300_000, 5);
    let held: usize = recorder.captured(true).iter().flat_map(|b| &b.rows).map(|r| r.inputs.len()).sum();
    assert!(held <= HELD_VALUES, "{held}");
}

#[test]
fn a_fast_model_is_sampled_and_says_so() {
    let manifest = two_features();
    let mut recorder = recorder(&manifest, u64::MAX, CapturePolicy::default());
    for id in 0..10_000 {
        let x = [0.5, 0.0];
        let row = Row { inputs: &[Elements::F32(&x)], outputs: &[], nulls: &[] };
        recorder.answered(Timestamp::from_millis(1), &Inference { request: id, nanos: 1_000, data_time: None, row, decided: None });
    }
    let report = recorder.close(Timestamp::from_millis(2)).unwrap();
    assert_eq!(report.inferences, 10_000);
    assert!((500..1_000).contains(&report.recorded), "{}: 2 ns an inference pay a recording of 24 ns", report.recorded);
    assert_eq!(report.features[0].total(), report.recorded);
}

mod capture;
mod derived;
