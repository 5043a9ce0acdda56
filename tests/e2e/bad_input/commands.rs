//! What people type, and the files they give.
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use leeway_tests::device::Device;
use leeway_tests::harness::{free_port, program, wait_for};
use leeway_tests::lesson::{Lesson, teach};
use leeway_tests::site::{Site, Told};

use super::expect;

/// Exit codes, as `leeway --help` lists them.
const FAILED: i32 = 1;
const USAGE: i32 = 2;
const NO: i32 = 3;
const SIGN_IN: i32 = 4;
const NOT_FOUND: i32 = 5;
const CONFLICT: i32 = 6;
const UNREACHABLE: i32 = 7;

#[test]
fn a_controller_that_cannot_start_says_what_to_do() {
    let site = Site::started("rain");
    let write = |name: &str, text: &str| {
        fs::write(site.path(name), text).expect("a file");
        site.path(name).display().to_string()
    };
    let serve = |args: &[&str]| Told::by(Command::new(program("leeway")).arg("serve").args(args));
    let (data, keys) = (site.path("another").display().to_string(), site.path("keys/controller").display().to_string());
    let fresh = ["--data", &data, "--keys", &keys, "--listen", "127.0.0.1:0", "--mqtt", "127.0.0.1:0"];
    let with = |from: &str, to: &str| serve(&fresh.map(|arg| if arg == from { to } else { arg }));

    let unknown = write("unknown.toml", "tennant = \"x\"\n");
    expect("unknown key", &serve(&["--config", &unknown]), USAGE, &["tennant", "did you mean", "tenant"]);
    let kind = write("kind.toml", "tenant = 5\n");
    expect("wrong type", &serve(&["--config", &kind]), USAGE, &["kind.toml", "tenant", "string"]);
    let broken = write("broken.toml", "tenant = = 5\n");
    expect("no TOML", &serve(&["--config", &broken]), USAGE, &["broken.toml", "line 1"]);
    expect("no file", &serve(&["--config", "/no/such.toml"]), FAILED, &["/no/such.toml"]);
    expect("no data directory", &serve(&[]), USAGE, &["--data"]);
    expect("misspelt flag", &serve(&["--listn", "127.0.0.1:0"]), USAGE, &["--listn", "--listen"]);

    let taken = format!("127.0.0.1:{}", site.http());
    expect(
        "HTTP port taken",
        &serve(&[&fresh[..4], &["--listen", &taken, "--mqtt", "127.0.0.1:0"]].concat()),
        FAILED,
        &[&taken, "--listen"],
    );
    let taken = format!("127.0.0.1:{}", site.mqtt());
    expect("MQTT port taken", &serve(&[&fresh[..6], &["--mqtt", &taken]].concat()), FAILED, &[&taken, "--mqtt"]);
    let running = site.path("controller").display().to_string();
    expect("directory in use", &with(&data, &running), FAILED, &[&running, "another controller", "--data"]);
    let nowhere = site.path("nowhere").display().to_string();
    let third = site.path("third").display().to_string();
    let missing = serve(&["--data", &third, "--keys", &nowhere, "--listen", "127.0.0.1:0", "--mqtt", "127.0.0.1:0"]);
    expect("no keys", &missing, FAILED, &["nowhere", "leeway keys init"]);
    let fourth = site.path("fourth");
    fs::create_dir_all(fourth.join("keys")).expect("a folder");
    copy_into(&site.path("keys/controller"), &fourth.join("keys"));
    copy_into(&site.path("keys/release"), &fourth.join("keys"));
    let foreign = serve(&["--data", &fourth.display().to_string(), "--listen", "127.0.0.1:0", "--mqtt", "127.0.0.1:0"]);
    expect("a release key beside", &foreign, FAILED, &["rain.key", "move it away"]);
    fs::remove_file(fourth.join("keys/rain.key")).expect("the key");
    fs::set_permissions(fourth.join("keys/director.key"), Permissions::from_mode(0o644)).expect("its mode");
    let open = serve(&["--data", &fourth.display().to_string(), "--listen", "127.0.0.1:0", "--mqtt", "127.0.0.1:0"]);
    expect("a key that all can read", &open, FAILED, &["director.key", "chmod 600"]);
    site.assert_calm();
}

