//! The counting core: all bins of all features in one flat array.
//!
//! Nearly every feature is a float element with some ten edges. Such a feature is a [`Fast`] cell: its edges are floats chosen
//! so that `x >= edge` gives the same answer as the manifest's double edge (the smallest float not below it), padded to
//! sixteen with infinity, and found by four comparisons without a loop. Everything else, and every row with nulls, goes
//! through [`Cuts::bin`], which is the definition; the test below holds both to it.
//!
//! Autocorrelation costs one more counter: how often a bin followed itself. That gives the exact lag-1 autocorrelation of
//! every bin's indicator when the window closes, which is what tempers the evidence; no running moments of values are kept.
use leeway_protocol::manifest::Manifest;
use leeway_protocol::profile::{Counts, Cuts, FeatureReference, SPECIALS, Source, Special};
use leeway_protocol::tensor::DType;

use crate::recorder::channels::Channels;
use crate::recorder::derived::Derived;
use crate::recorder::row::{Elements, Row};

/// Edges a fast cell has room for; one place must stay infinite for the search to end in.
const ROOM: usize = 16;

/// Observations after which the autocorrelation's history is halved: precise enough, and it follows a changing world.
const HISTORY: u64 = 8_192;

/// A bin takes part in the autocorrelation if it was entered and left about this often; below, its estimate is noise.
const MIN_VARIANCE: f64 = 5.0;

/// A bin with less of the reference than this is rare.
const RARE: f64 = 0.01;

/// A bin's counter.
#[derive(Debug, Clone, Copy, Default)]
struct Tally {
    count: u32,
    /// How often it followed itself.
    stays: u32,
}

/// A float element with few edges.
#[derive(Debug, Clone)]
struct Fast {
    edges: [f32; ROOM],
    /// Which element of the group's tensor.
    index: usize,
    /// First of the feature's bins.
    base: usize,
    /// The last regular bin.
    top: usize,
    /// The largest float not above the last edge.
    high: f32,
    /// The bin counted last.
    last: usize,
}

/// Fast cells of one tensor.
#[derive(Debug, Clone)]
struct Group {
    is_output: bool,
    tensor: usize,
    cells: Vec<Fast>,
}

/// Any other feature.
#[derive(Debug, Clone)]
struct Slow {
    place: Place,
    cuts: Cuts,
    base: usize,
    last: usize,
}

/// Where a slow feature's value is found in a row.
#[derive(Debug, Clone, Copy)]
enum Place {
    Input(usize, usize),
    Output(usize, usize),
    /// Which figure of the channels' summaries.
    Summary(usize),
    /// Which derived statistic.
    Derived(usize),
    Confidence,
}

/// Bins of all features and what was counted into them.
#[derive(Debug)]
pub(crate) struct Cells {
    groups: Vec<Group>,
    slow: Vec<Slow>,
    channels: Channels,
    derived: Derived,
    tallies: Vec<Tally>,
    /// Each feature's bins, in the reference's order.
    features: Vec<std::ops::Range<usize>>,
    /// Bins that hold next to nothing of the reference.
    rare: Vec<bool>,
    /// Counts and stays of earlier windows, per bin, for the autocorrelation.
    past: Vec<(u64, u64)>,
}

impl Cells {
    pub(crate) fn new(manifest: &Manifest) -> Self {
        let features = &manifest.reference.features;
        let bins: usize = features.iter().map(FeatureReference::bins).sum();
        let mut all = Self {
            groups: Vec::new(),
            slow: Vec::new(),
            channels: Channels::default(),
            derived: Derived::default(),
            tallies: vec![Tally::default(); bins],
            features: Vec::with_capacity(features.len()),
            rare: features.iter().flat_map(|f| f.masses.iter().map(|mass| *mass < RARE)).collect(),
            past: vec![(0, 0); bins],
        };
        let mut base = 0;
        for feature in features {
            all.add(manifest, feature, base);
            all.features.push(base..base + feature.bins());
            base += feature.bins();
        }
        all
    }

