//! Rollouts as the API shows them.
use std::sync::Arc;

use leeway_protocol::assignment::Intent;
use leeway_protocol::digest::Digest;
use leeway_protocol::ids::RolloutId;
use leeway_protocol::reported::Phase;

use super::Facts;
use crate::fleet::{Arm, Device, Part};
use crate::io::web::resource::event::Event;
use crate::io::web::resource::rollout::{Check, Consequence, FailingDevice, Guardrail, Progress, Rollout, RolloutSummary, Stage};
use crate::io::web::resource::{Condition, Level};
use crate::io::web::words;
use crate::planner::RolloutReport;
use crate::rollout::evidence::{self, Metric, Outcome};
use crate::rollout::{Actor, RolloutState, Stage as StageSpec, StageEnd};

mod preview;
mod shared;

pub(in crate::io::web) use preview::Refusal;

/// Failing devices listed on a page; the count says how many there are.
const MAX_FAILING: usize = 20;

impl Facts<'_> {
    /// Every rollout, newest first.
    pub(in crate::io::web) fn rollouts(&self) -> Vec<RolloutSummary> {
        let mut all: Vec<_> = self.snapshot.rollouts.values().collect();
        all.sort_by(|a, b| b.created_at.cmp(&a.created_at).then_with(|| b.id.cmp(&a.id)));
        all.into_iter().map(|r| self.summary(r)).collect()
    }

    /// Rollouts that are not over.
    pub(in crate::io::web) fn open_rollouts(&self) -> Vec<RolloutSummary> {
        let mut open: Vec<_> = self.snapshot.rollouts.values().filter(|r| !r.state.is_over()).map(|r| self.summary(r)).collect();
        open.sort_by_key(|r| std::cmp::Reverse(r.created_at));
        open
    }

    /// One rollout in a list.
    pub(in crate::io::web) fn summary(&self, rollout: &crate::rollout::Rollout) -> RolloutSummary {
        let look = Look::new(self, rollout);
        let stage = look.stage;
        let target = stage.map_or(0, |i| look.stage_target(i));
        let running = look.members.iter().filter(|(d, _)| look.candidate.is_some_and(|m| d.runs(m))).count() as u64;
        RolloutSummary {
            id: rollout.id.to_string(),
            line: rollout.spec.line.to_string(),
            from_version: rollout.spec.baseline.as_ref().map(ToString::to_string),
            to_version: rollout.spec.version.to_string(),
            phase: rollout.state.phase().to_owned(),
            level: level(&rollout.state),
            sentence: sentence(rollout, look.fresh()),
            stage: stage.map_or(0, |i| i as u32 + 1),
            stages: rollout.spec.policy.stages.len() as u32,
            target_devices: if rollout.state.is_over() { running } else { target },
            actual_devices: running,
            fleet_devices: look.scope(None) as u64,
            exposed: look.exposed(),
            created_at: rollout.created_at,
            updated_at: rollout.updated_at,
        }
    }

    /// One rollout, whole. `events` are those about it.
    pub(in crate::io::web) fn rollout(&self, id: &RolloutId, events: Vec<Event>) -> Option<Rollout> {
        let rollout = self.snapshot.rollouts.get(id)?;
        let look = Look::new(self, rollout);
        let (failing, failing_total) = look.failing();
        Some(Rollout {
            summary: self.summary(rollout),
            revision: rollout.revision,
            allowed_actions: rollout.state.allowed_actions().iter().map(|a| a.as_str().to_owned()).collect(),
            next: look.fresh().map(|r| r.why.join(" ")).unwrap_or_default(),
            stages: (0..rollout.spec.policy.stages.len()).map(|i| look.stage(i)).collect(),
            guardrails: look.guardrails(),
            checks: look.checks(),
            conditions: look.report.map(|r| r.conditions.iter().map(condition).collect()).unwrap_or_default(),
            failing,
            failing_total,
            shared: look.shared(),
            left_out: look.left_out(),
            consequences: look.consequences(),
            events,
            spec: serde_json::to_value(&rollout.spec).unwrap_or_default(),
        })
    }
}

