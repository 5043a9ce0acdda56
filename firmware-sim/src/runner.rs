//! The runner organ of a virtual device: what the model's word says is what happens.
//!
//! It answers the supervisor's commands with the notices the real runner gives, in virtual time. It reads model and manifest
//! from the device's disk and checks both digests at every load, as the real one does; so rot on the disk is found here.
//! What stays true: a model is executed only by a load that is recorded, see [`Executed`].
use std::collections::BTreeMap;

use leeway_agent::confinement::Confinement;
use leeway_agent::control::{PROTOCOL, Proof, Role, RunnerCommand, RunnerNotice, Slot};
use leeway_protocol::assignment::Windows;
use leeway_protocol::digest::Digest;
use leeway_protocol::ids::WindowId;
use leeway_protocol::manifest::{CONFIDENCE_BINS, Manifest};
use leeway_protocol::profile::{Counts, SPECIALS};
use leeway_protocol::reason::{Code, Reason};
use leeway_protocol::report::{Errors, LATENCY_BUCKETS, Labelled, WindowReport, latency_bucket};
use leeway_protocol::reported::ShadowSummary;
use leeway_protocol::time::Timestamp;

use crate::disk::Disk;
use crate::model::{self, Behaviour};

/// Inferences a device does in a second.
pub const PER_SECOND: u64 = 10;
/// How long a good model takes to load, and how long a slow one takes for one inference.
const LOAD_MS: u64 = 300;
const SLOW_US: u64 = 50_000;
const QUICK_US: u64 = 100;

/// A model was loaded into memory: from here on its code could do anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Executed {
    /// Digest of its manifest.
    pub manifest: Digest,
    /// Digest of its bytes.
    pub model: Digest,
    /// What for.
    pub role: Role,
}

/// What comes of a command or of time.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Said {
    /// Notices, each after so many milliseconds.
    pub notices: Vec<(u64, RunnerNotice)>,
    /// Models that were loaded.
    pub executed: Vec<Executed>,
    /// The runner has ended; an `Exited` notice is among the notices.
    pub ended: bool,
}

#[derive(Debug, Clone)]
struct Loaded {
    manifest: Digest,
    model: Digest,
    behaviour: Behaviour,
    role: Role,
    /// Since it serves, or shadows.
    since: Timestamp,
    /// Until when its work is counted.
    counted: Timestamp,
    inferences: u64,
    errors: Errors,
    window: WindowId,
    opened: Timestamp,
    in_window: u64,
    bad_in_window: u64,
}

/// One runner.
#[derive(Debug, Clone)]
pub struct Runner {
    slots: BTreeMap<Slot, Loaded>,
    windows: Windows,
    /// It does nothing any more and does not end either.
    frozen: bool,
}

impl Runner {
    /// A runner that just started, and its first words.
    pub fn start() -> (Self, Said) {
        let (version, confinement) = ("simulated".to_owned(), Confinement::in_process());
        let ready = RunnerNotice::Ready { protocol: PROTOCOL, pid: 1, version, listens: Vec::new(), confinement };
        let said = Said { notices: vec![(20, ready)], ..Said::default() };
        (Self { slots: BTreeMap::new(), windows: Windows::default(), frozen: false }, said)
    }

    /// The model that answers the application.
    pub fn serving(&self) -> Option<Digest> {
        self.slots.values().find(|loaded| loaded.role == Role::Active && !self.frozen).map(|loaded| loaded.manifest)
    }

    /// The supervisor says something.
    pub fn command(&mut self, now: Timestamp, command: &RunnerCommand, disk: &Disk) -> Said {
        let mut said = Said::default();
        if self.frozen {
            return said;
        }
        match command {
            RunnerCommand::Load { slot, role, model_path, manifest_path, manifest } => {
                let files = (disk.read(model_path), disk.read(manifest_path));
                self.load(now, *slot, *role, files, *manifest, &mut said);
            }
            RunnerCommand::Activate { slot } => self.activate(now, *slot, &mut said),
            RunnerCommand::Drop { slot } => {
                if let Some(loaded) = self.slots.get_mut(slot) {
                    close(loaded, now, &mut said);
                }
                self.slots.remove(slot);
            }
            RunnerCommand::SetPolicy { windows, .. } => self.windows = *windows,
            RunnerCommand::Label { .. } => {}
            RunnerCommand::CloseWindows => self.slots.values_mut().for_each(|loaded| close(loaded, now, &mut said)),
            RunnerCommand::Stop => {
                self.slots.values_mut().for_each(|loaded| close(loaded, now, &mut said));
                end(&mut said, Some(0), None);
            }
        }
        said
    }

