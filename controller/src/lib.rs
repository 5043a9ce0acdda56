//! The fleet: registry, cohorts, rollouts, drift, retraining, web.
pub mod io;
pub mod rollout;
