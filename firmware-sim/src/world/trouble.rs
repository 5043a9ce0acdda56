//! The faults of the story happen, and pass.
use super::*;

impl<A: Authority> World<A> {
    pub(super) fn fault(&mut self, number: usize) {
        let Some(trouble) = self.scenario.faults.get(number).map(|fault| fault.trouble.clone()) else { return };
        self.tell(trouble.device(), || format!("fault: {trouble:?}"));
        match trouble {
            Trouble::PowerCut(device) => self.cut_power(device),
            Trouble::PowerCutIn { device, actions } => self.with(device, |seat| seat.device.die_in(actions)),
            Trouble::Kill(device) => {
                self.with(device, |seat| seat.device.kill());
                self.gone(device);
            }
            Trouble::DiskFull { device, for_ms, room } => {
                self.with(device, |seat| {
                    let used = seat.device.disk.used();
                    seat.device.disk.limit(Some(used + room));
                });
                self.watch.filled(device);
                self.after(for_ms, Happening::Over(trouble));
            }
            Trouble::DiskFails { device, operations, only_sync } => {
                self.with(device, |seat| seat.device.disk.fail_in(operations, only_sync));
            }
            Trouble::BitFlip { device, place } => {
                let mut rng = Rng::new(self.scenario.seed).fork("bit-flip", number as u64);
                let hit = self.seats.get_mut(device).and_then(|seat| seat.device.disk.flip_bit(place, &mut rng));
                if let Some(path) = hit {
                    self.tell(Some(device), || format!("a bit of {path} flips"));
                    self.watch.rotted(device);
                }
            }
            Trouble::Unplugged { device, for_ms } => {
                self.with(device, |seat| seat.unplugged = true);
                self.hang_up(device, true);
                self.after(for_ms, Happening::Over(trouble));
            }
            Trouble::Outage { for_ms } => {
                self.outage = true;
                (0..self.seats.len()).for_each(|device| self.hang_up(device, true));
                self.after(for_ms, Happening::Over(trouble));
            }
            Trouble::Network(conditions) => self.network.conditions = conditions,
            Trouble::Clock { device, skew_ms } => self.with(device, |seat| seat.device.skew_ms = skew_ms),
            Trouble::Stranger(device) => self.show(device, false),
            Trouble::Stolen(device) if self.scenario.stolen_director => self.show(device, true),
            Trouble::Stolen(_) => {}
        }
    }

    pub(super) fn over(&mut self, trouble: &Trouble) {
        self.tell(trouble.device(), || format!("over: {trouble:?}"));
        match trouble {
            Trouble::DiskFull { device, .. } => self.with(*device, |seat| seat.device.disk.limit(None)),
            Trouble::Unplugged { device, .. } => self.with(*device, |seat| seat.unplugged = false),
            Trouble::Outage { .. } => self.outage = false,
            _ => {}
        }
    }

    /// Everything that can be made good is made good; what was lost stays lost.
    pub fn heal(&mut self) {
        self.tell(None, || "the storm is over".to_owned());
        self.network.conditions = Conditions::honest();
        self.outage = false;
        for seat in &mut self.seats {
            seat.unplugged = false;
            seat.device.skew_ms = 0;
            seat.device.disk.limit(None);
            seat.device.disk.fail_never();
            seat.device.die_never();
        }
    }

    /// Every cable is pulled, every power is cut and comes back: what runs now runs without anybody's help.
    pub fn leave_alone(&mut self) {
        self.tell(None, || "every cable is pulled and every power cut".to_owned());
        for device in 0..self.seats.len() {
            self.with(device, |seat| seat.unplugged = true);
            self.hang_up(device, true);
            self.cut_power(device);
        }
    }

    fn cut_power(&mut self, device: usize) {
        let on = self.seats.get(device).is_some_and(|seat| seat.device.is_on());
        if on {
            self.with(device, |seat| seat.device.cut_power());
            self.gone(device);
        }
    }

    fn show(&mut self, device: usize, stolen: bool) {
        let (now, press) = (self.now, &self.press);
        let Some(seat) = self.seats.get(device) else { return };
        let generation = self.watch.device(device).and_then(|w| w.reported.as_ref()).map_or(0, |reported| reported.generation.0);
        let forged = self.adversary.forge(seat.device.id(), generation, stolen, press, now);
        if let Some(bytes) = forged {
            self.after(1, Happening::Downlink { device, channel: Channel::Desired, bytes: bytes.into() });
        }
    }

    fn with(&mut self, device: usize, change: impl FnOnce(&mut Seat)) {
        if let Some(seat) = self.seats.get_mut(device) {
            change(seat);
        }
    }
}
