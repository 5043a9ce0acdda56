//! Moving rollouts on: who is told next, when a stage has soaked, what the gate says, when a person must look.
//!
//! Three things hold at every instant. **Share**: devices of a stage's scope that were told, or run the version, are never
//! more than `quota(share, members)`, rounded down, at least one; a device that failed keeps its place, so failures cannot be
//! diluted by trying elsewhere. **Rate**: devices told within a minute, and devices between "told" and an outcome, stay under
//! their caps, late joiners included. **Contact**: a device is told only while it is connected, so a canary is never a device
//! that nobody will hear of; one that is away is told when it returns, or by its cohort's target once the rollout is over.
//!
//! While paused, nobody is told and the gate goes on judging. One rollout per line; the next one waits and the report says for what.
use std::sync::Arc;

use leeway_protocol::assignment::Intent;
use leeway_protocol::ids::{Line, RolloutId};
use leeway_protocol::time::Timestamp;

use super::draft::{Draft, Telling, devices};
use super::plan::{Policy, Step};
use super::report::{RolloutReport, say};
use crate::fleet::{Arm, Device, Part};
use crate::registry::{Alias, VersionStatus};
use crate::rollout::gate::GateReport;
use crate::rollout::{Move, OnSuccess, Rollout, RolloutState};
use crate::snapshot::Snapshot;

mod counting;
mod draw;
mod scene;
mod slices;
mod verdict;

use scene::Scene;

/// In a larger fleet than this a rollout begins in one plan and is filled from the next on: counting a million devices for a new rollout,
/// and drawing among them, takes most of a second, and so does counting them for everything else that its beginning changes.
const MAX_AT_ONCE: usize = 200_000;
/// Devices that are to be held back are drawn so many plans ahead, to have neighbours among them.
const PLANS_AHEAD: usize = 10;

/// The rate is counted over this long.
pub const RATE_WINDOW_MS: i64 = 60_000;

/// What the gate of a rollout says now; `None` if it is not judged.
pub fn gate_of(snapshot: &Snapshot, policy: &Policy, rollout: &RolloutId, now: Timestamp) -> Option<GateReport> {
    let found = snapshot.rollouts.get(rollout).filter(|r| r.state.is_judged())?;
    let mut draft = Draft::new(snapshot, policy, now);
    let scene = Scene::of(&mut draft, found)?;
    Some(verdict::ask(&draft, &scene))
}

/// Move every line's rollout on, and say why the others wait.
pub fn decide(draft: &mut Draft<'_>) {
    let lines: Vec<Line> = draft.state.lines.keys().cloned().collect();
    for line in lines {
        let mut open: Vec<Arc<Rollout>> =
            draft.state.rollouts.values().filter(|r| r.spec.line == line && !r.state.is_over()).cloned().collect();
        open.sort_by(|a, b| (!a.state.is_active(), a.created_at, &a.id).cmp(&(!b.state.is_active(), b.created_at, &b.id)));
        let mut open = open.into_iter();
        let Some(first) = open.next() else { continue };
        match first.state {
            RolloutState::Planned => start(draft, &first),
            RolloutState::Running { .. } | RolloutState::Paused { .. } => go_on(draft, &first),
            _ => {}
        }
        for waiting in open {
            let report = draft.report.rollouts.entry(waiting.id.clone()).or_default();
            report.headline = format!("Waits for rollout {} of the same line, which is {}.", first.id, first.state.phase());
            say(&mut report.why, "Two rollouts of one line at a time could not be told apart by their evidence.");
        }
    }
}

