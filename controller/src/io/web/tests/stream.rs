//! The live stream: in order, without gaps, resumable, and only for this site.
use std::net::TcpStream;

use serde_json::Value;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::{self, Message, WebSocket};

use super::site::{PATIENCE, Site};
use crate::access::Scope;

type Socket = WebSocket<TcpStream>;

fn open(site: &Site, query: &str, origin: Option<&str>) -> Result<Socket, u16> {
    let origin = origin.map(|origin| ("origin", origin.to_owned()));
    open_with(site, query, origin)
}

fn open_with(site: &Site, query: &str, header: Option<(&'static str, String)>) -> Result<Socket, u16> {
    let mut request = format!("ws://{}/api/v1/stream{query}", site.addr()).into_client_request().unwrap();
    request.headers_mut().insert("sec-websocket-protocol", "leeway.v1".parse().unwrap());
    if let Some((name, value)) = header {
        request.headers_mut().insert(name, value.parse().unwrap());
    }
    let stream = TcpStream::connect(site.addr()).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    match tungstenite::client(request, stream) {
        Ok((socket, _)) => Ok(socket),
        Err(tungstenite::HandshakeError::Failure(tungstenite::Error::Http(answer))) => Err(answer.status().as_u16()),
        Err(error) => panic!("{error}"),
    }
}

fn next(socket: &mut Socket) -> Value {
    loop {
        if let Message::Text(text) = socket.read().unwrap() {
            return serde_json::from_str(&text).unwrap();
        }
    }
}

/// Off the runtime's threads: the client blocks.
async fn listen<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(work).await.unwrap()
}

async fn make_cohorts(site: &Site, names: std::ops::Range<u32>) {
    for i in names {
        let put = site.put(&format!("/api/v1/cohorts/c{i}"), &format!(r#"{{"line":"rain","selector":"n={i}"}}"#)).await;
        assert_eq!(put.status, 200, "{}", put.text());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn entries_come_in_order_from_the_past_into_the_present() {
    let site = std::sync::Arc::new(Site::start().await);
    make_cohorts(&site, 0..5).await;
    let past = site.get("/api/v1/events?since=0").await.json()["newest_seq"].as_u64().unwrap();
    let opened = site.clone();
    let mut socket = listen(move || open(&opened, "?since=0", None).unwrap()).await;
    let (mut socket, seen) = listen(move || {
        let hello = next(&mut socket);
        assert_eq!((hello["op"].as_str(), hello["seq"].as_u64()), (Some("hello"), Some(past)));
        let seen: Vec<u64> = (0..past).map(|_| next(&mut socket)["seq"].as_u64().unwrap()).collect();
        (socket, seen)
    })
    .await;
    assert_eq!(seen, (1..=past).collect::<Vec<_>>());
    make_cohorts(&site, 5..12).await;
    let more = listen(move || (0..7).map(|_| next(&mut socket)).collect::<Vec<_>>()).await;
    for (i, frame) in more.iter().enumerate() {
        assert_eq!((frame["op"].as_str(), frame["seq"].as_u64()), (Some("event"), Some(past + 1 + i as u64)));
        assert_eq!(frame["event"]["subject"], format!("cohorts/c{}", 5 + i));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listener_resumes_filters_and_is_told_when_the_log_is_another() {
    let site = std::sync::Arc::new(Site::start().await);
    make_cohorts(&site, 0..4).await;
    let newest = site.get("/api/v1/events?since=0").await.json()["newest_seq"].as_u64().unwrap();
    let (resumed, filtered, strange) = (site.clone(), site.clone(), site.clone());
    listen(move || {
        let mut socket = open(&resumed, &format!("?since={}", newest - 1), None).unwrap();
        assert_eq!(next(&mut socket)["op"], "hello");
        assert_eq!(next(&mut socket)["seq"].as_u64(), Some(newest));
    })
    .await;
    listen(move || {
        let mut socket = open(&filtered, "?since=0&topics=cohorts/c2", None).unwrap();
        assert_eq!(next(&mut socket)["op"], "hello");
        assert_eq!(next(&mut socket)["event"]["subject"], "cohorts/c2");
    })
    .await;
    listen(move || {
        let mut socket = open(&strange, "?since=999999", None).unwrap();
        assert_eq!(next(&mut socket)["op"], "hello");
        assert_eq!(next(&mut socket)["op"], "gone");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn other_sites_and_wrong_queries_get_no_stream() {
    let site = std::sync::Arc::new(Site::start().await);
    let here = format!("http://{}", site.addr());
    let tried = site.clone();
    listen(move || {
        assert_eq!(open(&tried, "", Some("http://evil.example")).err(), Some(403));
        assert_eq!(open(&tried, "?since=x", None).err(), Some(400));
        assert!(open(&tried, "", Some(&here)).is_ok());
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listener_hears_nothing_after_its_token_was_revoked() {
    let site = std::sync::Arc::new(Site::start().await);
    let bearer = site.bearer_of("ann", Scope::Viewer).await;
    let opened = site.clone();
    let mut socket = listen(move || open_with(&opened, "", Some(("authorization", bearer))).unwrap()).await;
    let mut socket = listen(move || {
        assert_eq!(next(&mut socket)["op"], "hello");
        socket
    })
    .await;
    make_cohorts(&site, 0..1).await;
    let mut socket = listen(move || {
        assert_eq!(next(&mut socket)["event"]["subject"], "cohorts/c0");
        socket
    })
    .await;
    assert_eq!(site.post("/api/v1/tokens/ann-viewer/revoke", r#"{"reason":"gone"}"#).await.status, 204);
    make_cohorts(&site, 1..2).await;
    // That it was revoked may still be heard; what came after may not.
    let (heard, close) = listen(move || {
        let mut heard = Vec::new();
        loop {
            match socket.read().unwrap() {
                Message::Text(text) => {
                    heard.push(text.to_string());
                    if text.contains("cohorts/c1") {
                        return (heard, None);
                    }
                }
                Message::Close(close) => return (heard, close),
                _ => {}
            }
        }
    })
    .await;
    assert_eq!(close.map(|close| u16::from(close.code)), Some(4401));
    assert!(heard.iter().all(|frame| frame.contains("token.revoked")), "{heard:?}");
}
