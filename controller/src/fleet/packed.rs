//! A device in some three hundred bytes, and back.
//!
//! A document of a device takes kilobytes in memory, most of them the same for thousands of devices: labels, what they were told,
//! what they run. So what is shared is kept once ([`Words`]) and named by number, keys and serial numbers are bytes and not digits, and
//! numbers are as short as they are. Not compressed: a device is looked at in a microsecond, and what planning asks for
//! stands in front, so that looking for a plan reads no further.
//!
//! What stays true: what was packed is what comes back. It is unpacked and compared before it counts; a device for which that fails
//! is kept whole.
use std::collections::BTreeMap;
use std::sync::{PoisonError, RwLock};

use leeway_protocol::digest::Digest;
use leeway_protocol::ids::{BootId, DeviceId, Generation, RolloutId};
use leeway_protocol::reason::Reason;
use leeway_protocol::reported::{Condition, Phase, Reported, Running, ShadowSummary, TrustedVersions};
use leeway_protocol::time::Timestamp;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::device::{DesiredRecord, Device, Part, RunInterval};
use super::{Admission, Certificate, Contact};

/// Words that are shared, of each kind: far more than a fleet has versions, rollouts and sets of labels. One more is written out
/// with the device that has it.
const MAX_WORDS: usize = 65_536;

/// What many devices have in common, by number; grows only, and is made anew with the program.
#[derive(Default)]
pub(super) struct Words(RwLock<Tables>);

#[derive(Default)]
struct Tables {
    labels: Table<Labels>,
    told: Table<DesiredRecord>,
    running: Table<Running>,
    runs: Table<RunInterval>,
    texts: Table<String>,
    digests: Table<Digest>,
}

type Labels = BTreeMap<String, String>;

struct Table<T> {
    numbers: BTreeMap<Vec<u8>, u32>,
    words: Vec<T>,
    /// The latest that were asked for, the newest last: comparing is far cheaper than writing out.
    recent: Vec<u32>,
}

/// How many of the latest are compared with first.
const RECENT: usize = 8;

impl<T> Default for Table<T> {
    fn default() -> Self {
        Self { numbers: BTreeMap::new(), words: Vec::new(), recent: Vec::new() }
    }
}

/// A number, or the thing itself as JSON.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
enum Word {
    Known(u32),
    Full(Vec<u8>),
}

impl<T: Serialize + DeserializeOwned + Clone + PartialEq> Table<T> {
    fn word(&mut self, thing: &T) -> Option<Word> {
        if let Some(number) = self.recent.iter().rev().find(|number| self.words.get(**number as usize) == Some(thing)) {
            return Some(Word::Known(*number));
        }
        let word = self.look_up(thing)?;
        if let Word::Known(number) = word {
            if self.recent.len() == RECENT {
                self.recent.remove(0);
            }
            self.recent.push(number);
        }
        Some(word)
    }

    fn look_up(&mut self, thing: &T) -> Option<Word> {
        let text = serde_json::to_vec(thing).ok()?;
        if let Some(number) = self.numbers.get(&text) {
            return Some(Word::Known(*number));
        }
        let number = u32::try_from(self.words.len()).ok().filter(|_| self.words.len() < MAX_WORDS);
        let Some(number) = number else { return Some(Word::Full(text)) };
        self.numbers.insert(text, number);
        self.words.push(thing.clone());
        Some(Word::Known(number))
    }

    fn thing(&self, word: &Word) -> Option<T> {
        match word {
            Word::Known(number) => self.words.get(*number as usize).cloned(),
            Word::Full(text) => serde_json::from_slice(text).ok(),
        }
    }
}

impl std::fmt::Debug for Words {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Words")
    }
}

/// What planning looks at.
#[derive(Serialize, Deserialize)]
struct Front {
    labels: Word,
    enrolled_at: Timestamp,
    /// As JSON, if it is not simply in.
    admission: Option<Vec<u8>>,
    retry: bool,
    told: Option<(Generation, Timestamp, Word)>,
    part: Option<Part>,
    said: Option<Said>,
}

