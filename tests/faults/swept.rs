//! The sweeps: a whole install over the network, over and over, with one call after the other answered by the process's end or by an
//! error of the disk.
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use leeway_tests::device::Device;

use crate::bench::{Bench, state};
use crate::judge::{self, Written};
use crate::strace::{self, Answer, Fault, Whose};

/// Cases in a run that is not told to try everything.
const SLICE: usize = 16;
/// Cases at once; mostly they wait.
const WORKERS: usize = 4;
/// Calls in a row that an error which stays for a while answers, after the first.
const WHILE: u32 = 12;

/// What an install does to the disk, found out by watching one.
struct Install {
    /// Calls of the main thread.
    calls: BTreeMap<String, u32>,
    /// Calls of the main thread on files whose names do not change from run to run.
    on_files: BTreeMap<String, u32>,
    /// Calls of the downloads on their files.
    downloads: BTreeMap<String, u32>,
    /// Those files, by their names in the data directory.
    files: Vec<PathBuf>,
}

/// Where a fault comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Loop,
    Files,
    Downloads,
}

/// One case.
#[derive(Debug, Clone)]
struct Case {
    place: Place,
    call: String,
    nth: u32,
    answer: Answer,
}

impl Case {
    fn kind(&self) -> String {
        let place = match self.place {
            Place::Loop => "loop",
            Place::Files => "loop, its files",
            Place::Downloads => "downloads",
        };
        let answer = match self.answer {
            Answer::Killed => "killed".to_owned(),
            Answer::Error(error, 0) => error.to_owned(),
            Answer::Error(error, more) => format!("{error} x {}", more + 1),
        };
        format!("{answer:<12} {:<10} {place}", self.call)
    }
}

/// How a case ended well.
enum Ended {
    /// The fault came, and the device is where it was told to be; whether it took a restart.
    Survived { restarted: bool },
    /// The install was over before the n-th call.
    NotReached,
}

#[derive(Default)]
struct Tally {
    cases: usize,
    restarted: usize,
    not_reached: usize,
    failed: usize,
}

#[derive(Default)]
struct Book {
    tally: BTreeMap<String, Tally>,
    written: Written,
    given_up: BTreeMap<String, u64>,
    failures: Vec<String>,
}

#[test]
fn killed_or_refused_at_any_call_of_an_install_an_agent_converges() {
    if let Some(problem) = strace::problem() {
        return println!("not swept: {problem}");
    }
    let mut bench = Bench::new();
    let begun = Instant::now();
    let install = Install::watch(&bench);
    println!("an install makes {:?}, on files {:?}, its downloads {:?}", install.calls, install.on_files, install.downloads);
    let cases = chosen(install.cases());
    let book = sweep(&bench, &install, &cases);
    for (kind, Tally { cases, restarted, not_reached, failed }) in &book.tally {
        println!("{kind:<44} {cases:4} cases {restarted:4} restarted {not_reached:4} over before it {failed:3} failed");
    }
    bench.site.stop();
    let windows = judge::no_report_is_lost_or_doubled(&bench.site.path("controller/store.redb"), &book.written, &book.given_up);
    let secs = begun.elapsed().as_secs();
    println!("{} cases in {secs} s; {windows:?} windows in the log, {} of them were seen waiting", cases.len(), book.written.len());
    for failure in &book.failures {
        println!("FAILED {failure}\n");
    }
    assert!(book.failures.is_empty(), "{} of {} cases failed", book.failures.len(), cases.len());
    windows.expect("every window counts once");
    bench.site.assert_calm();
}

impl Install {
    /// Install without a fault, and count.
    fn watch(bench: &Bench) -> Self {
        let watch = |whose: &dyn Fn(&Device) -> Whose| {
            let mut device = bench.device();
            let (log, whose) = (device.config.with_extension("strace"), whose(&device));
            device.start_as(|run| strace::counted(&run, &log, &whose));
            judge::it_converges(bench, &mut device).expect("an install without a fault");
            device.kill_agent();
            (strace::calls(&log), strace::touched(&log, &device.data))
        };
        let (calls, touched) = watch(&|_| Whose::Loop);
        let files: Vec<PathBuf> = touched.into_iter().filter(|name| !name.starts_with("outbox/")).collect();
        let (on_files, _) = watch(&|device| Whose::LoopOn(files.iter().map(|name| device.data.join(name)).collect()));
        let (downloads, _) = watch(&|device| Whose::Downloads(bench.downloads(&device.data)));
        Self { calls, on_files, downloads, files }
    }

    fn whose(&self, place: Place, bench: &Bench, device: &Device) -> Whose {
        match place {
            Place::Loop => Whose::Loop,
            Place::Files => Whose::LoopOn(self.files.iter().map(|name| device.data.join(name)).collect()),
            Place::Downloads => Whose::Downloads(bench.downloads(&device.data)),
        }
    }

