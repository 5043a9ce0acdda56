//! The power spectrum of one short frame: a radix-2 transform of a fixed size, with its tables made once.
//!
//! Two hundred and fifty-six complex points carry the 512 real samples of a frame (even samples as real, odd ones as imaginary
//! part), which halves the work. A dependency would bring planners for all sizes and unsafe code for an eighth of this file's need.

/// Samples of a frame.
pub(super) const SAMPLES: usize = 512;
/// Complex points it is folded into.
const POINTS: usize = SAMPLES / 2;
/// Lines of the spectrum: frequency i is i / 512 of the rate; the constant (line 0) is left out by those who ask.
pub(super) const LINES: usize = SAMPLES / 2 + 1;

#[derive(Debug, Clone)]
pub(super) struct Spectrum {
    /// e^(-2πi k / 512).
    turns: Vec<(f32, f32)>,
    window: Vec<f32>,
    points: Vec<(f32, f32)>,
}

impl Default for Spectrum {
    fn default() -> Self {
        let turn = |k: usize| -std::f64::consts::TAU * k as f64 / SAMPLES as f64;
        Self {
            turns: (0..POINTS).map(|k| (turn(k).cos() as f32, turn(k).sin() as f32)).collect(),
            // Hann, periodic.
            window: (0..SAMPLES).map(|k| (0.5 - 0.5 * turn(k).cos()) as f32).collect(),
            points: vec![(0.0, 0.0); POINTS],
        }
    }
}

fn times(a: (f32, f32), b: (f32, f32)) -> (f32, f32) {
    (a.0 * b.0 - a.1 * b.1, a.0 * b.1 + a.1 * b.0)
}

impl Spectrum {
    /// Add the power of a frame of [`SAMPLES`] to `lines`.
    pub(super) fn add(&mut self, frame: &[f32], lines: &mut [f64; LINES]) {
        for (k, point) in self.points.iter_mut().enumerate() {
            let at = |i: usize| frame.get(i).copied().unwrap_or(0.0) * self.window.get(i).copied().unwrap_or(0.0);
            *point = (at(2 * k), at(2 * k + 1));
        }
        self.transform();
        for (k, line) in lines.iter_mut().enumerate() {
            // The two interleaved transforms taken apart: even = (Z[k] + Z*[n-k]) / 2, odd = (Z[k] - Z*[n-k]) / 2i.
            let (a, b) = (self.points[k % POINTS], self.points[(POINTS - k % POINTS) % POINTS]);
            let even = ((a.0 + b.0) / 2.0, (a.1 - b.1) / 2.0);
            let odd = ((a.1 + b.1) / 2.0, (b.0 - a.0) / 2.0);
            let turn = if k == POINTS { (-1.0, 0.0) } else { self.turns[k % POINTS] };
            let turned = times(odd, turn);
            let (re, im) = (even.0 + turned.0, even.1 + turned.1);
            *line += f64::from(re * re + im * im);
        }
    }

    /// In place, decimation in time. Indices come from fixed sizes alone.
    fn transform(&mut self) {
        let bits = POINTS.trailing_zeros();
        for i in 0..POINTS {
            let j = i.reverse_bits() >> (usize::BITS - bits);
            if i < j {
                self.points.swap(i, j);
            }
        }
        let mut size = 2;
        while size <= POINTS {
            let (half, step) = (size / 2, SAMPLES / size);
            for block in self.points.chunks_exact_mut(size) {
                let (low, high) = block.split_at_mut(half);
                for (k, (a, b)) in low.iter_mut().zip(high).enumerate() {
                    let turned = times(*b, self.turns[(k * step) % POINTS]);
                    (*a, *b) = ((a.0 + turned.0, a.1 + turned.1), (a.0 - turned.0, a.1 - turned.1));
                }
            }
            size *= 2;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_the_transform_by_definition() {
        let frame: Vec<f32> = (0..SAMPLES).map(|i| ((i * i) % 101) as f32 / 50.0 - 1.0).collect();
        let mut lines = [0.0; LINES];
        let mut spectrum = Spectrum::default();
        spectrum.add(&frame, &mut lines);
        for k in [0, 1, 2, 63, 128, 200, 255, 256] {
            let (mut re, mut im) = (0.0f64, 0.0f64);
            for (i, x) in frame.iter().enumerate() {
                let window = 0.5 - 0.5 * (std::f64::consts::TAU * i as f64 / SAMPLES as f64).cos();
                let turn = -std::f64::consts::TAU * (k * i) as f64 / SAMPLES as f64;
                re += f64::from(*x) * window * turn.cos();
                im += f64::from(*x) * window * turn.sin();
            }
            let want = re * re + im * im;
            assert!((lines[k] - want).abs() < 1e-3 * want.max(1.0), "{k}: {} {want}", lines[k]);
        }
    }
}
