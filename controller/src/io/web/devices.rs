//! Devices.
use std::collections::BTreeMap;

use axum::Json;
use axum::extract::{Path, State};
use leeway_protocol::ids::{Cohort, DeviceId};
use serde::Deserialize;
use utoipa::{IntoParams, ToSchema};

use super::Web;
use super::error::{Problem, ProblemBody};
use super::extract::{Json as Body, Query, name};
use super::guard::By;
use super::load::{Filter, State as DeviceState};
use super::resource::device::{Device, DeviceSummary, Span};
use super::resource::{ActionRequest, Page};
use crate::fleet::Selector;
use crate::fleet::admission::Decision;

/// Why, if there is something to say.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Remark {
    /// For the audit trail.
    #[serde(default)]
    reason: String,
}

/// Devices on one page unless asked otherwise.
const LIMIT: usize = 50;

/// Which devices.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub(super) struct Asked {
    /// Only this cohort.
    cohort: Option<String>,
    /// Only this state.
    #[param(inline)]
    state: Option<DeviceState>,
    /// Only devices with these labels, such as `region=coast,hw in (a,b)`.
    selector: Option<String>,
    /// Where the page starts, from `next_cursor`.
    cursor: Option<String>,
    /// How many, at most 500.
    limit: Option<usize>,
}

impl Asked {
    /// Parsed.
    pub(super) fn filter(&self) -> Result<Filter, Problem> {
        let selector = self.selector.as_deref().map(name::<Selector>).transpose()?;
        let cohort = self.cohort.as_deref().map(name::<Cohort>).transpose()?;
        let after = self
            .cursor
            .as_deref()
            .map(name::<DeviceId>)
            .transpose()
            .map_err(|_| Problem::BadRequest("the cursor is none that this API gave out: start again without it".to_owned()))?;
        Ok(Filter { cohort, state: self.state, selector, after: after.map(|id| id.to_string()), limit: self.limit.unwrap_or(LIMIT) })
    }

    /// For a page's links.
    pub(super) fn shown(&self) -> (Option<String>, Option<String>) {
        let state = self.state.map(|s| match s {
            DeviceState::Online => "online",
            DeviceState::Offline => "offline",
            DeviceState::Failing => "failing",
        });
        (self.cohort.clone(), state.map(ToOwned::to_owned))
    }
}

/// Labels of a device.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Labels {
    /// All of them; those left out are taken away.
    labels: BTreeMap<String, String>,
}

/// Devices, by name.
#[utoipa::path(get, path = "/api/v1/devices", tag = "devices", operation_id = "listDevices", params(Asked), responses((status = 200, body = Page<DeviceSummary>), (status = "4XX", body = ProblemBody, content_type = "application/problem+json")))]
pub(super) async fn list(State(web): State<Web>, Query(asked): Query<Asked>) -> Result<Json<Page<DeviceSummary>>, Problem> {
    Ok(Json(web.devices(&asked.filter()?)))
}

/// One device.
#[utoipa::path(get, path = "/api/v1/devices/{device}", tag = "devices", operation_id = "getDevice", params(("device" = String, Path, description = "The device")), responses((status = 200, body = Device), (status = "4XX", body = ProblemBody, content_type = "application/problem+json")))]
pub(super) async fn show(State(web): State<Web>, Path(device): Path<String>) -> Result<Json<Device>, Problem> {
    Ok(Json(web.device(&name::<DeviceId>(&device)?)?))
}

/// What a device ran when.
#[utoipa::path(get, path = "/api/v1/devices/{device}/timeline", tag = "devices", operation_id = "getTimeline", params(("device" = String, Path, description = "The device")), responses((status = 200, body = Vec<Span>), (status = "4XX", body = ProblemBody, content_type = "application/problem+json")))]
pub(super) async fn timeline(State(web): State<Web>, Path(device): Path<String>) -> Result<Json<Vec<Span>>, Problem> {
    Ok(Json(web.device(&name::<DeviceId>(&device)?)?.timeline))
}

