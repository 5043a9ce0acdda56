//! Webhooks against a real receiver: in order, signed, again after a failure, over a restart's state, and never to places inside.
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::IntoResponse as _;
use leeway_protocol::time::Timestamp;
use serde_json::{Value, json};

use super::site::{PATIENCE, Site};
use crate::access::Scope;
use crate::io::web::Limits;
use crate::webhook::{Reach, Secret};

/// Somebody who receives, and answers with the statuses it was given, then with 204.
#[derive(Clone, Default)]
struct Receiver {
    statuses: Arc<Mutex<VecDeque<u16>>>,
    heard: Arc<Mutex<Vec<(String, HeaderMap, String)>>>,
}

impl Receiver {
    async fn start(statuses: &[u16]) -> (Self, SocketAddr) {
        let receiver = Self { statuses: Arc::new(Mutex::new(statuses.iter().copied().collect())), heard: Arc::default() };
        let app = Router::new().fallback(Self::hear).with_state(receiver.clone());
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        tokio::spawn(std::future::IntoFuture::into_future(axum::serve(listener, app)));
        (receiver, addr)
    }

    async fn hear(State(receiver): State<Self>, request: Request) -> axum::response::Response {
        let (parts, body) = request.into_parts();
        let body = axum::body::to_bytes(body, 1 << 20).await.unwrap();
        receiver.heard.lock().unwrap().push((parts.uri.to_string(), parts.headers, String::from_utf8(body.to_vec()).unwrap()));
        let status = receiver.statuses.lock().unwrap().pop_front().unwrap_or(204);
        (StatusCode::from_u16(status).unwrap(), [("location", "/elsewhere")]).into_response()
    }

    fn heard(&self) -> Vec<(String, HeaderMap, String)> {
        self.heard.lock().unwrap().clone()
    }

