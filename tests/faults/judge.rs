//! What a device keeps through every fault: one function per promise.
use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::ExitStatus;
use std::time::{Duration, Instant};

use leeway_controller::io::store::{Log, MAX_PAGE, Store, StoreConfig};
use leeway_protocol::ids::{BootId, DeviceId};
use leeway_protocol::report::WindowReport;
use leeway_tests::device::Device;

use crate::bench::{Bench, RELEASE, names, state};

/// The most that one release, its metadata and an empty outbox take.
const DISK_BOUND: u64 = 512 << 10;
/// A device that nobody asks comes to rest within this time.
const QUIET: Duration = Duration::from_secs(20);

/// What happened is written to the log within this time.
const PROMPT: Duration = Duration::from_secs(3);

/// It runs what it was told to, for good, and every message it had has its receipt.
pub fn has_converged(device: &Device, answered: &[String]) -> Result<(), String> {
    let state = state(&device.data);
    let (active, outbox) = (&state["slots"]["active"], names(&device.data, "outbox"));
    let version = active.as_str().map(|slot| &state["slots"][slot]["release"]["version"]);
    let committed = state["outcome"] == "committed" && version.is_some_and(|version| version == RELEASE);
    let answers = answered.last().is_some_and(|version| version == RELEASE);
    let settled = committed && answers && outbox.is_empty() && state["slots"]["trial"].is_null();
    if settled { Ok(()) } else { Err(format!("answered {answered:?}, outbox {outbox:?}, {state}")) }
}

/// After whatever happened, one start is enough for a good model to answer.
pub fn a_good_model_answers_after_one_restart(bench: &Bench, device: &mut Device) -> Result<(), String> {
    bench.watch(device, "a good model answers after one restart", |device, answered| {
        if !device.is_running() {
            return Ok(Err(format!("the agent did not stay up:\n{}", tail(&device.log()))));
        }
        if answered.is_empty() { Err(tail(&device.log())) } else { Ok(Ok(())) }
    })?
}

/// When the fault is over the device comes to where it was told to be.
pub fn it_converges(bench: &Bench, device: &mut Device) -> Result<(), String> {
    bench.watch(device, "the device converges", |device, answered| {
        if !device.is_running() {
            return Ok(Err(format!("the agent ended on its way:\n{}", tail(&device.log()))));
        }
        has_converged(device, answered).map(Ok).map_err(|seen| format!("{seen}\n{}", tail(&device.log())))
    })?
}

/// Nothing is left of what was broken off, and no more lies there than one release needs, as soon as nobody asks any more.
pub fn no_litter(bench: &Bench, data: &Path) -> Result<(), String> {
    let begun = Instant::now();
    loop {
        match litter(bench, data) {
            Err(_) if begun.elapsed() < QUIET => std::thread::sleep(Duration::from_millis(20)),
            done => return done,
        }
    }
}

fn litter(bench: &Bench, data: &Path) -> Result<(), String> {
    let files = files(data);
    let left: Vec<_> = files.iter().filter(|(name, _)| name.ends_with(".new") || name.starts_with("staging/")).collect();
    if !left.is_empty() {
        return Err(format!("litter: {left:?}"));
    }
    let blobs = names(data, "blobs");
    if blobs.len() != bench.downloads(data).len() {
        return Err(format!("{} blobs lie there for one release: {blobs:?}", blobs.len()));
    }
    let bytes: u64 = files.iter().map(|(_, length)| length).sum();
    if bytes > DISK_BOUND { Err(format!("{bytes} bytes lie there, more than {DISK_BOUND}")) } else { Ok(()) }
}

/// No program of this device panicked, and no message was given up; on a full disk it may be, and is counted. How many were.
pub fn calm(device: &Device, disk_was_full: bool) -> Result<u64, String> {
    let log = device.log();
    if let Some(line) = log.lines().find(|line| line.contains("panicked") || line.contains("please report this mistake")) {
        return Err(format!("{line}\n{}", tail(&log)));
    }
    let dropped = state(&device.data)["dropped"].as_u64();
    match dropped {
        Some(dropped) if dropped == 0 || disk_was_full => Ok(dropped),
        _ => Err(format!("{dropped:?} messages were given up")),
    }
}

