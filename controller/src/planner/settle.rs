//! After a rollout: the version becomes champion, and its cohorts' last known good.
//!
//! A rule of its own, because a rollout can be completed by the gate or by a person, and both must lead to the same thing.
//! The last known good moves only here, after the last soak: until then every rollback has somewhere older to go.
use std::sync::Arc;

use super::draft::Draft;
use super::plan::Step;
use crate::registry::Alias;
use crate::rollout::{Move, Rollout, RolloutState};

/// Settle every completed rollout once.
pub fn decide(draft: &mut Draft<'_>) {
    let open: Vec<Arc<Rollout>> =
        draft.state.rollouts.values().filter(|r| matches!(r.state, RolloutState::Completed { settled: false, .. })).cloned().collect();
    for rollout in open {
        settle(draft, &rollout);
    }
    forget_challengers(draft);
}

fn settle(draft: &mut Draft<'_>, rollout: &Rollout) {
    let spec = &rollout.spec;
    let in_scope = spec.policy.stages.last().map_or(&[][..], |stage| stage.cohorts.as_slice());
    let cohorts = draft.cohorts(&spec.line);
    let whole = in_scope.is_empty() || cohorts.iter().all(|c| in_scope.contains(&c.name));
    for cohort in cohorts.iter().filter(|c| in_scope.is_empty() || in_scope.contains(&c.name)) {
        if cohort.last_known_good.as_ref() != Some(&spec.version) {
            let reason = format!("Rollout {} completed: cohort {} now goes back to version {}.", rollout.id, cohort.name, spec.version);
            draft.push(Step::SetLastKnownGood { cohort: cohort.name.clone(), version: Some(spec.version.clone()), reason });
        }
    }
    let settled = if whole {
        let reason = format!("Rollout {} completed: version {} is champion.", rollout.id, spec.version);
        let (line, to) = (spec.line.clone(), Some(spec.version.clone()));
        draft.push(Step::SetAlias { line, alias: Alias::Champion, to, rollout: Some(rollout.id.clone()), reason: reason.clone() });
        reason
    } else {
        format!("Rollout {} completed in its cohorts; the champion stays, because other cohorts of the line were left out.", rollout.id)
    };
    draft.push(Step::MoveRollout { rollout: rollout.id.clone(), to: Move::Settle { reason: settled } });
}

/// A challenger is one only while its rollout goes on.
fn forget_challengers(draft: &mut Draft<'_>) {
    let lines: Vec<_> = draft.state.lines.values().cloned().collect();
    for line in lines {
        let Some(version) = line.aliases.current(Alias::Challenger) else { continue };
        let going = |r: &Arc<Rollout>| r.spec.line == line.line && r.spec.version == *version && !r.state.is_over();
        if draft.state.rollouts.values().any(going) {
            continue;
        }
        let reason = format!("The rollout of version {version} is over.");
        draft.push(Step::SetAlias { line: line.line.clone(), alias: Alias::Challenger, to: None, rollout: None, reason });
    }
}
