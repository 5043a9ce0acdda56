//! Everything counted again over a fleet that is played: equal bit for bit, and anything that was changed is found.
use std::collections::BTreeMap;
use std::sync::Arc;

use leeway_protocol::digest::Digest;
use leeway_protocol::ids::{BootId, DeviceId, WindowId};
use leeway_protocol::manifest::Manifest;
use leeway_protocol::profile::{Counts, Reference, SPECIALS};
use leeway_protocol::report::WindowReport;
use leeway_protocol::time::Timestamp;

use super::*;
use crate::audit::{Draft, Event};
use crate::drift::DriftPolicy;
use crate::fleet::{CohortDoc, Device};
use crate::ingest::ledger::Frame;
use crate::ingest::ledger::health::Announced;
use crate::ingest::tests::{manifest as one_feature, window};
use crate::ingest::{Body, Ledger, Message};
use crate::planner::tests::world::{World, quick};
use crate::quality::QualityPolicy;
use crate::registry::{Alias, ModelLine};
use crate::sequential::tests::Chance;

/// What a store holds of a fleet's life, in the order in which it was written.
#[derive(Default, Clone)]
struct Stored {
    windows: Vec<(DeviceId, WindowReport, Frame)>,
    notes: Vec<Vec<u8>>,
    events: Vec<Event>,
    monitors: Vec<Monitored>,
}

impl Stored {
    fn event(&mut self, draft: Draft) {
        let (seq, prev) = self.events.last().map_or((1, Event::genesis()), |last| (last.seq + 1, last.hash));
        let event = draft.seal(seq, prev);
        // As the store gives it back.
        self.events.push(serde_json::from_slice(&serde_json::to_vec(&event).unwrap()).unwrap());
    }

    fn replayed(&self, manifests: &BTreeMap<Digest, Arc<Manifest>>) -> Report {
        let mut fold = Fold::new(manifests.clone());
        self.events.iter().for_each(|event| fold.event(event));
        fold.begin(0, Vec::new());
        let mut windows = (0..).zip(&self.windows).peekable();
        for note in &self.notes {
            let place = serde_json::from_slice::<Note>(note).ok().and_then(|note| note.windows()).unwrap_or(0);
            while let Some((seq, (device, window, frame))) = windows.next_if(|(seq, _)| *seq < place) {
                fold.window(seq, device, window, Some(frame));
            }
            fold.note(note);
        }
        windows.for_each(|(seq, (device, window, frame))| fold.window(seq, device, window, Some(frame)));
        // As a checkpoint gives them back.
        let monitors: Vec<Monitored> = serde_json::from_slice(&serde_json::to_vec(&self.monitors).unwrap()).unwrap();
        fold.checkpoint(self.windows.len() as u64, &monitors);
        fold.finish(None)
    }
}

fn manifest() -> Manifest {
    let mut manifest = one_feature();
    let feature = &manifest.reference.features[0];
    let edges: Vec<f64> = (0..=10).map(f64::from).collect();
    let masses = [0.0; SPECIALS].into_iter().chain([0.1; 10]).collect();
    let features = vec![leeway_protocol::profile::FeatureReference {
        cuts: leeway_protocol::profile::Cuts::Numeric { edges },
        masses,
        ..feature.clone()
    }];
    manifest.reference = Reference { rows: 50_000, features };
    manifest
}

