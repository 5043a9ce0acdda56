//! kill -9 of agents, runners and the controller at random moments of rollouts: afterwards everything is as if nothing had been,
//! only later. Desired is what runs, the audit trail verifies, every window was counted once, and nothing was given up.
//!
//! `LEEWAY_KILLS=50` makes the long run; `LEEWAY_SEED` repeats one (as far as processes can be repeated).
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use leeway_controller::io::store::{Kind, Log, MAX_PAGE, Store, StoreConfig};
use leeway_firmware_sim::rng::Rng;
use leeway_protocol::ids::{BootId, DeviceId};
use leeway_protocol::report::WindowReport;
use leeway_tests::application::Application;
use leeway_tests::device::Device;
use leeway_tests::harness::wait_for;
use leeway_tests::lesson::teach;
use leeway_tests::site::Site;
use serde_json::Value;

/// Kills in a run that is not told otherwise: some of each kind, in half a minute.
const KILLS: u64 = 12;
/// Devices.
const DEVICES: [&str; 3] = ["attic", "barn", "cellar"];
/// The longest time between two kills, milliseconds: longer than any phase of a rollout here.
const MAX_GAP_MS: u64 = 1_200;
/// Monitors of a cohort that the controller keeps; with more manifests than this the oldest sums are let go.
const KEPT_MONITORS: usize = 4;

struct Story {
    site: Site,
    devices: Vec<Device>,
    applications: Vec<Application>,
    rng: Rng,
    versions: usize,
    rollout: String,
    tally: BTreeMap<&'static str, u64>,
}

#[test]
fn killed_anywhere_everything_converges() {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let clock = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let (kills, seed) = (number("LEEWAY_KILLS").unwrap_or(KILLS), number("LEEWAY_SEED").unwrap_or(clock.subsec_nanos().into()));
    println!("LEEWAY_KILLS={kills} LEEWAY_SEED={seed}");
    let mut story = Story::begin(Rng::new(seed));
    for _ in 0..kills {
        story.keep_a_rollout_under_way();
        std::thread::sleep(Duration::from_millis(story.rng.below(MAX_GAP_MS)));
        story.kill_somebody();
    }
    let calm = Instant::now();
    story.converge();
    println!("{:?}, {} versions, at rest {:.1} s after the last kill", story.tally, story.versions, calm.elapsed().as_secs_f64());
    story.site.assert_chain();
    story.empty_every_outbox();
    story.site.stop();
    story.every_window_was_counted_once();
    story.site.assert_calm();
}

impl Story {
    fn begin(rng: Rng) -> Self {
        let site = Site::started("rain");
        site.configure();
        let token = site.enrolment_token(3);
        let mut devices: Vec<Device> = DEVICES.iter().map(|id| Device::enrolled(&site, id, &token)).collect();
        devices.iter_mut().for_each(Device::start);
        let mut story = Self { site, devices, applications: Vec::new(), rng, versions: 0, rollout: String::new(), tally: BTreeMap::new() };
        story.roll_out_the_next();
        let applications = story.devices.iter().enumerate().map(|(i, d)| Application::start(d.tcp(), "rain", i as u64, 2_000 + 1_000 * i));
        story.applications = applications.collect();
        assert_eq!(story.site.until_over(&story.rollout), "completed");
        story
    }

    fn roll_out_the_next(&mut self) {
        self.versions += 1;
        let (first, version) = (self.versions * 150, format!("{}.0.0", self.versions));
        self.site.publish(&teach("rain", &version, first..first + 600, "another few years"));
        self.rollout = self.site.roll_out(&version);
    }

    fn keep_a_rollout_under_way(&mut self) {
        let phase = self.site.rollout(&self.rollout).expect("the rollout").summary.phase;
        if phase == "paused" {
            self.abort();
        }
        if ["completed", "rolled_back", "aborted"].contains(&phase.as_str()) {
            self.roll_out_the_next();
        }
    }

    /// A gate that could not decide pauses; then a person decides. Kills can leave no control that answers with the baseline.
    fn abort(&mut self) {
        let _ = self.site.leeway(&["rollout", "abort", &self.rollout, "--reason", "the gate could not decide"]).ok();
        *self.tally.entry("aborted after a pause").or_default() += 1;
    }

    fn kill_somebody(&mut self) {
        let (whom, which) = (self.rng.below(3), self.rng.below(DEVICES.len() as u64) as usize);
        let name = match whom {
            0 => {
                self.site.kill();
                self.site.start();
                "controller"
            }
            1 => {
                self.devices[which].kill_agent();
                self.devices[which].start();
                "agent"
            }
            _ => match self.devices[which].kill_runners() {
                0 => "no runner there",
                _ => "runner",
            },
        };
        *self.tally.entry(name).or_default() += 1;
    }

