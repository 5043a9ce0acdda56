//! A part of the fleet, named by one label: `hw=rev-b`. What a version may be poisoned for while it is good elsewhere.
//!
//! One label and not a selector: a slice is found by looking at which labels failing devices share, it must be understood at a
//! glance, and two slices must be comparable. The cohort counts as a label of its own ([`COHORT`]), because rollouts are staged by
//! it. What stays true: a device is in a slice by what it is now; relabelled, it leaves or enters it.
use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use leeway_protocol::ids::{Cohort, RolloutId};
use leeway_protocol::time::Timestamp;
use serde::{Deserialize, Serialize};

/// The key under which a device's cohort is meant.
pub const COHORT: &str = "cohort";
/// The most slices one version is poisoned for; one more and it is bad, not its surroundings.
pub const MAX_SLICES: usize = 8;

/// Devices with one value of one label.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Slice {
    key: String,
    value: String,
}

/// Text that names no slice.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} names no part of the fleet: write a label and its value, such as hw=rev-b, or cohort=coast")]
pub struct SliceError(String);

impl Slice {
    /// Devices whose label `key` is `value`; [`COHORT`] as key means their cohort.
    pub fn new(key: &str, value: &str) -> Self {
        Self { key: key.to_owned(), value: value.to_owned() }
    }

    /// The label.
    pub fn key(&self) -> &str {
        &self.key
    }

    /// Whether a device with these labels, in this cohort, is in it.
    pub fn holds(&self, labels: &BTreeMap<String, String>, cohort: Option<&Cohort>) -> bool {
        if self.key == COHORT {
            return cohort.is_some_and(|cohort| cohort.as_str() == self.value);
        }
        labels.get(&self.key) == Some(&self.value)
    }
}

impl fmt::Display for Slice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}", self.key, self.value)
    }
}

impl FromStr for Slice {
    type Err = SliceError;
    fn from_str(text: &str) -> Result<Self, SliceError> {
        match text.split_once('=') {
            Some((key, value)) if !key.is_empty() && !value.is_empty() && !value.contains('=') => Ok(Self::new(key, value)),
            _ => Err(SliceError(text.chars().take(100).collect())),
        }
    }
}

impl TryFrom<String> for Slice {
    type Error = SliceError;
    fn try_from(text: String) -> Result<Self, SliceError> {
        text.parse()
    }
}

impl From<Slice> for String {
    fn from(slice: Slice) -> Self {
        slice.to_string()
    }
}

/// A slice that a version failed on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Poisoned {
    /// Which devices.
    #[schema(value_type = String)]
    pub slice: Slice,
    /// What was seen, in a sentence.
    pub reason: String,
    /// The rollout that saw it.
    #[schema(value_type = String)]
    pub rollout: RolloutId,
    /// When.
    #[schema(value_type = String, format = DateTime)]
    pub at: Timestamp,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slice_is_a_label_and_its_value() {
        let labels: BTreeMap<String, String> = [("hw".to_owned(), "rev-b".to_owned())].into();
        let coast: Cohort = "coast".parse().unwrap();
        for (text, holds) in
            [("hw=rev-b", true), ("hw=rev-a", false), ("region=rev-b", false), ("cohort=coast", true), ("cohort=hills", false)]
        {
            let slice: Slice = text.parse().unwrap();
            assert_eq!((slice.holds(&labels, Some(&coast)), slice.to_string().as_str()), (holds, text));
        }
        assert!(!Slice::new(COHORT, "coast").holds(&labels, None));
        for bad in ["", "hw", "=b", "hw=", "a=b=c"] {
            assert!(bad.parse::<Slice>().unwrap_err().to_string().contains("hw=rev-b"), "{bad}");
        }
    }
}
