//! The application's server over a real socket, with the real engine behind it.
use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::mpsc::{Receiver, sync_channel};
use std::sync::{Arc, RwLock};
use std::time::{Duration, Instant};

use leeway_protocol::digest::Digest;
use leeway_protocol::manifest::Manifest;
use leeway_protocol::report::WindowReport;
use serde_json::{Value, json};

use super::engine::{Engine, Job, WAITING_JOBS};
use super::{FileOrgans, pipe, serve};
use crate::control::{Role, RunnerCommand, RunnerNotice, Slot};
use crate::runtime::samples::{counter, logistic};

/// Longer than any wait here should take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

struct Runner {
    address: SocketAddr,
    jobs: std::sync::mpsc::SyncSender<Job>,
    notices: Receiver<RunnerNotice>,
    dir: tempfile::TempDir,
    engine: Option<std::thread::JoinHandle<()>>,
}

impl Runner {
    fn start() -> Self {
        let (jobs, queue) = sync_channel(WAITING_JOBS);
        let (told, notices) = sync_channel(WAITING_JOBS);
        let board = Arc::new(RwLock::new(None));
        let app = serve::app(jobs.clone(), Arc::clone(&board)).unwrap();
        let (at, address) = sync_channel(1);
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async move {
                let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
                at.send(listener.local_addr().unwrap()).unwrap();
                axum::serve(listener, app).await.unwrap();
            });
        });
        let dir = tempfile::tempdir().unwrap();
        let engine = Engine::new(FileOrgans::of_runner(dir.path()), jobs.clone(), pipe::Notices::new(told), board);
        let engine = std::thread::spawn(move || engine.run(&queue));
        Self { address: address.recv().unwrap(), jobs, notices, dir, engine: Some(engine) }
    }

    fn command(&self, command: RunnerCommand) {
        self.jobs.send(Job::Command(command)).unwrap();
    }

    fn load(&self, role: Role, (bytes, manifest): (Vec<u8>, Manifest)) {
        let document = manifest.to_bytes();
        std::fs::write(self.dir.path().join("m.onnx"), bytes).unwrap();
        std::fs::write(self.dir.path().join("m.json"), &document).unwrap();
        let (model_path, manifest_path) = ("m.onnx".into(), "m.json".into());
        self.command(RunnerCommand::Load { slot: Slot::A, role, model_path, manifest_path, manifest: Digest::of(&document) });
    }

    fn wait<T>(&self, found: impl Fn(RunnerNotice) -> Option<T>) -> T {
        let until = Instant::now() + PATIENCE;
        while let Ok(notice) = self.notices.recv_timeout(until.saturating_duration_since(Instant::now())) {
            if let Some(found) = found(notice) {
                return found;
            }
        }
        panic!("the notice did not come");
    }

    fn wait_loaded(&self) {
        self.wait(|n| matches!(n, RunnerNotice::Loaded { .. }).then_some(()));
    }

    fn send(&self, method: &str, path: &str, headers: &str, body: &str) -> (u16, Value) {
        let mut stream = TcpStream::connect(self.address).unwrap();
        let length = body.len();
        write!(stream, "{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {length}\r\n{headers}\r\n{body}")
            .unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        let status = text.split(' ').nth(1).unwrap().parse().unwrap();
        let body = text.split_once("\r\n\r\n").unwrap().1;
        (status, serde_json::from_str(body).unwrap_or_else(|e| panic!("{e}: {text}")))
    }

    fn get(&self, path: &str) -> (u16, Value) {
        self.send("GET", path, "", "")
    }

    fn post(&self, path: &str, body: &Value) -> (u16, Value) {
        self.send("POST", path, "", &body.to_string())
    }
}

impl Drop for Runner {
    fn drop(&mut self) {
        self.jobs.send(Job::Ended).unwrap();
        self.engine.take().unwrap().join().unwrap();
    }
}

fn x(values: Value) -> Value {
    json!({"inputs": [{"name": "x", "shape": [1, 2], "datatype": "FP32", "data": values}]})
}

