//! Rows kept for retraining: chosen by a hash of the request, within a daily budget, completed when their label arrives.
//!
//! Every row has a probability of its own before chance is asked: the floor's, or a larger one for a row that is worth more (little
//! margin, a rare bin, a shadow that says otherwise), times the factor that makes the budget last ([`Pace`]). One hashed number
//! per request decides against it and that probability travels with the row; without it a captured set is a biased set
//! that nobody can unbias. The number is the same for all reasons, so rows whose number is below the floor's probability
//! are a plain uniform sample by themselves. What is dear to know (bins, margins) is asked only of rows that could be kept at all.
//!
//! What stays true: given everything before it, a row is kept with exactly the probability it carries, as long as the bound
//! of the day does not take it; and every row has a chance above 0 as long as the policy captures at all.
use std::collections::VecDeque;

use leeway_protocol::assignment::{CapturePolicy, Priority};
use leeway_protocol::capture::{CaptureBatch, CapturedRow, MAX_ROWS, MAX_VALUES};
use leeway_protocol::digest::Digest;
use leeway_protocol::time::Timestamp;

use crate::recorder::memory::{hash, share};
use crate::recorder::pace::Pace;
use crate::recorder::redact::Redaction;
use crate::recorder::row::{Decided, Elements, Row};

/// Rows that wait for their label.
pub const WAITING_ROWS: usize = 4_096;
/// Values all waiting and ready rows together may hold: 1 MiB of floats.
pub const HELD_VALUES: usize = 256 << 10;
/// Values in one batch: 256 KB on the wire.
pub const BATCH_VALUES: usize = 64 << 10;
/// Windows a row waits for its label before it leaves without one.
pub const PATIENCE_WINDOWS: u64 = 4;
/// Bytes of a row besides its values, at most.
const ROW_BYTES: u64 = 48;
/// Milliseconds of a day.
const DAY_MS: i64 = 86_400_000;

/// An inference that may be kept.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Offer<'a> {
    pub(crate) request: u64,
    pub(crate) at: Timestamp,
    pub(crate) row: Row<'a>,
    pub(crate) decided: Option<Decided>,
}

/// A row whose shadow has not answered yet.
#[derive(Debug)]
struct Held {
    now: Timestamp,
    row: CapturedRow,
    number: f64,
    /// Its probability if the shadow agrees, before the factor.
    base: f64,
    factor: f64,
}

#[derive(Debug)]
pub(crate) struct Sample {
    policy: CapturePolicy,
    pace: Pace,
    redaction: Redaction,
    /// The manifest's free inputs; captured rows hold their elements, one input after the other.
    free: Vec<usize>,
    /// Values of a row.
    width: usize,
    held: Option<Held>,
    /// With the window they were kept in.
    waiting: VecDeque<(u64, CapturedRow)>,
    window: u64,
    ready: VecDeque<CapturedRow>,
    values: usize,
    batch: u64,
}

impl Sample {
    pub(crate) fn new(policy: CapturePolicy, free: Vec<usize>, width: usize, redaction: Redaction) -> Self {
        Self {
            policy,
            pace: Pace::new(budget(&policy, width)),
            redaction,
            free,
            width,
            held: None,
            waiting: VecDeque::new(),
            window: 0,
            ready: VecDeque::new(),
            values: 0,
            batch: 0,
        }
    }

    pub(crate) fn set_policy(&mut self, policy: CapturePolicy) {
        self.policy = policy;
        self.pace.set_budget(budget(&policy, self.width));
    }

    /// Keep the row if its number is below its probability.
    #[inline]
    pub(crate) fn offer(&mut self, now: Timestamp, offer: &Offer<'_>, worth: impl FnOnce(Priority) -> (f64, bool)) {
        if self.policy.uniform > 0.0 && self.width <= MAX_VALUES {
            self.consider(now, offer, worth);
        }
    }

