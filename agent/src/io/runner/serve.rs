//! The child at work: pipe, engine and the application's server, which listens on this machine only.
use std::os::unix::fs::PermissionsExt as _;
use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, RwLock};

use anyhow::{Context as _, bail};
use axum::Json;
use axum::Router;
use axum::body::Bytes;
use axum::body::HttpBody as _;
use axum::extract::rejection::BytesRejection;
use axum::extract::{DefaultBodyLimit, Path, Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use serde::Deserialize;
use serde_json::json;
use tokio::sync::{Semaphore, oneshot};

use super::engine::{Board, Engine, Job, WAITING_JOBS};
use super::oip::{InferRequest, InferResponse, metadata};
use super::requests::{self, Numbering};
use super::sandbox::{self, Keep, Memory};
use super::told::told;
use super::{DONE, FileOrgans, Options, REFUSED, pipe};
use crate::control::{PROTOCOL, RunnerNotice};
use crate::runtime::host::{Refusal, Serving};

/// The largest request body: an image of three million pixels as JSON text.
const MAX_BODY: usize = 32 << 20;
/// Kilobytes of bodies that are held at once; further requests wait. What the memory of a confined runner is reckoned with.
const HELD_KILOBYTES: u32 = 64 << 10;

/// Run until the supervisor says stop or is gone.
pub(super) fn run(options: &Options) -> anyhow::Result<u8> {
    log_to_stderr();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build().context("the server cannot start")?;
    runtime.block_on(serve(options))
}

/// stdout belongs to the supervisor.
fn log_to_stderr() {
    let filter = tracing_subscriber::EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("warn,leeway_agent=info"));
    // Fails when a logger is set already, by a program that embeds this one: then that one is right.
    drop(tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).without_time().with_ansi(false).try_init());
}

async fn serve(options: &Options) -> anyhow::Result<u8> {
    let board: Board = Arc::new(RwLock::new(None));
    let (jobs, queue) = sync_channel(WAITING_JOBS);
    let app = app(jobs.clone(), Arc::clone(&board))?;
    let mut listens = Vec::new();
    for address in options.all("--tcp") {
        let listener = tcp(address).await?;
        listens.push(listener.local_addr().context("a socket without an address")?.to_string());
        tokio::spawn(std::future::IntoFuture::into_future(axum::serve(listener, app.clone())));
    }
    for path in options.all("--unix") {
        let listener = unix(path).await?;
        listens.push(path.to_owned());
        tokio::spawn(std::future::IntoFuture::into_future(axum::serve(listener, app.clone())));
    }
    let organs = FileOrgans::of_runner(options.all("--dir").next().unwrap_or("."));
    // A self-test's runner has one model in its life.
    let thrown_away = options.all("--thrown-away").next() == Some("yes");
    let memory = Memory::of_process(thrown_away);
    // Before the first thread is started and the first command is read.
    let confinement = sandbox::confine(&keep(options, thrown_away));
    if let Some(problem) = confinement.problem() {
        tracing::warn!("{problem}");
    }
    let (notices, writer) = pipe::write_notices();
    notices.tell(RunnerNotice::Ready {
        protocol: PROTOCOL,
        pid: std::process::id(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        listens,
        confinement,
    });
    pipe::read_commands(jobs.clone());
    let (ended, end) = oneshot::channel();
    let engine = std::thread::spawn(move || {
        Engine::new(organs, jobs, notices, board).bounded_by(memory).run(&queue);
        ended.send(()).ok();
    });
    // An engine that panicked drops its end of the channel: the supervisor sees a status other than 0.
    let in_order = end.await.is_ok();
    drop(engine.join());
    drop(writer.join());
    Ok(if in_order { DONE } else { REFUSED })
}

/// Models lie in the folders it is told of, or, by hand, beneath its directory.
fn keep(options: &Options, thrown_away: bool) -> Keep {
    let dir = std::path::Path::new(options.all("--dir").next().unwrap_or("."));
    let mut folders: Vec<_> = options.all("--models").map(|folder| dir.join(folder)).collect();
    if folders.is_empty() {
        folders.push(dir.to_owned());
    }
    Keep { folders, cpu_seconds: thrown_away.then_some(sandbox::CPU_SECONDS) }
}

/// The application's server in front of an engine.
pub(super) fn app(jobs: SyncSender<Job>, board: Board) -> anyhow::Result<Router> {
    Ok(router(Shared { jobs, board, numbering: Arc::new(Numbering::new()?) }))
}

async fn tcp(address: &str) -> anyhow::Result<tokio::net::TcpListener> {
    let parsed: std::net::SocketAddr =
        address.parse().with_context(|| format!("--tcp {address}: expected an address such as 127.0.0.1:8000"))?;
    if !parsed.ip().is_loopback() {
        bail!("--tcp {address}: the runner serves this machine only, use 127.0.0.1 or [::1]");
    }
    tokio::net::TcpListener::bind(parsed)
        .await
        .with_context(|| format!("--tcp {address}: not to be had, choose another port or stop who has it"))
}

async fn unix(path: &str) -> anyhow::Result<tokio::net::UnixListener> {
    let stale = std::path::Path::new(path).exists() && tokio::net::UnixStream::connect(path).await.is_err();
    if stale {
        std::fs::remove_file(path).with_context(|| format!("--unix {path}: left over from an earlier run and not to be removed"))?;
    }
    let listener = tokio::net::UnixListener::bind(path)
        .with_context(|| format!("--unix {path}: not to be had, choose another path or stop who listens there"))?;
    // Owner and group: the application runs as another user of the device's own group.
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o660)).with_context(|| format!("--unix {path}"))?;
    Ok(listener)
}

