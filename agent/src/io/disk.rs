//! The data directory: carries out disk effects with real syncs, and reads what is there at start.
//!
//! One agent per directory: a lock is held as long as the agent runs. Everything is created readable by its owner only. What
//! stays true: a sync that failed is reported and never tried again on the same file, for a kernel may have dropped what it could not
//! write and call the next sync a success: whatever is written, is written to a new file; out of space is told apart from worse; a
//! disk that cannot be read now is told apart from one that holds nothing.
use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, bail};

use crate::action::{AtStart, Dir, DiskOp, DiskPath};
use crate::at_rest::{AtRest, OVERHEAD, SALT};
use crate::event::{Event, Stored, StoredFile};

/// Files the agent knows at start; more than two releases, the metadata and a full outbox ever need.
const MAX_FILES: usize = 2_000_000;
/// What the disk refuses to give at the start is asked for so often, with this pause: a bus that hiccups costs no release.
const READ_TRIES: u32 = 4;
const READ_PAUSE: Duration = Duration::from_millis(50);
/// Tries to have the directory for itself, with the same pause.
const LOCK_TRIES: u32 = 20;

/// The data directory of one agent.
#[derive(Debug)]
pub(super) struct Disk {
    root: PathBuf,
    _lock: File,
    at_rest: Option<AtRest>,
}

impl Disk {
    /// Open the directory that enrolment made, and keep every other agent out.
    pub(super) fn open(root: &Path) -> anyhow::Result<Self> {
        let shown = root.display();
        let identity = root.join(crate::identity::IDENTITY_FILE);
        if !patiently(&identity, || identity.try_exists())
            .with_context(|| format!("{} cannot be looked for: check the disk", identity.display()))?
        {
            bail!("there is no {} in {shown}: run `leeway-agent enrol` first, or set data_dir", crate::identity::IDENTITY_FILE);
        }
        let path = root.join("agent.lock");
        let mut options = OpenOptions::new();
        let lock = options
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(&path)
            .with_context(|| format!("{} cannot be opened", path.display()))?;
        for tries in 1.. {
            match lock.try_lock() {
                Ok(()) => break,
                // One that was killed while it started a runner holds on for a moment longer, in a child that is not a runner yet.
                Err(fs::TryLockError::WouldBlock) if tries < LOCK_TRIES => std::thread::sleep(READ_PAUSE),
                Err(fs::TryLockError::WouldBlock) => {
                    bail!("another agent already runs in {shown}: stop it, or give this one another data_dir")
                }
                Err(fs::TryLockError::Error(error)) => return Err(error).with_context(|| format!("{} cannot be locked", path.display())),
            }
        }
        for dir in Dir::ALL {
            make_dir(&root.join(dir.as_str())).with_context(|| format!("{shown}/{} cannot be made", dir.as_str()))?;
        }
        Ok(Self { root: root.to_owned(), _lock: lock, at_rest: None })
    }

    /// The same, with captured rows encrypted for the device.
    pub(super) fn encrypted(self, at_rest: AtRest) -> Self {
        Self { at_rest: Some(at_rest), ..self }
    }

    /// Where a file lies.
    pub(super) fn path(&self, path: &DiskPath) -> PathBuf {
        self.root.join(path.dir().as_str()).join(path.name())
    }

    /// Carry out one effect; the event is what the agent is told if it fails.
    pub(super) fn perform(&self, op: &DiskOp) -> Result<(), Box<Event>> {
        let done = match op {
            DiskOp::Write { path, bytes } => self.write(path, bytes),
            DiskOp::Sync { path } => OpenOptions::new().write(true).open(self.path(path)).and_then(|file| file.sync_all()),
            DiskOp::Rename { from, to } => fs::rename(self.path(from), self.path(to)),
            DiskOp::SyncDir { dir } => File::open(self.root.join(dir.as_str())).and_then(|dir| dir.sync_all()),
            DiskOp::Remove { path } => remove(&self.path(path)),
        };
        done.map_err(|error| {
            let (full, error) = (is_full(&error), error.to_string());
            Box::new(Event::DiskFailed { what: op.to_string(), path: op.path().cloned(), full, error })
        })
    }

    fn write(&self, path: &DiskPath, bytes: &[u8]) -> std::io::Result<()> {
        let mut file = create(&self.path(path))?;
        let (Some(at_rest), Some(name)) = (&self.at_rest, path.captured_rows()) else { return file.write_all(bytes) };
        let mut salt = [0; SALT];
        getrandom::fill(&mut salt).map_err(std::io::Error::other)?;
        file.write_all(&at_rest.seal(name, &salt, bytes).map_err(std::io::Error::other)?)
    }

