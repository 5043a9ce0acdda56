//! The label budget of one line: whom to ask for how many labels today, and why.
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// The plan for one day.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct LabelsWanted {
    /// Model line.
    pub line: String,
    /// The day it is for (UTC), `2026-11-24`. The draw is the same all day; rates and reasons follow what is known.
    pub day: String,
    /// Labels asked for.
    pub labels: u64,
    /// The line's budget, labels a day.
    pub per_day: u64,
    /// Share of the budget that is spread over all decisions alike.
    pub floor: f64,
    /// Half of the interval of measured accuracy that is narrow enough.
    pub half_width: f64,
    /// All of it in a sentence.
    pub sentence: String,
    /// By version and cohort, most labels first.
    pub shares: Vec<LabelShare>,
}

/// What one version in one cohort gets.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct LabelShare {
    /// The cohort.
    pub cohort: String,
    /// The version.
    pub version: String,
    /// Decisions a day.
    pub decisions_per_day: f64,
    /// Labels a day on average.
    pub labels_per_day: f64,
    /// Of these, by the floor.
    pub uniform: f64,
    /// Probability that a decision is asked for its label; its inverse is its weight.
    pub inclusion: f64,
    /// Why it gets as many.
    pub reason: String,
    /// The devices drawn for the day.
    pub devices: Vec<LabelAsk>,
}

/// What one device is asked for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct LabelAsk {
    /// Which.
    pub device: String,
    /// Labels, of a random sample of its decisions of the day.
    pub labels: u64,
    /// Decisions it makes a day.
    pub decisions_per_day: f64,
    /// Probability with which each of its decisions was to be asked, before the draw.
    pub inclusion: f64,
}
