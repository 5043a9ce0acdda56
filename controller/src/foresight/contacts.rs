//! When a device will be there: its last week again, or what stands in for it.
//!
//! A device with a week of record lives it again; with a day or more, the missing hours are those of the same time of day. One
//! with less borrows the week of a device of its cohort that has a record, unless it has been silent for a week. In a fleet too young for that, who is online stays so,
//! and who is away returns after as long again as it has been away; how many devices that concerns is said with the answer.
use std::collections::BTreeMap;

use leeway_protocol::ids::Cohort;
use leeway_protocol::time::Timestamp;

use super::chance::Chance;
use crate::fleet::contact::{HOUR_MS, HOURS, hour_of};
use crate::fleet::{Contact, Device};

/// A record shorter than this says nothing about the rest of the day.
const MIN_HOURS: u32 = 24;

/// When one device is online.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pattern {
    /// These hours of each week; bit `h % 168` for hour `h` since 1970.
    Week([bool; HOURS as usize]),
    /// Always as it is now.
    Stays,
    /// From then on.
    From(Timestamp),
}

/// Where patterns came from.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Origins {
    /// Own records.
    pub own: usize,
    /// Borrowed from another device of the cohort.
    pub borrowed: usize,
    /// No record anywhere in the cohort.
    pub guessed: usize,
}

/// Patterns of the devices, in their order.
pub fn patterns(devices: &[(&Cohort, &Device)], now: Timestamp, chance: &mut Chance) -> (Vec<Pattern>, Origins) {
    let weeks: Vec<Option<Pattern>> = devices.iter().map(|(_, d)| week(&d.presence.contact.until(d.presence.online, now))).collect();
    let mut donors: BTreeMap<&Cohort, Vec<Pattern>> = BTreeMap::new();
    for ((cohort, _), week) in devices.iter().zip(&weeks) {
        donors.entry(cohort).or_default().extend(week);
    }
    let mut origins = Origins::default();
    let patterns = devices.iter().zip(weeks).map(|((cohort, device), week)| {
        // A week of silence is a record too.
        let gone = device.silent_ms(now) >= i64::from(HOURS) * HOUR_MS;
        if let Some(own) = week.or(gone.then_some(Pattern::Stays)) {
            origins.own += 1;
            return own;
        }
        let lent = donors.get(*cohort).and_then(|donors| chance.pick(donors));
        origins.borrowed += usize::from(lent.is_some());
        origins.guessed += usize::from(lent.is_none());
        lent.copied().unwrap_or_else(|| guess(device, now))
    });
    (patterns.collect(), origins)
}

fn week(contact: &Contact) -> Option<Pattern> {
    if contact.known_hours() < MIN_HOURS {
        return None;
    }
    let last = contact.last_hour();
    let mut bits = [false; HOURS as usize];
    for back in 0..HOURS {
        let hour = last.saturating_sub(back);
        // The same time of day, the nearest day that is known.
        let nearest = (0..7).filter_map(|day| contact.was_online(hour + day * 24)).next();
        if let Some(bit) = bits.get_mut((hour % HOURS) as usize) {
            *bit = nearest.unwrap_or(false);
        }
    }
    Some(Pattern::Week(bits))
}

fn guess(device: &Device, now: Timestamp) -> Pattern {
    match device.presence.last_seen {
        Some(seen) if !device.presence.online => Pattern::From(now.plus_millis(now.millis_since(seen).max(HOUR_MS))),
        _ => Pattern::Stays,
    }
}

impl Pattern {
    /// The next moment after `now` at which presence turns, if it ever does. `shift` moves the week by part of an hour, so that
    /// devices do not all turn on the hour.
    pub fn turns(&self, online: bool, now: Timestamp, shift: i64) -> Option<Timestamp> {
        match self {
            Self::Stays => None,
            Self::From(at) => (!online).then(|| (*at).max(now.plus_millis(1))),
            Self::Week(bits) => {
                let first = hour_of(now.plus_millis(-shift));
                let other = (first + 1..=first + HOURS).find(|hour| bits.get((hour % HOURS) as usize).is_some_and(|bit| *bit != online))?;
                Some(Timestamp::from_millis(i64::from(other) * HOUR_MS + shift))
            }
        }
    }

    /// The longest time without contact, in milliseconds; `None` if there is none at all.
    pub fn longest_away(&self, online: bool) -> Option<i64> {
        let Self::Week(bits) = self else { return if online || matches!(self, Self::From(_)) { Some(0) } else { None } };
        let (mut longest, mut away, mut seen) = (0, 0, false);
        // Twice around, for an absence that spans the end of the week.
        for bit in bits.iter().chain(bits) {
            away = if *bit { 0 } else { away + 1 };
            longest = longest.max(away);
            seen |= *bit;
        }
        seen.then_some(longest * HOUR_MS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::planner::tests::world::name;

    fn at(hours: i64) -> Timestamp {
        Timestamp::from_secs(hours * 3600)
    }

    fn device(id: &str, changes: &[(i64, bool)], seen: i64) -> Device {
        let mut device = Device::new(name(id), String::new(), BTreeMap::new(), at(0));
        for (hour, online) in changes {
            device.presence.turn(*online, at(*hour));
        }
        device.presence.last_seen = Some(at(seen));
        device
    }

    #[test]
    fn a_day_repeats_a_week_repeats_and_the_young_borrow() {
        let cohort: Cohort = name("coast");
        // Online from 08 to 20 on one day; a second device is new; a third has been away since it was enrolled.
        let day = device("day", &[(1000, true), (1012, false), (1024, true)], 1024);
        let new = device("new", &[(1023, true)], 1023);
        let other: Cohort = name("hills");
        let away = device("away", &[(1010, true), (1011, false)], 1011);
        let now = at(1025);
        let all = [(&cohort, &day), (&cohort, &new), (&other, &away)];
        let (patterns, origins) = patterns(&all, now, &mut Chance::new(1, "t"));
        assert_eq!(origins, Origins { own: 1, borrowed: 1, guessed: 1 });
        assert_eq!(patterns[0], patterns[1], "the only donor there is");
        assert_eq!(patterns[2], Pattern::From(at(1025 + 14)), "away as long again as it has been");
        let mut online = true;
        let mut now = now;
        let mut turns = Vec::new();
        for _ in 0..4 {
            now = patterns[0].turns(online, now, 0).unwrap();
            online = !online;
            turns.push((now.as_millis() / HOUR_MS, online));
        }
        // The hour in which it left still counts as online: contact is recorded to the hour.
        assert_eq!(turns, [(1037, false), (1048, true), (1061, false), (1072, true)]);
        assert_eq!(patterns[0].longest_away(true), Some(11 * HOUR_MS));
        assert_eq!(Pattern::Week([false; 168]).longest_away(false), None);
        assert_eq!(patterns[0].turns(true, at(1025), 60_000), Some(at(1037).plus_millis(60_000)));
    }
}
