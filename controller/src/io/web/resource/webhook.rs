//! Webhooks, as the API tells of them.
use leeway_protocol::time::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::webhook::{Try, Webhook};

/// A webhook, without its secret.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct WebhookRow {
    /// What it is called.
    pub name: String,
    /// Where it goes.
    pub url: String,
    /// Beginnings of the kinds of entries it wants; all if empty.
    pub kinds: Vec<String>,
    /// When it was made.
    #[schema(value_type = String, format = DateTime)]
    pub made_at: Timestamp,
    /// By whom.
    pub made_by: String,
    /// The last entry that is dealt with.
    pub after: u64,
    /// Entries of the log behind it, wanted or not.
    pub behind: u64,
    /// Whether nobody is asked until a person resumes it.
    pub paused: bool,
    /// The next try is not before this.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub retry_at: Option<Timestamp>,
    /// How it stands, in a sentence.
    pub sentence: String,
    /// The latest tries, oldest first.
    pub tries: Vec<Try>,
}

impl WebhookRow {
    /// As it is when `newest` is the log's newest entry.
    pub fn of(webhook: &Webhook, newest: u64) -> Self {
        let sentence = webhook.sentence(newest);
        let Webhook { name, url, kinds, secret: _, made_at, made_by, after, failures: _, retry_at, paused, tries } = webhook.clone();
        let behind = newest.saturating_sub(after);
        Self { name, url, kinds, made_at, made_by, after, behind, paused: paused.is_some(), retry_at, sentence, tries: tries.into() }
    }
}

/// A webhook that was just made.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct MadeWebhook {
    /// What its receiver checks deliveries with; shown once.
    pub secret: String,
    /// The webhook.
    #[serde(flatten)]
    pub row: WebhookRow,
}
