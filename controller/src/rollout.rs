//! Rollouts: one version on its way through a fleet, stage by stage, with a control group and a gate behind every stage.
//!
//! The rollout's document holds what was asked for ([`RolloutSpec`]) and where it is ([`RolloutState`]). Who is in it stands
//! on each device ([`crate::fleet::Part`]), what was measured in [`evidence::Evidence`]. What stays true: every change of
//! state goes through [`state::RolloutState::after`], whether a person or the planner asks for it.
use leeway_protocol::ids::{Cohort, Line, RolloutId, Version};
use leeway_protocol::time::Timestamp;
use serde::{Deserialize, Serialize};

pub mod alarm;
pub mod amend;
pub mod evidence;
pub mod file;
pub mod gate;
pub mod pace;
pub mod possible;
pub mod shared;
pub mod stage;
pub mod standing;
pub mod state;
pub mod verb;

pub use alarm::{AbortAction, AbortRule, Dismissal, FailureType};
pub use gate::{GatePolicy, Guardrail};
pub use pace::{Every, Ramp, Retries};
pub use stage::{Membership, OnSuccess, Stage, StageEnd};
pub use standing::{Standing, standing};
pub use state::{Action, Actor, IllegalMove, Move, RolloutState};

use crate::fleet::{Arm, Device, DeviceSettings, Selector};
use crate::foresight::RiskBudget;
use leeway_protocol::digest::Digest;

/// The most stages a rollout may have.
pub const MAX_STAGES: usize = 32;
/// Transitions kept on the document; older ones stay in the event log.
pub const MAX_TRANSITIONS: usize = 128;

/// How a version is brought out: what a line's default is made of, and every rollout's own copy.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RolloutPolicy {
    /// In order; each takes in at least what the one before did.
    pub stages: Vec<Stage>,
    /// Share of each stratum held back on the baseline until the last stage, to compare with.
    pub control_share: f64,
    /// What is compared, and what is needed before a stage may end.
    pub gate: GatePolicy,
    /// Devices that are between "told" and "runs it" at one time, at most.
    pub max_in_flight: u32,
    /// Devices told per minute, at most. Late joiners count too.
    pub max_per_minute: u32,
    /// A rate that grows with what has been reached, under `max_per_minute`; constant if absent.
    pub rate: Option<Ramp>,
    /// Stop when too many devices failed in one way, beside the gate.
    pub abort: Vec<AbortRule>,
    /// Failed devices that are told again without being asked.
    pub retries: Retries,
    /// A device that has not finished after so many milliseconds is overdue: it no longer holds up others, and stays visible.
    /// Time in which it waits for its maintenance window does not count.
    pub device_deadline_ms: u64,
    /// A device that was told and has not taken note of it after so many milliseconds has not answered; 0 for
    /// `device_deadline_ms`.
    pub unseen_after_ms: u64,
    /// A device that has not been told and has been away for so many milliseconds is left out of a stage's share until it returns.
    pub offline_after_ms: u64,
    /// Inferences that a device must have served with the version before it counts as running it.
    pub proof_inferences: u32,
    /// Share of the line's devices, by a hash of their names, that stay one version behind until a person releases them; what
    /// the line's own policy says counts for each of its rollouts.
    pub hold_back_share: f64,
    /// Whether a person must approve before the first device is told.
    pub require_approval: bool,
    /// Device label to balance the draw over, besides the cohort; such as `hw`.
    pub balance_by: Option<String>,
    /// Labels (or `cohort`) by which a version may be judged apart: where it fails only on devices with one value of one of them,
    /// these go back and the others go on. Empty: whoever fails, everyone goes back.
    pub slice_by: Vec<String>,
    /// How a device goes about it.
    #[schema(value_type = Object)]
    pub settings: DeviceSettings,
    /// What it may cost at worst; a rollout that is foreseen to cost more is not begun. Without one, the forecast is only shown.
    pub risk: Option<RiskBudget>,
}

