//! A device's identity from its first day to its last, with the programs as users have them: it asks to be let in, waits for a
//! person, runs over mutual TLS, outlives its certificates, and is put out.
use leeway_protocol::time::Timestamp;
use leeway_tests::application::Application;
use leeway_tests::device::Device;
use leeway_tests::harness::wait_for;
use leeway_tests::lesson::teach;
use leeway_tests::site::Site;

/// A life of seconds instead of weeks; nothing else differs.
const LIFE_SECS: i64 = 24;
/// What `leeway-agent enrol --no-wait` ends with while nobody has accepted the device.
const PENDING: i32 = 3;

fn secured() -> Site {
    let mut site = Site::new("rain");
    let settings = site.path("leeway.toml");
    std::fs::write(&settings, format!("[tls]\ndevice_certificate_secs = {LIFE_SECS}\n")).expect("the settings");
    site.args = vec!["--tls".to_owned(), "--config".to_owned(), settings.display().to_string()];
    site.start();
    site.configure();
    site
}

/// The end of the newest certificate that the controller gave to a device.
fn certified_until(site: &Site, device: &str) -> Result<Timestamp, String> {
    let seen = site.device(device)?;
    let said = seen["conditions"].as_array().into_iter().flatten().find(|c| c["kind"] == "Certified");
    let text = said.and_then(|c| c["message"].as_str()).ok_or_else(|| seen["summary"]["sentence"].to_string())?;
    let moment = text.trim_end_matches('.').rsplit(' ').next().unwrap_or_default();
    moment.parse().map_err(|e| format!("{text}: {e}"))
}

#[test]
fn a_device_is_let_in_renews_its_certificate_and_is_put_out() {
    let site = secured();
    site.publish(&teach("rain", "1.0.0", 0..900, "the first model"));
    let mut porch = Device::new(&site, "porch");
    let token = site.enrolment_token(1);

    let unknown = porch.enrol(&site, &token);
    assert!(unknown.code != 0 && unknown.err.contains("--ca"), "who is not told whom to trust trusts nobody: {unknown:?}");
    porch.enrol_args = vec!["--ca".to_owned(), site.ca_path().display().to_string(), "--no-wait".to_owned()];
    let waits = porch.enrol(&site, &token);
    assert_eq!(waits.code, PENDING, "{waits:?}");
    assert!((waits.out + &waits.err).contains("leeway device accept porch"));
    let listed = site.leeway(&["device", "list"]).ok();
    assert!(listed.out.contains("porch") && listed.out.contains("pending"), "{listed:?}");
    let accepted = site.leeway(&["device", "accept", "porch", "--reason", "it hangs on our porch"]).ok();
    assert!(accepted.out.contains("porch"), "{accepted:?}");
    let _ = porch.enrol(&site, &token).ok();
    let first = certified_until(&site, "porch").expect("a certificate");

    porch.start();
    let rollout = site.roll_out("1.0.0");
    porch.until_serves("1.0.0");
    let application = Application::start(porch.tcp(), "rain", 3, 2_000);
    assert_eq!(site.until_over(&rollout), "completed");
    site.until_runs("porch", "1.0.0");

    // Renewed at two thirds; and it is there after the first one is over, by one that was given before that.
    let second = wait_for("the certificate is renewed", || {
        let until = certified_until(&site, "porch")?;
        if until > first { Ok(until) } else { Err(format!("still {until}")) }
    });
    // By the log's own clock: this story may be slow to look.
    let given: Vec<Timestamp> =
        site.events(0).into_iter().filter(|e| e.subject == "devices/porch" && e.kind == "device.enrolled").map(|e| e.at).collect();
    let early = first.millis_since(given[1]);
    assert!(early > 0, "renewed {early} ms before its end, which was too late");
    assert!(second.millis_since(first) >= LIFE_SECS * 1000 / 3, "{first} {second}");
    wait_for("the device is there after its first certificate", || {
        let seen = site.device("porch")?;
        let online = seen["summary"]["online"] == true;
        let since: Option<Timestamp> = seen["summary"]["last_seen"].as_str().and_then(|at| at.parse().ok());
        if online && since.is_some_and(|at| at > first) { Ok(()) } else { Err(seen["summary"].to_string()) }
    });

    let reason = "somebody unscrewed it";
    let revoked = site.leeway(&["device", "revoke", "porch", "--reason", reason]).ok();
    assert!(revoked.out.contains("revoked") && revoked.out.contains(reason), "{revoked:?}");
    wait_for("the device says why it is out", || {
        let log = porch.log();
        if log.contains(reason) { Ok(()) } else { Err(log.lines().last().unwrap_or_default().to_owned()) }
    });
    let seen = site.device("porch").expect("the device");
    assert_eq!((&seen["summary"]["phase"], &seen["summary"]["online"]), (&"revoked".into(), &false.into()), "{}", seen["summary"]);
    let again = porch.enrol(&site, &token);
    assert!(again.code != 0 && again.err.contains(reason), "{again:?}");
    let asked = application.answers("1.0.0");
    wait_for("its model goes on", || if application.answers("1.0.0") > asked { Ok(()) } else { Err("no answer".to_owned()) });
    drop(application);
    let told: Vec<String> = site.events(0).into_iter().filter(|e| e.subject == "devices/porch").map(|e| e.kind).collect();
    for kind in ["device.pending", "device.accepted", "device.enrolled", "device.revoked"] {
        assert!(told.iter().any(|k| k == kind), "{kind} is missing in {told:?}");
    }
    site.assert_chain();
    site.assert_calm();
}
