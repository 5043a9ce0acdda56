//! One contract, two trainers: a scikit-learn program and the built-in one learn from the same captured rows, are tried out and
//! compared with the champion, and what wins is signed by the trainer's own key and nobody else.
use std::process::Command;

use leeway_controller::supply::dsse::Envelope;
use leeway_controller::trainer::run::RunRecord;
use leeway_firmware_sim::io::fleet::FleetHandle;
use leeway_protocol::digest::Digest;
use leeway_tests::api::Answer;
use leeway_tests::harness::{PATIENCE, Running, program, root, wait_for};
use leeway_tests::lesson::teach_wrongly;
use leeway_tests::python::environment;
use leeway_tests::site::{Site, Told, quick_policy};
use leeway_tests::stations::stations;
use serde_json::{Value, json};

/// What DSSE calls an in-toto statement.
const IN_TOTO: &str = "application/vnd.in-toto+json";
/// Stations, and the days they live before anything is learned from them.
const STATIONS: u32 = 4;
const FIRST_DAY: usize = 2_000;
const DAYS: usize = 500;
/// States that a job does not leave.
const OVER: [&str; 4] = ["published", "lost", "undecided", "failed"];

#[test]
fn scikit_learn_and_the_built_in_trainer_learn_from_what_stations_captured() {
    let python = environment("trainers", &root().join("deploy/trainers/requirements.txt"));
    let site = Site::started("rain");
    site.configure();
    let by_hand_only = json!({ "rollout": quick_policy(), "retrain": { "enabled": false } });
    site.api().put("/api/v1/models/rain", &by_hand_only).and_then(Answer::ok).expect("the line");
    // A champion that learned everything upside down: whoever learns anything from the rows is better.
    let manifest = site.publish(&teach_wrongly("rain", "1.0.0", 0..900));
    grant_the_trainer(&site, &manifest.io_digest().to_string());
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
    let fleet = runtime.block_on(lived(&site));

    let script = root().join("deploy/trainers/sklearn_train.py");
    let by_command = ["--command".to_owned(), python.display().to_string(), "--arg".to_owned(), script.display().to_string()];
    let first = train(&site, "the people at the stations complain", &by_command);
    let second = train(&site, "is the built-in trainer as good?", &[]);
    assert_ne!(first["version"], second["version"], "{first} {second}");
    for job in [&first, &second] {
        // Each job holds out other days of the same rows, so that no day is held out for ever.
        assert!(job["dataset"].as_str().is_some_and(|d| d.starts_with("sha256:")), "{job}");
        let version = job["version"].as_str().expect("a version");
        let shown = site.leeway(&["model", "show", "rain", version, "--json"]).ok().json();
        assert_eq!(shown["summary"]["origin"], "auto", "{shown}");
        let accuracy = shown["summary"]["metrics"]["holdout_accuracy"].as_f64().expect("measured by the runner");
        assert!(accuracy > 0.65, "{version}: {accuracy}");
        println!("{version}: {accuracy:.3} on held-out days; {}", job["sentence"]);
        let lineage = site.leeway(&["model", "lineage", "rain", version]).ok().out;
        assert!(lineage.contains("1.0.0") && lineage.contains("dataset"), "{lineage}");
        assert!(lineage.contains("provenance signed by rain-auto") && !lineage.contains("provenance signed by rain "), "{lineage}");
        // The worker signed where it comes from, and the controller compared that with the manifest.
        let provenance = shown["provenance"]["sentence"].as_str().unwrap_or_default();
        assert!(provenance.contains("role rain-auto: made from 2 datasets") && provenance.contains("a parent"), "{shown}");
    }
    tell_of_their_data(&site, &first, &second);
    runtime.block_on(fleet.shutdown());
    site.assert_chain();
    site.assert_calm();
}

