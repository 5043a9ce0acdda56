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
use crate::fleet::CohortDoc;
use crate::planner::Policy;
use crate::planner::advance::gate_of;
use crate::planner::retrain::rollout_id;
use crate::registry::{ModelLine, RetrainPolicy, VersionStatus};
use crate::rollout::verb::{self, Ask, Done, VerbError};
use crate::rollout::{Action, Actor, Rollout, RolloutPolicy, RolloutSpec, possible};
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
    /// Begin it even if it is foreseen to cost more than its own risk budget allows.
    #[serde(default)]
    pub force: bool,
}

/// What applying a file came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Applied {
    /// There was no rollout of that name.
    Created,
    /// It says something else now.
    Amended,
    /// It said the same already.
    Unchanged,
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

pub(super) fn json_of<T: Serialize>(value: &T) -> Value {
    serde_json::to_value(value).unwrap_or_default()
}

impl Controller {
    /// Begin a rollout; its first devices are told by the next plan. One with a risk budget is looked ahead at first.
    pub async fn create_rollout(&self, new: NewRollout, by: &str) -> Result<Arc<Rollout>, ControlError> {
        let why = reason(&new.reason)?;
        let forced = self.check_risk(&new, by).await?;
        let by = by.to_owned();
        let change = move |state: &mut Snapshot, at| {
            let (rollout, touched, mut events) = create_rollout(state, at, new, why.clone(), &by)?;
            if let Some(beyond) = forced {
                let sentence = format!("{by} began it against its own risk budget ({why}): {beyond}");
                events.push(draft(at, &by, "rollout.forced", format!("rollouts/{}", rollout.id), sentence, json!({ "beyond": beyond })));
            }
            Ok((rollout, touched, events))
        };
        self.inner.decide(change).await
    }

    /// Make a rollout say what a file says: create it, change what may still be changed (only from the `revision` that was looked
    /// at), or leave it as it is. The same again changes nothing, and leaves no row.
    pub async fn apply_rollout(&self, new: NewRollout, by: &str, revision: Option<u64>) -> Result<(Applied, Arc<Rollout>), ControlError> {
        let why = reason(&new.reason)?;
        let known = new.id.as_ref().and_then(|id| self.snapshot().rollouts.get(id).cloned());
        if let Some(known) = known.filter(|known| says_the_same(known, &new, &self.snapshot())) {
            return Ok((Applied::Unchanged, known));
        }
        let by = by.to_owned();
        self.inner.decide(move |state, at| apply_rollout(state, at, new, why, &by, revision)).await
    }

