//! The overview: the worst first, each with what to do.
use std::collections::BTreeMap;

use super::Facts;
use crate::fleet::{CohortDoc, Device};
use crate::io::web::resource::Level;
use crate::io::web::resource::event::Event;
use crate::io::web::resource::fleet::{Attention, CohortRow, Fleet, Totals, VersionCount};
use crate::io::web::words;
use crate::retraining::job::JobState;
use crate::rollout::RolloutState;
use crate::snapshot::CohortHealth;
use leeway_protocol::reported::Phase;

/// Entries of the attention list: more than ten are not looked at, and the first are the worst.
const MAX_ATTENTION: usize = 10;
/// A rollback stays on the list for so long.
const RECENT_MS: i64 = 3_600_000;

impl Facts<'_> {
    /// The whole fleet. `more` is attention that other parts of the controller ask for (instruments, stores).
    pub(in crate::io::web) fn fleet(&self, totals: Totals, more: Vec<Attention>, events: Vec<Event>) -> Fleet {
        let mut attention = Vec::new();
        self.about_rollouts(&mut attention);
        attention.extend(more);
        self.about_cohorts(&mut attention);
        self.about_devices(&mut attention);
        self.about_jobs(&mut attention);
        // Within a level the order above stays: rollouts first.
        attention.sort_by_key(|a| std::cmp::Reverse(a.level));
        let sentence = self.fleet_sentence(&totals, &attention);
        attention.truncate(MAX_ATTENTION);
        let worst = attention.iter().map(|a| a.level).max();
        let level = worst.unwrap_or(if totals.devices == 0 { Level::Idle } else { Level::Ok });
        Fleet { level, sentence, attention, totals, cohorts: self.cohort_rows(), rollouts: self.open_rollouts(), events }
    }

    fn fleet_sentence(&self, totals: &Totals, attention: &[Attention]) -> String {
        if totals.devices == 0 {
            return "No device is enrolled yet.".to_owned();
        }
        let running = self.snapshot.rollouts.values().filter(|r| r.state.is_active()).count() as u64;
        let moved: usize = self.snapshot.health.values().map(|h| h.moved.len()).sum();
        let offline = totals.devices.saturating_sub(totals.online);
        let mut parts = vec![if offline == 0 {
            format!("All {} are connected", words::plural(totals.devices, "device"))
        } else {
            format!("{} of {} are offline", words::count(offline), words::plural(totals.devices, "device"))
        }];
        if running > 0 {
            parts.push(format!("{} under way", words::plural(running, "rollout")));
        }
        if moved > 0 {
            parts.push(format!("{} moved since training", words::plural(moved as u64, "feature")));
        }
        let tail = if attention.is_empty() {
            "nothing needs attention".to_owned()
        } else {
            format!(
                "{} attention",
                if attention.len() == 1 { "1 thing needs".to_owned() } else { format!("{} things need", attention.len()) }
            )
        };
        parts.push(tail);
        format!("{}.", parts.join(", "))
    }

    fn about_rollouts(&self, out: &mut Vec<Attention>) {
        for rollout in self.snapshot.rollouts.values() {
            let (level, since, action) = match &rollout.state {
                RolloutState::Paused { at, .. } => (Level::Warn, *at, "Resume it, promote it, or roll it back."),
                RolloutState::RollingBack { at, .. } => (Level::Bad, *at, "Nothing to do: devices are going back."),
                RolloutState::RolledBack { at, .. } if self.now.millis_since(*at) < RECENT_MS => {
                    (Level::Warn, *at, "Look at why, before the next version is published.")
                }
                _ => continue,
            };
            let summary = self.summary(rollout);
            let sentence = format!("Rollout {}: {}", rollout.id, summary.sentence);
            out.push(Attention {
                level,
                sentence,
                since: Some(since),
                href: format!("/rollouts/{}", rollout.id),
                action: action.to_owned(),
            });
        }
    }

    /// A feature that moved in several cohorts is one line.
    fn about_cohorts(&self, out: &mut Vec<Attention>) {
        let mut worse: BTreeMap<&str, Vec<(String, &CohortHealth)>> = BTreeMap::new();
        for (cohort, health) in self.snapshot.health.iter() {
            let Some(doc) = self.snapshot.cohorts.get(cohort) else { continue };
            if self.suffers(doc, health) {
                worse.entry(doc.line.as_str()).or_default().push((cohort.to_string(), health));
            }
        }
        for (line, cohorts) in worse {
            out.push(quality(line, &cohorts));
        }
        for (line, shift) in self.shifts(|health| &health.moved) {
            let job = self.snapshot.jobs.values().find(|j| j.request.line.as_str() == line && j.state.is_open());
            out.push(Attention {
                level: Level::Warn,
                sentence: format!("{} of {line} {} moved since training in {}.", shift.names(), shift.verb(), words::list(&shift.cohorts)),
                since: None,
                href: format!("/drift?line={line}"),
                action: job.map_or_else(
                    || "See whether accuracy suffers.".to_owned(),
                    |j| format!("Training job {} is {}.", j.request.id, j.state.as_str()),
                ),
            });
        }
        for (line, shift) in self.shifts(|health| &health.release) {
            out.push(Attention {
                level: Level::Warn,
                sentence: format!(
                    "{} of {line} {} not what the release says in {}, and no input moved.",
                    shift.names(),
                    if shift.features.len() == 1 { "is" } else { "are" },
                    words::list(&shift.cohorts)
                ),
                since: None,
                href: format!("/drift?line={line}"),
                action: "Look at the release: compare it with the version before, or roll back.".to_owned(),
            });
        }
    }

    /// What moved, by line.
    fn shifts(&self, of: impl Fn(&CohortHealth) -> &BTreeMap<String, String>) -> BTreeMap<&str, Shift> {
        let mut shifts: BTreeMap<&str, Shift> = BTreeMap::new();
        for (cohort, health) in self.snapshot.health.iter() {
            let Some(doc) = self.snapshot.cohorts.get(cohort).filter(|_| !of(health).is_empty()) else { continue };
            let shift = shifts.entry(doc.line.as_str()).or_default();
            shift.cohorts.push(cohort.to_string());
            shift.features.extend(of(health).keys().map(|f| f.replace('_', " ")));
        }
        shifts
    }

    /// Whether labels say that a cohort's accuracy is below what was expected by more than is tolerated.
    fn suffers(&self, doc: &CohortDoc, health: &CohortHealth) -> bool {
        let (Some(expected), Some((measured, labels))) = (health.expected_accuracy, health.measured_accuracy) else { return false };
        let policy = self.snapshot.lines.get(&doc.line).map(|l| &l.retrain);
        policy.is_some_and(|p| labels >= p.min_labels && expected - measured > p.max_accuracy_loss)
    }

    fn about_devices(&self, out: &mut Vec<Attention>) {
        let offline: Vec<_> = self.snapshot.fleet.iter().filter(|d| d.reported.is_some() && !d.presence.online).collect();
        let phase_in = |d: &Device, phases: [Phase; 2]| d.reported.as_ref().is_some_and(|r| phases.contains(&r.phase));
        let failing = self.snapshot.fleet.iter().filter(|d| phase_in(d, [Phase::Reverted, Phase::Refused])).count() as u64;
        if !offline.is_empty() {
            out.push(Attention {
                level: Level::Warn,
                sentence: format!("{} not connected.", are(offline.len() as u64)),
                since: offline.iter().filter_map(|d| d.presence.changed_at).min(),
                href: "/devices?state=offline".to_owned(),
                action: "They go on with the model they have, and catch up when they are back.".to_owned(),
            });
        }
        if failing > 0 {
            out.push(Attention {
                level: Level::Bad,
                sentence: format!(
                    "{} or went back on {} own.",
                    if failing == 1 {
                        "1 device refused its release".to_owned()
                    } else {
                        format!("{} devices refused their release", words::count(failing))
                    },
                    if failing == 1 { "its" } else { "their" }
                ),
                since: None,
                href: "/devices?state=failing".to_owned(),
                action: "Each device says why.".to_owned(),
            });
        }
    }

    fn about_jobs(&self, out: &mut Vec<Attention>) {
        let mut newest: BTreeMap<&str, &crate::retraining::job::TrainingJob> = BTreeMap::new();
        for job in self.snapshot.jobs.values() {
            let known = newest.entry(job.request.line.as_str()).or_insert(job);
            if job.request.asked_at > known.request.asked_at {
                *known = job;
            }
        }
        for job in newest.into_values() {
            let (JobState::Failed { .. } | JobState::Undecided { .. }) = &job.state else { continue };
            if self.now.millis_since(job.updated_at) > RECENT_MS {
                continue;
            }
            let shown = super::training::training_job(job);
            out.push(Attention {
                level: Level::Warn,
                sentence: format!("Training job {}: {}", shown.id, shown.sentence),
                since: Some(job.updated_at),
                href: format!("/models/{}", shown.line),
                action: "The next alarm asks again.".to_owned(),
            });
        }
    }

    /// One row per cohort with what its devices run.
    pub(in crate::io::web) fn cohort_rows(&self) -> Vec<CohortRow> {
        let mut rows: BTreeMap<String, Counted> = BTreeMap::new();
        for cohort in self.snapshot.cohorts.keys() {
            rows.entry(cohort.to_string()).or_default();
        }
        for device in self.snapshot.fleet.iter() {
            let row = rows.entry(self.cohort_name(&device)).or_default();
            row.devices += 1;
            row.online += u64::from(device.presence.online);
            let running = device.active().map(|r| {
                let seq = self.snapshot.version(&r.line, &r.version).map_or(0, |v| v.seq);
                (r.line.to_string(), seq, r.version.to_string())
            });
            *row.versions.entry(running.unwrap_or_default()).or_default() += 1;
        }
        rows.into_iter().map(|(cohort, counted)| self.cohort_row(cohort, counted)).collect()
    }

    fn cohort_row(&self, cohort: String, counted: Counted) -> CohortRow {
        let Counted { devices, online, versions } = counted;
        let doc = self.snapshot.cohorts.values().find(|c| c.name.as_str() == cohort);
        let why = self.report.cohorts.iter().find(|(name, _)| name.as_str() == cohort).and_then(|(_, r)| r.why.first());
        let selector = doc.map_or_else(|| "no cohort takes these".to_owned(), |c| c.selector.to_string());
        CohortRow {
            selector: if selector.is_empty() { "every device".to_owned() } else { selector },
            level: if online < devices { Level::Warn } else { Level::Ok },
            sentence: why.cloned().unwrap_or_default(),
            versions: versions.into_iter().map(|((line, seq, version), devices)| VersionCount { line, version, seq, devices }).collect(),
            cohort,
            devices,
            online,
        }
    }
}

