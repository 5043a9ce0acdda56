//! The gate behind a stage: pass, fail, or not enough seen to say either.
//!
//! Fixed percentages must choose between false alarms and exposure; the sequential tests in [`super::evidence`] may be looked
//! at after every report. The operator states one number, the chance that a healthy version is aborted in the whole rollout
//! ([`GatePolicy::false_abort`]); it is shared out over the comparisons (a union bound: they may depend on each other as they
//! like), and each holds its part over all looks and stages, because the evidence runs on from stage to stage.
//!
//! Around them stand three plain rules: a stage in which nothing was heard never passes; devices that the model itself made
//! fail, and failed inferences, are counted absolutely too, because with one canary there is nothing to compare; and a first
//! version, without a baseline, is judged by absolute limits and says so. A limit cannot know the baseline, so it keeps no promise
//! of its own; [`TooMany`] says whether it aborts or only holds the stage up until the comparison has decided. Refusals that speak
//! against the transport or the device (disk full, bad signature) never count against the model.
use leeway_protocol::reason::Code;
use leeway_protocol::time::Timestamp;
use serde::{Deserialize, Serialize};

use super::alarm::{AbortRule, Dismissal, dismiss};
use super::evidence::{self, Arm, Arms, Evidence, Limits, Metric, Outcome, Verdict};
use crate::sequential::boundary::Horizon;

mod guardrails;
mod policy;

pub use policy::{GatePolicy, Guardrail, Need, Proof, TooMany};

/// How the test is called.
pub type Compare = fn(Metric, &Arm, &Arm, &Limits) -> Verdict;

/// Devices of a stage, each in exactly one place. The verdict never divides by devices that have not run the version.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(default)]
pub struct Counts {
    /// In the stage's scope, the control group included.
    pub members: usize,
    /// May have the version in this stage.
    pub allowed: usize,
    /// Held back to compare with.
    pub control: usize,
    /// Not told yet: no room in the share, the rate or the in-flight cap.
    pub waiting: usize,
    /// Not told yet, because they are offline; told when they come back.
    pub away: usize,
    /// Told, not yet seen by the device.
    pub unseen: usize,
    /// Seen; fetching, testing or in the shadow run.
    pub installing: usize,
    /// Active on trial.
    pub on_trial: usize,
    /// Run it, with proof.
    pub running: usize,
    /// Run it by their last word, but have been silent too long.
    pub lost: usize,
    /// Refused it or went back, for a reason that speaks against the model.
    pub failed_by_model: usize,
    /// Refused it for another reason.
    pub failed_otherwise: usize,
    /// Not done within the deadline.
    pub overdue: usize,
    /// Called back with the part of the fleet that the version failed on; neither for nor against it elsewhere.
    #[serde(default)]
    pub recalled: usize,
    /// Ever ran it; never falls.
    pub exposed: usize,
    /// Not told, and away for too long to wait for; not among the members.
    pub unreachable: usize,
    /// Told, and took no note of it in time.
    pub unanswered: usize,
    /// Seen; waiting for their maintenance window.
    pub deferred: usize,
    /// Held back one version behind, until a person releases them; not among the members.
    pub held_back: usize,
}

impl Counts {
    /// Devices that were told and have an outcome that speaks for or against the model.
    pub fn tried(&self) -> usize {
        self.running + self.lost + self.failed_by_model
    }

    /// Devices between "told" and an outcome.
    pub fn in_flight(&self) -> usize {
        self.unseen + self.installing + self.on_trial
    }

    /// Devices that were told and have an outcome of any kind.
    pub fn executed(&self) -> usize {
        self.tried() + self.failed_otherwise + self.overdue + self.unanswered
    }

    /// Devices that were told.
    pub fn told(&self) -> usize {
        self.in_flight() + self.deferred + self.executed()
    }
}

/// Whether a device's reason speaks against the model.
pub fn blames_model(code: &Code) -> bool {
    matches!(
        code,
        Code::PrescanRefused
            | Code::LoadFailed
            | Code::GoldenMismatch
            | Code::TooSlow
            | Code::TooMuchMemory
            | Code::Crashed
            | Code::Hung
            | Code::OutputNotFinite
            | Code::InferenceErrors
            | Code::ShadowDiverged
            | Code::IoMismatch
            | Code::ManifestInvalid
    )
}

