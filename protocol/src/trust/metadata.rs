//! TUF 1.0 metadata as types: root, timestamp, snapshot, targets with delegations and `custom`.
//!
//! JSON as every TUF tool reads it, so that the repository can be checked by programs that are not ours. Unknown fields are
//! kept (they are signed, and a newer writer may need them). What stays true: a [`Document`] holds the received bytes verbatim
//! and gives its content away only against a [`KeySet`] whose threshold of *distinct keys* it meets.
use std::collections::{BTreeMap, BTreeSet};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::canonical::{CanonicalError, JsonError};
use super::keyring::KeyId;
use crate::digest::Digest;
use crate::time::Timestamp;

mod digests;
mod keys;
mod policy;
mod signed;
pub use digests::{DigestCheck, Digests};
pub use keys::{Key, KeyValue, RoleKeys};
pub use policy::{LinePolicy, MAX_REVOKED, Policy, TrainerGrant};
pub use signed::{Document, KeySet, SignError, ThresholdError, add_signature, sign};

/// The four roles that every repository has; a delegated role may not take one of these names.
pub const TOP_LEVEL: [&str; 4] = ["root", "timestamp", "snapshot", "targets"];
/// What this code writes, and reads in any patch version.
pub const SPEC_VERSION: &str = "1.0.31";
/// Keys or signatures one role may list: more than any ceremony, few enough to check on a small device.
pub const MAX_KEYS: usize = 64;
/// Delegations one targets document may hold: two per model line.
pub const MAX_DELEGATIONS: usize = 512;
/// The longest file name a role may lead to: file systems take 255 bytes, and a version or a suffix may be added.
pub const MAX_FILE_NAME: usize = 200;

/// Why a document is not metadata.
#[derive(Debug, thiserror::Error)]
pub enum MetadataError {
    /// Too long, or not strict JSON.
    #[error(transparent)]
    Json(#[from] JsonError),
    /// No canonical form.
    #[error(transparent)]
    Canonical(#[from] CanonicalError),
    /// Not of the shape that the specification gives.
    #[error("not TUF metadata of the type {expected}: {source}")]
    Shape {
        /// The type that was wanted.
        expected: &'static str,
        /// What the reader said.
        source: serde_json::Error,
    },
    /// The signed part says that it is something else.
    #[error("its signed part says it is {got:?}, expected {expected:?}")]
    Type {
        /// The type that was wanted.
        expected: &'static str,
        /// The type it claims.
        got: String,
    },
    /// Another major or minor version of the specification.
    #[error("specification version {0:?} is not supported: expected 1.0.x")]
    Spec(String),
    /// A rule of the specification is broken.
    #[error("{0}")]
    Rule(String),
}

/// What the four types of metadata have in common.
pub trait Role: Serialize + DeserializeOwned + Clone + std::fmt::Debug {
    /// The value of `_type`.
    const TYPE: &'static str;
    /// The fields that every type has.
    fn header(&self) -> &Header;
    /// The rules beyond the shape.
    fn check(&self) -> Result<(), MetadataError>;
}

/// The fields that every type of metadata has.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Header {
    /// `root`, `timestamp`, `snapshot` or `targets`; inside the signature, so one cannot be served as another.
    #[serde(rename = "_type")]
    pub kind: String,
    /// Version of the specification.
    pub spec_version: String,
    /// Rises with every change.
    pub version: u64,
    /// After this moment it is not believed any more; whole seconds, `Z`.
    pub expires: Expires,
}

impl Header {
    /// The header of a new document of type `kind`.
    pub fn new(kind: &str, version: u64, expires: Timestamp) -> Self {
        let (kind, spec_version) = (kind.to_owned(), SPEC_VERSION.to_owned());
        Self { kind, spec_version, version, expires: Expires::at(expires) }
    }

