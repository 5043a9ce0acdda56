//! Parts of the fleet: what it costs the whole to judge them apart, and what that finds.
//!
//! The whole gate with its default guardrails, as the planner asks it, over one metric: failed inferences, 100 canaries and 400 controls
//! on five revisions of hardware. *Alike* counts false aborts; a harm is 15 points more failed inferences everywhere, or 40 on
//! one revision of the five, which is eight in the whole, of which five are tolerated.
use std::collections::BTreeMap;

use leeway_controller::rollout::evidence::apart::Apart;
use leeway_controller::rollout::evidence::{Arms, Evidence, Limits, Metric, Outcome, Settled, Totals, compare, devices};
use leeway_controller::rollout::gate::{Counts, GatePolicy, Question, StageOutcome, judge};
use leeway_protocol::time::Timestamp;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng as _;

use crate::{Chance, Stops, serve};

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
            observe(&mut evidence, is_canary, &format!("hw={revision}"), served);
        }
        evidence.inferences += 2_000;
        let counts = Counts { members: 500, control: 400, running: n, ..Counts::default() };
        let question = Question {
            policy,
            evidence: Some(&evidence),
            failures: Arms::default(),
            counts: &counts,
            reach: 500,
            by_slice,
            has_baseline: true,
            soaking_since: Some(Timestamp::from_secs(0)),
            stage: StageOutcome::default(),
            abort: &[],
            dismissed: &[],
            compare,
        };
        if n % 2 == 0 {
            let judged = judge(&question);
            if judged.outcome == Outcome::Fail {
                let named: Vec<&str> = judged.checks.iter().filter_map(|check| check.slice.as_deref()).collect();
                return Some((n, named == ["hw=0"]));
            }
        }
    }
    None
}

fn observe(evidence: &mut Evidence, is_canary: bool, slice: &str, totals: Totals) {
    let share = devices::settles(Metric::ErrorRatio, &Limits::default(), Totals::default(), totals);
    let count = |arms: &mut BTreeMap<Metric, Arms>, settled: &mut BTreeMap<Metric, Settled>| {
        let (arms, settled) = (arms.entry(Metric::ErrorRatio).or_default(), settled.entry(Metric::ErrorRatio).or_default());
        let (arm, values) = if is_canary { (&mut arms.canary, &mut settled.canary) } else { (&mut arms.control, &mut settled.control) };
        arm.replace(Totals::default(), totals);
        share.into_iter().for_each(|share| values.add(share));
    };
    count(&mut evidence.arms, &mut evidence.settled);
    let apart: &mut Apart = evidence.apart.entry(slice.to_owned()).or_default();
    count(evidence.slices.entry(slice.to_owned()).or_default(), &mut apart.settled);
}
