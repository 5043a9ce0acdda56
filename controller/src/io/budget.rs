//! Versions that training brings to a line with a risk budget: looked ahead at, and begun only if they keep to it.
//!
//! A person who creates a rollout beyond its budget is refused and can insist. Here nobody is there to ask, so the version waits: the
//! refusal is a row of the event log (`rollout.withheld`), which webhooks carry to whoever is to see it, and the line's report says that
//! it waits. It is tried again when the line's plan changes, and now and then, because the fleet does. What stays true: without a
//! forecast within the budget no device is told, and a restart tries again and loses nothing.
use std::collections::BTreeMap;
use std::time::Duration;

use leeway_protocol::digest::Digest;
use leeway_protocol::ids::{Line, Version};
use leeway_protocol::time::Timestamp;
use serde_json::json;

use super::clock;
use super::control::decisions::{NewRollout, draft};
use super::control::{ControlError, Controller, Touched};
use crate::planner::retrain::to_foresee;
use crate::snapshot::Snapshot;

/// Time between two looks for versions that wait.
const LOOK: Duration = Duration::from_secs(2);
/// Time between two tries of the same plan: a forecast takes a core for seconds, and fleets change over hours.
const AGAIN_MS: i64 = 3_600_000;
/// Tries of the same plan: after a day it takes a person, or another plan.
const MAX_TRIES: u32 = 24;

/// What came of looking ahead at one version so far.
#[derive(Debug, Default)]
struct Tries {
    plan: Option<Digest>,
    count: u32,
    last: Timestamp,
}

impl Tries {
    /// Whether to look ahead now; counts it, if so.
    fn begin(&mut self, plan: Digest, now: Timestamp) -> bool {
        if self.plan != Some(plan) {
            *self = Self { plan: Some(plan), count: 0, last: now };
        } else if self.count >= MAX_TRIES || now.millis_since(self.last) < AGAIN_MS {
            return false;
        }
        (self.count, self.last) = (self.count + 1, now);
        true
    }

    /// It was no try: somebody else's forecast was in the way.
    fn undo(&mut self) {
        (self.count, self.last) = (self.count.saturating_sub(1), Timestamp::default());
    }
}

/// Look ahead at what waits, until the controller ends.
pub(super) async fn run(controller: Controller) {
    let mut tries: BTreeMap<(Line, Version), Tries> = BTreeMap::new();
    loop {
        tokio::time::sleep(LOOK).await;
        let state = controller.snapshot();
        let waiting = to_foresee(&state);
        tries.retain(|(line, version), _| waiting.iter().any(|(one, _)| one.line == *line && one.version == *version));
        for (version, reason) in waiting {
            let key = (version.line.clone(), version.version.clone());
            let Some(plan) = plan_of(&state, &key.0) else { continue };
            let tried = tries.entry(key.clone()).or_default();
            if !tried.begin(plan, clock::now()) {
                continue;
            }
            let left = MAX_TRIES - tried.count;
            match bring_out(&controller, key, reason, left).await {
                Ok(()) => {}
                Err(ControlError::Unavailable(_)) => tried.undo(),
                Err(error) => tracing::error!("a version that training brought was not held against its risk budget: {error}"),
            }
        }
    }
}

/// What is held against the budget, in short.
fn plan_of(state: &Snapshot, line: &Line) -> Option<Digest> {
    let policy = serde_json::to_vec(&state.lines.get(line)?.rollout).ok()?;
    Some(Digest::of(&policy))
}

async fn bring_out(controller: &Controller, (line, version): (Line, Version), reason: String, left: u32) -> Result<(), ControlError> {
    let (id, policy, force) = (None, None, false);
    let new = NewRollout { id, line: line.clone(), version: version.clone(), policy, reason, force };
    match controller.create_rollout(new, "controller").await {
        Ok(_) => Ok(()),
        Err(ControlError::Risk(beyond)) => {
            let sentence = format!(
                "Version {version}, which training brought, is not rolled out by itself: {beyond} It is looked at again when the line's plan changes, and {left} more times within a day."
            );
            tracing::warn!("{sentence}");
            let change = |_: &mut Snapshot, at| {
                let data = json!({ "version": version, "beyond": beyond, "tries_left": left });
                let subject = format!("models/{line}/versions/{version}");
                Ok(((), Touched::default(), vec![draft(at, "controller", "rollout.withheld", subject, sentence, data)]))
            };
            controller.inner.decide(change).await
        }
        Err(other) => Err(other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_plan_is_tried_now_and_then_and_not_for_ever() {
        let at = |hours: i64| Timestamp::from_millis(1_000_000 + hours * AGAIN_MS);
        let (plan, other) = (Digest::of(b"one"), Digest::of(b"another"));
        let mut tries = Tries::default();
        assert!(tries.begin(plan, at(0)) && !tries.begin(plan, at(0)), "not twice at once");
        let more = (1..100).filter(|hour| tries.begin(plan, at(*hour))).count();
        assert_eq!(more as u32, MAX_TRIES - 1, "a bound");
        assert!(tries.begin(other, at(100)) && !tries.begin(other, at(100)), "another plan is looked at once more, at once");
        tries.undo();
        assert!(tries.begin(other, at(100)), "what was no try is not counted");
    }
}
