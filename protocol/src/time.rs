//! A moment is a value that is handed in; nothing here asks a clock.
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Milliseconds since 1970-01-01T00:00:00Z. RFC 3339 with `Z` in JSON, a plain integer in postcard.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(i64);

/// Text that is not a moment in UTC.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a moment in UTC: expected the form 2026-11-23T05:00:00Z")]
pub struct TimeError(String);

/// The last moment that can be written: some days before the year 10000.
const MAX_MS: i64 = 253_402_207_199_999;
/// The first day of the year 1: application data may be older than computers.
const MIN_MS: i64 = -62_135_596_800_000;

impl Timestamp {
    /// From milliseconds since 1970; clamped to the years 1 to 9999.
    pub fn from_millis(ms: i64) -> Self {
        Self(ms.clamp(MIN_MS, MAX_MS))
    }

    /// From seconds since 1970; clamped likewise.
    pub fn from_secs(secs: i64) -> Self {
        Self::from_millis(secs.saturating_mul(1000))
    }

    /// Milliseconds since 1970.
    pub fn as_millis(self) -> i64 {
        self.0
    }

    /// This moment, `ms` milliseconds later.
    #[must_use]
    pub fn plus_millis(self, ms: i64) -> Self {
        Self::from_millis(self.0.saturating_add(ms))
    }

    /// This moment, `secs` seconds later.
    #[must_use]
    pub fn plus_secs(self, secs: i64) -> Self {
        self.plus_millis(secs.saturating_mul(1000))
    }

    /// Milliseconds from `earlier` to this moment; negative if `earlier` is later.
    pub fn millis_since(self, earlier: Self) -> i64 {
        self.0 - earlier.0
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match jiff::Timestamp::from_millisecond(self.0) {
            Ok(at) => write!(f, "{at}"),
            Err(_) => write!(f, "{} ms", self.0),
        }
    }
}
impl FromStr for Timestamp {
    type Err = TimeError;
    fn from_str(text: &str) -> Result<Self, TimeError> {
        let bad = || TimeError(text.chars().take(40).collect());
        if !text.ends_with('Z') {
            return Err(bad());
        }
        let at: jiff::Timestamp = text.parse().map_err(|_| bad())?;
        if !(MIN_MS..=MAX_MS).contains(&at.as_millisecond()) {
            return Err(bad());
        }
        Ok(Self(at.as_millisecond()))
    }
}
impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        if to.is_human_readable() { to.collect_str(self) } else { self.0.serialize(to) }
    }
}
impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        if from.is_human_readable() {
            String::deserialize(from)?.parse().map_err(serde::de::Error::custom)
        } else {
            i64::deserialize(from).map(Self::from_millis)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_form_is_utc_and_nothing_else() {
        let at = Timestamp::from_secs(1_795_410_000);
        assert_eq!(at.to_string().parse(), Ok(at));
        assert_eq!("1970-01-01T00:00:00Z".parse(), Ok(Timestamp::default()));
        let weather = Timestamp::from_secs(-662_688_000);
        assert_eq!(weather.to_string(), "1949-01-01T00:00:00Z");
        assert_eq!(weather.to_string().parse(), Ok(weather));
        for bad in ["", "2026-11-23", "2026-11-23T05:00:00+01:00", "2026-13-01T00:00:00Z", "soon"] {
            assert!(bad.parse::<Timestamp>().is_err(), "{bad}");
        }
        for end in [Timestamp::from_secs(i64::MAX).plus_secs(i64::MAX), Timestamp::from_secs(i64::MIN)] {
            assert_eq!(end.to_string().parse(), Ok(end));
        }
    }
}
