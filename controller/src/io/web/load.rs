//! What handlers and pages read, in one place: resources made from the live state, the log and the blobs.
//!
//! The API's handler and the page of a resource call the same function here, so they show the same thing.
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};

use leeway_protocol::digest::Digest;
use leeway_protocol::ids::{Cohort, DeviceId, Line, RolloutId, Version};
use leeway_protocol::manifest::Manifest;
use leeway_protocol::time::Timestamp;

use super::Web;
use super::error::Problem;
use super::resource::Page;
use super::resource::device::{Device, DeviceSummary};
use super::resource::event::{Chain, Event, EventList};
use super::resource::fleet::{Attention, Fleet, Totals};
use super::resource::model::{Lineage, Model, VersionDetail};
use super::resource::rollout::Rollout;
use super::resource::{Level, drift as wire};
use super::view::events::event;
use super::view::{Facts, drift, models, quality};
use crate::audit::{self, Head};
use crate::drift::verdict::Verdict;
use crate::fleet::Selector;
use crate::ingest::Ledger;
use crate::io::store::StoreError;
use crate::registry::ModelVersion;
use crate::snapshot::Snapshot;

/// Entries shown on the overview.
const SHOWN: usize = 10;
/// Entries shown beside a resource.
const NEARBY: usize = 20;
/// Newest entries searched for those about one resource: a page must not read the whole log.
const SEARCHED: usize = 2_000;
/// Entries read from the store at a time.
const CHUNK: usize = 1_000;
/// Chunks read for one filtered list.
const MAX_CHUNKS: usize = 50;
/// Entries whose chain is checked per request; the check goes on where it stood.
const MAX_CHECKED: usize = 20_000;
/// Devices on one page of the API.
pub(super) const MAX_PAGE: usize = 500;

/// How far the chain has been checked since the controller started, and what was found.
#[derive(Debug, Default)]
pub(super) struct Checked(Mutex<(Head, Option<String>)>);

/// Which devices are wanted.
#[derive(Debug, Clone, Default)]
pub(super) struct Filter {
    pub cohort: Option<Cohort>,
    pub state: Option<State>,
    pub selector: Option<Selector>,
    pub after: Option<String>,
    pub limit: usize,
}

/// Which state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum State {
    /// Connected.
    Online,
    /// Not connected.
    Offline,
    /// Refused its release or went back.
    Failing,
}

/// Which entries of the log are wanted.
#[derive(Debug, Clone, Default)]
pub(super) struct Wanted {
    pub since: Option<u64>,
    pub before: Option<u64>,
    pub kind: Option<String>,
    pub subject: Option<String>,
    pub limit: usize,
}

impl Wanted {
    fn takes(&self, event: &audit::Event) -> bool {
        self.kind.as_ref().is_none_or(|k| event.kind.starts_with(k.as_str())) && self.subject.as_ref().is_none_or(|s| event.subject == *s)
    }
}

impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Self {
        Self::Unavailable(error.to_string())
    }
}

