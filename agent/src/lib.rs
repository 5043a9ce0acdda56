//! One edge device: a small supervisor that holds the keys and never parses ONNX, a runner that holds the model and no key.
//!
//! Everything outside `io` is pure: time, identity and bytes are handed in, so production, simulation and tests run the same
//! code. The feature `runtime` adds the model runtime (tract) and the inference server; the supervisor is built without it.
pub mod action;
pub mod agent;
pub mod at_rest;
pub mod certificate;
pub mod config;
pub mod confinement;
pub mod control;
pub mod deployment;
pub mod event;
pub mod identity;
pub mod io;
pub mod outbox;
pub mod probation;
pub mod recorder;
#[cfg(feature = "runtime")]
pub mod runtime;
pub mod slot;
