//! What people decide: rollouts, cohorts, lines, versions, devices.
use std::collections::BTreeMap;
use std::sync::Arc;

use leeway_protocol::ids::{DeviceId, Line, RolloutId, Version};
use leeway_protocol::time::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::super::clock;
use super::super::store::{Batch, Kind, Write};
use super::admission::{put_out, revoked};
use super::{ControlError, Controller, Touched};
use crate::audit::Draft;
use crate::fleet::{CohortDoc, Device};
use crate::planner::retrain::rollout_id;
use crate::registry::{ModelLine, RetrainPolicy, VersionStatus};
use crate::retraining::job::{JobState, RetrainRequest, TrainingJob, Trigger};
use crate::rollout::{Action, Actor, Move, Rollout, RolloutPolicy, RolloutSpec, Standing, standing};
use crate::snapshot::Snapshot;

/// The longest reason that is kept.
const MAX_REASON: usize = 500;
/// Labels a device may have, and their longest text.
const MAX_LABELS: usize = 32;
const MAX_LABEL: usize = 63;
/// Cohorts of one fleet; each device is matched against them all.
const MAX_COHORTS: usize = 256;

/// A rollout that is asked for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewRollout {
    /// Its name; made of line and version if absent.
    #[serde(default)]
    pub id: Option<RolloutId>,
    /// The model line.
    pub line: Line,
    /// The version to bring out.
    pub version: Version,
    /// How; the line's own policy if absent.
    #[serde(default)]
    pub policy: Option<RolloutPolicy>,
    /// Why, in a sentence.
    pub reason: String,
}

/// What a line does unless told otherwise. Absent parts stay as they are.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LinePolicies {
    /// The line.
    pub line: Line,
    /// What it is for.
    #[serde(default)]
    pub task: Option<String>,
    /// How its versions are brought out.
    #[serde(default)]
    pub rollout: Option<RolloutPolicy>,
    /// When a better model is asked for.
    #[serde(default)]
    pub retrain: Option<RetrainPolicy>,
}

/// A row of the event log.
pub(in crate::io) fn draft(at: Timestamp, actor: &str, kind: &str, subject: String, sentence: String, data: Value) -> Draft {
    Draft { at, actor: actor.to_owned(), kind: kind.to_owned(), subject, sentence, data }
}

pub(in crate::io) fn reason(text: &str) -> Result<String, ControlError> {
    let text: String = text.trim().chars().take(MAX_REASON).collect();
    if text.is_empty() {
        return Err(ControlError::Invalid("a reason is needed: it is kept in the audit trail".to_owned()));
    }
    Ok(text)
}

fn json_of<T: Serialize>(value: &T) -> Value {
    serde_json::to_value(value).unwrap_or_default()
}

impl Controller {
    /// Begin a rollout; its first devices are told by the next plan.
    pub async fn create_rollout(&self, new: NewRollout, by: &str) -> Result<Arc<Rollout>, ControlError> {
        let why = reason(&new.reason)?;
        let by = by.to_owned();
        self.inner.decide(move |state, at| create_rollout(state, at, new, why, &by)).await
    }

    /// Pause, resume, promote, approve, abort or retry. With a `revision`, only if the rollout has not changed since.
    pub async fn act(
        &self,
        rollout: &RolloutId,
        action: Action,
        why: &str,
        by: &str,
        revision: Option<u64>,
    ) -> Result<Arc<Rollout>, ControlError> {
        let why = reason(why)?;
        self.inner.decide(|state, at| act(state, at, rollout, action, why, by, revision)).await
    }

    /// Create or change a cohort.
    pub async fn put_cohort(&self, cohort: CohortDoc, by: &str) -> Result<(), ControlError> {
        let change = |state: &mut Snapshot, at| {
            let known = state.cohorts.get(&cohort.name).cloned();
            if known.is_none() && state.cohorts.len() >= MAX_COHORTS {
                return Err(ControlError::Invalid(format!("there are {MAX_COHORTS} cohorts already, which is the bound")));
            }
            let mut cohort = cohort;
            if let Some(known) = &known {
                cohort.created_at = known.created_at;
                cohort.last_known_good = cohort.last_known_good.or_else(|| known.last_known_good.clone());
            }
            if let Some(version) = &cohort.last_known_good
                && state.version(&cohort.line, version).is_none()
            {
                return Err(ControlError::NotFound(format!("line {} has no version {version}", cohort.line)));
            }
            let mut touched = Touched::default();
            if !state.lines.contains_key(&cohort.line) {
                let line = ModelLine::new(cohort.line.clone(), at);
                touched.lines.insert(line.line.clone());
                Arc::make_mut(&mut state.lines).insert(line.line.clone(), Arc::new(line));
            }
            let did = if known.is_some() { "changed" } else { "created" };
            let sentence = format!(
                "Cohort {} was {did}: devices with {:?}, served by line {}.",
                cohort.name,
                cohort.selector.to_string(),
                cohort.line
            );
            let event = draft(at, by, "cohort.changed", format!("cohorts/{}", cohort.name), sentence, json_of(&cohort));
            touched.cohorts.insert(cohort.name.clone());
            Arc::make_mut(&mut state.cohorts).insert(cohort.name.clone(), Arc::new(cohort));
            Ok(((), touched, vec![event]))
        };
        self.inner.decide(change).await
    }

