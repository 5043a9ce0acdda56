//! The runner's sandbox on this very kernel: each thing a hostile model could want is tried in a real runner process and refused,
//! and the same attempt is seen to succeed without the sandbox; meanwhile an honest model answers as before.
//!
//! Where the kernel has no landlock or no seccomp there is nothing to refuse with; there the tests hold that the runner says so,
//! and print what it says.
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Output, Stdio};

use landlock::{ABI, Access as _, AccessFs, AccessNet, CompatLevel, Compatible as _, Ruleset, RulesetAttr as _, Scope};
use leeway_agent::confinement::{Confinement, Reached};
use leeway_agent::control::{Decoder, Role, RunnerCommand, RunnerNotice, Slot, encode};
use leeway_protocol::digest::Digest;
use leeway_protocol::reason::Code;
use serde_json::Value;

mod models;

const RUNNER: &str = env!("CARGO_BIN_EXE_leeway-runner");

fn probe(attempt: &str, confined: bool, more: &[&str]) -> Output {
    let confined = if confined { "yes" } else { "no" };
    Command::new(RUNNER).args(["probe", "--try", attempt, "--confined", confined]).args(more).output().unwrap()
}

/// What the probe said: whether it was refused, and with which words.
fn said(output: &Output) -> (bool, String) {
    let told: Value =
        serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{e}: {output:?}: {}", String::from_utf8_lossy(&output.stderr)));
    assert_eq!(told["refused"], Value::Bool(output.status.success()), "{told}");
    (output.status.success(), told["error"].as_str().unwrap_or_default().to_owned())
}

/// Whether this kernel can confine wholly, by its own word and not by the runner's: where it can, less is a failure; where it
/// cannot, the runner must not say that it did.
fn confines() -> bool {
    let told: Value = serde_json::from_slice(&probe("listen", true, &[]).stdout).unwrap();
    let confinement: Confinement = serde_json::from_value(told["confinement"].clone()).unwrap();
    let full = confinement.landlock == Reached::Full && confinement.seccomp == Reached::Full;
    assert_eq!(full, kernel_can(), "what the runner says is not what this kernel can: {confinement:?}");
    if !full {
        println!("not proven on this kernel: {:?}; {}", confinement, confinement.sentence());
    }
    full
}

/// Everything that the runner asks of landlock, required and not tried for; and a kernel that filters system calls.
fn kernel_can() -> bool {
    let landlock = || {
        Ruleset::default()
            .set_compatibility(CompatLevel::HardRequirement)
            .handle_access(AccessFs::from_all(ABI::V5))?
            .handle_access(AccessNet::from_all(ABI::V5))?
            .scope(Scope::from_all(ABI::V6))?
            .create()
    };
    Path::new("/proc/sys/kernel/seccomp/actions_avail").exists() && landlock().is_ok()
}

#[test]
fn a_confined_runner_is_refused_what_an_unconfined_one_gets() {
    if !confines() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (secret, new) = (dir.path().join("identity.json"), dir.path().join("new"));
    std::fs::write(&secret, "key").unwrap();
    std::fs::create_dir(dir.path().join("blobs")).unwrap();
    let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
    let socket = dir.path().join("s");
    let _unix = UnixListener::bind(&socket).unwrap();
    let text = |path: &Path| path.display().to_string();
    let (secret, new, socket, address) = (text(&secret), text(&new), text(&socket), tcp.local_addr().unwrap().to_string());
    let memory = format!("/proc/{}/environ", std::process::id());
    let blobs = text(&dir.path().join("blobs"));
    // With a folder for models landlock judges what is opened; without one nothing is opened at all.
    let models = ["--models", blobs.as_str()];
    let denied = "Permission denied";
    let forbidden = "Operation not permitted";
    let table: [(&str, Vec<&str>, &str); 12] = [
        ("read", [&models[..], &["--file", "/etc/passwd"]].concat(), denied),
        ("read", [&models[..], &["--file", &secret]].concat(), denied),
        ("read", vec!["--file", &secret], forbidden),
        ("read", [&models[..], &["--file", &memory]].concat(), denied),
        ("write", [&models[..], &["--file", &new]].concat(), forbidden),
        ("connect", vec!["--to", &address], forbidden),
        ("connect-unix", vec!["--to", &socket], forbidden),
        ("listen", vec![], forbidden),
        ("datagram", vec![], forbidden),
        ("spawn", vec![], forbidden),
        ("allocate", vec![], "out of memory"),
        ("remove", [&models[..], &["--file", &secret]].concat(), forbidden),
    ];
    for (attempt, more, want) in &table {
        let (refused, error) = said(&probe(attempt, true, more));
        assert!(refused && error.contains(want), "{attempt} {more:?} confined: {refused} {error}");
    }
    for (attempt, more, _) in &table {
        let (refused, error) = said(&probe(attempt, false, more));
        assert!(!refused, "{attempt} {more:?} is refused without confinement too ({error}): the test proves nothing");
    }
    let (refused, error) = said(&probe("thread", true, &[]));
    assert!(!refused, "threads are needed: {error}");
}

