//! MQTT topics as types: `leeway/v1/{tenant}/dev/{device}/…`, general to specific, so that one pattern is an ACL.
use std::fmt;
use std::str::FromStr;

use crate::ids::{DeviceId, Tenant};

/// What a device's topic carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Channel {
    /// Birth and will, retained, device to controller.
    Status,
    /// Reported state, retained, device to controller.
    Reported,
    /// Closed windows, device to controller.
    Window,
    /// Captured rows, device to controller.
    Capture,
    /// Events, device to controller.
    Event,
    /// The director's signed document, retained, controller to device.
    Desired,
    /// Signed receipts, controller to device.
    Receipt,
}

impl Channel {
    /// Every channel.
    pub const ALL: [Self; 7] = [Self::Status, Self::Reported, Self::Window, Self::Capture, Self::Event, Self::Desired, Self::Receipt];

    /// The last levels of the topic.
    pub fn suffix(self) -> &'static str {
        match self {
            Self::Status => "status",
            Self::Reported => "reported",
            Self::Window => "tele/window",
            Self::Capture => "tele/capture",
            Self::Event => "tele/event",
            Self::Desired => "desired",
            Self::Receipt => "cmd/receipt",
        }
    }

    /// Whether devices write it (and the controller reads it).
    pub fn is_uplink(self) -> bool {
        !matches!(self, Self::Desired | Self::Receipt)
    }

    /// Whether the broker keeps the last message for late subscribers.
    pub fn is_retained(self) -> bool {
        matches!(self, Self::Status | Self::Reported | Self::Desired)
    }
}

/// One device's topic.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Topic {
    /// Whose tree.
    pub tenant: Tenant,
    /// Whose topic.
    pub device: DeviceId,
    /// What it carries.
    pub channel: Channel,
}

/// A topic outside the tree.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a topic of the form leeway/v1/<tenant>/dev/<device>/<channel>")]
pub struct TopicError;

impl Topic {
    /// A device's topic.
    pub fn new(tenant: &Tenant, device: &DeviceId, channel: Channel) -> Self {
        Self { tenant: tenant.clone(), device: device.clone(), channel }
    }

    /// The filter that matches every device's `channel`, for the controller.
    pub fn all(tenant: &Tenant, channel: Channel) -> String {
        format!("leeway/v1/{tenant}/dev/+/{}", channel.suffix())
    }
}

impl fmt::Display for Topic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "leeway/v1/{}/dev/{}/{}", self.tenant, self.device, self.channel.suffix())
    }
}

impl FromStr for Topic {
    type Err = TopicError;
    fn from_str(text: &str) -> Result<Self, TopicError> {
        let mut levels = text.splitn(6, '/');
        let mut next = || levels.next().ok_or(TopicError);
        if (next()?, next()?) != ("leeway", "v1") {
            return Err(TopicError);
        }
        let tenant = next()?.parse().map_err(|_| TopicError)?;
        if next()? != "dev" {
            return Err(TopicError);
        }
        let device = next()?.parse().map_err(|_| TopicError)?;
        let suffix = next()?;
        let channel = Channel::ALL.into_iter().find(|c| c.suffix() == suffix).ok_or(TopicError)?;
        Ok(Self { tenant, device, channel })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn topics_round_trip_and_strangers_are_refused() {
        let tenant: Tenant = "demo".parse().unwrap();
        let device: DeviceId = "bellevue-07".parse().unwrap();
        for channel in Channel::ALL {
            let topic = Topic::new(&tenant, &device, channel);
            assert_eq!(topic.to_string().parse(), Ok(topic));
        }
        for bad in [
            "",
            "leeway/v1/demo/dev/a",
            "leeway/v2/demo/dev/a/status",
            "leeway/v1/demo/dev/+/status",
            "leeway/v1/demo/dev/a/tele",
            "leeway/v1/demo/dev/a/status/x",
        ] {
            assert_eq!(bad.parse::<Topic>(), Err(TopicError), "{bad}");
        }
    }
}
