//! Ed25519 keys: the secret half, the public half, the file a key is kept in, and the name TUF gives a key.
//!
//! One signature scheme, checked with `verify_strict`: a second scheme would double what must be right on every device. (ECDSA
//! P-256 can be compiled in for repositories of other people, feature `p256`; Leeway itself never signs with it.) A public key
//! is accepted only in its one canonical encoding and never a small-order point, so "two distinct keys" means two distinct keys
//! when a threshold is counted. What stays true: `Debug` never shows a secret, and a key file whose two halves do not belong
//! together is refused.
use std::fmt;

use ed25519_dalek::Signer as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::canonical;
use crate::digest::Digest;

#[cfg(feature = "p256")]
mod p256;
#[cfg(feature = "p256")]
pub use self::p256::P256Key;

/// What is wrong with a key, a key file or a signature's text.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// Not 64 lower-case hex digits.
    #[error("a key is written as 64 lower-case hex digits")]
    NotHex,
    /// Not the canonical encoding of a usable point.
    #[error("these 32 bytes are not a usable ed25519 public key")]
    NotAKey,
    /// Not a P-256 public key in PEM.
    #[cfg(feature = "p256")]
    #[error("this text is not the PEM form of a P-256 public key")]
    NotP256,
    /// The file is not the JSON this module writes.
    #[error("not a leeway key file: make one with `leeway keys init`")]
    NotAKeyFile(#[source] serde_json::Error),
    /// A key type other than ed25519.
    #[error("key type {0:?} is not supported: use ed25519")]
    OtherType(String),
    /// The public half does not belong to the private half.
    #[error("the public key in this file does not belong to its private key: the file is damaged or was edited")]
    Mismatch,
}

/// A secret key. Made from 32 bytes that the caller drew from a good source.
#[derive(Clone)]
pub struct SigningKey(ed25519_dalek::SigningKey);

/// The public half of a key; orders and compares by its bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PublicKey([u8; 32]);

/// The 64 bytes of an Ed25519 signature.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Signature([u8; 64]);

/// TUF's name of a key: the SHA-256 of the canonical JSON of the public key object, in hex.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct KeyId(pub String);

impl SigningKey {
    /// The key that belongs to `seed`.
    pub fn from_seed(seed: &[u8; 32]) -> Self {
        Self(ed25519_dalek::SigningKey::from_bytes(seed))
    }

    /// The public half.
    pub fn public(&self) -> PublicKey {
        PublicKey(self.0.verifying_key().to_bytes())
    }

    /// Sign exactly these bytes. Callers separate their purposes by TUF's `_type` or by the DSSE pre-authentication encoding.
    pub fn sign(&self, message: &[u8]) -> Signature {
        Signature(self.0.sign(message).to_bytes())
    }

    /// A secret for one purpose, by HKDF-SHA256 (RFC 5869) from this key: it tells nothing about the key or about other purposes.
    pub fn derived(&self, salt: &[u8], purpose: &[u8]) -> [u8; 32] {
        let mac = |key: &[u8], parts: &[&[u8]]| -> [u8; 32] {
            use hmac::{KeyInit as _, Mac as _};
            // HMAC takes a key of any length.
            let Ok(mut mac) = hmac::Hmac::<sha2::Sha256>::new_from_slice(key) else { return [0; 32] };
            parts.iter().for_each(|part| mac.update(part));
            mac.finalize().into_bytes().into()
        };
        let extracted = mac(salt, &[&self.0.to_bytes()]);
        mac(&extracted, &[purpose, &[1]])
    }

    /// The text of a key file that says which `role` the key is for. Write it with mode 0600.
    pub fn to_key_file(&self, role: &str) -> String {
        let file = KeyFileJson {
            keytype: "ed25519".to_owned(),
            role: role.to_owned(),
            public: self.public().hex(),
            private: Digest::from_bytes(self.0.to_bytes()).hex(),
        };
        let mut text = serde_json::to_string_pretty(&file).unwrap_or_default();
        text.push('\n');
        text
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SigningKey(of {})", self.public())
    }
}

