//! The device authority: a key that the controller makes at its first start with TLS and that signs nothing but certificates of
//! its own fleet.
//!
//! A request for a certificate counts for its public key and the proof that its sender holds the other half; whatever name, use or
//! lifetime it asks for is ignored. What stays true: a certificate for a device carries that device's name and tenant, three times
//! over (common name, organisation, URI), and can be used to sign in as a client and for nothing else.
use std::fs;
use std::io::Write as _;
use std::net::IpAddr;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use leeway_protocol::enrolment::{MAX_CSR, device_uri};
use leeway_protocol::ids::{DeviceId, Tenant};
use leeway_protocol::time::Timestamp;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CertificateSigningRequestParams, DnType, ExtendedKeyUsagePurpose,
    IsCa, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, RevocationReason, RevokedCertParams, SanType,
    SerialNumber,
};

use rustls::pki_types::CertificateSigningRequestDer;
use rustls::pki_types::pem::PemObject as _;

use crate::fleet::Certificate;

/// Its key, in the directory of the controller's keys.
pub const CA_KEY: &str = "device-ca.key";
/// Its certificate, beside it: what devices and brokers trust.
pub const CA_FILE: &str = "device-ca.pem";
/// How long the authority lives: longer than the devices of one fleet.
const CA_SECS: i64 = 30 * 365 * 86_400;
/// A certificate begins so long before it is made, for devices and brokers whose clocks are behind.
const BACK_SECS: i64 = 300;
/// A list of revoked certificates is good for so long; it is written anew each day.
const CRL_SECS: i64 = 30 * 86_400;

/// What is wrong with the authority, or with what it is asked for.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    /// A file.
    #[error("{path} cannot be used: {detail}")]
    File {
        /// Which.
        path: PathBuf,
        /// What is wrong.
        detail: String,
    },
    /// A request that is none.
    #[error("the request for a certificate cannot be used: {0}")]
    Request(String),
    /// Anything else.
    #[error("a certificate could not be made: {0}")]
    Make(String),
}

impl From<rcgen::Error> for AuthorityError {
    fn from(error: rcgen::Error) -> Self {
        Self::Make(error.to_string())
    }
}

/// A request for a certificate whose sender holds the key.
#[derive(Debug)]
pub struct Request(rcgen::PublicKey);

impl Request {
    /// Read one, as PEM.
    pub fn parse(pem: &str) -> Result<Self, AuthorityError> {
        if pem.len() > MAX_CSR {
            return Err(AuthorityError::Request(format!("it has more than {MAX_CSR} bytes")));
        }
        let der = CertificateSigningRequestDer::from_pem_slice(pem.as_bytes()).map_err(|e| AuthorityError::Request(e.to_string()))?;
        Self::read(&der)
    }

    /// Read one, as DER.
    pub fn read(der: &[u8]) -> Result<Self, AuthorityError> {
        let asked = CertificateSigningRequestParams::from_der(&der.into()).map_err(|e| AuthorityError::Request(e.to_string()))?;
        if asked.public_key.algorithm() != &PKCS_ECDSA_P256_SHA256 {
            return Err(AuthorityError::Request("its key is not one of P-256: draw such a key".to_owned()));
        }
        Ok(Self(asked.public_key))
    }
}

/// A certificate for a device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Issued {
    /// The chain, as PEM.
    pub chain: String,
    /// Its number and its end.
    pub certificate: Certificate,
}

/// A certificate with its key, both as PEM.
#[derive(Clone, PartialEq, Eq)]
pub struct KeyedCertificate {
    /// The certificate.
    pub chain: String,
    /// The key.
    pub key: String,
}

impl std::fmt::Debug for KeyedCertificate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KeyedCertificate").finish_non_exhaustive()
    }
}

/// The authority.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authority").finish_non_exhaustive()
    }
}

impl Authority {
    /// The authority of the directory `keys`; made at the first call.
    pub fn open(keys: &Path, tenant: &Tenant, now: Timestamp) -> Result<Self, AuthorityError> {
        let (key_path, path) = (keys.join(CA_KEY), keys.join(CA_FILE));
        let fail = |path: &Path, detail: &dyn std::fmt::Display| AuthorityError::File { path: path.to_owned(), detail: detail.to_string() };
        if !key_path.exists() {
            // A certificate without its key would be taken for this authority's.
            if path.exists() {
                return Err(fail(
                    &key_path,
                    &format!("it is missing, but {} is there: bring it back, or move that away too", path.display()),
                ));
            }
            let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
            write_new(&key_path, key.serialize_pem().as_bytes(), 0o600).map_err(|e| fail(&key_path, &e))?;
        }
        let mode = fs::metadata(&key_path).map_err(|e| fail(&key_path, &e))?.permissions().mode() & 0o777;
        if mode & 0o077 != 0 {
            return Err(fail(&key_path, &format!("it can be read by other users (mode {mode:o}): run chmod 600 {}", key_path.display())));
        }
        let text = fs::read_to_string(&key_path).map_err(|e| fail(&key_path, &e))?;
        let key = KeyPair::from_pem(&text).map_err(|e| fail(&key_path, &e))?;
        if !path.exists() {
            let own = authority_params(tenant, &key, now)?.self_signed(&key)?;
            write_new(&path, own.pem().as_bytes(), 0o644).map_err(|e| fail(&path, &e))?;
        }
        let pem = fs::read_to_string(&path).map_err(|e| fail(&path, &e))?;
        let issuer = Issuer::from_ca_cert_pem(&pem, key).map_err(|e| fail(&path, &e))?;
        Ok(Self { issuer, pem })
    }

