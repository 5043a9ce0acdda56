//! The supervisor of one device: arguments, configuration, run. It holds the keys and never parses a model.
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use leeway_agent::config::Config;
use leeway_agent::io::{Enrolment, Outcome, enrol, run, status};
use tracing_subscriber::filter::Targets;

const USAGE: &str = "\
usage: leeway-agent run    [--config FILE] [--dir DIR]
       leeway-agent enrol  --url http[s]://CONTROLLER --dir DIR [--device NAME] [--token TOKEN] [--label KEY=VALUE]...
                           [--ca FILE] [--image-root FILE] [--director-root FILE] [--broker-secret FILE] [--no-wait]
                           (with --no-wait, a device that a person has yet to accept ends with status 3; run it again)
       leeway-agent status --dir DIR
       leeway-agent check  --config FILE
       leeway-agent --version | --help";

/// Called wrongly, or a configuration that cannot be used.
const USAGE_ERROR: u8 = 2;
/// A person has yet to accept the device.
const PENDING: u8 = 3;
/// The longest configuration.
const MAX_CONFIG: u64 = 1 << 20;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match dispatch(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if error.is::<Pending>() => {
            println!("{error}");
            ExitCode::from(PENDING)
        }
        Err(error) => {
            eprintln!("leeway-agent: {error:#}");
            ExitCode::from(if error.is::<Usage>() { USAGE_ERROR } else { 1 })
        }
    }
}

/// A mistake in the arguments or the configuration, told apart by the exit status.
#[derive(Debug)]
struct Usage(String);

impl std::fmt::Display for Usage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}
impl std::error::Error for Usage {}

/// A person has yet to accept the device.
#[derive(Debug)]
struct Pending(String);

impl std::fmt::Display for Pending {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "waits to be let in: {}", self.0)
    }
}
impl std::error::Error for Pending {}

fn usage(what: impl std::fmt::Display) -> anyhow::Error {
    Usage(format!("{what}\n{USAGE}")).into()
}

fn dispatch(args: &[String]) -> anyhow::Result<()> {
    let Some((command, rest)) = args.split_first() else { return Err(usage("a command is missing")) };
    match command.as_str() {
        "run" => {
            let options = Options::parse(rest, &["--config", "--dir"])?;
            let config = read_config(&options)?;
            start_log(&config.log)?;
            run(&config)
        }
        "enrol" => enrol_device(rest),
        "status" => {
            let options = Options::parse(rest, &["--dir"])?;
            for line in status(Path::new(options.needed("--dir")?))? {
                println!("{line}");
            }
            Ok(())
        }
        "check" => {
            let options = Options::parse(rest, &["--config"])?;
            options.needed("--config")?;
            read_config(&options).map(|config| println!("the configuration is good; the data directory is {}", config.data_dir.display()))
        }
        "--version" | "-V" => {
            println!("leeway-agent {}", env!("CARGO_PKG_VERSION"));
            Ok(())
        }
        "--help" | "-h" | "help" => {
            println!("{USAGE}");
            Ok(())
        }
        other => Err(usage(format_args!("there is no command {other:?}"))),
    }
}

fn read_config(options: &Options) -> anyhow::Result<Config> {
    let mut config = match options.one("--config") {
        None => Config::for_dir(options.needed("--dir")?),
        Some(file) => {
            let about = std::fs::metadata(file).with_context(|| format!("the configuration {file} cannot be read"))?;
            if about.len() > MAX_CONFIG {
                bail!("the configuration {file} has {} bytes, the bound is {MAX_CONFIG}", about.len());
            }
            let text = std::fs::read_to_string(file).with_context(|| format!("the configuration {file} cannot be read"))?;
            Config::parse(&text).map_err(|error| Usage(format!("{file}: {error}")))?
        }
    };
    if let Some(dir) = options.one("--dir") {
        config.data_dir = PathBuf::from(dir);
    }
    Ok(config)
}

