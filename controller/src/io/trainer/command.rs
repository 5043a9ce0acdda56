//! Any program as a trainer.
//!
//! It is started as `PROGRAM [ARGS…] JOB_DIR`. In `JOB_DIR` it finds `spec.json` ([`TrainSpec`]), the rows as `train.parquet` and
//! `holdout.parquet` (the very files that the digests in `spec.json` name) and the same rows as `train.csv` and `holdout.csv`:
//! feature columns, then those of [`crate::dataset::frame::EXTRA_COLUMNS`]. It leaves `model.onnx`, `golden.json`
//! (`{"inputs": [[…], …], "outputs": [[…], …]}`, made by the training framework) and, if it likes, `metrics.json` (names to
//! numbers) and `run.json` ([`Told`]). Exit status 0 means done. What it prints is kept in `log.txt`, and its last lines are the
//! reason when it fails.
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use leeway_protocol::manifest::{Golden, GoldenVector, MAX_MODEL_BYTES};
use leeway_protocol::tensor::Tensor;
use serde::Deserialize;

use super::{Delivered, Progress, Trainer, TrainerError};
use crate::dataset::frame::Frame;
use crate::trainer::run::{self, MAX_RUN_BYTES, Told};
use crate::trainer::{Artifacts, TrainSpec};

/// A training run that takes longer is ended.
const RUN_LIMIT: Duration = Duration::from_secs(6 * 3600);
/// Golden vectors read.
const MAX_GOLDEN: usize = 64;
/// The largest golden.json or metrics.json.
pub(super) const MAX_JSON_BYTES: u64 = 16 << 20;
/// Characters of the log that become the reason of a failure.
const REASON_CHARS: usize = 600;

/// Runs a program per job, each in its own folder below `dir`.
#[derive(Debug)]
pub struct Command {
    program: PathBuf,
    args: Vec<String>,
    dir: PathBuf,
    jobs: BTreeMap<String, Job>,
}

#[derive(Debug)]
struct Job {
    spec: TrainSpec,
    dir: PathBuf,
    child: Child,
    since: Instant,
    over: Option<Progress>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct GoldenFile {
    inputs: Vec<Vec<f32>>,
    outputs: Vec<Vec<f32>>,
}

impl Command {
    /// A trainer that runs `program args… JOB_DIR`.
    pub fn new(program: PathBuf, args: Vec<String>, dir: PathBuf) -> Self {
        Self { program, args, dir, jobs: BTreeMap::new() }
    }

    fn start(&self, spec: &TrainSpec, dir: &Path, train: &[u8], holdout: &[u8]) -> Result<Child, TrainerError> {
        let failed = |what: String| move |source| TrainerError::Io { what, source };
        fs::create_dir_all(dir).map_err(failed(format!("making {}", dir.display())))?;
        let json = serde_json::to_vec_pretty(spec).unwrap_or_default();
        fs::write(dir.join("spec.json"), json).map_err(failed(format!("writing spec.json in {}", dir.display())))?;
        for (name, bytes) in [("train", train), ("holdout", holdout)] {
            for (file, bytes) in forms(name, bytes)? {
                fs::write(dir.join(&file), bytes).map_err(failed(format!("writing {file} in {}", dir.display())))?;
            }
        }
        let log = File::create(dir.join("log.txt")).map_err(failed("making log.txt".to_owned()))?;
        let err = log.try_clone().map_err(failed("making log.txt".to_owned()))?;
        std::process::Command::new(&self.program)
            .args(&self.args)
            .arg(dir)
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(err)
            .spawn()
            .map_err(failed(format!("starting the training program {}: check its path", self.program.display())))
    }
}

impl Trainer for Command {
    fn submit(&mut self, spec: &TrainSpec, train: &[u8], holdout: &[u8]) -> Result<(), TrainerError> {
        if self.jobs.contains_key(&spec.job) {
            return Ok(());
        }
        // The job's name comes from the controller: a digest of it cannot leave the folder.
        let dir = self.dir.join(leeway_protocol::digest::Digest::of(spec.job.as_bytes()).short());
        let child = self.start(spec, &dir, train, holdout)?;
        self.jobs.insert(spec.job.clone(), Job { spec: spec.clone(), dir, child, since: Instant::now(), over: None });
        Ok(())
    }

    fn poll(&mut self, job: &str) -> Result<Progress, TrainerError> {
        let found = self.jobs.get_mut(job).ok_or_else(|| TrainerError::UnknownJob(job.to_owned()))?;
        if let Some(over) = &found.over {
            return Ok(over.clone());
        }
        let over = match found.child.try_wait() {
            Ok(None) if found.since.elapsed() > RUN_LIMIT => {
                let _ = found.child.kill();
                let _ = found.child.wait();
                Progress::Failed(format!("the training program was ended after {} hours", RUN_LIMIT.as_secs() / 3600))
            }
            Ok(None) => return Ok(Progress::Running),
            Ok(Some(status)) if status.success() => Progress::Done,
            Ok(Some(status)) => Progress::Failed(format!("the training program ended with {status}: {}", last_words(&found.dir))),
            Err(e) => Progress::Failed(format!("the training program cannot be watched: {e}")),
        };
        found.over = Some(over.clone());
        Ok(over)
    }

