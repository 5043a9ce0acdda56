//! What the application tells about its own business, added up per name until the window closes.
//!
//! Part of what is always counted: a value costs a look-up in a handful of names and two additions, and allocates nothing once its
//! name is known in the window. What stays true: a call is counted whole or not at all, so that what was refused can be sent again.
use std::collections::{BTreeMap, BTreeSet};

use leeway_protocol::report::{MAX_USER_METRICS, UserMetric, UserTotals, UserValue};

use super::MAX_INFERENCES;

/// More names than a window holds.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a window counts at most {MAX_USER_METRICS} metrics by name{0}")]
pub struct TooManyNames(String);

/// The sums of the open window.
#[derive(Debug, Clone, Default)]
pub(super) struct Told(BTreeMap<UserMetric, UserTotals>);

impl Told {
    pub(super) fn add(&mut self, values: &[(UserMetric, UserValue)]) -> Result<(), TooManyNames> {
        let is_new = |name: &&UserMetric| !self.0.contains_key(*name);
        // Empty, and thus without a place in memory, wherever the names are known.
        let new: BTreeSet<&UserMetric> = values.iter().map(|(name, _)| name).filter(is_new).collect();
        if self.0.len() + new.len() > MAX_USER_METRICS {
            let known: Vec<&str> = self.0.keys().map(UserMetric::as_str).collect();
            let what =
                if known.is_empty() { ": send fewer names".to_owned() } else { format!(", and holds {}: use these", known.join(", ")) };
            return Err(TooManyNames(what));
        }
        for (name, value) in values {
            self.0.entry(*name).or_default().add(*value);
        }
        Ok(())
    }

    /// Whether a sum is so large that the window should close, whatever the policy says.
    pub(super) fn is_full(&self) -> bool {
        self.0.values().any(|totals| totals.trials >= MAX_INFERENCES)
    }

    pub(super) fn into_totals(self) -> BTreeMap<UserMetric, UserTotals> {
        self.0
    }
}
