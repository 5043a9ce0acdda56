//! How much memory a runner may have: what it has when it starts, and for each model what was signed and what loading takes.
//!
//! The bound is on private writable memory (`RLIMIT_DATA`), which is what a model that grows uses up; the bound on addresses
//! (`RLIMIT_AS`) lies above it, for kernels that count only the heap, and leaves room for what allocators reserve and never
//! touch. A model that wants more is refused memory, which ends the runner: one restart of the child, and the device lives.
//!
//! What stays true: the bound is set after the manifest was read and before the model is; it only grows with models that are
//! let in, and never beyond what was signed for three slots. A runner that is thrown away cannot raise it again; code that took over a
//! serving one could, up to the limits it was started with, so the service manager's own bound stays worth setting.
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use leeway_protocol::manifest::Manifest;
use rlimit::Resource;

use crate::control::Slot;

/// For the runner's own work besides models: threads' stacks, and the bodies of requests that are read at once, of which the server
/// bounds the sum to a quarter of this; as text, as numbers and as tensors.
const ROOM: u64 = 256 << 20;
/// Addresses that allocators reserve without using them: 64 MB for each of some threads, and the same again for a moment.
const RESERVED: u64 = 2 << 30;
/// If the system does not say how much is used at the start.
const UNKNOWN_START: u64 = 64 << 20;

/// The bound of this process; clones share it.
#[derive(Debug, Clone)]
pub(crate) struct Memory(Arc<Mutex<Bound>>);

#[derive(Debug)]
struct Bound {
    data: u64,
    addresses: u64,
    slots: BTreeMap<Slot, u64>,
    /// Whether the bound is for good.
    last: bool,
}

impl Memory {
    /// What this process uses now, and nothing yet for models. With `last`, one model is let in and no other.
    pub(crate) fn of_process(last: bool) -> Self {
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let used = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            line.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok()).map_or(UNKNOWN_START, |kilobytes| kilobytes << 10)
        };
        Self(Arc::new(Mutex::new(Bound { data: used("VmData:"), addresses: used("VmSize:"), slots: BTreeMap::new(), last })))
    }

    /// Let a model into a slot: from now on the process may use what was signed for it, and a quarter more.
    pub(crate) fn admit(&self, slot: Slot, manifest: &Manifest) -> std::io::Result<()> {
        self.allow(slot, needs(manifest.limits.rss_bytes, manifest.model.length))
    }

    /// Let `bytes` be used for a slot, besides what it may use already.
    pub(crate) fn allow(&self, slot: Slot, bytes: u64) -> std::io::Result<()> {
        let mut bound = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let share = bound.slots.entry(slot).or_default();
        *share = bytes.max(*share);
        let models = bound.slots.values().fold(ROOM, |sum, bytes| sum.saturating_add(*bytes));
        set(Resource::DATA, bound.data.saturating_add(models), bound.last)?;
        set(Resource::AS, bound.addresses.saturating_add(models).saturating_add(RESERVED), bound.last)
    }
}

/// What a model may use: its signed limit and a quarter more, and while it is loaded its file as bytes and as a decoded message.
fn needs(rss_bytes: u64, length: u64) -> u64 {
    (rss_bytes / 4).saturating_add(rss_bytes).saturating_add(length.saturating_mul(2))
}

fn set(resource: Resource, most: u64, last: bool) -> std::io::Result<()> {
    let hard = resource.get_hard()?;
    let most = most.min(hard);
    resource.set(most, if last { most } else { hard })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_signed_and_a_quarter_more() {
        assert_eq!(needs(400 << 20, 0), 500 << 20);
        assert_eq!(needs(4 << 20, 10 << 20), 25 << 20);
        assert_eq!(needs(u64::MAX, u64::MAX), u64::MAX);
    }
}
