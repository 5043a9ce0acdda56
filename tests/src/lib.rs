//! What the stories in `e2e/` and the simulation in `sim/` share: starting real programs and waiting for conditions.
pub mod harness;
