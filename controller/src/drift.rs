//! Drift: has the world moved, or only one instrument?
//!
//! Two layers answer two questions with two remedies, from the same exact bins that every device counts against the reference
//! signed into its manifest:
//!
//! - [`difference`]: *this instrument*. A device against its own cohort in the same block of time, after both are corrected by
//!   what they were to each other in a base period. Season and weather are common to both and drop out. Alarm → technician.
//! - [`cohort`]: *the world*. A cohort's merged counts against the reference, over whole seasons. Alarm → retraining, if it hurts.
//!
//! Both feed the e-detector of `sequential::detector` with likelihood ratios of shares ([`components`]); the threshold comes from
//! one fleet-wide budget of false alarms, split over the layers. Fixed PSI or p-value limits are not offered: PSI > 0.2 gives a
//! million false alarms a fleet-month at 100 rows a window and is blind at 5,000. `examples/bench_drift.rs` counts both on a fleet-month.
//! Evidence (how sure) is kept apart from magnitude (how far, [`magnitude`]) and from what it costs ([`cost`]).
//!
//! **Null** of a stream: in every increment the mean share of each set of bins stays within the tolerance of what is expected.
//! **Guarantee**: at most `budget.false_alarms` expected false alarms per period in the whole fleet, whatever the size of windows
//! and however often one looks — provided rows are independent after tempering by the autocorrelation that the devices report
//! and by `sharing`. Each layer's page says what else it assumes. As the fleet grows the threshold c rises with it, and the promise
//! holds throughout: M/c − Σ 1/c is a supermartingale while c does not fall, so a stream raises an alarm within the period
//! with chance Σ 1/c at most and N streams Σ N/c, which is the budget's rate at every size of the fleet.
//!
//! A monitor belongs to one manifest in one cohort: a new model has another reference, so its streams start anew. Outputs or confidence
//! that are not as its reference says from its first season on, while no input moved, are the release's doing, and the sentence
//! says so. What stays true: counts of another manifest are never added.
pub mod cohort;
pub mod components;
pub mod cost;
pub mod difference;
pub mod magnitude;
pub mod verdict;
pub mod window;

use std::collections::{BTreeMap, BTreeSet};

use leeway_protocol::digest::Digest;
use leeway_protocol::ids::{Cohort, DeviceId};
use leeway_protocol::profile::Reference;
use leeway_protocol::report::WindowReport;
use serde::{Deserialize, Serialize};

use crate::sequential::detector::Budget;
use cohort::CohortLayer;
use components::Tolerance;
use difference::DeviceLayer;
use verdict::Verdict;
use window::{Blocks, Refusal};

/// How drift is judged.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DriftPolicy {
    /// The fleet-wide promise.
    pub budget: Budget,
    /// Share of the budget for the world (cohort layer); the rest is for instruments (device layer).
    pub cohort_share: f64,
    /// Windows are gathered into blocks of so many milliseconds (application time where there is one).
    pub block_ms: i64,
    /// Length of a season, milliseconds: the cohort layer compares whole seasons with the reference. 0 where there is none.
    pub season_ms: i64,
    /// Blocks that stay open for late devices.
    pub late_blocks: i64,
    /// Blocks of a device's base period, in which it learns how it differs from its cohort.
    pub base_blocks: u32,
    /// What the cohort layer tolerates.
    pub tolerance: Tolerance,
    /// What the device layer tolerates.
    pub device_tolerance: Tolerance,
    /// How far devices of a cohort see the same events, 0 to 1; 1 counts a cohort as one device's rows.
    pub sharing: f64,
    /// Estimated fall of accuracy below which a shift is shown and not shouted, as a share. 0 shouts all of them.
    pub harmless: f64,
}

impl Default for DriftPolicy {
    fn default() -> Self {
        Self {
            budget: Budget::default(),
            cohort_share: 0.5,
            block_ms: 3_600_000,
            season_ms: 0,
            late_blocks: 1,
            base_blocks: 24,
            tolerance: Tolerance { share: 0.03, bin: 0.02, special: 0.001 },
            device_tolerance: Tolerance { share: 0.05, bin: 0.05, special: 0.001 },
            sharing: 1.0,
            harmless: 0.005,
        }
    }
}

/// What a judgement needs besides the counts.
#[derive(Debug, Clone, Copy)]
pub struct Setting<'a> {
    /// The manifest's reference.
    pub reference: &'a Reference,
    /// The policy.
    pub policy: &'a DriftPolicy,
    /// Devices in the whole fleet: the threshold is derived anew as the fleet grows.
    pub devices: u64,
    /// Cohorts times manifests that are watched in the whole fleet.
    pub cohorts: u64,
}

impl Setting<'_> {
    /// What ln evidence must reach for "this instrument".
    pub fn device_threshold(&self) -> f64 {
        let features = self.reference.features.iter().filter(|f| difference::is_instrument(f)).count() as u64;
        self.policy.budget.log_threshold(self.devices * features, self.policy.block_ms, 1.0 - self.policy.cohort_share)
    }

    /// What ln evidence must reach for "the world".
    pub fn cohort_threshold(&self) -> f64 {
        let features = self.reference.features.len() as u64;
        let every = if self.policy.season_ms > 0 { self.policy.season_ms } else { self.policy.block_ms };
        self.policy.budget.log_threshold(self.cohorts * features, every, self.policy.cohort_share)
    }
}

/// Alarms about instruments that are carried over, by device and feature.
pub type Standing = BTreeMap<DeviceId, BTreeMap<String, Verdict>>;

