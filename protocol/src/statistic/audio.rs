//! Sound: what a covered, clipping, humming or dead microphone changes.
//!
//! Level, zero crossings and clipping are taken over all samples; the spectrum over a stated number of frames, spread evenly,
//! since it is the dear part. Centroid and flatness are of the frames' summed power, without the constant.
use super::spectrum::{LINES, SAMPLES, Spectrum};
use super::{Elements, Figure, View};

/// Samples of a frame whose spectrum is taken.
pub const FRAME: usize = SAMPLES;
/// The most frames.
pub(super) const MAX_FRAMES: u32 = 64;
/// Of full scale, from here on a sample is clipped.
pub const CLIPPED_FROM: f32 = 0.999;
/// Samples looked at together.
const BLOCK: usize = 1_024;
/// Added to every line's power against ln 0: 200 dB below a full-scale sine.
const FLOOR: f64 = 1e-16;

#[derive(Debug)]
pub(super) struct Audio {
    spectral: bool,
    spectrum: Spectrum,
    lines: [f64; LINES],
    block: Vec<f32>,
    rate: f64,
    n: f64,
    squares: f64,
    crossings: f64,
    clipped: f64,
}

impl Default for Audio {
    fn default() -> Self {
        Self {
            spectral: false,
            spectrum: Spectrum::default(),
            lines: [0.0; LINES],
            block: vec![0.0; BLOCK],
            rate: 1.0,
            n: 0.0,
            squares: 0.0,
            crossings: 0.0,
            clipped: 0.0,
        }
    }
}

impl Audio {
    pub(super) fn want(&mut self, figure: Figure) {
        self.spectral |= matches!(figure, Figure::Centroid | Figure::Flatness);
    }

    pub(super) fn listen(&mut self, view: &View, samples: &Elements<'_>) -> bool {
        let View::Audio { rate, full_scale, frames } = view else { return false };
        let (n, scale) = (samples.len(), 1.0 / full_scale);
        if n < 2 {
            return false;
        }
        self.rate = f64::from(*rate);
        (self.n, self.squares, self.crossings, self.clipped) = (n as f64, 0.0, 0.0, 0.0);
        let mut before: Option<f32> = None;
        for start in (0..n).step_by(BLOCK) {
            let length = BLOCK.min(n - start);
            let Some(block) = self.block.get_mut(..length) else { return false };
            samples.copy_to(start, 1, block);
            block.iter_mut().for_each(|x| *x *= scale);
            let mut moments = super::Moments::default();
            moments.add(block);
            self.squares += moments.squares;
            self.clipped += f64::from(block.iter().map(|x| u32::from(x.abs() >= CLIPPED_FROM)).sum::<u32>());
            let inside: u32 = block.iter().zip(block.get(1..).unwrap_or(&[])).map(|(a, b)| u32::from((*a < 0.0) != (*b < 0.0))).sum();
            let across = before.zip(block.first()).is_some_and(|(a, b)| (a < 0.0) != (*b < 0.0));
            self.crossings += f64::from(inside + u32::from(across));
            before = block.last().copied();
        }
        if self.spectral {
            self.spectra(samples, scale, (*frames).clamp(1, MAX_FRAMES) as usize);
        }
        true
    }

    /// Of a window shorter than a frame, the rest is silence.
    fn spectra(&mut self, samples: &Elements<'_>, scale: f32, frames: usize) {
        self.lines = [0.0; LINES];
        let room = samples.len().saturating_sub(FRAME);
        let frames = frames.min(samples.len().div_ceil(FRAME));
        for i in 0..frames {
            let start = if frames > 1 { room * i / (frames - 1) } else { room / 2 };
            let length = FRAME.min(samples.len());
            let Some(frame) = self.block.get_mut(..length) else { return };
            samples.copy_to(start, 1, frame);
            frame.iter_mut().for_each(|x| *x *= scale);
            self.spectrum.add(frame, &mut self.lines);
        }
    }

    pub(super) fn figure(&self, figure: Figure) -> f64 {
        if !self.squares.is_finite() {
            return f64::NAN;
        }
        let lines = self.lines.iter().enumerate().skip(1).map(|(k, power)| (k as f64, power + FLOOR));
        let power: f64 = lines.clone().map(|(_, power)| power).sum();
        let count = (LINES - 1) as f64;
        match figure {
            Figure::Rms => (self.squares / self.n).sqrt(),
            Figure::ZeroCrossings => self.crossings / (self.n - 1.0),
            Figure::Clipped => self.clipped / self.n,
            Figure::Centroid => lines.map(|(k, p)| k * p).sum::<f64>() / power * self.rate / FRAME as f64,
            Figure::Flatness => (lines.map(|(_, p)| p.ln()).sum::<f64>() / count).exp() / (power / count),
            _ => f64::NAN,
        }
    }
}
