//! Training done by another system, over HTTP: the requests that [`crate::trainer::remote`] says, sent.
//!
//! Each look at a run sends one request at most. What must survive a restart lies in `DIR/remote/<job>.json` and is written, and on the
//! disk, before a request goes out that may start a run. Requests go where a webhook of the controller may go: to public addresses over
//! TLS and what the file allows, judged after the name was looked up, through no proxy and along no redirect; so neither a name that
//! points inside nor an answer can make the worker ask what it should not. What stays true: a secret is in a request and nowhere else.
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use leeway_protocol::digest::Digest;
use leeway_protocol::manifest::MAX_MODEL_BYTES;
use leeway_protocol::time::Timestamp;
use ureq::http::Uri;

use super::command::{MAX_JSON_BYTES, artifacts};
use super::{Delivered, Progress, Trainer, TrainerError};
use crate::io::clock;
use crate::io::training::ExternalRun;
use crate::io::webhooks::guarded;
use crate::trainer::remote::aws::{Signer, Unsigned};
use crate::trainer::remote::config::Source;
use crate::trainer::remote::template::How;
use crate::trainer::remote::{Answer, Config, Next, Record, Request, Run, Standing, key, params};
use crate::trainer::{Artifacts, TrainSpec};
use crate::webhook::Reach;
use crate::webhook::reach::Allowed;

/// The most of an answer that is read: a list of a hundred runs of GitHub has half a megabyte.
const MAX_ANSWER_BYTES: u64 = 8 << 20;
/// Models of some hundred megabytes over a slow link.
const DOWNLOAD_LIMIT: Duration = Duration::from_secs(600);
/// A secret in a file is no longer than this.
const MAX_SECRET_BYTES: u64 = 64 << 10;

/// Another system that trains.
#[derive(Debug)]
pub struct Remote {
    config: Arc<Config>,
    /// Digest of the configuration: what exactly was asked, for the lineage.
    revision: Digest,
    reach: Reach,
    agent: ureq::Agent,
    secrets: BTreeMap<String, String>,
    dir: PathBuf,
    url: String,
    jobs: BTreeMap<String, Job>,
}

#[derive(Debug)]
struct Job {
    spec: TrainSpec,
    run: Run,
    delivered: Option<Delivered>,
}

impl Remote {
    /// The system that the file `text` describes, with its secrets read now. What must survive a restart is kept below `dir`; runs
    /// are told to find the controller at `url`.
    pub fn new(text: &str, dir: &Path, url: &str) -> Result<Self, TrainerError> {
        let config = Config::parse(text).map_err(|e| TrainerError::Remote(e.to_string()))?;
        let allowed = config.allow.iter().map(|allowed| allowed.parse::<Allowed>()).collect::<Result<Vec<_>, _>>();
        let reach = Reach::new(allowed.map_err(|e| TrainerError::Remote(e.to_string()))?);
        let agent = guarded(&reach, Duration::from_secs(config.limits.request_secs.clamp(1, 300)));
        let secrets = secrets(&config)?;
        let (dir, url, revision) = (dir.join("remote"), url.to_owned(), Digest::of(text.as_bytes()));
        Ok(Self { config: Arc::new(config), revision, reach, agent, secrets, dir, url, jobs: BTreeMap::new() })
    }

    fn path(&self, job: &str) -> PathBuf {
        // The job's name comes from the controller: a digest of it cannot leave the folder.
        self.dir.join(format!("{}.json", Digest::of(job.as_bytes()).short()))
    }

    fn remembered(&self, job: &str) -> Result<Record, TrainerError> {
        let path = self.path(job);
        match fs::read(&path) {
            // A record that cannot be read is not taken for none: a run may be under way.
            Ok(bytes) => serde_json::from_slice(&bytes).map_err(|e| {
                TrainerError::Remote(format!("{} cannot be read ({e}): look there for the run, then remove it", path.display()))
            }),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(Record::default()),
            Err(source) => Err(TrainerError::Io { what: format!("reading {}", path.display()), source }),
        }
    }

    fn remember(&self, job: &str, record: &Record) -> Result<(), TrainerError> {
        let path = self.path(job);
        let write = || {
            fs::create_dir_all(&self.dir)?;
            let new = path.with_extension("new");
            let mut file = File::create(&new)?;
            file.write_all(&serde_json::to_vec(record).unwrap_or_default())?;
            file.sync_all()?;
            fs::rename(&new, &path)?;
            File::open(&self.dir)?.sync_all()
        };
        write().map_err(|source| TrainerError::Io { what: format!("writing {}", path.display()), source })
    }

