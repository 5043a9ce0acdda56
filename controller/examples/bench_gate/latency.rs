//! Latency: how soon a slower version is found, by three tests on the same draws.
//!
//! Devices are of three kinds of hardware, each with a speed and a noise of its own, some nearly without any, and all with bursts.
//! The share above every latency is what Leeway judges by; bands for whole distributions (Howard and Ramdas 2022, Theorem 2; as in
//! Lindon, Sanden and Shirikian 2022) and a bet on the mean of the logarithms were tried beside it.
use leeway_controller::rollout::evidence::Metric;
use leeway_controller::rollout::evidence::latency::Timing;
use leeway_controller::rollout::gate::GatePolicy;
use leeway_controller::sequential::bets::{Values, excess};
use leeway_controller::sequential::ladder::{Ladder, slower};
use leeway_protocol::report::{LATENCY_BUCKETS, latency_bucket};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng as _;

use crate::{Chance, Stops};

/// Timed inferences of one device: a kind of hardware, an own speed and noise, bursts of slowness. What stands for it.
fn timed(chance: &mut Chance, slower: f64) -> f64 {
    let kind = [2.6e6, 9.0e6, 35.0e6][(chance.uniform() * 3.0) as usize % 3];
    let (own, noise) = (kind * (0.15 * chance.normal()).exp() * slower, 0.03 + 0.3 * chance.uniform());
    let (mut timing, mut burst) = (Timing::default(), 1.0);
    for n in 0..100 {
        if n % 10 == 0 {
            burst = if chance.hit(0.08) { 2.5 } else { 1.0 };
        }
        let mut buckets = [0; LATENCY_BUCKETS];
        buckets[latency_bucket((own * burst * (noise * chance.normal()).exp()) as u64)] = 1;
        timing.add(&buckets);
    }
    timing.value().unwrap_or_default()
}

/// Radius of a band around a distribution function that holds for all x and all t at once (Howard and Ramdas 2022, Theorem 2). Put
/// into the theorem's general form, 4·exp(−γ²C)·(1 + 1/((γ² − 1)·ln η)) at its best η, the constants give 3.9 % where 5 % is stated.
fn band(t: usize, alpha: f64) -> f64 {
    let t = t as f64;
    0.85 * (((std::f64::consts::E * t).ln().ln() + 0.8 * (1612.0 / alpha).ln()) / t).sqrt()
}

/// Whether two such bands come apart.
fn apart(canary: &[f64], control: &[f64], factor: f64, alpha: f64) -> bool {
    let above = |of: &[f64], x: f64| of.iter().filter(|y| **y >= x).count() as f64 / of.len() as f64;
    let gap = canary.iter().map(|x| above(canary, *x) - above(control, *x - factor.log2())).fold(0.0, f64::max);
    gap > band(canary.len(), alpha / 2.0) + band(control.len(), alpha / 2.0)
}

/// Latency: 100 canaries and 400 controls, four with each canary; looked at after every second.
pub fn table(seeds: usize) {
    println!("### Latency: p95 of each device, three kinds of hardware with bursts, 100 canaries and 400 controls\n");
    println!("| test | tolerated | alike | x1.5 | x2 | x4 |\n|---|---|---|---|---|---|");
    let harms = [1.0, 1.5, 2.0, 4.0];
    // What a guardrail gets of a stated 5 % is less: the third pair.
    let policy = GatePolicy::default();
    let part: f64 = policy.guardrails.iter().filter(|rail| rail.metric == Metric::Latency).map(|rail| policy.alpha_of(rail)).sum();
    let rules = [(0.05, 0.0), (0.05, 1.0), (part, 1.0)];
    for (alpha, tolerance) in rules {
        let nats = -f64::ln(alpha);
        let mut found = vec![vec![Stops::default(); harms.len()]; 3];
        for (h, harm) in harms.into_iter().enumerate() {
            for seed in 0..seeds {
                let mut chance = Chance(ChaCha8Rng::seed_from_u64((11_000_000 + h * 100_000 + seed) as u64));
                let (mut values, mut paces) = ((Vec::new(), Vec::new()), (Ladder::default(), Ladder::default()));
                let mut logs = (Values::default(), Values::default());
                let mut first = [None; 3];
                for n in 1..=100 {
                    let value = timed(&mut chance, harm);
                    values.0.push(value);
                    paces.0.add(value);
                    logs.0.add((value - f64::log2(1.0 + tolerance)) / LATENCY_BUCKETS as f64);
                    for _ in 0..4 {
                        let value = timed(&mut chance, 1.0);
                        values.1.push(value);
                        paces.1.add(value);
                        logs.1.add(value / LATENCY_BUCKETS as f64);
                    }
                    if n % 2 == 1 {
                        continue;
                    }
                    let stops: [&dyn Fn() -> bool; 3] = [
                        &|| slower(&paces.0, &paces.1, 1.0 + tolerance, nats).0 >= nats,
                        &|| apart(&values.0, &values.1, 1.0 + tolerance, alpha),
                        &|| excess(&logs.0, &logs.1, 0.0, nats) >= nats,
                    ];
                    for (first, stop) in first.iter_mut().zip(stops) {
                        *first = first.or_else(|| stop().then_some(n));
                    }
                }
                found.iter_mut().zip(first).for_each(|(stops, first)| stops[h].0.push(first));
            }
        }
        for (name, stops) in
            ["share above every latency (betting)", "bands for whole distributions", "mean of the logarithms (betting)"].iter().zip(&found)
        {
            let cells: Vec<String> = stops.iter().skip(1).map(Stops::cell).collect();
            println!("| {name}, stated {:.1} % | x{:.0} | {} | {} |", alpha * 100.0, 1.0 + tolerance, stops[0].share(), cells.join(" | "));
        }
    }
    println!();
}