    /// Time passes; call it about every second or two.
    pub fn beat(&mut self, now: Timestamp) -> Said {
        let mut said = Said::default();
        if self.frozen {
            return said;
        }
        let windows = self.windows;
        for (slot, loaded) in &mut self.slots {
            let served_secs = now.millis_since(loaded.since) / 1000;
            match loaded.behaviour {
                // A shadow answers nobody, but it runs on the same inputs: it crashes and hangs all the same.
                Behaviour::CrashesServing { after_secs } if served_secs >= i64::from(after_secs) => {
                    end(&mut said, None, Some(11));
                    return said;
                }
                Behaviour::HangsServing { after_secs } if served_secs >= i64::from(after_secs) => {
                    self.frozen = true;
                    return Said::default();
                }
                _ => {}
            }
            work(loaded, now);
            match loaded.role {
                Role::Active => {
                    let progress = RunnerNotice::Progress { slot: *slot, inferences: loaded.inferences, errors: loaded.errors };
                    said.notices.push((0, progress));
                }
                Role::Shadow => said.notices.push((0, RunnerNotice::Shadow { slot: *slot, summary: summary(loaded) })),
                Role::Candidate => {}
            }
            let age = u64::try_from(now.millis_since(loaded.opened)).unwrap_or(0);
            if loaded.in_window >= windows.max_inferences || age >= windows.max_ms {
                close(loaded, now, &mut said);
            }
        }
        said
    }

    fn load(&mut self, now: Timestamp, slot: Slot, role: Role, files: (Option<&[u8]>, Option<&[u8]>), wanted: Digest, said: &mut Said) {
        let fail = |code, detail: &str| RunnerNotice::LoadFailed { slot, role, reason: Reason::new(code, detail) };
        let (Some(model), Some(manifest)) = files else {
            return said.notices.push((5, fail(Code::LoadFailed, "the model or its manifest is not on the disk")));
        };
        if Digest::of(manifest) != wanted {
            return said.notices.push((5, fail(Code::DigestMismatch, "the manifest on the disk is not the verified one")));
        }
        let Ok(manifest) = Manifest::parse(manifest) else {
            return said.notices.push((5, fail(Code::ManifestInvalid, "the manifest cannot be read")));
        };
        let digest = Digest::of(model);
        if digest != manifest.model.digest {
            return said.notices.push((5, fail(Code::DigestMismatch, "the model on the disk is not the signed one")));
        }
        let Some(behaviour) = model::parse(model) else {
            return said.notices.push((5, fail(Code::PrescanRefused, "this is no model")));
        };
        said.executed.push(Executed { manifest: wanted, model: digest, role });
        match behaviour {
            Behaviour::CrashesOnLoad => return end(said, None, Some(6)),
            Behaviour::HangsOnLoad => {
                self.frozen = true;
                return;
            }
            Behaviour::MissesGolden => return said.notices.push((LOAD_MS, fail(Code::GoldenMismatch, "output 0 is off by 0.9"))),
            _ => {}
        }
        let p99_us = if behaviour == Behaviour::IsSlow { SLOW_US } else { QUICK_US };
        let golden = Digest::of(&manifest.golden.vectors.len().to_le_bytes());
        let proof = Proof { manifest: wanted, model: digest, golden, load_ms: LOAD_MS, p50_us: p99_us / 2, p99_us, rss_bytes: 8 << 20 };
        if role == Role::Active {
            self.slots.retain(|_, other| other.role != Role::Active);
        }
        if role != Role::Candidate {
            let loaded = Loaded {
                manifest: wanted,
                model: digest,
                behaviour,
                role,
                since: now,
                counted: now,
                inferences: 0,
                errors: Errors::default(),
                window: WindowId(0),
                opened: now,
                in_window: 0,
                bad_in_window: 0,
            };
            self.slots.insert(slot, loaded);
        }
        said.notices.push((LOAD_MS, RunnerNotice::Loaded { slot, role, proof }));
    }

