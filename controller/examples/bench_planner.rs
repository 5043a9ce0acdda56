//! What a decision costs in a large fleet: from a report to the plan, and on to the signed assignment.
//!
//! No store and no network, so that what is measured is the controller's own thinking: a report goes into the ledger as ingestion
//! puts it there, a snapshot is taken, planned from and carried out, and what a device is told is signed. Each fleet has three
//! cohorts and a rollout under way (5 % canaries, 20 % held back). Every measured report leads to one new assignment: the device
//! says that its last attempt failed for a reason of its own, long ago.
//!
//! `cargo run --release -p leeway-controller --example bench_planner -- [devices…]`
//! One fleet per process: memory is what the process grew by.
use std::collections::BTreeMap;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use leeway_controller::fleet::{Certificate, DesiredRecord, DeviceSettings};
use leeway_controller::fleet::{CohortDoc, Device};
use leeway_controller::ingest::{Body, Ledger, Message};
use leeway_controller::planner::{Plan, Policy, Step, plan};
use leeway_controller::registry::{Alias, ModelLine, ModelVersion, Role, VersionStatus};
use leeway_controller::rollout::{Actor, Rollout, RolloutPolicy, RolloutSpec};
use leeway_protocol::assignment::{Assignment, Intent};
use leeway_protocol::digest::Digest;
use leeway_protocol::ids::{BootId, DeviceId, Generation, Line};
use leeway_protocol::manifest::{Blob, Lineage};
use leeway_protocol::reason::{Code, Reason};
use leeway_protocol::reported::{Condition, Phase, Reported, Running, TrustedVersions};
use leeway_protocol::time::Timestamp;
use leeway_protocol::trust::director::{self, DirectedTarget};
use leeway_protocol::trust::keyring::SigningKey;

/// Reports that are timed one by one.
const REPORTS: usize = 300;
/// Reports in a batch, as many as ingestion commits at one time.
const BATCH: usize = 5_000;
/// Batches that are timed.
const BATCHES: usize = 10;
/// The moment the fleet was enrolled, seconds.
const START: i64 = 1_800_000_000;
const COHORTS: [&str; 3] = ["coast", "hills", "plain"];

fn main() {
    let sizes: Vec<usize> = std::env::args().skip(1).filter_map(|size| size.parse().ok()).collect();
    match sizes.as_slice() {
        [one] => measure(*one),
        _ => {
            let sizes = if sizes.is_empty() { vec![1_000, 100_000, 1_000_000] } else { sizes };
            println!("{HEAD}");
            for size in sizes {
                let me = std::env::current_exe().expect("a program has a path");
                let done = Command::new(me).arg(size.to_string()).status().expect("the program starts again");
                assert!(done.success(), "{size} devices: {done}");
            }
        }
    }
}

const HEAD: &str = "\
| devices | bytes per device | report to plan p50 / p99 | to signed assignment p50 / p99 | 5,000 reports to plan p50 / max | plan, nothing changed | idle tick | rollout begins: plans / longest / to the first canary |
|---|---|---|---|---|---|---|---|";

fn measure(size: usize) {
    let before = resident();
    let mut bench = Bench::new(size);
    let bytes = resident().saturating_sub(before) / size.max(1) as u64;
    let begins = bench.begin();
    bench.answer();
    let (mut thought, mut told) = (Vec::new(), Vec::new());
    for n in 0..REPORTS {
        let (to_plan, to_signed) = bench.one(n * (size / REPORTS).max(1) % size);
        thought.push(to_plan);
        told.push(to_signed);
    }
    let mut batches: Vec<Duration> = (0..BATCHES).map(|n| bench.batch(n)).collect();
    let unchanged = bench.unchanged();
    let idle = bench.idle();
    let (thought, told) = (Spread::of(&mut thought), Spread::of(&mut told));
    let batch = Spread::of(&mut batches);
    println!(
        "| {size} | {bytes} | {} / {} | {} / {} | {} / {} | {} | {} | {} / {} / {} |",
        ms(thought.median),
        ms(thought.p99),
        ms(told.median),
        ms(told.p99),
        ms(batch.median),
        ms(batch.p99),
        ms(unchanged),
        ms(idle),
        begins.plans,
        ms(begins.longest),
        ms(begins.first_canary),
    );
}

/// How a rollout begins.
#[derive(Default)]
struct Beginning {
    plans: usize,
    /// The longest of them.
    longest: Duration,
    /// Planning and carrying out, without a store, up to the plan that tells the first canaries.
    first_canary: Duration,
}

struct Spread {
    median: Duration,
    p99: Duration,
}

