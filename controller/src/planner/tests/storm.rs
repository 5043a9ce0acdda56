//! Random fleets, faults and operators against the planner's invariants; every failure prints its seed.
use std::collections::BTreeMap;

use leeway_protocol::assignment::Intent;

use super::world::{Takes, World, line, manifest_of, name, quick};
use crate::fleet::bucket::quota;
use crate::fleet::{Arm, Device};
use crate::planner::{Plan, Step};
use crate::registry::VersionStatus;
use crate::rollout::gate::Counts;
use crate::rollout::{Move, RolloutPolicy, RolloutState, Standing, standing};

/// Lives per run: a second on one core; `LEEWAY_SEEDS` asks for more.
const SEEDS: u64 = 40;

struct Dice(u64);

impl Dice {
    /// SplitMix64.
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % sides
    }

    fn one_in(&mut self, n: u64) -> bool {
        self.roll(n) == 0
    }
}

#[test]
fn invariants_hold_whatever_happens() {
    let seeds = std::env::var("LEEWAY_SEEDS").ok().and_then(|n| n.parse().ok()).unwrap_or(SEEDS);
    for seed in 0..seeds {
        live(seed);
    }
}

fn live(seed: u64) {
    let mut dice = Dice(seed);
    let mut world = World::with(&["coast", "hills", "plain"], 3 + dice.roll(20) as usize);
    let mut policy = RolloutPolicy { max_in_flight: 1 + dice.roll(10) as u32, max_per_minute: 1 + dice.roll(30) as u32, ..quick() };
    policy.control_share = [0.0, 0.1, 0.3, 0.5][dice.roll(4) as usize];
    if dice.one_in(2) {
        world.broken.insert("2".to_owned());
    }
    if dice.one_in(4) {
        world.policy.devices_per_plan = 1 + dice.roll(8) as usize;
    }
    for device in world.state.fleet.sorted().iter().map(|d| d.id.to_string()).collect::<Vec<_>>() {
        let takes = match dice.roll(12) {
            0 => Takes::Refuses("disk-full"),
            1 => Takes::Refuses("golden-mismatch"),
            2 => Takes::Reverts,
            3 => Takes::Hangs,
            _ => Takes::Well,
        };
        if dice.one_in(3) {
            world.takes.insert((device, "2".to_owned()), takes);
        }
    }
    world.roll_out("2", policy.clone());
    let mut generations = BTreeMap::new();
    for step in 0..200 {
        disturb(&mut world, &mut dice, step);
        let plan = world.pass(1000 * (1 + dice.roll(5) as i64));
        check(&world, &plan, &policy, &mut generations, seed);
        if step % 4 == 0 {
            recount(&world, seed);
        }
    }
    converge(&mut world, &mut generations, &policy, seed);
}

fn disturb(world: &mut World, dice: &mut Dice, step: u64) {
    let devices: Vec<String> = world.state.fleet.sorted().into_iter().map(|d| d.id.to_string()).collect();
    for id in &devices {
        if dice.one_in(40) {
            let online = world.device(id).presence.online;
            world.online(id, !online);
        }
    }
    if dice.one_in(15) {
        world.enrol(&format!("late-{step}"), ["coast", "hills", "plain"][dice.roll(3) as usize]);
    }
    let moves = [
        Move::Pause { reason: "storm".to_owned(), passed: false },
        Move::Resume { reason: "storm".to_owned() },
        Move::Resume { reason: "storm".to_owned() },
        Move::Promote { reason: "storm".to_owned() },
        Move::Abort { reason: "storm".to_owned() },
    ];
    let sides = if dice.one_in(10) { 5 } else { 3 };
    let to = &moves[dice.roll(sides) as usize];
    if dice.one_in(10) {
        let now = world.now;
        world.edit_rollout("r2", |r| drop(r.make(to, &crate::rollout::Actor::Person("eve".to_owned()), now)));
    }
}