fn condition(c: &crate::planner::report::Condition) -> Condition {
    Condition { kind: c.kind.clone(), holds: c.status, message: c.message.clone() }
}

fn level(state: &RolloutState) -> Level {
    match state {
        RolloutState::Planned | RolloutState::Aborted { .. } => Level::Idle,
        RolloutState::Running { .. } => Level::Busy,
        RolloutState::Paused { .. } => Level::Warn,
        RolloutState::RollingBack { .. } | RolloutState::RolledBack { .. } => Level::Bad,
        RolloutState::Completed { .. } => Level::Ok,
    }
}

/// The planner's own sentence while there is one; what ended it, afterwards. Before the planner has seen what a person did, that is said.
fn sentence(rollout: &crate::rollout::Rollout, report: Option<&RolloutReport>) -> String {
    if let Some(headline) = report.map(|r| r.headline.as_str()).filter(|h| !h.is_empty()) {
        return headline.to_owned();
    }
    let (line, version) = (&rollout.spec.line, &rollout.spec.version);
    let last = rollout.transitions.last().filter(|last| matches!(last.by, Actor::Person(_)));
    let did = last.map(|last| format!(" {}: {} ({}).", last.by.name(), last.did, last.sentence)).unwrap_or_default();
    match &rollout.state {
        RolloutState::Planned => format!("Waits for its turn; no device has been told yet.{did}"),
        RolloutState::Running { stage, .. } => format!("Stage {} of {} runs.{did}", stage + 1, rollout.spec.policy.stages.len()),
        RolloutState::Paused { reason, .. } => format!("Paused: {reason}"),
        RolloutState::RollingBack { reason, .. } => format!("Rolling back: {reason}"),
        RolloutState::RolledBack { reason, .. } => format!("Rolled back: {reason}"),
        RolloutState::Aborted { reason, .. } => format!("Aborted: {reason}"),
        RolloutState::Completed { .. } if rollout.ended.iter().any(|end| *end != StageEnd::Passed) => {
            format!("{line} {version} is the champion; a person carried it past a gate that had not passed.")
        }
        RolloutState::Completed { .. } => format!("{line} {version} passed every stage and is the champion."),
    }
}

/// One rollout with what the fleet says about it.
struct Look<'a> {
    facts: &'a Facts<'a>,
    rollout: &'a crate::rollout::Rollout,
    report: Option<&'a RolloutReport>,
    candidate: Option<Digest>,
    /// Devices that this rollout has told to install, with their part.
    members: Vec<(Arc<Device>, Part)>,
    /// The stage it is in, or ended in.
    stage: Option<usize>,
}

