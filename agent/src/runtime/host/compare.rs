//! Active and shadow model on the same inputs.
use leeway_protocol::report::{LATENCY_BUCKETS, latency_bucket, latency_quantile_us};
use leeway_protocol::reported::ShadowSummary;

use crate::recorder::row::{Decided, Elements};

/// Models without a decision disagree when their first outputs differ by more than this share of the larger one.
const RELATIVE: f64 = 0.1;

/// What was compared so far.
#[derive(Debug, Clone)]
pub(super) struct Comparison {
    compared: u64,
    disagreed: u64,
    latency: Vec<u32>,
}

impl Default for Comparison {
    fn default() -> Self {
        Self { compared: 0, disagreed: 0, latency: vec![0; LATENCY_BUCKETS] }
    }
}

impl Comparison {
    /// Count one pair; an inference the shadow failed on is a disagreement.
    pub(super) fn count(&mut self, agreed: bool, nanos: u64) {
        self.compared += 1;
        self.disagreed += u64::from(!agreed);
        if let Some(count) = self.latency.get_mut(latency_bucket(nanos)) {
            *count = count.saturating_add(1);
        }
    }

    pub(super) fn summary(&self) -> ShadowSummary {
        let quantile = |share| latency_quantile_us(&self.latency, share).ceil() as u64;
        ShadowSummary { compared: self.compared, disagreed: self.disagreed, p50_us: quantile(0.5), p99_us: quantile(0.99) }
    }
}

/// Whether two answers say the same.
pub(super) fn agree(active: (Option<Decided>, Option<f64>), shadow: (Option<Decided>, Elements<'_>)) -> bool {
    match (active, shadow) {
        ((Some(a), _), (Some(s), _)) => a.class == s.class,
        ((None, Some(a)), (None, first)) => first.at(0).is_some_and(|s| (a - s).abs() <= RELATIVE * a.abs().max(s.abs()) + 1e-9),
        ((None, None), (None, _)) => true,
        _ => false,
    }
}