impl Default for RolloutPolicy {
    fn default() -> Self {
        Self {
            stages: vec![Stage::share("canary", 0.05), Stage::share("quarter", 0.25), Stage::share("all", 1.0)],
            control_share: 0.2,
            gate: GatePolicy::default(),
            max_in_flight: 1000,
            max_per_minute: 1000,
            rate: None,
            abort: Vec::new(),
            retries: Retries::default(),
            device_deadline_ms: 30 * 60_000,
            unseen_after_ms: 0,
            offline_after_ms: 24 * 3_600_000,
            proof_inferences: 1,
            hold_back_share: 0.0,
            require_approval: false,
            balance_by: None,
            slice_by: vec!["hw".to_owned()],
            settings: DeviceSettings { spread_ms: 30_000, ..DeviceSettings::default() },
            risk: None,
        }
    }
}

/// What was asked for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct RolloutSpec {
    /// The model line.
    #[schema(value_type = String)]
    pub line: Line,
    /// The version to bring out.
    #[schema(value_type = String)]
    pub version: Version,
    /// What runs now, and what control devices stay on: the champion, set again when the rollout begins; `None` for a line's
    /// first version.
    #[schema(value_type = Option<String>)]
    pub baseline: Option<Version>,
    /// How.
    pub policy: RolloutPolicy,
}

/// One change of state.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Transition {
    /// When.
    pub at: Timestamp,
    /// Who.
    pub by: Actor,
    /// What was done, in one word.
    pub did: String,
    /// Where it led.
    pub phase: String,
    /// Why, in a sentence.
    pub sentence: String,
}

/// An approval of a stage.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Approval {
    /// Which stage, from 0.
    pub stage: usize,
    /// Who.
    pub by: String,
    /// When.
    pub at: Timestamp,
    /// What they say.
    #[serde(default)]
    pub remark: String,
}

/// A rollout.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Rollout {
    /// Its name.
    pub id: RolloutId,
    /// What was asked for.
    pub spec: RolloutSpec,
    /// Where it is.
    pub state: RolloutState,
    /// Why it was created, in a sentence.
    pub reason: String,
    /// Who created it.
    pub created_by: Actor,
    /// When. Of two for one line, the earlier goes first.
    pub created_at: Timestamp,
    /// When it last changed.
    pub updated_at: Timestamp,
    /// Rises with every change; the ETag of the API.
    pub revision: u64,
    /// Approvals given.
    #[serde(default)]
    pub approvals: Vec<Approval>,
    /// Alarms that a person has waved through.
    #[serde(default)]
    pub dismissed: Vec<Dismissal>,
    /// What happened to it, the latest last, at most [`MAX_TRANSITIONS`].
    #[serde(default)]
    pub transitions: Vec<Transition>,
    /// How the stages behind it ended, in order.
    #[serde(default)]
    pub ended: Vec<StageEnd>,
}

