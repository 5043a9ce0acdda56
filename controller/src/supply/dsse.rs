//! The DSSE envelope in JSON: a payload, its type, and signatures over both together.
//!
//! What is signed are the payload's exact bytes behind their type (`pae`), so nothing is parsed before a signature was checked,
//! and nothing is written anew to check it. What stays true: [`Envelope::open`] is the only way to a payload.
use base64::Engine as _;
use base64::alphabet::STANDARD as ALPHABET;
use base64::engine::DecodePaddingMode;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig, STANDARD};
use leeway_protocol::trust::canonical;
use leeway_protocol::trust::envelope::pae;
use serde::{Deserialize, Serialize};

use super::MAX_DOCUMENT_BYTES;

/// Signatures an envelope may have: a handful of people at most.
const MAX_SIGNATURES: usize = 16;

/// An envelope as it is written. Fields that others add are not read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Envelope {
    payload: String,
    payload_type: String,
    signatures: Vec<Signature>,
}

/// One signature; the key's name is a hint and decides nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Signature {
    sig: String,
    #[serde(default)]
    keyid: String,
}

/// Why an envelope was not opened.
#[derive(Debug, thiserror::Error)]
pub enum EnvelopeError {
    /// Not JSON, or with a key twice, or too long.
    #[error("it is not a document of this form")]
    Json(#[from] canonical::JsonError),
    /// Parts are missing or have another type.
    #[error("it is not a DSSE envelope: {0}")]
    Form(#[source] serde_json::Error),
    /// Text that is not base64.
    #[error("its payload or a signature is not base64")]
    Base64,
    /// Another payload type.
    #[error("its payload has type {got:?}, expected is {expected}")]
    Type {
        /// What was asked for.
        expected: &'static str,
        /// What it says.
        got: String,
    },
    /// More than [`MAX_SIGNATURES`], or none.
    #[error("it has {0} signatures, between 1 and {MAX_SIGNATURES} are read")]
    Signatures(usize),
    /// No signature is by a key that may sign.
    #[error("no signature in it is by the expected key: it was altered, or somebody else signed it")]
    Unsigned,
}

/// Base64 as DSSE allows it: padded or not.
fn decode(text: &str) -> Result<Vec<u8>, EnvelopeError> {
    let config = GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
    GeneralPurpose::new(&ALPHABET, config).decode(text).map_err(|_| EnvelopeError::Base64)
}

impl Envelope {
    /// Put `payload` in an envelope; `sign` is given the bytes to sign.
    pub fn seal(payload_type: &str, payload: &[u8], keyid: &str, sign: impl FnOnce(&[u8]) -> Vec<u8>) -> Self {
        let sig = STANDARD.encode(sign(&pae(payload_type, payload)));
        Self {
            payload: STANDARD.encode(payload),
            payload_type: payload_type.to_owned(),
            signatures: vec![Signature { sig, keyid: keyid.to_owned() }],
        }
    }

    /// Read an envelope that stands alone.
    pub fn parse(bytes: &[u8]) -> Result<Self, EnvelopeError> {
        let max = usize::try_from(MAX_DOCUMENT_BYTES).unwrap_or(usize::MAX);
        serde_json::from_value(canonical::parse(bytes, max)?).map_err(EnvelopeError::Form)
    }

    /// Its JSON.
    pub fn to_bytes(&self) -> Vec<u8> {
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// The payload, if it has this type and `verifies` says so of at least one signature, given what was signed and the signature.
    pub fn open(&self, payload_type: &'static str, verifies: impl Fn(&[u8], &[u8]) -> bool) -> Result<Vec<u8>, EnvelopeError> {
        let payload = self.unverified(payload_type)?;
        if self.signatures.is_empty() || self.signatures.len() > MAX_SIGNATURES {
            return Err(EnvelopeError::Signatures(self.signatures.len()));
        }
        let message = pae(payload_type, &payload);
        for signature in &self.signatures {
            if verifies(&message, &decode(&signature.sig)?) {
                return Ok(payload);
            }
        }
        Err(EnvelopeError::Unsigned)
    }

    /// The payload without a look at who signed it, for those who do not know the key. Nothing may be believed because of it.
    pub fn unverified(&self, payload_type: &'static str) -> Result<Vec<u8>, EnvelopeError> {
        if self.payload_type != payload_type {
            return Err(EnvelopeError::Type { expected: payload_type, got: self.payload_type.chars().take(80).collect() });
        }
        decode(&self.payload)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TYPE: &str = "http://example.com/HelloWorld";

    #[test]
    fn an_envelope_opens_for_the_right_type_and_signature_only() {
        let sealed = Envelope::seal(TYPE, b"hello world", "k", <[u8]>::to_vec);
        let read = Envelope::parse(&sealed.to_bytes()).unwrap();
        assert_eq!(read, sealed);
        // The encoding that DSSE's own description gives as its example.
        let is_signed = |message: &[u8], signature: &[u8]| {
            assert_eq!(message, b"DSSEv1 29 http://example.com/HelloWorld 11 hello world");
            signature == message
        };
        assert_eq!(read.open(TYPE, is_signed).unwrap(), b"hello world");
        assert!(matches!(read.open("other", |_, _| true), Err(EnvelopeError::Type { .. })));
        assert!(matches!(read.open(TYPE, |_, _| false), Err(EnvelopeError::Unsigned)));
        let unpadded = String::from_utf8(sealed.to_bytes()).unwrap().replace('=', "");
        assert!(Envelope::parse(unpadded.as_bytes()).unwrap().open(TYPE, |_, _| true).is_ok());
    }

    #[test]
    fn what_is_no_envelope_is_refused() {
        let good = r#"{"payload":"aGk=","payloadType":"t","signatures":[{"sig":"aGk="}]}"#;
        let opened = |text: &str| Envelope::parse(text.as_bytes()).and_then(|e| e.open("t", |_, _| true));
        assert_eq!(opened(good).unwrap(), b"hi");
        for bad in [
            good.replace("aGk=", "!"),
            good.replace(r#"[{"sig":"aGk="}]"#, "[]"),
            good.replace(r#"{"sig":"aGk="}"#, &[r#"{"sig":"aGk="}"#; MAX_SIGNATURES + 1].join(",")),
            good.replace(r#""payloadType":"t","#, ""),
            good.replace(r#""payloadType""#, r#""payload":"aGk=","payloadType""#),
            String::new(),
        ] {
            assert!(opened(&bad).is_err(), "{bad}");
        }
    }
}
