//! One controller for all cases, and as many devices as there are cases: each new, with a factory model that answers from the first
//! start, and with a release waiting that every device of the fleet is to run.
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use leeway_firmware_sim::sensor::Sensor;
use leeway_firmware_sim::weather::Weather;
use leeway_protocol::manifest::{Blob, Manifest};
use leeway_tests::application::Application;
use leeway_tests::device::Device;
use leeway_tests::lesson::teach;
use leeway_tests::site::Site;
use serde_json::Value;

/// What the devices are delivered with.
pub const FACTORY: &str = "1.0.0";
/// What they are told to run.
pub const RELEASE: &str = "2.0.0";
/// The longest one case may take.
pub const PATIENCE: Duration = Duration::from_secs(90);
/// Between two looks at a device.
const GLANCE: Duration = Duration::from_millis(15);

/// The controller in milliseconds instead of hours, for devices that come one after the other.
const CONTROLLER: &str = "
[planner]
interval_ms = 50
converge_per_minute = 1000000
retry_after_ms = 300
[planner.settings]
spread_ms = 0
[planner.settings.shadow]
min_inferences = 3
max_ms = 300
max_disagreement = 1.0
[planner.settings.probation]
min_ms = 50
min_inferences = 5
boots = 3
max_error_ratio = 0.5
[planner.settings.windows]
max_inferences = 40
max_ms = 1000
";

/// The controller and what is made for devices.
pub struct Bench {
    pub site: Site,
    pub released: Manifest,
    factory: (Vec<u8>, Vec<u8>),
    row: Vec<f32>,
    devices: AtomicU64,
}

impl Bench {
    /// A controller whose fleet is to run [`RELEASE`], proven by a first device.
    pub fn new() -> Self {
        let mut site = Site::new("rain");
        let config = site.path("leeway.toml");
        std::fs::write(&config, CONTROLLER).expect("a configuration");
        site.args = vec!["--config".to_owned(), config.display().to_string()];
        site.start();
        site.configure();
        // Released as well, so that the controller knows whose windows a factory model's are.
        let lesson = teach("rain", FACTORY, 0..300, "what the factory had");
        let factory = (lesson.model.clone(), site.publish(&lesson).to_bytes());
        let released = site.publish(&teach("rain", RELEASE, 200..600, "what every device is to run"));
        let mut pilot = Device::enrolled(&site, "pilot", &site.enrolment_token(1));
        pilot.start();
        let rollout = site.roll_out(RELEASE);
        pilot.until_serves(RELEASE);
        let application = Application::start(pilot.tcp(), "rain", 5, 2_000);
        assert_eq!(site.until_over(&rollout), "completed");
        drop(application);
        let weather = Weather::bellevue().expect("the series is in the binary");
        let row = Sensor::new(7, None).read(&weather, 2_000).expect("a day").features.to_vec();
        Self { site, released, factory, row, devices: AtomicU64::new(0) }
    }

    /// A new device that has enrolled and never ran.
    pub fn device(&self) -> Device {
        let id = format!("d{}", self.devices.fetch_add(1, Ordering::Relaxed));
        let mut device = Device::enrolled(&self.site, &id, &self.site.enrolment_token(1));
        device.sections.insert("timing", "disk_pause_ms = 100\n".to_owned());
        let factory = device.data.join("factory");
        std::fs::create_dir_all(&factory).expect("a folder");
        std::fs::write(factory.join("model.onnx"), &self.factory.0).expect("the factory's model");
        std::fs::write(factory.join("manifest.json"), &self.factory.1).expect("the factory's manifest");
        device
    }

    /// The files that hold the release on a device, while they come and when they are there.
    pub fn downloads(&self, data: &Path) -> Vec<std::path::PathBuf> {
        let blobs = [self.released.model.digest, Blob::of(&self.released.to_bytes()).digest];
        blobs.iter().map(|digest| data.join("staging").join(format!("{}.part", digest.hex()))).collect()
    }

    /// Ask a device a few questions; the versions that answered.
    pub fn ask(&self, device: &Device) -> Vec<String> {
        (0..2).filter_map(|_| device.tcp().ask("rain", &self.row).ok()).map(|answer| answer.version).collect()
    }

    /// Look at a device, asking it questions, until something is true of it.
    pub fn watch<T>(
        &self,
        device: &mut Device,
        what: &str,
        mut look: impl FnMut(&mut Device, &[String]) -> Result<T, String>,
    ) -> Result<T, String> {
        let begun = Instant::now();
        loop {
            let answered = self.ask(device);
            if let Some(stranger) = answered.iter().find(|v| ![FACTORY, RELEASE].contains(&v.as_str())) {
                return Err(format!("{stranger} answers, which nobody ever released"));
            }
            match look(device, &answered) {
                Ok(value) => return Ok(value),
                Err(seen) if begun.elapsed() > PATIENCE => {
                    return Err(format!("gave up waiting until {what}; last seen: {seen}"));
                }
                Err(_) => std::thread::sleep(GLANCE),
            }
        }
    }
}

/// The state on a device's disk, as its agent wrote it; null while there is none.
pub fn state(data: &Path) -> Value {
    let text = std::fs::read(data.join("state.json")).unwrap_or_default();
    serde_json::from_slice::<Value>(&text).map(|mut document| document["state"].take()).unwrap_or_default()
}

/// The names in a folder of a device's disk.
pub fn names(data: &Path, folder: &str) -> Vec<String> {
    let entries = std::fs::read_dir(data.join(folder)).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}
