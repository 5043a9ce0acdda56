//! The artifact server: metadata whole, blobs piece by piece with `Range`, both on a thread of their own.
//!
//! A piece that takes longer than [`PIECE_SECS`] is given up, and pieces start small and grow only on a fast line: so a server
//! that sends a byte a minute is noticed within a minute, without a timer beside the read. What is on disk is digested again
//! before it is added to. What stays true: not one byte more than signed is kept, and `Done` means length and digest are right
//! and the file is synced.
use std::fs::{File, OpenOptions};
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use leeway_protocol::digest::{Digest, Hasher};
use rustls::ClientConfig;
use tokio::sync::mpsc::Sender;

use super::disk::{create, is_full};
use super::tls;
use crate::action::{FetchId, MetadataFile};
use crate::event::{BlobFailure, Event, Fetched};

/// The longest one request may take.
const PIECE_SECS: u64 = 60;
/// The longest a connection may take to stand.
const CONNECT_SECS: u64 = 10;
/// First piece: 64 KiB in a minute is the slowest line that is borne, about 1 KB/s.
const MIN_PIECE: u64 = 64 << 10;
/// Largest piece.
const MAX_PIECE: u64 = 8 << 20;
/// A piece that came within this time may be followed by one twice as long.
const FAST: Duration = Duration::from_secs(10);
/// Fetches that wait; the agent asks for one of each kind at a time.
const QUEUE: usize = 4;
/// Bytes read at once.
const BUFFER: usize = 32 << 10;

#[derive(Debug)]
enum Job {
    Metadata { fetch: FetchId, file: MetadataFile, max_len: u64 },
    Blob { fetch: FetchId, digest: Digest, length: u64, path: PathBuf, resume: bool },
}

/// The threads that fetch.
#[derive(Debug)]
pub(super) struct Downloads {
    metadata: SyncSender<Job>,
    blobs: SyncSender<Job>,
    events: Sender<Event>,
    /// Fetches up to this number are given up.
    cancelled: Arc<AtomicU64>,
    newest: FetchId,
    source: Arc<RwLock<Source>>,
}

/// Where fetches go, and how; whoever begins one takes it as it is then.
#[derive(Debug, Clone)]
struct Source {
    http: ureq::Agent,
    base: String,
}

impl Downloads {
    /// Start the threads; answers go to `events`.
    pub(super) fn start(base: &str, tls: Option<Arc<ClientConfig>>, events: Sender<Event>) -> std::io::Result<Self> {
        let source = Arc::new(RwLock::new(Source { http: agent(tls), base: base.to_owned() }));
        let cancelled = Arc::new(AtomicU64::new(0));
        let spawn = |name: &str| -> std::io::Result<SyncSender<Job>> {
            let (jobs, queue) = sync_channel(QUEUE);
            let worker = Worker { source: Arc::clone(&source), events: events.clone(), cancelled: Arc::clone(&cancelled) };
            std::thread::Builder::new().name(name.to_owned()).stack_size(512 << 10).spawn(move || worker.run(&queue))?;
            Ok(jobs)
        };
        let (metadata, blobs) = (spawn("metadata")?, spawn("blobs")?);
        Ok(Self { metadata, blobs, events, cancelled, newest: FetchId::default(), source })
    }

    /// From the next request on, go there and show this certificate; connections that stand are not used again.
    pub(super) fn turn_to(&self, base: &str, tls: Option<Arc<ClientConfig>>) {
        *self.source.write().unwrap_or_else(PoisonError::into_inner) = Source { http: agent(tls), base: base.to_owned() };
    }

    pub(super) fn metadata(&mut self, fetch: FetchId, file: MetadataFile, max_len: u64) {
        self.newest = self.newest.max(fetch);
        let busy = Event::Metadata { fetch, file: file.clone(), fetched: Fetched::Failed("too many fetches wait".to_owned()) };
        self.put(&self.metadata, Job::Metadata { fetch, file, max_len }, busy);
    }

    pub(super) fn blob(&mut self, fetch: FetchId, digest: Digest, length: u64, path: PathBuf, resume: bool) {
        self.newest = self.newest.max(fetch);
        let failure = BlobFailure::Network("too many fetches wait".to_owned());
        self.put(&self.blobs, Job::Blob { fetch, digest, length, path, resume }, Event::BlobFailed { fetch, digest, failure });
    }

