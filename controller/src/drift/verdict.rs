//! What is known about one stream now: evidence against its threshold, and how far the feature moved, in one sentence.
use leeway_protocol::ids::{Cohort, DeviceId};
use leeway_protocol::profile::{FeatureReference, Source};
use leeway_protocol::statistic::Place;
use leeway_protocol::time::Timestamp;
use serde::{Deserialize, Serialize};

use super::components::{Component, Set, Shares, Tolerance, Weights, components, increments};
use super::cost::Cost;
use super::magnitude::{Direction, Magnitude, magnitude};
use crate::sequential::detector::EDetector;

/// What a feature says something about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// What the model is given.
    Input,
    /// What it answers.
    Output,
    /// How sure it is.
    Confidence,
}

impl Kind {
    /// The kind of a reference feature.
    pub fn of(source: &Source) -> Self {
        match source {
            Source::Output { .. } | Source::Derived { of: Place::Output(_), .. } => Self::Output,
            Source::Input { .. } | Source::Channel { .. } | Source::Derived { .. } => Self::Input,
            Source::Confidence => Self::Confidence,
        }
    }
}

/// The judgement on one stream.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Verdict {
    /// The feature's name.
    pub feature: String,
    /// Its place in the reference.
    pub index: usize,
    /// Input, output or confidence.
    pub kind: Kind,
    /// In which cohort.
    pub cohort: Cohort,
    /// The device, if this is about an instrument.
    pub device: Option<DeviceId>,
    /// Whether the evidence is past the threshold.
    pub moved: bool,
    /// ln of the evidence; at least 0 (below 1 it says nothing).
    pub log_evidence: f64,
    /// What it must reach.
    pub log_threshold: f64,
    /// How far.
    pub magnitude: Magnitude,
    /// Since when the evidence has been growing.
    pub since: Option<Timestamp>,
    /// When it first passed the threshold.
    pub alarmed_at: Option<Timestamp>,
    /// Share of decisions that permuting the feature changes, if the publisher measured it.
    pub importance: Option<f64>,
    /// What it costs, if the publisher measured what the feature is worth.
    #[serde(default)]
    pub cost: Option<Cost>,
    /// Whether it moved and that costs next to nothing: shown, not shouted.
    #[serde(default)]
    pub harmless: bool,
    /// Whether an output moved with the change of versions: the release's doing, not the world's.
    #[serde(default)]
    pub release: bool,
    /// Share of all movement weighted by importance, once ranked; `None` without importances.
    pub explains: Option<f64>,
    /// Rows counted since then (or in the last increment).
    pub rows: f64,
    /// Counts per bin behind the magnitude, special bins first.
    pub observed: Vec<f64>,
    /// Expected share per bin.
    pub expected: Vec<f64>,
    /// All of it in a sentence.
    pub sentence: String,
}

/// Put the most harmful first: moved before unmoved, then estimated cost, then importance × distance, then evidence.
pub fn rank(verdicts: &mut [Verdict]) {
    let cost = |v: &Verdict| v.cost.map_or(0.0, |c| c.accuracy.max(0.0));
    let weight = |v: &Verdict| v.importance.unwrap_or(0.0) * v.magnitude.sup_cdf;
    let known = verdicts.iter().any(|v| v.importance.is_some());
    let total: f64 = verdicts.iter().filter(|v| v.moved && v.kind == Kind::Input).map(weight).sum();
    for v in verdicts.iter_mut() {
        let counts = known && total > 0.0 && v.moved && v.kind == Kind::Input;
        v.explains = counts.then(|| weight(v) / total);
    }
    verdicts.sort_by(|a, b| {
        let by_weight = cost(b).total_cmp(&cost(a)).then(weight(b).total_cmp(&weight(a)));
        b.moved.cmp(&a.moved).then(by_weight).then(b.log_evidence.total_cmp(&a.log_evidence)).then(a.index.cmp(&b.index))
    });
}

/// Share of the threshold's ln below which a stream counts as quiet, so that "since" starts after it: small effects keep every
/// recursion somewhat above nothing.
const QUIET: f64 = 0.3;

