//! Two readings of the moment that is handed in: a steady one for durations, a trusted one for expiry.
//!
//! A device without a battery-backed clock wakes up in 1970 and jumps by years when it first hears the time. So durations are
//! sums of small steps: a step back counts as nothing, a step forward as at most [`MAX_STEP_MS`]. And expiry is judged by the
//! latest of the clock, the last moment that came with a signature, and the build. What stays true: the steady reading never
//! goes back, the trusted one never behind a signed moment that was accepted, unless the key behind that moment is taken away.
use leeway_protocol::time::Timestamp;

/// The agent never sleeps longer than [`super::MAX_SLEEP_MS`], so a longer step is a clock that was set, or a process that was
/// stopped; in both cases this much is a fair guess that upsets nothing.
const MAX_STEP_MS: i64 = 60_000;
/// A clock this far past the last signed moment is not believed.
const MAX_AHEAD_MS: i64 = 400 * 86_400_000;

/// The agent's sense of time.
#[derive(Debug, Clone)]
pub(super) struct Clock {
    last: Option<Timestamp>,
    steady: u64,
    floor: Timestamp,
    signed: Option<Timestamp>,
    trusted: Timestamp,
    problem: Option<&'static str>,
}

impl Clock {
    pub(super) fn new(built_at: Timestamp) -> Self {
        Self { last: None, steady: 0, floor: built_at, signed: None, trusted: built_at, problem: None }
    }

    /// A moment is handed in.
    pub(super) fn observe(&mut self, now: Timestamp) {
        let step = self.last.map_or(0, |last| now.millis_since(last).clamp(0, MAX_STEP_MS));
        self.steady = self.steady.saturating_add(step.unsigned_abs());
        self.last = Some(now);
        let floor = self.signed.unwrap_or(self.floor).max(self.floor);
        let ahead = self.signed.is_some() && now.millis_since(floor) > MAX_AHEAD_MS;
        self.problem = if ahead {
            Some("the clock is more than 400 days past the last signed moment, so the signed moment is used")
        } else if now < floor {
            Some("the clock is behind the last signed moment or the build, so that moment is used")
        } else {
            None
        };
        // Signed or built moments bridge a stopped clock by the steady one, so that expiry still comes.
        let bridged = self.trusted.plus_millis(step);
        self.trusted = if self.problem.is_some() { bridged.max(floor) } else { now.max(floor) };
    }

    /// A signed moment was accepted.
    pub(super) fn accept(&mut self, signed: Timestamp) {
        self.signed = self.signed.max(Some(signed));
        self.trusted = self.trusted.max(signed);
    }

    /// The key behind the signed moments was taken away, and with it what it said.
    pub(super) fn forget_signed(&mut self) {
        self.signed = None;
        self.trusted = self.last.unwrap_or(self.floor).max(self.floor);
    }

    /// Milliseconds since the agent started, roughly; never goes back.
    pub(super) fn steady(&self) -> u64 {
        self.steady
    }

    /// The moment by which expiry is judged.
    pub(super) fn trusted(&self) -> Timestamp {
        self.trusted
    }

    /// What is wrong with the clock, if anything.
    pub(super) fn problem(&self) -> Option<&'static str> {
        self.problem
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_in_1970_or_set_by_years_upsets_nothing() {
        let built = Timestamp::from_secs(1_000_000);
        let mut clock = Clock::new(built);
        clock.observe(Timestamp::from_secs(5));
        clock.observe(Timestamp::from_secs(15));
        assert_eq!(clock.steady(), 10_000);
        assert_eq!(clock.trusted(), built.plus_secs(10), "1970 is bridged from the build on");
        assert!(clock.problem().is_some());
        let today = Timestamp::from_secs(2_000_000);
        clock.observe(today);
        assert_eq!((clock.steady(), clock.trusted(), clock.problem()), (70_000, today, None));
        clock.observe(Timestamp::from_secs(1_999_000));
        assert_eq!(clock.steady(), 70_000, "backwards counts as nothing");
        clock.accept(Timestamp::from_secs(3_000_000));
        clock.observe(Timestamp::from_secs(1_999_001));
        assert_eq!(clock.trusted(), Timestamp::from_secs(3_000_001), "a signed moment is the floor");
        clock.observe(Timestamp::from_secs(3_000_000 + 500 * 86_400));
        assert_eq!(clock.trusted(), Timestamp::from_secs(3_000_061), "far ahead is not believed");
        assert!(clock.problem().is_some());
        clock.forget_signed();
        clock.observe(Timestamp::from_secs(2_000_000));
        assert_eq!((clock.trusted(), clock.problem()), (Timestamp::from_secs(2_000_000), None), "what a lost key said is forgotten");
    }
}
