//! The agent's one loop: events in, actions carried out in order, nothing decided.
//!
//! One thread and one task own the agent. Everything else (the broker's link, the downloads, the runners) only puts events
//! into one bounded queue and waits when it is full. Disk effects are carried out here, at once: they are small, and what
//! follows in the list depends on them.
use std::collections::{BTreeMap, VecDeque};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, bail};
use leeway_protocol::digest::Digest;
use leeway_protocol::topic::Channel;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc::{Receiver, Sender, channel};
use tokio::time::{Instant, sleep_until};

use super::clock::{Watchdog, now};
use super::disk::{Disk, patiently, read_bounded};
use super::download::Downloads;
use super::mqtt::{Ended, Link, Told};
use super::renew::{Asked, Certificates};
use super::supervise::Runners;
use crate::action::{Action, Level, Payload};
use crate::agent::{Agent, Settings};
use crate::at_rest::AtRest;
use crate::config::Config;
use crate::event::{CertificateNews, Event};
use crate::identity::{BrokerAccess, IDENTITY_FILE, Identity};

/// Events that wait for the loop.
const EVENTS: usize = 256;
/// First pause between connections, and the longest; each pause is drawn from nothing to twice the last span.
const FIRST_PAUSE_MS: u64 = 500;
const MAX_PAUSE_MS: u64 = 60_000;
/// A connection that stood this long was a good one: the next pause is short again.
const STABLE: Duration = Duration::from_secs(60);
/// An orderly end takes no longer.
const FAREWELL: Duration = Duration::from_secs(5);
/// A device that has a model is ready when that answers; one whose model takes longer, or crashes, is ready after so long all the same,
/// because help comes over the network. Less than systemd waits for a start.
const READY_PATIENCE: Duration = Duration::from_secs(60);
/// How often it is looked whether the last runner is gone.
const GRAVE: Duration = Duration::from_millis(20);
/// The longest identity file.
const MAX_IDENTITY: u64 = 512 << 10;
/// The longest sealed message.
const MAX_MESSAGE: u64 = 256 << 10;

/// Run the agent until it is told to stop by SIGTERM or SIGINT.
pub fn run(config: &Config) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("the agent's loop cannot start")?;
    let ended = runtime.block_on(async { Loop::open(config)?.turn().await });
    // A download that hangs in a read may take its minute; the process ends without it.
    runtime.shutdown_background();
    ended
}

/// Read who this device is.
pub(super) fn identity(dir: &Path) -> anyhow::Result<Identity> {
    let path = dir.join(IDENTITY_FILE);
    let shown = path.display();
    let bytes = patiently(&path, || read_bounded(&path, MAX_IDENTITY)).with_context(|| format!("{shown} cannot be read"))?;
    let bytes = bytes.with_context(|| format!("{shown} is missing: run `leeway-agent enrol` first, or set data_dir"))?;
    let text = String::from_utf8(bytes).with_context(|| format!("{shown} is not text: enrol the device again"))?;
    Ok(Identity::parse(&text)?)
}

struct Loop {
    agent: Agent,
    disk: Disk,
    identity: Identity,
    /// Labels as they are told when a certificate is asked for.
    labels: BTreeMap<String, String>,
    /// The broker and the artifacts, where the configuration names others than the controller did.
    broker: Option<(String, u16)>,
    artifacts: Option<String>,
    certificates: Option<Certificates>,
    to_asked: Sender<Asked>,
    from_asked: Receiver<Asked>,
    downloads: Downloads,
    runners: Runners,
    inbox: Receiver<Event>,
    to_links: Sender<(u64, Told)>,
    from_links: Receiver<(u64, Told)>,
    link: Option<Link>,
    /// Number of the present link; a word of an earlier one is not heard.
    link_number: u64,
    /// The number of the certificate that the present link showed.
    link_shows: u64,
    /// When the present connection stood.
    stood: Option<Instant>,
    /// Attempts since the last good connection.
    attempts: u32,
    /// When to connect next.
    connect_at: Option<Instant>,
    wake_at: Instant,
    watchdog: Watchdog,
}

