//! What the agent asks of the world: a closed list of small effects, carried out in order by an executor without choices.
//!
//! Disk effects are primitives (write, sync, rename, sync the directory) and not "save the state", so that the order which
//! survives a power cut is decided here, in pure code, and a simulated disk can lose exactly what was not synced.
//!
//! What stays true: the executor performs a list from front to back. The first disk effect that fails ends the list; the
//! executor then hands in [`crate::event::Event::DiskFailed`] and nothing else of that list happens. So "persist, then speak"
//! is the order of the list. A crash may come between any two entries.
use std::fmt;

use leeway_protocol::digest::Digest;
use leeway_protocol::ids::BootId;
use leeway_protocol::topic::Channel;

use crate::control::RunnerCommand;

/// One effect.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    /// Touch the disk.
    Disk(DiskOp),
    /// Read a file and hand it in as [`crate::event::Event::Read`].
    Read {
        /// Which.
        path: DiskPath,
        /// Longer files are an error, not a cut.
        max_len: u64,
    },
    /// Open the connection to the broker with this last will (retained, on the status topic). Answers `Event::Connecting`;
    /// without it the executor does not connect and asks again later.
    Connect {
        /// The sealed will.
        will: Vec<u8>,
    },
    /// Send to the broker if connected, else forget: what must arrive lies in the outbox and is sent again.
    Publish {
        /// Topic and retained flag follow from it.
        channel: Channel,
        /// What.
        payload: Payload,
    },
    /// Fetch a metadata file; answered by `Event::Metadata`.
    FetchMetadata {
        /// Echoed in the answer; a stale answer is ignored.
        fetch: FetchId,
        /// Which.
        file: MetadataFile,
        /// Stop reading after so many bytes and one.
        max_len: u64,
    },
    /// Fetch a blob into [`DiskPath::staging`]; answered by `Event::BlobDone` or `Event::BlobFailed`. The executor digests while
    /// streaming, stops at `length`, and syncs the file before it says done.
    FetchBlob {
        /// Echoed in the answer.
        fetch: FetchId,
        /// Its address and the digest its bytes must have.
        digest: Digest,
        /// Its exact length.
        length: u64,
        /// Go on from what lies in staging (digesting it first); otherwise start over.
        resume: bool,
    },
    /// Draw a new TLS key, ask the controller for a certificate over it, keep both, and present them from the next connection on;
    /// answered by `CertificateNews::Renewed` or `NotRenewed`.
    RenewCertificate {
        /// Echoed in the answer.
        ask: FetchId,
    },
    /// Give up whatever is being fetched; no answer is needed.
    CancelFetch,
    /// Start a runner process, or an in-process host; it is spoken to by its number.
    StartRunner {
        /// Rises by one with each start.
        run: RunId,
        /// What for: a candidate's runner gets no socket.
        purpose: RunnerPurpose,
    },
    /// Say something to a runner. Dropped if it has ended.
    Runner {
        /// Which.
        run: RunId,
        /// What. Paths in it are relative to the data directory.
        command: RunnerCommand,
    },
    /// End a runner without asking it; its `Exited` notice may still come and is ignored.
    KillRunner {
        /// Which.
        run: RunId,
    },
    /// Say something to people.
    Log {
        /// How loud.
        level: Level,
        /// A whole sentence.
        sentence: String,
    },
    /// Hand in `Event::Tick` after so many milliseconds of real time. Replaces the earlier one; the last of a list counts.
    WakeIn {
        /// How long.
        millis: u64,
    },
}

/// A touch of the disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DiskOp {
    /// Make a new file in place of whatever is there, and write it; not durable yet.
    Write {
        /// Where.
        path: DiskPath,
        /// What.
        bytes: Vec<u8>,
    },
    /// Make a file's content durable. If this fails the file is not to be trusted, and not to be synced again.
    Sync {
        /// Which.
        path: DiskPath,
    },
    /// Rename over whatever is there; durable after [`DiskOp::SyncDir`].
    Rename {
        /// From.
        from: DiskPath,
        /// To, in a directory of the data directory that may differ.
        to: DiskPath,
    },
    /// Make the names in a directory durable.
    SyncDir {
        /// Which; created if missing.
        dir: Dir,
    },
    /// Remove a file; no file is no error.
    Remove {
        /// Which.
        path: DiskPath,
    },
}

