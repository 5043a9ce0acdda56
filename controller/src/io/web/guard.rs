//! Who may ask for what: a bearer token or a signed-in browser, open reading on loopback, nothing on behalf of other sites.
//!
//! What a route asks for stands in [`super::scope`]. Reading is open to a browser on this machine that asks for this machine by
//! name (so a page elsewhere that points its own name at 127.0.0.1 sees nothing, and neither does whoever comes through a proxy);
//! everything else needs a token of the right scope. A browser that changes something must show that the request comes from the
//! dashboard itself. Devices need no token: what they fetch is signed, what they send is signed, enrolment has a token of
//! its own, and with TLS they show their certificates. What stays true: tokens are compared by digest and never logged; the cookie is not the token, and is worth no more
//! than the token is at that moment; a wrong token is refused even where none is needed to look.
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Mutex, PoisonError};

use axum::extract::{ConnectInfo, FromRequestParts, MatchedPath, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, Method, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use leeway_protocol::digest::Digest;
use leeway_protocol::time::Timestamp;
use tokio::sync::OwnedSemaphorePermit;

use super::Web;
use super::error::{PageProblem, Problem};
use super::limits::Asker;
use super::scope::{Need, needed};
use crate::access::allowance::Client;
use crate::access::{Principal, Scope};
use crate::io::tls::peer::Peer;

/// The cookie of a signed-in browser.
pub(super) const COOKIE: &str = "leeway_session";
/// Browsers signed in at one time; the oldest is signed out first.
const MAX_SESSIONS: usize = 1_000;
/// A working day.
const SESSION_MS: i64 = 12 * 3_600_000;

/// Everything a page may load comes from here, and nothing inline runs.
pub(super) const CSP: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; form-action 'self'; frame-ancestors 'none'; base-uri 'none'";

/// Browsers that signed in, by the digest of their cookie, with the digest of the token they showed. Lives in memory: after a
/// restart one signs in again.
#[derive(Debug, Default)]
pub(super) struct Sessions(Mutex<BTreeMap<Digest, (Timestamp, Digest)>>);

impl Sessions {
    /// Remember a browser under a fresh cookie value.
    pub(super) fn begin(&self, token: Digest, cookie: &str, now: Timestamp) {
        let mut sessions = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        sessions.retain(|_, (until, _)| *until > now);
        if sessions.len() >= MAX_SESSIONS {
            let oldest = sessions.iter().min_by_key(|(_, (until, _))| *until).map(|(key, _)| *key);
            oldest.map(|key| sessions.remove(&key));
        }
        sessions.insert(Digest::of(cookie.as_bytes()), (now.plus_millis(SESSION_MS), token));
    }

    /// Forget a browser.
    pub(super) fn end(&self, headers: &HeaderMap) {
        let mut sessions = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for value in cookies(headers) {
            sessions.remove(&Digest::of(value.as_bytes()));
        }
    }

    /// The token it signed in with.
    fn find(&self, headers: &HeaderMap, now: Timestamp) -> Option<Digest> {
        let sessions = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let found = |value: &str| sessions.get(&Digest::of(value.as_bytes())).filter(|(until, _)| *until > now).map(|(_, token)| *token);
        cookies(headers).find_map(found)
    }
}

/// Who asks, for the audit trail. Handlers that change something take it; the guard has put it there.
#[derive(Debug, Clone)]
pub(super) struct By(pub String);

impl<S: Send + Sync> FromRequestParts<S> for By {
    type Rejection = Problem;
    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        parts.extensions.get::<Principal>().map(|who| Self(who.name.clone())).ok_or(Problem::Unauthorized)
    }
}

/// Who asks, or that it is anybody at this machine.
#[derive(Debug, Clone)]
pub(super) struct Who(pub Option<Principal>);

impl<S: Send + Sync> FromRequestParts<S> for Who {
    type Rejection = std::convert::Infallible;
    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Self::Rejection> {
        Ok(Self(parts.extensions.get::<Principal>().cloned()))
    }
}

