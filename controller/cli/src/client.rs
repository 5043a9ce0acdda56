//! The controller's HTTP API, as the commands call it.
//!
//! Answers that are not a success are problem documents; their text goes to the user as it is, their status becomes the exit code.
//! Every request has a time limit and every answer a size limit.
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::failure::{During, Failure, Outcome};

/// The longest any request may take: publishing runs a preflight on the controller.
const REQUEST_LIMIT: Duration = Duration::from_secs(120);
/// The largest answer that is read: the largest model.
const ANSWER_LIMIT: u64 = leeway_protocol::manifest::MAX_MODEL_BYTES;

/// A controller to talk to.
#[derive(Debug, Clone)]
pub struct Client {
    agent: ureq::Agent,
    base: String,
    token: Option<String>,
    /// For `https`: whom to trust.
    tls: Option<Arc<rustls::ClientConfig>>,
}

impl Client {
    /// A controller at `base`, such as `http://127.0.0.1:8080`, with a bearer token if commands need one.
    pub fn new(base: &str, token: Option<String>) -> Self {
        let config = ureq::Agent::config_builder().http_status_as_error(false).timeout_global(Some(REQUEST_LIMIT)).build();
        Self { agent: config.into(), base: base.trim_end_matches('/').to_owned(), token, tls: None }
    }

