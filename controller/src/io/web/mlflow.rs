//! `/api/2.0/mlflow/…`: MLflow's model registry, so that its clients list, register, tag and alias against this controller.
//!
//! Every handler reads the parameters (query or body, as MLflow's clients send them), asks the same [`Controller`](super::Controller)
//! as our own API, and answers in MLflow's shapes; errors too, also those of the guard, because a client shows nothing of others.
//! MLflow's *tracking* (runs, experiments, artifacts) is not here: `MLFLOW_REGISTRY_URI` names this controller, `MLFLOW_TRACKING_URI`
//! whatever keeps the runs. Operations that would go against a signed registry are refused with the command that does it properly.
use axum::extract::{FromRequest, Request};
use axum::http::{Method, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{any, delete, get, patch, post};
use axum::{Json, Router};
use leeway_protocol::ids::{Line, Version};
use serde_json::{Map, Value, json};

use super::Web;
use super::error::Problem;
use super::extract::read;
use crate::io::control::ControlError;
use crate::registry::TagChanges;
use crate::registry::mlflow::entry::meant;
use crate::registry::mlflow::{Code, FilterError, Refusal};
use crate::snapshot::Snapshot;

mod lines;
mod versions;

/// The largest request: a version with every tag as long as it may be.
const MAX_BODY: usize = 512 << 10;
/// Everything of MLflow begins so.
const PREFIX: &str = "/api/2.0/mlflow/";

/// What handlers answer.
type Answer = Result<Json<Value>, Refused>;

/// A refusal as an answer.
#[derive(Debug)]
pub(super) struct Refused(Refusal);

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.0.error_code.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        (status, Json(self.0)).into_response()
    }
}

impl From<Refusal> for Refused {
    fn from(refusal: Refusal) -> Self {
        Self(refusal)
    }
}

impl From<FilterError> for Refused {
    fn from(error: FilterError) -> Self {
        Self(Refusal::invalid(error.to_string()))
    }
}

impl From<Problem> for Refused {
    fn from(problem: Problem) -> Self {
        let code = Code::of_status(problem.kind().status.as_u16());
        Self(Refusal::new(code, problem.to_string()))
    }
}

impl From<ControlError> for Refused {
    fn from(error: ControlError) -> Self {
        match error {
            ControlError::Forbidden(why) => Self(Refusal::new(Code::PermissionDenied, why)),
            other => Problem::from(other).into(),
        }
    }
}

/// Whether an answer at this path is read by one of MLflow's clients.
pub(super) fn is_path(path: &str) -> bool {
    path.starts_with(PREFIX)
}

/// A problem in MLflow's words. What a client is told to wait for stays in the headers.
pub(super) fn problem(problem: Problem) -> Response {
    let refused = Refused::from(problem.clone());
    let mut response = refused.into_response();
    let mut own = problem.into_response();
    for name in [axum::http::header::WWW_AUTHENTICATE, axum::http::header::RETRY_AFTER] {
        if let Some(value) = own.headers_mut().remove(&name) {
            response.headers_mut().insert(name, value);
        }
    }
    response
}

/// The routes. They are not in our OpenAPI description: the protocol is MLflow's, and described there.
pub(super) fn router() -> Router<Web> {
    let models = Router::new()
        .route("/create", post(lines::create))
        .route("/get", get(lines::show))
        .route("/update", patch(lines::update))
        .route("/search", get(lines::search))
        .route("/get-latest-versions", post(lines::latest).get(lines::latest))
        .route("/set-tag", post(lines::set_tag))
        .route("/delete-tag", delete(lines::delete_tag))
        .route("/alias", get(lines::by_alias).post(lines::set_alias).delete(lines::delete_alias))
        .route("/rename", post(lines::rename))
        .route("/delete", delete(lines::remove));
    let versions = Router::new()
        .route("/create", post(versions::create))
        .route("/get", get(versions::show))
        .route("/update", patch(versions::update))
        .route("/search", get(versions::search))
        .route("/get-download-uri", get(versions::download_uri))
        .route("/set-tag", post(versions::set_tag))
        .route("/delete-tag", delete(versions::delete_tag))
        .route("/transition-stage", post(versions::transition))
        .route("/delete", delete(versions::remove));
    Router::new()
        .nest("/api/2.0/mlflow/registered-models", models)
        .nest("/api/2.0/mlflow/model-versions", versions)
        .route("/api/2.0/mlflow/{*rest}", any(elsewhere))
}

/// Everything else of MLflow.
async fn elsewhere(request: Request) -> Refused {
    let path: String = request.uri().path().chars().take(100).collect();
    Refused(Refusal::new(
        Code::EndpointNotFound,
        format!(
            "{path} is not served here: this is the registry of a fleet, which speaks MLflow's registered-models and model-versions; \
             name this controller in MLFLOW_REGISTRY_URI only, and let MLFLOW_TRACKING_URI name the server that keeps the runs"
        ),
    ))
}

