//! The controller's pure core joined with simulated devices: real ingestion, real evidence, real planner, in virtual time.
//!
//! What stands in for the store is a list that a kill empties; what stands in for people presses "retry" and "resume" once the
//! storm is over. Everything that is decided is decided by `planner::plan`; what it must never decide, and what must never come
//! of it, is checked here at the moment it would happen.
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use leeway_controller::fleet::bucket::quota;
use leeway_controller::fleet::{CohortDoc, Device, Selector};
use leeway_controller::ingest::lives::mark;
use leeway_controller::ingest::{Body, Ledger, Message, Standing};
use leeway_controller::planner::{Plan, Policy, Step, plan};
use leeway_controller::registry::{ModelLine, ModelVersion, Role, VersionStatus};
use leeway_controller::rollout::gate::blames_model;
use leeway_controller::rollout::{Actor, Move, Rollout, RolloutPolicy, RolloutSpec, RolloutState};
use leeway_firmware_sim::authority::{Authority, Downlink};
use leeway_firmware_sim::press::Press;
use leeway_firmware_sim::scenario::Act;
use leeway_firmware_sim::uplink::{Said, Uplink};
use leeway_firmware_sim::watch::Invariant;
use leeway_protocol::assignment::{Assignment, Intent};
use leeway_protocol::digest::Digest;
use leeway_protocol::ids::{BootId, DeviceId, Generation, RolloutId};
use leeway_protocol::manifest::{Lineage, Manifest};
use leeway_protocol::reported::{Phase, Receipt};
use leeway_protocol::time::Timestamp;
use leeway_protocol::topic::Channel;
use leeway_protocol::trust::envelope::{self, Kind};
use leeway_protocol::trust::keyring::PublicKey;

/// A desired state that a device has not seen is published again after so long; a lossy broker may have dropped it.
const REPEAT_MS: i64 = 10_000;
/// A device that failed for a reason of its own is told again after so long.
const RETRY_MS: i64 = 30_000;
const MINUTE_MS: i64 = 60_000;
/// Regions the devices are in, one cohort each.
const REGIONS: [&str; 3] = ["coast", "hills", "plain"];

type Order = (DeviceId, u64, u64);

/// The controller.
pub(crate) struct Controller {
    ledger: Ledger,
    policy: Policy,
    rollouts: RolloutPolicy,
    /// Arrived and not stored: gone when it is killed.
    pending: Vec<Message>,
    /// Will never count; receipted all the same.
    refused: Vec<Order>,
    stored: BTreeSet<Order>,
    /// Inferences in stored windows, by manifest; each window once.
    inferences: BTreeMap<Digest, u64>,
    windows: BTreeSet<(DeviceId, Digest, u64)>,
    sent_at: BTreeMap<DeviceId, Timestamp>,
    /// Devices that a rollout told to install within the last minute, and when.
    told: BTreeMap<(DeviceId, RolloutId), Timestamp>,
    /// Devices that ever answered with a version, by its manifest.
    exposed: BTreeMap<Digest, BTreeSet<DeviceId>>,
    /// The furthest stage a version's rollout came to.
    furthest: BTreeMap<Digest, usize>,
    broken: VecDeque<(Invariant, DeviceId, String)>,
    boot: u64,
    counter: u64,
}