impl Web {
    /// Look at the state as it is now.
    pub(super) fn facts<T>(&self, look: impl FnOnce(Facts<'_>) -> T) -> T {
        let (snapshot, report) = (self.controller().snapshot(), self.controller().plan_report());
        look(Facts { now: self.controller().now(), snapshot: &snapshot, report: &report })
    }

    /// Number of the newest entry of the log.
    pub(super) fn newest(&self) -> Result<u64, Problem> {
        Ok(self.controller().last_events(1)?.last().map_or(0, |e| e.seq))
    }

    /// The newest entries about `subject`, newest first.
    fn nearby(&self, subject: &str) -> Result<Vec<Event>, Problem> {
        let all = self.controller().last_events(SEARCHED)?;
        Ok(all.iter().rev().filter(|e| e.subject == subject).take(NEARBY).map(event).collect())
    }

    /// The overview.
    pub(super) fn fleet(&self) -> Result<Fleet, Problem> {
        // What merely follows from a decision (each device that is told) would push the decision itself off the page.
        let newest = self.controller().last_events(SEARCHED)?;
        let events: Vec<Event> = newest.iter().rev().map(event).filter(|e| e.level > Level::Idle).take(SHOWN).collect();
        let more = self.broken_instruments().into_iter().chain(self.own_trouble()).collect();
        let totals = self.totals();
        Ok(self.facts(|facts| facts.fleet(totals, more, events)))
    }

    /// Instruments with an alarm.
    fn broken_instruments(&self) -> Vec<Attention> {
        let alarms = self.instruments(None);
        let about = |d: wire::DeviceDrift| Attention {
            level: Level::Warn,
            sentence: d.sentence,
            since: None,
            href: format!("/devices/{}", d.device),
            action: "Its readings do not count as drift of the world until it was seen to.".to_owned(),
        };
        alarms.into_iter().map(about).collect()
    }

    /// What is wrong with the controller itself.
    fn own_trouble(&self) -> Option<Attention> {
        let problem = self.controller().mqtt_problem()?;
        Some(Attention {
            level: Level::Bad,
            sentence: problem,
            since: None,
            href: "/events".to_owned(),
            action: "Devices go on with the model they have; their reports wait on them.".to_owned(),
        })
    }

    /// Every line.
    pub(super) fn models(&self) -> Vec<Model> {
        self.facts(|facts| {
            facts.models(|v| self.controller().manifest(v.manifest.digest).map(|m| models::signature(&m)).unwrap_or_default())
        })
    }

    /// One line.
    pub(super) fn model(&self, line: &Line) -> Result<Model, Problem> {
        self.models().into_iter().find(|m| m.line == line.as_str()).ok_or_else(|| Problem::missing("model", line))
    }

    /// One version.
    pub(super) async fn version(&self, line: &Line, version: &Version) -> Result<VersionDetail, Problem> {
        let manifest = self.whole_manifest(line, version).await?;
        let missing = || Problem::NotFound(format!("line {line} has no version {version}: `leeway model list` shows those that exist"));
        self.facts(|facts| facts.version_detail(line, version, &manifest)).ok_or_else(missing)
    }

    /// The manifest with its golden vectors, from the blob.
    async fn whole_manifest(&self, line: &Line, version: &Version) -> Result<Manifest, Problem> {
        let missing = || Problem::NotFound(format!("line {line} has no version {version}: `leeway model list` shows those that exist"));
        let blob = self.controller().snapshot().version(line, version).map(|v| v.manifest).ok_or_else(missing)?;
        let bytes = self.controller().blobs().bytes(blob.digest, leeway_protocol::manifest::MAX_MANIFEST_BYTES).await;
        let bytes = bytes
            .map_err(|e| Problem::Unavailable(e.to_string()))?
            .ok_or_else(|| Problem::Unavailable(format!("the manifest of {line} {version} is not on the disk: publish it again")))?;
        Manifest::parse(&bytes).map_err(|e| Problem::Internal(e.to_string()))
    }

    /// Descent of a version.
    pub(super) fn lineage(&self, line: &Line, version: &Version) -> Result<Lineage, Problem> {
        let missing = || Problem::NotFound(format!("line {line} has no version {version}: `leeway model list` shows those that exist"));
        self.facts(|facts| facts.snapshot.version(line, version).map(|v| facts.lineage(v))).ok_or_else(missing)
    }

    /// One rollout.
    pub(super) fn rollout(&self, id: &RolloutId) -> Result<Rollout, Problem> {
        let events = self.nearby(&format!("rollouts/{id}"))?;
        self.facts(|facts| facts.rollout(id, events)).ok_or_else(|| Problem::missing("rollout", id))
    }

    /// Devices, by name, a page at a time.
    pub(super) fn devices(&self, filter: &Filter) -> Page<DeviceSummary> {
        let limit = filter.limit.clamp(1, MAX_PAGE);
        self.facts(|facts| {
            let mut found: Vec<_> = facts
                .snapshot
                .fleet
                .iter()
                .filter(|d| filter.after.as_ref().is_none_or(|a| d.id.as_str() > a.as_str()))
                .filter(|d| matches(&facts, filter, d))
                .collect();
            found.sort_by(|a, b| a.id.cmp(&b.id));
            let more = found.len() > limit;
            found.truncate(limit);
            let next_cursor = found.last().filter(|_| more).map(|d| d.id.to_string());
            Page { items: found.iter().map(|d| facts.device_summary(d)).collect(), next_cursor }
        })
    }

    /// One device.
    pub(super) fn device(&self, id: &DeviceId) -> Result<Device, Problem> {
        let events = self.nearby(&format!("devices/{id}"))?;
        let drift = self.instruments(Some(id));
        self.facts(|facts| facts.device_detail(id, events, drift)).ok_or_else(|| Problem::missing("device", id))
    }

    /// Names of cohorts.
    pub(super) fn cohort_names(&self) -> Vec<String> {
        self.controller().snapshot().cohorts.keys().map(ToString::to_string).collect()
    }

    /// Verdicts about instruments with an alarm: of one device, or of all.
    fn instruments(&self, device: Option<&DeviceId>) -> Vec<wire::DeviceDrift> {
        let found: Vec<Verdict> = self.controller().look(|ledger| {
            let watched = ledger.monitors().map(|m| (m.cohort().clone(), m.manifest())).collect::<Vec<_>>();
            watched.iter().flat_map(|(cohort, manifest)| ledger.instruments(cohort, *manifest)).collect()
        });
        let mut seen: BTreeMap<(String, String), wire::DeviceDrift> = BTreeMap::new();
        // A device may stand in the monitors of two versions; the surer verdict is shown.
        for shown in found.iter().filter(|v| v.moved && (device.is_none() || v.device.as_ref() == device)).filter_map(drift::device) {
            let key = (shown.device.clone(), shown.feature.clone());
            if seen.get(&key).is_none_or(|old| old.log_evidence < shown.log_evidence) {
                seen.insert(key, shown);
            }
        }
        seen.into_values().collect()
    }

    /// The version whose reference a line is compared against: the champion, or the newest before there is one.
    fn watched_version(&self, snapshot: &Snapshot, line: &Line) -> Result<Arc<ModelVersion>, Problem> {
        let found = snapshot.lines.get(line).ok_or_else(|| Problem::missing("model", line))?;
        let champion = found.champion().and_then(|v| snapshot.version(line, v));
        let newest = || snapshot.versions.values().filter(|v| v.line == *line).max_by_key(|v| v.seq);
        champion
            .or_else(newest)
            .cloned()
            .ok_or_else(|| Problem::NotFound(format!("line {line} has no version yet: publish one with `leeway model publish`")))
    }

    /// The cohorts of a line, or the one asked for.
    fn cohorts_of(&self, snapshot: &Snapshot, line: &Line, cohort: Option<&Cohort>) -> Result<(Vec<Cohort>, Vec<Cohort>), Problem> {
        let all: Vec<Cohort> = snapshot.cohorts.values().filter(|c| c.line == *line).map(|c| c.name.clone()).collect();
        match cohort {
            Some(wanted) if !all.contains(wanted) => {
                let names: Vec<String> = all.iter().map(ToString::to_string).collect();
                Err(Problem::NotFound(format!("line {line} has no cohort {wanted}: it has {}", super::words::list(&names))))
            }
            Some(wanted) => Ok((all, vec![wanted.clone()])),
            None => Ok((all.clone(), all)),
        }
    }

    /// Drift of a line's champion, over all cohorts or in one.
    pub(super) fn drift(&self, line: &Line, cohort: Option<&Cohort>) -> Result<wire::Drift, Problem> {
        let snapshot = self.controller().snapshot();
        let version = self.watched_version(&snapshot, line)?;
        let (all, asked) = self.cohorts_of(&snapshot, line, cohort)?;
        let digest = version.manifest.digest;
        let missing = || Problem::Unavailable(format!("the manifest of {line} {} is not at hand: publish it again", version.version));
        let manifest = self.controller().manifest(digest).ok_or_else(missing)?;
        let (world, instruments, late, budget) = self.controller().look(|ledger| {
            let world: Vec<Verdict> = asked.iter().flat_map(|c| ledger.world(c, digest)).collect();
            let instruments: Vec<Verdict> = asked.iter().flat_map(|c| ledger.instruments(c, digest)).filter(|v| v.moved).collect();
            let late = asked.iter().map(|c| ledger.late_windows(c, digest)).sum();
            (world, instruments, late, ledger.drift.budget.sentence())
        });
        let cohorts: Vec<String> = all.iter().map(ToString::to_string).collect();
        let findings = drift::Findings {
            line,
            version: version.version.as_str(),
            reference: &manifest.reference,
            cohorts: &cohorts,
            cohort: cohort.map(Cohort::as_str),
            world: &world,
            instruments: &instruments,
            late,
            budget: &budget,
        };
        Ok(drift::drift(&findings))
    }

    /// Accuracy of a line over time, over all cohorts or in one.
    pub(super) fn quality(&self, line: &Line, cohort: Option<&Cohort>) -> Result<wire::Quality, Problem> {
        let snapshot = self.controller().snapshot();
        if !snapshot.lines.contains_key(line) {
            return Err(Problem::missing("model", line));
        }
        let (_, asked) = self.cohorts_of(&snapshot, line, cohort)?;
        let champion = self.watched_version(&snapshot, line).ok().map(|v| v.manifest.digest);
        let names: BTreeMap<Digest, String> =
            snapshot.versions.values().filter(|v| v.line == *line).map(|v| (v.manifest.digest, v.version.to_string())).collect();
        Ok(self.controller().look(|ledger| {
            let of = |c: &'_ Cohort| ledger.qualities(c).map(|q| (c.clone(), q)).collect::<Vec<_>>();
            let known = asked.iter().flat_map(of).filter(|(_, q)| names.contains_key(&q.manifest()));
            let (cohorts, monitors): (Vec<Cohort>, Vec<&crate::quality::Quality>) = known.unzip();
            let streams = ledger.quality_streams();
            let policy = &ledger.quality;
            let seen = quality::Seen { line, cohort, monitors: &monitors, cohorts: &cohorts, champion, names: &names, policy, streams };
            quality::quality(&seen)
        }))
    }

    /// Figures of the fleet, from each device's latest window.
    fn totals(&self) -> Totals {
        let (tally, mut totals) = self.controller().look(|ledger| (ledger.tally.clone(), latest(ledger)));
        totals.reports = tally.accepted;
        totals.refused = tally.refused.values().sum();
        let snapshot = self.controller().snapshot();
        let (right, labels) = snapshot
            .health
            .values()
            .filter_map(|h| h.measured_accuracy)
            .fold((0.0, 0.0), |(r, n), (share, labels)| (r + share * labels as f64, n + labels as f64));
        totals.accuracy = (labels > 0.0).then(|| right / labels);
        totals
    }

    /// Entries of the log: after `since` rising, or the newest (before `before`).
    pub(super) fn log(&self, wanted: &Wanted) -> Result<EventList, Problem> {
        let newest_seq = self.newest()?;
        let items = match wanted.since {
            Some(since) => self.rising(since, wanted)?,
            None => self.newest_of(wanted.before.unwrap_or(u64::MAX).min(newest_seq.saturating_add(1)), wanted)?,
        };
        Ok(EventList { items: items.iter().map(event).collect(), oldest_seq: 1, newest_seq, chain: self.chain()? })
    }

    fn rising(&self, since: u64, wanted: &Wanted) -> Result<Vec<audit::Event>, Problem> {
        let (mut at, mut found) = (since, Vec::new());
        for _ in 0..MAX_CHUNKS {
            let chunk = self.controller().events(at, CHUNK)?;
            let Some(last) = chunk.last().map(|e| e.seq) else { break };
            at = last;
            found.extend(chunk.into_iter().filter(|e| wanted.takes(e)));
            if found.len() >= wanted.limit {
                break;
            }
        }
        found.truncate(wanted.limit);
        Ok(found)
    }

    fn newest_of(&self, before: u64, wanted: &Wanted) -> Result<Vec<audit::Event>, Problem> {
        let (mut end, mut found) = (before, Vec::new());
        for _ in 0..MAX_CHUNKS {
            if end <= 1 || found.len() >= wanted.limit {
                break;
            }
            let start = end.saturating_sub(1 + CHUNK as u64);
            let chunk = self.controller().events(start, CHUNK)?;
            found.extend(chunk.into_iter().filter(|e| e.seq < end && wanted.takes(e)).rev());
            end = start + 1;
        }
        found.truncate(wanted.limit);
        found.reverse();
        Ok(found)
    }

    /// Check the chain from where it was last checked.
    pub(super) fn chain(&self) -> Result<Chain, Problem> {
        let mut checked = self.checked().0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut budget = MAX_CHECKED;
        while checked.1.is_none() && budget > 0 {
            let chunk = self.controller().events(checked.0.seq, CHUNK)?;
            if chunk.is_empty() {
                break;
            }
            budget = budget.saturating_sub(chunk.len());
            match audit::verify(checked.0, &chunk) {
                Ok(head) => checked.0 = head,
                Err(error) => checked.1 = Some(error.to_string()),
            }
        }
        let (head, broken) = (checked.0, checked.1.clone());
        let sentence = match &broken {
            Some(error) => format!("{}. Entries up to {} were right.", super::words::capital(error), head.seq),
            None if head.seq == 0 => "The log is empty.".to_owned(),
            None => format!("Each entry is chained to the one before; every link up to {} was checked.", head.seq),
        };
        Ok(Chain { verified: broken.is_none(), seq: head.seq, head: head.hash.to_string(), sentence })
    }

    /// Lines there are.
    pub(super) fn lines(&self) -> Vec<String> {
        let snapshot = self.controller().snapshot();
        let serving: BTreeSet<&Line> = snapshot.cohorts.values().map(|c| &c.line).collect();
        let mut lines: Vec<&Line> = snapshot.lines.keys().collect();
        lines.sort_by_key(|l| (!serving.contains(l), l.as_str()));
        lines.into_iter().map(ToString::to_string).collect()
    }

    /// The controller's clock.
    pub(super) fn now(&self) -> Timestamp {
        self.controller().now()
    }
}

/// Sums over each device's latest window: free of any time scale, and as new as the devices' own reports.
fn latest(ledger: &Ledger) -> Totals {
    let mut totals = Totals { devices: ledger.snapshot.fleet.len() as u64, ..Totals::default() };
    let (mut rate, mut served, mut failed) = (0.0, 0, 0);
    let mut latency: Vec<u32> = Vec::new();
    for device in ledger.snapshot.fleet.iter() {
        totals.online += u64::from(device.presence.online);
        totals.inferences += device.active().map_or(0, |r| r.inferences);
        let Some(window) = ledger.recent(&device.id).last().map(|g| &g.report) else { continue };
        let ms = window.closed_at.millis_since(window.opened_at);
        if device.presence.online && ms > 0 {
            rate += window.inferences as f64 * 1000.0 / ms as f64;
        }
        served += window.inferences;
        failed += window.errors.against_model();
        latency.resize(window.latency.len().max(latency.len()), 0);
        latency.iter_mut().zip(&window.latency).for_each(|(sum, n)| *sum = sum.saturating_add(*n));
    }
    if served + failed > 0 {
        totals.inferences_per_second = Some(rate);
        totals.error_ratio = Some(failed as f64 / (served + failed) as f64);
        totals.latency_p95_us = Some(leeway_protocol::report::latency_quantile_us(&latency, 0.95));
    }
    totals
}

fn matches(facts: &Facts<'_>, filter: &Filter, device: &crate::fleet::Device) -> bool {
    use leeway_protocol::reported::Phase;
    let failing = || device.reported.as_ref().is_some_and(|r| matches!(r.phase, Phase::Reverted | Phase::Refused));
    let state = match filter.state {
        None => true,
        Some(State::Online) => device.presence.online,
        Some(State::Offline) => !device.presence.online,
        Some(State::Failing) => failing(),
    };
    state
        && filter.selector.as_ref().is_none_or(|s| s.matches(&device.labels))
        && filter.cohort.as_ref().is_none_or(|c| facts.snapshot.cohort_of(device).is_some_and(|found| found.name == *c))
}
