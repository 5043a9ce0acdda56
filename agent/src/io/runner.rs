//! The child: it holds the model and answers the application; no key, no way to the network beyond this machine.
//!
//! Three threads and one loop: stdin is read by one thread, stdout written by another, the engine thread owns the
//! [`Host`](crate::runtime::Host) and takes commands, requests and ticks from one bounded queue, and the main thread serves
//! HTTP. Inference never runs on the thread that reads sockets, and the sign of life comes from the loop that infers, so a
//! model that hangs silences it. Loading happens on a thread of its own: the active model goes on answering.
//!
//! It confines itself before it reads a model, whichever of its commands reads one: see [`sandbox`].
//!
//! Also here, for publisher, controller and trainer, who run it as a child because only children may hold the engine:
//! `preflight`, `describe` and `predict`.
use std::path::PathBuf;
use std::process::ExitCode;

use leeway_protocol::manifest::Manifest;
use leeway_protocol::tensor::Tensor;

use crate::confinement::Confinement;

mod engine;
mod files;
mod numbers;
mod oip;
mod pipe;
mod requests;
mod rows;
mod sandbox;
mod serve;
#[cfg(test)]
mod tests;
mod told;
mod tools;

pub use files::FileOrgans;

/// What the runner understands.
const USAGE: &str = "\
usage: leeway-runner serve [--dir DIR] [--models SUBDIR]... [--tcp 127.0.0.1:PORT] [--unix PATH]   (commands on stdin, notices on stdout)
       leeway-runner preflight --model FILE --manifest FILE                   (one JSON object on stdout, status 0 or 1)
       leeway-runner describe --model FILE                                    (inputs, outputs, operators as JSON)
       leeway-runner predict --model FILE --manifest FILE --rows FILE.csv     (decision,confidence,outputs per row)
       leeway-runner probe --try WHAT [--file FILE] [--to ADDRESS]            (confine, then try: status 0 if it was refused)";

/// Ended in order.
const DONE: u8 = 0;
/// The answer is no: refused, failed, not ready.
const REFUSED: u8 = 1;
/// Called wrongly, or a port or file is not to be had.
const USAGE_ERROR: u8 = 2;

/// Run the runner with its arguments, program name left out.
pub fn main(args: impl Iterator<Item = String>) -> ExitCode {
    let args: Vec<String> = args.collect();
    let Some((command, options)) = args.split_first() else { return usage("a command is missing") };
    quiet_panics();
    let told = match command.as_str() {
        "serve" => Options::parse(options, &["--dir", "--models", "--thrown-away", "--tcp", "--unix"]).and_then(|o| serve::run(&o)),
        "preflight" => Options::parse(options, &["--model", "--manifest"]).and_then(|o| tools::preflight(&o)),
        "describe" => Options::parse(options, &["--model"]).and_then(|o| tools::describe(&o)),
        "predict" => Options::parse(options, &["--model", "--manifest", "--rows"]).and_then(|o| tools::predict(&o)),
        "probe" => Options::parse(options, &["--try", "--file", "--to", "--models", "--confined"]).and_then(|o| sandbox::probe::run(&o)),
        "help" | "--help" | "-h" => {
            println!("{USAGE}");
            Ok(DONE)
        }
        other => return usage(&format!("there is no command {other:?}")),
    };
    match told {
        Ok(status) => ExitCode::from(status),
        Err(error) => {
            eprintln!("leeway-runner: {error:#}");
            ExitCode::from(USAGE_ERROR)
        }
    }
}

/// For a program that runs models in its own process and wants them confined all the same: give away every file but those beneath
/// `folders`, new connections and programs, for the whole process and for good. Call it before the first thread is started.
pub fn confine(folders: &[PathBuf]) -> Confinement {
    sandbox::confine(&sandbox::Keep { folders: folders.to_vec(), cpu_seconds: None })
}

/// What the server makes of the body of a request for an inference: its tensors, or the sentence it answers with. For those who
/// throw bytes at it.
pub fn judge_request(body: &[u8], manifest: &Manifest) -> Result<Vec<Tensor>, String> {
    let request: oip::InferRequest = serde_json::from_slice(body).map_err(|e| format!("the body is not an inference request: {e}"))?;
    request.check(manifest, || 0).map(|checked| checked.ask.inputs)
}

fn usage(what: &str) -> ExitCode {
    eprintln!("leeway-runner: {what}\n{USAGE}");
    ExitCode::from(USAGE_ERROR)
}

/// A panic inside the engine is caught and becomes an error with its text; one line in the log is enough for it.
fn quiet_panics() {
    std::panic::set_hook(Box::new(|info| eprintln!("leeway-runner: {}", info.to_string().replace('\n', " "))));
}

/// `--name value` pairs.
#[derive(Debug, Default)]
struct Options(Vec<(String, String)>);

impl Options {
    fn parse(args: &[String], known: &[&str]) -> anyhow::Result<Self> {
        let mut found = Vec::new();
        let mut args = args.iter();
        while let Some(name) = args.next() {
            let Some(known) = known.iter().find(|known| *known == name) else {
                anyhow::bail!("there is no option {name:?} here; known are {}\n{USAGE}", known.join(", "));
            };
            let Some(value) = args.next() else { anyhow::bail!("{known} needs a value\n{USAGE}") };
            found.push(((*known).to_owned(), value.clone()));
        }
        Ok(Self(found))
    }

    fn all(&self, name: &'static str) -> impl Iterator<Item = &str> {
        self.0.iter().filter(move |(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    fn one(&self, name: &'static str) -> anyhow::Result<&str> {
        self.all(name).next().ok_or_else(|| anyhow::anyhow!("{name} is needed\n{USAGE}"))
    }
}