impl Controller {
    /// The controller of these devices, which are enrolled.
    pub(crate) fn new(devices: &[(DeviceId, PublicKey)], press: &Press, now: Timestamp, rollouts: RolloutPolicy) -> Self {
        assert_eq!(rollouts.check(), Ok(()));
        let mut ledger = Ledger::default();
        let state = &mut ledger.snapshot;
        Arc::make_mut(&mut state.lines).insert(press.line().clone(), Arc::new(ModelLine::new(press.line().clone(), now)));
        for region in REGIONS {
            let selector: Selector = format!("region={region}").parse().expect("a selector");
            let name: leeway_protocol::ids::Cohort = region.parse().expect("a name");
            let cohort =
                CohortDoc { name: name.clone(), line: press.line().clone(), selector, rank: 0, last_known_good: None, created_at: now };
            Arc::make_mut(&mut state.cohorts).insert(name, Arc::new(cohort));
        }
        for (number, (device, key)) in devices.iter().enumerate() {
            let labels = BTreeMap::from([("region".to_owned(), REGIONS[number % REGIONS.len()].to_owned())]);
            ledger.enrol(Device::new(device.clone(), key.hex(), labels, now));
        }
        let settings = rollouts.settings;
        Self {
            ledger,
            policy: Policy { settings, retry_after_ms: RETRY_MS, ..Policy::default() },
            rollouts,
            pending: Vec::new(),
            refused: Vec::new(),
            stored: BTreeSet::new(),
            inferences: BTreeMap::new(),
            windows: BTreeSet::new(),
            sent_at: BTreeMap::new(),
            told: BTreeMap::new(),
            exposed: BTreeMap::new(),
            furthest: BTreeMap::new(),
            broken: VecDeque::new(),
            boot: 1,
            counter: 0,
        }
    }

    /// Rollouts by name, with their phase and why.
    pub(crate) fn rollouts(&self) -> impl Iterator<Item = &Rollout> {
        self.ledger.snapshot.rollouts.values().map(AsRef::as_ref)
    }

    fn release(&mut self, press: &Press, now: Timestamp) {
        let Some(release) = press.releases().last() else { return };
        let digest = release.manifest();
        let manifest = press.blob(&digest).and_then(|bytes| Manifest::parse(bytes).ok()).expect("a manifest that adds up");
        let version = ModelVersion {
            line: release.named.line.clone(),
            version: release.named.version.clone(),
            seq: release.custom.seq,
            manifest: release.custom.manifest,
            model: release.model,
            io: release.custom.io,
            role: Role::Release,
            signer: release.named.line.to_string(),
            lineage: Lineage::default(),
            provenance: None,
            bundle: None,
            published_at: now,
            status: VersionStatus::Published,
            poisoned_for: Vec::new(),
        };
        self.ledger.know(digest, Arc::new(manifest));
        let state = &mut self.ledger.snapshot;
        let baseline = state.lines.get(&version.line).and_then(|line| line.champion().cloned());
        let spec = RolloutSpec { line: version.line.clone(), version: version.version.clone(), baseline, policy: self.rollouts.clone() };
        let id: RolloutId = format!("r{}", version.version).parse().expect("a name");
        let rollout = Rollout::new(id.clone(), spec, "The story wants it.".to_owned(), Actor::Person("ada".to_owned()), now);
        Arc::make_mut(&mut state.versions).insert((version.line.clone(), version.version.clone()), Arc::new(version));
        Arc::make_mut(&mut state.rollouts).insert(id, Arc::new(rollout));
        state.revision += 1;
    }

    fn commit(&mut self, now: Timestamp) -> Vec<Order> {
        let mut receipts = Vec::new();
        for message in std::mem::take(&mut self.pending) {
            let before = self.ledger.tally.accepted;
            self.ledger.take(&message, now);
            let counted = self.ledger.tally.accepted - before;
            if let Body::Window(window) = &message.body {
                let first = self.windows.insert((message.device.clone(), window.manifest, window.window.0));
                if counted != u64::from(first) {
                    let what = format!("window {:?} of {} was counted {counted} times more", window.window, window.manifest.short());
                    self.broken.push_back((Invariant::CountedExactlyOnce, message.device.clone(), what));
                }
                *self.inferences.entry(window.manifest).or_default() += if first { window.inferences } else { 0 };
            }
            if let Body::Reported(reported) = &message.body {
                self.heard(&message.device, reported);
            }
            receipts.push((message.device.clone(), message.boot.0, message.counter));
        }
        receipts
    }

