//! Accuracy without labels: counts of decisions by confidence bin times what each bin was worth on held-out data.
use leeway_protocol::manifest::{CONFIDENCE_BINS, Calibration};

/// Accuracy on the held-out data the table was made from.
pub fn held_out(calibration: &Calibration) -> Option<f64> {
    let rows: u64 = calibration.rows.iter().sum();
    let right: f64 = calibration.accuracy.iter().zip(&calibration.rows).map(|(a, &n)| a * n as f64).sum();
    (rows > 0).then(|| right / rows as f64)
}

/// What a decision of each confidence bin is worth; a bin that held-out data never filled is worth the average. `None` for a model
/// without a decision.
pub fn worth(calibration: &Calibration) -> Option<[f64; CONFIDENCE_BINS]> {
    let overall = held_out(calibration)?;
    let known = |bin: usize| calibration.rows.get(bin).is_some_and(|&rows| rows > 0);
    Some(std::array::from_fn(|bin| calibration.accuracy.get(bin).copied().filter(|_| known(bin)).unwrap_or(overall)))
}

/// (Sum of estimated accuracies, decisions) of counts by confidence bin; nothing for a model without a decision.
pub fn sum(counts: &[u32; CONFIDENCE_BINS], calibration: &Calibration) -> (f64, u64) {
    let Some(worth) = worth(calibration) else { return (0.0, 0) };
    counts.iter().zip(worth).fold((0.0, 0), |(sum, rows), (&n, worth)| (sum + worth * f64::from(n), rows + u64::from(n)))
}
