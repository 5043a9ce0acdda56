//! What the device must still know after a power cut, as one document that is replaced whole.
//!
//! Two copies are kept, `state.json` and `counters.json`, each with a digest over its own text: a torn or rotten copy is seen
//! and not believed. What stays true: the numbers that must never go back (starts, generation, floors, trusted time, versions of metadata) are the
//! highest that either copy holds.
use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use leeway_protocol::digest::Digest;
use leeway_protocol::ids::{BootId, Generation, Line};
use leeway_protocol::reason::Reason;
use leeway_protocol::time::Timestamp;
use leeway_protocol::trust::tuf::Versions;

use crate::slot::Slots;

/// How the assignment of the present generation ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Outcome {
    /// It runs for good.
    Committed,
    /// It ran and was taken back.
    Reverted(Reason),
    /// It was not activated and will not be.
    Refused(Reason),
}

/// The versions of signed metadata that were accepted. The files that hold them are each there once; when one rots, these say that an
/// older one is no replacement. They bind under the root they were seen with: a later one may take back what a thief pushed ahead.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Seen {
    /// The root that the device was made with: another one is another repository.
    pub(super) under: Option<Digest>,
    pub(super) root: u64,
    pub(super) timestamp: u64,
    pub(super) snapshot: u64,
    pub(super) targets: u64,
    #[serde(default)]
    pub(super) roles: BTreeMap<String, u64>,
    /// Of the director's root.
    #[serde(default)]
    pub(super) director: u64,
}

impl Seen {
    /// What `offered` has that is older than what was seen, if anything.
    pub(super) fn forbids(&self, offered: &Versions) -> Option<String> {
        let older = |what: &str, have: u64, got: u64| {
            let less = got > 0 && got < have;
            less.then(|| format!("{what} {got} is offered, but {have} was accepted before its file was lost"))
        };
        older("root", self.root, offered.root).or_else(|| {
            if offered.root != self.root {
                return None;
            }
            let top = older("timestamp", self.timestamp, offered.timestamp)
                .or_else(|| older("snapshot", self.snapshot, offered.snapshot))
                .or_else(|| older("targets", self.targets, offered.targets));
            let mut roles = self.roles.iter().filter(|_| offered.targets == self.targets);
            top.or_else(|| roles.find_map(|(role, have)| older(role, *have, offered.roles.get(role).copied().unwrap_or(0))))
        })
    }

    /// The higher of two copies.
    fn or_later(self, other: Self) -> Self {
        if self.under.is_none() || (self.under == other.under && other.root > self.root) {
            return other;
        }
        if self.under != other.under || self.root != other.root {
            return self;
        }
        let roles = if other.targets > self.targets { other.roles } else { self.roles };
        Self {
            timestamp: self.timestamp.max(other.timestamp),
            snapshot: self.snapshot.max(other.snapshot),
            targets: self.targets.max(other.targets),
            director: self.director.max(other.director),
            roles,
            ..self
        }
    }
}

fn is_nothing(seen: &Seen) -> bool {
    *seen == Seen::default()
}

/// A release that failed under a generation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Failed {
    pub(super) manifest: Digest,
    pub(super) generation: Generation,
}

/// Failures that are remembered; only those of the present generation matter, the rest is for people.
const MAX_FAILED: usize = 16;

/// The durable state.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct State {
    /// Form: 1.
    pub(super) v: u32,
    /// Starts of the agent.
    pub(super) boot: BootId,
    /// The highest generation that was accepted as genuine.
    pub(super) generation: Generation,
    /// The latest signed moment that was accepted.
    #[serde(default)]
    pub(super) trusted_at: Option<Timestamp>,
    /// Per line, the lowest `seq` that may be installed; raised after commits.
    #[serde(default)]
    pub(super) floor: BTreeMap<Line, u64>,
    /// What lies where.
    #[serde(default)]
    pub(super) slots: Slots,
    /// How the present assignment ended, if it has.
    #[serde(default)]
    pub(super) outcome: Option<Outcome>,
    /// What failed.
    #[serde(default)]
    pub(super) failed: Vec<Failed>,
    /// Messages given up since enrolment.
    #[serde(default)]
    pub(super) dropped: u64,
    /// The versions of signed metadata.
    #[serde(default, skip_serializing_if = "is_nothing")]
    pub(super) seen: Seen,
}

/// In front of the document's text: its digest, so that rot is seen.
const HEAD: &str = "{\"sum\":\"";
const MIDDLE: &str = "\",\"state\":";

impl State {
    /// The bytes of a copy.
    pub(super) fn to_bytes(&self) -> Vec<u8> {
        let text = serde_json::to_string(self).unwrap_or_default();
        format!("{HEAD}{}{MIDDLE}{text}}}\n", Digest::of(text.as_bytes()).hex()).into_bytes()
    }

    /// Read a copy; none if it is not whole.
    pub(super) fn parse(bytes: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(bytes).ok()?.strip_prefix(HEAD)?;
        let (sum, text) = text.split_once(MIDDLE)?;
        let text = text.strip_suffix("}\n")?;
        if Digest::of(text.as_bytes()).hex() != sum {
            return None;
        }
        serde_json::from_str(text).ok().filter(|state: &Self| state.v == 1)
    }

