//! Start a controller: one data directory, one broker, one HTTP listener, and the loops between them.
//!
//! Everything that can be wrong is found out before any socket opens: the directory, the lock, the keys, the store. What is
//! started is held by [`Handle`] and ends with it. A kill at any moment is as good as a shutdown: all state is in the store, and
//! the start publishes again what devices should have.
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, RwLock};
use std::time::Duration;

use axum::Router;
use leeway_protocol::digest::Digest;
use leeway_protocol::ids::Tenant;
use leeway_protocol::trust::repository::Lifetimes;
use tokio::net::TcpListener;
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;

use super::artifacts::{BlobError, Blobs};
use super::broker::{BrokerError, Credentials};
use super::control::access::{self, Holders};
use super::control::admission::write_revoked;
use super::control::enrol::{Access, Token, secret};
use super::control::publish::{load_manifests, refresh};
use super::control::{ControlError, Controller, Inner};
use super::mqtt::Mqtt;
use super::preflight::Runner;
use super::repository::{Keychain, OpenError, Repository};
use super::store::{Batch, Kind, Log, Medium, Store, StoreConfig, StoreError};
use super::tls::authority::CA_FILE;
use super::tls::{TlsError, TlsSettings};
use super::training::TrainingPolicy;
use super::watchdog::Watchdog;
use super::webhooks::Webhooks;
use super::{budget, checkpoint, clock, execute, intake, reconcile, tls, training, webhooks};
use crate::access::AccessToken;
use crate::drift::DriftPolicy;
use crate::fleet::{CohortDoc, DeviceSettings, Selector};
use crate::ingest::Ledger;
use crate::planner::Policy;
use crate::quality::QualityPolicy;
use crate::registry::{ModelLine, ModelVersion};
use crate::retraining::job::TrainingJob;
use crate::rollout::{Rollout, evidence};
use crate::webhook::{Reach, Webhook};

mod home;
mod judging;
mod links;
mod listen;
use home::Home;
pub use home::{HomeError, KEY_FILES, METADATA_FILES, NEXT};
pub(super) use links::reachable;
pub use links::{BrokerChoice, BrokerTls, REVOKED_FILE};
use links::{broker, list_revoked, secure};
use listen::{Bounds, Secured};

/// Everything a controller is started with.
#[derive(Debug, Clone)]
pub struct ServeConfig {
    /// Its one directory: `store.redb`, `blobs/`, `staging/`, `keys/`, `admin.token`, `lock`.
    pub data: PathBuf,
    /// What the key ceremony hands to the controller: [`KEY_FILES`] and [`METADATA_FILES`]; `None` for `keys/` in `data`.
    pub keys: Option<PathBuf>,
    /// Whose fleet.
    pub tenant: Tenant,
    /// Where to listen for HTTP; port 0 picks a free one.
    pub http: SocketAddr,
    /// Which broker.
    pub broker: BrokerChoice,
    /// Base URL that devices are told; `None` for the address listened on.
    pub public_http: Option<String>,
    /// Broker that devices are told; `None` for the address listened on.
    pub public_mqtt: Option<(String, u16)>,
    /// Whether devices may enrol without a token.
    pub open_enrolment: bool,
    /// Whether a new device waits until somebody accepts it, unless its token or its labels say otherwise.
    pub review: bool,
    /// Devices with these labels need nobody's word.
    pub accept: Option<Selector>,
    /// TLS for HTTP and the embedded broker.
    pub tls: Option<TlsSettings>,
    /// The runner program and the arguments in front of its sub-command; `None` for this program with `runner`.
    pub runner: Option<(PathBuf, Vec<String>)>,
    /// A plan is made at least so often, milliseconds.
    pub tick_ms: u64,
    /// Devices outside any rollout that are told per minute and line, at most.
    pub converge_per_minute: u32,
    /// Devices called back from a bad version per minute, at most.
    pub rollback_per_minute: u32,
    /// A device outside any rollout that failed for a reason of its own is told again after so long, milliseconds.
    pub retry_after_ms: i64,
    /// How devices outside any rollout go about it.
    pub settings: DeviceSettings,
    /// How drift is judged.
    pub drift: DriftPolicy,
    /// How quality is judged.
    pub quality: QualityPolicy,
    /// How data is made and candidates are judged.
    pub training: TrainingPolicy,
    /// How long signed documents are believed.
    pub lifetimes: Lifetimes,
    /// How the store behaves.
    pub store: StoreConfig,
    /// Where webhooks may go besides the public internet.
    pub webhook_reach: Reach,
    /// What the store lies on; `None` for `store.redb` in `data`. Tests give a disk that runs full.
    pub medium: Option<Medium>,
    /// Windows older than this are dropped, milliseconds.
    pub keep_windows_ms: i64,
    /// Captured rows likewise.
    pub keep_captures_ms: i64,
}

