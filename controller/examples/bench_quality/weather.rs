//! The label-free estimate on fifty years of real weather, with a model of the first ten.
use leeway_controller::quality::{Period, QualityPolicy, estimate, points, powered};
use leeway_controller::reference;
use leeway_controller::trainer::Rows;
use leeway_controller::trainer::fit::{Model, fit};
use leeway_protocol::manifest::Calibration;
use leeway_protocol::time::Timestamp;

use super::{Bins, Chance, Watch};

static BELLEVUE: &[u8] = include_bytes!("../../../firmware-sim/data/bellevue.bin");
/// Days and columns of the series (`firmware-sim/data/README.md`), and where they begin in its bytes.
const DAYS: usize = 18_159;
const COLUMNS: usize = 8;
const HEADER: usize = 12;
/// 1949-01-01, in days since 1970.
const FIRST_DAY: i64 = -7_670;
const DAY_MS: i64 = 86_400_000;
/// The model's years, and days of a block that is trained on or held out whole.
const LEARNED: usize = 3_652;
const FORTNIGHT: usize = 14;
/// Labels a year that the corrected estimate may use.
const LABELS: f64 = 50.0;

struct Day {
    features: Vec<f32>,
    rain: bool,
}

fn days() -> Vec<Day> {
    let value = |row: usize, column: usize| {
        let at = HEADER + 2 * (column * DAYS + row);
        f32::from(i16::from_le_bytes([BELLEVUE[at], BELLEVUE[at + 1]])) / 2000.0
    };
    let labels = HEADER + 2 * DAYS * COLUMNS;
    (0..DAYS)
        .map(|row| Day {
            features: (0..COLUMNS).map(|column| value(row, column)).collect(),
            rain: BELLEVUE[labels + row / 8] >> (row % 8) & 1 == 1,
        })
        .collect()
}

/// What a day of the model's years is for, by its fortnight.
#[derive(Clone, Copy, PartialEq)]
enum Use {
    Calibrated,
    Learned,
    Tested,
}

fn use_of(row: usize) -> Use {
    [Use::Calibrated, Use::Learned, Use::Tested][row / FORTNIGHT % 3]
}

/// A model of the first ten years, calibrated on fortnights it did not see.
fn learn(days: &[Day], learned: &[Use]) -> (Model, Calibration) {
    let held_out = |row: usize| use_of(row) == Use::Calibrated;
    let mut rows = Rows::default();
    for day in days.iter().enumerate().take(LEARNED).filter(|(row, _)| learned.contains(&use_of(*row))).map(|(_, day)| day) {
        rows.inputs.push(day.features.clone());
        rows.labels.push(day.rain);
        rows.weights.push(1.0);
    }
    let model = fit(&rows).expect("ten years are enough");
    let decisions: Vec<(f64, bool)> = (0..LEARNED).filter(|&row| held_out(row)).map(|row| decide(&model, &days[row])).collect();
    let calibration = reference::calibration(&decisions);
    (model, calibration)
}

/// Confidence, and whether the decision is right.
fn decide(model: &Model, day: &Day) -> (f64, bool) {
    let p = model.probability(&day.features);
    (p.max(1.0 - p), (p >= 0.5) == day.rain)
}

/// Mean absolute error of each way to know a year's accuracy.
#[derive(Default)]
struct Errors {
    years: f64,
    sums: [f64; 4],
    truth: f64,
    estimate: f64,
    missed: f64,
    /// The year in which the labels raised the alarm, and what the others saw.
    alarm: Option<usize>,
    also: String,
}

