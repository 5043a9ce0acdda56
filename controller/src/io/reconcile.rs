//! The one loop that plans: signal or timer, whole state, idempotent.
//!
//! It takes no input about what changed. Each round takes the turn, looks at everything, plans, and carries the plan out; a
//! round that finds nothing changed and nothing due costs a comparison of two numbers.
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use leeway_protocol::time::Timestamp;

use super::control::Inner;
use super::counters::add;
use super::watchdog::Watchdog;
use super::{clock, execute, health};
use crate::planner;

/// At most so much of the time is spent planning: a round is followed by a pause of this many times its own length.
const REST_FACTOR: u32 = 4;
/// The longest such pause.
const MAX_REST: Duration = Duration::from_secs(2);

/// Plan until the controller ends. A round that failed is progress too: the disk may be full, and a restart would not empty it.
pub(super) async fn run(inner: Arc<Inner>, tick: Duration, watchdog: Watchdog) {
    let mut seen = None;
    let mut due: Option<Timestamp> = None;
    loop {
        tokio::select! {
            () = inner.wake.notified() => {}
            () = tokio::time::sleep(tick) => {}
        }
        let began = Instant::now();
        match round(&inner, &mut seen, &mut due).await {
            Ok(()) => {}
            Err(error) => {
                tracing::error!("a plan was not carried out: {error}; planning again");
                seen = None;
            }
        }
        watchdog.tell("WATCHDOG=1");
        tokio::time::sleep((began.elapsed() * REST_FACTOR).min(MAX_REST)).await;
    }
}

async fn round(inner: &Inner, seen: &mut Option<u64>, due: &mut Option<Timestamp>) -> Result<(), super::control::ControlError> {
    let _turn = inner.turn.lock().await;
    let now = clock::now();
    health::refresh(inner, now).await?;
    let state = inner.ledger().snapshot.clone();
    if *seen == Some(state.revision) && due.is_none_or(|due| now < due) {
        return Ok(());
    }
    let began = Instant::now();
    let (plan, report) = planner::plan(&state, &inner.policy, now);
    add(&inner.counters.plans, 1);
    add(&inner.counters.plan_micros, u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX));
    let revision = state.revision;
    if !plan.steps.is_empty() {
        execute::carry_out(inner, state, &plan, &report, now).await?;
    }
    *seen = Some(revision);
    *due = plan.wake_at;
    *inner.report.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(report);
    Ok(())
}
