//! One stage of one rollout as it is now: who is in scope, where each device stands, how much room there is.
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use leeway_protocol::digest::Digest;
use leeway_protocol::ids::Cohort;
use leeway_protocol::time::Timestamp;

use super::RATE_WINDOW_MS;
use crate::fleet::bucket::{order, quota};
use crate::fleet::{Arm, CohortDoc, Device};
use crate::planner::draft::Draft;
use crate::registry::{ModelVersion, Slice};
use crate::rollout::evidence::{self, Arms};
use crate::rollout::gate::Counts;
use crate::rollout::standing::{changes_at, millis};
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
    /// Told within the last [`RATE_WINDOW_MS`].
    recent: usize,
}

/// A device and its place.
#[derive(Clone)]
pub struct Member {
    /// The device.
    pub device: Arc<Device>,
    /// Where it stands.
    pub standing: Standing,
    /// Whether it is in the current stage's scope.
    pub in_scope: bool,
    cohort: Arc<CohortDoc>,
}

impl Member {
    /// Its cohort.
    pub fn cohort(&self) -> Option<&Cohort> {
        Some(&self.cohort.name)
    }

    /// Its cohort's name.
    pub fn cohort_name(&self) -> Option<&str> {
        Some(self.cohort.name.as_str())
    }
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
        let (told_in_scope, recent, counts) = Default::default();
        let (rollout, devices) = (rollout.clone(), Vec::new());
        let mut scene = Self { rollout, version, baseline, index, stage, since, soaking_since, devices, counts, told_in_scope, recent };
        scene.survey(draft);
        Some(scene)
    }

    fn survey(&mut self, draft: &mut Draft<'_>) {
        let now = draft.now();
        let manifest = self.version.manifest.digest;
        for cohort in draft.cohorts(&self.rollout.spec.line) {
            let named = self.stage.cohorts.is_empty() || self.stage.cohorts.contains(&cohort.name);
            for device in draft.members(&cohort.name).iter() {
                let mut place = standing(device, &self.rollout, manifest, now);
                // Whoever belongs to a part of the fleet that the version failed on is out of this, told or not.
                if self.version.unfit_for(device, Some(&cohort.name)).is_some() {
                    if device.part_in(&self.rollout.id).is_none() {
                        continue;
                    }
                    place = Standing::Recalled;
                }
                let late = self.stage.membership == Membership::Frozen && device.enrolled_at > self.since;
                let in_scope = named && self.stage.selector.matches(&device.labels) && !(late && place == Standing::Untold);
                if !in_scope && place == Standing::Untold {
                    continue;
                }
                if let Some(at) = changes_at(device, &self.rollout, place) {
                    draft.wake(at);
                }
                self.devices.push(Member { device: device.clone(), standing: place, in_scope, cohort: cohort.clone() });
            }
        }
        self.count(now);
    }

    /// The same without the devices of one slice, as if they were not there.
    pub fn without(&self, slice: &Slice, now: Timestamp) -> Self {
        let inside = |m: &Member| slice.holds(&m.device.labels, m.cohort());
        let devices = self.devices.iter().filter(|m| !inside(m)).cloned().collect();
        let (counts, told_in_scope, recent) = Default::default();
        let (rollout, version, stage) = (self.rollout.clone(), self.version.clone(), self.stage.clone());
        let mut rest = Self { rollout, version, stage, devices, counts, told_in_scope, recent, ..*self };
        rest.count(now);
        rest
    }

    fn count(&mut self, now: Timestamp) {
        let manifest = self.version.manifest.digest;
        for member in &self.devices {
            let part = member.device.part_in(&self.rollout.id).filter(|p| p.arm == Arm::Canary);
            self.counts.add(member.standing, part.is_some_and(|p| p.exposed_at.is_some()));
            self.recent += usize::from(part.is_some_and(|p| now.millis_since(p.at) < RATE_WINDOW_MS));
            if member.in_scope {
                // A device that got the version some other way uses up the share too, and one that is called back until it is gone.
                let has_it = member.device.runs(manifest) || member.device.desired.as_ref().is_some_and(|d| d.manifest == Some(manifest));
                let recalled = member.standing == Standing::Recalled;
                self.told_in_scope += usize::from(part.is_some() && !recalled || has_it);
                if recalled {
                    continue;
                }
                self.counts.members += 1;
                let untold = part.is_none() && (member.standing == Standing::Untold || !self.holds_control());
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

    fn rate_room(&self, draft: &mut Draft<'_>) -> usize {
        let policy = &self.rollout.spec.policy;
        let by_rate = (policy.max_per_minute as usize).saturating_sub(self.recent);
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
        let strata: Vec<String> = scope.clone().map(|m| format!("{}/{}", m.cohort.name, balance(m))).collect();
        let names: Vec<(&str, &str)> = strata.iter().map(String::as_str).zip(scope.clone().map(|m| m.device.id.as_str())).collect();
        let by_name: BTreeMap<&str, &Member> = scope.map(|m| (m.device.id.as_str(), m)).collect();
        let free = |member: &&&Member| {
            let bound = match member.standing {
                Standing::Untold => member.device.desired.as_ref().is_some_and(|d| d.manifest == Some(manifest)),
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
        self.counts.in_flight() == 0 && (self.places() == 0 || self.eligible().is_empty())
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
