//! Bytes of a model in; refused, or a runnable plan that has proved on this device that it computes what its publisher signed.
//!
//! The only place that knows the engine (tract). Nothing here reads a file, a clock or the network; [`host`] drives it all by
//! the supervisor's commands, in the runner process or inside the program of a firm that links this library. The runner confines
//! itself first; a program that links the library runs its models with all its own rights, and chooses that.
pub mod allow;
pub mod golden;
pub mod host;
pub mod onnx;
mod opinion;
pub mod ops;
pub mod plan;
pub mod prescan;
pub mod recipe;
pub mod release;
pub mod tensors;
pub mod warm;

pub use host::Host;
pub use plan::{InferError, Plan, Session};
pub use prescan::{Limits, PrescanError, Scanned, prescan};
pub use recipe::LoadError;
pub use release::{Organs, Release};

#[cfg(test)]
mod plan_tests;
#[cfg(test)]
pub(crate) mod samples;
