//! Calls of other systems, their limits, and what API, page and log say of them.
use std::sync::Arc;

use super::site::Site;
use crate::access::Scope;
use crate::registry::Alias;

async fn with_champion() -> Site {
    let site = Site::start().await;
    site.add_version("1.0.0").await;
    let put = site.put("/api/v1/models/rain", r#"{"retrain":{"min_rows":0,"cool_down_ms":0,"cost_per_run":40,"cost_per_month":50}}"#).await;
    assert_eq!(put.status, 200, "{}", put.text());
    let at = crate::io::clock::now();
    let mut ledger = site.controller().inner.ledger();
    let lines = Arc::make_mut(&mut ledger.snapshot.lines);
    let line = Arc::make_mut(lines.get_mut(&"rain".parse().unwrap()).unwrap());
    line.aliases.move_to(Alias::Champion, Some("1.0.0".parse().unwrap()), at, None, "for a test");
    drop(ledger);
    site
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_asks_once_is_bound_by_the_budget_and_every_answer_is_on_record() {
    let site = with_champion().await;
    let caller = site.bearer_of("grafana", Scope::Caller).await;
    let call = async |body: &str| {
        let headers = [("authorization", caller.as_str()), ("content-type", "application/json")];
        site.anyone("POST", "/api/v1/models/rain/retrain/call", Some(body), &headers).await
    };
    let body = r#"{"source":"grafana","key":"alert-7","reason":"the nightly report is red","evidence":["accuracy 61 %"]}"#;
    let asked = call(body).await;
    assert_eq!((asked.status, asked.json()["outcome"].as_str()), (200, Some("asked")), "{}", asked.text());
    let id = asked.json()["episode"].as_str().unwrap().to_owned();
    let again = call(body).await;
    assert_eq!(
        (again.json()["outcome"].as_str(), again.json()["episode"].as_str()),
        (Some("known"), Some(id.as_str())),
        "{}",
        again.text()
    );
    let other = call(&body.replace("alert-7", "alert-8")).await;
    assert_eq!((other.status, other.json()["outcome"].as_str()), (200, Some("withheld")), "{}", other.text());
    assert_eq!(other.json()["limits"], serde_json::json!(["job-open", "cost"]), "{}", other.text());
    assert!(other.text().contains("A run costs 40, and 40 of the 50 for any 30 days are spent."), "{}", other.text());
    // A person is bound by the same budget, and told the same.
    let person = site.post("/api/v1/models/rain/retrain", r#"{"reason":"please"}"#).await;
    assert!(person.status == 409 && person.text().contains("A run costs 40"), "{}", person.text());
    for bad in [r#"{"source":"","reason":"x"}"#, r#"{"source":"a","reason":""}"#] {
        assert_eq!(call(bad).await.status, 422, "{bad}");
    }
    let log = site.get("/api/v1/events?kind=retraining&subject=models/rain").await.text();
    assert_eq!((log.matches("retraining.requested").count(), log.matches("retraining.withheld").count()), (1, 2), "{log}");

    let list = site.get("/api/v1/episodes").await;
    assert_eq!((list.json()["episodes"].as_array().map(Vec::len), list.json()["withheld"].as_array().map(Vec::len)), (Some(1), Some(2)));
    let one = site.get(&format!("/api/v1/episodes/{id}")).await;
    let steps = one.json()["steps"].as_array().cloned().unwrap();
    let names: Vec<&str> = steps.iter().filter_map(|step| step["name"].as_str()).collect();
    assert_eq!(names, ["cause", "data", "run", "candidate", "evaluation", "shadow", "canary", "outcome"]);
    assert_eq!(
        (steps[0]["state"].as_str(), steps[1]["state"].as_str(), steps[7]["state"].as_str()),
        (Some("done"), Some("now"), Some("ahead"))
    );
    assert!(steps[0].to_string().contains("grafana called for it under the key alert-7"), "{}", steps[0]);
    let page = site.get(&format!("/episodes/{id}")).await;
    assert!(page.status == 200 && page.text().contains("the nightly report is red"), "{}", page.text());
    assert!(site.get("/episodes").await.text().contains("What was not begun, and why"));
    assert_eq!(site.get("/api/v1/episodes/none").await.status, 404);

    // A run that another system ended is told with what was not done.
    let claimed = site.post("/api/v1/training/claim", r#"{"worker":"w","lines":["rain"]}"#).await;
    assert_eq!(claimed.status, 204, "there is nothing to learn from: {}", claimed.text());
    let over = site.get(&format!("/api/v1/episodes/{id}")).await.json();
    assert_eq!((over["step"].as_str(), over["steps"][4]["state"].as_str()), (Some("run"), Some("not-done")), "{over}");
    assert_eq!(over["steps"][4]["sentence"].as_str(), Some("Not done: the episode ended with its run."), "{over}");
}
