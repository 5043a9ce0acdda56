//! The world: a cohort's merged counts against the reference of its manifest.
//!
//! **Season.** Thirty days of weather against five years of it always differ: on this very data a KS test flags 63–100 % of
//! monthly windows. So where there is a season, counts are merged over exactly one season before they are compared, and each
//! season is one increment. That is not a heuristic: for independent rows whose expected shares vary as they like *within* the season,
//! E[∏(1 + c(Yᵢ − q))] = ∏(1 + c(pᵢ − q)) ≤ (1 + c(p̄ − q))ⁿ, so the likelihood ratio needs only the *season's mean*
//! share p̄ to be within the tolerance. The price is patience: a change is seen at the end of the first season it fills.
//! A season with less than three quarters of its blocks would bring half a year against a whole one, and is skipped.
//!
//! **Dependence.** Counts are tempered by the autocorrelation the devices report (within windows; the season itself is not noise)
//! and by `sharing`. What is not covered: a year that is warmer than the reference's years by more than the tolerance *is* drift
//! here, and a reference of a few years does not know how warm a year can be; the tolerance (3 points of share) is for that.
//!
//! **Few devices.** Devices have offsets of their own, so a cohort of twenty differs from the population its reference was made from by
//! chance, for good, and by more than the tolerance where offsets are large. How much devices differ is known from their base periods;
//! three standard errors of the cohort's mean are tolerated where that is more than the tolerance. (A single device, or one whose
//! base is not over, shows no such variance: there the tolerance alone must cover it.)
//!
//! Devices whose instrument is under alarm do not speak for the world.
use std::collections::BTreeMap;

use leeway_protocol::ids::{Cohort, DeviceId};
use leeway_protocol::profile::Reference;
use serde::{Deserialize, Serialize};

use super::Setting;
use super::components::{Set, Shares, Weights, components};
use super::difference::{around, sets};
use super::verdict::{About, Step, Stream, Verdict, add};
use super::window::Block;
use crate::sequential::{Dependence, effective_devices};

/// Share of a season's blocks that must be there.
const MIN_COVERAGE: f64 = 0.75;

/// A cohort of few devices is not the population the reference was made from: its mean may be this many standard errors away, as far as
/// its devices are known to differ.
const WIDTH: f64 = 3.0;

/// The streams of one cohort, and the season that is being gathered.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct CohortLayer {
    streams: Vec<Stream>,
    season: Option<Season>,
    seasons: u32,
    skipped: u32,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Season {
    start_ms: i64,
    blocks: u32,
    counts: Vec<Vec<f64>>,
    /// Autocorrelation × rows, per feature.
    rho: Vec<f64>,
    rows: BTreeMap<DeviceId, f64>,
}

impl Season {
    fn from(start_ms: i64, features: usize) -> Self {
        Self { start_ms, blocks: 0, counts: vec![Vec::new(); features], rho: vec![0.0; features], rows: BTreeMap::new() }
    }
}

impl CohortLayer {
    pub(super) fn new(reference: &Reference) -> Self {
        Self { streams: reference.features.iter().map(Stream::new).collect(), ..Self::default() }
    }

    /// Take a block; `excluded` says who does not speak about a feature, `between` how devices differ in it (variance per compared set).
    pub(super) fn judge(
        &mut self,
        setting: &Setting<'_>,
        start_ms: i64,
        block: &Block,
        excluded: impl Fn(&DeviceId, usize) -> bool,
        between: &dyn Fn(usize) -> Vec<f64>,
    ) {
        let length = setting.policy.season_ms.max(setting.policy.block_ms);
        if let Some(season) = &self.season
            && start_ms >= season.start_ms + length
        {
            let next = season.start_ms + (start_ms - season.start_ms).div_euclid(length) * length;
            self.close(setting, length, between);
            self.season = Some(Season::from(next, setting.reference.features.len()));
        }
        let season = self.season.get_or_insert_with(|| Season::from(start_ms, setting.reference.features.len()));
        season.blocks += 1;
        for (device, tally) in block {
            let mut counted = false;
            for (i, counts) in tally.features.iter().enumerate() {
                if excluded(device, i) {
                    continue;
                }
                counted = true;
                if let (Some(sum), Some(rho)) = (season.counts.get_mut(i), season.rho.get_mut(i)) {
                    add(sum, counts, 1.0);
                    *rho += tally.rho(i) * counts.iter().sum::<f64>();
                }
            }
            if counted {
                *season.rows.entry(device.clone()).or_default() += tally.rows;
            }
        }
        // Without a season every block is one increment.
        if setting.policy.season_ms <= setting.policy.block_ms {
            self.close(setting, length, between);
        }
    }

    fn close(&mut self, setting: &Setting<'_>, length_ms: i64, between: &dyn Fn(usize) -> Vec<f64>) {
        let Some(season) = self.season.take() else { return };
        let wanted = (length_ms as f64 / setting.policy.block_ms.max(1) as f64).max(1.0);
        if f64::from(season.blocks) < MIN_COVERAGE * wanted.floor() {
            self.skipped += 1;
            return;
        }
        self.seasons += 1;
        let (sum, squares) = season.rows.values().fold((0.0, 0.0), |(s, q), n| (s + n, q + n * n));
        let devices = effective_devices(sum, squares);
        let threshold = setting.cohort_threshold();
        for (i, (stream, feature)) in self.streams.iter_mut().zip(&setting.reference.features).enumerate() {
            let Some(observed) = season.counts.get(i) else { continue };
            let rows: f64 = observed.iter().sum();
            if rows <= 0.0 {
                continue;
            }
            let rho = season.rho.get(i).copied().unwrap_or(0.0) / rows;
            let eta = Dependence { rho, sharing: setting.policy.sharing }.eta(devices);
            let tolerance = &setting.policy.tolerance;
            let (sets, masses) = (sets(&feature.cuts), Shares::new(&feature.masses));
            let shares: Vec<f64> = sets.iter().map(|&s| masses.share(s)).collect();
            let widths: Vec<f64> = between(i).iter().map(|var| (WIDTH * (var / devices).sqrt() - tolerance.share).max(0.0)).collect();
            let bounds = |set: Set| match set {
                Set::Below(_) | Set::Bin(_) if widths.iter().any(|&w| w > 0.0) => around(&feature.cuts, set, &shares, &widths),
                _ => (masses.share(set), masses.share(set)),
            };
            let parts = components(&feature.cuts);
            let step = Step {
                start_ms: season.start_ms,
                parts: &parts,
                expected: &feature.masses,
                bounds: Some(&bounds),
                observed,
                weights: Weights::even(eta, setting.reference.rows as f64),
                tolerance,
                threshold,
            };
            stream.update(&step);
        }
    }

    pub(super) fn verdicts(&self, setting: &Setting<'_>, cohort: &Cohort) -> Vec<Verdict> {
        let threshold = setting.cohort_threshold();
        let streams = self.streams.iter().zip(&setting.reference.features).enumerate();
        streams
            .map(|(index, (stream, feature))| {
                let current = self.season.as_ref().and_then(|s| s.counts.get(index)).map(Vec::as_slice);
                stream.verdict(feature, &About { index, cohort, device: None, threshold, harmless: setting.policy.harmless }, current)
            })
            .collect()
    }
}