/// Twelve devices count one feature for sixty hours; after thirty the world moves, and one instrument had broken at twenty. The fleet
/// grows meanwhile, a device changes its cohort, and the controller starts again with another policy.
fn lived() -> (Stored, BTreeMap<Digest, Arc<Manifest>>, Ledger) {
    let content = manifest();
    let digest = content.blob().digest;
    let mut ledger = Ledger::default();
    ledger.know(digest, Arc::new(content.clone()));
    ledger.drift = DriftPolicy { base_blocks: 6, ..DriftPolicy::default() };
    let at = |hour: u64| Timestamp::from_secs(1_000_000 * 3600 + hour as i64 * 3600);
    for (rank, cohort) in ["coast", "hills"].into_iter().enumerate() {
        let selector = format!("region={cohort}").parse().unwrap();
        let (name, line) = (cohort.parse().unwrap(), content.line.clone());
        let doc = CohortDoc { name, line, selector, rank: rank as u32, last_known_good: None, created_at: at(0) };
        Arc::make_mut(&mut ledger.snapshot.cohorts).insert(doc.name.clone(), Arc::new(doc));
    }
    let mut line = ModelLine::new(content.line.clone(), at(0));
    line.aliases.move_to(Alias::Champion, Some(content.version.clone()), at(0), None, "first");
    Arc::make_mut(&mut ledger.snapshot.lines).insert(content.line.clone(), Arc::new(line));
    let mut version = crate::planner::tests::world::version("1", 1, None);
    version.manifest.digest = digest;
    Arc::make_mut(&mut ledger.snapshot.versions).insert((content.line.clone(), content.version.clone()), Arc::new(version));
    let enrol = |ledger: &mut Ledger, i: usize, region: &str| {
        let labels = BTreeMap::from([("region".to_owned(), region.to_owned())]);
        ledger.enrol(Device::new(format!("d{i:02}").parse().unwrap(), "00".repeat(32), labels, at(0)));
    };
    (0..12).for_each(|i| enrol(&mut ledger, i, "coast"));
    let mut stored = Stored::default();
    let mut chance = Chance::new(7);
    let start = |ledger: &Ledger, at| Note::Start {
        at,
        windows: ledger.position.windows,
        engine: Engine::this(),
        drift: ledger.drift,
        quality: QualityPolicy::default(),
    };
    stored.notes.push(start(&ledger, at(0)).sealed().unwrap().0);
    for hour in 0..60 {
        if hour == 25 {
            (12..16).for_each(|i| enrol(&mut ledger, i, "coast"));
            enrol(&mut ledger, 3, "hills");
        }
        if hour == 40 {
            ledger.drift.tolerance.share = 0.04;
            stored.notes.push(start(&ledger, at(hour)).sealed().unwrap().0);
        }
        for i in 0..12 {
            let name: DeviceId = format!("d{i:02}").parse().unwrap();
            let mut counts = vec![0; SPECIALS + 10];
            for _ in 0..200 {
                let moved = if (i == 5 && hour >= 20) || hour >= 30 { 0.5 } else { 0.0 };
                let bin = if chance.uniform() < moved { 9 } else { (chance.uniform() * 10.0) as usize };
                counts[SPECIALS + bin.min(9)] += 1;
            }
            let report = WindowReport {
                manifest: digest,
                model: content.model.digest,
                features: vec![Counts(counts)],
                opened_at: at(hour),
                closed_at: at(hour).plus_secs(1800),
                inferences: 200,
                recorded: 200,
                ..window(hour)
            };
            let frame = ledger.frame_of(&name);
            let body = Body::Window(Box::new(WindowReport { window: WindowId(hour), ..report.clone() }));
            let message = Message { device: name.clone(), boot: BootId(1), counter: hour + 1, mark: 0, body };
            ledger.take_framed(&message, at(hour), Some(&frame));
            stored.windows.push((name, report, frame));
            ledger.position.windows += 1;
        }
        let events = ledger.refresh_health(at(hour));
        stored.notes.extend(ledger.take_notes());
        events.into_iter().for_each(|draft| stored.event(draft));
    }
    for (cohort, manifest) in ledger.watched() {
        let (drift, quality, labelled_rows) = ledger.derived(&cohort, manifest);
        stored.monitors.push(Monitored { cohort, manifest, drift, quality, labelled_rows });
    }
    (stored, BTreeMap::from([(digest, Arc::new(content))]), ledger)
}

fn life() -> (Stored, BTreeMap<Digest, Arc<Manifest>>) {
    let (stored, manifests, _) = lived();
    (stored, manifests)
}

#[test]
fn a_restart_neither_repeats_an_alarm_nor_loses_one() {
    let (.., mut ledger) = lived();
    let at = Timestamp::from_secs(2_000_000 * 3600);
    let mut judged_again = |announced: Vec<Announced>| {
        ledger.restore_announced(announced);
        // Nobody accuses it; its cohorts are judged again.
        ledger.repaired(&"d15".parse().unwrap());
        let events = ledger.refresh_health(at);
        (events.iter().map(|event| event.kind.clone()).collect::<Vec<_>>(), ledger.announced())
    };
    let (_, known) = judged_again(Vec::new());
    assert!(known.len() >= 2, "{known:?}");
    assert_eq!(judged_again(known.clone()).0, Vec::<String>::new());
    let stored = serde_json::to_vec(&known[1..]).unwrap();
    let (told, again) = judged_again(serde_json::from_slice(&stored).unwrap());
    assert_eq!((told.len(), again), (1, known), "{told:?}");
}

