//! Simulated stations as a story needs them: the real agent in this process, over the real broker, without runner processes.
use std::collections::BTreeMap;

use leeway_agent::agent::Timing;
use leeway_firmware_sim::io::enrol::Roots;
use leeway_firmware_sim::io::fleet::{FleetConfig, FleetHandle, StationConfig, start};

use crate::site::Site;

/// Days that pass in a second.
const SPEED: f64 = 150.0;

/// Start `count` stations that live the days from `first_day` on.
pub async fn stations(site: &Site, count: u32, first_day: usize) -> FleetHandle {
    let one = |index: u32| StationConfig {
        id: format!("station-{index:02}").parse().expect("a name"),
        labels: BTreeMap::new(),
        seed: 100 + u64::from(index),
        broken: None,
    };
    let read = |name: &str| std::fs::read(site.path("keys/controller").join(name)).expect("a root");
    let timing =
        Timing { retry_first_ms: 100, retry_max_ms: 1_000, receipt_ms: 2_000, report_ms: 1_000, restart_ms: 100, ..Timing::default() };
    let config = FleetConfig {
        stations: (0..count).map(one).collect(),
        controller_url: site.api().base().to_owned(),
        broker: None,
        enrol_token: Some(site.enrolment_token(count)),
        roots: Some(Roots { image: read("1.root.json"), director: read("director.1.root.json") }),
        first_day,
        days_per_second: SPEED,
        label_delay_days: 1,
        timing,
    };
    start(config).await.expect("the stations start")
}
