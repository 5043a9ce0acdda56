//! Real faults under real programs: `leeway-agent` and `leeway-runner` as they are released, a controller on loopback, the kernel's own
//! errors and ends.
//!
//! `cargo test` tries a slice in half a minute; `LEEWAY_FAULTS=all` tries every call of an install, one by one. What a device must
//! keep through each case is one function per promise, in `judge`. Where strace is not installed or may not trace, a sweep says so and
//! does nothing.
mod bench;
mod clocks;
mod controller_rot;
mod device_rot;
mod judge;
mod notified;
mod small_disk;
mod strace;
mod swept;

/// Whether everything is to be tried, and not a slice.
fn all() -> bool {
    std::env::var("LEEWAY_FAULTS").is_ok_and(|what| what == "all")
}
