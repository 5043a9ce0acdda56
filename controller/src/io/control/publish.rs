//! Publishing: what offline keys signed is taken in, tried out in a child, registered, and served.
//!
//! The signature says who released a model; the preflight says that it runs. A release is taken in only if every model in it
//! loads as on a device and gives its signed golden outputs, so a broken upload is refused here and not by a fleet. What stays
//! true: a version is registered in the same transaction that makes its metadata public.
use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError};

use leeway_protocol::digest::Digest;
use leeway_protocol::ids::Line;
use leeway_protocol::manifest::{Blob, MAX_MANIFEST_BYTES, Manifest, TargetCustom};
use leeway_protocol::time::Timestamp;
use leeway_protocol::trust::metadata::{Document, Root};
use leeway_protocol::trust::repository::{Accepted, Changes, RepositoryError, RepositoryState};
use leeway_protocol::trust::tuf::Persist;
use serde_json::json;

use super::super::clock;
use super::super::preflight::Passed;
use super::super::repository::{DIRECTOR, writes};
use super::decisions::draft;
use super::{ControlError, Controller, Inner, Touched, supply};
use crate::registry::{ModelLine, ModelVersion, Role, VersionStatus};
use crate::retraining::job::JobState;
use crate::snapshot::Snapshot;

/// The longest director root that is read.
const MAX_ROOT_BYTES: usize = 512 << 10;

/// What an upload of a line role brought.
#[derive(Debug, Clone)]
pub struct Published {
    /// The line.
    pub line: Line,
    /// The role that signed.
    pub role: String,
    /// The new versions.
    pub versions: Vec<Arc<ModelVersion>>,
}

impl From<RepositoryError> for ControlError {
    fn from(error: RepositoryError) -> Self {
        match error {
            RepositoryError::NoSuchRole(_) => Self::NotFound(error.to_string()),
            RepositoryError::Version { .. } => Self::Conflict(error.to_string()),
            RepositoryError::Unsigned(_) | RepositoryError::Root(_) => Self::Forbidden(error.to_string()),
            RepositoryError::Malformed(_)
            | RepositoryError::Expired { .. }
            | RepositoryError::Release { .. }
            | RepositoryError::Orphaned(_) => Self::Invalid(error.to_string()),
            RepositoryError::NoRoot | RepositoryError::Damaged(_) | RepositoryError::WrongKey(_) | RepositoryError::Sign(_) => {
                Self::Unavailable(error.to_string())
            }
        }
    }
}

/// A release that was tried out.
struct Tried {
    model: Blob,
    custom: TargetCustom,
    manifest: Manifest,
    passed: Passed,
}

impl Controller {
    /// Take in a line role that a release key or a trainer's key signed: verify, try out what is new, register, serve.
    pub async fn upload_role(&self, role: &str, bytes: &[u8], by: &str) -> Result<Published, ControlError> {
        let inner = &self.inner;
        // Before the models are tried out, so that nobody's unsigned upload costs a child process.
        let accepted = accept(inner, role, bytes, clock::now())?.1;
        let mut tried = Vec::new();
        for (path, model, custom) in accepted.added {
            tried.push(try_out(inner, role, &path, model, custom).await?);
        }
        let _turn = inner.turn.lock().await;
        let at = clock::now();
        // Again, because the repository may have moved on meanwhile.
        let (next, accepted) = accept(inner, role, bytes, at)?;
        if accepted.added.len() != tried.len() {
            return Err(ControlError::Conflict("the repository changed during the upload: upload again".to_owned()));
        }
        let mut state = inner.ledger().snapshot.clone();
        if accepted.auto {
            expect_approved(&state, &accepted)?;
        }
        let (versions, touched, mut events) = register(&mut state, role, &accepted, &tried, at, by)?;
        if versions.is_empty() {
            let sentence = format!("Role {role} was signed anew, without a new version.");
            events.push(draft(at, by, "role.published", format!("models/{}", accepted.line), sentence, json!({ "role": role })));
        }
        state.revision += 1;
        inner.settle(state, &touched, writes(&accepted.changes), events, at).await?;
        for trial in tried {
            inner.ledger().know(trial.custom.manifest.digest, without_golden(trial.manifest));
        }
        serve(inner, next, &accepted.changes);
        Ok(Published { line: accepted.line, role: role.to_owned(), versions })
    }

