//! Counting again: windows and alarms under what they were counted and judged under, and the notes that make that possible.
//!
//! What stays true: a window counted again under its own frame changes the monitors exactly as it did the first time.
use serde_json::Value;

use super::*;
use crate::quality::QualityVerdict;
use crate::replay::{AlarmNote, Engine, Note};

/// What thresholds are derived from, besides the policy.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sizes {
    /// Devices in the fleet.
    pub devices: u64,
    /// Monitors of drift.
    pub monitors: u64,
    /// Estimates of quality.
    pub qualities: u64,
}

/// What a window is counted under; stored with it, so that counting it again gives the same however the fleet has changed since.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Frame {
    /// The device's cohort.
    pub cohort: Option<Cohort>,
    /// What thresholds were derived from.
    pub sizes: Sizes,
}

/// An alarm that stands.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Stands {
    pub(super) sentence: String,
    pub(super) verdict: Said,
}

/// What an alarm's detector says in full.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Said {
    Drift(Box<Verdict>),
    Quality(Box<QualityVerdict>),
}

impl Said {
    fn value(&self) -> Value {
        let value = match self {
            Self::Drift(verdict) => serde_json::to_value(verdict),
            Self::Quality(verdict) => serde_json::to_value(verdict),
        };
        value.unwrap_or_default()
    }
}

impl Ledger {
    /// What thresholds are derived from: what is now, or what was pinned.
    pub(super) fn sizes(&self) -> Sizes {
        if let Some(frame) = &self.pinned {
            return frame.sizes;
        }
        let at_least_one = |n: usize| n.max(1) as u64;
        Sizes {
            devices: at_least_one(self.snapshot.fleet.len()),
            monitors: at_least_one(self.monitors.len()),
            qualities: at_least_one(self.qualities.len()),
        }
    }

    /// What a window of this device is to be counted under, if it is taken in now.
    pub fn frame_of(&self, device: &DeviceId) -> Frame {
        Frame { cohort: self.cohort_of(device), sizes: self.sizes() }
    }

    /// Take in a message under a frame that was made for it; without one, under what is now.
    pub fn take_framed(&mut self, message: &Message, at: Timestamp, frame: Option<&Frame>) {
        self.pinned = frame.cloned();
        self.take(message, at);
        self.pinned = None;
    }

    /// Count a window for drift and quality only, as it was counted under `frame`.
    pub fn count_again(&mut self, device: &DeviceId, window: &WindowReport, frame: &Frame) {
        self.pinned = Some(frame.clone());
        if let Some(cohort) = frame.cohort.clone() {
            self.observe(cohort, device, window);
        }
        self.pinned = None;
    }

    /// What stands in one cohort under `sizes`: kind, feature, device and verdict of each alarm.
    pub fn alarms_again(&mut self, cohort: &Cohort, manifest: Digest, sizes: Sizes) -> Vec<(String, Option<DeviceId>, Value)> {
        self.pinned = Some(Frame { cohort: Some(cohort.clone()), sizes });
        let (_, standing) = self.judged(cohort, manifest);
        self.pinned = None;
        standing.into_iter().map(|((_, feature, device), stands)| (feature, device, stands.verdict.value())).collect()
    }

    /// Give up a monitor, as [`Ledger::tidy`] did.
    pub fn give_up(&mut self, cohort: &Cohort, manifest: Digest) {
        self.monitors.remove(&(cohort.clone(), manifest));
    }

    /// What a start leaves: estimates whose monitor was given up are in no checkpoint.
    pub fn begin_again(&mut self) {
        let monitors = &self.monitors;
        self.qualities.retain(|key, _| monitors.contains_key(key));
    }

    /// Forget everything derived from windows.
    pub fn forget_derived(&mut self) {
        (self.monitors, self.qualities, self.labelled) = Default::default();
    }

    /// Keep the last word of a device that comes back: what it did meanwhile, only its report will say.
    pub(super) fn note_return(&mut self, device: &DeviceId) {
        let found = self.snapshot.fleet.device(device);
        let last = found.filter(|found| !found.presence.online).and_then(|found| found.presence.last_seen);
        if let Some(last) = last {
            self.returned.entry(device.clone()).or_insert(last);
        }
    }

    /// Every cohort and manifest that is watched.
    pub fn watched(&self) -> Vec<(Cohort, Digest)> {
        let all: BTreeSet<_> = self.monitors.keys().chain(self.qualities.keys()).cloned().collect();
        all.into_iter().collect()
    }

    /// Notes to be written with the events that were made since the last time.
    pub fn take_notes(&mut self) -> Vec<Vec<u8>> {
        std::mem::take(&mut self.notes)
    }

    /// Write down what an alarm was made from; what its event says about that.
    pub(super) fn note_alarm(&mut self, kind: &str, alarm: &Alarm, manifest: Digest, said: Option<&Said>, at: Timestamp) -> Value {
        let (cohort, feature, device) = alarm.clone();
        let (engine, windows, sizes) = (Engine::this(), self.position.windows, self.sizes());
        let verdict = said.map(Said::value);
        let note = AlarmNote { at, engine, windows, sizes, cohort, manifest, feature, device, kind: kind.to_owned(), verdict };
        let Some((bytes, digest)) = Note::Alarm(Box::new(note)).sealed() else { return Value::Null };
        self.notes.push(bytes);
        json!({ "digest": digest })
    }
}
