//! Judged at the receiver: an MQTT 3.1.1 client is told that a refused message went out, so its own view proves nothing.
use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::{ConnectReturnCode, LastWill, Packet, SubscribeReasonCode};
use rumqttc::v5::{AsyncClient, ConnectionError, Event, EventLoop, MqttOptions};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::timeout;

use super::*;

mod secured;

/// No message should take longer; only a failing test waits so long.
const PATIENCE: Duration = Duration::from_secs(10);

fn credentials() -> Arc<Credentials> {
    let credentials = Credentials::new(Digest::of(b"controller-secret"));
    for name in ["d1", "d2"] {
        credentials.admit(&name.parse().unwrap(), Digest::of(format!("secret-{name}").as_bytes()));
    }
    Arc::new(credentials)
}

async fn broker() -> Broker {
    let config = BrokerConfig::plain("127.0.0.1:0".parse().unwrap(), "demo".parse().unwrap(), credentials());
    Broker::start(config).await.unwrap()
}

fn options(broker: &Broker, client: &str, user: &str, secret: &str) -> MqttOptions {
    let mut options = MqttOptions::new(client, "127.0.0.1", broker.addr().port());
    options.set_credentials(user, secret).set_keep_alive(Duration::from_secs(30)).set_max_packet_size(Some(MAX_PACKET_BYTES));
    options
}

struct Client {
    client: AsyncClient,
    events: EventLoop,
}

impl Client {
    async fn try_connect(options: MqttOptions) -> Result<Self, ConnectionError> {
        let (client, mut events) = AsyncClient::new(options, 32);
        loop {
            match timeout(PATIENCE, events.poll()).await.expect("the broker answers")? {
                Event::Incoming(Packet::ConnAck(_)) => return Ok(Self { client, events }),
                _ => continue,
            }
        }
    }

    async fn device(broker: &Broker, name: &str) -> Self {
        loop {
            match Self::try_connect(options(broker, name, name, &format!("secret-{name}"))).await {
                Ok(client) => return client,
                // The broker is still closing the session that this one takes over.
                Err(ConnectionError::ConnectionRefused(ConnectReturnCode::ServerUnavailable)) => tokio::task::yield_now().await,
                Err(error) => panic!("{error}"),
            }
        }
    }

    async fn controller(broker: &Broker) -> Self {
        let mut own = Self::try_connect(options(broker, CONTROLLER, CONTROLLER, "controller-secret")).await.unwrap();
        assert!(own.subscribe("leeway/v1/demo/#").await);
        own
    }

    async fn next(&mut self) -> Packet {
        loop {
            match timeout(PATIENCE, self.events.poll()).await.expect("a packet comes").unwrap() {
                Event::Incoming(packet) => return packet,
                Event::Outgoing(_) => continue,
            }
        }
    }

    async fn subscribe(&mut self, filter: &str) -> bool {
        self.client.try_subscribe(filter, QoS::AtLeastOnce).unwrap();
        loop {
            if let Packet::SubAck(ack) = self.next().await {
                return matches!(ack.return_codes[..], [SubscribeReasonCode::Success(_)]);
            }
        }
    }

    /// Returns once the broker has dealt with it.
    async fn publish(&mut self, topic: &str, retain: bool, bytes: &[u8]) {
        self.client.try_publish(topic.to_owned(), QoS::AtLeastOnce, retain, bytes.to_vec()).unwrap();
        loop {
            // Refused ones are an error of the event loop's in this client; it may go on.
            match timeout(PATIENCE, self.events.poll()).await.expect("an acknowledgement comes") {
                Ok(Event::Incoming(Packet::PubAck(_))) | Err(_) => return,
                Ok(_) => continue,
            }
        }
    }

    async fn receive(&mut self) -> (String, Vec<u8>) {
        loop {
            if let Packet::Publish(publish) = self.next().await {
                return (String::from_utf8_lossy(&publish.topic).into_owned(), publish.payload.to_vec());
            }
        }
    }
}

