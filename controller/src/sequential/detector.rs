//! The e-detector: many small Shiryaev–Roberts recursions, averaged, against a threshold that comes from an error budget.
//!
//! Why not CUSUM or ADWIN: their thresholds are lore, or hold for one stream. Here each component c has an increment L with
//! E[L | past] ≤ 1 under the null, and R ← (R + 1)·L, so E[R after t increments] ≤ t whatever t is, and the same is true of the
//! average M over components. By optional stopping P(M ≥ c within T increments) ≤ T / c. With N streams watched for T
//! increments each, c = N·T / A keeps the *expected number of false alarms in the whole fleet* at A or below: no independence
//! between streams or components is needed. (Shin, Ramdas and Rinaldo, "E-detectors", arXiv 2203.03532.)
//!
//! The price of averaging K components instead of knowing the right one is at most ln K nats, about five.
//!
//! State is one f32 per component, kept as ln R; evidence above [`CAP`] is cut, which can only lose alarms that stand already.
use serde::{Deserialize, Serialize};

use super::log_add;

/// ln R is cut here: far above any threshold (a million streams at one alarm in a thousand periods is ln c = 21 to 30), yet low
/// enough for the evidence to fall again when the world comes back.
pub const CAP: f64 = 45.0;

/// ln R of a recursion that has seen nothing: R = 0, written as a finite number so that JSON can hold it.
const NOTHING: f32 = -1e30;

/// One stream's recursions.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct EDetector {
    log_r: Vec<f32>,
    updates: u32,
}

impl EDetector {
    /// Nothing seen yet.
    pub fn new(components: usize) -> Self {
        Self { log_r: vec![NOTHING; components], updates: 0 }
    }

    /// Take one increment per component (ln L). Missing ones count as ln 1; those past the components are ignored.
    pub fn update(&mut self, increments: &[f64]) {
        for (i, log_r) in self.log_r.iter_mut().enumerate() {
            let increment = increments.get(i).copied().unwrap_or(0.0);
            *log_r = (log_add(f64::from(*log_r), 0.0) + increment).min(CAP) as f32;
        }
        self.updates = self.updates.saturating_add(1);
    }

    /// ln M, the evidence; hugely negative before the first increment.
    pub fn log_evidence(&self) -> f64 {
        let highest = self.log_r.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        // Asked after every window: what adds less than its last bit is left out.
        let sum: f64 = self.log_r.iter().map(|&r| f64::from(r - highest)).filter(|&d| d > -40.0).map(f64::exp).sum();
        if self.log_r.is_empty() { f64::NEG_INFINITY } else { f64::from(highest) + (sum / self.log_r.len() as f64).ln() }
    }

    /// The component with the most evidence.
    pub fn strongest(&self) -> Option<usize> {
        (0..self.log_r.len()).max_by(|&a, &b| self.log_r[a].total_cmp(&self.log_r[b]))
    }

    /// Increments taken.
    pub fn updates(&self) -> u32 {
        self.updates
    }

    /// Whether it was made for as many components.
    pub fn fits(&self, components: usize) -> bool {
        self.log_r.len() == components
    }
}

/// How many false alarms the whole fleet may raise, and in what time.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Budget {
    /// Expected false alarms, over all streams of the fleet and layers together, in one period.
    pub false_alarms: f64,
    /// The period, milliseconds on the axis the windows are ordered by (application time where there is one).
    pub period_ms: i64,
}

impl Default for Budget {
    /// One false alarm a month in the whole fleet.
    fn default() -> Self {
        Self { false_alarms: 1.0, period_ms: 30 * 86_400_000 }
    }
}

impl Budget {
    /// ln c for one layer: `streams` streams, one increment every `every_ms`, and `share` of the budget.
    pub fn log_threshold(&self, streams: u64, every_ms: i64, share: f64) -> f64 {
        let increments = (self.period_ms as f64 / every_ms.max(1) as f64).max(1.0);
        let alarms = (self.false_alarms * share).max(1e-9);
        (streams.max(1) as f64 * increments / alarms).max(1.0).ln()
    }

    /// The promise in words.
    pub fn sentence(&self) -> String {
        let days = self.period_ms as f64 / 86_400_000.0;
        format!("At most {} false drift alarms in {days:.1} days are expected in the whole fleet.", self.false_alarms)
    }
}

#[cfg(test)]
mod tests {
    use super::super::log_ratio;
    use super::super::tests::Chance;
    use super::*;

    #[test]
    fn the_threshold_is_streams_times_increments_over_alarms() {
        let budget = Budget { false_alarms: 1.0, period_ms: 720 };
        assert!((budget.log_threshold(40_000, 1, 1.0) - 2.88e7f64.ln()).abs() < 1e-9);
        assert!(budget.log_threshold(40_000, 1, 0.5) > budget.log_threshold(40_000, 1, 1.0));
        assert!(budget.log_threshold(0, i64::MAX, 1.0) >= 0.0);
    }

    #[test]
    fn false_alarms_stay_within_the_promise_and_changes_are_found() {
        // 400 streams, 100 windows of 50 rows, one tolerated share; a budget of 4 alarms means c = 400·100/4.
        let (streams, windows, allowed) = (400, 100, 4.0);
        let threshold = Budget { false_alarms: allowed, period_ms: windows }.log_threshold(streams, 1, 1.0);
        let run = |chance: &mut Chance, p: f64| {
            let mut detector = EDetector::new(3);
            (0..windows).find(|_| {
                let hits = chance.hits(50, p) as f64;
                detector.update(&[0.05, 0.1, 0.2].map(|d| log_ratio(hits, 50.0, 0.3 + d, 0.3)));
                detector.log_evidence() >= threshold
            })
        };
        let mut chance = Chance::new(1);
        let alarms = (0..streams).filter(|_| run(&mut chance, 0.3).is_some()).count();
        assert!(alarms as f64 <= allowed, "{alarms} alarms");
        let delays: Vec<i64> = (0..20).filter_map(|_| run(&mut chance, 0.5)).collect();
        assert!(delays.len() == 20 && delays.iter().all(|&d| d < 15), "{delays:?}");
    }

    #[test]
    fn evidence_falls_again_when_the_world_comes_back() {
        let mut detector = EDetector::new(1);
        for _ in 0..1000 {
            detector.update(&[1.0]);
        }
        assert!((detector.log_evidence() - CAP).abs() < 1e-3);
        for _ in 0..60 {
            detector.update(&[-1.0]);
        }
        assert!(detector.log_evidence() < 1.0);
        let json = serde_json::to_string(&detector).unwrap();
        assert_eq!(serde_json::from_str::<EDetector>(&json).unwrap(), detector);
    }
}
