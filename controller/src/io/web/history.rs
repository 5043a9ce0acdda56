//! What ran on a device when, and why.
use axum::Json;
use axum::extract::{Path, State};
use leeway_protocol::ids::DeviceId;
use leeway_protocol::time::Timestamp;
use serde::Deserialize;
use utoipa::IntoParams;

use super::Web;
use super::error::{Problem, ProblemBody};
use super::extract::{Query, name};
use super::resource::history::{Entry, History, MadeFrom, Ran, RolloutThen, Told};
use crate::audit::Event;
use crate::fleet::Device;
use crate::history::{self as record, Answer, Kept, Knowledge, Seen, Span};
use crate::registry::ModelVersion;
use crate::snapshot::Snapshot;

/// Entries of the event log that are shown about a rollout or a version: a rollout has some twenty.
const MAX_ENTRIES: usize = 20;

/// Which moment.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub(super) struct Asked {
    /// The moment, such as `2026-11-24T01:00:00Z`, by the controller's clock; now, with the whole record, if absent.
    at: Option<String>,
}

/// What ran on a device at a moment, since when, why, and how that is known.
#[utoipa::path(get, path = "/api/v1/devices/{device}/history", tag = "devices", operation_id = "getDeviceHistory", params(("device" = String, Path, description = "The device"), Asked), responses((status = 200, body = History), (status = "4XX", body = ProblemBody, content_type = "application/problem+json")))]
pub(super) async fn history(
    State(web): State<Web>,
    Path(device): Path<String>,
    Query(asked): Query<Asked>,
) -> Result<Json<History>, Problem> {
    let at = asked.at.as_deref().map(name::<Timestamp>).transpose()?;
    Ok(Json(web.history(&name::<DeviceId>(&device)?, at)?))
}

impl Web {
    fn history(&self, id: &DeviceId, asked: Option<Timestamp>) -> Result<History, Problem> {
        let snapshot = self.controller().snapshot();
        let device = snapshot.fleet.device(id);
        let rows: Vec<Kept> = self.controller().history(id)?;
        // One that was removed is answered for as long as its record is kept.
        if device.is_none() && rows.is_empty() {
            return Err(Problem::missing("device", id));
        }
        let now = self.now();
        let at = asked.unwrap_or(now);
        let seen = seen(device.as_deref(), now);
        let answer = record::answer(&rows, at, &seen);
        let running = answer.span.as_ref().map(|span| Ran { confirmed_until: answer.confirmed_until, ..ran(span) });
        let version = answer.span.as_ref().and_then(|span| snapshot.by_manifest(span.said.active.as_ref()?.manifest)).cloned();
        let told = answer.span.as_ref().and_then(|span| span.told);
        let behind = told.or_else(|| answer.pending.filter(|_| answer.span.is_none()).map(|(told, _, event)| (told, event)));
        let rollout = behind.map(|(told, event)| self.rollout_then(&snapshot, told, event)).transpose()?.flatten();
        Ok(History {
            device: id.to_string(),
            at,
            knowledge: answer.knowledge.as_str().to_owned(),
            sentence: sentence(id, at, &answer),
            pending: answer.pending.map(|(told, _, event)| self::told(told, event)),
            origin: version.map(|version| self.made_from(&snapshot, &version, at)).transpose()?,
            gaps: answer.gaps.clone(),
            record: if asked.is_none() { record::spans(&rows).iter().map(ran).collect() } else { Vec::new() },
            running,
            rollout,
        })
    }

    fn rollout_then(&self, snapshot: &Snapshot, told: &record::Told, event: Option<u64>) -> Result<Option<RolloutThen>, Problem> {
        let Some(id) = &told.rollout else { return Ok(None) };
        let until = event.unwrap_or(u64::MAX);
        let decisions = entries(self.controller().events_about(&format!("rollouts/{id}"), until, MAX_ENTRIES)?);
        let known = snapshot.rollouts.get(id);
        let stage = |stage: usize| known.and_then(|r| r.spec.policy.stages.get(stage)).map_or("?", |s| s.name.as_str()).to_owned();
        let approvals = known.map(|rollout| {
            let one = |a: &crate::rollout::Approval| {
                let remark = if a.remark.is_empty() { String::new() } else { format!(": {}", a.remark) };
                format!("{} approved stage {} ({}) at {}{remark}", a.by, a.stage + 1, stage(a.stage), a.at)
            };
            rollout.approvals.iter().filter(|a| told.stage.is_none_or(|s| a.stage <= s)).map(one).collect()
        });
        Ok(Some(RolloutThen {
            id: id.to_string(),
            reason: known.map(|r| r.reason.clone()).unwrap_or_default(),
            created_by: known.map(|r| r.created_by.name().to_owned()).unwrap_or_default(),
            approvals: approvals.unwrap_or_default(),
            decisions,
        }))
    }

