//! Whether a verified message is new: by device, kind, start of the program and counter.
//!
//! Two kinds of kinds. State-like ones (status, reported): only the latest counts, an older or equal one is refused. The others
//! come from an outbox that repeats until it sees a receipt, so twice and out of order is normal: what was certainly seen is
//! called a duplicate, what lies too far back to remember is left to the store, which is keyed by (device, boot, counter).
//!
//! What stays true: a counter within [`REPLAY_WINDOW`] of the highest is told new from seen exactly; memory per device and kind
//! is fixed. Checking and recording are apart, so that a message is recorded when it is stored and not before.
use std::collections::BTreeMap;

use super::Kind;
use crate::ids::{BootId, DeviceId};

/// Counters below the highest that are remembered one by one: more than an outbox has in flight after a reconnect.
pub const REPLAY_WINDOW: u64 = 64 * WORDS as u64;
const WORDS: usize = 8;

/// An old state-like message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("message (boot {}, counter {counter}) is not newer than (boot {}, counter {last_counter}), which was already accepted", boot.0, last_boot.0)]
pub struct Replayed {
    /// Its start.
    pub boot: BootId,
    /// Its counter.
    pub counter: u64,
    /// The start of the newest accepted one.
    pub last_boot: BootId,
    /// The counter of the newest accepted one.
    pub last_counter: u64,
}

/// What is known about a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Freshness {
    /// Certainly not seen before.
    New,
    /// Certainly seen before: answer with a receipt, change nothing.
    Duplicate,
    /// From an earlier start, or too far back to remember: only the store can tell.
    Old,
}

/// What was accepted from each device so far.
#[derive(Debug, Clone, Default)]
pub struct ReplayGuard {
    seen: BTreeMap<DeviceId, BTreeMap<Kind, Seen>>,
}

#[derive(Debug, Clone, Copy)]
struct Seen {
    boot: BootId,
    highest: u64,
    /// Bit `i` stands for the counter `highest - i`.
    recent: [u64; WORDS],
}

impl ReplayGuard {
    /// Is this message new? Changes nothing.
    pub fn check(&self, device: &DeviceId, kind: Kind, boot: BootId, counter: u64) -> Result<Freshness, Replayed> {
        let Some(seen) = self.seen.get(device).and_then(|kinds| kinds.get(&kind)) else { return Ok(Freshness::New) };
        if (boot, counter) > (seen.boot, seen.highest) {
            return Ok(Freshness::New);
        }
        if kind.is_state_like() {
            return Err(Replayed { boot, counter, last_boot: seen.boot, last_counter: seen.highest });
        }
        if boot != seen.boot {
            return Ok(Freshness::Old);
        }
        Ok(match seen.bit(counter) {
            Some((word, bit)) if seen.recent.get(word).is_some_and(|word| word & bit != 0) => Freshness::Duplicate,
            Some(_) => Freshness::New,
            None => Freshness::Old,
        })
    }

    /// Remember an accepted message. Also how a guard is filled again after a restart.
    pub fn record(&mut self, device: &DeviceId, kind: Kind, boot: BootId, counter: u64) {
        let first = Seen { boot, highest: counter, recent: [0; WORDS] };
        let kinds = match self.seen.get_mut(device) {
            Some(kinds) => kinds,
            None => self.seen.entry(device.clone()).or_default(),
        };
        let seen = kinds.entry(kind).or_insert(first);
        if boot > seen.boot {
            *seen = first;
        }
        if boot < seen.boot {
            return;
        }
        seen.raise_to(counter);
        if let Some((word, bit)) = seen.bit(counter)
            && let Some(word) = seen.recent.get_mut(word)
        {
            *word |= bit;
        }
    }

    /// The newest accepted (boot, counter), to be made durable beside what it belongs to.
    pub fn newest(&self, device: &DeviceId, kind: Kind) -> Option<(BootId, u64)> {
        self.seen.get(device)?.get(&kind).map(|seen| (seen.boot, seen.highest))
    }

