//! Assignments: judged, written down, followed; the newer one ends the older one.
//!
//! The document itself is kept beside the state, verbatim, and judged again at every start: what the device does after a power
//! cut follows from the same signature. What stays true: a generation lower than one that was followed is ignored, the same
//! one changes nothing, and a higher one is on disk before the first thing it asks for happens.
use leeway_protocol::assignment::{Assignment, Intent};
use leeway_protocol::reason::{Code, Reason};
use leeway_protocol::time::Timestamp;
use leeway_protocol::trust::director::{self, DirectedTarget, Directive, DirectorError, MAX_DIRECTIVE_BYTES};

use super::persist::Saving;
use super::state::Outcome;
use super::{Agent, Followed};
use crate::action::{Action, DiskPath, Level};
use crate::control::{RunnerCommand, Slot};
use crate::deployment::{Deployment, Fetch};
use crate::slot::Release;

impl Agent {
    /// A document arrived on the desired topic.
    pub(super) fn desired(&mut self, bytes: Vec<u8>) {
        self.pending = None;
        self.trust.late = None;
        if self.director_lags() {
            self.log(Level::Warn, "an assignment was held back: the director's newest root was lost and is fetched again".to_owned());
            self.trust.unexplained = Some(bytes);
            return self.refresh(None);
        }
        match self.judge(&bytes, self.clock.trusted()) {
            Ok(Some(followed)) => self.consider(followed, bytes),
            Ok(None) => {}
            Err(error) => self.not_followed(&error, bytes),
        }
    }

    /// A document that no known director root explained, after the roots were refreshed.
    pub(super) fn desired_again(&mut self, bytes: Vec<u8>) {
        if self.director_lags() {
            return self.log(Level::Warn, "an assignment was ignored: the director's newest root was lost and is not offered".to_owned());
        }
        match self.judge(&bytes, self.clock.trusted()) {
            Ok(Some(followed)) => self.consider(followed, bytes),
            Ok(None) => {}
            Err(error) => {
                let reason = Reason::new(error.code(), error);
                self.log(Level::Warn, format!("an assignment was ignored: {reason}"));
            }
        }
    }

    /// A document that was accepted or held back earlier, now that the disk works again.
    pub(super) fn retry_pending(&mut self) {
        if self.disk_is_ready()
            && let Some(bytes) = self.pending.take()
        {
            self.desired_again(bytes);
        }
        if self.trust.late.as_ref().is_some_and(|(at, _)| self.clock.trusted() < *at)
            && let Some((_, bytes)) = self.trust.late.take()
        {
            self.desired(bytes);
        }
    }

    fn not_followed(&mut self, error: &DirectorError, bytes: Vec<u8>) {
        let reason = Reason::new(error.code(), error);
        match error {
            // What comes back with every connection is no news.
            DirectorError::Older { .. } => self.log(Level::Debug, format!("an assignment was ignored: {reason}")),
            // Perhaps the director's keys were changed while the device was away: its root is looked for once per document.
            DirectorError::Unsigned(_) if bytes.len() as u64 <= MAX_DIRECTIVE_BYTES => {
                self.log(Level::Warn, format!("an assignment was held back until the director's root is refreshed: {reason}"));
                if self.trust.image.is_some() && self.trust.unexplained.as_ref() != Some(&bytes) {
                    self.trust.unexplained = Some(bytes);
                    self.refresh(None);
                }
            }
            // Perhaps it is the clock that is wrong: once that is set back, the document is as good as ever.
            DirectorError::Expired { now, .. } | DirectorError::RootExpired { now, .. } => {
                self.trust.late = Some((*now, bytes));
                self.log(Level::Warn, format!("an assignment was ignored: {reason}"));
            }
            _ => self.log(Level::Warn, format!("an assignment was ignored: {reason}")),
        }
    }

    /// Signature, device, generation, expiry; then whether the assignment is what its envelope says.
    fn judge(&mut self, bytes: &[u8], now: Timestamp) -> Result<Option<Followed>, DirectorError> {
        let Some(chain) = &self.trust.director else {
            self.log(Level::Warn, "an assignment came, but the device has no director's root: enrol it".to_owned());
            return Ok(None);
        };
        let directive = director::verify(bytes, chain.root(), &self.settings.device, now, self.state.generation)?;
        match agree(&directive) {
            Ok(assignment) => Ok(Some(Followed { directive, assignment })),
            Err(what) => Err(DirectorError::Inconsistent(what)),
        }
    }

