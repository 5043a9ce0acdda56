//! Accuracy without labels: counts of decisions by confidence bin times what each bin was worth on held-out data.
use leeway_protocol::manifest::{CONFIDENCE_BINS, Calibration};

/// Accuracy on the held-out data the table was made from.
pub fn held_out(calibration: &Calibration) -> Option<f64> {
    let rows: u64 = calibration.rows.iter().sum();
    let right: f64 = calibration.accuracy.iter().zip(&calibration.rows).map(|(a, &n)| a * n as f64).sum();
    (rows > 0).then(|| right / rows as f64)
}

/// (Sum of estimated accuracies, decisions) of counts by confidence bin; nothing for a model without a decision.
pub fn sum(counts: &[u32; CONFIDENCE_BINS], calibration: &Calibration) -> (f64, u64) {
    let Some(overall) = held_out(calibration) else { return (0.0, 0) };
    counts.iter().enumerate().fold((0.0, 0), |(sum, rows), (bin, &n)| {
        // A bin that held-out data never filled is worth the average.
        let known = calibration.rows.get(bin).is_some_and(|&rows| rows > 0);
        let worth = calibration.accuracy.get(bin).copied().filter(|_| known).unwrap_or(overall);
        (sum + worth * f64::from(n), rows + u64::from(n))
    })
}