#[test]
fn the_protocol_from_not_ready_to_a_labelled_window() {
    let runner = Runner::start();
    assert_eq!(runner.get("/v2/health/live"), (200, json!({"live": true})));
    assert_eq!(runner.get("/v2/health/ready"), (503, json!({"ready": false})));
    assert_eq!(runner.post("/v2/models/rain/infer", &x(json!([0, 0]))).0, 503);
    runner.load(Role::Active, logistic([1.0, 0.0], 0.0));
    runner.wait_loaded();
    assert_eq!(runner.get("/v2").1["name"], "leeway-runner");
    assert_eq!(runner.get("/v2/health/ready"), (200, json!({"ready": true})));
    assert_eq!(runner.get("/v2/models/rain/versions/1/ready"), (200, json!({"name": "rain", "ready": true})));
    let (_, metadata) = runner.get("/v2/models/rain");
    assert_eq!(metadata["inputs"], json!([{"name": "x", "datatype": "FP32", "shape": [1, 2]}]));

    let (status, answer) = runner.post("/v2/models/rain/infer", &x(json!([[2.0, 0.0]])));
    assert_eq!(status, 200, "{answer}");
    assert_eq!(
        (&answer["model_name"], &answer["model_version"], &answer["parameters"]["decision"]),
        (&json!("rain"), &json!("1"), &json!(1))
    );
    let p = answer["outputs"][0]["data"][0].as_f64().unwrap();
    assert!((p - 0.880_797).abs() < 1e-6, "{p}");
    let mut named = x(json!([0.0, 0.0]));
    named["id"] = json!("order-17");
    named["parameters"] = json!({"data_time": "1950-01-02T00:00:00Z"});
    assert_eq!(runner.post("/v2/models/rain/versions/1/infer", &named).1["id"], "order-17");
    for id in [answer["id"].as_str().unwrap(), "order-17"] {
        assert_eq!(runner.post("/leeway/v1/feedback", &json!({"id": id, "label": 1})).1["matched"], true, "{id}");
    }
    assert_eq!(runner.post("/leeway/v1/feedback", &json!({"id": "order-18", "label": 1})).1["matched"], false);
    runner.command(RunnerCommand::CloseWindows);
    let report: WindowReport = runner.wait(|n| if let RunnerNotice::Window(report) = n { Some(*report) } else { None });
    assert_eq!((report.inferences, report.labels().rows, report.labels().correct), (2, 2, 2));
    assert!(report.data_time.is_some());
    let progress = runner.wait(|n| if let RunnerNotice::Progress { inferences, .. } = n { Some(inferences) } else { None });
    assert_eq!(progress, 2);
    assert_eq!(runner.get("/leeway/v1/status").1["serving"]["line"], "rain");
}