/// stderr, so that a service manager's journal has it; `RUST_LOG` wins over the configuration. Targets with levels only: the
/// richer filters would bring a regular-expression engine onto the device.
fn start_log(filter: &str) -> anyhow::Result<()> {
    use tracing_subscriber::layer::SubscriberExt as _;
    use tracing_subscriber::util::SubscriberInitExt as _;
    let configured: Targets = filter
        .parse()
        .map_err(|error| Usage(format!("log = {filter:?} is no filter: {error}; write it like info or leeway_agent=debug")))?;
    let filter = std::env::var("RUST_LOG").ok().and_then(|text| text.parse().ok()).unwrap_or(configured);
    let ansi = std::io::IsTerminal::is_terminal(&std::io::stderr());
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_target(false).with_ansi(ansi);
    tracing_subscriber::registry().with(lines).with(filter).init();
    Ok(())
}

/// The one option without a value.
const NO_WAIT: &str = "--no-wait";

fn enrol_device(args: &[String]) -> anyhow::Result<()> {
    let known = ["--url", "--dir", "--device", "--token", "--label", "--ca", "--image-root", "--director-root", "--broker-secret"];
    let wait = !args.iter().any(|argument| argument == NO_WAIT);
    let args: Vec<String> = args.iter().filter(|argument| *argument != NO_WAIT).cloned().collect();
    let options = Options::parse(&args, &known)?;
    let mut labels = BTreeMap::new();
    for label in options.all("--label") {
        let (name, value) = label.split_once('=').ok_or_else(|| usage(format_args!("--label {label}: write it as key=value")))?;
        labels.insert(name.to_owned(), value.to_owned());
    }
    let device = options.one("--device").map(str::parse).transpose().map_err(|error| usage(format_args!("--device: {error}")))?;
    let outcome = enrol(&Enrolment {
        url: options.needed("--url")?.to_owned(),
        device,
        token: options.one("--token").map(str::to_owned),
        dir: PathBuf::from(options.needed("--dir")?),
        labels,
        image_root: options.one("--image-root").map(PathBuf::from),
        director_root: options.one("--director-root").map(PathBuf::from),
        broker_secret: options.one("--broker-secret").map(PathBuf::from),
        ca: options.one("--ca").map(PathBuf::from),
        wait,
    })?;
    let identity = match outcome {
        Outcome::Enrolled(identity) => identity,
        Outcome::Pending(sentence) => return Err(Pending(sentence).into()),
    };
    if identity.broker.password.is_empty() {
        let broker = &identity.broker;
        eprintln!(
            "leeway-agent: the broker at {}:{} is not the controller's own: have its operator admit the user {}, then enrol again with --broker-secret FILE and a token that has a use left",
            broker.host, broker.port, broker.username
        );
    }
    println!("enrolled as {} of {}; start it with: leeway-agent run --dir {}", identity.device, identity.tenant, options.needed("--dir")?);
    Ok(())
}

/// `--name value` pairs.
#[derive(Debug, Default)]
struct Options(Vec<(String, String)>);

impl Options {
    fn parse(args: &[String], known: &[&str]) -> anyhow::Result<Self> {
        let mut found = Vec::new();
        let mut args = args.iter();
        while let Some(argument) = args.next() {
            let (name, inline) = match argument.split_once('=') {
                Some((name, value)) if name.starts_with("--") => (name, Some(value.to_owned())),
                _ => (argument.as_str(), None),
            };
            if !known.contains(&name) {
                return Err(usage(format_args!("there is no option {name:?} here; known are {}", known.join(", "))));
            }
            let value = inline.or_else(|| args.next().cloned()).ok_or_else(|| usage(format_args!("{name} needs a value")))?;
            found.push((name.to_owned(), value));
        }
        Ok(Self(found))
    }

    fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.0.iter().filter(move |(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    fn one(&self, name: &str) -> Option<&str> {
        self.0.iter().rev().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    fn needed(&self, name: &str) -> anyhow::Result<&str> {
        self.one(name).ok_or_else(|| usage(format_args!("{name} is needed")))
    }
}