    /// Create a line or change what it does unless told otherwise.
    pub async fn put_line(&self, policies: LinePolicies, by: &str) -> Result<(), ControlError> {
        if let Some(policy) = &policies.rollout {
            policy.check().map_err(|e| ControlError::Invalid(e.to_string()))?;
        }
        let change = |state: &mut Snapshot, at| {
            let LinePolicies { line, task, rollout, retrain } = policies;
            let known = state.lines.get(&line).map(|l| l.as_ref().clone());
            let mut changed = known.unwrap_or_else(|| ModelLine::new(line.clone(), at));
            changed.task = task.map_or(changed.task, |task| task.chars().take(MAX_REASON).collect());
            changed.rollout = rollout.unwrap_or(changed.rollout);
            changed.retrain = retrain.unwrap_or(changed.retrain);
            let sentence = format!("Line {line} was set up.");
            let data = json!({ "task": changed.task, "rollout": changed.rollout, "retrain": changed.retrain });
            let event = draft(at, by, "line.changed", format!("models/{line}"), sentence, data);
            Arc::make_mut(&mut state.lines).insert(line.clone(), Arc::new(changed));
            Ok(((), Touched { lines: [line].into(), ..Touched::default() }, vec![event]))
        };
        self.inner.decide(change).await
    }

    /// Deprecate or yank a version, or take that back. A poisoned one stays poisoned.
    pub async fn mark_version(&self, line: &Line, version: &Version, status: VersionStatus, by: &str) -> Result<(), ControlError> {
        let change = |state: &mut Snapshot, at| {
            let missing = || ControlError::NotFound(format!("line {line} has no version {version}"));
            let found = Arc::make_mut(&mut state.versions).get_mut(&(line.clone(), version.clone())).ok_or_else(missing)?;
            if matches!(found.status, VersionStatus::Poisoned { .. }) {
                return Err(ControlError::Conflict(format!("version {version} failed in the fleet and stays poisoned: publish a new one")));
            }
            let because = status.reason().map(|r| format!(": {r}")).unwrap_or_default();
            let sentence = format!("Version {version} of {line} is {}{because}.", status.as_str());
            let event = draft(at, by, "version.marked", format!("models/{line}/versions/{version}"), sentence, json_of(&status));
            Arc::make_mut(found).status = status;
            Ok(((), Touched { versions: [(line.clone(), version.clone())].into(), ..Touched::default() }, vec![event]))
        };
        self.inner.decide(change).await
    }

    /// Replace a device's labels; it may move to another cohort by that.
    pub async fn label_device(&self, device: &DeviceId, labels: BTreeMap<String, String>, by: &str) -> Result<(), ControlError> {
        check_labels(&labels)?;
        let change = |state: &mut Snapshot, at| {
            let mut found = state.fleet.device_mut(device).ok_or_else(|| no_device(device))?;
            let sentence = format!("{device} was labelled anew.");
            let data = json!({ "before": found.labels, "after": labels });
            found.labels = labels;
            let event = draft(at, by, "device.labelled", format!("devices/{device}"), sentence, data);
            Ok(((), Touched { devices: [device.clone()].into(), ..Touched::default() }, vec![event]))
        };
        self.inner.decide(change).await
    }

    /// Forget a device: its key and its secret count no more. It goes on running what it runs.
    pub async fn remove_device(&self, device: &DeviceId, why: &str, by: &str) -> Result<(), ControlError> {
        let why = reason(why)?;
        {
            let _turn = self.inner.turn.lock().await;
            let at = clock::now();
            let found = self.inner.ledger().snapshot.fleet.device(device).ok_or_else(|| no_device(device))?;
            let sentence = format!("{device} was removed from the fleet: {why}");
            let event = draft(at, by, "device.removed", format!("devices/{device}"), sentence, Value::Null);
            let mut writes = vec![
                Write::Delete { kind: Kind::Device, key: device.to_string() },
                Write::Delete { kind: Kind::Checkpoint, key: super::super::checkpoint::uplink_key(device) },
            ];
            writes.extend(revoked(device, &found.certificates, at)?);
            self.inner.store.commit(Batch { at, writes, events: vec![event], urgent: true }).await?;
            self.inner.ledger().dismiss(device);
            self.inner.credentials.dismiss(device);
            self.inner.wake.notify_one();
        }
        put_out(&self.inner, device).await;
        Ok(())
    }

