//! What the gate does to healthy and to bad rollouts, beside the rules of other systems, on the same draws.
//!
//! One draw is one rollout: device after device gets the new version and fails or does not, and so do the control devices that
//! are observed meanwhile. Every rule looks after every device and stops, or does not. A/A draws (both arms alike) say how often
//! a healthy version is aborted; draws with a true harm say how many devices had the version when it was stopped.
//!
//! Worlds. *Plain*: every device fails with the same chance, four control outcomes with each canary; what the reference figures
//! in the project's notes were made in. *Uneven*: devices have own chances (Beta), days have bursts that hit both arms, three
//! devices in ten are offline on a day and come later. *Held back*: a fifth of the fleet is the control group; stages of 5 %,
//! 25 % and all. Here it matters when controls are observed. *Again and again*: with each canary, four of the controls in turn,
//! over the same days. *Once, at the canaries' pace*: safe too, and slow, for a hundred controls are few. *Once, at the start*:
//! what happens to the promise when a later bad day hits canaries only; not a way to count, a warning.
//!
//! Then latency: three kinds of hardware, devices with speeds and noise of their own, bursts; judged by the share above every latency,
//! by confidence bands for whole distributions, and by a bet on the mean of the logarithms.
//!
//! Then parts of the fleet: what judging them apart costs the whole, and finds.
//!
//! Then rates: thousands of inferences per device, correlated within it, judged device by device and, wrongly, one by one. Then
//! the whole gate with its default policy. `--certify` adds the exact enumeration of the error over the null.
//!
//! `cargo run --release -p leeway-controller --example bench_gate -- [--quick] [--seeds N] [--certify]`
use std::collections::BTreeMap;
use std::time::Instant;

use leeway_controller::rollout::evidence::{Arm, Arms, Evidence, Limits, Metric, Outcome, Settled, Totals, compare, devices};
use leeway_controller::rollout::gate::{Counts, GatePolicy, GateReport, Question, StageOutcome, TooMany, judge};
use leeway_controller::sequential::bets::{Values, excess};
use leeway_controller::sequential::boundary::{Filling, Horizon, Table, enumerate, normal_quantile, wilson};
use leeway_protocol::time::Timestamp;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng as _, SeedableRng as _};

#[path = "bench_gate/latency.rs"]
mod latency;
#[path = "bench_gate/slices.rs"]
mod slices;

/// Share of devices that fail with the baseline; no rule is told.
const BASE: f64 = 0.02;
/// True harms: how many times as often a canary fails.
const HARMS: [f64; 5] = [1.0, 1.5, 2.0, 3.0, 5.0];
/// Device chances are Beta with this sum of parameters: the worst tenth of the devices has nearly half of the failures.
const EVENNESS: f64 = 20.0;
/// Days of a rollout, share of days with a burst, how much worse they are, and share of devices offline on a day.
const DAYS: usize = 14;
const BURST_DAYS: f64 = 0.1;
const BURST: f64 = 4.0;
const OFFLINE: f64 = 0.3;

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let has = |name: &str| args.iter().any(|a| a == name);
    let quick = has("--quick");
    let stated = args.iter().position(|a| a == "--seeds").and_then(|i| args.get(i + 1)).and_then(|n| n.parse().ok());
    let seeds: usize = stated.unwrap_or(if quick { 100 } else { 2_000 });
    let started = Instant::now();
    println!("Baseline: {:.0} % of the devices fail (unknown to every rule). Each cell: devices that had the", BASE * 100.0);
    println!("version when it was stopped, median / 90 %, and the share of rollouts stopped at all.\n");
    table("Plain, 500 devices, four concurrent controls each", World::Plain, 500, seeds);
    table("Uneven, 500 devices, four concurrent controls each", World::Uneven, 500, seeds);
    table("Uneven, 5,000 devices, four concurrent controls each", World::Uneven, 5_000, seeds.div_ceil(10));
    let few = seeds.div_ceil(10);
    table("Held back, 400 canaries, 100 controls, again and again", World::HeldBack(Watch::Again), 500, seeds);
    table("Held back, 4,000 canaries, 1,000 controls, again and again", World::HeldBack(Watch::Again), 5_000, few);
    table("Held back, 400 canaries, 100 controls, once, at the canaries' pace", World::HeldBack(Watch::Pace), 500, seeds);
    table("Held back, 4,000 canaries, 1,000 controls, once, at the canaries' pace", World::HeldBack(Watch::Pace), 5_000, few);
    table("Warning: 4,000 canaries, 1,000 controls, once, at the start", World::HeldBack(Watch::Start), 5_000, few);
    rates(seeds.div_ceil(5));
    latency::table(seeds.div_ceil(10));
    slices::table(seeds.div_ceil(10));
    whole(seeds.div_ceil(10));
    if has("--certify") {
        certify(quick);
    }
    println!(
        "{seeds} draws per cell (a tenth with 5,000 devices and for the whole gate, a fifth for error ratios, a tenth for\nlatencies and for parts of the fleet), {:.0} s.",
        started.elapsed().as_secs_f64()
    );
}