/// One line of the gate.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Check {
    /// What was checked, such as `error_ratio` or `devices`.
    pub name: String,
    /// Its result.
    pub outcome: Outcome,
    /// Whether the stage waits for it.
    pub blocks: bool,
    /// Measured against limit, in a sentence.
    pub sentence: String,
    /// The comparison, if it is one.
    pub verdict: Option<Verdict>,
    /// Whether it pauses the rollout at once, without waiting for a deadline.
    #[serde(default)]
    pub pauses: bool,
    /// How many devices it is about, for an alarm.
    #[serde(default)]
    pub seen: u64,
    /// The part of the fleet it is about, such as `hw=rev-b`, if not about all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slice: Option<String>,
}

impl Check {
    /// One that the stage waits for and that is no comparison.
    pub fn plain(name: String, outcome: Outcome, sentence: String) -> Self {
        Self { name, outcome, blocks: true, sentence, verdict: None, pauses: false, seen: 0, slice: None }
    }
}

impl GateReport {
    /// The same with checks that somebody else asks for: one of them without a verdict keeps a pass from being one.
    #[must_use]
    pub fn beside(mut self, checks: Vec<Check>) -> Self {
        for check in checks {
            if self.outcome == Outcome::Pass && check.outcome == Outcome::Inconclusive {
                (self.outcome, self.sentence) = (Outcome::Inconclusive, check.sentence.clone());
            }
            self.checks.push(check);
        }
        self
    }

    /// The alarm that pauses the rollout, in a sentence.
    pub fn alarm(&self) -> Option<&str> {
        self.checks.iter().find(|check| check.pauses).map(|check| check.sentence.as_str())
    }
}

/// What the gate says now.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct GateReport {
    /// Over all checks: any failure fails, any blocking check without a verdict is inconclusive.
    pub outcome: Outcome,
    /// The check that decided, in a sentence.
    pub sentence: String,
    /// Every check.
    pub checks: Vec<Check>,
}

/// Everything the gate looks at.
#[derive(Debug, Clone, Copy)]
pub struct Question<'a> {
    /// The limits.
    pub policy: &'a GatePolicy,
    /// What ingestion added up.
    pub evidence: Option<&'a Evidence>,
    /// Device failures of both sides, from the devices themselves.
    pub failures: Arms,
    /// The rollout's devices.
    pub counts: &'a Counts,
    /// Devices that the rollout can come to reach in all its stages, the control group included; what the test of device
    /// failures spreads its error over. A stage's own members are reckoned with if this is less.
    pub reach: usize,
    /// Whether parts of the fleet may be judged apart; half of each guardrail's error is theirs then.
    pub by_slice: bool,
    /// Whether there is a version to compare with.
    pub has_baseline: bool,
    /// Since when the stage soaks; evidence must be newer.
    pub soaking_since: Option<Timestamp>,
    /// Devices of the stage's scope that were told, and what became of them.
    pub stage: StageOutcome,
    /// Criteria beside the gate.
    pub abort: &'a [AbortRule],
    /// What a person has waved through.
    pub dismissed: &'a [Dismissal],
    /// The test.
    pub compare: Compare,
}

/// What became of the devices of a stage that were told.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct StageOutcome {
    /// The stage, from 0.
    pub index: usize,
    /// Devices with an outcome.
    pub finished: usize,
    /// Of these, those that prove to run the version.
    pub running: usize,
    /// See [`super::Stage::success_share`].
    pub success_share: f64,
    /// Devices of both sides that should have been heard of by now: once the stage has soaked, the canaries that run the version
    /// and the controls; `None` before that, and where nobody is held back.
    pub drawn: Option<(usize, usize)>,
}

