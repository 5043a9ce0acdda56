//! The event log: every decision with its reason, each row chained to the one before by its hash.
//!
//! One log feeds the audit page, the live stream and `leeway events`. A row's hash covers the canonical JSON of everything in
//! it and the hash of its predecessor, so a row that was changed, removed or put in later breaks the chain at that place. It
//! does not stop somebody who can rewrite the whole log; the last hash, kept elsewhere, does.
use leeway_protocol::digest::Digest;
use leeway_protocol::time::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// What happened, before it has a place in the log.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Draft {
    /// When.
    pub at: Timestamp,
    /// Who: `controller`, a person's name, or `devices/<id>`.
    pub actor: String,
    /// What kind, such as `rollout.moved`.
    pub kind: String,
    /// What it is about, such as `rollouts/rain-2`.
    pub subject: String,
    /// What happened and why, in a sentence.
    pub sentence: String,
    /// Everything else.
    #[serde(default)]
    pub data: Value,
}

/// A row of the log.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// Its number, from 1, without gaps.
    pub seq: u64,
    /// When.
    pub at: Timestamp,
    /// Who: `controller`, a person's name, or `devices/<id>`.
    pub actor: String,
    /// What kind, such as `rollout.moved`.
    pub kind: String,
    /// What it is about, such as `rollouts/rain-2`.
    pub subject: String,
    /// What happened and why, in a sentence.
    pub sentence: String,
    /// Everything else.
    #[serde(default)]
    pub data: Value,
    /// Hash of the row before.
    pub prev: Digest,
    /// Hash of this row.
    pub hash: Digest,
}

/// A log that does not hold together.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AuditError {
    /// A row is missing or out of order.
    #[error("the event log is broken at row {seq}: row {expected} was expected there")]
    Order {
        /// Found.
        seq: u64,
        /// Expected.
        expected: u64,
    },
    /// A row does not continue its predecessor.
    #[error("the event log is broken at row {0}: it does not continue the row before")]
    Chain(u64),
    /// A row's content is not what was hashed.
    #[error("the event log is broken at row {0}: its content was changed")]
    Content(u64),
}

impl Draft {
    /// The row with this number that follows the row with hash `prev`. Fractions in its data are kept to [`DIGITS`] digits.
    pub fn seal(self, seq: u64, prev: Digest) -> Event {
        let Self { at, actor, kind, subject, sentence, mut data } = self;
        round(&mut data);
        let mut event = Event { seq, at, actor, kind, subject, sentence, data, prev, hash: prev };
        event.hash = event.digest();
        event
    }
}

impl Event {
    /// The hash before the first row.
    pub fn genesis() -> Digest {
        Digest::of(b"leeway event log, version 1")
    }

    /// What its hash should be.
    fn digest(&self) -> Digest {
        let mut bytes = Vec::new();
        let mut value = serde_json::to_value(self).unwrap_or_default();
        if let Value::Object(fields) = &mut value {
            fields.remove("hash");
        }
        write(&value, &mut bytes);
        Digest::of(&bytes)
    }
}

/// Where the chain stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    /// Number of the last row; 0 before the first.
    pub seq: u64,
    /// Its hash.
    pub hash: Digest,
}

impl Default for Head {
    fn default() -> Self {
        Self { seq: 0, hash: Event::genesis() }
    }
}

/// Check rows that follow `head`; the head after the last.
pub fn verify<'a>(head: Head, events: impl IntoIterator<Item = &'a Event>) -> Result<Head, AuditError> {
    let mut head = head;
    for event in events {
        if event.seq != head.seq + 1 {
            return Err(AuditError::Order { seq: event.seq, expected: head.seq + 1 });
        }
        if event.prev != head.hash {
            return Err(AuditError::Chain(event.seq));
        }
        if event.hash != event.digest() {
            return Err(AuditError::Content(event.seq));
        }
        head = Head { seq: event.seq, hash: event.hash };
    }
    Ok(head)
}

