//! Tokens of people and programs, and who one is.
use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use serde::Deserialize;
use utoipa::ToSchema;

use super::Web;
use super::error::{Problem, ProblemBody};
use super::extract::Json as Body;
use super::guard::{By, Who};
use super::resource::ActionRequest;
use super::resource::token::{IssuedToken, TokenRow, WhoAmI};
use crate::access::Scope;
use crate::io::control::NewAccessToken;

/// What a token should be.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct CreateToken {
    /// What it is called.
    name: String,
    /// Whom it stands for: the actor in the audit trail. The token's own name if absent.
    #[serde(default)]
    owner: Option<String>,
    /// What it may do.
    scope: Scope,
    /// How long it is good, milliseconds; at most 366 days.
    ttl_ms: i64,
}

/// Tokens, by name. The tokens themselves are not known to the controller.
#[utoipa::path(get, path = "/api/v1/tokens", tag = "tokens", operation_id = "listTokens", responses((status = 200, body = Vec<TokenRow>), (status = "4XX", body = ProblemBody, content_type = "application/problem+json")))]
pub(super) async fn list(State(web): State<Web>) -> Json<Vec<TokenRow>> {
    let now = web.now();
    Json(web.controller().access_tokens().iter().map(|token| TokenRow::of(token, now)).collect())
}

/// Make a token. It is in the answer and nowhere else.
#[utoipa::path(post, path = "/api/v1/tokens", tag = "tokens", operation_id = "createToken", request_body = CreateToken, responses((status = 201, body = IssuedToken), (status = "4XX", body = ProblemBody, content_type = "application/problem+json")))]
pub(super) async fn create(
    State(web): State<Web>,
    By(by): By,
    Body(new): Body<CreateToken>,
) -> Result<(StatusCode, Json<IssuedToken>), Problem> {
    let CreateToken { name, owner, scope, ttl_ms } = new;
    let owner = owner.unwrap_or_else(|| name.clone());
    let (token, kept) = web.controller().create_access_token(NewAccessToken { name, owner, scope, ttl_ms }, &by).await?;
    Ok((StatusCode::CREATED, Json(IssuedToken { token, row: TokenRow::of(&kept, web.now()) })))
}

/// End a token, at once; browsers that signed in with it are signed out.
#[utoipa::path(post, path = "/api/v1/tokens/{name}/revoke", tag = "tokens", operation_id = "revokeToken", params(("name" = String, Path, description = "Its name")), request_body = ActionRequest,
    responses((status = 204, description = "It counts for nothing any more"), (status = "4XX", body = ProblemBody, content_type = "application/problem+json")))]
pub(super) async fn revoke(
    State(web): State<Web>,
    Path(name): Path<String>,
    By(by): By,
    Body(why): Body<ActionRequest>,
) -> Result<StatusCode, Problem> {
    web.controller().revoke_access_token(&name, &why.reason, &by).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Whose token this is, and what it may do.
#[utoipa::path(get, path = "/api/v1/whoami", tag = "tokens", operation_id = "whoami", responses((status = 200, body = WhoAmI), (status = "4XX", body = ProblemBody, content_type = "application/problem+json")))]
pub(super) async fn whoami(Who(who): Who) -> Json<WhoAmI> {
    let (name, scope) = who.map_or((None, Scope::Viewer), |who| (Some(who.name), who.scope));
    Json(WhoAmI { name, scope })
}
