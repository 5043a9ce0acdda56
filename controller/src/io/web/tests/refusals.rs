//! Bad input and wrong callers: each gets a problem that names the thing and says what to do.
use super::site::Site;

/// Status, kind of problem, and something its detail must say.
pub(super) type Expected<'a> = (u16, &'a str, &'a str);

pub(super) async fn refused(site: &Site, method: &str, path: &str, body: Option<&str>, headers: &[(&str, &str)], expected: Expected<'_>) {
    let answer = site.anyone(method, path, body, headers).await;
    let what =
        format!("{method} {path} {}: {} {}", body.unwrap_or_default().chars().take(80).collect::<String>(), answer.status, answer.text());
    assert_eq!(answer.status, expected.0, "{what}");
    assert_eq!(answer.header("content-type"), "application/problem+json", "{what}");
    let problem = answer.json();
    assert_eq!(problem["type"], format!("/problems/{}", expected.1), "{what}");
    assert_eq!(problem["status"], expected.0, "{what}");
    assert!(problem["detail"].as_str().unwrap().contains(expected.2), "{what}");
    assert_eq!(site.get(problem["type"].as_str().unwrap()).await.status, 200, "the kind of problem has a page");
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_requests_are_refused_by_name() {
    let site = Site::start().await;
    let bearer = format!("Bearer {}", site.token());
    let auth = [("authorization", bearer.as_str())];
    let large = format!("{{\"line\":\"{}\"}}", "x".repeat(300 << 10));
    let table: [(&str, &str, Option<&str>, Expected<'_>); 22] = [
        ("GET", "/api/v1/nothing", None, (404, "not-found", "/api/openapi.json")),
        ("GET", "/api/v1/rollouts/rain-9", None, (404, "not-found", "leeway rollout list")),
        ("GET", "/api/v1/devices/station-9", None, (404, "not-found", "station-9")),
        ("GET", "/api/v1/models/rain", None, (404, "not-found", "rain")),
        ("GET", "/api/v1/models/rain/drift", None, (404, "not-found", "rain")),
        ("GET", "/api/v1/models/rain/versions/1.0.0", None, (404, "not-found", "1.0.0")),
        ("GET", "/api/v1/training/jobs/j", None, (404, "not-found", "j")),
        ("GET", "/api/v1/devices/UP", None, (400, "bad-request", "a-z, 0-9")),
        ("GET", "/api/v1/devices?colour=red", None, (400, "bad-request", "colour")),
        ("GET", "/api/v1/devices?selector=a%3D%3D%3Db", None, (400, "bad-request", "selector")),
        ("GET", "/api/v1/devices?cursor=..", None, (400, "bad-request", "cursor")),
        ("GET", "/api/v1/events?since=-1", None, (400, "bad-request", "query")),
        ("GET", "/api/v1/stream", None, (400, "bad-request", "WebSocket")),
        ("DELETE", "/api/v1/fleet", None, (405, "method", "openapi")),
        ("POST", "/api/v1/rollouts", Some("{"), (400, "bad-request", "EOF")),
        ("POST", "/api/v1/rollouts", Some(r#"{"line":"rain","version":"1","colour":1}"#), (400, "bad-request", "unknown field `colour`")),
        ("POST", "/api/v1/rollouts", Some(r#"{"line":"rain","version":"1"}"#), (404, "not-found", "rain")),
        ("POST", "/api/v1/rollouts", Some(r#"{"line":"rain","version":"1","policy":{"stages":[],"odd":1}}"#), (400, "bad-request", "odd")),
        ("POST", "/api/v1/rollouts/rain-1/explode", Some(r#"{"reason":"x"}"#), (404, "not-found", "promote-all")),
        ("PUT", "/api/v1/cohorts/coast", Some(r#"{"line":"rain","selector":"region=="}"#), (400, "bad-request", "selector")),
        ("PUT", "/api/v1/models/rain", Some(&large), (413, "too-large", "262144")),
        ("POST", "/api/v1/tuf/roles/rain", Some("not json"), (422, "invalid", "")),
    ];
    for (method, path, body, expected) in table {
        refused(&site, method, path, body, &auth, expected).await;
    }
    let form = [("authorization", bearer.as_str()), ("content-type", "text/plain")];
    let answer = site.send("POST", "/api/v1/rollouts", Some(b"x".to_vec()), &form).await;
    assert_eq!((answer.status, answer.json()["type"].as_str()), (415, Some("/problems/media-type")));
}

#[tokio::test(flavor = "multi_thread")]
async fn changing_something_needs_the_token_and_the_dashboard_itself() {
    let site = Site::start().await;
    let body = Some(r#"{"line":"rain"}"#);
    let path = "/api/v1/cohorts/coast";
    refused(&site, "PUT", path, body, &[], (401, "unauthorized", "Bearer")).await;
    refused(&site, "PUT", path, body, &[("authorization", "Bearer wrong")], (401, "unauthorized", "Bearer")).await;
    refused(&site, "GET", "/api/v1/fleet", None, &[("host", "fleet.example:8080")], (401, "unauthorized", "/login")).await;
    assert_eq!(
        site.anyone("GET", "/", None, &[("host", "evil.example")]).await.status,
        401,
        "a name rebound to this machine reads nothing"
    );

    let wrong = site.send("POST", "/login", Some(b"token=no".to_vec()), &[("content-type", "application/x-www-form-urlencoded")]).await;
    assert_eq!(wrong.status, 401);
    let cookie = site.sign_in().await;

    let from = |site: &str| vec![("cookie", cookie.clone()), ("sec-fetch-site", site.to_owned())];
    for (origin, status) in [("cross-site", 403), ("same-site", 403), ("same-origin", 200)] {
        let headers = from(origin);
        let headers: Vec<(&str, &str)> = headers.iter().map(|(n, v)| (*n, v.as_str())).collect();
        assert_eq!(site.anyone("PUT", path, body, &headers).await.status, status, "{origin}");
    }
    let away = site.anyone("GET", "/api/v1/fleet", None, &[("host", "fleet.example"), ("cookie", &cookie)]).await;
    assert_eq!(away.status, 200, "signed in, one reads from anywhere");
    let out = site.send("POST", "/logout", None, &[("cookie", &cookie), ("sec-fetch-site", "same-origin")]).await;
    assert_eq!(out.status, 303);
    let gone = site.anyone("GET", "/api/v1/fleet", None, &[("host", "fleet.example"), ("cookie", &cookie)]).await;
    assert_eq!(gone.status, 401, "signed out is signed out");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rollout_that_has_moved_on_is_not_acted_upon() {
    let site = Site::start().await;
    site.add_version("1.0.0").await;
    let made = site.post("/api/v1/rollouts", r#"{"line":"rain","version":"1.0.0","reason":"try it"}"#).await;
    assert_eq!((made.status, made.header("location").as_str()), (201, "/api/v1/rollouts/rain-1.0.0"), "{}", made.text());
    let again = site.post("/api/v1/rollouts", r#"{"line":"rain","version":"1.0.0"}"#).await;
    assert_eq!((again.status, again.json()["type"].as_str()), (409, Some("/problems/conflict")));
    let plan = site.post("/api/v1/rollouts?dry_run=true", r#"{"line":"rain","version":"1.0.0"}"#).await;
    assert_eq!((plan.status, plan.json()["stages"].as_array().map(Vec::len)), (200, Some(3)), "{}", plan.text());

    let form =
        [("cookie", &*site.sign_in().await), ("sec-fetch-site", "same-origin"), ("content-type", "application/x-www-form-urlencoded")];
    let done = site.send("POST", "/rollouts/rain-1.0.0/approve", Some(b"reason=looks+good+%26+safe".to_vec()), &form).await;
    assert_eq!((done.status, done.header("location").as_str()), (303, "/rollouts/rain-1.0.0"), "{}", done.text());
    assert!(site.get("/api/v1/events?subject=rollouts/rain-1.0.0").await.text().contains("looks good & safe"));
    let unsigned = site.send("POST", "/rollouts/rain-1.0.0/abort", Some(b"reason=x".to_vec()), &form[1..]).await;
    assert_eq!(unsigned.status, 401, "a form without a session leads to signing in");
    assert!(unsigned.text().contains("Sign in"));

    let bearer = format!("Bearer {}", site.token());
    let path = "/api/v1/rollouts/rain-1.0.0/abort";
    let stale = [("authorization", bearer.as_str()), ("if-match", "\"0\"")];
    refused(&site, "POST", path, Some(r#"{"reason":"no"}"#), &stale, (412, "stale-revision", "look again")).await;
    let auth = [("authorization", bearer.as_str())];
    refused(&site, "POST", path, Some(r#"{"reason":"  "}"#), &auth, (422, "invalid", "reason")).await;
    let done = site.post(path, r#"{"reason":"enough"}"#).await;
    assert_eq!(done.status, 200, "{}", done.text());
    site.until(|s| s.rollouts.values().all(|r| r.state.is_over())).await;
    refused(&site, "POST", path, Some(r#"{"reason":"again"}"#), &auth, (409, "illegal-transition", "allowed now: nothing")).await;
    for page in ["/rollouts/rain-1.0.0", "/rollouts", "/models/rain", "/"] {
        assert_eq!(site.get(page).await.status, 200, "{page}");
    }
    assert!(site.get("/rollouts/rain-1.0.0").await.text().contains("enough"));
}
