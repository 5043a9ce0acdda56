//! The counting core: one cell per feature of the reference, all counts in one flat array.
//!
//! A float feature is cut with float edges chosen so that `x >= edge` gives the same answer as the manifest's double edge
//! (the smallest float not below it), padded to whole vectors with infinity: no branch per edge, one load per vector. All
//! other values go through [`Cuts::bin`], which is the definition; the test below holds both to it.
//!
//! Autocorrelation costs one more counter: how often a bin followed itself. That gives the exact lag-1 autocorrelation of
//! every bin's indicator when the window closes, which is what tempers the evidence; no running moments of values are kept.
use leeway_protocol::manifest::Manifest;
use leeway_protocol::profile::{Counts, Cuts, FeatureReference, SPECIALS, Source, Special, Stat};

use crate::recorder::row::{Elements, Row};

/// Floats compared at once; edges are padded to a multiple of it.
const LANES: usize = 8;

/// Observations after which the autocorrelation's history is halved: precise enough, and it follows a changing world.
const HISTORY: u64 = 8_192;

/// A bin takes part in the autocorrelation if it was entered and left about this often; below, its estimate is noise.
const MIN_VARIANCE: f64 = 5.0;

/// Where a feature's value is found in a row.
#[derive(Debug, Clone, Copy)]
enum Place {
    Input(usize, usize),
    Output(usize, usize),
    /// Index into the summaries, and which figure of it.
    Summary(usize, Stat),
    Confidence,
}

#[derive(Debug, Clone)]
struct Cell {
    place: Place,
    /// First of the feature's bins in the flat arrays.
    base: usize,
    /// Padded float edges as a range of `Cells::edges`; empty for categories.
    edges: std::ops::Range<usize>,
    /// Number of real edges.
    count: usize,
    /// The largest float not above the last edge.
    high: f32,
    cuts: Cuts,
}

/// One channel of a large input, summarised at most once per row.
#[derive(Debug, Clone, Copy)]
struct Channel {
    tensor: usize,
    channel: usize,
    channels: usize,
    /// Elements of the channel that lie together.
    run: usize,
}

#[derive(Debug, Clone, Copy, Default)]
struct Summary {
    mean: f64,
    std: f64,
    min: f64,
    max: f64,
}

/// Bins of all features and what was counted into them.
#[derive(Debug)]
pub(crate) struct Cells {
    cells: Vec<Cell>,
    edges: Vec<f32>,
    channels: Vec<Channel>,
    summaries: Vec<Option<Summary>>,
    counts: Vec<u32>,
    /// How often a bin followed itself in this window.
    stays: Vec<u32>,
    /// The flat index counted last, per feature.
    last: Vec<usize>,
    /// Counts and stays of earlier windows, per flat index, for the autocorrelation.
    past: Vec<(u64, u64)>,
}

impl Cells {
    pub(crate) fn new(manifest: &Manifest) -> Self {
        let features = &manifest.reference.features;
        let bins: usize = features.iter().map(FeatureReference::bins).sum();
        let mut all = Self {
            cells: Vec::with_capacity(features.len()),
            edges: Vec::new(),
            channels: Vec::new(),
            summaries: Vec::new(),
            counts: vec![0; bins],
            stays: vec![0; bins],
            last: vec![usize::MAX; features.len()],
            past: vec![(0, 0); bins],
        };
        let mut base = 0;
        for feature in features {
            let cell = all.cell(manifest, feature, base);
            base += feature.bins();
            all.cells.push(cell);
        }
        all.summaries = vec![None; all.channels.len()];
        all
    }

    fn cell(&mut self, manifest: &Manifest, feature: &FeatureReference, base: usize) -> Cell {
        let place = match feature.source {
            Source::Input { tensor, index } => Place::Input(tensor, index),
            Source::Output { tensor, index } => Place::Output(tensor, index),
            Source::Confidence => Place::Confidence,
            Source::Channel { tensor, channel, stat } => Place::Summary(self.channel(manifest, tensor, channel), stat),
        };
        let start = self.edges.len();
        let mut high = f32::INFINITY;
        let mut count = 0;
        if let Cuts::Numeric { edges } = &feature.cuts {
            count = edges.len();
            self.edges.extend(edges.iter().map(|&edge| at_or_above(edge)));
            self.edges.resize(start + count.next_multiple_of(LANES), f32::INFINITY);
            high = edges.last().map_or(high, |&edge| at_or_below(edge));
        }
        Cell { place, base, edges: start..self.edges.len(), count, high, cuts: feature.cuts.clone() }
    }

