//! How much one client, and all of them together, may ask for at a time.
//!
//! Three bounds. Tries: wrong tokens, and the two doors that open without one (enrolling, signing in), each from a bucket per
//! address. Places: so many requests are worked on at one time, and those without a token have places of their own, so that
//! strangers can only stand in each other's way. Pace: a body must come at a minimum speed. A right token is never refused for
//! the wrong ones that came from the same address: 256 random bits are not guessed, and an attacker behind the same proxy must
//! not be able to lock the operator out. Who is refused before its whole body was read shall still hear why: most clients send
//! all of it before they read, so the rest is taken and thrown away, up to a bound. What stays true: every refusal says how long
//! to wait; a connection whose body was not read to its end is said to close.
use std::error::Error;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::body::{Body, BodyDataStream, HttpBody as _};
use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use futures_util::StreamExt as _;
use leeway_protocol::time::Timestamp;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tokio::time::{Instant, timeout, timeout_at};

use super::error::Problem;
use crate::access::allowance::{Allowance, Client, Rate};

/// Wrong tokens from one address: a person mistypes a few times, a program with an old token is told once in ten seconds.
pub const WRONG_TOKENS: Rate = Rate { burst: 20, refill_ms: 10_000 };
/// Enrolments and sign-ins from one address: a factory line, or thousands of simulated devices on one machine, must pass; each
/// costs a durable commit, and this is what one disk does beside its work.
pub const OPEN_DOORS: Rate = Rate { burst: 2_000, refill_ms: 5 };
/// Requests that are worked on at one time: far more than two cores keep busy, far less than memory holds.
pub const MAX_REQUESTS: usize = 512;
/// The same for requests that come without a token and have a body.
pub const MAX_STRANGERS: usize = 64;
/// A body may take so long before its pace counts.
pub const BODY_GRACE: Duration = Duration::from_secs(15);
/// From then on it must have come at so many bytes a second on average: slower than any line that is of use.
pub const BODY_PACE: u64 = 1 << 10;
/// So much of a body that nobody wants is thrown away before the answer; with more to come, the connection is closed.
const MAX_UNWANTED: usize = 1 << 20;
/// And for so long.
const UNWANTED_LIMIT: Duration = Duration::from_secs(2);
/// Causes of an error that are looked at: a body wraps its error three times.
const MAX_CAUSES: usize = 8;
/// What is said to wait when every place is taken, seconds.
const BUSY_SECS: u64 = 1;

/// The bounds, so that tests can make them small.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// See [`WRONG_TOKENS`].
    pub wrong_tokens: Rate,
    /// See [`OPEN_DOORS`].
    pub open_doors: Rate,
    /// See [`MAX_REQUESTS`].
    pub requests: usize,
    /// See [`MAX_STRANGERS`].
    pub strangers: usize,
    /// See [`BODY_GRACE`].
    pub body_grace: Duration,
    /// See [`BODY_PACE`].
    pub body_pace: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            wrong_tokens: WRONG_TOKENS,
            open_doors: OPEN_DOORS,
            requests: MAX_REQUESTS,
            strangers: MAX_STRANGERS,
            body_grace: BODY_GRACE,
            body_pace: BODY_PACE,
        }
    }
}

/// What is left of them.
#[derive(Debug)]
pub(super) struct Left {
    limits: Limits,
    wrong: Mutex<Allowance>,
    doors: Mutex<Allowance>,
    requests: Arc<Semaphore>,
    strangers: Arc<Semaphore>,
}

impl Left {
    pub(super) fn new(limits: Limits) -> Self {
        Self {
            wrong: Mutex::new(Allowance::new(limits.wrong_tokens)),
            doors: Mutex::new(Allowance::new(limits.open_doors)),
            requests: Arc::new(Semaphore::new(limits.requests)),
            strangers: Arc::new(Semaphore::new(limits.strangers)),
            limits,
        }
    }

