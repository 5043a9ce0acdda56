//! Derived statistics of images, sound, text and embeddings: a few numbers that say how such an input looks, never a bin per pixel.
//!
//! A statistic is declared with the feature that watches it ([`crate::profile::Source::Derived`]): what the tensor is ([`View`]) and
//! which number is taken from it ([`Figure`]). Each is a feature with reference edges like any other, so detectors, alarms and pages
//! know nothing of pixels. The device and whoever makes the reference run this same code, so that a difference between the
//! two can only come from the data.
//!
//! What stays true: pure and bounded (the cost per row follows from the view alone); one value that is not a number makes every
//! figure of its view not a number; the figures of one row depend on nothing but that row.
use serde::{Deserialize, Serialize};

use crate::tensor::Elements;

mod audio;
mod image;
mod projection;
mod spectrum;
mod text;

pub use audio::{CLIPPED_FROM, FRAME};
pub use image::{LEVEL, MAX_CHANNELS};

/// The most directions an embedding is projected on.
pub const MAX_DIRECTIONS: u32 = 64;
/// The widest image row, and the longest embedding.
pub const MAX_WIDTH: u32 = 1 << 16;

/// Where the tensor of a derived statistic is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Place {
    /// An input, by its index.
    Input(usize),
    /// An output, by its index: an embedding that the model makes.
    Output(usize),
}

/// How an image lies in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Layout {
    /// One whole channel after the other.
    Nchw,
    /// One whole pixel after the other.
    Nhwc,
}

/// What a tensor is. Of several rows in a batch the first is looked at: devices serve one row at a time.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum View {
    /// An image.
    Image {
        /// How it lies in memory.
        layout: Layout,
        /// Channels, 1 to [`MAX_CHANNELS`].
        channels: u32,
        /// Rows of pixels.
        height: u32,
        /// Pixels in a row.
        width: u32,
        /// The value of black in each channel, as the model takes it; one for all, or one per channel.
        black: Vec<f32>,
        /// The value of full white likewise. All figures are on the scale from black = 0 to white = 1.
        white: Vec<f32>,
        /// Every so many rows are looked at (sharpness: with both their neighbours). 1 looks at all.
        #[serde(default = "one")]
        every: u32,
    },
    /// A window of sound, one channel.
    Audio {
        /// Samples per second.
        rate: u32,
        /// The value of full scale, such as 1 or 32768.
        full_scale: f32,
        /// Spectra are taken of so many frames of [`FRAME`] samples at most, spread evenly over the window.
        #[serde(default = "eight")]
        frames: u32,
    },
    /// Bytes or tokens of a text, one per element.
    Text {
        /// What fills the place after the end; the text ends at the last element that is something else.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        padding: Option<i64>,
        /// The token that stands for everything unknown.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        unknown: Option<i64>,
    },
    /// A vector whose single elements mean nothing.
    Embedding {
        /// Decides the directions; anything, but the same for all figures of one vector.
        seed: u64,
    },
}

fn one() -> u32 {
    1
}

fn eight() -> u32 {
    8
}

/// A number taken from a view.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "figure")]
pub enum Figure {
    /// Image: mean of a channel.
    ChannelMean {
        /// Which.
        channel: u32,
    },
    /// Image: standard deviation of a channel.
    ChannelStd {
        /// Which.
        channel: u32,
    },
    /// Image: variance of the Laplacian of the grey image (the channels' mean), four neighbours, edges left out. Blur lowers it.
    Sharpness,
    /// Image: standard deviation of the grey image.
    Contrast,
    /// Image: share of values within [`LEVEL`] of white or above it.
    Saturated,
    /// Image: share of values within [`LEVEL`] of black or below it.
    Black,
    /// Audio: root mean square, full scale = 1.
    Rms,
    /// Audio: share of neighbouring samples of which one is negative and one is not.
    ZeroCrossings,
    /// Audio: centre of gravity of the power spectrum, Hz.
    Centroid,
    /// Audio: geometric by arithmetic mean of the power spectrum: 0 a tone, 1 noise.
    Flatness,
    /// Audio: share of samples at [`CLIPPED_FROM`] of full scale or beyond.
    Clipped,
    /// Text: elements before the padding.
    Length,
    /// Text: 1 if there is none, else 0.
    Empty,
    /// Text: share of elements of 128 and above.
    NonAscii,
    /// Text: share of the unknown token.
    Unknown,
    /// Text: entropy of the elements' lowest bytes, bits.
    Entropy,
    /// Embedding: its part along a random direction of signs, Σ ±xᵢ / √n: on the scale of the elements whatever the width.
    Projection {
        /// Which direction.
        direction: u32,
    },
    /// Embedding: root mean square of its elements.
    Norm,
}

