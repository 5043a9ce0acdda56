//! What accepted messages add up to: the live state that snapshots are taken from, and everything derived from reports.
//!
//! One function takes a message in ([`Ledger::take`]), in production and when the log is replayed after a restart, so a crash
//! leads to the same sums. What is derived (evidence of rollouts, drift, which windows were seen) is written down from time to
//! time together with the log's position it reaches to; what lies behind that position is replayed.
//!
//! What stays true: a window is added to a device's sums once; evidence for a rollout counts the candidate's and the baseline's
//! own manifests and no other; nothing here asks a clock.
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use leeway_protocol::digest::Digest;
use leeway_protocol::ids::{BootId, Cohort, DeviceId, RolloutId};
use leeway_protocol::manifest::Manifest;
use leeway_protocol::report::{LATENCY_BUCKETS, WindowReport, latency_bucket};
use leeway_protocol::reported::{DeviceEvent, Reported, Status};
use leeway_protocol::time::Timestamp;
use leeway_protocol::trust::keyring::PublicKey;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{Body, Desk, Message, Refusal, Uplink, Why};
use crate::audit::Draft;
use crate::drift::verdict::{Kind, Verdict};
use crate::drift::{DriftPolicy, Monitor, Setting};
use crate::fleet::{Arm, Device};
use crate::history::{self, Row};
use crate::quality::{Quality, QualityPolicy};
use crate::rollout::Rollout;
use crate::rollout::evidence::latency::Timing;
use crate::rollout::evidence::{Evidence, Metric, Totals};
use crate::snapshot::{CohortHealth, Snapshot};

mod again;
mod asking;
pub mod health;
mod identity;
mod sums;
pub use again::{Frame, Sizes};
use again::{Said, Stands};
pub use sums::contributions;

/// Monitors per cohort: the champion's, a candidate's, and one or two that are on their way out.
const MAX_MONITORS: usize = 4;
/// Windows remembered per device for its page.
pub const MAX_RECENT: usize = 48;
/// A refusal of one kind by one device is an event at most this often; it is always counted.
const REFUSAL_EVENT_MS: i64 = 3_600_000;

/// One device's sums for one rollout.
pub type Sums = BTreeMap<Metric, Totals>;
/// Latencies of the devices of one rollout that have too few of them yet.
pub type Timings = BTreeMap<DeviceId, Timing>;

/// A device as the store has it: with the order of its newest messages, so that an old one cannot come back after a restart.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StoredDevice {
    /// The device.
    pub device: Device,
    /// Order of its newest birth or will.
    #[serde(default)]
    pub status: Option<(BootId, u64)>,
    /// Order of its newest reported state.
    #[serde(default)]
    pub reported: Option<(BootId, u64)>,
}

/// A window as device pages show it.
#[derive(Debug, Clone, PartialEq)]
pub struct Glance {
    /// When it was accepted.
    pub at: Timestamp,
    /// The report.
    pub report: Arc<WindowReport>,
}

/// Counts of what became of uplinks.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tally {
    /// Stored.
    pub accepted: u64,
    /// Seen before.
    pub duplicates: u64,
    /// Refused, by why.
    pub refused: BTreeMap<Why, u64>,
    /// The latest refusal.
    pub last_refusal: Option<(Timestamp, String)>,
}

/// How far into the logs the derived state reaches: the number of the next record, and of the last event.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Position {
    /// In the log of windows.
    pub windows: u64,
    /// In the log of captured rows.
    pub captures: u64,
    /// In the event log.
    pub events: u64,
}

/// What changed since it was last written down.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Dirty {
    /// Devices whose documents changed.
    pub devices: BTreeSet<DeviceId>,
    /// Devices that showed what a rollout is judged by: not to be decided on before they are written down.
    pub turned: BTreeSet<DeviceId>,
    /// Devices of which something new was seen.
    pub uplinks: BTreeSet<DeviceId>,
    /// Monitors that counted something.
    pub monitors: BTreeSet<(Cohort, Digest)>,
    /// Rollouts whose evidence changed.
    pub evidence: BTreeSet<RolloutId>,
    /// Rows for the histories of devices, written with their documents.
    pub history: Vec<(DeviceId, Row)>,
}

