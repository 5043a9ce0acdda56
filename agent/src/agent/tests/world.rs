//! The executor of a simulated device: disk, artifact server, broker, runners and time, all in one thread and all repeatable.
//!
//! Rules that must hold whatever a test does are asserted here, at every action.
use std::collections::{BTreeMap, BTreeSet, VecDeque};

use leeway_protocol::digest::Digest;
use leeway_protocol::ids::BootId;
use leeway_protocol::manifest::Manifest;
use leeway_protocol::reason::{Code, Reason};
use leeway_protocol::report::Errors;
use leeway_protocol::reported::{DeviceEvent, Phase, Receipt, Reported, ShadowSummary};
use leeway_protocol::time::Timestamp;
use leeway_protocol::topic::Channel;
use leeway_protocol::trust::envelope::{self, Kind, Opened};
use leeway_protocol::trust::keyring::SigningKey;

use super::disk::{Disk, Trouble};
use super::repo::{Repo, device, start};
use crate::action::{Action, DiskPath, FetchId, Level, Payload, RunId, RunnerPurpose};
use crate::agent::{Agent, Settings};
use crate::confinement::{Confinement, Reached};
use crate::control::{PROTOCOL, Proof, Role, RunnerCommand, RunnerNotice, Slot};
use crate::deployment::Deployment;
use crate::event::{BlobFailure, Event, Fetched};

/// Inferences a simulated runner answers in a second.
const PER_SECOND: u64 = 25;

struct Runner {
    run: RunId,
    purpose: RunnerPurpose,
    loaded: BTreeMap<Slot, (String, Digest, Digest)>,
    active: Option<Slot>,
    shadow: Option<Slot>,
    served: u64,
    compared: u64,
    silent: bool,
}

pub(super) struct World {
    pub(super) repo: Repo,
    pub(super) agent: Agent,
    pub(super) disk: Disk,
    pub(super) now: Timestamp,
    wake: Timestamp,
    runners: Vec<Runner>,
    inbox: VecDeque<Event>,
    /// Whether the artifact server and the broker can be reached.
    pub(super) http: bool,
    pub(super) broker: bool,
    connected: bool,
    /// The retained document.
    pub(super) desired: Option<Vec<u8>>,
    /// Whether the controller receipts what it opened.
    pub(super) receipts: bool,
    pub(super) opened: Vec<Opened>,
    pub(super) log: Vec<(Level, String)>,
    pub(super) downloads: u64,
    /// Manifests that answered the application, in order.
    pub(super) answered: Vec<Digest>,
    /// Manifests that must never answer.
    pub(super) forbidden: BTreeSet<Digest>,
    /// Actions done since the last start of the count, and after how many the device dies.
    pub(super) done: usize,
    pub(super) dies_after: Option<usize>,
    pub(super) dead: bool,
    /// Another program has the port: a runner that should serve ends before it is ready.
    pub(super) port_taken: bool,
    /// What runners say of their confinement.
    pub(super) confinement: Confinement,
    sealed: BTreeMap<(u64, u64), Digest>,
    highest: u64,
    pub(super) settings: Settings,
}

pub(super) fn device_key() -> SigningKey {
    SigningKey::from_seed(&[77; 32])
}

impl World {
    /// A device enrolled in this repository, never started.
    pub(super) fn new(repo: Repo) -> Self {
        let mut disk = Disk::default();
        disk.put(DiskPath::image_root(), repo.keys.image_root.clone());
        disk.put(DiskPath::enrolled_director_root(), repo.keys.director_root.clone());
        let mut settings = Settings::new("test".parse().unwrap(), device(), device_key());
        settings.built_at = start().plus_secs(-86_400);
        Self {
            repo,
            agent: Agent::new(settings.clone()),
            disk,
            now: start(),
            wake: start(),
            runners: Vec::new(),
            inbox: VecDeque::new(),
            http: true,
            broker: true,
            connected: false,
            desired: None,
            receipts: true,
            opened: Vec::new(),
            log: Vec::new(),
            downloads: 0,
            answered: Vec::new(),
            forbidden: BTreeSet::new(),
            done: 0,
            dies_after: None,
            dead: true,
            port_taken: false,
            confinement: Confinement { landlock: Reached::Full, seccomp: Reached::Full, limits: Reached::Full },
            sealed: BTreeMap::new(),
            highest: 0,
            settings,
        }
    }

