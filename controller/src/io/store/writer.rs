//! The one thread that writes: gathers batches, writes them as one transaction, answers each.
use std::sync::Arc;
use std::time::{Duration, Instant};

use leeway_protocol::time::Timestamp;
use redb::{ReadableTable as _, TableHandle as _, WriteTransaction};
use tokio::sync::broadcast;
use tokio::sync::mpsc::Receiver;
use tokio::sync::mpsc::error::TryRecvError;

use super::layout::{self, Block, DOCS, EVENTS, HISTORY, META, SUBJECTS};
use super::open::Shared;
use super::{Answer, Batch, Committed, Log, Request, StoreError, Write, history};
use crate::audit::{Event, Head};

/// A commit takes at most so many records and documents: its block stays some megabytes.
const MAX_WRITES: usize = 5_000;
/// The first batch of a commit waits so long for company, unless someone is waiting for its answer.
const LINGER: Duration = Duration::from_millis(20);
/// How often the inbox is looked at meanwhile.
const GLANCE: Duration = Duration::from_millis(1);

pub(super) struct Writer {
    shared: Arc<Shared>,
    /// Where the audit trail ends.
    head: Head,
    news: broadcast::Sender<Arc<Event>>,
}

impl Writer {
    pub(super) fn new(shared: Arc<Shared>, news: broadcast::Sender<Arc<Event>>) -> Result<Self, StoreError> {
        let last = super::read::last_event(&shared)?;
        let head = last.map_or_else(Head::default, |event| Head { seq: event.seq, hash: event.hash });
        Ok(Self { shared, head, news })
    }

    pub(super) fn run(mut self, mut inbox: Receiver<Request>) {
        let mut held = None;
        while let Some(request) = held.take().or_else(|| inbox.blocking_recv()) {
            match request {
                Request::Prune(log, before, answer) => {
                    let _ = answer.send(self.prune(log, before));
                }
                Request::Commit(batch, answer) => {
                    let (group, next) = gather(*batch, answer, &mut inbox);
                    held = next;
                    self.commit(group);
                }
            }
        }
    }

    fn commit(&mut self, group: Vec<(Batch, Answer)>) {
        let (batches, answers): (Vec<_>, Vec<_>) = group.into_iter().unzip();
        match self.write(batches) {
            Ok((head, committed)) => {
                self.head = head;
                for event in committed.iter().flat_map(|c| &c.events) {
                    // Nobody listening is fine.
                    let _ = self.news.send(Arc::new(event.clone()));
                }
                for (answer, committed) in answers.into_iter().zip(committed) {
                    let _ = answer.send(Ok(committed));
                }
            }
            Err(error) => {
                tracing::error!("{error}");
                if Shared::is_poisoned(&error) {
                    self.shared.close();
                }
                for answer in answers {
                    let _ = answer.send(Err(error.clone()));
                }
            }
        }
    }

    fn write(&self, batches: Vec<Batch>) -> Result<(Head, Vec<Committed>), StoreError> {
        let open = self.shared.db()?;
        let transaction = open.db()?.begin_write().map_err(|e| self.shared.redb(e))?;
        let mut head = self.head;
        let committed = self.fill(&transaction, batches, &mut head)?;
        transaction.commit().map_err(|e| self.shared.redb(e))?;
        Ok((head, committed))
    }