/// Judge a stage.
pub fn judge(question: &Question<'_>) -> GateReport {
    let mut checks = vec![failures(question), silence(question), devices(question), heard(question), errors(question), success(question)];
    checks.extend(sample_ratio(question));
    checks.extend(question.abort.iter().map(|rule| rule.judge(question.counts)));
    if question.has_baseline {
        checks.extend(guardrails::checks(question));
    } else {
        let sentence = "There is no earlier version to compare with, so this first one is judged by absolute limits only.".to_owned();
        checks.push(Check { blocks: false, ..Check::plain("baseline".to_owned(), Outcome::Pass, sentence) });
    }
    dismiss(&mut checks, question.dismissed, question.stage.index);
    let failed = checks.iter().find(|c| c.outcome == Outcome::Fail && c.blocks);
    let open = checks.iter().find(|c| c.outcome == Outcome::Inconclusive && c.blocks);
    let (outcome, sentence) = match (failed, open) {
        (Some(check), _) => (Outcome::Fail, check.sentence.clone()),
        (None, Some(check)) => (Outcome::Inconclusive, check.sentence.clone()),
        (None, None) => (Outcome::Pass, passed(&checks)),
    };
    GateReport { outcome, sentence, checks }
}

fn passed(checks: &[Check]) -> String {
    let names: Vec<&str> = checks.iter().filter(|c| c.blocks).map(|c| c.name.as_str()).collect();
    format!("Every check passed ({}).", names.join(", "))
}

fn check(name: &str, outcome: Outcome, sentence: String) -> Check {
    Check::plain(name.to_owned(), outcome, sentence)
}

/// Devices that the model failed on, by absolute count and share.
fn failures(question: &Question<'_>) -> Check {
    let (policy, counts) = (question.policy, question.counts);
    let (failed, tried) = (counts.failed_by_model, counts.tried());
    // With one or two canaries "at least two" would never fire: nobody is left who could pass.
    let nobody_left = failed > 0 && failed == tried && counts.in_flight() == 0;
    // Of those told and not of those done: failing is quicker than succeeding, so the first to be done say too much.
    let too_many = too_many(policy, failed, tried + counts.in_flight());
    let outcome = match (nobody_left, too_many) {
        (true, _) => Outcome::Fail,
        (false, true) if policy.too_many == TooMany::Hold && compares_failures(question) => Outcome::Inconclusive,
        (false, true) => Outcome::Fail,
        (false, false) => Outcome::Pass,
    };
    let sentence = if failed == 0 {
        format!("No device failed because of the model ({tried} tried it).")
    } else {
        let limit = format!("{} devices and more than {:.0} % of those told", policy.max_failed, policy.max_failed_share * 100.0);
        let end = if outcome == Outcome::Inconclusive { "; whether it is the version's doing, the control group decides" } else { "" };
        format!("{failed} of {tried} devices that tried the version failed because of it; too many are {limit}{end}.")
    };
    check("failed_devices", outcome, sentence)
}

/// Whether a guardrail that decides compares failed devices, and the control group was heard.
fn compares_failures(question: &Question<'_>) -> bool {
    let rail = question.policy.guardrails.iter().any(|rail| rail.metric == Metric::DeviceFailures && rail.decides());
    question.has_baseline && rail && question.failures.control.n > 0.0
}

fn arms(question: &Question<'_>, metric: Metric) -> Arms {
    match metric {
        Metric::DeviceFailures => question.failures,
        metric => question.evidence.and_then(|e| e.arms.get(&metric)).copied().unwrap_or_default(),
    }
}

/// Devices that fell silent. An outage looks the same, so silence alone stops a rollout but does not condemn the version; where
/// a control group shares the network, the comparison of failed devices counts it.
fn silence(question: &Question<'_>) -> Check {
    let (lost, tried) = (question.counts.lost, question.counts.tried());
    let outcome = if too_many(question.policy, lost, tried) { Outcome::Inconclusive } else { Outcome::Pass };
    check("silent_devices", outcome, format!("{lost} of {tried} devices that tried the version have been silent since for too long."))
}

fn too_many(policy: &GatePolicy, count: usize, of: usize) -> bool {
    count >= policy.max_failed.max(1) as usize && count as f64 / of.max(1) as f64 > policy.max_failed_share
}

