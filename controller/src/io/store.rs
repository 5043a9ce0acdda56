//! The store: one redb file that holds everything the controller must still know after a power cut.
//!
//! Four shapes, because they wear differently. *Documents* (a device, a rollout, a signed file) are small and replaced whole.
//! *Logs* (windows, captured rows, what decisions were made from) are only appended, one block per commit under its first sequence
//! number, in one table per day so that retention drops a table instead of deleting rows. *Events* are appended one by one,
//! hash-chained, and never dropped. A device's *history* is appended row by row under its name, and keeps so many and so old ([`MAX_HISTORY`],
//! [`KEEP_HISTORY_MS`]). One thread writes, and commits what has gathered in 20 milliseconds or 5,000 reports: a durable commit costs about
//! the same for one report as for thousands. State that is derived from reports (who was heard when, how far a stream has
//! drifted) is checkpointed every second and the log is replayed behind it, instead of touching random pages with each report.
//!
//! What stays true: when `commit` returns, the batch is on the disk, whole. When it fails, nothing of it is.
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use leeway_protocol::time::Timestamp;
use tokio::sync::{broadcast, mpsc, oneshot};

use crate::audit::{Draft, Event};

mod history;
mod layout;
mod open;
mod read;
mod writer;

pub use open::Medium;
pub use read::MAX_PAGE;

/// What a document is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// An enrolled device: its key, what it was told, what it last reported.
    Device,
    /// An enrolment token, by its hash.
    Token,
    /// A token of a person or a program, by its hash.
    Access,
    /// A certificate that was revoked before its end, by its number.
    Revoked,
    /// A cohort.
    Cohort,
    /// A model line with its aliases and policies.
    Line,
    /// A registered model version.
    Version,
    /// A rollout.
    Rollout,
    /// A training job.
    Job,
    /// What a training job works with.
    JobData,
    /// A dataset, by the digest of its manifest.
    Dataset,
    /// A file of the image repository or the director, byte for byte.
    Tuf,
    /// Derived state up to some place in a log.
    Checkpoint,
    /// Derived state as it was at some earlier place in a log: where a replay may begin.
    Base,
    /// Where events are handed over to.
    Webhook,
    /// Anything else there is one of.
    Setting,
}

impl Kind {
    fn as_str(self) -> &'static str {
        match self {
            Self::Device => "device",
            Self::Token => "token",
            Self::Access => "access-token",
            Self::Revoked => "revoked",
            Self::Cohort => "cohort",
            Self::Line => "line",
            Self::Version => "version",
            Self::Rollout => "rollout",
            Self::Job => "job",
            Self::JobData => "job-data",
            Self::Dataset => "dataset",
            Self::Tuf => "tuf",
            Self::Checkpoint => "checkpoint",
            Self::Base => "base",
            Self::Webhook => "webhook",
            Self::Setting => "setting",
        }
    }
}

/// An append-only log with retention.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Log {
    /// Closed windows.
    Windows,
    /// Captured rows.
    Captures,
    /// What alarms and decisions were made from.
    Notes,
}

impl Log {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Windows, Self::Captures, Self::Notes];

    fn as_str(self) -> &'static str {
        match self {
            Self::Windows => "windows",
            Self::Captures => "captures",
            Self::Notes => "notes",
        }
    }
}

/// One thing to write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Write {
    /// Replace or create a document.
    Put {
        /// Its kind.
        kind: Kind,
        /// Its name within the kind.
        key: String,
        /// Its bytes.
        value: Vec<u8>,
    },
    /// Remove a document.
    Delete {
        /// Its kind.
        kind: Kind,
        /// Its name within the kind.
        key: String,
    },
    /// Append to a log.
    Append {
        /// Which.
        log: Log,
        /// The record.
        record: Vec<u8>,
    },
    /// Append a row to the history of a device.
    Remember {
        /// Which device.
        device: String,
        /// The row.
        row: Vec<u8>,
        /// The event of the same batch that it belongs to, by its place there.
        event: Option<usize>,
    },
}

/// Rows of one device's history: at some 400 bytes a row, 200 KB. A device that changes daily fills it in a year and a half.
pub const MAX_HISTORY: u64 = 512;
/// Rows that ended longer ago are dropped with the next row of the same device: three years.
pub const KEEP_HISTORY_MS: i64 = 3 * 365 * 24 * 3_600_000;

/// One row of a device's history.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Remembered {
    /// Its place, from 1; older ones may have been dropped.
    pub n: u64,
    /// When it was committed.
    pub at: Timestamp,
    /// The event it belongs to, if there is one.
    pub event: Option<u64>,
    /// The bytes.
    pub row: Vec<u8>,
}

/// Things that are written together or not at all.
#[derive(Debug, Clone, Default)]
pub struct Batch {
    /// When, by the controller's clock: picks the partition of appended records.
    pub at: Timestamp,
    /// Documents and log records.
    pub writes: Vec<Write>,
    /// What to add to the audit trail.
    pub events: Vec<Draft>,
    /// Do not wait for company: someone waits for the answer.
    pub urgent: bool,
}

