//! Guard slices: parts of the held-out rows on which a challenger must not be worse, whatever it gains elsewhere.
//!
//! Cohorts are guarded unless told otherwise. Seasons and hard cases are declared by who knows the task: "freezing days", "rows on which
//! the champion is unsure". A declared hard case must have been *seen*: too few of its rows are not enough labels, where a cohort
//! with too few is only named. What stays true: which slices a row is in depends on the row and on the champion, never on the challenger.
use leeway_protocol::time::Timestamp;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Hard cases that one policy may declare: each needs labels of its own.
pub const MAX_HARD: usize = 32;

/// What is guarded.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Guards {
    /// Each cohort.
    pub cohorts: bool,
    /// Each quarter of the year, on the application's axis of time.
    pub seasons: bool,
    /// Rows that are known to be hard; features that a line does not have leave its rows alone.
    pub hard: Vec<HardCase>,
}

impl Default for Guards {
    fn default() -> Self {
        Self { cohorts: true, seasons: false, hard: Vec::new() }
    }
}

/// Rows that are known to be hard: all that is said of them must hold.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct HardCase {
    /// What they are called.
    pub name: String,
    /// A feature whose value says so.
    pub feature: Option<String>,
    /// The feature is this or more.
    pub from: Option<f64>,
    /// The feature is less than this.
    pub below: Option<f64>,
    /// The champion's confidence is less than this.
    pub unsure_below: Option<f64>,
}

/// A policy that cannot be meant.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GuardError {
    /// It holds for every row, or for none.
    #[error("hard case {0:?} says nothing: give a feature with from or below, or unsure_below")]
    Empty(String),
    /// Too many.
    #[error("{0} hard cases are more than the {MAX_HARD} allowed")]
    TooMany(usize),
    /// Two of one name.
    #[error("hard case {0:?} is declared twice")]
    Twice(String),
}

/// What slices are told by.
#[derive(Debug, Clone, Copy)]
pub struct Row<'a> {
    /// Its cohort.
    pub cohort: Option<&'a str>,
    /// When it was seen, on the application's axis.
    pub at: Timestamp,
    /// Its features.
    pub features: &'a BTreeMap<&'a str, f64>,
    /// The champion's confidence, where it has one.
    pub confidence: f64,
}

impl Guards {
    /// Refuse what could not work.
    pub fn check(&self) -> Result<(), GuardError> {
        if self.hard.len() > MAX_HARD {
            return Err(GuardError::TooMany(self.hard.len()));
        }
        for (i, case) in self.hard.iter().enumerate() {
            let by_feature = case.feature.is_some() && (case.from.is_some() || case.below.is_some());
            if case.name.trim().is_empty() || !(by_feature || case.unsure_below.is_some()) {
                return Err(GuardError::Empty(case.name.clone()));
            }
            if self.hard.iter().skip(i + 1).any(|other| other.name == case.name) {
                return Err(GuardError::Twice(case.name.clone()));
            }
        }
        Ok(())
    }

    /// The slices a row is in.
    pub fn slices(&self, row: &Row<'_>) -> Vec<String> {
        let mut slices: Vec<String> = row.cohort.filter(|_| self.cohorts).map(ToOwned::to_owned).into_iter().collect();
        if self.seasons {
            slices.push(season(row.at).to_owned());
        }
        slices.extend(self.hard.iter().filter(|case| case.holds(row)).map(|case| case.name.clone()));
        slices
    }
}

impl HardCase {
    fn holds(&self, row: &Row<'_>) -> bool {
        let by_feature = match &self.feature {
            Some(name) => row
                .features
                .get(name.as_str())
                .is_some_and(|&x| x.is_finite() && self.from.is_none_or(|from| x >= from) && self.below.is_none_or(|below| x < below)),
            None => true,
        };
        // A confidence that is not known is no confidence.
        let by_doubt = self.unsure_below.is_none_or(|bound| row.confidence.is_nan() || row.confidence < bound);
        by_feature && by_doubt
    }
}

/// The quarter of the year, from the days since 1970 on the Gregorian calendar.
fn season(at: Timestamp) -> &'static str {
    const QUARTERS: [&str; 4] = ["January to March", "April to June", "July to September", "October to December"];
    QUARTERS[(month(at) as usize - 1) / 3]
}

/// The month, 1 to 12: Hinnant's days-to-civil, for any day.
fn month(at: Timestamp) -> i64 {
    let days = at.as_millis().div_euclid(86_400_000) + 719_468;
    let day_of_era = days.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let from_march = (5 * day_of_year + 2) / 153;
    if from_march < 10 { from_march + 3 } else { from_march - 9 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_is_in_the_slices_it_belongs_to() {
        let case = |name: &str, feature: Option<&str>, below, unsure_below| HardCase {
            name: name.to_owned(),
            feature: feature.map(ToOwned::to_owned),
            below,
            unsure_below,
            ..HardCase::default()
        };
        let hard = vec![case("freezing", Some("temperature"), Some(0.0), None), case("unsure", None, None, Some(0.6))];
        let guards = Guards { seasons: true, hard, ..Guards::default() };
        assert_eq!(guards.check(), Ok(()));
        // 1 March 1972, 31 December 1969.
        let (march, december) = (Timestamp::from_millis(790 * 86_400_000), Timestamp::from_millis(-1));
        let cold = BTreeMap::from([("temperature", -3.0)]);
        let row = Row { cohort: Some("coast"), at: march, features: &cold, confidence: 0.9 };
        assert_eq!(guards.slices(&row), ["coast", "January to March", "freezing"]);
        let warm = BTreeMap::from([("temperature", 3.0)]);
        let row = Row { cohort: None, at: december, features: &warm, confidence: f64::NAN };
        assert_eq!(guards.slices(&row), ["October to December", "unsure"]);
        let other = BTreeMap::new();
        let row = Row { features: &other, confidence: 0.9, ..row };
        assert_eq!(guards.slices(&row), ["October to December"], "a feature that the line does not have");
        let empty = Guards { hard: vec![case("all", None, None, None)], ..Guards::default() };
        assert!(empty.check().is_err());
        let twice = Guards { hard: vec![case("a", None, None, Some(0.5)), case("a", None, None, Some(0.6))], ..Guards::default() };
        assert!(twice.check().is_err());
    }

    #[test]
    fn months_are_those_of_the_calendar() {
        let days =
            [(0, 1), (58, 2), (59, 3), (-1, 12), (789, 2), (790, 3), (10_957, 1), (11_016, 2), (11_017, 3), (-7_671, 12), (-7_670, 1)];
        for (day, wanted) in days {
            assert_eq!(month(Timestamp::from_millis(day * 86_400_000 + 5)), wanted, "day {day}");
        }
    }
}
