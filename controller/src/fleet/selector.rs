//! Label selectors in the grammar of Kubernetes: `region=coast, hw in (a, b), !beta`.
//!
//! One grammar for cohorts, the command line and the API, and one that people already know. As there: `!=` and `notin` also
//! match devices that lack the label, an empty selector matches every device, and all requirements must hold. What stays
//! true: a `Selector` has been parsed, is bounded, and prints in one normal form.
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The longest selector: what still fits a command line and a log line.
pub const MAX_LENGTH: usize = 1024;
/// The most requirements: each is checked for each device.
pub const MAX_REQUIREMENTS: usize = 32;
/// The longest key or value, as labels have it.
pub const MAX_WORD: usize = 63;

/// Which devices.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Selector(Vec<Requirement>);

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Requirement {
    Is { key: String, value: String },
    IsNot { key: String, value: String },
    In { key: String, values: BTreeSet<String> },
    NotIn { key: String, values: BTreeSet<String> },
    Has { key: String },
    Lacks { key: String },
}

/// A selector that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("selector {text:?}, character {}: expected {expected}", position + 1)]
pub struct SelectorError {
    /// The selector, cut.
    pub text: String,
    /// Where, in characters from 0.
    pub position: usize,
    /// What was expected there.
    pub expected: String,
}

impl Selector {
    /// Matches every device.
    pub fn everything() -> Self {
        Self::default()
    }

    /// Whether every requirement holds.
    pub fn matches(&self, labels: &BTreeMap<String, String>) -> bool {
        self.0.iter().all(|requirement| requirement.holds(labels))
    }
}

impl Requirement {
    fn holds(&self, labels: &BTreeMap<String, String>) -> bool {
        match self {
            Self::Is { key, value } => labels.get(key) == Some(value),
            Self::IsNot { key, value } => labels.get(key) != Some(value),
            Self::In { key, values } => labels.get(key).is_some_and(|value| values.contains(value)),
            Self::NotIn { key, values } => labels.get(key).is_none_or(|value| !values.contains(value)),
            Self::Has { key } => labels.contains_key(key),
            Self::Lacks { key } => !labels.contains_key(key),
        }
    }
}

impl FromStr for Selector {
    type Err = SelectorError;
    fn from_str(text: &str) -> Result<Self, SelectorError> {
        let mut parser = Parser { text, chars: text.chars().collect(), at: 0 };
        if parser.chars.len() > MAX_LENGTH {
            return Err(parser.error(format!("at most {MAX_LENGTH} characters")));
        }
        let mut requirements = Vec::new();
        parser.skip_spaces();
        while parser.at < parser.chars.len() {
            if requirements.len() == MAX_REQUIREMENTS {
                return Err(parser.error(format!("at most {MAX_REQUIREMENTS} requirements")));
            }
            requirements.push(parser.requirement()?);
            if parser.at < parser.chars.len() {
                parser.take(',', "a comma, or the end")?;
                if parser.at == parser.chars.len() {
                    return Err(parser.error("another requirement after the comma"));
                }
            }
        }
        Ok(Self(requirements))
    }
}

struct Parser<'a> {
    text: &'a str,
    chars: Vec<char>,
    at: usize,
}

