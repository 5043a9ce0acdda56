//! The fleet: devices, the cohorts they form, and who is picked first.
//!
//! Devices hang in a tree of shared nodes: a root of [`GROUPS`] groups, each a row of leaves with at most [`MAX_LEAF`] devices. So
//! taking a snapshot is copying one pointer, and a device that changes while a snapshot is out copies its leaf, its group and the
//! root, and not the fleet. A hash picks the group: it only has to spread. Each node may remember what was counted in it
//! ([`census`]) and forgets it when it changes, so counting the fleet again costs what changed in it. In a leaf lie the devices'
//! documents, packed one after the other ([`packed`]); who asks for a device gets a copy of its own, and what is changed in a
//! [`DeviceMut`] is packed again when that is dropped.
//!
//! What stays true: iteration order depends on nothing but the devices' names; what a node remembers is what counting it anew gives.
use std::ops::{Deref, DerefMut};
use std::sync::Arc;

use leeway_protocol::ids::DeviceId;
use leeway_protocol::time::Timestamp;

pub mod admission;
pub mod bucket;
pub mod census;
pub mod cohort;
pub mod contact;
pub mod device;
mod leaf;
mod packed;
pub mod preview;
pub mod selector;

pub use admission::{Admission, Certificate};
pub use census::{About, ByCohort, Census, Finding};
pub use cohort::{CohortDoc, Homes, cohort_of};
pub use contact::Contact;
pub use device::{Arm, DesiredRecord, Device, DeviceSettings, Part, Presence, RunInterval};
pub use selector::{Selector, SelectorError};

use census::{Memo, Tickets};
use leaf::Leaf;
use packed::Words;

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
    /// What devices have in common; shared by its copies.
    words: Arc<Words>,
}

/// Devices whose names have one hash, by name, in leaves that are never empty.
#[derive(Debug, Clone, Default)]
struct Group {
    leaves: Vec<Arc<Leaf>>,
    memo: Memo,
}

impl Default for Fleet {
    fn default() -> Self {
        Self { groups: Arc::new(vec![Arc::default(); GROUPS]), len: 0, kept: Arc::default(), words: Arc::default() }
    }
}

impl PartialEq for Fleet {
    fn eq(&self, other: &Self) -> bool {
        self.len == other.len && self.iter().eq(other.iter())
    }
}

impl Fleet {
    /// One device.
    pub fn device(&self, id: &DeviceId) -> Option<Arc<Device>> {
        let group = self.groups.get(group(id))?;
        let leaf = group.leaves.get(group.leaf(id))?;
        leaf.device(leaf.place(id).ok()?, &self.words)
    }

    /// One device, to change; shared parts are copied first. Its name stays as it is.
    pub fn device_mut(&mut self, id: &DeviceId) -> Option<DeviceMut<'_>> {
        let place = group(id);
        let found = self.groups.get(place)?;
        let leaf = found.leaf(id);
        let at = found.leaves.get(leaf)?.place(id).ok()?;
        let words = self.words.clone();
        let leaf = Arc::make_mut(self.group_mut(place)?.leaves.get_mut(leaf)?);
        leaf.memo.forget();
        let device = leaf.device(at, &words)?;
        Some(DeviceMut { device: Arc::unwrap_or_clone(device), leaf, at, words })
    }

    /// A device was heard of; whether it is there. Far cheaper than [`Fleet::device_mut`], and every message does it. Of a device that is
    /// connected planning does not see when that was, so nothing is counted anew.
    pub fn touch(&mut self, id: &DeviceId, at: Timestamp) -> bool {
        let place = group(id);
        let find = |group: &Group| {
            let leaf = group.leaf(id);
            Some((leaf, group.leaves.get(leaf)?.place(id).ok()?))
        };
        let Some((leaf, row)) = self.groups.get(place).and_then(|group| find(group)) else { return false };
        let words = self.words.clone();
        let Some(group) = Arc::make_mut(&mut self.groups).get_mut(place).map(Arc::make_mut) else { return false };
        let Some(leaf) = group.leaves.get_mut(leaf).map(Arc::make_mut) else { return false };
        if !leaf.touch(row, at, &words) {
            leaf.memo.forget();
            group.memo.forget();
        }
        true
    }

    /// Add or replace a device.
    pub fn insert(&mut self, device: Device) {
        let words = self.words.clone();
        let added = self.group_mut(group(&device.id)).is_some_and(|group| group.insert(device, &words));
        self.len += usize::from(added);
    }

    /// Forget a device.
    pub fn remove(&mut self, id: &DeviceId) -> Option<Arc<Device>> {
        let device = self.device(id)?;
        let removed = self.group_mut(group(id)).is_some_and(|group| group.remove(id));
        self.len -= usize::from(removed);
        Some(device)
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
    pub fn iter(&self) -> impl Iterator<Item = Arc<Device>> {
        self.groups.iter().flat_map(|group| &group.leaves).flat_map(|leaf| leaf.devices(&self.words))
    }

    /// Every device by name; sorts, so for pages and not for every tick.
    pub fn sorted(&self) -> Vec<Arc<Device>> {
        let mut all: Vec<_> = self.iter().collect();
        all.sort_by(|a, b| a.id.cmp(&b.id));
        all
    }
}

