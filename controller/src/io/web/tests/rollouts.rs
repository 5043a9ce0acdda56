//! Rollouts over HTTP: a file that is applied, verbs and what they answer, checks dismissed by name, devices page by page.
use super::*;
use crate::fleet::{Arm, Part};
use crate::rollout::RolloutState;

const PATH: &str = "/api/v1/rollouts/rain-1.0.0";

fn asked(soak_ms: u64) -> String {
    let stages = r#"{"name":"canary","share":0.05},{"name":"quarter","share":0.25}"#;
    format!(
        r#"{{"line":"rain","version":"1.0.0","reason":"as the file says","policy":{{"stages":[{stages},{{"name":"all","share":1,"soak_ms":{soak_ms}}}]}}}}"#
    )
}

async fn running(site: &Site) {
    site.until(|s| s.rollouts.values().any(|r| matches!(r.state, RolloutState::Running { .. }))).await;
}

/// A site with a rollout under way.
async fn begun() -> Site {
    let site = Site::start().await;
    site.add_version("1.0.0").await;
    assert_eq!(site.put(PATH, &asked(1_000)).await.status, 201);
    running(&site).await;
    site
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_is_applied_once_and_changes_only_what_was_looked_at() {
    let site = Site::start().await;
    site.add_version("1.0.0").await;
    let made = site.put(PATH, &asked(1_000)).await;
    assert_eq!((made.status, made.json()["did"].as_str()), (201, Some("created")), "{}", made.text());
    running(&site).await;

    let again = site.put(PATH, &asked(1_000)).await;
    assert_eq!((again.status, again.json()["did"].as_str()), (200, Some("unchanged")), "{}", again.text());
    let etag = again.header("etag");
    assert_eq!(etag, site.get(PATH).await.header("etag"));

    let unseen = site.put(PATH, &asked(2_000)).await;
    assert_eq!((unseen.status, unseen.json()["type"].as_str()), (409, Some("/problems/conflict")), "{}", unseen.text());
    let bearer = site.bearer();
    let auth = |etag: &str| [("authorization".to_owned(), bearer.clone()), ("if-match".to_owned(), etag.to_owned())];
    let put = async |etag: &str, body: &str| {
        let headers = auth(etag);
        let headers: Vec<(&str, &str)> = headers.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        site.anyone("PUT", PATH, Some(body), &headers).await
    };
    let stale = put("\"0\"", &asked(2_000)).await;
    assert_eq!((stale.status, stale.json()["type"].as_str()), (412, Some("/problems/stale-revision")), "{}", stale.text());
    let amended = put(&etag, &asked(2_000)).await;
    assert_eq!((amended.status, amended.json()["did"].as_str()), (200, Some("amended")), "{}", amended.text());
    assert_ne!(amended.header("etag"), etag);
    let soak = |s: &crate::snapshot::Snapshot| s.rollouts.values().next().map(|r| r.spec.policy.stages[2].soak_ms);
    assert_eq!(soak(&site.controller().snapshot()), Some(2_000));

    for (body, status, what) in [
        ("{", 400, "EOF"),
        (r#"{"line":"rain","version":"1.0.0","colour":1}"#, 400, "unknown field `colour`"),
        (r#"{"line":"rain","version":"1.0.0","id":"another"}"#, 422, "names another rollout"),
        (r#"{"line":"rain","version":"1.0.0","policy":{"stages":1}}"#, 400, "policy"),
    ] {
        let refused = site.put(PATH, body).await;
        assert!(refused.status == status && refused.text().contains(what), "{body}: {} {}", refused.status, refused.text());
    }
    assert_eq!(soak(&site.controller().snapshot()), Some(2_000), "a refusal changes nothing");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_verb_answers_with_what_it_did_and_not_with_what_was_planned_before() {
    let site = begun().await;
    for (verb, phase, says) in [("pause", "paused", "too windy"), ("resume", "running", "resume (too windy)")] {
        let done = site.post(&format!("{PATH}/{verb}"), r#"{"reason":"too windy"}"#).await;
        let (rollout, text) = (done.json(), done.text());
        assert_eq!((done.status, rollout["summary"]["phase"].as_str()), (200, Some(phase)), "{text}");
        let sentence = rollout["summary"]["sentence"].as_str().unwrap();
        // The planner may have looked again meanwhile, which is as good.
        let planned = sentence.starts_with("Version 1.0.0 fills") || sentence.starts_with("Paused in stage 1");
        assert!(sentence.contains(says) || (planned && verb == "resume"), "{verb}: {sentence}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dismissal_names_its_check_also_from_the_page() {
    let site = begun().await;
    let cookie = site.sign_in().await;
    let form = [("cookie", &*cookie), ("sec-fetch-site", "same-origin"), ("content-type", "application/x-www-form-urlencoded")];
    let dismiss = async |body: &str| site.send("POST", "/rollouts/rain-1.0.0/dismiss", Some(body.as_bytes().to_vec()), &form).await;
    let unknown = dismiss("reason=known&check=colour").await;
    assert!(unknown.status == 409 && unknown.text().contains("there is no check &quot;colour&quot;"), "{}", unknown.text());
    let never = dismiss("reason=known&check=devices").await;
    assert!(never.status == 409 && never.text().contains("devices cannot be dismissed"), "{}", never.text());
    let page = site.get("/rollouts/rain-1.0.0").await.text();
    assert!(page.contains(r#"<select name="check" required>"#) && page.contains(r#"<option value="devices""#), "{page}");
}

#[tokio::test(flavor = "multi_thread")]
async fn devices_of_a_rollout_come_page_by_page() {
    let site = Site::start().await;
    site.add_version("1.0.0").await;
    super::foresee::two_devices(&site).await;
    assert_eq!(site.put(PATH, &asked(1_000)).await.status, 201);
    running(&site).await;
    {
        let mut ledger = site.controller().inner.ledger();
        for (name, arm) in [("coast-08", Arm::Canary), ("coast-09", Arm::Control)] {
            let mut device = ledger.snapshot.fleet.device_mut(&name.parse().unwrap()).unwrap();
            device.part = Some(Part {
                rollout: "rain-1.0.0".parse().unwrap(),
                arm,
                stage: 0,
                at: crate::io::clock::now(),
                attempts: 1,
                exposed_at: None,
                proven_at: None,
                failure: None,
                failed_at: None,
                deferred_at: None,
                proof_inferences: 1,
                recalled: false,
            });
        }
    }
    let first = site.get(&format!("{PATH}/devices?limit=1")).await.json();
    assert_eq!((&first["items"][0]["device"], &first["next_cursor"]), (&"coast-08".into(), &"coast-08".into()), "{first}");
    assert_eq!(first["items"][0]["standing"], "installing");
    let second = site.get(&format!("{PATH}/devices?limit=1&cursor=coast-08")).await.json();
    assert_eq!((&second["items"][0]["standing"], second["items"].as_array().map(Vec::len)), (&"control".into(), Some(1)), "{second}");
    assert!(second["next_cursor"].is_null() && second["items"][0]["if_aborted"].as_str().unwrap().contains("coast-09"), "{second}");
    for (path, status) in [("rain-9/devices", 404), ("rain-1.0.0/devices?cursor=%2F", 400), ("rain-1.0.0/devices?colour=1", 400)] {
        let refused = site.get(&format!("/api/v1/rollouts/{path}")).await;
        assert_eq!(refused.status, status, "{path}: {}", refused.text());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_could_never_pass_is_refused_and_what_is_too_small_is_said() {
    let site = Site::start().await;
    site.add_version("1.0.0").await;
    super::foresee::two_devices(&site).await;
    let timeless = r#"{"line":"rain","version":"1.0.0","policy":{"device_deadline_ms":0}}"#;
    for path in ["/api/v1/rollouts", "/api/v1/rollouts?dry_run=true"] {
        let refused = site.post(path, timeless).await;
        assert!(refused.status == 422 && refused.text().contains("could never pass"), "{path}: {}", refused.text());
    }
    let refused = site.put(PATH, timeless).await;
    assert_eq!(refused.status, 422, "{}", refused.text());
    assert!(site.controller().snapshot().rollouts.is_empty());
    let small = r#"{"line":"rain","version":"1.0.0","policy":{"gate":{"min_devices":2}}}"#;
    let plan = site.post("/api/v1/rollouts?dry_run=true", small).await;
    let warnings = plan.json()["warnings"].to_string();
    assert!(plan.status == 200 && warnings.contains("min_devices asks for 2"), "{}", plan.text());
}
