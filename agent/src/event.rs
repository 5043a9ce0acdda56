//! What the world tells the agent: a closed list. Everything that was received from outside arrives here as bytes, unjudged.
use std::collections::BTreeMap;

use leeway_protocol::digest::Digest;

use crate::action::{DiskPath, FetchId, MetadataFile, RunId};
use crate::certificate::Certificate;
use crate::control::RunnerNotice;

/// One thing that happened.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// The agent starts, with what lies on the disk. Always the first event, and only once.
    Start(Stored),
    /// The executor is about to connect to the broker; answered by [`crate::action::Action::Connect`] if a will can be sealed.
    Connecting,
    /// The connection stands and the subscriptions are made.
    Connected {
        /// Whether the broker still had the session.
        session_present: bool,
    },
    /// The connection is gone.
    Disconnected,
    /// A message on the desired topic.
    Desired(Vec<u8>),
    /// A message on the receipt topic.
    Receipt(Vec<u8>),
    /// An answer to [`crate::action::Action::FetchMetadata`].
    Metadata {
        /// Which fetch.
        fetch: FetchId,
        /// Which file.
        file: MetadataFile,
        /// What came.
        fetched: Fetched,
    },
    /// The blob lies whole in staging: length and digest are right and the file is synced.
    BlobDone {
        /// Which fetch.
        fetch: FetchId,
        /// Which blob.
        digest: Digest,
    },
    /// The blob could not be fetched.
    BlobFailed {
        /// Which fetch.
        fetch: FetchId,
        /// Which blob.
        digest: Digest,
        /// Why.
        failure: BlobFailure,
    },
    /// An answer to [`crate::action::Action::Read`], or a published file that could not be read.
    Read {
        /// Which file.
        path: DiskPath,
        /// Its bytes; `None` if there is no such file; else what went wrong.
        result: Result<Option<Vec<u8>>, String>,
    },
    /// A disk effect failed; the rest of its list was not done. Handed in before any other event.
    DiskFailed {
        /// What was tried, for people: `sync state.json.new`.
        what: String,
        /// The file concerned.
        path: Option<DiskPath>,
        /// No room, or worse.
        full: bool,
        /// What the system said.
        error: String,
    },
    /// A runner said something, or ended.
    Runner {
        /// Which.
        run: RunId,
        /// What.
        notice: RunnerNotice,
    },
    /// Something was learnt about the device's certificate.
    Certificate(CertificateNews),
    /// The time asked for by [`crate::action::Action::WakeIn`] has come; harmless at any other time.
    Tick,
    /// The agent is asked to end in order. Events may still follow until the runner has ended.
    Stop,
}

/// What was learnt about the device's certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CertificateNews {
    /// A new one lies on the disk, and the next connections present it.
    Renewed {
        /// Which question this answers.
        ask: FetchId,
        /// Its dates.
        certificate: Certificate,
    },
    /// There is no new one.
    NotRenewed {
        /// Which question this answers.
        ask: FetchId,
        /// Why.
        failure: RenewalFailure,
    },
    /// A peer accepted the one that is presented.
    Worked,
    /// A peer did not accept the one that is presented.
    Unaccepted {
        /// What it said.
        why: String,
        /// The one that is presented from now on, if that was a new one that had never worked.
        back_to: Option<Certificate>,
    },
}

/// Why there is no new certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RenewalFailure {
    /// The controller does not let this device in, and says why.
    Revoked(String),
    /// A person has yet to let the device in.
    Pending {
        /// The controller's words.
        sentence: String,
        /// When it wants to be asked again.
        retry_secs: u64,
    },
    /// It could not be asked, or answered something else, or the disk refused.
    Failed(String),
}

/// The data directory as found at start: every file whose name the agent could have made.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Stored {
    /// By path.
    pub files: BTreeMap<DiskPath, StoredFile>,
}

/// One file as found at start.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StoredFile {
    /// Its length.
    pub length: u64,
    /// Its bytes, where [`DiskPath::at_start`] asks for them and they could be read.
    pub bytes: Option<Vec<u8>>,
}

impl Stored {
    /// The bytes of a file, if it is there and could be read.
    pub fn bytes(&self, path: &DiskPath) -> Option<&[u8]> {
        self.files.get(path)?.bytes.as_deref()
    }
}

/// What came of a metadata fetch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fetched {
    /// The file, at most as long as asked for plus one byte.
    Bytes(Vec<u8>),
    /// The server says there is no such file.
    Absent,
    /// The server could not be reached or did not answer in time.
    Failed(String),
}

/// Why a blob could not be fetched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BlobFailure {
    /// The server could not be reached, broke off, was too slow, or says there is no such blob; what came is kept for a resume.
    Network(String),
    /// The bytes are not the signed ones; the executor has removed them.
    Digest {
        /// What they are.
        got: Digest,
    },
    /// The server offers another length; nothing of it was kept.
    Length {
        /// What it offers.
        got: u64,
    },
    /// No room.
    DiskFull,
    /// The disk failed; the executor has removed the file.
    Disk(String),
}
