//! Reference against current, bin by bin: the reference filled, the current outlined, special bins apart at the right.
use maud::{Markup, html};

use super::{H, xy};
use crate::io::web::resource::drift::{BinShare, FeatureDrift};
use crate::io::web::words;

/// Width of one bin in the plot's own coordinates.
const BIN: f64 = 10.0;

/// With a caption, a legend for the bins' ends and the table twin.
pub(crate) fn histogram(feature: &FeatureDrift) -> Markup {
    let regular: Vec<&BinShare> = feature.bins.iter().filter(|b| !b.special).collect();
    let special: Vec<&BinShare> = feature.bins.iter().filter(|b| b.special && (b.reference > 0.0 || b.current > 0.0)).collect();
    let ends = (regular.first().map(|b| b.label.as_str()), regular.last().map(|b| b.label.as_str()));
    html! {
        figure {
            (plot(feature, &regular, &special, "plot-mid"))
            div.chart { span {} div.x { span { (ends.0.unwrap_or_default()) } @if !special.is_empty() { span { (special.iter().map(|b| b.label.as_str()).collect::<Vec<_>>().join(" · ")) } } @else { span { (ends.1.unwrap_or_default()) } } } }
            details id={ "bins-" (feature.name) "-" (feature.cohort.as_deref().unwrap_or("all")) } {
                summary { "Data" }
                table {
                    thead { tr { th { "Bin" } th.num { "Reference" } th.num { "Now" } } }
                    tbody { @for bin in regular.iter().chain(&special) { tr { td { (bin.label) } td.num { (words::percent(bin.reference)) } td.num { (words::percent(bin.current)) } } } }
                }
            }
        }
    }
}

fn plot(feature: &FeatureDrift, regular: &[&BinShare], special: &[&BinShare], class: &str) -> Markup {
    let gap = if special.is_empty() { 0.0 } else { BIN / 2.0 };
    let width = BIN * (regular.len() + special.len()).max(1) as f64 + gap;
    let most = regular.iter().chain(special).map(|b| b.reference.max(b.current)).filter(|m| m.is_finite()).fold(0.0, f64::max).max(1e-9);
    // A little room at the top, so that the outline of the highest bar is not cut.
    let height = |share: f64| (share / most).clamp(0.0, 1.0) * (H - 3.0);
    let title = format!("{}: reference against now", feature.name);
    html! {
        svg class=(class) viewBox={ "0 0 " (xy(width)) " " (H) } preserveAspectRatio="none" role="img" aria-label=(title) {
            title { (title) }
            desc { (feature.sentence) }
            path.axis d={ "M0 " (H) "H" (xy(width)) } {}
            @for (i, bin) in regular.iter().chain(special).enumerate() {
                @let x = i as f64 * BIN + if i >= regular.len() { gap } else { 0.0 };
                @let (r, c) = (height(bin.reference), height(bin.current));
                g {
                    title { (bin.label) ": reference " (words::percent(bin.reference)) ", now " (words::percent(bin.current)) }
                    rect.bar.reference.c-reference x=(xy(x + 0.4)) y=(xy(H - r)) width=(xy(BIN - 0.8)) height=(xy(r)) {}
                    path.outline.c-current d={ "M" (xy(x + 0.4)) " " (H) "V" (xy(H - c)) "H" (xy(x + BIN - 0.4)) "V" (H) } {}
                    rect x=(xy(x)) y="0" width=(BIN) height=(H) fill="transparent" {}
                }
            }
        }
    }
}
