//! Figures against their definitions, the changes they are there to show, and the declarations that are refused.
use super::*;
use crate::profile::Source;

fn picture(layout: Layout, channels: u32, height: u32, width: u32) -> View {
    View::Image { layout, channels, height, width, black: vec![0.0], white: vec![255.0], every: 1 }
}

fn figures(view: &View, figures: &[Figure], row: &Elements<'_>) -> Vec<f64> {
    view.check(row.len()).unwrap();
    let mut meter = Meter::new(view);
    for figure in figures {
        view.check_figure(*figure).unwrap();
        meter.add(*figure);
    }
    assert!(meter.measure(row));
    // A second row must not remember the first.
    let first: Vec<f64> = (0..figures.len()).filter_map(|at| meter.value(at)).collect();
    assert!(meter.measure(row));
    assert_eq!(format!("{first:?}"), format!("{:?}", (0..figures.len()).filter_map(|at| meter.value(at)).collect::<Vec<_>>()));
    first
}

const LOOKS: [Figure; 6] = [
    Figure::ChannelMean { channel: 1 },
    Figure::ChannelStd { channel: 0 },
    Figure::Sharpness,
    Figure::Contrast,
    Figure::Saturated,
    Figure::Black,
];

/// Three channels of 5 × 7 pixels, planar.
fn pixels() -> Vec<u8> {
    (0..105u32)
        .map(|i| (i * i * 7 % 256) as u8)
        .map(|x| {
            if x > 250 {
                255
            } else if x < 10 {
                0
            } else {
                x
            }
        })
        .collect()
}

fn interleaved(planar: &[u8]) -> Vec<u8> {
    (0..35).flat_map(|i| [planar[i], planar[35 + i], planar[70 + i]]).collect()
}

fn by_definition(planar: &[u8]) -> Vec<f64> {
    let x = |c: usize, i: usize| f64::from(planar[c * 35 + i]) / 255.0;
    let moments = |v: &[f64]| {
        let mean = v.iter().sum::<f64>() / v.len() as f64;
        (mean, v.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / v.len() as f64)
    };
    let grey: Vec<f64> = (0..35).map(|i| (x(0, i) + x(1, i) + x(2, i)) / 3.0).collect();
    let at = |y: usize, x: usize| grey[y * 7 + x];
    let inner = (1..4).flat_map(|y| (1..6).map(move |x| (y, x)));
    let laplacian: Vec<f64> = inner.map(|(y, x)| at(y - 1, x) + at(y + 1, x) + at(y, x - 1) + at(y, x + 1) - 4.0 * at(y, x)).collect();
    let share = |of: &dyn Fn(f64) -> bool| (0..105).filter(|i| of(f64::from(planar[*i]) / 255.0)).count() as f64 / 105.0;
    vec![
        moments(&(0..35).map(|i| x(1, i)).collect::<Vec<_>>()).0,
        moments(&(0..35).map(|i| x(0, i)).collect::<Vec<_>>()).1.sqrt(),
        moments(&laplacian).1,
        moments(&grey).1.sqrt(),
        share(&|x| x >= 0.99),
        share(&|x| x <= 0.01),
    ]
}

#[test]
fn an_image_looks_the_same_in_either_layout_and_type_and_as_defined() {
    let planar = pixels();
    let want = by_definition(&planar);
    assert!(want[4] > 0.0 && want[5] > 0.0, "the picture has both ends");
    let close = |got: Vec<f64>| got.iter().zip(&want).for_each(|(g, w)| assert!((g - w).abs() < 1e-5, "{got:?} {want:?}"));
    close(figures(&picture(Layout::Nchw, 3, 5, 7), &LOOKS, &Elements::U8(&planar)));
    close(figures(&picture(Layout::Nhwc, 3, 5, 7), &LOOKS, &Elements::U8(&interleaved(&planar))));
    // As a model takes it that was trained on normalised floats, each channel with its own mean.
    let black = [-2.0f32, -1.0, 0.5];
    let normalised: Vec<f32> = planar.iter().enumerate().map(|(i, &x)| black[i / 35] + f32::from(x) / 255.0 * 4.0).collect();
    let white = black.map(|b| b + 4.0).to_vec();
    let view = View::Image { layout: Layout::Nchw, channels: 3, height: 5, width: 7, black: black.to_vec(), white, every: 1 };
    close(figures(&view, &LOOKS, &Elements::F32(&normalised)));
}

