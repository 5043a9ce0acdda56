//! The image repository and the director's root, as they are kept and served.
//!
//! Files are kept in the store byte for byte as they were signed: devices verify bytes, not meanings. What stays true: what is
//! served is what is in the store, changed only together with it.
use std::collections::BTreeMap;

use axum::body::Bytes;
use leeway_protocol::time::Timestamp;
use leeway_protocol::trust::keyring::SigningKey;
use leeway_protocol::trust::metadata::{Document, Root};
use leeway_protocol::trust::repository::{Changes, OnlineSigner, RepositoryError, RepositoryState};
use leeway_protocol::trust::tuf::{MAX_ROOT_BYTES, Persist};

use super::store::{Kind, Store, StoreError, Write};

/// In front of the director's files, in the store and in URLs.
pub const DIRECTOR: &str = "director/";

/// The online keys that a controller holds: those it signs with, and those that a coming root will name.
///
/// A key cannot change before a root names its successor, and such a root cannot be taken in by a controller that does not hold
/// that successor. So both are held, and the root that counts says which of them signs; nothing on disk moves at that moment.
#[derive(Debug, Clone)]
pub struct Keychain {
    /// What a controller begins with.
    pub current: OnlineSigner,
    /// The successors, if there are any: snapshot, timestamp, director.
    pub next: [Option<SigningKey>; 3],
}

impl From<OnlineSigner> for Keychain {
    fn from(current: OnlineSigner) -> Self {
        Self { current, next: [None, None, None] }
    }
}

impl Keychain {
    /// Those that these roots name. One that they do not name stays the current one: signing then fails with a reason.
    pub fn signer(&self, image: &Root, director: Option<&Root>) -> OnlineSigner {
        let named = |root: &Root, role: &str, current: &SigningKey, next: &Option<SigningKey>| {
            let keys = root.keys_of(role);
            let held = [Some(current), next.as_ref()];
            held.into_iter().flatten().find(|key| keys.contains(&key.public())).unwrap_or(current).clone()
        };
        let (current, [snapshot, timestamp, next_director]) = (&self.current, &self.next);
        OnlineSigner {
            snapshot: named(image, "snapshot", &current.snapshot, snapshot),
            timestamp: named(image, "timestamp", &current.timestamp, timestamp),
            director: director.map_or_else(|| current.director.clone(), |root| named(root, "targets", &current.director, next_director)),
            lifetimes: current.lifetimes,
        }
    }
}

/// Everything that is served under `/tuf/`.
#[derive(Debug)]
pub struct Repository {
    /// The image repository.
    pub state: RepositoryState,
    /// The keys that the newest roots name, of those that this controller holds.
    pub signer: OnlineSigner,
    /// All that it holds.
    pub keys: Keychain,
    served: BTreeMap<String, Bytes>,
}

/// A repository that cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The files do not verify, or cannot be begun with.
    #[error(transparent)]
    Repository(#[from] RepositoryError),
}

impl Repository {
    /// What the store has, or `None` if nothing was begun there.
    pub fn load(store: &Store, keys: &Keychain) -> Result<Option<Self>, OpenError> {
        let files: BTreeMap<String, Vec<u8>> = store.docs(Kind::Tuf)?.into_iter().collect();
        if files.is_empty() {
            return Ok(None);
        }
        let image = files.iter().filter(|(name, _)| !name.starts_with(DIRECTOR)).map(|(name, bytes)| (name.clone(), bytes.clone()));
        let state = RepositoryState::open(image.collect())?;
        let served = files.into_iter().map(|(name, bytes)| (name, Bytes::from(bytes))).collect();
        let mut repository = Self { state, signer: keys.current.clone(), keys: keys.clone(), served };
        repository.choose_keys();
        Ok(Some(repository))
    }

    /// A new repository from what the key ceremony signed, and what to write down for it.
    pub fn create(
        root: &[u8],
        targets: &[u8],
        director: &[u8],
        keys: &Keychain,
        now: Timestamp,
    ) -> Result<(Self, Vec<Write>), RepositoryError> {
        let read = |bytes: &[u8]| Document::<Root>::parse(bytes, usize::try_from(MAX_ROOT_BYTES).unwrap_or(usize::MAX));
        let signer = keys.signer(read(root)?.claims(), Some(read(director)?.claims()));
        let state = RepositoryState::create(root, targets, &signer, now)?;
        let mut repository = Self { state, signer, keys: keys.clone(), served: BTreeMap::new() };
        let mut changes = Changes::default();
        for (name, bytes) in repository.state.files() {
            changes.write.push(Persist { file: name.clone(), bytes: bytes.clone() });
        }
        changes.write.push(Persist { file: format!("{DIRECTOR}1.root.json"), bytes: director.to_vec() });
        let writes = writes(&changes);
        repository.serve(&changes);
        Ok((repository, writes))
    }

    /// One served file.
    pub fn file(&self, name: &str) -> Option<Bytes> {
        self.served.get(name).cloned()
    }

    /// The newest root of the director.
    pub fn director_root(&self) -> Option<Bytes> {
        (1..).map_while(|n| self.file(&format!("{DIRECTOR}{n}.root.json"))).last()
    }

    /// Sign with what the newest roots name from now on.
    pub fn choose_keys(&mut self) {
        let max = usize::try_from(MAX_ROOT_BYTES).unwrap_or(usize::MAX);
        let director = self.director_root().and_then(|bytes| Document::<Root>::parse(&bytes, max).ok());
        self.signer = self.keys.signer(self.state.contents().root(), director.as_ref().map(Document::claims));
    }

    /// Serve what was written down.
    pub fn serve(&mut self, changes: &Changes) {
        for Persist { file, bytes } in &changes.write {
            self.served.insert(file.clone(), Bytes::from(bytes.clone()));
        }
        for file in &changes.remove {
            self.served.remove(file);
        }
    }
}

/// The same changes for the store.
pub fn writes(changes: &Changes) -> Vec<Write> {
    let put = changes.write.iter().map(|p| Write::Put { kind: Kind::Tuf, key: p.file.clone(), value: p.bytes.clone() });
    put.chain(changes.remove.iter().map(|file| Write::Delete { kind: Kind::Tuf, key: file.clone() })).collect()
}
