//! Who the device is, as enrolment wrote it down: name, key, and where the controller's broker and artifacts are.
//!
//! One JSON file of mode 0600. What stays true: a key whose halves do not belong together, or a name that could not be in a
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
}

impl Identity {
    /// Read the file.
    pub fn parse(text: &str) -> Result<Self, IdentityError> {
        let Document { tenant, device, key, labels, mqtt, http_base, .. } = serde_json::from_str(text).map_err(IdentityError::Parse)?;
        let key = KeyFile::parse(&key.to_string()).map_err(IdentityError::Key)?.key;
        let artifacts = crate::config::check_base(&http_base).map_err(IdentityError::Address)?;
        Ok(Self { tenant, device, key, labels, broker: mqtt, artifacts })
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
            broker: BrokerAccess { host: "127.0.0.1".into(), port: 1883, username: "dev-1".into(), password: "secret".into() },
            artifacts: "http://127.0.0.1:8080".into(),
        };
        let text = identity.to_text();
        let read = Identity::parse(&text).unwrap();
        assert_eq!((read.key.public(), &read.labels, &read.broker), (identity.key.public(), &identity.labels, &identity.broker));
        for (from, to) in [("\"dev-1\"", "\"../x\""), ("ed25519", "rsa"), ("http://", "ftp://"), ("\"v\"", "\"w\""), ("{", "")] {
            assert!(Identity::parse(&text.replacen(from, to, 1)).is_err(), "{from}");
        }
    }
}
