//! The operator's side: HTTP API, live stream, dashboard, what devices fetch. One router; every route is listed here.
//!
//! Handlers parse, ask the [`Controller`] and answer; there is no policy in them. OpenAPI is made from the very routes
//! ([`openapi`]), so the description cannot drift from the code. What stays true: nothing is answered before the guard has
//! looked at it, and every body has a bound.
use std::sync::Arc;

use axum::extract::{DefaultBodyLimit, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router, middleware};
use leeway_protocol::digest::Digest;
use utoipa::OpenApi as _;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::control::{ControlError, Controller};
use error::Problem;
pub use limits::Limits;

pub mod error;
pub mod pages;
pub mod resource;
pub mod words;

mod assets;
mod dashboard;
mod datasets;
mod devices;
mod drift;
mod enrol;
mod episodes;
mod events;
mod extract;
mod files;
mod fleet;
mod guard;
mod history;
mod labels;
mod limits;
mod load;
mod metrics;
mod mlflow;
mod models;
mod names;
mod publish;
mod range;
mod rollouts;
mod scope;
mod session;
mod sketches;
mod stream;
mod supply;
mod tokens;
mod training;
mod view;
mod webhooks;

#[cfg(test)]
mod tests;

/// The web side of one controller. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Web {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    controller: Controller,
    sessions: guard::Sessions,
    checked: load::Checked,
    clients: stream::Clients,
    http: metrics::Http,
    limits: limits::Left,
}

#[derive(utoipa::OpenApi)]
#[openapi(
    info(title = "Leeway", description = "Keeps the models of a fleet of edge devices on course.", license(name = "MIT OR Apache-2.0", identifier = "MIT OR Apache-2.0")),
    components(schemas(resource::event::Frame, error::ProblemBody)),
    security(("token" = [])),
    modifiers(&Token)
)]
struct Description;

/// The bearer token in the description.
struct Token;

impl utoipa::Modify for Token {
    fn modify(&self, api: &mut utoipa::openapi::OpenApi) {
        use utoipa::openapi::security::{Http, HttpAuthScheme, SecurityScheme};
        api.components.get_or_insert_default().add_security_scheme("token", SecurityScheme::Http(Http::new(HttpAuthScheme::Bearer)));
    }
}

impl From<ControlError> for Problem {
    fn from(error: ControlError) -> Self {
        match error {
            ControlError::NotFound(detail) => Self::NotFound(detail),
            ControlError::Conflict(detail) => Self::Conflict(detail),
            ControlError::Stale(detail) => Self::Stale(detail),
            ControlError::Invalid(detail) => Self::Invalid(detail),
            ControlError::Risk(detail) => Self::Risk(detail),
            ControlError::Forbidden(detail) => Self::Refused(detail),
            ControlError::Prove { detail, challenge } => Self::Prove { detail, challenge },
            ControlError::Dismissed(detail) => Self::Device(detail),
            // Where it can come to that, it is no problem but an answer of its own.
            ControlError::Pending { sentence, .. } => Self::Conflict(sentence),
            ControlError::Unavailable(detail) => Self::Unavailable(detail),
        }
    }
}

impl Web {
    /// The web side of `controller`.
    pub fn new(controller: Controller) -> Self {
        Self::with_limits(controller, Limits::default())
    }

    /// The same with other bounds.
    pub fn with_limits(controller: Controller, limits: Limits) -> Self {
        let (sessions, checked, clients) = Default::default();
        let (http, limits) = (metrics::Http::new(), limits::Left::new(limits));
        Self { inner: Arc::new(Inner { controller, sessions, checked, clients, http, limits }) }
    }

    fn limits(&self) -> &limits::Left {
        &self.inner.limits
    }

    fn controller(&self) -> &Controller {
        &self.inner.controller
    }

    fn sessions(&self) -> &guard::Sessions {
        &self.inner.sessions
    }

    fn checked(&self) -> &load::Checked {
        &self.inner.checked
    }

    fn clients(&self) -> &stream::Clients {
        &self.inner.clients
    }

    fn http(&self) -> &metrics::Http {
        &self.inner.http
    }

    /// Whether a blob belongs to a published version: those are for every device, others (datasets) are not.
    fn is_released(&self, hex: &str) -> bool {
        let Ok(digest) = Digest::from_hex(hex) else { return false };
        self.controller().snapshot().versions.values().any(|v| v.names(digest))
    }

    /// Everything that is served.
    pub fn router(self) -> Router {
        let (api, _) = api().split_for_parts();
        let pages = Router::new()
            .route("/", get(dashboard::fleet))
            .route("/models", get(dashboard::models))
            .route("/models/{line}", get(dashboard::model))
            .route("/models/{line}/versions/{version}", get(dashboard::version))
            .route("/rollouts", get(dashboard::rollouts))
            .route("/rollouts/{rollout}", get(dashboard::rollout))
            .route("/rollouts/{rollout}/{action}", post(dashboard::act))
            .route("/drift", get(dashboard::drift))
            .route("/episodes", get(dashboard::list_episodes))
            .route("/episodes/{episode}", get(dashboard::episode))
            .route("/devices", get(dashboard::list_devices))
            .route("/devices/{device}", get(dashboard::device))
            .route("/events", get(dashboard::list_events))
            .route("/login", get(session::show).post(session::submit))
            .route("/logout", post(session::out))
            .route("/problems/{kind}", get(dashboard::problem))
            .route("/assets/{name}", get(assets::asset))
            .route("/api/openapi.json", get(description))
            .route("/metrics", get(metrics::metrics));
        api.merge(pages)
            .merge(mlflow::router())
            .method_not_allowed_fallback(method_not_allowed)
            .fallback(dashboard::missing)
            // Bodies are bounded where they are read: each operation has its own bound.
            .layer(DefaultBodyLimit::disable())
            .layer(middleware::from_fn_with_state(self.clone(), guard::guard))
            .route_layer(middleware::from_fn_with_state(self.clone(), metrics::count))
            .with_state(self)
    }
}

