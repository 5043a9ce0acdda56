//! The models of one device at work: one active, perhaps one in its shadow, perhaps a former one still loaded.
//!
//! Driven by the supervisor's commands and the application's requests; time and files come through [`Organs`], so the same
//! code runs in the runner process, inside a firm's own program, and by the hundred in one process for a simulated fleet.
//!
//! What stays true: a release is in its role only after its golden vectors matched on this device; activating is one
//! assignment between two inferences, so no request finds nobody; a shadow answers nobody and cannot fail a request.
use std::collections::BTreeMap;
use std::sync::Arc;

use leeway_protocol::assignment::{CapturePolicy, Windows};
use leeway_protocol::manifest::Manifest;
use leeway_protocol::reason::{Code, Reason};
use leeway_protocol::report::{Errors, UserMetric, UserValue};
use leeway_protocol::time::Timestamp;

use super::release::{Files, Organs, Release};
use crate::control::{Proof, Role, RunnerCommand, RunnerNotice, Slot};
use crate::recorder::row::Decider;
use crate::recorder::{Failure, Recorder};

mod compare;
mod infer;
#[cfg(test)]
mod tests;

use compare::Comparison;
pub use infer::{Answer, Refusal, Request};

/// Notices kept for a driver that does not fetch them; the oldest give way. Some minutes of the shortest windows.
const MAX_NOTICES: usize = 256;

/// A sign of life is given this often: well within the second the supervisor is promised.
const PROGRESS_NANOS: u64 = 400_000_000;

/// A model in its slot.
#[derive(Debug)]
struct Seat {
    release: Release,
    decider: Decider,
    recorder: Recorder,
    /// Since it became active.
    inferences: u64,
    errors: Errors,
}

/// All models of a device.
#[derive(Debug, Default)]
pub struct Host {
    seats: BTreeMap<Slot, Seat>,
    active: Option<Slot>,
    shadow: Option<(Slot, Comparison)>,
    windows: Windows,
    capture: CapturePolicy,
    notices: Vec<RunnerNotice>,
    told_at: Option<u64>,
    /// The latest request, until the shadow has run on it.
    pending: Option<infer::Pending>,
}

/// What serves, for people and health checks.
#[derive(Debug, Clone)]
pub struct Serving {
    /// Where.
    pub slot: Slot,
    /// What.
    pub manifest: Arc<Manifest>,
    /// Proof of running.
    pub proof: Proof,
    /// Inferences answered since it became active.
    pub inferences: u64,
    /// Failures since then.
    pub errors: Errors,
}

impl Host {
    /// Nobody serves yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Carry out a command; what is to be told afterwards. Loading takes as long as it takes: a server that must go on
    /// answering calls [`Release::load`] elsewhere and then [`Self::install`].
    pub fn handle(&mut self, now: Timestamp, organs: &mut dyn Organs, command: RunnerCommand) -> Vec<RunnerNotice> {
        match command {
            RunnerCommand::Load { slot, role, model_path, manifest_path, manifest } => {
                let files = Files { model: &model_path, manifest: &manifest_path, digest: Some(manifest) };
                let loaded = Release::load(organs, files, role);
                return self.install(now, slot, role, loaded);
            }
            RunnerCommand::Activate { slot } => self.activate(now, slot),
            RunnerCommand::Drop { slot } => self.vacate(now, slot),
            RunnerCommand::SetPolicy { windows, capture } => {
                (self.windows, self.capture) = (windows, capture);
                self.seats.values_mut().for_each(|seat| seat.recorder.set_policy(windows, capture));
            }
            RunnerCommand::Label { request, label } => drop(self.label(now, request, label)),
            RunnerCommand::CloseWindows => self.close_all(now, false),
            RunnerCommand::Stop => self.close_all(now, true),
        }
        self.notices()
    }

