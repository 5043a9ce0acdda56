//! The TUF 1.0 client workflow without I/O: says which file it needs next, judges what it is given, says what to keep.
//!
//! Our own client and not the `tough` crate: measured, a small client like this passes more of the public conformance cases,
//! is a sixth of the size, needs no C, and leaves the store to the caller, who can make it survive a power cut. A caller loops:
//! [`Client::next`] → fetch at most `max_len` bytes from anywhere → [`Client::provide`] → make the returned files durable →
//! again, until [`Step::Done`]. Transport needs no trust: a wrong file is an error, the client stays as it was and asks again.
//!
//! What stays true:
//! * versions never go down, except where a key rotation in the root drops what the old key had signed (fast-forward recovery);
//! * a target comes out only after a complete, unexpired refresh ([`Client::target`]); what was stored stays readable for
//!   policy and versions, so that a device without network still knows what is revoked;
//! * a delegated role is judged by the delegator that is current *now*, also when it comes from the store;
//! * one delegated role that is broken or expired takes down its own paths and no other line's.
use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::metadata::{Document, Expires, FileMeta, LinePolicy, Policy, Root, SnapshotMeta, Targets, TimestampMeta, versioned_name};
use crate::digest::Digest;
use crate::ids::Line;
use crate::time::Timestamp;

mod chain;
mod error;
mod judge;
mod listed;
mod walk;
pub use chain::RootChain;
pub use error::TufError;
pub use listed::{ListedTarget, TargetCheck, TargetError};
use walk::Walk;
pub use walk::matches_pattern;

/// The longest root: dozens of keys and signatures fit.
pub const MAX_ROOT_BYTES: u64 = 512 << 10;
/// The longest timestamp: it lists one file.
pub const MAX_TIMESTAMP_BYTES: u64 = 16 << 10;
/// The longest snapshot, also when its parent names a longer one: about ten thousand roles.
pub const MAX_SNAPSHOT_BYTES: u64 = 2 << 20;
/// The longest targets document, also when its parent names a longer one: about ten thousand releases.
pub const MAX_TARGETS_BYTES: u64 = 4 << 20;
/// Root versions one refresh follows; a device that slept longer goes on at its next refresh.
pub const MAX_ROOT_HOPS: u32 = 256;
/// Delegations one refresh looks at: two for each of a few hundred lines.
pub const MAX_ROLES: usize = 512;

/// What was made durable earlier, by plain file name (`root.json`, `timestamp.json`, `snapshot.json`, `targets.json`,
/// `<role>.json`). Missing and damaged files are allowed: they are fetched again.
#[derive(Debug, Clone, Default)]
pub struct Stored(BTreeMap<String, Vec<u8>>);

impl Stored {
    /// Add one file as read from the disk.
    pub fn insert(&mut self, file: impl Into<String>, bytes: Vec<u8>) {
        self.0.insert(file.into(), bytes);
    }

    /// One file.
    pub fn file(&self, name: &str) -> Option<&[u8]> {
        self.0.get(name).map(Vec::as_slice)
    }

    /// Every file by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.0.iter().map(|(name, bytes)| (name.as_str(), bytes.as_slice()))
    }
}

impl FromIterator<(String, Vec<u8>)> for Stored {
    fn from_iter<I: IntoIterator<Item = (String, Vec<u8>)>>(files: I) -> Self {
        Self(files.into_iter().collect())
    }
}

/// A file that must be durable before the client is asked for its next step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Persist {
    /// Plain file name, safe as a path component.
    pub file: String,
    /// The received bytes, verbatim.
    pub bytes: Vec<u8>,
}

/// What the client wants next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// This file; stop reading after `max_len` bytes and one.
    Need {
        /// Its name in the repository, such as `2.root.json`, `timestamp.json`, `7.rain.json`.
        file: String,
        /// The most bytes it may have.
        max_len: u64,
        /// Whether "no such file" is a good answer (only for the next root).
        optional: bool,
    },
    /// The refresh is complete; targets can be asked for.
    Done,
}

/// A target file that the image repository lists, found by a complete refresh. Made only by [`Client::target`].
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct VerifiedTarget {
    /// Its path.
    pub path: String,
    /// Its exact length.
    pub length: u64,
    /// Its digest.
    pub sha256: Digest,
    /// What its signer says about it.
    pub custom: Option<Value>,
    /// The role that lists it.
    pub role: String,
    /// That role's version.
    pub role_version: u64,
}

/// The versions that are trusted now; 0 where there is none yet.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Versions {
    /// Root.
    pub root: u64,
    /// Timestamp.
    pub timestamp: u64,
    /// Snapshot.
    pub snapshot: u64,
    /// Top-level targets.
    pub targets: u64,
    /// Delegated roles that were loaded.
    pub roles: BTreeMap<String, u64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Root,
    Timestamp,
    Snapshot,
    Targets,
    Delegated,
    Done,
}

