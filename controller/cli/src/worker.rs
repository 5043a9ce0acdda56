//! `leeway trainer work`: pulls training jobs, trains, and signs what won. The only process that holds the trainer's key.
//!
//! It signs exactly the candidates it made itself, byte for byte, and only once the controller says they beat the champion. So a
//! stolen controller can feed it data, which the audit trail names by digest, but cannot have a model of its own signed. What
//! stays true: nothing is signed that is not in this worker's own folder.
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::Args;
use leeway_controller::io::preflight::Runner;
use leeway_controller::io::trainer::builtin::Builtin;
use leeway_controller::io::trainer::command::Command;
use leeway_controller::io::trainer::remote::Remote;
use leeway_controller::io::trainer::{Delivered, Progress, Trainer, candidate};
use leeway_controller::io::training::JobSpec;
use leeway_controller::io::web::resource::training::{JobKept, TrainingJob};
use leeway_controller::supply::provenance::Build;
use leeway_controller::trainer::Artifacts;
use leeway_controller::trainer::run::RunRecord;
use leeway_protocol::digest::Digest;
use leeway_protocol::ids::Line;
use leeway_protocol::manifest::{Blob, Manifest};
use leeway_protocol::time::Timestamp;
use leeway_protocol::trust::keyring::SigningKey;
use leeway_protocol::trust::metadata::percent_encoded;
use leeway_protocol::trust::repository::trainer_role;
use serde_json::{Value, json};

use crate::client::Client;
use crate::failure::{During, Failure, Outcome};
use crate::release::Release;
use crate::{keys, now, release};

/// Waiting time when there is nothing to do.
const IDLE: Duration = Duration::from_millis(500);
/// Waiting time between two looks at a running training.
const POLL: Duration = Duration::from_millis(100);
/// Times a controller that does not answer is tolerated in a row: ten minutes at most.
const MAX_SILENCE: u32 = 120;
/// Pause after the controller did not answer.
const RETRY: Duration = Duration::from_secs(5);

/// `leeway trainer work`.
#[derive(Debug, Args)]
pub struct Work {
    /// The trainer's key.
    #[arg(long)]
    pub key: PathBuf,
    /// The image repository's root, as the key ceremony made it.
    #[arg(long)]
    pub root: PathBuf,
    /// Lines to train; any if none is named.
    #[arg(long = "line")]
    pub lines: Vec<Line>,
    /// A program that trains, instead of the built-in trainer; started as PROGRAM ARGS… `JOB_DIR`.
    #[arg(long)]
    pub command: Option<PathBuf>,
    /// Another system that trains: a file as in deploy/trainers (Airflow, Kubeflow Pipelines, SageMaker Pipelines, GitHub Actions, or your own).
    #[arg(long, conflicts_with = "command", requires = "dir")]
    pub remote: Option<PathBuf>,
    /// Its arguments.
    #[arg(long = "arg", allow_hyphen_values = true)]
    pub args: Vec<String>,
    /// Folder for candidates; a temporary one if absent, and then a restart forgets what was approved.
    #[arg(long)]
    pub dir: Option<PathBuf>,
    /// This worker's name.
    #[arg(long, default_value = "worker-1")]
    pub name: String,
    /// End after one job instead of waiting for more.
    #[arg(long)]
    pub once: bool,
}

struct Worker<'a> {
    client: &'a Client,
    args: &'a Work,
    key: SigningKey,
    root: Vec<u8>,
    dir: PathBuf,
    runner: Runner,
    trainer: Box<dyn Trainer>,
    runtime: tokio::runtime::Runtime,
}

/// Run it.
pub fn run(args: &Work, client: &Client) -> Outcome {
    let kept = tempfile::tempdir().during("making a temporary folder")?;
    let dir = args.dir.clone().unwrap_or_else(|| kept.path().to_path_buf());
    fs::create_dir_all(&dir).during(format!("making {}", dir.display()))?;
    let trainer: Box<dyn Trainer> = match (&args.command, &args.remote) {
        (Some(program), _) => Box::new(Command::new(program.clone(), args.args.clone(), dir.join("jobs"))),
        (None, Some(file)) => {
            let text = fs::read_to_string(file).during(format!("reading {}", file.display()))?;
            Box::new(Remote::new(&text, &dir, client.base()).during(format!("reading {}", file.display()))?)
        }
        (None, None) => Box::new(Builtin::default()),
    };
    let program = std::env::current_exe().during("finding this program")?;
    let mut worker = Worker {
        client,
        args,
        key: keys::read_key(&args.key)?,
        root: fs::read(&args.root).during(format!("reading {}", args.root.display()))?,
        dir,
        runner: Runner::new(program, vec!["runner".to_owned()]),
        trainer,
        runtime: tokio::runtime::Builder::new_current_thread().enable_all().build().during("starting")?,
    };
    worker.work()
}