    /// Take in new top-level targets: delegations and policy.
    pub async fn upload_targets(&self, bytes: &[u8], by: &str) -> Result<(), ControlError> {
        self.upload(
            by,
            "targets.published",
            "The offline targets were signed anew: delegations and line policies may have changed.",
            |state, signer, at| state.accept_targets(bytes, signer, at),
        )
        .await
    }

    /// Take in a new image root, and with it targets that its targets keys signed, if those change so much that the served ones
    /// would count for nothing. Of the online keys that this controller holds it signs with those that the new root names.
    pub async fn upload_root(&self, bytes: &[u8], targets: Option<&[u8]>, by: &str) -> Result<(), ControlError> {
        let inner = &self.inner;
        let sentence = match targets {
            None => "A new root of the image repository was taken in.",
            Some(_) => "A new root of the image repository was taken in, and targets signed by the keys that it names.",
        };
        // Read for the keys it names; it is judged below.
        let named = Document::<Root>::parse(bytes, MAX_ROOT_BYTES).map_err(RepositoryError::Malformed)?;
        let keys = inner.repository().keys.signer(named.claims(), None);
        self.upload(by, "root.published", sentence, |state, _, at| state.accept_root_with(bytes, targets, &keys, at)).await?;
        inner.repository.write().unwrap_or_else(PoisonError::into_inner).choose_keys();
        Ok(())
    }

    /// Take in a new root of the director. If it names another key, every assignment is signed again by that one.
    pub async fn upload_director_root(&self, bytes: &[u8], by: &str) -> Result<(), ControlError> {
        let inner = &self.inner;
        let _turn = inner.turn.lock().await;
        let at = clock::now();
        let refused = |e: &dyn std::fmt::Display| format!("the director's root was refused: {e}");
        let (current, image, keys) = {
            let repository = inner.repository();
            (repository.director_root(), repository.state.contents().root().clone(), repository.keys.clone())
        };
        let current = current.ok_or_else(|| ControlError::Unavailable("there is no director root yet".to_owned()))?;
        let old = Document::<Root>::parse(&current, MAX_ROOT_BYTES).map_err(|e| ControlError::Invalid(refused(&e)))?;
        let new = Document::<Root>::parse(bytes, MAX_ROOT_BYTES).map_err(|e| ControlError::Invalid(refused(&e)))?;
        new.verify(&old.claims().keys_of("root")).map_err(|e| ControlError::Forbidden(refused(&e)))?;
        new.verify(&new.claims().keys_of("root")).map_err(|e| ControlError::Forbidden(refused(&e)))?;
        if new.version() != old.version() + 1 {
            return Err(ControlError::Conflict(format!(
                "director root version {} was uploaded, {} is next",
                new.version(),
                old.version() + 1
            )));
        }
        let expires = new.claims().header.expires;
        if expires.is_over(at) {
            return Err(RepositoryError::Expired { role: "director root".to_owned(), at: expires.moment() }.into());
        }
        // A root without this controller's key would leave every device deaf to it.
        if !new.claims().keys_of("targets").contains(&keys.signer(&image, Some(new.claims())).director.public()) {
            return Err(RepositoryError::WrongKey("director").into());
        }
        let file = format!("{DIRECTOR}{}.root.json", new.version());
        let changes = Changes { write: vec![Persist { file, bytes: bytes.to_vec() }], remove: Vec::new() };
        let event =
            draft(at, by, "root.published", "trust/director".to_owned(), "A new root of the director was taken in.".to_owned(), json!({}));
        let state = inner.ledger().snapshot.clone();
        inner.settle(state, &Touched::default(), writes(&changes), vec![event], at).await?;
        {
            let mut repository = inner.repository.write().unwrap_or_else(PoisonError::into_inner);
            repository.serve(&changes);
            repository.choose_keys();
        }
        let told: Vec<_> = inner.ledger().snapshot.fleet.iter().filter(|d| d.desired.is_some()).map(|d| d.id.clone()).collect();
        inner.publish_later(told);
        Ok(())
    }

