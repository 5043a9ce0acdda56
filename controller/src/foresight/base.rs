//! What the fleet's own history says about ordinary days: how often devices fail to take a version, how often inferences fail.
//!
//! A good version is one that does no worse than this. Where nothing was recorded yet a stated assumption stands in, and failure
//! rates are drawn towards it with the weight of some fifty devices, so that three lucky installs do not promise a perfect fourth.
use std::collections::BTreeSet;

use leeway_protocol::reported::Running;
use leeway_protocol::time::Timestamp;

use super::study::is_unforeseen;
use crate::fleet::{Arm as Side, Device};
use crate::rollout::evidence::{Arm, Metric};
use crate::rollout::gate::blames_model;
use crate::rollout::{Rollout, RolloutState};
use crate::snapshot::Snapshot;

/// Share of devices that fail because of a good version, until the fleet has a history: the figure of the gate's own tests.
pub const ASSUMED_FAILURE: f64 = 0.02;
/// Share that refuses for reasons of its own, such as a full disk.
pub const ASSUMED_REFUSAL: f64 = 0.005;
/// Devices' worth of trust in the two above.
const PRIOR_DEVICES: f64 = 50.0;
/// Share of inferences that fail on a good day.
pub const ASSUMED_ERRORS: f64 = 0.001;
/// Share of inferences slower than the limit.
const ASSUMED_SLOW: f64 = 0.005;
/// Share of inferences that get a label where labels are known to arrive but not how many.
const ASSUMED_LABELLED: f64 = 0.05;
/// Inferences per hour and device: one each ten seconds.
pub const ASSUMED_PER_HOUR: f64 = 360.0;
/// A device must have served the same model so long before its pace is believed.
const PACE_MS: i64 = 10 * 60_000;

/// A share, and how far devices differ in it for good.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rate {
    /// Over all devices.
    pub share: f64,
    /// Variance between devices.
    pub spread: f64,
}

/// Ordinary days.
#[derive(Debug, Clone, PartialEq)]
pub struct Base {
    /// Devices that fail because of a good version.
    pub failure: f64,
    /// Devices that refuse it for reasons of their own.
    pub refusal: f64,
    /// Inferences that fail.
    pub errors: Rate,
    /// Inferences that are too slow.
    pub slow: Rate,
    /// Labels: which share of inferences gets one, and how many of those are right. `None` where none ever came.
    pub labelled: Option<(f64, Rate)>,
    /// Accuracy estimated from confidence. `None` where the line's models have no calibration.
    pub estimated: Option<Rate>,
    /// Inferences per hour of a device that has not shown its own pace.
    pub per_hour: f64,
    /// Where this comes from, in sentences.
    pub sources: Vec<String>,
}

impl Base {
    /// What is known of the line of `rollout`.
    pub fn of(snapshot: &Snapshot, rollout: &Rollout, members: &[&Device]) -> Self {
        let mut sources = Vec::new();
        let (failure, refusal) = failures(snapshot, rollout, members, &mut sources);
        let rails = rollout.spec.policy.gate.guardrails.iter().map(|rail| rail.metric).filter(|metric| is_unforeseen(*metric));
        let unforeseen: BTreeSet<String> = rails.map(|metric| metric.to_string()).collect();
        if !unforeseen.is_empty() {
            let named = unforeseen.into_iter().collect::<Vec<_>>().join(", ");
            sources
                .push(format!("What applications will tell is not foreseen: the runs wait for no check of {named}, and none stops them."));
        }
        let control = latest_control(snapshot, rollout);
        let of = |metric: Metric| control.and_then(|e| e.arms.get(&metric)).and_then(|arms| rate(&arms.control));
        let errors = of(Metric::ErrorRatio);
        if errors.is_none() {
            sources.push(format!(
                "{:.1} % of inferences fail on an ordinary day (assumed: no rollout has measured it).",
                ASSUMED_ERRORS * 100.0
            ));
        }
        let trials = |metric: Metric| control.and_then(|e| e.arms.get(&metric)).map_or(0.0, |arms| arms.control.n);
        let health = || snapshot.cohorts.values().filter(|c| c.line == rollout.spec.line).filter_map(|c| snapshot.health.get(&c.name));
        let labelled = of(Metric::LabelledAccuracy).map(|rate| {
            let asked = trials(Metric::ErrorRatio).max(1.0);
            ((trials(Metric::LabelledAccuracy) / asked).min(1.0), rate)
        });
        let labelled = labelled.or_else(|| {
            let (share, _) = health().filter_map(|h| h.measured_accuracy).find(|(_, labels)| *labels > 0)?;
            sources.push(format!(
                "{:.0} % of inferences get a label (assumed: labels come, but not how many is known).",
                ASSUMED_LABELLED * 100.0
            ));
            Some((ASSUMED_LABELLED, Rate { share, spread: 0.0 }))
        });
        let estimated =
            of(Metric::EstimatedAccuracy).or_else(|| health().find_map(|h| h.estimated_accuracy).map(|share| Rate { share, spread: 0.0 }));
        let mut paces: Vec<f64> = members.iter().filter_map(|d| pace(d)).collect();
        paces.sort_by(f64::total_cmp);
        let per_hour = paces.get(paces.len() / 2).copied();
        if per_hour.is_none() {
            sources.push(format!("Each device serves {ASSUMED_PER_HOUR:.0} inferences an hour (assumed: none has reported its pace)."));
        }
        let assumed = |share: f64| Rate { share, spread: share * share };
        Self {
            failure,
            refusal,
            errors: errors.unwrap_or(assumed(ASSUMED_ERRORS)),
            slow: of(Metric::SlowRatio).unwrap_or(assumed(ASSUMED_SLOW)),
            labelled,
            estimated,
            per_hour: per_hour.unwrap_or(ASSUMED_PER_HOUR),
            sources,
        }
    }
}