#[test]
fn blur_lowers_sharpness_and_leaves_the_means() {
    let (height, width) = (64usize, 64usize);
    let noise: Vec<f32> =
        (0..height * width).map(|i| ((i as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 40) as f32 / (1 << 24) as f32).collect();
    let blurred: Vec<f32> = (0..height * width)
        .map(|i| {
            let (y, x) = (i / width, i % width);
            let at = |dy: usize, dx: usize| noise[(y + dy + height - 1) % height * width + (x + dx + width - 1) % width];
            (0..9).map(|k| at(k / 3, k % 3)).sum::<f32>() / 9.0
        })
        .collect();
    let looks = [Figure::ChannelMean { channel: 0 }, Figure::Sharpness];
    for every in [1, 2, 3] {
        let view = View::Image { layout: Layout::Nchw, channels: 1, height: 64, width: 64, black: vec![0.0], white: vec![1.0], every };
        let [before, after] = [&noise, &blurred].map(|p| figures(&view, &looks, &Elements::F32(p)));
        assert!((before[0] - after[0]).abs() < 0.02, "{before:?} {after:?}");
        assert!(after[1] < before[1] / 5.0, "every {every}: {before:?} {after:?}");
    }
}

#[test]
fn one_value_that_is_no_number_spoils_its_view() {
    let mut row = vec![0.5f32; 64];
    row[17] = f32::NAN;
    let view = View::Image { layout: Layout::Nchw, channels: 1, height: 8, width: 8, black: vec![0.0], white: vec![1.0], every: 1 };
    let looks = [Figure::ChannelMean { channel: 0 }, Figure::Sharpness, Figure::Contrast, Figure::Saturated, Figure::Black];
    assert!(figures(&view, &looks, &Elements::F32(&row)).iter().all(|x| x.is_nan()));
    let sound = View::Audio { rate: 16_000, full_scale: 1.0, frames: 8 };
    assert!(figures(&sound, &[Figure::Rms, Figure::Centroid, Figure::Flatness], &Elements::F32(&row)).iter().all(|x| x.is_nan()));
    assert!(
        figures(&View::Embedding { seed: 1 }, &[Figure::Projection { direction: 3 }, Figure::Norm], &Elements::F32(&row))
            .iter()
            .all(|x| x.is_nan())
    );
}

#[test]
fn sound_has_level_pitch_and_noise() {
    let sound = View::Audio { rate: 16_000, full_scale: 32_768.0, frames: 8 };
    let all = [Figure::Rms, Figure::ZeroCrossings, Figure::Centroid, Figure::Flatness, Figure::Clipped];
    let tone = |hz: f32, loud: f32| -> Vec<i32> {
        (0..16_000)
            .map(|i| (32_768.0 * (loud * (std::f32::consts::TAU * hz * i as f32 / 16_000.0 + 0.1).sin()).clamp(-1.0, 1.0)) as i32)
            .collect()
    };
    let [rms, crossings, centroid, flatness, clipped] = figures(&sound, &all, &Elements::I32(&tone(1_000.0, 0.5)))[..] else { panic!() };
    assert!((rms - 0.5 / 2f64.sqrt()).abs() < 1e-3, "{rms}");
    assert!((crossings - 0.125).abs() < 1e-3, "{crossings}");
    assert!((centroid - 1_000.0).abs() < 20.0 && flatness < 1e-3, "{centroid} {flatness}");
    assert_eq!(clipped, 0.0);
    let loud = figures(&sound, &all, &Elements::I32(&tone(1_000.0, 3.0)));
    assert!(loud[4] > 0.5 && loud[2] > 1_100.0, "clipping makes overtones: {loud:?}");
    let noise: Vec<i32> = (0..16_000u64)
        .map(|i| ((i.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ i << 17).wrapping_mul(0xBF58_476D_1CE4_E5B9) >> 50) as i32 - 8_192)
        .collect();
    let hiss = figures(&sound, &all, &Elements::I32(&noise));
    assert!(hiss[3] > 0.5 && (hiss[2] - 4_000.0).abs() < 500.0, "{hiss:?}");
    let silence = figures(&sound, &all, &Elements::I32(&vec![0; 300]));
    assert!(silence[0] == 0.0 && silence[1] == 0.0 && (silence[3] - 1.0).abs() < 1e-6, "{silence:?}");
}

#[test]
fn text_has_length_language_and_entropy() {
    let bytes = View::Text { padding: Some(256), unknown: None };
    let all = [Figure::Length, Figure::Empty, Figure::NonAscii, Figure::Entropy];
    let read = |text: &[u8]| {
        let mut row: Vec<i32> = text.iter().map(|&b| i32::from(b)).collect();
        row.resize(64, 256);
        figures(&bytes, &all, &Elements::I32(&row))
    };
    assert_eq!(read(b"abab"), [4.0, 0.0, 0.0, 1.0]);
    assert_eq!(read(b""), [0.0, 1.0, 0.0, 0.0].map(|x: f64| x + 0.0));
    assert_eq!(read("äöüß".as_bytes())[2], 1.0);
    let tokens = View::Text { padding: Some(0), unknown: Some(1) };
    assert_eq!(figures(&tokens, &[Figure::Unknown, Figure::Length], &Elements::I64(&[5, 1, 0, 7, 0, 0])), [0.25, 4.0]);
}

#[test]
fn projections_keep_the_scale_and_see_a_move_in_any_direction() {
    let directions: Vec<Figure> = (0..MAX_DIRECTIONS).map(|direction| Figure::Projection { direction }).collect();
    let parts = |seed, row: &[f32]| figures(&View::Embedding { seed }, &directions, &Elements::F32(row));
    let row: Vec<f32> = (0..1_000).map(|i| ((i * 37 % 101) as f32 - 50.0) / 10.0).collect();
    let mean_square = row.iter().map(|x| f64::from(x * x)).sum::<f64>() / 1_000.0;
    let mut mean = 0.0;
    for seed in 0..50 {
        mean += parts(seed, &row).iter().map(|p| p * p).sum::<f64>() / f64::from(MAX_DIRECTIONS) / 50.0;
    }
    // 3,200 squares of nearly normal parts: a standard error of 2.5 %.
    assert!((mean / mean_square - 1.0).abs() < 0.1, "{mean} {mean_square}");
    let moved: Vec<f32> = row.iter().enumerate().map(|(i, x)| x + if i == 3 { 100.0 } else { 0.0 }).collect();
    let (before, after) = (parts(7, &row), parts(7, &moved));
    let length = before.iter().zip(&after).map(|(a, b)| (a - b).powi(2)).sum::<f64>() / f64::from(MAX_DIRECTIONS);
    assert!((length / (100.0 * 100.0 / 1_000.0) - 1.0).abs() < 1e-3, "one element moves all directions alike: {length}");
    assert_ne!(parts(7, &row), parts(8, &row));
    // What a seed means is part of every manifest that names it.
    let golden = parts(42, &[1.0, 10.0, 100.0, 1000.0]);
    assert_eq!(golden[..4], GOLDEN, "the directions of a seed may never change");
    assert_eq!(figures(&View::Embedding { seed: 1 }, &[Figure::Norm], &Elements::I8(&[3, -4, 0, 0])), [2.5]);
}

const GOLDEN: [f64; 4] = [455.5, 455.5, -454.5, 544.5];

#[test]
fn a_declaration_reads_like_a_sentence_and_comes_back() {
    let view = View::Image { layout: Layout::Nhwc, channels: 3, height: 8, width: 8, black: vec![0.0], white: vec![255.0], every: 2 };
    let source = Source::Derived { of: Place::Input(0), view, figure: Figure::ChannelMean { channel: 2 } };
    let json = r#"{"from":"derived","of":{"input":0},"view":{"kind":"image","layout":"nhwc","channels":3,"height":8,"width":8,"black":[0.0],"white":[255.0],"every":2},"figure":"channel_mean","channel":2}"#;
    assert_eq!(serde_json::to_string(&source).unwrap(), json);
    assert_eq!(serde_json::from_str::<Source>(json).unwrap(), source);
    let newer = json.replace("channel_mean", "colour_cast");
    assert!(serde_json::from_str::<Source>(&newer).unwrap_err().to_string().starts_with("unknown variant `colour_cast`"));
}

#[test]
fn what_makes_no_sense_is_refused() {
    let image = picture(Layout::Nchw, 3, 4, 4);
    assert!(image.check(48).is_ok() && image.check(96).is_ok());
    let sizes = image.check(47).unwrap_err().to_string();
    assert_eq!(sizes, "an image of these sizes does not fit a tensor of 47 elements");
    for bad in [
        picture(Layout::Nchw, 0, 4, 4),
        picture(Layout::Nchw, 17, 4, 4),
        picture(Layout::Nhwc, 3, 0, 4),
        View::Image { layout: Layout::Nchw, channels: 3, height: 4, width: 4, black: vec![1.0], white: vec![1.0], every: 1 },
        View::Image { layout: Layout::Nchw, channels: 3, height: 4, width: 4, black: vec![0.0, 1.0], white: vec![9.0], every: 1 },
        View::Image { layout: Layout::Nchw, channels: 3, height: 4, width: 4, black: vec![0.0], white: vec![f32::NAN], every: 1 },
        View::Image { layout: Layout::Nchw, channels: 3, height: 4, width: 4, black: vec![0.0], white: vec![1.0], every: 0 },
        View::Audio { rate: 0, full_scale: 1.0, frames: 1 },
        View::Audio { rate: 1, full_scale: -1.0, frames: 1 },
        View::Audio { rate: 1, full_scale: 1.0, frames: 65 },
    ] {
        assert!(bad.check(48).is_err(), "{bad:?}");
    }
    assert!(image.check_figure(Figure::ChannelMean { channel: 3 }).is_err());
    let foreign = image.check_figure(Figure::Rms).unwrap_err().to_string();
    assert!(foreign.contains("Rms cannot be taken from an image"), "{foreign}");
    assert!(View::Text { padding: None, unknown: None }.check_figure(Figure::Unknown).is_err());
    assert!(View::Embedding { seed: 0 }.check_figure(Figure::Projection { direction: MAX_DIRECTIONS }).is_err());
    assert!(serde_json::from_str::<View>(r#"{"kind":"smell"}"#).unwrap_err().to_string().contains("unknown variant `smell`"));
    assert_eq!(
        serde_json::from_str::<View>(r#"{"kind":"audio","rate":8000,"full_scale":1}"#).unwrap(),
        View::Audio { rate: 8_000, full_scale: 1.0, frames: 8 }
    );
}
