//! Everything the planner may know at one instant: immutable, and cheap to take.
//!
//! The controller keeps one of these as its live state and hands out clones: a clone copies a few pointers, never devices. [`Snapshot::apply`] is the only place where a step becomes state, so the executor, the
//! simulator and the planner's own look-ahead cannot differ in what a step means.
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use leeway_protocol::assignment::MAX_AVOID;
use leeway_protocol::digest::Digest;
use leeway_protocol::ids::{Cohort, DeviceId, Line, RolloutId, Version};
use leeway_protocol::time::Timestamp;
use serde::{Deserialize, Serialize};

use crate::fleet::{CohortDoc, Device, Fleet, cohort_of};
use crate::planner::Step;
use crate::registry::{ModelLine, ModelVersion, Slice};
use crate::retraining::job::TrainingJob;
use crate::rollout::evidence::Evidence;
use crate::rollout::{Actor, IllegalMove, Rollout};

/// The state of everything.
#[derive(Debug, Clone, Default)]
pub struct Snapshot {
    /// Rises with every change; an unchanged number and an unreached [`crate::planner::Plan::wake_at`] mean there is nothing to plan.
    pub revision: u64,
    /// Devices.
    pub fleet: Fleet,
    /// Cohorts by name.
    pub cohorts: Arc<BTreeMap<Cohort, Arc<CohortDoc>>>,
    /// Model lines by name.
    pub lines: Arc<BTreeMap<Line, Arc<ModelLine>>>,
    /// Versions by line and name.
    pub versions: Arc<BTreeMap<(Line, Version), Arc<ModelVersion>>>,
    /// Rollouts by name, past ones included.
    pub rollouts: Arc<BTreeMap<RolloutId, Arc<Rollout>>>,
    /// What ingestion added up per rollout.
    pub evidence: Arc<BTreeMap<RolloutId, Arc<Evidence>>>,
    /// What drift and quality say per cohort.
    pub health: Arc<BTreeMap<Cohort, Arc<CohortHealth>>>,
    /// Training jobs by name.
    pub jobs: Arc<BTreeMap<String, Arc<TrainingJob>>>,
}

/// What drift and quality say about one cohort, ready to decide on.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct CohortHealth {
    /// The manifest it is about; health of another version than the champion is not acted on.
    pub manifest: Option<Digest>,
    /// Features whose alarm stands, each with its sentence.
    pub moved: BTreeMap<String, String>,
    /// Names among them that are outputs or the confidence: a shift there is a loss of its own.
    #[serde(default)]
    pub outputs: BTreeSet<String>,
    /// Features that moved and cost next to nothing, each with its sentence: shown, not shouted.
    #[serde(default)]
    pub harmless: BTreeMap<String, String>,
    /// Outputs that moved with the change of versions, each with its sentence: the release's doing, no reason to retrain.
    #[serde(default)]
    pub release: BTreeMap<String, String>,
    /// Whether the labels' own alarm (concept drift) stands.
    #[serde(default)]
    pub concept_drift: bool,
    /// Accuracy on held-out data at training time.
    pub expected_accuracy: Option<f64>,
    /// Accuracy by labels, lately: share and number of labels.
    pub measured_accuracy: Option<(f64, u64)>,
    /// Accuracy estimated from confidence, lately.
    pub estimated_accuracy: Option<f64>,
    /// Captured rows with a label that could be trained on.
    pub labelled_rows: u64,
}

/// A step that the state does not allow: something changed between planning and executing. Plan again.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ApplyError {
    /// The device is gone.
    #[error("device {0} is not enrolled any more: plan again")]
    NoDevice(DeviceId),
    /// The device was told something newer.
    #[error("device {0} was told something newer in the meantime: plan again")]
    Overtaken(DeviceId),
    /// The rollout, line, cohort or version is gone, or exists already.
    #[error("{0} is not what it was when this was planned: plan again")]
    Changed(String),
    /// The rollout moved.
    #[error("rollout {rollout} moved in the meantime: plan again")]
    Moved {
        /// Which.
        rollout: RolloutId,
        /// How it refused.
        #[source]
        source: IllegalMove,
    },
}

