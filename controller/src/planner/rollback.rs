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

use super::advance::RATE_WINDOW_MS;
use super::draft::{Draft, Telling, devices};
use super::plan::Step;
use super::report::{RolloutReport, say};
use crate::fleet::{Arm, CohortDoc, Device, Part};
use crate::registry::{Alias, ModelVersion, VersionStatus};
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

/// Versions that are bad for a part of the fleet only.
fn partly_bad(draft: &Draft<'_>) -> BTreeMap<Digest, Arc<ModelVersion>> {
    let all = draft.state.versions.values().filter(|v| !v.poisoned_for.is_empty());
    all.map(|v| (v.manifest.digest, v.clone())).collect()
}

/// Versions that somebody must leave, to ask about single devices.
pub(super) struct Left {
    bad: Bad,
    partly: BTreeMap<Digest, Arc<ModelVersion>>,
}

impl Left {
    /// As things stand in `draft`.
    pub(super) fn of(draft: &Draft<'_>) -> Self {
        Self { bad: bad_versions(draft), partly: partly_bad(draft) }
    }

    /// Whether this device is this rule's to call back, at its rate.
    pub(super) fn concerns(&self, device: &Device, cohort: &Cohort) -> bool {
        concerned(device).is_some_and(|manifest| {
            let unfit = || self.partly.get(&manifest).is_some_and(|v| v.unfit_for(device, Some(cohort)).is_some());
            self.bad.contains_key(&manifest) || unfit()
        })
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

fn send_back(draft: &mut Draft<'_>) {
    let Left { bad, partly } = Left::of(draft);
    if bad.is_empty() && partly.is_empty() {
        return;
    }
    let (mut due, mut recent) = (Vec::new(), 0);
    let now = draft.now();
    let mut look = |cohort: Option<&CohortDoc>, targets: &Targets, device: &Arc<Device>| {
        let told = device.desired.as_ref().filter(|d| d.intent == Intent::Rollback);
        recent += usize::from(told.is_some_and(|d| now.millis_since(d.issued_at) < RATE_WINDOW_MS));
        let Some(manifest) = concerned(device) else { return };
        let target = targets.of(device).filter(|v| !bad.contains_key(&v.manifest.digest)).cloned();
        let device = device.clone();
        if let Some((version, rollout)) = bad.get(&manifest) {
            let why = match rollout {
                Some((_, reason)) => reason.clone(),
                None => format!("version {} is {}.", version.version, version.status.as_str()),
            };
            due.push(Recall { device, target, why, rollout: rollout.as_ref().map(|(id, _)| id.clone()), slice: false });
        } else if let Some(poisoned) = partly.get(&manifest).and_then(|v| v.unfit_for(&device, cohort.map(|c| &c.name))) {
            let why = format!("it failed on devices with {}: {}", poisoned.slice, poisoned.reason);
            due.push(Recall { device, target, why, rollout: Some(poisoned.rollout.clone()), slice: true });
        }
    };
    let cohorts: Vec<Arc<CohortDoc>> = draft.state.cohorts.values().cloned().collect();
    for cohort in cohorts {
        let targets = draft.state.targets_of(&cohort);
        draft.members(&cohort.name).iter().for_each(|device| look(Some(&cohort), &targets, device));
    }
    draft.homeless().iter().for_each(|device| look(None, &Targets::default(), device));
    let room = (draft.policy().rollback_per_minute as usize).saturating_sub(recent);
    if due.len() > room {
        say(
            &mut draft.report.notes,
            format!("{} wait to be called back: {recent} were within the last minute.", devices(due.len() - room)),
        );
        draft.wake(now.plus_millis(RATE_WINDOW_MS / 10));
        // Whoever runs it first; among these whoever can be reached.
        due.sort_by_key(|recall| (recall.device.active().map(|r| r.manifest) != concerned(&recall.device), !recall.device.presence.online));
        due.truncate(room);
    }
    due.into_iter().for_each(|recall| call_back(draft, recall));
}

fn call_back(draft: &mut Draft<'_>, recall: Recall) {
    let Recall { device, target, why, rollout, slice } = recall;
    let target = target.as_deref();
    let part = device.part.clone().filter(|part| slice && rollout.as_ref() == Some(&part.rollout));
    let part = part.map(|part| Part { recalled: true, ..part });
    let (intent, reason) = match target {
        Some(to) => (Intent::Rollback, format!("Back to {} {}: {why}", to.line, to.version)),
        None => (Intent::Hold, format!("Stay with what runs, there is no last known good version to go back to: {why}")),
    };
    let settings = device.desired.as_ref().map_or(draft.policy().settings, |d| d.settings);
    draft.tell(&device, Telling { intent, version: target, rollout: rollout.as_ref(), reason, settings, part });
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
        for cohort in draft.cohorts(&spec.line) {
            let targets = draft.state.targets_of(&cohort);
            for device in draft.members(&cohort.name).iter() {
                let nowhere = targets.of(device).is_none_or(|v| v.manifest.digest == manifest);
                let told = device.part_in(&rollout.id).is_some_and(|p| p.arm == Arm::Canary);
                let runs = device.runs(manifest);
                if !told && !runs {
                    continue;
                }
                report.counts.exposed += usize::from(device.part_in(&rollout.id).is_some_and(|p| p.exposed_at.is_some()));
                let waits = device.desired.as_ref().is_some_and(|d| d.manifest == Some(manifest));
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
    for cohort in cohorts {
        let still = |device: &Arc<Device>| device.active().is_some_and(|running| bad.contains(&running.manifest));
        let stuck = draft.members(&cohort.name).iter().filter(|d| still(d)).count();
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
