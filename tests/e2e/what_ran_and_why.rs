//! What ran on each device and why, asked of a controller that was killed in the middle of it; and everything that it decided, decided
//! again from its directory with the same bits.
//!
//! Two versions reach simulated stations, the controller is killed during the second rollout and again at the end, and then: the
//! history answers for before, between and after; the chain verifies online, from the directory and from an export, and a changed
//! export does not; a live directory is refused; the replay is equal.
use leeway_controller::io::web::resource::history::History;
use leeway_tests::harness::wait_for;
use leeway_tests::lesson::teach;
use leeway_tests::site::Site;
use leeway_tests::stations::stations;
use serde_json::Value;

const DEVICES: u32 = 6;

fn until_all_run(site: &Site, version: &str) {
    wait_for(&format!("everyone runs {version}"), || {
        let list = site.api().get("/api/v1/devices?limit=100")?.ok()?.json();
        let running = list["items"].as_array().into_iter().flatten().filter(|d| d["version"] == version).count();
        if running == DEVICES as usize { Ok(()) } else { Err(format!("{running} do")) }
    });
}

fn history(site: &Site, device: &str, at: Option<&str>) -> History {
    let mut args = vec!["device", "history", device, "--json"];
    args.extend(at.into_iter().flat_map(|at| ["--at", at]));
    serde_json::from_value(site.leeway(&args).ok().json()).expect("a history")
}

#[test]
fn what_ran_is_answered_for_and_what_was_decided_comes_out_again() {
    let mut site = Site::started("rain");
    site.configure();
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let fleet = runtime.block_on(stations(&site, DEVICES, 2_000));
    fleet.aim_for(usize::MAX);
    site.publish(&teach("rain", "1.0.0", 0..600, "the first years"));
    let first = site.roll_out("1.0.0");
    assert_eq!(site.until_over(&first), "completed");
    until_all_run(&site, "1.0.0");
    let between = leeway_tests::site::now();
    site.publish(&teach("rain", "2.0.0", 150..750, "a few years more"));
    let second = site.roll_out("2.0.0");
    wait_for("the second is under way", || {
        let seen = site.rollout(&second)?;
        if seen.summary.exposed > 0 { Ok(()) } else { Err(seen.summary.sentence) }
    });
    site.kill();
    site.start();
    let end = site.until_over(&second);
    assert_eq!(end, "completed");
    until_all_run(&site, "2.0.0");

    let device = "station-00";
    let then = history(&site, device, Some(&between.to_string()));
    let ran = then.running.as_ref().expect("what ran");
    assert_eq!((then.knowledge.as_str(), ran.version.as_deref()), ("reported", Some("1.0.0")), "{}", then.sentence);
    assert!(ran.until.is_some_and(|until| until > between) && ran.from <= between);
    let rollout = then.rollout.as_ref().expect("its rollout");
    assert_eq!(rollout.id, first);
    assert!(rollout.decisions.iter().any(|d| d.sentence.contains("begins with stage 1")), "{:?}", rollout.decisions);
    let origin = then.origin.as_ref().expect("where it comes from");
    assert_eq!((origin.signer.as_str(), origin.run.as_deref()), ("rain", Some("by-hand-1.0.0")), "{origin:?}");
    let event = ran.told.as_ref().and_then(|told| told.event).expect("its event");
    let events = site.events(event - 1);
    assert_eq!((events[0].kind.as_str(), events[0].subject.as_str()), ("device.desired", "devices/station-00"));
    let now = history(&site, device, None);
    assert_eq!(now.running.as_ref().and_then(|r| r.version.as_deref()), Some("2.0.0"), "{}", now.sentence);
    assert!(now.record.len() >= 2, "{:?}", now.record);
    assert_eq!(history(&site, device, Some("2020-01-01T00:00:00Z")).knowledge, "unknown");

    // The chain: online, and with a head that is kept; then offline.
    let head = site.leeway(&["audit", "verify"]).ok().out.trim().to_owned();
    assert_eq!(site.leeway(&["audit", "verify", "--expect", &head]).code, 0);
    let other = format!("1:{}", "00".repeat(32));
    assert_eq!(site.leeway(&["audit", "verify", "--expect", &other]).code, 3);
    let export = site.path("audit.jsonl").display().to_string();
    let _ = site.leeway(&["audit", "export", "--out", &export]).ok();
    assert_eq!(site.leeway(&["audit", "verify", "--file", &export, "--expect", &head]).code, 0);
    let text = std::fs::read_to_string(&export).expect("the export");
    std::fs::write(&export, text.replacen("begins with stage 1", "begins with stage 9", 1)).expect("it is changed");
    let told = site.leeway(&["audit", "verify", "--file", &export]);
    assert!(told.code == 3 && told.err.contains("its content was changed"), "{}", told.err);

    let data = site.path("controller").display().to_string();
    let live = site.leeway(&["replay", "--data", &data]);
    assert!(live.code != 0 && live.err.contains("stop it first"), "{}", live.err);
    site.kill();
    runtime.block_on(fleet.shutdown());
    assert_eq!(site.leeway(&["audit", "verify", "--data", &data, "--expect", &head]).code, 0);
    let replay = site.leeway(&["replay", "--data", &data, "--json"]);
    let report: Value = replay.json();
    assert_eq!(replay.code, 0, "{report:#}");
    eprintln!("{}", site.leeway(&["replay", "--data", &data]).out);
    let count = |path: &str| report.pointer(path).and_then(Value::as_u64).unwrap_or_default();
    // Each of the two rollouts soaked twice and went on twice.
    assert!(count("/decisions/equal") >= 8 && count("/decisions/equal") == count("/decisions/recorded"), "{report:#}");
    assert!(count("/windows") > 0 && count("/streams/equal") > 0, "{report:#}");
    site.assert_calm();
}
