//! The same controller with a broker that is not its own: Debian's Mosquitto with the configuration and the ACL of
//! `deploy/brokers`. Devices get their secrets from its operator; a device that lies about who it is is not heard, judged where it
//! counts: at a receiver. And whatever lies on the topics, the agent goes on.
use leeway_tests::application::Application;
use leeway_tests::device::Device;
use leeway_tests::harness::{PATIENCE, wait_for};
use leeway_tests::lesson::teach;
use leeway_tests::mosquitto::Mosquitto;
use leeway_tests::site::Site;
use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::Packet;
use rumqttc::v5::{AsyncClient, Event, EventLoop, MqttOptions};
use tokio::time::timeout;

/// What a device's own topics are called, below `leeway/v1/main/dev/<device>/`.
const UPLINKS: [&str; 5] = ["status", "reported", "tele/window", "tele/capture", "tele/event"];
const DOWNLINKS: [&str; 2] = ["desired", "cmd/receipt"];

#[test]
fn mosquitto_is_as_good_a_broker_and_its_acl_holds() {
    let mut site = Site::new("rain");
    let mut broker = Mosquitto::start(&site.path("mosquitto"));
    let secret = site.path("controller.secret");
    std::fs::write(&secret, "the controller's own\n").expect("a secret");
    broker.admit("controller", "the controller's own");
    broker.admit("stranger", "a device gone bad");
    broker.observe("observer", "sees and says everything");
    broker.run();
    let url = format!("mqtt://controller@127.0.0.1:{}", broker.port);
    site.broker = Some(vec!["--broker".to_owned(), url, "--broker-secret".to_owned(), secret.display().to_string()]);
    site.start();
    site.configure();
    site.publish(&teach("rain", "1.0.0", 0..900, "the first model"));

    let mut porch = Device::new(&site, "porch");
    let token = site.enrolment_token(1);
    let told = porch.enrol(&site, &token).ok();
    assert!(told.err.contains("--broker-secret"), "{told:?}");
    let own = site.path("porch.secret");
    std::fs::write(&own, "porch's own\n").expect("a secret");
    broker.admit("porch", "porch's own");
    broker.reload();
    porch.enrol_args = vec!["--broker-secret".to_owned(), own.display().to_string()];
    // The token is used up; the key that it has is enough to come again.
    let _ = porch.enrol(&site, &token).ok();
    porch.start();
    let rollout = site.roll_out("1.0.0");
    porch.until_serves("1.0.0");
    let application = Application::start(porch.tcp(), "rain", 3, 2_000);
    assert_eq!(site.until_over(&rollout), "completed");
    site.until_runs("porch", "1.0.0");

    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(a_device_speaks_for_itself_only(&broker));
    runtime.block_on(rubbish_on_every_topic(&broker));
    the_device_goes_on(&site, &application);
    drop(application);
    site.assert_chain();
    site.assert_calm();
}

/// A client of the broker.
struct Client {
    client: AsyncClient,
    events: EventLoop,
}

impl Client {
    async fn connect(broker: &Mosquitto, user: &str, secret: &str) -> Self {
        let mut options = MqttOptions::new(user, "127.0.0.1", broker.port);
        options.set_credentials(user, secret).set_max_packet_size(Some(256 << 10));
        let (client, events) = AsyncClient::new(options, 64);
        let mut connected = Self { client, events };
        loop {
            if let Packet::ConnAck(_) = connected.next().await {
                return connected;
            }
        }
    }

    async fn next(&mut self) -> Packet {
        loop {
            let polled = timeout(PATIENCE, self.events.poll()).await.expect("a packet comes").expect("the connection stands");
            if let Event::Incoming(packet) = polled {
                return packet;
            }
        }
    }

    /// Publish, and wait until the broker took it.
    async fn say(&mut self, topic: &str, retain: bool, bytes: &[u8]) {
        self.client.try_publish(topic, QoS::AtLeastOnce, retain, bytes.to_vec()).expect("room in the queue");
        loop {
            if let Packet::PubAck(_) = self.next().await {
                return;
            }
        }
    }
}

/// The stranger speaks on the topics of another device, then once on its own: only the last one is heard.
async fn a_device_speaks_for_itself_only(broker: &Mosquitto) {
    let mut observer = Client::connect(broker, "observer", "sees and says everything").await;
    observer.client.try_subscribe("leeway/#", QoS::AtLeastOnce).expect("room in the queue");
    while !matches!(observer.next().await, Packet::SubAck(_)) {}
    let mut stranger = Client::connect(broker, "stranger", "a device gone bad").await;
    for channel in UPLINKS.iter().chain(&DOWNLINKS) {
        stranger.say(&format!("leeway/v1/main/dev/porch/{channel}"), false, b"forged").await;
    }
    stranger.say("leeway/v1/main/controller/status", false, b"forged").await;
    stranger.say("leeway/v1/main/dev/stranger/desired", false, b"forged").await;
    stranger.say("leeway/v1/main/dev/stranger/tele/event", false, b"the last word").await;
    loop {
        let Packet::Publish(message) = observer.next().await else { continue };
        assert!(&message.payload[..] != b"forged", "{:?} was delivered", message.topic);
        if &message.payload[..] == b"the last word" {
            return;
        }
    }
}

/// Bytes that are nothing, on every topic, as a broker that went mad would deliver them: retained too.
async fn rubbish_on_every_topic(broker: &Mosquitto) {
    let mut observer = Client::connect(broker, "observer", "sees and says everything").await;
    let large = vec![b'{'; 200 << 10];
    let rubbish: [&[u8]; 5] = [b"", b"rubbish", b"{\"signed\":{},\"signatures\":[]}", &[0xff; 300], &large];
    for bytes in rubbish {
        for channel in UPLINKS.iter().chain(&DOWNLINKS) {
            let retain = ["status", "reported", "desired"].contains(channel);
            observer.say(&format!("leeway/v1/main/dev/porch/{channel}"), retain, bytes).await;
        }
        for topic in
            ["leeway/v1/main/dev/nobody/tele/window", "leeway/v1/main/dev/PORCH/status", "leeway/v1/main/dev/porch/tele", "leeway/v2/x"]
        {
            observer.say(topic, false, bytes).await;
        }
    }
}

/// New windows keep arriving, and the next version still reaches the device.
fn the_device_goes_on(site: &Site, application: &Application) {
    site.publish(&teach("rain", "2.0.0", 500..1_400, "the second model"));
    let asked = application.seen().answers.values().sum::<u64>();
    let made = site.roll_out("2.0.0");
    wait_for("the device runs 2.0.0 in spite of the rubbish", || {
        let rollout = site.rollout(&made)?;
        if application.answers("2.0.0") > 0 { Ok(()) } else { Err(format!("{}: {}", rollout.summary.phase, rollout.summary.sentence)) }
    });
    assert!(application.seen().answers.values().sum::<u64>() > asked);
    site.until_runs("porch", "2.0.0");
}