/// Seeded chance.
struct Chance(ChaCha8Rng);

impl Chance {
    fn uniform(&mut self) -> f64 {
        (self.0.next_u64() >> 11) as f64 / (1u64 << 53) as f64
    }

    fn hit(&mut self, p: f64) -> bool {
        self.uniform() < p
    }

    fn normal(&mut self) -> f64 {
        (-2.0 * (1.0 - self.uniform()).ln()).sqrt() * (std::f64::consts::TAU * self.uniform()).cos()
    }

    /// Marsaglia and Tsang 2000; shapes below 1 by their boost.
    fn gamma(&mut self, shape: f64) -> f64 {
        if shape < 1.0 {
            let boost = (1.0 - self.uniform()).powf(1.0 / shape);
            return self.gamma(shape + 1.0) * boost;
        }
        let d = shape - 1.0 / 3.0;
        loop {
            let x = self.normal();
            let v = (1.0 + x / (9.0 * d).sqrt()).powi(3);
            if v > 0.0 && (1.0 - self.uniform()).ln() < 0.5 * x * x + d - d * v + d * v.ln() {
                return d * v;
            }
        }
    }

    fn beta(&mut self, mean: f64, sum: f64) -> f64 {
        let (a, b) = (self.gamma(mean * sum), self.gamma((1.0 - mean) * sum));
        a / (a + b)
    }

    /// Days a device is late.
    fn late(&mut self) -> usize {
        (0..DAYS).take_while(|_| self.hit(OFFLINE)).count()
    }
}

#[derive(Clone, Copy, PartialEq)]
enum World {
    Plain,
    Uneven,
    HeldBack(Watch),
}

/// When controls of a held-back group are observed.
#[derive(Clone, Copy, PartialEq)]
enum Watch {
    Again,
    Pace,
    Start,
}

/// A canary's outcome, and those of the controls observed since the one before.
#[derive(Clone, Copy, Default)]
struct Step {
    failed: bool,
    controls: u64,
    controls_failed: u64,
}

