//! One virtual device: the real agent with simulated organs.
//!
//! The agent is the shipped one, unchanged; here are only its hands: the disk, the runners, the cable. Its list of actions is
//! carried out in order, and the power may go before any entry of it, which is exactly what the agent's contract allows.
//! What stays true: whatever reaches the agent came through an [`Event`], and whatever it did left through an [`Effect`].
use std::collections::{BTreeMap, BTreeSet, VecDeque};

use leeway_agent::action::{Action, FetchId, Level, MetadataFile, Payload, RunId, RunnerPurpose};
use leeway_agent::agent::{Agent, Settings};
use leeway_agent::control::RunnerNotice;
use leeway_agent::event::Event;
use leeway_protocol::digest::Digest;
use leeway_protocol::ids::DeviceId;
use leeway_protocol::time::Timestamp;
use leeway_protocol::topic::Channel;

use crate::disk::Disk;
use crate::organ::{self, Received};
use crate::rng::Rng;
use crate::runner::{Executed, Runner, Said};

/// Events that may follow from one another at once; more would be an agent that talks to itself for ever.
const MAX_CHAIN: usize = 1_000;

/// What the world must do for a device.
#[derive(Debug, Clone, PartialEq)]
pub enum Effect {
    /// Open a connection with this will.
    Connect(Vec<u8>),
    /// A message to the broker.
    Publish(Channel, Vec<u8>),
    /// A metadata file is wanted.
    Metadata {
        /// Which fetch.
        fetch: FetchId,
        /// Which file.
        file: MetadataFile,
        /// The bound.
        max_len: u64,
    },
    /// A blob is wanted, from `offset` on.
    Blob {
        /// Which fetch.
        fetch: FetchId,
        /// Which blob.
        digest: Digest,
        /// Its length.
        length: u64,
        /// What lies in staging already.
        offset: u64,
    },
    /// A notice of a runner comes after so many milliseconds.
    Notice(RunId, u64, Box<RunnerNotice>),
    /// A runner for the application was started and wants a beat.
    Beat(RunId),
    /// Hand in a tick after so many milliseconds, if `number` is still the last.
    Wake {
        /// Which wake.
        number: u64,
        /// When.
        after_ms: u64,
    },
    /// A model was loaded.
    Executed(Executed),
    /// A sentence for people.
    Log(Level, String),
    /// The power is gone.
    Died,
}

/// What arrives at a device besides the agent's own events.
#[derive(Debug, Clone, PartialEq)]
pub enum Arrival {
    /// Straight to the agent.
    Event(Event),
    /// The answer to a metadata fetch.
    Metadata(FetchId, Event),
    /// The end of a download.
    Blob {
        /// Which fetch.
        fetch: FetchId,
        /// Which blob.
        digest: Digest,
        /// Its length.
        length: u64,
        /// What came.
        received: Received,
    },
    /// Time for a runner to do its work.
    Beat(RunId),
    /// The wake with this number.
    Wake(u64),
}

/// A device.
#[derive(Debug)]
pub struct Device {
    settings: Settings,
    /// Its disk.
    pub disk: Disk,
    /// What its clock shows beyond the world's, milliseconds.
    pub skew_ms: i64,
    agent: Option<Agent>,
    runners: BTreeMap<RunId, Runner>,
    fetches: BTreeSet<FetchId>,
    wake: u64,
    /// The power goes before the n-th action from now.
    dies_in: Option<u32>,
    rng: Rng,
}

impl Device {
    /// A device that is switched off, with what its factory put on the disk.
    pub fn new(settings: Settings, disk: Disk, rng: Rng) -> Self {
        let (runners, fetches) = (BTreeMap::new(), BTreeSet::new());
        Self { settings, disk, skew_ms: 0, agent: None, runners, fetches, wake: 0, dies_in: None, rng }
    }

    /// Its id.
    pub fn id(&self) -> &DeviceId {
        &self.settings.device
    }

    /// What it was made with.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Whether it has power.
    pub fn is_on(&self) -> bool {
        self.agent.is_some()
    }

    /// Manifest digest of the model that answers the application.
    pub fn serving(&self) -> Option<Digest> {
        self.runners.values().find_map(Runner::serving)
    }

    /// The power goes before the `n`-th action from now.
    pub fn die_in(&mut self, n: u32) {
        self.dies_in = Some(n.max(1));
    }

    /// It does not go after all.
    pub fn die_never(&mut self) {
        self.dies_in = None;
    }

    /// The power comes, or the agent's process is started again.
    pub fn switch_on(&mut self, now: Timestamp) -> Vec<Effect> {
        let stored = organ::stored(&self.disk);
        self.agent = Some(Agent::new(self.settings.clone()));
        self.tell(now, Event::Start(stored))
    }

    /// The power goes: memory is lost, and of the disk whatever was not synced may be.
    pub fn cut_power(&mut self) {
        self.kill();
        self.disk.power_cut(&mut self.rng);
    }

