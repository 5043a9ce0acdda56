//! One device as a value: what happened goes in, what is to be done comes out. The only place where transitions are decided.
//!
//! Pure: no clock, no disk, no network, no chance. Production, the simulator and the tables beside this code run the same
//! function, and firms that link the library drive it with an executor of their own.
//!
//! Every event ends in [`Agent::housekeep`], which looks at everything that has a time limit; so no timer is ever lost, and an
//! event too many changes nothing. What stays true, event by event:
//! * what answers the application was verified against both repositories, or came with the device;
//! * the generation only rises, and is on disk before anything follows from it;
//! * a start on trial is taken off its budget on disk before it happens;
//! * nothing is sealed before the number of this start is on disk, so no (boot, counter) is ever used twice.
use std::collections::BTreeMap;

use leeway_protocol::assignment::Assignment;
use leeway_protocol::digest::Digest;
use leeway_protocol::reason::Code;
use leeway_protocol::time::Timestamp;
use leeway_protocol::trust::director::Directive;

use crate::action::{Action, DiskPath, FetchId, Level, RunId};
use crate::deployment::Deployment;
use crate::event::Event;
use crate::outbox::Outbox;
use crate::slot::Release;

mod fetch;
mod follow;
mod link;
mod persist;
mod renewal;
mod report;
mod serve;
mod settings;
mod start;
mod state;
#[cfg(test)]
mod tests;
mod time;
mod trial;
mod trust;
mod window;

use link::Link;
use persist::{Files, Last};
use renewal::Renewal;
use serve::{Crashes, Serving};
pub(crate) use settings::built_at;
pub use settings::{OutboxBounds, Settings, Timing};
use state::State;
use time::Clock;
use trust::Trust;

/// The longest the agent sleeps: bounds what a clock that is set can hide.
const MAX_SLEEP_MS: u64 = 30_000;

/// The agent of one device.
#[derive(Debug)]
pub struct Agent {
    settings: Settings,
    clock: Clock,
    started: bool,
    stopping: bool,
    state: State,
    /// Whether the number of this start is on disk.
    boot_ready: bool,
    factory: Option<Release>,
    files: Files,
    followed: Option<Followed>,
    /// A desired document that could not be judged or stored yet.
    pending: Option<Vec<u8>>,
    deployment: Deployment,
    /// Faults under the present assignment, by kind.
    faults: BTreeMap<Code, u32>,
    /// Since when, on the steady clock, no clock could tell whether the maintenance window is open.
    clockless_since: Option<u64>,
    trust: Trust,
    serving: Option<Serving>,
    /// When a crashed runner is started again.
    restart_at: Option<u64>,
    /// Starts of the runner in a row that ended before it was ready.
    false_starts: u32,
    crashes: Crashes,
    runs: u64,
    fetches: u64,
    outbox: Outbox,
    link: Link,
    renewal: Renewal,
    /// What the list of the last event depends on, in case the disk fails under it.
    last: Last,
    /// Files that the disk did not remove when it was to, and how often it refused.
    unremoved: BTreeMap<DiskPath, u32>,
    /// Until when nothing durable is tried, after a failure.
    disk_pause: Option<u64>,
    /// Whether the disk lags behind `state`.
    unsaved: bool,
    out: Vec<Action>,
}

/// The assignment that is being followed.
#[derive(Debug, Clone)]
struct Followed {
    directive: Directive,
    assignment: Assignment,
}

impl Agent {
    /// An agent that has not started yet; its first event must be [`Event::Start`].
    pub fn new(settings: Settings) -> Self {
        Self {
            clock: Clock::new(settings.built_at),
            outbox: Outbox::new(settings.outbox),
            settings,
            started: false,
            stopping: false,
            state: State::default(),
            boot_ready: false,
            factory: None,
            files: Files::default(),
            followed: None,
            pending: None,
            deployment: Deployment::Idle,
            faults: BTreeMap::new(),
            clockless_since: None,
            trust: Trust::default(),
            serving: None,
            restart_at: None,
            false_starts: 0,
            crashes: Crashes::default(),
            runs: 0,
            fetches: 0,
            link: Link::default(),
            renewal: Renewal::default(),
            last: Last::default(),
            unremoved: BTreeMap::new(),
            disk_pause: None,
            unsaved: false,
            out: Vec::new(),
        }
    }

