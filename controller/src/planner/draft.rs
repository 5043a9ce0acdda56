//! The plan while it is being made: a working copy of the snapshot, the steps so far, the report of this round.
//!
//! Rules do not walk the fleet: they ask it ([`crate::fleet::Census`]), so a plan costs what changed since the last one. What
//! stays true: the plan is the one that walking over every device would give.
use std::collections::BTreeMap;
use std::sync::Arc;

use leeway_protocol::assignment::Intent;
use leeway_protocol::ids::{Cohort, Line, RolloutId};
use leeway_protocol::time::Timestamp;
use serde::Serialize;

use super::plan::{Plan, Policy, Step};
use super::report::{PlanReport, say};
use crate::fleet::{About, ByCohort, Census, CohortDoc, DesiredRecord, Device, DeviceSettings, Homes, Part};
use crate::registry::ModelVersion;
use crate::replay::Basis;
use crate::snapshot::Snapshot;

/// A plan in the making.
pub struct Draft<'a> {
    /// What is true once the steps so far are carried out.
    pub state: Snapshot,
    /// The report of this round.
    pub report: PlanReport,
    /// Whether counting what follows is the next plan's, which comes at once.
    pub is_full: bool,
    policy: &'a Policy,
    now: Timestamp,
    /// Who belongs where; steps change no membership.
    homes: Arc<Homes>,
    steps: Vec<Step>,
    /// What steps were made from, by their place.
    bases: BTreeMap<usize, Arc<Basis>>,
    /// Of these, those on single devices.
    device_steps: usize,
    /// Whether more is to be done than one plan may.
    is_cut: bool,
    wake_at: Option<Timestamp>,
}

impl<'a> Draft<'a> {
    /// Begin from a snapshot.
    pub fn new(snapshot: &Snapshot, policy: &'a Policy, now: Timestamp) -> Self {
        let (report, is_full, steps, bases, device_steps, is_cut, wake_at) = Default::default();
        let (state, homes) = (snapshot.clone(), Arc::new(Homes::new(&snapshot.cohorts)));
        Self { state, report, is_full, policy, now, homes, steps, bases, device_steps, is_cut, wake_at }
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
        let homeless = self.homeless();
        if homeless > 0 {
            let count = devices(homeless);
            say(&mut self.report.notes, format!("{count} in no cohort: told nothing, unless a version must be left."));
        }
    }

    /// Add a step; it is true from here on.
    pub fn push(&mut self, step: Step) {
        match self.state.apply(&step, self.now) {
            Ok(()) => {
                self.device_steps += usize::from(matches!(step, Step::SetDesired { .. } | Step::HoldBack { .. }));
                self.steps.push(step);
            }
            Err(error) => say(&mut self.report.notes, format!("The planner's own step was refused: {error}.")),
        }
    }

    /// What the latest step was made from.
    pub fn base(&mut self, basis: Basis) {
        if let Some(place) = self.steps.len().checked_sub(1) {
            self.bases.insert(place, Arc::new(basis));
        }
    }

    /// Of `wanted` devices, how many this plan may still tell or hold back. If that is not all, the next plan comes at once.
    pub fn afford(&mut self, wanted: usize) -> usize {
        let left = self.policy.devices_per_plan.saturating_sub(self.device_steps);
        self.is_cut |= wanted > left;
        wanted.min(left)
    }

    /// Plan again at `at`, if that is ahead.
    pub fn wake(&mut self, at: Timestamp) {
        if at > self.now {
            self.wake_at = Some(self.wake_at.map_or(at, |before| before.min(at)));
        }
    }

    /// Who belongs where.
    pub fn homes(&self) -> &Arc<Homes> {
        &self.homes
    }

    /// A question on `subject` whose answer depends on membership, on `terms`, on the devices and on the time.
    pub fn about(&self, kind: &str, subject: &str, terms: &impl Serialize) -> Option<About> {
        About::new(kind, subject, &(self.homes.terms(), terms))
    }

    /// The devices in the fleet for which `fits` holds, as they are now. `fits` may depend on `terms` and the device alone.
    pub fn found(&self, kind: &str, subject: &str, terms: &impl Serialize, fits: impl Fn(&Device) -> bool) -> Found {
        let look = |device: &Device, count: &mut usize| {
            *count += usize::from(device.admission.is_in() && fits(device));
            None
        };
        let mut by_home: BTreeMap<u32, Vec<Arc<Device>>> = BTreeMap::new();
        let census = Census::new(&self.state.fleet, About::new(kind, subject, terms), self.now, look);
        for device in census.devices(|count| *count > 0, &fits) {
            if let Some(home) = self.homes.of(&device) {
                by_home.entry(home).or_default().push(device);
            }
        }
        Found { homes: self.homes.clone(), by_home }
    }

    /// How many devices no cohort's selector matches. Who waits to be let in, or was put out, is not among them: it is told nothing at all.
    fn homeless(&self) -> usize {
        let look = |device: &Device, members: &mut ByCohort<usize>| {
            if let Some(home) = self.homes.of(device) {
                *members.entry(home) += 1;
            }
            None
        };
        let members = Census::new(&self.state.fleet, self.about("members", "", &()), self.now, look).total();
        members.of(Homes::NOWHERE).copied().unwrap_or(0)
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
        // Cut short is only what has used up its bound: whoever asked for more than there was has changed nothing.
        let is_cut = self.is_cut && self.device_steps >= self.policy.devices_per_plan;
        let wake_at = if is_cut || self.is_full { Some(self.now) } else { self.wake_at };
        (Plan { steps: self.steps, wake_at }, PlanReport { bases: self.bases, ..self.report })
    }
}

/// Devices that were asked for, by cohort.
pub struct Found {
    homes: Arc<Homes>,
    by_home: BTreeMap<u32, Vec<Arc<Device>>>,
}

impl Found {
    /// Those of one cohort, in the fleet's order.
    pub fn of(&self, cohort: &Cohort) -> &[Arc<Device>] {
        self.homes.number(cohort).and_then(|home| self.by_home.get(&home)).map_or(&[], Vec::as_slice)
    }

    /// Those that no cohort's selector matches.
    pub fn homeless(&self) -> &[Arc<Device>] {
        self.by_home.get(&Homes::NOWHERE).map_or(&[], Vec::as_slice)
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
