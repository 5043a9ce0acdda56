//! Quantile sketches of captured inputs.
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Sketches of what a line's devices captured.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Sketches {
    /// The line.
    pub line: String,
    /// Captured rows that were read.
    pub rows_read: u64,
    /// Rows left after thinning: each stands for the same number of inferences.
    pub rows_used: u64,
    /// One for each input, in the model's order.
    pub features: Vec<Sketch>,
    /// What to know before they are used or passed on.
    pub sentence: String,
}

/// The sketch of one input.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Sketch {
    /// The feature.
    pub name: String,
    /// Numbers in the sketch.
    pub n: u64,
    /// Values that were no numbers, which a sketch does not count.
    pub missing: u64,
    /// How far a rank may be off, nearly always.
    pub rank_error: f64,
    /// Least, 5 %, 25 %, median, 75 %, 95 %, greatest; empty if there is no number.
    pub quantiles: Vec<f32>,
    /// Always `kll-f32`: Apache DataSketches' KLL sketch of 32-bit floats.
    pub format: String,
    /// Digest of its bytes: a sketch has no checksum of its own.
    pub digest: String,
    /// Its bytes, in base64.
    pub bytes: String,
}
