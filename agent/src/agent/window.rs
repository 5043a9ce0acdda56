//! The maintenance window: an install begins only while it is open, by this device's own clock.
//!
//! What stays true: a rollback never waits; what began in a window is finished; a device whose clock cannot be trusted does not
//! guess: it says so, waits for a clock that can be, and after [`MAX_CLOCK_WAIT_MS`] refuses, so that a person sees it. When a
//! window opens, devices begin spread over its first half at most: a window is not to be a herd.
use leeway_protocol::assignment::Intent;
use leeway_protocol::assignment::window::Opening;
use leeway_protocol::reason::{Code, Reason};

use super::Agent;
use crate::deployment::Deployment;

/// A clock is asked again after so long: it may have been set meanwhile.
const LOOK_AGAIN_MS: u64 = 60_000;
/// The longest wait for a clock that can be trusted: a day, in which any network that has the time was met.
const MAX_CLOCK_WAIT_MS: u64 = 24 * 3_600_000;

impl Agent {
    /// Whether the install may begin now. If not, the deployment waits, or has been refused.
    pub(super) fn may_begin(&mut self) -> bool {
        let Some(followed) = &self.followed else { return true };
        let (assignment, generation) = (&followed.assignment, followed.directive.generation);
        let Some(window) = assignment.window.filter(|_| assignment.intent == Intent::Install) else { return true };
        let spread = assignment.spread_ms;
        if let Some(problem) = self.clock.problem() {
            self.wait_for_clock(problem);
            return false;
        }
        self.clockless_since = None;
        let (for_ms, detail) = match window.at(self.clock.trusted(), self.settings.utc_offset_minutes) {
            Opening::Open { since_ms } => {
                let turn = self.share("window", generation.0, spread.min(window.length_ms() / 2));
                if turn <= since_ms {
                    return true;
                }
                (
                    turn - since_ms,
                    format!("open from {} to {}; this device begins {} s after it opened", window.from, window.to, turn / 1000),
                )
            }
            Opening::Closed { opens_in_ms } => {
                (opens_in_ms, format!("from {} to {}; it opens in {} min", window.from, window.to, opens_in_ms.div_ceil(60_000)))
            }
        };
        self.wait_outside(for_ms, Reason::new(Code::MaintenanceWindow, detail));
        false
    }

    fn wait_for_clock(&mut self, problem: &'static str) {
        let now = self.clock.steady();
        let since = *self.clockless_since.get_or_insert(now);
        let reason = Reason::new(Code::ClockUntrusted, problem);
        if now.saturating_sub(since) >= MAX_CLOCK_WAIT_MS {
            return self.refuse(reason, None);
        }
        self.wait_outside(LOOK_AGAIN_MS, reason);
    }

    /// Wait without a report for each look at the clock: only what it waits for is news.
    fn wait_outside(&mut self, for_ms: u64, why: Reason) {
        let next = self.clock.steady().saturating_add(for_ms.clamp(1, LOOK_AGAIN_MS));
        if let Deployment::Waiting { until, reason: Some(reason) } = &mut self.deployment
            && reason.code == why.code
        {
            (*until, *reason) = (next, why);
            return;
        }
        self.enter(Deployment::Waiting { until: next, reason: Some(why) });
    }
}