    /// A device that has heard of the rollback must not commit what it takes back.
    fn heard(&mut self, device: &DeviceId, reported: &leeway_protocol::reported::Reported) {
        let (Phase::Committed, Some(active)) = (reported.phase, &reported.active) else { return };
        let told = self.ledger.snapshot.fleet.device(device).and_then(|d| d.desired.clone());
        let heard = told.is_some_and(|told| told.generation <= reported.generation && told.manifest != Some(active.manifest));
        if heard && self.taken_back(active.manifest) {
            let what = format!("committed {} under generation {} although it heard of the rollback", active.version, reported.generation);
            self.broken.push_back((Invariant::NoCommitAfterRollback, device.clone(), what));
        }
    }

    fn rollout_of(&self, manifest: Digest) -> Option<&Arc<Rollout>> {
        let version = self.ledger.snapshot.by_manifest(manifest)?;
        self.ledger.snapshot.rollouts.values().find(|r| r.spec.version == version.version)
    }

    fn taken_back(&self, manifest: Digest) -> bool {
        let state = self.rollout_of(manifest).map(|rollout| &rollout.state);
        matches!(state, Some(RolloutState::RollingBack { .. } | RolloutState::RolledBack { .. } | RolloutState::Aborted { .. }))
    }

    fn carry_out(&mut self, plan: &Plan, now: Timestamp) {
        let mut state = self.ledger.snapshot.clone();
        for step in &plan.steps {
            self.check(step, now);
            state.apply(step, now).expect("a plan fits the snapshot it was made from");
            if let Step::SetDesired { device, .. } = step {
                self.sent_at.remove(device);
            }
        }
        self.ledger.snapshot = state;
        let stages: Vec<(Digest, usize)> = self
            .rollouts()
            .filter_map(|r| Some((self.ledger.snapshot.version(&r.spec.line, &r.spec.version)?.manifest.digest, r)))
            .filter_map(|(manifest, r)| {
                Some((manifest, if matches!(r.state, RolloutState::Completed { .. }) { usize::MAX } else { r.state.stage()? }))
            })
            .collect();
        for (manifest, stage) in stages {
            let furthest = self.furthest.entry(manifest).or_default();
            *furthest = stage.max(*furthest);
        }
    }

    /// What no plan may hold.
    fn check(&mut self, step: &Step, now: Timestamp) {
        match step {
            Step::SetDesired { device, desired, .. } => {
                let last = self.ledger.snapshot.fleet.device(device).and_then(|d| d.desired.as_ref().map(|d| d.generation));
                if last.is_some_and(|last| desired.generation <= last) {
                    let what = format!("was told generation {} after {last:?}", desired.generation);
                    self.broken.push_back((Invariant::GenerationsNeverGoDown, device.clone(), what));
                }
                if desired.manifest.is_some_and(|manifest| self.taken_back(manifest)) {
                    let what = format!("was told {:?} after its rollback was planned", desired.version);
                    self.broken.push_back((Invariant::NoCommitAfterRollback, device.clone(), what));
                }
                if desired.intent == Intent::Install
                    && let Some(rollout) = &desired.rollout
                {
                    // A device that is told again in the same minute is one device.
                    self.told.insert((device.clone(), rollout.clone()), now);
                    self.told.retain(|_, told| now.millis_since(*told) < MINUTE_MS);
                    let told = self.told.keys().filter(|(_, by)| by == rollout).count();
                    if told > self.rollouts.max_per_minute as usize {
                        let what = format!("{told} devices were told within a minute");
                        self.broken.push_back((Invariant::ExposureWithinCap, device.clone(), what));
                    }
                }
            }
            Step::MoveRollout { rollout, to: Move::Advance { .. } | Move::Complete { .. } } => self.check_pass(rollout),
            _ => {}
        }
    }

