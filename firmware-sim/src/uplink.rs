//! What a device says, as anyone who knows its public key can read it on the wire.
//!
//! Watching the wire instead of the agent's inside keeps the simulator honest: what it knows about a device is what the
//! controller could know. What stays true: a value here was opened with the device's own key.
use leeway_protocol::capture::CaptureBatch;
use leeway_protocol::ids::{BootId, DeviceId};
use leeway_protocol::report::WindowReport;
use leeway_protocol::reported::{DeviceEvent, Reported, Status};
use leeway_protocol::topic::Channel;
use leeway_protocol::trust::envelope::{self, Kind};
use leeway_protocol::trust::keyring::PublicKey;

/// One message of a device.
#[derive(Debug, Clone, PartialEq)]
pub struct Uplink {
    /// Start of the agent that sealed it.
    pub boot: BootId,
    /// Its number in that start.
    pub counter: u64,
    /// What it says.
    pub said: Said,
}

/// What it says.
#[derive(Debug, Clone, PartialEq)]
pub enum Said {
    /// Birth or will.
    Status(Status),
    /// The reported state.
    Reported(Box<Reported>),
    /// A closed window.
    Window(Box<WindowReport>),
    /// Captured rows.
    Capture(CaptureBatch),
    /// Something happened.
    Event(DeviceEvent),
}

impl Uplink {
    /// Open a message that came on this device's topic for `channel`; none if it is not the device's, or cannot be read.
    pub fn open(bytes: &[u8], device: &DeviceId, channel: Channel, key: &PublicKey) -> Option<Self> {
        let opened = envelope::open(bytes, device, Kind::of(channel)?, key).ok()?.into_inner();
        let body = opened.body.as_slice();
        let said = match channel {
            Channel::Status => Said::Status(serde_json::from_slice(body).ok()?),
            Channel::Reported => Said::Reported(serde_json::from_slice(body).ok()?),
            Channel::Window => Said::Window(Box::new(WindowReport::parse(body).ok()?)),
            Channel::Capture => Said::Capture(CaptureBatch::parse(body).ok()?),
            Channel::Event => Said::Event(serde_json::from_slice(body).ok()?),
            Channel::Desired | Channel::Receipt => return None,
        };
        Some(Self { boot: opened.boot, counter: opened.counter, said })
    }

    /// Whether it is kept by the device until a receipt comes.
    pub fn wants_receipt(&self) -> bool {
        !matches!(self.said, Said::Status(_) | Said::Reported(_))
    }
}
