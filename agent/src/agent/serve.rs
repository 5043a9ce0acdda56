//! The runner that answers the application: started, watched, restarted, given up on.
//!
//! The supervisor never asks whether the runner is well; it is told at least every second, and silence is an answer. What stays
//! true: a runner is only believed under the number of its present start; a crash on trial costs the release on trial, never
//! the one before it; outside a trial a few crashes are borne and a burst of them is not.
use std::collections::VecDeque;

use leeway_protocol::digest::Digest;
use leeway_protocol::reason::{Code, Reason};
use leeway_protocol::report::Errors;
use leeway_protocol::time::Timestamp;

use super::Agent;
use super::persist::Saving;
use super::trial::load;
use crate::action::{Action, Level, RunId, RunnerPurpose};
use crate::confinement::Confinement;
use crate::control::{PROTOCOL, Proof, Role, RunnerCommand, RunnerNotice, Slot};
use crate::deployment::Deployment;
use crate::slot::Release;

/// After a runner is first suspected to hang it gets this long to prove otherwise: the clock may have been set forward.
const GRACE_MS: u64 = 3_000;
/// The delay before a restart doubles this often at most.
const MAX_RESTART_DOUBLINGS: u32 = 4;

/// The runner that answers, or is about to.
#[derive(Debug)]
pub(super) struct Serving {
    run: RunId,
    /// It said that it is: its sockets are bound, and from now on what happens to it speaks about the release.
    ready: bool,
    /// How far it is confined, from its own first words.
    confinement: Option<Confinement>,
    /// What answers; none until the first load is done.
    up: Option<Up>,
    loading: Option<Loading>,
    /// The release beside it that is ready to take over, and what its loading proved.
    shadow: Option<(Slot, Proof)>,
    /// Last sign of life, on the steady clock.
    life: u64,
    suspected: Option<u64>,
}

/// What answers.
#[derive(Debug, Clone)]
pub(super) struct Up {
    pub(super) slot: Slot,
    pub(super) since: Timestamp,
    pub(super) golden: Digest,
    pub(super) inferences: u64,
    pub(super) errors: Errors,
}

#[derive(Debug)]
struct Loading {
    slot: Slot,
    role: Role,
    deadline: u64,
}

impl Serving {
    pub(super) fn is_up(&self) -> bool {
        self.up.is_some()
    }
}

/// Recent crashes outside a trial, on the steady clock; as many as the limit at most.
#[derive(Debug, Default)]
pub(super) struct Crashes(VecDeque<u64>);

impl Crashes {
    pub(super) fn clear(&mut self) {
        self.0.clear();
    }

    /// One more; how many there were in the window.
    fn count(&mut self, now: u64, window_ms: u64) -> u32 {
        self.0.push_back(now);
        while self.0.front().is_some_and(|at| now.saturating_sub(*at) > window_ms) {
            self.0.pop_front();
        }
        u32::try_from(self.0.len()).unwrap_or(u32::MAX)
    }
}

impl Agent {
    /// Start a runner with what must answer now; nothing if there is nothing, or if it has one.
    pub(super) fn start_serving(&mut self) {
        self.restart_at = None;
        if self.serving.is_some() || self.stopping {
            return;
        }
        let Some(slot) = self.state.slots.serving() else { return };
        let Some(release) = self.release_in(slot).cloned() else { return };
        let run = self.next_run();
        let now = self.clock.steady();
        self.out.push(Action::StartRunner { run, purpose: RunnerPurpose::Serving });
        self.last.starts_runner();
        self.serving =
            Some(Serving { run, ready: false, confinement: None, up: None, loading: None, shadow: None, life: now, suspected: None });
        self.set_policy();
        self.load_beside(slot, Role::Active, &release);
    }

    /// Load a release into the runner that is there.
    pub(super) fn load_beside(&mut self, slot: Slot, role: Role, release: &Release) {
        let deadline = self.clock.steady().saturating_add(self.settings.timing.load_ms);
        if let Some(serving) = &mut self.serving {
            serving.loading = Some(Loading { slot, role, deadline });
        }
        self.tell_runner(load(slot, role, release));
    }

    pub(super) fn tell_runner(&mut self, command: RunnerCommand) {
        if let Some(Serving { run, .. }) = self.serving {
            self.out.push(Action::Runner { run, command });
        }
    }

    /// End the runner, whatever it does.
    pub(super) fn drop_runner(&mut self) {
        self.restart_at = None;
        if let Some(Serving { run, .. }) = self.serving.take() {
            self.kill(run);
        }
    }