    fn check(&self, expected: &'static str) -> Result<(), MetadataError> {
        if self.kind != expected {
            return Err(MetadataError::Type { expected, got: self.kind.chars().take(40).collect() });
        }
        let parts: Vec<Option<u32>> = self.spec_version.split('.').map(|part| part.parse().ok()).collect();
        if !matches!(parts.as_slice(), [Some(1), Some(0)] | [Some(1), Some(0), Some(_)]) {
            return Err(MetadataError::Spec(self.spec_version.chars().take(40).collect()));
        }
        if self.version == 0 {
            return rule("the version is 0: versions start at 1");
        }
        Ok(())
    }
}

/// When a document stops being believed: exactly `YYYY-MM-DDTHH:MM:SSZ`, the only form other TUF tools read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Expires(Timestamp);

impl Expires {
    /// `at`, cut to the whole second.
    pub fn at(at: Timestamp) -> Self {
        Self(Timestamp::from_secs(at.as_millis() / 1000))
    }

    /// The moment.
    pub fn moment(self) -> Timestamp {
        self.0
    }

    /// Is it over at `now`?
    pub fn is_over(self, now: Timestamp) -> bool {
        self.0 <= now
    }
}
impl TryFrom<String> for Expires {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        let at: Timestamp = text.parse().map_err(|e: crate::time::TimeError| e.to_string())?;
        let expires = Self::at(at);
        if expires.0.to_string() != text {
            return Err(format!("{text:?} is not a moment of the form 2026-11-23T05:00:00Z"));
        }
        Ok(expires)
    }
}
impl From<Expires> for String {
    fn from(expires: Expires) -> String {
        expires.0.to_string()
    }
}

/// Who may sign for the four top-level roles.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Root {
    /// Type, version, expiry.
    #[serde(flatten)]
    pub header: Header,
    /// Whether file names carry versions.
    #[serde(default)]
    pub consistent_snapshot: bool,
    /// Every key by its id.
    pub keys: BTreeMap<KeyId, Key>,
    /// The four roles.
    pub roles: BTreeMap<String, RoleKeys>,
    /// Fields of other tools.
    #[serde(flatten)]
    pub rest: Map<String, Value>,
}

impl Root {
    /// The keys of a top-level role.
    pub fn keys_of<'a>(&'a self, role: &'a str) -> KeySet<'a> {
        match self.roles.get(role) {
            Some(keys) => keys.resolve(role, &self.keys),
            // `check` has refused a root without the four roles; an unknown name has no key and can never be met.
            None => KeySet::new(role, BTreeMap::new(), u32::MAX),
        }
    }
}

impl Role for Root {
    const TYPE: &'static str = "root";
    fn header(&self) -> &Header {
        &self.header
    }
    fn check(&self) -> Result<(), MetadataError> {
        for name in TOP_LEVEL {
            match self.roles.get(name) {
                Some(keys) => keys.check(name)?,
                None => return rule(format!("the root lists no keys for role {name}")),
            }
        }
        if !self.consistent_snapshot {
            return rule("consistent_snapshot is off: only repositories with versioned file names are read");
        }
        Ok(())
    }
}

/// What a file must be, as its parent lists it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FileMeta {
    /// The version it must have.
    pub version: u64,
    /// The most bytes it may have.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub length: Option<u64>,
    /// Digests by algorithm.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hashes: Option<BTreeMap<String, String>>,
    /// Fields of other tools.
    #[serde(flatten)]
    pub rest: Map<String, Value>,
}

impl FileMeta {
    /// Lists exactly these bytes in this version.
    pub fn of(version: u64, bytes: &[u8]) -> Self {
        let hashes = BTreeMap::from([("sha256".to_owned(), Digest::of(bytes).hex())]);
        Self { version, length: Some(bytes.len() as u64), hashes: Some(hashes), rest: Map::new() }
    }

    /// The SHA-256 it lists, if it lists one.
    pub fn sha256(&self) -> Option<Digest> {
        Digest::from_hex(self.hashes.as_ref()?.get("sha256")?).ok()
    }