/// An agent that ends because of its disk ends in order: with a status, not by a panic or a signal.
pub fn ended_in_order(status: ExitStatus, log: &str) -> Result<(), String> {
    // 127 is the dynamic linker's, when what was refused is a library.
    let in_order = status.signal().is_none() && matches!(status.code(), Some(1 | 2 | 127));
    if in_order { Ok(()) } else { Err(format!("the agent ended with {status}:\n{}", tail(log))) }
}

/// The error that the disk gave is told, in the words of the system.
pub fn it_says_what_happened(log: impl Fn() -> String, injected: &[String]) -> Result<(), String> {
    let words = ["os error 5", "os error 28", "disk space", "Input/output error", "No space left"];
    let begun = Instant::now();
    while !injected.is_empty() && !words.iter().any(|words| log().contains(words)) {
        if begun.elapsed() > PROMPT {
            return Err(format!("nothing is said of {injected:?}:\n{}", tail(&log())));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

/// A runner whose agent was killed ends by itself; until then it answers as if nothing had been.
pub fn the_runner_ends_with_its_agent(bench: &Bench, device: &Device) -> Result<(), String> {
    let begun = Instant::now();
    while !bench.ask(device).is_empty() {
        if begun.elapsed() > QUIET {
            return Err("the runner goes on without its agent".to_owned());
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

/// Windows that a device had written down: device, boot, counter.
pub type Written = BTreeSet<(String, u64, u64)>;

/// The windows in a device's outbox that are whole.
pub fn written(device: &Device) -> Written {
    let names = names(&device.data, "outbox");
    let whole = names.iter().filter_map(|name| name.strip_suffix(".window"));
    let key = |name: &str| {
        let mut numbers = name.split('-').map(|n| n.parse().unwrap_or(0));
        (device.id.clone(), numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
    };
    whole.map(key).collect()
}

/// In the controller's log every window that was ever written down is there, but for as many as a device with a full disk said it gave
/// up, and none is there twice. How many there are.
pub fn no_report_is_lost_or_doubled(store: &Path, written: &Written, given_up: &BTreeMap<String, u64>) -> Result<usize, String> {
    let store = Store::open(store, StoreConfig::default()).map_err(|e| e.to_string())?;
    let (mut next, mut windows, mut messages) = (0, BTreeSet::new(), BTreeSet::new());
    loop {
        let records = store.records(Log::Windows, next, MAX_PAGE).map_err(|e| e.to_string())?;
        let Some(last) = records.last() else { break };
        next = last.seq + 1;
        for record in records {
            let (device, boot, counter, body): (DeviceId, BootId, u64, Vec<u8>) =
                postcard::from_bytes(&record.bytes).map_err(|e| e.to_string())?;
            let window = WindowReport::parse(&body).map_err(|e| e.to_string())?;
            if !windows.insert((device.clone(), window.model, window.window)) || !messages.insert((device.to_string(), boot.0, counter)) {
                return Err(format!("window {:?} of {device}, message {counter} of boot {}, is there twice", window.window, boot.0));
            }
        }
    }
    let mut lost: BTreeMap<&str, Vec<(u64, u64)>> = BTreeMap::new();
    for (device, boot, counter) in written.difference(&messages) {
        lost.entry(device).or_default().push((*boot, *counter));
    }
    lost.retain(|device, messages| messages.len() as u64 > given_up.get(*device).copied().unwrap_or(0));
    if lost.is_empty() { Ok(messages.len()) } else { Err(format!("lost: {lost:?}")) }
}

/// Every file below a folder, with its length.
pub fn files(data: &Path) -> Vec<(String, u64)> {
    let mut found = Vec::new();
    let mut folders = vec![data.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_dir() {
                folders.push(path);
            } else if let (Ok(name), Ok(about)) = (path.strip_prefix(data), entry.metadata()) {
                found.push((name.display().to_string(), about.len()));
            }
        }
    }
    found.sort();
    found
}

/// The end of a log.
pub fn tail(log: &str) -> String {
    let lines: Vec<&str> = log.lines().collect();
    lines[lines.len().saturating_sub(25)..].join("\n")
}
