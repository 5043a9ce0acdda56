//! The controller's clock: the one place where it is read.
use std::time::{SystemTime, UNIX_EPOCH};

use leeway_protocol::time::Timestamp;

/// Now.
pub fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp::from_millis(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
}

/// Before this moment a clock is not set: no controller of this form ran then.
const FIRST_SANE_SECS: i64 = 1_735_689_600;

/// Whether the clock can be believed; signed metadata with expiries from a clock in 1970 would be refused by every device.
pub fn is_sane(now: Timestamp) -> bool {
    now >= Timestamp::from_secs(FIRST_SANE_SECS)
}
