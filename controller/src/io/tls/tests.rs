//! What the authority signs and what is read out of it again; handshakes are tried at the listeners.
use std::os::unix::fs::PermissionsExt as _;

use leeway_protocol::ids::DeviceId;
use rcgen::{CertificateParams, DnType, IsCa, KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ED25519};

use super::authority::{CA_KEY, Request};
use super::peer::Peer;
use super::*;

/// A device's key for TLS and its request, as a device would make it.
pub(in crate::io) struct Applicant {
    pub(in crate::io) key: KeyPair,
    pub(in crate::io) csr: String,
}

impl Applicant {
    pub(in crate::io) fn new() -> Self {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
        let csr = CertificateParams::default().serialize_request(&key).unwrap().pem().unwrap();
        Self { key, csr }
    }

    /// What it shows with this chain.
    pub(in crate::io) fn with(&self, chain: &str) -> KeyedCertificate {
        KeyedCertificate { chain: chain.to_owned(), key: self.key.serialize_pem() }
    }
}

pub(in crate::io) fn tenant() -> Tenant {
    "demo".parse().unwrap()
}

fn device(name: &str) -> DeviceId {
    name.parse().unwrap()
}

fn chain(pem: &str) -> Vec<CertificateDer<'static>> {
    CertificateDer::pem_slice_iter(pem.as_bytes()).map(Result::unwrap).collect()
}

#[test]
fn the_authority_is_made_once_and_its_key_is_for_its_owner_only() {
    let dir = tempfile::tempdir().unwrap();
    let open = || Authority::open(dir.path(), &tenant(), clock::now());
    let first = open().unwrap().pem().to_owned();
    assert_eq!(open().unwrap().pem(), first);
    let key = dir.path().join(CA_KEY);
    assert_eq!(std::fs::metadata(&key).unwrap().permissions().mode() & 0o777, 0o600);
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o640)).unwrap();
    assert!(open().unwrap_err().to_string().contains("chmod 600"));
    std::fs::remove_file(&key).unwrap();
    let missing = open().unwrap_err().to_string();
    assert!(missing.contains("bring it back"), "{missing}");
}

#[test]
fn of_a_request_only_the_public_key_counts() {
    let dir = tempfile::tempdir().unwrap();
    let authority = Authority::open(dir.path(), &tenant(), clock::now()).unwrap();
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
    let mut greedy = CertificateParams::new(vec!["fleet.example".to_owned()]).unwrap();
    greedy.distinguished_name.push(DnType::CommonName, "d2");
    greedy.distinguished_name.push(DnType::OrganizationName, "other");
    greedy.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    greedy.key_usages = vec![rcgen::KeyUsagePurpose::KeyCertSign];
    let asked = Request::parse(&greedy.serialize_request(&key).unwrap().pem().unwrap()).unwrap();
    let now = clock::now();
    let issued = authority.device(&tenant(), &device("d1"), &asked, now, 60).unwrap();
    let peer = Peer::of(&chain(&issued.chain), &tenant()).unwrap();
    assert_eq!((peer.device.as_str(), &peer.serial), ("d1", &issued.certificate.serial));
    assert_eq!(peer.not_after, issued.certificate.not_after);
    let life = peer.not_after.millis_since(now);
    assert!((59_000..=60_000).contains(&life), "{life}");
    let chain = chain(&issued.chain);
    let (_, parsed) = x509_parser::parse_x509_certificate(&chain[0]).unwrap();
    assert!(!parsed.is_ca() && parsed.key_usage().unwrap().unwrap().value.flags == 1, "it signs in and nothing else");
    let usage = parsed.extended_key_usage().unwrap().unwrap().value;
    assert!(usage.client_auth && !usage.server_auth && !usage.any);
    assert!(parsed.validity().not_before.timestamp() <= now.as_millis() / 1_000 - 299, "clocks may be behind");
}

#[test]
fn requests_that_prove_nothing_are_refused() {
    let good = Applicant::new().csr;
    assert!(Request::parse(&good).is_ok());
    let other = Applicant::new().csr;
    // The signature of one request under the content of another.
    let der = |pem: &str| pem.lines().filter(|line| !line.starts_with('-')).collect::<String>();
    let (a, b) = (der(&good), der(&other));
    let mixed =
        format!("-----BEGIN CERTIFICATE REQUEST-----\n{}{}\n-----END CERTIFICATE REQUEST-----\n", &a[..a.len() / 2], &b[b.len() / 2..]);
    let ed25519 = KeyPair::generate_for(&PKCS_ED25519).unwrap();
    let foreign = CertificateParams::default().serialize_request(&ed25519).unwrap().pem().unwrap();
    for bad in ["", "rubbish", &mixed, &foreign, &"x".repeat(1 << 20)] {
        let error = Request::parse(bad).unwrap_err().to_string();
        assert!(error.contains("request for a certificate"), "{error}");
    }
}

