//! A fleet of weather stations in the middle of a bad rollout.
use std::collections::BTreeMap;

use leeway_protocol::time::Timestamp;
use serde_json::json;

use crate::drift::cost::Cost;
use crate::io::web::resource::device::*;
use crate::io::web::resource::drift::*;
use crate::io::web::resource::event::*;
use crate::io::web::resource::fleet::*;
use crate::io::web::resource::model::*;
use crate::io::web::resource::rollout::*;
use crate::io::web::resource::{Condition, Level};
use crate::registry::Slice;
use crate::rollout::shared::Trait;

pub(super) fn now() -> Timestamp {
    "2026-11-23T06:00:00Z".parse().unwrap()
}

fn ago(secs: i64) -> Timestamp {
    now().plus_secs(-secs)
}

fn digest(c: char) -> String {
    format!("sha256:{}", c.to_string().repeat(64))
}

fn labels(region: &str) -> BTreeMap<String, String> {
    BTreeMap::from([("region".to_owned(), region.to_owned())])
}

pub(super) fn event(seq: u64, level: Level, kind: &str, subject: &str, sentence: &str) -> Event {
    Event {
        seq,
        at: ago(2 * (42 - seq as i64) + 3),
        actor: "controller".into(),
        kind: kind.into(),
        level,
        subject: subject.into(),
        sentence: sentence.into(),
        data: json!({}),
        hash: digest('7'),
    }
}

pub(super) fn events() -> Vec<Event> {
    vec![
        event(
            42,
            Level::Bad,
            "rollout.regressed",
            "rollouts/rain-1.1.0",
            "Roll back stage canary: measured accuracy 61.2 % on the canary against 83.9 % on the control, difference −22.7 points [−29.8, −15.1], allowed −5.0.",
        ),
        event(
            41,
            Level::Warn,
            "device.failed",
            "devices/bellevue-07",
            "bellevue-07 went back to rain 1.0.0: the model gave other outputs than the signed golden vectors.",
        ),
        event(40, Level::Busy, "rollout.started", "rollouts/rain-1.1.0", "Start stage canary with 3 of 60 devices."),
        event(
            39,
            Level::Ok,
            "model.published",
            "models/rain",
            "Version 1.1.0 of rain was published by the release key and passed its trial run.",
        ),
    ]
}

pub(super) fn summary(id: &str, phase: &str) -> RolloutSummary {
    let paused = phase == "paused";
    RolloutSummary {
        id: id.into(),
        line: "rain".into(),
        from_version: paused.then(|| "1.0.0".into()),
        to_version: id.trim_start_matches("rain-").into(),
        phase: phase.into(),
        level: if paused { Level::Warn } else { Level::Ok },
        sentence: if paused {
            "Paused at stage 2 of 3: measured accuracy has 96 of the 200 labels it needs, and the deadline has passed.".into()
        } else {
            "Every device runs rain 1.0.0.".into()
        },
        stage: if paused { 2 } else { 3 },
        stages: 3,
        target_devices: if paused { 15 } else { 60 },
        actual_devices: if paused { 13 } else { 60 },
        fleet_devices: 60,
        exposed: if paused { 14 } else { 60 },
        created_at: ago(260),
        updated_at: ago(14),
    }
}

fn stage(name: &str, state: &str, level: Level, share: f64, actual: Progress, sentence: &str) -> Stage {
    Stage {
        name: name.into(),
        target: format!("{:.0} % of every cohort", share * 100.0),
        state: state.into(),
        level,
        sentence: sentence.into(),
        share,
        target_devices: actual.total(),
        actual,
        soak_ms: 90_000,
        soak_left_ms: (state == "soaking").then_some(34_000),
        opened_at: Some(ago(200)),
        closed_at: None,
    }
}

fn guard(metric: &str, title: &str, verdict: &str, level: Level, values: [Option<f64>; 6], n: (u64, u64), sentence: &str) -> Guardrail {
    let [canary, control, difference, lower, upper, threshold] = values;
    Guardrail {
        metric: metric.into(),
        title: title.into(),
        verdict: verdict.into(),
        level,
        unit: "%".into(),
        canary,
        canary_n: n.0,
        control,
        control_n: n.1,
        difference,
        lower,
        upper,
        threshold,
        higher_is_worse: threshold.is_some_and(|t| t > 0.0),
        sentence: sentence.into(),
    }
}