    /// Put a release that was loaded elsewhere into its role, or say why there is none.
    pub fn install(&mut self, now: Timestamp, slot: Slot, role: Role, loaded: Result<Release, Reason>) -> Vec<RunnerNotice> {
        let release = match loaded.and_then(|release| self.fits(role, release)) {
            Ok(release) => release,
            Err(reason) => {
                self.tell(RunnerNotice::LoadFailed { slot, role, reason });
                return self.notices();
            }
        };
        let proof = release.proof.clone();
        if role != Role::Candidate {
            self.vacate(now, slot);
            let recorder = Recorder::new(&release.manifest, proof.manifest, self.windows, self.capture);
            let decider = Decider::new(&release.manifest);
            self.seats.insert(slot, Seat { release, decider, recorder, inferences: 0, errors: Errors::default() });
        }
        self.tell(RunnerNotice::Loaded { slot, role, proof });
        match role {
            Role::Active => self.become_active(now, slot),
            Role::Shadow => self.shadow = Some((slot, Comparison::default())),
            Role::Candidate => {}
        }
        self.notices()
    }

    /// A shadow runs on the active model's requests, so it must take the same inputs.
    fn fits(&self, role: Role, release: Release) -> Result<Release, Reason> {
        let Some(active) = self.active.and_then(|slot| self.seats.get(&slot)).filter(|_| role == Role::Shadow) else { return Ok(release) };
        let free = |manifest: &Manifest| manifest.free_inputs().map(|(_, spec)| spec.clone()).collect::<Vec<_>>();
        if free(&active.release.manifest) == free(&release.manifest) {
            return Ok(release);
        }
        Err(Reason::new(Code::IoMismatch, "it takes other inputs than the active model, so it cannot run beside it"))
    }

    fn activate(&mut self, now: Timestamp, slot: Slot) {
        if self.seats.contains_key(&slot) {
            self.become_active(now, slot);
            self.tell(RunnerNotice::Activated { slot });
        } else {
            let reason = Reason::new(Code::LoadFailed, "nothing is loaded in this slot, so it cannot be activated");
            self.tell(RunnerNotice::LoadFailed { slot, role: Role::Active, reason });
        }
    }

    fn become_active(&mut self, now: Timestamp, slot: Slot) {
        self.pending = None;
        if self.shadow.as_ref().is_some_and(|(shadow, _)| *shadow == slot) {
            self.report_shadow();
            self.shadow = None;
        }
        if let Some(before) = self.active.filter(|before| *before != slot) {
            // The cut between two models is clean: what the former one did is told now.
            self.close(now, before, false);
        }
        if let Some(seat) = self.seats.get_mut(&slot) {
            (seat.inferences, seat.errors) = (0, Errors::default());
            seat.release.session.reset();
        }
        self.active = Some(slot);
        self.told_at = None;
    }

    /// Send what a slot still holds and forget it.
    fn vacate(&mut self, now: Timestamp, slot: Slot) {
        self.close(now, slot, true);
        self.seats.remove(&slot);
        if self.active == Some(slot) {
            self.active = None;
        }
        if self.shadow.as_ref().is_some_and(|(shadow, _)| *shadow == slot) {
            self.shadow = None;
        }
        self.pending = None;
    }

    /// The truth about an earlier request; whether any loaded model's decision or sample waited for it.
    pub fn label(&mut self, now: Timestamp, request: u64, label: f32) -> bool {
        let mut found = false;
        for seat in self.seats.values_mut() {
            found |= seat.recorder.label(now, request, label);
        }
        found
    }

