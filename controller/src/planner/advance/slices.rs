//! Parts of the fleet: a version that fails only on one is taken from that one, and what descends from it must pass there first.
//!
//! When a gate fails, the question is *for whom*. If the failing devices share a label by which the rollout may be judged apart
//! ([`crate::rollout::RolloutPolicy::slice_by`]), that is hardly an accident ([`crate::rollout::shared`]), and the gate does not
//! fail without them, then they go back and the others go on. So do devices of a slice in which a *metric* proves harm, if without
//! them the gate does not fail and this metric passes. In every other case everyone goes back: a wrong "only them" leaves a
//! bad version running, a wrong "everyone" costs a day. While devices that were told are still on the way, nobody new is told and
//! the answer may wait for them, because three failures of three say little about a label and three of three beside twelve
//! sound ones say much. What stays true: nothing here lets a version go on that fails outside the slice.
use std::sync::Arc;

use leeway_protocol::ids::Version;

use super::scene::Scene;
use super::verdict;
use crate::fleet::Device;
use crate::planner::draft::{Draft, devices};
use crate::planner::plan::Step;
use crate::registry::lineage::ancestors;
use crate::registry::slice::MAX_SLICES;
use crate::registry::{Poisoned, Slice};
use crate::rollout::Move;
use crate::rollout::evidence::{Outcome, Verdict};
use crate::rollout::gate::{Check, GateReport};
use crate::rollout::shared::{Trait, shared, slices_of};

/// Devices compared on each side: more would not change what is named, and takes time while a bad version runs.
const MAX_COMPARED: usize = 20_000;

/// What a failed gate leads to.
pub(super) enum Judgement {
    /// Everyone goes back.
    Everyone(Move),
    /// Devices of one slice go back.
    Slice(Box<Step>),
    /// Nobody is told anything until those on the way have answered.
    Wait(String),
}

/// For whom the version is bad, given that this gate fails.
pub(super) fn judge(draft: &mut Draft<'_>, scene: &Scene, gate: &GateReport) -> Judgement {
    let (traits, sentence) = (telling_traits(scene), gate.sentence.as_str());
    let without = |draft: &mut Draft<'_>, slice: &Slice| {
        let rest = scene.without(draft, slice).filter(|rest| rest.counts.told() > 0)?;
        Some(verdict::gate(draft, &rest)).filter(|gate| gate.outcome != Outcome::Fail)
    };
    let sound_without = |draft: &mut Draft<'_>, slice: &Slice| without(draft, slice).is_some();
    let poison = |draft: &Draft<'_>, slice: &Slice, reason: String| {
        let (rollout, at) = (scene.rollout.id.clone(), draft.now());
        let poisoned = Poisoned { slice: slice.clone(), reason, rollout, at };
        let (line, version) = (scene.version.line.clone(), scene.version.version.clone());
        Judgement::Slice(Box::new(Step::PoisonSlice { line, version, poisoned }))
    };
    if scene.version.poisoned_for.len() < MAX_SLICES {
        for found in traits.iter().filter(|found| found.is_telling()) {
            if sound_without(draft, &found.slice) {
                return poison(draft, &found.slice, format!("{sentence} {}", found.sentence));
            }
        }
        for (slice, metric, found) in proven(gate) {
            // The others must have shown that they are well: not to have been heard of is no such thing.
            let well = |gate: &GateReport| gate.checks.iter().any(|c| c.name == metric && c.outcome == Outcome::Pass);
            if without(draft, &slice).is_some_and(|rest| well(&rest)) {
                return poison(draft, &slice, format!("{found} Without them the check passes."));
            }
        }
        let shared_by_all = traits.iter().filter(|t| t.failing_with == t.failing).find(|t| sound_without(draft, &t.slice));
        if let Some(found) = shared_by_all.filter(|_| scene.counts.in_flight() > 0) {
            return Judgement::Wait(format!(
                "{sentence} {} Nobody new is told; {} on the way will show whether it is that part of the fleet or the version.",
                found.sentence,
                devices(scene.counts.in_flight())
            ));
        }
    }
    let shares = traits.iter().find(|t| t.is_telling()).map(|t| format!(" {}", t.sentence)).unwrap_or_default();
    Judgement::Everyone(Move::Regress { reason: format!("{sentence}{shares}") })
}

/// Slices in which a metric proves harm, with the metric and the sentence; those that suffer most first.
fn proven(gate: &GateReport) -> Vec<(Slice, String, &str)> {
    let mut found: Vec<_> = gate
        .checks
        .iter()
        .filter(|check| check.outcome == Outcome::Fail && check.blocks)
        .filter_map(|check| Some((check.slice.as_ref()?.parse::<Slice>().ok()?, check.verdict.as_ref()?, check.sentence.as_str())))
        .collect();
    let harm = |verdict: &Verdict| verdict.estimate.map_or(0.0, f64::abs);
    found.sort_by(|a, b| harm(b.1).total_cmp(&harm(a.1)));
    found.into_iter().map(|(slice, verdict, sentence)| (slice, verdict.metric.to_string(), sentence)).collect()
}

/// Traits of the failing devices by the labels that the rollout names, the most telling first.
fn telling_traits(scene: &Scene) -> Vec<Trait> {
    let keys = &scene.rollout.spec.policy.slice_by;
    if keys.is_empty() {
        return Vec::new();
    }
    let (failing, sound) = scene.failing_and_sound(MAX_COMPARED);
    let named = |device: &Arc<Device>| {
        let cohort = scene.cohort_of(device).map(|cohort| cohort.as_str());
        slices_of(device, cohort).filter(|slice| keys.iter().any(|key| key == slice.key())).collect()
    };
    shared(failing.iter().map(named), sound.iter().map(named))
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
    let check = |(slice, ancestor): (Slice, Version)| {
        let (members, _, running) = scene.of_slice(draft, &slice);
        let need = needed(scene).min(members);
        let outcome = if running >= need { Outcome::Pass } else { Outcome::Inconclusive };
        let sentence = format!(
            "Version {ancestor}, which this one descends from, failed on devices with {slice}: {need} of them must prove to run this one, {running} do."
        );
        Check::plain(format!("slice {slice}"), outcome, sentence)
    };
    inherited(draft, scene).into_iter().map(check).collect()
}

/// Devices of slices on which an ancestor failed that are to be told before others: as many as the gate needs, if there is room.
pub(super) fn tried_first(draft: &Draft<'_>, scene: &Scene, room: usize) -> Vec<Arc<Device>> {
    let mut first: Vec<Arc<Device>> = Vec::new();
    for (slice, _) in inherited(draft, scene) {
        let (_, told, _) = scene.of_slice(draft, &slice);
        let missing = needed(scene).saturating_sub(told).min(room - first.len());
        let known = |device: &Arc<Device>| first.iter().any(|taken| taken.id == device.id);
        let more: Vec<_> = scene.free_of(&slice, missing).into_iter().filter(|device| !known(device)).collect();
        first.extend(more);
    }
    first
}

fn needed(scene: &Scene) -> usize {
    scene.rollout.spec.policy.gate.min_devices.max(1) as usize
}
