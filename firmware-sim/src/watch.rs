//! The promises a device keeps whatever happens, each checked at the moment it could be broken.
//!
//! The watch sees what leaves a device (messages, models that are loaded) and its disk, and believes nothing else: it opens
//! messages with the device's public key and asks the repository what was really signed. What stays true: a promise that was
//! broken once is in the list of violations for good, with the moment and a sentence.
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use leeway_agent::control::Role;
use leeway_protocol::digest::Digest;
use leeway_protocol::ids::{Generation, WindowId};
use leeway_protocol::reason::Code;
use leeway_protocol::reported::{Phase, Reported, TrustedVersions};
use leeway_protocol::time::Timestamp;

use crate::disk::Disk;
use crate::press::Press;
use crate::runner::Executed;
use crate::uplink::{Said, Uplink};

/// What must always hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Invariant {
    /// A device never runs a manifest whose signatures it has not verified.
    OnlyVerifiedModelsRun,
    /// Nothing the offline keys took back runs on a device that has accepted that they did.
    RevokedModelsStop,
    /// A device follows only what it was told itself.
    OnlyOwnAssignments,
    /// Generations never go down at a device.
    GenerationsNeverGoDown,
    /// Accepted metadata never goes back to an older version.
    MetadataNeverGoesBack,
    /// Every device that ever had a good model runs one again after any crash, without a network.
    AlwaysALastKnownGood,
    /// A number is used for one content only, and a report counts only for the model that was running.
    ReportsCountOnce,
    /// State is on disk before any message that depends on it leaves.
    DiskBeforeSpeech,
    /// What failed under an assignment is not tried again under it.
    FailedStaysFailed,
    /// What a device said and wants a receipt for arrives, unless the device says that it dropped something.
    NothingSaidIsLost,
    /// Once faults stop, the fleet converges to the desired state.
    FleetConverges,
    /// The share of devices on a new version never exceeds what the current stage allows. Asked of a real controller only.
    ExposureWithinCap,
    /// After a rollback is planned, nobody is told the bad version, and no device that heard of it commits it. Likewise.
    NoCommitAfterRollback,
    /// No data is never a pass. Likewise.
    NoDataIsNoPass,
    /// A stored report is counted exactly once. Likewise.
    CountedExactlyOnce,
}

impl Invariant {
    /// Those that need no particular controller.
    pub const OF_DEVICES: [Self; 11] = [
        Self::OnlyVerifiedModelsRun,
        Self::RevokedModelsStop,
        Self::OnlyOwnAssignments,
        Self::GenerationsNeverGoDown,
        Self::MetadataNeverGoesBack,
        Self::AlwaysALastKnownGood,
        Self::ReportsCountOnce,
        Self::DiskBeforeSpeech,
        Self::FailedStaysFailed,
        Self::NothingSaidIsLost,
        Self::FleetConverges,
    ];

    /// In a sentence.
    pub fn sentence(self) -> &'static str {
        match self {
            Self::OnlyVerifiedModelsRun => "a device never runs a manifest whose signatures it has not verified",
            Self::RevokedModelsStop => "what the offline keys took back does not run where they were heard",
            Self::OnlyOwnAssignments => "a device follows only assignments that were made for it",
            Self::GenerationsNeverGoDown => "generations never go down at a device",
            Self::MetadataNeverGoesBack => "accepted metadata never goes back to an older version",
            Self::AlwaysALastKnownGood => "every device always has a last known good it can run without a network",
            Self::ReportsCountOnce => "a report counts once, and only for the model that was running",
            Self::DiskBeforeSpeech => "state is on disk before any message that depends on it leaves",
            Self::FailedStaysFailed => "what failed under an assignment is not tried again under it",
            Self::NothingSaidIsLost => "what a device said and wants a receipt for is stored in the end",
            Self::FleetConverges => "once faults stop, the fleet converges to the desired state",
            Self::ExposureWithinCap => "the share of devices on a new version never exceeds what the current stage allows",
            Self::NoCommitAfterRollback => "after a rollback is planned, no device commits the bad version",
            Self::NoDataIsNoPass => "no data is never a pass",
            Self::CountedExactlyOnce => "acknowledged reports are applied exactly once",
        }
    }
}

/// A promise that was broken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// Which.
    pub invariant: Invariant,
    /// By whom: index of the device.
    pub device: usize,
    /// Milliseconds from the beginning of the story.
    pub at_ms: u64,
    /// What was seen.
    pub what: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: device {} at {} ms: {}", self.invariant.sentence(), self.device, self.at_ms, self.what)
    }
}

