//! One simulated device: what it does with an assignment, and what it would report.
//!
//! It keeps what it *is* apart from what it has *said*: a device that is away goes on with its trial and its windows, and tells
//! when it is back. Everything it says goes through [`crate::fleet::Device::observe`], as in production. Small liberties: a
//! download is all or nothing, and one that is interrupted starts again on return.
use leeway_protocol::assignment::Intent;
use leeway_protocol::digest::Digest;
use leeway_protocol::ids::{BootId, Generation};
use leeway_protocol::reason::{Code, Reason};
use leeway_protocol::reported::{Phase, Reported, Running, TrustedVersions};
use leeway_protocol::time::Timestamp;

use super::base::Base;
use super::chance::Chance;
use super::harm::Effect;
use crate::fleet::{DesiredRecord, Device};
use crate::rollout::evidence::Totals;
use crate::rollout::standing::millis;

/// Bytes a device fetches per millisecond: 1 MB/s, a good mobile link.
pub const FETCH_PER_MS: u64 = 1_000;
/// From the last byte to the first inference: verification, self-test, start.
const LOAD_MS: i64 = 5_000;
/// Of the devices that fail because of a version, so many run it first and fall back; the others refuse it in the self-test.
const FALL_BACK: f64 = 0.5;

/// What happens next to a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Next {
    /// Its presence turns.
    Contact,
    /// The release is on disk and tested.
    Installed(Generation),
    /// Its trial is over.
    Tried(Generation),
    /// A window closes.
    Window,
}

/// How it takes to the new version.
#[derive(Debug, Clone, PartialEq)]
enum Fate {
    Takes,
    Refuses(Reason),
    FallsBack,
}

/// Shares of its inferences, as they are with the baseline.
#[derive(Debug, Clone, Copy)]
struct Habits {
    errors: f64,
    slow: f64,
    right: f64,
    expected: f64,
}

/// What its windows counted, for one manifest.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Counted {
    /// Inferences asked for, failed ones included.
    pub asked: f64,
    /// Of these, failed.
    pub errors: f64,
    /// Of the others, too slow.
    pub slow: f64,
    /// Labels.
    pub labels: f64,
    /// Of these, right.
    pub right: f64,
    /// Sum of calibrated confidence over the decisions; `None` without a calibration.
    pub expected: Option<f64>,
}

/// What all devices of a run have in common.
#[derive(Debug)]
pub struct World<'a> {
    /// The new version's manifest.
    pub candidate: Digest,
    /// Its bytes.
    pub length: u64,
    /// Ordinary days.
    pub base: &'a Base,
    /// What the version does in this run.
    pub effect: Effect,
}

/// A device.
#[derive(Debug)]
pub struct Simulated {
    /// Whether it is connected.
    pub online: bool,
    /// Part of an hour by which its pattern is moved.
    pub shift: i64,
    /// Whether the new version ever ran here.
    pub ran: bool,
    /// When it first ran for good.
    pub reached_at: Option<Timestamp>,
    /// Its sums per metric, as ingestion keeps them.
    pub sums: [Totals; 4],
    /// Whether its windows are followed.
    pub counts: bool,
    /// When the download that it was just told of begins.
    pub fetch_at: Option<Timestamp>,
    local: Reported,
    unsaid: bool,
    previous: Option<Running>,
    stalled: bool,
    fate: Fate,
    /// What it refuses for is over the next time.
    passing: bool,
    habits: Habits,
    per_ms: f64,
    window_since: Timestamp,
    window_ms: i64,
    owed: Vec<(Digest, Counted)>,
}

impl Simulated {
    /// A device at the start of a run, with its fate and habits drawn.
    pub fn new(device: &Device, refuses: Option<&Reason>, per_ms: f64, now: Timestamp, world: &World<'_>, chance: &mut Chance) -> Self {
        let local = device.reported.clone().unwrap_or_else(|| silent(now));
        let fate = match refuses {
            Some(reason) => Fate::Refuses(reason.clone()),
            None if chance.happens(world.effect.failure) => {
                let refuses = Fate::Refuses(Reason::new(Code::GoldenMismatch, "drawn by chance"));
                if chance.happens(FALL_BACK) { Fate::FallsBack } else { refuses }
            }
            None if chance.happens(world.base.refusal) => Fate::Refuses(Reason::new(Code::DownloadFailed, "drawn by chance")),
            None => Fate::Takes,
        };
        let mut own = |rate: super::base::Rate| chance.around(rate.share, rate.spread);
        let base = world.base;
        let habits = Habits {
            errors: own(base.errors),
            slow: own(base.slow),
            right: base.labelled.map_or(0.0, |(_, rate)| own(rate)),
            expected: base.estimated.map_or(0.0, &mut own),
        };
        let (sums, owed) = Default::default();
        Self {
            online: device.presence.online,
            shift: 0,
            ran: false,
            reached_at: None,
            sums,
            counts: false,
            fetch_at: None,
            local,
            unsaid: false,
            previous: None,
            stalled: false,
            passing: refuses.is_none() && matches!(&fate, Fate::Refuses(reason) if reason.code == Code::DownloadFailed),
            fate,
            habits,
            per_ms,
            window_since: now,
            window_ms: 0,
            owed,
        }
    }