#[test]
fn what_only_an_intruder_asks_for_ends_the_runner() {
    if !confines() {
        return;
    }
    let exec = probe("exec", true, &[]);
    assert_eq!(exec.status.signal(), Some(31), "{exec:?}");
    assert!(probe("exec", false, &[]).status.success());
    let spin = probe("spin", true, &[]);
    // SIGXCPU, or SIGKILL where soft and hard limit are reached in one tick.
    assert!(matches!(spin.status.signal(), Some(24 | 9)), "{spin:?}");
}

#[test]
fn the_probe_tells_how_far_this_kernel_confines() {
    if !confines() {
        return;
    }
    let told: Value = serde_json::from_slice(&probe("listen", true, &[]).stdout).unwrap();
    let confinement: Confinement = serde_json::from_value(told["confinement"].clone()).unwrap();
    assert_eq!(confinement, Confinement { landlock: Reached::Full, seccomp: Reached::Full, limits: Reached::Full });
    assert_eq!(confinement.problem(), None);
}

/// A runner as the supervisor starts it.
struct Runner {
    child: Child,
    stdout: ChildStdout,
    decoder: Decoder,
    dir: tempfile::TempDir,
}

impl Runner {
    fn start(sockets: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("blobs")).unwrap();
        let mut child = Command::new(RUNNER)
            .args(["serve", "--models", "blobs", "--models", "factory", "--dir"])
            .arg(dir.path())
            .args(sockets)
            .current_dir(dir.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let stdout = child.stdout.take().unwrap();
        Self { child, stdout, decoder: Decoder::default(), dir }
    }

    /// The next notice that is no sign of life; `None` when the runner has ended.
    fn notice(&mut self) -> Option<RunnerNotice> {
        loop {
            match self.decoder.take().unwrap() {
                Some(RunnerNotice::Progress { .. }) => {}
                Some(notice) => return Some(notice),
                None => {
                    let mut buffer = [0; 4096];
                    let read = self.stdout.read(&mut buffer).unwrap();
                    if read == 0 {
                        return None;
                    }
                    self.decoder.push(&buffer[..read]);
                }
            }
        }
    }

    fn ready(&mut self) -> (Vec<String>, Confinement) {
        match self.notice() {
            Some(RunnerNotice::Ready { listens, confinement, .. }) => (listens, confinement),
            other => panic!("{other:?}"),
        }
    }

    fn load(&mut self, role: Role, folder: &str, model: &models::Model) {
        let document = model.manifest.to_bytes();
        std::fs::write(self.dir.path().join(folder).join("m"), &model.bytes).unwrap();
        std::fs::write(self.dir.path().join(folder).join("d"), &document).unwrap();
        let (model_path, manifest_path) = (format!("{folder}/m"), format!("{folder}/d"));
        let load = RunnerCommand::Load { slot: Slot::A, role, model_path, manifest_path, manifest: Digest::of(&document) };
        self.child.stdin.as_mut().unwrap().write_all(&encode(&load).unwrap()).unwrap();
    }

    /// How the runner ended by itself: status or signal.
    fn end(mut self) -> (Option<i32>, Option<i32>) {
        drop(self.child.stdin.take());
        let status = self.child.wait().unwrap();
        (status.code(), status.signal())
    }
}

