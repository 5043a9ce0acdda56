//! The handle to a running controller: what the API, the pages and the command line may see and ask for.
//!
//! State is changed in turns: a batch of uplinks, a round of planning, a person's decision and a checkpoint each take the turn,
//! work on what is then true, commit it as one transaction, and only then make it visible. So nothing is ever decided on a state
//! that has already changed, and nothing is shown that a power cut could take back. Reading waits for nobody: it copies pointers.
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use axum::body::Bytes;
use leeway_protocol::digest::Digest;
use leeway_protocol::ids::{Cohort, DeviceId, Line, RolloutId, Tenant, Version};
use leeway_protocol::manifest::Manifest;
use leeway_protocol::time::Timestamp;
use tokio::sync::{Notify, broadcast};

use super::artifacts::{BlobError, Blobs};
use super::broker::{Broker, Credentials};
use super::clock;
use super::counters::{Counters, MetricsView};
use super::mqtt::{Incoming, Mqtt};
use super::preflight::{Runner, RunnerError};
use super::repository::Repository;
use super::store::{Batch, Kind, Remembered, Store, StoreError, Write};
use super::tls::Tls;
use super::training::TrainingPolicy;
use super::webhooks::Webhooks;
use crate::audit::{Draft, Event};
use crate::history::Kept;
use crate::ingest::Ledger;
use crate::ingest::ledger::{Glance, StoredDevice, Tally};
use crate::planner::{PlanReport, Policy};
use crate::snapshot::Snapshot;

pub(super) mod access;
pub(super) mod admission;
pub(super) mod decisions;
pub(super) mod enrol;
pub(super) mod foresee;
pub(super) mod publish;
pub(super) mod registry;
pub(super) mod retraining;
pub(super) mod supply;

pub use access::NewAccessToken;
pub use decisions::{Applied, LinePolicies, NewRollout};
pub use enrol::{EnrolRequest, Enrolled, MqttAccess, NewEnrolmentToken, TlsGrant};
pub use foresee::LookAhead;
pub use publish::Published;
pub use registry::NewLine;
pub use retraining::{Answer, Call};
pub use supply::Attached;

/// A running controller. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Controller {
    pub(super) inner: Arc<Inner>,
}

/// What the handle is a handle to.
#[derive(Debug)]
pub(super) struct Inner {
    pub(super) tenant: Tenant,
    pub(super) store: Store,
    pub(super) blobs: Blobs,
    pub(super) runner: Runner,
    pub(super) policy: Policy,
    pub(super) ledger: Mutex<Ledger>,
    /// Whose turn it is to change the state.
    pub(super) turn: tokio::sync::Mutex<()>,
    pub(super) repository: RwLock<Repository>,
    pub(super) report: RwLock<Arc<PlanReport>>,
    /// Something changed: plan again.
    pub(super) wake: Notify,
    /// Devices whose desired state must be published.
    pub(super) unpublished: Mutex<BTreeSet<DeviceId>>,
    pub(super) publish: Notify,
    pub(super) mqtt: Mqtt,
    pub(super) broker: Option<Broker>,
    pub(super) credentials: Arc<Credentials>,
    pub(super) access: enrol::Access,
    pub(super) tls: Option<Arc<Tls>>,
    /// Where the list of revoked certificates is written for brokers outside.
    pub(super) revoked_list: Option<PathBuf>,
    pub(super) training: TrainingPolicy,
    /// A candidate waits to be judged.
    pub(super) evaluate: Notify,
    pub(super) counters: Counters,
    pub(super) webhooks: Webhooks,
}

