//! A stand-in for the four services: as much of each API as is documented for starting runs and asking after them.
use std::collections::VecDeque;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};

/// What is wrong with one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    None,
    /// It is done, and the connection breaks before the answer.
    TakenAndLost,
    /// It is done, and the answer comes too late.
    TakenAndLate,
    /// Nothing is done.
    Status(u16),
    /// Nothing is done, and another place is named.
    Redirect,
}

#[derive(Debug, Default)]
struct State {
    /// Key and questions so far.
    runs: Vec<(String, u32)>,
    faults: VecDeque<Fault>,
    complaints: Vec<String>,
    followed: u32,
}

/// A server on a port of its own.
#[derive(Debug)]
pub(super) struct StandIn {
    port: u16,
    state: Arc<Mutex<State>>,
}

/// Questions that are answered with "running".
const RUNNING: u32 = 3;
/// Questions that a list needs before it shows a new run.
const UNLISTED: u32 = 2;

struct Asked {
    method: String,
    path: String,
    query: String,
    headers: Vec<(String, String)>,
    body: Value,
}

impl Asked {
    fn header(&self, name: &str) -> &str {
        self.headers.iter().find(|(n, _)| n == name).map_or("", |(_, value)| value)
    }
}

impl StandIn {
    /// Every run ends as `end` says: `done`, `failed` or `cancelled`.
    pub(super) fn start(service: &'static str, end: &'static str, faults: Vec<Fault>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let state = Arc::new(Mutex::new(State { faults: faults.into(), ..State::default() }));
        let shared = Arc::clone(&state);
        // Ends with the test's process.
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let Ok(stream) = stream else { return };
                let state = Arc::clone(&shared);
                std::thread::spawn(move || serve(service, end, stream, &state));
            }
        });
        Self { port, state }
    }

    pub(super) fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    pub(super) fn started(&self) -> usize {
        self.state.lock().unwrap().runs.len()
    }

    pub(super) fn followed(&self) -> u32 {
        self.state.lock().unwrap().followed
    }

    pub(super) fn complaints(&self) -> Vec<String> {
        self.state.lock().unwrap().complaints.clone()
    }
}

fn serve(service: &str, end: &str, mut stream: TcpStream, state: &Mutex<State>) {
    let Some(asked) = read(&stream) else { return };
    let mut state = state.lock().unwrap();
    let fault = state.faults.pop_front().unwrap_or(Fault::None);
    let (status, body) = match fault {
        Fault::Status(status) => (status, json!({ "message": "not now" })),
        Fault::Redirect => (302, Value::Null),
        _ if asked.path == "/elsewhere" => {
            state.followed += 1;
            (200, Value::Null)
        }
        _ => answer(service, end, &asked, &mut state),
    };
    drop(state);
    match fault {
        Fault::TakenAndLost => return,
        Fault::TakenAndLate => std::thread::sleep(Duration::from_millis(1300)),
        _ => {}
    }
    let body = if body.is_null() { String::new() } else { body.to_string() };
    let more = match status {
        302 => "location: /elsewhere\r\n",
        429 => "retry-after: 3\r\n",
        _ => "",
    };
    let _ = write!(stream, "HTTP/1.1 {status} X\r\ncontent-length: {}\r\nconnection: close\r\n{more}\r\n{body}", body.len());
}

fn read(stream: &TcpStream) -> Option<Asked> {
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line).ok()?;
    let mut parts = line.split_whitespace();
    let (method, target) = (parts.next()?.to_owned(), parts.next()?.to_owned());
    let mut headers = Vec::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        let Some((name, value)) = line.trim_end().split_once(": ") else { break };
        headers.push((name.to_ascii_lowercase(), value.to_owned()));
    }
    let length = headers.iter().find(|(name, _)| name == "content-length").and_then(|(_, value)| value.parse().ok()).unwrap_or(0);
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    let (path, query) = target.split_once('?').map_or((target.clone(), String::new()), |(p, q)| (p.to_owned(), q.to_owned()));
    Some(Asked { method, path, query, headers, body: serde_json::from_slice(&body).unwrap_or_default() })
}