    /// What the application measured itself, for the model that answered `request`, or else for the one that serves; whether
    /// there is such a model. It is counted whole or not at all.
    pub fn told(&mut self, now: Timestamp, request: Option<u64>, values: &[(UserMetric, UserValue)]) -> Result<bool, Refusal> {
        let slot = match request {
            None => Some(self.active.ok_or(Refusal::NoModel)?),
            // The one that serves first: where both know the number, it was used again since.
            Some(request) => {
                let knows = |(slot, seat): (&Slot, &mut Seat)| seat.recorder.answered_to(request).then_some(*slot);
                let known: Vec<Slot> = self.seats.iter_mut().filter_map(knows).collect();
                known.iter().find(|slot| self.active == Some(**slot)).or(known.first()).copied()
            }
        };
        let Some(seat) = slot.and_then(|slot| self.seats.get_mut(&slot)) else { return Ok(false) };
        seat.recorder.told(now, values).map_err(|e| Refusal::Rejected(e.to_string()))?;
        Ok(true)
    }

    /// Close what is due and give signs of life; to be called at least every half second.
    pub fn tick(&mut self, now: Timestamp, nanos: u64) -> Vec<RunnerNotice> {
        let due: Vec<Slot> = self.seats.iter().filter(|(_, seat)| seat.recorder.is_due(now)).map(|(slot, _)| *slot).collect();
        due.into_iter().for_each(|slot| self.close(now, slot, false));
        if self.told_at.is_none_or(|told| nanos.saturating_sub(told) >= PROGRESS_NANOS) {
            self.told_at = Some(nanos);
            if let Some(slot) = self.active
                && let Some(seat) = self.seats.get(&slot)
            {
                let (inferences, errors) = (seat.inferences, seat.errors);
                self.tell(RunnerNotice::Progress { slot, inferences, errors });
            }
            self.report_shadow();
        }
        self.notices()
    }

    /// What is to be told since the last time.
    pub fn notices(&mut self) -> Vec<RunnerNotice> {
        std::mem::take(&mut self.notices)
    }

    /// What serves now.
    pub fn serving(&self) -> Option<Serving> {
        let slot = self.active?;
        let seat = self.seats.get(&slot)?;
        let (manifest, proof) = (Arc::clone(&seat.release.manifest), seat.release.proof.clone());
        Some(Serving { slot, manifest, proof, inferences: seat.inferences, errors: seat.errors })
    }

    fn report_shadow(&mut self) {
        if let Some((slot, comparison)) = &self.shadow {
            let (slot, summary) = (*slot, comparison.summary());
            self.tell(RunnerNotice::Shadow { slot, summary });
        }
    }

    fn close_all(&mut self, now: Timestamp, everything: bool) {
        let slots: Vec<Slot> = self.seats.keys().copied().collect();
        slots.into_iter().for_each(|slot| self.close(now, slot, everything));
    }

    /// Close a slot's window and send captured rows; with `everything`, those too that wait for a label.
    fn close(&mut self, now: Timestamp, slot: Slot, everything: bool) {
        let Some(seat) = self.seats.get_mut(&slot) else { return };
        let report = seat.recorder.close(now);
        let captured = seat.recorder.captured(everything);
        report.into_iter().for_each(|report| self.tell(RunnerNotice::Window(Box::new(report))));
        captured.into_iter().for_each(|batch| self.tell(RunnerNotice::Captured(batch)));
    }

    fn tell(&mut self, notice: RunnerNotice) {
        if self.notices.len() >= MAX_NOTICES {
            self.notices.remove(0);
        }
        self.notices.push(notice);
    }

    /// Count a failure of the active model, in its window too unless the recorder has it already.
    fn count(&mut self, now: Timestamp, failure: Failure, record: bool) {
        let Some(seat) = self.active.and_then(|slot| self.seats.get_mut(&slot)) else { return };
        if record {
            seat.recorder.failed(now, failure);
        }
        let count = match failure {
            Failure::Rejected => &mut seat.errors.rejected,
            Failure::Failed => &mut seat.errors.failed,
            Failure::NotFinite => &mut seat.errors.not_finite,
            Failure::TimedOut => &mut seat.errors.timed_out,
        };
        *count += 1;
    }

    /// Count a request the application sent in a form that never reached the model.
    pub fn reject(&mut self, now: Timestamp) {
        self.count(now, Failure::Rejected, true);
    }
}
