//! Names that people and other tools give to versions: `staging`, `for-audit`. They decide nothing on a device.
//!
//! Apart from [`super::alias`] on purpose: `champion` and `challenger` decide what the fleet runs and only rollouts move them, so
//! no code that plans may ever see a name somebody chose. What stays true: history only grows at its end, what fell out at its
//! beginning is counted and still in the event log, and no name points to a version that is gone.
use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::str::FromStr;

use leeway_protocol::ids::Version;
use leeway_protocol::time::Timestamp;
use serde::{Deserialize, Serialize};

use super::alias::Alias;

/// Names of one line: enough for every purpose a team has, and few enough to read.
pub const MAX_NAMES: usize = 64;
/// Changes kept in the line's document; older ones are in the event log only.
pub const MAX_CHANGES: usize = 256;
/// The longest name.
const MAX_NAME: usize = 64;

/// A name for a version within its line.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct AliasName(String);

/// A name that cannot be one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AliasNameError {
    /// Other characters, or too many.
    #[error("alias {0:?} is not valid: use 1 to {MAX_NAME} characters out of letters, digits, '-' and '_'")]
    Form(String),
    /// It would be mistaken for something else.
    #[error("alias {0:?} is taken by a meaning it has elsewhere: `latest` and names like `v7` stand for version numbers")]
    Reserved(String),
    /// One of those that decide what devices run, misspelt.
    #[error("alias {0:?} would be mistaken for {1}, which decides what devices run: choose another name")]
    Mistaken(String, &'static str),
}

impl AliasName {
    /// As text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The alias that decides what devices run, if it is one.
    pub fn deciding(&self) -> Option<Alias> {
        [Alias::Champion, Alias::Challenger].into_iter().find(|alias| alias.as_str() == self.0)
    }
}

impl FromStr for AliasName {
    type Err = AliasNameError;

    fn from_str(text: &str) -> Result<Self, AliasNameError> {
        let shown = || text.chars().take(MAX_NAME).collect::<String>();
        let plain = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
        if text.is_empty() || text.len() > MAX_NAME || !text.bytes().all(plain) {
            return Err(AliasNameError::Form(shown()));
        }
        let number = text.strip_prefix(['v', 'V']).is_some_and(|rest| !rest.is_empty() && rest.bytes().all(|b| b.is_ascii_digit()));
        if number || text.eq_ignore_ascii_case("latest") {
            return Err(AliasNameError::Reserved(shown()));
        }
        let like = |alias: &Alias| text.eq_ignore_ascii_case(alias.as_str()) && text != alias.as_str();
        match [Alias::Champion, Alias::Challenger].into_iter().find(like) {
            Some(alias) => Err(AliasNameError::Mistaken(shown(), alias.as_str())),
            None => Ok(Self(text.to_owned())),
        }
    }
}

impl TryFrom<String> for AliasName {
    type Error = AliasNameError;

    fn try_from(text: String) -> Result<Self, AliasNameError> {
        text.parse()
    }
}

impl From<AliasName> for String {
    fn from(name: AliasName) -> Self {
        name.0
    }
}

impl fmt::Display for AliasName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// One change of a name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NameChange {
    /// Which name.
    pub name: AliasName,
    /// Where it pointed before.
    pub from: Option<Version>,
    /// Where it points now; `None` if it was taken away.
    pub to: Option<Version>,
    /// When.
    pub at: Timestamp,
    /// Who.
    pub by: String,
    /// Why, in a sentence.
    pub reason: String,
}

/// There is no room for another name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the line has {MAX_NAMES} aliases already, which is the bound: take one away first")]
pub struct TooManyNames;

/// The names of one line and how they moved.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Names {
    current: BTreeMap<AliasName, Version>,
    history: VecDeque<NameChange>,
    /// Changes that fell out of `history`.
    #[serde(default)]
    older: u64,
}

impl Names {
    /// Where a name points.
    pub fn get(&self, name: &AliasName) -> Option<&Version> {
        self.current.get(name)
    }

