//! What a device says, as anyone who knows its public key can read it on the wire.
//!
//! Watching the wire instead of the agent's inside keeps the simulator honest: what it knows about a device is what the
//! controller could know. What stays true: a value here was opened with the device's own key.
use std::fmt;

use leeway_protocol::capture::CaptureBatch;
use leeway_protocol::ids::{BootId, DeviceId};
use leeway_protocol::report::WindowReport;
use leeway_protocol::reported::{DeviceEvent, Reported, Running, Status};
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

impl fmt::Display for Uplink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "({}, {}) ", self.boot.0, self.counter)?;
        match &self.said {
            Said::Status(status) => write!(f, "status: online {}, session {}", status.online, status.session),
            Said::Reported(r) => {
                let version = |running: &Running| running.version.to_string();
                let active = r.active.as_ref().map_or_else(|| "nothing".to_owned(), version);
                write!(f, "reported: generation {}, {:?}, runs {active}, trusts {:?}", r.generation, r.phase, r.trusted)?;
                r.reason.as_ref().map_or(Ok(()), |reason| write!(f, ", because {}: {}", reason.code, reason.detail))
            }
            Said::Window(w) => write!(f, "window {} of {}: {} inferences", w.window.0, w.manifest.short(), w.inferences),
            Said::Capture(c) => write!(f, "capture {} of {}: {} rows", c.batch, c.manifest.short(), c.rows.len()),
            Said::Event(e) => {
                write!(f, "event: generation {}, {:?}", e.generation, e.phase)?;
                e.reason.as_ref().map_or(Ok(()), |reason| write!(f, ", because {}: {}", reason.code, reason.detail))
            }
        }
    }
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
