//! Publishing: blobs first, then the signed metadata that names them. The signature decides, not the token.
use axum::Json;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::HeaderMap;
use futures_util::StreamExt as _;
use leeway_protocol::digest::Digest;
use leeway_protocol::manifest::MAX_MODEL_BYTES;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::Web;
use super::error::{Problem, ProblemBody};
use super::extract::read;
use super::guard::By;
use super::limits::TooSlow;
use super::resource::model::Published;

/// The largest signed document: a line with thousands of releases.
const MAX_ROLE: usize = 4 << 20;

/// A stored blob.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub(super) struct Stored {
    /// Digest of the bytes, `sha256:` and 64 hex digits.
    digest: String,
    /// How many.
    length: u64,
}

/// Upload a model, a manifest or a dataset. `Repr-Digest: sha-256=:…:` is checked if it is given.
#[utoipa::path(post, path = "/api/v1/blobs", tag = "publish", operation_id = "uploadBlob", request_body(content = Vec<u8>, content_type = "application/octet-stream"),
    responses((status = 200, body = Stored), (status = "4XX", body = ProblemBody, content_type = "application/problem+json")))]
pub(super) async fn blob(State(web): State<Web>, _by: By, headers: HeaderMap, body: Body) -> Result<Json<Stored>, Problem> {
    let expected = headers.get("repr-digest").map(|v| announced(v.to_str().unwrap_or_default())).transpose()?;
    let mut upload = web.controller().blobs().begin(expected, MAX_MODEL_BYTES).await?;
    let mut stream = body.into_data_stream();
    while let Some(piece) = stream.next().await {
        let piece = piece.map_err(|error| match TooSlow::is_cause(&error) {
            true => Problem::TooSlow,
            false => Problem::BadRequest("the upload broke off: send it again".to_owned()),
        })?;
        upload.write(&piece).await?;
    }
    let blob = upload.finish().await?;
    Ok(Json(Stored { digest: blob.digest.to_string(), length: blob.length }))
}

/// `sha-256=:base64:` as in RFC 9530, or our own `sha256:hex`.
fn announced(text: &str) -> Result<Digest, Problem> {
    let bad = || Problem::BadRequest("Repr-Digest must be sha256:<64 hex digits> or sha-256=:<base64>:".to_owned());
    if let Ok(digest) = text.trim().parse() {
        return Ok(digest);
    }
    let inner = text.trim().strip_prefix("sha-256=:").and_then(|t| t.strip_suffix(':')).ok_or_else(bad)?;
    base64(inner).and_then(|b| <[u8; 32]>::try_from(b).ok()).map(Digest::from_bytes).ok_or_else(bad)
}

/// Standard base64 with padding, of the one length that is needed here.
fn base64(text: &str) -> Option<Vec<u8>> {
    let value = |c: u8| match c {
        b'A'..=b'Z' => Some(c - b'A'),
        b'a'..=b'z' => Some(c - b'a' + 26),
        b'0'..=b'9' => Some(c - b'0' + 52),
        b'+' => Some(62),
        b'/' => Some(63),
        _ => None,
    };
    let mut out = Vec::with_capacity(text.len() / 4 * 3);
    let (mut bits, mut held) = (0u32, 0u32);
    for c in text.trim_end_matches('=').bytes() {
        bits = (bits << 6) | u32::from(value(c)?);
        held += 6;
        if held >= 8 {
            held -= 8;
            out.push(u8::try_from((bits >> held) & 0xff).ok()?);
        }
    }
    Some(out)
}

/// Upload the signed metadata of a line role. Every new model in it is tried out before anything becomes visible.
#[utoipa::path(post, path = "/api/v1/tuf/roles/{role}", tag = "publish", operation_id = "publishRole", params(("role" = String, Path, description = "`rain`, or `rain-auto` for the trainer")), request_body(content = Vec<u8>, content_type = "application/json"),
    responses((status = 200, body = Published), (status = "4XX", body = ProblemBody, content_type = "application/problem+json")))]