    /// Ask for a better model by hand.
    pub async fn request_retraining(&self, line: &Line, why: &str, by: &str) -> Result<Arc<TrainingJob>, ControlError> {
        let why = reason(why)?;
        let change = |state: &mut Snapshot, at: Timestamp| {
            let found = state.lines.get(line).ok_or_else(|| ControlError::NotFound(format!("there is no model line {line}")))?;
            let parent =
                found.champion().cloned().ok_or_else(|| ControlError::Conflict(format!("line {line} has no champion to retrain yet")))?;
            if let Some(open) = state.jobs.values().find(|j| j.request.line == *line && j.state.is_open()) {
                return Err(ControlError::Conflict(format!("training job {} is {} already", open.request.id, open.state.as_str())));
            }
            let cohorts = state.cohorts.values().filter(|c| c.line == *line).map(|c| c.name.clone()).collect();
            let request = RetrainRequest {
                id: format!("{line}-{}", at.as_millis()),
                line: line.clone(),
                parent,
                trigger: Trigger::Asked { by: by.to_owned() },
                cohorts,
                reason: why.clone(),
                evidence: Vec::new(),
                asked_at: at,
            };
            let event = draft(at, by, "retraining.requested", format!("models/{line}"), why, json_of(&request));
            let id = request.id.clone();
            let job = Arc::new(TrainingJob { request, state: JobState::Queued, updated_at: at });
            Arc::make_mut(&mut state.jobs).insert(id.clone(), Arc::clone(&job));
            Ok((job, Touched { jobs: [id].into(), ..Touched::default() }, vec![event]))
        };
        self.inner.decide(change).await
    }
}

pub(super) fn no_device(device: &DeviceId) -> ControlError {
    ControlError::NotFound(format!("there is no device {device}: enrol it first"))
}

pub(super) fn check_labels(labels: &BTreeMap<String, String>) -> Result<(), ControlError> {
    let plain = |text: &str| text.len() <= MAX_LABEL && text.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c));
    if labels.len() > MAX_LABELS || !labels.iter().all(|(key, value)| !key.is_empty() && plain(key) && plain(value)) {
        return Err(ControlError::Invalid(format!(
            "labels are at most {MAX_LABELS} pairs of at most {MAX_LABEL} letters, digits, '-', '_' and '.'"
        )));
    }
    Ok(())
}

type Change<T> = Result<(T, Touched, Vec<Draft>), ControlError>;

fn create_rollout(state: &mut Snapshot, at: Timestamp, new: NewRollout, why: String, by: &str) -> Change<Arc<Rollout>> {
    let NewRollout { id, line, version, policy, .. } = new;
    let found = state.lines.get(&line).ok_or_else(|| ControlError::NotFound(format!("there is no model line {line}")))?;
    let release = state.version(&line, &version);
    let release = release.ok_or_else(|| ControlError::NotFound(format!("line {line} has no version {version}: publish it first")))?;
    if !release.is_assignable() {
        let because = release.status.reason().unwrap_or_default();
        return Err(ControlError::Conflict(format!("version {version} is {}: {because}", release.status.as_str())));
    }
    // Whoever asks for a rollout may ask for more approvals than the line does, and not for fewer.
    let policy = policy.map_or_else(|| found.rollout.clone(), |own| own.with_approvals_of(&found.rollout));
    policy.check().map_err(|e| ControlError::Invalid(e.to_string()))?;
    for stage in &policy.stages {
        if let Some(stranger) = stage.cohorts.iter().find(|name| state.cohorts.get(*name).is_none_or(|c| c.line != line)) {
            return Err(ControlError::Invalid(format!(
                "stage {:?} names cohort {stranger}, which is not a cohort of line {line}",
                stage.name
            )));
        }
    }
    let open = |r: &&Arc<Rollout>| r.spec.line == line && r.spec.version == version && !r.state.is_over();
    if let Some(open) = state.rollouts.values().find(open) {
        return Err(ControlError::Conflict(format!(
            "rollout {} brings out version {version} already: it is {}",
            open.id,
            open.state.phase()
        )));
    }
    let id = match id {
        Some(id) if state.rollouts.contains_key(&id) => return Err(ControlError::Conflict(format!("there is a rollout {id} already"))),
        Some(id) => id,
        None => free_id(state, &line, &version)?,
    };
    let baseline = found.champion().filter(|champion| **champion != version).cloned();
    let spec = RolloutSpec { line, version, baseline, policy };
    let rollout = Arc::new(Rollout::new(id.clone(), spec, why.clone(), Actor::from(by.to_owned()), at));
    let event = draft(at, by, "rollout.created", format!("rollouts/{id}"), why, json_of(&rollout.spec));
    Arc::make_mut(&mut state.rollouts).insert(id.clone(), Arc::clone(&rollout));
    Ok((rollout, Touched { rollouts: [id].into(), ..Touched::default() }, vec![event]))
}