fn start(draft: &mut Draft<'_>, rollout: &Rollout) {
    let spec = &rollout.spec;
    let mut report = RolloutReport::default();
    let problem = match draft.state.version(&spec.line, &spec.version).map(|v| &v.status) {
        None => Some(format!("Version {} is not registered.", spec.version)),
        Some(VersionStatus::Published) => None,
        Some(status) => Some(format!("Version {} is {}.", spec.version, status.as_str())),
    };
    if let Some(problem) = problem {
        report.headline = format!("Not begun: {problem}");
        say(&mut report.why, problem);
    } else if !rollout.is_approved(0) {
        report.headline = format!("Waits for an approval by somebody other than {}.", rollout.created_by.name());
        say(&mut report.why, report.headline.clone());
    } else {
        let stages = spec.policy.stages.len();
        let baseline = draft.state.lines.get(&spec.line).and_then(|line| line.champion()).filter(|c| **c != spec.version).cloned();
        let reason = format!("Version {} begins with stage 1 of {stages}, {}.", spec.version, stage_name(rollout, 0));
        draft.push(Step::MoveRollout { rollout: rollout.id.clone(), to: Move::Start { reason: reason.clone(), baseline } });
        let (line, to) = (spec.line.clone(), Some(spec.version.clone()));
        draft.push(Step::SetAlias { line, alias: Alias::Challenger, to, rollout: Some(rollout.id.clone()), reason });
        draft.is_full |= draft.state.fleet.len() > MAX_AT_ONCE;
    }
    draft.report.rollouts.insert(rollout.id.clone(), report);
}

fn go_on(draft: &mut Draft<'_>, rollout: &Arc<Rollout>) {
    if draft.is_full {
        let headline = format!("Version {} goes on at once, with the next plan.", rollout.spec.version);
        draft.report.rollouts.entry(rollout.id.clone()).or_default().headline = headline;
        return;
    }
    let Some(mut scene) = Scene::of(draft, rollout) else {
        let report = draft.report.rollouts.entry(rollout.id.clone()).or_default();
        report.headline = format!("Version {} or its stage is not known any more; the rollout stands still.", rollout.spec.version);
        return;
    };
    // Judged before anyone is told: a version that fails now must not reach one more device.
    let may_tell = matches!(rollout.state, RolloutState::Running { .. }) && !verdict::fails(draft, &scene);
    let told = if may_tell { tell(draft, &mut scene) } else { Told::default() };
    if told.devices.is_empty() && told.still_to_hold == 0 {
        verdict::decide(draft, &scene);
        return;
    }
    // Counts are taken anew in the next round, with these devices in their places. Nothing is decided about a stage whose control
    // group is still being drawn: no soak begins, no deadline passes.
    let mut report = RolloutReport { headline: scene.headline(), counts: scene.counts, ..RolloutReport::default() };
    if told.still_to_hold > 0 {
        let missing = devices(told.still_to_hold);
        say(&mut report.why, format!("The control group is being drawn: {missing} are still to be held back, and nobody is told before."));
    }
    draft.report.rollouts.insert(rollout.id.clone(), report);
}

/// What telling came to.
#[derive(Default)]
struct Told {
    devices: Vec<Arc<Device>>,
    /// Devices that are to be held back before anyone else is told, and that this plan has no place for.
    still_to_hold: usize,
}

/// Hold back controls, tell canaries, retry where a person asked.
fn tell(draft: &mut Draft<'_>, scene: &mut Scene) -> Told {
    let retried = retry(draft, scene);
    let room = scene.room(draft).saturating_sub(retried.len());
    if room == 0 && !scene.needs_control() {
        return Told { devices: retried, still_to_hold: 0 };
    }
    // With nobody told yet, one place is kept for a canary: a control group alone compares with nothing.
    let spare = usize::from(scene.counts.told() == 0);
    // Whoever is to be tried first is no control, in whichever plan it is told.
    let first = slices::tried_first(draft, scene, room);
    let free = scene.eligible().saturating_sub(spare.max(first.len()));
    let hold = if scene.needs_control() { scene.missing_control().min(free) } else { 0 };
    let now = draft.afford(hold);
    let room = if now < hold { 0 } else { draft.afford(now + room) - now };
    if now + room == 0 {
        return Told { devices: retried, still_to_hold: hold };
    }
    let ahead = hold.min(now.saturating_mul(PLANS_AHEAD));
    let (held, next) = scene.draw(ahead, now, room.saturating_sub(first.len()), &first);
    for device in held {
        let part = part(scene, Arm::Control, 0, draft, None);
        draft.push(Step::HoldBack { device: device.id.clone(), part });
    }
    let next: Vec<Arc<Device>> = first.into_iter().chain(next).take(room).collect();
    for device in &next {
        let part = part(scene, Arm::Canary, 1, draft, None);
        assign(draft, scene, device, part, "");
    }
    Told { devices: retried.into_iter().chain(next).collect(), still_to_hold: hold - now }
}

