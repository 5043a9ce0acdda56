//! Devices that will not take the version, as far as anybody can know before asking them.
//!
//! A device's own last word counts: whoever refused an ancestor for what it is (too slow here, not loadable here) will refuse the
//! child, and whoever has a full disk or stale metadata has it for every version. Devices of an agent release on which no model of
//! the ancestry ever loaded are named as well. What a model needs beyond that (memory, operators) only the device's preflight knows.
use std::collections::BTreeMap;

use leeway_protocol::digest::Digest;
use leeway_protocol::reason::{Code, Reason};
use leeway_protocol::reported::Phase;
use serde::{Deserialize, Serialize};

use crate::fleet::Device;
use crate::registry::ModelVersion;
use crate::snapshot::Snapshot;

/// Generations of ancestors that are looked at: what refused a great-great-grandparent may have been mended since.
const ANCESTORS: usize = 3;
/// Refusals of one agent release that make a rule of it.
const MIN_REFUSALS: usize = 2;
/// Names listed per reason.
pub const MAX_NAMES: usize = 20;

/// Devices that share a reason.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Unfit {
    /// Why, in a sentence.
    pub why: String,
    /// How many.
    pub devices: u64,
    /// Some of their names.
    pub names: Vec<String>,
}

/// A refusal that is foreseen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// What the device will say.
    pub reason: Reason,
    /// How that is known, in a sentence.
    pub why: String,
}

/// Why each of `members` will refuse `version`, if it is known to.
pub fn refusals(snapshot: &Snapshot, version: &ModelVersion, members: &[&Device]) -> Vec<Option<Refusal>> {
    let ancestors = ancestors(snapshot, version);
    let own: Vec<Option<Reason>> = members.iter().map(|device| last_word(device, &ancestors)).collect();
    let agent = |device: &Device| device.reported.as_ref().map_or_else(|| device.presence.agent.clone(), |r| r.agent.clone());
    // Per agent release: how many could not load an ancestor, and how many run one.
    let mut agents: BTreeMap<String, (usize, usize)> = BTreeMap::new();
    for (device, reason) in members.iter().zip(&own) {
        let (refused, runs) = agents.entry(agent(device)).or_default();
        *refused += usize::from(reason.as_ref().is_some_and(|r| is_of_the_runtime(&r.code)));
        *runs += usize::from(device.active().is_some_and(|active| ancestors.contains(&active.manifest)));
    }
    let foresee = |(device, reason): (&&Device, Option<Reason>)| {
        if let Some(reason) = reason {
            let why = format!("Its last word was: {}", reason.code.sentence());
            return Some(Refusal { reason, why });
        }
        let agent = agent(device);
        let (refused, runs) = agents.get(&agent).copied().unwrap_or_default();
        (refused >= MIN_REFUSALS && runs == 0).then(|| {
            let why = format!("Agent {agent} has loaded no version of its ancestry on any device, and refused it on {refused}.");
            Refusal { reason: Reason::new(Code::PrescanRefused, &why), why }
        })
    };
    members.iter().zip(own).map(foresee).collect()
}

/// The version itself and the versions it descends from.
fn ancestors(snapshot: &Snapshot, version: &ModelVersion) -> Vec<Digest> {
    let mut line = vec![version.manifest.digest];
    let mut parent = version.lineage.parent;
    while let Some(digest) = parent.filter(|digest| line.len() <= ANCESTORS && !line.contains(digest)) {
        line.push(digest);
        parent = snapshot.by_manifest(digest).and_then(|v| v.lineage.parent);
    }
    line
}

/// The reason a device gave last, if it will give it again.
fn last_word(device: &Device, ancestors: &[Digest]) -> Option<Reason> {
    let (desired, reported) = (device.desired.as_ref()?, device.reported.as_ref()?);
    let gave_up = reported.generation == desired.generation && matches!(reported.phase, Phase::Refused | Phase::Reverted);
    let reason = reported.reason.as_ref().filter(|_| gave_up)?;
    let related = desired.manifest.is_some_and(|manifest| ancestors.contains(&manifest));
    (is_of_the_device(&reason.code) || (related && is_of_the_runtime(&reason.code))).then(|| reason.clone())
}

/// The device's own trouble, whatever the version.
fn is_of_the_device(code: &Code) -> bool {
    matches!(code, Code::DiskFull | Code::DiskFailed | Code::SignatureInvalid | Code::MetadataExpired | Code::MetadataRollback)
}

/// The model and this device do not fit, and neither will its child.
fn is_of_the_runtime(code: &Code) -> bool {
    matches!(code, Code::PrescanRefused | Code::LoadFailed | Code::GoldenMismatch | Code::TooSlow | Code::TooMuchMemory | Code::IoMismatch)
}

/// The same by reason, the most frequent first.
pub fn by_reason(members: &[&Device], refusals: &[Option<Refusal>]) -> Vec<Unfit> {
    let mut groups: BTreeMap<&str, Unfit> = BTreeMap::new();
    for (device, refusal) in members.iter().zip(refusals).filter_map(|(d, r)| Some((d, r.as_ref()?))) {
        let new = || Unfit { why: refusal.why.clone(), devices: 0, names: Vec::new() };
        let group = groups.entry(&refusal.why).or_insert_with(new);
        group.devices += 1;
        if group.names.len() < MAX_NAMES {
            group.names.push(device.id.to_string());
        }
    }
    let mut all: Vec<Unfit> = groups.into_values().collect();
    all.sort_by(|a, b| b.devices.cmp(&a.devices).then_with(|| a.why.cmp(&b.why)));
    all
}
