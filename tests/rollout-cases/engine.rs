//! Leeway as the suite drives it: the planner's plans applied to a snapshot, devices that report what a case says, a person's verbs.
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use leeway_controller::fleet::{Arm, CohortDoc, Device};
use leeway_controller::planner::advance::gate_of;
use leeway_controller::planner::{PlanReport, Policy, Step as PlanStep, plan};
use leeway_controller::registry::{Alias, ModelLine, ModelVersion, Role, VersionStatus};
use leeway_controller::rollout::evidence::{Arms, Metric, Totals};
use leeway_controller::rollout::verb::{self, Ask};
use leeway_controller::rollout::{Action, Actor, Rollout, RolloutPolicy, RolloutSpec, Standing, standing};
use leeway_controller::snapshot::Snapshot;
use leeway_protocol::assignment::Intent;
use leeway_protocol::digest::Digest;
use leeway_protocol::ids::{BootId, DeviceId, Line, RolloutId, Version};
use leeway_protocol::manifest::{Blob, Lineage};
use leeway_protocol::reason::{Code, Reason};
use leeway_protocol::reported::{Phase, Reported, Running, TrustedVersions};
use leeway_protocol::time::Timestamp;

use crate::format::{Amend, Behave, Case, Join, Person, Relabel, Report, Serve, Side, Step};
use crate::policy;

/// What a device serves in a second.
const INFERENCES: u64 = 40;
/// The suite's clock steps by this.
const TICK_MS: i64 = 1000;

/// How a device takes to the version.
#[derive(Clone)]
enum Takes {
    Well,
    Refuses(Code),
    Reverts(Code),
    Hangs,
    Deaf,
    WaitsForWindow,
    Unproven,
    Mute,
}

pub struct Engine {
    pub state: Snapshot,
    pub now: Timestamp,
    pub report: PlanReport,
    /// Why a person's last verb was refused.
    pub refused: Option<String>,
    /// Every assignment of the version so far.
    pub told: Vec<(Timestamp, DeviceId)>,
    /// How many of these came before the present step.
    pub told_before: usize,
    pub version: Version,
    policy: Policy,
    takes: BTreeMap<DeviceId, Takes>,
    serve: Serve,
    totals: BTreeMap<(DeviceId, Arm, Metric), Totals>,
}

pub fn id() -> RolloutId {
    name("r")
}

fn line() -> Line {
    name("rain")
}

pub fn name<T: std::str::FromStr>(text: &str) -> T {
    text.parse().ok().unwrap_or_else(|| panic!("{text:?} is no name"))
}

fn word_of_user(text: &str) -> Metric {
    name(&format!("user:{text}"))
}

fn manifest_of(version: &str) -> Digest {
    Digest::of(format!("manifest of {version}").as_bytes())
}

fn version(text: &str, seq: u64) -> ModelVersion {
    let blob = |digest| Blob { digest, length: 1000 };
    ModelVersion {
        line: line(),
        version: name(text),
        seq,
        manifest: blob(manifest_of(text)),
        model: blob(Digest::of(text.as_bytes())),
        io: Digest::of(b"io"),
        role: Role::Release,
        signer: "rain".to_owned(),
        lineage: Lineage::default(),
        provenance: None,
        bundle: None,
        published_at: Timestamp::from_secs(0),
        status: VersionStatus::Published,
        poisoned_for: Vec::new(),
    }
}

fn cohort(text: &str, at: Timestamp) -> CohortDoc {
    let selector = name(&format!("cohort={text}"));
    CohortDoc { name: name(text), line: line(), selector, rank: 0, last_known_good: None, created_at: at }
}

