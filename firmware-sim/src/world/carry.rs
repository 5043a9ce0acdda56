//! What leaves a device is carried to where it belongs, and what comes for it is brought in; the network decides how well.
use leeway_agent::action::{FetchId, MetadataFile, Repository};
use leeway_agent::control::RunnerNotice;
use leeway_agent::event::Fetched;

use super::*;
use crate::network::Answer;
use crate::organ::Received;

/// What a request without an answer costs.
const TIMEOUT_MS: u64 = 2_000;
/// Bytes beyond the bound that a lying mirror sends.
const SURPLUS: usize = 64;
/// How the broker finds out that a device is gone.
const KEEP_ALIVE_MS: u64 = 1_500;

impl<A: Authority> World<A> {
    pub(super) fn arrive(&mut self, device: usize, life: u64, arrival: Arrival) {
        let now = self.now;
        let Some(seat) = self.seats.get_mut(device).filter(|seat| seat.life == life) else { return };
        let effects = seat.device.arrive(now, arrival);
        self.carry(device, effects);
        self.look(device);
    }

    /// Has another model begun to answer?
    fn look(&mut self, device: usize) {
        let Some(seat) = self.seats.get_mut(device) else { return };
        let serving = seat.device.serving();
        if serving == seat.serving {
            return;
        }
        seat.serving = serving;
        if let Some(manifest) = serving {
            self.authority.serves(self.now, seat.device.id(), manifest);
            self.listen();
        }
    }

    pub(super) fn switch_on(&mut self, device: usize) {
        let now = self.now;
        let Some(seat) = self.seats.get_mut(device).filter(|seat| !seat.device.is_on()) else { return };
        seat.life += 1;
        let life = seat.life;
        let effects = seat.device.switch_on(now);
        self.tell(Some(device), || "the agent starts".to_owned());
        self.carry(device, effects);
        self.after(10, Happening::Reconnect { device, life });
    }

    /// The device is without power or process from now on.
    pub(super) fn gone(&mut self, device: usize) {
        let Some(seat) = self.seats.get_mut(device) else { return };
        seat.life += 1;
        seat.pipes.clear();
        self.watch.died(device);
        self.hang_up(device, false);
        self.after(DARK_MS, Happening::PowerOn { device });
    }

    /// The connection ends; `notice` tells the agent.
    pub(super) fn hang_up(&mut self, device: usize, notice: bool) {
        let Some(seat) = self.seats.get_mut(device) else { return };
        seat.connection += 1;
        let life = seat.life;
        if !std::mem::take(&mut seat.online) {
            return;
        }
        let will: Arc<[u8]> = std::mem::take(&mut seat.will).into();
        let message = Rc::new(Message { channel: Channel::Status, uplink: self.open(device, Channel::Status, &will), bytes: will });
        self.after(KEEP_ALIVE_MS, Happening::Uplink { device, message });
        if notice {
            self.after(1, Happening::Arrival { device, life, arrival: Box::new(Arrival::Event(Event::Disconnected)) });
            self.after(RECONNECT_MS, Happening::Reconnect { device, life });
        }
    }

    pub(super) fn carry(&mut self, device: usize, effects: Vec<Effect>) {
        let Some(life) = self.seats.get(device).map(|seat| seat.life) else { return };
        for effect in effects {
            match effect {
                Effect::Connect(will) => self.connect(device, life, will),
                Effect::Publish(channel, bytes) => self.publish(device, channel, bytes),
                Effect::Metadata { fetch, file, max_len } => self.metadata(device, life, fetch, file, max_len),
                Effect::Blob { fetch, digest, length, offset } => self.blob(device, life, fetch, digest, length, offset),
                Effect::Notice(run, after_ms, notice) => {
                    // One pipe per runner: nothing overtakes.
                    let at = self.now.plus_millis(i64::try_from(after_ms).unwrap_or(0));
                    let Some(seat) = self.seats.get_mut(device) else { return };
                    let free = seat.pipes.entry(run).or_insert(at);
                    *free = at.max(*free);
                    let at = *free;
                    // Signs of life are most of what a runner says and none of the story.
                    if !matches!(*notice, RunnerNotice::Progress { .. } | RunnerNotice::Window(_) | RunnerNotice::Shadow { .. }) {
                        self.tell(Some(device), || format!("runner {} says {notice:?}", run.0));
                    }
                    let arrival = Box::new(Arrival::Event(Event::Runner { run, notice: *notice }));
                    self.at(at, Happening::Arrival { device, life, arrival });
                }
                Effect::Beat(run) => self.after(BEAT_MS, Happening::Arrival { device, life, arrival: Box::new(Arrival::Beat(run)) }),
                Effect::Wake { number, after_ms } => {
                    self.after(after_ms, Happening::Arrival { device, life, arrival: Box::new(Arrival::Wake(number)) });
                }
                Effect::Executed(executed) => {
                    self.tell(Some(device), || format!("loads {executed:?}"));
                    self.watch.executed(device, self.now, executed, &self.press);
                }
                Effect::Log(level, sentence) => self.tell(Some(device), || format!("{level:?}: {sentence}")),
                Effect::Died => {
                    self.tell(Some(device), || "loses power in the middle of what it does".to_owned());
                    self.gone(device);
                }
            }
        }
    }

