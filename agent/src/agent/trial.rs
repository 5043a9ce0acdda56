//! From verified bytes to a committed release: self-test, shadow run, trial, commit or revert; and the way back at any time.
//!
//! What stays true: nothing answers the application before its golden vectors matched on this device; a trial is on disk, with
//! one start less, before its release answers; a revert asks neither the network nor the disk before the last known good
//! release is loaded again.
use leeway_protocol::assignment::{Intent, MAX_AVOID};
use leeway_protocol::digest::Digest;
use leeway_protocol::reason::{Code, Reason};
use leeway_protocol::reported::ShadowSummary;

use super::persist::Saving;
use super::state::Outcome;
use super::{Agent, Followed};
use crate::action::{Action, Level, RunnerPurpose};
use crate::control::{Proof, Role, RunnerCommand, Slot};
use crate::deployment::{Candidate, Deployment};
use crate::probation::{Gate, Verdict};
use crate::slot::{Kept, Trial};

/// Compared inputs from which the shadow's slowest percent says something.
const MIN_TIMED: u64 = 100;
/// One revocation may lead to another release that is revoked too: there are two slots and the factory's.
const MAX_FALLBACKS: usize = 4;

impl Agent {
    /// Move the deployment; a move that is not in the table is a mistake of this program, is logged, and changes nothing.
    pub(super) fn enter(&mut self, next: Deployment) -> bool {
        match self.deployment.go(next) {
            Ok(()) => {
                self.link.report_due = true;
                true
            }
            Err(illegal) => {
                self.log(Level::Error, format!("please report this mistake in the agent: {illegal}"));
                false
            }
        }
    }

    /// All bytes are on disk and verified: test them where a crash hurts nobody.
    pub(super) fn staged(&mut self, candidate: Box<Candidate>) {
        if !self.enter(Deployment::Staged(candidate.clone())) {
            return;
        }
        let run = self.next_run();
        let slot = self.state.slots.standby();
        self.out.push(Action::StartRunner { run, purpose: RunnerPurpose::Candidate });
        let command = load(slot, Role::Candidate, candidate.release());
        self.out.push(Action::Runner { run, command });
        let deadline = self.clock.steady().saturating_add(self.settings.timing.load_ms);
        self.last.starts_candidate();
        self.enter(Deployment::SelfTesting { candidate, run, deadline });
    }

    /// The throw-away runner loaded the release and its golden vectors matched.
    pub(super) fn self_tested(&mut self, proof: &Proof) {
        let Deployment::SelfTesting { candidate, .. } = &self.deployment else { return };
        let candidate = candidate.clone();
        let (release, limits) = (candidate.release(), candidate.limits());
        if (proof.manifest, proof.model) != (release.manifest.digest, release.model.digest) {
            return self.rotten(&Reason::new(Code::DigestMismatch, "what the runner loaded is not what was downloaded"));
        }
        let over = if proof.rss_bytes > limits.rss_bytes {
            Some(Reason::new(Code::TooMuchMemory, format_args!("{} bytes, allowed are {}", proof.rss_bytes, limits.rss_bytes)))
        } else if proof.load_ms > limits.load_ms {
            Some(Reason::new(Code::TooSlow, format_args!("loading took {} ms, allowed are {}", proof.load_ms, limits.load_ms)))
        } else if proof.p99_us > limits.p99_us {
            Some(Reason::new(
                Code::TooSlow,
                format_args!("one inference in a hundred took {} us, allowed are {}", proof.p99_us, limits.p99_us),
            ))
        } else {
            None
        };
        if let Some(reason) = over {
            return self.refuse(reason, Some(release.manifest.digest));
        }
        self.leave_candidate();
        // The way back is not compared with what is left: that may be what hangs, and the good one beside it would be blamed.
        let compares = |f: &Followed| f.assignment.shadow.min_inferences > 0 && f.assignment.intent != Intent::Rollback;
        let slot = self.state.slots.standby();
        if self.followed.as_ref().is_some_and(compares) && self.runner_answers() {
            self.load_beside(slot, Role::Shadow, candidate.release());
            self.enter(Deployment::Shadowing { candidate, slot, since: None, summary: None });
        } else {
            self.start_trial(slot, Some(candidate));
        }
    }

    /// The release did not pass its self-test.
    pub(super) fn self_test_failed(&mut self, reason: Reason) {
        match reason.code {
            Code::DigestMismatch | Code::LengthMismatch => self.rotten(&reason),
            Code::LoadFailed | Code::Crashed | Code::Hung => self.fault(reason),
            _ => {
                let manifest = self.deployment_manifest();
                self.refuse(reason, manifest);
            }
        }
    }

