//! The HTTP listener: so many connections, so many from one address, and a head that comes in time.
//!
//! The router bounds what it is asked; this bounds those who never ask. A connection that sends its head one byte at a time, or
//! nothing, is closed; so is one that is kept open and not used, and one that does not come to terms about TLS. With TLS, a request
//! carries which device's certificate its connection showed, if any. What stays true: when the task ends, its connections end.
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::ConnectInfo;
use hyper::server::conn::http1;
use hyper::service::{Service as _, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use leeway_protocol::ids::Tenant;
use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

use super::super::guests::Guests;
use super::super::tls::peer::Peer;

/// Connections at one time; the next ones wait in the system's queue.
const MAX_CONNECTIONS: usize = 4_096;
/// Connections of one address at one time: a browser holds six, a site behind one address some hundred devices.
const MAX_PER_CLIENT: usize = 512;
/// A request's head must be there in this time, from the first moment on; longer than clients keep an idle connection.
const HEAD_LIMIT: Duration = Duration::from_secs(30);
/// Bytes of a head, at most.
const MAX_HEAD: usize = 64 << 10;
/// Wait after the system refuses to accept: it is out of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// The bounds, so that tests can make them small.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds {
    connections: usize,
    per_client: usize,
    head: Duration,
}

impl Default for Bounds {
    fn default() -> Self {
        Self { connections: MAX_CONNECTIONS, per_client: MAX_PER_CLIENT, head: HEAD_LIMIT }
    }
}

/// What a listener with TLS needs.
#[derive(Debug, Clone)]
pub(super) struct Secured {
    /// Its side of the handshake.
    pub(super) config: Arc<ServerConfig>,
    /// Whose devices may show themselves.
    pub(super) tenant: Tenant,
}

/// Answer until `stopped`, then let what is under way come to its end.
pub(super) async fn serve(listener: TcpListener, tls: Option<Secured>, app: Router, mut stopped: watch::Receiver<bool>, bounds: Bounds) {
    let places = Arc::new(Semaphore::new(bounds.connections));
    let guests = Guests::default();
    let mut connections = JoinSet::new();
    loop {
        let place = tokio::select! {
            place = Arc::clone(&places).acquire_owned() => place,
            _ = stopped.wait_for(|stop| *stop) => break,
        };
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = stopped.wait_for(|stop| *stop) => break,
        };
        while connections.try_join_next().is_some() {}
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::debug!("a connection could not be accepted: {error}");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let Some(guest) = guests.enter(peer.ip(), bounds.per_client) else { continue };
        let one = guest_at(stream, peer, tls.clone(), app.clone(), stopped.clone(), bounds.head);
        connections.spawn(async move {
            one.await;
            drop((guest, place));
        });
    }
    while connections.join_next().await.is_some() {}
}

async fn guest_at(stream: TcpStream, peer: SocketAddr, tls: Option<Secured>, app: Router, stopped: watch::Receiver<bool>, head: Duration) {
    // Small answers leave at once; it is no matter if the system refuses.
    let _ = stream.set_nodelay(true);
    let Some(tls) = tls else { return connection(stream, peer, None, app, stopped, head).await };
    match tokio::time::timeout(head, TlsAcceptor::from(tls.config).accept(stream)).await {
        Ok(Ok(stream)) => {
            let device = stream.get_ref().1.peer_certificates().and_then(|chain| Peer::of(chain, &tls.tenant));
            connection(stream, peer, device, app, stopped, head).await;
        }
        Ok(Err(error)) => tracing::debug!("{peer} did not come to terms about TLS: {error}"),
        Err(_) => {}
    }
}

async fn connection(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    peer: SocketAddr,
    device: Option<Peer>,
    app: Router,
    mut stopped: watch::Receiver<bool>,
    head: Duration,
) {
    let router = TowerToHyperService::new(app);
    let service = service_fn(move |mut request: hyper::Request<hyper::body::Incoming>| {
        request.extensions_mut().insert(ConnectInfo(peer));
        if let Some(device) = &device {
            request.extensions_mut().insert(device.clone());
        }
        router.call(request)
    });
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(head).max_buf_size(MAX_HEAD);
    let mut connection = pin!(http.serve_connection(TokioIo::new(stream), service).with_upgrades());
    tokio::select! {
        // That a client went away is no news.
        _ = connection.as_mut() => return,
        _ = stopped.wait_for(|stop| *stop) => {}
    }
    connection.as_mut().graceful_shutdown();
    let _ = connection.await;
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    const PATIENCE: Duration = Duration::from_secs(20);

    async fn started(bounds: Bounds) -> (SocketAddr, watch::Sender<bool>, tokio::task::JoinHandle<()>) {
        let app =
            Router::new().route("/", axum::routing::get(|ConnectInfo(peer): ConnectInfo<SocketAddr>| async move { peer.ip().to_string() }));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let (stop, stopped) = watch::channel(false);
        (addr, stop, tokio::spawn(serve(listener, None, app, stopped, bounds)))
    }

    async fn rest(mut stream: TcpStream) -> String {
        let mut all = Vec::new();
        let _ = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut all)).await.expect("the connection is closed");
        String::from_utf8_lossy(&all).into_owned()
    }

    const ASK: &[u8] = b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";

    #[tokio::test]
    async fn who_sends_no_head_is_sent_away_and_others_are_served_meanwhile() {
        let (addr, _stop, _task) = started(Bounds { head: Duration::from_millis(300), ..Bounds::default() }).await;
        let silent = TcpStream::connect(addr).await.unwrap();
        let mut slow = TcpStream::connect(addr).await.unwrap();
        slow.write_all(b"GET / HTTP/1.1\r\nx: ").await.unwrap();
        let mut quick = TcpStream::connect(addr).await.unwrap();
        quick.write_all(ASK).await.unwrap();
        let answer = rest(quick).await;
        assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("127.0.0.1"), "{answer}");
        let (silent, slow) = (rest(silent).await, rest(slow).await);
        assert!(!silent.contains("200 OK") && !slow.contains("200 OK"), "{silent} {slow}");
        let mut large = TcpStream::connect(addr).await.unwrap();
        let _ = large.write_all(&[b"GET / HTTP/1.1\r\nx: ", vec![b'a'; 2 * MAX_HEAD].as_slice()].concat()).await;
        assert!(!rest(large).await.contains("200 OK"), "a head has a bound");
    }

    #[tokio::test]
    async fn past_the_bound_a_connection_waits_for_another_to_end() {
        let (addr, stop, task) = started(Bounds { connections: 1, ..Bounds::default() }).await;
        let first = TcpStream::connect(addr).await.unwrap();
        let mut second = TcpStream::connect(addr).await.unwrap();
        second.write_all(ASK).await.unwrap();
        let mut byte = [0];
        let early = tokio::time::timeout(Duration::from_millis(200), second.read(&mut byte)).await;
        assert!(early.is_err(), "it has no place yet");
        drop(first);
        assert!(rest(second).await.contains("200 OK"));
        let idle = TcpStream::connect(addr).await.unwrap();
        let _ = stop.send(true);
        tokio::time::timeout(PATIENCE, task).await.expect("it ends").unwrap();
        assert!(!rest(idle).await.contains("200 OK"));
    }
}