    async fn upload(
        &self,
        by: &str,
        kind: &str,
        sentence: &str,
        change: impl FnOnce(
            &mut RepositoryState,
            &leeway_protocol::trust::repository::OnlineSigner,
            Timestamp,
        ) -> Result<Changes, RepositoryError>,
    ) -> Result<(), ControlError> {
        let inner = &self.inner;
        let _turn = inner.turn.lock().await;
        let at = clock::now();
        let (mut next, signer) = {
            let repository = inner.repository();
            (repository.state.clone(), repository.signer.clone())
        };
        let changes = change(&mut next, &signer, at)?;
        let event = draft(at, by, kind, "trust/image".to_owned(), sentence.to_owned(), json!({}));
        let state = inner.ledger().snapshot.clone();
        inner.settle(state, &Touched::default(), writes(&changes), vec![event], at).await?;
        serve(inner, next, &changes);
        Ok(())
    }
}

/// Sign freshness anew; the caller has no turn yet.
pub(in crate::io) async fn refresh(inner: &Inner) -> Result<(), ControlError> {
    let _turn = inner.turn.lock().await;
    let at = clock::now();
    let (mut next, signer) = {
        let repository = inner.repository();
        (repository.state.clone(), repository.signer.clone())
    };
    let changes = next.refresh(&signer, at)?;
    let batch = super::super::store::Batch { at, writes: writes(&changes), events: Vec::new(), urgent: true };
    inner.store.commit(batch).await?;
    serve(inner, next, &changes);
    Ok(())
}

fn serve(inner: &Inner, next: RepositoryState, changes: &Changes) {
    let mut repository = inner.repository.write().unwrap_or_else(PoisonError::into_inner);
    repository.state = next;
    repository.serve(changes);
}

fn accept(inner: &Inner, role: &str, bytes: &[u8], at: Timestamp) -> Result<(RepositoryState, Accepted), ControlError> {
    let (mut next, signer) = {
        let repository = inner.repository();
        (repository.state.clone(), repository.signer.clone())
    };
    let accepted = next.accept_role(role, bytes, &signer, at)?;
    Ok((next, accepted))
}

/// Check that the files are here, belong together, and run.
async fn try_out(inner: &Inner, role: &str, path: &str, model: Blob, custom: TargetCustom) -> Result<Tried, ControlError> {
    let refuse = |why: &str| ControlError::Invalid(format!("release {path} was refused: {why}"));
    if !inner.blobs.has(model).await {
        return Err(refuse("its model file was not uploaded before its metadata, or has another length"));
    }
    let manifest = read_manifest(inner, custom.manifest).await.map_err(|why| refuse(&why))?;
    let same = manifest.line == custom.line && manifest.version == custom.version && manifest.seq == custom.seq;
    if !same || manifest.model != model || manifest.io_digest() != custom.io {
        return Err(refuse("its manifest names another line, version, number, model or other inputs and outputs than the signed target"));
    }
    supply::check(inner, role, &custom, &manifest).await.map_err(|why| refuse(&why))?;
    let passed = inner.runner.preflight(&inner.blobs.path(model.digest), &inner.blobs.path(custom.manifest.digest)).await;
    let passed = passed.map_err(|e| match ControlError::from(e) {
        ControlError::Invalid(why) => refuse(&why),
        other => other,
    })?;
    Ok(Tried { model, custom, manifest, passed })
}

/// A manifest among the blobs.
pub(in crate::io) async fn read_manifest(inner: &Inner, blob: Blob) -> Result<Manifest, String> {
    if !inner.blobs.has(blob).await {
        return Err("its manifest was not uploaded before its metadata, or has another length".to_owned());
    }
    let bytes = inner.blobs.bytes(blob.digest, MAX_MANIFEST_BYTES).await.map_err(|e| e.to_string())?;
    let bytes = bytes.ok_or("its manifest was not uploaded")?;
    Manifest::parse(&bytes).map_err(|e| e.to_string())
}

/// Golden vectors are the big part of a manifest, and only a child needs them.
pub(in crate::io) fn without_golden(mut manifest: Manifest) -> Arc<Manifest> {
    manifest.golden.vectors = Vec::new();
    Arc::new(manifest)
}

/// A trainer's key may sign what won, and nothing else: without this, a stolen one could fill the registry.
fn expect_approved(state: &Snapshot, accepted: &Accepted) -> Result<(), ControlError> {
    let approved =
        |digest: Digest| state.jobs.values().any(|j| matches!(j.state, JobState::Approved { candidate, .. } if candidate == digest));
    match accepted.added.iter().find(|(_, _, custom)| !approved(custom.manifest.digest)) {
        Some((path, ..)) => {
            Err(ControlError::Forbidden(format!("release {path} was refused: it is not the candidate of an approved training job")))
        }
        None => Ok(()),
    }
}

