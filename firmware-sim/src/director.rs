//! An honest controller small enough to see through: it assigns what the story says, stores what arrives, and says so.
//!
//! It is not a second controller: it has no stages and no statistics. It exists so that devices can be tried without one; the
//! real planner joins the same devices in the simulation tests.
use std::collections::{BTreeMap, BTreeSet};

use leeway_protocol::assignment::{Assignment, Intent};
use leeway_protocol::digest::Digest;
use leeway_protocol::ids::{BootId, DeviceId, Generation};
use leeway_protocol::reported::{Phase, Receipt, Reported};
use leeway_protocol::time::Timestamp;
use leeway_protocol::topic::Channel;
use leeway_protocol::trust::envelope::{self, Kind};

use crate::authority::{Authority, Downlink};
use crate::press::{Press, Release};
use crate::scenario::{Act, policies};
use crate::uplink::{Said, Uplink};

/// A device that failed for a reason that may have passed is asked again after so long.
const ASK_AGAIN_MS: i64 = 25_000;
/// An unanswered assignment is published again after so long: a broker may have lost it.
const REPEAT_MS: i64 = 15_000;

#[derive(Debug, Clone, Default)]
struct Wish {
    release: Option<usize>,
    rollback: bool,
    generation: u64,
    document: Vec<u8>,
    signed_at: Timestamp,
    sent_at: Option<Timestamp>,
    heard: Option<Reported>,
}

/// The controller.
#[derive(Debug, Default)]
pub struct Director {
    wishes: BTreeMap<DeviceId, Wish>,
    goals: BTreeMap<DeviceId, Digest>,
    stored: BTreeSet<(DeviceId, u64, u64)>,
    /// Arrived and not yet stored: lost when it is killed.
    pending: Vec<(DeviceId, u64, u64)>,
    /// Its own starts and messages, for the order of receipts.
    boot: u64,
    counter: u64,
}

impl Director {
    /// A controller of these devices.
    pub fn new(devices: impl IntoIterator<Item = DeviceId>) -> Self {
        let wishes = devices.into_iter().map(|device| (device, Wish::default())).collect();
        Self { wishes, boot: 1, ..Self::default() }
    }

    /// Sign every assignment anew: the director's key was changed.
    pub fn sign_again(&mut self, now: Timestamp, press: &Press) {
        for (device, wish) in &mut self.wishes {
            if let Some(release) = wish.release.and_then(|index| press.releases().get(index)) {
                wish.sign(device, release, press, now);
            }
        }
    }

    /// The order of what a device was last told.
    pub fn generation_of(&self, device: &DeviceId) -> u64 {
        self.wishes.get(device).map_or(0, |wish| wish.generation)
    }

    /// A device was set up again by hand: what it said before counts no more.
    pub fn forget(&mut self, device: &DeviceId) {
        if let Some(wish) = self.wishes.get_mut(device) {
            wish.heard = None;
        }
    }

    fn receipts(&mut self, press: &Press) -> Vec<Downlink> {
        let mut by_device: BTreeMap<DeviceId, Vec<(u64, u64)>> = BTreeMap::new();
        for (device, boot, counter) in std::mem::take(&mut self.pending) {
            self.stored.insert((device.clone(), boot, counter));
            by_device.entry(device).or_default().push((boot, counter));
        }
        let mut downlinks = Vec::new();
        for (device, stored) in by_device {
            self.counter += 1;
            let body = serde_json::to_vec(&Receipt { v: 1, stored }).unwrap_or_default();
            let sealed = envelope::seal(&press.signer().director, &device, BootId(self.boot), self.counter, Kind::Receipt, &body);
            downlinks.extend(sealed.ok().map(|bytes| Downlink { device, channel: Channel::Receipt, bytes }));
        }
        downlinks
    }
}

