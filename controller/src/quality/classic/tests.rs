//! The same rows as river, the same alarms; blocks of counts; bounds.
use super::adwin::Change;
use super::*;

/// What `tests/interop/river_detectors.py` wrote with river.
const TABLE: &str = include_str!("../../../../tests/interop/river.tsv");

/// The rows of a stream as the script makes them: segments of `rows:per_mille` by a linear congruential generator.
fn rows(seed: u64, segments: &str) -> Vec<bool> {
    let mut state = seed;
    let mut made = Vec::new();
    for segment in segments.split(',') {
        let (rows, per_mille) = segment.split_once(':').unwrap();
        for _ in 0..rows.parse::<u32>().unwrap() {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            made.push((state >> 33) % 1000 < per_mille.parse::<u64>().unwrap());
        }
    }
    made
}

#[test]
fn alarms_fall_on_the_same_rows_as_rivers() {
    let (mut streams, mut cuts, mut alarms) = (0, 0, 0);
    for line in TABLE.lines().filter(|line| !line.starts_with('#')) {
        let [name, seed, segments, adwin_rows, widths, page_rows] = line.split('\t').collect::<Vec<_>>()[..] else { panic!("{line}") };
        let rows = rows(seed.parse().unwrap(), segments);
        let (mut adwin, mut page, mut found) = (Adwin::default(), PageHinkley::default(), (Vec::new(), Vec::new(), Vec::new()));
        for (i, &wrong) in rows.iter().enumerate() {
            if adwin.add(wrong).is_some() {
                found.0.push(i.to_string());
                found.1.push(adwin.width().to_string());
                // River forgets the whole window with the row that follows; the paper keeps its newer part.
                adwin = Adwin::default();
            }
            if page.add(wrong) {
                found.2.push(i.to_string());
            }
        }
        cuts += found.0.len();
        alarms += found.2.len();
        streams += 1;
        assert_eq!(
            (found.0.join(","), found.1.join(","), found.2.join(",")),
            (adwin_rows.into(), widths.into(), page_rows.into()),
            "{name}"
        );
    }
    assert!(streams >= 12 && cuts >= 12 && alarms >= 8, "{streams} streams, {cuts} cuts, {alarms} alarms");
}

#[test]
fn a_block_is_spread_evenly_and_bounded() {
    for (errors, rows) in [(0, 10), (10, 10), (3, 10), (1, 1000), (999, 1000), (0, 0)] {
        let made: Vec<bool> = spread(errors, rows).collect();
        assert_eq!((made.len() as u64, made.iter().filter(|w| **w).count() as u64), (rows, errors));
    }
    assert_eq!(spread(3, 9).map(u8::from).collect::<Vec<_>>(), [0, 0, 1, 0, 0, 1, 0, 0, 1]);
    let huge: Vec<bool> = spread(u64::MAX / 4, u64::MAX).collect();
    assert_eq!((huge.len() as u64, huge.iter().filter(|w| **w).count() as u64), (MAX_FED, MAX_FED / 4 - 1));
}

#[test]
fn a_rise_between_blocks_is_told_and_a_fall_is_not() {
    let at = |day: i64| Timestamp::from_secs(day * 86_400);
    let run = |before: u64, after: u64| {
        let mut classic = Classic::default();
        for day in 0..60 {
            classic.feed(at(day), if day < 30 { before } else { after }, 100);
        }
        classic
    };
    let rose = run(10, 40);
    for opinion in rose.opinions() {
        let day = opinion.last.map(|l| l.as_millis() / 86_400_000);
        assert!(day.is_some_and(|d| (30..36).contains(&d)), "{opinion:?}");
    }
    assert!(rose.opinions()[0].words().starts_with("ADWIN a rise on 1970-02-0"), "{}", rose.opinions()[0].words());
    for quiet in [run(40, 10), run(10, 10)] {
        assert!(quiet.opinions().iter().all(|o| o.rises == 0 && o.words().ends_with("none")), "{quiet:?}");
    }
    let json = serde_json::to_string(&rose).unwrap();
    assert_eq!(serde_json::from_str::<Classic>(&json).unwrap(), rose);
    assert_eq!(serde_json::from_str::<Classic>("{}").unwrap(), Classic::default());
}

#[test]
fn the_window_keeps_its_newer_part_and_stays_small() {
    let mut adwin = Adwin::default();
    let changes: Vec<Change> = (0..4_000).filter_map(|i| adwin.add(i >= 2_000 && i % 2 == 0)).collect();
    assert_eq!(changes.first(), Some(&Change::Rise));
    assert!((1_900..2_100).contains(&adwin.width()) && adwin.share().is_some_and(|s| s > 0.45), "{adwin:?}");
    (0..200_000).for_each(|_| _ = adwin.add(false));
    let json = serde_json::to_string(&adwin).unwrap();
    assert!(json.len() < 1_000, "{} bytes for {} rows", json.len(), adwin.width());
}
