//! Rollouts: create (or only plan), look, act.
use axum::Json;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use leeway_protocol::ids::{DeviceId, Line, RolloutId, Version};
use serde::Deserialize;
use utoipa::IntoParams;

use super::Web;
use super::error::{Problem, ProblemBody};
use super::extract::{Json as Body, Query, if_match, name};
use super::guard::By;
use super::resource::rollout::{AppliedRollout, CreateRollout, Rollout, RolloutDevice, RolloutPlan, RolloutSummary};
use super::resource::{ActionRequest, Page};
use super::view::rollouts::Refusal;
use crate::io::control::{Applied, ControlError, LookAhead, NewRollout};
use crate::rollout::verb::Ask;
use crate::rollout::{Action, RolloutPolicy};

/// What `POST /api/v1/rollouts` may be asked besides.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub(super) struct Asked {
    /// Check everything and answer the plan, but change nothing.
    #[serde(default)]
    dry_run: bool,
    /// With `dry_run`: also live through it in a simulation of the fleet, which takes seconds, and answer the forecast.
    #[serde(default)]
    foresee: bool,
    /// With `foresee`: the seed of all chance, 0 if absent.
    #[serde(default)]
    seed: u64,
    /// With `foresee`: runs of each case, at most 2,000; as many as a few seconds allow if absent.
    #[serde(default)]
    runs: Option<u32>,
}

/// Devices in one answer, at most.
const MAX_DEVICES: usize = 1000;

/// Which page of a rollout's devices.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub(super) struct AskedDevices {
    /// `next_cursor` of the page before.
    cursor: Option<String>,
    /// Devices in the answer, at most 1000.
    limit: Option<usize>,
}

/// Every rollout, newest first.
#[utoipa::path(get, path = "/api/v1/rollouts", tag = "rollouts", operation_id = "listRollouts", responses((status = 200, body = Vec<RolloutSummary>), (status = "4XX", body = ProblemBody, content_type = "application/problem+json")))]
pub(super) async fn list(State(web): State<Web>) -> Json<Vec<RolloutSummary>> {
    Json(web.facts(|facts| facts.rollouts()))
}

/// One rollout. Its ETag is the revision that actions can be bound to with `If-Match`.
#[utoipa::path(get, path = "/api/v1/rollouts/{rollout}", tag = "rollouts", operation_id = "getRollout", params(("rollout" = String, Path, description = "The rollout")), responses((status = 200, body = Rollout), (status = "4XX", body = ProblemBody, content_type = "application/problem+json")))]
pub(super) async fn show(State(web): State<Web>, Path(rollout): Path<String>) -> Result<Response, Problem> {
    Ok(answer(StatusCode::OK, web.rollout(&name::<RolloutId>(&rollout)?)?))
}

/// Bring a version out, or with `?dry_run=true` only say what that would mean.
#[utoipa::path(post, path = "/api/v1/rollouts", tag = "rollouts", operation_id = "createRollout", params(Asked), request_body = CreateRollout,
    responses((status = 201, body = Rollout), (status = 200, description = "The plan of a dry run", body = RolloutPlan), (status = "4XX", body = ProblemBody, content_type = "application/problem+json")))]
pub(super) async fn create(
    State(web): State<Web>,
    By(by): By,
    Query(asked): Query<Asked>,
    Body(create): Body<CreateRollout>,
) -> Result<Response, Problem> {
    let new = parse(create)?;
    if asked.dry_run {
        let mut plan = web.plan(&new)?;
        if asked.foresee {
            let how = LookAhead { seed: asked.seed, runs: asked.runs };
            plan.forecast = Some(web.controller().foresee(new, &by, how).await?);
        }
        return Ok(Json(plan).into_response());
    }
    let made = web.controller().create_rollout(new, &by).await?;
    let mut response = answer(StatusCode::CREATED, web.rollout(&made.id)?);
    if let Ok(at) = format!("/api/v1/rollouts/{}", made.id).parse() {
        response.headers_mut().insert(header::LOCATION, at);
    }
    Ok(response)
}

/// Make a rollout say what a file says: create it, change stages it has not reached yet (with `If-Match`), or leave it as it is.
#[utoipa::path(put, path = "/api/v1/rollouts/{rollout}", tag = "rollouts", operation_id = "applyRollout", params(("rollout" = String, Path, description = "The rollout")), request_body = CreateRollout,
    responses((status = 201, description = "Created", body = AppliedRollout), (status = 200, description = "Amended, or the same already", body = AppliedRollout), (status = "4XX", body = ProblemBody, content_type = "application/problem+json")))]
pub(super) async fn apply(
    State(web): State<Web>,
    Path(rollout): Path<String>,
    By(by): By,
    headers: HeaderMap,
    Body(asked): Body<CreateRollout>,
) -> Result<Response, Problem> {
    let id = name::<RolloutId>(&rollout)?;
    if asked.id.as_ref().is_some_and(|named| *named != rollout) {
        return Err(Problem::Invalid(format!("the body names another rollout than the path, which is {rollout}")));
    }
    let known = web.controller().snapshot().rollouts.get(&id).map(|r| r.revision);
    let bound = headers.contains_key(header::IF_MATCH).then_some(known).flatten();
    if let Some(revision) = known {
        if_match(&headers, revision)?;
    }
    let new = NewRollout { id: Some(id), ..parse(asked)? };
    let (did, made) = web.controller().apply_rollout(new, &by, bound).await?;
    let (status, did, sentence) = match did {
        Applied::Created => (StatusCode::CREATED, "created", format!("Rollout {} was created.", made.id)),
        Applied::Amended => (StatusCode::OK, "amended", format!("Rollout {} was changed where it has not been yet.", made.id)),
        Applied::Unchanged => (StatusCode::OK, "unchanged", format!("Rollout {} says the same already.", made.id)),
    };
    let rollout = web.rollout(&made.id)?;
    let etag = format!("\"{}\"", rollout.revision);
    Ok((status, [(header::ETAG, etag)], Json(AppliedRollout { did: did.to_owned(), sentence, rollout })).into_response())
}

