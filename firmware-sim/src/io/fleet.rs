//! Hundreds of real agents in one process, over a real broker, replaying the weather at high speed.
//!
//! One task per station and one clock for all. The handle is all that a demo or a load test needs: how fast the days pass,
//! what each station says, and the few nasty things that can be done to one of them.
use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use leeway_agent::action::DiskPath;
use leeway_agent::agent::{Settings, Timing};
use leeway_protocol::ids::DeviceId;
use leeway_protocol::trust::keyring::SigningKey;
use tokio::sync::mpsc::{Sender, channel};
use tokio::task::JoinHandle;
use tokio::time::{interval, sleep};

use super::enrol::{EnrolError, Roots, enrol};
use super::link::Account;
use super::mirror::Mirror;
use super::pace::Pace;
use super::station::{INBOX, Inbox, Order, Station, World};
use super::view::{Shared, StationView};
use crate::disk::Disk;
use crate::rng::Rng;
use crate::sensor::{Break, Sensor};
use crate::weather::{Weather, WeatherError};

/// How often the common clock moves.
const BEAT: Duration = Duration::from_millis(20);
/// How long stations get to say goodbye.
const GOODBYE: Duration = Duration::from_secs(5);

/// One station to be.
#[derive(Debug, Clone)]
pub struct StationConfig {
    /// Its id.
    pub id: DeviceId,
    /// Its labels, for cohorts.
    pub labels: BTreeMap<String, String>,
    /// Decides its instruments' errors and its key.
    pub seed: u64,
    /// Its broken instrument, if one breaks.
    pub broken: Option<Break>,
}

/// A fleet to be.
#[derive(Debug, Clone)]
pub struct FleetConfig {
    /// The stations.
    pub stations: Vec<StationConfig>,
    /// Where the controller answers HTTP: `http://127.0.0.1:8080`.
    pub controller_url: String,
    /// The broker's host and port, if another than enrolment tells.
    pub broker: Option<(String, u16)>,
    /// Lets a station enrol; none where enrolment is open.
    pub enrol_token: Option<String>,
    /// What the stations are made with; without, they believe the enrolment's answer.
    pub roots: Option<Roots>,
    /// First day of the weather series they live.
    pub first_day: usize,
    /// Speed of the replay at the start.
    pub days_per_second: f64,
    /// Labels come so many days after the day.
    pub label_delay_days: usize,
    /// The agents' patience.
    pub timing: Timing,
}

