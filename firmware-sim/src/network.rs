//! What a network does to messages: delays, loses, doubles and reorders them, cuts devices off, and lies.
//!
//! The network decides only *fates*; the world delivers. Broker and mirror are part of it and count as hostile: they may show
//! anyone anything they ever saw, on any topic, and change any byte, because nothing the devices rely on is secret or unsigned.
use std::collections::VecDeque;
use std::sync::Arc;

use leeway_protocol::topic::Channel;

use crate::rng::Rng;

/// Messages the adversary remembers; the oldest are forgotten.
const MEMORY: usize = 256;

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Conditions {
    /// Share of messages lost.
    pub drop: f64,
    /// Share of messages that come twice.
    pub duplicate: f64,
    /// Shortest and longest way, milliseconds; the spread is what reorders.
    pub delay_ms: (u64, u64),
    /// Share of messages with a flipped bit.
    pub corrupt: f64,
    /// Share of deliveries after which something old is shown to someone.
    pub replay: f64,
    /// Share of requests that fail, or break off half-way.
    pub fail: f64,
    /// Share of requests answered with something else that was once served, or with damaged bytes.
    pub lie: f64,
}

impl Conditions {
    /// A network that delivers.
    pub fn honest() -> Self {
        Self { drop: 0.0, duplicate: 0.0, delay_ms: (5, 40), corrupt: 0.0, replay: 0.0, fail: 0.0, lie: 0.0 }
    }

    /// A network of some badness, drawn.
    pub fn nasty(rng: &mut Rng) -> Self {
        let mut level = |most: f64| if rng.chance(0.5) { rng.share() * most } else { 0.0 };
        let (drop, duplicate, corrupt, replay, fail, lie) = (level(0.3), level(0.3), level(0.05), level(0.2), level(0.4), level(0.2));
        let longest = [40, 400, 4_000][rng.index(3)];
        Self { drop, duplicate, delay_ms: (1, longest), corrupt, replay, fail, lie }
    }
}

/// One copy of a message that will arrive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Copy {
    /// After so many milliseconds.
    pub after_ms: u64,
    /// With these bytes.
    pub bytes: Arc<[u8]>,
}

/// What a request meets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// The truth.
    True,
    /// Nothing, or only the first part.
    Broken,
    /// An older version of the same file, if there ever was one.
    Older,
    /// The right bytes with one bit flipped.
    Flipped,
    /// Too many bytes.
    Longer,
    /// "There is no such file."
    Absent,
}

/// The network of one world.
#[derive(Debug, Clone)]
pub struct Network {
    /// How bad it is now.
    pub conditions: Conditions,
    rng: Rng,
    seen: VecDeque<(Channel, Arc<[u8]>)>,
}

impl Network {
    /// An honest network; `rng` decides everything it will ever do.
    pub fn new(rng: Rng) -> Self {
        Self { conditions: Conditions::honest(), rng, seen: VecDeque::new() }
    }

    /// How long one way takes.
    pub fn delay(&mut self) -> u64 {
        let (low, high) = self.conditions.delay_ms;
        self.rng.between(low, high)
    }

    /// The copies of a message that will arrive. The adversary remembers the message, arrive or not.
    pub fn carry(&mut self, channel: Channel, bytes: &Arc<[u8]>) -> Vec<Copy> {
        if self.seen.len() == MEMORY {
            self.seen.pop_front();
        }
        self.seen.push_back((channel, Arc::clone(bytes)));
        if self.rng.chance(self.conditions.drop) {
            return Vec::new();
        }
        let copies = if self.rng.chance(self.conditions.duplicate) { 2 } else { 1 };
        (0..copies).map(|_| Copy { after_ms: self.delay(), bytes: self.damage(bytes) }).collect()
    }

    /// Something old on one of `channels`, to be shown to someone it may not be meant for.
    pub fn replay(&mut self, channels: &[Channel]) -> Option<(Channel, Copy)> {
        if !self.rng.chance(self.conditions.replay) {
            return None;
        }
        let index = self.rng.index(self.seen.len());
        let (channel, bytes) = self.seen.get(index).filter(|(channel, _)| channels.contains(channel))?.clone();
        Some((channel, Copy { after_ms: self.delay(), bytes }))
    }

    /// What one request meets.
    pub fn answer(&mut self) -> Answer {
        if self.rng.chance(self.conditions.fail) {
            return Answer::Broken;
        }
        if !self.rng.chance(self.conditions.lie) {
            return Answer::True;
        }
        [Answer::Older, Answer::Flipped, Answer::Longer, Answer::Absent][self.rng.index(4)]
    }

    /// A number below `end`, for whoever must choose on the network's behalf.
    pub fn choose(&mut self, end: usize) -> usize {
        self.rng.index(end)
    }

    /// `bytes` with one bit flipped.
    pub fn flip(&mut self, bytes: &[u8]) -> Vec<u8> {
        let (at, bit) = (self.rng.index(bytes.len()), 1 << self.rng.below(8));
        let mut flipped = bytes.to_vec();
        if let Some(byte) = flipped.get_mut(at) {
            *byte ^= bit;
        }
        flipped
    }

    fn damage(&mut self, bytes: &Arc<[u8]>) -> Arc<[u8]> {
        if self.rng.chance(self.conditions.corrupt) { self.flip(bytes).into() } else { Arc::clone(bytes) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_honest_network_delivers_once_and_a_nasty_one_does_everything() {
        let message: Arc<[u8]> = b"message".as_slice().into();
        let mut network = Network::new(Rng::new(1));
        for _ in 0..100 {
            let copies = network.carry(Channel::Desired, &message);
            assert!(copies.len() == 1 && copies[0].bytes == message && network.answer() == Answer::True);
        }
        network.conditions = Conditions { drop: 0.3, duplicate: 0.3, delay_ms: (1, 100), corrupt: 0.3, replay: 0.5, fail: 0.2, lie: 0.9 };
        let fates: Vec<Vec<Copy>> = (0..500).map(|_| network.carry(Channel::Desired, &message)).collect();
        for copies in 0..3 {
            assert!(fates.iter().any(|f| f.len() == copies), "{copies}");
        }
        assert!(fates.iter().flatten().any(|copy| copy.bytes != message));
        let delays: std::collections::BTreeSet<u64> = fates.iter().flatten().map(|copy| copy.after_ms).collect();
        assert!(delays.len() > 10, "different delays are what reorders");
        for answer in [Answer::True, Answer::Broken, Answer::Older, Answer::Flipped, Answer::Longer, Answer::Absent] {
            assert!((0..500).any(|_| network.answer() == answer), "{answer:?}");
        }
        assert!((0..100).any(|_| network.replay(&[Channel::Desired]).is_some()));
        assert!((0..100).all(|_| network.replay(&[Channel::Receipt]).is_none()));
    }

    #[test]
    fn the_adversary_has_a_bounded_memory() {
        let mut network = Network::new(Rng::new(1));
        for n in 0..1000u32 {
            network.carry(Channel::Receipt, &n.to_le_bytes().as_slice().into());
        }
        assert_eq!(network.seen.len(), MEMORY);
    }
}