    /// A device with release 1.0.0 committed under generation 1.
    pub(super) fn settled(mut repo: Repo) -> Self {
        if !repo.targets.contains_key("1.0.0") {
            repo.release("1.0.0", 1, "good");
        }
        let mut world = Self::new(repo);
        world.boot();
        world.desire(world.repo.install(1, "1.0.0"));
        world.run_until(60, |w| w.phase() == Phase::Committed);
        world.run_for(3);
        world
    }

    pub(super) fn boot(&mut self) {
        self.agent = Agent::new(self.settings.clone());
        self.runners.clear();
        self.inbox.clear();
        self.connected = false;
        self.dead = false;
        self.feed(Event::Start(self.disk.stored()));
    }

    /// The power goes and comes back.
    pub(super) fn power_cycle(&mut self) {
        self.disk.lose_power();
        self.boot();
    }

    /// The broker retains this document from now on.
    pub(super) fn desire(&mut self, document: Vec<u8>) {
        self.desired = Some(document.clone());
        if self.connected {
            self.feed(Event::Desired(document));
        }
    }

    pub(super) fn phase(&self) -> Phase {
        self.agent.phase()
    }

    pub(super) fn state(&self) -> Reported {
        self.agent.state()
    }

    pub(super) fn code(&self) -> String {
        self.agent.deployment().reason().map(|r| r.code.as_str().to_owned()).unwrap_or_default()
    }

    /// The version that answers the application.
    pub(super) fn version(&self) -> String {
        self.state().active.map(|a| a.version.to_string()).unwrap_or_default()
    }

    /// What a live serving runner answers with, whatever the agent believes.
    pub(super) fn really_answers(&self) -> Option<Digest> {
        let runner = self.runners.iter().find(|r| r.purpose == RunnerPurpose::Serving)?;
        Some(runner.loaded[&runner.active?].1)
    }

    pub(super) fn manifest_of(&self, version: &str) -> Digest {
        let target = &self.repo.targets[version];
        let of = |bytes: &&Vec<u8>| Manifest::parse(bytes).is_ok_and(|m| m.model.digest == target.sha256);
        Digest::of(self.repo.blobs.values().find(of).unwrap())
    }

    pub(super) fn events(&self) -> Vec<DeviceEvent> {
        let mut seen = BTreeSet::new();
        let events = self.opened.iter().filter(|o| o.kind == Kind::Event && seen.insert((o.boot, o.counter)));
        events.map(|o| serde_json::from_slice(&o.body).unwrap()).collect()
    }

    pub(super) fn last_reported(&self) -> Reported {
        let last = self.opened.iter().rev().find(|o| o.kind == Kind::Reported).unwrap();
        serde_json::from_slice(&last.body).unwrap()
    }

    pub(super) fn logged(&self, text: &str) -> bool {
        self.log.iter().any(|(_, sentence)| sentence.contains(text))
    }

    pub(super) fn run_until(&mut self, secs: u64, reached: impl Fn(&Self) -> bool) {
        for _ in 0..secs {
            if self.dead || reached(self) {
                return;
            }
            self.second();
        }
        assert!(self.dead || reached(self), "not reached in {secs} s: {:?} {}\n{:#?}", self.phase(), self.code(), self.log);
    }

    pub(super) fn run_for(&mut self, secs: u64) {
        for _ in 0..secs {
            self.second();
        }
    }

    fn second(&mut self) {
        let end = self.now.plus_secs(1);
        if self.dead {
            self.now = end;
            return;
        }
        self.connection();
        self.drain();
        while !self.dead && self.wake < end {
            self.now = self.wake.max(self.now.plus_millis(1));
            self.feed(Event::Tick);
            self.drain();
        }
        self.now = end;
        self.live();
        self.drain();
    }

    fn connection(&mut self) {
        if self.broker && !self.connected {
            self.feed(Event::Connecting);
        } else if !self.broker && self.connected {
            self.connected = false;
            self.feed(Event::Disconnected);
        }
    }

    fn drain(&mut self) {
        for _ in 0..10_000 {
            match self.inbox.pop_front() {
                Some(event) if !self.dead => self.feed(event),
                _ => return,
            }
        }
        panic!("the agent and its world never come to rest");
    }

