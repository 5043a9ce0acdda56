//! Drift and quality of one line: the features that moved, and accuracy estimated against accuracy measured.
use leeway_protocol::time::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::Level;
use crate::drift::cost::Cost;

/// Drift of one line, over the whole fleet or in one cohort.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Drift {
    /// Model line.
    pub line: String,
    /// Version whose reference is compared against.
    pub version: String,
    /// The cohort, if one was asked for.
    pub cohort: Option<String>,
    /// Cohorts that can be asked for.
    pub cohorts: Vec<String>,
    /// How to read it.
    pub level: Level,
    /// The state in a sentence.
    pub sentence: String,
    /// What is compared: `training data of version 1.0.0, 5 840 rows`.
    pub reference: String,
    /// With what: `last 12 windows, 20 stations, 8 400 inferences`.
    pub current: String,
    /// Windows that came after their block of time was judged, and were left out of it.
    pub late_windows: u64,
    /// How it is judged, with the false-alarm budget in words.
    pub method: String,
    /// Features, moved ones first.
    pub features: Vec<FeatureDrift>,
    /// Devices that differ from their cohort: a broken sensor, not the weather.
    pub devices: Vec<DeviceDrift>,
}

/// One feature.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct FeatureDrift {
    /// Its name.
    pub name: String,
    /// The cohort this row is about; absent when the row is about the fleet.
    pub cohort: Option<String>,
    /// Whether the detector says it moved.
    pub moved: bool,
    /// How to read it.
    pub level: Level,
    /// Evidence, natural logarithm.
    pub log_evidence: f64,
    /// What it must pass.
    pub threshold: f64,
    /// Population stability index: how far, apart from how sure.
    pub psi: f64,
    /// Largest difference of the cumulative shares.
    pub sup_cdf: f64,
    /// Which way: `higher`, `lower`, `wider`, …; empty if unclear.
    pub direction: String,
    /// Share of decisions that permuting the feature changes, 0 to 1, if the publisher measured it.
    pub importance: Option<f64>,
    /// Estimated fall of accuracy, if the publisher measured what the feature is worth.
    pub cost: Option<Cost>,
    /// Whether it moved and that costs next to nothing.
    pub harmless: bool,
    /// Whether it is an output that moved with the change of versions: the release's doing.
    pub release: bool,
    /// Values counted.
    pub n: u64,
    /// Share without a usable value (null, not finite).
    pub missing: f64,
    /// Share outside what the reference saw.
    pub outside: f64,
    /// Since when it counts as moved.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub since: Option<Timestamp>,
    /// The verdict in a sentence.
    pub sentence: String,
    /// Shares, reference against current.
    pub bins: Vec<BinShare>,
}

/// One bin.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct BinShare {
    /// What it holds: `12 – 18`, `below`, `null`.
    pub label: String,
    /// Whether it is one of the special bins (null, not finite, below, above, unseen).
    pub special: bool,
    /// Share of the reference.
    pub reference: f64,
    /// Share now.
    pub current: f64,
}

/// A device whose sensor differs from its cohort's.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct DeviceDrift {
    /// Which.
    pub device: String,
    /// Its cohort.
    pub cohort: String,
    /// The feature.
    pub feature: String,
    /// Evidence, natural logarithm.
    pub log_evidence: f64,
    /// What it must pass.
    pub threshold: f64,
    /// Fall of accuracy that it costs this device at worst, if the publisher measured what the feature is worth.
    pub cost: Option<Cost>,
    /// Since when.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub since: Option<Timestamp>,
    /// A sentence.
    pub sentence: String,
}

/// Quality of one line over time.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Quality {
    /// Model line.
    pub line: String,
    /// The cohort, if one was asked for.
    pub cohort: Option<String>,
    /// The state in a sentence.
    pub sentence: String,
    /// Whether time is the application's (data) time rather than the clock's.
    pub data_time: bool,
    /// Points, rising.
    pub points: Vec<QualityPoint>,
    /// Version changes on the same axis.
    pub markers: Vec<Marker>,
    /// The champion now, cohort by cohort.
    #[serde(default)]
    pub now: Vec<QualityNow>,
    /// What every estimated accuracy here assumes.
    #[serde(default)]
    pub assumption: String,
}

/// What is known about a version's accuracy in one cohort, lately.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct QualityNow {
    /// The cohort.
    pub cohort: String,
    /// The version.
    pub version: String,
    /// Accuracy on held-out data at training time.
    pub expected: Option<f64>,
    /// Estimated from confidence, without labels. Assumes no concept drift.
    pub estimated: Option<f64>,
    /// Measured with labels alone, with an interval that holds at all times.
    pub measured: Option<Accuracy>,
    /// The estimate corrected by the labels; assumes nothing about concept drift.
    pub corrected: Option<Accuracy>,
    /// Labels behind both.
    pub labels: u64,
    /// Whether the labels say that errors rose past the tolerance.
    pub concept_drift: bool,
    /// Evidence for that, natural logarithm.
    pub log_evidence: f64,
    /// What it must pass, by the fleet's budget of false alarms.
    pub threshold: f64,
    /// Since when the evidence has been growing.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub since: Option<Timestamp>,
    /// Other detectors on the same labels. They have no budget, and nothing follows from them.
    pub also: Vec<OtherDetector>,
    /// All of it in a sentence.
    pub sentence: String,
}

/// An accuracy with its interval.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Accuracy {
    /// The estimate.
    pub estimate: f64,
    /// Lower end.
    pub lower: f64,
    /// Upper end.
    pub upper: f64,
}

/// A detector without a budget of false alarms, for those who expect it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct OtherDetector {
    /// `ADWIN` or `Page–Hinkley`.
    pub method: String,
    /// Its parameters.
    pub parameters: String,
    /// Rises of the error share it has seen.
    pub rises: u32,
    /// Start of the block in which it last saw one.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub last: Option<Timestamp>,
}

/// Quality in one period.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct QualityPoint {
    /// Start of the period.
    #[schema(value_type = String, format = DateTime)]
    pub at: Timestamp,
    /// Decisions in it.
    pub decisions: u64,
    /// Accuracy estimated from confidence, without labels. Assumes no concept drift.
    pub estimated: Option<f64>,
    /// Labels that arrived for it.
    pub labels: u64,
    /// Accuracy measured with them.
    pub measured: Option<f64>,
    /// Lower end of the measured accuracy's interval.
    pub lower: Option<f64>,
    /// Upper end.
    pub upper: Option<f64>,
}

/// Something that happened at a moment of a chart.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Marker {
    /// When, on the chart's axis.
    #[schema(value_type = String, format = DateTime)]
    pub at: Timestamp,
    /// What.
    pub label: String,
}
