//! What derived statistics cost per recorded inference: an image, a window of sound, a text, an embedding.
//!
//!     cargo run --release -p leeway-agent --example bench_derived
//!
//! Best of many rounds of the meter alone, all figures of a view at once. Not a test: figures are for reading. The recorder pays them from
//! its budget (2 % of the inference's own time), so a model too fast for its statistics is sampled, not slowed down.
use std::hint::black_box;
use std::time::Instant;

use leeway_protocol::statistic::{Figure, Layout, Meter, View};
use leeway_protocol::tensor::Elements;

/// Rounds, of which the best counts.
const ROUNDS: usize = 40;
/// Rows measured in a round.
const ROWS: usize = 25;

fn main() {
    let noise: Vec<f32> = (0..3 * 224 * 224u64).map(|i| (i.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 40) as f32 / (1 << 24) as f32).collect();
    let bytes: Vec<u8> = noise.iter().map(|x| (x * 255.0) as u8).collect();
    let tokens: Vec<i32> = bytes.iter().take(2_048).map(|&x| i32::from(x)).collect();
    let channels = [0, 1, 2].into_iter().flat_map(|channel| [Figure::ChannelMean { channel }, Figure::ChannelStd { channel }]);
    let flat: Vec<Figure> = channels.clone().chain([Figure::Contrast, Figure::Saturated, Figure::Black]).collect();
    let sharp: Vec<Figure> = flat.iter().copied().chain([Figure::Sharpness]).collect();
    let image = |layout, every| View::Image { layout, channels: 3, height: 224, width: 224, black: vec![0.0], white: vec![1.0], every };
    for every in [1, 2, 4] {
        line(&format!("image 3x224x224 f32 NCHW, every {every}"), &image(Layout::Nchw, every), &sharp, &Elements::F32(&noise));
    }
    line("the same without sharpness, every 1", &image(Layout::Nchw, 1), &flat, &Elements::F32(&noise));
    line("image 224x224x3 u8 NHWC, every 1", &image(Layout::Nhwc, 1), &sharp, &Elements::U8(&bytes));
    let sound = View::Audio { rate: 16_000, full_scale: 1.0, frames: 8 };
    let heard = [Figure::Rms, Figure::ZeroCrossings, Figure::Centroid, Figure::Flatness, Figure::Clipped];
    line("sound, 16,000 samples f32, 8 frames", &sound, &heard, &Elements::F32(&noise[..16_000]));
    line("the same without spectra", &sound, &[Figure::Rms, Figure::ZeroCrossings, Figure::Clipped], &Elements::F32(&noise[..16_000]));
    let text = View::Text { padding: Some(256), unknown: None };
    line("text, 2,048 bytes as i32", &text, &[Figure::Length, Figure::Empty, Figure::NonAscii, Figure::Entropy], &Elements::I32(&tokens));
    let parts: Vec<Figure> = (0..16).map(|direction| Figure::Projection { direction }).chain([Figure::Norm]).collect();
    line("embedding, 768 f32, 16 directions", &View::Embedding { seed: 1 }, &parts, &Elements::F32(&noise[..768]));
}

fn line(what: &str, view: &View, figures: &[Figure], row: &Elements<'_>) {
    let mut meter = Meter::new(view);
    for figure in figures {
        meter.add(*figure);
    }
    let mut best = f64::INFINITY;
    for _ in 0..ROUNDS {
        let started = Instant::now();
        for _ in 0..ROWS {
            black_box(meter.measure(black_box(row)));
        }
        best = best.min(started.elapsed().as_nanos() as f64 / ROWS as f64);
    }
    println!("{what:<42} {:>10.1} us   {:>6.2} ns per element", best / 1e3, best / row.len() as f64);
}
