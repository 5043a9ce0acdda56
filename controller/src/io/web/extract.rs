//! What comes in, parsed once: bodies, queries and names, each refused with a problem that names the thing.
use std::str::FromStr;

use axum::body::{Body, Bytes, to_bytes};
use axum::extract::{FromRequest, FromRequestParts, Request};
use axum::http::request::Parts;
use axum::http::{HeaderMap, header};
use serde::de::DeserializeOwned;

use super::error::Problem;
use super::limits::TooSlow;

/// The largest JSON body: a rollout policy with every stage has some 20 KB.
const MAX_JSON: usize = 256 << 10;
/// The largest JSON body of somebody without a token: an enrolment with every label has some 5 KB.
const MAX_SMALL_JSON: usize = 16 << 10;

/// A JSON body. Unknown fields are refused where the type says so.
pub(super) struct Json<T>(pub T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Json<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, _: &S) -> Result<Self, Problem> {
        json(request, MAX_JSON).await.map(Self)
    }
}

/// The same from anybody.
pub(super) struct SmallJson<T>(pub T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for SmallJson<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, _: &S) -> Result<Self, Problem> {
        json(request, MAX_SMALL_JSON).await.map(Self)
    }
}

async fn json<T: DeserializeOwned>(request: Request, max: usize) -> Result<T, Problem> {
    let kind = request.headers().get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default();
    if !kind.split(';').next().is_some_and(|k| k.trim().eq_ignore_ascii_case("application/json")) {
        return Err(Problem::MediaType("send the body as application/json".to_owned()));
    }
    let bytes = read(request.into_body(), max).await?;
    serde_json::from_slice(&bytes).map_err(|e| Problem::BadRequest(format!("the body cannot be read: {e}")))
}

/// A whole body of at most `max` bytes.
pub(super) async fn read(body: Body, max: usize) -> Result<Bytes, Problem> {
    to_bytes(body, max).await.map_err(|error| if TooSlow::is_cause(&error) { Problem::TooSlow } else { Problem::TooLarge(max as u64) })
}

/// A query. Unknown parameters are refused where the type says so.
pub(super) struct Query<T>(pub T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Query<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        let parsed = axum::extract::Query::<T>::try_from_uri(&parts.uri);
        parsed.map(|q| Self(q.0)).map_err(|e| Problem::BadRequest(format!("the query cannot be read: {}", cause(&e))))
    }
}

/// A name out of a path or a body.
pub(super) fn name<T: FromStr<Err: std::fmt::Display>>(text: &str) -> Result<T, Problem> {
    text.parse().map_err(|e| Problem::BadRequest(format!("{e}")))
}

/// A precondition: `If-Match` must name the revision, if it is given.
pub(super) fn if_match(headers: &HeaderMap, revision: u64) -> Result<(), Problem> {
    let Some(wanted) = headers.get(header::IF_MATCH).and_then(|v| v.to_str().ok()) else { return Ok(()) };
    let current = format!("\"{revision}\"");
    if wanted.trim() == "*" || wanted.split(',').any(|tag| tag.trim() == current) {
        return Ok(());
    }
    Err(Problem::Stale(format!("it has changed since: you decided on revision {}, it is at {current}; look again", wanted.trim())))
}

/// The innermost cause: the outer ones only say that something failed.
fn cause(error: &dyn std::error::Error) -> String {
    let mut inner = error;
    while let Some(next) = inner.source() {
        inner = next;
    }
    inner.to_string()
}
