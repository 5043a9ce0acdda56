//! A fake fleet that does what it is told, as far as a test lets it; plans are carried out by the controller's own `apply`.
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::sync::Arc;

use leeway_protocol::digest::Digest;
use leeway_protocol::ids::{BootId, Line, Version};
use leeway_protocol::manifest::{Blob, Lineage};
use leeway_protocol::reason::{Code, Reason};
use leeway_protocol::reported::{Phase, Reported, Running, TrustedVersions};
use leeway_protocol::time::Timestamp;

use crate::fleet::{Arm, CohortDoc, Device, Fleet, Selector};
use crate::planner::{Plan, PlanReport, Policy, Step, plan};
use crate::registry::{Alias, ModelLine, ModelVersion, Role, Slice, VersionStatus};
use crate::rollout::evidence::{Arms, Evidence, Metric, Totals};
use crate::rollout::shared::slices_of;
use crate::rollout::{Actor, Move, Rollout, RolloutPolicy, RolloutSpec, Stage};
use crate::snapshot::{CohortHealth, Snapshot};

pub(crate) fn name<T: std::str::FromStr>(text: &str) -> T {
    text.parse().ok().expect("a valid name")
}

pub(crate) fn line() -> Line {
    name("rain")
}

pub(crate) fn manifest_of(version: &str) -> Digest {
    Digest::of(format!("manifest of {version}").as_bytes())
}

pub(crate) fn version(name_: &str, seq: u64, parent: Option<&str>) -> ModelVersion {
    let blob = |digest| Blob { digest, length: 1000 };
    ModelVersion {
        line: line(),
        version: name(name_),
        seq,
        manifest: blob(manifest_of(name_)),
        model: blob(Digest::of(name_.as_bytes())),
        io: Digest::of(b"io"),
        role: Role::Release,
        signer: "rain".to_owned(),
        lineage: Lineage { parent: parent.map(manifest_of), ..Lineage::default() },
        provenance: None,
        bundle: None,
        published_at: Timestamp::from_secs(0),
        status: VersionStatus::Published,
        poisoned_for: Vec::new(),
    }
}

/// How a device takes to a version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Takes {
    Well,
    /// Refuses it, with this code.
    Refuses(&'static str),
    /// Runs it, then goes back on its own.
    Reverts,
    /// Never gets beyond fetching.
    Hangs,
}

pub(crate) struct World {
    pub(crate) state: Snapshot,
    pub(crate) now: Timestamp,
    pub(crate) policy: Policy,
    pub(crate) takes: BTreeMap<(String, String), Takes>,
    /// Versions that answer wrongly: every inference is an error.
    pub(crate) broken: BTreeSet<String>,
    /// Devices on which every new version answers wrongly.
    pub(crate) sick: Option<Slice>,
    pub(crate) report: PlanReport,
    totals: BTreeMap<(String, Arm), Totals>,
}

impl World {
    /// Three cohorts of twenty connected devices each; version 1 is champion and runs everywhere.
    pub(crate) fn new() -> Self {
        Self::with(&["coast", "hills", "plain"], 20)
    }

    pub(crate) fn with(cohorts: &[&str], devices: usize) -> Self {
        let mut world = Self::bare(cohorts, devices);
        world.edit_line(|line| line.aliases.move_to(Alias::Champion, Some(name("1")), Timestamp::from_secs(0), None, "first"));
        for cohort in cohorts {
            world.edit_cohort(cohort, |c| c.last_known_good = Some(name("1")));
        }
        world.settle();
        world
    }

    /// The same before any version was brought out.
    pub(crate) fn bare(cohorts: &[&str], devices: usize) -> Self {
        let now = Timestamp::from_secs(1_000_000);
        let mut state = Snapshot::default();
        let mut model_line = ModelLine::new(line(), now);
        model_line.rollout = quick();
        Arc::make_mut(&mut state.lines).insert(line(), Arc::new(model_line));
        for (seq, v) in ["1", "2", "3"].into_iter().enumerate() {
            let v = version(v, seq as u64 + 1, None);
            Arc::make_mut(&mut state.versions).insert((line(), v.version.clone()), Arc::new(v));
        }
        let (takes, broken, sick, totals, report) = Default::default();
        let mut world = Self { state, now, policy: Policy::default(), takes, broken, sick, report, totals };
        for cohort in cohorts {
            let selector: Selector = name(&format!("region={cohort}"));
            let doc = CohortDoc { name: name(cohort), line: line(), selector, rank: 0, last_known_good: None, created_at: now };
            Arc::make_mut(&mut world.state.cohorts).insert(name(cohort), Arc::new(doc));
            for i in 0..devices {
                world.enrol(&format!("{cohort}-{i:02}"), cohort);
            }
        }
        world
    }