/// Devices' outcomes in earlier rollouts of the line that ended well: those of a bad version are no ordinary days.
fn failures(snapshot: &Snapshot, rollout: &Rollout, members: &[&Device], sources: &mut Vec<String>) -> (f64, f64) {
    let (mut tried, mut failed, mut refused) = (0.0, 0.0, 0.0);
    for part in members.iter().filter_map(|d| d.part.as_ref()).filter(|p| p.arm == Side::Canary) {
        let earlier = snapshot.rollouts.get(&part.rollout);
        if !earlier.is_some_and(|r| r.spec.line == rollout.spec.line && matches!(r.state, RolloutState::Completed { .. })) {
            continue;
        }
        match &part.failure {
            Some(reason) if blames_model(&reason.code) => failed += 1.0,
            Some(_) => refused += 1.0,
            None if part.proven_at.is_some() => {}
            None => continue,
        }
        tried += 1.0;
    }
    let share = |count: f64, assumed: f64| (count + assumed * PRIOR_DEVICES) / (tried + PRIOR_DEVICES);
    let (failure, refusal) = (share(failed, ASSUMED_FAILURE), share(refused, ASSUMED_REFUSAL));
    let whence = if tried > 0.0 {
        format!("{failed:.0} of {tried:.0} did in earlier rollouts, drawn towards an assumed {:.0} %", ASSUMED_FAILURE * 100.0)
    } else {
        "assumed: no rollout of this line has completed yet".to_owned()
    };
    sources.push(format!("A good version fails on {:.1} % of devices ({whence}).", failure * 100.0));
    (failure, refusal)
}

/// The newest rollout of the line whose control group has reported.
fn latest_control<'a>(snapshot: &'a Snapshot, rollout: &Rollout) -> Option<&'a crate::rollout::evidence::Evidence> {
    let with = |r: &&std::sync::Arc<Rollout>| {
        let heard = |e: &std::sync::Arc<_>| {
            let evidence: &crate::rollout::evidence::Evidence = e;
            evidence.arms.get(&Metric::ErrorRatio).is_some_and(|arms| arms.control.n > 0.0)
        };
        r.spec.line == rollout.spec.line && r.id != rollout.id && snapshot.evidence.get(&r.id).is_some_and(heard)
    };
    let newest = snapshot.rollouts.values().filter(with).max_by_key(|r| (r.created_at, r.id.clone()))?;
    snapshot.evidence.get(&newest.id).map(AsRef::as_ref)
}

/// Share and variance between devices, by moments.
fn rate(arm: &Arm) -> Option<Rate> {
    let share = arm.share()?.clamp(0.0, 1.0);
    let devices = arm.devices as f64;
    let spread = if arm.devices >= 2 && arm.n2 > 0.0 {
        let scatter = (arm.x2 - 2.0 * share * arm.nx + share * share * arm.n2).max(0.0) * devices / (devices - 1.0);
        ((scatter - share * (1.0 - share) * arm.n) / arm.n2).max(0.0)
    } else {
        0.0
    };
    Some(Rate { share, spread })
}

/// Inferences per hour of one device, by its last report.
pub fn pace(device: &Device) -> Option<f64> {
    let reported = device.reported.as_ref()?;
    let served = |active: &Running, at: Timestamp| {
        let ms = at.millis_since(active.since);
        (ms >= PACE_MS && active.inferences > 0).then(|| active.inferences as f64 * 3_600_000.0 / ms as f64)
    };
    served(reported.active.as_ref()?, reported.at)
}
