//! What is to be done, as values that an executor carries out without a choice of its own.
//!
//! Steps are in order, and the whole plan is one transaction. Each step says exactly what becomes true (a generation is
//! chosen here, not by the executor), so carrying out a plan twice, or planning twice, changes nothing more.
use leeway_protocol::ids::{Cohort, DeviceId, Line, RolloutId, Version};
use leeway_protocol::time::Timestamp;
use serde::{Deserialize, Serialize};

use crate::fleet::{DesiredRecord, DeviceSettings, Part};
use crate::registry::{Alias, Poisoned, VersionStatus};
use crate::retraining::job::RetrainRequest;
use crate::retraining::trigger::Withheld;
use crate::rollout::evidence;
use crate::rollout::gate::Compare;
use crate::rollout::{Move, Rollout};

/// Devices that one plan tells or holds back. At a million devices such a plan takes some tenths of a second, and the store as long
/// again; beginning a rollout there holds back 200,000, which in one plan kept the controller from everything else for twelve seconds.
pub const MAX_DEVICES_PER_PLAN: usize = 5_000;

/// What the planner is told besides the snapshot.
#[derive(Debug, Clone, Copy)]
pub struct Policy {
    /// Devices outside any rollout that are told per minute and line, at most: new ones, and stragglers.
    pub converge_per_minute: u32,
    /// Devices called back from a bad version per minute, at most, those that run it first.
    pub rollback_per_minute: u32,
    /// A device outside any rollout that failed for a reason of its own (its disk, its network) is told again after so long, ms.
    pub retry_after_ms: i64,
    /// Devices that one plan tells or holds back, at most; what is left over is the next plan's, which follows at once.
    pub devices_per_plan: usize,
    /// How devices outside any rollout go about it.
    pub settings: DeviceSettings,
    /// The test behind the gate.
    pub compare: Compare,
}

impl Default for Policy {
    fn default() -> Self {
        let settings = DeviceSettings::default();
        Self {
            converge_per_minute: 1000,
            rollback_per_minute: 60_000,
            retry_after_ms: 900_000,
            devices_per_plan: MAX_DEVICES_PER_PLAN,
            settings,
            compare: evidence::compare,
        }
    }
}

/// One thing to do.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "step")]
#[expect(clippy::large_enum_variant, reason = "nearly every step of a plan is the largest one")]
pub enum Step {
    /// Tell a device.
    SetDesired {
        /// Which.
        device: DeviceId,
        /// What; its generation is above every earlier one.
        desired: DesiredRecord,
        /// Its new part in a rollout, if this changes it.
        part: Option<Part>,
    },
    /// Hold a device back, to compare with.
    HoldBack {
        /// Which.
        device: DeviceId,
        /// Its part.
        part: Part,
    },
    /// Move a rollout.
    MoveRollout {
        /// Which.
        rollout: RolloutId,
        /// How; by the controller.
        to: Move,
    },
    /// Begin a rollout of a version that training has brought.
    CreateRollout {
        /// The rollout.
        rollout: Box<Rollout>,
    },
    /// Move an alias.
    SetAlias {
        /// Of which line.
        line: Line,
        /// Which.
        alias: Alias,
        /// Where to; `None` takes it away.
        to: Option<Version>,
        /// The rollout that moves it.
        rollout: Option<RolloutId>,
        /// Why, in a sentence.
        reason: String,
    },
    /// Change what a cohort goes back to.
    SetLastKnownGood {
        /// Which cohort.
        cohort: Cohort,
        /// The version; `None` if there is none left.
        version: Option<Version>,
        /// Why, in a sentence.
        reason: String,
    },
    /// Change what may be done with a version.
    MarkVersion {
        /// Of which line.
        line: Line,
        /// Which.
        version: Version,
        /// Its new status.
        status: VersionStatus,
    },
    /// Keep a version from a part of the fleet that it failed on; it stays good elsewhere.
    PoisonSlice {
        /// Of which line.
        line: Line,
        /// Which version.
        version: Version,
        /// For whom, and why.
        poisoned: Poisoned,
    },
    /// Ask for a better model.
    RequestRetraining {
        /// What is asked.
        request: RetrainRequest,
    },
    /// There was cause to ask for a better model, and something forbade it: written down, so that it can be seen.
    WithholdRetraining {
        /// Of which line.
        line: Line,
        /// What, and why not.
        withheld: Withheld,
    },
}

impl Step {
    /// What it does, in one word with a stable spelling: the kind of its audit row.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::SetDesired { .. } => "device.desired",
            Self::HoldBack { .. } => "device.held-back",
            Self::MoveRollout { .. } => "rollout.moved",
            Self::CreateRollout { .. } => "rollout.created",
            Self::SetAlias { .. } => "alias.moved",
            Self::SetLastKnownGood { .. } => "cohort.last-known-good",
            Self::MarkVersion { .. } => "version.marked",
            Self::PoisonSlice { .. } => "version.poisoned-for",
            Self::RequestRetraining { .. } => "retraining.requested",
            Self::WithholdRetraining { .. } => "retraining.withheld",
        }
    }

    /// What it is about, such as `devices/coast-07`.
    pub fn subject(&self) -> String {
        match self {
            Self::SetDesired { device, .. } | Self::HoldBack { device, .. } => format!("devices/{device}"),
            Self::MoveRollout { rollout, .. } => format!("rollouts/{rollout}"),
            Self::CreateRollout { rollout } => format!("rollouts/{}", rollout.id),
            Self::SetAlias { line, .. } => format!("models/{line}"),
            Self::SetLastKnownGood { cohort, .. } => format!("cohorts/{cohort}"),
            Self::MarkVersion { line, version, .. } | Self::PoisonSlice { line, version, .. } => {
                format!("models/{line}/versions/{version}")
            }
            Self::RequestRetraining { request } => format!("models/{}", request.line),
            Self::WithholdRetraining { line, .. } => format!("models/{line}"),
        }
    }

    /// What it does and why, in a sentence.
    pub fn sentence(&self) -> String {
        match self {
            Self::SetDesired { desired, .. } => desired.reason.clone(),
            Self::HoldBack { part, .. } => format!("Held back on the baseline, to compare rollout {} with.", part.rollout),
            Self::MoveRollout { to, .. } => to.sentence().to_owned(),
            Self::CreateRollout { rollout } => rollout.reason.clone(),
            Self::SetAlias { reason, .. } | Self::SetLastKnownGood { reason, .. } => reason.clone(),
            Self::MarkVersion { version, status, .. } => match status.reason() {
                Some(reason) => format!("Version {version} is {}: {reason}", status.as_str()),
                None => format!("Version {version} is {}.", status.as_str()),
            },
            Self::PoisonSlice { version, poisoned, .. } => {
                format!("Version {version} is kept from devices with {}: {}", poisoned.slice, poisoned.reason)
            }
            Self::RequestRetraining { request } => request.reason.clone(),
            Self::WithholdRetraining { withheld, .. } => withheld.sentence.clone(),
        }
    }
}

/// Everything to do now.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    /// In order.
    pub steps: Vec<Step>,
    /// If nothing is heard until then, time alone changes what is to be done: plan again. This very moment, if there is more to do
    /// than one plan may.
    pub wake_at: Option<Timestamp>,
}
