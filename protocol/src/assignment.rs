//! What the controller wants of one device: the whole desired state, never a change to it.
//!
//! It travels inside the director's signed document (see `trust::director`), so it is always the assignment of exactly one
//! device and one generation. JSON with names, because old agents must survive new fields for years.
use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::ids::{DeviceId, Generation, Line, RolloutId, Version};
use crate::time::Timestamp;

pub mod window;

pub use window::Window;

/// What to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Intent {
    /// Move to the named release.
    Install,
    /// Go back to the named, older release; skips the shadow run, uses the release kept on disk if it is there.
    Rollback,
    /// Stay with what runs; the document only confirms that the controller knows the device.
    Hold,
}

/// The desired state of one device.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Assignment {
    /// Form: 1.
    pub v: u32,
    /// Whose.
    pub device: DeviceId,
    /// Higher than every earlier one for this device.
    pub generation: Generation,
    /// What to do.
    pub intent: Intent,
    /// The release, as the path of a target in the image repository; absent for [`Intent::Hold`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub release: Option<AssignedRelease>,
    /// The rollout that asks for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rollout: Option<RolloutId>,
    /// Why, in a sentence.
    #[serde(default)]
    pub reason: String,
    /// When it was signed.
    pub issued_at: Timestamp,
    /// Spread of the download over so many milliseconds, chosen by the device, against a herd.
    #[serde(default)]
    pub spread_ms: u64,
    /// When an install may begin, by the device's own clock; any time if absent. A rollback never waits for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub window: Option<Window>,
    /// Beside the active model first.
    #[serde(default)]
    pub shadow: Shadow,
    /// Then alone, on trial.
    #[serde(default)]
    pub probation: Probation,
    /// When a window of counts closes.
    #[serde(default)]
    pub windows: Windows,
    /// What samples may be kept and sent.
    #[serde(default)]
    pub capture: CapturePolicy,
    /// Digests of manifests that failed in the fleet on devices like this one: never fallen back to, forgotten once another release
    /// runs for good. At most [`MAX_AVOID`] count.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub avoid: Vec<Digest>,
}

/// Releases that an assignment may tell a device to forget: a device keeps two.
pub const MAX_AVOID: usize = 16;

/// Which release.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AssignedRelease {
    /// Path of the model's target, `models/<line>/<release|auto>/<version>.onnx`.
    pub path: String,
    /// The model line.
    pub line: Line,
    /// The version's name, for people.
    pub version: Version,
}

/// The path of a release's target: `auto` for the trainer's own role, `release` for people's.
pub fn target_path(line: &Line, auto: bool, version: &Version) -> String {
    let role = if auto { "auto" } else { "release" };
    format!("models/{line}/{role}/{version}.onnx")
}

/// How long the new model runs beside the active one, answering nobody.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Shadow {
    /// Inferences to compare; 0 skips the shadow run.
    pub min_inferences: u64,
    /// Give up waiting for them after so many milliseconds and go on with what was compared.
    pub max_ms: u64,
    /// Largest share of inferences decided differently; 1 never refuses (a better model decides differently).
    pub max_disagreement: f64,
}

impl Default for Shadow {
    fn default() -> Self {
        Self { min_inferences: 50, max_ms: 600_000, max_disagreement: 1.0 }
    }
}

/// The trial of an activated model; passing it needs no network.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Probation {
    /// At least so many milliseconds.
    pub min_ms: u64,
    /// And at least so many inferences.
    pub min_inferences: u64,
    /// Starts of the runner it may use up before the device reverts.
    pub boots: u32,
    /// Largest share of failed inferences.
    pub max_error_ratio: f64,
}

impl Default for Probation {
    fn default() -> Self {
        Self { min_ms: 60_000, min_inferences: 100, boots: 3, max_error_ratio: 0.02 }
    }
}

/// When a window closes: whichever comes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Windows {
    /// After so many inferences.
    pub max_inferences: u64,
    /// After so many milliseconds, if there was at least one inference.
    pub max_ms: u64,
}

impl Default for Windows {
    fn default() -> Self {
        Self { max_inferences: 1000, max_ms: 3_600_000 }
    }
}

/// What rows may leave the device, for retraining. Off unless `uniform` is above 0.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct CapturePolicy {
    /// Share of inferences kept at random (the honest floor for evaluation), 0 to 1. 0 sends nothing: what is only kept for being
    /// unusual says nothing about the usual.
    pub uniform: f64,
    /// The most rows per day.
    pub max_rows_per_day: u64,
    /// Send only rows whose label arrived.
    pub labelled_only: bool,
    /// Mixed into the choice of rows. The agent sets it from its device's id: devices whose applications number their requests
    /// alike (by day, from zero) would otherwise all keep the same rows and all skip the same ones.
    #[serde(default)]
    pub salt: u64,
    /// The most bytes of rows per day; 0 is no bound besides that of the rows.
    #[serde(default)]
    pub max_bytes_per_day: u64,
    /// What is kept with a higher probability than the floor's.
    #[serde(default)]
    pub priority: Priority,
}

/// Probabilities, 0 to 1, with which a row is kept for being worth more than others; the largest that applies counts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Priority {
    /// A row decided without any margin; falls in proportion as the margin grows to 1.
    #[serde(default)]
    pub uncertain: f64,
    /// A row with a feature in a bin that holds less than a hundredth of the reference, or in a special bin.
    #[serde(default)]
    pub rare: f64,
    /// A row that the shadow decided differently.
    #[serde(default)]
    pub disagreement: f64,
}
