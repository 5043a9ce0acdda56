//! Retraining: when a better model is asked for, from what data, and when it wins.
pub mod dataset;
pub mod gate;
pub mod job;
pub mod trigger;