/// The years after the model's, each day decided once; a share of labels is flipped from 1959 on.
fn years(days: &[Day], model: &Model, calibration: &Calibration, flipped: f64) -> Errors {
    let policy = QualityPolicy { block_ms: 30 * DAY_MS, recent_ms: 360 * DAY_MS, rho: 0.0, ..QualityPolicy::default() };
    let (mut chance, mut errors) = (Chance::new(7), Errors::default());
    let mut all = Watch::new(policy, calibration.clone());
    let expected = all.quality.expected().unwrap_or_default();
    for (year, chunk) in days[LEARNED..].chunks_exact(365).enumerate() {
        let mut asked = Watch::new(policy, calibration.clone());
        let mut right = 0usize;
        for (i, day) in chunk.iter().enumerate() {
            let (confidence, correct) = decide(model, day);
            let correct = correct != (flipped > 0.0 && chance.hit(flipped));
            right += usize::from(correct);
            let bin = calibration.bin(confidence).min(9);
            let mut bins = Bins::default();
            bins[bin].0 = 1;
            let label = |bins: &mut Bins| {
                bins[bin].1.rows = 1;
                bins[bin].1.correct = u64::from(correct);
            };
            let mut some = bins;
            label(&mut bins);
            if chance.hit(LABELS / 365.0) {
                label(&mut some);
            }
            let at = Timestamp::from_millis((FIRST_DAY + (LEARNED + year * 365 + i) as i64) * DAY_MS);
            all.observe(at, &bins);
            asked.observe(at, &some);
        }
        let verdict = all.quality.verdict(&policy, 10);
        if verdict.concept_drift && errors.alarm.is_none() {
            errors.alarm = Some(1959 + year);
        }
        errors.also = verdict.also.iter().map(|o| format!("{} {} times", o.method, o.rises)).collect::<Vec<_>>().join(", ");
        let truth = right as f64 / chunk.len() as f64;
        let whole = points([&asked.quality], &policy, Period::Millis(i64::MAX / 4));
        let blocks: Vec<_> = whole.iter().map(|p| &p.block).collect();
        let strata: Vec<_> = blocks.iter().filter_map(|block| asked.quality.stratum(&policy, block)).collect();
        let corrected = powered::accuracy(&strata, policy.alpha).map_or(f64::NAN, |p| p.interval.estimate);
        let sum = |of: fn(&leeway_controller::quality::Block) -> f64| blocks.iter().map(|b| of(b)).sum::<f64>();
        let estimate = sum(|b| b.estimated_sum) / sum(|b| b.confident as f64);
        let measured = sum(|b| b.correct as f64) / sum(|b| b.labels as f64);
        for (total, known) in errors.sums.iter_mut().zip([expected, estimate, measured, corrected]) {
            *total += (known - truth).abs();
        }
        errors.years += 1.0;
        errors.truth += truth;
        errors.estimate += estimate;
        errors.missed += estimate - truth;
    }
    errors
}

pub fn tables() {
    let days = days();
    let (model, calibration) = learn(&days, &[Use::Learned, Use::Tested]);
    println!("## The estimate without labels, on real weather: a model of 1949–1958 on the years after, mean absolute error per year\n");
    println!(
        "All estimates from confidence assume no concept drift. With {LABELS:.0} labels a year: labels alone, and the estimate corrected by them.\n"
    );
    println!(
        "| world | true accuracy | the old figure for ever | estimate from confidence | {LABELS:.0} labels alone | estimate corrected by {LABELS:.0} labels | the estimate is too high by | all labels' alarm |\n|---|---|---|---|---|---|---|---|"
    );
    for (name, flipped) in [("weather as it was", 0.0), ("the same, 15 % of labels flipped (concept drift)", 0.15)] {
        let e = years(&days, &model, &calibration, flipped);
        let mae: Vec<String> = e.sums.iter().map(|s| format!("{:.3}", s / e.years)).collect();
        let alarm = e.alarm.map_or_else(|| "none".to_owned(), |year| format!("in {year}"));
        println!("| {name} | {:.3} | {} | {:+.3} | {alarm}; also {} |", e.truth / e.years, mae.join(" | "), e.missed / e.years, e.also);
    }
    println!();
    season(&days);
}

/// Where it works: only the season moves. Fortnights of the model's own years that it did not see, by calendar month.
fn season(days: &[Day]) {
    let (model, calibration) = learn(days, &[Use::Learned]);
    let worth = estimate::worth(&calibration).expect("a classifier");
    let expected = estimate::held_out(&calibration).expect("a classifier");
    let mut months = [(0.0, 0.0, 0.0); 12];
    for row in (0..LEARNED).filter(|&row| use_of(row) == Use::Tested) {
        let (confidence, correct) = decide(&model, &days[row]);
        let month = &mut months[(row % 1461 % 365) * 12 / 366];
        *month = (month.0 + 1.0, month.1 + f64::from(u8::from(correct)), month.2 + worth[calibration.bin(confidence).min(9)]);
    }
    let error = |of: &dyn Fn(&(f64, f64, f64)) -> f64| months.iter().map(|m| (of(m) - m.1 / m.0).abs()).sum::<f64>() / 12.0;
    let chance = months.iter().map(|m| (m.1 / m.0 * (1.0 - m.1 / m.0) / m.0 * 2.0 / std::f64::consts::PI).sqrt()).sum::<f64>() / 12.0;
    let share = |m: &(f64, f64, f64)| m.1 / m.0;
    let (low, high) = months.iter().fold((1.0f64, 0.0f64), |(low, high), m| (low.min(share(m)), high.max(share(m))));
    println!("Where only the season moves (fortnights of 1949–1958 it did not see, by calendar month, accuracy {low:.2} to {high:.2}):\n");
    println!(
        "| the old figure for ever | estimate from confidence | what chance alone makes of {:.0} days a month |\n|---|---|---|",
        months[0].0
    );
    println!("| {:.3} | {:.3} | {chance:.3} |\n", error(&|_| expected), error(&|m| m.2 / m.0));
}
