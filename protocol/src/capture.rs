//! Rows that leave a device for retraining: few, budgeted, with the probability they were kept with.
//!
//! Storing that probability is what lets evaluation and training reweight (Horvitz–Thompson); without it a captured set is
//! a biased set that nobody can unbias.
use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::time::Timestamp;

/// The most rows in one message; keeps it under the envelope's size cap for a few hundred features.
pub const MAX_ROWS: usize = 256;
/// The most values in one row.
pub const MAX_VALUES: usize = 4096;

/// One inference, with its label once that arrived.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CapturedRow {
    /// Device-unique number of the request.
    pub request: u64,
    /// When, by the application's time if it gave one, else by the device's clock.
    pub at: Timestamp,
    /// Flat values of the free inputs.
    pub inputs: Vec<f32>,
    /// The class decided, or the value for a regression.
    pub decided: f32,
    /// Confidence of the decision.
    pub confidence: f32,
    /// The label, if known.
    pub label: Option<f32>,
    /// Probability this row was kept with, above 0 up to 1.
    pub inclusion: f32,
}

/// Rows of one model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CaptureBatch {
    /// Digest of the manifest whose inputs these are.
    pub manifest: Digest,
    /// Number of the batch at this device; duplicates change nothing.
    pub batch: u64,
    /// The rows.
    pub rows: Vec<CapturedRow>,
}

#[derive(Serialize, Deserialize)]
enum Form {
    V1(CaptureBatch),
}

/// A batch that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the captured rows cannot be used: not a form this program knows, cut off, or past the bounds")]
pub struct CaptureError;

impl CaptureBatch {
    /// The bytes that are signed and sent.
    pub fn to_bytes(&self) -> Vec<u8> {
        postcard::to_stdvec(&Form::V1(self.clone())).unwrap_or_default()
    }

    /// Read and check a batch.
    pub fn parse(bytes: &[u8]) -> Result<Self, CaptureError> {
        let (Form::V1(batch), rest) = postcard::take_from_bytes(bytes).map_err(|_| CaptureError)?;
        let row_fits = |row: &CapturedRow| row.inputs.len() <= MAX_VALUES && row.inclusion > 0.0 && row.inclusion <= 1.0;
        if !rest.is_empty() || batch.rows.len() > MAX_ROWS || !batch.rows.iter().all(row_fits) {
            return Err(CaptureError);
        }
        Ok(batch)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_round_trip_and_bounds_hold() {
        let row = CapturedRow {
            request: 1,
            at: Timestamp::from_secs(9),
            inputs: vec![1.0, 2.0],
            decided: 1.0,
            confidence: 0.9,
            label: Some(0.0),
            inclusion: 0.5,
        };
        let batch = CaptureBatch { manifest: Digest::of(b"m"), batch: 3, rows: vec![row.clone()] };
        assert_eq!(CaptureBatch::parse(&batch.to_bytes()), Ok(batch.clone()));
        for inclusion in [0.0, -1.0, 1.1, f32::NAN] {
            let bad = CaptureBatch { rows: vec![CapturedRow { inclusion, ..row.clone() }], ..batch.clone() };
            assert_eq!(CaptureBatch::parse(&bad.to_bytes()), Err(CaptureError), "{inclusion}");
        }
        let many = CaptureBatch { rows: vec![row; MAX_ROWS + 1], ..batch };
        assert_eq!(CaptureBatch::parse(&many.to_bytes()), Err(CaptureError));
    }
}
