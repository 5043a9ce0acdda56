//! Folds single inferences into closed windows of exact counts, at a few nanoseconds a value.
//!
//! Two parts. The always-on part counts every inference: answers, failures, latency, decisions by class and confidence,
//! labels, what the application tells of its own. The profile, one bin per feature, is paid from a budget of 2 % of the
//! inference's own time (or a thousandth of all time, if that is more) and is sampled when that is short; `recorded` against
//! `inferences` says how much. Counting on the device, not sending values, is what keeps a window at some twenty bytes a feature.
//!
//! Pure: the moment and the measured nanoseconds are handed in, chance is a hash. What stays true: every recorded inference
//! lands in exactly one bin of every feature, and a window is sent once or not at all.
use leeway_protocol::assignment::{CapturePolicy, Windows};
use leeway_protocol::capture::CaptureBatch;
use leeway_protocol::digest::Digest;
use leeway_protocol::ids::WindowId;
use leeway_protocol::manifest::{CONFIDENCE_BINS, Calibration, Decision, Manifest};
use leeway_protocol::report::{Errors, LATENCY_BUCKETS, Labelled, MAX_CLASSES, UserMetric, UserValue, WindowReport, latency_bucket};
use leeway_protocol::time::Timestamp;

mod budget;
mod cells;
mod channels;
mod derived;
mod memory;
mod pace;
mod redact;
pub mod row;
mod sample;
#[cfg(test)]
pub(crate) mod tests;
mod user;

pub use budget::{IDLE_SHARE, SHARE, TIMED_EVERY};
pub use memory::REMEMBERED;
pub use sample::{BATCH_VALUES, HELD_VALUES, PATIENCE_WINDOWS, WAITING_ROWS};
pub use user::TooManyNames;

use budget::Budget;
use cells::Cells;
use memory::Memory;
use redact::Redaction;
use row::{Decided, Decider, Row};
use sample::{Offer, Sample};
use user::Told;

/// Inferences after which a window closes whatever the policy says, so that no 32-bit count can overflow.
const MAX_INFERENCES: u64 = 1 << 31;

/// Nanoseconds one feature is assumed to cost until it was measured.
const GUESS_NANOS: f64 = 12.0;

/// One answered inference.
#[derive(Debug, Clone, Copy)]
pub struct Inference<'a> {
    /// Device-unique number of the request.
    pub request: u64,
    /// What the model took, nanoseconds.
    pub nanos: u64,
    /// The application's own time, if it gave one.
    pub data_time: Option<Timestamp>,
    /// Inputs and outputs.
    pub row: Row<'a>,
    /// [`row::Decider::decide`] of the outputs.
    pub decided: Option<Decided>,
}

/// Why an inference gave no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// The request did not fit the model.
    Rejected,
    /// The runtime failed.
    Failed,
    /// The output held NaN or infinity although the inputs did not.
    NotFinite,
    /// Over the time limit.
    TimedOut,
}

/// Records one model on one device.
#[derive(Debug)]
pub struct Recorder {
    manifest: Digest,
    model: Digest,
    windows: Windows,
    confidence: Edges,
    decider: Decider,
    cells: Cells,
    budget: Budget,
    memory: Memory,
    sample: Sample,
    next_window: u64,
    open: Open,
    /// The application's latest moment in a closed window.
    data_at: Option<Timestamp>,
}

/// The inner edges of the confidence bins, in place: [`Calibration::bin`] without a way to other memory.
#[derive(Debug, Clone, Copy)]
struct Edges([f64; CONFIDENCE_BINS - 1]);

impl Edges {
    fn new(calibration: &Calibration) -> Self {
        let mut edges = [f64::INFINITY; CONFIDENCE_BINS - 1];
        let inner = calibration.edges.get(1..CONFIDENCE_BINS).unwrap_or(&[]);
        edges.iter_mut().zip(inner).for_each(|(place, edge)| *place = *edge);
        Self(edges)
    }

    #[inline]
    fn bin(&self, confidence: f64) -> usize {
        self.0.iter().map(|&edge| usize::from(confidence >= edge)).sum()
    }
}

/// What the open window holds besides the profile.
#[derive(Debug, Clone)]
struct Open {
    /// First thing that happened, and the latest moment seen.
    moments: Option<(Timestamp, Timestamp)>,
    inferences: u64,
    recorded: u64,
    errors: Errors,
    latency: [u32; LATENCY_BUCKETS],
    confidence: [u32; CONFIDENCE_BINS],
    classes: Vec<u32>,
    labelled: [Labelled; CONFIDENCE_BINS],
    data_time: Option<(Timestamp, Timestamp)>,
    told: Told,
}

