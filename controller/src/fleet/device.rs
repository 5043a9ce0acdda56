//! One device as the controller knows it: who it is, what it was told, what it says, what it ran when.
//!
//! What a device says is kept apart from what it was told, and neither is guessed from the other. Its part in a rollout
//! (canary or held back) is recorded here, on the device, and not as a list in the rollout: a list of 100,000 names would be
//! rewritten with every change. What stays true: generations rise; a recorded failure is not forgotten by a later success.
use std::collections::BTreeMap;

use leeway_protocol::assignment::{CapturePolicy, Intent, Probation, Shadow, Windows};
use leeway_protocol::digest::Digest;
use leeway_protocol::ids::{DeviceId, Generation, Line, RolloutId, Version};
use leeway_protocol::reason::{Code, Reason};
use leeway_protocol::reported::{Phase, Reported, Running};
use leeway_protocol::time::Timestamp;
use serde::{Deserialize, Serialize};

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
    /// Why it refused or went back; stays until a retry is asked for.
    #[serde(default)]
    pub failure: Option<Reason>,
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
    /// It refused or went back.
    pub failed: Option<Reason>,
}

impl Device {
    /// A newly enrolled device.
    pub fn new(id: DeviceId, public_key: String, labels: BTreeMap<String, String>, enrolled_at: Timestamp) -> Self {
        let (credential, presence, reported, desired, part, runs, retry) = Default::default();
        Self { id, public_key, labels, enrolled_at, credential, presence, reported, desired, part, runs, retry }
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
        // A device that reverted was exposed, even if no report was sent (or arrived) in between.
        if part.exposed_at.is_none() && (running || (failed && reported.phase == Phase::Reverted)) {
            part.exposed_at = Some(at);
            observed.exposed = true;
        }
        if failed && part.failure.is_none() {
            observed.failed = Some(reason.clone());
            part.failure = Some(reason);
            part.proven_at = None;
        } else if proven && part.failure.is_none() {
            part.proven_at.get_or_insert(at);
        }
    }
}
