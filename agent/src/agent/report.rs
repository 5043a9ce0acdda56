//! The reported state and the events, made from what the agent is.
use leeway_protocol::digest::Digest;
use leeway_protocol::ids::Generation;
use leeway_protocol::reason::Code;
use leeway_protocol::reported::{Condition, DeviceEvent, Phase, Reported, Running, TrustedVersions};

use super::Agent;
use super::state::{Outcome, State};
use crate::action::{DiskPath, OutboxKind};
use crate::confinement::CONFINED;
use crate::control::Slot;
use crate::deployment::Deployment;
use crate::event::Stored;

/// What an event was about.
pub(super) type Told = (Generation, Phase, Option<Code>, Option<Digest>);

impl Agent {
    /// Something happened that the audit trail must have: what answers changed, or an assignment ended. The same thing twice in
    /// a row is told once.
    pub(super) fn happened(&mut self, manifest: Option<Digest>) {
        self.link.report_due = true;
        let (phase, reason) = (self.deployment.phase(), self.deployment.reason().cloned());
        let told: Told = (self.state.generation, phase, reason.as_ref().map(|r| r.code.clone()), manifest);
        if self.link.told.as_ref() == Some(&told) {
            return;
        }
        self.link.told = Some(told);
        let event = DeviceEvent { v: 1, at: self.clock.trusted(), generation: self.state.generation, phase, manifest, reason };
        self.post(OutboxKind::Event, serde_json::to_vec(&event).unwrap_or_default());
    }

    /// The whole reported state.
    pub(super) fn reported(&self) -> Reported {
        let versions = self.trust.versions();
        let good = self.state.slots.last_known_good(self.factory.as_ref());
        Reported {
            v: 1,
            generation: self.state.generation,
            rollout: self.followed.as_ref().and_then(|f| f.assignment.rollout.clone()),
            phase: self.deployment.phase(),
            reason: self.deployment.reason().cloned(),
            active: self.running(),
            last_known_good: good.and_then(|slot| self.release_in(slot)).map(|release| release.manifest.digest),
            shadow: self.link.shadow,
            conditions: self.conditions(),
            trusted: TrustedVersions {
                root: versions.root,
                timestamp: versions.timestamp,
                snapshot: versions.snapshot,
                targets: versions.targets,
            },
            agent: self.settings.agent.clone(),
            boot: self.state.boot,
            outbox: self.waiting_messages(),
            dropped: self.state.dropped,
            at: self.clock.trusted(),
        }
    }

    /// What answers; only what has matched its golden vectors in the present start of the runner.
    fn running(&self) -> Option<Running> {
        let up = self.up()?;
        let release = self.release_in(up.slot)?;
        Some(Running {
            line: release.line.clone(),
            version: release.version.clone(),
            manifest: release.manifest.digest,
            model: release.model.digest,
            since: up.since,
            inferences: up.inferences,
            golden: Some(up.golden),
        })
    }

    fn conditions(&self) -> Vec<Condition> {
        let condition = |kind: &str, problem: Option<String>, fine: &str| Condition {
            kind: kind.to_owned(),
            holds: problem.is_none(),
            message: problem.unwrap_or_else(|| fine.to_owned()),
        };
        let unverified = match (self.up(), self.state.slots.serving()) {
            (Some(_), _) => None,
            (None, Some(_)) => Some("a model is loaded and tested; it does not answer yet".to_owned()),
            (None, None) => Some("the device has no model to run".to_owned()),
        };
        let sick = self.up().filter(|up| up.errors.against_model() > 0).map(|up| {
            format!(
                "{} of {} inferences failed since the model was loaded",
                up.errors.against_model(),
                up.inferences + up.errors.against_model()
            )
        });
        let stale =
            self.trust.trouble.as_ref().map(ToString::to_string).filter(|_| self.metadata_problem().is_some()).or(self.metadata_problem());
        let lost = (self.state.dropped > 0).then(|| format!("{} messages were given up since enrolment", self.state.dropped));
        let confined = self.confinement().map(|c| condition("ModelConfined", c.problem(), CONFINED));
        let mut conditions = vec![
            condition("ModelVerified", unverified, "the model that answers matched its golden vectors on this device"),
            condition("InferenceHealthy", sick, "no inference failed since the model was loaded"),
            condition("MetadataFresh", stale, "the signed metadata is fresh"),
            condition("ClockSane", self.clock.problem().map(str::to_owned), "the clock agrees with what was signed"),
            condition("TelemetryFlowing", lost, "no message was given up"),
        ];
        // Known only of a runner that is there, and of a device with a certificate.
        conditions.extend(confined);
        if let Some((holds, message)) = self.certificate_condition() {
            conditions.push(Condition { kind: "CertificateGood".to_owned(), holds, message });
        }
        conditions
    }

    /// What the data directory says about a device whose agent may not run now, for people.
    pub fn describe(stored: &Stored) -> Vec<String> {
        let (state, damaged) = State::restore(stored.bytes(&DiskPath::state()), stored.bytes(&DiskPath::counters()));
        let name = |slot: Slot| match state.slots.kept(slot) {
            Some(kept) => format!("{} {} (manifest {})", kept.release.line, kept.release.version, kept.release.manifest.digest.short()),
            None => "the factory's release".to_owned(),
        };
        let phase = match (&state.slots.trial, &state.outcome) {
            (Some(trial), _) => format!("{} {}; {} starts are left", Phase::Probation.sentence(), name(trial.slot), trial.boots_left),
            (None, Some(Outcome::Committed)) => Phase::Committed.sentence().to_owned(),
            (None, Some(Outcome::Reverted(reason))) => format!("{}: {reason}", Phase::Reverted.sentence()),
            (None, Some(Outcome::Refused(reason))) => format!("{}: {reason}", Phase::Refused.sentence()),
            (None, None) => "there is nothing to do, or it is on the way".to_owned(),
        };
        let waiting = stored.files.keys().filter(|path| path.as_outbox().is_some()).count();
        let mut lines = vec![
            format!("assignment   {}: {phase}", state.generation),
            format!("answers with {}", state.slots.serving().map_or("no model".to_owned(), name)),
            format!("falls back to {}", state.slots.last_known_good(None).map_or("nothing, or the factory's release".to_owned(), name)),
            format!("starts       {}", state.boot.0),
            format!("outbox       {waiting} messages wait, {} were given up since enrolment", state.dropped),
        ];
        lines.extend(state.floor.iter().map(|(line, floor)| format!("floor        {line}: seq {floor}")));
        if damaged {
            lines.push("warning      a copy of the state is damaged; the other one is used".to_owned());
        }
        lines
    }

    /// Where the device is with its assignment, for those who drive the agent themselves.
    pub fn phase(&self) -> Phase {
        self.deployment.phase()
    }

    /// The reported state as it would be sent now.
    pub fn state(&self) -> Reported {
        self.reported()
    }

    /// The way of the present assignment onto the device.
    pub fn deployment(&self) -> &Deployment {
        &self.deployment
    }
}