impl Dirty {
    /// Put back what could not be written down.
    pub fn extend(&mut self, other: Self) {
        self.devices.extend(other.devices);
        self.turned.extend(other.turned);
        self.uplinks.extend(other.uplinks);
        self.monitors.extend(other.monitors);
        self.evidence.extend(other.evidence);
        // What failed to be written is older than what came since.
        let newer = std::mem::replace(&mut self.history, other.history);
        self.history.extend(newer);
    }
}

/// The live state.
#[derive(Debug, Clone, Default)]
pub struct Ledger {
    /// What the planner may know.
    pub snapshot: Snapshot,
    /// Where messages are judged.
    pub desk: Desk,
    /// How drift is judged.
    pub drift: DriftPolicy,
    /// How quality is judged.
    pub quality: QualityPolicy,
    /// What must be written down.
    pub dirty: Dirty,
    /// How far the derived state reaches.
    pub position: Position,
    /// Over the whole fleet.
    pub tally: Tally,
    keys: BTreeMap<DeviceId, PublicKey>,
    manifests: BTreeMap<Digest, Arc<Manifest>>,
    monitors: BTreeMap<(Cohort, Digest), Monitor>,
    qualities: BTreeMap<(Cohort, Digest), Quality>,
    labelled: BTreeMap<(Cohort, Digest), u64>,
    sums: BTreeMap<RolloutId, BTreeMap<DeviceId, Sums>>,
    timings: BTreeMap<RolloutId, Timings>,
    tallies: BTreeMap<DeviceId, Tally>,
    recent: BTreeMap<DeviceId, Vec<Glance>>,
    told: BTreeMap<(DeviceId, Why), Timestamp>,
    /// Cohorts that counted something since their health was last judged.
    unjudged: BTreeSet<Cohort>,
    /// Alarms that stand, with the kind of event that announced them.
    alarms: BTreeMap<Alarm, &'static str>,
    /// What alarms that began or ended were made from, to be written with their events.
    notes: Vec<Vec<u8>>,
    /// Counting goes by these and not by what is now.
    pinned: Option<Frame>,
    /// The last word of devices that have just come back, until they report.
    returned: BTreeMap<DeviceId, Timestamp>,
}

/// Which stream's alarm: cohort, feature, and the device if it is about an instrument.
type Alarm = (Cohort, String, Option<DeviceId>);

impl Ledger {
    /// Add or replace an enrolled device. A key that cannot be read locks the device out, and nobody else.
    pub fn enrol(&mut self, device: Device) {
        match PublicKey::from_hex(&device.public_key) {
            Ok(key) => drop(self.keys.insert(device.id.clone(), key)),
            Err(_) => drop(self.keys.remove(&device.id)),
        }
        self.dirty.devices.insert(device.id.clone());
        self.snapshot.fleet.insert(device);
        self.snapshot.revision += 1;
    }

    /// Forget a device.
    pub fn dismiss(&mut self, device: &DeviceId) {
        self.snapshot.fleet.remove(device);
        self.snapshot.revision += 1;
        self.keys.remove(device);
        self.desk.forget(device);
        self.tallies.remove(device);
        self.recent.remove(device);
        self.returned.remove(device);
        self.dirty.history.retain(|(of, _)| of != device);
        self.dirty.devices.remove(device);
        self.dirty.turned.remove(device);
        self.dirty.uplinks.remove(device);
    }

    /// Reports about this manifest count from now on.
    pub fn know(&mut self, manifest: Digest, content: Arc<Manifest>) {
        self.desk.know(manifest, &content);
        self.manifests.insert(manifest, content);
    }

    /// A manifest that reports may be about.
    pub fn manifest(&self, digest: Digest) -> Option<&Arc<Manifest>> {
        self.manifests.get(&digest)
    }

    /// The key a device's messages must be signed with.
    pub fn key(&self, device: &DeviceId) -> Option<PublicKey> {
        self.keys.get(device).copied()
    }

    /// What became of a device's uplinks since the controller started.
    pub fn tally_of(&self, device: &DeviceId) -> Tally {
        self.tallies.get(device).cloned().unwrap_or_default()
    }