#[test]
fn every_alarm_and_every_stream_of_a_fleet_comes_out_again_bit_for_bit() {
    let (stored, manifests) = life();
    let kinds: Vec<&str> = stored.events.iter().map(|event| event.kind.as_str()).collect();
    assert!(kinds.contains(&"drift.instrument") && kinds.contains(&"drift.world"), "{kinds:?}");
    let report = stored.replayed(&manifests);
    assert!(report.is_equal(), "{}\n{:#?}", report.sentence(), report.differences);
    let n = stored.events.len() as u64;
    assert_eq!(report.alarms, Tally { recorded: n, recomputed: n, equal: n });
    assert_eq!((report.streams.recomputed, report.windows), (4, 720), "drift and quality of two cohorts");
    assert_eq!(report.cannot, Vec::<String>::new());
}

#[test]
fn a_changed_count_policy_size_note_or_event_is_found_and_named() {
    let (good, manifests) = life();
    let wrong = |change: &dyn Fn(&mut Stored)| {
        let mut stored = good.clone();
        change(&mut stored);
        let report = stored.replayed(&manifests);
        assert!(!report.is_equal());
        report
    };
    let one_count = wrong(&|stored| stored.windows[500].1.features[0].0[SPECIALS + 2] += 1);
    assert!(one_count.streams.equal < one_count.streams.recomputed, "one count of 144,000 shows: {}", one_count.sentence());
    let swapped = wrong(&|stored| stored.windows.swap(100, 300));
    assert!(swapped.alarms.equal < swapped.alarms.recomputed, "{}", swapped.sentence());
    let fleet = wrong(&|stored| stored.windows.iter_mut().for_each(|w| w.2.sizes.devices += 1));
    assert!(fleet.different > 0, "{}", fleet.sentence());
    let edit = |stored: &mut Stored, from: &str, to: &str| {
        let place = stored.notes.iter().position(|n| String::from_utf8_lossy(n).contains(from)).unwrap();
        stored.notes[place] = String::from_utf8_lossy(&stored.notes[place]).replacen(from, to, 1).into_bytes();
    };
    let policy = wrong(&|stored| edit(stored, "\"share\":0.03", "\"share\":0.031"));
    assert!(policy.streams.equal < policy.streams.recomputed, "{}", policy.sentence());
    let threshold = wrong(&|stored| edit(stored, "\"log_threshold\":", "\"log_threshold\":9"));
    assert!(threshold.differences.iter().any(|d| d.path == "/log_threshold"), "{:#?}", threshold.differences);
    assert!(threshold.differences.iter().any(|d| d.path == "/basis/digest"), "its event names another content");
    let hidden = wrong(&|stored| {
        // The alarm's note is gone with its digest still in the chain.
        let place = stored.notes.iter().position(|n| String::from_utf8_lossy(n).contains("drift.world")).unwrap();
        stored.notes.remove(place);
    });
    assert_eq!(hidden.differences[0].path, "/basis/digest");
}

#[test]
fn what_cannot_be_replayed_is_counted_and_said() {
    let (stored, manifests) = life();
    let mut fold = Fold::new(manifests.clone());
    stored.events.iter().for_each(|event| fold.event(event));
    for note in &stored.notes {
        assert_eq!(fold.note(note), Replayed::Not);
    }
    let report = fold.finish(None);
    assert_eq!((report.alarms.recorded, report.alarms.recomputed), (stored.events.len() as u64, 0));
    assert!(report.is_equal() && report.cannot[0].contains("not every window"), "{:?}", report.cannot);
    // Notes past retention.
    let mut fold = Fold::new(manifests);
    stored.events.iter().for_each(|event| fold.event(event));
    let report = fold.finish(Some(u64::MAX));
    assert!(report.is_equal() && report.cannot[0].contains("older than the notes"), "{:?}", report.cannot);
}

