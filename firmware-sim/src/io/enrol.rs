//! How a simulated station joins a fleet: it makes its key, shows the token, and is told where its broker is.
//!
//! The roots of trust come from the caller and not from the answer: a device is *made* with them, and whoever answers the
//! enrolment must not be able to choose them.
use std::collections::BTreeMap;

use leeway_protocol::ids::{DeviceId, Tenant};
use leeway_protocol::trust::keyring::PublicKey;
use serde::{Deserialize, Serialize};

/// The two roots a station is made with.
#[derive(Debug, Clone)]
pub struct Roots {
    /// The image repository's `1.root.json` or a newer one.
    pub image: Vec<u8>,
    /// The director's.
    pub director: Vec<u8>,
}

#[derive(Debug, Serialize)]
struct Request<'a> {
    device: &'a DeviceId,
    public_key: String,
    labels: &'a BTreeMap<String, String>,
    token: &'a str,
}

/// What the controller answers; fields for other programs are ignored.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Enrolled {
    pub(super) tenant: Tenant,
    pub(super) mqtt_password: String,
}

/// Why a station could not be enrolled.
#[derive(Debug, thiserror::Error)]
pub enum EnrolError {
    /// No answer.
    #[error("the controller at {url} does not answer: is `leeway serve` running there?")]
    Unreachable {
        /// Where it was asked.
        url: String,
        /// What went wrong.
        #[source]
        source: Box<ureq::Error>,
    },
    /// An answer that is no.
    #[error("the controller does not enrol {device}: it answered {status}: {body}")]
    Refused {
        /// Which station.
        device: DeviceId,
        /// HTTP status.
        status: u16,
        /// What it said.
        body: String,
    },
}

/// Ask for a place in the fleet.
pub(super) fn enrol(
    http: &ureq::Agent,
    base: &str,
    device: &DeviceId,
    key: &PublicKey,
    labels: &BTreeMap<String, String>,
    token: &str,
) -> Result<Enrolled, EnrolError> {
    let url = format!("{}/api/v1/enrol", base.trim_end_matches('/'));
    let request = Request { device, public_key: key.hex(), labels, token };
    let unreachable = |source| EnrolError::Unreachable { url: url.clone(), source: Box::new(source) };
    // Two names, a key, a token and labels: always has a JSON form.
    let json = serde_json::to_vec(&request).unwrap_or_default();
    let mut answer = http.post(&url).header("Content-Type", "application/json").send(&json).map_err(unreachable)?;
    let status = answer.status().as_u16();
    let body = answer.body_mut().read_to_string().map_err(unreachable)?;
    let refused = |body: &str| EnrolError::Refused { device: device.clone(), status, body: body.chars().take(300).collect() };
    if !(200..300).contains(&status) {
        return Err(refused(&body));
    }
    serde_json::from_str(&body).map_err(|e| refused(&format!("{e} in {body}")))
}