#[test]
fn only_a_device_of_this_fleet_is_read_as_one() {
    let dir = tempfile::tempdir().unwrap();
    let authority = Authority::open(dir.path(), &tenant(), clock::now()).unwrap();
    let now = clock::now();
    let asked = Request::parse(&Applicant::new().csr).unwrap();
    let issued = authority.device(&tenant(), &device("d1"), &asked, now, 60).unwrap().chain;
    assert!(Peer::of(&chain(&issued), &tenant()).is_some());
    assert!(Peer::of(&chain(&issued), &"other".parse().unwrap()).is_none(), "of another tenant");
    assert!(Peer::of(&[], &tenant()).is_none() && Peer::of(&[CertificateDer::from(vec![0x30, 0])], &tenant()).is_none());
    for pem in [authority.client("d1", now, 60).unwrap().chain, authority.server(&["d1".to_owned()], now, 60).unwrap().chain] {
        assert!(Peer::of(&chain(&pem), &tenant()).is_none(), "a certificate that names a device and is none's");
    }
    assert!(Peer::of(&chain(authority.pem()), &tenant()).is_none());
}

#[test]
fn the_list_of_revoked_certificates_names_them() {
    let dir = tempfile::tempdir().unwrap();
    let authority = Authority::open(dir.path(), &tenant(), clock::now()).unwrap();
    let asked = Request::parse(&Applicant::new().csr).unwrap();
    let issued = authority.device(&tenant(), &device("d1"), &asked, clock::now(), 60).unwrap();
    let listed = |serials: &[(String, Timestamp)]| {
        let pem = authority.revoked(serials, clock::now()).unwrap();
        let der = rustls::pki_types::CertificateRevocationListDer::from_pem_slice(pem.as_bytes()).unwrap();
        let (_, list) =
            <x509_parser::revocation_list::CertificateRevocationList<'_> as x509_parser::prelude::FromDer<_>>::from_der(&der).unwrap();
        list.iter_revoked_certificates().map(|one| authority::hex(one.raw_serial())).collect::<Vec<_>>()
    };
    assert_eq!(listed(&[]), Vec::<String>::new());
    assert_eq!(listed(&[(issued.certificate.serial.clone(), clock::now())]), [issued.certificate.serial]);
}

#[test]
fn names_come_out_of_addresses() {
    let table = [
        ("https://fleet.example:8443/x", Some("fleet.example")),
        ("https://10.0.0.1", Some("10.0.0.1")),
        ("https://[::1]:8080", Some("::1")),
        ("https://", None),
    ];
    for (url, name) in table {
        assert_eq!(name_in(url).as_deref(), name, "{url}");
    }
}

#[tokio::test]
async fn the_servers_certificate_is_replaced_while_it_runs() {
    let dir = tempfile::tempdir().unwrap();
    let settings = TlsSettings { server_secs: 3, ..TlsSettings::default() };
    let tls = Arc::new(Tls::open(dir.path(), &tenant(), settings, Vec::new()).unwrap());
    let shown = || tls.shown.0.read().unwrap().cert[0].clone();
    let first = shown();
    let keeper = tokio::spawn(keep(Arc::clone(&tls)));
    let begun = std::time::Instant::now();
    while shown() == first {
        assert!(begun.elapsed() < Duration::from_secs(20), "it was not replaced");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(begun.elapsed() >= Duration::from_secs(2), "at two thirds of its life, not at once");
    keeper.abort();
}

#[test]
fn a_certificate_that_was_brought_must_have_its_key() {
    let dir = tempfile::tempdir().unwrap();
    let other = tempfile::tempdir().unwrap();
    let foreign = Authority::open(other.path(), &tenant(), clock::now()).unwrap();
    let pair = foreign.server(&["fleet.example".to_owned()], clock::now(), 60).unwrap();
    let stranger = foreign.server(&["fleet.example".to_owned()], clock::now(), 60).unwrap();
    let put = |name: &str, text: &str| {
        let path = other.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    let files = TlsFiles { certificate: put("a.pem", &pair.chain), key: put("a.key", &pair.key), ca: put("ca.pem", foreign.pem()) };
    let open = |files: TlsFiles| Tls::open(dir.path(), &tenant(), TlsSettings { files: Some(files), ..TlsSettings::default() }, Vec::new());
    let tls = open(files.clone()).unwrap();
    assert!(tls.trusted().contains(foreign.pem()) && tls.trusted().contains(tls.authority().pem()), "devices trust both");
    let wrong = open(TlsFiles { key: put("b.key", &stranger.key), ..files.clone() }).unwrap_err().to_string();
    assert!(wrong.contains("a.pem"), "{wrong}");
    assert!(open(TlsFiles { certificate: put("c.pem", "nothing"), ..files }).is_err());
}
