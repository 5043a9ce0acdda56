//! Concept drift: do the labels say that the model is wrong more often than when it was trained?
//!
//! The e-detector of `sequential::detector` on the error share, against the held-out error plus a tolerance. **Null**: in every
//! block the mean error share is at most that. **Guarantee**: the budget's expected number of false alarms, for rows independent
//! after tempering. Why not ADWIN or DDM: measured at equal delay, ADWIN gives no promise and DDM and EDDM raise 5 to 170 false
//! alarms in 100,000 rows. ADWIN and Page–Hinkley are fed the same blocks and shown beside it ([`super::classic`]).
//!
//! A label counts when it arrives. Labels of a window that came after its block was judged (a device was offline) count with the
//! next block: an order of arrival is as good as another for the null, and dropping them would hide exactly the devices that
//! are seldom online.
use std::collections::BTreeMap;

use leeway_protocol::ids::DeviceId;
use leeway_protocol::report::Labelled;
use leeway_protocol::time::Timestamp;
use serde::{Deserialize, Serialize};

use super::classic::{Classic, Opinion};
use super::{Block, QualityPolicy};
use crate::sequential::detector::EDetector;
use crate::sequential::log_ratio;

/// Rises of the error share beyond the tolerance that are looked for.
const EFFECTS: [f64; 5] = [0.02, 0.05, 0.1, 0.2, 0.4];
/// ln evidence below which the stream counts as quiet.
const QUIET: f64 = 0.5;

/// The detector on one manifest's labels in one cohort.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Concept {
    detector: Option<EDetector>,
    judged: Option<i64>,
    since: Option<i64>,
    /// Labels that came for a block already judged.
    #[serde(default)]
    late: Option<Box<Block>>,
    #[serde(default)]
    classic: Classic,
}

impl Concept {
    /// Take every block that is no longer open.
    pub(super) fn judge(&mut self, policy: &QualityPolicy, expected: Option<f64>, blocks: &BTreeMap<i64, Block>) {
        let (Some(accuracy), Some((&newest, _))) = (expected, blocks.last_key_value()) else { return };
        let closed = newest - policy.late_blocks.max(0);
        let from = self.judged.map_or(i64::MIN, |j| j + 1);
        if from >= closed {
            return;
        }
        let null = 1.0 - accuracy + policy.tolerance;
        for (&index, block) in blocks.range(from..closed) {
            self.judged = Some(index);
            let with_late = self.late.take().map(|mut late| {
                late.add(block);
                late
            });
            let block = with_late.as_deref().unwrap_or(block);
            if block.labels == 0 {
                continue;
            }
            self.classic.feed(start(policy, index), block.labels - block.correct, block.labels);
            let eta = block.eta(policy);
            let (errors, rows) = ((block.labels - block.correct) as f64 * eta, block.labels as f64 * eta);
            let ln_l = EFFECTS.map(|d| log_ratio(errors, rows, (null + d).min(0.5 * (1.0 + null)), null));
            self.detector.get_or_insert_with(|| EDetector::new(EFFECTS.len())).update(&ln_l);
            match (self.log_evidence() > QUIET, self.since) {
                (true, None) => self.since = Some(index),
                (false, _) => self.since = None,
                (true, Some(_)) => {}
            }
        }
    }

    /// Keep the labels of a window whose block is judged already for the next one.
    pub(super) fn keep_late(&mut self, index: i64, device: &DeviceId, labels: Labelled) {
        if labels.rows > 0 && self.judged.is_some_and(|judged| index <= judged) {
            self.late.get_or_insert_default().label(device, labels);
        }
    }

    /// What ADWIN and Page–Hinkley say; nothing follows from it.
    pub(super) fn opinions(&self) -> Vec<Opinion> {
        self.classic.opinions()
    }

    pub(super) fn log_evidence(&self) -> f64 {
        self.detector.as_ref().map_or(0.0, EDetector::log_evidence).max(0.0)
    }

    pub(super) fn since(&self, policy: &QualityPolicy) -> Option<Timestamp> {
        self.since.map(|index| start(policy, index))
    }
}

fn start(policy: &QualityPolicy, index: i64) -> Timestamp {
    Timestamp::from_millis(index * policy.block_ms.max(1))
}
