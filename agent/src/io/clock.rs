//! The device's clock, right or wrong, and systemd's watchdog.
use std::ffi::OsStr;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::{Duration, SystemTime};

use leeway_protocol::time::Timestamp;

/// What the clock says now; a clock before 1970 says 1970.
pub(super) fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    Timestamp::from_millis(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
}

/// The service manager that started the agent, if it wants to hear from it. Told only by the agent's one loop after the agent has
/// handled an event, so a loop that stands still, or turns without getting anywhere, is restarted.
#[derive(Debug)]
pub(super) struct Watchdog {
    socket: Option<UnixDatagram>,
    /// How often it wants a sign of life, if it does.
    pub(super) every: Option<Duration>,
}

impl Watchdog {
    /// What the service manager put into this process's environment.
    pub(super) fn find() -> Self {
        let text = |name: &str| std::env::var(name).ok();
        let micros = text("WATCHDOG_USEC").and_then(|text| text.parse::<u64>().ok());
        // Meant for another process, which started this one and left its environment to it.
        let for_us = text("WATCHDOG_PID").is_none_or(|pid| pid == std::process::id().to_string());
        // Half the limit, as the service manager recommends.
        let every = micros.filter(|_| for_us).map(|micros| Duration::from_micros(micros / 2).max(Duration::from_millis(100)));
        Self { socket: std::env::var_os("NOTIFY_SOCKET").and_then(|name| connect(&name).ok()), every }
    }

    /// `READY=1`, `WATCHDOG=1`, `STOPPING=1`. A service manager that does not listen is no reason to stop, or to wait.
    pub(super) fn tell(&self, what: &str) {
        if let Some(socket) = &self.socket {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_manager_is_told_by_path_and_by_abstract_name() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let name = format!("leeway-notify-{}", std::process::id());
        let by_path = UnixDatagram::bind(&path).unwrap();
        let by_name = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
        for (manager, name) in [(by_path, path.into_os_string()), (by_name, format!("@{name}").into())] {
            let watchdog = Watchdog { socket: Some(connect(&name).unwrap()), every: None };
            watchdog.tell("READY=1");
            let mut heard = [0; 16];
            let length = manager.recv(&mut heard).unwrap();
            assert_eq!(&heard[..length], b"READY=1");
            // Nobody reads any more: it is neither waited for nor an error.
            (0..10_000).for_each(|_| watchdog.tell("WATCHDOG=1"));
        }
    }
}
