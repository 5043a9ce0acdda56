//! Who the device is, as enrolment wrote it down: name, key, and where the controller's broker and artifacts are.
//!
//! One JSON file of mode 0600. Where the controller speaks TLS it also names the authority whose certificates are believed and the
//! door at which this device asks for its own; the certificate itself lies beside it, since it comes anew every few weeks. What stays true: a key whose halves do not belong together, or a name that could not be in a
//! topic, is refused when it is read, not when it is used.
use serde::{Deserialize, Serialize};

use leeway_protocol::ids::{DeviceId, Tenant};
use leeway_protocol::trust::keyring::{KeyError, KeyFile, SigningKey};

/// Name of the file in the data directory.
pub const IDENTITY_FILE: &str = "identity.json";

/// Who the device is.
#[derive(Debug, Clone)]
pub struct Identity {
    /// Whose device.
    pub tenant: Tenant,
    /// Which device.
    pub device: DeviceId,
    /// Its key.
    pub key: SigningKey,
    /// Labels for cohorts.
    pub labels: std::collections::BTreeMap<String, String>,
    /// How it connects to the broker.
    pub broker: BrokerAccess,
    /// Base address of metadata and blobs.
    pub artifacts: String,
    /// How the device speaks TLS, if the controller does.
    pub tls: Option<TlsAccess>,
}

/// How a device speaks TLS.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TlsAccess {
    /// Which of the files beside this one belong to this enrolment, and not to an earlier one with somebody else.
    pub enrolment: String,
    /// The authority that is believed until a certificate brings another (PEM).
    pub ca: String,
    /// Base address of the controller's API, where certificates are asked for.
    pub door: String,
}

/// How a device connects to the broker.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BrokerAccess {
    /// Host.
    pub host: String,
    /// Port.
    pub port: u16,
    /// User name.
    pub username: String,
    /// Secret.
    pub password: String,
    /// Whether the broker speaks TLS.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub tls: bool,
}

/// An identity that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// Not the document enrolment writes.
    #[error("{IDENTITY_FILE} is not the file that `leeway-agent enrol` writes: enrol the device again")]
    Parse(#[source] serde_json::Error),
    /// A key that does not hold together.
    #[error("the key in {IDENTITY_FILE} cannot be used: enrol the device again")]
    Key(#[source] KeyError),
    /// An address that cannot be used.
    #[error("the address in {IDENTITY_FILE} cannot be used: {0}")]
    Address(&'static str),
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    v: u32,
    tenant: Tenant,
    device: DeviceId,
    key: serde_json::Value,
    #[serde(default)]
    labels: std::collections::BTreeMap<String, String>,
    mqtt: BrokerAccess,
    http_base: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    tls: Option<TlsAccess>,
}

impl Identity {
    /// Read the file.
    pub fn parse(text: &str) -> Result<Self, IdentityError> {
        let Document { tenant, device, key, labels, mqtt, http_base, tls, .. } =
            serde_json::from_str(text).map_err(IdentityError::Parse)?;
        let key = KeyFile::parse(&key.to_string()).map_err(IdentityError::Key)?.key;
        let artifacts = crate::config::check_base(&http_base).map_err(IdentityError::Address)?;
        if tls.is_none() && (mqtt.tls || artifacts.starts_with("https://")) {
            return Err(IdentityError::Address("it needs TLS, and there is no authority to believe: enrol the device again"));
        }
        Ok(Self { tenant, device, key, labels, broker: mqtt, artifacts, tls })
    }

    /// The file's text.
    pub fn to_text(&self) -> String {
        let document = Document {
            v: 1,
            tenant: self.tenant.clone(),
            device: self.device.clone(),
            key: serde_json::from_str(&self.key.to_key_file("device")).unwrap_or_default(),
            labels: self.labels.clone(),
            mqtt: self.broker.clone(),
            http_base: self.artifacts.clone(),
            tls: self.tls.clone(),
        };
        let mut text = serde_json::to_string_pretty(&document).unwrap_or_default();
        text.push('\n');
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identity_round_trips_and_a_damaged_one_is_refused() {
        let identity = Identity {
            tenant: "demo".parse().unwrap(),
            device: "dev-1".parse().unwrap(),
            key: SigningKey::from_seed(&[9; 32]),
            labels: std::collections::BTreeMap::from([("region".to_owned(), "coast".to_owned())]),
            broker: BrokerAccess { host: "127.0.0.1".into(), port: 1883, username: "dev-1".into(), password: "secret".into(), tls: false },
            artifacts: "http://127.0.0.1:8080".into(),
            tls: None,
        };
        let text = identity.to_text();
        let read = Identity::parse(&text).unwrap();
        assert_eq!((read.key.public(), &read.labels, &read.broker), (identity.key.public(), &identity.labels, &identity.broker));
        for (from, to) in [("\"dev-1\"", "\"../x\""), ("ed25519", "rsa"), ("http://", "ftp://"), ("\"v\"", "\"w\""), ("{", "")] {
            assert!(Identity::parse(&text.replacen(from, to, 1)).is_err(), "{from}");
        }
        assert!(!text.contains("tls"), "without TLS the file is what it always was: {text}");
        let access = TlsAccess { enrolment: "ab12".into(), ca: "PEM".into(), door: "https://c:8443".into() };
        let mut secure = Identity { tls: Some(access), artifacts: "https://127.0.0.1:8443".into(), ..identity };
        secure.broker.tls = true;
        let read = Identity::parse(&secure.to_text()).unwrap();
        assert_eq!((read.tls, read.broker, read.artifacts), (secure.tls.take(), secure.broker.clone(), secure.artifacts.clone()));
        assert!(Identity::parse(&secure.to_text()).is_err(), "TLS without an authority");
    }
}