/// A statistic that cannot be computed as it is declared.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StatisticError {
    /// The figure is of another kind of view.
    #[error("figure {0:?} cannot be taken from {1}: see which figures belong to which view")]
    Foreign(Figure, &'static str),
    /// The view does not fit the tensor.
    #[error("{0} does not fit a tensor of {1} elements")]
    Size(&'static str, usize),
    /// A number of the view makes no sense.
    #[error("{0}")]
    View(&'static str),
}

impl View {
    /// What it is, for people.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Image { .. } => "an image",
            Self::Audio { .. } => "a sound",
            Self::Text { .. } => "a text",
            Self::Embedding { .. } => "an embedding",
        }
    }

    /// Refuse a view that no tensor of `elements` elements has.
    pub fn check(&self, elements: usize) -> Result<(), StatisticError> {
        let fail = |why| Err(StatisticError::View(why));
        match self {
            Self::Image { channels, height, width, black, white, every, .. } => {
                if !(1..=MAX_CHANNELS).contains(channels) || *height == 0 || *every == 0 || !(1..=MAX_WIDTH).contains(width) {
                    return fail("an image has 1 to 16 channels, at least one row and one pixel in it, and `every` is at least 1");
                }
                let fits =
                    |levels: &[f32]| (levels.len() == 1 || levels.len() == *channels as usize) && levels.iter().all(|x| x.is_finite());
                if !fits(black) || !fits(white) || (0..*channels as usize).any(|c| image::level(black, c) == image::level(white, c)) {
                    return fail("an image needs black and white, one for all channels or one for each, and they differ");
                }
                let pixels = u64::from(*channels) * u64::from(*height) * u64::from(*width);
                if pixels > elements as u64 || !(elements as u64).is_multiple_of(pixels) {
                    return Err(StatisticError::Size("an image of these sizes", elements));
                }
                Ok(())
            }
            Self::Audio { rate, full_scale, frames } => {
                if *rate == 0 || full_scale.partial_cmp(&0.0) != Some(std::cmp::Ordering::Greater) || !full_scale.is_finite() {
                    return fail("a sound has a rate and a full scale above 0");
                }
                if !(1..=audio::MAX_FRAMES).contains(frames) {
                    return fail("spectra are taken of 1 to 64 frames");
                }
                if elements < 2 { Err(StatisticError::Size("a sound", elements)) } else { Ok(()) }
            }
            Self::Text { .. } => Ok(()),
            Self::Embedding { .. } => {
                if (1..=MAX_WIDTH as usize).contains(&elements) {
                    Ok(())
                } else {
                    Err(StatisticError::Size("an embedding", elements))
                }
            }
        }
    }

    /// Refuse a figure that this view does not have.
    pub fn check_figure(&self, figure: Figure) -> Result<(), StatisticError> {
        use Figure as F;
        let belongs = match (self, figure) {
            (Self::Image { channels, .. }, F::ChannelMean { channel } | F::ChannelStd { channel }) => channel < *channels,
            (Self::Image { .. }, F::Sharpness | F::Contrast | F::Saturated | F::Black) => true,
            (Self::Audio { .. }, F::Rms | F::ZeroCrossings | F::Centroid | F::Flatness | F::Clipped) => true,
            (Self::Text { unknown, .. }, F::Unknown) => unknown.is_some(),
            (Self::Text { .. }, F::Length | F::Empty | F::NonAscii | F::Entropy) => true,
            (Self::Embedding { .. }, F::Projection { direction }) => direction < MAX_DIRECTIONS,
            (Self::Embedding { .. }, F::Norm) => true,
            _ => false,
        };
        if belongs { Ok(()) } else { Err(StatisticError::Foreign(figure, self.name())) }
    }
}

