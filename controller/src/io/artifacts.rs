//! Models, manifests and datasets on disk, each under the digest of its bytes.
//!
//! A blob is streamed into `staging/`, hashed on the way, synced, and only then renamed into `blobs/`: a name in `blobs/` always
//! has the bytes it says, after a power cut too. Served from a bounded cache of whole files (a fleet fetches the same model at
//! the same time), larger ones from the disk piece by piece. What stays true: nothing is ever changed in place.
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use axum::body::Bytes;
use leeway_protocol::digest::{Digest, Hasher};
use leeway_protocol::manifest::{Blob, MAX_MODEL_BYTES};
use tokio::fs::{self, File};
use tokio::io::{AsyncReadExt as _, AsyncSeekExt as _, AsyncWriteExt as _};
use tokio::sync::OnceCell;

/// Bytes of blobs kept in memory: a few releases of every line.
const MAX_CACHED_BYTES: u64 = 256 << 20;
/// A blob above this is not cached: it would push everything else out.
const MAX_CACHED_BLOB: u64 = 64 << 20;
/// Uploads at one time; each holds a file handle and up to [`MAX_MODEL_BYTES`] of disk.
const MAX_UPLOADS: usize = 16;

/// A blob that could not be stored or read.
#[derive(Debug, thiserror::Error)]
pub enum BlobError {
    /// The disk.
    #[error("the file {path} could not be written or read: {source}")]
    Io {
        /// Which file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// No room left.
    #[error("the disk that holds {0} is full: free some space and upload again")]
    Full(PathBuf),
    /// Other bytes than announced.
    #[error("the upload has digest {got}, announced was {expected}: it was damaged on the way or is another file")]
    Digest {
        /// What was announced.
        expected: Digest,
        /// What came.
        got: Digest,
    },
    /// Too many bytes.
    #[error("the upload has more than {0} bytes, the bound")]
    TooLarge(u64),
    /// The file no longer has its bytes.
    #[error("the file {0} no longer has the bytes of its name: the disk damaged it; upload it again")]
    Rotten(PathBuf),
    /// Too many at one time.
    #[error("{MAX_UPLOADS} uploads are under way already: try again shortly")]
    Busy,
}

/// The blobs of one data directory. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Blobs {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    blobs: PathBuf,
    staging: PathBuf,
    uploads: Arc<tokio::sync::Semaphore>,
    serial: std::sync::atomic::AtomicU64,
    cache: Mutex<Cache>,
}

/// Whole files by digest, the least recently used dropped first.
#[derive(Debug, Default)]
struct Cache {
    entries: BTreeMap<Digest, (u64, Arc<OnceCell<Bytes>>)>,
    used: u64,
}

/// What is served for a blob.
#[derive(Debug, Clone)]
pub enum Content {
    /// The whole file.
    Memory(Bytes),
    /// Too large for memory: read with [`Blobs::read`].
    Disk {
        /// Its length.
        length: u64,
    },
}

impl Content {
    /// Length in bytes.
    pub fn length(&self) -> u64 {
        match self {
            Self::Memory(bytes) => bytes.len() as u64,
            Self::Disk { length } => *length,
        }
    }
}

