//! Looking at a data directory that no controller runs on: the event log of it, and a replay.
//!
//! The directory's lock is taken for as long as somebody looks, so a running controller is never read beside its writer, and none can be
//! started meanwhile. Opening the store of a controller that was killed repairs it, exactly as the controller's next start would.
use std::fs::{File, OpenOptions, TryLockError};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use leeway_protocol::digest::Digest;
use leeway_protocol::manifest::Manifest;

use super::checkpoint::{self, base};
use super::serve::load;
use super::store::{Log, MAX_PAGE, Record, Store, StoreConfig, StoreError};
use crate::audit::{self, Event, Head};
use crate::ingest::Body;
use crate::replay::{Fold, Note, Report};

/// A data directory that cannot be looked at.
#[derive(Debug, thiserror::Error)]
pub enum OfflineError {
    /// There is no store in it.
    #[error("{0} is no data directory of a controller: it has no store.redb")]
    NoStore(PathBuf),
    /// A controller runs on it.
    #[error("a controller runs on {0}: stop it first, or stop it, copy the directory, start it again, and look at the copy")]
    Live(PathBuf),
    /// The lock could not be taken.
    #[error("the lock of {0} cannot be taken: look at a copy of the directory that you may write to")]
    Lock(PathBuf, #[source] std::io::Error),
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The event log does not hold together, so nothing that it names can be trusted.
    #[error(transparent)]
    Audit(#[from] audit::AuditError),
}

/// A data directory, locked.
#[derive(Debug)]
pub struct Stopped {
    store: Store,
    data: PathBuf,
    _lock: File,
}

impl Stopped {
    /// Open it, unless a controller runs on it.
    pub fn open(data: &Path) -> Result<Self, OfflineError> {
        let path = data.join("store.redb");
        if !std::fs::metadata(&path).is_ok_and(|about| about.len() > 0) {
            return Err(OfflineError::NoStore(data.to_owned()));
        }
        let locked = |error| OfflineError::Lock(data.to_owned(), error);
        let lock = OpenOptions::new().write(true).create(true).truncate(false).open(data.join("lock")).map_err(locked)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(OfflineError::Live(data.to_owned())),
            Err(TryLockError::Error(error)) => return Err(locked(error)),
        }
        let store = Store::open(&path, StoreConfig::default()).map_err(|error| match error {
            StoreError::InUse(_) => OfflineError::Live(data.to_owned()),
            other => OfflineError::Store(other),
        })?;
        Ok(Self { store, data: data.to_owned(), _lock: lock })
    }

    /// Events after `after`, oldest first; none at the end.
    pub fn events(&self, after: u64) -> Result<Vec<Event>, OfflineError> {
        Ok(self.store.events(after, MAX_PAGE)?)
    }

    /// Compute every alarm and decision again.
    pub fn replay(&self) -> Result<Report, OfflineError> {
        let mut fold = Fold::new([]);
        for (digest, manifest) in self.manifests(&mut fold)? {
            fold.know(digest, manifest);
        }
        self.read_events(&mut fold)?;
        let first_note = self.store.records(Log::Notes, 0, 1)?.into_iter().next();
        // Of the first note that is left: an event of an earlier time has lost its note to retention.
        let lost_before = first_note.filter(|note| note.seq > 0).map(|note| self.first_event_at(note.at)).transpose()?;
        self.count(&mut fold)?;
        Ok(fold.finish(lost_before))
    }

    fn manifests(&self, fold: &mut Fold) -> Result<Vec<(Digest, Arc<Manifest>)>, OfflineError> {
        let mut known = Vec::new();
        for version in load(&self.store)?.snapshot.versions.values() {
            let digest = version.manifest.digest;
            let path = self.data.join("blobs").join(digest.hex());
            let bytes = std::fs::read(&path).ok().filter(|bytes| Digest::of(bytes) == digest);
            match bytes.and_then(|bytes| Manifest::parse(&bytes).ok()) {
                Some(manifest) => known.push((digest, super::control::publish::without_golden(manifest))),
                None => fold.cannot(format!(
                    "the manifest of {} {} is not at {}, so its windows are not counted",
                    version.line,
                    version.version,
                    path.display()
                )),
            }
        }
        Ok(known)
    }

    fn read_events(&self, fold: &mut Fold) -> Result<(), OfflineError> {
        let mut head = Head::default();
        loop {
            let page = self.events(head.seq)?;
            if page.is_empty() {
                return Ok(());
            }
            head = audit::verify(head, &page)?;
            page.iter().for_each(|event| fold.event(event));
        }
    }

    /// The number of the first event at or after a time.
    fn first_event_at(&self, at: leeway_protocol::time::Timestamp) -> Result<u64, OfflineError> {
        let mut after = 0;
        loop {
            let page = self.events(after)?;
            let Some(last) = page.last().map(|event| event.seq) else { return Ok(after + 1) };
            if let Some(found) = page.iter().find(|event| event.at >= at) {
                return Ok(found.seq);
            }
            after = last;
        }
    }

    /// Windows and notes in the order in which they were counted, compared with what was written down on the way.
    fn count(&self, fold: &mut Fold) -> Result<(), OfflineError> {
        let mut bases = base::all(&self.store)?.into_iter().peekable();
        let (position, stored) = checkpoint::stored(&self.store)?;
        let mut windows = Reader::new(&self.store, Log::Windows);
        let first = windows.peek()?.map(|first| first.seq);
        if first.map_or_else(|| self.store.next_seq(Log::Windows), Ok)? == 0 {
            fold.begin(0, Vec::new());
        }
        let mut checked = false;
        let mut notes = Reader::new(&self.store, Log::Notes);
        loop {
            let next = notes.peek()?.map(|note| (note.seq, place(&note.bytes)));
            // A base holds every note before its own place and none after.
            while let Some(base) = bases.next_if(|base| next.is_none_or(|(seq, _)| base.notes <= seq)) {
                windows.count(fold, base.windows)?;
                if fold.is_running() { fold.checkpoint(base.windows, &base.derived) } else { fold.begin(base.windows, base.derived) }
            }
            let is_behind = next.is_none_or(|(_, windows)| windows.is_some_and(|place| place > position.windows));
            if is_behind && !checked {
                windows.count(fold, position.windows)?;
                fold.checkpoint(position.windows, &stored);
                checked = true;
            }
            let Some(note) = notes.next()? else { break };
            if let Some(place) = next.and_then(|(_, place)| place) {
                windows.count(fold, place)?;
            }
            fold.note(&note.bytes);
        }
        windows.count(fold, u64::MAX)
    }
}

/// Where in the log of windows a note stands.
fn place(note: &[u8]) -> Option<u64> {
    serde_json::from_slice::<Note>(note).ok().and_then(|note| note.windows())
}

/// A log, record by record.
struct Reader<'s> {
    store: &'s Store,
    log: Log,
    next: u64,
    page: std::collections::VecDeque<Record>,
}

/// Records read at a time.
const PAGE: usize = 1_000;

impl<'s> Reader<'s> {
    fn new(store: &'s Store, log: Log) -> Self {
        Self { store, log, next: 0, page: Default::default() }
    }

    fn peek(&mut self) -> Result<Option<&Record>, OfflineError> {
        if self.page.is_empty() {
            self.page = self.store.records(self.log, self.next, PAGE)?.into();
            if let Some(last) = self.page.back() {
                self.next = last.seq + 1;
            }
        }
        Ok(self.page.front())
    }

    fn next(&mut self) -> Result<Option<Record>, OfflineError> {
        self.peek()?;
        Ok(self.page.pop_front())
    }

    /// Count windows up to and without `end`.
    fn count(&mut self, fold: &mut Fold, end: u64) -> Result<(), OfflineError> {
        while self.peek()?.is_some_and(|record| record.seq < end) {
            let Some(record) = self.next()? else { break };
            match checkpoint::framed(self.log, &record.bytes) {
                Some((message, frame)) => {
                    if let Body::Window(window) = &message.body {
                        fold.window(record.seq, &message.device, window, frame.as_ref());
                    }
                }
                None => fold.cannot(format!("window {} cannot be read", record.seq)),
            }
        }
        Ok(())
    }
}