    fn connect(&mut self, device: usize, life: u64, will: Vec<u8>) {
        let delay = self.network.delay() + self.network.delay();
        let Some(seat) = self.seats.get_mut(device) else { return };
        seat.connection += 1;
        seat.will = will;
        let number = seat.connection;
        self.after(delay, Happening::Connecting { device, life, number });
    }

    pub(super) fn connecting(&mut self, device: usize, life: u64, number: u64) {
        let outage = self.outage;
        let Some(seat) = self.seats.get_mut(device).filter(|seat| seat.life == life && seat.connection == number) else { return };
        if outage || seat.unplugged {
            return;
        }
        seat.online = true;
        let retained = seat.retained.clone();
        self.tell(Some(device), || "is connected".to_owned());
        self.arrive(device, life, Arrival::Event(Event::Connected { session_present: false }));
        if let Some(bytes) = retained {
            let delay = self.network.delay();
            self.after(delay, Happening::Downlink { device, channel: Channel::Desired, bytes });
        }
    }

    fn open(&self, device: usize, channel: Channel, bytes: &[u8]) -> Option<Uplink> {
        let seat = self.seats.get(device)?;
        Uplink::open(bytes, seat.device.id(), channel, &seat.key)
    }

    fn publish(&mut self, device: usize, channel: Channel, bytes: Vec<u8>) {
        let Some(seat) = self.seats.get(device).filter(|seat| seat.online && !seat.unplugged) else { return };
        let uplink = Uplink::open(&bytes, seat.device.id(), channel, &seat.key);
        self.tell(Some(device), || {
            format!("says {}", uplink.as_ref().map_or_else(|| "something unreadable".to_owned(), ToString::to_string))
        });
        match &uplink {
            Some(uplink) => {
                let Some(seat) = self.seats.get(device) else { return };
                self.watch.published(device, self.now, uplink, &bytes, &seat.device.disk);
            }
            None => {
                let what = format!("published {} bytes on {channel:?} that nobody can open", bytes.len());
                self.watch.broken(Invariant::ReportsCountOnce, device, self.now, what);
            }
        }
        let bytes: Arc<[u8]> = bytes.into();
        let sent = Rc::new(Message { channel, bytes: Arc::clone(&bytes), uplink });
        for copy in self.network.carry(channel, &bytes) {
            let same = Arc::ptr_eq(&copy.bytes, &bytes);
            let message = if same {
                Rc::clone(&sent)
            } else {
                Rc::new(Message { channel, uplink: self.open(device, channel, &copy.bytes), bytes: copy.bytes })
            };
            self.after(copy.after_ms, Happening::Uplink { device, message });
        }
        let uplinks = [Channel::Reported, Channel::Window, Channel::Event, Channel::Capture, Channel::Status];
        if let Some((channel, copy)) = self.network.replay(&uplinks) {
            let message = Rc::new(Message { channel, uplink: self.open(device, channel, &copy.bytes), bytes: copy.bytes });
            self.after(copy.after_ms, Happening::Uplink { device, message });
        }
    }

    pub(super) fn uplink(&mut self, device: usize, message: &Message) {
        if self.outage {
            return;
        }
        let Some(id) = self.seats.get(device).map(|seat| seat.device.id().clone()) else { return };
        match &message.uplink {
            Some(uplink) => self.authority.uplink(self.now, &id, uplink),
            None => {
                self.tell(Some(device), || format!("{} damaged or foreign bytes on {:?} are refused", message.bytes.len(), message.channel))
            }
        }
    }

    pub(super) fn speak(&mut self, downlink: Downlink) {
        let Some(&device) = self.index.get(&downlink.device) else { return };
        let bytes: Arc<[u8]> = downlink.bytes.into();
        if downlink.channel == Channel::Desired {
            if let Some(manifest) = self.authority.goal(&downlink.device) {
                self.watch.assigned(device, manifest, self.authority.generation(&downlink.device));
            }
            if let Some(seat) = self.seats.get_mut(device) {
                seat.retained = Some(Arc::clone(&bytes));
            }
        }
        for copy in self.network.carry(downlink.channel, &bytes) {
            self.after(copy.after_ms, Happening::Downlink { device, channel: downlink.channel, bytes: copy.bytes });
        }
        // A Byzantine broker shows anyone anything it ever saw.
        if let Some((channel, copy)) = self.network.replay(&[Channel::Desired, Channel::Receipt]) {
            let victim = self.network.choose(self.seats.len());
            self.after(copy.after_ms, Happening::Downlink { device: victim, channel, bytes: copy.bytes });
        }
    }

