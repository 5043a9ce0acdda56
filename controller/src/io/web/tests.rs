//! The router over real sockets: who may do what, what is refused and how, what devices fetch, what the stream sends.
mod access;
mod datasets;
mod episodes;
mod foresee;
mod identity;
mod limits;
mod mlflow;
mod refusals;
mod rollouts;
mod site;
mod stream;
mod webhooks;

use leeway_protocol::digest::Digest;
use site::Site;

#[tokio::test(flavor = "multi_thread")]
async fn every_page_and_every_list_answers_on_an_empty_controller() {
    let site = Site::start().await;
    for path in [
        "/",
        "/models",
        "/rollouts",
        "/drift",
        "/devices",
        "/events",
        "/episodes",
        "/login",
        "/problems/not-found",
        "/assets/app.css",
        "/assets/live.js",
        "/assets/icon.svg",
    ] {
        let answer = site.get(path).await;
        assert_eq!(answer.status, 200, "{path}: {}", answer.text());
        let csp = answer.header("content-security-policy");
        assert!(csp.contains("default-src 'none'") && !csp.contains("unsafe"), "{path}: {csp}");
        assert_eq!(answer.header("x-content-type-options"), "nosniff", "{path}");
    }
    for path in ["fleet", "cohorts", "models", "rollouts", "devices", "events", "training/jobs", "episodes"] {
        let answer = site.get(&format!("/api/v1/{path}")).await;
        assert_eq!((answer.status, answer.header("content-type").as_str()), (200, "application/json"), "{path}");
    }
    for path in ["/livez", "/version", "/metrics"] {
        assert_eq!(site.get(path).await.status, 200, "{path}");
    }
    site.until_ready().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_set_by_the_api_is_seen_by_api_page_and_log() {
    let site = Site::start().await;
    let put = site.put("/api/v1/cohorts/coast", r#"{"line":"rain","selector":"region=coast"}"#).await;
    assert_eq!(put.status, 200, "{}", put.text());
    assert!(site.get("/").await.text().contains("region=coast"));
    assert!(site.get("/api/v1/models/rain").await.text().contains("\"line\":\"rain\""));
    assert_eq!(site.get("/models/rain").await.status, 200);
    assert_eq!(site.get("/drift").await.status, 200, "a line without a version has an empty page, not an error");
    let token = site.post("/api/v1/enrolment-tokens", r#"{"name":"t","ttl_ms":60000}"#).await;
    let token = token.json()["token"].as_str().unwrap().to_owned();
    let key = leeway_protocol::trust::keyring::SigningKey::from_seed(&[9; 32]).public().hex();
    let enrol = format!(r#"{{"device":"coast-01","public_key":"{key}","labels":{{"region":"coast"}},"token":"{token}"}}"#);
    let enrolled = site.anyone("POST", "/api/v1/enrol", Some(&enrol), &[]).await;
    assert_eq!(enrolled.status, 200, "{}", enrolled.text());
    assert!(enrolled.json()["image_root"].as_str().unwrap().contains("signatures"));
    let device = site.get("/api/v1/devices/coast-01").await.json();
    assert_eq!(device["summary"]["cohort"], "coast");
    for path in [
        "/devices/coast-01",
        "/devices?cohort=coast&state=offline",
        "/api/v1/devices/coast-01/timeline",
        "/api/v1/devices?selector=region%3Dcoast",
    ] {
        let answer = site.get(path).await;
        assert_eq!(answer.status, 200, "{path}: {}", answer.text());
    }
    let log = site.get("/api/v1/events?since=0").await.json();
    let kinds: Vec<&str> = log["items"].as_array().unwrap().iter().map(|e| e["kind"].as_str().unwrap()).collect();
    assert!(kinds.contains(&"cohort.changed") && kinds.contains(&"device.enrolled"), "{kinds:?}");
    assert_eq!(log["chain"]["verified"], true);
    assert!(!site.get("/metrics").await.text().contains("coast-01"), "a device's name is never a label");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_to_be_asked_for_labels_is_said_and_why_nobody_is() {
    let site = Site::start().await;
    site.add_version("1.0.0").await;
    let wanted = site.get("/api/v1/models/rain/labels/wanted").await;
    let plan = wanted.json();
    assert_eq!((wanted.status, &plan["labels"], &plan["per_day"], &plan["line"]), (200, &0.into(), &100.into(), &"rain".into()), "{plan}");
    assert!(plan["sentence"].as_str().unwrap().starts_with("There is nobody to ask"), "{plan}");
    assert_eq!(site.get("/api/v1/models/snow/labels/wanted").await.status, 404);
    let quality = site.get("/api/v1/models/rain/quality").await.json();
    assert!(quality["assumption"].as_str().unwrap().contains("assumes no concept drift"), "{quality}");
}

#[tokio::test(flavor = "multi_thread")]
async fn blobs_come_in_checked_and_go_out_in_ranges() {
    let site = Site::start().await;
    let bytes = b"0123456789";
    let digest = Digest::of(bytes);
    let wrong = site.upload(bytes, &[("repr-digest", &Digest::of(b"other").to_string())]).await;
    assert_eq!(wrong.status, 422, "{}", wrong.text());
    let stored = site.upload(bytes, &[("repr-digest", &digest.to_string())]).await;
    assert_eq!(stored.json()["digest"], digest.to_string());
    let path = format!("/blobs/{}", digest.hex());
    let whole = site.get(&path).await;
    let etag = format!("\"{digest}\"");
    assert_eq!((whole.status, whole.body.as_slice(), whole.header("etag")), (200, &bytes[..], etag.clone()));
    let part = site.anyone("GET", &path, None, &[("range", "bytes=4-"), ("if-range", &etag)]).await;
    assert_eq!((part.status, part.body.as_slice(), part.header("content-range")), (206, &bytes[4..], "bytes 4-9/10".to_owned()));
    let other = site.anyone("GET", &path, None, &[("range", "bytes=4-"), ("if-range", "\"sha256:00\"")]).await;
    assert_eq!((other.status, other.body.len()), (200, 10), "another version of the file is sent whole");
    assert_eq!(site.anyone("GET", &path, None, &[("range", "bytes=10-")]).await.status, 416);
    assert_eq!(site.anyone("GET", &path, None, &[("if-none-match", &etag)]).await.status, 304);
    let head = site.anyone("HEAD", &path, None, &[]).await;
    assert_eq!((head.status, head.header("content-length"), head.body.len()), (200, "10".to_owned(), 0));
    let elsewhere = site.anyone("GET", &path, None, &[("host", "fleet.example")]).await;
    assert_eq!(elsewhere.status, 401, "a blob of no published version is not for everybody");
    assert_eq!(site.get(&format!("/blobs/{}", "0".repeat(64))).await.status, 404);
    assert_eq!(site.get("/blobs/xyz").await.status, 400);
}

#[tokio::test(flavor = "multi_thread")]
async fn devices_fetch_signed_metadata_without_a_token_from_anywhere() {
    let site = Site::start().await;
    for file in ["timestamp.json", "1.root.json", "director/1.root.json"] {
        let answer = site.anyone("GET", &format!("/tuf/{file}"), None, &[("host", "fleet.example")]).await;
        assert_eq!(answer.status, 200, "{file}: {}", answer.text());
        assert!(answer.text().contains("signatures"), "{file}");
    }
    for file in ["2.root.json", "director/9.root.json", "..%2Fadmin.token", "x"] {
        assert_eq!(site.get(&format!("/tuf/{file}")).await.status, 404, "{file}");
    }
}

#[test]
fn the_committed_description_is_the_code_s_own() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/openapi.json");
    let mut text = super::openapi().to_pretty_json().unwrap();
    text.push('\n');
    if std::env::var_os("UPDATE_OPENAPI").is_some() {
        std::fs::write(path, &text).unwrap();
    }
    let committed = std::fs::read_to_string(path).unwrap_or_default();
    assert!(committed == text, "controller/openapi.json is not what the code says: run the test with UPDATE_OPENAPI=1");
}

#[test]
fn every_operation_says_what_can_go_wrong_and_has_a_name_of_its_own() {
    let api = serde_json::to_value(super::openapi()).unwrap();
    let mut names = std::collections::BTreeSet::new();
    for (path, methods) in api["paths"].as_object().unwrap() {
        for (method, operation) in methods.as_object().unwrap() {
            let name = operation["operationId"].as_str().unwrap_or_else(|| panic!("{method} {path} has no name"));
            assert!(names.insert(name.to_owned()), "{name} is there twice");
            let answers = operation["responses"].as_object().unwrap();
            let health = ["/livez", "/readyz", "/version"].contains(&path.as_str());
            assert!(health || answers.keys().any(|code| code.starts_with('4')), "{method} {path} says nothing of errors");
        }
    }
    assert!(names.len() > 30, "{names:?}");
}
