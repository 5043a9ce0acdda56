//! Simulated devices that run the real agent: in seeded virtual time, or live over a real broker.
pub mod disk;
pub mod organ;
pub mod rng;
pub mod sensor;
pub mod weather;
