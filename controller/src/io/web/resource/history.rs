//! What ran on a device when, and why.
use leeway_protocol::time::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// What is known about one device at one moment, and its record.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct History {
    /// The device.
    pub device: String,
    /// The moment asked for, controller's clock.
    #[schema(value_type = String, format = DateTime)]
    pub at: Timestamp,
    /// `reported` by the device, only `assigned`, or `unknown`.
    pub knowledge: String,
    /// The answer in a sentence.
    pub sentence: String,
    /// What ran then, by the device's own report.
    pub running: Option<Ran>,
    /// What it had been told and did not run at that moment.
    pub pending: Option<Told>,
    /// The rollout that put it there.
    pub rollout: Option<RolloutThen>,
    /// Where what ran comes from.
    pub origin: Option<MadeFrom>,
    /// What is not known.
    pub gaps: Vec<String>,
    /// The whole record, oldest first, unless a moment was asked for.
    pub record: Vec<Ran>,
}

/// A time in which one report was the last word about what runs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Ran {
    /// Its line; absent if no model ran.
    pub line: Option<String>,
    /// Its version.
    pub version: Option<String>,
    /// Digest of its manifest.
    pub manifest: Option<String>,
    /// Digest of the model that was loaded.
    pub model: Option<String>,
    /// The highest generation that the device had accepted.
    pub generation: u64,
    /// Where it was with it: `probation`, `committed`, `reverted` and so on. What runs is in its active slot.
    pub phase: String,
    /// Digest of the manifest in its other slot, to which it would have gone back.
    pub standby: Option<String>,
    /// Since when, as the controller's clock had it.
    #[schema(value_type = String, format = DateTime)]
    pub from: Timestamp,
    /// Until when; absent while it runs.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub until: Option<Timestamp>,
    /// Since when, by the device's own clock.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub device_from: Option<Timestamp>,
    /// When the controller heard it.
    #[schema(value_type = String, format = DateTime)]
    pub heard_at: Timestamp,
    /// When the device said it, by its own clock.
    #[schema(value_type = String, format = DateTime)]
    pub device_at: Timestamp,
    /// The device's clock minus the controller's then, milliseconds.
    pub clock_ms: i64,
    /// Until when the device's own word backs it; only where a moment was asked for.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub confirmed_until: Option<Timestamp>,
    /// How that is known.
    pub how: String,
    /// Why it ran.
    pub why: String,
    /// The assignment that it came by.
    pub told: Option<Told>,
}

/// What a device was told.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Told {
    /// Under which generation.
    pub generation: u64,
    /// What to do.
    pub intent: String,
    /// The line.
    pub line: Option<String>,
    /// The version.
    pub version: Option<String>,
    /// The rollout.
    pub rollout: Option<String>,
    /// The stage, from 1.
    pub stage: Option<u64>,
    /// Why, in a sentence.
    pub reason: String,
    /// The entry of the event log that says so.
    pub event: Option<u64>,
}

/// The rollout behind an assignment, up to that assignment.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct RolloutThen {
    /// Its name.
    pub id: String,
    /// Why it was created.
    pub reason: String,
    /// Who created it.
    pub created_by: String,
    /// Who approved it, in sentences; empty where nobody did.
    pub approvals: Vec<String>,
    /// What was decided about it until the device was told, the newest last.
    pub decisions: Vec<Entry>,
}

/// An entry of the event log.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Entry {
    /// Its number.
    pub seq: u64,
    /// When.
    #[schema(value_type = String, format = DateTime)]
    pub at: Timestamp,
    /// Who.
    pub actor: String,
    /// What, in a sentence.
    pub sentence: String,
}

/// Where a version comes from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct MadeFrom {
    /// When the controller accepted it.
    #[schema(value_type = String, format = DateTime)]
    pub published_at: Timestamp,
    /// The signed role that lists it.
    pub signer: String,
    /// The training code and its revision.
    pub code: Option<String>,
    /// The training run.
    pub run: Option<String>,
    /// The version it was made from, or the digest of its manifest.
    pub parent: Option<String>,
    /// Its data: role, name, rows and digest.
    pub datasets: Vec<String>,
    /// Why it was made.
    pub reason: String,
    /// What the event log says of it until that moment.
    pub events: Vec<Entry>,
}
