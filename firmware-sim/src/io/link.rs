//! One station's connection to the broker, from CONNECT to the first failure; the next connection is another link.
//!
//! A link of its own per connection, because each connection needs a fresh will (sealed by the agent), and because a client
//! that reconnects by itself does so without back-off and decides alone what is sent again: here the outbox decides that.
//! The event loop runs in its own task, so that a busy station never cuts a connection attempt in half.
use std::time::Duration;

use leeway_protocol::ids::{DeviceId, Tenant};
use leeway_protocol::topic::{Channel, Topic};
use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::{Filter, LastWill, Packet};
use rumqttc::v5::{AsyncClient, Event, EventLoop, MqttOptions};
use tokio::sync::mpsc::Sender;
use tokio::task::JoinHandle;

/// Messages on the way to the broker at one time; rumqttc reserves memory for each.
const INFLIGHT: u16 = 32;
/// Messages waiting to go on the way; what does not fit is sent again from the outbox.
const QUEUE: usize = 256;
/// Largest message either way: metadata-sized desired states, windows of 512 features and capture batches fit.
const MAX_PACKET: u32 = 1 << 20;
/// Seconds between signs of life to the broker.
const KEEP_ALIVE: Duration = Duration::from_secs(30);

/// Where the broker is and who the station is there.
#[derive(Debug, Clone)]
pub(super) struct Account {
    pub(super) host: String,
    pub(super) port: u16,
    pub(super) tenant: Tenant,
    pub(super) device: DeviceId,
    pub(super) username: String,
    pub(super) secret: String,
}

/// What a link tells its station.
#[derive(Debug)]
pub(super) enum LinkEvent {
    /// Connected and subscribed.
    Up { session_present: bool },
    /// A message for this station.
    Message(Channel, Vec<u8>),
    /// The link has ended.
    Down(String),
}

/// A connection, or an attempt at one.
#[derive(Debug)]
pub(super) struct Link {
    client: AsyncClient,
    account: Account,
    task: JoinHandle<()>,
}

impl Link {
    /// Connect with this last will; events carry `number`, so that a late one of an earlier link is told apart.
    pub(super) fn open<T: Send + 'static>(
        account: Account,
        will: Vec<u8>,
        number: u64,
        to: Sender<T>,
        wrap: fn(u64, LinkEvent) -> T,
    ) -> Self {
        let topic = |channel| Topic::new(&account.tenant, &account.device, channel).to_string();
        let mut options = MqttOptions::new(account.device.as_str(), &account.host, account.port);
        options
            .set_credentials(&account.username, &account.secret)
            .set_keep_alive(KEEP_ALIVE)
            .set_clean_start(true)
            .set_max_packet_size(Some(MAX_PACKET))
            .set_outgoing_inflight_upper_limit(INFLIGHT)
            .set_last_will(LastWill::new(topic(Channel::Status), will, QoS::AtLeastOnce, true, None));
        let (client, events) = AsyncClient::new(options, QUEUE);
        let filters = [Channel::Desired, Channel::Receipt].map(|channel| Filter::new(topic(channel), QoS::AtLeastOnce));
        let subscriber = client.clone();
        let task = tokio::spawn(run(events, subscriber, filters.to_vec(), number, to, wrap));
        Self { client, account, task }
    }

    /// Hand a message to the connection; false if it has no room or has ended.
    pub(super) fn publish(&self, channel: Channel, bytes: Vec<u8>) -> bool {
        let topic = Topic::new(&self.account.tenant, &self.account.device, channel).to_string();
        self.client.try_publish(topic, QoS::AtLeastOnce, channel.is_retained(), bytes).is_ok()
    }

    /// Say goodbye, so that the will is not sent.
    pub(super) fn close(&self) {
        let _ = self.client.try_disconnect();
    }
}

impl Drop for Link {
    /// A link that is dropped without goodbye is a cut cable.
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn run<T: Send + 'static>(
    mut events: EventLoop,
    client: AsyncClient,
    filters: Vec<Filter>,
    number: u64,
    to: Sender<T>,
    wrap: fn(u64, LinkEvent) -> T,
) {
    let tell = async |event| to.send(wrap(number, event)).await.is_ok();
    let mut session_present = false;
    loop {
        let event = match events.poll().await {
            Ok(Event::Incoming(packet)) => packet,
            Ok(Event::Outgoing(_)) => continue,
            Err(error) => {
                tell(LinkEvent::Down(error.to_string())).await;
                return;
            }
        };
        let told = match event {
            Packet::ConnAck(ack) => {
                session_present = ack.session_present;
                client.try_subscribe_many(filters.clone()).is_ok()
            }
            Packet::SubAck(_) => tell(LinkEvent::Up { session_present }).await,
            Packet::Publish(message) => {
                let topic = std::str::from_utf8(&message.topic).ok().and_then(|topic| topic.parse::<Topic>().ok());
                match topic {
                    Some(topic) => tell(LinkEvent::Message(topic.channel, message.payload.to_vec())).await,
                    None => true,
                }
            }
            Packet::Disconnect(bye) => {
                tell(LinkEvent::Down(format!("the broker said goodbye: {:?}", bye.reason_code))).await;
                return;
            }
            _ => true,
        };
        if !told {
            return;
        }
    }
}
