//! The service manager that started the controller, if it wants to hear from it.
//!
//! Fed by the planning loop after each round and by nothing else: a loop that waits for a lock for ever, or for a store that does not
//! answer, stops feeding, and the controller is restarted, which loses nothing. It speaks systemd's protocol, `NAME=value` in a
//! datagram, because that is all of it that is needed.
use std::ffi::OsStr;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};

/// Where the service manager listens; nowhere, if none does.
#[derive(Debug)]
pub(super) struct Watchdog(Option<UnixDatagram>);

impl Watchdog {
    /// What the service manager put into this process's environment.
    pub(super) fn find() -> Self {
        Self(std::env::var_os("NOTIFY_SOCKET").and_then(|name| connect(&name).ok()))
    }

    /// `READY=1`, `WATCHDOG=1`, `STOPPING=1`. A service manager that does not listen is no reason to stop, or to wait.
    pub(super) fn tell(&self, what: &str) {
        if let Some(socket) = &self.0 {
            drop(socket.send(what.as_bytes()));
        }
    }
}

/// A name that begins with `@` is one of Linux's abstract ones, with a zero byte in that place.
fn connect(name: &OsStr) -> std::io::Result<UnixDatagram> {
    let address = match name.as_bytes().strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(name)?,
    };
    let socket = UnixDatagram::unbound()?;
    socket.connect_addr(&address)?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}