    fn consider(&mut self, followed: Followed, bytes: Vec<u8>) {
        let generation = followed.directive.generation;
        if generation > self.state.generation {
            return self.accept(followed, bytes);
        }
        let Some(present) = &self.followed else {
            // The document was lost from the disk; what it asks for is as before.
            self.replace(DiskPath::desired(), bytes);
            self.followed = Some(followed);
            self.set_policy();
            return self.resume();
        };
        let same = present.directive.assignment_text() == followed.directive.assignment_text()
            && present.directive.target == followed.directive.target;
        if !same {
            let reason =
                Reason::new(Code::AssignmentStale, format_args!("another assignment of generation {generation} is being followed"));
            return self.log(Level::Warn, format!("an assignment was ignored: {reason}"));
        }
        let later = followed.directive.expires > present.directive.expires;
        self.link.report_due = true;
        if let Some(Outcome::Reverted(_) | Outcome::Refused(_)) = self.state.outcome {
            let reason = Reason::new(Code::AlreadyFailed, format_args!("generation {generation}"));
            self.log(Level::Info, format!("the assignment came again: {reason}"));
        }
        if later {
            self.followed = Some(followed);
            self.replace(DiskPath::desired(), bytes);
        }
    }

    fn accept(&mut self, followed: Followed, bytes: Vec<u8>) {
        if !self.disk_is_ready() || !self.boot_ready {
            self.pending = Some(bytes);
            return;
        }
        self.supersede(&followed);
        let before = (self.state.clone(), self.followed.clone(), bytes.clone());
        let Directive { generation, .. } = followed.directive;
        let Assignment { intent, reason, issued_at, .. } = &followed.assignment;
        let what = match (intent, &followed.assignment.release) {
            (Intent::Install, Some(release)) => format!("install {} {}", release.line, release.version),
            (Intent::Rollback, Some(release)) => format!("go back to {} {}", release.line, release.version),
            _ => "stay with what runs".to_owned(),
        };
        self.log(Level::Info, format!("assignment {generation}: {what}; {reason}"));
        let moment = self.believable(*issued_at);
        self.clock.accept(moment);
        self.state.trusted_at = self.state.trusted_at.max(Some(moment));
        self.state.generation = generation;
        self.state.outcome = None;
        self.followed = Some(followed);
        self.faults.clear();
        self.clockless_since = None;
        self.link.shadow = None;
        self.replace(DiskPath::desired(), bytes);
        self.save(Saving::Accept(Box::new(before)));
        self.collect_garbage();
        self.set_policy();
        self.link.report_due = true;
        self.begin();
    }

    /// A signed moment, but none past the end of the director's root: an online key cannot set the clock to where nothing that
    /// people signed holds any more.
    fn believable(&self, issued_at: Timestamp) -> Timestamp {
        let end = self.trust.director.as_ref().map(|chain| chain.root().header.expires.moment());
        end.map_or(issued_at, |end| issued_at.min(end))
    }

    /// A newer assignment ends what the older one began. A trial goes on if the newer one wants the same, or wants nothing.
    fn supersede(&mut self, newer: &Followed) {
        match &self.deployment {
            Deployment::Probation(_) => {
                let on_trial = self.state.slots.trial.as_ref().and_then(|trial| self.release_in(trial.slot));
                let same = newer.directive.target.as_ref().is_none_or(|target| on_trial.is_some_and(|r| is_target(r, target)));
                if !same {
                    self.revert(Reason::new(Code::Superseded, format_args!("by assignment {}", newer.directive.generation)));
                    self.enter(Deployment::Idle);
                }
                return;
            }
            Deployment::Fetching(Fetch::Manifest { .. } | Fetch::Model { .. }) => self.out.push(Action::CancelFetch),
            Deployment::SelfTesting { run, .. } => {
                let run = *run;
                self.kill(run);
            }
            Deployment::Shadowing { .. } => self.forget_shadow(),
            _ => {}
        }
        self.enter(Deployment::Idle);
    }

    /// First steps of a new assignment.
    fn begin(&mut self) {
        let Some(Followed { directive, assignment }) = &self.followed else { return };
        let (intent, generation, spread) = (assignment.intent, directive.generation, assignment.spread_ms);
        let probation = assignment.probation;
        if let Deployment::Probation(gate) = &mut self.deployment {
            gate.set_limits(probation);
            return;
        }
        let Some(target) = directive.target.clone() else { return };
        if intent == Intent::Rollback && self.go_back(&target) {
            return;
        }
        let until = self.clock.steady().saturating_add(self.share("spread", generation.0, spread));
        self.enter(Deployment::Waiting { until, reason: None });
    }