    /// The bytes changed on the disk: fetch them again.
    fn rotten(&mut self, reason: &Reason) {
        for digest in self.deployment_blobs() {
            if !self.state.slots.blobs().any(|kept| kept == digest) {
                self.forget_blob(digest);
            }
        }
        self.fault(reason.clone());
    }

    /// End whatever runner a candidate has, before the deployment moves on.
    pub(super) fn leave_candidate(&mut self) {
        match &self.deployment {
            Deployment::SelfTesting { run, .. } => {
                let run = *run;
                self.kill(run);
            }
            Deployment::Shadowing { .. } => self.forget_shadow(),
            _ => {}
        }
    }

    /// The shadow is loaded.
    pub(super) fn shadow_loaded(&mut self) {
        let now = self.clock.steady();
        if let Deployment::Shadowing { since, .. } = &mut self.deployment {
            since.get_or_insert(now);
        }
        self.link.report_due = true;
    }

    /// The comparison so far.
    pub(super) fn shadow_compared(&mut self, summary: ShadowSummary) {
        if let Deployment::Shadowing { summary: seen, .. } = &mut self.deployment {
            *seen = Some(summary);
            self.link.shadow = Some(summary);
        }
    }

    /// What time and counts alone move on.
    pub(super) fn advance(&mut self) {
        let now = self.clock.steady();
        match &self.deployment {
            Deployment::Waiting { until, .. } if *until <= now && !self.stopping => self.begin_fetching(),
            Deployment::Refused { again: Some(again), .. } if *again <= now && !self.stopping => self.begin_fetching(),
            Deployment::SelfTesting { deadline, .. } if *deadline <= now => {
                let reason =
                    Reason::new(Code::LoadFailed, format_args!("the self-test took longer than {} ms", self.settings.timing.load_ms));
                self.fault(reason);
            }
            Deployment::Shadowing { .. } => self.judge_shadow(now),
            Deployment::Probation(gate) => {
                let verdict = gate.verdict(now);
                self.judge_trial(verdict);
            }
            _ => {}
        }
    }

    fn judge_shadow(&mut self, now: u64) {
        let Deployment::Shadowing { candidate, slot, since: Some(since), summary } = &self.deployment else { return };
        let (candidate, slot) = (candidate.clone(), *slot);
        let rules = self.followed.as_ref().map(|f| f.assignment.shadow).unwrap_or_default();
        let seen = summary.unwrap_or(ShadowSummary { compared: 0, disagreed: 0, p50_us: 0, p99_us: 0 });
        if seen.compared < rules.min_inferences && now.saturating_sub(*since) < rules.max_ms {
            return;
        }
        let (manifest, limit) = (candidate.release().manifest.digest, candidate.limits().p99_us);
        let share = seen.disagreed as f64 / seen.compared.max(1) as f64;
        if share > rules.max_disagreement {
            let detail =
                format_args!("{} of {} decisions differ, allowed is a share of {}", seen.disagreed, seen.compared, rules.max_disagreement);
            return self.refuse(Reason::new(Code::ShadowDiverged, detail), Some(manifest));
        }
        if seen.compared >= MIN_TIMED && seen.p99_us > limit {
            let detail = format_args!("beside the active model one inference in a hundred took {} us, allowed are {limit}", seen.p99_us);
            return self.refuse(Reason::new(Code::TooSlow, detail), Some(manifest));
        }
        if self.disk_is_ready() {
            self.start_trial(slot, Some(candidate));
        }
    }

    /// Put a release on trial: a new one, or, without a candidate, the one kept in `slot`.
    pub(super) fn start_trial(&mut self, slot: Slot, candidate: Option<Box<Candidate>>) {
        let before = Box::new(self.state.slots.clone());
        let limits = self.followed.as_ref().map(|f| f.assignment.probation).unwrap_or_default();
        let kept = candidate.is_none();
        if let Some(candidate) = candidate {
            self.state.slots.put(slot, Some(Kept { release: candidate.release().clone(), committed: false, broken: None }));
        }
        // This start is taken off at once.
        let boots_left = limits.boots.max(1) - 1;
        self.state.slots.trial = Some(Trial { slot, boots_left, kept });
        self.crashes.clear();
        let manifest = self.release_in(slot).map(|release| release.manifest.digest);
        if !self.enter(Deployment::Probation(Gate::new(limits))) {
            self.state.slots = *before;
            return;
        }
        if !self.runner_answers() {
            self.drop_runner();
        }
        self.save(Saving::Trial(before));
        if self.shadow_is_ready(slot) {
            self.activate_shadow(slot);
        } else if self.runner_answers() {
            if let Some(release) = self.release_in(slot).cloned() {
                self.load_beside(slot, Role::Active, &release);
            }
        } else {
            self.start_serving();
        }
        self.happened(manifest);
    }

