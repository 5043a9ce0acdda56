//! Who may ask for what: a bearer token or a signed-in browser, open reading on loopback, nothing on behalf of other sites.
//!
//! Reading is open to a browser on this machine that asks for this machine by name (so a page elsewhere that points its own
//! name at 127.0.0.1 sees nothing); everything else needs a token. What changes something always needs one, and a browser
//! must show that the request comes from the dashboard itself. Devices need no token: what they fetch is signed, what they
//! send is signed, and enrolment has a token of its own. What stays true: tokens are compared by digest and never logged; the
//! cookie is not the token.
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Mutex, PoisonError};

use axum::extract::{ConnectInfo, FromRequestParts, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, Method, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use leeway_protocol::digest::Digest;
use leeway_protocol::time::Timestamp;

use super::Web;
use super::error::{PageProblem, Problem};
use crate::io::control::{Principal, Scope};

/// The cookie of a signed-in browser.
pub(super) const COOKIE: &str = "leeway_session";
/// Browsers signed in at one time; the oldest is signed out first.
const MAX_SESSIONS: usize = 1_000;
/// A working day.
const SESSION_MS: i64 = 12 * 3_600_000;

/// Everything a page may load comes from here, and nothing inline runs.
const CSP: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; form-action 'self'; frame-ancestors 'none'; base-uri 'none'";

/// Browsers that signed in, by the digest of their cookie. Lives in memory: after a restart one signs in again.
#[derive(Debug, Default)]
pub(super) struct Sessions(Mutex<BTreeMap<Digest, (Timestamp, Principal)>>);

impl Sessions {
    /// Remember a browser under a fresh cookie value.
    pub(super) fn begin(&self, principal: Principal, cookie: &str, now: Timestamp) {
        let mut sessions = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        sessions.retain(|_, (until, _)| *until > now);
        if sessions.len() >= MAX_SESSIONS {
            let oldest = sessions.iter().min_by_key(|(_, (until, _))| *until).map(|(key, _)| *key);
            oldest.map(|key| sessions.remove(&key));
        }
        sessions.insert(Digest::of(cookie.as_bytes()), (now.plus_millis(SESSION_MS), principal));
    }

    /// Forget a browser.
    pub(super) fn end(&self, headers: &HeaderMap) {
        let mut sessions = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        cookies(headers).for_each(|value| drop(sessions.remove(&Digest::of(value.as_bytes()))));
    }

    fn find(&self, headers: &HeaderMap, now: Timestamp) -> Option<Principal> {
        let sessions = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let found = |value: &str| sessions.get(&Digest::of(value.as_bytes())).filter(|(until, _)| *until > now).map(|(_, p)| p.clone());
        cookies(headers).find_map(found)
    }
}

/// Who asks, for the audit trail. Handlers that change something take it; the guard has put it there.
#[derive(Debug, Clone)]
pub(super) struct By(pub String);

impl<S: Send + Sync> FromRequestParts<S> for By {
    type Rejection = Problem;
    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        parts.extensions.get::<Self>().cloned().ok_or(Problem::Unauthorized)
    }
}

/// What a caller may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Allowed {
    Nothing,
    Read,
    Everything,
}