/// What became of a batch.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Committed {
    /// Sequence numbers given to appended windows.
    pub windows: Range<u64>,
    /// Sequence numbers given to appended captures.
    pub captures: Range<u64>,
    /// Sequence numbers given to appended notes.
    pub notes: Range<u64>,
    /// The events as they stand in the audit trail.
    pub events: Vec<Event>,
}

/// One record of a log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Its place in the log.
    pub seq: u64,
    /// When it was committed.
    pub at: Timestamp,
    /// The bytes.
    pub bytes: Vec<u8>,
}

/// How the store behaves.
#[derive(Debug, Clone)]
pub struct StoreConfig {
    /// Memory for pages; redb's own default is 1 GiB.
    pub cache_bytes: usize,
    /// Span of one partition of a log, milliseconds.
    pub partition_ms: i64,
}

impl Default for StoreConfig {
    fn default() -> Self {
        Self { cache_bytes: 64 << 20, partition_ms: 24 * 3_600_000 }
    }
}

/// Something the store could not do.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    /// The file is not a sound store.
    #[error(
        "the store {path} is damaged ({detail}): stop the controller, keep a copy of the file, then restore it from a backup, or move \
         it away to start empty (devices go on running what they run, but must enrol again)"
    )]
    Damaged {
        /// The file.
        path: String,
        /// What was found.
        detail: String,
    },
    /// Another program has it open.
    #[error("the store {0} is in use by another controller: stop that one first, or choose another --data directory")]
    InUse(String),
    /// Written by a newer program.
    #[error("the store {path} has form {found}, this program reads form {known}: update the controller")]
    Form {
        /// The file.
        path: String,
        /// What the file says.
        found: u64,
        /// What this program knows.
        known: u64,
    },
    /// No room left.
    #[error(
        "the disk that holds the store {0} is full: free some space; nothing that was confirmed is lost, and devices send again what was not"
    )]
    Full(String),
    /// Reading or writing failed.
    #[error("the store {path} could not be read or written: {detail}")]
    Io {
        /// The file.
        path: String,
        /// Why.
        detail: String,
    },
    /// The controller is shutting down.
    #[error("the store is closed")]
    Closed,
}

/// Batches waiting for the writer: past this, whoever commits waits, and so MQTT is read more slowly.
const MAX_WAITING: usize = 4_096;

/// Events a slow listener may be behind before it must read them from the store.
const MAX_BEHIND: usize = 4_096;

type Answer = oneshot::Sender<Result<Committed, StoreError>>;

enum Request {
    Commit(Box<Batch>, Answer),
    Prune(Log, Timestamp, oneshot::Sender<Result<u64, StoreError>>),
}

/// The store. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Store {
    requests: mpsc::Sender<Request>,
    shared: Arc<open::Shared>,
    news: broadcast::Sender<Arc<Event>>,
}

impl Store {
    /// Open or create the store at `path`.
    pub fn open(path: &Path, config: StoreConfig) -> Result<Self, StoreError> {
        Self::open_on(Medium::file(path), config)
    }

    /// The same on any medium; tests give one that runs full.
    pub fn open_on(medium: Medium, config: StoreConfig) -> Result<Self, StoreError> {
        let shared = Arc::new(open::Shared::open(medium, config)?);
        let (requests, inbox) = mpsc::channel(MAX_WAITING);
        let (news, _) = broadcast::channel(MAX_BEHIND);
        let writer = writer::Writer::new(Arc::clone(&shared), news.clone())?;
        let spawned = std::thread::Builder::new().name("leeway-store".to_owned()).spawn(move || writer.run(inbox));
        spawned.map_err(|e| shared.io(&e))?;
        Ok(Self { requests, shared, news })
    }

    /// Write a batch; returns once it is on the disk, whole.
    pub async fn commit(&self, batch: Batch) -> Result<Committed, StoreError> {
        let (answer, result) = oneshot::channel();
        self.requests.send(Request::Commit(Box::new(batch), answer)).await.map_err(|_| StoreError::Closed)?;
        result.await.map_err(|_| StoreError::Closed)?
    }

    /// The same for threads that may block.
    pub fn commit_blocking(&self, batch: Batch) -> Result<Committed, StoreError> {
        let (answer, result) = oneshot::channel();
        self.requests.blocking_send(Request::Commit(Box::new(batch), answer)).map_err(|_| StoreError::Closed)?;
        result.blocking_recv().map_err(|_| StoreError::Closed)?
    }

    /// Drop the partitions of a log that lie wholly before `before`; returns how many.
    pub async fn prune(&self, log: Log, before: Timestamp) -> Result<u64, StoreError> {
        let (answer, result) = oneshot::channel();
        self.requests.send(Request::Prune(log, before, answer)).await.map_err(|_| StoreError::Closed)?;
        result.await.map_err(|_| StoreError::Closed)?
    }

    /// Every event from now on, in order, once it is on the disk. A listener that is too slow is told so, and reads on from
    /// [`Self::events`].
    pub fn subscribe(&self) -> broadcast::Receiver<Arc<Event>> {
        self.news.subscribe()
    }

    /// Where it is.
    pub fn path(&self) -> PathBuf {
        self.shared.path()
    }
}

#[cfg(test)]
pub(crate) mod tests;
