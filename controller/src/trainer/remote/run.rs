//! One run at another system, as a state machine without a socket: it says what to ask next, and is told what was heard.
//!
//! ```text
//!            ┌───────── not there ─────────┐
//! Finding ───┤                             ▼
//!            └─ there ─► Polling ◄─ 2xx ─ Submitting ─ answer lost ─► Confirming ─ there ─► Polling
//!                           │                 ▲                            │
//!                         Over                └── surely not there, or ────┘
//!                                                 the service tells them apart
//! ```
//! An answer that is lost (no answer, 5xx) leaves a submission *uncertain*; 429 and other 4xx say that it was not taken. What stays true:
//! a request that may start a run is asked for only after the record says so ([`Run::asking`]); a run that is known is never submitted again.
use std::collections::BTreeMap;
use std::sync::Arc;

use leeway_protocol::time::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::Params;
use super::config::{Config, Find};
use super::template::{Fill, How};

/// The first pause after an answer that is none; each further one doubles it.
const PAUSE_MS: i64 = 2_000;
/// The longest pause, also where the service asks for a longer one.
const MAX_PAUSE_MS: i64 = 300_000;
/// Characters of another system's text that become part of a sentence.
const MAX_SAID: usize = 300;

/// What must survive a restart.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Record {
    /// The key.
    pub key: String,
    /// The service's name of the run, once it is known.
    pub run: Option<String>,
    /// Submissions that were begun.
    pub submits: u32,
    /// Whether the last of them may have been taken although nothing was heard.
    pub uncertain: bool,
    /// When the last of them was begun.
    pub submitted_at: Timestamp,
    /// When the first of them was begun.
    pub began_at: Option<Timestamp>,
}

/// A request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// `GET` or `POST`.
    pub method: &'static str,
    /// Where.
    pub url: String,
    /// Headers, secrets included.
    pub headers: Vec<(String, String)>,
    /// The body, if there is one.
    pub body: Option<Vec<u8>>,
    /// Whether it may start a run.
    pub starts: bool,
}

/// An answer.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Answer {
    /// Its status.
    pub status: u16,
    /// Seconds after which the service would like to be asked again.
    pub retry_after: Option<u64>,
    /// Its body, as far as it was read.
    pub body: Vec<u8>,
}

/// Where a run stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing {
    /// Not over.
    Open,
    /// Over, with a result.
    Done,
    /// Over without one, and why.
    Failed(String),
}

/// What to do next.
#[derive(Debug, Clone, PartialEq)]
pub enum Next {
    /// Nothing before this moment.
    Wait(Timestamp),
    /// Ask this.
    Ask(Box<Request>),
    /// It is over.
    Over(Standing),
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Stage {
    /// Before the first submission: another worker may have submitted it.
    Finding,
    Submitting,
    /// After a submission whose answer was lost, or did not name the run.
    Confirming,
    Polling,
    Over(Standing),
}

/// A run.
#[derive(Debug, Clone)]
pub struct Run {
    config: Arc<Config>,
    fill: Fill,
    record: Record,
    stage: Stage,
    due: Timestamp,
    errors: u32,
    said: String,
    page: Option<String>,
}

impl Run {
    /// The run of a job: a new one, or one that `record` remembers.
    pub fn new(
        config: Arc<Config>,
        secrets: BTreeMap<String, String>,
        params: Params,
        mut record: Record,
        key: String,
        now: Timestamp,
    ) -> Self {
        if record.key != key {
            record = Record { key: key.clone(), ..Record::default() };
        }
        let mut fill = Fill { secrets, ..config.fill(key, params) };
        fill.run = record.run.clone().unwrap_or_default();
        let stage = match (&record.run, record.uncertain, &config.find) {
            (Some(_), ..) => Stage::Polling,
            (None, true, _) => Stage::Confirming,
            (None, false, Some(_)) => Stage::Finding,
            (None, false, None) => Stage::Submitting,
        };
        Self { config, fill, record, stage, due: now, errors: 0, said: "not submitted yet".to_owned(), page: None }
    }

    /// What must survive a restart.
    pub fn record(&self) -> &Record {
        &self.record
    }

    /// The run's name at the service, what was last said of it, and where it is shown.
    pub fn shown(&self) -> (&str, &str, Option<&str>) {
        (self.record.run.as_deref().unwrap_or(&self.record.key), &self.said, self.page.as_deref())
    }

    /// Where it stands.
    pub fn standing(&self) -> Standing {
        match &self.stage {
            Stage::Over(standing) => standing.clone(),
            _ => Standing::Open,
        }
    }

    /// What fills holes, for what is asked besides.
    pub fn fill(&self) -> &Fill {
        &self.fill
    }