    /// The release on trial answers the application.
    pub(super) fn trial_answers(&mut self) {
        let now = self.clock.steady();
        if let Deployment::Probation(gate) = &mut self.deployment {
            gate.answers(now);
        }
        self.link.report_due = true;
    }

    fn judge_trial(&mut self, verdict: Verdict) {
        let kept = self.state.slots.trial.as_ref().is_some_and(|trial| trial.kept);
        let answers = self.state.slots.trial.as_ref().is_some_and(|trial| self.answers_from(trial.slot));
        match verdict {
            Verdict::Fail(reason) => self.revert(reason),
            // It was on trial here before; that its golden vectors match again is all there is to prove.
            Verdict::Pass if answers => self.commit(),
            Verdict::Wait if kept && answers => self.commit(),
            Verdict::Pass | Verdict::Wait => {}
        }
    }

    fn commit(&mut self) {
        let (Some(trial), Deployment::Probation(gate)) = (self.state.slots.trial.clone(), &self.deployment) else { return };
        if !self.disk_is_ready() {
            return;
        }
        let before = Box::new((self.state.clone(), gate.clone()));
        let Some(release) = self.release_in(trial.slot).cloned() else { return };
        let mut kept = self.state.slots.kept(trial.slot).cloned();
        if let Some(kept) = &mut kept {
            (kept.committed, kept.broken) = (true, None);
        }
        self.state.slots.put(trial.slot, kept);
        self.state.slots.active = Some(trial.slot);
        self.state.slots.trial = None;
        self.state.outcome = Some(Outcome::Committed);
        self.raise_floor(&release);
        self.shun();
        self.save(Saving::Commit(before));
        self.log(Level::Info, format!("{} {} passed its trial and runs for good", release.line, release.version));
        self.enter(Deployment::Committed);
        self.collect_garbage();
        self.happened(Some(release.manifest.digest));
    }

    /// Forget what the assignment says failed on devices like this one, now that something else answers: left in its slot it would
    /// be the release to fall back to.
    pub(super) fn shun(&mut self) {
        let avoid: Vec<_> = self.followed.iter().flat_map(|f| f.assignment.avoid.iter().take(MAX_AVOID)).copied().collect();
        for slot in [Slot::A, Slot::B] {
            let kept = self.state.slots.kept(slot).map(|kept| kept.release.manifest.digest);
            if self.state.slots.serving() != Some(slot) && kept.is_some_and(|manifest| avoid.contains(&manifest)) {
                self.state.slots.put(slot, None);
            }
        }
    }

    /// The signed floor is taken over only now, when a release above it has proved itself: raised earlier, it could leave the
    /// device without anything to fall back to.
    fn raise_floor(&mut self, committed: &crate::slot::Release) {
        let policy = self.trust.image.as_ref().and_then(|image| image.line_policy(&committed.line)).map_or(0, |p| p.min_seq);
        if policy <= self.state.floor_of(&committed.line) || committed.seq < policy {
            return;
        }
        self.state.floor.insert(committed.line.clone(), policy);
        for slot in [Slot::A, Slot::B] {
            let release = self.state.slots.kept(slot).map(|kept| &kept.release);
            if release.is_some_and(|r| r.line == committed.line && r.seq < policy) {
                self.state.slots.put(slot, None);
            }
        }
    }

    /// The trial failed: back to what was active before it.
    pub(super) fn revert(&mut self, reason: Reason) {
        let Some(trial) = self.state.slots.trial.take() else { return };
        let manifest = self.release_in(trial.slot).map(|release| release.manifest.digest);
        let speaks_against_it = !matches!(reason.code, Code::Superseded | Code::DiskFull | Code::DiskFailed);
        let mut kept = self.state.slots.kept(trial.slot).cloned().filter(|_| trial.kept);
        if let Some(kept) = kept.as_mut().filter(|_| speaks_against_it) {
            kept.broken = Some(reason.clone());
        }
        self.state.slots.put(trial.slot, kept);
        self.log(Level::Error, format!("the trial under assignment {} failed: {reason}", self.state.generation));
        self.end_in_revert(reason, manifest);
    }

    /// The release on trial did not load. A kept one whose bytes have rotted is fetched again; anything else is a revert.
    pub(super) fn trial_load_failed(&mut self, reason: Reason) {
        let rotten_kept = self.state.slots.trial.clone().filter(|trial| trial.kept && reason.code == Code::DigestMismatch);
        let Some(trial) = rotten_kept else { return self.revert(reason) };
        let blobs = self.release_in(trial.slot).map(|r| [r.manifest.digest, r.model.digest]);
        self.state.slots.trial = None;
        self.state.slots.put(trial.slot, None);
        for digest in blobs.into_iter().flatten() {
            if !self.state.slots.blobs().any(|kept| kept == digest) {
                self.forget_blob(digest);
            }
        }
        self.fault(reason);
        if self.state.slots.active.is_none_or(|slot| !self.stays_with(slot)) {
            self.drop_runner();
            self.start_serving();
        }
        self.save(Saving::Note);
    }