/// A rollout that cannot be created.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SpecError {
    /// Too few or too many stages.
    #[error("a rollout needs 1 to {MAX_STAGES} stages, this one has {0}")]
    Stages(usize),
    /// A share outside its range.
    #[error("stage {stage:?} has a share of {share}: use more than 0 and at most 1")]
    Share {
        /// Which stage.
        stage: String,
        /// Its share.
        share: String,
    },
    /// A later stage that is smaller.
    #[error("stage {stage:?} is smaller than the stage before it: a rollout only widens")]
    Narrowing {
        /// Which stage.
        stage: String,
    },
    /// A last stage that leaves out some of the devices a former one may reach.
    #[error("the last stage ({stage:?}) must take in everyone: a share of 1, no selector, and every cohort an earlier stage names")]
    Unfinished {
        /// Which stage.
        stage: String,
    },
    /// A control share outside its range.
    #[error("a control share of {0} leaves no comparison: use 0 to 0.5")]
    Control(String),
    /// The version may not be assigned.
    #[error("version {version} cannot be rolled out: {problem}")]
    Version {
        /// Which version.
        version: Version,
        /// Why not.
        problem: String,
    },
    /// A named cohort that does not exist or belongs to another line.
    #[error("stage {stage:?} names cohort {cohort}, which is not a cohort of this line")]
    Cohort {
        /// Which stage.
        stage: String,
        /// Which cohort.
        cohort: Cohort,
    },
    /// A limit of zero that would stop everything.
    #[error("{0} must be at least 1: with 0 nothing would ever happen")]
    Zero(&'static str),
    /// A ramp that does not ramp, or jumps.
    #[error("a rate's factor of {0} is outside 1.1 to 5")]
    Factor(String),
    /// A ramp that begins above its end.
    #[error("a rate of {base} per minute cannot begin above its maximum of {max}")]
    Ramp {
        /// Where it begins.
        base: u32,
        /// Where it ends.
        max: u32,
    },
    /// Too many automatic retries.
    #[error("{0} automatic retries are more than the {max} allowed: a device that fails so often needs a person", max = pace::MAX_RETRIES)]
    Retries(u32),
    /// A threshold outside its range.
    #[error("an abort criterion's threshold_share of {0} is not more than 0 and at most 1")]
    Threshold(String),
    /// Too many criteria.
    #[error("{0} abort criteria are more than the {max} allowed", max = alarm::MAX_RULES)]
    Rules(usize),
    /// A success share outside its range.
    #[error("stage {stage:?} has a success_share of {share}: use 0 to 1")]
    Success {
        /// Which stage.
        stage: String,
        /// Its share.
        share: String,
    },
    /// A maintenance window in no time zone.
    #[error("the maintenance window: {0}")]
    Window(String),
    /// A hold-back outside its range.
    #[error("a hold_back_share of {0} leaves too few devices: use 0 to 0.5")]
    HoldBack(String),
    /// A risk budget that cannot be meant.
    #[error("risk: {0}")]
    Risk(String),
    /// A guardrail that does not say enough, or contradicts itself.
    #[error("gate: {0}")]
    Gate(String),
}

impl RolloutPolicy {
    /// The same with every approval and hold-back that `least` asks for: before the first device, and before the first stage that reaches as
    /// large a share as a stage of `least` that needs one.
    pub fn with_approvals_of(mut self, least: &Self) -> Self {
        self.require_approval |= least.require_approval;
        self.hold_back_share = self.hold_back_share.max(least.hold_back_share);
        if self.stages != least.stages {
            for own in least.stages.iter().filter(|stage| stage.require_approval) {
                if let Some(as_large) = self.stages.iter_mut().find(|stage| stage.share >= own.share) {
                    as_large.require_approval = true;
                }
            }
        }
        self
    }

    /// Refuse what could not work.
    pub fn check(&self) -> Result<(), SpecError> {
        if self.stages.is_empty() || self.stages.len() > MAX_STAGES {
            return Err(SpecError::Stages(self.stages.len()));
        }
        for stage in &self.stages {
            if !(stage.share > 0.0 && stage.share <= 1.0) {
                return Err(SpecError::Share { stage: stage.name.clone(), share: stage.share.to_string() });
            }
            if !(0.0..=1.0).contains(&stage.success_share) {
                return Err(SpecError::Success { stage: stage.name.clone(), share: stage.success_share.to_string() });
            }
        }
        for pair in self.stages.windows(2) {
            let [before, after] = pair else { continue };
            if before.scope() == after.scope() && after.share < before.share {
                return Err(SpecError::Narrowing { stage: after.name.clone() });
            }
        }
        let covers = |last: &Stage, s: &Stage| {
            last.cohorts.is_empty() || (!s.cohorts.is_empty() && s.cohorts.iter().all(|c| last.cohorts.contains(c)))
        };
        let everyone = |last: &Stage| last.share >= 1.0 && last.selector == Selector::everything();
        if let Some(last) = self.stages.last().filter(|last| !everyone(last) || !self.stages.iter().all(|s| covers(last, s))) {
            return Err(SpecError::Unfinished { stage: last.name.clone() });
        }
        if !(0.0..=0.5).contains(&self.control_share) {
            return Err(SpecError::Control(self.control_share.to_string()));
        }
        for (what, value) in [("max_in_flight", self.max_in_flight), ("max_per_minute", self.max_per_minute)] {
            if value == 0 {
                return Err(SpecError::Zero(what));
            }
        }
        self.check_pace()
    }

