//! What goes wrong, drawn from the seed before the story begins, so that a story can be replayed with fewer faults.
use crate::network::Conditions;
use crate::rng::Rng;

/// One fault.
#[derive(Debug, Clone, PartialEq)]
pub struct Fault {
    /// When, milliseconds from the beginning.
    pub at_ms: u64,
    /// What.
    pub trouble: Trouble,
}

/// What goes wrong.
#[derive(Debug, Clone, PartialEq)]
pub enum Trouble {
    /// The device loses power at once.
    PowerCut(usize),
    /// It loses power before its n-th action from now.
    PowerCutIn {
        /// Which device.
        device: usize,
        /// Actions.
        actions: u32,
    },
    /// The agent's process is killed; the disk's cache survives.
    Kill(usize),
    /// The disk is full for a while.
    DiskFull {
        /// Which device.
        device: usize,
        /// For so long.
        for_ms: u64,
        /// Bytes left.
        room: usize,
    },
    /// The n-th disk operation from now fails, or the n-th sync.
    DiskFails {
        /// Which device.
        device: usize,
        /// Operations.
        operations: u32,
        /// Only a sync.
        only_sync: bool,
    },
    /// A bit of a stored file flips.
    BitFlip {
        /// Which device.
        device: usize,
        /// Which directory.
        place: &'static str,
    },
    /// The cable is out for a while.
    Unplugged {
        /// Which device.
        device: usize,
        /// For so long.
        for_ms: u64,
    },
    /// Broker and mirror are gone for everyone for a while.
    Outage {
        /// For so long.
        for_ms: u64,
    },
    /// The network is this bad from now on.
    Network(Conditions),
    /// The device's clock shows this much more than the right time, milliseconds.
    Clock {
        /// Which device.
        device: usize,
        /// How much more.
        skew_ms: i64,
    },
    /// A document signed by a stranger is shown to the device.
    Stranger(usize),
    /// A document signed with the stolen director key is shown to the device; nothing if that key is not stolen.
    Stolen(usize),
}

impl Trouble {
    /// The device concerned, if it is one.
    pub fn device(&self) -> Option<usize> {
        match self {
            Self::PowerCut(device) | Self::Kill(device) | Self::Stranger(device) | Self::Stolen(device) => Some(*device),
            Self::PowerCutIn { device, .. }
            | Self::DiskFull { device, .. }
            | Self::DiskFails { device, .. }
            | Self::BitFlip { device, .. }
            | Self::Unplugged { device, .. }
            | Self::Clock { device, .. } => Some(*device),
            Self::Outage { .. } | Self::Network(_) => None,
        }
    }
}

/// Milliseconds since 1970 of the simulator's year, to set a clock back to 1970.
const TO_1970_MS: i64 = -1_795_000_000_000;
const DAY_MS: i64 = 86_400_000;

/// The faults of a story that lasts `storm_ms`; on average some four per device, and some for all.
pub fn draw(rng: &mut Rng, devices: usize, storm_ms: u64, factory: bool) -> Vec<Fault> {
    let mut faults = Vec::new();
    let mut push = |at_ms, trouble| faults.push(Fault { at_ms, trouble });
    for device in 0..devices {
        for _ in 0..rng.below(9) {
            let at = rng.below(storm_ms);
            push(at, one(rng, device, factory));
        }
    }
    for _ in 0..rng.below(4) {
        push(rng.below(storm_ms), Trouble::Network(Conditions::nasty(rng)));
    }
    if rng.chance(0.3) {
        push(rng.below(storm_ms), Trouble::Outage { for_ms: rng.between(1_000, 40_000) });
    }
    faults.sort_by_key(|fault| fault.at_ms);
    faults
}

fn one(rng: &mut Rng, device: usize, factory: bool) -> Trouble {
    match rng.below(18) {
        0 | 1 => Trouble::PowerCut(device),
        2..=5 => Trouble::PowerCutIn { device, actions: rng.between(1, 40) as u32 },
        6 => Trouble::Kill(device),
        7 => Trouble::DiskFull { device, for_ms: rng.between(1_000, 60_000), room: rng.index(3_000) },
        8 => Trouble::DiskFails { device, operations: rng.between(1, 30) as u32, only_sync: false },
        9 => Trouble::DiskFails { device, operations: rng.between(1, 8) as u32, only_sync: true },
        // Without a model from the factory a device may have one copy only, and nothing can save it from rot without a network.
        10 | 11 if factory => Trouble::BitFlip { device, place: ["blobs", "blobs", "tuf", "director"][rng.index(4)] },
        10..=12 => Trouble::Unplugged { device, for_ms: rng.between(500, 60_000) },
        13 => {
            let skew_ms = [TO_1970_MS, -DAY_MS, 3_600_000, 30 * DAY_MS, 0][rng.index(5)];
            Trouble::Clock { device, skew_ms }
        }
        14 | 15 => Trouble::Stolen(device),
        _ => Trouble::Stranger(device),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_fault_is_drawn_within_the_storm() {
        let mut names = std::collections::BTreeSet::new();
        for seed in 0..200 {
            for fault in draw(&mut Rng::new(seed), 3, 1_000, true) {
                assert!(fault.at_ms < 1_000 && fault.trouble.device().is_none_or(|d| d < 3));
                let text = format!("{:?}", fault.trouble);
                names.insert(text.split(['(', ' ']).next().unwrap_or_default().to_owned());
            }
        }
        assert_eq!(names.len(), 12, "{names:?}");
        let bare: Vec<Fault> = (0..200).flat_map(|seed| draw(&mut Rng::new(seed), 3, 1_000, false)).collect();
        assert!(!bare.iter().any(|f| matches!(f.trouble, Trouble::BitFlip { .. })));
    }
}