impl<'a> Look<'a> {
    /// What the planner says, if it has looked since the rollout changed last: what it said before is about another state.
    fn fresh(&self) -> Option<&'a RolloutReport> {
        self.report.filter(|_| self.facts.report.at >= self.rollout.updated_at)
    }

    fn new(facts: &'a Facts<'a>, rollout: &'a crate::rollout::Rollout) -> Self {
        let candidate = facts.snapshot.version(&rollout.spec.line, &rollout.spec.version).map(|v| v.manifest.digest);
        let parts = facts.snapshot.fleet.iter().filter_map(|d| d.part_in(&rollout.id).cloned().map(|part| (d, part)));
        let members = parts.filter(|(_, part)| part.arm == Arm::Canary).collect();
        let report = facts.report.rollouts.get(&rollout.id);
        Self { facts, rollout, report, candidate, members, stage: ended_in(rollout) }
    }

    fn exposed(&self) -> u64 {
        let reported = self.report.map_or(0, |r| r.counts.exposed);
        let ever = |d: &Device| {
            d.part_in(&self.rollout.id).is_some_and(|p| p.exposed_at.is_some())
                || d.runs.iter().any(|run| Some(run.manifest) == self.candidate)
        };
        self.facts.snapshot.fleet.iter().filter(|d| ever(d)).count().max(reported) as u64
    }

    /// Devices in the scope of a stage, or of the whole line.
    fn scope(&self, stage: Option<&StageSpec>) -> usize {
        let snapshot = self.facts.snapshot;
        let fits = |d: &Device| {
            let Some(cohort) = snapshot.cohort_of(d).filter(|c| c.line == self.rollout.spec.line) else { return false };
            stage.is_none_or(|s| (s.cohorts.is_empty() || s.cohorts.contains(&cohort.name)) && s.selector.matches(&d.labels))
        };
        snapshot.fleet.iter().filter(|d| fits(d)).count()
    }

    fn stage_target(&self, index: usize) -> u64 {
        let Some(spec) = self.rollout.spec.policy.stages.get(index) else { return 0 };
        if let Some(report) = self.report.filter(|_| self.rollout.state.stage() == Some(index)) {
            return report.counts.allowed as u64;
        }
        let scope = self.scope(Some(spec));
        ((scope as f64 * spec.share).floor() as u64).max(u64::from(scope > 0))
    }

    fn stage(&self, index: usize) -> Stage {
        let Some(spec) = self.rollout.spec.policy.stages.get(index) else { return empty_stage() };
        let (state, level) = self.stage_state(index);
        let mut actual = Progress::default();
        for (device, part) in self.members.iter().filter(|(_, part)| part.stage <= index) {
            self.place(device, part, &mut actual);
        }
        let (reached, over) = (self.stage.is_some_and(|now| index <= now), self.rollout.state.is_over());
        if !reached {
            actual = Progress::default();
        }
        if over && self.stage == Some(index) {
            // Devices that a later rollout has taken in since left this one in its last state.
            let gone = self.exposed().saturating_sub(actual.total());
            let completed = matches!(self.rollout.state, RolloutState::Completed { .. });
            *(if completed { &mut actual.committed } else { &mut actual.rolled_back }) += gone;
        }
        let target = if over && reached { actual.total() } else { self.stage_target(index) };
        if !over {
            actual.pending += target.saturating_sub(actual.total());
        }
        let current = self.stage == Some(index) && !self.rollout.state.is_over();
        let soaked_at = self.report.and_then(|r| r.soaked_at).filter(|_| current);
        Stage {
            name: spec.name.clone(),
            target: target_words(spec),
            state: state.to_owned(),
            level,
            sentence: if current { self.report.and_then(|r| r.why.first().cloned()).unwrap_or_default() } else { String::new() },
            share: spec.share,
            target_devices: target,
            actual,
            soak_ms: spec.soak_ms,
            soak_left_ms: soaked_at.and_then(|at| u64::try_from(at.millis_since(self.facts.now)).ok()),
            opened_at: match &self.rollout.state {
                RolloutState::Running { since, .. } if current => Some(*since),
                _ => None,
            },
            closed_at: None,
        }
    }

    fn stage_state(&self, index: usize) -> (&'static str, Level) {
        let Some(now) = self.stage else { return ("pending", Level::Idle) };
        if index < now {
            return self.stage_end(index);
        }
        if index > now {
            return if self.rollout.state.is_over() { ("not reached", Level::Idle) } else { ("pending", Level::Idle) };
        }
        match &self.rollout.state {
            RolloutState::Planned => ("pending", Level::Idle),
            RolloutState::Running { soaking_since: Some(_), .. } => ("soaking", Level::Busy),
            RolloutState::Running { .. } => ("filling", Level::Busy),
            RolloutState::Paused { .. } => ("paused", Level::Warn),
            RolloutState::RollingBack { .. } => ("rolling back", Level::Bad),
            RolloutState::RolledBack { .. } => ("failed", Level::Bad),
            RolloutState::Aborted { .. } => ("aborted", Level::Idle),
            RolloutState::Completed { .. } => self.stage_end(index),
        }
    }

    fn stage_end(&self, index: usize) -> (&'static str, Level) {
        match self.rollout.ended.get(index) {
            Some(StageEnd::Promoted) => ("promoted", Level::Idle),
            Some(StageEnd::Skipped) => ("skipped", Level::Idle),
            // Documents from before this was written down say nothing; a stage was mostly passed.
            Some(StageEnd::Passed) | None => ("passed", Level::Ok),
        }
    }

    /// Count one device where it is.
    fn place(&self, device: &Device, part: &Part, into: &mut Progress) {
        let runs = self.candidate.is_some_and(|m| device.runs(m));
        let told = device.desired.as_ref().filter(|d| d.rollout.as_ref() == Some(&self.rollout.id));
        let slot = match told.map(|d| d.intent) {
            Some(Intent::Rollback) if !runs => &mut into.rolled_back,
            _ if part.failure.is_some() => &mut into.failed,
            Some(Intent::Rollback) => &mut into.working,
            _ if runs && device.reported.as_ref().is_some_and(|r| r.phase == Phase::Probation) => &mut into.probation,
            _ if runs => &mut into.committed,
            _ if !device.has_seen_desired() => &mut into.pending,
            _ => &mut into.working,
        };
        *slot += 1;
    }

    fn guardrails(&self) -> Vec<Guardrail> {
        let Some(found) = self.facts.snapshot.evidence.get(&self.rollout.id) else { return Vec::new() };
        let checks = self.report.and_then(|r| r.gate.as_ref()).map(|g| g.checks.as_slice()).unwrap_or_default();
        let rails = self.rollout.spec.policy.gate.guardrails.iter();
        rails
            .map(|rail| {
                let arms = match rail.metric {
                    Metric::DeviceFailures => self.report.map(|r| r.failures).unwrap_or_default(),
                    metric => found.arms.get(&metric).copied().unwrap_or_default(),
                };
                let check = checks.iter().find(|c| c.name == rail.metric.to_string());
                let verdict = check
                    .and_then(|c| c.verdict.clone())
                    .unwrap_or_else(|| evidence::compare(rail.metric, &arms.canary, &arms.control, &rail.limits));
                let outcome = check.map_or(verdict.outcome, |c| c.outcome);
                let seen = verdict.estimate.is_some();
                let (word, level) = if seen { outcome_word(outcome) } else { ("waiting", Level::Idle) };
                let sentence = check.map_or_else(|| verdict.sentence.clone(), |c| c.sentence.clone());
                let row = Guardrail { sentence, ..guardrail(rail, &arms, &verdict, word, level) };
                if rail.metric == Metric::Latency { of_latency(row, found) } else { row }
            })
            .collect()
    }

    fn checks(&self) -> Vec<Check> {
        let Some(gate) = self.report.and_then(|r| r.gate.as_ref()) else { return Vec::new() };
        let plain = gate.checks.iter().filter(|c| c.name.parse::<Metric>().is_err());
        plain
            .map(|c| {
                let (verdict, level) = outcome_word(c.outcome);
                Check { name: c.name.clone(), verdict: verdict.to_owned(), level, sentence: c.sentence.clone() }
            })
            .collect()
    }

    fn failing(&self) -> (Vec<FailingDevice>, u64) {
        let mut failed: Vec<_> = self.members.iter().filter_map(|(d, p)| Some((d, p, p.failure.as_ref()?))).collect();
        failed.sort_by(|a, b| a.0.id.cmp(&b.0.id));
        let total = failed.len() as u64;
        let shown = failed.into_iter().take(MAX_FAILING).map(|(device, part, reason)| FailingDevice {
            device: device.id.to_string(),
            cohort: self.facts.cohort_name(device),
            phase: if part.exposed_at.is_some() { "reverted" } else { "refused" }.to_owned(),
            code: reason.code.to_string(),
            sentence: reason.to_string(),
            at: device.reported.as_ref().filter(|r| r.reason.is_some()).map(|r| r.at),
        });
        (shown.collect(), total)
    }

    fn consequences(&self) -> Vec<Consequence> {
        let target = self.stage.map_or(0, |i| self.stage_target(i));
        let next = self.stage.map_or(0, |i| self.stage_target(i + 1)).max(target);
        let version = &self.rollout.spec.version;
        let say = |action: &str, sentence: String| Consequence { action: action.to_owned(), sentence };
        let aborted = self.report.map(|r| r.if_aborted.join(" ")).unwrap_or_default();
        let overdue = self.report.map_or(0, |r| r.counts.overdue + r.counts.unanswered);
        let failing = self.members.iter().filter(|(_, p)| p.failure.is_some()).count() + overdue;
        vec![
            say(
                "abort",
                if aborted.is_empty() {
                    "No further device is told, and every device that has the version goes back.".to_owned()
                } else {
                    aborted
                },
            ),
            say("pause", "No further device is told; devices that run the version go on with it, and the gate keeps judging.".to_owned()),
            say("resume", "The stage goes on and its soak begins anew.".to_owned()),
            say(
                "promote",
                format!(
                    "The next stage begins without waiting for the gate: {} get {version} instead of {}.",
                    words::plural(next, "device"),
                    words::count(target)
                ),
            ),
            say(
                "promote-all",
                format!(
                    "Every device of the line gets {version} without waiting for the gate: {}.",
                    words::plural(self.scope(None) as u64, "device")
                ),
            ),
            say("approve", "The next stage may begin once its gate has passed. Somebody other than the author must approve.".to_owned()),
            say(
                "dismiss",
                "The alarm that stands is waved through for this stage, and still shows; a proven failure and missing data cannot be dismissed.".to_owned(),
            ),
            say("retry", format!("{} that failed or did not answer in time told to try again.", words::plural(failing as u64, "device"))),
        ]
    }
}

