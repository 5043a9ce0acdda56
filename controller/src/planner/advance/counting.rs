//! What is counted about a stage, added up over the fleet's parts and looked into by place.
//!
//! What stays true: each place of a device has one count.
use leeway_protocol::time::Timestamp;

use crate::fleet::census::sooner;
use crate::fleet::{ByCohort, Finding};
use crate::rollout::Standing;
use crate::rollout::gate::Counts;

/// What is counted about a stage.
#[derive(Debug, Clone, Default)]
pub(super) struct Survey {
    pub(super) cohorts: ByCohort<Seen>,
    /// When time alone puts somebody in another place.
    pub(super) wake: Option<Timestamp>,
}

/// Devices of one cohort, or of all.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Seen {
    pub(super) counts: Counts,
    /// Told in the stage's scope.
    pub(super) told_in_scope: usize,
    /// Held back in the stage's scope.
    pub(super) held_in_scope: usize,
    /// Could be told or held back now.
    pub(super) free: usize,
    /// Of those held back, in any scope: have reported, have been silent for too long since, are heard of.
    pub(super) held_heard: usize,
    pub(super) held_lost: usize,
    pub(super) held_near: usize,
    /// Told in the stage's scope and with an outcome, and of these those that run the version.
    pub(super) finished: usize,
    pub(super) succeeded: usize,
    /// Will be told again by themselves, and could be now.
    pub(super) retries: usize,
    pub(super) retries_due: usize,
    /// Have to do with the rollout.
    pub(super) reach: usize,
    /// Have a failure on record.
    pub(super) failed: usize,
    /// A person asked for another try.
    pub(super) retry: usize,
    /// Told within the last [`super::RATE_WINDOW_MS`], and when the first of them was.
    pub(super) recent: usize,
    pub(super) oldest_recent: Option<Timestamp>,
    /// When the last one was told.
    pub(super) last_told: Option<Timestamp>,
}

/// Devices of one slice.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct OfSlice {
    pub(super) members: usize,
    pub(super) told: usize,
    pub(super) running: usize,
}

impl Finding for OfSlice {
    fn add(&mut self, other: &Self) {
        self.members += other.members;
        self.told += other.told;
        self.running += other.running;
    }
}

impl Finding for Survey {
    fn add(&mut self, other: &Self) {
        self.cohorts.add(&other.cohorts);
        self.wake = sooner(self.wake, other.wake);
    }
}

impl Finding for Seen {
    fn add(&mut self, other: &Self) {
        let Self { counts, told_in_scope, held_in_scope, free, held_heard, held_lost, held_near, finished, succeeded, .. } = other;
        let Self { retries, retries_due, reach, failed, retry, recent, oldest_recent, last_told, .. } = other;
        add_counts(&mut self.counts, counts);
        self.held_near += held_near;
        self.finished += finished;
        self.succeeded += succeeded;
        self.retries += retries;
        self.retries_due += retries_due;
        self.reach += reach;
        self.told_in_scope += told_in_scope;
        self.held_in_scope += held_in_scope;
        self.free += free;
        self.held_heard += held_heard;
        self.held_lost += held_lost;
        self.failed += failed;
        self.retry += retry;
        self.recent += recent;
        self.oldest_recent = sooner(self.oldest_recent, *oldest_recent);
        self.last_told = self.last_told.max(*last_told);
    }
}

/// Everything but `allowed`, which follows from the whole.
fn add_counts(to: &mut Counts, from: &Counts) {
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
