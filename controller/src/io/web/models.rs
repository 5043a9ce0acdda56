//! Model lines and versions.
use axum::Json;
use axum::extract::{Path, State};
use leeway_protocol::ids::{Line, Version};
use serde::Deserialize;
use utoipa::ToSchema;

use super::Web;
use super::error::{Problem, ProblemBody};
use super::extract::{Json as Body, name};
use super::guard::By;
use super::resource::ActionRequest;
use super::resource::model::{Lineage, Model, VersionDetail};
use super::resource::training::TrainingJob;
use super::view::training::training_job;
use crate::io::control::LinePolicies;
use crate::registry::{RetrainPolicy, VersionStatus};
use crate::rollout::RolloutPolicy;

/// What a line does unless told otherwise. Absent parts stay as they are.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct PutModel {
    /// What it is for, in a sentence.
    #[serde(default)]
    task: Option<String>,
    /// How its versions are brought out.
    #[serde(default)]
    rollout: Option<RolloutPolicy>,
    /// When a better model is asked for.
    #[serde(default)]
    retrain: Option<RetrainPolicy>,
}

/// What may still be done with a version.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct MarkVersion {
    /// The new status; `poisoned` is the controller's own word.
    status: Mark,
    /// Why, in a sentence.
    reason: String,
}

/// A status a person may give.
#[derive(Debug, Clone, Copy, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum Mark {
    /// May be rolled out.
    Published,
    /// Goes on where it runs; no new rollout.
    Deprecated,
    /// Devices that run it go back.
    Yanked,
}

/// Every model line.
#[utoipa::path(get, path = "/api/v1/models", tag = "models", operation_id = "listModels", responses((status = 200, body = Vec<Model>), (status = "4XX", body = ProblemBody, content_type = "application/problem+json")))]
pub(super) async fn list(State(web): State<Web>) -> Json<Vec<Model>> {
    Json(web.models())
}

/// One model line.
#[utoipa::path(get, path = "/api/v1/models/{line}", tag = "models", operation_id = "getModel", params(("line" = String, Path, description = "The line")), responses((status = 200, body = Model), (status = "4XX", body = ProblemBody, content_type = "application/problem+json")))]
pub(super) async fn show(State(web): State<Web>, Path(line): Path<String>) -> Result<Json<Model>, Problem> {
    Ok(Json(web.model(&name::<Line>(&line)?)?))
}

/// Create a line, or change what it does unless told otherwise.
#[utoipa::path(put, path = "/api/v1/models/{line}", tag = "models", operation_id = "putModel", params(("line" = String, Path, description = "The line")), request_body = PutModel,
    responses((status = 200, body = Model), (status = "4XX", body = ProblemBody, content_type = "application/problem+json")))]
pub(super) async fn put(
    State(web): State<Web>,
    Path(line): Path<String>,
    By(by): By,
    Body(put): Body<PutModel>,
) -> Result<Json<Model>, Problem> {
    let line = name::<Line>(&line)?;
    web.controller().put_line(LinePolicies { line: line.clone(), task: put.task, rollout: put.rollout, retrain: put.retrain }, &by).await?;
    Ok(Json(web.model(&line)?))
}

/// Ask for a better model.
#[utoipa::path(post, path = "/api/v1/models/{line}/retrain", tag = "training", operation_id = "requestRetraining", params(("line" = String, Path, description = "The line")), request_body = ActionRequest,
    responses((status = 200, body = TrainingJob), (status = "4XX", body = ProblemBody, content_type = "application/problem+json")))]
pub(super) async fn retrain(
    State(web): State<Web>,
    Path(line): Path<String>,
    By(by): By,
    Body(why): Body<ActionRequest>,
) -> Result<Json<TrainingJob>, Problem> {
    let job = web.controller().request_retraining(&name::<Line>(&line)?, &why.reason, &by).await?;
    Ok(Json(training_job(&job)))
}

/// One version.
#[utoipa::path(get, path = "/api/v1/models/{line}/versions/{version}", tag = "models", operation_id = "getVersion", params(("line" = String, Path, description = "The line"), ("version" = String, Path, description = "The version")),
    responses((status = 200, body = VersionDetail), (status = "4XX", body = ProblemBody, content_type = "application/problem+json")))]
pub(super) async fn version(State(web): State<Web>, Path((line, version)): Path<(String, String)>) -> Result<Json<VersionDetail>, Problem> {
    Ok(Json(web.version(&name::<Line>(&line)?, &name::<Version>(&version)?).await?))
}

/// What a version was made from, and what was made from it.
#[utoipa::path(get, path = "/api/v1/models/{line}/versions/{version}/lineage", tag = "models", operation_id = "getLineage", params(("line" = String, Path, description = "The line"), ("version" = String, Path, description = "The version")),
    responses((status = 200, body = Lineage), (status = "4XX", body = ProblemBody, content_type = "application/problem+json")))]
pub(super) async fn lineage(State(web): State<Web>, Path((line, version)): Path<(String, String)>) -> Result<Json<Lineage>, Problem> {
    Ok(Json(web.lineage(&name::<Line>(&line)?, &name::<Version>(&version)?)?))
}

/// Deprecate or yank a version, or take that back.
#[utoipa::path(post, path = "/api/v1/models/{line}/versions/{version}/mark", tag = "models", operation_id = "markVersion", params(("line" = String, Path, description = "The line"), ("version" = String, Path, description = "The version")), request_body = MarkVersion,
    responses((status = 200, body = VersionDetail), (status = "4XX", body = ProblemBody, content_type = "application/problem+json")))]
pub(super) async fn mark(
    State(web): State<Web>,
    Path((line, version)): Path<(String, String)>,
    By(by): By,
    Body(mark): Body<MarkVersion>,
) -> Result<Json<VersionDetail>, Problem> {
    let (line, version) = (name::<Line>(&line)?, name::<Version>(&version)?);
    let reason = mark.reason;
    let status = match mark.status {
        Mark::Published => VersionStatus::Published,
        Mark::Deprecated => VersionStatus::Deprecated { reason },
        Mark::Yanked => VersionStatus::Yanked { reason },
    };
    web.controller().mark_version(&line, &version, status, &by).await?;
    Ok(Json(web.version(&line, &version).await?))
}
