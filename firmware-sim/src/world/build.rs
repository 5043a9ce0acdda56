//! How a world begins: keys, factory models, devices, and everything the story has planned.
use leeway_agent::action::DiskPath;
use leeway_agent::agent::{Settings, Timing};
use leeway_protocol::ids::{Line, NameError, Tenant};
use leeway_protocol::trust::keyring::SigningKey;

use super::*;
use crate::disk::Disk;
use crate::model::{self, Behaviour};

/// When every story begins: 2026-11-23T00:00:00Z.
pub fn start() -> Timestamp {
    Timestamp::from_secs(1_795_392_000)
}

/// Why a world could not begin.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// The repository could not be made.
    #[error(transparent)]
    Press(#[from] PressError),
    /// A name is no name.
    #[error(transparent)]
    Name(#[from] NameError),
}

/// Patience as in production, only shorter: a story has minutes, not days.
fn timing() -> Timing {
    Timing {
        retry_first_ms: 1_000,
        retry_max_ms: 20_000,
        refresh_ms: 60_000,
        hang_ms: 15_000,
        load_ms: 10_000,
        crash_window_ms: 600_000,
        crash_limit: 4,
        restart_ms: 500,
        report_ms: 60_000,
        receipt_ms: 10_000,
        disk_pause_ms: 5_000,
    }
}

/// What lies on the disk of a device that leaves the factory.
pub(super) fn delivered(press: &Press, factory: Option<&model::Made>) -> Vec<(String, Vec<u8>)> {
    let mut files = vec![
        (DiskPath::image_root().to_string(), press.image_root().to_vec()),
        (DiskPath::enrolled_director_root().to_string(), press.director_root().to_vec()),
    ];
    if let Some(factory) = factory {
        files.push((DiskPath::factory_model().to_string(), factory.model.clone()));
        files.push((DiskPath::factory_manifest().to_string(), factory.manifest.clone()));
    }
    files
}

/// The model that devices are delivered with.
pub(super) fn factory_model(line: &Line) -> Result<model::Made, NameError> {
    Ok(model::make(line, &"0.1.0".parse()?, 0, Behaviour::Serves { accuracy: 70 }, 0))
}

impl<A: Authority> World<A> {
    /// The world of a story; the controller is made when its devices are known.
    pub fn new(scenario: Scenario, authority: impl FnOnce(&[(DeviceId, PublicKey)], &Press) -> A) -> Result<Self, BuildError> {
        let rng = Rng::new(scenario.seed).fork("world", 0);
        let line: Line = "rain".parse()?;
        let tenant: Tenant = "sim".parse()?;
        let press = Press::new(&line, start(), &rng)?;
        let factory = factory_model(&line)?;
        let mut seats = Vec::with_capacity(scenario.devices);
        for number in 0..scenario.devices {
            let key = SigningKey::from_seed(&rng.fork("device-key", number as u64).bytes32());
            let mut settings = Settings::new(tenant.clone(), format!("device-{number}").parse()?, key);
            settings.timing = timing();
            let files = delivered(&press, scenario.factory.then_some(&factory));
            let key = settings.key.public();
            let device = Device::new(settings, Disk::with_files(files), rng.fork("device", number as u64));
            seats.push(Seat {
                device,
                key,
                life: 0,
                online: false,
                unplugged: false,
                connection: 0,
                will: Vec::new(),
                retained: None,
                serving: None,
                pipes: BTreeMap::new(),
            });
        }
        let index = seats.iter().enumerate().map(|(number, seat)| (seat.device.id().clone(), number)).collect();
        let known: Vec<(DeviceId, PublicKey)> = seats.iter().map(|seat| (seat.device.id().clone(), seat.key)).collect();
        let made_with = scenario.factory.then(|| Digest::of(&factory.manifest));
        let mut world = Self {
            now: start(),
            queue: BinaryHeap::new(),
            order: 0,
            index,
            authority: authority(&known, &press),
            watch: Watch::new(start(), vec![made_with; seats.len()], scenario.stolen_director),
            adversary: Adversary::new(&press, scenario.stolen_director, rng.fork("adversary", 0))?,
            seats,
            press,
            network: Network::new(rng.fork("network", 0)),
            outage: false,
            mirror: None,
            story: None,
            scenario,
        };
        world.plan();
        Ok(world)
    }

    fn plan(&mut self) {
        for device in 0..self.seats.len() {
            self.after(device as u64 % 50, Happening::PowerOn { device });
        }
        self.after(0, Happening::Tick);
        for (at, act) in self.scenario.acts.clone() {
            self.after(at, Happening::Act(act));
        }
        for number in 0..self.scenario.faults.len() {
            let at = self.scenario.faults.get(number).map_or(0, |fault| fault.at_ms);
            self.after(at, Happening::Fault(number));
        }
    }
}
