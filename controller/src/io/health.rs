//! From monitors to what the planner decides on, and to events when an alarm begins or ends.
use leeway_protocol::time::Timestamp;

use super::control::{ControlError, Inner};
use super::store::Batch;

/// Judge every monitor that counted something since the last time. The caller has the turn.
pub(super) async fn refresh(inner: &Inner, at: Timestamp) -> Result<(), ControlError> {
    let events = inner.ledger().refresh_health(at);
    if !events.is_empty() {
        inner.store.commit(Batch { at, writes: Vec::new(), events, urgent: true }).await?;
    }
    Ok(())
}
