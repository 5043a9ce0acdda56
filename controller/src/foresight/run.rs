//! One future of one rollout, in virtual time: the controller's own planner over simulated devices.
//!
//! The planner is called when something came in or when it asked to be woken, as in production, with one economy: never more often
//! than a thirty-second of the time gone by (exactly on time where the rate is what it waits for), so that a run of two weeks costs
//! some hundred plans and its moments are right to 3 %. People are assumed to be quick: approvals are given, and a stage that
//! passed and waits for a person is promoted at once. A rollout that *pauses for want of a verdict* ends the run as held up.
use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::sync::Arc;

use leeway_protocol::digest::Digest;
use leeway_protocol::reported::Reported;
use leeway_protocol::time::Timestamp;

use super::chance::Chance;
use super::device::{Counted, Next, Simulated, World};
use super::harm::Effect;
use super::study::Study;
use crate::fleet::contact::HOUR_MS;
use crate::fleet::{Arm, DesiredRecord, Device};
use crate::planner::advance::RATE_WINDOW_MS;
use crate::planner::{Step, plan};
use crate::rollout::evidence::{Evidence, Metric, Totals};
use crate::rollout::{Actor, Move, Rollout, RolloutState};

/// How far a run looks ahead: contacts repeat by the week, so whoever has not come in two will not come.
pub const HORIZON_MS: i64 = 14 * 24 * HOUR_MS;
/// The share of the time gone by that plans are apart at least, and its bounds: a contact may last no longer than the upper one.
const GAP: i64 = 32;
const GAP_MS: (i64, i64) = (1_000, 20 * 60_000);
/// Plans of one run: two weeks at the widest gap are a thousand, a rate of one device a minute may need more.
const MAX_PLANS: u64 = 8_000;

/// How a run ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    /// The version is champion.
    Completed,
    /// It was taken back.
    RolledBack(String),
    /// It stands and waits for a person, without a verdict.
    Held(String),
    /// Nothing of that within [`HORIZON_MS`].
    Unfinished,
}

/// What one run showed. Times are milliseconds from its start.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// How it ended.
    pub end: End,
    /// Whether it was taken back from a part of the fleet, and went on elsewhere.
    pub in_part: bool,
    /// When that was decided.
    pub ended_ms: i64,
    /// Devices on which the version ever ran.
    pub exposed: usize,
    /// When each device that has it had it, in order.
    pub reached_ms: Vec<i64>,
    /// Places of the devices that nobody reached.
    pub unreached: Vec<usize>,
    /// The most downloads begun within a minute.
    pub peak: usize,
    /// Plans times devices: what it cost.
    pub work: u64,
}

/// Something that will happen: when, in which order, to whom.
type Event = Reverse<(Timestamp, u64, usize, Next)>;

/// A run.
pub struct Run<'a> {
    study: &'a Study,
    world: World<'a>,
    state: crate::snapshot::Snapshot,
    chance: Chance,
    devices: Vec<Simulated>,
    events: BinaryHeap<Event>,
    queued: u64,
    now: Timestamp,
    plans: u64,
    last_plan: Timestamp,
    told: VecDeque<Timestamp>,
    fetches: Vec<Timestamp>,
    /// To the last device that can be reached, and not only until the rollout is over.
    to_the_last: bool,
    decided: Option<Timestamp>,
}

impl<'a> Run<'a> {
    /// A future of `study` in which the version does `effect`.
    pub fn new(study: &'a Study, effect: Effect, stream: &str, to_the_last: bool) -> Self {
        let mut chance = Chance::new(study.seed, stream);
        let world = World { candidate: study.candidate, length: study.length, base: &study.base, effect };
        let found = study.profiles.iter().filter_map(|p| study.snapshot.fleet.device(&p.id).map(|d| (p, d)));
        let devices: Vec<Simulated> = found
            .map(|(profile, device)| {
                let mut own =
                    Simulated::new(&device, profile.refuses.as_ref().map(|r| &r.reason), profile.per_ms, study.start, &world, &mut chance);
                own.shift = chance.millis(HOUR_MS);
                own
            })
            .collect();
        let (events, queued, plans, told, fetches, decided) = Default::default();
        let (state, now) = (study.snapshot.clone(), study.start);
        let mut run =
            Self { study, world, state, chance, devices, events, queued, now, plans, last_plan: now, told, fetches, to_the_last, decided };
        (0..run.devices.len()).for_each(|i| run.expect_turn(i));
        run
    }