pub(super) async fn role(State(web): State<Web>, Path(role): Path<String>, By(by): By, body: Body) -> Result<Json<Published>, Problem> {
    let bytes = read(body, MAX_ROLE).await?;
    let published = web.controller().upload_role(&role, &bytes, &by).await?;
    let names: Vec<String> = published.versions.iter().map(|v| v.version.to_string()).collect();
    let sentence = match names.len() {
        0 => format!("Role {} was signed anew, without a new version.", published.role),
        _ => format!("{} of {} is published: it loads, and gives its signed golden outputs.", super::words::list(&names), published.line),
    };
    let registered = web.facts(|facts| published.versions.iter().map(|v| facts.version_summary(v, &facts.serving())).collect());
    Ok(Json(Published { registered, sentence }))
}

/// Upload newly signed top-level targets: delegations, grants, revocations.
#[utoipa::path(post, path = "/api/v1/tuf/targets", tag = "publish", operation_id = "publishTargets", request_body(content = Vec<u8>, content_type = "application/json"),
    responses((status = 204, description = "Taken in"), (status = "4XX", body = ProblemBody, content_type = "application/problem+json")))]
pub(super) async fn targets(State(web): State<Web>, By(by): By, body: Body) -> Result<axum::http::StatusCode, Problem> {
    web.controller().upload_targets(&read(body, MAX_ROLE).await?, &by).await?;
    Ok(axum::http::StatusCode::NO_CONTENT)
}

/// Upload a new root of the image repository, or with `director` of the director.
///
/// Where a new image root changes so many targets keys that the served targets would count for nothing, both are uploaded together,
/// as `{"root": TEXT, "targets": TEXT}`.
#[utoipa::path(post, path = "/api/v1/tuf/roots/{repository}", tag = "publish", operation_id = "publishRoot", params(("repository" = String, Path, description = "`image` or `director`")), request_body(content = Vec<u8>, content_type = "application/json"),
    responses((status = 204, description = "Taken in"), (status = "4XX", body = ProblemBody, content_type = "application/problem+json")))]
pub(super) async fn root(
    State(web): State<Web>,
    Path(repository): Path<String>,
    By(by): By,
    body: Body,
) -> Result<axum::http::StatusCode, Problem> {
    let bytes = read(body, MAX_ROLE).await?;
    match repository.as_str() {
        "image" => match together(&bytes) {
            Some(both) => web.controller().upload_root(both.root.as_bytes(), Some(both.targets.as_bytes()), &by).await?,
            None => web.controller().upload_root(&bytes, None, &by).await?,
        },
        "director" => web.controller().upload_director_root(&bytes, &by).await?,
        _ => return Err(Problem::NotFound("there are two repositories: image and director".to_owned())),
    }
    Ok(axum::http::StatusCode::NO_CONTENT)
}

/// A root and targets in one upload, each as the text that was signed.
#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Together {
    root: String,
    targets: String,
}

fn together(bytes: &[u8]) -> Option<Together> {
    serde_json::from_slice(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_root_comes_alone_or_together_with_targets() {
        let both = together(br#"{"root": "{\"signed\": 1}", "targets": "t"}"#).unwrap();
        assert_eq!((both.root.as_str(), both.targets.as_str()), ("{\"signed\": 1}", "t"));
        assert!(together(br#"{"signatures": [], "signed": {}}"#).is_none());
    }

    #[test]
    fn both_spellings_of_a_digest_are_read() {
        let digest = Digest::of(b"leeway");
        assert_eq!(announced(&digest.to_string()), Ok(digest));
        // sha256("") in base64.
        assert_eq!(announced("sha-256=:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=:"), Ok(Digest::of(b"")));
        for bad in ["", "sha-256=:!:", "md5=:abcd:", "sha-256=:47DEQpj8:"] {
            assert!(announced(bad).is_err(), "{bad}");
        }
    }
}
