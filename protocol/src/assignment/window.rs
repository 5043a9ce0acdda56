//! When an install may begin: some days of the week, from one time of day to another, in the device's local time.
//!
//! It travels in the assignment and is judged on the device, because only the device knows its local time and only the device is
//! there when the network is not. A window that crosses midnight belongs to the day it opens on; one that ends when it begins
//! is open the whole day. A window says when an install may *begin*: what began in it is finished, and a rollback ignores it.
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::time::Timestamp;

/// Minutes of a day.
const DAY: i64 = 24 * 60;
/// Minutes of a week, counted from Monday, 00:00.
const WEEK: i64 = 7 * DAY;
/// 1970-01-01 was a Thursday.
const EPOCH_DAY: i64 = 3;
/// The furthest time zones: -12:00 and +14:00.
const OFFSETS: std::ops::RangeInclusive<i16> = -12 * 60..=14 * 60;

/// When an install may begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Window {
    /// Days of the week on which it opens; every day if absent.
    #[serde(default)]
    pub days: Days,
    /// When it opens, such as `22:00`.
    pub from: TimeOfDay,
    /// When it closes; the same as `from` for the whole day.
    pub to: TimeOfDay,
    /// The time zone, as minutes east of UTC; the device's own if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub utc_offset_minutes: Option<i16>,
}

/// Days of the week, as `["mon", "tue"]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Vec<String>", into = "Vec<String>")]
pub struct Days(u8);

/// A time of day to the minute, as `22:00`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TimeOfDay(u16);

/// A window that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WindowError {
    /// Not a day.
    #[error("{0:?} is not a day of the week: use mon, tue, wed, thu, fri, sat or sun")]
    Day(String),
    /// No day at all.
    #[error("a window without days never opens: leave days out for every day")]
    Never,
    /// Not a time.
    #[error("{0:?} is not a time of day such as 22:00")]
    Time(String),
    /// Not a time zone.
    #[error("{0} minutes is not the offset of a time zone: use -720 to 840")]
    Offset(i16),
}

const NAMES: [&str; 7] = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"];

impl Default for Days {
    fn default() -> Self {
        Self(0x7f)
    }
}

impl TryFrom<Vec<String>> for Days {
    type Error = WindowError;
    fn try_from(names: Vec<String>) -> Result<Self, WindowError> {
        let mut days = 0;
        for name in &names {
            let day = NAMES.iter().position(|known| known == name).ok_or_else(|| WindowError::Day(name.chars().take(20).collect()))?;
            days |= 1 << day;
        }
        if days == 0 { Err(WindowError::Never) } else { Ok(Self(days)) }
    }
}

impl From<Days> for Vec<String> {
    fn from(days: Days) -> Self {
        let on = |(day, _): &(usize, &&str)| days.0 & (1 << day) != 0;
        NAMES.iter().enumerate().filter(on).map(|(_, name)| (*name).to_owned()).collect()
    }
}

impl TryFrom<String> for TimeOfDay {
    type Error = WindowError;
    fn try_from(text: String) -> Result<Self, WindowError> {
        let read = || {
            let (hours, minutes) = text.split_once(':')?;
            if hours.len() != 2 || minutes.len() != 2 {
                return None;
            }
            let (hours, minutes): (u16, u16) = (hours.parse().ok()?, minutes.parse().ok()?);
            (hours < 24 && minutes < 60).then_some(hours * 60 + minutes)
        };
        read().map(Self).ok_or_else(|| WindowError::Time(text.chars().take(20).collect()))
    }
}

impl From<TimeOfDay> for String {
    fn from(time: TimeOfDay) -> Self {
        time.to_string()
    }
}

impl fmt::Display for TimeOfDay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:02}:{:02}", self.0 / 60, self.0 % 60)
    }
}

/// Whether a window is open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Opening {
    /// It is.
    Open {
        /// Since how many milliseconds.
        since_ms: u64,
    },
    /// It is not.
    Closed {
        /// In how many milliseconds it opens.
        opens_in_ms: u64,
    },
}

impl Window {
    /// Refuse an offset that no time zone has.
    pub fn check(&self) -> Result<(), WindowError> {
        match self.utc_offset_minutes.filter(|offset| !OFFSETS.contains(offset)) {
            Some(offset) => Err(WindowError::Offset(offset)),
            None => Ok(()),
        }
    }

