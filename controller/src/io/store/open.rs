//! Opening the file, opening it again after the disk failed under it, and telling people what is wrong with it.
use std::path::{Path, PathBuf};
use std::sync::{Arc, RwLock, RwLockReadGuard};

use redb::{Database, DatabaseError, ReadableTable as _, StorageBackend};

use super::layout::{DOCS, EVENTS, FORM, HISTORY, META, META_FORM, SUBJECTS};
use super::{StoreConfig, StoreError};

type Backend = dyn Fn() -> std::io::Result<Box<dyn StorageBackend>> + Send + Sync;

/// What the store lies on.
#[derive(Clone)]
pub struct Medium {
    path: PathBuf,
    backend: Option<Arc<Backend>>,
}

impl std::fmt::Debug for Medium {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Medium").field(&self.path).finish()
    }
}

impl Medium {
    /// A file.
    pub fn file(path: &Path) -> Self {
        Self { path: path.to_owned(), backend: None }
    }

    /// Something that behaves like a file, opened anew by `backend` after each failure.
    pub fn other(path: &Path, backend: Arc<Backend>) -> Self {
        Self { path: path.to_owned(), backend: Some(backend) }
    }

    fn open(&self, cache_bytes: usize) -> Result<Database, DatabaseError> {
        let mut builder = Database::builder();
        builder.set_cache_size(cache_bytes);
        match &self.backend {
            None => builder.create(&self.path),
            Some(backend) => builder.create_with_backend(Boxed(backend()?)),
        }
    }
}

/// Shared by the writer and all readers.
#[derive(Debug)]
pub(super) struct Shared {
    medium: Medium,
    pub(super) config: StoreConfig,
    /// `None` only between a failure and the next successful opening.
    db: RwLock<Option<Database>>,
}

impl Shared {
    pub(super) fn open(medium: Medium, config: StoreConfig) -> Result<Self, StoreError> {
        let shared = Self { medium, config, db: RwLock::new(None) };
        shared.reopen()?;
        shared.prepare()?;
        Ok(shared)
    }

    pub(super) fn path(&self) -> PathBuf {
        self.medium.path.clone()
    }

    /// The database, opened again if an earlier failure closed it. redb answers nothing after an I/O error until then.
    pub(super) fn db(&self) -> Result<Open<'_>, StoreError> {
        let guard = self.db.read().unwrap_or_else(std::sync::PoisonError::into_inner);
        if guard.is_some() {
            return Ok(Open(guard));
        }
        drop(guard);
        self.reopen()?;
        Ok(Open(self.db.read().unwrap_or_else(std::sync::PoisonError::into_inner)))
    }

    /// Close the database so that the next use opens it anew.
    pub(super) fn close(&self) {
        *self.db.write().unwrap_or_else(std::sync::PoisonError::into_inner) = None;
    }

    fn reopen(&self) -> Result<(), StoreError> {
        let mut slot = self.db.write().unwrap_or_else(std::sync::PoisonError::into_inner);
        if slot.is_some() {
            return Ok(());
        }
        // A damaged file must be an error whatever redb does about it.
        let opened = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| self.medium.open(self.config.cache_bytes)));
        *slot = Some(match opened {
            Ok(Ok(db)) => db,
            Ok(Err(error)) => return Err(self.database_error(error)),
            Err(_) => return Err(self.damaged("its pages do not hold together")),
        });
        Ok(())
    }

    /// Create the tables of a new file, and refuse a file of another form.
    fn prepare(&self) -> Result<(), StoreError> {
        let open = self.db()?;
        let transaction = open.db()?.begin_write().map_err(|e| self.redb(e))?;
        {
            let mut meta = transaction.open_table(META).map_err(|e| self.redb(e))?;
            let found = meta.get(META_FORM).map_err(|e| self.redb(e))?.map(|row| row.value());
            match found {
                None => {
                    meta.insert(META_FORM, FORM).map_err(|e| self.redb(e))?;
                }
                Some(FORM) => {}
                Some(found) => return Err(StoreError::Form { path: self.name(), found, known: FORM }),
            }
            transaction.open_table(DOCS).map_err(|e| self.redb(e))?;
            transaction.open_table(EVENTS).map_err(|e| self.redb(e))?;
            transaction.open_table(HISTORY).map_err(|e| self.redb(e))?;
            transaction.open_table(SUBJECTS).map_err(|e| self.redb(e))?;
        }
        transaction.commit().map_err(|e| self.redb(e))
    }

    fn name(&self) -> String {
        self.medium.path.display().to_string()
    }

    pub(super) fn damaged(&self, detail: impl std::fmt::Display) -> StoreError {
        StoreError::Damaged { path: self.name(), detail: detail.to_string() }
    }

    pub(super) fn io(&self, error: &std::io::Error) -> StoreError {
        match error.kind() {
            std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => StoreError::Full(self.name()),
            // What redb says of a file that is no database.
            std::io::ErrorKind::InvalidData | std::io::ErrorKind::UnexpectedEof => self.damaged(error),
            _ => StoreError::Io { path: self.name(), detail: error.to_string() },
        }
    }

    fn database_error(&self, error: DatabaseError) -> StoreError {
        match error {
            DatabaseError::DatabaseAlreadyOpen => StoreError::InUse(self.name()),
            DatabaseError::UpgradeRequired(found) => self.damaged(format!("file format {found}")),
            other => self.redb(other),
        }
    }

    /// Any other redb error in our words.
    pub(super) fn redb(&self, error: impl Into<redb::Error>) -> StoreError {
        match error.into() {
            redb::Error::Io(error) => self.io(&error),
            redb::Error::Corrupted(detail) => self.damaged(detail),
            redb::Error::DatabaseAlreadyOpen => StoreError::InUse(self.name()),
            other => StoreError::Io { path: self.name(), detail: other.to_string() },
        }
    }

    /// Whether redb answers nothing any more until the file is opened anew.
    pub(super) fn is_poisoned(error: &StoreError) -> bool {
        matches!(error, StoreError::Full(_) | StoreError::Io { .. })
    }
}

/// The database while it is held open.
pub(super) struct Open<'a>(RwLockReadGuard<'a, Option<Database>>);

impl Open<'_> {
    pub(super) fn db(&self) -> Result<&Database, StoreError> {
        self.0.as_ref().ok_or(StoreError::Closed)
    }
}

/// redb takes a sized backend.
#[derive(Debug)]
struct Boxed(Box<dyn StorageBackend>);

impl StorageBackend for Boxed {
    fn len(&self) -> std::io::Result<u64> {
        self.0.len()
    }
    fn read(&self, offset: u64, out: &mut [u8]) -> std::io::Result<()> {
        self.0.read(offset, out)
    }
    fn set_len(&self, len: u64) -> std::io::Result<()> {
        self.0.set_len(len)
    }
    fn sync_data(&self) -> std::io::Result<()> {
        self.0.sync_data()
    }
    fn write(&self, offset: u64, data: &[u8]) -> std::io::Result<()> {
        self.0.write(offset, data)
    }
    fn close(&self) -> std::io::Result<()> {
        self.0.close()
    }
}