/// Something that was asked for and is not done.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// There is no such thing.
    #[error("{0}")]
    NotFound(String),
    /// It does not fit what is now.
    #[error("{0}")]
    Conflict(String),
    /// It has changed since the caller looked.
    #[error("{0}")]
    Stale(String),
    /// It is not right in itself.
    #[error("{0}")]
    Invalid(String),
    /// It is foreseen to cost more than its own risk budget allows.
    #[error("{0}")]
    Risk(String),
    /// Not with this token or key.
    #[error("{0}")]
    Forbidden(String),
    /// Only for whoever holds the device's key.
    #[error("{detail}")]
    Prove {
        /// What to do.
        detail: String,
        /// What to sign.
        challenge: String,
    },
    /// Not yet: somebody has to accept the device first.
    #[error("{sentence}")]
    Pending {
        /// What it waits for.
        sentence: String,
        /// When to ask again.
        retry_secs: u64,
    },
    /// Not for this device: it was refused or revoked, or its certificate counts no more.
    #[error("{0}")]
    Dismissed(String),
    /// Not now: the store, the disk or the runner.
    #[error("{0}")]
    Unavailable(String),
}

impl From<StoreError> for ControlError {
    fn from(error: StoreError) -> Self {
        Self::Unavailable(error.to_string())
    }
}

impl From<RunnerError> for ControlError {
    fn from(error: RunnerError) -> Self {
        match error {
            RunnerError::Start { .. } | RunnerError::Unreadable(_) => Self::Unavailable(error.to_string()),
            RunnerError::Refused(_) | RunnerError::Hung(_) | RunnerError::Died { .. } => Self::Invalid(error.to_string()),
        }
    }
}

impl From<BlobError> for ControlError {
    fn from(error: BlobError) -> Self {
        match error {
            BlobError::Digest { .. } | BlobError::TooLarge(_) => Self::Invalid(error.to_string()),
            BlobError::Io { .. } | BlobError::Full(_) | BlobError::Rotten(_) | BlobError::Busy => Self::Unavailable(error.to_string()),
        }
    }
}

/// One device's uplinks, for its page.
#[derive(Debug, Clone, Default)]
pub struct UplinkView {
    /// Counts since the controller started.
    pub tally: Tally,
    /// The latest windows since then, oldest first.
    pub recent: Vec<Glance>,
}

/// Documents that a change touches.
#[derive(Debug, Default)]
pub(super) struct Touched {
    pub(super) devices: BTreeSet<DeviceId>,
    pub(super) cohorts: BTreeSet<Cohort>,
    pub(super) lines: BTreeSet<Line>,
    pub(super) versions: BTreeSet<(Line, Version)>,
    pub(super) rollouts: BTreeSet<RolloutId>,
    pub(super) jobs: BTreeSet<String>,
}

impl Touched {
    /// The touched documents as they are in `state`; one that is gone from it is deleted.
    pub(super) fn writes(&self, state: &Snapshot, ledger: &Ledger) -> Result<Vec<Write>, ControlError> {
        let mut writes = Vec::new();
        for id in &self.devices {
            let device = state.fleet.device(id).map(|device| {
                let uplink = ledger.desk.uplink(id);
                let (status, reported) = (uplink.and_then(|u| u.status), uplink.and_then(|u| u.reported));
                StoredDevice { device: device.as_ref().clone(), status, reported }
            });
            writes.push(document(Kind::Device, id.to_string(), device.as_ref())?);
        }
        for name in &self.cohorts {
            writes.push(document(Kind::Cohort, name.to_string(), state.cohorts.get(name).map(AsRef::as_ref))?);
        }
        for line in &self.lines {
            writes.push(document(Kind::Line, line.to_string(), state.lines.get(line).map(AsRef::as_ref))?);
        }
        for (line, version) in &self.versions {
            let found = state.version(line, version).map(AsRef::as_ref);
            writes.push(document(Kind::Version, format!("{line}/{version}"), found)?);
        }
        for id in &self.rollouts {
            writes.push(document(Kind::Rollout, id.to_string(), state.rollouts.get(id).map(AsRef::as_ref))?);
        }
        for id in &self.jobs {
            writes.push(document(Kind::Job, id.clone(), state.jobs.get(id).map(AsRef::as_ref))?);
        }
        Ok(writes)
    }
}