#[derive(Clone)]
pub(super) struct Shared {
    jobs: SyncSender<Job>,
    board: Board,
    numbering: Arc<Numbering>,
}

impl Shared {
    fn serving(&self) -> Option<Serving> {
        self.board.read().unwrap_or_else(std::sync::PoisonError::into_inner).clone()
    }

    /// The model of this name, or the error to send.
    fn model(&self, name: &str, version: Option<&str>) -> Result<Serving, Problem> {
        let Some(serving) = self.serving() else { return Err(Problem(StatusCode::SERVICE_UNAVAILABLE, Refusal::NoModel.to_string())) };
        let fits = serving.manifest.line.as_str() == name && version.is_none_or(|v| serving.manifest.version.as_str() == v);
        if fits {
            return Ok(serving);
        }
        let asked: String = version.map_or_else(|| name.to_owned(), |v| format!("{name} version {v}")).chars().take(120).collect();
        let (line, version) = (&serving.manifest.line, &serving.manifest.version);
        Err(Problem(StatusCode::NOT_FOUND, format!("{asked:?} is not active on this device; {line} version {version} is")))
    }

    pub(super) fn put(&self, job: Job) -> Result<(), Problem> {
        self.jobs.try_send(job).map_err(|error| match error {
            TrySendError::Full(_) => Problem(StatusCode::SERVICE_UNAVAILABLE, "too many requests wait already: ask again later".to_owned()),
            TrySendError::Disconnected(_) => Problem(StatusCode::SERVICE_UNAVAILABLE, "the runner is ending".to_owned()),
        })
    }
}

/// An error in the protocol's form.
pub(super) struct Problem(pub(super) StatusCode, pub(super) String);

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        (self.0, Json(json!({"error": self.1}))).into_response()
    }
}

impl From<Refusal> for Problem {
    fn from(refusal: Refusal) -> Self {
        let status = match &refusal {
            Refusal::NoModel => StatusCode::SERVICE_UNAVAILABLE,
            Refusal::Rejected(_) | Refusal::InputNotFinite(_) => StatusCode::BAD_REQUEST,
            Refusal::Failed(_) | Refusal::NotFinite(_) => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Self(status, refusal.to_string())
    }
}

pub(super) fn gone<T>(_: T) -> Problem {
    Problem(StatusCode::SERVICE_UNAVAILABLE, "the runner is ending".to_owned())
}

fn router(shared: Shared) -> Router {
    Router::new()
        .route("/v2", get(server))
        .route("/v2/health/live", get(|| async { Json(json!({"live": true})) }))
        .route("/v2/health/ready", get(ready))
        .route("/v2/models/{name}", get(|s, Path(name): Path<String>| async move { model(s, &name, None) }))
        .route("/v2/models/{name}/versions/{version}", get(|s, Path((n, v)): Path<(String, String)>| async move { model(s, &n, Some(&v)) }))
        .route("/v2/models/{name}/ready", get(|s, Path(name): Path<String>| async move { model_ready(s, &name, None) }))
        .route(
            "/v2/models/{name}/versions/{version}/ready",
            get(|s, Path((n, v)): Path<(String, String)>| async move { model_ready(s, &n, Some(&v)) }),
        )
        .route("/v2/models/{name}/infer", post(|s, h, Path(n): Path<String>, b| async move { infer(s, h, n, None, b).await }))
        .route(
            "/v2/models/{name}/versions/{version}/infer",
            post(|s, h, Path((n, v)): Path<(String, String)>, b| async move { infer(s, h, n, Some(v), b).await }),
        )
        .route("/leeway/v1/feedback", post(feedback))
        .route("/leeway/v1/metrics", post(told))
        .route("/leeway/v1/status", get(status))
        .fallback(|| async {
            Problem(StatusCode::NOT_FOUND, "there is nothing at this path; the Open Inference Protocol starts at /v2".to_owned())
        })
        .method_not_allowed_fallback(|| async { Problem(StatusCode::METHOD_NOT_ALLOWED, "this path does not take that method".to_owned()) })
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .layer(axum::middleware::from_fn_with_state(Arc::new(Semaphore::new(HELD_KILOBYTES as usize)), hold))
        .with_state(shared)
}

/// A request with a body waits until there is room for it; one that does not say how long it is takes the most.
async fn hold(State(room): State<Arc<Semaphore>>, request: Request, next: Next) -> Response {
    let length = request.headers().get(header::CONTENT_LENGTH).and_then(|text| text.to_str().ok()?.parse::<usize>().ok());
    let bytes = if request.body().is_end_stream() { 0 } else { length.unwrap_or(MAX_BODY).min(MAX_BODY) };
    let kilobytes = u32::try_from(bytes.div_ceil(1 << 10)).unwrap_or(HELD_KILOBYTES);
    // Never closed, so this waits and does not fail.
    let _held = room.acquire_many(kilobytes).await;
    next.run(request).await
}

async fn server() -> impl IntoResponse {
    Json(json!({"name": "leeway-runner", "version": env!("CARGO_PKG_VERSION"), "extensions": []}))
}

async fn ready(State(shared): State<Shared>) -> Response {
    let ready = shared.serving().is_some();
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(json!({"ready": ready}))).into_response()
}