impl Wish {
    /// Is another assignment needed, although the story did not ask for one?
    fn must_ask_again(&self, release: &Release, now: Timestamp) -> bool {
        let Some(heard) = &self.heard else { return false };
        // A thief of the director's key may have used the same number.
        let other = heard.active.as_ref().is_some_and(|active| active.manifest != release.manifest());
        let stale =
            heard.generation.0 > self.generation || (heard.generation.0 == self.generation && heard.phase == Phase::Committed && other);
        let ended = heard.generation.0 == self.generation && matches!(heard.phase, Phase::Reverted | Phase::Refused);
        // A model that cannot be kept is not asked for again, whatever the reason was.
        stale || (ended && release.behaviour.is_kept() && release.revoked_in.is_none() && now.millis_since(self.signed_at) > ASK_AGAIN_MS)
    }

    fn sign(&mut self, device: &DeviceId, release: &Release, press: &Press, now: Timestamp) {
        let heard = self.heard.as_ref().map_or(0, |heard| heard.generation.0);
        self.generation = self.generation.max(heard) + 1;
        let (shadow, probation, windows, capture) = policies();
        let assignment = Assignment {
            v: 1,
            device: device.clone(),
            generation: Generation(self.generation),
            intent: if self.rollback { Intent::Rollback } else { Intent::Install },
            release: Some(release.named.clone()),
            rollout: None,
            reason: "the story asks for it".to_owned(),
            issued_at: now,
            spread_ms: 0,
            window: None,
            shadow,
            probation,
            windows,
            capture,
            avoid: Vec::new(),
        };
        if let Ok(document) = press.signer().sign_assignment(&assignment, Some(&release.directed()), now) {
            (self.document, self.signed_at, self.sent_at) = (document, now, None);
        }
    }
}

impl Authority for Director {
    fn act(&mut self, now: Timestamp, act: Act, press: &Press) {
        match act {
            Act::Assign { release: index, percent, rollback } => {
                let Some(release) = press.releases().get(index) else { return };
                let count = self.wishes.len() * usize::from(percent) / 100;
                for (device, wish) in self.wishes.iter_mut().take(count.max(1)) {
                    (wish.release, wish.rollback) = (Some(index), rollback);
                    wish.sign(device, release, press, now);
                    self.goals.insert(device.clone(), release.manifest());
                }
            }
            Act::Restart => {
                self.pending.clear();
                self.boot += 1;
                self.wishes.values_mut().for_each(|wish| wish.sent_at = None);
            }
            _ => {}
        }
    }

    fn uplink(&mut self, _now: Timestamp, device: &DeviceId, uplink: &Uplink) {
        if uplink.wants_receipt() {
            self.pending.push((device.clone(), uplink.boot.0, uplink.counter));
        }
        if let (Some(wish), Said::Reported(reported)) = (self.wishes.get_mut(device), &uplink.said) {
            let newer = wish.heard.as_ref().is_none_or(|heard| (heard.boot, heard.generation) <= (reported.boot, reported.generation));
            if newer {
                wish.heard = Some((**reported).clone());
            }
        }
    }

    fn tick(&mut self, now: Timestamp, press: &Press) -> Vec<Downlink> {
        let mut downlinks = self.receipts(press);
        for (device, wish) in &mut self.wishes {
            let Some(release) = wish.release.and_then(|index| press.releases().get(index)) else { continue };
            if wish.must_ask_again(release, now) {
                wish.sign(device, release, press, now);
            }
            let answered = wish.heard.as_ref().is_some_and(|heard| heard.generation.0 >= wish.generation);
            let due = wish.sent_at.is_none_or(|sent| !answered && now.millis_since(sent) > REPEAT_MS);
            if due && !wish.document.is_empty() {
                wish.sent_at = Some(now);
                downlinks.push(Downlink { device: device.clone(), channel: Channel::Desired, bytes: wish.document.clone() });
            }
        }
        downlinks
    }

    fn goal(&self, device: &DeviceId) -> Option<Digest> {
        self.goals.get(device).copied()
    }

    fn generation(&self, device: &DeviceId) -> Generation {
        Generation(self.generation_of(device))
    }

    fn has_stored(&self, device: &DeviceId, boot: u64, counter: u64) -> bool {
        self.stored.contains(&(device.clone(), boot, counter))
    }
}
