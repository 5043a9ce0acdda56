//! From an assignment to verified bytes on the disk: metadata, cross-check, manifest, model; and what happens when one fails.
//!
//! A fault is either one that may pass (no network, no room, bytes altered on the way) or one of what was signed itself. The
//! first kind is tried again after a growing pause, and after a few tries it is *reported* as a refusal while the device goes
//! on trying slowly: a device that was cut off for a week must not need a person. The second kind is final for its assignment.
use leeway_protocol::digest::Digest;
use leeway_protocol::manifest::{Blob, MAX_MANIFEST_BYTES, MAX_MODEL_BYTES};
use leeway_protocol::reason::{Code, Reason};
use leeway_protocol::trust::director::{ApprovedTarget, cross_check};

use super::Agent;
use super::persist::Saving;
use super::state::Outcome;
use crate::action::{Action, DiskPath, FetchId, Level};
use crate::deployment::{Candidate, Deployment, Fetch};
use crate::event::BlobFailure;

/// Tries of a network or disk that may come back, before it is reported as a refusal.
const PATIENT_TRIES: u32 = 8;
/// Tries of bytes that were wrong: once more, in case the way was at fault and not the source.
const WRONG_BYTES_TRIES: u32 = 2;
/// Tries of a runner that ended during the self-test or the shadow run: it may have been killed for another's sake.
const CRASH_TRIES: u32 = 3;

/// After how many faults of this kind it is reported as a refusal, and whether the device stops trying then.
fn tries_of(code: &Code) -> (u32, bool) {
    match code {
        Code::MetadataUnavailable | Code::DownloadFailed | Code::DiskFull | Code::DiskFailed => (PATIENT_TRIES, false),
        Code::SignatureInvalid | Code::DigestMismatch | Code::LengthMismatch | Code::MetadataRollback => (WRONG_BYTES_TRIES, false),
        Code::MetadataExpired | Code::NotListed => (1, false),
        Code::LoadFailed | Code::Crashed | Code::Hung => (CRASH_TRIES, true),
        _ => (1, true),
    }
}

impl Agent {
    /// A wait is over: fetch, beginning with the metadata, if the maintenance window is open.
    pub(super) fn begin_fetching(&mut self) {
        if !self.may_begin() {
            return;
        }
        let Some(followed) = &self.followed else { return };
        let Some(target) = followed.directive.target.clone() else { return };
        let expires = followed.directive.expires;
        if expires <= self.clock.trusted() {
            return self.fault(Reason::new(Code::MetadataExpired, format_args!("the assignment expired at {expires}")));
        }
        if self.enter(Deployment::Fetching(Fetch::Metadata)) {
            self.refresh(Some(&target.path));
        }
    }

    /// The metadata is fresh: is the assigned target one that may run?
    pub(super) fn metadata_is_fresh(&mut self) {
        if !matches!(self.deployment, Deployment::Fetching(Fetch::Metadata)) {
            return;
        }
        let (Some(image), Some(followed)) = (&self.trust.image, &self.followed) else { return };
        let line = followed.assignment.release.as_ref().map(|release| &release.line);
        let floor = line.map_or(0, |line| self.state.floor_of(line));
        match cross_check(&followed.directive, image, floor) {
            Ok(approved) => self.approved(approved),
            Err(error) => {
                let reason = Reason::new(error.code(), error);
                self.fault(reason);
            }
        }
    }

    pub(super) fn metadata_is_not_fresh(&mut self, reason: Reason) {
        if matches!(self.deployment, Deployment::Fetching(Fetch::Metadata)) {
            self.fault(reason);
        }
    }

