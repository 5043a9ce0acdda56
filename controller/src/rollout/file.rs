//! A rollout as a file: fit for Git, read strictly, described by a JSON Schema that is made from the types themselves.
//!
//! The file is checked against that very schema before it is read, so the schema cannot promise what the reader refuses. Every mistake is
//! reported at once, with its place and what was probably meant. Durations may be written with a unit (`soak: 30m`) beside the
//! plain form (`soak_ms: 1800000`). What stays true: nothing unknown is ignored, because a misspelt limit is one that is not there.
use std::collections::BTreeSet;

use leeway_protocol::ids::{Line, RolloutId, Version};
use serde_json::{Map, Value, json};

use super::RolloutPolicy;
use super::evidence::{Metric, metric};

mod schema;
pub use schema::schema;

/// The form this program writes and reads.
pub const API_VERSION: &str = "leeway/v1";
/// The only kind there is.
pub const KIND: &str = "Rollout";
/// The most mistakes that are listed; who reads twenty reads the file again.
pub const MAX_MISTAKES: usize = 20;

/// A rollout that a file asks for.
#[derive(Debug, Clone, PartialEq)]
pub struct RolloutFile {
    /// Its name.
    pub name: RolloutId,
    /// The model line.
    pub line: Line,
    /// The version to bring out.
    pub version: Version,
    /// Why; for the audit trail.
    pub reason: String,
    /// How; the line's own policy if absent.
    pub policy: Option<RolloutPolicy>,
}

/// Something in a file that is not right.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{place}: {problem}")]
pub struct Mistake {
    /// Where, such as `spec.policy.stages[0].share`.
    pub place: String,
    /// What, and what to write instead.
    pub problem: String,
}

/// Read one document, or say everything that is wrong with it.
pub fn read(document: &Value) -> Result<RolloutFile, Vec<Mistake>> {
    let schema = schema();
    let mut checker = Checker { definitions: schema.get("$defs").cloned().unwrap_or_default(), mistakes: Vec::new() };
    checker.check(&schema, document, "");
    if !checker.mistakes.is_empty() {
        checker.mistakes.truncate(MAX_MISTAKES);
        return Err(checker.mistakes);
    }
    let mut plain = document.clone();
    with_plain_durations(&mut plain);
    let text = |path: &str| plain.pointer(path).and_then(Value::as_str).unwrap_or_default().to_owned();
    let mut mistakes = Vec::new();
    let name = named(&text("/metadata/name"), "metadata.name", &mut mistakes);
    let line = named(&text("/spec/line"), "spec.line", &mut mistakes);
    let version = named(&text("/spec/version"), "spec.version", &mut mistakes);
    let policy = plain.pointer("/spec/policy").filter(|policy| !policy.is_null()).map(|policy| {
        let policy: RolloutPolicy = serde_json::from_value(policy.clone()).map_err(|e| e.to_string())?;
        policy.check().map(|()| policy).map_err(|e| e.to_string())
    });
    let policy = policy.transpose().unwrap_or_else(|problem| {
        mistakes.push(Mistake { place: "spec.policy".to_owned(), problem });
        None
    });
    match (name, line, version) {
        (Some(name), Some(line), Some(version)) if mistakes.is_empty() => {
            Ok(RolloutFile { name, line, version, reason: text("/spec/reason"), policy })
        }
        _ => Err(mistakes),
    }
}

fn named<T: std::str::FromStr<Err: std::fmt::Display>>(text: &str, place: &str, mistakes: &mut Vec<Mistake>) -> Option<T> {
    text.parse().map_err(|e: T::Err| mistakes.push(Mistake { place: place.to_owned(), problem: e.to_string() })).ok()
}

/// `90s`, `30m`, `8h`, `2d`, `500ms` as milliseconds.
pub fn duration_ms(text: &str) -> Option<u64> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = match text.get(digits.len()..)? {
        "ms" => 1,
        "s" => 1000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return None,
    };
    digits.parse::<u64>().ok()?.checked_mul(unit)
}

