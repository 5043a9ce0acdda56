//! How far sound instruments scatter: a device around its own mean, and devices around what is predicted for them.
//!
//! Both are measured, because neither can be assumed. [`Scatter`]: in the base period a device's blocks differ from its cohort's by
//! some multiple φ of the binomial variance; that multiple tempers the evidence. [`Agreement`]: difference in differences is a
//! model, and the world breaks it when it bunches its values at a cut (rounded visibility, calm wind: an offset that was harmless moves a
//! tenth of the values across it) or changes its shape. It then fails for the other devices too; so the mean square by which the
//! *others* miss their prediction, beyond what φ explains, is the width within which a device is sound.
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
/// Blocks of memory: short enough to follow the world, long enough that noise does not pass for misses.
const MEMORY: f64 = 24.0;
/// Blocks needed.
const MIN_BLOCKS: f64 = 4.0;
/// A single miss counts as at most this much: a few broken devices must not make room for each other.
const MAX_MISS: f64 = 0.15;
/// The width in standard deviations of the others' misses, and how sure a miss of one block must be to count at once.
const WIDTH: f64 = 3.0;

/// How well predictions hold for one feature, over the last blocks.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Agreement {
    /// Weight of the blocks remembered.
    weight: f64,
    /// Mean square misses beyond noise, per set, times weight.
    squares: Vec<f64>,
}

/// What one device's block adds to it.
#[derive(Debug, Clone, Default)]
pub(super) struct Miss {
    /// (miss², what noise explains of it), per set.
    squares: Vec<(f64, f64)>,
}

impl Miss {
    /// By how much a device's shares miss what was predicted; `spread` is φ, `base` the rows behind the prediction.
    pub(super) fn new(sets: &[Set], seen: &Shares, expected: &[f64], spread: f64, base: f64) -> Self {
        let rows = seen.finite();
        if rows <= 0.0 {
            return Self::default();
        }
        let one = |(&set, &p): (&Set, &f64)| {
            let noise = spread * p * (1.0 - p) * (1.0 / rows + 1.0 / base.max(1.0));
            let bound = (WIDTH * noise.sqrt()).max(MAX_MISS);
            ((seen.share(set) - p).abs().min(bound).powi(2), noise)
        };
        Self { squares: sets.iter().zip(expected).map(one).collect() }
    }
}

/// All misses of one block, ready to leave one device out.
#[derive(Debug, Clone, Default)]
pub(super) struct Misses {
    devices: usize,
    sums: Vec<(f64, f64)>,
}

impl Misses {
    pub(super) fn add(&mut self, miss: &Miss) {
        if miss.squares.is_empty() {
            return;
        }
        self.devices += 1;
        self.sums.resize(self.sums.len().max(miss.squares.len()), (0.0, 0.0));
        self.sums.iter_mut().zip(&miss.squares).for_each(|(s, m)| (s.0, s.1) = (s.0 + m.0, s.1 + m.1));
    }
}

impl Agreement {
    /// The widths per set for one device: from the blocks before, and from the others in this block where they miss beyond doubt.
    pub(super) fn widths(&self, block: &Misses, own: &Miss) -> Option<Vec<f64>> {
        let others = block.devices.saturating_sub(usize::from(!own.squares.is_empty()));
        if others < MIN_AGREE || self.weight < MIN_BLOCKS {
            return None;
        }
        let k = others as f64;
        let width = |(i, sum): (usize, &(f64, f64))| {
            let (square, noise) = own.squares.get(i).map_or(*sum, |m| (sum.0 - m.0, sum.1 - m.1));
            let now = (square - noise) / k - WIDTH * noise / k * (2.0 / k).sqrt();
            let before = self.squares.get(i).copied().unwrap_or(0.0) / self.weight;
            WIDTH * now.max(before).max(0.0).sqrt()
        };
        Some(block.sums.iter().enumerate().map(width).collect())
    }

    /// Remember a block.
    pub(super) fn remember(&mut self, block: &Misses) {
        if block.devices < MIN_AGREE {
            return;
        }
        let keep = 1.0 - 1.0 / MEMORY;
        self.weight = self.weight * keep + 1.0;
        self.squares.resize(self.squares.len().max(block.sums.len()), 0.0);
        let k = block.devices as f64;
        self.squares.iter_mut().for_each(|s| *s *= keep);
        self.squares.iter_mut().zip(&block.sums).for_each(|(s, m)| *s += (m.0 - m.1) / k);
    }
}
