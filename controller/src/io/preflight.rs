//! Models are only ever loaded in a child: the runner program, bounded in time, memory and output.
//!
//! The same program runs them on the devices, so what passes here was loaded by the same loader with the same golden vectors.
//! A model that crashes, hangs or eats memory takes down its child and nothing else. What stays true: the controller itself
//! never parses ONNX.
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use leeway_protocol::digest::Digest;
use leeway_protocol::reason::{Code, Reason};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::process::Command;
use tokio::sync::Semaphore;
use tokio::time::timeout;

/// Children at one time: two cores, and each may need its whole memory allowance.
const MAX_CHILDREN: usize = 2;
/// A preflight loads, optimises, tests and times a model; image models on a slow controller need a minute.
const PREFLIGHT_TIMEOUT: Duration = Duration::from_secs(180);
/// Predictions over a holdout of some ten thousand rows.
const PREDICT_TIMEOUT: Duration = Duration::from_secs(600);
/// Address space of a child: several times what the largest model needs, little enough for one machine.
const MAX_CHILD_KIB: u64 = 8 << 20;
/// What a child may print: predictions of a million rows.
const MAX_STDOUT: u64 = 128 << 20;
/// What of its complaints is kept.
const MAX_STDERR: u64 = 64 << 10;

/// The runner program and how to call it.
#[derive(Debug, Clone)]
pub struct Runner {
    program: PathBuf,
    args: Vec<String>,
    permits: Arc<Semaphore>,
}

/// Proof that a model runs, as the runner prints it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Passed {
    /// Digest over the golden outputs it computed.
    pub golden: Digest,
    /// Time to load and optimise.
    #[serde(default)]
    pub load_ms: u64,
    /// Median of one inference.
    #[serde(default)]
    pub p50_us: u64,
    /// 99th percentile of one inference.
    #[serde(default)]
    pub p99_us: u64,
    /// Resident memory afterwards.
    #[serde(default)]
    pub rss_bytes: u64,
}

/// What the runner prints about a model that passed.
#[derive(Deserialize)]
struct Yes {
    proof: Passed,
}

/// What the runner prints about a model it refuses.
#[derive(Deserialize)]
struct No {
    reason: Reason,
}

/// One row's prediction.
#[derive(Debug, Clone, PartialEq)]
pub struct Prediction {
    /// The class decided, or the value; NaN if the model had no answer.
    pub decision: f64,
    /// Confidence of the decision; NaN without one.
    pub confidence: f64,
}

/// The runner gave no usable answer.
#[derive(Debug, thiserror::Error)]
pub enum RunnerError {
    /// It judged the model and refused it.
    #[error("{0}")]
    Refused(Reason),
    /// It could not be started.
    #[error(
        "the runner program {program} cannot be started: {source}; put it back, or start the controller from the program that holds it"
    )]
    Start {
        /// The program.
        program: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// It took too long and was stopped.
    #[error("the model made the runner hang: it was stopped after {0:?}")]
    Hung(Duration),
    /// It died.
    #[error("the model made the runner end without an answer ({status}): {stderr}")]
    Died {
        /// How it ended.
        status: String,
        /// The end of what it wrote.
        stderr: String,
    },
    /// It printed something else.
    #[error("the runner's answer cannot be read: {0}; are runner and controller of one release?")]
    Unreadable(String),
}

impl RunnerError {
    /// The reason a device would give for the same.
    pub fn reason(&self) -> Reason {
        match self {
            Self::Refused(reason) => reason.clone(),
            Self::Hung(_) => Reason::new(Code::Hung, self),
            Self::Died { .. } => Reason::new(Code::Crashed, self),
            Self::Start { .. } | Self::Unreadable(_) => Reason::new(Code::LoadFailed, self),
        }
    }
}

impl Runner {
    /// `program`, with `args` in front of what it is asked (such as `runner` for a program of several faces).
    pub fn new(program: PathBuf, args: Vec<String>) -> Self {
        Self { program, args, permits: Arc::new(Semaphore::new(MAX_CHILDREN)) }
    }

