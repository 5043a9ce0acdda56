//! Taking a bad version back: first of all rules, for every device that runs it or was told to.
//!
//! Each goes to its own cohort's last known good, under a higher generation, without waiting for a stage or a person: the old
//! model is still on the device's disk. Those that run the bad version go first, at [`Policy::rollback_per_minute`] in all, which
//! bounds what the broker and the application behind it see at once and which small fleets never reach. A version may also be bad
//! for a part of the fleet only; then that part goes back and the rest goes on. A device is told once; that an unreachable one
//! has not answered does not hold up the end of the rollback, because its retained assignment is waiting for it. What stays
//! true: after this rule has run below its rate, no device's desired state names a version that it must leave.
//!
//! [`Policy::rollback_per_minute`]: super::plan::Policy::rollback_per_minute
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use leeway_protocol::assignment::Intent;
use leeway_protocol::digest::Digest;
use leeway_protocol::ids::{Cohort, Line, RolloutId, Version};
use serde::Serialize;

use super::advance::RATE_WINDOW_MS;
use super::draft::{Draft, Telling, devices};
use super::plan::Step;
use super::report::{RolloutReport, say};
use crate::fleet::{Arm, Census, CohortDoc, Device, Part};
use crate::registry::{Alias, ModelVersion, Poisoned, VersionStatus};
use crate::rollout::{Move, Rollout, RolloutState};
use crate::snapshot::Targets;

/// Poison, end, point elsewhere, send back, and see when everyone is back.
pub fn decide(draft: &mut Draft<'_>) {
    poison(draft);
    end_rollouts_of_bad_versions(draft);
    repoint(draft);
    send_back(draft);
    finish(draft);
}

/// A version whose rollout the gate has failed is never assigned again.
fn poison(draft: &mut Draft<'_>) {
    for rollout in rolling_back(draft) {
        let RolloutState::RollingBack { reason, aborted: false, .. } = &rollout.state else { continue };
        let spec = &rollout.spec;
        let known = draft.state.version(&spec.line, &spec.version).is_some_and(|v| !v.must_leave());
        if known {
            let status = VersionStatus::Poisoned { reason: format!("Rollout {}: {reason}", rollout.id) };
            draft.push(Step::MarkVersion { line: spec.line.clone(), version: spec.version.clone(), status });
        }
    }
}

/// A version can also turn bad from outside: yanked by a person, or poisoned by an earlier rollout.
fn end_rollouts_of_bad_versions(draft: &mut Draft<'_>) {
    let rollouts: Vec<Arc<Rollout>> = draft.state.rollouts.values().filter(|r| !r.state.is_over()).cloned().collect();
    for rollout in rollouts {
        let Some(version) = draft.state.version(&rollout.spec.line, &rollout.spec.version).filter(|v| v.must_leave()) else { continue };
        let why = version.status.reason().unwrap_or_default();
        let reason = format!("Version {} is {}: {why}", version.version, version.status.as_str());
        let to = match rollout.state {
            RolloutState::Planned => Move::Abort { reason },
            RolloutState::Running { .. } | RolloutState::Paused { .. } => Move::Regress { reason },
            _ => continue,
        };
        draft.push(Step::MoveRollout { rollout: rollout.id.clone(), to });
    }
}

/// Champions and last known goods that must be left point to the latest former champion that need not.
fn repoint(draft: &mut Draft<'_>) {
    let bad = |draft: &Draft<'_>, line: &Line, version: &Version| draft.state.version(line, version).is_some_and(|v| v.must_leave());
    let lines: Vec<_> = draft.state.lines.values().cloned().collect();
    for line in lines {
        for alias in [Alias::Champion, Alias::Challenger] {
            let Some(version) = line.aliases.current(alias).filter(|v| bad(draft, &line.line, v)).cloned() else { continue };
            let to = if alias == Alias::Champion { former(draft, &line.line) } else { None };
            let reason = match &to {
                Some(to) => format!("Version {version} must be left; the {} before it was {to}.", alias.as_str()),
                None => format!("Version {version} must be left."),
            };
            draft.push(Step::SetAlias { line: line.line.clone(), alias, to, rollout: None, reason });
        }
    }
    let cohorts: Vec<_> = draft.state.cohorts.values().cloned().collect();
    for cohort in cohorts {
        let Some(version) = cohort.last_known_good.clone().filter(|v| bad(draft, &cohort.line, v)) else { continue };
        let to = former(draft, &cohort.line);
        let reason = match &to {
            Some(to) => format!("Version {version} must be left; cohort {} goes back to {to}.", cohort.name),
            None => format!("Version {version} must be left, and no earlier champion is left for cohort {}.", cohort.name),
        };
        draft.push(Step::SetLastKnownGood { cohort: cohort.name.clone(), version: to, reason });
    }
}

