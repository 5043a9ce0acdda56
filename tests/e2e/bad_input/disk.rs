//! Disks that are full: what was promised stays, what comes meanwhile is refused or kept back by name, and afterwards all of it
//! arrives.
//!
//! Each program gets a small disk of its own, a tmpfs in a mount namespace, which the test fills and empties from outside.
use std::path::Path;
use std::process::Command;

use leeway_tests::api::Answer;
use leeway_tests::application::Application;
use leeway_tests::device::Device;
use leeway_tests::harness::wait_for;
use leeway_tests::lesson::teach;
use leeway_tests::site::Site;
use leeway_tests::small_disk::{fill, on_a_small_disk, seen_by};
use serde_json::{Value, json};

#[test]
fn a_full_disk_under_the_controller_loses_nothing() {
    let mut site = Site::new("rain");
    let data = site.path("controller");
    let id = site.start_as(|serve| on_a_small_disk(&serve, "24m", &data));
    let folder = seen_by(id, &data);
    site.use_token(&std::fs::read_to_string(folder.join("admin.token")).expect("the token"));
    site.configure();
    site.publish(&teach("rain", "1.0.0", 0..600, "the first model"));
    let mut device = Device::enrolled(&site, "porch", &site.enrolment_token(1));
    device.start();
    let rollout = site.roll_out("1.0.0");
    device.until_serves("1.0.0");
    let application = Application::start(device.tcp(), "rain", 5, 2_000);
    assert_eq!(site.until_over(&rollout), "completed");

    let filler = fill(&folder);
    let said = use_up_the_store(&site);
    assert!(said.contains("full") || said.contains("no room") || said.contains("space"), "{said}");
    wait_for("reports wait on the device", || {
        let waiting = waiting(&device.data);
        if waiting >= 5 { Ok(()) } else { Err(format!("{waiting} messages")) }
    });
    std::fs::remove_file(filler).expect("room again");
    drop(application);
    wait_for("every report has arrived", || {
        let waiting = waiting(&device.data);
        let seen: Value = site.device("porch")?;
        assert_eq!(seen["dropped"], 0, "{seen}");
        if waiting == 0 { Ok(()) } else { Err(format!("{waiting} messages; {}", site.api().get("/readyz")?.text())) }
    });
    site.publish(&teach("rain", "2.0.0", 100..700, "after the full disk"));
    assert_eq!(site.api().get("/readyz").and_then(Answer::ok).expect("ready").status, 200);
    site.assert_chain();
    site.assert_calm();
}

#[test]
fn a_full_disk_under_a_device_keeps_it_answering() {
    let site = Site::started("rain");
    site.configure();
    site.publish(&teach("rain", "1.0.0", 0..600, "the first model"));
    let mut device = Device::new(&site, "porch");
    let (data, enrolled) = (device.data.clone(), site.path("enrolled"));
    device.data.clone_from(&enrolled);
    let _ = device.enrol(&site, &site.enrolment_token(1)).ok();
    device.data = data.clone();
    // The disk is empty when it is mounted: what enrolment wrote is copied onto it before the agent starts.
    let copy = format!("cp -a {}/. {} && exec \"$@\"", enrolled.display(), data.display());
    let id = device.start_as(|run| {
        let mut copied = Command::new("sh");
        copied.args(["-c", &copy, "sh"]).arg(run.get_program()).args(run.get_args());
        on_a_small_disk(&copied, "2m", &data)
    });
    let rollout = site.roll_out("1.0.0");
    device.until_serves("1.0.0");
    let application = Application::start(device.tcp(), "rain", 5, 2_000);
    assert_eq!(site.until_over(&rollout), "completed");
    site.until_runs("porch", "1.0.0");

    let filler = fill(&seen_by(id, &data));
    site.publish(&teach("rain", "2.0.0", 500..1_100, "a release that does not fit"));
    let second = site.roll_out("2.0.0");
    wait_for("the device says that its disk is full", || {
        let log = device.log();
        if log.contains("free some space") || log.contains("disk is full") { Ok(()) } else { Err(log) }
    });
    let before = application.answers("1.0.0");
    wait_for("it goes on answering", || {
        let seen = application.seen();
        if application.answers("1.0.0") > before + 50 { Ok(()) } else { Err(format!("{seen:?}")) }
    });
    std::fs::remove_file(filler).expect("room again");
    wait_for("the release arrives after all", || {
        let rollout = site.rollout(&second)?;
        if rollout.allowed_actions.iter().any(|a| a == "retry") {
            let _ = site.leeway(&["rollout", "retry", &second, "--reason", "there is room again"]);
        }
        let seen = application.answers("2.0.0");
        if seen > 0 { Ok(()) } else { Err(format!("{}: {} {}", rollout.summary.phase, rollout.summary.sentence, rollout.next)) }
    });
    assert!(device.is_running(), "{}", device.log());
    drop(application);
    site.assert_calm();
}

/// The store has room inside its file: take that too, down to the last page. What it says then.
fn use_up_the_store(site: &Site) -> String {
    let mut said = String::new();
    for size in [20_000, 2_000, 100] {
        said = wait_for("the controller says that its disk is full", || {
            let answer = site.api().put("/api/v1/models/rain", &json!({ "task": "x".repeat(size) }))?;
            if answer.status == 503 { Ok(answer.text()) } else { Err(format!("{}: {}", answer.status, answer.text())) }
        });
    }
    said
}

/// Messages in a device's outbox.
fn waiting(data: &Path) -> usize {
    std::fs::read_dir(data.join("outbox")).map_or(0, |files| files.flatten().count())
}
