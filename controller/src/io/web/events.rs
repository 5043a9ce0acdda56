//! The event log.
use axum::Json;
use axum::extract::State;
use serde::Deserialize;
use utoipa::IntoParams;

use super::Web;
use super::error::{Problem, ProblemBody};
use super::extract::Query;
use super::load::Wanted;
use super::resource::event::EventList;

/// Entries in one answer unless asked otherwise.
const LIMIT: usize = 50;
/// Entries in one answer at most.
const MAX_LIMIT: usize = 1_000;

/// Which entries.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub(super) struct Asked {
    /// Entries after this one, rising. Without it, the newest.
    since: Option<u64>,
    /// The newest entries before this one.
    before: Option<u64>,
    /// Only kinds that begin so, such as `rollout`.
    kind: Option<String>,
    /// Only about this, such as `rollouts/rain-2`.
    subject: Option<String>,
    /// How many, at most 1,000.
    limit: Option<usize>,
}

impl Asked {
    /// Parsed.
    pub(super) fn wanted(&self) -> Wanted {
        Wanted {
            since: self.since,
            before: self.before,
            kind: self.kind.clone(),
            subject: self.subject.clone(),
            limit: self.limit.unwrap_or(LIMIT).clamp(1, MAX_LIMIT),
        }
    }

    /// The kind asked for.
    pub(super) fn kind(&self) -> Option<&str> {
        self.kind.as_deref()
    }
}

/// Entries of the log, rising, with the state of its hash chain.
#[utoipa::path(get, path = "/api/v1/events", tag = "events", operation_id = "listEvents", params(Asked), responses((status = 200, body = EventList), (status = "4XX", body = ProblemBody, content_type = "application/problem+json")))]
pub(super) async fn list(State(web): State<Web>, Query(asked): Query<Asked>) -> Result<Json<EventList>, Problem> {
    Ok(Json(web.log(&asked.wanted())?))
}