    /// The same at `https://…`, where the certificate must be of one of the authorities in `ca` (PEM); those of the system do
    /// not count.
    pub fn trusting(base: &str, token: Option<String>, ca: &[u8]) -> Outcome<Self> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let (mut roots, mut trusted) = (rustls::RootCertStore::empty(), Vec::new());
        for certificate in CertificateDer::pem_slice_iter(ca) {
            let certificate = certificate.during("reading the certificates of --ca")?;
            trusted.push(ureq::tls::Certificate::from_der(&certificate).to_owned());
            roots.add(certificate).during("reading the certificates of --ca")?;
        }
        if trusted.is_empty() {
            return Err(Failure::new("there is no certificate in the file of --ca").code(2));
        }
        let tls = ureq::tls::TlsConfig::builder()
            .root_certs(ureq::tls::RootCerts::new_with_certs(&trusted))
            .unversioned_rustls_crypto_provider(Arc::clone(&provider))
            .build();
        let config = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .timeout_global(Some(REQUEST_LIMIT))
            .https_only(true)
            .tls_config(tls)
            .build();
        let stream = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().during("starting TLS")?;
        let stream = stream.with_root_certificates(roots).with_no_client_auth();
        Ok(Self { agent: config.into(), base: base.trim_end_matches('/').to_owned(), token, tls: Some(Arc::new(stream)) })
    }

    /// For `https`: whom to trust.
    pub fn tls(&self) -> Option<Arc<rustls::ClientConfig>> {
        self.tls.clone()
    }

    /// Its address.
    pub fn base(&self) -> &str {
        &self.base
    }

    /// The bearer token.
    pub fn token(&self) -> Option<&str> {
        self.token.as_deref()
    }

    /// GET a JSON resource.
    pub fn read<T: DeserializeOwned>(&self, path: &str) -> Outcome<T> {
        serde_json::from_slice(&self.get(path)?).during(format!("reading the answer to {path}"))
    }

    /// GET bytes; `None` for 404.
    pub fn fetch(&self, path: &str) -> Outcome<Option<Vec<u8>>> {
        match self.get(path) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(failure) if failure.is_not_found() => Ok(None),
            Err(failure) => Err(failure),
        }
    }

    /// GET bytes; 404 is a failure.
    pub fn bytes(&self, path: &str) -> Outcome<Vec<u8>> {
        self.get(path)
    }

    fn get(&self, path: &str) -> Outcome<Vec<u8>> {
        let mut request = self.agent.get(format!("{}{path}", self.base));
        if let Some(token) = &self.token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        let answer = request.call().map_err(|e| self.unreachable(&e))?;
        self.body(answer, path)
    }

    /// POST JSON, read JSON.
    pub fn send<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> Outcome<T> {
        self.send_bound(path, body, None)
    }

    /// The same, done only if the resource is still at `revision`.
    pub fn send_bound<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize, revision: Option<u64>) -> Outcome<T> {
        let body = serde_json::to_vec(body).during("writing the request")?;
        let request = self.agent.post(format!("{}{path}", self.base)).header("content-type", "application/json");
        let answer = bound(self.signed_in(request), revision).send(&body).map_err(|e| self.unreachable(&e))?;
        let bytes = self.body(answer, path)?;
        let bytes: &[u8] = if bytes.is_empty() { b"null" } else { &bytes };
        serde_json::from_slice(bytes).during(format!("reading the answer to {path}"))
    }

    /// PUT JSON, read JSON.
    pub fn put<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> Outcome<T> {
        self.put_bound(path, body, None)
    }

    /// The same, done only if the resource is still at `revision`.
    pub fn put_bound<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize, revision: Option<u64>) -> Outcome<T> {
        let body = serde_json::to_vec(body).during("writing the request")?;
        let request = self.agent.put(format!("{}{path}", self.base)).header("content-type", "application/json");
        let answer = bound(self.signed_in(request), revision).send(&body).map_err(|e| self.unreachable(&e))?;
        serde_json::from_slice(&self.body(answer, path)?).during(format!("reading the answer to {path}"))
    }

    /// POST bytes, read bytes.
    pub fn send_bytes(&self, path: &str, content_type: &str, body: &[u8]) -> Outcome<Vec<u8>> {
        let mut request = self.agent.post(format!("{}{path}", self.base)).header("content-type", content_type);
        if let Some(token) = &self.token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        let answer = request.send(body).map_err(|e| self.unreachable(&e))?;
        self.body(answer, path)
    }

    fn signed_in<Any>(&self, request: ureq::RequestBuilder<Any>) -> ureq::RequestBuilder<Any> {
        match &self.token {
            Some(token) => request.header("authorization", format!("Bearer {token}")),
            None => request,
        }
    }

    fn body(&self, mut answer: ureq::http::Response<ureq::Body>, path: &str) -> Outcome<Vec<u8>> {
        let status = answer.status().as_u16();
        let bytes = answer.body_mut().with_config().limit(ANSWER_LIMIT).read_to_vec().map_err(|e| self.unreachable(&e))?;
        if (200..300).contains(&status) {
            return Ok(bytes);
        }
        let problem: Value = serde_json::from_slice(&bytes).unwrap_or_default();
        let text = |field: &str| problem.get(field).and_then(Value::as_str).unwrap_or_default().to_owned();
        let (title, detail) = (text("title"), text("detail"));
        let message = match (title.is_empty(), detail.is_empty()) {
            (true, true) => format!("{path}: the controller answered {status}"),
            (_, false) => detail,
            (false, true) => title,
        };
        Err(Failure::new(message).code(exit_code(status)).help_for(status))
    }

    fn unreachable(&self, error: &ureq::Error) -> Failure {
        Failure::new(format!("the controller at {} cannot be reached: {error}", self.base))
            .code(7)
            .help("start it with `leeway serve`, or name another one with --url or LEEWAY_URL")
    }
}

fn bound<Any>(request: ureq::RequestBuilder<Any>, revision: Option<u64>) -> ureq::RequestBuilder<Any> {
    match revision {
        Some(revision) => request.header("if-match", format!("\"{revision}\"")),
        None => request,
    }
}

/// A query string; values are escaped.
pub fn query(pairs: &[(&str, String)]) -> String {
    let escape = |value: &str| {
        value.bytes().fold(String::new(), |mut text, byte| {
            use std::fmt::Write as _;
            if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
                text.push(char::from(byte));
            } else {
                let _ = write!(text, "%{byte:02X}");
            }
            text
        })
    };
    pairs.iter().map(|(name, value)| format!("{name}={}", escape(value))).collect::<Vec<_>>().join("&")
}

fn exit_code(status: u16) -> u8 {
    match status {
        401 | 403 => 4,
        404 => 5,
        409 | 412 | 428 => 6,
        400 | 415 | 422 => 2,
        _ => 1,
    }
}

impl Failure {
    fn help_for(self, status: u16) -> Self {
        match status {
            401 => self.help("give the token that `leeway serve` wrote to admin.token, or one of your own, with --token or LEEWAY_TOKEN"),
            403 => self.help("`leeway token whoami` says what this token may do"),
            _ => self,
        }
    }
}
