//! Neighbours by name, packed one after the other into one piece of memory.
//!
//! A piece each would cost a third more. What stays true: names rise; `ends` rises and has one entry for each device.
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use leeway_protocol::ids::DeviceId;
use leeway_protocol::time::Timestamp;

use super::census::{Memo, Tickets};
use super::device::Device;
use super::packed::{self, Words};

/// Devices whose names are neighbours.
#[derive(Debug, Clone, Default)]
pub(super) struct Leaf {
    /// Of each device its name's length, its name, and the rest packed.
    bytes: Box<[u8]>,
    /// Where each ends.
    ends: Box<[u32]>,
    /// Devices that packing does not bring back as they were; nothing is packed for them but the name.
    whole: BTreeMap<DeviceId, Arc<Device>>,
    pub(super) memo: Memo,
    /// Depends on the names alone, so it outlives changes of the devices.
    pub(super) tickets: Tickets,
}

impl Leaf {
    pub(super) fn len(&self) -> usize {
        self.ends.len()
    }

    /// Where a device is, or would be.
    pub(super) fn place(&self, id: &DeviceId) -> Result<usize, usize> {
        let (mut low, mut high) = (0, self.len());
        while low < high {
            let middle = usize::midpoint(low, high);
            match self.name(middle).cmp(&Some(id.as_str())) {
                std::cmp::Ordering::Equal => return Ok(middle),
                std::cmp::Ordering::Less => low = middle + 1,
                std::cmp::Ordering::Greater => high = middle,
            }
        }
        Err(low)
    }

    /// Where the devices from `at` on begin.
    fn start(&self, at: usize) -> usize {
        at.checked_sub(1).and_then(|before| self.ends.get(before)).map_or(0, |end| *end as usize)
    }

    /// A device's name and the rest.
    fn row(&self, at: usize) -> Option<(&str, &[u8])> {
        let row = self.bytes.get(self.start(at)..*self.ends.get(at)? as usize)?;
        let (length, row) = row.split_first()?;
        let (name, rest) = row.split_at_checked(usize::from(*length))?;
        Some((std::str::from_utf8(name).ok()?, rest))
    }

    /// A device's name.
    pub(super) fn name(&self, at: usize) -> Option<&str> {
        self.row(at).map(|(name, _)| name)
    }

    /// Every name.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        (0..self.len()).filter_map(|at| self.name(at))
    }

    /// A device.
    pub(super) fn device(&self, at: usize, words: &Words) -> Option<Arc<Device>> {
        let (name, rest) = self.row(at)?;
        let id: DeviceId = name.parse().ok()?;
        if rest.is_empty() {
            return self.whole.get(&id).cloned();
        }
        packed::unpack(&id, rest, words).map(Arc::new)
    }

    /// Every device.
    pub(super) fn devices<'a>(&'a self, words: &'a Words) -> impl Iterator<Item = Arc<Device>> + 'a {
        (0..self.len()).filter_map(|at| self.device(at, words))
    }

    /// Show each device as far as planning looks.
    pub(super) fn glance(&self, words: &Words, mut look: impl FnMut(usize, &Device)) {
        for at in 0..self.len() {
            let Some((name, rest)) = self.row(at) else { continue };
            let Ok(id) = name.parse::<DeviceId>() else { continue };
            match self.whole.get(&id).filter(|_| rest.is_empty()) {
                Some(whole) => look(at, whole),
                None => packed::glance(id, rest, words).iter().for_each(|device| look(at, device)),
            }
        }
    }

    /// Note when a device was last heard of; whether planning cannot see that.
    pub(super) fn touch(&mut self, at: usize, seen: Timestamp, words: &Words) -> bool {
        let (start, end) = (self.start(at), self.start(at + 1));
        let Some((name, rest)) = self.row(at) else { return true };
        if !rest.is_empty() {
            let from = start + 1 + name.len();
            return self.bytes.get_mut(from..end).is_some_and(|rest| packed::touch(rest, seen));
        }
        let id = name.parse::<DeviceId>().ok();
        if let Some(mut whole) = id.and_then(|id| self.whole.get(&id)).map(|whole| whole.as_ref().clone()) {
            whole.presence.last_seen = Some(seen);
            self.put(at..at + 1, &[whole], words);
        }
        false
    }

    /// Put devices in the place of others.
    pub(super) fn put(&mut self, places: Range<usize>, devices: &[Device], words: &Words) {
        if !self.whole.is_empty() {
            let names: Vec<DeviceId> = places.clone().filter_map(|at| self.name(at)?.parse().ok()).collect();
            names.iter().for_each(|name| drop(self.whole.remove(name)));
        }
        let rows: Vec<Vec<u8>> = devices.iter().map(|device| self.pack(device, words)).collect();
        let (from, to) = (self.start(places.start), self.start(places.end));
        let (before, after) = (self.bytes.get(..from).unwrap_or_default(), self.bytes.get(to..).unwrap_or_default());
        let added: usize = rows.iter().map(Vec::len).sum();
        let mut bytes = Vec::with_capacity(before.len() + added + after.len());
        bytes.extend_from_slice(before);
        rows.iter().for_each(|row| bytes.extend_from_slice(row));
        bytes.extend_from_slice(after);
        let mut ends = Vec::with_capacity(self.len() + rows.len());
        ends.extend(self.ends.iter().take(places.start));
        let mut end = from;
        for row in &rows {
            end += row.len();
            ends.push(u32::try_from(end).unwrap_or(u32::MAX));
        }
        ends.extend(self.ends.iter().skip(places.end).map(|old| u32::try_from(*old as usize - to + end).unwrap_or(u32::MAX)));
        (self.bytes, self.ends) = (bytes.into_boxed_slice(), ends.into_boxed_slice());
    }

    fn pack(&mut self, device: &Device, words: &Words) -> Vec<u8> {
        let name = device.id.as_str();
        // Names have at most 40 characters.
        let mut row = vec![u8::try_from(name.len()).unwrap_or(u8::MAX)];
        row.extend_from_slice(name.as_bytes());
        match packed::pack(device, words) {
            Some(rest) => row.extend(rest),
            None => drop(self.whole.insert(device.id.clone(), Arc::new(device.clone()))),
        }
        row
    }

    /// Give away the devices from one on.
    pub(super) fn split_off(&mut self, at: usize) -> Self {
        let from = self.start(at);
        let mut rest = Self { bytes: self.bytes.get(from..).unwrap_or_default().into(), ..Self::default() };
        rest.ends = self.ends.iter().skip(at).map(|end| end.saturating_sub(u32::try_from(from).unwrap_or(u32::MAX))).collect();
        self.bytes = self.bytes.get(..from).unwrap_or_default().into();
        self.ends = self.ends.iter().take(at).copied().collect();
        if let Some(first) = rest.name(0).and_then(|name| name.parse().ok()) {
            rest.whole = self.whole.split_off(&first);
        }
        rest
    }
}
