//! Drift: has the world moved, which feature, where, since when, and does it matter.
use leeway_protocol::time::Timestamp;
use maud::{Markup, html};

use super::charts::{LineChart, Series, histogram, line_chart};
use super::layout::{Area, Frame, head, page};
use super::parts::{badge, card, empty, flush, legend, sign, tone, when};
use crate::io::web::resource::Level;
use crate::io::web::resource::drift::{DeviceDrift, Drift, FeatureDrift, Quality};
use crate::io::web::words;

/// Drift and quality of one line.
pub fn drift_page(now: Timestamp, seq: u64, lines: &[String], drift: &Drift, quality: &Quality) -> Markup {
    page(
        Frame { area: Area::Drift, title: "Drift", seq },
        html! {
            div #drift data-live {
                (head(&[], "Drift", badge(drift.level, state_word(drift.level)), html! { (drift.sentence) }))
                div.stack {
                    (filters(lines, drift))
                    (card("Accuracy", accuracy_legend(), accuracy(quality)))
                    (flush("Features", html! { (legend(&[("c-reference", "", drift.reference.clone()), ("c-current", "line", drift.current.clone())])) }, html! {
                        @if drift.features.is_empty() { (empty("Nothing counted yet", "Devices send exact counts when a window closes; the first ones fill this table.", None)) }
                        @else { div.features { @for group in grouped(&drift.features) { (feature(now, drift, &group)) } } }
                    }))
                    (matrix(drift))
                    (devices(now, &drift.devices))
                    (card("How it is judged", html! {}, html! { p.note { (drift.method) } }))
                }
            }
        },
    )
}

/// What stands here before there is a line.
pub fn no_drift_page(seq: u64) -> Markup {
    page(
        Frame { area: Area::Drift, title: "Drift", seq },
        html! {
            div #drift data-live {
                (head(&[], "Drift", html! {}, html! { "No model line is known yet." }))
                section.card { (empty("Publish a model with its reference data", "The reference says what the inputs looked like at training time; devices count against it.", Some("leeway model publish model.onnx --line rain --version 1.0.0 --key release.key --reference train.csv"))) }
            }
        },
    )
}

fn state_word(level: Level) -> &'static str {
    match level {
        Level::Idle => "No data",
        Level::Ok => "As at training time",
        Level::Busy => "Moved, harmless",
        Level::Warn => "Moved",
        Level::Bad => "Moved, and quality suffers",
    }
}

fn filters(lines: &[String], drift: &Drift) -> Markup {
    html! {
        div.filters {
            @if lines.len() > 1 {
                span.name { "Model" }
                @for line in lines { a.chip href={ "/drift?line=" (line) } aria-current=[(*line == drift.line).then_some("true")] { (line) } }
            }
            span.name { "Cohort" }
            a.chip href={ "/drift?line=" (drift.line) } aria-current=[drift.cohort.is_none().then_some("true")] { "all" }
            @for cohort in &drift.cohorts { a.chip href={ "/drift?line=" (drift.line) "&cohort=" (cohort) } aria-current=[(drift.cohort.as_ref() == Some(cohort)).then_some("true")] { (cohort) } }
        }
    }
}

/// A share that rounds to nothing is not shown.
const SHOWN: f64 = 0.0005;

/// One entry per feature; the cohort in which it moved the most comes first.
fn grouped(features: &[FeatureDrift]) -> Vec<Vec<&FeatureDrift>> {
    let mut groups: Vec<Vec<&FeatureDrift>> = Vec::new();
    for f in features {
        match groups.iter_mut().find(|g| g.first().is_some_and(|first| first.name == f.name)) {
            Some(group) => group.push(f),
            None => groups.push(vec![f]),
        }
    }
    groups
}