    pub(super) fn feed(&mut self, event: Event) {
        let actions = self.agent.handle(self.now, event);
        for action in actions {
            if self.dies_after.is_some_and(|limit| self.done >= limit) {
                self.dead = true;
                return;
            }
            self.done += 1;
            if let Action::Disk(op) = &action {
                if let Err(trouble) = self.disk.perform(op) {
                    let (full, error) = (trouble == Trouble::Full, format!("{trouble:?}"));
                    return self.feed(Event::DiskFailed { what: op.to_string(), path: op.path().cloned(), full, error });
                }
            } else {
                self.perform(action);
            }
        }
    }

    fn perform(&mut self, action: Action) {
        match action {
            Action::Disk(_) | Action::CancelFetch | Action::RenewCertificate { .. } => {}
            Action::Read { path, .. } => {
                let result = Ok(self.disk.read(&path).map(<[u8]>::to_vec));
                self.inbox.push_back(Event::Read { path, result });
            }
            Action::Connect { will } => {
                self.check_sealed(Channel::Status, &will);
                self.connected = true;
                self.inbox.push_back(Event::Connected { session_present: false });
                self.inbox.extend(self.desired.clone().map(Event::Desired));
            }
            Action::Publish { channel, payload } => self.publish(channel, payload),
            Action::FetchMetadata { fetch, file, .. } => {
                let fetched = match (self.http, file.url_path()) {
                    (false, _) => Fetched::Failed("no route to host".to_owned()),
                    (true, path) => path
                        .strip_prefix("tuf/")
                        .and_then(|name| self.repo.files.get(name))
                        .map_or(Fetched::Absent, |b| Fetched::Bytes(b.clone())),
                };
                self.inbox.push_back(Event::Metadata { fetch, file, fetched });
            }
            Action::FetchBlob { fetch, digest, length, .. } => {
                let answer = self.download(fetch, digest, length);
                self.inbox.push_back(answer);
            }
            Action::StartRunner { run, purpose } => {
                let serving = self.runners.iter().filter(|r| r.purpose == purpose).count();
                assert_eq!(serving, 0, "a second runner for one purpose");
                if self.port_taken && purpose == RunnerPurpose::Serving {
                    return self.notice(run, RunnerNotice::Exited { code: Some(2), signal: None });
                }
                let (loaded, active, shadow) = (BTreeMap::new(), None, None);
                self.runners.push(Runner { run, purpose, loaded, active, shadow, served: 0, compared: 0, silent: false });
                let ready = RunnerNotice::Ready {
                    protocol: PROTOCOL,
                    pid: 1,
                    version: String::new(),
                    listens: vec![],
                    confinement: self.confinement.clone(),
                };
                self.notice(run, ready);
            }
            Action::Runner { run, command } => self.command(run, command),
            Action::KillRunner { run } => self.runners.retain(|r| r.run != run),
            Action::Log { level, sentence } => {
                assert!(!sentence.contains("please report"), "{sentence}");
                self.log.push((level, sentence));
            }
            Action::WakeIn { millis } => self.wake = self.now.plus_millis(i64::try_from(millis).unwrap()),
        }
    }

    fn download(&mut self, fetch: FetchId, digest: Digest, length: u64) -> Event {
        let failed = |failure| Event::BlobFailed { fetch, digest, failure };
        let Some(bytes) = self.repo.blobs.get(&digest).filter(|_| self.http).cloned() else {
            return failed(BlobFailure::Network("no route to host".to_owned()));
        };
        match self.disk.trouble_in(crate::action::Dir::Staging) {
            Some(Trouble::Full) => return failed(BlobFailure::DiskFull),
            Some(Trouble::Broken) => return failed(BlobFailure::Disk("input/output error".to_owned())),
            None => {}
        }
        self.downloads += 1;
        if bytes.len() as u64 != length {
            return failed(BlobFailure::Length { got: bytes.len() as u64 });
        }
        let got = Digest::of(&bytes);
        if got != digest {
            return failed(BlobFailure::Digest { got });
        }
        let path = DiskPath::staging(&digest);
        for op in [crate::action::DiskOp::Write { path: path.clone(), bytes }, crate::action::DiskOp::Sync { path }] {
            self.disk.perform(&op).unwrap();
        }
        Event::BlobDone { fetch, digest }
    }

