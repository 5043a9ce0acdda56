//! What can be wrong with a repository, in words for the person who has to look.
use std::sync::Arc;

use crate::reason::Code;
use crate::time::Timestamp;
use crate::trust::metadata::{MetadataError, ThresholdError};

/// Why a file of the image repository, or a target, was refused.
#[derive(Debug, Clone, thiserror::Error)]
pub enum TufError {
    /// The caller gave another file than the one asked for.
    #[error("{got} was given, but {expected} was asked for")]
    Unexpected {
        /// What was asked for.
        expected: String,
        /// What was given.
        got: String,
    },
    /// The repository does not have a file that it lists.
    #[error("{file} is missing from the repository")]
    Missing {
        /// Its name.
        file: String,
    },
    /// Not metadata of the expected type.
    #[error("{file} was refused: {cause}")]
    Malformed {
        /// Its name.
        file: String,
        /// What is wrong.
        cause: Arc<MetadataError>,
    },
    /// Not signed by enough of the right keys.
    #[error("{file} was refused: {cause}")]
    Unsigned {
        /// Its name.
        file: String,
        /// Whose signatures are missing.
        cause: ThresholdError,
    },
    /// Older than what was trusted before.
    #[error("{what} would go back from version {have} to {got}: an old repository is being replayed")]
    Rollback {
        /// The role, or the entry of the snapshot.
        what: String,
        /// The version that is trusted.
        have: u64,
        /// The version that was offered.
        got: u64,
    },
    /// A snapshot without an entry that it had.
    #[error("the new snapshot no longer lists {entry}: entries may not disappear")]
    SnapshotDropped {
        /// Which.
        entry: String,
    },
    /// Another version than its parent lists: parts of two repositories were mixed.
    #[error("{file} has version {got}, but version {listed} is listed: parts of different states are mixed")]
    WrongVersion {
        /// Its name.
        file: String,
        /// What the parent lists.
        listed: u64,
        /// What it says.
        got: u64,
    },
    /// Another length than its parent lists.
    #[error("{file} has {got} bytes, but {listed} are listed")]
    WrongLength {
        /// Its name.
        file: String,
        /// What the parent lists.
        listed: u64,
        /// What came.
        got: u64,
    },
    /// Another digest than its parent lists.
    #[error("{file} is not the file that is listed: its digest differs")]
    WrongDigest {
        /// Its name.
        file: String,
    },
    /// The next root does not follow the trusted one.
    #[error("{file} says it is root version {got}, expected {expected}")]
    RootOrder {
        /// Its name.
        file: String,
        /// One more than the trusted one.
        expected: u64,
        /// What it says.
        got: u64,
    },
    /// More new roots than one refresh follows.
    #[error("more than {max} new root versions in one refresh: refresh again to go on from there")]
    TooManyRoots {
        /// The bound.
        max: u32,
    },
    /// Not believed any more.
    #[error("{role} expired at {at} and it is {now}: nothing new is installed until the repository is re-signed (or the clock is set)")]
    Expired {
        /// The role.
        role: String,
        /// When.
        at: Timestamp,
        /// The moment of this refresh.
        now: Timestamp,
    },
    /// A delegated role that the snapshot does not list.
    #[error("role {role} is delegated to, but the snapshot does not list it: publish its first version")]
    NotListed {
        /// The role.
        role: String,
    },
    /// A path whose role this client was not asked to load.
    #[error("role {role} was not loaded in this refresh, so nothing can be said about {path}")]
    NotLoaded {
        /// The role.
        role: String,
        /// The path.
        path: String,
    },
    /// Targets were asked for before the refresh was complete.
    #[error("the metadata is not refreshed yet: targets can be named only after a complete refresh")]
    NotFresh,
}

impl TufError {
    /// The reason code a device reports for it.
    pub fn code(&self) -> Code {
        match self {
            Self::Expired { .. } => Code::MetadataExpired,
            Self::Rollback { .. } | Self::SnapshotDropped { .. } | Self::WrongVersion { .. } => Code::MetadataRollback,
            Self::Missing { .. } | Self::NotLoaded { .. } | Self::NotFresh | Self::Unexpected { .. } | Self::TooManyRoots { .. } => {
                Code::MetadataUnavailable
            }
            Self::NotListed { .. } => Code::NotListed,
            Self::Malformed { .. }
            | Self::Unsigned { .. }
            | Self::WrongLength { .. }
            | Self::WrongDigest { .. }
            | Self::RootOrder { .. } => Code::SignatureInvalid,
        }
    }
}
