//! Debian's Mosquitto with mutual TLS, by the configuration of `deploy/brokers`: who a client is, its certificate says, and nothing
//! it writes. Judged at a receiver, with both versions of the protocol.
use std::sync::Arc;

use leeway_controller::io::tls::authority::{Authority, KeyedCertificate, Request};
use leeway_protocol::ids::{DeviceId, Tenant};
use leeway_protocol::trust::keyring::SigningKey;
use leeway_tests::harness::{PATIENCE, wait_for};
use leeway_tests::mosquitto::Mosquitto;
use leeway_tests::site::{Site, now};
use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256};
use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::{LastWill, Packet};
use rumqttc::v5::{AsyncClient, ConnectionError, Event, EventLoop, MqttOptions};
use rumqttc::{TlsConfiguration, Transport};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::json;
use tokio::time::timeout;

/// A key for TLS, and the request that goes with it.
fn drawn() -> (String, String) {
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).expect("a key");
    let csr = CertificateParams::default().serialize_request(&key).and_then(|csr| csr.pem()).expect("a request");
    (key.serialize_pem(), csr)
}

/// A certificate of `authority` for a device, given `ago` seconds ago for `life` seconds.
fn card(authority: &Authority, device: &str, ago: i64, life: i64) -> KeyedCertificate {
    let (key, csr) = drawn();
    let (tenant, device): (Tenant, DeviceId) = ("main".parse().expect("a tenant"), device.parse().expect("a device"));
    let asked = Request::parse(&csr).expect("a request");
    let issued = authority.device(&tenant, &device, &asked, now().plus_secs(-ago), life).expect("a certificate");
    KeyedCertificate { chain: issued.chain, key }
}

/// The broker, as a client sees it.
struct Place {
    port: u16,
    ca: String,
}

impl Place {
    fn transport(&self, shown: Option<&KeyedCertificate>) -> Transport {
        let chain = |pem: &str| CertificateDer::pem_slice_iter(pem.as_bytes()).map(|c| c.expect("a certificate")).collect::<Vec<_>>();
        let mut roots = rustls::RootCertStore::empty();
        chain(&self.ca).into_iter().for_each(|ca| roots.add(ca).expect("an authority"));
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().expect("TLS");
        let config = config.with_root_certificates(roots);
        let config = match shown {
            None => config.with_no_client_auth(),
            Some(pair) => {
                let key = PrivateKeyDer::from_pem_slice(pair.key.as_bytes()).expect("a key");
                config.with_client_auth_cert(chain(&pair.chain), key).expect("a pair")
            }
        };
        Transport::tls_with_config(TlsConfiguration::Rustls(Arc::new(config)))
    }

    fn options(&self, shown: Option<&KeyedCertificate>, client: &str) -> MqttOptions {
        let mut options = MqttOptions::new(client, "127.0.0.1", self.port);
        options.set_transport(self.transport(shown));
        options
    }

    /// Publish by MQTT 3.1.1, which is told nothing of a refusal.
    async fn say_v3(&self, shown: &KeyedCertificate, client: &str, topic: &str, bytes: &[u8]) {
        let mut options = rumqttc::MqttOptions::new(client, "127.0.0.1", self.port);
        options.set_transport(self.transport(Some(shown)));
        let (client, mut events) = rumqttc::AsyncClient::new(options, 8);
        client.try_publish(topic, rumqttc::QoS::AtLeastOnce, false, bytes.to_vec()).expect("room in the queue");
        loop {
            match timeout(PATIENCE, events.poll()).await.expect("the broker answers") {
                Ok(rumqttc::Event::Incoming(rumqttc::Packet::PubAck(_))) | Err(_) => return,
                Ok(_) => {}
            }
        }
    }
}

struct Client {
    client: AsyncClient,
    events: EventLoop,
}

impl Client {
    async fn connect(options: MqttOptions) -> Result<Self, ConnectionError> {
        let (client, mut events) = AsyncClient::new(options, 64);
        loop {
            if let Event::Incoming(Packet::ConnAck(_)) = timeout(PATIENCE, events.poll()).await.expect("the broker answers")? {
                return Ok(Self { client, events });
            }
        }
    }

    async fn next(&mut self) -> Packet {
        loop {
            if let Event::Incoming(packet) = timeout(PATIENCE, self.events.poll()).await.expect("a packet comes").expect("it stands") {
                return packet;
            }
        }
    }