    fn put(&self, queue: &SyncSender<Job>, job: Job, busy: Event) {
        if let Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) = queue.try_send(job) {
            // The loop that reads these events is the one that runs this: waiting here would stop it.
            drop(self.events.try_send(busy));
        }
    }

    /// Give up the blob that is being fetched. Metadata files are small and are let finish.
    pub(super) fn cancel(&self) {
        self.cancelled.store(self.newest.0, Ordering::Relaxed);
    }
}

/// A client that follows no redirect to anywhere else and has a limit for everything.
pub(super) fn agent(tls: Option<Arc<ClientConfig>>) -> ureq::Agent {
    let config = ureq::Agent::config_builder()
        .timeout_global(Some(Duration::from_secs(PIECE_SECS)))
        .timeout_connect(Some(Duration::from_secs(CONNECT_SECS)))
        .max_redirects(0)
        .http_status_as_error(false)
        .user_agent(concat!("leeway-agent/", env!("CARGO_PKG_VERSION")))
        .build();
    tls::http(config, tls)
}

struct Worker {
    source: Arc<RwLock<Source>>,
    events: Sender<Event>,
    cancelled: Arc<AtomicU64>,
}

impl Worker {
    fn source(&self) -> Source {
        self.source.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Until the agent's loop is gone.
    fn run(&self, queue: &Receiver<Job>) {
        while let Ok(job) = queue.recv() {
            let event = match job {
                Job::Metadata { fetch, file, max_len } => {
                    let fetched = self.metadata(&file, max_len).unwrap_or_else(|error| Fetched::Failed(said(&error)));
                    Event::Metadata { fetch, file, fetched }
                }
                Job::Blob { fetch, digest, length, path, resume } => match self.blob(fetch, digest, length, &path, resume) {
                    Ok(()) => Event::BlobDone { fetch, digest },
                    Err(failure) => Event::BlobFailed { fetch, digest, failure },
                },
            };
            if self.events.blocking_send(event).is_err() {
                return;
            }
        }
    }

    fn metadata(&self, file: &MetadataFile, max_len: u64) -> Result<Fetched, ureq::Error> {
        let Source { http, base } = self.source();
        let mut answer = http.get(format!("{base}/{}", file.url_path())).call()?;
        match answer.status().as_u16() {
            200 => {
                let mut bytes = Vec::new();
                // One byte more than allowed tells a file that is too long; the judge of the file says so.
                answer.body_mut().as_reader().take(max_len.saturating_add(1)).read_to_end(&mut bytes)?;
                Ok(Fetched::Bytes(bytes))
            }
            404 => Ok(Fetched::Absent),
            status => Ok(Fetched::Failed(format!("the server answered {status}"))),
        }
    }

    fn is_cancelled(&self, fetch: FetchId) -> bool {
        fetch.0 <= self.cancelled.load(Ordering::Relaxed)
    }

    fn blob(&self, fetch: FetchId, digest: Digest, length: u64, path: &Path, resume: bool) -> Result<(), BlobFailure> {
        let mut part = Part::open(path, length, resume)?;
        let mut piece = MIN_PIECE;
        while part.have < length {
            if self.is_cancelled(fetch) {
                return Err(network("given up for a newer assignment"));
            }
            let begun = Instant::now();
            self.piece(&mut part, &digest, length, piece)?;
            piece = if begun.elapsed() < FAST { (piece * 2).min(MAX_PIECE) } else { (piece / 2).max(MIN_PIECE) };
        }
        part.finish(&digest)
    }

    /// One request, added to what is there.
    fn piece(&self, part: &mut Part, digest: &Digest, length: u64, piece: u64) -> Result<(), BlobFailure> {
        let last = part.have.saturating_add(piece).min(length).saturating_sub(1);
        let Source { http, base } = self.source();
        let request = http.get(format!("{base}/blobs/{}", digest.hex()));
        let request = request.header("Range", format!("bytes={}-{last}", part.have)).header("If-Range", format!("\"{digest}\""));
        let mut answer = request.call().map_err(|error| network(said(&error)))?;
        let expected = match answer.status().as_u16() {
            206 => {
                let range = answer.headers().get("content-range").and_then(|value| value.to_str().ok()).unwrap_or_default();
                let (from, total) = parse_range(range).ok_or_else(|| network(format!("the server answered with the range {range:?}")))?;
                if total != length {
                    return Err(part.reject(BlobFailure::Length { got: total }));
                }
                if from != part.have {
                    return Err(network(format!("the server answered from byte {from}, asked was {}", part.have)));
                }
                last + 1
            }
            200 => {
                // The server does not know ranges, or has another file: from the beginning, whole.
                if let Some(total) = answer.body().content_length().filter(|total| *total != length) {
                    return Err(part.reject(BlobFailure::Length { got: total }));
                }
                part.restart()?;
                length
            }
            status => return Err(network(format!("the server answered {status}"))),
        };
        let mut reader = answer.body_mut().as_reader().take(expected.saturating_sub(part.have));
        let mut buffer = vec![0; BUFFER];
        while part.have < expected {
            match reader.read(&mut buffer).map_err(network)? {
                0 => return Err(network(format!("the server broke off after {} of {length} bytes", part.have))),
                n => part.add(buffer.get(..n).unwrap_or_default())?,
            }
        }
        Ok(())
    }
}

/// What went wrong, in our words where it was TLS.
fn said(error: &ureq::Error) -> String {
    tls::sentence(error).unwrap_or_else(|| error.to_string())
}

fn network(error: impl ToString) -> BlobFailure {
    BlobFailure::Network(error.to_string())
}

/// From and total of `bytes FROM-TO/TOTAL`.
fn parse_range(text: &str) -> Option<(u64, u64)> {
    let (range, total) = text.strip_prefix("bytes ")?.split_once('/')?;
    Some((range.split_once('-')?.0.parse().ok()?, total.parse().ok()?))
}

/// A file in staging, with the digest of what is in it so far.
struct Part {
    file: File,
    path: PathBuf,
    have: u64,
    hasher: Hasher,
}

impl Part {
    /// Open what is there, if it is to be added to, and digest it from the beginning. What is whole already is begun anew.
    fn open(path: &Path, length: u64, resume: bool) -> Result<Self, BlobFailure> {
        let mut hasher = Hasher::default();
        let there = match OpenOptions::new().read(true).write(true).open(path) {
            Ok(file) => Some(file).filter(|_| resume),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
            Err(error) => return Err(disk(path, &error)),
        };
        let mut part = match there {
            Some(file) => Self { file, path: path.to_owned(), have: 0, hasher: Hasher::default() },
            None => Self { file: create(path).map_err(|e| disk(path, &e))?, path: path.to_owned(), have: 0, hasher: Hasher::default() },
        };
        let mut buffer = vec![0; BUFFER];
        loop {
            let n = part.file.read(&mut buffer).map_err(|e| disk(path, &e))?;
            if n == 0 {
                break;
            }
            hasher.update(buffer.get(..n).unwrap_or_default());
            part.have = part.have.saturating_add(n as u64);
            if part.have > length {
                part.restart()?;
                return Ok(part);
            }
        }
        part.hasher = hasher;
        if resume && part.have == length {
            // It was never said to be synced, perhaps because its sync failed: a second one that succeeds would prove nothing.
            return Self::open(path, length, false);
        }
        Ok(part)
    }

