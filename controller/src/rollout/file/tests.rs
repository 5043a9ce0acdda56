//! Files are read as they are meant, every mistake is named, and the schema says what the reader does.
use super::*;
use crate::rollout::{AbortAction, Every, FailureType};

fn document(policy: Value) -> Value {
    json!({
        "apiVersion": "leeway/v1",
        "kind": "Rollout",
        "metadata": { "name": "rain-2" },
        "spec": { "line": "rain", "version": "2.0.0", "reason": "Better.", "policy": policy },
    })
}

#[test]
fn a_file_is_read_with_its_durations() {
    let policy = json!({
        "stages": [
            { "name": "canary", "share": 0.1, "soak": "30m", "deadline_ms": 5000, "selector": "region=coast" },
            { "name": "all", "share": 1 },
        ],
        "device_deadline": "1h",
        "rate": { "base_per_minute": 10, "factor": 2, "every": { "succeeded": 50 }, "max_per_minute": 500 },
        "abort": [{ "failure": "overdue", "threshold_share": 0.1, "min_executed": 20, "action": "roll_back" }],
        "retries": { "max": 3, "after": "90s" },
        "gate": { "lost_after": "2d", "guardrails": [
            { "metric": "user:pick_success", "limits": { "margin": 0.02, "higher_is_better": true }, "need": "always" } ] },
        "settings": { "spread": "500ms", "window": { "days": ["sat"], "from": "22:00", "to": "05:00" },
            "probation": { "min": "1m", "min_inferences": 5, "boots": 2, "max_error_ratio": 0.1 },
            "capture": { "uniform": 0.1, "max_rows_per_day": 9, "labelled_only": true, "priority": { "rare": 0.5 } } },
    });
    let file = read(&document(policy)).unwrap();
    assert_eq!(
        (file.name.as_str(), file.line.as_str(), file.version.as_str(), file.reason.as_str()),
        ("rain-2", "rain", "2.0.0", "Better.")
    );
    let policy = file.policy.unwrap();
    assert_eq!((policy.stages[0].soak_ms, policy.stages[0].deadline_ms), (1_800_000, 5000));
    assert_eq!((policy.device_deadline_ms, policy.retries.after_ms, policy.gate.lost_after_ms), (3_600_000, 90_000, 172_800_000));
    assert_eq!(policy.rate.unwrap().every, Every::Succeeded(50));
    assert_eq!((policy.abort[0].failure, policy.abort[0].action), (FailureType::Overdue, AbortAction::RollBack));
    assert_eq!((policy.settings.spread_ms, policy.settings.probation.min_ms), (500, 60_000));
    assert!(policy.settings.window.is_some());
    // What came later may be left out: files that were written before are read on.
    let capture = policy.settings.capture;
    assert_eq!((capture.max_rows_per_day, capture.max_bytes_per_day, capture.priority.rare, capture.priority.uncertain), (9, 0, 0.5, 0.0));
    assert_eq!(policy.gate.guardrails[0].metric.to_string(), "user:pick_success");
    assert_eq!(policy.gate.guardrails[0].limits.higher_is_better, Some(true));
    assert_eq!(policy.max_in_flight, RolloutPolicy::default().max_in_flight, "what is not said is as by default");
    let bare = read(
        &json!({ "apiVersion": "leeway/v1", "kind": "Rollout", "metadata": { "name": "r" }, "spec": { "line": "rain", "version": "2" } }),
    );
    assert_eq!(bare.unwrap().policy, None);
}

