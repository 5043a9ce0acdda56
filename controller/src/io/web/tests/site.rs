//! A controller on free ports, and a caller that says exactly what it sends.
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::sync::Arc;
use std::time::Duration;

use leeway_protocol::trust::repository::{Lifetimes, LineGrant, ceremony};

use crate::access::Scope;
use crate::io::clock;
use crate::io::control::{Controller, NewAccessToken};
use crate::io::serve::{Handle, METADATA_FILES, REVOKED_FILE, ServeConfig, start_with};
use crate::io::tls::authority::KeyedCertificate;
use crate::io::web::{Limits, Web};

/// Only a failing test waits so long.
pub(super) const PATIENCE: Duration = Duration::from_secs(20);

/// A running controller with its web side.
pub(super) struct Site {
    handle: Handle,
    dir: tempfile::TempDir,
    agent: ureq::Agent,
}

/// What came back.
pub(super) struct Answer {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Answer {
    pub(super) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub(super) fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("{e}: {}", self.text()))
    }

    pub(super) fn header(&self, name: &str) -> String {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, v)| v.clone()).unwrap_or_default()
    }
}

impl Site {
    pub(super) async fn start() -> Self {
        Self::start_as(Limits::default(), |config| config).await
    }

    /// With other bounds, and whatever else is to be different.
    pub(super) async fn start_as(limits: Limits, change: impl FnOnce(ServeConfig) -> ServeConfig) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut seed = 40;
        let mut next = || {
            seed += 1;
            [seed; 32]
        };
        let grants = [LineGrant { line: "rain".parse().unwrap(), trainer_io: None }];
        let made = ceremony(&grants, &Lifetimes::default(), clock::now(), &mut next).unwrap();
        let keys = dir.path().join("keys");
        std::fs::create_dir(&keys).unwrap();
        for name in ["snapshot", "timestamp", "director"] {
            let path = keys.join(format!("{name}.key"));
            std::fs::write(&path, made.key(name).unwrap().to_key_file(name)).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        }
        for (name, bytes) in METADATA_FILES.iter().zip([&made.image_root, &made.image_targets, &made.director_root]) {
            std::fs::write(keys.join(name), bytes).unwrap();
        }
        let runner = Some(("/bin/false".into(), Vec::new()));
        let config = ServeConfig { runner, ..ServeConfig::local(dir.path().to_owned(), "test".parse().unwrap()) };
        let handle = start_with(change(config), |controller| Web::with_limits(controller, limits).router()).await.unwrap();
        let mut site = Self { handle, dir, agent: Self::agent(None, None) };
        site.agent = Self::agent(site.ca().as_deref(), None);
        site
    }

    /// A client that trusts this authority and shows this certificate.
    fn agent(ca: Option<&str>, shown: Option<&KeyedCertificate>) -> ureq::Agent {
        use ureq::tls::{Certificate, ClientCert, PrivateKey, RootCerts, TlsConfig};
        let mut tls = TlsConfig::builder().unversioned_rustls_crypto_provider(Arc::new(rustls::crypto::ring::default_provider()));
        if let Some(ca) = ca {
            tls = tls.root_certs(RootCerts::new_with_certs(&[Certificate::from_pem(ca.as_bytes()).unwrap()]));
        }
        let card = |pair: &KeyedCertificate| {
            let chain = Certificate::from_pem(pair.chain.as_bytes()).unwrap();
            ClientCert::new_with_certs(&[chain], PrivateKey::from_pem(pair.key.as_bytes()).unwrap())
        };
        let tls = tls.client_cert(shown.map(card)).build();
        let config = ureq::Agent::config_builder().http_status_as_error(false).max_redirects(0).timeout_global(Some(PATIENCE));
        config.tls_config(tls).build().into()
    }

    /// The device authority, if TLS is on.
    pub(super) fn ca(&self) -> Option<String> {
        self.handle.ca.as_ref().map(|path| std::fs::read_to_string(path).unwrap())
    }

    /// Ask as somebody who shows this certificate; the error of a handshake is one.
    pub(super) async fn showing(&self, shown: &KeyedCertificate, path: &str) -> Result<Answer, String> {
        let request = ureq::http::Request::builder().uri(format!("{}{path}", self.base())).body(Vec::new()).unwrap();
        let agent = Self::agent(self.ca().as_deref(), Some(shown));
        tokio::task::spawn_blocking(move || Self::run(&agent, request)).await.unwrap()
    }

    fn run(agent: &ureq::Agent, request: ureq::http::Request<Vec<u8>>) -> Result<Answer, String> {
        let mut answer = agent.run(request).map_err(|e| e.to_string())?;
        let headers = answer.headers().iter().map(|(n, v)| (n.as_str().to_owned(), v.to_str().unwrap_or_default().to_owned())).collect();
        Ok(Answer { status: answer.status().as_u16(), headers, body: answer.body_mut().read_to_vec().map_err(|e| e.to_string())? })
    }

    fn base(&self) -> String {
        format!("{}://{}", if self.handle.ca.is_some() { "https" } else { "http" }, self.addr())
    }

    /// Where the list of revoked certificates lies.
    pub(super) fn revoked(&self) -> String {
        std::fs::read_to_string(self.dir.path().join(REVOKED_FILE)).unwrap()
    }

    pub(super) fn addr(&self) -> SocketAddr {
        self.handle.http
    }

    pub(super) fn token(&self) -> String {
        self.handle.admin_token.clone()
    }

    pub(super) fn controller(&self) -> &Controller {
        &self.handle.controller
    }

    /// Every byte of the store.
    pub(super) fn store(&self) -> Vec<u8> {
        std::fs::read(self.dir.path().join("store.redb")).unwrap()
    }

    /// A token of `owner`, as the value of an `authorization` header.
    pub(super) async fn bearer_of(&self, owner: &str, scope: Scope) -> String {
        let new = NewAccessToken { name: format!("{owner}-{scope}"), owner: owner.to_owned(), scope, ttl_ms: 600_000 };
        format!("Bearer {}", self.controller().create_access_token(new, "admin").await.unwrap().0)
    }

    pub(super) async fn until_ready(&self) {
        let begun = std::time::Instant::now();
        while self.get("/readyz").await.status != 200 {
            assert!(begun.elapsed() < PATIENCE, "{}", self.get("/readyz").await.text());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Without a token, from this machine.
    pub(super) async fn anyone(&self, method: &str, path: &str, json: Option<&str>, headers: &[(&str, &str)]) -> Answer {
        let kind = [("content-type", "application/json")];
        let all: Vec<(&str, &str)> = json.iter().flat_map(|_| kind).chain(headers.iter().copied()).collect();
        self.send(method, path, json.map(|j| j.as_bytes().to_vec()), &all).await
    }

    pub(super) async fn send(&self, method: &str, path: &str, body: Option<Vec<u8>>, headers: &[(&str, &str)]) -> Answer {
        let mut request = ureq::http::Request::builder().method(method).uri(format!("{}{path}", self.base()));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(body.unwrap_or_default()).unwrap();
        let agent = self.agent.clone();
        let answer = tokio::task::spawn_blocking(move || Self::run(&agent, request).unwrap());
        answer.await.unwrap()
    }

    pub(super) async fn get(&self, path: &str) -> Answer {
        self.anyone("GET", path, None, &[]).await
    }

    /// Sign in like a browser; the cookie.
    pub(super) async fn sign_in(&self) -> String {
        let right = self.anyone("GET", &format!("/login?token={}", self.token()), None, &[]).await;
        assert_eq!((right.status, right.header("location").as_str()), (303, "/"));
        let cookie = right.header("set-cookie");
        assert!(cookie.contains("HttpOnly") && cookie.contains("SameSite=Strict") && !cookie.contains(&self.token()), "{cookie}");
        cookie.split(';').next().unwrap().to_owned()
    }

    pub(super) fn bearer(&self) -> String {
        format!("Bearer {}", self.handle.admin_token)
    }

    pub(super) async fn post(&self, path: &str, json: &str) -> Answer {
        self.anyone("POST", path, Some(json), &[("authorization", &self.bearer())]).await
    }

    pub(super) async fn put(&self, path: &str, json: &str) -> Answer {
        self.anyone("PUT", path, Some(json), &[("authorization", &self.bearer())]).await
    }

    pub(super) async fn upload(&self, bytes: &[u8], headers: &[(&str, &str)]) -> Answer {
        let bearer = self.bearer();
        let all: Vec<(&str, &str)> = headers.iter().copied().chain([("authorization", bearer.as_str())]).collect();
        self.send("POST", "/api/v1/blobs", Some(bytes.to_vec()), &all).await
    }
}

impl Site {
    /// A version in the registry, as if it had been published.
    pub(super) async fn add_version(&self, name: &str) {
        use leeway_protocol::manifest::{Blob, Lineage};

        use crate::registry::{ModelVersion, Role, VersionStatus};

        let put = self.put("/api/v1/cohorts/coast", r#"{"line":"rain"}"#).await;
        assert_eq!(put.status, 200, "{}", put.text());
        let version = ModelVersion {
            line: "rain".parse().unwrap(),
            version: name.parse().unwrap(),
            seq: 1,
            manifest: Blob::of(name.as_bytes()),
            model: Blob::of(b"model"),
            io: leeway_protocol::digest::Digest::of(b"io"),
            role: Role::Release,
            signer: "rain".to_owned(),
            lineage: Lineage::default(),
            provenance: None,
            bundle: None,
            published_at: clock::now(),
            status: VersionStatus::Published,
            poisoned_for: Vec::new(),
        };
        let mut ledger = self.controller().inner.ledger();
        Arc::make_mut(&mut ledger.snapshot.versions).insert((version.line.clone(), version.version.clone()), Arc::new(version));
    }

    /// Wait until the state is so.
    pub(super) async fn until(&self, holds: impl Fn(&crate::snapshot::Snapshot) -> bool) {
        let begun = std::time::Instant::now();
        while !holds(&self.controller().snapshot()) {
            assert!(begun.elapsed() < PATIENCE, "it did not come to that");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}
