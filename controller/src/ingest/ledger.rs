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
use crate::quality::{Quality, QualityPolicy};
use crate::rollout::Rollout;
use crate::rollout::evidence::{Evidence, Metric, Totals};
use crate::snapshot::{CohortHealth, Snapshot};

/// Monitors per cohort: the champion's, a candidate's, and one or two that are on their way out.
const MAX_MONITORS: usize = 4;
/// Windows remembered per device for its page.
pub const MAX_RECENT: usize = 48;
/// A refusal of one kind by one device is an event at most this often; it is always counted.
const REFUSAL_EVENT_MS: i64 = 3_600_000;

/// One device's sums for one rollout.
pub type Sums = BTreeMap<Metric, Totals>;

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
    /// Devices of which something new was seen.
    pub uplinks: BTreeSet<DeviceId>,
    /// Monitors that counted something.
    pub monitors: BTreeSet<(Cohort, Digest)>,
    /// Rollouts whose evidence changed.
    pub evidence: BTreeSet<RolloutId>,
}

impl Dirty {
    /// Put back what could not be written down.
    pub fn extend(&mut self, other: Self) {
        self.devices.extend(other.devices);
        self.uplinks.extend(other.uplinks);
        self.monitors.extend(other.monitors);
        self.evidence.extend(other.evidence);
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
    tallies: BTreeMap<DeviceId, Tally>,
    recent: BTreeMap<DeviceId, Vec<Glance>>,
    told: BTreeMap<(DeviceId, Why), Timestamp>,
    /// Cohorts that counted something since their health was last judged.
    unjudged: BTreeSet<Cohort>,
    /// Alarms that stand, with what was said about them.
    alarms: BTreeMap<Alarm, String>,
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
        self.dirty.devices.remove(device);
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
        let device = self.snapshot.fleet.device(device)?;
        self.snapshot.cohort_of(device).map(|cohort| cohort.name.clone())
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
        if let Some(found) = self.snapshot.fleet.device_mut(device) {
            found.presence.last_seen = Some(at);
            self.dirty.devices.insert(device.clone());
        }
    }

    fn status(&mut self, device: &DeviceId, status: &Status, at: Timestamp) {
        let Some(found) = self.snapshot.fleet.device_mut(device) else { return };
        let presence = &mut found.presence;
        // The will of a connection that another one has replaced says nothing.
        if !status.online && status.session != presence.session {
            return;
        }
        if presence.online != status.online {
            presence.online = status.online;
            presence.changed_at = Some(at);
            self.snapshot.revision += 1;
        }
        presence.session = status.session;
        presence.agent = status.agent.chars().take(60).collect();
    }

    fn reported(&mut self, device: &DeviceId, reported: &Reported, at: Timestamp) {
        let Some(found) = self.snapshot.fleet.device_mut(device) else { return };
        found.observe(reported.clone(), at);
        self.snapshot.revision += 1;
    }

