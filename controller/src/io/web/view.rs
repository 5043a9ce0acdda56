//! From the controller's state to the API's resources: pure functions over one snapshot.
//!
//! The only place where domain types become resources, so a page, the command line and the API cannot tell different stories.
//! What stays true: nothing is stored here and nothing is decided; a sentence that the planner has made is passed on as it is.
use std::sync::Arc;

use leeway_protocol::ids::DeviceId;
use leeway_protocol::time::Timestamp;

use crate::fleet::Device;
use crate::planner::PlanReport;
use crate::snapshot::Snapshot;

pub(super) mod devices;
pub(super) mod drift;
pub(super) mod episodes;
pub(super) mod events;
pub(super) mod fleet;
pub(super) mod models;
pub(super) mod names;
mod parts;
pub(super) mod quality;
pub(super) mod rollouts;
pub(super) mod training;

/// What views look at.
#[derive(Debug, Clone, Copy)]
pub(super) struct Facts<'a> {
    /// The controller's clock.
    pub now: Timestamp,
    /// The state.
    pub snapshot: &'a Snapshot,
    /// Why nothing else happened.
    pub report: &'a PlanReport,
}

impl Facts<'_> {
    /// A device.
    fn device(&self, id: &DeviceId) -> Option<Arc<Device>> {
        self.snapshot.fleet.device(id)
    }

    /// The name of a device's cohort; a dash for one that no cohort takes.
    fn cohort_name(&self, device: &Device) -> String {
        self.snapshot.cohort_of(device).map_or_else(|| super::words::UNKNOWN.to_owned(), |c| c.name.to_string())
    }
}