/// `rain-2`, or `rain-2.2` when that version was rolled out before.
fn free_id(state: &Snapshot, line: &Line, version: &Version) -> Result<RolloutId, ControlError> {
    let plain = rollout_id(line, version);
    let again = (2..1000).filter_map(|n| format!("{}.{n}", plain.as_ref()?).parse().ok());
    let free = plain.clone().into_iter().chain(again).find(|id| !state.rollouts.contains_key(id));
    free.ok_or_else(|| ControlError::Invalid("give the rollout a name: none could be made of line and version".to_owned()))
}

fn act(
    state: &mut Snapshot,
    at: Timestamp,
    id: &RolloutId,
    action: Action,
    why: String,
    by: &str,
    revision: Option<u64>,
) -> Change<Arc<Rollout>> {
    let missing = || ControlError::NotFound(format!("there is no rollout {id}"));
    let found = Arc::make_mut(&mut state.rollouts).get_mut(id).ok_or_else(missing)?;
    if let Some(seen) = revision.filter(|seen| *seen != found.revision) {
        let now = found.revision;
        return Err(ControlError::Conflict(format!("rollout {id} changed since you looked (revision {seen}, now {now}): look again")));
    }
    let mut touched = Touched { rollouts: [id.clone()].into(), ..Touched::default() };
    if action == Action::Approve && found.created_by.name() == by && found.needs_approval(found.state.next_stage()) {
        // Such an approval would count for nothing: better to say so now than to let people wait for it.
        return Err(ControlError::Conflict(format!("rollout {id} was asked for by {by}: its approval must come from somebody else")));
    }
    if let Some(stage) = found.unapproved(action) {
        let (author, stage) = (found.created_by.name(), &stage.name);
        return Err(ControlError::Conflict(format!(
            "stage {stage} of rollout {id} must be approved first, by somebody other than {author}"
        )));
    }
    let step = match action {
        Action::Approve => Move::Approve { remark: why.clone() },
        Action::Pause => Move::Pause { reason: why.clone(), passed: false },
        Action::Resume => Move::Resume { reason: why.clone() },
        Action::Promote => Move::Promote { reason: why.clone() },
        Action::PromoteAll => Move::PromoteAll { reason: why.clone() },
        Action::Abort => Move::Abort { reason: why.clone() },
        Action::Retry => {
            let rollout = Arc::clone(found);
            if !rollout.state.allowed_actions().contains(&Action::Retry) {
                return Err(ControlError::Conflict(format!("rollout {id} is {}: there is nothing to retry", rollout.state.phase())));
            }
            touched.devices = retry(state, &rollout, at);
            let sentence = format!("{} devices are to try again: {why}", touched.devices.len());
            let event = draft(at, by, "rollout.retried", format!("rollouts/{id}"), sentence, Value::Null);
            return Ok((rollout, touched, vec![event]));
        }
    };
    Arc::make_mut(found).make(&step, &Actor::from(by.to_owned()), at).map_err(|e| ControlError::Conflict(format!("rollout {id}: {e}")))?;
    let rollout = Arc::clone(found);
    let data = json!({ "action": action.as_str(), "phase": rollout.state.phase(), "revision": rollout.revision });
    let event = draft(at, by, "rollout.moved", format!("rollouts/{id}"), format!("{by}: {} ({why})", action.as_str()), data);
    Ok((rollout, touched, vec![event]))
}

/// Ask every device of a rollout that failed, or that did not answer in time, to try again.
fn retry(state: &mut Snapshot, rollout: &Rollout, at: Timestamp) -> std::collections::BTreeSet<DeviceId> {
    let manifest = state.version(&rollout.spec.line, &rollout.spec.version).map(|v| v.manifest.digest);
    let overdue = |d: &Device| manifest.is_some_and(|m| standing(d, rollout, m, at) == Standing::Overdue);
    let part = |d: &Device| d.part_in(&rollout.id).cloned();
    let failed = state.fleet.iter().filter(|d| part(d).is_some_and(|part| part.failure.is_some() || overdue(d)));
    let failed: std::collections::BTreeSet<DeviceId> = failed.map(|d| d.id.clone()).collect();
    for device in &failed {
        if let Some(mut device) = state.fleet.device_mut(device) {
            device.retry = true;
        }
    }
    failed
}
