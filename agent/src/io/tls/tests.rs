//! Real handshakes with real servers, good ones and bad ones; what is needed to stand one up is used by the tests beside this.
use std::io::{BufRead as _, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::Instant;

use leeway_protocol::digest::Digest;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    date_time_ymd,
};
use rustls::server::WebPkiClientVerifier;
use rustls::{ServerConfig, ServerConnection, StreamOwned};

use super::*;
use crate::io::download::agent as http_agent;

/// An authority of its own.
pub(in crate::io) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pub(in crate::io) pem: String,
}

/// A key with its chain, as PEM.
#[derive(Clone)]
pub(in crate::io) struct Party {
    pub(in crate::io) chain: String,
    pub(in crate::io) key: String,
}

impl Authority {
    pub(in crate::io) fn new(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        Self { issuer: Issuer::new(params, key), pem }
    }

    fn params(names: &[&str], years: (i32, i32), purpose: ExtendedKeyUsagePurpose) -> CertificateParams {
        let mut params = CertificateParams::new(names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>()).unwrap();
        (params.not_before, params.not_after) = (date_time_ymd(years.0, 1, 1), date_time_ymd(years.1, 1, 1));
        params.extended_key_usages = vec![purpose];
        params
    }

    /// A server of these names, good from one year to another.
    pub(in crate::io) fn server(&self, names: &[&str], years: (i32, i32)) -> Party {
        let key = KeyPair::generate().unwrap();
        let params = Self::params(names, years, ExtendedKeyUsagePurpose::ServerAuth);
        Party { chain: params.signed_by(&key, &self.issuer).unwrap().pem(), key: key.serialize_pem() }
    }

    /// A device with a key drawn here.
    pub(in crate::io) fn device(&self, name: &str) -> Party {
        let key = KeyPair::generate().unwrap();
        let mut params = Self::params(&[], (2020, 2090), ExtendedKeyUsagePurpose::ClientAuth);
        params.distinguished_name.push(DnType::CommonName, name);
        Party { chain: params.signed_by(&key, &self.issuer).unwrap().pem(), key: key.serialize_pem() }
    }

    /// A device by its own request, as a controller does it: only the key counts. For so many seconds, or for all our years.
    pub(in crate::io) fn certify(&self, csr: &str, name: &str, secs: Option<u64>) -> String {
        let mut request = CertificateSigningRequestParams::from_pem(csr).unwrap();
        request.params = Self::params(&[], (2020, 2090), ExtendedKeyUsagePurpose::ClientAuth);
        if let Some(secs) = secs {
            let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
            let now = date_time_ymd(1970, 1, 1) + now;
            (request.params.not_before, request.params.not_after) = (now - Duration::from_secs(300), now + Duration::from_secs(secs));
        }
        request.params.distinguished_name.push(DnType::CommonName, name);
        request.signed_by(&self.issuer).unwrap().pem()
    }
}

/// Which clients a server takes.
#[derive(Clone, Copy)]
pub(in crate::io) enum Clients<'a> {
    Anybody,
    /// Also without a certificate.
    Maybe(&'a Authority),
    Only(&'a Authority),
}

pub(in crate::io) fn server_config(server: &Party, clients: Clients<'_>) -> Arc<ServerConfig> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider)).with_safe_default_protocol_versions().unwrap();
    let verifier = |authority: &Authority| {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(authority.pem.as_bytes()).unwrap()).unwrap();
        WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
    };
    let builder = match clients {
        Clients::Anybody => builder.with_no_client_auth(),
        Clients::Maybe(authority) => builder.with_client_cert_verifier(verifier(authority).allow_unauthenticated().build().unwrap()),
        Clients::Only(authority) => builder.with_client_cert_verifier(verifier(authority).build().unwrap()),
    };
    let key = PrivateKeyDer::from_pem_slice(server.key.as_bytes()).unwrap();
    Arc::new(builder.with_single_cert(certificates(&server.chain, "the server").unwrap(), key).unwrap())
}

/// A connection that came in.
pub(in crate::io) type Incoming = StreamOwned<ServerConnection, TcpStream>;

/// The digest of the certificate that the client showed.
pub(in crate::io) fn shown(stream: &Incoming) -> Option<Digest> {
    Some(Digest::of(stream.conn.peer_certificates()?.first()?))
}