#[derive(Serialize, Deserialize)]
struct Said {
    generation: Generation,
    phase: Phase,
    reason: Option<Reason>,
    active: Option<(Timestamp, u64, Word)>,
}

/// What people and certificates are about.
#[derive(Serialize, Deserialize)]
struct Back {
    key: Hex,
    certificates: Vec<(Hex, Timestamp)>,
    twin: Option<String>,
    credential: Option<Digest>,
    session: u64,
    changed_at: Option<Timestamp>,
    contact: Option<Contact>,
    agent: Word,
    runs: Vec<(Timestamp, Option<Timestamp>, Word)>,
    said: Option<Rest>,
}

#[derive(Serialize, Deserialize)]
struct Rest {
    v: u32,
    rollout: Option<Word>,
    last_known_good: Option<Word>,
    shadow: Option<ShadowSummary>,
    conditions: Vec<(Word, bool, Text)>,
    trusted: TrustedVersions,
    agent: Word,
    boot: BootId,
    outbox: u64,
    dropped: u64,
    at: Timestamp,
}

/// A sentence that others have too, or one with a number in it.
#[derive(Serialize, Deserialize)]
enum Text {
    Shared(Word),
    Own(String),
}

/// Hex digits as bytes, or what is not written as such.
#[derive(Serialize, Deserialize)]
enum Hex {
    Bytes(Vec<u8>),
    Text(String),
}

impl Hex {
    fn of(text: &str) -> Self {
        let digit = |c: u8| match c {
            b'0'..=b'9' => Some(c - b'0'),
            b'a'..=b'f' => Some(c - b'a' + 10),
            _ => None,
        };
        let pair = |pair: &[u8]| match pair {
            [high, low] => Some(digit(*high)? << 4 | digit(*low)?),
            _ => None,
        };
        text.as_bytes().chunks(2).map(pair).collect::<Option<Vec<u8>>>().map_or_else(|| Self::Text(text.to_owned()), Self::Bytes)
    }

    fn text(self) -> String {
        use std::fmt::Write as _;
        match self {
            Self::Text(text) => text,
            Self::Bytes(bytes) => bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
                let _ = write!(text, "{byte:02x}");
                text
            }),
        }
    }
}

/// In front of everything, in a form of fixed length, because it changes with every message: whether the device is connected, and
/// when it was last heard of.
struct Head {
    online: bool,
    last_seen: Option<Timestamp>,
}

impl Head {
    const LENGTH: usize = 9;
    const NEVER: i64 = i64::MIN;

    fn bytes(&self) -> [u8; Self::LENGTH] {
        let mut bytes = [u8::from(self.online); Self::LENGTH];
        bytes[1..].copy_from_slice(&self.last_seen.map_or(Self::NEVER, Timestamp::as_millis).to_le_bytes());
        bytes
    }

    fn read(bytes: &[u8]) -> Option<(Self, &[u8])> {
        let (online, rest) = bytes.split_first()?;
        let (at, rest) = rest.split_first_chunk::<8>()?;
        let at = i64::from_le_bytes(*at);
        Some((Self { online: *online != 0, last_seen: (at != Self::NEVER).then(|| Timestamp::from_millis(at)) }, rest))
    }
}

/// Note in a packed device when it was last heard of; whether planning cannot see that, because it is connected.
pub(super) fn touch(bytes: &mut [u8], at: Timestamp) -> bool {
    let Some((head, _)) = Head::read(bytes) else { return false };
    let fresh = Head { last_seen: Some(at), ..head }.bytes();
    if let Some(bytes) = bytes.get_mut(..Head::LENGTH) {
        bytes.copy_from_slice(&fresh);
    }
    fresh[0] != 0
}

/// Pack a device, without its name. `None` if what comes back would not be the same.
pub(super) fn pack(device: &Device, words: &Words) -> Option<Vec<u8>> {
    let (front, back) = {
        let mut tables = words.0.write().unwrap_or_else(PoisonError::into_inner);
        (front(device, &mut tables)?, back(device, &mut tables)?)
    };
    let head = Head { online: device.presence.online, last_seen: device.presence.last_seen };
    let bytes = postcard::to_extend(&front, head.bytes().to_vec()).ok()?;
    let bytes = postcard::to_extend(&back, bytes).ok()?;
    (unpack(&device.id, &bytes, words).as_ref() == Some(device)).then_some(bytes)
}

