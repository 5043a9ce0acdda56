//! Two groups of devices, each device one number in [0, 1]: is the mean of one above that of the other by more than a margin?
//!
//! **Null**: mean of the first ≤ mean of the second + margin, whatever the two distributions are. **Guarantee**: the chance that
//! [`excess`] ever reaches ln(1/α) is at most α, looked at after every device, exact at any size, with no variance, shape or
//! baseline known.
//!
//! **Method**: betting (Waudby-Smith and Ramdas, "Estimating means of bounded random variables by betting", JRSS B 2024). Against
//! "the mean is at most m" one bets the share f of the wealth on each value: it is multiplied by 1 + f·(x/m − 1), whose
//! expectation is at most 1 while m is true. A mixture over fixed f needs no order of the devices and no tuning. For two groups
//! every possible mean θ of the second is tried: the first group's wealth against θ + margin, times the second's against "the
//! mean is at least θ". The true pair is refuted with chance α at most, so that *the least favourable* θ decides (the product is
//! a test martingale at the true θ, and the minimum is below it).
//!
//! **The device is the unit.** Its value is what it showed over its first trials, and never changes: a device that serves a
//! million inferences, all wrong together, is one value still. Values are kept as a histogram with the sum in each bin; ln is
//! concave, so the chord of a bin gives a wealth that is never too high.
//!
//! What stays true: nothing here is random; the same devices in any order give the same evidence.
use serde::{Deserialize, Serialize};

use super::log_mean;

/// Lower edges of the bins, finer near 0 where errors live; the last bin ends at 1.
const EDGES: [f64; 28] = [
    0.0, 0.0005, 0.001, 0.002, 0.004, 0.007, 0.01, 0.015, 0.02, 0.03, 0.04, 0.05, 0.07, 0.1, 0.14, 0.18, 0.23, 0.28, 0.34, 0.4, 0.46, 0.52,
    0.58, 0.64, 0.7, 0.78, 0.86, 0.94,
];
/// Shares of the wealth that are bet.
const BETS: [f64; 8] = [0.01, 0.03, 0.08, 0.17, 0.3, 0.5, 0.7, 0.9];
/// Cells in which the second group's unknown mean is tried; finer near 0 and 1, where bets are sharp.
const CELLS: usize = 160;
/// Halvings of an interval's bracket: to 1e-5, below any figure shown.
const HALVINGS: u32 = 17;

/// The values of one group of devices.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Values {
    /// Devices.
    pub devices: u64,
    /// Sum of their values.
    pub sum: f64,
    /// Devices and sum of values of each bin that holds any: (bin, devices, sum).
    bins: Vec<(u8, u64, f64)>,
}

impl Values {
    /// Take in a device's value.
    pub fn add(&mut self, value: f64) {
        let value = value.clamp(0.0, 1.0);
        let bin = EDGES.partition_point(|edge| *edge <= value).saturating_sub(1) as u8;
        self.devices += 1;
        self.sum += value;
        match self.bins.binary_search_by_key(&bin, |b| b.0) {
            Ok(i) => {
                if let Some((_, devices, sum)) = self.bins.get_mut(i) {
                    *devices += 1;
                    *sum += value;
                }
            }
            Err(i) => self.bins.insert(i, (bin, 1, value)),
        }
    }

    /// So many devices, of which `hits` have the value 1 and the others 0.
    pub fn counted(hits: u64, of: u64) -> Self {
        let (hits, last) = (hits.min(of), EDGES.len() as u8 - 1);
        let bins = [(0, of - hits, 0.0), (last, hits, hits as f64)];
        Self { devices: of, sum: hits as f64, bins: bins.into_iter().filter(|bin| bin.1 > 0).collect() }
    }

    /// The same without some of its devices.
    pub fn without(&self, some: &Self) -> Self {
        let taken = |bin: u8| some.bins.iter().find(|b| b.0 == bin).map_or((0, 0.0), |b| (b.1, b.2));
        let rest = |&(bin, devices, sum): &(u8, u64, f64)| {
            let (fewer, less) = taken(bin);
            (bin, devices.saturating_sub(fewer), (sum - less).max(0.0))
        };
        let bins: Vec<_> = self.bins.iter().map(rest).filter(|bin| bin.1 > 0).collect();
        Self { devices: bins.iter().map(|b| b.1).sum(), sum: bins.iter().map(|b| b.2).sum(), bins }
    }

    /// The mean, if there is a device.
    pub fn mean(&self) -> Option<f64> {
        (self.devices > 0).then(|| self.sum / self.devices as f64)
    }

    /// At most ln of the wealth after betting against "the mean is at most `m`".
    fn above(&self, m: f64) -> f64 {
        let m = m.max(1e-9);
        if m >= 1.0 {
            return 0.0;
        }
        log_mean(BETS.map(|bet| self.log_wealth(|x| (1.0 - bet + bet * x / m).ln())))
    }

    /// The same against "the mean is at least `m`".
    fn below(&self, m: f64) -> f64 {
        let rest = (1.0 - m).max(1e-9);
        if rest >= 1.0 {
            return 0.0;
        }
        log_mean(BETS.map(|bet| self.log_wealth(|x| (1.0 - bet + bet * (1.0 - x) / rest).ln())))
    }

    /// The sum of a concave function over all values, from below.
    fn log_wealth(&self, of: impl Fn(f64) -> f64) -> f64 {
        let bin = |&(bin, devices, sum): &(u8, u64, f64)| {
            let low = EDGES.get(usize::from(bin)).copied().unwrap_or(0.0);
            let high = EDGES.get(usize::from(bin) + 1).copied().unwrap_or(1.0);
            let n = devices as f64;
            let weight = ((sum / n - low) / (high - low)).clamp(0.0, 1.0);
            n * ((1.0 - weight) * of(low) + weight * of(high))
        };
        self.bins.iter().map(bin).sum()
    }

