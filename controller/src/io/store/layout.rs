//! Tables, keys and blocks: how the store lies on the disk.
use leeway_protocol::time::Timestamp;
use redb::TableDefinition;

use super::{Log, Record};

/// The form of everything in the file; a program refuses forms it does not know.
pub(super) const FORM: u64 = 1;

/// `form`, and where each log goes on.
pub(super) const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");
/// Documents by kind and name.
pub(super) const DOCS: TableDefinition<'_, (&str, &str), &[u8]> = TableDefinition::new("docs");
/// The audit trail by sequence number.
pub(super) const EVENTS: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("events");

/// What devices ran and were told, by device and place. Tables that came later are made when a file is opened.
pub(super) const HISTORY: TableDefinition<'_, (&str, u64), &[u8]> = TableDefinition::new("history");
/// Numbers of the events about a rollout or a model, by subject. Those about devices are too many, and are in their history.
pub(super) const SUBJECTS: TableDefinition<'_, (&str, u64), ()> = TableDefinition::new("event-subjects");

/// Key in [`META`].
pub(super) const META_FORM: &str = "form";

/// Key in [`META`]: the next number of a log, which must outlive its partitions.
pub(super) fn next_key(log: Log) -> &'static str {
    match log {
        Log::Windows => "next-window",
        Log::Captures => "next-capture",
        Log::Notes => "next-note",
    }
}

/// One partition of a log: first sequence number → block.
pub(super) fn partition(name: &str) -> TableDefinition<'_, u64, &'static [u8]> {
    TableDefinition::new(name)
}

/// The name of the partition of `at`; names sort by time.
pub(super) fn partition_name(log: Log, at: Timestamp, span_ms: i64) -> String {
    format!("{}/{:012}", log.as_str(), at.as_millis().max(0) / span_ms.max(1))
}

/// The number in a partition's name, if it is one of this log.
pub(super) fn partition_number(log: Log, name: &str) -> Option<i64> {
    name.strip_prefix(log.as_str())?.strip_prefix('/')?.parse().ok()
}

/// A block: the records of one commit, each behind its time and length.
#[derive(Default)]
pub(super) struct Block {
    bytes: Vec<u8>,
    records: u64,
}

impl Block {
    pub(super) fn push(&mut self, at: Timestamp, record: &[u8]) {
        let length = u32::try_from(record.len()).unwrap_or(u32::MAX);
        self.bytes.extend_from_slice(&at.as_millis().to_le_bytes());
        self.bytes.extend_from_slice(&length.to_le_bytes());
        self.bytes.extend_from_slice(record);
        self.records += 1;
    }

    pub(super) fn records(&self) -> u64 {
        self.records
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

/// The records of a block, or `None` if it is cut off.
pub(super) fn records(first: u64, mut block: &[u8]) -> Option<Vec<Record>> {
    let mut out = Vec::new();
    while !block.is_empty() {
        let (at, rest) = block.split_first_chunk::<8>()?;
        let (length, rest) = rest.split_first_chunk::<4>()?;
        let length = usize::try_from(u32::from_le_bytes(*length)).ok()?;
        let (bytes, rest) = rest.split_at_checked(length)?;
        let seq = first + out.len() as u64;
        out.push(Record { seq, at: Timestamp::from_millis(i64::from_le_bytes(*at)), bytes: bytes.to_vec() });
        block = rest;
    }
    Some(out)
}
