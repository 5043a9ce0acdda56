//! Seeded simulations: the promise on false alarms, what is found how fast, and a broken station under a changing sky.
use leeway_protocol::ids::WindowId;
use leeway_protocol::manifest::CONFIDENCE_BINS;
use leeway_protocol::profile::{Counts, Cuts, FeatureReference, SPECIALS, Source};
use leeway_protocol::report::{Errors, LATENCY_BUCKETS, Labelled};
use leeway_protocol::time::Timestamp;

use super::magnitude::Direction;
use super::*;
use crate::sequential::tests::Chance;

const BLOCK_MS: i64 = 1000;

/// Deciles of the standard normal.
const DECILES: [f64; 9] = [-1.2816, -0.8416, -0.5244, -0.2533, 0.0, 0.2533, 0.5244, 0.8416, 1.2816];

fn reference(features: usize) -> Reference {
    let edges: Vec<f64> = [-4.5].into_iter().chain(DECILES).chain([4.5]).collect();
    let feature = |index| {
        let mut masses = vec![0.0; SPECIALS];
        masses.extend([0.1; 10]);
        let source = Source::Input { tensor: 0, index };
        FeatureReference {
            name: format!("feature_{index}"),
            source,
            cuts: Cuts::Numeric { edges: edges.clone() },
            masses,
            importance: None,
            worth: None,
        }
    };
    Reference { rows: 50_000, features: (0..features).map(feature).collect() }
}

fn report(reference: &Reference, block: i64, rho: u8, rows: &[Vec<Option<f64>>]) -> WindowReport {
    let mut features = reference.empty_counts();
    for row in rows {
        for ((counts, feature), value) in features.iter_mut().zip(&reference.features).zip(row) {
            counts.0[feature.cuts.bin(*value)] += 1;
        }
    }
    let at = Timestamp::from_millis(block * BLOCK_MS + BLOCK_MS / 2);
    WindowReport {
        manifest: Digest::of(b"m"),
        model: Digest::of(b"o"),
        window: WindowId(block as u64),
        opened_at: at,
        closed_at: at,
        inferences: rows.len() as u64,
        recorded: rows.len() as u64,
        errors: Errors::default(),
        latency: vec![0; LATENCY_BUCKETS],
        rho_percent: vec![rho; features.len()],
        features,
        confidence: [0; CONFIDENCE_BINS],
        classes: vec![],
        labelled: [Labelled::default(); CONFIDENCE_BINS],
        data_time: Some((at, at)),
        user: Default::default(),
    }
}

fn device(i: usize) -> DeviceId {
    format!("station-{i:02}").parse().unwrap()
}

fn monitor(reference: &Reference) -> Monitor {
    Monitor::new("coast".parse().unwrap(), Digest::of(b"m"), reference)
}

/// A stream of one device's values with autocorrelation.
struct Series {
    rho: f64,
    last: f64,
}

impl Series {
    fn next(&mut self, chance: &mut Chance) -> f64 {
        self.last = self.rho * self.last + (1.0 - self.rho * self.rho).sqrt() * chance.normal();
        self.last
    }
}

#[test]
fn false_alarms_about_the_world_stay_within_the_budget() {
    // 120 one-device cohorts, 60 blocks of 100 rows: the budget allows 2 alarms in that time.
    let reference = reference(1);
    let policy = DriftPolicy {
        budget: Budget { false_alarms: 2.0, period_ms: 60 * BLOCK_MS },
        cohort_share: 1.0,
        block_ms: BLOCK_MS,
        ..DriftPolicy::default()
    };
    let setting = Setting { reference: &reference, policy: &policy, devices: 120, cohorts: 120 };
    for (seed, rho) in [(1, 0.0), (2, 0.8)] {
        let mut chance = Chance::new(seed);
        let alarms = (0..120)
            .filter(|_| {
                let mut monitor = monitor(&reference);
                let mut series = Series { rho, last: chance.normal() };
                for block in 0..60 {
                    let rows: Vec<_> = (0..100).map(|_| vec![Some(series.next(&mut chance))]).collect();
                    monitor.observe(&setting, &device(0), &report(&reference, block, (rho * 100.0) as u8, &rows)).unwrap();
                }
                monitor.settle(&setting);
                monitor.world(&setting)[0].alarmed_at.is_some()
            })
            .count();
        assert!(alarms <= 2, "{alarms} alarms at rho {rho}");
    }
}

