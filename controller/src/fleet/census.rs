//! Counting the fleet without walking it: each node of the tree remembers what was found in it.
//!
//! A question is a pure function that looks at one device and adds to a [`Finding`]; findings of parts add up to that of the whole.
//! A node notes its finding under the question ([`About`]) and forgets it when a device in it changes, so asking again looks at the
//! leaves that changed and adds up the rest. What time alone changes is part of the answer: looking at a device says until when
//! what was seen holds, and a note that has run out is not used. The alternative, counters that are raised and lowered by whoever
//! changes a device, is faster still and drifts from the truth with the first place that forgets to; here there is nothing to forget.
//!
//! What stays true: with or without notes the answers are the same; notes are never written down, and copies of a node that is about to change begin with none.
use std::any::Any;
use std::marker::PhantomData;
use std::sync::{Arc, Mutex, PoisonError};

use leeway_protocol::digest::Digest;
use leeway_protocol::time::Timestamp;
use serde::Serialize;

use super::bucket::bucket;
use super::device::Device;
use super::{Fleet, Group, Leaf};

/// Questions a node remembers, the latest asked: some five for each model line.
const MAX_NOTES: usize = 64;

/// What is counted; starts at nothing, and adds up in any grouping.
pub trait Finding: Default + Send + Sync + 'static {
    /// Add what another part has, which comes after this one.
    fn add(&mut self, other: &Self);
}

/// Which question: what is asked, and everything the answer depends on besides the devices and the time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct About {
    subject: u128,
    terms: u128,
}

impl About {
    /// The question `kind` on `subject`; of the answers under different `terms` only the latest is remembered. `None`, which is
    /// never remembered, if the terms have no JSON form.
    pub fn new(kind: &str, subject: &str, terms: &impl Serialize) -> Option<Self> {
        let short = |digest: Digest| digest.as_bytes().iter().take(16).fold(0, |n, byte| (n << 8) | u128::from(*byte));
        let subject = short(Digest::of(format!("{kind}/{subject}").as_bytes()));
        let terms = serde_json::to_vec(terms).ok()?;
        Some(Self { subject, terms: short(Digest::of(&terms)) })
    }
}

/// What a node remembers.
#[derive(Default)]
pub(super) struct Memo(Mutex<Vec<Note>>);

struct Note {
    about: About,
    from: Timestamp,
    until: Option<Timestamp>,
    finding: Arc<dyn Any + Send + Sync>,
}

/// What was found, and when time alone will change it.
struct Found<F> {
    finding: Arc<F>,
    until: Option<Timestamp>,
}

impl Memo {
    pub(super) fn forget(&mut self) {
        self.0.get_mut().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// What is noted, or what `count` finds.
    fn recall<F: Send + Sync + 'static>(&self, about: Option<About>, now: Timestamp, count: impl FnOnce() -> Found<F>) -> Found<F> {
        let Some(about) = about else { return count() };
        {
            let mut notes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(at) = notes.iter().position(|note| note.about.subject == about.subject) {
                let note = notes.remove(at);
                let holds = note.about == about && note.from <= now && note.until.is_none_or(|until| now < until);
                if let (true, Ok(finding)) = (holds, Arc::clone(&note.finding).downcast::<F>()) {
                    let until = note.until;
                    notes.push(note);
                    return Found { finding, until };
                }
            }
        }
        let found = count();
        let mut notes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if notes.len() == MAX_NOTES {
            notes.remove(0);
        }
        notes.push(Note { about, from: now, until: found.until, finding: found.finding.clone() });
        found
    }
}

impl Fleet {
    /// Something made from the whole fleet, kept as long as `about` says the same. All copies of a fleet share what is kept, so
    /// `about` must name everything it is made from.
    pub fn keep<T: Send + Sync + 'static>(&self, about: Option<About>, now: Timestamp, make: impl FnOnce() -> T) -> Arc<T> {
        self.kept.recall(about, now, || Found { finding: Arc::new(make()), until: None }).finding
    }
}

impl Clone for Memo {
    fn clone(&self) -> Self {
        Self::default()
    }
}

impl std::fmt::Debug for Memo {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Memo")
    }
}

/// A rollout's draw over the devices of a leaf, in the leaf's order; of the rollout that asked last.
#[derive(Default)]
pub(super) struct Tickets(Mutex<Option<Salted>>);

type Salted = (Arc<str>, Arc<[u64]>);

impl Tickets {
    fn of(&self, salt: &Arc<str>, devices: &[Arc<Device>]) -> Arc<[u64]> {
        let mut noted = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((of, tickets)) = noted.as_ref()
            && of == salt
        {
            return tickets.clone();
        }
        let tickets: Arc<[u64]> = devices.iter().map(|device| bucket(salt, device.id.as_str())).collect();
        *noted = Some((salt.clone(), tickets.clone()));
        tickets
    }
}

