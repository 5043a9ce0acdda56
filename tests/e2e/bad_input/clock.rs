//! Clocks in 1970, as on every board without a battery: the device works all the same, the controller refuses to sign.
use std::path::{Path, PathBuf};
use std::process::Command;

use leeway_tests::application::Application;
use leeway_tests::device::Device;
use leeway_tests::lesson::teach;
use leeway_tests::site::{Site, Told};

use super::expect;

/// Loaded in front of the C library: the wall clock runs, but from 1970-01-01T00:00:10Z on.
const SHIM: &str = r"
#define _GNU_SOURCE
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>
static struct timespec began;
__attribute__((constructor)) static void begin(void) { syscall(SYS_clock_gettime, CLOCK_REALTIME, &began); }
int clock_gettime(clockid_t id, struct timespec *at) {
    int status = (int)syscall(SYS_clock_gettime, id, at);
    if (status == 0 && id == CLOCK_REALTIME) at->tv_sec -= began.tv_sec - 10;
    return status;
}
";

fn clock_in_1970(folder: &Path) -> PathBuf {
    let (source, shim) = (folder.join("clock.c"), folder.join("clock.so"));
    std::fs::write(&source, SHIM).expect("the source");
    let told = Told::by(Command::new("cc").args(["-shared", "-fPIC", "-O1", "-o"]).arg(&shim).arg(&source));
    assert_eq!(told.code, 0, "a C compiler is needed: {told:?}");
    shim
}

#[test]
fn a_device_in_1970_works_and_a_controller_in_1970_does_not_sign() {
    let mut site = Site::started("rain");
    site.configure();
    site.publish(&teach("rain", "1.0.0", 0..600, "the first model"));
    let shim = clock_in_1970(&site.path("."));
    let mut device = Device::enrolled(&site, "porch", &site.enrolment_token(1));
    device.start_as(|mut run| {
        run.env("LD_PRELOAD", &shim);
        run
    });
    let rollout = site.roll_out("1.0.0");
    device.until_serves("1.0.0");
    let application = Application::start(device.tcp(), "rain", 5, 2_000);
    assert_eq!(site.until_over(&rollout), "completed");
    let seen = site.until_runs("porch", "1.0.0");
    let conditions = seen["conditions"].to_string();
    assert!(conditions.contains("ClockSane") && conditions.contains("clock is behind"), "{conditions}");
    drop(application);

    site.stop();
    let mut early = site.serve();
    expect("a controller in 1970", &Told::by(early.env("LD_PRELOAD", &shim)), 1, &["the clock says 1970", "set it"]);
    site.start();
    site.assert_chain();
    site.assert_calm();
}
