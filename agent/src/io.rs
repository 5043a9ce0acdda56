//! All that touches the world: sockets, files, processes, the clock. Everything else in this crate is handed what is found here.
mod clock;
mod disk;
mod download;
mod enrol;
mod mqtt;
mod run;
#[cfg(feature = "runtime")]
pub mod runner;
mod status;
mod supervise;

pub use enrol::{Enrolment, enrol};
pub use run::run;
pub use status::status;
