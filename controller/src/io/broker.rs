//! The embedded MQTT broker: MQTT 5 and 3.1.1 on one port, identity bound to a certificate ([`gate`]) or to a per-device secret.
//!
//! rmqtt, because it is the one embeddable broker with hooks for sign-in, publish and subscribe, flat connect cost and working
//! retained messages. Nothing here is trusted beyond transport: uplinks are signed, desired states too, and whatever the broker
//! holds is a cache of what the store holds. It runs on a runtime of its own, so that shutting it down really closes every
//! connection and its load never starves the controller.
//!
//! What stays true: a device publishes nothing but its own uplink topics (its will included) and reads nothing but its own
//! desired state and receipts; with TLS its client id is the name in a certificate that counts at that moment.
use std::collections::BTreeMap;
use std::future::Future;
use std::net::SocketAddr;
use std::num::NonZeroU16;
use std::pin::Pin;
use std::sync::{Arc, RwLock};
use std::time::Duration;

use leeway_protocol::digest::Digest;
use leeway_protocol::ids::{DeviceId, Tenant};
use leeway_protocol::topic::{Channel, Topic};
use rmqtt::codec::v5::SubscribeAckReason;
use rmqtt::context::ServerContext;
use rmqtt::fitter::{DefaultFitterManager, FitterManager};
use rmqtt::hook::{Handler, HookResult, Parameter, ReturnType, Type};
use rmqtt::net::Builder;
use rmqtt::server::MqttServer;
use rmqtt::types::{AuthResult, ConnectInfo, FitterType, Id, LastWill, ListenerConfig, PublishAclResult, SubscribeReturn};
use rustls::ServerConfig;

use super::clock;
use super::tls::peer::Peer;
use crate::fleet::Certificate;

mod gate;
use gate::{Gate, Passages};

/// User name and client id of the controller; the leading underscore is in no device id.
pub const CONTROLLER: &str = "_controller";
/// The largest MQTT packet, both ways: a report of 512 features has some 70 KB, a batch of captured rows at most this.
pub const MAX_PACKET_BYTES: u32 = 256 * 1024;

/// Messages waiting for one device. A device is sent one desired state and a receipt per hundred uplinks; more than this means it
/// is away, and the retained desired state and its own outbox make up for what is dropped.
const DEVICE_QUEUE: usize = 1_000;
/// Messages waiting for the controller while it commits: some seconds of a fleet of 20,000. What is dropped beyond it is sent again,
/// because no receipt went out for it.
const CONTROLLER_QUEUE: usize = 100_000;
/// Messages on their way to one client without its acknowledgement.
const MAX_INFLIGHT: u16 = 1_024;
/// Sign-ins worked on at one time; beyond it clients wait, then try again.
const MAX_HANDSHAKES: usize = 2_000;
/// Connections: more than any machine's file descriptors, which are the real bound.
const MAX_CONNECTIONS: usize = 200_000;
/// Filters of one client: the controller has five, a device two.
const MAX_SUBSCRIPTIONS: usize = 16;
/// Time to send a CONNECT packet.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(15);
/// The longest a session outlives its connection.
const MAX_SESSION_EXPIRY: Duration = Duration::from_secs(24 * 3600);
/// The broker's own threads.
const WORKERS: usize = 2;

/// Who may sign in. Secrets are long random values, so one SHA-256 is enough to keep them out of memory dumps and the store.
#[derive(Debug)]
pub struct Credentials {
    controller: Digest,
    devices: RwLock<BTreeMap<DeviceId, Digest>>,
    certificates: RwLock<BTreeMap<DeviceId, Vec<Certificate>>>,
}

impl Credentials {
    /// With the hash of the controller's own secret and no device.
    pub fn new(controller: Digest) -> Self {
        Self { controller, devices: RwLock::default(), certificates: RwLock::default() }
    }

    /// Let a device in with the secret of this hash; replaces an earlier one.
    pub fn admit(&self, device: &DeviceId, secret: Digest) {
        let mut devices = self.devices.write().unwrap_or_else(std::sync::PoisonError::into_inner);
        devices.insert(device.clone(), secret);
    }

    /// Let a device in with one of these certificates; replaces earlier ones.
    pub fn certify(&self, device: &DeviceId, counting: Vec<Certificate>) {
        let mut certificates = self.certificates.write().unwrap_or_else(std::sync::PoisonError::into_inner);
        certificates.insert(device.clone(), counting);
    }

    /// Do not let a device in any more, whatever it shows.
    pub fn dismiss(&self, device: &DeviceId) {
        let mut devices = self.devices.write().unwrap_or_else(std::sync::PoisonError::into_inner);
        devices.remove(device);
        drop(devices);
        let mut certificates = self.certificates.write().unwrap_or_else(std::sync::PoisonError::into_inner);
        certificates.remove(device);
    }

