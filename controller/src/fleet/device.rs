//! One device as the controller knows it: who it is, what it was told, what it says, what it ran when.
//!
//! What a device says is kept apart from what it was told, and neither is guessed from the other. Its part in a rollout
//! (canary or held back) is recorded here, on the device, and not as a list in the rollout: a list of 100,000 names would be
//! rewritten with every change. What stays true: generations rise; a recorded failure is not forgotten by a later success.
use std::collections::BTreeMap;

use leeway_protocol::assignment::{CapturePolicy, Intent, Probation, Shadow, Window, Windows};
use leeway_protocol::digest::Digest;
use leeway_protocol::ids::{DeviceId, Generation, Line, RolloutId, Version};
use leeway_protocol::reason::{Code, Reason};
use leeway_protocol::reported::{Phase, Reported, Running};
use leeway_protocol::time::Timestamp;
use serde::{Deserialize, Serialize};

use super::admission::{Admission, Certificate};
use super::contact::Contact;

/// Runs kept on the device's document; older ones stay in the event log.
pub const MAX_RUNS: usize = 32;

/// A device.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Device {
    /// Its name.
    pub id: DeviceId,
    /// Its ed25519 public key, 64 hex digits; uplinks must verify against it.
    pub public_key: String,
    /// What cohorts select by.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// When it was enrolled.
    pub enrolled_at: Timestamp,
    /// Whether it is in the fleet.
    #[serde(default)]
    pub admission: Admission,
    /// Certificates that count, the newest last.
    #[serde(default)]
    pub certificates: Vec<Certificate>,
    /// Two devices speak with its key: what was seen, in a sentence.
    #[serde(default)]
    pub twin: Option<String>,
    /// Hash of its broker secret, if it has one.
    #[serde(default)]
    pub credential: Option<Digest>,
    /// Whether it is there.
    #[serde(default)]
    pub presence: Presence,
    /// What it said last about itself.
    #[serde(default)]
    pub reported: Option<Reported>,
    /// What it was told last.
    #[serde(default)]
    pub desired: Option<DesiredRecord>,
    /// Its part in the latest rollout that took it in.
    #[serde(default)]
    pub part: Option<Part>,
    /// What ran when, the latest last, at most [`MAX_RUNS`].
    #[serde(default)]
    pub runs: Vec<RunInterval>,
    /// A person asked for another try of what it was told; the next assignment clears it.
    #[serde(default)]
    pub retry: bool,
}

/// Whether a device is there.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Presence {
    /// Connected, by its birth and will.
    pub online: bool,
    /// The connection that says so; an older session's will is ignored.
    pub session: u64,
    /// Controller's clock at the last message or connection.
    pub last_seen: Option<Timestamp>,
    /// Controller's clock when `online` last changed.
    pub changed_at: Option<Timestamp>,
    /// Agent version.
    #[serde(default)]
    pub agent: String,
    /// When it was there in the last week.
    #[serde(default)]
    pub contact: Contact,
}

impl Presence {
    /// Connected or not from now on; whether that is a change.
    pub fn turn(&mut self, online: bool, at: Timestamp) -> bool {
        let changes = self.online != online;
        if changes {
            self.contact.note(self.online, online, at);
            (self.online, self.changed_at) = (online, Some(at));
        }
        changes
    }
}

/// What a device was told.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DesiredRecord {
    /// Higher than every earlier one.
    pub generation: Generation,
    /// What to do.
    pub intent: Intent,
    /// The line; absent for [`Intent::Hold`].
    pub line: Option<Line>,
    /// The version; absent for [`Intent::Hold`].
    pub version: Option<Version>,
    /// Digest of its manifest; absent for [`Intent::Hold`].
    pub manifest: Option<Digest>,
    /// The rollout that asks for it.
    pub rollout: Option<RolloutId>,
    /// Why, in a sentence.
    pub reason: String,
    /// When it was decided.
    pub issued_at: Timestamp,
    /// How the device is to go about it.
    pub settings: DeviceSettings,
}