    /// The latest windows of a device since the controller started, oldest first.
    pub fn recent(&self, device: &DeviceId) -> &[Glance] {
        self.recent.get(device).map_or(&[], Vec::as_slice)
    }

    /// Every monitor.
    pub fn monitors(&self) -> impl Iterator<Item = &Monitor> {
        self.monitors.values()
    }

    /// What a device's document must hold.
    pub fn stored(&self, device: &DeviceId) -> Option<StoredDevice> {
        let uplink = self.desk.uplink(device);
        let (status, reported) = (uplink.and_then(|u| u.status), uplink.and_then(|u| u.reported));
        let device = self.snapshot.fleet.device(device)?.as_ref().clone();
        Some(StoredDevice { device, status, reported })
    }

    /// Put back a device and what was seen of it.
    pub fn restore(&mut self, stored: StoredDevice, uplink: Option<Uplink>) {
        let StoredDevice { device, status, reported } = stored;
        let uplink = Uplink { status, reported, ..uplink.unwrap_or_default() };
        self.desk.restore(device.id.clone(), uplink);
        self.enrol(device);
    }

    /// Count a duplicate.
    pub fn duplicate(&mut self, message: &Message, at: Timestamp) {
        self.tally.duplicates += 1;
        self.tallies.entry(message.device.clone()).or_default().duplicates += 1;
        self.see(&message.device, at);
    }

    /// Count a refusal; what to write into the event log, if this kind was not written there lately. Only verified senders get
    /// a tally or an event of their own: a stranger must not be able to fill memory or the log.
    pub fn refuse(&mut self, refusal: &Refusal, at: Timestamp) -> Option<Draft> {
        let count = |tally: &mut Tally| {
            *tally.refused.entry(refusal.why).or_default() += 1;
            tally.last_refusal = Some((at, refusal.sentence.clone()));
        };
        count(&mut self.tally);
        let (device, ..) = refusal.sender.as_ref()?;
        count(self.tallies.entry(device.clone()).or_default());
        let key = (device.clone(), refusal.why);
        if self.told.get(&key).is_some_and(|last| at.millis_since(*last) < REFUSAL_EVENT_MS) {
            return None;
        }
        self.told.insert(key, at);
        Some(Draft {
            at,
            actor: "controller".to_owned(),
            kind: "uplink.refused".to_owned(),
            subject: format!("devices/{device}"),
            sentence: format!("A message of {device} does not count: {}.", refusal.sentence),
            data: json!({ "why": refusal.why }),
        })
    }

    /// Take in a message that is stored. The same one again changes nothing.
    pub fn take(&mut self, message: &Message, at: Timestamp) {
        if !self.desk.note(message) {
            return;
        }
        self.tally.accepted += 1;
        self.tallies.entry(message.device.clone()).or_default().accepted += 1;
        if matches!(message.body, Body::Status(Status { online: true, .. })) {
            self.note_return(&message.device);
        }
        self.see(&message.device, at);
        match &message.body {
            Body::Status(status) => self.status(&message.device, status, at),
            Body::Reported(reported) => self.reported(&message.device, reported, at),
            Body::Window(window) => {
                self.dirty.uplinks.insert(message.device.clone());
                self.window(&message.device, window, at);
            }
            Body::Capture(batch) => {
                self.dirty.uplinks.insert(message.device.clone());
                let labelled = batch.rows.iter().filter(|row| row.label.is_some()).count() as u64;
                if let Some(cohort) = self.cohort_of(&message.device).filter(|_| labelled > 0) {
                    let key = (cohort, batch.manifest);
                    *self.labelled.entry(key.clone()).or_default() += labelled;
                    self.unjudged.insert(key.0.clone());
                    self.dirty.monitors.insert(key);
                }
            }
            Body::Event(_) => drop(self.dirty.uplinks.insert(message.device.clone())),
        }
    }

    fn cohort_of(&self, device: &DeviceId) -> Option<Cohort> {
        if let Some(frame) = &self.pinned {
            return frame.cohort.clone();
        }
        let device = self.snapshot.fleet.device(device)?;
        self.snapshot.cohort_of(&device).map(|cohort| cohort.name.clone())
    }

