//! The director: one online-signed document per device that says which approved model it runs, and the check that it is one.
//!
//! TUF's targets form, so that the keys, the signatures and the expiry are the ones that [`super::metadata`] already checks. The
//! device's id is inside the signature, so one device's assignment is worth nothing to another; the version is the generation.
//! The assignment itself travels as JSON *text* inside the signed part: it has fractions in it, and canonical JSON has none.
//!
//! What stays true: [`ApprovedTarget`] is the only value an install can start from, and only [`cross_check`] makes one: both
//! repositories must agree on path, digest and length, and the offline-signed policy of the line must allow it. So a stolen
//! director key can choose among approved models, and nothing else.
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::keyring::SigningKey;
use super::metadata::{self, Document, MetadataError, Root, SignError, TargetMeta, Targets, ThresholdError};
use super::repository::{release_role, trainer_role};
use super::tuf::{Client, TufError, VerifiedTarget};
use crate::assignment::target_path;
use crate::digest::Digest;
use crate::ids::{DeviceId, Generation};
use crate::manifest::TargetCustom;
use crate::reason::Code;
use crate::time::Timestamp;

/// The longest assignment document; it travels in one MQTT message.
pub const MAX_DIRECTIVE_BYTES: u64 = 64 << 10;

/// The most that a generation may rise at once: more than a device is ever told in its life, and so little of what a number holds
/// that nobody with a stolen director key can use it up and leave the device deaf to the key's successor.
pub const MAX_GENERATION_STEP: u64 = 1 << 24;

/// The target an assignment names: what the image repository lists under the same path, digest and length.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DirectedTarget {
    /// Path in the image repository.
    pub path: String,
    /// Digest of the model file.
    pub sha256: Digest,
    /// Its length.
    pub length: u64,
}

/// An assignment that the director signed for this device. It may name any target: [`cross_check`] decides whether it counts.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Directive {
    /// For whom.
    pub device: DeviceId,
    /// Its order.
    pub generation: Generation,
    /// The target, or none: stay with what runs.
    pub target: Option<DirectedTarget>,
    /// Until when it is believed.
    pub expires: Timestamp,
    assignment: String,
}