impl Engine {
    /// The fleet of a case in peace, and the rollout asked for by ada; the first decision is made.
    pub fn begin(case: &Case) -> Result<Self, String> {
        let now = Timestamp::from_secs(1_000_000);
        let mut state = Snapshot::default();
        for (seq, text) in ["0", "1", "2"].into_iter().enumerate() {
            let version = version(text, seq as u64);
            Arc::make_mut(&mut state.versions).insert((line(), version.version.clone()), Arc::new(version));
        }
        for text in case.fleet.keys() {
            Arc::make_mut(&mut state.cohorts).insert(name(text), Arc::new(cohort(text, now)));
        }
        let mut rain = ModelLine::new(line(), now);
        rain.rollout.hold_back_share = case.hold_back.unwrap_or(0.0);
        Arc::make_mut(&mut state.lines).insert(line(), Arc::new(rain));
        let side = Some(Side::default());
        let mut engine = Self {
            state,
            now,
            report: PlanReport::default(),
            refused: None,
            told: Vec::new(),
            told_before: 0,
            version: name(if case.first_version { "1" } else { "2" }),
            policy: Policy::default(),
            takes: BTreeMap::new(),
            serve: Serve { canary: side.clone(), control: side, canary_with: None },
            totals: BTreeMap::new(),
        };
        for (text, count) in &case.fleet {
            engine.join(&Join { cohort: text.clone(), count: *count });
        }
        if !case.first_version {
            engine.settle_on_version_one();
        }
        engine.create(policy::of(&case.policy))?;
        engine.decide();
        Ok(engine)
    }

    fn settle_on_version_one(&mut self) {
        let rain = Arc::make_mut(&mut self.state.lines).get_mut(&line()).expect("the line");
        let aliases = &mut Arc::make_mut(rain).aliases;
        // There was a version before the present one.
        aliases.move_to(Alias::Champion, Some(name("0")), self.now, None, "first");
        aliases.move_to(Alias::Champion, Some(name("1")), self.now, None, "second");
        let held = std::mem::replace(&mut self.version, name("1"));
        for _ in 0..6 {
            self.tick(true);
        }
        self.version = held;
        self.told.clear();
    }

    fn create(&mut self, policy: RolloutPolicy) -> Result<(), String> {
        policy.check().map_err(|e| e.to_string())?;
        let baseline = self.state.lines.get(&line()).and_then(|l| l.champion().cloned());
        let spec = RolloutSpec { line: line(), version: self.version.clone(), baseline, policy };
        let rollout = Rollout::new(id(), spec, "The case asks for it.".to_owned(), Actor::from("ada".to_owned()), self.now);
        Arc::make_mut(&mut self.state.rollouts).insert(id(), Arc::new(rollout));
        Ok(())
    }

    pub fn rollout(&self) -> Rollout {
        self.state.rollouts.get(&id()).expect("the rollout").as_ref().clone()
    }

    pub fn manifest(&self) -> Digest {
        manifest_of(self.version.as_str())
    }

    /// Every sentence the engine has to say about the rollout now.
    pub fn says(&self) -> Vec<String> {
        let rollout = self.rollout();
        let mut all: Vec<String> = rollout.transitions.iter().rev().take(2).map(|t| t.sentence.clone()).collect();
        if let Some(report) = self.report.rollouts.get(&id()) {
            all.push(report.headline.clone());
            all.extend(report.why.iter().chain(&report.if_aborted).cloned());
            all.extend(report.gate.iter().flat_map(|gate| gate.checks.iter().map(|c| c.sentence.clone())));
        }
        all.extend(self.report.cohorts.values().flat_map(|c| c.why.clone()));
        all
    }

    pub fn place(&self, device: &Device) -> Standing {
        standing(device, &self.rollout(), self.manifest(), self.now)
    }

