//! One connection to the broker, from CONNECT to its first failure; the next connection is another [`Link`].
//!
//! A new link for each connection and not a client that reconnects by itself: each connection has its own sealed will, and a
//! client that reconnects alone does so without a pause and loses what was queued when the broker forgot the session. What
//! must arrive is in the agent's outbox, so here everything may be lost. The subscription is made anew each time, whatever the
//! broker says about the session, because that is what brings the retained assignment.
use std::sync::Arc;
use std::time::Duration;

use leeway_protocol::ids::{DeviceId, Tenant};
use leeway_protocol::topic::{Channel, Topic};
use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::ConnectReturnCode;
use rumqttc::v5::mqttbytes::v5::{Filter, LastWill, Packet};
use rumqttc::v5::{AsyncClient, ConnectionError, Event as Polled, EventLoop, MqttOptions, StateError};
use rumqttc::{Outgoing, TlsConfiguration, Transport};
use rustls::ClientConfig;
use tokio::sync::mpsc::Sender;
use tokio::task::JoinHandle;

use super::tls;
use crate::event::Event;
use crate::identity::{BrokerAccess, Identity};

/// Unacknowledged messages towards the broker; few, so that they fit a small broker's window.
const INFLIGHT: u16 = 32;
/// Messages waiting to be sent: a full window of the outbox, births and reports. What does not fit is sent again later.
const QUEUE: usize = 64;
/// Largest packet either way: the largest envelope with its topic.
const MAX_PACKET: u32 = (256 << 10) + 1024;
/// Seconds between signs of life to the broker.
const KEEP_ALIVE: Duration = Duration::from_secs(30);
/// Seconds the broker keeps what comes for a device that is away: a day.
const SESSION_SECS: u32 = 86_400;

/// What a link tells the loop, under its number.
#[derive(Debug)]
pub(super) enum Told {
    /// For the agent.
    Event(Event),
    /// The connection ended, or never stood.
    Down(String, Ended),
}

/// What an end says about the device's certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ended {
    /// Nothing.
    Otherwise,
    /// We left, to come again.
    Left,
    /// TLS stood, and the broker left before it answered: that is how a refusal looks whose last words were lost on the way.
    Unanswered,
    /// The broker does not accept it, or who it speaks for.
    Unaccepted,
}

/// A connection, or an attempt at one.
#[derive(Debug)]
pub(super) struct Link {
    client: AsyncClient,
    tenant: Tenant,
    device: DeviceId,
    task: JoinHandle<()>,
}

impl Link {
    /// Connect with this will.
    pub(super) fn open(
        identity: &Identity,
        access: &BrokerAccess,
        tls: Option<Arc<ClientConfig>>,
        will: Vec<u8>,
        number: u64,
        to: Sender<(u64, Told)>,
    ) -> Self {
        let (tenant, device) = (identity.tenant.clone(), identity.device.clone());
        let topic = |channel| Topic::new(&tenant, &device, channel).to_string();
        let mut options = MqttOptions::new(device.as_str(), &access.host, access.port);
        options
            .set_credentials(&access.username, &access.password)
            .set_keep_alive(KEEP_ALIVE)
            .set_clean_start(false)
            .set_session_expiry_interval(Some(SESSION_SECS))
            .set_max_packet_size(Some(MAX_PACKET))
            .set_outgoing_inflight_upper_limit(INFLIGHT)
            .set_last_will(LastWill::new(topic(Channel::Status), will, QoS::AtLeastOnce, true, None));
        if let Some(tls) = tls {
            options.set_transport(Transport::tls_with_config(TlsConfiguration::Rustls(tls)));
        }
        let (client, events) = AsyncClient::new(options, QUEUE);
        let filters = [Channel::Desired, Channel::Receipt].map(|channel| Filter::new(topic(channel), QoS::AtLeastOnce));
        let task = tokio::spawn(run(events, client.clone(), filters.to_vec(), number, to));
        Self { client, tenant, device, task }
    }

    /// Hand a message to the connection; false if there is no room for it.
    pub(super) fn publish(&self, channel: Channel, bytes: Vec<u8>) -> bool {
        let topic = Topic::new(&self.tenant, &self.device, channel).to_string();
        self.client.try_publish(topic, QoS::AtLeastOnce, channel.is_retained(), bytes).is_ok()
    }

    /// Say goodbye; the end of the connection is told like any other. Without room for it the connection goes on as it is.
    pub(super) fn leave(&self) {
        drop(self.client.try_disconnect());
    }

    /// Say goodbye, so that the will is not sent, and wait a moment for it to leave.
    pub(super) async fn close(mut self) {
        if self.client.try_disconnect().is_ok() {
            drop(tokio::time::timeout(Duration::from_secs(1), &mut self.task).await);
        }
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn run(mut events: EventLoop, client: AsyncClient, filters: Vec<Filter>, number: u64, to: Sender<(u64, Told)>) {
    let mut session_present = false;
    let mut ended = Ended::Otherwise;
    let mut answered = false;
    let why = loop {
        let packet = match events.poll().await {
            Ok(Polled::Incoming(packet)) => packet,
            // Said and flushed: not every broker closes the line then.
            Ok(Polled::Outgoing(Outgoing::Disconnect)) => {
                ended = Ended::Left;
                break "left".to_owned();
            }
            Ok(Polled::Outgoing(_)) => continue,
            Err(error) => {
                ended = how_it_ended(&error, answered);
                let error = cause(&error);
                break tls::sentence(error).unwrap_or_else(|| error.to_string());
            }
        };
        let event = match packet {
            Packet::ConnAck(ack) => {
                (session_present, answered) = (ack.session_present, true);
                if client.try_subscribe_many(filters.clone()).is_err() {
                    break "the subscription could not be sent".to_owned();
                }
                continue;
            }
            Packet::SubAck(_) => Event::Connected { session_present },
            Packet::Publish(message) => {
                let topic = std::str::from_utf8(&message.topic).ok().and_then(|topic| topic.parse::<Topic>().ok());
                match topic.map(|topic| topic.channel) {
                    Some(Channel::Desired) => Event::Desired(message.payload.to_vec()),
                    Some(Channel::Receipt) => Event::Receipt(message.payload.to_vec()),
                    _ => continue,
                }
            }
            Packet::Disconnect(bye) => break format!("the broker said goodbye: {:?}", bye.reason_code),
            _ => continue,
        };
        if to.send((number, Told::Event(event))).await.is_err() {
            return;
        }
    };
    drop(to.send((number, Told::Down(why, ended))).await);
}

/// The error that says most: the client library does not name what it wraps everywhere.
fn cause(error: &ConnectionError) -> &(dyn std::error::Error + 'static) {
    match error {
        ConnectionError::MqttState(StateError::Deserialization(inner)) => inner,
        other => other,
    }
}

fn how_it_ended(error: &ConnectionError, answered: bool) -> Ended {
    let refused = matches!(
        error,
        ConnectionError::ConnectionRefused(
            ConnectReturnCode::NotAuthorized
                | ConnectReturnCode::BadUserNamePassword
                | ConnectReturnCode::Banned
                | ConnectReturnCode::ClientIdentifierNotValid
        )
    );
    match error {
        _ if refused || tls::is_unaccepted(cause(error)) => Ended::Unaccepted,
        ConnectionError::MqttState(_) if !answered => Ended::Unanswered,
        _ => Ended::Otherwise,
    }
}
