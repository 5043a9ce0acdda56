//! Names that move: `champion` and `challenger` of a line. What they pointed to before is kept, for good.
//!
//! Free aliases instead of fixed "stages", because a line may need names of its own. The history is append-only: "which
//! version was champion on that day" is answered from it, and so is the version to fall back to.
use std::collections::BTreeMap;

use leeway_protocol::ids::{RolloutId, Version};
use leeway_protocol::time::Timestamp;
use serde::{Deserialize, Serialize};

/// The most changes kept beside the aliases themselves; older ones stay in the event log.
pub const MAX_HISTORY: usize = 256;

/// An alias every line knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Alias {
    /// What the fleet runs, or goes to.
    Champion,
    /// What is being tried against it.
    Challenger,
}

impl Alias {
    /// The name it has in JSON and on the command line.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Champion => "champion",
            Self::Challenger => "challenger",
        }
    }
}

/// One change of an alias.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AliasChange {
    /// Which alias.
    pub alias: Alias,
    /// Where it pointed before.
    pub from: Option<Version>,
    /// Where it points now; `None` if it was taken away.
    pub to: Option<Version>,
    /// When.
    pub at: Timestamp,
    /// The rollout that moved it.
    pub rollout: Option<RolloutId>,
    /// Who, if it was moved by hand; the controller otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
    /// Why, in a sentence.
    pub reason: String,
}

/// An alias that cannot be moved.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("alias {alias} cannot point to version {version}: {problem}")]
pub struct AliasError {
    /// Which alias.
    pub alias: &'static str,
    /// Where it should have pointed.
    pub version: Version,
    /// What is wrong with that.
    pub problem: String,
}

/// The aliases of one line and how they moved.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Aliases {
    current: BTreeMap<Alias, Version>,
    history: Vec<AliasChange>,
    /// Changes that fell out of `history`.
    #[serde(default)]
    older: u64,
}

impl Aliases {
    /// The version an alias points to.
    pub fn current(&self, alias: Alias) -> Option<&Version> {
        self.current.get(&alias)
    }

    /// The last [`MAX_HISTORY`] changes, oldest first.
    pub fn history(&self) -> &[AliasChange] {
        &self.history
    }

    /// How many changes are older than those.
    pub fn older(&self) -> u64 {
        self.older
    }

    /// Former champions, the latest first, without the present one.
    pub fn former_champions(&self) -> impl Iterator<Item = &Version> {
        let now = self.current(Alias::Champion);
        self.history.iter().rev().filter(|c| c.alias == Alias::Champion).filter_map(|c| c.to.as_ref()).filter(move |v| Some(*v) != now)
    }

    /// Move an alias. Moving it to where it points changes nothing.
    pub fn move_to(&mut self, alias: Alias, to: Option<Version>, at: Timestamp, rollout: Option<RolloutId>, reason: &str) {
        let from = self.current.get(&alias).cloned();
        self.change(AliasChange { alias, from, to, at, rollout, by: None, reason: reason.to_owned() });
    }

    /// Move an alias for somebody. Whether that changed anything.
    pub fn move_by_hand(&mut self, alias: Alias, to: Option<Version>, at: Timestamp, by: &str, reason: &str) -> bool {
        let from = self.current.get(&alias).cloned();
        self.change(AliasChange { alias, from, to, at, rollout: None, by: Some(by.to_owned()), reason: reason.to_owned() })
    }

    fn change(&mut self, change: AliasChange) -> bool {
        let AliasChange { alias, from, to, .. } = &change;
        if from == to {
            return false;
        }
        match to {
            Some(version) => self.current.insert(*alias, version.clone()),
            None => self.current.remove(alias),
        };
        self.history.push(change);
        if self.history.len() > MAX_HISTORY {
            self.history.remove(0);
            self.older += 1;
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn v(text: &str) -> Option<Version> {
        text.parse().ok()
    }

    #[test]
    fn history_only_grows_and_remembers_former_champions() {
        let mut aliases = Aliases::default();
        for (at, version) in [(1, "1"), (2, "2"), (3, "2"), (4, "3")] {
            aliases.move_to(Alias::Champion, v(version), Timestamp::from_secs(at), None, "test");
        }
        aliases.move_to(Alias::Challenger, v("4"), Timestamp::from_secs(5), None, "test");
        aliases.move_to(Alias::Challenger, None, Timestamp::from_secs(6), None, "test");
        assert_eq!(aliases.history().len(), 5, "a move to the same version is no change");
        assert_eq!(aliases.current(Alias::Champion), v("3").as_ref());
        assert_eq!(aliases.current(Alias::Challenger), None);
        let former: Vec<_> = aliases.former_champions().map(Version::as_str).collect();
        assert_eq!(former, ["2", "1"]);
        assert!(aliases.move_by_hand(Alias::Champion, v("2"), Timestamp::from_secs(7), "ann", "test"));
        assert!(!aliases.move_by_hand(Alias::Champion, v("2"), Timestamp::from_secs(8), "ann", "test"));
        assert_eq!(aliases.history().last().unwrap().by.as_deref(), Some("ann"));
    }
}