impl Open {
    fn new(classes: usize) -> Self {
        Self {
            moments: None,
            inferences: 0,
            recorded: 0,
            errors: Errors::default(),
            latency: [0; LATENCY_BUCKETS],
            confidence: [0; CONFIDENCE_BINS],
            classes: vec![0; classes],
            labelled: [Labelled::default(); CONFIDENCE_BINS],
            data_time: None,
            told: Told::default(),
        }
    }

    #[inline]
    fn touch(&mut self, now: Timestamp) {
        let (first, _) = self.moments.unwrap_or((now, now));
        self.moments = Some((first, now));
    }
}

impl Recorder {
    /// A recorder for the model of a manifest; `digest` is that of the manifest's bytes.
    pub fn new(manifest: &Manifest, digest: Digest, windows: Windows, capture: CapturePolicy) -> Self {
        let free: Vec<usize> = manifest.free_inputs().map(|(at, _)| at).collect();
        let values = manifest.free_inputs().filter_map(|(_, spec)| spec.elements()).sum();
        Self {
            manifest: digest,
            model: manifest.model.digest,
            windows,
            confidence: Edges::new(&manifest.calibration),
            decider: Decider::new(manifest),
            cells: Cells::new(manifest),
            budget: Budget::new(GUESS_NANOS * manifest.reference.features.len().max(1) as f64),
            memory: Memory::new(),
            sample: Sample::new(capture, free, values, Redaction::new(manifest)),
            next_window: 0,
            open: Open::new(classes(manifest)),
            data_at: None,
        }
    }

    /// New bounds from now on; the open window goes on under them.
    pub fn set_policy(&mut self, windows: Windows, capture: CapturePolicy) {
        self.windows = windows;
        self.sample.set_policy(capture);
    }

    /// Count an answered inference; whether its profile was recorded too.
    #[inline]
    pub fn answered(&mut self, now: Timestamp, inference: &Inference<'_>) -> bool {
        let open = &mut self.open;
        open.touch(now);
        open.inferences += 1;
        if let Some(count) = open.latency.get_mut(latency_bucket(inference.nanos)) {
            *count = count.wrapping_add(1);
        }
        if let Some(at) = inference.data_time {
            let (first, last) = open.data_time.unwrap_or((at, at));
            open.data_time = Some((first.min(at), last.max(at)));
        }
        if let Some(decided) = inference.decided {
            let bin = self.confidence.bin(decided.confidence);
            if let Some(count) = open.confidence.get_mut(bin) {
                *count = count.wrapping_add(1);
            }
            if let Some(count) = open.classes.get_mut(decided.class) {
                *count = count.wrapping_add(1);
            }
            self.memory.remember(inference.request, decided.class, bin);
        } else if self.decider == Decider::None {
            // Nothing to label, but the application may tell what became of it.
            self.memory.remember(inference.request, 0, 0);
        }
        let at = inference.data_time.unwrap_or(now);
        let (row, decided) = (inference.row, inference.decided);
        let (cells, decider) = (&mut self.cells, self.decider);
        self.sample.offer(now, &Offer { request: inference.request, at, row, decided }, |priority| {
            let margin = if priority.uncertain > 0.0 { decider.margin(row.outputs) } else { None };
            let is_rare = priority.rare > 0.0 && cells.is_rare(&row, decided.map(|d| d.confidence));
            (margin.map_or(0.0, |margin| 1.0 - margin), is_rare)
        });
        let recorded = self.budget.spend(now, inference.nanos);
        if recorded {
            self.cells.fold(&inference.row, inference.decided.map(|d| d.confidence));
            self.open.recorded += 1;
        }
        recorded
    }

    /// What the shadow said to the inference told last: whether it decided otherwise. Until then, or the next inference, a row that is
    /// kept for such a disagreement waits.
    pub fn compared(&mut self, disagreed: bool) {
        self.sample.compared(Some(disagreed));
    }

    /// Count a request that was refused because values were missing: its profile must show them, or a sensor that stops
    /// giving numbers would be invisible. It counts as an inference and as a rejected one.
    pub fn missing(&mut self, now: Timestamp, row: &Row<'_>) {
        self.failed(now, Failure::Rejected);
        self.cells.fold(row, None);
        self.open.inferences += 1;
        self.open.recorded += 1;
    }