    /// What a device's own event says in the event log.
    pub fn event_of(&self, device: &DeviceId, event: &DeviceEvent, at: Timestamp) -> Draft {
        let version = event.manifest.and_then(|m| self.manifests.get(&m)).map(|m| format!("{} {}", m.line, m.version));
        let about = version.as_ref().map_or_else(String::new, |v| format!(" ({v})"));
        let sentence = match &event.reason {
            Some(reason) => format!("{device} {}{about}: {reason}", event.phase.sentence()),
            None => format!("{device} {}{about}.", event.phase.sentence()),
        };
        let phase = serde_json::to_value(event.phase).unwrap_or_default();
        Draft {
            at,
            actor: format!("devices/{device}"),
            kind: format!("device.{}", phase.as_str().unwrap_or("unknown")),
            subject: format!("devices/{device}"),
            sentence,
            data: json!({ "generation": event.generation, "manifest": event.manifest, "reason": event.reason, "device_at": event.at }),
        }
    }

    fn see(&mut self, device: &DeviceId, at: Timestamp) {
        if self.snapshot.fleet.touch(device, at) {
            self.dirty.devices.insert(device.clone());
        }
    }

    fn status(&mut self, device: &DeviceId, status: &Status, at: Timestamp) {
        let Some(mut found) = self.snapshot.fleet.device_mut(device) else { return };
        let presence = &mut found.presence;
        // The will of a connection that another one has replaced says nothing.
        if !status.online && status.session != presence.session {
            return;
        }
        if presence.turn(status.online, at) {
            self.snapshot.revision += 1;
        }
        presence.session = status.session;
        presence.agent = status.agent.chars().take(60).collect();
    }

    fn reported(&mut self, device: &DeviceId, reported: &Reported, at: Timestamp) {
        let away_since = self.returned.remove(device);
        let Some(mut found) = self.snapshot.fleet.device_mut(device) else { return };
        let observed = found.observe(reported.clone(), at);
        drop(found);
        self.snapshot.revision += 1;
        let is_news = observed.active.is_some() || observed.phase.is_some_and(history::is_outcome);
        if is_news {
            self.dirty.history.push((device.clone(), Row::said(reported, away_since)));
        }
        if is_news || observed.counts() {
            self.dirty.turned.insert(device.clone());
        }
    }

    fn window(&mut self, device: &DeviceId, window: &WindowReport, at: Timestamp) {
        let recent = self.recent.entry(device.clone()).or_default();
        recent.push(Glance { at, report: Arc::new(window.clone()) });
        if recent.len() > MAX_RECENT {
            recent.remove(0);
        }
        if let Some(found) = self.snapshot.fleet.device(device) {
            self.evidence(&found, window, at);
        }
        if let Some(cohort) = self.cohort_of(device) {
            self.observe(cohort, device, window);
        }
        self.snapshot.revision += 1;
    }

    /// Add a window to every rollout it speaks about.
    fn evidence(&mut self, device: &Device, window: &WindowReport, at: Timestamp) {
        let rollouts = Arc::clone(&self.snapshot.rollouts);
        let Some(manifest) = self.manifests.get(&window.manifest).cloned() else { return };
        for rollout in rollouts.values().filter(|r| r.state.is_judged() && r.spec.line == manifest.line) {
            self.evidence_for(rollout, device, window, &manifest, at);
        }
    }

