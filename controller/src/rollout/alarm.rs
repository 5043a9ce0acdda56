//! Typed abort criteria beside the gate, and what a person may wave through.
//!
//! The gate asks whether the version is worse; these rules ask whether so many devices failed in one way that somebody should
//! look, whatever the comparison says. They are looked at after every report, like everything here, so a small `min_executed`
//! stops healthy rollouts: with one device in fifty failing by chance, "5 % after 20" fires in four of ten. The default has none.
//!
//! A person may dismiss an alarm or a check that cannot be decided, for the stage at hand and with a reason. Three things cannot be
//! dismissed: a proven failure (promoting past it is possible no more than dismissing it: the version is on its way back),
//! that nothing was heard, and that nobody runs the version; with those dismissed, no data would be a pass.
use leeway_protocol::time::Timestamp;
use serde::{Deserialize, Serialize};

use super::SpecError;
use super::evidence::Outcome;
use super::gate::{Check, Counts};

/// The most criteria of one rollout: one per kind of failure and action is all that makes sense.
pub const MAX_RULES: usize = 10;
/// Checks whose dismissal would let a stage pass without data.
const NEVER: [&str; 2] = ["devices", "inferences"];

/// Stop when too many devices failed in one way.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct AbortRule {
    /// In which way.
    pub failure: FailureType,
    /// Share of the devices with an outcome from which it fires.
    pub threshold_share: f64,
    /// Devices with an outcome that are needed first.
    pub min_executed: u32,
    /// What follows.
    pub action: AbortAction,
}

impl Default for AbortRule {
    fn default() -> Self {
        Self { failure: FailureType::All, threshold_share: 0.2, min_executed: 10, action: AbortAction::Pause }
    }
}

/// How a device failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum FailureType {
    /// It refused the version or went back, because of the model.
    FailedByModel,
    /// It refused the version for another reason.
    FailedOtherwise,
    /// It never saw the assignment in time, or did not finish in time.
    Overdue,
    /// It ran the version and fell silent.
    Silent,
    /// Any of these.
    All,
}

/// What a fired rule leads to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum AbortAction {
    /// Nobody new is told until a person has looked.
    #[default]
    Pause,
    /// Everyone goes back.
    RollBack,
}

impl FailureType {
    fn as_str(self) -> &'static str {
        match self {
            Self::FailedByModel => "failed_by_model",
            Self::FailedOtherwise => "failed_otherwise",
            Self::Overdue => "overdue",
            Self::Silent => "silent",
            Self::All => "all",
        }
    }

    fn phrase(self) -> &'static str {
        match self {
            Self::FailedByModel => "failed because of the model",
            Self::FailedOtherwise => "failed for a reason of their own",
            Self::Overdue => "did not answer or finish in time",
            Self::Silent => "ran the version and fell silent",
            Self::All => "failed in one way or another",
        }
    }

    fn count(self, counts: &Counts) -> usize {
        match self {
            Self::FailedByModel => counts.failed_by_model,
            Self::FailedOtherwise => counts.failed_otherwise,
            Self::Overdue => counts.overdue + counts.unanswered,
            Self::Silent => counts.lost,
            Self::All => counts.executed() - counts.running,
        }
    }
}

impl AbortRule {
    /// The name of its check.
    pub fn name(&self) -> String {
        format!("abort_{}", self.failure.as_str())
    }

    pub(super) fn check(&self) -> Result<(), SpecError> {
        if !(self.threshold_share > 0.0 && self.threshold_share <= 1.0) {
            return Err(SpecError::Threshold(self.threshold_share.to_string()));
        }
        if self.min_executed == 0 { Err(SpecError::Zero("abort.min_executed")) } else { Ok(()) }
    }

    /// Its line of the gate.
    pub(super) fn judge(&self, counts: &Counts) -> Check {
        let (failed, executed) = (self.failure.count(counts), counts.executed());
        let share = failed as f64 / executed.max(1) as f64;
        let fired = failed > 0 && executed >= self.min_executed as usize && share >= self.threshold_share - 1e-12;
        let outcome = match (fired, self.action) {
            (false, _) => Outcome::Pass,
            (true, AbortAction::Pause) => Outcome::Inconclusive,
            (true, AbortAction::RollBack) => Outcome::Fail,
        };
        let sentence = format!(
            "{failed} of {executed} devices with an outcome {}; the criterion is {:.0} % of at least {}.",
            self.failure.phrase(),
            self.threshold_share * 100.0,
            self.min_executed
        );
        let pauses = outcome == Outcome::Inconclusive;
        Check { pauses, seen: failed as u64, ..Check::plain(self.name(), outcome, sentence) }
    }
}

