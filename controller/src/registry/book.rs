//! What people and other tools wrote about a line: names, tags, descriptions, and candidates that nobody signed.
//!
//! A *candidate* is a version that another tool registered here: a name, where it says the model lies, notes. There is no manifest
//! and no signature, so there is nothing that a device could be told to run; it waits for somebody with the line's key to publish
//! a version of its name, and its notes go over to that version. All of it lies in the line's document, apart from what was signed.
//! What stays true: a name in the book is that of a version or of a candidate, never of both; the whole has a bound.
use std::collections::BTreeMap;

use leeway_protocol::ids::{Line, Version};
use leeway_protocol::time::Timestamp;
use serde::{Deserialize, Serialize};

use super::names::Names;
use super::tags::{TagChanges, TagError, Tags};

/// Candidates of one line that nobody signed yet.
pub const MAX_CANDIDATES: usize = 256;
/// Bytes of tags and texts in one line's book: the line's document is written with every change of it.
pub const MAX_BYTES: usize = 1 << 20;
/// The longest description.
pub const MAX_DESCRIPTION: usize = 5_000;
/// The longest address of a source or a run.
pub const MAX_SOURCE: usize = 1_000;

/// Notes on a version or a candidate.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Note {
    /// What it is, for people.
    pub description: String,
    /// Tags.
    pub tags: Tags,
    /// Where whoever registered it said the model lies.
    pub source: String,
    /// The run that made it, elsewhere.
    pub run: String,
    /// Address of that run.
    pub run_link: String,
    /// When any of it changed last.
    pub changed_at: Option<Timestamp>,
}

/// A version that was registered and that nobody signed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Candidate {
    /// What is known of it.
    pub note: Note,
    /// Who registered it.
    pub by: String,
    /// When.
    pub at: Timestamp,
    /// Its place among the numbers of the line, for tools that order by number.
    pub number: u64,
}

/// What is written about one line.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Book {
    /// Names that people gave to versions.
    pub names: Names,
    /// Tags of the line.
    pub tags: Tags,
    /// Notes on its signed versions.
    pub notes: BTreeMap<Version, Note>,
    /// Versions that nobody signed yet.
    pub candidates: BTreeMap<Version, Candidate>,
    /// Numbers of signed versions where they are not their places in the line, because a candidate had that number before.
    numbers: BTreeMap<Version, u64>,
    /// The highest number that was ever given here: a number that was somebody's once is nobody else's.
    highest: u64,
    /// When any of it changed last.
    pub changed_at: Option<Timestamp>,
}

/// Something that cannot be written down.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BookError {
    /// A tag is not right.
    #[error(transparent)]
    Tag(#[from] TagError),
    /// A text is too long.
    #[error("the {what} has {length} bytes, the bound is {bound}: keep a link instead")]
    Long {
        /// Which text.
        what: &'static str,
        /// Its length.
        length: usize,
        /// The bound.
        bound: usize,
    },
    /// There is no room for another candidate.
    #[error("the line has {MAX_CANDIDATES} candidates that nobody signed, which is the bound: delete one, or sign it")]
    Candidates,
    /// The name is taken.
    #[error("version {0} of the line is there already: register it under another name")]
    Taken(Version),
    /// There is no room for more text.
    #[error("tags and texts of the line would have more than {MAX_BYTES} bytes, which is the bound: remove some")]
    Full,
}

/// What somebody registers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NewCandidate {
    /// Its name; the next number if absent.
    pub version: Option<Version>,
    /// What is known of it.
    pub note: Note,
}

impl Book {
    /// The note on a version or a candidate.
    pub fn note(&self, version: &Version) -> Option<&Note> {
        self.candidates.get(version).map(|candidate| &candidate.note).or_else(|| self.notes.get(version))
    }

    /// The number of a signed version, for tools that know versions by numbers: its place in the line, unless that was taken.
    pub fn number(&self, version: &Version, seq: u64) -> u64 {
        self.numbers.get(version).copied().unwrap_or(seq)
    }

