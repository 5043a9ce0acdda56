//! The frame around every page: navigation, the live dot, the heading.
use maud::{DOCTYPE, Markup, html};

/// What the frame needs to know about a page.
#[derive(Debug, Clone, Copy)]
pub struct Frame<'a> {
    /// Where in the navigation it belongs.
    pub area: Area,
    /// Title of the browser's tab.
    pub title: &'a str,
    /// Number of the newest event when the page was made; the live stream resumes there.
    pub seq: u64,
}

/// The parts of the dashboard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Area {
    /// Overview.
    Fleet,
    /// Lines and versions.
    Models,
    /// Rollouts.
    Rollouts,
    /// Drift and quality.
    Drift,
    /// Devices.
    Devices,
    /// Audit trail.
    Events,
    /// Signing in, errors.
    None,
}

const NAV: [(Area, &str, &str, &str); 6] = [
    (Area::Fleet, "/", "Fleet", "M2.5 6.5 8 2.5l5.5 4v7h-11zM6.2 13.5v-4h3.6v4"),
    (Area::Models, "/models", "Models", "M8 1.8 13.6 5v6L8 14.2 2.4 11V5zM2.4 5 8 8.2 13.6 5M8 8.2v6"),
    (Area::Rollouts, "/rollouts", "Rollouts", "M2 13.5h3.6V10H2zM6.2 13.5h3.6V6.4H6.2zM10.4 13.5H14V2.5h-3.6z"),
    (Area::Drift, "/drift", "Drift", "M1.8 11c2 0 2.2-6.5 4.4-6.5S8.4 11 10.4 11s2-4 3.8-4"),
    (
        Area::Devices,
        "/devices",
        "Devices",
        "M4.2 4.2h7.6v7.6H4.2zM6.5 1.8v2.4M9.5 1.8v2.4M6.5 11.8v2.4M9.5 11.8v2.4M1.8 6.5h2.4M1.8 9.5h2.4M11.8 6.5h2.4M11.8 9.5h2.4",
    ),
    (Area::Events, "/events", "Audit", "M3 3.5h10M3 8h10M3 12.5h6"),
];

/// A whole page.
pub fn page(frame: Frame<'_>, body: Markup) -> Markup {
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                title { (frame.title) " · Leeway" }
                link rel="icon" type="image/svg+xml" href="/assets/icon.svg";
                link rel="stylesheet" href="/assets/app.css";
                script type="module" src="/assets/live.js" {}
            }
            body data-seq=(frame.seq) {
                a.skip href="#main" { "Skip to content" }
                div.shell {
                    div.side role="banner" {
                        a.brand href="/" { (mark()) "Leeway" }
                        nav.nav aria-label="Main" {
                            @for (area, href, name, path) in NAV {
                                a href=(href) aria-current=[(area == frame.area).then_some("page")] {
                                    svg viewBox="0 0 16 16" fill="none" stroke="currentColor" stroke-width="1.4" stroke-linejoin="round" stroke-linecap="round" aria-hidden="true" { path d=(path) {} }
                                    (name)
                                }
                            }
                        }
                        div.foot {
                            span #live .live data-state="wait" role="status" { "Connecting" }
                            span.about { "Leeway " (env!("CARGO_PKG_VERSION")) }
                        }
                    }
                    main #main { (body) }
                }
            }
        }
    }
}

/// The heading of a page: where it is, its title with its state, and its sentence.
pub fn head(crumbs: &[(&str, &str)], title: &str, state: Markup, sentence: Markup) -> Markup {
    html! {
        div.head {
            @if !crumbs.is_empty() {
                p.crumb { @for (href, name) in crumbs { a href=(href) { (name) } " / " } }
            }
            div.title { h1 { (title) } (state) }
            p.lede { (sentence) }
        }
    }
}

fn mark() -> Markup {
    html! {
        svg viewBox="0 0 24 24" fill="none" stroke="currentColor" stroke-width="1.9" stroke-linecap="round" stroke-linejoin="round" aria-hidden="true" {
            path d="M12 2.5v13M12 4.5c4.2 2.2 6 5.8 6.2 10H12M9.2 8.2C7.4 10 6.3 12.2 6 14.5h3.2" {}
            path d="M3 18c1.5 1.6 3 1.6 4.5 0s3-1.6 4.5 0 3 1.6 4.5 0 3-1.6 4.5 0" {}
        }
    }
}
