//! How fast devices are told, and how often a failed one is told again.
//!
//! The ramp is the one AWS IoT Jobs has: after every so many devices the rate is multiplied, up to a bound. Counting devices that
//! *succeeded* makes it brake by itself: a version that nobody gets to run never speeds up, and one that devices give back slows
//! down again. What stays true: late joiners are told at the same rate as everyone (elsewhere a continuous job tells them at once),
//! and attempts are counted on the device, so leaving a cohort and coming back buys no further ones.
use serde::{Deserialize, Serialize};

use super::SpecError;

/// The most automatic retries of one device.
pub const MAX_RETRIES: u32 = 10;
/// Factors between which a ramp is one: less never speeds up, more is a jump.
pub const FACTORS: std::ops::RangeInclusive<f64> = 1.1..=5.0;

/// A rate that grows with what has been reached: `base_per_minute · factor^k`, `k` rising by one with `every` so many devices.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Ramp {
    /// Devices told per minute at the beginning.
    pub base_per_minute: u32,
    /// What the rate is multiplied with at each step, 1.1 to 5.
    pub factor: f64,
    /// When the next step is reached.
    pub every: Every,
    /// Devices told per minute, at most.
    pub max_per_minute: u32,
}

/// What a ramp counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Every {
    /// So many devices that were told.
    Notified(u32),
    /// So many devices that prove to run the version.
    Succeeded(u32),
}

impl Ramp {
    /// Devices that may be told within a minute once so many were told and so many run the version.
    pub fn per_minute(&self, notified: usize, succeeded: usize) -> u32 {
        let (count, step) = match self.every {
            Every::Notified(step) => (notified, step),
            Every::Succeeded(step) => (succeeded, step),
        };
        // More steps than this and any factor has passed any bound: 1.1^1000 is beyond 10^41.
        let steps = (count / step.max(1) as usize).min(1000) as i32;
        let rate = (f64::from(self.base_per_minute) * self.factor.powi(steps)).floor();
        // The cast saturates, and the bound is a u32.
        (rate as u32).clamp(1, self.max_per_minute.max(1))
    }

    pub(super) fn check(&self) -> Result<(), SpecError> {
        if !FACTORS.contains(&self.factor) {
            return Err(SpecError::Factor(self.factor.to_string()));
        }
        if self.base_per_minute > self.max_per_minute {
            return Err(SpecError::Ramp { base: self.base_per_minute, max: self.max_per_minute });
        }
        let (Every::Notified(step) | Every::Succeeded(step)) = self.every;
        for (what, value) in [("rate.base_per_minute", self.base_per_minute), ("rate.every", step)] {
            if value == 0 {
                return Err(SpecError::Zero(what));
            }
        }
        Ok(())
    }
}

/// Telling a device again without being asked: after failures that do not speak against the model, and after time-outs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Retries {
    /// How often, at most [`MAX_RETRIES`]; attempts that a person asked for count too.
    pub max: u32,
    /// How long after the failure, milliseconds.
    pub after_ms: u64,
}

impl Default for Retries {
    fn default() -> Self {
        Self { max: 0, after_ms: 900_000 }
    }
}

impl Retries {
    pub(super) fn check(&self) -> Result<(), SpecError> {
        if self.max > MAX_RETRIES { Err(SpecError::Retries(self.max)) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_steps_up_as_in_the_specification_it_is_taken_from() {
        let ramp = Ramp { base_per_minute: 50, factor: 2.0, every: Every::Notified(1000), max_per_minute: 1000 };
        let table = [(0, 50), (999, 50), (1000, 100), (1999, 100), (2000, 200), (3000, 400), (4000, 800), (5000, 1000), (usize::MAX, 1000)];
        for (count, rate) in table {
            assert_eq!(ramp.per_minute(count, 0), rate, "{count}");
        }
        let by_success = Ramp { every: Every::Succeeded(10), factor: 1.1, base_per_minute: 1, ..ramp };
        assert_eq!((by_success.per_minute(5000, 9), by_success.per_minute(0, 80)), (1, 2), "rounded down, and only success counts");
    }

    #[test]
    fn what_could_not_work_is_refused() {
        let good = Ramp { base_per_minute: 50, factor: 2.0, every: Every::Notified(1000), max_per_minute: 1000 };
        assert_eq!(good.check(), Ok(()));
        for bad in [
            Ramp { factor: 1.0, ..good },
            Ramp { factor: 5.1, ..good },
            Ramp { factor: f64::NAN, ..good },
            Ramp { base_per_minute: 0, ..good },
            Ramp { every: Every::Succeeded(0), ..good },
            Ramp { max_per_minute: 49, ..good },
        ] {
            assert!(bad.check().is_err(), "{bad:?}");
        }
        assert!(Retries { max: 11, after_ms: 0 }.check().is_err() && Retries { max: 10, after_ms: 0 }.check().is_ok());
    }
}