    /// Write a candidate down. `taken` says which names signed versions have, and their places in the line.
    pub fn register(&mut self, new: NewCandidate, taken: &BTreeMap<Version, u64>, by: &str, at: Timestamp) -> Result<Version, BookError> {
        new.note.check()?;
        if self.candidates.len() >= MAX_CANDIDATES {
            return Err(BookError::Candidates);
        }
        let highest = taken.iter().map(|(version, seq)| self.number(version, *seq)).max().unwrap_or(0).max(self.highest);
        let is_free = |version: &Version| !taken.contains_key(version) && !self.candidates.contains_key(version);
        let number = highest.saturating_add(1);
        let version = match new.version {
            Some(version) if is_free(&version) => version,
            Some(version) => return Err(BookError::Taken(version)),
            // Names of numbers may be taken by versions whose numbers are others; as many tries as there are names find a free one.
            None => (number..=number.saturating_add((taken.len() + self.candidates.len()) as u64))
                .find_map(|n| n.to_string().parse::<Version>().ok().filter(|version| is_free(version)))
                .ok_or(BookError::Candidates)?,
        };
        let mut next = self.clone();
        let note = Note { changed_at: Some(at), ..new.note };
        next.candidates.insert(version.clone(), Candidate { note, by: by.to_owned(), at, number });
        next.highest = number;
        self.settle(next, at)?;
        Ok(version)
    }

    /// Change tags of the line, or of a version. Those that changed something; the caller knows that the version exists.
    pub fn tag(&mut self, version: Option<&Version>, changes: &TagChanges, at: Timestamp) -> Result<TagChanges, BookError> {
        let mut next = self.clone();
        let changed = match version {
            None => next.tags.change(changes)?,
            Some(version) => next.edit(version, at, |note| note.tags.change(changes))?,
        };
        if !changed.is_empty() {
            self.settle(next, at)?;
        }
        Ok(changed)
    }

    /// Describe a version; the caller knows that it exists.
    pub fn describe(&mut self, version: &Version, description: &str, at: Timestamp) -> Result<(), BookError> {
        let mut next = self.clone();
        next.edit(version, at, |note| description.clone_into(&mut note.description));
        next.note(version).map_or(Ok(()), Note::check)?;
        self.settle(next, at)
    }

    /// A version was signed, at this place in the line: what was noted on a candidate of its name is noted on it, with its number.
    /// Whether anything changed.
    pub fn signed(&mut self, version: &Version, seq: u64) -> bool {
        if let Some(candidate) = self.candidates.remove(version) {
            self.numbers.insert(version.clone(), candidate.number);
            self.notes.insert(version.clone(), candidate.note);
            return true;
        }
        if seq > self.highest || self.numbers.contains_key(version) {
            return false;
        }
        self.highest = self.highest.saturating_add(1);
        self.numbers.insert(version.clone(), self.highest);
        true
    }

    fn edit<T>(&mut self, version: &Version, at: Timestamp, change: impl FnOnce(&mut Note) -> T) -> T {
        let note = match self.candidates.get_mut(version) {
            Some(candidate) => &mut candidate.note,
            None => self.notes.entry(version.clone()).or_default(),
        };
        note.changed_at = Some(at);
        change(note)
    }

    fn settle(&mut self, next: Self, at: Timestamp) -> Result<(), BookError> {
        let notes = next.notes.values().chain(next.candidates.values().map(|candidate| &candidate.note));
        let bytes: usize = next.tags.bytes() + notes.map(Note::bytes).sum::<usize>();
        if bytes > MAX_BYTES {
            return Err(BookError::Full);
        }
        *self = Self { changed_at: Some(at), ..next };
        Ok(())
    }
}

impl Note {
    fn bytes(&self) -> usize {
        self.tags.bytes() + self.description.len() + self.source.len() + self.run.len() + self.run_link.len()
    }

    fn check(&self) -> Result<(), BookError> {
        let texts = [
            ("description", &self.description, MAX_DESCRIPTION),
            ("source", &self.source, MAX_SOURCE),
            ("run", &self.run, MAX_SOURCE),
            ("run's address", &self.run_link, MAX_SOURCE),
        ];
        match texts.into_iter().find(|(_, text, bound)| text.len() > *bound) {
            Some((what, text, bound)) => Err(BookError::Long { what, length: text.len(), bound }),
            None => Ok(()),
        }
    }
}

