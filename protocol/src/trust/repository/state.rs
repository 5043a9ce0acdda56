//! The image repository as the controller serves it: takes in what offline keys signed, signs freshness, keeps what is needed.
//!
//! The controller is not trusted by devices, so these checks protect people from mistakes, not devices from the controller: an
//! upload that no device would accept is refused here, with the reason, before anybody is told about it. Its own state is read
//! through the same client that devices use, so the two can never disagree.
use std::collections::BTreeMap;

use super::{Lifetimes, max_seq, release_role, target_custom, trainer_role};
use crate::assignment::target_path;
use crate::ids::Line;
use crate::manifest::{Blob, TargetCustom};
use crate::time::Timestamp;
use crate::trust::keyring::SigningKey;
use crate::trust::metadata::versioned_name;
use crate::trust::metadata::{
    self, Document, FileMeta, Header, MetadataError, Role, Root, SignError, SnapshotMeta, Targets, ThresholdError, TimestampMeta,
};
use crate::trust::tuf::{Client, MAX_ROOT_BYTES, MAX_TARGETS_BYTES, Persist, Stored, TufError};

/// Older versions of each file that stay: a device in the middle of a refresh still finds what its timestamp named.
pub const KEEP_VERSIONS: u64 = 16;

/// The keys a controller holds, and how long what they sign is believed.
#[derive(Debug, Clone)]
pub struct OnlineSigner {
    /// Signs snapshots.
    pub snapshot: SigningKey,
    /// Signs timestamps.
    pub timestamp: SigningKey,
    /// Signs assignments.
    pub director: SigningKey,
    /// For how long.
    pub lifetimes: Lifetimes,
}

/// Files to write, in this order and each durable before the next, and then files to remove.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Changes {
    /// The timestamp comes last, so that a crash leaves the old state whole.
    pub write: Vec<Persist>,
    /// Not needed any more.
    pub remove: Vec<String>,
}

/// An accepted line role.
#[derive(Debug, Clone, PartialEq)]
pub struct Accepted {
    /// What to write.
    pub changes: Changes,
    /// The role's line.
    pub line: Line,
    /// Whether it is the trainer's role.
    pub auto: bool,
    /// The releases that were not listed before, with path, digest and length.
    pub added: Vec<(String, Blob, TargetCustom)>,
}