impl Worker<'_> {
    fn work(&mut self) -> Outcome {
        let mut silence = 0;
        loop {
            match self.turn() {
                Ok(true) if self.args.once => return Ok(()),
                Ok(worked) => {
                    silence = 0;
                    std::thread::sleep(if worked { POLL } else { IDLE });
                }
                Err(failure) if failure.is_unreachable() && silence < MAX_SILENCE => {
                    silence += 1;
                    eprintln!("{failure}; trying again");
                    std::thread::sleep(RETRY.min(IDLE * (silence + 1)));
                }
                Err(failure) => return Err(failure),
            }
        }
    }

    /// Sign what was approved, take a job if one waits; whether a job came to its end.
    fn turn(&mut self) -> Outcome<bool> {
        if self.sign_approved()? {
            return Ok(true);
        }
        let claim = json!({ "worker": self.args.name, "lines": self.args.lines });
        let Some(job): Option<JobSpec> = self.client.send("/api/v1/training/claim", &claim)? else { return Ok(false) };
        println!("{}: {}", job.job, job.spec.reason);
        match self.train(&job) {
            Ok(manifest) => {
                println!("{}: candidate {} handed in, accuracy {:.3} on held-out rows", job.job, job.version, accuracy(&manifest))
            }
            Err(failure) if failure.is_unreachable() => return Err(failure),
            Err(failure) => self.give_up(&job.job, &failure)?,
        }
        Ok(false)
    }

    fn train(&mut self, job: &JobSpec) -> Outcome<Manifest> {
        let (train, holdout) = (self.data(job.train)?, self.data(job.holdout)?);
        let started_at = now();
        self.trainer.submit(&job.spec, &train, &holdout).during("starting the training")?;
        let (mut said, mut shown) = (Instant::now(), None);
        loop {
            match self.trainer.poll(&job.job).during("training")? {
                Progress::Running => std::thread::sleep(POLL),
                Progress::Done => break,
                Progress::Failed(why) => {
                    self.alive(&job.job)?;
                    return Err(Failure::new(why));
                }
            }
            let external = self.trainer.external(&job.job);
            if said.elapsed().as_millis() as i64 > job.lease_ms / 3 || (external != shown && said.elapsed() > RETRY) {
                self.alive(&job.job)?;
                (said, shown) = (Instant::now(), external);
            }
        }
        self.take_delivery(job)?;
        let artifacts = self.trainer.collect(&job.job).during("training")?;
        let ended_at = now();
        let dir = self.folder(&job.job);
        fs::create_dir_all(&dir).during(format!("making {}", dir.display()))?;
        let made = candidate(&self.runner, &dir, &job.spec, job.version.clone(), &artifacts, (&train, &holdout), now());
        let manifest = Manifest { seq: job.seq, ..self.runtime.block_on(made).during("trying the candidate out")? };
        let bytes = manifest.to_bytes();
        write(&dir.join("model.onnx"), &artifacts.model)?;
        write(&dir.join("approved-if-won.json"), &bytes)?;
        let run = self.record(job, &artifacts, started_at, ended_at).to_bytes();
        write(&dir.join("run.json"), &run)?;
        self.client.send_bytes("/api/v1/blobs", "application/octet-stream", &artifacts.model)?;
        self.client.send_bytes("/api/v1/blobs", "application/octet-stream", &bytes)?;
        self.client.send_bytes("/api/v1/blobs", "application/octet-stream", &run)?;
        let (blob, run) = (Blob::of(&bytes), Blob::of(&run));
        let handed_in = json!({
            "worker": self.args.name,
            "model": manifest.model.digest,
            "manifest": blob.digest,
            "manifest_length": blob.length,
            "run": run.digest,
            "run_length": run.length,
        });
        let _: TrainingJob = self.client.send(&format!("/api/v1/training/jobs/{}/candidate", job.job), &handed_in)?;
        Ok(manifest)
    }

    /// What happened here: code, parameters, environment, data, begin and end.
    fn record(&self, job: &JobSpec, artifacts: &Artifacts, started_at: Timestamp, ended_at: Timestamp) -> RunRecord {
        let mut environment = artifacts.environment.clone();
        environment.insert("leeway".to_owned(), env!("CARGO_PKG_VERSION").to_owned());
        environment.insert("machine".to_owned(), format!("{} {}", std::env::consts::OS, std::env::consts::ARCH));
        RunRecord {
            v: 1,
            job: job.job.clone(),
            line: job.line.clone(),
            worker: self.args.name.clone(),
            code: artifacts.code.clone(),
            code_revision: artifacts.code_revision.clone(),
            parameters: artifacts.parameters.clone(),
            environment,
            seed: artifacts.seed.clone(),
            dataset: job.dataset,
            train: job.train.digest,
            holdout: job.holdout.digest,
            parent: job.spec.parent,
            model: Digest::of(&artifacts.model),
            metrics: artifacts.metrics.clone(),
            started_at,
            ended_at,
        }
    }

    /// Say that this worker is at it, and where the work is done; what was delivered for it.
    fn alive(&self, job: &str) -> Outcome<JobKept> {
        let alive = json!({ "worker": self.args.name, "run": self.trainer.external(job) });
        self.client.send(&format!("/api/v1/training/jobs/{job}/alive"), &alive)
    }

    /// What the run of another system delivered to the controller, if that is where it leaves it.
    fn take_delivery(&mut self, job: &JobSpec) -> Outcome {
        let kept = self.alive(&job.job)?;
        let Some(delivery) = kept.delivery.filter(|_| self.trainer.wants_delivery(&job.job)) else { return Ok(()) };
        let metrics = delivery.metrics.map(|blob| self.data(blob)).transpose()?;
        let delivered = Delivered { model: self.data(delivery.model)?, golden: self.data(delivery.golden)?, metrics };
        self.trainer.take_delivery(&job.job, delivered);
        Ok(())
    }

    /// Sign every approved candidate that this worker made; whether there was one.
    fn sign_approved(&self) -> Outcome<bool> {
        let jobs: Vec<TrainingJob> = self.client.read("/api/v1/training/jobs")?;
        let mut signed = false;
        for job in jobs.iter().filter(|job| job.state == "approved") {
            let dir = self.folder(&job.id);
            let (Ok(model), Ok(manifest)) = (fs::read(dir.join("model.onnx")), fs::read(dir.join("approved-if-won.json"))) else {
                continue;
            };
            let run = fs::read(dir.join("run.json")).ok().map(|bytes| Digest::of(&bytes));
            let release = Release::by_trainer(&model, self.build(run));
            match release::publish_exactly(self.client, &self.root, &self.key, &release, &manifest, now()) {
                Ok(published) => {
                    println!("{}: signed {} as {}", job.id, published.manifest.version, trainer_role(&published.manifest.line));
                    let _ = fs::remove_dir_all(&dir);
                    signed = true;
                }
                Err(failure) if failure.is_unreachable() => return Err(failure),
                Err(failure) => {
                    self.give_up(&job.id, &failure)?;
                    let _ = fs::remove_dir_all(&dir);
                }
            }
        }
        Ok(signed)
    }

    /// What provenance says of this worker: its name, and which program trains. Not the program's arguments nor where it lies: the
    /// document is for everybody, and either may tell what is not. The record of the run, which tells more, is named by its digest:
    /// who may look at the fleet may read it, and nobody can change it.
    fn build(&self, run: Option<Digest>) -> Build {
        let program = self.args.command.as_deref().or(self.args.remote.as_deref());
        let program = program.map(|path| path.file_name().unwrap_or_default().to_string_lossy().into_owned());
        let mut parameters = BTreeMap::from([("trainer".to_owned(), program.unwrap_or_else(|| "built-in".to_owned()))]);
        parameters.extend(run.map(|run| ("run_record".to_owned(), run.to_string())));
        Build { builder: format!("urn:leeway:builder:trainer:{}", percent_encoded(&self.args.name)), parameters }
    }

    fn give_up(&self, job: &str, failure: &Failure) -> Outcome {
        eprintln!("{job}: {failure}");
        let why = json!({ "worker": self.args.name, "sentence": failure.to_string() });
        let _: Value = self.client.send(&format!("/api/v1/training/jobs/{job}/fail"), &why)?;
        Ok(())
    }

    /// A blob of the controller, as long as it is the one that was named.
    fn data(&self, blob: Blob) -> Outcome<Vec<u8>> {
        data(self.client, blob)
    }

    /// A folder of a job's own; the name comes from the controller, so only its digest is used.
    fn folder(&self, job: &str) -> PathBuf {
        self.dir.join("candidates").join(Digest::of(job.as_bytes()).short())
    }
}

/// A blob of the controller, as long as it is the one that was named.
pub fn data(client: &Client, blob: Blob) -> Outcome<Vec<u8>> {
    let bytes = client.fetch(&format!("/blobs/{}", blob.digest.hex()))?;
    let bytes = bytes.ok_or_else(|| Failure::new(format!("the controller does not have the data {}", blob.digest)))?;
    if Blob::of(&bytes) != blob {
        return Err(Failure::new(format!("the controller's data is not {}, as it said", blob.digest)));
    }
    Ok(bytes)
}

fn accuracy(manifest: &Manifest) -> f64 {
    manifest.lineage.metrics.get("holdout_accuracy").copied().unwrap_or_default()
}

fn write(path: &Path, bytes: &[u8]) -> Outcome {
    fs::write(path, bytes).during(format!("writing {}", path.display()))
}