impl Loop {
    fn open(config: &Config) -> anyhow::Result<Self> {
        let disk = Disk::open(&config.data_dir)?;
        let identity = identity(&config.data_dir)?;
        let disk = disk.encrypted(AtRest::new(identity.key.clone()));
        let certificates = Certificates::open(&identity, &config.data_dir)?;
        let access = certificates.as_ref().and_then(Certificates::way);
        let (told_broker, told_base) = access.unwrap_or((&identity.broker, &identity.artifacts));
        let broker = config.broker.clone().unwrap_or_else(|| (told_broker.host.clone(), told_broker.port));
        let artifacts = config.artifacts.clone().unwrap_or_else(|| told_base.to_owned());
        if identity.tls.is_none() && artifacts.starts_with("https://") {
            bail!(
                "network.artifacts = {artifacts} needs TLS, and this device was enrolled without: enrol it with a controller that speaks it"
            );
        }
        let mut settings = Settings::new(identity.tenant.clone(), identity.device.clone(), identity.key.clone());
        settings.labels = config.labels.clone().unwrap_or_else(|| identity.labels.clone());
        (settings.outbox, settings.timing) = (config.outbox, config.timing);
        settings.utc_offset_minutes = config.utc_offset_minutes;
        settings.certificate = certificates.as_ref().map(Certificates::dates);
        let labels = settings.labels.clone();
        let (events, inbox) = channel(EVENTS);
        let (to_links, from_links) = channel(EVENTS);
        let (to_asked, from_asked) = channel(1);
        let tls = certificates.as_ref().and_then(|certificates| certificates.connections().0);
        let downloads = Downloads::start(&artifacts, tls, events.clone()).context("the download threads cannot start")?;
        let dir = config.data_dir.canonicalize().with_context(|| format!("{} cannot be found", config.data_dir.display()))?;
        let runners = Runners::new(&config.runner, &dir, events)?;
        tracing::info!(
            "device {} of {}: broker {}:{}, artifacts {artifacts}, runner {}",
            identity.device,
            identity.tenant,
            broker.0,
            broker.1,
            runners.program().display()
        );
        Ok(Self {
            agent: Agent::new(settings),
            disk,
            identity,
            labels,
            broker: config.broker.clone(),
            artifacts: config.artifacts.clone(),
            certificates,
            to_asked,
            from_asked,
            downloads,
            runners,
            inbox,
            to_links,
            from_links,
            link: None,
            link_number: 0,
            link_shows: 0,
            stood: None,
            attempts: 0,
            connect_at: Some(Instant::now()),
            wake_at: Instant::now(),
            watchdog: Watchdog::find(),
        })
    }

    async fn turn(mut self) -> anyhow::Result<()> {
        let mut terminate = signal(SignalKind::terminate()).context("SIGTERM cannot be listened to")?;
        let mut interrupt = signal(SignalKind::interrupt()).context("SIGINT cannot be listened to")?;
        let stored = self.disk.stored()?;
        self.feed(Event::Start(stored));
        let mut alive_at = Instant::now();
        let mut ready_by = Some(Instant::now() + READY_PATIENCE);
        loop {
            if ready_by.is_some_and(|by| self.agent.is_settled() || by <= Instant::now()) {
                ready_by = None;
                self.watchdog.tell("READY=1");
            }
            let alive_every = self.watchdog.every.unwrap_or(FAREWELL);
            let connect_at = self.connect_at.unwrap_or_else(|| Instant::now() + STABLE);
            tokio::select! {
                Some(event) = self.inbox.recv() => self.feed(event),
                Some((number, told)) = self.from_links.recv() => self.heard(number, told),
                Some(asked) = self.from_asked.recv() => self.answered(asked),
                () = sleep_until(self.wake_at) => self.feed(Event::Tick),
                () = sleep_until(connect_at), if self.connect_at.is_some() => self.connect(),
                () = sleep_until(alive_at + alive_every) => self.feed(Event::Tick),
                () = sleep_until(ready_by.unwrap_or(connect_at)), if ready_by.is_some() => self.feed(Event::Tick),
                _ = terminate.recv() => break,
                _ = interrupt.recv() => break,
            }
            if alive_at.elapsed() >= alive_every {
                alive_at = Instant::now();
                self.watchdog.tell("WATCHDOG=1");
            }
        }
        self.farewell().await;
        Ok(())
    }

