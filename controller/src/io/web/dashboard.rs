//! The dashboard's routes: each reads what the API reads and renders it. Forms post here and lead back to the page.
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use leeway_protocol::ids::{Cohort, DeviceId, Line, RolloutId, Version};
use maud::Markup;
use serde::Deserialize;

use super::error::{KINDS, PageProblem, Problem};
use super::extract::{Query, name, read};
use super::guard::By;
use super::pages::devices::{Asked as AskedDevices, device_page, devices_page};
use super::pages::drift::{drift_page, no_drift_page};
use super::pages::episodes::{episode_page, episodes_page};
use super::pages::events::events_page;
use super::pages::fleet::fleet_page;
use super::pages::models::{model_page, models_page, version_page};
use super::pages::rollout::{rollout_page, rollouts_page};
use super::pages::session::problem_page;
use super::session::form_uri;
use super::{Web, devices, events};

/// The longest form.
const MAX_FORM: usize = 8 << 10;

type Shown = Result<Markup, PageProblem>;

/// `/`
pub(super) async fn fleet(State(web): State<Web>) -> Shown {
    Ok(fleet_page(web.now(), web.newest()?, &web.fleet()?))
}

/// `/models`
pub(super) async fn models(State(web): State<Web>) -> Shown {
    Ok(models_page(web.now(), web.newest()?, &web.models(), &web.facts(|facts| facts.jobs())))
}

/// `/models/{line}`
pub(super) async fn model(State(web): State<Web>, Path(line): Path<String>) -> Shown {
    let mut jobs = web.facts(|facts| facts.jobs());
    jobs.retain(|j| j.line == line);
    Ok(model_page(web.now(), web.newest()?, &web.model(&name::<Line>(&line)?)?, &jobs))
}

/// `/models/{line}/versions/{version}`
pub(super) async fn version(State(web): State<Web>, Path((line, version)): Path<(String, String)>) -> Shown {
    let detail = web.version(&name::<Line>(&line)?, &name::<Version>(&version)?).await?;
    Ok(version_page(web.now(), web.newest()?, &detail))
}

/// `/rollouts`
pub(super) async fn rollouts(State(web): State<Web>) -> Shown {
    Ok(rollouts_page(web.now(), web.newest()?, &web.facts(|facts| facts.rollouts())))
}

/// `/rollouts/{rollout}`
pub(super) async fn rollout(State(web): State<Web>, Path(rollout): Path<String>) -> Shown {
    Ok(rollout_page(web.now(), web.newest()?, &web.rollout(&name::<RolloutId>(&rollout)?)?))
}

/// A form's reason, and which check it is about.
#[derive(Debug, Deserialize)]
struct Reason {
    reason: String,
    #[serde(default)]
    check: Option<String>,
}

/// `POST /rollouts/{rollout}/{action}`
pub(super) async fn act(
    State(web): State<Web>,
    Path((rollout, action)): Path<(String, String)>,
    By(by): By,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, PageProblem> {
    let form = read(body, MAX_FORM).await?;
    let why = axum::extract::Query::<Reason>::try_from_uri(&form_uri(&form)?)
        .map_err(|e| Problem::BadRequest(format!("the form cannot be read: {e}")))?;
    let id = web.act(&rollout, &action, (&why.0.reason, why.0.check), &by, &headers).await?;
    Ok((StatusCode::SEE_OTHER, [(header::LOCATION, format!("/rollouts/{id}"))]).into_response())
}

/// Which line and cohort.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct AskedDrift {
    line: Option<String>,
    cohort: Option<String>,
}

/// `/drift`
pub(super) async fn drift(State(web): State<Web>, Query(asked): Query<AskedDrift>) -> Shown {
    let lines = web.lines();
    let seq = web.newest()?;
    let Some(line) = asked.line.or_else(|| lines.first().cloned()) else { return Ok(no_drift_page(seq)) };
    let line = name::<Line>(&line)?;
    let cohort = asked.cohort.as_deref().map(name::<Cohort>).transpose()?;
    let has_version = web.controller().snapshot().versions.keys().any(|(l, _)| *l == line);
    if !has_version && lines.iter().any(|l| l == line.as_str()) {
        return Ok(no_drift_page(seq));
    }
    let (drift, quality) = (web.drift(&line, cohort.as_ref())?, web.quality(&line, cohort.as_ref())?);
    Ok(drift_page(web.now(), seq, &lines, &drift, &quality))
}

/// `/episodes`
pub(super) async fn list_episodes(State(web): State<Web>) -> Shown {
    Ok(episodes_page(web.now(), web.newest()?, &web.facts(|facts| facts.episodes())))
}

/// `/episodes/{episode}`
pub(super) async fn episode(State(web): State<Web>, Path(episode): Path<String>) -> Shown {
    Ok(episode_page(web.now(), web.newest()?, &web.episode(&episode)?))
}

/// `/devices`
pub(super) async fn list_devices(State(web): State<Web>, Query(asked): Query<devices::Asked>) -> Shown {
    let (cohort, state) = asked.shown();
    let page = web.devices(&asked.filter()?);
    Ok(devices_page(web.now(), web.newest()?, &AskedDevices { cohort, state, cohorts: web.cohort_names() }, &page))
}

/// `/devices/{device}`
pub(super) async fn device(State(web): State<Web>, Path(device): Path<String>) -> Shown {
    Ok(device_page(web.now(), web.newest()?, &web.device(&name::<DeviceId>(&device)?)?))
}

/// `/events`
pub(super) async fn list_events(State(web): State<Web>, Query(asked): Query<events::Asked>) -> Shown {
    let mut list = web.log(&asked.wanted())?;
    list.items.reverse();
    Ok(events_page(web.now(), &list, asked.kind()))
}

/// `/problems/{kind}`: what a kind of error means.
pub(super) async fn problem(Path(slug): Path<String>) -> Shown {
    let found = KINDS.into_iter().find(|k| k.slug == slug);
    let kind = found.ok_or_else(|| Problem::NotFound("there is no such kind of problem".to_owned()))?;
    Ok(problem_page(kind.title, kind.meaning))
}

/// Every other path.
pub(super) async fn missing(uri: axum::http::Uri) -> Response {
    let path: String = uri.path().chars().take(120).collect();
    if !super::guard::wants_page(&path) {
        return Problem::NotFound(format!("there is nothing at {path}: /api/openapi.json lists what there is")).into_response();
    }
    PageProblem(Problem::NotFound(format!("There is no page at {path}."))).into_response()
}
