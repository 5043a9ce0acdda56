//! Where a rollout is, and the only function that moves it.
//!
//! One enum with its data in the variants and one function over (state, move): an illegal pair is a refusal that lists what
//! would be legal, and the same list draws the buttons of the page and the verbs of the command line. Resuming goes back
//! into the stage that was paused and judges it again (elsewhere it starts the *next* group, past the one that failed).
use leeway_protocol::ids::Version;
use leeway_protocol::time::Timestamp;
use serde::{Deserialize, Serialize};

/// Who does something.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(from = "String", into = "String")]
pub enum Actor {
    /// The planner, by rule.
    Controller,
    /// A person or program with a token, by name.
    Person(String),
}

impl Actor {
    /// Its name.
    pub fn name(&self) -> &str {
        match self {
            Self::Controller => "controller",
            Self::Person(name) => name,
        }
    }
}

impl From<String> for Actor {
    fn from(name: String) -> Self {
        if name == "controller" { Self::Controller } else { Self::Person(name) }
    }
}

impl From<Actor> for String {
    fn from(actor: Actor) -> String {
        actor.name().to_owned()
    }
}

/// Where a rollout is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case", tag = "phase")]
pub enum RolloutState {
    /// Waits for its turn or an approval; no device has been told.
    Planned,
    /// Devices of the stage are being told, or soak.
    Running {
        /// Which stage, from 0.
        stage: usize,
        /// Since when (again, after a pause).
        #[schema(value_type = String, format = DateTime)]
        since: Timestamp,
        /// Since when the stage is filled and runs; the soak counts from here.
        #[schema(value_type = Option<String>, format = DateTime)]
        soaking_since: Option<Timestamp>,
    },
    /// No new device is told; the gate keeps judging.
    Paused {
        /// Which stage, from 0.
        stage: usize,
        /// Since when.
        #[schema(value_type = String, format = DateTime)]
        at: Timestamp,
        /// Why, in a sentence.
        reason: String,
        /// Who paused it.
        #[schema(value_type = String)]
        by: Actor,
        /// Since when the stage had been soaking.
        #[schema(value_type = Option<String>, format = DateTime)]
        soaking_since: Option<Timestamp>,
        /// The stage has passed its gate and only waits for a person.
        passed: bool,
    },
    /// Every device that has the version, or was told to get it, goes back.
    RollingBack {
        /// The stage it was in, from 0.
        stage: usize,
        /// Since when.
        #[schema(value_type = String, format = DateTime)]
        at: Timestamp,
        /// Why, in a sentence.
        reason: String,
        /// A person's decision; the version is not poisoned then.
        aborted: bool,
    },
    /// Every reachable device has left the version, which is poisoned.
    RolledBack {
        /// Since when.
        #[schema(value_type = String, format = DateTime)]
        at: Timestamp,
        /// Why it was rolled back.
        reason: String,
    },
    /// The version is champion.
    Completed {
        /// Since when.
        #[schema(value_type = String, format = DateTime)]
        at: Timestamp,
        /// Alias and last known goods have followed; the planner sees to it.
        settled: bool,
    },
    /// A person ended it; every reachable device has left the version.
    Aborted {
        /// Since when.
        #[schema(value_type = String, format = DateTime)]
        at: Timestamp,
        /// Why, in a sentence.
        reason: String,
    },
}

/// Something that moves a rollout.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "move")]
pub enum Move {
    /// The planner begins the first stage.
    Start {
        /// Why now.
        reason: String,
        /// The champion at this moment: what control devices are on. A rollout may have waited long for its turn.
        baseline: Option<Version>,
    },
    /// The planner has seen the stage filled and running.
    Soak {
        /// What was seen.
        reason: String,
    },
    /// The planner has lost the last running device of the stage: the soak begins anew.
    Unsoak {
        /// What was seen.
        reason: String,
    },
    /// The gate passed: next stage.
    Advance {
        /// What was measured.
        reason: String,
    },
    /// The gate passed in the last stage.
    Complete {
        /// What was measured.
        reason: String,
    },
    /// No new device; the gate keeps judging.
    Pause {
        /// Why.
        reason: String,
        /// The gate had passed.
        passed: bool,
    },
    /// Go on with the stage that was paused.
    Resume {
        /// Why.
        reason: String,
    },
    /// A person moves it to the next stage, or completes the last, without waiting for the gate.
    Promote {
        /// Why.
        reason: String,
    },
    /// A person moves it to the last stage.
    PromoteAll {
        /// Why.
        reason: String,
    },
    /// A person approves the next stage (of a planned rollout: the first).
    Approve {
        /// What they say.
        remark: String,
    },
    /// A person waves an alarm or an undecided check through, for this stage.
    Dismiss {
        /// Name of the check.
        check: String,
        /// How many devices it was about; more make it stand again.
        #[serde(default)]
        seen: u64,
        /// Why.
        reason: String,
    },
    /// A person ends it: everyone goes back.
    Abort {
        /// Why.
        reason: String,
    },
    /// The planner has proof, or fear enough, that the version is bad.
    Regress {
        /// What was measured.
        reason: String,
    },
    /// Every reachable device has left the version.
    Restored {
        /// What was seen.
        reason: String,
    },
    /// Alias and last known goods have followed a completed rollout.
    Settle {
        /// What followed.
        reason: String,
    },
}

