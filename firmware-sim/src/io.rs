//! The live half: the same stations in real time, over a real broker, with real models. Everything here may wait and fail.
mod backoff;
pub mod enrol;
pub mod fleet;
mod link;
mod mirror;
mod pace;
mod runner;
mod station;
pub mod view;