fn share(slice: &str, failing: (usize, usize), healthy: (usize, usize), chance: f64) -> Trait {
    let slice: Slice = slice.parse().unwrap();
    let ((failing_with, failing), (healthy_with, healthy)) = (failing, healthy);
    let sentence = format!("{failing_with} of {failing} failing devices have {slice}, and {healthy_with} of {healthy} healthy ones.");
    Trait { slice, failing_with, failing, healthy_with, healthy, chance, sentence }
}

pub(super) fn rollout() -> Rollout {
    let working = Progress { committed: 11, probation: 2, working: 1, failed: 1, ..Progress::default() };
    Rollout {
        summary: summary("rain-1.1.0", "paused"),
        revision: 9,
        checks: vec![
            Check {
                name: "failed_devices".into(),
                verdict: "pass".into(),
                level: Level::Ok,
                sentence: "1 of 14 devices that tried the version failed with it; allowed are fewer than 2 devices and 10 %.".into(),
            },
            Check {
                name: "inferences".into(),
                verdict: "pass".into(),
                level: Level::Ok,
                sentence: "48120 inferences were reported with the version; 100 are needed.".into(),
            },
        ],
        allowed_actions: ["resume", "promote", "abort"].map(Into::into).to_vec(),
        next: "Waits for a person: promote it to go on without the missing labels, or roll it back.".into(),
        stages: vec![
            stage("canary", "passed", Level::Ok, 0.05, Progress { committed: 3, ..Progress::default() }, "Every check passed."),
            stage("quarter", "soaking", Level::Warn, 0.25, working, "Waits for labels: 96 of 200."),
            stage("all", "pending", Level::Idle, 1.0, Progress { pending: 60, ..Progress::default() }, ""),
        ],
        guardrails: vec![
            guard(
                "error_ratio",
                "Error ratio",
                "pass",
                Level::Ok,
                [Some(0.0002), Some(0.0004), Some(-0.0002), Some(-0.002), Some(0.0016), Some(0.01)],
                (48_120, 31_330),
                "0.0 % against 0.0 %, difference −0.02 points [−0.2, +0.2], allowed +1.0.",
            ),
            guard(
                "labelled_accuracy",
                "Measured accuracy",
                "fail",
                Level::Bad,
                [Some(0.612), Some(0.839), Some(-0.227), Some(-0.298), Some(-0.151), Some(-0.05)],
                (312, 240),
                "61.2 % against 83.9 %, difference −22.7 points [−29.8, −15.1], allowed −5.0.",
            ),
            guard(
                "estimated_accuracy",
                "Estimated accuracy",
                "inconclusive",
                Level::Warn,
                [Some(0.801), Some(0.829), Some(-0.028), Some(-0.081), Some(0.025), Some(-0.05)],
                (48_120, 31_330),
                "80.1 % against 82.9 %, difference −2.8 points [−8.1, +2.5], allowed −5.0.",
            ),
            guard(
                "slow_ratio",
                "Share of slow inferences",
                "waiting",
                Level::Idle,
                [Some(0.001), None, None, None, None, Some(0.05)],
                (48_120, 0),
                "Waiting: the control group has not reported yet.",
            ),
        ],
        conditions: vec![
            Condition {
                kind: "TelemetryArriving".into(),
                holds: Some(true),
                message: "All 60 devices reported within the last minute.".into(),
            },
            Condition {
                kind: "ControlHeld".into(),
                holds: Some(true),
                message: "12 devices are held back on 1.0.0, 4 in each cohort.".into(),
            },
            Condition {
                kind: "LabelsArriving".into(),
                holds: Some(false),
                message: "Only 96 of 200 labels have arrived for the canary.".into(),
            },
        ],
        failing: vec![FailingDevice {
            device: "bellevue-07".into(),
            cohort: "coast".into(),
            phase: "reverted".into(),
            code: "golden-mismatch".into(),
            sentence:
                "The model gave other outputs than the signed golden vectors on this device, so it was not activated. (output 0 off by 0.9)"
                    .into(),
            at: Some(ago(40)),
        }],
        failing_total: 1,
        shared: vec![share("hw=rev-b", (3, 3), (1, 40), 0.0006), share("cohort=coast", (2, 3), (14, 40), 0.9)],
        left_out: vec!["Devices with hw=rev-b are left out and stay with what they had before (3 devices called back): 3 of 15 devices that tried the version failed because of it. 3 of 3 failing devices have hw=rev-b, and 1 of 40 healthy ones: hardly an accident (0.06 %).".into()],
        consequences: vec![
            Consequence {
                action: "abort".into(),
                sentence: "13 devices go back to 1.0.0, 45 will not start, 1 that is installing goes back too.".into(),
            },
            Consequence { action: "promote".into(), sentence: "45 more devices get 1.1.0 without waiting for the gate.".into() },
        ],
        events: events(),
        spec: json!({ "line": "rain", "version": "1.1.0", "stages": [{ "name": "canary", "share": 0.05 }, { "name": "quarter", "share": 0.25 }, { "name": "all", "share": 1.0 }] }),
    }
}

