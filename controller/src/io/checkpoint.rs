//! Writing down what is derived, and putting the state together again at the start.
//!
//! Signs of life go out once a second: a lost second of them is harmless, and touching a random page with every report is what makes
//! a store slow. What rollouts are judged by (a device ran the version, proved it, refused it) is written before anyone may decide
//! on it. Sums, drift and what was seen go out every few seconds in one transaction with the
//! position in the logs that they reach to; at the start, what lies behind that position is read again and taken in by the same
//! function as before. So after a crash the sums are the same as without one.
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use leeway_protocol::capture::CaptureBatch;
use leeway_protocol::digest::Digest;
use leeway_protocol::ids::{BootId, Cohort, DeviceId, RolloutId};
use leeway_protocol::report::WindowReport;
use leeway_protocol::time::Timestamp;
use serde::{Deserialize, Serialize};

use super::clock;
use super::control::{ControlError, Inner, document};
use super::counters::add;
use super::intake::Logged;
use super::store::{Batch, Kind, Log, Store, StoreError, Write};
use crate::history::Row;
use crate::ingest::ledger::{Dirty, Frame, Position, StoredDevice, Sums, Timings};
use crate::ingest::{Body, Ledger, Message, Uplink};
use crate::replay::{Monitored, Note};
use crate::rollout::evidence::Evidence;

pub(super) mod base;

/// Time between two rounds of device documents.
const HEARTBEAT: Duration = Duration::from_secs(1);
/// Time between two checkpoints of derived state.
const CHECKPOINT: Duration = Duration::from_secs(10);
/// Documents in one commit: a fleet that reports all at once is written in several.
const MAX_DOCS: usize = 4_000;

const POSITION: &str = "position";

pub(super) fn uplink_key(device: &DeviceId) -> String {
    format!("uplink/{device}")
}

fn monitor_key(cohort: &Cohort, manifest: Digest) -> String {
    format!("monitor/{cohort}/{}", manifest.hex())
}

fn evidence_key(rollout: &RolloutId) -> String {
    format!("evidence/{rollout}")
}

/// What was added up for one rollout.
#[derive(Serialize, Deserialize)]
struct StoredEvidence {
    rollout: RolloutId,
    evidence: Evidence,
    sums: BTreeMap<DeviceId, Sums>,
    #[serde(default)]
    timings: Timings,
}

/// Write down until the controller ends.
pub(super) async fn run(inner: Arc<Inner>) {
    let mut last = Instant::now();
    loop {
        tokio::time::sleep(HEARTBEAT).await;
        let whole = last.elapsed() >= CHECKPOINT;
        if let Err(error) = write(&inner, whole).await {
            add(&inner.counters.store_errors, 1);
            tracing::error!("the state was not written down: {error}; trying again");
        } else if whole {
            last = Instant::now();
        }
    }
}

/// Write down changed devices and, if `whole`, everything derived.
pub(super) async fn write(inner: &Inner, whole: bool) -> Result<(), ControlError> {
    let _turn = inner.turn.lock().await;
    let at = clock::now();
    let (mut dirty, gone) = {
        let mut ledger = inner.ledger();
        let gone = if whole { ledger.tidy() } else { Vec::new() };
        let mut devices = std::mem::take(&mut ledger.dirty.devices);
        devices.append(&mut ledger.dirty.turned);
        let history = std::mem::take(&mut ledger.dirty.history);
        let rest = if whole { std::mem::take(&mut ledger.dirty) } else { Default::default() };
        (Dirty { devices, history, ..rest }, gone)
    };
    let outcome = commit(inner, &mut dirty, &gone, whole, at).await;
    if outcome.is_err() {
        inner.ledger().dirty.extend(dirty);
    }
    outcome
}

/// Write down devices that a rollout is judged by; the turn is the caller's. What fails is tried again with the next second's.
pub(super) async fn write_turned(inner: &Inner, at: Timestamp) {
    let (devices, history) = {
        let mut ledger = inner.ledger();
        let turned = std::mem::take(&mut ledger.dirty.turned);
        ledger.dirty.devices.retain(|device| !turned.contains(device));
        (turned, std::mem::take(&mut ledger.dirty.history))
    };
    if devices.is_empty() {
        return;
    }
    let mut dirty = Dirty { devices, history, ..Dirty::default() };
    if let Err(error) = commit(inner, &mut dirty, &[], false, at).await {
        add(&inner.counters.store_errors, 1);
        tracing::error!("what devices reported of rollouts was not written down: {error}; trying again");
        inner.ledger().dirty.extend(dirty);
    }
}

