//! Reading: never waits for the writer.
use redb::{ReadTransaction, ReadableDatabase as _, ReadableTable as _, TableHandle as _};

use super::layout::{self, DOCS, EVENTS, META};
use super::open::Shared;
use super::{Kind, Log, Record, Store, StoreError};
use crate::audit::Event;

/// Records or events in one answer at most.
pub const MAX_PAGE: usize = 10_000;

impl Store {
    /// One document.
    pub fn doc(&self, kind: Kind, key: &str) -> Result<Option<Vec<u8>>, StoreError> {
        self.shared.read(|transaction| {
            let docs = transaction.open_table(DOCS)?;
            Ok(docs.get((kind.as_str(), key))?.map(|value| value.value().to_vec()))
        })
    }

    /// Every document of a kind, by name.
    pub fn docs(&self, kind: Kind) -> Result<Vec<(String, Vec<u8>)>, StoreError> {
        self.shared.read(|transaction| {
            let docs = transaction.open_table(DOCS)?;
            let mut out = Vec::new();
            for row in docs.range((kind.as_str(), "")..)? {
                let (key, value) = row?;
                let (of, name) = key.value();
                if of != kind.as_str() {
                    break;
                }
                out.push((name.to_owned(), value.value().to_vec()));
            }
            Ok(out)
        })
    }

    /// The names of every document of a kind.
    pub fn names(&self, kind: Kind) -> Result<Vec<String>, StoreError> {
        self.shared.read(|transaction| {
            let docs = transaction.open_table(DOCS)?;
            let mut out = Vec::new();
            for row in docs.range((kind.as_str(), "")..)? {
                let (key, _) = row?;
                let (of, name) = key.value();
                if of != kind.as_str() {
                    break;
                }
                out.push(name.to_owned());
            }
            Ok(out)
        })
    }

    /// Every document of a kind, parsed; one that cannot be is named as damage.
    pub fn parsed<T: serde::de::DeserializeOwned>(&self, kind: Kind) -> Result<Vec<(String, T)>, StoreError> {
        let parse = |(name, bytes): (String, Vec<u8>)| match serde_json::from_slice(&bytes) {
            Ok(value) => Ok((name, value)),
            Err(error) => Err(self.shared.damaged(format!("the {} {name:?} cannot be read: {error}", kind.as_str()))),
        };
        self.docs(kind)?.into_iter().map(parse).collect()
    }

    /// The number the next record of a log gets.
    pub fn next_seq(&self, log: Log) -> Result<u64, StoreError> {
        self.shared.read(|transaction| {
            let meta = transaction.open_table(META)?;
            Ok(meta.get(layout::next_key(log))?.map_or(0, |row| row.value()))
        })
    }

    /// Records of a log from `from` on, oldest first, at most `limit` (and at most [`MAX_PAGE`]).
    pub fn records(&self, log: Log, from: u64, limit: usize) -> Result<Vec<Record>, StoreError> {
        let limit = limit.min(MAX_PAGE);
        let damaged = || self.shared.damaged(format!("a block of the {} is cut off", log.as_str()));
        self.shared.read(|transaction| {
            let mut out = Vec::new();
            for name in partitions(transaction, log)? {
                let partition = transaction.open_table(layout::partition(&name))?;
                // The block that holds `from` starts at or before it.
                let start = partition.range(..=from)?.next_back().transpose()?.map_or(from, |(first, _)| first.value());
                for row in partition.range(start..)? {
                    let (first, block) = row?;
                    let Some(records) = layout::records(first.value(), block.value()) else { return Ok(Err(damaged())) };
                    out.extend(records.into_iter().filter(|record| record.seq >= from).take(limit - out.len()));
                    if out.len() >= limit {
                        return Ok(Ok(out));
                    }
                }
            }
            Ok(Ok(out))
        })?
    }

    /// Events after `after`, oldest first, at most `limit` (and at most [`MAX_PAGE`]).
    pub fn events(&self, after: u64, limit: usize) -> Result<Vec<Event>, StoreError> {
        let rows: Vec<Vec<u8>> = self.shared.read(|transaction| {
            let events = transaction.open_table(EVENTS)?;
            let rows = events.range(after.saturating_add(1)..)?.take(limit.min(MAX_PAGE));
            rows.map(|row| row.map(|(_, value)| value.value().to_vec()).map_err(redb::Error::from)).collect()
        })?;
        rows.iter().map(|bytes| parse_event(&self.shared, bytes)).collect()
    }

    /// The newest events, oldest first, at most `limit`.
    pub fn last_events(&self, limit: usize) -> Result<Vec<Event>, StoreError> {
        let last = last_event(&self.shared)?.map_or(0, |event| event.seq);
        self.events(last.saturating_sub(limit.min(MAX_PAGE) as u64), limit)
    }
}

/// The end of the audit trail.
pub(super) fn last_event(shared: &Shared) -> Result<Option<Event>, StoreError> {
    let last = shared.read(|transaction| {
        let events = transaction.open_table(EVENTS)?;
        Ok(events.last()?.map(|(_, value)| value.value().to_vec()))
    })?;
    last.map(|bytes| parse_event(shared, &bytes)).transpose()
}

pub(super) fn parse_event(shared: &Shared, bytes: &[u8]) -> Result<Event, StoreError> {
    serde_json::from_slice(bytes).map_err(|error| shared.damaged(format!("an event cannot be read: {error}")))
}

fn partitions(transaction: &ReadTransaction, log: Log) -> Result<Vec<String>, redb::Error> {
    let mut names: Vec<String> = transaction.list_tables()?.map(|table| table.name().to_owned()).collect();
    names.retain(|name| layout::partition_number(log, name).is_some());
    names.sort_unstable();
    Ok(names)
}

impl Shared {
    /// Run `look` on the newest committed state.
    pub(super) fn read<T>(&self, look: impl FnOnce(&ReadTransaction) -> Result<T, redb::Error>) -> Result<T, StoreError> {
        let outcome = {
            let open = self.db()?;
            match open.db()?.begin_read() {
                Ok(transaction) => look(&transaction).map_err(|e| self.redb(e)),
                Err(error) => Err(self.redb(error)),
            }
        };
        if outcome.as_ref().is_err_and(Self::is_poisoned) {
            self.close();
        }
        outcome
    }
}