    /// Whether something answers the application.
    pub(super) fn runner_answers(&self) -> bool {
        self.serving.as_ref().is_some_and(Serving::is_up)
    }

    /// Whether the application is answered, or there is no model that could answer it.
    pub(crate) fn is_settled(&self) -> bool {
        self.runner_answers() || self.state.slots.serving().is_none()
    }

    /// Whether the release in `slot` does.
    pub(super) fn answers_from(&self, slot: Slot) -> bool {
        self.up().is_some_and(|up| up.slot == slot)
    }

    /// Whether the release in `slot` answers, and nothing was asked for that would take its place.
    pub(super) fn stays_with(&self, slot: Slot) -> bool {
        let replaced = |loading: &Loading| loading.role == Role::Active && loading.slot != slot;
        self.answers_from(slot) && !self.serving.as_ref().and_then(|s| s.loading.as_ref()).is_some_and(replaced)
    }

    /// How far the runner that is there is confined.
    pub(super) fn confinement(&self) -> Option<&Confinement> {
        self.serving.as_ref()?.confinement.as_ref()
    }

    pub(super) fn up(&self) -> Option<&Up> {
        self.serving.as_ref()?.up.as_ref()
    }

    pub(super) fn shadow_is_ready(&self, slot: Slot) -> bool {
        self.serving.as_ref().and_then(|s| s.shadow.as_ref()).is_some_and(|(ready, _)| *ready == slot)
    }

    pub(super) fn activate_shadow(&mut self, slot: Slot) {
        let deadline = self.clock.steady().saturating_add(self.settings.timing.load_ms);
        if let Some(serving) = &mut self.serving {
            serving.loading = Some(Loading { slot, role: Role::Active, deadline });
        }
        self.tell_runner(RunnerCommand::Activate { slot });
    }

    /// Whatever is beside the active release goes.
    pub(super) fn forget_shadow(&mut self) {
        let Some(serving) = &mut self.serving else { return };
        if serving.up.is_none() {
            return;
        }
        let beside = serving.shadow.take().map(|(slot, _)| slot).or(serving.loading.take().map(|loading| loading.slot));
        serving.loading = None;
        if let Some(slot) = beside {
            self.tell_runner(RunnerCommand::Drop { slot });
        }
    }

    /// A runner said something, or ended.
    pub(super) fn noticed(&mut self, run: RunId, notice: RunnerNotice) {
        if matches!(&self.deployment, Deployment::SelfTesting { run: testing, .. } if *testing == run) {
            return self.candidate_noticed(notice);
        }
        if self.serving.as_ref().is_none_or(|serving| serving.run != run) {
            // Windows of a runner that was just ended still count: they are facts about inferences that were answered.
            return match notice {
                RunnerNotice::Window(report) => self.window_closed(*report),
                RunnerNotice::Captured(batch) => self.captured(batch),
                _ => {}
            };
        }
        match notice {
            RunnerNotice::Ready { protocol, confinement, .. } => self.runner_is_ready(protocol, confinement),
            RunnerNotice::Loaded { slot, role, proof } => self.loaded(slot, role, proof),
            RunnerNotice::LoadFailed { slot, reason, .. } => self.load_failed(slot, reason),
            RunnerNotice::Activated { slot } => {
                let proof = self.serving.as_mut().and_then(|s| s.shadow.take()).filter(|(ready, _)| *ready == slot);
                if let Some((_, proof)) = proof {
                    self.answers(slot, &proof);
                }
            }
            RunnerNotice::Window(report) => self.window_closed(*report),
            RunnerNotice::Captured(batch) => self.captured(batch),
            RunnerNotice::Shadow { slot, summary } => {
                if self.shadow_is_ready(slot) {
                    self.shadow_compared(summary);
                }
            }
            RunnerNotice::Progress { slot, inferences, errors } => self.progress(slot, inferences, errors),
            RunnerNotice::Exited { code, signal } => {
                let how = describe_exit(code, signal);
                // Ended by a signal it may have been the release after all, before its first word was out.
                let began = signal.is_some() || self.serving.as_ref().is_some_and(|serving| serving.ready);
                if began { self.runner_lost(Code::Crashed, how) } else { self.runner_did_not_begin(&how) }
            }
        }
    }