    /// Load a model as a device would, test it on its golden vectors, time it.
    pub async fn preflight(&self, model: &Path, manifest: &Path) -> Result<Passed, RunnerError> {
        let out = self.run("preflight", &[("--model", model), ("--manifest", manifest)], PREFLIGHT_TIMEOUT).await?;
        serde_json::from_slice::<Yes>(&out).map(|yes| yes.proof).map_err(|e| RunnerError::Unreadable(e.to_string()))
    }

    /// Inputs, outputs and operators of an ONNX file, as the runner's JSON.
    pub async fn describe(&self, model: &Path) -> Result<serde_json::Value, RunnerError> {
        let out = self.run("describe", &[("--model", model)], PREFLIGHT_TIMEOUT).await?;
        serde_json::from_slice(&out).map_err(|e| RunnerError::Unreadable(e.to_string()))
    }

    /// One prediction per row of a CSV file with a header and the free inputs as columns.
    pub async fn predict(&self, model: &Path, manifest: &Path, rows: &Path) -> Result<Vec<Prediction>, RunnerError> {
        let out = self.run("predict", &[("--model", model), ("--manifest", manifest), ("--rows", rows)], PREDICT_TIMEOUT).await?;
        parse_predictions(&out)
    }

    async fn run(&self, what: &str, args: &[(&str, &Path)], limit: Duration) -> Result<Vec<u8>, RunnerError> {
        // Closed only with the program.
        let _permit = self.permits.acquire().await.map_err(|e| RunnerError::Unreadable(e.to_string()))?;
        let start = |source| RunnerError::Start { program: self.program.clone(), source };
        if !self.program.is_file() {
            return Err(start(std::io::ErrorKind::NotFound.into()));
        }
        // The shell sets the limit and is replaced by the runner, so there is one process to stop.
        let mut command = Command::new("/bin/sh");
        command.arg("-c").arg(format!("ulimit -v {MAX_CHILD_KIB}; exec \"$0\" \"$@\"")).arg(&self.program).args(&self.args).arg(what);
        for (name, path) in args {
            command.arg(name).arg(path);
        }
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true).env_clear();
        let mut child = command.spawn().map_err(start)?;
        let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
        let work = async {
            let (out, err) = tokio::join!(capped(stdout, MAX_STDOUT), capped(stderr, MAX_STDERR));
            (out, err, child.wait().await)
        };
        let (out, err, status) = timeout(limit, work).await.map_err(|_| RunnerError::Hung(limit))?;
        let status = status.map_err(start)?;
        if status.success() {
            return Ok(out);
        }
        if status.code() == Some(1) {
            return match serde_json::from_slice::<No>(&out) {
                Ok(no) => Err(RunnerError::Refused(no.reason)),
                // Some rows without an answer: each has its line.
                Err(_) if what == "predict" && !out.is_empty() => Ok(out),
                Err(_) => Err(died(&status, &err)),
            };
        }
        Err(died(&status, &err))
    }
}

fn died(status: &std::process::ExitStatus, stderr: &[u8]) -> RunnerError {
    let text = String::from_utf8_lossy(stderr);
    let text = text.trim();
    let tail = text.chars().skip(text.chars().count().saturating_sub(400)).collect();
    RunnerError::Died { status: status.to_string(), stderr: tail }
}

/// Everything the child prints is read, so it never blocks; what is past the bound is thrown away.
async fn capped(stream: Option<impl AsyncRead + Unpin>, max: u64) -> Vec<u8> {
    let mut kept = Vec::new();
    if let Some(mut stream) = stream {
        let _ = (&mut stream).take(max).read_to_end(&mut kept).await;
        let _ = tokio::io::copy(&mut stream, &mut tokio::io::sink()).await;
    }
    kept
}