    /// A wrong token was shown: the problem to answer with, which is `otherwise` until there were too many.
    pub(super) fn wrong(&self, client: Client, now: Timestamp, otherwise: Problem) -> Problem {
        match self.wrong.lock().unwrap_or_else(PoisonError::into_inner).take(client, now) {
            Ok(()) => otherwise,
            Err(too_many) => {
                if too_many.first {
                    tracing::warn!("{client} shows one wrong token after the other; it is told to wait");
                }
                Problem::TooMany(too_many.wait_secs)
            }
        }
    }

    /// Somebody stands before a door that opens without a token.
    pub(super) fn door(&self, client: Client, now: Timestamp) -> Result<(), Problem> {
        let taken = self.doors.lock().unwrap_or_else(PoisonError::into_inner).take(client, now);
        taken.map_err(|too_many| {
            if too_many.first {
                tracing::warn!("{client} enrols or signs in more often than is allowed; it is told to wait");
            }
            Problem::TooMany(too_many.wait_secs)
        })
    }

    /// A place to be worked on, for as long as the permit is held.
    pub(super) fn place(&self, stranger: bool) -> Result<OwnedSemaphorePermit, Problem> {
        let places = if stranger { &self.strangers } else { &self.requests };
        Arc::clone(places).try_acquire_owned().map_err(|_| Problem::Busy(BUSY_SECS))
    }

    /// The same body, broken off when it comes too slowly; and what its reader leaves of it.
    pub(super) fn paced(&self, body: Body) -> (Body, Rest) {
        let Limits { body_grace, body_pace, .. } = self.limits;
        let begun = Instant::now();
        let (leave, left) = oneshot::channel();
        let begin = Some(Unread { stream: Some(body.into_data_stream()), read: 0, leave: Some(leave) });
        let paced = Body::from_stream(futures_util::stream::unfold(begin, move |unread| async move {
            let mut unread = unread?;
            let earned = Duration::from_millis(unread.read.saturating_mul(1_000) / body_pace.max(1));
            match timeout_at(begun + body_grace + earned, unread.stream.as_mut()?.next()).await {
                Ok(Some(Ok(piece))) => {
                    unread.read = unread.read.saturating_add(piece.len() as u64);
                    Some((Ok(piece), Some(unread)))
                }
                Ok(Some(Err(error))) => {
                    unread.stream = None;
                    Some((Err(axum::BoxError::from(error)), None))
                }
                Ok(None) => {
                    unread.leave = None;
                    None
                }
                Err(_) => {
                    unread.stream = None;
                    Some((Err(axum::BoxError::from(TooSlow)), None))
                }
            }
        }));
        (paced, Rest(left))
    }
}

/// A body while it is read; without a stream, it broke off. Dropped before its end, it leaves the rest.
struct Unread {
    stream: Option<BodyDataStream>,
    read: u64,
    leave: Option<oneshot::Sender<(Option<BodyDataStream>, bool)>>,
}

impl Drop for Unread {
    fn drop(&mut self) {
        if let Some(leave) = self.leave.take() {
            // Nobody may be waiting for it any more.
            let _ = leave.send((self.stream.take(), self.read > 0));
        }
    }
}

/// What will be left of a body, and whether reading it had begun.
pub(super) struct Rest(oneshot::Receiver<(Option<BodyDataStream>, bool)>);

impl Rest {
    /// Throw away what is left, within bounds. Returns whether the connection can take a next request. A client that asked whether
    /// to send the body at all, and was never told to, is not made to.
    pub(super) async fn thrown_away(mut self, asks_first: bool) -> bool {
        let Ok((stream, begun)) = self.0.try_recv() else { return true };
        let Some(mut stream) = stream else { return false };
        if stream.is_end_stream() {
            return true;
        }
        if asks_first && !begun {
            return false;
        }
        let all = async {
            let mut thrown = 0_usize;
            while let Some(piece) = stream.next().await {
                thrown += piece.map_err(|_| ())?.len();
                if thrown > MAX_UNWANTED {
                    return Err(());
                }
            }
            Ok(())
        };
        matches!(timeout(UNWANTED_LIMIT, all).await, Ok(Ok(())))
    }
}

