//! The style sheet, the script and the icon: part of the binary, so that the dashboard needs no file beside it.
use axum::extract::Path;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use leeway_protocol::digest::Digest;

use super::error::{PageProblem, Problem};

const ASSETS: [(&str, &str, &str); 3] = [
    ("app.css", "text/css; charset=utf-8", include_str!("../../../assets/app.css")),
    ("live.js", "text/javascript; charset=utf-8", include_str!("../../../assets/live.js")),
    ("icon.svg", "image/svg+xml", include_str!("../../../assets/icon.svg")),
];

/// One asset; revalidated with its digest, so that an upgrade of the controller never meets an old script.
pub(super) async fn asset(Path(name): Path<String>, headers: HeaderMap) -> Result<Response, PageProblem> {
    let found = ASSETS.into_iter().find(|(file, _, _)| *file == name);
    let (_, kind, text) = found.ok_or_else(|| Problem::NotFound(format!("this controller has no asset called {name:?}")))?;
    let etag = format!("\"{}\"", Digest::of(text.as_bytes()).short());
    if headers.get(header::IF_NONE_MATCH).is_some_and(|tag| tag.as_bytes() == etag.as_bytes()) {
        return Ok(StatusCode::NOT_MODIFIED.into_response());
    }
    Ok(([(header::CONTENT_TYPE, kind), (header::ETAG, etag.as_str()), (header::CACHE_CONTROL, "no-cache")], text).into_response())
}
