//! Simulated devices that run the real agent: in seeded virtual time, or live over a real broker.
//!
//! Virtual ([`world`]): a pure world of one seed, one thread and one queue, in which devices live thousands of lives in seconds
//! while the power, the disk, the network and the clock fail, and a watch checks what must always hold. Live ([`io`]): the
//! same agents in real time with real models, for the demo and for load.
pub mod adversary;
pub mod authority;
pub mod device;
pub mod director;
pub mod disk;
pub mod drill;
pub mod fault;
pub mod io;
pub mod model;
pub mod network;
pub mod organ;
pub mod press;
pub mod rng;
pub mod runner;
pub mod scenario;
pub mod sensor;
pub mod trial;
pub mod uplink;
pub mod watch;
pub mod weather;
pub mod world;