    fn collect(&mut self, job: &str) -> Result<Artifacts, TrainerError> {
        let found = self.jobs.get(job).ok_or_else(|| TrainerError::UnknownJob(job.to_owned()))?;
        if found.over != Some(Progress::Done) {
            return Err(TrainerError::NotDone(job.to_owned()));
        }
        let model = read(&found.dir, "model.onnx", MAX_MODEL_BYTES)?;
        let golden = read(&found.dir, "golden.json", MAX_JSON_BYTES)?;
        let metrics = read(&found.dir, "metrics.json", MAX_JSON_BYTES).ok();
        let told = match read(&found.dir, "run.json", MAX_RUN_BYTES) {
            Ok(bytes) => serde_json::from_slice(&bytes).map_err(|e| TrainerError::Artifact { file: "run.json", why: e.to_string() })?,
            Err(_) => Told::default(),
        };
        let mut environment = run::texts(&told.environment);
        // Measured here, whatever the program says of itself.
        let script = code_revision(&self.args);
        environment.insert("script".to_owned(), script.clone());
        let code = self.program.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
        let code = self.args.first().map_or(code.clone(), |arg| format!("{code} {arg}"));
        let revision = told.code_revision.map_or(script, |told| run::text(&told.into()));
        let made = artifacts(&found.spec, Delivered { model, golden, metrics }, code, revision)?;
        Ok(Artifacts { parameters: run::texts(&told.parameters), environment, seed: told.seed.as_ref().map(run::text), ..made })
    }
}

impl Drop for Command {
    fn drop(&mut self) {
        for job in self.jobs.values_mut().filter(|job| job.over.is_none()) {
            let _ = job.child.kill();
            let _ = job.child.wait();
        }
    }
}

/// The rows in both forms, with the names of their files. Rows of an older controller are CSV already.
pub fn forms(name: &str, bytes: &[u8]) -> Result<Vec<(String, Vec<u8>)>, TrainerError> {
    let csv = format!("{name}.csv");
    if !Frame::is_parquet(bytes) {
        return Ok(vec![(csv, bytes.to_vec())]);
    }
    let frame = Frame::read(bytes::Bytes::copy_from_slice(bytes))?;
    Ok(vec![(format!("{name}.parquet"), bytes.to_vec()), (csv, frame.to_csv())])
}

/// The digest of the script, when the first argument is a file: what exactly was run.
fn code_revision(args: &[String]) -> String {
    let script = args.first().and_then(|path| fs::read(path).ok());
    script.map_or_else(|| "unknown".to_owned(), |bytes| leeway_protocol::digest::Digest::of(&bytes).to_string())
}

/// The files of a program or a run, read.
pub(super) fn artifacts(spec: &TrainSpec, made: Delivered, code: String, code_revision: String) -> Result<Artifacts, TrainerError> {
    let unreadable = |file: &'static str| move |e: serde_json::Error| TrainerError::Artifact { file, why: e.to_string() };
    let golden: GoldenFile = serde_json::from_slice(&made.golden).map_err(unreadable("golden.json"))?;
    let metrics = made.metrics.map(|bytes| serde_json::from_slice(&bytes).map_err(unreadable("metrics.json"))).transpose()?;
    let golden = Some(vectors(spec, &golden)?);
    Ok(Artifacts { model: made.model, metrics: metrics.unwrap_or_default(), golden, code, code_revision, ..Artifacts::default() })
}

fn vectors(spec: &TrainSpec, golden: &GoldenFile) -> Result<Golden, TrainerError> {
    let wrong = |why: &str| TrainerError::Artifact { file: "golden.json", why: why.to_owned() };
    let ([x], [y]) = (&spec.inputs[..], &spec.outputs[..]) else { return Err(wrong("only one input and one output are supported")) };
    if golden.inputs.len() != golden.outputs.len() || golden.inputs.is_empty() {
        return Err(wrong("it needs as many outputs as inputs, and at least one"));
    }
    let pairs = golden.inputs.iter().zip(&golden.outputs).take(MAX_GOLDEN);
    let vectors = pairs
        .map(|(i, o)| GoldenVector { inputs: vec![Tensor::f32(&x.name, &x.shape, i)], outputs: vec![Tensor::f32(&y.name, &y.shape, o)] });
    Ok(Golden { rtol: 1e-3, atol: 1e-4, vectors: vectors.collect() })
}

fn read(dir: &Path, file: &'static str, max: u64) -> Result<Vec<u8>, TrainerError> {
    let path = dir.join(file);
    let size = fs::metadata(&path).map_err(|e| TrainerError::Artifact { file, why: e.to_string() })?.len();
    if size > max {
        return Err(TrainerError::Artifact { file, why: format!("it has {size} bytes, the bound is {max}") });
    }
    fs::read(&path).map_err(|e| TrainerError::Artifact { file, why: e.to_string() })
}

fn last_words(dir: &Path) -> String {
    let text = fs::read(dir.join("log.txt")).map(|b| String::from_utf8_lossy(&b).into_owned()).unwrap_or_default();
    let skip = text.chars().count().saturating_sub(REASON_CHARS);
    text.chars().skip(skip).collect::<String>().trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trainer::tabular_io;

    fn spec() -> TrainSpec {
        let (inputs, outputs) = tabular_io(2);
        TrainSpec {
            v: 1,
            job: "../../job".into(),
            line: "rain".parse().unwrap(),
            parent: None,
            reason: String::new(),
            features: vec!["a".into(), "b".into()],
            label: "label".into(),
            weight: None,
            inputs,
            outputs,
            datasets: Vec::new(),
        }
    }

    fn run(script: &str) -> (Progress, Result<Artifacts, TrainerError>) {
        let dir = tempfile::tempdir().unwrap();
        let mut trainer = Command::new("/bin/sh".into(), vec!["-c".into(), script.into(), "trainer".into()], dir.path().to_path_buf());
        trainer.submit(&spec(), b"a,b,label\n", b"a,b,label\n").unwrap();
        let start = Instant::now();
        let over = loop {
            match trainer.poll(&spec().job).unwrap() {
                Progress::Running => assert!(start.elapsed() < Duration::from_secs(60)),
                over => break over,
            }
            std::thread::yield_now();
        };
        (over, trainer.collect(&spec().job))
    }

    #[test]
    fn a_program_brings_its_model_and_golden_vectors() {
        let script = r#"test -s "$1/spec.json" && printf onnx > "$1/model.onnx" && echo '{"inputs":[[1,2]],"outputs":[[0.5]]}' > "$1/golden.json" && echo '{"auc":0.9}' > "$1/metrics.json""#;
        let (over, artifacts) = run(script);
        assert_eq!(over, Progress::Done);
        let artifacts = artifacts.unwrap();
        assert_eq!((artifacts.model.as_slice(), artifacts.metrics["auc"]), (b"onnx".as_slice(), 0.9));
        assert_eq!(artifacts.golden.unwrap().vectors[0].outputs[0].to_f64(), [0.5]);
    }

    #[test]
    fn a_program_tells_of_its_run_and_its_script_is_measured() {
        let script = r#"printf onnx > "$1/model.onnx" && echo '{"inputs":[[1,2]],"outputs":[[0.5]]}' > "$1/golden.json" && echo '{"code_revision":"abc","parameters":{"depth":3},"environment":{"numpy":"2.1","script":"mine"},"seed":7}' > "$1/run.json""#;
        let made = run(script).1.unwrap();
        assert_eq!((made.code_revision.as_str(), made.parameters["depth"].as_str(), made.seed.as_deref()), ("abc", "3", Some("7")));
        assert_eq!((made.environment["numpy"].as_str(), made.environment["script"].as_str()), ("2.1", "unknown"));
        let misspelt = script.replace("parameters", "params");
        assert!(run(&misspelt).1.unwrap_err().to_string().contains("run.json"));
    }

    #[test]
    fn a_program_gets_parquet_and_the_same_rows_as_csv() {
        let frame = Frame { features: vec!["a".into()], values: vec![Vec::new()], facts: Vec::new() };
        let parquet = frame.to_parquet().unwrap();
        let names = |bytes: &[u8]| forms("train", bytes).unwrap().into_iter().map(|(name, _)| name).collect::<Vec<_>>();
        assert_eq!(names(&parquet), ["train.parquet", "train.csv"]);
        assert_eq!(names(b"a,label\n"), ["train.csv"]);
        assert!(forms("train", b"PAR1 and rubbish").is_err());
    }

    #[test]
    fn a_failing_program_gives_its_last_words_as_the_reason() {
        let (over, artifacts) = run("echo no such column >&2; exit 3");
        assert!(matches!(&over, Progress::Failed(why) if why.contains("no such column") && why.contains('3')), "{over:?}");
        assert!(artifacts.is_err());
        let (over, artifacts) = run("true");
        assert_eq!(over, Progress::Done);
        assert!(artifacts.unwrap_err().to_string().contains("model.onnx"));
    }

    #[test]
    fn a_program_that_is_not_there_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let mut trainer = Command::new("/no/such/program".into(), Vec::new(), dir.path().to_path_buf());
        let error = trainer.submit(&spec(), b"", b"").unwrap_err();
        assert!(error.to_string().contains("/no/such/program"), "{error}");
    }
}