    /// Every call of an install, with everything that may answer it. What the main thread writes to sockets and pipes is no disk: an
    /// error is answered there only where files are written.
    fn cases(&self) -> Vec<Case> {
        let errors = |call: &str| {
            let full = ["openat", "write", "pwrite64", "fsync", "rename", "mkdir"].contains(&call);
            let errors = [Answer::Error("EIO", 0), Answer::Error("EIO", WHILE), Answer::Error("ENOSPC", 0), Answer::Error("ENOSPC", WHILE)];
            errors.into_iter().take(if full { 4 } else { 2 })
        };
        let mut cases = Vec::new();
        let mut add = |place, calls: &BTreeMap<String, u32>, kill: bool, refuse: bool| {
            for (call, count) in calls {
                for nth in 1..=*count {
                    let one = |answer| Case { place, call: call.clone(), nth, answer };
                    cases.extend(kill.then(|| one(Answer::Killed)));
                    cases.extend(errors(call).filter(|_| refuse).map(one));
                }
            }
        };
        let (writes, others): (BTreeMap<_, _>, BTreeMap<_, _>) = self.calls.clone().into_iter().partition(|(call, _)| call == "write");
        add(Place::Loop, &others, true, true);
        add(Place::Loop, &writes, true, false);
        add(Place::Files, &self.on_files.iter().filter(|(call, _)| *call == "write").map(|(c, n)| (c.clone(), *n)).collect(), false, true);
        add(Place::Downloads, &self.downloads, true, true);
        cases
    }
}

/// All of them, or a slice with something of everything; `LEEWAY_FAULT_KIND` keeps those whose kind contains it.
fn chosen(cases: Vec<Case>) -> Vec<Case> {
    let kind = std::env::var("LEEWAY_FAULT_KIND").unwrap_or_default();
    let cases: Vec<Case> = cases.into_iter().filter(|case| case.kind().contains(&kind)).collect();
    let every = if crate::all() { 1 } else { cases.len().div_ceil(SLICE).max(1) };
    cases.into_iter().step_by(every).collect()
}

fn sweep(bench: &Bench, install: &Install, cases: &[Case]) -> Book {
    let workers = std::env::var("LEEWAY_FAULT_WORKERS").ok().and_then(|n| n.parse().ok()).unwrap_or(WORKERS);
    let (next, book) = (AtomicUsize::new(0), Mutex::new(Book::default()));
    std::thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                while let Some(case) = cases.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let mut device = bench.device();
                    let (mut written, mut given_up) = (Written::new(), 0);
                    let ended = try_one(bench, install, case, &mut device, &mut written, &mut given_up);
                    device.kill_agent();
                    let mut book = book.lock().expect("nobody panicked");
                    book.written.append(&mut written);
                    book.given_up.insert(device.id.clone(), given_up);
                    let tally = book.tally.entry(case.kind()).or_default();
                    tally.cases += 1;
                    match ended {
                        Ok(Ended::Survived { restarted }) => tally.restarted += usize::from(restarted),
                        Ok(Ended::NotReached) => tally.not_reached += 1,
                        Err(why) => {
                            tally.failed += 1;
                            eprintln!("failed: {} at the {}th: {}", case.kind(), case.nth, device.id);
                            book.failures.push(format!("{} at the {}th, {}: {why}", case.kind(), case.nth, device.id));
                            continue;
                        }
                    }
                    drop(book);
                    let _ = std::fs::remove_dir_all(&device.data);
                }
            });
        }
    });
    book.into_inner().expect("nobody panicked")
}

/// One install with one fault, and what must be true afterwards.
fn try_one(
    bench: &Bench,
    install: &Install,
    case: &Case,
    device: &mut Device,
    written: &mut Written,
    given_up: &mut u64,
) -> Result<Ended, String> {
    let Case { place, call, nth, answer } = case.clone();
    let trace = device.config.with_extension("strace");
    let fault = Fault { call, nth, answer, whose: install.whose(place, bench, device) };
    device.start_as(|run| fault.around(&run, &trace));
    let ended = bench.watch(device, "the fault comes or the device converges", |device, answered| {
        written.append(&mut judge::written(device));
        match device.ended() {
            Some(status) => Ok(Some(status)),
            None => judge::has_converged(device, answered).map(|()| None),
        }
    });
    let ended = ended.map_err(|why| format!("{why}\n{}", judge::tail(&device.log())))?;
    let injected = strace::injected(&trace, &device.data);
    if let Some(status) = ended {
        if answer != Answer::Killed {
            judge::ended_in_order(status, &device.log())?;
            judge::it_says_what_happened(|| device.log(), &injected)?;
        }
        written.append(&mut judge::written(device));
        judge::the_runner_ends_with_its_agent(bench, device)?;
        device.start();
        judge::a_good_model_answers_after_one_restart(bench, device)?;
        judge::it_converges(bench, device)?;
    } else if answer == Answer::Killed {
        // It may still come, to a device that has done all it was asked to.
        return Ok(Ended::NotReached);
    } else {
        judge::it_says_what_happened(|| device.log(), &injected)?;
    }
    judge::no_litter(bench, &device.data)?;
    let full = matches!(answer, Answer::Error("ENOSPC", _));
    // A message whose name could not be made durable is sealed again under another number.
    let sealed_again = strace::injected(&trace, &device.data.join("outbox")).len() as u64;
    *given_up = judge::calm(device, full)? + sealed_again;
    let came = ended.is_some() || !injected.is_empty() || strace::was_answered(&trace);
    Ok(if came { Ended::Survived { restarted: ended.is_some() } } else { Ended::NotReached })
}

