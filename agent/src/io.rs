//! All that touches the world: sockets, files, processes, the clock. Everything else in this crate is handed what is found here.
#[cfg(feature = "runtime")]
pub mod runner;
