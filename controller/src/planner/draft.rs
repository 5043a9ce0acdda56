//! The plan while it is being made: a working copy of the snapshot, the steps so far, the report of this round.
use std::collections::BTreeMap;
use std::sync::Arc;

use leeway_protocol::assignment::Intent;
use leeway_protocol::ids::{Cohort, DeviceId, Line, RolloutId};
use leeway_protocol::time::Timestamp;

use super::plan::{Plan, Policy, Step};
use super::report::{PlanReport, say};
use crate::fleet::{CohortDoc, DesiredRecord, Device, DeviceSettings, Part, cohort_of};
use crate::registry::ModelVersion;
use crate::snapshot::Snapshot;

/// A plan in the making.
pub struct Draft<'a> {
    /// What is true once the steps so far are carried out.
    pub state: Snapshot,
    /// The report of this round.
    pub report: PlanReport,
    policy: &'a Policy,
    now: Timestamp,
    ids: BTreeMap<&'a Cohort, Vec<&'a DeviceId>>,
    homeless: Vec<&'a DeviceId>,
    /// Members as they are now, looked up once for each round in which devices change.
    members: BTreeMap<&'a Cohort, Arc<Vec<Arc<Device>>>>,
    steps: Vec<Step>,
    wake_at: Option<Timestamp>,
}

impl<'a> Draft<'a> {
    /// Begin from a snapshot. Membership depends on labels only, so it is worked out once.
    pub fn new(snapshot: &'a Snapshot, policy: &'a Policy, now: Timestamp) -> Self {
        let mut ids: BTreeMap<&Cohort, Vec<&DeviceId>> = snapshot.cohorts.keys().map(|name| (name, Vec::new())).collect();
        let mut homeless = Vec::new();
        // Who waits to be let in, or was put out, is told nothing at all.
        for device in snapshot.fleet.iter().filter(|device| device.admission.is_in()) {
            let list = cohort_of(device, &snapshot.cohorts).and_then(|c| ids.get_mut(&c.name));
            list.unwrap_or(&mut homeless).push(&device.id);
        }
        let (report, steps, wake_at, members) = Default::default();
        Self { state: snapshot.clone(), report, policy, now, ids, homeless, members, steps, wake_at }
    }

    /// The moment planned for.
    pub fn now(&self) -> Timestamp {
        self.now
    }

    /// What the planner was told.
    pub fn policy(&self) -> &'a Policy {
        self.policy
    }

    /// Steps so far.
    pub fn steps(&self) -> usize {
        self.steps.len()
    }

    /// Forget the report of the round before: it spoke of a state that steps have changed.
    pub fn begin_round(&mut self) {
        self.report = PlanReport { at: self.now, ..PlanReport::default() };
        self.wake_at = None;
        if !self.homeless.is_empty() {
            let count = devices(self.homeless.len());
            say(&mut self.report.notes, format!("{count} in no cohort: told nothing, unless a version must be left."));
        }
    }

    /// Add a step; it is true from here on.
    pub fn push(&mut self, step: Step) {
        match self.state.apply(&step, self.now) {
            Ok(()) => {
                if matches!(step, Step::SetDesired { .. } | Step::HoldBack { .. }) {
                    self.members.clear();
                }
                self.steps.push(step);
            }
            Err(error) => say(&mut self.report.notes, format!("The planner's own step was refused: {error}.")),
        }
    }

    /// Plan again at `at`, if that is ahead.
    pub fn wake(&mut self, at: Timestamp) {
        if at > self.now {
            self.wake_at = Some(self.wake_at.map_or(at, |before| before.min(at)));
        }
    }

    /// The members of a cohort as they are now.
    pub fn members(&mut self, cohort: &Cohort) -> Arc<Vec<Arc<Device>>> {
        if let Some(members) = self.members.get(cohort) {
            return members.clone();
        }
        let Some((name, ids)) = self.ids.get_key_value(cohort) else { return Arc::default() };
        let members: Arc<Vec<_>> = Arc::new(ids.iter().filter_map(|id| self.state.fleet.device(id)).cloned().collect());
        self.members.insert(name, members.clone());
        members
    }

    /// Devices that no cohort's selector matches.
    pub fn homeless(&self) -> Vec<Arc<Device>> {
        self.homeless.iter().filter_map(|id| self.state.fleet.device(id)).cloned().collect()
    }

    /// Share of a line's devices that stay one version behind.
    pub fn hold_back_share(&self, line: &Line) -> f64 {
        self.state.lines.get(line).map_or(0.0, |line| line.rollout.hold_back_share)
    }

    /// The cohorts of a line.
    pub fn cohorts(&self, line: &Line) -> Vec<Arc<CohortDoc>> {
        self.state.cohorts.values().filter(|c| c.line == *line).cloned().collect()
    }

    /// Tell a device to run `version`, or with `None` to stay with what it has.
    pub fn tell(&mut self, device: &Device, what: Telling<'_>) {
        let Telling { intent, version, rollout, reason, settings, part } = what;
        let desired = DesiredRecord {
            generation: device.next_generation(),
            intent,
            line: version.map(|v| v.line.clone()),
            version: version.map(|v| v.version.clone()),
            manifest: version.map(|v| v.manifest.digest),
            rollout: rollout.cloned(),
            reason,
            issued_at: self.now,
            settings,
        };
        self.push(Step::SetDesired { device: device.id.clone(), desired, part });
    }

    /// The plan and the report of its last round.
    pub fn finish(self) -> (Plan, PlanReport) {
        (Plan { steps: self.steps, wake_at: self.wake_at }, self.report)
    }
}

/// What a device is told.
pub struct Telling<'a> {
    /// What to do.
    pub intent: Intent,
    /// With which version.
    pub version: Option<&'a ModelVersion>,
    /// For which rollout.
    pub rollout: Option<&'a RolloutId>,
    /// Why, in a sentence.
    pub reason: String,
    /// How.
    pub settings: DeviceSettings,
    /// Its new part in the rollout, if that changes.
    pub part: Option<Part>,
}

/// "1 device", "2 devices".
pub fn devices(count: usize) -> String {
    if count == 1 { "1 device".to_owned() } else { format!("{count} devices") }
}

/// A duration for people: the two largest units that matter.
pub fn duration(ms: i64) -> String {
    let secs = ms.max(0) / 1000;
    match secs {
        0 => format!("{} ms", ms.max(0)),
        1..60 => format!("{secs} s"),
        60..3600 => format!("{} min {} s", secs / 60, secs % 60),
        3600..86_400 => format!("{} h {} min", secs / 3600, secs % 3600 / 60),
        _ => format!("{} d {} h", secs / 86_400, secs % 86_400 / 3600),
    }
}