    async fn until(&self, count: usize) -> Vec<(String, HeaderMap, String)> {
        let begun = std::time::Instant::now();
        while self.heard().len() < count {
            assert!(begun.elapsed() < PATIENCE, "{} of {count} came", self.heard().len());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        self.heard()
    }
}

async fn site(allowed: &[&str]) -> Site {
    let reach = Reach::new(allowed.iter().map(|text| text.parse().unwrap()).collect());
    Site::start_as(Limits::default(), |config| crate::io::serve::ServeConfig { webhook_reach: reach, ..config }).await
}

async fn row(site: &Site, name: &str) -> Value {
    let bearer = site.bearer();
    site.anyone("GET", &format!("/api/v1/webhooks/{name}"), None, &[("authorization", &bearer)]).await.json()
}

async fn until_row(site: &Site, name: &str, holds: impl Fn(&Value) -> bool) -> Value {
    let begun = std::time::Instant::now();
    loop {
        let row = row(site, name).await;
        if holds(&row) {
            return row;
        }
        assert!(begun.elapsed() < PATIENCE, "{row}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receiver_gets_what_it_wants_in_order_signed_and_once() {
    let site = site(&["127.0.0.1"]).await;
    let (receiver, addr) = Receiver::start(&[]).await;
    let asked = json!({ "name": "chat", "url": format!("http://{addr}/hook"), "kinds": ["token"] });
    let made = site.post("/api/v1/webhooks", &asked.to_string()).await;
    assert_eq!(made.status, 201, "{}", made.text());
    let secret: Secret = serde_json::from_value(made.json()["secret"].clone()).unwrap();
    for owner in ["ann", "bob", "cem"] {
        site.bearer_of(owner, Scope::Viewer).await;
        assert_eq!(site.put(&format!("/api/v1/cohorts/{owner}"), r#"{"line":"rain"}"#).await.status, 200, "an entry it does not want");
    }
    let heard = receiver.until(3).await;
    let mut last = 0;
    for ((path, headers, body), owner) in heard.iter().zip(["ann", "bob", "cem"]) {
        let header = |name: &str| headers[name].to_str().unwrap().to_owned();
        let document: Value = serde_json::from_str(body).unwrap();
        assert_eq!((path.as_str(), header("content-type").as_str()), ("/hook", "application/cloudevents+json"));
        assert_eq!((&document["type"], &document["data"]["data"]["owner"]), (&json!("leeway.token.granted"), &json!(owner)));
        let at = Timestamp::from_secs(header("webhook-timestamp").parse().unwrap());
        assert_eq!(header("webhook-signature"), secret.sign(&header("webhook-id"), at, body));
        assert_eq!(document["id"], header("webhook-id"));
        let seq: u64 = document["sequence"].as_str().unwrap().parse().unwrap();
        assert!(seq > last, "{seq} after {last}");
        last = seq;
    }
    let row = until_row(&site, "chat", |row| row["behind"] == 0).await;
    assert_eq!((row["tries"].as_array().unwrap().len(), row["paused"].as_bool()), (3, Some(false)), "{row}");
    assert_eq!(receiver.heard().len(), 3, "each once");
    assert!(row.get("secret").is_none() && !row.to_string().contains("whsec"));
    let again = site.post("/api/v1/webhooks/chat/offer", &json!({ "seq": last }).to_string()).await.json();
    assert_eq!((again["ok"].as_bool(), again["seq"].as_u64()), (Some(true), Some(last)));
    let test = site.post("/api/v1/webhooks/chat/offer", "{}").await.json();
    assert_eq!((test["ok"].as_bool(), test["kind"].as_str()), (Some(true), Some("webhook.test")));
    assert_eq!(site.post("/api/v1/webhooks/chat/offer", r#"{"seq":99999}"#).await.status, 404);
    assert_eq!(site.post("/api/v1/webhooks/chat/remove", r#"{"reason":"enough"}"#).await.status, 204);
    site.bearer_of("dan", Scope::Viewer).await;
    assert_eq!(row_status(&site, "chat").await, 404);
    assert_eq!(receiver.heard().len(), 5, "nobody is asked any more");
}

async fn row_status(site: &Site, name: &str) -> u16 {
    let bearer = site.bearer();
    site.anyone("GET", &format!("/api/v1/webhooks/{name}"), None, &[("authorization", &bearer)]).await.status
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_not_taken_is_offered_again_under_the_same_name_and_no_redirect_is_followed() {
    let site = site(&["127.0.0.1"]).await;
    let (receiver, addr) = Receiver::start(&[503, 307, 410]).await;
    let asked = json!({ "name": "chat", "url": format!("http://{addr}/hook"), "kinds": ["token"] });
    assert_eq!(site.post("/api/v1/webhooks", &asked.to_string()).await.status, 201);
    site.bearer_of("ann", Scope::Viewer).await;
    let row = until_row(&site, "chat", |row| !row["retry_at"].is_null()).await;
    assert!(row["tries"][0]["sentence"].as_str().unwrap().contains("status 503"), "{row}");
    let resume = |body: &'static str| site.post("/api/v1/webhooks/chat/resume", body);
    assert_eq!(resume(r#"{"reason":" "}"#).await.status, 422, "why is asked for");
    assert_eq!(resume(r#"{"reason":"it is back"}"#).await.status, 200);
    until_row(&site, "chat", |row| row["tries"].as_array().is_some_and(|t| t.len() == 2 && !row["retry_at"].is_null())).await;
    assert_eq!(resume(r#"{"reason":"it is back again"}"#).await.status, 200);
    let row = until_row(&site, "chat", |row| row["paused"] == true).await;
    assert!(row["sentence"].as_str().unwrap().contains("gone"), "{row}");
    let log = site.get("/api/v1/events?kind=webhook").await.text();
    assert!(log.contains("webhook.paused") && log.contains("webhook.made") && !log.contains("/hook"), "{log}");
    assert_eq!(resume(r#"{"reason":"a new one stands there"}"#).await.status, 200);
    until_row(&site, "chat", |row| row["behind"] == 0).await;
    let heard = receiver.heard();
    assert_eq!(heard.len(), 4);
    assert!(heard.iter().all(|(path, headers, _)| path == "/hook" && headers["webhook-id"] == heard[0].1["webhook-id"]));
}

#[tokio::test(flavor = "multi_thread")]
async fn no_request_of_a_webhook_goes_inside() {
    let site = site(&[]).await;
    let (receiver, addr) = Receiver::start(&[]).await;
    let port = addr.port();
    for url in [
        format!("http://127.0.0.1:{port}/"),
        format!("https://127.0.0.1:{port}/"),
        format!("https://[::1]:{port}/"),
        "https://169.254.169.254/latest/meta-data".to_owned(),
        format!("http://hooks.example:{port}/"),
        "gopher://hooks.example/".to_owned(),
    ] {
        let refused = site.post("/api/v1/webhooks", &json!({ "name": "in", "url": url }).to_string()).await;
        assert_eq!(refused.status, 422, "{url}: {}", refused.text());
    }
    // A name says nothing until it is looked up, and then its addresses are judged, not the name.
    let made = site.post("/api/v1/webhooks", &json!({ "name": "in", "url": format!("https://localhost:{port}/") }).to_string()).await;
    assert_eq!(made.status, 201, "{}", made.text());
    let tried = site.post("/api/v1/webhooks/in/offer", "{}").await.json();
    assert_eq!(tried["ok"], false);
    assert!(tried["sentence"].as_str().unwrap().contains("not a public address"), "{tried}");
    assert!(receiver.heard().is_empty(), "nothing was sent");
    let operator = site.bearer_of("ann", Scope::Operator).await;
    let body = json!({ "name": "x", "url": "https://hooks.example/" }).to_string();
    assert_eq!(site.anyone("POST", "/api/v1/webhooks", Some(&body), &[("authorization", &operator)]).await.status, 403);
}
