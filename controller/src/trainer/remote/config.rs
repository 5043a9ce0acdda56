//! What a worker is told about another system: one TOML file, refused where it cannot be meant.
//!
//! Secrets are named and never written in the file: they come from the environment or from a file of their own. What stays true: every
//! placeholder of a file that is accepted can be filled.
use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;

use super::Params;
use super::template::{Fill, How, Unknown};

/// Another system.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// What it is called in pages and logs.
    pub name: String,
    /// Hosts and networks that may be called although they are not public or without TLS, as `--webhook-allow` takes them.
    #[serde(default)]
    pub allow: Vec<String>,
    /// Plain values, for `{var.NAME}`.
    #[serde(default)]
    pub vars: BTreeMap<String, String>,
    /// Where secrets are, for `{secret.NAME}`.
    #[serde(default)]
    pub secrets: BTreeMap<String, Source>,
    /// Headers of every request.
    #[serde(default)]
    pub headers: BTreeMap<String, String>,
    /// Requests are signed for AWS.
    #[serde(default)]
    pub aws: Option<Aws>,
    /// How a run is started.
    pub submit: Submit,
    /// How a run that was started is found by its key.
    #[serde(default)]
    pub find: Option<Find>,
    /// How a run is asked after.
    pub poll: Poll,
    /// Where what it made is; absent where the run delivers it to the controller.
    #[serde(default)]
    pub artifacts: Option<ArtifactUrls>,
    /// Bounds.
    #[serde(default)]
    pub limits: Limits,
}

/// Where a secret is.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Source {
    /// A variable of the environment.
    #[serde(default)]
    pub env: Option<String>,
    /// A file; a line break at its end is not part of it.
    #[serde(default)]
    pub file: Option<String>,
    /// Whether it may be missing; it is empty then.
    #[serde(default)]
    pub optional: bool,
}

/// Signed requests.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Aws {
    /// Such as `{var.region}`.
    pub region: String,
    /// Such as `sagemaker`.
    pub service: String,
    /// Such as `{secret.id}`.
    pub access_key_id: String,
    /// Such as `{secret.key}`.
    pub secret_access_key: String,
    /// Of a temporary key; empty for none.
    #[serde(default)]
    pub session_token: String,
}

/// How a run is started.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Submit {
    /// Where.
    pub url: String,
    /// Headers of this request.
    #[serde(default)]
    pub headers: BTreeMap<String, String>,
    /// What, JSON.
    pub body: String,
    /// Where the answer names the run: a JSON pointer. Without one, or where it is not there, the run is found by its key.
    #[serde(default)]
    pub run: Option<String>,
    /// Statuses that say that the key is known already.
    #[serde(default)]
    pub known: Vec<u16>,
    /// The name of a run whose key is known, where it follows from the key.
    #[serde(default)]
    pub known_run: Option<String>,
    /// The service itself takes a second request under the same key for the first.
    #[serde(default)]
    pub idempotent: bool,
}

/// How a run is found by its key.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Find {
    /// `GET` unless there is a body.
    pub url: String,
    /// Headers of this request.
    #[serde(default)]
    pub headers: BTreeMap<String, String>,
    /// What is asked, JSON.
    #[serde(default)]
    pub body: Option<String>,
    /// Where the list is: a JSON pointer.
    pub items: String,
    /// Where an item says its key: a JSON pointer.
    pub key: String,
    /// What it says there, such as `Retrain {key}`.
    pub equals: String,
    /// Where an item names the run.
    pub run: String,
}

/// How a run is asked after.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Poll {
    /// `GET` unless there is a body.
    pub url: String,
    /// Headers of this request.
    #[serde(default)]
    pub headers: BTreeMap<String, String>,
    /// What is asked, JSON.
    #[serde(default)]
    pub body: Option<String>,
    /// Where its state is: the first of these JSON pointers that holds a word.
    pub state: Vec<String>,
    /// Words for done.
    pub done: Vec<String>,
    /// Words for over without a result.
    pub failed: Vec<String>,
    /// Where it says why: the first of these that holds a text.
    #[serde(default)]
    pub reason: Vec<String>,
    /// Where it is shown to people.
    #[serde(default)]
    pub page: Option<String>,
}

/// Where a run leaves what it made.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ArtifactUrls {
    /// The ONNX file.
    pub model: String,
    /// Golden vectors.
    pub golden: String,
    /// Metrics.
    #[serde(default)]
    pub metrics: Option<String>,
}

