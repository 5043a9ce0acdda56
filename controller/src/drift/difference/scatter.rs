//! How far sound instruments scatter: a device around its own mean, and devices around what is predicted for them.
//!
//! Both are measured, because neither can be assumed. [`Scatter`]: in the base period a device's blocks differ from its cohort's by
//! some multiple φ of the binomial variance; that multiple tempers the evidence. [`Agreement`]: difference in differences is a
//! model, and the world breaks it when it bunches its values at a cut (rounded visibility, calm wind: an offset that was harmless moves a
//! tenth of the values across it) or changes its shape over the day. It then fails for the other devices too; so the root mean square
//! of what the *others* miss as a habit ([`Habit`]: noise averages out, what comes back every day does not), or beyond what φ explains
//! in this very block, gives the width within which a device is sound.
//!
//! What stays true: a device has no part in the width it is judged by, and a few broken ones cannot widen it much.
use leeway_protocol::profile::Special;
use serde::{Deserialize, Serialize};

use crate::drift::components::{Set, Shares};
use crate::drift::verdict::add;

/// Base blocks from which a device's scatter counts.
const MIN_SCATTER_BLOCKS: u32 = 4;

/// Moments of the difference of shares over base blocks.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Scatter {
    rows: f64,
    /// Σ n·d per set.
    sums: Vec<f64>,
    /// Σ n·d², over all sets.
    squares: f64,
    /// Σ n·p(1 − p), over all sets.
    binomial: f64,
    /// For special bins: Σ n·d² and Σ p(1 − p) around the share of the device and its cohort together, and how many values there were.
    #[serde(default)]
    special: (f64, f64, f64),
}

const SPECIAL_BINS: [Special; 5] = [Special::Null, Special::NotFinite, Special::Below, Special::Above, Special::Unseen];

impl Scatter {
    pub(super) fn add(&mut self, sets: &[Set], own: &Shares, rest: &Shares) {
        let rows = own.finite();
        let differences: Vec<f64> = sets.iter().map(|&s| own.share(s) - rest.share(s)).collect();
        add(&mut self.sums, &differences, rows);
        self.squares += rows * differences.iter().map(|d| d * d).sum::<f64>();
        self.binomial += rows * sets.iter().map(|&s| rest.share(s)).map(|p| p * (1.0 - p)).sum::<f64>();
        self.rows += rows;
        for set in SPECIAL_BINS.map(Set::Special) {
            let ((hits, all), (rest_hits, rest_all)) = (own.of(set), rest.of(set));
            let p = (hits + rest_hits) / (all + rest_all).max(1.0);
            self.special.0 += all * (own.share(set) - p).powi(2);
            self.special.1 += p * (1.0 - p);
            self.special.2 += hits;
        }
    }

    /// Variance of special bins as a multiple of the binomial one, for a device that had enough of them.
    pub(super) fn special_factor(&self, blocks: u32) -> Option<f64> {
        (blocks >= MIN_SCATTER_BLOCKS && self.special.2 >= MIN_SPECIALS).then(|| self.special.0 / self.special.1)
    }

    /// The square of the device's mean difference from its cohort beyond what noise explains, per set.
    pub(super) fn own_way(&self, blocks: u32) -> Option<Vec<f64>> {
        let factor = self.factor(blocks)?;
        let noise = factor * self.binomial / self.rows.powi(2) / self.sums.len().max(1) as f64;
        Some(self.sums.iter().map(|s| (s / self.rows).powi(2) - noise).collect())
    }

    /// Variance of a block's difference as a multiple of the binomial one.
    pub(super) fn factor(&self, blocks: u32) -> Option<f64> {
        if blocks < MIN_SCATTER_BLOCKS || self.binomial <= 0.0 || self.rows <= 0.0 {
            return None;
        }
        let around = self.squares - self.sums.iter().map(|s| s * s).sum::<f64>() / self.rows;
        Some(around.max(0.0) / f64::from(blocks - 1) / (self.binomial / self.rows))
    }
}

