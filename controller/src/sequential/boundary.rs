//! Two groups of devices that fail or do not: is the first one worse? Looked at after every device, with the baseline unknown,
//! and with all of the stated error spent by the time the (finite!) fleet is through.
//!
//! **Null**: a canary device fails no more often than a control device, or by no more than a tolerance (an absolute difference).
//! **Guarantee**: the chance that [`Table::worse`] ever says otherwise, over all looks until the horizon, is at most `alpha`,
//! whatever the control devices' own failure share is.
//!
//! **Method.** Three steps, each chosen to waste nothing. (1) *Condition on the failures*: if both arms are alike, then given
//! that t of all devices failed, the number among the canaries is hypergeometric; the unknown baseline is gone, nothing need be
//! guessed or bet on, and a burst that hits both arms alike makes the test only safer (Fisher; Cox's argument, and that of the
//! safe two-by-two and log-rank tests of Turner, Ly and Grünwald 2021–24). (2) *Spend the error over the information*: a look
//! at share τ of the horizon's information n_a·n_b/(n_a + n_b) may reject at level κ·α·√τ of the mid-p value (Lan and DeMets
//! 1983; Wang and Tsiatis 1987; Jennison and Turnbull 2000, whose joint distribution of looks holds for any order in which the
//! arms fill). An e-process must hold for ever, a fleet ends: what Ville's inequality keeps for later looks that never come is
//! spent here. (3) *κ is computed, not believed*: for counts that grow without end the looks are a Brownian motion, for which
//! κ = 0.11 uses up 5 %; few failures are lumpy and reach the boundary less often, so κ may be larger, and [`kappa`] follows
//! the failures to be expected by the horizon. Enumerating every path exactly over the whole null (a failure share of 0.1 % to
//! 95 %; 20 to 2,000 canaries; 4, 1 or ¼ controls per canary, arriving together or there from the start; alpha 1 %, 5 % and
//! 10 %) never gave more than `alpha`; a small part of that table is the test below, and `bench_gate --certify` prints the rest.
//! The null with *fewer* failures among canaries than controls is safer still, as every outcome that moves a failure to the
//! control arm moves away from the boundary. A tolerance δ is granted by adding the δ·n_b failures that the control group would
//! show besides, if it were as bad as tolerated (towards one half; else by taking δ·n_a from the canaries'): right in the mean, and
//! steadier than the failures it stands for; enumerated too.
//!
//! What it needs of the world: who is a canary was drawn (not chosen), and one device is one trial.
//! What stays true: nothing here is random or remembers anything; the same counts give the same answer.
use super::ln_gamma;

/// What was seen of both arms.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Table {
    /// Canary devices with an outcome.
    pub canary: u64,
    /// Of these, failed.
    pub canary_failed: u64,
    /// Control devices with an outcome.
    pub control: u64,
    /// Of these, failed.
    pub control_failed: u64,
    /// How much more often a canary may fail, as an absolute difference of shares.
    pub tolerance: f64,
}

/// The most devices that either arm can come to have. A horizon that is too far away costs speed, never validity.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Horizon {
    /// Canaries.
    pub canary: u64,
    /// Controls.
    pub control: u64,
}

impl Horizon {
    /// For whoever does not know the fleet: a million devices on each side.
    pub const OPEN: Self = Self { canary: 1_000_000, control: 1_000_000 };
}

/// A look at the table.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Look {
    /// Mid-p value: how likely at least as many of the failures fall on the canaries by chance (ties counted half).
    pub chance: f64,
    /// The level it must reach now.
    pub level: f64,
}

impl Table {
    /// Look at it.
    pub fn look(&self, horizon: Horizon, alpha: f64) -> Look {
        Look { chance: self.mid_p(), level: self.level(horizon, alpha) }
    }

    /// Whether the canaries surely fail more often than the controls.
    pub fn worse(&self, horizon: Horizon, alpha: f64) -> bool {
        let Look { chance, level } = self.look(horizon, alpha);
        chance <= level
    }

