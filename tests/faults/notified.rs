//! The service manager's watchdog, with a socket of ours in systemd's place: who is ready says so when it serves, who makes progress
//! feeds, and a loop that stands still does not, whatever the program's other threads do.
use std::io::Write as _;
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use leeway_tests::device::Device;
use leeway_tests::harness::wait_for;

use crate::bench::{Bench, FACTORY};

/// What the service manager is told to wait for: a sign of life in this time, in microseconds.
const WATCHDOG_USEC: u64 = 600_000;

/// The service manager.
struct Manager {
    socket: UnixDatagram,
    path: PathBuf,
}

impl Manager {
    fn listen(path: PathBuf) -> Self {
        let socket = UnixDatagram::bind(&path).expect("a socket");
        Self { socket, path }
    }

    fn starts(&self, command: &mut Command) {
        command.env("NOTIFY_SOCKET", &self.path).env("WATCHDOG_USEC", WATCHDOG_USEC.to_string());
    }

    /// What is said within `limit`; nothing if nobody says anything.
    fn hears(&self, limit: Duration) -> Option<String> {
        self.socket.set_read_timeout(Some(limit)).expect("a limit");
        let mut word = [0; 64];
        let length = self.socket.recv(&mut word).ok()?;
        Some(String::from_utf8_lossy(&word[..length]).into_owned())
    }

    /// Wait for a word; what else was said before it.
    fn waits_for(&self, word: &str) -> Vec<String> {
        let begun = Instant::now();
        let mut before = Vec::new();
        while begun.elapsed() < Duration::from_secs(60) {
            match self.hears(Duration::from_secs(1)) {
                Some(heard) if heard == word => return before,
                heard => before.extend(heard),
            }
        }
        panic!("{word} was never said, only {before:?}");
    }

    /// Whether nothing is said for three times as long as the service manager waits.
    fn hears_nothing(&self) -> bool {
        while self.hears(Duration::from_millis(1)).is_some() {}
        self.hears(Duration::from_micros(3 * WATCHDOG_USEC)).is_none()
    }
}

#[test]
fn an_agent_is_ready_when_its_model_answers_and_a_loop_that_stands_still_feeds_no_watchdog() {
    let mut bench = Bench::new();
    let mut device = bench.device();
    // A message of an earlier life, which is sent as soon as there is a broker.
    let message = device.data.join("outbox/0-1-1795000000000.window");
    std::fs::create_dir_all(device.data.join("outbox")).expect("a folder");
    std::fs::write(&message, "whatever").expect("a message");
    bench.site.kill();
    let manager = Manager::listen(device.config.with_extension("notify"));
    device.start_as(|mut run| {
        manager.starts(&mut run);
        run
    });
    assert!(manager.waits_for("READY=1").is_empty(), "nothing is fed before it is ready");
    assert!(bench.ask(&device).iter().any(|version| version == FACTORY), "ready before it answers:\n{}", device.log());
    for _ in 0..5 {
        assert!(manager.waits_for("WATCHDOG=1").is_empty());
    }
    // A disk that does not answer: a file that blocks whoever opens it. Only the loop opens it; all other threads go on.
    std::fs::remove_file(&message).expect("the message");
    assert!(Command::new("mkfifo").arg(&message).status().is_ok_and(|status| status.success()));
    bench.site.start();
    wait_for("the loop stands still", || if stands_still(&device) { Ok(()) } else { Err(device.log()) });
    assert!(manager.hears_nothing(), "something else than the loop feeds the watchdog");
    assert!(device.is_running());
    // The disk answers after all: progress is told again. The next time it finds no file, and gives the message up.
    let mut disk = std::fs::File::options().write(true).open(&message).expect("somebody waits");
    std::fs::remove_file(&message).expect("the message");
    disk.write_all(b"whatever").expect("the disk answers");
    drop(disk);
    manager.waits_for("WATCHDOG=1");
    device.stop_agent();
    manager.waits_for("STOPPING=1");
}

/// Whether the agent's main thread waits to open a pipe.
fn stands_still(device: &Device) -> bool {
    device.agent_id().is_some_and(|id| {
        let waits = std::fs::read_to_string(format!("/proc/{id}/wchan")).unwrap_or_default();
        let call = std::fs::read_to_string(format!("/proc/{id}/syscall")).unwrap_or_default();
        // openat, where the kernel tells; else that it waits for a partner.
        call.starts_with("257 ") || waits.contains("fifo") || waits.contains("wait_for_partner")
    })
}

#[test]
fn a_controller_is_ready_when_it_answers_and_feeds_while_it_plans() {
    let mut bench = Bench::new();
    bench.site.stop();
    let manager = Manager::listen(bench.site.path("controller.notify"));
    bench.site.start_as(|mut serve| {
        manager.starts(&mut serve);
        serve
    });
    assert!(manager.waits_for("READY=1").iter().all(|word| word == "WATCHDOG=1"));
    for _ in 0..3 {
        manager.waits_for("WATCHDOG=1");
    }
    bench.site.stop();
    manager.waits_for("STOPPING=1");
}