/// Digits of a fraction that are kept and hashed. Reading JSON may return the neighbour of the float that was written, and a
/// chain must not break over that: at ten digits both are the same text.
pub const DIGITS: usize = 10;

fn round(value: &mut Value) {
    match value {
        Value::Array(items) => items.iter_mut().for_each(round),
        Value::Object(fields) => fields.values_mut().for_each(round),
        Value::Number(number) if number.is_f64() => {
            let rounded = number.as_f64().and_then(|x| text(x).parse::<f64>().ok());
            *value = rounded.map_or(Value::Null, Value::from);
        }
        _ => {}
    }
}

fn text(x: f64) -> String {
    format!("{x:.*e}", DIGITS - 1)
}

/// Canonical JSON: keys sorted, no spaces, fractions with [`DIGITS`] digits. Unlike signed metadata, events may hold fractions.
fn write(value: &Value, out: &mut Vec<u8>) {
    match value {
        Value::Array(items) => {
            out.push(b'[');
            for item in items {
                write(item, out);
                out.push(b',');
            }
            out.push(b']');
        }
        Value::Object(fields) => write_object(fields, out),
        Value::Number(number) if number.is_f64() => out.extend_from_slice(text(number.as_f64().unwrap_or_default()).as_bytes()),
        scalar => out.extend_from_slice(scalar.to_string().as_bytes()),
    }
}

fn write_object(fields: &Map<String, Value>, out: &mut Vec<u8>) {
    let mut keys: Vec<&String> = fields.keys().collect();
    keys.sort_unstable();
    out.push(b'{');
    for key in keys {
        out.extend_from_slice(Value::from(key.as_str()).to_string().as_bytes());
        out.push(b':');
        write(fields.get(key).unwrap_or(&Value::Null), out);
        out.push(b',');
    }
    out.push(b'}');
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn rows() -> Vec<Event> {
        let row = |n: i64| Draft {
            at: Timestamp::from_secs(n),
            actor: "controller".into(),
            kind: "rollout.moved".into(),
            subject: "rollouts/rain-2".into(),
            sentence: format!("Row {n}."),
            data: json!({"b": 0.1 + 0.2, "a": [1, null, "ü\n"], "n": n, "big": 1e300}),
        };
        let mut prev = Event::genesis();
        let mut seal = |n: i64| {
            let event = row(n).seal(n.unsigned_abs(), prev);
            prev = event.hash;
            event
        };
        (1..=5).map(&mut seal).collect()
    }

    #[test]
    fn a_log_survives_storage_and_any_change_breaks_it_at_its_place() {
        let rows = rows();
        let stored: Vec<Event> = rows.iter().map(|e| serde_json::from_str(&serde_json::to_string(e).unwrap()).unwrap()).collect();
        let head = verify(Head::default(), &stored).unwrap();
        assert_eq!((head.seq, head.hash), (5, rows[4].hash));

        let spoil = |change: &dyn Fn(&mut Vec<Event>)| {
            let mut copy = rows.clone();
            change(&mut copy);
            verify(Head::default(), &copy).unwrap_err()
        };
        assert_eq!(spoil(&|r| r[2].sentence.push('!')), AuditError::Content(3));
        assert_eq!(spoil(&|r| r[2].data = json!({})), AuditError::Content(3));
        assert_eq!(spoil(&|r| r[2].at = Timestamp::from_secs(9)), AuditError::Content(3));
        assert_eq!(spoil(&|r| drop(r.remove(1))), AuditError::Order { seq: 3, expected: 2 });
        assert_eq!(spoil(&|r| r.swap(1, 2)), AuditError::Order { seq: 3, expected: 2 });
        let rehashed = |r: &mut Vec<Event>| {
            r[1].sentence.push('!');
            r[1].hash = r[1].digest();
        };
        assert_eq!(spoil(&rehashed), AuditError::Chain(3), "a re-hashed row no longer fits its successor");
    }
}
