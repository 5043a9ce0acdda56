//! What the stories in `e2e/` and the simulation in `sim/` share: starting real programs and waiting for conditions.
pub mod api;
pub mod application;
pub mod device;
pub mod harness;
pub mod hostile;
pub mod lesson;
pub mod mosquitto;
pub mod python;
pub mod release;
pub mod site;
pub mod small_disk;
pub mod stations;