    /// Publish, and wait until the broker has dealt with it, whichever way.
    async fn say(&mut self, topic: &str, bytes: &[u8]) {
        self.client.try_publish(topic, QoS::AtLeastOnce, false, bytes.to_vec()).expect("room in the queue");
        loop {
            match timeout(PATIENCE, self.events.poll()).await.expect("an acknowledgement comes") {
                Ok(Event::Incoming(Packet::PubAck(_))) | Err(_) => return,
                Ok(_) => {}
            }
        }
    }

    async fn subscribe(&mut self, filter: &str) {
        self.client.try_subscribe(filter, QoS::AtLeastOnce).expect("room in the queue");
        while !matches!(self.next().await, Packet::SubAck(_)) {}
    }
}

/// A device that enrols by hand: its key for TLS and the certificate it was given.
fn enrolled(site: &Site, name: &str) -> KeyedCertificate {
    let (key, csr) = drawn();
    let token = site.leeway(&["device", "token", "--name", name, "--accept"]).ok().out.trim().to_owned();
    let public_key = SigningKey::from_seed(&[7; 32]).public().hex();
    let ask = json!({ "device": name, "public_key": public_key, "csr": csr, "token": token });
    let answer = site.api().post("/api/v1/enrol", &ask).and_then(leeway_tests::api::Answer::ok).expect("it is let in").json();
    assert_eq!(answer["mqtt"]["tls"], true, "{answer}");
    KeyedCertificate { chain: answer["tls"]["chain"].as_str().expect("a chain").to_owned(), key }
}

#[test]
fn mosquitto_with_certificates_lets_nobody_speak_for_another() {
    let mut site = Site::new("rain");
    let folder = site.path("mosquitto");
    let keys = site.path("controller/keys");
    std::fs::create_dir_all(&keys).expect("the controller's folder");
    let (keys, out) = (keys.display().to_string(), folder.display().to_string());
    let _ = site.leeway(&["keys", "broker", "--ca", &keys, "--name", "127.0.0.1", "--name", "localhost", "--out", &out]).ok();
    let revoked = site.path("controller/revoked.pem");
    let mut broker = Mosquitto::secured(&folder, &revoked);
    site.broker = Some(vec!["--broker".to_owned(), format!("mqtts://controller@127.0.0.1:{}", broker.port)]);
    site.args = vec!["--tls".to_owned()];
    let authority = Authority::open(keys.as_ref(), &"main".parse().expect("a tenant"), now()).expect("the authority");
    // The list must be there before anybody is let in, the controller too.
    std::fs::write(&revoked, authority.revoked(&[], now()).expect("a list")).expect("a list");
    broker.show("observer");
    broker.run();
    site.start();
    let taken = json!({ "device": "controller", "public_key": SigningKey::from_seed(&[8; 32]).public().hex(), "csr": drawn().1,
        "token": site.enrolment_token(1) });
    let refused = site.api().post("/api/v1/enrol", &taken).expect("an answer");
    assert!(refused.status == 409 && refused.text().contains("controller's own name"), "{}", refused.text());

    let place = Place { port: broker.port, ca: std::fs::read_to_string(site.ca_path()).expect("the authority") };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let observer = authority.client("observer", now(), 600).expect("a certificate");
    runtime.block_on(a_certificate_speaks_for_itself_only(&place, &authority, &observer));
    runtime.block_on(who_shows_nothing_that_counts_is_not_let_in(&place, &authority, &site));

    let gone = enrolled(&site, "gone");
    runtime.block_on(async { Client::connect(place.options(Some(&gone), "gone")).await.map(drop) }).expect("it is in");
    let _ = site.leeway(&["device", "revoke", "gone", "--reason", "stolen"]).ok();
    broker.reload();
    let refused = wait_for("the broker knows who was revoked", || {
        match runtime.block_on(async { Client::connect(place.options(Some(&gone), "gone")).await }) {
            Ok(_) => Err("it is let in".to_owned()),
            Err(error) => Ok(error.to_string()),
        }
    });
    assert!(!refused.is_empty());
    runtime.block_on(async { Client::connect(place.options(Some(&observer), "observer")).await.map(drop) }).expect("others are in");
    site.assert_calm();
}

