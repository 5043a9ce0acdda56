//! Rollouts: one version on its way through a fleet.
pub mod evidence;
