//! Texts with holes: `{key}`, `{run}`, `{var.NAME}`, `{secret.NAME}`, `{params}`, `{params.pairs}`.
//!
//! A body is JSON and is filled in as JSON, string by string, so that no value can end a string and begin something else; in a URL a value
//! is percent-encoded, in a header it must not hold a line break. What stays true: a hole that nobody fills is found when the file is read.
use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::Params;

/// What fills the holes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Fill {
    /// The key of the run.
    pub key: String,
    /// The service's own name of the run, once there is one.
    pub run: String,
    /// Plain values of the file.
    pub vars: BTreeMap<String, String>,
    /// Secrets, as they were read.
    pub secrets: BTreeMap<String, String>,
    /// What the run is told.
    pub params: Params,
}

/// How a value is put in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum How {
    /// As it is.
    Plain,
    /// Into a URL; plain values of the file stay as they are, for they may be a whole address.
    Url,
}

/// A hole that nothing fills.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{{{0}}} is no placeholder here: use {{key}}, {{run}}, {{var.NAME}}, {{secret.NAME}} or, alone in a JSON string, {{params}} or {{params.pairs}}"
)]
pub struct Unknown(pub String);

impl Fill {
    fn value(&self, name: &str, how: How) -> Option<String> {
        let encoded = |text: &String| match how {
            How::Plain => text.clone(),
            How::Url => encode(text),
        };
        match name.split_once('.') {
            None if name == "key" => Some(encoded(&self.key)),
            None if name == "run" => Some(encoded(&self.run)),
            Some(("var", name)) => self.vars.get(name).cloned(),
            Some(("secret", name)) => self.secrets.get(name).map(encoded),
            Some(("param", name)) => self.params.get(name).map(encoded),
            _ => None,
        }
    }

    /// A text.
    pub fn text(&self, text: &str, how: How) -> Result<String, Unknown> {
        let (mut out, mut rest) = (String::with_capacity(text.len()), text);
        while let Some((before, after)) = rest.split_once('{') {
            let Some((name, tail)) = after.split_once('}').filter(|(name, _)| is_name(name)) else {
                // A brace of the text's own, such as in a filter that is JSON.
                out.push_str(before);
                out.push('{');
                rest = after;
                continue;
            };
            out.push_str(before);
            out.push_str(&self.value(name, how).ok_or_else(|| Unknown(name.to_owned()))?);
            rest = tail;
        }
        out.push_str(rest);
        Ok(out)
    }

    /// A document, string by string.
    pub fn json(&self, value: &Value) -> Result<Value, Unknown> {
        Ok(match value {
            Value::String(text) if text == "{params}" => json!(self.params),
            Value::String(text) if text == "{params.pairs}" => {
                self.params.iter().map(|(name, value)| json!({ "Name": name, "Value": value })).collect()
            }
            Value::String(text) => Value::String(self.text(text, How::Plain)?),
            Value::Array(items) => Value::Array(items.iter().map(|item| self.json(item)).collect::<Result<_, _>>()?),
            Value::Object(fields) => {
                Value::Object(fields.iter().map(|(name, field)| Ok((name.clone(), self.json(field)?))).collect::<Result<_, Unknown>>()?)
            }
            other => other.clone(),
        })
    }

    /// A text of somewhere else without our secrets.
    pub fn redacted(&self, text: &str) -> String {
        let long = self.secrets.values().filter(|secret| secret.len() >= 4);
        long.fold(text.to_owned(), |text, secret| text.replace(secret.as_str(), "…"))
    }
}

fn is_name(name: &str) -> bool {
    !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c))
}

/// Percent-encoded as a part of a path or a query.
pub fn encode(text: &str) -> String {
    use std::fmt::Write as _;
    text.bytes().fold(String::new(), |mut out, byte| {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            let _ = write!(out, "%{byte:02X}");
        }
        out
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fill() -> Fill {
        let one = |name: &str, value: &str| BTreeMap::from([(name.to_owned(), value.to_owned())]);
        Fill {
            key: "leeway-1".to_owned(),
            run: "arn:aws:x/y z".to_owned(),
            vars: one("base", "https://a.example/b"),
            secrets: one("token", "s3cret"),
            params: one("job", "say \"hi\""),
        }
    }

    #[test]
    fn values_cannot_leave_the_place_they_are_put_in() {
        let fill = fill();
        assert_eq!(
            fill.text("{var.base}/runs/{run}?k={key}", How::Url).unwrap(),
            "https://a.example/b/runs/arn%3Aaws%3Ax%2Fy%20z?k=leeway-1"
        );
        assert_eq!(fill.text("Bearer {secret.token}", How::Plain).unwrap(), "Bearer s3cret");
        assert_eq!(fill.text(r#"{"a": [{"b": "{key}"}]}"#, How::Plain).unwrap(), r#"{"a": [{"b": "leeway-1"}]}"#);
        let body = fill.json(&json!({ "conf": "{params}", "list": "{params.pairs}", "name": "{param.job}!", "n": 1 })).unwrap();
        assert_eq!(
            body,
            json!({ "conf": { "job": "say \"hi\"" }, "list": [{ "Name": "job", "Value": "say \"hi\"" }], "name": "say \"hi\"!", "n": 1 })
        );
        assert_eq!(fill.text("{nothing}", How::Plain), Err(Unknown("nothing".to_owned())));
        assert_eq!(fill.redacted("no s3cret here"), "no … here");
    }
}