/// Whatever it writes into CONNECT, topics and wills.
async fn a_certificate_speaks_for_itself_only(place: &Place, authority: &Authority, observer: &KeyedCertificate) {
    let mut receiver = Client::connect(place.options(Some(observer), "observer")).await.expect("the observer is in");
    receiver.subscribe("#").await;
    // The controller is there, and says so on its own topic.
    loop {
        if let Packet::Publish(message) = receiver.next().await
            && &message.topic[..] == b"leeway/v1/main/controller/status"
        {
            break;
        }
    }
    let stranger = card(authority, "stranger", 0, 600);
    let foreign = ["status", "reported", "tele/window", "tele/event", "desired", "cmd/receipt"];
    let topics: Vec<String> = foreign.iter().map(|channel| format!("leeway/v1/main/dev/porch/{channel}")).collect();
    let more = ["leeway/v1/main/dev/stranger/desired", "leeway/v1/main/controller/status", "anything"].map(str::to_owned);
    for topic in topics.iter().chain(&more) {
        let mut speaker = Client::connect(place.options(Some(&stranger), "stranger")).await.expect("it is in");
        speaker.say(topic, b"forged").await;
        drop(speaker);
        place.say_v3(&stranger, "stranger", topic, b"forged").await;
        // Another name in CONNECT changes nothing: it speaks as what its certificate says, and that may not.
        place.say_v3(&stranger, "porch", topic, b"forged").await;
        let mut options = place.options(Some(&stranger), "porch");
        options.set_credentials("porch", "a secret");
        options.set_last_will(LastWill::new("leeway/v1/main/dev/porch/status", "forged", QoS::AtLeastOnce, true, None));
        if let Ok(mut speaker) = Client::connect(options).await {
            speaker.say(topic, b"forged").await;
            // Cut off: a will on a foreign topic is not published either.
            drop(speaker);
        }
    }
    // What it hears: nothing that is not its own, by no wildcard and by no shared subscription.
    let mut listener = Client::connect(place.options(Some(&stranger), "stranger")).await.expect("it is in");
    for filter in
        ["#", "$share/x/#", "leeway/v1/main/dev/+/desired", "leeway/v1/main/dev/porch/desired", "leeway/v1/main/dev/stranger/desired"]
    {
        // Answered, whichever way, before anything is said: what is not retained waits for nobody.
        listener.subscribe(filter).await;
    }
    receiver.client.try_publish("leeway/v1/main/dev/porch/desired", QoS::AtLeastOnce, false, "not for it").expect("room in the queue");
    receiver.client.try_publish("leeway/v1/main/dev/stranger/desired", QoS::AtLeastOnce, false, "for it").expect("room in the queue");
    let heard = loop {
        if let Event::Incoming(Packet::Publish(message)) = tokio::select! {
            polled = listener.events.poll() => polled.expect("it stands"),
            packet = receiver.next() => {
                assert_harmless(&packet);
                continue;
            }
            () = tokio::time::sleep(PATIENCE) => panic!("nothing comes"),
        } {
            break message.payload;
        }
    };
    assert_eq!(&heard[..], b"for it");
    // Its own uplink arrives, and of all the rest nothing did: the observer hears everything, in order.
    place.say_v3(&stranger, "whatever", "leeway/v1/main/dev/stranger/tele/event", b"the last word").await;
    loop {
        let packet = receiver.next().await;
        assert_harmless(&packet);
        if matches!(&packet, Packet::Publish(message) if &message.payload[..] == b"the last word") {
            return;
        }
    }
}

fn assert_harmless(packet: &Packet) {
    if let Packet::Publish(message) = packet {
        assert!(&message.payload[..] != b"forged", "{:?} was delivered", message.topic);
    }
}

async fn who_shows_nothing_that_counts_is_not_let_in(place: &Place, authority: &Authority, site: &Site) {
    let folder = site.path("stranger.keys");
    std::fs::create_dir(&folder).expect("a folder");
    let other = Authority::open(&folder, &"main".parse().expect("a tenant"), now()).expect("another authority");
    let (foreign, over) = (card(&other, "porch", 0, 600), card(authority, "porch", 1_000, 500));
    for (shown, what) in [(None, "no certificate"), (Some(&foreign), "another authority's"), (Some(&over), "one that is over")] {
        let let_in = Client::connect(place.options(shown, "porch")).await;
        assert!(let_in.is_err(), "{what} was let in");
    }
}