    /// Connected again, or for the first time: what it does with what it finds there.
    pub fn hear(&mut self, desired: &DesiredRecord, now: Timestamp, world: &World<'_>, chance: &mut Chance) -> Option<(Timestamp, Next)> {
        if desired.generation <= self.local.generation {
            let again = std::mem::take(&mut self.stalled);
            self.fetch_at = again.then_some(now);
            return again.then(|| (now.plus_millis(fetch_ms(world.length)), Next::Installed(self.local.generation)));
        }
        self.stalled = false;
        self.unsaid = true;
        (self.local.generation, self.local.rollout, self.local.reason) = (desired.generation, desired.rollout.clone(), None);
        let Some(manifest) = desired.manifest else {
            self.local.phase = Phase::Idle;
            return None;
        };
        if self.local.active.as_ref().is_some_and(|active| active.manifest == manifest) {
            self.local.phase = Phase::Committed;
            return None;
        }
        self.local.phase = Phase::Fetching;
        let mut wait = LOAD_MS;
        if self.fetches(manifest) {
            let spread = chance.millis(millis(desired.settings.spread_ms));
            self.fetch_at = Some(now.plus_millis(spread));
            wait += spread + fetch_ms(world.length);
        }
        if desired.intent == Intent::Install && self.local.active.is_some() {
            let shadow = desired.settings.shadow;
            wait += self.takes_ms(shadow.min_inferences).min(millis(shadow.max_ms));
        }
        Some((now.plus_millis(wait), Next::Installed(desired.generation)))
    }

    /// Whether it has to download this release: what it ran before is still on its disk.
    pub fn fetches(&self, manifest: Digest) -> bool {
        let has = |slot: &Option<Running>| slot.as_ref().is_some_and(|running| running.manifest == manifest);
        !(has(&self.local.active) || has(&self.previous) || self.local.last_known_good == Some(manifest))
    }

    /// The release is there: it refuses it, or runs it on trial.
    pub fn install(
        &mut self,
        desired: &DesiredRecord,
        now: Timestamp,
        world: &World<'_>,
        chance: &mut Chance,
    ) -> Option<(Timestamp, Next)> {
        let (manifest, line, version) = (desired.manifest?, desired.line.clone()?, desired.version.clone()?);
        if self.local.generation != desired.generation || self.local.phase != Phase::Fetching {
            return None;
        }
        if !self.online && self.fetches(manifest) {
            self.stalled = true;
            return None;
        }
        self.unsaid = true;
        if let (Fate::Refuses(reason), true) = (&self.fate, manifest == world.candidate) {
            (self.local.phase, self.local.reason) = (Phase::Refused, Some(reason.clone()));
            if self.passing {
                self.fate = Fate::Takes;
            }
            return None;
        }
        self.close_window(now, world, chance);
        let running = Running { line, version, manifest, model: manifest, since: now, inferences: 0, golden: None };
        self.previous = self.local.active.replace(running);
        self.local.phase = Phase::Probation;
        if manifest == world.candidate {
            self.ran = true;
        }
        let trial = desired.settings.probation;
        let wait = millis(trial.min_ms).max(self.takes_ms(trial.min_inferences));
        Some((now.plus_millis(wait), Next::Tried(desired.generation)))
    }