/// Turn `soak: 30m` into `soak_ms: 1800000`, everywhere the types have the latter. Only after the check: a text that is a duration stands
/// only where one belongs, or in places that are names.
fn with_plain_durations(value: &mut Value) {
    match value {
        Value::Array(items) => items.iter_mut().for_each(with_plain_durations),
        Value::Object(fields) => {
            let durations: Vec<(String, u64)> = fields
                .iter()
                .filter(|(key, _)| schema::duration_names().contains(key.as_str()))
                .filter_map(|(key, value)| Some((key.clone(), duration_ms(value.as_str()?)?)))
                .collect();
            for (key, ms) in durations {
                fields.remove(&key);
                fields.insert(format!("{key}_ms"), json!(ms));
            }
            fields.values_mut().for_each(with_plain_durations);
        }
        _ => {}
    }
}

/// The part of JSON Schema that the types need.
struct Checker {
    definitions: Value,
    mistakes: Vec<Mistake>,
}

impl Checker {
    fn say(&mut self, place: &str, problem: String) {
        let place = if place.is_empty() { "the document".to_owned() } else { place.to_owned() };
        self.mistakes.push(Mistake { place, problem });
    }

    fn check(&mut self, schema: &Value, value: &Value, place: &str) {
        if let Some(name) = schema.get("$ref").and_then(Value::as_str).and_then(|path| path.strip_prefix("#/$defs/")) {
            let named = self.definitions.get(name).cloned().unwrap_or_default();
            return self.check(&named, value, place);
        }
        if let Some(choices) = schema.get("oneOf").and_then(Value::as_array) {
            return self.check_choices(choices, value, place);
        }
        if let Some(words) = schema.get("enum").and_then(Value::as_array) {
            return self.check_word(words, value, place);
        }
        if let Some(only) = schema.get("const").filter(|only| *only != value) {
            return self.say(place, format!("must be {only}, but it is {value}"));
        }
        if !self.check_type(schema, value, place) {
            return;
        }
        match value {
            Value::Object(fields) => self.check_fields(schema, fields, place),
            Value::Array(items) => {
                let own = schema.get("items").cloned().unwrap_or_default();
                for (index, item) in items.iter().enumerate() {
                    self.check(&own, item, &format!("{place}[{index}]"));
                }
            }
            Value::Number(number) => {
                let least = schema.get("minimum").and_then(Value::as_f64).unwrap_or(f64::NEG_INFINITY);
                if number.as_f64().is_some_and(|number| number < least) {
                    self.say(place, format!("must be at least {least}, but it is {number}"));
                }
            }
            Value::String(text) if schema.get("pattern").is_some_and(|p| p == schema::DURATION) && duration_ms(text).is_none() => {
                self.say(place, format!("must be a duration such as 90s, 30m, 8h or 2d, but it is {text:?}"));
            }
            Value::String(text) if schema.get("pattern").is_some_and(|p| *p == metric::pattern()) => {
                if let Err(problem) = text.parse::<Metric>() {
                    self.say(place, problem.to_string());
                }
            }
            _ => {}
        }
    }

    /// The mistakes of the choice that has the fewest; none if one fits.
    fn check_choices(&mut self, choices: &[Value], value: &Value, place: &str) {
        let mut best: Option<Vec<Mistake>> = None;
        for choice in choices {
            let mut trial = Self { definitions: self.definitions.clone(), mistakes: Vec::new() };
            trial.check(choice, value, place);
            // What allows nothing but null says nothing about a value that is there.
            let is_null = choice.get("type").is_some_and(|t| t == "null");
            if trial.mistakes.is_empty() {
                return;
            }
            if !is_null && best.as_ref().is_none_or(|best| trial.mistakes.len() < best.len()) {
                best = Some(trial.mistakes);
            }
        }
        self.mistakes.extend(best.unwrap_or_default());
    }

