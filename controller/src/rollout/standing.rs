//! Where one device stands in a rollout: exactly one of a few places, so that nobody is counted twice or not at all.
//!
//! Each way of being silent has its own timer and its own verdict: never told and away ([`Standing::Unreachable`]), told and never
//! seen ([`Standing::Unanswered`]), seen and not finished ([`Standing::Overdue`]), ran it and then fell silent
//! ([`Standing::Lost`]). A device that waits for its maintenance window ([`Standing::Deferred`]) is none of these: it has answered, and
//! its time has not begun. "No answer" is never a success and never invisible.
use leeway_protocol::digest::Digest;
use leeway_protocol::reason::Code;
use leeway_protocol::reported::Phase;
use leeway_protocol::time::Timestamp;

use super::Rollout;
use super::gate::{Counts, blames_model};
use crate::fleet::{Arm, Device, Part};

/// A window opens at least once a week; a device that still waits for its own after this is overdue like any other.
pub const MAX_DEFERRED_MS: i64 = 8 * 86_400_000;

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
    /// Not told, and away for too long to wait for.
    Unreachable,
    /// Told, and never taken note of it in time.
    Unanswered,
    /// Seen; waits for its maintenance window.
    Deferred,
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
            Self::Unreachable => "has not been told, and has been away for too long to wait for",
            Self::Unanswered => "was told and took no note of it in time",
            Self::Deferred => "waits for its maintenance window",
            Self::Recalled => "was called back: the version failed on the part of the fleet it belongs to",
        }
    }

    /// What ending the rollout would mean for it.
    pub fn if_aborted(self) -> &'static str {
        match self {
            Self::Untold | Self::Unreachable => "will not be told",
            Self::Control => "stays on the baseline and is held back no longer",
            Self::Unseen | Self::Unanswered => "is told to stay with the baseline before it ever sees the version, or goes back if it has",
            Self::Deferred => "drops the assignment before its window opens",
            Self::Installing => "stops fetching or testing and keeps what it runs",
            Self::OnTrial | Self::Running => "goes back to its cohort's last known good, from its standby slot",
            Self::Lost => "goes back to its cohort's last known good when it returns",
            Self::Recalled | Self::FailedByModel | Self::FailedOtherwise => "stays with what it went back to",
            Self::Overdue => "stops where it is, and goes back if it has switched",
        }
    }

    /// Whether it has no part in the rollout yet.
    pub fn is_untold(self) -> bool {
        matches!(self, Self::Untold | Self::Unreachable)
    }

    /// Between "told" and an outcome.
    pub fn is_in_flight(self) -> bool {
        matches!(self, Self::Unseen | Self::Installing | Self::OnTrial)
    }
}

/// Where `device` stands in `rollout`, whose version has `manifest`.
pub fn standing(device: &Device, rollout: &Rollout, manifest: Digest, now: Timestamp) -> Standing {
    let policy = &rollout.spec.policy;
    let Some(part) = device.part_in(&rollout.id) else {
        let gone = !device.presence.online && device.silent_ms(now) >= millis(policy.offline_after_ms);
        return if gone { Standing::Unreachable } else { Standing::Untold };
    };
    if part.arm == Arm::Control {
        return Standing::Control;
    }
    if part.recalled {
        return Standing::Recalled;
    }
    if let Some(reason) = &part.failure {
        return if blames_model(&reason.code) { Standing::FailedByModel } else { Standing::FailedOtherwise };
    }
    let silent = device.silent_ms(now) >= millis(policy.gate.lost_after_ms);
    if part.exposed_at.is_some() && silent {
        return Standing::Lost;
    }
    if part.proven_at.is_some() && device.proves(manifest) {
        return Standing::Running;
    }
    let seen = device.has_seen_desired();
    if seen && waits_for_window(device) && now.millis_since(part.at) < MAX_DEFERRED_MS {
        return Standing::Deferred;
    }
    match (seen, now >= due(part, rollout, seen), device.runs(manifest)) {
        (false, true, _) => Standing::Unanswered,
        (true, true, _) => Standing::Overdue,
        (false, false, _) => Standing::Unseen,
        (true, false, false) => Standing::Installing,
        (true, false, true) => Standing::OnTrial,
    }
}

/// When a device that was told is out of time. Waiting for its window does not count, and a device that was seen is given its whole time.
fn due(part: &Part, rollout: &Rollout, seen: bool) -> Timestamp {
    let policy = &rollout.spec.policy;
    let unseen = if policy.unseen_after_ms == 0 { policy.device_deadline_ms } else { policy.unseen_after_ms };
    if !seen {
        return part.at.plus_millis(millis(unseen));
    }
    part.deferred_at.map_or(part.at, |at| at.max(part.at)).plus_millis(millis(policy.device_deadline_ms))
}

/// Whether its last word is that it waits for its maintenance window, or for a clock to tell when that is.
fn waits_for_window(device: &Device) -> bool {
    let Some(reported) = device.reported.as_ref().filter(|r| r.phase == Phase::Waiting) else { return false };
    reported.reason.as_ref().is_some_and(|reason| matches!(reason.code, Code::MaintenanceWindow | Code::ClockUntrusted))
}

/// When a device whose last attempt failed for no fault of the model, or ran out of time, may be told again by itself.
pub fn retry_at(device: &Device, rollout: &Rollout, standing: Standing) -> Option<Timestamp> {
    let (part, retries) = (device.part_in(&rollout.id)?, rollout.spec.policy.retries);
    if part.attempts > retries.max {
        return None;
    }
    let failed_at = match standing {
        Standing::FailedOtherwise => part.failed_at.unwrap_or(part.at),
        Standing::Overdue => due(part, rollout, true),
        Standing::Unanswered => due(part, rollout, false),
        _ => return None,
    };
    Some(failed_at.plus_millis(millis(retries.after_ms)))
}

/// The moments at which time alone changes where a device stands.
pub fn changes_at(device: &Device, rollout: &Rollout, standing: Standing) -> Option<Timestamp> {
    let policy = &rollout.spec.policy;
    let last_seen = || device.presence.last_seen.unwrap_or(device.enrolled_at);
    if standing == Standing::Untold && !device.presence.online {
        return Some(last_seen().plus_millis(millis(policy.offline_after_ms)));
    }
    let part = device.part_in(&rollout.id)?;
    let overdue = standing.is_in_flight().then(|| due(part, rollout, standing != Standing::Unseen));
    let deferred = (standing == Standing::Deferred).then(|| part.at.plus_millis(MAX_DEFERRED_MS));
    let away = !device.presence.online && part.exposed_at.is_some() && standing != Standing::Lost && part.failure.is_none();
    let lost = away.then(|| last_seen().plus_millis(millis(policy.gate.lost_after_ms)));
    overdue.into_iter().chain(lost).chain(deferred).chain(retry_at(device, rollout, standing)).min()
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
            Standing::Unreachable => self.unreachable += 1,
            Standing::Unanswered => self.unanswered += 1,
            Standing::Deferred => self.deferred += 1,
            Standing::Recalled => self.recalled += 1,
        }
    }
}

pub(crate) fn millis(ms: u64) -> i64 {
    i64::try_from(ms).unwrap_or(i64::MAX)
}