    /// What to do next. A request that starts a run is to be announced ([`Self::asking`]) and the record to be kept before it is sent.
    pub fn next(&mut self, now: Timestamp) -> Next {
        if let Stage::Over(standing) = &self.stage {
            return Next::Over(standing.clone());
        }
        if self.record.began_at.is_some_and(|began| now.millis_since(began) > seconds(self.config.limits.run_secs)) {
            let (hours, (run, said, _)) = (self.config.limits.run_secs / 3600, self.shown());
            let sentence = format!("{} run {run} is not over after {hours} hours (last: {said}); it was not ended there", self.config.name);
            return self.fail(sentence);
        }
        if now < self.due {
            return Next::Wait(self.due);
        }
        if self.stage == Stage::Confirming && self.config.find.is_none() {
            if !self.config.submit.idempotent {
                let (name, key) = (&self.config.name, &self.record.key);
                return self
                    .fail(format!("whether {name} has taken the run is not known, and it was not asked again: look there for {key}"));
            }
            self.stage = Stage::Submitting;
        }
        if self.stage == Stage::Submitting && self.record.submits >= self.config.limits.submits.max(1) {
            let said = self.said.clone();
            return self.fail(format!("{} did not take the run in {} tries: {said}", self.config.name, self.record.submits));
        }
        match self.request() {
            Ok(request) => Next::Ask(Box::new(request)),
            Err(unknown) => self.fail(unknown),
        }
    }

    /// The request that is about to be sent may start a run.
    pub fn asking(&mut self, now: Timestamp) {
        self.record.submits += 1;
        (self.record.uncertain, self.record.submitted_at) = (true, now);
        self.record.began_at.get_or_insert(now);
    }

    fn fail(&mut self, sentence: String) -> Next {
        let standing = Standing::Failed(self.fill.redacted(&sentence));
        self.stage = Stage::Over(standing.clone());
        Next::Over(standing)
    }

    fn request(&self) -> Result<Request, String> {
        let config = &self.config;
        let (url, more, body, starts) = match (&self.stage, &config.find) {
            (Stage::Submitting, _) => (&config.submit.url, &config.submit.headers, Some(&config.submit.body), true),
            (Stage::Finding | Stage::Confirming, Some(find)) => (&find.url, &find.headers, find.body.as_ref(), false),
            _ => (&config.poll.url, &config.poll.headers, config.poll.body.as_ref(), false),
        };
        let plain = |text: &String| self.fill.text(text, How::Plain).map_err(|e| e.to_string());
        let mut headers = Vec::new();
        for (name, value) in config.headers.iter().chain(more) {
            let value = plain(value)?;
            if value.chars().any(char::is_control) {
                return Err(format!("the header {name} would hold a line break"));
            }
            headers.push((name.to_ascii_lowercase(), value));
        }
        let body = body.map(|text| {
            let value: Value = serde_json::from_str(text).map_err(|e| e.to_string())?;
            self.fill.json(&value).map(|value| value.to_string().into_bytes()).map_err(|e| e.to_string())
        });
        let body = body.transpose()?;
        if body.is_some() && !headers.iter().any(|(name, _)| name == "content-type") {
            headers.push(("content-type".to_owned(), "application/json".to_owned()));
        }
        let url = self.fill.text(url, How::Url).map_err(|e| e.to_string())?;
        Ok(Request { method: if body.is_some() { "POST" } else { "GET" }, url, headers, body, starts })
    }

    /// What was answered to the request that [`Self::next`] gave, or why nothing was.
    pub fn heard(&mut self, answer: Result<Answer, String>, now: Timestamp) {
        let (status, retry_after) = match &answer {
            Ok(answer) => (answer.status, answer.retry_after),
            Err(_) => (0, None),
        };
        let words = self.words(&answer);
        match self.stage.clone() {
            Stage::Submitting => self.submitted(answer, words, now),
            Stage::Finding | Stage::Confirming => match (answer, self.config.find.clone()) {
                (Ok(answer), Some(find)) if is_success(status) => self.listed(&find, &answer, now),
                _ => self.no_answer(status, retry_after, words, now),
            },
            Stage::Polling => match answer {
                Ok(answer) if is_success(status) => self.polled(&answer, now),
                _ => self.no_answer(status, retry_after, words, now),
            },
            Stage::Over(_) => {}
        }
    }

    fn submitted(&mut self, answer: Result<Answer, String>, words: String, now: Timestamp) {
        let (status, retry_after) = answer.as_ref().map_or((0, None), |answer| (answer.status, answer.retry_after));
        let named = answer.ok().filter(|_| is_success(status)).and_then(|answer| {
            let pointer = self.config.submit.run.as_deref()?;
            text_at(&serde_json::from_slice(&answer.body).ok()?, pointer)
        });
        if let Some(run) = named {
            return self.found(run, now);
        }
        self.said = words.clone();
        match status {
            known if self.config.submit.known.contains(&known) => {
                let run = self.config.submit.known_run.as_ref().and_then(|text| self.fill.text(text, How::Plain).ok());
                match run {
                    Some(run) => self.found(run, now),
                    None => self.confirm(now, self.pause()),
                }
            }
            200..300 => self.confirm(now, self.pause()),
            429 => {
                // It was not taken, and is offered again.
                self.record.uncertain = false;
                self.due = now.plus_millis(self.pause().max(asked(retry_after)));
            }
            400..500 => {
                self.record.uncertain = false;
                let sentence = format!("{} refused the run: {words}", self.config.name);
                let _ = self.fail(sentence);
            }
            _ => self.confirm(now, self.pause().max(asked(retry_after))),
        }
    }

