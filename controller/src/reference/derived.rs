//! References of derived statistics: the figures of every row of a tensor, taken by the code that devices run, and cut like any feature.
use leeway_protocol::profile::{FeatureReference, Source};
use leeway_protocol::statistic::{Figure, Meter, Place, View};
use leeway_protocol::tensor::Elements;

use super::{feature, measured};

/// Directions an embedding is projected on, where nothing else is said: its moves are then known to a third (√(2/16)).
pub const DIRECTIONS: u32 = 16;

/// Every figure of a view, with the name it goes by behind the tensor's.
pub fn figures(view: &View, directions: u32) -> Vec<(String, Figure)> {
    let plain = |list: &[(&str, Figure)]| list.iter().map(|(name, figure)| ((*name).to_owned(), *figure)).collect::<Vec<_>>();
    match view {
        View::Image { channels, .. } => {
            let of = |channel: u32, what: &str| if *channels == 1 { what.to_owned() } else { format!("{what}_{channel}") };
            let channel =
                |channel| [(of(channel, "mean"), Figure::ChannelMean { channel }), (of(channel, "std"), Figure::ChannelStd { channel })];
            let mut all: Vec<_> = (0..*channels).flat_map(channel).collect();
            let whole = [("sharpness", Figure::Sharpness), ("saturated", Figure::Saturated), ("black", Figure::Black)];
            all.extend(plain(&whole));
            // Of one channel it is the standard deviation once more.
            if *channels > 1 {
                all.extend(plain(&[("contrast", Figure::Contrast)]));
            }
            all
        }
        View::Audio { .. } => plain(&[
            ("rms", Figure::Rms),
            ("zero_crossings", Figure::ZeroCrossings),
            ("centroid", Figure::Centroid),
            ("flatness", Figure::Flatness),
            ("clipped", Figure::Clipped),
        ]),
        View::Text { unknown, .. } => {
            let mut all = plain(&[
                ("length", Figure::Length),
                ("empty", Figure::Empty),
                ("non_ascii", Figure::NonAscii),
                ("entropy", Figure::Entropy),
            ]);
            if unknown.is_some() {
                all.extend(plain(&[("unknown", Figure::Unknown)]));
            }
            all
        }
        View::Embedding { .. } => {
            let part = |direction| (format!("direction_{direction}"), Figure::Projection { direction });
            (0..directions).map(part).chain(plain(&[("norm", Figure::Norm)])).collect()
        }
    }
}

/// Takes every figure of a view from row after row.
#[derive(Debug)]
pub struct Figures {
    view: View,
    meter: Meter,
    /// Name, figure, its place in the meter and its values.
    figures: Vec<(String, Figure, usize, Vec<Option<f64>>)>,
}

impl Figures {
    /// For a checked view.
    pub fn new(view: &View, directions: u32) -> Self {
        let mut meter = Meter::new(view);
        let figures = figures(view, directions).into_iter().map(|(name, figure)| (name, figure, meter.add(figure), Vec::new())).collect();
        Self { view: view.clone(), meter, figures }
    }

    /// Look at a row.
    pub fn see(&mut self, row: &Elements<'_>) {
        let seen = self.meter.measure(row);
        for (_, _, place, values) in &mut self.figures {
            values.push(self.meter.value(*place).filter(|_| seen));
        }
    }

    /// The references, for the tensor called `name`.
    pub fn references(&self, name: &str, of: Place) -> Vec<FeatureReference> {
        let made = |(suffix, figure, _, values): &(String, Figure, usize, Vec<Option<f64>>)| {
            let (name, source) = (format!("{name}_{suffix}"), Source::Derived { of, view: self.view.clone(), figure: *figure });
            // Lengths may be categories; shares that happen to be 0 throughout are still measurements.
            if matches!(figure, Figure::Length | Figure::Empty) { feature(&name, source, values) } else { measured(&name, source, values) }
        };
        self.figures.iter().filter_map(made).collect()
    }
}

#[cfg(test)]
mod tests {
    use leeway_protocol::digest::Digest;
    use leeway_protocol::ids::WindowId;
    use leeway_protocol::profile::{Counts, Cuts, Reference};
    use leeway_protocol::report::{LATENCY_BUCKETS, WindowReport};
    use leeway_protocol::statistic::Layout;
    use leeway_protocol::time::Timestamp;

    use super::*;
    use crate::drift::{DriftPolicy, Monitor, Setting};
    use crate::sequential::detector::Budget;

    const SIDE: usize = 12;

    /// A frame of a camera whose light and scene change; unfocused, each pixel is the mean of its neighbourhood.
    fn frame(number: u64, is_blurred: bool) -> Vec<f32> {
        let noise = |x: u64| (x.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ (x << 21)).wrapping_mul(0xBF58_476D_1CE4_E5B9) >> 40;
        let unit = |x: u64| noise(x) as f32 / (1 << 24) as f32;
        let (light, texture) = (0.3 + 0.4 * unit(number), 0.1 + 0.2 * unit(number + 7_777_777));
        let sharp: Vec<f32> = (0..SIDE * SIDE).map(|i| light + texture * (unit(number * 1_000 + i as u64) - 0.5)).collect();
        let at = |y: usize, x: usize| sharp[y % SIDE * SIDE + x % SIDE];
        let mean = |i: usize| (0..9).map(|k| at(i / SIDE + k / 3 + SIDE - 1, i % SIDE + k % 3 + SIDE - 1)).sum::<f32>() / 9.0;
        if is_blurred { (0..SIDE * SIDE).map(mean).collect() } else { sharp }
    }