    pub(crate) fn enrol(&mut self, id: &str, cohort: &str) {
        let labels = BTreeMap::from([("region".to_owned(), cohort.to_owned())]);
        let mut device = Device::new(name(id), "00".repeat(32), labels, self.now);
        device.presence.online = true;
        device.presence.last_seen = Some(self.now);
        self.state.fleet.insert(device);
    }

    pub(crate) fn edit_line(&mut self, edit: impl FnOnce(&mut ModelLine)) {
        edit(Arc::make_mut(Arc::make_mut(&mut self.state.lines).get_mut(&line()).expect("the line")));
    }

    pub(crate) fn edit_cohort(&mut self, cohort: &str, edit: impl FnOnce(&mut CohortDoc)) {
        edit(Arc::make_mut(Arc::make_mut(&mut self.state.cohorts).get_mut(&name(cohort)).expect("the cohort")));
    }

    pub(crate) fn edit_rollout(&mut self, id: &str, edit: impl FnOnce(&mut Rollout)) {
        edit(Arc::make_mut(Arc::make_mut(&mut self.state.rollouts).get_mut(&name(id)).expect("the rollout")));
    }

    pub(crate) fn edit_device(&mut self, id: &str, edit: impl FnOnce(&mut Reported)) {
        edit(self.state.fleet.device_mut(&name(id)).expect("the device").reported.as_mut().expect("it has reported"));
    }

    pub(crate) fn set_health(&mut self, cohort: &str, health: CohortHealth) {
        Arc::make_mut(&mut self.state.health).insert(name(cohort), Arc::new(health));
    }

    pub(crate) fn device(&self, id: &str) -> Arc<Device> {
        self.state.fleet.device(&name(id)).expect("the device")
    }

    pub(crate) fn rollout(&self, id: &str) -> &Rollout {
        self.state.rollouts.get(&name(id)).expect("the rollout")
    }