    /// One step of a run, at `now`.
    fn step(&mut self, job: &str, now: Timestamp) -> Result<Standing, TrainerError> {
        let unknown = || TrainerError::UnknownJob(job.to_owned());
        let next = self.jobs.get_mut(job).ok_or_else(unknown)?.run.next(now);
        let request = match next {
            Next::Wait(_) => return Ok(Standing::Open),
            Next::Over(standing) => return Ok(standing),
            Next::Ask(request) => request,
        };
        if request.starts {
            let found = self.jobs.get_mut(job).ok_or_else(unknown)?;
            found.run.asking(now);
            let record = found.run.record().clone();
            self.remember(job, &record)?;
        }
        let answer = self.ask(&request, MAX_ANSWER_BYTES, &self.agent);
        let found = self.jobs.get_mut(job).ok_or_else(unknown)?;
        let before = found.run.record().clone();
        found.run.heard(answer, now);
        let (record, standing) = (found.run.record().clone(), found.run.standing());
        if record != before {
            self.remember(job, &record)?;
        }
        Ok(standing)
    }

    fn ask(&self, request: &Request, max_bytes: u64, agent: &ureq::Agent) -> Result<Answer, String> {
        self.reach.target(&request.url).map_err(|e| e.to_string())?;
        let mut headers = request.headers.clone();
        headers.extend(self.signed(request)?);
        let answer = match &request.body {
            Some(body) => {
                let asked = headers.iter().fold(agent.post(&request.url), |asked, (name, value)| asked.header(name, value));
                asked.send(body.as_slice())
            }
            None => headers.iter().fold(agent.get(&request.url), |asked, (name, value)| asked.header(name, value)).call(),
        };
        let mut answer = match answer {
            Ok(answer) => answer,
            Err(ureq::Error::Other(refusal)) => return Err(refusal.to_string()),
            Err(error) => return Err(format!("it was not reached: {error}")),
        };
        let retry_after = answer.headers().get("retry-after").and_then(|value| value.to_str().ok()?.trim().parse().ok());
        let status = answer.status().as_u16();
        let body = answer.body_mut().with_config().limit(max_bytes).read_to_vec().map_err(|e| format!("its answer broke off: {e}"))?;
        Ok(Answer { status, retry_after, body })
    }

    fn signed(&self, request: &Request) -> Result<Vec<(String, String)>, String> {
        let Some(aws) = &self.config.aws else { return Ok(Vec::new()) };
        let fill =
            crate::trainer::remote::template::Fill { secrets: self.secrets.clone(), ..self.config.fill(String::new(), BTreeMap::new()) };
        let text = |text: &str| fill.text(text, How::Plain).map_err(|e| e.to_string());
        let signer = Signer {
            access_key_id: text(&aws.access_key_id)?,
            secret_access_key: text(&aws.secret_access_key)?,
            session_token: Some(text(&aws.session_token)?).filter(|token| !token.is_empty()),
            region: text(&aws.region)?,
            service: text(&aws.service)?,
        };
        let uri: Uri = request.url.parse().map_err(|_| "its address cannot be read".to_owned())?;
        let host = uri.authority().map_or("", |authority| authority.as_str());
        let unsigned = Unsigned {
            method: request.method,
            host,
            path: uri.path(),
            query: uri.query().unwrap_or_default(),
            headers: &request.headers,
            body: request.body.as_deref().unwrap_or_default(),
        };
        Ok(signer.sign(&unsigned, clock::now()))
    }

    fn fetch(&self, run: &Run, url: &str, file: &'static str, max_bytes: u64) -> Result<Vec<u8>, TrainerError> {
        let wrong = |why: String| TrainerError::Artifact { file, why: run.fill().redacted(&why) };
        let filled = |text: &str, how| run.fill().text(text, how).map_err(|e| wrong(e.to_string()));
        let headers = self.config.headers.iter().map(|(name, value)| Ok((name.to_ascii_lowercase(), filled(value, How::Plain)?)));
        let headers = headers.collect::<Result<Vec<_>, TrainerError>>()?;
        let request = Request { method: "GET", url: filled(url, How::Url)?, headers, body: None, starts: false };
        let answer = self.ask(&request, max_bytes, &guarded(&self.reach, DOWNLOAD_LIMIT)).map_err(wrong)?;
        if answer.status != 200 {
            return Err(wrong(format!("{} answered {} where it should be", self.config.name, answer.status)));
        }
        Ok(answer.body)
    }
}

