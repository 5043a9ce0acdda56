//! What a device says about itself: generation seen, phase, proof of running. JSON with names, inside a device-signed envelope.
//!
//! Installed is not running: `Running` carries the digest that is loaded, inferences served with it and the digest of its
//! golden outputs. A revert takes an earlier success back, with the reason.
use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::ids::{BootId, Generation, Line, RolloutId, Version};
use crate::reason::Reason;
use crate::time::Timestamp;

/// Where a device is on the way to its desired state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Nothing to do: the desired state runs, or nothing was asked yet.
    Idle,
    /// Waiting for its place in the download spread, or for a retry.
    Waiting,
    /// Fetching metadata or blobs.
    Fetching,
    /// All bytes on disk and verified.
    Staged,
    /// Golden vectors in a throw-away runner.
    SelfTesting,
    /// Beside the active model.
    Shadowing,
    /// Active on trial.
    Probation,
    /// Active for good.
    Committed,
    /// Went back on its own; the reason says why.
    Reverted,
    /// Would not start; the reason says why.
    Refused,
    /// A phase this program does not know, from a newer agent.
    #[serde(other)]
    Unknown,
}

impl Phase {
    /// For people.
    pub fn sentence(self) -> &'static str {
        match self {
            Self::Idle => "runs what is desired",
            Self::Waiting => "waits for its turn to download",
            Self::Fetching => "fetches the release",
            Self::Staged => "has verified the release on disk",
            Self::SelfTesting => "tests the release on its golden vectors",
            Self::Shadowing => "runs the release beside the active model",
            Self::Probation => "runs the release on trial",
            Self::Committed => "runs the release for good",
            Self::Reverted => "went back to its last known good model",
            Self::Refused => "refused the release",
            Self::Unknown => "is in a phase this program does not know",
        }
    }
}

/// Proof of running.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Running {
    /// The model line.
    pub line: Line,
    /// The version's name.
    pub version: Version,
    /// Digest of the manifest.
    pub manifest: Digest,
    /// Digest of the model that is loaded.
    pub model: Digest,
    /// Since when.
    pub since: Timestamp,
    /// Inferences served since then.
    pub inferences: u64,
    /// Digest over the golden outputs this device computed at load; absent until they matched.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub golden: Option<Digest>,
}

/// The whole reported state.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Reported {
    /// Form: 1.
    pub v: u32,
    /// Highest generation accepted as genuine.
    pub generation: Generation,
    /// The rollout it belongs to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rollout: Option<RolloutId>,
    /// Where the device is with it.
    pub phase: Phase,
    /// Why, for Reverted, Refused and Waiting.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<Reason>,
    /// What serves now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub active: Option<Running>,
    /// Manifest digest of what would serve if the active model failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_known_good: Option<Digest>,
    /// The shadow run, when there was one under this generation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shadow: Option<ShadowSummary>,
    /// Conditions that hold or do not, each with a sentence.
    #[serde(default)]
    pub conditions: Vec<Condition>,
    /// Accepted metadata versions.
    #[serde(default)]
    pub trusted: TrustedVersions,
    /// Agent version.
    pub agent: String,
    /// Start of the agent this speaks for.
    pub boot: BootId,
    /// Messages waiting in the outbox.
    #[serde(default)]
    pub outbox: u64,
    /// Messages given up because the outbox was full or they were too old, since enrolment.
    #[serde(default)]
    pub dropped: u64,
    /// The device's own clock.
    pub at: Timestamp,
}

/// Active and new model on the same inputs.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct ShadowSummary {
    /// Inputs both ran on.
    pub compared: u64,
    /// Decided differently.
    pub disagreed: u64,
    /// Median latency of the new model, microseconds.
    pub p50_us: u64,
    /// 99th percentile, microseconds.
    pub p99_us: u64,
}

/// Something that holds or does not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Condition {
    /// What, in CamelCase: `ModelVerified`, `InferenceHealthy`, `MetadataFresh`, `ClockSane`, `TelemetryFlowing`, `ModelConfined`, `CertificateGood`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Whether it holds.
    pub holds: bool,
    /// A sentence.
    pub message: String,
}

/// Versions of the metadata a device trusts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrustedVersions {
    /// Root.
    pub root: u64,
    /// Timestamp.
    pub timestamp: u64,
    /// Snapshot.
    pub snapshot: u64,
    /// Top-level targets.
    pub targets: u64,
}

/// Birth and will, on one retained topic: joined by the session, so a late will cannot overtake a new birth.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// Form: 1.
    pub v: u32,
    /// Whether the device is connected.
    pub online: bool,
    /// Chosen anew for each connection.
    pub session: u64,
    /// Agent version.
    pub agent: String,
    /// Device labels for cohorts, such as `region=coast`; few and short.
    #[serde(default)]
    pub labels: std::collections::BTreeMap<String, String>,
    /// Newest report form this agent writes.
    #[serde(default)]
    pub report_form: u32,
}

/// What a device says happened: kept in the outbox like reports, so the audit trail has no gaps.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DeviceEvent {
    /// Form: 1.
    pub v: u32,
    /// When, by the device's clock.
    pub at: Timestamp,
    /// Generation it belongs to.
    pub generation: Generation,
    /// Phase entered.
    pub phase: Phase,
    /// The release concerned: manifest digest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub manifest: Option<Digest>,
    /// Why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<Reason>,
}

/// What the controller has stored, so that the device may forget it. Signed by the director, sent per device.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Receipt {
    /// Form: 1.
    pub v: u32,
    /// (boot, counter) of every stored uplink message.
    pub stored: Vec<(u64, u64)>,
}

/// The most receipts in one message.
pub const MAX_RECEIPTS: usize = 512;
