//! Where one device stands in a rollout: exactly one of a few places, so that nobody is counted twice or not at all.
//!
//! "Offline" is no place of its own: a device that was never told is [`Standing::Untold`] whether it is there or not, one that
//! runs the version goes on counting while it is briefly away, and one that ran it and then fell silent for longer than the
//! gate allows is [`Standing::Lost`], which counts as a failure. "No answer" is never a success and never invisible.
use leeway_protocol::digest::Digest;
use leeway_protocol::time::Timestamp;

use super::Rollout;
use super::gate::{Counts, blames_model};
use crate::fleet::{Arm, Device};

/// Where a device stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Standing {
    /// Not told.
    Untold,
    /// Held back, to compare with.
    Control,
    /// Told, not yet seen by the device.
    Unseen,
    /// Seen; fetching, testing or in the shadow run.
    Installing,
    /// Active on trial.
    OnTrial,
    /// Runs it, with proof.
    Running,
    /// Ran it, then fell silent for too long.
    Lost,
    /// Refused it or went back, for a reason that speaks against the model.
    FailedByModel,
    /// Refused it for another reason.
    FailedOtherwise,
    /// Not done within its deadline.
    Overdue,
    /// Called back, because the version failed on the part of the fleet it belongs to.
    Recalled,
}

impl Standing {
    /// For people.
    pub fn sentence(self) -> &'static str {
        match self {
            Self::Untold => "has not been told yet",
            Self::Control => "is held back on the baseline, to compare with",
            Self::Unseen => "was told and has not answered yet",
            Self::Installing => "is fetching or testing the version",
            Self::OnTrial => "runs the version on trial",
            Self::Running => "runs the version, with proof",
            Self::Lost => "ran the version and has been silent for too long",
            Self::FailedByModel => "refused the version or went back, because of the model",
            Self::FailedOtherwise => "refused the version, for a reason that does not speak against the model",
            Self::Overdue => "did not finish within its deadline",
            Self::Recalled => "was called back: the version failed on the part of the fleet it belongs to",
        }
    }

    /// Between "told" and an outcome.
    pub fn is_in_flight(self) -> bool {
        matches!(self, Self::Unseen | Self::Installing | Self::OnTrial)
    }
}

/// Where `device` stands in `rollout`, whose version has `manifest`.
pub fn standing(device: &Device, rollout: &Rollout, manifest: Digest, now: Timestamp) -> Standing {
    let Some(part) = device.part_in(&rollout.id) else { return Standing::Untold };
    if part.arm == Arm::Control {
        return Standing::Control;
    }
    if part.recalled {
        return Standing::Recalled;
    }
    if let Some(reason) = &part.failure {
        return if blames_model(&reason.code) { Standing::FailedByModel } else { Standing::FailedOtherwise };
    }
    let policy = &rollout.spec.policy;
    let silent = device.silent_ms(now) >= millis(policy.gate.lost_after_ms);
    if part.exposed_at.is_some() && silent {
        return Standing::Lost;
    }
    if part.proven_at.is_some() && device.proves(manifest) {
        return Standing::Running;
    }
    if now.millis_since(part.at) >= millis(policy.device_deadline_ms) {
        return Standing::Overdue;
    }
    match (device.has_seen_desired(), device.runs(manifest)) {
        (false, _) => Standing::Unseen,
        (true, false) => Standing::Installing,
        (true, true) => Standing::OnTrial,
    }
}

/// The moments at which time alone changes where a device stands.
pub fn changes_at(device: &Device, rollout: &Rollout, standing: Standing) -> Option<Timestamp> {
    let policy = &rollout.spec.policy;
    let part = device.part_in(&rollout.id)?;
    let overdue = standing.is_in_flight().then(|| part.at.plus_millis(millis(policy.device_deadline_ms)));
    let away = !device.presence.online && part.exposed_at.is_some() && standing != Standing::Lost && part.failure.is_none();
    let lost = away.then(|| device.presence.last_seen.unwrap_or(device.enrolled_at).plus_millis(millis(policy.gate.lost_after_ms)));
    overdue.into_iter().chain(lost).min()
}

impl Counts {
    /// Count one device. `members`, `allowed`, `waiting` and `away` are the stage's to fill in.
    pub fn add(&mut self, standing: Standing, exposed: bool) {
        self.exposed += usize::from(exposed);
        match standing {
            Standing::Untold => {}
            Standing::Control => self.control += 1,
            Standing::Unseen => self.unseen += 1,
            Standing::Installing => self.installing += 1,
            Standing::OnTrial => self.on_trial += 1,
            Standing::Running => self.running += 1,
            Standing::Lost => self.lost += 1,
            Standing::FailedByModel => self.failed_by_model += 1,
            Standing::FailedOtherwise => self.failed_otherwise += 1,
            Standing::Overdue => self.overdue += 1,
            Standing::Recalled => self.recalled += 1,
        }
    }
}

pub(crate) fn millis(ms: u64) -> i64 {
    i64::try_from(ms).unwrap_or(i64::MAX)
}
