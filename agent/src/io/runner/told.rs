//! What the application tells about its own business: the route beside the labels', from JSON to checked values.
//!
//! What stays true: a call is counted whole or refused whole, with a sentence that says what to send instead.
use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use leeway_protocol::report::{UserMetric, UserValue};
use serde::Deserialize;
use serde_json::json;
use tokio::sync::oneshot;

use super::engine::Job;
use super::requests;
use super::serve::{Body, Problem, Shared, body, gone};

/// Values in one call: some minutes of a busy application's, at a microsecond each.
const MAX_VALUES: usize = 1_000;
/// The bytes that so many values fill with the longest names: what is larger is not read as JSON at all.
const MAX_BYTES: usize = 128 << 10;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Told {
    metrics: Vec<Measured>,
    id: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Measured {
    name: String,
    value: f64,
}

/// Values the application measured, one trial each.
pub(super) async fn told(State(shared): State<Shared>, bytes: Body) -> Result<Response, Problem> {
    let bytes = body(bytes)?;
    let refused = |text: String| Problem(StatusCode::BAD_REQUEST, text);
    if bytes.len() > MAX_BYTES {
        return Err(refused(format!("{} bytes are too many for one call: send at most {MAX_VALUES} values at once", bytes.len())));
    }
    let told: Told = serde_json::from_slice(&bytes).map_err(|e| {
        refused(format!("expected {{\"metrics\": [{{\"name\": \"…\", \"value\": 0 to 1}}, …]}}, and \"id\" for one request's: {e}"))
    })?;
    if told.metrics.is_empty() || told.metrics.len() > MAX_VALUES {
        return Err(refused(format!("{} values in one call: send 1 to {MAX_VALUES}", told.metrics.len())));
    }
    let values: Vec<_> = told.metrics.iter().map(check).collect::<Result<_, _>>().map_err(refused)?;
    let (count, request) = (values.len(), told.id.as_deref().map(requests::number));
    let (reply, counted) = oneshot::channel();
    shared.put(Job::Told { request, values, reply })?;
    let matched = counted.await.map_err(gone)??;
    let text = match (matched, count) {
        (false, _) => "nothing was counted: no answer is remembered for this id; it is too old, or from another device",
        (true, 1) => "the value was counted",
        (true, _) => "the values were counted",
    };
    Ok(Json(json!({"matched": matched, "counted": if matched { count } else { 0 }, "message": text})).into_response())
}

fn check(measured: &Measured) -> Result<(UserMetric, UserValue), String> {
    let name = measured.name.parse::<UserMetric>().map_err(|e| e.to_string())?;
    let value = UserValue::of(measured.value).ok_or_else(|| {
        format!("{name} is {}: send a share from 0 to 1, or 0 for no and 1 for yes, and scale what is measured otherwise", measured.value)
    })?;
    Ok((name, value))
}
