//! `leeway serve`: run the controller. Arguments and a configuration file become one checked value before any socket opens.
use std::fs;
use std::io::Write as _;
use std::net::SocketAddr;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use leeway_controller::config::{BrokerUrl, Config, MqttConfig, TlsConfig, WebhookConfig};
use leeway_controller::io::serve::{BrokerChoice, BrokerTls, KEY_FILES, METADATA_FILES, NEXT, ServeConfig, start_with};
use leeway_controller::io::store::StoreConfig;
use leeway_controller::io::tls::{TlsFiles, TlsSettings};
use leeway_controller::io::web::Web;
use leeway_controller::webhook::Reach;
use leeway_controller::webhook::reach::Allowed;
use leeway_protocol::ids::Tenant;

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
    /// Turn TLS on for HTTP and the embedded broker: devices get certificates, and new ones wait until somebody accepts them.
    #[arg(long)]
    pub tls: bool,
    /// A name or an address under which devices and people reach this machine, for its certificate; may be repeated.
    #[arg(long, value_name = "NAME", requires = "tls")]
    pub tls_name: Vec<String>,
    /// Use this MQTT 5 broker instead, `mqtt://USER@HOST:PORT` with its secret from --broker-secret, or `mqtts://USER@HOST:PORT`,
    /// where a certificate says who the controller is.
    #[arg(long, value_name = "URL")]
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
    /// Base URL that devices are told, if they do not see this machine under the address listened on. With it,
    /// nothing is open without a token to browsers on this machine.
    #[arg(long, value_name = "URL")]
    pub public_url: Option<String>,
    /// Let devices enrol without a token.
    #[arg(long)]
    pub open_enrolment: bool,
    /// Let webhooks go to this host, address or network too, which is not public or not over TLS. May be given several times.
    #[arg(long, value_name = "HOST|NETWORK")]
    pub webhook_allow: Vec<Allowed>,
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

const DAY_MS: i64 = 24 * 3_600_000;

/// Run it until it is told to stop.
pub fn run(args: &Serve) -> Outcome {
    let file = args.config.as_deref().map(read).transpose()?.unwrap_or_default();
    let config = with_flags(args, file)?;
    log(args.log);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().during("starting")?;
    runtime.block_on(serve(config))
}

