//! The pieces pages are made of: badge, card, tile, table cells, command line, empty state, list of events.
//!
//! A state is always icon, word and colour together, so that no one needs to see colours. Nothing here writes a style or a
//! script into the page: the content security policy would refuse it.
use leeway_protocol::time::Timestamp;
use maud::{Markup, html};

use crate::io::web::resource::event::Event;
use crate::io::web::resource::{Condition, Level};
use crate::io::web::words;

/// The class that carries a level's colour.
pub(super) fn tone(level: Level) -> &'static str {
    match level {
        Level::Idle => "is-idle",
        Level::Ok => "is-ok",
        Level::Busy => "is-busy",
        Level::Warn => "is-warn",
        Level::Bad => "is-bad",
    }
}

/// The word for a level where no better one is at hand.
pub(super) fn level_word(level: Level) -> &'static str {
    match level {
        Level::Idle => "Idle",
        Level::Ok => "Healthy",
        Level::Busy => "Under way",
        Level::Warn => "Attention",
        Level::Bad => "Action needed",
    }
}

/// The icon of a level; each has its own outline, not only its own colour.
pub(super) fn icon(level: Level) -> Markup {
    let path = match level {
        Level::Idle => "M4.5 8h7",
        Level::Ok => "m4.8 8.2 2.2 2.3 4.3-4.8",
        Level::Busy => "M8 4.6V8l2.3 1.6",
        Level::Warn => "M8 6.2v3M8 11.3v.1",
        Level::Bad => "m5.6 5.6 4.8 4.8m0-4.8-4.8 4.8",
    };
    html! {
        svg viewBox="0 0 16 16" fill="none" stroke="currentColor" stroke-width="1.6" stroke-linecap="round" stroke-linejoin="round" aria-hidden="true" {
            @if level == Level::Warn { path d="M8 2.2 14.4 13.4H1.6Z" {} } @else { circle cx="8" cy="8" r="6.4" {} }
            path d=(path) {}
        }
    }
}

/// A level on its own, with its word for screen readers.
pub(super) fn sign(level: Level) -> Markup {
    html! { span class={ "sign " (tone(level)) } title=(level_word(level)) role="img" aria-label=(level_word(level)) { (icon(level)) } }
}

/// Icon, word and colour.
pub(super) fn badge(level: Level, word: &str) -> Markup {
    html! { span class={ "badge " (tone(level)) } { (icon(level)) (words::capital(&word.replace('_', " "))) } }
}

/// A moment, relative, with the exact one on hover.
pub(super) fn when(now: Timestamp, at: Timestamp) -> Markup {
    html! { time datetime=(at) title=(at) { (words::ago(now, at)) } }
}

/// A box with a heading.
pub(super) fn card(title: &str, note: Markup, body: Markup) -> Markup {
    html! { section.card { header { h2 { (title) } span.note { (note) } } div.body { (body) } } }
}

/// A box with a heading whose content reaches its edges (tables, lists).
pub(super) fn flush(title: &str, note: Markup, body: Markup) -> Markup {
    html! { section.card { header { h2 { (title) } span.note { (note) } } div.flush data-scroll { (body) } } }
}

/// A figure with its name.
pub(super) fn tile(name: &str, value: Markup, note: Markup) -> Markup {
    html! { div.tile { span.name { (name) } span.value { (value) } span.note { (note) } } }
}

/// A command a person can copy.
pub(super) fn command(line: &str) -> Markup {
    html! { div.command { code tabindex="0" { (line) } button type="button" data-copy=(line) { "Copy" } } }
}

/// What stands where nothing is yet: what it would be and how to make the first one.
pub(super) fn empty(title: &str, text: &str, line: Option<&str>) -> Markup {
    html! { div.empty { b { (title) } p { (text) } @if let Some(line) = line { (command(line)) } } }
}

/// A digest in short, whole on hover.
pub(super) fn digest(text: &str) -> Markup {
    let short: String = text.trim_start_matches("sha256:").chars().take(12).collect();
    html! { code title=(text) { (short) } }
}

/// The path of the page about an event's subject, if there is one.
pub(super) fn subject_href(subject: &str) -> Option<String> {
    let (kind, rest) = subject.split_once('/')?;
    match kind {
        "rollouts" | "devices" | "models" => Some(format!("/{kind}/{rest}")),
        "training" => Some(format!("/episodes/{rest}")),
        _ => None,
    }
}

/// Events, newest first.
pub(super) fn events(now: Timestamp, events: &[Event]) -> Markup {
    html! {
        ul.events {
            @for event in events {
                li {
                    (sign(event.level))
                    div {
                        p { (event.sentence) }
                        span.where {
                            "#" (event.seq) " · " (event.kind)
                            @if let Some(href) = subject_href(&event.subject) { " · " a href=(href) { (event.subject) } }
                        }
                    }
                    (when(now, event.at))
                }
            }
        }
    }
}

/// Conditions, each with its sentence.
pub(super) fn conditions(list: &[Condition]) -> Markup {
    html! {
        ul.conditions {
            @for c in list {
                li {
                    (sign(match c.holds { Some(true) => Level::Ok, Some(false) => Level::Warn, None => Level::Idle }))
                    div { b { (words::spaced(&c.kind)) } " " span.note { (match c.holds { Some(true) => "yes", Some(false) => "no", None => "not known" }) } span.say { (c.message) } }
                }
            }
        }
    }
}

/// Names with their colours.
pub(super) fn legend(entries: &[(&str, &str, String)]) -> Markup {
    html! {
        div.legend {
            @for (class, shape, name) in entries {
                span { i class={ "swatch " (shape) " " (class) } {} (name) }
            }
        }
    }
}
