//! What one window adds to each metric that a rollout is judged by.
//!
//! What stays true: a window's sums depend on the window and its manifest alone.
use super::*;

/// What one window adds to each metric.
pub fn contributions(window: &WindowReport, manifest: &Manifest) -> Vec<(Metric, Totals)> {
    let errors = window.errors.against_model();
    let asked = (window.inferences + errors) as f64;
    let mut out = vec![(Metric::ErrorRatio, Totals { n: asked, x: errors as f64 })];
    // Slow is what lies in buckets wholly above the signed limit.
    let limit = latency_bucket(manifest.limits.p99_us.saturating_mul(1000));
    let timed: f64 = window.latency.iter().map(|&n| f64::from(n)).sum();
    let slow: f64 = window.latency.iter().skip((limit + 1).min(LATENCY_BUCKETS)).map(|&n| f64::from(n)).sum();
    out.push((Metric::SlowRatio, Totals { n: timed, x: slow }));
    let labels = window.labels();
    if labels.rows > 0 {
        out.push((Metric::LabelledAccuracy, Totals { n: labels.rows as f64, x: labels.correct as f64 }));
    }
    let decided: f64 = window.confidence.iter().map(|&n| f64::from(n)).sum();
    if decided > 0.0 && manifest.calibration.accuracy.len() == window.confidence.len() {
        let expected = window.confidence.iter().zip(&manifest.calibration.accuracy).map(|(&n, accuracy)| f64::from(n) * accuracy).sum();
        out.push((Metric::EstimatedAccuracy, Totals { n: decided, x: expected }));
    }
    out
}
