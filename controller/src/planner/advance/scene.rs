//! One stage of one rollout as it is now: who is in scope, where each device stands, how much room there is.
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use leeway_protocol::digest::Digest;
use leeway_protocol::time::Timestamp;

use super::RATE_WINDOW_MS;
use crate::fleet::bucket::{is_held_back, order, quota};
use crate::fleet::{Arm, CohortDoc, Device};
use crate::planner::draft::Draft;
use crate::registry::ModelVersion;
use crate::rollout::evidence::{self, Arms};
use crate::rollout::gate::{Counts, StageOutcome};
use crate::rollout::standing::{changes_at, millis, retry_at};
use crate::rollout::{Membership, Rollout, RolloutState, Stage, Standing, standing};

/// A stage's scope with everyone in their places.
pub struct Scene {
    /// The rollout.
    pub rollout: Arc<Rollout>,
    /// The version it brings.
    pub version: Arc<ModelVersion>,
    /// Manifest of the version it is compared with, if there is one.
    pub baseline: Option<Digest>,
    /// The stage, from 0.
    pub index: usize,
    /// The stage itself.
    pub stage: Stage,
    /// Since when the stage runs; the moment of the pause, if it is paused.
    pub since: Timestamp,
    /// Since when it soaks.
    pub soaking_since: Option<Timestamp>,
    /// Every device of the line's cohorts that has to do with the rollout.
    pub devices: Vec<Member>,
    /// Them, counted.
    pub counts: Counts,
    /// Told in the stage's scope.
    told_in_scope: usize,
    /// Of these, devices with an outcome, and devices that run the version.
    finished: (usize, usize),
    /// Told within the last [`RATE_WINDOW_MS`].
    recent: usize,
}

/// A device and its place.
pub struct Member {
    /// The device.
    pub device: Arc<Device>,
    /// Where it stands.
    pub standing: Standing,
    /// Whether it is in the current stage's scope.
    pub in_scope: bool,
    /// None if it has left every cohort since it was told.
    cohort: Option<Arc<CohortDoc>>,
}

impl Scene {
    /// The stage as it is now, or `None` if the version or the stage is not known.
    pub fn of(draft: &mut Draft<'_>, rollout: &Arc<Rollout>) -> Option<Self> {
        let version = draft.state.version(&rollout.spec.line, &rollout.spec.version)?.clone();
        let (index, stage) = rollout.stage().map(|(i, s)| (i, s.clone()))?;
        let (since, soaking_since) = match &rollout.state {
            RolloutState::Running { since, soaking_since, .. } => (*since, *soaking_since),
            RolloutState::Paused { at, soaking_since, .. } => (*at, *soaking_since),
            _ => return None,
        };
        let baseline = rollout.spec.baseline.as_ref().and_then(|to| draft.state.version(&rollout.spec.line, to));
        let baseline = baseline.map(|version| version.manifest.digest);
        let (told_in_scope, recent, finished, counts) = Default::default();
        let (rollout, devices) = (rollout.clone(), Vec::new());
        let mut scene =
            Self { rollout, version, baseline, index, stage, since, soaking_since, devices, counts, told_in_scope, finished, recent };
        scene.survey(draft);
        Some(scene)
    }

    fn survey(&mut self, draft: &mut Draft<'_>) {
        let now = draft.now();
        let manifest = self.version.manifest.digest;
        let line = &self.rollout.spec.line.clone();
        let held_share = if self.rollout.spec.baseline.is_some() { draft.hold_back_share(line) } else { 0.0 };
        for cohort in draft.cohorts(line) {
            let named = self.stage.cohorts.is_empty() || self.stage.cohorts.contains(&cohort.name);
            for device in draft.members(&cohort.name).iter() {
                let place = standing(device, &self.rollout, manifest, now);
                let late = self.stage.membership == Membership::Frozen && device.enrolled_at > self.since;
                let in_scope = named && self.stage.selector.matches(&device.labels) && !(late && place.is_untold());
                if !in_scope && place.is_untold() {
                    continue;
                }
                if place.is_untold() && is_held_back(line.as_str(), device.id.as_str(), held_share) {
                    self.counts.held_back += 1;
                    continue;
                }
                if let Some(at) = changes_at(device, &self.rollout, place) {
                    draft.wake(at);
                }
                self.devices.push(Member { device: device.clone(), standing: place, in_scope, cohort: Some(cohort.clone()) });
            }
        }
        // Whoever has left every cohort keeps its part: leaving takes no failure back, and returning buys no new attempts.
        for device in draft.homeless() {
            let place = standing(&device, &self.rollout, manifest, now);
            if !place.is_untold() {
                self.devices.push(Member { device, standing: place, in_scope: false, cohort: None });
            }
        }
        self.count(now);
    }

