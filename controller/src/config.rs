//! Configuration: one text, read once, refused whole if anything in it is not understood, before any socket opens.
//!
//! One struct per concern, each with defaults that run a small fleet on one machine, so that an empty file is a valid one.
//! Unknown keys are errors and not warnings: a misspelt limit that silently keeps its default is found on the day it was
//! needed. What stays true: a `Config` has passed [`Config::parse`]; nothing later asks whether it makes sense.
use std::net::SocketAddr;
use std::path::PathBuf;

use leeway_protocol::ids::Tenant;
use serde::{Deserialize, Serialize};

use crate::drift::DriftPolicy;
use crate::fleet::{DeviceSettings, Selector};
use crate::quality::QualityPolicy;
use crate::retraining::TrainingPolicy;

/// The shortest life of a device's certificate: tests use a few seconds, fleets weeks.
const MIN_CERTIFICATE_SECS: u32 = 3;
/// The longest configuration that is read.
pub const MAX_BYTES: usize = 1 << 20;

/// Everything the controller can be told before it starts. How a line is rolled out and retrained belongs to the line, not here.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Whose topic tree.
    pub tenant: Tenant,
    /// The one directory that holds everything.
    pub data: Option<PathBuf>,
    /// The web listener.
    pub http: HttpConfig,
    /// The broker, embedded or outside.
    pub mqtt: MqttConfig,
    /// TLS for HTTP and the embedded broker.
    pub tls: TlsConfig,
    /// How devices become known.
    pub enrolment: EnrolmentConfig,
    /// The database.
    pub store: StoreConfig,
    /// How often is decided, and how fast devices are told.
    pub planner: PlannerConfig,
    /// How drift is judged, and with which promise about false alarms.
    pub drift: DriftPolicy,
    /// How accuracy is followed.
    pub quality: QualityPolicy,
    /// From what data models are retrained, and when a challenger wins.
    pub training: TrainingPolicy,
    /// Where events may be handed over to.
    pub webhooks: WebhookConfig,
}

impl Default for Config {
    fn default() -> Self {
        let (http, mqtt, tls, enrolment, store, planner, drift, quality, training, webhooks) = Default::default();
        Self { tenant: default_tenant(), data: None, http, mqtt, tls, enrolment, store, planner, drift, quality, training, webhooks }
    }
}

/// Where webhooks may go.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct WebhookConfig {
    /// Besides public addresses over TLS: host names, addresses, and networks such as `10.1.0.0/16`.
    pub allow: Vec<String>,
}

/// The web listener: API, pages, blobs and metadata.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct HttpConfig {
    /// Where to listen.
    pub listen: SocketAddr,
    /// How devices and browsers reach it, if not at `listen`: `https://fleet.example`. With it, nothing is open without a token.
    pub public_url: Option<String>,
}

impl Default for HttpConfig {
    fn default() -> Self {
        Self { listen: SocketAddr::from(([127, 0, 0, 1], 8080)), public_url: None }
    }
}

/// The broker.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MqttConfig {
    /// Where the embedded broker listens.
    pub listen: SocketAddr,
    /// A broker outside, `mqtt://USER@HOST:PORT` or `mqtts://USER@HOST:PORT`; the embedded one is not started then.
    pub url: Option<String>,
    /// File with the controller's secret at a broker outside.
    pub secret_file: Option<PathBuf>,
    /// For `mqtts`: whom to trust (PEM), if not our own device authority.
    pub ca_file: Option<PathBuf>,
    /// For `mqtts`: the controller's certificate there (PEM), if not one of our own device authority.
    pub certificate_file: Option<PathBuf>,
    /// Its key.
    pub key_file: Option<PathBuf>,
    /// How devices reach the broker, if not where the controller does.
    pub public_host: Option<String>,
    /// Its port there, if another.
    pub public_port: Option<u16>,
}

