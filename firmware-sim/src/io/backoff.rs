//! When to try again: full jitter between nothing and a bound that doubles, so that a fleet does not come back as one.
use std::time::Duration;

use tokio::time::Instant;

use crate::rng::Rng;

/// The first bound and the last: a fleet of hundreds on one machine; a real fleet of thousands waits longer.
const FIRST_MS: u64 = 500;
const LAST_MS: u64 = 10_000;

/// One station's patience.
#[derive(Debug)]
pub(super) struct Backoff {
    rng: Rng,
    bound_ms: u64,
}

impl Backoff {
    pub(super) fn new(rng: Rng) -> Self {
        Self { rng, bound_ms: FIRST_MS }
    }

    /// The moment of the next try.
    pub(super) fn next(&mut self) -> Instant {
        Instant::now() + Duration::from_millis(self.wait_ms())
    }

    /// The last try worked.
    pub(super) fn succeeded(&mut self) {
        self.bound_ms = FIRST_MS;
    }

    fn wait_ms(&mut self) -> u64 {
        let wait = self.rng.between(FIRST_MS / 10, self.bound_ms);
        self.bound_ms = (self.bound_ms * 2).min(LAST_MS);
        wait
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_a_bound_and_start_over_after_success() {
        let mut backoff = Backoff::new(Rng::new(1));
        let waits: Vec<u64> = (0..100).map(|_| backoff.wait_ms()).collect();
        assert!(waits[0] <= FIRST_MS && waits.iter().all(|w| (FIRST_MS / 10..=LAST_MS).contains(w)));
        assert!(waits.iter().skip(10).any(|&w| w > LAST_MS / 2) && waits.iter().skip(10).any(|&w| w < LAST_MS / 2));
        backoff.succeeded();
        assert!(backoff.wait_ms() <= FIRST_MS);
    }
}
