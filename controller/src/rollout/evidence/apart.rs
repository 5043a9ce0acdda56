//! Evidence of one part of the fleet, and of the rest without it.
//!
//! Sums over devices are taken apart by subtraction: a device has one value of a label, so what `hw=rev-b` showed can be taken from
//! what all showed, exactly. A device is in slices of several labels, though, and taken out twice it would hide what others showed;
//! so slices of one label are taken out, and slices of every other label are not judged any more, because they hold devices that
//! are gone. What stays true: nothing is taken out that is not known to belong to the slice, so that with doubt the rest looks worse.
use super::*;
use crate::registry::Slice;

/// What the devices of one slice showed beside their arms.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Apart {
    /// As in [`Evidence::settled`].
    pub settled: BTreeMap<Metric, Settled>,
    /// As in [`Evidence::latency`].
    pub latency: Paces,
}

impl Arm {
    /// The same without some of its devices.
    pub fn without(&self, some: &Self) -> Self {
        let less = |all: f64, some: f64| (all - some).max(0.0);
        Self {
            devices: self.devices.saturating_sub(some.devices),
            n: less(self.n, some.n),
            x: less(self.x, some.x),
            n2: less(self.n2, some.n2),
            x2: less(self.x2, some.x2),
            nx: less(self.nx, some.nx),
        }
    }
}

/// Tests that a guardrail's error must last for, where so many slices are known: the k-th to appear is tested at one k-th at most,
/// and the sum of all of these up to [`MAX_SLICES`] is what is divided by.
pub fn tests(slices: usize) -> f64 {
    let harmonic: f64 = (1..=MAX_SLICES).map(|k| 1.0 / k as f64).sum();
    slices.max(1) as f64 * harmonic
}

impl Evidence {
    /// The same as if the devices of these slices were not there, as far as slices of one label: of the first with canaries.
    pub fn without(&self, slices: &[&Slice]) -> Self {
        // One that an earlier rollout left out has no canaries in this one.
        let heard = |name: &String| self.slices.get(name).is_some_and(|all| all.values().any(|arms| arms.canary.devices > 0));
        let slices: Vec<(&str, String)> =
            slices.iter().map(|slice| (slice.key(), slice.to_string())).filter(|(_, name)| heard(name)).collect();
        let Some(key) = slices.first().map(|slice| slice.0) else { return self.clone() };
        let mut names: Vec<String> = slices.iter().filter(|slice| slice.0 == key).map(|slice| slice.1.clone()).collect();
        names.sort_unstable();
        names.dedup();
        let mut rest = self.clone();
        for name in &names {
            rest.take_out(name);
        }
        // They stay known, for what each test may use of the error does not grow again.
        let judged = |name: &str| !names.iter().any(|gone| gone == name) && name.split_once('=').is_some_and(|(label, _)| label == key);
        rest.slices.iter_mut().filter(|(name, _)| !judged(name)).for_each(|(_, arms)| arms.clear());
        rest.apart.retain(|name, _| judged(name));
        rest
    }

    fn take_out(&mut self, name: &str) {
        for (metric, some) in self.slices.get(name).into_iter().flatten() {
            let Some(arms) = self.arms.get_mut(metric) else { continue };
            *arms = Arms { canary: arms.canary.without(&some.canary), control: arms.control.without(&some.control) };
            if *metric == Metric::ErrorRatio {
                let (errors, all) = (some.canary.x.max(0.0), some.canary.n.max(0.0));
                self.errors = self.errors.saturating_sub(errors.round() as u64);
                self.inferences = self.inferences.saturating_sub((all - errors).max(0.0).round() as u64);
            }
        }
        let Some(apart) = self.apart.get(name) else { return };
        for (metric, some) in &apart.settled {
            if let Some(settled) = self.settled.get_mut(metric) {
                *settled = Settled { canary: settled.canary.without(&some.canary), control: settled.control.without(&some.control) };
            }
        }
        self.latency = self.latency.without(&apart.latency);
    }
}
