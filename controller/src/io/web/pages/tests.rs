//! Every page of a fixed fleet as text, and the rules all pages obey.
mod fixture;

use maud::Markup;

use super::devices::{Asked, device_page, devices_page};
use super::drift::{drift_page, no_drift_page};
use super::episodes::{episode_page, episodes_page};
use super::events::events_page;
use super::fleet::fleet_page;
use super::models::{model_page, models_page, version_page};
use super::rollout::{rollout_page, rollouts_page};
use super::session::{login_page, problem_page};
use crate::io::web::resource::Page;
use crate::io::web::resource::episode::EpisodeList;
use fixture::*;

/// Every page, full and empty.
fn pages() -> Vec<(&'static str, Markup)> {
    let now = now();
    let models = vec![model()];
    let asked = Asked { cohort: Some("coast".into()), state: None, cohorts: vec!["coast".into(), "hills".into(), "plain".into()] };
    let lines = vec!["rain".to_owned()];
    vec![
        ("fleet", fleet_page(now, 42, &fleet())),
        ("fleet-empty", fleet_page(now, 0, &empty_fleet())),
        ("models", models_page(now, 42, &models, &jobs())),
        ("models-empty", models_page(now, 0, &[], &[])),
        ("model", model_page(now, 42, &model(), &[])),
        ("version", version_page(now, 42, &version())),
        ("rollouts", rollouts_page(now, 42, &[summary("rain-1.1.0", "paused"), summary("rain-1.0.0", "completed")])),
        ("rollouts-empty", rollouts_page(now, 0, &[])),
        ("rollout", rollout_page(now, 42, &rollout())),
        ("drift", drift_page(now, 42, &lines, &drift(), &quality())),
        ("drift-empty", no_drift_page(0)),
        ("devices", devices_page(now, 42, &asked, &Page { items: devices(), next_cursor: Some("bellevue-08".into()) })),
        ("devices-empty", devices_page(now, 0, &Asked::default(), &Page { items: vec![], next_cursor: None })),
        ("device", device_page(now, 42, &device())),
        ("events", events_page(now, &event_list(), None)),
        ("login", login_page(true)),
        ("problem", problem_page("Not found", "no rollout is called x: `leeway rollout list` shows those that exist")),
    ]
}

/// Pages of episodes: what they must say is asked below, and not pinned.
fn episodes() -> Vec<(&'static str, Markup)> {
    let now = now();
    vec![
        ("episodes", episodes_page(now, 42, &episode_list())),
        ("episodes-empty", episodes_page(now, 0, &EpisodeList { episodes: vec![], withheld: vec![] })),
        ("episode", episode_page(now, 42, &episode())),
    ]
}

#[test]
fn an_episode_shows_each_step_and_what_was_not_begun() {
    let [(_, list), (_, empty), (_, one)] = <[_; 3]>::try_from(episodes()).ok().unwrap().map(|(name, page)| (name, page.into_string()));
    assert_eq!(one.matches("<h3>").count(), 8, "a heading for each step");
    for text in ["cool down", "/rollouts/rain-auto-2", "/drift?line=rain", "leeway trainer episode rain-17", "Freezing: +2.0 points"] {
        assert!(one.contains(text) || list.contains(text), "{text}");
    }
    assert!(list.contains("href=\"/episodes/rain-9\"") && list.contains("What was not begun, and why"));
    assert!(empty.contains("No better model was asked for yet"));
}

/// One tag per line, so that a change shows as a small difference.
fn lines(page: Markup) -> String {
    page.into_string().replace("><", ">\n<")
}

#[test]
fn pages_look_as_they_did() {
    let mut settings = insta::Settings::clone_current();
    settings.set_omit_expression(true);
    settings.bind(|| {
        for (name, page) in pages() {
            insta::assert_snapshot!(name, lines(page));
        }
    });
}

#[test]
fn no_page_holds_a_style_a_script_or_anything_from_elsewhere() {
    for (name, page) in pages().into_iter().chain(episodes()) {
        let html = page.into_string();
        for banned in [" style=", "<style", " onclick", " onload", "javascript:", "http://www", "https://"] {
            assert!(!html.contains(banned), "{name} contains {banned}");
        }
        let scripts: Vec<&str> = html.match_indices("<script").map(|(at, _)| &html[at..(at + 60).min(html.len())]).collect();
        assert!(scripts.iter().all(|s| s.contains("src=\"/assets/live.js\"></script>")), "{name}: {scripts:?}");
        assert!(!html.contains("NaN") && !html.contains(">inf") && !html.contains("\"inf"), "{name} shows a number that is none");
    }
}

#[test]
fn what_comes_from_devices_cannot_become_markup() {
    let mut device = device();
    device.reason = Some("<script>alert(1)</script>".into());
    device.summary.labels.insert("x\"><b>".into(), "y".into());
    let html = device_page(now(), 1, &device).into_string();
    assert!(!html.contains("<script>alert") && !html.contains("\"><b>"));
}

/// `LEEWAY_PAGES=dir cargo test … write_pages` puts every page beside its assets, to be looked at in a browser.
#[test]
fn write_pages_where_asked() {
    let Ok(dir) = std::env::var("LEEWAY_PAGES") else { return };
    let assets = concat!(env!("CARGO_MANIFEST_DIR"), "/assets");
    for (name, page) in pages() {
        let html = page.into_string().replace("/assets/", &format!("{assets}/")).replace("type=\"module\" ", "defer ");
        std::fs::write(format!("{dir}/{name}.html"), html).unwrap();
    }
}