/// The body came too slowly.
#[derive(Debug, Clone, Copy)]
pub(super) struct TooSlow;

impl fmt::Display for TooSlow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the body came too slowly")
    }
}

impl Error for TooSlow {}

impl TooSlow {
    /// Whether that is why reading a body failed.
    pub(super) fn is_cause<'a>(error: &'a (dyn Error + 'static)) -> bool {
        let causes = std::iter::successors(Some(error), |error: &&'a (dyn Error + 'static)| (**error).source());
        causes.take(MAX_CAUSES).any(|error| error.is::<Self>())
    }
}

/// Who asks, for handlers that find out for themselves that a token is wrong. The guard has put it there.
#[derive(Debug, Clone, Copy)]
pub(super) struct Asker(pub Client);

impl<S: Send + Sync> FromRequestParts<S> for Asker {
    type Rejection = Problem;
    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        parts.extensions.get::<Self>().copied().ok_or_else(|| Problem::Internal("nobody looked at who asks".to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(n: u8) -> Client {
        std::net::IpAddr::from([10, 0, 0, n]).into()
    }

    #[test]
    fn wrong_tokens_and_open_doors_are_counted_apart_and_per_client() {
        let rate = Rate { burst: 2, refill_ms: 5_000 };
        let left = Left::new(Limits { wrong_tokens: rate, open_doors: rate, ..Limits::default() });
        let now = Timestamp::from_secs(1_000_000);
        let wrong = |n| left.wrong(client(n), now, Problem::Unauthorized);
        assert_eq!(
            [wrong(1), wrong(1), wrong(1), wrong(2)],
            [Problem::Unauthorized, Problem::Unauthorized, Problem::TooMany(5), Problem::Unauthorized]
        );
        assert_eq!(
            (left.door(client(1), now), left.door(client(1), now), left.door(client(1), now)),
            (Ok(()), Ok(()), Err(Problem::TooMany(5)))
        );
        assert_eq!(left.door(client(1), now.plus_millis(5_000)), Ok(()));
    }

    #[test]
    fn strangers_take_no_place_from_others() {
        let left = Left::new(Limits { requests: 1, strangers: 1, ..Limits::default() });
        let stranger = left.place(true).unwrap();
        assert_eq!(left.place(true).unwrap_err(), Problem::Busy(BUSY_SECS));
        let known = left.place(false).unwrap();
        assert_eq!(left.place(false).unwrap_err(), Problem::Busy(BUSY_SECS));
        drop((stranger, known));
        assert!(left.place(true).is_ok() && left.place(false).is_ok());
    }

    #[tokio::test]
    async fn a_body_may_be_slow_to_begin_but_not_slow_for_ever() {
        let left = Left::new(Limits { body_grace: Duration::from_millis(300), body_pace: 1_000, ..Limits::default() });
        // (bytes per piece, milliseconds before each piece, pieces, whether it comes through)
        let table = [(100_000, 0, 20, true), (1, 20, 1, true), (1, 20, 10_000, false), (1, 600_000, 1, false), (0, 20, 10_000, false)];
        for (size, ms, pieces, good) in table {
            let body = Body::from_stream(futures_util::stream::unfold(0, move |n| async move {
                if n < pieces {
                    tokio::time::sleep(Duration::from_millis(ms)).await;
                }
                (n < pieces).then(|| (Ok::<_, std::io::Error>(vec![0_u8; size]), n + 1))
            }));
            let read = axum::body::to_bytes(left.paced(body).0, usize::MAX).await;
            assert_eq!(read.is_ok(), good, "{size} bytes every {ms} ms, {pieces} times");
            assert!(good || TooSlow::is_cause(&read.unwrap_err()));
        }
    }
}
