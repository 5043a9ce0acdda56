//! Deciding again: every alarm from the stored counts, every gate verdict from its stored inputs, compared bit for bit with what was
//! recorded.
//!
//! A verdict is worth what its arithmetic is worth, and anybody may do the arithmetic again: judging is pure, so the same counts under the
//! same policy give the same bits. What judging depends on besides the counts is written down when it is decided ([`note`]): the size of
//! the fleet (thresholds follow it), the policy, the cohort a window counted for, which monitors were given up. The event of an alarm or
//! a decision names its note by digest, so the hash chain holds the notes too.
//!
//! Three things are compared. *Alarms*: the verdict at the very place in the log at which it was announced. *Streams*: the whole state
//! of every detector and every quality estimate, against what was checkpointed, so that alarms that should have been raised and were not
//! would show. *Decisions*: each verdict of a gate, and whether the move is one that such a verdict allows.
//!
//! **Bit for bit** means that both sides are written as JSON, in which a float has its shortest exact form, and the texts are equal.
//! It holds for one form of the engine ([`ENGINE`]) on one architecture: `ln` and `exp` may differ in the last bit elsewhere, so both are
//! recorded, and a difference under another engine is said to be that.
//!
//! What stays true: a replay changes nothing; what cannot be replayed is counted and said, never passed over.
use serde::{Deserialize, Serialize};
use serde_json::Value;

pub mod fold;
pub mod note;

pub use fold::{Fold, Monitored, Replayed};
pub use note::{AlarmNote, Basis, Engine, GateNote, Inputs, Note};

/// The form of the arithmetic. Raise it with every change that may change a verdict or a sentence for the same counts.
pub const ENGINE: u32 = 1;

/// Differences that are listed; more are only counted.
pub const MAX_DIFFERENCES: usize = 20;

/// How many of one kind there were.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tally {
    /// On record.
    pub recorded: u64,
    /// Computed again.
    pub recomputed: u64,
    /// Of these, equal bit for bit.
    pub equal: u64,
}

impl Tally {
    fn count(&mut self, equal: bool) {
        self.recomputed += 1;
        self.equal += u64::from(equal);
    }
}

/// Something that is not as it was recorded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Difference {
    /// What, such as `drift.world cohorts/coast pressure`.
    pub what: String,
    /// The event it is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seq: Option<u64>,
    /// Where in it, as a path into its JSON.
    pub path: String,
    /// What was recorded there.
    pub recorded: String,
    /// What comes out now.
    pub recomputed: String,
}

/// What a replay found.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// What decides now: engine, program, architecture.
    pub engine: String,
    /// Events of the log that were looked at.
    pub events: u64,
    /// Windows that were counted again.
    pub windows: u64,
    /// Alarms that began or ended.
    pub alarms: Tally,
    /// Verdicts of gates behind moves of rollouts.
    pub decisions: Tally,
    /// Detectors and estimates in their whole state.
    pub streams: Tally,
    /// Bytes of notes, over all of them.
    pub note_bytes: u64,
    /// Notes.
    pub notes: u64,
    /// What was not replayed, and why.
    pub cannot: Vec<String>,
    /// Differences, at most [`MAX_DIFFERENCES`].
    pub differences: Vec<Difference>,
    /// How many there are.
    pub different: u64,
}

impl Report {
    /// Nothing yet.
    pub fn new() -> Self {
        Self { engine: Engine::this().to_string(), ..Self::default() }
    }

    /// Whether everything that was computed again is equal.
    pub fn is_equal(&self) -> bool {
        self.different == 0
    }

    /// All of it in a sentence.
    pub fn sentence(&self) -> String {
        let of = |tally: &Tally, what: &str| format!("{} of {} {what} recomputed, {} equal", tally.recomputed, tally.recorded, tally.equal);
        let end = match self.differences.first() {
            None => "no difference".to_owned(),
            Some(first) => format!(
                "{} differences, the first in {}{} at {}: recorded {}, recomputed {}",
                self.different,
                first.what,
                first.seq.map(|seq| format!(" (event {seq})")).unwrap_or_default(),
                first.path,
                first.recorded,
                first.recomputed
            ),
        };
        format!(
            "{}; {}; {}; from {} windows: {end}.",
            of(&self.alarms, "alarms"),
            of(&self.decisions, "decisions"),
            of(&self.streams, "streams"),
            self.windows
        )
    }

    /// Take down a difference.
    pub fn differ(&mut self, difference: Difference) {
        self.different += 1;
        if self.differences.len() < MAX_DIFFERENCES {
            self.differences.push(difference);
        }
    }

    /// Compare; whether they are equal.
    pub fn compare(&mut self, what: &str, seq: Option<u64>, recorded: &Value, recomputed: &Value) -> bool {
        let Some((path, a, b)) = first_difference(recorded, recomputed, String::new()) else { return true };
        self.differ(Difference {
            what: what.to_owned(),
            seq,
            path: if path.is_empty() { "/".to_owned() } else { path },
            recorded: a,
            recomputed: b,
        });
        false
    }
}

/// Characters of a value that are shown.
const MAX_SHOWN: usize = 200;

/// The first place at which two documents differ, with both values as text; equal texts are equal bits.
fn first_difference(a: &Value, b: &Value, path: String) -> Option<(String, String, String)> {
    let shown = |value: &Value| value.to_string().chars().take(MAX_SHOWN).collect::<String>();
    match (a, b) {
        (Value::Object(x), Value::Object(y)) => {
            let keys: std::collections::BTreeSet<&String> = x.keys().chain(y.keys()).collect();
            let of = |map: &serde_json::Map<String, Value>, key: &str| map.get(key).cloned().unwrap_or(Value::Null);
            keys.into_iter().find_map(|key| first_difference(&of(x, key), &of(y, key), format!("{path}/{key}")))
        }
        (Value::Array(x), Value::Array(y)) if x.len() == y.len() => {
            x.iter().zip(y).enumerate().find_map(|(i, (x, y))| first_difference(x, y, format!("{path}/{i}")))
        }
        (a, b) => {
            // As texts: equal numbers need not be the same bits, 0 and -0 for two.
            let (x, y) = (a.to_string(), b.to_string());
            (x != y).then(|| (path, shown(a), shown(b)))
        }
    }
}

#[cfg(test)]
mod tests;