impl Snapshot {
    /// A version of a line.
    pub fn version(&self, line: &Line, version: &Version) -> Option<&Arc<ModelVersion>> {
        self.versions.get(&(line.clone(), version.clone()))
    }

    /// The cohort of a device.
    pub fn cohort_of(&self, device: &Device) -> Option<&Arc<CohortDoc>> {
        cohort_of(device, &self.cohorts)
    }

    /// Whether a device may be told to run this version of a line.
    pub fn assignable(&self, line: &Line, version: &Version) -> Option<&Arc<ModelVersion>> {
        self.version(line, version).filter(|v| v.is_assignable())
    }

    /// What a cohort's devices run outside any rollout: its last known good, or the line's champion if it has none yet.
    pub fn target_of(&self, cohort: &CohortDoc) -> Option<&Arc<ModelVersion>> {
        let own = cohort.last_known_good.as_ref();
        let champion = || self.lines.get(&cohort.line).and_then(|line| line.champion());
        own.and_then(|v| self.assignable(&cohort.line, v)).or_else(|| champion().and_then(|v| self.assignable(&cohort.line, v)))
    }

    /// The same for each of its devices: one that belongs to a part of the fleet on which the target failed has the one before it.
    pub fn targets_of(&self, cohort: &CohortDoc) -> Targets {
        let Some(target) = self.target_of(cohort) else { return Targets::default() };
        let mut candidates = vec![target.clone()];
        if !target.poisoned_for.is_empty()
            && let Some(line) = self.lines.get(&cohort.line)
        {
            let before = line.champion().into_iter().chain(line.aliases.former_champions());
            for version in before.filter_map(|version| self.assignable(&cohort.line, version)) {
                if candidates.iter().all(|known| known.version != version.version) {
                    candidates.push(version.clone());
                }
            }
        }
        Targets { cohort: Some(cohort.name.clone()), candidates }
    }

    /// Manifests that this device must not fall back to on its own: versions of the line it was told to run that failed, for
    /// everybody or for the part of the fleet it belongs to, the newest first.
    pub fn avoided_by(&self, device: &Device) -> Vec<Digest> {
        let Some(line) = device.desired.as_ref().and_then(|desired| desired.line.as_ref()) else { return Vec::new() };
        let cohort = self.cohort_of(device).map(|cohort| &cohort.name);
        let failed = |v: &&Arc<ModelVersion>| v.line == *line && (v.must_leave() || v.unfit_for(device, cohort).is_some());
        let mut failed: Vec<&Arc<ModelVersion>> = self.versions.values().filter(failed).collect();
        failed.sort_by_key(|version| std::cmp::Reverse(version.seq));
        failed.into_iter().take(MAX_AVOID).map(|version| version.manifest.digest).collect()
    }

    /// The version with this manifest.
    pub fn by_manifest(&self, manifest: Digest) -> Option<&Arc<ModelVersion>> {
        self.versions.values().find(|v| v.manifest.digest == manifest)
    }

    /// Versions by manifest, for lineage.
    pub fn manifests(&self) -> BTreeMap<Digest, &ModelVersion> {
        self.versions.values().map(|v| (v.manifest.digest, v.as_ref())).collect()
    }

