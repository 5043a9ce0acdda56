//! What a bad version may do, by name: the cases that an answer is given for, and that a risk budget may be about.
use serde::{Deserialize, Serialize};

use super::base::Base;

/// A named harm.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Harm {
    /// Five times as many devices as usual fail to take it or fall back from it.
    DeviceFailures,
    /// Every inference fails.
    InferenceErrors,
    /// Ten points less accurate, without its own confidence showing it: only labels can.
    AccuracyLoss,
}

/// What a version does compared with ordinary days.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Effect {
    /// Share of devices that fail because of it.
    pub failure: f64,
    /// Share of inferences that fail, if not the usual one.
    pub errors: Option<f64>,
    /// Added to the accuracy.
    pub accuracy: f64,
}

impl Harm {
    /// Every one.
    pub const ALL: [Self; 3] = [Self::DeviceFailures, Self::InferenceErrors, Self::AccuracyLoss];

    /// What it does.
    pub fn effect(self, base: &Base) -> Effect {
        let usual = Effect::none(base);
        match self {
            Self::DeviceFailures => Effect { failure: (5.0 * base.failure).min(1.0), ..usual },
            Self::InferenceErrors => Effect { errors: Some(1.0), ..usual },
            Self::AccuracyLoss => Effect { accuracy: -0.1, ..usual },
        }
    }

    /// As the beginning of a sentence.
    pub fn clause(self, base: &Base) -> String {
        match self {
            Self::DeviceFailures => {
                format!("If it fails on {:.0} % of devices (five times as many as usual)", self.effect(base).failure * 100.0)
            }
            Self::InferenceErrors => "If every inference fails".to_owned(),
            Self::AccuracyLoss => "If it is 10 points less accurate and as sure of itself as ever".to_owned(),
        }
    }

    /// The name it has in a budget.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::DeviceFailures => "device_failures",
            Self::InferenceErrors => "inference_errors",
            Self::AccuracyLoss => "accuracy_loss",
        }
    }
}

impl Effect {
    /// A good version.
    pub fn none(base: &Base) -> Self {
        Self { failure: base.failure, errors: None, accuracy: 0.0 }
    }
}