/// Replace a document, or delete it if there is nothing to put.
pub(super) fn document<T: serde::Serialize>(kind: Kind, key: String, value: Option<&T>) -> Result<Write, ControlError> {
    let Some(value) = value else { return Ok(Write::Delete { kind, key }) };
    let value = serde_json::to_vec(value).map_err(|e| ControlError::Unavailable(format!("{key} cannot be written: {e}")))?;
    Ok(Write::Put { kind, key, value })
}

impl Inner {
    /// The live state. Held for a moment only, never over an `await`.
    pub(super) fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn repository(&self) -> std::sync::RwLockReadGuard<'_, Repository> {
        self.repository.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Take the turn, change a copy of the state, write it down, make it the state.
    pub(super) async fn decide<T>(
        &self,
        change: impl FnOnce(&mut Snapshot, Timestamp) -> Result<(T, Touched, Vec<Draft>), ControlError>,
    ) -> Result<T, ControlError> {
        let _turn = self.turn.lock().await;
        let at = clock::now();
        let mut state = self.ledger().snapshot.clone();
        let (value, touched, events) = change(&mut state, at)?;
        state.revision += 1;
        self.settle(state, &touched, Vec::new(), events, at).await?;
        Ok(value)
    }

    /// Commit a changed state and make it visible. To be called by whoever has the turn.
    pub(super) async fn settle(
        &self,
        state: Snapshot,
        touched: &Touched,
        more: Vec<Write>,
        events: Vec<Draft>,
        at: Timestamp,
    ) -> Result<(), ControlError> {
        let mut writes = touched.writes(&state, &self.ledger())?;
        writes.extend(more);
        // Which side a window counts for depends on where its rollout is. So what was added up is written down with every
        // move, and a replay after a crash never meets a rollout that had moved on.
        let sums = (!touched.rollouts.is_empty()).then(|| super::checkpoint::everything(&self.ledger())).transpose()?;
        let moved = sums.is_some();
        writes.extend(sums.unwrap_or_default());
        self.store.commit(Batch { at, writes, events, urgent: true }).await?;
        let mut ledger = self.ledger();
        ledger.snapshot = state;
        if moved {
            let (devices, turned) = (std::mem::take(&mut ledger.dirty.devices), std::mem::take(&mut ledger.dirty.turned));
            let history = std::mem::take(&mut ledger.dirty.history);
            ledger.dirty = crate::ingest::ledger::Dirty { devices, turned, history, ..Default::default() };
        }
        drop(ledger);
        self.wake.notify_one();
        Ok(())
    }

    /// Publish these devices' desired states soon.
    pub(super) fn publish_later(&self, devices: impl IntoIterator<Item = DeviceId>) {
        self.unpublished.lock().unwrap_or_else(PoisonError::into_inner).extend(devices);
        self.publish.notify_one();
    }
}

impl Controller {
    /// Everything, as of now; copies pointers.
    pub fn snapshot(&self) -> Snapshot {
        self.inner.ledger().snapshot.clone()
    }

