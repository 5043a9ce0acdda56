//! What forbids to ask for a better model although there is cause: one table, for every cause.
//!
//! | limit | drift | schedule | another system | a person |
//! |---|---|---|---|---|
//! | retraining is not automatic for the line | no | no | no | may |
//! | a rollout of the line is under way | no | no | no | may |
//! | a job of the line is under way | no | no | no | no |
//! | cool-down, jobs per period | no | no | no | may |
//! | labelled rows | no | no | no | may |
//! | quorum of cohorts | no | – | – | – |
//! | budget for 30 days | no | no | no | no |
//!
//! A person is bound where another would be harmed by it (two jobs at once, somebody's money), and may else know better. Cost is what
//! the line's policy *declares* a run to cost; it is counted when a job is asked for, whatever comes of it, because a run that failed
//! was paid for as well. The budget is for any 30 days and not for a calendar month: with those, the last and the first of two would
//! spend two budgets within a day. What stays true: a new cause is bound by everything, unless this table says otherwise.
use std::collections::BTreeSet;

use leeway_protocol::time::Timestamp;
use serde::{Deserialize, Serialize};

use super::TriggerPolicy;
use crate::retraining::job::{JobState, TrainingJob, Trigger};

/// What a budget is for.
pub const MONTH_MS: i64 = 30 * 86_400_000;
/// The same refusal of the same cause is written down again after this time, if it still stands.
const AGAIN_MS: i64 = 86_400_000;

/// One thing that may forbid it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Limit {
    /// Retraining is not automatic for the line.
    NotAutomatic,
    /// A rollout of the line is under way.
    RolloutOpen,
    /// A job of the line is under way.
    JobOpen,
    /// The last job is too young.
    CoolDown,
    /// Too many jobs in the period.
    Quota,
    /// Too few labelled rows.
    Rows,
    /// Too few cohorts are hurt.
    Quorum,
    /// The budget is spent.
    Cost,
}

/// One limit that holds, with its sentence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// Which.
    pub limit: Limit,
    /// What is missing.
    pub sentence: String,
}

/// Cause there was, and nothing was asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Withheld {
    /// When.
    pub at: Timestamp,
    /// The cause.
    pub trigger: Trigger,
    /// What forbade it.
    pub limits: BTreeSet<Limit>,
    /// Both in a sentence.
    pub sentence: String,
}

impl Withheld {
    /// `reason` to ask for a model of this `trigger`, and what forbade it.
    pub fn new(trigger: Trigger, reason: &str, refusals: &[Refusal], at: Timestamp) -> Self {
        let why: Vec<&str> = refusals.iter().map(|refusal| refusal.sentence.as_str()).collect();
        let sentence = format!("No better model is asked for, though there is cause ({}). {}", reason.trim_end_matches('.'), why.join(" "));
        Self { at, trigger, limits: refusals.iter().map(|refusal| refusal.limit).collect(), sentence }
    }

    /// Whether it says something that `before` and the jobs since then do not: what the controller looks at again and again is
    /// written down once a day at most.
    pub fn is_news(&self, before: &[Self], last_asked: Option<Timestamp>) -> bool {
        let said = |old: &Self| {
            old.limits == self.limits
                && old.trigger.as_str() == self.trigger.as_str()
                && self.at.millis_since(old.at) < AGAIN_MS
                && last_asked.is_none_or(|asked| asked <= old.at)
        };
        !before.iter().any(said)
    }
}

/// What a line has on its hands.
#[derive(Debug, Clone, Copy)]
pub struct Load<'a> {
    /// Its jobs.
    pub jobs: &'a [&'a TrainingJob],
    /// Whether a rollout of it is under way.
    pub rollout_open: bool,
    /// Labelled rows that wait for training.
    pub rows: u64,
    /// Cohorts that drift hurts, where that is the cause.
    pub cohorts: Option<usize>,
    /// Since when the line exists.
    pub since: Timestamp,
    /// Now.
    pub now: Timestamp,
}

impl Load<'_> {
    /// When the last job was asked for.
    pub fn last_asked(&self) -> Option<Timestamp> {
        self.jobs.iter().map(|job| job.request.asked_at).max()
    }

    /// What the jobs of the last 30 days were declared to cost.
    pub fn spent(&self) -> u64 {
        let recent = self.jobs.iter().filter(|job| self.now.millis_since(job.request.asked_at) < MONTH_MS);
        recent.fold(0, |sum, job| sum.saturating_add(job.request.cost))
    }
}

/// Everything that forbids to ask, for this cause.
pub fn limits(policy: &TriggerPolicy, trigger: &Trigger, load: &Load<'_>) -> Vec<Refusal> {
    let by_person = matches!(trigger, Trigger::Asked { .. });
    let mut refusals = Vec::new();
    let mut refuse = |limit, sentence: String| refusals.push(Refusal { limit, sentence });
    if let Some(job) = load.jobs.iter().find(|job| job.state.is_open()) {
        let (id, state) = (&job.request.id, job.state.as_str());
        refuse(Limit::JobOpen, format!("A training job is already under way ({id}: {state})."));
    }
    if let Some(sentence) = over_budget(policy, load) {
        refuse(Limit::Cost, sentence);
    }
    if by_person {
        return refusals;
    }
    if !policy.automatic {
        refuse(Limit::NotAutomatic, "Retraining is not automatic for this line.".to_owned());
    }
    if load.rollout_open {
        refuse(Limit::RolloutOpen, "A rollout of this line is under way; its outcome is awaited first.".to_owned());
    }
    let recent = load.jobs.iter().filter(|job| {
        !matches!(job.request.trigger, Trigger::Asked { .. }) && load.now.millis_since(job.request.asked_at) < policy.period_ms
    });
    let recent = recent.count();
    if recent >= policy.max_jobs as usize {
        let allowed = policy.max_jobs;
        refuse(Limit::Quota, format!("A training job would be one too many: {recent} in this period, {allowed} are allowed."));
    }
    // A job that broke is retried by its own rules; it cools nothing down.
    let last = load.jobs.iter().filter(|job| !matches!(job.state, JobState::Failed { .. })).map(|job| job.updated_at).max();
    if let Some(at) = last.filter(|&at| load.now.millis_since(at) < policy.cool_down_ms) {
        let rest = (policy.cool_down_ms - load.now.millis_since(at)) / 1000;
        refuse(Limit::CoolDown, format!("The last training job changed at {at}; the next may be asked for in {rest} s."));
    }
    if load.rows < policy.min_rows {
        refuse(Limit::Rows, format!("Only {} labelled rows wait for training, {} are needed.", load.rows, policy.min_rows));
    }
    if let Some(cohorts) = load.cohorts.filter(|&cohorts| cohorts < policy.min_cohorts as usize) {
        refuse(Limit::Quorum, format!("{cohorts} cohorts have a reason to retrain; {} are needed.", policy.min_cohorts));
    }
    refusals
}

fn over_budget(policy: &TriggerPolicy, load: &Load<'_>) -> Option<String> {
    let (budget, spent) = (policy.cost_per_month?, load.spent());
    let beyond = spent.saturating_add(policy.cost_per_run) > budget;
    beyond.then(|| format!("A run costs {}, and {spent} of the {budget} for any 30 days are spent.", policy.cost_per_run))
}

#[cfg(test)]
mod tests;