#[tokio::test]
async fn own_uplinks_arrive_and_nothing_else_does() {
    let broker = broker().await;
    let mut controller = Client::controller(&broker).await;
    let mut other = Client::device(&broker, "d2").await;
    assert!(other.subscribe("leeway/v1/demo/dev/d2/desired").await);
    let spoofed = [
        "leeway/v1/demo/dev/d2/tele/window",
        "leeway/v1/demo/dev/d2/desired",
        "leeway/v1/demo/dev/d1/desired",
        "leeway/v1/demo/dev/d1/cmd/receipt",
        "leeway/v1/other/dev/d1/tele/window",
        "leeway/v1/demo/controller",
        "anything",
    ];
    for topic in spoofed {
        let mut device = Client::device(&broker, "d1").await;
        device.publish(topic, false, b"spoofed").await;
    }
    let mut device = Client::device(&broker, "d1").await;
    device.publish("leeway/v1/demo/dev/d1/tele/window", true, b"retained where nothing is retained").await;
    let mut device = Client::device(&broker, "d1").await;
    device.publish("leeway/v1/demo/dev/d1/tele/window", false, b"own").await;
    assert_eq!(controller.receive().await, ("leeway/v1/demo/dev/d1/tele/window".to_owned(), b"own".to_vec()));
    controller.publish("leeway/v1/demo/dev/d2/desired", true, b"genuine").await;
    assert_eq!(other.receive().await.1, b"genuine");
}

#[tokio::test]
async fn a_device_reads_only_its_own_topics() {
    let broker = broker().await;
    let mut device = Client::device(&broker, "d1").await;
    let table = [
        ("leeway/v1/demo/dev/d1/desired", true),
        ("leeway/v1/demo/dev/d1/cmd/receipt", true),
        ("leeway/v1/demo/dev/d2/desired", false),
        ("leeway/v1/demo/dev/+/desired", false),
        ("leeway/v1/demo/dev/d1/#", false),
        ("$share/g/leeway/v1/demo/dev/d2/desired", false),
        ("#", false),
        ("leeway/v1/demo/dev/d2/status", false),
    ];
    for (filter, allowed) in table {
        assert_eq!(device.subscribe(filter).await, allowed, "{filter}");
    }
}

#[tokio::test]
async fn sign_in_needs_the_name_the_secret_and_an_own_will() {
    let broker = broker().await;
    let refused = [
        options(&broker, "d1", "d1", "wrong"),
        options(&broker, "d1", "d1", ""),
        options(&broker, "d1", "d2", "secret-d2"),
        options(&broker, CONTROLLER, "d1", "secret-d1"),
        options(&broker, CONTROLLER, CONTROLLER, "secret-d1"),
        options(&broker, "stranger", "stranger", "secret-d1"),
        MqttOptions::new("d1", "127.0.0.1", broker.addr().port()),
    ];
    for (i, options) in refused.into_iter().enumerate() {
        let error = Client::try_connect(options).await.err().unwrap_or_else(|| panic!("case {i} was let in"));
        assert!(matches!(error, ConnectionError::ConnectionRefused(ConnectReturnCode::BadUserNamePassword)), "case {i}: {error}");
    }
    let mut with_will = options(&broker, "d1", "d1", "secret-d1");
    with_will.set_last_will(LastWill::new("leeway/v1/demo/dev/d2/status", "gone", QoS::AtLeastOnce, true, None));
    let error = Client::try_connect(with_will).await.err().unwrap();
    assert!(matches!(error, ConnectionError::ConnectionRefused(ConnectReturnCode::NotAuthorized)), "{error}");

    let mut controller = Client::controller(&broker).await;
    let mut with_will = options(&broker, "d1", "d1", "secret-d1");
    with_will.set_last_will(LastWill::new("leeway/v1/demo/dev/d1/status", "gone", QoS::AtLeastOnce, true, None));
    drop(Client::try_connect(with_will).await.unwrap());
    assert_eq!(controller.receive().await, ("leeway/v1/demo/dev/d1/status".to_owned(), b"gone".to_vec()));
}

