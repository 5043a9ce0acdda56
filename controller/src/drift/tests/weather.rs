//! Forty-five years of the real weather, seen by twelve stations with small errors of their own, one of which breaks in 1966.
//!
//! The series is the one the demo replays; only its numbers are read here, as the controller must not know the simulator. It has
//! all that fools detectors: season, days that depend on each other, values rounded to a few steps, and real changes.
use super::*;

static BYTES: &[u8] = include_bytes!("../../../../firmware-sim/data/bellevue.bin");
const NAMES: [&str; 8] =
    ["temperature", "dew_point", "pressure", "visibility", "wind_speed", "max_wind_speed", "min_temperature", "max_temperature"];
const DAY: i64 = 86_400_000;
const ROWS: usize = 18_159;
const STATIONS: usize = 12;
const TRAINED_ON: usize = 1826;
const BREAKS_AT: usize = TRAINED_ON + 12 * 365;

/// Day `row`, feature `column`; the handful of values outside ±16 standard deviations are left at that bound.
fn value(row: usize, column: usize) -> f64 {
    let at = 12 + (column * ROWS + row) * 2;
    f64::from(i16::from_le_bytes([BYTES[at], BYTES[at + 1]])) / 2000.0
}

fn deciles() -> Reference {
    let feature = |index: usize| {
        let mut values: Vec<f64> = (0..TRAINED_ON).map(|row| value(row, index)).collect();
        values.sort_by(f64::total_cmp);
        let mut edges: Vec<f64> = (0..=10).map(|q| values[(values.len() - 1) * q / 10]).collect();
        edges.dedup();
        let cuts = Cuts::Numeric { edges };
        let mut masses = vec![0.0; SPECIALS + cuts.bins()];
        values.iter().for_each(|&x| masses[cuts.bin(Some(x))] += 1.0 / values.len() as f64);
        FeatureReference {
            name: NAMES[index].into(),
            source: Source::Input { tensor: 0, index },
            cuts,
            masses,
            importance: None,
            worth: None,
        }
    };
    Reference { rows: TRAINED_ON as u64, features: (0..NAMES.len()).map(feature).collect() }
}

/// (first alarm about each feature of the world, instruments under alarm in the end, when the broken one was found), in days.
fn replay(feature: usize, broken: impl Fn(f64) -> Option<f64>) -> (BTreeMap<String, usize>, Vec<String>, Option<usize>) {
    let reference = deciles();
    let policy = DriftPolicy {
        budget: Budget { false_alarms: 1.0, period_ms: 45 * 365 * DAY },
        block_ms: 30 * DAY,
        season_ms: 365 * DAY,
        base_blocks: 12,
        ..DriftPolicy::default()
    };
    let setting = Setting { reference: &reference, policy: &policy, devices: 60, cohorts: 3 };
    let mut chance = Chance::new(21);
    let offsets: Vec<Vec<f64>> = (0..STATIONS).map(|_| (0..8).map(|_| 0.05 * chance.normal()).collect()).collect();
    let mut monitor = monitor(&reference);
    let (mut moved, mut found) = (BTreeMap::new(), None);
    for start in (TRAINED_ON..ROWS - 30).step_by(30) {
        for (station, own) in offsets.iter().enumerate() {
            let rows: Vec<Vec<Option<f64>>> = (start..start + 30)
                .map(|row| {
                    let read = |f: usize| value(row, f) + own[f] + 0.05 * chance.normal();
                    (0..8).map(read).collect::<Vec<f64>>()
                })
                .enumerate()
                .map(|(day, values)| {
                    let spoilt = |f: usize| station == 3 && f == feature && start + day >= BREAKS_AT;
                    values.iter().enumerate().map(|(f, &v)| if spoilt(f) { broken(v) } else { Some(v) }).collect()
                })
                .collect();
            let at = |row: usize| Timestamp::from_millis(row as i64 * DAY);
            let mut report = report(&reference, 0, 0, &rows);
            report.data_time = Some((at(start), at(start + 29)));
            // What the recorder measures on this series: the largest lag-1 autocorrelation of a bin, over its history.
            report.rho_percent = vec![67, 66, 30, 34, 23, 27, 67, 62];
            monitor.observe(&setting, &device(station), &report).unwrap();
        }
        for verdict in monitor.world(&setting).into_iter().filter(|v| v.moved) {
            moved.entry(verdict.feature).or_insert(start);
        }
        if found.is_none() && monitor.broken().contains(&device(3)) {
            found = Some(start);
        }
    }
    let instruments = monitor.instruments().into_iter().map(|v| format!("{} {}", v.device.unwrap(), v.feature)).collect();
    (moved, instruments, found)
}

#[test]
fn the_broken_station_is_found_within_months_and_no_other_is_ever_accused() {
    type Fault = fn(f64) -> Option<f64>;
    let table: [(usize, Fault); 3] = [(4, |_| Some(-0.4)), (0, |v| Some(v + 1.0)), (3, |_| None)];
    for (feature, broken) in table {
        let (moved, instruments, found) = replay(feature, broken);
        assert_eq!(instruments, [format!("station-03 {}", NAMES[feature])]);
        let days = found.unwrap() - BREAKS_AT;
        assert!(days <= 180, "{}: found after {days} days", NAMES[feature]);
        // The dew point changes for good on day 12,000 or so; the temperature only ever has seasons and years.
        let changed = moved["dew_point"];
        assert!((12_000..13_000).contains(&changed), "dew point on day {changed}");
        assert!(!moved.contains_key("temperature") && !moved.contains_key("max_temperature"), "{moved:?}");
    }
}