impl Blobs {
    /// Open or create `blobs/` and an empty `staging/` in `data`.
    pub fn open(data: &Path) -> Result<Self, BlobError> {
        let (blobs, staging) = (data.join("blobs"), data.join("staging"));
        // Uploads that a crash cut off are of no use to anyone.
        let _ = std::fs::remove_dir_all(&staging);
        for dir in [&blobs, &staging] {
            std::fs::create_dir_all(dir).map_err(|e| failed(dir, e))?;
        }
        let uploads = Arc::new(tokio::sync::Semaphore::new(MAX_UPLOADS));
        let inner = Inner { blobs, staging, uploads, serial: std::sync::atomic::AtomicU64::new(0), cache: Mutex::default() };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Where a blob is; whether it is there is another question.
    pub fn path(&self, digest: Digest) -> PathBuf {
        self.inner.blobs.join(digest.hex())
    }

    /// Its length, if it is there.
    pub async fn length(&self, digest: Digest) -> Option<u64> {
        fs::metadata(self.path(digest)).await.ok().map(|meta| meta.len())
    }

    /// Whether it is there with this length.
    pub async fn has(&self, blob: Blob) -> bool {
        self.length(blob.digest).await == Some(blob.length)
    }

    /// A file of its own in `staging/`, for input of a child process; gone after the next start.
    pub fn scratch(&self, name: &str) -> PathBuf {
        let serial = self.inner.serial.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        self.inner.staging.join(format!("{serial}-{name}"))
    }

    /// Begin an upload of at most `max` bytes; if `expected` is given, other bytes are refused.
    pub async fn begin(&self, expected: Option<Digest>, max: u64) -> Result<Upload, BlobError> {
        let permit = Arc::clone(&self.inner.uploads).try_acquire_owned().map_err(|_| BlobError::Busy)?;
        let path = self.scratch("upload");
        let file = File::create(&path).await.map_err(|e| failed(&path, e))?;
        let max = max.min(MAX_MODEL_BYTES);
        Ok(Upload { blobs: self.clone(), file: Some(file), path, expected, max, length: 0, hasher: Hasher::default(), _permit: permit })
    }

    /// Store bytes that are in memory.
    pub async fn put(&self, bytes: &[u8]) -> Result<Blob, BlobError> {
        let blob = Blob::of(bytes);
        if self.has(blob).await {
            return Ok(blob);
        }
        let mut upload = self.begin(Some(blob.digest), blob.length).await?;
        upload.write(bytes).await?;
        upload.finish().await
    }

    /// What to serve for a blob, or `None` if it is not there.
    pub async fn content(&self, digest: Digest) -> Result<Option<Content>, BlobError> {
        let Some(length) = self.length(digest).await else { return Ok(None) };
        if length > MAX_CACHED_BLOB {
            return Ok(Some(Content::Disk { length }));
        }
        let cell = self.cell(digest, length);
        let bytes = cell.get_or_try_init(|| self.load(digest)).await;
        if bytes.is_err() {
            self.forget(digest);
        }
        Ok(Some(Content::Memory(bytes?.clone())))
    }

    /// The whole of a blob in memory, if it is there and has at most `max` bytes.
    pub async fn bytes(&self, digest: Digest, max: u64) -> Result<Option<Bytes>, BlobError> {
        match self.length(digest).await {
            None => Ok(None),
            Some(length) if length > max => Err(BlobError::TooLarge(max)),
            Some(_) => match self.content(digest).await? {
                Some(Content::Memory(bytes)) => Ok(Some(bytes)),
                _ => self.load(digest).await.map(Some),
            },
        }
    }

    /// `length` bytes of a blob from `start` on.
    pub async fn read(&self, digest: Digest, start: u64, length: usize) -> Result<Bytes, BlobError> {
        let path = self.path(digest);
        let read = async {
            let mut file = File::open(&path).await?;
            file.seek(std::io::SeekFrom::Start(start)).await?;
            let mut bytes = vec![0; length];
            file.read_exact(&mut bytes).await?;
            Ok(Bytes::from(bytes))
        };
        read.await.map_err(|e| failed(&path, e))
    }

    async fn load(&self, digest: Digest) -> Result<Bytes, BlobError> {
        let path = self.path(digest);
        let bytes = fs::read(&path).await.map_err(|e| failed(&path, e))?;
        if Digest::of(&bytes) != digest {
            return Err(BlobError::Rotten(path));
        }
        Ok(Bytes::from(bytes))
    }

    fn cell(&self, digest: Digest, length: u64) -> Arc<OnceCell<Bytes>> {
        let mut cache = self.inner.cache.lock().unwrap_or_else(PoisonError::into_inner);
        cache.used += 1;
        let used = cache.used;
        let known = cache.entries.contains_key(&digest);
        let cell = {
            let entry = cache.entries.entry(digest).or_default();
            entry.0 = used;
            Arc::clone(&entry.1)
        };
        if !known {
            cache.make_room(length);
        }
        cell
    }

    fn forget(&self, digest: Digest) {
        self.inner.cache.lock().unwrap_or_else(PoisonError::into_inner).entries.remove(&digest);
    }
}

impl Cache {
    fn make_room(&mut self, more: u64) {
        let size = |entries: &BTreeMap<Digest, (u64, Arc<OnceCell<Bytes>>)>| -> u64 {
            entries.values().map(|(_, cell)| cell.get().map_or(0, |bytes| bytes.len() as u64)).sum()
        };
        while size(&self.entries) + more > MAX_CACHED_BYTES {
            let oldest = self.entries.iter().filter(|(_, (_, cell))| cell.initialized()).min_by_key(|(_, (used, _))| *used);
            let Some(digest) = oldest.map(|(digest, _)| *digest) else { return };
            self.entries.remove(&digest);
        }
    }
}

/// A blob on its way in; dropped before [`Upload::finish`], it leaves nothing behind.
#[derive(Debug)]
pub struct Upload {
    blobs: Blobs,
    file: Option<File>,
    path: PathBuf,
    expected: Option<Digest>,
    max: u64,
    length: u64,
    hasher: Hasher,
    _permit: tokio::sync::OwnedSemaphorePermit,
}

impl Upload {
    /// Add the next bytes.
    pub async fn write(&mut self, bytes: &[u8]) -> Result<(), BlobError> {
        self.length += bytes.len() as u64;
        if self.length > self.max {
            return Err(BlobError::TooLarge(self.max));
        }
        self.hasher.update(bytes);
        match &mut self.file {
            Some(file) => file.write_all(bytes).await.map_err(|e| failed(&self.path, e)),
            None => Ok(()),
        }
    }