/// How a device goes about an assignment; copied into it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DeviceSettings {
    /// Spread of the download, milliseconds, against a herd.
    pub spread_ms: u64,
    /// When an install may begin, by the device's own clock; any time if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub window: Option<Window>,
    /// Beside the active model first.
    pub shadow: Shadow,
    /// Then alone, on trial.
    pub probation: Probation,
    /// When a window of counts closes.
    pub windows: Windows,
    /// What samples may be kept and sent.
    pub capture: CapturePolicy,
}

/// Which side of the comparison a device is on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Arm {
    /// Gets the new version.
    Canary,
    /// Held back on the baseline, to compare with.
    Control,
}

/// A device's part in one rollout.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Part {
    /// Which rollout.
    pub rollout: RolloutId,
    /// Which side.
    pub arm: Arm,
    /// The stage that took it in, from 0.
    pub stage: usize,
    /// When.
    pub at: Timestamp,
    /// How often it was told to install, for retries.
    #[serde(default)]
    pub attempts: u32,
    /// When it first reported the new version active; never taken back.
    #[serde(default)]
    pub exposed_at: Option<Timestamp>,
    /// When it first reported the new version committed, with proof of running.
    #[serde(default)]
    pub proven_at: Option<Timestamp>,
    /// Why it refused or went back; stays until it is told again.
    #[serde(default)]
    pub failure: Option<Reason>,
    /// When it said so.
    #[serde(default)]
    pub failed_at: Option<Timestamp>,
    /// When it last said that it waits for its maintenance window: its time begins after that.
    #[serde(default)]
    pub deferred_at: Option<Timestamp>,
    /// Inferences it must have served with the version before that counts as proof.
    #[serde(default)]
    pub proof_inferences: u32,
    /// Called back, because the version failed on the part of the fleet it belongs to.
    #[serde(default)]
    pub recalled: bool,
}

/// What ran from when to when, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunInterval {
    /// Its line.
    pub line: Line,
    /// Its version.
    pub version: Version,
    /// Digest of its manifest.
    pub manifest: Digest,
    /// First report of it, controller's clock.
    pub from: Timestamp,
    /// First report of something else; `None` while it runs.
    pub to: Option<Timestamp>,
    /// Why it was put there, in a sentence.
    pub why: String,
}

/// What a report changed.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Observed {
    /// The device entered another phase or generation.
    pub phase: Option<Phase>,
    /// Another model became active: before and after.
    pub active: Option<(Option<Digest>, Option<Digest>)>,
    /// The device ran the rollout's version for the first time.
    pub exposed: bool,
    /// It proved for the first time to run it.
    pub proven: bool,
    /// It refused or went back.
    pub failed: Option<Reason>,
}

impl Observed {
    /// Whether a rollout is judged by it, or the audit trail speaks of it: more than a sign of life.
    pub fn counts(&self) -> bool {
        self.active.is_some() || self.exposed || self.proven || self.failed.is_some()
    }
}

impl Device {
    /// A newly enrolled device.
    pub fn new(id: DeviceId, public_key: String, labels: BTreeMap<String, String>, enrolled_at: Timestamp) -> Self {
        let (admission, certificates, twin, credential) = Default::default();
        let (presence, reported, desired, part, runs, retry) = Default::default();
        Self {
            id,
            public_key,
            labels,
            enrolled_at,
            admission,
            certificates,
            twin,
            credential,
            presence,
            reported,
            desired,
            part,
            runs,
            retry,
        }
    }

    /// The generation a new assignment gets: above all it was told and all it claims to have seen.
    pub fn next_generation(&self) -> Generation {
        let told = self.desired.as_ref().map_or(0, |d| d.generation.0);
        let seen = self.reported.as_ref().map_or(0, |r| r.generation.0);
        Generation(told.max(seen).saturating_add(1))
    }

    /// The model it says is serving.
    pub fn active(&self) -> Option<&Running> {
        self.reported.as_ref()?.active.as_ref()
    }

    /// Whether it says the model with this manifest is serving.
    pub fn runs(&self, manifest: Digest) -> bool {
        self.active().is_some_and(|running| running.manifest == manifest)
    }

