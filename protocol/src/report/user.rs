//! What only the application knows, such as whether the robot got hold of the part: a name, and a share or a yes or no per trial.
//!
//! Sums are whole millionths, not floats: adding up windows is exact in any order, a yes or no stays exact, no NaN can arrive, and that a
//! sum lies within its trials can be checked without a tolerance. Names are held in place, so that a metric is as cheap to copy
//! and to compare as a number. What stays true: a value of these types has passed its rule.
use std::fmt;
use std::str::FromStr;

use serde::de::Visitor;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// User metrics of one window, and of one rollout: each is a test of its own, and more would share the error too thinly.
pub const MAX_USER_METRICS: usize = 8;
/// The longest name.
pub const MAX_USER_NAME: usize = 24;
/// Trials of one metric in one window: twice what a recorder takes before it closes the window.
pub const MAX_USER_TRIALS: u64 = 1 << 32;
/// What 1 is on the wire.
pub const MILLION: u32 = 1_000_000;

/// The name of something the application measures. Padded with zeros, so the order of the bytes is that of the names.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UserMetric([u8; MAX_USER_NAME]);

/// A name that breaks the rule.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} cannot name a user metric: use 1 to {MAX_USER_NAME} characters out of a-z, 0-9 and _, starting with a letter")]
pub struct UserMetricError(String);

impl UserMetric {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        let end = self.0.iter().position(|&byte| byte == 0).unwrap_or(MAX_USER_NAME);
        self.0.get(..end).and_then(|name| std::str::from_utf8(name).ok()).unwrap_or_default()
    }
}

impl FromStr for UserMetric {
    type Err = UserMetricError;

    fn from_str(name: &str) -> Result<Self, UserMetricError> {
        let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
        let fits = name.starts_with(|c: char| c.is_ascii_lowercase()) && name.bytes().all(plain);
        let mut bytes = [0; MAX_USER_NAME];
        match bytes.get_mut(..name.len()).filter(|_| fits) {
            Some(place) => place.copy_from_slice(name.as_bytes()),
            None => return Err(UserMetricError(name.chars().take(80).collect())),
        }
        Ok(Self(bytes))
    }
}

impl fmt::Display for UserMetric {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for UserMetric {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "UserMetric({})", self.as_str())
    }
}

impl Serialize for UserMetric {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl<'de> Deserialize<'de> for UserMetric {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Name;
        impl Visitor<'_> for Name {
            type Value = UserMetric;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("the name of a user metric")
            }

            fn visit_str<E: serde::de::Error>(self, name: &str) -> Result<UserMetric, E> {
                name.parse().map_err(E::custom)
            }
        }
        deserializer.deserialize_str(Name)
    }
}

/// One trial: a share, or 0 for no and 1 for yes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UserValue(u32);

impl UserValue {
    /// From a number of 0 to 1, to the nearest millionth; `None` for any other.
    pub fn of(value: f64) -> Option<Self> {
        // NaN is in no range.
        (0.0..=1.0).contains(&value).then(|| Self((value * f64::from(MILLION)).round() as u32))
    }
}

/// What one window adds to one metric.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserTotals {
    /// Values.
    pub trials: u64,
    /// Their sum, in millionths.
    pub sum_millionths: u64,
}

impl UserTotals {
    /// Take in one value.
    pub fn add(&mut self, value: UserValue) {
        self.trials += 1;
        self.sum_millionths += u64::from(value.0);
    }

    /// The sum as a number of 0 to `trials`.
    pub fn sum(&self) -> f64 {
        self.sum_millionths as f64 / f64::from(MILLION)
    }

    /// Whether values of 0 to 1 can have this sum.
    pub(super) fn adds_up(&self) -> bool {
        // In this order, so that the product stays far below 2^64.
        (1..=MAX_USER_TRIALS).contains(&self.trials) && self.sum_millionths <= self.trials * u64::from(MILLION)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_checked_kept_and_ordered_as_text() {
        let longest = "a23456789012345678901234";
        for name in ["a", "pick_success", "retry2", longest] {
            let metric: UserMetric = name.parse().unwrap();
            assert_eq!((metric.as_str(), metric.to_string().as_str()), (name, name));
            assert_eq!(serde_json::to_string(&metric).unwrap(), format!("{name:?}"));
            assert_eq!(postcard::from_bytes::<UserMetric>(&postcard::to_stdvec(&metric).unwrap()).unwrap(), metric);
        }
        let long = format!("{longest}5");
        for name in ["", "2nd", "_a", "Pick", "a-b", "a b", "a\0", "ä", long.as_str()] {
            assert!(name.parse::<UserMetric>().is_err(), "{name:?}");
            assert!(serde_json::from_value::<UserMetric>(name.into()).is_err(), "{name:?}");
        }
        let problem = "Pick".parse::<UserMetric>().unwrap_err().to_string();
        assert_eq!(problem, "\"Pick\" cannot name a user metric: use 1 to 24 characters out of a-z, 0-9 and _, starting with a letter");
        let mut names = ["b", "ab", "a_", "a"].map(|n| n.parse::<UserMetric>().unwrap());
        names.sort_unstable();
        assert_eq!(names.map(|n| n.to_string()), ["a", "a_", "ab", "b"]);
    }

    #[test]
    fn sums_are_exact_and_values_outside_the_unit_interval_are_none() {
        for value in [f64::NAN, f64::INFINITY, -1e-9, 1.000_001, -0.5] {
            assert_eq!(UserValue::of(value), None, "{value}");
        }
        let mut totals = UserTotals::default();
        (0..10).for_each(|_| totals.add(UserValue::of(0.1).unwrap()));
        assert_eq!((totals.trials, totals.sum_millionths, totals.sum()), (10, 1_000_000, 1.0));
        [-0.0, 1.0].into_iter().for_each(|value| totals.add(UserValue::of(value).unwrap()));
        assert_eq!((totals.trials, totals.sum()), (12, 2.0));
    }
}