    /// Whether anything of this client counts at the moment: a sign-in that was under way when its device was put out gets no
    /// further than this.
    fn holds(&self, client: &str) -> bool {
        if client == CONTROLLER {
            return true;
        }
        let Ok(device) = client.parse::<DeviceId>() else { return false };
        let by_secret = self.devices.read().unwrap_or_else(std::sync::PoisonError::into_inner).contains_key(&device);
        by_secret || self.certificates.read().unwrap_or_else(std::sync::PoisonError::into_inner).contains_key(&device)
    }

    fn honours(&self, peer: &Peer) -> bool {
        let certificates = self.certificates.read().unwrap_or_else(std::sync::PoisonError::into_inner);
        let known = certificates.get(&peer.device).is_some_and(|held| held.iter().any(|c| c.serial == peer.serial));
        known && peer.not_after > clock::now()
    }

    fn accepts(&self, user: &str, secret: &[u8]) -> bool {
        // Hashes of random secrets are compared, so the time a comparison takes tells nothing usable.
        let hash = Digest::of(secret);
        if user == CONTROLLER {
            return hash == self.controller;
        }
        let Ok(device) = user.parse::<DeviceId>() else { return false };
        let devices = self.devices.read().unwrap_or_else(std::sync::PoisonError::into_inner);
        devices.get(&device).is_some_and(|known| *known == hash)
    }
}

/// What a broker needs.
#[derive(Debug, Clone)]
pub struct BrokerConfig {
    /// Where to listen without TLS; port 0 picks a free one. Where there is TLS only, devices are refused here, and the address is
    /// one of this machine's own.
    pub listen: SocketAddr,
    /// Whether devices may sign in there, with their secrets.
    pub plain: bool,
    /// Where to listen with TLS, and how.
    pub tls: Option<(SocketAddr, Arc<ServerConfig>)>,
    /// Whose topic tree.
    pub tenant: Tenant,
    /// Who may sign in.
    pub credentials: Arc<Credentials>,
}

impl BrokerConfig {
    /// Without TLS.
    pub fn plain(listen: SocketAddr, tenant: Tenant, credentials: Arc<Credentials>) -> Self {
        Self { listen, plain: true, tls: None, tenant, credentials }
    }
}

/// The broker could not start.
#[derive(Debug, thiserror::Error)]
pub enum BrokerError {
    /// The address is in use or not ours.
    #[error("the MQTT broker cannot listen on {addr}: stop what uses that port, or choose another with --mqtt")]
    Listen {
        /// The address asked for.
        addr: SocketAddr,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// Something inside the broker.
    #[error("the MQTT broker did not start: {0}")]
    Start(String),
}

/// A running broker; dropping it closes every connection.
#[derive(Debug)]
pub struct Broker {
    addr: SocketAddr,
    secured: Option<SocketAddr>,
    context: ServerContext,
    runtime: Option<tokio::runtime::Runtime>,
}

impl Broker {
    /// Start listening.
    pub async fn start(config: BrokerConfig) -> Result<Self, BrokerError> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(WORKERS)
            .thread_name("leeway-broker")
            .enable_all()
            .build()
            .map_err(|e| BrokerError::Start(e.to_string()))?;
        let started = runtime.spawn(listen(config)).await;
        let result = started.unwrap_or_else(|e| Err(BrokerError::Start(e.to_string())));
        match result {
            Ok((addr, secured, context)) => Ok(Self { addr, secured, context, runtime: Some(runtime) }),
            Err(error) => {
                runtime.shutdown_background();
                Err(error)
            }
        }
    }

    /// Where it listens without TLS.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Where it listens with TLS.
    pub fn secured(&self) -> Option<SocketAddr> {
        self.secured
    }

