//! The devices of a rollout, one by one: where each stands, and what ending the rollout would mean for it.
use std::sync::Arc;

use leeway_protocol::ids::{DeviceId, RolloutId};

use super::Facts;
use crate::fleet::{Device, Part};
use crate::io::web::resource::Page;
use crate::io::web::resource::rollout::RolloutDevice;
use crate::rollout::standing;

impl Facts<'_> {
    /// The devices of a rollout after `after`, in order of their names.
    pub(in crate::io::web) fn rollout_devices(
        &self,
        id: &RolloutId,
        after: Option<&DeviceId>,
        limit: usize,
    ) -> Option<Page<RolloutDevice>> {
        let rollout = self.snapshot.rollouts.get(id)?;
        let manifest = self.snapshot.version(&rollout.spec.line, &rollout.spec.version)?.manifest.digest;
        let parts = self.snapshot.fleet.iter().filter_map(|d| d.part_in(id).cloned().map(|part| (d, part)));
        let mut found: Vec<(Arc<Device>, Part)> = parts.filter(|(d, _)| after.is_none_or(|a| d.id > *a)).collect();
        found.sort_by(|a, b| a.0.id.cmp(&b.0.id));
        let more = found.len() > limit;
        found.truncate(limit);
        let next_cursor = found.last().filter(|_| more).map(|(d, _)| d.id.to_string());
        let row = |(device, part): (Arc<Device>, Part)| {
            let place = standing(&device, rollout, manifest, self.now);
            RolloutDevice {
                device: device.id.to_string(),
                standing: serde_json::to_value(place).ok().and_then(|v| v.as_str().map(str::to_owned)).unwrap_or_default(),
                sentence: format!("{} {}.", device.id, place.sentence()),
                if_aborted: rollout.state.is_judged().then(|| format!("{} {}.", device.id, place.if_aborted())),
                attempts: part.attempts,
                at: part.at,
            }
        };
        Some(Page { items: found.into_iter().map(row).collect(), next_cursor })
    }
}