/// Drift of one cohort under one manifest. Bounded: at most [`window::MAX_DEVICES`] devices and [`window::MAX_OPEN`] open blocks.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Monitor {
    cohort: Cohort,
    manifest: Digest,
    blocks: Blocks,
    world: CohortLayer,
    instruments: DeviceLayer,
    /// Instruments alarmed under an earlier manifest, not yet seen to: their counts do not speak for the world.
    standing: Standing,
    /// Whether another manifest served here before, and when the first block of this one began.
    #[serde(default)]
    succeeds: bool,
    #[serde(default)]
    began_ms: Option<i64>,
}

/// What is said of outputs that moved with the change of versions.
const BLAMED: &str = " It began with this version, and no input moved: look at the release, not at the world.";

impl Monitor {
    /// Nothing seen yet.
    pub fn new(cohort: Cohort, manifest: Digest, reference: &Reference) -> Self {
        Self {
            cohort,
            manifest,
            blocks: Blocks::default(),
            world: CohortLayer::new(reference),
            instruments: DeviceLayer::default(),
            standing: Standing::new(),
            succeeds: false,
            began_ms: None,
        }
    }

    /// The successor for another manifest. Streams start anew; instruments with a standing alarm stay excluded from the world
    /// until [`Monitor::repaired`], because a base period of a broken instrument would make it look sound.
    #[must_use]
    pub fn rebase(&self, manifest: Digest, reference: &Reference) -> Self {
        let mut standing = self.standing.clone();
        for (device, alarms) in self.instruments.alarms() {
            standing.entry(device.clone()).or_default().extend(alarms.map(|v| (v.feature.clone(), v.clone())));
        }
        Self { standing, succeeds: true, ..Self::new(self.cohort.clone(), manifest, reference) }
    }

    /// A technician has seen to a device: it learns a new base and counts again.
    pub fn repaired(&mut self, device: &DeviceId) {
        self.standing.remove(device);
        self.instruments.forget(device);
    }

    /// The manifest it is about.
    pub fn manifest(&self) -> Digest {
        self.manifest
    }

    /// The cohort it is about.
    pub fn cohort(&self) -> &Cohort {
        &self.cohort
    }

    /// Alarms carried over from an earlier manifest.
    pub fn standing(&self) -> &Standing {
        &self.standing
    }

    /// Devices whose instruments are not trusted: excluded before, or under alarm now.
    pub fn broken(&self) -> BTreeSet<DeviceId> {
        let alarmed = self.instruments.alarms().map(|(device, _)| device);
        self.standing.keys().chain(alarmed).cloned().collect()
    }

    /// Windows that came after their block was closed, and were left out.
    pub fn late(&self) -> u64 {
        self.blocks.late()
    }

    /// Add one accepted window (duplicates are the caller's to drop) and judge the blocks that are complete.
    pub fn observe(&mut self, setting: &Setting<'_>, device: &DeviceId, report: &WindowReport) -> Result<(), Refusal> {
        if report.manifest != self.manifest {
            return Err(Refusal::OtherManifest);
        }
        self.blocks.add(setting, device, report)?;
        while let Some((start_ms, block)) = self.blocks.complete(setting.policy) {
            self.judge(setting, start_ms, block);
        }
        Ok(())
    }

    /// Judge every block that is still open: the stream has ended, or a person wants to see it now.
    pub fn settle(&mut self, setting: &Setting<'_>) {
        while let Some((start_ms, block)) = self.blocks.oldest(setting.policy) {
            self.judge(setting, start_ms, block);
        }
    }

    fn judge(&mut self, setting: &Setting<'_>, start_ms: i64, block: window::Block) {
        let excluded = self.instruments.judge(setting, &self.cohort, start_ms, &block, &self.standing);
        self.began_ms.get_or_insert(start_ms);
        let is_excluded = |device: &DeviceId, feature| excluded.contains(&(device.clone(), feature));
        let between = |feature| self.instruments.between(feature);
        self.world.judge(setting, start_ms, &block, is_excluded, &between);
    }

    /// One verdict per feature about the world, the most harmful first: moved ones by estimated cost, then by importance × distance.
    pub fn world(&self, setting: &Setting<'_>) -> Vec<Verdict> {
        let mut verdicts = self.world.verdicts(setting, &self.cohort);
        let inputs_moved = verdicts.iter().any(|v| v.moved && v.kind == verdict::Kind::Input);
        let first = setting.policy.season_ms.max(setting.policy.block_ms);
        for v in verdicts.iter_mut().filter(|v| v.moved && v.kind != verdict::Kind::Input && self.succeeds && !inputs_moved) {
            let since_the_start = self.began_ms.zip(v.since).is_some_and(|(began, since)| since.as_millis() < began.saturating_add(first));
            if since_the_start {
                v.release = true;
                v.sentence.push_str(BLAMED);
            }
        }
        verdict::rank(&mut verdicts);
        verdicts
    }

    /// A verdict for each instrument with an alarm that nobody has seen to, the surest first.
    pub fn instruments(&self) -> Vec<Verdict> {
        let carried = self.standing.values().flat_map(BTreeMap::values);
        let mut verdicts: Vec<Verdict> = carried.chain(self.instruments.alarms().flat_map(|(_, alarms)| alarms)).cloned().collect();
        verdicts.sort_by(|a, b| b.log_evidence.total_cmp(&a.log_evidence));
        verdicts
    }
}

#[cfg(test)]
mod tests;