impl Clone for Tickets {
    fn clone(&self) -> Self {
        Self(Mutex::new(self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()))
    }
}

impl std::fmt::Debug for Tickets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Tickets")
    }
}

/// A question to a fleet at one moment.
pub struct Census<F, L> {
    fleet: Fleet,
    about: Option<About>,
    now: Timestamp,
    look: L,
    finding: PhantomData<fn() -> F>,
}

/// Some devices and what was found among them.
pub struct Portion<'c, F> {
    /// Neighbours by name.
    pub devices: &'c [Arc<Device>],
    /// What was found.
    pub finding: Arc<F>,
    leaf: &'c Leaf,
}

impl<F> Portion<'_, F> {
    /// The place of each of the devices in a draw.
    pub fn tickets(&self, salt: &Arc<str>) -> Arc<[u64]> {
        self.leaf.tickets.of(salt, &self.leaf.devices)
    }
}

impl<F: Finding, L: Fn(&Device, &mut F) -> Option<Timestamp>> Census<F, L> {
    /// Ask. `look` adds one device to a finding and says when time alone will change what it adds, if ever; what it does may
    /// depend on the device, on `now` and on what `about` was made from, and on nothing else.
    pub fn new(fleet: &Fleet, about: Option<About>, now: Timestamp, look: L) -> Self {
        Self { fleet: fleet.clone(), about, now, look, finding: PhantomData }
    }

    /// What is found in the whole fleet.
    pub fn total(&self) -> F {
        let mut total = F::default();
        self.fleet.groups.iter().filter(|group| !group.leaves.is_empty()).for_each(|group| total.add(&self.in_group(group).finding));
        total
    }

    /// Every part in which something `wanted` is found, in the fleet's order.
    pub fn portions<'c>(&'c self, wanted: impl Fn(&F) -> bool + Copy + 'c) -> impl Iterator<Item = Portion<'c, F>> {
        let groups = self.fleet.groups.iter().filter(move |group| !group.leaves.is_empty() && wanted(&self.in_group(group).finding));
        groups.flat_map(|group| &group.leaves).filter_map(move |leaf| {
            let finding = self.in_leaf(leaf).finding;
            wanted(&finding).then_some(Portion { devices: &leaf.devices, finding, leaf })
        })
    }

    /// Every device of these parts; whether it is itself wanted is for the caller to see.
    pub fn devices<'c>(&'c self, wanted: impl Fn(&F) -> bool + Copy + 'c) -> impl Iterator<Item = &'c Arc<Device>> {
        self.portions(wanted).flat_map(|portion| portion.devices)
    }

    fn in_group(&self, group: &Group) -> Found<F> {
        group.memo.recall(self.about, self.now, || {
            let (mut finding, mut until) = (F::default(), None);
            for leaf in &group.leaves {
                let found = self.in_leaf(leaf);
                finding.add(&found.finding);
                until = sooner(until, found.until);
            }
            Found { finding: Arc::new(finding), until }
        })
    }

    fn in_leaf(&self, leaf: &Leaf) -> Found<F> {
        leaf.memo.recall(self.about, self.now, || {
            let (mut finding, mut until) = (F::default(), None);
            for device in &leaf.devices {
                until = sooner(until, (self.look)(device, &mut finding));
            }
            Found { finding: Arc::new(finding), until }
        })
    }
}

/// The earlier of two moments that may never come.
pub fn sooner(a: Option<Timestamp>, b: Option<Timestamp>) -> Option<Timestamp> {
    a.into_iter().chain(b).min()
}

/// Findings for each cohort, by its number in [`super::Homes`].
#[derive(Debug, Clone)]
pub struct ByCohort<T>(Vec<(u32, T)>);

impl<T> Default for ByCohort<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T: Default> ByCohort<T> {
    /// What was found in one.
    pub fn of(&self, cohort: u32) -> Option<&T> {
        self.0.binary_search_by_key(&cohort, |(n, _)| *n).ok().and_then(|at| self.0.get(at)).map(|(_, found)| found)
    }

    /// What is found in one, to add to.
    pub fn entry(&mut self, cohort: u32) -> &mut T {
        let at = match self.0.binary_search_by_key(&cohort, |(n, _)| *n) {
            Ok(at) => at,
            Err(at) => {
                self.0.insert(at, (cohort, T::default()));
                at
            }
        };
        &mut self.0[at].1
    }

    /// Each, by number.
    pub fn iter(&self) -> impl Iterator<Item = (u32, &T)> {
        self.0.iter().map(|(cohort, found)| (*cohort, found))
    }
}

impl<T: Finding> Finding for ByCohort<T> {
    fn add(&mut self, other: &Self) {
        for (cohort, found) in other.iter() {
            self.entry(cohort).add(found);
        }
    }
}

impl Finding for usize {
    fn add(&mut self, other: &Self) {
        *self += other;
    }
}