    fn window(&mut self, device: &DeviceId, window: &WindowReport, at: Timestamp) {
        let recent = self.recent.entry(device.clone()).or_default();
        recent.push(Glance { at, report: Arc::new(window.clone()) });
        if recent.len() > MAX_RECENT {
            recent.remove(0);
        }
        let Some(found) = self.snapshot.fleet.device(device).cloned() else { return };
        self.evidence(&found, window, at);
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

    fn evidence_for(&mut self, rollout: &Rollout, device: &Device, window: &WindowReport, manifest: &Manifest, at: Timestamp) {
        let spec = &rollout.spec;
        let Some(candidate) = self.snapshot.version(&spec.line, &spec.version).map(|v| v.manifest.digest) else { return };
        let baseline = spec.baseline.as_ref().and_then(|b| self.snapshot.version(&spec.line, b)).map(|v| v.manifest.digest);
        let is_candidate = window.manifest == candidate;
        let arm = rollout.arm_of(device, window.manifest, candidate, baseline);
        if !is_candidate && arm.is_none() {
            return;
        }
        let all = Arc::make_mut(&mut self.snapshot.evidence);
        let evidence = Arc::make_mut(all.entry(rollout.id.clone()).or_default());
        if evidence.manifest != Some(candidate) {
            *evidence = Evidence { manifest: Some(candidate), ..Evidence::default() };
        }
        // Controls count from the canaries' first window on, so that both sides saw the same days.
        if arm == Some(Arm::Control) && evidence.inferences == 0 {
            return;
        }
        let devices = self.sums.entry(rollout.id.clone()).or_default();
        let known = devices.contains_key(&device.id);
        let sums = devices.entry(device.id.clone()).or_default();
        if is_candidate {
            evidence.inferences += window.inferences;
            evidence.errors += window.errors.against_model();
            evidence.devices += u64::from(!known);
            evidence.last_at = Some(at);
        }
        if let Some(arm) = arm {
            for (metric, more) in contributions(window, manifest) {
                let old = sums.get(&metric).copied().unwrap_or_default();
                let new = Totals { n: old.n + more.n, x: old.x + more.x };
                sums.insert(metric, new);
                let arms = evidence.arms.entry(metric).or_default();
                match arm {
                    Arm::Canary => arms.canary.replace(old, new),
                    Arm::Control => arms.control.replace(old, new),
                }
            }
        }
        self.dirty.evidence.insert(rollout.id.clone());
    }

    /// Add a window to what is watched about its cohort.
    fn observe(&mut self, cohort: Cohort, device: &DeviceId, window: &WindowReport) {
        let Some(manifest) = self.manifests.get(&window.manifest).cloned() else { return };
        let key = (cohort.clone(), window.manifest);
        let cohorts = self.monitors.len().max(1) as u64;
        let setting =
            Setting { reference: &manifest.reference, policy: &self.drift, devices: self.snapshot.fleet.len().max(1) as u64, cohorts };
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

    fn setting<'a>(&'a self, manifest: &'a Manifest) -> Setting<'a> {
        let (devices, cohorts) = (self.snapshot.fleet.len().max(1) as u64, self.monitors.len().max(1) as u64);
        Setting { reference: &manifest.reference, policy: &self.drift, devices, cohorts }
    }

    /// The manifest that a cohort's champion has.
    pub fn champion_of(&self, cohort: &Cohort) -> Option<Digest> {
        let line = &self.snapshot.cohorts.get(cohort)?.line;
        let version = self.snapshot.lines.get(line)?.champion()?;
        self.snapshot.version(line, version).map(|v| v.manifest.digest)
    }

    /// What is known about the world of one cohort under one manifest: a verdict per feature, the most harmful first.
    pub fn world(&self, cohort: &Cohort, manifest: Digest) -> Vec<Verdict> {
        self.verdicts(cohort, manifest, Monitor::world)
    }

    /// Instruments under alarm in one cohort under one manifest, the surest first.
    pub fn instruments(&self, cohort: &Cohort, manifest: Digest) -> Vec<Verdict> {
        self.monitors.get(&(cohort.clone(), manifest)).map(Monitor::instruments).unwrap_or_default()
    }

    fn verdicts(&self, cohort: &Cohort, manifest: Digest, of: impl Fn(&Monitor, &Setting<'_>) -> Vec<Verdict>) -> Vec<Verdict> {
        let monitor = self.monitors.get(&(cohort.clone(), manifest));
        let Some((monitor, content)) = monitor.zip(self.manifests.get(&manifest)) else { return Vec::new() };
        of(monitor, &self.setting(content))
    }

    /// Quality of every manifest that served a cohort, for charts and verdicts.
    pub fn qualities(&self, cohort: &Cohort) -> impl Iterator<Item = &Quality> {
        let of = cohort.clone();
        let first = (cohort.clone(), Digest::from_bytes([0; 32]));
        self.qualities.range(first..).take_while(move |((c, _), _)| *c == of).map(|(_, quality)| quality)
    }

    /// A technician has seen to a device: it learns a new base, and its alarms end.
    pub fn repaired(&mut self, device: &DeviceId) {
        for (key, monitor) in &mut self.monitors {
            monitor.repaired(device);
            self.dirty.monitors.insert(key.clone());
            self.unjudged.insert(key.0.clone());
        }
    }

    /// Judge every cohort that counted something since the last time; what to write into the event log about alarms that began
    /// or ended.
    pub fn refresh_health(&mut self, at: Timestamp) -> Vec<Draft> {
        let cohorts = std::mem::take(&mut self.unjudged);
        let mut events = Vec::new();
        for cohort in cohorts {
            let Some(manifest) = self.champion_of(&cohort) else { continue };
            let (world, instruments) = (self.world(&cohort, manifest), self.instruments(&cohort, manifest));
            let mut health = CohortHealth { manifest: Some(manifest), ..CohortHealth::default() };
            let mut standing = BTreeMap::new();
            for verdict in world.iter().chain(&instruments).filter(|v| v.moved) {
                if verdict.device.is_none() {
                    health.moved.insert(verdict.feature.clone(), verdict.sentence.clone());
                    if verdict.kind != Kind::Input {
                        health.outputs.insert(verdict.feature.clone());
                    }
                }
                standing.insert((cohort.clone(), verdict.feature.clone(), verdict.device.clone()), verdict.sentence.clone());
            }
            self.judge_quality(&cohort, manifest, &mut health, &mut standing);
            events.extend(self.announce(&cohort, standing, at));
            let known = self.snapshot.health.get(&cohort).map(AsRef::as_ref);
            if known != Some(&health) {
                Arc::make_mut(&mut self.snapshot.health).insert(cohort, Arc::new(health));
                self.snapshot.revision += 1;
            }
        }
        events
    }

    fn judge_quality(&self, cohort: &Cohort, manifest: Digest, health: &mut CohortHealth, standing: &mut BTreeMap<Alarm, String>) {
        health.labelled_rows = self.labelled.iter().filter(|((c, _), _)| c == cohort).map(|(_, n)| n).sum();
        let Some(quality) = self.qualities.get(&(cohort.clone(), manifest)) else { return };
        let verdict = quality.verdict(&self.quality, self.qualities.len().max(1) as u64);
        health.expected_accuracy = verdict.expected;
        health.estimated_accuracy = verdict.estimated;
        health.measured_accuracy = verdict.measured.map(|m| (m.estimate, verdict.labels));
        if verdict.concept_drift {
            // The labels changed their meaning: an alarm of its own, though no input moved.
            health.concept_drift = true;
            health.moved.insert(CONCEPT.to_owned(), verdict.sentence.clone());
            standing.insert((cohort.clone(), CONCEPT.to_owned(), None), verdict.sentence);
        }
    }

    /// Alarms of one cohort that began or ended.
    fn announce(&mut self, cohort: &Cohort, standing: BTreeMap<Alarm, String>, at: Timestamp) -> Vec<Draft> {
        let event = |kind: &str, alarm: &Alarm, sentence: String| {
            let (cohort, feature, device) = alarm;
            let subject = device.as_ref().map_or_else(|| format!("cohorts/{cohort}"), |d| format!("devices/{d}"));
            let data = json!({ "cohort": cohort, "feature": feature, "device": device });
            Draft { at, actor: "controller".to_owned(), kind: kind.to_owned(), subject, sentence, data }
        };
        let mut events = Vec::new();
        for (alarm, sentence) in &standing {
            if !self.alarms.contains_key(alarm) {
                let kind = if alarm.2.is_some() { "drift.instrument" } else { "drift.world" };
                events.push(event(kind, alarm, sentence.clone()));
            }
        }
        for alarm in self.alarms.keys().filter(|alarm| alarm.0 == *cohort && !standing.contains_key(*alarm)) {
            events.push(event("drift.ended", alarm, format!("The alarm about {} at {} no longer stands.", alarm.1, alarm.0)));
        }
        self.alarms.retain(|alarm, _| alarm.0 != *cohort);
        self.alarms.extend(standing);
        events
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
    pub fn evidence_of(&self, rollout: &RolloutId) -> Option<(Evidence, BTreeMap<DeviceId, Sums>)> {
        let evidence = self.snapshot.evidence.get(rollout)?.as_ref().clone();
        Some((evidence, self.sums.get(rollout).cloned().unwrap_or_default()))
    }

    /// Put that back.
    pub fn restore_evidence(&mut self, rollout: RolloutId, evidence: Evidence, sums: BTreeMap<DeviceId, Sums>) {
        Arc::make_mut(&mut self.snapshot.evidence).insert(rollout.clone(), Arc::new(evidence));
        self.sums.insert(rollout, sums);
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

/// The name under which an alarm of the labels' own detector stands beside the features'.
const CONCEPT: &str = "labels";

/// What one window adds to each metric.
pub fn contributions(window: &WindowReport, manifest: &Manifest) -> Vec<(Metric, Totals)> {
    let errors = window.errors.against_model();
    let asked = (window.inferences + errors) as f64;
    let mut out = vec![(Metric::ErrorRatio, Totals { n: asked, x: errors as f64 })];
    // Slow is what lies in buckets wholly above the signed limit.
    let limit = latency_bucket(manifest.limits.p99_us.saturating_mul(1000));
    let timed: f64 = window.latency.iter().map(|&n| f64::from(n)).sum();
    let slow: f64 = window.latency.iter().skip((limit + 1).min(LATENCY_BUCKETS)).map(|&n| f64::from(n)).sum();
    out.push((Metric::SlowRatio, Totals { n: timed, x: slow }));
    let labels = window.labels();
    if labels.rows > 0 {
        out.push((Metric::LabelledAccuracy, Totals { n: labels.rows as f64, x: labels.correct as f64 }));
    }
    let decided: f64 = window.confidence.iter().map(|&n| f64::from(n)).sum();
    if decided > 0.0 && manifest.calibration.accuracy.len() == window.confidence.len() {
        let expected = window.confidence.iter().zip(&manifest.calibration.accuracy).map(|(&n, accuracy)| f64::from(n) * accuracy).sum();
        out.push((Metric::EstimatedAccuracy, Totals { n: decided, x: expected }));
    }
    out
}
