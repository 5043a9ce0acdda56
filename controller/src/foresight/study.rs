//! The fleet as a question finds it: a copy small enough to live through many futures.
//!
//! A large fleet is drawn by cohort (and the caps on rates are drawn down with it); of each device only what the planner and the
//! simulation look at is kept. What stays true: the same question gives the same study, and nothing here touches the real fleet.
use std::collections::BTreeMap;
use std::sync::Arc;

use leeway_protocol::digest::Digest;
use leeway_protocol::ids::{Cohort, DeviceId, RolloutId};
use leeway_protocol::reported::Phase;
use leeway_protocol::time::Timestamp;

use super::base::{Base, pace};
use super::chance::Chance;
use super::contacts::{Origins, Pattern, patterns};
use super::unfit::{self, Refusal, Unfit};
use super::{Effort, Question};
use crate::fleet::bucket::order;
use crate::fleet::{Device, Fleet};
use crate::planner::Policy;
use crate::registry::ModelLine;
use crate::rollout::evidence::Metric;
use crate::rollout::{GatePolicy, Rollout};
use crate::snapshot::Snapshot;

/// The fleet and the question about it.
#[derive(Debug)]
pub struct Study {
    /// The state that every run begins with.
    pub snapshot: Snapshot,
    /// The planner's policy, with its rate drawn down.
    pub policy: Policy,
    /// The rollout that is asked about.
    pub rollout: RolloutId,
    /// Manifest of its version.
    pub candidate: Digest,
    /// Manifest of what runs now.
    pub baseline: Option<Digest>,
    /// Bytes a device fetches.
    pub length: u64,
    /// When it begins.
    pub start: Timestamp,
    /// The devices of the runs, in the order of their names.
    pub profiles: Vec<Profile>,
    /// Their places.
    pub places: BTreeMap<DeviceId, usize>,
    /// Devices of the line in the whole fleet.
    pub members: usize,
    /// How many of them one simulated device stands for.
    pub scale: f64,
    /// At the given rate the whole fleet cannot be told faster, whatever a rounded rate of the sample allows.
    pub least_ms: i64,
    /// What is known of ordinary days.
    pub base: Base,
    /// Where patterns of contact came from.
    pub origins: Origins,
    /// Devices that will refuse.
    pub unfit: Vec<Unfit>,
    /// Devices of the fleet that are no business of this line.
    pub strangers: usize,
    /// The seed of all chance.
    pub seed: u64,
    /// How much may be computed.
    pub effort: Effort,
}

/// What is particular to one device.
#[derive(Debug, Clone)]
pub struct Profile {
    /// Its name.
    pub id: DeviceId,
    /// When it is there.
    pub pattern: Pattern,
    /// Inferences per millisecond.
    pub per_ms: f64,
    /// Whether it will ever be there.
    pub comes: bool,
    /// Why it will refuse, if it is known to.
    pub refuses: Option<Refusal>,
}

impl Study {
    /// Prepare; `None` if the version is not known.
    pub fn new(question: &Question<'_>) -> Option<Self> {
        let (snapshot, rollout, now) = (question.snapshot, question.rollout, question.now);
        let spec = &rollout.spec;
        let version = snapshot.version(&spec.line, &spec.version)?;
        let members: Vec<(&Cohort, Arc<Device>)> =
            snapshot.fleet.iter().filter_map(|d| snapshot.cohort_of(&d).filter(|c| c.line == spec.line).map(|c| (&c.name, d))).collect();
        let everyone: Vec<&Device> = members.iter().map(|(_, d)| d.as_ref()).collect();
        let reasons = unfit::refusals(snapshot, version, &everyone);
        let unfit = unfit::by_reason(&everyone, &reasons);
        let base = Base::of(snapshot, rollout, &everyone);
        let mut drawn: Vec<(&Cohort, &Arc<Device>, Option<Refusal>)> =
            members.iter().zip(reasons).map(|((cohort, device), reason)| (*cohort, device, reason)).collect();
        draw(&mut drawn, question.effort.max_devices, rollout);
        let scale = members.len() as f64 / drawn.len().max(1) as f64;
        let mut chance = Chance::new(question.seed, "contacts");
        let (patterns, origins) = patterns(&drawn.iter().map(|(c, d, _)| (*c, d.as_ref())).collect::<Vec<_>>(), now, &mut chance);
        let profiles: Vec<Profile> = drawn
            .iter()
            .zip(patterns)
            .map(|((_, device, reason), pattern)| {
                let per_ms = pace(device).unwrap_or(base.per_hour) / 3_600_000.0;
                let comes = pattern.longest_away(device.presence.online).is_some();
                Profile { id: device.id.clone(), pattern, per_ms, comes, refuses: reason.clone() }
            })
            .collect();
        let places = profiles.iter().enumerate().map(|(i, p)| (p.id.clone(), i)).collect();
        let rate = spec.policy.max_per_minute;
        let least_ms = if scale > 1.0 { (members.len() as f64 / f64::from(rate.max(1)) * 60_000.0) as i64 } else { 0 };
        let mut fleet = Fleet::default();
        drawn.iter().for_each(|(_, device, _)| fleet.insert(lean(device)));
        Some(Self {
            snapshot: world(snapshot, rollout, fleet, scale),
            policy: Policy { converge_per_minute: fewer(question.policy.converge_per_minute, scale), ..*question.policy },
            rollout: rollout.id.clone(),
            candidate: version.manifest.digest,
            baseline: spec.baseline.as_ref().and_then(|b| snapshot.version(&spec.line, b)).map(|v| v.manifest.digest),
            length: version.model.length + version.manifest.length,
            start: now,
            profiles,
            places,
            members: members.len(),
            scale,
            least_ms,
            base,
            origins,
            unfit,
            strangers: snapshot.fleet.len() - members.len(),
            seed: question.seed,
            effort: question.effort,
        })
    }

