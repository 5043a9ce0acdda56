//! Changing a rollout that exists, as a file in Git does: what is not yet reached may be changed, what devices were told under may not.
//!
//! Stages that have begun, the gate, the control group and how devices go about it are what the evidence so far was collected
//! under; with others, it would be evidence about something else. What stays true: the same policy again changes nothing, and
//! an approval given for a stage does not outlive a change of that stage.
use leeway_protocol::time::Timestamp;

use super::{Actor, Rollout, RolloutPolicy, RolloutState, SpecError, Transition};

/// Why a rollout cannot be changed like that.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AmendError {
    /// It is over, or on its way back.
    #[error("rollout {id} is {phase} and cannot be changed any more: create another one")]
    Over {
        /// Which.
        id: String,
        /// Where it is.
        phase: &'static str,
    },
    /// The part has been used already.
    #[error(
        "rollout {id} is {phase} and {part} cannot be changed any more, because devices were told under it: abort it and create another one"
    )]
    Begun {
        /// Which.
        id: String,
        /// Where it is.
        phase: &'static str,
        /// Which part.
        part: String,
    },
    /// The new policy cannot work.
    #[error(transparent)]
    Spec(#[from] SpecError),
}

impl Rollout {
    /// Put another policy in the place of the present one; false if it says the same.
    pub fn amend(&mut self, policy: RolloutPolicy, by: &Actor, reason: &str, at: Timestamp) -> Result<bool, AmendError> {
        let own = &self.spec.policy;
        if *own == policy {
            return Ok(false);
        }
        policy.check()?;
        let (id, phase) = (self.id.to_string(), self.state.phase());
        let reached = match self.state {
            RolloutState::Planned => 0,
            RolloutState::Running { stage, .. } | RolloutState::Paused { stage, .. } => stage + 1,
            _ => return Err(AmendError::Over { id, phase }),
        };
        if let Some(part) = frozen(own, &policy, reached) {
            return Err(AmendError::Begun { id, phase, part });
        }
        let kept = own.stages.iter().zip(&policy.stages).take_while(|(old, new)| old == new).count();
        self.approvals.retain(|approval| approval.stage < kept);
        self.spec.policy = policy;
        self.updated_at = at;
        self.revision += 1;
        let (did, phase, sentence) = ("amend".to_owned(), phase.to_owned(), reason.to_owned());
        self.remember(Transition { at, by: by.clone(), did, phase, sentence });
        Ok(true)
    }
}

/// The first part that differs although it is in use.
fn frozen(old: &RolloutPolicy, new: &RolloutPolicy, reached: usize) -> Option<String> {
    if reached == 0 {
        return None;
    }
    let stage = (0..reached).find(|i| old.stages.get(*i) != new.stages.get(*i));
    if let Some(stage) = stage.and_then(|i| old.stages.get(i)) {
        return Some(format!("stage {:?}", stage.name));
    }
    let fixed = [
        ("its gate", old.gate != new.gate),
        ("its control_share", old.control_share != new.control_share),
        ("its hold_back_share", old.hold_back_share != new.hold_back_share),
        ("its balance_by", old.balance_by != new.balance_by),
        ("its settings", old.settings != new.settings),
    ];
    fixed.into_iter().find(|(_, differs)| *differs).map(|(part, _)| part.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rollout::{Approval, Move, RolloutSpec, Stage};

    fn rollout() -> Rollout {
        let (line, version) = ("rain".parse().unwrap(), "2".parse().unwrap());
        let spec = RolloutSpec { line, version, baseline: None, policy: RolloutPolicy::default() };
        Rollout::new("rain-2".parse().unwrap(), spec, "Why not.".to_owned(), by(), at())
    }

    fn by() -> Actor {
        Actor::from("ann".to_owned())
    }

    fn at() -> Timestamp {
        Timestamp::from_secs(5)
    }

    #[test]
    fn what_is_ahead_may_change_and_what_has_begun_may_not() {
        let mut rollout = rollout();
        let same = rollout.spec.policy.clone();
        assert_eq!(rollout.amend(same.clone(), &by(), "Again.", at()), Ok(false));
        assert_eq!(rollout.revision, 1, "the same again changes nothing");
        let gate = |policy: &RolloutPolicy| {
            let mut changed = policy.clone();
            changed.gate.min_devices = 7;
            changed
        };
        assert_eq!(rollout.amend(gate(&same), &by(), "Stricter.", at()), Ok(true), "before it begins, everything may");
        rollout.make(&Move::Start { reason: "Now.".to_owned(), baseline: None }, &by(), at()).unwrap();
        let own = rollout.spec.policy.clone();
        assert!(matches!(rollout.amend(same, &by(), "Back.", at()), Err(AmendError::Begun { part, .. }) if part == "its gate"));
        let mut first = own.clone();
        first.stages[0].soak_ms += 1;
        assert!(matches!(rollout.amend(first, &by(), "Longer.", at()), Err(AmendError::Begun { part, .. }) if part == "stage \"canary\""));
        rollout.approvals.push(Approval { stage: 1, by: "bob".to_owned(), at: at(), remark: String::new() });
        let mut later = own;
        later.stages.insert(1, Stage::share("tenth", 0.1));
        later.max_per_minute = 5;
        assert_eq!(rollout.amend(later, &by(), "A step more.", at()), Ok(true));
        assert!(rollout.approvals.is_empty(), "it was given for another stage");
        rollout.make(&Move::Abort { reason: "No.".to_owned() }, &by(), at()).unwrap();
        let other = RolloutPolicy { max_per_minute: 6, ..rollout.spec.policy.clone() };
        assert!(matches!(rollout.amend(other, &by(), "Too late.", at()), Err(AmendError::Over { .. })));
    }
}
