//! A target as the repository lists it, and the check of the file that comes for it.
//!
//! For programs that fetch any target of any repository. Devices use [`super::VerifiedTarget`], which has the SHA-256 that they
//! store models by. What stays true: a file that is longer than listed is refused at its first byte too many.
use serde_json::Value;

use crate::trust::metadata::{DigestCheck, Digests, TargetMeta, percent_encoded};

/// A target file that the repository lists, found by a complete refresh. Made only by [`super::Client::listed`].
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct ListedTarget {
    /// Its path.
    pub path: String,
    /// Its exact length.
    pub length: u64,
    /// Its digests.
    pub digests: Digests,
    /// What its signer says about it.
    pub custom: Option<Value>,
    /// The role that lists it.
    pub role: String,
    /// That role's version.
    pub role_version: u64,
}

/// Why a file is not the target that is listed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TargetError {
    /// Not as long as listed.
    #[error("{path} is {what} than the {length} bytes that are listed")]
    Length {
        /// Its path.
        path: String,
        /// `longer` or `shorter`.
        what: &'static str,
        /// What is listed.
        length: u64,
    },
    /// Another digest.
    #[error("{path} is not the file that is listed: its digest differs")]
    Digest {
        /// Its path.
        path: String,
    },
}

/// A file on its way in.
#[derive(Debug, Clone)]
pub struct TargetCheck {
    path: String,
    length: u64,
    seen: u64,
    digests: DigestCheck,
}

impl ListedTarget {
    /// `None` for one without a digest that can be checked; metadata with such targets is refused when it is read.
    pub(super) fn new(path: &str, role: &str, role_version: u64, target: &TargetMeta) -> Option<Self> {
        let digests = Digests::read(&target.hashes)?;
        let (path, role, custom) = (path.to_owned(), role.to_owned(), target.custom.clone());
        Some(Self { path, length: target.length, digests, custom, role, role_version })
    }

    /// Where it lies below a repository's target directory under consistent snapshots, safe in a URL:
    /// `models/<digest>.rain.onnx`.
    pub fn location(&self) -> String {
        let (directory, name) = self.path.rsplit_once('/').map_or(("", self.path.as_str()), |(directory, name)| (directory, name));
        let mut location = String::new();
        if self.path.contains('/') {
            for part in directory.split('/') {
                location.push_str(&percent_encoded(part));
                location.push('/');
            }
        }
        location.push_str(&self.digests.prefix());
        location.push('.');
        location.push_str(&percent_encoded(name));
        location
    }

    /// Begin the check of a file.
    pub fn check(&self) -> TargetCheck {
        TargetCheck { path: self.path.clone(), length: self.length, seen: 0, digests: self.digests.check() }
    }
}

impl TargetCheck {
    /// The next bytes.
    pub fn update(&mut self, bytes: &[u8]) -> Result<(), TargetError> {
        self.seen = self.seen.saturating_add(bytes.len() as u64);
        if self.seen > self.length {
            return Err(TargetError::Length { path: self.path.clone(), what: "longer", length: self.length });
        }
        self.digests.update(bytes);
        Ok(())
    }

    /// The file has ended: is it the one?
    pub fn finish(self) -> Result<(), TargetError> {
        if self.seen != self.length {
            return Err(TargetError::Length { path: self.path, what: "shorter", length: self.length });
        }
        if self.digests.matches() { Ok(()) } else { Err(TargetError::Digest { path: self.path }) }
    }
}
