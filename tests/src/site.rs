//! One controller as an operator has it: keys made offline, `leeway serve` as a process, `leeway` commands, the API.
//!
//! Everything lies in one temporary folder and on free ports, so stories run beside each other. A site may be killed and started
//! again; it keeps its ports, because devices know them.
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use leeway_controller::io::web::resource::event::{Event, EventList};
use leeway_controller::io::web::resource::rollout::Rollout;
use leeway_protocol::manifest::Manifest;
use leeway_protocol::time::Timestamp;
use leeway_protocol::trust::keyring::{KeyFile, SigningKey};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::api::Api;
use crate::harness::{Running, free_port, program, wait_for};
use crate::lesson::Lesson;
use crate::release;

/// Phases that a rollout does not leave.
const OVER: [&str; 3] = ["completed", "rolled_back", "aborted"];
/// How long an enrolment token of a test is good for.
const TOKEN_MS: u64 = 600_000;

/// The longest a command may take: a model that is published is tried out on two busy cores.
const COMMAND_LIMIT: Duration = Duration::from_secs(60);

/// This moment, for signatures.
pub fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp::from_millis(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
}

/// What a program said before it ended.
#[derive(Debug, Clone)]
pub struct Told {
    /// Exit code; -1 for a signal.
    pub code: i32,
    /// Standard output.
    pub out: String,
    /// Standard error.
    pub err: String,
}

impl Told {
    /// Run `command` to its end.
    ///
    /// # Panics
    /// If it does not end in a minute.
    pub fn by(command: &mut Command) -> Self {
        // Files and not pipes: a program that is killed may leave children behind that hold a pipe open.
        let (out, err) = (tempfile::NamedTempFile::new().expect("a file"), tempfile::NamedTempFile::new().expect("a file"));
        let streams = (out.reopen().expect("a file"), err.reopen().expect("a file"));
        let started = command.stdin(Stdio::null()).stdout(streams.0).stderr(streams.1).spawn();
        let mut child = started.unwrap_or_else(|e| panic!("{command:?} cannot be started: {e}"));
        let text = |file: &tempfile::NamedTempFile| String::from_utf8_lossy(&std::fs::read(file.path()).unwrap_or_default()).into_owned();
        let begun = Instant::now();
        loop {
            if let Some(status) = child.try_wait().expect("a child") {
                return Self { code: status.code().unwrap_or(-1), out: text(&out), err: text(&err) };
            }
            if begun.elapsed() > COMMAND_LIMIT {
                let _ = child.kill();
                let _ = child.wait();
                panic!("{command:?} does not end:\n{}{}", text(&out), text(&err));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Itself, if it ended with 0.
    ///
    /// # Panics
    /// Otherwise, with everything it said.
    #[must_use]
    pub fn ok(self) -> Self {
        assert!(self.code == 0, "ended with {}\n{}\n{}", self.code, self.out, self.err);
        self
    }

    /// Its output as JSON.
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|e| panic!("not JSON ({e}): {}", self.out))
    }
}

/// A controller with its keys.
#[derive(Debug)]
pub struct Site {
    dir: TempDir,
    line: String,
    http: u16,
    mqtt: u16,
    /// A broker outside, as arguments of `leeway serve`; the embedded one otherwise.
    pub broker: Option<Vec<String>>,
    /// More arguments of `leeway serve`.
    pub args: Vec<String>,
    controller: Option<Running>,
    token: Option<String>,
}

impl Site {
    /// Keys for one model line, made by `leeway keys init`; nothing runs yet.
    pub fn new(line: &str) -> Self {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let (http, mqtt) = (free_port(), free_port());
        let site = Self { dir, line: line.to_owned(), http, mqtt, broker: None, args: Vec::new(), controller: None, token: None };
        let out = site.path("keys").display().to_string();
        let _ = site.leeway(&["keys", "init", "--out", &out, "--line", line]).ok();
        site
    }

    /// The same, started.
    pub fn started(line: &str) -> Self {
        let mut site = Self::new(line);
        site.start();
        site
    }

    /// The model line.
    pub fn line(&self) -> &str {
        &self.line
    }

    /// A file in its folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The embedded broker's port.
    pub fn mqtt(&self) -> u16 {
        self.mqtt
    }

    /// The port of API and pages.
    pub fn http(&self) -> u16 {
        self.http
    }

    /// `leeway serve` with the arguments it is started with.
    pub fn serve(&self) -> Command {
        let mut command = Command::new(program("leeway"));
        command.arg("serve").arg("--data").arg(self.path("controller"));
        command.arg("--keys").arg(self.path("keys/controller"));
        command.args(["--listen", &format!("127.0.0.1:{}", self.http)]);
        match &self.broker {
            Some(broker) => command.args(broker),
            None => command.args(["--mqtt", &format!("127.0.0.1:{}", self.mqtt)]),
        };
        command.args(&self.args);
        command
    }

