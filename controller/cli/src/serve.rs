//! `leeway serve`: run the controller. Arguments and a configuration file become one checked value before any socket opens.
use std::fs;
use std::io::Write as _;
use std::net::SocketAddr;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use leeway_controller::drift::DriftPolicy;
use leeway_controller::fleet::DeviceSettings;
use leeway_controller::io::serve::{BrokerChoice, KEY_FILES, METADATA_FILES, ServeConfig, start_with};
use leeway_controller::io::training::TrainingPolicy;
use leeway_controller::io::web::Web;
use leeway_controller::quality::QualityPolicy;
use leeway_controller::retraining::dataset::DatasetPolicy;
use leeway_controller::retraining::gate::GatePolicy;
use leeway_protocol::ids::Tenant;
use serde::Deserialize;

use crate::failure::{During, Failure, Outcome};
use crate::output::putln;

/// `leeway serve`.
#[derive(Debug, Args)]
pub struct Serve {
    /// The one directory that holds everything; made if it does not exist.
    #[arg(long)]
    pub data: Option<PathBuf>,
    /// Settings, in TOML; flags win.
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Where to listen for HTTP.
    #[arg(long, value_name = "ADDR:PORT")]
    pub listen: Option<SocketAddr>,
    /// Where the embedded broker listens.
    #[arg(long, value_name = "ADDR:PORT", conflicts_with = "broker")]
    pub mqtt: Option<SocketAddr>,
    /// Use this MQTT 5 broker instead, `mqtt://USER@HOST:PORT`; its secret comes from --broker-secret.
    #[arg(long, value_name = "URL", requires = "broker_secret")]
    pub broker: Option<String>,
    /// File with the controller's secret at that broker.
    #[arg(long, value_name = "FILE")]
    pub broker_secret: Option<PathBuf>,
    /// The folder `controller` that `leeway keys init` made; copied into the data directory at the first start.
    #[arg(long, value_name = "DIR")]
    pub keys: Option<PathBuf>,
    /// The first signed documents, where they do not lie beside the keys.
    #[arg(long, value_name = "DIR", requires = "keys")]
    pub repository: Option<PathBuf>,
    /// Whose fleet.
    #[arg(long)]
    pub tenant: Option<Tenant>,
    /// Base URL that devices are told, if they do not see this machine under the address listened on.
    #[arg(long, value_name = "URL")]
    pub public_url: Option<String>,
    /// Let devices enrol without a token.
    #[arg(long)]
    pub open_enrolment: bool,
    /// How to write the log (standard error).
    #[arg(long, value_enum, default_value_t = LogForm::Human)]
    pub log: LogForm,
}

/// Forms of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogForm {
    /// For people.
    Human,
    /// One JSON object per line.
    Json,
}

/// The configuration file. Everything is optional.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct File {
    data: Option<PathBuf>,
    tenant: Option<Tenant>,
    listen: Option<SocketAddr>,
    public_url: Option<String>,
    open_enrolment: bool,
    tick_ms: Option<u64>,
    converge_per_minute: Option<u32>,
    keep_windows_days: Option<u32>,
    keep_captures_days: Option<u32>,
    mqtt: Mqtt,
    settings: Option<DeviceSettings>,
    drift: Option<DriftPolicy>,
    quality: Option<QualityPolicy>,
    dataset: Option<DatasetPolicy>,
    champion_gate: Option<GatePolicy>,
}

/// The broker in the configuration file.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Mqtt {
    listen: Option<SocketAddr>,
    broker: Option<String>,
    secret_file: Option<PathBuf>,
    public_host: Option<String>,
    public_port: Option<u16>,
}

/// Where to listen unless told otherwise.
const HTTP: ([u8; 4], u16) = ([127, 0, 0, 1], 8080);
/// Where the broker listens unless told otherwise.
const MQTT: ([u8; 4], u16) = ([127, 0, 0, 1], 1883);
const DAY_MS: i64 = 24 * 3_600_000;

/// Run it until it is told to stop.
pub fn run(args: &Serve) -> Outcome {
    let file = args.config.as_deref().map(read).transpose()?.unwrap_or_default();
    let config = config(args, file)?;
    log(args.log);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().during("starting")?;
    runtime.block_on(serve(config))
}

async fn serve(config: ServeConfig) -> Outcome {
    let data = config.data.clone();
    let handle = start_with(config, |controller| Web::new(controller).router()).await?;
    putln!("leeway {} is up", env!("CARGO_PKG_VERSION"));
    putln!("  dashboard  http://{}/login?token={}", handle.http, handle.admin_token);
    putln!("  token      {} (for the command line: LEEWAY_TOKEN)", data.join("admin.token").display());
    if let Some(mqtt) = handle.mqtt {
        putln!("  broker     mqtt://{mqtt}");
    }
    putln!("  enrol      leeway device token --name first-devices --uses 10");
    std::io::stdout().flush()?;
    stopped().await?;
    eprintln!("stopping");
    handle.shutdown().await;
    Ok(())
}

