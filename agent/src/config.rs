//! The agent's configuration: text in, a checked value out, before any socket opens.
//!
//! Read by hand from a TOML table and not by a derived reader, so that every mistake is named with its section, its line of
//! remedy, and, for a key that does not exist, the key that was probably meant. What stays true: a [`Config`] has passed every
//! check; nothing later in the program asks whether a value makes sense.
use std::collections::BTreeMap;
use std::path::PathBuf;

use toml::Table;

use crate::agent::{OutboxBounds, Timing};

mod section;
use section::Section;

/// What can be wrong with a configuration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// Not TOML.
    #[error("the configuration is not TOML: {0}")]
    Syntax(String),
    /// A key that does not exist.
    #[error("there is no key {key} in the configuration{}", suggestion.as_ref().map(|s| format!(": did you mean {s}?")).unwrap_or_default())]
    Unknown {
        /// The key, with its section.
        key: String,
        /// What was probably meant.
        suggestion: Option<String>,
    },
    /// A value of the wrong type.
    #[error("{key} must be {expected}, but it is {got}")]
    Type {
        /// The key, with its section.
        key: String,
        /// What it must be.
        expected: &'static str,
        /// What it is.
        got: String,
    },
    /// A value that makes no sense.
    #[error("{key} = {value}: {remedy}")]
    Value {
        /// The key, with its section.
        key: String,
        /// The value.
        value: String,
        /// What to write instead.
        remedy: String,
    },
}

/// The agent's configuration.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// Where everything the agent keeps lies; `enrol` made it.
    pub data_dir: PathBuf,
    /// Labels for cohorts; they replace those given at enrolment.
    pub labels: Option<BTreeMap<String, String>>,
    /// How the runner is started.
    pub runner: RunnerConfig,
    /// Bounds of the outbox.
    pub outbox: OutboxBounds,
    /// Patience.
    pub timing: Timing,
    /// The broker, if another than enrolment told.
    pub broker: Option<(String, u16)>,
    /// The artifact server, if another than enrolment told.
    pub artifacts: Option<String>,
    /// Local time, as minutes east of UTC, for maintenance windows.
    pub utc_offset_minutes: i16,
    /// What is logged: a filter such as `info` or `leeway_agent=debug`.
    pub log: String,
}

/// How the runner is started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunnerConfig {
    /// The program; by default `leeway-runner` beside the agent's own.
    pub program: Option<PathBuf>,
    /// Arguments in front of the agent's own, for a program that has the runner as a sub-command.
    pub args: Vec<String>,
    /// Where the application asks over TCP; loopback only.
    pub tcp: Option<String>,
    /// Where the application asks over a Unix socket.
    pub unix: Option<PathBuf>,
}

/// A label's name or value; the controller refuses longer ones.
const MAX_LABEL: usize = 64;
/// Labels of one device.
const MAX_LABELS: usize = 32;
/// The shortest silence that may count as a hang: signs of life come every second.
const MIN_HANG_MS: u64 = 3_000;

impl Config {
    /// The configuration of a device whose data lies in `data_dir`, without a file.
    pub fn for_dir(data_dir: impl Into<PathBuf>) -> Self {
        Self {
            data_dir: data_dir.into(),
            labels: None,
            runner: RunnerConfig { program: None, args: Vec::new(), tcp: Some("127.0.0.1:8000".to_owned()), unix: None },
            outbox: OutboxBounds::default(),
            timing: Timing::default(),
            broker: None,
            artifacts: None,
            utc_offset_minutes: 0,
            log: "info".to_owned(),
        }
    }

    /// Read a configuration.
    pub fn parse(text: &str) -> Result<Self, ConfigError> {
        let table: Table =
            text.parse().map_err(|error: toml::de::Error| ConfigError::Syntax(error.to_string().trim_end().replace('\n', " ")))?;
        let mut top = Section::new("", table);
        let mut config = Self::for_dir("/var/lib/leeway");
        top.path("data_dir", &mut config.data_dir)?;
        top.text("log", &mut config.log)?;
        let mut offset = String::new();
        if top.text("utc_offset", &mut offset)? {
            config.utc_offset_minutes = read_offset(&offset)?;
        }
        if let Some(labels) = top.section("labels")? {
            config.labels = Some(read_labels(labels)?);
        }
        if let Some(mut runner) = top.section("runner")? {
            read_runner(&mut runner, &mut config.runner)?;
            runner.end(&["program", "args", "tcp", "unix"])?;
        }
        if let Some(mut outbox) = top.section("outbox")? {
            outbox.number("max_bytes", 64 << 10, 1 << 40, &mut config.outbox.max_bytes)?;
            outbox.number("max_messages", 10, 1_000_000, &mut config.outbox.max_messages)?;
            outbox.number("max_age_ms", 1_000, u64::MAX / 4, &mut config.outbox.max_age_ms)?;
            outbox.end(&["max_bytes", "max_messages", "max_age_ms"])?;
        }
        if let Some(mut timing) = top.section("timing")? {
            read_timing(&mut timing, &mut config.timing)?;
        }
        if let Some(mut network) = top.section("network")? {
            read_network(&mut network, &mut config)?;
        }
        top.end(&["data_dir", "labels", "runner", "outbox", "timing", "network", "log", "utc_offset"])?;
        if config.data_dir.as_os_str().is_empty() {
            return Err(value("data_dir", "", "name the directory that `leeway-agent enrol` made"));
        }
        Ok(config)
    }
}

