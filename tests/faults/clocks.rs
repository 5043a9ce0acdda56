//! Clocks that are wrong by decades, and clocks that jump while a release comes: the real agent under libfaketime.
//!
//! What the pure core decides about time has its tables in `agent`; this is the whole program with a C library that lies to it.
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use leeway_tests::device::Device;

use crate::bench::{Bench, FACTORY};
use crate::judge;

/// Where Debian's package `faketime` puts it, below `/usr/lib`.
const LIBRARY: &str = "faketime/libfaketimeMT.so.1";
/// Where the clock jumps to, over and over: 1970, now, 2099, a minute and a day back and forth.
const JUMPS: [&str; 7] = ["@1970-01-01 00:01:00", "+0", "@2099-06-01 00:00:00", "-60s", "+60s", "-1d", "+1d"];

/// The library, or why there is none.
fn library() -> Result<PathBuf, String> {
    let folders = std::fs::read_dir("/usr/lib").into_iter().flatten().flatten().map(|entry| entry.path().join(LIBRARY));
    folders
        .into_iter()
        .find(|path| path.exists())
        .ok_or_else(|| "libfaketime is not installed (Debian: apt-get install faketime)".to_owned())
}

/// Start a device whose clock is what the file `clock` says.
fn start(device: &mut Device, library: &Path, clock: &Path) {
    device.start_as(|mut run| {
        run.env("LD_PRELOAD", library).env("FAKETIME_TIMESTAMP_FILE", clock).env("FAKETIME_NO_CACHE", "1");
        // A clock that is set does not move the one that only counts.
        run.env("FAKETIME_DONT_FAKE_MONOTONIC", "1").env("DONT_FAKE_MONOTONIC", "1");
        run
    });
}

#[test]
fn an_agent_installs_in_1970_in_2099_and_while_its_clock_jumps() {
    let library = match library() {
        Ok(library) => library,
        Err(problem) => return println!("no clock was turned: {problem}"),
    };
    let bench = Bench::new();
    // A device that never heard a signed moment cannot tell 2099 from a clock that is right: it keeps what it has and says why.
    for (name, first, jumps) in [("1970", JUMPS[0], false), ("2099", JUMPS[2], false), ("jumping", JUMPS[0], true)] {
        let mut device = bench.device();
        let clock = device.config.with_extension("clock");
        std::fs::write(&clock, first).expect("the clock");
        start(&mut device, &library, &clock);
        let done = AtomicBool::new(false);
        let judged = std::thread::scope(|scope| {
            if jumps {
                scope.spawn(|| {
                    for to in JUMPS.iter().cycle() {
                        if done.load(Ordering::Relaxed) {
                            return;
                        }
                        let new = clock.with_extension("new");
                        std::fs::write(&new, to).and_then(|()| std::fs::rename(&new, &clock)).expect("the clock");
                        std::thread::sleep(Duration::from_millis(70));
                    }
                });
            }
            let judged = if name == "2099" { waits_and_says_why(&bench, &mut device) } else { judge::it_converges(&bench, &mut device) };
            done.store(true, Ordering::Relaxed);
            judged
        });
        judged.unwrap_or_else(|why| panic!("{name}: {why}"));
        if name == "2099" {
            // Set right while it runs: nobody has to send the assignment again.
            std::fs::write(&clock, "+0").expect("the clock");
            judge::it_converges(&bench, &mut device).unwrap_or_else(|why| panic!("{name}, set right: {why}"));
        }
        // Killed under the wrong clock and started under the right one, as when the time server answers at last.
        device.kill_agent();
        device.start();
        judge::a_good_model_answers_after_one_restart(&bench, &mut device).unwrap_or_else(|why| panic!("{name}, then now: {why}"));
        judge::it_converges(&bench, &mut device).unwrap_or_else(|why| panic!("{name}, then now: {why}"));
        judge::calm(&device, false).unwrap_or_else(|why| panic!("{name}: {why}"));
        println!("{name}: installed, and again at home in the present");
    }
    bench.site.assert_calm();
}

fn waits_and_says_why(bench: &Bench, device: &mut Device) -> Result<(), String> {
    bench.watch(device, "the factory's model answers and the clock is named", |device, answered| {
        let named = device.log().contains("or the clock is");
        if named && answered.iter().any(|version| version == FACTORY) { Ok(()) } else { Err(judge::tail(&device.log())) }
    })
}
