//! Where a row is played: three devices in virtual time, an honest controller, and hands at both ends.
use leeway_protocol::ids::DeviceId;
use leeway_protocol::reported::{Phase, Reported, TrustedVersions};

use super::{DrillError, Row};
use crate::director::Director;
use crate::model::Behaviour;
use crate::press::PressError;
use crate::scenario::{Act, Scenario};
use crate::world::World;

/// Devices in each row; the last one is the one that is away where a row needs one.
pub(super) const DEVICES: usize = 3;
pub(super) const AWAY: usize = DEVICES - 1;
/// One minute of virtual time.
pub(super) const MINUTE_MS: u64 = 60_000;
/// How long anything may take; a refresh comes about every minute, an installation takes half of one.
const PATIENCE_MS: u64 = 20 * MINUTE_MS;
/// What answers if it is no release of the present repository: the model from the factory, or thieves'.
pub(super) const UNKNOWN: &str = "another model";
/// How often it is looked at.
const LOOK_MS: u64 = 500;

pub(super) struct Lab {
    pub(super) world: World<Director>,
}

impl Lab {
    /// Devices that run 2.0.0 and ran 1.0.0 before.
    pub(super) fn new(stolen_director: bool) -> Result<Self, DrillError> {
        let (acts, faults) = (Vec::new(), Vec::new());
        let scenario = Scenario { seed: 1, devices: DEVICES, storm_ms: 0, factory: true, stolen_director, padding: 0, acts, faults };
        let world = World::new(scenario, |devices, _| Director::new(devices.iter().map(|(device, _)| device.clone())))?;
        let mut lab = Self { world };
        lab.pass(3_000)?;
        for _ in 0..2 {
            let release = lab.release()?;
            lab.assign(release)?;
            lab.until_all_run(release)?;
        }
        Ok(lab)
    }

    /// Publish the next good release; its number.
    pub(super) fn release(&mut self) -> Result<usize, DrillError> {
        self.world.do_now(Act::Release(Behaviour::Serves { accuracy: 90 }))?;
        Ok(self.world.press().releases().len() - 1)
    }

    /// The honest controller assigns it to everyone.
    pub(super) fn assign(&mut self, release: usize) -> Result<(), DrillError> {
        Ok(self.world.do_now(Act::Assign { release, percent: 100, rollback: false })?)
    }

    /// Time goes by.
    pub(super) fn pass(&mut self, ms: u64) -> Result<(), DrillError> {
        let until = self.world.elapsed_ms() + ms;
        if self.world.run_until(until) {
            return Ok(());
        }
        match self.world.watch().violations().first() {
            Some(violation) => Err(DrillError::Broken(violation.clone())),
            None => Ok(()),
        }
    }

    /// Time goes by until it is so; how long that was.
    pub(super) fn until(&mut self, what: &str, mut so: impl FnMut(&Self) -> bool) -> Result<u64, DrillError> {
        let from = self.world.elapsed_ms();
        while !so(self) {
            if self.world.elapsed_ms() - from > PATIENCE_MS {
                return Err(DrillError::Late { what: what.to_owned(), minutes: PATIENCE_MS / MINUTE_MS, seen: self.seen() });
            }
            self.pass(LOOK_MS)?;
        }
        Ok(self.world.elapsed_ms() - from)
    }

    /// Until every device runs it for good.
    pub(super) fn until_all_run(&mut self, release: usize) -> Result<u64, DrillError> {
        let version = self.version(release);
        self.until(&format!("every device runs {version}"), |lab| {
            (0..DEVICES).all(|device| {
                let settled = lab.reported(device).is_some_and(|r| matches!(r.phase, Phase::Committed | Phase::Idle));
                settled && lab.serving(device) == version
            })
        })
    }

    /// The version that really answers on a device; empty if none does.
    pub(super) fn serving(&self, device: usize) -> String {
        let manifest = self.world.devices().nth(device).and_then(crate::device::Device::serving);
        let release = manifest.and_then(|manifest| self.world.press().by_manifest(&manifest));
        match (manifest, release) {
            (None, _) => String::new(),
            (Some(_), Some(release)) => release.named.version.to_string(),
            (Some(_), None) => UNKNOWN.to_owned(),
        }
    }

    /// On how many devices this version answers.
    pub(super) fn running(&self, version: &str) -> usize {
        (0..DEVICES).filter(|device| self.serving(*device) == version).count()
    }

    pub(super) fn version(&self, release: usize) -> String {
        self.world.press().releases().get(release).map(|r| r.named.version.to_string()).unwrap_or_default()
    }

    pub(super) fn reported(&self, device: usize) -> Option<&Reported> {
        self.world.watch().device(device)?.reported.as_ref()
    }

    pub(super) fn trusted(&self, device: usize) -> TrustedVersions {
        self.reported(device).map(|r| r.trusted).unwrap_or_default()
    }

    pub(super) fn generation(&self, device: usize) -> u64 {
        self.reported(device).map_or(0, |r| r.generation.0)
    }

    /// The word for why a device does not follow.
    pub(super) fn code(&self, device: usize) -> String {
        self.reported(device).and_then(|r| r.reason.as_ref()).map(|r| r.code.as_str().to_owned()).unwrap_or_default()
    }

    pub(super) fn device_id(&self, device: usize) -> Option<DeviceId> {
        self.world.devices().nth(device).map(|device| device.id().clone())
    }

    /// For how many devices it is so.
    pub(super) fn count(&self, so: impl Fn(usize) -> bool) -> usize {
        (0..DEVICES).filter(|device| so(*device)).count()
    }

    /// The people do something at the repository.
    pub(super) fn people(
        &mut self,
        work: impl FnOnce(&mut crate::press::Press, leeway_protocol::time::Timestamp) -> Result<(), PressError>,
    ) -> Result<(), DrillError> {
        Ok(self.world.at_the_press(work)?)
    }

    /// A last look: the fleet still lives, with a new release on every device.
    pub(super) fn goes_on(&mut self, row: &mut Row) -> Result<(), DrillError> {
        let release = self.release()?;
        self.assign(release)?;
        self.until_all_run(release)?;
        let version = self.version(release);
        row.expect(self.running(&version) == DEVICES, format!("afterwards not every device runs the new release {version}"));
        Ok(())
    }

    fn seen(&self) -> String {
        let about = |device: usize| {
            let (phase, code) = (self.reported(device).map(|r| r.phase), self.code(device));
            format!("device {device} runs {:?}, {phase:?} {code}, trusts {:?}", self.serving(device), self.trusted(device))
        };
        (0..DEVICES).map(about).collect::<Vec<_>>().join("; ")
    }
}