    /// `worth` gives the uncertainty, 0 to 1, and whether the row is rare; only called for rows that could be kept for it.
    fn consider(&mut self, now: Timestamp, offer: &Offer<'_>, worth: impl FnOnce(Priority) -> (f64, bool)) {
        self.compared(None);
        let (floor, priority) = (self.policy.uniform.min(1.0), self.policy.priority);
        let extra = priority.uncertain.max(priority.rare).clamp(0.0, 1.0);
        let disagreement = priority.disagreement.clamp(0.0, 1.0);
        let most = floor.max(extra).max(disagreement);
        let number = self.number(now, offer.request);
        let factor = self.pace.factor(now);
        if number >= most {
            return;
        }
        let (uncertainty, is_rare) = if extra > floor { worth(priority) } else { (0.0, false) };
        let rare = if is_rare { priority.rare.min(1.0) } else { 0.0 };
        let base = floor.max(priority.uncertain.min(1.0) * uncertainty.clamp(0.0, 1.0)).max(rare);
        // Rows are looked at with probability `most`, so this is what they take on average.
        self.pace.charge(factor * base / most);
        let could = base.max(disagreement);
        if number >= could * factor {
            return;
        }
        let row = self.copy(offer);
        self.held = Some(Held { now, row, number, base, factor });
        if disagreement <= base {
            self.compared(None);
        }
    }

    /// The number of a request, evenly spread over 0 to 1. The day is mixed in: numbers that begin anew each day would otherwise
    /// choose the same hours every day. The complement, so that the choice is independent of the place the memory gives the request.
    fn number(&self, now: Timestamp, request: u64) -> f64 {
        let day = now.as_millis().div_euclid(DAY_MS).unsigned_abs();
        share(hash(hash(!request) ^ hash(self.policy.salt ^ day.rotate_left(32))))
    }

    /// What the shadow said to the latest row: whether it decided otherwise; `None` where no shadow ran.
    #[inline]
    pub(crate) fn compared(&mut self, disagreed: Option<bool>) {
        let Some(Held { now, mut row, number, base, factor }) = self.held.take() else { return };
        let more = base.max(self.policy.priority.disagreement.clamp(0.0, 1.0));
        let own = if disagreed == Some(true) { more } else { base };
        // Rows wait here with probability `more`, so this is what disagreements take on average.
        self.pace.charge((own - base) / more);
        let inclusion = own * factor;
        // A probability that a float cannot hold would be 0 on the wire: such a row is not worth its weight either.
        row.inclusion = inclusion as f32;
        if number < inclusion && row.inclusion > 0.0 && self.pace.keep(now) {
            self.keep(row);
        }
    }

    fn copy(&self, offer: &Offer<'_>) -> CapturedRow {
        let mut inputs = Vec::with_capacity(self.width);
        for &tensor in &self.free {
            match offer.row.inputs.get(tensor) {
                Some(Elements::F32(values)) => inputs.extend_from_slice(values),
                Some(other) => inputs.extend((0..other.len()).filter_map(|i| other.at(i)).map(|x| x as f32)),
                None => {}
            }
        }
        self.redaction.apply(&mut inputs);
        let (decided, confidence) = match offer.decided {
            Some(d) => (d.class as f32, d.confidence as f32),
            None => (offer.row.outputs.first().and_then(|o| o.at(0)).unwrap_or(f64::NAN) as f32, 0.0),
        };
        CapturedRow { request: offer.request, at: offer.at, inputs, decided, confidence, label: None, inclusion: 1.0 }
    }

    fn keep(&mut self, row: CapturedRow) {
        self.values += row.inputs.len();
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
        self.compared(None);
        // From the newest: labels mostly belong to recent requests.
        let Some(at) = self.waiting.iter().rposition(|(_, row)| row.request == request) else { return false };
        let Some((_, mut row)) = self.waiting.remove(at) else { return false };
        row.label = Some(label);
        self.ready.push_back(row);
        true
    }

    /// A window closed: rows that waited long enough leave without a label, or are forgotten if only labelled ones may leave.
    pub(crate) fn window_closed(&mut self) {
        self.compared(None);
        self.window += 1;
        // Rows that may only leave labelled wait as long as there is room.
        if !self.policy.labelled_only {
            self.release_older_than(self.window.saturating_sub(PATIENCE_WINDOWS));
        }
    }

    /// The model goes: nothing is worth waiting for.
    pub(crate) fn release_all(&mut self) {
        self.compared(None);
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

/// Rows a day under both bounds.
fn budget(policy: &CapturePolicy, width: usize) -> u64 {
    let bytes = ROW_BYTES + 4 * width as u64;
    let by_bytes = if policy.max_bytes_per_day == 0 { u64::MAX } else { policy.max_bytes_per_day / bytes };
    policy.max_rows_per_day.min(by_bytes)
}