impl Drop for Runner {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

fn ask(mut stream: impl std::io::Read + std::io::Write) -> String {
    let body = r#"{"inputs":[{"name":"x","shape":[1,2],"datatype":"FP32","data":[2.0,0.0]}]}"#;
    let length = body.len();
    write!(stream, "POST /v2/models/rain/infer HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{body}")
        .unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    text
}

#[test]
fn an_honest_model_answers_on_both_sockets_of_a_confined_runner() {
    if !confines() {
        return;
    }
    let socket_dir = tempfile::tempdir().unwrap();
    let socket = socket_dir.path().join("agent.sock").display().to_string();
    let mut runner = Runner::start(&["--tcp", "127.0.0.1:0", "--unix", &socket]);
    let (listens, confinement) = runner.ready();
    assert_eq!(confinement.problem(), None, "{confinement:?}");
    runner.load(Role::Active, "blobs", &models::logistic());
    assert!(matches!(runner.notice(), Some(RunnerNotice::Loaded { role: Role::Active, .. })));
    for _ in 0..3 {
        let answer = ask(TcpStream::connect(&listens[0]).unwrap());
        assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("0.880797"), "{answer}");
        let answer = ask(UnixStream::connect(&socket).unwrap());
        assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("0.880797"), "{answer}");
    }
    // Every thread has the three filters and can gain no rights.
    let tasks = std::fs::read_dir(format!("/proc/{}/task", runner.child.id())).unwrap();
    let mut threads = 0;
    for task in tasks {
        let status = std::fs::read_to_string(task.unwrap().path().join("status")).unwrap();
        for line in ["NoNewPrivs:\t1", "Seccomp:\t2", "Seccomp_filters:\t3"] {
            assert!(status.contains(line), "{line}: {status}");
        }
        threads += 1;
    }
    assert!(threads >= 4, "reader, writer, engine and server: {threads}");
    // What lies beside the models is not for the runner, whatever its supervisor says.
    std::fs::create_dir(runner.dir.path().join("outbox")).unwrap();
    runner.load(Role::Shadow, "outbox", &models::logistic());
    match runner.notice() {
        Some(RunnerNotice::LoadFailed { reason, .. }) => {
            assert!(reason.code == Code::DiskFailed && reason.detail.contains("Permission denied"), "{reason}");
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(runner.end(), (Some(0), None));
}

#[test]
fn a_memory_bomb_costs_the_runner_and_nothing_else() {
    if !confines() {
        return;
    }
    let mut runner = Runner::start(&["--thrown-away", "yes"]);
    assert_eq!(runner.ready().1.problem(), None);
    runner.load(Role::Candidate, "blobs", &models::bomb());
    match runner.notice() {
        // The engine could say that it got no memory ...
        Some(RunnerNotice::LoadFailed { reason, .. }) => assert!(reason.to_string().contains("alloc"), "{reason}"),
        // ... or the process gave up.
        None => assert_eq!(runner.end().1, Some(6)),
        other => panic!("{other:?}"),
    }
}

#[test]
fn preflight_is_confined_and_says_so() {
    if !confines() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let preflight = |model: &models::Model| {
        std::fs::write(dir.path().join("m.onnx"), &model.bytes).unwrap();
        std::fs::write(dir.path().join("m.json"), model.manifest.to_bytes()).unwrap();
        let args = ["preflight", "--model", "m.onnx", "--manifest", "m.json"];
        Command::new(RUNNER).args(args).current_dir(dir.path()).output().unwrap()
    };
    let good = preflight(&models::logistic());
    let told: Value = serde_json::from_slice(&good.stdout).unwrap_or_else(|e| panic!("{e}: {good:?}"));
    assert_eq!((&told["ok"], good.status.code()), (&Value::Bool(true), Some(0)), "{told}");
    assert!(told["confined"].as_str().unwrap().starts_with("the model runs confined"), "{told}");
    assert!(told["proof"]["rss_bytes"].as_u64().unwrap() > 1_000_000, "{told}");
    let bad = preflight(&models::bomb());
    assert!(!bad.status.success(), "{bad:?}");
}