async fn commit(inner: &Inner, dirty: &mut Dirty, gone: &[(Cohort, Digest)], whole: bool, at: Timestamp) -> Result<(), ControlError> {
    let devices: Vec<DeviceId> = dirty.devices.iter().cloned().collect();
    for part in devices.chunks(MAX_DOCS) {
        let stored: Vec<StoredDevice> = {
            let ledger = inner.ledger();
            part.iter().filter_map(|id| ledger.stored(id)).collect()
        };
        let documents = stored.iter().map(|d| document(Kind::Device, d.device.id.to_string(), Some(d)));
        let is_here = |id: &DeviceId| part.binary_search(id).is_ok();
        let rows = dirty.history.iter().filter(|(id, _)| is_here(id)).map(|(id, row)| remembered(id, row));
        let writes = documents.chain(rows).collect::<Result<_, _>>()?;
        inner.store.commit(Batch { at, writes, events: Vec::new(), urgent: true }).await?;
        // A row is written once, whatever becomes of the rest.
        dirty.history.retain(|(id, _)| !is_here(id));
    }
    if !whole {
        return Ok(());
    }
    // One transaction: a part of it would be counted again at the next start.
    let mut writes = derived(&inner.ledger(), dirty, gone)?;
    writes.extend(given_up(&inner.ledger(), gone, at));
    writes.extend(base::due(inner, at)?);
    inner.store.commit(Batch { at, writes, events: Vec::new(), urgent: true }).await?;
    Ok(())
}

/// A row for a device's history.
fn remembered(device: &DeviceId, row: &Row) -> Result<Write, ControlError> {
    let row = serde_json::to_vec(row).map_err(|e| ControlError::Unavailable(format!("the history of {device} cannot be written: {e}")))?;
    Ok(Write::Remember { device: device.to_string(), row, event: None })
}

/// Notes of monitors that are given up, for whoever counts again.
fn given_up(ledger: &Ledger, gone: &[(Cohort, Digest)], at: Timestamp) -> Vec<Write> {
    let windows = ledger.position.windows;
    let note = |(cohort, manifest): &(Cohort, Digest)| Note::Gone { at, windows, cohort: cohort.clone(), manifest: *manifest }.sealed();
    gone.iter().filter_map(note).map(|(record, _)| Write::Append { log: Log::Notes, record }).collect()
}

/// Everything derived that was not written down yet.
pub(super) fn everything(ledger: &Ledger) -> Result<Vec<Write>, ControlError> {
    derived(ledger, &ledger.dirty, &[])
}

fn derived(ledger: &Ledger, dirty: &Dirty, gone: &[(Cohort, Digest)]) -> Result<Vec<Write>, ControlError> {
    let mut writes = Vec::new();
    for id in &dirty.uplinks {
        writes.push(document(Kind::Checkpoint, uplink_key(id), ledger.desk.uplink(id))?);
    }
    for (cohort, manifest) in &dirty.monitors {
        let (drift, quality, labelled_rows) = ledger.derived(cohort, *manifest);
        let stored = Monitored { cohort: cohort.clone(), manifest: *manifest, drift, quality, labelled_rows };
        writes.push(document(Kind::Checkpoint, monitor_key(cohort, *manifest), Some(&stored))?);
    }
    for (cohort, manifest) in gone {
        writes.push(document::<Monitored>(Kind::Checkpoint, monitor_key(cohort, *manifest), None)?);
    }
    for rollout in &dirty.evidence {
        let stored = ledger.evidence_of(rollout);
        let stored = stored.map(|(evidence, sums, timings)| StoredEvidence { rollout: rollout.clone(), evidence, sums, timings });
        writes.push(document(Kind::Checkpoint, evidence_key(rollout), stored.as_ref())?);
    }
    writes.push(document(Kind::Checkpoint, POSITION.to_owned(), Some(&ledger.position))?);
    Ok(writes)
}

