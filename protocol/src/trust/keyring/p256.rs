//! ECDSA P-256 public keys, for metadata that other people's tools signed. Leeway's own keys are Ed25519.
//!
//! Kept as the uncompressed point, whatever form it came in, so that one key is one value when a threshold is counted. What
//! stays true: only the one DER header that a P-256 key has is read, so there is no general ASN.1 reader to get wrong.
use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use p256::ecdsa::signature::Verifier as _;
use p256::ecdsa::{Signature, VerifyingKey};

use super::KeyError;

/// `SubjectPublicKeyInfo` of a P-256 key up to the point, which has 65 bytes.
const PLAIN: [u8; 26] = header(0x59, 0x42);
/// The same before a compressed point, which has 33.
const COMPRESSED: [u8; 26] = header(0x39, 0x22);
/// The longest PEM text: a key needs 180 characters, the rest is room for line breaks.
const MAX_PEM: usize = 1024;

/// Sequence, algorithm (id-ecPublicKey on prime256v1), bit string without unused bits.
const fn header(sequence: u8, bits: u8) -> [u8; 26] {
    [
        0x30, sequence, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03,
        0x01, 0x07, 0x03, bits, 0x00,
    ]
}

/// A P-256 public key; orders and compares by its point.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct P256Key([u8; 65]);

impl P256Key {
    /// From the PEM text (`BEGIN PUBLIC KEY`) that TUF metadata holds.
    pub fn from_pem(text: &str) -> Result<Self, KeyError> {
        let body = text.trim().strip_prefix("-----BEGIN PUBLIC KEY-----").and_then(|rest| rest.strip_suffix("-----END PUBLIC KEY-----"));
        let body = body.filter(|_| text.len() <= MAX_PEM).ok_or(KeyError::NotP256)?;
        let body: String = body.split_ascii_whitespace().collect();
        let der = STANDARD.decode(body).map_err(|_| KeyError::NotP256)?;
        let point = match (der.strip_prefix(&PLAIN), der.strip_prefix(&COMPRESSED)) {
            (Some(point @ [0x04, ..]), _) if point.len() == 65 => point,
            (_, Some(point @ [0x02 | 0x03, ..])) if point.len() == 33 => point,
            _ => return Err(KeyError::NotP256),
        };
        Self::from_point(point)
    }

    /// From a point in SEC1 form; points that are not on the curve are refused.
    fn from_point(point: &[u8]) -> Result<Self, KeyError> {
        let key = VerifyingKey::from_sec1_bytes(point).map_err(|_| KeyError::NotP256)?;
        let plain = key.to_sec1_point(false);
        plain.as_bytes().try_into().map(Self).map_err(|_| KeyError::NotP256)
    }

    /// Is `signature` (DER, as TUF has it) this key's signature over exactly `message`?
    pub fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        let (Ok(key), Ok(signature)) = (VerifyingKey::from_sec1_bytes(&self.0), Signature::from_der(signature)) else { return false };
        key.verify(message, &signature).is_ok()
    }

    /// The PEM text of this key.
    pub fn to_pem(&self) -> String {
        let mut der = PLAIN.to_vec();
        der.extend_from_slice(&self.0);
        let body = STANDARD.encode(der);
        // 124 characters: two lines of at most 64.
        let (first, second) = body.split_at(64);
        format!("-----BEGIN PUBLIC KEY-----\n{first}\n{second}\n-----END PUBLIC KEY-----\n")
    }
}

impl fmt::Debug for P256Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("P256Key(")?;
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))?;
        f.write_str(")")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 6979, appendix A.2.5: the public key, and the signature of "sample" with SHA-256.
    const POINT: &str = "0460fed4ba255a9d31c961eb74c6356d68c049b8923b61fa6ce669622e60f29fb67903fe1008b8bc99a41ae9e95628bc64f2f1b20c2d7e9f5177a3c294d4462299";
    const R: &str = "efd48b2aacb6a8fd1140dd9cd45e81d69d2c877b56aaf991c34d0ea84eaf3716";
    const S: &str = "f7cb1c942d657c41d436c7a1b6e29f65f3e900dbb9aff4064dc4ab2f843acda8";

    fn hex(text: &str) -> Vec<u8> {
        crate::trust::keyring::bytes_of_hex(text).unwrap()
    }

    fn key() -> P256Key {
        P256Key::from_point(&hex(POINT)).unwrap()
    }

    /// Both numbers have their top bit set, so each needs a leading zero.
    fn signature() -> Vec<u8> {
        hex(&format!("3046022100{R}022100{S}"))
    }

    #[test]
    fn a_published_vector_verifies_and_a_flipped_bit_does_not() {
        assert!(key().verifies(b"sample", &signature()));
        assert!(!key().verifies(b"test", &signature()));
        for at in 0..signature().len() {
            let mut damaged = signature();
            damaged[at] ^= 1;
            assert!(!key().verifies(b"sample", &damaged), "byte {at}");
        }
        for len in 0..signature().len() {
            assert!(!key().verifies(b"sample", &signature()[..len]), "cut to {len}");
        }
        let mut longer = signature();
        longer.push(0);
        assert!(!key().verifies(b"sample", &longer), "a byte too many");
        assert!(!key().verifies(b"sample", &hex(&format!("{R}{S}"))), "not in DER");
    }

    #[test]
    fn two_spellings_of_one_key_are_one_key_and_other_things_are_none() {
        assert_eq!(P256Key::from_pem(&key().to_pem()).unwrap(), key());
        let spelled = |der: &[u8]| format!("-----BEGIN PUBLIC KEY-----\r\n{}\r\n-----END PUBLIC KEY-----", STANDARD.encode(der));
        let point = hex(POINT);
        // y is odd.
        let compressed = [&COMPRESSED[..], &[0x03], &point[1..33]].concat();
        assert_eq!(P256Key::from_pem(&spelled(&compressed)).unwrap(), key());
        let other_half = [&COMPRESSED[..], &[0x02], &point[1..33]].concat();
        assert_ne!(P256Key::from_pem(&spelled(&other_half)).unwrap(), key());

        let plain = [&PLAIN[..], &point[..]].concat();
        assert!(P256Key::from_pem(&spelled(&plain)).is_ok());
        let off_the_curve = [&PLAIN[..], &point[..64], &[0x98]].concat();
        let other_curve = { [&plain[..22], &[0x06], &plain[23..]].concat() };
        let longer = [&plain[..], &[0]].concat();
        let infinity = [&PLAIN[..], &[0]].concat();
        for bad in [&off_the_curve[..], &other_curve, &longer, &infinity, &plain[..90], &point, &[]] {
            assert!(P256Key::from_pem(&spelled(bad)).is_err(), "{bad:02x?}");
        }
        let pem = key().to_pem();
        for bad in [pem.replace("PUBLIC", "PRIVATE"), pem.replace('M', "!"), pem.replace('\n', &"\n".repeat(500)), POINT.to_owned()] {
            assert!(P256Key::from_pem(&bad).is_err(), "{bad}");
        }
    }
}