    fn approved(&mut self, approved: ApprovedTarget) {
        let manifest = approved.release.manifest;
        let model = Blob { digest: approved.target.sha256, length: approved.target.length };
        if self.state.has_failed(&manifest.digest) {
            return self.refuse(Reason::new(Code::AlreadyFailed, approved.target.path), Some(manifest.digest));
        }
        if manifest.length > MAX_MANIFEST_BYTES || model.length > MAX_MODEL_BYTES {
            let detail = format_args!(
                "the manifest has {} bytes and the model {}, the bounds are {MAX_MANIFEST_BYTES} and {MAX_MODEL_BYTES}",
                manifest.length, model.length
            );
            return self.refuse(Reason::new(Code::ManifestInvalid, detail), Some(manifest.digest));
        }
        let answering = self.state.slots.serving().and_then(|slot| self.release_in(slot));
        if answering.is_some_and(|release| release.manifest == manifest && release.model == model) {
            self.state.outcome = Some(Outcome::Committed);
            self.save(Saving::Note);
            self.enter(Deployment::Committed);
            return self.happened(Some(manifest.digest));
        }
        let approved = Box::new(approved);
        let fetch = if self.files.has(&manifest) {
            self.ask_for(DiskPath::blob(&manifest.digest), MAX_MANIFEST_BYTES);
            None
        } else {
            Some(self.fetch_blob(manifest))
        };
        self.enter(Deployment::Fetching(Fetch::Manifest { approved, fetch }));
    }

    fn ask_for(&mut self, path: DiskPath, max_len: u64) {
        self.last.asks();
        self.out.push(Action::Read { path, max_len });
    }

    fn fetch_blob(&mut self, blob: Blob) -> FetchId {
        let fetch = self.next_fetch();
        self.files.staging.insert(blob.digest);
        self.unremoved.remove(&DiskPath::staging(&blob.digest));
        self.last.asks();
        self.out.push(Action::FetchBlob { fetch, digest: blob.digest, length: blob.length, resume: true });
        fetch
    }

    /// A download is whole.
    pub(super) fn blob_done(&mut self, fetch: FetchId, digest: Digest) {
        match &self.deployment {
            Deployment::Fetching(Fetch::Manifest { approved, fetch: Some(wanted) }) if *wanted == fetch => {
                let (manifest, approved) = (approved.release.manifest, approved.clone());
                self.keep_blob(digest, manifest.length);
                self.ask_for(DiskPath::blob(&manifest.digest), MAX_MANIFEST_BYTES);
                self.enter(Deployment::Fetching(Fetch::Manifest { approved, fetch: None }));
            }
            Deployment::Fetching(Fetch::Model { candidate, fetch: wanted }) if *wanted == fetch => {
                let (model, candidate) = (candidate.release().model, candidate.clone());
                self.keep_blob(digest, model.length);
                self.staged(candidate);
            }
            _ => {}
        }
    }

    /// A download failed.
    pub(super) fn blob_failed(&mut self, fetch: FetchId, digest: Digest, failure: BlobFailure) {
        let what = match &self.deployment {
            Deployment::Fetching(Fetch::Manifest { fetch: Some(wanted), .. }) if *wanted == fetch => "the manifest",
            Deployment::Fetching(Fetch::Model { fetch: wanted, .. }) if *wanted == fetch => "the model",
            _ => return,
        };
        let reason = match failure {
            BlobFailure::Network(why) => Reason::new(Code::DownloadFailed, format_args!("{what}: {why}")),
            BlobFailure::Digest { got } => {
                self.files.staging.remove(&digest);
                Reason::new(Code::DigestMismatch, format_args!("{what}: signed is {}, downloaded was {}", digest.short(), got.short()))
            }
            BlobFailure::Length { got } => Reason::new(Code::LengthMismatch, format_args!("{what}: the server offers {got} bytes")),
            BlobFailure::DiskFull => Reason::new(Code::DiskFull, what),
            BlobFailure::Disk(why) => Reason::new(Code::DiskFailed, format_args!("{what}: {why}")),
        };
        self.fault(reason);
    }

    /// A file that was asked for; also a message of the outbox that could not be read when it was to be sent.
    pub(super) fn read(&mut self, path: &DiskPath, result: Result<Option<Vec<u8>>, String>) {
        if let Some(name) = path.as_outbox() {
            return self.unreadable_message(name, &result);
        }
        let Deployment::Fetching(Fetch::Manifest { approved, fetch: None }) = &self.deployment else { return };
        let manifest = approved.release.manifest;
        if *path != DiskPath::blob(&manifest.digest) {
            return;
        }
        let approved = approved.as_ref().clone();
        let candidate = match result {
            Ok(Some(bytes)) => Candidate::new(approved, &bytes),
            Ok(None) => Err(Reason::new(Code::DiskFailed, "the manifest was on disk and is gone")),
            Err(why) => Err(Reason::new(Code::DiskFailed, format_args!("the manifest cannot be read: {why}"))),
        };
        match candidate {
            Ok(candidate) => self.manifest_agrees(Box::new(candidate)),
            Err(reason) => {
                if matches!(reason.code, Code::DigestMismatch | Code::DiskFailed) {
                    self.forget_blob(manifest.digest);
                    self.fault(reason);
                } else {
                    self.refuse(reason, Some(manifest.digest));
                }
            }
        }
    }

