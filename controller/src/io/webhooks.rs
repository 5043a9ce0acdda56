//! Webhooks at work: who is due is asked, one entry at a time each, and what came of it is written down.
//!
//! One task looks after all of them; each request runs on a thread of its own, so that a slow receiver delays nobody else. The
//! place of each webhook is committed after its receiver took an entry and before the next one is offered: a kill in between
//! offers the same entry again under the same id. What stays true: at most one request per webhook is under way; a request goes
//! only to addresses that were judged after the name was looked up ([`Guarded`]), through no proxy and along no redirect.
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use leeway_protocol::time::Timestamp;
use serde_json::json;
use tokio::sync::Notify;
use tokio::sync::broadcast::error::RecvError;
use tokio::task::JoinSet;
use ureq::unversioned::resolver::{DefaultResolver, ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::{DefaultConnector, NextTimeout};

use super::clock;
use super::control::decisions::{draft, reason};
use super::control::{ControlError, Controller, Inner, document};
use super::store::{Batch, Kind, StoreError, Write};
use crate::audit::{Draft, Event};
use crate::webhook::{Answer, MAX_WEBHOOKS, Reach, Secret, Try, Webhook, check, message};

/// A receiver must have answered in this time, the name looked up and the connection made.
const ANSWER_LIMIT: Duration = Duration::from_secs(15);
/// Entries read from the log at a time, to find one that a webhook wants.
const CHUNK: usize = 500;
/// How often is looked whether a wait is over.
const GLANCE: Duration = Duration::from_secs(1);
/// After the store refused: it says so itself, and nothing is lost by waiting.
const STORE_PAUSE: Duration = Duration::from_secs(5);
/// Bytes of a secret: as many as the signature's hash has.
const SECRET_BYTES: usize = 32;

/// A webhook that is to be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewWebhook {
    /// What it is called.
    pub name: String,
    /// Where it goes.
    pub url: String,
    /// Beginnings of the kinds of entries it wants; all if empty.
    pub kinds: Vec<String>,
    /// Begin after this entry; with what happens from now on if absent.
    pub since: Option<u64>,
}

/// The webhooks of a controller.
#[derive(Debug)]
pub(super) struct Webhooks {
    reach: Reach,
    agent: ureq::Agent,
    held: RwLock<BTreeMap<String, Webhook>>,
    changed: Notify,
}

impl Webhooks {
    pub(super) fn new(reach: Reach, held: BTreeMap<String, Webhook>) -> Self {
        let agent = guarded(&reach, ANSWER_LIMIT);
        Self { reach, agent, held: RwLock::new(held), changed: Notify::new() }
    }

    fn one(&self, name: &str) -> Option<Webhook> {
        self.held.read().unwrap_or_else(PoisonError::into_inner).get(name).cloned()
    }

