//! The words both ends of Leeway share: wire types, topics, signing, exact-bin profiles.
//!
//! Everything here is a value or a pure function: no I/O, no clock, no chance, no runtime. A timestamp, a boot id or a key
//! is handed in, so that the agent, the controller and the simulator mean the same thing by the same bytes.
pub mod assignment;
pub mod capture;
pub mod digest;
pub mod enrolment;
pub mod ids;
pub mod manifest;
pub mod profile;
pub mod reason;
pub mod report;
pub mod reported;
pub mod statistic;
pub mod tensor;
pub mod time;
pub mod topic;
pub mod trust;