    /// The event of a step; what could not be understood.
    pub fn carry_out(&mut self, step: &Step) -> Vec<String> {
        (self.refused, self.told_before) = (None, self.told.len());
        if let Some(text) = &step.pass {
            self.time(text, true);
        }
        if let Some(text) = &step.wait {
            self.time(text, false);
        }
        if let Some(text) = &step.skip {
            self.now = self.now.plus_millis(i64::try_from(policy::millis(text)).expect("a time"));
        }
        if let Some(report) = &step.report {
            self.report_by(report);
        }
        if let Some(behave) = &step.behave {
            self.behave(behave);
        }
        for (who, online) in [(&step.offline, false), (&step.online, true)] {
            if let Some(who) = who {
                self.connect(who, online);
            }
        }
        if let Some(serve) = &step.serve {
            self.serve = serve.clone();
        }
        if let Some(join) = &step.join {
            self.join(join);
        }
        if let Some(relabel) = &step.relabel {
            self.relabel(relabel);
        }
        if let Some(person) = &step.person {
            self.refused = self.person(person).err();
        }
        if let Some(amend) = &step.amend {
            self.refused = self.amend(amend).err();
        }
        if step.yank == Some(true) {
            let key = (line(), self.version.clone());
            let version = Arc::make_mut(&mut self.state.versions).get_mut(&key).expect("the version");
            Arc::make_mut(version).status = VersionStatus::Yanked { reason: "Licence.".to_owned() };
        }
        if step.restart == Some(true) {
            self.restart();
        }
        self.decide();
        Vec::new()
    }

    fn time(&mut self, text: &str, acting: bool) {
        for _ in 0..policy::millis(text) / TICK_MS.unsigned_abs() {
            self.tick(acting);
        }
    }

    fn tick(&mut self, acting: bool) {
        self.now = self.now.plus_millis(TICK_MS);
        if acting {
            let ids: Vec<DeviceId> = self.state.fleet.iter().filter(|d| d.presence.online).map(|d| d.id.clone()).collect();
            ids.iter().for_each(|id| self.follow(id));
            self.measure();
        }
        self.decide();
    }

    /// Plan and carry out. The same moment planned again must find nothing more to do.
    fn decide(&mut self) {
        let (made, report) = plan(&self.state, &self.policy, self.now);
        for step in &made.steps {
            if let PlanStep::SetDesired { device, desired, .. } = step
                && desired.rollout == Some(id())
                && desired.version.as_ref() == Some(&self.version)
            {
                self.told.push((self.now, device.clone()));
            }
            self.state.apply(step, self.now).expect("a plan fits the state it was made from");
        }
        assert_eq!(plan(&self.state, &self.policy, self.now).0.steps, [], "a plan is complete for its moment");
        self.report = report;
    }

    /// Devices by the words of a case: `first 3 of told`, `controls`, `north`, `north-03`.
    fn who(&self, text: &str) -> Vec<DeviceId> {
        let (take, rest) = match text.split_once(" of ") {
            Some((count, rest)) if count.contains(' ') => (Some(count), rest),
            _ => (None, text),
        };
        let (rest, cohort) = rest.split_once(" of ").map_or((rest, None), |(rest, cohort)| (rest, Some(cohort)));
        let (rest, label) = rest.split_once(" with ").map_or((rest, None), |(rest, label)| (rest, label.split_once('=')));
        let has = |d: &Device, key: &str, value: &str| d.labels.get(key).is_some_and(|v| v == value);
        let mut found: Vec<Arc<Device>> = self.state.fleet.sorted();
        found.retain(|d| cohort.is_none_or(|cohort| has(d, "cohort", cohort)) && label.is_none_or(|(key, value)| has(d, key, value)));
        let arm = |d: &Device| d.part_in(&id()).map(|p| p.arm);
        match rest {
            "all" => {}
            "told" => found.retain(|d| arm(d) == Some(Arm::Canary)),
            "controls" => found.retain(|d| arm(d) == Some(Arm::Control)),
            "untold" => found.retain(|d| self.place(d).is_untold()),
            "overdue" => found.retain(|d| self.place(d) == Standing::Overdue),
            "running" => found.retain(|d| self.place(d) == Standing::Running),
            "failed" => found.retain(|d| d.part_in(&id()).is_some_and(|p| p.failure.is_some())),
            cohort if self.state.cohorts.keys().any(|c| c.as_str() == cohort) => {
                found.retain(|d| d.labels.get("cohort").map(String::as_str) == Some(cohort));
            }
            device => found.retain(|d| d.id.as_str() == device),
        }
        let order = |d: &Arc<Device>| (d.part_in(&id()).map(|p| p.at), d.id.clone());
        found.sort_by_key(order);
        let ids: Vec<DeviceId> = found.into_iter().map(|d| d.id.clone()).collect();
        let (end, count) = match take.map(|words| words.split_once(' ').expect("first N or last N")) {
            Some((end, count)) => (end, count.parse().expect("a number")),
            None => ("first", ids.len()),
        };
        assert!(!ids.is_empty() && count <= ids.len(), "{text:?} are {} devices", ids.len());
        match end {
            "first" => ids.into_iter().take(count).collect(),
            "last" => ids.into_iter().rev().take(count).collect(),
            other => panic!("{other:?} is neither first nor last"),
        }
    }