    /// Live through it.
    pub fn go(mut self) -> Outcome {
        let horizon = self.study.start.plus_millis(HORIZON_MS);
        let mut wanted = Some(self.now);
        let end = loop {
            let event = self.events.peek().map(|Reverse((at, ..))| *at);
            match (wanted, event) {
                (Some(at), event) if event.is_none_or(|event| event > at) => {
                    self.now = at;
                    wanted = self.decide();
                    if let Some(end) = self.end() {
                        break end;
                    }
                }
                (_, Some(at)) => {
                    self.now = at;
                    if self.happen() {
                        let soonest = at.max(self.last_plan.plus_millis(self.gap()));
                        wanted = Some(wanted.map_or(soonest, |before| before.min(soonest)));
                    }
                }
                (_, None) => break self.rest(),
            }
            if self.now > horizon || self.plans >= MAX_PLANS {
                break self.rest();
            }
        };
        self.sum_up(end)
    }

    fn gap(&self) -> i64 {
        (self.now.millis_since(self.study.start) / GAP).clamp(GAP_MS.0, GAP_MS.1)
    }

    fn queue(&mut self, at: Timestamp, device: usize, next: Next) {
        self.queued += 1;
        self.events.push(Reverse((at, self.queued, device, next)));
    }

    fn rollout(&self) -> Option<&Arc<Rollout>> {
        self.state.rollouts.get(&self.study.rollout)
    }

    fn device(&self, i: usize) -> Option<Arc<Device>> {
        self.state.fleet.device(&self.study.profiles.get(i)?.id)
    }

    fn desired(&self, i: usize) -> Option<DesiredRecord> {
        self.device(i)?.desired.clone()
    }

    /// Plan, carry out, and let devices hear of it; when to plan again if nothing happens before.
    fn decide(&mut self) -> Option<Timestamp> {
        self.approve();
        let (plan, _) = plan(&self.state, &self.study.policy, self.now);
        (self.plans, self.last_plan) = (self.plans + 1, self.now);
        for step in &plan.steps {
            if self.state.apply(step, self.now).is_err() {
                continue;
            }
            match step {
                Step::SetDesired { device, desired, part } => {
                    if let Some(&i) = self.study.places.get(device) {
                        if part.as_ref().is_some_and(|part| part.arm == Arm::Canary) {
                            self.told.push_back(self.now);
                        }
                        self.tell(i, desired);
                    }
                }
                Step::HoldBack { device, .. } => {
                    if let (Some(&i), Some(desired)) =
                        (self.study.places.get(device), self.state.fleet.device(device).and_then(|d| d.desired.clone()))
                    {
                        self.follow(i, &desired);
                    }
                }
                _ => {}
            }
        }
        if self.promote() {
            return Some(self.now);
        }
        // Only the rate is worth being exactly on time for: a minute missed there is a minute of devices not told.
        while self.told.front().is_some_and(|at| self.now.millis_since(*at) >= RATE_WINDOW_MS) {
            self.told.pop_front();
        }
        let rate = self.rollout().map_or(0, |r| r.spec.policy.max_per_minute as usize);
        let soonest = self.now.plus_millis(if self.told.len() >= rate { 0 } else { self.gap() });
        plan.wake_at.map(|at| at.max(soonest))
    }

    fn approve(&mut self) {
        let Some(found) = Arc::make_mut(&mut self.state.rollouts).get_mut(&self.study.rollout) else { return };
        let next = if found.state == RolloutState::Planned { 0 } else { found.state.next_stage() };
        if !found.state.is_over() && !found.is_approved(next) {
            let remark = "Assumed by the forecast.".to_owned();
            // Refused only where there is nothing to approve.
            let _ = Arc::make_mut(found).make(&Move::Approve { remark }, &Actor::Person("somebody else".to_owned()), self.now);
        }
    }

    /// A stage that passed and only waits for a person goes on.
    fn promote(&mut self) -> bool {
        let Some(found) = Arc::make_mut(&mut self.state.rollouts).get_mut(&self.study.rollout) else { return false };
        if !matches!(found.state, RolloutState::Paused { passed: true, .. }) {
            return false;
        }
        let reason = "Assumed by the forecast.".to_owned();
        Arc::make_mut(found).make(&Move::Resume { reason }, &Actor::Person("somebody".to_owned()), self.now).is_ok()
    }

