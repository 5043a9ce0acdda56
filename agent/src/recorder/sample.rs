//! Rows kept for retraining: chosen by a hash of the request, within a daily budget, completed when their label arrives.
//!
//! The hash makes the choice reproducible and independent of the data, so the inclusion probability that travels with each
//! row is true; without it a captured set is a biased set that nobody can unbias. Once a day's budget is used up nothing more
//! is kept that day: the set then covers the first part of the day, which is why the budget should be the looser bound.
use std::collections::VecDeque;

use leeway_protocol::assignment::CapturePolicy;
use leeway_protocol::capture::{CaptureBatch, CapturedRow, MAX_ROWS, MAX_VALUES};
use leeway_protocol::digest::Digest;
use leeway_protocol::time::Timestamp;

use crate::recorder::memory::{hash, share};
use crate::recorder::row::{Decided, Elements, Row};

/// Rows that wait for their label.
pub const WAITING_ROWS: usize = 4_096;
/// Values all waiting and ready rows together may hold: 1 MiB of floats.
pub const HELD_VALUES: usize = 256 << 10;
/// Values in one batch: 256 KB on the wire.
pub const BATCH_VALUES: usize = 64 << 10;
/// Windows a row waits for its label before it leaves without one.
pub const PATIENCE_WINDOWS: u64 = 4;
/// Milliseconds of a day.
const DAY_MS: i64 = 86_400_000;

#[derive(Debug)]
pub(crate) struct Sample {
    policy: CapturePolicy,
    /// The manifest's free inputs; captured rows hold their elements, one input after the other.
    free: Vec<usize>,
    /// Whether a row fits the wire at all.
    fits: bool,
    /// With the window they were kept in.
    waiting: VecDeque<(u64, CapturedRow)>,
    window: u64,
    ready: VecDeque<CapturedRow>,
    values: usize,
    day: i64,
    kept_today: u64,
    batch: u64,
}

impl Sample {
    pub(crate) fn new(policy: CapturePolicy, free: Vec<usize>, values: usize) -> Self {
        let fits = values <= MAX_VALUES;
        Self { policy, free, fits, waiting: VecDeque::new(), window: 0, ready: VecDeque::new(), values: 0, day: 0, kept_today: 0, batch: 0 }
    }

    pub(crate) fn set_policy(&mut self, policy: CapturePolicy) {
        self.policy = policy;
    }

    /// Keep the row if its request is chosen and the day's budget allows.
    #[inline]
    pub(crate) fn offer(&mut self, now: Timestamp, request: u64, at: Timestamp, row: &Row<'_>, decided: Option<Decided>) {
        // The complement, so that the choice is independent of the place the memory gives the same request.
        let inclusion = self.policy.uniform.min(1.0);
        if inclusion > 0.0 && self.fits && share(hash(hash(!request) ^ self.policy.salt)) < inclusion {
            self.keep(now, request, at, row, decided, inclusion);
        }
    }

    fn keep(&mut self, now: Timestamp, request: u64, at: Timestamp, row: &Row<'_>, decided: Option<Decided>, inclusion: f64) {
        let day = now.as_millis().div_euclid(DAY_MS);
        if day != self.day {
            (self.day, self.kept_today) = (day, 0);
        }
        if self.kept_today >= self.policy.max_rows_per_day {
            return;
        }
        self.kept_today += 1;
        let mut inputs = Vec::new();
        for &tensor in &self.free {
            match row.inputs.get(tensor) {
                Some(Elements::F32(values)) => inputs.extend_from_slice(values),
                Some(other) => inputs.extend((0..other.len()).filter_map(|i| other.at(i)).map(|x| x as f32)),
                None => {}
            }
        }
        let (decided, confidence) = match decided {
            Some(d) => (d.class as f32, d.confidence as f32),
            None => (row.outputs.first().and_then(|o| o.at(0)).unwrap_or(f64::NAN) as f32, 0.0),
        };
        self.values += inputs.len();
        let row = CapturedRow { request, at, inputs, decided, confidence, label: None, inclusion: inclusion as f32 };
        self.waiting.push_back((self.window, row));
        while self.waiting.len() > WAITING_ROWS || self.values > HELD_VALUES {
            let Some((_, oldest)) = self.waiting.pop_front() else { break };
            self.release(oldest);
        }
        while self.values > HELD_VALUES {
            let Some(row) = self.ready.pop_front() else { break };
            self.values = self.values.saturating_sub(row.inputs.len());
        }
    }

    /// Complete a waiting row; whether there was one.
    pub(crate) fn label(&mut self, request: u64, label: f32) -> bool {
        // From the newest: labels mostly belong to recent requests.
        let Some(at) = self.waiting.iter().rposition(|(_, row)| row.request == request) else { return false };
        let Some((_, mut row)) = self.waiting.remove(at) else { return false };
        row.label = Some(label);
        self.ready.push_back(row);
        true
    }

    /// A window closed: rows that waited long enough leave without a label, or are forgotten if only labelled ones may leave.
    pub(crate) fn window_closed(&mut self) {
        self.window += 1;
        // Rows that may only leave labelled wait as long as there is room.
        if !self.policy.labelled_only {
            self.release_older_than(self.window.saturating_sub(PATIENCE_WINDOWS));
        }
    }

    /// The model goes: nothing is worth waiting for.
    pub(crate) fn release_all(&mut self) {
        self.release_older_than(u64::MAX);
    }

    fn release_older_than(&mut self, window: u64) {
        while self.waiting.front().is_some_and(|(kept_in, _)| *kept_in < window) {
            let Some((_, oldest)) = self.waiting.pop_front() else { break };
            self.release(oldest);
        }
    }

    fn release(&mut self, row: CapturedRow) {
        if self.policy.labelled_only {
            self.values = self.values.saturating_sub(row.inputs.len());
        } else {
            self.ready.push_back(row);
        }
    }

    /// Whether a whole batch is ready.
    #[inline]
    pub(crate) fn is_full(&self) -> bool {
        self.ready.len() >= MAX_ROWS
    }

    /// The next batch of ready rows, up to the bounds of one message.
    pub(crate) fn take(&mut self, manifest: Digest) -> Option<CaptureBatch> {
        let mut rows = Vec::new();
        let mut values = 0;
        while rows.len() < MAX_ROWS && self.ready.front().is_some_and(|row| rows.is_empty() || values + row.inputs.len() <= BATCH_VALUES) {
            let Some(row) = self.ready.pop_front() else { break };
            values += row.inputs.len();
            rows.push(row);
        }
        self.values = self.values.saturating_sub(values);
        if rows.is_empty() {
            return None;
        }
        let batch = self.batch;
        self.batch += 1;
        Some(CaptureBatch { manifest, batch, rows })
    }
}
