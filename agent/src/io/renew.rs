//! The certificate that connections show, and how the next one comes: carries out what the agent's core decided.
//!
//! The next certificate is shown by new connections as soon as it is on the disk; the old one is kept until the broker has
//! accepted the new one, and is gone back to if it does not. The way to the broker comes with a certificate, since the controller
//! may hand out another secret with it: the last one that came counts, whichever certificate is shown. What stays true: a
//! connection is judged by the number of what it showed, so an old connection's end says nothing about a new certificate.
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context as _;
use leeway_protocol::ids::DeviceId;
use leeway_protocol::time::Timestamp;
use leeway_protocol::trust::keyring::SigningKey;
use rustls::ClientConfig;
use tokio::sync::mpsc::Sender;

use super::certificates::{self, Pair, Place, Store};
use super::download::agent as http_agent;
use super::enrol::door::{self, Answer, Asking};
use super::tls::{self, TrustedTime, client};
use crate::action::FetchId;
use crate::agent::built_at;
use crate::certificate::Certificate;
use crate::event::RenewalFailure;
use crate::identity::{BrokerAccess, Identity, TlsAccess};

/// Connections in a row that the broker left before it answered; then it is taken for a refusal whose last words were lost.
const MAX_UNANSWERED: u32 = 5;

/// What came of asking.
#[derive(Debug)]
pub(super) struct Asked {
    pub(super) ask: FetchId,
    pub(super) outcome: Result<Box<Pair>, RenewalFailure>,
}

/// The certificates of a running agent.
#[derive(Debug)]
pub(super) struct Certificates {
    access: TlsAccess,
    data_dir: PathBuf,
    store: Store,
    pub(super) time: Arc<TrustedTime>,
    /// The one that works; none if it was lost.
    current: Option<Pair>,
    /// The one that has yet to work.
    next: Option<Pair>,
    /// Rises with each change of what is shown.
    number: u64,
    unanswered: u32,
}

impl Certificates {
    /// What enrolment and earlier renewals left.
    pub(super) fn open(identity: &Identity, data_dir: &Path) -> anyhow::Result<Option<Self>> {
        let Some(access) = &identity.tls else { return Ok(None) };
        let found = Self::look(data_dir, access)?;
        if let Err(error) = found.store.clean() {
            tracing::warn!("what earlier certificates left could not be removed: {error:#}");
        }
        Ok(Some(found))
    }

    /// The same, and nothing is touched.
    pub(super) fn look(data_dir: &Path, access: &TlsAccess) -> anyhow::Result<Self> {
        let store = Store::open(data_dir, &access.enrolment)?;
        let time = TrustedTime::new(super::clock::now().max(built_at()));
        let read = |place| {
            store.read(place, &time).unwrap_or_else(|error| {
                tracing::error!("a certificate of this device is lost and another one is asked for: {error:#}");
                None
            })
        };
        let (current, next) = (read(Place::Current), read(Place::Next));
        Ok(Self { access: access.clone(), data_dir: data_dir.to_owned(), store, time, current, next, number: 0, unanswered: 0 })
    }

    /// For people, at the moment that the device's clock shows.
    pub(super) fn sentence(&self, now: Timestamp) -> String {
        let Some(pair) = self.shown() else { return "is lost; the agent asks for another one".to_owned() };
        let over = if now >= pair.certificate.not_after { ", which is over by this device's clock" } else { "" };
        let new = if self.next.is_some() { "; it is new and has yet to be accepted" } else { "" };
        format!("until {}{over}; obtained {}{new}", pair.certificate.not_after, pair.certificate.begin())
    }

    fn shown(&self) -> Option<&Pair> {
        self.next.as_ref().or(self.current.as_ref())
    }

    /// What the core is told at start: the dates of what is shown, or of one that is over if all are lost.
    pub(super) fn dates(&self) -> Certificate {
        self.shown().map_or(Certificate::ended(built_at()), |pair| pair.certificate)
    }

    /// The way to the broker and to the artifacts, if a certificate brought it.
    pub(super) fn way(&self) -> Option<(&BrokerAccess, &str)> {
        self.shown().map(|pair| (&pair.document.mqtt, pair.document.http_base.as_str()))
    }

    /// How new connections are made, and its number. Without a certificate the server is judged all the same.
    pub(super) fn connections(&self) -> (Option<Arc<ClientConfig>>, u64) {
        let made = match self.shown() {
            Some(pair) => pair.client(&self.time),
            None => client(&self.access.ca, None, &self.time).map_err(Into::into),
        };
        let made = made.inspect_err(|error| tracing::error!("TLS cannot be spoken: {error:#}"));
        (made.ok(), self.number)
    }

    fn authority(&self) -> &str {
        self.shown().map_or(&self.access.ca, |pair| &pair.document.ca)
    }

    /// Ask for another certificate on a thread of its own; the answer comes to `to`.
    pub(super) fn ask(&self, ask: FetchId, identity: &Identity, labels: &BTreeMap<String, String>, to: &Sender<Asked>) {
        let question = Question {
            data_dir: self.data_dir.clone(),
            time: Arc::clone(&self.time),
            door: self.access.door.clone(),
            ca: self.authority().to_owned(),
            device: identity.device.clone(),
            key: identity.key.clone(),
            labels: labels.clone(),
            secret: self.way().map_or(&identity.broker, |(broker, _)| broker).password.clone(),
        };
        let (answers, name) = (to.clone(), "renewal".to_owned());
        let asked = std::thread::Builder::new().name(name).stack_size(512 << 10).spawn(move || {
            let outcome = question.ask();
            drop(answers.blocking_send(Asked { ask, outcome }));
        });
        if let Err(error) = asked {
            let outcome = Err(RenewalFailure::Failed(format!("no thread could be started: {error}")));
            drop(to.try_send(Asked { ask, outcome }));
        }
    }

