//! The demo's one machine: a folder, keys, the controller and the trainer as processes of their own, and a line to the API.
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use leeway_controller::io::preflight::Runner;
use leeway_protocol::ids::Line;
use leeway_protocol::trust::keyring::SigningKey;
use leeway_protocol::trust::repository::Ceremony;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::children::{Program, free_port};
use crate::client::Client;
use crate::failure::{During, Failure, Outcome};
use crate::{keys, now};

/// How long a started controller may take until it answers.
const START_LIMIT: Duration = Duration::from_secs(30);

/// Everything that stands on the bench.
#[derive(Debug)]
pub struct Workshop {
    /// The folder.
    pub dir: PathBuf,
    /// Removes the folder at the end, if it was made for this demo.
    _kept: Option<tempfile::TempDir>,
    /// The model line.
    pub line: Line,
    /// Every key; the controller has three of them.
    pub keys: Ceremony,
    /// The API, as an administrator.
    pub client: Client,
    /// Runs models in children.
    pub runner: Runner,
    http: u16,
    mqtt: u16,
    controller: Option<Program>,
    trainer: Option<Program>,
}

impl Workshop {
    /// Make the folder, the keys and the configuration.
    pub fn open(dir: Option<&Path>, port: Option<u16>) -> Outcome<Self> {
        let kept = match dir {
            Some(_) => None,
            None => Some(tempfile::tempdir().during("making a temporary folder")?),
        };
        let dir = dir.map(Path::to_path_buf).or_else(|| kept.as_ref().map(|k| k.path().to_path_buf())).unwrap_or_default();
        let line: Line = "rain".parse().during("naming the line")?;
        let made = keys::init(&dir.join("keys"), std::slice::from_ref(&line), now())?;
        let config = dir.join("controller.toml");
        fs::write(&config, super::setup::CONFIG).during(format!("writing {}", config.display()))?;
        let (http, mqtt) = (port.map_or_else(free_port, Ok)?, free_port()?);
        let program = std::env::current_exe().during("finding this program")?;
        let runner = Runner::new(program, vec!["runner".to_owned()]);
        let client = Client::new(&format!("http://127.0.0.1:{http}"), None);
        Ok(Self { dir, _kept: kept, line, keys: made, client, runner, http, mqtt, controller: None, trainer: None })
    }

    /// Start the controller, or start it again, and wait until it answers.
    pub fn start_controller(&mut self) -> Outcome {
        let (dir, keys) = (self.dir.join("controller"), self.dir.join("keys"));
        let text = |path: PathBuf| path.display().to_string();
        let args = [
            "serve".to_owned(),
            "--data".to_owned(),
            text(dir.clone()),
            "--keys".to_owned(),
            text(keys.join("controller")),
            "--config".to_owned(),
            text(self.dir.join("controller.toml")),
            "--listen".to_owned(),
            format!("127.0.0.1:{}", self.http),
            "--mqtt".to_owned(),
            format!("127.0.0.1:{}", self.mqtt),
        ];
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        let mut program = Program::start(&args, &self.dir.join("controller.log"))?;
        let start = Instant::now();
        while self.client.fetch("/readyz").is_err() {
            if !program.is_running() || start.elapsed() > START_LIMIT {
                return Err(Failure::new(format!("the controller did not start:\n{}", program.last_words())));
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        self.controller = Some(program);
        let token = fs::read_to_string(dir.join("admin.token")).during("reading the administrator's token")?;
        self.client = Client::new(self.client.base(), Some(token.trim().to_owned()));
        Ok(())
    }

    /// Kill the controller without a warning.
    pub fn kill_controller(&mut self) {
        if let Some(mut program) = self.controller.take() {
            program.kill();
        }
    }

    /// Start the trainer: a process of its own, with the trainer's key.
    pub fn start_trainer(&mut self) -> Outcome {
        let keys = self.dir.join("keys");
        let (key, root) = (keys.join(format!("trainer/{}-auto.key", self.line)), keys.join("repository/1.root.json"));
        let (key, root, base) = (key.display().to_string(), root.display().to_string(), self.client.base().to_owned());
        let token = self.client.token().unwrap_or_default().to_owned();
        let args = ["trainer", "work", "--url", &base, "--token", &token, "--key", &key, "--root", &root];
        self.trainer = Some(Program::start(&args, &self.dir.join("trainer.log"))?);
        Ok(())
    }

    /// Whether the children still run; the first that does not, by its last words.
    pub fn check(&mut self) -> Outcome {
        for (name, child) in [("controller", &mut self.controller), ("trainer", &mut self.trainer)] {
            if let Some(program) = child
                && !program.is_running()
            {
                return Err(Failure::new(format!("the {name} ended by itself:\n{}", program.last_words())));
            }
        }
        Ok(())
    }

    /// One of the keys.
    pub fn key(&self, name: &str) -> Outcome<&SigningKey> {
        self.keys.key(name).ok_or_else(|| Failure::new(format!("there is no key {name}")))
    }

    /// GET a resource.
    pub fn look<T: DeserializeOwned>(&self, path: &str) -> Outcome<T> {
        tokio::task::block_in_place(|| self.client.read(path))
    }

    /// PUT something.
    pub fn put<T: DeserializeOwned>(&self, path: &str, body: &Value) -> Outcome<T> {
        tokio::task::block_in_place(|| self.client.put(path, body))
    }

    /// POST something.
    pub fn ask(&self, path: &str, body: &Value) -> Outcome<Value> {
        tokio::task::block_in_place(|| self.client.send(path, body))
    }

    /// The broker's port.
    pub fn mqtt(&self) -> u16 {
        self.mqtt
    }
}