impl Parser<'_> {
    fn requirement(&mut self) -> Result<Requirement, SelectorError> {
        if self.next_is('!') {
            self.take('!', "!")?;
            return Ok(Requirement::Lacks { key: self.word("a label's name after !")? });
        }
        let key = self.word("a label's name, or ! and a label's name")?;
        match self.chars.get(self.at) {
            None | Some(',') => return Ok(Requirement::Has { key }),
            Some('=') => {
                self.take('=', "=")?;
                if self.next_is('=') {
                    self.take('=', "=")?;
                }
                return Ok(Requirement::Is { key, value: self.word("a value after =")? });
            }
            Some('!') => {
                self.take('!', "!=")?;
                self.take('=', "= after !")?;
                return Ok(Requirement::IsNot { key, value: self.word("a value after !=")? });
            }
            Some(_) => {}
        }
        let before = self.at;
        match self.word("=, !=, in, notin, a comma, or the end")?.as_str() {
            "in" => Ok(Requirement::In { key, values: self.values()? }),
            "notin" => Ok(Requirement::NotIn { key, values: self.values()? }),
            _ => {
                self.at = before;
                Err(self.error("=, !=, in, notin, a comma, or the end"))
            }
        }
    }

    fn values(&mut self) -> Result<BTreeSet<String>, SelectorError> {
        self.take('(', "( and a list of values")?;
        let mut values = BTreeSet::from([self.word("a value")?]);
        while self.next_is(',') {
            self.take(',', ",")?;
            values.insert(self.word("a value after the comma")?);
        }
        self.take(')', "a comma, or )")?;
        Ok(values)
    }

    fn word(&mut self, expected: &str) -> Result<String, SelectorError> {
        let fits = |c: &&char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '/');
        let word: String = self.chars.iter().skip(self.at).take_while(fits).collect();
        if word.is_empty() {
            return Err(self.error(expected));
        }
        if word.len() > MAX_WORD {
            return Err(self.error(format!("at most {MAX_WORD} characters in a name or value")));
        }
        self.at += word.len();
        self.skip_spaces();
        Ok(word)
    }

    fn take(&mut self, wanted: char, expected: &str) -> Result<(), SelectorError> {
        if !self.next_is(wanted) {
            return Err(self.error(expected));
        }
        self.at += 1;
        self.skip_spaces();
        Ok(())
    }

    fn next_is(&self, wanted: char) -> bool {
        self.chars.get(self.at) == Some(&wanted)
    }

    fn skip_spaces(&mut self) {
        while self.next_is(' ') {
            self.at += 1;
        }
    }

    fn error(&self, expected: impl Into<String>) -> SelectorError {
        SelectorError { text: self.text.chars().take(80).collect(), position: self.at, expected: expected.into() }
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, requirement) in self.0.iter().enumerate() {
            f.write_str(if i == 0 { "" } else { "," })?;
            let list = |values: &BTreeSet<String>| values.iter().map(String::as_str).collect::<Vec<_>>().join(",");
            match requirement {
                Requirement::Is { key, value } => write!(f, "{key}={value}")?,
                Requirement::IsNot { key, value } => write!(f, "{key}!={value}")?,
                Requirement::In { key, values } => write!(f, "{key} in ({})", list(values))?,
                Requirement::NotIn { key, values } => write!(f, "{key} notin ({})", list(values))?,
                Requirement::Has { key } => f.write_str(key)?,
                Requirement::Lacks { key } => write!(f, "!{key}")?,
            }
        }
        Ok(())
    }
}

impl TryFrom<String> for Selector {
    type Error = SelectorError;
    fn try_from(text: String) -> Result<Self, SelectorError> {
        text.parse()
    }
}

impl From<Selector> for String {
    fn from(selector: Selector) -> String {
        selector.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(text: &str) -> BTreeMap<String, String> {
        text.split(',').filter_map(|pair| pair.split_once('=')).map(|(k, v)| (k.to_owned(), v.to_owned())).collect()
    }

    #[test]
    fn requirements_hold_as_in_kubernetes() {
        let table = [
            ("", "a=1", true),
            ("a=1", "a=1", true),
            ("a==1", "a=1", true),
            ("a=1", "a=2", false),
            ("a=1", "", false),
            ("a!=1", "a=2", true),
            ("a!=1", "", true),
            ("a in (1, 2)", "a=2", true),
            ("a in (1,2)", "a=3", false),
            ("a in (1,2)", "", false),
            ("a notin (1,2)", "a=3", true),
            ("a notin (1,2)", "", true),
            ("a notin (1,2)", "a=1", false),
            ("a", "a=", true),
            ("a", "", false),
            ("!a", "", true),
            ("!a", "a=1", false),
            (" region = coast , hw in ( a , b ) , ! beta ", "region=coast,hw=b", true),
            ("region=coast,hw in (a,b),!beta", "region=coast,hw=b,beta=1", false),
            ("in in (in)", "in=in", true),
            ("site.example/rack=4-b_2", "site.example/rack=4-b_2", true),
        ];
        for (selector, device, expected) in table {
            let parsed: Selector = selector.parse().unwrap();
            assert_eq!(parsed.matches(&labels(device)), expected, "{selector:?} on {device:?}");
            assert_eq!(parsed.to_string().parse(), Ok(parsed), "the normal form of {selector:?} reads back");
        }
    }

    #[test]
    fn errors_say_where_and_what() {
        let table = [
            (",", 0, "a label's name"),
            ("a=", 2, "a value after ="),
            ("a=1,", 4, "another requirement"),
            ("a=1 b=2", 4, "a comma, or the end"),
            ("a!1", 2, "= after !"),
            ("a on (1)", 2, "=, !=, in, notin"),
            ("a in 1", 5, "( and a list"),
            ("a in (1", 7, "a comma, or )"),
            ("a in ()", 6, "a value"),
            ("a=ü", 2, "a value"),
            ("!", 1, "name after !"),
        ];
        for (selector, position, expected) in table {
            let error = selector.parse::<Selector>().unwrap_err();
            assert_eq!(error.position, position, "{selector:?}: {error}");
            assert!(error.expected.contains(expected), "{selector:?}: {error}");
        }
        assert!("a,".repeat(40).parse::<Selector>().is_err());
        assert!("a".repeat(64).parse::<Selector>().is_err());
        assert!("a".repeat(2000).parse::<Selector>().is_err());
        assert_eq!("a=1 b".parse::<Selector>().unwrap_err().to_string(), "selector \"a=1 b\", character 5: expected a comma, or the end");
    }
}