pub(super) fn fleet() -> Fleet {
    let row = |cohort: &str, devices: u64, online: u64, versions: &[(&str, u64, u64)]| CohortRow {
        cohort: cohort.into(),
        selector: format!("region={cohort}"),
        devices,
        online,
        versions: versions
            .iter()
            .map(|(v, seq, n)| VersionCount { line: "rain".into(), version: (*v).into(), seq: *seq, devices: *n })
            .collect(),
        level: Level::Ok,
        sentence: String::new(),
    };
    Fleet {
        level: Level::Warn,
        sentence: "1 rollout is paused, 3 features have moved in 2 cohorts, and 2 of 60 devices are offline.".into(),
        attention: vec![
            Attention { level: Level::Warn, sentence: "Rollout rain-1.1.0 is paused at stage 2 of 3: measured accuracy has 96 of the 200 labels it needs.".into(), since: Some(ago(14)), href: "/rollouts/rain-1.1.0".into(), action: "Promote it, or roll it back.".into() },
            Attention { level: Level::Warn, sentence: "Temperature, dew point and pressure of rain have moved since training, and measured accuracy fell from 84.1 % to 79.2 %.".into(), since: Some(ago(600)), href: "/drift?line=rain".into(), action: "A retraining job is queued; nothing to do.".into() },
            Attention { level: Level::Bad, sentence: "The wind sensor of bellevue-21 differs from its cohort.".into(), since: Some(ago(4000)), href: "/devices/bellevue-21".into(), action: "Have the sensor looked at.".into() },
        ],
        totals: Totals { devices: 60, online: 58, inferences: 1_204_311, inferences_per_second: Some(9_880.0), error_ratio: Some(0.0003), latency_p95_us: Some(65.5), accuracy: Some(0.842), reports: 12_044, refused: 2 },
        cohorts: vec![row("coast", 20, 20, &[("1.0.0", 1, 15), ("1.1.0", 2, 5)]), row("hills", 20, 19, &[("1.0.0", 1, 16), ("1.1.0", 2, 4)]), row("plain", 20, 19, &[("1.0.0", 1, 15), ("1.1.0", 2, 4), ("", 0, 1)])],
        rollouts: vec![summary("rain-1.1.0", "paused")],
        events: events(),
    }
}

pub(super) fn empty_fleet() -> Fleet {
    Fleet {
        level: Level::Idle,
        sentence: "No device is enrolled yet.".into(),
        attention: vec![],
        totals: Totals::default(),
        cohorts: vec![],
        rollouts: vec![],
        events: vec![],
    }
}

fn version_summary(version: &str, seq: u64, state: &str, level: Level, devices: u64) -> VersionSummary {
    VersionSummary {
        line: "rain".into(),
        version: version.into(),
        seq,
        origin: if version.starts_with("auto") { "auto".into() } else { "release".into() },
        signer: if version.starts_with("auto") { "rain-auto".into() } else { "rain".into() },
        registered_at: ago(9000 - seq as i64 * 900),
        manifest: digest(char::from(b'a' + seq as u8)),
        model: digest(char::from(b'b' + seq as u8)),
        bytes: 1_843,
        metrics: BTreeMap::from([("accuracy".into(), 0.841 + seq as f64 * 0.004), ("log_loss".into(), 0.412)]),
        aliases: if seq == 2 { vec!["champion".into()] } else { vec![] },
        devices,
        level,
        state: state.into(),
        reason: match seq {
            1 => "The first years, 1949 to 1954.".into(),
            2 => "Retrained because temperature and dew point moved and accuracy fell by 4.9 points.".into(),
            _ => "A better one, they said.".into(),
        },
        tags: BTreeMap::new(),
    }
}