    /// A new one came: it is put on the disk, and shown from the next connection on.
    pub(super) fn take(&mut self, pair: Pair) -> Result<Certificate, RenewalFailure> {
        let dates = pair.certificate;
        // Where the broker does not speak TLS it says nothing about the certificate, and there is nothing to wait for.
        let place = if self.current.is_some() && pair.document.mqtt.tls { Place::Next } else { Place::Current };
        let kept = self.store.keep(place, &pair).and_then(|()| self.store.clean());
        kept.map_err(|error| RenewalFailure::Failed(format!("{error:#}")))?;
        match place {
            Place::Current => self.current = Some(pair),
            Place::Next => self.next = Some(pair),
        }
        (self.number, self.unanswered) = (self.number.wrapping_add(1), 0);
        Ok(dates)
    }

    /// The broker has accepted what was shown under this number.
    pub(super) fn worked(&mut self, number: u64) {
        self.unanswered = 0;
        if number != self.number || self.next.is_none() {
            return;
        }
        match self.store.promote() {
            Ok(()) => {
                self.current = self.next.take();
                tracing::info!("the device's new certificate was accepted; the old one is gone");
            }
            Err(error) => tracing::warn!("the certificate that works stays marked as new: {error:#}"),
        }
    }

    /// The broker left before it answered; whether that is a refusal by now.
    pub(super) fn was_unanswered(&mut self) -> bool {
        self.unanswered = self.unanswered.saturating_add(1);
        let many = self.unanswered >= MAX_UNANSWERED;
        if many {
            self.unanswered = 0;
        }
        many
    }

    /// The broker did not accept what was shown under this number: if that had never worked, back to what did. None if the end
    /// was an older connection's; else the dates of what is shown now, if that is another one.
    pub(super) fn unaccepted(&mut self, number: u64) -> Option<Option<Certificate>> {
        if number != self.number {
            return None;
        }
        let (Some(next), Some(current)) = (&self.next, &mut self.current) else { return Some(None) };
        (current.document.mqtt, current.document.http_base) = (next.document.mqtt.clone(), next.document.http_base.clone());
        let back = current.certificate;
        if let Err(error) = self.store.give_up_next(current) {
            tracing::warn!("the certificate that was not accepted stays on the disk: {error:#}");
        }
        self.next = None;
        self.number = self.number.wrapping_add(1);
        Some(Some(back))
    }
}

/// Everything that is needed to ask.
struct Question {
    data_dir: PathBuf,
    time: Arc<TrustedTime>,
    door: String,
    ca: String,
    device: DeviceId,
    key: SigningKey,
    labels: BTreeMap<String, String>,
    secret: String,
}

impl Question {
    fn ask(&self) -> Result<Box<Pair>, RenewalFailure> {
        let failed = |error: anyhow::Error| RenewalFailure::Failed(format!("{error:#}"));
        let drawn = certificates::draw(&self.data_dir).map_err(failed)?;
        let tls = client(&self.ca, None, &self.time).map_err(|error| failed(error.into()))?;
        let asking = Asking { device: &self.device, key: &self.key, labels: &self.labels, token: None, csr: &drawn.csr };
        let answer = match door::ask(&http_agent(Some(tls)), &self.door, &asking).map_err(failed)? {
            Answer::Enrolled(answer) => answer,
            Answer::Pending { sentence, retry_secs } => return Err(RenewalFailure::Pending { sentence, retry_secs }),
            Answer::Refused(sentence) => return Err(RenewalFailure::Revoked(sentence)),
        };
        let certified = answer.tls.context("the controller gave no certificate").map_err(failed)?;
        let base = crate::config::check_base(&answer.http_base)
            .map_err(|remedy| RenewalFailure::Failed(format!("the controller names {} for artifacts: {remedy}", answer.http_base)))?;
        let broker = answer.mqtt.with_secret(None, Some(&self.secret));
        let ca = self.authority(certified.ca);
        drawn.with((ca, certified.chain), (broker, base), &self.time).map(Box::new).map_err(failed)
    }

    /// Another authority is believed from now on only if the door that named it can show itself under it: else nothing that this
    /// device speaks to would be believed any more.
    fn authority(&self, named: String) -> String {
        if named == self.ca {
            return named;
        }
        let shown = client(&named, None, &self.time).map_err(|error| error.to_string()).and_then(|tls| {
            let answered = http_agent(Some(tls)).get(&self.door).call();
            answered.map(drop).map_err(|error| tls::sentence(&error).unwrap_or_else(|| error.to_string()))
        });
        match shown {
            Ok(()) => named,
            Err(why) => {
                tracing::warn!("the controller names another authority and cannot show itself under it, so it is not believed: {why}");
                self.ca.clone()
            }
        }
    }
}

#[cfg(test)]
pub(super) mod tests;
