//! `strace` around an agent: which calls it makes, and one of them answered by the end of the process or by an error.
//!
//! The tracer is the agent's grandchild (`-D`), so the agent is our child as it would be without. Without `-f` only its main thread is
//! traced, which does everything but the downloads; with it and with `-P` the downloads are, by the files they write. The kernel counts per
//! thread and per call, so the n-th call is the same one in every run, as far as two runs are the same.
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use leeway_tests::site::Told;

/// The calls that change a disk or open what lies on it.
pub const CALLS: &str = "openat,write,pwrite64,fsync,fdatasync,rename,renameat,renameat2,unlink,unlinkat,ftruncate,mkdir,mkdirat";

/// The calls of a start: what is read counts too.
pub const READS: &str = "openat,read,statx,getdents64,write,fsync,rename,unlink";

/// Why nothing can be traced here, if nothing can.
pub fn problem() -> Option<String> {
    if Command::new("strace").arg("-V").output().is_err() {
        return Some("strace is not installed (Debian: apt-get install strace)".to_owned());
    }
    let probe = Told::by(Command::new("strace").args(["-D", "-q", "-o", "/dev/null", "-e", "trace=openat", "true"]));
    (probe.code != 0).then(|| format!("strace may not trace here, as in a container without CAP_SYS_PTRACE: {}", probe.err.trim()))
}

/// What the n-th call is answered by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// SIGKILL.
    Killed,
    /// An error, for this and the next so many calls.
    Error(&'static str, u32),
}

/// Whose calls.
#[derive(Debug, Clone)]
pub enum Whose {
    /// The agent's main thread: the loop that owns the disk.
    Loop,
    /// The same, but only what touches these files.
    LoopOn(Vec<PathBuf>),
    /// Any thread, at these files.
    Downloads(Vec<PathBuf>),
}

/// One fault.
#[derive(Debug, Clone)]
pub struct Fault {
    pub call: String,
    pub nth: u32,
    pub answer: Answer,
    pub whose: Whose,
}

impl Fault {
    /// `run` with this fault; what was traced goes to `log`.
    pub fn around(&self, run: &Command, log: &Path) -> Command {
        let (call, nth) = (&self.call, self.nth);
        let what = match self.answer {
            Answer::Killed => format!("signal=KILL:when={nth}"),
            Answer::Error(error, 0) => format!("error={error}:when={nth}"),
            Answer::Error(error, more) => format!("error={error}:when={nth}..{}", nth + more),
        };
        traced(run, log, &self.whose, &["-e", &format!("trace={call}"), "-e", &format!("inject={call}:{what}")])
    }
}

/// `run`, with every call of [`CALLS`] in `log`.
pub fn counted(run: &Command, log: &Path, whose: &Whose) -> Command {
    counted_as(CALLS, run, log, whose)
}

/// The same with other calls.
pub fn counted_as(calls: &str, run: &Command, log: &Path, whose: &Whose) -> Command {
    traced(run, log, whose, &["-e", &format!("trace={calls}")])
}

fn traced(run: &Command, log: &Path, whose: &Whose, what: &[&str]) -> Command {
    let mut traced = Command::new("strace");
    traced.args(["-D", "-q", "-y", "-s", "0", "-o"]).arg(log);
    let files = match whose {
        Whose::Loop => [].as_slice(),
        Whose::LoopOn(files) => files,
        Whose::Downloads(files) => {
            traced.arg("-f");
            files
        }
    };
    for file in files {
        traced.arg("-P").arg(file);
    }
    traced.args(what).arg("--").arg(run.get_program()).args(run.get_args());
    traced
}

/// How often each call was made, by what was traced.
pub fn calls(log: &Path) -> BTreeMap<String, u32> {
    let mut calls = BTreeMap::new();
    for line in lines(log) {
        if let Some((name, _)) = call(&line) {
            *calls.entry(name.to_owned()).or_default() += 1;
        }
    }
    calls
}

/// The lines of calls that were answered by an error of ours and concern `folder`.
pub fn injected(log: &Path, folder: &Path) -> Vec<String> {
    let folder = folder.display().to_string();
    lines(log).into_iter().filter(|line| line.contains("(INJECTED)") && line.contains(&folder)).collect()
}

/// The files below `folder` that were touched, by their names there.
pub fn touched(log: &Path, folder: &Path) -> Vec<PathBuf> {
    let folder = format!("{}/", folder.display());
    let mut names: Vec<PathBuf> = Vec::new();
    for line in lines(log) {
        for piece in line.split(&folder).skip(1) {
            let name: &str = piece.split(['"', '>']).next().unwrap_or_default();
            names.push(name.into());
        }
    }
    names.sort();
    names.dedup();
    names
}

/// The name and the rest of a call; with `-f` the thread's number stands in front.
fn call(line: &str) -> Option<(&str, &str)> {
    let line = line.trim_start_matches(|c: char| c.is_ascii_digit()).trim_start();
    let (name, rest) = line.split_once('(')?;
    name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_').then_some((name, rest))
}

fn lines(log: &Path) -> Vec<String> {
    String::from_utf8_lossy(&std::fs::read(log).unwrap_or_default()).lines().map(str::to_owned).collect()
}

/// Whether any call was answered by us.
pub fn was_answered(log: &Path) -> bool {
    lines(log).iter().any(|line| line.contains("(INJECTED)"))
}
