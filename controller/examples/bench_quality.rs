//! What is said about a model's accuracy, and how far that can be believed: concept drift, the estimate without labels, and the
//! intervals that a label budget buys.
//!
//! Nothing is written again here: labels and confidences go through [`Quality::observe`] as ingestion calls it, the other detectors are
//! those that the verdict shows, and the model on the weather is the built-in trainer's. Tables: false alarms and delays of the
//! concept detectors on the same streams; the error of the label-free estimate on fifty years of real weather, and under
//! concept drift, where it is blind; widths and coverage of the intervals at 50, 200 and 1,000 labels.
//!
//! `cargo run --release -p leeway-controller --example bench_quality -- [--quick]`
use std::time::Instant;

use leeway_controller::quality::{Quality, QualityPolicy};
use leeway_protocol::digest::Digest;
use leeway_protocol::ids::WindowId;
use leeway_protocol::manifest::{CONFIDENCE_BINS, Calibration};
use leeway_protocol::report::{Errors, LATENCY_BUCKETS, Labelled, WindowReport};
use leeway_protocol::time::Timestamp;

#[path = "bench_quality/concept.rs"]
mod concept;
#[path = "bench_quality/weather.rs"]
mod weather;
#[path = "bench_quality/widths.rs"]
mod widths;

fn main() {
    let quick = std::env::args().any(|a| a == "--quick");
    let started = Instant::now();
    concept::table(if quick { 6 } else { 40 });
    weather::tables();
    widths::table(if quick { 30 } else { 400 });
    println!("{:.0} s.", started.elapsed().as_secs_f64());
}

/// Seeded chance (splitmix64).
struct Chance(u64);

impl Chance {
    fn new(seed: u64) -> Self {
        // Mixed once: neighbouring seeds would otherwise be one stream, a step apart.
        Self((Self(seed).uniform() * (1u64 << 53) as f64) as u64)
    }

    fn uniform(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let x = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((x ^ (x >> 31)) >> 11) as f64 / (1u64 << 53) as f64
    }

    fn hit(&mut self, share: f64) -> bool {
        self.uniform() < share
    }
}

/// Counts by confidence bin of one window.
type Bins = [(u32, Labelled); CONFIDENCE_BINS];

/// A window as a device sends it, of one block of time.
fn window(at: Timestamp, bins: &Bins) -> WindowReport {
    WindowReport {
        manifest: Digest::of(b"bench"),
        model: Digest::of(b"bench"),
        window: WindowId(0),
        opened_at: at,
        closed_at: at,
        inferences: bins.iter().map(|b| u64::from(b.0)).sum(),
        recorded: 0,
        errors: Errors::default(),
        latency: vec![0; LATENCY_BUCKETS],
        features: Vec::new(),
        rho_percent: Vec::new(),
        confidence: bins.map(|b| b.0),
        classes: Vec::new(),
        labelled: bins.map(|b| b.1),
        data_time: None,
        user: Default::default(),
    }
}

/// A monitor of one device's windows.
struct Watch {
    policy: QualityPolicy,
    calibration: Calibration,
    quality: Quality,
}

impl Watch {
    fn new(policy: QualityPolicy, calibration: Calibration) -> Self {
        let quality = Quality::new(Digest::of(b"bench"), &calibration);
        Self { policy, calibration, quality }
    }

    fn observe(&mut self, at: Timestamp, bins: &Bins) {
        let device = "device-1".parse().expect("a valid name");
        self.quality.observe(&self.policy, &self.calibration, &device, &window(at, bins));
    }
}

/// The middle one.
fn median(values: &mut [usize]) -> Option<usize> {
    values.sort_unstable();
    values.get(values.len().saturating_sub(1) / 2).copied()
}