/// Bounds of a run.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// A request must be answered in this time.
    pub request_secs: u64,
    /// Time between two questions.
    pub poll_secs: u64,
    /// A run that takes longer is given up; it is not ended there.
    pub run_secs: u64,
    /// Answers that are none, in a row, before it is given up.
    pub errors: u32,
    /// Submissions of one key, at most.
    pub submits: u32,
    /// A run that was started may be missing from the list for so long.
    pub settle_secs: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { request_secs: 30, poll_secs: 20, run_secs: 12 * 3600, errors: 30, submits: 8, settle_secs: 120 }
    }
}

/// A file that cannot be meant.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// Its form.
    #[error("{0}")]
    Form(String),
    /// A body that is no JSON.
    #[error("the body of {0} is not JSON: {1}")]
    Body(&'static str, String),
    /// A placeholder.
    #[error("{0}: {1}")]
    Placeholder(&'static str, Unknown),
    /// A run whose name nobody learns.
    #[error("submit has neither run nor known_run, and there is no find: the run's name would never be known")]
    Nameless,
    /// No words for the end.
    #[error("poll needs words for done and for failed, and pointers for its state")]
    Endless,
    /// A secret from nowhere, or from two places.
    #[error("secret {0:?} needs either env or file")]
    Secret(String),
}

impl Config {
    /// Read a file.
    pub fn parse(text: &str) -> Result<Self, ConfigError> {
        let config: Self = toml::from_str(text).map_err(|e| ConfigError::Form(e.to_string()))?;
        config.check()?;
        Ok(config)
    }

    fn check(&self) -> Result<(), ConfigError> {
        if let Some((name, _)) = self.secrets.iter().find(|(_, source)| source.env.is_some() == source.file.is_some()) {
            return Err(ConfigError::Secret(name.clone()));
        }
        if self.submit.run.is_none() && self.submit.known_run.is_none() && self.find.is_none() {
            return Err(ConfigError::Nameless);
        }
        if self.poll.done.is_empty() || self.poll.failed.is_empty() || self.poll.state.is_empty() {
            return Err(ConfigError::Endless);
        }
        let secrets = self.secrets.keys().map(|name| (name.clone(), String::new())).collect();
        let params = super::PARAMS.into_iter().map(|name| (name.to_owned(), String::new())).collect();
        let fill = Fill { secrets, ..self.fill(String::new(), params) };
        let texts = |what: &'static str, texts: Vec<&String>, how: How| {
            texts.into_iter().try_for_each(|text| fill.text(text, how).map(drop)).map_err(|e| ConfigError::Placeholder(what, e))
        };
        let body = |what: &'static str, text: &str| {
            let value: Value = serde_json::from_str(text).map_err(|e| ConfigError::Body(what, e.to_string()))?;
            fill.json(&value).map(drop).map_err(|e| ConfigError::Placeholder(what, e))
        };
        texts("headers", self.headers.values().collect(), How::Plain)?;
        texts(
            "submit",
            [&self.submit.url].into_iter().chain(&self.submit.known_run).chain(self.submit.headers.values()).collect(),
            How::Url,
        )?;
        body("submit", &self.submit.body)?;
        texts("poll", [&self.poll.url].into_iter().chain(self.poll.headers.values()).chain(&self.poll.page).collect(), How::Url)?;
        self.poll.body.as_deref().map_or(Ok(()), |text| body("poll", text))?;
        if let Some(find) = &self.find {
            texts("find", [&find.url, &find.equals].into_iter().chain(find.headers.values()).collect(), How::Url)?;
            find.body.as_deref().map_or(Ok(()), |text| body("find", text))?;
        }
        if let Some(urls) = &self.artifacts {
            texts("artifacts", [&urls.model, &urls.golden].into_iter().chain(&urls.metrics).collect(), How::Url)?;
        }
        let aws =
            self.aws.iter().flat_map(|aws| [&aws.region, &aws.service, &aws.access_key_id, &aws.secret_access_key, &aws.session_token]);
        texts("aws", aws.collect(), How::Plain)
    }

    /// What fills the holes, but for secrets and the run's name.
    pub fn fill(&self, key: String, params: Params) -> Fill {
        Fill { key, run: String::new(), vars: self.vars.clone(), secrets: BTreeMap::new(), params }
    }
}
