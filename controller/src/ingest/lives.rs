//! Two devices with one key: noticed by what one life cannot have said.
//!
//! A device numbers its starts, durably before it speaks, and its messages within a start. So one life never says two things under
//! one (start, number), and everything of an earlier start was said before anything of a later one. A message proves a second life
//! if it says something else under a number that was used, or if it comes from an earlier start and yet knows what the controller
//! gave only after a later start had spoken. Nothing else counts as proof: a network may delay, repeat and reorder as it likes, an
//! outbox may hold a message over many starts, a clock may jump. What stays true: one device, however often it restarts and however
//! its messages arrive, is never taken for two; memory per device has a bound.
use std::collections::BTreeMap;

use leeway_protocol::ids::{BootId, Generation};
use serde::{Deserialize, Serialize};

use super::{Body, Message};

/// Starts that are remembered: a copy begins at a start that the original has long left.
const MAX_STARTS: usize = 8;
/// Messages remembered from the beginning of each start: a copy passes there.
const FIRST: usize = 3;
/// Messages remembered over all starts, the newest.
const LATEST: usize = 16;

/// What was said under which number, lately.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Lives {
    /// The first messages of each start: number and mark.
    starts: BTreeMap<BootId, Vec<(u64, u32)>>,
    /// The newest messages.
    latest: Vec<(BootId, u64, u32)>,
    /// The newest start, and the generation that the device had been told when that was first heard.
    newest: Option<(BootId, Generation)>,
}

/// A mark of some bytes (FNV-1a, folded): another mark means other bytes. That two different bodies can have one mark only hides
/// a copy from one look.
pub fn mark(bytes: &[u8]) -> u32 {
    let hash = bytes.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3));
    let [a, b, c, d, e, f, g, h] = hash.to_be_bytes();
    u32::from_be_bytes([a ^ e, b ^ f, c ^ g, d ^ h])
}

impl Lives {
    /// Look at one verified message. What proves a second life, in a sentence. `given` is what the device was told last.
    pub fn compare(&mut self, message: &Message, given: Option<Generation>) -> Option<String> {
        let (boot, counter) = (message.boot, message.counter);
        let given = given.unwrap_or_default();
        let known = self.known(boot, counter);
        if known.is_some_and(|known| known != message.mark) {
            return Some(format!("under the same number (start {}, message {counter}) it said two different things.", boot.0));
        }
        if known.is_none() {
            self.remember(boot, counter, message.mark);
        }
        match (self.newest, &message.body) {
            (Some((newest, then)), Body::Reported(reported)) if boot < newest && reported.generation == given && given > then => {
                Some(format!(
                    "its start {} knows generation {}, which was given only after its later start {} had spoken.",
                    boot.0, given.0, newest.0
                ))
            }
            (Some((newest, _)), _) if boot <= newest => None,
            _ => {
                self.newest = Some((boot, given));
                None
            }
        }
    }

    fn known(&self, boot: BootId, counter: u64) -> Option<u32> {
        let early = self.starts.get(&boot).and_then(|first| first.iter().find(|(n, _)| *n == counter)).map(|(_, mark)| *mark);
        early.or_else(|| self.latest.iter().find(|(b, n, _)| (*b, *n) == (boot, counter)).map(|(.., mark)| *mark))
    }

    fn remember(&mut self, boot: BootId, counter: u64, mark: u32) {
        let first = self.starts.entry(boot).or_default();
        first.push((counter, mark));
        // By number and not by arrival: the lowest are where a copy passes.
        first.sort_unstable();
        first.truncate(FIRST);
        if self.starts.len() > MAX_STARTS {
            self.starts.pop_first();
        }
        self.latest.push((boot, counter, mark));
        if self.latest.len() > LATEST {
            self.latest.remove(0);
        }
    }
}

#[cfg(test)]
mod tests {
    use leeway_protocol::ids::DeviceId;
    use leeway_protocol::reported::{Phase, Reported, TrustedVersions};
    use leeway_protocol::time::Timestamp;
    use rand_chacha::ChaCha12Rng;
    use rand_chacha::rand_core::{Rng as _, SeedableRng as _};

    use super::*;

    /// One life: its durable number of starts, and what it knows.
    #[derive(Clone)]
    struct Life {
        boot: u64,
        counter: u64,
        generation: Generation,
        /// What it put aside to send later, over restarts too.
        outbox: Vec<Message>,
        /// Each life sees its own world, so what it says differs.
        salt: u32,
    }

    impl Life {
        fn new() -> Self {
            Self { boot: 1, counter: 0, generation: Generation(0), outbox: Vec::new(), salt: 0 }
        }

        fn restart(&mut self) {
            (self.boot, self.counter) = (self.boot + 1, 0);
        }

