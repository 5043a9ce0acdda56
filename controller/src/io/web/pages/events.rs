//! The audit trail: what was decided, when, about what and why, and whether anyone has touched it.
use leeway_protocol::time::Timestamp;
use maud::{Markup, html};

use super::layout::{Area, Frame, head, page};
use super::parts::{badge, command, digest, empty, sign, subject_href, when};
use crate::io::web::resource::Level;
use crate::io::web::resource::event::{Event, EventList};

/// A page of the log, newest first. `before` leads to older entries.
pub fn events_page(now: Timestamp, list: &EventList, kind: Option<&str>) -> Markup {
    let c = &list.chain;
    let oldest = list.items.iter().map(|e| e.seq).min();
    page(
        Frame { area: Area::Events, title: "Audit", seq: list.newest_seq },
        html! {
            div #events data-live {
                (head(&[], "Audit trail", badge(if c.verified { Level::Ok } else { Level::Bad }, if c.verified { "chain verified" } else { "chain broken" }), html! { (c.sentence) " Head " (digest(&c.head)) "." }))
                div.stack {
                    div.filters {
                        span.name { "Kind" }
                        a.chip href="/events" aria-current=[kind.is_none().then_some("true")] { "all" }
                        @for k in ["rollout", "device", "model", "drift", "training", "controller"] { a.chip href={ "/events?kind=" (k) } aria-current=[(kind == Some(k)).then_some("true")] { (k) } }
                    }
                    section.card {
                        @if list.items.is_empty() {
                            (empty("Nothing here", "Every decision of the controller is written down with its reason.", Some("leeway events -f")))
                        } @else {
                            div.flush data-scroll { (rows(now, &list.items)) }
                            @if let Some(oldest) = oldest.filter(|&o| o > list.oldest_seq) {
                                div.pager { a.button href={ "/events?before=" (oldest) @if let Some(k) = kind { "&kind=" (k) } } { "Older" } }
                            }
                        }
                    }
                    (command("leeway events --json > audit.jsonl"))
                }
            }
        },
    )
}

fn rows(now: Timestamp, events: &[Event]) -> Markup {
    html! {
        table {
            thead { tr { th.num { "#" } td {} th { "What" } th { "About" } th { "By" } th { "Kind" } th { "Hash" } th.num { "When" } } }
            tbody {
                @for e in events {
                    tr {
                        td.num { (e.seq) }
                        td.tight { (sign(e.level)) }
                        td { (e.sentence) }
                        td.nowrap { @if let Some(href) = subject_href(&e.subject) { a href=(href) { (e.subject) } } @else { (e.subject) } }
                        td.nowrap { (e.actor) }
                        td.nowrap { span.note { (e.kind) } }
                        td { (digest(&e.hash)) }
                        td.num { (when(now, e.at)) }
                    }
                }
            }
        }
    }
}