    fn count(&mut self, now: Timestamp) {
        let manifest = self.version.manifest.digest;
        for member in &self.devices {
            let part = member.device.part_in(&self.rollout.id).filter(|p| p.arm == Arm::Canary);
            self.counts.add(member.standing, part.is_some_and(|p| p.exposed_at.is_some()));
            self.recent += usize::from(part.is_some_and(|p| now.millis_since(p.at) < RATE_WINDOW_MS));
            // Whoever tries again has failed before, and until it has succeeded that stands.
            let again = part.is_some_and(|p| p.attempts > 1);
            let outcome = part.is_some() && (again || !member.standing.is_in_flight() && member.standing != Standing::Deferred);
            if member.in_scope && outcome {
                self.finished.0 += 1;
                self.finished.1 += usize::from(member.standing == Standing::Running);
            }
            if member.in_scope && member.standing != Standing::Unreachable {
                self.counts.members += 1;
                // A device that got the version some other way uses up the share too.
                let has_it = member.device.runs(manifest) || member.device.desired.as_ref().is_some_and(|d| d.manifest == Some(manifest));
                self.told_in_scope += usize::from(part.is_some() || has_it);
                let untold = part.is_none() && (member.standing.is_untold() || !self.holds_control());
                self.counts.away += usize::from(untold && !member.device.presence.online);
                self.counts.waiting += usize::from(untold && member.device.presence.online);
            }
        }
        self.counts.allowed = self.allowed();
    }

    /// Whether devices are held back in this stage.
    pub fn holds_control(&self) -> bool {
        self.rollout.holds_control(self.index)
    }

    /// Places for the version in this stage's scope.
    fn allowed(&self) -> usize {
        let members = self.counts.members;
        let allowed = quota(self.stage.share, members);
        if !self.holds_control() {
            return allowed;
        }
        allowed.min(members.saturating_sub(self.control_quota())).max(usize::from(members > 0))
    }

    fn control_quota(&self) -> usize {
        let members = self.counts.members;
        quota(self.rollout.spec.policy.control_share, members).min(members.saturating_sub(1))
    }

    /// Whether devices are still to be held back.
    pub fn needs_control(&self) -> bool {
        self.holds_control() && self.missing_control() > 0
    }

    /// How many are still to be held back.
    pub fn missing_control(&self) -> usize {
        let held = self.devices.iter().filter(|m| m.in_scope && m.standing == Standing::Control).count();
        self.control_quota().saturating_sub(held)
    }

    /// Places left by the share.
    pub fn places(&self) -> usize {
        self.counts.allowed.saturating_sub(self.told_in_scope)
    }

    /// How many more devices may be told now; asks to be woken when the rate allows more.
    pub fn room(&self, draft: &mut Draft<'_>) -> usize {
        self.places().min(self.rate_room(draft))
    }

    /// How many failed devices may be told again: they have their places already.
    pub fn room_for_retries(&self, draft: &mut Draft<'_>) -> usize {
        self.rate_room(draft)
    }

    /// What became of those told in the stage's scope.
    pub fn outcome(&self, now: Timestamp) -> StageOutcome {
        let (finished, running) = self.finished;
        let soaked = self.soaking_since.is_some_and(|since| now >= since.plus_millis(millis(self.stage.soak_ms)));
        let lost_after = millis(self.rollout.spec.policy.gate.lost_after_ms);
        let held = self.devices.iter().filter(|m| m.standing == Standing::Control && m.device.silent_ms(now) < lost_after);
        let drawn = (soaked && self.holds_control()).then(|| (self.counts.running, held.count()));
        StageOutcome { index: self.index, finished, running, success_share: self.stage.success_share, drawn }
    }

    /// Whether a device that failed or ran out of time will be told again by itself.
    pub fn retries_pending(&self) -> bool {
        self.devices.iter().any(|m| retry_at(&m.device, &self.rollout, m.standing).is_some())
    }

    fn rate_room(&self, draft: &mut Draft<'_>) -> usize {
        let policy = &self.rollout.spec.policy;
        // By those told before this minute: counting the present one's would let a ramp climb all its steps at one moment.
        let before = self.counts.told().saturating_sub(self.recent);
        let per_minute = policy.per_minute(before, self.counts.running);
        let by_rate = (per_minute as usize).saturating_sub(self.recent);
        if by_rate == 0 {
            let told =
                self.devices.iter().filter_map(|m| m.device.part_in(&self.rollout.id)).filter(|p| p.arm == Arm::Canary).map(|p| p.at);
            let recent = told.filter(|at| draft.now().millis_since(*at) < RATE_WINDOW_MS).min();
            if let Some(at) = recent {
                draft.wake(at.plus_millis(RATE_WINDOW_MS));
            }
        }
        by_rate.min((policy.max_in_flight as usize).saturating_sub(self.counts.in_flight()))
    }