/// Refuse what is not allowed, before any handler runs; add the security headers to every answer.
pub(super) async fn guard(State(web): State<Web>, mut request: Request, next: Next) -> Response {
    let peer = request.extensions().get::<ConnectInfo<SocketAddr>>().map(|info| info.0.ip());
    let page = wants_page(request.uri().path());
    let checked = check(&web, request.method(), request.uri().path(), request.headers(), peer);
    let mut response = match checked {
        Ok(by) => {
            if let Some(name) = by {
                request.extensions_mut().insert(By(name));
            }
            next.run(request).await
        }
        Err(Problem::Unauthorized) if page => super::session::login_form(false),
        Err(problem) if page => PageProblem(problem).into_response(),
        Err(problem) => problem.into_response(),
    };
    let headers = response.headers_mut();
    for (name, value) in [
        (header::CONTENT_SECURITY_POLICY, CSP),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "same-origin"),
        (header::HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
        (header::HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    response
}

/// Whether a person with a browser is answered here.
pub(super) fn wants_page(path: &str) -> bool {
    !["/api/", "/tuf/", "/blobs/", "/metrics", "/livez", "/readyz", "/version"].iter().any(|p| path.starts_with(p))
}

/// The caller's name, if it has one, or why it may not do this.
fn check(web: &Web, method: &Method, path: &str, headers: &HeaderMap, peer: Option<IpAddr>) -> Result<Option<String>, Problem> {
    if is_open(path) || path.strip_prefix("/blobs/").is_some_and(|hex| web.is_released(hex)) {
        return Ok(None);
    }
    let safe = matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS);
    let by_token = bearer(headers).and_then(|token| web.controller().principal(token));
    if !safe && by_token.is_none() {
        same_site(headers)?;
    }
    let who = by_token.or_else(|| web.sessions().find(headers, web.now()));
    let allowed = match &who {
        Some(principal) if principal.scope == Scope::Admin => Allowed::Everything,
        Some(_) => Allowed::Read,
        None if peer.is_some_and(|ip| ip.is_loopback()) && names_loopback(headers) => Allowed::Read,
        None => Allowed::Nothing,
    };
    let needed = if safe { Allowed::Read } else { Allowed::Everything };
    if allowed >= needed { Ok(who.map(|p| p.name)) } else { Err(Problem::Unauthorized) }
}

/// What devices and probes use, the way in, and what the way in looks like.
fn is_open(path: &str) -> bool {
    ["/tuf/", "/assets/", "/problems/"].iter().any(|p| path.starts_with(p))
        || matches!(path, "/api/v1/enrol" | "/login" | "/livez" | "/readyz" | "/version" | "/favicon.ico")
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then_some(token.trim())
}

fn cookies(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    let all = headers.get_all(header::COOKIE).into_iter().filter_map(|v| v.to_str().ok()).flat_map(|v| v.split(';'));
    all.filter_map(|c| c.trim().split_once('=')).filter(|(name, _)| *name == COOKIE).map(|(_, value)| value)
}

/// A browser says where a request comes from; a program without a browser says nothing and has no cookie to steal.
fn same_site(headers: &HeaderMap) -> Result<(), Problem> {
    let text = |name: &str| headers.get(name).and_then(|v| v.to_str().ok());
    match text("sec-fetch-site") {
        Some("same-origin" | "none") => Ok(()),
        Some(other) => Err(Problem::CrossSite(other.to_owned())),
        None => match text("origin") {
            Some(origin) if !origin_is_host(origin, text("host")) => Err(Problem::CrossSite(origin.chars().take(80).collect())),
            _ => Ok(()),
        },
    }
}

fn origin_is_host(origin: &str, host: Option<&str>) -> bool {
    let bare = origin.strip_prefix("http://").or_else(|| origin.strip_prefix("https://"));
    bare.is_some() && bare == host
}

/// For the WebSocket, which browsers open across sites without asking: the origin, if any, must be this host.
pub(super) fn check_origin(headers: &HeaderMap) -> Result<(), Problem> {
    let text = |name: header::HeaderName| headers.get(name).and_then(|v| v.to_str().ok());
    match text(header::ORIGIN) {
        Some(origin) if !origin_is_host(origin, text(header::HOST)) => Err(Problem::CrossSite(origin.chars().take(80).collect())),
        _ => Ok(()),
    }
}

/// Whether the request names this machine as this machine.
fn names_loopback(headers: &HeaderMap) -> bool {
    let Some(host) = headers.get(header::HOST).and_then(|v| v.to_str().ok()) else { return false };
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => host.split(':').next().unwrap_or_default(),
    };
    name == "localhost" || name.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&str, &str)]) -> HeaderMap {
        let pair = |(name, value): &(&str, &str)| (name.parse::<header::HeaderName>().unwrap(), value.parse::<HeaderValue>().unwrap());
        pairs.iter().map(pair).collect()
    }

    #[test]
    fn only_this_machine_by_its_own_name_reads_without_a_token() {
        for good in ["localhost", "localhost:8080", "127.0.0.1:8080", "127.9.9.9", "[::1]:8080"] {
            assert!(names_loopback(&headers(&[("host", good)])), "{good}");
        }
        for bad in ["evil.example", "localhost.evil.example:80", "10.0.0.1", "127.0.0.1.evil.example", ""] {
            assert!(!names_loopback(&headers(&[("host", bad)])), "{bad}");
        }
    }

    #[test]
    fn other_sites_are_told_apart_by_either_header() {
        let table: [(&[(&str, &str)], bool); 7] = [
            (&[], true),
            (&[("sec-fetch-site", "same-origin")], true),
            (&[("sec-fetch-site", "none")], true),
            (&[("sec-fetch-site", "cross-site"), ("origin", "http://h:1"), ("host", "h:1")], false),
            (&[("sec-fetch-site", "same-site")], false),
            (&[("origin", "http://h:1"), ("host", "h:1")], true),
            (&[("origin", "null"), ("host", "h:1")], false),
        ];
        for (pairs, good) in table {
            assert_eq!(same_site(&headers(pairs)).is_ok(), good, "{pairs:?}");
        }
        assert!(check_origin(&headers(&[("origin", "http://evil"), ("host", "h")])).is_err());
    }

    #[test]
    fn a_session_has_an_end_and_a_bound() {
        let sessions = Sessions::default();
        let who = Principal { name: "admin".into(), scope: Scope::Admin };
        let now = Timestamp::from_secs(1_000_000);
        let with = |value: &str| headers(&[("cookie", &format!("a=b; {COOKIE}={value}"))]);
        sessions.begin(who.clone(), "one", now);
        assert_eq!(sessions.find(&with("one"), now), Some(who.clone()));
        assert_eq!(sessions.find(&with("two"), now), None);
        assert_eq!(sessions.find(&with("one"), now.plus_millis(SESSION_MS)), None);
        for i in 0..MAX_SESSIONS {
            sessions.begin(who.clone(), &format!("more-{i}"), now.plus_millis(1));
        }
        assert_eq!(sessions.find(&with("one"), now), None, "the oldest makes room");
        sessions.end(&with("more-7"));
        assert_eq!(sessions.find(&with("more-7"), now), None);
        assert_eq!(bearer(&headers(&[("authorization", "bearer  x ")])), Some("x"));
    }
}