    fn check_pace(&self) -> Result<(), SpecError> {
        if !(0.0..=0.5).contains(&self.hold_back_share) {
            return Err(SpecError::HoldBack(self.hold_back_share.to_string()));
        }
        if self.abort.len() > alarm::MAX_RULES {
            return Err(SpecError::Rules(self.abort.len()));
        }
        if let Some(Err(problem)) = self.settings.window.map(|window| window.check()) {
            return Err(SpecError::Window(problem.to_string()));
        }
        self.abort.iter().try_for_each(AbortRule::check)?;
        self.retries.check()?;
        if let Some(problem) = self.risk.as_ref().and_then(RiskBudget::problem) {
            return Err(SpecError::Risk(problem));
        }
        self.gate.check().map_err(SpecError::Gate)?;
        self.rate.as_ref().map_or(Ok(()), Ramp::check)
    }

    /// Devices that may be told within a minute once so many were told and so many run the version.
    pub fn per_minute(&self, notified: usize, succeeded: usize) -> u32 {
        self.rate.as_ref().map_or(self.max_per_minute, |ramp| ramp.per_minute(notified, succeeded).min(self.max_per_minute))
    }
}

impl Rollout {
    /// A rollout that waits for its turn.
    pub fn new(id: RolloutId, spec: RolloutSpec, reason: String, created_by: Actor, created_at: Timestamp) -> Self {
        let (approvals, dismissed, transitions, ended) = Default::default();
        let (state, updated_at, revision) = (RolloutState::Planned, created_at, 1);
        Self { id, spec, state, reason, created_by, created_at, updated_at, revision, approvals, dismissed, transitions, ended }
    }

    /// The stage it is in, if it is in one.
    pub fn stage(&self) -> Option<(usize, &Stage)> {
        let index = self.state.stage()?;
        self.spec.policy.stages.get(index).map(|stage| (index, stage))
    }

    /// Whether `stage` is the last.
    pub fn is_last(&self, stage: usize) -> bool {
        stage + 1 >= self.spec.policy.stages.len()
    }

    /// Whether devices are held back in `stage`. The last stage takes in everyone, unless it is the only one.
    pub fn holds_control(&self, stage: usize) -> bool {
        self.spec.baseline.is_some() && self.spec.policy.control_share > 0.0 && !self.is_last(stage)
    }

    /// Whether `stage` may not begin before a person has approved it.
    pub fn needs_approval(&self, stage: usize) -> bool {
        let own = self.spec.policy.stages.get(stage).is_some_and(|s| s.require_approval);
        own || (stage == 0 && self.spec.policy.require_approval)
    }

    /// Whether `stage` may begin: it asks for no approval, or has one by somebody other than the rollout's author.
    pub fn is_approved(&self, stage: usize) -> bool {
        let author = self.created_by.name();
        !self.needs_approval(stage) || self.approvals.iter().any(|a| a.stage == stage && a.by != author)
    }

    /// The stage that `action` would begin or skip though its approval is missing. Whoever runs the fleet may wait for no gate,
    /// but cannot stand in for the second pair of eyes.
    pub fn unapproved(&self, action: Action) -> Option<&Stage> {
        let next = self.state.next_stage();
        let end = match (action, &self.state) {
            (Action::PromoteAll, _) => self.spec.policy.stages.len(),
            (Action::Promote, _) | (Action::Resume, RolloutState::Paused { passed: true, .. }) => next + 1,
            _ => next,
        };
        let missing = (next..end).find(|stage| !self.is_approved(*stage))?;
        self.spec.policy.stages.get(missing)
    }

