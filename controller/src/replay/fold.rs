//! Counting everything again, in the order in which it was counted.
//!
//! The very functions that count in production do it here: a [`Ledger`] that knows the manifests and nothing of the fleet, because each
//! window and each alarm brings the frame it was made in.
use std::collections::BTreeMap;
use std::sync::Arc;

use leeway_protocol::digest::Digest;
use leeway_protocol::ids::{Cohort, DeviceId};
use leeway_protocol::manifest::Manifest;
use leeway_protocol::report::WindowReport;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::note::contradicts;
use super::{AlarmNote, Difference, GateNote, Note, Report};
use crate::audit::Event;
use crate::drift::Monitor;
use crate::ingest::Ledger;
use crate::ingest::ledger::Frame;
use crate::ingest::ledger::health::is_alarm;
use crate::quality::Quality;

/// What is derived about one manifest in one cohort, as it is stored.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Monitored {
    /// The cohort.
    pub cohort: Cohort,
    /// The manifest.
    pub manifest: Digest,
    /// Its detectors.
    pub drift: Option<Monitor>,
    /// Its estimates.
    pub quality: Option<Quality>,
    /// Captured rows with a label.
    pub labelled_rows: u64,
}

/// Everything, counted again so far.
#[derive(Debug)]
pub struct Fold {
    ledger: Ledger,
    report: Report,
    /// The number of the next window that counts; `None` where there is no place to begin.
    next: Option<u64>,
    /// What each note's event is, by the note's digest.
    events: BTreeMap<Digest, Named>,
    /// Alarms and decisions that were not computed again, by why.
    passed_over: BTreeMap<String, u64>,
}

/// An event that names a note.
#[derive(Debug, Clone)]
struct Named {
    seq: u64,
    kind: String,
    subject: String,
    sentence: String,
    is_found: bool,
}

/// What became of a note.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Replayed {
    /// Computed again and equal.
    Equal,
    /// Computed again, and something else came out.
    Different,
    /// Nothing was to be computed, or it could not be.
    Not,
}

impl Fold {
    /// Nothing counted yet.
    pub fn new(manifests: impl IntoIterator<Item = (Digest, Arc<Manifest>)>) -> Self {
        let mut ledger = Ledger::default();
        for (digest, manifest) in manifests {
            ledger.know(digest, manifest);
        }
        Self { ledger, report: Report::new(), next: None, events: BTreeMap::new(), passed_over: BTreeMap::new() }
    }

    /// Windows of this manifest can be counted.
    pub fn know(&mut self, digest: Digest, manifest: Arc<Manifest>) {
        self.ledger.know(digest, manifest);
    }

    /// Whether windows are being counted.
    pub fn is_running(&self) -> bool {
        self.next.is_some()
    }

    /// Begin at window `next` with what was derived up to there; nothing at the beginning of all.
    pub fn begin(&mut self, next: u64, derived: Vec<Monitored>) {
        self.ledger.forget_derived();
        for Monitored { cohort, manifest, drift, quality, labelled_rows } in derived {
            self.ledger.restore_derived(cohort, manifest, drift, quality, labelled_rows);
        }
        self.next = Some(next);
    }

    /// Something that cannot be replayed, in a sentence.
    pub fn cannot(&mut self, sentence: String) {
        self.report.cannot.push(sentence);
    }

    /// Take down what an event says about its note.
    pub fn event(&mut self, event: &Event) {
        self.report.events += 1;
        let is_alarm = is_alarm(&event.kind);
        let digest = event.data.pointer("/basis/digest").and_then(Value::as_str).and_then(|hex| hex.parse::<Digest>().ok());
        let by_gate = digest.is_some() && !is_alarm;
        self.report.alarms.recorded += u64::from(is_alarm);
        self.report.decisions.recorded += u64::from(by_gate);
        let Some(digest) = digest else {
            if is_alarm {
                self.pass_over("alarms were announced before their counts were noted, or their note was too large");
            }
            return;
        };
        let Event { seq, kind, subject, sentence, .. } = event.clone();
        self.events.insert(digest, Named { seq, kind, subject, sentence, is_found: false });
    }

    /// Count a window again; its number and its frame come from the log.
    pub fn window(&mut self, seq: u64, device: &DeviceId, window: &WindowReport, frame: Option<&Frame>) {
        let Some(next) = self.next.filter(|next| seq >= *next) else { return };
        if seq > next {
            self.next = None;
            self.cannot(format!("windows {next} to {} are past retention, or cannot be read", seq - 1));
            return;
        }
        let Some(frame) = frame else {
            self.next = None;
            self.cannot(format!("from window {seq} on, windows were stored without the frame they were counted in"));
            return;
        };
        self.report.windows += 1;
        self.ledger.count_again(device, window, frame);
        self.next = Some(seq + 1);
    }

    /// Take a note that stands at this place of the log of windows: everything before its number was counted.
    pub fn note(&mut self, bytes: &[u8]) -> Replayed {
        self.report.notes += 1;
        self.report.note_bytes += bytes.len() as u64;
        let named = self.events.get_mut(&Digest::of(bytes)).map(|named| {
            named.is_found = true;
            named.clone()
        });
        let note: Note = match serde_json::from_slice(bytes) {
            Ok(note) => note,
            Err(error) => {
                self.cannot(format!("a note cannot be read: {error}"));
                return Replayed::Not;
            }
        };
        match note {
            Note::Start { drift, quality, .. } => {
                (self.ledger.drift, self.ledger.quality) = (drift, quality);
                self.ledger.begin_again();
                Replayed::Not
            }
            Note::Gone { cohort, manifest, .. } => {
                self.ledger.give_up(&cohort, manifest);
                Replayed::Not
            }
            Note::Repaired { device, .. } => {
                self.ledger.repaired(&device);
                Replayed::Not
            }
            Note::Alarm(note) => self.alarm(&note, named.as_ref()),
            Note::Gate(note) => self.gate(&note, named.as_ref()),
        }
    }