    /// A gate that opens must have heard of enough inferences of that very model.
    fn check_pass(&mut self, rollout: &RolloutId) {
        let state = &self.ledger.snapshot;
        let Some(rollout) = state.rollouts.get(rollout) else { return };
        let Some(version) = state.version(&rollout.spec.line, &rollout.spec.version) else { return };
        let heard = self.inferences.get(&version.manifest.digest).copied().unwrap_or(0);
        if heard < rollout.spec.policy.gate.min_inferences {
            let Some(device) = state.fleet.iter().next().map(|d| d.id.clone()) else { return };
            let what = format!("{} passed a gate after {heard} inferences were heard of", rollout.spec.version);
            self.broken.push_back((Invariant::NoDataIsNoPass, device, what));
        }
    }

    fn receipts(&mut self, press: &Press, stored: Vec<Order>) -> Vec<Downlink> {
        let mut by_device: BTreeMap<DeviceId, Vec<(u64, u64)>> = BTreeMap::new();
        for (device, boot, counter) in stored {
            self.stored.insert((device.clone(), boot, counter));
            by_device.entry(device).or_default().push((boot, counter));
        }
        let mut downlinks = Vec::new();
        for (device, stored) in by_device {
            self.counter += 1;
            let body = serde_json::to_vec(&Receipt { v: 1, stored }).expect("numbers");
            let sealed = envelope::seal(&press.signer().director, &device, BootId(self.boot), self.counter, Kind::Receipt, &body);
            downlinks.push(Downlink { device, channel: Channel::Receipt, bytes: sealed.expect("a short message") });
        }
        downlinks
    }

    fn speak(&mut self, press: &Press, now: Timestamp) -> Vec<Downlink> {
        let due = |device: &Device| match self.sent_at.get(&device.id) {
            Some(sent) => !device.has_seen_desired() && now.millis_since(*sent) > REPEAT_MS,
            None => true,
        };
        let devices: Vec<Arc<Device>> = self.ledger.snapshot.fleet.iter().filter(|d| d.desired.is_some() && due(d)).cloned().collect();
        devices
            .iter()
            .map(|device| {
                self.sent_at.insert(device.id.clone(), now);
                Downlink { device: device.id.clone(), channel: Channel::Desired, bytes: self.sign(device, press, now) }
            })
            .collect()
    }

    fn sign(&self, device: &Device, press: &Press, now: Timestamp) -> Vec<u8> {
        let desired = device.desired.as_ref().expect("only devices that were told");
        let release = desired.manifest.and_then(|manifest| press.by_manifest(&manifest));
        let settings = desired.settings;
        let assignment = Assignment {
            v: 1,
            device: device.id.clone(),
            generation: desired.generation,
            intent: desired.intent,
            release: release.map(|release| release.named.clone()),
            rollout: desired.rollout.clone(),
            reason: desired.reason.clone(),
            issued_at: desired.issued_at,
            spread_ms: settings.spread_ms,
            window: settings.window,
            shadow: settings.shadow,
            probation: settings.probation,
            windows: settings.windows,
            capture: settings.capture,
            avoid: Vec::new(),
        };
        let target = release.map(|release| release.directed());
        press.signer().sign_assignment(&assignment, target.as_ref(), now).expect("a short document")
    }
}

impl Authority for Controller {
    fn act(&mut self, now: Timestamp, act: Act, press: &Press) {
        match act {
            Act::Release(_) => self.release(press, now),
            Act::Restart => {
                self.pending.clear();
                self.sent_at.clear();
                self.boot += 1;
            }
            _ => {}
        }
    }

    fn uplink(&mut self, now: Timestamp, device: &DeviceId, uplink: &Uplink) {
        let body = match uplink.said.clone() {
            Said::Status(status) => Body::Status(status),
            Said::Reported(reported) => Body::Reported(reported),
            Said::Window(window) => Body::Window(window),
            Said::Capture(batch) => Body::Capture(batch),
            Said::Event(event) => Body::Event(event),
        };
        let mark = mark(format!("{body:?}").as_bytes());
        let message = Message { device: device.clone(), boot: uplink.boot, counter: uplink.counter, mark, body };
        // Every simulated device has its own key, and no storm makes two of one.
        let two = self.ledger.compare(&message, now);
        assert!(two.is_none(), "{}", two.map(|draft| draft.sentence).unwrap_or_default());
        match self.ledger.desk.judge(&message) {
            Ok(Standing::New | Standing::Duplicate) => self.pending.push(message),
            // Verified, and will never count: the device is told to forget it.
            Err(_) if uplink.wants_receipt() => self.refused.push((device.clone(), uplink.boot.0, uplink.counter)),
            Err(_) => {}
        }
    }