/// A device to change; packed again when it is dropped.
pub struct DeviceMut<'f> {
    device: Device,
    leaf: &'f mut Leaf,
    at: usize,
    words: Arc<Words>,
}

impl Deref for DeviceMut<'_> {
    type Target = Device;
    fn deref(&self) -> &Device {
        &self.device
    }
}

impl DerefMut for DeviceMut<'_> {
    fn deref_mut(&mut self) -> &mut Device {
        &mut self.device
    }
}

impl Drop for DeviceMut<'_> {
    fn drop(&mut self) {
        self.leaf.put(self.at..self.at + 1, std::slice::from_ref(&self.device), &self.words);
    }
}

impl Group {
    /// The leaf in which a device of this name belongs.
    fn leaf(&self, id: &DeviceId) -> usize {
        self.leaves.partition_point(|leaf| leaf.name(0).is_some_and(|first| first <= id.as_str())).saturating_sub(1)
    }

    /// Whether it is a new one.
    fn insert(&mut self, device: Device, words: &Words) -> bool {
        let at = self.leaf(&device.id);
        let last = at + 1 == self.leaves.len();
        let Some(leaf) = self.leaves.get_mut(at) else {
            self.leaves.push(Arc::default());
            return self.insert(device, words);
        };
        let leaf = Arc::make_mut(leaf);
        leaf.memo.forget();
        let place = match leaf.place(&device.id) {
            Ok(known) => {
                leaf.put(known..known + 1, &[device], words);
                return false;
            }
            Err(place) => place,
        };
        leaf.tickets = Tickets::default();
        if leaf.len() < MAX_LEAF {
            leaf.put(place..place, &[device], words);
            return true;
        }
        // In ascending order, as a store gives them, leaves are filled; otherwise the fuller half makes room.
        let from = if last && place == MAX_LEAF { MAX_LEAF } else { MAX_LEAF / 2 };
        let mut rest = leaf.split_off(from);
        if place > from || from == MAX_LEAF {
            rest.put(place - from..place - from, &[device], words);
        } else {
            leaf.put(place..place, &[device], words);
        }
        self.leaves.insert(at + 1, Arc::new(rest));
        true
    }

    fn remove(&mut self, id: &DeviceId) -> bool {
        let at = self.leaf(id);
        let Some(leaf) = self.leaves.get_mut(at).map(Arc::make_mut) else { return false };
        let Ok(place) = leaf.place(id) else { return false };
        leaf.put(place..place + 1, &[], &Words::default());
        leaf.memo.forget();
        leaf.tickets = Tickets::default();
        if leaf.len() == 0 {
            self.leaves.remove(at);
        }
        true
    }
}

/// FNV-1a: spreads names over groups; nothing depends on its being hard to predict.
fn group(id: &DeviceId) -> usize {
    let hash = id.as_str().bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    (hash % GROUPS as u64) as usize
}

#[cfg(test)]
mod tests;
