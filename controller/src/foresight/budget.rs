//! What a rollout may cost at worst, as its author states it; a plan that foresees more is not begun unless somebody insists.
use serde::{Deserialize, Serialize};

use super::Forecast;
use super::harm::Harm;
use crate::planner::draft::duration;

/// A day, in milliseconds.
pub const DAY_MS: f64 = 86_400_000.0;

/// A risk budget. Absent parts are not limited; the forecast reports them all the same.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RiskBudget {
    /// Share of the line's devices on which a bad version may run before it is stopped, in nine of ten cases.
    pub max_exposed_if_bad: Option<f64>,
    /// The harms that this is about.
    pub harms: Vec<Harm>,
    /// Chance that a good version is taken back by mistake.
    pub max_false_abort: Option<f64>,
    /// Days until the rollout is complete, in nine of ten cases.
    pub max_days: Option<f64>,
}

impl Default for RiskBudget {
    fn default() -> Self {
        Self { max_exposed_if_bad: None, harms: Harm::ALL.to_vec(), max_false_abort: None, max_days: None }
    }
}

impl RiskBudget {
    /// What does not add up, in a sentence.
    pub fn problem(&self) -> Option<String> {
        let share = |name: &str, value: Option<f64>| {
            value.filter(|v| !(0.0..=1.0).contains(v)).map(|v| format!("{name} is {v}: use a share from 0 to 1"))
        };
        share("max_exposed_if_bad", self.max_exposed_if_bad)
            .or_else(|| share("max_false_abort", self.max_false_abort))
            .or_else(|| {
                self.max_days.filter(|days| days.is_nan() || *days <= 0.0).map(|days| format!("max_days is {days}: use more than 0"))
            })
            .or_else(|| {
                (self.harms.is_empty() && self.max_exposed_if_bad.is_some()).then(|| "harms is empty: name at least one".to_owned())
            })
    }

    /// What the forecast breaks of it, in sentences.
    pub fn broken_by(&self, forecast: &Forecast) -> Vec<String> {
        let mut broken = Vec::new();
        if forecast.devices == 0 {
            return broken;
        }
        if let Some(limit) = self.max_exposed_if_bad {
            let share = |devices: u64| devices as f64 / forecast.devices.max(1) as f64;
            for harm in forecast.harms.iter().filter(|h| self.harms.contains(&h.harm) && share(h.exposed_p90) > limit) {
                let (percent, most) = (share(harm.exposed_p90) * 100.0, limit * 100.0);
                broken.push(format!(
                    "{}, {} devices ({percent:.1} %) may have run it before it is stopped; the budget allows {most:.1} %.",
                    harm.clause, harm.exposed_p90
                ));
            }
        }
        if let Some(limit) = self.max_false_abort.filter(|limit| forecast.false_abort.share > *limit) {
            let chance = forecast.false_abort.words();
            broken.push(format!("A good version is stopped by mistake in {chance} of runs; the budget allows {:.1} %.", limit * 100.0));
        }
        if let Some(days) = self.max_days {
            let limit = (days * DAY_MS) as i64;
            let foreseen = forecast.reach.complete_p90_ms;
            if foreseen.is_none_or(|ms| i64::try_from(ms).is_ok_and(|ms| ms > limit)) {
                let takes = foreseen.map_or_else(
                    || "does not complete within the two weeks looked at".to_owned(),
                    |ms| format!("takes {}", duration(ms as i64)),
                );
                broken.push(format!("In one of ten runs it {takes} or longer; the budget allows {}.", duration(limit)));
            }
        }
        broken
    }
}