/// A key file, read and checked.
#[derive(Debug, Clone)]
pub struct KeyFile {
    /// What the key is for, as its maker noted it (`root`, `targets`, `<line>`, `<line>-auto`, `director`, …). Only a note:
    /// what a key may sign is decided by the metadata that lists it.
    pub role: String,
    /// The key.
    pub key: SigningKey,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct KeyFileJson {
    keytype: String,
    role: String,
    public: String,
    private: String,
}

impl KeyFile {
    /// Read the text of a key file.
    pub fn parse(text: &str) -> Result<Self, KeyError> {
        let file: KeyFileJson = serde_json::from_str(text).map_err(KeyError::NotAKeyFile)?;
        if file.keytype != "ed25519" {
            return Err(KeyError::OtherType(file.keytype));
        }
        let key = SigningKey::from_seed(&bytes_from_hex(&file.private).ok_or(KeyError::NotHex)?);
        if key.public() != PublicKey::from_hex(&file.public)? {
            return Err(KeyError::Mismatch);
        }
        Ok(Self { role: file.role, key })
    }
}

impl PublicKey {
    /// From its 32 bytes, if they are the canonical encoding of a point that is safe to verify with.
    pub fn from_bytes(bytes: &[u8; 32]) -> Result<Self, KeyError> {
        let key = ed25519_dalek::VerifyingKey::from_bytes(bytes).map_err(|_| KeyError::NotAKey)?;
        if key.is_weak() || key.to_edwards().compress().to_bytes() != *bytes {
            return Err(KeyError::NotAKey);
        }
        Ok(Self(*bytes))
    }

    /// From 64 lower-case hex digits.
    pub fn from_hex(hex: &str) -> Result<Self, KeyError> {
        Self::from_bytes(&bytes_from_hex(hex).ok_or(KeyError::NotHex)?)
    }

    /// The 32 bytes.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// 64 lower-case hex digits.
    pub fn hex(&self) -> String {
        Digest::from_bytes(self.0).hex()
    }

    /// Is `signature` this key's signature over exactly `message`?
    pub fn verifies(&self, message: &[u8], signature: &Signature) -> bool {
        let Ok(key) = ed25519_dalek::VerifyingKey::from_bytes(&self.0) else { return false };
        key.verify_strict(message, &ed25519_dalek::Signature::from_bytes(&signature.0)).is_ok()
    }

    /// The public key object as TUF metadata lists it.
    pub fn to_tuf(&self) -> serde_json::Value {
        serde_json::json!({ "keytype": "ed25519", "scheme": "ed25519", "keyval": { "public": self.hex() } })
    }

    /// TUF's name of this key.
    pub fn key_id(&self) -> KeyId {
        // The object holds three short strings and no number, so it always has a canonical form.
        let bytes = canonical::to_bytes(&self.to_tuf()).unwrap_or_default();
        KeyId(Digest::of(&bytes).hex())
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.hex())
    }
}
impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({})", self.hex())
    }
}
impl Serialize for PublicKey {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        if to.is_human_readable() { to.serialize_str(&self.hex()) } else { self.0.serialize(to) }
    }
}
impl<'de> Deserialize<'de> for PublicKey {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let key = if from.is_human_readable() {
            Self::from_hex(&String::deserialize(from)?)
        } else {
            Self::from_bytes(&<[u8; 32]>::deserialize(from)?)
        };
        key.map_err(serde::de::Error::custom)
    }
}

impl Signature {
    /// From its 64 bytes. Any bytes are allowed: whether they verify is asked of the key.
    pub fn from_bytes(bytes: [u8; 64]) -> Self {
        Self(bytes)
    }

    /// The 64 bytes.
    pub fn as_bytes(&self) -> &[u8; 64] {
        &self.0
    }

    /// 128 lower-case hex digits.
    pub fn hex(&self) -> String {
        use fmt::Write as _;
        self.0.iter().fold(String::with_capacity(128), |mut text, byte| {
            let _ = write!(text, "{byte:02x}");
            text
        })
    }

    /// From 128 lower-case hex digits.
    pub fn from_hex(hex: &str) -> Option<Self> {
        bytes_from_hex(hex).map(Self)
    }
}

impl fmt::Debug for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Signature({})", self.hex())
    }
}

fn bytes_from_hex<const N: usize>(hex: &str) -> Option<[u8; N]> {
    // The length is looked at first, so that a long text costs nothing.
    if hex.len() == N * 2 { bytes_of_hex(hex)?.try_into().ok() } else { None }
}

