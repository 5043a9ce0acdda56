//! Who the device is and how patient it is: everything the agent is told once, before its first event.
use std::collections::BTreeMap;

use leeway_protocol::ids::{DeviceId, Tenant};
use leeway_protocol::time::Timestamp;
use leeway_protocol::trust::keyring::SigningKey;

use crate::certificate::Certificate;

/// What the agent is told once.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Whose device.
    pub tenant: Tenant,
    /// Which device.
    pub device: DeviceId,
    /// The device's key: seals everything it says.
    pub key: SigningKey,
    /// Labels for cohorts, sent with the birth message.
    pub labels: BTreeMap<String, String>,
    /// Local time, as minutes east of UTC: what maintenance windows without a zone of their own are judged by.
    pub utc_offset_minutes: i16,
    /// Version of the program, as reported.
    pub agent: String,
    /// When the program was built: no earlier moment is believed.
    pub built_at: Timestamp,
    /// The certificate for TLS, where the controller gave one.
    pub certificate: Option<Certificate>,
    /// Bounds of the outbox.
    pub outbox: OutboxBounds,
    /// Patience.
    pub timing: Timing,
}

impl Settings {
    /// A device with ordinary bounds and patience.
    pub fn new(tenant: Tenant, device: DeviceId, key: SigningKey) -> Self {
        Self {
            tenant,
            device,
            key,
            labels: BTreeMap::new(),
            utc_offset_minutes: 0,
            agent: env!("CARGO_PKG_VERSION").to_owned(),
            built_at: built_at(),
            certificate: None,
            outbox: OutboxBounds::default(),
            timing: Timing::default(),
        }
    }
}

/// No earlier moment is believed.
pub(crate) fn built_at() -> Timestamp {
    Timestamp::from_secs(BUILT_AT_SECS)
}

/// 2026-11-01T00:00:00Z, the month of this release; a device without a battery-backed clock starts from here and not from 1970.
const BUILT_AT_SECS: i64 = 1_793_491_200;

/// How much may wait for a receipt; the oldest goes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OutboxBounds {
    /// Bytes of all messages.
    pub max_bytes: u64,
    /// Messages.
    pub max_messages: u64,
    /// Age of a message, milliseconds.
    pub max_age_ms: u64,
}

impl Default for OutboxBounds {
    /// A month without network at one window of 4 KB an hour needs 3 MB; captures may fill the rest.
    fn default() -> Self {
        Self { max_bytes: 32 << 20, max_messages: 10_000, max_age_ms: 30 * 86_400_000 }
    }
}

/// How patient the agent is; milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timing {
    /// First delay after a failed fetch; doubles with each further one.
    pub retry_first_ms: u64,
    /// Longest delay between fetches.
    pub retry_max_ms: u64,
    /// Metadata is refreshed after so long without an assignment, so that a revocation is noticed.
    pub refresh_ms: u64,
    /// Silence of a serving runner that counts as a hang.
    pub hang_ms: u64,
    /// Longest loading, self-test included.
    pub load_ms: u64,
    /// A runner that crashes `crash_limit` times within this time makes the device fall back, outside probation.
    pub crash_window_ms: u64,
    /// See there.
    pub crash_limit: u32,
    /// First delay before a crashed runner is started again; doubles, up to sixteen times this.
    pub restart_ms: u64,
    /// The reported state is sent at least this often while connected.
    pub report_ms: u64,
    /// A message is sent again if no receipt came in this time.
    pub receipt_ms: u64,
    /// Pause after the disk refused something, before anything that must be durable is tried again.
    pub disk_pause_ms: u64,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            retry_first_ms: 1_000,
            retry_max_ms: 15 * 60_000,
            refresh_ms: 6 * 3_600_000,
            hang_ms: 30_000,
            load_ms: 120_000,
            crash_window_ms: 10 * 60_000,
            crash_limit: 5,
            restart_ms: 500,
            report_ms: 60_000,
            receipt_ms: 60_000,
            disk_pause_ms: 5_000,
        }
    }
}