    /// Pause, resume, promote, approve, dismiss, abort or retry. With a `revision`, only if the rollout has not changed since.
    pub async fn act(&self, rollout: &RolloutId, ask: Ask<'_>) -> Result<Arc<Rollout>, ControlError> {
        let ask = Ask { reason: reason(&ask.reason)?, ..ask };
        self.inner.decide(|state, at| act(state, at, rollout, ask)).await
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

pub(super) type Change<T> = Result<(T, Touched, Vec<Draft>), ControlError>;

/// A rollout as it begins; everything that stands against it is a refusal.
pub(super) fn create_rollout(state: &mut Snapshot, at: Timestamp, new: NewRollout, why: String, by: &str) -> Change<Arc<Rollout>> {
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
    check_cohorts(state, &line, &policy)?;
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
    check_possible(&policy, baseline.is_some())?;
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

/// Whether a rollout is what a file asks for already; approvals that the line asked for besides are no difference.
fn says_the_same(known: &Rollout, new: &NewRollout, state: &Snapshot) -> bool {
    let spec = &known.spec;
    let line = state.lines.get(&spec.line).map(|line| &line.rollout);
    let same =
        |asked: &RolloutPolicy| *asked == spec.policy || line.is_some_and(|least| asked.clone().with_approvals_of(least) == spec.policy);
    // A file without a policy leaves it to the line, once and for all.
    (&spec.line, &spec.version) == (&new.line, &new.version) && new.policy.as_ref().is_none_or(same)
}

fn apply_rollout(
    state: &mut Snapshot,
    at: Timestamp,
    new: NewRollout,
    why: String,
    by: &str,
    revision: Option<u64>,
) -> Change<(Applied, Arc<Rollout>)> {
    let Some(known) = new.id.as_ref().and_then(|id| state.rollouts.get(id)).cloned() else {
        return create_rollout(state, at, new, why, by).map(|(made, touched, events)| ((Applied::Created, made), touched, events));
    };
    if says_the_same(&known, &new, state) {
        return Ok(((Applied::Unchanged, known), Touched::default(), Vec::new()));
    }
    let (id, now, spec) = (known.id.clone(), known.revision, &known.spec);
    if (&spec.line, &spec.version) != (&new.line, &new.version) {
        let (line, version) = (&spec.line, &spec.version);
        return Err(ControlError::Conflict(format!(
            "rollout {id} brings out {line} {version}: another version needs a rollout of its own"
        )));
    }
    let Some(seen) = revision else {
        return Err(ControlError::Conflict(format!(
            "rollout {id} exists with another policy and is {}, at revision {now}: to change what it has not reached yet, say that you looked at that revision",
            known.state.phase()
        )));
    };
    if seen != now {
        return Err(ControlError::Stale(format!("rollout {id} changed since you looked (revision {seen}, now {now}): look again")));
    }
    let asked = new.policy.unwrap_or_else(|| spec.policy.clone());
    let policy = state.lines.get(&new.line).map_or_else(|| asked.clone(), |line| asked.clone().with_approvals_of(&line.rollout));
    check_cohorts(state, &new.line, &policy)?;
    check_possible(&policy, spec.baseline.is_some())?;
    let mut rollout = known.as_ref().clone();
    let changed = rollout.amend(policy, &Actor::from(by.to_owned()), &why, at);
    changed.map_err(|e| ControlError::Conflict(e.to_string()))?;
    let event = draft(at, by, "rollout.amended", format!("rollouts/{id}"), why, json_of(&rollout.spec));
    let rollout = Arc::new(rollout);
    Arc::make_mut(&mut state.rollouts).insert(id.clone(), Arc::clone(&rollout));
    Ok(((Applied::Amended, rollout), Touched { rollouts: [id].into(), ..Touched::default() }, vec![event]))
}

fn act(state: &mut Snapshot, at: Timestamp, id: &RolloutId, ask: Ask<'_>) -> Change<Arc<Rollout>> {
    let (action, why, by, check) = (ask.action, ask.reason.clone(), ask.by, ask.check.clone());
    let done = verb::act(state, at, id, ask, |state| gate_of(state, &Policy::default(), id, at));
    let Done { rollout, retried } = done.map_err(|error| match error {
        VerbError::Missing(_) => ControlError::NotFound(error.to_string()),
        VerbError::Stale { .. } => ControlError::Stale(error.to_string()),
        VerbError::Refused(detail) => ControlError::Conflict(detail),
    })?;
    let event = if action == Action::Retry {
        let sentence = format!("{} devices are to try again: {why}", retried.len());
        draft(at, by, "rollout.retried", format!("rollouts/{id}"), sentence, Value::Null)
    } else {
        let data = json!({ "action": action.as_str(), "phase": rollout.state.phase(), "revision": rollout.revision, "check": check });
        draft(at, by, "rollout.moved", format!("rollouts/{id}"), format!("{by}: {} ({why})", action.as_str()), data)
    };
    Ok((rollout, Touched { rollouts: [id.clone()].into(), devices: retried, ..Touched::default() }, vec![event]))
}

/// A rollout that no gate could ever pass is not begun.
fn check_possible(policy: &RolloutPolicy, compares: bool) -> Result<(), ControlError> {
    possible::never(policy, compares).map_or(Ok(()), |why| Err(ControlError::Invalid(why)))
}

/// A stage may only name cohorts of its line.
fn check_cohorts(state: &Snapshot, line: &Line, policy: &RolloutPolicy) -> Result<(), ControlError> {
    for stage in &policy.stages {
        if let Some(stranger) = stage.cohorts.iter().find(|name| state.cohorts.get(*name).is_none_or(|c| c.line != *line)) {
            return Err(ControlError::Invalid(format!(
                "stage {:?} names cohort {stranger}, which is not a cohort of line {line}",
                stage.name
            )));
        }
    }
    Ok(())
}
