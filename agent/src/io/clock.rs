//! The device's clock, right or wrong, and systemd's watchdog.
use std::os::unix::net::UnixDatagram;
use std::time::{Duration, SystemTime};

use leeway_protocol::time::Timestamp;

/// What the clock says now; a clock before 1970 says 1970.
pub(super) fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    Timestamp::from_millis(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
}

/// The service manager that started the agent, if it wants to hear from it. Told only by the agent's one loop after it has
/// done something, so a loop that stands still is restarted.
#[derive(Debug)]
pub(super) struct Watchdog {
    socket: Option<UnixDatagram>,
    /// How often it wants a sign of life, if it does.
    pub(super) every: Option<Duration>,
}

impl Watchdog {
    pub(super) fn find() -> Self {
        let connect = || {
            let path = std::env::var_os("NOTIFY_SOCKET")?;
            let socket = UnixDatagram::unbound().ok()?;
            socket.connect(path).ok()?;
            Some(socket)
        };
        let limit = std::env::var("WATCHDOG_USEC").ok().and_then(|text| text.parse::<u64>().ok());
        // Half the limit, as the service manager recommends.
        Self { socket: connect(), every: limit.map(|micros| Duration::from_micros(micros / 2).max(Duration::from_millis(100))) }
    }

    /// `READY=1`, `WATCHDOG=1`, `STOPPING=1`. A service manager that does not listen is no reason to stop.
    pub(super) fn tell(&self, what: &str) {
        if let Some(socket) = &self.socket {
            drop(socket.send(what.as_bytes()));
        }
    }
}
