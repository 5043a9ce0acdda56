//! Real programs, started and ended: the release binaries as a user has them, on free ports, in temporary directories.
//!
//! Nothing here waits for a time: every wait is for a condition, with a bound after which the test fails and says what it saw.
use std::fs::File;
use std::io;
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::thread::sleep;
use std::time::{Duration, Instant};

/// How long a condition may take to come true before a test gives up: generous, because CI has two busy cores.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// The repository's root.
pub fn root() -> PathBuf {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    tests.parent().unwrap_or(tests).to_path_buf()
}

/// The path of one of our release programs, built first if need be; `LEEWAY_PROGRAMS` names a folder with others to test, such as
/// those of a package.
pub fn program(name: &str) -> PathBuf {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    let folder = BUILT.get_or_init(|| {
        if let Some(folder) = std::env::var_os("LEEWAY_PROGRAMS") {
            return PathBuf::from(folder);
        }
        build(&["--bin", "leeway", "--bin", "leeway-agent", "--bin", "leeway-runner"])
    });
    folder.join(name)
}

/// Our TUF client as a program, built first if need be; it is a tool for tests and in no package.
pub fn tuf_client() -> PathBuf {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    let path = BUILT.get_or_init(|| {
        build(&["-p", "leeway-protocol", "--features", "conformance", "--bin", "leeway-tuf-client"]).join("leeway-tuf-client")
    });
    path.clone()
}

/// Build programs as the README's commands do; the folder they lie in. What cargo tells a test about its package is kept from it:
/// some build scripts (ring's) look at that, and half of the controller would be compiled anew each way.
fn build(what: &[&str]) -> PathBuf {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.args(["build", "--release", "--quiet"]).args(what).current_dir(root());
    for (name, _) in std::env::vars_os() {
        if name.to_str().is_some_and(|name| name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_")) {
            command.env_remove(name);
        }
    }
    let built = command.status();
    assert!(built.as_ref().is_ok_and(std::process::ExitStatus::success), "{what:?} did not build: {built:?}");
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from);
    target.join("release")
}

/// A port nobody listens on at this moment.
pub fn free_port() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|l| l.local_addr());
    listener.map(|address| address.port()).unwrap_or_default()
}

/// Wait until `condition` gives a value; panic with `what` and the last thing `condition` said otherwise.
///
/// # Panics
/// When [`PATIENCE`] is over.
pub fn wait_for<T>(what: &str, mut condition: impl FnMut() -> Result<T, String>) -> T {
    let start = Instant::now();
    loop {
        let seen = match condition() {
            Ok(value) => return value,
            Err(seen) => seen,
        };
        assert!(start.elapsed() < PATIENCE, "gave up waiting until {what}; last seen: {seen}");
        sleep(Duration::from_millis(20));
    }
}

/// A started program that is killed when the test ends, whatever way it ends.
#[derive(Debug)]
pub struct Running {
    child: Child,
    log: PathBuf,
}

impl Running {
    /// Start `command` with its output in `log`.
    pub fn start(command: &mut Command, log: &Path) -> io::Result<Self> {
        let out = File::options().create(true).append(true).open(log)?;
        let child = command.stdin(Stdio::null()).stdout(out.try_clone()?).stderr(out).spawn()?;
        Ok(Self { child, log: log.to_path_buf() })
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Kill it at once (SIGKILL) and wait until it is gone.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Ask it to end (SIGTERM) and wait until it has.
    pub fn stop(&mut self) -> std::process::ExitStatus {
        let _ = Command::new("kill").args(["-TERM", &self.id().to_string()]).status();
        wait_for("a program that was asked to end has ended", || self.ended().ok_or_else(|| "it still runs".to_owned()))
    }

    /// The status if it has ended.
    pub fn ended(&mut self) -> Option<std::process::ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// Everything it wrote.
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.kill();
    }
}