/// The device.
pub(super) fn unpack(id: &DeviceId, bytes: &[u8], words: &Words) -> Option<Device> {
    let tables = words.0.read().unwrap_or_else(PoisonError::into_inner);
    let (head, rest) = Head::read(bytes)?;
    let (front, rest) = postcard::take_from_bytes::<Front>(rest).ok()?;
    let mut device = begin(id.clone(), front, &tables)?;
    (device.presence.online, device.presence.last_seen) = (head.online, head.last_seen);
    finish(&mut device, postcard::from_bytes(rest).ok()?, &tables)?;
    Some(device)
}

/// The device as far as planning looks: without key, certificates, secret and runs, without the session, with the report's generation,
/// phase, reason and active model only, and as long as it is connected without when it was last heard of.
pub(super) fn glance(id: DeviceId, bytes: &[u8], words: &Words) -> Option<Device> {
    let tables = words.0.read().unwrap_or_else(PoisonError::into_inner);
    let (head, rest) = Head::read(bytes)?;
    let (front, _) = postcard::take_from_bytes::<Front>(rest).ok()?;
    let mut device = begin(id, front, &tables)?;
    (device.presence.online, device.presence.last_seen) = (head.online, head.last_seen.filter(|_| !head.online));
    Some(device)
}

fn front(device: &Device, tables: &mut Tables) -> Option<Front> {
    let Device { id: _, labels, enrolled_at, admission, reported, desired, part, retry, .. } = device;
    let told = match desired {
        Some(desired) => {
            // What one plan tells thousands of devices differs in these two.
            let shared = DesiredRecord { generation: Generation(0), issued_at: Timestamp::default(), ..desired.clone() };
            Some((desired.generation, desired.issued_at, tables.told.word(&shared)?))
        }
        None => None,
    };
    let said = match reported {
        Some(Reported { generation, phase, reason, active, .. }) => {
            let active = match active {
                Some(running) => {
                    let shared = Running { since: Timestamp::default(), inferences: 0, ..running.clone() };
                    Some((running.since, running.inferences, tables.running.word(&shared)?))
                }
                None => None,
            };
            Some(Said { generation: *generation, phase: *phase, reason: reason.clone(), active })
        }
        None => None,
    };
    Some(Front {
        labels: tables.labels.word(labels)?,
        enrolled_at: *enrolled_at,
        admission: if admission.is_in() { None } else { Some(serde_json::to_vec(admission).ok()?) },
        retry: *retry,
        told,
        part: part.clone(),
        said,
    })
}

fn back(device: &Device, tables: &mut Tables) -> Option<Back> {
    let run = |run: &RunInterval, tables: &mut Tables| {
        let shared = RunInterval { from: Timestamp::default(), to: None, ..run.clone() };
        Some((run.from, run.to, tables.runs.word(&shared)?))
    };
    Some(Back {
        key: Hex::of(&device.public_key),
        certificates: device.certificates.iter().map(|held| (Hex::of(&held.serial), held.not_after)).collect(),
        twin: device.twin.clone(),
        credential: device.credential,
        session: device.presence.session,
        changed_at: device.presence.changed_at,
        contact: Some(device.presence.contact).filter(|contact| *contact != Contact::default()),
        agent: tables.texts.word(&device.presence.agent)?,
        runs: device.runs.iter().map(|interval| run(interval, tables)).collect::<Option<_>>()?,
        said: match &device.reported {
            Some(reported) => Some(rest(reported, tables)?),
            None => None,
        },
    })
}