    /// P(X > x) + ½·P(X = x) for the hypergeometric X; ½ while nothing has failed.
    pub fn mid_p(&self) -> f64 {
        let (n_a, n_b) = (self.canary as f64, self.control as f64);
        let (x, t) = self.evened();
        let choose = |n: f64, k: f64| ln_gamma(n + 1.0) - ln_gamma(k + 1.0) - ln_gamma(n - k + 1.0);
        let mut term = (choose(n_a, x) + choose(n_b, t - x) - choose(n_a + n_b, t)).exp();
        let (mut sum, mut k) = (0.5 * term, x);
        // Each term from the one before; behind the mode they fall faster than a geometric series.
        while k < t.min(n_a) {
            term *= (n_a - k) * (t - k) / ((k + 1.0) * (n_b - t + k + 1.0));
            k += 1.0;
            sum += term;
            if term < 1e-17 * sum && k * (n_a + n_b) > n_a * t {
                break;
            }
        }
        sum.clamp(0.0, 1.0)
    }

    /// The level at which this look may reject.
    pub fn level(&self, horizon: Horizon, alpha: f64) -> f64 {
        let information = |a: f64, b: f64| if a + b > 0.0 { a * b / (a + b) } else { 0.0 };
        let (n_a, n_b) = (self.canary as f64, self.control as f64);
        let (all_a, all_b) = (n_a.max(horizon.canary as f64), n_b.max(horizon.control as f64));
        let share = information(n_a, n_b) / information(all_a, all_b).max(f64::MIN_POSITIVE);
        let expected = self.evened().1 / (n_a + n_b).max(1.0) * (all_a + all_b);
        kappa(expected, alpha) * alpha * share.clamp(0.0, 1.0).sqrt()
    }

    /// Failed canaries, and failures of both arms, once the tolerance is granted.
    fn evened(&self) -> (f64, f64) {
        let (n_a, n_b, tolerance) = (self.canary as f64, self.control as f64, self.tolerance.clamp(0.0, 1.0));
        let (x_a, x_b) = (self.canary_failed.min(self.canary) as f64, self.control_failed.min(self.control) as f64);
        // Shares near one half scatter most: the arm further from it is moved to the other's, and is steadier than it is taken for.
        if 2.0 * x_b <= n_b * (1.0 - tolerance) {
            let x_b = (x_b + tolerance * n_b).min(n_b);
            (x_a, x_a + x_b)
        } else {
            let x_a = (x_a - tolerance * n_a).max(0.0);
            (x_a, x_a + x_b)
        }
    }

    /// Canary minus control with its repeated confidence interval (Jennison and Turnbull 1989): at every look, the differences
    /// that its level does not refute, from both arms' Wilson intervals (Newcombe 1998).
    pub fn difference(&self, horizon: Horizon, alpha: f64) -> (f64, f64, f64) {
        let z = normal_quantile(self.level(horizon, alpha).clamp(1e-12, 0.5));
        let (a, low_a, high_a) = wilson(self.canary_failed, self.canary, z);
        let (b, low_b, high_b) = wilson(self.control_failed, self.control, z);
        let difference = a - b;
        let lower = difference - ((a - low_a).powi(2) + (high_b - b).powi(2)).sqrt();
        let upper = difference + ((high_a - a).powi(2) + (b - low_b).powi(2)).sqrt();
        (difference, lower.max(-1.0), upper.min(1.0))
    }
}

/// The share of alpha that the last look may use, when `failures` are to be expected over both arms by the horizon.
fn kappa(failures: f64, alpha: f64) -> f64 {
    // Fitted from below to the exact enumeration; the floor is what a Brownian motion bears (0.1117 at 5 %).
    let lumpy = 0.24 * (50.0 / failures.max(1.0)).powf(0.18);
    // Smaller levels lie further out, where a path has more chances to cross per unit of information.
    lumpy.max(0.1) * (alpha.clamp(1e-9, 0.05) / 0.05).powf(0.21)
}

/// A share with its Wilson interval.
pub fn wilson(hits: u64, of: u64, z: f64) -> (f64, f64, f64) {
    if of == 0 {
        return (0.0, 0.0, 1.0);
    }
    let (n, p) = (of as f64, hits.min(of) as f64 / of as f64);
    let (z2, centre) = (z * z, p + z * z / (2.0 * n));
    let half = z * (p * (1.0 - p) / n + z2 / (4.0 * n * n)).sqrt();
    let scale = 1.0 + z2 / n;
    (p, ((centre - half) / scale).clamp(0.0, p), ((centre + half) / scale).clamp(p, 1.0))
}