fn value(key: &str, value: impl ToString, remedy: &str) -> ConfigError {
    ConfigError::Value { key: key.to_owned(), value: value.to_string(), remedy: remedy.to_owned() }
}

/// `+02:00` as minutes.
fn read_offset(text: &str) -> Result<i16, ConfigError> {
    let read = || {
        let (sign, rest) = match text.split_at_checked(1)? {
            ("+", rest) => (1, rest),
            ("-", rest) => (-1, rest),
            _ => return None,
        };
        let (hours, minutes) = rest.split_once(':').filter(|(hours, minutes)| hours.len() == 2 && minutes.len() == 2)?;
        let (hours, minutes): (i16, i16) = (hours.parse().ok()?, minutes.parse().ok()?);
        (hours <= 14 && (0..60).contains(&minutes)).then_some(sign * (hours * 60 + minutes))
    };
    read().ok_or_else(|| value("utc_offset", text, "write the offset of local time from UTC, such as +02:00"))
}

fn read_runner(section: &mut Section, runner: &mut RunnerConfig) -> Result<(), ConfigError> {
    let mut program = PathBuf::new();
    if section.path("program", &mut program)? {
        runner.program = Some(program);
    }
    section.texts("args", &mut runner.args)?;
    let mut tcp = String::new();
    if section.text("tcp", &mut tcp)? {
        runner.tcp = if tcp.is_empty() { None } else { Some(check_loopback(tcp)?) };
    }
    let mut unix = PathBuf::new();
    if section.path("unix", &mut unix)? {
        runner.unix = Some(unix);
    }
    Ok(())
}

fn check_loopback(tcp: String) -> Result<String, ConfigError> {
    match tcp.parse::<std::net::SocketAddr>() {
        Ok(address) if address.ip().is_loopback() => Ok(tcp),
        Ok(_) => Err(value("runner.tcp", tcp, "the runner serves this machine only: use 127.0.0.1 or [::1], or \"\" for no TCP")),
        Err(_) => Err(value("runner.tcp", tcp, "write an address with a port, such as 127.0.0.1:8000")),
    }
}

fn read_timing(section: &mut Section, timing: &mut Timing) -> Result<(), ConfigError> {
    const HOUR: u64 = 3_600_000;
    section.number("retry_first_ms", 10, HOUR, &mut timing.retry_first_ms)?;
    section.number("retry_max_ms", 10, 24 * HOUR, &mut timing.retry_max_ms)?;
    section.number("refresh_ms", 1_000, 7 * 24 * HOUR, &mut timing.refresh_ms)?;
    section.number("hang_ms", MIN_HANG_MS, HOUR, &mut timing.hang_ms)?;
    section.number("load_ms", 1_000, HOUR, &mut timing.load_ms)?;
    section.number("crash_window_ms", 1_000, 24 * HOUR, &mut timing.crash_window_ms)?;
    let mut limit = u64::from(timing.crash_limit);
    section.number("crash_limit", 1, 1_000, &mut limit)?;
    timing.crash_limit = u32::try_from(limit).unwrap_or(timing.crash_limit);
    section.number("restart_ms", 10, HOUR, &mut timing.restart_ms)?;
    section.number("report_ms", 1_000, 24 * HOUR, &mut timing.report_ms)?;
    section.number("receipt_ms", 1_000, HOUR, &mut timing.receipt_ms)?;
    section.number("disk_pause_ms", 100, HOUR, &mut timing.disk_pause_ms)?;
    section.end(&[
        "retry_first_ms",
        "retry_max_ms",
        "refresh_ms",
        "hang_ms",
        "load_ms",
        "crash_window_ms",
        "crash_limit",
        "restart_ms",
        "report_ms",
        "receipt_ms",
        "disk_pause_ms",
    ])?;
    if timing.retry_max_ms < timing.retry_first_ms {
        return Err(value("timing.retry_max_ms", timing.retry_max_ms, "it may not be shorter than timing.retry_first_ms"));
    }
    Ok(())
}

fn read_network(section: &mut Section, config: &mut Config) -> Result<(), ConfigError> {
    let mut broker = String::new();
    if section.text("broker", &mut broker)? {
        let port = |text: &str| text.parse::<u16>().ok().filter(|port| *port > 0);
        let parts =
            broker.rsplit_once(':').and_then(|(host, text)| Some((host.to_owned(), port(text)?))).filter(|(host, _)| !host.is_empty());
        let parts = parts.ok_or_else(|| value("network.broker", &broker, "write a host with a port, such as broker.example:1883"))?;
        config.broker = Some(parts);
    }
    let mut artifacts = String::new();
    if section.text("artifacts", &mut artifacts)? {
        config.artifacts = Some(check_base(&artifacts).map_err(|remedy| value("network.artifacts", &artifacts, remedy))?);
    }
    section.end(&["broker", "artifacts"])
}

