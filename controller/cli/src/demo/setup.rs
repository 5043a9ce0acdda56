//! How the demo's fleet is cut and run: three cohorts, one line, and policies in seconds instead of days.
//!
//! The replay lives fifty years in two minutes, so soak times, cool-downs and probation shrink with it. Nothing else differs
//! from what an operator would set.
use std::collections::BTreeMap;

use leeway_agent::agent::Timing;
use leeway_controller::io::web::resource::model::Model;
use leeway_firmware_sim::io::fleet::StationConfig;
use leeway_firmware_sim::sensor::{Break, Fault};
use leeway_firmware_sim::weather::FEATURES;
use serde_json::{Value, json};

use super::lessons::station_seed;
use super::workshop::Workshop;
use crate::failure::{During, Failure, Outcome};

/// The cohorts: where the stations stand.
pub const COHORTS: [&str; 3] = ["plain", "river", "town"];
/// The station whose instrument breaks, and which.
pub const BROKEN: usize = 17;
/// The feature that breaks.
pub const BROKEN_FEATURE: &str = "wind_speed";
/// How far off it reads from then on, in standard deviations.
const BROKEN_BY: f32 = 1.5;
/// Inferences (days) in a window.
pub const WINDOW: u64 = 30;
/// Days after which every station knows how its instruments differ from its cohort's: `base_blocks` of [`CONFIG`], and one more on
/// either side.
pub const BASE_DAYS: usize = 26 * 30;

/// The instrument as it breaks on a day.
pub fn breakage(from_day: usize) -> Outcome<Break> {
    let feature = FEATURES.iter().position(|f| *f == BROKEN_FEATURE).ok_or_else(|| Failure::new("the broken feature has no column"))?;
    Ok(Break { feature, from_day, fault: Fault::Offset(BROKEN_BY) })
}

/// The stations of the demo.
pub fn stations(count: u16) -> Outcome<Vec<StationConfig>> {
    let mut stations = Vec::new();
    for index in 0..usize::from(count) {
        let site = COHORTS[index % COHORTS.len()];
        stations.push(StationConfig {
            id: station_name(index).parse().during("naming a station")?,
            labels: BTreeMap::from([("site".to_owned(), site.to_owned())]),
            // Stations the people's models were not taught by.
            seed: station_seed(1000 + index as u64),
            broken: None,
        });
    }
    Ok(stations)
}

/// The name of the station with this number.
pub fn station_name(index: usize) -> String {
    format!("{}-{:02}", COHORTS[index % COHORTS.len()], index)
}

/// The agents' patience at this speed.
pub fn timing() -> Timing {
    Timing { retry_first_ms: 500, retry_max_ms: 3_000, receipt_ms: 4_000, report_ms: 2_000, restart_ms: 200, ..Timing::default() }
}

/// How a device goes about an assignment.
fn settings() -> Value {
    json!({
        "spread_ms": 200,
        "shadow": { "min_inferences": 30, "max_ms": 4_000, "max_disagreement": 1.0 },
        "probation": { "min_ms": 300, "min_inferences": 30, "boots": 3, "max_error_ratio": 0.02 },
        "windows": { "max_inferences": WINDOW, "max_ms": 60_000 },
        "capture": { "uniform": 0.12, "max_rows_per_day": 1_000_000, "labelled_only": true },
    })
}

/// How versions are brought out: canary 5 %, a quarter, all; a fifth held back to compare with.
pub fn rollout_policy() -> Value {
    let stage = |name: &str, share: f64| json!({ "name": name, "share": share, "soak_ms": 1_000, "deadline_ms": 60_000 });
    let rail = |metric: &str, need: &str| json!({ "metric": metric, "need": need });
    // Every station labels its days, so labels decide; the estimate from confidence is only shown, for a model trained on harder
    // years is rightly less sure of itself.
    let guardrails = [
        rail("error_ratio", "always"),
        rail("slow_ratio", "if_seen"),
        rail("estimated_accuracy", "observe"),
        rail("labelled_accuracy", "if_seen"),
        rail("device_failures", "if_seen"),
    ];
    json!({
        "stages": [stage("canary", 0.05), stage("quarter", 0.25), stage("all", 1.0)],
        "control_share": 0.2,
        "gate": { "guardrails": guardrails, "min_inferences": 200, "lost_after_ms": 30_000 },
        "max_in_flight": 1000,
        "max_per_minute": 100_000,
        "device_deadline_ms": 60_000,
        "settings": settings(),
    })
}

/// When a better model is asked for.
fn retrain_policy(enabled: bool) -> Value {
    json!({
        "enabled": enabled,
        "max_accuracy_loss": 0.02,
        "min_labels": 2_000,
        "min_cohorts": 1,
        "cool_down_ms": 3_000,
        "max_per_period": 40,
        "period_ms": 180_000,
        "min_rows": 2_000,
    })
}

/// The controller's configuration: statistics on the weather's own calendar, not on the clock on the wall.
///
/// Blocks of thirty days, whole years against the reference, so that a summer is not an alarm; at most one false alarm in fifty
/// years for the whole fleet; a model learns from the newest three years.
pub const CONFIG: &str = r#"tenant = "demo"

[planner]
interval_ms = 200

[drift]
block_ms = 2_592_000_000     # 30 days
season_ms = 31_557_600_000   # a year
base_blocks = 24
# At this speed a block passes in 150 ms, and some stations are heard of a few blocks later than others.
late_blocks = 12

[drift.budget]
false_alarms = 1.0
period_ms = 1_577_880_000_000 # fifty years

[quality]
block_ms = 2_592_000_000
recent_ms = 31_557_600_000

[quality.budget]
false_alarms = 1.0
period_ms = 1_577_880_000_000

[training.dataset]
span_ms = 94_672_800_000     # three years
min_rows = 2_000
"#;

/// Tell the controller what the line is for, and whether better models are asked for.
pub fn describe(workshop: &Workshop, retraining: bool) -> Outcome {
    let about = json!({ "task": "does it rain today?", "rollout": rollout_policy(), "retrain": retrain_policy(retraining) });
    workshop.put::<Model>(&format!("/api/v1/models/{}", workshop.line), &about).map(drop)
}

/// Tell the controller about the line and the cohorts.
pub fn configure(workshop: &Workshop) -> Outcome {
    let line = &workshop.line;
    describe(workshop, true)?;
    for cohort in COHORTS {
        let _: Value =
            workshop.put(&format!("/api/v1/cohorts/{cohort}"), &json!({ "line": line, "selector": format!("site={cohort}") }))?;
    }
    Ok(())
}
