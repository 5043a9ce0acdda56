//! One live station: the real agent, an in-memory disk, a real connection, a real model, and the weather.
//!
//! One task that owns everything of the station, so nothing is locked while it works; the connection and downloads run in
//! tasks of their own and send what they have. Disk effects are carried out in order, and the first that fails ends the list,
//! as the agent's contract wants it.
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use leeway_agent::action::{Action, FetchId, Level, MetadataFile, Payload, RunId};
use leeway_agent::agent::{Agent, Settings};
use leeway_agent::control::RunnerNotice;
use leeway_agent::event::{Event, Fetched};
use leeway_protocol::digest::Digest;
use leeway_protocol::time::Timestamp;
use leeway_protocol::topic::Channel;
use tokio::sync::mpsc::{Receiver, Sender};
use tokio::task::JoinHandle;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};

use super::backoff::Backoff;
use super::link::{Account, Link, LinkEvent};
use super::mirror::Mirror;
use super::pace::Pace;
use super::runner::Runner;
use super::view::Shared;
use crate::disk::Disk;
use crate::organ;
use crate::rng::Rng;
use crate::sensor::{Break, Sensor};
use crate::uplink::Uplink;
use crate::weather::Weather;

/// How often a station looks whether days have passed.
const LOOK: Duration = Duration::from_millis(40);
/// Days lived at one look; then messages get their turn.
const DAYS_PER_LOOK: usize = 30;
/// Messages waiting for a station; senders wait when it is full.
pub(super) const INBOX: usize = 256;
/// Longest sleep if the agent asks for none.
const LONG: Duration = Duration::from_secs(3600);

/// What can reach a station from its other tasks and from the fleet's handle.
#[derive(Debug)]
pub(super) enum Inbox {
    Link(u64, LinkEvent),
    Fetched(FetchId, Event),
    Downloaded { fetch: FetchId, digest: Digest, length: u64, received: organ::Received },
    Order(Order),
}

/// What the fleet's handle asks of a station.
#[derive(Debug)]
pub(super) enum Order {
    /// Show the agent these bytes as if they came on its desired topic.
    Desired(Vec<u8>),
    /// Pull the cable, or put it back.
    Unplug(bool),
    /// Pull the power and put it back at once.
    PowerCut,
    /// An instrument breaks.
    Break(Break),
    /// End in order.
    Stop,
}

/// What all stations of a process share.
#[derive(Debug, Clone)]
pub(super) struct World {
    pub(super) weather: Arc<Weather>,
    pub(super) pace: Arc<Pace>,
    pub(super) mirror: Mirror,
    /// Labels come so many days later.
    pub(super) label_delay_days: usize,
    pub(super) first_day: usize,
}

/// A label on its way.
#[derive(Debug)]
struct Pending {
    day: usize,
    run: RunId,
    request: u64,
    rain: bool,
}

/// One station.
pub(super) struct Station {
    world: World,
    shared: Arc<Shared>,
    settings: Settings,
    account: Account,
    sensor: Sensor,
    agent: Agent,
    disk: Disk,
    runners: BTreeMap<RunId, Runner>,
    link: Option<Link>,
    link_number: u64,
    online: bool,
    unplugged: bool,
    backoff: Backoff,
    connect_at: Option<Instant>,
    wake_at: Option<Instant>,
    fetches: BTreeMap<FetchId, JoinHandle<()>>,
    labels: VecDeque<Pending>,
    day: usize,
    to_me: Sender<Inbox>,
    stopping: bool,
}

impl Station {
    pub(super) fn new(
        world: World,
        shared: Arc<Shared>,
        settings: Settings,
        account: Account,
        sensor: Sensor,
        disk: Disk,
        to_me: Sender<Inbox>,
    ) -> Self {
        let rng = Rng::new(shared.seed).fork("backoff", 0);
        Self {
            day: world.first_day,
            agent: Agent::new(settings.clone()),
            backoff: Backoff::new(rng),
            world,
            shared,
            settings,
            account,
            sensor,
            disk,
            runners: BTreeMap::new(),
            link: None,
            link_number: 0,
            online: false,
            unplugged: false,
            connect_at: Some(Instant::now()),
            wake_at: None,
            fetches: BTreeMap::new(),
            labels: VecDeque::new(),
            to_me,
            stopping: false,
        }
    }

    /// Live until asked to stop.
    pub(super) async fn run(mut self, mut inbox: Receiver<Inbox>) {
        let mut look = interval(LOOK);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        self.start();
        while !self.stopping {
            let far = Instant::now() + LONG;
            tokio::select! {
                message = inbox.recv() => match message {
                    Some(message) => self.take(message),
                    None => break,
                },
                () = sleep_until(self.wake_at.unwrap_or(far)) => {
                    self.wake_at = None;
                    self.tell(Event::Tick);
                }
                () = sleep_until(self.connect_at.unwrap_or(far)) => {
                    self.connect_at = None;
                    self.tell(Event::Connecting);
                    // An agent that cannot seal a will yet is asked again.
                    if self.link.is_none() {
                        self.connect_at = Some(self.backoff.next());
                    }
                }
                _ = look.tick() => self.live(),
            }
        }
        self.end().await;
    }