    fn pause(&self) -> i64 {
        PAUSE_MS.saturating_mul(1 << self.record.submits.saturating_sub(1).min(8)).min(MAX_PAUSE_MS)
    }

    fn confirm(&mut self, now: Timestamp, pause_ms: i64) {
        self.stage = Stage::Confirming;
        self.due = now.plus_millis(pause_ms);
    }

    fn found(&mut self, run: String, now: Timestamp) {
        self.record.began_at.get_or_insert(now);
        (self.record.uncertain, self.errors) = (false, 0);
        (self.said, self.stage, self.due) = ("submitted".to_owned(), Stage::Polling, now.plus_millis(PAUSE_MS));
        self.fill.run.clone_from(&run);
        self.record.run = Some(run);
        self.page = self.config.poll.page.as_ref().and_then(|page| self.fill.text(page, How::Url).ok());
    }

    fn listed(&mut self, find: &Find, answer: &Answer, now: Timestamp) {
        let list: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
        let wanted = self.fill.text(&find.equals, How::Plain).unwrap_or_default();
        let items = list.pointer(&find.items).and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
        let mine = items.iter().find(|item| text_at(item, &find.key).as_deref() == Some(wanted.as_str()));
        if let Some(run) = mine.and_then(|item| text_at(item, &find.run)) {
            return self.found(run, now);
        }
        self.errors = 0;
        let left = seconds(self.config.limits.settle_secs) - now.millis_since(self.record.submitted_at);
        if self.stage == Stage::Confirming && left > 0 {
            self.said = "not in the list yet".to_owned();
            self.due = now.plus_millis(left.min(seconds(self.config.limits.poll_secs)).max(PAUSE_MS));
            return;
        }
        (self.stage, self.due, self.record.uncertain) = (Stage::Submitting, now, false);
    }

    fn polled(&mut self, answer: &Answer, now: Timestamp) {
        self.errors = 0;
        let said: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
        let first = |pointers: &[String]| pointers.iter().find_map(|pointer| text_at(&said, pointer).filter(|text| !text.is_empty()));
        let state = first(&self.config.poll.state).unwrap_or_else(|| "unknown".to_owned());
        self.said = shorten(&state);
        let is = |words: &[String]| words.iter().any(|word| word.eq_ignore_ascii_case(&state));
        if is(&self.config.poll.done) {
            self.stage = Stage::Over(Standing::Done);
        } else if is(&self.config.poll.failed) {
            let why = first(&self.config.poll.reason).map(|why| format!(": {}", shorten(&why))).unwrap_or_default();
            let sentence = format!("{} run {} is {}{why}", self.config.name, self.fill.run, self.said);
            let _ = self.fail(sentence);
        } else {
            self.due = now.plus_millis(seconds(self.config.limits.poll_secs));
        }
    }

    /// Nothing usable: asked again later, so often and no more. A run that was just submitted may not be there for a while either.
    fn no_answer(&mut self, status: u16, retry_after: Option<u64>, words: String, now: Timestamp) {
        self.errors += 1;
        if self.errors > self.config.limits.errors {
            let sentence = format!("{} gave no usable answer {} times in a row: {words}", self.config.name, self.errors);
            let _ = self.fail(sentence);
            return;
        }
        let pause = PAUSE_MS.saturating_mul(1 << (self.errors - 1).min(8)).min(MAX_PAUSE_MS);
        self.said = if status == 0 { words } else { format!("answered {status}") };
        self.due = now.plus_millis(pause.max(asked(retry_after)));
    }

    fn words(&self, answer: &Result<Answer, String>) -> String {
        let text = match answer {
            Ok(answer) => format!("it answered {} {}", answer.status, shorten(String::from_utf8_lossy(&answer.body).trim())),
            Err(why) => shorten(why),
        };
        self.fill.redacted(text.trim())
    }
}

fn is_success(status: u16) -> bool {
    (200..300).contains(&status)
}

fn seconds(n: u64) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX / 2000).saturating_mul(1000)
}

fn asked(retry_after: Option<u64>) -> i64 {
    retry_after.map_or(0, seconds).min(MAX_PAUSE_MS)
}

fn shorten(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(MAX_SAID).collect()
}

/// A word, or a number as a word.
fn text_at(value: &Value, pointer: &str) -> Option<String> {
    match value.pointer(pointer)? {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    }
}