/// Every route of the API, with its description.
fn api() -> OpenApiRouter<Web> {
    OpenApiRouter::with_openapi(Description::openapi())
        .routes(routes!(fleet::fleet))
        .routes(routes!(fleet::cohorts))
        .routes(routes!(fleet::put_cohort))
        .routes(routes!(fleet::preview))
        .routes(routes!(models::list))
        .routes(routes!(models::show, models::put))
        .routes(routes!(models::retrain))
        .routes(routes!(models::version))
        .routes(routes!(models::lineage))
        .routes(routes!(supply::provenance))
        .routes(routes!(supply::bundle))
        .routes(routes!(supply::bom))
        .routes(routes!(models::mark))
        .routes(routes!(sketches::list))
        .routes(routes!(names::list))
        .routes(routes!(names::put))
        .routes(routes!(names::tag_line))
        .routes(routes!(names::tag_version))
        .routes(routes!(drift::drift))
        .routes(routes!(drift::feature))
        .routes(routes!(drift::quality))
        .routes(routes!(labels::wanted))
        .routes(routes!(devices::list))
        .routes(routes!(devices::show))
        .routes(routes!(devices::timeline))
        .routes(routes!(history::history))
        .routes(routes!(devices::label))
        .routes(routes!(devices::accept))
        .routes(routes!(devices::refuse))
        .routes(routes!(devices::revoke))
        .routes(routes!(devices::remove))
        .routes(routes!(rollouts::list, rollouts::create))
        .routes(routes!(rollouts::show, rollouts::apply))
        .routes(routes!(rollouts::devices))
        .routes(routes!(rollouts::act))
        .routes(routes!(events::list))
        .routes(routes!(stream::stream))
        .routes(routes!(episodes::list))
        .routes(routes!(episodes::show))
        .routes(routes!(episodes::call))
        .routes(routes!(datasets::list, datasets::import))
        .routes(routes!(datasets::show))
        .routes(routes!(datasets::file))
        .routes(routes!(datasets::compare))
        .routes(routes!(datasets::origin))
        .routes(routes!(datasets::run))
        .routes(routes!(training::list))
        .routes(routes!(training::show))
        .routes(routes!(training::claim))
        .routes(routes!(training::alive))
        .routes(routes!(training::candidate))
        .routes(routes!(training::fail))
        .routes(routes!(training::spec))
        .routes(routes!(training::deliver))
        .routes(routes!(publish::blob))
        .routes(routes!(publish::role))
        .routes(routes!(publish::targets))
        .routes(routes!(publish::root))
        .routes(routes!(enrol::enrol))
        .routes(routes!(enrol::token))
        .routes(routes!(tokens::list, tokens::create))
        .routes(routes!(tokens::revoke))
        .routes(routes!(tokens::whoami))
        .routes(routes!(webhooks::list, webhooks::create))
        .routes(routes!(webhooks::show))
        .routes(routes!(webhooks::remove))
        .routes(routes!(webhooks::resume))
        .routes(routes!(webhooks::offer))
        .routes(routes!(files::tuf))
        .routes(routes!(files::director))
        .routes(routes!(files::blob))
        .routes(routes!(livez))
        .routes(routes!(readyz))
        .routes(routes!(version))
}

/// The description of the API.
pub fn openapi() -> utoipa::openapi::OpenApi {
    api().split_for_parts().1
}

async fn description() -> Json<utoipa::openapi::OpenApi> {
    Json(openapi())
}

async fn method_not_allowed() -> Problem {
    Problem::Method("this path takes other methods: /api/openapi.json lists them".to_owned())
}

/// The process answers.
#[utoipa::path(get, path = "/livez", tag = "health", operation_id = "livez", responses((status = 200, description = "It does")))]
async fn livez() -> &'static str {
    "ok\n"
}

/// The controller can do its work: the store answers, and the broker can be reached.
#[utoipa::path(get, path = "/readyz", tag = "health", operation_id = "readyz", responses((status = 200, description = "It can"), (status = 503, description = "It cannot; the text says why")))]
async fn readyz(State(web): State<Web>) -> Response {
    let problems: Vec<String> =
        [web.newest().err().map(|p| p.to_string()), web.controller().mqtt_problem()].into_iter().flatten().collect();
    if problems.is_empty() {
        return "ok\n".into_response();
    }
    (StatusCode::SERVICE_UNAVAILABLE, [(header::RETRY_AFTER, "5")], problems.join("\n") + "\n").into_response()
}

/// Which program this is.
#[utoipa::path(get, path = "/version", tag = "health", operation_id = "version", responses((status = 200, body = Object)))]
async fn version() -> Json<serde_json::Value> {
    Json(serde_json::json!({ "name": "leeway", "version": env!("CARGO_PKG_VERSION") }))
}
