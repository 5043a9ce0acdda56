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

#[cfg(test)]
mod tests {
    use leeway_protocol::ids::WindowId;
    use leeway_protocol::report::Labelled;

    use super::super::super::tests::{manifest, window};
    use super::*;
    use crate::fleet::{CohortDoc, Selector};

    /// Two devices of one cohort, and a model line with two versions.
    fn ledger() -> (Ledger, [Digest; 2]) {
        let mut ledger = Ledger::default();
        let doc = CohortDoc {
            name: "coast".parse().unwrap(),
            line: "rain".parse().unwrap(),
            selector: Selector::everything(),
            rank: 0,
            last_known_good: None,
            created_at: Timestamp::default(),
        };
        Arc::make_mut(&mut ledger.snapshot.cohorts).insert(doc.name.clone(), Arc::new(doc));
        let versions = ["1", "2"].map(|version| {
            let manifest = Manifest { version: version.parse().unwrap(), ..manifest() };
            let digest = manifest.blob().digest;
            ledger.know(digest, Arc::new(manifest));
            digest
        });
        for name in ["d1", "d2"] {
            ledger.enrol(Device::new(name.parse().unwrap(), String::new(), BTreeMap::new(), Timestamp::default()));
        }
        (ledger, versions)
    }

    fn take(ledger: &mut Ledger, device: &str, number: u64, report: WindowReport, at: i64) {
        let report = WindowReport { window: WindowId(number), ..report };
        let body = Body::Window(report.into());
        let message = Message { device: device.parse().unwrap(), boot: BootId(1), counter: number, mark: 0, body };
        ledger.take(&message, Timestamp::from_secs(at));
    }

    #[test]
    fn a_device_is_asked_about_what_it_runs_now_as_often_as_it_decides() {
        let (mut ledger, [old, new]) = ledger();
        let hours = |n: i64| Timestamp::from_secs(n * 3_600);
        let of = |manifest, from, to| WindowReport { manifest, opened_at: hours(from), closed_at: hours(to), ..window(0) };
        take(&mut ledger, "d1", 1, of(old, 0, 12), 43_200);
        take(&mut ledger, "d1", 2, of(new, 12, 18), 64_800);
        take(&mut ledger, "d1", 3, of(new, 18, 24), 86_400);
        take(&mut ledger, "d2", 1, of(old, 0, 1), 3_600);
        let names = BTreeMap::from([(old, "1".to_owned()), (new, "2".to_owned())]);
        let cohorts = ["coast".parse().unwrap()];
        let mut places = ledger.label_places(&cohorts, &names, hours(30));
        places.sort_by(|a, b| a.version.cmp(&b.version));
        let shown: Vec<(&str, Vec<(&str, f64)>)> =
            places.iter().map(|p| (p.version.as_str(), p.devices.iter().map(|(d, n)| (d.as_str(), *n)).collect())).collect();
        assert_eq!(shown, [("1", vec![("d2", 96.0)]), ("2", vec![("d1", 16.0)])]);
        assert!(places.iter().all(|p| p.expected == Some(0.8) && p.estimated.is_some() && p.measured.is_none()));
        assert_eq!(ledger.label_places(&[], &names, hours(30)), []);
        assert_eq!(ledger.label_places(&cohorts, &BTreeMap::new(), hours(30)), []);
        assert_eq!(ledger.label_places(&cohorts, &names, hours(90)).len(), 1, "who is silent for three days is not asked");
    }

    #[test]
    fn a_late_label_counts_for_the_version_that_answered_and_once() {
        let (mut ledger, [old, new]) = ledger();
        let mut labelled = [Labelled::default(); leeway_protocol::manifest::CONFIDENCE_BINS];
        labelled[9] = Labelled { rows: 3, correct: 2 };
        take(&mut ledger, "d1", 1, WindowReport { manifest: old, ..window(0) }, 10);
        take(&mut ledger, "d1", 2, WindowReport { manifest: new, ..window(0) }, 20);
        // The former version decides nothing any more; its labels still come, and the report of them comes twice.
        let late = WindowReport { manifest: old, inferences: 0, labelled, ..window(0) };
        take(&mut ledger, "d1", 3, late.clone(), 30);
        take(&mut ledger, "d1", 3, late, 31);
        let labels =
            |digest| ledger.qualities(&"coast".parse().unwrap()).find(|q| q.manifest() == digest).unwrap().recent(&ledger.quality).labels;
        assert_eq!((labels(old), labels(new)), (3, 0));
    }
}
