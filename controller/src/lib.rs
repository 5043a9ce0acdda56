//! The fleet: registry, cohorts, rollouts, drift, retraining, web.
pub mod access;
pub mod audit;
pub mod config;
pub mod drift;
pub mod fleet;
pub mod ingest;
pub mod io;
pub mod planner;
pub mod quality;
pub mod reference;
pub mod registry;
pub mod retraining;
pub mod rollout;
pub mod sequential;
pub mod snapshot;
pub mod supply;
pub mod trainer;