    fn tell(&mut self, i: usize, desired: &DesiredRecord) {
        self.follow(i, desired);
        let Some(device) = self.devices.get_mut(i).filter(|d| d.online) else { return };
        let heard = device.hear(desired, self.now, &self.world, &mut self.chance);
        self.fetches.extend(device.fetch_at.take());
        if let Some((at, next)) = heard {
            self.queue(at, i, next);
        }
        self.say(i);
    }

    /// Follow a device's windows from now on, if it has a part in this.
    fn follow(&mut self, i: usize, desired: &DesiredRecord) {
        let takes_part = self.device(i).is_some_and(|d| d.part_in(&self.study.rollout).is_some());
        let Some(device) = self.devices.get_mut(i).filter(|d| takes_part && !d.counts) else { return };
        let window = device.window_ms(desired);
        device.follow(self.now, window);
        let first = self.now.plus_millis(self.chance.millis(window) + 1);
        self.queue(first, i, Next::Window);
    }

    /// The next event; whether the controller hears of something by it.
    fn happen(&mut self) -> bool {
        let Some(Reverse((_, _, i, next))) = self.events.pop() else { return false };
        let desired = self.desired(i);
        let Some(device) = self.devices.get_mut(i) else { return false };
        let follow_up = match (next, &desired) {
            (Next::Contact, _) => return self.turn(i),
            (Next::Installed(generation), Some(desired)) if desired.generation == generation => {
                device.install(desired, self.now, &self.world, &mut self.chance)
            }
            (Next::Tried(generation), Some(desired)) if desired.generation == generation => {
                device.settle(desired, self.now, &self.world, &mut self.chance);
                None
            }
            (Next::Window, _) => {
                device.close_window(self.now, &self.world, &mut self.chance);
                let next = device.next_window(self.now);
                if self.decided.is_none() {
                    self.queue(next, i, Next::Window);
                }
                None
            }
            // It was told something else in the meantime.
            _ => None,
        };
        if let Some((at, next)) = follow_up {
            self.queue(at, i, next);
        }
        self.say(i)
    }

    /// Presence turns.
    fn turn(&mut self, i: usize) -> bool {
        let Some(device) = self.devices.get_mut(i) else { return false };
        device.online = !device.online;
        let online = device.online;
        let reached = device.reached_at.is_some();
        if let Some(mut found) = self.study.profiles.get(i).and_then(|p| self.state.fleet.device_mut(&p.id)) {
            (found.presence.online, found.presence.last_seen) = (online, Some(self.now));
        }
        // Once it is over, nobody asks any more where a device is that has what it should.
        if self.decided.is_none() || !reached {
            self.expect_turn(i);
        }
        if !online {
            return false;
        }
        if let Some(desired) = self.desired(i) {
            self.tell(i, &desired);
        }
        !reached
    }

    fn expect_turn(&mut self, i: usize) {
        let (Some(profile), Some(device)) = (self.study.profiles.get(i), self.devices.get(i)) else { return };
        if let Some(at) = profile.pattern.turns(device.online, self.now, device.shift) {
            self.queue(at.max(self.now.plus_millis(1)), i, Next::Contact);
        }
    }

    /// Deliver what a connected device has to say; whether it said anything.
    fn say(&mut self, i: usize) -> bool {
        let Some(device) = self.devices.get_mut(i).filter(|d| d.online) else { return false };
        let (windows, reported): (Vec<(Digest, Counted)>, Option<Reported>) = (device.owed(), device.says());
        let spoke = !windows.is_empty() || reported.is_some();
        for (manifest, counted) in windows {
            self.ingest(i, manifest, &counted);
        }
        let Some(mut found) = self.study.profiles.get(i).and_then(|p| self.state.fleet.device_mut(&p.id)).filter(|_| spoke) else {
            return spoke;
        };
        found.presence.last_seen = Some(self.now);
        if let Some(reported) = reported {
            found.observe(reported, self.now);
        }
        spoke
    }

