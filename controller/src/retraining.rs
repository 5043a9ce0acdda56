//! Retraining: when a better model is asked for, from what data, and when it wins.
pub mod job;
