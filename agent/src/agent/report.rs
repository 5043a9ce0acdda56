//! The reported state and the events, made from what the agent is.
use leeway_protocol::digest::Digest;
use leeway_protocol::ids::Generation;
use leeway_protocol::reason::Code;
use leeway_protocol::reported::{Condition, DeviceEvent, Phase, Reported, Running, TrustedVersions};

use super::Agent;
use crate::action::OutboxKind;
use crate::deployment::Deployment;

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
        let versions = self.trust.image.as_ref().map(|image| image.versions()).unwrap_or_default();
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
        vec![
            condition("ModelVerified", unverified, "the model that answers matched its golden vectors on this device"),
            condition("InferenceHealthy", sick, "no inference failed since the model was loaded"),
            condition("MetadataFresh", stale, "the signed metadata is fresh"),
            condition("ClockSane", self.clock.problem().map(str::to_owned), "the clock agrees with what was signed"),
            condition("TelemetryFlowing", lost, "no message was given up"),
        ]
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
