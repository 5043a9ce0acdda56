//! The two binaries of a device and the operator's one: a model is published, reaches a device, answers an application over both
//! sockets, reports what it saw, is replaced, and comes back when the replacement is taken away.
use std::time::{Duration, Instant};

use leeway_protocol::manifest::Manifest;
use leeway_tests::application::Application;
use leeway_tests::device::Device;
use leeway_tests::harness::wait_for;
use leeway_tests::lesson::{Lesson, teach};
use leeway_tests::site::{Site, quick_policy};

/// "Within seconds": an abort on an idle fleet of one device, on two busy cores.
const RESTORED_WITHIN: Duration = Duration::from_secs(20);

#[test]
fn a_model_reaches_a_device_answers_reports_and_is_taken_back() {
    let site = Site::started("rain");
    site.configure();
    let first = teach("rain", "1.0.0", 0..1_500, "the first model");
    let manifest = publish_with_the_command(&site, &first);

    let mut device = Device::enrolled(&site, "porch", &site.enrolment_token(1));
    device.start();
    let rollout = site.leeway(&["rollout", "create", "--line", "rain", "--version", "1.0.0", "--id", "first", "--json"]).ok();
    assert_eq!(rollout.json()["summary"]["id"], "first");
    device.until_serves("1.0.0");
    both_sockets_give_the_golden_answers(&device, &manifest);

    let application = Application::start(device.tcp(), "rain", 7, 2_000);
    assert_eq!(site.until_over("first"), "completed");
    let told = site.leeway(&["rollout", "status", "first", "--timeout", "10s"]).ok();
    assert_eq!(told.code, 0);
    site.until_runs("porch", "1.0.0");
    what_the_controller_learned(&site, &application);
    a_second_version_comes_and_goes(&site, &device, &application);

    drop(application);
    site.assert_chain();
    site.assert_calm();
}

/// As a person does it: the model file, the rows it learned from, the training framework's golden vectors, the key.
fn publish_with_the_command(site: &Site, lesson: &Lesson) -> Manifest {
    let write = |name: &str, bytes: &[u8]| {
        let path = site.path(name);
        std::fs::write(&path, bytes).expect("a file");
        path.display().to_string()
    };
    let golden = serde_json::to_vec(&lesson.manifest.golden).expect("golden vectors");
    let (model, rows, golden) =
        (write("rain.onnx", &lesson.model), write("rows.csv", lesson.csv.as_bytes()), write("golden.json", &golden));
    let key = site.key_path("release/rain").display().to_string();
    let mut args = vec!["model", "publish", &model, "--line", "rain", "--version", "1.0.0", "--key", &key, "--reference", &rows];
    args.extend(["--label-column", "rain", "--golden", &golden, "--reason", "the first model", "--json"]);
    let published = site.leeway(&args).ok().json();
    let digest = published["manifest"]["digest"].as_str().and_then(|d| d.strip_prefix("sha256:")).expect("the manifest's digest");
    let bytes = site.api().get(&format!("/blobs/{digest}")).and_then(leeway_tests::api::Answer::ok).expect("the manifest").body;
    let shown = site.leeway(&["model", "show", "rain", "1.0.0"]).ok().out;
    assert!(shown.contains("rain 1.0.0") && shown.contains("x: f32[1, 8]"), "{shown}");
    Manifest::parse(&bytes).expect("a manifest")
}

fn both_sockets_give_the_golden_answers(device: &Device, manifest: &Manifest) {
    assert!(!manifest.golden.vectors.is_empty());
    for vector in &manifest.golden.vectors {
        let row: Vec<f32> = vector.inputs[0].to_f64().iter().map(|x| *x as f32).collect();
        let expected = vector.outputs[0].to_f64()[0];
        for socket in [device.tcp(), device.unix()] {
            let answer = socket.ask("rain", &row).expect("an answer");
            assert!((answer.value - expected).abs() < 1e-3, "{socket:?}: {answer:?}, not {expected}");
            assert_eq!(answer.version, "1.0.0");
            assert_eq!(answer.decision, u64::from(expected >= 0.5));
        }
    }
    let metadata = device.unix().request("GET", "/v2/models/rain", b"").expect("metadata").json();
    assert_eq!(metadata["inputs"][0]["datatype"], "FP32");
    assert_eq!(metadata["inputs"][0]["shape"], serde_json::json!([1, 8]));
}

fn what_the_controller_learned(site: &Site, application: &Application) {
    wait_for("labelled windows are at the controller", || {
        let quality = site.api().get("/api/v1/models/rain/quality")?.ok()?.json();
        let sum = |field: &str| quality["points"].as_array().into_iter().flatten().filter_map(|p| p[field].as_u64()).sum::<u64>();
        let (decisions, labels) = (sum("decisions"), sum("labels"));
        if decisions > 100 && labels > 50 { Ok(()) } else { Err(format!("{decisions} decisions, {labels} labels: {quality}")) }
    });
    assert!(application.seen().labels > 50, "{:?}", application.seen());
    let shown = site.leeway(&["device", "show", "porch"]).ok().out;
    assert!(shown.contains("rain 1.0.0") && shown.contains("committed"), "{shown}");
    let listed = site.leeway(&["device", "list", "--json"]).ok().json();
    assert_eq!(listed[0]["id"], "porch");
    let page = site.api().get("/devices/porch").and_then(leeway_tests::api::Answer::ok).expect("its page").text();
    assert!(page.contains("1.0.0") && page.contains("porch"), "{page}");
    let drift = site.leeway(&["drift", "show", "rain"]).ok().out;
    assert!(drift.contains("temperature"), "{drift}");
}

fn a_second_version_comes_and_goes(site: &Site, device: &Device, application: &Application) {
    site.publish(&teach("rain", "2.0.0", 1_000..2_500, "the second model"));
    let mut patient = quick_policy();
    for stage in patient["stages"].as_array_mut().expect("stages") {
        stage["soak_ms"] = 3_600_000.into();
        stage["deadline_ms"] = 7_200_000.into();
    }
    let policy = site.path("patient.json");
    std::fs::write(&policy, patient.to_string()).expect("the policy");
    let policy = policy.display().to_string();
    let create = ["rollout", "create", "--line", "rain", "--version", "2.0.0", "--id", "second", "--policy", &policy];
    let _ = site.leeway(&create).ok();
    site.until_runs("porch", "2.0.0");
    let before = application.answers("2.0.0");
    wait_for("the application is answered by 2.0.0", || {
        let seen = application.answers("2.0.0");
        if seen > before { Ok(()) } else { Err(format!("{:?}", application.seen())) }
    });

    let _ = site.leeway(&["rollout", "abort", "second", "--reason", "it was a mistake"]).ok();
    let aborted = Instant::now();
    device.until_serves("1.0.0");
    let restored = aborted.elapsed();
    println!("restored {:.1} s after the abort", restored.as_secs_f64());
    assert!(restored < RESTORED_WITHIN, "{restored:?}");
    let seen = site.until_runs("porch", "1.0.0");
    assert_eq!(seen["desired"]["intent"], "rollback", "{seen}");
    assert_ne!(site.until_over("second"), "completed");
    let ended = site.leeway(&["rollout", "status", "second"]);
    assert_eq!(ended.code, 3, "{ended:?}");
    let told = site.leeway(&["events", "--subject", "rollouts/second", "--json"]).ok().out;
    assert!(told.contains("it was a mistake"), "{told}");
}
