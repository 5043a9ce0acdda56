//! What a rollout could never pass, told before it begins and not by a deadline days later.
//!
//! Two kinds are kept apart. What no fleet could pass is refused ([`never`]): the policy contradicts itself. What the devices that are
//! there now are too few for is only said ([`not_yet`]), because a fleet grows, and members of a stage come and go. What stays true: neither
//! says anything about a rollout that the gate could pass as things are.
use crate::fleet::bucket::quota;

use super::gate::Need;
use super::{Guardrail, RolloutPolicy, Stage};

/// Why a rollout of this policy could not pass in any fleet, in a sentence that says what to change. `compares`: whether there is a
/// version to compare with.
pub fn never(policy: &RolloutPolicy, compares: bool) -> Option<String> {
    contradiction(policy, compares).map(|why| format!("this rollout could never pass: {why}"))
}

fn contradiction(policy: &RolloutPolicy, compares: bool) -> Option<String> {
    let timeless = |stage: &&Stage| stage.deadline_ms == 0;
    if let Some(stage) = policy.stages.iter().find(timeless) {
        return Some(format!("stage {:?} has a deadline of 0, by which no device can have answered: give it one", stage.name));
    }
    if policy.device_deadline_ms == 0 {
        return Some("a device_deadline of 0 makes every device overdue as it is told: give it one".to_owned());
    }
    let waits = awaited(policy).next().filter(|_| compares)?.metric;
    let why = if policy.control_share <= 0.0 {
        "control_share is 0, so no stage holds a control group: give it a share, such as 0.2"
    } else if policy.stages.len() == 1 {
        "the only stage is the last, which takes in everyone and holds no control group: put a smaller stage before it"
    } else {
        return None;
    };
    Some(format!("guardrail {waits} waits for a comparison that can never come, because {why}, or set its need to if_seen or observe"))
}

/// What cannot pass with the members that each stage has now, in sentences.
pub fn not_yet(policy: &RolloutPolicy, compares: bool, members: &[usize]) -> Vec<String> {
    let mut found = Vec::new();
    for (index, (stage, members)) in policy.stages.iter().zip(members).enumerate() {
        let (name, members) = (&stage.name, *members);
        if members == 0 {
            // Nobody is there to be too few; that is said of the fleet.
            continue;
        }
        let holds = compares && policy.control_share > 0.0 && index + 1 < policy.stages.len();
        let control = if holds { quota(policy.control_share, members).min(members.saturating_sub(1)) } else { 0 };
        let canaries = quota(stage.share, members).min(members - control);
        let needed = policy.gate.min_devices.max(1) as usize;
        if canaries < needed {
            found.push(format!(
                "Stage {name} would tell {canaries} of its {members} devices, and min_devices asks for {needed}: it cannot pass before the fleet has grown."
            ));
        }
        for rail in awaited(policy).filter(|_| holds) {
            let (metric, least) = (rail.metric, rail.limits.min_devices.max(1));
            let fewer = canaries.min(control);
            if (fewer as u64) < least {
                found.push(format!(
                    "Stage {name} compares {canaries} canaries with {control} held back, and guardrail {metric} waits for {least} on each side: it cannot pass before the fleet has grown."
                ));
            }
        }
    }
    found
}

fn awaited(policy: &RolloutPolicy) -> impl Iterator<Item = &Guardrail> {
    policy.gate.guardrails.iter().filter(|rail| rail.need == Need::Always)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(change: impl FnOnce(&mut RolloutPolicy)) -> RolloutPolicy {
        let mut policy = RolloutPolicy::default();
        change(&mut policy);
        policy
    }

    #[test]
    fn what_no_fleet_could_pass_is_told_with_what_to_change() {
        let lenient = |policy: &mut RolloutPolicy| policy.gate.guardrails.iter_mut().for_each(|rail| rail.need = Need::IfSeen);
        let alone = |policy: &mut RolloutPolicy| policy.stages = vec![Stage::share("all", 1.0)];
        // (policy, whether there is a baseline, what is said)
        let table = [
            (with(|_| ()), true, None),
            (with(|p| p.control_share = 0.0), true, Some("control_share is 0")),
            (with(|p| p.control_share = 0.0), false, None),
            (with(|p| (p.control_share = 0.0, lenient(p)).1), true, None),
            (with(alone), true, Some("the only stage is the last")),
            (with(alone), false, None),
            (with(|p| (alone(p), lenient(p)).1), true, None),
            (with(|p| p.stages[1].deadline_ms = 0), true, Some("\"quarter\" has a deadline of 0")),
            (with(|p| p.device_deadline_ms = 0), false, Some("device_deadline of 0")),
        ];
        for (n, (policy, compares, said)) in table.into_iter().enumerate() {
            let got = never(&policy, compares);
            assert_eq!(got.is_some(), said.is_some(), "row {n}: {got:?}");
            assert!(said.is_none_or(|said| got.as_ref().is_some_and(|got| got.contains(said))), "row {n}: {got:?}");
        }
        assert!(never(&with(|p| p.control_share = 0.0), true).unwrap().contains("error_ratio"));
    }

    #[test]
    fn what_the_fleet_is_too_small_for_is_only_said() {
        // (members of each stage, min_devices, devices that a comparison waits for, stages that are spoken of)
        let table = [
            ([60, 60, 60], 1, 1, vec![]),
            ([60, 60, 60], 4, 1, vec!["canary"]),
            ([60, 60, 60], 16, 1, vec!["canary", "quarter"]),
            ([60, 60, 60], 61, 1, vec!["canary", "quarter", "all"]),
            ([60, 60, 60], 1, 4, vec!["canary"]),
            ([1, 60, 60], 1, 1, vec!["canary"]),
            ([0, 60, 60], 1, 1, vec![]),
        ];
        for (members, min_devices, least, stages) in table {
            let mut policy = with(|p| p.gate.min_devices = min_devices);
            policy.gate.guardrails[0].limits.min_devices = least;
            let said = not_yet(&policy, true, &members);
            let named: Vec<&str> = said.iter().filter_map(|one| one.split_whitespace().nth(1)).collect();
            assert_eq!(named, stages, "{members:?} {min_devices} {least}: {said:?}");
        }
        let alone = not_yet(&with(|p| p.gate.min_devices = 4), false, &[100, 100, 100]);
        assert_eq!(alone, Vec::<String>::new(), "without a baseline nothing is held back");
    }
}
