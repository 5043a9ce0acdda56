//! The fleet: devices, the cohorts they form, and who is picked first.
//!
//! Devices hang in a tree of shared nodes: a root of [`GROUPS`] groups, each a row of leaves with at most [`MAX_LEAF`] devices. So
//! taking a snapshot is copying one pointer, and a device that changes while a snapshot is out copies its leaf, its group and the
//! root, and not the fleet. A hash picks the group: it only has to spread. Each node may remember what was counted in it
//! ([`census`]) and forgets it when it changes, so counting the fleet again costs what changed in it.
//!
//! What stays true: iteration order depends on nothing but the devices' names; what a node remembers is what counting it anew gives.
use std::sync::Arc;

use leeway_protocol::ids::DeviceId;

pub mod admission;
pub mod bucket;
pub mod census;
pub mod cohort;
pub mod device;
pub mod preview;
pub mod selector;

pub use admission::{Admission, Certificate};
pub use census::{About, ByCohort, Census, Finding};
pub use cohort::{CohortDoc, Homes, cohort_of};
pub use device::{Arm, DesiredRecord, Device, DeviceSettings, Part, Presence, RunInterval};
pub use selector::{Selector, SelectorError};

use census::{Memo, Tickets};

/// Groups under the root: at a million devices each has some 60 leaves, and going through all groups takes microseconds.
pub const GROUPS: usize = 256;
/// Devices in a leaf: what is counted anew when one of them changes.
pub const MAX_LEAF: usize = 64;

/// Every enrolled device.
#[derive(Debug, Clone)]
pub struct Fleet {
    groups: Arc<Vec<Arc<Group>>>,
    len: usize,
    /// What was made from the whole fleet; shared by its copies.
    kept: Arc<Memo>,
}

/// Devices whose names have one hash, by name, in leaves that are never empty.
#[derive(Debug, Clone, Default)]
struct Group {
    leaves: Vec<Arc<Leaf>>,
    memo: Memo,
}

/// Neighbours by name.
#[derive(Debug, Clone, Default)]
struct Leaf {
    devices: Vec<Arc<Device>>,
    memo: Memo,
    /// Depends on the names alone, so it outlives changes of the devices.
    tickets: Tickets,
}

impl Default for Fleet {
    fn default() -> Self {
        Self { groups: Arc::new(vec![Arc::default(); GROUPS]), len: 0, kept: Arc::default() }
    }
}

impl PartialEq for Fleet {
    fn eq(&self, other: &Self) -> bool {
        self.len == other.len && self.iter().eq(other.iter())
    }
}

impl Fleet {
    /// One device.
    pub fn device(&self, id: &DeviceId) -> Option<&Arc<Device>> {
        let group = self.groups.get(group(id))?;
        let leaf = group.leaves.get(group.leaf(id))?;
        leaf.devices.get(leaf.place(id).ok()?)
    }

    /// One device, to change; shared parts are copied first. Its name stays as it is.
    pub fn device_mut(&mut self, id: &DeviceId) -> Option<&mut Device> {
        let place = group(id);
        let found = self.groups.get(place)?;
        let leaf = found.leaf(id);
        let at = found.leaves.get(leaf)?.place(id).ok()?;
        let group = self.group_mut(place)?;
        let leaf = Arc::make_mut(group.leaves.get_mut(leaf)?);
        leaf.memo.forget();
        leaf.devices.get_mut(at).map(Arc::make_mut)
    }

    /// Add or replace a device.
    pub fn insert(&mut self, device: Device) {
        let place = group(&device.id);
        let added = self.group_mut(place).is_some_and(|group| group.insert(Arc::new(device)));
        self.len += usize::from(added);
    }

    /// Forget a device.
    pub fn remove(&mut self, id: &DeviceId) -> Option<Arc<Device>> {
        self.device(id)?;
        let removed = self.group_mut(group(id))?.remove(id);
        self.len -= usize::from(removed.is_some());
        removed
    }

    /// A group to change.
    fn group_mut(&mut self, place: usize) -> Option<&mut Group> {
        let group = Arc::make_mut(Arc::make_mut(&mut self.groups).get_mut(place)?);
        group.memo.forget();
        Some(group)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Every device, in an order that depends on the names only (by group, then by name).
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Device>> {
        self.groups.iter().flat_map(|group| &group.leaves).flat_map(|leaf| &leaf.devices)
    }

    /// Every device by name; sorts, so for pages and not for every tick.
    pub fn sorted(&self) -> Vec<&Arc<Device>> {
        let mut all: Vec<_> = self.iter().collect();
        all.sort_by(|a, b| a.id.cmp(&b.id));
        all
    }
}

impl Group {
    /// The leaf in which a device of this name belongs.
    fn leaf(&self, id: &DeviceId) -> usize {
        let begins = |leaf: &Arc<Leaf>| leaf.devices.first().is_some_and(|first| first.id <= *id);
        self.leaves.partition_point(begins).saturating_sub(1)
    }

    /// Whether it is a new one.
    fn insert(&mut self, device: Arc<Device>) -> bool {
        let at = self.leaf(&device.id);
        let last = at + 1 == self.leaves.len();
        let Some(leaf) = self.leaves.get_mut(at) else {
            self.leaves.push(Arc::new(Leaf { devices: vec![device], ..Leaf::default() }));
            return true;
        };
        let leaf = Arc::make_mut(leaf);
        leaf.memo.forget();
        let place = match leaf.place(&device.id) {
            Ok(known) => {
                if let Some(place) = leaf.devices.get_mut(known) {
                    *place = device;
                }
                return false;
            }
            Err(place) => place,
        };
        leaf.tickets = Tickets::default();
        if leaf.devices.len() < MAX_LEAF {
            leaf.devices.insert(place, device);
            return true;
        }
        // In ascending order, as a store gives them, leaves are filled; otherwise the fuller half makes room.
        let mut rest = if last && place == MAX_LEAF { Vec::new() } else { leaf.devices.split_off(MAX_LEAF / 2) };
        if rest.is_empty() || place > leaf.devices.len() {
            rest.insert(place - leaf.devices.len(), device);
        } else {
            leaf.devices.insert(place, device);
        }
        self.leaves.insert(at + 1, Arc::new(Leaf { devices: rest, ..Leaf::default() }));
        true
    }

    fn remove(&mut self, id: &DeviceId) -> Option<Arc<Device>> {
        let at = self.leaf(id);
        let leaf = Arc::make_mut(self.leaves.get_mut(at)?);
        let place = leaf.place(id).ok()?;
        let removed = leaf.devices.remove(place);
        leaf.memo.forget();
        leaf.tickets = Tickets::default();
        if leaf.devices.is_empty() {
            self.leaves.remove(at);
        }
        Some(removed)
    }
}

impl Leaf {
    fn place(&self, id: &DeviceId) -> Result<usize, usize> {
        self.devices.binary_search_by(|device| device.id.cmp(id))
    }
}

/// FNV-1a: spreads names over groups; nothing depends on its being hard to predict.
fn group(id: &DeviceId) -> usize {
    let hash = id.as_str().bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    (hash % GROUPS as u64) as usize
}

#[cfg(test)]
mod tests;