    fn all(&self) -> Vec<Webhook> {
        self.held.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    fn put(&self, webhook: Webhook) {
        self.held.write().unwrap_or_else(PoisonError::into_inner).insert(webhook.name.clone(), webhook);
    }
}

/// A client that goes only where `reach` lets it, through no proxy and along no redirect.
pub(super) fn guarded(reach: &Reach, limit: Duration) -> ureq::Agent {
    let config = ureq::Agent::config_builder()
        .http_status_as_error(false)
        .timeout_global(Some(limit))
        .max_redirects(0)
        .max_redirects_will_error(false)
        .proxy(None)
        .max_idle_connections(0)
        .user_agent(concat!("leeway/", env!("CARGO_PKG_VERSION")))
        .build();
    let resolver = Guarded { reach: reach.clone(), names: DefaultResolver::default() };
    ureq::Agent::with_parts(config, DefaultConnector::default(), resolver)
}

/// Looks names up, and lets only addresses through that a webhook may go to. What it returns is what is connected to: a name that
/// points elsewhere a moment later changes nothing.
#[derive(Debug)]
struct Guarded {
    reach: Reach,
    names: DefaultResolver,
}

impl Resolver for Guarded {
    fn resolve(
        &self,
        uri: &ureq::http::Uri,
        config: &ureq::config::Config,
        timeout: NextTimeout,
    ) -> Result<ResolvedSocketAddrs, ureq::Error> {
        let found = self.names.resolve(uri, config, timeout)?;
        let host = uri.host().unwrap_or_default();
        for address in &found[..] {
            self.reach.judge(host, address.ip()).map_err(|refusal| ureq::Error::Other(Box::new(refusal)))?;
        }
        Ok(found)
    }
}

/// Hand over until the controller ends.
pub(super) async fn run(inner: Arc<Inner>) {
    let mut news = inner.store.subscribe();
    let mut busy = BTreeSet::new();
    let mut under_way: JoinSet<(String, Result<(), ControlError>)> = JoinSet::new();
    loop {
        let now = clock::now();
        let newest = newest(&inner).unwrap_or(0);
        for webhook in inner.webhooks.all() {
            if webhook.is_due(now) && webhook.after < newest && busy.insert(webhook.name.clone()) {
                let inner = Arc::clone(&inner);
                under_way.spawn(async move {
                    let done = step(&inner, &webhook).await;
                    (webhook.name, done)
                });
            }
        }
        tokio::select! {
            Some(done) = under_way.join_next() => match done {
                Ok((name, Ok(()))) => drop(busy.remove(&name)),
                Ok((name, Err(error))) => {
                    tracing::error!("what came of the webhook {name:?} was not written down: {error}; trying again");
                    tokio::time::sleep(STORE_PAUSE).await;
                    busy.remove(&name);
                }
                // A step that panicked leaves its name busy: that webhook rests until the next start, the others go on.
                Err(error) => tracing::error!("a webhook's step ended badly: {error}"),
            },
            heard = news.recv() => if matches!(heard, Err(RecvError::Closed)) { return },
            () = inner.webhooks.changed.notified() => {}
            () = tokio::time::sleep(GLANCE) => {}
        }
    }
}

fn newest(inner: &Inner) -> Result<u64, StoreError> {
    Ok(inner.store.last_events(1)?.last().map_or(0, |event| event.seq))
}

/// The next entry that this webhook wants is offered, or the place moves on to where there is none.
async fn step(inner: &Arc<Inner>, webhook: &Webhook) -> Result<(), ControlError> {
    let chunk = inner.store.events(webhook.after, CHUNK)?;
    let Some(event) = chunk.iter().find(|event| webhook.wants(event)) else {
        let Some(last) = chunk.last() else { return Ok(()) };
        return settle(inner, &webhook.name, |w| {
            w.pass(last.seq);
            None
        })
        .await;
    };
    let (answer, at, took_ms) = offer(inner, webhook, event).await;
    settle(inner, &webhook.name, |w| {
        // Somebody may have moved its place meanwhile, by resuming it behind this entry.
        if w.after >= event.seq {
            return None;
        }
        let paused = w.note(event, &answer, at, took_ms);
        let paused = w.paused.clone().filter(|_| paused)?;
        let sentence = format!("The webhook {:?} is paused: {}.", w.name, paused.sentence);
        Some(draft(at, "controller", "webhook.paused", subject(&w.name), sentence, json!({ "seq": event.seq })))
    })
    .await
}

/// Change a webhook as it is now, on the disk first.
async fn settle(inner: &Inner, name: &str, change: impl FnOnce(&mut Webhook) -> Option<Draft>) -> Result<(), ControlError> {
    let _turn = inner.turn.lock().await;
    // Removed meanwhile: then nothing is left to note.
    let Some(mut webhook) = inner.webhooks.one(name) else { return Ok(()) };
    let event = change(&mut webhook);
    let writes = vec![document(Kind::Webhook, webhook.name.clone(), Some(&webhook))?];
    inner.store.commit(Batch { at: clock::now(), writes, events: event.into_iter().collect(), urgent: false }).await?;
    inner.webhooks.put(webhook);
    Ok(())
}

/// Ask the receiver to take an entry.
async fn offer(inner: &Arc<Inner>, webhook: &Webhook, event: &Event) -> (Answer, Timestamp, u64) {
    let (id, body, at) = (message::id(&inner.tenant, event.seq), message::body(&inner.tenant, event), clock::now());
    let signature = webhook.secret.sign(&id, at, &body);
    let (agent, reach, url) = (inner.webhooks.agent.clone(), inner.webhooks.reach.clone(), webhook.url.clone());
    let begun = Instant::now();
    let asked = tokio::task::spawn_blocking(move || {
        // What is allowed may have changed since the webhook was made.
        let target = match reach.target(&url) {
            Ok(target) => target,
            Err(refusal) => return Answer::None(refusal.to_string()),
        };
        let seconds = at.as_millis().div_euclid(1_000).to_string();
        let request = agent.post(&target.url).header("content-type", message::CONTENT_TYPE).header("webhook-id", &id);
        match request.header("webhook-timestamp", &seconds).header("webhook-signature", &signature).send(&body) {
            // The body is not read: it is nobody's business what stands at that address.
            Ok(answer) => Answer::Status(answer.status().as_u16()),
            Err(ureq::Error::Other(refusal)) => Answer::None(refusal.to_string()),
            Err(error) => Answer::None(format!("the receiver was not reached: {error}")),
        }
    });
    let answer = asked.await.unwrap_or_else(|error| Answer::None(format!("asking failed: {error}")));
    (answer, at, u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX))
}

fn subject(name: &str) -> String {
    format!("webhooks/{name}")
}

