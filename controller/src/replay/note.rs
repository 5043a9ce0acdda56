//! What an alarm or a decision was made from: written beside it, named by its digest in its event.
//!
//! A gate's note holds everything its verdict follows from (exact counts of both sides, policy, error budgets, devices by place) and the
//! verdict itself; some kilobytes, ten to twenty times in a rollout. An alarm's note holds the verdict and what the thresholds were
//! derived from; its counts are the windows. [`MAX_NOTE_BYTES`] bounds one note, retention bounds all.
use std::fmt;

use leeway_protocol::digest::Digest;
use leeway_protocol::ids::{Cohort, DeviceId, RolloutId};
use leeway_protocol::time::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::ENGINE;
use crate::drift::DriftPolicy;
use crate::ingest::ledger::Sizes;
use crate::planner::Step;
use crate::quality::QualityPolicy;
use crate::rollout::evidence::{self, Arms, Evidence, Outcome};
use crate::rollout::gate::{Check, Counts, GatePolicy, GateReport, Question, StageOutcome, judge};
use crate::rollout::{AbortRule, Dismissal, Move};

/// A larger note is not kept, and its event says so: evidence of 64 slices with every metric takes less.
pub const MAX_NOTE_BYTES: usize = 1 << 20;

/// What it was built for: where the last bit of `ln` may be another.
const ARCH: &str = match () {
    () if cfg!(target_arch = "x86_64") => "x86_64",
    () if cfg!(target_arch = "aarch64") => "aarch64",
    () if cfg!(target_arch = "arm") => "arm",
    () if cfg!(target_arch = "riscv64") => "riscv64",
    () => "other",
};
/// Whose mathematical functions it calls.
const LIBC: &str = match () {
    () if cfg!(target_env = "gnu") => "gnu",
    () if cfg!(target_env = "musl") => "musl",
    () if cfg!(target_vendor = "apple") => "apple",
    () => "other",
};

/// What decides.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Engine {
    /// The form of the arithmetic: [`ENGINE`].
    pub form: u32,
    /// The program's version.
    pub program: String,
    /// What it was built for.
    pub arch: String,
}

impl Engine {
    /// This program.
    pub fn this() -> Self {
        let arch = format!("{ARCH}-{LIBC}");
        Self { form: ENGINE, program: env!("CARGO_PKG_VERSION").to_owned(), arch }
    }

    /// Whether the same bits are promised.
    pub fn is_this(&self) -> bool {
        let this = Self::this();
        self.form == this.form && self.arch == this.arch
    }
}

impl fmt::Display for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "engine {} of Leeway {} on {}", self.form, self.program, self.arch)
    }
}

/// What is written beside the events.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(clippy::large_enum_variant, reason = "one is made at each start, and none is kept")]
pub enum Note {
    /// The controller started: windows from here on are judged so.
    Start {
        /// When.
        at: Timestamp,
        /// The next window's number.
        windows: u64,
        /// What decides.
        engine: Engine,
        /// How drift is judged.
        drift: DriftPolicy,
        /// How quality is judged.
        quality: QualityPolicy,
    },
    /// A monitor that nothing needs any more was given up.
    Gone {
        /// When.
        at: Timestamp,
        /// The next window's number.
        windows: u64,
        /// Its cohort.
        cohort: Cohort,
        /// Its manifest.
        manifest: Digest,
    },
    /// A technician has seen to a device.
    Repaired {
        /// When.
        at: Timestamp,
        /// The next window's number.
        windows: u64,
        /// Which.
        device: DeviceId,
    },
    /// An alarm began or ended.
    Alarm(Box<AlarmNote>),
    /// A gate's verdict moved a rollout.
    Gate(Box<GateNote>),
}

/// An alarm.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AlarmNote {
    /// When it was announced.
    pub at: Timestamp,
    /// What decided.
    pub engine: Engine,
    /// The next window's number: every window before it had been counted.
    pub windows: u64,
    /// What thresholds were derived from.
    pub sizes: Sizes,
    /// Its cohort.
    pub cohort: Cohort,
    /// The manifest that the cohort was judged under.
    pub manifest: Digest,
    /// The feature, or `labels`.
    pub feature: String,
    /// The device, if it is about an instrument.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<DeviceId>,
    /// Its kind, as in its event.
    pub kind: String,
    /// The verdict in full; absent for one that ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verdict: Option<Value>,
}

