//! What one window adds to each metric that a rollout is judged by, and where it is added.
//!
//! What stays true: a window's sums depend on the window and its manifest alone; a device settles once.
use super::*;
use crate::rollout::evidence::{Arms, MAX_SLICES, devices};

impl Ledger {
    /// Add a window to the evidence of one rollout, if it speaks about it.
    pub(super) fn evidence_for(&mut self, rollout: &Rollout, device: &Device, window: &WindowReport, manifest: &Manifest, at: Timestamp) {
        let spec = &rollout.spec;
        let Some(candidate) = self.snapshot.version(&spec.line, &spec.version).map(|v| v.manifest.digest) else { return };
        let baseline = spec.baseline.as_ref().and_then(|b| self.snapshot.version(&spec.line, b)).map(|v| v.manifest.digest);
        let is_candidate = window.manifest == candidate;
        let arm = rollout.arm_of(device, window.manifest, candidate, baseline);
        if !is_candidate && arm.is_none() {
            return;
        }
        let all = Arc::make_mut(&mut self.snapshot.evidence);
        let evidence = Arc::make_mut(all.entry(rollout.id.clone()).or_default());
        if evidence.manifest != Some(candidate) {
            *evidence = Evidence { manifest: Some(candidate), ..Evidence::default() };
        }
        // Controls count from the canaries' first window on, so that both sides saw the same days.
        if arm == Some(Arm::Control) && evidence.inferences == 0 {
            return;
        }
        let devices = self.sums.entry(rollout.id.clone()).or_default();
        let known = devices.contains_key(&device.id);
        let sums = devices.entry(device.id.clone()).or_default();
        if is_candidate {
            evidence.inferences += window.inferences;
            evidence.errors += window.errors.against_model();
            evidence.devices += u64::from(!known);
            evidence.last_at = Some(at);
        }
        if let Some(arm) = arm {
            let slice = slice(rollout, device);
            for (metric, more) in contributions(window, manifest) {
                let old = sums.get(&metric).copied().unwrap_or_default();
                let new = Totals { n: old.n + more.n, x: old.x + more.x };
                sums.insert(metric, new);
                count(evidence, slice.as_deref(), metric, arm, old, new);
            }
        }
        self.dirty.evidence.insert(rollout.id.clone());
    }
}

/// The slice of a device, if the rollout balances by a label: `hw=rev-b`.
fn slice(rollout: &Rollout, device: &Device) -> Option<String> {
    let key = rollout.spec.policy.balance_by.as_ref()?;
    Some(format!("{key}={}", device.labels.get(key).map_or("", String::as_str)))
}

/// Put a device's new totals in the place of its old ones.
fn count(evidence: &mut Evidence, slice: Option<&str>, metric: Metric, arm: Arm, old: Totals, new: Totals) {
    let replace = |arms: &mut Arms| match arm {
        Arm::Canary => arms.canary.replace(old, new),
        Arm::Control => arms.control.replace(old, new),
    };
    replace(evidence.arms.entry(metric).or_default());
    if let Some(share) = devices::settles(metric, old, new) {
        let settled = evidence.settled.entry(metric).or_default();
        match arm {
            Arm::Canary => settled.canary.add(share),
            Arm::Control => settled.control.add(share),
        }
    }
    // A device whose label changes goes on in its new slice; what it showed before stays where it was.
    let slices = &mut evidence.slices;
    if let Some(slice) = slice.filter(|name| slices.len() < MAX_SLICES || slices.contains_key(*name)) {
        replace(slices.entry(slice.to_owned()).or_default().entry(metric).or_default());
    }
}

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