/// What a candidate lacks, and who can give it.
pub fn unsigned(line: &Line, version: &Version, source: &str) -> String {
    // The command is there to be pasted into a shell, and the address came from outside.
    let plain = |path: &&str| path.starts_with('/') && path.bytes().all(|b| b.is_ascii_alphanumeric() || b"/._-".contains(&b));
    let local = Some(source.strip_prefix("file://").unwrap_or(source)).filter(plain);
    let what = local.map_or_else(|| "MODEL.onnx".to_owned(), |dir| format!("--from-mlflow {dir}"));
    format!(
        "candidate: nobody signed it, so no device can be told to run it; whoever has the line's key signs it with \
         `leeway model publish {what} --line {line} --version {version} --key {line}.key --reference DATA.csv`"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn v(text: &str) -> Version {
        text.parse().unwrap()
    }

    fn from(source: &str) -> NewCandidate {
        NewCandidate { version: None, note: Note { source: source.to_owned(), ..Note::default() } }
    }

    #[test]
    fn candidates_get_free_numbers_and_their_notes_go_over_when_they_are_signed() {
        let mut book = Book::default();
        let at = Timestamp::from_secs;
        let taken = BTreeMap::from([(v("1.0.0"), 1), (v("3"), 2)]);
        assert_eq!(book.register(from("runs:/1/m"), &taken, "ann", at(1)).unwrap(), v("4"), "3 is the name of number 2");
        assert_eq!(book.register(from("runs:/2/m"), &taken, "ann", at(2)).unwrap(), v("5"));
        let named = NewCandidate { version: Some(v("1.1.0")), ..from("runs:/3/m") };
        assert_eq!(book.register(named.clone(), &taken, "ann", at(3)).unwrap(), v("1.1.0"));
        assert_eq!(book.register(named, &taken, "ann", at(4)), Err(BookError::Taken(v("1.1.0"))));
        let changes = TagChanges::from([("team".to_owned(), Some("vision".to_owned()))]);
        assert_eq!(book.tag(Some(&v("1.1.0")), &changes, at(5)).unwrap(), changes);
        book.describe(&v("1.1.0"), "better in snow", at(6)).unwrap();
        assert!(book.signed(&v("1.1.0"), 3) && !book.signed(&v("1.1.0"), 3));
        assert_eq!(book.number(&v("1.1.0"), 3), 5, "it keeps the number of the candidate");
        assert!(book.signed(&v("1.2.0"), 4), "number 4 is a candidate's");
        assert_eq!((book.number(&v("1.2.0"), 4), book.number(&v("3"), 2)), (6, 2));
        assert!(!book.signed(&v("2.0.0"), 7), "and 7 is free");
        let note = book.note(&v("1.1.0")).unwrap();
        assert_eq!(
            (note.tags.get("team"), note.source.as_str(), note.description.as_str()),
            (Some("vision"), "runs:/3/m", "better in snow")
        );
        assert_eq!(serde_json::from_slice::<Book>(&serde_json::to_vec(&book).unwrap()).unwrap(), book);
        assert_eq!(serde_json::from_str::<Book>("{}").unwrap(), Book::default(), "lines of before have none");
    }

    #[test]
    fn everything_has_a_bound_and_a_refusal_changes_nothing() {
        let mut book = Book::default();
        let at = Timestamp::from_secs(1);
        let long = from(&"x".repeat(MAX_SOURCE + 1));
        assert!(book.register(long, &BTreeMap::new(), "ann", at).unwrap_err().to_string().contains("source has 1001 bytes"));
        for _ in 0..MAX_CANDIDATES {
            book.register(from("s"), &BTreeMap::new(), "ann", at).unwrap();
        }
        assert_eq!(book.register(from("s"), &BTreeMap::new(), "ann", at), Err(BookError::Candidates));
        let long = "x".repeat(MAX_DESCRIPTION + 1);
        assert!(matches!(book.describe(&v("1"), &long, at), Err(BookError::Long { .. })));
        let big: TagChanges = (0..60).map(|i| (format!("k{i}"), Some("y".repeat(4_000)))).collect();
        let mut tagged = 0;
        while book.tag(Some(&v(&(tagged + 1).to_string())), &big, at).is_ok() {
            tagged += 1;
        }
        assert_eq!(tagged, 4, "five times 240 KB do not fit into a megabyte");
        assert!(book.note(&v("5")).unwrap().tags.is_empty());
    }

    #[test]
    fn what_a_candidate_lacks_is_a_command() {
        let line = "rain".parse().unwrap();
        assert!(unsigned(&line, &v("7"), "runs:/1/m").contains("`leeway model publish MODEL.onnx --line rain --version 7"));
        assert!(unsigned(&line, &v("7"), "file:///srv/m").contains("--from-mlflow /srv/m --line"));
        assert!(unsigned(&line, &v("7"), "/srv/m;reboot").contains("publish MODEL.onnx --line"), "what is pasted runs nothing else");
    }
}