fn feature(now: Timestamp, drift: &Drift, group: &[&FeatureDrift]) -> Markup {
    let Some(f) = group.first() else { return html! {} };
    html! {
        div class={ "feature " (tone(f.level)) } {
            div {
                div.title { h3 { (words::capital(&words::plain(&f.name))) } (badge(f.level, feature_word(f))) @if let Some(since) = f.since { span.note { "since " (when(now, since)) } } }
                @if group.len() > 1 || drift.cohort.is_none() {
                    div.places { @for g in group { @if let Some(cohort) = &g.cohort { a href={ "/drift?line=" (drift.line) "&cohort=" (cohort) } { (sign(g.level)) (cohort) } } } }
                }
                p.say { (f.sentence) }
                div.keys {
                    span { "evidence " b { (words::number(f.log_evidence)) } " of " (words::number(f.threshold)) }
                    span { "PSI " b { (words::number(f.psi)) } }
                    span { "largest CDF gap " b { (words::percent(f.sup_cdf)) } }
                    @if let Some(importance) = f.importance { span title="Share of decisions that change when its values are permuted" { "importance " b { (words::percent(importance)) } } }
                    @if let Some(cost) = f.cost.filter(|_| f.moved) { span title="Estimated fall of accuracy if only this feature changed, with its 95 % interval" { "costs " b { (points(cost.accuracy)) } " (" (points(cost.low)) " to " (points(cost.high)) ")" } }
                    span { "n = " b { (words::count(f.n)) } }
                    @if f.missing >= SHOWN { span { "missing " b { (words::percent(f.missing)) } } }
                    @if f.outside >= SHOWN { span { "outside the reference " b { (words::percent(f.outside)) } } }
                }
            }
            (histogram(f))
        }
    }
}

fn feature_word(f: &FeatureDrift) -> &'static str {
    match (f.moved, f.release, f.harmless) {
        (false, ..) => "as at training time",
        (true, true, _) => "moved with the release",
        (true, false, true) => "moved, harmless",
        (true, false, false) => "moved",
    }
}

/// A fall of accuracy: `2.1 pt`.
fn points(share: f64) -> String {
    format!("{:.1} pt", share * 100.0 + 0.0)
}

/// Every feature in every cohort at a glance; nothing where there is one cohort only.
fn matrix(drift: &Drift) -> Markup {
    let mut cohorts: Vec<&str> = drift.features.iter().filter_map(|f| f.cohort.as_deref()).collect();
    cohorts.sort_unstable();
    cohorts.dedup();
    if cohorts.len() < 2 {
        return html! {};
    }
    let cell = |group: &[&FeatureDrift], cohort: &str| {
        let found = group.iter().find(|f| f.cohort.as_deref() == Some(cohort)).copied();
        html! {
            td.num {
                @match found {
                    Some(f) => { (sign(f.level)) " " @if let Some(cost) = f.cost.filter(|_| f.moved) { (points(cost.accuracy)) } @else { (words::number(f.psi)) } }
                    None => (words::UNKNOWN),
                }
            }
        }
    };
    flush(
        "Feature by cohort",
        html! { "what a shift costs in points of accuracy where that is known, its PSI otherwise" },
        html! {
            table {
                thead { tr { th { "Feature" } @for cohort in &cohorts { th.num { a href={ "/drift?line=" (drift.line) "&cohort=" (cohort) } { (cohort) } } } } }
                tbody { @for group in grouped(&drift.features) { @if let Some(first) = group.first() { tr { td { (words::plain(&first.name)) } @for cohort in &cohorts { (cell(&group, cohort)) } } } } }
            }
        },
    )
}

fn devices(now: Timestamp, devices: &[DeviceDrift]) -> Markup {
    flush(
        "Devices unlike their cohort",
        html! { "a broken sensor rather than the world" },
        html! {
            @if devices.is_empty() { (empty("None", "Every device's inputs look like its cohort's.", None)) }
            @else {
                table {
                    thead { tr { th { "Device" } th { "Cohort" } th { "Feature" } th.num { "Costs it" } th.num { "Evidence" } th.num { "Since" } } }
                    tbody { @for d in devices { tr {
                        td { a href={ "/devices/" (d.device) } { (d.device) } span.sub { (d.sentence) } }
                        td { (d.cohort) } td { (words::plain(&d.feature)) }
                        td.num { @if let Some(cost) = d.cost { (points(cost.accuracy.max(0.0))) } @else { (words::UNKNOWN) } }
                        td.num { (words::number(d.log_evidence)) " of " (words::number(d.threshold)) }
                        td.num { @if let Some(since) = d.since { (when(now, since)) } @else { (words::UNKNOWN) } }
                    } } }
                }
            }
        },
    )
}

fn accuracy_legend() -> Markup {
    legend(&[
        ("c-current", "line", "measured with labels".to_owned()),
        ("c-reference", "dashed", "estimated from confidence, no labels (assumes no concept drift)".to_owned()),
    ])
}

