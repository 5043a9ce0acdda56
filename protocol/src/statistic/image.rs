//! Images: what a dirty, dazzled, dim, shifted or unfocused camera changes.
//!
//! Row by row over a copy on the scale from black to white, whatever the layout and type, so that one path serves all of them
//! and every inner loop runs over floats that lie together. Focus is measured by the variance of the Laplacian (Pech-Pacheco et
//! al., ICPR 2000): blur removes the highest frequencies first, while means of channels do not move at all.
use super::{Elements, Figure, Layout, Moments, View};

/// Channels an image may have.
pub const MAX_CHANNELS: u32 = 16;
/// Within this of white counts as saturated, within this of black as black: two and a half steps of eight bits.
pub const LEVEL: f32 = 0.01;

/// The level of a channel: one for all, or its own.
pub(super) fn level(levels: &[f32], channel: usize) -> f32 {
    levels.get(channel).or(levels.first()).copied().unwrap_or(0.0)
}

#[derive(Debug)]
pub(super) struct Image {
    layout: Layout,
    height: usize,
    width: usize,
    every: usize,
    /// Black and the factor to white, per channel.
    scales: Vec<(f32, f32)>,
    sharpness: bool,
    channels: Vec<Moments>,
    grey: Moments,
    laplacian: Moments,
    saturated: u64,
    black: u64,
    /// One channel of one row, and the Laplacian of one row.
    line: Vec<f32>,
    /// Grey rows: the one above, the present one, the one below, with the row each holds.
    rows: [(usize, Vec<f32>); 3],
}

impl Image {
    pub(super) fn new(view: &View) -> Self {
        let (layout, channels, height, width, every, scales) = match view {
            View::Image { layout, channels, height, width, black, white, every } => {
                let scale = |c: usize| (level(black, c), 1.0 / (level(white, c) - level(black, c)));
                let scales: Vec<(f32, f32)> = (0..*channels as usize).map(scale).collect();
                (*layout, *channels as usize, *height as usize, *width as usize, (*every as usize).max(1), scales)
            }
            _ => (Layout::Nchw, 0, 0, 0, 1, Vec::new()),
        };
        Self {
            layout,
            height,
            width,
            every,
            scales,
            sharpness: false,
            channels: vec![Moments::default(); channels],
            grey: Moments::default(),
            laplacian: Moments::default(),
            saturated: 0,
            black: 0,
            line: vec![0.0; width],
            rows: std::array::from_fn(|_| (usize::MAX, vec![0.0; width])),
        }
    }

    pub(super) fn want(&mut self, figure: Figure) {
        self.sharpness |= figure == Figure::Sharpness;
    }

    pub(super) fn look(&mut self, pixels: &Elements<'_>) -> bool {
        if pixels.len() < self.scales.len() * self.height * self.width || self.height == 0 {
            return false;
        }
        self.channels.fill(Moments::default());
        (self.grey, self.laplacian, self.saturated, self.black) = (Moments::default(), Moments::default(), 0, 0);
        self.rows.iter_mut().for_each(|(held, _)| *held = usize::MAX);
        for y in (0..self.height).step_by(self.every) {
            let looked_at = self.sharpness && y > 0 && y + 1 < self.height;
            if looked_at {
                self.load(pixels, y - 1);
            }
            self.load(pixels, y);
            if let Some((_, row)) = self.rows.get(y % 3) {
                self.grey.add(row);
            }
            if looked_at {
                self.load(pixels, y + 1);
                self.second_differences(y);
            }
        }
        true
    }

    /// Make grey row `y` ready, if it is not; a row that is looked at itself is counted into the channels.
    fn load(&mut self, pixels: &Elements<'_>, y: usize) {
        let (slot, counts) = (y % 3, y.is_multiple_of(self.every));
        let channels = self.scales.len();
        let Some((held, grey)) = self.rows.get_mut(slot) else { return };
        if std::mem::replace(held, y) == y {
            return;
        }
        grey.fill(0.0);
        let share = 1.0 / channels as f32;
        for (c, ((black, scale), moments)) in self.scales.iter().zip(&mut self.channels).enumerate() {
            let (start, step) = match self.layout {
                Layout::Nchw => ((c * self.height + y) * self.width, 1),
                Layout::Nhwc => (y * self.width * channels + c, channels),
            };
            pixels.copy_to(start, step, &mut self.line);
            let (mut high, mut low) = (0u32, 0u32);
            for (x, grey) in self.line.iter_mut().zip(grey.iter_mut()) {
                *x = (*x - black) * scale;
                *grey += *x * share;
                high += u32::from(*x >= 1.0 - LEVEL);
                low += u32::from(*x <= LEVEL);
            }
            if counts {
                moments.add(&self.line);
                self.saturated += u64::from(high);
                self.black += u64::from(low);
            }
        }
    }

    /// The Laplacian of row `y` from the rows around it.
    fn second_differences(&mut self, y: usize) {
        let [above, here, below] = [y + 2, y, y + 1].map(|slot| self.rows.get(slot % 3).map_or(&[][..], |(_, row)| row));
        let inner = self.width.saturating_sub(2);
        let neighbours = here.iter().zip(here.get(1..).unwrap_or(&[])).zip(here.get(2..).unwrap_or(&[]));
        let columns = above.iter().zip(below).skip(1);
        for (place, (((left, x), right), (up, down))) in self.line.iter_mut().zip(neighbours.zip(columns)) {
            *place = left + right + up + down - 4.0 * x;
        }
        self.laplacian.add(self.line.get(..inner).unwrap_or(&[]));
    }

    pub(super) fn figure(&self, figure: Figure) -> f64 {
        let moments = |channel: u32| self.channels.get(channel as usize).copied().unwrap_or_default();
        let all: Moments = self.channels.iter().fold(Moments::default(), |a, c| Moments {
            n: a.n + c.n,
            sum: a.sum + c.sum,
            squares: a.squares + c.squares,
        });
        if !all.squares.is_finite() {
            return f64::NAN;
        }
        match figure {
            Figure::ChannelMean { channel } => moments(channel).mean(),
            Figure::ChannelStd { channel } => moments(channel).variance().sqrt(),
            // An image of less than three rows or columns has none.
            Figure::Sharpness if self.laplacian.n == 0.0 => 0.0,
            Figure::Sharpness => self.laplacian.variance(),
            Figure::Contrast => self.grey.variance().sqrt(),
            Figure::Saturated => self.saturated as f64 / all.n,
            Figure::Black => self.black as f64 / all.n,
            _ => f64::NAN,
        }
    }
}