fn copy_into(from: &Path, to: &Path) {
    for entry in fs::read_dir(from).expect("a folder").flatten() {
        let copy = to.join(entry.file_name());
        fs::copy(entry.path(), &copy).expect("a copy");
        let _ = fs::set_permissions(&copy, Permissions::from_mode(0o600));
    }
}

#[test]
fn a_damaged_store_is_refused_and_left_as_it_is() {
    let mut site = Site::started("rain");
    site.publish(&teach("rain", "1.0.0", 0..600, "the only model"));
    site.stop();
    let store = site.path("controller/store.redb");
    let sound = fs::read(&store).expect("the store");
    let rubbish: Vec<u8> = (0..sound.len()).map(|i| (i * 7 % 251) as u8).collect();
    let headless = [&[0u8; 512], &sound[512..]].concat();
    for (name, bytes) in [("rubbish", &rubbish), ("without a head", &headless), ("a stub", &sound[..100].to_vec())] {
        fs::write(&store, bytes).expect("the damage");
        expect(name, &Told::by(&mut site.serve()), FAILED, &["store.redb", "damaged", "backup"]);
        assert!(fs::read(&store).expect("the store") == *bytes, "{name}: the damaged store was changed");
    }
    fs::write(&store, &sound).expect("the backup");
    site.start();
    let listed = site.leeway(&["model", "list"]).ok().out;
    assert!(listed.contains("1.0.0"), "the backup is as good as before: {listed}");
}

#[test]
fn operators_are_told_what_was_wrong() {
    let site = Site::started("rain");
    site.configure();
    let lesson = teach("rain", "1.0.0", 0..600, "the first model");
    site.publish(&lesson);
    let wrong = |args: &[&str], code: i32, says: &[&str]| expect(&args.join(" "), &site.leeway(args), code, says);
    wrong(&["rollout", "create", "--line", "rain", "--version", "9.9.9"], NOT_FOUND, &["9.9.9"]);
    wrong(&["rollout", "create", "--line", "RAIN", "--version", "1"], USAGE, &["RAIN", "a-z"]);
    wrong(&["rollout", "pause", "nothing", "--reason", "x"], NOT_FOUND, &["nothing", "leeway rollout list"]);
    wrong(&["device", "show", "nobody"], NOT_FOUND, &["nobody", "leeway device list"]);
    wrong(&["model", "show", "snow"], NOT_FOUND, &["snow"]);
    wrong(&["drift", "show", "snow"], NOT_FOUND, &["snow"]);
    wrong(&["rollout", "paus", "x"], USAGE, &["paus", "pause"]);
    wrong(&["--token", "wrong", "rollout", "create", "--line", "rain", "--version", "1.0.0"], SIGN_IN, &["token", "admin.token"]);
    let nobody = format!("http://127.0.0.1:{}", free_port());
    wrong(&["--url", &nobody, "model", "list"], UNREACHABLE, &[&nobody, "leeway serve"]);
    wrong(&["--url", "ftp://x", "model", "list"], USAGE, &["ftp://x", "http://"]);
    let policy = site.path("policy.toml");
    fs::write(&policy, "controll_share = 0.5\n").expect("a policy");
    let policy = policy.display().to_string();
    wrong(&["rollout", "create", "--line", "rain", "--version", "1.0.0", "--policy", &policy], USAGE, &["controll_share", "control_share"]);
    let id = site.leeway(&["rollout", "create", "--line", "rain", "--version", "1.0.0", "--id", "one"]).ok();
    assert!(id.out.contains("one"), "{id:?}");
    wrong(&["rollout", "resume", "one", "--reason", "x"], CONFLICT, &["one"]);
    releases_that_cannot_be(&site, &lesson);
    site.assert_chain();
    site.assert_calm();
}

