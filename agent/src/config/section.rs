//! One section of a TOML document: takes known keys out by type, and refuses what is left.
use std::collections::BTreeMap;
use std::path::PathBuf;

use toml::{Table, Value};

use super::ConfigError;

/// A section, with its name in front of every key it speaks of.
#[derive(Debug)]
pub(super) struct Section {
    name: &'static str,
    table: Table,
}

impl Section {
    pub(super) fn new(name: &'static str, table: Table) -> Self {
        Self { name, table }
    }

    fn key(&self, key: &str) -> String {
        if self.name.is_empty() { key.to_owned() } else { format!("{}.{key}", self.name) }
    }

    fn wrong(&self, key: &str, expected: &'static str, got: &Value) -> ConfigError {
        let got = match got {
            Value::String(_) => "a text in quotes",
            Value::Integer(_) => "a whole number",
            Value::Float(_) => "a number with a fraction",
            Value::Boolean(_) => "true or false",
            Value::Datetime(_) => "a date",
            Value::Array(_) => "a list",
            Value::Table(_) => "a section",
        };
        ConfigError::Type { key: self.key(key), expected, got: got.to_owned() }
    }

    /// Take a text; true if it was there.
    pub(super) fn text(&mut self, key: &str, to: &mut String) -> Result<bool, ConfigError> {
        match self.table.remove(key) {
            None => Ok(false),
            Some(Value::String(text)) => {
                *to = text;
                Ok(true)
            }
            Some(other) => Err(self.wrong(key, "a text in quotes", &other)),
        }
    }

    /// Take a path; true if it was there.
    pub(super) fn path(&mut self, key: &str, to: &mut PathBuf) -> Result<bool, ConfigError> {
        let mut text = String::new();
        let there = self.text(key, &mut text)?;
        if there {
            *to = PathBuf::from(text);
        }
        Ok(there)
    }

    /// Take a list of texts.
    pub(super) fn texts(&mut self, key: &str, to: &mut Vec<String>) -> Result<(), ConfigError> {
        let Some(found) = self.table.remove(key) else { return Ok(()) };
        let texts = found.as_array().and_then(|list| list.iter().map(|v| v.as_str().map(str::to_owned)).collect::<Option<Vec<_>>>());
        *to = texts.ok_or_else(|| self.wrong(key, "a list of texts in quotes", &found))?;
        Ok(())
    }

    /// Take a whole number between two bounds.
    pub(super) fn number(&mut self, key: &str, min: u64, max: u64, to: &mut u64) -> Result<(), ConfigError> {
        let Some(found) = self.table.remove(key) else { return Ok(()) };
        let Some(number) = found.as_integer() else { return Err(self.wrong(key, "a whole number", &found)) };
        *to = u64::try_from(number).ok().filter(|n| (min..=max).contains(n)).ok_or_else(|| ConfigError::Value {
            key: self.key(key),
            value: number.to_string(),
            remedy: format!("it must be between {min} and {max}"),
        })?;
        Ok(())
    }

    /// Take a section within this one.
    pub(super) fn section(&mut self, key: &'static str) -> Result<Option<Section>, ConfigError> {
        match self.table.remove(key) {
            None => Ok(None),
            Some(Value::Table(table)) => Ok(Some(Section::new(key, table))),
            Some(other) => Err(self.wrong(key, "a section", &other)),
        }
    }

    /// Every key is a text of its own.
    pub(super) fn into_texts(mut self) -> Result<BTreeMap<String, String>, ConfigError> {
        let keys: Vec<String> = self.table.keys().cloned().collect();
        let mut texts = BTreeMap::new();
        for key in keys {
            let mut text = String::new();
            self.text(&key, &mut text)?;
            texts.insert(key, text);
        }
        Ok(texts)
    }

    /// Refuse what was not taken; `known` are the keys there are.
    pub(super) fn end(&self, known: &[&str]) -> Result<(), ConfigError> {
        let Some(key) = self.table.keys().next() else { return Ok(()) };
        let suggestion = known.iter().map(|known| (distance(key, known), *known)).min();
        let near = suggestion.filter(|(far, known)| *far <= known.len() / 2).map(|(_, known)| self.key(known));
        Err(ConfigError::Unknown { key: self.key(key), suggestion: near })
    }
}

/// How many characters must be put in, taken out or changed to get from one to the other.
fn distance(from: &str, to: &str) -> usize {
    let to: Vec<char> = to.chars().collect();
    let mut row: Vec<usize> = (0..=to.len()).collect();
    for (i, a) in from.chars().enumerate() {
        let mut diagonal = i;
        let mut left = i + 1;
        for (b, cell) in to.iter().zip(row.iter_mut().skip(1)) {
            let best = (diagonal + usize::from(a != *b)).min(left + 1).min(*cell + 1);
            diagonal = std::mem::replace(cell, best);
            left = best;
        }
        if let Some(first) = row.first_mut() {
            *first = i + 1;
        }
    }
    row.last().copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::distance;

    #[test]
    fn distances_count_edits() {
        for (from, to, expected) in
            [("", "", 0), ("a", "", 1), ("", "ab", 2), ("kitten", "sitting", 3), ("hang", "hang_ms", 3), ("same", "same", 0)]
        {
            assert_eq!(distance(from, to), expected, "{from} {to}");
        }
    }
}
