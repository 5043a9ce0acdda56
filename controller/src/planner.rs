//! Decisions as a value: one snapshot in, a plan and a report out, and nothing else is looked at.
pub mod plan;
pub mod report;

pub use plan::{Plan, Policy, Step};
pub use report::{CohortReport, Condition, LineReport, PlanReport, RolloutReport};