    fn tick(&mut self, now: Timestamp, press: &Press) -> Vec<Downlink> {
        let mut stored = self.commit(now);
        stored.append(&mut self.refused);
        let mut downlinks = self.receipts(press, stored);
        let (plan, _) = plan(&self.ledger.snapshot, &self.policy, now);
        self.carry_out(&plan, now);
        downlinks.extend(self.speak(press, now));
        downlinks
    }

    fn goal(&self, device: &DeviceId) -> Option<Digest> {
        self.ledger.snapshot.fleet.device(device)?.desired.as_ref()?.manifest
    }

    fn generation(&self, device: &DeviceId) -> Generation {
        self.ledger.snapshot.fleet.device(device).and_then(|d| d.desired.as_ref()).map_or(Generation(0), |desired| desired.generation)
    }

    fn has_stored(&self, device: &DeviceId, boot: u64, counter: u64) -> bool {
        self.stored.contains(&(device.clone(), boot, counter))
    }

    fn serves(&mut self, _now: Timestamp, device: &DeviceId, manifest: Digest) {
        let Some(rollout) = self.rollout_of(manifest).cloned() else { return };
        let exposed = self.exposed.entry(manifest).or_default();
        exposed.insert(device.clone());
        let stage = self.furthest.get(&manifest).copied();
        let share = stage.map(|stage| rollout.spec.policy.stages.get(stage).map_or(1.0, |stage| stage.share));
        let allowed = share.map_or(0, |share| quota(share, self.ledger.snapshot.fleet.len()));
        if exposed.len() > allowed {
            let what = format!("{} devices have run {}, stage {stage:?} allows {allowed}", exposed.len(), rollout.spec.version);
            self.broken.push_back((Invariant::ExposureWithinCap, device.clone(), what));
        }
    }

    fn attended(&mut self, now: Timestamp) {
        let state = &mut self.ledger.snapshot;
        // Whoever failed for a reason of the device's or the network's gets another try.
        let again: Vec<DeviceId> = state
            .fleet
            .iter()
            .filter(|d| !d.retry)
            .filter(|d| d.part.as_ref().and_then(|part| part.failure.as_ref()).is_some_and(|reason| !blames_model(&reason.code)))
            .map(|d| d.id.clone())
            .collect();
        for id in again {
            if let Some(device) = state.fleet.device_mut(&id) {
                device.retry = true;
                state.revision += 1;
            }
        }
        let paused: Vec<RolloutId> =
            state.rollouts.values().filter(|r| matches!(r.state, RolloutState::Paused { .. })).map(|r| r.id.clone()).collect();
        for id in paused {
            if let Some(rollout) = Arc::make_mut(&mut state.rollouts).get_mut(&id) {
                let resume = Move::Resume { reason: "The storm is over.".to_owned() };
                let _ = Arc::make_mut(rollout).make(&resume, &Actor::Person("bob".to_owned()), now);
                state.revision += 1;
            }
        }
    }

    fn unfinished(&self) -> Option<String> {
        let open = self.rollouts().find(|rollout| !rollout.state.is_over())?;
        let last = open.transitions.last().map_or("", |transition| transition.sentence.as_str());
        Some(format!("rollout {} is still {}: {last}", open.id, open.state.phase()))
    }

    fn broken(&mut self) -> Option<(Invariant, DeviceId, String)> {
        self.broken.pop_front()
    }
}
