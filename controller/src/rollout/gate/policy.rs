//! What an operator says about a gate: what is compared, what is needed before a stage may end, and the one number that states how
//! often a healthy version may be stopped.
use std::collections::BTreeMap;

use leeway_protocol::report::MAX_USER_METRICS;
use serde::{Deserialize, Serialize};

use crate::rollout::evidence::{Limits, Metric};

/// What is compared, and what is needed before a stage may end.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct GatePolicy {
    /// Canary against control.
    pub guardrails: Vec<Guardrail>,
    /// Chance that a version no worse than the baseline is aborted by the comparisons, over the whole rollout. Guardrails without
    /// an `alpha` of their own share what those with one leave over.
    pub false_abort: f64,
    /// Devices that prove to run the version.
    pub min_devices: u32,
    /// Inferences they have reported.
    pub min_inferences: u64,
    /// Largest share of failed inferences; where the control group fails as often, too much is no proof and only holds the stage up.
    pub max_error_ratio: f64,
    /// Devices failed by the model that are too many, if they are also more than `max_failed_share` of those that tried.
    pub max_failed: u32,
    /// See `max_failed`.
    pub max_failed_share: f64,
    /// What too many such devices lead to where the comparison of failed devices has heard a control group.
    pub too_many: TooMany,
    /// A device that ran the version and then was silent for so long, milliseconds, is lost: against the model where a control
    /// group that shares the network is heard of, and a reason to stop and look everywhere else.
    pub lost_after_ms: u64,
}

impl Default for GatePolicy {
    fn default() -> Self {
        let rail = |metric, need| Guardrail { metric, need, ..Guardrail::default() };
        // Five points of accuracy may be the price of a faster model; one device in a hundred is what an update may cost anyway.
        let strict = Limits { tolerance: Some(0.01), ..Limits::default() };
        // One more bucket of the histogram: what it tells exactly.
        let twice = Limits { margin: 1.0, ..Limits::default() };
        Self {
            guardrails: vec![
                rail(Metric::ErrorRatio, Need::Always),
                rail(Metric::SlowRatio, Need::IfSeen),
                rail(Metric::EstimatedAccuracy, Need::IfSeen),
                rail(Metric::LabelledAccuracy, Need::IfSeen),
                Guardrail { limits: strict, ..rail(Metric::DeviceFailures, Need::IfSeen) },
                Guardrail { limits: twice, ..rail(Metric::Latency, Need::IfSeen) },
            ],
            false_abort: 0.05,
            min_devices: 1,
            min_inferences: 100,
            max_error_ratio: 0.05,
            max_failed: 2,
            max_failed_share: 0.1,
            too_many: TooMany::Abort,
            lost_after_ms: 3_600_000,
        }
    }
}

/// What an exceeded absolute limit of failed devices leads to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum TooMany {
    /// The rollout is aborted, whatever the control group does: right where devices hardly ever fail because of a healthy model.
    /// With a baseline of 2 %, "2 and more than 10 %" alone aborts 6 % of healthy rollouts.
    #[default]
    Abort,
    /// The stage is held up; only the comparison aborts, or that nobody is left who could pass.
    Hold,
}

/// One comparison.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Guardrail {
    /// Of what.
    pub metric: Metric,
    /// When it is too much.
    pub limits: Limits,
    /// Whether the stage waits for it.
    pub need: Need,
    /// What counts as passed.
    pub proof: Proof,
    /// Its part of the gate's `false_abort`, relative to the others'; absent: 2 for device failures, 1 for all else.
    pub weight: Option<f64>,
}

impl Default for Guardrail {
    fn default() -> Self {
        Self { metric: Metric::ErrorRatio, limits: Limits::default(), need: Need::Always, proof: Proof::NoHarm, weight: None }
    }
}

impl Guardrail {
    fn weight(&self) -> f64 {
        let usual = if self.metric == Metric::DeviceFailures { 2.0 } else { 1.0 };
        self.weight.filter(|w| w.is_finite()).unwrap_or(usual).max(0.0)
    }

    pub(super) fn decides(&self) -> bool {
        self.need != Need::Observe
    }
}

impl GatePolicy {
    /// Whether its guardrails say all that is needed, or what is missing.
    pub fn check(&self) -> Result<(), String> {
        let mut ways = BTreeMap::new();
        for rail in &self.guardrails {
            let (metric, way) = (rail.metric, rail.limits.higher_is_better);
            match (metric, way) {
                (Metric::User(_), None) => {
                    return Err(format!("{metric} needs limits.higher_is_better: true where more is good, false where less is"));
                }
                (Metric::User(_), Some(way)) => {
                    if *ways.entry(metric).or_insert(way) != way {
                        return Err(format!("{metric} is said to be better both when higher and when lower: say one of them"));
                    }
                }
                (_, Some(_)) => return Err(format!("it is known which way {metric} is good: leave limits.higher_is_better out")),
                (_, None) => {}
            }
        }
        if ways.len() > MAX_USER_METRICS {
            return Err(format!("{} user metrics are compared: at most {MAX_USER_METRICS} can be", ways.len()));
        }
        Ok(())
    }

    /// The limits of a metric, by its first guardrail; the usual ones where it has none.
    pub fn limits_of(&self, metric: Metric) -> Limits {
        self.guardrails.iter().find(|rail| rail.metric == metric).map(|rail| rail.limits).unwrap_or_default()
    }

    /// The chance of a wrong failure that a guardrail may use over the whole rollout.
    pub fn alpha_of(&self, rail: &Guardrail) -> f64 {
        if let Some(stated) = rail.limits.alpha {
            return stated;
        }
        let rails = || self.guardrails.iter().filter(|r| r.decides());
        let left = self.false_abort.clamp(0.0, 0.5) - rails().filter_map(|r| r.limits.alpha).sum::<f64>();
        // One that is only shown takes nothing from the others.
        let shown = if rail.decides() { 0.0 } else { rail.weight() };
        let weights: f64 = rails().filter(|r| r.limits.alpha.is_none()).map(Guardrail::weight).sum::<f64>() + shown;
        if weights > 0.0 { left.max(0.0) * rail.weight() / weights } else { 0.0 }
    }

    /// The chance that the comparisons abort a version no worse than the baseline: what is stated, or more if guardrails with an
    /// `alpha` of their own add up to more.
    pub fn promised(&self) -> f64 {
        self.guardrails.iter().filter(|r| r.decides()).map(|r| self.alpha_of(r)).sum::<f64>().min(1.0)
    }
}

/// Whether the stage waits for a verdict.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Need {
    /// It waits, even if no data ever comes.
    #[default]
    Always,
    /// It waits once both sides have data; labels, for one, may never come.
    IfSeen,
    /// Only shown.
    Observe,
}

/// What counts as passed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Proof {
    /// Enough trials on both sides, no proof of harm, and an estimate within the margin.
    #[default]
    NoHarm,
    /// Proof that the version is not worse than the margin; takes far more data.
    NonInferior,
}
