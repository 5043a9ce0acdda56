//! Devices: what each runs, since when, and why it is unhappy.
use leeway_protocol::time::Timestamp;
use maud::{Markup, html};

use super::charts::{Lane, lanes, level_class};
use super::layout::{Area, Frame, head, page};
use super::parts::{badge, card, command, conditions, digest, empty, events, flush, legend, tile, tone, when};
use crate::io::web::resource::device::{Device, DeviceSummary, Span};
use crate::io::web::resource::{Level, Page};
use crate::io::web::words;

/// What a list of devices was asked for.
#[derive(Debug, Clone, Default)]
pub struct Asked {
    /// Only this cohort.
    pub cohort: Option<String>,
    /// Only this state: `online`, `offline`, `failing`.
    pub state: Option<String>,
    /// Cohorts there are.
    pub cohorts: Vec<String>,
}

/// A list of devices.
pub fn devices_page(now: Timestamp, seq: u64, asked: &Asked, devices: &Page<DeviceSummary>) -> Markup {
    let link = |cohort: Option<&str>, state: Option<&str>| {
        let mut query: Vec<String> = Vec::new();
        query.extend(cohort.map(|c| format!("cohort={c}")));
        query.extend(state.map(|s| format!("state={s}")));
        if query.is_empty() { "/devices".to_owned() } else { format!("/devices?{}", query.join("&")) }
    };
    let (cohort, state) = (asked.cohort.as_deref(), asked.state.as_deref());
    page(
        Frame { area: Area::Devices, title: "Devices", seq },
        html! {
            div #devices data-live {
                (head(&[], "Devices", html! {}, html! { (words::plural(devices.items.len() as u64, "device")) @if devices.next_cursor.is_some() { " on this page" } "." }))
                div.stack {
                    div.filters {
                        span.name { "Cohort" }
                        a.chip href=(link(None, state)) aria-current=[cohort.is_none().then_some("true")] { "all" }
                        @for c in &asked.cohorts { a.chip href=(link(Some(c), state)) aria-current=[(cohort == Some(c.as_str())).then_some("true")] { (c) } }
                    }
                    div.filters {
                        span.name { "State" }
                        a.chip href=(link(cohort, None)) aria-current=[state.is_none().then_some("true")] { "any" }
                        @for s in ["online", "offline", "failing"] { a.chip href=(link(cohort, Some(s))) aria-current=[(state == Some(s)).then_some("true")] { (s) } }
                    }
                    section.card {
                        @if devices.items.is_empty() {
                            (empty("No device fits", "A device joins with an enrolment token, which `leeway device token` makes.", Some("leeway device list")))
                        } @else {
                            div.flush data-scroll { (rows(now, &devices.items)) }
                            @if let Some(next) = &devices.next_cursor {
                                @let base = link(cohort, state);
                                div.pager { a.button href={ (base) @if base.contains('?') { "&" } @else { "?" } "cursor=" (next) } { "Next page" } }
                            }
                        }
                    }
                }
            }
        },
    )
}

fn rows(now: Timestamp, devices: &[DeviceSummary]) -> Markup {
    html! {
        table {
            thead { tr { th { "Device" } th { "State" } th { "Cohort" } th { "Runs" } th { "Should run" } th.num { "Last seen" } } }
            tbody {
                @for d in devices {
                    tr {
                        td { a href={ "/devices/" (d.id) } { (d.id) } span.sub { (d.sentence) } }
                        td { (badge(d.level, if d.online || !d.admitted { &d.phase } else { "offline" })) }
                        td { (d.cohort) }
                        td.nowrap { @if let (Some(l), Some(v)) = (&d.line, &d.version) { a href={ "/models/" (l) "/versions/" (v) } { (l) " " (v) } } @else { (words::UNKNOWN) } }
                        td.nowrap { @if let Some(v) = &d.target_version { (v) } @else { span.note { "the same" } } }
                        td.num { @if let Some(at) = d.last_seen { (when(now, at)) } @else { "never" } }
                    }
                }
            }
        }
    }
}

/// One device.
pub fn device_page(now: Timestamp, seq: u64, device: &Device) -> Markup {
    let s = &device.summary;
    page(
        Frame { area: Area::Devices, title: &s.id, seq },
        html! {
            div #device data-live {
                (head(&[("/devices", "Devices")], &s.id, html! { (badge(s.level, &s.phase)) (badge(if s.online { Level::Ok } else { Level::Warn }, if s.online { "online" } else { "offline" })) span.tag { (s.cohort) } @for (k, v) in &s.labels { span.tag { (k) "=" (v) } } }, html! { (s.sentence) }))
                div.stack {
                    @if let Some(reason) = &device.reason { section class={ "card headline " (tone(s.level)) } { div.body { p.say { (reason) } } } }
                    (tiles(now, device))
                    (timeline(now, &device.timeline))
                    div.two { (running(now, device)) (desired(now, device)) }
                    div.two {
                        (card("Conditions", html! {}, html! { @if device.conditions.is_empty() { p.note { "This device has not reported yet." } } @else { (conditions(&device.conditions)) } }))
                        (drift(now, device))
                    }
                    (flush("Events", html! {}, html! { @if device.events.is_empty() { (empty("Nothing yet", "What happens to this device appears here.", None)) } @else { (events(now, &device.events)) } }))
                    (card("The same elsewhere", html! {}, html! { (command(&format!("leeway device show {}", s.id))) p.note { "As JSON: " a href={ "/api/v1/devices/" (s.id) } { "/api/v1/devices/" (s.id) } } }))
                }
            }
        },
    )
}