pub(in crate::io) fn digest_of(party: &str) -> Digest {
    Digest::of(&certificates(party, "a party").unwrap()[0])
}

/// A server on a free port; every connection that comes through the handshake is handed to `serve`.
pub(in crate::io) fn listen(config: Arc<ServerConfig>, serve: impl Fn(Incoming) + Send + Sync + 'static) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let serve = Arc::new(serve);
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let (mut stream, config, serve) = (stream.unwrap(), Arc::clone(&config), Arc::clone(&serve));
            std::thread::spawn(move || {
                stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
                let mut connection = ServerConnection::new(config).unwrap();
                while connection.is_handshaking() {
                    if connection.complete_io(&mut stream).is_err() {
                        // The client hears why.
                        drop(connection.write_tls(&mut stream));
                        return;
                    }
                }
                serve(StreamOwned::new(connection, stream));
            });
        }
    });
    port
}

/// One HTTP request: its head's first line and its body; none when the client has left.
pub(in crate::io) fn request(reader: &mut impl Read) -> Option<(String, Vec<u8>)> {
    let mut reader = BufReader::with_capacity(1, reader);
    let mut first = String::new();
    reader.read_line(&mut first).ok().filter(|read| *read > 0)?;
    let (mut line, mut length) = (String::new(), 0);
    while reader.read_line(&mut line).unwrap_or(0) > 2 {
        if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().unwrap();
        }
        line.clear();
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    Some((first, body))
}