    fn join(&mut self, join: &Join) {
        let known = self.state.fleet.iter().filter(|d| d.labels.get("cohort") == Some(&join.cohort)).count();
        for number in known + 1..=known + join.count {
            let labels = BTreeMap::from([
                ("cohort".to_owned(), join.cohort.clone()),
                ("hw".to_owned(), if number % 2 == 0 { "a" } else { "b" }.to_owned()),
            ]);
            let mut device = Device::new(name(&format!("{}-{number:02}", join.cohort)), "00".repeat(32), labels, self.now);
            (device.presence.online, device.presence.last_seen) = (true, Some(self.now));
            self.state.fleet.insert(device);
        }
    }

    fn relabel(&mut self, relabel: &Relabel) {
        for id in self.who(&relabel.who) {
            let mut device = self.state.fleet.device_mut(&id).expect("the device");
            device.labels.insert("cohort".to_owned(), relabel.to.clone());
        }
    }

    fn connect(&mut self, who: &str, online: bool) {
        let now = self.now;
        for id in self.who(who) {
            let presence = &mut self.state.fleet.device_mut(&id).expect("the device").presence;
            (presence.online, presence.last_seen) = (online, Some(now));
        }
    }

    fn behave(&mut self, behave: &Behave) {
        let code = Code::from(behave.reason.clone().unwrap_or_else(|| "crashed".to_owned()));
        let takes = match behave.how.as_str() {
            "well" => Takes::Well,
            "refuses" => Takes::Refuses(code),
            "reverts" => Takes::Reverts(code),
            "hangs" => Takes::Hangs,
            "deaf" => Takes::Deaf,
            "waits-for-window" => Takes::WaitsForWindow,
            "unproven" => Takes::Unproven,
            "mute" => Takes::Mute,
            other => panic!("{other:?} is no behaviour"),
        };
        for id in self.who(&behave.who) {
            self.takes.insert(id, takes.clone());
        }
    }

    fn person(&mut self, person: &Person) -> Result<(), String> {
        let action = Action::ALL.into_iter().find(|a| a.as_str() == person.does).unwrap_or_else(|| panic!("{:?} is no verb", person.does));
        let now = self.rollout().revision;
        let revision = person.revision.as_ref().map(|text| if text == "old" { now - 1 } else { now });
        let ask = Ask { action, reason: "The case says so.".to_owned(), by: &person.name, revision, check: person.check.clone() };
        let (policy, at) = (&self.policy, self.now);
        let done = verb::act(&mut self.state, at, &id(), ask, |state| gate_of(state, policy, &id(), at));
        done.map(drop).map_err(|e| e.to_string())
    }

    fn amend(&mut self, amend: &Amend) -> Result<(), String> {
        let mut rollout = self.rollout();
        let by = Actor::from(amend.by.clone());
        rollout.amend(policy::of(&amend.policy), &by, "The file says so.", self.now).map_err(|e| e.to_string())?;
        Arc::make_mut(&mut self.state.rollouts).insert(id(), Arc::new(rollout));
        Ok(())
    }

