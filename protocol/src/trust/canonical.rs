//! The one byte form of a JSON value that is signed (OLPC canonical JSON), and the strict reading of JSON that was received.
//!
//! Signatures cover the canonical bytes of the parsed value, not the received text, so two readers must never see two values
//! in one text: duplicate keys are refused, and so are floats (they have no canonical form). Received bytes are kept verbatim
//! by the callers; only this comparison form is rebuilt. What stays true: reading costs memory in proportion to the length
//! that the caller allowed, and stack in proportion to [`MAX_DEPTH`].
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

/// How deep arrays and objects may nest; metadata needs seven levels, an assignment a few more.
pub const MAX_DEPTH: usize = 32;

/// Why a text was not read.
#[derive(Debug, thiserror::Error)]
pub enum JsonError {
    /// Longer than the caller allows.
    #[error("{len} bytes are more than the {max} allowed here")]
    TooLong {
        /// How long the text is.
        len: usize,
        /// How long it may be.
        max: usize,
    },
    /// Not JSON, or JSON of a kind that is never signed.
    #[error("not strict JSON: {0}")]
    NotStrict(#[from] serde_json::Error),
}

/// A value that has no canonical form.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CanonicalError {
    /// Floats have no canonical form.
    #[error("the number {0} cannot be signed: only whole numbers can, write it as a string or scale it")]
    Float(String),
    /// Nested beyond [`MAX_DEPTH`].
    #[error("nested deeper than {MAX_DEPTH} levels")]
    TooDeep,
}

/// Read `bytes` as one JSON value: at most `max` bytes, no duplicate key, no float, at most [`MAX_DEPTH`] levels.
pub fn parse(bytes: &[u8], max: usize) -> Result<Value, JsonError> {
    if bytes.len() > max {
        return Err(JsonError::TooLong { len: bytes.len(), max });
    }
    let mut reader = serde_json::Deserializer::from_slice(bytes);
    let value = Strict { levels: MAX_DEPTH }.deserialize(&mut reader)?;
    reader.end()?;
    Ok(value)
}

/// The canonical bytes of `value`.
pub fn to_bytes(value: &Value) -> Result<Vec<u8>, CanonicalError> {
    let mut out = Vec::new();
    write(value, &mut out, MAX_DEPTH)?;
    Ok(out)
}

fn write(value: &Value, out: &mut Vec<u8>, levels: usize) -> Result<(), CanonicalError> {
    match value {
        Value::Null => out.extend_from_slice(b"null"),
        Value::Bool(true) => out.extend_from_slice(b"true"),
        Value::Bool(false) => out.extend_from_slice(b"false"),
        Value::Number(number) if number.is_i64() || number.is_u64() => out.extend_from_slice(number.to_string().as_bytes()),
        Value::Number(number) => return Err(CanonicalError::Float(number.to_string())),
        Value::String(text) => write_string(text, out),
        Value::Array(items) => {
            let levels = levels.checked_sub(1).ok_or(CanonicalError::TooDeep)?;
            out.push(b'[');
            for (at, item) in items.iter().enumerate() {
                if at > 0 {
                    out.push(b',');
                }
                write(item, out, levels)?;
            }
            out.push(b']');
        }
        Value::Object(fields) => {
            let levels = levels.checked_sub(1).ok_or(CanonicalError::TooDeep)?;
            // Sorted here and not by trusting the map: a feature flag elsewhere in the build can make it keep insertion order.
            let mut fields: Vec<_> = fields.iter().collect();
            fields.sort_unstable_by_key(|(name, _)| *name);
            out.push(b'{');
            for (at, (name, field)) in fields.into_iter().enumerate() {
                if at > 0 {
                    out.push(b',');
                }
                write_string(name, out);
                out.push(b':');
                write(field, out, levels)?;
            }
            out.push(b'}');
        }
    }
    Ok(())
}

/// Canonical JSON escapes the quote and the backslash and nothing else, control characters included.
fn write_string(text: &str, out: &mut Vec<u8>) {
    out.push(b'"');
    for byte in text.bytes() {
        if matches!(byte, b'"' | b'\\') {
            out.push(b'\\');
        }
        out.push(byte);
    }
    out.push(b'"');
}

