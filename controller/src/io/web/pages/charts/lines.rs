//! Lines over an axis, with bands, thresholds and markers; labels stand around the plot, evenly spaced.
use maud::{Markup, html};

use super::{H, W, path, place, xy};

/// One line.
pub(crate) struct Series {
    /// Its name.
    pub(crate) name: String,
    /// Class of its colour.
    pub(crate) class: &'static str,
    /// Dashed: the second channel beside colour.
    pub(crate) dashed: bool,
    /// Points; a `None` breaks the line.
    pub(crate) points: Vec<(f64, Option<f64>)>,
    /// Lower and upper end at some points.
    pub(crate) band: Vec<(f64, f64, f64)>,
}

/// A chart of lines.
pub(crate) struct LineChart {
    /// What it shows.
    pub(crate) title: String,
    /// What it says.
    pub(crate) description: String,
    /// Ends of the x axis.
    pub(crate) x: (f64, f64),
    /// Labels of the x axis, evenly spaced.
    pub(crate) x_labels: Vec<String>,
    /// Ends of the y axis.
    pub(crate) y: (f64, f64),
    /// Labels of the y axis from top to bottom, evenly spaced.
    pub(crate) y_labels: Vec<String>,
    /// Its lines.
    pub(crate) series: Vec<Series>,
    /// Moments marked, with what happened.
    pub(crate) markers: Vec<(f64, String)>,
    /// What to say on hover at a point of the x axis.
    pub(crate) hover: Vec<(f64, String)>,
}

/// The chart without its caption.
pub(crate) fn line_chart(chart: &LineChart) -> Markup {
    let at = |x: f64, y: f64| (place(x, chart.x.0, chart.x.1) * W, (1.0 - place(y, chart.y.0, chart.y.1)) * H);
    let rows = chart.y_labels.len().max(2) - 1;
    html! {
        div.chart {
            div.y aria-hidden="true" { @for label in &chart.y_labels { span { (label) } } }
            svg.plot-tall viewBox={ "0 0 " (W) " " (H) } preserveAspectRatio="none" role="img" aria-label=(chart.title) {
                title { (chart.title) }
                desc { (chart.description) }
                @for i in 0..=rows { path.grid d={ "M0 " (xy(H * i as f64 / rows as f64)) "H" (W) } {} }
                @for (x, label) in &chart.markers {
                    path.mark d={ "M" (xy(at(*x, 0.0).0)) " 0V" (H) } { title { (label) } }
                }
                @for series in &chart.series {
                    @if !series.band.is_empty() { polygon class={ "band " (series.class) } points=(band(&series.band, at)) {} }
                }
                @for series in &chart.series {
                    path class={ "series " (series.class) @if series.dashed { " dashed" } } d=(path(series.points.iter().map(|(x, y)| y.map(|y| at(*x, y))))) { title { (series.name) } }
                }
                (hits(chart, at))
            }
            div.x aria-hidden="true" { @for label in &chart.x_labels { span { (label) } } }
        }
    }
}

fn band(points: &[(f64, f64, f64)], at: impl Fn(f64, f64) -> (f64, f64)) -> String {
    let upper = points.iter().map(|(x, _, high)| at(*x, *high));
    let lower = points.iter().rev().map(|(x, low, _)| at(*x, *low));
    upper.chain(lower).map(|(x, y)| format!("{},{}", xy(x), xy(y))).collect::<Vec<_>>().join(" ")
}

/// Invisible columns that carry the hover text.
fn hits(chart: &LineChart, at: impl Fn(f64, f64) -> (f64, f64)) -> Markup {
    let width = W / chart.hover.len().max(1) as f64;
    html! {
        @for (x, text) in &chart.hover {
            rect x=(xy(at(*x, 0.0).0 - width / 2.0)) y="0" width=(xy(width)) height=(H) fill="transparent" { title { (text) } }
        }
    }
}