    /// The agent says goodbye, the runner sends its open windows, and whatever still comes is written down.
    async fn farewell(mut self) {
        tracing::info!("the agent stops");
        self.watchdog.tell("STOPPING=1");
        self.feed(Event::Stop);
        let end = Instant::now() + FAREWELL;
        while self.runners.any_alive() {
            tokio::select! {
                Some(event) = self.inbox.recv() => self.feed(event),
                () = tokio::time::sleep(GRAVE) => {}
                () = sleep_until(end) => break,
            }
        }
        while let Ok(event) = self.inbox.try_recv() {
            self.feed(event);
        }
        if let Some(link) = self.link.take() {
            link.close().await;
        }
    }

    /// Let the agent decide and carry out what it decided; an effect may itself be answered by an event.
    fn feed(&mut self, event: Event) {
        let mut events = VecDeque::from([event]);
        while let Some(event) = events.pop_front() {
            let actions = self.agent.handle(now(), event);
            if let Some(certificates) = &self.certificates {
                certificates.time.set(self.agent.trusted_time());
            }
            for action in actions {
                match action {
                    Action::Disk(op) => {
                        if let Err(failed) = self.disk.perform(&op) {
                            // Before any other event, and nothing more of this list.
                            events.push_front(*failed);
                            break;
                        }
                    }
                    action => self.perform(action, &mut events),
                }
            }
        }
    }

    fn perform(&mut self, action: Action, events: &mut VecDeque<Event>) {
        match action {
            Action::Disk(_) => {}
            Action::Read { path, max_len } => {
                let result = self.disk.read(&path, max_len);
                events.push_back(Event::Read { path, result });
            }
            Action::Connect { will } => self.open_link(will),
            Action::Publish { channel, payload } => self.publish(channel, payload, events),
            Action::FetchMetadata { fetch, file, max_len } => self.downloads.metadata(fetch, file, max_len),
            Action::FetchBlob { fetch, digest, length, resume } => {
                let path = self.disk.path(&crate::action::DiskPath::staging(&digest));
                self.downloads.blob(fetch, digest, length, path, resume);
            }
            Action::RenewCertificate { ask } => {
                if let Some(certificates) = &self.certificates {
                    certificates.ask(ask, &self.identity, &self.labels, &self.to_asked);
                }
            }
            Action::CancelFetch => self.downloads.cancel(),
            Action::StartRunner { run, purpose } => self.runners.start(run, purpose),
            Action::Runner { run, command } => self.runners.tell(run, command),
            Action::KillRunner { run } => self.runners.kill(run),
            Action::Log { level, sentence } => log(level, &sentence),
            Action::WakeIn { millis } => self.wake_at = Instant::now() + Duration::from_millis(millis),
        }
    }

    fn publish(&mut self, channel: Channel, payload: Payload, events: &mut VecDeque<Event>) {
        let bytes = match payload {
            Payload::Bytes(bytes) => bytes,
            Payload::File(path) => match self.disk.read(&path, MAX_MESSAGE) {
                Ok(Some(bytes)) => bytes,
                result => return events.push_back(Event::Read { path, result }),
            },
        };
        let sent = self.link.as_ref().is_some_and(|link| link.publish(channel, bytes));
        if !sent {
            tracing::debug!("a message for {} is not sent now", channel.suffix());
        }
    }

    /// It is time to connect: the agent is asked for a will.
    fn connect(&mut self) {
        // If it has none yet, it is asked again after a pause.
        self.connect_at = Some(Instant::now() + self.pause());
        self.feed(Event::Connecting);
    }

    fn open_link(&mut self, will: Vec<u8>) {
        self.link_number += 1;
        self.connect_at = None;
        self.stood = None;
        let access = self.broker();
        let tls = if access.tls { self.certificates.as_ref().map(Certificates::connections) } else { None };
        let (tls, shows) = tls.unwrap_or_default();
        self.link_shows = shows;
        if access.tls && tls.is_none() {
            // Said already. Never without TLS where the controller wants it.
            self.connect_at = Some(Instant::now() + self.pause());
            return;
        }
        self.link = Some(Link::open(&self.identity, &access, tls, will, self.link_number, self.to_links.clone()));
    }

    /// The way to the broker: the last one the controller told, at the place the configuration names, if it does.
    fn broker(&self) -> BrokerAccess {
        let told = self.certificates.as_ref().and_then(Certificates::way).map_or(&self.identity.broker, |(broker, _)| broker);
        let mut access = told.clone();
        if let Some((host, port)) = &self.broker {
            (access.host, access.port) = (host.clone(), *port);
        }
        access
    }

