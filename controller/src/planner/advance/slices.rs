//! Parts of the fleet: a version that fails only on one is taken from that one, and what descends from it must pass there first.
//!
//! When a gate fails, the question is *for whom*. If the failing devices share a label by which the rollout may be judged apart
//! ([`crate::rollout::RolloutPolicy::slice_by`]), that is hardly an accident ([`crate::rollout::shared`]), and the gate does not
//! fail without them, then they go back and the others go on. In every other case everyone goes back: a wrong "only them" leaves a
//! bad version running, a wrong "everyone" costs a day. While devices that were told are still on the way, nobody new is told and
//! the answer may wait for them, because three failures of three say little about a label and three of three beside twelve
//! sound ones say much. What stays true: nothing here lets a version go on that fails outside the slice.
use std::sync::Arc;

use leeway_protocol::ids::Version;

use super::scene::{Member, Scene};
use super::verdict;
use crate::fleet::Device;
use crate::planner::draft::{Draft, devices};
use crate::planner::plan::Step;
use crate::registry::lineage::ancestors;
use crate::registry::slice::MAX_SLICES;
use crate::registry::{Poisoned, Slice};
use crate::rollout::evidence::Outcome;
use crate::rollout::gate::Check;
use crate::rollout::shared::{Trait, shared, slices_of};
use crate::rollout::{Move, Standing};

/// What a failed gate leads to.
pub(super) enum Judgement {
    /// Everyone goes back.
    Everyone(Move),
    /// Devices of one slice go back.
    Slice(Box<Step>),
    /// Nobody is told anything until those on the way have answered.
    Wait(String),
}

/// For whom the version is bad, given that the gate fails with `sentence`.
pub(super) fn judge(draft: &Draft<'_>, scene: &Scene, sentence: &str) -> Judgement {
    let failing: Vec<&Member> = scene.devices.iter().filter(|m| failed(m)).collect();
    let traits = telling_traits(scene, &failing);
    let everyone = || {
        let shares = traits.iter().find(|t| t.is_telling()).map(|t| format!(" {}", t.sentence)).unwrap_or_default();
        Judgement::Everyone(Move::Regress { reason: format!("{sentence}{shares}") })
    };
    if scene.version.poisoned_for.len() >= MAX_SLICES {
        return everyone();
    }
    let sound_without = |slice: &Slice| {
        let rest = scene.without(slice, draft.now());
        rest.counts.told() > 0 && verdict::gate(draft, &rest).outcome != Outcome::Fail
    };
    for found in &traits {
        if found.is_telling() && sound_without(&found.slice) {
            let reason = format!("{sentence} {}", found.sentence);
            let (rollout, at) = (scene.rollout.id.clone(), draft.now());
            let poisoned = Poisoned { slice: found.slice.clone(), reason, rollout, at };
            let (line, version) = (scene.version.line.clone(), scene.version.version.clone());
            return Judgement::Slice(Box::new(Step::PoisonSlice { line, version, poisoned }));
        }
    }
    let all_share = traits.iter().find(|t| t.failing_with == t.failing && sound_without(&t.slice));
    match all_share {
        Some(found) if scene.counts.in_flight() > 0 => Judgement::Wait(format!(
            "{sentence} {} Nobody new is told; {} on the way will show whether it is that part of the fleet or the version.",
            found.sentence,
            devices(scene.counts.in_flight())
        )),
        _ => everyone(),
    }
}

fn failed(member: &Member) -> bool {
    matches!(member.standing, Standing::FailedByModel | Standing::Lost)
}

/// Traits of the failing devices by the labels that the rollout names, the most telling first.
fn telling_traits(scene: &Scene, failing: &[&Member]) -> Vec<Trait> {
    let keys = &scene.rollout.spec.policy.slice_by;
    if keys.is_empty() || failing.is_empty() {
        return Vec::new();
    }
    let named =
        |member: &Member| slices_of(&member.device, member.cohort_name()).filter(|s| keys.iter().any(|key| key == s.key())).collect();
    let healthy = scene.devices.iter().filter(|m| m.standing == Standing::Running);
    shared(failing.iter().map(|m| named(m)), healthy.map(named))
}

/// Slices on which an ancestor of the version failed, each with that ancestor's name.
pub(super) fn inherited(draft: &Draft<'_>, scene: &Scene) -> Vec<(Slice, Version)> {
    let manifests = draft.state.manifests();
    let mut found: Vec<(Slice, Version)> = Vec::new();
    for ancestor in ancestors(&scene.version, &manifests) {
        for poisoned in &ancestor.poisoned_for {
            if found.iter().all(|(slice, _)| *slice != poisoned.slice) {
                found.push((poisoned.slice.clone(), ancestor.version.clone()));
            }
        }
    }
    found
}

/// One check per inherited slice: devices of it must prove to run the version before any stage ends.
pub(super) fn checks(draft: &Draft<'_>, scene: &Scene) -> Vec<Check> {
    let need = scene.rollout.spec.policy.gate.min_devices.max(1) as usize;
    let check = |(slice, ancestor): (Slice, Version)| {
        let inside = |m: &&Member| m.in_scope && slice.holds(&m.device.labels, m.cohort());
        let (mut members, mut running) = (0, 0);
        for member in scene.devices.iter().filter(inside) {
            members += 1;
            running += usize::from(member.standing == Standing::Running);
        }
        let need = need.min(members);
        let outcome = if running >= need { Outcome::Pass } else { Outcome::Inconclusive };
        let sentence = format!(
            "Version {ancestor}, which this one descends from, failed on devices with {slice}: {need} of them must prove to run this one, {running} do."
        );
        Check { name: format!("slice {slice}"), outcome, blocks: true, sentence, verdict: None }
    };
    inherited(draft, scene).into_iter().map(check).collect()
}

/// Devices of slices on which an ancestor failed are told first, as many as the gate needs.
pub(super) fn tried_first(draft: &Draft<'_>, scene: &Scene, eligible: &mut Vec<Arc<Device>>) {
    let need = scene.rollout.spec.policy.gate.min_devices.max(1) as usize;
    for (slice, _) in inherited(draft, scene) {
        let told = |m: &&Member| !matches!(m.standing, Standing::Untold | Standing::Control) && slice.holds(&m.device.labels, m.cohort());
        let mut missing = need.saturating_sub(scene.devices.iter().filter(told).count());
        let holds = |device: &Device| slice.holds(&device.labels, draft.state.cohort_of(device).map(|c| &c.name));
        let (first, rest): (Vec<_>, Vec<_>) = std::mem::take(eligible).into_iter().partition(|device| {
            let take = missing > 0 && holds(device);
            missing -= usize::from(take);
            take
        });
        *eligible = first.into_iter().chain(rest).collect();
    }
}
