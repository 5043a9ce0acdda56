//! What can be seen of a live station from outside its task: counters and the last things it said, nothing of its inside.
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::AtomicUsize;
use std::sync::{Mutex, MutexGuard, PoisonError};

use leeway_agent::action::Level;
use leeway_protocol::ids::{DeviceId, Generation, Version};
use leeway_protocol::reason::Reason;
use leeway_protocol::reported::{Phase, Reported};
use leeway_protocol::trust::keyring::PublicKey;

use super::mirror::Lies;
use super::runner::Answer;
use crate::uplink::{Said, Uplink};

/// Different reasons that are kept, and sentences of the log; the oldest go.
const MAX_REASONS: usize = 64;
const MAX_SENTENCES: usize = 64;

/// How one station did in one calendar year of the weather.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Year {
    /// Days on which a model answered.
    pub inferences: u64,
    /// Of these, decided rightly.
    pub correct: u64,
    /// Days on which nobody answered.
    pub unserved: u64,
}

/// A reason a station gave, with the moment of its agent's report.
#[derive(Debug, Clone, PartialEq)]
pub struct Refusal {
    /// The generation concerned.
    pub generation: Generation,
    /// Refused, reverted or waiting.
    pub phase: Phase,
    /// Why.
    pub reason: Reason,
}

/// One station as seen from outside.
#[derive(Debug, Clone)]
pub struct StationView {
    /// Which.
    pub id: DeviceId,
    /// The day of the weather series it lives next.
    pub day: usize,
    /// Connected to the broker.
    pub online: bool,
    /// Starts of its agent.
    pub starts: u64,
    /// What it last reported.
    pub reported: Option<Reported>,
    /// Every version that ever answered the application here, on trial or for good.
    pub ever_ran: BTreeSet<Version>,
    /// Reasons it gave, in order, each once per generation.
    pub refusals: Vec<Refusal>,
    /// The latest sentences of its log from warnings up.
    pub sentences: Vec<String>,
    /// By calendar year.
    pub years: BTreeMap<i64, Year>,
    /// Messages handed to the connection.
    pub messages: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Of these, closed windows (some sent more than once).
    pub windows: u64,
    /// Messages the connection had no room for; they stay in the outbox.
    pub held_back: u64,
}

impl StationView {
    /// The version that answers, as last reported.
    pub fn version(&self) -> Option<&Version> {
        Some(&self.reported.as_ref()?.active.as_ref()?.version)
    }

    /// Where it is with its assignment, as last reported.
    pub fn phase(&self) -> Option<Phase> {
        self.reported.as_ref().map(|reported| reported.phase)
    }
}

/// What a station's task shares with the fleet's handle.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) seed: u64,
    pub(super) key: PublicKey,
    pub(super) day: AtomicUsize,
    pub(super) lies: Mutex<Lies>,
    view: Mutex<StationView>,
}

impl Shared {
    pub(super) fn new(id: DeviceId, seed: u64, key: PublicKey, day: usize) -> Self {
        let view = StationView {
            id,
            day,
            online: false,
            starts: 1,
            reported: None,
            ever_ran: BTreeSet::new(),
            refusals: Vec::new(),
            sentences: Vec::new(),
            years: BTreeMap::new(),
            messages: 0,
            bytes: 0,
            windows: 0,
            held_back: 0,
        };
        Self { seed, key, day: AtomicUsize::new(day), lies: Mutex::default(), view: Mutex::new(view) }
    }

    /// The view as it is.
    pub(super) fn view(&self) -> StationView {
        let mut view = self.lock().clone();
        view.day = self.day.load(std::sync::atomic::Ordering::Relaxed);
        view
    }

    /// Change the view.
    pub(super) fn look(&self, change: impl FnOnce(&mut StationView)) {
        change(&mut self.lock());
    }

    pub(super) fn published(&self, uplink: Option<Uplink>, bytes: u64, sent: bool) {
        let mut view = self.lock();
        if !sent {
            view.held_back += 1;
            return;
        }
        view.messages += 1;
        view.bytes += bytes;
        match uplink.map(|uplink| uplink.said) {
            Some(Said::Reported(reported)) => view.note(*reported),
            Some(Said::Window(_)) => view.windows += 1,
            _ => {}
        }
    }

    pub(super) fn lived(&self, year: i64, answer: Option<&Answer>, rain: bool) {
        let mut view = self.lock();
        let year = view.years.entry(year).or_default();
        match answer {
            Some(answer) => {
                year.inferences += 1;
                year.correct += u64::from(answer.rain == rain);
            }
            None => year.unserved += 1,
        }
    }

    pub(super) fn logged(&self, level: Level, sentence: &str) {
        if level < Level::Warn {
            return;
        }
        let mut view = self.lock();
        if view.sentences.len() == MAX_SENTENCES {
            view.sentences.remove(0);
        }
        view.sentences.push(sentence.to_owned());
    }

    fn lock(&self) -> MutexGuard<'_, StationView> {
        self.view.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl StationView {
    fn note(&mut self, reported: Reported) {
        if let Some(running) = &reported.active {
            self.ever_ran.insert(running.version.clone());
        }
        if let Some(reason) = &reported.reason {
            let refusal = Refusal { generation: reported.generation, phase: reported.phase, reason: reason.clone() };
            if !self.refusals.contains(&refusal) && self.refusals.len() < MAX_REASONS {
                self.refusals.push(refusal);
            }
        }
        self.reported = Some(reported);
    }
}
