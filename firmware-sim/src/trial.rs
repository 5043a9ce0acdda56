//! One story from its seed to its verdict, and how to make a failing one shorter.
//!
//! A trial is a storm, a calm in which the fleet must come to rest, and a last test: every cable pulled, every power cut, and
//! each device must run a good model by itself. What stays true: a story that ends without a violation kept every promise of
//! [`Invariant`] at every moment.
use std::collections::BTreeSet;

use leeway_protocol::reported::Phase;

use crate::authority::Authority;
use crate::director::Director;
use crate::scenario::Scenario;
use crate::watch::{Invariant, Violation};
use crate::world::{BuildError, World};

/// How long the fleet may take to come to rest, and how often it is looked at.
const CALM_MS: u64 = 900_000;
const LOOK_MS: u64 = 5_000;
/// How long a device may take to serve again by itself.
const ALONE_MS: u64 = 45_000;
/// The first release and its assignment stay: without them nothing happens.
const KEPT_ACTS: usize = 2;
/// Replays that shortening a story may take.
const MAX_REPLAYS: usize = 400;

/// A device's number, and a message of it.
type Message = (usize, (u64, u64));

/// How a story ended.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// Its seed.
    pub seed: u64,
    /// Devices that lived it.
    pub devices: usize,
    /// Things that happened.
    pub happenings: u64,
    /// Virtual milliseconds.
    pub virtual_ms: u64,
    /// The promise that was broken, if one was.
    pub violation: Option<Violation>,
}

/// A broken promise with the shortest story that breaks it.
#[derive(Debug, Clone)]
pub struct Failure {
    /// The story.
    pub scenario: Scenario,
    /// What it breaks.
    pub violation: Violation,
    /// What happened to the device concerned, in order.
    pub story: Vec<String>,
}

/// Live the story of a seed.
pub fn run(seed: u64, devices: usize) -> Result<Outcome, BuildError> {
    let mut world = begin(Scenario::of(seed, devices))?;
    let violation = live(&mut world);
    Ok(Outcome { seed, devices, happenings: world.happenings(), virtual_ms: world.elapsed_ms(), violation })
}

/// The shortest story like that of `seed` that breaks a promise.
pub fn shorten(seed: u64, devices: usize) -> Result<Option<Failure>, BuildError> {
    shorten_with(Scenario::of(seed, devices), begin)
}

/// Take faults and acts out of a failing story as long as it breaks the same promise, and tell what is left.
pub fn shorten_with<A: Authority>(
    mut scenario: Scenario,
    begin: impl Fn(Scenario) -> Result<World<A>, BuildError>,
) -> Result<Option<Failure>, BuildError> {
    let Some(mut violation) = live(&mut begin(scenario.clone())?) else { return Ok(None) };
    let mut replays = 0;
    let mut breaks = |shorter: &Scenario, broken: Invariant| -> Result<Option<Violation>, BuildError> {
        replays += 1;
        if replays > MAX_REPLAYS {
            return Ok(None);
        }
        Ok(live(&mut begin(shorter.clone())?).filter(|violation| violation.invariant == broken))
    };
    // From the end: what happens after the violation goes first.
    for at in (0..scenario.faults.len()).rev() {
        let mut shorter = scenario.clone();
        shorter.faults.remove(at);
        if let Some(still) = breaks(&shorter, violation.invariant)? {
            (scenario, violation) = (shorter, still);
        }
    }
    for at in (KEPT_ACTS..scenario.acts.len()).rev() {
        let mut shorter = scenario.clone();
        shorter.acts.remove(at);
        if let Some(still) = breaks(&shorter, violation.invariant)? {
            (scenario, violation) = (shorter, still);
        }
    }
    let mut world = begin(scenario.clone())?;
    world.tell_story();
    let told = live(&mut world).unwrap_or(violation);
    Ok(Some(Failure { story: world.story_of(told.device), scenario, violation: told }))
}

fn begin(scenario: Scenario) -> Result<World<Director>, BuildError> {
    World::new(scenario, |devices, _| Director::new(devices.iter().map(|(device, _)| device.clone())))
}

/// Storm, calm, and the last test.
pub fn live<A: Authority>(world: &mut World<A>) -> Option<Violation> {
    let storm_ms = world.scenario().storm_ms;
    let _ = world.run_until(storm_ms) && calm(world) && alone(world);
    world.watch().violations().first().cloned()
}

