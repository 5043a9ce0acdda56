//! Uplinks from the broker to the store and back out as receipts.
//!
//! Messages are taken in batches, as many as have gathered: signatures are checked beside everything else, then the batch is
//! judged, committed as one transaction, taken in, and receipted. So a receipt never goes out for what a power cut could take
//! back, and if the store fails there is none, and devices send again. What stays true: a message is taken in after it is stored.
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use leeway_protocol::ids::{BootId, DeviceId};
use leeway_protocol::reported::{MAX_RECEIPTS, Receipt};
use leeway_protocol::topic::{Channel, Topic};
use leeway_protocol::trust::envelope::{self, Kind};
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::sync::mpsc::Receiver;

use super::checkpoint;
use super::clock;
use super::control::Inner;
use super::counters::add;
use super::mqtt::Incoming;
use super::store::{Batch, Log, Write};
use crate::audit::Draft;
use crate::ingest::ledger::Frame;
use crate::ingest::{self, Body, Message, Refusal, Standing};

/// Messages in one batch: one commit's worth.
const MAX_BATCH: usize = 5_000;
/// The first message of a batch waits so long for company.
const LINGER: Duration = Duration::from_millis(20);
/// From so many messages on, signatures are checked on several cores.
const PARALLEL_FROM: usize = 64;
/// Parts a batch is cut into for that.
const PARTS: usize = 4;

/// A record of a log: the verified message, still in its own form, so that it can be read again by [`ingest`].
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Logged {
    pub(super) device: DeviceId,
    pub(super) boot: BootId,
    pub(super) counter: u64,
    pub(super) body: Vec<u8>,
    /// What a window was counted under.
    pub(super) frame: Option<Frame>,
}

/// The same as it was before frames were kept: a record ends with its body.
#[derive(Debug, Deserialize)]
pub(super) struct Unframed {
    pub(super) device: DeviceId,
    pub(super) boot: BootId,
    pub(super) counter: u64,
    pub(super) body: Vec<u8>,
}

impl Logged {
    /// From the bytes of a record.
    pub(super) fn read(record: &[u8]) -> Option<Self> {
        postcard::from_bytes(record).ok().or_else(|| {
            let Unframed { device, boot, counter, body } = postcard::from_bytes(record).ok()?;
            Some(Self { device, boot, counter, body, frame: None })
        })
    }
}

/// Take in uplinks until the connection is closed.
pub(super) async fn run(inner: Arc<Inner>, mut inbox: Receiver<Incoming>) {
    let mut batch = Vec::new();
    while inbox.recv_many(&mut batch, MAX_BATCH).await > 0 {
        if batch.len() < MAX_BATCH {
            tokio::time::sleep(LINGER).await;
            while batch.len() < MAX_BATCH
                && let Ok(more) = inbox.try_recv()
            {
                batch.push(more);
            }
        }
        let opened = open(&inner, std::mem::take(&mut batch)).await;
        take_in(&inner, opened).await;
    }
}

pub(super) type Opened = Result<Message, Refusal>;

/// Check signatures, on several cores if it is worth it.
pub(super) async fn open(inner: &Arc<Inner>, batch: Vec<Incoming>) -> Vec<Opened> {
    let work = |inner: &Inner, part: Vec<Incoming>| -> Vec<Opened> {
        let open = |m: Incoming| ingest::open(&m.topic, &m.bytes, &inner.tenant, |device| inner.ledger().key(device));
        part.into_iter().map(open).collect()
    };
    if batch.len() < PARALLEL_FROM {
        return work(inner, batch);
    }
    let size = batch.len().div_ceil(PARTS);
    let mut rest = batch;
    let mut parts = Vec::new();
    while !rest.is_empty() {
        let tail = rest.split_off(size.min(rest.len()));
        let (inner, part) = (Arc::clone(inner), std::mem::replace(&mut rest, tail));
        parts.push(tokio::task::spawn_blocking(move || work(&inner, part)));
    }
    let mut opened = Vec::new();
    for part in parts {
        match part.await {
            Ok(part) => opened.extend(part),
            // Only at shutdown; the devices send again.
            Err(error) => tracing::warn!("a part of a batch was given up: {error}"),
        }
    }
    opened
}

/// What a batch comes to.
#[derive(Default)]
struct Sorted {
    new: Vec<(Message, Option<Frame>)>,
    duplicates: Vec<Message>,
    refused: Vec<Refusal>,
    writes: Vec<Write>,
    events: Vec<Draft>,
}