    /// Whether it proves that the model with this manifest serves for good: active, committed, golden outputs matched.
    pub fn proves(&self, manifest: Digest) -> bool {
        let committed = self.reported.as_ref().is_some_and(|r| !matches!(r.phase, Phase::Probation | Phase::Unknown));
        committed && self.active().is_some_and(|running| running.manifest == manifest && running.golden.is_some())
    }

    /// Whether it follows an assignment that this controller did not give: one of a later generation, or another one of the same.
    /// It takes the director's key to make one.
    pub fn follows_another(&self) -> bool {
        let Some((desired, reported)) = self.desired.as_ref().zip(self.reported.as_ref()) else { return false };
        let other = || self.active().is_some_and(|running| desired.manifest.is_some_and(|told| running.manifest != told));
        let committed = matches!(reported.phase, Phase::Committed);
        reported.generation > desired.generation || (reported.generation == desired.generation && committed && other())
    }

    /// Whether it has accepted the latest thing it was told.
    pub fn has_seen_desired(&self) -> bool {
        match (&self.desired, &self.reported) {
            (Some(desired), Some(reported)) => reported.generation >= desired.generation,
            (None, _) => true,
            (Some(_), None) => false,
        }
    }

    /// Milliseconds since it was last heard of, while it is not connected; 0 while it is.
    pub fn silent_ms(&self, now: Timestamp) -> i64 {
        if self.presence.online {
            return 0;
        }
        now.millis_since(self.presence.last_seen.unwrap_or(self.enrolled_at)).max(0)
    }

    /// Its part in `rollout`, if it has one.
    pub fn part_in(&self, rollout: &RolloutId) -> Option<&Part> {
        self.part.as_ref().filter(|part| part.rollout == *rollout)
    }

    /// Take in a reported state that ingestion has verified. Idempotent: the same report again changes nothing.
    pub fn observe(&mut self, reported: Reported, at: Timestamp) -> Observed {
        let mut observed = Observed::default();
        let before = self.reported.as_ref().map(|r| (r.generation, r.phase));
        if before != Some((reported.generation, reported.phase)) {
            observed.phase = Some(reported.phase);
        }
        let was = self.active().map(|running| running.manifest);
        let is = reported.active.as_ref().map(|running| running.manifest);
        if was != is {
            observed.active = Some((was, is));
            self.note_run(reported.active.as_ref(), at);
        }
        self.reported = Some(reported);
        self.note_part(&mut observed, at);
        observed
    }

    /// Close the running interval and open the next.
    fn note_run(&mut self, active: Option<&Running>, at: Timestamp) {
        if let Some(last) = self.runs.last_mut() {
            last.to.get_or_insert(at);
        }
        let Some(running) = active else { return };
        let told = self.desired.as_ref().filter(|d| d.manifest == Some(running.manifest));
        let why = match (told, self.runs.is_empty()) {
            (Some(desired), _) => desired.reason.clone(),
            (None, true) => "It came with this model.".to_owned(),
            (None, false) => "The device went back to it on its own.".to_owned(),
        };
        let (line, version) = (running.line.clone(), running.version.clone());
        self.runs.push(RunInterval { line, version, manifest: running.manifest, from: at, to: None, why });
        if self.runs.len() > MAX_RUNS {
            self.runs.remove(0);
        }
    }