    pub(crate) fn phase(&self, id: &str) -> &'static str {
        self.rollout(id).state.phase()
    }

    pub(crate) fn online(&mut self, id: &str, online: bool) {
        let now = self.now;
        let mut device = self.state.fleet.device_mut(&name(id)).expect("the device");
        device.presence.online = online;
        device.presence.last_seen = Some(now);
    }

    /// Create a rollout of `version` named `r<version>`.
    pub(crate) fn roll_out(&mut self, to: &str, policy: RolloutPolicy) {
        assert_eq!(policy.check(), Ok(()));
        let baseline = self.state.lines.get(&line()).and_then(|l| l.champion().cloned());
        let spec = RolloutSpec { line: line(), version: name(to), baseline, policy };
        let rollout =
            Rollout::new(name(&format!("r{to}")), spec, "A test asked for it.".to_owned(), Actor::Person("ada".to_owned()), self.now);
        Arc::make_mut(&mut self.state.rollouts).insert(rollout.id.clone(), Arc::new(rollout));
    }

    pub(crate) fn act(&mut self, id: &str, to: Move) {
        let now = self.now;
        self.edit_rollout(id, |r| r.make(&to, &Actor::Person("bob".to_owned()), now).expect("a legal move"));
    }

    pub(crate) fn plan(&self) -> (Plan, PlanReport) {
        plan(&self.state, &self.policy, self.now)
    }

    /// Plan and carry out, and see that nothing is left to do at this moment; in as many plans as the policy makes of it.
    pub(crate) fn tick(&mut self) -> Plan {
        let mut whole = Plan::default();
        loop {
            let plan = self.step();
            let touched = plan.steps.iter().filter(|step| matches!(step, Step::SetDesired { .. } | Step::HoldBack { .. })).count();
            let most = self.policy.devices_per_plan;
            assert!(touched <= most, "{touched} devices in one plan");
            (whole.wake_at, whole.steps) = (plan.wake_at, whole.steps.into_iter().chain(plan.steps).collect());
            if plan.wake_at != Some(self.now) {
                break;
            }
            assert_eq!(touched, most, "only a plan that is full leaves something to the next");
        }
        let mut told = BTreeSet::new();
        for step in &whole.steps {
            if let Step::SetDesired { device, .. } = step {
                assert!(told.insert(device), "{device} is told two things at one moment:\n{}", show(&whole, &self.report));
            }
        }
        let (rest, _) = self.plan();
        assert_eq!(rest.steps, [], "a plan is complete for its moment");
        whole
    }

    /// One plan, carried out.
    pub(crate) fn step(&mut self) -> Plan {
        let (first, report) = self.plan();
        let again = self.plan();
        assert_eq!((&first, &report), (&again.0, &again.1), "one snapshot, one plan");
        // Now and then, to keep the storms quick.
        if self.now.as_millis() / 1000 % 16 == 0 {
            let anew = plan(&self.forgetful(), &self.policy, self.now);
            assert_eq!((&first, &report), (&anew.0, &anew.1), "what the fleet remembers is what is found anew");
        }
        for step in &first.steps {
            self.state.apply(step, self.now).expect("the plan fits the snapshot it was made from");
        }
        self.report = report;
        first
    }

    /// The same state with a fleet that remembers nothing.
    fn forgetful(&self) -> Snapshot {
        let mut state = Snapshot { fleet: Fleet::default(), ..self.state.clone() };
        self.state.fleet.iter().for_each(|device| state.fleet.insert(device.as_ref().clone()));
        state
    }

    /// Time passes, devices act, the controller plans.
    pub(crate) fn pass(&mut self, ms: i64) -> Plan {
        self.now = self.now.plus_millis(ms);
        let ids: Vec<_> = self.state.fleet.iter().filter(|d| d.presence.online).map(|d| d.id.clone()).collect();
        for id in &ids {
            self.follow(id.as_str());
        }
        self.measure();
        self.tick()
    }

    /// Until nothing more is told and everyone has answered.
    pub(crate) fn settle(&mut self) {
        for _ in 0..20 {
            self.pass(1000);
        }
    }

    /// One device takes one step towards what it was told.
    pub(crate) fn follow(&mut self, id: &str) {
        let now = self.now;
        let device = self.device(id);
        if let Some(reported) = self.next_report(&device) {
            let mut next = self.state.fleet.device_mut(&device.id).expect("the device");
            next.presence.last_seen = Some(now);
            next.observe(reported, now);
        } else {
            self.state.fleet.touch(&device.id, now);
        }
    }

    fn next_report(&self, device: &Device) -> Option<Reported> {
        let desired = device.desired.as_ref()?;
        let before = device.reported.clone().unwrap_or(Reported {
            v: 1,
            generation: Default::default(),
            rollout: None,
            phase: Phase::Idle,
            reason: None,
            active: None,
            last_known_good: None,
            shadow: None,
            conditions: Vec::new(),
            trusted: TrustedVersions::default(),
            agent: "test".to_owned(),
            boot: BootId(1),
            outbox: 0,
            dropped: 0,
            at: self.now,
        });
        let Some(version) = &desired.version else {
            return Some(Reported { generation: desired.generation, phase: Phase::Idle, ..before });
        };
        let takes = self
            .takes
            .get(&(device.id.to_string(), version.to_string()))
            .or_else(|| self.takes.get(&("*".to_owned(), version.to_string())));
        let takes = takes.copied().unwrap_or(Takes::Well);
        if before.generation < desired.generation {
            let (rollout, generation) = (desired.rollout.clone(), desired.generation);
            return Some(Reported { generation, rollout, phase: Phase::Fetching, reason: None, at: self.now, ..before });
        }
        let running = |golden: bool| {
            let (line, version, manifest) = (desired.line.clone()?, desired.version.clone()?, desired.manifest?);
            let golden = golden.then(|| Digest::of(b"golden"));
            Some(Running { line, version, manifest, model: manifest, since: self.now, inferences: 10, golden })
        };
        match (before.phase, takes) {
            (Phase::Fetching, Takes::Hangs) => None,
            (Phase::Fetching, Takes::Refuses(code)) => {
                let reason = Some(Reason::new(Code::from(code.to_owned()), "as the test wants it"));
                Some(Reported { phase: Phase::Refused, reason, ..before })
            }
            (Phase::Fetching, _) => Some(Reported { phase: Phase::Probation, active: running(true), ..before }),
            (Phase::Probation, Takes::Reverts) => {
                let active = device.runs.iter().rev().nth(1).map(|old| Running {
                    line: old.line.clone(),
                    version: old.version.clone(),
                    manifest: old.manifest,
                    model: old.manifest,
                    since: self.now,
                    inferences: 1,
                    golden: Some(Digest::of(b"golden")),
                });
                Some(Reported { phase: Phase::Reverted, reason: Some(Reason::new(Code::Crashed, "3 starts")), active, ..before })
            }
            (Phase::Probation, _) => Some(Reported { phase: Phase::Committed, last_known_good: desired.manifest, ..before }),
            _ => None,
        }
    }

    /// Every connected device with a part serves 40 inferences and 20 labels per step.
    fn measure(&mut self) {
        let rollouts: Vec<Arc<Rollout>> = self.state.rollouts.values().filter(|r| r.state.is_judged()).cloned().collect();
        for rollout in rollouts {
            let candidate = manifest_of(rollout.spec.version.as_str());
            let baseline = rollout.spec.baseline.as_ref().map(|v| manifest_of(v.as_str()));
            let mut evidence = self.state.evidence.get(&rollout.id).map(|e| e.as_ref().clone()).unwrap_or_default();
            evidence.manifest = Some(candidate);
            let broken = self.broken.contains(rollout.spec.version.as_str());
            let devices: Vec<Arc<Device>> = self.state.fleet.iter().filter(|d| d.presence.online).collect();
            for device in devices {
                let Some(active) = device.active().map(|r| r.manifest) else { continue };
                if active == candidate && device.part_in(&rollout.id).is_some() {
                    evidence.inferences += 40;
                    evidence.last_at = Some(self.now);
                }
                let Some(arm) = rollout.arm_of(&device, active, candidate, baseline) else { continue };
                let sick = self.sick.as_ref().is_some_and(|slice| slice.holds(&device.labels, None));
                let wrong = if (broken || sick) && arm == Arm::Canary { 10.0 } else { 1.0 };
                let keys = &rollout.spec.policy.slice_by;
                let slices: Vec<Slice> = slices_of(&device, None).filter(|slice| keys.iter().any(|key| key == slice.key())).collect();
                let old = self.totals.entry((device.id.to_string(), arm)).or_default();
                let new = Totals { n: old.n + 20.0, x: old.x + 20.0 - wrong };
                for (metric, old, new) in
                    [(Metric::LabelledAccuracy, *old, new), (Metric::ErrorRatio, Totals { n: old.n, x: 0.0 }, Totals { n: new.n, x: 0.0 })]
                {
                    let replace = |arms: &mut Arms| {
                        if arm == Arm::Canary { &mut arms.canary } else { &mut arms.control }.replace(old, new);
                    };
                    replace(evidence.arms.entry(metric).or_default());
                    for slice in &slices {
                        replace(evidence.slices.entry(slice.to_string()).or_default().entry(metric).or_default());
                    }
                }
                *old = new;
            }
            Arc::make_mut(&mut self.state.evidence).insert(rollout.id.clone(), Arc::<Evidence>::new(evidence));
        }
    }

    /// Devices by what they were told, for tables.
    pub(crate) fn told(&self) -> BTreeMap<String, usize> {
        let mut told = BTreeMap::new();
        for device in self.state.fleet.iter() {
            let version = device.desired.as_ref().and_then(|d| d.version.as_ref()).map_or("nothing", Version::as_str);
            *told.entry(version.to_owned()).or_insert(0) += 1;
        }
        told
    }
}