fn draw(chance: &mut Chance, world: World, fleet: usize, harm: f64) -> (Vec<Step>, Horizon) {
    let (canaries, held) = if matches!(world, World::HeldBack(_)) { (fleet * 4 / 5, fleet / 5) } else { (fleet, 0) };
    let once = matches!(world, World::HeldBack(Watch::Pace | Watch::Start));
    let controls = if once { held } else { canaries * 4 };
    let horizon = Horizon { canary: canaries as u64, control: controls as u64 };
    let risk: Vec<f64> = (0..3 * DAYS).map(|_| if world != World::Plain && chance.hit(BURST_DAYS) { BURST } else { 1.0 }).collect();
    let mean = if world == World::Plain { 1.0 } else { 1.0 + BURST_DAYS * (BURST - 1.0) };
    let own = |chance: &mut Chance| if world == World::Plain { BASE } else { chance.beta(BASE, EVENNESS) };
    let fails = |chance: &mut Chance, own: f64, day: usize| chance.hit((own * risk.get(day).copied().unwrap_or(1.0) / mean).min(0.95));
    let group: Vec<f64> = (0..held).map(|_| own(chance)).collect();
    // The day on which the n-th of all is told: a canary stage, a quarter, all.
    let told = |n: usize, of: usize| match n as f64 / of as f64 {
        share if share < 0.05 => 0,
        share if share < 0.25 => 2 + (share * 15.0) as usize,
        share => 6 + (share * 8.0) as usize,
    };
    if !once {
        let step = |n: usize| {
            let day = if world == World::Plain { 0 } else { told(n, canaries) + chance.late() };
            let mine = own(chance) * harm;
            let failed = fails(chance, mine, day);
            let control = |c: usize, chance: &mut Chance| {
                let its = if group.is_empty() { own(chance) } else { group[(4 * n + c) % held] };
                fails(chance, its, day)
            };
            Step { failed, controls: 4, controls_failed: (0..4).filter(|&c| control(c, chance)).count() as u64 }
        };
        return ((0..canaries).map(step).collect(), horizon);
    }
    let mut events: Vec<(usize, u64, bool, bool)> = Vec::new();
    let start = world == World::HeldBack(Watch::Start);
    for n in 0..canaries {
        let (day, mine) = (told(n, canaries) + chance.late(), own(chance) * harm);
        events.push((day, chance.0.next_u64(), true, fails(chance, mine, day)));
    }
    for (n, its) in group.iter().enumerate() {
        let (day, turn) = if start { (0, 0) } else { (told(n, held) + chance.late(), chance.0.next_u64()) };
        events.push((day, turn, false, fails(chance, *its, day)));
    }
    events.sort_unstable();
    let (mut steps, mut open) = (Vec::new(), Step::default());
    for (_, _, is_canary, failed) in events {
        if is_canary {
            steps.push(Step { failed, ..std::mem::take(&mut open) });
        } else {
            open.controls += 1;
            open.controls_failed += u64::from(failed);
        }
    }
    (steps, horizon)
}

/// A rule that may stop the rollout.
enum Rule {
    /// Leeway's test of failed devices at a stated error.
    Gate { alpha: f64, horizon: Horizon, table: Table },
    /// The line to beat: each canary against the mean of its controls, a mixture of fixed bets, stopped at 1/alpha.
    Betting { alpha: f64, wealth: [f64; BETS.len()] },
    /// Of at least `min` outcomes, 5 % failed.
    Aws { min: u64, done: u64, failed: u64 },
    /// More than 5 % of the group failed.
    Hawkbit { group: u64, failed: u64 },
}

const BETS: [f64; 7] = [0.05, 0.1, 0.2, 0.35, 0.5, 0.7, 0.9];

impl Rule {
    fn all(horizon: Horizon) -> Vec<Self> {
        let gate = |alpha| Self::Gate { alpha, horizon, table: Table::default() };
        let aws = |min| Self::Aws { min, done: 0, failed: 0 };
        let betting = Self::Betting { alpha: 0.05, wealth: [1.0; BETS.len()] };
        vec![gate(0.05), gate(0.01), betting, aws(20), aws(100), Self::Hawkbit { group: horizon.canary, failed: 0 }]
    }

    fn name(&self) -> String {
        match self {
            Self::Gate { alpha, .. } => format!("Leeway, stated {:.0} %", alpha * 100.0),
            Self::Betting { alpha, .. } => format!("plain betting mixture, {:.0} %", alpha * 100.0),
            Self::Aws { min, .. } => format!("AWS-style 5 %, min {min}"),
            Self::Hawkbit { .. } => "hawkBit-style, > 5 % of group".to_owned(),
        }
    }