pub(super) fn model() -> Model {
    Model {
        line: "rain".into(),
        sentence: "rain auto-2 serves 47 devices; 1.1.0 is on its way to 13.".into(),
        aliases: BTreeMap::from([("champion".into(), "auto-2".into()), ("challenger".into(), "1.1.0".into())]),
        signature: "x: f32[1,8] → p: f32[1,1]".into(),
        versions: vec![
            version_summary("1.1.0", 3, "serving", Level::Ok, 13),
            version_summary("auto-2", 2, "serving", Level::Ok, 47),
            version_summary("1.0.0", 1, "available", Level::Idle, 0),
        ],
        tags: BTreeMap::new(),
        candidates: vec![],
    }
}

pub(super) fn jobs() -> Vec<crate::io::web::resource::training::TrainingJob> {
    vec![crate::io::web::resource::training::TrainingJob {
        id: "rain-17".into(),
        line: "rain".into(),
        state: "published".into(),
        level: Level::Ok,
        sentence: "The candidate won and is version auto-2.".into(),
        reason: "Temperature and dew point moved, and it hurts: measured accuracy fell by 4.9 points.".into(),
        created_at: ago(7400),
        updated_at: ago(7300),
        dataset: None,
        version: Some("auto-2".into()),
        spec: None,
    }]
}

pub(super) fn version() -> VersionDetail {
    let node = |id: &str, kind: &str, label: &str, detail: &str| LineageNode {
        id: id.into(),
        kind: kind.into(),
        label: label.into(),
        detail: detail.into(),
        href: None,
    };
    let edge = |from: &str, to: &str, kind: &str| LineageEdge { from: from.into(), to: to.into(), kind: kind.into() };
    let summary = version_summary("auto-2", 2, "serving", Level::Ok, 47);
    let own = summary.manifest.clone();
    VersionDetail {
        summary,
        inputs: vec![TensorInfo { name: "x".into(), dtype: "f32".into(), shape: vec![1, 8], role: "free".into() }],
        outputs: vec![TensorInfo { name: "p".into(), dtype: "f32".into(), shape: vec![1, 1], role: "free".into() }],
        io: digest('f'),
        decision: "class 1 from a probability of 0.5 up (output p, element 0)".into(),
        reference_rows: 3_652,
        features: ["temperature", "dew point", "pressure", "visibility", "wind", "gust", "max temperature", "min temperature"]
            .map(Into::into)
            .to_vec(),
        golden: "16 vectors, within 0.0001 relative and 0.00001 absolute".into(),
        limits: "at most 64.0 MB and 1.0 ms (p99) on a device".into(),
        calibration: (0..10)
            .map(|i| CalibrationBin {
                from: 0.5 + 0.05 * f64::from(i),
                to: 0.55 + 0.05 * f64::from(i),
                accuracy: 0.52 + 0.047 * f64::from(i),
                rows: 40 + 20 * i as u64,
            })
            .collect(),
        created_at: ago(7300),
        lineage: Lineage {
            nodes: vec![
                node("train", "dataset", "rain captured rows", "2 920 rows, 4f1c9a…"),
                node("holdout", "dataset", "rain holdout", "731 rows, 99ab01…"),
                node("run", "run", "training run rain-17", "built-in logistic regression"),
                node("v1", "version", "rain 1.0.0", "parent"),
                node(&own, "version", "rain auto-2", "champion"),
                node("v3", "version", "rain 1.1.0", "sequence 3"),
            ],
            edges: vec![
                edge("train", &own, "train"),
                edge("holdout", &own, "holdout"),
                edge("run", &own, "run"),
                edge("v1", &own, "parent"),
                edge(&own, "v3", "parent"),
            ],
        },
        provenance: Some(Document {
            digest: digest('a'),
            length: 2_345,
            href: "/api/v1/models/rain/versions/auto-2/provenance".into(),
            sentence: "SLSA provenance v1, signed with the key of role rain-auto: made from 2 datasets, a parent".into(),
        }),
        bundle: None,
        bom: "/api/v1/models/rain/versions/auto-2/bom".into(),
        rollouts: vec![super::fixture::summary("rain-auto-2", "completed")],
    }
}

