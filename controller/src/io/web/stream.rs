//! The live stream: the event log over a WebSocket, in order and without gaps, resumed by number.
//!
//! A listener first gets what it missed from the store, then what happens. When it falls behind the live channel it is fed from
//! the store again, so nothing is skipped; one that reads too slowly to keep up is told so and disconnected, and resumes with
//! `since`. What stays true: entries rise by exactly one per frame for an unfiltered stream; no queue grows with a slow reader;
//! who listens by a token hears nothing after its end.
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::extract::State;
use axum::extract::ws::{CloseFrame, Message, WebSocket, WebSocketUpgrade};
use axum::http::HeaderMap;
use axum::response::{IntoResponse as _, Response};
use leeway_protocol::digest::Digest;
use tokio::sync::broadcast::error::RecvError;
use tokio::time::timeout;

use super::Web;
use super::error::Problem;
use super::extract::Query;
use super::guard::{Pass, check_origin};
use super::resource::event::Frame;
use super::view::events::event;
use crate::audit;

/// The version of what is spoken.
const PROTOCOL: &str = "leeway.v1";
/// A bookmark comes at least this often.
const HEARTBEAT: Duration = Duration::from_secs(20);
/// A frame that cannot be handed over in this time means a reader that is too slow.
const SEND_LIMIT: Duration = Duration::from_secs(10);
/// Further behind than this, a listener is better off reading the state anew.
const MAX_BEHIND: u64 = 100_000;
/// Entries read from the store at a time.
const CHUNK: usize = 500;
/// Listeners at one time: each holds a task and a socket.
pub(super) const MAX_CLIENTS: u64 = 1_000;
/// What a listener may send: nothing but closes and pings.
const MAX_MESSAGE: usize = 4 << 10;
/// Close code of a reader that is too slow.
const SLOW: u16 = 4408;
/// Close code of a listener whose token was revoked or is over.
const OVER: u16 = 4401;

/// What a listener asks for.
#[derive(Debug, Default, serde::Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
pub(super) struct Asked {
    /// Start after this entry; without it, with what happens from now on.
    since: Option<u64>,
    /// Only entries about these, such as `rollouts/rain-2,devices/bellevue-07`; bookmarks still come.
    topics: Option<String>,
}

/// Counts listeners while they live.
#[derive(Debug, Default)]
pub(super) struct Clients {
    pub now: AtomicU64,
    pub lagged: AtomicU64,
}

struct Present(Web);

impl Drop for Present {
    fn drop(&mut self) {
        self.0.clients().now.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Open the live stream.
#[utoipa::path(get, path = "/api/v1/stream", tag = "events", operation_id = "stream", params(Asked),
    responses((status = 101, description = "WebSocket, subprotocol `leeway.v1`; one JSON frame per message", body = Frame), (status = "4XX", body = super::error::ProblemBody, content_type = "application/problem+json")))]
pub(super) async fn stream(
    State(web): State<Web>,
    headers: HeaderMap,
    Pass(pass): Pass,
    Query(asked): Query<Asked>,
    upgrade: Result<WebSocketUpgrade, axum::extract::ws::rejection::WebSocketUpgradeRejection>,
) -> Response {
    if let Err(problem) = check_origin(&headers) {
        return problem.into_response();
    }
    let Ok(upgrade) = upgrade else {
        return Problem::BadRequest(
            "this is a WebSocket: connect with ws:// and the subprotocol leeway.v1, or read /api/v1/events".to_owned(),
        )
        .into_response();
    };
    if web.clients().now.fetch_add(1, Ordering::Relaxed) >= MAX_CLIENTS {
        web.clients().now.fetch_sub(1, Ordering::Relaxed);
        return Problem::Unavailable(format!("{MAX_CLIENTS} listeners are connected already: try again later")).into_response();
    }
    let present = Present(web.clone());
    upgrade.protocols([PROTOCOL]).max_message_size(MAX_MESSAGE).max_frame_size(MAX_MESSAGE).on_upgrade(move |socket| async move {
        let _present = present;
        let topics = asked.topics.map(|t| t.split(',').map(|s| s.trim().to_owned()).collect());
        Listener { web, socket, pass, at: 0, topics }.run(asked.since).await;
    })
}