/// Why a fleet did not start.
#[derive(Debug, thiserror::Error)]
pub enum FleetError {
    /// The weather is not there.
    #[error(transparent)]
    Weather(#[from] WeatherError),
    /// A station was not taken in.
    #[error(transparent)]
    Enrol(#[from] EnrolError),
    /// The runtime broke an enrolment off.
    #[error("enrolling was broken off")]
    Broken(#[from] tokio::task::JoinError),
}

#[derive(Debug)]
struct Member {
    shared: Arc<Shared>,
    orders: Sender<Inbox>,
    task: JoinHandle<()>,
}

/// A running fleet.
#[derive(Debug)]
pub struct FleetHandle {
    members: BTreeMap<DeviceId, Member>,
    pace: Arc<Pace>,
    clock: JoinHandle<()>,
}

/// Enrol every station and start it. The days stand still until [`FleetHandle::run_until`] is called.
pub async fn start(config: FleetConfig) -> Result<FleetHandle, FleetError> {
    let world = World {
        weather: Arc::new(Weather::bellevue()?),
        pace: Arc::new(Pace::new(config.first_day, config.days_per_second)),
        mirror: Mirror::new(&config.controller_url),
        label_delay_days: config.label_delay_days,
        first_day: config.first_day,
    };
    let config = Arc::new(config);
    let asked = Arc::clone(&config);
    let stations = tokio::task::spawn_blocking(move || enrol_all(&asked)).await??;
    let mut members = BTreeMap::new();
    for (station, (settings, account, roots)) in config.stations.iter().zip(stations) {
        let (orders, inbox) = channel(INBOX);
        let shared = Arc::new(Shared::new(station.id.clone(), station.seed, settings.key.public(), config.first_day));
        let sensor = Sensor::new(station.seed, station.broken);
        let disk = Disk::with_files(made_with(roots));
        let station_task = Station::new(world.clone(), Arc::clone(&shared), settings, account, sensor, disk, orders.clone());
        let task = tokio::spawn(station_task.run(inbox));
        members.insert(station.id.clone(), Member { shared, orders, task });
    }
    let days: Vec<Arc<Shared>> = members.values().map(|member| Arc::clone(&member.shared)).collect();
    let pace = Arc::clone(&world.pace);
    let clock = tokio::spawn(keep_time(pace, days));
    Ok(FleetHandle { members, pace: world.pace, clock })
}

/// The files a device leaves its factory with.
fn made_with(roots: Roots) -> [(String, Vec<u8>); 2] {
    [(DiskPath::image_root().to_string(), roots.image), (DiskPath::enrolled_director_root().to_string(), roots.director)]
}

fn enrol_all(config: &FleetConfig) -> Result<Vec<(Settings, Account, Roots)>, EnrolError> {
    let http: ureq::Agent =
        ureq::Agent::config_builder().http_status_as_error(false).timeout_global(Some(Duration::from_secs(20))).build().into();
    let one = |station: &StationConfig| {
        let key = SigningKey::from_seed(&Rng::new(station.seed).fork("device-key", 0).bytes32());
        let token = config.enrol_token.as_deref();
        let answer = enrol(&http, &config.controller_url, &station.id, &key, &station.labels, token)?;
        let mut settings = Settings::new(answer.tenant.clone(), station.id.clone(), key);
        settings.labels = station.labels.clone();
        settings.timing = config.timing;
        let (host, port) = config.broker.clone().unwrap_or((answer.mqtt.host, answer.mqtt.port));
        let (username, secret) = (answer.mqtt.username, answer.mqtt.password);
        let account = Account { host, port, tenant: answer.tenant, device: station.id.clone(), username, secret };
        let told = Roots { image: answer.image_root.into_bytes(), director: answer.director_root.into_bytes() };
        Ok((settings, account, config.roots.clone().unwrap_or(told)))
    };
    config.stations.iter().map(one).collect()
}

async fn keep_time(pace: Arc<Pace>, days: Vec<Arc<Shared>>) {
    let mut beat = interval(BEAT);
    loop {
        beat.tick().await;
        pace.advance(slowest(days.iter().map(AsRef::as_ref)));
    }
}

fn slowest<'a>(stations: impl Iterator<Item = &'a Shared>) -> usize {
    stations.map(|shared| shared.day.load(Ordering::Relaxed)).min().unwrap_or(usize::MAX)
}

impl FleetHandle {
    /// The day that every station has reached.
    pub fn day(&self) -> usize {
        slowest(self.members.values().map(|member| member.shared.as_ref()))
    }

    /// Let the days pass up to `day`, and wait until every station has lived them.
    pub async fn run_until(&self, day: usize) {
        self.pace.run_until(day);
        while self.day() < day {
            sleep(BEAT).await;
        }
    }

    /// Let the days pass up to `day` without waiting.
    pub fn aim_for(&self, day: usize) {
        self.pace.run_until(day);
    }

    /// Days per second from now on.
    pub fn set_speed(&self, days_per_second: f64) {
        self.pace.set_speed(days_per_second);
    }

    /// The days stand still.
    pub fn pause(&self) {
        self.pace.pause(true);
    }

    /// The days go on.
    pub fn resume(&self) {
        self.pace.pause(false);
    }

    /// Every station as it is now, by id.
    pub fn views(&self) -> Vec<StationView> {
        self.members.values().map(|member| member.shared.view()).collect()
    }

    /// One station as it is now.
    pub fn view(&self, station: &DeviceId) -> Option<StationView> {
        Some(self.members.get(station)?.shared.view())
    }

    /// Wait until `holds` of all stations, but no longer than `patience`; says whether it came to hold.
    pub async fn wait_until(&self, patience: Duration, mut holds: impl FnMut(&[StationView]) -> bool) -> bool {
        let end = tokio::time::Instant::now() + patience;
        loop {
            if holds(&self.views()) {
                return true;
            }
            if tokio::time::Instant::now() >= end {
                return false;
            }
            sleep(BEAT).await;
        }
    }

    /// A corrupting mirror: from now on every blob this station downloads has one flipped byte, or is honest again.
    pub fn flip_downloads(&self, station: &DeviceId, flip: bool) {
        if let Some(member) = self.members.get(station) {
            member.shared.lies.lock().unwrap_or_else(PoisonError::into_inner).flip_blobs = flip;
        }
    }

    /// A lying mirror: this station gets `bytes` for the metadata file at `path` (`tuf/timestamp.json`), or the truth again.
    pub fn substitute(&self, station: &DeviceId, path: &str, bytes: Option<Vec<u8>>) {
        if let Some(member) = self.members.get(station) {
            let mut lies = member.shared.lies.lock().unwrap_or_else(PoisonError::into_inner);
            match bytes {
                Some(bytes) => lies.instead.insert(path.to_owned(), bytes),
                None => lies.instead.remove(path),
            };
        }
    }

    /// A lying broker: show this station's agent a document as if it came on its desired topic.
    pub async fn show_desired(&self, station: &DeviceId, document: Vec<u8>) {
        self.order(station, Order::Desired(document)).await;
    }

    /// Break one of the station's instruments, from a day on that the station should not have lived yet.
    pub async fn break_instrument(&self, station: &DeviceId, broken: Break) {
        self.order(station, Order::Break(broken)).await;
    }

    /// Pull the station's cable, or put it back.
    pub async fn unplug(&self, station: &DeviceId, unplugged: bool) {
        self.order(station, Order::Unplug(unplugged)).await;
    }

    /// Pull the station's power and put it back at once: everything unsynced may be lost.
    pub async fn power_cut(&self, station: &DeviceId) {
        self.order(station, Order::PowerCut).await;
    }

    /// End every station in order.
    pub async fn shutdown(mut self) {
        self.clock.abort();
        for member in self.members.values() {
            let _ = member.orders.send(Inbox::Order(Order::Stop)).await;
        }
        let ends = std::mem::take(&mut self.members).into_values().map(|member| member.task);
        let _ = tokio::time::timeout(GOODBYE, async {
            for task in ends {
                let _ = task.await;
            }
        })
        .await;
    }

    async fn order(&self, station: &DeviceId, order: Order) {
        if let Some(member) = self.members.get(station) {
            let _ = member.orders.send(Inbox::Order(order)).await;
        }
    }
}

impl Drop for FleetHandle {
    /// A fleet that is dropped without goodbye is gone at once.
    fn drop(&mut self) {
        self.clock.abort();
        for member in self.members.values() {
            member.task.abort();
        }
    }
}
