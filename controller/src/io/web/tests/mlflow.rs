//! MLflow's protocol over a real socket, as its client sends it: queries, bodies, errors, scopes. The client itself is in tests/e2e.
use serde_json::{Value, json};

use super::site::Site;
use crate::access::Scope;

const MODELS: &str = "/api/2.0/mlflow/registered-models";
const VERSIONS: &str = "/api/2.0/mlflow/model-versions";

async fn call(site: &Site, bearer: &str, method: &str, path: &str, body: Option<Value>) -> (u16, Value) {
    let body = body.map(|b| b.to_string());
    let answer = site.anyone(method, path, body.as_deref(), &[("authorization", bearer)]).await;
    assert_eq!(answer.header("content-type"), "application/json", "{method} {path}: {}", answer.text());
    (answer.status, answer.json())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_candidate_is_registered_named_tagged_found_and_deleted_again() {
    let site = Site::start().await;
    site.add_version("1.0.0").await;
    let bearer = site.bearer_of("nora", Scope::Publisher).await;
    let post = |path: String, body: Value| {
        let (site, bearer) = (&site, &bearer);
        async move { call(site, bearer, "POST", &path, Some(body)).await }
    };
    let new =
        json!({ "name": "rain", "source": "runs:/7/m", "run_id": "7", "tags": [{ "key": "team", "value": "vision" }], "of_the_future": 1 });
    let (status, made) = post(format!("{VERSIONS}/create"), new).await;
    assert_eq!((status, &made["model_version"]["version"]), (200, &json!("2")), "{made}");
    let (status, set) = post(format!("{MODELS}/alias"), json!({ "name": "rain", "alias": "to-try", "version": "2" })).await;
    assert_eq!((status, set), (200, json!({})));
    let get = |path: &str| {
        let path = path.to_owned();
        let (site, bearer) = (&site, &bearer);
        async move { call(site, bearer, "GET", &path, None).await }
    };
    let (_, found) =
        get(&format!("{VERSIONS}/search?filter=tags.team%3D%27vision%27&max_results=5&order_by=name&order_by=version_number+DESC")).await;
    assert_eq!(found["model_versions"][0]["aliases"], json!(["to-try"]), "{found}");
    assert_eq!(found["next_page_token"], "");
    let (_, latest) = post(format!("{MODELS}/get-latest-versions"), json!({ "name": "rain" })).await;
    assert_eq!(latest["model_versions"][0]["version"], "2");
    let (_, staged) = post(format!("{MODELS}/get-latest-versions"), json!({ "name": "rain", "stages": ["Production"] })).await;
    assert_eq!(staged["model_versions"], json!([]));
    let (_, uri) = get(&format!("{VERSIONS}/get-download-uri?name=rain&version=2")).await;
    assert_eq!(uri["artifact_uri"], "runs:/7/m");

    let before = site.controller().last_events(1).unwrap()[0].seq;
    let (status, _) = post(format!("{MODELS}/alias"), json!({ "name": "rain", "alias": "to-try", "version": "2" })).await;
    assert_eq!((status, site.controller().last_events(1).unwrap()[0].seq), (200, before), "the same again leaves no row");
    let (status, _) = call(&site, &bearer, "DELETE", &format!("{VERSIONS}/delete"), Some(json!({ "name": "rain", "version": "2" }))).await;
    assert_eq!(status, 200);
    let (status, gone) = get(&format!("{MODELS}/alias?name=rain&alias=to-try")).await;
    assert_eq!((status, &gone["error_code"]), (404, &json!("RESOURCE_DOES_NOT_EXIST")), "no alias points to what is gone");
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_speak_mlflows_words_and_say_what_to_do() {
    let site = Site::start().await;
    site.add_version("1.0.0").await;
    let admin = site.bearer();
    let publisher = site.bearer_of("nora", Scope::Publisher).await;
    let viewer = site.bearer_of("vic", Scope::Viewer).await;
    let of = |name: &str| json!({ "name": name, "version": "1.0.0", "alias": "champion", "key": "k", "value": "v", "stage": "Production" });
    let create = format!("{MODELS}/create");
    let table: [(&str, &str, &str, Option<Value>, (u16, &str, &str)); 17] = [
        ("Bearer wrong", "GET", &format!("{MODELS}/search"), None, (401, "UNAUTHENTICATED", "")),
        (&viewer, "POST", &create, Some(of("snow")), (403, "PERMISSION_DENIED", "publisher")),
        (&publisher, "POST", &create, Some(of("rain")), (400, "RESOURCE_ALREADY_EXISTS", "already exists")),
        (&publisher, "POST", &create, Some(json!({ "tags": [] })), (400, "INVALID_PARAMETER_VALUE", "\"name\"")),
        (&publisher, "POST", &create, Some(json!({ "name": 7 })), (400, "INVALID_PARAMETER_VALUE", "must be a text")),
        (&publisher, "POST", &create, Some(json!([])), (400, "BAD_REQUEST", "cannot be read")),
        (
            &publisher,
            "POST",
            &create,
            Some(json!({ "name": "snow", "tags": [{ "key": "mlflow.prompt.is_prompt", "value": "true" }] })),
            (400, "INVALID_PARAMETER_VALUE", "prompts"),
        ),
        (&publisher, "GET", &format!("{MODELS}/get?name=snow"), None, (404, "RESOURCE_DOES_NOT_EXIST", "snow")),
        (&publisher, "GET", &format!("{MODELS}/search?max_results=0"), None, (400, "INVALID_PARAMETER_VALUE", "between 1 and 1000")),
        (&publisher, "GET", &format!("{MODELS}/search?page_token=7-x"), None, (400, "INVALID_PARAMETER_VALUE", "page_token")),
        (&publisher, "POST", &format!("{MODELS}/alias"), Some(of("rain")), (403, "PERMISSION_DENIED", "scope operator")),
        (&admin, "POST", &format!("{MODELS}/alias"), Some(of("rain")), (409, "RESOURCE_CONFLICT", "leeway rollout create")),
        (
            &admin,
            "POST",
            &format!("{MODELS}/alias"),
            Some(json!({ "name": "rain", "version": "1.0.0", "alias": "latest" })),
            (400, "INVALID_PARAMETER_VALUE", "latest"),
        ),
        (
            &admin,
            "POST",
            &format!("{VERSIONS}/transition-stage"),
            Some(of("rain")),
            (501, "NOT_IMPLEMENTED", "leeway rollout create --line rain"),
        ),
        (&admin, "DELETE", &format!("{VERSIONS}/delete"), Some(of("rain")), (501, "NOT_IMPLEMENTED", "leeway model mark rain 1.0.0")),
        (&admin, "POST", "/api/2.0/mlflow/runs/create", Some(json!({})), (404, "ENDPOINT_NOT_FOUND", "MLFLOW_REGISTRY_URI")),
        (&admin, "GET", "/api/2.0/mlflow/experiments/search", None, (404, "ENDPOINT_NOT_FOUND", "MLFLOW_TRACKING_URI")),
    ];
    for (bearer, method, path, body, (status, code, says)) in table {
        let answer = call(&site, bearer, method, path, body).await;
        let message = answer.1["message"].as_str().unwrap_or_default();
        assert!(answer.0 == status && answer.1["error_code"] == code && message.contains(says), "{method} {path}: {answer:?}");
    }
    let large = json!({ "name": "snow", "description": "x".repeat(600 << 10) });
    assert_eq!(call(&site, &admin, "POST", &create, Some(large)).await.1["error_code"], "BAD_REQUEST");
}

#[tokio::test(flavor = "multi_thread")]
async fn aliases_and_tags_by_our_own_api_keep_who_and_why() {
    let site = Site::start().await;
    site.add_version("1.0.0").await;
    let publisher = site.bearer_of("nora", Scope::Publisher).await;
    let auth = [("authorization", publisher.as_str())];
    let put = |alias: &'static str, body: &'static str| {
        let (site, auth) = (&site, &auth);
        async move { site.anyone("PUT", &format!("/api/v1/models/rain/aliases/{alias}"), Some(body), auth).await }
    };
    let made = put("staging", r#"{"version":"1.0.0","reason":"for the bench"}"#).await;
    assert_eq!(made.status, 200, "{}", made.text());
    let made = put("staging", r#"{"version":null,"reason":"the bench is gone"}"#).await.json();
    assert_eq!((&made["aliases"], made["history"].as_array().unwrap().len()), (&json!([]), 2), "{made}");
    assert_eq!((&made["history"][1]["by"], &made["history"][1]["reason"]), (&json!("nora"), &json!("the bench is gone")));
    for (alias, body, expected) in [
        ("champion", r#"{"version":"1.0.0","reason":"x"}"#, (403, "scope", "operator")),
        ("staging", r#"{"version":"9","reason":"x"}"#, (404, "not-found", "no version 9")),
        ("staging", r#"{"version":"1.0.0","reason":" "}"#, (422, "invalid", "reason")),
        ("v7", r#"{"version":"1.0.0","reason":"x"}"#, (400, "bad-request", "version numbers")),
    ] {
        super::refusals::refused(&site, "PUT", &format!("/api/v1/models/rain/aliases/{alias}"), Some(body), &auth, expected).await;
    }
    let tags = site.anyone("POST", "/api/v1/models/rain/versions/1.0.0/tags", Some(r#"{"tags":{"a":"1","b":null}}"#), &auth).await;
    assert_eq!(tags.json()["tags"], json!({ "a": "1" }), "{}", tags.text());
    let bad = r#"{"tags":{"leeway.status":"signed"}}"#;
    super::refusals::refused(&site, "POST", "/api/v1/models/rain/tags", Some(bad), &auth, (422, "invalid", "said by the controller")).await;
    let row = site.controller().last_events(1).unwrap().remove(0);
    assert_eq!((row.kind.as_str(), row.actor.as_str(), row.subject.as_str()), ("model.tagged", "nora", "models/rain/versions/1.0.0"));
}