/// The latest champion, present or former, that a device may be told to run.
fn former(draft: &Draft<'_>, line: &Line) -> Option<Version> {
    let aliases = &draft.state.lines.get(line)?.aliases;
    let all = aliases.current(Alias::Champion).into_iter().chain(aliases.former_champions());
    all.into_iter().find(|v| draft.state.assignable(line, v).is_some()).cloned()
}

/// What must be left, and the rollout that says so, if one does.
type Bad = BTreeMap<Digest, (Arc<ModelVersion>, Option<(RolloutId, String)>)>;

fn bad_versions(draft: &Draft<'_>) -> Bad {
    let mut bad: Bad = draft.state.versions.values().filter(|v| v.must_leave()).map(|v| (v.manifest.digest, (v.clone(), None))).collect();
    for rollout in rolling_back(draft) {
        let RolloutState::RollingBack { reason, .. } = &rollout.state else { continue };
        if let Some(version) = draft.state.version(&rollout.spec.line, &rollout.spec.version) {
            bad.insert(version.manifest.digest, (version.clone(), Some((rollout.id.clone(), reason.clone()))));
        }
    }
    bad
}

/// Versions that somebody must leave, to ask about single devices.
pub(super) struct Left {
    bad: Bad,
    /// Bad for a part of the fleet only.
    partly: BTreeMap<Digest, Arc<ModelVersion>>,
}

impl Left {
    /// As things stand in `draft`.
    pub(super) fn of(draft: &Draft<'_>) -> Self {
        let partly = draft.state.versions.values().filter(|v| !v.poisoned_for.is_empty());
        Self { bad: bad_versions(draft), partly: partly.map(|v| (v.manifest.digest, v.clone())).collect() }
    }

    /// Whether this device is this rule's to call back, at its rate.
    pub(super) fn concerns(&self, device: &Device, cohort: Option<&Cohort>) -> bool {
        concerned(device).is_some_and(|manifest| self.bad.contains_key(&manifest) || self.slice_of(manifest, device, cohort).is_some())
    }

    fn slice_of(&self, manifest: Digest, device: &Device, cohort: Option<&Cohort>) -> Option<&Poisoned> {
        self.partly.get(&manifest)?.unfit_for(device, cohort)
    }

    /// What the answer of [`Self::concerns`] depends on besides the device.
    pub(super) fn terms(&self) -> impl Serialize + use<> {
        let bad: Vec<Digest> = self.bad.keys().copied().collect();
        let slices = |v: &Arc<ModelVersion>| v.poisoned_for.iter().map(|poisoned| poisoned.slice.clone()).collect::<Vec<_>>();
        (bad, self.partly.iter().map(|(manifest, v)| (*manifest, slices(v))).collect::<Vec<_>>())
    }
}

/// A device that must leave what it was told, where to, and why.
struct Recall {
    device: Arc<Device>,
    target: Option<Arc<ModelVersion>>,
    why: String,
    rollout: Option<RolloutId>,
    /// For the part of the fleet it belongs to, not for everyone.
    slice: bool,
}