/// Builds a [`Value`] and refuses what [`parse`] promises to refuse; `levels` is how much deeper it may go.
struct Strict {
    levels: usize,
}

impl<'de> DeserializeSeed<'de> for Strict {
    type Value = Value;
    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<Value, D::Error> {
        from.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Strict {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON without floats")
    }
    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }
    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }
    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Number(Number::from(value)))
    }
    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::Number(Number::from(value)))
    }
    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<Value, E> {
        Err(E::custom(format_args!("the number {value} is not a whole number of at most 64 bits")))
    }
    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::String(value.to_owned()))
    }
    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(Value::String(value))
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut from: A) -> Result<Value, A::Error> {
        let levels = deeper(self.levels)?;
        let mut items = Vec::new();
        while let Some(item) = from.next_element_seed(Strict { levels })? {
            items.push(item);
        }
        Ok(Value::Array(items))
    }
    fn visit_map<A: MapAccess<'de>>(self, mut from: A) -> Result<Value, A::Error> {
        let levels = deeper(self.levels)?;
        let mut fields = Map::new();
        while let Some(name) = from.next_key::<String>()? {
            let field = from.next_value_seed(Strict { levels })?;
            if fields.insert(name.clone(), field).is_some() {
                return Err(A::Error::custom(format_args!("the key {name:?} appears twice")));
            }
        }
        Ok(Value::Object(fields))
    }
}

fn deeper<E: serde::de::Error>(levels: usize) -> Result<usize, E> {
    levels.checked_sub(1).ok_or_else(|| E::custom(format_args!("nested deeper than {MAX_DEPTH} levels")))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAX: usize = 4096;

    #[test]
    fn canonical_form_sorts_by_code_point_and_escapes_two_characters() {
        let value =
            parse(br#" { "b": [1, -2, true, null], "a\"": "x\\y\n\u00e4", "B": {}, "\ud83d\ude00": 0, "\uffee": 1 } "#, MAX).unwrap();
        let text = "{\"B\":{},\"a\\\"\":\"x\\\\y\n\u{e4}\",\"b\":[1,-2,true,null],\"\u{ffee}\":1,\"\u{1f600}\":0}";
        assert_eq!(String::from_utf8(to_bytes(&value).unwrap()).unwrap(), text);
    }

    #[test]
    fn what_could_be_read_in_two_ways_is_refused() {
        for (bad, why) in [
            (r#"{"a":1,"a":1}"#, "twice"),
            (r#"{"x":{"a":1,"b":2,"a":1}}"#, "twice"),
            (r#"{"a":1,"\u0061":2}"#, "twice"),
            ("1.0", "whole number"),
            ("1e3", "whole number"),
            ("-0", "whole number"),
            ("18446744073709551616", "whole number"),
            ("{} {}", "trailing"),
            ("[NaN]", "expected"),
            ("", "EOF"),
            ("[1,]", "trailing comma"),
        ] {
            let error = parse(bad.as_bytes(), MAX).unwrap_err().to_string();
            assert!(error.contains(why), "{bad}: {error}");
        }
        assert!(parse(b"\"\xff\"", MAX).is_err());
        assert!(matches!(parse(&[b' '; MAX + 1], MAX), Err(JsonError::TooLong { len: 4097, max: MAX })));
    }

    #[test]
    fn depth_is_bounded_on_both_sides() {
        let nested = |levels: usize| format!("{}{}", "[".repeat(levels), "]".repeat(levels));
        let deepest = parse(nested(MAX_DEPTH).as_bytes(), MAX).unwrap();
        assert!(to_bytes(&deepest).is_ok());
        assert!(parse(nested(MAX_DEPTH + 1).as_bytes(), MAX).is_err());
        assert!(parse("[".repeat(MAX).as_bytes(), MAX).is_err());
        assert_eq!(to_bytes(&Value::Array(vec![deepest])), Err(CanonicalError::TooDeep));
        assert!(matches!(to_bytes(&serde_json::json!(0.5)), Err(CanonicalError::Float(_))));
    }
}