/// Why an assignment could not be signed.
#[derive(Debug, thiserror::Error)]
pub enum DirectError {
    /// It has no JSON form.
    #[error("the assignment has no JSON form")]
    Json(#[source] serde_json::Error),
    /// The document could not be signed.
    #[error(transparent)]
    Sign(#[from] SignError),
    /// Too long for one message.
    #[error("the assignment has {0} bytes, the bound is {MAX_DIRECTIVE_BYTES}")]
    TooLong(usize),
}

/// Why a received assignment was refused.
#[derive(Debug, thiserror::Error)]
pub enum DirectorError {
    /// Not a document of this form.
    #[error("the assignment cannot be read: {0}")]
    Malformed(#[from] MetadataError),
    /// Not signed by the director.
    #[error("the assignment is not signed by a director this device trusts: {0}")]
    Unsigned(#[from] ThresholdError),
    /// Signed, but not what a director signs.
    #[error("the assignment does not add up: {0}")]
    Inconsistent(&'static str),
    /// Meant for somebody else.
    #[error("the assignment is meant for device {0}")]
    OtherDevice(String),
    /// Older than one that was followed.
    #[error("the assignment has generation {got}, but generation {have} was already followed: an old one is being replayed")]
    Older {
        /// The last one followed.
        have: Generation,
        /// This one.
        got: Generation,
    },
    /// Newer by more than anybody needs.
    #[error(
        "the assignment has generation {got}, more than {MAX_GENERATION_STEP} after {have}: somebody tries to use the numbers up; change the director's key"
    )]
    TooFarAhead {
        /// The last one followed.
        have: Generation,
        /// This one.
        got: Generation,
    },
    /// The director's own root is over.
    #[error("the director's root expired at {at} and it is {now}: sign a new director root (or the clock is wrong)")]
    RootExpired {
        /// When.
        at: Timestamp,
        /// The device's time.
        now: Timestamp,
    },
    /// Not believed any more.
    #[error("the assignment expired at {at} and it is {now}: the controller must sign a new one (or the clock is wrong)")]
    Expired {
        /// When.
        at: Timestamp,
        /// The device's time.
        now: Timestamp,
    },
}

impl DirectorError {
    /// The reason code a device reports for it.
    pub fn code(&self) -> Code {
        match self {
            Self::Malformed(_) | Self::Unsigned(_) | Self::Inconsistent(_) => Code::SignatureInvalid,
            Self::OtherDevice(_) | Self::Older { .. } | Self::TooFarAhead { .. } => Code::AssignmentStale,
            Self::Expired { .. } | Self::RootExpired { .. } => Code::MetadataExpired,
        }
    }
}

#[derive(Serialize, Deserialize)]
struct Custom {
    v: u32,
    device: DeviceId,
    assignment: String,
}

/// Sign the assignment of one device. `assignment` is any JSON document; `target` is none to hold.
pub fn sign<T: Serialize>(
    device: &DeviceId,
    generation: Generation,
    assignment: &T,
    target: Option<&DirectedTarget>,
    expires: Timestamp,
    key: &SigningKey,
) -> Result<Vec<u8>, DirectError> {
    let assignment = serde_json::to_string(assignment).map_err(DirectError::Json)?;
    let custom = Custom { v: 1, device: device.clone(), assignment };
    let mut document = Targets::new(generation.0, expires);
    document.custom = Some(serde_json::to_value(custom).map_err(DirectError::Json)?);
    if let Some(target) = target {
        document.targets.insert(target.path.clone(), TargetMeta::new(target.sha256, target.length, None));
    }
    let bytes = metadata::sign(&document, &[key])?;
    if bytes.len() as u64 > MAX_DIRECTIVE_BYTES {
        return Err(DirectError::TooLong(bytes.len()));
    }
    Ok(bytes)
}

/// Judge a received assignment against the director's root. `last` is the highest generation followed so far; the same one
/// again is accepted, since a retained message comes back with every connection.
pub fn verify(bytes: &[u8], director: &Root, device: &DeviceId, now: Timestamp, last: Generation) -> Result<Directive, DirectorError> {
    let max = usize::try_from(MAX_DIRECTIVE_BYTES).unwrap_or(usize::MAX);
    let document = Document::<Targets>::parse(bytes, max)?;
    let signed = document.verify(&director.keys_of("targets"))?;
    let custom = signed.custom.as_ref().ok_or(DirectorError::Inconsistent("it names no device"))?;
    let custom = Custom::deserialize(custom).map_err(|_| DirectorError::Inconsistent("its custom part has another form"))?;
    if custom.v != 1 {
        return Err(DirectorError::Inconsistent("its form is newer than this program reads: update the agent"));
    }
    if custom.device != *device {
        return Err(DirectorError::OtherDevice(custom.device.to_string()));
    }
    let generation = Generation(signed.header.version);
    if generation < last {
        return Err(DirectorError::Older { have: last, got: generation });
    }
    if generation.0.saturating_sub(last.0) > MAX_GENERATION_STEP {
        return Err(DirectorError::TooFarAhead { have: last, got: generation });
    }
    if director.header.expires.is_over(now) {
        return Err(DirectorError::RootExpired { at: director.header.expires.moment(), now });
    }
    let at = signed.header.expires.moment();
    if signed.header.expires.is_over(now) {
        return Err(DirectorError::Expired { at, now });
    }
    if signed.delegations.is_some() || signed.targets.len() > 1 {
        return Err(DirectorError::Inconsistent("it may name one target and delegate to nobody"));
    }
    let target = signed
        .targets
        .iter()
        .next()
        .and_then(|(path, target)| Some(DirectedTarget { path: path.clone(), sha256: target.sha256()?, length: target.length }));
    let Custom { device, assignment, .. } = custom;
    Ok(Directive { device, generation, target, expires: at, assignment })
}

impl Directive {
    /// The assignment as its type.
    pub fn assignment<T: DeserializeOwned>(&self) -> Result<T, serde_json::Error> {
        serde_json::from_str(&self.assignment)
    }

    /// The assignment as JSON text.
    pub fn assignment_text(&self) -> &str {
        &self.assignment
    }
}

/// A model that this device may install: named by the director, listed by the image repository, allowed by the line's policy.
/// Made only by [`cross_check`].
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct ApprovedTarget {
    /// The assignment's order.
    pub generation: Generation,
    /// The target as the image repository lists it.
    pub target: VerifiedTarget,
    /// Line, version, place in the line, manifest.
    pub release: TargetCustom,
    /// Set if the trainer's own role released it: the io digest that the caller must find in the manifest.
    pub trainer_io: Option<Digest>,
}

/// Why an assignment's target may not be installed.
#[derive(Debug, thiserror::Error)]
pub enum CrossCheckError {
    /// The assignment names no target.
    #[error("the assignment names no model: stay with what runs")]
    Hold,
    /// The image repository cannot be believed now.
    #[error(transparent)]
    Image(#[from] TufError),
    /// The image repository does not list the path.
    #[error("the assignment names {0}, which the offline-signed repository does not list")]
    NotListed(String),
    /// Another digest or length.
    #[error("the assignment names {path} with digest {directed}, but the offline-signed repository lists {listed}")]
    Differs {
        /// The path.
        path: String,
        /// What the director says.
        directed: String,
        /// What the image repository says.
        listed: String,
    },
    /// The target does not say what release it is, or not the one its path says.
    #[error("the target {0} does not describe the release that its path names")]
    NotARelease(String),
    /// A line without a policy.
    #[error("line {0} has no policy in the offline-signed targets, so nothing of it is installed")]
    NoPolicy(String),
    /// A role that may not list this path.
    #[error("role {role} may not release {path}")]
    WrongRole {
        /// The role that lists it.
        role: String,
        /// The path.
        path: String,
    },
    /// Below the floor.
    #[error("release {version} has seq {seq}, below the line's floor {floor}")]
    BelowFloor {
        /// Its version.
        version: String,
        /// Its place in the line.
        seq: u64,
        /// The floor.
        floor: u64,
    },
    /// Revoked.
    #[error("release {0} was revoked by the offline-signed policy")]
    Revoked(String),
    /// The trainer was granted another signature of inputs and outputs.
    #[error("release {version} has inputs and outputs {got}, but the line's trainer was granted {granted}")]
    Io {
        /// Its version.
        version: String,
        /// What it has.
        got: String,
        /// What is granted.
        granted: String,
    },
}

impl CrossCheckError {
    /// The reason code a device reports for it.
    pub fn code(&self) -> Code {
        match self {
            Self::Image(error) => error.code(),
            Self::Hold | Self::NotListed(_) | Self::NoPolicy(_) | Self::WrongRole { .. } | Self::NotARelease(_) => Code::NotListed,
            Self::Differs { .. } => Code::DigestMismatch,
            Self::BelowFloor { .. } => Code::BelowFloor,
            Self::Revoked(_) => Code::Revoked,
            Self::Io { .. } => Code::IoMismatch,
        }
    }
}

/// May this device install what the director names? `stored_floor` is the device's own floor for the line, raised after
/// commits; the higher of it and the policy's counts. `image` must be refreshed.
pub fn cross_check(directive: &Directive, image: &Client, stored_floor: u64) -> Result<ApprovedTarget, CrossCheckError> {
    let directed = directive.target.as_ref().ok_or(CrossCheckError::Hold)?;
    let not_listed = || CrossCheckError::NotListed(directed.path.clone());
    let listed = image.target(&directed.path)?.ok_or_else(not_listed)?;
    if listed.sha256 != directed.sha256 || listed.length != directed.length {
        let say = |digest: Digest, length: u64| format!("{} ({length} bytes)", digest.short());
        return Err(CrossCheckError::Differs {
            path: listed.path,
            directed: say(directed.sha256, directed.length),
            listed: say(listed.sha256, listed.length),
        });
    }
    approve(directive.generation, listed, image, stored_floor)
}

/// What the policy says about a listed target; for a device after [`cross_check`]'s comparison, for a controller before it
/// assigns anything.
fn approve(generation: Generation, listed: VerifiedTarget, image: &Client, stored_floor: u64) -> Result<ApprovedTarget, CrossCheckError> {
    let release: Option<TargetCustom> = listed.custom.as_ref().and_then(|custom: &Value| TargetCustom::deserialize(custom).ok());
    let Some(release) = release.filter(|release| release.v == 1) else { return Err(CrossCheckError::NotARelease(listed.path)) };
    let (line, version) = (&release.line, release.version.to_string());
    let policy = image.line_policy(line).ok_or_else(|| CrossCheckError::NoPolicy(line.to_string()))?;
    // The delegations already bind roles to paths; asked again here so that a slip in them opens nothing.
    let auto = listed.path == target_path(line, true, &release.version);
    if !auto && listed.path != target_path(line, false, &release.version) {
        return Err(CrossCheckError::NotARelease(listed.path));
    }
    let grant = policy.trainer.as_ref().filter(|grant| grant.role == listed.role && listed.role == trainer_role(line));
    if (auto && grant.is_none()) || (!auto && listed.role != release_role(line)) {
        return Err(CrossCheckError::WrongRole { role: listed.role, path: listed.path });
    }
    if policy.is_revoked(&listed.sha256) || policy.is_revoked(&release.manifest.digest) {
        return Err(CrossCheckError::Revoked(version));
    }
    let floor = policy.min_seq.max(stored_floor);
    if release.seq < floor {
        return Err(CrossCheckError::BelowFloor { version, seq: release.seq, floor });
    }
    let trainer_io = if auto { grant.map(|grant| grant.io) } else { None };
    if let Some(granted) = trainer_io
        && granted != release.io
    {
        return Err(CrossCheckError::Io { version, got: release.io.short(), granted: granted.short() });
    }
    Ok(ApprovedTarget { generation, target: listed, release, trainer_io })
}

/// Would devices accept this listed path? For the controller, before it assigns: the same rules, the same words.
pub fn may_assign(path: &str, image: &Client) -> Result<DirectedTarget, CrossCheckError> {
    let listed = image.target(path)?.ok_or_else(|| CrossCheckError::NotListed(path.to_owned()))?;
    let target = DirectedTarget { path: listed.path.clone(), sha256: listed.sha256, length: listed.length };
    approve(Generation::default(), listed, image, 0).map(|_| target)
}

#[cfg(test)]
mod tests;
