//! The suite's words for a policy, as Leeway's.
use leeway_controller::rollout::evidence::Limits;
use leeway_controller::rollout::gate::Need;
use leeway_controller::rollout::{AbortRule, Every, Guardrail, Membership, OnSuccess, Ramp, Retries, RolloutPolicy, Stage};

use crate::format;

/// `90s`, `30m`, `8h`, `2d` as milliseconds.
pub fn millis(text: &str) -> u64 {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let number: u64 = digits.parse().unwrap_or_else(|_| panic!("{text:?} is not a time such as 90s"));
    let unit = match &text[digits.len()..] {
        "s" => 1000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => panic!("{text:?} needs a unit: 90s, 30m, 8h or 2d"),
    };
    number * unit
}

fn word<T: serde::de::DeserializeOwned>(text: &str) -> T {
    serde_json::from_value(text.into()).unwrap_or_else(|e| panic!("{text:?}: {e}"))
}

/// The defaults of the suite: half, then all; soak 10 s; a fifth held back to compare with.
pub fn defaults() -> RolloutPolicy {
    let stage = |name: &str, share: f64| Stage { soak_ms: 10_000, deadline_ms: 60_000, ..Stage::share(name, share) };
    let mut policy = RolloutPolicy { device_deadline_ms: 30_000, control_share: 0.2, ..RolloutPolicy::default() };
    policy.stages = vec![stage("half", 0.5), stage("all", 1.0)];
    policy.gate.min_inferences = 50;
    policy.gate.lost_after_ms = 60_000;
    policy
}

/// The policy of a case.
pub fn of(asked: &format::Policy) -> RolloutPolicy {
    let mut policy = defaults();
    if let Some(stages) = &asked.stages {
        policy.stages = stages.iter().map(stage).collect();
    }
    policy.control_share = asked.control.unwrap_or(policy.control_share);
    policy.max_per_minute = asked.per_minute.unwrap_or(policy.max_per_minute);
    policy.max_in_flight = asked.in_flight.unwrap_or(policy.max_in_flight);
    policy.require_approval = asked.approval.unwrap_or(policy.require_approval);
    policy.proof_inferences = asked.proof_inferences.unwrap_or(policy.proof_inferences);
    policy.hold_back_share = asked.hold_back.unwrap_or(policy.hold_back_share);
    policy.balance_by.clone_from(&asked.balance_by);
    policy.slice_by = asked.slice_by.clone().unwrap_or_default();
    policy.gate.max_failed = asked.max_failed.unwrap_or(policy.gate.max_failed);
    policy.gate.min_devices = asked.min_devices.unwrap_or(policy.gate.min_devices);
    policy.gate.min_inferences = asked.min_inferences.unwrap_or(policy.gate.min_inferences);
    policy.gate.max_error_ratio = asked.max_errors.unwrap_or(policy.gate.max_error_ratio);
    policy.gate.guardrails.extend(asked.user_metrics.iter().flatten().map(user_metric));
    policy.rate = asked.ramp.as_ref().map(ramp);
    if let Some(retries) = &asked.retries {
        policy.retries = Retries { max: retries.max, after_ms: millis(&retries.after) };
    }
    if let Some(timers) = &asked.timers {
        let set = |into: &mut u64, text: &Option<String>| text.as_ref().map_or((), |text| *into = millis(text));
        set(&mut policy.offline_after_ms, &timers.offline);
        set(&mut policy.unseen_after_ms, &timers.unseen);
        set(&mut policy.device_deadline_ms, &timers.stuck);
        set(&mut policy.gate.lost_after_ms, &timers.silent);
    }
    let rules = asked.abort.iter().flatten();
    policy.abort = rules
        .map(|rule| AbortRule {
            failure: word(&rule.failure),
            threshold_share: rule.share,
            min_executed: rule.min,
            action: word(&rule.action),
        })
        .collect();
    policy
}

fn stage(asked: &format::Stage) -> Stage {
    let mut stage = Stage { soak_ms: 10_000, deadline_ms: 60_000, ..Stage::share(&asked.name, asked.share) };
    stage.cohorts = asked.cohorts.iter().flatten().map(|c| c.parse().expect("a cohort's name")).collect();
    stage.selector = asked.labels.as_deref().unwrap_or_default().parse().expect("a selector");
    stage.soak_ms = asked.soak.as_deref().map_or(stage.soak_ms, millis);
    stage.deadline_ms = asked.deadline.as_deref().map_or(stage.deadline_ms, millis);
    stage.success_share = asked.success_share.unwrap_or(stage.success_share);
    stage.on_success = asked.on_success.as_deref().map_or(OnSuccess::Next, word);
    stage.require_approval = asked.approval.unwrap_or(false);
    stage.membership = asked.membership.as_deref().map_or(Membership::Open, word);
    stage
}

fn user_metric(asked: &format::UserMetric) -> Guardrail {
    let higher = |way: &str| match way {
        "higher" => true,
        "lower" => false,
        other => panic!("{other:?} is no way to be better: use higher or lower"),
    };
    let limits = Limits { higher_is_better: asked.better.as_deref().map(higher), ..Limits::default() };
    let need = asked.need.as_deref().map_or(Need::Always, word);
    Guardrail { metric: word(&format!("user:{}", asked.name)), limits, need, ..Guardrail::default() }
}

fn ramp(asked: &format::Ramp) -> Ramp {
    let every = match asked.every.iter().next().map(|(what, count)| (what.as_str(), *count)) {
        Some(("notified", count)) => Every::Notified(count),
        Some(("succeeded", count)) => Every::Succeeded(count),
        other => panic!("a ramp counts notified or succeeded, not {other:?}"),
    };
    Ramp { base_per_minute: asked.base, factor: asked.factor, every, max_per_minute: asked.max }
}