    fn candidate_noticed(&mut self, notice: RunnerNotice) {
        match notice {
            RunnerNotice::Ready { protocol, .. } if protocol != PROTOCOL => self.self_test_failed(other_release(protocol)),
            RunnerNotice::Loaded { role: Role::Candidate, proof, .. } => self.self_tested(&proof),
            RunnerNotice::LoadFailed { role: Role::Candidate, reason, .. } => self.self_test_failed(reason),
            RunnerNotice::Exited { code, signal } => {
                let how = describe_exit(code, signal);
                self.self_test_failed(Reason::new(Code::LoadFailed, format_args!("during the self-test the runner ended: {how}")));
            }
            _ => {}
        }
    }

    fn runner_is_ready(&mut self, protocol: u32, confinement: Confinement) {
        self.false_starts = 0;
        if let Some(serving) = &mut self.serving {
            serving.ready = true;
            serving.confinement = Some(confinement);
        }
        if protocol != PROTOCOL {
            let Reason { code, detail } = other_release(protocol);
            self.runner_lost(code, detail);
        }
    }

    fn loaded(&mut self, slot: Slot, role: Role, proof: Proof) {
        let now = self.clock.steady();
        let Some(serving) = self.serving.as_mut() else { return };
        if serving.loading.as_ref().is_none_or(|loading| loading.slot != slot || loading.role != role) {
            return;
        }
        (serving.life, serving.suspected) = (now, None);
        let beside = match &self.deployment {
            Deployment::Shadowing { candidate, .. } if role == Role::Shadow => Some(candidate.release()),
            _ => self.state.slots.release(slot, self.factory.as_ref()),
        };
        let expected = beside.map(|release| (release.manifest.digest, release.model.digest));
        if expected != Some((proof.manifest, proof.model)) {
            if role == Role::Active {
                // It answers with it already, so nothing good answers any more, and this runner must go.
                serving.up = None;
            }
            return self.load_failed(slot, Reason::new(Code::DigestMismatch, "what the runner loaded is not what was verified"));
        }
        match role {
            Role::Active => self.answers(slot, &proof),
            Role::Shadow => {
                if let Some(serving) = &mut self.serving {
                    serving.loading = None;
                    serving.shadow = Some((slot, proof));
                }
                self.shadow_loaded();
            }
            Role::Candidate => {}
        }
    }

    /// The release in `slot` answers the application from now on.
    fn answers(&mut self, slot: Slot, proof: &Proof) {
        let (life, since) = (self.clock.steady(), self.clock.trusted());
        let Some(serving) = &mut self.serving else { return };
        let up = Up { slot, since, golden: proof.golden, inferences: 0, errors: Errors::default() };
        let earlier = serving.up.replace(up);
        (serving.loading, serving.life, serving.suspected) = (None, life, None);
        if let Some(earlier) = earlier.filter(|earlier| earlier.slot != slot) {
            self.tell_runner(RunnerCommand::Drop { slot: earlier.slot });
        }
        if let Some(release) = self.release_in(slot) {
            let sentence = format!("{} {} answers; its golden vectors matched", release.line, release.version);
            self.log(Level::Info, sentence);
        }
        if self.state.slots.trial.as_ref().is_some_and(|trial| trial.slot == slot) {
            self.trial_answers();
        }
        self.link.report_due = true;
    }

    fn load_failed(&mut self, slot: Slot, reason: Reason) {
        let Some(serving) = self.serving.as_mut() else { return };
        let Some(loading) = serving.loading.take().filter(|loading| loading.slot == slot) else { return };
        if loading.role == Role::Shadow {
            let manifest = self.deployment_manifest();
            return self.refuse(reason, manifest);
        }
        if self.state.slots.trial.as_ref().is_some_and(|trial| trial.slot == slot) {
            return self.trial_load_failed(reason);
        }
        if self.state.slots.active == Some(slot) {
            let rotten = matches!(reason.code, Code::DigestMismatch | Code::LengthMismatch);
            self.fall_back(reason, rotten);
        }
    }

    fn progress(&mut self, slot: Slot, inferences: u64, errors: Errors) {
        let now = self.clock.steady();
        let Some(serving) = &mut self.serving else { return };
        (serving.life, serving.suspected) = (now, None);
        let Some(up) = serving.up.as_mut().filter(|up| up.slot == slot) else { return };
        (up.inferences, up.errors) = (inferences, errors);
        if self.state.slots.trial.as_ref().is_some_and(|trial| trial.slot == slot)
            && let Deployment::Probation(gate) = &mut self.deployment
        {
            gate.progress(inferences, errors);
        }
    }

