//! From monitors to what the planner decides on, and to events when an alarm begins or ends.
use leeway_protocol::time::Timestamp;

use super::control::{ControlError, Inner, document};
use super::store::{Batch, Kind, Log, Store, StoreError, Write};
use crate::ingest::Ledger;
use crate::ingest::ledger::health::Announced;

/// Where it stands among the settings which alarms were announced.
const KEY: &str = "alarms";

/// Judge every monitor that counted something since the last time. The caller has the turn.
pub(super) async fn refresh(inner: &Inner, at: Timestamp) -> Result<(), ControlError> {
    let (events, notes, announced) = {
        let mut ledger = inner.ledger();
        let events = ledger.refresh_health(at);
        let announced = if events.is_empty() { Vec::new() } else { ledger.announced() };
        (events, ledger.take_notes(), announced)
    };
    if !events.is_empty() {
        let mut writes: Vec<Write> = notes.into_iter().map(|record| Write::Append { log: Log::Notes, record }).collect();
        writes.push(document(Kind::Setting, KEY.to_owned(), Some(&announced))?);
        inner.store.commit(Batch { at, writes, events, urgent: true }).await?;
    }
    Ok(())
}

/// Take up what was announced before a restart; what stands beside it is announced with the next judgement.
pub(super) fn restore(store: &Store, ledger: &mut Ledger, at: Timestamp) -> Result<(), StoreError> {
    let known = store.doc(Kind::Setting, KEY)?.and_then(|bytes| serde_json::from_slice::<Vec<Announced>>(&bytes).ok());
    match known {
        Some(announced) => ledger.restore_announced(announced),
        // A store from before this was written down: what stands was announced when it began.
        None => drop((ledger.refresh_health(at), ledger.take_notes())),
    }
    Ok(())
}

/// Write down which alarms are known, so that the next start need not guess.
pub(super) async fn begin(inner: &Inner, at: Timestamp) -> Result<(), ControlError> {
    let announced = inner.ledger().announced();
    let writes = vec![document(Kind::Setting, KEY.to_owned(), Some(&announced))?];
    inner.store.commit(Batch { at, writes, events: Vec::new(), urgent: true }).await?;
    Ok(())
}
