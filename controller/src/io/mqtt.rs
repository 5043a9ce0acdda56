//! The controller as an MQTT 5 client, of the embedded broker or of any other: one code path, so what is tested with one holds
//! for the other.
//!
//! One task polls the connection and does nothing else; it never publishes, because a full queue would then stop the very loop
//! that empties it. Uplinks go into a bounded channel: when the store is slow, the loop stops reading, and the broker keeps what
//! comes. Nothing is acknowledged here in the sense of "stored": the signed receipts do that. What stays true: after every
//! connection the controller subscribes again, says it is there, and calls for all desired states to be published again.
use std::sync::Arc;
use std::time::Duration;

use leeway_protocol::ids::Tenant;
use leeway_protocol::topic::{Channel, Topic};
use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::{Filter, LastWill, Packet, SubscribeReasonCode};
use rumqttc::v5::{AsyncClient, ConnectionError, Event, EventLoop, MqttOptions};
use rumqttc::{TlsConfiguration, Transport};
use rustls::ClientConfig;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use super::broker::{CONTROLLER, MAX_PACKET_BYTES};

/// Uplinks read and not yet judged: some commits' worth.
const MAX_WAITING: usize = 20_000;
/// Publishes handed over and not yet sent.
const MAX_REQUESTS: usize = 1_024;
/// Time between two pings; also how soon a dead connection is noticed.
const KEEP_ALIVE: Duration = Duration::from_secs(30);
/// How long a broker outside keeps uplinks while the controller restarts.
const SESSION_SECS: u32 = 3_600;
/// First pause after a failed connection; doubled with each further one.
const MIN_PAUSE: Duration = Duration::from_millis(250);
/// Longest pause.
const MAX_PAUSE: Duration = Duration::from_secs(15);

/// Where and as whom to connect.
#[derive(Debug, Clone)]
pub struct MqttConfig {
    /// Host name or address.
    pub host: String,
    /// Port.
    pub port: u16,
    /// User name; client id too.
    pub user: String,
    /// Secret; empty where a certificate says who this is.
    pub secret: String,
    /// For TLS.
    pub tls: Option<Arc<ClientConfig>>,
    /// Whose topic tree.
    pub tenant: Tenant,
}

impl MqttConfig {
    /// The controller's own user at `host`:`port`.
    pub fn controller(host: &str, port: u16, secret: &str, tenant: &Tenant) -> Self {
        Self { host: host.to_owned(), port, user: CONTROLLER.to_owned(), secret: secret.to_owned(), tls: None, tenant: tenant.clone() }
    }
}

/// What came in.
#[derive(Debug, Clone)]
pub struct Incoming {
    /// On which topic.
    pub topic: String,
    /// The payload.
    pub bytes: Vec<u8>,
}

/// The connection, from the outside.
#[derive(Debug)]
pub struct Mqtt {
    client: AsyncClient,
    connections: watch::Receiver<u64>,
    problem: watch::Receiver<Option<String>>,
    task: JoinHandle<()>,
}

/// A message could not be handed over.
#[derive(Debug, thiserror::Error)]
#[error("the message could not be handed to the MQTT client: it is closed, or its queue is full")]
pub struct PublishError;

impl Mqtt {
    /// Connect, and go on connecting whatever happens.
    pub fn connect(config: MqttConfig) -> (Self, mpsc::Receiver<Incoming>) {
        let (client, events) = AsyncClient::new(options(&config), MAX_REQUESTS);
        let (uplinks, inbox) = mpsc::channel(MAX_WAITING);
        let (connected, connections) = watch::channel(0);
        let (trouble, problem) = watch::channel(None);
        let link = Link {
            client: client.clone(),
            tenant: config.tenant.clone(),
            at: format!("{}:{}", config.host, config.port),
            uplinks,
            connected,
            trouble,
        };
        let task = tokio::spawn(link.run(events));
        (Self { client, connections, problem, task }, inbox)
    }

    /// Publish to one device, waiting for room in the queue.
    pub async fn publish(&self, topic: &Topic, bytes: Vec<u8>) -> Result<(), PublishError> {
        let retain = topic.channel.is_retained();
        self.client.publish(topic.to_string(), QoS::AtLeastOnce, retain, bytes).await.map_err(|_| PublishError)
    }

    /// The same, but rather not at all than later.
    pub fn try_publish(&self, topic: &Topic, bytes: Vec<u8>) -> Result<(), PublishError> {
        let retain = topic.channel.is_retained();
        self.client.try_publish(topic.to_string(), QoS::AtLeastOnce, retain, bytes).map_err(|_| PublishError)
    }

