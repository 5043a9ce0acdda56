//! How a simulated station joins a fleet: it makes its key, shows the token, and is told where its broker is.
//!
//! A device is *made* with its roots of trust, and whoever answers the enrolment should not choose them: so the caller may give
//! them. Without them the first answer is believed, as with a first SSH login, and the caller has decided that.
use std::collections::BTreeMap;
use std::time::Duration;

use leeway_protocol::enrolment::Request;
use leeway_protocol::ids::{DeviceId, Tenant};
use leeway_protocol::trust::keyring::SigningKey;
use serde::Deserialize;

/// Times a station waits because thousands of others enrol from the same machine, and the longest it waits each time.
const MAX_WAITS: usize = 20;
const MAX_WAIT: Duration = Duration::from_secs(10);

/// The two roots a station is made with.
#[derive(Debug, Clone)]
pub struct Roots {
    /// The image repository's `1.root.json` or a newer one.
    pub image: Vec<u8>,
    /// The director's.
    pub director: Vec<u8>,
}

/// What the controller answers; fields for other programs are ignored.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Enrolled {
    pub(super) tenant: Tenant,
    pub(super) mqtt: Broker,
    pub(super) image_root: String,
    pub(super) director_root: String,
}

#[derive(Debug, Clone, Deserialize)]
pub(super) struct Broker {
    pub(super) host: String,
    pub(super) port: u16,
    pub(super) username: String,
    pub(super) password: String,
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

/// Ask for a place in the fleet; a name that this key has already is given again against proof.
pub(super) fn enrol(
    http: &ureq::Agent,
    base: &str,
    device: &DeviceId,
    key: &SigningKey,
    labels: &BTreeMap<String, String>,
    token: Option<&str>,
) -> Result<Enrolled, EnrolError> {
    const CONFLICT: u16 = 409;
    let url = format!("{}/api/v1/enrol", base.trim_end_matches('/'));
    let request = Request::new(device, key.public(), labels, token, None);
    let (mut status, mut body) = post(http, &url, &request)?;
    if status == CONFLICT
        && let Some(proven) = request.proven(key, &body)
    {
        (status, body) = post(http, &url, &proven)?;
    }
    let refused = |body: &str| EnrolError::Refused { device: device.clone(), status, body: body.chars().take(300).collect() };
    if !(200..300).contains(&status) {
        return Err(refused(&body));
    }
    serde_json::from_str(&body).map_err(|e| refused(&format!("{e} in {body}")))
}

fn post(http: &ureq::Agent, url: &str, request: &Request<'_>) -> Result<(u16, String), EnrolError> {
    const TOO_MANY: u16 = 429;
    let unreachable = |source| EnrolError::Unreachable { url: url.to_owned(), source: Box::new(source) };
    // Names, a key, a token and labels: always has a JSON form.
    let json = serde_json::to_vec(request).unwrap_or_default();
    let mut waits = 0;
    loop {
        let mut answer = http.post(url).header("Content-Type", "application/json").send(&json).map_err(unreachable)?;
        let status = answer.status().as_u16();
        if status == TOO_MANY && waits < MAX_WAITS {
            let secs = answer.headers().get("retry-after").and_then(|v| v.to_str().ok()?.parse().ok()).unwrap_or(1);
            std::thread::sleep(Duration::from_secs(secs).min(MAX_WAIT));
            waits += 1;
            continue;
        }
        return answer.body_mut().read_to_string().map(|body| (status, body)).map_err(unreachable);
    }
}