    fn restart(&mut self) -> Result<(), BlobFailure> {
        let cleared = self.file.set_len(0).and_then(|()| self.file.seek(SeekFrom::Start(0)));
        cleared.map_err(|e| disk(&self.path, &e))?;
        (self.have, self.hasher) = (0, Hasher::default());
        Ok(())
    }

    fn add(&mut self, bytes: &[u8]) -> Result<(), BlobFailure> {
        self.file.write_all(bytes).map_err(|e| disk(&self.path, &e))?;
        self.hasher.update(bytes);
        self.have = self.have.saturating_add(bytes.len() as u64);
        Ok(())
    }

    /// Whole: judge it and make it durable.
    fn finish(mut self, digest: &Digest) -> Result<(), BlobFailure> {
        let got = std::mem::take(&mut self.hasher).finish();
        if got != *digest {
            return Err(self.reject(BlobFailure::Digest { got }));
        }
        self.file.sync_all().map_err(|e| disk(&self.path, &e))
    }

    /// What is there is of no use.
    fn reject(&self, failure: BlobFailure) -> BlobFailure {
        drop(std::fs::remove_file(&self.path));
        failure
    }
}

/// A disk that refused: what was being written is not to be trusted, and may be what fills it.
fn disk(path: &Path, error: &std::io::Error) -> BlobFailure {
    drop(std::fs::remove_file(path));
    if is_full(error) { BlobFailure::DiskFull } else { BlobFailure::Disk(error.to_string()) }
}

#[cfg(test)]
mod tests;