fn releases_that_cannot_be(site: &Site, lesson: &Lesson) {
    let write = |name: &str, bytes: &[u8]| -> String {
        fs::write(site.path(name), bytes).expect("a file");
        site.path(name).display().to_string()
    };
    let key = site.key_path("release/rain").display().to_string();
    let (model, rows) = (write("rain.onnx", &lesson.model), write("rows.csv", lesson.csv.as_bytes()));
    let publish = |model: &str, rows: &str, key: &str, more: &[&str]| {
        let args = ["model", "publish", model, "--line", "rain", "--version", "2.0.0", "--key", key, "--reference", rows];
        site.leeway(&[&args[..], more].concat())
    };
    let label: &[&str] = &["--label-column", "rain"];
    let refused = |name: &str, told: &Told, says: &[&str]| {
        assert!([FAILED, USAGE, NO].contains(&told.code), "{name}: {told:?}");
        expect(name, told, told.code, says);
    };
    refused("not ONNX", &publish(&write("x.onnx", b"rubbish"), &rows, &key, label), &["x.onnx"]);
    refused("cut off", &publish(&write("cut.onnx", &lesson.model[..lesson.model.len() / 2]), &rows, &key, label), &["cut.onnx"]);
    let unknown = write("operator.onnx", &replaced(&lesson.model, b"Sigmoid", b"Sigmoyd"));
    refused("unknown operator", &publish(&unknown, &rows, &key, label), &["Sigmoyd"]);
    expect("inspect it", &site.leeway(&["model", "inspect", &unknown]), NO, &["Sigmoyd"]);
    refused("no label column", &publish(&model, &rows, &key, &["--label-column", "rainy"]), &["rainy"]);
    refused("no rows", &publish(&model, &write("empty.csv", b""), &key, label), &["empty.csv"]);
    refused("words for numbers", &publish(&model, &write("words.csv", b"a,b,rain\nx,y,z\n"), &key, label), &["words.csv"]);
    refused("no such file", &publish("/no/such.onnx", &rows, &key, label), &["/no/such.onnx"]);
    let stranger = Site::new("rain");
    let strange = stranger.key_path("release/rain").display().to_string();
    let told = publish(&model, &rows, &strange, &["--label-column", "rain", "--root", &site.root().display().to_string()]);
    refused("a stranger's key", &told, &["sign"]);
    refused("no key", &publish(&model, &rows, &model, label), &["rain.onnx", "key"]);
    let again = ["model", "publish", &model, "--line", "rain", "--version", "1.0.0", "--key", &key, "--reference", &rows];
    let told = site.leeway(&[&again[..], label].concat());
    assert!(told.code == CONFLICT || told.code == FAILED || told.code == USAGE, "{told:?}");
    expect("the same version again", &told, told.code, &["1.0.0"]);
    let listed = site.leeway(&["model", "list"]).ok().out;
    assert!(!listed.contains("2.0.0"), "{listed}");
}

#[test]
fn a_token_does_what_its_scope_says_and_only_until_it_is_revoked() {
    let site = Site::started("rain");
    let make = |name: &str, scope: &str| {
        let told = site.leeway(&["token", "create", "--name", name, "--owner", "ann", "--scope", scope, "--ttl", "1h"]).ok();
        told.out.trim().to_owned()
    };
    let (looks, runs) = (make("ann-looks", "viewer"), make("ann-runs", "operator"));
    let with = |token: &str, args: &[&str]| site.leeway(&[&["--token", token], args].concat());
    let cohort = ["cohort", "set", "coast", "--line", "rain", "--selector", "region=coast"];
    expect("who looks changes nothing", &with(&looks, &cohort), SIGN_IN, &["operator", "viewer", "leeway token whoami"]);
    assert!(!site.leeway(&["cohort", "list"]).ok().out.contains("coast"), "it was refused and done all the same");
    assert_eq!(with(&looks, &["token", "whoami"]).ok().out.trim(), "ann, viewer");
    let _ = with(&runs, &cohort).ok();
    assert!(with(&looks, &["cohort", "list"]).ok().out.contains("coast"));
    let more = ["token", "create", "--name", "more", "--scope", "admin"];
    expect("nobody helps himself to more", &with(&runs, &more), SIGN_IN, &["admin", "operator"]);
    let listed = site.leeway(&["token", "list"]).ok().out;
    assert!(listed.contains("ann-looks") && listed.contains("ann-runs") && !listed.contains("more"), "{listed}");
    assert!(!listed.contains(&runs) && !listed.contains(&looks), "shown once");
    expect("no reason", &site.leeway(&["token", "revoke", "ann-runs"]), USAGE, &["--reason"]);
    let _ = site.leeway(&["token", "revoke", "ann-runs", "--reason", "ann left"]).ok();
    expect("revoked", &with(&runs, &cohort), SIGN_IN, &["token", "--token"]);
    site.assert_chain();
    site.assert_calm();
}

