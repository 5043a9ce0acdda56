//! The fleet at a glance, and cohorts.
use axum::Json;
use axum::extract::{Path, State};
use leeway_protocol::ids::{Cohort, Line, Version};
use serde::Deserialize;
use utoipa::{IntoParams, ToSchema};

use super::Web;
use super::error::{Problem, ProblemBody};
use super::extract::{Json as Body, Query, name};
use super::guard::By;
use super::resource::fleet::{CohortRow, Fleet};
use crate::fleet::preview::Preview;
use crate::fleet::{CohortDoc, Selector};

/// What a cohort is made of.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct PutCohort {
    /// The model line that serves it.
    line: String,
    /// Who belongs to it, such as `region=coast`; empty for every device.
    #[serde(default)]
    selector: String,
    /// Lower ranks are asked first where several match.
    #[serde(default)]
    rank: u32,
    /// What its devices go back to; kept as it is if absent.
    #[serde(default)]
    last_known_good: Option<String>,
}

/// Is anything wrong now, and where.
#[utoipa::path(get, path = "/api/v1/fleet", tag = "fleet", operation_id = "fleet", responses((status = 200, body = Fleet), (status = "4XX", body = ProblemBody, content_type = "application/problem+json")))]
pub(super) async fn fleet(State(web): State<Web>) -> Result<Json<Fleet>, Problem> {
    Ok(Json(web.fleet()?))
}

/// Cohorts and what runs there.
#[utoipa::path(get, path = "/api/v1/cohorts", tag = "fleet", operation_id = "listCohorts", responses((status = 200, body = Vec<CohortRow>), (status = "4XX", body = ProblemBody, content_type = "application/problem+json")))]
pub(super) async fn cohorts(State(web): State<Web>) -> Json<Vec<CohortRow>> {
    Json(web.facts(|facts| facts.cohort_rows()))
}

/// Who a cohort would take, without changing anything.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub(super) struct AskedPreview {
    /// Who belongs to it, such as `region=coast`; empty for every device.
    #[serde(default)]
    selector: String,
    /// The cohort's name; a new one called `preview` if absent.
    #[serde(default)]
    cohort: Option<String>,
    /// Lower ranks are asked first where several match.
    #[serde(default)]
    rank: u32,
}

/// How many devices a selector matches, which for example, and which of them are in other cohorts; nothing is changed.
#[utoipa::path(get, path = "/api/v1/cohort-preview", tag = "fleet", operation_id = "previewCohort", params(AskedPreview), responses((status = 200, body = Preview), (status = "4XX", body = ProblemBody, content_type = "application/problem+json")))]
pub(super) async fn preview(State(web): State<Web>, Query(asked): Query<AskedPreview>) -> Result<Json<Preview>, Problem> {
    let selector = name::<Selector>(&asked.selector)?;
    let cohort = name::<Cohort>(asked.cohort.as_deref().unwrap_or("preview"))?;
    let snapshot = web.controller().snapshot();
    Ok(Json(crate::fleet::preview::preview(&snapshot.fleet, &snapshot.cohorts, &selector, asked.rank, &cohort)))
}

/// Create or change a cohort.
#[utoipa::path(put, path = "/api/v1/cohorts/{cohort}", tag = "fleet", operation_id = "putCohort", params(("cohort" = String, Path, description = "Its name")), request_body = PutCohort,
    responses((status = 200, body = Vec<CohortRow>), (status = "4XX", body = ProblemBody, content_type = "application/problem+json")))]
pub(super) async fn put_cohort(
    State(web): State<Web>,
    Path(cohort): Path<String>,
    By(by): By,
    Body(put): Body<PutCohort>,
) -> Result<Json<Vec<CohortRow>>, Problem> {
    let doc = CohortDoc {
        name: name::<Cohort>(&cohort)?,
        line: name::<Line>(&put.line)?,
        selector: name::<Selector>(&put.selector)?,
        rank: put.rank,
        last_known_good: put.last_known_good.map(|v| name::<Version>(&v)).transpose()?,
        created_at: web.now(),
    };
    web.controller().put_cohort(doc, &by).await?;
    Ok(cohorts(State(web)).await)
}
