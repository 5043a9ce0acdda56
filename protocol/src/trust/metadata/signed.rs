//! A document with signatures: read once, kept verbatim, opened only with enough distinct keys.
use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::keys::Verifier;
use super::{CanonicalError, Header, MAX_KEYS, MetadataError, Role, rule};
use crate::trust::canonical;
use crate::trust::keyring::{KeyId, PublicKey, SigningKey, bytes_of_hex};

/// Received metadata of one type. Its content is unchecked until [`Document::verify`] has compared it with a key set.
#[derive(Clone)]
pub struct Document<T> {
    content: T,
    canonical: Vec<u8>,
    signatures: Vec<(KeyId, Vec<u8>)>,
    bytes: Vec<u8>,
}

/// The keys of one role: what a document must be signed with.
#[derive(Debug, Clone)]
pub struct KeySet<'a> {
    role: &'a str,
    keys: BTreeMap<&'a KeyId, Verifier>,
    threshold: u32,
}

/// Too few signatures.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{role} is signed by {have} of the {need} distinct keys that are needed")]
pub struct ThresholdError {
    /// Whose signatures are missing.
    pub role: String,
    /// Valid signatures by distinct keys.
    pub have: u32,
    /// How many are needed.
    pub need: u32,
}

/// Why a document could not be signed.
#[derive(Debug, thiserror::Error)]
pub enum SignError {
    /// It has no JSON form.
    #[error("the document has no JSON form")]
    Json(#[source] serde_json::Error),
    /// It has no canonical form.
    #[error(transparent)]
    Canonical(#[from] CanonicalError),
    /// It breaks a rule that every reader checks.
    #[error("nobody would accept this document: {0}")]
    Unreadable(#[from] MetadataError),
}

#[derive(Serialize, Deserialize)]
struct Envelope {
    signatures: Vec<SignatureEntry>,
    signed: Value,
}

#[derive(Serialize, Deserialize)]
struct SignatureEntry {
    keyid: KeyId,
    sig: String,
}

impl<T: Role> Document<T> {
    /// Read at most `max` bytes. Checks form and type, not signatures and not expiry.
    pub fn parse(bytes: &[u8], max: usize) -> Result<Self, MetadataError> {
        let shape = |source| MetadataError::Shape { expected: T::TYPE, source };
        let envelope: Envelope = serde_json::from_value(canonical::parse(bytes, max)?).map_err(shape)?;
        // The type is looked at first, so that a document of another role is called by its name.
        let header = Header::deserialize(&envelope.signed).map_err(shape)?;
        header.check(T::TYPE)?;
        let canonical = canonical::to_bytes(&envelope.signed)?;
        let content: T = serde_json::from_value(envelope.signed).map_err(shape)?;
        content.check()?;
        if envelope.signatures.len() > MAX_KEYS {
            return rule(format!("{} signatures are more than the {MAX_KEYS} allowed", envelope.signatures.len()));
        }
        let distinct: BTreeSet<_> = envelope.signatures.iter().map(|s| &s.keyid).collect();
        if distinct.len() != envelope.signatures.len() {
            return rule("two signatures name the same key id");
        }
        // What is not hex is no signature of any scheme: it is read as an empty one, which never counts.
        let signatures = envelope.signatures.into_iter().map(|s| (s.keyid, bytes_of_hex(&s.sig).unwrap_or_default())).collect();
        Ok(Self { content, canonical, signatures, bytes: bytes.to_vec() })
    }

    /// The content, if enough distinct keys of `keys` signed it.
    pub fn verify(&self, keys: &KeySet<'_>) -> Result<&T, ThresholdError> {
        // Counted by key material: one key under two ids is one key.
        let mut signers = BTreeSet::new();
        for (id, signature) in &self.signatures {
            if let Some(key) = keys.keys.get(id)
                && !signers.contains(key)
                && key.verifies(&self.canonical, signature)
            {
                signers.insert(*key);
            }
        }
        let have = u32::try_from(signers.len()).unwrap_or(u32::MAX);
        if have < keys.threshold {
            return Err(ThresholdError { role: keys.role.to_owned(), have, need: keys.threshold });
        }
        Ok(&self.content)
    }

    /// The keys among `keys` whose signatures on this document are good, by name.
    pub fn signers<'a>(&self, keys: &KeySet<'a>) -> Vec<&'a KeyId> {
        let good =
            |id: &KeyId, key: &Verifier| self.signatures.iter().any(|(by, signature)| by == id && key.verifies(&self.canonical, signature));
        keys.keys.iter().filter(|(id, key)| good(id, key)).map(|(id, _)| *id).collect()
    }

    /// The key names that the signatures carry, good or not: whose they are is for the delegating document to say.
    pub fn claimed_signers(&self) -> impl Iterator<Item = &KeyId> {
        self.signatures.iter().map(|(id, _)| id)
    }

    /// The content without any check: what the document *claims*. For a root, which brings its own keys, and for signers.
    pub fn claims(&self) -> &T {
        &self.content
    }

    /// The received bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The version it claims.
    pub fn version(&self) -> u64 {
        self.content.header().version
    }
}

impl<T: Role> std::fmt::Debug for Document<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Document({} version {}, {} bytes)", T::TYPE, self.version(), self.bytes.len())
    }
}