impl Default for MqttConfig {
    fn default() -> Self {
        let (url, secret_file, ca_file, certificate_file, key_file, public_host, public_port) = Default::default();
        let listen = SocketAddr::from(([127, 0, 0, 1], 1883));
        Self { listen, url, secret_file, ca_file, certificate_file, key_file, public_host, public_port }
    }
}

impl MqttConfig {
    /// The port that belongs to no TLS, or to TLS.
    pub fn port(tls: bool) -> u16 {
        if tls { 8883 } else { 1883 }
    }
}

/// TLS for HTTP and the embedded broker, with certificates for devices.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TlsConfig {
    /// Whether it is on.
    pub enabled: bool,
    /// Names and addresses of this machine for its certificate, besides those in other settings.
    pub names: Vec<String>,
    /// A server certificate (PEM) of another authority, instead of one that is made here.
    pub certificate_file: Option<PathBuf>,
    /// Its key.
    pub key_file: Option<PathBuf>,
    /// The authority that devices are to trust for it.
    pub ca_file: Option<PathBuf>,
    /// How long a device's certificate is good, seconds; it is renewed at two thirds.
    pub device_certificate_secs: u32,
    /// Where the embedded broker also listens without TLS.
    pub plain_mqtt: Option<SocketAddr>,
}

impl Default for TlsConfig {
    fn default() -> Self {
        let (enabled, names, certificate_file, key_file, ca_file, plain_mqtt) = Default::default();
        Self { enabled, names, certificate_file, key_file, ca_file, device_certificate_secs: 30 * 86_400, plain_mqtt }
    }
}

/// How devices become known.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EnrolmentConfig {
    /// Whether a device may enrol without a token: only where everything that reaches the port is trusted.
    pub open: bool,
    /// Whether a new device waits until somebody accepts it; unless said otherwise, it does where TLS is on.
    pub review: Option<bool>,
    /// Labels of devices that need nobody's word, such as `site=lab`.
    pub accept: Option<Selector>,
}

/// The database.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct StoreConfig {
    /// Memory for pages, bytes.
    pub cache_bytes: usize,
    /// Reports are kept so many days.
    pub keep_windows_days: u32,
    /// Captured rows are kept so many days.
    pub keep_captures_days: u32,
}

impl Default for StoreConfig {
    fn default() -> Self {
        Self { cache_bytes: 64 << 20, keep_windows_days: 90, keep_captures_days: 365 }
    }
}

/// How often is decided, and how fast devices are told.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PlannerConfig {
    /// Longest time between two looks at everything, milliseconds.
    pub interval_ms: u64,
    /// Devices outside any rollout that are told per minute and line.
    pub converge_per_minute: u32,
    /// Devices called back from a bad version per minute, at most, those that run it first.
    pub rollback_per_minute: u32,
    /// A device outside any rollout that failed for a reason of its own is told again after so long, milliseconds.
    pub retry_after_ms: u32,
    /// How devices outside any rollout go about it.
    pub settings: DeviceSettings,
}

impl Default for PlannerConfig {
    fn default() -> Self {
        Self {
            interval_ms: 500,
            converge_per_minute: 1000,
            rollback_per_minute: 60_000,
            retry_after_ms: 900_000,
            settings: DeviceSettings::default(),
        }
    }
}

/// A broker outside, taken apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BrokerUrl {
    /// The controller's user name there; client id too.
    pub user: String,
    /// Its host.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// Whether by TLS.
    pub tls: bool,
}

impl std::str::FromStr for BrokerUrl {
    type Err = String;