    /// Check, make durable, and put in place.
    pub async fn finish(mut self) -> Result<Blob, BlobError> {
        let got = std::mem::take(&mut self.hasher).finish();
        if let Some(expected) = self.expected.filter(|expected| *expected != got) {
            return Err(BlobError::Digest { expected, got });
        }
        let target = self.blobs.path(got);
        if let Some(mut file) = self.file.take() {
            let durable = async {
                file.flush().await?;
                file.sync_all().await?;
                fs::rename(&self.path, &target).await?;
                File::open(&self.blobs.inner.blobs).await?.sync_all().await
            };
            durable.await.map_err(|e| failed(&target, e))?;
        }
        // A damaged file of this name may have been cached as missing or rotten.
        self.blobs.forget(got);
        Ok(Blob { digest: got, length: self.length })
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        // After `finish` the name is gone already.
        let _ = std::fs::remove_file(&self.path);
    }
}

fn failed(path: &Path, source: std::io::Error) -> BlobError {
    match source.kind() {
        std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => BlobError::Full(path.to_owned()),
        _ => BlobError::Io { path: path.to_owned(), source },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_goes_in_comes_out_under_its_digest() {
        let dir = tempfile::tempdir().unwrap();
        let blobs = Blobs::open(dir.path()).unwrap();
        let blob = blobs.put(b"a model").await.unwrap();
        assert_eq!(blob, Blob::of(b"a model"));
        assert!(blobs.has(blob).await);
        let Some(Content::Memory(bytes)) = blobs.content(blob.digest).await.unwrap() else { panic!("not in memory") };
        assert_eq!(&bytes[..], b"a model");
        assert_eq!(&blobs.read(blob.digest, 2, 3).await.unwrap()[..], b"mod");
        assert!(blobs.content(Digest::of(b"other")).await.unwrap().is_none());
        let reopened = Blobs::open(dir.path()).unwrap();
        assert!(reopened.has(blob).await);
    }

    #[tokio::test]
    async fn wrong_bytes_too_many_bytes_and_given_up_uploads_leave_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let blobs = Blobs::open(dir.path()).unwrap();
        let mut upload = blobs.begin(Some(Digest::of(b"right")), 100).await.unwrap();
        upload.write(b"wrong").await.unwrap();
        assert!(matches!(upload.finish().await, Err(BlobError::Digest { .. })));
        let mut upload = blobs.begin(None, 3).await.unwrap();
        assert!(matches!(upload.write(b"four").await, Err(BlobError::TooLarge(3))));
        drop(upload);
        for name in ["blobs", "staging"] {
            assert_eq!(std::fs::read_dir(dir.path().join(name)).unwrap().count(), 0, "{name}");
        }
        let held: Vec<_> = futures_all((0..MAX_UPLOADS).map(|_| blobs.begin(None, 1))).await;
        assert!(matches!(blobs.begin(None, 1).await, Err(BlobError::Busy)));
        drop(held);
        assert!(blobs.begin(None, 1).await.is_ok());
    }

    async fn futures_all<F: Future<Output = Result<Upload, BlobError>>>(all: impl Iterator<Item = F>) -> Vec<Upload> {
        let mut out = Vec::new();
        for one in all {
            out.push(one.await.unwrap());
        }
        out
    }

    #[tokio::test]
    async fn rot_is_noticed_and_a_new_upload_cures_it() {
        let dir = tempfile::tempdir().unwrap();
        let blobs = Blobs::open(dir.path()).unwrap();
        let blob = blobs.put(b"a model").await.unwrap();
        std::fs::write(blobs.path(blob.digest), b"a nodel").unwrap();
        assert!(matches!(blobs.content(blob.digest).await, Err(BlobError::Rotten(_))));
        let mut upload = blobs.begin(Some(blob.digest), 7).await.unwrap();
        upload.write(b"a model").await.unwrap();
        upload.finish().await.unwrap();
        assert!(blobs.content(blob.digest).await.unwrap().is_some());
    }

    #[test]
    fn the_cache_is_bounded() {
        let mut cache = Cache::default();
        for i in 0..10u8 {
            cache.used += 1;
            let cell = OnceCell::new_with(Some(Bytes::from(vec![i; (MAX_CACHED_BYTES / 8) as usize])));
            cache.make_room(MAX_CACHED_BYTES / 8);
            cache.entries.insert(Digest::of(&[i]), (cache.used, Arc::new(cell)));
        }
        assert_eq!(cache.entries.len(), 8);
        assert!(cache.entries.contains_key(&Digest::of(&[9])) && !cache.entries.contains_key(&Digest::of(&[0])));
    }
}
