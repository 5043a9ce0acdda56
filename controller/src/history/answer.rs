//! From rows to an answer: pure, so that a table can hold it to its word.
use leeway_protocol::digest::Digest;
use leeway_protocol::reported::Phase;
use leeway_protocol::time::Timestamp;

use super::{Active, CLOCK_TOLERANCE_MS, Kept, Row, Said, Told};
use crate::planner::draft::duration;

/// How an answer is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Knowledge {
    /// By the device's own report.
    Reported,
    /// It was told so, and had not said yet what it runs.
    Assigned,
    /// Not at all.
    Unknown,
}

impl Knowledge {
    /// One word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Reported => "reported",
            Self::Assigned => "assigned",
            Self::Unknown => "unknown",
        }
    }
}

/// What is known of the device now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seen {
    /// Connected.
    pub online: bool,
    /// Its last word, controller's clock.
    pub last_seen: Option<Timestamp>,
    /// When it was enrolled, if it is in the fleet.
    pub enrolled_at: Option<Timestamp>,
    /// The controller's clock.
    pub now: Timestamp,
}

/// From when to when one report was the last word about what runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Span<'a> {
    /// Number of the row.
    pub n: u64,
    /// Since when, as the controller's clock had it.
    pub from: Timestamp,
    /// Until when; `None` while it holds.
    pub until: Option<Timestamp>,
    /// When the controller heard it.
    pub heard_at: Timestamp,
    /// The difference of the clocks then, device's minus controller's, milliseconds.
    pub clock_ms: i64,
    /// The report.
    pub said: &'a Said,
    /// The assignment that put there what runs, with the number of its event.
    pub told: Option<(&'a Told, Option<u64>)>,
}

impl Span<'_> {
    /// Why it ran that, in a sentence.
    pub fn why(&self) -> String {
        let Some(active) = &self.said.active else {
            return self.said.reason.as_ref().map_or_else(|| "It ran no model.".to_owned(), |reason| format!("It ran no model: {reason}"));
        };
        let reason = self.said.reason.as_ref().map(|reason| format!(": {reason}")).unwrap_or_default();
        match (self.said.phase, self.told) {
            (Phase::Reverted, _) => format!("The device went back to {} {} on its own{reason}", active.line, active.version),
            (Phase::Refused, _) => {
                format!("The device stayed with {} {} and refused what it was told{reason}", active.line, active.version)
            }
            (_, Some((told, _))) => told.reason.clone(),
            (_, None) => "No assignment of this model is on record: it came with it, or was told before the record begins.".to_owned(),
        }
    }

    /// How that is known, in a sentence.
    pub fn how(&self) -> String {
        let clock = match self.clock_ms {
            ms if ms.abs() <= CLOCK_TOLERANCE_MS => String::new(),
            ms if ms > 0 => format!("; its clock was {} ahead of the controller's", duration(ms)),
            ms => format!("; its clock was {} behind the controller's", duration(-ms)),
        };
        let said = format!("by its own report of {}, heard at {}{clock}", self.said.device_at, self.heard_at);
        match &self.said.active {
            Some(active) if active.proven => format!("{}, with the golden outputs it computed.", capital(&said)),
            _ => format!("{}.", capital(&said)),
        }
    }
}

/// What is known about one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer<'a> {
    /// How.
    pub knowledge: Knowledge,
    /// The report in force, if there is one.
    pub span: Option<Span<'a>>,
    /// What it was told last at that moment, if it had not come to run it: with its event.
    pub pending: Option<(&'a Told, Timestamp, Option<u64>)>,
    /// The last moment, up to the one asked for, at which the device is known to have run it.
    pub confirmed_until: Option<Timestamp>,
    /// What is not known, in sentences.
    pub gaps: Vec<String>,
}

/// Every report as a span, oldest first.
pub fn spans(rows: &[Kept]) -> Vec<Span<'_>> {
    let mut out: Vec<Span<'_>> = Vec::new();
    let mut told: Vec<(&Told, Option<u64>)> = Vec::new();
    for kept in rows {
        let said = match &kept.row {
            Row::Told(one) => {
                told.push((one, kept.event));
                continue;
            }
            Row::Said(said) => said,
        };
        let clock_ms = said.device_at.millis_since(kept.at);
        let before = out.last();
        let from = began(said, kept.at, clock_ms, before);
        let told = said.active.as_ref().and_then(|active| cause(&told, said, active.manifest));
        if let Some(before) = out.last_mut() {
            before.until = Some(from);
        }
        out.push(Span { n: kept.n, from, until: None, heard_at: kept.at, clock_ms, said, told });
    }
    out
}