    /// Carry out one step. The state is unchanged if it is refused.
    pub fn apply(&mut self, step: &Step, now: Timestamp) -> Result<(), ApplyError> {
        match step {
            Step::SetDesired { device, desired, part } => {
                let mut found = self.fleet.device_mut(device).ok_or_else(|| ApplyError::NoDevice(device.clone()))?;
                if found.desired.as_ref().is_some_and(|d| d.generation >= desired.generation) {
                    return Err(ApplyError::Overtaken(device.clone()));
                }
                found.desired = Some(desired.clone());
                found.retry = false;
                if part.is_some() {
                    found.part.clone_from(part);
                }
            }
            Step::HoldBack { device, part } => {
                let mut found = self.fleet.device_mut(device).ok_or_else(|| ApplyError::NoDevice(device.clone()))?;
                found.part = Some(part.clone());
            }
            Step::MoveRollout { rollout, to } => {
                let gone = || ApplyError::Changed(format!("rollout {rollout}"));
                let found = Arc::make_mut(&mut self.rollouts).get_mut(rollout).ok_or_else(gone)?;
                let moved = Arc::make_mut(found).make(to, &Actor::Controller, now);
                moved.map_err(|source| ApplyError::Moved { rollout: rollout.clone(), source })?;
            }
            Step::CreateRollout { rollout } => {
                if self.rollouts.contains_key(&rollout.id) {
                    return Err(ApplyError::Changed(format!("rollout {}", rollout.id)));
                }
                Arc::make_mut(&mut self.rollouts).insert(rollout.id.clone(), Arc::new(rollout.as_ref().clone()));
            }
            Step::RequestRetraining { request } => {
                if self.jobs.contains_key(&request.id) {
                    return Err(ApplyError::Changed(format!("training job {}", request.id)));
                }
                Arc::make_mut(&mut self.jobs).insert(request.id.clone(), Arc::new(TrainingJob::new(request.clone())));
            }
            Step::WithholdRetraining { line, withheld } => {
                let gone = || ApplyError::Changed(format!("line {line}"));
                let found = Arc::make_mut(&mut self.lines).get_mut(line).ok_or_else(gone)?;
                Arc::make_mut(found).withhold(withheld.clone());
            }
            Step::SetAlias { .. } | Step::SetLastKnownGood { .. } | Step::MarkVersion { .. } | Step::PoisonSlice { .. } => {
                self.apply_to_registry(step, now)?
            }
        }
        self.revision += 1;
        Ok(())
    }

    fn apply_to_registry(&mut self, step: &Step, now: Timestamp) -> Result<(), ApplyError> {
        match step {
            Step::SetAlias { line, alias, to, rollout, reason } => {
                let gone = || ApplyError::Changed(format!("line {line}"));
                let found = Arc::make_mut(&mut self.lines).get_mut(line).ok_or_else(gone)?;
                Arc::make_mut(found).aliases.move_to(*alias, to.clone(), now, rollout.clone(), reason);
            }
            Step::SetLastKnownGood { cohort, version, .. } => {
                let gone = || ApplyError::Changed(format!("cohort {cohort}"));
                let found = Arc::make_mut(&mut self.cohorts).get_mut(cohort).ok_or_else(gone)?;
                Arc::make_mut(found).last_known_good.clone_from(version);
            }
            Step::MarkVersion { line, version, status } => {
                let gone = || ApplyError::Changed(format!("version {version} of {line}"));
                let found = Arc::make_mut(&mut self.versions).get_mut(&(line.clone(), version.clone())).ok_or_else(gone)?;
                Arc::make_mut(found).status = status.clone();
            }
            Step::PoisonSlice { line, version, poisoned } => {
                let gone = || ApplyError::Changed(format!("version {version} of {line}"));
                let found = Arc::make_mut(&mut self.versions).get_mut(&(line.clone(), version.clone())).ok_or_else(gone)?;
                if !Arc::make_mut(found).poison_for(poisoned.clone()) {
                    return Err(gone());
                }
            }
            _ => {}
        }
        Ok(())
    }
}

/// What the devices of one cohort run outside any rollout, the best first.
#[derive(Debug, Clone, Default)]
pub struct Targets {
    cohort: Option<Cohort>,
    candidates: Vec<Arc<ModelVersion>>,
}

impl Targets {
    /// For most devices: what the cohort runs.
    pub fn first(&self) -> Option<&Arc<ModelVersion>> {
        self.candidates.first()
    }

    /// What the answers of [`Self::of`] depend on besides the device.
    pub fn terms(&self) -> Vec<(Digest, Vec<Slice>)> {
        let slices = |version: &ModelVersion| version.poisoned_for.iter().map(|poisoned| poisoned.slice.clone()).collect();
        self.candidates.iter().map(|version| (version.manifest.digest, slices(version))).collect()
    }

    /// For this device: the first that is not poisoned for the part of the fleet it belongs to.
    pub fn of(&self, device: &Device) -> Option<&Arc<ModelVersion>> {
        self.candidates.iter().find(|version| version.unfit_for(device, self.cohort.as_ref()).is_none())
    }
}