    /// Add a window to the evidence, by the rules of ingestion.
    fn ingest(&mut self, i: usize, manifest: Digest, counted: &Counted) {
        let (Some(rollout), Some(device)) = (self.rollout().filter(|r| r.state.is_judged()), self.device(i)) else { return };
        let candidate = self.world.candidate;
        let arm = rollout.arm_of(&device, manifest, candidate, self.study.baseline);
        let is_candidate = manifest == candidate;
        let Some(own) = self.devices.get_mut(i) else { return };
        let found = Arc::make_mut(&mut self.state.evidence).entry(self.study.rollout.clone()).or_default();
        let evidence: &mut Evidence = Arc::make_mut(found);
        evidence.manifest = Some(candidate);
        if (!is_candidate && arm.is_none()) || (arm == Some(Arm::Control) && evidence.inferences == 0) {
            return;
        }
        if is_candidate {
            evidence.inferences += (counted.asked - counted.errors) as u64;
            evidence.errors += counted.errors as u64;
            evidence.devices += u64::from(own.sums.iter().all(|sum| sum.n <= 0.0));
            evidence.last_at = Some(self.now);
        }
        let Some(arm) = arm else { return };
        for ((metric, more), sum) in contributions(counted).into_iter().zip(&mut own.sums) {
            if more.n <= 0.0 {
                continue;
            }
            let old = std::mem::replace(sum, Totals { n: sum.n + more.n, x: sum.x + more.x });
            let arms = evidence.arms.entry(metric).or_default();
            if arm == Arm::Canary { arms.canary.replace(old, *sum) } else { arms.control.replace(old, *sum) }
        }
    }

    /// Whether it is over.
    fn end(&mut self) -> Option<End> {
        let state = self.rollout()?.state.clone();
        let end = match state {
            RolloutState::RollingBack { at, .. } => {
                self.decided.get_or_insert(at);
                return None;
            }
            RolloutState::RolledBack { reason, .. } | RolloutState::Aborted { reason, .. } => End::RolledBack(reason),
            RolloutState::Paused { reason, passed: false, .. } => End::Held(reason),
            RolloutState::Completed { at, .. } => {
                self.decided.get_or_insert(at);
                if self.to_the_last
                    && self.devices.iter().zip(&self.study.profiles).any(|(d, p)| p.comes && d.reached_at.is_none() && !d.gave_up())
                {
                    return None;
                }
                End::Completed
            }
            _ => return None,
        };
        self.decided.get_or_insert(self.now);
        Some(end)
    }

    /// The end of a run in which nothing more happens.
    fn rest(&mut self) -> End {
        match self.rollout().map(|r| r.state.clone()) {
            Some(RolloutState::Completed { .. }) => End::Completed,
            Some(RolloutState::RollingBack { reason, .. }) => End::RolledBack(reason),
            _ => End::Unfinished,
        }
    }

    fn sum_up(self, end: End) -> Outcome {
        let since = |at: Timestamp| at.millis_since(self.study.start);
        let mut reached_ms: Vec<i64> = self.devices.iter().filter_map(|d| d.reached_at.map(since)).collect();
        reached_ms.sort_unstable();
        let unreached = self.devices.iter().enumerate().filter(|(_, d)| d.reached_at.is_none() && !d.gave_up()).map(|(i, _)| i);
        let mut fetches: Vec<i64> = self.fetches.iter().map(|at| since(*at)).collect();
        fetches.sort_unstable();
        let within = |at: &i64| fetches.partition_point(|other| *other < at + RATE_WINDOW_MS) - fetches.partition_point(|other| other < at);
        let version = self.state.by_manifest(self.study.candidate);
        Outcome {
            in_part: end == End::Completed && version.is_some_and(|version| !version.poisoned_for.is_empty()),
            end,
            ended_ms: since(self.decided.unwrap_or(self.now)),
            exposed: self.devices.iter().filter(|d| d.ran).count(),
            unreached: unreached.collect(),
            peak: fetches.iter().map(within).max().unwrap_or(0),
            work: self.plans * self.devices.len().max(1) as u64,
            reached_ms,
        }
    }
}

/// What a window adds to each metric, in the order of a device's sums.
fn contributions(counted: &Counted) -> [(Metric, Totals); 4] {
    let good = counted.asked - counted.errors;
    let expected = counted.expected.map_or(Totals::default(), |x| Totals { n: good, x });
    [
        (Metric::ErrorRatio, Totals { n: counted.asked, x: counted.errors }),
        (Metric::SlowRatio, Totals { n: good, x: counted.slow }),
        (Metric::LabelledAccuracy, Totals { n: counted.labels, x: counted.right }),
        (Metric::EstimatedAccuracy, expected),
    ]
}