/// Tell failed devices again: those a person asked for, and those whose failure does not speak against the model, as often and as
/// late as the policy says.
fn retry(draft: &mut Draft<'_>, scene: &Scene) -> Vec<Arc<Device>> {
    let room = scene.room_for_retries(draft);
    let asked = scene.asked_again(draft.afford(room));
    for device in &asked {
        let before = device.part_in(&scene.rollout.id);
        let attempts = before.map_or(1, |p| p.attempts.saturating_add(1));
        let part = part(scene, Arm::Canary, attempts, draft, before.and_then(|p| p.exposed_at));
        assign(draft, scene, device, part, &format!(", attempt {attempts}"));
    }
    asked
}

fn part(scene: &Scene, arm: Arm, attempts: u32, draft: &Draft<'_>, exposed_at: Option<Timestamp>) -> Part {
    let (rollout, stage, at) = (scene.rollout.id.clone(), scene.index, draft.now());
    let proof_inferences = scene.rollout.spec.policy.proof_inferences;
    let (proven_at, failure, failed_at, deferred_at, recalled) = Default::default();
    Part { rollout, arm, stage, at, attempts, exposed_at, proven_at, failure, failed_at, deferred_at, proof_inferences, recalled }
}

fn assign(draft: &mut Draft<'_>, scene: &Scene, device: &Device, part: Part, attempt: &str) {
    let (rollout, version) = (&scene.rollout, &scene.version);
    let stages = rollout.spec.policy.stages.len();
    let place = format!("stage {} of {stages} ({})", scene.index + 1, stage_name(rollout, scene.index));
    let reason = format!("Install {} {} for rollout {}, {place}{attempt}.", version.line, version.version, rollout.id);
    let settings = rollout.spec.policy.settings;
    draft.tell(
        device,
        Telling { intent: Intent::Install, version: Some(version), rollout: Some(&rollout.id), reason, settings, part: Some(part) },
    );
}

/// The gate passed: what follows by the stage's own rule.
fn passed(draft: &mut Draft<'_>, scene: &Scene, sentence: &str) -> Result<(), String> {
    let rollout = &scene.rollout;
    let name = stage_name(rollout, scene.index);
    let last = rollout.is_last(scene.index);
    let measured = format!(
        "{}, soaked for {}. {sentence}",
        devices(scene.counts.running),
        super::draft::duration(super::advance::verdict::ms(scene.stage.soak_ms))
    );
    let to = match (scene.stage.on_success, last) {
        (OnSuccess::Pause, _) => {
            Move::Pause { reason: format!("Stage {name} passed with {measured} It waits for a person to promote it."), passed: true }
        }
        (OnSuccess::Next, true) => Move::Complete { reason: format!("The last stage, {name}, passed with {measured}") },
        (OnSuccess::Next, false) if !rollout.is_approved(scene.index + 1) => {
            return Err(format!(
                "Stage {name} has passed; stage {} waits for an approval by somebody other than {}.",
                stage_name(rollout, scene.index + 1),
                rollout.created_by.name()
            ));
        }
        (OnSuccess::Next, false) => {
            Move::Advance { reason: format!("Stage {name} passed with {measured} On to {}.", stage_name(rollout, scene.index + 1)) }
        }
    };
    draft.push(Step::MoveRollout { rollout: rollout.id.clone(), to });
    Ok(())
}

fn stage_name(rollout: &Rollout, index: usize) -> &str {
    rollout.spec.policy.stages.get(index).map_or("?", |stage| stage.name.as_str())
}