/// A verdict of a gate and what came of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct GateNote {
    /// When.
    pub at: Timestamp,
    /// What decided.
    pub engine: Engine,
    /// Which rollout.
    pub rollout: RolloutId,
    /// What it was given.
    pub inputs: Inputs,
    /// What it said, in full; as JSON, in which a figure without a bound is nothing and stays so.
    pub said: Value,
    /// What was done.
    pub step: Step,
}

impl GateNote {
    /// The note of a step.
    pub fn of(basis: &Basis, step: &Step, at: Timestamp) -> Self {
        let Basis { rollout, inputs, said } = basis.clone();
        Self { at, engine: Engine::this(), rollout, inputs, said: serde_json::to_value(said).unwrap_or_default(), step: step.clone() }
    }
}

/// What a gate was asked and what it said, while the plan is made.
#[derive(Debug, Clone, PartialEq)]
pub struct Basis {
    /// Which rollout.
    pub rollout: RolloutId,
    /// What it was given.
    pub inputs: Inputs,
    /// What it said.
    pub said: GateReport,
}

/// A [`Question`] that can be kept.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Inputs {
    policy: GatePolicy,
    evidence: Option<Evidence>,
    failures: Arms,
    counts: Counts,
    reach: usize,
    by_slice: bool,
    has_baseline: bool,
    soaking_since: Option<Timestamp>,
    stage: StageOutcome,
    abort: Vec<AbortRule>,
    dismissed: Vec<Dismissal>,
    /// Checks that the planner put beside the gate's own.
    #[serde(default)]
    besides: Vec<Check>,
}

impl Inputs {
    /// What a question holds.
    pub fn of(question: &Question<'_>) -> Self {
        Self {
            policy: question.policy.clone(),
            evidence: question.evidence.cloned(),
            failures: question.failures,
            counts: *question.counts,
            reach: question.reach,
            by_slice: question.by_slice,
            has_baseline: question.has_baseline,
            soaking_since: question.soaking_since,
            stage: question.stage,
            abort: question.abort.to_vec(),
            dismissed: question.dismissed.to_vec(),
            besides: Vec::new(),
        }
    }

    /// The same with what the planner asked besides: the checks of `said` that the gate does not make itself.
    #[must_use]
    pub fn with_besides_of(mut self, said: &GateReport) -> Self {
        let own = self.judge().checks.len();
        self.besides = said.checks.iter().skip(own).cloned().collect();
        self
    }

    /// Ask the gate again.
    pub fn judge(&self) -> GateReport {
        let report = judge(&Question {
            policy: &self.policy,
            evidence: self.evidence.as_ref(),
            failures: self.failures,
            counts: &self.counts,
            reach: self.reach,
            by_slice: self.by_slice,
            has_baseline: self.has_baseline,
            soaking_since: self.soaking_since,
            stage: self.stage,
            abort: &self.abort,
            dismissed: &self.dismissed,
            compare: evidence::compare,
        });
        report.beside(self.besides.clone())
    }
}

/// Why a step is none that such a verdict allows, if so.
pub fn contradicts(step: &Step, gate: &GateReport) -> Option<String> {
    let (needs, what) = match step {
        Step::MoveRollout { to: Move::Advance { .. } | Move::Complete { .. } | Move::Pause { passed: true, .. }, .. } => {
            (Outcome::Pass, "goes on")
        }
        Step::MoveRollout { to: Move::Regress { .. }, .. } => (Outcome::Fail, "is taken back"),
        Step::PoisonSlice { .. } => (Outcome::Fail, "is taken back in a part of the fleet"),
        _ => return None,
    };
    (gate.outcome != needs).then(|| format!("the version {what}, and the gate says {:?}: {}", gate.outcome, gate.sentence))
}

impl Note {
    /// As it is stored, and its digest.
    pub fn sealed(&self) -> Option<(Vec<u8>, Digest)> {
        let bytes = serde_json::to_vec(self).ok().filter(|bytes| bytes.len() <= MAX_NOTE_BYTES)?;
        let digest = Digest::of(&bytes);
        Some((bytes, digest))
    }

    /// The number of the next window when it was written; a gate's verdict has none.
    pub fn windows(&self) -> Option<u64> {
        match self {
            Self::Start { windows, .. } | Self::Gone { windows, .. } | Self::Repaired { windows, .. } => Some(*windows),
            Self::Alarm(alarm) => Some(alarm.windows),
            Self::Gate(_) => None,
        }
    }
}
