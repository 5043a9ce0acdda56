//! The outside world of the controller: sockets, disk, clock, child processes. Everything it decides is decided elsewhere.
pub mod artifacts;
pub mod broker;
pub mod clock;
pub mod preflight;
pub mod store;
pub mod trainer;
pub mod web;
