//! A disk that runs full while a release comes: whatever room is left, the factory's model goes on answering, the device says that its
//! disk is full, and the release arrives when there is room again.
use std::process::Command;

use leeway_tests::device::Device;
use leeway_tests::small_disk::{on_a_small_disk, problem, seen_by};

use crate::bench::{Bench, state};
use crate::judge;

/// The disk, in kilobytes: what a device keeps with one release, and a megabyte.
const DISK_KB: u64 = 2048;
/// What is left of it for the install, in steps of a page, up to what it needs.
const STEP_KB: u64 = 4;
const MOST_KB: u64 = 160;
/// Steps at once in a run that is not told to try everything.
const STRIDE: u64 = 13;

#[test]
fn a_disk_that_runs_full_at_any_page_of_an_install_costs_nothing_but_time() {
    if let Some(problem) = problem() {
        return println!("not filled: {problem}");
    }
    let bench = Bench::new();
    let stride = if crate::all() { 1 } else { STRIDE };
    let (mut cases, mut full, mut failures) = (0, 0, Vec::new());
    for left in (0..=MOST_KB / STEP_KB).step_by(stride as usize).map(|n| n * STEP_KB) {
        cases += 1;
        let mut device = bench.device();
        match try_one(&bench, &mut device, left) {
            Ok(was_full) => full += usize::from(was_full),
            Err(why) => failures.push(format!("with {left} KB left, {}: {why}", device.id)),
        }
    }
    println!("{cases} disks of {DISK_KB} KB with 0 to {MOST_KB} KB left; {full} ran full");
    assert!(full > 0, "no disk ran full");
    assert!(failures.is_empty(), "{} of {cases} failed:\n{}", failures.len(), failures.join("\n\n"));
}

/// An install on a disk with so much left; whether it ran full.
fn try_one(bench: &Bench, device: &mut Device, left: u64) -> Result<bool, String> {
    let (data, enrolled) = (device.data.clone(), device.data.with_extension("enrolled"));
    std::fs::rename(&data, &enrolled).map_err(|e| e.to_string())?;
    // The disk is empty when it is mounted: what enrolment wrote is copied onto it, then all but `left` is taken.
    let script = format!(
        "cp -a {from}/. {to} && head -c {DISK_KB}K /dev/zero > {to}/filler 2>/dev/null; truncate -s -{left}K {to}/filler; exec \"$@\"",
        from = enrolled.display(),
        to = data.display()
    );
    let id = device.start_as(|run| {
        let mut filled = Command::new("sh");
        filled.args(["-c", &script, "sh"]).arg(run.get_program()).args(run.get_args());
        on_a_small_disk(&filled, &format!("{DISK_KB}k"), &data)
    });
    // From here on its disk is looked at from outside.
    device.data = seen_by(id, &data);
    judge::a_good_model_answers_after_one_restart(bench, device)?;
    let was_full = bench.watch(device, "the disk is full or big enough", |device, answered| {
        if answered.is_empty() {
            return Err("nothing answers".to_owned());
        }
        match judge::has_converged(device, answered) {
            Ok(()) => Ok(false),
            Err(_) if is_told(&device.log()) => Ok(true),
            Err(seen) => Err(seen),
        }
    })?;
    let answered = bench.ask(device);
    if answered.is_empty() {
        return Err(format!("nothing answers on the full disk:\n{}", judge::tail(&device.log())));
    }
    std::fs::remove_file(device.data.join("filler")).map_err(|e| e.to_string())?;
    judge::it_converges(bench, device)?;
    judge::no_litter(bench, &device.data)?;
    judge::calm(device, true)?;
    let given_up = state(&device.data)["dropped"].as_u64().unwrap_or_default();
    device.kill_agent();
    if was_full || given_up == 0 { Ok(was_full) } else { Err(format!("{given_up} messages were given up for nothing")) }
}

fn is_told(log: &str) -> bool {
    log.contains("free some space") || log.contains("disk is full") || log.contains("os error 28")
}