/// An alarm or undecided check that a person has waved through.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dismissal {
    /// In which stage, from 0; a comparison is asked about again in the next one, a count only when it has grown.
    pub stage: usize,
    /// Name of the check.
    pub check: String,
    /// How many devices it was about; more than these make it stand again.
    #[serde(default)]
    pub seen: u64,
    /// Who.
    pub by: String,
    /// When.
    pub at: Timestamp,
    /// Why.
    pub reason: String,
}

impl Dismissal {
    /// Whether it covers a check of a stage as it is now. What was counted stays counted in the next stage; what was compared there is
    /// something new.
    fn covers(&self, stage: usize, check: &Check) -> bool {
        (self.stage == stage || self.seen > 0) && self.check == check.name && check.seen <= self.seen && may_dismiss(check).is_ok()
    }
}

/// Why a check cannot be dismissed.
pub fn may_dismiss(check: &Check) -> Result<(), String> {
    let name = &check.name;
    if check.outcome == Outcome::Fail {
        return Err(format!("{name} is a proven failure, which nobody can dismiss: {}", check.sentence));
    }
    if check.outcome == Outcome::Pass || !check.blocks {
        return Err(format!("{name} holds nothing up: {}", check.sentence));
    }
    if NEVER.contains(&name.as_str()) {
        return Err(format!("{name} cannot be dismissed, because no data would be a pass then; promote the stage to go on unmeasured"));
    }
    Ok(())
}

/// Take what was dismissed out of the way; it still shows.
pub(super) fn dismiss(checks: &mut [Check], dismissed: &[Dismissal], stage: usize) {
    for check in checks {
        let Some(by) = dismissed.iter().rev().find(|d| d.covers(stage, check)) else { continue };
        (check.blocks, check.pauses) = (false, false);
        check.sentence = format!("{} Dismissed by {}: {}", check.sentence, by.by, by.reason);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(running: usize, failed_otherwise: usize, overdue: usize, unanswered: usize) -> Counts {
        Counts { running, failed_otherwise, overdue, unanswered, unseen: 50, installing: 50, ..Counts::default() }
    }

    #[test]
    fn a_rule_counts_its_own_failures_among_devices_with_an_outcome() {
        let rule = |failure, action| AbortRule { failure, threshold_share: 0.2, min_executed: 10, action };
        let table = [
            (rule(FailureType::FailedOtherwise, AbortAction::Pause), counts(8, 2, 0, 0), Outcome::Inconclusive),
            (rule(FailureType::FailedOtherwise, AbortAction::RollBack), counts(8, 2, 0, 0), Outcome::Fail),
            (rule(FailureType::FailedOtherwise, AbortAction::RollBack), counts(9, 2, 0, 0), Outcome::Pass),
            (rule(FailureType::FailedOtherwise, AbortAction::RollBack), counts(0, 9, 0, 0), Outcome::Pass),
            (rule(FailureType::FailedOtherwise, AbortAction::RollBack), counts(8, 0, 2, 0), Outcome::Pass),
            (rule(FailureType::Overdue, AbortAction::RollBack), counts(8, 0, 1, 1), Outcome::Fail),
            (rule(FailureType::All, AbortAction::RollBack), counts(8, 1, 1, 0), Outcome::Fail),
            (rule(FailureType::All, AbortAction::RollBack), counts(10, 0, 0, 0), Outcome::Pass),
        ];
        for (n, (rule, counts, outcome)) in table.into_iter().enumerate() {
            let check = rule.judge(&counts);
            assert_eq!((check.outcome, check.pauses), (outcome, outcome == Outcome::Inconclusive), "row {n}: {}", check.sentence);
        }
    }

    #[test]
    fn a_dismissal_covers_what_was_seen_and_nothing_worse() {
        let rule = AbortRule { failure: FailureType::Overdue, threshold_share: 0.1, min_executed: 1, action: AbortAction::Pause };
        let dismissal = Dismissal {
            stage: 0,
            check: rule.name(),
            seen: 2,
            by: "ann".to_owned(),
            at: Timestamp::default(),
            reason: "A flaky switch.".to_owned(),
        };
        let after = |overdue, stage| {
            let mut checks = [rule.judge(&counts(8, 0, overdue, 0))];
            dismiss(&mut checks, std::slice::from_ref(&dismissal), stage);
            checks[0].blocks && checks[0].pauses
        };
        assert_eq!([after(2, 0), after(1, 0), after(3, 0), after(2, 1), after(3, 1)], [false, false, true, false, true]);
        let compared = Dismissal { check: "error_ratio".to_owned(), seen: 0, ..dismissal.clone() };
        let open = Check::plain("error_ratio".to_owned(), Outcome::Inconclusive, String::new());
        assert!(compared.covers(0, &open) && !compared.covers(1, &open));
        let fails = Check::plain("error_ratio".to_owned(), Outcome::Fail, String::new());
        let silent = Check::plain("inferences".to_owned(), Outcome::Inconclusive, String::new());
        assert!(may_dismiss(&fails).is_err() && may_dismiss(&silent).is_err());
    }
}