/// Both versions answer which data, which code, which run, which parent and who approved; and the data can be had outside of Leeway.
fn tell_of_their_data(site: &Site, first: &Value, second: &Value) {
    let leeway = |args: &[&str]| site.leeway(&[args, &["--json"]].concat()).ok().json();
    let listed = leeway(&["data", "list", "--line", "rain"]);
    assert_eq!((listed[0]["title"].as_str(), listed[1]["title"].as_str()), (second["id"].as_str(), first["id"].as_str()), "{listed}");
    let (later, earlier) = (listed[0]["dataset"].as_str().expect("a name"), listed[1]["dataset"].as_str().expect("a name"));
    let shown = leeway(&["data", "show", later]);
    let manifest = &shown["manifest"];
    assert_eq!(
        (manifest["device_count"].as_u64(), &manifest["sources"][0]["version"]),
        (Some(u64::from(STATIONS)), &json!("1.0.0")),
        "{shown}"
    );
    assert_eq!((&manifest["parents"][0]["how"], manifest["parents"][0]["digest"].as_str()), (&json!("previous"), Some(earlier)), "{shown}");
    assert_eq!(shown["versions"][0], format!("rain {}", second["version"].as_str().expect("a version")), "{shown}");
    // The same rows, other days held out.
    let compared = leeway(&["data", "diff", earlier, later]);
    assert!(compared["shared_rows"].as_u64().is_some_and(|n| n > 0) && compared["features"][0]["psi"].is_number(), "{compared}");

    let python = environment("data", &root().join("tests/interop/requirements-data.txt"));
    for role in ["train", "holdout"] {
        let file = |form: &str| site.path(&format!("{role}.{form}")).display().to_string();
        for form in ["parquet", "csv"] {
            let _ = site.leeway(&["data", "export", later, "--file", role, "--format", form, "--out", &file(form)]).ok();
        }
        let script = root().join("tests/interop/datasets.py");
        let told = Told::by(Command::new(&python).arg(script).arg(file("parquet")).arg(file("csv"))).ok().json();
        let rows = manifest["files"].as_array().and_then(|files| files.iter().find(|f| f["role"] == role)).map(|f| f["rows"].clone());
        assert_eq!(Some(&told["rows"]), rows.as_ref(), "{told}");
    }

    for (job, code, package, seed) in [(first, "sklearn_train.py", "scikit-learn", json!("0")), (second, "built-in", "leeway", Value::Null)]
    {
        let (id, version) = (job["id"].as_str().expect("a job"), job["version"].as_str().expect("a version"));
        let origin = leeway(&["data", "origin", "rain", version]);
        let run = &origin["run"];
        assert!(origin["code"].as_str().is_some_and(|c| c.contains(code)) && run["code"] == origin["code"], "{origin}");
        assert!(run["environment"][package].is_string() && run["parameters"].as_object().is_some_and(|p| p.len() > 3), "{origin}");
        assert_eq!((&run["seed"], &origin["job"], &origin["parent"]), (&seed, &json!(id), &json!("rain 1.0.0")), "{origin}");
        assert_eq!((&run["dataset"], &run["train"]), (&origin["data"][0]["dataset"], &origin["data"][0]["digest"]), "{origin}");
        let approved = origin["approved"].to_string();
        assert!(approved.contains("role rain-auto signed it") && approved.contains("The gate let it pass"), "{origin}");
        // The signed provenance names the record of the run: nobody can write another one afterwards.
        let provenance = site.api().read::<Value>(&format!("/api/v1/models/rain/versions/{version}/provenance")).expect("provenance");
        let envelope = Envelope::parse(provenance.to_string().as_bytes()).expect("an envelope");
        let statement = envelope.unverified(IN_TOTO).expect("a statement");
        let record: RunRecord = serde_json::from_value(run.clone()).expect("a record");
        let digest = Digest::of(&record.to_bytes()).to_string();
        assert!(String::from_utf8_lossy(&statement).contains(&format!("\"run_record\":\"{digest}\"")), "{digest} is not signed");
    }
}

/// Offline: people with the targets keys let the trainer release models of this form; then the document is uploaded.
fn grant_the_trainer(site: &Site, io: &str) {
    let path = |name: &str| site.path(name).display().to_string();
    let (targets, out) = (path("keys/repository/1.targets.json"), path("2.targets.json"));
    let (one, two) = (path("keys/offline/targets-1.key"), path("keys/offline/targets-2.key"));
    let args = ["keys", "grant-trainer", "--line", "rain", "--io", io, "--targets", &targets, "--key", &one, "--key", &two, "--out", &out];
    let _ = site.leeway(&args).ok();
    let _ = site.leeway(&["model", "publish-targets", &out]).ok();
}

/// Stations that have lived for a while with the champion, and have nothing left to tell.
async fn lived(site: &Site) -> FleetHandle {
    let fleet = stations(site, STATIONS, FIRST_DAY).await;
    fleet.aim_for(usize::MAX);
    let rollout = site.roll_out("1.0.0");
    tokio::task::block_in_place(|| assert_eq!(site.until_over(&rollout), "completed"));
    let day = fleet.day();
    fleet.run_until(day + DAYS).await;
    fleet.pause();
    let told = fleet.wait_until(PATIENCE, |views| {
        views.iter().all(|v| v.reported.as_ref().is_some_and(|r| r.outbox == 0)) && views.iter().all(|v| v.online)
    });
    assert!(told.await, "the stations still have something to tell");
    fleet
}

/// Ask for a better model, let a worker with these arguments work, and wait for the verdict.
fn train(site: &Site, reason: &str, worker: &[String]) -> Value {
    let asked = site.leeway(&["trainer", "request", "rain", "--reason", reason, "--json"]).ok().json();
    let job = asked[0]["id"].as_str().expect("a job").to_owned();
    let mut command = Command::new(program("leeway"));
    command.args(["trainer", "work", "--once", "--line", "rain"]).args(worker);
    command.arg("--key").arg(site.key_path("trainer/rain-auto")).arg("--root").arg(site.root());
    command.env("LEEWAY_URL", site.api().base()).env("LEEWAY_TOKEN", site.api().token());
    let mut worker = Running::start(&mut command, &site.path("worker.log")).expect("the worker starts");
    let done = wait_for(&format!("{job} is over"), || {
        let seen: Value = site.api().read(&format!("/api/v1/training/jobs/{job}"))?;
        if OVER.contains(&seen["state"].as_str().unwrap_or_default()) {
            return Ok(seen);
        }
        assert!(worker.ended().is_none_or(|status| status.success()), "the worker ended:\n{}", worker.log());
        Err(seen.to_string())
    });
    assert_eq!(done["state"], "published", "{done}\n{}", worker.log());
    assert!(done["sentence"].as_str().is_some_and(|s| s.ends_with('.')), "{done}");
    let ended = wait_for("the worker has ended", || worker.ended().ok_or_else(|| worker.log()));
    assert!(ended.success(), "{}", worker.log());
    done
}