    fn stops(&mut self, step: Step) -> bool {
        match self {
            Self::Gate { alpha, horizon, table } => {
                table.canary += 1;
                table.canary_failed += u64::from(step.failed);
                table.control += step.controls;
                table.control_failed += step.controls_failed;
                // Equal shares are no proof: saves the sums on most looks.
                let above = table.canary_failed * table.control > table.control_failed * table.canary;
                above && table.worse(*horizon, *alpha)
            }
            Self::Betting { alpha, wealth } => {
                if step.controls == 0 {
                    return false;
                }
                let gain = f64::from(u8::from(step.failed)) - step.controls_failed as f64 / step.controls as f64;
                wealth.iter_mut().zip(BETS).for_each(|(wealth, bet)| *wealth *= 1.0 + bet * gain);
                wealth.iter().sum::<f64>() / BETS.len() as f64 >= 1.0 / *alpha
            }
            Self::Aws { min, done, failed } => {
                (*done, *failed) = (*done + 1, *failed + u64::from(step.failed));
                *done >= *min && *failed * 20 >= *done
            }
            Self::Hawkbit { group, failed } => {
                *failed += u64::from(step.failed);
                *failed * 20 > *group
            }
        }
    }
}

/// When rollouts were stopped; `None` for those that were not.
#[derive(Default, Clone)]
struct Stops(Vec<Option<usize>>);

impl Stops {
    fn share(&self) -> String {
        let (hits, of) = (self.0.iter().flatten().count() as u64, self.0.len() as u64);
        let (share, low, high) = wilson(hits, of, normal_quantile(0.025));
        format!("{:.1} % ({:.1}–{:.1})", share * 100.0, low * 100.0, high * 100.0)
    }

    fn cell(&self) -> String {
        let mut at: Vec<usize> = self.0.iter().map(|stop| stop.unwrap_or(usize::MAX)).collect();
        at.sort_unstable();
        let quantile = |share: f64| match at.get((share * (at.len() - 1) as f64).round() as usize) {
            Some(&n) if n < usize::MAX => n.to_string(),
            _ => "–".to_owned(),
        };
        let caught = self.0.iter().flatten().count() as f64 / self.0.len() as f64;
        format!("{} / {}, {:.0} %", quantile(0.5), quantile(0.9), caught * 100.0)
    }
}

fn table(title: &str, world: World, fleet: usize, seeds: usize) {
    let names: Vec<String> = Rule::all(Horizon::OPEN).iter().map(Rule::name).collect();
    let mut found = vec![vec![Stops::default(); HARMS.len()]; names.len()];
    for (h, harm) in HARMS.into_iter().enumerate() {
        for seed in 0..seeds {
            let mut chance = Chance(ChaCha8Rng::seed_from_u64((h * 1_000_000 + seed) as u64));
            let (steps, horizon) = draw(&mut chance, world, fleet, harm);
            for (r, mut rule) in Rule::all(horizon).into_iter().enumerate() {
                found[r][h].0.push(steps.iter().position(|&step| rule.stops(step)).map(|n| n + 1));
            }
        }
    }
    println!("### {title}\n");
    println!("| rule | healthy: aborted (95 % of the simulation) | x1.5 | x2 | x3 | x5 |\n|---|---|---|---|---|---|");
    for (name, stops) in names.iter().zip(&found) {
        let cells: Vec<String> = stops.iter().skip(1).map(Stops::cell).collect();
        println!("| {name} | {} | {} |", stops[0].share(), cells.join(" | "));
    }
    println!();
}

/// Inferences of one device: `windows` windows of 200, an own error share, bursts in which half of a window fails.
fn serve(chance: &mut Chance, mean: f64) -> Totals {
    let own = chance.beta(mean, 8.0);
    let bad = (0..10).map(|_| if chance.hit(own) { 0.5 * 200.0 } else { (own * 200.0 * 0.5).round() }).sum();
    Totals { n: 2_000.0, x: bad }
}