/// Why an upload was refused, or a repository cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum RepositoryError {
    /// The first root is not there.
    #[error("1.root.json is missing: run `leeway keys init`, or restore the repository's files")]
    NoRoot,
    /// The stored files do not verify.
    #[error("the repository's own files do not verify: {0}")]
    Damaged(#[source] TufError),
    /// The upload is not metadata.
    #[error("the upload was refused: {0}")]
    Malformed(#[from] MetadataError),
    /// The upload is not signed by enough of the right keys.
    #[error("the upload was refused: {0}; sign it with a key that the offline targets list for this role")]
    Unsigned(#[from] ThresholdError),
    /// The next root is not one.
    #[error("the upload was refused: {0}")]
    Root(#[source] TufError),
    /// A role that is not delegated to.
    #[error("there is no role {0:?}: it must be delegated to in the offline-signed targets first")]
    NoSuchRole(String),
    /// Not the version after the current one.
    #[error("{role} version {got} was uploaded, but version {expected} is next: fetch the current one and add to it")]
    Version {
        /// The role.
        role: String,
        /// The version that is next.
        expected: u64,
        /// The version that came.
        got: u64,
    },
    /// Already over.
    #[error("{role} expired at {at}: sign it again with a later expiry")]
    Expired {
        /// The role.
        role: String,
        /// When.
        at: Timestamp,
    },
    /// A release that devices would refuse, or that would change a published one.
    #[error("release {path} was refused: {why}")]
    Release {
        /// Its path.
        path: String,
        /// What is wrong.
        why: String,
    },
    /// The targets that are served would not be believed any more.
    #[error("with this root the targets that are served count for nothing ({0}): sign new targets too and publish both together")]
    Orphaned(#[source] ThresholdError),
    /// The root does not list the controller's key.
    #[error(
        "the root does not list this controller's {0} key: give it the key that the root names (into the folder next/ of its keys, then \
         restart it), or sign another root"
    )]
    WrongKey(&'static str),
    /// Nothing could be signed.
    #[error(transparent)]
    Sign(#[from] SignError),
}

/// The files of an image repository in memory, under the names they are served by.
#[derive(Debug, Clone)]
pub struct RepositoryState {
    files: BTreeMap<String, Vec<u8>>,
    client: Client,
}

impl RepositoryState {
    /// A new repository from what a ceremony signed.
    pub fn create(root: &[u8], targets: &[u8], signer: &OnlineSigner, now: Timestamp) -> Result<Self, RepositoryError> {
        let client = Client::new(root, Stored::default(), Timestamp::default()).map_err(RepositoryError::Root)?;
        let mut state = Self { files: BTreeMap::from([("1.root.json".to_owned(), root.to_vec())]), client };
        let document = Document::<Targets>::parse(targets, cap(MAX_TARGETS_BYTES))?;
        document.verify(&state.client.root().keys_of("targets"))?;
        expect_fresh("targets", &document.claims().header, now)?;
        state.publish("targets", document.version(), targets, signer, now)?;
        Ok(state)
    }

    /// Read a repository back, by served file name. Everything is verified; expiry is not looked at, [`Self::refresh`] cures it.
    pub fn open(files: BTreeMap<String, Vec<u8>>) -> Result<Self, RepositoryError> {
        let client = read_through(&files)?;
        Ok(Self { files, client })
    }

    /// One served file.
    pub fn file(&self, name: &str) -> Option<&[u8]> {
        self.files.get(name).map(Vec::as_slice)
    }

    /// Every served file by name.
    pub fn files(&self) -> &BTreeMap<String, Vec<u8>> {
        &self.files
    }

    /// The repository as a device sees it that asks at `now`.
    pub fn client_at(&self, now: Timestamp) -> Result<Client, TufError> {
        let root = self.file("1.root.json").unwrap_or_default();
        let mut client = Client::new(root, Stored::default(), now)?;
        client.run_over(&self.files)?;
        Ok(client)
    }

    /// The repository as it is, whether or not something in it has expired.
    pub fn contents(&self) -> &Client {
        &self.client
    }

    /// The current version of targets or of a line role, to build the next one on. Also when its keys were rotated out since, so
    /// that its content can be signed again by the new key.
    pub fn role(&self, role: &str) -> Option<Targets> {
        let version = self.next_version(role).checked_sub(1)?;
        let bytes = self.file(&versioned_name(role, version))?;
        Document::<Targets>::parse(bytes, cap(MAX_TARGETS_BYTES)).ok().map(|document| document.claims().clone())
    }

    /// The version that the next upload of a role must have.
    pub fn next_version(&self, role: &str) -> u64 {
        let listed = self.client.snapshot().and_then(|snapshot| snapshot.meta.get(&format!("{role}.json")));
        listed.map_or(0, |meta| meta.version).saturating_add(1)
    }

    /// Take in a new root: key rotation.
    pub fn accept_root(&mut self, bytes: &[u8], signer: &OnlineSigner, now: Timestamp) -> Result<Changes, RepositoryError> {
        self.accept_root_with(bytes, None, signer, now)
    }

    /// Take in a new root, and with it the targets that its targets keys signed: needed when so many targets keys change that
    /// the served targets would not be believed any more. Devices see both at once, or neither.
    pub fn accept_root_with(
        &mut self,
        bytes: &[u8],
        targets: Option<&[u8]>,
        signer: &OnlineSigner,
        now: Timestamp,
    ) -> Result<Changes, RepositoryError> {
        let root = Document::<Root>::parse(bytes, cap(MAX_ROOT_BYTES))?;
        expect_fresh("root", &root.claims().header, now)?;
        let name = format!("{}.root.json", self.client.root().header.version + 1);
        let mut next = self.clone();
        next.files.insert(name.clone(), bytes.to_vec());
        let mut chain = crate::trust::tuf::RootChain::new(self.file("1.root.json").unwrap_or_default(), self.newest_root())
            .map_err(RepositoryError::Root)?;
        chain.provide(bytes).map_err(RepositoryError::Root)?;
        // The old snapshot and timestamp may be signed by keys that are gone: both are signed anew before anything is read.
        let mut roles = self.client.snapshot().map(|snapshot| snapshot.meta.clone()).unwrap_or_default();
        let mut first = vec![Persist { file: name, bytes: bytes.to_vec() }];
        let keys = chain.root().keys_of("targets");
        let new = targets.map(|bytes| Document::<Targets>::parse(bytes, cap(MAX_TARGETS_BYTES))).transpose()?;
        if let Some(new) = &new {
            new.verify(&keys)?;
            self.expect_next("targets", new.version())?;
            expect_fresh("targets", &new.claims().header, now)?;
            let file = versioned_name("targets", new.version());
            roles.insert("targets.json".to_owned(), FileMeta::of(new.version(), new.bytes()));
            next.files.insert(file.clone(), new.bytes().to_vec());
            first.push(Persist { file, bytes: new.bytes().to_vec() });
        } else if let Some(served) = self.client.role("targets") {
            served.verify(&keys).map_err(RepositoryError::Orphaned)?;
        }
        let mut changes = next.sign_snapshot(roles, chain.root(), signer, now)?;
        if let Some(new) = &new {
            next.forget_older("targets", new.version(), &mut changes);
        }
        next.client = read_through(&next.files)?;
        changes.write.splice(0..0, first);
        *self = next;
        Ok(changes)
    }

    /// Take in new top-level targets: delegations or policy changed, or the old ones are about to expire.
    pub fn accept_targets(&mut self, bytes: &[u8], signer: &OnlineSigner, now: Timestamp) -> Result<Changes, RepositoryError> {
        let document = Document::<Targets>::parse(bytes, cap(MAX_TARGETS_BYTES))?;
        document.verify(&self.client.root().keys_of("targets"))?;
        self.expect_next("targets", document.version())?;
        expect_fresh("targets", &document.claims().header, now)?;
        self.publish("targets", document.version(), bytes, signer, now)
    }

    /// Take in a line role that a release key or a trainer key signed.
    pub fn accept_role(&mut self, role: &str, bytes: &[u8], signer: &OnlineSigner, now: Timestamp) -> Result<Accepted, RepositoryError> {
        let document = Document::<Targets>::parse(bytes, cap(MAX_TARGETS_BYTES))?;
        let top = self.client.role("targets").map(Document::claims);
        let no_such = || RepositoryError::NoSuchRole(role.chars().take(80).collect());
        let (_, keys) = top.and_then(|top| top.delegation(role)).ok_or_else(no_such)?;
        let new = document.verify(&keys)?;
        self.expect_next(role, document.version())?;
        expect_fresh(role, &new.header, now)?;
        let lines = &self.client.policy().lines;
        let line = lines.keys().find(|line| release_role(line) == role || trainer_role(line) == role).ok_or_else(no_such)?.clone();
        let auto = trainer_role(&line) == role;
        let added = self.added_releases(&line, role, auto, new)?;
        let changes = self.publish(role, document.version(), bytes, signer, now)?;
        Ok(Accepted { changes, line, auto, added })
    }

    /// Sign freshness anew: always a timestamp, and a snapshot when half of its life is over. To be called well within the
    /// timestamp's lifetime.
    pub fn refresh(&mut self, signer: &OnlineSigner, now: Timestamp) -> Result<Changes, RepositoryError> {
        let Some(snapshot) = self.client.snapshot() else { return Err(RepositoryError::Damaged(TufError::NotFresh)) };
        let left_ms = snapshot.header.expires.moment().millis_since(now);
        let (root, mut next) = (self.client.root(), self.clone());
        let changes = if left_ms < signer.lifetimes.snapshot_secs.saturating_mul(500) {
            next.sign_snapshot(snapshot.meta.clone(), root, signer, now)?
        } else {
            let version = snapshot.header.version;
            let bytes = self.file(&versioned_name("snapshot", version)).unwrap_or_default();
            next.sign_timestamp(FileMeta::of(version, bytes), root, signer, now)?
        };
        next.client = read_through(&next.files)?;
        *self = next;
        Ok(changes)
    }

    /// Releases that `new` lists and the current version does not; an error if one of them breaks a rule.
    fn added_releases(
        &self,
        line: &Line,
        role: &str,
        auto: bool,
        new: &Targets,
    ) -> Result<Vec<(String, Blob, TargetCustom)>, RepositoryError> {
        let fail = |path: &str, why: &str| Err(RepositoryError::Release { path: path.to_owned(), why: why.to_owned() });
        if new.delegations.is_some() {
            return fail(role, "a line role may not delegate");
        }
        let old = self.role(role);
        let newest = [release_role(line), trainer_role(line)].iter().filter_map(|r| self.role(r)).map(|targets| max_seq(&targets)).max();
        let grant = self.client.line_policy(line).and_then(|policy| policy.trainer.as_ref());
        let mut added = Vec::new();
        for (path, target) in &new.targets {
            if let Some(known) = old.as_ref().and_then(|old| old.targets.get(path)) {
                if known != target {
                    return fail(path, "a published release never changes: give it a new version");
                }
                continue;
            }
            let Some(custom) = target_custom(target) else { return fail(path, "its custom part is not the form this version reads") };
            if custom.line != *line || *path != target_path(line, auto, &custom.version) {
                return fail(path, &format!("its path should be {}", target_path(line, auto, &custom.version)));
            }
            if custom.seq <= newest.unwrap_or(0) {
                return fail(path, &format!("its seq {} is not above {}, the line's newest", custom.seq, newest.unwrap_or(0)));
            }
            if auto && grant.is_none_or(|grant| grant.role != role || grant.io != custom.io) {
                return fail(path, "the line's trainer is not granted models with these inputs and outputs");
            }
            let Some(digest) = target.sha256() else { return fail(path, "it has no sha256 digest") };
            added.push((path.clone(), Blob { digest, length: target.length }, custom));
        }
        let mut seqs: Vec<u64> = added.iter().map(|(_, _, custom)| custom.seq).collect();
        seqs.sort_unstable();
        match seqs.windows(2).any(|pair| pair.first() == pair.last()) {
            true => fail(role, "two new releases have the same seq"),
            false => Ok(added),
        }
    }

    fn expect_next(&self, role: &str, got: u64) -> Result<(), RepositoryError> {
        let expected = self.next_version(role);
        if got != expected {
            return Err(RepositoryError::Version { role: role.to_owned(), expected, got });
        }
        Ok(())
    }

    fn newest_root(&self) -> Option<&[u8]> {
        self.file(&format!("{}.root.json", self.client.root().header.version))
    }

    /// Put a checked document in place; all or nothing.
    fn publish(
        &mut self,
        role: &str,
        version: u64,
        bytes: &[u8],
        signer: &OnlineSigner,
        now: Timestamp,
    ) -> Result<Changes, RepositoryError> {
        let mut next = self.clone();
        let file = versioned_name(role, version);
        next.files.insert(file.clone(), bytes.to_vec());
        let mut meta = self.client.snapshot().map(|snapshot| snapshot.meta.clone()).unwrap_or_default();
        meta.insert(format!("{role}.json"), FileMeta::of(version, bytes));
        let mut changes = next.sign_snapshot(meta, self.client.root(), signer, now)?;
        changes.write.insert(0, Persist { file, bytes: bytes.to_vec() });
        next.forget_older(role, version, &mut changes);
        next.client = read_through(&next.files)?;
        *self = next;
        Ok(changes)
    }

    fn sign_snapshot(
        &mut self,
        meta: BTreeMap<String, FileMeta>,
        root: &Root,
        signer: &OnlineSigner,
        now: Timestamp,
    ) -> Result<Changes, RepositoryError> {
        if !root.keys_of("snapshot").contains(&signer.snapshot.public()) {
            return Err(RepositoryError::WrongKey("snapshot"));
        }
        let version = self.client.versions().snapshot + 1;
        let header = Header::new(SnapshotMeta::TYPE, version, now.plus_secs(signer.lifetimes.snapshot_secs));
        let bytes = metadata::sign(&SnapshotMeta { header, meta, rest: serde_json::Map::new() }, &[&signer.snapshot])?;
        let mut changes = self.sign_timestamp(FileMeta::of(version, &bytes), root, signer, now)?;
        let file = versioned_name("snapshot", version);
        changes.write.insert(0, Persist { file: file.clone(), bytes: bytes.clone() });
        self.files.insert(file, bytes);
        self.forget_older("snapshot", version, &mut changes);
        Ok(changes)
    }

    fn sign_timestamp(
        &mut self,
        snapshot: FileMeta,
        root: &Root,
        signer: &OnlineSigner,
        now: Timestamp,
    ) -> Result<Changes, RepositoryError> {
        if !root.keys_of("timestamp").contains(&signer.timestamp.public()) {
            return Err(RepositoryError::WrongKey("timestamp"));
        }
        let header = Header::new(TimestampMeta::TYPE, self.client.versions().timestamp + 1, now.plus_secs(signer.lifetimes.timestamp_secs));
        let meta = BTreeMap::from([("snapshot.json".to_owned(), snapshot)]);
        let bytes = metadata::sign(&TimestampMeta { header, meta, rest: serde_json::Map::new() }, &[&signer.timestamp])?;
        self.files.insert("timestamp.json".to_owned(), bytes.clone());
        Ok(Changes { write: vec![Persist { file: "timestamp.json".to_owned(), bytes }], remove: Vec::new() })
    }

    /// Each version of a role comes with a snapshot of its own, so what is this old is named by no snapshot that is kept.
    fn forget_older(&mut self, role: &str, version: u64, changes: &mut Changes) {
        let Some(old) = version.checked_sub(KEEP_VERSIONS) else { return };
        let file = versioned_name(role, old);
        if self.files.remove(&file).is_some() {
            changes.remove.push(file);
        }
    }
}

impl OnlineSigner {
    /// A device's assignment, signed; see [`crate::trust::director::sign`].
    pub fn sign_assignment(
        &self,
        assignment: &crate::assignment::Assignment,
        target: Option<&crate::trust::director::DirectedTarget>,
        now: Timestamp,
    ) -> Result<Vec<u8>, crate::trust::director::DirectError> {
        let expires = now.plus_secs(self.lifetimes.director_secs);
        crate::trust::director::sign(&assignment.device, assignment.generation, assignment, target, expires, &self.director)
    }
}

/// All of it through the client's eyes, at a moment when nothing has expired.
fn read_through(files: &BTreeMap<String, Vec<u8>>) -> Result<Client, RepositoryError> {
    let root = files.get("1.root.json").ok_or(RepositoryError::NoRoot)?;
    let mut client = Client::new(root, Stored::default(), Timestamp::default()).map_err(RepositoryError::Damaged)?;
    client.run_over(files).map_err(RepositoryError::Damaged)?;
    Ok(client)
}

fn expect_fresh(role: &str, header: &Header, now: Timestamp) -> Result<(), RepositoryError> {
    if header.expires.is_over(now) {
        return Err(RepositoryError::Expired { role: role.to_owned(), at: header.expires.moment() });
    }
    Ok(())
}

fn cap(max: u64) -> usize {
    usize::try_from(max).unwrap_or(usize::MAX)
}
