//! TLS on both listeners: one certificate for the server, one authority for the devices, one way to read who is at the other end.
//!
//! rustls with ring, TLS 1.3 only, and no resumption: a session that is taken up again would skip the look at the certificate. The
//! server's certificate is made by the device authority and replaced while the program runs, or comes from files that are read
//! again when they change. What stays true: devices verify the server against the authority they were given, never against the
//! roots of their system, and a handshake with a certificate that is over or of another authority fails.
use std::io::Read as _;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use leeway_protocol::ids::Tenant;
use leeway_protocol::time::Timestamp;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, RootCertStore, ServerConfig};

use super::clock;

pub mod authority;
pub mod peer;

#[cfg(test)]
pub(in crate::io) mod tests;

use authority::{Authority, AuthorityError, KeyedCertificate};

/// How long a device's certificate is good unless told otherwise.
pub const DEVICE_SECS: i64 = 30 * 86_400;
/// How long the server's own is.
const SERVER_SECS: i64 = 90 * 86_400;
/// Files that were brought are looked at so often.
const LOOK: Duration = Duration::from_secs(60);
/// The largest file of certificates that is read.
const MAX_PEM: u64 = 1 << 20;

/// What TLS is turned on with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsSettings {
    /// Names and addresses under which devices and people reach this machine, besides those that are known anyway.
    pub names: Vec<String>,
    /// A certificate of another authority instead of our own.
    pub files: Option<TlsFiles>,
    /// How long a device's certificate is good, seconds.
    pub device_secs: i64,
    /// How long the server's own is, seconds.
    pub server_secs: i64,
    /// Where the embedded broker also listens without TLS.
    pub plain_mqtt: Option<SocketAddr>,
}

impl Default for TlsSettings {
    fn default() -> Self {
        Self { names: Vec::new(), files: None, device_secs: DEVICE_SECS, server_secs: SERVER_SECS, plain_mqtt: None }
    }
}

/// A server certificate that somebody brought.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    /// The chain, PEM.
    pub certificate: PathBuf,
    /// Its key, PEM.
    pub key: PathBuf,
    /// The authority that devices are to trust for it, PEM.
    pub ca: PathBuf,
}

/// TLS could not be turned on.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The authority.
    #[error(transparent)]
    Authority(#[from] AuthorityError),
    /// A file that was brought.
    #[error("{path} cannot be used: {detail}")]
    File {
        /// Which.
        path: PathBuf,
        /// What is wrong.
        detail: String,
    },
    /// Anything else.
    #[error("TLS cannot be turned on: {0}")]
    Setup(#[from] rustls::Error),
}

/// What both listeners share.
#[derive(Debug)]
pub struct Tls {
    authority: Authority,
    settings: TlsSettings,
    names: Vec<String>,
    /// What devices are given to trust.
    trusted: String,
    shown: Arc<Shown>,
    http: Arc<ServerConfig>,
    mqtt: Arc<ServerConfig>,
}

/// The certificate that is shown at the moment.
#[derive(Debug)]
struct Shown(RwLock<Arc<CertifiedKey>>);

impl ResolvesServerCert for Shown {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner)))
    }
}

impl Tls {
    /// Turn it on, with the authority in `keys`. `names` are those of this machine that follow from the rest of the settings.
    pub fn open(keys: &Path, tenant: &Tenant, settings: TlsSettings, names: Vec<String>) -> Result<Self, TlsError> {
        let authority = Authority::open(keys, tenant, clock::now())?;
        let all = settings.names.iter().cloned().chain(names).chain(["localhost", "127.0.0.1", "::1"].map(str::to_owned));
        let names = all.fold(Vec::new(), |mut kept, name| {
            if !kept.contains(&name) {
                kept.push(name);
            }
            kept
        });
        let mut trusted = authority.pem().to_owned();
        if let Some(files) = &settings.files {
            trusted += &text(&files.ca)?;
        }
        let shown = Arc::new(Shown(RwLock::new(shown(&authority, &settings, &names)?)));
        let (http, mqtt) = (server(&authority, &shown, false)?, server(&authority, &shown, true)?);
        Ok(Self { authority, settings, names, trusted, shown, http, mqtt })
    }

    /// The authority that signs devices.
    pub fn authority(&self) -> &Authority {
        &self.authority
    }

    /// What it was turned on with.
    pub fn settings(&self) -> &TlsSettings {
        &self.settings
    }

    /// What devices are to trust for controller and broker, PEM.
    pub fn trusted(&self) -> &str {
        &self.trusted
    }

    /// For HTTPS: a certificate may be shown.
    pub(super) fn http(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.http)
    }

    /// For MQTT: a certificate must be shown.
    pub(super) fn mqtt(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.mqtt)
    }

    /// Replace the server's certificate now.
    fn renew(&self) -> Result<(), TlsError> {
        let fresh = shown(&self.authority, &self.settings, &self.names)?;
        *self.shown.0.write().unwrap_or_else(PoisonError::into_inner) = fresh;
        Ok(())
    }
}

