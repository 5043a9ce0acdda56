//! Tests that may be looked at after every report: the arithmetic under drift, quality and gates.
//!
//! A p-value computed again after each window is wrong some day with certainty: PSI > 0.2 on windows of 100 rows cries wolf
//! a million times in a fleet-month. Everything here is instead an *e-process* or bounded by one: a non-negative quantity
//! whose expectation under the null is at most 1 (or at most t, for a detector that runs for ever) at every stopping time,
//! so that a threshold keeps its promise however often, and for whatever reason, one looks.
//!
//! Rows are rarely independent. The one remedy used everywhere is *tempering*: k hits of n count as k·η of n·η with η ≤ 1.
//! For independent rows that keeps validity exactly (E[L^η] ≤ E[L]^η ≤ 1, Jensen); for dependent ones it gives the counts the
//! variance they really have. [`Dependence`] says where η comes from.
//!
//! What stays true: nothing here is random or keeps time; the same counts give the same evidence, bit by bit.
pub mod bets;
pub mod boundary;
pub mod bounded;
pub mod detector;
pub mod interval;
pub mod ladder;

use serde::{Deserialize, Serialize};

/// How rows depend on each other.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Dependence {
    /// Lag-1 autocorrelation of one device's rows, 0 to below 1.
    pub rho: f64,
    /// How far devices see the same events: 0 not at all, 1 entirely (stations under one sky: many devices tell no more than one).
    pub sharing: f64,
}

/// Autocorrelation is taken as at most this: above it a factor of 400 would make any window worthless, and estimates of it from
/// windows of some hundred rows are not that good.
const MAX_RHO: f64 = 0.995;

impl Dependence {
    /// Rows that do not depend on each other.
    pub const NONE: Self = Self { rho: 0.0, sharing: 0.0 };

    /// The factor η by which counts over `devices` devices (see [`effective_devices`]) are tempered.
    pub fn eta(&self, devices: f64) -> f64 {
        let rho = self.rho.clamp(0.0, MAX_RHO);
        let serial = (1.0 - rho) / (1.0 + rho);
        serial / (1.0 + (devices.max(1.0) - 1.0) * self.sharing.clamp(0.0, 1.0))
    }
}

/// How many devices of equal size the given sums stand for: (Σn)² / Σn² (Kish). One big device among small ones counts as one.
pub fn effective_devices(sum: f64, sum_of_squares: f64) -> f64 {
    if sum_of_squares > 0.0 { (sum * sum / sum_of_squares).max(1.0) } else { 1.0 }
}

/// Shares are kept this far from 0 and 1, so that no single row carries infinite evidence.
pub const EDGE: f64 = 1e-6;

/// ln of the likelihood ratio of `hits` in `rows` under share `p1` against share `p0`. Counts may be tempered, that is fractional.
pub fn log_ratio(hits: f64, rows: f64, p1: f64, p0: f64) -> f64 {
    let (p1, p0) = (p1.clamp(EDGE, 1.0 - EDGE), p0.clamp(EDGE, 1.0 - EDGE));
    hits * (p1 / p0).ln() + (rows - hits) * ((1.0 - p1) / (1.0 - p0)).ln()
}

/// ln(eᵃ + eᵇ) without overflow.
pub fn log_add(a: f64, b: f64) -> f64 {
    let (high, low) = if a >= b { (a, b) } else { (b, a) };
    if high == f64::NEG_INFINITY { high } else { high + (low - high).exp().ln_1p() }
}

/// ln of the mean of eˣ; −∞ for nothing.
pub fn log_mean(logs: impl IntoIterator<Item = f64>) -> f64 {
    let (sum, count) = logs.into_iter().fold((f64::NEG_INFINITY, 0u32), |(sum, n), x| (log_add(sum, x), n + 1));
    if count == 0 { f64::NEG_INFINITY } else { sum - f64::from(count).ln() }
}

/// ln(p / (1 − p)).
pub fn logit(p: f64) -> f64 {
    let p = p.clamp(EDGE, 1.0 - EDGE);
    (p / (1.0 - p)).ln()
}