/// Where a device keeps what it said.
const OUTBOX: &str = "outbox";
/// Broken promises that are kept; the first is the one that matters.
const MAX_VIOLATIONS: usize = 20;

/// What is known of one device.
#[derive(Debug, Clone, Default)]
pub struct Watched {
    /// What it last reported, in the order it was sealed.
    pub reported: Option<Reported>,
    /// Manifests that passed their trial here.
    pub committed: BTreeSet<Digest>,
    /// Manifests a genuine assignment named for it.
    pub assigned: BTreeSet<Digest>,
    /// The newest generation it was told.
    told: Generation,
    /// Messages it published that want a receipt, with the digest of the bytes.
    pub said: BTreeMap<(u64, u64), Digest>,
    windows: BTreeMap<(Digest, WindowId), Digest>,
    served: BTreeSet<Digest>,
    reverted: BTreeSet<Generation>,
    factory: Option<Digest>,
    /// Its disk was full, and what it then gave up may be told nowhere, because it died before the disk took the count.
    pub uncounted: bool,
    was_full: bool,
    /// Its stored metadata may have rotted: it then fetches anew, and knows nothing older to compare with.
    pub rotten: bool,
}

/// The watch over a world.
#[derive(Debug, Clone)]
pub struct Watch {
    start: Timestamp,
    devices: Vec<Watched>,
    violations: Vec<Violation>,
    /// Whether assignments may also come from whoever stole the director's key.
    stolen_director: bool,
}

impl Watch {
    /// Over devices with these factory models.
    pub fn new(start: Timestamp, factory: Vec<Option<Digest>>, stolen_director: bool) -> Self {
        let devices = factory.into_iter().map(|factory| Watched { factory, ..Watched::default() }).collect();
        Self { start, devices, violations: Vec::new(), stolen_director }
    }

    /// What is known of a device.
    pub fn device(&self, device: usize) -> Option<&Watched> {
        self.devices.get(device)
    }

    /// Every broken promise.
    pub fn violations(&self) -> &[Violation] {
        &self.violations
    }

    /// A promise was broken.
    pub fn broken(&mut self, invariant: Invariant, device: usize, now: Timestamp, what: String) {
        if self.violations.len() < MAX_VIOLATIONS {
            let at_ms = u64::try_from(now.millis_since(self.start)).unwrap_or(0);
            self.violations.push(Violation { invariant, device, at_ms, what });
        }
    }

    /// The authority signed an assignment for this device.
    pub fn assigned(&mut self, device: usize, manifest: Digest, generation: Generation) {
        if let Some(watched) = self.devices.get_mut(device) {
            watched.assigned.insert(manifest);
            watched.told = watched.told.max(generation);
        }
    }

    /// A device's disk is full.
    pub fn filled(&mut self, device: usize) {
        if let Some(watched) = self.devices.get_mut(device) {
            watched.was_full = true;
        }
    }

    /// A device lost what it had in memory.
    pub fn died(&mut self, device: usize) {
        if let Some(watched) = self.devices.get_mut(device) {
            watched.uncounted |= watched.was_full;
        }
    }

    /// A bit of a device's stored files flipped.
    pub fn rotted(&mut self, device: usize) {
        if let Some(watched) = self.devices.get_mut(device) {
            watched.rotten = true;
        }
    }

    /// A device was set up again by hand, as it once left the factory: it is a new device, and owes nothing to what it was.
    pub fn forget(&mut self, device: usize) {
        if let Some(watched) = self.devices.get_mut(device) {
            *watched = Watched { factory: watched.factory, told: watched.told, ..Watched::default() };
        }
    }

    /// A model was loaded.
    pub fn executed(&mut self, device: usize, now: Timestamp, executed: Executed, press: &Press) {
        let Some(watched) = self.devices.get_mut(device) else { return };
        watched.served.insert(executed.manifest);
        if watched.factory == Some(executed.manifest) {
            return;
        }
        let release = press.by_manifest(&executed.manifest).filter(|release| release.model.digest == executed.model);
        let may = watched.assigned.contains(&executed.manifest) || self.stolen_director;
        let heard = watched.reported.as_ref().map_or(0, |reported| reported.trusted.targets);
        match release {
            None => self.broken(Invariant::OnlyVerifiedModelsRun, device, now, format!("loaded {executed:?}, which nobody signed")),
            Some(_) if !may => {
                self.broken(Invariant::OnlyVerifiedModelsRun, device, now, format!("loaded {executed:?}, which was never assigned to it"));
            }
            Some(release) if release.revoked_in.is_some_and(|version| version <= heard) => {
                let version = &release.named.version;
                self.broken(
                    Invariant::RevokedModelsStop,
                    device,
                    now,
                    format!("loaded {version} although it accepted targets {heard}, which revoke it"),
                );
            }
            // What is already here may go on below a floor; nothing new is tried there.
            Some(release) if executed.role == Role::Candidate && release.custom.seq < press.floor_in(heard) => {
                let what = format!("tries {}, below the floor of targets {heard}, which it accepted", release.named.version);
                self.broken(Invariant::RevokedModelsStop, device, now, what);
            }
            Some(_) => {}
        }
    }