impl Recall {
    fn of(left: &Left, device: &Arc<Device>, cohort: Option<&Cohort>, targets: &Targets) -> Option<Self> {
        let manifest = concerned(device)?;
        let target = targets.of(device).filter(|v| !left.bad.contains_key(&v.manifest.digest)).cloned();
        let device = device.clone();
        if let Some((version, rollout)) = left.bad.get(&manifest) {
            let why = match rollout {
                Some((_, reason)) => reason.clone(),
                None => format!("version {} is {}.", version.version, version.status.as_str()),
            };
            return Some(Self { device, target, why, rollout: rollout.as_ref().map(|(id, _)| id.clone()), slice: false });
        }
        let poisoned = left.slice_of(manifest, &device, cohort)?;
        let why = format!("it failed on devices with {}: {}", poisoned.slice, poisoned.reason);
        Some(Self { device, target, why, rollout: Some(poisoned.rollout.clone()), slice: true })
    }
}

fn send_back(draft: &mut Draft<'_>) {
    let left = Left::of(draft);
    if left.bad.is_empty() && left.partly.is_empty() {
        return;
    }
    let homes = draft.homes().clone();
    let concern = |device: &Device| left.concerns(device, homes.of(device).and_then(|home| homes.name(home)));
    let found = draft.found("told-bad", "", &(homes.terms(), left.terms()), concern);
    let mut due = Vec::new();
    let cohorts: Vec<Arc<CohortDoc>> = draft.state.cohorts.values().cloned().collect();
    for cohort in cohorts {
        let targets = draft.state.targets_of(&cohort);
        due.extend(found.of(&cohort.name).iter().filter_map(|device| Recall::of(&left, device, Some(&cohort.name), &targets)));
    }
    due.extend(found.homeless().iter().filter_map(|device| Recall::of(&left, device, None, &Targets::default())));
    if due.is_empty() {
        return;
    }
    let (room, recent) = room(draft);
    let room = draft.afford(due.len().min(room));
    if due.len() > room {
        let waiting = devices(due.len() - room);
        say(&mut draft.report.notes, format!("{waiting} wait to be called back: {recent} were within the last minute."));
        draft.wake(draft.now().plus_millis(RATE_WINDOW_MS / 10));
        // Whoever runs it first; among these whoever can be reached.
        due.sort_by_key(|recall| (!concerned(&recall.device).is_some_and(|bad| recall.device.runs(bad)), !recall.device.presence.online));
        due.truncate(room);
    }
    due.into_iter().for_each(|recall| call_back(draft, recall));
}

/// How many more devices may be called back now, and how many were within the last minute.
fn room(draft: &Draft<'_>) -> (usize, usize) {
    let now = draft.now();
    let look = |device: &Device, recent: &mut usize| {
        let told = device.desired.as_ref().filter(|d| d.intent == Intent::Rollback && now.millis_since(d.issued_at) < RATE_WINDOW_MS);
        *recent += usize::from(told.is_some());
        told.map(|desired| desired.issued_at.plus_millis(RATE_WINDOW_MS))
    };
    let recent = Census::new(&draft.state.fleet, draft.about("called-back", "", &()), now, look).total();
    ((draft.policy().rollback_per_minute as usize).saturating_sub(recent), recent)
}

fn call_back(draft: &mut Draft<'_>, recall: Recall) {
    let Recall { device, target, why, rollout, slice } = recall;
    let part = device.part.clone().filter(|part| slice && rollout.as_ref() == Some(&part.rollout));
    let part = part.map(|part| Part { recalled: true, ..part });
    let (intent, reason) = match &target {
        Some(to) => (Intent::Rollback, format!("Back to {} {}: {why}", to.line, to.version)),
        None => (Intent::Hold, format!("Stay with what runs, there is no last known good version to go back to: {why}")),
    };
    let settings = device.desired.as_ref().map_or(draft.policy().settings, |d| d.settings);
    draft.tell(&device, Telling { intent, version: target.as_deref(), rollout: rollout.as_ref(), reason, settings, part });
}

/// The manifest that decides whether a device must be called back: what it was told, or what it runs without having been told.
fn concerned(device: &Device) -> Option<Digest> {
    match &device.desired {
        Some(desired) => desired.manifest,
        None => device.active().map(|running| running.manifest),
    }
}