/// The parameters of a request: from the query of a GET, from the JSON body otherwise. Those that are not known are not read: newer
/// clients send more.
pub(super) struct Asked(Map<String, Value>);

impl<S: Send + Sync> FromRequest<S> for Asked {
    type Rejection = Refused;

    async fn from_request(request: Request, _: &S) -> Result<Self, Refused> {
        let bad = |why: String| Refused(Refusal::new(Code::BadRequest, why));
        if matches!(*request.method(), Method::GET | Method::HEAD) {
            let pairs = axum::extract::Query::<Vec<(String, String)>>::try_from_uri(request.uri());
            let pairs = pairs.map_err(|e| bad(format!("the query cannot be read: {e}")))?.0;
            let mut map = Map::new();
            for (key, value) in pairs {
                // A list comes as the same key again.
                match map.get_mut(&key) {
                    None => drop(map.insert(key, Value::String(value))),
                    Some(Value::Array(list)) => list.push(Value::String(value)),
                    Some(one) => *one = json!([one.take(), value]),
                }
            }
            return Ok(Self(map));
        }
        let body = read(request.into_body(), MAX_BODY).await.map_err(Refused::from)?;
        if body.is_empty() {
            return Ok(Self(Map::new()));
        }
        serde_json::from_slice(&body).map(Self).map_err(|e| bad(format!("the body cannot be read: {e}")))
    }
}

impl Asked {
    /// A text; empty if it is absent.
    fn maybe(&self, key: &str) -> Result<&str, Refusal> {
        match self.0.get(key) {
            None | Some(Value::Null) => Ok(""),
            Some(Value::String(text)) => Ok(text),
            Some(_) => Err(Refusal::invalid(format!("parameter {key:?} must be a text"))),
        }
    }

    /// A text that must be there.
    fn text(&self, key: &str) -> Result<&str, Refusal> {
        match self.maybe(key)? {
            "" => Err(Refusal::invalid(format!("missing value for required parameter {key:?}"))),
            text => Ok(text),
        }
    }

    /// Whether it was sent at all.
    fn has(&self, key: &str) -> bool {
        self.0.get(key).is_some_and(|value| !value.is_null())
    }

    /// Texts; one comes alone in a query.
    fn list(&self, key: &str) -> Result<Vec<String>, Refusal> {
        let bad = || Refusal::invalid(format!("parameter {key:?} must be a list of texts"));
        match self.0.get(key) {
            None | Some(Value::Null) => Ok(Vec::new()),
            Some(Value::String(one)) => Ok(vec![one.clone()]),
            Some(Value::Array(list)) => list.iter().map(|v| v.as_str().map(str::to_owned).ok_or_else(bad)).collect(),
            Some(_) => Err(bad()),
        }
    }

    /// How many results are wanted: `default` if it is absent, at most `max`.
    fn max_results(&self, default: usize, max: usize) -> Result<usize, Refusal> {
        let number = match self.0.get("max_results") {
            None | Some(Value::Null) => return Ok(default),
            Some(Value::String(text)) => text.parse::<usize>().ok(),
            Some(value) => value.as_u64().and_then(|n| usize::try_from(n).ok()),
        };
        let fits = |n: &usize| (1..=max).contains(n);
        number.filter(fits).ok_or_else(|| Refusal::invalid(format!("max_results must be between 1 and {max}")))
    }

    /// A list of keys and values.
    fn tags(&self) -> Result<TagChanges, Refusal> {
        let bad = || Refusal::invalid("parameter \"tags\" must be a list of {\"key\": …, \"value\": …}");
        let list = match self.0.get("tags") {
            None | Some(Value::Null) => return Ok(TagChanges::new()),
            Some(Value::Array(list)) => list,
            Some(_) => return Err(bad()),
        };
        let one = |tag: &Value| {
            let text = |field: &str| tag.get(field).map_or(Some(""), Value::as_str).map(str::to_owned);
            Some((text("key")?, Some(text("value")?)))
        };
        list.iter().map(|tag| one(tag).ok_or_else(bad)).collect()
    }

    fn line(&self) -> Result<Line, Refusal> {
        self.text("name")?.parse().map_err(|e| Refusal::invalid(format!("{e}")))
    }

    /// The version that is meant, by its number or by its name.
    fn version(&self, web: &Web, line: &Line) -> Result<Version, Refusal> {
        let text = self.text("version")?;
        let shown: String = text.chars().take(80).collect();
        let missing = || Refusal::missing(format!("Model Version (name={line}, version={shown}) not found"));
        meant(&known(web, line)?, line, text).ok_or_else(missing)
    }
}

/// The state, and that it has this line.
fn known(web: &Web, line: &Line) -> Result<Snapshot, Refusal> {
    let state = web.controller().snapshot();
    if state.lines.contains_key(line) {
        return Ok(state);
    }
    Err(Refusal::missing(format!("Registered Model with name={line} not found: there is no such model line")))
}

/// An operation that is not done here, and what to do instead.
fn not_here(message: impl Into<String>) -> Refused {
    Refused(Refusal::new(Code::NotImplemented, message))
}