impl Spread {
    fn of(all: &mut [Duration]) -> Self {
        all.sort_unstable();
        let at = |share: f64| all[((all.len() as f64 * share).ceil() as usize).clamp(1, all.len()) - 1];
        Self { median: at(0.5), p99: at(0.99) }
    }
}

fn ms(time: Duration) -> String {
    let ms = time.as_secs_f64() * 1e3;
    if ms < 0.1 { format!("{:.1} µs", ms * 1e3) } else { format!("{ms:.2} ms") }
}

/// Bytes of memory this process has; 0 where that cannot be read.
fn resident() -> u64 {
    let text = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or_default();
    line.trim().trim_end_matches("kB").trim().parse::<u64>().unwrap_or(0) * 1024
}

struct Bench {
    ledger: Ledger,
    policy: Policy,
    key: SigningKey,
    now: Timestamp,
    counter: u64,
    size: usize,
}

impl Bench {
    fn new(size: usize) -> Self {
        let now = Timestamp::from_secs(START + 86_400);
        let policy = Policy { converge_per_minute: 1_000_000, ..Policy::default() };
        let mut bench = Self { ledger: Ledger::default(), policy, key: SigningKey::from_seed(&[7; 32]), now, counter: 0, size };
        let state = &mut bench.ledger.snapshot;
        let mut model = ModelLine::new(line(), now);
        model.aliases.move_to(Alias::Champion, Some(name("1")), now, None, "The first.");
        Arc::make_mut(&mut state.lines).insert(line(), Arc::new(model));
        for (seq, text) in ["1", "2"].into_iter().enumerate() {
            let version = version(text, seq as u64 + 1);
            Arc::make_mut(&mut state.versions).insert((line(), version.version.clone()), Arc::new(version));
        }
        for cohort in COHORTS {
            let doc = CohortDoc {
                name: name(cohort),
                line: line(),
                selector: name(&format!("region={cohort}")),
                rank: 0,
                last_known_good: Some(name("1")),
                created_at: now,
            };
            Arc::make_mut(&mut state.cohorts).insert(doc.name.clone(), Arc::new(doc));
        }
        (0..size).for_each(|n| state.fleet.insert(device(n)));
        bench
    }

    fn plan(&self) -> Plan {
        let state = self.ledger.snapshot.clone();
        plan(&state, &self.policy, self.now).0
    }

    /// Carry out, as the executor does, but without a store.
    fn carry_out(&mut self, plan: &Plan) {
        let mut state = self.ledger.snapshot.clone();
        for step in &plan.steps {
            state.apply(step, self.now).expect("the plan fits");
        }
        self.ledger.snapshot = state;
    }

    /// A rollout begins: the draw, the control group, the canaries, in as many plans as that takes.
    fn begin(&mut self) -> Beginning {
        let policy = RolloutPolicy { max_in_flight: u32::MAX, max_per_minute: u32::MAX, ..RolloutPolicy::default() };
        let spec = RolloutSpec { line: line(), version: name("2"), baseline: Some(name("1")), policy };
        let by = Actor::Person("ada".to_owned());
        let rollout = Rollout::new(name("r2"), spec, "Measured.".to_owned(), by, self.now);
        // The fleet is at rest and has been planned for.
        assert_eq!(self.plan().steps, []);
        Arc::make_mut(&mut self.ledger.snapshot.rollouts).insert(rollout.id.clone(), Arc::new(rollout));
        let (mut held, mut told) = (0, 0);
        let mut begins = Beginning::default();
        loop {
            let began = Instant::now();
            let plan = self.plan();
            begins.longest = begins.longest.max(began.elapsed());
            begins.plans += 1;
            let hold = plan.steps.iter().filter(|step| matches!(step, Step::HoldBack { .. })).count();
            let tell = plan.steps.iter().filter(|step| matches!(step, Step::SetDesired { .. })).count();
            (held, told) = (held + hold, told + tell);
            self.carry_out(&plan);
            begins.first_canary += if told == tell { began.elapsed() } else { Duration::ZERO };
            if std::env::var_os("BENCH_TRACE").is_some() {
                eprintln!("plan {}: {hold} held, {tell} told, {:?}", begins.plans, began.elapsed());
            }
            assert!(tell == 0 || held == self.size / 5, "nobody is told before the control group is complete");
            if plan.wake_at != Some(self.now) {
                break;
            }
        }
        assert_eq!((held, told), (self.size / 5, (self.size / 20).max(1)), "20 % are held back, 5 % are told");
        begins
    }