    fn start(&mut self) {
        let stored = organ::stored(&self.disk);
        self.tell(Event::Start(stored));
    }

    fn take(&mut self, message: Inbox) {
        match message {
            Inbox::Link(number, event) if number == self.link_number => self.link_said(event),
            Inbox::Link(..) => {}
            Inbox::Fetched(fetch, event) => {
                if self.fetches.remove(&fetch).is_some() {
                    self.tell(event);
                }
            }
            Inbox::Downloaded { fetch, digest, length, received } => {
                if self.fetches.remove(&fetch).is_some() {
                    let event = match organ::receive(&mut self.disk, &digest, length, received) {
                        Ok(()) => Event::BlobDone { fetch, digest },
                        Err(failure) => Event::BlobFailed { fetch, digest, failure },
                    };
                    self.tell(event);
                }
            }
            Inbox::Order(Order::Desired(bytes)) => self.tell(Event::Desired(bytes)),
            Inbox::Order(Order::Unplug(unplugged)) => self.unplug(unplugged),
            Inbox::Order(Order::PowerCut) => self.power_cut(),
            Inbox::Order(Order::Break(broken)) => self.sensor.breaks(broken),
            Inbox::Order(Order::Stop) => {
                self.tell(Event::Stop);
                self.stopping = true;
            }
        }
    }

    fn link_said(&mut self, event: LinkEvent) {
        match event {
            LinkEvent::Up { session_present } => {
                self.online = true;
                self.backoff.succeeded();
                self.shared.look(|view| view.online = true);
                self.tell(Event::Connected { session_present });
            }
            LinkEvent::Message(Channel::Desired, bytes) => self.tell(Event::Desired(bytes)),
            LinkEvent::Message(Channel::Receipt, bytes) => self.tell(Event::Receipt(bytes)),
            LinkEvent::Message(..) => {}
            LinkEvent::Down(why) => {
                tracing::debug!(station = %self.settings.device, "connection lost: {why}");
                self.hang_up();
                if !self.unplugged {
                    self.connect_at = Some(self.backoff.next());
                }
            }
        }
    }

    fn hang_up(&mut self) {
        self.link = None;
        self.link_number += 1;
        if std::mem::take(&mut self.online) {
            self.shared.look(|view| view.online = false);
            self.tell(Event::Disconnected);
        }
    }

    fn unplug(&mut self, unplugged: bool) {
        self.unplugged = unplugged;
        if unplugged {
            self.connect_at = None;
            self.hang_up();
        } else if self.link.is_none() {
            self.connect_at = Some(Instant::now());
        }
    }

    /// Everything in memory is gone, and what was not synced may be.
    fn power_cut(&mut self) {
        let mut rng = Rng::new(self.shared.seed).fork("power", self.disk.operations());
        self.link = None;
        self.link_number += 1;
        self.online = false;
        self.cancel_fetches();
        self.runners.clear();
        self.labels.clear();
        self.disk.power_cut(&mut rng);
        self.agent = Agent::new(self.settings.clone());
        self.wake_at = None;
        self.connect_at = Some(Instant::now());
        self.shared.look(|view| {
            view.online = false;
            view.starts += 1;
        });
        self.start();
    }

    /// Hand in one event, and whatever follows from it at once.
    fn tell(&mut self, event: Event) {
        let mut events = VecDeque::from([event]);
        while let Some(event) = events.pop_front() {
            let actions = self.agent.handle(now(), event);
            self.carry_out(actions, &mut events);
        }
    }

    fn carry_out(&mut self, actions: Vec<Action>, events: &mut VecDeque<Event>) {
        for action in actions {
            match action {
                Action::Disk(op) => {
                    if let Err(failed) = organ::perform(&mut self.disk, &op) {
                        events.push_front(failed);
                        return;
                    }
                }
                Action::Read { path, max_len } => events.push_back(organ::read(&self.disk, &path, max_len)),
                Action::Connect { will } => {
                    self.link_number += 1;
                    self.link = Some(Link::open(self.account.clone(), will, self.link_number, self.to_me.clone(), Inbox::Link));
                }
                Action::Publish { channel, payload } => self.publish(channel, payload, events),
                Action::FetchMetadata { fetch, file, max_len } => self.fetch_metadata(fetch, file, max_len),
                Action::FetchBlob { fetch, digest, length, resume } => self.fetch_blob(fetch, digest, length, resume),
                Action::CancelFetch => self.cancel_fetches(),
                Action::RenewCertificate { ask } => events.push_back(organ::no_certificate(ask)),
                Action::StartRunner { run, .. } => {
                    let (runner, notices) = Runner::start();
                    self.runners.insert(run, runner);
                    events.extend(notices.into_iter().map(|notice| Event::Runner { run, notice }));
                }
                Action::Runner { run, command } => {
                    let Some(runner) = self.runners.get_mut(&run) else { continue };
                    let notices = runner.command(now(), command, &self.disk);
                    if notices.iter().any(|notice| matches!(notice, RunnerNotice::Exited { .. })) {
                        self.runners.remove(&run);
                    }
                    events.extend(notices.into_iter().map(|notice| Event::Runner { run, notice }));
                }
                Action::KillRunner { run } => {
                    self.runners.remove(&run);
                }
                Action::Log { level, sentence } => self.log(level, &sentence),
                Action::WakeIn { millis } => self.wake_at = Some(Instant::now() + Duration::from_millis(millis)),
            }
        }
    }