#[test]
fn every_bad_request_gets_a_sentence_and_the_server_goes_on() {
    let runner = Runner::start();
    runner.load(Role::Active, logistic([1.0, 0.0], 0.0));
    runner.wait_loaded();
    let infer = "/v2/models/rain/infer";
    let spoiled = |key: &str, value: Value| {
        let mut request = x(json!([0.0, 0.0]));
        request["inputs"][0][key] = value;
        request.to_string()
    };
    let with = |key: &str, value: Value| {
        let mut request = x(json!([0.0, 0.0]));
        request[key] = value;
        request.to_string()
    };
    let table: BTreeMap<&str, (u16, String)> = [
        ("not an inference request", (400, "{".to_owned())),
        ("missing field `inputs`", (400, "{}".to_owned())),
        ("is FP32 [1, 3]: expected FP32 of shape [1, 2]", (400, spoiled("shape", json!([1, 3])))),
        ("is INT64 [1, 2]", (400, spoiled("datatype", json!("INT64")))),
        ("holds 1 values", (400, spoiled("data", json!([1])))),
        ("expected a number", (400, spoiled("data", json!(["1", "2"])))),
        ("no finite value", (400, spoiled("data", json!([null, 2])))),
        ("has no data", (400, spoiled("data", Value::Null))),
        ("input \"x\" is missing", (400, spoiled("name", json!("y")))),
        ("no output \"q\"", (400, with("outputs", json!([{"name": "q"}])))),
        ("data_time", (400, with("parameters", json!({"data_time": "soon"})))),
        ("longer than 256", (400, with("id", json!("i".repeat(300))))),
    ]
    .into();
    for (want, (status, body)) in &table {
        let (got, answer) = runner.send("POST", infer, "", body);
        let error = answer["error"].as_str().unwrap();
        assert!(got == *status && error.contains(want), "{want}: {got} {error}");
    }
    assert_eq!(runner.post("/v2/models/snow/infer", &x(json!([0, 0]))).0, 404);
    assert_eq!(runner.post("/v2/models/rain/versions/9/infer", &x(json!([0, 0]))).0, 404);
    assert_eq!(runner.get("/v3").0, 404);
    assert_eq!(runner.get(infer).0, 405);
    assert_eq!(runner.send("POST", infer, "inference-header-content-length: 5\r\n", "{}").0, 400);
    assert_eq!(runner.post("/leeway/v1/feedback", &json!({"id": "a"})).0, 400);
    assert_eq!(runner.post("/leeway/v1/feedback", &json!({"id": "a", "label": 1e60})).0, 400);
    assert_eq!(runner.post(infer, &x(json!([0, 0]))).0, 200);
    runner.command(RunnerCommand::CloseWindows);
    let report: WindowReport = runner.wait(|n| if let RunnerNotice::Window(report) = n { Some(*report) } else { None });
    // The request with a null counts as an inference too, so that its profile shows.
    assert_eq!((report.errors.rejected, report.inferences), (table.len() as u64 + 1, 2));
}

#[test]
fn what_the_application_measures_is_counted_for_the_model_it_is_about() {
    let runner = Runner::start();
    let route = "/leeway/v1/metrics";
    let tell = |body: &Value| runner.post(route, body);
    assert_eq!(tell(&json!({"metrics": [{"name": "retry", "value": 1}]})).0, 503, "nobody serves yet");
    runner.load(Role::Active, logistic([1.0, 0.0], 0.0));
    runner.wait_loaded();
    let mut named = x(json!([0.0, 0.0]));
    named["id"] = json!("order-17");
    assert_eq!(runner.post("/v2/models/rain/infer", &named).0, 200);
    assert_eq!(runner.post("/leeway/v1/feedback", &json!({"id": "order-17", "label": 1})).1["matched"], true);
    let (status, answer) =
        tell(&json!({"metrics": [{"name": "pick_success", "value": 0.5}, {"name": "retry", "value": 0}], "id": "order-17"}));
    assert_eq!((status, &answer["matched"], &answer["counted"]), (200, &json!(true), &json!(2)), "{answer}");
    let (status, answer) = tell(&json!({"metrics": [{"name": "retry", "value": 1}], "id": "order-18"}));
    assert_eq!((status, &answer["matched"], &answer["counted"]), (200, &json!(false), &json!(0)), "{answer}");
    assert_eq!(tell(&json!({"metrics": [{"name": "retry", "value": 1}]})).1["message"], "the value was counted");

    let one = |name: Value, value: Value| json!({"metrics": [{"name": name, "value": value}]}).to_string();
    let many = |count: usize, name: &dyn Fn(usize) -> String| {
        let metrics: Vec<Value> = (0..count).map(|i| json!({"name": name(i), "value": 1})).collect();
        json!({"metrics": metrics}).to_string()
    };
    let table = [
        ("expected {\"metrics\"", "{".to_owned()),
        ("missing field `metrics`", "{}".to_owned()),
        ("send 1 to 1000", json!({"metrics": []}).to_string()),
        ("send 1 to 1000", many(1_001, &|_| "retry".to_owned())),
        ("unknown field `label`", json!({"metrics": [{"name": "retry", "value": 1, "label": 1}]}).to_string()),
        ("retry is 1.5: send a share from 0 to 1", one(json!("retry"), json!(1.5))),
        ("retry is -1: send a share", one(json!("retry"), json!(-1))),
        ("expected f64", one(json!("retry"), json!("yes"))),
        ("expected f64", one(json!("retry"), Value::Null)),
        ("number out of range", "{\"metrics\": [{\"name\": \"retry\", \"value\": 1e400}]}".to_owned()),
        ("expected value", "{\"metrics\": [{\"name\": \"retry\", \"value\": NaN}]}".to_owned()),
        ("\"Retry\" cannot name a user metric: use 1 to 24", one(json!("Retry"), json!(1))),
        ("holds pick_success, retry: use these", many(7, &|i| format!("m{i}"))),
        ("are too many for one call", " ".repeat(200_000)),
    ];
    for (want, body) in &table {
        let (status, answer) = runner.send("POST", route, "", body);
        let error = answer["error"].as_str().unwrap();
        assert!(status == 400 && error.contains(want), "{want}: {status} {error}");
    }
    assert_eq!(runner.get(route).0, 405);
    runner.command(RunnerCommand::CloseWindows);
    let report: WindowReport = runner.wait(|n| if let RunnerNotice::Window(report) = n { Some(*report) } else { None });
    let totals: Vec<_> = report.user.iter().map(|(name, t)| (name.as_str(), t.trials, t.sum_millionths)).collect();
    assert_eq!(totals, [("pick_success", 1, 500_000), ("retry", 2, 1_000_000)], "what was refused left no trace");
    assert_eq!(report.errors.rejected, 0);
}