    /// Every canary runs the version.
    fn answer(&mut self) {
        let told: Vec<(DeviceId, DesiredRecord)> = {
            let fleet = &self.ledger.snapshot.fleet;
            let canary = |d: &Device| d.desired.clone().filter(|told| told.rollout.is_some()).map(|told| (d.id.clone(), told));
            fleet.iter().filter_map(|d| canary(&d)).collect()
        };
        for (id, told) in told {
            let reported = reported(told.generation, Phase::Committed, "2", None);
            self.say(id, reported);
        }
        let plan = self.plan();
        self.carry_out(&plan);
    }

    fn say(&mut self, device: DeviceId, reported: Reported) {
        self.counter += 1;
        let message = Message { device, boot: BootId(1), counter: self.counter, mark: 0, body: Body::Reported(Box::new(reported)) };
        self.ledger.take(&message, self.now);
    }

    /// A report that leads to an assignment; the times until it is planned, and until it is signed.
    fn one(&mut self, n: usize) -> (Duration, Duration) {
        self.now = self.now.plus_millis(1_000);
        let (id, generation, runs) = self.outside(n);
        let reason = Some(Reason::new(Code::DiskFull, "no room"));
        let report = reported(generation, Phase::Refused, runs, reason);
        let began = Instant::now();
        self.say(id.clone(), report);
        let plan = self.plan();
        let to_plan = began.elapsed();
        assert!(plan.steps.iter().any(|step| matches!(step, Step::SetDesired { device, .. } if *device == id)), "{id} is told again");
        self.carry_out(&plan);
        let bytes = self.sign(&id);
        let to_signed = began.elapsed();
        assert!(bytes.len() > 100);
        (to_plan, to_signed)
    }

    /// A device that is in no rollout, at or after the given one.
    fn outside(&self, n: usize) -> (DeviceId, Generation, &'static str) {
        let fleet = &self.ledger.snapshot.fleet;
        let found = (n..n + self.size).map(|n| id(n % self.size)).find_map(|id| {
            let device = fleet.device(&id)?;
            let told = device.desired.as_ref().filter(|told| told.rollout.is_none() && told.generation == Generation(1))?;
            Some((id, told.generation, "1"))
        });
        found.expect("most are in no rollout")
    }

    /// A batch of reports that change nothing, and the plan after it.
    fn batch(&mut self, round: usize) -> Duration {
        self.now = self.now.plus_millis(1_000);
        let size = BATCH.min(self.size);
        let reports: Vec<(DeviceId, Reported)> = (0..size)
            .filter_map(|n| {
                let id = id((round * BATCH + n * 7) % self.size);
                let known = self.ledger.snapshot.fleet.device(&id)?.reported.clone()?;
                Some((id, Reported { outbox: n as u64, ..known }))
            })
            .collect();
        let began = Instant::now();
        for (id, reported) in reports {
            self.say(id, reported);
        }
        let plan = self.plan();
        let took = began.elapsed();
        self.carry_out(&plan);
        took
    }

    /// A plan when the time has come for one, but nothing has changed.
    fn unchanged(&mut self) -> Duration {
        let mut all: Vec<Duration> = (0..20)
            .map(|_| {
                self.now = self.now.plus_millis(1);
                let began = Instant::now();
                let plan = self.plan();
                let took = began.elapsed();
                self.carry_out(&plan);
                took
            })
            .collect();
        Spread::of(&mut all).median
    }

    /// What the loop does when nothing changed and nothing is due: look at two numbers of a snapshot.
    fn idle(&self) -> Duration {
        let mut all: Vec<Duration> = (0..1_000)
            .map(|_| {
                let began = Instant::now();
                let state = self.ledger.snapshot.clone();
                assert!(std::hint::black_box(state).revision > 0);
                began.elapsed()
            })
            .collect();
        Spread::of(&mut all).median
    }

    /// What the device is told, as the executor signs it.
    fn sign(&self, id: &DeviceId) -> Vec<u8> {
        let state = &self.ledger.snapshot;
        let device = state.fleet.device(id).expect("it is there");
        let desired = device.desired.as_ref().expect("it was told");
        let version = desired.line.as_ref().zip(desired.version.as_ref()).and_then(|(line, version)| state.version(line, version)).cloned();
        let settings = &desired.settings;
        let assignment = Assignment {
            v: 1,
            device: device.id.clone(),
            generation: desired.generation,
            intent: desired.intent,
            release: version.as_ref().map(|v| v.release()),
            rollout: desired.rollout.clone(),
            reason: desired.reason.clone(),
            issued_at: desired.issued_at,
            spread_ms: settings.spread_ms,
            shadow: settings.shadow,
            probation: settings.probation,
            windows: settings.windows,
            capture: settings.capture,
            window: settings.window,
            avoid: state.avoided_by(&device),
        };
        let target = version.map(|v| DirectedTarget { path: v.target_path(), sha256: v.model.digest, length: v.model.length });
        let expires = self.now.plus_millis(86_400_000);
        director::sign(id, assignment.generation, &assignment, target.as_ref(), expires, &self.key).expect("a short document")
    }
}

