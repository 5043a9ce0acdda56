//! What came with a version for other people's tools, byte for byte as it was signed, and its bill of materials.
use axum::extract::{Path, State};
use axum::http::header;
use axum::response::{IntoResponse as _, Response};
use leeway_protocol::ids::{Line, Version};

use super::Web;
use super::error::{Problem, ProblemBody};
use super::extract::name;
use crate::io::control::Attached;
use crate::supply::bom;

/// What DSSE registers for an envelope with an in-toto statement.
const ENVELOPE: &str = "application/vnd.in-toto.provenance+dsse";
/// What sigstore registers for a bundle.
const BUNDLE: &str = "application/vnd.dev.sigstore.bundle.v0.3+json";

/// SLSA provenance of a version, as an in-toto statement in a DSSE envelope, signed by the key that released it.
#[utoipa::path(get, path = "/api/v1/models/{line}/versions/{version}/provenance", tag = "models", operation_id = "getProvenance", params(("line" = String, Path, description = "The line"), ("version" = String, Path, description = "The version")),
    responses((status = 200, body = Object, content_type = "application/vnd.in-toto.provenance+dsse"), (status = "4XX", body = ProblemBody, content_type = "application/problem+json")))]
pub(super) async fn provenance(State(web): State<Web>, Path(of): Path<(String, String)>) -> Result<Response, Problem> {
    attached(&web, of, Attached::Provenance, ENVELOPE).await
}

/// The OpenSSF Model Signing bundle that came with a version.
#[utoipa::path(get, path = "/api/v1/models/{line}/versions/{version}/bundle", tag = "models", operation_id = "getBundle", params(("line" = String, Path, description = "The line"), ("version" = String, Path, description = "The version")),
    responses((status = 200, body = Object, content_type = "application/vnd.dev.sigstore.bundle.v0.3+json"), (status = "4XX", body = ProblemBody, content_type = "application/problem+json")))]
pub(super) async fn bundle(State(web): State<Web>, Path(of): Path<(String, String)>) -> Result<Response, Problem> {
    attached(&web, of, Attached::Bundle, BUNDLE).await
}

/// The bill of materials of a version: CycloneDX 1.6, the same bytes each time.
#[utoipa::path(get, path = "/api/v1/models/{line}/versions/{version}/bom", tag = "models", operation_id = "getBillOfMaterials", params(("line" = String, Path, description = "The line"), ("version" = String, Path, description = "The version")),
    responses((status = 200, body = Object, content_type = "application/vnd.cyclonedx+json"), (status = "4XX", body = ProblemBody, content_type = "application/problem+json")))]
pub(super) async fn bom(State(web): State<Web>, Path((line, version)): Path<(String, String)>) -> Result<Response, Problem> {
    let document = web.controller().bill_of_materials(&name::<Line>(&line)?, &name::<Version>(&version)?).await?;
    let text = serde_json::to_string_pretty(&document).map_err(|e| Problem::Internal(e.to_string()))?;
    Ok(([(header::CONTENT_TYPE, bom::MEDIA_TYPE)], text + "\n").into_response())
}

async fn attached(web: &Web, (line, version): (String, String), which: Attached, kind: &'static str) -> Result<Response, Problem> {
    let bytes = web.controller().attached(&name::<Line>(&line)?, &name::<Version>(&version)?, which).await?;
    Ok(([(header::CONTENT_TYPE, kind)], bytes).into_response())
}