    #[test]
    fn an_unfocused_camera_raises_the_alarm_of_its_sharpness_and_no_alarm_of_its_light() {
        let side = SIDE as u32;
        let view =
            View::Image { layout: Layout::Nchw, channels: 1, height: side, width: side, black: vec![0.0], white: vec![1.0], every: 1 };
        let mut figures = Figures::new(&view, 0);
        (0..4_000).for_each(|number| figures.see(&Elements::F32(&frame(number, false))));
        let reference = Reference { rows: 4_000, features: figures.references("camera", Place::Input(0)) };
        let policy = DriftPolicy { budget: Budget { false_alarms: 1.0, period_ms: 720_000 }, block_ms: 1_000, ..DriftPolicy::default() };
        let setting = Setting { reference: &reference, policy: &policy, devices: 40, cohorts: 2 };
        let mut monitor = Monitor::new("yard".parse().unwrap(), Digest::of(b"m"), &reference);
        let mut alarmed = |blocks: std::ops::Range<i64>, is_blurred| {
            for block in blocks {
                let mut meter = Meter::new(&view);
                let mut counts = reference.empty_counts();
                let of = |feature: &FeatureReference| match feature.source {
                    Source::Derived { figure, .. } => figure,
                    _ => Figure::Contrast,
                };
                let places: Vec<usize> = reference.features.iter().map(|f| meter.add(of(f))).collect();
                for i in 0..100u64 {
                    assert!(meter.measure(&Elements::F32(&frame(10_000 + block as u64 * 100 + i, is_blurred))));
                    for ((counts, feature), place) in counts.iter_mut().zip(&reference.features).zip(&places) {
                        counts.0[feature.cuts.bin(meter.value(*place))] += 1;
                    }
                }
                monitor.observe(&setting, &"camera-1".parse().unwrap(), &report(block, counts)).unwrap();
            }
            monitor.settle(&setting);
            let world = monitor.world(&setting);
            world.iter().filter(|v| v.alarmed_at.is_some()).map(|v| v.feature.clone()).collect::<Vec<_>>()
        };
        assert_eq!(alarmed(0..20, false), [""; 0]);
        let moved = alarmed(20..40, true);
        assert!(moved.contains(&"camera_sharpness".to_owned()), "{moved:?}");
        assert!(!moved.contains(&"camera_mean".to_owned()), "{moved:?}");
    }

    fn report(block: i64, features: Vec<Counts>) -> WindowReport {
        let at = Timestamp::from_millis(block * 1_000 + 500);
        WindowReport {
            manifest: Digest::of(b"m"),
            model: Digest::of(b"o"),
            window: WindowId(block.unsigned_abs()),
            opened_at: at,
            closed_at: at,
            inferences: 100,
            recorded: 100,
            errors: Default::default(),
            latency: vec![0; LATENCY_BUCKETS],
            rho_percent: vec![0; features.len()],
            features,
            confidence: Default::default(),
            classes: vec![],
            labelled: Default::default(),
            data_time: Some((at, at)),
            user: Default::default(),
        }
    }

    #[test]
    fn every_figure_of_every_view_gets_a_reference_that_stands() {
        let rows: Vec<Vec<f32>> = (0..200u64)
            .map(|r| (0..48).map(|i| ((r * 48 + i).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 40) as f32 / (1 << 24) as f32).collect())
            .collect();
        let image = View::Image { layout: Layout::Nchw, channels: 3, height: 4, width: 4, black: vec![0.0], white: vec![2.0], every: 1 };
        let text = View::Text { padding: None, unknown: Some(9) };
        let sound = View::Audio { rate: 8_000, full_scale: 1.0, frames: 2 };
        for (view, many) in [(image, 10), (sound, 5), (text, 5), (View::Embedding { seed: 3 }, 17)] {
            let mut figures = Figures::new(&view, DIRECTIONS);
            rows.iter().for_each(|row| figures.see(&Elements::F32(row)));
            let made = figures.references("x", Place::Input(0));
            assert_eq!(made.len(), many, "{view:?}");
            assert!(made.iter().all(|f| f.name.starts_with("x_")));
            for feature in &made {
                let Source::Derived { figure, .. } = &feature.source else { panic!() };
                view.check_figure(*figure).unwrap();
            }
            let saturated = made.iter().find(|f| f.name == "x_saturated");
            assert!(saturated.is_none_or(|f| matches!(f.cuts, Cuts::Numeric { .. })), "a share of 0 is no category");
            assert!(Reference { rows: 200, features: made }.check().is_ok());
        }
    }
}
