//! What the drift detector promises, and what it finds, on a simulated fleet; beside the rules that are usual elsewhere, on the same windows.
//!
//! Every window goes through [`Monitor::observe`], as ingestion calls it; nothing of the detector is written again here. The
//! fleet is a month of hourly windows of 100 rows, 20 features (eight with the quantiles of fifty years of real weather), devices
//! in cohorts of 200 with offsets of their own, a daily season for all, and rows that depend on each other by up to 0.95. Budget: one
//! false alarm a month in the whole fleet, half for the world and half for instruments, and thresholds for the fleet's real size.
//!
//! Tables: false alarms of a month in which nothing happens, whole and with one difficulty at a time; a fleet that grows tenfold in
//! the month; the delay until faults are found; the usual rules on the same windows; what judging costs.
//!
//! `cargo run --release -p leeway-controller --example bench_drift -- [--quick] [--seeds N] [--devices N] [--only WORLD]`
//! Beside Evidently, whylogs and river: `tests/interop/bench_drift.py`, which runs this with `--values DIR`.
use std::collections::BTreeSet;
use std::time::{Duration, Instant, SystemTime};

use leeway_controller::drift::{DriftPolicy, Monitor, Setting};
use leeway_protocol::ids::DeviceId;

#[path = "bench_drift/peers.rs"]
mod peers;
#[path = "bench_drift/rules.rs"]
mod rules;
#[path = "bench_drift/world.rs"]
mod world;

use rules::{RULES, Rules};
use world::{FEATURES, Fault, HOUR, Setup, World, manifest};

/// Rows in a window.
const ROWS: usize = 100;
/// Devices whose windows the usual rules see too: one in so many.
const RULED: usize = 20;
/// Days of a month, and of the quick one.
const DAYS: i64 = 30;
const QUICK_DAYS: i64 = 6;

struct Size {
    seeds: u64,
    devices: usize,
    days: i64,
    quick: bool,
    /// Only worlds whose name holds this, and no delays.
    only: Option<String>,
}

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let stated = |name: &str| args.iter().position(|a| a == name).and_then(|i| args.get(i + 1)).and_then(|n| n.parse::<usize>().ok());
    if let Some(dir) = args.iter().position(|a| a == "--values").and_then(|i| args.get(i + 1)) {
        peers::run(std::path::Path::new(dir)).expect("the folder can be written");
        return;
    }
    let quick = args.iter().any(|a| a == "--quick");
    let size = Size {
        seeds: stated("--seeds").unwrap_or(if quick { 1 } else { 3 }) as u64,
        devices: stated("--devices").unwrap_or(if quick { 40 } else { 2_000 }),
        days: if quick { QUICK_DAYS } else { DAYS },
        quick,
        only: args.iter().position(|a| a == "--only").and_then(|i| args.get(i + 1)).cloned(),
    };
    let started = Instant::now();
    let promise = DriftPolicy::default().budget.sentence();
    println!("{} devices × {FEATURES} features × {} hourly windows of {ROWS} rows. {promise}\n", size.devices, size.days * 24);
    let spent = false_alarms(&size);
    if size.only.is_none() {
        delays(&size);
    }
    println!("## What judging costs\n");
    println!("| | |\n|---|---|");
    println!(
        "| a million device-feature windows through the monitor | {:.2} s |",
        spent.judging.as_secs_f64() * 1e6 / spent.windows as f64
    );
    println!("| windows judged in this run | {:.1} M |\n", spent.windows as f64 / 1e6);
    println!("{:.0} s.", started.elapsed().as_secs_f64());
}

fn policy(days: i64) -> DriftPolicy {
    let mut policy = DriftPolicy { season_ms: 24 * HOUR, ..DriftPolicy::default() };
    policy.budget.period_ms = days * 24 * HOUR;
    policy
}

fn device(i: usize) -> DeviceId {
    format!("device-{i:05}").parse().expect("a valid name")
}

#[derive(Default)]
struct Spent {
    judging: Duration,
    windows: u64,
}

/// How long this thread has been on a processor, so that a busy machine does not count; the clock where the kernel does not say.
fn on_processor() -> Duration {
    let told = std::fs::read_to_string("/proc/thread-self/schedstat").ok();
    let nanos = told.and_then(|text| text.split(' ').next().and_then(|n| n.parse().ok()));
    nanos.map_or_else(|| SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default(), Duration::from_nanos)
}

/// What one month of nothing raised.
#[derive(Default)]
struct Null {
    instruments: usize,
    worlds: usize,
    /// The highest evidence of a sound stream about the world, beside its threshold.
    nearest: (f64, f64),
    fired: [u64; RULES],
    ruled: u64,
    spent: Spent,
    words: Option<String>,
}

