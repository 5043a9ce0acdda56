//! Who is next: a stage's draw, taken from either end without putting the fleet in order.
//!
//! The order is that of [`crate::fleet::bucket::order`]: by hash within each stratum (cohort, and the label to balance by), the strata interleaved
//! by relative rank. Sorting a million devices for each plan would take a second; so each leaf remembers which of its devices are
//! in which stratum and free to be told, the sorted hashes of a stratum (which say the rank) are kept as long as its members are
//! the same, and a draw of `n` merges streams that open leaves one device at a time. What stays true: what is drawn is what the
//! sorted order would give.
use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::sync::Arc;

use crate::fleet::bucket::Place;
use crate::fleet::census::Portion;
use crate::fleet::{About, Census, Device, Finding, Fleet};
use leeway_protocol::ids::{DeviceId, RolloutId};
use leeway_protocol::time::Timestamp;

/// The members of a stage in one part of the fleet, by stratum. Devices are looked at in the order of their leaf, so bit `n` of a
/// mask is its `n`th device; added up over several leaves, masks only say whether there is anyone.
#[derive(Debug, Clone, Default)]
pub(super) struct Pool {
    looked: u32,
    strata: Vec<Stratum>,
}

#[derive(Debug, Clone)]
struct Stratum {
    name: Arc<Name>,
    members: usize,
    /// Of the members' names: tells two memberships of one size apart.
    mark: u128,
    all: u64,
    free: u64,
    fit: u64,
}

/// Cohort, and the value of the label to balance by.
type Name = (u32, String);

/// What a stage sees in one of its members.
pub(super) struct Ticket<'d> {
    pub(super) cohort: u32,
    pub(super) label: &'d str,
    /// It may be told or held back now.
    pub(super) free: bool,
    /// It answers with the baseline, as a control should.
    pub(super) fit: bool,
}

impl Pool {
    /// Look at the next device of a leaf; `None` if it is not in the stage's scope.
    pub(super) fn look(&mut self, device: &Device, ticket: Option<Ticket<'_>>) {
        let bit = 1_u64.checked_shl(self.looked).unwrap_or(0);
        self.looked += 1;
        let Some(ticket) = ticket else { return };
        let stratum = self.stratum(ticket.cohort, ticket.label, || Arc::new((ticket.cohort, ticket.label.to_owned())));
        stratum.members += 1;
        stratum.mark = stratum.mark.wrapping_add(mark(&device.id));
        stratum.all |= bit;
        stratum.free |= if ticket.free { bit } else { 0 };
        stratum.fit |= if ticket.free && ticket.fit { bit } else { 0 };
    }

    fn stratum(&mut self, cohort: u32, label: &str, name: impl FnOnce() -> Arc<Name>) -> &mut Stratum {
        let at = match self.strata.binary_search_by(|known| (known.name.0, known.name.1.as_str()).cmp(&(cohort, label))) {
            Ok(at) => at,
            Err(at) => {
                self.strata.insert(at, Stratum { name: name(), members: 0, mark: 0, all: 0, free: 0, fit: 0 });
                at
            }
        };
        &mut self.strata[at]
    }
}

impl Finding for Pool {
    fn add(&mut self, other: &Self) {
        for from in &other.strata {
            let to = self.stratum(from.name.0, &from.name.1, || from.name.clone());
            to.members += from.members;
            to.mark = to.mark.wrapping_add(from.mark);
            (to.all, to.free, to.fit) = (to.all | from.all, to.free | from.free, to.fit | from.fit);
        }
    }
}

/// FNV-1a of a name, widened so that sums of a fleet do not wrap.
fn mark(id: &DeviceId) -> u128 {
    let hash = id.as_str().bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    u128::from(hash)
}

/// Which end of the order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// Canaries come from here.
    Front,
    /// Controls come from here.
    Back,
}

/// Which of the free ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Among {
    All,
    Fit,
    Unfit,
}