    /// Everything that is persisted, written and read again.
    fn restart(&mut self) {
        let rollout: Rollout = again(&self.rollout());
        Arc::make_mut(&mut self.state.rollouts).insert(id(), Arc::new(rollout));
        let devices: Vec<Device> = self.state.fleet.iter().map(|d| again(d.as_ref())).collect();
        devices.into_iter().for_each(|device| self.state.fleet.insert(device));
        let evidence = self.state.evidence.iter().map(|(id, e)| (id.clone(), Arc::new(again(e.as_ref())))).collect();
        self.state.evidence = Arc::new(evidence);
    }

    fn report_by(&mut self, report: &Report) {
        for id in self.who(&report.who) {
            let device = self.state.fleet.device(&id).expect("the device").as_ref().clone();
            let phase = match report.state.as_str() {
                "seen" | "fetching" => Phase::Fetching,
                "trial" => Phase::Probation,
                "committed" => Phase::Committed,
                "refused" => Phase::Refused,
                "reverted" => Phase::Reverted,
                "waits-for-window" | "waits-for-clock" => Phase::Waiting,
                other => panic!("{other:?} is no state to report"),
            };
            let code = match report.state.as_str() {
                "waits-for-window" => Some(Code::MaintenanceWindow),
                "waits-for-clock" => Some(Code::ClockUntrusted),
                _ => report.reason.clone().map(Code::from),
            };
            let (golden, inferences) = (report.golden.unwrap_or(true), report.inferences.unwrap_or(INFERENCES));
            let said = self.answer(&device, phase, code, golden, inferences);
            self.observe(&id, said);
        }
    }

    fn observe(&mut self, id: &DeviceId, said: Option<Reported>) {
        let now = self.now;
        let mut device = self.state.fleet.device_mut(id).expect("the device");
        device.presence.last_seen = Some(now);
        if let Some(said) = said {
            device.observe(said, now);
        }
    }

    /// What a device says that is in `phase` with its latest assignment.
    fn answer(&self, device: &Device, phase: Phase, code: Option<Code>, golden: bool, inferences: u64) -> Option<Reported> {
        let desired = device.desired.as_ref()?;
        let before = device.reported.as_ref();
        let golden = golden.then(|| Digest::of(b"golden"));
        let active = match phase {
            Phase::Probation | Phase::Committed => Some(Running {
                line: desired.line.clone()?,
                version: desired.version.clone()?,
                manifest: desired.manifest?,
                model: desired.manifest?,
                since: self.now,
                inferences,
                golden,
            }),
            Phase::Reverted => Some(Running {
                line: line(),
                version: name("1"),
                manifest: manifest_of("1"),
                model: manifest_of("1"),
                since: self.now,
                inferences,
                golden,
            }),
            _ => before.and_then(|r| r.active.clone()),
        };
        Some(Reported {
            v: 1,
            generation: desired.generation,
            rollout: desired.rollout.clone(),
            phase,
            reason: code.map(|code| Reason::new(code, "as the case wants it")),
            active,
            last_known_good: None,
            shadow: None,
            conditions: Vec::new(),
            trusted: TrustedVersions::default(),
            agent: "suite".to_owned(),
            boot: BootId(1),
            outbox: 0,
            dropped: 0,
            at: self.now,
        })
    }