impl DiskOp {
    /// The file concerned; a directory has none.
    pub fn path(&self) -> Option<&DiskPath> {
        match self {
            Self::Write { path, .. } | Self::Sync { path } | Self::Remove { path } => Some(path),
            Self::Rename { to, .. } => Some(to),
            Self::SyncDir { .. } => None,
        }
    }
}

impl fmt::Display for DiskOp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Write { path, .. } => write!(f, "write {path}"),
            Self::Sync { path } => write!(f, "sync {path}"),
            Self::Rename { from, to } => write!(f, "rename {from} to {to}"),
            Self::SyncDir { dir } => write!(f, "sync directory {}", dir.as_str()),
            Self::Remove { path } => write!(f, "remove {path}"),
        }
    }
}

/// The directories of the data directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Dir {
    /// The data directory itself: state and its spare copy.
    Top,
    /// Roots as enrolment or the factory put them there; never written by the agent.
    Roots,
    /// Image metadata, verbatim.
    Tuf,
    /// The director's newest root and the assignment being followed, verbatim.
    Director,
    /// Verified manifests and models by digest.
    Blobs,
    /// Downloads on the way.
    Staging,
    /// Sealed messages without a receipt.
    Outbox,
    /// What the device was delivered with; never written by the agent.
    Factory,
}

impl Dir {
    /// Every directory.
    pub const ALL: [Self; 8] = [Self::Top, Self::Roots, Self::Tuf, Self::Director, Self::Blobs, Self::Staging, Self::Outbox, Self::Factory];

    /// Its path, relative to the data directory; empty for the top.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Top => "",
            Self::Roots => "roots",
            Self::Tuf => "tuf",
            Self::Director => "director",
            Self::Blobs => "blobs",
            Self::Staging => "staging",
            Self::Outbox => "outbox",
            Self::Factory => "factory",
        }
    }
}

/// A file in the data directory. Made only by the functions below or by [`DiskPath::parse`], so it never leaves it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DiskPath {
    dir: Dir,
    name: String,
}

/// The longest file name: a percent-encoded role of the metadata is the longest.
const MAX_NAME: usize = 200;
/// Ending of the copy that is written before it is renamed over the old file.
const NEW: &str = ".new";

/// What the executor hands in of a file when the agent starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AtStart {
    /// Its bytes; a longer file counts as damaged and is handed in without bytes.
    Bytes {
        /// The bound.
        max_len: u64,
    },
    /// Its length only.
    Length,
}

impl DiskPath {
    fn new(dir: Dir, name: impl Into<String>) -> Self {
        Self { dir, name: name.into() }
    }

    /// A path from a directory listing; `None` for names the agent never makes (left alone).
    pub fn parse(dir: Dir, name: &str) -> Option<Self> {
        let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_' | b'%' | b'~');
        let fits = !name.is_empty() && name.len() <= MAX_NAME && !name.starts_with('.') && name.bytes().all(plain);
        fits.then(|| Self::new(dir, name))
    }

    /// `state.json`: the one document that says what this device does.
    pub fn state() -> Self {
        Self::new(Dir::Top, "state.json")
    }

    /// `counters.json`: the spare copy of the state, for the numbers that must never go back.
    pub fn counters() -> Self {
        Self::new(Dir::Top, "counters.json")
    }

    /// `roots/image.json`: the image repository's root as enrolled.
    pub fn image_root() -> Self {
        Self::new(Dir::Roots, "image.json")
    }

    /// `roots/director.json`: the director's root as enrolled.
    pub fn enrolled_director_root() -> Self {
        Self::new(Dir::Roots, "director.json")
    }

    /// `tuf/<file>`: a metadata file by the plain name that the TUF client gives it; `None` if that is no plain name.
    pub fn tuf(file: &str) -> Option<Self> {
        Self::parse(Dir::Tuf, file)
    }