type Registered = (Vec<Arc<ModelVersion>>, Touched, Vec<crate::audit::Draft>);

fn register(
    state: &mut Snapshot,
    role: &str,
    accepted: &Accepted,
    tried: &[Tried],
    at: Timestamp,
    by: &str,
) -> Result<Registered, ControlError> {
    let (mut versions, mut touched, mut events) = (Vec::new(), Touched::default(), Vec::new());
    let line = &accepted.line;
    if !tried.is_empty() && !state.lines.contains_key(line) {
        Arc::make_mut(&mut state.lines).insert(line.clone(), Arc::new(ModelLine::new(line.clone(), at)));
        touched.lines.insert(line.clone());
    }
    for trial in tried {
        let Tried { model, custom, manifest, passed } = trial;
        let role_of = if accepted.auto { Role::Auto } else { Role::Release };
        let version = ModelVersion {
            line: line.clone(),
            version: custom.version.clone(),
            seq: custom.seq,
            manifest: custom.manifest,
            model: *model,
            io: custom.io,
            role: role_of,
            signer: role.to_owned(),
            lineage: manifest.lineage.clone(),
            provenance: custom.provenance,
            bundle: custom.bundle,
            published_at: at,
            status: VersionStatus::Published,
            poisoned_for: Vec::new(),
        };
        version.check_against(state.versions.values().map(AsRef::as_ref)).map_err(|e| ControlError::Conflict(e.to_string()))?;
        let sentence = format!(
            "Version {} of {line} was published by role {role}: it loads in {} ms, matches its golden vectors, and answers in {} µs at the 99th percentile.",
            version.version, passed.load_ms, passed.p99_us
        );
        let data = json!({ "manifest": version.manifest, "model": version.model, "seq": version.seq, "lineage": version.lineage, "provenance": version.provenance, "bundle": version.bundle, "preflight": passed });
        events.push(draft(at, by, "version.published", format!("models/{line}/versions/{}", version.version), sentence, data));
        finish_job(state, &version, at, by, &mut touched, &mut events);
        touched.versions.insert((line.clone(), version.version.clone()));
        if let Some(found) = Arc::make_mut(&mut state.lines).get_mut(line)
            && Arc::make_mut(found).book.signed(&version.version, version.seq)
        {
            touched.lines.insert(line.clone());
        }
        let version = Arc::new(version);
        Arc::make_mut(&mut state.versions).insert((line.clone(), version.version.clone()), Arc::clone(&version));
        versions.push(version);
    }
    Ok((versions, touched, events))
}

/// A job whose candidate this is has reached its end.
fn finish_job(
    state: &mut Snapshot,
    version: &ModelVersion,
    at: Timestamp,
    by: &str,
    touched: &mut Touched,
    events: &mut Vec<crate::audit::Draft>,
) {
    let mine = |state: &JobState| matches!(state, JobState::Approved { candidate, .. } if *candidate == version.manifest.digest);
    let found = state.jobs.values().find(|job| mine(&job.state)).map(|job| job.request.id.clone());
    let Some(id) = found else { return };
    if let Some(job) = Arc::make_mut(&mut state.jobs).get_mut(&id) {
        Arc::make_mut(job).move_to(JobState::Published { version: version.version.clone() }, at);
    }
    let sentence = format!("Training job {id} became version {} of {}.", version.version, version.line);
    events.push(draft(at, by, "training.published", format!("training/{id}"), sentence, json!({ "version": version.version })));
    touched.jobs.insert(id);
}

/// Manifests of every registered version, read at the start.
pub(in crate::io) async fn load_manifests(inner: &Inner) -> BTreeMap<Digest, Arc<Manifest>> {
    let versions: Vec<Arc<ModelVersion>> = inner.ledger().snapshot.versions.values().cloned().collect();
    let mut out = BTreeMap::new();
    for version in versions {
        match read_manifest(inner, version.manifest).await {
            Ok(manifest) => drop(out.insert(version.manifest.digest, without_golden(manifest))),
            Err(why) => tracing::error!(
                "version {} of {}: {why}; its reports do not count until it is uploaded again",
                version.version,
                version.line
            ),
        }
    }
    out
}