    /// Devices that could be told now, first ones first; connected, in scope, without a part in this rollout that binds them.
    pub fn eligible(&self) -> Vec<Arc<Device>> {
        if self.places() == 0 && !self.needs_control() {
            return Vec::new();
        }
        let manifest = self.version.manifest.digest;
        let label = self.rollout.spec.policy.balance_by.as_ref();
        let balance = |m: &Member| label.and_then(|key| m.device.labels.get(key)).map_or("", String::as_str).to_owned();
        let scope = self.devices.iter().filter(|m| m.in_scope);
        let strata: Vec<String> =
            scope.clone().map(|m| format!("{}/{}", m.cohort.as_ref().map_or("", |c| c.name.as_str()), balance(m))).collect();
        let names: Vec<(&str, &str)> = strata.iter().map(String::as_str).zip(scope.clone().map(|m| m.device.id.as_str())).collect();
        let by_name: BTreeMap<&str, &Member> = scope.map(|m| (m.device.id.as_str(), m)).collect();
        let free = |member: &&&Member| {
            let bound = match member.standing {
                Standing::Untold | Standing::Unreachable => member.device.desired.as_ref().is_some_and(|d| d.manifest == Some(manifest)),
                Standing::Control => self.holds_control(),
                _ => true,
            };
            !bound && member.device.presence.online
        };
        order(self.rollout.id.as_str(), names)
            .into_iter()
            .filter_map(|name| by_name.get(name))
            .filter(free)
            .map(|m| m.device.clone())
            .collect()
    }

    /// Whether the stage is as full as it can be now, and everyone told has an outcome.
    pub fn is_filled(&self) -> bool {
        self.counts.in_flight() == 0 && self.counts.deferred == 0 && (self.places() == 0 || self.eligible().is_empty())
    }

    /// The last moment at which a device was told, or at which the stage began.
    pub fn last_progress(&self) -> Timestamp {
        let told = self.devices.iter().filter_map(|m| m.device.part_in(&self.rollout.id)).filter(|p| p.arm == Arm::Canary).map(|p| p.at);
        told.max().map_or(self.since, |at| at.max(self.since))
    }

    /// Device failures of both sides as trials: those that tried, and of these those that failed or fell silent.
    pub fn failures(&self, now: Timestamp) -> Arms {
        let lost_after = millis(self.rollout.spec.policy.gate.lost_after_ms);
        // Without a control group to share an outage with, silence says nothing about the version.
        let failed = self.counts.failed_by_model + if self.holds_control() { self.counts.lost } else { 0 };
        let held = self.devices.iter().filter(|m| m.standing == Standing::Control && m.device.reported.is_some());
        let (n, lost) = held.fold((0, 0), |(n, lost), m| (n + 1, lost + usize::from(m.device.silent_ms(now) >= lost_after)));
        Arms { canary: trials(self.counts.tried(), failed), control: trials(n, lost) }
    }

    /// Its state in a sentence.
    pub fn headline(&self) -> String {
        let (counts, stages) = (&self.counts, self.rollout.spec.policy.stages.len());
        let stage = format!("stage {} of {stages} ({})", self.index + 1, self.stage.name);
        let place = match &self.rollout.state {
            RolloutState::Paused { reason, .. } => return format!("Paused in {stage}: {reason}"),
            _ if self.soaking_since.is_some() => "soaks in",
            _ => "fills",
        };
        format!("Version {} {place} {stage}: {} of {} allowed devices run it.", self.version.version, counts.running, counts.allowed)
    }

    /// Names of devices in a place, at most five, for sentences.
    pub fn names(&self, places: &[Standing]) -> String {
        let places: BTreeSet<Standing> = places.iter().copied().collect();
        let names: Vec<&str> = self.devices.iter().filter(|m| places.contains(&m.standing)).map(|m| m.device.id.as_str()).collect();
        let shown = names.iter().take(5).copied().collect::<Vec<_>>().join(", ");
        if names.len() > 5 { format!("{shown} and others") } else { shown }
    }
}

fn trials(n: usize, x: usize) -> evidence::Arm {
    let (n, x) = (n as f64, x as f64);
    evidence::Arm { devices: n as u64, n, x, n2: n, x2: x, nx: x }
}
