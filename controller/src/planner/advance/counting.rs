//! Counts of a rollout's devices, added up and looked into by place.
//!
//! What stays true: each place of a device has one count.
use crate::rollout::Standing;
use crate::rollout::gate::Counts;

/// Everything but `allowed`, which follows from the whole.
pub(super) fn add_counts(to: &mut Counts, from: &Counts) {
    let Counts { members, allowed: _, control, waiting, away, unseen, installing, on_trial, running, .. } = from;
    let Counts { lost, failed_by_model, failed_otherwise, overdue, recalled, exposed, .. } = from;
    let Counts { unreachable, unanswered, deferred, held_back, .. } = from;
    to.unreachable += unreachable;
    to.unanswered += unanswered;
    to.deferred += deferred;
    to.held_back += held_back;
    to.members += members;
    to.control += control;
    to.waiting += waiting;
    to.away += away;
    to.unseen += unseen;
    to.installing += installing;
    to.on_trial += on_trial;
    to.running += running;
    to.lost += lost;
    to.failed_by_model += failed_by_model;
    to.failed_otherwise += failed_otherwise;
    to.overdue += overdue;
    to.recalled += recalled;
    to.exposed += exposed;
}

/// Devices counted in a place.
pub(super) fn counted(counts: &Counts, place: Standing) -> usize {
    match place {
        Standing::Untold => counts.waiting + counts.away,
        Standing::Control => counts.control,
        Standing::Unseen => counts.unseen,
        Standing::Installing => counts.installing,
        Standing::OnTrial => counts.on_trial,
        Standing::Running => counts.running,
        Standing::Lost => counts.lost,
        Standing::FailedByModel => counts.failed_by_model,
        Standing::FailedOtherwise => counts.failed_otherwise,
        Standing::Overdue => counts.overdue,
        Standing::Recalled => counts.recalled,
        Standing::Unreachable => counts.unreachable,
        Standing::Unanswered => counts.unanswered,
        Standing::Deferred => counts.deferred,
    }
}