/// The token by which somebody was let in, by its hash; none for anybody at this machine. For what outlives its request: a
/// token may end meanwhile.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pass(pub Option<Digest>);

impl<S: Send + Sync> FromRequestParts<S> for Pass {
    type Rejection = Problem;
    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        parts.extensions.get::<Self>().copied().ok_or_else(|| Problem::Internal("nobody looked at who asks".to_owned()))
    }
}

/// Refuse what is not allowed or too much, before any handler runs; add the security headers to every answer.
pub(super) async fn guard(State(web): State<Web>, mut request: Request, next: Next) -> Response {
    let page = wants_page(request.uri().path());
    let asked = Asked::of(&request);
    let admitted = check(&web, &asked).and_then(|who| Ok((who, place(&web, &asked)?)));
    let client = asked.client();
    let asks_first = asked.headers.contains_key(header::EXPECT);
    let rest;
    let mut response = match admitted {
        Ok((who, place)) => {
            request.extensions_mut().insert(Asker(client));
            request.extensions_mut().insert(Pass(who.as_ref().map(|(token, _)| *token)));
            if let Some((_, who)) = who {
                request.extensions_mut().insert(who);
            }
            let (parts, body) = request.into_parts();
            let (body, unread) = web.limits().paced(body);
            rest = unread;
            let response = next.run(Request::from_parts(parts, body)).await;
            drop(place);
            response
        }
        Err(problem) => {
            rest = web.limits().paced(request.into_body()).1;
            match problem {
                problem if super::mlflow::is_path(&asked.path) => super::mlflow::problem(problem),
                Problem::Unauthorized if page => super::session::login_form(false),
                problem if page => PageProblem(problem).into_response(),
                problem => problem.into_response(),
            }
        }
    };
    if !rest.thrown_away(asks_first).await {
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
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

/// What of a request decides whether it is let in.
struct Asked {
    method: Method,
    route: Option<String>,
    path: String,
    has_query: bool,
    headers: HeaderMap,
    peer: Option<IpAddr>,
    /// The device whose certificate the connection showed.
    device: Option<Peer>,
}

impl Asked {
    fn of(request: &Request) -> Self {
        Self {
            method: request.method().clone(),
            route: request.extensions().get::<MatchedPath>().map(|route| route.as_str().to_owned()),
            path: request.uri().path().to_owned(),
            has_query: request.uri().query().is_some(),
            headers: request.headers().clone(),
            peer: request.extensions().get::<ConnectInfo<SocketAddr>>().map(|info| info.0.ip()),
            device: request.extensions().get::<Peer>().cloned(),
        }
    }

    fn is_safe(&self) -> bool {
        matches!(self.method, Method::GET | Method::HEAD | Method::OPTIONS)
    }

    fn need(&self) -> Need {
        needed(self.method.as_str(), self.route.as_deref(), &self.path)
    }

    fn client(&self) -> Client {
        self.peer.unwrap_or(IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED)).into()
    }

    /// Enrolling and signing in, by form or by link.
    fn is_door(&self) -> bool {
        self.need() == Need::Nothing && (!self.is_safe() || (self.path == "/login" && self.has_query))
    }
}

/// A place to be worked on; whether the process lives is answered even when all are taken.
fn place(web: &Web, asked: &Asked) -> Result<Option<OwnedSemaphorePermit>, Problem> {
    if matches!(asked.path.as_str(), "/livez" | "/readyz") {
        return Ok(None);
    }
    web.limits().place(asked.is_door()).map(Some)
}

/// Whether a person with a browser is answered here.
pub(super) fn wants_page(path: &str) -> bool {
    !["/api/", "/tuf/", "/blobs/", "/metrics", "/livez", "/readyz", "/version"].iter().any(|p| path.starts_with(p))
}

/// Whose token it is, if there is one, or why this may not be done.
fn check(web: &Web, asked: &Asked) -> Result<Option<(Digest, Principal)>, Problem> {
    let headers = &asked.headers;
    if asked.is_door() {
        // A browser must not be made to sign in as somebody else, nor to enrol anything.
        same_site(headers)?;
        web.limits().door(asked.client(), web.now())?;
    }
    let for_devices = match asked.need() {
        Need::Device => true,
        Need::Released => asked.path.strip_prefix("/blobs/").is_some_and(|hex| web.is_released(hex)),
        Need::Nothing | Need::OneOf(_) => false,
    };
    let scopes: &[Scope] = match asked.need() {
        Need::Nothing => return Ok(None),
        _ if for_devices && is_device(web, asked)? => return Ok(None),
        Need::Device | Need::Released => &[Scope::Viewer],
        Need::OneOf(scopes) => scopes,
    };
    let holder = |token: Digest| web.controller().holder(&token).map(|who| (token, who));
    let by_token = match bearer(headers) {
        Some(token) => match holder(Digest::of(token.as_bytes())) {
            Some(known) => Some(known),
            None => return Err(web.limits().wrong(asked.client(), web.now(), Problem::Unauthorized)),
        },
        None => None,
    };
    if !asked.is_safe() && by_token.is_none() {
        same_site(headers)?;
    }
    let signed_in = || web.sessions().find(headers, web.now()).and_then(holder);
    match by_token.or_else(signed_in) {
        Some((token, who)) if scopes.iter().any(|needed| who.scope.covers(*needed)) => Ok(Some((token, who))),
        Some((_, who)) => Err(Problem::Scope { who: who.name, has: who.scope, needs: scopes }),
        None if for_devices => Err(Problem::Device(
            "this is for devices with a certificate of this fleet, and for who has a token of it: enrol first".to_owned(),
        )),
        None if scopes == [Scope::Viewer] && asked.is_safe() && reads_openly(web, asked) => Ok(None),
        None => Err(Problem::Unauthorized),
    }
}

/// Whether a device may have what devices fetch: with TLS only by a certificate that counts at this moment.
fn is_device(web: &Web, asked: &Asked) -> Result<bool, Problem> {
    match &asked.device {
        _ if !web.controller().asks_for_certificates() => Ok(true),
        Some(peer) => web.controller().check_peer(peer).map(|()| true).map_err(Problem::Device),
        None => Ok(false),
    }
}

/// Whether it is somebody at this machine, asking for this machine. A proxy in front makes everybody look like that, so where
/// there is one, by what it adds or by what the controller was told, nothing is open.
fn reads_openly(web: &Web, asked: &Asked) -> bool {
    const PROXIED: [&str; 4] = ["forwarded", "x-forwarded-for", "x-real-ip", "via"];
    let proxied = web.controller().has_public_url() || PROXIED.iter().any(|name| asked.headers.contains_key(*name));
    !proxied && asked.peer.is_some_and(|ip| ip.is_loopback()) && names_loopback(&asked.headers)
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
        let who = Digest::of(b"token");
        let now = Timestamp::from_secs(1_000_000);
        let with = |value: &str| headers(&[("cookie", &format!("a=b; {COOKIE}={value}"))]);
        sessions.begin(who, "one", now);
        assert_eq!(sessions.find(&with("one"), now), Some(who));
        assert_eq!(sessions.find(&with("two"), now), None);
        assert_eq!(sessions.find(&with("one"), now.plus_millis(SESSION_MS)), None);
        for i in 0..MAX_SESSIONS {
            sessions.begin(who, &format!("more-{i}"), now.plus_millis(1));
        }
        assert_eq!(sessions.find(&with("one"), now), None, "the oldest makes room");
        sessions.end(&with("more-7"));
        assert_eq!(sessions.find(&with("more-7"), now), None);
        assert_eq!(bearer(&headers(&[("authorization", "bearer  x ")])), Some("x"));
    }
}
