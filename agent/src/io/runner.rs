//! The child: it holds the model and answers the application; no key, no way to the network beyond this machine.
//!
//! Three threads and one loop: stdin is read by one thread, stdout written by another, the engine thread owns the
//! [`Host`](crate::runtime::Host) and takes commands, requests and ticks from one bounded queue, and the main thread serves
//! HTTP. Inference never runs on the thread that reads sockets, and the sign of life comes from the loop that infers, so a
//! model that hangs silences it. Loading happens on a thread of its own: the active model goes on answering.
//!
//! Also here, for publisher, controller and trainer, who run it as a child because only children may hold the engine:
//! `preflight`, `describe` and `predict`.
use std::process::ExitCode;

mod engine;
mod files;
mod numbers;
mod oip;
mod pipe;
mod requests;
mod rows;
mod serve;
#[cfg(test)]
mod tests;
mod tools;

pub use files::FileOrgans;

/// What the runner understands.
const USAGE: &str = "\
usage: leeway-runner serve [--dir DIR] [--tcp 127.0.0.1:PORT] [--unix PATH]   (commands on stdin, notices on stdout)
       leeway-runner preflight --model FILE --manifest FILE                   (one JSON object on stdout, status 0 or 1)
       leeway-runner describe --model FILE                                    (inputs, outputs, operators as JSON)
       leeway-runner predict --model FILE --manifest FILE --rows FILE.csv     (decision,confidence,outputs per row)";

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
        "serve" => Options::parse(options, &["--dir", "--tcp", "--unix"]).and_then(|o| serve::run(&o)),
        "preflight" => Options::parse(options, &["--model", "--manifest"]).and_then(|o| tools::preflight(&o)),
        "describe" => Options::parse(options, &["--model"]).and_then(|o| tools::describe(&o)),
        "predict" => Options::parse(options, &["--model", "--manifest", "--rows"]).and_then(|o| tools::predict(&o)),
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