fn empty_stage() -> Stage {
    Stage {
        name: String::new(),
        target: String::new(),
        state: "pending".to_owned(),
        level: Level::Idle,
        sentence: String::new(),
        share: 0.0,
        target_devices: 0,
        actual: Progress::default(),
        soak_ms: 0,
        soak_left_ms: None,
        opened_at: None,
        closed_at: None,
    }
}

/// The stage it is in; for one that is over, the stage it ended in, from its moves.
fn ended_in(rollout: &crate::rollout::Rollout) -> Option<usize> {
    if let Some(stage) = rollout.state.stage() {
        return Some(stage);
    }
    let last = rollout.spec.policy.stages.len().saturating_sub(1);
    if matches!(rollout.state, RolloutState::Completed { .. }) {
        return Some(last);
    }
    let started = rollout.transitions.iter().any(|step| step.did == "start");
    started.then(|| rollout.ended.len().min(last))
}

fn target_words(spec: &StageSpec) -> String {
    let whom = if spec.cohorts.is_empty() {
        "every cohort".to_owned()
    } else {
        words::list(&spec.cohorts.iter().map(ToString::to_string).collect::<Vec<_>>())
    };
    let with = spec.selector.to_string();
    let with = if with.is_empty() { String::new() } else { format!(" with {with}") };
    if spec.share >= 1.0 { format!("all of {whom}{with}") } else { format!("{} of {whom}{with}", words::whole_percent(spec.share)) }
}

