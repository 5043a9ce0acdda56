//! The table of stolen keys, played: a thief does what the stolen key allows, people do what recovers from it, devices run the real
//! agent, and what is told is what was seen.
//!
//! Each row is a world of its own with three devices and two good releases. Thief and people use the same documents and the same
//! repository code as a real fleet; nothing is asserted about a device that it did not report or run itself. What stays true: a
//! row passes only if the thief got no more than the design grants, everything was recovered, and the stolen key is worth nothing
//! afterwards.
use std::fmt;

use crate::press::PressError;
use crate::watch::Violation;
use crate::world::BuildError;

mod lab;
mod line;
mod online;
mod root;
mod thief;

/// One row of the table, as it was played.
#[derive(Debug, Clone, Default)]
pub struct Row {
    /// What was stolen.
    pub stolen: &'static str,
    /// What the thief could do meanwhile, as it was seen.
    pub meanwhile: Vec<String>,
    /// What recovered it.
    pub recovery: &'static str,
    /// Virtual milliseconds from the first act of recovery until every device was well.
    pub recovered_ms: u64,
    /// What was not as it should be; empty if the row passed.
    pub wrong: Vec<String>,
}

impl Row {
    /// Whether everything was as it should be.
    pub fn passed(&self) -> bool {
        self.wrong.is_empty()
    }

    /// Something was seen.
    pub fn saw(&mut self, what: impl fmt::Display) {
        self.meanwhile.push(what.to_string());
    }

    /// Something must be so.
    pub fn expect(&mut self, holds: bool, what: impl fmt::Display) {
        if !holds {
            self.wrong.push(what.to_string());
        }
    }
}

/// Why a row could not be played to its end.
#[derive(Debug, thiserror::Error)]
pub enum DrillError {
    /// The world could not begin.
    #[error(transparent)]
    Build(#[from] BuildError),
    /// The people could not sign or publish.
    #[error(transparent)]
    Press(#[from] PressError),
    /// The thief could not sign.
    #[error("the thief could not sign: {0}")]
    Thief(String),
    /// Something did not come true in time.
    #[error("after {minutes} minutes it was still not so that {what}: {seen}")]
    Late {
        /// What.
        what: String,
        /// How long it was waited for.
        minutes: u64,
        /// What the devices last said.
        seen: String,
    },
    /// A device broke a promise.
    #[error("a promise was broken: {0}")]
    Broken(Violation),
}

type Play = fn(&mut Row) -> Result<(), DrillError>;

/// Every row that devices have part in, in the order of the table.
const ROWS: [(&str, Play); 7] = [
    ("timestamp and snapshot keys", online::freshness),
    ("director's key", online::director),
    ("all online keys, five times", online::five_times),
    ("1 line key of 2", line::one_of_two),
    ("a line's keys", line::threshold),
    ("1 root key of 3", root::one_of_three),
    ("2 root keys of 3", root::threshold),
];

/// Play every row.
pub fn play() -> Vec<Row> {
    ROWS.iter()
        .map(|(stolen, play)| {
            let mut row = Row { stolen, ..Row::default() };
            if let Err(error) = play(&mut row) {
                row.wrong.push(error.to_string());
            }
            row
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_theft_gets_no_more_than_it_may_and_is_recovered_from() {
        let rows = play();
        for row in &rows {
            println!("{}: {:?}; {} in {} ms", row.stolen, row.meanwhile, row.recovery, row.recovered_ms);
            assert!(row.passed(), "{}: {:#?}\nseen: {:#?}", row.stolen, row.wrong, row.meanwhile);
            assert!(!row.meanwhile.is_empty() && !row.recovery.is_empty() && row.recovered_ms > 0, "{row:?}");
        }
        assert_eq!(rows.len(), ROWS.len());
    }
}