#[test]
fn recurrent_state_stays_inside_and_can_be_asked_for() {
    let runner = Runner::start();
    runner.load(Role::Active, counter());
    runner.wait_loaded();
    let request = json!({"inputs": [{"name": "x", "shape": [1, 1], "datatype": "FP32", "data": [2.0]}]});
    let mut seen = Vec::new();
    for _ in 0..3 {
        let (_, answer) = runner.post("/v2/models/rain/infer", &request);
        assert_eq!(answer["outputs"].as_array().unwrap().len(), 1);
        seen.push(answer["outputs"][0]["data"][0].as_f64().unwrap());
    }
    assert_eq!(seen, [6.0, 9.0, 10.5]);
    let mut named = request;
    named["outputs"] = json!([{"name": "h2"}]);
    assert_eq!(runner.post("/v2/models/rain/infer", &named).1["outputs"][0]["name"], "h2");
}

#[test]
fn a_load_that_was_dropped_meanwhile_does_not_come_back() {
    let (jobs, queue) = sync_channel(WAITING_JOBS);
    let (told, notices) = sync_channel(WAITING_JOBS);
    let dir = tempfile::tempdir().unwrap();
    let (bytes, manifest) = logistic([1.0, 0.0], 0.0);
    let document = manifest.to_bytes();
    std::fs::write(dir.path().join("m.onnx"), bytes).unwrap();
    std::fs::write(dir.path().join("m.json"), &document).unwrap();
    let load = || {
        let (model_path, manifest_path) = ("m.onnx".into(), "m.json".into());
        RunnerCommand::Load { slot: Slot::A, role: Role::Active, model_path, manifest_path, manifest: Digest::of(&document) }
    };
    let board = Arc::new(RwLock::new(None));
    let mut engine = Engine::new(FileOrgans::of_runner(dir.path()), jobs, pipe::Notices::new(told), Arc::clone(&board));
    engine.work(Job::Command(load()));
    engine.work(Job::Command(RunnerCommand::Drop { slot: Slot::A }));
    // Driven by hand: the load's end is worked off only now, after the drop.
    engine.work(queue.recv_timeout(PATIENCE).unwrap());
    assert!(board.read().unwrap().is_none());
    engine.work(Job::Command(load()));
    engine.work(queue.recv_timeout(PATIENCE).unwrap());
    assert!(board.read().unwrap().is_some());
    assert_eq!(notices.try_iter().filter(|n| matches!(n, RunnerNotice::Loaded { .. })).count(), 1);
}
