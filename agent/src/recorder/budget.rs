//! How much of an inference's time the recorder may use: every inference credits a share of its own cost, a recording pays.
//!
//! A model that is asked now and then costs the device next to nothing, however short one answer takes; there the share of the
//! answer would thin out the very counts that are scarce. So time that passes credits too, a smaller share ([`IDLE_SHARE`]), and
//! the larger of the two counts: in a busy loop that is the inferences' own.
//!
//! What is done for every inference anyway (counting, checks for NaN, the clock) comes off the share first. Both costs are
//! measured in place (the caller times one inference in [`TIMED_EVERY`], from the engine's answer on), with the caches as cold
//! as the model left them, so the promise holds on any device. When credit is short, the gap until the next recording is drawn from
//! a hash of the running number, never a fixed stride: edge data is periodic, and a stride would see one phase of it for ever.
use leeway_protocol::time::Timestamp;

use crate::recorder::memory::{hash, share};

/// Share of the measured inference time that recording may use.
pub const SHARE: f64 = 0.02;

/// Share of all time, on one core, that recording may use where the inferences' own share is less.
pub const IDLE_SHARE: f64 = 0.001;

/// The longest pause that credits: a clock that was set credits no more than this.
const MAX_PAUSE_MS: i64 = 1_000;

/// What is done before the engine runs and so is not in the measurement: inputs checked for NaN, the clock read twice.
const BEFORE_NANOS: f64 = 80.0;

/// What every inference costs after that, until it is measured.
const ALWAYS_NANOS: f64 = 150.0;

/// Of the share of a model so fast that the above eats it up, this much still goes to recordings: such a model is sampled
/// thinly rather than never.
const LEAST: f64 = 0.1;

/// Inferences between two timed ones: reading the clock costs about as much as ten features.
pub const TIMED_EVERY: u64 = 16;

/// Inferences timed at the start, until the estimates stand.
const TIMED_FIRST: u64 = 64;

/// Credit is kept for so many recordings, a burst after a pause; more is not owed.
const KEPT: f64 = 32.0;

#[derive(Debug)]
pub(crate) struct Budget {
    credit: f64,
    /// Nanoseconds of one recording; starts with a guess and follows what is measured.
    cost: f64,
    /// Nanoseconds every inference costs besides.
    always: f64,
    /// Credit the next recording waits for.
    wanted: f64,
    inferences: u64,
    /// When time was last credited, and the inferences' own share since then.
    at: Option<Timestamp>,
    own: f64,
}

impl Budget {
    pub(crate) fn new(guess_nanos: f64) -> Self {
        Self { credit: guess_nanos, cost: guess_nanos, always: ALWAYS_NANOS, wanted: 0.0, inferences: 0, at: None, own: 0.0 }
    }

    /// Credit an inference and the time since the last one; whether it may be recorded.
    #[inline]
    pub(crate) fn spend(&mut self, now: Timestamp, inference_nanos: u64) -> bool {
        self.inferences += 1;
        let credited = inference_nanos as f64 * SHARE;
        self.own += credited;
        let idle = if self.at == Some(now) { 0.0 } else { self.idle(now) };
        self.credit = (self.credit + (credited - self.always - BEFORE_NANOS).max(credited * LEAST) + idle).min(self.cost * KEPT);
        if self.credit < self.wanted {
            return false;
        }
        self.credit -= self.cost;
        // Between 0 and twice the cost, once on average: the long run spends exactly the share.
        self.wanted = 2.0 * self.cost * share(hash(self.inferences));
        true
    }

    /// What the time since the last credit is worth beyond the inferences' own share of it.
    fn idle(&mut self, now: Timestamp) -> f64 {
        let passed = self.at.map_or(0, |at| now.millis_since(at).clamp(0, MAX_PAUSE_MS));
        self.at = Some(now);
        (passed as f64 * 1e6 * IDLE_SHARE - std::mem::take(&mut self.own)).max(0.0)
    }

    /// Whether this inference should be timed.
    #[inline]
    pub(crate) fn wants_timing(&self) -> bool {
        // By a hash, for the same reason as the gaps.
        self.inferences < TIMED_FIRST || hash(self.inferences).is_multiple_of(TIMED_EVERY)
    }

    /// What an inference took from the engine's answer on, with or without a recording.
    pub(crate) fn measured(&mut self, nanos: u64, recorded: bool) {
        // An interruption by the system is not the recorder's cost: one outlier moves an estimate by a quarter at most.
        let follow = |estimate: &mut f64, seen: f64| *estimate += (seen.min(*estimate * 3.0) - *estimate) / 8.0;
        if recorded {
            follow(&mut self.cost, (nanos as f64 - self.always).max(1.0));
        } else {
            follow(&mut self.always, nanos as f64);
        }
    }

    /// The present estimate, nanoseconds.
    pub(crate) fn cost_nanos(&self) -> f64 {
        self.cost
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recorded(inference_nanos: u64, cost: f64, inferences: u64) -> f64 {
        let mut budget = Budget::new(cost);
        budget.always = 70.0;
        (0..inferences).filter(|_| budget.spend(Timestamp::from_millis(7), inference_nanos)).count() as f64 / inferences as f64
    }

    #[test]
    fn who_is_asked_now_and_then_is_recorded_whole() {
        // One microsecond an answer: back to back it is sampled thinly, 200 times a second nothing is left out.
        let share = |every_nanos: u64| {
            let mut budget = Budget::new(1_000.0);
            let at = |i: u64| Timestamp::from_millis((i * every_nanos / 1_000_000) as i64);
            (0..20_000).filter(|&i| budget.spend(at(i), 1_000)).count() as f64 / 20_000.0
        };
        assert!(share(5_000_000) > 0.99, "{}", share(5_000_000));
        assert!(share(1_200) < 0.01, "{}", share(1_200));
        // A clock that jumps by a year credits a second, and of that only what is kept; one that goes back credits nothing.
        let mut budget = Budget::new(1_000.0);
        for ms in [0, 31_536_000_000, 5] {
            budget.spend(Timestamp::from_millis(ms), 1_000);
            assert!(budget.credit <= 1_000.0 * KEPT);
        }
    }

    #[test]
    fn the_long_run_spends_the_share_and_no_more() {
        // 2 % of 50, 17.5 and 1 microseconds, less what is always spent, but at least a tenth.
        let table = [(50_000, 400.0, 1.0), (17_500, 400.0, 0.5), (1_000, 400.0, 0.005)];
        for (inference, cost, want) in table {
            let got = recorded(inference, cost, 100_000);
            assert!(got <= want * 1.02 + 1e-4 && got >= want * 0.95, "{inference} ns: {got} of {want}");
        }
    }

    #[test]
    fn gaps_are_irregular() {
        let mut budget = Budget::new(400.0);
        let taken: Vec<u64> = (0..10_000).filter(|_| budget.spend(Timestamp::from_millis(7), 10_000)).collect();
        let gaps: std::collections::BTreeSet<u64> = taken.windows(2).map(|w| w[1] - w[0]).collect();
        assert!(gaps.len() > 5, "{gaps:?}");
    }

    #[test]
    fn measured_cost_replaces_the_guess() {
        let mut budget = Budget::new(1_000.0);
        (0..100).for_each(|_| budget.measured(50, false));
        (0..100).for_each(|_| budget.measured(250, true));
        assert!((budget.cost_nanos() - 200.0).abs() < 10.0 && (budget.always - 50.0).abs() < 5.0, "{budget:?}");
        budget.measured(10_000_000, true);
        assert!(budget.cost_nanos() < 260.0);
    }
}