    /// A rollback to a release that lies in a slot needs no download and no network: it was verified when it came, it passed
    /// its trial here, and it is tested on its golden vectors before it answers. True if that is under way.
    fn go_back(&mut self, target: &DirectedTarget) -> bool {
        let answering = self.state.slots.serving().and_then(|slot| self.release_in(slot));
        if answering.is_some_and(|release| is_target(release, target)) {
            self.state.outcome = Some(Outcome::Committed);
            self.shun();
            self.save(Saving::Note);
            self.enter(Deployment::Committed);
            self.happened(None);
            return true;
        }
        let kept = self.state.slots.find_kept(|release| is_target(release, target));
        let Some(slot) = kept.filter(|slot| self.release_in(*slot).is_some_and(|release| self.policy_refuses(release).is_none())) else {
            return false;
        };
        self.start_trial(slot, None);
        true
    }

    /// What the line's policy, as far as it is known, and the device's own floor say against a release.
    pub(super) fn policy_refuses(&self, release: &Release) -> Option<Reason> {
        let policy = self.trust.image.as_ref().and_then(|image| image.line_policy(&release.line));
        if policy.is_some_and(|p| p.is_revoked(&release.model.digest) || p.is_revoked(&release.manifest.digest)) {
            return Some(Reason::new(Code::Revoked, format_args!("{} {}", release.line, release.version)));
        }
        let floor = self.state.floor_of(&release.line).max(policy.map_or(0, |p| p.min_seq));
        let below = release.seq < floor;
        below.then(|| {
            Reason::new(
                Code::BelowFloor,
                format_args!("{} {} has seq {}, the floor is {floor}", release.line, release.version, release.seq),
            )
        })
    }

    /// Take up the assignment where the state on disk left it: after a start, or after a failed save.
    pub(super) fn resume(&mut self) {
        let probation = self.followed.as_ref().map(|f| f.assignment.probation).unwrap_or_default();
        let hold = self.followed.as_ref().is_none_or(|f| f.directive.target.is_none());
        // Not a move: this is where the device is, by what the disk says.
        self.deployment = match &self.state.outcome {
            _ if self.state.slots.trial.is_some() => Deployment::Probation(crate::probation::Gate::new(probation)),
            Some(Outcome::Committed) => Deployment::Committed,
            Some(Outcome::Reverted(reason)) => Deployment::Reverted(reason.clone()),
            Some(Outcome::Refused(reason)) => Deployment::Refused { reason: reason.clone(), again: None },
            None if hold => Deployment::Idle,
            None => Deployment::Idle,
        };
        if self.deployment == Deployment::Idle && !hold {
            self.begin();
        }
    }

    /// Tell the runner when windows close and what may be captured.
    pub(super) fn set_policy(&mut self) {
        let (windows, mut capture) = self.followed.as_ref().map(|f| (f.assignment.windows, f.assignment.capture)).unwrap_or_default();
        capture.salt = self.share("capture", 0, u64::MAX);
        self.tell_runner(RunnerCommand::SetPolicy { windows, capture });
    }

    /// The release in a slot.
    pub(super) fn release_in(&self, slot: Slot) -> Option<&Release> {
        self.state.slots.release(slot, self.factory.as_ref())
    }

    /// Read the document that was being followed before the start. It is not judged by its expiry: what it began goes on, only
    /// a download asks for that again.
    pub(super) fn load_followed(&mut self, bytes: &[u8]) {
        let generation = self.state.generation;
        match self.judge(bytes, Timestamp::default()) {
            Ok(Some(followed)) if followed.directive.generation == generation => self.followed = Some(followed),
            // The power went between the document and the state.
            Ok(Some(followed)) if followed.directive.generation > generation => self.pending = Some(bytes.to_vec()),
            Ok(_) => {}
            Err(error) => self.log(Level::Warn, format!("the assignment on disk is not used; the broker has it: {error}")),
        }
    }
}

fn is_target(release: &Release, target: &DirectedTarget) -> bool {
    release.path == target.path && release.model.digest == target.sha256 && release.model.length == target.length
}

/// The assignment in a directive, if it says the same as what is around it.
fn agree(directive: &Directive) -> Result<Assignment, &'static str> {
    let assignment: Assignment = directive.assignment().map_err(|_| "its assignment cannot be read")?;
    if assignment.v != 1 {
        return Err("its assignment has a newer form: update the agent");
    }
    if assignment.device != directive.device || assignment.generation != directive.generation {
        return Err("its assignment is for another device or generation than its envelope");
    }
    let path = assignment.release.as_ref().map(|release| release.path.as_str());
    if path != directive.target.as_ref().map(|target| target.path.as_str()) {
        return Err("its assignment names another release than its target");
    }
    if (assignment.intent == Intent::Hold) != path.is_none() {
        return Err("it names a release to hold, or none to install");
    }
    Ok(assignment)
}