impl Controller {
    /// A new webhook, and the secret that its receiver checks deliveries with; shown once.
    pub async fn create_webhook(&self, new: NewWebhook, by: &str) -> Result<(Secret, Webhook), ControlError> {
        check(&new.name, &new.kinds).map_err(|e| ControlError::Invalid(e.to_string()))?;
        let target = self.inner.webhooks.reach.target(&new.url).map_err(|e| ControlError::Invalid(e.to_string()))?;
        let mut bytes = [0; SECRET_BYTES];
        getrandom::fill(&mut bytes).map_err(|e| ControlError::Unavailable(format!("no random bytes could be drawn: {e}")))?;
        let secret = Secret::of(&bytes);
        let _turn = self.inner.turn.lock().await;
        let held = self.inner.webhooks.all();
        if held.iter().any(|webhook| webhook.name == new.name) {
            return Err(ControlError::Conflict(format!(
                "there is a webhook {} already: remove it first, or choose another name",
                new.name
            )));
        }
        if held.len() >= MAX_WEBHOOKS {
            return Err(ControlError::Conflict(format!("there are {MAX_WEBHOOKS} webhooks, which is the bound: remove some first")));
        }
        let (at, newest) = (clock::now(), newest(&self.inner)?);
        let NewWebhook { name, url, kinds, since } = new;
        let webhook = Webhook {
            name,
            url,
            kinds,
            secret: secret.clone(),
            made_at: at,
            made_by: by.to_owned(),
            after: since.unwrap_or(newest).min(newest),
            failures: 0,
            retry_at: None,
            paused: None,
            tries: Default::default(),
        };
        // The host alone: a path is often a secret of its own.
        let sentence = format!("A webhook {:?} was made, which goes to {}.", webhook.name, target.host);
        let data = json!({ "host": target.host, "kinds": webhook.kinds });
        let event = draft(at, by, "webhook.made", subject(&webhook.name), sentence, data);
        let writes = vec![document(Kind::Webhook, webhook.name.clone(), Some(&webhook))?];
        self.inner.store.commit(Batch { at, writes, events: vec![event], urgent: true }).await?;
        self.inner.webhooks.put(webhook.clone());
        self.inner.webhooks.changed.notify_one();
        Ok((secret, webhook))
    }

    /// All webhooks by name, and the number of the newest entry of the log.
    pub fn webhooks(&self) -> Result<(Vec<Webhook>, u64), StoreError> {
        Ok((self.inner.webhooks.all(), newest(&self.inner)?))
    }

    /// End a webhook.
    pub async fn remove_webhook(&self, name: &str, why: &str, by: &str) -> Result<(), ControlError> {
        let why = reason(why)?;
        let _turn = self.inner.turn.lock().await;
        let webhook = self.webhook(name)?;
        let at = clock::now();
        let sentence = format!("The webhook {:?} was removed: {why}", webhook.name);
        let event = draft(at, by, "webhook.removed", subject(&webhook.name), sentence, json!({}));
        let writes = vec![Write::Delete { kind: Kind::Webhook, key: webhook.name.clone() }];
        self.inner.store.commit(Batch { at, writes, events: vec![event], urgent: true }).await?;
        self.inner.webhooks.held.write().unwrap_or_else(PoisonError::into_inner).remove(&webhook.name);
        Ok(())
    }

    /// Let a webhook go on: at once, from where it stopped, or with `skip` from the entry after that.
    pub async fn resume_webhook(&self, name: &str, skip: bool, why: &str, by: &str) -> Result<Webhook, ControlError> {
        let why = reason(why)?;
        self.webhook(name)?;
        settle(&self.inner, name, |webhook| {
            let from = if skip { "the entry after the one that was not taken" } else { "where it stopped" };
            let sentence = format!("The webhook {:?} goes on from {from}: {why}", webhook.name);
            webhook.resume(skip);
            Some(draft(clock::now(), by, "webhook.resumed", subject(&webhook.name), sentence, json!({ "skip": skip })))
        })
        .await?;
        self.inner.webhooks.changed.notify_one();
        self.webhook(name)
    }

    /// Offer one entry of the log again, now and once, whether the webhook wants such or not; without a number, a test.
    pub async fn offer_webhook(&self, name: &str, seq: Option<u64>) -> Result<Try, ControlError> {
        let webhook = self.webhook(name)?;
        let event = match seq {
            Some(seq) => {
                let found = self.inner.store.events(seq.saturating_sub(1), 1)?.pop().filter(|event| event.seq == seq);
                found.ok_or_else(|| ControlError::NotFound(format!("the log has no entry {seq}")))?
            }
            None => {
                let sentence = "This is a test: nothing happened.".to_owned();
                let test = draft(clock::now(), "controller", "webhook.test", subject(&webhook.name), sentence, json!({}));
                test.seal(0, Event::genesis())
            }
        };
        let (answer, at, took_ms) = offer(&self.inner, &webhook, &event).await;
        let tried = Try::of(event.seq, &event.kind, &answer, at, took_ms);
        settle(&self.inner, name, |webhook| {
            webhook.remember(tried.clone());
            None
        })
        .await?;
        Ok(tried)
    }

    fn webhook(&self, name: &str) -> Result<Webhook, ControlError> {
        let shown = || name.chars().take(80).collect::<String>();
        let found = self.inner.webhooks.one(name);
        found.ok_or_else(|| {
            ControlError::NotFound(format!("there is no webhook {:?}: `leeway webhook list` shows those that exist", shown()))
        })
    }
}