/// What a person may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Action {
    /// See [`Move::Approve`].
    Approve,
    /// See [`Move::Pause`].
    Pause,
    /// See [`Move::Resume`].
    Resume,
    /// See [`Move::Promote`].
    Promote,
    /// See [`Move::PromoteAll`].
    PromoteAll,
    /// See [`Move::Abort`].
    Abort,
    /// Tell failed devices again; changes devices, not the state.
    Retry,
    /// See [`Move::Dismiss`].
    Dismiss,
}

impl Action {
    /// Every action, in the order they are listed to people.
    pub const ALL: [Self; 8] =
        [Self::Approve, Self::Pause, Self::Resume, Self::Promote, Self::PromoteAll, Self::Abort, Self::Retry, Self::Dismiss];

    /// The name it has in URLs and on the command line.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Approve => "approve",
            Self::Pause => "pause",
            Self::Resume => "resume",
            Self::Promote => "promote",
            Self::PromoteAll => "promote-all",
            Self::Abort => "abort",
            Self::Retry => "retry",
            Self::Dismiss => "dismiss",
        }
    }
}

/// A move that the state does not allow.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a rollout that is {phase} cannot {wanted}: allowed now: {}", if allowed.is_empty() { "nothing".to_owned() } else { allowed.join(", ") })]
pub struct IllegalMove {
    /// Where it is.
    pub phase: &'static str,
    /// What was asked.
    pub wanted: &'static str,
    /// What a person may do instead.
    pub allowed: Vec<&'static str>,
}

impl Move {
    /// One word.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Start { .. } => "start",
            Self::Soak { .. } => "soak",
            Self::Unsoak { .. } => "unsoak",
            Self::Advance { .. } => "advance",
            Self::Complete { .. } => "complete",
            Self::Pause { .. } => "pause",
            Self::Resume { .. } => "resume",
            Self::Promote { .. } => "promote",
            Self::PromoteAll { .. } => "promote-all",
            Self::Approve { .. } => "approve",
            Self::Dismiss { .. } => "dismiss",
            Self::Abort { .. } => "abort",
            Self::Regress { .. } => "roll back",
            Self::Restored { .. } => "finish rolling back",
            Self::Settle { .. } => "settle",
        }
    }

    /// Why, in a sentence.
    pub fn sentence(&self) -> &str {
        match self {
            Self::Start { reason, .. }
            | Self::Soak { reason }
            | Self::Unsoak { reason }
            | Self::Advance { reason }
            | Self::Complete { reason }
            | Self::Pause { reason, .. }
            | Self::Resume { reason }
            | Self::Promote { reason }
            | Self::PromoteAll { reason }
            | Self::Approve { remark: reason }
            | Self::Dismiss { reason, .. }
            | Self::Abort { reason }
            | Self::Regress { reason }
            | Self::Restored { reason }
            | Self::Settle { reason } => reason,
        }
    }
}