impl<'a> KeySet<'a> {
    pub(crate) fn new(role: &'a str, keys: BTreeMap<&'a KeyId, Verifier>, threshold: u32) -> Self {
        Self { role, keys, threshold }
    }

    /// How many distinct keys must sign.
    pub fn threshold(&self) -> u32 {
        self.threshold
    }

    /// Can this role ever be signed for?
    pub fn can_be_met(&self) -> bool {
        let distinct: BTreeSet<_> = self.keys.values().collect();
        distinct.len() as u64 >= u64::from(self.threshold)
    }

    /// The Ed25519 keys: what signs messages outside of metadata.
    pub fn iter(&self) -> impl Iterator<Item = &PublicKey> {
        self.keys.values().filter_map(Verifier::ed25519)
    }

    /// Does `key` belong to this role?
    pub fn contains(&self, key: &PublicKey) -> bool {
        self.iter().any(|k| k == key)
    }
}

/// The bytes of `content` signed by `keys`.
pub fn sign<T: Role>(content: &T, keys: &[&SigningKey]) -> Result<Vec<u8>, SignError> {
    let signed = serde_json::to_value(content).map_err(SignError::Json)?;
    let message = canonical::to_bytes(&signed)?;
    content.header().check(T::TYPE)?;
    content.check()?;
    let entry = |key: &&SigningKey| (key.public().key_id(), key.sign(&message).hex());
    let signatures: BTreeMap<KeyId, String> = keys.iter().map(entry).collect();
    write(signed, signatures)
}

/// `bytes` with one more signature: how a threshold is met by people who are not in one room.
pub fn add_signature<T: Role>(bytes: &[u8], max: usize, key: &SigningKey) -> Result<Vec<u8>, SignError> {
    let document = Document::<T>::parse(bytes, max)?;
    let mut envelope: Envelope = serde_json::from_slice(bytes).map_err(SignError::Json)?;
    let id = key.public().key_id();
    envelope.signatures.retain(|entry| entry.keyid != id);
    envelope.signatures.push(SignatureEntry { keyid: id, sig: key.sign(&document.canonical).hex() });
    serde_json::to_vec(&envelope).map_err(SignError::Json)
}

fn write(signed: Value, signatures: BTreeMap<KeyId, String>) -> Result<Vec<u8>, SignError> {
    let signatures = signatures.into_iter().map(|(keyid, sig)| SignatureEntry { keyid, sig }).collect();
    serde_json::to_vec(&Envelope { signatures, signed }).map_err(SignError::Json)
}
