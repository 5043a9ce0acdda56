//! The fleet: devices, the cohorts they form, and who is picked first.
//!
//! Devices are kept in [`SHARDS`] shared maps, so that taking a snapshot is copying [`SHARDS`] pointers, and a device that
//! changes while a snapshot is out copies one shard of pointers and not the fleet. A hash picks the shard: it only has to spread.
//! What stays true: iteration order depends on nothing but the devices' names.
use std::collections::BTreeMap;
use std::sync::Arc;

use leeway_protocol::ids::DeviceId;

pub mod admission;
pub mod bucket;
pub mod cohort;
pub mod contact;
pub mod device;
pub mod selector;

pub use admission::{Admission, Certificate};
pub use cohort::{CohortDoc, cohort_of};
pub use contact::Contact;
pub use device::{Arm, DesiredRecord, Device, DeviceSettings, Part, Presence, RunInterval};
pub use selector::{Selector, SelectorError};

/// Shared maps: 256 pointers are cheap to copy each tick, and at 100,000 devices one shard holds about 400.
pub const SHARDS: usize = 256;

/// Every enrolled device.
#[derive(Debug, Clone, PartialEq)]
pub struct Fleet {
    shards: Vec<Arc<BTreeMap<DeviceId, Arc<Device>>>>,
    len: usize,
}

impl Default for Fleet {
    fn default() -> Self {
        Self { shards: vec![Arc::default(); SHARDS], len: 0 }
    }
}

impl Fleet {
    /// One device.
    pub fn device(&self, id: &DeviceId) -> Option<&Arc<Device>> {
        self.shards.get(shard(id))?.get(id)
    }

    /// One device, to change; shared parts are copied first.
    pub fn device_mut(&mut self, id: &DeviceId) -> Option<&mut Device> {
        let shard = self.shards.get_mut(shard(id))?;
        if !shard.contains_key(id) {
            return None;
        }
        Arc::make_mut(shard).get_mut(id).map(Arc::make_mut)
    }

    /// Add or replace a device.
    pub fn insert(&mut self, device: Device) {
        if let Some(shard) = self.shards.get_mut(shard(&device.id)) {
            let before = Arc::make_mut(shard).insert(device.id.clone(), Arc::new(device));
            self.len += usize::from(before.is_none());
        }
    }

    /// Forget a device.
    pub fn remove(&mut self, id: &DeviceId) -> Option<Arc<Device>> {
        let removed = self.shards.get_mut(shard(id)).and_then(|shard| Arc::make_mut(shard).remove(id));
        self.len -= usize::from(removed.is_some());
        removed
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Every device, in an order that depends on the names only (by shard, then by name).
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Device>> {
        self.shards.iter().flat_map(|shard| shard.values())
    }

    /// Every device by name; sorts, so for pages and not for every tick.
    pub fn sorted(&self) -> Vec<&Arc<Device>> {
        let mut all: Vec<_> = self.iter().collect();
        all.sort_by(|a, b| a.id.cmp(&b.id));
        all
    }
}

/// FNV-1a: spreads names over shards; nothing depends on its being hard to predict.
fn shard(id: &DeviceId) -> usize {
    let hash = id.as_str().bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    (hash % SHARDS as u64) as usize
}
