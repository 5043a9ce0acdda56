//! Webhooks: who is told over HTTP of what happens, from which entry of the log on, and what comes of each try.
//!
//! A webhook reads the one event log like every other listener: it has a place in it, and each entry that it wants is handed over
//! once, in order, until the receiver says it has it. So nothing is lost while a receiver is away, and nothing has to be kept twice.
//! A receiver that stays away for longer than the schedule is paused by name, in the log, and goes on where it stopped when a
//! person resumes it. What stays true: the place only rises; a webhook that is paused is not asked; the schedule is finite.
use std::collections::VecDeque;

use leeway_protocol::time::Timestamp;
use serde::{Deserialize, Serialize};

use crate::audit::Event;

pub mod message;
pub mod reach;

pub use message::Secret;
pub use reach::{Reach, ReachError, Target};

/// Webhooks of one controller: each holds a connection of its own while it is asked.
pub const MAX_WEBHOOKS: usize = 50;
/// Beginnings of kinds that one webhook may ask for.
const MAX_KINDS: usize = 32;
/// The longest of them.
const MAX_KIND: usize = 64;
/// The longest name.
const MAX_NAME: usize = 64;
/// Tries that are remembered, for the page of deliveries.
pub const REMEMBERED: usize = 50;
/// The longest reason for a failure that is kept.
const MAX_WHY: usize = 200;

const SECOND_MS: i64 = 1_000;
const MINUTE_MS: i64 = 60 * SECOND_MS;
const HOUR_MS: i64 = 60 * MINUTE_MS;
/// Waits between the tries of one entry; after the last one the webhook is paused. Together some twenty hours: a receiver that is
/// away for a night is not forgotten, one that is away for good does not cost a try every minute for ever.
pub const WAITS_MS: [i64; 9] =
    [5 * SECOND_MS, 30 * SECOND_MS, 2 * MINUTE_MS, 10 * MINUTE_MS, 30 * MINUTE_MS, HOUR_MS, 2 * HOUR_MS, 6 * HOUR_MS, 10 * HOUR_MS];

/// One webhook, as it is kept.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Webhook {
    /// What it is called.
    pub name: String,
    /// Where it goes.
    pub url: String,
    /// Beginnings of the kinds of entries it wants; all if empty.
    pub kinds: Vec<String>,
    /// What deliveries are signed with.
    pub secret: Secret,
    /// When it was made.
    pub made_at: Timestamp,
    /// By whom.
    pub made_by: String,
    /// The last entry that is dealt with.
    pub after: u64,
    /// Tries of the next one that failed.
    pub failures: u32,
    /// The next try is not before this.
    #[serde(default)]
    pub retry_at: Option<Timestamp>,
    /// Since when nobody is asked, and why.
    #[serde(default)]
    pub paused: Option<Paused>,
    /// The latest tries, oldest first.
    #[serde(default)]
    pub tries: VecDeque<Try>,
}

/// Why a webhook is not asked any more.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Paused {
    /// Since when.
    pub at: Timestamp,
    /// Why, in a sentence.
    pub sentence: String,
}

/// One try to hand over an entry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Try {
    /// The entry; 0 for a test.
    pub seq: u64,
    /// Its kind.
    pub kind: String,
    /// When.
    #[schema(value_type = String, format = DateTime)]
    pub at: Timestamp,
    /// How long the receiver took, milliseconds.
    pub took_ms: u64,
    /// The receiver's status, if it answered.
    pub status: Option<u16>,
    /// Whether it has the entry.
    pub ok: bool,
    /// What came of it, in a sentence.
    pub sentence: String,
}

/// What a receiver made of an entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// It answered with this status.
    Status(u16),
    /// It could not be asked, or did not answer.
    None(String),
}

/// A webhook that cannot be made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WebhookError {
    /// Not a name.
    #[error("{0:?} is not a name for a webhook: use 1 to 64 letters, digits, '-', '_' and '.'")]
    Name(String),
    /// Too many kinds, or not kinds.
    #[error("{0:?} is not the beginning of a kind: use up to 32 like rollout, device.alarm or training")]
    Kind(String),
    /// It may not go there.
    #[error(transparent)]
    Reach(#[from] ReachError),
}

