//! From monitors to what the planner decides on, and to events when an alarm begins or ends.
use leeway_protocol::time::Timestamp;

use super::control::{ControlError, Inner};
use super::store::{Batch, Log, Write};

/// Judge every monitor that counted something since the last time. The caller has the turn.
pub(super) async fn refresh(inner: &Inner, at: Timestamp) -> Result<(), ControlError> {
    let (events, notes) = {
        let mut ledger = inner.ledger();
        (ledger.refresh_health(at), ledger.take_notes())
    };
    if !events.is_empty() {
        let writes = notes.into_iter().map(|record| Write::Append { log: Log::Notes, record }).collect();
        inner.store.commit(Batch { at, writes, events, urgent: true }).await?;
    }
    Ok(())
}