    fn check_sealed(&mut self, channel: Channel, bytes: &[u8]) -> Opened {
        let kind = Kind::of(channel).unwrap();
        let opened = envelope::open(bytes, &device(), kind, &device_key().public()).unwrap().into_inner();
        let known = self.sealed.insert((opened.boot.0, opened.counter), Digest::of(bytes));
        assert!(known.is_none_or(|digest| digest == Digest::of(bytes)), "a number was used for two messages");
        opened
    }

    fn publish(&mut self, channel: Channel, payload: Payload) {
        let bytes = match payload {
            Payload::Bytes(bytes) => bytes,
            Payload::File(path) => match self.disk.read(&path) {
                Some(bytes) => bytes.to_vec(),
                None => return self.inbox.push_back(Event::Read { path, result: Ok(None) }),
            },
        };
        if !self.connected {
            return;
        }
        let opened = self.check_sealed(channel, &bytes);
        if opened.kind == Kind::Reported {
            let generation = serde_json::from_slice::<Reported>(&opened.body).unwrap().generation.0;
            assert!(generation >= self.highest, "the reported generation went down");
            self.highest = generation;
        }
        let pair = (opened.boot.0, opened.counter);
        if self.receipts && !opened.kind.is_state_like() {
            let receipt = self.receipt(&[pair]);
            self.inbox.push_back(Event::Receipt(receipt));
        }
        self.opened.push(opened);
    }

    pub(super) fn receipt(&self, stored: &[(u64, u64)]) -> Vec<u8> {
        let body = serde_json::to_vec(&Receipt { v: 1, stored: stored.to_vec() }).unwrap();
        envelope::seal(&self.repo.signer.director, &device(), BootId(1), 1, Kind::Receipt, &body).unwrap()
    }

    pub(super) fn notice(&mut self, run: RunId, notice: RunnerNotice) {
        self.inbox.push_back(Event::Runner { run, notice });
    }

    /// The number of the runner that answers.
    pub(super) fn serving_run(&self) -> RunId {
        self.runners.iter().find(|r| r.purpose == RunnerPurpose::Serving).unwrap().run
    }

    /// The runner that answers is killed from outside.
    pub(super) fn kill_runner(&mut self) {
        let run = self.serving_run();
        self.exit(run);
        self.drain();
    }

    fn exit(&mut self, run: RunId) {
        self.runners.retain(|r| r.run != run);
        self.notice(run, RunnerNotice::Exited { code: None, signal: Some(9) });
    }

    fn command(&mut self, run: RunId, command: RunnerCommand) {
        let Some(at) = self.runners.iter().position(|r| r.run == run) else { return };
        match command {
            RunnerCommand::Load { slot, role, model_path, manifest_path, manifest } => {
                self.load(at, slot, role, &model_path, &manifest_path, manifest)
            }
            RunnerCommand::Activate { slot } => {
                let runner = &mut self.runners[at];
                assert_eq!(runner.shadow, Some(slot), "only a shadow is activated");
                (runner.active, runner.shadow, runner.served) = (Some(slot), None, 0);
                self.answers(at);
                self.notice(run, RunnerNotice::Activated { slot });
            }
            RunnerCommand::Drop { slot } => {
                let runner = &mut self.runners[at];
                assert_ne!(runner.active, Some(slot), "the active release is dropped");
                runner.loaded.remove(&slot);
                runner.shadow = runner.shadow.filter(|s| *s != slot);
            }
            RunnerCommand::Stop => self.exit(run),
            RunnerCommand::SetPolicy { .. } | RunnerCommand::Label { .. } | RunnerCommand::CloseWindows => {}
        }
    }