    /// The index of a channel's summary. Channels lie on axis 1; a tensor of fewer than three axes is one channel.
    fn channel(&mut self, manifest: &Manifest, tensor: usize, channel: usize) -> usize {
        if let Some(at) = self.channels.iter().position(|c| c.tensor == tensor && c.channel == channel) {
            return at;
        }
        let shape = manifest.inputs.get(tensor).map_or(&[][..], |spec| &spec.shape);
        let size = |axes: &[u64]| axes.iter().product::<u64>() as usize;
        let (channels, run) = match shape {
            [_, channels, rest @ ..] if !rest.is_empty() => (*channels as usize, size(rest)),
            all => (1, size(all)),
        };
        self.channels.push(Channel { tensor, channel, channels, run });
        self.channels.len() - 1
    }

    /// Count one row.
    #[inline]
    pub(crate) fn fold(&mut self, row: &Row<'_>, confidence: Option<f64>) {
        for (summary, channel) in self.summaries.iter_mut().zip(&self.channels) {
            *summary = row.inputs.get(channel.tensor).and_then(|elements| channel.summarise(elements));
        }
        for (cell, last) in self.cells.iter().zip(&mut self.last) {
            let at = cell.base + cell.bin(&self.edges, &self.summaries, row, confidence);
            if let (Some(count), Some(stays)) = (self.counts.get_mut(at), self.stays.get_mut(at)) {
                *count = count.wrapping_add(1);
                *stays = stays.wrapping_add(u32::from(*last == at));
            }
            *last = at;
        }
    }

    /// The window's counts and autocorrelations in the reference's order; everything is zero afterwards.
    pub(crate) fn take(&mut self) -> (Vec<Counts>, Vec<u8>) {
        for ((past, count), stay) in self.past.iter_mut().zip(&self.counts).zip(&self.stays) {
            past.0 += u64::from(*count);
            past.1 += u64::from(*stay);
        }
        let mut features = Vec::with_capacity(self.cells.len());
        let mut rho = Vec::with_capacity(self.cells.len());
        for cell in &self.cells {
            let bins = cell.base..cell.base + SPECIALS + cell.cuts.bins();
            features.push(Counts(self.counts.get(bins.clone()).unwrap_or(&[]).to_vec()));
            rho.push(self.past.get_mut(bins).map_or(0, rho_percent));
        }
        self.counts.fill(0);
        self.stays.fill(0);
        (features, rho)
    }
}

impl Cell {
    #[inline]
    fn bin(&self, edges: &[f32], summaries: &[Option<Summary>], row: &Row<'_>, confidence: Option<f64>) -> usize {
        let value = match self.place {
            Place::Input(tensor, index) => {
                if !row.nulls.is_empty() && row.nulls.contains(&(tensor, index)) {
                    return Special::Null as usize;
                }
                if let Some(Elements::F32(values)) = row.inputs.get(tensor)
                    && let Some(&x) = values.get(index)
                    && self.count > 0
                {
                    return self.float_bin(edges, x);
                }
                row.inputs.get(tensor).and_then(|e| e.at(index))
            }
            Place::Output(tensor, index) => {
                if let Some(Elements::F32(values)) = row.outputs.get(tensor)
                    && let Some(&x) = values.get(index)
                    && self.count > 0
                {
                    return self.float_bin(edges, x);
                }
                row.outputs.get(tensor).and_then(|e| e.at(index))
            }
            Place::Summary(at, stat) => summaries.get(at).copied().flatten().map(|s| s.figure(stat)),
            Place::Confidence => confidence,
        };
        self.cuts.bin(value)
    }

