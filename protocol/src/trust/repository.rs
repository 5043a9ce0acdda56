//! The signing side: roots, targets with delegations and policy, line roles, snapshots and timestamps, all as bytes.
//!
//! Three kinds of hands use it. People offline: [`ceremony`], [`RootBuilder`], [`TargetsBuilder`]. A release machine or a
//! trainer, with one key: [`RoleBuilder`]. The controller, with the online keys only: [`RepositoryState`], which takes in what
//! the others signed, after the same checks that a device makes, and re-signs snapshot and timestamp.
//!
//! What stays true: a published version never changes its digest; every document here is one that our own client and other
//! TUF clients read; no function here draws a key, seeds are handed in.
use std::collections::BTreeMap;

use serde_json::Map;

use super::keyring::{PublicKey, SigningKey};
use super::metadata::{
    self, DelegatedRole, Delegations, Header, Key, LinePolicy, Role, RoleKeys, Root, SignError, TargetMeta, Targets, TrainerGrant,
};
use crate::assignment::target_path;
use crate::digest::Digest;
use crate::ids::Line;
use crate::manifest::{Blob, TargetCustom};
use crate::time::Timestamp;

mod ceremony;
mod state;
pub use ceremony::{Ceremony, CeremonyKey, Custody, LineGrant, ceremony};
pub use state::{Accepted, Changes, KEEP_VERSIONS, OnlineSigner, RepositoryError, RepositoryState};

/// How long each kind of document is believed, in seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lifetimes {
    /// Roots: renewed by people once a year.
    pub root_secs: i64,
    /// Top-level targets: renewed by people each quarter.
    pub targets_secs: i64,
    /// Line roles: renewed with a release, or each quarter.
    pub role_secs: i64,
    /// Snapshots: renewed by the controller.
    pub snapshot_secs: i64,
    /// Timestamps: how long a frozen repository can stay unnoticed.
    pub timestamp_secs: i64,
    /// A device's assignment.
    pub director_secs: i64,
}

const DAY_SECS: i64 = 86_400;

impl Default for Lifetimes {
    fn default() -> Self {
        Self {
            root_secs: 365 * DAY_SECS,
            targets_secs: 90 * DAY_SECS,
            role_secs: 90 * DAY_SECS,
            snapshot_secs: 7 * DAY_SECS,
            timestamp_secs: DAY_SECS,
            director_secs: 7 * DAY_SECS,
        }
    }
}

/// The name of a line's release role.
pub fn release_role(line: &Line) -> String {
    line.to_string()
}

/// The name of a line's trainer role.
pub fn trainer_role(line: &Line) -> String {
    format!("{line}-auto")
}

/// The paths a release role may list.
pub fn release_paths(line: &Line) -> String {
    format!("models/{line}/release/*")
}

/// The paths a trainer role may list.
pub fn trainer_paths(line: &Line) -> String {
    format!("models/{line}/auto/*")
}

/// Makes a root.
#[derive(Debug, Clone)]
pub struct RootBuilder(Root);

impl RootBuilder {
    /// The first root of a repository. All four roles must be named before it can be signed.
    pub fn new(expires: Timestamp) -> Self {
        let header = Header::new(Root::TYPE, 1, expires);
        Self(Root { header, consistent_snapshot: true, keys: BTreeMap::new(), roles: BTreeMap::new(), rest: Map::new() })
    }

    /// The root after `previous`. Sign it with enough of the old *and* of the new root keys.
    pub fn after(previous: &Root, expires: Timestamp) -> Self {
        let mut root = previous.clone();
        root.header = Header::new(Root::TYPE, previous.header.version + 1, expires);
        Self(root)
    }

    /// Let `threshold` of `keys` sign for `role`, in place of whoever did.
    #[must_use]
    pub fn role(mut self, role: &str, keys: &[PublicKey], threshold: u32) -> Self {
        self.0.roles.insert(role.to_owned(), role_keys(keys, threshold));
        self.0.keys.extend(keys.iter().map(|key| (key.key_id(), Key::of(key))));
        let roles = &self.0.roles;
        self.0.keys.retain(|id, _| roles.values().any(|role| role.keyids.contains(id)));
        self
    }

    /// The signed bytes.
    pub fn sign(&self, keys: &[&SigningKey]) -> Result<Vec<u8>, SignError> {
        metadata::sign(&self.0, keys)
    }
}

/// Makes top-level targets: the delegations and the policy of every line, and no target of its own.
#[derive(Debug, Clone)]
pub struct TargetsBuilder {
    targets: Targets,
    policy: metadata::Policy,
}

impl TargetsBuilder {
    /// The first version.
    pub fn new(expires: Timestamp) -> Self {
        Self { targets: Targets::new(1, expires), policy: metadata::Policy::default() }
    }

    /// The version after `previous`, with everything that is in it.
    pub fn after(previous: &Targets, expires: Timestamp) -> Result<Self, metadata::MetadataError> {
        let mut targets = previous.clone();
        targets.header = Header::new(Targets::TYPE, previous.header.version + 1, expires);
        Ok(Self { policy: previous.policy()?, targets })
    }

    /// Let `threshold` of `keys` release for `line`, in place of whoever did.
    #[must_use]
    pub fn line(mut self, line: &Line, keys: &[PublicKey], threshold: u32) -> Self {
        self.policy.lines.entry(line.clone()).or_default();
        self.delegate(&release_role(line), &release_paths(line), keys, threshold);
        self
    }

