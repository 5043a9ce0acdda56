//! The same with TLS: who a client is, its certificate says. Judged at the receiver, as in the plain table.
use rumqttc::{TlsConfiguration, Transport};

use super::*;
use crate::fleet::Certificate;
use crate::io::clock;
use crate::io::tls::authority::{Authority, KeyedCertificate, Request};
use crate::io::tls::tests::Applicant;
use crate::io::tls::{Tls, TlsSettings, client};

/// A broker with TLS, its authority, and another one.
struct Secured {
    broker: Broker,
    tls: Tls,
    stranger: Authority,
    credentials: Arc<Credentials>,
    _dirs: [tempfile::TempDir; 2],
}

/// What a device shows.
struct Card {
    shown: KeyedCertificate,
    certificate: Certificate,
}

fn demo() -> Tenant {
    "demo".parse().unwrap()
}

impl Secured {
    async fn start(plain: bool) -> Self {
        let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        let tls = Tls::open(dirs[0].path(), &demo(), TlsSettings::default(), Vec::new()).unwrap();
        let stranger = Authority::open(dirs[1].path(), &demo(), clock::now()).unwrap();
        let credentials = credentials();
        let any = "127.0.0.1:0".parse().unwrap();
        let config = BrokerConfig { plain, tls: Some((any, tls.mqtt())), ..BrokerConfig::plain(any, demo(), Arc::clone(&credentials)) };
        Self { broker: Broker::start(config).await.unwrap(), tls, stranger, credentials, _dirs: dirs }
    }

    /// A certificate as the controller would give it, `ago` seconds ago and for `life` seconds.
    fn card(&self, by: &Authority, name: &str, ago: i64, life: i64) -> Card {
        let applicant = Applicant::new();
        let asked = Request::parse(&applicant.csr).unwrap();
        let issued = by.device(&demo(), &name.parse().unwrap(), &asked, clock::now().plus_secs(-ago), life).unwrap();
        Card { shown: applicant.with(&issued.chain), certificate: issued.certificate }
    }

    /// The same, and it counts.
    fn counting(&self, name: &str) -> Card {
        let card = self.card(self.tls.authority(), name, 0, 600);
        self.credentials.certify(&name.parse().unwrap(), vec![card.certificate.clone()]);
        card
    }

    fn transport(&self, card: Option<&Card>) -> Transport {
        let config = client(self.tls.trusted(), card.map(|card| &card.shown)).unwrap();
        Transport::tls_with_config(TlsConfiguration::Rustls(Arc::new(config)))
    }

    fn options(&self, card: Option<&Card>, client: &str) -> MqttOptions {
        let mut options = MqttOptions::new(client, "127.0.0.1", self.broker.secured().unwrap().port());
        options.set_keep_alive(Duration::from_secs(30)).set_max_packet_size(Some(MAX_PACKET_BYTES));
        options.set_transport(self.transport(card));
        options
    }

    async fn device(&self, card: &Card, name: &str) -> Client {
        loop {
            match Client::try_connect(self.options(Some(card), name)).await {
                Ok(client) => return client,
                // The broker is still closing the session that this one takes over.
                Err(ConnectionError::ConnectionRefused(ConnectReturnCode::ServerUnavailable)) => tokio::task::yield_now().await,
                Err(error) => panic!("{error}"),
            }
        }
    }

    async fn refused(&self, card: Option<&Card>, client: &str) -> ConnectionError {
        Client::try_connect(self.options(card, client)).await.err().unwrap_or_else(|| panic!("{client} was let in"))
    }
}