    /// Which arm a window of `device` about `manifest` counts for, or `None`. Comparisons are frozen while no control group is
    /// held (the last stage), because the two sides would not have seen the same days.
    pub fn arm_of(&self, device: &Device, manifest: Digest, candidate: Digest, baseline: Option<Digest>) -> Option<Arm> {
        let part = device.part_in(&self.id)?;
        if !self.state.stage().is_some_and(|stage| self.holds_control(stage)) {
            return None;
        }
        match part.arm {
            Arm::Canary if manifest == candidate => Some(Arm::Canary),
            Arm::Control if Some(manifest) == baseline => Some(Arm::Control),
            _ => None,
        }
    }

    /// Make a legal move, and remember it.
    pub fn make(&mut self, step: &Move, by: &Actor, at: Timestamp) -> Result<(), IllegalMove> {
        let state = self.state.after(step, by, at, self.spec.policy.stages.len())?;
        if let Move::Approve { remark } = step {
            let stage = self.state.next_stage();
            self.approvals.push(Approval { stage, by: by.name().to_owned(), at, remark: remark.clone() });
        }
        if let (Move::Dismiss { check, seen, reason }, Some(stage)) = (step, self.state.stage()) {
            self.dismissed.retain(|old| old.stage != stage || old.check != *check);
            let (check, by, reason) = (check.clone(), by.name().to_owned(), reason.clone());
            self.dismissed.push(Dismissal { stage, check, seen: *seen, by, at, reason });
        }
        if let Move::Start { baseline, .. } = step {
            self.spec.baseline.clone_from(baseline);
        }
        self.note_end(step, &state);
        self.state = state;
        self.updated_at = at;
        self.revision += 1;
        let (did, phase, sentence) = (step.as_str().to_owned(), self.state.phase().to_owned(), step.sentence().to_owned());
        self.remember(Transition { at, by: by.clone(), did, phase, sentence });
        Ok(())
    }

    /// Write down how the stage ended that a move leaves behind.
    fn note_end(&mut self, step: &Move, after: &RolloutState) {
        let Some(left) = self.state.stage() else { return };
        let reached = match after {
            RolloutState::Running { stage, .. } => *stage,
            RolloutState::Completed { .. } => left + 1,
            _ => return,
        };
        let passed = matches!(self.state, RolloutState::Paused { passed: true, .. });
        let by_hand = matches!(step, Move::Promote { .. } | Move::PromoteAll { .. }) && !passed;
        if reached > left {
            self.ended.resize(left, StageEnd::Passed);
            self.ended.push(if by_hand { StageEnd::Promoted } else { StageEnd::Passed });
            self.ended.resize(reached, StageEnd::Skipped);
        }
    }