    /// End a device's connection and its session, now.
    pub async fn disconnect(&self, device: &DeviceId) {
        let Some(runtime) = &self.runtime else { return };
        let (context, client) = (self.context.clone(), device.to_string());
        let ended = runtime.spawn(async move {
            let id = Id::new(context.node.id(), LISTENER, None, None, client.into(), None);
            let entry = context.extends.shared().await.entry(id);
            // Its last will goes out as with any connection that is cut.
            match entry.try_lock().await {
                Ok(mut entry) => entry.kick(true, true, true).await.map(|_| ()),
                Err(error) => Err(error),
            }
        });
        match ended.await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(%device, "its connection to the broker could not be ended: {error:#}"),
            Err(error) => tracing::debug!("the broker is ending: {error}"),
        }
    }

    /// Clients connected now, the controller included.
    pub fn connections(&self) -> u64 {
        self.context.connections.count().unsigned_abs() as u64
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// The number of its one listener.
const LISTENER: u16 = 1;

async fn listen(config: BrokerConfig) -> Result<(SocketAddr, Option<SocketAddr>, ServerContext), BrokerError> {
    let start = |e: rmqtt::Error| BrokerError::Start(format!("{e:#}"));
    // The busy check refuses sign-ins when the machine's load is high, which is when a fleet comes back after a power cut.
    let context = ServerContext::new()
        .busy_check_enable(false)
        // Retained messages live until they are replaced: by default they would vanish after the message expiry time.
        .plugins_config_map_add("rmqtt-retainer", "storage.type = \"ram\"\nretained_message_ttl = \"0s\"\n")
        .build()
        .await;
    rmqtt_retainer::register_named(&context, "rmqtt-retainer", true, true).await.map_err(start)?;
    *context.extends.fitter_mgr_mut().await = Box::new(Queues);
    let register = context.extends.hook_mgr().register();
    let passages = Passages::default();
    let (tenant, credentials) = (config.tenant, config.credentials);
    let guard = Guard { tenant: tenant.clone(), credentials, plain: config.plain, passages: passages.clone() };
    for hook in [Type::ClientAuthenticate, Type::ClientSubscribeCheckAcl, Type::MessagePublishCheckAcl] {
        register.add(hook, Box::new(guard.clone())).await;
    }
    register.start().await;

    let refused = |e: rmqtt::Error| match e.downcast::<std::io::Error>() {
        Ok(source) => BrokerError::Listen { addr: config.listen, source },
        Err(other) => BrokerError::Start(format!("{other:#}")),
    };
    let listener = listener(config.listen).bind().map_err(refused)?.tcp().map_err(start)?;
    let addr = listener.local_addr().map_err(start)?;
    let server = MqttServer::new(context.clone()).listener_by_id(listener, LISTENER).build();
    tokio::spawn(async move {
        if let Err(error) = server.run().await {
            tracing::error!("the MQTT broker ended: {error:#}");
        }
    });
    let mut secured = None;
    if let Some((at, config)) = config.tls {
        let refused = |source| BrokerError::Listen { addr: at, source };
        let listener = tokio::net::TcpListener::bind(at).await.map_err(refused)?;
        secured = Some(listener.local_addr().map_err(refused)?);
        tokio::spawn(Gate { config, tenant, passages, broker: super::serve::reachable(addr) }.run(listener));
    }
    Ok((addr, secured, context))
}

fn listener(addr: SocketAddr) -> Builder {
    Builder::new()
        .name("leeway")
        .laddr(addr)
        // A restart must not wait for the last run's connections to time out in the kernel.
        .reuseaddr(Some(true))
        .nodelay(true)
        .allow_anonymous(false)
        .max_connections(MAX_CONNECTIONS)
        .max_handshaking_limit(MAX_HANDSHAKES)
        .handshake_timeout(HANDSHAKE_TIMEOUT)
        .max_packet_size(MAX_PACKET_BYTES)
        .max_clientid_len(64)
        .max_topic_levels(16)
        .max_inflight(NonZeroU16::new(MAX_INFLIGHT).unwrap_or(NonZeroU16::MIN))
        .max_mqueue_len(DEVICE_QUEUE)
        .max_subscriptions(MAX_SUBSCRIPTIONS)
        .max_session_expiry_interval(MAX_SESSION_EXPIRY)
        // No message grows too old for delivery: 0 means never.
        .message_expiry_interval(Duration::ZERO)
}

/// The controller's queue is longer than a device's.
struct Queues;

impl FitterManager for Queues {
    fn create(&self, info: Arc<ConnectInfo>, id: Id, config: ListenerConfig) -> FitterType {
        let config =
            if id.client_id.as_ref() as &str == CONTROLLER { Arc::new((*config).clone().max_mqueue_len(CONTROLLER_QUEUE)) } else { config };
        DefaultFitterManager.create(info, id, config)
    }
}

/// Sign-in and access rules.
#[derive(Clone)]
struct Guard {
    tenant: Tenant,
    credentials: Arc<Credentials>,
    /// Whether devices may come without a certificate.
    plain: bool,
    /// Who came through the gate.
    passages: Passages,
}

impl Guard {
    /// User name and client id are one and the same, so nobody takes over another's session. The will is judged here,
    /// because the broker publishes it later without asking.
    fn authenticate(&self, info: &ConnectInfo) -> AuthResult {
        let user = info.username().map_or("", |name| name.as_ref() as &str);
        let client: &str = info.client_id().as_ref();
        if let Err(refusal) = self.identify(info, user, client) {
            return refusal;
        }
        let user = client;
        let will = info.last_will().map(|will| match will {
            LastWill::V3(will) => (will.topic.to_string(), will.retain, will.message.len()),
            LastWill::V5(will) => (will.topic.to_string(), will.retain, will.message.len()),
        });
        if let Some((topic, retain, length)) = will
            && (length > MAX_PACKET_BYTES as usize || !self.may_publish(user, &topic, retain))
        {
            tracing::info!(client, topic, "a sign-in with a will on a topic that is not its own was refused");
            return AuthResult::NotAuthorized;
        }
        AuthResult::Allow(false, None)
    }

    /// By certificate for who came through the gate, whatever secret is sent too; by name and secret for everybody else.
    fn identify(&self, info: &ConnectInfo, user: &str, client: &str) -> Result<(), AuthResult> {
        if let Some(peer) = info.ipaddress().and_then(|from| self.passages.find(from)) {
            let named = client == peer.device.as_str() && (user.is_empty() || user == client);
            if !named || !self.credentials.honours(&peer) {
                let device = peer.device.as_str();
                tracing::info!(
                    client,
                    device,
                    "a sign-in under another name than its certificate's, or with one that counts no more, was refused"
                );
                return Err(AuthResult::NotAuthorized);
            }
            return Ok(());
        }
        let secret = info.password().map_or(&[] as &[u8], |secret| secret.as_ref());
        let may = user == CONTROLLER || self.plain;
        if user != client || !may || !self.credentials.accepts(user, secret) {
            tracing::info!(client, "a sign-in with an unknown name or a wrong secret was refused");
            return Err(AuthResult::BadUsernameOrPassword);
        }
        Ok(())
    }

    fn may_publish(&self, user: &str, topic: &str, retain: bool) -> bool {
        if user == CONTROLLER {
            return self.inside_tenant(topic);
        }
        topic.parse::<Topic>().is_ok_and(|topic| {
            topic.tenant == self.tenant
                && topic.device.as_str() == user
                && topic.channel.is_uplink()
                && (!retain || topic.channel.is_retained())
        })
    }

    fn may_subscribe(&self, user: &str, filter: &str) -> bool {
        if user == CONTROLLER {
            return self.inside_tenant(filter);
        }
        filter.parse::<Topic>().is_ok_and(|topic| {
            topic.tenant == self.tenant && topic.device.as_str() == user && matches!(topic.channel, Channel::Desired | Channel::Receipt)
        })
    }

    fn inside_tenant(&self, topic: &str) -> bool {
        topic.strip_prefix("leeway/v1/").and_then(|rest| rest.strip_prefix(self.tenant.as_str())).is_some_and(|rest| rest.starts_with('/'))
    }

    fn judge(&self, parameter: &Parameter<'_>) -> Option<HookResult> {
        match parameter {
            Parameter::ClientAuthenticate(info) => Some(HookResult::AuthResult(self.authenticate(info))),
            Parameter::MessagePublishCheckAcl(session, publish) => {
                let client: &str = session.id.client_id.as_ref();
                if self.credentials.holds(client) && self.may_publish(client, &publish.topic, publish.retain) {
                    return Some(HookResult::PublishAclResult(PublishAclResult::allow()));
                }
                tracing::info!(client, topic = %publish.topic, "a message on a topic that is not the sender's own was refused");
                Some(HookResult::PublishAclResult(PublishAclResult::rejected(false, None)))
            }
            Parameter::ClientSubscribeCheckAcl(session, subscribe) => {
                let client: &str = session.id.client_id.as_ref();
                let result = if self.credentials.holds(client) && self.may_subscribe(client, &subscribe.topic_filter) {
                    SubscribeReturn::new_success(subscribe.opts.qos(), None)
                } else {
                    tracing::info!(client, filter = %subscribe.topic_filter, "a subscription outside the client's own topics was refused");
                    SubscribeReturn::new_failure(SubscribeAckReason::NotAuthorized)
                };
                Some(HookResult::SubscribeAclResult(result))
            }
            _ => None,
        }
    }
}

/// The broker's trait is async; the judgement is not.
impl Handler for Guard {
    fn hook<'s, 'p, 'f>(
        &'s self,
        parameter: &'p Parameter<'_>,
        _: Option<HookResult>,
    ) -> Pin<Box<dyn Future<Output = ReturnType> + Send + 'f>>
    where
        's: 'f,
        'p: 'f,
        Self: 'f,
    {
        let result = self.judge(parameter);
        Box::pin(std::future::ready((false, result)))
    }
}

#[cfg(test)]
mod tests;