    /// The controller answered the question for a certificate, or did not.
    fn answered(&mut self, Asked { ask, outcome }: Asked) {
        let Some(certificates) = &mut self.certificates else { return };
        match outcome.and_then(|pair| certificates.take(*pair)) {
            Ok(certificate) => {
                self.show_certificate();
                if let Some(link) = &self.link {
                    // The new one is shown at once, while the old one is still good.
                    link.leave();
                }
                self.feed(Event::Certificate(CertificateNews::Renewed { ask, certificate }));
            }
            Err(failure) => self.feed(Event::Certificate(CertificateNews::NotRenewed { ask, failure })),
        }
    }

    /// Requests show from now on what connections show.
    fn show_certificate(&self) {
        let Some(certificates) = &self.certificates else { return };
        let told = certificates.way().map_or(self.identity.artifacts.as_str(), |(_, base)| base);
        self.downloads.turn_to(self.artifacts.as_deref().unwrap_or(told), certificates.connections().0);
    }

    /// The connection ended in a way that says something about the certificate.
    fn judge_certificate(&mut self, why: &str, ended: Ended) {
        let Some(certificates) = &mut self.certificates else { return };
        let refused = match ended {
            Ended::Otherwise | Ended::Left => false,
            Ended::Unanswered => certificates.was_unanswered(),
            Ended::Unaccepted => true,
        };
        if refused && let Some(back_to) = certificates.unaccepted(self.link_shows) {
            if back_to.is_some() {
                self.show_certificate();
            }
            self.feed(Event::Certificate(CertificateNews::Unaccepted { why: why.to_owned(), back_to }));
        }
    }

    fn heard(&mut self, number: u64, told: Told) {
        if number != self.link_number || self.link.is_none() {
            return;
        }
        match told {
            Told::Event(event) => {
                if matches!(event, Event::Connected { .. }) {
                    let BrokerAccess { host, port, tls, .. } = self.broker();
                    tracing::info!("connected to the broker at {host}:{port}{}", if tls { " over TLS" } else { "" });
                    self.stood = Some(Instant::now());
                    if let Some(certificates) = self.certificates.as_mut().filter(|_| tls) {
                        certificates.worked(self.link_shows);
                        self.feed(Event::Certificate(CertificateNews::Worked));
                    }
                }
                self.feed(event);
            }
            Told::Down(why, ended) => self.link_is_down(&why, ended),
        }
    }

    fn link_is_down(&mut self, why: &str, ended: Ended) {
        self.link = None;
        if self.stood.take().is_some_and(|stood| stood.elapsed() >= STABLE) {
            self.attempts = 0;
        }
        let BrokerAccess { host, port, .. } = self.broker();
        let pause = match ended {
            Ended::Left => {
                tracing::info!("the connection to the broker at {host}:{port} is made anew, to show another certificate");
                Duration::ZERO
            }
            _ => {
                let pause = self.pause();
                tracing::warn!("no connection to the broker at {host}:{port}: {why}; the next try is in {} ms", pause.as_millis());
                pause
            }
        };
        self.connect_at = Some(Instant::now() + pause);
        self.feed(Event::Disconnected);
        self.judge_certificate(why, ended);
    }

    /// The next pause between connections: anything up to a span that doubles, the same for this device and attempt, so that a
    /// fleet that lost its broker at one moment does not come back at one moment.
    fn pause(&mut self) -> Duration {
        self.attempts = self.attempts.saturating_add(1);
        let span = FIRST_PAUSE_MS.saturating_mul(1 << self.attempts.min(16)).min(MAX_PAUSE_MS);
        let drawn = Digest::of(format!("{} {} {}", self.identity.device, self.attempts, self.link_number).as_bytes());
        let drawn = drawn.as_bytes().first_chunk::<8>().copied().map_or(0, u64::from_le_bytes);
        Duration::from_millis(FIRST_PAUSE_MS / 5 + drawn % span)
    }
}

fn log(level: Level, sentence: &str) {
    match level {
        Level::Debug => tracing::debug!("{sentence}"),
        Level::Info => tracing::info!("{sentence}"),
        Level::Warn => tracing::warn!("{sentence}"),
        Level::Error => tracing::error!("{sentence}"),
    }
}

#[cfg(test)]
mod tests;
