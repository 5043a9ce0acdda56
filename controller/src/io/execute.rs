//! Carry out a plan: one transaction, then speak.
//!
//! Nothing is decided here. Every step is applied to a copy of the state by the same function the planner used, the documents
//! it touched and the audit rows are committed together, and only then is the copy the state, and only then are devices told.
//! Killed in between, a restart finds either nothing of the plan or all of it, and publishes desired states again anyway.
use std::collections::BTreeSet;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use leeway_protocol::assignment::{Assignment, Intent};
use leeway_protocol::ids::DeviceId;
use leeway_protocol::time::Timestamp;
use leeway_protocol::topic::{Channel, Topic};
use leeway_protocol::trust::director::DirectedTarget;
use serde_json::json;

use super::clock;
use super::control::{ControlError, Inner, Touched};
use super::counters::add;
use super::store::{Log, Write};
use crate::audit::Draft;
use crate::fleet::Device;
use crate::history::Row;
use crate::planner::{Plan, PlanReport, Step};
use crate::replay::{Basis, GateNote, Note};
use crate::snapshot::Snapshot;

/// Carry out `plan`, made from `state`. The caller has the turn.
pub(super) async fn carry_out(
    inner: &Inner,
    mut state: Snapshot,
    plan: &Plan,
    report: &PlanReport,
    at: Timestamp,
) -> Result<(), ControlError> {
    let mut touched = Touched::default();
    let (mut events, mut writes) = (Vec::new(), Vec::new());
    for (place, step) in plan.steps.iter().enumerate() {
        // The plan was made from this very state, in this turn: a refusal is a fault of ours, and nothing is done by halves.
        state.apply(step, at).map_err(|e| ControlError::Conflict(format!("step {} for {}: {e}", step.kind(), step.subject())))?;
        touch(&mut touched, step);
        let mut event = row(step, report, at);
        if let Some(basis) = report.bases.get(&place) {
            writes.extend(note(step, basis, &mut event, at));
        }
        writes.extend(remembered(step, place)?);
        events.push(event);
    }
    let told: BTreeSet<DeviceId> = plan.steps.iter().filter_map(told).collect();
    inner.settle(state, &touched, writes, events, at).await?;
    add(&inner.counters.steps, plan.steps.len() as u64);
    inner.publish_later(told);
    Ok(())
}

fn told(step: &Step) -> Option<DeviceId> {
    match step {
        Step::SetDesired { device, .. } => Some(device.clone()),
        _ => None,
    }
}

fn touch(touched: &mut Touched, step: &Step) {
    match step {
        Step::SetDesired { device, .. } | Step::HoldBack { device, .. } => drop(touched.devices.insert(device.clone())),
        Step::MoveRollout { rollout, .. } => drop(touched.rollouts.insert(rollout.clone())),
        Step::CreateRollout { rollout } => drop(touched.rollouts.insert(rollout.id.clone())),
        Step::SetAlias { line, .. } | Step::WithholdRetraining { line, .. } => drop(touched.lines.insert(line.clone())),
        Step::SetLastKnownGood { cohort, .. } => drop(touched.cohorts.insert(cohort.clone())),
        Step::MarkVersion { line, version, .. } | Step::PoisonSlice { line, version, .. } => {
            let _ = touched.versions.insert((line.clone(), version.clone()));
        }
        Step::RequestRetraining { request } => drop(touched.jobs.insert(request.id.clone())),
    }
}

/// What a step was made from, to be kept beside its event, which names it by digest.
fn note(step: &Step, basis: &Basis, event: &mut Draft, at: Timestamp) -> Option<Write> {
    let note = GateNote::of(basis, step, at);
    let named = note.engine.to_string();
    let sealed = Note::Gate(Box::new(note)).sealed();
    let data = event.data.as_object_mut()?;
    let Some((record, digest)) = sealed else {
        data.insert("basis".to_owned(), json!({ "engine": named, "kept": false }));
        return None;
    };
    data.insert("basis".to_owned(), json!({ "engine": named, "digest": digest, "bytes": record.len() }));
    Some(Write::Append { log: Log::Notes, record })
}