fn parse_predictions(out: &[u8]) -> Result<Vec<Prediction>, RunnerError> {
    let text = std::str::from_utf8(out).map_err(|e| RunnerError::Unreadable(e.to_string()))?;
    let bad = |line: &str| RunnerError::Unreadable(format!("{:?} is not a prediction", line.chars().take(60).collect::<String>()));
    let parse = |line: &str| {
        let mut fields = line.split(',').map(str::trim);
        // An empty field: no answer, or no confidence.
        let mut number = || match fields.next() {
            None | Some("") => Ok(f64::NAN),
            Some(field) => field.parse::<f64>().map_err(|_| bad(line)),
        };
        Ok(Prediction { decision: number()?, confidence: number()? })
    };
    let lines = text.lines().filter(|line| !line.trim().is_empty());
    lines.filter(|line| !line.starts_with("decision")).map(parse).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn script(dir: &Path, body: &str) -> Runner {
        use std::os::unix::fs::PermissionsExt as _;
        let path = dir.join("runner.sh");
        std::fs::write(&path, format!("#!/bin/sh\n{body}\n")).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        Runner::new(path, vec!["runner".to_owned()])
    }

    async fn preflight(body: &str) -> Result<Passed, RunnerError> {
        let dir = tempfile::tempdir().unwrap();
        script(dir.path(), body).preflight(Path::new("m.onnx"), Path::new("m.json")).await
    }

    #[tokio::test]
    async fn a_pass_a_refusal_a_crash_and_nonsense_are_told_apart() {
        let digest = Digest::of(b"golden");
        let asked = "[ \"$1 $2 $3 $4 $5 $6\" = 'runner preflight --model m.onnx --manifest m.json' ]";
        let good =
            preflight(&format!("{asked} && echo '{{\"ok\":true,\"proof\":{{\"golden\":\"{digest}\",\"p99_us\":7}}}}'")).await.unwrap();
        assert_eq!(good, Passed { golden: digest, load_ms: 0, p50_us: 0, p99_us: 7, rss_bytes: 0 });
        let refused = preflight("echo '{\"ok\":false,\"reason\":{\"code\":\"golden-mismatch\",\"detail\":\"output 0 off by 1\"}}'; exit 1")
            .await
            .unwrap_err();
        assert_eq!(refused.reason().code, Code::GoldenMismatch);
        let died = preflight("echo oh no >&2; kill -SEGV $$").await.unwrap_err();
        assert!(died.to_string().contains("oh no"), "{died}");
        assert_eq!(died.reason().code, Code::Crashed);
        assert!(matches!(preflight("echo hello").await.unwrap_err(), RunnerError::Unreadable(_)));
        let missing = Runner::new("/nowhere/runner".into(), Vec::new()).describe(Path::new("m")).await.unwrap_err();
        assert!(missing.to_string().contains("/nowhere/runner"), "{missing}");
    }

    #[tokio::test]
    async fn a_hanging_child_is_stopped_and_a_greedy_one_gets_no_memory() {
        let dir = tempfile::tempdir().unwrap();
        let marker = dir.path().join("alive");
        let runner = script(dir.path(), &format!("sleep 3; touch {}", marker.display()));
        let error = runner.run("preflight", &[], Duration::from_millis(50)).await.unwrap_err();
        assert!(matches!(error, RunnerError::Hung(_)), "{error}");
        let limit = script(dir.path(), "ulimit -v").run("x", &[], Duration::from_secs(5)).await.unwrap();
        assert_eq!(String::from_utf8_lossy(&limit).trim(), MAX_CHILD_KIB.to_string());
        assert!(!marker.exists());
    }

    #[test]
    fn predictions_are_one_per_line() {
        let rows = parse_predictions(b"decision,confidence,outputs\n1,0.75,0.75\n0,0.5,0.5\n\n").unwrap();
        assert_eq!(rows.len(), 2);
        assert!((rows[0].confidence - 0.75).abs() < 1e-12);
        assert!(parse_predictions(b"1,0.5\nnonsense\n").is_err());
        assert!(parse_predictions(b"2.5,\n").unwrap()[0].confidence.is_nan());
        assert!(parse_predictions(b",\n").unwrap()[0].decision.is_nan(), "a row without an answer");
    }
}