fn model(State(shared): State<Shared>, name: &str, version: Option<&str>) -> Result<impl IntoResponse + use<>, Problem> {
    shared.model(name, version).map(|serving| Json(metadata(&serving.manifest)))
}

fn model_ready(State(shared): State<Shared>, name: &str, version: Option<&str>) -> Result<impl IntoResponse + use<>, Problem> {
    shared.model(name, version).map(|serving| Json(json!({"name": serving.manifest.line, "ready": true})))
}

pub(super) type Body = Result<Bytes, BytesRejection>;

pub(super) fn body(body: Body) -> Result<Bytes, Problem> {
    body.map_err(|rejection| {
        let status = rejection.status();
        let text = if status == StatusCode::PAYLOAD_TOO_LARGE {
            format!("the body is larger than {MAX_BODY} bytes")
        } else {
            rejection.body_text()
        };
        Problem(status, text)
    })
}

async fn infer(
    State(shared): State<Shared>,
    headers: HeaderMap,
    name: String,
    version: Option<String>,
    bytes: Body,
) -> Result<Response, Problem> {
    let serving = shared.model(&name, version.as_deref())?;
    let rejected = |status: StatusCode, text: String| {
        // Counted against the application, in the model's window. If even that queue is full the count may be one short.
        drop(shared.put(Job::Reject));
        Problem(status, text)
    };
    let bytes = body(bytes).map_err(|Problem(status, text)| rejected(status, text))?;
    if headers.contains_key("inference-header-content-length") {
        let text = "binary tensors are not served here: send the JSON form (binary_data=False)";
        return Err(rejected(StatusCode::BAD_REQUEST, text.to_owned()));
    }
    let request: InferRequest = serde_json::from_slice(&bytes)
        .map_err(|e| rejected(StatusCode::BAD_REQUEST, format!("the body is not an inference request: {e}")))?;
    let checked = request.check(&serving.manifest, || shared.numbering.next()).map_err(|text| rejected(StatusCode::BAD_REQUEST, text))?;
    let (reply, answer) = oneshot::channel();
    shared.put(Job::Infer { ask: checked.ask, reply })?;
    let answered = answer.await.map_err(gone)??;
    Ok(Json(InferResponse::new(answered, checked.id, &checked.wanted)).into_response())
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Feedback {
    id: String,
    label: f64,
}

/// A delayed label for an earlier request.
async fn feedback(State(shared): State<Shared>, bytes: Body) -> Result<Response, Problem> {
    let bytes = body(bytes)?;
    let feedback: Feedback = serde_json::from_slice(&bytes)
        .map_err(|e| Problem(StatusCode::BAD_REQUEST, format!("expected {{\"id\": \"…\", \"label\": number}}: {e}")))?;
    let label = feedback.label as f32;
    if !label.is_finite() {
        return Err(Problem(StatusCode::BAD_REQUEST, format!("the label {} is not a number a model can decide", feedback.label)));
    }
    let (reply, found) = oneshot::channel();
    shared.put(Job::Label { request: requests::number(&feedback.id), label, reply })?;
    let matched = found.await.map_err(gone)?;
    let text = if matched {
        "the label was counted"
    } else {
        "no decision is remembered for this id: labelled already, too old, or from another device"
    };
    Ok(Json(json!({"matched": matched, "message": text})).into_response())
}

async fn status(State(shared): State<Shared>) -> impl IntoResponse {
    let serving = shared.serving().map(|s| {
        json!({
            "slot": s.slot, "line": s.manifest.line, "version": s.manifest.version, "manifest": s.proof.manifest, "model": s.proof.model,
            "golden": s.proof.golden, "p50_us": s.proof.p50_us, "p99_us": s.proof.p99_us, "inferences": s.inferences, "errors": s.errors,
        })
    });
    Json(json!({"serving": serving}))
}