impl Null {
    fn add(&mut self, other: Self) {
        self.instruments += other.instruments;
        self.worlds += other.worlds;
        if other.nearest.0 - other.nearest.1 > self.nearest.0 - self.nearest.1 || self.nearest.1 == 0.0 {
            self.nearest = other.nearest;
        }
        self.fired.iter_mut().zip(other.fired).for_each(|(a, b)| *a += b);
        self.ruled += other.ruled;
        self.spent.judging += other.spent.judging;
        self.spent.windows += other.spent.windows;
        self.words = self.words.take().or(other.words);
    }
}

/// One cohort for a month. `fleet` is the fleet's size on a day, and `joined` how many of this cohort's devices are there.
fn month(setup: Setup, days: i64, cohort: usize, seed: u64, fleet: impl Fn(i64) -> u64, joined: impl Fn(i64) -> usize) -> Null {
    let mut world = World::new(setup, cohort, seed);
    let reference = world.reference.clone();
    let policy = policy(days);
    let mut monitor = Monitor::new("bench".parse().expect("a valid name"), manifest(), &reference);
    let names: Vec<DeviceId> = (0..cohort).map(device).collect();
    let mut rules: Vec<Rules> = (0..cohort.div_ceil(RULED) * FEATURES).map(|_| Rules::new()).collect();
    let mut null = Null::default();
    let mut standing = BTreeSet::new();
    for block in 0..days * 24 {
        world.step();
        let devices = fleet(block / 24);
        let setting = Setting { reference: &reference, policy: &policy, devices, cohorts: devices.div_ceil(setup.cohort as u64) };
        let mut reports = Vec::with_capacity(cohort);
        for d in 0..joined(block / 24) {
            let report = world.window(d, block, ROWS, |_| Fault::None);
            if d % RULED == 0 {
                for (i, counts) in report.features.iter().enumerate() {
                    let fired = rules[d / RULED * FEATURES + i].fire(&reference.features[i].masses, reference.rows as f64, &counts.0);
                    null.fired.iter_mut().zip(fired).for_each(|(sum, one)| *sum += u64::from(one));
                    null.ruled += 1;
                }
            }
            reports.push(report);
        }
        let started = on_processor();
        for (name, report) in names.iter().zip(&reports) {
            monitor.observe(&setting, name, report).expect("a window in time");
        }
        null.spent.judging += on_processor().saturating_sub(started);
        null.spent.windows += (reports.len() * FEATURES) as u64;
        if block % 24 == 23 {
            let now: BTreeSet<String> = monitor.world(&setting).into_iter().filter(|v| v.moved).map(|v| v.feature).collect();
            null.worlds += now.difference(&standing).count();
            standing = now;
            if let Some(v) = monitor.world(&setting).iter().max_by(|a, b| a.log_evidence.total_cmp(&b.log_evidence)) {
                if null.nearest.1 == 0.0 || v.log_evidence - v.log_threshold > null.nearest.0 - null.nearest.1 {
                    null.nearest = (v.log_evidence, v.log_threshold);
                }
                if v.moved && null.words.is_none() {
                    null.words = Some(v.sentence.clone());
                }
            }
        }
    }
    let alarms = monitor.instruments();
    null.instruments = alarms.len();
    if let Some(first) = alarms.first() {
        null.words = Some(first.sentence.clone());
    }
    null
}

/// All cohorts of a fleet, over the processors.
fn fleet_month(setup: Setup, size: &Size, devices: usize, seed: u64, grows: bool) -> Null {
    let cohorts: Vec<usize> = (0..devices.div_ceil(setup.cohort)).map(|c| setup.cohort.min(devices - c * setup.cohort)).collect();
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let days = size.days;
    let share = move |day: i64| if grows { 0.1 + 0.9 * day as f64 / (days - 1) as f64 } else { 1.0 };
    let fleet = move |day: i64| (devices as f64 * share(day)).round() as u64;
    let run = |c: usize, cohort: usize| {
        month(setup, days, cohort, seed * 1_000 + c as u64, fleet, |day| ((cohort as f64 * share(day)).ceil() as usize).min(cohort))
    };
    let mut sum = Null::default();
    for chunk in (0..cohorts.len()).collect::<Vec<_>>().chunks(threads) {
        let parts: Vec<Null> = std::thread::scope(|scope| {
            let handles: Vec<_> = chunk
                .iter()
                .map(|&c| {
                    scope.spawn({
                        let n = cohorts[c];
                        let run = &run;
                        move || run(c, n)
                    })
                })
                .collect();
            handles.into_iter().map(|h| h.join().expect("a cohort's month ends")).collect()
        });
        parts.into_iter().for_each(|p| sum.add(p));
    }
    sum
}

