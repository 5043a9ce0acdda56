//! python-tuf, the reference implementation of TUF, at both ends: its client reads what `leeway serve` publishes, through changes of
//! keys that `leeway keys` signs; and our client, the program and the device's decision alike, takes what python-tuf made.
use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use leeway_protocol::assignment::{AssignedRelease, Assignment, CapturePolicy, Intent, Probation, Shadow, Windows, target_path};
use leeway_protocol::digest::Digest;
use leeway_protocol::ids::{Generation, Line};
use leeway_protocol::manifest::{Blob, TargetCustom};
use leeway_protocol::trust::director::{cross_check, verify};
use leeway_protocol::trust::metadata::{Document, Root};
use leeway_protocol::trust::tuf::{Client, Stored};
use leeway_tests::api::Answer;
use leeway_tests::harness::{Running, free_port, root, tuf_client, wait_for};
use leeway_tests::lesson::teach_wrongly;
use leeway_tests::python::environment;
use leeway_tests::site::{Site, Told, now};
use serde_json::{Value, json};

const SCRIPT: &str = "tests/interop/tuf_ngclient.py";

fn python() -> std::path::PathBuf {
    environment("tuf", &root().join("tests/interop/requirements-tuf.txt"))
}

/// What python-tuf's client trusts and downloads; `folder` is its memory.
fn ngclient(python: &Path, site: &Site, folder: &str, target: &str) -> Value {
    let mut command = Command::new(python);
    command.arg(root().join(SCRIPT)).arg("read").arg("--root").arg(site.root());
    command.args(["--url", site.api().base()]).arg("--dir").arg(site.path(folder)).args(["--target", target]);
    Told::by(&mut command).ok().json()
}

#[test]
fn python_tufs_client_reads_what_the_controller_publishes_through_every_change_of_keys() {
    let python = python();
    let mut site = Site::started("rain");
    site.configure();
    let manifest = site.publish(&teach_wrongly("rain", "1.0.0", 0..900));
    let path = target_path(&manifest.line, false, &manifest.version);
    let read = ngclient(&python, &site, "ngclient", &path);
    assert_eq!(read["versions"]["root"], 1, "{read}");
    assert_eq!(read["targets"][&path]["sha256"], manifest.model.digest.hex(), "{read}");
    assert_eq!(read["targets"][&path]["custom"]["seq"], manifest.seq, "{read}");

    let file = |name: &str| site.path(name).display().to_string();
    let leeway = |line: &str| {
        let words: Vec<String> = line.split_whitespace().map(|w| if w.contains(['/', '.']) { file(w) } else { w.to_owned() }).collect();
        site.leeway(&words.iter().map(String::as_str).collect::<Vec<_>>())
    };
    for name in ["timestamp", "director", "rain-2"] {
        let _ = leeway(&format!("keys new --role {name} --out n/{name}.key")).ok();
    }
    let people = "--key keys/offline/root-1.key --key keys/offline/root-2.key";
    let controller = "keys/controller";
    for (old, role, new) in [("1.root.json", "timestamp", "2.root.json"), ("director.1.root.json", "director", "d.2.root.json")] {
        let change = format!("--drop {controller}/{role}.key --add n/{role}.pub");
        let _ = leeway(&format!("keys rotate --root {controller}/{old} --role {role} {change} {people} --out {new}")).ok();
        // The controller does not have the new key yet: the root would take its voice away, and is refused.
        let refused = leeway(&format!("model publish-root {new}"));
        assert!(refused.code != 0 && refused.err.contains(&format!("{role} key")), "{} {}", refused.code, refused.err);
    }
    let next = site.path("keys/controller/next");
    std::fs::create_dir(&next).expect("a folder");
    for role in ["timestamp", "director"] {
        std::fs::copy(site.path(&format!("n/{role}.key")), next.join(format!("{role}.key"))).expect("the key is handed over");
    }
    site.stop();
    site.start();
    for new in ["2.root.json", "d.2.root.json"] {
        let file = site.path(new).display().to_string();
        let _ = site.leeway(&["model", "publish-root", &file]).ok();
        let again = site.leeway(&["model", "publish-root", &file]);
        assert!(again.code != 0, "the same root twice: {}", again.out);
    }
    let read = ngclient(&python, &site, "ngclient", &path);
    assert_eq!(read["versions"]["root"], 2, "{read}");
    let served = site.api().get("/tuf/director/2.root.json").and_then(Answer::ok).expect("the director's chain is served").body;
    assert_eq!(served, std::fs::read(site.path("d.2.root.json")).expect("the root"));

    // The line's key changes too: its releases count again once the new key has signed them.
    let file = |name: &str| site.path(name).display().to_string();
    let leeway = |line: &str| {
        let words: Vec<String> = line.split_whitespace().map(|w| if w.contains(['/', '.']) { file(w) } else { w.to_owned() }).collect();
        let _ = site.leeway(&words.iter().map(String::as_str).collect::<Vec<_>>()).ok();
    };
    let releases = site.api().get("/tuf/1.rain.json").and_then(Answer::ok).expect("the line's releases").body;
    std::fs::write(site.path("1.rain.json"), releases).expect("a file");
    leeway(&format!(
        "keys rotate-line --line rain --drop keys/release/rain.key --add n/rain-2.pub --targets {controller}/1.targets.json \
         --key keys/offline/targets-1.key --out a.2.targets.json"
    ));
    leeway("keys sign a.2.targets.json --key keys/offline/targets-3.key --by 2.root.json --out 2.targets.json");
    leeway("model publish-targets 2.targets.json");
    leeway("keys renew 1.rain.json --key n/rain-2.key --by 2.targets.json --out 2.rain.json");
    leeway("keys show 2.rain.json --check --by 2.targets.json");
    leeway("model publish-role rain 2.rain.json");
    let read = ngclient(&python, &site, "ngclient", &path);
    assert_eq!((&read["versions"]["root"], &read["versions"]["targets"]), (&json!(2), &json!(2)), "{read}");
    assert_eq!(read["targets"][&path]["sha256"], manifest.model.digest.hex(), "{read}");
    // Somebody who begins today walks the chain from the first root.
    assert_eq!(ngclient(&python, &site, "newcomer", &path)["versions"], read["versions"]);

    // Both keys are still the chosen ones after a restart, whatever lies in which folder.
    site.stop();
    site.start();
    assert_eq!(ngclient(&python, &site, "newcomer", &path)["versions"]["root"], 2);
    site.assert_chain();
    site.assert_calm();
}