/// A rollout that passes and one that fails, with every move of the gate noted as the executor does it.
fn rollouts() -> Stored {
    let mut stored = Stored::default();
    let mut world = World::new();
    for version in ["2", "3"] {
        if version == "3" {
            world.broken.insert("3".to_owned());
        }
        world.roll_out(version, quick());
        for _ in 0..200 {
            let (plan, report) = (world.pass(10_000), world.report.clone());
            for (place, basis) in &report.bases {
                let step = plan.steps[*place].clone();
                let note = GateNote::of(basis, &step, world.now);
                let (bytes, digest) = Note::Gate(Box::new(note)).sealed().unwrap();
                stored.notes.push(bytes);
                let data = serde_json::json!({ "basis": { "digest": digest } });
                let (actor, kind, subject) = ("controller".to_owned(), step.kind().to_owned(), step.subject());
                stored.event(Draft { at: world.now, actor, kind, subject, sentence: step.sentence(), data });
            }
        }
    }
    stored
}

#[test]
fn every_verdict_of_a_gate_comes_out_again_and_a_changed_count_or_limit_is_found() {
    let stored = rollouts();
    let report = stored.replayed(&BTreeMap::new());
    assert!(report.is_equal(), "{}\n{:#?}", report.sentence(), report.differences);
    let moves: Vec<String> = stored.events.iter().map(|event| event.sentence.clone()).collect();
    assert!(report.decisions.equal >= 6 && report.decisions.equal == report.decisions.recorded, "{moves:#?}");
    let size = report.note_bytes / report.notes;
    assert!(size < 40_000, "{size} bytes a decision");
    // (What is changed, how): the arms' counts, and the error budget.
    for (from, to) in
        [("\"n\":", "\"n\":1"), ("\"false_abort\":0.05", "\"false_abort\":0.5"), ("\"failed_by_model\":", "\"failed_by_model\":9")]
    {
        let mut changed = stored.clone();
        for note in &mut changed.notes {
            *note = String::from_utf8_lossy(note).replacen(from, to, 1).into_bytes();
        }
        let report = changed.replayed(&BTreeMap::new());
        assert!(report.decisions.equal < report.decisions.recomputed, "{from}: {}", report.sentence());
    }
    // Somebody lets a failed version go on, and mends every digest: the verdict does not allow the step.
    let mut forged = stored;
    let regress = forged.notes.iter().position(|n| String::from_utf8_lossy(n).contains("\"move\":\"regress\"")).unwrap();
    forged.notes[regress] =
        String::from_utf8_lossy(&forged.notes[regress]).replace("\"move\":\"regress\"", "\"move\":\"advance\"").into_bytes();
    let report = forged.replayed(&BTreeMap::new());
    assert!(report.differences.iter().any(|d| d.path == "/step"), "{:#?}", report.differences);
}

#[test]
fn the_first_difference_is_named_with_both_values_and_bits_count() {
    let value = |x: f64| serde_json::json!({ "a": [1, { "b": x }] });
    let (x, next) = (0.1 + 0.2, f64::from_bits((0.1_f64 + 0.2).to_bits() + 1));
    assert_eq!(first_difference(&value(x), &value(x), String::new()), None);
    let (path, recorded, recomputed) = first_difference(&value(x), &value(next), String::new()).unwrap();
    assert_eq!((path.as_str(), recorded.as_str(), recomputed.as_str()), ("/a/1/b", "0.30000000000000004", "0.3000000000000001"));
    assert!(first_difference(&value(0.0), &value(-0.0), String::new()).is_some());
}

#[test]
fn a_gap_in_the_windows_ends_what_can_be_replayed_until_the_next_base() {
    let (stored, manifests) = life();
    let mut fold = Fold::new(manifests);
    fold.begin(0, Vec::new());
    for (seq, (device, window, frame)) in (0..).zip(&stored.windows) {
        match seq {
            0..100 | 110..200 => fold.window(seq, device, window, Some(frame)),
            100..110 => {}
            // Stored before frames were kept.
            _ => fold.window(seq, device, window, None),
        }
        if seq == 105 {
            assert!(fold.is_running(), "nobody has asked yet");
        }
        if seq == 150 {
            assert!(!fold.is_running());
            fold.begin(151, Vec::new());
        }
    }
    fold.checkpoint(720, &stored.monitors);
    let report = fold.finish(None);
    assert_eq!((report.windows, report.streams.recomputed), (149, 0));
    assert!(report.cannot[0].starts_with("windows 100 to 109 are past retention"), "{:?}", report.cannot);
    assert!(report.cannot[1].starts_with("from window 200 on"), "{:?}", report.cannot);
}