/// Error ratios of 100 canaries and 400 controls: the same draws judged by the device, by discounted rows, and one by one.
fn rates(seeds: usize) {
    let (alpha, base, margin) = (0.05, 0.02, 0.01);
    let limits = leeway_controller::rollout::evidence::Limits { margin, alpha: Some(alpha), ..Default::default() };
    println!("### Error ratio, 2 % of correlated inferences fail, margin {:.0} point, 100 canaries and 400 controls\n", margin * 100.0);
    println!("| unit | as bad as tolerated: aborted | +5 points | +15 points |\n|---|---|---|---|");
    let worlds = [margin, 0.05, 0.15];
    let mut found = vec![vec![Stops::default(); worlds.len()]; 3];
    for (w, harm) in worlds.into_iter().enumerate() {
        for seed in 0..seeds {
            let mut chance = Chance(ChaCha8Rng::seed_from_u64((7_000_000 + w * 100_000 + seed) as u64));
            let (mut arms, mut settled, mut first) = (Arms::default(), Settled::default(), [None; 3]);
            for n in 1..=100 {
                let mut take = |arm: &mut Arm, values: &mut Values, mean: f64| {
                    let totals = serve(&mut chance, mean);
                    arm.replace(Totals::default(), totals);
                    values.add(totals.x / totals.n);
                };
                take(&mut arms.canary, &mut settled.canary, base + harm);
                (0..4).for_each(|_| take(&mut arms.control, &mut settled.control, base));
                let enough = (1.0f64 / alpha).ln();
                let device = excess(&settled.canary, &settled.control, margin, enough) >= enough;
                let rows = compare(Metric::ErrorRatio, &arms.canary, &arms.control, &limits).outcome == Outcome::Fail;
                let single = single(&arms, margin) > normal_quantile(alpha);
                for (first, stop) in first.iter_mut().zip([device, rows, single]) {
                    *first = first.or(stop.then_some(n));
                }
            }
            found.iter_mut().zip(first).for_each(|(stops, first)| stops[w].0.push(first));
        }
    }
    for (name, stops) in ["device (betting), stated 5 %", "discounted rows, stated 5 %", "each inference, z-test at 5 %"].iter().zip(&found)
    {
        println!("| {name} | {} | {} | {} |", stops[0].share(), stops[1].cell(), stops[2].cell());
    }
    println!();
}

/// The z of a difference of shares, as if every inference were independent and nobody looked twice.
fn single(arms: &Arms, margin: f64) -> f64 {
    let (a, b) = (arms.canary.share().unwrap_or(0.0), arms.control.share().unwrap_or(0.0));
    let variance = a * (1.0 - a) / arms.canary.n + b * (1.0 - b) / arms.control.n;
    (a - b - margin) / variance.sqrt().max(1e-12)
}

/// The whole gate, as the planner asks it, with evidence for three guardrails: failed devices, errors and labels.
fn whole(seeds: usize) {
    println!("### The whole gate with its default policy (stated 5 % for all comparisons), 400 canaries, 100 controls again and again\n");
    println!("| absolute limits of failed devices | healthy: aborted | x2 | x3 | x5 |\n|---|---|---|---|---|");
    for (name, too_many) in [("hold", TooMany::Hold), ("abort (2 and more than 10 %)", TooMany::Abort)] {
        let policy = GatePolicy { too_many, ..GatePolicy::default() };
        let cells: Vec<Stops> =
            [1.0, 2.0, 3.0, 5.0].map(|harm| Stops((0..seeds).map(|seed| rollout(&policy, harm, seed)).collect())).into();
        println!("| {name} | {} | {} | {} | {} |", cells[0].share(), cells[1].cell(), cells[2].cell(), cells[3].cell());
    }
    println!("\nPromised: at most {:.1} %.\n", GatePolicy::default().promised() * 100.0);
}

