//! Living many stories on all cores, once, and asking afterwards.
use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};

use leeway_firmware_sim::trial::Failure;
use leeway_firmware_sim::watch::{Invariant, Violation};

/// How a story ended.
pub(crate) struct Ended {
    /// Its seed.
    pub(crate) seed: u64,
    /// The promise that was broken, if one was.
    pub(crate) violation: Option<Violation>,
    /// What else there is to say about it.
    pub(crate) note: String,
}

/// The seeds asked for: the fixed ones, or those of the environment.
pub(crate) fn seeds(fixed: u64) -> std::ops::Range<u64> {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let first = number("LEEWAY_SEED").unwrap_or(0);
    let count = number("LEEWAY_SEEDS").unwrap_or(if number("LEEWAY_SEED").is_some() { 1 } else { fixed });
    first..first.saturating_add(count)
}

/// Live every seed; in the order of the seeds.
pub(crate) fn live_all(seeds: std::ops::Range<u64>, live: impl Fn(u64) -> (Option<Violation>, String) + Sync) -> Vec<Ended> {
    let next = AtomicU64::new(seeds.start);
    let work = || {
        let mut ended = Vec::new();
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= seeds.end {
                return ended;
            }
            let (violation, note) = live(seed);
            ended.push(Ended { seed, violation, note });
        }
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let mut ended: Vec<Ended> = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        workers.into_iter().flat_map(|worker| worker.join().expect("a story must not panic")).collect()
    });
    ended.sort_by_key(|story| story.seed);
    ended
}

/// No seed broke this promise; else the first that did is told, as short as it gets.
pub(crate) fn holds(ended: &[Ended], invariant: Invariant, shorten: impl FnOnce(u64) -> Option<Failure>) {
    assert!(!ended.is_empty(), "no story was lived: LEEWAY_SEEDS must be at least 1");
    let breaks = |story: &&Ended| story.violation.as_ref().is_some_and(|violation| violation.invariant == invariant);
    let broke: Vec<u64> = ended.iter().filter(breaks).map(|story| story.seed).collect();
    let Some(&first) = broke.first() else { return };
    let mut text = format!("{}: broken by {} of {} seeds: {broke:?}\n", invariant.sentence(), broke.len(), ended.len());
    if let Some(failure) = shorten(first) {
        let _ = writeln!(text, "the shortest story of seed {first}:");
        for sentence in &failure.story {
            let _ = writeln!(text, "  {sentence}");
        }
        let _ = writeln!(text, "  {}", failure.violation);
    }
    panic!("{text}again: LEEWAY_SEED={first} cargo test --release -p leeway-tests --test sim");
}