    /// Start the controller, or start it again, and wait until it is ready.
    pub fn start(&mut self) {
        self.start_as(|serve| serve);
    }

    /// Start it inside of something else; its process id.
    pub fn start_as(&mut self, wrap: impl FnOnce(Command) -> Command) -> u32 {
        let log = self.path("controller.log");
        let mut controller = Running::start(&mut wrap(self.serve()), &log).expect("leeway serve starts");
        wait_for("the controller is ready", || {
            if let Some(status) = controller.ended() {
                panic!("leeway serve ended with {status}:\n{}", controller.log());
            }
            if self.is_secured() && self.ca().is_none() {
                return Err("it has not made its authority yet".to_owned());
            }
            self.api_as(None).get("/readyz")?.ok()
        });
        self.token = std::fs::read_to_string(self.path("controller/admin.token")).ok().map(|t| t.trim().to_owned());
        self.controller.insert(controller).id()
    }

    /// The administrator's token, where it is not to be found in the folder.
    pub fn use_token(&mut self, token: &str) {
        self.token = Some(token.trim().to_owned());
    }

    /// SIGKILL.
    pub fn kill(&mut self) {
        self.controller = None;
    }

    /// SIGTERM, and wait: the controller writes down what it only has in memory.
    pub fn stop(&mut self) {
        let status = self.controller.take().map(|mut controller| controller.stop());
        assert!(status.is_some_and(|s| s.success()), "leeway serve did not end well: {status:?}");
    }

    /// The API, as the administrator.
    pub fn api(&self) -> Api {
        self.api_as(self.token.clone())
    }

    fn api_as(&self, token: Option<String>) -> Api {
        match self.ca().filter(|_| self.is_secured()) {
            Some(ca) => Api::trusting(self.http, token, &ca, None),
            None => Api::new(self.http, token),
        }
    }

    /// Where the certificate of the device authority lies, with TLS.
    pub fn ca_path(&self) -> PathBuf {
        self.path("controller/keys/device-ca.pem")
    }

    fn ca(&self) -> Option<String> {
        std::fs::read_to_string(self.ca_path()).ok()
    }

    fn is_secured(&self) -> bool {
        self.args.iter().any(|arg| arg == "--tls")
    }

    /// Run `leeway` with these arguments, as the administrator of this controller.
    pub fn leeway(&self, args: &[&str]) -> Told {
        let mut command = Command::new(program("leeway"));
        command.args(args).env("LEEWAY_URL", self.api().base()).env("LEEWAY_TOKEN", self.api().token());
        if self.is_secured() {
            command.env("LEEWAY_CA", self.ca_path());
        }
        // The settings of whoever runs the tests are not part of them.
        Told::by(command.env("XDG_CONFIG_HOME", self.path("no-settings")).env("NO_COLOR", "1"))
    }

    /// What every program of this site wrote.
    pub fn logs(&self) -> Vec<(PathBuf, String)> {
        let entries = std::fs::read_dir(self.dir.path()).expect("the site's folder").flatten().map(|e| e.path());
        let logs = entries.filter(|path| path.extension().is_some_and(|e| e == "log"));
        logs.map(|path| (path.clone(), std::fs::read_to_string(&path).unwrap_or_default())).collect()
    }

    /// No program of this site panicked.
    ///
    /// # Panics
    /// Otherwise, with the line that says so.
    pub fn assert_calm(&self) {
        for (path, log) in self.logs() {
            let line = log.lines().find(|line| line.contains("panicked"));
            assert!(line.is_none(), "{}: {}", path.display(), line.unwrap_or_default());
        }
    }

    /// A key from the ceremony, such as `release/rain` or `trainer/rain-auto`.
    pub fn key(&self, name: &str) -> SigningKey {
        let text = std::fs::read_to_string(self.key_path(name)).expect("the key file");
        KeyFile::parse(&text).expect("a key file").key
    }

    /// Where it lies.
    pub fn key_path(&self, name: &str) -> PathBuf {
        self.path("keys").join(format!("{name}.key"))
    }

    /// Where the image repository's root lies.
    pub fn root(&self) -> PathBuf {
        self.path("keys/repository/1.root.json")
    }

    /// Sign and upload a release.
    pub fn publish(&self, lesson: &Lesson) -> Manifest {
        let root = std::fs::read(self.root()).expect("the root");
        let key = self.key(&format!("release/{}", self.line));
        release::publish(&self.api(), &root, &key, &lesson.model, &lesson.manifest).expect("the release is taken")
    }