fn feature(name: &str, moved: bool, shift: f64) -> FeatureDrift {
    let mut bins: Vec<BinShare> = (0..10)
        .map(|i| {
            let x = (f64::from(i) - 4.5) / 2.2;
            let share = |mean: f64| (-(x - mean) * (x - mean) / 2.0).exp() * 0.18;
            BinShare { label: format!("{} – {}", 10 + i * 6, 16 + i * 6), special: false, reference: share(0.0), current: share(shift) }
        })
        .collect();
    bins.push(BinShare { label: "above".into(), special: true, reference: 0.0, current: if moved { 0.04 } else { 0.0 } });
    FeatureDrift {
        name: name.into(),
        cohort: None,
        moved,
        level: if moved { Level::Warn } else { Level::Ok },
        log_evidence: if moved { 41.7 } else { 2.1 },
        threshold: 13.8,
        psi: shift * shift * 0.4,
        sup_cdf: shift * 0.19,
        direction: if moved { "higher".into() } else { String::new() },
        importance: Some(0.31),
        cost: moved.then_some(Cost { accuracy: 0.021, low: 0.012, high: 0.03 }),
        harmless: false,
        release: false,
        n: 21_900,
        missing: 0.002,
        outside: if moved { 0.04 } else { 0.0 },
        since: moved.then(|| ago(620)),
        sentence: if moved {
            format!(
                "{name} moved: values are higher than at training time, and the evidence of 41.7 passes the 13.8 that one false alarm a year allows."
            )
        } else {
            format!("{name} looks as it did at training time.")
        },
        bins,
    }
}

pub(super) fn drift() -> Drift {
    Drift {
        line: "rain".into(),
        version: "1.0.0".into(),
        cohort: None,
        cohorts: vec!["coast".into(), "hills".into(), "plain".into()],
        level: Level::Warn,
        sentence: "2 of 4 features have moved since training: temperature, dew point.".into(),
        reference: "training data of 1.0.0, 1 826 rows".into(),
        current: "last 12 windows of 60 devices".into(),
        late_windows: 0,
        method: "Each feature's exact counts are compared with the reference window by window (e-detector). All streams together raise at most one false alarm a year; how far a feature moved (PSI) is shown apart from how sure that is (evidence).".into(),
        features: vec![feature("temperature", true, 0.9), feature("dew point", true, 0.6), feature("pressure", false, 0.1), feature("wind", false, 0.05)],
        devices: vec![DeviceDrift { device: "bellevue-21".into(), cohort: "plain".into(), feature: "wind".into(), log_evidence: 77.0, threshold: 18.4, cost: Some(Cost { accuracy: 0.06, low: 0.01, high: 0.11 }), since: Some(ago(4000)), sentence: "wind at bellevue-21 reads 0 in 98 % of windows while its cohort reads 3 to 9: the sensor, not the weather.".into() }],
    }
}

pub(super) fn quality() -> Quality {
    let points = (0..40)
        .map(|i| {
            let wave = f64::from(i) * 0.9;
            let drop = if (16..24).contains(&i) { 0.05 } else { 0.0 };
            let measured = 0.838 + wave.sin() * 0.012 - drop;
            let seen = i < 37;
            QualityPoint {
                at: format!("{}-01-01T00:00:00Z", 1955 + i).parse().unwrap(),
                decisions: 21_900,
                estimated: Some(0.833 + wave.cos() * 0.008 - drop * 0.5),
                labels: if seen { 730 } else { 0 },
                measured: seen.then_some(measured),
                lower: seen.then_some(measured - 0.02),
                upper: seen.then_some(measured + 0.018),
            }
        })
        .collect();
    Quality {
        line: "rain".into(),
        cohort: None,
        sentence: "Measured accuracy is 84.2 % over the last year with labels (730 labels); 84.1 % was expected at training time.".into(),
        data_time: true,
        points,
        markers: vec![Marker { at: "1979-06-01T00:00:00Z".parse().unwrap(), label: "auto-2 serves the fleet".into() }],
        ..Quality::default()
    }
}