#[tokio::test]
async fn by_certificate_own_uplinks_arrive_and_nothing_else_does() {
    let secured = Secured::start(false).await;
    let card = secured.counting("d1");
    let mut controller = Client::controller(&secured.broker).await;
    let spoofed = [
        "leeway/v1/demo/dev/d2/tele/window",
        "leeway/v1/demo/dev/d2/status",
        "leeway/v1/demo/dev/d1/desired",
        "leeway/v1/demo/dev/d1/cmd/receipt",
        "leeway/v1/other/dev/d1/tele/window",
        "leeway/v1/demo/controller",
    ];
    for topic in spoofed {
        secured.device(&card, "d1").await.publish(topic, false, b"spoofed").await;
        let mut old = rumqttc::MqttOptions::new("d1", "127.0.0.1", secured.broker.secured().unwrap().port());
        old.set_transport(secured.transport(Some(&card)));
        let (client, mut events) = rumqttc::AsyncClient::new(old, 8);
        client.try_publish(topic, rumqttc::QoS::AtLeastOnce, false, "spoofed").unwrap();
        loop {
            // A client of MQTT 3.1.1 is told that it went out.
            match timeout(PATIENCE, events.poll()).await.expect("the broker answers") {
                Ok(rumqttc::Event::Incoming(rumqttc::Packet::PubAck(_))) | Err(_) => break,
                Ok(_) => {}
            }
        }
    }
    let mut device = secured.device(&card, "d1").await;
    for filter in ["#", "$share/x/#", "+/+/+/#", "$share/g/leeway/v1/demo/dev/d2/desired", "leeway/v1/demo/dev/d2/desired"] {
        assert!(!device.subscribe(filter).await, "{filter}");
    }
    assert!(device.subscribe("leeway/v1/demo/dev/d1/desired").await);
    device.publish("leeway/v1/demo/dev/d1/tele/window", false, b"own").await;
    assert_eq!(controller.receive().await, ("leeway/v1/demo/dev/d1/tele/window".to_owned(), b"own".to_vec()));
}

#[tokio::test]
async fn only_a_certificate_that_counts_gets_in_and_only_under_its_name() {
    let secured = Secured::start(false).await;
    let own = secured.counting("d1");
    let mut controller = Client::controller(&secured.broker).await;
    // Refused in the handshake.
    let foreign = secured.card(&secured.stranger, "d1", 0, 600);
    let over = secured.card(secured.tls.authority(), "d1", 1_000, 500);
    let not_a_device =
        Card { shown: secured.tls.authority().client("d1", clock::now(), 600).unwrap(), certificate: own.certificate.clone() };
    for (card, what) in [(None, "none"), (Some(&foreign), "foreign"), (Some(&over), "over"), (Some(&not_a_device), "no device's")] {
        let error = secured.refused(card, "d1").await;
        assert!(!matches!(error, ConnectionError::ConnectionRefused(_)), "{what}: {error}");
    }
    // Refused by name, whatever secret comes with it.
    let replaced = secured.card(secured.tls.authority(), "d1", 0, 600);
    let refused = async |options: MqttOptions, what: &str| {
        let error = Client::try_connect(options).await.err().unwrap_or_else(|| panic!("{what} was let in"));
        assert!(matches!(error, ConnectionError::ConnectionRefused(ConnectReturnCode::NotAuthorized)), "{what}: {error}");
    };
    refused(secured.options(Some(&own), "d2"), "a foreign client id").await;
    refused(secured.options(Some(&own), CONTROLLER), "the controller's client id").await;
    refused(secured.options(Some(&replaced), "d1"), "a certificate that is not on the list").await;
    for (client, user, secret) in [("d1", "d2", "secret-d2"), ("d2", "d2", "secret-d2"), (CONTROLLER, CONTROLLER, "controller-secret")] {
        let mut options = secured.options(Some(&own), client);
        options.set_credentials(user, secret);
        refused(options, user).await;
    }
    let mut options = secured.options(Some(&own), "d1");
    options.set_last_will(LastWill::new("leeway/v1/demo/dev/d2/status", "gone", QoS::AtLeastOnce, true, None));
    refused(options, "a foreign will").await;
    // Its own will, its own name, and no secret at all.
    let mut options = secured.options(Some(&own), "d1");
    options.set_credentials("d1", "whatever");
    options.set_last_will(LastWill::new("leeway/v1/demo/dev/d1/status", "gone", QoS::AtLeastOnce, true, None));
    drop(Client::try_connect(options).await.unwrap());
    assert_eq!(controller.receive().await, ("leeway/v1/demo/dev/d1/status".to_owned(), b"gone".to_vec()), "and nothing of the others");
    // A right secret is worth nothing past the gate.
    let error = Client::try_connect(options_at(&secured.broker, "d1")).await.err().unwrap();
    assert!(matches!(error, ConnectionError::ConnectionRefused(ConnectReturnCode::BadUserNamePassword)), "{error}");
}