    /// From the two copies: the first is newer if both are whole; the numbers are the highest of both,
    /// but for the trusted moment, which is taken back when the key behind it is.
    pub(super) fn restore(state: Option<&[u8]>, spare: Option<&[u8]>) -> (Self, bool) {
        let (first, second) = (state.and_then(Self::parse), spare.and_then(Self::parse));
        let damaged = (state.is_some() && first.is_none()) || (spare.is_some() && second.is_none());
        let (mut state, other) = match (first, second) {
            (Some(first), Some(second)) => (first, second),
            (Some(one), None) | (None, Some(one)) => (one.clone(), one),
            (None, None) => (Self { v: 1, ..Self::default() }, Self::default()),
        };
        if other.generation > state.generation {
            state.generation = other.generation;
            state.outcome = other.outcome;
        }
        state.boot = state.boot.max(other.boot);
        state.dropped = state.dropped.max(other.dropped);
        state.seen = state.seen.or_later(other.seen);
        for (line, floor) in other.floor {
            let mine = state.floor.entry(line).or_default();
            *mine = floor.max(*mine);
        }
        (state, damaged)
    }

    /// Remember a failure under the present generation.
    pub(super) fn note_failed(&mut self, manifest: Digest) {
        let failed = Failed { manifest, generation: self.generation };
        if !self.failed.contains(&failed) {
            self.failed.push(failed);
        }
        let surplus = self.failed.len().saturating_sub(MAX_FAILED);
        self.failed.drain(..surplus);
    }

    /// Did this release already fail under the present generation?
    pub(super) fn has_failed(&self, manifest: &Digest) -> bool {
        self.failed.iter().any(|failed| failed.manifest == *manifest && failed.generation == self.generation)
    }

    /// The floor of a line.
    pub(super) fn floor_of(&self, line: &Line) -> u64 {
        self.floor.get(line).copied().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_damaged_copy_is_seen_and_the_other_one_counts() {
        let old = State { v: 1, boot: BootId(3), generation: Generation(7), ..State::default() };
        let new = State { boot: BootId(4), floor: BTreeMap::from([("rain".parse().unwrap(), 9)]), ..old.clone() };
        let (old, new) = (old.to_bytes(), new.to_bytes());
        assert_eq!(State::restore(None, None), (State { v: 1, ..State::default() }, false));
        let (state, damaged) = State::restore(Some(&new), Some(&old));
        assert_eq!((state.boot, state.generation, damaged), (BootId(4), Generation(7), false));
        let (state, _) = State::restore(Some(&old), Some(&new));
        assert_eq!(state.boot, BootId(4), "numbers never go back, even if the copies were swapped");
        assert_eq!(state.floor_of(&"rain".parse().unwrap()), 9);
        for at in 0..new.len() {
            let mut rotten = new.clone();
            rotten[at] ^= 1;
            let (state, damaged) = State::restore(Some(&rotten), Some(&old));
            assert!(damaged, "byte {at}");
            assert_eq!(state.boot, BootId(3));
            assert!(State::parse(&new[..at]).is_none());
        }
    }

    #[test]
    fn versions_that_were_seen_bind_under_their_root_and_the_higher_copy_counts() {
        let roles = BTreeMap::from([("rain".to_owned(), 4)]);
        let seen =
            Seen { under: Some(Digest::of(b"root")), root: 2, timestamp: 9, snapshot: 8, targets: 3, roles: roles.clone(), director: 1 };
        let offer = |root, timestamp, snapshot, targets, role| {
            let roles = BTreeMap::from([("rain".to_owned(), role)]);
            seen.forbids(&Versions { root, timestamp, snapshot, targets, roles }).is_some()
        };
        for (offered, forbidden) in [
            (offer(2, 9, 8, 3, 4), false),
            (offer(2, 10, 8, 3, 4), false),
            (offer(2, 8, 8, 3, 4), true),
            (offer(2, 9, 7, 3, 4), true),
            (offer(2, 9, 8, 2, 4), true),
            (offer(2, 9, 8, 3, 3), true),
            (offer(2, 0, 0, 0, 0), false),
            (offer(2, 10, 9, 4, 1), false),
            (offer(1, 99, 99, 99, 99), true),
            (offer(3, 1, 1, 1, 1), false),
        ] {
            assert_eq!(offered, forbidden);
        }
        let with = |seen: &Seen| State { v: 1, seen: seen.clone(), ..State::default() }.to_bytes();
        let older = Seen { timestamp: 7, targets: 2, roles: BTreeMap::new(), ..seen.clone() };
        for (first, second) in [(&seen, &older), (&older, &seen)] {
            assert_eq!(State::restore(Some(&with(first)), Some(&with(second))).0.seen, seen);
        }
        let rotated = Seen { root: 3, timestamp: 1, ..seen.clone() };
        for (first, second) in [(&seen, &rotated), (&rotated, &seen)] {
            assert_eq!(State::restore(Some(&with(first)), Some(&with(second))).0.seen, rotated, "a later root takes versions back");
        }
    }

    #[test]
    fn failures_are_remembered_for_their_generation_and_bounded() {
        let mut state = State { v: 1, ..State::default() };
        for generation in 0..40 {
            state.generation = Generation(generation);
            assert!(!state.has_failed(&Digest::of(b"m")));
            state.note_failed(Digest::of(b"m"));
            state.note_failed(Digest::of(b"m"));
            assert!(state.has_failed(&Digest::of(b"m")));
        }
        assert_eq!(state.failed.len(), MAX_FAILED);
    }
}
