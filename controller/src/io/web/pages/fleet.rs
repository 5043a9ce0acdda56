//! The overview: is anything wrong now, and where to click.
use leeway_protocol::time::Timestamp;
use maud::{Markup, html};

use super::charts::{share_bar, version_class};
use super::layout::{Area, Frame, head, page};
use super::parts::{badge, empty, events, flush, legend, level_word, sign, tile, when};
use super::rollout::rollout_rows;
use crate::io::web::resource::fleet::{CohortRow, Fleet};
use crate::io::web::words;

/// The page.
pub fn fleet_page(now: Timestamp, seq: u64, fleet: &Fleet) -> Markup {
    page(
        Frame { area: Area::Fleet, title: "Fleet", seq },
        html! {
            div #fleet data-live {
                (head(&[], "Fleet", badge(fleet.level, level_word(fleet.level)), html! { (fleet.sentence) }))
                div.stack {
                    @if fleet.totals.devices == 0 { (welcome()) }
                    @if !fleet.attention.is_empty() { (attention(now, fleet)) }
                    @if fleet.totals.devices > 0 { (tiles(fleet)) }
                    @if !fleet.rollouts.is_empty() { (flush("Active rollouts", html! {}, rollout_rows(now, &fleet.rollouts))) }
                    div.wide {
                        (flush("Cohorts and versions", html! {}, cohorts(&fleet.cohorts)))
                        (flush("Recent events", html! { a href="/events" { "All events" } }, html! { div.brief { (recent(now, fleet)) } }))
                    }
                }
            }
        },
    )
}

fn welcome() -> Markup {
    html! {
        section.card {
            (empty("No device is enrolled yet", "A device joins with an enrolment token, which `leeway device token` makes. It then shows up here within seconds.", Some("leeway-agent enrol --url http://127.0.0.1:8080 --dir data --token …")))
        }
    }
}

fn recent(now: Timestamp, fleet: &Fleet) -> Markup {
    if fleet.events.is_empty() {
        return empty(
            "Nothing has happened yet",
            "Every decision of the controller appears here with its reason.",
            Some("leeway events -f"),
        );
    }
    events(now, &fleet.events)
}

fn attention(now: Timestamp, fleet: &Fleet) -> Markup {
    html! {
        section.card {
            header { h2 { "Needs attention" } }
            div.flush {
                ul.attention {
                    @for a in &fleet.attention {
                        li {
                            (sign(a.level))
                            div { a href=(a.href) { (a.sentence) } div.do { (a.action) } }
                            span.note { @if let Some(since) = a.since { (when(now, since)) } }
                        }
                    }
                }
            }
        }
    }
}

fn tiles(fleet: &Fleet) -> Markup {
    let t = &fleet.totals;
    let offline = t.devices.saturating_sub(t.online);
    html! {
        div.tiles {
            (tile("Devices online", html! { (words::count(t.online)) small { " / " (words::count(t.devices)) } }, html! { @if offline == 0 { "all connected" } @else { (words::count(offline)) " not connected" } }))
            (tile("Inferences", html! { (words::or_unknown(t.inferences_per_second, words::number)) small { " / s" } }, html! { (words::count(t.inferences)) " in all" }))
            (tile("Latency p95", html! { (words::or_unknown(t.latency_p95_us, words::micros)) }, html! { "on the devices" }))
            (tile("Failed", html! { (words::or_unknown(t.error_ratio, words::percent)) }, html! { "of inferences, against the model" }))
            (tile("Accuracy", html! { (words::or_unknown(t.accuracy, words::percent)) }, html! { "measured with labels" }))
            (tile("Windows stored", html! { (words::count(t.reports)) }, html! { (words::count(t.refused)) " messages refused" }))
        }
    }
}

fn cohorts(rows: &[CohortRow]) -> Markup {
    if rows.is_empty() {
        return empty(
            "No cohort has a device yet",
            "Cohorts select devices by their labels; they are named in the controller's configuration.",
            Some("leeway device list"),
        );
    }
    html! {
        table {
            thead { tr { th { "Cohort" } th { "What its devices run" } th.num { "Online" } } }
            tbody {
                @for row in rows {
                    tr {
                        td.tight { a href={ "/devices?cohort=" (row.cohort) } { (row.cohort) } span.sub { (row.selector) } }
                        td {
                            @let parts: Vec<(&str, u64, String)> = row.versions.iter().map(|v| (if v.version.is_empty() { "c-v0" } else { version_class(v.seq) }, v.devices, version_name(&v.line, &v.version))).collect();
                            (share_bar(&words::capital(&row.cohort), &parts))
                            @let names: Vec<(&str, &str, String)> = parts.iter().map(|(class, n, name)| (*class, "", format!("{name} · {n}"))).collect();
                            (legend(&names))
                        }
                        td.num { (row.online) " / " (row.devices) }
                    }
                }
            }
        }
    }
}

fn version_name(line: &str, version: &str) -> String {
    if version.is_empty() { "no model".to_owned() } else { format!("{line} {version}") }
}