    /// Count an inference without an answer.
    pub fn failed(&mut self, now: Timestamp, failure: Failure) {
        self.open.touch(now);
        let errors = &mut self.open.errors;
        let count = match failure {
            Failure::Rejected => &mut errors.rejected,
            Failure::Failed => &mut errors.failed,
            Failure::NotFinite => &mut errors.not_finite,
            Failure::TimedOut => &mut errors.timed_out,
        };
        *count += 1;
    }

    /// The truth about an earlier request; whether this model's decision or a captured row waited for it.
    pub fn label(&mut self, now: Timestamp, request: u64, label: f32) -> bool {
        let completed = self.sample.label(request, label);
        if self.decider == Decider::None {
            return completed;
        }
        let Some(decided) = self.memory.recall(request) else { return completed };
        self.open.touch(now);
        if let Some(bin) = self.open.labelled.get_mut(usize::from(decided.bin)) {
            bin.rows += 1;
            bin.correct += u64::from((f64::from(label) - f64::from(decided.class)).abs() < 0.5);
        }
        true
    }

    /// What the application measured itself, all of it or nothing.
    pub fn told(&mut self, now: Timestamp, values: &[(UserMetric, UserValue)]) -> Result<(), TooManyNames> {
        self.open.told.add(values)?;
        self.open.touch(now);
        Ok(())
    }

    /// Whether this model answered a request, as far as is remembered.
    pub fn answered_to(&mut self, request: u64) -> bool {
        self.memory.knows(request)
    }

    /// Whether the caller should tell [`Self::measured`] about the inference it has just reported.
    #[inline]
    pub fn wants_timing(&self) -> bool {
        self.budget.wants_timing()
    }

    /// What was spent on it since the engine's answer, nanoseconds, and what [`Self::answered`] returned.
    pub fn measured(&mut self, nanos: u64, recorded: bool) {
        self.budget.measured(nanos, recorded);
    }

    /// The present estimate of one recording's cost, nanoseconds.
    pub fn cost_nanos(&self) -> f64 {
        self.budget.cost_nanos()
    }

    /// Whether the open window should be closed now.
    #[inline]
    pub fn is_due(&self, now: Timestamp) -> bool {
        let Some((first, _)) = self.open.moments else { return false };
        // A clock that was set back must not keep a window open for ever.
        let age = now.millis_since(first).unsigned_abs();
        self.open.inferences >= self.windows.max_inferences.clamp(1, MAX_INFERENCES)
            || age >= self.windows.max_ms.max(1)
            || self.open.told.is_full()
    }

    /// Close the open window, if it holds anything. Its number counts from 0 here; the supervisor gives the lasting one.
    pub fn close(&mut self, now: Timestamp) -> Option<WindowReport> {
        let (opened_at, _) = self.open.moments?;
        let fresh = Open::new(self.open.classes.len());
        let open = std::mem::replace(&mut self.open, fresh);
        let last_data = self.data_at.map(|at| (at, at));
        self.data_at = open.data_time.map(|(_, last)| last).max(self.data_at);
        let (features, rho_percent) = self.cells.take();
        self.sample.window_closed();
        let window = WindowId(self.next_window);
        self.next_window += 1;
        Some(WindowReport {
            manifest: self.manifest,
            model: self.model,
            window,
            opened_at,
            closed_at: now.max(opened_at),
            inferences: open.inferences,
            recorded: open.recorded,
            errors: open.errors,
            latency: open.latency.to_vec(),
            features,
            rho_percent,
            confidence: open.confidence,
            classes: open.classes,
            labelled: open.labelled,
            // Labels come later than what they are about: a window of labels alone stands where the data last stood.
            data_time: open.data_time.or(last_data),
            user: open.told.into_totals(),
        })
    }

    /// Captured rows that are ready to leave; with `all`, those too that still wait for a label.
    pub fn captured(&mut self, all: bool) -> Vec<CaptureBatch> {
        if all {
            self.sample.release_all();
        }
        std::iter::from_fn(|| self.sample.take(self.manifest)).collect()
    }

    /// Whether a whole batch of captured rows is ready.
    #[inline]
    pub fn has_full_batch(&self) -> bool {
        self.sample.is_full()
    }
}

/// How many classes are counted apart.
fn classes(manifest: &Manifest) -> usize {
    match &manifest.decision {
        Decision::None => 0,
        Decision::Binary { .. } => 2,
        Decision::Classes { output } => {
            let last = manifest.outputs.get(*output).and_then(|s| s.shape.last()).copied().unwrap_or(0);
            usize::try_from(last).unwrap_or(0).min(MAX_CLASSES)
        }
    }
}