    /// The rollout comes to an end, and every device runs what it is told to run, with proof.
    fn converge(&mut self) {
        let phase = wait_for("the rollout is over or waits for a person", || {
            let phase = self.site.rollout(&self.rollout)?.summary.phase;
            if ["completed", "rolled_back", "aborted", "paused"].contains(&phase.as_str()) { Ok(phase) } else { Err(phase) }
        });
        if phase == "paused" {
            self.abort();
        }
        let phase = self.site.until_over(&self.rollout);
        let line: Value = self.site.api().read("/api/v1/models/rain").expect("the line");
        let champion = line["aliases"]["champion"].as_str().expect("a champion").to_owned();
        for device in DEVICES {
            let seen = self.site.until_runs(device, &champion);
            let (told, runs) = (&seen["desired"], &seen["running"]);
            assert_eq!(told["version"], runs["version"], "{phase}: {seen}");
            wait_for("the newest generation is accepted", || {
                let seen = self.site.device(device)?;
                let same = seen["generation"] == seen["desired"]["generation"];
                if same { Ok(()) } else { Err(format!("{} of {}", seen["generation"], seen["desired"])) }
            });
        }
        for (device, application) in self.devices.iter().zip(&self.applications) {
            let before = application.answers(&champion);
            wait_for(&format!("{} answers with {champion}", device.id), || {
                let seen = application.seen();
                if application.answers(&champion) > before { Ok(()) } else { Err(format!("{seen:?}")) }
            });
        }
    }

    /// Nobody asks any more, the last windows close, and every message has its receipt.
    fn empty_every_outbox(&mut self) {
        self.applications.clear();
        for device in &mut self.devices {
            // An orderly end hands over the open window; the next start sends it.
            device.stop_agent();
            device.start();
        }
        for device in DEVICES {
            wait_for(&format!("the outbox of {device} is empty"), || {
                let seen = self.site.device(device)?;
                assert_eq!(seen["dropped"], 0, "{device} gave messages up");
                let done = seen["outbox"] == 0 && seen["summary"]["online"] == true && self.waiting(device) == 0;
                if done { Ok(()) } else { Err(format!("{} waiting", self.waiting(device))) }
            });
        }
    }

    fn waiting(&self, device: &str) -> usize {
        let outbox = self.site.path(&format!("{device}.data")).join("outbox");
        std::fs::read_dir(outbox).map_or(0, |files| files.flatten().count())
    }

    /// In the log each window is there once, and the sums that were made of it are the sums of the log.
    fn every_window_was_counted_once(&self) {
        let path = self.site.path("controller/store.redb");
        let store = Store::open(&path, StoreConfig::default()).expect("the store");
        let (mut next, mut windows, mut messages) = (0, BTreeSet::new(), BTreeSet::new());
        let mut decisions: BTreeMap<String, u64> = BTreeMap::new();
        loop {
            let records = store.records(Log::Windows, next, MAX_PAGE).expect("the log");
            let Some(last) = records.last() else { break };
            next = last.seq + 1;
            for record in records {
                let (device, boot, counter, body): (DeviceId, BootId, u64, Vec<u8>) =
                    postcard::from_bytes(&record.bytes).expect("a record");
                let window = WindowReport::parse(&body).expect("a window");
                assert!(windows.insert((device.clone(), window.model, window.window)), "{device} {:?} is there twice", window.window);
                assert!(messages.insert((device.clone(), boot, counter)), "message {counter} of boot {boot:?} of {device} is there twice");
                *decisions.entry(window.manifest.hex()).or_default() += window.inferences;
            }
        }
        assert!(windows.len() > DEVICES.len() * 10, "only {} windows", windows.len());
        println!("{} windows, {} decisions of {} manifests", windows.len(), decisions.values().sum::<u64>(), decisions.len());
        let mut compared = 0;
        for (key, bytes) in store.docs(Kind::Checkpoint).expect("checkpoints") {
            let Some(("everywhere", manifest)) = key.strip_prefix("monitor/").and_then(|key| key.split_once('/')) else { continue };
            let monitor: Value = serde_json::from_slice(&bytes).expect("a checkpoint");
            let blocks = monitor["quality"]["blocks"].as_object().into_iter().flatten();
            let counted: u64 = blocks.filter_map(|(_, block)| block["decisions"].as_u64()).sum();
            let logged = decisions.get(manifest).copied().unwrap_or_default();
            assert!(counted <= logged, "{manifest}: {counted} decisions counted, {logged} in the log");
            assert!(decisions.len() > KEPT_MONITORS || counted == logged, "{manifest}: {counted} counted, {logged} in the log");
            compared += 1;
        }
        assert!(compared > 0, "no sums were found to compare");
    }
}