fn outcome_word(outcome: Outcome) -> (&'static str, Level) {
    match outcome {
        Outcome::Pass => ("pass", Level::Ok),
        Outcome::Inconclusive => ("inconclusive", Level::Warn),
        Outcome::Fail => ("fail", Level::Bad),
    }
}

fn guardrail(rail: &crate::rollout::Guardrail, arms: &evidence::Arms, verdict: &evidence::Verdict, word: &str, level: Level) -> Guardrail {
    let better = rail.metric.higher_is_better(&rail.limits);
    Guardrail {
        metric: rail.metric.to_string(),
        title: crate::io::web::words::capital(&rail.metric.title()),
        verdict: word.to_owned(),
        level,
        unit: "%".to_owned(),
        canary: arms.canary.share(),
        canary_n: arms.canary.n.max(0.0) as u64,
        control: arms.control.share(),
        control_n: arms.control.n.max(0.0) as u64,
        difference: verdict.estimate,
        lower: verdict.lower,
        upper: verdict.upper,
        threshold: Some(if better { -rail.limits.margin } else { rail.limits.margin }),
        higher_is_worse: !better,
        sentence: verdict.sentence.clone(),
    }
}

/// Latencies have medians, not shares; what is judged is their ratio less 1.
fn of_latency(row: Guardrail, found: &evidence::Evidence) -> Guardrail {
    let micros = |side: &crate::sequential::ladder::Ladder| side.median(0.5).map(|median| median.value.exp2() / 1e3);
    Guardrail { unit: "µs".to_owned(), canary: micros(&found.latency.canary), control: micros(&found.latency.control), ..row }
}