    /// The same answer as [`Cuts::bin`] for a float and numeric cuts.
    #[inline]
    fn float_bin(&self, edges: &[f32], x: f32) -> usize {
        let edges = edges.get(self.edges.clone()).unwrap_or(&[]);
        let mut lanes = [0u32; LANES];
        for part in edges.as_chunks::<LANES>().0 {
            for (lane, &edge) in lanes.iter_mut().zip(part) {
                *lane += u32::from(x >= edge);
            }
        }
        // Infinite padding is counted for an infinite x only, which is not a regular value anyway.
        let at_or_below = lanes.iter().sum::<u32>() as usize;
        if at_or_below == 0 {
            return if x.is_finite() { Special::Below as usize } else { Special::NotFinite as usize };
        }
        if x > self.high {
            return if x.is_finite() { Special::Above as usize } else { Special::NotFinite as usize };
        }
        SPECIALS + (at_or_below - 1).min(self.count.saturating_sub(2))
    }
}

impl Channel {
    fn summarise(&self, elements: &Elements<'_>) -> Option<Summary> {
        let stride = self.channels.checked_mul(self.run).filter(|&n| n > 0)?;
        let rows = elements.len() / stride;
        let mut sums = Sums::default();
        for batch in 0..rows {
            let start = batch * stride + self.channel * self.run;
            match elements {
                Elements::F32(v) => sums.floats(v.get(start..start + self.run)?),
                other => (start..start + self.run).filter_map(|i| other.at(i)).for_each(|x| sums.add(x)),
            }
        }
        sums.summary()
    }
}

struct Sums {
    n: f64,
    sum: f64,
    squares: f64,
    min: f64,
    max: f64,
}

impl Default for Sums {
    fn default() -> Self {
        Self { n: 0.0, sum: 0.0, squares: 0.0, min: f64::INFINITY, max: f64::NEG_INFINITY }
    }
}

impl Sums {
    #[inline]
    fn add(&mut self, x: f64) {
        self.n += 1.0;
        self.sum += x;
        self.squares += x * x;
        self.min = self.min.min(x);
        self.max = self.max.max(x);
    }

    /// Lane-wise in floats over short runs, so that it vectorises and stays exact enough; joined in doubles.
    fn floats(&mut self, values: &[f32]) {
        for part in values.chunks(256) {
            let (whole, rest) = part.as_chunks::<LANES>();
            let (mut sum, mut squares) = ([0f32; LANES], [0f32; LANES]);
            let (mut min, mut max) = ([f32::INFINITY; LANES], [f32::NEG_INFINITY; LANES]);
            for lanes in whole {
                for i in 0..LANES {
                    let x = lanes[i];
                    sum[i] += x;
                    squares[i] += x * x;
                    min[i] = if x < min[i] { x } else { min[i] };
                    max[i] = if x > max[i] { x } else { max[i] };
                }
            }
            self.n += (whole.len() * LANES) as f64;
            self.sum += sum.iter().map(|&x| f64::from(x)).sum::<f64>();
            self.squares += squares.iter().map(|&x| f64::from(x)).sum::<f64>();
            self.min = min.iter().fold(self.min, |m, &x| m.min(f64::from(x)));
            self.max = max.iter().fold(self.max, |m, &x| m.max(f64::from(x)));
            rest.iter().for_each(|&x| self.add(f64::from(x)));
        }
    }

    fn summary(&self) -> Option<Summary> {
        if self.n == 0.0 {
            return None;
        }
        let mean = self.sum / self.n;
        let std = (self.squares / self.n - mean * mean).max(0.0).sqrt();
        // One NaN makes the sums NaN, while minimum and maximum would pass over it; a channel that holds one is not a number.
        let broken = |x: f64| if self.sum.is_finite() { x } else { f64::NAN };
        Some(Summary { mean, std: broken(std), min: broken(self.min), max: broken(self.max) })
    }
}

impl Summary {
    fn figure(&self, stat: Stat) -> f64 {
        match stat {
            Stat::Mean => self.mean,
            Stat::Std => self.std,
            Stat::Min => self.min,
            Stat::Max => self.max,
        }
    }
}