/// One feature watched: recursions, and the counts since they were last quiet.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Stream {
    detector: EDetector,
    observed: Vec<f64>,
    /// Expected masses times the rows they were expected in.
    expected: Vec<f64>,
    eta: f64,
    since_ms: Option<i64>,
    alarmed_ms: Option<i64>,
    /// Whether an alarm stands until somebody sees to it, and the highest evidence it had.
    latches: bool,
    peak: f64,
}

/// One increment's worth of counts.
pub(super) struct Step<'a> {
    pub(super) start_ms: i64,
    /// The feature's components.
    pub(super) parts: &'a [Component],
    /// Expected mass per bin.
    pub(super) expected: &'a [f64],
    /// The lowest and highest share a set may have; the expected one itself if `None`.
    pub(super) bounds: Option<&'a dyn Fn(Set) -> (f64, f64)>,
    pub(super) observed: &'a [f64],
    pub(super) weights: Weights,
    pub(super) tolerance: &'a Tolerance,
    pub(super) threshold: f64,
}

impl Stream {
    pub(super) fn new(feature: &FeatureReference) -> Self {
        Self { detector: EDetector::new(components(&feature.cuts).len()), ..Self::default() }
    }

    /// A stream whose alarm stands until somebody sees to it.
    pub(super) fn latching(feature: &FeatureReference) -> Self {
        Self { latches: true, ..Self::new(feature) }
    }

    /// Whether an alarm stands.
    pub(super) fn is_alarmed(&self) -> bool {
        self.alarmed_ms.is_some()
    }

    /// Whether evidence is growing.
    pub(super) fn is_stirring(&self) -> bool {
        self.since_ms.is_some()
    }

    pub(super) fn update(&mut self, step: &Step<'_>) {
        let parts = step.parts;
        if !self.detector.fits(parts.len()) {
            return;
        }
        let (want, seen) = (Shares::new(step.expected), Shares::new(step.observed));
        let bounds = |set: Set| step.bounds.map_or_else(|| (want.share(set), want.share(set)), |bounds| bounds(set));
        let ln_l = increments(parts, bounds, &seen, &step.weights, step.tolerance);
        let was_quiet = self.since_ms.is_none();
        self.detector.update(&ln_l);
        let evidence = self.detector.log_evidence();
        if was_quiet {
            self.observed.clear();
            self.expected.clear();
        }
        add(&mut self.observed, step.observed, 1.0);
        add(&mut self.expected, step.expected, step.observed.iter().sum());
        self.eta = step.weights.eta;
        match (evidence > QUIET * step.threshold, was_quiet) {
            (true, true) => self.since_ms = Some(step.start_ms),
            (false, _) if !(self.latches && self.is_alarmed()) => (self.since_ms, self.alarmed_ms, self.peak) = (None, None, 0.0),
            _ => {}
        }
        if evidence >= step.threshold && self.alarmed_ms.is_none() {
            self.alarmed_ms = Some(step.start_ms);
        }
        if self.is_alarmed() {
            self.peak = self.peak.max(evidence);
        }
    }

    pub(super) fn log_evidence(&self) -> f64 {
        self.detector.log_evidence()
    }

    pub(super) fn is_fresh(&self) -> bool {
        self.detector.updates() == 0
    }