/// Put the state together from the store; manifests must be known already.
pub(super) fn restore(store: &Store, ledger: &mut Ledger) -> Result<(), StoreError> {
    let mut uplinks: BTreeMap<String, Uplink> = BTreeMap::new();
    for (key, value) in store.docs(Kind::Checkpoint)? {
        let damaged = |e: serde_json::Error| StoreError::Damaged {
            path: store.path().display().to_string(),
            detail: format!("checkpoint {key}: {e}"),
        };
        if key == POSITION {
            ledger.position = serde_json::from_slice(&value).map_err(damaged)?;
        } else if let Some(device) = key.strip_prefix("uplink/") {
            uplinks.insert(device.to_owned(), serde_json::from_slice(&value).map_err(damaged)?);
        } else if key.starts_with("monitor/") {
            let Monitored { cohort, manifest, drift, quality, labelled_rows } = serde_json::from_slice(&value).map_err(damaged)?;
            ledger.restore_derived(cohort, manifest, drift, quality, labelled_rows);
        } else if key.starts_with("evidence/") {
            let StoredEvidence { rollout, evidence, sums, timings } = serde_json::from_slice(&value).map_err(damaged)?;
            ledger.restore_evidence(rollout, evidence, sums, timings);
        }
    }
    for (key, stored) in store.parsed::<StoredDevice>(Kind::Device)? {
        ledger.restore(stored, uplinks.remove(&key));
    }
    // Before the replay: what it adds is in no checkpoint yet, and the next one moves the position past it.
    ledger.dirty = Default::default();
    replay(store, ledger)?;
    ledger.forget_tallies();
    Ok(())
}

/// Take in what was stored after the checkpoint.
fn replay(store: &Store, ledger: &mut Ledger) -> Result<(), StoreError> {
    let Position { windows, captures, events } = ledger.position;
    for (log, from) in [(Log::Windows, windows), (Log::Captures, captures)] {
        let mut next = from;
        loop {
            let records = store.records(log, next, super::store::MAX_PAGE)?;
            let Some(last) = records.last().map(|record| record.seq) else { break };
            for record in records {
                if let Some((message, frame)) = framed(log, &record.bytes) {
                    ledger.take_framed(&message, record.at, frame.as_ref());
                }
            }
            next = last + 1;
        }
        match log {
            Log::Windows => ledger.position.windows = next,
            Log::Captures => ledger.position.captures = next,
            Log::Notes => {}
        }
    }
    let mut next = events;
    loop {
        let page = store.events(next, super::store::MAX_PAGE)?;
        let Some(last) = page.last().map(|event| event.seq) else { break };
        for event in &page {
            let order: Option<(u64, u64)> = event.data.get("order").and_then(|order| serde_json::from_value(order.clone()).ok());
            let device = event.actor.strip_prefix("devices/").and_then(|id| id.parse::<DeviceId>().ok());
            if let (Some((boot, counter)), Some(device)) = (order, device) {
                ledger.desk.note_event(&device, (BootId(boot), counter));
            }
        }
        next = last;
    }
    ledger.position.events = next;
    Ok(())
}

/// A record of a log, as the message it was.
pub(super) fn read(log: Log, record: &[u8]) -> Option<Message> {
    framed(log, record).map(|(message, _)| message)
}

/// The same with what it was counted under.
pub(super) fn framed(log: Log, record: &[u8]) -> Option<(Message, Option<Frame>)> {
    let Logged { device, boot, counter, body, frame } = Logged::read(record)?;
    let body = match log {
        Log::Windows => Body::Window(Box::new(WindowReport::parse(&body).ok()?)),
        Log::Captures => Body::Capture(CaptureBatch::parse(&body).ok()?),
        Log::Notes => return None,
    };
    // Nobody compares what was stored once.
    Some((Message { device, boot, counter, mark: 0, body }, frame))
}

/// Documents of derived state and how far it reaches, for whoever counts again.
pub(super) fn stored(store: &Store) -> Result<(Position, Vec<Monitored>), StoreError> {
    let (mut position, mut monitors) = (Position::default(), Vec::new());
    for (key, value) in store.docs(Kind::Checkpoint)? {
        let damaged = |e: serde_json::Error| StoreError::Damaged {
            path: store.path().display().to_string(),
            detail: format!("checkpoint {key}: {e}"),
        };
        if key == POSITION {
            position = serde_json::from_slice(&value).map_err(damaged)?;
        } else if key.starts_with("monitor/") {
            monitors.push(serde_json::from_slice(&value).map_err(damaged)?);
        }
    }
    Ok((position, monitors))
}

#[cfg(test)]
mod tests;
