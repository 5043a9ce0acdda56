//! What a person asks of a rollout: checked against its state, its revision and its approvals, and carried out on the state.
//!
//! One function for the API, the command line, the page and the conformance suite. What stays true: every verb has a reason; a
//! verb bound to a revision does nothing once the rollout has moved on; nobody stands in for the second pair of eyes.
use std::collections::BTreeSet;
use std::sync::Arc;

use leeway_protocol::ids::{DeviceId, RolloutId};
use leeway_protocol::time::Timestamp;

use super::alarm::may_dismiss;
use super::gate::{Check, GateReport};
use super::{Action, Actor, Move, Rollout, Standing, standing};
use crate::snapshot::Snapshot;

/// What is asked.
#[derive(Debug, Clone)]
pub struct Ask<'a> {
    /// What to do.
    pub action: Action,
    /// Why, in a sentence.
    pub reason: String,
    /// Who asks.
    pub by: &'a str,
    /// Only if the rollout is still at this revision.
    pub revision: Option<u64>,
    /// For a dismissal: which check; the only one that stands, if absent.
    pub check: Option<String>,
}

/// What was done.
#[derive(Debug, Clone)]
pub struct Done {
    /// The rollout after it.
    pub rollout: Arc<Rollout>,
    /// Devices that are to try again.
    pub retried: BTreeSet<DeviceId>,
}

/// Why it was not done.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum VerbError {
    /// There is no such rollout.
    #[error("there is no rollout {0}")]
    Missing(RolloutId),
    /// It has changed since the person looked.
    #[error("rollout {id} changed since you looked (revision {seen}, now {now}): look again")]
    Stale {
        /// Which.
        id: RolloutId,
        /// The revision it was bound to.
        seen: u64,
        /// The present one.
        now: u64,
    },
    /// Its state does not allow it.
    #[error("{0}")]
    Refused(String),
}

/// Do it. `gate` answers what the gate says now, and is asked for dismissals only.
pub fn act(
    state: &mut Snapshot,
    at: Timestamp,
    id: &RolloutId,
    ask: Ask<'_>,
    gate: impl FnOnce(&Snapshot) -> Option<GateReport>,
) -> Result<Done, VerbError> {
    let Ask { action, reason, by, revision, check } = ask;
    let found = state.rollouts.get(id).cloned().ok_or_else(|| VerbError::Missing(id.clone()))?;
    let refused = |what: String| VerbError::Refused(what);
    if let Some(seen) = revision.filter(|seen| *seen != found.revision) {
        return Err(VerbError::Stale { id: id.clone(), seen, now: found.revision });
    }
    if action == Action::Approve && found.created_by.name() == by && found.needs_approval(found.state.next_stage()) {
        // Such an approval would count for nothing: better to say so now than to let people wait for it.
        return Err(refused(format!("rollout {id} was asked for by {by}: its approval must come from somebody else")));
    }
    if let Some(stage) = found.unapproved(action) {
        let (author, stage) = (found.created_by.name(), &stage.name);
        return Err(refused(format!("stage {stage} of rollout {id} must be approved first, by somebody other than {author}")));
    }
    let step = match action {
        Action::Approve => Move::Approve { remark: reason },
        Action::Pause => Move::Pause { reason, passed: false },
        Action::Resume => Move::Resume { reason },
        Action::Promote => Move::Promote { reason },
        Action::PromoteAll => Move::PromoteAll { reason },
        Action::Abort => Move::Abort { reason },
        Action::Dismiss if found.state.is_judged() => {
            let gate = gate(state).map_or_else(Vec::new, |gate| gate.checks);
            let check = standing_alarm(&gate, check.as_deref()).map_err(|what| refused(format!("rollout {id}: {what}")))?;
            Move::Dismiss { check: check.name.clone(), seen: check.seen, reason }
        }
        Action::Retry | Action::Dismiss if !found.state.allowed_actions().contains(&action) => {
            return Err(refused(format!("rollout {id} is {}: there is nothing to {}", found.state.phase(), action.as_str())));
        }
        Action::Dismiss | Action::Retry => return Ok(Done { retried: retry(state, &found, at), rollout: found }),
    };
    let rollouts = Arc::make_mut(&mut state.rollouts);
    let Some(slot) = rollouts.get_mut(id) else { return Err(VerbError::Missing(id.clone())) };
    Arc::make_mut(slot).make(&step, &Actor::from(by.to_owned()), at).map_err(|e| refused(format!("rollout {id}: {e}")))?;
    Ok(Done { rollout: Arc::clone(slot), retried: BTreeSet::new() })
}

/// The check a person means.
fn standing_alarm<'a>(checks: &'a [Check], named: Option<&str>) -> Result<&'a Check, String> {
    let open: Vec<&Check> = checks.iter().filter(|check| may_dismiss(check).is_ok()).collect();
    let names = || open.iter().map(|check| check.name.as_str()).collect::<Vec<_>>().join(", ");
    let Some(name) = named else {
        let alarms: Vec<&Check> = open.iter().copied().filter(|check| check.pauses).collect();
        return match (alarms.as_slice(), open.as_slice()) {
            ([one], _) | ([], [one]) => Ok(one),
            (_, []) => Err("no alarm stands that could be dismissed".to_owned()),
            _ => Err(format!("say which alarm to dismiss: {}", names())),
        };
    };
    let Some(check) = checks.iter().find(|check| check.name == name) else {
        let all: Vec<&str> = checks.iter().map(|check| check.name.as_str()).collect();
        return Err(format!("there is no check {name:?}; there are {}", all.join(", ")));
    };
    may_dismiss(check).map(|()| check)
}

/// Ask every device of a rollout that failed, or that did not answer in time, to try again.
fn retry(state: &mut Snapshot, rollout: &Rollout, at: Timestamp) -> BTreeSet<DeviceId> {
    let Some(manifest) = state.version(&rollout.spec.line, &rollout.spec.version).map(|v| v.manifest.digest) else {
        return BTreeSet::new();
    };
    let again = |place| matches!(place, Standing::FailedByModel | Standing::FailedOtherwise | Standing::Overdue | Standing::Unanswered);
    let failed = state.fleet.iter().filter(|d| again(standing(d, rollout, manifest, at)));
    let failed: BTreeSet<DeviceId> = failed.map(|d| d.id.clone()).collect();
    for device in &failed {
        if let Some(mut device) = state.fleet.device_mut(device) {
            device.retry = true;
        }
    }
    failed
}