fn name<T: std::str::FromStr>(text: &str) -> T {
    text.parse().ok().expect("a valid name")
}

fn line() -> Line {
    name("rain")
}

fn id(n: usize) -> DeviceId {
    name(&format!("station-{n:07}"))
}

fn version(text: &str, seq: u64) -> ModelVersion {
    let blob = |what: &str| Blob { digest: Digest::of(format!("{what} {text}").as_bytes()), length: 1_000 };
    ModelVersion {
        line: line(),
        version: name(text),
        seq,
        manifest: blob("manifest"),
        model: blob("model"),
        io: Digest::of(b"io"),
        role: Role::Release,
        signer: "rain".to_owned(),
        lineage: Lineage::default(),
        provenance: None,
        bundle: None,
        published_at: Timestamp::from_secs(START),
        status: VersionStatus::Published,
        poisoned_for: Vec::new(),
    }
}

/// A device as it is after a quiet year: one model, one certificate, an accepted broker secret.
fn device(n: usize) -> Device {
    let labels: BTreeMap<String, String> =
        [("region", COHORTS[n % 3].to_owned()), ("hw", format!("rev-{}", n % 4)), ("firmware", format!("4.{}", n % 7))]
            .map(|(key, value)| (key.to_owned(), value))
            .into();
    let enrolled = Timestamp::from_secs(START);
    let mut device = Device::new(id(n), Digest::of(&n.to_le_bytes()).hex(), labels, enrolled);
    device.certificates =
        vec![Certificate { serial: Digest::of(&n.to_be_bytes()).hex()[..40].to_owned(), not_after: enrolled.plus_millis(1 << 36) }];
    device.credential = Some(Digest::of(&(n + 1).to_le_bytes()));
    device.presence.online = true;
    device.presence.session = n as u64 * 7_919;
    device.presence.last_seen = Some(enrolled);
    device.presence.changed_at = Some(enrolled);
    device.presence.agent = "0.1.0".to_owned();
    let version = version("1", 1);
    device.desired = Some(DesiredRecord {
        generation: Generation(1),
        intent: Intent::Install,
        line: Some(line()),
        version: Some(version.version),
        manifest: Some(version.manifest.digest),
        rollout: None,
        reason: format!("rain 1 on cohort {}: its cohort runs it.", COHORTS[n % 3]),
        issued_at: enrolled,
        settings: DeviceSettings::default(),
    });
    device.observe(reported(Generation(1), Phase::Committed, "1", None), enrolled);
    device
}

fn reported(generation: Generation, phase: Phase, runs: &str, reason: Option<Reason>) -> Reported {
    let version = version(runs, 1);
    let active = Running {
        line: line(),
        version: version.version,
        manifest: version.manifest.digest,
        model: version.model.digest,
        since: Timestamp::from_secs(START),
        inferences: 123_456,
        golden: Some(Digest::of(b"golden")),
    };
    Reported {
        v: 1,
        generation,
        rollout: None,
        phase,
        reason,
        active: Some(active),
        last_known_good: Some(version.manifest.digest),
        shadow: None,
        conditions: conditions(),
        trusted: TrustedVersions { root: 1, timestamp: 400, snapshot: 12, targets: 3 },
        agent: "0.1.0".to_owned(),
        boot: BootId(3),
        outbox: 0,
        dropped: 0,
        at: Timestamp::from_secs(START),
    }
}

/// What an agent says of itself when all is well.
fn conditions() -> Vec<Condition> {
    let certificate = format!("certificate until {}; obtained {}", Timestamp::from_secs(START + 7_776_000), Timestamp::from_secs(START));
    let all = [
        ("ModelVerified", "the model that answers matched its golden vectors on this device"),
        ("InferenceHealthy", "no inference failed since the model was loaded"),
        ("MetadataFresh", "the signed metadata is fresh"),
        ("ClockSane", "the clock agrees with what was signed"),
        ("TelemetryFlowing", "no message was given up"),
        ("CertificateGood", certificate.as_str()),
    ];
    all.map(|(kind, message)| Condition { kind: kind.to_owned(), holds: true, message: message.to_owned() }).into()
}