    /// Read one file for the agent.
    pub(super) fn read(&self, path: &DiskPath, max_len: u64) -> Result<Option<Vec<u8>>, String> {
        let (at_rest, name) = match (&self.at_rest, path.captured_rows()) {
            (Some(at_rest), Some(name)) => (at_rest, name),
            _ => return read_bounded(&self.path(path), max_len).map_err(|error| error.to_string()),
        };
        let file = read_bounded(&self.path(path), max_len + OVERHEAD as u64).map_err(|error| error.to_string())?;
        // Rows that are not what was written are as good as gone: the agent gives the message up and counts it.
        Ok(file.and_then(|file| at_rest.open(name, file).inspect_err(|damaged| tracing::warn!("{path}: {damaged}")).ok()))
    }

    /// Everything whose name the agent could have made.
    pub(super) fn stored(&self) -> anyhow::Result<Stored> {
        stored_in(&self.root)
    }
}

/// Everything below `root` whose name the agent could have made. What cannot be read after a few tries is handed in without bytes, or
/// not at all, and is made good for; only the state is not done without while it may still be there.
pub(super) fn stored_in(root: &Path) -> anyhow::Result<Stored> {
    let mut stored = Stored::default();
    let mut unreadable_state = None;
    for dir in Dir::ALL {
        let place = root.join(dir.as_str());
        let entries = match patiently(&place, || fs::read_dir(&place)) {
            Err(error) if error.kind() == ErrorKind::NotFound => continue,
            entries => entries.with_context(|| format!("{} cannot be read: check the disk", place.display()))?,
        };
        for entry in entries {
            let entry = entry.with_context(|| format!("{} cannot be read: check the disk", place.display()))?;
            let Some(path) = entry.file_name().to_str().and_then(|name| DiskPath::parse(dir, name)) else { continue };
            let about = match patiently(&entry.path(), || entry.metadata()) {
                Ok(about) => about,
                Err(error) => {
                    tracing::error!("{path} cannot be looked at: {error}; the agent goes on without it");
                    unreadable_state = unreadable_state.or(is_state(&path).then_some(error));
                    continue;
                }
            };
            if !about.is_file() || stored.files.len() >= MAX_FILES || (dir == Dir::Top && !is_ours(&path)) {
                continue;
            }
            let bytes = match path.at_start() {
                AtStart::Bytes { max_len } => match patiently(&entry.path(), || read_bounded(&entry.path(), max_len)) {
                    Ok(bytes) => bytes,
                    Err(error) => {
                        tracing::error!("{path} cannot be read: {error}; the agent goes on without it");
                        // One that is too long was read, and is damaged.
                        unreadable_state = unreadable_state.or(error.raw_os_error().filter(|_| is_state(&path)).map(|_| error));
                        None
                    }
                },
                AtStart::Length => None,
            };
            stored.files.insert(path, StoredFile { length: about.len(), bytes });
        }
    }
    let has_state = stored.bytes(&DiskPath::state()).or(stored.bytes(&DiskPath::counters())).is_some();
    match unreadable_state {
        // A start without it would write a new one over what the disk may yet give back: floors, generation, the last known good.
        Some(error) if !has_state => Err(error).with_context(|| {
            format!(
                "no copy of the state in {} can be read: check the disk; the agent does not start over what may still be there",
                root.display()
            )
        }),
        _ => Ok(stored),
    }
}

/// Ask the disk again a few times if it fails; that there is no such file is an answer.
pub(super) fn patiently<T>(path: &Path, mut read: impl FnMut() -> std::io::Result<T>) -> std::io::Result<T> {
    for _ in 1..READ_TRIES {
        match read() {
            Err(error) if error.kind() != ErrorKind::NotFound && error.raw_os_error().is_some() => {
                tracing::warn!("the disk did not give {}: {error}; it is asked again", path.display());
                std::thread::sleep(READ_PAUSE);
            }
            done => return done,
        }
    }
    read()
}

/// One of the two copies of the state.
fn is_state(path: &DiskPath) -> bool {
    *path == DiskPath::state() || *path == DiskPath::counters()
}

/// The top directory also holds the identity, the lock and whatever people put there; the agent's core has no business with it.
fn is_ours(path: &DiskPath) -> bool {
    let (state, counters) = (DiskPath::state(), DiskPath::counters());
    [state.new_copy(), counters.new_copy(), state, counters].contains(path)
}

/// Whether there is no room.
pub(super) fn is_full(error: &std::io::Error) -> bool {
    matches!(error.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded)
}

/// Make a file that only its owner reads, and a new one: what an earlier try left under the name is not written to again.
pub(super) fn create(path: &Path) -> std::io::Result<File> {
    remove(path)?;
    OpenOptions::new().create_new(true).read(true).write(true).mode(0o600).open(path)
}

/// Remove a file; no file is no error.
fn remove(path: &Path) -> std::io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        done => done,
    }
}

/// Make a directory that only its owner enters; one that is there is left as it is.
pub(super) fn make_dir(path: &Path) -> std::io::Result<()> {
    match patiently(path, || fs::metadata(path)) {
        Ok(about) if about.is_dir() => Ok(()),
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        _ => fs::DirBuilder::new().recursive(true).mode(0o700).create(path),
    }
}