fn options_at(broker: &Broker, name: &str) -> MqttOptions {
    options(broker, name, name, &format!("secret-{name}"))
}

#[tokio::test]
async fn a_revoked_device_is_disconnected_at_once_and_stays_out() {
    let secured = Secured::start(true).await;
    let card = secured.counting("d1");
    let mut controller = Client::controller(&secured.broker).await;
    let by_certificate = secured.device(&card, "d1").await;
    let by_secret = Client::try_connect(options_at(&secured.broker, "d2")).await.unwrap();
    for (name, mut device) in [("d1", by_certificate), ("d2", by_secret)] {
        let revoked: DeviceId = name.parse().unwrap();
        secured.credentials.dismiss(&revoked);
        // Also while its connection still stands.
        assert!(!device.subscribe(&format!("leeway/v1/demo/dev/{name}/desired")).await, "{name}");
        secured.broker.disconnect(&revoked).await;
        let ended = async { while device.events.poll().await.is_ok() {} };
        timeout(Duration::from_secs(5), ended).await.expect("the connection ends");
    }
    assert!(matches!(secured.refused(Some(&card), "d1").await, ConnectionError::ConnectionRefused(ConnectReturnCode::NotAuthorized)));
    for name in ["d1", "d2"] {
        assert!(Client::try_connect(options_at(&secured.broker, name)).await.is_err(), "nor by its secret: {name}");
    }
    assert!(controller.subscribe("leeway/v1/demo/dev/d2/desired").await, "nobody else notices");
}

#[tokio::test]
async fn a_connection_ends_with_its_certificate() {
    let secured = Secured::start(false).await;
    let card = secured.card(secured.tls.authority(), "d1", 0, 3);
    secured.credentials.certify(&"d1".parse().unwrap(), vec![card.certificate.clone()]);
    let mut device = secured.device(&card, "d1").await;
    let ended = async { while device.events.poll().await.is_ok() {} };
    timeout(PATIENCE, ended).await.expect("the connection ends");
    assert!(clock::now() >= card.certificate.not_after, "not before its certificate");
    let error = secured.refused(Some(&card), "d1").await;
    assert!(!matches!(error, ConnectionError::ConnectionRefused(_)), "{error}");
}

#[tokio::test]
async fn rubbish_at_the_gate_closes_one_connection_and_harms_nobody() {
    let secured = Secured::start(false).await;
    let card = secured.counting("d1");
    for bytes in [&b"GET / HTTP/1.1\r\n\r\n"[..], &[0xff; 64], &[0x16, 3, 1, 0xff, 0xff], &[0x10, 12, 0, 4, b'M', b'Q', b'T', b'T']] {
        let mut stream = tokio::net::TcpStream::connect(secured.broker.secured().unwrap()).await.unwrap();
        let _ = stream.write_all(bytes).await;
        let _ = stream.shutdown().await;
        let mut rest = Vec::new();
        let _ = timeout(PATIENCE, stream.read_to_end(&mut rest)).await.expect("the gate hangs up");
    }
    assert!(secured.device(&card, "d1").await.subscribe("leeway/v1/demo/dev/d1/desired").await);
}
