//! ADWIN: a window of the latest rows that forgets its older part when the two parts differ (Bifet and Gavaldà, SDM 2007).
//!
//! The window is kept as an exponential histogram: buckets of 1, 2, 4, … rows, at most five of a size before the two oldest become
//! one of twice the size. At every 32nd row each border between buckets is tried as the place of a change: with n₀ and n₁ rows
//! and error shares p₀ and p₁, the older bucket is dropped when
//!
//! > |p₀ − p₁| > √(2·v·d/m) + 2·d/(3·m),  d = ln(2·ln n / δ),  1/m = 1/(n₀ − 4) + 1/(n₁ − 4),
//!
//! v being the variance of the whole window. Rows are right or wrong, so a bucket is one count and its variance follows from it:
//! sums are exact integers, and state is at most six counts for each power of two.
//!
//! Defaults, and the constants 4 and 10, are river's (0.26), and cuts fall on the same rows (`tests/interop/river.tsv`). One
//! difference, which the test allows for: river empties the whole window after a cut; here, as in the paper, the newer part stays.
use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

/// Confidence of a cut.
const DELTA: f64 = 0.002;
/// Rows between two looks.
const CLOCK: u64 = 32;
/// Buckets of one size before two become one.
const MAX_BUCKETS: usize = 5;
/// Rows either part must have at least.
const MIN_PART: u64 = 5;
/// A window not larger than this is not looked at.
const GRACE: u64 = 10;
/// Sizes of buckets: a window of 2^32 rows, more than any device makes; beyond, the oldest is forgotten.
const MAX_LEVELS: usize = 32;

/// The window.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Adwin {
    /// Errors in each bucket: `levels[i]` holds buckets of 2^i rows, the oldest first.
    levels: Vec<VecDeque<u64>>,
    width: u64,
    errors: u64,
    rows: u64,
}

/// How the error share changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// More errors than before.
    Rise,
    /// Fewer.
    Fall,
}

/// The parameters, in words.
pub fn parameters() -> String {
    format!("delta {DELTA}, clock {CLOCK}")
}

impl Adwin {
    /// Take one row; a change, if the window was cut because of it.
    pub fn add(&mut self, wrong: bool) -> Option<Change> {
        if self.levels.is_empty() {
            self.levels.push(VecDeque::new());
        }
        if let Some(first) = self.levels.first_mut() {
            first.push_back(u64::from(wrong));
        }
        self.width += 1;
        self.errors += u64::from(wrong);
        self.rows = self.rows.wrapping_add(1);
        self.merge();
        let look = self.rows.is_multiple_of(CLOCK) && self.width > GRACE;
        look.then(|| self.cut()).flatten()
    }

    /// Rows in the window.
    pub fn width(&self) -> u64 {
        self.width
    }

    /// Error share in the window.
    pub fn share(&self) -> Option<f64> {
        (self.width > 0).then(|| self.errors as f64 / self.width as f64)
    }

    /// Where a size has one bucket too many, its two oldest become one of the next size.
    fn merge(&mut self) {
        let mut level = 0;
        while let Some(buckets) = self.levels.get_mut(level).filter(|b| b.len() > MAX_BUCKETS) {
            let merged: u64 = buckets.drain(..2).sum();
            level += 1;
            match self.levels.get_mut(level) {
                Some(next) => next.push_back(merged),
                None if level < MAX_LEVELS => self.levels.push(VecDeque::from([merged])),
                None => {
                    self.width -= 1 << level;
                    self.errors -= merged;
                }
            }
        }
    }

    /// Drop the oldest bucket as long as any border parts the window; how the newer part differs from the older at the first.
    fn cut(&mut self) -> Option<Change> {
        let mut change = None;
        while let Some(found) = self.border() {
            change = change.or(Some(found));
            self.drop_oldest();
        }
        change
    }

    /// The oldest border whose two sides differ.
    fn border(&self) -> Option<Change> {
        let n = self.width as f64;
        let share = self.errors as f64 / n;
        let d = (2.0 * n.ln() / DELTA).ln();
        let (mut old, mut old_errors) = (0u64, 0u64);
        for (level, buckets) in self.levels.iter().enumerate().rev() {
            for errors in buckets {
                old += 1 << level;
                old_errors += errors;
                let new = self.width - old;
                if new < MIN_PART {
                    return None;
                }
                if old < MIN_PART {
                    continue;
                }
                let before = old_errors as f64 / old as f64;
                let after = (self.errors - old_errors) as f64 / new as f64;
                let reciprocal = 1.0 / (old - MIN_PART + 1) as f64 + 1.0 / (new - MIN_PART + 1) as f64;
                let bound = (2.0 * reciprocal * share * (1.0 - share) * d).sqrt() + 2.0 / 3.0 * d * reciprocal;
                if (before - after).abs() > bound {
                    return Some(if after > before { Change::Rise } else { Change::Fall });
                }
            }
        }
        None
    }

    fn drop_oldest(&mut self) {
        let Some(level) = self.levels.len().checked_sub(1) else { return };
        if let Some(errors) = self.levels.last_mut().and_then(VecDeque::pop_front) {
            self.width -= 1 << level;
            self.errors -= errors;
        }
        while self.levels.len() > 1 && self.levels.last().is_some_and(VecDeque::is_empty) {
            self.levels.pop();
        }
    }
}
