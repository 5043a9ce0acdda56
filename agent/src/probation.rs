//! The trial of a release that answers: has it run long enough, on enough inferences, with few enough failures?
//!
//! Decided on the device from what the runner counts; no network is needed. What stays true: no inference is no pass, however
//! long the trial lasts; and a failing share is looked at only from [`MIN_FAILURES`] failures on, so that one bad reading does
//! not throw out a good release.
use leeway_protocol::assignment::Probation;
use leeway_protocol::reason::{Code, Reason};
use leeway_protocol::report::Errors;

/// Failures before their share is judged early; once the trial has run its length any share above the limit reverts it.
pub const MIN_FAILURES: u64 = 5;

/// What a trial has seen so far.
#[derive(Debug, Clone, PartialEq)]
pub struct Gate {
    limits: Probation,
    /// When it first answered, on the agent's steady clock; none until it did.
    since: Option<u64>,
    /// Answers and failures of earlier starts of the runner.
    before: Tally,
    /// Of this start.
    now: Tally,
}

#[derive(Debug, Clone, Copy, Default, PartialEq)]
struct Tally {
    answered: u64,
    errors: Errors,
}

/// What follows.
#[derive(Debug, Clone, PartialEq)]
pub enum Verdict {
    /// Not yet.
    Wait,
    /// Commit.
    Pass,
    /// Revert.
    Fail(Reason),
}

impl Gate {
    /// A trial under these limits.
    pub fn new(limits: Probation) -> Self {
        Self { limits, since: None, before: Tally::default(), now: Tally::default() }
    }

    /// The limits of a newer assignment for the same release.
    pub fn set_limits(&mut self, limits: Probation) {
        self.limits = limits;
    }

    /// It answers the application from now on, in a new start of the runner or in the first one.
    pub fn answers(&mut self, now: u64) {
        self.since.get_or_insert(now);
        self.before = self.total();
        self.now = Tally::default();
    }

    /// The runner's counts since it answers.
    pub fn progress(&mut self, answered: u64, errors: Errors) {
        self.now = Tally { answered, errors };
    }

    /// Pass, fail, or not yet.
    pub fn verdict(&self, now: u64) -> Verdict {
        let Some(since) = self.since else { return Verdict::Wait };
        let Tally { answered, errors } = self.total();
        let failures = errors.against_model();
        let share = failures as f64 / (answered + failures).max(1) as f64;
        let complete = now.saturating_sub(since) >= self.limits.min_ms && answered >= self.limits.min_inferences;
        if share > self.limits.max_error_ratio && (failures >= MIN_FAILURES || complete) {
            return Verdict::Fail(blame(errors, failures, answered, self.limits.max_error_ratio));
        }
        if complete { Verdict::Pass } else { Verdict::Wait }
    }

    /// When the time alone would be enough, for the agent's timer.
    pub fn time_is_up(&self) -> Option<u64> {
        self.since.map(|since| since.saturating_add(self.limits.min_ms))
    }

    fn total(&self) -> Tally {
        let (a, b) = (self.before, self.now);
        let errors = Errors {
            rejected: a.errors.rejected.saturating_add(b.errors.rejected),
            failed: a.errors.failed.saturating_add(b.errors.failed),
            not_finite: a.errors.not_finite.saturating_add(b.errors.not_finite),
            timed_out: a.errors.timed_out.saturating_add(b.errors.timed_out),
        };
        Tally { answered: a.answered.saturating_add(b.answered), errors }
    }
}

/// The commonest failure gives the reason its name.
fn blame(errors: Errors, failures: u64, answered: u64, limit: f64) -> Reason {
    let code = if errors.not_finite >= errors.failed && errors.not_finite >= errors.timed_out {
        Code::OutputNotFinite
    } else if errors.timed_out > errors.failed {
        Code::TooSlow
    } else {
        Code::InferenceErrors
    };
    let total = answered.saturating_add(failures);
    Reason::new(code, format_args!("{failures} of {total} inferences failed on trial, allowed is a share of {limit}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn errors(failed: u64, not_finite: u64, timed_out: u64) -> Errors {
        Errors { rejected: 100, failed, not_finite, timed_out }
    }

    #[test]
    fn a_trial_passes_fails_or_waits() {
        let limits = Probation { min_ms: 1000, min_inferences: 100, boots: 3, max_error_ratio: 0.02 };
        let table = [
            ("no inference is no pass", 9_000, 0, errors(0, 0, 0), "wait"),
            ("too early", 900, 500, errors(0, 0, 0), "wait"),
            ("too few", 5_000, 99, errors(0, 0, 0), "wait"),
            ("enough; refused inputs do not count", 1_000, 100, errors(0, 0, 0), "pass"),
            ("a few failures are allowed", 1_000, 1000, errors(20, 0, 0), "pass"),
            ("failing early", 1, 5, errors(5, 0, 0), "inference-errors"),
            ("four failures are too few to judge early", 1, 4, errors(4, 0, 0), "wait"),
            ("but not at the end", 1_000, 100, errors(4, 0, 0), "inference-errors"),
            ("not finite", 1, 5, errors(1, 6, 0), "output-not-finite"),
            ("slow", 1, 5, errors(1, 0, 6), "too-slow"),
        ];
        for (what, now, answered, errors, expected) in table {
            let mut gate = Gate::new(limits);
            assert_eq!(gate.verdict(now), Verdict::Wait, "nothing answers yet");
            gate.answers(0);
            gate.progress(answered, errors);
            let got = match gate.verdict(now) {
                Verdict::Wait => "wait".to_owned(),
                Verdict::Pass => "pass".to_owned(),
                Verdict::Fail(reason) => reason.code.as_str().to_owned(),
            };
            assert_eq!(got, expected, "{what}");
        }
    }

    #[test]
    fn counts_survive_a_restart_of_the_runner() {
        let mut gate = Gate::new(Probation { min_ms: 0, min_inferences: 100, boots: 3, max_error_ratio: 0.02 });
        gate.answers(0);
        gate.progress(60, Errors::default());
        gate.answers(10);
        assert_eq!(gate.verdict(11), Verdict::Wait);
        gate.progress(40, Errors::default());
        assert_eq!(gate.verdict(12), Verdict::Pass);
    }
}