#[test]
fn a_device_that_starts_on_a_disk_that_refuses_forgets_nothing() {
    if let Some(problem) = strace::problem() {
        return println!("not swept: {problem}");
    }
    let bench = Bench::new();
    let mut device = bench.device();
    device.start();
    judge::it_converges(&bench, &mut device).expect("an install without a fault");
    device.stop_agent();
    let trace = device.config.with_extension("strace");
    let mut files: Vec<PathBuf> = judge::files(&device.data).into_iter().map(|(name, _)| device.data.join(name)).collect();
    files.extend(["", "blobs", "factory", "outbox", "roots", "tuf", "director"].map(|folder| device.data.join(folder)));
    device.start_as(|run| strace::counted_as(strace::READS, &run, &trace, &Whose::LoopOn(files.clone())));
    judge::it_converges(&bench, &mut device).expect("a start without a fault");
    device.stop_agent();
    let calls = strace::calls(&trace);
    println!("a start makes {calls:?}");
    let mut cases = Vec::new();
    for (call, count) in &calls {
        for nth in 1..=*count {
            for answer in [Answer::Killed, Answer::Error("EIO", 0), Answer::Error("EIO", WHILE)] {
                cases.push(Case { place: Place::Files, call: call.clone(), nth, answer });
            }
        }
    }
    let cases = chosen(cases);
    let mut failures = Vec::new();
    let (mut tally, begun) = (BTreeMap::<String, Tally>::new(), Instant::now());
    for case in &cases {
        let entry = tally.entry(case.kind()).or_default();
        entry.cases += 1;
        match start_once(&bench, &mut device, case, &files, &trace) {
            Ok(restarted) => entry.restarted += usize::from(restarted),
            Err(why) => {
                entry.failed += 1;
                failures.push(format!("{} at the {}th: {why}", case.kind(), case.nth));
            }
        }
        device.kill_agent();
    }
    for (kind, Tally { cases, restarted, failed, .. }) in &tally {
        println!("{kind:<44} {cases:4} cases {restarted:4} restarted {failed:3} failed");
    }
    println!("{} cases in {} s", cases.len(), begun.elapsed().as_secs());
    assert!(failures.is_empty(), "{} of {} failed:\n{}", failures.len(), cases.len(), failures.join("\n\n"));
    bench.site.assert_calm();
}

/// One start of a device that has lived, with one fault; whether it took another start.
fn start_once(bench: &Bench, device: &mut Device, case: &Case, files: &[PathBuf], trace: &std::path::Path) -> Result<bool, String> {
    let numbers = |device: &Device| {
        let state = state(&device.data);
        ["boot", "generation"].map(|name| state[name].as_u64().unwrap_or_default())
    };
    let (before, logged) = (numbers(device), device.log().len());
    judge::the_runner_ends_with_its_agent(bench, device)?;
    let Case { call, nth, answer, .. } = case.clone();
    let fault = Fault { call, nth, answer, whose: Whose::LoopOn(files.to_vec()) };
    device.start_as(|run| fault.around(&run, trace));
    let ended = bench.watch(device, "the fault comes or a model answers", |device, answered| match device.ended() {
        Some(status) => Ok(Some(status)),
        None if answered.is_empty() => Err(judge::tail(&device.log())),
        None => Ok(None),
    })?;
    let log = |device: &Device| device.log()[logged..].to_owned();
    if let Some(status) = ended {
        if answer != Answer::Killed {
            judge::ended_in_order(status, &log(device))?;
            judge::it_says_what_happened(|| log(device), &strace::injected(trace, &device.data))?;
        }
        judge::the_runner_ends_with_its_agent(bench, device)?;
        device.start();
        judge::a_good_model_answers_after_one_restart(bench, device)?;
    }
    judge::it_converges(bench, device)?;
    judge::it_says_what_happened(|| log(device), &strace::injected(trace, &device.data))?;
    judge::no_litter(bench, &device.data)?;
    judge::calm(device, false)?;
    let after = numbers(device);
    let (lived, lost) = (after[0] > before[0] && after[0] < before[0] + 5, after[1] < before[1]);
    if lived && !lost { Ok(ended.is_some()) } else { Err(format!("starts and generation were {before:?} and are {after:?}")) }
}