fn tiles(now: Timestamp, d: &Device) -> Markup {
    html! {
        div.tiles {
            (tile("Last seen", html! { @if let Some(at) = d.summary.last_seen { (when(now, at)) } @else { "never" } }, html! { "agent " (d.agent) }))
            (tile("Inferences", html! { (words::or_unknown(d.running.as_ref().map(|r| r.inferences), words::count)) }, html! { "since this model started" }))
            (tile("Waiting on the device", html! { (words::count(d.outbox)) }, html! { @if d.dropped == 0 { "nothing given up" } @else { (words::count(d.dropped)) " messages given up" } }))
            (tile("Clock", html! { (words::or_unknown(d.clock_skew_ms, |ms| if ms.unsigned_abs() < 2000 { "in step".to_owned() } else { format!("{}{}", if ms < 0 { "\u{2212}" } else { "+" }, words::duration(ms.unsigned_abs())) })) }, html! { "against the controller" }))
        }
    }
}

fn running(now: Timestamp, d: &Device) -> Markup {
    card(
        "What it runs",
        html! {},
        html! {
            @if let Some(r) = &d.running {
                dl.facts {
                    dt { "Model" } dd { a href={ "/models/" (r.line) "/versions/" (r.version) } { (r.line) " " (r.version) } }
                    dt { "Since" } dd { (when(now, r.since)) }
                    dt { "Manifest" } dd { (digest(&r.manifest)) }
                    dt { "Model file" } dd { (digest(&r.model)) }
                    dt { "Golden outputs" } dd { @if let Some(g) = &r.golden { "matched " (digest(g)) } @else { "not matched yet" } }
                    dt { "Falls back to" } dd { @if let Some(g) = &d.last_known_good { (digest(g)) } @else { (words::UNKNOWN) } }
                }
            } @else { p.note { "This device reports no running model." } }
        },
    )
}

fn desired(now: Timestamp, d: &Device) -> Markup {
    card(
        "What it was told",
        html! {},
        html! {
            @if let Some(w) = &d.desired {
                dl.facts {
                    dt { "Generation" } dd { (w.generation) @if d.generation < w.generation { " (the device has accepted " (d.generation) ")" } @else { " (accepted)" } }
                    dt { "Intent" } dd { (w.intent) @if let Some(v) = &w.version { " " (v) } }
                    @if let Some(r) = &w.rollout { dt { "Rollout" } dd { a href={ "/rollouts/" (r) } { (r) } } }
                    dt { "Why" } dd { (w.reason) }
                    @if let Some(at) = w.at { dt { "Decided" } dd { (when(now, at)) } }
                    dt { "Enrolled" } dd { (when(now, d.enrolled_at)) }
                    dt { "Device key" } dd { (digest(&d.public_key)) }
                }
            } @else { p.note { "Nothing has been asked of this device yet." } }
        },
    )
}

fn drift(now: Timestamp, d: &Device) -> Markup {
    card(
        "Against its cohort",
        html! {},
        html! {
            @if d.drift.is_empty() { p.note { "Its inputs look like its cohort's." } }
            @else { ul.conditions { @for f in &d.drift { li { (super::parts::sign(Level::Warn)) div { b { (words::capital(&words::plain(&f.feature))) } " " span.note { "evidence " (words::number(f.log_evidence)) " of " (words::number(f.threshold)) @if let Some(at) = f.since { ", since " (when(now, at)) } } span.say { (f.sentence) } } } } } }
        },
    )
}

fn timeline(now: Timestamp, spans: &[Span]) -> Markup {
    let Some(from) = spans.iter().map(|s| s.from).min() else {
        return card("What ran when", html! {}, html! { p.note { "Nothing has run yet." } });
    };
    let mut names: Vec<&str> = Vec::new();
    for s in spans {
        if !names.contains(&s.lane.as_str()) {
            names.push(&s.lane);
        }
    }
    // Versions take turns in colour, so that neighbours differ; phases and connections have the colour of their level.
    let shown: Vec<Lane<'_>> = names
        .iter()
        .map(|&name| Lane {
            name,
            spans: spans
                .iter()
                .filter(|s| s.lane == name)
                .map(|s| {
                    (
                        s.from,
                        s.to.unwrap_or(now),
                        if name == "model" { version_colour(spans, &s.label) } else { level_class(s.level) },
                        format!("{}: {}", s.label, s.sentence),
                    )
                })
                .collect(),
        })
        .collect();
    card(
        "What ran when",
        html! {},
        html! {
            (lanes("What ran when", from, now, &shown))
            (legend(&versions(spans)))
            details #timeline-list {
                summary { "As a list" }
                table {
                    thead { tr { th { "From" } th { "Lane" } th { "What" } th { "Why" } } }
                    tbody { @for s in spans.iter().rev() { tr { td.nowrap { (when(now, s.from)) } td { (s.lane) } td.nowrap { (s.label) } td { (s.sentence) } } } }
                }
            }
        },
    )
}

/// The versions in the lanes with their colours, in order of first appearance.
fn versions(spans: &[Span]) -> Vec<(&'static str, &'static str, String)> {
    let mut entries: Vec<(&str, &str, String)> = Vec::new();
    for s in spans.iter().filter(|s| s.lane == "model") {
        if !entries.iter().any(|(_, _, name)| *name == s.label) {
            entries.push((version_colour(spans, &s.label), "", s.label.clone()));
        }
    }
    entries
}

fn version_colour(spans: &[Span], label: &str) -> &'static str {
    let mut seen: Vec<&str> = Vec::new();
    for s in spans.iter().filter(|s| s.lane == "model") {
        if !seen.contains(&s.label.as_str()) {
            seen.push(&s.label);
        }
    }
    super::charts::version_class(seen.iter().position(|s| *s == label).unwrap_or(0) as u64 + 1)
}