/// Blocks until "the world moved", if within 60; 2,880 streams' worth of threshold.
fn delay(seed: u64, mut value: impl FnMut(&mut Chance) -> Option<f64>) -> (Option<i64>, Direction, String) {
    let reference = reference(1);
    let policy =
        DriftPolicy { budget: Budget { false_alarms: 1.0, period_ms: 720 * BLOCK_MS }, block_ms: BLOCK_MS, ..DriftPolicy::default() };
    let setting = Setting { reference: &reference, policy: &policy, devices: 40_000, cohorts: 20_000 };
    assert!((setting.cohort_threshold() - 2.88e7f64.ln()).abs() < 1e-6);
    let mut chance = Chance::new(seed);
    let mut monitor = monitor(&reference);
    for block in 0..60 {
        let rows: Vec<_> = (0..100).map(|_| vec![value(&mut chance)]).collect();
        monitor.observe(&setting, &device(0), &report(&reference, block, 0, &rows)).unwrap();
        monitor.settle(&setting);
        let verdict = &monitor.world(&setting)[0];
        if verdict.moved {
            return (Some(block + 1), verdict.magnitude.direction, verdict.sentence.clone());
        }
    }
    (None, Direction::None, monitor.world(&setting)[0].sentence.clone())
}

#[test]
fn what_is_found_and_how_fast() {
    // (shift, within so many blocks of 100 rows), at the threshold of 40,000 streams and one alarm a month.
    for (shift, within) in [(0.3, 25), (0.5, 8), (1.0, 3)] {
        let (blocks, direction, sentence) = delay(3, |c| Some(c.normal() + shift));
        assert!(blocks.is_some_and(|b| b <= within) && direction == Direction::Higher, "shift {shift}: {blocks:?} {sentence}");
    }
    let (blocks, direction, sentence) = delay(4, |c| Some(if c.hit(0.1) { 0.1 } else { c.normal() }));
    assert!(blocks.is_some_and(|b| b <= 30), "10 % stuck: {blocks:?} {direction:?} {sentence}");
    let (blocks, direction, sentence) = delay(5, |c| (!c.hit(0.05)).then(|| c.normal()));
    assert!(blocks.is_some_and(|b| b <= 4) && direction == Direction::Missing, "5 % nulls: {blocks:?} {sentence}");
    let (blocks, direction, sentence) = delay(6, |_| Some(0.1));
    assert!(blocks == Some(1) && direction == Direction::Stuck, "all stuck: {blocks:?} {sentence}");
    let (blocks, direction, sentence) = delay(7, |c| Some(c.normal() * 1.6));
    assert!(blocks.is_some_and(|b| b <= 12) && direction == Direction::Wider, "wider: {blocks:?} {direction:?} {sentence}");
    // Inside the tolerance: never.
    let (blocks, _, sentence) = delay(8, |c| Some(c.normal() + 0.05));
    assert_eq!(blocks, None, "{sentence}");
}

/// Twenty stations under one sky: a season, slow weather, own offsets and noise. Whatever `spoil` does to station 3 from `from` on.
struct Sky {
    monitor: Monitor,
    false_devices: BTreeSet<DeviceId>,
    found: Option<i64>,
    sentence: String,
}

fn sky(seed: u64, blocks: i64, from: i64, spoil: impl Fn(f64, &mut Chance) -> Option<f64>) -> Sky {
    let reference = reference(1);
    let policy = DriftPolicy {
        budget: Budget { false_alarms: 1.0, period_ms: blocks * BLOCK_MS },
        block_ms: BLOCK_MS,
        season_ms: 12 * BLOCK_MS,
        base_blocks: 12,
        ..DriftPolicy::default()
    };
    let setting = Setting { reference: &reference, policy: &policy, devices: 60, cohorts: 3 };
    let mut chance = Chance::new(seed);
    let offsets: Vec<f64> = (0..20).map(|_| 0.2 * chance.normal()).collect();
    let mut weather = Series { rho: 0.8, last: 0.0 };
    let mut sky = Sky { monitor: monitor(&reference), false_devices: BTreeSet::new(), found: None, sentence: String::new() };
    for block in 0..blocks {
        let mut rows = vec![Vec::new(); 20];
        for day in 0..30 {
            let phase = (block * 30 + day) as f64 / 360.0 * std::f64::consts::TAU;
            let truth = 1.1 * phase.sin() + 0.6 * weather.next(&mut chance);
            for (i, offset) in offsets.iter().enumerate() {
                let value = truth + offset + 0.15 * chance.normal();
                let value = if i == 3 && block >= from { spoil(value, &mut chance) } else { Some(value) };
                rows[i].push(vec![value]);
            }
        }
        for (i, rows) in rows.iter().enumerate() {
            sky.monitor.observe(&setting, &device(i), &report(&reference, block, 75, rows)).unwrap();
        }
        for verdict in sky.monitor.instruments() {
            let who = verdict.device.clone().unwrap();
            if who == device(3) && block >= from {
                sky.found.get_or_insert(block - from);
                sky.sentence = verdict.sentence;
            } else {
                sky.false_devices.insert(who);
            }
        }
    }
    sky
}