    /// Record exposure, proof and failure in the rollout that asked for what this report is about.
    fn note_part(&mut self, observed: &mut Observed, at: Timestamp) {
        let (Some(desired), Some(reported)) = (&self.desired, &self.reported) else { return };
        let Some(manifest) = desired.manifest else { return };
        let proven = self.proves(manifest);
        let served = self.active().map_or(0, |running| running.inferences);
        let same_generation = reported.generation == desired.generation;
        let running = reported.active.as_ref().is_some_and(|r| r.manifest == manifest);
        let failed = same_generation && matches!(reported.phase, Phase::Reverted | Phase::Refused);
        let reason = reported.reason.clone().unwrap_or_else(|| Reason::new(Code::Other("unsaid".to_owned()), "the device gave no reason"));
        let Some(part) = self.part.as_mut().filter(|p| desired.rollout.as_ref() == Some(&p.rollout) && p.arm == Arm::Canary) else {
            return;
        };
        if desired.intent != Intent::Install {
            return;
        }
        let deferred = |reason: &Reason| matches!(reason.code, Code::MaintenanceWindow | Code::ClockUntrusted);
        if same_generation && reported.phase == Phase::Waiting && reported.reason.as_ref().is_some_and(deferred) {
            part.deferred_at = Some(at);
        }
        // A device that reverted was exposed, even if no report was sent (or arrived) in between.
        if part.exposed_at.is_none() && (running || (failed && reported.phase == Phase::Reverted)) {
            part.exposed_at = Some(at);
            observed.exposed = true;
        }
        if failed && part.failure.is_none() {
            observed.failed = Some(reason.clone());
            (part.failure, part.failed_at) = (Some(reason), Some(at));
            part.proven_at = None;
        } else if proven && served >= u64::from(part.proof_inferences) && part.failure.is_none() {
            observed.proven = part.proven_at.is_none();
            part.proven_at.get_or_insert(at);
        }
    }
}

#[cfg(test)]
mod tests {
    use leeway_protocol::ids::BootId;
    use leeway_protocol::reported::TrustedVersions;

    use super::*;

    fn digest(version: &str) -> Digest {
        Digest::of(version.as_bytes())
    }

    fn running(version: &str) -> Running {
        let (line, name) = ("rain".parse().unwrap(), version.parse().unwrap());
        let golden = Some(Digest::of(b"golden"));
        Running {
            line,
            version: name,
            manifest: digest(version),
            model: digest(version),
            since: Timestamp::default(),
            inferences: 1,
            golden,
        }
    }

    fn reported(generation: u64, phase: Phase, active: Option<&str>, reason: Option<Code>) -> Reported {
        Reported {
            v: 1,
            generation: Generation(generation),
            rollout: None,
            phase,
            reason: reason.map(|code| Reason::new(code, "")),
            active: active.map(running),
            last_known_good: None,
            shadow: None,
            conditions: Vec::new(),
            trusted: TrustedVersions::default(),
            agent: "1".to_owned(),
            boot: BootId(1),
            outbox: 0,
            dropped: 0,
            at: Timestamp::default(),
        }
    }

    fn told(version: &str) -> Device {
        let mut device = Device::new("a".parse().unwrap(), String::new(), BTreeMap::new(), Timestamp::default());
        let rollout: RolloutId = "r".parse().unwrap();
        device.desired = Some(DesiredRecord {
            generation: Generation(5),
            intent: Intent::Install,
            line: "rain".parse().ok(),
            version: version.parse().ok(),
            manifest: Some(digest(version)),
            rollout: Some(rollout.clone()),
            reason: "The test says so.".to_owned(),
            issued_at: Timestamp::default(),
            settings: DeviceSettings::default(),
        });
        let (exposed_at, proven_at, failure) = Default::default();
        let (failed_at, deferred_at, at, attempts, stage) = (None, None, Timestamp::default(), 1, 0);
        let (arm, proof_inferences, recalled) = (Arm::Canary, 1, false);
        device.part = Some(Part {
            rollout,
            arm,
            stage,
            at,
            attempts,
            exposed_at,
            proven_at,
            failure,
            failed_at,
            deferred_at,
            proof_inferences,
            recalled,
        });
        device
    }

    fn at(secs: i64) -> Timestamp {
        Timestamp::from_secs(secs)
    }