    /// An enrolment token for this many devices.
    pub fn enrolment_token(&self, uses: u32) -> String {
        let asked = self.api().post("/api/v1/enrolment-tokens", &json!({ "name": "test", "uses": uses, "ttl_ms": TOKEN_MS }));
        let answer = asked.and_then(crate::api::Answer::ok).expect("a token");
        answer.json()["token"].as_str().expect("a token").to_owned()
    }

    /// One cohort with every device, and policies in milliseconds instead of hours.
    pub fn configure(&self) {
        let line = &self.line;
        let about = json!({ "task": "does it rain today?", "rollout": quick_policy() });
        self.api().put(&format!("/api/v1/models/{line}"), &about).and_then(crate::api::Answer::ok).expect("a line");
        let cohort = json!({ "line": line, "selector": "" });
        self.api().put("/api/v1/cohorts/everywhere", &cohort).and_then(crate::api::Answer::ok).expect("a cohort");
    }

    /// Begin a rollout; its name.
    pub fn roll_out(&self, version: &str) -> String {
        let body = json!({ "line": self.line, "version": version, "reason": "a story of the tests" });
        let made = self.api().post("/api/v1/rollouts", &body).and_then(crate::api::Answer::ok).expect("a rollout");
        made.json()["summary"]["id"].as_str().expect("its name").to_owned()
    }

    /// A rollout as it is now.
    pub fn rollout(&self, id: &str) -> Result<Rollout, String> {
        self.api().read(&format!("/api/v1/rollouts/{id}"))
    }

    /// Wait until a rollout is over; its last phase.
    pub fn until_over(&self, id: &str) -> String {
        wait_for("the rollout is over", || {
            let rollout = self.rollout(id)?;
            let phase = rollout.summary.phase.clone();
            if OVER.contains(&phase.as_str()) { Ok(phase) } else { Err(format!("{phase}: {} {}", rollout.summary.sentence, rollout.next)) }
        })
    }

    /// A device as the controller knows it.
    pub fn device(&self, id: &str) -> Result<Value, String> {
        self.api().read(&format!("/api/v1/devices/{id}"))
    }

    /// Wait until a device runs `version` for good, with proof.
    pub fn until_runs(&self, device: &str, version: &str) -> Value {
        wait_for(&format!("{device} runs {version}"), || {
            let seen = self.device(device)?;
            let phase = seen["summary"]["phase"].as_str().unwrap_or_default();
            let settled = ["committed", "idle"].contains(&phase);
            let proven = seen["running"]["version"] == version && seen["running"]["golden"].is_string();
            if settled && proven { Ok(seen) } else { Err(format!("{} {} {}", phase, seen["running"], seen["reason"])) }
        })
    }

    /// Every event after `since`.
    pub fn events(&self, since: u64) -> Vec<Event> {
        let mut found: Vec<Event> = Vec::new();
        loop {
            let from = found.last().map_or(since, |e| e.seq);
            let list: EventList = self.api().read(&format!("/api/v1/events?since={from}&limit=1000")).expect("events");
            if list.items.is_empty() {
                return found;
            }
            found.extend(list.items);
        }
    }

    /// The hash chain of the event log holds, up to its newest entry.
    ///
    /// # Panics
    /// Otherwise.
    pub fn assert_chain(&self) {
        let list: EventList = self.api().read("/api/v1/events?limit=1").expect("events");
        assert!(list.chain.verified, "{}", list.chain.sentence);
        assert!(list.chain.seq >= list.newest_seq, "checked only up to {} of {}", list.chain.seq, list.newest_seq);
    }
}

impl Drop for Site {
    /// A story that failed leaves its folder behind: the logs in it are what one wants to read then.
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.dir.disable_cleanup(true);
            eprintln!("the story's folder is kept: {}", self.dir.path().display());
        }
    }
}

/// A rollout in two stages, within seconds; of three devices one is the canary and one is compared with.
pub fn quick_policy() -> Value {
    json!({
        "stages": [
            { "name": "first", "share": 0.34, "soak_ms": 200, "deadline_ms": 60_000 },
            { "name": "all", "share": 1.0, "soak_ms": 200, "deadline_ms": 60_000 },
        ],
        "control_share": 0.34,
        "gate": { "min_inferences": 20, "lost_after_ms": 60_000 },
        "max_in_flight": 1000,
        "max_per_minute": 100_000,
        "device_deadline_ms": 60_000,
        "settings": {
            "spread_ms": 0,
            "shadow": { "min_inferences": 5, "max_ms": 2_000, "max_disagreement": 1.0 },
            "probation": { "min_ms": 200, "min_inferences": 5, "boots": 3, "max_error_ratio": 0.05 },
            "windows": { "max_inferences": 25, "max_ms": 1_000 },
            "capture": { "uniform": 1.0, "max_rows_per_day": 1_000_000, "labelled_only": true },
        },
    })
}

/// The text of a file, for messages; empty if it is not there.
pub fn text_of(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}
