//! The controller's HTTP API as a test calls it: every answer is a value, also the ones that say no.
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde_json::Value;

/// The longest one request may take: a preflight on two busy cores.
const REQUEST_LIMIT: Duration = Duration::from_secs(60);
/// The largest answer that is read.
const ANSWER_LIMIT: u64 = 64 << 20;

/// A controller's address and a token.
#[derive(Debug, Clone)]
pub struct Api {
    agent: ureq::Agent,
    base: String,
    token: Option<String>,
}

/// What came back.
#[derive(Debug, Clone)]
pub struct Answer {
    /// HTTP status.
    pub status: u16,
    /// The body.
    pub body: Vec<u8>,
}

impl Answer {
    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON; null if it is none.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }

    /// Itself if the status is a success, what it says otherwise.
    pub fn ok(self) -> Result<Self, String> {
        if (200..300).contains(&self.status) { Ok(self) } else { Err(format!("{}: {}", self.status, self.text())) }
    }
}

impl Api {
    /// A controller on this machine.
    pub fn new(port: u16, token: Option<String>) -> Self {
        let config = ureq::Agent::config_builder().http_status_as_error(false).timeout_global(Some(REQUEST_LIMIT)).build();
        Self { agent: config.into(), base: format!("http://127.0.0.1:{port}"), token }
    }

    /// One with TLS, by this authority (PEM); with the certificate and key (PEM) of a device, if one is to be shown.
    pub fn trusting(port: u16, token: Option<String>, ca: &str, shown: Option<(&str, &str)>) -> Self {
        use ureq::tls::{Certificate, ClientCert, PrivateKey, RootCerts, TlsConfig};
        let provider = std::sync::Arc::new(rustls::crypto::ring::default_provider());
        let read = |pem: &str| Certificate::from_pem(pem.as_bytes()).expect("a certificate");
        let card =
            |(chain, key): (&str, &str)| ClientCert::new_with_certs(&[read(chain)], PrivateKey::from_pem(key.as_bytes()).expect("a key"));
        let tls = TlsConfig::builder()
            .unversioned_rustls_crypto_provider(provider)
            .root_certs(RootCerts::new_with_certs(&[read(ca)]))
            .client_cert(shown.map(card));
        let config = ureq::Agent::config_builder().http_status_as_error(false).timeout_global(Some(REQUEST_LIMIT));
        let agent = config.tls_config(tls.build()).build().into();
        Self { agent, base: format!("https://127.0.0.1:{port}"), token }
    }

    /// Its address.
    pub fn base(&self) -> &str {
        &self.base
    }

    /// The token.
    pub fn token(&self) -> &str {
        self.token.as_deref().unwrap_or_default()
    }

    /// GET.
    pub fn get(&self, path: &str) -> Result<Answer, String> {
        let request = self.agent.get(format!("{}{path}", self.base)).header("authorization", self.bearer());
        finish(request.call())
    }

    /// POST bytes.
    pub fn post_bytes(&self, path: &str, kind: &str, body: &[u8]) -> Result<Answer, String> {
        let request = self.agent.post(format!("{}{path}", self.base)).header("authorization", self.bearer()).header("content-type", kind);
        finish(request.send(body))
    }

    /// POST JSON.
    pub fn post(&self, path: &str, body: &Value) -> Result<Answer, String> {
        self.post_bytes(path, "application/json", body.to_string().as_bytes())
    }

    /// PUT JSON.
    pub fn put(&self, path: &str, body: &Value) -> Result<Answer, String> {
        self.put_bytes(path, "application/json", body.to_string().as_bytes())
    }

    /// PUT bytes.
    pub fn put_bytes(&self, path: &str, kind: &str, body: &[u8]) -> Result<Answer, String> {
        let request = self.agent.put(format!("{}{path}", self.base)).header("authorization", self.bearer());
        finish(request.header("content-type", kind).send(body))
    }

    /// GET something of a known form.
    pub fn read<T: DeserializeOwned>(&self, path: &str) -> Result<T, String> {
        let answer = self.get(path)?.ok()?;
        serde_json::from_slice(&answer.body).map_err(|e| format!("{path}: {e} in {}", answer.text()))
    }

    fn bearer(&self) -> String {
        format!("Bearer {}", self.token())
    }
}

fn finish(answer: Result<ureq::http::Response<ureq::Body>, ureq::Error>) -> Result<Answer, String> {
    let mut answer = answer.map_err(|e| e.to_string())?;
    let status = answer.status().as_u16();
    let body = answer.body_mut().with_config().limit(ANSWER_LIMIT).read_to_vec().map_err(|e| e.to_string())?;
    Ok(Answer { status, body })
}