    fn alarm(&mut self, note: &AlarmNote, named: Option<&Named>) -> Replayed {
        let what =
            format!("{} {}{} {}", note.kind, note.cohort, note.device.as_ref().map(|d| format!(" {d}")).unwrap_or_default(), note.feature);
        let seq = self.named(&what, named, Some(&note.kind));
        if self.next != Some(note.windows) {
            self.pass_over("alarms lie where not every window before them can be counted");
            return Replayed::Not;
        }
        let standing = self.ledger.alarms_again(&note.cohort, note.manifest, note.sizes);
        let now = standing.into_iter().find(|(feature, device, _)| *feature == note.feature && *device == note.device).map(|(.., v)| v);
        let (recorded, recomputed) = (note.verdict.clone().unwrap_or_default(), now.unwrap_or_default());
        let equal = self.report.compare(&self.what(what, &note.engine), seq, &recorded, &recomputed);
        self.report.alarms.count(equal);
        if equal { Replayed::Equal } else { Replayed::Different }
    }

    fn gate(&mut self, note: &GateNote, named: Option<&Named>) -> Replayed {
        let what = format!("{} rollouts/{}", note.step.kind(), note.rollout);
        let seq = self.named(&what, named, Some(note.step.kind()));
        let what = self.what(what, &note.engine);
        let again = note.inputs.judge();
        let mut equal = self.report.compare(&what, seq, &note.said, &serde_json::to_value(&again).unwrap_or_default());
        if let Some(why) = contradicts(&note.step, &again) {
            self.report.differ(Difference {
                what: what.clone(),
                seq,
                path: "/step".to_owned(),
                recorded: note.step.sentence(),
                recomputed: why,
            });
            equal = false;
        }
        if let Some(named) = named.filter(|named| named.sentence != note.step.sentence()) {
            let (recorded, recomputed) = (named.sentence.clone(), note.step.sentence());
            self.report.differ(Difference { what, seq, path: "/sentence".to_owned(), recorded, recomputed });
            equal = false;
        }
        self.report.decisions.count(equal);
        if equal { Replayed::Equal } else { Replayed::Different }
    }

    /// The number of a note's event; a note that no event names is a difference.
    fn named(&mut self, what: &str, named: Option<&Named>, kind: Option<&str>) -> Option<u64> {
        let fits = named.filter(|named| kind.is_none_or(|kind| kind == named.kind));
        if fits.is_none() {
            let recorded = named.map_or_else(|| "no event names this note".to_owned(), |named| format!("{} {}", named.kind, named.subject));
            let recomputed = "a note of this content".to_owned();
            self.report.differ(Difference { what: what.to_owned(), seq: None, path: "/basis/digest".to_owned(), recorded, recomputed });
        }
        named.map(|named| named.seq)
    }

    fn what(&self, what: String, engine: &super::Engine) -> String {
        if engine.is_this() { what } else { format!("{what} (decided by {engine}, which may count otherwise)") }
    }

    /// Compare everything derived with what was stored at window `place`.
    pub fn checkpoint(&mut self, place: u64, stored: &[Monitored]) {
        if self.next != Some(place) {
            return;
        }
        let mut missing: std::collections::BTreeSet<_> = self.ledger.watched().into_iter().collect();
        for one in stored {
            missing.remove(&(one.cohort.clone(), one.manifest));
            let (drift, quality, _) = self.ledger.derived(&one.cohort, one.manifest);
            for (kind, stored, again) in [
                ("drift", serde_json::to_value(&one.drift), serde_json::to_value(&drift)),
                ("quality", serde_json::to_value(&one.quality), serde_json::to_value(&quality)),
            ] {
                let what = format!("{kind} of {} under {}", one.cohort, one.manifest.short());
                let equal = self.report.compare(&what, None, &stored.unwrap_or_default(), &again.unwrap_or_default());
                self.report.streams.recorded += 1;
                self.report.streams.count(equal);
            }
        }
        for (cohort, manifest) in missing {
            // An estimate whose monitor was given up is in no checkpoint either.
            if self.ledger.derived(&cohort, manifest).0.is_some() {
                let what = format!("drift of {cohort} under {}", manifest.short());
                self.report.compare(&what, None, &Value::Null, &json!("counted"));
            }
        }
    }

    fn pass_over(&mut self, why: &str) {
        *self.passed_over.entry(why.to_owned()).or_default() += 1;
    }

    /// What was found. `first_note` is the oldest note there is: an event before it has lost its note to retention, one after it to
    /// something else.
    pub fn finish(mut self, lost_notes_before: Option<u64>) -> Report {
        let unfound: Vec<Named> = self.events.values().filter(|named| !named.is_found).cloned().collect();
        for named in unfound {
            if lost_notes_before.is_some_and(|seq| named.seq < seq) {
                self.pass_over("alarms or decisions are older than the notes that are kept");
                continue;
            }
            let (recorded, recomputed) =
                ("a note of this digest".to_owned(), "no note has this content: it was changed or removed".to_owned());
            let what = format!("{} {}", named.kind, named.subject);
            self.report.differ(Difference { what, seq: Some(named.seq), path: "/basis/digest".to_owned(), recorded, recomputed });
        }
        for (why, n) in std::mem::take(&mut self.passed_over) {
            self.report.cannot.push(format!("{n} {why}"));
        }
        self.report
    }
}