fn rollout(policy: &GatePolicy, harm: f64, seed: usize) -> Option<usize> {
    let mut chance = Chance(ChaCha8Rng::seed_from_u64((9_000_000.0 + harm * 100_000.0) as u64 + seed as u64));
    let (steps, horizon) = draw(&mut chance, World::HeldBack(Watch::Again), 500, harm);
    let (mut failures, mut evidence) = (Arms::default(), Evidence { last_at: Some(Timestamp::from_secs(1)), ..Evidence::default() });
    let outcome = |failed: bool| Totals { n: 1.0, x: f64::from(u8::from(failed)) };
    for (n, step) in steps.iter().enumerate() {
        failures.canary.replace(Totals::default(), outcome(step.failed));
        (0..step.controls).for_each(|c| failures.control.replace(Totals::default(), outcome(c < step.controls_failed)));
        for (is_canary, count) in [(true, 1), (false, step.controls)] {
            for _ in 0..count {
                let right = (200.0 * (0.85 + 0.05 * chance.normal()).clamp(0.0, 1.0)).round();
                observe((&mut evidence.arms, &mut evidence.settled), Metric::LabelledAccuracy, is_canary, Totals { n: 200.0, x: right });
                let served = serve(&mut chance, 0.01);
                observe((&mut evidence.arms, &mut evidence.settled), Metric::ErrorRatio, is_canary, served);
            }
        }
        evidence.inferences += 2_000;
        let failed_by_model = failures.canary.x as usize;
        let counts = Counts {
            members: 500,
            control: horizon.control as usize,
            running: n + 1 - failed_by_model,
            // The rest of the stage is on its way.
            installing: [20, 100, 400].into_iter().find(|quota| *quota > n).map_or(0, |quota| quota - n - 1),
            failed_by_model,
            ..Counts::default()
        };
        if (step.failed || n % 10 == 0) && ask(policy, &evidence, failures, &counts, true).outcome == Outcome::Fail {
            return Some(n + 1);
        }
    }
    None
}

/// The whole gate about a fleet of 500, as the planner asks it. With `by_slice`, which is a rollout's default, half of each metric's
/// error is for parts of the fleet.
fn ask(policy: &GatePolicy, evidence: &Evidence, failures: Arms, counts: &Counts, by_slice: bool) -> GateReport {
    judge(&Question {
        policy,
        evidence: Some(evidence),
        failures,
        counts,
        reach: 500,
        by_slice,
        has_baseline: true,
        soaking_since: Some(Timestamp::from_secs(0)),
        stage: StageOutcome::default(),
        abort: &[],
        dismissed: &[],
        compare,
    })
}

/// What one metric showed, over all devices or those of a slice.
type Shown<'e> = (&'e mut BTreeMap<Metric, Arms>, &'e mut BTreeMap<Metric, Settled>);

/// Count a device that is heard of once.
fn observe((arms, settled): Shown<'_>, metric: Metric, is_canary: bool, totals: Totals) {
    let (arms, settled) = (arms.entry(metric).or_default(), settled.entry(metric).or_default());
    let (arm, values) = if is_canary { (&mut arms.canary, &mut settled.canary) } else { (&mut arms.control, &mut settled.control) };
    arm.replace(Totals::default(), totals);
    if let Some(share) = devices::settles(metric, &Limits::default(), Totals::default(), totals) {
        values.add(share);
    }
}

/// The exact chance of a false abort at the end, over the null.
fn certify(quick: bool) {
    println!("### Exact error of the test of failed devices, % of the stated alpha, by true failure share of both arms\n");
    let shares = [0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.3, 0.5, 0.8];
    let list = shares.map(|p| format!("{:.1} %", p * 100.0));
    println!("| canaries, controls | alpha | tolerance | {} |\n|---|---|---|{}", list.join(" | "), "---|".repeat(shares.len()));
    let mut designs = vec![(20, Filling::Together(4)), (48, Filling::Before(12)), (100, Filling::Before(400)), (400, Filling::Before(100))];
    if !quick {
        designs.extend([
            (500, Filling::Together(4)),
            (500, Filling::Together(1)),
            (990, Filling::Before(10)),
            (200, Filling::Before(2000)),
        ]);
    }
    for (canaries, filling) in designs {
        for (alpha, tolerance) in [(0.05, 0.0), (0.01, 0.0), (0.05, 0.01), (0.02, 0.01), (0.05, 0.05)] {
            let error = |p: f64| enumerate(canaries, filling, [p + tolerance, p], tolerance, alpha).last().copied().unwrap_or(0.0);
            let cells = shares.map(|p| format!("{:.0}", error(p) / alpha * 100.0));
            println!("| {canaries}, {filling:?} | {:.0} % | {tolerance} | {} |", alpha * 100.0, cells.join(" | "));
        }
    }
    println!();
}
