//! The outside world of the controller: sockets, disk, clock, child processes. Everything it decides is decided elsewhere.
pub mod artifacts;
pub mod broker;
pub mod clock;
pub mod control;
pub mod counters;
pub mod mqtt;
pub mod offline;
pub mod preflight;
pub mod repository;
pub mod serve;
pub mod sketches;
pub mod store;
pub mod tls;
pub mod trainer;
pub mod training;
pub mod web;
pub mod webhooks;

mod budget;
mod checkpoint;
mod dataset;
mod execute;
mod guests;
mod health;
mod intake;
mod reconcile;
mod watchdog;