    /// One second of a device: one step towards what it was told.
    fn follow(&mut self, id: &DeviceId) {
        let device = self.state.fleet.device(id).expect("the device").as_ref().clone();
        let Some(desired) = device.desired.as_ref() else { return };
        let new = desired.manifest == Some(self.manifest()) && desired.intent == Intent::Install;
        let takes = if new { self.takes.get(id).cloned().unwrap_or(Takes::Well) } else { Takes::Well };
        let seen = device.reported.as_ref().is_some_and(|r| r.generation == desired.generation);
        let phase = device.reported.as_ref().map_or(Phase::Idle, |r| r.phase);
        let say = |phase, code| self.answer(&device, phase, code, true, INFERENCES);
        let said = match (takes, seen, phase) {
            (Takes::Deaf, ..) => None,
            (_, false, _) if desired.manifest.is_none() => say(Phase::Idle, None),
            (_, false, _) => say(Phase::Fetching, None),
            (Takes::Hangs, true, _) => None,
            (Takes::WaitsForWindow, true, _) => say(Phase::Waiting, Some(Code::MaintenanceWindow)),
            (Takes::Refuses(code), true, Phase::Fetching) => say(Phase::Refused, Some(code)),
            (_, true, Phase::Fetching | Phase::Waiting) => say(Phase::Probation, None),
            (Takes::Reverts(code), true, Phase::Probation) => say(Phase::Reverted, Some(code)),
            (Takes::Unproven, true, Phase::Probation) => self.answer(&device, Phase::Committed, None, false, INFERENCES),
            (_, true, Phase::Probation) => say(Phase::Committed, None),
            _ => None,
        };
        self.observe(id, said);
    }

    /// Every connected device that runs the version or is held back serves for a second.
    fn measure(&mut self) {
        let Some(rollout) = self.state.rollouts.get(&id()).filter(|r| r.state.is_judged()).cloned() else { return };
        let candidate = self.manifest();
        let baseline = rollout.spec.baseline.as_ref().map(|v| manifest_of(v.as_str()));
        let mut evidence = self.state.evidence.get(&id()).map(|e| e.as_ref().clone()).unwrap_or_default();
        evidence.manifest = Some(candidate);
        let devices: Vec<Arc<Device>> = self.state.fleet.iter().filter(|d| d.presence.online).collect();
        for device in devices {
            let Some(active) = device.active().map(|r| r.manifest) else { continue };
            if matches!(self.takes.get(&device.id), Some(Takes::Mute)) {
                continue;
            }
            let canary = self.canary_side(&device);
            if active == candidate
                && let Some(side) = &canary
            {
                let failed = (side.errors * INFERENCES as f64).round() as u64;
                evidence.inferences += INFERENCES - failed;
                evidence.errors += failed;
                evidence.last_at = Some(self.now);
            }
            let Some(arm) = rollout.arm_of(&device, active, candidate, baseline) else { continue };
            let Some(side) = (if arm == Arm::Canary { canary } else { self.serve.control.clone() }) else { continue };
            let told = side.user.iter().map(|(name, mean)| (word_of_user(name), mean * INFERENCES as f64));
            for (metric, hits) in told.chain([(Metric::ErrorRatio, (side.errors * INFERENCES as f64).round())]) {
                let old = self.totals.entry((device.id.clone(), arm, metric)).or_default();
                let new = Totals { n: old.n + INFERENCES as f64, x: old.x + hits };
                let replace = |arms: &mut Arms| if arm == Arm::Canary { &mut arms.canary } else { &mut arms.control }.replace(*old, new);
                replace(evidence.arms.entry(metric).or_default());
                for (key, value) in device.labels.iter().filter(|(key, _)| rollout.spec.policy.slice_by.contains(key)) {
                    replace(evidence.slices.entry(format!("{key}={value}")).or_default().entry(metric).or_default());
                }
                *old = new;
            }
        }
        Arc::make_mut(&mut self.state.evidence).insert(id(), Arc::new(evidence));
    }

    /// How a device with the version serves.
    fn canary_side(&self, device: &Device) -> Option<Side> {
        let with = self.serve.canary_with.filter(|with| device.labels.get("hw").is_some_and(|hw| hw.chars().eq([with.hw])));
        with.map(|with| Side { errors: with.errors, ..Side::default() }).or_else(|| self.serve.canary.clone())
    }

    /// Devices that were ever told the version.
    pub fn ever_told(&self) -> BTreeSet<&DeviceId> {
        self.told.iter().map(|(_, device)| device).collect()
    }
}

fn again<T: serde::Serialize + serde::de::DeserializeOwned>(value: &T) -> T {
    serde_json::from_value(serde_json::to_value(value).expect("it can be written")).expect("it can be read again")
}