impl RolloutState {
    /// One word.
    pub fn phase(&self) -> &'static str {
        match self {
            Self::Planned => "planned",
            Self::Running { .. } => "running",
            Self::Paused { .. } => "paused",
            Self::RollingBack { .. } => "rolling_back",
            Self::RolledBack { .. } => "rolled_back",
            Self::Completed { .. } => "completed",
            Self::Aborted { .. } => "aborted",
        }
    }

    /// The stage it is in, from 0.
    pub fn stage(&self) -> Option<usize> {
        match self {
            Self::Running { stage, .. } | Self::Paused { stage, .. } | Self::RollingBack { stage, .. } => Some(*stage),
            _ => None,
        }
    }

    /// The stage an approval given now is for.
    pub fn next_stage(&self) -> usize {
        self.stage().map_or(0, |stage| stage + 1)
    }

    /// Whether nothing more will happen to it.
    pub fn is_over(&self) -> bool {
        matches!(self, Self::RolledBack { .. } | Self::Completed { settled: true, .. } | Self::Aborted { .. })
    }

    /// Whether it has its line to itself: it began and is not over. A completed one keeps its devices until champion and last
    /// known goods have followed; without that they would be called back for a moment.
    pub fn is_active(&self) -> bool {
        *self != Self::Planned && !self.is_over()
    }

    /// Whether evidence is collected and judged.
    pub fn is_judged(&self) -> bool {
        matches!(self, Self::Running { .. } | Self::Paused { .. })
    }

    /// What a person may do now.
    pub fn allowed_actions(&self) -> &'static [Action] {
        match self {
            Self::Planned => &[Action::Approve, Action::Abort],
            Self::Running { .. } => {
                &[Action::Pause, Action::Promote, Action::PromoteAll, Action::Approve, Action::Retry, Action::Dismiss, Action::Abort]
            }
            Self::Paused { .. } => {
                &[Action::Resume, Action::Promote, Action::PromoteAll, Action::Approve, Action::Retry, Action::Dismiss, Action::Abort]
            }
            _ => &[],
        }
    }

    /// The state after a move, or why there is none. `stages` is the number of stages.
    pub fn after(&self, step: &Move, by: &Actor, at: Timestamp, stages: usize) -> Result<Self, IllegalMove> {
        let fresh = |stage: usize| Self::Running { stage, since: at, soaking_since: None };
        let next = |stage: usize| if stage + 1 < stages { fresh(stage + 1) } else { Self::Completed { at, settled: false } };
        let reason = step.sentence().to_owned();
        let state = match (self, step) {
            (Self::Planned, Move::Start { .. }) => fresh(0),
            (Self::Planned, Move::Abort { .. }) => Self::Aborted { at, reason },
            (Self::Planned | Self::Running { .. } | Self::Paused { .. }, Move::Approve { .. }) => self.clone(),
            (Self::Running { .. } | Self::Paused { .. }, Move::Dismiss { .. }) => self.clone(),
            (Self::Running { stage, since, soaking_since: None }, Move::Soak { .. }) => {
                Self::Running { stage: *stage, since: *since, soaking_since: Some(at) }
            }
            (Self::Running { stage, since, soaking_since: Some(_) }, Move::Unsoak { .. }) => {
                Self::Running { stage: *stage, since: *since, soaking_since: None }
            }
            (Self::Running { stage, .. }, Move::Advance { .. }) if stage + 1 < stages => next(*stage),
            (Self::Running { stage, .. }, Move::Complete { .. }) if stage + 1 == stages => next(*stage),
            (Self::Running { stage, soaking_since, .. }, Move::Pause { passed, .. }) => {
                Self::Paused { stage: *stage, at, reason, by: by.clone(), soaking_since: *soaking_since, passed: *passed }
            }
            (Self::Paused { stage, passed: true, .. }, Move::Resume { .. }) => next(*stage),
            (Self::Paused { stage, .. }, Move::Resume { .. }) => fresh(*stage),
            (Self::Running { stage, .. } | Self::Paused { stage, .. }, Move::Promote { .. }) => next(*stage),
            (Self::Running { stage, .. } | Self::Paused { stage, .. }, Move::PromoteAll { .. }) if stage + 1 < stages => fresh(stages - 1),
            (Self::Running { stage, .. } | Self::Paused { stage, .. }, Move::Abort { .. }) => {
                Self::RollingBack { stage: *stage, at, reason, aborted: true }
            }
            (Self::Running { stage, .. } | Self::Paused { stage, .. }, Move::Regress { .. }) => {
                Self::RollingBack { stage: *stage, at, reason, aborted: false }
            }
            (Self::Completed { at, settled: false }, Move::Settle { .. }) => Self::Completed { at: *at, settled: true },
            (Self::RollingBack { reason, aborted: true, .. }, Move::Restored { .. }) => Self::Aborted { at, reason: reason.clone() },
            (Self::RollingBack { reason, aborted: false, .. }, Move::Restored { .. }) => Self::RolledBack { at, reason: reason.clone() },
            _ => {
                let allowed = self.allowed_actions().iter().map(|a| a.as_str()).collect();
                return Err(IllegalMove { phase: self.phase(), wanted: step.as_str(), allowed });
            }
        };
        Ok(state)
    }
}

#[cfg(test)]
mod tests;