    /// Forget a device that left the fleet.
    pub fn forget(&mut self, device: &DeviceId) {
        self.seen.remove(device);
    }
}

impl Seen {
    fn bit(&self, counter: u64) -> Option<(usize, u64)> {
        let back = self.highest.checked_sub(counter).filter(|back| *back < REPLAY_WINDOW)?;
        Some((usize::try_from(back / 64).ok()?, 1 << (back % 64)))
    }

    fn raise_to(&mut self, counter: u64) {
        let Some(by) = counter.checked_sub(self.highest) else { return };
        self.highest = counter;
        let (words, bits) = ((by / 64).min(WORDS as u64) as usize, by % 64);
        let old = self.recent;
        let word = |at: usize| at.checked_sub(words).and_then(|at| old.get(at)).copied().unwrap_or(0);
        for (at, new) in self.recent.iter_mut().enumerate() {
            let carried = if bits == 0 || at == 0 { 0 } else { word(at - 1) >> (64 - bits) };
            *new = (word(at) << bits) | carried;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device() -> DeviceId {
        "bellevue-07".parse().unwrap()
    }

    #[test]
    fn state_must_rise() {
        let mut guard = ReplayGuard::default();
        guard.record(&device(), Kind::Reported, BootId(3), 10);
        for (boot, counter, fine) in [(3, 11, true), (4, 0, true), (3, 10, false), (3, 9, false), (2, 99, false)] {
            assert_eq!(guard.check(&device(), Kind::Reported, BootId(boot), counter).is_ok(), fine, "({boot}, {counter})");
        }
        assert!(guard.check(&device(), Kind::Status, BootId(1), 1).is_ok(), "another kind has its own order");
        assert!(guard.check(&"bellevue-08".parse().unwrap(), Kind::Reported, BootId(1), 1).is_ok(), "another device too");
        guard.record(&device(), Kind::Reported, BootId(2), 50);
        assert_eq!(guard.newest(&device(), Kind::Reported), Some((BootId(3), 10)));
        guard.forget(&device());
        assert_eq!(guard.newest(&device(), Kind::Reported), None);
    }

    #[test]
    fn windows_come_late_and_twice_and_are_told_apart() {
        // Against a plain set, over a long walk with gaps, repeats and late ones.
        let (mut guard, mut seen, mut top, mut chance) = (ReplayGuard::default(), std::collections::BTreeSet::new(), 0_u64, 1_u64);
        for _ in 0..20_000 {
            chance = chance.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let (turn, size) = ((chance >> 60) % 4, (chance >> 33) % 700);
            let counter = match turn {
                0 => top + 1,
                1 => top + size % 140,
                _ => top.saturating_sub(size),
            };
            let told = guard.check(&device(), Kind::Window, BootId(1), counter).unwrap();
            let expected = match (seen.contains(&counter), counter > top || top - counter < REPLAY_WINDOW) {
                (_, false) => Freshness::Old,
                (true, true) => Freshness::Duplicate,
                (false, true) => Freshness::New,
            };
            if !seen.is_empty() {
                assert_eq!(told, expected, "counter {counter}, highest {top}");
            }
            guard.record(&device(), Kind::Window, BootId(1), counter);
            seen.insert(counter);
            top = top.max(counter);
        }
        assert_eq!(guard.check(&device(), Kind::Window, BootId(0), 1), Ok(Freshness::Old));
        assert_eq!(guard.check(&device(), Kind::Window, BootId(2), 0), Ok(Freshness::New));
        guard.record(&device(), Kind::Window, BootId(2), u64::MAX);
        assert_eq!(guard.check(&device(), Kind::Window, BootId(2), u64::MAX), Ok(Freshness::Duplicate));
        assert_eq!(guard.check(&device(), Kind::Window, BootId(2), 0), Ok(Freshness::Old));
    }
}
