//! From a root that is trusted to the newest one, version by version, each signed by the old *and* by the new keys.
//!
//! Used for the image repository by [`super::Client`] and for the director by the caller directly. The newest root that was
//! made durable is where the next refresh starts; the root from the factory is only the floor.
use std::sync::Arc;

use super::{MAX_ROOT_BYTES, MAX_ROOT_HOPS, Persist, TufError};
use crate::trust::metadata::{Document, Root};

/// A verified root and the way forward from it.
#[derive(Debug, Clone)]
pub struct RootChain {
    root: Document<Root>,
    hops: u32,
}

impl RootChain {
    /// From the root that came with the program or device, and the one that was stored by an earlier refresh, if any. A stored
    /// root that is damaged or older is left aside: the way from the factory root is walked again.
    pub fn new(factory: &[u8], stored: Option<&[u8]>) -> Result<Self, TufError> {
        let factory = read("root.json", factory)?;
        let stored = stored.and_then(|bytes| read("root.json", bytes).ok());
        let root = stored.filter(|stored| stored.version() >= factory.version()).unwrap_or(factory);
        Ok(Self { root, hops: 0 })
    }

    /// The root that is trusted now.
    pub fn root(&self) -> &Root {
        self.root.claims()
    }

    /// Its bytes.
    pub fn bytes(&self) -> &[u8] {
        self.root.bytes()
    }

    /// The file to look for next; if it does not exist, the chain ends here.
    pub fn next_file(&self) -> String {
        format!("{}.root.json", self.root.version().saturating_add(1))
    }

    /// Judge the next root. What is returned must be durable before anything else happens.
    pub fn provide(&mut self, bytes: &[u8]) -> Result<Persist, TufError> {
        if self.hops >= MAX_ROOT_HOPS {
            return Err(TufError::TooManyRoots { max: MAX_ROOT_HOPS });
        }
        let file = self.next_file();
        let new = read(&file, bytes)?;
        let expected = self.root.version().saturating_add(1);
        if new.version() != expected {
            return Err(TufError::RootOrder { file, expected, got: new.version() });
        }
        new.verify(&self.root().keys_of("root")).map_err(|cause| TufError::Unsigned { file, cause })?;
        self.root = new;
        self.hops += 1;
        Ok(Persist { file: "root.json".to_owned(), bytes: bytes.to_vec() })
    }

    pub(super) fn restart(&mut self) {
        self.hops = 0;
    }
}

/// A root that is signed by its own keys.
fn read(file: &str, bytes: &[u8]) -> Result<Document<Root>, TufError> {
    let max = usize::try_from(MAX_ROOT_BYTES).unwrap_or(usize::MAX);
    let root = Document::<Root>::parse(bytes, max).map_err(|e| TufError::Malformed { file: file.to_owned(), cause: Arc::new(e) })?;
    root.verify(&root.claims().keys_of("root")).map_err(|cause| TufError::Unsigned { file: file.to_owned(), cause })?;
    Ok(root)
}
