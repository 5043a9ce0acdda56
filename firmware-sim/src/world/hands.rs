//! What hands do to a world that is not in its story: people with keys, thieves with keys, somebody with a screwdriver.
use super::build::{delivered, factory_model};
use super::*;
use crate::disk::Disk;

impl<A: Authority> World<A> {
    /// The moment.
    pub fn now(&self) -> Timestamp {
        self.now
    }

    /// Somebody is at the repository, with whatever keys.
    pub fn at_the_press<T>(&mut self, work: impl FnOnce(&mut Press, Timestamp) -> T) -> T {
        work(&mut self.press, self.now)
    }

    /// The repository and its director are another one from now on: thieves', or a new one.
    pub fn replace_press(&mut self, press: Press) -> Press {
        std::mem::replace(&mut self.press, press)
    }

    /// Somebody is at the controller.
    pub fn at_the_authority<T>(&mut self, work: impl FnOnce(&mut A, Timestamp, &Press) -> T) -> T {
        work(&mut self.authority, self.now, &self.press)
    }

    /// The story goes on with this, now.
    pub fn do_now(&mut self, act: Act) -> Result<(), PressError> {
        self.act(act)
    }

    /// Whoever has the network serves these files in place of both repositories, or lets the real ones through again.
    pub fn serve_instead(&mut self, files: Option<BTreeMap<String, Vec<u8>>>) {
        self.tell(None, || format!("a mirror of thieves is {}", if files.is_some() { "up" } else { "gone" }));
        self.mirror = files;
    }

    /// A document reaches a device on the topic of its assignments.
    pub fn show_document(&mut self, device: usize, bytes: Vec<u8>) {
        self.after(1, Happening::Downlink { device, channel: Channel::Desired, bytes: bytes.into() });
    }

    /// Pull a device's cable, or put it back.
    pub fn plug(&mut self, device: usize, plugged: bool) {
        if let Some(seat) = self.seats.get_mut(device) {
            seat.unplugged = !plugged;
        }
        if !plugged {
            self.hang_up(device, true);
        }
    }

    /// Somebody goes to the device and sets it up as it once left the factory, with the roots of the present repository.
    pub fn set_up_again(&mut self, device: usize) -> Result<(), BuildError> {
        let factory = factory_model(self.press.line())?;
        let files = delivered(&self.press, self.scenario.factory.then_some(&factory));
        let Some(seat) = self.seats.get_mut(device) else { return Ok(()) };
        seat.device.kill();
        seat.device.disk = Disk::with_files(files);
        seat.retained = None;
        self.gone(device);
        self.watch.forget(device);
        Ok(())
    }

    /// The key a device signs its reports with: what is stolen with the device.
    pub fn device_key(&self, device: usize) -> Option<&leeway_protocol::trust::keyring::SigningKey> {
        self.seats.get(device).map(|seat| &seat.device.settings().key)
    }
}
