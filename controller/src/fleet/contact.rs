//! When a device was there: one bit for each hour of the last week, in 32 bytes.
//!
//! A trace and not an average: what is online at the same time, and for how long, is what a rollout meets, and averages per
//! hour of the week would take two half-days for one whole one. The record is a ring that is written only when presence changes
//! (and read up to now), so a silent fleet costs nothing. What stays true: hours before the record began are unknown, not offline.
use leeway_protocol::time::Timestamp;
use serde::{Deserialize, Serialize};

/// Hours remembered: patterns of use repeat by the week.
pub const HOURS: u32 = 168;
/// One of them, in milliseconds.
pub const HOUR_MS: i64 = 3_600_000;

/// The record of one device.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Contact {
    /// Whether it was online at any time within an hour; hour `h` since 1970 has bit `h % 168`.
    bits: [u64; 3],
    /// The first hour known; 0 while none is.
    from: u32,
    /// The last.
    to: u32,
}

impl Contact {
    /// Presence at `at`: what it was since the last change, and what it is from now on.
    pub fn note(&mut self, was_online: bool, online: bool, at: Timestamp) {
        let hour = hour_of(at);
        if self.from == 0 {
            (self.from, self.to) = (hour, hour);
        }
        // A clock that went back rewrites nothing but the last hour.
        let hour = hour.max(self.to);
        let open = (self.to + 1).max(hour.saturating_sub(HOURS - 1));
        (open..=hour).for_each(|hour| self.set(hour, was_online));
        self.set(hour, was_online || online || (hour == self.to && self.bit(hour)));
        self.to = hour;
        self.from = self.from.max(hour.saturating_sub(HOURS - 1));
    }

    /// The record up to `now`, presence being what it has been since the last change.
    pub fn until(mut self, online: bool, now: Timestamp) -> Self {
        if self.from != 0 {
            self.note(online, online, now);
        }
        self
    }

    /// How many hours are known.
    pub fn known_hours(&self) -> u32 {
        if self.from == 0 { 0 } else { self.to - self.from + 1 }
    }

    /// Whether it was online within an hour (counted from 1970), if that is known.
    pub fn was_online(&self, hour: u32) -> Option<bool> {
        (self.from != 0 && (self.from..=self.to).contains(&hour)).then(|| self.bit(hour))
    }

    /// The last hour known.
    pub fn last_hour(&self) -> u32 {
        self.to
    }

    fn bit(&self, hour: u32) -> bool {
        let at = hour % HOURS;
        self.bits.get((at / 64) as usize).is_some_and(|word| word >> (at % 64) & 1 == 1)
    }

    fn set(&mut self, hour: u32, online: bool) {
        let at = hour % HOURS;
        if let Some(word) = self.bits.get_mut((at / 64) as usize) {
            let bit = 1 << (at % 64);
            *word = if online { *word | bit } else { *word & !bit };
        }
    }
}

/// The hour since 1970 that `at` lies in; never 0, which stands for "no record".
pub fn hour_of(at: Timestamp) -> u32 {
    u32::try_from(at.as_millis().div_euclid(HOUR_MS)).unwrap_or(0).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(hours: i64) -> Timestamp {
        Timestamp::from_secs(hours * 3600 + 900)
    }

    #[test]
    fn a_record_is_small_and_says_what_it_does_not_know() {
        assert!(size_of::<Contact>() <= 32);
        let mut contact = Contact::default();
        assert_eq!((contact.known_hours(), contact.was_online(7), contact.until(true, at(9))), (0, None, Contact::default()));
        contact.note(false, true, at(100));
        contact.note(true, false, at(103));
        contact.note(false, true, at(106));
        let seen = contact.until(true, at(107));
        let hours: Vec<_> = (99..=108).map(|hour| seen.was_online(hour)).collect();
        let (yes, no) = (Some(true), Some(false));
        assert_eq!(hours, [None, yes, yes, yes, yes, no, no, yes, yes, None]);
        assert_eq!((seen.known_hours(), seen.last_hour()), (8, 107));
    }

    #[test]
    fn only_the_last_week_is_kept() {
        let mut contact = Contact::default();
        contact.note(false, true, at(10));
        contact.note(true, false, at(20));
        let later = contact.until(false, at(20 + 167));
        assert_eq!((later.known_hours(), later.was_online(20), later.was_online(21)), (168, Some(true), Some(false)));
        let much_later = contact.until(false, at(100_000));
        assert_eq!(much_later.known_hours(), 168);
        assert!((0..168).all(|back| much_later.was_online(100_000 - back) == Some(false)));
    }

    #[test]
    fn a_clock_that_goes_back_and_a_flap_within_an_hour_lose_nothing() {
        let mut contact = Contact::default();
        contact.note(false, true, at(50));
        contact.note(true, false, at(50));
        contact.note(false, true, at(40));
        contact.note(true, false, at(50));
        assert_eq!((contact.was_online(50), contact.known_hours()), (Some(true), 1));
        let text = serde_json::to_string(&contact).unwrap();
        assert_eq!(serde_json::from_str::<Contact>(&text).unwrap(), contact);
    }
}