    fn check_word(&mut self, words: &[Value], value: &Value, place: &str) {
        if words.contains(value) {
            return;
        }
        let words: Vec<&str> = words.iter().filter_map(Value::as_str).collect();
        let meant = value.as_str().and_then(|text| nearest(text, &words));
        let hint = meant.map_or_else(|| format!("use one of {}", words.join(", ")), |word| format!("did you mean {word:?}?"));
        self.say(place, format!("cannot be {value}; {hint}"));
    }

    fn check_type(&mut self, schema: &Value, value: &Value, place: &str) -> bool {
        let allowed: Vec<&str> = match schema.get("type") {
            Some(Value::String(one)) => vec![one],
            Some(Value::Array(several)) => several.iter().filter_map(Value::as_str).collect(),
            _ => return true,
        };
        let is = |kind: &&str| match *kind {
            "string" => value.is_string(),
            "integer" => value.is_u64() || value.is_i64(),
            "number" => value.is_number(),
            "boolean" => value.is_boolean(),
            "array" => value.is_array(),
            "object" => value.is_object(),
            "null" => value.is_null(),
            _ => false,
        };
        if allowed.iter().any(is) {
            return true;
        }
        let quotes = if allowed.contains(&"string") && value.is_number() { ": put it in quotes" } else { "" };
        let wanted = allowed.iter().map(|kind| word_for(kind)).collect::<Vec<_>>().join(" or ");
        self.say(place, format!("must be {wanted}, but it is {}{quotes}", kind_of(value)));
        false
    }

    fn check_fields(&mut self, schema: &Value, fields: &Map<String, Value>, place: &str) {
        let empty = Map::new();
        let known = schema.get("properties").and_then(Value::as_object).unwrap_or(&empty);
        let closed = schema.get("additionalProperties").is_some_and(|more| more == false);
        let at = |key: &str| if place.is_empty() { key.to_owned() } else { format!("{place}.{key}") };
        for (key, value) in fields {
            match known.get(key) {
                Some(own) => self.check(own, value, &at(key)),
                None if closed => {
                    let names: Vec<&str> = known.keys().map(String::as_str).collect();
                    let hint = nearest(key, &names)
                        .map_or_else(|| format!("there are {}", names.join(", ")), |name| format!("did you mean {name:?}?"));
                    self.say(&at(key), format!("there is no such key; {hint}"));
                }
                None => {}
            }
            if fields.contains_key(&format!("{key}_ms")) {
                self.say(&at(key), format!("is said twice, as {key} and as {key}_ms"));
            }
        }
        let required = schema.get("required").and_then(Value::as_array);
        for key in required.into_iter().flatten().filter_map(Value::as_str).filter(|key| !fields.contains_key(*key)) {
            let with_unit = key.strip_suffix("_ms").is_some_and(|short| fields.contains_key(short));
            if !with_unit {
                self.say(&at(key), "is missing".to_owned());
            }
        }
    }
}

fn word_for(kind: &str) -> &str {
    match kind {
        "string" => "a text",
        "integer" => "a whole number",
        "number" => "a number",
        "boolean" => "true or false",
        "array" => "a list",
        "object" => "a mapping",
        other => other,
    }
}

fn kind_of(value: &Value) -> String {
    match value {
        Value::Object(_) => "a mapping".to_owned(),
        Value::Array(_) => "a list".to_owned(),
        Value::Null => "empty".to_owned(),
        other => other.to_string().chars().take(60).collect(),
    }
}

/// The word that was probably meant.
fn nearest<'a>(text: &str, words: &[&'a str]) -> Option<&'a str> {
    let near = words.iter().map(|word| (crate::config::distance(text, word), *word)).filter(|(far, word)| *far <= 1 + word.len() / 4);
    near.collect::<BTreeSet<_>>().into_iter().next().map(|(_, word)| word)
}

#[cfg(test)]
mod tests;
