//! Keys as metadata lists them, the ones that this build can check signatures with, and how many of which a role needs.
use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{KeySet, MAX_KEYS, MetadataError, rule};
#[cfg(feature = "p256")]
use crate::trust::keyring::P256Key;
use crate::trust::keyring::{KeyId, PublicKey, Signature};

/// A public key as metadata lists it. Keys of other types are kept and never count.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Key {
    /// `ed25519`; other tools also write `ecdsa`.
    pub keytype: String,
    /// `ed25519`; other tools also write `ecdsa-sha2-nistp256`.
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
    /// Hex for ed25519, PEM for P-256.
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

    /// The key in the form that checks signatures, if this build knows its scheme.
    pub(super) fn verifier(&self) -> Option<Verifier> {
        match (self.keytype.as_str(), self.scheme.as_str()) {
            ("ed25519", "ed25519") => self.public().map(Verifier::Ed25519),
            // The second name is how older tools called the type.
            #[cfg(feature = "p256")]
            ("ecdsa" | "ecdsa-sha2-nistp256", "ecdsa-sha2-nistp256") => P256Key::from_pem(&self.keyval.public).ok().map(Verifier::P256),
            _ => None,
        }
    }
}

/// A key that signatures can be checked with. Compares by its material, so that one key under two ids is one key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Verifier {
    Ed25519(PublicKey),
    #[cfg(feature = "p256")]
    P256(P256Key),
}

impl Verifier {
    /// Is `signature` this key's over exactly `message`? Bytes of any other length or form are just not.
    pub(super) fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        match self {
            Self::Ed25519(key) => signature.try_into().is_ok_and(|bytes| key.verifies(message, &Signature::from_bytes(bytes))),
            #[cfg(feature = "p256")]
            Self::P256(key) => key.verifies(message, signature),
        }
    }

    pub(super) fn ed25519(&self) -> Option<&PublicKey> {
        match self {
            Self::Ed25519(key) => Some(key),
            #[cfg(feature = "p256")]
            Self::P256(_) => None,
        }
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
        let keys = self.keyids.iter().filter_map(|id| Some((id, known.get(id)?.verifier()?))).collect();
        KeySet::new(role, keys, self.threshold)
    }
}
