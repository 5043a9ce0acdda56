//! How windows are judged from one start to the next: a changed policy counts for what comes after it, and not for what was counted before.
use serde::{Deserialize, Serialize};

use super::super::control::{ControlError, document};
use super::super::store::{Batch, Kind, Log, Store, StoreError, Write};
use super::super::{checkpoint, clock};
use crate::drift::DriftPolicy;
use crate::ingest::Ledger;
use crate::quality::QualityPolicy;
use crate::replay::{Engine, Note};

/// How everything is judged.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(super) struct Judging {
    drift: DriftPolicy,
    quality: QualityPolicy,
}

/// Its key among the settings.
const KEY: &str = "judging";

/// Put the state together from the store. What lies behind the checkpoint is counted under the policies of that time; the ledger goes on
/// with those it came with, which are returned.
pub(super) fn restored(store: &Store, ledger: &mut Ledger) -> Result<Judging, StoreError> {
    let now = Judging { drift: ledger.drift, quality: ledger.quality };
    // One of another program, without what this one needs, is none.
    let before = store.doc(Kind::Setting, KEY)?.and_then(|bytes| serde_json::from_slice::<Judging>(&bytes).ok());
    if let Some(before) = before {
        (ledger.drift, ledger.quality) = (before.drift, before.quality);
    }
    checkpoint::restore(store, ledger)?;
    (ledger.drift, ledger.quality) = (now.drift, now.quality);
    Ok(now)
}

/// Write down how windows from number `windows` on are judged, and by what.
pub(super) async fn begin(store: &Store, judging: Judging, windows: u64) -> Result<(), ControlError> {
    let (at, Judging { drift, quality }) = (clock::now(), judging);
    let mut writes = vec![document(Kind::Setting, KEY.to_owned(), Some(&judging))?];
    let note = Note::Start { at, windows, engine: Engine::this(), drift, quality }.sealed();
    writes.extend(note.map(|(record, _)| Write::Append { log: Log::Notes, record }));
    store.commit(Batch { at, writes, events: Vec::new(), urgent: true }).await?;
    Ok(())
}