    /// The trial is over: for good, or back to what ran before.
    pub fn settle(&mut self, desired: &DesiredRecord, now: Timestamp, world: &World<'_>, chance: &mut Chance) {
        let Some(active) = self.local.active.clone() else { return };
        if self.local.phase != Phase::Probation || self.local.generation != desired.generation {
            return;
        }
        self.unsaid = true;
        let is_new = active.manifest == world.candidate;
        let served = (now.millis_since(active.since) as f64 * self.per_ms).floor().max(1.0);
        let failed = chance.hits(served, self.errors_of(active.manifest, world)) / served;
        let back = match (&self.fate, is_new) {
            (Fate::FallsBack, true) => Some(Reason::new(Code::Crashed, "drawn by chance")),
            (_, true) if failed > desired.settings.probation.max_error_ratio => {
                Some(Reason::new(Code::InferenceErrors, format!("{:.0} % of {served:.0}", failed * 100.0)))
            }
            _ => None,
        };
        if let Some(reason) = back {
            self.close_window(now, world, chance);
            self.local.active = self.previous.take();
            (self.local.phase, self.local.reason) = (Phase::Reverted, Some(reason));
            return;
        }
        let active = Running { inferences: served as u64, golden: Some(active.model), ..active };
        (self.local.phase, self.local.last_known_good, self.local.active) = (Phase::Committed, Some(active.manifest), Some(active));
        if is_new {
            self.reached_at.get_or_insert(now);
        }
    }

    /// Begin to follow its windows; the first closes after `first` milliseconds.
    pub fn follow(&mut self, now: Timestamp, window_ms: i64) {
        if !self.counts {
            (self.counts, self.window_since, self.window_ms) = (true, now, window_ms.max(1));
        }
    }

    /// How long one of its windows lasts.
    pub fn window_ms(&self, desired: &DesiredRecord) -> i64 {
        let windows = desired.settings.windows;
        millis(windows.max_ms).min(self.takes_ms(windows.max_inferences)).max(1_000)
    }

    /// Close the open window; it is owed until [`Self::owed`] is asked for.
    pub fn close_window(&mut self, now: Timestamp, world: &World<'_>, chance: &mut Chance) {
        let ms = now.millis_since(std::mem::replace(&mut self.window_since, now));
        let Some(manifest) = self.local.active.as_ref().map(|active| active.manifest).filter(|_| self.counts && ms > 0) else { return };
        let asked = (ms as f64 * self.per_ms + chance.share()).floor();
        if asked < 1.0 {
            return;
        }
        let is_new = manifest == world.candidate;
        let errors = chance.hits(asked, self.errors_of(manifest, world));
        let good = asked - errors;
        let labels = world.base.labelled.map_or(0.0, |(share, _)| chance.hits(good, share));
        let right = chance.hits(labels, self.habits.right + if is_new { world.effect.accuracy } else { 0.0 });
        let slow = chance.hits(good, self.habits.slow);
        let expected = world.base.estimated.map(|_| good * self.habits.expected);
        self.owed.push((manifest, Counted { asked, errors, slow, labels, right, expected }));
    }

    /// The closed windows that were not sent yet.
    pub fn owed(&mut self) -> Vec<(Digest, Counted)> {
        std::mem::take(&mut self.owed)
    }

    /// What it has to say, if anything changed since it last said so.
    pub fn says(&mut self) -> Option<Reported> {
        std::mem::take(&mut self.unsaid).then(|| self.local.clone())
    }

    /// The next window's end.
    pub fn next_window(&self, now: Timestamp) -> Timestamp {
        now.plus_millis(self.window_ms)
    }

    /// Whether it has refused the new version or gone back from it, for good.
    pub fn gave_up(&self) -> bool {
        matches!(self.local.phase, Phase::Refused | Phase::Reverted)
    }

    fn errors_of(&self, manifest: Digest, world: &World<'_>) -> f64 {
        let harmed = world.effect.errors.filter(|_| manifest == world.candidate);
        harmed.unwrap_or(self.habits.errors)
    }

    /// How long it takes to serve so many inferences.
    fn takes_ms(&self, inferences: u64) -> i64 {
        (inferences as f64 / self.per_ms.max(1e-9)).min(1e15) as i64
    }
}

/// How long a download takes.
pub fn fetch_ms(length: u64) -> i64 {
    millis(length / FETCH_PER_MS)
}

/// What a device is taken to be that has never reported.
fn silent(now: Timestamp) -> Reported {
    let (rollout, reason, active, last_known_good, shadow, conditions) = Default::default();
    Reported {
        v: 1,
        generation: Generation(0),
        rollout,
        phase: Phase::Idle,
        reason,
        active,
        last_known_good,
        shadow,
        conditions,
        trusted: TrustedVersions::default(),
        agent: String::new(),
        boot: BootId(1),
        outbox: 0,
        dropped: 0,
        at: now,
    }
}