/// A rollback is over when every device that can be reached has left the version.
fn finish(draft: &mut Draft<'_>) {
    for rollout in rolling_back(draft) {
        let spec = &rollout.spec;
        let Some(manifest) = draft.state.version(&spec.line, &spec.version).map(|v| v.manifest.digest) else { continue };
        let (mut back, mut open, mut away, mut kept) = (0, Vec::new(), 0, 0);
        let mut report = RolloutReport::default();
        let is_canary = |device: &Device| device.part_in(&rollout.id).is_some_and(|p| p.arm == Arm::Canary);
        let touched = |device: &Device| is_canary(device) || device.runs(manifest);
        let found = draft.found("touched", rollout.id.as_str(), &(&rollout.id, manifest), touched);
        for cohort in draft.cohorts(&spec.line) {
            let targets = draft.state.targets_of(&cohort);
            for device in found.of(&cohort.name) {
                let nowhere = targets.of(device).is_none_or(|v| v.manifest.digest == manifest);
                let runs = device.runs(manifest);
                let waits = device.desired.as_ref().is_some_and(|d| d.manifest == Some(manifest));
                report.counts.exposed += usize::from(device.part_in(&rollout.id).is_some_and(|p| p.exposed_at.is_some()));
                match ((runs || waits) && !nowhere || !device.has_seen_desired(), device.presence.online) {
                    (false, _) if runs => kept += 1,
                    (false, _) => back += 1,
                    (true, true) => open.push(device.id.clone()),
                    (true, false) => away += 1,
                }
            }
        }
        let RolloutState::RollingBack { reason, .. } = &rollout.state else { continue };
        report.headline = format!("Rolling back version {}: {reason}", spec.version);
        if away > 0 {
            say(&mut report.why, format!("{} cannot be reached; the way back waits for them.", devices(away)));
        }
        if kept > 0 {
            say(&mut report.why, format!("{} keep the version, because there is no earlier one to go back to.", devices(kept)));
        }
        if open.is_empty() {
            let reason = left(&spec.version, back, away, kept);
            draft.push(Step::MoveRollout { rollout: rollout.id.clone(), to: Move::Restored { reason } });
        } else {
            let names: Vec<&str> = open.iter().take(5).map(|d| d.as_str()).collect();
            let more = if open.len() > names.len() { " and others" } else { "" };
            say(&mut report.why, format!("{} not back yet: {}{more}.", devices(open.len()), names.join(", ")));
        }
        draft.report.rollouts.insert(rollout.id.clone(), report);
    }
    note_stragglers(draft);
}

fn left(version: &Version, back: usize, away: usize, kept: usize) -> String {
    let mut text = format!("{} back from version {version}", devices(back));
    if away > 0 {
        text += &format!("; {} cannot be reached and will go back on return", devices(away));
    }
    if kept > 0 {
        text += &format!("; {} keep it, because there is no earlier one", devices(kept));
    }
    text + "."
}

/// Devices that say they run something bad although they were told otherwise and have seen it.
fn note_stragglers(draft: &mut Draft<'_>) {
    let bad: BTreeSet<Digest> = draft.state.versions.values().filter(|v| v.must_leave()).map(|v| v.manifest.digest).collect();
    if bad.is_empty() {
        return;
    }
    let cohorts: Vec<Arc<CohortDoc>> = draft.state.cohorts.values().cloned().collect();
    let found = draft.found("runs-bad", "", &bad, |device| device.active().is_some_and(|running| bad.contains(&running.manifest)));
    for cohort in cohorts {
        let stuck = found.of(&cohort.name).len();
        if stuck > 0 {
            let report = draft.report.cohorts.entry(cohort.name.clone()).or_default();
            say(
                &mut report.why,
                format!("{} still report a version that must be left; the way back has been planned for them.", devices(stuck)),
            );
        }
    }
}

fn rolling_back(draft: &Draft<'_>) -> Vec<Arc<Rollout>> {
    draft.state.rollouts.values().filter(|r| matches!(r.state, RolloutState::RollingBack { .. })).cloned().collect()
}