    /// The mean's confidence sequence at level 1 − `alpha`: every mean that neither bet refutes at half of it.
    pub fn interval(&self, alpha: f64) -> (f64, f64) {
        let Some(mean) = self.mean() else { return (0.0, 1.0) };
        let nats = (2.0 / alpha.clamp(1e-12, 1.0)).ln();
        let edge = |mut kept: f64, mut out: f64, refuted: &dyn Fn(f64) -> bool| {
            if !refuted(out) {
                return out;
            }
            for _ in 0..HALVINGS {
                let mid = 0.5 * (kept + out);
                if refuted(mid) { out = mid } else { kept = mid }
            }
            out
        };
        let mean = mean.clamp(0.0, 1.0);
        (edge(mean, 0.0, &|m| self.above(m) >= nats), edge(mean, 1.0, &|m| self.below(m) >= nats))
    }
}

/// ln of the evidence that the mean of `high` is above that of `low` by more than `margin`; exact from `enough` on, and below
/// that an upper bound, found faster. With a negative margin: that `high` is not below `low` by as much.
pub fn excess(high: &Values, low: &Values, margin: f64, enough: f64) -> f64 {
    let (Some(a), Some(b)) = (high.mean(), low.mean()) else { return 0.0 };
    // A mean of 0 to 1 on both sides.
    let (from, to) = ((-margin).max(0.0), (1.0 - margin).min(1.0));
    // Most looks end here: where the pooled mean is not refuted, the minimum is not either.
    let pooled = ((a - margin) * high.devices as f64 + b * low.devices as f64) / (high.devices + low.devices) as f64;
    let pooled = pooled.clamp(from, to);
    let there = high.above(pooled + margin) + low.below(pooled);
    if there < enough {
        return there;
    }
    // Both wealths are monotone in θ, so a cell's ends bound what lies between.
    let at = |cell: usize| {
        let turn = (std::f64::consts::FRAC_PI_2 * cell as f64 / CELLS as f64).sin();
        from + (to - from) * turn * turn
    };
    (0..CELLS).map(|cell| high.above(at(cell + 1) + margin) + low.below(at(cell))).fold(there, f64::min)
}

#[cfg(test)]
mod tests {
    use super::super::tests::Chance;
    use super::*;

    fn values(of: &[f64]) -> Values {
        of.iter().fold(Values::default(), |mut values, &x| {
            values.add(x);
            values
        })
    }

    #[test]
    fn wealth_has_mean_one_at_most_under_the_null_by_enumeration() {
        // Two canaries and two controls with values of 0, 0.3 or 1: every outcome, weighted, for several laws of equal mean.
        let points = [0.0, 0.3, 1.0];
        for law in [[0.9, 0.08, 0.02], [0.2, 0.3, 0.5], [0.5, 0.5, 0.0], [0.02, 0.0, 0.98]] {
            for margin in [0.0, 0.1] {
                let mut mean = 0.0;
                for outcome in 0..81usize {
                    let pick = |i: u32| outcome / 3usize.pow(i) % 3;
                    let weight: f64 = (0..4).map(|i| law[pick(i)]).product();
                    let (a, b) = (values(&[points[pick(0)], points[pick(1)]]), values(&[points[pick(2)], points[pick(3)]]));
                    mean += weight * excess(&a, &b, margin, -1e9).exp().min(1e12);
                }
                assert!(mean <= 1.0 + 1e-9, "{law:?} {margin}: {mean}");
            }
        }
    }

    #[test]
    fn correlated_inferences_cannot_fake_evidence_and_harm_is_found() {
        let mut chance = Chance::new(31);
        // Devices with offsets of their own; equal arms are refuted at most as often as stated, over all looks.
        let mut run = |harm: f64, canaries: usize| {
            let (mut a, mut b) = (Values::default(), Values::default());
            (1..=canaries).find(|_| {
                a.add((0.2 + harm + 0.1 * chance.normal()).clamp(0.0, 1.0));
                (0..4).for_each(|_| b.add((0.2 + 0.1 * chance.normal()).clamp(0.0, 1.0)));
                excess(&a, &b, 0.05, 20f64.ln()) >= 20f64.ln()
            })
        };
        let wrong = (0..100).filter(|_| run(0.05, 40).is_some()).count();
        assert!(wrong <= 5, "{wrong} of 100 at 5 %");
        let mut found: Vec<usize> = (0..30).filter_map(|_| run(0.3, 100)).collect();
        found.sort_unstable();
        assert!(found.len() == 30 && found[15] <= 25, "{found:?}");
    }

    #[test]
    fn the_chord_of_a_bin_never_says_too_much() {
        let fine = [0.71, 0.72, 0.75, 0.77, 0.2, 0.2];
        let exact: f64 = fine.iter().map(|x| (1.0 - 0.5 + 0.5 * x / 0.4f64).ln()).sum();
        let binned = values(&fine).log_wealth(|x| (1.0 - 0.5 + 0.5 * x / 0.4f64).ln());
        assert!(binned <= exact && exact - binned < 0.01, "{binned} {exact}");
        let (low, high) = values(&vec![0.2; 100]).interval(0.05);
        assert!(low > 0.12 && low < 0.2 && high > 0.2 && high < 0.3, "{low} {high}");
        assert_eq!(Values::default().interval(0.05), (0.0, 1.0));
        let json = serde_json::to_string(&values(&fine)).unwrap();
        assert_eq!(serde_json::from_str::<Values>(&json).unwrap(), values(&fine));
    }
}
