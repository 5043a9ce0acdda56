//! A rollout before it begins: the forecast of a dry run, and the budget that refuses one.
use super::*;

/// Two devices that are in the fleet and have never been heard of.
pub(super) async fn two_devices(site: &Site) {
    let put = site.put("/api/v1/cohorts/coast", r#"{"line":"rain","selector":"region=coast"}"#).await;
    assert_eq!(put.status, 200, "{}", put.text());
    let token = site.post("/api/v1/enrolment-tokens", r#"{"name":"t","uses":2,"ttl_ms":60000}"#).await;
    let token = token.json()["token"].as_str().unwrap().to_owned();
    for seed in [8, 9] {
        let key = leeway_protocol::trust::keyring::SigningKey::from_seed(&[seed; 32]).public().hex();
        let enrol = format!(r#"{{"device":"coast-0{seed}","public_key":"{key}","labels":{{"region":"coast"}},"token":"{token}"}}"#);
        assert_eq!(site.anyone("POST", "/api/v1/enrol", Some(&enrol), &[]).await.status, 200);
    }
}

fn ask(policy: &str, more: &str) -> String {
    format!(r#"{{"line":"rain","version":"1.0.0","policy":{policy}{more}}}"#)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rollout_beyond_its_own_budget_begins_only_by_force() {
    let site = Site::start().await;
    site.add_version("1.0.0").await;
    two_devices(&site).await;
    let plain = site.post("/api/v1/rollouts?dry_run=true", &ask("{}", "")).await;
    assert!(plain.status == 200 && plain.json().get("forecast").is_none(), "{}", plain.text());
    let path = "/api/v1/rollouts?dry_run=true&foresee=true&seed=7&runs=5";
    let plan = site.post(path, &ask("{}", "")).await;
    let forecast = plan.json()["forecast"].clone();
    assert_eq!((plan.status, &forecast["devices"], &forecast["seed"]), (200, &2.into(), &7.into()), "{}", plan.text());
    assert_eq!(forecast["false_abort"]["runs"], 5);
    assert_eq!(forecast["harms"].as_array().map(Vec::len), Some(3));
    assert!(forecast["assumed"].to_string().contains("Of 2 devices nothing is recorded"), "{forecast}");
    assert!(site.controller().snapshot().rollouts.is_empty(), "looking ahead changes nothing");

    // Devices that were never there do not get it in an hour and a half.
    let budget = r#"{"risk":{"max_days":0.06}}"#;
    let refused = site.post("/api/v1/rollouts", &ask(budget, "")).await;
    assert_eq!((refused.status, refused.json()["type"].as_str()), (409, Some("/problems/risk-budget")), "{}", refused.text());
    assert!(refused.text().contains("the budget allows 1 h 26 min"), "{}", refused.text());
    let unexplained = site.post("/api/v1/rollouts", &ask(budget, r#","force":true"#)).await;
    assert_eq!((unexplained.status, unexplained.json()["type"].as_str()), (422, Some("/problems/invalid")), "{}", unexplained.text());
    let odd = site.post("/api/v1/rollouts", &ask(r#"{"risk":{"max_days":-1}}"#, "")).await;
    assert_eq!(odd.status, 422, "{}", odd.text());
    assert!(site.controller().snapshot().rollouts.is_empty(), "nothing was begun");
    let forced = site.post("/api/v1/rollouts", &ask(budget, r#","force":true,"reason":"a drill"}"#.trim_end_matches('}'))).await;
    assert_eq!(forced.status, 201, "{}", forced.text());
    let events = site.get("/api/v1/events?subject=rollouts/rain-1.0.0").await.text();
    assert!(events.contains("rollout.forced") && events.contains("against its own risk budget (a drill)"), "{events}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_training_brings_beyond_its_lines_budget_waits_and_the_log_says_so() {
    use crate::retraining::job::{JobState, RetrainRequest, TrainingJob};

    let site = Site::start().await;
    site.add_version("1.0.0").await;
    two_devices(&site).await;
    let line = |policy: &str| format!(r#"{{"rollout":{policy}}}"#);
    let put = site.put("/api/v1/models/rain", &line(r#"{"risk":{"max_days":0.06}}"#)).await;
    assert_eq!(put.status, 200, "{}", put.text());
    let at = crate::io::clock::now();
    let request = RetrainRequest::of_a_test("rain-1", "0.9.0", at);
    let job = TrainingJob { request, state: JobState::Published { version: "1.0.0".parse().unwrap() }, updated_at: at, moves: Vec::new() };
    std::sync::Arc::make_mut(&mut site.controller().inner.ledger().snapshot.jobs).insert("rain-1".to_owned(), std::sync::Arc::new(job));
    let begun = std::time::Instant::now();
    let log = loop {
        let log = site.get("/api/v1/events?subject=models/rain/versions/1.0.0").await.text();
        if log.contains("rollout.withheld") {
            break log;
        }
        assert!(begun.elapsed() < site::PATIENCE, "{log}");
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    };
    assert!(log.contains("the budget allows 1 h 26 min") && log.contains("not rolled out by itself"), "{log}");
    assert!(site.controller().snapshot().rollouts.is_empty(), "nobody is told");

    let put = site.put("/api/v1/models/rain", &line("{}")).await;
    assert_eq!(put.status, 200, "{}", put.text());
    site.until(|s| s.rollouts.values().any(|r| r.reason.contains("The season has changed"))).await;
}