    /// The verdict; `current` stands in for the counts while no increment was taken yet.
    pub(super) fn verdict(&self, feature: &FeatureReference, about: &About<'_>, current: Option<&[f64]>) -> Verdict {
        let fallback = current.filter(|_| self.is_fresh());
        let observed = fallback.map_or_else(|| self.observed.clone(), <[f64]>::to_vec);
        let rows: f64 = observed.iter().sum();
        let expected_rows: f64 = self.expected.iter().sum();
        let expected: Vec<f64> = if fallback.is_some() || expected_rows <= 0.0 {
            feature.masses.clone()
        } else {
            self.expected.iter().map(|m| m / expected_rows).collect()
        };
        let how_far = magnitude(feature, &expected, &observed, self.eta.max(1e-6));
        let standing = self.latches && self.is_alarmed();
        let log_evidence = if standing { self.peak } else { self.log_evidence().max(0.0) };
        let moved = standing || log_evidence >= about.threshold;
        let cost = match about.device {
            Some(_) => Cost::of_an_instrument(feature, &expected, &observed),
            None => Cost::of_the_world(feature, &expected, &observed),
        };
        let mut verdict = Verdict {
            feature: feature.name.clone(),
            index: about.index,
            kind: Kind::of(&feature.source),
            cohort: about.cohort.clone(),
            device: about.device.cloned(),
            moved,
            log_evidence,
            log_threshold: about.threshold,
            magnitude: how_far,
            since: self.since_ms.map(Timestamp::from_millis),
            alarmed_at: self.alarmed_ms.map(Timestamp::from_millis),
            importance: feature.importance,
            harmless: moved && cost.is_some_and(|c| c.is_below(about.harmless)),
            cost,
            release: false,
            explains: None,
            rows,
            observed,
            expected,
            sentence: String::new(),
        };
        verdict.sentence = sentence(&verdict);
        if let Some(cost) = cost.filter(|_| moved) {
            verdict.sentence.push_str(&cost.words(about.device.is_some(), about.harmless));
        }
        verdict
    }
}

/// Whose stream it is.
pub(super) struct About<'a> {
    pub(super) index: usize,
    pub(super) cohort: &'a Cohort,
    pub(super) device: Option<&'a DeviceId>,
    pub(super) threshold: f64,
    /// Cost below which it is not shouted.
    pub(super) harmless: f64,
}

pub(super) fn add(sum: &mut Vec<f64>, more: &[f64], times: f64) {
    if sum.len() < more.len() {
        sum.resize(more.len(), 0.0);
    }
    sum.iter_mut().zip(more).for_each(|(a, &b)| *a += b * times);
}

fn sentence(v: &Verdict) -> String {
    let name = title(&v.feature);
    let evidence = format!("evidence e^{:.1} against e^{:.1}", v.log_evidence, v.log_threshold);
    if v.rows <= 0.0 {
        return format!("{name} at {}: nothing to compare yet.", v.cohort);
    }
    if !v.moved {
        let state = if v.log_evidence > 0.5 * v.log_threshold { "may be moving" } else { "is as expected" };
        return format!("{name} at {} {state} ({evidence}, PSI {:.2}).", v.cohort, v.magnitude.psi);
    }
    let shows = match &v.magnitude.shows {
        Some((set, now, was)) => format!("{:.0} % of its values are {set}, {:.0} % were expected", now * 100.0, was * 100.0),
        None => "its distribution changed shape".to_owned(),
    };
    let since = v.since.map(|at| format!(" since {}", at.to_string().chars().take(10).collect::<String>())).unwrap_or_default();
    let way = v.magnitude.direction;
    match &v.device {
        Some(device) => {
            let reads = match way {
                Direction::Stuck => "is stuck".to_owned(),
                Direction::Missing => "is missing".to_owned(),
                Direction::NotFinite => "gives values that are not numbers".to_owned(),
                other => format!("reads {}", other.as_str()),
            };
            format!(
                "{name} on {device} {reads} compared with its neighbours at {}{since}: {shows} ({evidence}). Have the instrument checked.",
                v.cohort
            )
        }
        None => {
            let moved = match way {
                Direction::Stuck => "piled up in one place".to_owned(),
                Direction::Missing => "went missing".to_owned(),
                Direction::NotFinite => "became not a number".to_owned(),
                Direction::Unseen => "took values never seen before".to_owned(),
                Direction::Wider | Direction::Narrower => format!("became {}", way.as_str()),
                other => format!("moved {}", other.as_str()),
            };
            format!("{name} at {} {moved}{since}: {shows} (PSI {:.2}, {evidence}).", v.cohort, v.magnitude.psi)
        }
    }
}

/// `wind_speed` as a sentence begins: `Wind speed`.
pub(super) fn title(name: &str) -> String {
    let spaced = name.replace(['_', '-'], " ");
    let mut chars = spaced.chars();
    chars.next().map_or_else(String::new, |first| first.to_uppercase().chain(chars).collect())
}