    fn fill(&self, transaction: &WriteTransaction, batches: Vec<Batch>, head: &mut Head) -> Result<Vec<Committed>, StoreError> {
        let redb = |e: redb::Error| self.shared.redb(e);
        let mut meta = transaction.open_table(META).map_err(|e| redb(e.into()))?;
        let mut docs = transaction.open_table(DOCS).map_err(|e| redb(e.into()))?;
        let mut events = transaction.open_table(EVENTS).map_err(|e| redb(e.into()))?;
        let mut histories = transaction.open_table(HISTORY).map_err(|e| redb(e.into()))?;
        let mut subjects = transaction.open_table(SUBJECTS).map_err(|e| redb(e.into()))?;
        let next = |log| meta.get(layout::next_key(log)).map(|row| row.map_or(0, |row| row.value()));
        let mut logs = Vec::new();
        for log in Log::ALL {
            logs.push((log, next(log).map_err(|e| redb(e.into()))?, Block::default()));
        }
        let at = batches.iter().map(|batch| batch.at).max().unwrap_or_default();
        let mut committed = Vec::with_capacity(batches.len());
        for batch in batches {
            let mut answer = Committed::default();
            for (log, first, block) in &logs {
                *answer.range(*log) = first + block.records()..0;
            }
            for write in batch.writes {
                match write {
                    Write::Put { kind, key, value } => {
                        docs.insert((kind.as_str(), key.as_str()), value.as_slice()).map_err(|e| redb(e.into()))?;
                    }
                    Write::Delete { kind, key } => {
                        docs.remove((kind.as_str(), key.as_str())).map_err(|e| redb(e.into()))?;
                    }
                    Write::Append { log, record } => {
                        if let Some((.., block)) = logs.iter_mut().find(|(l, ..)| *l == log) {
                            block.push(batch.at, &record);
                        }
                    }
                    Write::Remember { device, row, event } => {
                        let event = event.map(|place| head.seq + 1 + place as u64);
                        history::append(&mut histories, &device, batch.at, event, &row).map_err(redb)?;
                    }
                }
            }
            for (log, first, block) in &logs {
                answer.range(*log).end = first + block.records();
            }
            for draft in batch.events {
                let event = draft.seal(head.seq + 1, head.hash);
                *head = Head { seq: event.seq, hash: event.hash };
                let bytes = serde_json::to_vec(&event).map_err(|e| self.shared.damaged(e))?;
                events.insert(event.seq, bytes.as_slice()).map_err(|e| redb(e.into()))?;
                if history::is_listed(&event.subject) {
                    subjects.insert((event.subject.as_str(), event.seq), ()).map_err(|e| redb(e.into()))?;
                }
                answer.events.push(event);
            }
            committed.push(answer);
        }
        for (log, first, block) in logs.iter().filter(|(.., block)| block.records() > 0) {
            let name = layout::partition_name(*log, at, self.shared.config.partition_ms);
            let mut partition = transaction.open_table(layout::partition(&name)).map_err(|e| redb(e.into()))?;
            partition.insert(*first, block.bytes()).map_err(|e| redb(e.into()))?;
            meta.insert(layout::next_key(*log), first + block.records()).map_err(|e| redb(e.into()))?;
        }
        Ok(committed)
    }

    fn prune(&self, log: Log, before: Timestamp) -> Result<u64, StoreError> {
        let span = self.shared.config.partition_ms.max(1);
        let open = self.shared.db()?;
        let transaction = open.db()?.begin_write().map_err(|e| self.shared.redb(e))?;
        let tables = transaction.list_tables().map_err(|e| self.shared.redb(e))?;
        let names: Vec<String> = tables.map(|table| table.name().to_owned()).collect();
        let is_past = |name: &String| {
            layout::partition_number(log, name).is_some_and(|n| n.saturating_add(1).saturating_mul(span) <= before.as_millis())
        };
        let mut dropped = 0;
        for name in names.iter().filter(|name| is_past(name)) {
            transaction.delete_table(layout::partition(name)).map_err(|e| self.shared.redb(e))?;
            dropped += 1;
        }
        transaction.commit().map_err(|e| self.shared.redb(e))?;
        Ok(dropped)
    }
}

impl Committed {
    fn range(&mut self, log: Log) -> &mut std::ops::Range<u64> {
        match log {
            Log::Windows => &mut self.windows,
            Log::Captures => &mut self.captures,
            Log::Notes => &mut self.notes,
        }
    }
}

/// What has come in until the group is full, old enough, or holds something urgent; and a request of another kind, if one came.
fn gather(first: Batch, answer: Answer, inbox: &mut Receiver<Request>) -> (Vec<(Batch, Answer)>, Option<Request>) {
    let since = Instant::now();
    let mut urgent = first.urgent;
    let mut writes = first.writes.len();
    let mut group = vec![(first, answer)];
    while writes < MAX_WRITES {
        match inbox.try_recv() {
            Ok(Request::Commit(batch, answer)) => {
                urgent |= batch.urgent;
                writes += batch.writes.len().max(1);
                group.push((*batch, answer));
            }
            Ok(other) => return (group, Some(other)),
            Err(TryRecvError::Disconnected) => break,
            Err(TryRecvError::Empty) if urgent || since.elapsed() >= LINGER => break,
            Err(TryRecvError::Empty) => std::thread::sleep(GLANCE),
        }
    }
    (group, None)
}