        fn say(&mut self) -> Message {
            self.counter += 1;
            let reported = Reported {
                v: 1,
                generation: self.generation,
                rollout: None,
                phase: Phase::Idle,
                reason: None,
                active: None,
                last_known_good: None,
                shadow: None,
                conditions: Vec::new(),
                trusted: TrustedVersions::default(),
                agent: "1".to_owned(),
                boot: BootId(self.boot),
                outbox: 0,
                dropped: 0,
                at: Timestamp::default(),
            };
            let said = format!("{} {} {} {}", self.boot, self.counter, self.generation.0, self.salt);
            let device: DeviceId = "d1".parse().unwrap();
            let body = Body::Reported(Box::new(reported));
            Message { device, boot: BootId(self.boot), counter: self.counter, mark: mark(said.as_bytes()), body }
        }
    }

    /// A network that delays, repeats and reorders, and a controller that gives new generations now and then.
    struct World {
        chance: ChaCha12Rng,
        lives: Lives,
        given: Generation,
        air: Vec<Message>,
    }

    impl World {
        fn new(seed: u64) -> Self {
            Self { chance: ChaCha12Rng::seed_from_u64(seed), lives: Lives::default(), given: Generation(0), air: Vec::new() }
        }

        fn one_in(&mut self, n: u32) -> bool {
            self.chance.next_u32().is_multiple_of(n)
        }

        /// A moment of one life.
        fn live(&mut self, life: &mut Life) {
            if self.one_in(12) {
                life.restart();
            }
            if self.one_in(8) && life.generation < self.given {
                life.generation = self.given;
            }
            let message = life.say();
            if self.one_in(3) {
                life.outbox.push(message)
            } else {
                self.air.push(message)
            }
            if self.one_in(6) {
                self.air.append(&mut life.outbox.clone());
                if self.one_in(2) {
                    life.outbox.clear();
                }
            }
        }

        /// A moment of the network and the controller; what was noticed.
        fn deliver(&mut self) -> Option<String> {
            if self.one_in(20) {
                self.given.0 += 1;
            }
            let mut noticed = None;
            for _ in 0..self.chance.next_u32() % 4 {
                if self.air.is_empty() {
                    break;
                }
                let at = self.chance.next_u32() as usize % self.air.len();
                // Some come once more, some come late.
                let message = if self.one_in(4) { self.air[at].clone() } else { self.air.swap_remove(at) };
                noticed = noticed.or(self.lives.compare(&message, Some(self.given)));
            }
            noticed
        }
    }

    #[test]
    fn one_device_is_never_taken_for_two() {
        for seed in 0..400 {
            let (mut world, mut life) = (World::new(seed), Life::new());
            for _ in 0..400 {
                world.live(&mut life);
                assert_eq!(world.deliver(), None, "seed {seed}");
            }
        }
    }

    #[test]
    fn two_lives_of_one_key_are_noticed() {
        let mut slowest = 0;
        for seed in 0..400 {
            let (mut world, mut life) = (World::new(seed), Life::new());
            for _ in 0..100 {
                world.live(&mut life);
                assert_eq!(world.deliver(), None, "seed {seed}");
            }
            // A copy of the disk, while the device was off.
            life.restart();
            let mut copy = Life { salt: 1, outbox: Vec::new(), ..life.clone() };
            let found = (0..2_000).find(|_| {
                world.live(&mut life);
                let first = world.deliver();
                world.live(&mut copy);
                first.or(world.deliver()).is_some()
            });
            slowest = slowest.max(found.unwrap_or_else(|| panic!("seed {seed}: nobody noticed")));
        }
        assert!(slowest < 1_000, "the slowest took {slowest} moments");
    }

    #[test]
    fn each_proof_has_its_sentence_and_a_replay_is_none() {
        let mut life = Life::new();
        let (first, second) = (life.say(), life.say());
        let mut lives = Lives::default();
        for message in [&second, &first, &second, &first] {
            assert_eq!(lives.compare(message, None), None);
        }
        let other = Message { mark: first.mark ^ 1, ..first.clone() };
        let text = serde_json::to_string(&lives).unwrap();
        let mut restored: Lives = serde_json::from_str(&text).unwrap();
        assert!(restored.compare(&other, None).unwrap().contains("(start 1, message 1)"), "also after a restart of the controller");
        let mut later = life.clone();
        later.restart();
        assert_eq!(lives.compare(&later.say(), Some(Generation(4))), None);
        life.generation = Generation(4);
        assert_eq!(lives.compare(&life.say(), Some(Generation(4))), None, "it may have known that before");
        life.generation = Generation(5);
        let noticed = lives.compare(&life.say(), Some(Generation(5))).unwrap();
        assert!(noticed.contains("start 1 knows generation 5") && noticed.contains("later start 2"), "{noticed}");
    }

    #[test]
    fn memory_has_a_bound() {
        let (mut lives, mut life) = (Lives::default(), Life::new());
        for n in 0..2_000 {
            if n % 7 == 0 {
                life.restart();
            }
            lives.compare(&life.say(), None);
        }
        assert!(serde_json::to_string(&lives).unwrap().len() < 1_500);
    }
}