fn replaced(bytes: &[u8], from: &[u8], to: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    let places: Vec<usize> = bytes.windows(from.len()).enumerate().filter(|(_, w)| *w == from).map(|(at, _)| at).collect();
    assert!(!places.is_empty(), "the model has no {}", String::from_utf8_lossy(from));
    places.iter().for_each(|at| bytes[*at..at + to.len()].copy_from_slice(to));
    bytes
}

#[test]
fn a_device_that_cannot_start_says_what_to_do() {
    let site = Site::started("rain");
    let agent = |args: &[&str]| Told::by(Command::new(program("leeway-agent")).args(args));
    let config = |text: &str| {
        fs::write(site.path("agent.toml"), text).expect("a file");
        agent(&["run", "--config", &site.path("agent.toml").display().to_string()])
    };
    expect("unknown key", &config("[runer]\n"), USAGE, &["agent.toml", "runer", "did you mean", "runner"]);
    expect("wrong type", &config("data_dir = 5\n"), USAGE, &["data_dir", "text in quotes"]);
    expect("open to the world", &config("[runner]\ntcp = \"0.0.0.0:8000\"\n"), USAGE, &["runner.tcp", "127.0.0.1"]);
    let dir = site.path("fresh").display().to_string();
    expect("not enrolled", &agent(&["run", "--dir", &dir]), FAILED, &["leeway-agent enrol"]);
    let url = site.api().base().to_owned();
    expect("no token", &agent(&["enrol", "--url", &url, "--dir", &dir]), FAILED, &["token"]);
    expect("a spent token", &agent(&["enrol", "--url", &url, "--dir", &dir, "--token", "spent"]), FAILED, &["token", "expired"]);
    let nobody = format!("http://127.0.0.1:{}", free_port());
    expect("no controller", &agent(&["enrol", "--url", &nobody, "--dir", &dir]), FAILED, &[&nobody, "leeway serve"]);
    expect("a bad name", &agent(&["enrol", "--url", &url, "--dir", &dir, "--device", "Über"]), USAGE, &["Über", "a-z"]);
    expect("a misspelt command", &agent(&["enroll"]), USAGE, &["enroll", "usage"]);

    let mut device = Device::enrolled(&site, "porch", &site.enrolment_token(1));
    let identity = device.data.join("identity.json");
    let sound = fs::read(&identity).expect("its identity");
    fs::write(&identity, b"{\"v\":1}").expect("the damage");
    expect("a damaged identity", &Told::by(&mut device.command()), FAILED, &["identity.json", "enrol"]);
    fs::write(&identity, sound).expect("its identity");
    a_taken_port_is_named(&site, &mut device);
    site.assert_calm();
}

/// Another program has the application's port: the runner says so, and serves as soon as it is free.
fn a_taken_port_is_named(site: &Site, device: &mut Device) {
    site.configure();
    site.publish(&teach("rain", "1.0.0", 0..600, "the first model"));
    let holder = std::net::TcpListener::bind(("127.0.0.1", device.tcp_port())).expect("the port");
    device.start();
    site.roll_out("1.0.0");
    let _: PathBuf = wait_for("the runner names the port", || {
        let log = device.log();
        let named = log.contains(&format!("127.0.0.1:{}", device.tcp_port())) && log.contains("choose another port");
        if named { Ok(device.config.clone()) } else { Err(log) }
    });
    assert!(device.is_running(), "{}", device.log());
    drop(holder);
    device.until_serves("1.0.0");
}
