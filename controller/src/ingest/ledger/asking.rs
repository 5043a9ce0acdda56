//! Whom labels can be asked of: what each version decides a day on each device, and what is known about its accuracy there.
use super::*;
use crate::quality::asking::Place;

/// A device that has not reported for so long is not asked: its decisions of today are not known, and perhaps there are none.
const SILENT_MS: i64 = 3 * 86_400_000;
/// Windows together shorter than this say little about a day.
const MIN_SPAN_MS: i64 = 3_600_000;
const DAY_MS: f64 = 86_400_000.0;

impl Ledger {
    /// The places of the given cohorts and versions, for [`crate::quality::asking::plan`]. A device counts for the version of its newest window,
    /// with the rate of the windows at hand.
    pub fn label_places(&self, cohorts: &[Cohort], versions: &BTreeMap<Digest, String>, now: Timestamp) -> Vec<Place> {
        let mut places: BTreeMap<(Cohort, Digest), BTreeMap<DeviceId, f64>> = BTreeMap::new();
        for (device, windows) in &self.recent {
            let Some(newest) = windows.last().filter(|w| now.millis_since(w.at) < SILENT_MS) else { continue };
            let manifest = newest.report.manifest;
            if !versions.contains_key(&manifest) {
                continue;
            }
            let Some(cohort) = self.cohort_of(device).filter(|c| cohorts.contains(c)) else { continue };
            places.entry((cohort, manifest)).or_default().insert(device.clone(), rate(windows, manifest));
        }
        let place = |((cohort, manifest), devices): ((Cohort, Digest), BTreeMap<DeviceId, f64>)| {
            let known = self.qualities.get(&(cohort.clone(), manifest)).map(|q| (q.expected(), q.recent(&self.quality)));
            let (expected, recent) = known.unwrap_or_default();
            Place {
                version: versions.get(&manifest).cloned().unwrap_or_default(),
                manifest,
                devices,
                expected,
                estimated: recent.estimated(),
                measured: recent.measured(&self.quality),
                cohort,
            }
        };
        places.into_iter().map(place).collect()
    }
}

/// Decisions a day by the device's clock.
fn rate(windows: &[Glance], manifest: Digest) -> f64 {
    let of = || windows.iter().map(|w| &w.report).filter(|r| r.manifest == manifest);
    let decisions: u64 = of().map(|r| r.inferences).sum();
    let first = of().map(|r| r.opened_at).min();
    let last = of().map(|r| r.closed_at).max();
    let span = first.zip(last).map_or(0, |(first, last)| last.millis_since(first)).max(MIN_SPAN_MS);
    decisions as f64 * DAY_MS / span as f64
}