    fn made_from(&self, snapshot: &Snapshot, version: &ModelVersion, at: Timestamp) -> Result<MadeFrom, Problem> {
        let lineage = &version.lineage;
        let subject = format!("models/{}/versions/{}", version.line, version.version);
        let events = self.controller().events_about(&subject, u64::MAX, MAX_ENTRIES)?;
        let parent = |digest| snapshot.by_manifest(digest).map_or_else(|| digest.to_string(), |v| format!("{} {}", v.line, v.version));
        Ok(MadeFrom {
            published_at: version.published_at,
            signer: version.signer.clone(),
            code: (!lineage.code.is_empty()).then(|| format!("{} at {}", lineage.code, lineage.code_revision)),
            run: lineage.training_run.clone(),
            parent: lineage.parent.map(parent),
            datasets: lineage.datasets.iter().map(|d| format!("{}: {} ({} rows, {})", d.role, d.name, d.rows, d.digest)).collect(),
            reason: lineage.reason.clone(),
            events: entries(events.into_iter().filter(|event| event.at <= at).collect()),
        })
    }
}

fn seen(device: Option<&Device>, now: Timestamp) -> Seen {
    Seen {
        online: device.is_some_and(|d| d.presence.online),
        last_seen: device.and_then(|d| d.presence.last_seen),
        enrolled_at: device.map(|d| d.enrolled_at),
        now,
    }
}

fn entries(events: Vec<Event>) -> Vec<Entry> {
    events.into_iter().map(|Event { seq, at, actor, sentence, .. }| Entry { seq, at, actor, sentence }).collect()
}

fn sentence(device: &DeviceId, at: Timestamp, answer: &Answer<'_>) -> String {
    let told = || answer.pending.map(|(told, when, _)| (told, when));
    match (answer.knowledge, &answer.span) {
        (Knowledge::Reported, Some(span)) => {
            let what = span.said.active.as_ref().map_or_else(|| "no model".to_owned(), |a| format!("{} {}", a.line, a.version));
            let trial = if span.said.phase == leeway_protocol::reported::Phase::Probation { " on trial" } else { "" };
            let end = span.until.map(|until| format!(" until {until}")).unwrap_or_default();
            format!("{device} ran {what}{trial} at {at}, from {}{end}. {}", span.from, span.why())
        }
        _ => match told() {
            Some((told, when)) => format!("{device} was told at {when}: {} What it ran at {at} it had not said.", told.reason),
            None => format!("What {device} ran at {at} is not known."),
        },
    }
}

/// The one word that a value of an enum has in documents.
fn word(value: impl serde::Serialize) -> String {
    serde_json::to_value(value).ok().and_then(|value| value.as_str().map(ToOwned::to_owned)).unwrap_or_default()
}

fn ran(span: &Span<'_>) -> Ran {
    let active = span.said.active.as_ref();
    Ran {
        line: active.map(|a| a.line.to_string()),
        version: active.map(|a| a.version.to_string()),
        manifest: active.map(|a| a.manifest.to_string()),
        model: active.map(|a| a.model.to_string()),
        generation: span.said.generation.0,
        phase: word(span.said.phase),
        standby: span.said.last_known_good.map(|digest| digest.to_string()),
        from: span.from,
        until: span.until,
        device_from: active.map(|a| a.since),
        heard_at: span.heard_at,
        device_at: span.said.device_at,
        clock_ms: span.clock_ms,
        confirmed_until: None,
        how: span.how(),
        why: span.why(),
        told: span.told.map(|(told, event)| self::told(told, event)),
    }
}

fn told(told: &record::Told, event: Option<u64>) -> Told {
    Told {
        generation: told.generation.0,
        intent: word(told.intent),
        line: told.line.as_ref().map(ToString::to_string),
        version: told.version.as_ref().map(ToString::to_string),
        rollout: told.rollout.as_ref().map(ToString::to_string),
        stage: told.stage.map(|stage| stage as u64 + 1),
        reason: told.reason.clone(),
        event,
    }
}