#[test]
fn our_client_and_our_devices_decision_take_what_python_tuf_made() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let model = b"a model that python-tuf lists".to_vec();
    std::fs::write(dir.path().join("model"), &model).expect("a file");
    let (line, version): (Line, _) = ("rain".parse().expect("a line"), "1.0.0".parse().expect("a version"));
    let path = target_path(&line, false, &version);
    let custom = TargetCustom {
        v: 1,
        line: line.clone(),
        version: version.clone(),
        seq: 5,
        manifest: Blob::of(b"m"),
        io: Digest::of(b"io"),
        provenance: None,
        bundle: None,
    };
    let assignment = Assignment {
        v: 1,
        device: "bellevue-07".parse().expect("a device"),
        generation: Generation(12),
        intent: Intent::Install,
        release: Some(AssignedRelease { path: path.clone(), line: line.clone(), version }),
        rollout: None,
        reason: "made by python-tuf".to_owned(),
        issued_at: now(),
        spread_ms: 0,
        window: None,
        shadow: Shadow::default(),
        probation: Probation::default(),
        windows: Windows::default(),
        capture: CapturePolicy::default(),
        avoid: Vec::new(),
    };
    let plan = json!({
        "line": "rain",
        "policy": { "min_seq": 5, "revoked": [], "trainer": null },
        "targets": { &path: { "file": dir.path().join("model"), "custom": custom } },
        "assignment": {
            "path": path, "generation": 12, "device": assignment.device, "text": serde_json::to_string(&assignment).expect("JSON"),
        },
    });
    std::fs::write(dir.path().join("plan.json"), plan.to_string()).expect("a file");
    let (python, made) = (python(), dir.path().join("made"));
    let mut command = Command::new(&python);
    command.arg(root().join(SCRIPT)).arg("make").arg("--dir").arg(&made).arg("--plan").arg(dir.path().join("plan.json"));
    let _ = Told::by(&mut command).ok();

    // What a device does before it installs anything: both repositories, the policy, and that all of them agree.
    let read = |name: &str| std::fs::read(made.join(name)).expect("what python-tuf made");
    let entries = std::fs::read_dir(made.join("metadata")).expect("metadata").flatten();
    let files: BTreeMap<String, Vec<u8>> =
        entries.map(|e| (e.file_name().to_string_lossy().into_owned(), std::fs::read(e.path()).expect("a file"))).collect();
    let first = files.get("1.root.json").expect("a first root");
    let mut client = Client::new(first, Stored::default(), now()).expect("a root");
    client.only_for(&path);
    client.run_over(&files).expect("python-tuf's repository");
    assert_eq!((client.versions().root, client.versions().targets), (3, 2));
    let director = Document::<Root>::parse(&read("director/1.root.json"), 1 << 20).expect("a root");
    let directive =
        verify(&read("director/desired.json"), director.claims(), &assignment.device, now(), Generation(11)).expect("an assignment");
    assert_eq!(directive.assignment::<Assignment>().expect("ours"), assignment);
    let approved = cross_check(&directive, &client, 5).expect("a model that may be installed");
    assert_eq!((approved.target.sha256, approved.release), (Digest::of(&model), custom));
    assert!(cross_check(&directive, &client, 6).is_err(), "the device's own floor counts as well");

    // The program, over HTTP.
    let port = free_port();
    let mut server = Command::new(&python);
    server.args(["-m", "http.server", &port.to_string(), "--bind", "127.0.0.1", "--directory"]).arg(&made);
    let _server = Running::start(&mut server, &dir.path().join("server.log")).expect("a server");
    wait_for("the server listens", || std::net::TcpStream::connect(("127.0.0.1", port)).map_err(|e| e.to_string()));
    let ours = |words: &[&str]| {
        let mut command = Command::new(tuf_client());
        let url = format!("http://127.0.0.1:{port}");
        command.arg("--metadata-dir").arg(dir.path().join("ours")).args(["--metadata-url", &format!("{url}/metadata")]);
        command.args(["--target-base-url", &format!("{url}/targets")]).arg("--target-dir").arg(dir.path().join("got"));
        Told::by(command.args(words))
    };
    let _ = ours(&["init", &made.join("metadata/1.root.json").display().to_string()]).ok();
    let _ = ours(&["refresh"]).ok();
    let _ = ours(&["--target-name", &path, "download"]).ok();
    let got: Vec<_> = std::fs::read_dir(dir.path().join("got")).expect("a folder").flatten().map(|e| e.path()).collect();
    assert_eq!(got.len(), 1, "{got:?}");
    assert_eq!(std::fs::read(&got[0]).expect("the target"), model);
    // Not what is listed: nothing comes.
    std::fs::remove_file(&got[0]).expect("the target");
    let stored = made.join("targets/models/rain/release").join(format!("{}.1.0.0.onnx", Digest::of(&model).hex()));
    std::fs::write(stored, b"a model that python-tuf never listed").expect("a file");
    assert!(ours(&["--target-name", &path, "download"]).code != 0 && !got[0].exists());
}
