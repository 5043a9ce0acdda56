//! How often the gate promotes a challenger that is no better, how often one that is, and what that does on fifty years of real weather.
//!
//! Every decision goes through [`compare`], as the controller calls it; "higher accuracy wins" is asked about the same draws. Tables:
//! promotion of equal challengers by discordance and labels; power for gains of 1, 3 and 5 points; a challenger that is better on average
//! and worse in one cohort; and weather of 1949–1999, one model a year: never replaced, always replaced, replaced if more accurate on the
//! last year, replaced if the gate says so.
//!
//! `cargo run --release -p leeway-controller --example bench_promotion -- [--quick] [--draws N]`
use std::time::Instant;

use leeway_controller::retraining::gate::{GatePolicy, Outcome, Paired, compare};
use leeway_controller::trainer::Rows;
use leeway_controller::trainer::fit::{Model, fit};
use leeway_protocol::time::Timestamp;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng as _, SeedableRng as _};

const DAY_MS: i64 = 86_400_000;
/// Rows of the weather that a model learns from, and that one is judged on.
const LEARN: usize = 2_500;
const JUDGE: usize = 365;
/// Features of the weather.
const FEATURES: usize = 8;
static WEATHER: &[u8] = include_bytes!("../../firmware-sim/data/bellevue.bin");

struct Chance(ChaCha8Rng);

impl Chance {
    fn new(seed: u64) -> Self {
        Self(ChaCha8Rng::seed_from_u64(seed))
    }

    fn hit(&mut self, share: f64) -> bool {
        ((self.0.next_u64() >> 11) as f64) < share * (1u64 << 53) as f64
    }
}

/// Decisions about many draws of one kind.
#[derive(Default)]
struct Tally {
    won: u64,
    lost: u64,
    undecided: u64,
    higher: u64,
}

impl Tally {
    fn add(&mut self, policy: &GatePolicy, pairs: &[Paired]) {
        let result = compare(policy, pairs);
        match result.outcome {
            Outcome::Won => self.won += 1,
            Outcome::Lost => self.lost += 1,
            Outcome::NotEnoughLabels { .. } => self.undecided += 1,
        }
        self.higher += u64::from(result.challenger > result.champion);
    }

    fn share(&self, n: u64) -> f64 {
        100.0 * n as f64 / (self.won + self.lost + self.undecided).max(1) as f64
    }
}

/// Single rows, one a day: `discordance` of them differ, by `gain` more in favour of the challenger.
fn pairs(chance: &mut Chance, rows: usize, discordance: f64, gain: f64, slices: &[&str]) -> Vec<Paired> {
    (0..rows)
        .map(|i| {
            let differ = chance.hit(discordance);
            let challenger = if differ { chance.hit(0.5 + 0.5 * gain / discordance) } else { chance.hit(0.75) };
            let slices = slices.iter().map(|name| (*name).to_owned()).collect();
            let at = Timestamp::from_millis(i as i64 * DAY_MS);
            Paired { slices, at, weight: 1.0, champion: challenger != differ, challenger }
        })
        .collect()
}

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let quick = args.iter().any(|arg| arg == "--quick");
    let stated = args.iter().position(|arg| arg == "--draws").and_then(|i| args.get(i + 1)).and_then(|n| n.parse().ok());
    let draws: u64 = stated.unwrap_or(if quick { 200 } else { 4_000 });
    let (policy, begun) = (GatePolicy::default(), Instant::now());
    println!("alpha {} %, {draws} draws a line, labels one a day", policy.alpha * 100.0);
    equal(&policy, draws);
    better(&policy, draws);
    uneven(&policy, draws.min(1_000));
    weather(&policy);
    println!("\n{:.1} s in all", begun.elapsed().as_secs_f64());
}

fn equal(policy: &GatePolicy, draws: u64) {
    println!("\nEqual challengers: promoted by the gate (its bound is {} %), and by \"higher accuracy wins\"", policy.alpha * 100.0);
    println!("{:>11} {:>7} {:>9} {:>9} {:>11} {:>9}", "discordance", "labels", "gate %", "lost %", "undecided %", "higher %");
    let mut worst: f64 = 0.0;
    for discordance in [0.02, 0.05, 0.15, 0.30] {
        for rows in [100, 365, 1_000, 3_000] {
            let (mut chance, mut tally) = (Chance::new(1), Tally::default());
            (0..draws).for_each(|_| tally.add(policy, &pairs(&mut chance, rows, discordance, 0.0, &[])));
            worst = worst.max(tally.share(tally.won));
            println!(
                "{:>10} % {rows:>7} {:>9.2} {:>9.1} {:>11.1} {:>9.1}",
                discordance * 100.0,
                tally.share(tally.won),
                tally.share(tally.lost),
                tally.share(tally.undecided),
                tally.share(tally.higher)
            );
        }
    }
    let deviation = 100.0 * (policy.alpha * (1.0 - policy.alpha) / draws as f64).sqrt();
    println!("highest {worst:.2} %; one standard deviation of a true {} % is {deviation:.2}", policy.alpha * 100.0);
}

fn better(policy: &GatePolicy, draws: u64) {
    println!("\nBetter challengers, discordance 15 %: promoted");
    println!("{:>7} {:>7} {:>9} {:>9} {:>11} {:>9}", "gain pp", "labels", "gate %", "lost %", "undecided %", "higher %");
    for gain in [0.01, 0.03, 0.05] {
        for rows in [365, 1_000, 3_000, 10_000] {
            let (mut chance, mut tally) = (Chance::new(2), Tally::default());
            (0..draws.min(1_000)).for_each(|_| tally.add(policy, &pairs(&mut chance, rows, 0.15, gain, &[])));
            println!(
                "{:>7.0} {rows:>7} {:>9.1} {:>9.1} {:>11.1} {:>9.1}",
                gain * 100.0,
                tally.share(tally.won),
                tally.share(tally.lost),
                tally.share(tally.undecided),
                tally.share(tally.higher)
            );
        }
    }
}