    fn manifest_agrees(&mut self, candidate: Box<Candidate>) {
        let model = candidate.release().model;
        if self.files.has(&model) {
            return self.staged(candidate);
        }
        let fetch = self.fetch_blob(model);
        self.enter(Deployment::Fetching(Fetch::Model { candidate, fetch }));
    }

    /// A blob whose bytes are not what its name says.
    pub(super) fn forget_blob(&mut self, digest: Digest) {
        self.files.blobs.remove(&digest);
        self.remove(DiskPath::blob(&digest));
    }

    /// Something that may pass went wrong on the way: try again later, and say so.
    pub(super) fn fault(&mut self, reason: Reason) {
        self.leave_candidate();
        let of_this_kind = self.faults.entry(reason.code.clone()).or_default();
        *of_this_kind = of_this_kind.saturating_add(1);
        let of_this_kind = *of_this_kind;
        let tries = self.faults.values().fold(0u32, |sum, n| sum.saturating_add(*n));
        let (limit, is_final) = tries_of(&reason.code);
        let generation = self.state.generation;
        if of_this_kind < limit || matches!(self.deployment, Deployment::Probation(_)) {
            let delay = self.retry_delay("fetch", tries);
            let until = self.clock.steady().saturating_add(delay);
            self.log(Level::Warn, format!("assignment {generation}: {reason}; the next try is in {delay} ms"));
            self.enter(Deployment::Waiting { until, reason: Some(reason) });
            return;
        }
        let manifest = self.deployment_manifest();
        if is_final {
            return self.refuse(reason, manifest);
        }
        let delay = self.retry_delay("fetch", tries.max(PATIENT_TRIES));
        let again = Some(self.clock.steady().saturating_add(delay));
        self.log(Level::Error, format!("assignment {generation} was refused: {reason}"));
        self.enter(Deployment::Refused { reason, again });
        self.happened(manifest);
    }

    /// What was signed itself is at fault, or failed on this device: final for this assignment.
    pub(super) fn refuse(&mut self, reason: Reason, manifest: Option<Digest>) {
        self.leave_candidate();
        self.log(Level::Error, format!("assignment {} was refused: {reason}", self.state.generation));
        if let Some(manifest) = manifest {
            self.state.note_failed(manifest);
        }
        self.state.outcome = Some(Outcome::Refused(reason.clone()));
        self.enter(Deployment::Refused { reason, again: None });
        self.collect_garbage();
        self.save(Saving::Note);
        self.happened(manifest);
    }

    /// The manifest of the release on its way, if that is known yet.
    pub(super) fn deployment_manifest(&self) -> Option<Digest> {
        match &self.deployment {
            Deployment::Fetching(Fetch::Manifest { approved, .. }) => Some(approved.release.manifest.digest),
            Deployment::Fetching(Fetch::Model { candidate, .. })
            | Deployment::Staged(candidate)
            | Deployment::SelfTesting { candidate, .. }
            | Deployment::Shadowing { candidate, .. } => Some(candidate.release().manifest.digest),
            Deployment::Probation(_) => {
                let trial = self.state.slots.trial.as_ref()?;
                self.release_in(trial.slot).map(|release| release.manifest.digest)
            }
            _ => None,
        }
    }

    /// The blobs that the release on its way needs.
    pub(super) fn deployment_blobs(&self) -> Vec<Digest> {
        match &self.deployment {
            Deployment::Fetching(Fetch::Manifest { approved, .. }) => vec![approved.release.manifest.digest, approved.target.sha256],
            Deployment::Fetching(Fetch::Model { candidate, .. })
            | Deployment::Staged(candidate)
            | Deployment::SelfTesting { candidate, .. }
            | Deployment::Shadowing { candidate, .. } => vec![candidate.release().manifest.digest, candidate.release().model.digest],
            _ => Vec::new(),
        }
    }
}
