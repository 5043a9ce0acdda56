//! All that touches the world: sockets, files, processes, the clock. Everything else in this crate is handed what is found here.
mod certificates;
mod clock;
mod disk;
mod download;
mod enrol;
mod mqtt;
mod renew;
mod run;
#[cfg(feature = "runtime")]
pub mod runner;
mod status;
mod supervise;
mod tls;

pub use enrol::{Enrolment, Outcome, enrol};
pub use run::run;
pub use status::status;
