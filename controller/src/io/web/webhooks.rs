//! Webhooks: who is told over HTTP of what happens.
use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use serde::Deserialize;
use utoipa::ToSchema;

use super::Web;
use super::error::{Problem, ProblemBody};
use super::extract::Json as Body;
use super::guard::By;
use super::resource::ActionRequest;
use super::resource::webhook::{MadeWebhook, WebhookRow};
use crate::io::webhooks::NewWebhook;
use crate::webhook::Try;

/// What a webhook should be.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct CreateWebhook {
    /// What it is called.
    name: String,
    /// Where it goes: https, and a public address unless the controller was started with an exception.
    url: String,
    /// Beginnings of the kinds of entries it wants, such as `rollout` or `device.alarm`; all if absent.
    #[serde(default)]
    kinds: Vec<String>,
    /// Begin after this entry of the log; with what happens from now on if absent.
    #[serde(default)]
    since: Option<u64>,
}

/// How to go on.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ResumeWebhook {
    /// Why, for the audit trail.
    reason: String,
    /// Leave out the entry that was not taken.
    #[serde(default)]
    skip: bool,
}

/// What to offer.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct OfferEntry {
    /// The entry's number; a test, about which nothing happened, if absent.
    #[serde(default)]
    seq: Option<u64>,
}

/// Webhooks, by name. Their secrets are not shown again.
#[utoipa::path(get, path = "/api/v1/webhooks", tag = "webhooks", operation_id = "listWebhooks", responses((status = 200, body = Vec<WebhookRow>), (status = "4XX", body = ProblemBody, content_type = "application/problem+json")))]
pub(super) async fn list(State(web): State<Web>) -> Result<Json<Vec<WebhookRow>>, Problem> {
    let (webhooks, newest) = web.controller().webhooks()?;
    Ok(Json(webhooks.iter().map(|webhook| WebhookRow::of(webhook, newest)).collect()))
}

/// Make a webhook. Its secret is in the answer and nowhere else.
#[utoipa::path(post, path = "/api/v1/webhooks", tag = "webhooks", operation_id = "createWebhook", request_body = CreateWebhook, responses((status = 201, body = MadeWebhook), (status = "4XX", body = ProblemBody, content_type = "application/problem+json")))]
pub(super) async fn create(
    State(web): State<Web>,
    By(by): By,
    Body(new): Body<CreateWebhook>,
) -> Result<(StatusCode, Json<MadeWebhook>), Problem> {
    let CreateWebhook { name, url, kinds, since } = new;
    let (secret, webhook) = web.controller().create_webhook(NewWebhook { name, url, kinds, since }, &by).await?;
    let row = WebhookRow::of(&webhook, webhook.after);
    Ok((StatusCode::CREATED, Json(MadeWebhook { secret: secret.text().to_owned(), row })))
}

/// One webhook with its latest tries.
#[utoipa::path(get, path = "/api/v1/webhooks/{name}", tag = "webhooks", operation_id = "showWebhook", params(("name" = String, Path, description = "Its name")),
    responses((status = 200, body = WebhookRow), (status = "4XX", body = ProblemBody, content_type = "application/problem+json")))]
pub(super) async fn show(State(web): State<Web>, Path(name): Path<String>) -> Result<Json<WebhookRow>, Problem> {
    let (webhooks, newest) = web.controller().webhooks()?;
    let found = webhooks.iter().find(|webhook| webhook.name == name);
    let shown: String = name.chars().take(80).collect();
    let found =
        found.ok_or_else(|| Problem::NotFound(format!("there is no webhook {shown:?}: `leeway webhook list` shows those that exist")))?;
    Ok(Json(WebhookRow::of(found, newest)))
}

/// End a webhook.
#[utoipa::path(post, path = "/api/v1/webhooks/{name}/remove", tag = "webhooks", operation_id = "removeWebhook", params(("name" = String, Path, description = "Its name")), request_body = ActionRequest,
    responses((status = 204, description = "It is not asked any more"), (status = "4XX", body = ProblemBody, content_type = "application/problem+json")))]
pub(super) async fn remove(
    State(web): State<Web>,
    Path(name): Path<String>,
    By(by): By,
    Body(why): Body<ActionRequest>,
) -> Result<StatusCode, Problem> {
    web.controller().remove_webhook(&name, &why.reason, &by).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Let a webhook that is paused, or waits for its next try, go on at once.
#[utoipa::path(post, path = "/api/v1/webhooks/{name}/resume", tag = "webhooks", operation_id = "resumeWebhook", params(("name" = String, Path, description = "Its name")), request_body = ResumeWebhook,
    responses((status = 200, body = WebhookRow), (status = "4XX", body = ProblemBody, content_type = "application/problem+json")))]
pub(super) async fn resume(
    State(web): State<Web>,
    Path(name): Path<String>,
    By(by): By,
    Body(how): Body<ResumeWebhook>,
) -> Result<Json<WebhookRow>, Problem> {
    let webhook = web.controller().resume_webhook(&name, how.skip, &how.reason, &by).await?;
    let (_, newest) = web.controller().webhooks()?;
    Ok(Json(WebhookRow::of(&webhook, newest)))
}

/// Offer one entry again, or a test: now, once, and whatever becomes of it the webhook's place stays.
#[utoipa::path(post, path = "/api/v1/webhooks/{name}/offer", tag = "webhooks", operation_id = "offerWebhook", params(("name" = String, Path, description = "Its name")), request_body = OfferEntry,
    responses((status = 200, body = Try), (status = "4XX", body = ProblemBody, content_type = "application/problem+json")))]
pub(super) async fn offer(State(web): State<Web>, Path(name): Path<String>, Body(what): Body<OfferEntry>) -> Result<Json<Try>, Problem> {
    Ok(Json(web.controller().offer_webhook(&name, what.seq).await?))
}