    fn end_in_revert(&mut self, reason: Reason, manifest: Option<Digest>) {
        if let Some(manifest) = manifest {
            self.state.note_failed(manifest);
        }
        self.state.outcome = Some(Outcome::Reverted(reason.clone()));
        self.enter(Deployment::Reverted(reason));
        // First something good answers again; that it is written down can wait for the disk.
        let back = self.state.slots.active;
        if back.is_none_or(|slot| !self.stays_with(slot)) {
            self.drop_runner();
            self.start_serving();
        }
        self.collect_garbage();
        self.save(Saving::Note);
        self.happened(manifest);
    }

    /// What answers outside a trial failed: the last known good one takes over.
    pub(super) fn fall_back(&mut self, reason: Reason, forget: bool) {
        let manifest = self.state.slots.active.and_then(|slot| self.release_in(slot)).map(|release| release.manifest.digest);
        let next = self.state.slots.fall_back(&reason, forget, self.factory.as_ref());
        let to = match next.and_then(|slot| self.release_in(slot)) {
            Some(release) => format!("{} {} takes over", release.line, release.version),
            None => "there is no other, so no model answers".to_owned(),
        };
        self.log(Level::Error, format!("the active release failed: {reason}; {to}"));
        self.crashes.clear();
        self.drop_runner();
        self.start_serving();
        match self.deployment {
            Deployment::Idle | Deployment::Committed | Deployment::Reverted(_) => {
                self.state.outcome = Some(Outcome::Reverted(reason.clone()));
                self.enter(Deployment::Reverted(reason));
            }
            Deployment::Shadowing { .. } => self.fault(reason),
            _ => {}
        }
        self.save(Saving::Note);
        self.happened(manifest);
    }

    /// Stop what an offline signature has taken back since.
    pub(super) fn enforce_policy(&mut self) {
        for _ in 0..MAX_FALLBACKS {
            let revoked = |agent: &Self, slot: Slot| {
                let release = agent.release_in(slot)?;
                agent.policy_refuses(release).filter(|reason| reason.code == Code::Revoked)
            };
            if let Some(trial) = self.state.slots.trial.clone()
                && let Some(reason) = revoked(self, trial.slot)
            {
                self.revert(reason);
            } else if let Some(reason) = self.state.slots.active.and_then(|slot| revoked(self, slot)) {
                if let Some(trial) = self.state.slots.trial.take() {
                    self.state.slots.fall_back(&reason, true, self.factory.as_ref());
                    self.state.slots.trial = Some(trial);
                    self.save(Saving::Note);
                } else {
                    self.fall_back(reason, true);
                }
            } else {
                break;
            }
        }
        for slot in [Slot::A, Slot::B] {
            let in_use = self.state.slots.serving() == Some(slot) || self.state.slots.active == Some(slot);
            let release = self.state.slots.kept(slot).map(|kept| &kept.release);
            if !in_use && release.and_then(|r| self.policy_refuses(r)).is_some_and(|reason| reason.code == Code::Revoked) {
                self.state.slots.put(slot, None);
                self.save(Saving::Note);
            }
        }
        let candidate = match &self.deployment {
            Deployment::SelfTesting { candidate, .. } | Deployment::Shadowing { candidate, .. } => Some(candidate.release()),
            _ => None,
        };
        if let Some(reason) = candidate.and_then(|release| self.policy_refuses(release)) {
            let manifest = self.deployment_manifest();
            self.refuse(reason, manifest);
        }
    }

    /// When the deployment moves on by time alone.
    pub(super) fn deployment_due(&self) -> Option<u64> {
        match &self.deployment {
            Deployment::Waiting { until, .. } => Some(*until),
            Deployment::Refused { again, .. } => *again,
            Deployment::SelfTesting { deadline, .. } => Some(*deadline),
            Deployment::Shadowing { since, .. } => {
                let max_ms = self.followed.as_ref().map(|f| f.assignment.shadow).unwrap_or_default().max_ms;
                since.map(|since| since.saturating_add(max_ms))
            }
            // Once its time is up it waits for inferences, and each of those comes with a notice.
            Deployment::Probation(gate) => gate.time_is_up().filter(|at| *at > self.clock.steady()),
            _ => None,
        }
    }
}

/// The command that loads a release from a slot.
pub(super) fn load(slot: Slot, role: Role, release: &crate::slot::Release) -> RunnerCommand {
    let (model, manifest) = crate::slot::paths(slot, release);
    RunnerCommand::Load {
        slot,
        role,
        model_path: model.to_string(),
        manifest_path: manifest.to_string(),
        manifest: release.manifest.digest,
    }
}