fn rest(reported: &Reported, tables: &mut Tables) -> Option<Rest> {
    let Reported { v, rollout, last_known_good, shadow, conditions, trusted, agent, boot, outbox, dropped, at, .. } = reported;
    let condition = |condition: &Condition, tables: &mut Tables| {
        let own = condition.message.bytes().any(|c| c.is_ascii_digit());
        let message = if own { Text::Own(condition.message.clone()) } else { Text::Shared(tables.texts.word(&condition.message)?) };
        Some((tables.texts.word(&condition.kind)?, condition.holds, message))
    };
    Some(Rest {
        v: *v,
        rollout: match rollout {
            Some(rollout) => Some(tables.texts.word(&rollout.as_str().to_owned())?),
            None => None,
        },
        last_known_good: match last_known_good {
            Some(manifest) => Some(tables.digests.word(manifest)?),
            None => None,
        },
        shadow: *shadow,
        conditions: conditions.iter().map(|one| condition(one, tables)).collect::<Option<_>>()?,
        trusted: *trusted,
        agent: tables.texts.word(agent)?,
        boot: *boot,
        outbox: *outbox,
        dropped: *dropped,
        at: *at,
    })
}

fn begin(id: DeviceId, front: Front, tables: &Tables) -> Option<Device> {
    let Front { labels, enrolled_at, admission, retry, told, part, said } = front;
    let mut device = Device::new(id, String::new(), tables.labels.thing(&labels)?, enrolled_at);
    device.admission = match admission {
        Some(json) => serde_json::from_slice(&json).ok()?,
        None => Admission::Accepted,
    };
    (device.retry, device.part) = (retry, part);
    if let Some((generation, issued_at, word)) = told {
        device.desired = Some(DesiredRecord { generation, issued_at, ..tables.told.thing(&word)? });
    }
    if let Some(Said { generation, phase, reason, active }) = said {
        let active = match active {
            Some((since, inferences, word)) => Some(Running { since, inferences, ..tables.running.thing(&word)? }),
            None => None,
        };
        let (v, rollout, last_known_good, shadow, conditions, trusted) = Default::default();
        let (agent, boot, outbox, dropped, at) = (String::new(), BootId(0), 0, 0, Timestamp::default());
        device.reported = Some(Reported {
            v,
            generation,
            rollout,
            phase,
            reason,
            active,
            last_known_good,
            shadow,
            conditions,
            trusted,
            agent,
            boot,
            outbox,
            dropped,
            at,
        });
    }
    Some(device)
}

fn finish(device: &mut Device, back: Back, tables: &Tables) -> Option<()> {
    let Back { key, certificates, twin, credential, session, changed_at, contact, agent, runs, said } = back;
    device.public_key = key.text();
    device.certificates = certificates.into_iter().map(|(serial, not_after)| Certificate { serial: serial.text(), not_after }).collect();
    (device.twin, device.credential) = (twin, credential);
    (device.presence.session, device.presence.changed_at) = (session, changed_at);
    device.presence.agent = tables.texts.thing(&agent)?;
    device.presence.contact = contact.unwrap_or_default();
    let run = |(from, to, word): (Timestamp, Option<Timestamp>, Word)| Some(RunInterval { from, to, ..tables.runs.thing(&word)? });
    device.runs = runs.into_iter().map(run).collect::<Option<_>>()?;
    if let (Some(reported), Some(rest)) = (device.reported.as_mut(), said) {
        let condition = |(kind, holds, message): (Word, bool, Text)| {
            let message = match message {
                Text::Shared(word) => tables.texts.thing(&word)?,
                Text::Own(message) => message,
            };
            Some(Condition { kind: tables.texts.thing(&kind)?, holds, message })
        };
        let Rest { v, rollout, last_known_good, shadow, conditions, trusted, agent, boot, outbox, dropped, at } = rest;
        reported.rollout = match rollout {
            Some(word) => Some(tables.texts.thing(&word)?.parse::<RolloutId>().ok()?),
            None => None,
        };
        reported.last_known_good = match last_known_good {
            Some(word) => Some(tables.digests.thing(&word)?),
            None => None,
        };
        reported.conditions = conditions.into_iter().map(condition).collect::<Option<_>>()?;
        (reported.v, reported.shadow, reported.trusted, reported.agent) = (v, shadow, trusted, tables.texts.thing(&agent)?);
        (reported.boot, reported.outbox, reported.dropped, reported.at) = (boot, outbox, dropped, at);
    }
    Some(())
}

#[cfg(test)]
mod tests;
