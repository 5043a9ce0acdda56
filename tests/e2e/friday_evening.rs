//! A Friday evening: a rollout is started and nobody watches. The version is better than the one before, but on one revision of the
//! hardware the wind gauge reads less than no wind, and there the model answers with what is no number. That revision alone goes
//! back, everyone else gets the version, the page says what the failing devices share, and what is trained from it passes there
//! first. In between the controller is killed.
use std::time::Duration;

use leeway_firmware_sim::io::fleet::FleetHandle;
use leeway_firmware_sim::sensor::{Break, Fault};
use leeway_tests::api::Answer;
use leeway_tests::harness::wait_for;
use leeway_tests::hostile::{WIND, fails_without_wind};
use leeway_tests::lesson::teach;
use leeway_tests::site::{Site, quick_policy};
use leeway_tests::stations::{Station, stations_of};
use serde_json::{Value, json};

/// Stations; every fifth is of the revision that fails.
const STATIONS: u32 = 40;
/// Of which so many are.
const OF_REVISION_B: usize = 8;

fn fleet(site: &Site, runtime: &tokio::runtime::Runtime) -> FleetHandle {
    let one = |index: u32| {
        let bad = index.is_multiple_of(5);
        let gauge = Break { feature: WIND, from_day: 0, fault: Fault::Offset(-6.0) };
        Station {
            labels: [("hw".to_owned(), if bad { "rev-b" } else { "rev-a" }.to_owned()), ("site".to_owned(), format!("{}", index % 3))]
                .into(),
            broken: bad.then_some(gauge),
        }
    };
    runtime.block_on(stations_of(site, (0..STATIONS).map(one).collect(), 2_000))
}

/// Half of the fleet is the canary, so that every revision is in it.
fn policy() -> Value {
    let mut policy = quick_policy();
    policy["stages"][0]["share"] = 0.5.into();
    policy["control_share"] = 0.2.into();
    policy["balance_by"] = "hw".into();
    policy["slice_by"] = json!(["hw", "site"]);
    policy
}

fn roll_out(site: &Site, version: &str, id: &str) {
    let body = json!({ "line": "rain", "version": version, "id": id, "policy": policy(), "reason": "a Friday evening" });
    let _ = site.api().post("/api/v1/rollouts", &body).and_then(Answer::ok).expect("a rollout");
}

/// How many devices of a revision run a version.
fn running(site: &Site, revision: &str, version: &str) -> Result<usize, String> {
    let list = site.api().get(&format!("/api/v1/devices?selector=hw%3D{revision}&limit=1000"))?.ok()?.json();
    let devices = list.as_array().or_else(|| list["items"].as_array()).cloned().unwrap_or_default();
    Ok(devices.iter().filter(|d| d["version"] == version).count())
}

fn until_running(site: &Site, revision: &str, version: &str, count: usize) {
    wait_for(&format!("{count} devices of {revision} run {version}"), || {
        let now = running(site, revision, version)?;
        if now == count { Ok(()) } else { Err(format!("{now} do")) }
    });
}

#[test]
fn a_version_that_fails_on_one_revision_is_taken_back_there_and_nowhere_else() {
    let mut site = Site::started("rain");
    site.configure();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
    let fleet = fleet(&site, &runtime);
    fleet.aim_for(usize::MAX);
    let first = teach("rain", "1.0.0", 0..900, "the first model");
    site.publish(&first);
    let started = site.roll_out("1.0.0");
    assert_eq!(site.until_over(&started), "completed");

    let second = site.publish(&fails_without_wind(&teach("rain", "2.0.0", 0..1_500, "more data")));
    roll_out(&site, "2.0.0", "friday");
    wait_for("devices run the version", || match site.rollout("friday")?.summary.exposed {
        0 => Err("none yet".to_owned()),
        _ => Ok(()),
    });
    site.kill();
    site.start();

    assert_eq!(site.until_over("friday"), "completed");
    let (a, b) = (STATIONS as usize - OF_REVISION_B, OF_REVISION_B);
    until_running(&site, "rev-a", "2.0.0", a);
    until_running(&site, "rev-b", "1.0.0", b);
    let seen = site.rollout("friday").expect("the rollout");
    let telling = seen.shared.first().expect("the failing devices share something");
    assert_eq!(telling.slice.to_string(), "hw=rev-b");
    assert!(telling.is_telling() && telling.healthy_with == 0, "{telling:?}");
    assert!(seen.left_out[0].contains("Devices with hw=rev-b are left out"), "{:?}", seen.left_out);
    let page = site.api().get("/rollouts/friday").and_then(Answer::ok).expect("its page").text();
    assert!(page.contains("What they share: ") && page.contains("failing devices have hw=rev-b"), "{page}");
    let shown = site.leeway(&["rollout", "show", "friday"]).ok().out;
    assert!(shown.contains("what they share") && shown.contains("hw=rev-b"), "{shown}");
    let trail = site.leeway(&["events", "--subject", "models/rain/versions/2.0.0", "--json"]).ok().out;
    assert!(trail.contains("version.poisoned-for") && trail.contains("hw=rev-b"), "{trail}");

    // Monday: what was trained from it, mended, is tried on that revision before anything else.
    let mut mended = teach("rain", "3.0.0", 0..1_600, "mended");
    mended.manifest.lineage.parent = Some(second.blob().digest);
    site.publish(&mended);
    roll_out(&site, "3.0.0", "monday");
    assert_eq!(site.until_over("monday"), "completed");
    let events = site.events(0);
    let first = events.iter().find(|e| e.kind == "device.desired" && e.sentence.contains("rollout monday")).expect("somebody was told");
    let number: u32 = first.subject.rsplit('-').next().and_then(|n| n.parse().ok()).expect("a station");
    assert!(number.is_multiple_of(5), "first was told {}, which is not of the revision that the parent failed on", first.subject);
    until_running(&site, "rev-a", "3.0.0", a);
    until_running(&site, "rev-b", "3.0.0", b);
    runtime.block_on(async { tokio::time::timeout(Duration::from_secs(20), fleet.shutdown()).await }).expect("the stations end");
    site.assert_chain();
}