    /// A number of simulated devices in devices of the fleet.
    pub fn scaled(&self, devices: usize) -> u64 {
        (devices as f64 * self.scale).round() as u64
    }
}

/// At most `most` devices, spread over the cohorts in proportion; another draw than the rollout's own.
fn draw(devices: &mut Vec<(&Cohort, &Arc<Device>, Option<Refusal>)>, most: usize, rollout: &Rollout) {
    if devices.len() > most {
        let salt = format!("{}/foresight", rollout.id);
        let names = devices.iter().map(|(cohort, device, _)| (cohort.as_str(), device.id.as_str()));
        let chosen: std::collections::BTreeSet<String> = order(&salt, names).into_iter().take(most).map(str::to_owned).collect();
        devices.retain(|(_, device, _)| chosen.contains(device.id.as_str()));
    }
    devices.sort_by(|a, b| a.1.id.cmp(&b.1.id));
}

fn fewer(rate: u32, scale: f64) -> u32 {
    ((f64::from(rate) / scale).round() as u32).max(1)
}

/// A device without what only signatures and pages need.
fn lean(device: &Device) -> Device {
    let mut lean = Device::new(device.id.clone(), String::new(), device.labels.clone(), device.enrolled_at);
    lean.admission = device.admission.clone();
    (lean.presence.online, lean.presence.last_seen) = (device.presence.online, device.presence.last_seen);
    lean.desired.clone_from(&device.desired);
    lean.reported.clone_from(&device.reported);
    if let Some(reported) = &mut lean.reported {
        reported.conditions.clear();
        // Whoever is half-way through something else is taken to have finished it.
        if !matches!(reported.phase, Phase::Refused | Phase::Reverted | Phase::Idle) && reported.active.is_some() {
            reported.phase = Phase::Committed;
        }
    }
    lean
}

/// Take out guardrails on what no simulated device shows, which would be waited for in vain; the others keep their part of the error.
fn leave_out_unforeseen(gate: &mut GatePolicy) {
    if gate.guardrails.iter().any(|rail| is_unforeseen(rail.metric)) {
        let parts: Vec<f64> = gate.guardrails.iter().map(|rail| gate.alpha_of(rail)).collect();
        gate.guardrails.iter_mut().zip(parts).for_each(|(rail, part)| rail.limits.alpha = Some(part));
        gate.guardrails.retain(|rail| !is_unforeseen(rail.metric));
    }
}

/// Whether nothing recorded says what a metric will show: applications tell what they like.
pub(super) fn is_unforeseen(metric: Metric) -> bool {
    matches!(metric, Metric::User(_))
}

/// The state without other lines, other rollouts and everything that could ask for a retraining.
fn world(snapshot: &Snapshot, rollout: &Rollout, fleet: Fleet, scale: f64) -> Snapshot {
    let line = &rollout.spec.line;
    let mut planned = rollout.clone();
    let policy = &mut planned.spec.policy;
    leave_out_unforeseen(&mut policy.gate);
    (policy.max_per_minute, policy.max_in_flight) = (fewer(policy.max_per_minute, scale), fewer(policy.max_in_flight, scale));
    let quiet = |found: &Arc<ModelLine>| {
        let mut own = found.as_ref().clone();
        own.retrain.enabled = false;
        (line.clone(), Arc::new(own))
    };
    Snapshot {
        revision: snapshot.revision,
        fleet,
        cohorts: Arc::clone(&snapshot.cohorts),
        lines: Arc::new(snapshot.lines.get(line).map(quiet).into_iter().collect()),
        versions: Arc::new(snapshot.versions.iter().filter(|((of, _), _)| of == line).map(|(k, v)| (k.clone(), Arc::clone(v))).collect()),
        rollouts: Arc::new([(planned.id.clone(), Arc::new(planned))].into()),
        ..Snapshot::default()
    }
}