/// Write a file whole and durable: a new copy, synced, renamed, directory synced. For enrolment; the agent's own writes are
/// decided step by step.
pub(super) fn write_durably(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let new = path.with_added_extension("new");
    let mut file = create(&new)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&new, path)?;
    let dir = path.parent().unwrap_or(Path::new("."));
    File::open(dir)?.sync_all()
}

/// A whole file, if it is there and not longer than allowed.
pub(super) fn read_bounded(path: &Path, max_len: u64) -> std::io::Result<Option<Vec<u8>>> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut bytes = Vec::new();
    file.take(max_len.saturating_add(1)).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > max_len {
        return Err(std::io::Error::other(format!("{} is longer than the {max_len} bytes allowed", path.display())));
    }
    Ok(Some(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn disk() -> (tempfile::TempDir, Disk) {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(crate::identity::IDENTITY_FILE), "{}").unwrap();
        let disk = Disk::open(dir.path()).unwrap();
        (dir, disk)
    }

    #[test]
    fn captured_rows_are_not_to_be_read_off_the_disk() {
        use leeway_protocol::ids::BootId;
        use leeway_protocol::trust::keyring::SigningKey;
        let (dir, disk) = disk();
        let disk = disk.encrypted(AtRest::new(SigningKey::from_seed(&[1; 32])));
        let name = |kind| crate::action::OutboxName { boot: BootId(1), counter: 2, sealed_ms: 3, kind };
        let rows = DiskPath::outbox(&name(crate::action::OutboxKind::Capture));
        let counts = DiskPath::outbox(&name(crate::action::OutboxKind::Window));
        for path in [&rows, &counts] {
            disk.perform(&DiskOp::Write { path: path.new_copy(), bytes: b"{a face}".to_vec() }).unwrap();
            disk.perform(&DiskOp::Rename { from: path.new_copy(), to: path.clone() }).unwrap();
            assert_eq!(disk.read(path, 8).unwrap().unwrap(), b"{a face}");
        }
        let file = disk.path(&rows);
        let written = fs::read(&file).unwrap();
        assert!(written.len() == 8 + OVERHEAD && !written.windows(4).any(|w| w == b"face"));
        assert_eq!(fs::read(disk.path(&counts)).unwrap(), b"{a face}");
        fs::write(&file, &written[..written.len() - 1]).unwrap();
        assert_eq!(disk.read(&rows, 8), Ok(None), "torn rows are as good as gone");
        drop(dir);
    }

    #[test]
    fn effects_are_carried_out_and_found_again() {
        let (dir, disk) = disk();
        let path = DiskPath::state();
        let new = path.new_copy();
        for op in [
            DiskOp::Write { path: new.clone(), bytes: b"one".to_vec() },
            DiskOp::Sync { path: new.clone() },
            DiskOp::Rename { from: new.clone(), to: path.clone() },
            DiskOp::SyncDir { dir: Dir::Top },
            DiskOp::Remove { path: new.clone() },
        ] {
            disk.perform(&op).unwrap();
        }
        fs::write(dir.path().join("blobs").join("x y"), "strange name").unwrap();
        let stored = disk.stored().unwrap();
        assert_eq!(stored.bytes(&path), Some(&b"one"[..]));
        assert!(stored.files.keys().all(|path| path.dir() == Dir::Top), "{stored:?}");
        assert_eq!(disk.read(&DiskPath::desired(), 10), Ok(None));
        assert!(disk.read(&path, 2).unwrap_err().contains("longer"));
    }

    #[test]
    fn what_is_written_again_is_another_file() {
        use std::os::unix::fs::MetadataExt as _;
        let (dir, disk) = disk();
        let path = DiskPath::state().new_copy();
        let write = |bytes: &[u8]| disk.perform(&DiskOp::Write { path: path.clone(), bytes: bytes.to_vec() }).unwrap();
        write(b"a sync of this failed");
        // Held open, so that its number is not given to the next file.
        let tainted = File::open(dir.path().join(path.name())).unwrap();
        write(b"whole");
        let (old, new) = (tainted.metadata().unwrap(), fs::metadata(dir.path().join(path.name())).unwrap());
        assert_ne!(old.ino(), new.ino());
        assert_eq!((old.len(), new.len()), (21, 5), "what was not synced is not touched again");
    }

    #[test]
    fn failures_come_back_as_events_and_a_second_agent_is_kept_out() {
        let (dir, disk) = disk();
        let failed = disk.perform(&DiskOp::Sync { path: DiskPath::desired() }).unwrap_err();
        assert!(matches!(*failed, Event::DiskFailed { full: false, .. }));
        let error = Disk::open(dir.path()).unwrap_err().to_string();
        assert!(error.contains("another agent already runs"), "{error}");
        let empty = tempfile::tempdir().unwrap();
        assert!(Disk::open(empty.path()).unwrap_err().to_string().contains("leeway-agent enrol"));
    }
}
