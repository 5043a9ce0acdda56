//! The outside world of the controller: sockets, disk, clock, child processes. Everything it decides is decided elsewhere.
pub mod broker;
