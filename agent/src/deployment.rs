//! The way of one release onto the device: one enum, one table of legal moves, data in the variants.
//!
//! What stays true: an install begins only with an [`ApprovedTarget`], which only the cross-check of both repositories makes, and
//! [`Candidate`] exists only for a manifest that agrees with it in every point. A move that is not in the table is a typed
//! refusal and changes nothing.
use leeway_protocol::manifest::{Blob, Limits, Manifest};
use leeway_protocol::reason::{Code, Reason};
use leeway_protocol::reported::{Phase, ShadowSummary};
use leeway_protocol::trust::director::ApprovedTarget;

use crate::action::{FetchId, RunId};
use crate::control::Slot;
use crate::probation::Gate;
use crate::slot::Release;

/// Where the device is with its assignment.
#[derive(Debug, Clone, PartialEq, Default)]
pub enum Deployment {
    /// Nothing to do.
    #[default]
    Idle,
    /// For its place in the spread of downloads, or for another try.
    Waiting {
        /// Until when, on the steady clock.
        until: u64,
        /// Why it must try again, if it must.
        reason: Option<Reason>,
    },
    /// Metadata, manifest, model.
    Fetching(Fetch),
    /// All bytes on disk and verified.
    Staged(Box<Candidate>),
    /// Golden vectors in a runner that is thrown away.
    SelfTesting {
        /// What is tested.
        candidate: Box<Candidate>,
        /// In which runner.
        run: RunId,
        /// Until when, on the steady clock.
        deadline: u64,
    },
    /// Beside the active release.
    Shadowing {
        /// What runs beside.
        candidate: Box<Candidate>,
        /// In which slot.
        slot: Slot,
        /// Since when it is loaded, on the steady clock; none while it loads.
        since: Option<u64>,
        /// The comparison so far.
        summary: Option<ShadowSummary>,
    },
    /// Answers on trial.
    Probation(Gate),
    /// For good.
    Committed,
    /// Went back.
    Reverted(Reason),
    /// Would not.
    Refused {
        /// Why.
        reason: Reason,
        /// When it is tried again, on the steady clock; never if what was signed itself is at fault.
        again: Option<u64>,
    },
}

/// What is being fetched.
#[derive(Debug, Clone, PartialEq)]
pub enum Fetch {
    /// The image repository's metadata.
    Metadata,
    /// The manifest; `fetch` is none while it is read from the disk.
    Manifest {
        /// What was approved.
        approved: Box<ApprovedTarget>,
        /// The fetch on its way.
        fetch: Option<FetchId>,
    },
    /// The model.
    Model {
        /// What it belongs to.
        candidate: Box<Candidate>,
        /// The fetch on its way.
        fetch: FetchId,
    },
}

/// A move that is not in the table.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a deployment cannot go from {from:?} to {to:?}")]
pub struct IllegalMove {
    /// Where it is.
    pub from: Phase,
    /// Where it was to go.
    pub to: Phase,
}

impl Deployment {
    /// As it is reported.
    pub fn phase(&self) -> Phase {
        match self {
            Self::Idle => Phase::Idle,
            Self::Waiting { .. } => Phase::Waiting,
            Self::Fetching(_) => Phase::Fetching,
            Self::Staged(_) => Phase::Staged,
            Self::SelfTesting { .. } => Phase::SelfTesting,
            Self::Shadowing { .. } => Phase::Shadowing,
            Self::Probation(_) => Phase::Probation,
            Self::Committed => Phase::Committed,
            Self::Reverted(_) => Phase::Reverted,
            Self::Refused { .. } => Phase::Refused,
        }
    }

    /// Why, where there is a reason to report.
    pub fn reason(&self) -> Option<&Reason> {
        match self {
            Self::Waiting { reason, .. } => reason.as_ref(),
            Self::Reverted(reason) | Self::Refused { reason, .. } => Some(reason),
            _ => None,
        }
    }

    /// Go on to `next`, if the table allows it. The only way a deployment changes its phase.
    pub fn go(&mut self, next: Self) -> Result<(), IllegalMove> {
        let (from, to) = (self.phase(), next.phase());
        if !may(from, to) {
            return Err(IllegalMove { from, to });
        }
        *self = next;
        Ok(())
    }
}