/// P(Z > z) of a standard normal.
pub fn normal_tail(z: f64) -> f64 {
    let x = z.abs() / std::f64::consts::SQRT_2;
    let tail = if x < 3.0 {
        // The series of erf: fast and free of cancellation below 3.
        let (mut term, mut sum, mut n) = (x, x, 0.0);
        while term.abs() > 1e-17 * sum.abs() && n < 200.0 {
            n += 1.0;
            term *= -x * x / n;
            sum += term / (2.0 * n + 1.0);
        }
        0.5 - sum / std::f64::consts::PI.sqrt()
    } else {
        // The continued fraction of erfc.
        let fraction = (1..=60).rev().fold(0.0, |f, k| 0.5 * f64::from(k) / (x + f));
        0.5 * (-x * x).exp() / std::f64::consts::PI.sqrt() / (x + fraction)
    };
    if z < 0.0 { 1.0 - tail } else { tail }
}

/// The z with P(Z > z) = `tail`, for tails of 1e-15 to ½.
pub fn normal_quantile(tail: f64) -> f64 {
    let (mut low, mut high) = (0.0, 8.0);
    for _ in 0..60 {
        let mid = 0.5 * (low + high);
        if normal_tail(mid) > tail { low = mid } else { high = mid }
    }
    0.5 * (low + high)
}

/// How an exact enumeration lets the arms fill.
#[derive(Debug, Clone, Copy)]
pub enum Filling {
    /// So many controls get their outcome together with each canary.
    Together(u64),
    /// All controls have theirs before the first canary.
    Before(u64),
}

