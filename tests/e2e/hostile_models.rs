//! Models that go bad only once they answer for real: one floods the application with answers that are no numbers, one stops
//! answering. Real agent, real runner, real signatures: the agent lives on, the child pays, and repeated it costs the model its slot.
//!
//! Crashes and memory bombs are in `agent/tests/confined`; files that a scan refuses are in `agent/src/runtime/prescan`.
use leeway_tests::application::Application;
use leeway_tests::device::Device;
use leeway_tests::harness::wait_for;
use leeway_tests::hostile::flood;
use leeway_tests::lesson::teach;
use leeway_tests::site::{Site, quick_policy};
use serde_json::json;

/// A site, a device on a good first version, and an application that asks it all the time.
fn served(timing: &str) -> (Site, Device, Application) {
    let site = Site::started("rain");
    site.configure();
    site.publish(&teach("rain", "1.0.0", 0..1_500, "the first model"));
    let mut device = Device::enrolled(&site, "porch", &site.enrolment_token(1));
    device.sections.insert("timing", timing.to_owned());
    device.start();
    let application = Application::start(device.tcp(), "rain", 7, 2_000);
    let first = site.roll_out("1.0.0");
    assert_eq!(site.until_over(&first), "completed");
    (site, device, application)
}

fn until_answered_by(application: &Application, version: &str) {
    let before = application.answers(version);
    wait_for(&format!("the application is answered by {version}"), || {
        let now = application.answers(version);
        if now > before + 5 { Ok(()) } else { Err(format!("{:?}", application.seen())) }
    });
}

#[test]
fn a_flood_of_answers_that_are_no_numbers_costs_the_model_its_slot_and_nobody_else_anything() {
    let (site, mut device, application) = served("");
    let agent = device.agent_id();
    site.publish(&flood(&teach("rain", "2.0.0", 0..1_500, "looks good where it was tried")));
    // Straight to the trial: what the shadow run would have seen is not what is tried here.
    let mut policy = quick_policy();
    policy["settings"]["shadow"]["min_inferences"] = 0.into();
    let body = json!({ "line": "rain", "version": "2.0.0", "id": "flood", "policy": policy, "reason": "a story of the tests" });
    let _ = site.api().post("/api/v1/rollouts", &body).and_then(leeway_tests::api::Answer::ok).expect("a rollout");
    assert_eq!(site.until_over("flood"), "rolled_back");

    let seen = site.until_runs("porch", "1.0.0");
    let why = site.leeway(&["events", "--subject", "rollouts/flood", "--json"]).ok().out;
    assert!(device.log().contains("outputs that are not numbers"), "{}\n{seen}\n{why}", device.log());
    until_answered_by(&application, "1.0.0");
    assert_eq!(application.answers("2.0.0"), 0, "not one such answer reached the application as a good one");
    assert!(device.is_running() && device.agent_id() == agent, "the agent never ended:\n{}", device.log());
    drop(application);
    site.assert_calm();
}

#[test]
fn a_model_that_hangs_costs_one_restart_and_repeated_its_slot() {
    let (site, mut device, application) = served("hang_ms = 3000\ncrash_limit = 2\n");
    site.publish(&teach("rain", "2.0.0", 1_000..2_500, "the second model"));
    let second = site.roll_out("2.0.0");
    site.until_runs("porch", "2.0.0");
    // One device has nobody to be compared with, so a person decides.
    for _ in 0..2 {
        let _ = site.leeway(&["rollout", "promote", &second, "--reason", "it is the only device"]).ok();
    }
    assert_eq!(site.until_over(&second), "completed");
    until_answered_by(&application, "2.0.0");
    let agent = device.agent_id();

    assert_eq!(device.stop_runners_in_their_tracks(), 1);
    wait_for("the hang is noticed", || match device.log() {
        log if log.contains("no sign of life") && log.contains("it is started again") => Ok(()),
        log => Err(log),
    });
    until_answered_by(&application, "2.0.0");

    assert_eq!(device.stop_runners_in_their_tracks(), 1);
    device.until_serves("1.0.0");
    until_answered_by(&application, "1.0.0");
    assert!(device.log().contains("the active release failed: The model stopped answering"), "{}", device.log());
    assert!(device.is_running() && device.agent_id() == agent, "the agent never ended:\n{}", device.log());
    drop(application);
}