/// The largest lag-1 autocorrelation among the bins' indicators, in percent, at least 0; halves the history when it is long.
fn rho_percent(bins: &mut [(u64, u64)]) -> u8 {
    let total: u64 = bins.iter().map(|b| b.0).sum();
    if total < 2 {
        return 0;
    }
    let n = total as f64;
    let of = |&(count, stays): &(u64, u64)| {
        let p = count as f64 / n;
        let variance = p * (1.0 - p);
        if variance * n < MIN_VARIANCE { 0.0 } else { (stays as f64 / (n - 1.0) - p * p) / variance }
    };
    let rho = bins.iter().map(of).fold(0.0, f64::max).min(0.99);
    if total > HISTORY {
        for (count, stays) in bins {
            *count /= 2;
            *stays /= 2;
        }
    }
    (rho * 100.0).round() as u8
}

/// The smallest float that is not below `edge`: for any float x, x >= it exactly when x >= edge.
fn at_or_above(edge: f64) -> f32 {
    let near = edge as f32;
    if f64::from(near) < edge { near.next_up() } else { near }
}

/// The largest float that is not above `edge`.
fn at_or_below(edge: f64) -> f32 {
    let near = edge as f32;
    if f64::from(near) > edge { near.next_down() } else { near }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recorder::tests::manifest_with;

    #[test]
    fn float_bins_are_the_defined_bins() {
        let edges = [-1.5, 0.1, 0.2, 0.3, 1.0 / 3.0, 0.7, 1.0, 16_777_217.0, 1e30, 3.5e38];
        for take in 2..=edges.len() {
            let cuts = Cuts::Numeric { edges: edges[..take].to_vec() };
            let manifest = manifest_with(vec![(Source::Input { tensor: 0, index: 0 }, cuts.clone())]);
            let cells = Cells::new(&manifest);
            let mut values = vec![f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 0.0, -0.0, f32::MAX, f32::MIN];
            for edge in edges {
                let near = edge as f32;
                values.extend([near, near.next_up(), near.next_down()]);
            }
            for x in values {
                assert_eq!(cells.cells[0].float_bin(&cells.edges, x), cuts.bin(Some(f64::from(x))), "{x} of {take} edges");
            }
        }
    }

    #[test]
    fn channels_are_summarised_and_broken_ones_are_not_numbers() {
        let channel = Channel { tensor: 0, channel: 1, channels: 2, run: 300 };
        let mut pixels: Vec<f32> = (0..600).map(|i| if i < 300 { 9.0 } else { (i % 3) as f32 }).collect();
        let s = channel.summarise(&Elements::F32(&pixels)).unwrap();
        assert!((s.mean - 1.0).abs() < 1e-6 && (s.std - (2.0f64 / 3.0).sqrt()).abs() < 1e-6, "{s:?}");
        assert_eq!((s.min, s.max), (0.0, 2.0));
        let bytes: Vec<u8> = pixels.iter().map(|&x| x as u8).collect();
        let b = channel.summarise(&Elements::U8(&bytes)).unwrap();
        assert!((b.std - s.std).abs() < 1e-6);
        pixels[400] = f32::NAN;
        assert!(channel.summarise(&Elements::F32(&pixels)).unwrap().max.is_nan());
        assert!(channel.summarise(&Elements::F32(&pixels[..10])).is_none());
    }

    #[test]
    fn autocorrelation_is_that_of_the_bins() {
        let cuts = Cuts::Numeric { edges: vec![0.0, 1.0, 2.0] };
        let manifest = manifest_with(vec![(Source::Input { tensor: 0, index: 0 }, cuts)]);
        let rho = |value: &dyn Fn(u32) -> f32| {
            let mut cells = Cells::new(&manifest);
            for i in 0..1000 {
                let x = [value(i)];
                cells.fold(&Row { inputs: &[Elements::F32(&x)], outputs: &[], nulls: &[] }, None);
            }
            cells.take().1[0]
        };
        let alternating = rho(&|i| (i % 2) as f32);
        let blocks = rho(&|i| (i / 50 % 2) as f32);
        let hashed = rho(&|i| (i.wrapping_mul(2_654_435_761) >> 16 & 1) as f32);
        let constant = rho(&|_| 0.5);
        assert_eq!((alternating, constant), (0, 0));
        assert!((95..=97).contains(&blocks), "{blocks}");
        assert!(hashed < 15, "{hashed}");
    }
}
