//! Episodes of retraining: why a better model was asked for, what came of it, and what was not done.
use leeway_protocol::time::Timestamp;
use maud::{Markup, html};

use super::layout::{Area, Frame, head, page};
use super::parts::{badge, card, command, empty, flush, icon, tone, when};
use crate::io::web::resource::Level;
use crate::io::web::resource::episode::{Episode, EpisodeList, EpisodeStep, EpisodeSummary, WithheldCause};
use crate::io::web::words;

/// Causes shown that began nothing; the log has them all.
const MAX_WITHHELD: usize = 20;

/// All episodes.
pub fn episodes_page(now: Timestamp, seq: u64, list: &EpisodeList) -> Markup {
    let open = list.episodes.iter().filter(|e| e.level == Level::Busy).count() as u64;
    page(
        Frame { area: Area::Models, title: "Episodes", seq },
        html! {
            div #episodes data-live {
                (head(&[("/models", "Models")], "Episodes of retraining", html! {}, html! { (words::plural(open, "episode")) " under way, " (words::count(list.episodes.len() as u64)) " in all." }))
                div.stack {
                    @if list.episodes.is_empty() {
                        section.card { (empty("No better model was asked for yet", "An episode begins when drift comes with a loss of accuracy, when it is time by the line's schedule, when another system calls, or when a person asks.", Some("leeway trainer request rain --reason \"the season has changed\""))) }
                    } @else { (flush("Episodes", html! {}, rows(now, &list.episodes))) }
                    @if !list.withheld.is_empty() { (flush("What was not begun, and why", html! {}, withheld_rows(now, &list.withheld))) }
                }
            }
        },
    )
}

/// Rows of a table of episodes.
pub(super) fn rows(now: Timestamp, episodes: &[EpisodeSummary]) -> Markup {
    html! {
        table {
            thead { tr { th { "Episode" } th { "Cause" } th { "At" } th.num { "Began" } th.num { "Changed" } } }
            tbody { @for e in episodes { tr {
                td.roomy { a href={ "/episodes/" (e.id) } { (e.id) } span.sub { (e.sentence) } }
                td { (words::capital(&e.cause)) }
                td { (badge(e.level, &e.step)) }
                td.num { (when(now, e.began_at)) }
                td.num { (when(now, e.updated_at)) }
            } } }
        }
    }
}

fn withheld_rows(now: Timestamp, withheld: &[WithheldCause]) -> Markup {
    html! {
        table {
            thead { tr { th { "Line" } th { "Cause" } th { "Forbidden by" } th { "Why" } th.num { "When" } } }
            tbody { @for w in withheld.iter().take(MAX_WITHHELD) { tr {
                td { a href={ "/models/" (w.line) } { (w.line) } }
                td { (words::capital(&w.cause)) }
                td { @for limit in &w.limits { span.tag { (limit.replace('-', " ")) } " " } }
                td.roomy { (w.sentence) }
                td.num { (when(now, w.at)) }
            } } }
        }
    }
}

/// One episode.
pub fn episode_page(now: Timestamp, seq: u64, episode: &Episode) -> Markup {
    let s = &episode.summary;
    page(
        Frame { area: Area::Models, title: &s.id, seq },
        html! {
            div #episode data-live {
                (head(&[("/models", "Models"), ("/episodes", "Episodes")], &s.id, badge(s.level, &s.step), html! { a href={ "/models/" (s.line) } { (s.line) } ", caused by " (cause(&s.cause)) ", began " (when(now, s.began_at)) ", changed " (when(now, s.updated_at)) }))
                div.stack {
                    section class={ "card headline " (tone(s.level)) } { div.body { p.say { (s.sentence) } } }
                    (card("From cause to outcome", html! {}, html! { ol.episode { @for step in &episode.steps { (one(now, step)) } } }))
                    @if !episode.withheld.is_empty() { (flush("Before it: causes that began nothing", html! {}, withheld_rows(now, &episode.withheld))) }
                    (card("The same elsewhere", html! {}, html! {
                        p.note { "As JSON: " a href={ "/api/v1/episodes/" (s.id) } { "/api/v1/episodes/" (s.id) } }
                        (command(&format!("leeway trainer episode {}", s.id)))
                    }))
                }
            }
        },
    )
}

fn cause(word: &str) -> &str {
    match word {
        "drift" => "drift that hurts",
        "scheduled" => "the line's schedule",
        "called" => "another system's call",
        "asked" => "a person",
        other => other,
    }
}

fn one(now: Timestamp, step: &EpisodeStep) -> Markup {
    html! {
        li class={ (tone(step.level)) " " (step.state) } {
            span.mark { (icon(step.level)) }
            div.what {
                header { h3 { (words::capital(&step.name)) } span.state { (state(&step.state)) } @if let Some(at) = step.at { (when(now, at)) } }
                p.say { (step.sentence) }
                @if !step.details.is_empty() { ul.more { @for detail in &step.details { li { (detail) } } } }
                @if !step.links.is_empty() { p.links { @for link in &step.links { a href=(link.href) { (link.title) } " " } } }
            }
        }
    }
}

fn state(word: &str) -> &str {
    match word {
        "done" => "done",
        "now" => "now",
        "not-done" => "not done",
        _ => "ahead",
    }
}