    /// The runner ended before it had loaded anything: its port is taken, its program is missing. That is the machine's trouble, so
    /// no release is blamed and none pays for it; it is tried again for as long as it takes.
    fn runner_did_not_begin(&mut self, how: &str) {
        self.drop_runner();
        if self.stopping {
            return;
        }
        self.link.report_due = true;
        let doublings = self.false_starts.min(MAX_RESTART_DOUBLINGS);
        self.false_starts = self.false_starts.saturating_add(1);
        let delay = self.settings.timing.restart_ms.saturating_mul(1 << doublings);
        self.restart_at = Some(self.clock.steady().saturating_add(delay));
        self.log(
            Level::Error,
            format!("the runner ended before it was ready: {how}; see its own words above. It is tried again in {delay} ms"),
        );
    }

    /// The runner ended, or was ended for its silence.
    fn runner_lost(&mut self, code: Code, how: String) {
        self.drop_runner();
        if self.stopping {
            return;
        }
        self.link.report_due = true;
        if let Some(trial) = &mut self.state.slots.trial {
            if trial.boots_left == 0 {
                return self.revert(Reason::new(code, format_args!("{how}; that was the last of its starts on trial")));
            }
            trial.boots_left -= 1;
            let left = trial.boots_left;
            self.log(Level::Warn, format!("the runner ended on trial: {how}; {left} starts are left after this one"));
            self.save(Saving::Boots);
            return self.start_serving();
        }
        if let Deployment::Shadowing { .. } = self.deployment {
            self.fault(Reason::new(code.clone(), format_args!("beside the active model: {how}")));
        }
        let timing = self.settings.timing;
        let crashes = self.crashes.count(self.clock.steady(), timing.crash_window_ms);
        if crashes >= timing.crash_limit {
            let detail = format_args!("{crashes} times within {} s, last: {how}", timing.crash_window_ms / 1000);
            return self.fall_back(Reason::new(code, detail), false);
        }
        let doublings = crashes.saturating_sub(1).min(MAX_RESTART_DOUBLINGS);
        let delay = timing.restart_ms.saturating_mul(1 << doublings);
        self.restart_at = Some(self.clock.steady().saturating_add(delay));
        self.log(Level::Warn, format!("the runner ended: {how}; it is started again in {delay} ms"));
    }

    /// Silence, late loading, due restarts.
    pub(super) fn watch_runner(&mut self) {
        let now = self.clock.steady();
        if self.restart_at.is_some_and(|at| at <= now) {
            self.start_serving();
        }
        let hang_ms = self.settings.timing.hang_ms;
        let Some(serving) = &mut self.serving else { return };
        if serving.loading.as_ref().is_some_and(|loading| loading.deadline <= now) {
            return self.runner_lost(Code::Hung, "loading took too long".to_owned());
        }
        if !serving.is_up() || now.saturating_sub(serving.life) < hang_ms {
            return;
        }
        let suspected = *serving.suspected.get_or_insert(now);
        if now.saturating_sub(suspected) >= GRACE_MS {
            self.runner_lost(Code::Hung, format!("no sign of life for more than {hang_ms} ms"));
        }
    }

    pub(super) fn runner_due(&self) -> Option<u64> {
        let serving = self.serving.as_ref()?;
        let loading = serving.loading.as_ref().map(|loading| loading.deadline);
        let silence = match serving.suspected {
            Some(at) => at.saturating_add(GRACE_MS),
            None => serving.life.saturating_add(self.settings.timing.hang_ms),
        };
        let silence = serving.is_up().then_some(silence);
        loading.into_iter().chain(silence).min()
    }

    /// End in order: the runner closes its windows and goes.
    pub(super) fn stop(&mut self) {
        self.stopping = true;
        self.leave_candidate();
        self.out.push(Action::CancelFetch);
        self.tell_runner(RunnerCommand::Stop);
        self.say_offline();
    }
}

fn other_release(protocol: u32) -> Reason {
    let detail = format_args!("the runner speaks form {protocol}, this agent {PROTOCOL}: install both from one release");
    Reason::new(Code::LoadFailed, detail)
}

fn describe_exit(code: Option<i32>, signal: Option<i32>) -> String {
    match (code, signal) {
        (_, Some(signal)) => format!("by signal {signal}{}", describe_signal(signal)),
        (Some(code), None) => format!("with status {code}"),
        (None, None) => "it could not be started, or broke off the conversation".to_owned(),
    }
}

/// What a signal means when it ends a confined runner; numbers as on every processor that Leeway is built for.
fn describe_signal(signal: i32) -> &'static str {
    match signal {
        6 => ", as when more memory is wanted than was signed",
        24 => ", as when its processor time is used up",
        31 => ": it asked the kernel for what no model needs, so treat the model as hostile",
        _ => "",
    }
}