/// Keep the server's certificate fresh: our own at two thirds of its life, files when they change.
pub(super) async fn keep(tls: Arc<Tls>) {
    const RETRY: Duration = Duration::from_secs(60);
    let own = Duration::from_secs(u64::try_from(tls.settings.server_secs * 2 / 3).unwrap_or(1).max(1));
    let mut known = modified(&tls.settings);
    loop {
        let brought = tls.settings.files.is_some();
        tokio::time::sleep(if brought { LOOK } else { own }).await;
        let now = modified(&tls.settings);
        if brought && now == known {
            continue;
        }
        match tls.renew() {
            Ok(()) => {
                known = now;
                tracing::info!("the server's certificate was replaced");
            }
            Err(error) => {
                tracing::error!("the server's certificate was not replaced: {error}; trying again");
                tokio::time::sleep(RETRY).await;
            }
        }
    }
}

fn modified(settings: &TlsSettings) -> Option<std::time::SystemTime> {
    settings.files.as_ref().and_then(|files| std::fs::metadata(&files.certificate).ok()?.modified().ok())
}

fn shown(authority: &Authority, settings: &TlsSettings, names: &[String]) -> Result<Arc<CertifiedKey>, TlsError> {
    let (pair, path) = match &settings.files {
        Some(files) => (KeyedCertificate { chain: text(&files.certificate)?, key: text(&files.key)? }, files.certificate.as_path()),
        None => (authority.server(names, clock::now(), settings.server_secs)?, Path::new("the server's own certificate")),
    };
    let fail = |detail: String| TlsError::File { path: path.to_owned(), detail };
    let (chain, key) = parsed(&pair).map_err(fail)?;
    let key = provider().key_provider.load_private_key(key)?;
    let certified = CertifiedKey::new(chain, key);
    certified.keys_match().map_err(|e| fail(e.to_string()))?;
    Ok(Arc::new(certified))
}

fn parsed(pair: &KeyedCertificate) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), String> {
    let chain: Vec<_> = CertificateDer::pem_slice_iter(pair.chain.as_bytes()).collect::<Result<_, _>>().map_err(|e| e.to_string())?;
    if chain.is_empty() {
        return Err("there is no certificate in it".to_owned());
    }
    let key = PrivateKeyDer::from_pem_slice(pair.key.as_bytes()).map_err(|e| format!("its key cannot be read: {e}"))?;
    Ok((chain, key))
}

fn server(authority: &Authority, shown: &Arc<Shown>, mandatory: bool) -> Result<Arc<ServerConfig>, TlsError> {
    let roots = Arc::new(roots(authority.pem())?);
    let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider());
    let verifier = if mandatory { verifier } else { verifier.allow_unauthenticated() };
    let verifier = verifier.build().map_err(|e| TlsError::Setup(rustls::Error::General(e.to_string())))?;
    let config = ServerConfig::builder_with_provider(provider()).with_protocol_versions(&[&rustls::version::TLS13])?;
    let mut config = config.with_client_cert_verifier(verifier).with_cert_resolver(Arc::clone(shown) as _);
    // No way round the look at the certificate.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    if !mandatory {
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
    }
    Ok(Arc::new(config))
}

/// For the controller as a client of a broker outside: whom to trust, and who it is there.
pub(super) fn client(ca: &str, own: Option<&KeyedCertificate>) -> Result<ClientConfig, TlsError> {
    let config = ClientConfig::builder_with_provider(provider()).with_safe_default_protocol_versions()?;
    let config = config.with_root_certificates(roots(ca)?);
    match own {
        None => Ok(config.with_no_client_auth()),
        Some(pair) => {
            let (chain, key) = parsed(pair).map_err(|e| TlsError::Setup(rustls::Error::General(e)))?;
            Ok(config.with_client_auth_cert(chain, key)?)
        }
    }
}

fn roots(pem: &str) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
        let certificate = certificate.map_err(|e| TlsError::Setup(rustls::Error::General(e.to_string())))?;
        roots.add(certificate)?;
    }
    Ok(roots)
}

/// The one provider of cryptography: rustls would otherwise take whichever the build happens to hold.
fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// A file of certificates or keys.
pub(super) fn text(path: &Path) -> Result<String, TlsError> {
    let fail = |e: std::io::Error| TlsError::File { path: path.to_owned(), detail: e.to_string() };
    let mut text = String::new();
    std::fs::File::open(path).map_err(fail)?.take(MAX_PEM).read_to_string(&mut text).map_err(fail)?;
    Ok(text)
}

/// The name in an address such as `https://fleet.example:8443`, for the server's certificate.
pub(super) fn name_in(url: &str) -> Option<String> {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let host = rest.split('/').next()?;
    let name = match host.strip_prefix('[') {
        Some(v6) => v6.split(']').next()?,
        None => host.rsplit_once(':').map_or(host, |(name, _)| name),
    };
    (!name.is_empty()).then(|| name.to_owned())
}

/// The address listened on, as a name, unless it stands for all of them.
pub(super) fn name_of(ip: IpAddr) -> Option<String> {
    (!ip.is_unspecified()).then(|| ip.to_string())
}

/// The end of a certificate against now.
pub(super) fn left(not_after: Timestamp, now: Timestamp) -> Duration {
    Duration::from_millis(u64::try_from(not_after.millis_since(now)).unwrap_or(0))
}
