//! The image repository and the director's root, as they are kept and served.
//!
//! Files are kept in the store byte for byte as they were signed: devices verify bytes, not meanings. What stays true: what is
//! served is what is in the store, changed only together with it.
use std::collections::BTreeMap;

use axum::body::Bytes;
use leeway_protocol::time::Timestamp;
use leeway_protocol::trust::repository::{Changes, OnlineSigner, RepositoryError, RepositoryState};
use leeway_protocol::trust::tuf::Persist;

use super::store::{Kind, Store, StoreError, Write};

/// In front of the director's files, in the store and in URLs.
pub const DIRECTOR: &str = "director/";

/// Everything that is served under `/tuf/`.
#[derive(Debug)]
pub struct Repository {
    /// The image repository.
    pub state: RepositoryState,
    /// The keys that this controller holds.
    pub signer: OnlineSigner,
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
    pub fn load(store: &Store, signer: &OnlineSigner) -> Result<Option<Self>, OpenError> {
        let files: BTreeMap<String, Vec<u8>> = store.docs(Kind::Tuf)?.into_iter().collect();
        if files.is_empty() {
            return Ok(None);
        }
        let image = files.iter().filter(|(name, _)| !name.starts_with(DIRECTOR)).map(|(name, bytes)| (name.clone(), bytes.clone()));
        let state = RepositoryState::open(image.collect())?;
        let served = files.into_iter().map(|(name, bytes)| (name, Bytes::from(bytes))).collect();
        Ok(Some(Self { state, signer: signer.clone(), served }))
    }

    /// A new repository from what the key ceremony signed, and what to write down for it.
    pub fn create(
        root: &[u8],
        targets: &[u8],
        director: &[u8],
        signer: &OnlineSigner,
        now: Timestamp,
    ) -> Result<(Self, Vec<Write>), RepositoryError> {
        let state = RepositoryState::create(root, targets, signer, now)?;
        let mut repository = Self { state, signer: signer.clone(), served: BTreeMap::new() };
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
