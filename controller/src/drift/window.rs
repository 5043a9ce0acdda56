//! Windows gathered into blocks of time, so that a device is compared with its cohort over the same days.
//!
//! Devices close their windows when they like and send them when they can. A block is judged once, when half of the devices
//! are past it by `late_blocks`: waiting for the slowest would let one offline device blind the fleet. What comes later is
//! counted as late and left out, never added to a block that was judged.
use std::collections::BTreeMap;

use leeway_protocol::ids::DeviceId;
use leeway_protocol::report::WindowReport;
use serde::{Deserialize, Serialize};

use super::{DriftPolicy, Setting};

/// Open blocks; with more, the oldest is judged as it is.
pub const MAX_OPEN: usize = 16;
/// Devices of one cohort that are watched; bounds memory to some 2,000 × 20 features × 1 KB.
pub const MAX_DEVICES: usize = 20_000;

/// Why a window was not counted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// It was made under another manifest.
    #[error("the window belongs to another manifest: give it to that manifest's monitor")]
    OtherManifest,
    /// Its counts have another shape than the reference.
    #[error("the window's counts do not fit the manifest's reference: it was made against another one")]
    OtherShape,
    /// Its block is judged already.
    #[error("the window came after its block was judged; it is left out of drift")]
    Late,
    /// One device too many.
    #[error("more than {MAX_DEVICES} devices in one cohort: split the cohort")]
    TooManyDevices,
}

/// One device's counts in a block.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Tally {
    /// Counts per feature and bin.
    pub features: Vec<Vec<f64>>,
    /// Autocorrelation per feature times rows; divide by `rows`.
    pub rho: Vec<f64>,
    /// Rows recorded.
    pub rows: f64,
}

impl Tally {
    fn add(&mut self, report: &WindowReport) {
        if self.features.is_empty() {
            self.features = report.features.iter().map(|c| vec![0.0; c.0.len()]).collect();
            self.rho = vec![0.0; report.features.len()];
        }
        let rows = report.recorded as f64;
        for (mine, theirs) in self.features.iter_mut().zip(&report.features) {
            mine.iter_mut().zip(&theirs.0).for_each(|(a, &b)| *a += f64::from(b));
        }
        for (sum, &percent) in self.rho.iter_mut().zip(&report.rho_percent) {
            *sum += rows * f64::from(percent) / 100.0;
        }
        self.rows += rows;
    }

    /// Autocorrelation of a feature.
    pub fn rho(&self, feature: usize) -> f64 {
        if self.rows > 0.0 { self.rho.get(feature).copied().unwrap_or(0.0) / self.rows } else { 0.0 }
    }
}

/// All devices' counts in one block.
pub type Block = BTreeMap<DeviceId, Tally>;

/// The blocks that are open.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Blocks {
    open: BTreeMap<i64, Block>,
    /// The block each device was last heard in.
    latest: BTreeMap<DeviceId, i64>,
    /// How many devices were last heard in each block: asked after every window, so it must not cost a look at every device.
    #[serde(default)]
    heard: BTreeMap<i64, usize>,
    judged: Option<i64>,
    late: u64,
}

/// A device not heard of for so many blocks has no say in which block is complete.
const SILENT_BLOCKS: i64 = 8;

impl Blocks {
    pub(super) fn add(&mut self, setting: &Setting<'_>, device: &DeviceId, report: &WindowReport) -> Result<(), Refusal> {
        let features = &setting.reference.features;
        let fits = report.features.len() == features.len() && report.features.iter().zip(features).all(|(c, f)| c.0.len() == f.bins());
        if !fits {
            return Err(Refusal::OtherShape);
        }
        let at = report.data_time.map_or(report.closed_at, |(_, last)| last);
        let block = at.as_millis().div_euclid(setting.policy.block_ms.max(1));
        if self.judged.is_some_and(|judged| block <= judged) {
            self.late += 1;
            return Err(Refusal::Late);
        }
        if !self.latest.contains_key(device) && self.latest.len() >= MAX_DEVICES {
            return Err(Refusal::TooManyDevices);
        }
        self.hear(device, block);
        self.open.entry(block).or_default().entry(device.clone()).or_default().add(report);
        Ok(())
    }

    fn hear(&mut self, device: &DeviceId, block: i64) {
        // Read from a checkpoint that did not hold it.
        if self.heard.values().sum::<usize>() != self.latest.len() {
            self.recount();
        }
        let before = match self.latest.get_mut(device) {
            Some(latest) if *latest >= block => return,
            Some(latest) => Some(std::mem::replace(latest, block)),
            None => self.latest.insert(device.clone(), block),
        };
        if let Some(count) = before.and_then(|b| self.heard.get_mut(&b)) {
            *count = count.saturating_sub(1);
        }
        *self.heard.entry(block).or_default() += 1;
    }

    fn recount(&mut self) {
        self.heard.clear();
        for &block in self.latest.values() {
            *self.heard.entry(block).or_default() += 1;
        }
    }

    /// The oldest open block, if it is complete: its start in milliseconds and its counts.
    pub(super) fn complete(&mut self, policy: &DriftPolicy) -> Option<(i64, Block)> {
        let (&oldest, _) = self.open.first_key_value()?;
        let past: usize = self.heard.range(oldest.saturating_add(policy.late_blocks.max(0)).saturating_add(1)..).map(|(_, n)| n).sum();
        let heard: usize = self.heard.range(oldest - SILENT_BLOCKS..).map(|(_, n)| n).sum();
        (2 * past > heard || self.open.len() > MAX_OPEN).then(|| self.oldest(policy)).flatten()
    }

    /// The oldest open block, complete or not.
    pub(super) fn oldest(&mut self, policy: &DriftPolicy) -> Option<(i64, Block)> {
        let (block, devices) = self.open.pop_first()?;
        self.judged = Some(block);
        self.latest.retain(|_, &mut latest| latest >= block - SILENT_BLOCKS);
        self.heard.retain(|&heard, _| heard >= block - SILENT_BLOCKS);
        Some((block * policy.block_ms.max(1), devices))
    }

    pub(super) fn late(&self) -> u64 {
        self.late
    }
}
