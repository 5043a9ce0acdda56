//! The mean of bounded numbers that come as counts of a few different values, with an interval that holds at all times.
//!
//! **Null** for each candidate m: the mean of the rows' expectations is m. **Guarantee**: with the bounds [low, high] fixed beforehand
//! and rows that are independent, or tempered so that they count as such, the chance that the interval of the growing sums ever
//! misses the mean is at most α, looked at after every row, exact at any size. **Method**: betting (Waudby-Smith and Ramdas,
//! "Estimating means of bounded random variables by betting", JRSS B 2024). Against "the mean is at most m" a fixed share f of the
//! wealth is bet on each value: it is multiplied by 1 + f·(x − m)/(m − low), whose expectation is at most 1 while m is true; the
//! same from the other side. A mixture over fixed f needs no order of the rows, so that it is a function of the counts alone, and
//! rows whose expectations differ do no harm (the product of 1 + λ·(μᵢ − m) is at most its value at the mean of the μᵢ).
//!
//! **Why not empirical Bernstein**: the closed form is as narrow only from some thousand rows on; the bets have the same first-order
//! width √(2·σ²·ln(2/α)/n) and are narrower at the fifty to a thousand labels that a budget buys. [`super::bets`] does the same for values known only by their bin.
//!
//! What stays true: nothing here is random; the same counts in any order give the same interval.
use super::interval::Interval;
use super::log_mean;

/// Shares of the wealth that are bet: from what is best at ten thousand rows to what is best at ten.
const BETS: [f64; 12] = [0.01, 0.02, 0.035, 0.06, 0.1, 0.16, 0.25, 0.37, 0.5, 0.65, 0.8, 0.95];
/// Halvings of an interval's bracket: to 1e-6 of the bounds' distance, below any figure shown.
const HALVINGS: u32 = 20;

/// How often a value was seen; tempered counts are fractional.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Seen {
    /// The value.
    pub value: f64,
    /// How often.
    pub count: f64,
}

/// The mean's interval at level 1 − `alpha`, of values that cannot lie outside `low` and `high`; the whole of it without rows.
pub fn interval(seen: &[Seen], low: f64, high: f64, alpha: f64) -> Interval {
    let rows: f64 = seen.iter().map(|s| s.count).sum();
    if rows <= 0.0 || high <= low || !rows.is_finite() {
        return Interval { estimate: 0.5 * (low + high), lower: low, upper: high };
    }
    let mean = (seen.iter().map(|s| s.value * s.count).sum::<f64>() / rows).clamp(low, high);
    let nats = (2.0 / alpha.clamp(1e-12, 1.0)).ln();
    let above = |m: f64| log_wealth(seen, |x| (x - m) / (m - low).max(1e-12));
    let below = |m: f64| log_wealth(seen, |x| (m - x) / (high - m).max(1e-12));
    Interval { estimate: mean, lower: edge(mean, low, |m| above(m) >= nats), upper: edge(mean, high, |m| below(m) >= nats) }
}

/// ln of the wealth after bets of every share on outcomes of `of`, which is never below −1.
fn log_wealth(seen: &[Seen], of: impl Fn(f64) -> f64) -> f64 {
    let outcomes: Vec<(f64, f64)> = seen.iter().map(|s| (of(s.value).max(-1.0), s.count)).collect();
    log_mean(BETS.map(|bet| outcomes.iter().map(|(x, n)| n * (bet * x).ln_1p()).sum::<f64>()))
}

/// Between the mean, which is kept, and the bound: the outermost value that is not refuted. Wealth only grows outwards.
fn edge(mut kept: f64, bound: f64, refuted: impl Fn(f64) -> bool) -> f64 {
    let mut out = bound;
    if !refuted(out) {
        return bound;
    }
    for _ in 0..HALVINGS {
        let mid = 0.5 * (kept + out);
        if refuted(mid) { out = mid } else { kept = mid }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::super::tests::Chance;
    use super::*;

    fn counted(rows: &[f64]) -> Vec<Seen> {
        let mut sorted = rows.to_vec();
        sorted.sort_by(f64::total_cmp);
        sorted.chunk_by(|a, b| a == b).map(|same| Seen { value: same[0], count: same.len() as f64 }).collect()
    }

    #[test]
    fn wealth_has_mean_one_at_most_under_the_null_by_enumeration() {
        // Three rows of −1, 0.05 or 0.4 in every order, weighted, for several laws; against each law's own mean, from both sides.
        let points = [-1.0, 0.05, 0.4];
        for law in [[0.1, 0.8, 0.1], [0.3, 0.3, 0.4], [0.02, 0.0, 0.98], [0.6, 0.4, 0.0]] {
            let mean: f64 = points.iter().zip(law).map(|(x, p)| x * p).sum();
            let (mut above, mut below) = (0.0, 0.0);
            for outcome in 0..27usize {
                let pick = |i: u32| outcome / 3usize.pow(i) % 3;
                let weight: f64 = (0..3).map(|i| law[pick(i)]).product();
                let seen = counted(&[points[pick(0)], points[pick(1)], points[pick(2)]]);
                above += weight * log_wealth(&seen, |x| (x - mean) / (mean + 1.0)).exp();
                below += weight * log_wealth(&seen, |x| (mean - x) / (0.4 - mean)).exp();
            }
            assert!(above <= 1.0 + 1e-9 && below <= 1.0 + 1e-9, "{law:?}: {above} {below}");
        }
    }

    #[test]
    fn the_mean_is_covered_at_all_times_at_once_and_the_interval_shrinks() {
        let mut chance = Chance::new(71);
        let (runs, alpha) = (300, 0.1);
        let missed = (0..runs)
            .filter(|run| {
                // Rows of changing expectation: their mean is what is covered.
                let base = [0.05, 0.3, 0.8][run % 3];
                let (mut rows, mut sum) = (Vec::new(), 0.0);
                (0..40).any(|block| {
                    let p = base + if block % 2 == 0 { 0.04 } else { -0.04 };
                    (0..10).for_each(|_| rows.push(f64::from(u8::from(chance.hit(p))) - 0.5));
                    sum += 10.0 * (p - 0.5);
                    let found = interval(&counted(&rows), -0.5, 0.5, alpha);
                    let mean = sum / rows.len() as f64;
                    mean < found.lower || mean > found.upper
                })
            })
            .count();
        // At a stated 10 % more than 42 of 300 has a chance below 1.5 %.
        assert!(missed <= 42, "{missed} of {runs} at a stated 10 %");
        let width = |n: f64| {
            let found = interval(&[Seen { value: 1.0, count: 0.8 * n }, Seen { value: 0.0, count: 0.2 * n }], 0.0, 1.0, 0.05);
            assert!((found.estimate - 0.8).abs() < 1e-9 && found.lower < 0.8 && found.upper > 0.8);
            found.upper - found.lower
        };
        assert!(width(100.0) < 0.27 && width(1_000.0) < 0.085 && width(10_000.0) < 0.03, "{} {} {}", width(100.0), width(1e3), width(1e4));
        let nothing = interval(&[], -1.0, 2.0, 0.05);
        assert_eq!((nothing.lower, nothing.upper), (-1.0, 2.0));
    }
}
