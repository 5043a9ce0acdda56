//! A fleet in virtual time: one queue of happenings, one seed, one thread; the same seed is the same story to the last byte.
//!
//! The world carries effects of devices to the network, the mirror and the authority and back, lets the faults of the story
//! happen, and keeps the watch. It decides nothing that a device or a controller should decide.
use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::rc::Rc;
use std::sync::Arc;

use leeway_agent::action::RunId;
use leeway_agent::event::Event;
use leeway_protocol::digest::Digest;
use leeway_protocol::ids::DeviceId;
use leeway_protocol::time::Timestamp;
use leeway_protocol::topic::Channel;
use leeway_protocol::trust::keyring::PublicKey;

use crate::adversary::Adversary;
use crate::authority::{Authority, Downlink};
use crate::device::{Arrival, Device, Effect};
use crate::fault::Trouble;
use crate::network::{Conditions, Network};
use crate::press::{Press, PressError};
use crate::rng::Rng;
use crate::scenario::{Act, Scenario};
use crate::uplink::Uplink;
use crate::watch::{Invariant, Watch};

mod build;
mod carry;
mod hands;
mod trouble;

pub use build::{BuildError, start};

/// In front of the director's files on a mirror.
pub const DIRECTOR: &str = "director/";
/// How often an authority decides.
const TICK_MS: u64 = 500;
/// How often a serving runner does its work.
const BEAT_MS: u64 = 2_500;
/// How long a device without a connection waits before it tries again.
const RECONNECT_MS: u64 = 3_000;
/// How long a device is without power.
const DARK_MS: u64 = 2_000;
/// Happenings in one story; more would be a world that never rests.
const MAX_HAPPENINGS: u64 = 20_000_000;

/// Something that will happen.
#[derive(Debug)]
enum Happening {
    /// At a device that has lived without a break since its `life`-th start.
    Arrival { device: usize, life: u64, arrival: Box<Arrival> },
    /// The device's attempt to connect comes through, or does not.
    Connecting { device: usize, life: u64, number: u64 },
    /// It tries again.
    Reconnect { device: usize, life: u64 },
    /// The power comes back.
    PowerOn { device: usize },
    /// A message reaches the authority.
    Uplink { device: usize, message: Rc<Message> },
    /// A message reaches the broker's side of a device.
    Downlink { device: usize, channel: Channel, bytes: Arc<[u8]> },
    /// The authority decides.
    Tick,
    /// The story goes on.
    Act(Act),
    /// Something goes wrong.
    Fault(usize),
    /// A fault of a device ends.
    Over(Trouble),
}

/// A device's message on its way, opened once where it was sent.
#[derive(Debug)]
struct Message {
    channel: Channel,
    bytes: Arc<[u8]>,
    /// What it says, if the copy that arrives is the one that was sent.
    uplink: Option<Uplink>,
}

/// One device's place in the world.
#[derive(Debug)]
struct Seat {
    device: Device,
    key: PublicKey,
    /// Rises with each loss of power: what was meant for an earlier life arrives nowhere.
    life: u64,
    online: bool,
    unplugged: bool,
    connection: u64,
    will: Vec<u8>,
    /// What the broker keeps for it.
    retained: Option<Arc<[u8]>>,
    /// What answered the application when last looked.
    serving: Option<Digest>,
    /// Until when the pipe of a runner is busy with what it said last.
    pipes: BTreeMap<RunId, Timestamp>,
}

/// The world.
pub struct World<A> {
    now: Timestamp,
    queue: BinaryHeap<Reverse<Entry>>,
    order: u64,
    seats: Vec<Seat>,
    index: BTreeMap<DeviceId, usize>,
    press: Press,
    network: Network,
    adversary: Adversary,
    outage: bool,
    /// What thieves serve in place of both repositories, if they do; director files under [`DIRECTOR`].
    mirror: Option<BTreeMap<String, Vec<u8>>>,
    authority: A,
    watch: Watch,
    scenario: Scenario,
    story: Option<Vec<(u64, Option<usize>, String)>>,
}

struct Entry {
    at: Timestamp,
    order: u64,
    what: Happening,
}

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        self.order == other.order
    }
}
impl Eq for Entry {}
impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Entry {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.order).cmp(&(other.at, other.order))
    }
}

impl<A: Authority> World<A> {
    /// Let everything happen that is due before `until`, milliseconds from the beginning. False if a promise was broken.
    pub fn run_until(&mut self, until_ms: u64) -> bool {
        let until = start().plus_millis(i64::try_from(until_ms).unwrap_or(i64::MAX));
        while self.order < MAX_HAPPENINGS && self.watch.violations().is_empty() {
            match self.queue.peek() {
                Some(Reverse(entry)) if entry.at < until => {}
                _ => break,
            }
            let Some(Reverse(entry)) = self.queue.pop() else { break };
            self.now = entry.at;
            self.happen(entry.what);
        }
        self.now = self.now.max(until);
        self.watch.violations().is_empty()
    }