fn check(world: &World, plan: &Plan, policy: &RolloutPolicy, generations: &mut BTreeMap<String, u64>, seed: u64) {
    let rollout = world.rollout("r2");
    let bad = manifest_of("2");
    let leaving =
        matches!(rollout.state, RolloutState::RollingBack { .. } | RolloutState::RolledBack { .. } | RolloutState::Aborted { .. });
    let mut told = 0;
    for step in &plan.steps {
        let Step::SetDesired { device, desired, .. } = step else { continue };
        let last = generations.insert(device.to_string(), desired.generation.0).unwrap_or(0);
        assert!(desired.generation.0 > last, "seed {seed}: the generation of {device} did not rise");
        told += usize::from(desired.rollout == Some(name("r2")) && desired.intent == Intent::Install);
        assert!(
            !(leaving && desired.manifest == Some(bad)),
            "seed {seed}: {device} is told the bad version after the rollback was planned"
        );
    }
    if leaving {
        for device in world.state.fleet.iter() {
            assert_ne!(device.desired.as_ref().and_then(|d| d.manifest), Some(bad), "seed {seed}: {} is still to run it", device.id);
        }
    }
    if let (Some(stage), true) = (rollout.state.stage(), rollout.state.is_judged()) {
        let has = |d: &std::sync::Arc<Device>| d.part.as_ref().is_some_and(|p| p.arm == Arm::Canary) || d.runs(bad);
        let (exposed, members) = (world.state.fleet.iter().filter(has).count(), world.state.fleet.len());
        let share = policy.stages[stage].share;
        assert!(
            exposed <= quota(share, members),
            "seed {seed}: {exposed} of {members} devices in stage {stage}, allowed is a share of {share}"
        );
        let recent = world
            .state
            .fleet
            .iter()
            .filter_map(|d| d.part.clone())
            .filter(|p| p.arm == Arm::Canary && world.now.millis_since(p.at) < 60_000)
            .count();
        assert!(recent <= policy.max_per_minute as usize, "seed {seed}: {recent} told within a minute");
    }
    assert!(told <= policy.max_in_flight as usize, "seed {seed}: {told} told at once");
    if let VersionStatus::Poisoned { .. } = world.state.version(&line(), &name("2")).unwrap().status {
        assert!(leaving, "seed {seed}: a poisoned version goes on being rolled out");
    }
}

/// The report's figures against a plain walk over every device, in the words of [`standing`] and of the plan's own rules.
fn recount(world: &World, seed: u64) {
    let (state, now) = (&world.state, world.now);
    let rollout = world.rollout("r2");
    if let (Some(report), true) = (world.report.rollouts.get(&rollout.id), rollout.state.is_judged()) {
        let mut counts = Counts::default();
        for device in state.fleet.iter().filter(|d| state.cohort_of(d).is_some()) {
            let place = standing(&device, rollout, manifest_of("2"), now);
            let canary = device.part_in(&rollout.id).filter(|p| p.arm == Arm::Canary);
            counts.add(place, canary.is_some_and(|p| p.exposed_at.is_some()));
            counts.members += 1;
            let holds = rollout.stage().is_some_and(|(stage, _)| rollout.holds_control(stage));
            let untold = canary.is_none() && (place == Standing::Untold || !holds);
            counts.away += usize::from(untold && !device.presence.online);
            counts.waiting += usize::from(untold && device.presence.online);
        }
        counts.allowed = report.counts.allowed;
        assert_eq!(report.counts, counts, "seed {seed}: {}", report.headline);
    }
    for (cohort, report) in &world.report.cohorts {
        let target = state.cohorts.get(cohort).and_then(|cohort| state.target_of(cohort)).map(|v| v.manifest.digest);
        let members: Vec<_> = state.fleet.iter().filter(|d| state.cohort_of(d).is_some_and(|c| c.name == *cohort)).collect();
        let elsewhere = |d: &Device| rollout.state.is_active() && d.part_in(&rollout.id).is_some_and(|p| p.arm == Arm::Canary);
        let there =
            |d: &Device| target.is_some_and(|target| d.proves(target) && d.desired.as_ref().is_some_and(|d| d.manifest == Some(target)));
        let converged = members.iter().filter(|d| there(d) && !elsewhere(d)).count();
        assert_eq!((report.devices, report.converged), (members.len(), converged), "seed {seed}: cohort {cohort}");
    }
}

