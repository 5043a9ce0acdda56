//! Aliases and tags of lines and versions: what people and other tools write, and the history of it.
use axum::Json;
use axum::extract::{Path, State};
use leeway_protocol::ids::{Line, Version};
use serde::Deserialize;
use utoipa::ToSchema;

use super::Web;
use super::error::{Problem, ProblemBody};
use super::extract::{Json as Body, name};
use super::guard::{By, Who};
use super::resource::names::{Aliases, Tagged};
use super::view::names::{aliases, tagged};
use crate::access::Scope;
use crate::io::control::ControlError;
use crate::registry::{AliasName, TagChanges};

/// Where an alias is to point.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct PutAlias {
    /// The version; null takes the alias away.
    version: Option<String>,
    /// Why, in a sentence; it is kept.
    reason: String,
}

/// Tags to set, or with null to remove. Others stay as they are.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ChangeTags {
    /// Values by key.
    tags: TagChanges,
}

/// The aliases of a line, and how they moved: who, when, from where to where, why.
#[utoipa::path(get, path = "/api/v1/models/{line}/aliases", tag = "models", operation_id = "listAliases", params(("line" = String, Path, description = "The line")),
    responses((status = 200, body = Aliases), (status = "4XX", body = ProblemBody, content_type = "application/problem+json")))]
pub(super) async fn list(State(web): State<Web>, Path(line): Path<String>) -> Result<Json<Aliases>, Problem> {
    web.aliases(&name::<Line>(&line)?).map(Json)
}

/// Point an alias to a version. `champion` and `challenger` decide what devices run, so rollouts move them.
#[utoipa::path(put, path = "/api/v1/models/{line}/aliases/{alias}", tag = "models", operation_id = "putAlias", params(("line" = String, Path, description = "The line"), ("alias" = String, Path, description = "The alias")), request_body = PutAlias,
    responses((status = 200, body = Aliases), (status = "4XX", body = ProblemBody, content_type = "application/problem+json")))]
pub(super) async fn put(
    State(web): State<Web>,
    Path((line, alias)): Path<(String, String)>,
    Who(who): Who,
    Body(put): Body<PutAlias>,
) -> Result<Json<Aliases>, Problem> {
    let (line, alias) = (name::<Line>(&line)?, name::<AliasName>(&alias)?);
    let to = put.version.as_deref().map(name::<Version>).transpose()?;
    let who = who.ok_or(Problem::Unauthorized)?;
    let moved = web.controller().point_alias(&line, alias, to, &put.reason, &who).await;
    moved.map_err(|error| match error {
        ControlError::Forbidden(_) => Problem::Scope { who: who.name, has: who.scope, needs: &[Scope::Operator] },
        other => other.into(),
    })?;
    web.aliases(&line).map(Json)
}

/// Change tags of a line.
#[utoipa::path(post, path = "/api/v1/models/{line}/tags", tag = "models", operation_id = "tagModel", params(("line" = String, Path, description = "The line")), request_body = ChangeTags,
    responses((status = 200, body = Tagged), (status = "4XX", body = ProblemBody, content_type = "application/problem+json")))]
pub(super) async fn tag_line(
    State(web): State<Web>,
    Path(line): Path<String>,
    By(by): By,
    Body(change): Body<ChangeTags>,
) -> Result<Json<Tagged>, Problem> {
    let line = name::<Line>(&line)?;
    web.controller().tag(&line, None, &change.tags, &by).await?;
    web.tags(&line, None).map(Json)
}

/// Change tags of a version, or of a candidate that nobody signed yet.
#[utoipa::path(post, path = "/api/v1/models/{line}/versions/{version}/tags", tag = "models", operation_id = "tagVersion", params(("line" = String, Path, description = "The line"), ("version" = String, Path, description = "The version")), request_body = ChangeTags,
    responses((status = 200, body = Tagged), (status = "4XX", body = ProblemBody, content_type = "application/problem+json")))]
pub(super) async fn tag_version(
    State(web): State<Web>,
    Path((line, version)): Path<(String, String)>,
    By(by): By,
    Body(change): Body<ChangeTags>,
) -> Result<Json<Tagged>, Problem> {
    let (line, version) = (name::<Line>(&line)?, name::<Version>(&version)?);
    web.controller().tag(&line, Some(&version), &change.tags, &by).await?;
    web.tags(&line, Some(&version)).map(Json)
}

impl Web {
    fn aliases(&self, line: &Line) -> Result<Aliases, Problem> {
        let snapshot = self.controller().snapshot();
        snapshot.lines.get(line).map(|line| aliases(line)).ok_or_else(|| Problem::missing("model", line))
    }

    fn tags(&self, line: &Line, version: Option<&Version>) -> Result<Tagged, Problem> {
        let snapshot = self.controller().snapshot();
        snapshot.lines.get(line).map(|line| tagged(line, version)).ok_or_else(|| Problem::missing("model", line))
    }
}