fn false_alarms(size: &Size) -> Spent {
    let one = |name, rho, offset, season| Setup { name, rho, offset, season, ..Setup::ALL };
    let table = [
        (Setup::PLAIN, false),
        (one("autocorrelation 0–0.95 only", 0.95, false, false), false),
        (one("offsets only", 0.0, true, false), false),
        (one("season only", 0.0, false, true), false),
        (Setup::ALL, false),
        (Setup { cohort: 1, ..one("every device a cohort of its own, autocorrelation 0–0.95", 0.95, false, true) }, false),
        (Setup { name: "all, and the fleet grows tenfold", ..Setup::ALL }, true),
        (Setup { name: "all, and weather of 0.2 sd for days (not promised)", weather: 0.2, ..Setup::ALL }, false),
    ];
    println!("## False alarms in a month in which nothing happens\n");
    println!("Mean number per fleet-month (95 % interval) over {} seeds; the budget allows 0.5 and 0.5.\n", size.seeds);
    println!("| world | this instrument | the world moved | highest evidence about the world, threshold |\n|---|---|---|---|");
    let mut spent = Spent::default();
    let mut usual = Vec::new();
    let mut words = None;
    for (setup, grows) in table.into_iter().filter(|(s, _)| size.only.as_ref().is_none_or(|only| s.name.contains(only.as_str()))) {
        let mut sum = Null::default();
        // One difficulty at a time is a diagnosis: a tenth of the fleet is enough for it.
        let whole = setup.name == Setup::ALL.name || grows;
        let devices = if whole { size.devices } else { size.devices.div_ceil(10).max(200.min(size.devices)) };
        (0..size.seeds).for_each(|seed| sum.add(fleet_month(setup, size, devices, seed + 1, grows)));
        let rate = |n: usize| interval(n, size.seeds as f64);
        println!(
            "| {} ({devices} devices) | {} | {} | e^{:.1}, e^{:.1} |",
            setup.name,
            rate(sum.instruments),
            rate(sum.worlds),
            sum.nearest.0,
            sum.nearest.1
        );
        let scale = |n: u64| n as f64 / sum.ruled as f64;
        usual.push((setup.name, sum.fired.map(scale)));
        words = words.or(sum.words);
        spent.judging += sum.spent.judging;
        spent.windows += sum.spent.windows;
    }
    if let Some(words) = words {
        println!("\nFor example: {words}");
    }
    println!("\n## The usual rules on the same windows\n");
    println!("Alarms in a fleet-month of {} devices (share of windows), on every twentieth device.\n", size.devices);
    println!("| world | {} |\n|---|{}", rules::NAMES.join(" | "), "---|".repeat(RULES));
    for (name, shares) in usual {
        let month = (size.devices * FEATURES) as f64 * (size.days * 24) as f64;
        let cells: Vec<String> = shares.iter().map(|s| format!("{:.0} ({:.2} %)", s * month, s * 100.0)).collect();
        println!("| {name} | {} |", cells.join(" | "));
    }
    println!();
    spent
}

/// Mean of a Poisson count over `months`, with its exact-enough interval (Byar).
fn interval(n: usize, months: f64) -> String {
    let x = n as f64;
    let bound = |x: f64, z: f64| if x <= 0.0 { 0.0 } else { x * (1.0 - 1.0 / (9.0 * x) + z / (3.0 * x.sqrt())).powi(3) };
    let high = if n == 0 { 3.689 } else { bound(x + 1.0, 1.96) };
    format!("{:.2} ({:.2}–{:.2})", x / months, bound(x, -1.96) / months, high / months)
}

/// How long a fault took, over the streams that had it.
#[derive(Default)]
struct Delay {
    found: Vec<i64>,
    streams: usize,
    psi: f64,
    sup: f64,
    wasserstein: Vec<f64>,
}

impl Delay {
    fn cell(&mut self) -> String {
        self.found.sort_unstable();
        let Some(&median) = self.found.get(self.found.len() / 2) else { return format!("never ({} streams)", self.streams) };
        let last = self.found[(self.found.len() * 9 / 10).min(self.found.len() - 1)];
        let missed = 100.0 * (1.0 - self.found.len() as f64 / self.streams as f64);
        format!("{median} / {last} (missed {missed:.0} %)")
    }
}

