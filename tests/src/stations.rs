//! Simulated stations as a story needs them: the real agent in this process, over the real broker, without runner processes.
use std::collections::BTreeMap;

use leeway_agent::agent::Timing;
use leeway_firmware_sim::io::enrol::Roots;
use leeway_firmware_sim::io::fleet::{FleetConfig, FleetHandle, StationConfig, start};
use leeway_firmware_sim::sensor::Break;

use crate::site::Site;

/// Days that pass in a second; the archive of the weather has some 18,000.
const SPEED: f64 = 150.0;
/// Days that pass in a second for all stations together: more than two cores can serve would only be waited for.
const STATION_DAYS: f64 = 6_000.0;

/// What sets a station apart.
#[derive(Debug, Clone, Default)]
pub struct Station {
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Its broken instrument.
    pub broken: Option<Break>,
}

/// Start `count` stations that live the days from `first_day` on.
pub async fn stations(site: &Site, count: u32, first_day: usize) -> FleetHandle {
    stations_of(site, vec![Station::default(); count as usize], first_day).await
}

/// Start these stations.
pub async fn stations_of(site: &Site, stations: Vec<Station>, first_day: usize) -> FleetHandle {
    let count = u32::try_from(stations.len()).expect("some stations");
    let one = |(index, station): (usize, Station)| StationConfig {
        id: format!("station-{index:02}").parse().expect("a name"),
        labels: station.labels,
        seed: 100 + index as u64,
        broken: station.broken,
    };
    let read = |name: &str| std::fs::read(site.path("keys/controller").join(name)).expect("a root");
    let timing =
        Timing { retry_first_ms: 100, retry_max_ms: 1_000, receipt_ms: 2_000, report_ms: 1_000, restart_ms: 100, ..Timing::default() };
    let config = FleetConfig {
        stations: stations.into_iter().enumerate().map(one).collect(),
        controller_url: site.api().base().to_owned(),
        broker: None,
        enrol_token: Some(site.enrolment_token(count)),
        roots: Some(Roots { image: read("1.root.json"), director: read("director.1.root.json") }),
        first_day,
        days_per_second: SPEED.min(STATION_DAYS / f64::from(count.max(1))),
        label_delay_days: 1,
        timing,
    };
    start(config).await.expect("the stations start")
}