#[test]
fn a_broken_station_is_told_from_the_weather() {
    type Fault = fn(f64, &mut Chance) -> Option<f64>;
    let table: [(&str, Fault); 5] = [
        ("offset", |v, _| Some(v + 1.0)),
        ("dead", |_, _| Some(-1.0)),
        ("missing", |v, c| (!c.hit(0.5)).then_some(v)),
        ("noise", |v, c| Some(v + 2.0 * c.normal())),
        ("scale", |v, _| Some(v * 0.2)),
    ];
    for (seed, (name, spoil)) in table.into_iter().enumerate() {
        let sky = sky(seed as u64, 48, 24, spoil);
        assert!(sky.false_devices.is_empty(), "{name}: falsely {:?}", sky.false_devices);
        assert!(sky.found.is_some_and(|blocks| blocks <= 12), "{name}: found after {:?}", sky.found);
        assert!(sky.sentence.contains("station-03") && sky.sentence.contains("instrument checked"), "{}", sky.sentence);
    }
}

#[test]
fn sound_stations_raise_nothing_in_years_of_seasons() {
    for seed in 10..14 {
        let sky = sky(seed, 72, i64::MAX, |v, _| Some(v));
        assert!(sky.false_devices.is_empty(), "seed {seed}: {:?}", sky.false_devices);
    }
}

#[test]
fn a_new_manifest_starts_anew_but_remembers_broken_instruments() {
    let reference = reference(1);
    let mut sky = sky(0, 48, 24, |v, _| Some(v + 1.0));
    let budget = Budget { false_alarms: 1.0, period_ms: 48 * BLOCK_MS };
    let policy = DriftPolicy { budget, block_ms: BLOCK_MS, ..DriftPolicy::default() };
    let setting = Setting { reference: &reference, policy: &policy, devices: 60, cohorts: 3 };
    let old = report(&reference, 50, 0, &[vec![Some(0.0)]]);
    let next = sky.monitor.rebase(Digest::of(b"m2"), &reference);
    assert_eq!(next.broken().iter().collect::<Vec<_>>(), [&device(3)]);
    assert!(next.world(&setting).iter().all(|v| !v.moved && v.sentence.contains("nothing to compare")));
    assert!(next.instruments()[0].sentence.contains("station-03"), "the alarm is carried over");
    let mut next = next;
    assert_eq!(next.observe(&setting, &device(0), &old), Err(Refusal::OtherManifest));
    next.repaired(&device(3));
    assert!(next.standing().is_empty());
    let misfit = WindowReport { features: vec![Counts(vec![1])], ..report(&reference, 60, 0, &[]) };
    assert_eq!(sky.monitor.observe(&setting, &device(0), &misfit), Err(Refusal::OtherShape));
    assert_eq!(sky.monitor.observe(&setting, &device(0), &report(&reference, 1, 0, &[])), Err(Refusal::Late));
    assert_eq!(sky.monitor.late(), 1);
    let bytes = postcard::to_stdvec(&sky.monitor).unwrap();
    assert_eq!(postcard::from_bytes::<Monitor>(&bytes).unwrap(), sky.monitor);
    let json = serde_json::to_string(&sky.monitor).unwrap();
    assert_eq!(serde_json::from_str::<Monitor>(&json).unwrap().cohort(), sky.monitor.cohort());
}

mod cost;
mod neighbours;
mod release;
mod weather;
