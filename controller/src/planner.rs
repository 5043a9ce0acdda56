//! Decisions as a value: one snapshot in, a plan and a report out, and nothing else is looked at.
//!
//! The rules run in an order that is itself a rule: what takes a bad version back comes before anything that could spread one.
//! They run over a working copy of the snapshot to which each step is applied at once, again and again until nothing more
//! follows. So a plan is complete for its moment: carried out, the next plan for the same moment is empty; planned again from
//! the same snapshot, it is the same plan. One thing cuts it short: it tells or holds back no more than so many devices
//! ([`Policy::devices_per_plan`]), because whoever carries it out can do nothing else meanwhile; then it says that the next is due at
//! once, and a few plans in a row are complete. Nothing here remembers anything from one call to the next; what the fleet remembers of
//! what was counted in it ([`crate::fleet::census`]) saves time and changes no plan.
use leeway_protocol::time::Timestamp;

use crate::snapshot::Snapshot;

pub mod advance;
pub mod converge;
pub mod draft;
pub mod plan;
pub mod report;
pub mod retrain;
pub mod rollback;
pub mod settle;

pub use plan::{Plan, Policy, Step};
pub use report::{CohortReport, Condition, LineReport, PlanReport, RolloutReport};

use draft::Draft;

/// Rounds of rules in one plan. Each round but the last adds a step; a rollout's life has some ten moves, so this is never
/// reached by rules that agree, and stops two that do not.
pub const MAX_ROUNDS: usize = 32;

/// What to do now, and why nothing else.
pub fn plan(snapshot: &Snapshot, policy: &Policy, now: Timestamp) -> (Plan, PlanReport) {
    let mut draft = Draft::new(snapshot, policy, now);
    for _ in 0..MAX_ROUNDS {
        let before = draft.steps();
        draft.begin_round();
        rollback::decide(&mut draft);
        settle::decide(&mut draft);
        advance::decide(&mut draft);
        if draft.steps() > before {
            // The rest looks at where rollouts have come to rest; in between, a device would be told two things at once.
            continue;
        }
        converge::decide(&mut draft);
        retrain::decide(&mut draft);
        if draft.steps() == before {
            break;
        }
    }
    draft.finish()
}

#[cfg(test)]
pub(crate) mod tests;