/// Every device that has a part in a rollout, with where it stands and what ending the rollout now would mean for it.
#[utoipa::path(get, path = "/api/v1/rollouts/{rollout}/devices", tag = "rollouts", operation_id = "listRolloutDevices", params(("rollout" = String, Path, description = "The rollout"), AskedDevices), responses((status = 200, body = Page<RolloutDevice>), (status = "4XX", body = ProblemBody, content_type = "application/problem+json")))]
pub(super) async fn devices(
    State(web): State<Web>,
    Path(rollout): Path<String>,
    Query(asked): Query<AskedDevices>,
) -> Result<Json<Page<RolloutDevice>>, Problem> {
    let id = name::<RolloutId>(&rollout)?;
    let after = asked.cursor.as_deref().map(name::<DeviceId>).transpose()?;
    let limit = asked.limit.unwrap_or(MAX_DEVICES).clamp(1, MAX_DEVICES);
    let page = web.facts(|facts| facts.rollout_devices(&id, after.as_ref(), limit));
    Ok(Json(page.ok_or_else(|| Problem::missing("rollout", &id))?))
}

/// Pause, resume, promote, promote-all, approve, dismiss, abort or retry. With `If-Match`, only if the rollout has not changed since.
#[utoipa::path(post, path = "/api/v1/rollouts/{rollout}/{action}", tag = "rollouts", operation_id = "actOnRollout", params(("rollout" = String, Path, description = "The rollout"), ("action" = Action, Path, description = "One of its `allowed_actions`")), request_body = ActionRequest,
    responses((status = 200, body = Rollout), (status = "4XX", body = ProblemBody, content_type = "application/problem+json")))]
pub(super) async fn act(
    State(web): State<Web>,
    Path((rollout, action)): Path<(String, String)>,
    By(by): By,
    headers: HeaderMap,
    Body(why): Body<ActionRequest>,
) -> Result<Response, Problem> {
    let id = web.act(&rollout, &action, (&why.reason, why.check), &by, &headers).await?;
    Ok(answer(StatusCode::OK, web.rollout(&id)?))
}

impl From<Refusal> for Problem {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Missing(detail) => Self::NotFound(detail),
            Refusal::Invalid(detail) => Self::Invalid(detail),
        }
    }
}

impl Web {
    /// What a rollout would do.
    fn plan(&self, new: &NewRollout) -> Result<RolloutPlan, Problem> {
        Ok(self.facts(|facts| facts.plan(new))?)
    }

    /// Carry out an action; shared with the forms of the page.
    pub(super) async fn act(
        &self,
        rollout: &str,
        action: &str,
        (why, check): (&str, Option<String>),
        by: &str,
        headers: &HeaderMap,
    ) -> Result<RolloutId, Problem> {
        let id = name::<RolloutId>(rollout)?;
        let action = action_of(action)?;
        let revision =
            self.controller().snapshot().rollouts.get(&id).map(|r| r.revision).ok_or_else(|| Problem::missing("rollout", &id))?;
        if_match(headers, revision)?;
        let bound = headers.contains_key(header::IF_MATCH).then_some(revision);
        let ask = Ask { action, reason: why.to_owned(), by, revision: bound, check };
        let done = self.controller().act(&id, ask).await;
        done.map_err(|error| match error {
            // Everything that can stand against an action is the state the rollout is in.
            ControlError::Conflict(detail) => Problem::IllegalTransition(detail),
            other => other.into(),
        })?;
        Ok(id)
    }
}

fn answer(status: StatusCode, rollout: Rollout) -> Response {
    let etag = format!("\"{}\"", rollout.revision);
    (status, [(header::ETAG, etag)], Json(rollout)).into_response()
}

fn action_of(text: &str) -> Result<Action, Problem> {
    let found = Action::ALL.into_iter().find(|a| a.as_str() == text);
    found.ok_or_else(|| {
        Problem::NotFound(format!(
            "there is no action {:?}: use one of {}",
            text.chars().take(40).collect::<String>(),
            Action::ALL.map(Action::as_str).join(", ")
        ))
    })
}

fn parse(create: CreateRollout) -> Result<NewRollout, Problem> {
    let policy = create.policy.map(serde_json::from_value::<RolloutPolicy>).transpose();
    let policy = policy.map_err(|e| Problem::BadRequest(format!("the policy cannot be read: {e}")))?;
    if create.force && create.reason.trim().is_empty() {
        return Err(Problem::Invalid("a reason is needed to begin a rollout against its own risk budget".to_owned()));
    }
    let reason = if create.reason.trim().is_empty() {
        format!("Version {} of {} was asked for.", create.version, create.line)
    } else {
        create.reason
    };
    Ok(NewRollout {
        id: create.id.map(|id| name::<RolloutId>(&id)).transpose()?,
        line: name::<Line>(&create.line)?,
        version: name::<Version>(&create.version)?,
        policy,
        reason,
        force: create.force,
    })
}