    fn from_str(url: &str) -> Result<Self, String> {
        let bad = || format!("{url:?} is not a broker of the form mqtt://USER@HOST:PORT or mqtts://USER@HOST:PORT");
        let (scheme, rest) = url.split_once("://").filter(|(scheme, _)| matches!(*scheme, "mqtt" | "mqtts")).ok_or_else(bad)?;
        let (user, place) = rest.split_once('@').ok_or_else(bad)?;
        let (place, tls) = (place.trim_end_matches('/'), scheme == "mqtts");
        let (host, port) = match place.rsplit_once(':') {
            Some((host, port)) => (host, port.parse().map_err(|_| bad())?),
            None => (place, MqttConfig::port(tls)),
        };
        if user.is_empty() || host.is_empty() {
            return Err(bad());
        }
        Ok(Self { user: user.to_owned(), host: host.to_owned(), port, tls })
    }
}

/// A configuration that is not understood.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// Too long to be one.
    #[error("the configuration has {0} bytes; more than {MAX_BYTES} are not read")]
    TooLong(usize),
    /// A key that does not exist.
    #[error("line {line}: there is no key {key:?} in {place}{}", hint(suggestion.as_deref(), known))]
    UnknownKey {
        /// Where, from 1.
        line: usize,
        /// What was written.
        key: String,
        /// The table it stands in.
        place: String,
        /// The nearest key there is.
        suggestion: Option<String>,
        /// Every key there is.
        known: Vec<String>,
    },
    /// Anything else that cannot be read: a wrong type, a value out of range, broken TOML.
    #[error("line {line}, {place}: {problem}")]
    Invalid {
        /// Where, from 1.
        line: usize,
        /// The key, or the text of the line.
        place: String,
        /// What is wrong.
        problem: String,
    },
    /// Read, but it could not work.
    #[error("{place}: {problem}")]
    Nonsense {
        /// Which key.
        place: &'static str,
        /// What is wrong, and what would be right.
        problem: String,
    },
}

impl Config {
    /// Read and check a configuration.
    pub fn parse(text: &str) -> Result<Self, ConfigError> {
        if text.len() > MAX_BYTES {
            return Err(ConfigError::TooLong(text.len()));
        }
        let config: Self = toml::from_str(text).map_err(|error| explain(text, &error))?;
        config.check()?;
        Ok(config)
    }

    fn check(&self) -> Result<(), ConfigError> {
        let fail = |place, problem: &str| Err(ConfigError::Nonsense { place, problem: problem.to_owned() });
        if let Some(url) = self.http.public_url.as_ref().filter(|u| !u.starts_with("http://") && !u.starts_with("https://")) {
            return fail("http.public_url", &format!("{url:?} is not an address of the form https://fleet.example"));
        }
        if let Some(Err(problem)) = self.mqtt.url.as_deref().map(str::parse::<BrokerUrl>) {
            return fail("mqtt.url", &problem);
        }
        let TlsConfig { certificate_file, key_file, ca_file, .. } = &self.tls;
        if certificate_file.is_some() != key_file.is_some() || certificate_file.is_some() != ca_file.is_some() {
            return fail(
                "tls",
                "certificate_file, key_file and ca_file belong together: give all three, or none for a certificate made here",
            );
        }
        if self.mqtt.certificate_file.is_some() != self.mqtt.key_file.is_some() {
            return fail("mqtt", "certificate_file and key_file belong together: give both, or none");
        }
        if self.tls.device_certificate_secs < MIN_CERTIFICATE_SECS {
            return fail("tls.device_certificate_secs", "certificates of less than 3 seconds are over before they are used");
        }
        if self.store.cache_bytes < 1 << 20 {
            return fail("store.cache_bytes", "less than 1 MiB makes every look-up read the disk: use 1048576 or more");
        }
        if self.store.keep_windows_days == 0 || self.store.keep_captures_days == 0 {
            return fail("store", "keep_windows_days and keep_captures_days must be at least 1, or nothing would be kept");
        }
        if !(0.05..=1.0).contains(&self.quality.labels.floor) {
            return fail("quality.labels.floor", "use 0.05 to 1: without a floor there are decisions that nobody ever looks at");
        }
        if self.quality.labels.per_visit == 0 {
            return fail("quality.labels.per_visit", "with 0 nobody would ever be asked: use per_day = 0 to ask for no labels");
        }
        if !(10..=60_000).contains(&self.planner.interval_ms) {
            return fail("planner.interval_ms", "use 10 to 60000: faster is waste, slower and a bad version spreads unseen");
        }
        if self.planner.converge_per_minute == 0 {
            return fail("planner.converge_per_minute", "with 0 no new device would ever be told anything");
        }
        if self.planner.rollback_per_minute == 0 {
            return fail("planner.rollback_per_minute", "with 0 no device would ever leave a bad version");
        }
        if let Err(problem) = self.training.gate.guards.check() {
            return fail("training.gate.guards", &problem.to_string());
        }
        Ok(())
    }
}

