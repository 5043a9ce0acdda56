//! Tags: short notes in the form key = value, on a line or on a version, by whoever may change the registry.
//!
//! They are for people and other tools; nothing is decided by them, so they may change after a version was signed, unlike its
//! manifest. What stays true: every key and value has passed its rule, there is a bound on each and on all, and no tag can pretend
//! to be one of ours: the prefix `leeway.` is for what the controller itself says.
use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Tags on one thing.
pub const MAX_TAGS: usize = 64;
/// The longest key, as in MLflow.
pub const MAX_KEY: usize = 250;
/// The longest value: a paragraph or a link, not a document.
pub const MAX_VALUE: usize = 5_000;
/// Keys that begin so are made by the controller out of what was signed.
pub const OWN_PREFIX: &str = "leeway.";

/// A tag that cannot be set.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TagError {
    /// The key has a form that cannot be kept.
    #[error("tag key {0:?} is not valid: use 1 to {MAX_KEY} characters without control characters, not only spaces")]
    Key(String),
    /// The key is ours.
    #[error("tag {0:?} cannot be changed: what begins with {OWN_PREFIX:?} is said by the controller, out of what was signed")]
    Own(String),
    /// The value is too long.
    #[error("the value of tag {key:?} has {length} bytes, the bound is {MAX_VALUE}: keep a link instead")]
    Value {
        /// Its key.
        key: String,
        /// Its length.
        length: usize,
    },
    /// There are too many.
    #[error("there are {MAX_TAGS} tags on it already, which is the bound: remove one first")]
    Many,
}

/// The tags of one thing.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Tags(BTreeMap<String, String>);

/// Changes of tags: a value is set, none removes it.
pub type TagChanges = BTreeMap<String, Option<String>>;

impl Tags {
    /// A tag's value.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key).map(String::as_str)
    }

    /// All of them, by key.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(key, value)| (key.as_str(), value.as_str()))
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Bytes of keys and values.
    pub fn bytes(&self) -> usize {
        self.0.iter().map(|(key, value)| key.len() + value.len()).sum()
    }

    /// As a map, for answers.
    pub fn to_map(&self) -> BTreeMap<String, String> {
        self.0.clone()
    }

    /// All of the changes, or none of them; those that changed something.
    pub fn change(&mut self, changes: &TagChanges) -> Result<TagChanges, TagError> {
        let mut next = self.0.clone();
        let mut changed = TagChanges::new();
        for (key, value) in changes {
            check(key, value.as_deref())?;
            let before = match value {
                Some(value) => next.insert(key.clone(), value.clone()),
                None => next.remove(key),
            };
            if before != *value {
                changed.insert(key.clone(), value.clone());
            }
        }
        if next.len() > MAX_TAGS {
            return Err(TagError::Many);
        }
        self.0 = next;
        Ok(changed)
    }
}

fn check(key: &str, value: Option<&str>) -> Result<(), TagError> {
    let shown = || key.chars().take(80).collect::<String>();
    if key.trim().is_empty() || key.len() > MAX_KEY || key.chars().any(char::is_control) {
        return Err(TagError::Key(shown()));
    }
    if key.starts_with(OWN_PREFIX) {
        return Err(TagError::Own(shown()));
    }
    match value {
        Some(value) if value.len() > MAX_VALUE => Err(TagError::Value { key: shown(), length: value.len() }),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn changes(pairs: &[(&str, Option<&str>)]) -> TagChanges {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), value.map(str::to_owned))).collect()
    }

    #[test]
    fn changes_are_made_together_or_not_at_all() {
        let mut tags = Tags::default();
        let done = tags.change(&changes(&[("team", Some("vision")), ("ticket", Some("A-7")), ("absent", None)])).unwrap();
        assert_eq!(done, changes(&[("team", Some("vision")), ("ticket", Some("A-7"))]), "removing what is not there is no change");
        assert!(tags.change(&changes(&[("team", Some("vision"))])).unwrap().is_empty());
        let before = tags.clone();
        for (bad, says) in [
            (("", Some("x".to_owned())), "not valid"),
            (("a\nb", Some("x".to_owned())), "not valid"),
            (("leeway.status", Some("signed".to_owned())), "said by the controller"),
            (("leeway.status", None), "said by the controller"),
            (("long", Some("x".repeat(MAX_VALUE + 1))), "5001 bytes"),
        ] {
            let all = TagChanges::from([("team".to_owned(), None), (bad.0.to_owned(), bad.1)]);
            assert!(tags.change(&all).unwrap_err().to_string().contains(says), "{says}");
            assert_eq!(tags, before);
        }
        let many: TagChanges = (0..MAX_TAGS).map(|i| (format!("k{i}"), Some(String::new()))).collect();
        assert_eq!(tags.change(&many), Err(TagError::Many));
        assert_eq!(tags, before);
    }
}
