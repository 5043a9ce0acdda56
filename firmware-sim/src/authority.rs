//! Whoever tells the devices what to run. The simulator knows only this much of a controller, and never its library.
use leeway_protocol::digest::Digest;
use leeway_protocol::ids::{DeviceId, Generation};
use leeway_protocol::time::Timestamp;
use leeway_protocol::topic::Channel;

use crate::press::Press;
use crate::scenario::Act;
use crate::uplink::Uplink;
use crate::watch::Invariant;

/// A message for one device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Downlink {
    /// For whom.
    pub device: DeviceId,
    /// Desired or receipt.
    pub channel: Channel,
    /// The signed bytes.
    pub bytes: Vec<u8>,
}

/// A controller as the world sees it.
pub trait Authority {
    /// The story wants something; the repository has already followed. An authority takes what concerns it.
    fn act(&mut self, now: Timestamp, act: Act, press: &Press);

    /// A device's genuine message arrived; late, twice, or out of order perhaps. Forged and damaged ones never come this far.
    fn uplink(&mut self, now: Timestamp, device: &DeviceId, uplink: &Uplink);

    /// Time passes: decide, store, and only then speak. Called about every half second.
    fn tick(&mut self, now: Timestamp, press: &Press) -> Vec<Downlink>;

    /// Manifest of the release the device is to run in the end; none if nothing was asked of it.
    fn goal(&self, device: &DeviceId) -> Option<Digest>;

    /// The generation of what it was last told.
    fn generation(&self, device: &DeviceId) -> Generation;

    /// Has this message been stored?
    fn has_stored(&self, device: &DeviceId, boot: u64, counter: u64) -> bool;

    /// Another model begins to answer the application on a device; what the authority must have allowed.
    fn serves(&mut self, _now: Timestamp, _device: &DeviceId, _manifest: Digest) {}

    /// The storm is over, and people look after what waits for them; called every few seconds.
    fn attended(&mut self, _now: Timestamp) {}

    /// What the authority has still to bring to an end, if anything.
    fn unfinished(&self) -> Option<String> {
        None
    }

    /// A promise of the controller's that was found broken, with the device concerned.
    fn broken(&mut self) -> Option<(Invariant, DeviceId, String)> {
        None
    }
}