#[tokio::test]
async fn a_wrong_secret_does_not_disturb_the_one_who_is_in() {
    let broker = broker().await;
    let mut device = Client::device(&broker, "d1").await;
    assert!(Client::try_connect(options(&broker, "d1", "d1", "wrong")).await.is_err());
    assert!(device.subscribe("leeway/v1/demo/dev/d1/desired").await);
}

#[tokio::test]
async fn retained_messages_reach_whoever_comes_later_and_replacements_replace() {
    let broker = broker().await;
    let mut controller = Client::controller(&broker).await;
    let topic = "leeway/v1/demo/dev/d1/desired";
    controller.publish(topic, true, b"first").await;
    controller.publish(topic, true, b"second").await;
    let mut device = Client::device(&broker, "d1").await;
    assert!(device.subscribe(topic).await);
    assert_eq!(device.receive().await, (topic.to_owned(), b"second".to_vec()));
}

#[tokio::test]
async fn garbage_and_oversize_close_one_connection_and_harm_nobody() {
    let broker = broker().await;
    let mut controller = Client::controller(&broker).await;
    for bytes in [&b"GET / HTTP/1.1\r\n\r\n"[..], &[0xff; 64], &[0x10, 0xff, 0xff, 0xff, 0x7f], &[0; 3]] {
        let mut stream = tokio::net::TcpStream::connect(broker.addr()).await.unwrap();
        let _ = stream.write_all(bytes).await;
        let _ = stream.shutdown().await;
        let mut rest = Vec::new();
        let _ = timeout(PATIENCE, stream.read_to_end(&mut rest)).await.expect("the broker hangs up");
    }
    let mut device = Client::device(&broker, "d1").await;
    let topic = "leeway/v1/demo/dev/d1/tele/capture";
    device.publish(topic, false, &vec![7; MAX_PACKET_BYTES as usize + 1]).await;
    let mut device = Client::device(&broker, "d1").await;
    device.publish(topic, false, &vec![8; MAX_PACKET_BYTES as usize - 100]).await;
    let (_, bytes) = controller.receive().await;
    assert_eq!((bytes[0], bytes.len()), (8, MAX_PACKET_BYTES as usize - 100));
}

#[tokio::test]
async fn mqtt_3_1_1_is_served_under_the_same_rules() {
    let broker = broker().await;
    let mut controller = Client::controller(&broker).await;
    let mut options = rumqttc::MqttOptions::new("d1", "127.0.0.1", broker.addr().port());
    options.set_credentials("d1", "secret-d1");
    let (client, mut events) = rumqttc::AsyncClient::new(options, 8);
    for (topic, text) in [("leeway/v1/demo/dev/d2/reported", "spoofed"), ("leeway/v1/demo/dev/d1/reported", "own")] {
        client.try_publish(topic, rumqttc::QoS::AtLeastOnce, false, text).unwrap();
    }
    let poll = tokio::spawn(async move { while events.poll().await.is_ok() {} });
    assert_eq!(controller.receive().await.1, b"own");
    poll.abort();
}

#[tokio::test]
async fn a_taken_port_is_named_and_a_restart_gets_its_port_back() {
    let first = broker().await;
    let addr = first.addr();
    let config = BrokerConfig::plain(addr, "demo".parse().unwrap(), credentials());
    let error = Broker::start(config.clone()).await.unwrap_err().to_string();
    assert!(error.contains(&addr.to_string()) && error.contains("choose another"), "{error}");
    let mut device = Client::device(&first, "d1").await;
    drop(first);
    while device.events.poll().await.is_ok() {}
    let second = loop {
        // The old listener is closed in the background.
        match Broker::start(config.clone()).await {
            Ok(broker) => break broker,
            Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
        }
    };
    Client::device(&second, "d1").await;
}