/// One repository as one client sees it.
#[derive(Debug, Clone)]
pub struct Client {
    now: Timestamp,
    stored: Stored,
    phase: Phase,
    chain: RootChain,
    timestamp: Option<Document<TimestampMeta>>,
    snapshot: Option<Document<SnapshotMeta>>,
    targets: Option<Document<Targets>>,
    policy: Policy,
    delegated: BTreeMap<String, Document<Targets>>,
    failures: BTreeMap<String, TufError>,
    /// By role, then by the delegator that led to it.
    refused: BTreeMap<String, BTreeMap<String, TufError>>,
    wanted: Wanted,
}

/// Which delegated roles a refresh loads.
#[derive(Debug, Clone)]
enum Wanted {
    EveryRole,
    /// Those that may list one of these paths.
    Paths(BTreeSet<String>),
}

impl Client {
    /// Start a refresh at `now`. `trusted_root` came with the device; a newer root in `stored` is preferred to it.
    pub fn new(trusted_root: &[u8], stored: Stored, now: Timestamp) -> Result<Self, TufError> {
        let chain = RootChain::new(trusted_root, stored.file("root.json"))?;
        let mut client = Self {
            now,
            stored,
            phase: Phase::Root,
            chain,
            timestamp: None,
            snapshot: None,
            targets: None,
            policy: Policy::default(),
            delegated: BTreeMap::new(),
            failures: BTreeMap::new(),
            refused: BTreeMap::new(),
            wanted: Wanted::EveryRole,
        };
        client.load_stored();
        Ok(client)
    }

    /// Load no delegated role until [`Client::only_for`] names a path: a refresh of the four top-level roles.
    pub fn on_demand(&mut self) {
        if matches!(self.wanted, Wanted::EveryRole) {
            self.wanted = Wanted::Paths(BTreeSet::new());
            self.settle();
        }
    }

    /// Load only the roles that may list `path` (callable for several paths). Without it every delegated role is loaded.
    /// What a device does: its own line's trouble is then the only trouble it has.
    pub fn only_for(&mut self, path: &str) {
        self.on_demand();
        if let Wanted::Paths(paths) = &mut self.wanted {
            paths.insert(path.to_owned());
        }
        if self.phase == Phase::Done {
            self.phase = Phase::Delegated;
        }
        self.settle();
    }

    /// Begin another refresh at `now`, from what is trusted.
    pub fn refresh(&mut self, now: Timestamp) {
        self.now = now;
        self.phase = Phase::Root;
        self.chain.restart();
        self.delegated.clear();
        self.failures.clear();
        self.refused.clear();
    }

    /// The file that is needed next.
    pub fn next(&self) -> Step {
        let versioned = |role: &str, meta: &FileMeta, cap: u64| Step::Need {
            file: versioned_name(role, meta.version),
            max_len: meta.length.unwrap_or(cap).min(cap),
            optional: false,
        };
        match self.phase {
            Phase::Root => Step::Need { file: self.chain.next_file(), max_len: MAX_ROOT_BYTES, optional: true },
            Phase::Timestamp => Step::Need { file: "timestamp.json".to_owned(), max_len: MAX_TIMESTAMP_BYTES, optional: false },
            Phase::Snapshot => self.snapshot_meta().map_or(Step::Done, |meta| versioned("snapshot", meta, MAX_SNAPSHOT_BYTES)),
            Phase::Targets => self.role_meta("targets").map_or(Step::Done, |meta| versioned("targets", meta, MAX_TARGETS_BYTES)),
            Phase::Delegated => match self.missing() {
                Some((_, role)) => self.role_meta(&role).map_or(Step::Done, |meta| versioned(&role, meta, MAX_TARGETS_BYTES)),
                None => Step::Done,
            },
            Phase::Done => Step::Done,
        }
    }

    /// Judge the file that [`Client::next`] named; `None` means that the repository has no such file. What is returned must be
    /// durable before the next step. After an error the client is as before and asks for the same file again.
    pub fn provide(&mut self, file: &str, bytes: Option<&[u8]>) -> Result<Vec<Persist>, TufError> {
        match self.next() {
            Step::Need { file: expected, .. } if expected == file => {}
            Step::Need { file: expected, .. } => return Err(TufError::Unexpected { expected, got: file.to_owned() }),
            Step::Done => return Err(TufError::Unexpected { expected: "nothing".to_owned(), got: file.to_owned() }),
        }
        let persist = match (self.phase, bytes) {
            (Phase::Root, None) => self.end_root_chain()?,
            (Phase::Root, Some(bytes)) => vec![self.chain.provide(bytes)?],
            (Phase::Delegated, bytes) => self.take_delegated(file, bytes),
            (_, None) => return Err(TufError::Missing { file: file.to_owned() }),
            (Phase::Timestamp, Some(bytes)) => self.take_timestamp(bytes)?,
            (Phase::Snapshot, Some(bytes)) => self.take_snapshot(file, bytes)?,
            (Phase::Targets, Some(bytes)) => self.take_targets(file, bytes)?,
            (Phase::Done, Some(_)) => Vec::new(),
        };
        for Persist { file, bytes } in &persist {
            self.stored.insert(file, bytes.clone());
        }
        self.settle();
        Ok(persist)
    }

