//! Who may do what, over real sockets: every operation against every scope, tokens from birth to end, four eyes, browsers.
use std::collections::{BTreeMap, BTreeSet};

use leeway_protocol::enrolment;
use leeway_protocol::ids::DeviceId;
use leeway_protocol::trust::keyring::SigningKey;
use serde_json::{Value, json};

use super::refusals::refused;
use super::site::{Answer, Site};
use crate::access::Scope;
use crate::io::serve::ServeConfig;
use crate::io::web::Limits;
use crate::io::web::guard::CSP;
use crate::io::web::scope::{Need, needed};

/// A host that is not this machine's own name: nothing is open to it.
const AWAY: (&str, &str) = ("host", "fleet.example");

/// Every operation, with the paths to try it at.
fn operations() -> Vec<(String, String, String)> {
    let api = serde_json::to_value(crate::io::web::openapi()).unwrap();
    let mut all = Vec::new();
    for (route, methods) in api["paths"].as_object().unwrap() {
        for method in methods.as_object().unwrap().keys() {
            let actions: &[&str] = if route.ends_with("{action}") { &["pause", "abort", "approve"] } else { &[""] };
            for action in actions {
                let filled = route.replace("{action}", action).replace("{digest}", &"0".repeat(64));
                let path = filled.split('/').map(|part| if part.starts_with('{') { "x" } else { part }).collect::<Vec<_>>().join("/");
                all.push((method.to_uppercase(), route.clone(), path));
            }
        }
    }
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn every_operation_asks_for_its_scope() {
    let site = Site::start().await;
    let mut tokens = BTreeMap::new();
    for scope in Scope::ALL {
        tokens.insert(scope, site.bearer_of("ann", scope).await);
    }
    let mut open = BTreeSet::new();
    let mut tried = 0;
    for (method, route, path) in operations() {
        let body = if method == "GET" { None } else { Some("{}") };
        let call = async |headers: &[(&str, &str)]| site.anyone(&method, &path, body, headers).await;
        let nobody = call(&[AWAY]).await;
        let scopes: &[Scope] = match needed(&method, Some(&route), &path) {
            // Without TLS what devices fetch is open, as it is signed.
            Need::Nothing | Need::Device => {
                assert!(nobody.status != 401 && nobody.status != 403, "{method} {path}: {}", nobody.text());
                open.insert(format!("{method} {route}"));
                continue;
            }
            Need::Released => &[Scope::Viewer],
            Need::OneOf(scopes) => scopes,
        };
        assert_eq!(nobody.status, 401, "{method} {path}: {}", nobody.text());
        assert_eq!(nobody.json()["type"], "/problems/unauthorized");
        let wrong = call(&[AWAY, ("authorization", "Bearer wrong")]).await;
        assert!([401, 429].contains(&wrong.status), "{method} {path}: {}", wrong.text());
        for (scope, token) in &tokens {
            let answer = call(&[AWAY, ("authorization", token)]).await;
            tried += 1;
            if scopes.iter().any(|needed| scope.covers(*needed)) {
                assert!(![401, 403, 429, 500, 503].contains(&answer.status), "{scope} may {method} {path}: {}", answer.text());
            } else {
                let text = answer.text();
                assert_eq!(
                    (answer.status, &answer.json()["type"]),
                    (403, &json!("/problems/scope")),
                    "{scope} may not {method} {path}: {text}"
                );
                assert!(text.contains("ann") && text.contains(scope.as_str()) && text.contains(scopes[0].as_str()), "{text}");
                assert!(answer.header("www-authenticate").contains("insufficient_scope"));
            }
        }
    }
    assert!(tried > 200, "{tried}");
    let expected = ["GET /livez", "GET /readyz", "GET /tuf/director/{file}", "GET /tuf/{file}", "GET /version", "POST /api/v1/enrol"];
    assert!(open.iter().eq(expected.iter()), "{open:?}: what is open to anybody is this and no more");
}

#[tokio::test(flavor = "multi_thread")]
async fn only_looking_is_open_at_this_machine_and_not_through_a_proxy() {
    let site = Site::start().await;
    assert_eq!(site.get("/api/v1/fleet").await.status, 200);
    assert_eq!(site.get("/api/v1/whoami").await.json(), json!({ "name": null, "scope": "viewer" }));
    for path in ["/api/v1/tokens"] {
        assert_eq!(site.get(path).await.status, 401, "{path}");
    }
    for header in ["x-forwarded-for", "forwarded", "x-real-ip", "via"] {
        assert_eq!(site.anyone("GET", "/api/v1/fleet", None, &[(header, "1.2.3.4")]).await.status, 401, "{header}");
    }
    let url = Some("https://fleet.example".to_owned());
    let public = Site::start_as(Limits::default(), |config| ServeConfig { public_http: url, ..config }).await;
    assert_eq!(public.get("/api/v1/fleet").await.status, 401, "others reach it too, perhaps by a proxy that says nothing");
    assert_eq!(public.get("/livez").await.status, 200);
    let signed = public.anyone("GET", &format!("/login?token={}", public.token()), None, &[]).await;
    assert!(signed.header("set-cookie").ends_with("; Secure"), "{}", signed.header("set-cookie"));
}

async fn make(site: &Site, body: &Value) -> Answer {
    site.post("/api/v1/tokens", &body.to_string()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_from_birth_to_end() {
    let site = Site::start().await;
    let made = make(&site, &json!({ "name": "ann-laptop", "owner": "ann", "scope": "operator", "ttl_ms": 3_600_000 })).await;
    assert_eq!(made.status, 201, "{}", made.text());
    let token = made.json()["token"].as_str().unwrap().to_owned();
    assert!(token.starts_with("leeway_pat_") && token.len() > 70, "{token}");
    let bearer = format!("Bearer {token}");
    let auth = [("authorization", bearer.as_str())];
    assert_eq!(site.anyone("GET", "/api/v1/whoami", None, &auth).await.json(), json!({ "name": "ann", "scope": "operator" }));
    let put = site.anyone("PUT", "/api/v1/cohorts/coast", Some(r#"{"line":"rain"}"#), &auth).await;
    assert_eq!(put.status, 200, "{}", put.text());
    let log = site.get("/api/v1/events?since=0").await;
    let items = log.json()["items"].as_array().unwrap().clone();
    let by = |kind: &str| items.iter().find(|e| e["kind"] == kind).map(|e| e["actor"].as_str().unwrap().to_owned());
    assert_eq!((by("cohort.changed").as_deref(), by("token.granted").as_deref()), (Some("ann"), Some("admin")));

    let listed = site.anyone("GET", "/api/v1/tokens", None, &[("authorization", &site.bearer())]).await;
    let row = &listed.json()[0];
    assert_eq!(
        (&row["name"], &row["owner"], &row["scope"], &row["made_by"]),
        (&json!("ann-laptop"), &json!("ann"), &json!("operator"), &json!("admin"))
    );
    assert!(row["last_used"].is_string() && row["valid"] == true, "{row}");
    for place in [listed.text(), log.text()] {
        assert!(!place.contains(&token), "shown once");
    }
    let (store, bytes) = (site.store(), token.as_bytes());
    assert!(
        !store.windows(bytes.len()).any(|w| w == bytes) && !store.windows(64).any(|w| w == &bytes[bytes.len() - 64..]),
        "kept as a hash"
    );

    let auth = [("authorization", site.bearer())];
    let auth: Vec<(&str, &str)> = auth.iter().map(|(n, v)| (*n, v.as_str())).collect();
    let bad =
        |name: &str, owner: &str, scope: &str, ttl: i64| json!({ "name": name, "owner": owner, "scope": scope, "ttl_ms": ttl }).to_string();
    for (body, expected) in [
        (bad("ann-laptop", "bob", "viewer", 60_000), (409, "conflict", "revoke it first")),
        (bad("a b", "ann", "viewer", 60_000), (422, "invalid", "letters")),
        (bad("x", "admin", "viewer", 60_000), (422, "invalid", "audit trail")),
        (bad("x", "controller", "viewer", 60_000), (422, "invalid", "audit trail")),
        (bad("x", "devices/d1", "viewer", 60_000), (422, "invalid", "letters")),
        (bad("x", "x", "root", 60_000), (400, "bad-request", "publisher")),
        (bad("x", "x", "viewer", 0), (422, "invalid", "366 days")),
        (bad("x", "x", "viewer", i64::MAX), (422, "invalid", "366 days")),
    ] {
        refused(&site, "POST", "/api/v1/tokens", Some(&body), &auth, expected).await;
    }
    refused(&site, "POST", "/api/v1/tokens/none/revoke", Some(r#"{"reason":"x"}"#), &auth, (404, "not-found", "leeway token list")).await;
    refused(&site, "POST", "/api/v1/tokens/ann-laptop/revoke", Some(r#"{"reason":""}"#), &auth, (422, "invalid", "reason")).await;

    let signed = site.anyone("GET", &format!("/login?token={token}"), None, &[]).await.header("set-cookie");
    let cookie = signed.split(';').next().unwrap();
    let with_cookie = [AWAY, ("cookie", cookie)];
    assert_eq!(site.anyone("GET", "/devices", None, &with_cookie).await.status, 200);
    assert_eq!(site.post("/api/v1/tokens/ann-laptop/revoke", r#"{"reason":"lost the laptop"}"#).await.status, 204);
    assert_eq!(site.anyone("GET", "/devices", None, &with_cookie).await.status, 401, "the browser is signed out with it");
    assert_eq!(site.anyone("GET", "/api/v1/fleet", None, &[AWAY, ("authorization", &bearer)]).await.status, 401);
    assert_eq!(
        site.anyone("GET", "/api/v1/fleet", None, &[("authorization", &bearer)]).await.status,
        401,
        "a wrong token is refused even here"
    );
    let again = make(&site, &json!({ "name": "ann-laptop", "scope": "viewer", "ttl_ms": 60_000 })).await;
    assert_eq!((again.status, &again.json()["owner"]), (201, &json!("ann-laptop")), "the name is free again");
}

#[tokio::test(flavor = "multi_thread")]
async fn four_eyes_are_two_people_and_not_two_tokens() {
    let site = Site::start().await;
    site.add_version("1.0.0").await;
    let line = r#"{"rollout":{"stages":[{"name":"all","share":1.0}],"require_approval":true}}"#;
    let put = site.put("/api/v1/models/rain", line).await;
    assert_eq!(put.status, 200, "{}", put.text());
    let (asks, own, other) = (
        site.bearer_of("ann", Scope::Operator).await,
        site.bearer_of("ann", Scope::Approver).await,
        site.bearer_of("bob", Scope::Approver).await,
    );
    // Less care than the line's own is not given, even when it is asked for.
    let body = r#"{"line":"rain","version":"1.0.0","policy":{"stages":[{"name":"all","share":1.0}],"require_approval":false}}"#;
    let made = site.anyone("POST", "/api/v1/rollouts", Some(body), &[("authorization", &asks)]).await;
    assert_eq!(made.status, 201, "{}", made.text());
    let path = "/api/v1/rollouts/rain-1.0.0/approve";
    let why = Some(r#"{"reason":"looks good"}"#);
    refused(&site, "POST", path, why, &[("authorization", &asks)], (403, "scope", "approver")).await;
    refused(&site, "POST", "/api/v1/rollouts/rain-1.0.0/%61pprove", why, &[("authorization", &asks)], (403, "scope", "admin")).await;
    let past = "/api/v1/rollouts/rain-1.0.0/promote-all";
    refused(&site, "POST", past, why, &[("authorization", &asks)], (409, "illegal-transition", "must be approved first")).await;
    refused(&site, "POST", path, why, &[("authorization", &own)], (409, "illegal-transition", "somebody else")).await;
    assert!(site.controller().snapshot().rollouts.values().all(|r| r.approvals.is_empty() && !r.is_approved(0)));
    let done = site.anyone("POST", path, why, &[("authorization", &other)]).await;
    assert_eq!(done.status, 200, "{}", done.text());
    assert!(site.controller().snapshot().rollouts.values().all(|r| r.is_approved(0)));
    let log = site.get("/api/v1/events?subject=rollouts/rain-1.0.0").await.json();
    let actors: Vec<(&str, &str)> =
        log["items"].as_array().unwrap().iter().map(|e| (e["kind"].as_str().unwrap(), e["actor"].as_str().unwrap())).collect();
    assert!(actors.contains(&("rollout.created", "ann")) && actors.contains(&("rollout.moved", "bob")), "{actors:?}");
    refused(&site, "POST", "/api/v1/rollouts/rain-1.0.0/abort", why, &[("authorization", &other)], (403, "scope", "operator")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_that_is_in_comes_again_by_its_key_and_nothing_overheard_helps() {
    let site = Site::start().await;
    let (key, stranger) = (SigningKey::from_seed(&[9; 32]), SigningKey::from_seed(&[10; 32]));
    let device: DeviceId = "coast-01".parse().unwrap();
    let ask = async |device: &str, key: &SigningKey, more: Value| {
        let mut body = json!({ "device": device, "public_key": key.public().hex() });
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        site.anyone("POST", "/api/v1/enrol", Some(&body.to_string()), &[AWAY]).await
    };
    let token = site.controller().create_token("one", 1, 60_000, "ann").await.unwrap();
    let first = ask("coast-01", &key, json!({ "token": token })).await;
    assert_eq!(first.status, 200, "{}", first.text());

    let challenged = ask("coast-01", &key, json!({})).await;
    assert_eq!((challenged.status, &challenged.json()["type"]), (409, &json!("/problems/prove-key")), "{}", challenged.text());
    let challenge = challenged.json()["challenge"].as_str().unwrap().to_owned();
    let sign = |key: &SigningKey, challenge: &str| key.sign(&enrolment::proof(&device, &key.public().hex(), challenge, None)).hex();
    let proof = json!({ "challenge": challenge, "proof": sign(&key, &challenge) });
    let again = ask("coast-01", &key, proof.clone()).await;
    assert_eq!(again.status, 200, "no token is needed: {}", again.text());
    assert_ne!(again.json()["mqtt"]["password"], first.json()["mqtt"]["password"], "a new secret");
    let replayed = ask("coast-01", &key, proof).await;
    assert_eq!(replayed.status, 409, "what was overheard is worth nothing");
    let fresh = replayed.json()["challenge"].as_str().unwrap().to_owned();
    assert_ne!(fresh, challenge);
    let forged = ask("coast-01", &key, json!({ "challenge": fresh, "proof": sign(&stranger, &fresh) })).await;
    assert_eq!((forged.status, &forged.json()["type"]), (422, &json!("/problems/refused")));
    let burnt = ask("coast-01", &key, json!({ "challenge": fresh, "proof": sign(&key, &fresh) })).await;
    assert_eq!(burnt.status, 409, "a challenge that was shown is gone");

    let unknown = ask("coast-99", &stranger, json!({})).await;
    let other = ask("coast-01", &stranger, json!({})).await;
    assert_eq!((unknown.status, unknown.body), (other.status, other.body), "without a token nobody learns which names are taken");
    let token = site.controller().create_token("two", 1, 60_000, "ann").await.unwrap();
    let taken = ask("coast-01", &stranger, json!({ "token": token })).await;
    assert_eq!((taken.status, taken.text().contains("another key")), (409, true), "{}", taken.text());
    let in_time = ask("coast-02", &stranger, json!({ "token": token })).await;
    assert_eq!(in_time.status, 200, "a refused try costs no use: {}", in_time.text());
}

#[tokio::test(flavor = "multi_thread")]
async fn no_page_runs_anything_inline_and_every_answer_forbids_it() {
    let site = Site::start().await;
    site.add_version("1.0.0").await;
    assert_eq!(site.post("/api/v1/rollouts", r#"{"line":"rain","version":"1.0.0"}"#).await.status, 201);
    assert!(!CSP.contains("unsafe") && CSP.starts_with("default-src 'none'"));
    for part in ["script-src 'self'", "frame-ancestors 'none'", "base-uri 'none'", "form-action 'self'"] {
        assert!(CSP.contains(part), "{part}");
    }
    let pages =
        ["/", "/models", "/models/rain", "/rollouts", "/rollouts/rain-1.0.0", "/drift", "/devices", "/events", "/login", "/nowhere"];
    for path in pages {
        let page = site.get(path).await;
        let text = page.text().to_lowercase();
        assert_eq!(page.header("content-security-policy"), CSP, "{path}");
        for bad in [" style=", " onclick", " onload", " onerror", "javascript:", "<style", "<base", "<iframe", "http-equiv"] {
            assert!(!text.contains(bad), "{path} holds {bad}");
        }
        let scripts = text.matches("<script").count();
        assert_eq!(
            scripts,
            text.matches("<script src=\"/assets/").count() + text.matches("<script type=\"module\" src=\"/assets/").count(),
            "{path}"
        );
        for form in text.split("<form").skip(1) {
            assert!(form.split('>').next().unwrap().contains("method=\"post\""), "{path}: a form changes nothing by GET");
        }
    }
    for path in ["/api/v1/fleet", "/api/v1/nothing", "/tuf/timestamp.json", "/blobs/xyz", "/metrics", "/livez"] {
        assert_eq!(site.get(path).await.header("content-security-policy"), CSP, "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_other_site_signs_a_browser_in_or_out_or_enrols_anything() {
    let site = Site::start().await;
    let cookie = site.sign_in().await;
    let form = ("content-type", "application/x-www-form-urlencoded");
    let login = format!("token={}", site.token());
    for foreign in
        [("sec-fetch-site", "cross-site"), ("sec-fetch-site", "same-site"), ("origin", "http://evil.example"), ("origin", "null")]
    {
        let posted = site.send("POST", "/login", Some(login.clone().into_bytes()), &[form, foreign]).await;
        assert_eq!(posted.status, 403, "{foreign:?}");
        assert!(posted.header("set-cookie").is_empty());
        let linked = site.anyone("GET", &format!("/login?{login}"), None, &[foreign]).await;
        assert_eq!(linked.status, 403, "{foreign:?}");
        let out = site.send("POST", "/logout", None, &[("cookie", &cookie), foreign]).await;
        assert_eq!(out.status, 403, "{foreign:?}");
        let act = site.send("POST", "/rollouts/x/abort", Some(b"reason=x".to_vec()), &[form, ("cookie", &cookie), foreign]).await;
        assert_eq!(act.status, 403, "{foreign:?}");
        assert_eq!(site.anyone("POST", "/api/v1/enrol", Some("{}"), &[foreign]).await.status, 403, "{foreign:?}");
    }
    assert_eq!(site.get("/login").await.status, 200, "the form itself may be linked to");
    assert_eq!(site.anyone("GET", "/devices", None, &[AWAY, ("cookie", &cookie)]).await.status, 200, "nobody was signed out");
}