    fn load(&mut self, at: usize, slot: Slot, role: Role, model: &str, manifest_path: &str, manifest: Digest) {
        let run = self.runners[at].run;
        let file = |path: &str| {
            let (dir, name) = path.split_once('/').unwrap();
            let dir = crate::action::Dir::ALL.into_iter().find(|d| d.as_str() == dir).unwrap();
            self.disk.read(&DiskPath::parse(dir, name).unwrap()).map(<[u8]>::to_vec)
        };
        let (model, manifest_bytes) = (file(model).unwrap_or_default(), file(manifest_path).unwrap_or_default());
        let failed = |code| RunnerNotice::LoadFailed { slot, role, reason: Reason::new(code, "") };
        if Digest::of(&manifest_bytes) != manifest || Manifest::parse(&manifest_bytes).unwrap().model.digest != Digest::of(&model) {
            return self.notice(run, failed(Code::DigestMismatch));
        }
        let behaviour = String::from_utf8(model.clone()).unwrap().split_once(' ').unwrap().1.to_owned();
        let mut proof =
            Proof { manifest, model: Digest::of(&model), golden: Digest::of(b"golden"), load_ms: 5, p50_us: 5, p99_us: 9, rss_bytes: 9 };
        match (behaviour.as_str(), role) {
            ("golden-mismatch", _) | ("golden-mismatch-later", Role::Active | Role::Shadow) => {
                return self.notice(run, failed(Code::GoldenMismatch));
            }
            ("prescan-refused", _) => return self.notice(run, failed(Code::PrescanRefused)),
            ("dies-loading", _) => return self.exit(run),
            ("loads-forever", _) => return,
            ("too-much-memory", _) => proof.rss_bytes = 1_001,
            ("too-slow", _) => proof.p99_us = 1_001,
            ("loads-slowly", _) => proof.load_ms = 1_001,
            ("says-another", _) => proof.model = Digest::of(b"another"),
            _ => {}
        }
        let runner = &mut self.runners[at];
        runner.loaded.insert(slot, (behaviour, manifest, Digest::of(&model)));
        match role {
            Role::Active => {
                (runner.active, runner.served) = (Some(slot), 0);
                self.answers(at);
            }
            Role::Shadow => (runner.shadow, runner.compared) = (Some(slot), 0),
            Role::Candidate => assert_eq!(runner.purpose, RunnerPurpose::Candidate),
        }
        self.notice(run, RunnerNotice::Loaded { slot, role, proof });
    }

    fn answers(&mut self, at: usize) {
        let runner = &self.runners[at];
        let manifest = runner.loaded[&runner.active.unwrap()].1;
        assert!(!self.forbidden.contains(&manifest), "a forbidden release answers");
        self.answered.push(manifest);
    }

    /// One second in the life of the runners.
    fn live(&mut self) {
        let mut notices = Vec::new();
        let mut exits = Vec::new();
        for runner in &mut self.runners {
            let Some(slot) = runner.active.filter(|_| !runner.silent) else { continue };
            let behaviour = runner.loaded[&slot].0.clone();
            runner.served += PER_SECOND;
            match behaviour.as_str() {
                "crashes" => {
                    exits.push(runner.run);
                    continue;
                }
                "hangs" => {
                    runner.silent = true;
                    continue;
                }
                _ => {}
            }
            let mut errors = Errors::default();
            match behaviour.as_str() {
                "nan" => errors.not_finite = runner.served,
                "fails" => errors.failed = runner.served / 2,
                _ => {}
            }
            notices.push((
                runner.run,
                RunnerNotice::Progress { slot, inferences: runner.served - errors.against_model().min(runner.served), errors },
            ));
            if let Some(slot) = runner.shadow {
                runner.compared += PER_SECOND;
                let behaviour = &runner.loaded[&slot].0;
                if behaviour == "crashes-beside" {
                    exits.push(runner.run);
                    continue;
                }
                let disagreed = if behaviour == "disagrees" { runner.compared } else { 1 };
                let summary = ShadowSummary { compared: runner.compared, disagreed, p50_us: 3, p99_us: 5 };
                if behaviour != "no-comparison" {
                    notices.push((runner.run, RunnerNotice::Shadow { slot, summary }));
                }
            }
        }
        for (run, notice) in notices {
            self.notice(run, notice);
        }
        for run in exits {
            self.exit(run);
        }
    }

    /// Rules for a device at rest.
    pub(super) fn check_rest(&self) {
        assert!(!matches!(self.agent.deployment(), Deployment::Staged(_)));
        let blobs = self.disk.paths(crate::action::Dir::Blobs).len();
        assert!(blobs <= 4, "two releases at most lie on the disk, but there are {blobs} blobs");
        assert_eq!(self.disk.paths(crate::action::Dir::Staging), []);
        if self.receipts && self.broker {
            assert_eq!(self.disk.paths(crate::action::Dir::Outbox), []);
        }
        for dir in crate::action::Dir::ALL {
            assert!(self.disk.paths(dir).iter().all(|path| !path.is_leftover()), "leftovers in {dir:?}");
        }
    }
}
