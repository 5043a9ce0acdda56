//! Taking a bad version back: first of all rules, for every device that runs it or was told to.
//!
//! Each goes to its own cohort's last known good, under a higher generation, without waiting for a stage, a rate or a person:
//! the old model is still on the device's disk. A device is told once; that an unreachable one has not answered does not hold
//! up the end of the rollback, because its retained assignment is waiting for it. What stays true: after this rule has run, no
//! device's desired state names a version that must be left.
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use leeway_protocol::assignment::Intent;
use leeway_protocol::digest::Digest;
use leeway_protocol::ids::{Line, RolloutId, Version};

use super::draft::{Draft, Telling, devices};
use super::plan::Step;
use super::report::{RolloutReport, say};
use crate::fleet::{Arm, CohortDoc, Device};
use crate::registry::{Alias, ModelVersion, VersionStatus};
use crate::rollout::{Move, Rollout, RolloutState};

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

fn send_back(draft: &mut Draft<'_>) {
    let bad = bad_versions(draft);
    if bad.is_empty() {
        return;
    }
    let manifests: Vec<Digest> = bad.keys().copied().collect();
    let concern = |device: &Device| concerned(device).is_some_and(|manifest| bad.contains_key(&manifest));
    let found = draft.found("told-bad", "", &manifests, concern);
    let cohorts: Vec<Arc<CohortDoc>> = draft.state.cohorts.values().cloned().collect();
    for cohort in cohorts {
        let target = draft.state.target_of(&cohort).filter(|v| !bad.contains_key(&v.manifest.digest)).cloned();
        for device in found.of(&cohort.name) {
            call_back(draft, device, target.as_deref(), &bad);
        }
    }
    for device in found.homeless() {
        call_back(draft, device, None, &bad);
    }
}

fn call_back(draft: &mut Draft<'_>, device: &Device, target: Option<&ModelVersion>, bad: &Bad) {
    let Some((version, rollout)) = concerned(device).and_then(|manifest| bad.get(&manifest)) else { return };
    let why = match rollout {
        Some((_, reason)) => reason.clone(),
        None => format!("version {} is {}.", version.version, version.status.as_str()),
    };
    let (intent, reason) = match target {
        Some(to) => (Intent::Rollback, format!("Back to {} {}: {why}", to.line, to.version)),
        None => (Intent::Hold, format!("Stay with what runs, there is no last known good version to go back to: {why}")),
    };
    let settings = device.desired.as_ref().map_or(draft.policy().settings, |d| d.settings);
    let rollout = rollout.as_ref().map(|(id, _)| id);
    draft.tell(device, Telling { intent, version: target, rollout, reason, settings, part: None });
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
            let nowhere = draft.state.target_of(&cohort).is_none_or(|v| v.manifest.digest == manifest);
            for device in found.of(&cohort.name) {
                let runs = device.runs(manifest);
                report.counts.exposed += usize::from(device.part_in(&rollout.id).is_some_and(|p| p.exposed_at.is_some()));
                match (runs && !nowhere || !device.has_seen_desired(), device.presence.online) {
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