/// The start waits so long for the broker; after that it goes on without.
const FIRST_CONNECTION: Duration = Duration::from_secs(5);
const DAY_MS: i64 = 24 * 3_600_000;

impl ServeConfig {
    /// A controller on this machine with everything in `data`.
    pub fn local(data: PathBuf, tenant: Tenant) -> Self {
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        Self {
            data,
            keys: None,
            tenant,
            http: any,
            broker: BrokerChoice::Embedded { listen: any },
            public_http: None,
            public_mqtt: None,
            open_enrolment: false,
            review: false,
            accept: None,
            tls: None,
            runner: None,
            tick_ms: 500,
            converge_per_minute: 1_000,
            rollback_per_minute: 60_000,
            retry_after_ms: 900_000,
            settings: DeviceSettings::default(),
            drift: DriftPolicy::default(),
            quality: QualityPolicy::default(),
            training: TrainingPolicy::default(),
            lifetimes: Lifetimes::default(),
            store: StoreConfig::default(),
            webhook_reach: Reach::default(),
            medium: None,
            keep_windows_ms: 90 * DAY_MS,
            keep_captures_ms: 365 * DAY_MS,
        }
    }
}

/// A controller that could not start.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The directory, the lock, the keys.
    #[error(transparent)]
    Home(#[from] HomeError),
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The blobs.
    #[error(transparent)]
    Blobs(#[from] BlobError),
    /// The repository.
    #[error(transparent)]
    Repository(#[from] OpenError),
    /// The broker.
    #[error(transparent)]
    Broker(#[from] BrokerError),
    /// TLS.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The HTTP port.
    #[error("the controller cannot listen for HTTP on {addr}: stop what uses that port, or choose another with --listen")]
    Http {
        /// The address asked for.
        addr: SocketAddr,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The clock is not set.
    #[error("the clock says {0}: set it first, for everything that is signed now would be refused by every device")]
    Clock(leeway_protocol::time::Timestamp),
    /// This program's own path.
    #[error("the path of this program cannot be found out, so models cannot be tried out: start it by its full path")]
    Runner(#[source] std::io::Error),
    /// Anything later.
    #[error(transparent)]
    Control(#[from] ControlError),
}

/// A running controller. Dropping it ends everything at once; [`Handle::shutdown`] writes down first what is only in memory.
#[derive(Debug)]
pub struct Handle {
    /// Where it listens for HTTP.
    pub http: SocketAddr,
    /// Where its own broker listens, with TLS if that is on.
    pub mqtt: Option<SocketAddr>,
    /// The certificate of the device authority, if TLS is on.
    pub ca: Option<PathBuf>,
    /// What it can be asked.
    pub controller: Controller,
    /// The administrator's token; also in `admin.token`.
    pub admin_token: String,
    tasks: Vec<JoinHandle<()>>,
    stop: watch::Sender<bool>,
    _home: Home,
}

impl Handle {
    /// End in order.
    pub async fn shutdown(mut self) {
        Watchdog::find().tell("STOPPING=1");
        let _ = self.stop.send(true);
        if let Err(error) = checkpoint::write(&self.controller.inner, true).await {
            tracing::error!("the state was not written down at the end: {error}; it is put together from the logs at the next start");
        }
        if let Err(error) = access::note_use(&self.controller.inner).await {
            tracing::warn!("when tokens were used last was not written down: {error}");
        }
        self.controller.inner.mqtt.close().await;
        self.end();
    }

    fn end(&mut self) {
        for task in self.tasks.drain(..) {
            task.abort();
        }
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.end();
    }
}

/// Start, serving `router` made from the handle.
pub async fn start_with(config: ServeConfig, router: impl FnOnce(Controller) -> Router) -> Result<Handle, ServeError> {
    let now = clock::now();
    if !clock::is_sane(now) {
        return Err(ServeError::Clock(now));
    }
    let home = Home::open(&config.data, config.keys.as_deref())?;
    let keys = home.keychain(config.lifetimes)?;
    let admin_token = home.admin_token(|| secret().map_err(ServeError::from))?;
    refuse_emptied(&config.data)?;
    let medium = config.medium.clone().unwrap_or_else(|| Medium::file(&config.data.join("store.redb")));
    let store = Store::open_on(medium, config.store.clone())?;
    let repository = match Repository::load(&store, &keys)? {
        Some(repository) => repository,
        None => begin_repository(&store, &home, &keys).await?,
    };
    let blobs = Blobs::open(&config.data)?;
    let runner = runner(&config)?;
    let mut ledger = load(&store)?;
    (ledger.drift, ledger.quality) = (config.drift, config.quality);
    let listener = TcpListener::bind(config.http).await.map_err(|source| ServeError::Http { addr: config.http, source })?;
    let http = listener.local_addr().map_err(|source| ServeError::Http { addr: config.http, source })?;

    let tls = secure(&config, &home)?;
    let mqtt_secret = secret()?;
    let credentials = Arc::new(Credentials::new(Digest::of(mqtt_secret.as_bytes())));
    let (broker, client) = broker(&config, tls.as_deref(), &credentials, &mqtt_secret).await?;
    let mqtt_addr = broker.as_ref().map(|broker| broker.secured().unwrap_or(broker.addr()));
    let reach = mqtt_addr.map_or_else(|| (client.host.clone(), client.port), |at| (reachable(at).ip().to_string(), at.port()));
    let (mqtt, inbox) = Mqtt::connect(client);
    let access = admission(&config, &store, http, reach, &admin_token)?;
    let hooks = Webhooks::new(config.webhook_reach.clone(), store.parsed::<Webhook>(Kind::Webhook)?.into_iter().collect());
    let (settings, retry_after_ms) = (config.settings, config.retry_after_ms);
    let (converge_per_minute, rollback_per_minute) = (config.converge_per_minute, config.rollback_per_minute);
    let policy =
        Policy { converge_per_minute, rollback_per_minute, retry_after_ms, settings, compare: evidence::compare, ..Policy::default() };
    let inner = Arc::new(Inner {
        tenant: config.tenant.clone(),
        store,
        blobs,
        runner,
        policy,
        ledger: Mutex::new(ledger),
        turn: tokio::sync::Mutex::new(()),
        repository: RwLock::new(repository),
        report: RwLock::default(),
        wake: Notify::new(),
        unpublished: Mutex::default(),
        publish: Notify::new(),
        mqtt,
        broker,
        credentials,
        access,
        tls: tls.clone(),
        revoked_list: tls.is_some().then(|| config.data.join(REVOKED_FILE)),
        training: config.training.clone(),
        evaluate: Notify::new(),
        counters: Default::default(),
        webhooks: hooks,
    });
    restore(&inner).await?;
    write_revoked(&inner)?;
    // What a restart left unfresh must be fresh before a device asks.
    refresh(&inner).await?;

    // Uplinks before this would come to nobody. Devices would send them again, only later.
    let mut connections = inner.mqtt.connections();
    if tokio::time::timeout(FIRST_CONNECTION, connections.wait_for(|n| *n > 0)).await.is_err() {
        tracing::warn!("{}", inner.mqtt.problem().unwrap_or_else(|| "the MQTT broker does not answer yet; trying on".to_owned()));
    }
    let controller = Controller { inner: Arc::clone(&inner) };
    let (stop, stopped) = watch::channel(false);
    let app = router(controller.clone());
    let mut tasks = vec![
        tokio::spawn(intake::run(Arc::clone(&inner), inbox)),
        tokio::spawn(reconcile::run(Arc::clone(&inner), Duration::from_millis(config.tick_ms.max(10)), Watchdog::find())),
        tokio::spawn(execute::publish(Arc::clone(&inner))),
        tokio::spawn(checkpoint::run(Arc::clone(&inner))),
        tokio::spawn(training::run(Arc::clone(&inner))),
        tokio::spawn(budget::run(controller.clone())),
        tokio::spawn(access::remember(Arc::clone(&inner))),
        tokio::spawn(webhooks::run(Arc::clone(&inner))),
        tokio::spawn(freshen(Arc::clone(&inner), config.lifetimes)),
        tokio::spawn(forget(Arc::clone(&inner), config.keep_windows_ms, config.keep_captures_ms)),
    ];
    let secured = tls.as_ref().map(|tls| Secured { config: tls.http(), tenant: config.tenant.clone() });
    let ca = tls.is_some().then(|| home.keys().join(CA_FILE));
    if let Some(tls) = tls {
        tasks.push(tokio::spawn(tls::keep(tls)));
        tasks.push(tokio::spawn(list_revoked(Arc::clone(&inner))));
    }
    tasks.push(tokio::spawn(listen::serve(listener, secured, app, stopped, Bounds::default())));
    inner.wake.notify_one();
    Watchdog::find().tell("READY=1");
    Ok(Handle { http, mqtt: mqtt_addr, ca, controller, admin_token, tasks, stop, _home: home })
}

/// The repair of a file system may leave a store without its bytes. Taken for a new one, it would make the controller forget its fleet,
/// and sign metadata that every device has to refuse as older than what it knows.
fn refuse_emptied(data: &Path) -> Result<(), StoreError> {
    let path = data.join("store.redb");
    let is_empty = std::fs::metadata(&path).is_ok_and(|about| about.len() == 0);
    let has_lived = std::fs::read_dir(data.join("blobs")).is_ok_and(|mut blobs| blobs.next().is_some());
    if is_empty && has_lived {
        let detail = "it has no bytes, but there are blobs of an earlier time".to_owned();
        return Err(StoreError::Damaged { path: path.display().to_string(), detail });
    }
    Ok(())
}

async fn begin_repository(store: &Store, home: &Home, keys: &Keychain) -> Result<Repository, ServeError> {
    let [root, targets, director] = home.metadata()?;
    let at = clock::now();
    let (repository, writes) = Repository::create(&root, &targets, &director, keys, at).map_err(OpenError::from)?;
    store.commit(Batch { at, writes, events: Vec::new(), urgent: true }).await?;
    Ok(repository)
}

fn runner(config: &ServeConfig) -> Result<Runner, ServeError> {
    let (program, args) = match &config.runner {
        Some(runner) => runner.clone(),
        None => (std::env::current_exe().map_err(ServeError::Runner)?, vec!["runner".to_owned()]),
    };
    Ok(Runner::new(program, args))
}

fn admission(config: &ServeConfig, store: &Store, http: SocketAddr, mqtt: (String, u16), admin_token: &str) -> Result<Access, ServeError> {
    let tokens = store.parsed::<Token>(Kind::Token)?;
    let tokens = tokens.into_iter().filter_map(|(hash, token)| Some((Digest::from_hex(&hash).ok()?, token))).collect();
    let issued = store.parsed::<AccessToken>(Kind::Access)?;
    let issued = issued.into_iter().filter_map(|(hash, token)| Some((Digest::from_hex(&hash).ok()?, token))).collect();
    let scheme = if config.tls.is_some() { "https" } else { "http" };
    let (mqtt_tls, reserved) = match &config.broker {
        BrokerChoice::Embedded { .. } => (config.tls.is_some(), None),
        BrokerChoice::External { tls, user, .. } => (tls.is_some(), Some(user.clone())),
    };
    Ok(Access {
        open_enrolment: config.open_enrolment,
        review: config.review,
        accept: config.accept.clone(),
        mqtt_tls,
        reserved,
        http: config.public_http.clone().unwrap_or_else(|| format!("{scheme}://{}", reachable(http))),
        public: config.public_http.is_some(),
        mqtt: config.public_mqtt.clone().unwrap_or(mqtt),
        embedded: matches!(config.broker, BrokerChoice::Embedded { .. }),
        holders: Holders::new(admin_token, issued),
        tokens: RwLock::new(tokens),
        challenges: Mutex::default(),
    })
}

/// The registry and the rollouts; devices and sums come after the manifests are known.
pub(super) fn load(store: &Store) -> Result<Ledger, StoreError> {
    let mut ledger = Ledger::default();
    let state = &mut ledger.snapshot;
    let cohorts = store.parsed::<CohortDoc>(Kind::Cohort)?;
    state.cohorts = Arc::new(cohorts.into_iter().map(|(_, c)| (c.name.clone(), Arc::new(c))).collect());
    let lines = store.parsed::<ModelLine>(Kind::Line)?;
    state.lines = Arc::new(lines.into_iter().map(|(_, l)| (l.line.clone(), Arc::new(l))).collect());
    let versions = store.parsed::<ModelVersion>(Kind::Version)?;
    state.versions = Arc::new(versions.into_iter().map(|(_, v)| ((v.line.clone(), v.version.clone()), Arc::new(v))).collect());
    let rollouts = store.parsed::<Rollout>(Kind::Rollout)?;
    state.rollouts = Arc::new(rollouts.into_iter().map(|(_, r)| (r.id.clone(), Arc::new(r))).collect());
    let jobs = store.parsed::<TrainingJob>(Kind::Job)?;
    state.jobs = Arc::new(jobs.into_iter().map(|(id, j)| (id, Arc::new(j))).collect());
    Ok(ledger)
}

async fn restore(inner: &Inner) -> Result<(), ServeError> {
    for (digest, manifest) in load_manifests(inner).await {
        inner.ledger().know(digest, manifest);
    }
    let (judging, windows) = put_together(inner)?;
    super::health::begin(inner, clock::now()).await?;
    Ok(judging::begin(&inner.store, judging, windows).await?)
}

/// The state from the store; how windows were to be judged, and how many there are.
fn put_together(inner: &Inner) -> Result<(judging::Judging, u64), StoreError> {
    let mut ledger = inner.ledger();
    let judging = judging::restored(&inner.store, &mut ledger)?;
    for device in ledger.snapshot.fleet.iter() {
        if let Some(credential) = device.credential {
            inner.credentials.admit(&device.id, credential);
        }
        if device.admission.is_in() {
            inner.credentials.certify(&device.id, device.certificates.clone());
        }
    }
    super::health::restore(&inner.store, &mut ledger, clock::now())?;
    Ok((judging, ledger.position.windows))
}

/// Sign freshness anew, well within its lifetime, and assignments within theirs.
async fn freshen(inner: Arc<Inner>, lifetimes: Lifetimes) {
    const MIN_SECS: u64 = 1;
    let part = |secs: i64| Duration::from_secs(u64::try_from(secs / 4).unwrap_or(0).max(MIN_SECS));
    let (mut metadata, mut assignments) =
        (tokio::time::interval(part(lifetimes.timestamp_secs)), tokio::time::interval(part(lifetimes.director_secs)));
    // The first tick is at once, and both were done at the start.
    metadata.tick().await;
    assignments.tick().await;
    loop {
        tokio::select! {
            _ = metadata.tick() => {
                if let Err(error) = refresh(&inner).await {
                    tracing::error!("the repository's timestamp was not signed anew: {error}; trying again");
                    metadata.reset_after(Duration::from_secs(MIN_SECS));
                }
            }
            _ = assignments.tick() => {
                let all: Vec<_> = inner.ledger().snapshot.fleet.iter().filter(|d| d.desired.is_some()).map(|d| d.id.clone()).collect();
                inner.publish_later(all);
            }
        }
    }
}

/// What decisions were made from is kept longer than windows: some kilobytes each, a few hundred a year.
const KEEP_NOTES_MS: i64 = 3 * 365 * DAY_MS;

/// Drop what is past retention.
async fn forget(inner: Arc<Inner>, keep_windows_ms: i64, keep_captures_ms: i64) {
    const EVERY: Duration = Duration::from_secs(3600);
    loop {
        tokio::time::sleep(EVERY).await;
        for (log, keep) in [(Log::Windows, keep_windows_ms), (Log::Captures, keep_captures_ms), (Log::Notes, KEEP_NOTES_MS)] {
            match inner.store.prune(log, clock::now().plus_millis(-keep)).await {
                Ok(0) => {}
                Ok(days) => tracing::info!("{days} partitions past retention were dropped"),
                Err(error) => tracing::error!("what is past retention was not dropped: {error}"),
            }
        }
    }
}

#[cfg(test)]
mod tests;
