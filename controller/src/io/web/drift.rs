//! Drift and quality of a line.
use axum::Json;
use axum::extract::{Path, State};
use leeway_protocol::ids::{Cohort, Line};
use serde::Deserialize;
use utoipa::IntoParams;

use super::Web;
use super::error::{Problem, ProblemBody};
use super::extract::{Query, name};
use super::resource::drift::{Drift, FeatureDrift, Quality};

/// Where.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub(super) struct Asked {
    /// Only this cohort.
    cohort: Option<String>,
}

impl Asked {
    fn cohort(&self) -> Result<Option<Cohort>, Problem> {
        self.cohort.as_deref().map(name::<Cohort>).transpose()
    }
}

/// Features of a line against its champion's training data, moved ones first.
#[utoipa::path(get, path = "/api/v1/models/{line}/drift", tag = "drift", operation_id = "getDrift", params(("line" = String, Path, description = "The line"), Asked), responses((status = 200, body = Drift), (status = "4XX", body = ProblemBody, content_type = "application/problem+json")))]
pub(super) async fn drift(State(web): State<Web>, Path(line): Path<String>, Query(asked): Query<Asked>) -> Result<Json<Drift>, Problem> {
    Ok(Json(web.drift(&name::<Line>(&line)?, asked.cohort()?.as_ref())?))
}

/// One feature, cohort by cohort, with its bins.
#[utoipa::path(get, path = "/api/v1/models/{line}/drift/{feature}", tag = "drift", operation_id = "getFeatureDrift", params(("line" = String, Path, description = "The line"), ("feature" = String, Path, description = "The feature"), Asked), responses((status = 200, body = Vec<FeatureDrift>), (status = "4XX", body = ProblemBody, content_type = "application/problem+json")))]
pub(super) async fn feature(
    State(web): State<Web>,
    Path((line, feature)): Path<(String, String)>,
    Query(asked): Query<Asked>,
) -> Result<Json<Vec<FeatureDrift>>, Problem> {
    let drift = web.drift(&name::<Line>(&line)?, asked.cohort()?.as_ref())?;
    let names: std::collections::BTreeSet<String> = drift.features.iter().map(|f| f.name.clone()).collect();
    let found: Vec<FeatureDrift> = drift.features.into_iter().filter(|f| f.name == feature).collect();
    if found.is_empty() {
        let feature: String = feature.chars().take(80).collect();
        return Err(Problem::NotFound(format!(
            "line {line} has no feature {feature:?}: it has {}",
            names.into_iter().collect::<Vec<_>>().join(", ")
        )));
    }
    Ok(Json(found))
}

/// Accuracy over time: estimated from confidence, and measured with the labels that arrived.
#[utoipa::path(get, path = "/api/v1/models/{line}/quality", tag = "drift", operation_id = "getQuality", params(("line" = String, Path, description = "The line"), Asked), responses((status = 200, body = Quality), (status = "4XX", body = ProblemBody, content_type = "application/problem+json")))]
pub(super) async fn quality(
    State(web): State<Web>,
    Path(line): Path<String>,
    Query(asked): Query<Asked>,
) -> Result<Json<Quality>, Problem> {
    Ok(Json(web.quality(&name::<Line>(&line)?, asked.cohort()?.as_ref())?))
}
