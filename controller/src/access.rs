//! Who may do what: the scopes of tokens, and the bounds on those who have none.
//!
//! A token stands for its owner, a person or a program, and carries one scope. Scopes are jobs and not ranks: who publishes a
//! model may not also bring it out, and who brings it out may not also approve it, unless somebody gives them both tokens; and
//! then the audit trail still names one owner, and the rule that author and approver differ still holds. What stays true: only
//! the SHA-256 of a token is kept; every token has an end.
use std::fmt;
use std::str::FromStr;

use leeway_protocol::time::Timestamp;
use serde::{Deserialize, Serialize};

pub mod allowance;
pub mod challenge;

/// The owner of the token that the controller draws at its first start.
pub const ADMIN: &str = "admin";
/// Names that no token may carry, because the audit trail means something else by them.
const RESERVED: [&str; 3] = [ADMIN, "controller", "anonymous"];
/// The longest name of a token or an owner.
const MAX_NAME: usize = 64;
/// The shortest life of a token: shorter is a slip of the hand.
pub const MIN_TTL_MS: i64 = 60_000;
/// The longest life of a token: one that nobody renews in a year is one that nobody misses.
pub const MAX_TTL_MS: i64 = 366 * 24 * 3_600_000;

/// What a token lets its owner do. Every scope may look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Scope {
    /// Look, and nothing else.
    Viewer,
    /// Run the fleet: cohorts, devices, enrolment, rollouts, retraining.
    Operator,
    /// Bring models in: blobs, signed roles, training jobs.
    Publisher,
    /// Approve rollouts of others.
    Approver,
    /// Call for a better model, within the limits of its line: for monitoring and pipelines of others.
    Caller,
    /// Everything, tokens included.
    Admin,
}

impl Scope {
    /// All of them.
    pub const ALL: [Self; 6] = [Self::Viewer, Self::Operator, Self::Publisher, Self::Approver, Self::Caller, Self::Admin];

    /// As it is written.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Viewer => "viewer",
            Self::Operator => "operator",
            Self::Publisher => "publisher",
            Self::Approver => "approver",
            Self::Caller => "caller",
            Self::Admin => "admin",
        }
    }

    /// Whether a token of this scope does for one that asks for `needed`.
    pub fn covers(self, needed: Self) -> bool {
        self == needed || self == Self::Admin || needed == Self::Viewer
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Scope {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|scope| scope.as_str() == text);
        found.ok_or_else(|| format!("{text:?} is not a scope: use one of {}", Self::ALL.map(Self::as_str).join(", ")))
    }
}

/// Who is calling.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Principal {
    /// The owner of the token: its name in the audit trail.
    pub name: String,
    /// What it may do.
    pub scope: Scope,
}

/// A token for the API, as it is kept: everything but the token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AccessToken {
    /// What it is called; no two that are kept have one name.
    pub name: String,
    /// Whom it stands for: the actor in the audit trail.
    pub owner: String,
    /// What it may do.
    pub scope: Scope,
    /// When it was made.
    pub made_at: Timestamp,
    /// By whom.
    pub made_by: String,
    /// From then on it is nothing.
    pub expires_at: Timestamp,
    /// When it was used last, to the minute; unused if absent.
    #[serde(default)]
    pub last_used: Option<Timestamp>,
}

impl AccessToken {
    /// Whether it counts at `now`.
    pub fn is_valid(&self, now: Timestamp) -> bool {
        now < self.expires_at
    }

    /// Whom it stands for.
    pub fn principal(&self) -> Principal {
        Principal { name: self.owner.clone(), scope: self.scope }
    }
}

/// A token that cannot be made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// Not a name.
    #[error("{0:?} is not a name for a token or its owner: use 1 to 64 letters, digits, '-', '_', '.' and '@'")]
    Name(String),
    /// The audit trail means something else by it.
    #[error("{0:?} is a name that the audit trail uses itself: choose another")]
    Reserved(String),
    /// No end, or one too far.
    #[error("a token lives between a minute and 366 days: choose a time to live in between")]
    Life,
}

/// Check what a new token is to be called, whom it stands for, and how long.
pub fn check(name: &str, owner: &str, ttl_ms: i64) -> Result<(), TokenError> {
    let plain = |text: &str| {
        (1..=MAX_NAME).contains(&text.len())
            && text.chars().all(|c| c.is_ascii_alphanumeric() || "-_.@".contains(c))
            && text != "."
            && text != ".."
    };
    for text in [name, owner] {
        if !plain(text) {
            return Err(TokenError::Name(text.chars().take(MAX_NAME).collect()));
        }
        if RESERVED.iter().any(|reserved| text.eq_ignore_ascii_case(reserved)) {
            return Err(TokenError::Reserved(text.to_owned()));
        }
    }
    if (MIN_TTL_MS..=MAX_TTL_MS).contains(&ttl_ms) { Ok(()) } else { Err(TokenError::Life) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scopes_are_jobs_and_only_the_admin_has_them_all() {
        use Scope::{Admin, Approver, Operator, Publisher, Viewer};
        for scope in Scope::ALL {
            assert!(scope.covers(Viewer) && Admin.covers(scope) && scope.covers(scope), "{scope}");
            assert_eq!(scope.as_str().parse(), Ok(scope));
            assert_eq!(serde_json::to_value(scope).unwrap(), scope.as_str());
        }
        for (has, needs) in [(Operator, Publisher), (Operator, Approver), (Publisher, Operator), (Approver, Operator), (Viewer, Approver)] {
            assert!(!has.covers(needs), "{has} {needs}");
        }
        assert!("root".parse::<Scope>().unwrap_err().contains("publisher"));
    }

    #[test]
    fn a_token_has_a_plain_name_that_is_nobody_else_and_an_end() {
        let day = 24 * 3_600_000;
        for (name, owner) in [("ci", "ci"), ("ann-laptop", "ann@example.org"), ("A_1.x", "b")] {
            assert_eq!(check(name, owner, day), Ok(()), "{name}");
        }
        for bad in ["", "a b", "devices/d1", "ann\n", "ä", "..", &"x".repeat(65)] {
            assert!(matches!(check(bad, "ann", day), Err(TokenError::Name(_))), "{bad}");
            assert!(matches!(check("ann", bad, day), Err(TokenError::Name(_))), "{bad}");
        }
        for bad in ["admin", "Controller", "anonymous"] {
            assert!(matches!(check("x", bad, day), Err(TokenError::Reserved(_))), "{bad}");
        }
        for bad in [0, -1, MIN_TTL_MS - 1, MAX_TTL_MS + 1, i64::MAX] {
            assert_eq!(check("x", "x", bad), Err(TokenError::Life), "{bad}");
        }
    }
}
