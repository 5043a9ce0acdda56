//! One stage: who may be reached, how long it must run well, and what happens then.
use leeway_protocol::ids::Cohort;
use serde::{Deserialize, Serialize};

use crate::fleet::Selector;

/// A stage.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Stage {
    /// Its name.
    pub name: String,
    /// Cohorts in its scope; empty for every cohort of the line.
    #[schema(value_type = Vec<String>)]
    pub cohorts: Vec<Cohort>,
    /// Devices in its scope, by label, besides.
    #[schema(value_type = String)]
    pub selector: Selector,
    /// Share of the devices in scope that may have the version: rounded down, but at least one device.
    pub share: f64,
    /// Share of the scope's devices that were told and have an outcome (run it, refused it, went back, fell silent, ran out of time)
    /// that must prove to run the version before the stage may pass: rounded down, but at least one. A stage that everyone has
    /// finished below it is no success; devices that are still at it, or wait for their window, are on neither side.
    pub success_share: f64,
    /// How long it must run well before the next stage, milliseconds.
    pub soak_ms: u64,
    /// No verdict so many milliseconds after the soak pauses the rollout; so does a stage that has not filled so long after the
    /// last device was told.
    pub deadline_ms: u64,
    /// What a passed gate leads to.
    pub on_success: OnSuccess,
    /// Whether a person other than the author must approve before this stage begins.
    pub require_approval: bool,
    /// Whether devices that join later are taken in.
    pub membership: Membership,
}

impl Default for Stage {
    fn default() -> Self {
        Self {
            name: "all".to_owned(),
            cohorts: Vec::new(),
            selector: Selector::everything(),
            share: 1.0,
            success_share: 0.8,
            soak_ms: 10 * 60_000,
            deadline_ms: 4 * 3_600_000,
            on_success: OnSuccess::Next,
            require_approval: false,
            membership: Membership::Open,
        }
    }
}

/// What a passed gate leads to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum OnSuccess {
    /// The next stage, or completion.
    #[default]
    Next,
    /// A pause, until a person promotes.
    Pause,
}

/// Who counts as a member of a stage.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Membership {
    /// Late joiners enter at the current stage, under the same share and rate.
    #[default]
    Open,
    /// Only devices enrolled before the stage began.
    Frozen,
}

/// How a stage that lies behind a rollout ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StageEnd {
    /// Its gate passed.
    Passed,
    /// A person went on without waiting for the gate.
    Promoted,
    /// A person went on from an earlier one to the last.
    Skipped,
}

impl Stage {
    /// A stage over every cohort of the line.
    pub fn share(name: &str, share: f64) -> Self {
        Self { name: name.to_owned(), share, ..Self::default() }
    }

    /// What its share is a share of.
    pub fn scope(&self) -> (&[Cohort], &Selector) {
        (&self.cohorts, &self.selector)
    }
}