/// Enough devices that prove to run it.
fn devices(question: &Question<'_>) -> Check {
    let (have, need) = (question.counts.running, question.policy.min_devices.max(1) as usize);
    let outcome = if have >= need { Outcome::Pass } else { Outcome::Inconclusive };
    check("devices", outcome, format!("{have} devices prove to run the version; {need} are needed."))
}

/// Enough of those that have an outcome run it: a stage that everyone has finished is not for that a success.
fn success(question: &Question<'_>) -> Check {
    let StageOutcome { finished, running, success_share, .. } = question.stage;
    let need = ((success_share * finished as f64 + 1e-9).floor() as usize).clamp(1, finished.max(1));
    let outcome = if running >= need { Outcome::Pass } else { Outcome::Inconclusive };
    let share = success_share * 100.0;
    let sentence =
        format!("{running} of the stage's {finished} devices with an outcome run the version; {need} ({share:.0} %) are needed.");
    check("success_share", outcome, sentence)
}

/// Chance of a wrong alarm that the two sides are not of the sizes they were drawn in, over all looks at a rollout.
const SAMPLE_RATIO_ALPHA: f64 = 0.001;

/// Whether as many of either side are heard of as were drawn: if not, whoever is missing is missing for a reason, and the comparison
/// of those who are there says nothing.
fn sample_ratio(question: &Question<'_>) -> Option<Check> {
    let (canaries, controls) = question.stage.drawn.filter(|_| question.has_baseline)?;
    let arms = question.evidence?.arms.get(&Metric::ErrorRatio)?;
    let (heard, of) = (arms.canary.devices, arms.canary.devices + arms.control.devices);
    if canaries == 0 || controls == 0 || of == 0 {
        return None;
    }
    let share = canaries as f64 / (canaries + controls) as f64;
    let odd = evidence::sample_ratio(heard, of, share, SAMPLE_RATIO_ALPHA).broken;
    let sentence = format!(
        "{heard} of {canaries} canaries and {} of {controls} controls were heard of{}.",
        arms.control.devices,
        if odd { ": not the ratio they were drawn in, so the two sides cannot be compared" } else { "" }
    );
    let outcome = if odd { Outcome::Inconclusive } else { Outcome::Pass };
    Some(Check { pauses: odd, ..check("sample_ratio", outcome, sentence) })
}

/// Something was heard since the stage soaks, and enough of it.
fn heard(question: &Question<'_>) -> Check {
    let need = question.policy.min_inferences;
    let have = question.evidence.map_or(0, |e| e.inferences);
    let last = question.evidence.and_then(|e| e.last_at);
    let fresh = match (question.soaking_since, last) {
        (Some(since), Some(last)) => last >= since,
        _ => false,
    };
    if have < need.max(1) {
        return check("inferences", Outcome::Inconclusive, format!("{have} inferences were reported with the version; {need} are needed."));
    }
    if question.soaking_since.is_none() {
        return check("inferences", Outcome::Inconclusive, "The stage has not filled yet, so it does not soak.".to_owned());
    }
    if !fresh {
        return check("inferences", Outcome::Inconclusive, "No report about the version has come since this stage soaks.".to_owned());
    }
    check("inferences", Outcome::Pass, format!("{have} inferences were reported with the version; {need} are needed."))
}

/// Failed inferences, absolutely.
fn errors(question: &Question<'_>) -> Check {
    let (errors, inferences) = question.evidence.map_or((0, 0), |e| (e.errors, e.inferences));
    let limit = question.policy.max_error_ratio;
    let tried = inferences + errors;
    let share = errors as f64 / tried.max(1) as f64;
    let enough = tried >= question.policy.min_inferences.max(1);
    // A baseline that fails as often is a broken fleet, and no proof against the version.
    let control = arms(question, Metric::ErrorRatio).control.share().unwrap_or(0.0);
    let outcome = match (enough, share > limit) {
        (true, true) if control <= limit => Outcome::Fail,
        (_, false) => Outcome::Pass,
        (_, true) => Outcome::Inconclusive,
    };
    check("errors", outcome, format!("{errors} of {tried} inferences failed ({:.1} %); allowed are {:.1} %.", share * 100.0, limit * 100.0))
}

#[cfg(test)]
mod tests;