    /// The agent's process dies; the disk's cache survives it.
    pub fn kill(&mut self) {
        self.agent = None;
        self.runners.clear();
        self.fetches.clear();
        self.dies_in = None;
        self.wake += 1;
    }

    /// Something arrives.
    pub fn arrive(&mut self, now: Timestamp, arrival: Arrival) -> Vec<Effect> {
        if self.agent.is_none() {
            return Vec::new();
        }
        match arrival {
            Arrival::Event(event) => self.tell(now, event),
            Arrival::Metadata(fetch, event) => {
                if self.fetches.remove(&fetch) {
                    self.tell(now, event)
                } else {
                    Vec::new()
                }
            }
            Arrival::Blob { fetch, digest, length, received } => {
                if !self.fetches.remove(&fetch) {
                    return Vec::new();
                }
                let event = match organ::receive(&mut self.disk, &digest, length, received) {
                    Ok(()) => Event::BlobDone { fetch, digest },
                    Err(failure) => Event::BlobFailed { fetch, digest, failure },
                };
                self.tell(now, event)
            }
            Arrival::Wake(number) if number == self.wake => self.tell(now, Event::Tick),
            Arrival::Wake(_) => Vec::new(),
            Arrival::Beat(run) => {
                let Some(runner) = self.runners.get_mut(&run) else { return Vec::new() };
                let said = runner.beat(now);
                let mut effects = vec![Effect::Beat(run)];
                self.runner_said(run, said, &mut effects);
                effects
            }
        }
    }

    /// Hand in one event, and whatever follows from it at once.
    fn tell(&mut self, now: Timestamp, event: Event) -> Vec<Effect> {
        let clock = now.plus_millis(self.skew_ms);
        let mut events = VecDeque::from([event]);
        let mut effects = Vec::new();
        for _ in 0..MAX_CHAIN {
            let Some(event) = events.pop_front() else { break };
            let Some(agent) = &mut self.agent else { break };
            let actions = agent.handle(clock, event);
            self.carry_out(now, actions, &mut events, &mut effects);
        }
        effects
    }

    fn carry_out(&mut self, now: Timestamp, actions: Vec<Action>, events: &mut VecDeque<Event>, effects: &mut Vec<Effect>) {
        for action in actions {
            if let Some(left) = &mut self.dies_in {
                *left -= 1;
                if *left == 0 {
                    self.cut_power();
                    effects.push(Effect::Died);
                    return;
                }
            }
            match action {
                Action::Disk(op) => {
                    if let Err(failed) = organ::perform(&mut self.disk, &op) {
                        events.push_front(failed);
                        return;
                    }
                }
                Action::Read { path, max_len } => events.push_back(organ::read(&self.disk, &path, max_len)),
                Action::Connect { will } => effects.push(Effect::Connect(will)),
                Action::Publish { channel, payload: Payload::Bytes(bytes) } => effects.push(Effect::Publish(channel, bytes)),
                Action::Publish { channel, payload: Payload::File(path) } => match self.disk.read(&path.to_string()) {
                    Some(bytes) => effects.push(Effect::Publish(channel, bytes.to_vec())),
                    None => events.push_back(organ::read(&self.disk, &path, 0)),
                },
                Action::FetchMetadata { fetch, file, max_len } => {
                    self.fetches.insert(fetch);
                    effects.push(Effect::Metadata { fetch, file, max_len });
                }
                Action::FetchBlob { fetch, digest, length, resume } => {
                    self.fetches.insert(fetch);
                    let offset = organ::resume_offset(&self.disk, &digest, length, resume);
                    effects.push(Effect::Blob { fetch, digest, length, offset });
                }
                Action::CancelFetch => self.fetches.clear(),
                Action::RenewCertificate { ask } => events.push_back(organ::no_certificate(ask)),
                Action::StartRunner { run, purpose } => {
                    let (runner, said) = Runner::start();
                    self.runners.insert(run, runner);
                    self.runner_said(run, said, effects);
                    if purpose == RunnerPurpose::Serving {
                        effects.push(Effect::Beat(run));
                    }
                }
                Action::Runner { run, command } => {
                    let Some(runner) = self.runners.get_mut(&run) else { continue };
                    let said = runner.command(now, &command, &self.disk);
                    self.runner_said(run, said, effects);
                }
                Action::KillRunner { run } => {
                    self.runners.remove(&run);
                }
                Action::Log { level, sentence } => effects.push(Effect::Log(level, sentence)),
                Action::WakeIn { millis } => {
                    self.wake += 1;
                    effects.push(Effect::Wake { number: self.wake, after_ms: millis });
                }
            }
        }
    }

    fn runner_said(&mut self, run: RunId, said: Said, effects: &mut Vec<Effect>) {
        if said.ended {
            self.runners.remove(&run);
        }
        effects.extend(said.executed.into_iter().map(Effect::Executed));
        effects.extend(said.notices.into_iter().map(|(after_ms, notice)| Effect::Notice(run, after_ms, Box::new(notice))));
    }
}