    /// Milliseconds since the beginning.
    pub fn elapsed_ms(&self) -> u64 {
        u64::try_from(self.now.millis_since(start())).unwrap_or(0)
    }

    /// What happened so far, as numbered happenings.
    pub fn happenings(&self) -> u64 {
        self.order
    }

    /// The watch.
    pub fn watch(&self) -> &Watch {
        &self.watch
    }

    /// A promise is found broken from outside.
    pub fn break_promise(&mut self, invariant: Invariant, device: usize, what: String) {
        self.tell(Some(device), || format!("BROKEN: {}: {what}", invariant.sentence()));
        self.watch.broken(invariant, device, self.now, what);
    }

    /// The controller.
    pub fn authority(&self) -> &A {
        &self.authority
    }

    /// People look after what waits for them.
    pub fn attend(&mut self) {
        self.authority.attended(self.now);
    }

    /// The story.
    pub fn scenario(&self) -> &Scenario {
        &self.scenario
    }

    /// The repository.
    pub fn press(&self) -> &Press {
        &self.press
    }

    /// Devices in their order.
    pub fn devices(&self) -> impl Iterator<Item = &Device> {
        self.seats.iter().map(|seat| &seat.device)
    }

    /// Remember every sentence from now on.
    pub fn tell_story(&mut self) {
        self.story = Some(Vec::new());
    }

    /// The sentences about one device, and about all.
    pub fn story_of(&self, device: usize) -> Vec<String> {
        let told = self.story.iter().flatten().filter(|(_, about, _)| about.is_none_or(|about| about == device));
        told.map(|(at, _, sentence)| format!("{at:>8} ms  {sentence}")).collect()
    }

    fn happen(&mut self, what: Happening) {
        match what {
            Happening::Arrival { device, life, arrival } => self.arrive(device, life, *arrival),
            Happening::Connecting { device, life, number } => self.connecting(device, life, number),
            Happening::Reconnect { device, life } => {
                let alive = self.seats.get(device).is_some_and(|seat| seat.life == life && !seat.online);
                if alive {
                    self.arrive(device, life, Arrival::Event(Event::Connecting));
                    self.after(RECONNECT_MS, Happening::Reconnect { device, life });
                }
            }
            Happening::PowerOn { device } => self.switch_on(device),
            Happening::Uplink { device, message } => self.uplink(device, &message),
            Happening::Downlink { device, channel, bytes } => self.downlink(device, channel, &bytes),
            Happening::Tick => {
                let downlinks = self.authority.tick(self.now, &self.press);
                downlinks.into_iter().for_each(|downlink| self.speak(downlink));
                self.after(TICK_MS, Happening::Tick);
                self.listen();
            }
            Happening::Act(act) => {
                if let Err(error) = self.act(act) {
                    self.tell(None, || format!("the story could not go on: {error}"));
                }
            }
            Happening::Fault(number) => self.fault(number),
            Happening::Over(trouble) => self.over(&trouble),
        }
    }

    fn act(&mut self, act: Act) -> Result<(), PressError> {
        self.tell(None, || format!("the story wants {act:?}"));
        let manifest = |press: &Press, release: usize| press.releases().get(release).map(|r| (r.manifest(), r.custom.seq));
        match act {
            Act::Release(behaviour) => {
                let version = format!("{}.0.0", self.press.releases().len() + 1).parse();
                if let Ok(version) = version {
                    self.press.release(&version, behaviour, self.scenario.padding, self.now)?;
                }
            }
            Act::Revoke(release) => {
                if let Some((manifest, _)) = manifest(&self.press, release) {
                    self.press.revoke(&manifest, self.now)?;
                }
            }
            Act::Floor(release) => {
                if let Some((_, seq)) = manifest(&self.press, release) {
                    self.press.raise_floor(seq, self.now)?;
                }
            }
            Act::Refresh => self.press.refresh(self.now)?,
            Act::Assign { .. } | Act::Restart => {}
        }
        self.authority.act(self.now, act, &self.press);
        Ok(())
    }

    /// Does the authority know of a broken promise?
    fn listen(&mut self) {
        if let Some((invariant, device, what)) = self.authority.broken() {
            let device = self.index.get(&device).copied().unwrap_or(0);
            self.break_promise(invariant, device, what);
        }
    }

    fn after(&mut self, millis: u64, what: Happening) {
        self.at(self.now.plus_millis(i64::try_from(millis).unwrap_or(i64::MAX)), what);
    }

    fn at(&mut self, at: Timestamp, what: Happening) {
        self.order += 1;
        self.queue.push(Reverse(Entry { at, order: self.order, what }));
    }

    fn tell(&mut self, device: Option<usize>, sentence: impl FnOnce() -> String) {
        let at = self.elapsed_ms();
        if let Some(story) = &mut self.story {
            story.push((at, device, sentence()));
        }
    }
}