    fn publish(&mut self, channel: Channel, payload: Payload, events: &mut VecDeque<Event>) {
        let bytes = match payload {
            Payload::Bytes(bytes) => bytes,
            Payload::File(path) => match self.disk.read(&path.to_string()) {
                Some(bytes) => bytes.to_vec(),
                None => {
                    events.push_back(organ::read(&self.disk, &path, u64::MAX));
                    return;
                }
            },
        };
        let Some(link) = self.link.as_ref().filter(|_| self.online) else { return };
        let uplink = Uplink::open(&bytes, &self.settings.device, channel, &self.shared.key);
        let length = bytes.len() as u64;
        let sent = link.publish(channel, bytes);
        self.shared.published(uplink, length, sent);
    }

    fn fetch_metadata(&mut self, fetch: FetchId, file: MetadataFile, max_len: u64) {
        let (mirror, shared, to_me) = (self.world.mirror.clone(), Arc::clone(&self.shared), self.to_me.clone());
        let unplugged = self.unplugged;
        let task = tokio::spawn(async move {
            let fetched = if unplugged { unreachable() } else { mirror.metadata(&file, max_len, &shared.lies).await };
            let _ = to_me.send(Inbox::Fetched(fetch, Event::Metadata { fetch, file, fetched })).await;
        });
        self.fetches.insert(fetch, task);
    }

    fn fetch_blob(&mut self, fetch: FetchId, digest: Digest, length: u64, resume: bool) {
        let (mirror, shared, to_me) = (self.world.mirror.clone(), Arc::clone(&self.shared), self.to_me.clone());
        let offset = organ::resume_offset(&self.disk, &digest, length, resume);
        let task = tokio::spawn(async move {
            let received = mirror.blob(&digest, offset, length, &shared.lies).await;
            let _ = to_me.send(Inbox::Downloaded { fetch, digest, length, received }).await;
        });
        self.fetches.insert(fetch, task);
    }

    fn cancel_fetches(&mut self) {
        for (_, task) in std::mem::take(&mut self.fetches) {
            task.abort();
        }
    }

    fn log(&self, level: Level, sentence: &str) {
        let station = &self.settings.device;
        match level {
            Level::Debug => tracing::debug!(%station, "{sentence}"),
            Level::Info => tracing::info!(%station, "{sentence}"),
            Level::Warn => tracing::warn!(%station, "{sentence}"),
            Level::Error => tracing::error!(%station, "{sentence}"),
        }
        self.shared.logged(level, sentence);
    }

    /// Live the days that have come, and let the runners say what they have to say.
    fn live(&mut self) {
        let due = self.world.pace.due().min(self.day + DAYS_PER_LOOK);
        while self.day < due {
            self.live_day();
            self.day += 1;
        }
        let mut events = Vec::new();
        for (run, runner) in &mut self.runners {
            events.extend(runner.beat(now()).into_iter().map(|notice| Event::Runner { run: *run, notice }));
        }
        for event in events {
            self.tell(event);
        }
        self.shared.day.store(self.day, Ordering::Relaxed);
    }

    fn live_day(&mut self) {
        while let Some(label) = self.labels.pop_front_if(|label| label.day <= self.day) {
            if let Some(runner) = self.runners.get_mut(&label.run) {
                runner.label(now(), label.request, label.rain);
            }
        }
        let Some(reading) = self.sensor.read(&self.world.weather, self.day) else { return };
        let mut served = None;
        for (run, runner) in &mut self.runners {
            // The day is the request's number: unique for the station, over power cuts too.
            let Some(answer) = runner.infer(now(), self.day as u64, &reading) else { continue };
            let day = self.day + self.world.label_delay_days;
            self.labels.push_back(Pending { day, run: *run, request: answer.request, rain: reading.rain });
            served = Some(answer);
        }
        self.shared.lived(Weather::year(self.day), served.as_ref(), reading.rain);
    }

    async fn end(mut self) {
        self.cancel_fetches();
        if let Some(link) = self.link.take() {
            link.close();
            // The goodbye needs a moment on the wire before the link is dropped.
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

fn unreachable() -> Fetched {
    Fetched::Failed("the cable is pulled".to_owned())
}

fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp::from_millis(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
}