#[test]
fn every_mistake_is_named_with_its_place_and_its_remedy() {
    let with = |pointer: &str, value: Value| {
        let mut document = document(json!({ "stages": [{ "name": "all", "share": 1.0 }] }));
        let (parent, key) = pointer.rsplit_once('/').unwrap();
        document.pointer_mut(parent).unwrap()[key] = value;
        document
    };
    let table = [
        (with("/spec/polcy", json!({})), "spec.polcy: there is no such key; did you mean \"policy\"?"),
        (with("/spec/policy/max_inflight", json!(3)), "spec.policy.max_inflight: there is no such key; did you mean \"max_in_flight\"?"),
        (with("/spec/policy/zebra", json!(3)), "there is no such key; there are abort,"),
        (with("/spec/version", json!(2)), "spec.version: must be a text, but it is 2: put it in quotes"),
        (with("/kind", json!("Cohort")), "kind: must be \"Rollout\", but it is \"Cohort\""),
        (with("/apiVersion", json!("leeway/v2")), "apiVersion: must be \"leeway/v1\""),
        (with("/metadata", json!({})), "metadata.name: is missing"),
        (with("/metadata/name", json!("UP")), "metadata.name: "),
        (with("/spec/policy/device_deadline", json!("soon")), "must be a duration such as 90s, 30m, 8h or 2d, but it is \"soon\""),
        (
            with("/spec/policy/abort", json!([{ "failure": "overdu" }])),
            "spec.policy.abort[0].failure: cannot be \"overdu\"; did you mean \"overdue\"?",
        ),
        (
            with("/spec/policy/stages", json!([{ "name": "all", "share": "all" }])),
            "spec.policy.stages[0].share: must be a number, but it is \"all\"",
        ),
        (
            with("/spec/policy/stages", json!([{ "name": "half", "share": 0.5 }])),
            "spec.policy: the last stage (\"half\") must take in everyone",
        ),
        (
            with("/spec/policy/gate", json!({ "guardrails": [{ "metric": "eror_ratio" }] })),
            "spec.policy.gate.guardrails[0].metric: cannot be \"eror_ratio\"; did you mean \"error_ratio\"?",
        ),
        (
            with("/spec/policy/gate", json!({ "guardrails": [{ "metric": "user:Pick" }] })),
            "spec.policy.gate.guardrails[0].metric: cannot be \"user:Pick\"; \"Pick\" cannot name a user metric: use 1 to 24 characters",
        ),
        (
            with("/spec/policy/gate", json!({ "guardrails": [{ "metric": "user:retry" }] })),
            "spec.policy: gate: user:retry needs limits.higher_is_better",
        ),
        (with("/spec/policy/max_in_flight", json!(-1)), "spec.policy.max_in_flight: must be at least 0, but it is -1"),
        (with("/spec/policy/rate", json!({ "base_per_minute": 1 })), "spec.policy.rate.every: is missing"),
        (with("/spec/policy/settings", json!({ "window": { "from": "22:00" } })), "spec.policy.settings.window.to: is missing"),
        (with("/spec/policy/settings", json!({ "window": { "from": "22:00", "to": "5" } })), "is not a time of day"),
        (with("/spec/policy/retries", json!({ "after": "1m", "after_ms": 5 })), "is said twice"),
        (json!([]), "the document: must be a mapping, but it is a list"),
    ];
    for (document, expected) in table {
        let mistakes = read(&document).unwrap_err();
        let said: Vec<String> = mistakes.iter().map(ToString::to_string).collect();
        assert!(said.iter().any(|mistake| mistake.contains(expected)), "{expected}: {said:#?}");
    }
    let two = with("/spec/policy/stages", json!([{ "nam": "a", "share": 1.0 }, { "name": "all", "shre": 1.0 }]));
    assert_eq!(read(&two).unwrap_err().len(), 2, "all at once");
}

#[test]
fn the_schema_takes_what_the_types_write_and_each_of_its_keys_is_one_that_the_types_read() {
    let policy = serde_json::to_value(RolloutPolicy::default()).unwrap();
    let file = read(&document(policy)).unwrap();
    assert_eq!(file.policy, Some(RolloutPolicy::default()));
    let schema = schema();
    let known = |value: &Value| value.as_object().map(|fields| fields.keys().cloned().collect::<BTreeSet<_>>()).unwrap_or_default();
    let written = known(&serde_json::to_value(RolloutPolicy::default()).unwrap());
    let described = known(schema.pointer("/$defs/RolloutPolicy/properties").unwrap());
    assert!(written.is_subset(&described), "{:?}", written.difference(&described));
    for extra in described.difference(&written) {
        assert!(written.contains(&format!("{extra}_ms")), "{extra} is in the schema and in no type");
    }
    let text = serde_json::to_string(&schema).unwrap();
    assert!(!text.contains("#/components/"), "no reference leads out of the document");
}