    #[test]
    fn exposure_proof_and_runs_are_recorded_once() {
        let mut device = told("2");
        device.observe(reported(4, Phase::Idle, Some("1"), None), at(1));
        assert!(!device.has_seen_desired() && device.part.as_ref().unwrap().exposed_at.is_none());
        device.observe(reported(5, Phase::Fetching, Some("1"), None), at(2));
        let trial = device.observe(reported(5, Phase::Probation, Some("2"), None), at(3));
        assert!(trial.exposed && trial.active == Some((Some(digest("1")), Some(digest("2")))));
        assert!(!device.proves(digest("2")), "a trial is not proof");
        device.observe(reported(5, Phase::Committed, Some("2"), None), at(4));
        assert!(device.proves(digest("2")));
        let same = device.observe(reported(5, Phase::Committed, Some("2"), None), at(9));
        assert_eq!(same, Observed::default(), "the same report again changes nothing");
        let part = device.part.as_ref().unwrap();
        assert_eq!((part.exposed_at, part.proven_at), (Some(at(3)), Some(at(4))));
        let runs: Vec<_> = device.runs.iter().map(|r| (r.version.as_str(), r.from, r.to, r.why.as_str())).collect();
        assert_eq!(runs, [("1", at(1), Some(at(3)), "It came with this model."), ("2", at(3), None, "The test says so.")]);
    }

    #[test]
    fn committed_without_golden_outputs_is_no_proof() {
        let mut device = told("2");
        let mut report = reported(5, Phase::Committed, Some("2"), None);
        report.active.as_mut().unwrap().golden = None;
        device.observe(report, at(1));
        assert!(!device.proves(digest("2")) && device.part.unwrap().proven_at.is_none());
    }

    #[test]
    fn committed_without_enough_inferences_is_no_proof_and_a_restart_does_not_take_proof_back() {
        let mut device = told("2");
        device.part.as_mut().unwrap().proof_inferences = 50;
        let report = |inferences| {
            let mut report = reported(5, Phase::Committed, Some("2"), None);
            report.active.as_mut().unwrap().inferences = inferences;
            report
        };
        device.observe(report(49), at(1));
        assert_eq!(device.part.as_ref().unwrap().proven_at, None);
        device.observe(report(50), at(2));
        device.observe(report(0), at(3));
        assert_eq!(device.part.as_ref().unwrap().proven_at, Some(at(2)));
    }

    #[test]
    fn a_revert_takes_success_back_and_is_not_forgotten() {
        let mut device = told("2");
        device.observe(reported(5, Phase::Committed, Some("2"), None), at(1));
        let revert = device.observe(reported(5, Phase::Reverted, Some("1"), Some(Code::Crashed)), at(2));
        assert_eq!(revert.failed.map(|r| r.code), Some(Code::Crashed));
        device.observe(reported(5, Phase::Committed, Some("2"), None), at(3));
        let part = device.part.unwrap();
        assert_eq!((part.proven_at, part.failure.map(|r| r.code)), (None, Some(Code::Crashed)));
    }

    #[test]
    fn a_revert_nobody_saw_begin_was_an_exposure_and_a_refusal_was_none() {
        for (phase, exposed) in [(Phase::Reverted, true), (Phase::Refused, false)] {
            let mut device = told("2");
            let observed = device.observe(reported(5, phase, Some("1"), None), at(1));
            assert_eq!(observed.exposed, exposed);
            assert!(observed.failed.unwrap().detail.contains("no reason"));
        }
        let mut device = told("2");
        device.observe(reported(4, Phase::Refused, Some("1"), Some(Code::DiskFull)), at(1));
        assert!(device.part.unwrap().failure.is_none(), "a refusal of an older generation is not about this one");
    }

    #[test]
    fn the_next_generation_is_above_everything_told_and_seen() {
        let mut device = told("2");
        assert_eq!(device.next_generation(), Generation(6));
        device.observe(reported(9, Phase::Idle, None, None), at(1));
        assert_eq!(device.next_generation(), Generation(10), "a device that knows a higher one (a restored backup) is not stuck");
    }

    #[test]
    fn runs_are_bounded() {
        let mut device = told("2");
        for i in 0..100 {
            device.observe(reported(5, Phase::Committed, Some(if i % 2 == 0 { "1" } else { "2" }), None), at(i));
        }
        assert_eq!(device.runs.len(), MAX_RUNS);
        assert_eq!(device.runs.iter().filter(|r| r.to.is_none()).count(), 1);
    }
}
