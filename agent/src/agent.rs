//! One device as a value: what happened goes in, what is to be done comes out. The only place where transitions are decided.
//!
//! Pure: no clock, no disk, no network, no chance. Production, the simulator and the tables beside this code run the same
//! function, and firms that link the library drive it with an executor of their own.
use leeway_protocol::time::Timestamp;

use crate::action::Action;
use crate::event::Event;

mod settings;
pub use settings::{OutboxBounds, Settings, Timing};

/// The agent of one device.
#[derive(Debug)]
pub struct Agent {
    settings: Settings,
}

impl Agent {
    /// An agent that has not started yet; its first event must be [`Event::Start`].
    pub fn new(settings: Settings) -> Self {
        Self { settings }
    }

    /// Take in one event; carry out what comes back, in order, as [`crate::action`] says. `now` is the device's clock, right or
    /// wrong: durations are measured in a way that a clock set forward or back does not upset.
    pub fn handle(&mut self, now: Timestamp, event: Event) -> Vec<Action> {
        let _ = (now, event, &self.settings);
        Vec::new()
    }
}