    /// A genuine message left a device with this disk.
    pub fn published(&mut self, device: usize, now: Timestamp, uplink: &Uplink, bytes: &[u8], disk: &Disk) {
        let order = (uplink.boot.0, uplink.counter);
        if uplink.wants_receipt() {
            let digest = Digest::of(bytes);
            let Some(watched) = self.devices.get_mut(device) else { return };
            let known = watched.said.insert(order, digest);
            if known.is_some_and(|known| known != digest) {
                self.broken(Invariant::ReportsCountOnce, device, now, format!("message {order:?} was used for two contents"));
            }
            if !disk.has_synced(OUTBOX, bytes) {
                self.broken(Invariant::DiskBeforeSpeech, device, now, format!("message {order:?} left before it was synced in the outbox"));
            }
        }
        match &uplink.said {
            Said::Reported(reported) => self.reported(device, now, reported, disk.is_in_trouble()),
            Said::Window(report) => {
                let Some(watched) = self.devices.get_mut(device) else { return };
                let content = Digest::of(&report.to_bytes());
                let known = watched.windows.insert((report.manifest, report.window), content);
                let ran = watched.served.contains(&report.manifest);
                if known.is_some_and(|known| known != content) {
                    self.broken(Invariant::ReportsCountOnce, device, now, format!("window {:?} was used for two contents", report.window));
                }
                if !ran {
                    self.broken(
                        Invariant::ReportsCountOnce,
                        device,
                        now,
                        format!("window {:?} is of a model that never ran", report.window),
                    );
                }
            }
            _ => {}
        }
    }

    fn reported(&mut self, device: usize, now: Timestamp, reported: &Reported, disk_refuses: bool) {
        let Some(watched) = self.devices.get_mut(device) else { return };
        let mut broken = Vec::new();
        // Whoever holds the director's key can tell a device anything that is approved.
        if reported.generation > watched.told && !self.stolen_director {
            let what = format!("follows generation {} and was told {} at most", reported.generation, watched.told);
            broken.push((Invariant::OnlyOwnAssignments, what));
        }
        if let Some(last) = &watched.reported {
            if reported.generation < last.generation {
                let what = format!("reported generation {} after {}", reported.generation, last.generation);
                broken.push((Invariant::GenerationsNeverGoDown, what));
            }
            if !watched.rotten && !not_older(&reported.trusted, &last.trusted) {
                let what = format!("trusts {:?} after {:?}", reported.trusted, last.trusted);
                broken.push((Invariant::MetadataNeverGoesBack, what));
            }
        }
        let blamed = reported.reason.as_ref().is_none_or(|r| !matches!(r.code, Code::Superseded | Code::DiskFull | Code::DiskFailed));
        if reported.phase == Phase::Reverted {
            // On a disk that refuses nothing can be remembered; then the starts a trial may use up are the bound.
            if blamed && !disk_refuses {
                watched.reverted.insert(reported.generation);
            }
        } else if watched.reverted.contains(&reported.generation)
            && matches!(reported.phase, Phase::SelfTesting | Phase::Shadowing | Phase::Probation | Phase::Committed)
        {
            let what = format!("is in {:?} under generation {} although it reverted under it", reported.phase, reported.generation);
            broken.push((Invariant::FailedStaysFailed, what));
        }
        if let (Phase::Committed, Some(active)) = (reported.phase, &reported.active) {
            watched.committed.insert(active.manifest);
        }
        watched.reported = Some(reported.clone());
        for (invariant, what) in broken {
            self.broken(invariant, device, now, what);
        }
    }
}

/// A new root may take away the keys that signed a stored timestamp or snapshot, and with them the word of whoever stole those:
/// then, and only then, both begin again below.
fn not_older(new: &TrustedVersions, old: &TrustedVersions) -> bool {
    let freshness = new.root > old.root || (new.timestamp >= old.timestamp && new.snapshot >= old.snapshot);
    new.root >= old.root && new.targets >= old.targets && freshness
}