/// A device that was drawn.
#[derive(Debug, Clone, Copy)]
pub(super) struct Drawn<'d> {
    /// Its place in the whole order.
    place: Place<'d>,
    leaf: usize,
    at: usize,
    pub(super) name: &'d str,
}

impl Drawn<'_> {
    /// Whether it is among those marked.
    pub(super) fn is_in(&self, marks: &[u64]) -> bool {
        marks.get(self.leaf).is_some_and(|mark| mark & (1 << self.at) != 0)
    }
}

/// Of those drawn, at most so many for now, in the order of the draw. They are neighbours in the fleet: what a plan changes is counted
/// anew leaf by leaf, and 5,000 that lie anywhere among a million are in every third leaf.
pub(super) fn neighbours(mut drawn: Vec<Drawn<'_>>, most: usize) -> Vec<Drawn<'_>> {
    if drawn.len() > most {
        drawn.sort_unstable_by_key(|one| (one.leaf, one.at));
        drawn.truncate(most);
    }
    drawn.sort_unstable_by_key(|one| one.place);
    drawn
}

/// A stage's draw at one moment.
pub(super) struct Draw<'c> {
    leaves: Vec<(Portion<'c, Pool>, Arc<[u64]>)>,
    ranks: Arc<Ranks>,
}

/// The hashes of each stratum's members, in order.
type Ranks = BTreeMap<Arc<Name>, Vec<u64>>;

impl<'c> Draw<'c> {
    /// Begin. `census` asks for the stage's [`Pool`].
    pub(super) fn new<L>(fleet: &Fleet, census: &'c Census<Pool, L>, rollout: &RolloutId, now: Timestamp) -> Self
    where
        L: Fn(&Device, &mut Pool) -> Option<Timestamp>,
    {
        let salt: Arc<str> = Arc::from(rollout.as_str());
        let whole = census.total();
        let terms: Vec<_> = whole.strata.iter().map(|s| (&s.name, s.members, s.mark.to_string())).collect();
        let ranks = fleet.keep(About::new("ranks", rollout.as_str(), &terms), now, || {
            let mut ranks = Ranks::new();
            for portion in census.portions(|pool| !pool.strata.is_empty()) {
                let tickets = portion.tickets(&salt);
                for stratum in &portion.finding.strata {
                    ranks.entry(stratum.name.clone()).or_default().extend(bits(stratum.all).filter_map(|at| tickets.get(at)));
                }
            }
            ranks.values_mut().for_each(|hashes| hashes.sort_unstable());
            ranks
        });
        let free = census.portions(|pool| pool.strata.iter().any(|stratum| stratum.free != 0));
        let leaves = free
            .map(|portion| {
                let tickets = portion.tickets(&salt);
                (portion, tickets)
            })
            .collect();
        Self { leaves, ranks }
    }

    /// The first `count` devices from one end, without those to skip.
    pub(super) fn take<'a>(&'a self, end: End, among: Among, count: usize, skip: impl Fn(&Drawn<'a>) -> bool) -> Vec<Drawn<'a>> {
        let mut taken = Vec::new();
        if count == 0 {
            return taken;
        }
        let mut streams = self.streams(end, among);
        let mut heads: Vec<Option<Place<'a>>> = streams.iter().map(|stream| stream.head(self)).collect();
        while taken.len() < count {
            let known = heads.iter().enumerate().filter_map(|(n, head)| Some(((*head)?, n)));
            let next = match end {
                End::Front => known.min(),
                End::Back => known.max(),
            };
            let Some((place, n)) = next else { break };
            let (Some(stream), Some(head)) = (streams.get_mut(n), heads.get_mut(n)) else { break };
            let Some((leaf, at)) = stream.next(self) else { break };
            *head = stream.head(self);
            let Some(name) = self.name(leaf, at) else { break };
            let drawn = Drawn { place, leaf, at, name };
            if !skip(&drawn) {
                taken.push(drawn);
            }
        }
        taken
    }

    /// Those who were drawn, as they are.
    pub(super) fn devices(&self, drawn: &[Drawn<'_>]) -> Vec<Arc<Device>> {
        drawn.iter().filter_map(|one| self.leaves.get(one.leaf)?.0.device(one.at)).collect()
    }

    /// Who was drawn, one bit for each device of each leaf.
    pub(super) fn marks(&self, drawn: &[Drawn<'_>]) -> Vec<u64> {
        let mut marks = vec![0; self.leaves.len()];
        for one in drawn {
            if let Some(mark) = marks.get_mut(one.leaf) {
                *mark |= 1 << one.at;
            }
        }
        marks
    }

    fn streams(&self, end: End, among: Among) -> Vec<Stream<'_>> {
        let mut streams: BTreeMap<&Name, Stream<'_>> = BTreeMap::new();
        for (leaf, (portion, _)) in self.leaves.iter().enumerate() {
            for stratum in &portion.finding.strata {
                let mask = match among {
                    Among::All => stratum.free,
                    Among::Fit => stratum.fit,
                    Among::Unfit => stratum.free & !stratum.fit,
                };
                if mask != 0 {
                    let hashes = self.ranks.get(&stratum.name).map_or(&[][..], Vec::as_slice);
                    let fresh = || Stream { end, hashes, rows: Vec::new(), open: BinaryHeap::new() };
                    streams.entry(&stratum.name).or_insert_with(fresh).begin(self, leaf, mask);
                }
            }
        }
        streams.into_values().collect()
    }

    fn name(&self, leaf: usize, at: usize) -> Option<&str> {
        self.leaves.get(leaf)?.0.name(at)
    }
}

/// The free devices of one stratum, by hash from one end.
struct Stream<'d> {
    end: End,
    hashes: &'d [u64],
    /// Leaves, and who of them has not come yet.
    rows: Vec<(usize, u64)>,
    /// The next of each leaf: key, row, place in the leaf.
    open: BinaryHeap<Reverse<(u64, usize, usize)>>,
}

impl<'d> Stream<'d> {
    /// Hashes rise along the order, so keys rise away from the end.
    fn key(&self, hash: u64) -> u64 {
        if self.end == End::Front { hash } else { !hash }
    }

    fn begin(&mut self, draw: &Draw<'_>, leaf: usize, mask: u64) {
        self.rows.push((leaf, mask));
        self.open_next(draw, self.rows.len() - 1);
    }

    fn open_next(&mut self, draw: &Draw<'_>, row: usize) {
        let Some(&(leaf, mask)) = self.rows.get(row) else { return };
        let Some((_, tickets)) = draw.leaves.get(leaf) else { return };
        let next = bits(mask).filter_map(|at| Some((self.key(*tickets.get(at)?), at))).min();
        self.open.extend(next.map(|(key, at)| Reverse((key, row, at))));
    }

    /// The place of the next one in the whole order.
    fn head<'a>(&self, draw: &'a Draw<'_>) -> Option<Place<'a>> {
        let Reverse((key, row, at)) = *self.open.peek()?;
        let (leaf, _) = self.rows.get(row)?;
        Some(Place::new(self.hashes, self.key(key), draw.name(*leaf, at)?))
    }

    /// Leaf, and place in it.
    fn next(&mut self, draw: &Draw<'_>) -> Option<(usize, usize)> {
        let Reverse((_, row, at)) = self.open.pop()?;
        let (leaf, mask) = self.rows.get_mut(row)?;
        *mask &= !(1 << at);
        let leaf = *leaf;
        self.open_next(draw, row);
        Some((leaf, at))
    }
}

/// The places of the bits that are set.
fn bits(mut mask: u64) -> impl Iterator<Item = usize> {
    std::iter::from_fn(move || {
        let at = mask.trailing_zeros() as usize;
        (mask != 0).then(|| {
            mask &= mask - 1;
            at
        })
    })
}

#[cfg(test)]
mod tests;