    fn add(&mut self, manifest: &Manifest, feature: &FeatureReference, base: usize) {
        let slow = |place| Slow { place, cuts: feature.cuts.clone(), base, last: usize::MAX };
        let (is_output, tensor, index) = match &feature.source {
            Source::Input { tensor, index } => (false, *tensor, *index),
            Source::Output { tensor, index } => (true, *tensor, *index),
            Source::Channel { tensor, channel, stat } => {
                let place = Place::Summary(self.channels.add(manifest, *tensor, *channel, *stat));
                return self.slow.push(slow(place));
            }
            Source::Derived { of, view, figure } => {
                let place = Place::Derived(self.derived.add(*of, view, *figure));
                return self.slow.push(slow(place));
            }
            Source::Confidence => return self.slow.push(slow(Place::Confidence)),
        };
        let specs = if is_output { &manifest.outputs } else { &manifest.inputs };
        let is_float = specs.get(tensor).is_some_and(|spec| spec.dtype == DType::F32);
        match Fast::new(&feature.cuts, index, base).filter(|_| is_float) {
            Some(fast) => match self.groups.iter_mut().find(|g| g.is_output == is_output && g.tensor == tensor) {
                Some(group) => group.cells.push(fast),
                None => self.groups.push(Group { is_output, tensor, cells: vec![fast] }),
            },
            None => {
                let place = if is_output { Place::Output(tensor, index) } else { Place::Input(tensor, index) };
                self.slow.push(slow(place));
            }
        }
    }

    /// Count one row.
    #[inline]
    pub(crate) fn fold(&mut self, row: &Row<'_>, confidence: Option<f64>) {
        for group in &mut self.groups {
            let tensors = if group.is_output { row.outputs } else { row.inputs };
            match tensors.get(group.tensor) {
                Some(Elements::F32(values)) if group.is_output || row.nulls.is_empty() => {
                    for cell in &mut group.cells {
                        let bin = values.get(cell.index).map_or(Special::Null as usize, |&x| cell.bin(x));
                        count(&mut self.tallies, &mut cell.last, cell.base + bin);
                    }
                }
                other => {
                    for cell in &mut group.cells {
                        let is_null = !group.is_output && row.nulls.contains(&(group.tensor, cell.index));
                        let value = other.filter(|_| !is_null).and_then(|e| e.at(cell.index));
                        let bin = value.map_or(Special::Null as usize, |x| cell.bin(x as f32));
                        count(&mut self.tallies, &mut cell.last, cell.base + bin);
                    }
                }
            }
        }
        if self.slow.is_empty() {
            return;
        }
        self.channels.summarise(row);
        self.derived.measure(row);
        let mut slow = std::mem::take(&mut self.slow);
        for cell in &mut slow {
            let bin = cell.cuts.bin(self.value(cell.place, row, confidence));
            count(&mut self.tallies, &mut cell.last, cell.base + bin);
        }
        self.slow = slow;
    }

    /// The value of a slow feature in a row that was summarised.
    fn value(&self, place: Place, row: &Row<'_>, confidence: Option<f64>) -> Option<f64> {
        match place {
            Place::Input(tensor, index) if row.nulls.contains(&(tensor, index)) => None,
            Place::Input(tensor, index) => row.inputs.get(tensor).and_then(|e| e.at(index)),
            Place::Output(tensor, index) => row.outputs.get(tensor).and_then(|e| e.at(index)),
            Place::Summary(at) => self.channels.figure(at),
            Place::Derived(at) => self.derived.figure(at),
            Place::Confidence => confidence,
        }
    }

    /// Whether a feature of the row lies where the reference hardly was.
    pub(crate) fn is_rare(&mut self, row: &Row<'_>, confidence: Option<f64>) -> bool {
        let rare = |bin: usize, rare: &[bool]| rare.get(bin).copied().unwrap_or(false);
        for group in &self.groups {
            let tensors = if group.is_output { row.outputs } else { row.inputs };
            for cell in &group.cells {
                let is_null = !group.is_output && row.nulls.contains(&(group.tensor, cell.index));
                let value = tensors.get(group.tensor).filter(|_| !is_null).and_then(|e| e.at(cell.index));
                let bin = value.map_or(Special::Null as usize, |x| cell.bin(x as f32));
                if rare(cell.base + bin, &self.rare) {
                    return true;
                }
            }
        }
        if !self.slow.is_empty() {
            self.channels.summarise(row);
            self.derived.measure(row);
        }
        self.slow.iter().any(|cell| rare(cell.base + cell.cuts.bin(self.value(cell.place, row, confidence)), &self.rare))
    }

    /// The window's counts and autocorrelations in the reference's order; everything is zero afterwards.
    pub(crate) fn take(&mut self) -> (Vec<Counts>, Vec<u8>) {
        for (past, tally) in self.past.iter_mut().zip(&self.tallies) {
            past.0 += u64::from(tally.count);
            past.1 += u64::from(tally.stays);
        }
        let mut features = Vec::with_capacity(self.features.len());
        let mut rho = Vec::with_capacity(self.features.len());
        for bins in &self.features {
            let tallies = self.tallies.get(bins.clone()).unwrap_or(&[]);
            features.push(Counts(tallies.iter().map(|t| t.count).collect()));
            rho.push(self.past.get_mut(bins.clone()).map_or(0, rho_percent));
        }
        self.tallies.fill(Tally::default());
        (features, rho)
    }
}