/// Judge, store, take in, receipt.
pub(super) async fn take_in(inner: &Inner, opened: Vec<Opened>) {
    let _turn = inner.turn.lock().await;
    let at = clock::now();
    let sorted = sort(inner, opened, at);
    let Sorted { new, duplicates, refused, writes, events } = sorted;
    let must_commit = !writes.is_empty() || !events.is_empty();
    let stored = if must_commit { inner.store.commit(Batch { at, writes, events, urgent: true }).await.map(Some) } else { Ok(None) };
    let failed = stored.is_err();
    if let Err(error) = &stored {
        add(&inner.counters.store_errors, 1);
        tracing::error!("reports are not taken in: {error}; devices keep them and send again");
    }
    let mut receipts: BTreeMap<DeviceId, Vec<(u64, u64)>> = BTreeMap::new();
    let mut receipt = |device: &DeviceId, boot: BootId, counter: u64| receipts.entry(device.clone()).or_default().push((boot.0, counter));
    {
        let mut ledger = inner.ledger();
        for (message, frame) in &new {
            let durable = is_outbox(&message.body);
            if failed && durable {
                continue;
            }
            ledger.take_framed(message, at, frame.as_ref());
            if durable {
                receipt(&message.device, message.boot, message.counter);
            }
        }
        if let Ok(Some(committed)) = &stored {
            let position = &mut ledger.position;
            position.windows = position.windows.max(committed.windows.end);
            position.captures = position.captures.max(committed.captures.end);
            position.events = committed.events.last().map_or(position.events, |event| event.seq);
        }
        for message in &duplicates {
            ledger.duplicate(message, at);
            if is_outbox(&message.body) && !failed {
                receipt(&message.device, message.boot, message.counter);
            }
        }
    }
    checkpoint::write_turned(inner, at).await;
    for (device, boot, counter) in refused.iter().filter_map(|r| r.sender.as_ref()) {
        receipt(device, *boot, *counter);
    }
    add(&inner.counters.batches, 1);
    inner.wake.notify_one();
    send_receipts(inner, receipts);
}

fn is_outbox(body: &Body) -> bool {
    matches!(body, Body::Window(_) | Body::Capture(_) | Body::Event(_))
}

fn sort(inner: &Inner, opened: Vec<Opened>, at: leeway_protocol::time::Timestamp) -> Sorted {
    let mut sorted = Sorted::default();
    let mut twins = BTreeSet::new();
    let mut ledger = inner.ledger();
    for message in opened {
        if let Ok(message) = &message {
            sorted.events.extend(ledger.compare(message, at));
        }
        let judged = message.and_then(|message| {
            ledger.admits(&message)?;
            ledger.desk.judge(&message).map(|standing| (message, standing))
        });
        match judged {
            Err(refusal) => {
                sorted.events.extend(ledger.refuse(&refusal, at));
                sorted.refused.push(refusal);
            }
            Ok((message, Standing::Duplicate)) => sorted.duplicates.push(message),
            // A twin in the same batch is a duplicate too, once its brother is stored.
            Ok((message, Standing::New)) if !twins.insert(message.identity()) => sorted.duplicates.push(message),
            Ok((message, Standing::New)) => {
                let frame = matches!(message.body, Body::Window(_)).then(|| ledger.frame_of(&message.device));
                match &message.body {
                    Body::Window(window) => sorted.writes.extend(logged(Log::Windows, &message, window.to_bytes(), frame.clone())),
                    Body::Capture(batch) => sorted.writes.extend(logged(Log::Captures, &message, batch.to_bytes(), None)),
                    Body::Event(event) => {
                        let mut draft = ledger.event_of(&message.device, event, at);
                        if let Some(data) = draft.data.as_object_mut() {
                            data.insert("order".to_owned(), json!([message.boot.0, message.counter]));
                        }
                        sorted.events.push(draft);
                    }
                    Body::Status(_) | Body::Reported(_) => {}
                }
                sorted.new.push((message, frame));
            }
        }
    }
    sorted
}

fn logged(log: Log, message: &Message, body: Vec<u8>, frame: Option<Frame>) -> Option<Write> {
    let logged = Logged { device: message.device.clone(), boot: message.boot, counter: message.counter, body, frame };
    postcard::to_stdvec(&logged).ok().map(|record| Write::Append { log, record })
}

/// Sign and send. A full queue drops receipts: the devices ask again by sending again.
fn send_receipts(inner: &Inner, receipts: BTreeMap<DeviceId, Vec<(u64, u64)>>) {
    let key = inner.repository().signer.director.clone();
    for (device, stored) in receipts {
        for stored in stored.chunks(MAX_RECEIPTS) {
            let receipt = Receipt { v: 1, stored: stored.to_vec() };
            let Ok(body) = serde_json::to_vec(&receipt) else { continue };
            // Receipts have no order among themselves, so (boot, counter) says nothing in them.
            let Ok(bytes) = envelope::seal(&key, &device, BootId(0), 0, Kind::Receipt, &body) else { continue };
            if inner.mqtt.try_publish(&Topic::new(&inner.tenant, &device, Channel::Receipt), bytes).is_err() {
                tracing::debug!(%device, "a receipt was dropped: the MQTT queue is full");
                return;
            }
            add(&inner.counters.receipts, stored.len() as u64);
        }
    }
}
