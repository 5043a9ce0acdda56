//! The seeded simulation: real agents, and in `rollouts` the real planner, while everything fails that can fail.
//!
//! One function per invariant, named as in the architecture. The stories are lived once for all of them: each seed is a fleet,
//! a schedule of releases and a schedule of faults, and every promise is checked at every moment of every story. A seed that
//! breaks one is made as short as possible and told.
//!
//! `LEEWAY_SEED` sets the first seed, `LEEWAY_SEEDS` their number; the same seed is the same story on every machine.
mod controller;
mod devices;
mod rollouts;
mod stories;
