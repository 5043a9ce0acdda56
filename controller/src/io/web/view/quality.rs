//! Accuracy over time as the API shows it: estimated and measured, never mixed, with the moments at which versions came.
use std::collections::BTreeMap;

use leeway_protocol::digest::Digest;
use leeway_protocol::ids::{Cohort, Line};
use leeway_protocol::time::Timestamp;

use crate::io::web::resource::drift::{Accuracy, Marker, OtherDetector, Quality, QualityNow, QualityPoint};
use crate::io::web::words;
use crate::quality::powered::{self, Powered};
use crate::quality::{self, Block, Period, QualityPolicy};
use crate::sequential::interval::Interval;

/// Stands beside every estimate.
const ASSUMPTION: &str = "Accuracy estimated from confidence assumes no concept drift: where labels changed their meaning it stays as it was, and only measured accuracy falls.";
/// Points of a chart at most.
const MAX_POINTS: i64 = 60;
/// A longer stretch of application time is shown by calendar years.
const YEARS_FROM_MS: i64 = 4 * 366 * 86_400_000;

/// What there is.
pub(in crate::io::web) struct Seen<'a> {
    /// The line.
    pub line: &'a Line,
    /// The cohort asked for.
    pub cohort: Option<&'a Cohort>,
    /// Monitors of the cohorts asked for.
    pub monitors: &'a [&'a quality::Quality],
    /// The cohort of each.
    pub cohorts: &'a [Cohort],
    /// Manifest of the champion.
    pub champion: Option<Digest>,
    /// Versions by manifest.
    pub names: &'a BTreeMap<Digest, String>,
    /// How quality is judged.
    pub policy: &'a QualityPolicy,
    /// Monitors that share the budget of false alarms, in the whole fleet.
    pub streams: u64,
}

/// The resource.
pub(in crate::io::web) fn quality(seen: &Seen<'_>) -> Quality {
    let fine = quality::points(seen.monitors.iter().copied(), seen.policy, Period::Millis(seen.policy.block_ms));
    let span = match (fine.first(), fine.last()) {
        (Some(first), Some(last)) => last.at.millis_since(first.at),
        _ => 0,
    };
    let data_time = seen.monitors.iter().any(|q| q.data_time());
    let period = if data_time && span > YEARS_FROM_MS {
        Period::Years
    } else {
        let block = seen.policy.block_ms.max(1);
        Period::Millis((span / MAX_POINTS / block + 1) * block)
    };
    let points = quality::points(seen.monitors.iter().copied(), seen.policy, period);
    Quality {
        line: seen.line.to_string(),
        cohort: seen.cohort.map(ToString::to_string),
        sentence: sentence(seen),
        data_time,
        points: points
            .into_iter()
            .map(|p| QualityPoint {
                at: p.at,
                decisions: p.block.decisions,
                estimated: p.block.estimated(),
                labels: p.block.labels,
                measured: p.measured.map(|m| m.estimate),
                lower: p.measured.map(|m| m.lower),
                upper: p.measured.map(|m| m.upper),
            })
            .collect(),
        markers: markers(seen),
        now: seen
            .cohorts
            .iter()
            .zip(seen.monitors)
            .filter(|(_, q)| Some(q.manifest()) == seen.champion)
            .map(|(cohort, q)| now(seen, cohort, q))
            .collect(),
        assumption: ASSUMPTION.to_owned(),
    }
}

fn now(seen: &Seen<'_>, cohort: &Cohort, monitor: &quality::Quality) -> QualityNow {
    let verdict = monitor.verdict(seen.policy, seen.streams);
    let span = |i: Interval| Accuracy { estimate: i.estimate, lower: i.lower, upper: i.upper };
    QualityNow {
        cohort: cohort.to_string(),
        version: seen.names.get(&monitor.manifest()).cloned().unwrap_or_default(),
        expected: verdict.expected,
        estimated: verdict.estimated,
        measured: verdict.measured.map(span),
        corrected: verdict.powered.map(|p| span(p.interval)),
        labels: verdict.labels,
        concept_drift: verdict.concept_drift,
        log_evidence: verdict.log_evidence,
        threshold: verdict.log_threshold,
        since: verdict.since,
        also: verdict
            .also
            .into_iter()
            .map(|o| OtherDetector { method: o.method, parameters: o.parameters, rises: o.rises, last: o.last })
            .collect(),
        sentence: verdict.sentence,
    }
}

/// When each version but the first was first heard of.
fn markers(seen: &Seen<'_>) -> Vec<Marker> {
    let mut first: BTreeMap<Digest, Timestamp> = BTreeMap::new();
    for monitor in seen.monitors {
        let began = quality::points([*monitor], seen.policy, Period::Millis(seen.policy.block_ms)).first().map(|p| p.at);
        let Some(began) = began else { continue };
        let known = first.entry(monitor.manifest()).or_insert(began);
        *known = (*known).min(began);
    }
    let mut marks: Vec<Marker> = first
        .iter()
        .filter_map(|(digest, at)| Some(Marker { at: *at, label: format!("{} first serves", seen.names.get(digest)?) }))
        .collect();
    marks.sort_by_key(|m| m.at);
    marks.drain(..usize::from(!marks.is_empty()));
    marks
}

/// Lately, of the champion: measured first, because only that is a fact.
fn sentence(seen: &Seen<'_>) -> String {
    let now: Vec<&&quality::Quality> = seen.monitors.iter().filter(|q| Some(q.manifest()) == seen.champion).collect();
    if let [one] = now[..] {
        return one.verdict(seen.policy, seen.streams).sentence;
    }
    let recent: Vec<Block> = now.iter().map(|q| q.recent(seen.policy)).collect();
    let (labels, correct) = recent.iter().fold((0, 0), |(l, c), b| (l + b.labels, c + b.correct));
    let (sum, confident) = recent.iter().fold((0.0, 0), |(s, n), b| (s + b.estimated_sum, n + b.confident));
    let version = seen.champion.and_then(|c| seen.names.get(&c)).map_or_else(String::new, |v| format!(" of {v}"));
    let measured = if labels > 0 {
        format!(
            "Measured accuracy{version} is {} of {} labels lately",
            words::percent(correct as f64 / labels as f64),
            words::count(labels)
        )
    } else {
        format!("No labels{version} have arrived lately")
    };
    let estimated = if confident > 0 {
        format!(", estimated {} from confidence (assumes no concept drift)", words::percent(sum / confident as f64))
    } else {
        String::new()
    };
    let expected = now
        .first()
        .and_then(|q| q.expected())
        .map(|e| format!("; {} was measured when it was trained", words::percent(e)))
        .unwrap_or_default();
    let corrected = corrected(seen, &now, &recent).map(|p| {
        let Interval { estimate, lower, upper } = p.interval;
        format!(
            " The estimate corrected by the labels: {} (surely {} to {}).",
            words::percent(estimate),
            words::percent(lower),
            words::percent(upper)
        )
    });
    format!("{measured}{estimated}{expected}.{}", corrected.unwrap_or_default())
}

/// Over all cohorts, each with the weight of its decisions and not of its labels.
fn corrected(seen: &Seen<'_>, now: &[&&quality::Quality], recent: &[Block]) -> Option<Powered> {
    let strata: Vec<_> = now.iter().zip(recent).filter_map(|(q, block)| q.stratum(seen.policy, block)).collect();
    powered::accuracy(&strata, seen.policy.alpha)
}
