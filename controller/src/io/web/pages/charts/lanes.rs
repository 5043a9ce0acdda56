//! Swim lanes over time: what was the case from when to when.
use leeway_protocol::time::Timestamp;
use maud::{Markup, html};

use super::{W, place, xy};
use crate::io::web::words;

/// One lane.
pub(crate) struct Lane<'a> {
    /// Its name.
    pub(crate) name: &'a str,
    /// From, to, class of the colour, what to say on hover.
    pub(crate) spans: Vec<(Timestamp, Timestamp, &'static str, String)>,
}

/// The lanes over `from..to`.
pub(crate) fn lanes(title: &str, from: Timestamp, to: Timestamp, lanes: &[Lane<'_>]) -> Markup {
    let (low, high) = (from.as_millis() as f64, to.as_millis().max(from.as_millis() + 1) as f64);
    let x = |at: Timestamp| place(at.as_millis() as f64, low, high) * W;
    html! {
        div.lanes role="group" aria-label=(title) {
            @for lane in lanes {
                span { (lane.name) }
                svg.plot-lane viewBox={ "0 0 " (W) " 10" } preserveAspectRatio="none" role="img" aria-label={ (title) ": " (lane.name) } {
                    title { (lane.name) }
                    @for (a, b, class, said) in &lane.spans {
                        rect class={ "bar edge " (class) } x=(xy(x(*a))) y="0" width=(xy((x(*b) - x(*a)).max(2.0))) height="10" { title { (said) } }
                    }
                }
            }
            span {}
            div.x { @for i in 0..=4 { span { (words::clock(Timestamp::from_millis((low + (high - low) * f64::from(i) / 4.0) as i64))) } } }
        }
    }
}