/// When what a report says began, as the controller's clock had it: by the device's word if that fits in between, else when it was heard.
fn began(said: &Said, heard_at: Timestamp, clock_ms: i64, before: Option<&Span<'_>>) -> Timestamp {
    let same = |active: &Active| before.and_then(|b| b.said.active.as_ref()).is_some_and(|old| old.manifest == active.manifest);
    let Some(active) = said.active.as_ref().filter(|active| !same(active)) else { return heard_at };
    let own = active.since.plus_millis(-clock_ms);
    // The record's first report may name a day long before it: the device's word all the same.
    let earliest = before.map_or(Timestamp::default(), |b| b.heard_at);
    if own >= earliest && own <= heard_at && own > Timestamp::default() { own } else { heard_at }
}

/// The assignment that a model came by: the latest of it that the device had accepted.
fn cause<'a>(told: &[(&'a Told, Option<u64>)], said: &Said, manifest: Digest) -> Option<(&'a Told, Option<u64>)> {
    told.iter().rev().find(|(t, _)| t.manifest == Some(manifest) && t.generation <= said.generation).copied()
}

/// What is known about the device at `at`.
pub fn answer<'a>(rows: &'a [Kept], at: Timestamp, seen: &Seen) -> Answer<'a> {
    let spans = spans(rows);
    let found = spans.iter().rposition(|span| span.from <= at);
    let span = found.and_then(|i| spans.get(i)).cloned();
    let next = found.and_then(|i| spans.get(i + 1));
    let told = rows.iter().rev().find_map(|kept| match &kept.row {
        Row::Told(told) if kept.at <= at => Some((told, kept.at, kept.event)),
        _ => None,
    });
    let runs = span.as_ref().and_then(|span| span.said.active.as_ref()).map(|active| active.manifest);
    let pending = told.filter(|(told, ..)| told.manifest.is_some() && told.manifest != runs);
    let mut gaps = beginnings(rows, at, &spans, seen);
    let confirmed_until = span.as_ref().map(|span| confirmed(span, next, at, seen, &mut gaps));
    let knowledge = match (&span, &pending) {
        (Some(_), _) => Knowledge::Reported,
        (None, Some(_)) => Knowledge::Assigned,
        (None, None) => Knowledge::Unknown,
    };
    Answer { knowledge, span, pending, confirmed_until, gaps }
}

/// What the record does not reach back to.
fn beginnings(rows: &[Kept], at: Timestamp, spans: &[Span<'_>], seen: &Seen) -> Vec<String> {
    let mut gaps = Vec::new();
    if at > seen.now {
        gaps.push(format!("{at} has not come yet: this is what is known now, at {}.", seen.now));
    }
    let reported = spans.first().is_some_and(|span| span.from <= at);
    if let Some(first) = rows.first().filter(|first| first.n > 1 && !reported) {
        gaps.push(format!("{} older rows are past retention: the record begins at {}.", first.n - 1, first.at));
    }
    if let Some(enrolled) = seen.enrolled_at.filter(|enrolled| at < *enrolled && !reported) {
        gaps.push(format!("It was enrolled at {enrolled}, after the moment asked for."));
    }
    match (spans.first(), reported) {
        (Some(first), false) => {
            gaps.push(format!("Its first report on record was heard at {}; what ran before is not known.", first.heard_at))
        }
        (None, _) => gaps.push("No report of it is on record.".to_owned()),
        (Some(_), true) => {}
    }
    gaps
}

/// Until when, up to `at`, what a span says is backed by the device's own word; what is not is a gap.
fn confirmed(span: &Span<'_>, next: Option<&Span<'_>>, at: Timestamp, seen: &Seen, gaps: &mut Vec<String>) -> Timestamp {
    let backed = match next {
        // Away before its next report: what it did meanwhile is known by that report alone.
        Some(next) => next.said.away_since.map_or(next.from, |away| away.max(span.heard_at).min(next.from)),
        None if seen.online => seen.now,
        None => seen.last_seen.unwrap_or(span.heard_at).max(span.heard_at),
    };
    if at > backed {
        let until = match next {
            Some(next) => format!("until {}, when it reported something else", next.heard_at),
            None => "since".to_owned(),
        };
        gaps.push(format!("The device was away: its last word before was at {backed}, and nothing was heard of it {until}."));
    }
    backed.min(at).max(span.from)
}

fn capital(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map_or_else(String::new, |first| first.to_uppercase().chain(chars).collect())
}
