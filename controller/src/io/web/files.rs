//! What devices fetch: signed metadata, and blobs by digest with resumable ranges.
use axum::body::{Body, Bytes};
use axum::extract::{Path, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use leeway_protocol::digest::Digest;

use super::Web;
use super::error::Problem;
use super::range::{Wanted, wanted};
use crate::io::artifacts::{BlobError, Blobs, Content};

/// What is read from the disk at a time for a blob that is not in memory.
const PIECE: u64 = 256 << 10;

impl From<BlobError> for Problem {
    fn from(error: BlobError) -> Self {
        match error {
            BlobError::Digest { .. } => Self::Refused(error.to_string()),
            BlobError::TooLarge(most) => Self::TooLarge(most),
            BlobError::Io { .. } | BlobError::Full(_) | BlobError::Rotten(_) | BlobError::Busy => Self::Unavailable(error.to_string()),
        }
    }
}

/// A file of the image repository, such as `2.root.json` or `timestamp.json`. 404 means there is none.
#[utoipa::path(get, path = "/tuf/{file}", tag = "devices", operation_id = "tufFile", params(("file" = String, Path, description = "TUF metadata file")),
    responses((status = 200, description = "The exact signed bytes", content_type = "application/json"), (status = 404, body = super::error::ProblemBody, content_type = "application/problem+json")))]
pub(super) async fn tuf(State(web): State<Web>, Path(file): Path<String>, headers: HeaderMap) -> Result<Response, Problem> {
    metadata(&web, &file, &headers)
}

/// A root of the director, such as `1.root.json`. 404 means there is none.
#[utoipa::path(get, path = "/tuf/director/{file}", tag = "devices", operation_id = "directorFile", params(("file" = String, Path, description = "TUF metadata file")),
    responses((status = 200, description = "The exact signed bytes", content_type = "application/json"), (status = 404, body = super::error::ProblemBody, content_type = "application/problem+json")))]
pub(super) async fn director(State(web): State<Web>, Path(file): Path<String>, headers: HeaderMap) -> Result<Response, Problem> {
    metadata(&web, &format!("director/{file}"), &headers)
}

fn metadata(web: &Web, file: &str, headers: &HeaderMap) -> Result<Response, Problem> {
    let missing = || Problem::NotFound(format!("the repository has no file {:?}", file.chars().take(80).collect::<String>()));
    let bytes = web.controller().tuf_file(file).ok_or_else(missing)?;
    let etag = format!("\"{}\"", Digest::of(&bytes));
    if wanted(headers, &etag, bytes.len() as u64) == Wanted::NotModified {
        return Ok((StatusCode::NOT_MODIFIED, [(header::ETAG, etag)]).into_response());
    }
    Ok((
        [(header::CONTENT_TYPE, "application/json".to_owned()), (header::ETAG, etag), (header::CACHE_CONTROL, "no-cache".to_owned())],
        bytes,
    )
        .into_response())
}

/// A model, a manifest or a dataset by the digest of its bytes. One range may be asked for; `If-Range` is honoured.
#[utoipa::path(get, path = "/blobs/{digest}", tag = "devices", operation_id = "blob", params(("digest" = String, Path, description = "64 hex digits of the SHA-256")),
    responses((status = 200, description = "The bytes", content_type = "application/octet-stream"), (status = 206, description = "A part of them", content_type = "application/octet-stream"),
        (status = 304, description = "The caller has them"), (status = 404, body = super::error::ProblemBody, content_type = "application/problem+json"), (status = 416, body = super::error::ProblemBody, content_type = "application/problem+json")))]
pub(super) async fn blob(State(web): State<Web>, method: Method, Path(hex): Path<String>, headers: HeaderMap) -> Result<Response, Problem> {
    let digest = Digest::from_hex(&hex)
        .map_err(|_| Problem::BadRequest("a blob is named by the 64 lower-case hex digits of its SHA-256".to_owned()))?;
    let blobs = web.controller().blobs().clone();
    let content =
        blobs.content(digest).await?.ok_or_else(|| Problem::NotFound(format!("there is no blob {digest}: it was never uploaded here")))?;
    let (length, etag) = (content.length(), format!("\"{digest}\""));
    let range = wanted(&headers, &etag, length);
    let (status, first, size) = match range {
        Wanted::NotModified => return Ok((StatusCode::NOT_MODIFIED, [(header::ETAG, etag)]).into_response()),
        Wanted::Nothing => return Err(Problem::Range(length)),
        Wanted::Whole => (StatusCode::OK, 0, length),
        Wanted::Part(first, last) => (StatusCode::PARTIAL_CONTENT, first, last - first + 1),
    };
    let body = if method == Method::HEAD { Body::empty() } else { body(blobs, digest, content, first, size) };
    let mut response = (status, body).into_response();
    let out = response.headers_mut();
    let mut put = |name: header::HeaderName, value: String| HeaderValue::from_str(&value).map(|value| drop(out.insert(name, value)));
    let _ = put(header::CONTENT_TYPE, "application/octet-stream".to_owned());
    let _ = put(header::CONTENT_LENGTH, size.to_string());
    let _ = put(header::ACCEPT_RANGES, "bytes".to_owned());
    // A name that is a digest never gets other bytes.
    let _ = put(header::CACHE_CONTROL, "public, max-age=31536000, immutable".to_owned());
    let _ = put(header::ETAG, etag);
    if status == StatusCode::PARTIAL_CONTENT {
        let _ = put(header::CONTENT_RANGE, format!("bytes {first}-{}/{length}", first + size - 1));
    }
    Ok(response)
}

fn body(blobs: Blobs, digest: Digest, content: Content, first: u64, size: u64) -> Body {
    match content {
        Content::Memory(bytes) => {
            let start = usize::try_from(first).unwrap_or(usize::MAX).min(bytes.len());
            let end = start.saturating_add(usize::try_from(size).unwrap_or(usize::MAX)).min(bytes.len());
            Body::from(bytes.slice(start..end))
        }
        Content::Disk { .. } => Body::from_stream(futures_util::stream::unfold((first, size), move |(at, left)| {
            let blobs = blobs.clone();
            async move {
                let piece = left.min(PIECE);
                if piece == 0 {
                    return None;
                }
                let read: Result<Bytes, BlobError> = blobs.read(digest, at, usize::try_from(piece).unwrap_or(0)).await;
                // After an error the connection is cut, and the device resumes.
                let next = if read.is_ok() { (at + piece, left - piece) } else { (at, 0) };
                Some((read, next))
            }
        })),
    }
}
