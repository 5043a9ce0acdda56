//! The planner against a small fake fleet: stories with snapshots of plan and report, and a seeded storm with invariants.
mod circle;
mod filling;
mod slices;
mod stories;
mod storm;
pub(crate) mod world;