/// The row in a device's history of what it is told.
fn remembered(step: &Step, place: usize) -> Result<Option<Write>, ControlError> {
    let Step::SetDesired { device, desired, part } = step else { return Ok(None) };
    let row = serde_json::to_vec(&Row::told(desired, part.as_ref()));
    let row = row.map_err(|e| ControlError::Unavailable(format!("the history of {device} cannot be written: {e}")))?;
    Ok(Some(Write::Remember { device: device.to_string(), row, event: Some(place) }))
}

/// The audit row of a step: what, why, and for a rollout also why nothing else.
fn row(step: &Step, report: &PlanReport, at: Timestamp) -> Draft {
    let mut data = json!({ "step": step });
    if let Step::MoveRollout { rollout, .. } = step
        && let (Some(data), Some(report)) = (data.as_object_mut(), report.rollouts.get(rollout))
    {
        data.insert("report".to_owned(), serde_json::to_value(report).unwrap_or_default());
    }
    Draft { at, actor: "controller".to_owned(), kind: step.kind().to_owned(), subject: step.subject(), sentence: step.sentence(), data }
}

/// Pause after a failure to publish; the queue to the broker is full or the connection is gone.
const RETRY: Duration = Duration::from_millis(200);

/// Publish desired states whenever some are waiting; all of them after each connection.
pub(super) async fn publish(inner: Arc<Inner>) {
    let mut connections = inner.mqtt.connections();
    loop {
        tokio::select! {
            () = inner.publish.notified() => {}
            changed = connections.changed() => {
                if changed.is_err() {
                    return;
                }
                // The broker may have forgotten everything: what it retains is only a cache of what the store has.
                let all: Vec<DeviceId> = inner.ledger().snapshot.fleet.iter().filter(|d| d.desired.is_some()).map(|d| d.id.clone()).collect();
                inner.publish_later(all);
            }
        }
        publish_waiting(&inner).await;
    }
}

async fn publish_waiting(inner: &Inner) {
    loop {
        let next = inner.unpublished.lock().unwrap_or_else(PoisonError::into_inner).pop_first();
        let Some(id) = next else { return };
        let device = inner.ledger().snapshot.fleet.device(&id);
        let told = device.as_deref().filter(|device| device.admission.is_in());
        let Some(bytes) = told.and_then(|device| sign(inner, device)) else { continue };
        if inner.mqtt.publish(&Topic::new(&inner.tenant, &id, Channel::Desired), bytes).await.is_err() {
            inner.unpublished.lock().unwrap_or_else(PoisonError::into_inner).insert(id);
            tokio::time::sleep(RETRY).await;
            continue;
        }
        add(&inner.counters.published, 1);
    }
}

/// The director's document for what a device was told last, or `None` (with the reason in the log) if it cannot be made.
fn sign(inner: &Inner, device: &Device) -> Option<Vec<u8>> {
    let desired = device.desired.as_ref()?;
    let version = match (&desired.line, &desired.version, desired.intent) {
        (Some(line), Some(version), Intent::Install | Intent::Rollback) => {
            let found = inner.ledger().snapshot.version(line, version).cloned();
            if found.is_none() {
                tracing::error!(device = %device.id, "version {version} of {line} is not registered, so the device is not told");
                return None;
            }
            found
        }
        _ => None,
    };
    let settings = &desired.settings;
    let assignment = Assignment {
        v: 1,
        device: device.id.clone(),
        generation: desired.generation,
        intent: desired.intent,
        release: version.as_ref().map(|v| v.release()),
        rollout: desired.rollout.clone(),
        reason: desired.reason.clone(),
        issued_at: desired.issued_at,
        spread_ms: settings.spread_ms,
        window: settings.window,
        shadow: settings.shadow,
        probation: settings.probation,
        windows: settings.windows,
        capture: settings.capture,
        avoid: inner.ledger().snapshot.avoided_by(device),
    };
    let target = version.map(|v| DirectedTarget { path: v.target_path(), sha256: v.model.digest, length: v.model.length });
    match inner.repository().signer.sign_assignment(&assignment, target.as_ref(), clock::now()) {
        Ok(bytes) => Some(bytes),
        Err(error) => {
            tracing::error!(device = %device.id, "the assignment could not be signed: {error}");
            None
        }
    }
}