/// Check what a new webhook is to be called and to be told of.
pub fn check(name: &str, kinds: &[String]) -> Result<(), WebhookError> {
    let plain = |text: &str, most: usize| {
        let fits = (1..=most).contains(&text.len()) && text.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c));
        fits && text.chars().any(|c| c != '.')
    };
    if !plain(name, MAX_NAME) {
        return Err(WebhookError::Name(name.chars().take(MAX_NAME).collect()));
    }
    let wrong = kinds.iter().find(|kind| !plain(kind, MAX_KIND)).or_else(|| kinds.get(MAX_KINDS));
    wrong.map_or(Ok(()), |kind| Err(WebhookError::Kind(kind.chars().take(MAX_KIND).collect())))
}

impl Webhook {
    /// Whether it wants this entry.
    pub fn wants(&self, event: &Event) -> bool {
        let is_of = |kind: &String| event.kind.strip_prefix(kind.as_str()).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'));
        self.kinds.is_empty() || self.kinds.iter().any(is_of)
    }

    /// Whether it may be asked at `now`.
    pub fn is_due(&self, now: Timestamp) -> bool {
        self.paused.is_none() && self.retry_at.is_none_or(|at| at <= now)
    }

    /// Entries up to here are not wanted, or are dealt with.
    pub fn pass(&mut self, seq: u64) {
        if seq > self.after {
            (self.after, self.failures, self.retry_at) = (seq, 0, None);
        }
    }

    /// Note what came of a try; whether the webhook was paused by it.
    pub fn note(&mut self, event: &Event, answer: &Answer, at: Timestamp, took_ms: u64) -> bool {
        let tried = Try::of(event.seq, &event.kind, answer, at, took_ms);
        let (ok, sentence) = (tried.ok, tried.sentence.clone());
        self.remember(tried);
        if ok {
            self.pass(event.seq);
            return false;
        }
        self.failures = self.failures.saturating_add(1);
        let gone = *answer == Answer::Status(GONE);
        let wait = WAITS_MS.get(self.failures as usize - 1).filter(|_| !gone);
        self.retry_at = wait.map(|ms| at.plus_millis(*ms));
        if wait.is_none() {
            let tries = self.failures;
            let times = if tries == 1 { "once".to_owned() } else { format!("{tries} times") };
            let sentence = format!("entry {} was offered {times} and not taken; the last time {sentence}", event.seq);
            self.paused = Some(Paused { at, sentence });
        }
        wait.is_none()
    }

    /// Keep a try for the page.
    pub fn remember(&mut self, tried: Try) {
        if self.tries.len() >= REMEMBERED {
            self.tries.pop_front();
        }
        self.tries.push_back(tried);
    }

    /// Ask again from where it stopped, or, with `skip`, from the entry after the one that was not taken.
    pub fn resume(&mut self, skip: bool) {
        (self.paused, self.failures, self.retry_at) = (None, 0, None);
        if skip {
            self.after += 1;
        }
    }

    /// How it stands, in a sentence.
    pub fn sentence(&self, newest: u64) -> String {
        let behind = newest.saturating_sub(self.after);
        match (&self.paused, self.retry_at) {
            (Some(paused), _) => format!(
                "Paused since {}: {}. It goes on where it stopped with `leeway webhook resume {}`.",
                paused.at, paused.sentence, self.name
            ),
            (None, Some(at)) => {
                format!("The next try of entry {} is at {at}, after {} that failed; {behind} entries wait.", self.after + 1, self.failures)
            }
            (None, None) if behind == 0 => "Everything was handed over.".to_owned(),
            (None, None) => format!("{behind} entries are being handed over."),
        }
    }
}

/// The status by which a receiver says that it is gone for good.
const GONE: u16 = 410;

impl Try {
    /// What came of asking.
    pub fn of(seq: u64, kind: &str, answer: &Answer, at: Timestamp, took_ms: u64) -> Self {
        let (status, sentence) = match answer {
            Answer::Status(status) => {
                let sentence = match status {
                    200..=299 => format!("the receiver took it with status {status}"),
                    300..=399 => format!(
                        "the receiver pointed elsewhere with status {status}, where nobody follows: give the webhook the final address"
                    ),
                    &GONE => "the receiver said with status 410 that it is gone".to_owned(),
                    _ => format!("the receiver answered with status {status}"),
                };
                (Some(*status), sentence)
            }
            Answer::None(why) => (None, why.chars().take(MAX_WHY).collect()),
        };
        let ok = status.is_some_and(|status| (200..300).contains(&status));
        Self { seq, kind: kind.to_owned(), at, took_ms, status, ok, sentence }
    }
}

#[cfg(test)]
mod tests;