    /// Why nothing else happened, as of the latest plan.
    pub fn plan_report(&self) -> Arc<PlanReport> {
        Arc::clone(&self.inner.report.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// The controller's clock.
    pub fn now(&self) -> Timestamp {
        clock::now()
    }

    /// Whether it was told a name that others reach it by.
    pub fn has_public_url(&self) -> bool {
        self.inner.access.public
    }

    /// Whether others reach it by TLS.
    pub fn is_reached_by_tls(&self) -> bool {
        self.inner.tls.is_some() || (self.inner.access.public && self.inner.access.http.starts_with("https://"))
    }

    /// The address that others reach it by.
    pub fn http_address(&self) -> &str {
        self.inner.access.http.trim_end_matches('/')
    }

    /// Whose fleet.
    pub fn tenant(&self) -> &Tenant {
        &self.inner.tenant
    }

    /// A registered manifest, without its golden vectors (those are only needed where a model is loaded).
    pub fn manifest(&self, digest: Digest) -> Option<Arc<Manifest>> {
        self.inner.ledger().manifest(digest).cloned()
    }

    /// One device's uplinks.
    pub fn uplink(&self, device: &DeviceId) -> UplinkView {
        let ledger = self.inner.ledger();
        UplinkView { tally: ledger.tally_of(device), recent: ledger.recent(device).to_vec() }
    }

    /// Look at the live state for a moment: monitors, quality, sums. Nothing may wait in `look`.
    pub fn look<T>(&self, look: impl FnOnce(&Ledger) -> T) -> T {
        look(&self.inner.ledger())
    }

    /// Events after `after`, oldest first.
    pub fn events(&self, after: u64, limit: usize) -> Result<Vec<Event>, StoreError> {
        self.inner.store.events(after, limit)
    }

    /// The newest events, oldest first.
    pub fn last_events(&self, limit: usize) -> Result<Vec<Event>, StoreError> {
        self.inner.store.last_events(limit)
    }

    /// What is on record of what a device said it runs and was told, oldest first.
    pub fn history(&self, device: &DeviceId) -> Result<Vec<Kept>, StoreError> {
        let rows = self.inner.store.history(device.as_str())?;
        // A row of a newer program is not lost, only not understood by this one.
        let read =
            |row: Remembered| serde_json::from_slice(&row.row).ok().map(|said| Kept { n: row.n, at: row.at, event: row.event, row: said });
        Ok(rows.into_iter().filter_map(read).collect())
    }

    /// The newest events about a rollout or a model up to `until`, oldest first.
    pub fn events_about(&self, subject: &str, until: u64, limit: usize) -> Result<Vec<Event>, StoreError> {
        self.inner.store.events_about(subject, until, limit)
    }

    /// Every event from now on. A listener that lags reads on from [`Self::events`].
    pub fn subscribe(&self) -> broadcast::Receiver<Arc<Event>> {
        self.inner.store.subscribe()
    }

    /// Models, manifests, datasets.
    pub fn blobs(&self) -> &Blobs {
        &self.inner.blobs
    }

    /// A file of the repositories: `timestamp.json`, `3.snapshot.json`, `director/1.root.json`.
    pub fn tuf_file(&self, name: &str) -> Option<Bytes> {
        self.inner.repository().file(name)
    }

    /// Why devices cannot be reached now, if so.
    pub fn mqtt_problem(&self) -> Option<String> {
        self.inner.mqtt.problem()
    }

    /// Figures for `/metrics`.
    pub fn metrics(&self) -> MetricsView {
        let (tally, devices, online) = {
            let ledger = self.inner.ledger();
            let fleet = &ledger.snapshot.fleet;
            (ledger.tally.clone(), fleet.len() as u64, fleet.iter().filter(|d| d.presence.online).count() as u64)
        };
        let connections = self.inner.broker.as_ref().map_or(0, Broker::connections);
        self.inner.counters.view(tally, devices, online, connections)
    }

    /// Take in uplinks that came by another way than the broker; returns once they are stored (or refused) and receipted.
    pub async fn take_in(&self, uplinks: Vec<Incoming>) {
        let opened = super::intake::open(&self.inner, uplinks).await;
        super::intake::take_in(&self.inner, opened).await;
    }

    /// Inputs, outputs and operators of an uploaded model.
    pub async fn describe(&self, model: Digest) -> Result<serde_json::Value, ControlError> {
        if self.inner.blobs.length(model).await.is_none() {
            return Err(ControlError::NotFound(format!("there is no blob {model}: upload the model first")));
        }
        Ok(self.inner.runner.describe(&self.inner.blobs.path(model)).await?)
    }
}
