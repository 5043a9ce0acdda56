//! The controller's directory: who may use it, which keys lie in it, which must not.
use std::fs::{self, File, TryLockError};
use std::io::Write as _;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use leeway_protocol::trust::keyring::{KeyFile, SigningKey};
use leeway_protocol::trust::repository::{Lifetimes, OnlineSigner};

use super::super::repository::Keychain;

/// The keys a controller holds, as files in its key directory.
pub const KEY_FILES: [&str; 3] = ["snapshot.key", "timestamp.key", "director.key"];
/// The documents a controller begins with, beside the keys: image root, image targets, director's root.
pub const METADATA_FILES: [&str; 3] = ["1.root.json", "1.targets.json", "director.1.root.json"];
/// Below the keys: their successors, held before a root names them.
pub const NEXT: &str = "next";
/// The largest file read from there.
const MAX_FILE_BYTES: u64 = 4 << 20;

/// What is wrong with the directory.
#[derive(Debug, thiserror::Error)]
pub enum HomeError {
    /// It cannot be made, read or written.
    #[error("{path} cannot be used: {source}")]
    Io {
        /// Which file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// Another controller runs on it.
    #[error("another controller runs on {0}: stop that one first, or choose another --data directory")]
    Locked(PathBuf),
    /// A key that belongs elsewhere.
    #[error(
        "{path} holds the key of {role:?}: move it away. A controller holds snapshot, timestamp and director keys only, so that whoever \
         breaks into it cannot release a model"
    )]
    Foreign {
        /// Where.
        path: PathBuf,
        /// What the key is for.
        role: String,
    },
    /// A file that should be there.
    #[error("{0} is missing: make keys with `leeway keys init`, and copy what it puts aside for the controller there")]
    Missing(PathBuf),
    /// A key file that is none.
    #[error("{path} cannot be used: {detail}")]
    Key {
        /// Where.
        path: PathBuf,
        /// What is wrong.
        detail: String,
    },
    /// Readable by others.
    #[error("{path} can be read by other users (mode {mode:o}): run chmod 600 {path}")]
    Open {
        /// Where.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
}

/// The directory, locked for as long as this lives.
#[derive(Debug)]
pub(super) struct Home {
    data: PathBuf,
    keys: PathBuf,
    _lock: File,
}

impl Home {
    pub(super) fn open(data: &Path, keys: Option<&Path>) -> Result<Self, HomeError> {
        fs::create_dir_all(data).map_err(|e| io(data, e))?;
        let lock_path = data.join("lock");
        let lock = fs::OpenOptions::new().write(true).create(true).truncate(false).open(&lock_path).map_err(|e| io(&lock_path, e))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(HomeError::Locked(data.to_owned())),
            Err(TryLockError::Error(e)) => return Err(io(&lock_path, e)),
        }
        let keys = keys.map_or_else(|| data.join("keys"), Path::to_owned);
        Ok(Self { data: data.to_owned(), keys, _lock: lock })
    }

    /// Where the keys lie.
    pub(super) fn keys(&self) -> &Path {
        &self.keys
    }

    /// The online keys and their successors in `next/`; refuses a directory that holds any other.
    pub(super) fn keychain(&self, lifetimes: Lifetimes) -> Result<Keychain, HomeError> {
        Self::refuse_foreign(&self.keys)?;
        let [snapshot, timestamp, director] = KEY_FILES.map(|name| Self::key(&self.keys, name));
        let current = OnlineSigner { snapshot: snapshot?, timestamp: timestamp?, director: director?, lifetimes };
        let folder = self.keys.join(NEXT);
        if !folder.is_dir() {
            return Ok(current.into());
        }
        Self::refuse_foreign(&folder)?;
        let [snapshot, timestamp, director] = KEY_FILES.map(|name| match folder.join(name).exists() {
            true => Self::key(&folder, name).map(Some),
            false => Ok(None),
        });
        Ok(Keychain { current, next: [snapshot?, timestamp?, director?] })
    }

    fn refuse_foreign(folder: &Path) -> Result<(), HomeError> {
        let entries = fs::read_dir(folder).map_err(|e| match e.kind() {
            std::io::ErrorKind::NotFound => HomeError::Missing(folder.join("snapshot.key")),
            _ => io(folder, e),
        })?;
        for entry in entries {
            let path = entry.map_err(|e| io(folder, e))?.path();
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            if KEY_FILES.contains(&name) || !path.is_file() {
                continue;
            }
            // By content and not by name: a key does not become another one by being renamed.
            if let Ok(text) = read(&path)
                && let Ok(file) = KeyFile::parse(&String::from_utf8_lossy(&text))
            {
                return Err(HomeError::Foreign { path, role: file.role });
            }
        }
        Ok(())
    }

    fn key(folder: &Path, name: &str) -> Result<SigningKey, HomeError> {
        let path = folder.join(name);
        let text = read(&path)?;
        let mode = fs::metadata(&path).map_err(|e| io(&path, e))?.permissions().mode() & 0o777;
        if mode & 0o077 != 0 {
            return Err(HomeError::Open { path, mode });
        }
        let parsed = KeyFile::parse(&String::from_utf8_lossy(&text));
        let file = parsed.map_err(|e| HomeError::Key { path: path.clone(), detail: e.to_string() })?;
        if format!("{}.key", file.role) != name {
            return Err(HomeError::Foreign { path, role: file.role });
        }
        Ok(file.key)
    }

    /// Image root, image targets, director's root.
    pub(super) fn metadata(&self) -> Result<[Vec<u8>; 3], HomeError> {
        let [root, targets, director] = METADATA_FILES.map(|name| read(&self.keys.join(name)));
        Ok([root?, targets?, director?])
    }

    /// The administrator's token, drawn at the first start.
    pub(super) fn admin_token<E: From<HomeError>>(&self, draw: impl FnOnce() -> Result<String, E>) -> Result<String, E> {
        let path = self.data.join("admin.token");
        match fs::read_to_string(&path) {
            Ok(token) if !token.trim().is_empty() => return Ok(token.trim().to_owned()),
            Ok(_) => {}
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
            Err(e) => return Err(io(&path, e).into()),
        }
        let token = draw()?;
        let written = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&path).and_then(|mut file| {
            writeln!(file, "{token}")?;
            file.sync_all()
        });
        written.map_err(|e| io(&path, e))?;
        Ok(token)
    }
}

fn io(path: &Path, source: std::io::Error) -> HomeError {
    HomeError::Io { path: path.to_owned(), source }
}

fn read(path: &Path) -> Result<Vec<u8>, HomeError> {
    let length = fs::metadata(path).map_err(|e| match e.kind() {
        std::io::ErrorKind::NotFound => HomeError::Missing(path.to_owned()),
        _ => io(path, e),
    })?;
    if length.len() > MAX_FILE_BYTES {
        return Err(HomeError::Key { path: path.to_owned(), detail: format!("it has more than {MAX_FILE_BYTES} bytes") });
    }
    fs::read(path).map_err(|e| io(path, e))
}
