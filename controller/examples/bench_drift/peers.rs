//! The same raw values for other people's tools: written down, and judged here, so that one run compares both.
//!
//! Some devices of a cohort are watched with all their features: some quiet days, then all features of the watched devices shift by half
//! a standard deviation. `tests/interop/bench_drift.py` runs this and shows its tools the same values window by window.
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{BufWriter, Write as _};
use std::path::Path;

use leeway_controller::drift::{Monitor, Setting};

use super::world::{FEATURES, Fault, Setup, World, manifest};
use super::{DAYS, ROWS, device, on_processor, policy};

/// Devices in the cohort, and those whose values are written.
const COHORT: usize = 40;
const WATCHED: usize = 2;
/// Quiet days, and days with the fault.
const QUIET: i64 = 5;
const BROKEN: i64 = 2;
/// Rows of the training set that the tools are given.
const TRAINING_ROWS: usize = 5_000;

/// Write `meta.json`, `training.f64` (feature, row) and `windows.f64` (window, watched device, feature, row), little-endian, NaN where
/// a value is missing; print what the detector said as JSON.
pub fn run(dir: &Path) -> std::io::Result<()> {
    fs::create_dir_all(dir)?;
    let mut world = World::new(Setup::ALL, COHORT, 77);
    let mut training = BufWriter::new(File::create(dir.join("training.f64"))?);
    for index in 0..FEATURES {
        write(&mut training, &world.training_values(index, TRAINING_ROWS))?;
    }
    training.flush()?;
    let reference = world.reference.clone();
    let policy = policy(DAYS);
    let setting = Setting { reference: &reference, policy: &policy, devices: 2_000, cohorts: 10 };
    let mut monitor = Monitor::new("bench".parse().expect("a valid name"), manifest(), &reference);
    let mut windows = BufWriter::new(File::create(dir.join("windows.f64"))?);
    let (mut judging, mut false_alarms) = (std::time::Duration::ZERO, BTreeSet::new());
    let mut found: Vec<i64> = Vec::new();
    let mut seen = BTreeSet::new();
    for block in 0..(QUIET + BROKEN) * 24 {
        world.step();
        let since = block - QUIET * 24;
        for d in 0..COHORT {
            let fault = if since >= 0 && d < WATCHED { Fault::Shift(0.5) } else { Fault::None };
            let values: Vec<Vec<f64>> = (0..FEATURES).map(|i| world.values(d, i, block, ROWS, fault)).collect();
            if d < WATCHED {
                values.iter().try_for_each(|v| write(&mut windows, v))?;
            }
            let report = world.window_of(d, block, &values);
            let started = on_processor();
            monitor.observe(&setting, &device(d), &report).expect("a window in time");
            judging += on_processor().saturating_sub(started);
        }
        let moved = monitor.instruments().into_iter().filter_map(|v| Some((v.device?, v.index)));
        for alarm in moved.filter(|alarm| seen.insert(alarm.clone())).collect::<Vec<_>>() {
            match since >= 0 && (0..WATCHED).any(|d| device(d) == alarm.0) {
                true => found.push(since + 1),
                false => _ = false_alarms.insert(alarm),
            }
        }
    }
    windows.flush()?;
    let (quiet, all) = (QUIET * 24, (QUIET + BROKEN) * 24);
    let meta = format!(
        "{{\"features\":{FEATURES},\"rows\":{ROWS},\"devices\":{WATCHED},\"quiet\":{quiet},\"windows\":{all},\"training_rows\":{TRAINING_ROWS}}}"
    );
    fs::write(dir.join("meta.json"), meta)?;
    println!(
        "{{\"name\":\"Leeway (a cohort of {COHORT}, thresholds of 2,000 devices)\",\"alarms\":{},\"quiet\":{},\"found\":{found:?},\"streams\":{},\"seconds\":{},\"windows\":{}}}",
        false_alarms.len(),
        COHORT * FEATURES * quiet as usize,
        WATCHED * FEATURES,
        judging.as_secs_f64(),
        COHORT * FEATURES * all as usize
    );
    Ok(())
}

fn write(file: &mut impl std::io::Write, values: &[f64]) -> std::io::Result<()> {
    values.iter().try_for_each(|v| file.write_all(&v.to_le_bytes()))
}
