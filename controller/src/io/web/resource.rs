//! What the HTTP API says, as types: the one form that pages render, the command line prints and OpenAPI describes.
//!
//! They are apart from the domain's own types so that the wire stays a promise while the domain moves: fields are only ever
//! added. Names are plain text here because a reader of the API has no use for our parsed types. What stays true: every
//! resource with a state carries a [`Level`] and a sentence, and the sentence is made once, not again in each view.
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

pub mod dataset;
pub mod device;
pub mod drift;
pub mod episode;
pub mod event;
pub mod fleet;
pub mod history;
pub mod labels;
pub mod model;
pub mod names;
pub mod rollout;
pub mod sketch;
pub mod token;
pub mod training;
pub mod webhook;

/// How a state should be read at a glance. Pages and the command line turn it into icon and colour, always beside a word.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    /// Nothing to say yet, or over.
    #[default]
    Idle,
    /// As it should be.
    Ok,
    /// Under way.
    Busy,
    /// A person should look.
    Warn,
    /// Something is wrong.
    Bad,
}

/// Something that holds or does not, with a sentence.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Condition {
    /// What, in CamelCase.
    pub kind: String,
    /// Whether it holds; absent while that is not known.
    pub holds: Option<bool>,
    /// A sentence.
    pub message: String,
}

/// One page of a list. `next_cursor` is opaque; give it back as `?cursor=` for the next page.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Page<T> {
    /// The entries, in a stable order.
    pub items: Vec<T>,
    /// Where the next page starts; absent on the last page.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_cursor: Option<String>,
}

/// What a person asks for when changing something: why. It goes to the audit trail.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ActionRequest {
    /// Why, in a sentence.
    pub reason: String,
    /// For dismissing an alarm of a rollout: which check; the only one that stands, if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub check: Option<String>,
}

/// The longest reason that is kept.
pub const MAX_REASON: usize = 500;