/// Special values a device must have seen.
const MIN_SPECIALS: f64 = 5.0;
/// Other devices needed before their misses say how far a prediction can be trusted.
const MIN_AGREE: usize = 8;
/// Blocks over which a device's misses are averaged: so many that noise averages out, and several seasons of a day.
const MEMORY: f64 = 240.0;
/// Blocks after which its average counts.
const MIN_BLOCKS: f64 = 4.0;
/// A device's miss counts as at most this much: a few broken devices must not make room for each other.
const MAX_MISS: f64 = 0.15;
/// The width in standard deviations of the others' misses, and how sure a miss of one block must be to count at once.
const WIDTH: f64 = 3.0;

/// A device's mean miss per set, over the last blocks.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Habit {
    weight: f64,
    sums: Vec<f64>,
}

impl Habit {
    /// Take a block's misses.
    pub(super) fn add(&mut self, miss: &Miss) {
        let keep = 1.0 - 1.0 / MEMORY;
        self.weight = self.weight * keep + 1.0;
        self.sums.iter_mut().for_each(|s| *s *= keep);
        add(&mut self.sums, &miss.signed, 1.0);
    }
}

/// By how much one device's block missed what was predicted, and what it does as a habit.
#[derive(Debug, Clone, Default)]
pub(super) struct Miss {
    signed: Vec<f64>,
    /// Per set: miss², what noise explains of it, and the square of the habit.
    squares: Vec<[f64; 3]>,
    /// How far the device was from its cohort in its base period, squared, over all sets.
    apart: f64,
}

impl Miss {
    /// The same device, which was so far from its cohort in its base period.
    pub(super) fn of(mut self, sets: &[Set], own: &Shares, rest: &Shares) -> Self {
        self.apart = sets.iter().map(|&s| (own.share(s) - rest.share(s)).powi(2)).sum();
        self
    }

    /// `spread` is φ, `base` the rows behind the prediction, `habit` the device's own up to now.
    pub(super) fn new(sets: &[Set], seen: &Shares, expected: &[f64], (spread, base): (f64, f64), habit: &Habit) -> Self {
        let rows = seen.finite();
        if rows <= 0.0 || habit.weight < MIN_BLOCKS {
            let signed = sets.iter().zip(expected).map(|(&s, p)| if rows > 0.0 { seen.share(s) - p } else { 0.0 });
            return Self { signed: signed.collect(), ..Self::default() };
        }
        let signed: Vec<f64> = sets.iter().zip(expected).map(|(&s, p)| seen.share(s) - p).collect();
        let one = |(i, (&p, miss)): (usize, (&f64, &f64))| {
            let noise = spread * p * (1.0 - p) * (1.0 / rows + 1.0 / base.max(1.0));
            let bound = (WIDTH * noise.sqrt()).max(MAX_MISS);
            let mean = habit.sums.get(i).map_or(0.0, |s| s / habit.weight);
            [miss.abs().min(bound).powi(2), noise, mean.abs().min(MAX_MISS).powi(2)]
        };
        let squares = expected.iter().zip(&signed).enumerate().map(one).collect();
        Self { signed, squares, apart: 0.0 }
    }
}

/// How well predictions hold for one feature in one block: all devices' misses, ready to leave one out.
#[derive(Debug, Clone, Default)]
pub(super) struct Agreement {
    devices: usize,
    sums: Vec<[f64; 3]>,
    apart: f64,
}

impl Agreement {
    /// Add a device that speaks for its cohort; one without habits has no say yet.
    pub(super) fn add(&mut self, miss: &Miss) {
        if miss.squares.is_empty() {
            return;
        }
        self.devices += 1;
        self.apart += miss.apart;
        self.sums.resize(self.sums.len().max(miss.squares.len()), [0.0; 3]);
        for (sum, one) in self.sums.iter_mut().zip(&miss.squares) {
            sum.iter_mut().zip(one).for_each(|(s, x)| *s += x);
        }
    }

