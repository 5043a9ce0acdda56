//! TLS as a device speaks it: one pinned authority, TLS 1.3, the trusted time, and the device's own certificate where it has one.
//!
//! No root of the system is believed: whoever makes the device says which authority its controller and broker belong to, and
//! nobody else in the world can speak for them. No session is resumed: each connection shows the certificate again, so what was
//! renewed or revoked counts from the next connection on. The time is handed in and is the agent's trusted one, since a device
//! without a battery-backed clock wakes up in 1970; its reading may be behind, so a certificate that is not good *yet* is judged
//! at its own first moment, while one that is over by any reading is over.
use std::error::Error;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use leeway_protocol::time::Timestamp;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{ClientConfig, Resumption, WebPkiServerVerifier};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::time_provider::TimeProvider;
use rustls::{AlertDescription, CertificateError, DigitallySignedStruct, RootCertStore, SignatureScheme};

mod http;
pub(super) use http::http;

/// A chain that is not good yet is judged anew at most so often: once for each certificate in it.
const MAX_LATER: usize = 4;
/// Certificates of one authority, or of one chain; an old and a new authority overlap for a while.
const MAX_CERTIFICATES: usize = 8;

/// Why TLS cannot be spoken.
#[derive(Debug, thiserror::Error)]
pub(super) enum TlsError {
    /// Not certificates.
    #[error("{0} is not a list of 1 to {MAX_CERTIFICATES} certificates in PEM")]
    NotPem(&'static str),
    /// Not a key.
    #[error("the device's TLS key cannot be read")]
    Key(#[source] rustls::pki_types::pem::Error),
    /// They cannot be used, or not together.
    #[error("{0} cannot be used: {1}")]
    Unusable(&'static str, String),
}

/// The agent's trusted time, for those who judge certificates on other threads.
#[derive(Debug)]
pub(super) struct TrustedTime(AtomicI64);

impl TrustedTime {
    pub(super) fn new(at: Timestamp) -> Arc<Self> {
        Arc::new(Self(AtomicI64::new(at.as_millis())))
    }

    pub(super) fn set(&self, at: Timestamp) {
        self.0.store(at.as_millis(), Ordering::Relaxed);
    }

    pub(super) fn read(&self) -> Timestamp {
        Timestamp::from_millis(self.0.load(Ordering::Relaxed))
    }
}

impl TimeProvider for TrustedTime {
    fn current_time(&self) -> Option<UnixTime> {
        let millis = u64::try_from(self.read().as_millis()).unwrap_or(0);
        Some(UnixTime::since_unix_epoch(Duration::from_millis(millis)))
    }
}

/// The certificates of a PEM text.
pub(super) fn certificates(pem: &str, what: &'static str) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let read: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem.as_bytes()).take(MAX_CERTIFICATES + 1).collect();
    read.ok().filter(|read| (1..=MAX_CERTIFICATES).contains(&read.len())).ok_or(TlsError::NotPem(what))
}

/// How connections are made: this authority is believed, and this certificate is shown, as chain and key.
pub(super) fn client(ca: &str, own: Option<(&str, &str)>, time: &Arc<TrustedTime>) -> Result<Arc<ClientConfig>, TlsError> {
    const CA: &str = "the authority's certificate";
    const OWN: &str = "the device's certificate";
    let mut roots = RootCertStore::empty();
    for certificate in certificates(ca, CA)? {
        roots.add(certificate).map_err(|error| TlsError::Unusable(CA, error.to_string()))?;
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let judge = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider));
    let judge = judge.build().map_err(|error| TlsError::Unusable(CA, error.to_string()))?;
    let time: Arc<dyn TimeProvider> = Arc::<TrustedTime>::clone(time);
    let config = ClientConfig::builder_with_details(provider, time)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|error| TlsError::Unusable("TLS 1.3", error.to_string()))?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Judge(judge)));
    let mut config = match own {
        None => config.with_no_client_auth(),
        Some((chain, key)) => {
            let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).map_err(TlsError::Key)?;
            // Refuses a key that is not the certificate's.
            config.with_client_auth_cert(certificates(chain, OWN)?, key).map_err(|error| TlsError::Unusable(OWN, error.to_string()))?
        }
    };
    config.resumption = Resumption::disabled();
    Ok(Arc::new(config))
}

/// Judges a server's certificate as the library does, but for the moment.
#[derive(Debug)]
struct Judge(Arc<WebPkiServerVerifier>);

impl ServerCertVerifier for Judge {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let mut at = now;
        for _ in 0..MAX_LATER {
            match self.0.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, at) {
                Err(rustls::Error::InvalidCertificate(CertificateError::NotValidYetContext { not_before, .. })) if not_before > at => {
                    at = not_before;
                }
                judged => return judged,
            }
        }
        Err(rustls::Error::InvalidCertificate(CertificateError::NotValidYet))
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.0.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.0.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_verify_schemes()
    }
}

/// What the TLS library said, if this failed because of it.
fn cause<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a rustls::Error> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref() {
            return Some(found);
        }
        // An I/O error does not name what it wraps as its source, and the HTTP library names no source at all.
        let wrapped = match error.downcast_ref() {
            Some(ureq::Error::Io(inner)) => Some(inner as &(dyn Error + 'static)),
            _ => error.downcast_ref::<std::io::Error>().and_then(|error| Some(error.get_ref()? as &(dyn Error + 'static))),
        };
        next = wrapped.or_else(|| error.source());
    }
    None
}

/// A sentence about a connection that failed because of TLS; none if it failed for another reason.
pub(super) fn sentence(error: &(dyn Error + 'static)) -> Option<String> {
    Some(match cause(error)? {
        rustls::Error::InvalidCertificate(why) => match why {
            CertificateError::UnknownIssuer | CertificateError::BadSignature => {
                "the server's certificate was not signed by the authority this device believes".to_owned()
            }
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
                format!("the server's certificate is over by this device's reading of the time: {why}")
            }
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
                format!("the server's certificate is for another name: {why}")
            }
            other => format!("the server's certificate cannot be believed: {other}"),
        },
        rustls::Error::AlertReceived(alert) if is_about_certificate(*alert) => {
            format!("the server does not accept this device's certificate ({alert:?})")
        }
        other => format!("TLS failed: {other}"),
    })
}

/// Whether the peer did not accept the device's certificate.
pub(super) fn is_unaccepted(error: &(dyn Error + 'static)) -> bool {
    matches!(cause(error), Some(rustls::Error::AlertReceived(alert)) if is_about_certificate(*alert))
}

fn is_about_certificate(alert: AlertDescription) -> bool {
    matches!(
        alert,
        AlertDescription::BadCertificate
            | AlertDescription::UnsupportedCertificate
            | AlertDescription::CertificateRevoked
            | AlertDescription::CertificateExpired
            | AlertDescription::CertificateUnknown
            | AlertDescription::CertificateRequired
            | AlertDescription::UnknownCA
            | AlertDescription::AccessDenied
            | AlertDescription::DecryptError
    )
}

#[cfg(test)]
pub(super) mod tests;