/// What the test does to a rollout of `canaries` devices, looked at after each: the chance that it was stopped after the n-th,
/// for each n. Exact up to paths that hold less than 1e-15 together: every table that can be reached is followed.
pub fn enumerate(canaries: u64, filling: Filling, shares: [f64; 2], tolerance: f64, alpha: f64) -> Vec<f64> {
    let (each, before) = match filling {
        Filling::Together(each) => (each, 0),
        Filling::Before(before) => (0, before),
    };
    let horizon = Horizon { canary: canaries, control: each * canaries + before };
    let binomial = |n: u64, p: f64| -> Vec<f64> {
        let choose = |k: f64| ln_gamma(n as f64 + 1.0) - ln_gamma(k + 1.0) - ln_gamma(n as f64 - k + 1.0);
        (0..=n).map(|k| (choose(k as f64) + k as f64 * p.ln() + (n - k) as f64 * (1.0 - p).ln()).exp()).collect()
    };
    let step = binomial(each, shares[1]);
    // alive[a][b]: the chance of a failed canaries and b failed controls, not stopped yet.
    let mut alive: Vec<Vec<f64>> = vec![binomial(before, shares[1])];
    let (mut stopped, mut total) = (Vec::new(), 0.0);
    for n in 1..=canaries {
        let width = alive.first().map_or(0, Vec::len) + each as usize;
        let mut next = vec![vec![0.0; width]; alive.len() + 1];
        for (a, row) in alive.iter().enumerate() {
            for (b, chance) in row.iter().enumerate().filter(|(_, chance)| **chance > 1e-20) {
                for (more, weight) in step.iter().enumerate() {
                    next[a][b + more] += chance * weight * (1.0 - shares[0]);
                    next[a + 1][b + more] += chance * weight * shares[0];
                }
            }
        }
        let control = each * n + before;
        for b in 0..width {
            // The boundary is monotone: from the first table that is stopped on, all are.
            let table = |a: usize| Table { canary: n, canary_failed: a as u64, control, control_failed: b as u64, tolerance };
            let first = next.iter().position(|row| row[b] > 0.0).unwrap_or(next.len());
            let last = next.iter().rposition(|row| row[b] > 1e-20).map_or(first, |a| a + 1);
            let stop = (first..last).find(|&a| table(a).worse(horizon, alpha)).unwrap_or(last);
            for row in next.iter_mut().skip(stop) {
                total += std::mem::take(&mut row[b]);
            }
        }
        while next.last().is_some_and(|row| row.iter().all(|chance| *chance < 1e-20)) {
            next.pop();
        }
        stopped.push(total);
        alive = next;
    }
    stopped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn normal_and_hypergeometric_match_known_values() {
        for (z, tail) in [(0.0, 0.5), (1.0, 0.158_655_253_931_457), (1.96, 0.024_997_895_148_220), (5.0, 2.866_515_718_791_9e-7)] {
            assert!((normal_tail(z) - tail).abs() < 1e-9 * tail + 1e-15, "{z}");
            assert!((normal_quantile(tail) - z).abs() < 1e-6, "{z}");
        }
        assert!((normal_tail(-1.0) - 0.841_344_746_068_543).abs() < 1e-9);
        // All three failures among 5 of 20: 5·4·3 / (20·19·18), counted half.
        let table = Table { canary: 5, canary_failed: 3, control: 15, ..Table::default() };
        assert!((table.mid_p() - 0.5 * 60.0 / 6840.0).abs() < 1e-12);
        let table = Table { canary: 5, canary_failed: 2, control: 15, control_failed: 1, ..Table::default() };
        assert!((table.mid_p() - (60.0 / 6840.0 + 0.5 * 900.0 / 6840.0)).abs() < 1e-12);
        assert!((Table { canary: 5, control: 20, ..Table::default() }.mid_p() - 0.5).abs() < 1e-12);
        assert!((wilson(1, 10, 1.96).1 - 0.017_876).abs() < 1e-4);
    }

    #[test]
    fn the_error_is_at_most_alpha_over_the_whole_null() {
        let designs = [(60, Filling::Together(4)), (60, Filling::Together(1)), (48, Filling::Before(12)), (40, Filling::Before(160))];
        for (canaries, filling) in designs {
            for alpha in [0.05, 0.01] {
                let worst = [0.005, 0.02, 0.1, 0.3, 0.6, 0.9]
                    .map(|p| enumerate(canaries, filling, [p, p], 0.0, alpha).last().copied().unwrap())
                    .into_iter()
                    .fold(0.0, f64::max);
                assert!(worst <= alpha, "{canaries} {filling:?}: {worst} at {alpha}");
                assert!(worst > 0.3 * alpha, "{canaries} {filling:?}: {worst} at {alpha} leaves too much unspent");
            }
        }
        for (p, tolerance) in [(0.005, 0.01), (0.02, 0.05), (0.1, 0.05), (0.4, 0.1), (0.75, 0.2)] {
            for (canaries, filling) in designs {
                let worst = enumerate(canaries, filling, [p + tolerance, p], tolerance, 0.05).last().copied().unwrap();
                assert!(worst <= 0.05, "{canaries} {filling:?}: {worst} with a tolerance of {tolerance} above {p}");
            }
        }
        // Fewer failures among the canaries: safer.
        let better = enumerate(60, Filling::Together(4), [0.1, 0.2], 0.0, 0.05);
        assert!(better.last().unwrap() < &0.01);
    }

    #[test]
    fn the_boundary_is_monotone_and_the_horizon_only_costs_speed() {
        let near = Horizon { canary: 100, control: 400 };
        for failed in 0..20 {
            let table = Table { canary: 50, canary_failed: failed, control: 200, control_failed: 6, ..Table::default() };
            let more = Table { canary_failed: failed + 1, ..table };
            let moved = Table { control_failed: 7, ..table };
            assert!(!table.worse(near, 0.05) || more.worse(near, 0.05), "{failed}");
            assert!(!moved.worse(near, 0.05) || table.worse(near, 0.05), "{failed}");
            assert!(!table.worse(Horizon::OPEN, 0.05) || table.worse(near, 0.05), "{failed}");
        }
        let (difference, lower, upper) =
            Table { canary: 50, canary_failed: 20, control: 200, control_failed: 4, ..Table::default() }.difference(near, 0.05);
        assert!((difference - 0.38).abs() < 1e-12 && lower > 0.1 && upper < 0.7, "{lower} {upper}");
    }
}
