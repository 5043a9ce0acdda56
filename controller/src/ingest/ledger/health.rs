//! What the counts say about each cohort: verdicts, alarms that begin and end, and the health the planner decides on.
//!
//! Derived from the monitors alone, so it can be made again at any time. What stays true: an alarm is announced once when it
//! begins and once when it ends.
use serde::{Deserialize, Serialize};

use super::*;

/// The name under which an alarm of the labels' own detector stands beside the features'.
const CONCEPT: &str = "labels";

/// Kinds of events about alarms: the world moved and may hurt, it moved and costs next to nothing, a release's outputs are not as its
/// reference says, an instrument broke.
const WORLD: &str = "drift.world";
const HARMLESS: &str = "drift.harmless";
const RELEASE: &str = "drift.release";
const INSTRUMENT: &str = "drift.instrument";
const ENDED: &str = "drift.ended";

/// Whether an event of this kind says that an alarm began or ended.
pub fn is_alarm(kind: &str) -> bool {
    [WORLD, HARMLESS, RELEASE, INSTRUMENT, ENDED].contains(&kind)
}

/// An alarm that was announced, and as what: written down with the event, so that a restart neither says it twice nor forgets one that
/// passed its threshold in the last moment before.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Announced {
    cohort: Cohort,
    feature: String,
    device: Option<DeviceId>,
    kind: String,
}

/// What kind of event says that such an alarm stands.
fn kind(stands: &Stands) -> &'static str {
    match &stands.verdict {
        Said::Drift(v) if v.device.is_some() => INSTRUMENT,
        Said::Drift(v) if v.release => RELEASE,
        Said::Drift(v) if v.harmless => HARMLESS,
        _ => WORLD,
    }
}

impl Ledger {
    pub(super) fn setting<'a>(&'a self, manifest: &'a Manifest) -> Setting<'a> {
        let Sizes { devices, monitors, .. } = self.sizes();
        Setting { reference: &manifest.reference, policy: &self.drift, devices, cohorts: monitors }
    }

    /// The manifest that a cohort's champion has.
    pub fn champion_of(&self, cohort: &Cohort) -> Option<Digest> {
        let line = &self.snapshot.cohorts.get(cohort)?.line;
        let version = self.snapshot.lines.get(line)?.champion()?;
        self.snapshot.version(line, version).map(|v| v.manifest.digest)
    }

    /// What is known about the world of one cohort under one manifest: a verdict per feature, the most harmful first.
    pub fn world(&self, cohort: &Cohort, manifest: Digest) -> Vec<Verdict> {
        self.verdicts(cohort, manifest, Monitor::world)
    }

    /// Instruments under alarm in one cohort under one manifest, the surest first.
    pub fn instruments(&self, cohort: &Cohort, manifest: Digest) -> Vec<Verdict> {
        self.monitors.get(&(cohort.clone(), manifest)).map(Monitor::instruments).unwrap_or_default()
    }

    /// Windows of one cohort under one manifest that came after their block was judged.
    pub fn late_windows(&self, cohort: &Cohort, manifest: Digest) -> u64 {
        self.monitors.get(&(cohort.clone(), manifest)).map(Monitor::late).unwrap_or_default()
    }