    /// `director/root.json`: the newest director root.
    pub fn director_root() -> Self {
        Self::new(Dir::Director, "root.json")
    }

    /// `director/desired.json`: the director's document that is being followed.
    pub fn desired() -> Self {
        Self::new(Dir::Director, "desired.json")
    }

    /// `blobs/<hex>`.
    pub fn blob(digest: &Digest) -> Self {
        Self::new(Dir::Blobs, digest.hex())
    }

    /// `staging/<hex>.part`.
    pub fn staging(digest: &Digest) -> Self {
        Self::new(Dir::Staging, format!("{}.part", digest.hex()))
    }

    /// `outbox/<boot>-<counter>-<millis>.<kind>`.
    pub fn outbox(message: &OutboxName) -> Self {
        let OutboxName { boot, counter, sealed_ms, kind } = message;
        Self::new(Dir::Outbox, format!("{}-{counter}-{sealed_ms}.{}", boot.0, kind.as_str()))
    }

    /// `factory/manifest.json`.
    pub fn factory_manifest() -> Self {
        Self::new(Dir::Factory, "manifest.json")
    }

    /// `factory/model.onnx`.
    pub fn factory_model() -> Self {
        Self::new(Dir::Factory, "model.onnx")
    }

    /// The copy that is written beside this file before it is renamed over it.
    #[must_use]
    pub fn new_copy(&self) -> Self {
        Self::new(self.dir, format!("{}{NEW}", self.name))
    }

    /// The name under which captured rows are kept, if that is what this file holds or will hold once it is in its place.
    pub fn captured_rows(&self) -> Option<&str> {
        let name = self.name.strip_suffix(NEW).unwrap_or(&self.name);
        (self.dir == Dir::Outbox && name.ends_with(".capture")).then_some(name)
    }

    /// Its directory.
    pub fn dir(&self) -> Dir {
        self.dir
    }

    /// Its name in the directory.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The blob this file is, if it is one.
    pub fn as_blob(&self) -> Option<Digest> {
        if self.dir == Dir::Blobs { Digest::from_hex(&self.name).ok() } else { None }
    }

    /// The download this file is, if it is one.
    pub fn as_staging(&self) -> Option<Digest> {
        if self.dir == Dir::Staging { Digest::from_hex(self.name.strip_suffix(".part")?).ok() } else { None }
    }

    /// The message this file is, if it is one.
    pub fn as_outbox(&self) -> Option<OutboxName> {
        if self.dir != Dir::Outbox {
            return None;
        }
        let (numbers, kind) = self.name.split_once('.')?;
        let mut numbers = numbers.split('-').map(|n| n.parse::<u64>().ok());
        let mut next = || numbers.next().flatten();
        let name = OutboxName { boot: BootId(next()?), counter: next()?, sealed_ms: next()?, kind: OutboxKind::parse(kind)? };
        // Spelled another way it would be another file.
        (Self::outbox(&name) == *self).then_some(name)
    }

    /// Whether this is a copy that a power cut kept from being renamed.
    pub fn is_leftover(&self) -> bool {
        self.name.ends_with(NEW)
    }

    /// What the executor hands in of this file when the agent starts.
    pub fn at_start(&self) -> AtStart {
        match self.dir {
            _ if self.is_leftover() => AtStart::Length,
            Dir::Blobs | Dir::Staging | Dir::Outbox => AtStart::Length,
            Dir::Factory if *self == Self::factory_model() => AtStart::Length,
            Dir::Factory => AtStart::Bytes { max_len: leeway_protocol::manifest::MAX_MANIFEST_BYTES },
            Dir::Top | Dir::Roots | Dir::Tuf | Dir::Director => AtStart::Bytes { max_len: MAX_DOCUMENT_BYTES },
        }
    }
}

/// The longest small document that is read at start: metadata is bounded to 4 MiB by the TUF client.
pub const MAX_DOCUMENT_BYTES: u64 = 4 << 20;