    /// Do these bytes have every digest that is listed? If none is, any bytes do.
    pub fn matches(&self, bytes: &[u8]) -> bool {
        self.hashes.as_ref().is_none_or(|hashes| Digests::read(hashes).is_some_and(|digests| digests.match_bytes(bytes)))
    }

    fn check(&self, name: &str) -> Result<(), MetadataError> {
        if self.version == 0 {
            return rule(format!("{name} is listed with version 0"));
        }
        if self.hashes.as_ref().is_some_and(|hashes| Digests::read(hashes).is_none()) {
            return rule(format!("{name} is listed with digests, but with no sha256 or sha512 that can be read"));
        }
        Ok(())
    }
}

/// Which snapshot is the newest; short-lived.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TimestampMeta {
    /// Type, version, expiry.
    #[serde(flatten)]
    pub header: Header,
    /// `snapshot.json`.
    pub meta: BTreeMap<String, FileMeta>,
    /// Fields of other tools.
    #[serde(flatten)]
    pub rest: Map<String, Value>,
}

impl TimestampMeta {
    /// What the snapshot must be.
    pub fn snapshot(&self) -> Option<&FileMeta> {
        self.meta.get("snapshot.json")
    }
}

impl Role for TimestampMeta {
    const TYPE: &'static str = "timestamp";
    fn header(&self) -> &Header {
        &self.header
    }
    fn check(&self) -> Result<(), MetadataError> {
        match self.snapshot() {
            Some(meta) if self.meta.len() == 1 => meta.check("snapshot.json"),
            _ => rule("a timestamp lists snapshot.json and nothing else"),
        }
    }
}

/// The versions of all targets documents that belong together.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SnapshotMeta {
    /// Type, version, expiry.
    #[serde(flatten)]
    pub header: Header,
    /// By file name without version: `targets.json`, `<role>.json`.
    pub meta: BTreeMap<String, FileMeta>,
    /// Fields of other tools.
    #[serde(flatten)]
    pub rest: Map<String, Value>,
}

impl Role for SnapshotMeta {
    const TYPE: &'static str = "snapshot";
    fn header(&self) -> &Header {
        &self.header
    }
    fn check(&self) -> Result<(), MetadataError> {
        if !self.meta.contains_key("targets.json") {
            return rule("the snapshot does not list targets.json");
        }
        self.meta.iter().try_for_each(|(name, meta)| meta.check(name))
    }
}

/// Targets and delegations: the top-level role, a delegated role, or a director's document for one device.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Targets {
    /// Type, version, expiry.
    #[serde(flatten)]
    pub header: Header,
    /// By path.
    pub targets: BTreeMap<String, TargetMeta>,
    /// Roles that speak for some of the paths.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delegations: Option<Delegations>,
    /// Line policy at the top level, the device at a director.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub custom: Option<Value>,
    /// Fields of other tools.
    #[serde(flatten)]
    pub rest: Map<String, Value>,
}

/// One target file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TargetMeta {
    /// Exact length.
    pub length: u64,
    /// Digests by algorithm; Leeway installs by `sha256` only.
    pub hashes: BTreeMap<String, String>,
    /// What the signer says about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub custom: Option<Value>,
    /// Fields of other tools.
    #[serde(flatten)]
    pub rest: Map<String, Value>,
}

impl TargetMeta {
    /// Lists a file.
    pub fn new(digest: Digest, length: u64, custom: Option<Value>) -> Self {
        let hashes = BTreeMap::from([("sha256".to_owned(), digest.hex())]);
        Self { length, hashes, custom, rest: Map::new() }
    }

    /// The SHA-256, if that is listed; repositories of other people may list a SHA-512 alone.
    pub fn sha256(&self) -> Option<Digest> {
        Digest::from_hex(self.hashes.get("sha256")?).ok()
    }
}