/// A month in which all features break after `quiet` days: on one device each, or on the whole cohort.
fn broken(fault: Fault, everywhere: bool, setup: Setup, size: &Size, seed: u64, delay: &mut Delay, usual: &mut [Delay]) {
    let (cohort, quiet, days) = (40.min(size.devices), if size.quick { 2 } else { 7 }, if size.quick { 5 } else { 21 });
    let mut world = World::new(setup, cohort, seed);
    let reference = world.reference.clone();
    let policy = policy(DAYS);
    let setting = Setting { reference: &reference, policy: &policy, devices: 2_000, cohorts: 10 };
    let mut monitor = Monitor::new("bench".parse().expect("a valid name"), manifest(), &reference);
    let names: Vec<DeviceId> = (0..cohort).map(device).collect();
    let mut rules: Vec<Rules> = (0..FEATURES).map(|_| Rules::new()).collect();
    let mut seen = [[false; RULES]; FEATURES];
    let mut found = BTreeSet::new();
    delay.streams += FEATURES;
    for block in 0..days * 24 {
        world.step();
        let since = block - quiet * 24;
        for (d, name) in names.iter().enumerate() {
            let breaks = |i: usize| if since >= 0 && (everywhere || i == d) { fault } else { Fault::None };
            let report = world.window(d, block, ROWS, breaks);
            if d < FEATURES {
                let fired = rules[d].fire(&reference.features[d].masses, reference.rows as f64, &report.features[d].0);
                for (r, _) in fired.iter().enumerate().filter(|&(_, &f)| f && since >= 0) {
                    if !std::mem::replace(&mut seen[d][r], true) {
                        usual[r].found.push(since + 1);
                    }
                }
            }
            monitor.observe(&setting, name, &report).expect("a window in time");
        }
        let verdicts = if everywhere { monitor.world(&setting) } else { monitor.instruments() };
        for v in verdicts.iter().filter(|v| v.moved && since >= 0) {
            let right = everywhere || v.device.as_ref() == names.get(v.index);
            if right && found.insert(v.index) {
                delay.found.push(since + 1);
                delay.psi += v.magnitude.psi;
                delay.sup += v.magnitude.sup_cdf;
                delay.wasserstein.extend(v.magnitude.wasserstein);
            }
        }
        if found.len() == FEATURES {
            break;
        }
    }
    usual.iter_mut().for_each(|u| u.streams += FEATURES);
}

fn delays(size: &Size) {
    let faults = [
        ("shift 0.1 sd", Fault::Shift(0.1)),
        ("shift 0.2 sd", Fault::Shift(0.2)),
        ("shift 0.3 sd", Fault::Shift(0.3)),
        ("shift 0.5 sd", Fault::Shift(0.5)),
        ("shift 1 sd", Fault::Shift(1.0)),
        ("scale × 1.3", Fault::Scale(1.3)),
        ("stuck", Fault::Stuck),
        ("1 % nulls", Fault::Nulls(0.01)),
        ("5 % nulls", Fault::Nulls(0.05)),
        ("10 % nulls", Fault::Nulls(0.1)),
    ];
    for setup in [Setup::ALL, Setup::PLAIN] {
        println!("## Windows until a fault is found ({})\n", setup.name);
        println!(
            "Median / 90 % of those found, and the share missed within the days left; thresholds of 2,000 devices and one alarm a month."
        );
        println!(
            "Magnitude as the alarm stated it (PSI, largest gap of the cumulative shares). Each feature's unit is its own; W is in it.\n"
        );
        println!(
            "| fault | one device | stated | whole cohort | stated | {} |\n|---|---|---|---|---|{}",
            rules::NAMES.join(" | "),
            "---|".repeat(RULES)
        );
        for (name, fault) in faults {
            let [mut one, mut all] = [Delay::default(), Delay::default()];
            let mut usual: Vec<Delay> = (0..RULES).map(|_| Delay::default()).collect();
            let mut ignored: Vec<Delay> = (0..RULES).map(|_| Delay::default()).collect();
            for seed in 0..size.seeds {
                broken(fault, false, setup, size, 500 + seed, &mut one, &mut usual);
                broken(fault, true, setup, size, 900 + seed, &mut all, &mut ignored);
            }
            let stated = |d: &Delay| {
                let n = d.found.len().max(1) as f64;
                let w = d.wasserstein.iter().sum::<f64>() / d.wasserstein.len().max(1) as f64;
                if d.found.is_empty() { "–".to_owned() } else { format!("PSI {:.2}, {:.2}, W {w:.2}", d.psi / n, d.sup / n) }
            };
            let usual: Vec<String> = usual.iter_mut().map(Delay::cell).collect();
            println!("| {name} | {} | {} | {} | {} | {} |", one.cell(), stated(&one), all.cell(), stated(&all), usual.join(" | "));
        }
        println!();
    }
}