    fn remember(&mut self, transition: Transition) {
        self.transitions.push(transition);
        if self.transitions.len() > MAX_TRANSITIONS {
            self.transitions.remove(0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn how_each_stage_ended_is_remembered() {
        let (by, at) = (Actor::Controller, Timestamp::from_secs(1));
        let why = || "because".to_owned();
        let start = || Move::Start { reason: why(), baseline: None };
        let advance = || Move::Advance { reason: why() };
        let pause = |passed| Move::Pause { reason: why(), passed };
        let (resume, promote) = (|| Move::Resume { reason: why() }, || Move::Promote { reason: why() });
        use StageEnd::{Passed, Promoted, Skipped};
        let table: [(Vec<Move>, Vec<StageEnd>); 6] = [
            (vec![start()], vec![]),
            (vec![start(), advance(), advance(), Move::Complete { reason: why() }], vec![Passed, Passed, Passed]),
            (vec![start(), promote(), advance()], vec![Promoted, Passed]),
            (vec![start(), Move::PromoteAll { reason: why() }], vec![Promoted, Skipped]),
            (vec![start(), pause(false), resume(), pause(true), resume()], vec![Passed]),
            (vec![start(), pause(true), promote(), Move::Abort { reason: why() }], vec![Passed]),
        ];
        for (moves, ended) in table {
            let spec = RolloutSpec {
                line: "rain".parse().unwrap(),
                version: "2".parse().unwrap(),
                baseline: None,
                policy: RolloutPolicy::default(),
            };
            let mut rollout = Rollout::new("r".parse().unwrap(), spec, why(), by.clone(), at);
            moves.iter().for_each(|step| rollout.make(step, &by, at).unwrap());
            assert_eq!(rollout.ended, ended, "{moves:?}");
        }
    }

    fn policy(needs: [bool; 3], first: bool) -> RolloutPolicy {
        let mut policy = RolloutPolicy { require_approval: first, ..RolloutPolicy::default() };
        for (stage, needs) in policy.stages.iter_mut().zip(needs) {
            stage.require_approval = needs;
        }
        policy
    }

    #[test]
    fn nobody_promotes_past_an_approval() {
        let at = Timestamp::from_secs(1_000_000);
        let why = || "because".to_owned();
        let by = |name: &str| Actor::from(name.to_owned());
        let rollout = |needs| {
            let (line, version) = ("rain".parse().unwrap(), "2".parse().unwrap());
            let spec = RolloutSpec { line, version, baseline: None, policy: policy(needs, false) };
            let mut rollout = Rollout::new("rain-2".parse().unwrap(), spec, why(), by("ann"), at);
            rollout.make(&Move::Start { reason: why(), baseline: None }, &by("controller"), at).unwrap();
            rollout
        };
        let missing = |rollout: &Rollout, action| rollout.unapproved(action).map(|stage| stage.name.clone());
        let all = || Some("all".to_owned());
        let free = rollout([false, false, false]);
        assert!([Action::Promote, Action::PromoteAll, Action::Resume].iter().all(|action| free.unapproved(*action).is_none()));

        let mut held = rollout([false, false, true]);
        assert_eq!((missing(&held, Action::Promote), missing(&held, Action::PromoteAll)), (None, all()));
        held.make(&Move::Promote { reason: why() }, &by("ann"), at).unwrap();
        held.make(&Move::Approve { remark: why() }, &by("ann"), at).unwrap();
        assert_eq!((missing(&held, Action::Promote), missing(&held, Action::PromoteAll)), (all(), all()), "one's own counts for nothing");
        for action in [Action::Resume, Action::Pause, Action::Abort, Action::Approve] {
            assert_eq!(missing(&held, action), None, "{}", action.as_str());
        }
        held.make(&Move::Pause { reason: why(), passed: true }, &by("controller"), at).unwrap();
        assert_eq!(missing(&held, Action::Resume), all(), "going on after a passed gate begins the next stage");
        held.make(&Move::Approve { remark: why() }, &by("bob"), at).unwrap();
        for action in [Action::Resume, Action::Promote, Action::PromoteAll] {
            assert_eq!(missing(&held, action), None, "{}", action.as_str());
        }
    }

    #[test]
    fn a_rollout_of_its_own_policy_keeps_the_approvals_of_its_line() {
        let needs = |policy: &RolloutPolicy| policy.stages.iter().map(|stage| stage.require_approval).collect::<Vec<_>>();
        let everyone = || RolloutPolicy { stages: vec![Stage::share("all", 1.0)], ..RolloutPolicy::default() };
        let halves = || RolloutPolicy { stages: vec![Stage::share("half", 0.5), Stage::share("all", 1.0)], ..RolloutPolicy::default() };
        // (asked for, the line's own, approvals per stage, approval before the first)
        let table = [
            (everyone(), policy([false; 3], false), vec![false], false),
            (everyone(), policy([false; 3], true), vec![false], true),
            (everyone(), policy([false, false, true], false), vec![true], false),
            (halves(), policy([false, true, false], false), vec![true, false], false),
            (halves(), policy([false, true, true], false), vec![true, true], false),
            (policy([true, false, false], true), policy([true, false, false], false), vec![true, false, false], true),
            (policy([false; 3], false), policy([false, true, false], false), vec![false, true, false], false),
        ];
        for (n, (asked, line, stages, first)) in table.into_iter().enumerate() {
            let got = asked.with_approvals_of(&line);
            assert_eq!((needs(&got), got.require_approval), (stages, first), "row {n}");
        }
    }
}