fn answer(service: &str, end: &str, asked: &Asked, state: &mut State) -> (u16, Value) {
    if service != "sagemaker" && asked.header("authorization") != "Bearer s3cret" {
        return (401, json!({ "detail": "Unauthorized" }));
    }
    match service {
        "airflow" => airflow(end, asked, state),
        "kubeflow" => kubeflow(end, asked, state),
        "sagemaker" => sagemaker(end, asked, state),
        _ => github(end, asked, state),
    }
}

/// The word for where a run is; counts the question.
fn word(state: &mut State, run: usize, end: &str, words: [&str; 4]) -> String {
    let [running, done, failed, cancelled] = words;
    state.runs[run].1 += 1;
    let over = match end {
        "done" => done,
        "failed" => failed,
        _ => cancelled,
    };
    if state.runs[run].1 <= RUNNING { running } else { over }.to_owned()
}

fn airflow(end: &str, asked: &Asked, state: &mut State) -> (u16, Value) {
    const RUNS: &str = "/api/v2/dags/leeway_retrain/dagRuns";
    let of =
        |id: &str, word: &str| json!({ "dag_run_id": id, "dag_id": "leeway_retrain", "logical_date": null, "state": word, "conf": {} });
    if asked.method == "POST" && asked.path == RUNS {
        let Some(id) = asked.body["dag_run_id"].as_str().map(ToOwned::to_owned) else { return (422, json!({ "detail": "dag_run_id" })) };
        // Required, though it may be null.
        if asked.body.get("logical_date").is_none() || !asked.body["conf"].is_object() {
            return (422, json!({ "detail": [{ "loc": ["body", "logical_date"], "msg": "Field required" }] }));
        }
        if state.runs.iter().any(|run| run.0 == id) {
            return (409, json!({ "detail": "The Dag Run already exists" }));
        }
        state.runs.push((id.clone(), 0));
        return (200, of(&id, "queued"));
    }
    let id = asked.path.strip_prefix(RUNS).and_then(|rest| rest.strip_prefix('/'));
    let Some(run) = id.and_then(|id| state.runs.iter().position(|run| run.0 == id)) else { return (404, json!({ "detail": "not found" })) };
    let word = word(state, run, end, ["running", "success", "failed", "failed"]);
    (200, of(&state.runs[run].0, &word))
}

fn kubeflow(end: &str, asked: &Asked, state: &mut State) -> (u16, Value) {
    const RUNS: &str = "/apis/v2beta1/runs";
    let of = |run: usize, key: &str, word: &str| json!({ "run_id": format!("run-{run}"), "display_name": key, "state": word });
    match (asked.method.as_str(), asked.path.as_str()) {
        ("POST", RUNS) => {
            let Some(key) = asked.body["display_name"].as_str().map(ToOwned::to_owned) else { return (400, json!({ "code": 3 })) };
            if !asked.body["runtime_config"]["parameters"].is_object() || asked.body["pipeline_version_reference"]["pipeline_id"].is_null()
            {
                state.complaints.push(format!("{}", asked.body));
            }
            state.runs.push((key.clone(), 0));
            (200, of(state.runs.len() - 1, &key, "PENDING"))
        }
        ("GET", RUNS) => {
            if !asked.query.contains("filter=%7B%22predicates%22") {
                state.complaints.push(asked.query.clone());
            }
            let listed: Vec<Value> = (0..state.runs.len()).map(|i| of(i, &state.runs[i].0, "RUNNING")).collect();
            (200, if listed.is_empty() { json!({}) } else { json!({ "runs": listed, "total_size": listed.len() }) })
        }
        (_, path) => {
            let run = path.strip_prefix("/apis/v2beta1/runs/run-").and_then(|n| n.parse::<usize>().ok()).filter(|n| *n < state.runs.len());
            let Some(run) = run else { return (404, json!({ "code": 5, "message": "Run not found" })) };
            let word = word(state, run, end, ["RUNNING", "SUCCEEDED", "FAILED", "CANCELED"]);
            (200, of(run, &state.runs[run].0, &word))
        }
    }
}