async fn serve(config: ServeConfig) -> Outcome {
    let data = config.data.clone();
    let handle = start_with(config, |controller| Web::new(controller).router()).await?;
    putln!("leeway {} is up", env!("CARGO_PKG_VERSION"));
    let secured = handle.ca.is_some();
    putln!("  dashboard  {}://{}/login?token={}", if secured { "https" } else { "http" }, handle.http, handle.admin_token);
    putln!("  token      {} (for the command line: LEEWAY_TOKEN)", data.join("admin.token").display());
    if let Some(mqtt) = handle.mqtt {
        putln!("  broker     {}://{mqtt}", if secured { "mqtts" } else { "mqtt" });
    }
    if let Some(ca) = &handle.ca {
        putln!("  authority  {} (for --ca, on devices and on the command line)", ca.display());
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

fn read(path: &Path) -> Outcome<Config> {
    let text = fs::read_to_string(path).during(format!("reading {}", path.display()))?;
    Config::parse(&text).map_err(|e| Failure::new(format!("{}: {e}", path.display())).code(2))
}

/// Flags over file over defaults.
fn with_flags(args: &Serve, file: Config) -> Outcome<ServeConfig> {
    let data = args.data.clone().or(file.data).ok_or_else(|| {
        Failure::new("a data directory is needed").code(2).help("give one with --data DIR, or `data` in the configuration file")
    })?;
    let local = ServeConfig::local(data, args.tenant.clone().unwrap_or(file.tenant));
    if let Some(keys) = &args.keys {
        adopt(&local.data, keys, args.repository.as_deref().unwrap_or(keys))?;
    }
    let webhook_reach = reach(args, &file.webhooks)?;
    let tls = args.tls || file.tls.enabled;
    let public_port = file.mqtt.public_port.unwrap_or(MqttConfig::port(tls));
    Ok(ServeConfig {
        webhook_reach,
        http: args.listen.unwrap_or(file.http.listen),
        broker: broker(args, &file.mqtt, tls)?,
        public_http: args.public_url.clone().or(file.http.public_url).map(|url| url.trim_end_matches('/').to_owned()),
        public_mqtt: file.mqtt.public_host.map(|host| (host, public_port)),
        open_enrolment: args.open_enrolment || file.enrolment.open,
        review: file.enrolment.review.unwrap_or(tls),
        accept: file.enrolment.accept,
        tls: tls.then(|| tls_settings(args, file.tls)),
        tick_ms: file.planner.interval_ms,
        converge_per_minute: file.planner.converge_per_minute,
        rollback_per_minute: file.planner.rollback_per_minute,
        retry_after_ms: file.planner.retry_after_ms.into(),
        settings: file.planner.settings,
        drift: file.drift,
        quality: file.quality,
        training: file.training,
        store: StoreConfig { cache_bytes: file.store.cache_bytes, ..local.store },
        keep_windows_ms: i64::from(file.store.keep_windows_days) * DAY_MS,
        keep_captures_ms: i64::from(file.store.keep_captures_days) * DAY_MS,
        ..local
    })
}

fn reach(args: &Serve, file: &WebhookConfig) -> Outcome<Reach> {
    let of_file = file.allow.iter().map(|text| text.parse().map_err(|e| Failure::new(format!("webhooks.allow: {e}")).code(2)));
    let mut allowed = of_file.collect::<Outcome<Vec<Allowed>>>()?;
    allowed.extend(args.webhook_allow.iter().cloned());
    Ok(Reach::new(allowed))
}

fn tls_settings(args: &Serve, file: TlsConfig) -> TlsSettings {
    let files = match (file.certificate_file, file.key_file, file.ca_file) {
        (Some(certificate), Some(key), Some(ca)) => Some(TlsFiles { certificate, key, ca }),
        _ => None,
    };
    let names = args.tls_name.iter().cloned().chain(file.names).collect();
    TlsSettings { names, files, device_secs: file.device_certificate_secs.into(), plain_mqtt: file.plain_mqtt, ..TlsSettings::default() }
}

fn broker(args: &Serve, file: &MqttConfig, tls: bool) -> Outcome<BrokerChoice> {
    let url = args.broker.as_ref().or(file.url.as_ref());
    let (Some(url), None) = (url, args.mqtt) else {
        // The usual port without TLS is not the usual one with it.
        let mut listen = args.mqtt.unwrap_or(file.listen);
        if tls && args.mqtt.is_none() && listen == MqttConfig::default().listen {
            listen.set_port(MqttConfig::port(true));
        }
        return Ok(BrokerChoice::Embedded { listen });
    };
    let BrokerUrl { user, host, port, tls: secured } = url.parse().map_err(|problem: String| Failure::new(problem).code(2))?;
    let path = args.broker_secret.as_ref().or(file.secret_file.as_ref());
    let identity = file.certificate_file.clone().zip(file.key_file.clone());
    if path.is_none() && !(secured && (tls || identity.is_some())) {
        let missing = Failure::new("the broker's secret is missing").code(2);
        return Err(missing.help("give a file with --broker-secret, or mqtt.secret_file; with mqtts and --tls none is needed"));
    }
    if secured && !tls && file.ca_file.is_none() {
        let missing = Failure::new("nobody says whom to trust at that broker").code(2);
        return Err(
            missing.help("give mqtt.ca_file, or turn on --tls and let our own device authority sign the broker (`leeway keys broker`)")
        );
    }
    let secret = match path {
        Some(path) => fs::read_to_string(path).during(format!("reading the broker's secret {}", path.display()))?.trim().to_owned(),
        None => String::new(),
    };
    let tls = secured.then(|| BrokerTls { ca: file.ca_file.clone(), identity });
    Ok(BrokerChoice::External { host, port, user, secret, tls })
}

/// Copy keys and first documents into the data directory, so that it is whole in itself; what is there already stays.
fn adopt(data: &Path, keys: &Path, documents: &Path) -> Outcome {
    let home = data.join("keys");
    fs::DirBuilder::new().recursive(true).mode(0o700).create(&home).during(format!("making {}", home.display()))?;
    KEY_FILES.iter().try_for_each(|name| copy_new(&keys.join(name), &home.join(name), 0o600))?;
    adopt_next(&keys.join(NEXT), &home.join(NEXT))?;
    METADATA_FILES.iter().try_for_each(|name| copy_new(&documents.join(name), &home.join(name), 0o644))
}

/// Successors of online keys may be handed in before the root names them; those that are there come along.
fn adopt_next(from: &Path, to: &Path) -> Outcome {
    let given: Vec<&str> = KEY_FILES.into_iter().filter(|name| from.join(name).exists()).collect();
    if given.is_empty() {
        return Ok(());
    }
    fs::DirBuilder::new().recursive(true).mode(0o700).create(to).during(format!("making {}", to.display()))?;
    for name in given {
        let (given, held) = (from.join(name), to.join(name));
        if held.exists() && fs::read(&held).ok() != fs::read(&given).ok() {
            return Err(Failure::new(format!("{} is another successor than {}", given.display(), held.display()))
                .help(format!("once the root names {}, move it one folder up; then hand in the next one", held.display())));
        }
        copy_new(&given, &held, 0o600)?;
    }
    Ok(())
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
    fn a_file_that_is_not_understood_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("leeway.toml");
        fs::write(&path, "[http]\nlisen = '127.0.0.1:80'\n").unwrap();
        let wrong = read(&path).unwrap_err().whole();
        assert!(wrong.contains("leeway.toml") && wrong.contains("did you mean \"listen\"?"), "{wrong}");
    }

    #[test]
    fn flags_win_over_the_file_and_a_broker_needs_its_secret() {
        let file = || Config::parse("data = '/x'\n[http]\nlisten = '127.0.0.1:1'\n[mqtt]\nlisten = '127.0.0.1:2'\n").unwrap();
        let made = with_flags(&args(&["--listen", "127.0.0.1:9"]), file()).unwrap();
        assert_eq!(made.http.port(), 9);
        assert_eq!(made.data, PathBuf::from("/x"));
        assert!(matches!(made.broker, BrokerChoice::Embedded { listen } if listen.port() == 2));
        assert!(with_flags(&args(&[]), Config::default()).unwrap_err().whole().contains("--data"));
        let dir = tempfile::tempdir().unwrap();
        let secret = dir.path().join("secret");
        fs::write(&secret, "s3\n").unwrap();
        let secret = secret.display().to_string();
        let outside =
            with_flags(&args(&["--data", "/x", "--broker", "mqtt://leeway@broker:1884", "--broker-secret", &secret]), Config::default())
                .unwrap();
        assert!(
            matches!(outside.broker, BrokerChoice::External { host, port: 1884, user, secret, tls: None } if host == "broker" && user == "leeway" && secret == "s3")
        );
        for bad in ["http://x", "mqtt://nouser:1883", "mqtt://u@h:x"] {
            assert!(with_flags(&args(&["--data", "/x", "--broker", bad, "--broker-secret", &secret]), Config::default()).is_err(), "{bad}");
        }
        let without = |list: &[&str]| with_flags(&args(&[&["--data", "/x"], list].concat()), Config::default());
        assert!(without(&["--broker", "mqtt://leeway@broker"]).unwrap_err().whole().contains("--broker-secret"));
        assert!(without(&["--broker", "mqtts://leeway@broker", "--broker-secret", &secret]).unwrap_err().whole().contains("whom to trust"));
        let outside = without(&["--broker", "mqtts://leeway@broker", "--tls"]).unwrap();
        assert!(matches!(outside.broker, BrokerChoice::External { port: 8883, tls: Some(_), .. }), "a certificate is enough");
    }

    #[test]
    fn tls_brings_its_port_and_its_review() {
        let made =
            |list: &[&str], text: &str| with_flags(&args(&[&["--data", "/x"], list].concat()), Config::parse(text).unwrap()).unwrap();
        let plain = made(&[], "");
        assert!(plain.tls.is_none() && !plain.review && matches!(plain.broker, BrokerChoice::Embedded { listen } if listen.port() == 1883));
        let on = made(&["--tls", "--tls-name", "fleet.example"], "[tls]\nnames = ['10.0.0.1']\n");
        assert!(on.review && matches!(on.broker, BrokerChoice::Embedded { listen } if listen.port() == 8883));
        assert_eq!(on.tls.unwrap().names, ["fleet.example", "10.0.0.1"]);
        let chosen = made(&["--tls", "--mqtt", "127.0.0.1:7"], "[enrolment]\nreview = false\n");
        assert!(!chosen.review && matches!(chosen.broker, BrokerChoice::Embedded { listen } if listen.port() == 7));
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
        // Successors come along; another one for the same place does not take it.
        let next = other.join("controller").join(NEXT);
        fs::create_dir(&next).unwrap();
        fs::copy(other.join("controller/director.key"), next.join("director.key")).unwrap();
        adopt(&data, &other.join("controller"), &other.join("controller")).unwrap();
        assert!(data.join("keys").join(NEXT).join("director.key").exists() && !data.join("keys").join(NEXT).join("snapshot.key").exists());
        fs::copy(made.join("controller/director.key"), next.join("director.key")).unwrap();
        let wrong = adopt(&data, &other.join("controller"), &other.join("controller")).unwrap_err().whole();
        assert!(wrong.contains("another successor") && wrong.contains("one folder up"), "{wrong}");
        assert!(adopt(&dir.path().join("d2"), &dir.path().join("nowhere"), dir.path()).unwrap_err().whole().contains("keys init"));
    }
}