    /// The widths per set for one device (which was added if it `speaks`): what the others miss as a habit, or beyond doubt in this block.
    pub(super) fn widths(&self, own: &Miss, speaks: bool) -> Option<Vec<f64>> {
        let counted = speaks && !own.squares.is_empty();
        let others = self.devices.saturating_sub(usize::from(counted));
        if others < MIN_AGREE {
            return None;
        }
        let k = others as f64;
        // What a prediction misses grows with the offset it has to carry: a device twice as far from its cohort may miss twice as much.
        let usual = (self.apart - if counted { own.apart } else { 0.0 }).max(0.0) / k;
        let times = if usual > 0.0 { (own.apart / usual).sqrt().max(1.0) } else { 1.0 };
        let width = |(i, sum): (usize, &[f64; 3])| {
            let one = own.squares.get(i).copied().filter(|_| counted).unwrap_or_default();
            let [square, noise, habit] = [0, 1, 2].map(|part: usize| (sum[part] - one[part]).max(0.0) / k);
            let now = square - noise - WIDTH * noise * (2.0 / k).sqrt();
            WIDTH * times * now.max(habit).sqrt()
        };
        Some(self.sums.iter().enumerate().map(width).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SETS: [Set; 1] = [Set::Below(1)];

    fn miss(share: f64, habit: &Habit) -> Miss {
        let masses = [0.0, 0.0, 0.0, 0.0, 0.0, share * 100.0, (1.0 - share) * 100.0];
        Miss::new(&SETS, &Shares::new(&masses), &[0.5], (1.0, 1e6), habit)
    }

    /// The width for the first of these devices after so many blocks; the shares alternate around a half if `noisy`.
    fn width(shares: &[f64], blocks: usize, noisy: bool) -> Option<f64> {
        let mut habits = vec![Habit::default(); shares.len()];
        let mut last = None;
        for block in 0..=blocks {
            let share = |s: f64| if noisy && block % 2 == 1 { 1.0 - s } else { s };
            let misses: Vec<Miss> = shares.iter().zip(&habits).map(|(&s, h)| miss(share(s), h)).collect();
            let mut agreement = Agreement::default();
            misses.iter().for_each(|m| agreement.add(m));
            last = agreement.widths(&misses[0], true).map(|w| w[0]);
            habits.iter_mut().zip(&misses).for_each(|(h, m)| h.add(m));
        }
        last
    }

    #[test]
    fn the_others_say_how_far_a_prediction_can_be_trusted() {
        assert_eq!(width(&[0.5; 8], 30, false), None, "seven others are too few");
        assert_eq!(width(&[0.5; 20], 2, false), None, "two blocks are too few");
        assert_eq!(width(&[0.5; 20], 30, false), Some(0.0));
        let scattered = |d: f64| (0..20).map(|i| if i % 2 == 0 { 0.5 + d } else { 0.5 - d }).collect::<Vec<_>>();
        // Noise of 100 rows is 0.05: to and fro by as much is noise, always to the same side is a habit, 0.2 is news at once.
        assert!(width(&scattered(0.05), 30, true).unwrap() < 0.02);
        assert!((width(&scattered(0.05), 30, false).unwrap() - 0.15).abs() < 0.01);
        assert!(width(&scattered(0.2), 30, true).unwrap() > 0.3);
        // A dead one among twenty makes little room for another.
        let mut dead = vec![0.5; 20];
        (dead[0], dead[1]) = (1.0, 1.0);
        assert!(width(&dead, 30, false).unwrap() < 0.15);
    }

    #[test]
    fn bursts_of_gaps_show_and_single_ones_do_not() {
        let factor = |gaps: &[f64]| {
            let mut scatter = Scatter::default();
            let rest = Shares::new(&[100.0, 0.0, 0.0, 0.0, 0.0, 950.0, 950.0]);
            for &n in gaps {
                scatter.add(&SETS, &Shares::new(&[n, 0.0, 0.0, 0.0, 0.0, 50.0 - n / 2.0, 50.0 - n / 2.0]), &rest);
            }
            scatter.special_factor(gaps.len() as u32)
        };
        assert!(factor(&[5.0, 4.0, 6.0, 7.0, 3.0]).unwrap() < 1.0);
        assert!(factor(&[0.0, 0.0, 25.0, 0.0, 0.0]).unwrap() > 10.0);
        assert_eq!(factor(&[0.0; 5]), None);
    }
}
