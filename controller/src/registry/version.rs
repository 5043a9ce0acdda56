//! One released version of a model line, and what the controller has learnt about it since.
use leeway_protocol::assignment::{AssignedRelease, target_path};
use leeway_protocol::digest::Digest;
use leeway_protocol::ids::{Cohort, Line, Version};
use leeway_protocol::manifest::{Blob, Lineage};
use leeway_protocol::time::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::slice::{MAX_SLICES, Poisoned};
use crate::fleet::Device;

/// Whose key released it; also the part of the target's path that the key is bound to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// A person's release key.
    Release,
    /// The line's trainer.
    Auto,
}

/// What may still be done with a version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case", tag = "is")]
pub enum VersionStatus {
    /// May be rolled out.
    Published,
    /// Goes on running where it runs; no new rollout.
    Deprecated {
        /// Why, in a sentence.
        reason: String,
    },
    /// Taken back by a person; devices that have it go back.
    Yanked {
        /// Why, in a sentence.
        reason: String,
    },
    /// Failed in the fleet; devices that have it go back, and it is never assigned again.
    Poisoned {
        /// Why, in a sentence.
        reason: String,
    },
}

/// A version of a model line.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ModelVersion {
    /// Its line.
    pub line: Line,
    /// Its name.
    pub version: Version,
    /// Rises with every release of the line.
    pub seq: u64,
    /// The manifest; its digest is what devices and reports name.
    pub manifest: Blob,
    /// The ONNX file.
    pub model: Blob,
    /// Digest of its inputs and outputs.
    pub io: Digest,
    /// Whose key released it.
    pub role: Role,
    /// Name of the signed role that lists it, such as `rain` or `rain-auto`.
    pub signer: String,
    /// Where it comes from: code, data, parent, run, offline metrics.
    pub lineage: Lineage,
    /// The same as signed provenance, if it came with any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub provenance: Option<Blob>,
    /// The OpenSSF Model Signing bundle, if it came with one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bundle: Option<Blob>,
    /// When the controller accepted it.
    pub published_at: Timestamp,
    /// What may still be done with it.
    pub status: VersionStatus,
    /// Parts of the fleet that it failed on while it is good elsewhere, at most [`MAX_SLICES`]. Their devices go back and are not
    /// told to run it again, whatever later evidence says: the way back is another version, which must pass there first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub poisoned_for: Vec<Poisoned>,
}

/// A version that cannot be registered.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RegisterError {
    /// The name is taken by other bytes.
    #[error("version {version} of line {line} is already registered with another manifest: publish it under a new name")]
    NameTaken {
        /// Its line.
        line: Line,
        /// Its name.
        version: Version,
    },
    /// The sequence number is taken.
    #[error("sequence number {seq} of line {line} already belongs to version {version}: use a higher one")]
    SeqTaken {
        /// Its line.
        line: Line,
        /// The number.
        seq: u64,
        /// The version that has it.
        version: Version,
    },
}

impl ModelVersion {
    /// The path of its target in the image repository.
    pub fn target_path(&self) -> String {
        target_path(&self.line, self.role == Role::Auto, &self.version)
    }

    /// How an assignment names it.
    pub fn release(&self) -> AssignedRelease {
        AssignedRelease { path: self.target_path(), line: self.line.clone(), version: self.version.clone() }
    }

    /// Whether a file is part of it: those are for everybody who may install it.
    pub fn names(&self, digest: Digest) -> bool {
        let attached = [self.provenance, self.bundle].into_iter().flatten();
        [self.model, self.manifest].into_iter().chain(attached).any(|blob| blob.digest == digest)
    }

    /// Whether a device may be told to run it.
    pub fn is_assignable(&self) -> bool {
        matches!(self.status, VersionStatus::Published | VersionStatus::Deprecated { .. })
    }

    /// The slice of the fleet that keeps it from this device, if it is poisoned for one; `cohort` is the device's.
    pub fn unfit_for(&self, device: &Device, cohort: Option<&Cohort>) -> Option<&Poisoned> {
        self.poisoned_for.iter().find(|poisoned| poisoned.slice.holds(&device.labels, cohort))
    }

    /// Poison it for a slice; the same slice again changes nothing. False if there is no room: then it is bad as a whole.
    pub fn poison_for(&mut self, poisoned: Poisoned) -> bool {
        if self.poisoned_for.iter().any(|known| known.slice == poisoned.slice) {
            return true;
        }
        let room = self.poisoned_for.len() < MAX_SLICES;
        if room {
            self.poisoned_for.push(poisoned);
        }
        room
    }

    /// Whether devices that run it must go back.
    pub fn must_leave(&self) -> bool {
        matches!(self.status, VersionStatus::Yanked { .. } | VersionStatus::Poisoned { .. })
    }

    /// Refuse a version that would change the meaning of a name or a number. Registering the same bytes again is no error.
    pub fn check_against<'a>(&self, others: impl IntoIterator<Item = &'a Self>) -> Result<(), RegisterError> {
        for other in others.into_iter().filter(|o| o.line == self.line) {
            if other.version == self.version && other.manifest.digest != self.manifest.digest {
                return Err(RegisterError::NameTaken { line: self.line.clone(), version: self.version.clone() });
            }
            if other.version != self.version && other.seq == self.seq {
                return Err(RegisterError::SeqTaken { line: self.line.clone(), seq: self.seq, version: other.version.clone() });
            }
        }
        Ok(())
    }
}

impl VersionStatus {
    /// One word.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Published => "published",
            Self::Deprecated { .. } => "deprecated",
            Self::Yanked { .. } => "yanked",
            Self::Poisoned { .. } => "poisoned",
        }
    }

    /// The reason, where there is one.
    pub fn reason(&self) -> Option<&str> {
        match self {
            Self::Published => None,
            Self::Deprecated { reason } | Self::Yanked { reason } | Self::Poisoned { reason } => Some(reason),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::planner::tests::world::version;

    #[test]
    fn names_and_numbers_keep_their_meaning() {
        let known = [version("1", 1, None), version("2", 2, None)];
        assert_eq!(version("2", 2, None).check_against(&known), Ok(()), "the same again is no error");
        let other = ModelVersion { manifest: Blob { digest: Digest::of(b"other"), length: 1 }, ..version("2", 2, None) };
        assert!(other.check_against(&known).unwrap_err().to_string().contains("already registered with another manifest"));
        assert!(version("3", 2, None).check_against(&known).unwrap_err().to_string().contains("already belongs to version 2"));
        let elsewhere = ModelVersion { line: "wind".parse().unwrap(), ..other };
        assert_eq!(elsewhere.check_against(&known), Ok(()));
        let auto = ModelVersion { role: Role::Auto, ..version("7", 7, None) };
        assert_eq!(auto.target_path(), "models/rain/auto/7.onnx");
    }
}