    /// Take in one event; carry out what comes back, in order, as [`crate::action`] says. `now` is the device's clock, right or
    /// wrong: durations are measured in a way that a clock set forward or back does not upset.
    pub fn handle(&mut self, now: Timestamp, event: Event) -> Vec<Action> {
        self.clock.observe(now);
        match event {
            Event::Start(stored) => {
                if !self.started {
                    self.started = true;
                    self.start(&stored);
                }
            }
            _ if !self.started => self.log(Level::Warn, "an event came before the start and was ignored".to_owned()),
            Event::DiskFailed { what, path, full, error } => self.disk_failed(&what, path.as_ref(), full, &error),
            event => {
                self.last = Last::default();
                self.trust.disk_has_followed();
                self.take(event);
            }
        }
        if self.started {
            self.housekeep();
        }
        std::mem::take(&mut self.out)
    }

    fn take(&mut self, event: Event) {
        match event {
            Event::Connecting => self.connecting(),
            Event::Connected { .. } => self.connected(),
            Event::Disconnected => self.disconnected(),
            Event::Desired(bytes) => self.desired(bytes),
            Event::Receipt(bytes) => self.receipt(&bytes),
            Event::Metadata { fetch, file, fetched } => self.metadata(fetch, &file, fetched),
            Event::BlobDone { fetch, digest } => self.blob_done(fetch, digest),
            Event::BlobFailed { fetch, digest, failure } => self.blob_failed(fetch, digest, failure),
            Event::Read { path, result } => self.read(&path, result),
            Event::Runner { run, notice } => self.noticed(run, notice),
            Event::Certificate(news) => self.certificate_news(news),
            Event::Stop => self.stop(),
            Event::Tick | Event::Start(_) | Event::DiskFailed { .. } => {}
        }
    }

    /// Everything that has a time limit, looked at after every event.
    fn housekeep(&mut self) {
        let now = self.clock.steady();
        if self.disk_pause.is_some_and(|until| until <= now) {
            self.disk_pause = None;
        }
        self.save_what_lags();
        self.retry_pending();
        self.advance();
        self.watch_runner();
        self.refresh_when_due();
        self.trim_outbox();
        self.renew_when_due();
        if !self.stopping {
            self.send_what_is_due();
        }
        let millis = self.next_wake().saturating_sub(now).clamp(1, MAX_SLEEP_MS);
        self.out.push(Action::WakeIn { millis });
    }

    /// The next moment at which [`Self::housekeep`] has something to do, on the steady clock.
    fn next_wake(&self) -> u64 {
        let times = [
            self.disk_pause,
            self.restart_at,
            self.deployment_due(),
            self.runner_due(),
            self.refresh_due(),
            self.send_due(),
            self.renewal_due(),
        ];
        times.into_iter().flatten().min().unwrap_or(u64::MAX)
    }

    /// The moment by which expiry is judged, for those who judge certificates outside.
    pub fn trusted_time(&self) -> Timestamp {
        self.clock.trusted()
    }

    /// Whether the disk may be asked to make something durable now.
    fn disk_is_ready(&self) -> bool {
        self.disk_pause.is_none()
    }

    fn next_fetch(&mut self) -> FetchId {
        self.fetches = self.fetches.saturating_add(1);
        FetchId(self.fetches)
    }

    fn next_run(&mut self) -> RunId {
        self.runs = self.runs.saturating_add(1);
        RunId(self.runs)
    }

    fn log(&mut self, level: Level, sentence: String) {
        self.out.push(Action::Log { level, sentence });
    }

    /// Half to all of `span`, always the same for this device, purpose and number: spreads a fleet without chance.
    fn jitter(&self, purpose: &str, number: u64, span: u64) -> u64 {
        let half = span / 2;
        half.saturating_add(self.share(purpose, number, span.saturating_sub(half)))
    }

    /// A number below `span`, always the same for this device, purpose and number.
    fn share(&self, purpose: &str, number: u64, span: u64) -> u64 {
        let text = format!("{} {} {purpose} {number}", self.settings.tenant, self.settings.device);
        let digest = Digest::of(text.as_bytes());
        let bytes = digest.as_bytes().first_chunk::<8>().copied().unwrap_or_default();
        u64::from_le_bytes(bytes).checked_rem(span).unwrap_or(0)
    }

    /// The delay before try number `tries`: doubles from the first to the longest, jittered.
    fn retry_delay(&self, purpose: &str, tries: u32) -> u64 {
        let timing = &self.settings.timing;
        let span = timing.retry_first_ms.saturating_mul(1 << tries.saturating_sub(1).min(30)).min(timing.retry_max_ms);
        self.jitter(purpose, u64::from(tries), span)
    }
}
