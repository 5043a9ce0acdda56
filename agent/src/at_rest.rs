//! Captured rows on the device's disk: encrypted, so that a stolen card or a copied backup says nothing about what the device saw.
//!
//! Only captured rows: counts, events and models say nothing of single inferences. Every file has a key of its own, made by HKDF from the
//! device's identity key and 32 fresh bytes that stand in front; so no key encrypts two files, no nonce can come twice, and nothing has to
//! be rotated: a device that is enrolled anew has a new identity, under which old files no longer open. The identity file (mode 0600)
//! is the secret: who has both has the rows. ChaCha20-Poly1305 from *ring*, which TLS brings anyway. The file's name is
//! authenticated with it, so that files cannot be exchanged for each other.
//!
//! What stays true: what is not whole and genuine is never given out, and never a panic.
use leeway_protocol::trust::keyring::SigningKey;
use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};

/// How an encrypted file begins. Files of earlier releases are signed envelopes, which begin otherwise.
const MAGIC: &[u8; 8] = b"LWREST1\n";
/// Fresh bytes in front of each file.
pub const SALT: usize = 32;
/// Bytes a file is longer than what is in it.
pub const OVERHEAD: usize = MAGIC.len() + SALT + 16;
/// What keys are for; another purpose would have another word.
const PURPOSE: &[u8] = b"leeway captured rows at rest, v1";

/// Seals and opens the files of one device.
#[derive(Clone)]
pub struct AtRest {
    identity: SigningKey,
}

/// A file that was torn, tampered with, renamed, or written under another identity.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("its captured rows are damaged, or were written under another identity of this device; they are given up")]
pub struct Damaged;

impl std::fmt::Debug for AtRest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("AtRest")
    }
}

impl AtRest {
    /// For the device with this identity.
    pub fn new(identity: SigningKey) -> Self {
        Self { identity }
    }

    fn key(&self, salt: &[u8]) -> Option<LessSafeKey> {
        let key = self.identity.derived(salt, PURPOSE);
        UnboundKey::new(&CHACHA20_POLY1305, &key).ok().map(LessSafeKey::new)
    }

    /// What is written in place of `bytes`; `salt` must be fresh.
    pub fn seal(&self, name: &str, salt: &[u8; SALT], bytes: &[u8]) -> Result<Vec<u8>, Damaged> {
        let mut sealed = Vec::with_capacity(bytes.len() + OVERHEAD);
        sealed.extend_from_slice(MAGIC);
        sealed.extend_from_slice(salt);
        let mut body = bytes.to_vec();
        let key = self.key(salt).ok_or(Damaged)?;
        key.seal_in_place_append_tag(nonce(), Aad::from(name.as_bytes()), &mut body).map_err(|_| Damaged)?;
        sealed.append(&mut body);
        Ok(sealed)
    }

    /// What was sealed; a file of a release before there was encryption as it is.
    pub fn open(&self, name: &str, file: Vec<u8>) -> Result<Vec<u8>, Damaged> {
        let Some(rest) = file.strip_prefix(MAGIC) else {
            // Those are JSON; anything else is ours with a damaged head.
            return if file.starts_with(b"{") { Ok(file) } else { Err(Damaged) };
        };
        let (salt, body) = rest.split_at_checked(SALT).ok_or(Damaged)?;
        let key = self.key(salt).ok_or(Damaged)?;
        let mut body = body.to_vec();
        let length = key.open_in_place(nonce(), Aad::from(name.as_bytes()), &mut body).map_err(|_| Damaged)?.len();
        body.truncate(length);
        Ok(body)
    }
}

/// The same for every file, since no two have the same key.
fn nonce() -> Nonce {
    Nonce::assume_unique_for_key([0; 12])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device(seed: u8) -> AtRest {
        AtRest::new(SigningKey::from_seed(&[seed; 32]))
    }

    #[test]
    fn what_is_sealed_opens_for_its_device_under_its_name_only() {
        let secret = b"{\"payload\":\"a face\"}";
        let sealed = device(1).seal("1-2-3.capture", &[7; SALT], secret).unwrap();
        assert_eq!(sealed.len(), secret.len() + OVERHEAD);
        assert!(!sealed.windows(4).any(|w| w == b"face"));
        assert_eq!(device(1).open("1-2-3.capture", sealed.clone()).unwrap(), secret);
        assert_eq!(device(1).open("1-2-4.capture", sealed.clone()), Err(Damaged));
        assert_eq!(device(2).open("1-2-3.capture", sealed.clone()), Err(Damaged));
        assert_ne!(sealed, device(1).seal("1-2-3.capture", &[8; SALT], secret).unwrap());
        assert_eq!(device(1).open("old.capture", secret.to_vec()).unwrap(), secret, "a release before this one wrote it");
    }

    #[test]
    fn every_damage_is_noticed_and_none_panics() {
        let sealed = device(1).seal("a", &[7; SALT], b"rows").unwrap();
        for length in 0..sealed.len() {
            assert_eq!(device(1).open("a", sealed[..length].to_vec()), Err(Damaged), "cut to {length}");
        }
        for at in 0..sealed.len() {
            let mut bent = sealed.clone();
            bent[at] ^= 1;
            assert_eq!(device(1).open("a", bent), Err(Damaged), "byte {at}");
        }
    }
}
