//! Figures about the controller itself, for `/metrics`.
use std::sync::atomic::{AtomicU64, Ordering};

use crate::ingest::ledger::Tally;

/// Counted since the start.
#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) batches: AtomicU64,
    pub(super) receipts: AtomicU64,
    pub(super) plans: AtomicU64,
    pub(super) steps: AtomicU64,
    pub(super) plan_micros: AtomicU64,
    pub(super) published: AtomicU64,
    pub(super) store_errors: AtomicU64,
}

/// The figures at one moment.
#[derive(Debug, Clone, Default)]
pub struct MetricsView {
    /// What became of uplinks.
    pub uplinks: Tally,
    /// Devices enrolled.
    pub devices: u64,
    /// Of these, connected.
    pub online: u64,
    /// Connections to the embedded broker.
    pub connections: u64,
    /// Batches of uplinks committed.
    pub batches: u64,
    /// Messages receipted.
    pub receipts: u64,
    /// Plans made.
    pub plans: u64,
    /// Steps carried out.
    pub steps: u64,
    /// Time spent planning, microseconds.
    pub plan_micros: u64,
    /// Desired states published.
    pub published: u64,
    /// Commits that failed.
    pub store_errors: u64,
}

pub(super) fn add(counter: &AtomicU64, n: u64) {
    counter.fetch_add(n, Ordering::Relaxed);
}

impl Counters {
    pub(super) fn view(&self, uplinks: Tally, devices: u64, online: u64, connections: u64) -> MetricsView {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        MetricsView {
            uplinks,
            devices,
            online,
            connections,
            batches: read(&self.batches),
            receipts: read(&self.receipts),
            plans: read(&self.plans),
            steps: read(&self.steps),
            plan_micros: read(&self.plan_micros),
            published: read(&self.published),
            store_errors: read(&self.store_errors),
        }
    }
}