fn sagemaker(end: &str, asked: &Asked, state: &mut State) -> (u16, Value) {
    const ARN: &str = "arn:aws:sagemaker:eu-west-1:123456789012:pipeline/leeway-retrain/execution/";
    let signature = asked.header("authorization");
    if !signature.starts_with("AWS4-HMAC-SHA256 Credential=s3cret/")
        || !signature.contains("content-type;host;x-amz-date;x-amz-security-token;x-amz-target")
    {
        return (400, json!({ "__type": "IncompleteSignatureException", "message": signature }));
    }
    match asked.header("x-amz-target") {
        "SageMaker.StartPipelineExecution" => {
            let token = asked.body["ClientRequestToken"].as_str().unwrap_or_default().to_owned();
            if !(32..=128).contains(&token.len()) || !asked.body["PipelineParameters"].is_array() {
                return (400, json!({ "__type": "ValidationException" }));
            }
            let known = state.runs.iter().position(|run| run.0 == token);
            let run = known.unwrap_or_else(|| {
                state.runs.push((token, 0));
                state.runs.len() - 1
            });
            (200, json!({ "PipelineExecutionArn": format!("{ARN}{run:012}") }))
        }
        "SageMaker.DescribePipelineExecution" => {
            let arn = asked.body["PipelineExecutionArn"].as_str().unwrap_or_default();
            let run = arn.strip_prefix(ARN).and_then(|n| n.parse::<usize>().ok()).filter(|n| *n < state.runs.len());
            let Some(run) = run else { return (400, json!({ "__type": "ResourceNotFound" })) };
            let word = word(state, run, end, ["Executing", "Succeeded", "Failed", "Stopped"]);
            (200, json!({ "PipelineExecutionArn": arn, "PipelineExecutionStatus": word, "FailureReason": "Step train failed." }))
        }
        other => (400, json!({ "__type": "UnknownOperationException", "message": other })),
    }
}

fn github(end: &str, asked: &Asked, state: &mut State) -> (u16, Value) {
    const WORKFLOW: &str = "/repos/example/models/actions/workflows/leeway-retrain.yml";
    if asked.header("user-agent").is_empty() {
        return (
            403,
            json!({ "message": "Request forbidden by administrative rules. Please make sure your request has a User-Agent header" }),
        );
    }
    if asked.method == "POST" && asked.path == format!("{WORKFLOW}/dispatches") {
        let inputs = asked.body["inputs"].as_object().cloned().unwrap_or_default();
        let Some(key) = inputs.get("leeway_key").and_then(Value::as_str) else { return (422, json!({ "message": "Unexpected inputs" })) };
        if !inputs.values().all(Value::is_string) || inputs.len() > 25 {
            return (422, json!({ "message": "Invalid inputs" }));
        }
        state.runs.push((key.to_owned(), 0));
        if asked.body["return_run_details"] != true {
            return (204, Value::Null);
        }
        return (200, json!({ "workflow_run_id": 1000 + state.runs.len(), "run_url": "…", "html_url": "…" }));
    }
    let of = |run: usize, key: &str, word: &str| {
        let (status, conclusion) = if word == "in_progress" { (word, Value::Null) } else { ("completed", json!(word)) };
        json!({ "id": 1001 + run, "display_title": format!("Retrain {key}"), "status": status, "conclusion": conclusion })
    };
    if asked.path == format!("{WORKFLOW}/runs") {
        // A run that was just started is listed a little later.
        let listed: Vec<Value> =
            (0..state.runs.len()).filter(|i| state.runs[*i].1 >= UNLISTED).map(|i| of(i, &state.runs[i].0, "in_progress")).collect();
        state.runs.iter_mut().for_each(|run| run.1 = (run.1 + 1).min(UNLISTED));
        return (200, json!({ "total_count": listed.len(), "workflow_runs": listed }));
    }
    let run = asked.path.strip_prefix("/repos/example/models/actions/runs/").and_then(|n| n.parse::<usize>().ok());
    let Some(run) = run.and_then(|n| n.checked_sub(1001)).filter(|n| *n < state.runs.len()) else {
        return (404, json!({ "message": "Not Found" }));
    };
    let word = word(state, run, end, ["in_progress", "success", "failure", "cancelled"]);
    (200, of(run, &state.runs[run].0, &word))
}