    fn activate(&mut self, now: Timestamp, slot: Slot, said: &mut Said) {
        if !self.slots.contains_key(&slot) {
            let reason = Reason::new(Code::LoadFailed, "nothing is loaded there");
            return said.notices.push((1, RunnerNotice::LoadFailed { slot, role: Role::Active, reason }));
        }
        for (other, loaded) in &mut self.slots {
            if *other == slot {
                loaded.role = Role::Active;
                (loaded.since, loaded.counted, loaded.opened) = (now, now, now);
                (loaded.inferences, loaded.in_window, loaded.bad_in_window, loaded.errors) = (0, 0, 0, Errors::default());
            } else if loaded.role == Role::Active {
                work(loaded, now);
                close(loaded, now, said);
                // It stays loaded until it is dropped, and answers nobody.
                loaded.role = Role::Candidate;
            }
        }
        said.notices.push((1, RunnerNotice::Activated { slot }));
    }
}

fn end(said: &mut Said, code: Option<i32>, signal: Option<i32>) {
    said.notices.push((10, RunnerNotice::Exited { code, signal }));
    said.ended = true;
}

/// Do the inferences that were due since the last look.
fn work(loaded: &mut Loaded, now: Timestamp) {
    if loaded.role == Role::Candidate {
        return;
    }
    let due = u64::try_from(now.millis_since(loaded.counted)).unwrap_or(0) * PER_SECOND / 1000;
    loaded.counted = loaded.counted.plus_millis((due * 1000 / PER_SECOND) as i64);
    loaded.inferences += due;
    loaded.in_window += due;
    if loaded.behaviour == Behaviour::AnswersNan {
        loaded.errors.not_finite += due;
        loaded.bad_in_window += due;
    }
}

fn summary(loaded: &Loaded) -> ShadowSummary {
    let p99_us = if loaded.behaviour == Behaviour::IsSlow { SLOW_US } else { QUICK_US };
    ShadowSummary { compared: loaded.inferences, disagreed: loaded.inferences / 10, p50_us: p99_us / 2, p99_us }
}

