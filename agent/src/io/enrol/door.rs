//! The one door of a controller: where a device comes in, comes in again, and gets its next certificate.
//!
//! What is sent could have been sent by anybody, so a controller that knows the name asks for a signature over a challenge. What
//! stays true: an answer is bounded before it is read, and what a controller says to people is shown as it is, but cut.
use std::collections::BTreeMap;

use anyhow::{Context as _, bail};
use leeway_protocol::enrolment::Request;
use leeway_protocol::ids::{DeviceId, Tenant};
use leeway_protocol::trust::keyring::SigningKey;
use leeway_protocol::trust::tuf::MAX_ROOT_BYTES;
use serde::Deserialize;

use super::super::certificates::MAX_DOCUMENT;
use super::super::tls;
use crate::identity::BrokerAccess;

/// The name is taken; proof that it is ours is asked for.
const CONFLICT: u16 = 409;
/// A person or a rule has yet to accept the device.
const ACCEPTED: u16 = 202;
/// The device is not let in.
const FORBIDDEN: u16 = 403;
/// The longest answer: two roots, a certificate with its authority and a few words.
pub(super) const MAX_ANSWER: u64 = 2 * MAX_ROOT_BYTES + MAX_DOCUMENT;
/// The longest text of a refusal that is shown.
const MAX_SHOWN: usize = 300;

/// Who asks, and for what.
#[derive(Debug, Clone, Copy)]
pub(in crate::io) struct Asking<'a> {
    pub(in crate::io) device: &'a DeviceId,
    pub(in crate::io) key: &'a SigningKey,
    pub(in crate::io) labels: &'a BTreeMap<String, String>,
    pub(in crate::io) token: Option<&'a str>,
    /// The request for a certificate (PEM).
    pub(in crate::io) csr: &'a str,
}

/// What a controller answers.
#[derive(Debug)]
pub(in crate::io) enum Answer {
    /// Come in.
    Enrolled(Box<Enrolled>),
    /// Not yet.
    Pending { sentence: String, retry_secs: u64 },
    /// No.
    Refused(String),
}

/// What a device that is in is told; fields for newer devices are ignored.
#[derive(Debug, Deserialize)]
pub(in crate::io) struct Enrolled {
    pub(in crate::io) tenant: Tenant,
    pub(in crate::io) mqtt: Mqtt,
    pub(in crate::io) http_base: String,
    pub(in crate::io) image_root: String,
    pub(in crate::io) director_root: String,
    /// Only from a controller that speaks TLS.
    #[serde(default)]
    pub(in crate::io) tls: Option<Certified>,
}

/// The way to the broker; fields for newer devices are ignored.
#[derive(Debug, Deserialize)]
pub(in crate::io) struct Mqtt {
    host: String,
    port: u16,
    username: String,
    password: String,
    #[serde(default)]
    tls: bool,
}

impl Mqtt {
    /// A controller with a broker of its own hands out a secret; elsewhere the broker's operator does, and `ours` is kept.
    pub(in crate::io) fn with_secret(self, ours: Option<String>, known: Option<&str>) -> BrokerAccess {
        let Self { host, port, username, password, tls } = self;
        let told = Some(password).filter(|password| !password.is_empty());
        let password = ours.or(told).or(known.map(str::to_owned)).unwrap_or_default();
        BrokerAccess { host, port, username, password, tls }
    }
}

/// The certificate.
#[derive(Debug, Deserialize)]
pub(in crate::io) struct Certified {
    pub(in crate::io) ca: String,
    pub(in crate::io) chain: String,
}

#[derive(Deserialize)]
struct Waiting {
    sentence: String,
    #[serde(default)]
    retry_secs: u64,
}

/// A refusal, as far as people read it.
#[derive(Deserialize)]
struct Problem {
    #[serde(default)]
    title: String,
    #[serde(default)]
    detail: String,
}

/// Ask once.
pub(in crate::io) fn ask(http: &ureq::Agent, base: &str, asking: &Asking<'_>) -> anyhow::Result<Answer> {
    let Asking { device, key, labels, token, csr } = *asking;
    let url = format!("{base}/api/v1/enrol");
    let request = Request::new(device, key.public(), labels, token, Some(csr));
    let (mut status, mut body) = post(http, &url, &request)?;
    if status == CONFLICT
        && let Some(proven) = request.proven(key, &body)
    {
        (status, body) = post(http, &url, &proven)?;
    }
    let strange = || format!("the controller at {base} answered something else than an enrolment: is it a leeway controller?");
    match status {
        ACCEPTED => {
            let Waiting { sentence, retry_secs } = serde_json::from_str(&body).with_context(strange)?;
            Ok(Answer::Pending { sentence: cut(&sentence), retry_secs })
        }
        FORBIDDEN => Ok(Answer::Refused(words(&body))),
        200..300 => Ok(Answer::Enrolled(serde_json::from_str(&body).with_context(strange)?)),
        _ => bail!("the controller at {base} does not enrol {device}: it answered {status}: {}", cut(&body)),
    }
}

fn words(body: &str) -> String {
    let problem = serde_json::from_str::<Problem>(body).ok();
    let said = problem.map(|problem| if problem.detail.is_empty() { problem.title } else { problem.detail });
    cut(said.as_deref().filter(|said| !said.is_empty()).unwrap_or(body))
}

fn cut(text: &str) -> String {
    text.trim().chars().take(MAX_SHOWN).collect()
}

fn post(http: &ureq::Agent, url: &str, request: &Request<'_>) -> anyhow::Result<(u16, String)> {
    use std::io::Read as _;
    let json = serde_json::to_vec(request).context("the request has no JSON form")?;
    let silent = |error: &(dyn std::error::Error + 'static)| match tls::sentence(error) {
        Some(sentence) => anyhow::anyhow!("no safe connection to the controller at {url}: {sentence}"),
        None => anyhow::anyhow!("the controller at {url} does not answer: is `leeway serve` running there? ({error})"),
    };
    let mut answer = http.post(url).header("Content-Type", "application/json").send(&json).map_err(|error| silent(&error))?;
    let mut body = String::new();
    answer.body_mut().as_reader().take(MAX_ANSWER).read_to_string(&mut body).map_err(|error| silent(&error))?;
    Ok((answer.status().as_u16(), body))
}