async fn stopped() -> Outcome {
    use tokio::signal::unix::{SignalKind, signal};
    let (mut int, mut term) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    tokio::select! {
        _ = int.recv() => {}
        _ = term.recv() => {}
    }
    Ok(())
}

fn log(form: LogForm) {
    let filter = tracing_subscriber::EnvFilter::try_from_env("LEEWAY_LOG")
        .unwrap_or_else(|_| "info,rmqtt=warn,rmqtt_net=warn,rmqtt_codec=warn".into());
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_target(false);
    match form {
        LogForm::Human => builder.with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr())).init(),
        LogForm::Json => builder.json().init(),
    }
}

fn read(path: &Path) -> Outcome<File> {
    let text = fs::read_to_string(path).during(format!("reading {}", path.display()))?;
    parse(&text).map_err(|e| {
        let failure = Failure::new(format!("{}: {}", path.display(), e.trim_end())).code(2);
        match did_you_mean(&e) {
            Some(meant) => failure.help(format!("did you mean `{meant}`?")),
            None => failure,
        }
    })
}

fn parse(text: &str) -> Result<File, String> {
    toml::from_str(text).map_err(|e| e.to_string())
}

/// The known key that is nearest to the unknown one, from the parser's own message.
fn did_you_mean(message: &str) -> Option<&str> {
    let mut quoted = message.split("unknown field ").nth(1)?.split('`').skip(1).step_by(2);
    let wrong = quoted.next()?;
    quoted.map(|known| (distance(wrong, known), known)).filter(|(d, known)| *d <= known.len() / 3 + 1).min().map(|(_, known)| known)
}

/// Levenshtein distance.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut before = i;
        if let Some(first) = row.first_mut() {
            *first = i + 1;
        }
        for (j, y) in b.iter().enumerate() {
            let (left, above) = (row.get(j).copied().unwrap_or(0), row.get(j + 1).copied().unwrap_or(0));
            let cost = (before + usize::from(x != *y)).min(left + 1).min(above + 1);
            before = above;
            if let Some(cell) = row.get_mut(j + 1) {
                *cell = cost;
            }
        }
    }
    row.last().copied().unwrap_or(0)
}

/// Flags over file over defaults.
fn config(args: &Serve, file: File) -> Outcome<ServeConfig> {
    let data = args.data.clone().or(file.data).ok_or_else(|| {
        Failure::new("a data directory is needed").code(2).help("give one with --data DIR, or `data` in the configuration file")
    })?;
    let default_tenant = || "main".parse().map_err(|e| Failure::new(format!("{e}")));
    let tenant = args.tenant.clone().or(file.tenant).map_or_else(default_tenant, Ok)?;
    let days = |days: Option<u32>, default: i64| days.map_or(default, |d| i64::from(d) * DAY_MS);
    let local = ServeConfig::local(data, tenant);
    if let Some(keys) = &args.keys {
        adopt(&local.data, keys, args.repository.as_deref().unwrap_or(keys))?;
    }
    let public_mqtt = file.mqtt.public_host.clone().map(|host| (host, file.mqtt.public_port.unwrap_or(MQTT.1)));
    Ok(ServeConfig {
        http: args.listen.or(file.listen).unwrap_or_else(|| HTTP.into()),
        broker: broker(args, &file.mqtt)?,
        public_http: args.public_url.clone().or(file.public_url).map(|url| url.trim_end_matches('/').to_owned()),
        public_mqtt,
        open_enrolment: args.open_enrolment || file.open_enrolment,
        tick_ms: file.tick_ms.unwrap_or(local.tick_ms),
        converge_per_minute: file.converge_per_minute.unwrap_or(local.converge_per_minute),
        settings: file.settings.unwrap_or(local.settings),
        drift: file.drift.unwrap_or(local.drift),
        quality: file.quality.unwrap_or(local.quality),
        training: TrainingPolicy { dataset: file.dataset.unwrap_or_default(), gate: file.champion_gate.unwrap_or_default() },
        keep_windows_ms: days(file.keep_windows_days, local.keep_windows_ms),
        keep_captures_ms: days(file.keep_captures_days, local.keep_captures_ms),
        ..local
    })
}

fn broker(args: &Serve, file: &Mqtt) -> Outcome<BrokerChoice> {
    let url = args.broker.as_ref().or(file.broker.as_ref());
    let (Some(url), None) = (url, args.mqtt) else {
        return Ok(BrokerChoice::Embedded { listen: args.mqtt.or(file.listen).unwrap_or_else(|| MQTT.into()) });
    };
    let bad = || Failure::new(format!("{url} is not a broker of the form mqtt://USER@HOST:PORT")).code(2);
    let (user, place) = url.strip_prefix("mqtt://").and_then(|rest| rest.split_once('@')).ok_or_else(bad)?;
    let (host, port) = place.trim_end_matches('/').rsplit_once(':').unwrap_or((place, "1883"));
    let port = port.parse().map_err(|_| bad())?;
    let path = args.broker_secret.as_ref().or(file.secret_file.as_ref()).ok_or_else(|| {
        Failure::new("the broker's secret is missing").code(2).help("give a file with --broker-secret, or mqtt.secret_file")
    })?;
    let secret = fs::read_to_string(path).during(format!("reading the broker's secret {}", path.display()))?.trim().to_owned();
    Ok(BrokerChoice::External { host: host.to_owned(), port, user: user.to_owned(), secret })
}

