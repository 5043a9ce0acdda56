//! One difference with its confidence interval, zero and the threshold it may not pass.
use maud::{Markup, html};

use super::{W, place, xy};
use crate::io::web::pages::parts::tone;
use crate::io::web::resource::rollout::Guardrail;

/// The row of one guardrail; empty while there is no interval.
pub(crate) fn interval(guard: &Guardrail) -> Markup {
    let (Some(lower), Some(upper)) = (guard.lower, guard.upper) else { return html! {} };
    let mut marks: Vec<f64> = [Some(0.0), Some(lower), Some(upper), guard.difference, guard.threshold].into_iter().flatten().collect();
    marks.retain(|m| m.is_finite());
    let low = marks.iter().copied().fold(f64::INFINITY, f64::min);
    let high = marks.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let room = ((high - low) * 0.08).max(f64::EPSILON);
    let x = |value: f64| xy(place(value, low - room, high + room) * W);
    html! {
        svg class={ "plot-interval " (tone(guard.level)) } viewBox={ "0 0 " (W) " 28" } preserveAspectRatio="none" role="img" aria-label=(guard.sentence) {
            title { (guard.sentence) }
            path.axis d={ "M" (x(0.0)) " 2V26" } {}
            @if let Some(threshold) = guard.threshold { path.rule d={ "M" (x(threshold)) " 2V26" } {} }
            path.span.c-current d={ "M" (x(lower)) " 14H" (x(upper)) } {}
            @if let Some(difference) = guard.difference { path.dot.big.c-current d={ "M" (x(difference)) " 14h0" } {} }
        }
    }
}
