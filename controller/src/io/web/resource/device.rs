//! Devices: what each runs, what it should run, why it is unhappy, and what it ran when.
use std::collections::BTreeMap;

use leeway_protocol::time::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::drift::DeviceDrift;
use super::event::Event;
use super::{Condition, Level};

/// A device in a list.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct DeviceSummary {
    /// Its id.
    pub id: String,
    /// Its cohort.
    pub cohort: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Whether it is in the fleet: accepted, and not revoked.
    pub admitted: bool,
    /// Whether it is connected.
    pub online: bool,
    /// When it last said anything.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub last_seen: Option<Timestamp>,
    /// Model line it runs.
    pub line: Option<String>,
    /// Version it runs.
    pub version: Option<String>,
    /// Version it should run, when that is another one.
    pub target_version: Option<String>,
    /// Where it is with its desired state, in a word.
    pub phase: String,
    /// How to read it.
    pub level: Level,
    /// Its state in a sentence.
    pub sentence: String,
}

/// A device, whole.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Device {
    /// What a list shows.
    pub summary: DeviceSummary,
    /// When it was enrolled.
    #[schema(value_type = String, format = DateTime)]
    pub enrolled_at: Timestamp,
    /// Its public key.
    pub public_key: String,
    /// Version of its agent.
    pub agent: String,
    /// What it runs.
    pub running: Option<RunningInfo>,
    /// What it was told.
    pub desired: Option<DesiredInfo>,
    /// Generation it has accepted.
    pub generation: u64,
    /// Manifest it would fall back to.
    pub last_known_good: Option<String>,
    /// Why it refused, went back or waits.
    pub reason: Option<String>,
    /// What holds and what does not.
    pub conditions: Vec<Condition>,
    /// Messages waiting on the device.
    pub outbox: u64,
    /// Messages it had to give up.
    pub dropped: u64,
    /// Its clock minus the controller's, milliseconds, at the last report.
    pub clock_skew_ms: Option<i64>,
    /// Features of this device that differ from its cohort.
    pub drift: Vec<DeviceDrift>,
    /// What ran when, oldest first.
    pub timeline: Vec<Span>,
    /// The latest events about it.
    pub events: Vec<Event>,
}

/// What a device runs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct RunningInfo {
    /// Model line.
    pub line: String,
    /// Version.
    pub version: String,
    /// Digest of the manifest.
    pub manifest: String,
    /// Digest of the model file.
    pub model: String,
    /// Since when.
    #[schema(value_type = String, format = DateTime)]
    pub since: Timestamp,
    /// Inferences served since then.
    pub inferences: u64,
    /// Digest of the golden outputs it computed; absent until they matched.
    pub golden: Option<String>,
}

/// What a device was told.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct DesiredInfo {
    /// Generation.
    pub generation: u64,
    /// `install`, `rollback` or `hold`.
    pub intent: String,
    /// Version, if one is named.
    pub version: Option<String>,
    /// Rollout it belongs to.
    pub rollout: Option<String>,
    /// Why, in a sentence.
    pub reason: String,
    /// When it was decided.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub at: Option<Timestamp>,
}

/// A stretch of time in which a device was in one state.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Span {
    /// From.
    #[schema(value_type = String, format = DateTime)]
    pub from: Timestamp,
    /// To; absent while it goes on.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub to: Option<Timestamp>,
    /// Which lane: `model`, `phase`, `connection`.
    pub lane: String,
    /// What, in a word.
    pub label: String,
    /// How to read it.
    pub level: Level,
    /// A sentence.
    pub sentence: String,
}

/// What a new device sends.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct EnrolRequest {
    /// The id it wants.
    pub device: String,
    /// Its ed25519 public key, 64 hex digits.
    pub public_key: String,
    /// Labels for cohorts.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// The enrolment token.
    pub token: String,
}