    /// Let a trainer release for `line` without a person: models with exactly this [`crate::manifest::Manifest::io_digest`].
    /// Without `io` the role exists, but devices accept nothing from it until it is granted.
    #[must_use]
    pub fn trainer(mut self, line: &Line, keys: &[PublicKey], io: Option<Digest>) -> Self {
        let role = trainer_role(line);
        self.delegate(&role, &trainer_paths(line), keys, 1);
        self.policy.lines.entry(line.clone()).or_default().trainer = io.map(|io| TrainerGrant { role, io });
        self
    }

    /// Grant the trainer of `line`, whose keys are already listed, models with this signature of inputs and outputs.
    #[must_use]
    pub fn grant_trainer(mut self, line: &Line, io: Digest) -> Self {
        let role = trainer_role(line);
        self.policy.lines.entry(line.clone()).or_default().trainer = Some(TrainerGrant { role, io });
        self
    }

    /// Take the grant of a line's trainer back: its releases stop being installable, the released ones too.
    #[must_use]
    pub fn revoke_trainer(mut self, line: &Line) -> Self {
        let role = trainer_role(line);
        if let Some(delegations) = &mut self.targets.delegations {
            delegations.roles.retain(|delegated| delegated.name != role);
        }
        self.drop_unused_keys();
        self.policy.lines.entry(line.clone()).or_default().trainer = None;
        self
    }

    /// Change a line's floor or revoked releases.
    #[must_use]
    pub fn policy(mut self, line: &Line, edit: impl FnOnce(&mut LinePolicy)) -> Self {
        edit(self.policy.lines.entry(line.clone()).or_default());
        self
    }

    /// The signed bytes.
    pub fn sign(&self, keys: &[&SigningKey]) -> Result<Vec<u8>, SignError> {
        let mut targets = self.targets.clone();
        targets.custom = Some(self.policy.write_into(targets.custom.take()));
        metadata::sign(&targets, keys)
    }

    fn delegate(&mut self, name: &str, paths: &str, keys: &[PublicKey], threshold: u32) {
        let empty = || Delegations { keys: BTreeMap::new(), roles: Vec::new(), rest: Map::new() };
        let delegations = self.targets.delegations.get_or_insert_with(empty);
        let role = DelegatedRole {
            name: name.to_owned(),
            keys: role_keys(keys, threshold),
            terminating: true,
            paths: Some(vec![paths.to_owned()]),
            path_hash_prefixes: None,
        };
        delegations.keys.extend(keys.iter().map(|key| (key.key_id(), Key::of(key))));
        match delegations.roles.iter_mut().find(|delegated| delegated.name == name) {
            Some(delegated) => *delegated = role,
            None => delegations.roles.push(role),
        }
        self.drop_unused_keys();
    }

    fn drop_unused_keys(&mut self) {
        if let Some(Delegations { keys, roles, .. }) = &mut self.targets.delegations {
            keys.retain(|id, _| roles.iter().any(|role| role.keys.keyids.contains(id)));
        }
    }
}

/// Makes a line role: the releases of one line, signed by its release key or its trainer's.
#[derive(Debug, Clone)]
pub struct RoleBuilder {
    targets: Targets,
    auto: bool,
}

impl RoleBuilder {
    /// The first version of a release role, or, with `auto`, of a trainer role.
    pub fn new(auto: bool, expires: Timestamp) -> Self {
        Self { targets: Targets::new(1, expires), auto }
    }

    /// The version after `previous`, which the controller serves, with everything that is in it.
    pub fn after(previous: &Targets, auto: bool, expires: Timestamp) -> Self {
        let mut targets = previous.clone();
        targets.header = Header::new(Targets::TYPE, previous.header.version + 1, expires);
        Self { targets, auto }
    }

    /// List a model. Its path follows from line, kind of role and version.
    #[must_use]
    pub fn add(mut self, model: &Blob, custom: &TargetCustom) -> Self {
        // Names, numbers and digests always have a JSON form.
        let value = serde_json::to_value(custom).ok();
        let path = target_path(&custom.line, self.auto, &custom.version);
        self.targets.targets.insert(path, TargetMeta::new(model.digest, model.length, value));
        self
    }

    /// Stop listing a path: it cannot be installed any more. To stop it where it runs, revoke it in the policy.
    #[must_use]
    pub fn withdraw(mut self, path: &str) -> Self {
        self.targets.targets.remove(path);
        self
    }

    /// The highest `seq` listed; the next release takes a higher one.
    pub fn max_seq(&self) -> u64 {
        max_seq(&self.targets)
    }

    /// The signed bytes.
    pub fn sign(&self, keys: &[&SigningKey]) -> Result<Vec<u8>, SignError> {
        metadata::sign(&self.targets, keys)
    }
}

/// The highest `seq` that a line role lists; 0 if none.
pub fn max_seq(role: &Targets) -> u64 {
    role.targets.values().filter_map(target_custom).map(|custom| custom.seq).max().unwrap_or(0)
}

/// What a model's target says about it, if it says it in our form.
pub(in crate::trust) fn target_custom(target: &TargetMeta) -> Option<TargetCustom> {
    use serde::Deserialize as _;
    TargetCustom::deserialize(target.custom.as_ref()?).ok().filter(|custom| custom.v == 1)
}

fn role_keys(keys: &[PublicKey], threshold: u32) -> RoleKeys {
    RoleKeys { keyids: keys.iter().map(PublicKey::key_id).collect(), threshold }
}

#[cfg(test)]
mod tests;