/// Estimated and measured accuracy over time, with version changes marked.
pub(super) fn accuracy(q: &Quality) -> Markup {
    let (Some(first), Some(last)) = (q.points.first(), q.points.last()) else {
        return empty(
            "No decision reported yet",
            "Estimated accuracy comes with the first windows; measured accuracy follows when labels arrive.",
            None,
        );
    };
    let label = |at: Timestamp| if q.data_time { words::year(at) } else { words::clock(at) };
    let (low, high) = (first.at.as_millis() as f64, last.at.as_millis().max(first.at.as_millis() + 1) as f64);
    let y = y_range(q);
    let x = |at: Timestamp| at.as_millis() as f64;
    let chart = LineChart {
        title: format!("Accuracy of {}, estimated against measured", q.line),
        description: q.sentence.clone(),
        x: (low, high),
        x_labels: (0..=4).map(|i| label(Timestamp::from_millis((low + (high - low) * f64::from(i) / 4.0) as i64))).collect(),
        y,
        y_labels: (0..=4).rev().map(|i| words::whole_percent(y.0 + (y.1 - y.0) * f64::from(i) / 4.0)).collect(),
        series: vec![
            Series {
                name: "estimated".to_owned(),
                class: "c-reference",
                dashed: true,
                points: q.points.iter().map(|p| (x(p.at), p.estimated)).collect(),
                band: Vec::new(),
            },
            Series {
                name: "measured".to_owned(),
                class: "c-current",
                dashed: false,
                points: q.points.iter().filter(|p| p.measured.is_some()).map(|p| (x(p.at), p.measured)).collect(),
                band: q.points.iter().filter_map(|p| Some((x(p.at), p.lower?, p.upper?))).collect(),
            },
        ],
        markers: q.markers.iter().map(|m| (x(m.at), m.label.clone())).collect(),
        hover: q
            .points
            .iter()
            .map(|p| {
                (
                    x(p.at),
                    format!(
                        "{}: measured {} with {} labels, estimated {}",
                        label(p.at),
                        words::or_unknown(p.measured, words::percent),
                        p.labels,
                        words::or_unknown(p.estimated, words::percent)
                    ),
                )
            })
            .collect(),
    };
    html! {
        figure {
            figcaption { (q.sentence) }
            (line_chart(&chart))
            (also(q))
            @if !q.markers.is_empty() { div.legend { @for m in &q.markers { span { i.swatch.dashed.c-muted {} (label(m.at)) " " (m.label) } } } }
            details #accuracy-data { summary { "Data" } (table(q, label)) }
        }
    }
}

/// Other detectors on the labels, for those who expect them: shown, and marked as what they are.
fn also(q: &Quality) -> Markup {
    // Of one alone the sentence says it.
    let said = q.now.iter().filter(|now| q.now.len() > 1 && now.labels > 0 && !now.also.is_empty());
    html! {
        @for now in said {
            p.note {
                (now.cohort) ", concept drift: evidence " (words::number(now.log_evidence)) " of " (words::number(now.threshold))
                ". Also, without a budget of false alarms and without consequence: "
                @for (i, other) in now.also.iter().enumerate() {
                    @if i > 0 { "; " }
                    (other.method) " (" (other.parameters) ") "
                    @match other.last { Some(at) => { "last saw a rise on " (words::date(at)) }, None => "saw no rise" }
                }
                "."
            }
        }
    }
}

fn table(q: &Quality, label: impl Fn(Timestamp) -> String) -> Markup {
    html! {
        table {
            thead { tr { th { "Period" } th.num { "Decisions" } th.num { "Estimated, assuming no concept drift" } th.num { "Labels" } th.num { "Measured" } th.num { "Interval" } } }
            tbody { @for p in &q.points { tr {
                td { (label(p.at)) } td.num { (words::count(p.decisions)) } td.num { (words::or_unknown(p.estimated, words::percent)) }
                td.num { (words::count(p.labels)) } td.num { (words::or_unknown(p.measured, words::percent)) }
                td.num { @if let (Some(l), Some(u)) = (p.lower, p.upper) { (words::percent(l)) " – " (words::percent(u)) } @else { (words::UNKNOWN) } }
            } } }
        }
    }
}

/// The axis: room around what is shown, on multiples of five points, never more than 0 to 1.
fn y_range(q: &Quality) -> (f64, f64) {
    let values = q.points.iter().flat_map(|p| [p.estimated, p.measured, p.lower, p.upper]).flatten().filter(|v| v.is_finite());
    let (low, high) = values.fold((1.0_f64, 0.0_f64), |(low, high), v| (low.min(v), high.max(v)));
    if low > high {
        return (0.0, 1.0);
    }
    let low = (((low - 0.03) * 20.0).floor() / 20.0).max(0.0);
    let high = (((high + 0.03) * 20.0).ceil() / 20.0).min(1.0);
    if high > low { (low, high) } else { (0.0, 1.0) }
}