/// Takes the figures of one view of one tensor, row after row, without new memory.
#[derive(Debug)]
pub struct Meter {
    view: View,
    figures: Vec<Figure>,
    values: Vec<f64>,
    organ: Organ,
}

#[derive(Debug)]
enum Organ {
    Image(image::Image),
    Audio(Box<audio::Audio>),
    Text(Box<text::Text>),
    Embedding(projection::Projections),
}

impl Meter {
    /// For a checked view; figures are added as features are found.
    pub fn new(view: &View) -> Self {
        let organ = match view {
            View::Image { .. } => Organ::Image(image::Image::new(view)),
            View::Audio { .. } => Organ::Audio(Box::default()),
            View::Text { .. } => Organ::Text(Box::default()),
            View::Embedding { seed } => Organ::Embedding(projection::Projections::new(*seed)),
        };
        Self { view: view.clone(), figures: Vec::new(), values: Vec::new(), organ }
    }

    /// Whether this meter is for such a view.
    pub fn is_for(&self, view: &View) -> bool {
        self.view == *view
    }

    /// Take this figure too; its place.
    pub fn add(&mut self, figure: Figure) -> usize {
        match &mut self.organ {
            Organ::Image(image) => image.want(figure),
            Organ::Audio(audio) => audio.want(figure),
            Organ::Embedding(projections) => projections.want(figure),
            Organ::Text(_) => {}
        }
        self.figures.push(figure);
        self.values.push(f64::NAN);
        self.figures.len() - 1
    }

    /// Take the figures of a row; whether there was one of the right size.
    pub fn measure(&mut self, row: &Elements<'_>) -> bool {
        let Self { view, figures, values, organ } = self;
        let seen = match organ {
            Organ::Image(image) => image.look(row),
            Organ::Audio(audio) => audio.listen(view, row),
            Organ::Text(text) => text.read(view, row),
            Organ::Embedding(projections) => projections.project(row),
        };
        if !seen {
            return false;
        }
        for (value, figure) in values.iter_mut().zip(figures) {
            *value = match organ {
                Organ::Image(image) => image.figure(*figure),
                Organ::Audio(audio) => audio.figure(*figure),
                Organ::Text(text) => text.figure(*figure),
                Organ::Embedding(projections) => projections.figure(*figure),
            };
        }
        true
    }

    /// A figure of the row measured last.
    pub fn value(&self, at: usize) -> Option<f64> {
        self.values.get(at).copied()
    }
}

/// Sums over many floats: lane-wise in floats over short runs, so that they vectorise and stay exact enough, joined in doubles.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
struct Moments {
    n: f64,
    sum: f64,
    squares: f64,
}

/// Floats summed side by side.
const LANES: usize = 8;
/// Floats summed before the sums are joined in doubles.
const RUN: usize = 256;

impl Moments {
    #[inline]
    fn add(&mut self, values: &[f32]) {
        for part in values.chunks(RUN) {
            let (whole, rest) = part.as_chunks::<LANES>();
            let (mut sum, mut squares) = ([0f32; LANES], [0f32; LANES]);
            for lanes in whole {
                for i in 0..LANES {
                    sum[i] += lanes[i];
                    squares[i] += lanes[i] * lanes[i];
                }
            }
            let tail = |of: fn(f32) -> f32| rest.iter().map(|&x| f64::from(of(x))).sum::<f64>();
            self.sum += sum.iter().map(|&x| f64::from(x)).sum::<f64>() + tail(|x| x);
            self.squares += squares.iter().map(|&x| f64::from(x)).sum::<f64>() + tail(|x| x * x);
        }
        self.n += values.len() as f64;
    }

    fn mean(&self) -> f64 {
        self.sum / self.n
    }

    fn variance(&self) -> f64 {
        let mean = self.mean();
        let variance = self.squares / self.n - mean * mean;
        // `max` would turn a sum that is not a number into 0.
        if variance < 0.0 { 0.0 } else { variance }
    }
}

#[cfg(test)]
mod tests;