/// Let the fleet come to rest: everything is where it should end up, and what waited for its receipt at the last look has it now.
fn calm<A: Authority>(world: &mut World<A>) -> bool {
    world.heal();
    let end = world.elapsed_ms() + CALM_MS;
    let mut waited: Option<BTreeSet<Message>> = None;
    loop {
        let next = world.elapsed_ms() + LOOK_MS;
        world.attend();
        if !world.run_until(next) {
            return false;
        }
        let (device, invariant, why) = if let Some((device, why)) = restless(world) {
            waited = None;
            (device, Invariant::FleetConverges, why)
        } else {
            let waits = unheard(world);
            let before = waited.replace(waits.clone());
            let Some(before) = before else { continue };
            let Some((device, order)) = waits.intersection(&before).next() else { return true };
            (*device, Invariant::NothingSaidIsLost, format!("message {order:?} never arrived"))
        };
        if world.elapsed_ms() >= end {
            world.break_promise(invariant, device, why);
            return false;
        }
    }
}

/// A device that is not where it should end up, and why.
fn restless<A: Authority>(world: &World<A>) -> Option<(usize, String)> {
    if let Some(what) = world.authority().unfinished() {
        return Some((0, what));
    }
    (0..world.devices().count()).find_map(|number| Some((number, unsettled(world, number)?)))
}

/// What devices said, want a receipt for, and was not stored yet.
fn unheard<A: Authority>(world: &World<A>) -> BTreeSet<Message> {
    let mut waits = BTreeSet::new();
    for (number, device) in world.devices().enumerate() {
        let Some(watched) = world.watch().device(number) else { continue };
        let dropped = watched.reported.as_ref().map_or(0, |reported| reported.dropped);
        if dropped == 0 && !watched.uncounted {
            let lost = watched.said.keys().filter(|(boot, counter)| !world.authority().has_stored(device.id(), *boot, *counter));
            waits.extend(lost.map(|order| (number, *order)));
        }
    }
    waits
}

fn unsettled<A: Authority>(world: &World<A>, number: usize) -> Option<String> {
    let device = world.devices().nth(number)?;
    let watched = world.watch().device(number)?;
    let goal = world.authority().goal(device.id())?;
    let Some(release) = world.press().by_manifest(&goal) else { return Some("its goal is no release".to_owned()) };
    let Some(reported) = &watched.reported else { return Some("it never reported".to_owned()) };
    let serving = device.serving();
    let good = release.behaviour.is_kept() && release.revoked_in.is_none();
    let name = &release.named.version;
    if good {
        let settled = serving == Some(goal) && matches!(reported.phase, Phase::Committed | Phase::Idle);
        return (!settled)
            .then(|| format!("it should run {name} and is in {:?} ({:?}), serving {serving:?}", reported.phase, reported.reason));
    }
    if serving == Some(goal) {
        return Some(format!("it still serves {name}, which is bad or revoked ({:?})", reported.phase));
    }
    let ended = matches!(reported.phase, Phase::Reverted | Phase::Refused | Phase::Committed | Phase::Idle);
    (!ended).then(|| format!("it should have refused or reverted {name} and is in {:?} ({:?})", reported.phase, reported.reason))
}

/// Without anybody's help, each device that ever had a good model serves one.
fn alone<A: Authority>(world: &mut World<A>) -> bool {
    let before: Vec<_> = world.devices().map(crate::device::Device::serving).collect();
    world.leave_alone();
    let end = world.elapsed_ms() + ALONE_MS;
    if !world.run_until(end) {
        return false;
    }
    let after: Vec<_> = world.devices().map(crate::device::Device::serving).collect();
    for (number, (before, after)) in before.into_iter().zip(after).enumerate() {
        let rotten = world.watch().device(number).is_some_and(|watched| watched.rotten);
        // Rot in the active model is found when it is loaded again; then an older good one takes over.
        let kept = after == before || (rotten && after.is_some());
        if before.is_some() && !kept {
            let why = format!("it served {before:?}, and by itself after a power cut it serves {after:?}");
            world.break_promise(Invariant::AlwaysALastKnownGood, number, why);
            return false;
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_is_the_same_story() {
        let (a, b) = (run(3, 2).unwrap(), run(3, 2).unwrap());
        assert_eq!((a.happenings, a.virtual_ms, a.violation.clone()), (b.happenings, b.virtual_ms, b.violation));
        assert_ne!(a.happenings, run(4, 2).unwrap().happenings);
    }

    #[test]
    fn a_few_storms_are_survived() {
        let number = |name: &str, default| std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default);
        let first = number("LEEWAY_SEED", 0);
        for seed in first..first + number("LEEWAY_SEEDS", 20) {
            let outcome = run(seed, 3).unwrap();
            if outcome.violation.is_some() {
                let failure = shorten(seed, 3).unwrap().unwrap();
                panic!("seed {seed}: {}\n{:?}\n{}", failure.violation, failure.scenario, failure.story.join("\n"));
            }
        }
    }
}