/// A policy on the scale of seconds: 5 %, 25 %, all; soak 10 s.
pub(crate) fn quick() -> RolloutPolicy {
    let stage = |name: &str, share: f64| Stage { soak_ms: 10_000, deadline_ms: 120_000, ..Stage::share(name, share) };
    let mut policy = RolloutPolicy { device_deadline_ms: 30_000, ..RolloutPolicy::default() };
    policy.stages = vec![stage("canary", 0.05), stage("quarter", 0.25), stage("all", 1.0)];
    policy.gate.min_inferences = 50;
    policy.gate.lost_after_ms = 60_000;
    policy
}

/// A plan and its report as a person would read them.
pub(crate) fn show(plan: &Plan, report: &PlanReport) -> String {
    let mut text = String::new();
    for step in &plan.steps {
        let detail = match step {
            Step::SetDesired { desired, .. } => format!("generation {}, {:?}: ", desired.generation, desired.intent),
            Step::MoveRollout { to, .. } => format!("{}: ", to.as_str()),
            Step::SetAlias { alias, to, .. } => format!("{} -> {}: ", alias.as_str(), to.as_ref().map_or("none", Version::as_str)),
            _ => String::new(),
        };
        let _ = writeln!(text, "{} {} {detail}{}", step.kind(), step.subject(), step.sentence());
    }
    let _ = writeln!(text, "--");
    for (id, r) in &report.rollouts {
        let _ = writeln!(text, "rollout {id}: {}", r.headline);
        for why in &r.why {
            let _ = writeln!(text, "  {why}");
        }
        if let Some(gate) = &r.gate {
            let _ = writeln!(text, "  gate {:?}: {}", gate.outcome, gate.sentence);
        }
    }
    for (id, c) in &report.cohorts {
        let _ = writeln!(text, "cohort {id}: {} of {} on target {}", c.converged, c.devices, c.why.join(" "));
    }
    for (id, l) in &report.lines {
        let _ = writeln!(text, "line {id}: {}", l.why.join(" "));
    }
    for note in &report.notes {
        let _ = writeln!(text, "note: {note}");
    }
    text
}
