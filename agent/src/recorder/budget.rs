//! How much of an inference's time the recorder may use: every inference credits a share of its own cost, a recording pays.
//!
//! A recording's cost is measured (the caller times one in [`TIMED_EVERY`]), not assumed, so the promise holds on any
//! device. When credit is short, the gap until the next recording is drawn from a hash of the running number, never a fixed
//! stride: edge data is periodic, and a stride would see one phase of it for ever.
use crate::recorder::memory::{hash, share};

/// Share of the measured inference time that recording may use.
pub const SHARE: f64 = 0.02;

/// Recordings between two timed ones: reading the clock twice costs about as much as ten features.
pub const TIMED_EVERY: u32 = 64;

/// Recordings timed at the start, until the estimate stands.
const TIMED_FIRST: u32 = 16;

/// Credit is kept for so many recordings: after a pause nothing is owed.
const KEPT: f64 = 4.0;

#[derive(Debug)]
pub(crate) struct Budget {
    credit: f64,
    /// Nanoseconds of one recording; starts with a guess and follows what is measured.
    cost: f64,
    /// Credit the next recording waits for.
    wanted: f64,
    recordings: u32,
    inferences: u64,
}

impl Budget {
    pub(crate) fn new(guess_nanos: f64) -> Self {
        Self { credit: guess_nanos, cost: guess_nanos, wanted: 0.0, recordings: 0, inferences: 0 }
    }

    /// Credit an inference; whether it may be recorded.
    #[inline]
    pub(crate) fn spend(&mut self, inference_nanos: u64) -> bool {
        self.inferences += 1;
        self.credit = (self.credit + inference_nanos as f64 * SHARE).min(self.cost * KEPT);
        if self.credit < self.wanted {
            return false;
        }
        self.credit -= self.cost;
        self.recordings = self.recordings.wrapping_add(1);
        // Between 0 and twice the cost, once on average: the long run spends exactly the share.
        self.wanted = 2.0 * self.cost * share(hash(self.inferences));
        true
    }

    /// Whether the next recording should be timed.
    #[inline]
    pub(crate) fn wants_timing(&self) -> bool {
        self.recordings < TIMED_FIRST || self.recordings.is_multiple_of(TIMED_EVERY)
    }

    /// What a timed recording took.
    pub(crate) fn measured(&mut self, nanos: u64) {
        // An interruption by the system is not the recorder's cost: one outlier moves the estimate by a quarter at most.
        let seen = (nanos as f64).min(self.cost * 3.0);
        self.cost += (seen - self.cost) / 8.0;
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
        (0..inferences).filter(|_| budget.spend(inference_nanos)).count() as f64 / inferences as f64
    }

    #[test]
    fn the_long_run_spends_the_share_and_no_more() {
        let table = [(50_000, 400.0, 1.0), (10_000, 400.0, 0.5), (1_000, 400.0, 0.05)];
        for (inference, cost, want) in table {
            let got = recorded(inference, cost, 100_000);
            assert!(got <= want * 1.02 + 1e-4 && got >= want * 0.95, "{inference} ns: {got} of {want}");
        }
    }

    #[test]
    fn gaps_are_irregular() {
        let mut budget = Budget::new(400.0);
        let taken: Vec<u64> = (0..10_000).filter(|_| budget.spend(2_000)).collect();
        let gaps: std::collections::BTreeSet<u64> = taken.windows(2).map(|w| w[1] - w[0]).collect();
        assert!(gaps.len() > 5, "{gaps:?}");
    }

    #[test]
    fn measured_cost_replaces_the_guess() {
        let mut budget = Budget::new(1_000.0);
        (0..100).for_each(|_| budget.measured(200));
        assert!((budget.cost_nanos() - 200.0).abs() < 10.0);
        budget.measured(10_000_000);
        assert!(budget.cost_nanos() < 260.0);
    }
}
