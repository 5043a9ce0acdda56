//! Keys as metadata lists them, and how many of which a role needs.
use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{KeySet, MAX_KEYS, MetadataError, rule};
use crate::trust::keyring::{KeyId, PublicKey};

/// A public key as metadata lists it. Keys of other types are kept and never count.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Key {
    /// `ed25519` here.
    pub keytype: String,
    /// `ed25519` here.
    pub scheme: String,
    /// The key itself.
    pub keyval: KeyValue,
    /// Fields of other tools.
    #[serde(flatten)]
    pub rest: Map<String, Value>,
}

/// The key itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct KeyValue {
    /// Hex for ed25519.
    pub public: String,
    /// Fields of other tools.
    #[serde(flatten)]
    pub rest: Map<String, Value>,
}

impl Key {
    /// The key object of an ed25519 key.
    pub fn of(key: &PublicKey) -> Self {
        let keyval = KeyValue { public: key.hex(), rest: Map::new() };
        Self { keytype: "ed25519".to_owned(), scheme: "ed25519".to_owned(), keyval, rest: Map::new() }
    }

    /// The ed25519 key, if it is one.
    pub fn public(&self) -> Option<PublicKey> {
        let ours = self.keytype == "ed25519" && self.scheme == "ed25519";
        if ours { PublicKey::from_hex(&self.keyval.public).ok() } else { None }
    }
}

/// Which keys sign for a role, and how many of them are needed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RoleKeys {
    /// Names of keys; each at most once.
    pub keyids: Vec<KeyId>,
    /// How many distinct keys are needed; at least 1.
    pub threshold: u32,
}

impl RoleKeys {
    pub(super) fn check(&self, role: &str) -> Result<(), MetadataError> {
        if self.threshold == 0 {
            return rule(format!("the threshold of role {role} is 0: at least one signature is needed"));
        }
        if self.keyids.len() > MAX_KEYS {
            return rule(format!("role {role} lists {} keys, the bound is {MAX_KEYS}", self.keyids.len()));
        }
        let distinct: BTreeSet<_> = self.keyids.iter().collect();
        if distinct.len() != self.keyids.len() {
            return rule(format!("role {role} lists a key id twice"));
        }
        Ok(())
    }

    /// The usable keys among `known`.
    pub(crate) fn resolve<'a>(&'a self, role: &'a str, known: &BTreeMap<KeyId, Key>) -> KeySet<'a> {
        let keys = self.keyids.iter().filter_map(|id| Some((id, known.get(id)?.public()?))).collect();
        KeySet::new(role, keys, self.threshold)
    }
}