/// Roles that speak for some of the paths.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Delegations {
    /// Every key by its id.
    pub keys: BTreeMap<KeyId, Key>,
    /// In order: the first that fits is asked first.
    pub roles: Vec<DelegatedRole>,
    /// Fields of other tools.
    #[serde(flatten)]
    pub rest: Map<String, Value>,
}

/// One delegation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DelegatedRole {
    /// Its name, hence its file name.
    pub name: String,
    /// Its keys and threshold.
    #[serde(flatten)]
    pub keys: RoleKeys,
    /// If it does not list a path it speaks for, nobody else is asked.
    pub terminating: bool,
    /// Patterns over paths; `*` and `?` do not cross `/`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub paths: Option<Vec<String>>,
    /// Or prefixes of the hex SHA-256 of the path.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path_hash_prefixes: Option<Vec<String>>,
}

impl Targets {
    /// A targets document without content.
    pub fn new(version: u64, expires: Timestamp) -> Self {
        let header = Header::new(Self::TYPE, version, expires);
        Self { header, targets: BTreeMap::new(), delegations: None, custom: None, rest: Map::new() }
    }

    /// The delegation to `role`, and its usable keys.
    pub fn delegation(&self, role: &str) -> Option<(&DelegatedRole, KeySet<'_>)> {
        let delegations = self.delegations.as_ref()?;
        let delegated = delegations.roles.iter().find(|d| d.name == role)?;
        Some((delegated, delegated.keys.resolve(&delegated.name, &delegations.keys)))
    }

    /// The line policy in `custom`.
    pub fn policy(&self) -> Result<Policy, MetadataError> {
        Policy::read(self.custom.as_ref())
    }
}

impl Role for Targets {
    const TYPE: &'static str = "targets";
    fn header(&self) -> &Header {
        &self.header
    }
    fn check(&self) -> Result<(), MetadataError> {
        if let Some((path, _)) = self.targets.iter().find(|(_, target)| Digests::read(&target.hashes).is_none()) {
            return rule(format!("target {path:?} has no sha256 or sha512 digest that can be read"));
        }
        let roles = self.delegations.as_ref().map_or(&[][..], |d| &d.roles);
        if roles.len() > MAX_DELEGATIONS {
            return rule(format!("{} delegations are more than the {MAX_DELEGATIONS} allowed", roles.len()));
        }
        let mut names = BTreeSet::new();
        for role in roles {
            if role.name.is_empty() || TOP_LEVEL.contains(&role.name.as_str()) {
                return rule(format!("a delegated role may not be named {:?}", role.name));
            }
            if file_name(&role.name).len() > MAX_FILE_NAME {
                return rule(format!("the name of a delegated role gives a file name of more than {MAX_FILE_NAME} bytes"));
            }
            if !names.insert(&role.name) {
                return rule(format!("role {:?} is delegated to twice", role.name));
            }
            if role.paths.is_some() == role.path_hash_prefixes.is_some() {
                return rule(format!("the delegation to {:?} needs either paths or path_hash_prefixes", role.name));
            }
            role.keys.check(&role.name)?;
        }
        self.policy().map(drop)
    }
}

/// The file a role is kept in, without version: the name is percent-encoded, so no role can name a path.
pub fn file_name(role: &str) -> String {
    percent_encoded(role) + ".json"
}

/// `text` as one part of a path or URL: everything but ASCII letters, digits and `-_.~` is percent-encoded.
pub fn percent_encoded(text: &str) -> String {
    use std::fmt::Write as _;
    let mut name = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'~') {
            name.push(char::from(byte));
        } else {
            let _ = write!(name, "%{byte:02X}");
        }
    }
    name
}

/// The file of one version of a role under consistent snapshots.
pub fn versioned_name(role: &str, version: u64) -> String {
    format!("{version}.{}", file_name(role))
}

fn rule<T>(what: impl Into<String>) -> Result<T, MetadataError> {
    Err(MetadataError::Rule(what.into()))
}

#[cfg(test)]
mod tests;
