//! Parts of the fleet: what it costs the whole to judge them apart, and what that finds.
//!
//! The whole gate with its default guardrails, as the planner asks it, over one metric: failed inferences, 100 canaries and 400 controls
//! on five revisions of hardware. *Alike* counts false aborts; a harm is 15 points more failed inferences everywhere, or 40 on
//! one revision of the five, which is eight in the whole, of which five are tolerated.
use leeway_controller::rollout::evidence::{Arms, Evidence, Metric, Outcome};
use leeway_controller::rollout::gate::{Counts, GatePolicy};
use leeway_protocol::time::Timestamp;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng as _;

use crate::{Chance, Stops, ask, observe, serve};

/// Share of failed inferences with the baseline.
const BASE: f64 = 0.02;
/// Revisions of hardware.
const REVISIONS: usize = 5;

pub fn table(seeds: usize) {
    let policy = GatePolicy { max_error_ratio: 1.0, ..GatePolicy::default() };
    println!("### Parts of the fleet: failed inferences, five revisions, 100 canaries and 400 controls, stated 5 % for all comparisons\n");
    println!(
        "| judged | alike: aborted | +15 points everywhere | +40 points on one revision | of these, that revision named first |\n|---|---|---|---|---|"
    );
    for (name, by_slice) in [("the whole", false), ("the whole and each revision, half of the error each", true)] {
        let worlds = [(0.0, 0.0), (0.15, 0.15), (0.0, 0.4)].map(|harms| {
            let found: Vec<_> = (0..seeds).map(|seed| rollout(&policy, by_slice, harms, seed)).collect();
            let named = found.iter().flatten().filter(|(_, named)| *named).count();
            (Stops(found.into_iter().map(|stop| stop.map(|(n, _)| n)).collect()), named)
        });
        let [(alike, _), (everywhere, _), (one, named)] = &worlds;
        println!("| {name} | {} | {} | {} | {named} of {seeds} |", alike.share(), everywhere.cell(), one.cell());
    }
    println!();
}

/// After which canary it fails, and whether the failing part alone was named; harm elsewhere and on the first revision.
fn rollout(policy: &GatePolicy, by_slice: bool, (elsewhere, first): (f64, f64), seed: usize) -> Option<(usize, bool)> {
    let mut chance = Chance(ChaCha8Rng::seed_from_u64(13_000_000 + seed as u64));
    let mut evidence = Evidence { last_at: Some(Timestamp::from_secs(1)), ..Evidence::default() };
    for n in 1..=100 {
        for is_canary in [true, false, false, false, false] {
            let revision = (chance.uniform() * REVISIONS as f64) as usize % REVISIONS;
            let harm = if revision == 0 { first } else { elsewhere };
            let served = serve(&mut chance, BASE + if is_canary { harm } else { 0.0 });
            let Evidence { arms, settled, slices, apart, .. } = &mut evidence;
            let slice = format!("hw={revision}");
            observe((arms, settled), Metric::ErrorRatio, is_canary, served);
            let settled = &mut apart.entry(slice.clone()).or_default().settled;
            observe((slices.entry(slice).or_default(), settled), Metric::ErrorRatio, is_canary, served);
        }
        evidence.inferences += 2_000;
        let counts = Counts { members: 500, control: 400, running: n, ..Counts::default() };
        if n % 2 == 0 {
            let judged = ask(policy, &evidence, Arms::default(), &counts, by_slice);
            if judged.outcome == Outcome::Fail {
                let named: Vec<&str> = judged.checks.iter().filter_map(|check| check.slice.as_deref()).collect();
                return Some((n, named == ["hw=0"]));
            }
        }
    }
    None
}
