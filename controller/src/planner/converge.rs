//! Everyone outside a rollout: on their cohort's target, new devices and stragglers included.
//!
//! The target is the cohort's last known good (or the line's champion, for a cohort that has none yet). A device that is
//! canary of a running rollout is that rollout's business; everyone else, control group included, is brought to the target at
//! a bounded rate. What a device refused because of the model is not told again: it takes a person, a new version or a new
//! target. What failed for a reason of the device's own (bytes that rotted, a full disk) is told again after a while.
use std::sync::Arc;

use leeway_protocol::assignment::Intent;
use leeway_protocol::ids::RolloutId;
use leeway_protocol::time::Timestamp;

use super::advance::RATE_WINDOW_MS;
use super::draft::{Draft, Telling, devices};
use super::report::say;
use crate::fleet::bucket::is_held_back;
use crate::fleet::{Arm, CohortDoc, Device};
use crate::registry::ModelVersion;
use crate::rollout::gate::blames_model;

/// The devices of one cohort, shared with the draft.
type Members = Arc<Vec<Arc<Device>>>;

/// Bring every cohort to its target.
pub fn decide(draft: &mut Draft<'_>) {
    let lines: Vec<_> = draft.state.lines.keys().cloned().collect();
    for line in lines {
        let active: Vec<RolloutId> =
            draft.state.rollouts.values().filter(|r| r.spec.line == line && r.state.is_active()).map(|r| r.id.clone()).collect();
        let cohorts = draft.cohorts(&line);
        let members: Vec<(Arc<CohortDoc>, Members)> = cohorts.into_iter().map(|c| (c.clone(), draft.members(&c.name))).collect();
        let all = || members.iter().flat_map(|(_, devices)| devices.iter());
        let recent = |d: &&Arc<Device>| {
            d.desired.as_ref().is_some_and(|d| d.rollout.is_none() && draft.now().millis_since(d.issued_at) < RATE_WINDOW_MS)
        };
        let told = all().filter(recent).count();
        let oldest = all().filter(recent).filter_map(|d| d.desired.as_ref()).map(|d| d.issued_at).min();
        let mut room = (draft.policy().converge_per_minute as usize).saturating_sub(told);
        for (cohort, devices) in &members {
            converge(draft, cohort, devices, &active, &mut room);
        }
        if room == 0 {
            let from = oldest.unwrap_or(draft.now());
            draft.wake(from.plus_millis(RATE_WINDOW_MS));
        }
    }
}

fn converge(draft: &mut Draft<'_>, cohort: &CohortDoc, members: &[Arc<Device>], active: &[RolloutId], room: &mut usize) {
    let Some(target) = draft.state.target_of(cohort).cloned() else {
        let report = draft.report.cohorts.entry(cohort.name.clone()).or_default();
        report.devices = members.len();
        if !members.is_empty() {
            say(&mut report.why, format!("Line {} has no champion yet: a first rollout brings one.", cohort.line));
        }
        return;
    };
    let (usual, held_share) = (target, draft.hold_back_share(&cohort.line));
    let (mut converged, mut waiting, mut refused, mut failed, mut canaries, mut on_the_way) = (0, 0, 0, 0, 0, 0);
    for device in members {
        if active.iter().any(|id| device.part_in(id).is_some_and(|p| p.arm == Arm::Canary)) {
            canaries += 1;
            continue;
        }
        let target = lagging(draft, device, cohort, &usual, held_share).unwrap_or_else(|| usual.clone());
        let manifest = target.manifest.digest;
        let told = device.desired.as_ref().is_some_and(|d| d.manifest == Some(manifest));
        let again = retry_at(device, draft.policy().retry_after_ms);
        if !told || device.retry || device.follows_another() || again.is_some_and(|at| at <= draft.now()) {
            if *room == 0 {
                waiting += 1;
                continue;
            }
            *room -= 1;
            on_the_way += 1;
            bring(draft, device, cohort, &target);
        } else if device.proves(manifest) {
            converged += 1;
        } else if let Some(at) = again {
            failed += 1;
            draft.wake(at);
        } else if gave_up(device) {
            refused += 1;
        } else {
            on_the_way += 1;
        }
    }
    let report = draft.report.cohorts.entry(cohort.name.clone()).or_default();
    (report.devices, report.converged) = (members.len(), converged);
    for (count, what) in [
        (canaries, "in a rollout"),
        (on_the_way, "on the way to the target"),
        (waiting, "not told yet: the rate for devices outside a rollout is used up"),
        (refused, "refused the target or went back because of the model; nothing is tried again until a person asks for a retry"),
        (failed, "failed for a reason of their own, and are told again after a while"),
    ] {
        if count > 0 {
            say(&mut report.why, format!("{} {what}.", devices(count)));
        }
    }
}

/// What a device runs that is held back: the champion before the present one. One that runs the present target already is not
/// taken back by this, and nobody is held on a version that may not be assigned.
fn lagging(draft: &Draft<'_>, device: &Device, cohort: &CohortDoc, usual: &ModelVersion, share: f64) -> Option<Arc<ModelVersion>> {
    if !is_held_back(cohort.line.as_str(), device.id.as_str(), share) {
        return None;
    }
    if device.desired.as_ref().is_some_and(|told| told.manifest == Some(usual.manifest.digest)) {
        return None;
    }
    let former = draft.state.lines.get(&cohort.line)?.aliases.former_champions();
    let before = |version: &&Arc<ModelVersion>| version.seq < usual.seq;
    former.into_iter().filter_map(|version| draft.state.assignable(&cohort.line, version)).find(before).cloned()
}

fn bring(draft: &mut Draft<'_>, device: &Device, cohort: &CohortDoc, target: &ModelVersion) {
    let before = device.desired.as_ref().and_then(|d| Some((d.line.clone()?, d.version.clone()?)));
    let older = before
        .as_ref()
        .and_then(|(line, version)| draft.state.version(line, version))
        .is_some_and(|v| v.line == target.line && v.seq > target.seq);
    let intent = if older { Intent::Rollback } else { Intent::Install };
    let same = device.desired.as_ref().is_some_and(|d| d.manifest == Some(target.manifest.digest));
    let why = match (&before, device.retry) {
        (_, true) => "a person asked for another try",
        _ if device.follows_another() => {
            "it follows an assignment that this controller did not give; if this repeats, change the director's key"
        }
        (Some(_), _) if same && gave_up(device) => "its last attempt failed for a reason of its own",
        (None, _) => "its cohort runs it",
        (Some(_), _) if older => "its cohort went back to it",
        (Some(_), _) => "its cohort has moved on to it",
    };
    let reason = format!("{} {} on cohort {}: {why}.", target.line, target.version, cohort.name);
    let settings = draft.policy().settings;
    draft.tell(device, Telling { intent, version: Some(target), rollout: None, reason, settings, part: None });
}

/// When a device whose last attempt failed for no fault of the model is told again.
fn retry_at(device: &Device, after_ms: i64) -> Option<Timestamp> {
    let reason = device.reported.as_ref()?.reason.as_ref()?;
    (gave_up(device) && !blames_model(&reason.code)).then(|| device.desired.as_ref().map(|d| d.issued_at.plus_millis(after_ms)))?
}

/// Whether it has answered the latest assignment with a refusal or by going back.
fn gave_up(device: &Device) -> bool {
    use leeway_protocol::reported::Phase;
    let Some((desired, reported)) = device.desired.as_ref().zip(device.reported.as_ref()) else { return false };
    reported.generation == desired.generation && matches!(reported.phase, Phase::Reverted | Phase::Refused)
}