pub(super) fn devices() -> Vec<DeviceSummary> {
    let make = |n: u32, online: bool, phase: &str, level: Level, target: Option<&str>, sentence: &str| DeviceSummary {
        id: format!("bellevue-{n:02}"),
        cohort: "coast".into(),
        labels: labels("coast"),
        admitted: true,
        online,
        last_seen: Some(ago(if online { 2 } else { 4000 })),
        line: Some("rain".into()),
        version: Some("1.0.0".into()),
        target_version: target.map(Into::into),
        phase: phase.into(),
        level,
        sentence: sentence.into(),
    };
    vec![
        make(1, true, "committed", Level::Ok, None, "Runs what is desired."),
        make(2, true, "probation", Level::Busy, Some("1.1.0"), "Runs the release on trial."),
        make(7, true, "reverted", Level::Bad, Some("1.1.0"), "Went back to its last known good model: golden outputs differ."),
        make(8, false, "committed", Level::Warn, None, "Has not been heard of for 1 hour."),
    ]
}

pub(super) fn device() -> Device {
    let span = |from: i64, to: Option<i64>, lane: &str, label: &str, level: Level, sentence: &str| Span {
        from: ago(from),
        to: to.map(ago),
        lane: lane.into(),
        label: label.into(),
        level,
        sentence: sentence.into(),
    };
    Device {
        summary: devices().remove(2),
        enrolled_at: ago(10_000),
        public_key: "d".repeat(64),
        agent: "0.1.0".into(),
        running: Some(RunningInfo {
            line: "rain".into(),
            version: "1.0.0".into(),
            manifest: digest('b'),
            model: digest('c'),
            since: ago(9000),
            inferences: 20_114,
            golden: Some(digest('e')),
        }),
        desired: Some(DesiredInfo {
            generation: 7,
            intent: "install".into(),
            version: Some("1.1.0".into()),
            rollout: Some("rain-1.1.0".into()),
            reason: "Stage quarter of rollout rain-1.1.0.".into(),
            at: Some(ago(90)),
        }),
        generation: 7,
        last_known_good: Some(digest('b')),
        reason: Some(
            "The model gave other outputs than the signed golden vectors on this device, so it was not activated. (output 0 off by 0.9)"
                .into(),
        ),
        conditions: vec![
            Condition {
                kind: "ModelVerified".into(),
                holds: Some(true),
                message: "The running model's signatures and golden outputs were verified at start.".into(),
            },
            Condition { kind: "InferenceHealthy".into(), holds: Some(true), message: "No inference failed in the last window.".into() },
            Condition { kind: "ClockSane".into(), holds: Some(false), message: "The device's clock runs 41 s ahead.".into() },
        ],
        outbox: 0,
        dropped: 0,
        clock_skew_ms: Some(41_000),
        drift: vec![DeviceDrift {
            device: "bellevue-07".into(),
            cohort: "coast".into(),
            feature: "wind".into(),
            log_evidence: 20.0,
            threshold: 18.4,
            cost: None,
            since: Some(ago(300)),
            sentence: "wind reads lower than the cohort's.".into(),
        }],
        timeline: vec![
            span(9000, Some(3000), "model", "rain 1.0.0", Level::Ok, "First model."),
            span(3000, Some(1200), "model", "rain auto-2", Level::Ok, "Retrained."),
            span(1200, None, "model", "rain 1.0.0", Level::Ok, "The device went back to it on its own."),
            span(9000, Some(2500), "connection", "online", Level::Ok, "Connected."),
            span(2500, Some(2000), "connection", "offline", Level::Warn, "Not heard of."),
            span(2000, None, "connection", "online", Level::Ok, "Connected."),
        ],
        events: events(),
    }
}

pub(super) fn event_list() -> EventList {
    EventList {
        items: events(),
        oldest_seq: 1,
        newest_seq: 42,
        chain: Chain {
            verified: true,
            seq: 42,
            head: digest('7'),
            sentence: "42 entries, each chained to the one before; all of them were checked.".into(),
        },
    }
}