/// Devices of one cohort.
#[derive(Default)]
struct Counted {
    devices: u64,
    online: u64,
    /// By line, place of the version in it, and version.
    versions: BTreeMap<(String, u64, String), u64>,
}

/// Cohorts of one line whose accuracy fell, as one entry.
fn quality(line: &str, cohorts: &[(String, &CohortHealth)]) -> Attention {
    let (right, labels) = cohorts
        .iter()
        .filter_map(|(_, h)| h.measured_accuracy)
        .fold((0.0, 0), |(r, n), (share, labels)| (r + share * labels as f64, n + labels));
    let expected = cohorts.iter().filter_map(|(_, h)| h.expected_accuracy).fold(0.0, f64::max);
    let names: Vec<String> = cohorts.iter().map(|(name, _)| name.clone()).collect();
    let one = if let [(name, _)] = cohorts { format!("&cohort={name}") } else { String::new() };
    Attention {
        level: Level::Bad,
        sentence: format!(
            "Measured accuracy of {line} in {} is {} ({} labels); {} was expected.",
            words::list(&names),
            words::percent(right / labels.max(1) as f64),
            words::count(labels),
            words::percent(expected)
        ),
        since: None,
        href: format!("/drift?line={line}{one}"),
        action: "A better model is asked for when drift explains it; otherwise look at the data.".to_owned(),
    }
}

fn are(n: u64) -> String {
    if n == 1 { "1 device is".to_owned() } else { format!("{} devices are", words::count(n)) }
}

/// Features that moved, and where.
#[derive(Debug, Default)]
struct Shift {
    cohorts: Vec<String>,
    features: std::collections::BTreeSet<String>,
}

impl Shift {
    fn names(&self) -> String {
        words::capital(&words::list(&self.features.iter().cloned().collect::<Vec<_>>()))
    }

    fn verb(&self) -> &'static str {
        if self.features.len() == 1 { "has" } else { "have" }
    }
}
