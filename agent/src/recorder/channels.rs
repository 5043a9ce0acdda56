//! Large inputs: never a bin per pixel, but mean, deviation, least and largest of each channel, at most once per row.
//!
//! Channels lie on axis 1; a tensor of fewer than three axes is one channel. Sums run in float lanes over short runs, so that
//! they vectorise and stay exact enough, and are joined in doubles.
use leeway_protocol::manifest::Manifest;
use leeway_protocol::profile::Stat;

use crate::recorder::row::{Elements, Row};

/// Floats summed side by side.
const LANES: usize = 8;
/// Floats summed before the sums are joined in doubles.
const RUN: usize = 256;

/// Channels some feature looks at, and their figures in the present row.
#[derive(Debug, Default)]
pub(crate) struct Channels {
    channels: Vec<Channel>,
    summaries: Vec<Option<Summary>>,
    /// (channel, figure) per feature.
    figures: Vec<(usize, Stat)>,
}

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

impl Channels {
    /// Watch a figure of a channel; its place.
    pub(crate) fn add(&mut self, manifest: &Manifest, tensor: usize, channel: usize, stat: Stat) -> usize {
        let known = self.channels.iter().position(|c| c.tensor == tensor && c.channel == channel);
        let at = known.unwrap_or_else(|| {
            let shape = manifest.inputs.get(tensor).map_or(&[][..], |spec| &spec.shape);
            let size = |axes: &[u64]| axes.iter().product::<u64>() as usize;
            let (channels, run) = match shape {
                [_, channels, rest @ ..] if !rest.is_empty() => (*channels as usize, size(rest)),
                all => (1, size(all)),
            };
            self.channels.push(Channel { tensor, channel, channels, run });
            self.summaries.push(None);
            self.channels.len() - 1
        });
        self.figures.push((at, stat));
        self.figures.len() - 1
    }

    /// Summarise the channels of a row.
    pub(crate) fn summarise(&mut self, row: &Row<'_>) {
        for (summary, channel) in self.summaries.iter_mut().zip(&self.channels) {
            *summary = row.inputs.get(channel.tensor).and_then(|elements| channel.summarise(elements));
        }
    }

    /// A figure of the present row.
    pub(crate) fn figure(&self, at: usize) -> Option<f64> {
        let (channel, stat) = self.figures.get(at)?;
        let summary = self.summaries.get(*channel).copied().flatten()?;
        Some(match stat {
            Stat::Mean => summary.mean,
            Stat::Std => summary.std,
            Stat::Min => summary.min,
            Stat::Max => summary.max,
        })
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
        for part in values.chunks(RUN) {
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

#[cfg(test)]
mod tests {
    use super::*;

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
}
