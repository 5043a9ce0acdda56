//! TLS in front of the embedded broker: who comes through the gate is known by certificate.
//!
//! The broker's own TLS would bring a second library of cryptography (C and assembly to build for every target) and reads its
//! certificate once, when it starts. So the handshake is done here, and the bytes go on to the broker's listener on this machine; the
//! broker's rules ask which device stands behind the connection they come from. A connection ends with its certificate. What
//! stays true: the broker hears of a connection only after the certificate was read; nobody else can use its name at the broker, since
//! that name is the address of a socket that the gate holds.
use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use leeway_protocol::ids::Tenant;
use rustls::ServerConfig;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;

use super::super::clock;
use super::super::guests::Guests;
use super::super::tls::{left, peer::Peer};

/// Connections at one time; the file descriptors of the process, three for each, are the real bound.
const MAX_CONNECTIONS: usize = 100_000;
/// Connections of one address at one time: a site behind one address has some hundred devices.
const MAX_PER_CLIENT: usize = 2_048;
/// A handshake must be done in this time.
const HANDSHAKE: Duration = Duration::from_secs(15);
/// Wait after the system refuses to accept: it is out of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);
/// Addresses of this machine that the gate connects from: each has some 28,000 ports.
const SOURCES: u8 = 16;
/// Bytes on their way through the gate, each way.
const BUFFER: usize = 8 << 10;

/// Which device stands behind which connection to the broker.
#[derive(Debug, Clone, Default)]
pub(super) struct Passages(Arc<Mutex<BTreeMap<SocketAddr, Peer>>>);

/// One connection, for as long as it stands.
struct Passage(Passages, SocketAddr);

impl Passages {
    /// The device behind the connection from this address.
    pub(super) fn find(&self, from: SocketAddr) -> Option<Peer> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(&from).cloned()
    }

    fn open(&self, from: SocketAddr, peer: Peer) -> Passage {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(from, peer);
        Passage(self.clone(), from)
    }
}

impl Drop for Passage {
    fn drop(&mut self) {
        self.0.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.1);
    }
}

/// What the gate is made of.
#[derive(Debug, Clone)]
pub(super) struct Gate {
    pub(super) config: Arc<ServerConfig>,
    pub(super) tenant: Tenant,
    pub(super) passages: Passages,
    /// Where the broker listens, on this machine.
    pub(super) broker: SocketAddr,
}

impl Gate {
    /// Let in until the runtime ends.
    pub(super) async fn run(self, listener: TcpListener) {
        let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        let guests = Guests::default();
        loop {
            let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
            let (stream, from) = match listener.accept().await {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::debug!("a connection could not be accepted: {error}");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            let Some(guest) = guests.enter(from.ip(), MAX_PER_CLIENT) else { continue };
            let gate = self.clone();
            tokio::spawn(async move {
                if let Err(error) = gate.pass(stream).await {
                    tracing::debug!("{from} did not get through to the broker: {error}");
                }
                drop((guest, place));
            });
        }
    }

    async fn pass(self, stream: TcpStream) -> std::io::Result<()> {
        let _ = stream.set_nodelay(true);
        let mut outside = tokio::time::timeout(HANDSHAKE, TlsAcceptor::from(self.config).accept(stream)).await??;
        let peer = outside.get_ref().1.peer_certificates().and_then(|chain| Peer::of(chain, &self.tenant));
        let peer = peer.ok_or_else(|| std::io::Error::other("its certificate is no device's of this fleet"))?;
        let end = left(peer.not_after, clock::now());
        let mut inside = connect(self.broker).await?;
        let passage = self.passages.open(inside.local_addr()?, peer);
        let through = tokio::io::copy_bidirectional_with_sizes(&mut outside, &mut inside, BUFFER, BUFFER);
        let ended = tokio::time::timeout(end, through).await;
        drop(passage);
        ended?.map(|_| ())
    }
}

/// Connect from one of several addresses, where this machine has them.
async fn connect(broker: SocketAddr) -> std::io::Result<TcpStream> {
    static NEXT: AtomicU8 = AtomicU8::new(0);
    let source = Ipv4Addr::new(127, 0, 0, 1 + NEXT.fetch_add(1, Ordering::Relaxed) % SOURCES);
    let stream = match broker.ip().is_loopback() && broker.is_ipv4() {
        true => {
            let socket = TcpSocket::new_v4()?;
            match socket.bind((source, 0).into()) {
                Ok(()) => socket.connect(broker).await?,
                // Not every system answers to all of 127.0.0.0/8.
                Err(_) => TcpStream::connect(broker).await?,
            }
        }
        false => TcpStream::connect(broker).await?,
    };
    stream.set_nodelay(true)?;
    Ok(stream)
}