pub(super) fn episode() -> crate::io::web::resource::episode::Episode {
    use crate::io::web::resource::episode::{Episode, EpisodeStep, EpisodeSummary, Link, WithheldCause};
    let step = |name: &str, state: &str, level, at: Option<i64>, sentence: &str, details: &[&str], links: &[(&str, &str)]| EpisodeStep {
        name: name.into(),
        state: state.into(),
        level,
        at: at.map(|minutes| now().plus_millis(-minutes * 60_000)),
        sentence: sentence.into(),
        details: details.iter().map(|text| (*text).to_owned()).collect(),
        links: links.iter().map(|(title, href)| Link { title: (*title).into(), href: (*href).into() }).collect(),
    };
    let steps = vec![
        step(
            "cause",
            "done",
            Level::Ok,
            Some(95),
            "At bellevue, dew point and temperature moved, and it hurts: measured accuracy at bellevue fell by 4.9 points to 70.1 % (365 labels). A new model is trained on 2511 labelled rows.",
            &["Dew point at bellevue moved higher.", "A run of this line is declared to cost 40."],
            &[("Drift", "/drift?line=rain"), ("Champion then: 1.0.0", "/models/rain/versions/1.0.0")],
        ),
        step(
            "data",
            "done",
            Level::Ok,
            Some(94),
            "2511 labelled rows of 47 devices, 1949 to 1955, worth 1904 after weighting.",
            &["Training rows: 2009 (sha256:5f1e).", "Held-out rows: 502 (sha256:9a77)."],
            &[],
        ),
        step(
            "run",
            "done",
            Level::Ok,
            Some(94),
            "Worker worker-1 trains a new model for rain (rain-17).",
            &["Done by airflow as run leeway-5f1e (success)."],
            &[],
        ),
        step(
            "candidate",
            "done",
            Level::Ok,
            Some(61),
            "The worker brought model 1c9d with manifest 77aa.",
            &[],
            &[("Version auto-2", "/models/rain/versions/auto-2")],
        ),
        step(
            "evaluation",
            "done",
            Level::Ok,
            Some(60),
            "On 502 held-out rows of 101 days the challenger is right on 78.1 %, the champion on 70.3 %; 31 days speak for it, 11 against (p < 0.005). In its weakest slice, hills, it gains 4.0 points (at worst -1.1). It won. Here it takes 12 µs and 9.1 MiB of memory, the champion 11 µs and 9.0 MiB; on hw=rev-b, the slowest of 2 classes of devices that were heard, about 98 µs instead of 90 µs.",
            &[
                "Bellevue: +8.1 points (+4.2 to +12.0).",
                "Hills: +4.0 points (-1.1 to +9.1).",
                "Freezing: +2.0 points (-9.0 to +13.0); 7 days are too few to judge it.",
            ],
            &[],
        ),
        step(
            "shadow",
            "done",
            Level::Ok,
            Some(58),
            "Each device runs it beside the champion for 50 inferences first, for 10 min at most, and answers with the champion.",
            &[],
            &[("Rollout rain-auto-2", "/rollouts/rain-auto-2")],
        ),
        step(
            "canary",
            "now",
            Level::Busy,
            Some(58),
            "Stage canary runs: it is the line's turn.",
            &[],
            &[("Rollout rain-auto-2", "/rollouts/rain-auto-2")],
        ),
        step("outcome", "ahead", Level::Idle, None, "Not yet.", &[], &[]),
    ];
    let summary = EpisodeSummary {
        id: "rain-17".into(),
        line: "rain".into(),
        cause: "drift".into(),
        step: "canary".into(),
        level: Level::Busy,
        sentence: "The rollout of version auto-2 is under way, in stage canary.".into(),
        reason: "At bellevue, dew point and temperature moved, and it hurts.".into(),
        began_at: now().plus_millis(-95 * 60_000),
        updated_at: now().plus_millis(-58 * 60_000),
    };
    let withheld = vec![WithheldCause {
        line: "rain".into(),
        at: now().plus_millis(-9 * 3_600_000),
        cause: "called".into(),
        limits: vec!["cool-down".into(), "cost".into()],
        sentence: "No better model is asked for, though there is cause (the nightly report is red). A run costs 40, and 80 of the 100 for any 30 days are spent. The last training job changed at 2026-11-22T01:00:00Z; the next may be asked for in 3600 s.".into(),
    }];
    Episode { summary, steps, withheld }
}

pub(super) fn episode_list() -> crate::io::web::resource::episode::EpisodeList {
    let whole = episode();
    let mut lost = whole.summary.clone();
    (lost.id, lost.cause, lost.step, lost.level) = ("rain-9".into(), "scheduled".into(), "evaluation".into(), Level::Idle);
    lost.sentence = "The candidate of rain-9 did not win: it surely gains less than 1.0 points.".into();
    crate::io::web::resource::episode::EpisodeList { episodes: vec![whole.summary, lost], withheld: whole.withheld }
}