/// Replace a device's labels; it may move to another cohort by that.
#[utoipa::path(put, path = "/api/v1/devices/{device}/labels", tag = "devices", operation_id = "labelDevice", params(("device" = String, Path, description = "The device")), request_body = Labels,
    responses((status = 200, body = Device), (status = "4XX", body = ProblemBody, content_type = "application/problem+json")))]
pub(super) async fn label(
    State(web): State<Web>,
    Path(device): Path<String>,
    By(by): By,
    Body(labels): Body<Labels>,
) -> Result<Json<Device>, Problem> {
    let device = name::<DeviceId>(&device)?;
    web.controller().label_device(&device, labels.labels, &by).await?;
    Ok(Json(web.device(&device)?))
}

/// Forget a device: its key and its secret count no more.
#[utoipa::path(post, path = "/api/v1/devices/{device}/remove", tag = "devices", operation_id = "removeDevice", params(("device" = String, Path, description = "The device")), request_body = ActionRequest,
    responses((status = 204, description = "It is gone"), (status = "4XX", body = ProblemBody, content_type = "application/problem+json")))]
pub(super) async fn remove(
    State(web): State<Web>,
    Path(device): Path<String>,
    By(by): By,
    Body(why): Body<ActionRequest>,
) -> Result<axum::http::StatusCode, Problem> {
    web.controller().remove_device(&name::<DeviceId>(&device)?, &why.reason, &by).await?;
    Ok(axum::http::StatusCode::NO_CONTENT)
}

/// Let a device in that waits for it, or that was not accepted before.
#[utoipa::path(post, path = "/api/v1/devices/{device}/accept", tag = "devices", operation_id = "acceptDevice", params(("device" = String, Path, description = "The device")), request_body = Remark,
    responses((status = 200, body = Device), (status = "4XX", body = ProblemBody, content_type = "application/problem+json")))]
pub(super) async fn accept(
    State(web): State<Web>,
    Path(device): Path<String>,
    By(by): By,
    Body(why): Body<Remark>,
) -> Result<Json<Device>, Problem> {
    decide(&web, &device, Decision::Accept, &why.reason, &by).await
}

/// Do not let a device in that waits for it.
#[utoipa::path(post, path = "/api/v1/devices/{device}/refuse", tag = "devices", operation_id = "refuseDevice", params(("device" = String, Path, description = "The device")), request_body = ActionRequest,
    responses((status = 200, body = Device), (status = "4XX", body = ProblemBody, content_type = "application/problem+json")))]
pub(super) async fn refuse(
    State(web): State<Web>,
    Path(device): Path<String>,
    By(by): By,
    Body(why): Body<ActionRequest>,
) -> Result<Json<Device>, Problem> {
    decide(&web, &device, Decision::Refuse, &why.reason, &by).await
}

/// Put a device out for good: its key, its secret and its certificates count no more, and its connection ends now.
#[utoipa::path(post, path = "/api/v1/devices/{device}/revoke", tag = "devices", operation_id = "revokeDevice", params(("device" = String, Path, description = "The device")), request_body = ActionRequest,
    responses((status = 200, body = Device), (status = "4XX", body = ProblemBody, content_type = "application/problem+json")))]
pub(super) async fn revoke(
    State(web): State<Web>,
    Path(device): Path<String>,
    By(by): By,
    Body(why): Body<ActionRequest>,
) -> Result<Json<Device>, Problem> {
    decide(&web, &device, Decision::Revoke, &why.reason, &by).await
}

async fn decide(web: &Web, device: &str, decision: Decision, why: &str, by: &str) -> Result<Json<Device>, Problem> {
    let device = name::<DeviceId>(device)?;
    web.controller().decide_on(&device, decision, why, by).await?;
    Ok(Json(web.device(&device)?))
}