/// A base address without its last slash.
pub(crate) fn check_base(base: &str) -> Result<String, &'static str> {
    match base.strip_prefix("http://").or_else(|| base.strip_prefix("https://")) {
        Some(rest) if !rest.is_empty() && !rest.starts_with('/') => Ok(base.trim_end_matches('/').to_owned()),
        Some(_) => Err("name a host, such as http://controller.example:8080"),
        None => Err("write an address that starts with http:// or https://"),
    }
}

fn read_labels(section: Section) -> Result<BTreeMap<String, String>, ConfigError> {
    let labels = section.into_texts()?;
    if labels.len() > MAX_LABELS {
        return Err(value("labels", labels.len(), "a device has at most 32 labels"));
    }
    for (name, text) in &labels {
        if name.is_empty() || name.len() > MAX_LABEL || text.len() > MAX_LABEL {
            return Err(value(&format!("labels.{name}"), text, "names and values of labels have 1 to 64 characters"));
        }
    }
    Ok(labels)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_whole_configuration_is_read() {
        let config = Config::parse(
            r#"
            data_dir = "/srv/leeway"
            log = "debug"
            utc_offset = "-03:30"
            [labels]
            region = "coast"
            [runner]
            program = "/usr/bin/leeway"
            args = ["runner"]
            tcp = "127.0.0.1:9000"
            unix = "/run/leeway/agent.sock"
            [outbox]
            max_bytes = 1_000_000
            [timing]
            hang_ms = 5_000
            [network]
            broker = "broker.example:1883"
            artifacts = "http://127.0.0.1:8080/"
            "#,
        )
        .unwrap();
        assert_eq!(config.data_dir, PathBuf::from("/srv/leeway"));
        assert_eq!(config.labels.unwrap()["region"], "coast");
        assert_eq!((config.outbox.max_bytes, config.outbox.max_messages), (1_000_000, 10_000));
        assert_eq!((config.timing.hang_ms, config.utc_offset_minutes), (5_000, -210));
        assert_eq!(config.runner.args, ["runner"]);
        assert_eq!(config.broker, Some(("broker.example".to_owned(), 1883)));
        assert_eq!(config.artifacts.as_deref(), Some("http://127.0.0.1:8080"));
        assert_eq!(Config::parse("").unwrap(), Config::for_dir("/var/lib/leeway"));
    }

    #[test]
    fn mistakes_are_named_with_their_remedy() {
        let table = [
            ("data_dri = \"/x\"", "there is no key data_dri in the configuration: did you mean data_dir?"),
            ("[outbux]\n", "there is no key outbux in the configuration: did you mean outbox?"),
            ("[timing]\nhang = 5", "there is no key timing.hang in the configuration: did you mean timing.hang_ms?"),
            ("[runner]\nzebra = 5", "there is no key runner.zebra in the configuration"),
            ("data_dir = 5", "data_dir must be a text in quotes, but it is a whole number"),
            ("runner = 5", "runner must be a section, but it is a whole number"),
            ("[outbox]\nmax_bytes = \"much\"", "outbox.max_bytes must be a whole number, but it is a text in quotes"),
            ("[outbox]\nmax_bytes = 1", "outbox.max_bytes = 1: it must be between 65536 and"),
            ("[outbox]\nmax_bytes = -1", "outbox.max_bytes = -1: it must be between"),
            ("[runner]\ntcp = \"0.0.0.0:80\"", "serves this machine only"),
            ("[runner]\ntcp = \"here\"", "such as 127.0.0.1:8000"),
            ("[runner]\nargs = [1]", "runner.args must be a list of texts"),
            ("[network]\nbroker = \"b\"", "such as broker.example:1883"),
            ("[network]\nartifacts = \"ftp://x\"", "starts with http:// or https://"),
            ("[network]\nartifacts = \"https:///x\"", "name a host"),
            ("[labels]\nregion = 5", "labels.region must be a text in quotes"),
            ("[timing]\nretry_first_ms = 1000\nretry_max_ms = 999", "may not be shorter"),
            ("utc_offset = \"2\"", "such as +02:00"),
            ("utc_offset = \"+2:00\"", "such as +02:00"),
            ("utc_offset = \"+15:00\"", "such as +02:00"),
            ("data_dir = ", "the configuration is not TOML"),
            ("data_dir = \"\"", "name the directory"),
        ];
        for (text, expected) in table {
            let error = Config::parse(text).unwrap_err().to_string();
            assert!(error.contains(expected), "{text}: {error}");
            assert!(!error.contains('\n'), "{error}");
        }
    }
}