/// The table of legal moves. To [`Phase::Idle`] leads a newer assignment, from everywhere but a trial, which must be reverted
/// first; to [`Phase::Reverted`] a failure of what answers; to [`Phase::Waiting`] a fault that may pass.
fn may(from: Phase, to: Phase) -> bool {
    use Phase::{Committed, Fetching, Idle, Probation, Refused, Reverted, SelfTesting, Shadowing, Staged, Waiting};
    match from {
        Idle => matches!(to, Idle | Waiting | Probation | Committed | Reverted | Refused),
        Waiting => matches!(to, Idle | Waiting | Fetching | Refused),
        Fetching => matches!(to, Idle | Waiting | Fetching | Staged | Committed | Refused),
        Staged => matches!(to, Idle | Waiting | SelfTesting),
        SelfTesting => matches!(to, Idle | Waiting | Shadowing | Probation | Refused),
        Shadowing => matches!(to, Idle | Waiting | Shadowing | Probation | Refused),
        Probation => matches!(to, Probation | Committed | Reverted | Waiting),
        Committed => matches!(to, Idle | Reverted),
        Reverted => matches!(to, Idle | Reverted),
        Refused => matches!(to, Idle | Waiting | Fetching | Refused),
        Phase::Unknown => false,
    }
}

/// A release whose manifest agrees with what both repositories signed.
#[derive(Debug, Clone, PartialEq)]
pub struct Candidate {
    approved: ApprovedTarget,
    release: Release,
    limits: Limits,
}

impl Candidate {
    /// Compare the manifest with what was signed, point by point.
    pub fn new(approved: ApprovedTarget, bytes: &[u8]) -> Result<Self, Reason> {
        let listed = &approved.release;
        if Blob::of(bytes) != listed.manifest {
            return Err(Reason::new(Code::DigestMismatch, "the manifest is not the signed one"));
        }
        let manifest = Manifest::parse(bytes).map_err(|error| Reason::new(Code::ManifestInvalid, error))?;
        let invalid = |what: String| Err(Reason::new(Code::ManifestInvalid, what));
        if (&manifest.line, &manifest.version, manifest.seq) != (&listed.line, &listed.version, listed.seq) {
            let Manifest { line, version, seq, .. } = &manifest;
            return invalid(format!(
                "the manifest is of {line} {version} (seq {seq}), the signed target of {} {} (seq {})",
                listed.line, listed.version, listed.seq
            ));
        }
        if manifest.model != (Blob { digest: approved.target.sha256, length: approved.target.length }) {
            return invalid("the manifest names another model file than the signed target".to_owned());
        }
        let io = manifest.io_digest();
        if io != listed.io || approved.trainer_io.is_some_and(|granted| granted != io) {
            let detail = format_args!("the manifest's inputs and outputs are {}, signed are {}", io.short(), listed.io.short());
            return Err(Reason::new(Code::IoMismatch, detail));
        }
        let release = Release {
            path: approved.target.path.clone(),
            line: manifest.line,
            version: manifest.version,
            seq: manifest.seq,
            manifest: listed.manifest,
            model: manifest.model,
        };
        Ok(Self { approved, release, limits: manifest.limits })
    }

    /// What is to be put into a slot.
    pub fn release(&self) -> &Release {
        &self.release
    }

    /// What the model may use.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// What both repositories agreed on.
    pub fn approved(&self) -> &ApprovedTarget {
        &self.approved
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reason() -> Reason {
        Reason::new(Code::Crashed, "")
    }

    #[test]
    fn legal_moves_are_made_and_others_are_refused_unchanged() {
        let gate = || Deployment::Probation(Gate::new(leeway_protocol::assignment::Probation::default()));
        let waiting = || Deployment::Waiting { until: 5, reason: None };
        let table = [
            (Deployment::Idle, waiting(), true),
            (waiting(), Deployment::Fetching(Fetch::Metadata), true),
            (gate(), Deployment::Committed, true),
            (gate(), Deployment::Reverted(reason()), true),
            (Deployment::Committed, Deployment::Reverted(reason()), true),
            (Deployment::Refused { reason: reason(), again: Some(1) }, Deployment::Fetching(Fetch::Metadata), true),
            (Deployment::Idle, Deployment::Fetching(Fetch::Metadata), false),
            (waiting(), gate(), false),
            (waiting(), Deployment::Committed, false),
            (Deployment::Reverted(reason()), waiting(), false),
            (Deployment::Reverted(reason()), gate(), false),
            (Deployment::Committed, gate(), false),
            (gate(), Deployment::Idle, false),
        ];
        for (from, to, legal) in table {
            let mut deployment = from.clone();
            match deployment.go(to.clone()) {
                Ok(()) => assert!(legal && deployment == to, "{from:?} -> {to:?}"),
                Err(refused) => {
                    assert!(!legal && deployment == from, "{from:?} -> {to:?}");
                    assert_eq!((refused.from, refused.to), (from.phase(), to.phase()));
                }
            }
        }
    }
}