fn uneven(policy: &GatePolicy, draws: u64) {
    println!("\nBetter by 5 points in four cohorts, worse by 8 in the fifth (2.4 on average), 3,000 labels, discordance 15 %: promoted");
    let (mut chance, mut tally) = (Chance::new(3), Tally::default());
    for _ in 0..draws {
        let all =
            ["a", "b", "c", "d", "e"].iter().map(|name| pairs(&mut chance, 600, 0.15, if *name == "e" { -0.08 } else { 0.05 }, &[*name]));
        // Each cohort has days of its own, so that a day stays one label.
        let apart = all
            .enumerate()
            .flat_map(|(i, rows)| rows.into_iter().map(move |row| Paired { at: row.at.plus_millis(i as i64 * 1_000 * DAY_MS), ..row }));
        tally.add(policy, &apart.collect::<Vec<_>>());
    }
    println!("gate {:.1} %, higher accuracy wins {:.1} %", tally.share(tally.won), tally.share(tally.higher));
}

/// The days of the series: features and whether it rained. The form is that of `firmware-sim/data/derive.py`.
fn days() -> Rows {
    let number = |at: usize| u16::from_le_bytes([WEATHER[at], WEATHER[at + 1]]);
    let rows = usize::from(number(8)) | usize::from(number(10)) << 16;
    let labels = 12 + FEATURES * rows * 2;
    let mut made = Rows::default();
    for row in 0..rows {
        made.inputs.push((0..FEATURES).map(|c| f32::from(number(12 + (c * rows + row) * 2) as i16) / 2_000.0).collect());
        made.labels.push(WEATHER[labels + row / 8] >> (row % 8) & 1 == 1);
        made.weights.push(1.0);
    }
    for outlier in WEATHER[labels + rows.div_ceil(8) + 4..].chunks_exact(10) {
        let row = u32::from_le_bytes([outlier[0], outlier[1], outlier[2], outlier[3]]) as usize;
        let column = usize::from(u16::from_le_bytes([outlier[4], outlier[5]]));
        made.inputs[row][column] = f32::from_le_bytes([outlier[6], outlier[7], outlier[8], outlier[9]]);
    }
    made
}

fn part(days: &Rows, from: usize, to: usize) -> Rows {
    let (inputs, labels, weights) = (days.inputs[from..to].to_vec(), days.labels[from..to].to_vec(), days.weights[from..to].to_vec());
    Rows { inputs, labels, weights }
}

fn right(model: &Model, days: &Rows, day: usize) -> bool {
    (model.probability(&days.inputs[day]) >= 0.5) == days.labels[day]
}

fn accuracy(model: &Model, days: &Rows, from: usize, to: usize) -> f64 {
    (from..to).filter(|&day| right(model, days, day)).count() as f64 / (to - from) as f64
}

fn weather(policy: &GatePolicy) {
    let days = days();
    let all = days.len();
    let learned = |from: usize, to: usize| fit(&part(&days, from, to)).expect("the weather can be learned");
    let first = learned(0, LEARN);
    // The rules: never, always, higher accuracy on the last year wins, the gate on the last year.
    let mut models = [first.clone(), first.clone(), first.clone(), first];
    let (mut sums, mut decade, mut promoted) = ([0.0; 4], [0.0; 4], [0u32; 4]);
    let (mut years, mut in_decade) = (0, 0);
    let mut now = LEARN + JUDGE;
    println!("\nWeather from 1949 on, a day a label: one candidate a year, learned from {LEARN} days; accuracy in the year after");
    println!("{:>12} {:>8} {:>8} {:>8} {:>8}", "years", "never", "always", "higher", "gate");
    let mut since = 1949 + now * 4 / 1_461;
    while now + JUDGE <= all {
        // What is judged on the last year must not have learned from it; what always replaces need not be judged.
        let candidate = learned(now - JUDGE - LEARN, now - JUDGE);
        models[1] = learned(now - LEARN, now);
        promoted[1] += 1;
        if accuracy(&candidate, &days, now - JUDGE, now) > accuracy(&models[2], &days, now - JUDGE, now) {
            models[2] = candidate.clone();
            promoted[2] += 1;
        }
        let judged = (now - JUDGE..now).map(|day| Paired {
            slices: Vec::new(),
            at: Timestamp::from_millis(day as i64 * DAY_MS),
            weight: 1.0,
            champion: right(&models[3], &days, day),
            challenger: right(&candidate, &days, day),
        });
        if compare(policy, &judged.collect::<Vec<_>>()).outcome == Outcome::Won {
            models[3] = candidate;
            promoted[3] += 1;
        }
        for (i, model) in models.iter().enumerate() {
            let reached = accuracy(model, &days, now, now + JUDGE);
            sums[i] += reached;
            decade[i] += reached;
        }
        (years, in_decade, now) = (years + 1, in_decade + 1, now + JUDGE);
        if in_decade == 7 || now + JUDGE > all {
            let until = 1949 + (now - 1) * 4 / 1_461;
            let shown = decade.map(|sum| format!("{:>8.3}", sum / f64::from(in_decade)));
            println!("{since:>6}–{until:<5} {}", shown.join(" "));
            (since, decade, in_decade) = (until + 1, [0.0; 4], 0);
        }
    }
    println!("{:>12} {}", "all", sums.map(|sum| format!("{:>8.3}", sum / f64::from(years))).join(" "));
    println!("{:>12} {}", "promotions", promoted.map(|n| format!("{n:>8}")).join(" "));
}