    /// The whole loop over files that are all at hand: a bundle, a repository in memory. Returns what to keep, in order.
    pub fn run_over(&mut self, files: &BTreeMap<String, Vec<u8>>) -> Result<Vec<Persist>, TufError> {
        let mut persist = Vec::new();
        // One round per file at most: every root hop, three top-level files, every role, and the missing next root.
        for _ in 0..MAX_ROOT_HOPS as usize + MAX_ROLES + 8 {
            match self.next() {
                Step::Need { file, .. } => persist.extend(self.provide(&file, files.get(&file).map(Vec::as_slice))?),
                Step::Done => return Ok(persist),
            }
        }
        Err(TufError::NotFresh)
    }

    /// The target at `path`, if the repository lists it with a SHA-256, which is what Leeway installs by; an error while the
    /// refresh is not complete, or if a role that speaks for this path could not be trusted.
    pub fn target(&self, path: &str) -> Result<Option<VerifiedTarget>, TufError> {
        Ok(self.listed(path)?.and_then(|listed| {
            let (sha256, ListedTarget { path, length, custom, role, role_version, .. }) = (listed.digests.sha256()?, listed);
            Some(VerifiedTarget { path, length, sha256, custom, role, role_version })
        }))
    }

    /// The same for any program: a target with whatever digests it is listed with.
    pub fn listed(&self, path: &str) -> Result<Option<ListedTarget>, TufError> {
        if self.phase != Phase::Done {
            return Err(TufError::NotFresh);
        }
        match self.walk(path) {
            Walk::Absent => Ok(None),
            Walk::Failed(error) => Err(error),
            Walk::Missing { role, .. } => Err(TufError::NotLoaded { role, path: path.to_owned() }),
            Walk::Found { role, version, target } => Ok(ListedTarget::new(path, role, version, target)),
        }
    }

    /// Every target that can be found, by path; paths whose role is in trouble are left out (see [`Client::failures`]).
    pub fn all_targets(&self) -> Vec<VerifiedTarget> {
        let top = self.targets.iter().map(Document::claims);
        let paths: BTreeSet<&String> = top.chain(self.delegated.values().map(Document::claims)).flat_map(|t| t.targets.keys()).collect();
        paths.into_iter().filter_map(|path| self.target(path).ok().flatten()).collect()
    }

    /// The policy of a line in the top-level targets that are trusted now, fresh or stored.
    pub fn line_policy(&self, line: &Line) -> Option<&LinePolicy> {
        self.policy.lines.get(line)
    }

    /// The policy of every line.
    pub fn policy(&self) -> &Policy {
        &self.policy
    }

    /// Delegated roles that could not be trusted in this refresh by the word of a delegator, and why.
    pub fn failures(&self) -> &BTreeMap<String, TufError> {
        &self.failures
    }

    /// Whether the refresh is complete.
    pub fn is_fresh(&self) -> bool {
        self.phase == Phase::Done
    }

    /// The top-level targets, or a delegated role, that is trusted now.
    pub fn role(&self, role: &str) -> Option<&Document<Targets>> {
        self.loaded(role)
    }

    /// The snapshot that is trusted now.
    pub fn snapshot(&self) -> Option<&SnapshotMeta> {
        self.snapshot.as_ref().map(Document::claims)
    }

    /// The root that is trusted now.
    pub fn root(&self) -> &Root {
        self.chain.root()
    }

    /// The versions that are trusted now, fresh or stored.
    pub fn versions(&self) -> Versions {
        Versions {
            root: self.root().header.version,
            timestamp: self.timestamp.as_ref().map_or(0, Document::version),
            snapshot: self.snapshot.as_ref().map_or(0, Document::version),
            targets: self.targets.as_ref().map_or(0, Document::version),
            roles: self.delegated.iter().map(|(role, document)| (role.clone(), document.version())).collect(),
        }
    }

    /// The moment from which nothing new can be installed unless a refresh succeeds: the earliest expiry of what is trusted.
    pub fn expires(&self) -> Timestamp {
        let mut all = vec![self.root().header.expires];
        all.extend(self.timestamp.as_ref().map(|d| d.claims().header.expires));
        all.extend(self.snapshot.as_ref().map(|d| d.claims().header.expires));
        all.extend(self.targets.as_ref().map(|d| d.claims().header.expires));
        all.into_iter().min().map_or(Timestamp::default(), Expires::moment)
    }
}

#[cfg(test)]
mod tests;
