//! The day it is for every station: real seconds turned into days of weather, at a speed that can be changed while it runs.
//!
//! One clock for all, so that the fleet sees the same weather at the same time; it waits for the slowest station, so that a
//! busy machine makes the replay slower and never makes a station skip days. What stays true: the day never goes back.
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

/// How many days the fastest station may be ahead of the slowest.
const MAX_LEAD: usize = 60;

#[derive(Debug)]
struct Clock {
    /// Days that had passed at `at`.
    days: f64,
    at: Instant,
    per_second: f64,
    paused: bool,
    /// The clock stops at this day.
    until: usize,
}

/// The shared clock.
#[derive(Debug)]
pub(super) struct Pace {
    clock: Mutex<Clock>,
    due: AtomicUsize,
}

impl Pace {
    /// Standing still at `first_day`.
    pub(super) fn new(first_day: usize, days_per_second: f64) -> Self {
        let clock = Clock { days: first_day as f64, at: Instant::now(), per_second: days_per_second, paused: false, until: first_day };
        Self { clock: Mutex::new(clock), due: AtomicUsize::new(first_day) }
    }

    /// Stations may live all days below this one.
    pub(super) fn due(&self) -> usize {
        self.due.load(Ordering::Relaxed)
    }

    /// Let real time pass; `slowest` is the day the slowest station has reached.
    pub(super) fn advance(&self, slowest: usize) {
        self.with(|clock, now| {
            let bound = clock.until.min(slowest + MAX_LEAD) as f64;
            if !clock.paused {
                let passed = now.saturating_duration_since(clock.at).as_secs_f64();
                clock.days = (clock.days + passed * clock.per_second).min(bound).max(clock.days);
            }
            clock.at = now;
            self.due.fetch_max(clock.days as usize, Ordering::Relaxed);
        });
    }

    /// Another speed from now on.
    pub(super) fn set_speed(&self, days_per_second: f64) {
        self.with(|clock, _| clock.per_second = days_per_second.max(0.0));
    }

    /// Stand still, or go on.
    pub(super) fn pause(&self, paused: bool) {
        self.with(|clock, _| clock.paused = paused);
    }

    /// Run up to this day and stop there.
    pub(super) fn run_until(&self, day: usize) {
        self.with(|clock, _| clock.until = clock.until.max(day));
    }

    fn with<T>(&self, change: impl FnOnce(&mut Clock, Instant) -> T) -> T {
        let mut clock = self.clock.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut clock, Instant::now())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_day_waits_for_the_slowest_the_limit_and_the_pause() {
        let pace = Pace::new(100, 1e9);
        let pass = |slowest| {
            std::thread::sleep(Duration::from_millis(1));
            pace.advance(slowest);
            pace.due()
        };
        assert_eq!(pass(100), 100, "nothing was asked yet");
        pace.run_until(1_000);
        assert_eq!(pass(100), 100 + MAX_LEAD);
        pace.pause(true);
        assert_eq!(pass(500), 100 + MAX_LEAD);
        pace.pause(false);
        assert_eq!(pass(500), 500 + MAX_LEAD);
        assert_eq!(pass(1_000), 1_000);
        pace.run_until(10);
        assert_eq!(pass(1_000), 1_000, "the day never goes back");
    }
}