/// Send the open window, if it holds anything. Only what answers the application has windows.
fn close(loaded: &mut Loaded, now: Timestamp, said: &mut Said) {
    if loaded.role != Role::Active || loaded.in_window == 0 {
        return;
    }
    let n = u32::try_from(loaded.in_window).unwrap_or(u32::MAX);
    let mut latency = vec![0; LATENCY_BUCKETS];
    let us = if loaded.behaviour == Behaviour::IsSlow { SLOW_US } else { QUICK_US };
    if let Some(bucket) = latency.get_mut(latency_bucket(us * 1000)) {
        *bucket = n;
    }
    let accuracy = if let Behaviour::Serves { accuracy } = loaded.behaviour { u64::from(accuracy) } else { 50 };
    let answered = loaded.in_window - loaded.bad_in_window;
    let mut level = vec![0; SPECIALS];
    level.extend([n / 2, n - n / 2]);
    let mut confidence = [0; CONFIDENCE_BINS];
    let mut labelled = [Labelled::default(); CONFIDENCE_BINS];
    if let (Some(seen), Some(known)) = (confidence.last_mut(), labelled.last_mut()) {
        *seen = u32::try_from(answered).unwrap_or(u32::MAX);
        *known = Labelled { rows: answered, correct: answered * accuracy / 100 };
    }
    let report = WindowReport {
        manifest: loaded.manifest,
        model: loaded.model,
        window: loaded.window,
        opened_at: loaded.opened,
        closed_at: now,
        inferences: loaded.in_window,
        recorded: loaded.in_window,
        errors: Errors { not_finite: loaded.bad_in_window, ..Errors::default() },
        latency,
        features: vec![Counts(level)],
        rho_percent: vec![0],
        confidence,
        classes: vec![n - n / 3, n / 3],
        labelled,
        data_time: None,
        user: Default::default(),
    };
    said.notices.push((0, RunnerNotice::Window(Box::new(report))));
    loaded.window = WindowId(loaded.window.0 + 1);
    (loaded.opened, loaded.in_window, loaded.bad_in_window) = (now, 0, 0);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn loaded(behaviour: Behaviour, role: Role) -> (Runner, Said) {
        let made = model::make(&"rain".parse().unwrap(), &"1".parse().unwrap(), 1, behaviour, 0);
        let disk = Disk::with_files([("m".to_owned(), made.model), ("j".to_owned(), made.manifest.clone())]);
        let (mut runner, _) = Runner::start();
        let command = RunnerCommand::Load {
            slot: Slot::A,
            role,
            model_path: "m".to_owned(),
            manifest_path: "j".to_owned(),
            manifest: Digest::of(&made.manifest),
        };
        let said = runner.command(Timestamp::default(), &command, &disk);
        (runner, said)
    }

    fn names(said: &Said) -> Vec<&'static str> {
        let name = |notice: &RunnerNotice| match notice {
            RunnerNotice::Loaded { .. } => "loaded",
            RunnerNotice::LoadFailed { .. } => "failed",
            RunnerNotice::Exited { .. } => "exited",
            RunnerNotice::Progress { errors, .. } if errors.not_finite > 0 => "nan",
            RunnerNotice::Progress { .. } => "progress",
            RunnerNotice::Shadow { .. } => "shadow",
            RunnerNotice::Window(_) => "window",
            _ => "other",
        };
        said.notices.iter().map(|(_, notice)| name(notice)).collect()
    }

    #[test]
    fn each_behaviour_does_what_its_name_says() {
        let serves = Behaviour::Serves { accuracy: 90 };
        let table: [(Behaviour, &[&str], &[&str]); 8] = [
            (serves, &["loaded"], &["progress"]),
            (Behaviour::CrashesOnLoad, &["exited"], &[]),
            (Behaviour::HangsOnLoad, &[], &[]),
            (Behaviour::CrashesServing { after_secs: 5 }, &["loaded"], &["exited"]),
            (Behaviour::HangsServing { after_secs: 5 }, &["loaded"], &[]),
            (Behaviour::IsSlow, &["loaded"], &["progress"]),
            (Behaviour::AnswersNan, &["loaded"], &["nan"]),
            (Behaviour::MissesGolden, &["failed"], &[]),
        ];
        for (behaviour, at_load, at_beat) in table {
            let (mut runner, said) = loaded(behaviour, Role::Active);
            assert_eq!(names(&said), at_load, "{behaviour:?}");
            assert_eq!(said.executed.len(), 1);
            assert_eq!(names(&runner.beat(Timestamp::from_secs(6))), at_beat, "{behaviour:?}");
        }
    }

    #[test]
    fn windows_hold_what_was_served_and_close_once() {
        let (mut runner, _) = loaded(Behaviour::Serves { accuracy: 80 }, Role::Active);
        runner.beat(Timestamp::from_secs(10));
        let said = runner.command(Timestamp::from_secs(10), &RunnerCommand::CloseWindows, &Disk::default());
        let Some((_, RunnerNotice::Window(report))) = said.notices.first() else { panic!("{said:?}") };
        assert_eq!((report.inferences, report.labels().correct), (100, 80));
        assert_eq!(WindowReport::parse(&report.to_bytes()).as_ref(), Ok(report.as_ref()));
        assert!(runner.command(Timestamp::from_secs(10), &RunnerCommand::CloseWindows, &Disk::default()).notices.is_empty());
    }

    #[test]
    fn rot_on_the_disk_is_not_executed() {
        let made = model::make(&"rain".parse().unwrap(), &"1".parse().unwrap(), 1, Behaviour::Serves { accuracy: 90 }, 0);
        let (mut runner, _) = Runner::start();
        let mut rotten = made.model.clone();
        rotten[3] ^= 1;
        let disk = Disk::with_files([("m".to_owned(), rotten), ("j".to_owned(), made.manifest.clone())]);
        let command = |manifest| RunnerCommand::Load {
            slot: Slot::A,
            role: Role::Active,
            model_path: "m".to_owned(),
            manifest_path: "j".to_owned(),
            manifest,
        };
        for manifest in [Digest::of(&made.manifest), Digest::of(b"another")] {
            let said = runner.command(Timestamp::default(), &command(manifest), &disk);
            assert_eq!((names(&said), said.executed.len()), (vec!["failed"], 0));
        }
        assert_eq!(runner.serving(), None);
    }
}
