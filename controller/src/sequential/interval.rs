//! Intervals that hold at all times at once, so that a chart or a gate may be read after every report.
//!
//! [`share`] is exact for independent rows with one underlying share: it holds every p that a Beta mixture does not refute,
//! the mixture's likelihood ratio against the true p being a martingale of mean 1 (Robbins 1970; Ville's inequality).
//! [`half_width`] is the normal-mixture boundary for an estimate with a variance that is itself estimated: asymptotic
//! (Waudby-Smith, Arbour, Sinha, Kennedy and Ramdas, "Time-uniform central limit theory", 2021), so use it from some fifty
//! effective rows on. Both take tempered counts.
use serde::{Deserialize, Serialize};

use super::{EDGE, ln_beta};

/// An estimate with its always-valid interval.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Interval {
    /// The observed share or difference.
    pub estimate: f64,
    /// Lower end.
    pub lower: f64,
    /// Upper end.
    pub upper: f64,
}

/// Halvings of a bracket in [0, 1]: to 1e-12, below any figure shown.
const HALVINGS: u32 = 40;

/// The interval of a share from `hits` of `rows` (tempered) at level 1 − `alpha`; the whole of [0, 1] without rows.
pub fn share(hits: f64, rows: f64, alpha: f64) -> Interval {
    if rows <= 0.0 {
        return Interval { estimate: 0.5, lower: 0.0, upper: 1.0 };
    }
    let hits = hits.clamp(0.0, rows);
    let mean = hits / rows;
    // ln of the Jeffreys mixture's likelihood; p is refuted when it beats p's own by 1/alpha.
    let mixture = ln_beta(hits + 0.5, rows - hits + 0.5) - ln_beta(0.5, 0.5);
    let nats = -(alpha.clamp(1e-12, 1.0).ln());
    let refuted = |p: f64| mixture - (hits * p.ln() + (rows - hits) * (1.0 - p).ln()) > nats;
    let edge = |mut kept: f64, mut out: f64| {
        if !refuted(out) {
            return if out < 0.5 { 0.0 } else { 1.0 };
        }
        for _ in 0..HALVINGS {
            let mid = 0.5 * (kept + out);
            if refuted(mid) { out = mid } else { kept = mid }
        }
        kept
    };
    let inside = mean.clamp(EDGE, 1.0 - EDGE);
    Interval { estimate: mean, lower: edge(inside, EDGE), upper: edge(inside, 1.0 - EDGE) }
}

/// Half of the interval around an estimate with variance `variance`, at level 1 − `alpha` for all times together.
///
/// `tuned_for` is the variance at which the interval is to be narrowest; it changes width, never validity.
pub fn half_width(variance: f64, tuned_for: f64, alpha: f64) -> f64 {
    if variance <= 0.0 || !variance.is_finite() {
        return f64::INFINITY;
    }
    let alpha = alpha.clamp(1e-12, 0.999);
    let information = 1.0 / variance;
    // The best prior information for a given moment, to first order (Howard et al. 2021, proposition 3).
    let nats = -2.0 * alpha.ln();
    let prior = 1.0 / tuned_for / (nats + (1.0 + nats).ln());
    let total = information + prior;
    (total * ((total / prior).ln() + nats)).sqrt() / information
}

#[cfg(test)]
mod tests {
    use super::super::tests::Chance;
    use super::*;

    #[test]
    fn the_share_is_covered_at_all_times_at_once() {
        let mut chance = Chance::new(2);
        let (runs, alpha) = (400, 0.1);
        let mut misses = 0;
        for run in 0..runs {
            let p = [0.02, 0.3, 0.5, 0.9][run % 4];
            let mut hits = 0.0;
            let missed = (1..=60).any(|look| {
                hits += chance.hits(10, p) as f64;
                let interval = share(hits, f64::from(look) * 10.0, alpha);
                p < interval.lower || p > interval.upper
            });
            misses += usize::from(missed);
        }
        assert!((misses as f64) < alpha * runs as f64, "{misses} of {runs} missed");
        let wide = share(20.0, 100.0, 0.05);
        assert!(wide.lower > 0.08 && wide.upper < 0.36, "{wide:?}");
        assert_eq!(share(0.0, 0.0, 0.05).upper, 1.0);
        assert_eq!(share(0.0, 20.0, 0.05).lower, 0.0);
    }

    #[test]
    fn a_mean_is_covered_at_all_times_at_once() {
        let mut chance = Chance::new(3);
        let (runs, alpha) = (400, 0.1);
        let misses = (0..runs)
            .filter(|_| {
                let mut sum = 0.0;
                (1..=300).any(|n| {
                    sum += chance.normal();
                    (sum / f64::from(n)).abs() > half_width(1.0 / f64::from(n), 1.0 / 50.0, alpha)
                })
            })
            .count();
        assert!((misses as f64) <= alpha * f64::from(runs), "{misses} of {runs} missed");
        assert!(half_width(1.0 / 50.0, 1.0 / 50.0, 0.05) < 3.2 / 50f64.sqrt());
        assert_eq!(half_width(0.0, 1.0, 0.05), f64::INFINITY);
    }
}