    /// Its own certificate, as PEM.
    pub fn pem(&self) -> &str {
        &self.pem
    }

    /// A certificate for a device.
    pub fn device(
        &self,
        tenant: &Tenant,
        device: &DeviceId,
        asked: &Request,
        now: Timestamp,
        life_secs: i64,
    ) -> Result<Issued, AuthorityError> {
        let not_after = Timestamp::from_secs(now.as_millis() / 1_000 + life_secs);
        let serial = serial()?;
        let mut params = params(device.as_str(), &serial, now, not_after)?;
        params.distinguished_name.push(DnType::OrganizationName, tenant.as_str());
        params.subject_alt_names = vec![SanType::URI(device_uri(tenant, device).try_into()?)];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        let chain = params.signed_by(&asked.0, &self.issuer)?.pem();
        Ok(Issued { chain, certificate: Certificate { serial: hex(&serial), not_after } })
    }

    /// A certificate for a server that answers under these names and addresses, with a new key.
    pub fn server(&self, names: &[String], now: Timestamp, life_secs: i64) -> Result<KeyedCertificate, AuthorityError> {
        let alt = |name: &String| match name.parse::<IpAddr>() {
            Ok(ip) => Ok(SanType::IpAddress(ip)),
            Err(_) => Ok(SanType::DnsName(name.as_str().try_into()?)),
        };
        let alt = names.iter().map(alt).collect::<Result<Vec<_>, rcgen::Error>>()?;
        let common = names.first().map_or("leeway", String::as_str);
        self.keyed(common, alt, ExtendedKeyUsagePurpose::ServerAuth, now, life_secs)
    }

    /// A certificate for a client that is no device, such as the controller at a broker outside, with a new key.
    pub fn client(&self, name: &str, now: Timestamp, life_secs: i64) -> Result<KeyedCertificate, AuthorityError> {
        self.keyed(name, Vec::new(), ExtendedKeyUsagePurpose::ClientAuth, now, life_secs)
    }

    fn keyed(
        &self,
        name: &str,
        alt: Vec<SanType>,
        usage: ExtendedKeyUsagePurpose,
        now: Timestamp,
        life_secs: i64,
    ) -> Result<KeyedCertificate, AuthorityError> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let mut params = params(name, &serial()?, now, now.plus_secs(life_secs))?;
        params.subject_alt_names = alt;
        params.extended_key_usages = vec![usage];
        Ok(KeyedCertificate { chain: params.signed_by(&key, &self.issuer)?.pem(), key: key.serialize_pem() })
    }

    /// The list of revoked certificates, as PEM, for brokers outside.
    pub fn revoked(&self, serials: &[(String, Timestamp)], now: Timestamp) -> Result<String, AuthorityError> {
        let entry = |(serial, at): &(String, Timestamp)| {
            Ok(RevokedCertParams {
                serial_number: SerialNumber::from_slice(&unhex(serial)),
                revocation_time: moment(*at)?,
                reason_code: Some(RevocationReason::CessationOfOperation),
                invalidity_date: None,
            })
        };
        let list = CertificateRevocationListParams {
            this_update: moment(now.plus_secs(-BACK_SECS))?,
            next_update: moment(now.plus_secs(CRL_SECS))?,
            crl_number: SerialNumber::from_slice(&now.as_millis().to_be_bytes()),
            issuing_distribution_point: None,
            revoked_certs: serials.iter().map(entry).collect::<Result<_, AuthorityError>>()?,
            key_identifier_method: KeyIdMethod::Sha256,
        };
        Ok(list.signed_by(&self.issuer)?.pem()?)
    }
}

fn authority_params(tenant: &Tenant, key: &KeyPair, now: Timestamp) -> Result<CertificateParams, AuthorityError> {
    let mark = leeway_protocol::digest::Digest::of(key.public_key_raw()).short();
    let mut params = params(&format!("Leeway device authority {mark}"), &serial()?, now, now.plus_secs(CA_SECS))?;
    params.distinguished_name.push(DnType::OrganizationName, tenant.as_str());
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.use_authority_key_identifier_extension = false;
    Ok(params)
}

fn params(name: &str, serial: &[u8], now: Timestamp, not_after: Timestamp) -> Result<CertificateParams, AuthorityError> {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.not_before = moment(now.plus_secs(-BACK_SECS))?;
    params.not_after = moment(not_after)?;
    params.serial_number = Some(SerialNumber::from_slice(serial));
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.use_authority_key_identifier_extension = true;
    Ok(params)
}

fn moment(at: Timestamp) -> Result<time::OffsetDateTime, AuthorityError> {
    time::OffsetDateTime::from_unix_timestamp(at.as_millis() / 1_000).map_err(|e| AuthorityError::Make(e.to_string()))
}

/// A random number of 127 bits: positive in any reader's eyes, and never the same.
fn serial() -> Result<[u8; 16], AuthorityError> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).map_err(|e| AuthorityError::Make(format!("no random bytes could be drawn: {e}")))?;
    if let Some(first) = bytes.first_mut() {
        *first = (*first & 0x7f) | 0x40;
    }
    Ok(bytes)
}

/// How serial numbers are written down.
pub(super) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn unhex(text: &str) -> Vec<u8> {
    text.as_bytes().chunks(2).filter_map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()).collect()
}

/// Write a file that is not there yet, whole or not at all.
fn write_new(path: &Path, bytes: &[u8], mode: u32) -> std::io::Result<()> {
    let half = path.with_extension("new");
    let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(mode).open(&half)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&half, path)?;
    path.parent().map_or(Ok(()), |folder| fs::File::open(folder)?.sync_all())
}
