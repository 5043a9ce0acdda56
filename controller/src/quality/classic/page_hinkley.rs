//! Page–Hinkley: does the sum of what errors exceed their own mean by rise far above its lowest point? (Page, Biometrika 1954.)
//!
//! > S ← α·S + (x − x̄ − δ);  alarm when S − min S > λ, after 30 rows at least; then everything begins anew.
//!
//! x̄ is the mean so far, so that a slow rise is learned away, and λ = 50 is a number of errors: at a base share of 2 % it waits
//! ten times as long as at 20 %. Defaults are river's (0.26), and alarms fall on the same rows (`tests/interop/river.tsv`, mode
//! `up`: only a rise matters here).
use serde::{Deserialize, Serialize};

const MIN_ROWS: u64 = 30;
const DELTA: f64 = 0.005;
const THRESHOLD: f64 = 50.0;
const ALPHA: f64 = 1.0 - 0.0001;

/// The sums.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct PageHinkley {
    rows: u64,
    mean: f64,
    sum: f64,
    lowest: f64,
}

/// The parameters, in words.
pub fn parameters() -> String {
    format!("threshold {THRESHOLD}, delta {DELTA}")
}

impl PageHinkley {
    /// Take one row; whether it raises the alarm, after which everything begins anew.
    pub fn add(&mut self, wrong: bool) -> bool {
        let x = f64::from(u8::from(wrong));
        self.rows += 1;
        self.mean += (x - self.mean) / self.rows as f64;
        self.sum = ALPHA * self.sum + x - self.mean - DELTA;
        self.lowest = if self.rows == 1 { self.sum } else { self.lowest.min(self.sum) };
        let alarm = self.rows >= MIN_ROWS && self.sum - self.lowest > THRESHOLD;
        if alarm {
            *self = Self::default();
        }
        alarm
    }
}