impl Trainer for Remote {
    fn submit(&mut self, spec: &TrainSpec, train: &[u8], holdout: &[u8]) -> Result<(), TrainerError> {
        if self.jobs.contains_key(&spec.job) {
            return Ok(());
        }
        let key = key(&spec.job, Digest::of(train), Digest::of(holdout));
        let record = self.remembered(&spec.job)?;
        // Tokens are short-lived; each job begins with those of its day.
        self.secrets = secrets(&self.config)?;
        let run = Run::new(Arc::clone(&self.config), self.secrets.clone(), params(spec, &key, &self.url), record, key, clock::now());
        self.jobs.insert(spec.job.clone(), Job { spec: spec.clone(), run, delivered: None });
        Ok(())
    }

    fn poll(&mut self, job: &str) -> Result<Progress, TrainerError> {
        Ok(match self.step(job, clock::now())? {
            Standing::Open => Progress::Running,
            Standing::Done => Progress::Done,
            Standing::Failed(why) => Progress::Failed(why),
        })
    }

    fn collect(&mut self, job: &str) -> Result<Artifacts, TrainerError> {
        let found = self.jobs.get(job).ok_or_else(|| TrainerError::UnknownJob(job.to_owned()))?;
        if found.run.standing() != Standing::Done {
            return Err(TrainerError::NotDone(job.to_owned()));
        }
        let made = match (&self.config.artifacts, &found.delivered) {
            (_, Some(delivered)) => delivered.clone(),
            (Some(urls), None) => Delivered {
                model: self.fetch(&found.run, &urls.model, "model.onnx", MAX_MODEL_BYTES)?,
                golden: self.fetch(&found.run, &urls.golden, "golden.json", MAX_JSON_BYTES)?,
                metrics: urls.metrics.as_ref().map(|url| self.fetch(&found.run, url, "metrics.json", MAX_JSON_BYTES)).transpose()?,
            },
            (None, None) => {
                let why = "the run ended well, but delivered nothing: does it call `leeway trainer deliver`?".to_owned();
                return Err(TrainerError::Artifact { file: "model.onnx", why });
            }
        };
        let code = format!("{} run {}", self.config.name, found.run.shown().0);
        let (run, _, url) = found.run.shown();
        let ran = [("executor", Some(self.config.name.as_str())), ("run", Some(run)), ("url", url)];
        let environment = ran.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?.to_owned()))).collect();
        Ok(Artifacts { environment, ..artifacts(&found.spec, made, code, self.revision.to_string())? })
    }

    fn external(&self, job: &str) -> Option<ExternalRun> {
        let (run, state, url) = self.jobs.get(job)?.run.shown();
        let (executor, url) = (self.config.name.clone(), url.map(ToOwned::to_owned));
        Some(ExternalRun { executor, run: run.to_owned(), state: state.to_owned(), url })
    }

    fn wants_delivery(&self, job: &str) -> bool {
        self.config.artifacts.is_none() && self.jobs.get(job).is_some_and(|found| found.delivered.is_none())
    }

    fn take_delivery(&mut self, job: &str, delivered: Delivered) {
        if let Some(found) = self.jobs.get_mut(job) {
            found.delivered = Some(delivered);
        }
    }
}

fn secrets(config: &Config) -> Result<BTreeMap<String, String>, TrainerError> {
    config.secrets.iter().map(|(name, source)| Ok((name.clone(), secret(name, source)?))).collect()
}

fn secret(name: &str, source: &Source) -> Result<String, TrainerError> {
    let found = match (&source.env, &source.file) {
        (Some(variable), _) => std::env::var(variable).map_err(|_| format!("the variable {variable} is not set")),
        (None, Some(path)) => match fs::metadata(path).map(|meta| meta.len()) {
            Ok(size) if size > MAX_SECRET_BYTES => Err(format!("{path} has {size} bytes: is that a secret?")),
            Ok(_) => fs::read_to_string(path).map_err(|e| format!("{path}: {e}")),
            Err(e) => Err(format!("{path}: {e}")),
        },
        (None, None) => Err("it has no source".to_owned()),
    };
    match found {
        Ok(text) => Ok(text.trim_end_matches(['\r', '\n']).to_owned()),
        Err(_) if source.optional => Ok(String::new()),
        Err(why) => Err(TrainerError::Remote(format!("secret {name:?} cannot be had: {why}"))),
    }
}

#[cfg(test)]
mod tests;
