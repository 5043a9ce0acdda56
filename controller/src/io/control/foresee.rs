//! Looking ahead for people: off the threads that serve requests, and only so many at a time.
//!
//! A rollout is built by the very function that creates one, on a copy of the state, so a forecast is refused for the same reasons
//! as the rollout itself. The risk budget is checked before the turn is taken: a forecast takes seconds, and reports must not wait
//! for it. What stays true: a rollout beyond its own budget is begun only by `force`, and that stands in the audit log.
use std::sync::Arc;

use tokio::sync::Semaphore;

use super::super::clock;
use super::decisions::{self, NewRollout};
use super::{ControlError, Controller};
use crate::foresight::{Effort, Forecast, Question, foresee};

/// Forecasts at one time: each keeps one core busy for seconds, and the controller needs one for itself.
const MAX_AT_ONCE: usize = 1;
/// Runs of each case that may be asked for.
pub const MAX_RUNS: u32 = 2_000;
/// Work that may be asked for: ten times the usual, well below the time clients wait.
const MAX_WORK: u64 = 60_000_000;

/// The cores are the process's, so this is too.
static PLACES: Semaphore = Semaphore::const_new(MAX_AT_ONCE);

/// How to look ahead.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LookAhead {
    /// The seed of all chance.
    pub seed: u64,
    /// Runs of each case; as many as a few seconds allow if absent.
    pub runs: Option<u32>,
}

impl LookAhead {
    fn effort(self) -> Effort {
        let usual = Effort::default();
        self.runs.map_or(usual, |runs| Effort { max_runs: runs.clamp(1, MAX_RUNS), work: MAX_WORK, ..usual })
    }
}

impl Controller {
    /// What would become of a rollout. Changes nothing.
    pub async fn foresee(&self, new: NewRollout, by: &str, how: LookAhead) -> Result<Forecast, ControlError> {
        let place = PLACES.try_acquire();
        let busy =
            |_| ControlError::Unavailable("another rollout is being looked ahead at, which takes seconds: try again then".to_owned());
        let _place = place.map_err(busy)?;
        let at = clock::now();
        let snapshot = self.snapshot();
        let why = new.reason.clone();
        let (rollout, ..) = decisions::create_rollout(&mut snapshot.clone(), at, new, why, by)?;
        let inner = Arc::clone(&self.inner);
        let work = move || {
            let question =
                Question { snapshot: &snapshot, policy: &inner.policy, rollout: &rollout, now: at, seed: how.seed, effort: how.effort() };
            foresee(&question)
        };
        let forecast = tokio::task::spawn_blocking(work).await;
        let forecast = forecast.map_err(|e| ControlError::Unavailable(format!("the forecast was broken off: {e}")))?;
        forecast.ok_or_else(|| ControlError::Conflict("the version is gone: publish it again".to_owned()))
    }

    /// Hold a new rollout against its own risk budget: what it breaks of it, in a sentence, if it is forced nevertheless.
    pub(super) async fn check_risk(&self, new: &NewRollout, by: &str) -> Result<Option<String>, ControlError> {
        let at = clock::now();
        let (rollout, ..) = decisions::create_rollout(&mut self.snapshot(), at, new.clone(), new.reason.clone(), by)?;
        if rollout.spec.policy.risk.is_none() {
            return Ok(None);
        }
        let forecast = self.foresee(new.clone(), by, LookAhead::default()).await?;
        match (forecast.broken.is_empty(), new.force) {
            (true, _) => Ok(None),
            (false, true) => Ok(Some(forecast.broken.join(" "))),
            (false, false) => Err(ControlError::Risk(format!(
                "{} Look at the whole forecast with `leeway rollout plan`; to begin it nevertheless, use --force and say why.",
                forecast.broken.join(" ")
            ))),
        }
    }
}
