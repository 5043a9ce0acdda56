//! The tree as text: wide and narrow, Unicode and ASCII.
use super::*;
use serde_json::json;

fn rollout() -> Rollout {
    let stage = |name: &str, state: &str, level: &str, share: f64, counts: [u64; 4], left: Option<u64>| {
        let [pending, working, committed, failed] = counts;
        json!({ "name": name, "target": "", "state": state, "level": level, "sentence": "", "share": share, "target_devices": counts.iter().sum::<u64>(),
            "actual": { "pending": pending, "working": working, "probation": 0, "committed": committed, "failed": failed, "rolled_back": 0 },
            "soak_ms": 90_000, "soak_left_ms": left, "opened_at": null, "closed_at": null })
    };
    let guard = |metric: &str, verdict: &str, level: &str, values: [Option<f64>; 3]| {
        json!({ "metric": metric, "title": metric, "verdict": verdict, "level": level, "unit": "%", "canary": 0.6, "canary_n": 312, "control": 0.8, "control_n": 240,
            "difference": values[0], "lower": values[1], "upper": values[2], "threshold": -0.05, "higher_is_worse": false, "sentence": "" })
    };
    let value = json!({
        "summary": { "id": "rain-1.1.0", "line": "rain", "from_version": "1.0.0", "to_version": "1.1.0", "phase": "paused", "level": "warn",
            "sentence": "Paused at stage 2 of 3: measured accuracy has 96 of the 200 labels it needs, and the deadline of four minutes has passed.",
            "stage": 2, "stages": 3, "target_devices": 15, "actual_devices": 12, "fleet_devices": 60, "exposed": 14,
            "created_at": "2026-11-23T05:55:40Z", "updated_at": "2026-11-23T05:59:46Z" },
        "revision": 9, "allowed_actions": ["resume", "promote", "promote-all", "abort"], "next": "Waits for a person.",
        "stages": [stage("canary", "passed", "ok", 0.05, [0, 0, 3, 0], None), stage("quarter", "paused", "warn", 0.25, [1, 2, 11, 1], Some(34_000)), stage("all", "pending", "idle", 1.0, [60, 0, 0, 0], None)],
        "guardrails": [guard("error_ratio", "pass", "ok", [Some(0.0002), Some(-0.002), Some(0.0016)]), guard("labelled_accuracy", "fail", "bad", [Some(-0.227), Some(-0.298), Some(-0.151)]), guard("slow_ratio", "waiting", "idle", [None; 3])],
        "checks": [{ "name": "failed_devices", "verdict": "pass", "level": "ok", "sentence": "" }],
        "conditions": [], "failing": [{ "device": "bellevue-07", "cohort": "coast", "phase": "reverted", "code": "golden-mismatch", "sentence": "", "at": null }], "failing_total": 1,
        "consequences": [], "events": [], "spec": {}
    });
    serde_json::from_value(value).unwrap()
}

fn now() -> Timestamp {
    "2026-11-23T06:00:00Z".parse().unwrap()
}

#[test]
fn a_paused_rollout_reads_at_a_glance() {
    let style = Style { color: false, unicode: true, columns: 100, terminal: false };
    insta::assert_snapshot!("unicode", render(&style, now(), &rollout()));
    insta::assert_snapshot!("ascii", render(&Style { unicode: false, columns: 72, ..style }, now(), &rollout()));
}

#[test]
fn ascii_is_ascii_and_colours_only_add() {
    let plain = Style { color: false, unicode: false, columns: 80, terminal: false };
    assert!(render(&plain, now(), &rollout()).replace('…', "").is_ascii());
    let coloured = render(&Style { color: true, unicode: true, ..plain }, now(), &rollout());
    let mut stripped = String::new();
    let mut rest = coloured.as_str();
    while let Some(at) = rest.find('\x1b') {
        stripped.push_str(&rest[..at]);
        rest = &rest[at + rest[at..].find('m').unwrap() + 1..];
    }
    stripped.push_str(rest);
    assert_eq!(stripped, render(&Style { unicode: true, ..plain }, now(), &rollout()));
}

#[test]
fn failing_devices_that_are_not_named_are_counted() {
    let style = Style { color: false, unicode: true, columns: 100, terminal: false };
    let many = Rollout { failing_total: 31, ..rollout() };
    assert!(render(&style, now(), &many).contains("└─ and 30 more"), "{}", render(&style, now(), &many));
    assert!(!render(&style, now(), &rollout()).contains(" more"));
}

#[test]
fn a_rollout_without_stages_or_figures_still_renders() {
    let mut empty = rollout();
    empty.stages.clear();
    empty.summary.stage = 0;
    empty.guardrails.clear();
    empty.checks.clear();
    let style = Style { color: false, unicode: true, columns: 60, terminal: false };
    assert!(render(&style, now(), &empty).contains("rain-1.1.0"));
}
