//! Simulated devices that run the real agent: in seeded virtual time, or live over a real broker.
pub mod disk;
pub mod model;
pub mod network;
pub mod organ;
pub mod press;
pub mod rng;
pub mod runner;
pub mod sensor;
pub mod weather;