impl fmt::Display for DiskPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.dir {
            Dir::Top => f.write_str(&self.name),
            dir => write!(f, "{}/{}", dir.as_str(), self.name),
        }
    }
}

/// What a file name in the outbox says, so that the outbox is known again after a restart without reading it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OutboxName {
    /// Start of the agent that sealed it.
    pub boot: BootId,
    /// Its number in that start.
    pub counter: u64,
    /// When, by the device's trusted time, milliseconds since 1970.
    pub sealed_ms: u64,
    /// What it holds.
    pub kind: OutboxKind,
}

/// What the outbox keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum OutboxKind {
    /// A closed window.
    Window,
    /// Captured rows.
    Capture,
    /// Something that happened.
    Event,
}

impl OutboxKind {
    /// Ending of the file name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Window => "window",
            Self::Capture => "capture",
            Self::Event => "event",
        }
    }

    fn parse(text: &str) -> Option<Self> {
        [Self::Window, Self::Capture, Self::Event].into_iter().find(|kind| kind.as_str() == text)
    }

    /// The channel it is sent on.
    pub fn channel(self) -> Channel {
        match self {
            Self::Window => Channel::Window,
            Self::Capture => Channel::Capture,
            Self::Event => Channel::Event,
        }
    }
}

/// What is published.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Payload {
    /// These bytes.
    Bytes(Vec<u8>),
    /// The bytes of this file, so that a long outbox needs no memory. A file that cannot be read is handed in as
    /// `Event::Read` with what went wrong.
    File(DiskPath),
}

/// Number of a fetch.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FetchId(pub u64);

/// Number of a start of a runner.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RunId(pub u64);

/// What a runner is started for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RunnerPurpose {
    /// Answers the application.
    Serving,
    /// Tests one release and is thrown away.
    Candidate,
}

/// A file of the repositories.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct MetadataFile {
    /// Whose.
    pub repository: Repository,
    /// Its name there, such as `2.root.json`.
    pub name: String,
}

/// Which repository.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Repository {
    /// Signed offline: which models may run at all.
    Image,
    /// Signed online: which of them this device runs. Only its roots are fetched.
    Director,
}

impl MetadataFile {
    /// Where it lies below the artifact server's base address.
    pub fn url_path(&self) -> String {
        match self.repository {
            Repository::Image => format!("tuf/{}", self.name),
            Repository::Director => format!("tuf/director/{}", self.name),
        }
    }
}

/// How loud a sentence is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// For finding mistakes.
    Debug,
    /// What happens.
    Info,
    /// What someone should look at.
    Warn,
    /// What someone must look at.
    Error,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_on_disk_are_known_again_and_strange_ones_are_left_alone() {
        let name = OutboxName { boot: BootId(3), counter: 9, sealed_ms: 1_795_410_000_000, kind: OutboxKind::Capture };
        let path = DiskPath::outbox(&name);
        assert_eq!(path.to_string(), "outbox/3-9-1795410000000.capture");
        assert_eq!(DiskPath::parse(Dir::Outbox, path.name()).unwrap().as_outbox(), Some(name));
        for strange in ["3-9.capture", "03-9-1.event", "3-9-1.event.new", "x-9-1.window", "3-9-1.other", "3-9-1-2.event"] {
            assert_eq!(DiskPath::parse(Dir::Outbox, strange).and_then(|p| p.as_outbox()), None, "{strange}");
        }
        let digest = Digest::of(b"m");
        assert_eq!(DiskPath::blob(&digest).as_blob(), Some(digest));
        assert_eq!(DiskPath::staging(&digest).as_staging(), Some(digest));
        assert_eq!(DiskPath::staging(&digest).as_blob(), None);
        for bad in ["", "..", "../x", "a/b", ".hidden", "ä", &"x".repeat(201)] {
            assert_eq!(DiskPath::parse(Dir::Tuf, bad), None, "{bad}");
        }
        assert!(DiskPath::state().new_copy().is_leftover());
        assert_eq!(DiskPath::state().new_copy().to_string(), "state.json.new");
    }
}