#[test]
fn the_checks_can_fail() {
    type Spoil = (&'static str, fn(&mut World));
    let spoil: [Spoil; 3] = [
        ("in stage", |world| {
            let ids: Vec<_> = world.state.fleet.iter().map(|d| d.id.clone()).collect();
            let part = world.state.fleet.iter().find_map(|d| d.part.clone().filter(|p| p.arm == Arm::Canary));
            ids.iter().for_each(|id| world.state.fleet.device_mut(id).unwrap().part.clone_from(&part));
        }),
        ("is still to run it", |world| world.act("r2", Move::Abort { reason: "storm".to_owned() })),
        ("a poisoned version", |world| {
            let versions = std::sync::Arc::make_mut(&mut world.state.versions);
            let version = std::sync::Arc::make_mut(versions.get_mut(&(line(), name("2"))).unwrap());
            version.status = VersionStatus::Poisoned { reason: "storm".to_owned() };
        }),
    ];
    for (expected, spoil) in spoil {
        let mut world = World::new();
        world.roll_out("2", quick());
        world.tick();
        check(&world, &Plan::default(), &quick(), &mut BTreeMap::new(), 0);
        spoil(&mut world);
        let found = std::panic::catch_unwind(|| check(&world, &Plan::default(), &quick(), &mut BTreeMap::new(), 0)).unwrap_err();
        let message = found.downcast_ref::<String>().cloned().unwrap_or_default();
        assert!(message.contains(expected), "{expected}: {message}");
    }
}

/// Once faults and people stop, every device ends on what its cohort should run, unless it refused that.
fn converge(world: &mut World, generations: &mut BTreeMap<String, u64>, policy: &RolloutPolicy, seed: u64) {
    let all: Vec<String> = world.state.fleet.iter().map(|d| d.id.to_string()).collect();
    all.iter().for_each(|id| world.online(id, true));
    for _ in 0..60 {
        if let RolloutState::Paused { .. } = world.rollout("r2").state {
            world.act("r2", Move::PromoteAll { reason: "On.".to_owned() }.or_promote(world));
        }
        for _ in 0..30 {
            let plan = world.pass(5000);
            check(world, &plan, policy, generations, seed);
        }
        if world.rollout("r2").state.is_over() {
            break;
        }
    }
    let rollout = world.rollout("r2");
    assert!(rollout.state.is_over(), "seed {seed}: {:?}\n{:?}", rollout.state, world.report.rollouts);
    let target = if matches!(rollout.state, RolloutState::Completed { .. }) { "2" } else { "1" };
    for device in world.state.fleet.iter() {
        let id = device.id.as_str();
        assert_eq!(device.desired.as_ref().and_then(|d| d.manifest), Some(manifest_of(target)), "seed {seed}: {id}");
        let takes = world.takes.get(&(id.to_owned(), target.to_owned())).copied().unwrap_or(Takes::Well);
        assert!(takes != Takes::Well || device.proves(manifest_of(target)), "seed {seed}: {id} {:?}", device.reported);
    }
}

impl Move {
    /// In the last stage there is no further stage to go to; the person completes instead.
    fn or_promote(self, world: &World) -> Self {
        let rollout = world.rollout("r2");
        let last = rollout.state.stage().is_some_and(|s| rollout.is_last(s));
        if last { Self::Promote { reason: "Done.".to_owned() } } else { self }
    }
}
