//! What ran on one device at one moment, since when, why, and how that is known.
//!
//! The record is rows in the order in which the controller learnt them: what the device *said* (its own signed reports, whenever what it
//! runs changed or a release was taken, kept, refused or taken back) and what it was *told* (each with the number of its event). A row is
//! written in the transaction that makes it true for everybody else, and nothing is filled in later.
//!
//! Two clocks are in every row. A question is about the controller's; a device that was away when it changed models says so later, by its
//! own clock, and its word counts from the moment it names, moved by the difference of the clocks at the time of the report, where
//! that falls between its report before and this one. Where it does not, the clock was set in between, and the moment of hearing counts.
//!
//! What stays true: an answer never says more than the rows do. What was only assigned is called that, and a time of which nothing is known
//! is a gap in the answer and not a guess.
use leeway_protocol::assignment::Intent;
use leeway_protocol::digest::Digest;
use leeway_protocol::ids::{BootId, Generation, Line, RolloutId, Version};
use leeway_protocol::reason::Reason;
use leeway_protocol::reported::{Phase, Reported};
use leeway_protocol::time::Timestamp;
use serde::{Deserialize, Serialize};

use crate::fleet::{DesiredRecord, Part};

mod answer;

pub use answer::{Answer, Knowledge, Seen, Span, answer, spans};

/// A difference of the two clocks that is said: less is what messages take.
pub const CLOCK_TOLERANCE_MS: i64 = 60_000;

/// One row, as it is stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "row")]
pub enum Row {
    /// What the device said.
    Said(Said),
    /// What it was told.
    Told(Told),
}

/// A model that serves, by the device's own report.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Active {
    /// Its line.
    pub line: Line,
    /// Its version.
    pub version: Version,
    /// Digest of its manifest.
    pub manifest: Digest,
    /// Digest of the model that is loaded.
    pub model: Digest,
    /// Since when, by the device's clock.
    pub since: Timestamp,
    /// Whether its golden outputs matched on this device.
    pub proven: bool,
}

/// What a device said about itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Said {
    /// When, by the device's clock.
    pub device_at: Timestamp,
    /// Start of its agent.
    pub boot: BootId,
    /// The highest generation it had accepted.
    pub generation: Generation,
    /// Where it was with it.
    pub phase: Phase,
    /// What served; `None` for nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub active: Option<Active>,
    /// Manifest of what stood by.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_known_good: Option<Digest>,
    /// Why it went back or refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<Reason>,
    /// If it had been away before this report: its last word before that, controller's clock.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub away_since: Option<Timestamp>,
}

/// What a device was told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Told {
    /// Under which generation.
    pub generation: Generation,
    /// What to do.
    pub intent: Intent,
    /// The line.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub line: Option<Line>,
    /// The version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<Version>,
    /// Its manifest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub manifest: Option<Digest>,
    /// The rollout that asked for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rollout: Option<RolloutId>,
    /// The stage of it, from 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stage: Option<usize>,
    /// Why, in a sentence.
    pub reason: String,
}

/// A row with its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kept {
    /// Its number, from 1; those before the first that is left were dropped.
    pub n: u64,
    /// When it was written, controller's clock.
    pub at: Timestamp,
    /// The event that says the same.
    pub event: Option<u64>,
    /// The row.
    pub row: Row,
}

impl Row {
    /// What a report says.
    pub fn said(reported: &Reported, away_since: Option<Timestamp>) -> Self {
        let active = reported.active.as_ref().map(|running| Active {
            line: running.line.clone(),
            version: running.version.clone(),
            manifest: running.manifest,
            model: running.model,
            since: running.since,
            proven: running.golden.is_some(),
        });
        Self::Said(Said {
            device_at: reported.at,
            boot: reported.boot,
            generation: reported.generation,
            phase: reported.phase,
            active,
            last_known_good: reported.last_known_good,
            reason: reported.reason.clone(),
            away_since,
        })
    }

    /// What an assignment tells.
    pub fn told(desired: &DesiredRecord, part: Option<&Part>) -> Self {
        let part = part.filter(|part| desired.rollout.as_ref() == Some(&part.rollout));
        Self::Told(Told {
            generation: desired.generation,
            intent: desired.intent,
            line: desired.line.clone(),
            version: desired.version.clone(),
            manifest: desired.manifest,
            rollout: desired.rollout.clone(),
            stage: part.map(|part| part.stage),
            reason: desired.reason.clone(),
        })
    }
}

/// Whether a report that led to this phase is worth a row although the same model serves: the outcome of something it was told. What lies
/// between is in the event log.
pub fn is_outcome(phase: Phase) -> bool {
    matches!(phase, Phase::Probation | Phase::Committed | Phase::Reverted | Phase::Refused)
}

#[cfg(test)]
mod tests;
