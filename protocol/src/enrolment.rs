//! What a device signs to be enrolled again under the name it has, or to have its certificate renewed.
//!
//! The controller names a challenge that nobody has seen before, and the device signs name, key, challenge and the request for a
//! certificate together. A signature over name and key alone could be written down on the wire and shown again later, to reset
//! the device's secret; one that leaves out the request would certify whatever key somebody on the way put in its place.
use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::ids::{DeviceId, Tenant};
use crate::trust::envelope::pae;
use crate::trust::keyring::{PublicKey, SigningKey};

/// What a device sends to be let in. JSON.
#[derive(Debug, Clone, Serialize)]
pub struct Request<'a> {
    device: &'a DeviceId,
    public_key: String,
    labels: &'a BTreeMap<String, String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    token: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    csr: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    challenge: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    proof: Option<String>,
}

impl<'a> Request<'a> {
    /// Without a proof. `csr` is the request for a certificate (PEM), where the controller speaks TLS.
    pub fn new(
        device: &'a DeviceId,
        key: PublicKey,
        labels: &'a BTreeMap<String, String>,
        token: Option<&'a str>,
        csr: Option<&'a str>,
    ) -> Self {
        Self { device, public_key: key.hex(), labels, token, csr, challenge: None, proof: None }
    }

    /// The same with what the controller asked for when it answered `409 Conflict` with `body`, because it knows the name; `None` if
    /// that body names no challenge a device would sign.
    pub fn proven(self, key: &SigningKey, body: &str) -> Option<Self> {
        let challenge = serde_json::from_str::<Taken>(body).ok()?.challenge.filter(|text| text.len() <= MAX_CHALLENGE)?;
        let signed = key.sign(&proof(self.device, &self.public_key, &challenge, self.csr)).hex();
        Some(Self { proof: Some(signed), challenge: Some(challenge), ..self })
    }
}

/// What a controller says that knows the name already.
#[derive(Deserialize)]
struct Taken {
    challenge: Option<String>,
}

/// Separates this signature from every other one the device's key makes.
const PROOF_TYPE: &str = "application/vnd.leeway.enrol.v3";

/// The longest challenge a device signs: it comes from whoever answers at the controller's address.
pub const MAX_CHALLENGE: usize = 128;

/// The longest request for a certificate (PEM): one for a P-256 key has about 400 bytes.
pub const MAX_CSR: usize = 8 << 10;

/// The bytes a device signs to prove, to whoever chose `challenge`, that it holds the key. `csr` is the request for a certificate
/// exactly as it is sent (PEM), if one is.
pub fn proof(device: &DeviceId, public_key: &str, challenge: &str, csr: Option<&str>) -> Vec<u8> {
    let csr = csr.map(|text| Digest::of(text.as_bytes()).hex()).unwrap_or_default();
    pae(PROOF_TYPE, format!("{device}\n{public_key}\n{challenge}\n{csr}").as_bytes())
}

/// The name a device's certificate carries besides its common name, so that no other authority's `CN=station-7` means the same.
pub fn device_uri(tenant: &Tenant, device: &DeviceId) -> String {
    format!("urn:leeway:device:{tenant}:{device}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_is_signed() {
        let of = |device: &str, key: &str, challenge: &str, csr: Option<&str>| proof(&device.parse().unwrap(), key, challenge, csr);
        let good = of("d1", "ab", "c1", Some("pem"));
        assert_eq!(good, of("d1", "ab", "c1", Some("pem")));
        let others = [("d2", "ab", "c1", Some("pem")), ("d1", "ac", "c1", Some("pem")), ("d1", "ab", "c2", Some("pem"))];
        for (device, key, challenge, csr) in others.into_iter().chain([("d1", "ab", "c1", Some("pen")), ("d1", "ab", "c1", None)]) {
            assert_ne!(good, of(device, key, challenge, csr));
        }
        assert_ne!(of("d1", "ab", "c1", None), of("d1", "ab", "c1", Some("")), "an empty request is not none");
        assert!(good.starts_with(b"DSSEv1 31 application/vnd.leeway.enrol.v3 "));
    }

    #[test]
    fn a_challenge_is_signed_if_it_is_one() {
        let key = SigningKey::from_seed(&[7; 32]);
        let (device, labels): (DeviceId, BTreeMap<String, String>) = ("d1".parse().unwrap(), BTreeMap::new());
        let request = || Request::new(&device, key.public(), &labels, None, Some("pem"));
        let sent = serde_json::to_value(request()).unwrap();
        assert_eq!((sent.get("token"), sent.get("proof"), &sent["csr"]), (None, None, &"pem".into()));
        let proven = serde_json::to_value(request().proven(&key, r#"{"challenge":"c1","detail":"taken"}"#).unwrap()).unwrap();
        let signed = key.sign(&proof(&device, &key.public().hex(), "c1", Some("pem"))).hex();
        assert_eq!((&proven["challenge"], &proven["proof"]), (&"c1".into(), &signed.into()));
        let long = format!(r#"{{"challenge":"{}"}}"#, "c".repeat(MAX_CHALLENGE + 1));
        for body in ["", "{}", "[]", r#"{"challenge":null}"#, &long] {
            assert!(request().proven(&key, body).is_none(), "{body}");
        }
    }
}