    pub(super) fn downlink(&mut self, device: usize, channel: Channel, bytes: &[u8]) {
        let outage = self.outage;
        let Some(seat) = self.seats.get(device).filter(|seat| seat.online && !seat.unplugged && !outage) else { return };
        let life = seat.life;
        let event = match channel {
            Channel::Receipt => Event::Receipt(bytes.to_vec()),
            _ => Event::Desired(bytes.to_vec()),
        };
        self.tell(Some(device), || format!("receives {} bytes on {channel:?}", bytes.len()));
        self.arrive(device, life, Arrival::Event(event));
    }

    fn metadata(&mut self, device: usize, life: u64, fetch: FetchId, file: MetadataFile, max_len: u64) {
        let (after, fetched) = self.fetch(device, &file, max_len);
        let event = Event::Metadata { fetch, file, fetched };
        self.after(after, Happening::Arrival { device, life, arrival: Box::new(Arrival::Metadata(fetch, event)) });
    }

    fn fetch(&mut self, device: usize, file: &MetadataFile, max_len: u64) -> (u64, Fetched) {
        let cut = self.outage || self.seats.get(device).is_none_or(|seat| seat.unplugged);
        let answer = if cut { Answer::Broken } else { self.network.answer() };
        let truth = match (&self.mirror, file.repository) {
            (Some(mirror), Repository::Image) => mirror.get(&file.name).map(Vec::as_slice),
            (Some(mirror), Repository::Director) => mirror.get(&format!("{DIRECTOR}{}", file.name)).map(Vec::as_slice),
            (None, Repository::Image) => self.press.file(&file.name),
            (None, Repository::Director) => self.press.director_file(&file.name),
        };
        let delay = self.network.delay() + self.network.delay();
        let fetched = match answer {
            Answer::Broken => return (TIMEOUT_MS, Fetched::Failed("no answer".to_owned())),
            Answer::Absent => Fetched::Absent,
            Answer::Older => {
                let versions = self.press.ever_served(&file.name);
                match versions.get(self.network.choose(versions.len())) {
                    Some(old) => Fetched::Bytes(old.to_vec()),
                    None => self.adversary.metadata(&file.name).map_or(Fetched::Absent, Fetched::Bytes),
                }
            }
            Answer::Flipped => truth.map_or(Fetched::Absent, |bytes| Fetched::Bytes(self.network.flip(bytes))),
            Answer::Longer => {
                let mut bytes = truth.unwrap_or_default().to_vec();
                bytes.resize(bytes.len() + SURPLUS, b' ');
                Fetched::Bytes(bytes)
            }
            Answer::True => truth.map_or(Fetched::Absent, |bytes| Fetched::Bytes(bytes.to_vec())),
        };
        if !matches!(answer, Answer::True) {
            self.tell(Some(device), || format!("the mirror lies about {}: {answer:?}", file.name));
        }
        let bounded = match fetched {
            Fetched::Bytes(mut bytes) => {
                bytes.truncate(usize::try_from(max_len.saturating_add(1)).unwrap_or(usize::MAX));
                Fetched::Bytes(bytes)
            }
            other => other,
        };
        (delay, bounded)
    }

    fn blob(&mut self, device: usize, life: u64, fetch: FetchId, digest: Digest, length: u64, offset: u64) {
        let cut = self.outage || self.seats.get(device).is_none_or(|seat| seat.unplugged);
        let answer = if cut { Answer::Broken } else { self.network.answer() };
        let whole = self.press.blob(&digest).or_else(|| self.adversary.blob(&digest)).map(<[u8]>::to_vec);
        let from = usize::try_from(offset).unwrap_or(usize::MAX);
        let rest = whole.and_then(|bytes| bytes.get(from..).map(<[u8]>::to_vec));
        let failed = |bytes: Vec<u8>, why: &str| Received { bytes, offset, broken: Some(why.to_owned()) };
        let received = match (answer, rest) {
            (Answer::Broken, Some(rest)) if !cut => {
                let half = self.network.choose(rest.len() + 1);
                failed(rest.get(..half).unwrap_or_default().to_vec(), "the line broke")
            }
            (Answer::Broken, _) => failed(Vec::new(), "no answer"),
            (Answer::Absent, _) | (_, None) => failed(Vec::new(), "there is no such blob"),
            (Answer::Flipped | Answer::Older, Some(rest)) => Received { bytes: self.network.flip(&rest), offset, broken: None },
            (Answer::Longer, Some(mut rest)) => {
                // The real executor stops one byte past the signed length.
                rest.push(b'.');
                Received { bytes: rest, offset, broken: None }
            }
            (Answer::True, Some(rest)) => Received { bytes: rest, offset, broken: None },
        };
        let delay = if cut { TIMEOUT_MS } else { self.network.delay() + self.network.delay() };
        let arrival = Box::new(Arrival::Blob { fetch, digest, length, received });
        self.after(delay, Happening::Arrival { device, life, arrival });
    }
}
