//! Events: one append-only log, which is the audit trail, the live stream and the events page.
use leeway_protocol::time::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::Level;

/// One entry of the hash-chained log.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Event {
    /// Its number: rises by one, never reused; what a client resumes from.
    pub seq: u64,
    /// When, by the controller's clock.
    #[schema(value_type = String, format = DateTime)]
    pub at: Timestamp,
    /// Who: `controller`, a person's name, or `devices/<id>`.
    pub actor: String,
    /// What kind, such as `rollout.moved`.
    pub kind: String,
    /// How to read it.
    pub level: Level,
    /// What it is about, such as `rollouts/rain-1` or `devices/bellevue-07`.
    pub subject: String,
    /// What happened, in a sentence.
    pub sentence: String,
    /// Details.
    #[schema(value_type = Object)]
    pub data: serde_json::Value,
    /// Digest of this entry and, through it, of every earlier one.
    pub hash: String,
}

/// Whether the log is what was written.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Chain {
    /// Whether every link fits.
    pub verified: bool,
    /// Up to which entry it was checked.
    pub seq: u64,
    /// Digest of the last entry.
    pub head: String,
    /// A sentence.
    pub sentence: String,
}

/// A part of the log.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct EventList {
    /// The entries, rising.
    pub items: Vec<Event>,
    /// The oldest entry that is still kept.
    pub oldest_seq: u64,
    /// The newest entry there is; equal to the last item when there is nothing more.
    pub newest_seq: u64,
    /// The state of the chain.
    pub chain: Chain,
}

/// What the live stream sends, one JSON text message each.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "op", rename_all = "snake_case")]
pub enum Frame {
    /// First: where the log stands now.
    Hello {
        /// Newest entry.
        seq: u64,
        /// A bookmark comes at least this often, so silence means a dead connection.
        heartbeat_s: u64,
    },
    /// An entry. Entries come in order and without gaps.
    Event {
        /// Its number.
        seq: u64,
        /// The entry.
        event: Event,
    },
    /// Nothing happened up to here.
    Bookmark {
        /// Newest entry.
        seq: u64,
    },
    /// The entries asked for are no longer kept: read the state anew and go on from `oldest_seq`.
    Gone {
        /// The oldest entry that is still kept.
        oldest_seq: u64,
    },
    /// This client reads too slowly; it is disconnected and resumes with `since`.
    Lagged {
        /// Entries it has not been sent.
        dropped: u64,
    },
}