fn default_tenant() -> Tenant {
    match "main".parse() {
        Ok(tenant) => tenant,
        Err(_) => unreachable!("a constant name that obeys the rule"),
    }
}

fn hint(suggestion: Option<&str>, known: &[String]) -> String {
    match suggestion {
        Some(key) => format!("; did you mean {key:?}?"),
        None => format!("; it may have: {}", known.join(", ")),
    }
}

/// Turn the reader's words into ours: which line, which key, which table, and what was probably meant.
fn explain(text: &str, error: &toml::de::Error) -> ConfigError {
    let at = error.span().map_or(0, |span| span.start.min(text.len()));
    let before = text.get(..at).unwrap_or(text);
    let line = before.matches('\n').count() + 1;
    let written = text.lines().nth(line - 1).unwrap_or_default();
    let message = error.message();
    let quoted: Vec<String> = message.split('`').skip(1).step_by(2).map(str::to_owned).collect();
    if let (true, [key, known @ ..]) = (message.starts_with("unknown field"), quoted.as_slice()) {
        let place = table(text, line).map_or_else(|| "the configuration".to_owned(), |name| format!("[{name}]"));
        let suggestion = known.iter().map(|k| (distance(key, k), k)).filter(|(d, k)| *d <= 1 + k.len() / 4).min().map(|(_, k)| k.clone());
        return ConfigError::UnknownKey { line, key: key.clone(), place, suggestion, known: known.to_vec() };
    }
    let key = written.split('=').next().map(str::trim).filter(|key| !key.is_empty() && !key.starts_with('['));
    let place = match (key, table(text, line)) {
        (Some(key), Some(table)) => format!("{table}.{key}"),
        (Some(key), None) => key.to_owned(),
        (None, _) => written.trim().chars().take(60).collect(),
    };
    ConfigError::Invalid { line, place, problem: message.to_owned() }
}

/// The table that a line stands in.
fn table(text: &str, line: usize) -> Option<&str> {
    let lines: Vec<&str> = text.lines().take(line).collect();
    let header = lines.iter().rev().map(|l| l.trim()).find(|l| l.starts_with('['))?;
    Some(header.trim_matches(['[', ']', ' ']))
}