    /// Add a window to what is watched about its cohort.
    fn observe(&mut self, cohort: Cohort, device: &DeviceId, window: &WindowReport) {
        let Some(manifest) = self.manifests.get(&window.manifest).cloned() else { return };
        let key = (cohort.clone(), window.manifest);
        let sizes = self.sizes();
        let setting = Setting { reference: &manifest.reference, policy: &self.drift, devices: sizes.devices, cohorts: sizes.monitors };
        if !self.monitors.contains_key(&key) {
            // Instruments known to be broken stay so under a new model: it takes them over from the cohort's latest monitor.
            let previous = self.monitors.range((cohort.clone(), Digest::from_bytes([0; 32]))..).take_while(|((c, _), _)| *c == cohort);
            let previous = previous.map(|(_, monitor)| monitor).max_by_key(|monitor| monitor.broken().len());
            let fresh = match previous {
                Some(previous) => previous.rebase(window.manifest, &manifest.reference),
                None => Monitor::new(cohort, window.manifest, &manifest.reference),
            };
            self.monitors.insert(key.clone(), fresh);
        }
        if let Some(monitor) = self.monitors.get_mut(&key) {
            // A window that came too late for its block is counted by the monitor itself; it still counts for everything else.
            let _ = monitor.observe(&setting, device, window);
        }
        let quality = self.qualities.entry(key.clone()).or_insert_with(|| Quality::of(window.manifest, &manifest));
        quality.observe(&self.quality, &manifest.calibration, device, window);
        self.unjudged.insert(key.0.clone());
        self.dirty.monitors.insert(key);
    }

    /// What is derived about one manifest in one cohort, to be written down.
    pub fn derived(&self, cohort: &Cohort, manifest: Digest) -> (Option<Monitor>, Option<Quality>, u64) {
        let key = (cohort.clone(), manifest);
        (self.monitors.get(&key).cloned(), self.qualities.get(&key).cloned(), self.labelled.get(&key).copied().unwrap_or(0))
    }

    /// Put that back.
    pub fn restore_derived(&mut self, cohort: Cohort, manifest: Digest, drift: Option<Monitor>, quality: Option<Quality>, labelled: u64) {
        let key = (cohort, manifest);
        self.unjudged.insert(key.0.clone());
        self.labelled.insert(key.clone(), labelled);
        if let Some(drift) = drift {
            self.monitors.insert(key.clone(), drift);
        }
        if let Some(quality) = quality {
            self.qualities.insert(key, quality);
        }
    }

    /// What was added up for one rollout, to be written down.
    pub fn evidence_of(&self, rollout: &RolloutId) -> Option<(Evidence, BTreeMap<DeviceId, Sums>, Timings)> {
        let evidence = self.snapshot.evidence.get(rollout)?.as_ref().clone();
        let (sums, timings) = (self.sums.get(rollout), self.timings.get(rollout));
        Some((evidence, sums.cloned().unwrap_or_default(), timings.cloned().unwrap_or_default()))
    }

    /// Put that back.
    pub fn restore_evidence(&mut self, rollout: RolloutId, evidence: Evidence, sums: BTreeMap<DeviceId, Sums>, timings: Timings) {
        Arc::make_mut(&mut self.snapshot.evidence).insert(rollout.clone(), Arc::new(evidence));
        self.sums.insert(rollout.clone(), sums);
        self.timings.insert(rollout, timings);
    }

    /// Counts begin anew with the program.
    pub fn forget_tallies(&mut self) {
        self.tally = Tally::default();
        self.tallies.clear();
    }

    /// Forget monitors and sums that nothing needs any more: of manifests that neither serve nor are on trial.
    pub fn tidy(&mut self) -> Vec<(Cohort, Digest)> {
        let open: BTreeSet<&RolloutId> = self.snapshot.rollouts.values().filter(|r| !r.state.is_over()).map(|r| &r.id).collect();
        self.sums.retain(|id, _| open.contains(id));
        self.timings.retain(|id, _| open.contains(id));
        let mut wanted = BTreeSet::new();
        for line in self.snapshot.lines.values() {
            let versions = line.champion().into_iter().chain(line.aliases.current(crate::registry::Alias::Challenger));
            wanted.extend(versions.filter_map(|v| self.snapshot.version(&line.line, v)).map(|v| v.manifest.digest));
        }
        let mut per_cohort: BTreeMap<&Cohort, usize> = BTreeMap::new();
        for (cohort, _) in self.monitors.keys() {
            *per_cohort.entry(cohort).or_default() += 1;
        }
        let crowded = |cohort: &Cohort| per_cohort.get(cohort).is_some_and(|n| *n > MAX_MONITORS);
        let gone: Vec<_> = self.monitors.keys().filter(|(cohort, m)| crowded(cohort) && !wanted.contains(m)).cloned().collect();
        for key in &gone {
            self.monitors.remove(key);
            self.dirty.monitors.remove(key);
        }
        gone
    }
}