    /// How long it stays open, milliseconds.
    pub fn length_ms(&self) -> u64 {
        let minutes = (i64::from(self.to.0) - i64::from(self.from.0)).rem_euclid(DAY);
        let minutes = if minutes == 0 { DAY } else { minutes };
        minutes.unsigned_abs() * 60_000
    }

    /// Whether it is open at `now`, on a device whose own zone is `own_offset` minutes east of UTC.
    pub fn at(&self, now: Timestamp, own_offset: i16) -> Opening {
        let offset = i64::from(self.utc_offset_minutes.unwrap_or(own_offset));
        let local_ms = now.as_millis().saturating_add(offset * 60_000);
        let in_week = (local_ms + EPOCH_DAY * DAY * 60_000).rem_euclid(WEEK * 60_000);
        let opens = (0..7).filter(|day| self.days.0 & (1 << day) != 0).map(|day| (day * DAY + i64::from(self.from.0)) * 60_000);
        let since = opens.clone().map(|at| (in_week - at).rem_euclid(WEEK * 60_000)).min().unwrap_or(i64::MAX);
        if since.unsigned_abs() < self.length_ms() {
            return Opening::Open { since_ms: since.unsigned_abs() };
        }
        let until = opens.map(|at| (at - in_week).rem_euclid(WEEK * 60_000)).min().unwrap_or(i64::MAX);
        Opening::Closed { opens_in_ms: until.unsigned_abs() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn window(json: &str) -> Window {
        serde_json::from_str(json).unwrap()
    }

    /// 2026-11-23 was a Monday.
    fn monday(hours: i64, minutes: i64) -> Timestamp {
        Timestamp::from_secs(1_795_392_000 + hours * 3600 + minutes * 60)
    }

    #[test]
    fn windows_open_and_close_by_local_time() {
        let hour = 3_600_000;
        let open = |hours: u64| Opening::Open { since_ms: hours * hour };
        let closed = |hours: u64| Opening::Closed { opens_in_ms: hours * hour };
        let night = r#"{"from": "22:00", "to": "05:00"}"#;
        let table = [
            (night, 0, monday(22, 0), open(0)),
            (night, 0, monday(28, 0), open(6)),
            (night, 0, monday(29, 0), closed(17)),
            (night, 0, monday(12, 0), closed(10)),
            (night, 120, monday(20, 0), open(0)),
            (night, -300, monday(22, 0), closed(5)),
            (r#"{"from": "22:00", "to": "05:00", "utc_offset_minutes": 60}"#, -300, monday(21, 0), open(0)),
            (r#"{"days": ["sun"], "from": "22:00", "to": "05:00"}"#, 0, monday(4, 0), open(6)),
            (r#"{"days": ["sun"], "from": "22:00", "to": "05:00"}"#, 0, monday(6, 0), closed(6 * 24 + 16)),
            (r#"{"days": ["tue"], "from": "00:00", "to": "00:00"}"#, 0, monday(23, 0), closed(1)),
            (r#"{"days": ["mon"], "from": "00:00", "to": "00:00"}"#, 0, monday(23, 0), open(23)),
            (r#"{"days": ["mon", "tue"], "from": "09:00", "to": "10:00"}"#, 0, monday(10, 0), closed(23)),
        ];
        for (json, own, now, expected) in table {
            assert_eq!(window(json).at(now, own), expected, "{json} at {now} with {own}");
        }
    }

    #[test]
    fn what_cannot_be_meant_is_refused() {
        for bad in [
            r#"{"days": [], "from": "22:00", "to": "05:00"}"#,
            r#"{"days": ["Monday"], "from": "22:00", "to": "05:00"}"#,
            r#"{"from": "24:00", "to": "05:00"}"#,
            r#"{"from": "2:00", "to": "05:00"}"#,
            r#"{"from": "22:00"}"#,
            r#"{"from": "22:00", "to": "05:00", "zone": "CET"}"#,
        ] {
            assert!(serde_json::from_str::<Window>(bad).is_err(), "{bad}");
        }
        assert!(window(r#"{"from": "22:00", "to": "05:00", "utc_offset_minutes": 900}"#).check().is_err());
        let text = r#"{"days":["mon","sun"],"from":"22:00","to":"05:00"}"#;
        assert_eq!(serde_json::to_string(&window(text)).unwrap(), text);
    }
}
