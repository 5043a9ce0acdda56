//! Charts as SVG made on the server: they work without scripts, follow the colour scheme, print, and can be tested as text.
//!
//! A plot's box is stretched to its place (`preserveAspectRatio="none"`) while strokes keep their width, so one drawing fits a
//! phone and a wide screen; text therefore never stands inside a stretched plot but beside it. What stays true: every chart
//! has a title and a description, a table twin where it shows figures, and no value that is not finite reaches a coordinate.
use std::fmt::Write as _;

use maud::{Markup, html};

use crate::io::web::resource::Level;

mod histogram;
mod interval;
mod lanes;
mod lineage;
mod lines;

pub(super) use histogram::histogram;
pub(super) use interval::interval;
pub(super) use lanes::{Lane, lanes};
pub(super) use lineage::lineage;
pub(super) use lines::{LineChart, Series, line_chart};

/// Width of a plot's own coordinates.
const W: f64 = 1000.0;
/// Height of a plot's own coordinates.
const H: f64 = 100.0;

/// A coordinate as text: two decimals, never NaN.
fn xy(value: f64) -> String {
    if value.is_finite() { format!("{}", (value * 100.0).round() / 100.0) } else { "0".to_owned() }
}

/// `value` on a scale of `low..high`, as 0..1.
fn place(value: f64, low: f64, high: f64) -> f64 {
    if high > low && value.is_finite() { ((value - low) / (high - low)).clamp(0.0, 1.0) } else { 0.5 }
}

/// A path through points; `None` breaks it.
fn path(points: impl Iterator<Item = Option<(f64, f64)>>) -> String {
    let mut text = String::new();
    let mut pen = false;
    for point in points {
        match point {
            Some((x, y)) => {
                let _ = write!(text, "{}{} {}", if pen { "L" } else { "M" }, xy(x), xy(y));
                // A point without neighbours is still drawn: round caps make a dot of a line of no length.
                if !pen {
                    text.push_str("h0");
                }
                pen = true;
            }
            None => pen = false,
        }
    }
    text
}

/// Parts of a whole side by side: (class of the colour, count, name).
pub(super) fn share_bar(what: &str, parts: &[(&str, u64, String)]) -> Markup {
    let total = parts.iter().map(|(_, n, _)| n).sum::<u64>().max(1) as f64;
    let mut at = 0.0;
    let said: Vec<String> = parts.iter().filter(|(_, n, _)| *n > 0).map(|(_, n, name)| format!("{n} {name}")).collect();
    html! {
        svg.plot-bar viewBox={ "0 0 " (W) " 10" } preserveAspectRatio="none" role="img" aria-label={ (what) ": " (said.join(", ")) } {
            title { (what) ": " (said.join(", ")) }
            @for (class, n, name) in parts {
                @if *n > 0 {
                    @let width = *n as f64 / total * W;
                    @let x = at;
                    ({ at += width; html! {} })
                    rect class={ "bar edge " (class) } x=(xy(x)) y="0" width=(xy(width)) height="10" { title { (n) " " (name) } }
                }
            }
        }
    }
}

/// The colour class of a version by its place in its line.
pub(super) fn version_class(seq: u64) -> &'static str {
    ["c-v1", "c-v2", "c-v3", "c-v4", "c-v5"][usize::try_from(seq.saturating_sub(1) % 5).unwrap_or(0)]
}

/// The colour class of a level.
pub(super) fn level_class(level: Level) -> &'static str {
    match level {
        Level::Idle => "c-idle",
        Level::Ok => "c-ok",
        Level::Busy => "c-busy",
        Level::Warn => "c-warn",
        Level::Bad => "c-bad",
    }
}