#[inline]
fn count(tallies: &mut [Tally], last: &mut usize, at: usize) {
    if let Some(tally) = tallies.get_mut(at) {
        // A window closes long before a count could wrap.
        tally.count = tally.count.wrapping_add(1);
        tally.stays = tally.stays.wrapping_add(u32::from(*last == at));
    }
    *last = at;
}

impl Fast {
    /// A fast cell, if the cuts are numeric and few enough.
    fn new(cuts: &Cuts, index: usize, base: usize) -> Option<Self> {
        let Cuts::Numeric { edges: doubles } = cuts else { return None };
        let (&last, top) = (doubles.last()?, doubles.len().checked_sub(2)?);
        let mut edges = [f32::INFINITY; ROOM];
        let places = edges.get_mut(..doubles.len()).filter(|places| places.len() < ROOM)?;
        places.iter_mut().zip(doubles).for_each(|(place, &edge)| *place = at_or_above(edge));
        Some(Self { edges, index, base, top, high: at_or_below(last), last: usize::MAX })
    }

    /// The same answer as [`Cuts::bin`] for a float.
    #[inline]
    fn bin(&self, x: f32) -> usize {
        // How many edges are at or below x, by halves. The padding is never reached except by an infinite x.
        let mut rank = 0;
        for half in [8, 4, 2, 1] {
            // `rank` stays below 16, the mask only says so to the compiler.
            if x >= self.edges[(rank + half - 1) % ROOM] {
                rank += half;
            }
        }
        if rank == 0 || x > self.high {
            let special = if rank == 0 { Special::Below } else { Special::Above };
            return if x.is_finite() { special as usize } else { Special::NotFinite as usize };
        }
        SPECIALS + (rank - 1).min(self.top)
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
            let cell = Fast::new(&cuts, 0, 0).unwrap();
            let mut values = vec![f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 0.0, -0.0, f32::MAX, f32::MIN];
            for edge in edges {
                let near = edge as f32;
                values.extend([near, near.next_up(), near.next_down()]);
            }
            for x in values {
                assert_eq!(cell.bin(x), cuts.bin(Some(f64::from(x))), "{x} of {take} edges");
            }
        }
    }

    #[test]
    fn fast_and_slow_features_count_the_same_rows_alike() {
        let many = Cuts::Numeric { edges: (0..=60).map(|i| f64::from(i) / 10.0 - 3.0).collect() };
        let few = Cuts::Numeric { edges: (0..=14).map(|i| f64::from(i) / 3.0 - 2.0).collect() };
        assert!(Fast::new(&many, 0, 0).is_none() && Fast::new(&few, 0, 0).is_some());
        let feature = |index, cuts: &Cuts| (Source::Input { tensor: 0, index }, cuts.clone());
        let manifest = manifest_with(vec![
            feature(0, &many),
            feature(1, &few),
            feature(0, &few),
            (Source::Output { tensor: 0, index: 0 }, few.clone()),
        ]);
        let mut cells = Cells::new(&manifest);
        let mut want: Vec<Vec<u32>> = manifest.reference.features.iter().map(|f| vec![0; f.bins()]).collect();
        for i in 0..500 {
            let x = [(i % 71) as f32 / 10.0 - 3.5, if i % 50 == 0 { f32::NAN } else { (i % 13) as f32 / 2.0 - 3.0 }];
            let p = [x[0] / 2.0];
            let nulls: &[(usize, usize)] = if i % 7 == 0 { &[(0, 1)] } else { &[] };
            cells.fold(&Row { inputs: &[Elements::F32(&x)], outputs: &[Elements::F32(&p)], nulls }, None);
            let second = if i % 7 == 0 { None } else { Some(f64::from(x[1])) };
            let bins = [many.bin(Some(f64::from(x[0]))), few.bin(second), few.bin(Some(f64::from(x[0]))), few.bin(Some(f64::from(p[0])))];
            bins.into_iter().zip(&mut want).for_each(|(bin, counts)| counts[bin] += 1);
        }
        let got: Vec<Vec<u32>> = cells.take().0.into_iter().map(|c| c.0).collect();
        assert_eq!(got, want);
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