/// Letters to change, add or remove between two words (Levenshtein).
pub(crate) fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = row.first().copied().unwrap_or(0);
        if let Some(first) = row.first_mut() {
            *first = i + 1;
        }
        for (j, y) in b.iter().enumerate() {
            let (left, above) = (row.get(j).copied().unwrap_or(0), row.get(j + 1).copied().unwrap_or(0));
            let best = (diagonal + usize::from(x != *y)).min(left + 1).min(above + 1);
            diagonal = above;
            if let Some(cell) = row.get_mut(j + 1) {
                *cell = best;
            }
        }
    }
    row.last().copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_file_is_the_default_and_the_default_is_sound() {
        assert_eq!(Config::parse("").unwrap(), Config::default());
        assert_eq!(Config::default().check(), Ok(()));
        let text = toml::to_string(&Config::default()).unwrap();
        assert_eq!(Config::parse(&text).unwrap(), Config::default(), "what is written can be read");
    }

    #[test]
    fn every_concern_can_be_set() {
        let text = r#"
            tenant = "plant-7"
            data = "/var/lib/leeway"
            [http]
            listen = "0.0.0.0:80"
            public_url = "https://fleet.example"
            [mqtt]
            url = "mqtts://controller@broker.example"
            [tls]
            enabled = true
            names = ["fleet.example"]
            [enrolment]
            open = true
            accept = "site=lab"
            [planner.settings.windows]
            max_inferences = 50
            max_ms = 1000
            [training.dataset]
            min_rows = 5
        "#;
        let config = Config::parse(text).unwrap();
        assert_eq!(config.tenant.as_str(), "plant-7");
        assert_eq!(config.planner.settings.windows.max_inferences, 50);
        assert_eq!(config.training.dataset.min_rows, 5);
        let broker: BrokerUrl = config.mqtt.url.unwrap().parse().unwrap();
        assert_eq!((broker.user.as_str(), broker.host.as_str(), broker.port, broker.tls), ("controller", "broker.example", 8883, true));
        assert!(config.tls.enabled && config.enrolment.review.is_none());
    }

    #[test]
    fn what_is_not_understood_is_refused_by_line_and_name() {
        let table = [
            ("tennant = \"x\"", r#"line 1: there is no key "tennant" in the configuration; did you mean "tenant"?"#),
            ("\n[http]\nlisten_on = \"x\"", r#"line 3: there is no key "listen_on" in [http]; it may have: listen, public_url"#),
            ("[http]\nlisen = \"127.0.0.1:1\"", r#"line 2: there is no key "lisen" in [http]; did you mean "listen"?"#),
            ("[drift]\nblock_m = 3", r#"line 2: there is no key "block_m" in [drift]; did you mean "block_ms"?"#),
            ("[drift]\nblock_ms = \"much\"", "line 2, drift.block_ms: invalid type: string \"much\", expected"),
            ("[http]\nlisten = 8080", "line 2, http.listen: invalid type: integer `8080`"),
            ("[http]\nlisten = \"here\"", "line 2, http.listen: invalid socket address syntax"),
            ("tenant = \"NO\"", "line 1, tenant: tenant \"NO\" is not valid"),
            ("a = = 1", "line 1, a:"),
            ("[http]\npublic_url = \"fleet\"", "http.public_url: \"fleet\" is not an address"),
            ("[mqtt]\nurl = \"broker\"", "mqtt.url: \"broker\" is not a broker of the form"),
            ("[mqtt]\nurl = \"mqtt://nouser:1883\"", "mqtt.url: "),
            ("[mqtt]\nurl = \"mqtt://u@h:x\"", "mqtt.url: "),
            ("[mqtt]\nurl = \"https://u@h\"", "mqtt.url: "),
            ("[tls]\ncertificate_file = \"a\"", "tls: certificate_file, key_file and ca_file belong together"),
            ("[tls]\ndevice_certificate_secs = 1", "tls.device_certificate_secs: "),
            ("[enrolment]\naccept = \"=\"", "line 2, enrolment.accept: "),
            ("[planner]\ninterval_ms = 0", "planner.interval_ms: use 10 to 60000"),
            ("[store]\nkeep_windows_days = 0", "store: keep_windows_days"),
        ];
        for (text, expected) in table {
            let error = Config::parse(text).unwrap_err().to_string();
            assert!(error.starts_with(expected), "{text:?}\n  gives {error}\n  not   {expected}");
        }
        assert_eq!(Config::parse(&" ".repeat(MAX_BYTES + 1)), Err(ConfigError::TooLong(MAX_BYTES + 1)));
    }

    #[test]
    fn words_have_distances() {
        for (a, b, d) in
            [("", "", 0), ("a", "", 1), ("", "ab", 2), ("listen", "lisen", 1), ("soak", "soak_ms", 3), ("kitten", "sitting", 3)]
        {
            assert_eq!(distance(a, b), d, "{a} {b}");
        }
    }
}