pub(in crate::io) fn respond(stream: &mut impl Write, status: u16, body: &str) {
    let text = format!("HTTP/1.1 {status} Said\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    drop(stream.write_all(text.as_bytes()).and_then(|()| stream.flush()));
}

/// Answers each request of a connection with the digest of the certificate that was shown.
fn mirror(mut stream: Incoming) {
    let who = shown(&stream).map_or_else(|| "nobody".to_owned(), |digest| digest.hex());
    while request(&mut stream).is_some() {
        respond(&mut stream, 200, &who);
    }
}

/// The year the tests live in.
pub(in crate::io) fn today() -> Arc<TrustedTime> {
    TrustedTime::new("2026-11-23T05:00:00Z".parse().unwrap())
}

fn ask(config: &Arc<ClientConfig>, url: &str) -> Result<String, String> {
    let http = http_agent(Some(Arc::clone(config)));
    let begun = Instant::now();
    let answer = http.get(url).call().and_then(|mut answer| answer.body_mut().read_to_string());
    assert!(begun.elapsed() < Duration::from_secs(15), "{url}");
    answer.map_err(|error| sentence(&error).unwrap_or_else(|| format!("not TLS: {error}")))
}

#[test]
fn only_the_pinned_authority_the_right_name_and_the_right_time_are_believed() {
    let (ours, theirs) = (Authority::new("ours"), Authority::new("ours"));
    let both = ["127.0.0.1", "localhost"];
    let table: [(&str, &Authority, &[&str], (i32, i32), &str, &str, Result<(), &str>); 9] = [
        ("good", &ours, &both, (2020, 2030), "127.0.0.1", "2026-11-23T05:00:00Z", Ok(())),
        ("good by name", &ours, &both, (2020, 2030), "localhost", "2026-11-23T05:00:00Z", Ok(())),
        ("another authority of that name", &theirs, &both, (2020, 2030), "127.0.0.1", "2026-11-23T05:00:00Z", Err("not signed by")),
        ("over", &ours, &both, (2020, 2025), "127.0.0.1", "2026-11-23T05:00:00Z", Err("is over by this device's reading")),
        ("another name", &ours, &["localhost"], (2020, 2030), "127.0.0.1", "2026-11-23T05:00:00Z", Err("for another name")),
        ("a name of none", &ours, &["broker.example"], (2020, 2030), "localhost", "2026-11-23T05:00:00Z", Err("for another name")),
        // A clock that is behind does not keep a device away from its controller; one that is ahead does, and says so.
        ("a clock in 1970", &ours, &both, (2020, 2030), "127.0.0.1", "1970-01-01T00:00:09Z", Ok(())),
        ("not good yet and another authority", &theirs, &both, (2080, 2090), "127.0.0.1", "2026-11-23T05:00:00Z", Err("not signed by")),
        ("a clock in 2099", &ours, &both, (2020, 2030), "127.0.0.1", "2099-01-01T00:00:00Z", Err("is over by this device's reading")),
    ];
    for (case, authority, names, years, host, time, expected) in table {
        let port = listen(server_config(&authority.server(names, years), Clients::Anybody), mirror);
        let config = client(&ours.pem, None, &TrustedTime::new(time.parse().unwrap())).unwrap();
        match (ask(&config, &format!("https://{host}:{port}/")), expected) {
            (Ok(who), Ok(())) => assert_eq!(who, "nobody", "{case}"),
            (Err(said), Err(part)) => assert!(said.contains(part), "{case}: {said}"),
            (got, _) => panic!("{case}: {got:?}"),
        }
    }
}

#[test]
fn the_certificate_is_shown_where_it_is_asked_for_and_a_refusal_is_told_apart() {
    let (ours, theirs) = (Authority::new("ours"), Authority::new("theirs"));
    let server = ours.server(&["127.0.0.1"], (2020, 2030));
    let (device, stranger) = (ours.device("device-1"), theirs.device("device-1"));
    let config = |own: Option<&Party>| client(&ours.pem, own.map(|own| (&*own.chain, &*own.key)), &today()).unwrap();
    let who = digest_of(&device.chain).hex();
    for (case, clients, own, expected) in [
        ("asked for", Clients::Only(&ours), Some(&device), Ok(who.as_str())),
        ("may be shown", Clients::Maybe(&ours), Some(&device), Ok(&who)),
        ("may be left out", Clients::Maybe(&ours), None, Ok("nobody")),
        ("not asked for", Clients::Anybody, Some(&device), Ok("nobody")),
        ("missing", Clients::Only(&ours), None, Err("does not accept this device's certificate (CertificateRequired)")),
        ("of another authority", Clients::Only(&ours), Some(&stranger), Err("does not accept this device's certificate")),
    ] {
        let port = listen(server_config(&server, clients), mirror);
        match (ask(&config(own), &format!("https://127.0.0.1:{port}/")), expected) {
            (Ok(got), Ok(expected)) => assert_eq!(got, expected, "{case}"),
            // The server may close before its last words are read: then the line is broken, and that is all there is to say.
            (Err(said), Err(part)) => assert!(said.contains(part) || said.contains("reset") || said.contains("ipe"), "{case}: {said}"),
            (got, _) => panic!("{case}: {got:?}"),
        }
    }
}

#[test]
fn a_key_of_another_certificate_and_authorities_that_are_none_are_refused() {
    let ours = Authority::new("ours");
    let (one, other) = (ours.device("device-1"), ours.device("device-1"));
    let many = ours.pem.repeat(MAX_CERTIFICATES + 1);
    for (case, ca, chain, key, part) in [
        ("keys swapped", &*ours.pem, &*one.chain, &*other.key, "the device's certificate cannot be used"),
        ("no key", &ours.pem, &one.chain, &one.chain, "TLS key cannot be read"),
        ("no chain", &ours.pem, &one.key, &one.key, "the device's certificate is not a list"),
        ("no authority", "", &one.chain, &one.key, "the authority's certificate is not a list"),
        ("no PEM", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", &one.chain, &one.key, "cannot be used"),
        ("too many", &many, &one.chain, &one.key, "1 to 8"),
    ] {
        let error = client(ca, Some((chain, key)), &today()).unwrap_err().to_string();
        assert!(error.contains(part), "{case}: {error}");
    }
}

#[test]
fn a_server_that_speaks_something_else_is_an_error_and_not_a_wait() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            drop(stream.write_all(b"HTTP/1.1 400 Plain\r\n\r\n"));
            let mut sink = [0; 4096];
            drop(stream.read(&mut sink));
        }
    });
    let config = client(&Authority::new("ours").pem, None, &today()).unwrap();
    let said = ask(&config, &format!("https://127.0.0.1:{port}/")).unwrap_err();
    assert!(said.contains("TLS failed"), "{said}");
    // And https without a configuration is never spoken in the clear: there is no TLS in this build, or it fails as above in one that
    // shares its HTTP client with programs that have it.
    let said = http_agent(None).get(format!("https://127.0.0.1:{port}/")).call().unwrap_err().to_string();
    assert!(said.to_lowercase().contains("tls") || said.contains("corrupt message"), "{said}");
}