/// The inverse of [`logit`].
pub fn logistic(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

/// ln Γ(x) for x > 0 (Lanczos, g = 7; relative error below 1e-13).
pub fn ln_gamma(x: f64) -> f64 {
    const C: [f64; 8] = [
        676.520_368_121_885_1,
        -1_259.139_216_722_402_8,
        771.323_428_777_653_1,
        -176.615_029_162_140_6,
        12.507_343_278_686_905,
        -0.138_571_095_265_720_12,
        9.984_369_578_019_572e-6,
        1.505_632_735_149_311_6e-7,
    ];
    if x < 0.5 {
        // Reflection keeps small arguments exact.
        return (std::f64::consts::PI / (std::f64::consts::PI * x).sin().abs()).ln() - ln_gamma(1.0 - x);
    }
    let x = x - 1.0;
    let sum = C.iter().enumerate().fold(0.999_999_999_999_809_9, |sum, (i, c)| sum + c / (x + i as f64 + 1.0));
    let t = x + 7.5;
    0.5 * std::f64::consts::TAU.ln() + (x + 0.5) * t.ln() - t + sum.ln()
}

/// ln B(a, b).
pub fn ln_beta(a: f64, b: f64) -> f64 {
    ln_gamma(a) + ln_gamma(b) - ln_gamma(a + b)
}

/// P(X ≥ `hits`) for X ~ Binomial(`rows`, ½), exact: the one-sided sign test.
pub fn sign_test(hits: u64, rows: u64) -> f64 {
    let n = rows as f64;
    let log_choose = |k: f64| ln_gamma(n + 1.0) - ln_gamma(k + 1.0) - ln_gamma(n - k + 1.0);
    let log_tail = (hits..=rows).fold(f64::NEG_INFINITY, |sum, k| log_add(sum, log_choose(k as f64)));
    (log_tail - n * std::f64::consts::LN_2).exp().min(1.0)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use rand_chacha::ChaCha8Rng;
    use rand_chacha::rand_core::{Rng as _, SeedableRng as _};

    /// Seeded chance for the simulations of this crate.
    pub(crate) struct Chance(ChaCha8Rng);

    impl Chance {
        pub(crate) fn new(seed: u64) -> Self {
            Self(ChaCha8Rng::seed_from_u64(seed))
        }

        pub(crate) fn uniform(&mut self) -> f64 {
            (self.0.next_u64() >> 11) as f64 / (1u64 << 53) as f64
        }

        pub(crate) fn hit(&mut self, p: f64) -> bool {
            self.uniform() < p
        }

        pub(crate) fn hits(&mut self, rows: u64, p: f64) -> u64 {
            (0..rows).filter(|_| self.hit(p)).count() as u64
        }

        pub(crate) fn normal(&mut self) -> f64 {
            let radius = (-2.0 * (1.0 - self.uniform()).ln()).sqrt();
            radius * (std::f64::consts::TAU * self.uniform()).cos()
        }
    }

    #[test]
    fn special_functions_match_known_values() {
        for (x, want) in [
            (0.1, 2.252_712_651_734_206),
            (0.5, 0.572_364_942_924_700_1),
            (1.0, 0.0),
            (5.0, 3.178_053_830_347_946),
            (1000.5, 5_908.674_175_848_499),
        ] {
            assert!((ln_gamma(x) - want).abs() < 1e-9 * want.abs().max(1.0), "{x}: {} != {want}", ln_gamma(x));
        }
        assert!((ln_beta(2.0, 3.0).exp() - 1.0 / 12.0).abs() < 1e-12);
        assert!((sign_test(8, 10) - 0.054_687_5).abs() < 1e-12);
        assert!((sign_test(0, 0) - 1.0).abs() < 1e-12);
        assert!((log_mean([0.0, 2f64.ln()]) - 1.5f64.ln()).abs() < 1e-12);
        assert!((logistic(logit(0.3)) - 0.3).abs() < 1e-12);
    }

    #[test]
    fn dependence_only_ever_shrinks_counts() {
        assert!((Dependence::NONE.eta(50.0) - 1.0).abs() < 1e-12);
        let same_sky = Dependence { rho: 0.0, sharing: 1.0 };
        assert!((same_sky.eta(20.0) - 0.05).abs() < 1e-12);
        let slow = Dependence { rho: 0.8, sharing: 0.0 };
        assert!((slow.eta(1.0) - 1.0 / 9.0).abs() < 1e-12);
        assert!((effective_devices(30.0, 300.0) - 3.0).abs() < 1e-12);
        assert!((effective_devices(0.0, 0.0) - 1.0).abs() < 1e-12);
    }
}