/// The bytes that lower-case hex digits stand for, however many.
pub(crate) fn bytes_of_hex(hex: &str) -> Option<Vec<u8>> {
    if !hex.len().is_multiple_of(2) || !hex.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b)) {
        return None;
    }
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
    hex.as_bytes().chunks(2).map(byte).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn derived_secrets_are_hkdf_sha256() {
        // Appendix A.1 of RFC 5869 has a key of 22 bytes; this value was computed with another implementation.
        let key = SigningKey::from_seed(&[0x0b; 32]);
        let derived = key.derived(&[0, 1, 2, 3], b"purpose");
        assert_eq!(Digest::from_bytes(derived).hex(), "46c9d14dfd1930dd2a711678faf6ad56be3e76ed5a1eca5a6a6bf4ee825c484e");
        assert_ne!(derived, key.derived(&[0, 1, 2, 3], b"another"));
        assert_ne!(derived, key.derived(&[0, 1, 2, 4], b"purpose"));
    }

    /// RFC 8032, section 7.1, test 1: a seed, its public key, and the signature of the empty message.
    const SEED: &str = "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60";
    const PUBLIC: &str = "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a";
    const SIGNED: &str =
        "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b";

    #[test]
    fn a_published_vector_signs_and_verifies_and_a_flipped_bit_does_not() {
        let key = SigningKey::from_seed(&bytes_from_hex(SEED).unwrap());
        assert_eq!(key.public().hex(), PUBLIC);
        let signature = key.sign(b"");
        assert_eq!(signature.hex(), SIGNED);
        assert!(key.public().verifies(b"", &signature));
        assert!(!key.public().verifies(b"x", &signature));
        let mut bytes = *signature.as_bytes();
        for at in 0..64 {
            bytes[at] ^= 1;
            assert!(!key.public().verifies(b"", &Signature::from_bytes(bytes)), "byte {at}");
            bytes[at] ^= 1;
        }
    }

    /// Made with the secret key: R is the neutral point, so that the plain equation holds and the strict one does not.
    const SMALL_R: &str = "a4891e33a334d8072916a4f6dbb444aa60171ecdef197f11f1f27f946953d30f";

    #[test]
    fn a_signature_with_a_small_order_point_is_none() {
        let key = SigningKey::from_seed(&[7; 32]).public();
        let bytes: [u8; 32] = bytes_from_hex(SMALL_R).unwrap();
        let mut signature = [0; 64];
        signature[0] = 1;
        signature[32..].copy_from_slice(&bytes);
        let plain = ed25519_dalek::VerifyingKey::from_bytes(key.as_bytes()).unwrap();
        assert!(ed25519_dalek::Verifier::verify(&plain, b"x", &ed25519_dalek::Signature::from_bytes(&signature)).is_ok());
        assert!(!key.verifies(b"x", &Signature::from_bytes(signature)));
    }

    #[test]
    fn the_key_id_is_the_one_other_tuf_tools_compute() {
        // sha256 of {"keytype":"ed25519","keyval":{"public":"d75a…"},"scheme":"ed25519"}
        let canonical = format!(r#"{{"keytype":"ed25519","keyval":{{"public":"{PUBLIC}"}},"scheme":"ed25519"}}"#);
        let key = PublicKey::from_hex(PUBLIC).unwrap();
        assert_eq!(key.key_id(), KeyId(Digest::of(canonical.as_bytes()).hex()));
    }

    #[test]
    fn a_key_file_round_trips_and_a_damaged_one_is_refused() {
        let key = SigningKey::from_seed(&[7; 32]);
        let text = key.to_key_file("root");
        let read = KeyFile::parse(&text).unwrap();
        assert_eq!((read.role.as_str(), read.key.public()), ("root", key.public()));
        let secret = Digest::from_bytes([7; 32]).hex();
        assert!(text.contains(&secret));
        assert!(!format!("{read:?}").contains(&secret[..8]), "Debug must not show the secret");
        let other = SigningKey::from_seed(&[8; 32]).public().hex();
        for bad in [
            text.replace(&key.public().hex(), &other),
            text.replace("ed25519", "rsa"),
            text.replace(&secret, "00"),
            text.replace("role", "roles"),
            String::new(),
        ] {
            assert!(KeyFile::parse(&bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn weak_and_non_canonical_public_keys_are_refused() {
        let mut identity = [0; 32];
        identity[0] = 1;
        // y = p + 3 is a second spelling of y = 3, which is a point of the curve.
        let mut plain = [0; 32];
        plain[0] = 3;
        assert!(PublicKey::from_bytes(&plain).is_ok());
        let mut spelled_again = [0xff; 32];
        spelled_again[0] = 0xf0;
        spelled_again[31] = 0x7f;
        for bad in [[0; 32], identity, [0xff; 32], spelled_again] {
            assert!(PublicKey::from_bytes(&bad).is_err(), "{bad:?}");
        }
        assert!(PublicKey::from_hex(&PUBLIC.to_uppercase()).is_err());
    }
}
