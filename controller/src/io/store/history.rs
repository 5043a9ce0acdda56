//! Rows under a device's name: appended in order, bounded in number and in age; and events by what they are about.
//!
//! A row is behind a head of sixteen bytes, its time and the number of its event, so that dropping old ones reads no row. What stays
//! true: the row that was in force at the edge of retention stays until it ended before that edge, so an answer within retention is never
//! made wrong by it.
use leeway_protocol::time::Timestamp;
use redb::{ReadableTable as _, Table};

use super::layout::{EVENTS, HISTORY, SUBJECTS};
use super::{KEEP_HISTORY_MS, MAX_HISTORY, Remembered, Store, StoreError};
use crate::audit::Event;

/// Bytes in front of a row.
const HEAD: usize = 16;

/// Whether events about this are listed by subject.
pub(super) fn is_listed(subject: &str) -> bool {
    subject.starts_with("rollouts/") || subject.starts_with("models/")
}

type Rows<'t> = Table<'t, (&'static str, u64), &'static [u8]>;

/// Append a row, and drop what is too much or too old.
pub(super) fn append(rows: &mut Rows<'_>, device: &str, at: Timestamp, event: Option<u64>, row: &[u8]) -> Result<(), redb::Error> {
    let last = rows.range((device, 0)..=(device, u64::MAX))?.next_back().transpose()?.map_or(0, |(key, _)| key.value().1);
    let n = last + 1;
    let mut bytes = Vec::with_capacity(HEAD + row.len());
    bytes.extend_from_slice(&at.as_millis().to_le_bytes());
    bytes.extend_from_slice(&event.unwrap_or(0).to_le_bytes());
    bytes.extend_from_slice(row);
    rows.insert((device, n), bytes.as_slice())?;
    let edge = at.plus_millis(-KEEP_HISTORY_MS);
    loop {
        let past = {
            let mut oldest = rows.range((device, 0)..=(device, u64::MAX))?;
            let (first, second) = (oldest.next().transpose()?, oldest.next().transpose()?);
            let ended = second.and_then(|(_, value)| read(0, value.value())).map(|next| next.at);
            first.map(|(key, _)| key.value().1).filter(|first| n - first >= MAX_HISTORY || ended.is_some_and(|ended| ended < edge))
        };
        match past {
            Some(old) => drop_row(rows, device, old)?,
            None => return Ok(()),
        }
    }
}

fn drop_row(rows: &mut Rows<'_>, device: &str, n: u64) -> Result<(), redb::Error> {
    rows.remove((device, n))?;
    Ok(())
}

fn read(n: u64, bytes: &[u8]) -> Option<Remembered> {
    let (at, rest) = bytes.split_first_chunk::<8>()?;
    let (event, row) = rest.split_first_chunk::<8>()?;
    let event = Some(u64::from_le_bytes(*event)).filter(|seq| *seq > 0);
    Some(Remembered { n, at: Timestamp::from_millis(i64::from_le_bytes(*at)), event, row: row.to_vec() })
}

impl Store {
    /// The history of a device, oldest first: at most [`MAX_HISTORY`] rows.
    pub fn history(&self, device: &str) -> Result<Vec<Remembered>, StoreError> {
        let damaged = || self.shared.damaged(format!("the history of {device} is cut off"));
        self.shared.read(|transaction| {
            let rows = transaction.open_table(HISTORY)?;
            let mut out = Vec::new();
            for row in rows.range((device, 0)..=(device, u64::MAX))? {
                let (key, value) = row?;
                let Some(row) = read(key.value().1, value.value()) else { return Ok(Err(damaged())) };
                out.push(row);
            }
            Ok(Ok(out))
        })?
    }

    /// The newest events about a rollout or a model up to and with `until`, oldest first, at most `limit`.
    pub fn events_about(&self, subject: &str, until: u64, limit: usize) -> Result<Vec<Event>, StoreError> {
        let rows: Vec<Vec<u8>> = self.shared.read(|transaction| {
            let (subjects, events) = (transaction.open_table(SUBJECTS)?, transaction.open_table(EVENTS)?);
            let mut out = Vec::new();
            for row in subjects.range((subject, 0)..=(subject, until))?.rev().take(limit.min(super::MAX_PAGE)) {
                let (key, _) = row?;
                out.extend(events.get(key.value().1)?.map(|value| value.value().to_vec()));
            }
            Ok(out)
        })?;
        rows.iter().rev().map(|bytes| super::read::parse_event(&self.shared, bytes)).collect()
    }
}
