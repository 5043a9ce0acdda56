//! Tokens of people and programs, as the API tells of them.
use leeway_protocol::time::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::access::{AccessToken, Scope};

/// A token, without the token.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct TokenRow {
    /// What it is called.
    pub name: String,
    /// Whom it stands for: the actor in the audit trail.
    pub owner: String,
    /// What it may do.
    pub scope: Scope,
    /// When it was made.
    #[schema(value_type = String, format = DateTime)]
    pub made_at: Timestamp,
    /// By whom.
    pub made_by: String,
    /// From then on it is nothing.
    #[schema(value_type = String, format = DateTime)]
    pub expires_at: Timestamp,
    /// When it was used last, to the minute.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub last_used: Option<Timestamp>,
    /// Whether it counts now.
    pub valid: bool,
}

impl TokenRow {
    /// As it is at `now`.
    pub fn of(token: &AccessToken, now: Timestamp) -> Self {
        let AccessToken { name, owner, scope, made_at, made_by, expires_at, last_used } = token.clone();
        Self { name, owner, scope, made_at, made_by, expires_at, last_used, valid: token.is_valid(now) }
    }
}

/// A token that was just made; shown once.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct IssuedToken {
    /// The token itself.
    pub token: String,
    /// What is kept of it.
    #[serde(flatten)]
    pub row: TokenRow,
}

/// Whose token this is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct WhoAmI {
    /// The token's owner; absent for somebody who reads at the controller's own machine.
    pub name: Option<String>,
    /// What it may do.
    pub scope: Scope,
}