/// Copy keys and first documents into the data directory, so that it is whole in itself; what is there already stays.
fn adopt(data: &Path, keys: &Path, documents: &Path) -> Outcome {
    let home = data.join("keys");
    fs::DirBuilder::new().recursive(true).mode(0o700).create(&home).during(format!("making {}", home.display()))?;
    KEY_FILES.iter().try_for_each(|name| copy_new(&keys.join(name), &home.join(name), 0o600))?;
    METADATA_FILES.iter().try_for_each(|name| copy_new(&documents.join(name), &home.join(name), 0o644))
}

fn copy_new(from: &Path, to: &Path, mode: u32) -> Outcome {
    if to.exists() {
        return Ok(());
    }
    let bytes = fs::read(from).map_err(|e| {
        Failure::new(format!("reading {}: {e}", from.display())).help("`leeway keys init --out keys` makes it: give --keys keys/controller")
    })?;
    let mut file = fs::File::options().write(true).create_new(true).mode(mode).open(to).during(format!("writing {}", to.display()))?;
    file.write_all(&bytes).and_then(|()| file.sync_all()).during(format!("writing {}", to.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser as _;

    #[derive(clap::Parser)]
    struct Cli {
        #[command(flatten)]
        serve: Serve,
    }

    fn args(list: &[&str]) -> Serve {
        Cli::parse_from(std::iter::once("leeway").chain(list.iter().copied())).serve
    }

    #[test]
    fn an_unknown_key_is_named_with_the_one_that_was_meant() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("leeway.toml");
        let said = |text: &str| {
            fs::write(&path, text).unwrap();
            read(&path).map(|_| String::new()).unwrap_or_else(|f| f.whole())
        };
        let wrong = said("lisen = '127.0.0.1:80'\n");
        assert!(wrong.contains("lisen") && wrong.contains("did you mean `listen`?"), "{wrong}");
        let nested = said("[drift]\nblock_m = 5\n");
        assert!(nested.contains("did you mean `block_ms`?"), "{nested}");
        let kind = said("listen = 8080\n");
        assert!(kind.contains("listen") || kind.contains("line 1"), "{kind}");
        assert_eq!(said("[drift]\nblock_ms = 5\n[mqtt]\nlisten = '127.0.0.1:0'\n"), "");
    }

    #[test]
    fn flags_win_over_the_file_and_a_broker_needs_its_secret() {
        let file = || parse("data = '/x'\nlisten = '127.0.0.1:1'\n[mqtt]\nlisten = '127.0.0.1:2'\n").unwrap();
        let made = config(&args(&["--listen", "127.0.0.1:9"]), file()).unwrap();
        assert_eq!(made.http.port(), 9);
        assert_eq!(made.data, PathBuf::from("/x"));
        assert!(matches!(made.broker, BrokerChoice::Embedded { listen } if listen.port() == 2));
        assert!(config(&args(&[]), File::default()).unwrap_err().whole().contains("--data"));
        let dir = tempfile::tempdir().unwrap();
        let secret = dir.path().join("secret");
        fs::write(&secret, "s3\n").unwrap();
        let secret = secret.display().to_string();
        let outside =
            config(&args(&["--data", "/x", "--broker", "mqtt://leeway@broker:1884", "--broker-secret", &secret]), File::default()).unwrap();
        assert!(
            matches!(outside.broker, BrokerChoice::External { host, port: 1884, user, secret } if host == "broker" && user == "leeway" && secret == "s3")
        );
        for bad in ["http://x", "mqtt://nouser:1883", "mqtt://u@h:x"] {
            assert!(config(&args(&["--data", "/x", "--broker", bad, "--broker-secret", &secret]), File::default()).is_err(), "{bad}");
        }
    }

    #[test]
    fn keys_are_copied_once_and_never_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let made = dir.path().join("made");
        crate::keys::init(&made, &["rain".parse().unwrap()], crate::now()).unwrap();
        let data = dir.path().join("data");
        adopt(&data, &made.join("controller"), &made.join("repository")).unwrap();
        let before = fs::read(data.join("keys/director.key")).unwrap();
        for name in METADATA_FILES.iter().chain(&KEY_FILES) {
            assert!(data.join("keys").join(name).exists(), "{name}");
        }
        let other = dir.path().join("other");
        crate::keys::init(&other, &["rain".parse().unwrap()], crate::now()).unwrap();
        adopt(&data, &other.join("controller"), &other.join("controller")).unwrap();
        assert_eq!(fs::read(data.join("keys/director.key")).unwrap(), before);
        assert!(adopt(&dir.path().join("d2"), &dir.path().join("nowhere"), dir.path()).unwrap_err().whole().contains("keys init"));
    }

    #[test]
    fn distances() {
        assert_eq!((distance("", "abc"), distance("lisen", "listen"), distance("kitten", "sitting")), (3, 1, 3));
    }
}
