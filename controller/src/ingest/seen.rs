//! Which numbered things of one device are stored already, in a few bytes.
//!
//! Windows and batches are numbered upwards per start of the agent, so what was seen is a handful of ranges; a set of every
//! number would grow for years. What stays true: a number that was inserted is found again; when the bounds force something
//! to be forgotten, what is forgotten counts as seen, because counting twice is worse than losing a very late one.
use std::collections::BTreeMap;

use leeway_protocol::digest::Digest;
use leeway_protocol::ids::BootId;
use serde::{Deserialize, Serialize};

/// Ranges per model: one per start of the agent while that model ran, and gaps that late ones will fill.
const MAX_RANGES: usize = 128;
/// Models per device: far more than a device runs within the time a message may be late.
const MAX_MODELS: usize = 32;
/// Events per device: more than an outbox holds.
const MAX_EVENTS: usize = 512;

/// Numbers seen, by model or manifest.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Windows {
    of: BTreeMap<Digest, Ranges>,
    /// Rises with every insertion; the model not heard of for longest is forgotten first.
    clock: u64,
    /// Models that were forgotten; at most [`MAX_MODELS`], the oldest first.
    forgotten: Vec<Digest>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
struct Ranges {
    /// First to last, both included, rising and apart.
    ranges: Vec<(u64, u64)>,
    used: u64,
}

impl Windows {
    /// Whether this number was seen.
    pub fn has(&self, of: Digest, number: u64) -> bool {
        self.of.get(&of).map_or_else(|| self.forgotten.contains(&of), |ranges| ranges.has(number))
    }

    /// Remember a number; whether it was new.
    pub fn insert(&mut self, of: Digest, number: u64) -> bool {
        if self.has(of, number) {
            return false;
        }
        self.clock += 1;
        let ranges = self.of.entry(of).or_default();
        ranges.used = self.clock;
        ranges.insert(number);
        if self.of.len() > MAX_MODELS
            && let Some(oldest) = self.of.iter().min_by_key(|(_, ranges)| ranges.used).map(|(of, _)| *of)
        {
            self.of.remove(&oldest);
            self.forgotten.push(oldest);
            if self.forgotten.len() > MAX_MODELS {
                self.forgotten.remove(0);
            }
        }
        true
    }

    /// How many numbers of this model were seen.
    pub fn count(&self, of: Digest) -> u64 {
        self.of.get(&of).map_or(0, |ranges| ranges.ranges.iter().map(|(first, last)| last - first + 1).sum())
    }
}

impl Ranges {
    fn has(&self, number: u64) -> bool {
        self.ranges.iter().any(|&(first, last)| (first..=last).contains(&number))
    }

    fn insert(&mut self, number: u64) {
        let at = self.ranges.partition_point(|&(first, _)| first <= number);
        self.ranges.insert(at, (number, number));
        self.join(at);
        if let Some(before) = at.checked_sub(1) {
            self.join(before);
        }
        if self.ranges.len() > MAX_RANGES {
            // The gap between the two oldest ranges counts as seen from now on.
            let second = self.ranges.remove(1);
            if let Some(first) = self.ranges.first_mut() {
                first.1 = second.1;
            }
        }
    }

    /// Make one range of the one at `at` and the next, if nothing lies between.
    fn join(&mut self, at: usize) {
        if let (Some(&(_, last)), Some(&(next, end))) = (self.ranges.get(at), self.ranges.get(at + 1))
            && next <= last.saturating_add(1)
            && let Some(range) = self.ranges.get_mut(at)
        {
            range.1 = end.max(last);
            self.ranges.remove(at + 1);
        }
    }
}

/// The newest orders seen, exactly; everything below the oldest of them counts as seen once the bound is reached.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Recent(Vec<(BootId, u64)>);

impl Recent {
    /// Whether this one was seen.
    pub fn has(&self, order: (BootId, u64)) -> bool {
        let below = self.0.len() >= MAX_EVENTS && self.0.first().is_some_and(|oldest| order < *oldest);
        below || self.0.binary_search(&order).is_ok()
    }

    /// Remember one; whether it was new.
    pub fn insert(&mut self, order: (BootId, u64)) -> bool {
        if self.has(order) {
            return false;
        }
        if let Err(at) = self.0.binary_search(&order) {
            self.0.insert(at, order);
        }
        if self.0.len() > MAX_EVENTS {
            self.0.remove(0);
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn ranges_agree_with_a_plain_set() {
        let (mut windows, mut set, mut chance) = (Windows::default(), BTreeSet::new(), 7_u64);
        let model = Digest::of(b"m");
        for _ in 0..5_000 {
            chance = chance.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let number = (chance >> 33) % 200;
            assert_eq!(windows.has(model, number), set.contains(&number));
            assert_eq!(windows.insert(model, number), set.insert(number));
            assert_eq!(windows.count(model), set.len() as u64);
        }
        assert_eq!(windows.of[&model].ranges.len(), 1, "all of 0 to 199 in one range");
        assert!(windows.insert(Digest::of(b"other"), 5), "another model has its own numbers");
        assert!(windows.insert(model, u64::MAX) && windows.has(model, u64::MAX));
    }

    #[test]
    fn bounds_forget_towards_seen() {
        let (mut windows, model) = (Windows::default(), Digest::of(b"m"));
        for i in 0..=MAX_RANGES as u64 {
            windows.insert(model, i * 10);
        }
        assert_eq!(windows.of[&model].ranges.len(), MAX_RANGES);
        assert!(windows.has(model, 5), "the oldest gap is given up");
        assert!(!windows.has(model, MAX_RANGES as u64 * 10 - 5));
        for i in 0..MAX_MODELS as u64 {
            windows.insert(Digest::of(&i.to_le_bytes()), 1);
        }
        assert!(windows.has(model, 123_456), "a forgotten model counts nothing any more");
        let mut recent = Recent::default();
        for i in 0..=MAX_EVENTS as u64 {
            assert!(recent.insert((BootId(1), i * 2)));
        }
        assert!(recent.has((BootId(1), 1)) && recent.has((BootId(0), 9)) && !recent.has((BootId(1), 5)));
        assert!(!recent.insert((BootId(1), 4)));
    }
}
