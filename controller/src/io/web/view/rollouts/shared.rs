//! What failing devices share, and which part of the fleet a rollout has left out: from the devices' own records, so that it can be
//! read long after the rollout is over, as long as no later one has taken the devices in.
use super::Look;
use crate::fleet::{Device, Part};
use crate::registry::Slice;
use crate::rollout::gate::blames_model;
use crate::rollout::shared::{Trait, shared, slices_of};

impl Look<'_> {
    /// Labels of the devices that the model failed on, against those on which it proved to run.
    pub(super) fn shared(&self) -> Vec<Trait> {
        let named = |device: &Device| -> Vec<Slice> {
            let cohort = self.facts.snapshot.cohort_of(device).map(|c| c.name.as_str());
            slices_of(device, cohort).collect()
        };
        let failed = |part: &Part| part.failure.as_ref().is_some_and(|reason| blames_model(&reason.code));
        let failing: Vec<_> = self.members.iter().filter(|(_, part)| failed(part)).map(|(device, _)| named(device)).collect();
        if failing.is_empty() {
            return Vec::new();
        }
        let sound = |part: &Part| part.proven_at.is_some() && part.failure.is_none() && !part.recalled;
        shared(failing, self.members.iter().filter(|(_, part)| sound(part)).map(|(device, _)| named(device)))
    }

    /// One sentence for each part of the fleet that this rollout's version failed on.
    pub(super) fn left_out(&self) -> Vec<String> {
        let spec = &self.rollout.spec;
        let Some(version) = self.facts.snapshot.version(&spec.line, &spec.version) else { return Vec::new() };
        let told = |poisoned: &crate::registry::Poisoned| {
            let back = self.members.iter().filter(|(_, part)| part.recalled).count();
            format!(
                "Devices with {} are left out and stay with what they had before ({} called back): {}",
                poisoned.slice,
                crate::planner::draft::devices(back),
                poisoned.reason
            )
        };
        version.poisoned_for.iter().filter(|p| p.rollout == self.rollout.id).map(told).collect()
    }
}