/// Why a listener is gone.
enum End {
    Closed,
    Slow(u64),
    /// Its token counts no more.
    Over,
    Broken,
}

struct Listener {
    web: Web,
    socket: WebSocket,
    /// The token it was let in by.
    pass: Option<Digest>,
    /// Number of the last entry handed over, or passed over by the filter.
    at: u64,
    topics: Option<Vec<String>>,
}

impl Listener {
    async fn run(mut self, since: Option<u64>) {
        let end = self.serve(since).await;
        let close = match end {
            Err(End::Slow(dropped)) => {
                self.web.clients().lagged.fetch_add(1, Ordering::Relaxed);
                let _ = timeout(SEND_LIMIT, self.send(&Frame::Lagged { dropped })).await;
                CloseFrame { code: SLOW, reason: "too slow: resume with since".into() }
            }
            Err(End::Over) => CloseFrame { code: OVER, reason: "the token was revoked or is over".into() },
            _ => return,
        };
        let _ = timeout(SEND_LIMIT, self.socket.send(Message::Close(Some(close)))).await;
    }

    async fn serve(&mut self, since: Option<u64>) -> Result<(), End> {
        // Subscribed before the log is read: an entry may come twice and is then skipped, but none is missed.
        let mut live = self.web.controller().subscribe();
        let newest = self.web.newest().map_err(|_| End::Broken)?;
        self.send(&Frame::Hello { seq: newest, heartbeat_s: HEARTBEAT.as_secs() }).await?;
        self.at = since.unwrap_or(newest);
        if self.at > newest {
            // The listener knows entries that this log does not have: it is another log.
            self.send(&Frame::Gone { oldest_seq: newest + 1 }).await?;
            self.at = newest;
        }
        self.catch_up().await?;
        loop {
            tokio::select! {
                news = live.recv() => match news {
                    Ok(entry) => self.hand_over(&entry).await?,
                    Err(RecvError::Lagged(_)) => self.catch_up().await?,
                    Err(RecvError::Closed) => return Err(End::Closed),
                },
                said = self.socket.recv() => match said {
                    Some(Ok(Message::Close(_))) | None => return Err(End::Closed),
                    Some(Err(_)) => return Err(End::Broken),
                    Some(Ok(_)) => {}
                },
                () = tokio::time::sleep(HEARTBEAT) => self.send(&Frame::Bookmark { seq: self.at }).await?,
            }
        }
    }

    /// Hand over what is stored after the last entry.
    async fn catch_up(&mut self) -> Result<(), End> {
        let newest = self.web.newest().map_err(|_| End::Broken)?;
        if newest.saturating_sub(self.at) > MAX_BEHIND {
            return Err(End::Slow(newest - self.at));
        }
        loop {
            let chunk = self.web.controller().events(self.at, CHUNK).map_err(|_| End::Broken)?;
            if chunk.is_empty() {
                return Ok(());
            }
            for entry in &chunk {
                self.hand_over(entry).await?;
            }
        }
    }

    async fn hand_over(&mut self, entry: &audit::Event) -> Result<(), End> {
        if entry.seq <= self.at {
            return Ok(());
        }
        if entry.seq > self.at + 1 {
            // Committed together with entries that come after it on the channel: read them in order.
            return Box::pin(self.catch_up()).await;
        }
        self.at = entry.seq;
        if self.topics.as_ref().is_some_and(|topics| !topics.contains(&entry.subject)) {
            return Ok(());
        }
        self.send(&Frame::Event { seq: entry.seq, event: event(entry) }).await
    }

    async fn send(&mut self, frame: &Frame) -> Result<(), End> {
        if self.pass.is_some_and(|token| self.web.controller().holder(&token).is_none()) {
            return Err(End::Over);
        }
        let Ok(text) = serde_json::to_string(frame) else { return Err(End::Broken) };
        match timeout(SEND_LIMIT, self.socket.send(Message::Text(text.into()))).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(End::Broken),
            Err(_) => Err(End::Slow(self.web.newest().unwrap_or(self.at).saturating_sub(self.at))),
        }
    }
}