    fn verdicts(&self, cohort: &Cohort, manifest: Digest, of: impl Fn(&Monitor, &Setting<'_>) -> Vec<Verdict>) -> Vec<Verdict> {
        let monitor = self.monitors.get(&(cohort.clone(), manifest));
        let Some((monitor, content)) = monitor.zip(self.manifests.get(&manifest)) else { return Vec::new() };
        of(monitor, &self.setting(content))
    }

    /// Quality of every manifest that served a cohort, for charts and verdicts.
    pub fn qualities(&self, cohort: &Cohort) -> impl Iterator<Item = &Quality> {
        let of = cohort.clone();
        let first = (cohort.clone(), Digest::from_bytes([0; 32]));
        self.qualities.range(first..).take_while(move |((c, _), _)| *c == of).map(|(_, quality)| quality)
    }

    /// Monitors of labels that share the budget of false alarms.
    pub fn quality_streams(&self) -> u64 {
        self.sizes().qualities
    }

    /// A technician has seen to a device: it learns a new base, and its alarms end.
    pub fn repaired(&mut self, device: &DeviceId) {
        for (key, monitor) in &mut self.monitors {
            monitor.repaired(device);
            self.dirty.monitors.insert(key.clone());
            self.unjudged.insert(key.0.clone());
        }
    }

    /// Judge every cohort that counted something since the last time; what to write into the event log about alarms that began
    /// or ended.
    pub fn refresh_health(&mut self, at: Timestamp) -> Vec<Draft> {
        let cohorts = std::mem::take(&mut self.unjudged);
        let mut events = Vec::new();
        for cohort in cohorts {
            let Some(manifest) = self.champion_of(&cohort) else { continue };
            let (health, standing) = self.judged(&cohort, manifest);
            events.extend(self.announce(&cohort, manifest, standing, at));
            let known = self.snapshot.health.get(&cohort).map(AsRef::as_ref);
            if known != Some(&health) {
                Arc::make_mut(&mut self.snapshot.health).insert(cohort, Arc::new(health));
                self.snapshot.revision += 1;
            }
        }
        events
    }

    /// Every alarm that was announced and has not ended.
    pub fn announced(&self) -> Vec<Announced> {
        let one = |((cohort, feature, device), kind): (&Alarm, &&'static str)| Announced {
            cohort: cohort.clone(),
            feature: feature.clone(),
            device: device.clone(),
            kind: (*kind).to_owned(),
        };
        self.alarms.iter().map(one).collect()
    }

    /// What was announced before a restart. What stands beside it is announced with the next judgement.
    pub fn restore_announced(&mut self, announced: Vec<Announced>) {
        let known = |name: &str| [HARMLESS, RELEASE, INSTRUMENT].into_iter().find(|kind| *kind == name).unwrap_or(WORLD);
        self.alarms = announced.into_iter().map(|a| ((a.cohort, a.feature, a.device), known(&a.kind))).collect();
    }

    /// What the counts say about one cohort now, and which alarms stand.
    pub(super) fn judged(&self, cohort: &Cohort, manifest: Digest) -> (CohortHealth, BTreeMap<Alarm, Stands>) {
        let (world, instruments) = (self.world(cohort, manifest), self.instruments(cohort, manifest));
        let mut health = CohortHealth { manifest: Some(manifest), ..CohortHealth::default() };
        let mut standing = BTreeMap::new();
        for verdict in world.into_iter().chain(instruments).filter(|v| v.moved) {
            if verdict.device.is_none() {
                let told = match (verdict.release, verdict.harmless) {
                    (true, _) => &mut health.release,
                    (false, true) => &mut health.harmless,
                    (false, false) => &mut health.moved,
                };
                told.insert(verdict.feature.clone(), verdict.sentence.clone());
                if verdict.kind != Kind::Input && !verdict.release {
                    health.outputs.insert(verdict.feature.clone());
                }
            }
            let alarm = (cohort.clone(), verdict.feature.clone(), verdict.device.clone());
            standing.insert(alarm, Stands { sentence: verdict.sentence.clone(), verdict: Said::Drift(Box::new(verdict)) });
        }
        self.judge_quality(cohort, manifest, &mut health, &mut standing);
        (health, standing)
    }

    fn judge_quality(&self, cohort: &Cohort, manifest: Digest, health: &mut CohortHealth, standing: &mut BTreeMap<Alarm, Stands>) {
        health.labelled_rows = self.labelled.iter().filter(|((c, _), _)| c == cohort).map(|(_, n)| n).sum();
        let Some(quality) = self.qualities.get(&(cohort.clone(), manifest)) else { return };
        let verdict = quality.verdict(&self.quality, self.sizes().qualities);
        health.expected_accuracy = verdict.expected;
        health.estimated_accuracy = verdict.estimated;
        health.measured_accuracy = verdict.measured.map(|m| (m.estimate, verdict.labels));
        if verdict.concept_drift {
            // The labels changed their meaning: an alarm of its own, though no input moved.
            health.concept_drift = true;
            health.moved.insert(CONCEPT.to_owned(), verdict.sentence.clone());
            let stands = Stands { sentence: verdict.sentence.clone(), verdict: Said::Quality(Box::new(verdict)) };
            standing.insert((cohort.clone(), CONCEPT.to_owned(), None), stands);
        }
    }

    /// Alarms of one cohort that began or ended.
    fn announce(&mut self, cohort: &Cohort, manifest: Digest, standing: BTreeMap<Alarm, Stands>, at: Timestamp) -> Vec<Draft> {
        let mut changed = Vec::new();
        for (alarm, stands) in &standing {
            // A shift that was harmless and hurts now is news again; one that ceased to hurt is not.
            let known = self.alarms.get(alarm).copied();
            if known.is_none() || known == Some(HARMLESS) && kind(stands) != HARMLESS {
                changed.push((kind(stands), alarm.clone(), stands.sentence.clone(), Some(stands.verdict.clone())));
            }
        }
        for alarm in self.alarms.keys().filter(|alarm| alarm.0 == *cohort && !standing.contains_key(*alarm)) {
            changed.push((ENDED, alarm.clone(), format!("The alarm about {} at {} no longer stands.", alarm.1, alarm.0), None));
        }
        self.alarms.retain(|alarm, _| alarm.0 != *cohort);
        self.alarms.extend(standing.iter().map(|(alarm, stands)| (alarm.clone(), kind(stands))));
        let event = |(kind, alarm, sentence, verdict): (&str, Alarm, String, Option<Said>)| {
            let basis = self.note_alarm(kind, &alarm, manifest, verdict.as_ref(), at);
            let (cohort, feature, device) = alarm;
            let subject = device.as_ref().map_or_else(|| format!("cohorts/{cohort}"), |d| format!("devices/{d}"));
            let mut data = json!({ "cohort": cohort, "feature": feature, "device": device, "basis": basis });
            if let (Some(Said::Drift(verdict)), Some(fields)) = (&verdict, data.as_object_mut())
                && let Some(cost) = verdict.cost
            {
                fields.insert("cost".to_owned(), json!(cost));
            }
            Draft { at, actor: "controller".to_owned(), kind: kind.to_owned(), subject, sentence, data }
        };
        changed.into_iter().map(event).collect()
    }
}
