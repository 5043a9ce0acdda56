//! An image model watched by derived statistics: lost detail moves sharpness, and nothing that a mean can see.
use leeway_protocol::statistic::{Figure, Layout, Place, View};

use super::*;

const SIDE: usize = 16;

fn camera() -> Manifest {
    let view = View::Image {
        layout: Layout::Nchw,
        channels: 1,
        height: SIDE as u32,
        width: SIDE as u32,
        black: vec![0.0],
        white: vec![1.0],
        every: 1,
    };
    let source = |figure| Source::Derived { of: Place::Input(0), view: view.clone(), figure };
    let mut manifest = manifest_with(vec![
        (source(Figure::ChannelMean { channel: 0 }), Cuts::Numeric { edges: vec![0.0, 0.48, 0.52, 1.0] }),
        (source(Figure::Sharpness), Cuts::Numeric { edges: vec![0.0, 1.0, 20.0] }),
    ]);
    manifest.inputs[0].shape = vec![1, 1, SIDE as u64, SIDE as u64];
    manifest
}

#[test]
fn blurred_frames_move_the_sharpness_bin_alone() {
    let manifest = camera();
    let mut recorder = recorder(&manifest, u64::MAX, CapturePolicy::default());
    // A chess board: its mean is a half however much of its contrast is left.
    let sharp: Vec<f32> = (0..SIDE * SIDE).map(|i| ((i % SIDE + i / SIDE) % 2) as f32).collect();
    let blurred: Vec<f32> = sharp.iter().map(|x| 0.5 + (x - 0.5) * 0.2).collect();
    let mut broken = sharp.clone();
    broken[5] = f32::NAN;
    let mut show = |pixels: &[f32], nulls: &[(usize, usize)]| {
        let row = Row { inputs: &[Elements::F32(pixels)], outputs: &[], nulls };
        assert!(
            recorder
                .answered(Timestamp::from_millis(1), &Inference { request: 1, nanos: 1_000_000_000, data_time: None, row, decided: None })
        );
    };
    (0..3).for_each(|_| show(&sharp, &[]));
    (0..4).for_each(|_| show(&blurred, &[]));
    show(&broken, &[]);
    show(&sharp, &[(0, 7)]);
    let report = recorder.close(Timestamp::from_millis(2)).unwrap();
    assert_eq!(report.features[0].0, [1, 1, 0, 0, 0, 0, 7, 0]);
    assert_eq!(report.features[1].0, [1, 1, 0, 0, 0, 4, 3]);
}
