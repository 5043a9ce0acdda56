//! Challenges for devices that ask to be enrolled again: each is good once, for a minute, for one device and one key.
//!
//! They live in memory only. A device that loses its challenge to a restart or to the bound asks again. What stays true: a
//! challenge is gone the moment somebody shows it, right or wrong, so what was overheard on the wire is worth nothing.
use std::collections::VecDeque;

use leeway_protocol::digest::Digest;
use leeway_protocol::ids::DeviceId;
use leeway_protocol::time::Timestamp;

/// How long a device may take for its answer: a slow network and a slow processor, not a person.
pub const LIFE_MS: i64 = 60_000;
/// Challenges that are open at one time; the oldest makes room.
pub const MAX_OPEN: usize = 10_000;

#[derive(Debug)]
struct Open {
    text: Digest,
    device: DeviceId,
    key: String,
    until: Timestamp,
}

/// The open challenges, oldest first.
#[derive(Debug, Default)]
pub struct Challenges(VecDeque<Open>);

impl Challenges {
    /// Remember a fresh `text` for this device and key.
    pub fn put(&mut self, text: &str, device: &DeviceId, key: &str, now: Timestamp) {
        self.0.retain(|open| now < open.until);
        if self.0.len() >= MAX_OPEN {
            self.0.pop_front();
        }
        let until = now.plus_millis(LIFE_MS);
        self.0.push_back(Open { text: Digest::of(text.as_bytes()), device: device.clone(), key: key.to_owned(), until });
    }

    /// Whether `text` is open for this device and key. It is not any more afterwards.
    pub fn take(&mut self, text: &str, device: &DeviceId, key: &str, now: Timestamp) -> bool {
        let shown = Digest::of(text.as_bytes());
        let Some(at) = self.0.iter().position(|open| open.text == shown) else { return false };
        self.0.remove(at).is_some_and(|open| open.device == *device && open.key == key && now < open.until)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_challenge_is_good_once_soon_and_for_whom_it_was_made() {
        let now = Timestamp::from_secs(1_000_000);
        let later = |ms| now.plus_millis(ms);
        let (d1, d2): (DeviceId, DeviceId) = ("d1".parse().unwrap(), "d2".parse().unwrap());
        // (shown by, with key, shown text, when, good)
        let table = [
            (&d1, "k1", "c", 0, true),
            (&d1, "k1", "c", LIFE_MS - 1, true),
            (&d1, "k1", "c", LIFE_MS, false),
            (&d2, "k1", "c", 0, false),
            (&d1, "k2", "c", 0, false),
            (&d1, "k1", "x", 0, false),
        ];
        for (device, key, text, ms, good) in table {
            let mut open = Challenges::default();
            open.put("c", &d1, "k1", now);
            assert_eq!(open.take(text, device, key, later(ms)), good, "{device} {key} {text} {ms}");
            assert_eq!(open.take("c", &d1, "k1", now), text == "x", "shown once, right or wrong, it is gone");
        }
    }

    #[test]
    fn the_number_has_a_bound_and_what_is_over_goes() {
        let now = Timestamp::from_secs(1_000_000);
        let device: DeviceId = "d1".parse().unwrap();
        let mut open = Challenges::default();
        for n in 0..=MAX_OPEN {
            open.put(&n.to_string(), &device, "k", now);
        }
        assert_eq!(open.0.len(), MAX_OPEN);
        assert!(!open.take("0", &device, "k", now), "the oldest made room");
        assert!(open.take("1", &device, "k", now));
        open.put("late", &device, "k", now.plus_millis(LIFE_MS));
        assert_eq!(open.0.len(), 1);
    }
}