    /// How often a connection was made and uplinks were subscribed to; changes with each.
    pub fn connections(&self) -> watch::Receiver<u64> {
        self.connections.clone()
    }

    /// Why there is no connection now, in a sentence.
    pub fn problem(&self) -> Option<String> {
        self.problem.borrow().clone()
    }

    /// Say goodbye and end.
    pub async fn close(&self) {
        let _ = self.client.try_disconnect();
        // The loop ends with the connection; it must not hold up the rest.
        tokio::time::sleep(Duration::from_millis(20)).await;
        self.task.abort();
    }
}

impl Drop for Mqtt {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// The controller's own topic: retained, with a will, so that anybody can see whether it is there.
fn status_topic(tenant: &Tenant) -> String {
    format!("leeway/v1/{tenant}/controller/status")
}

fn options(config: &MqttConfig) -> MqttOptions {
    let mut options = MqttOptions::new(&config.user, &config.host, config.port);
    let gone = serde_json::json!({ "v": 1, "online": false }).to_string();
    if let Some(tls) = &config.tls {
        options.set_transport(Transport::tls_with_config(TlsConfiguration::Rustls(Arc::clone(tls))));
    }
    options
        .set_credentials(&config.user, &config.secret)
        .set_keep_alive(KEEP_ALIVE)
        .set_clean_start(false)
        .set_session_expiry_interval(Some(SESSION_SECS))
        .set_max_packet_size(Some(MAX_PACKET_BYTES))
        .set_last_will(LastWill::new(status_topic(&config.tenant), gone, QoS::AtLeastOnce, true, None));
    options
}

struct Link {
    client: AsyncClient,
    tenant: Tenant,
    at: String,
    uplinks: mpsc::Sender<Incoming>,
    connected: watch::Sender<u64>,
    trouble: watch::Sender<Option<String>>,
}

impl Link {
    async fn run(self, mut events: EventLoop) {
        let mut pause = MIN_PAUSE;
        loop {
            match events.poll().await {
                Ok(Event::Incoming(Packet::ConnAck(_))) => {
                    pause = MIN_PAUSE;
                    self.greet();
                }
                Ok(Event::Incoming(Packet::SubAck(ack))) => {
                    let refused = ack.return_codes.iter().filter(|code| !matches!(code, SubscribeReasonCode::Success(_))).count();
                    let trouble = (refused > 0).then(|| {
                        format!("the MQTT broker at {} refused {refused} of our subscriptions: give user {CONTROLLER} its rights", self.at)
                    });
                    if let Some(sentence) = &trouble {
                        tracing::error!("{sentence}");
                    }
                    self.trouble.send_replace(trouble);
                    self.connected.send_modify(|n| *n += 1);
                }
                Ok(Event::Incoming(Packet::Publish(publish))) => {
                    let Ok(topic) = String::from_utf8(publish.topic.to_vec()) else { continue };
                    let incoming = Incoming { topic, bytes: publish.payload.to_vec() };
                    if self.uplinks.send(incoming).await.is_err() {
                        return;
                    }
                }
                Ok(_) => {}
                Err(ConnectionError::RequestsDone) => return,
                Err(error) => {
                    let sentence = format!("no connection to the MQTT broker at {}: {error}; trying again", self.at);
                    tracing::warn!("{sentence}");
                    self.trouble.send_replace(Some(sentence));
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(MAX_PAUSE);
                }
            }
        }
    }

    /// Subscribe and say hello; `try_`, because this is the task that empties the queue.
    fn greet(&self) {
        let uplinks = Channel::ALL.into_iter().filter(|channel| channel.is_uplink());
        let filters = uplinks.map(|channel| Filter::new(Topic::all(&self.tenant, channel), QoS::AtLeastOnce));
        let here = serde_json::json!({ "v": 1, "online": true, "controller": env!("CARGO_PKG_VERSION") }).to_string();
        let subscribed = self.client.try_subscribe_many(filters).is_ok();
        if !subscribed || self.client.try_publish(status_topic(&self.tenant), QoS::AtLeastOnce, true, here).is_err() {
            // A queue full of publishes from before: the next connection tries again.
            tracing::error!("the MQTT client's queue is full, so the controller could not subscribe");
            let _ = self.client.try_disconnect();
        }
    }
}
