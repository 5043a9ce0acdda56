//! Descent drawn left to right: what a version was made from, and what was made from it. A list says the same beside it.
use std::collections::BTreeMap;

use maud::{Markup, html};

use crate::io::web::resource::model::Lineage;

/// Width and height of a node, and the room between nodes.
const NODE: (f64, f64) = (176.0, 46.0);
const GAP: (f64, f64) = (56.0, 16.0);
/// Columns drawn at most: deeper descent is in the list.
const MAX_COLUMNS: usize = 6;

/// The drawing; `own` is the key of the version the page is about.
pub(crate) fn lineage(graph: &Lineage, own: &str) -> Markup {
    let places = layout(graph);
    let width = places.values().map(|(x, _)| x + NODE.0).fold(0.0, f64::max) + 2.0;
    let height = places.values().map(|(_, y)| y + NODE.1).fold(0.0, f64::max) + 2.0;
    html! {
        div.lineage data-scroll {
            svg viewBox={ "-1 -1 " (width) " " (height) } width=(width) height=(height) role="img" aria-label="Lineage" {
                title { "Lineage" }
                @for edge in &graph.edges {
                    @if let (Some(a), Some(b)) = (places.get(edge.from.as_str()), places.get(edge.to.as_str())) {
                        @let (x1, y1, x2, y2) = (a.0 + NODE.0, a.1 + NODE.1 / 2.0, b.0, b.1 + NODE.1 / 2.0);
                        @let mid = f64::midpoint(x1, x2);
                        path d={ "M" (x1) " " (y1) "C" (mid) " " (y1) " " (mid) " " (y2) " " (x2) " " (y2) } { title { (edge.kind) } }
                    }
                }
                @for node in &graph.nodes {
                    @if let Some((x, y)) = places.get(node.id.as_str()) {
                        g {
                            title { (node.label) " – " (node.detail) }
                            rect.self[node.id == own] x=(x) y=(y) width=(NODE.0) height=(NODE.1) rx="7" {}
                            text x=(x + 11.0) y=(y + 19.0) { (cut(&node.label, 24)) }
                            text.kind x=(x + 11.0) y=(y + 35.0) { (cut(&format!("{} · {}", node.kind, node.detail), 30)) }
                        }
                    }
                }
            }
            details #lineage-list {
                summary { "As a list" }
                ul.conditions {
                    @for node in &graph.nodes {
                        li {
                            span {}
                            div {
                                b { @if let Some(href) = &node.href { a href=(href) { (node.label) } } @else { (node.label) } }
                                span.say { (node.kind) " · " (node.detail) @for edge in graph.edges.iter().filter(|e| e.to == node.id) { " · " (edge.kind) " from " (label(graph, &edge.from)) } }
                            }
                        }
                    }
                }
            }
        }
    }
}

fn label<'a>(graph: &'a Lineage, id: &'a str) -> &'a str {
    graph.nodes.iter().find(|n| n.id == id).map_or(id, |n| n.label.as_str())
}

fn cut(text: &str, most: usize) -> String {
    if text.chars().count() <= most { text.to_owned() } else { text.chars().take(most - 1).chain(['…']).collect() }
}

/// Each node one column after the latest it was made from; inputs stand directly before what they are used for.
fn layout(graph: &Lineage) -> BTreeMap<&str, (f64, f64)> {
    let mut column: BTreeMap<&str, usize> = graph.nodes.iter().map(|n| (n.id.as_str(), 0)).collect();
    // As many passes as columns: a cycle in the data cannot keep this going.
    for _ in 0..MAX_COLUMNS {
        for edge in &graph.edges {
            let from = column.get(edge.from.as_str()).copied().unwrap_or(0);
            if let Some(to) = column.get_mut(edge.to.as_str()) {
                *to = (*to).max(from + 1).min(MAX_COLUMNS);
            }
        }
    }
    for node in graph.nodes.iter().filter(|n| n.kind != "version") {
        let first = graph.edges.iter().filter(|e| e.from == node.id).filter_map(|e| column.get(e.to.as_str())).min().copied();
        if let (Some(first), Some(own)) = (first, column.get_mut(node.id.as_str())) {
            *own = first.saturating_sub(1);
        }
    }
    let mut rows: BTreeMap<usize, usize> = BTreeMap::new();
    let mut places = BTreeMap::new();
    for node in &graph.nodes {
        let col = column.get(node.id.as_str()).copied().unwrap_or(0);
        let row = rows.entry(col).or_insert(0);
        places.insert(node.id.as_str(), (col as f64 * (NODE.0 + GAP.0), *row as f64 * (NODE.1 + GAP.1)));
        *row += 1;
    }
    places
}
