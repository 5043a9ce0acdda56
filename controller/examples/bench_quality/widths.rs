//! Widths and coverage of the intervals that so many labels buy.
use leeway_controller::quality::powered::{BinCount, Stratum, accuracy};
use leeway_controller::sequential::interval::share;
use leeway_protocol::manifest::CONFIDENCE_BINS;

use super::Chance;

const ALPHA: f64 = 0.05;
/// Decisions that the labels speak for.
const DECISIONS: u64 = 50_000;
/// Labels between two looks.
const LOOK: u64 = 10;

struct World {
    name: &'static str,
    /// Predicted accuracy by bin, and how much of it is wrong in truth.
    predicted: [f64; CONFIDENCE_BINS],
    off: f64,
}

fn worlds() -> [World; 4] {
    let line = |low: f64, high: f64| std::array::from_fn(|bin| low + (high - low) * bin as f64 / 9.0);
    let split = std::array::from_fn(|bin| if bin < 3 { 0.5 } else { 0.99 });
    [
        World { name: "confidence says little (.75 to .85)", predicted: line(0.75, 0.85), off: 0.0 },
        World { name: "confidence says much (.55 to .99)", predicted: line(0.55, 0.99), off: 0.0 },
        World { name: "3 of 10 a coin's toss, the rest sure", predicted: split, off: 0.0 },
        World { name: "confidence says much, concept drift: all 15 points lower", predicted: line(0.55, 0.99), off: -0.15 },
    ]
}

/// Width at the end, and whether any look was wrong, for: labels alone (as shown), labels alone by betting, corrected estimate.
fn run(world: &World, labels: u64, chance: &mut Chance) -> [(f64, bool); 3] {
    let even = DECISIONS / CONFIDENCE_BINS as u64;
    let mut bins = [BinCount { decisions: even, labels: 0, correct: 0 }; CONFIDENCE_BINS];
    let truth = |bin: usize| (world.predicted[bin] + world.off).clamp(0.0, 1.0);
    let mean = (0..CONFIDENCE_BINS).map(truth).sum::<f64>() / CONFIDENCE_BINS as f64;
    let mut told = [(1.0, false); 3];
    for label in 1..=labels {
        let bin = (chance.uniform() * CONFIDENCE_BINS as f64) as usize;
        bins[bin].labels += 1;
        bins[bin].correct += u64::from(chance.hit(truth(bin)));
        if label % LOOK != 0 {
            continue;
        }
        let correct: u64 = bins.iter().map(|b| b.correct).sum();
        let by = |predicted| accuracy(&[Stratum { bins: &bins, predicted, eta: 1.0, inclusion: None }], ALPHA).map(|p| p.interval);
        let found = [Some(share(correct as f64, label as f64, ALPHA)), by([0.0; CONFIDENCE_BINS]), by(world.predicted)];
        for (told, interval) in told.iter_mut().zip(found) {
            let Some(interval) = interval else { continue };
            *told = (interval.upper - interval.lower, told.1 || mean < interval.lower || mean > interval.upper);
        }
    }
    told
}

pub fn table(runs: usize) {
    println!(
        "## Intervals: {:.0} % at all times at once, looked at every {LOOK} labels, {runs} runs each; mean width and share of runs ever wrong\n",
        (1.0 - ALPHA) * 100.0
    );
    println!(
        "| world | labels | labels alone | the same by betting | estimate corrected by labels | labels that saves |\n|---|---|---|---|---|---|"
    );
    for (seed, world) in worlds().iter().enumerate() {
        for labels in [50, 200, 1_000] {
            let mut chance = Chance::new(900 + seed as u64);
            let (mut widths, mut missed) = ([0.0; 3], [0; 3]);
            for _ in 0..runs {
                for (i, (width, wrong)) in run(world, labels, &mut chance).into_iter().enumerate() {
                    widths[i] += width / runs as f64;
                    missed[i] += usize::from(wrong);
                }
            }
            let cell = |i: usize| format!("{:.3} / {:.1} %", widths[i], 100.0 * missed[i] as f64 / runs as f64);
            // Width falls with the root of the labels.
            let saved = 100.0 * (1.0 - (widths[2] / widths[1]).powi(2));
            println!("| {} | {labels} | {} | {} | {} | {saved:+.0} % |", world.name, cell(0), cell(1), cell(2));
        }
    }
    println!();
}