    /// Every name with its version, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&AliasName, &Version)> {
        self.current.iter()
    }

    /// The last [`MAX_CHANGES`] changes, oldest first.
    pub fn history(&self) -> impl ExactSizeIterator<Item = &NameChange> {
        self.history.iter()
    }

    /// How many changes are older than those.
    pub fn older(&self) -> u64 {
        self.older
    }

    /// Point a name to a version, or to none. Whether that changed anything.
    pub fn point(&mut self, name: AliasName, to: Option<Version>, at: Timestamp, by: &str, reason: &str) -> Result<bool, TooManyNames> {
        let from = self.current.get(&name).cloned();
        if from == to {
            return Ok(false);
        }
        match &to {
            Some(_) if from.is_none() && self.current.len() >= MAX_NAMES => return Err(TooManyNames),
            Some(version) => drop(self.current.insert(name.clone(), version.clone())),
            None => drop(self.current.remove(&name)),
        }
        self.history.push_back(NameChange { name, from, to, at, by: by.to_owned(), reason: reason.to_owned() });
        if self.history.len() > MAX_CHANGES {
            self.history.pop_front();
            self.older += 1;
        }
        Ok(true)
    }

    /// Take away every name of a version that is going; which they were.
    pub fn forget(&mut self, version: &Version, at: Timestamp, by: &str, reason: &str) -> Vec<AliasName> {
        let gone: Vec<AliasName> = self.current.iter().filter(|(_, to)| *to == version).map(|(name, _)| name.clone()).collect();
        for name in &gone {
            // Taking away never lacks room.
            let _ = self.point(name.clone(), None, at, by, reason);
        }
        gone
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn v(text: &str) -> Option<Version> {
        text.parse().ok()
    }

    #[test]
    fn names_that_pass_and_names_that_do_not() {
        for good in ["staging", "for-audit", "A_b-9", "champion", "challenger", "v", "v1x", &"a".repeat(64)] {
            assert!(good.parse::<AliasName>().is_ok(), "{good}");
        }
        let table = [
            ("", "1 to 64"),
            ("a b", "1 to 64"),
            ("ä", "1 to 64"),
            ("a/b", "1 to 64"),
            ("latest", "version numbers"),
            ("LATEST", "version"),
            ("v7", "version"),
            ("V007", "version"),
            ("Champion", "decides what devices run"),
        ];
        for (bad, says) in table {
            let error = bad.parse::<AliasName>().unwrap_err().to_string();
            assert!(error.contains(says), "{bad}: {error}");
        }
        assert!("a".repeat(65).parse::<AliasName>().is_err());
        assert_eq!("champion".parse::<AliasName>().unwrap().deciding(), Some(Alias::Champion));
        assert_eq!("staging".parse::<AliasName>().unwrap().deciding(), None);
        assert!(serde_json::from_str::<AliasName>("\"latest\"").is_err(), "what is stored has passed the rule too");
    }

    #[test]
    fn history_grows_says_who_and_why_and_counts_what_it_forgets() {
        let mut names = Names::default();
        let name: AliasName = "staging".parse().unwrap();
        let at = Timestamp::from_secs;
        assert_eq!(names.point(name.clone(), v("1"), at(1), "ann", "first"), Ok(true));
        assert_eq!(names.point(name.clone(), v("1"), at(2), "bob", "again"), Ok(false), "the same again is no change");
        assert_eq!(names.point(name.clone(), v("2"), at(3), "bob", "better"), Ok(true));
        let last = names.history().last().unwrap();
        assert_eq!((last.by.as_str(), &last.from, &last.to, last.reason.as_str()), ("bob", &v("1"), &v("2"), "better"));
        assert_eq!(names.forget(&v("2").unwrap(), at(4), "ann", "removed"), std::slice::from_ref(&name));
        assert_eq!((names.get(&name), names.history().len()), (None, 3));
        for i in 0..400 {
            names.point(name.clone(), v(if i % 2 == 0 { "3" } else { "4" }), at(5 + i), "cy", "again and again").unwrap();
        }
        assert_eq!((names.history().len(), names.older()), (MAX_CHANGES, 403 - MAX_CHANGES as u64));
        let kept: Names = serde_json::from_slice(&serde_json::to_vec(&names).unwrap()).unwrap();
        assert_eq!(kept, names);
    }

    #[test]
    fn there_is_a_bound_and_moving_needs_no_room() {
        let mut names = Names::default();
        let point = |names: &mut Names, name: String, to| names.point(name.parse().unwrap(), to, Timestamp::from_secs(1), "ann", "r");
        for i in 0..MAX_NAMES {
            point(&mut names, format!("n{i}"), v("1")).unwrap();
        }
        assert_eq!(point(&mut names, "one-more".into(), v("1")), Err(TooManyNames));
        assert_eq!(point(&mut names, "n0".into(), v("2")), Ok(true));
        assert_eq!(point(&mut names, "n0".into(), None), Ok(true));
        assert_eq!(point(&mut names, "one-more".into(), v("1")), Ok(true));
    }
}
