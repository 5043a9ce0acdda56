//! Where a replay may begin: everything derived as it was at some place in the log of windows, kept while the windows behind it are.
//!
//! Without one, the first window past retention would end all replays, since detectors remember everything since they began. A base costs
//! what the checkpoint costs (a kilobyte per device and feature), so there are few: [`MAX_BASES`], ten days apart. The first is
//! written as soon as there is none: a controller that was updated can be replayed from that day on.
use leeway_protocol::time::Timestamp;
use serde::{Deserialize, Serialize};

use super::super::control::{ControlError, Inner};
use super::super::store::{Kind, Log, Store, StoreError, Write};
use crate::replay::Monitored;

/// Time between two bases.
const EVERY_MS: i64 = 10 * 24 * 3_600_000;
/// Bases kept: windows are kept for ninety days.
const MAX_BASES: usize = 10;
/// A larger one is not written: 2,000 devices with 20 features each take 40 MB, and a commit of more would be felt.
const MAX_BYTES: usize = 64 << 20;

/// Everything derived, at one place.
#[derive(Serialize, Deserialize)]
pub(in crate::io) struct Base {
    /// The number of the first window that is not in it.
    pub(in crate::io) windows: u64,
    /// The number of the first note that is not in it.
    pub(in crate::io) notes: u64,
    /// What was derived.
    pub(in crate::io) derived: Vec<Monitored>,
}

fn key(at: Timestamp, windows: u64) -> String {
    format!("{:015}-{windows}", at.as_millis().max(0))
}

fn written_at(key: &str) -> Option<i64> {
    key.split_once('-').and_then(|(at, _)| at.parse().ok())
}

/// A new base and the end of old ones, if it is time. The caller has the turn and writes them down with the checkpoint.
pub(super) fn due(inner: &Inner, at: Timestamp) -> Result<Vec<Write>, ControlError> {
    let known = inner.store.names(Kind::Base)?;
    let last = known.last().and_then(|key| written_at(key));
    if last.is_some_and(|last| at.as_millis() - last < EVERY_MS) {
        return Ok(Vec::new());
    }
    let notes = inner.store.next_seq(Log::Notes)?;
    let (windows, derived) = {
        let ledger = inner.ledger();
        let one = |(cohort, manifest)| {
            let (drift, quality, labelled_rows) = ledger.derived(&cohort, manifest);
            // Without a monitor it is in no checkpoint, and would not come back from one.
            drift.is_some().then_some(Monitored { cohort, manifest, drift, quality, labelled_rows })
        };
        (ledger.position.windows, ledger.watched().into_iter().filter_map(one).collect())
    };
    let base = Base { windows, notes, derived };
    let value = serde_json::to_vec(&base).map_err(|e| ControlError::Unavailable(format!("a base for replays cannot be written: {e}")))?;
    if value.len() > MAX_BYTES {
        tracing::debug!("no base for replays: it would take {} bytes", value.len());
        return Ok(Vec::new());
    }
    let past = known.len().saturating_sub(MAX_BASES - 1);
    let mut writes: Vec<Write> = known.into_iter().take(past).map(|key| Write::Delete { kind: Kind::Base, key }).collect();
    writes.push(Write::Put { kind: Kind::Base, key: key(at, windows), value });
    Ok(writes)
}

/// Every base there is, the oldest first.
pub(in crate::io) fn all(store: &Store) -> Result<Vec<Base>, StoreError> {
    // One that an older program wrote in another form is no place to begin at.
    Ok(store.docs(Kind::Base)?.into_iter().filter_map(|(_, bytes)| serde_json::from_slice(&bytes).ok()).collect())
}
