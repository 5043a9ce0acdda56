//! The messages that wait for a receipt: which are on disk, which are due, which must go to keep the bounds.
//!
//! Only an index: the bytes lie in files and are read when they are sent, so a month without network costs no memory. A broker's
//! acknowledgement means nothing here, since no broker stores before it acknowledges; a message leaves with the controller's
//! signed receipt, or when the bounds push it out, and then it is counted.
//!
//! What stays true: bytes, number and age are bounded, the oldest goes first; at most [`IN_FLIGHT`] messages are on their way.
use std::collections::BTreeMap;

use leeway_protocol::ids::BootId;

use crate::action::{DiskPath, OutboxName};
use crate::agent::OutboxBounds;

/// Messages sent and not yet receipted; bounds the broker's and the client's queues after a long absence.
pub const IN_FLIGHT: usize = 32;
/// A message is sent again after the receipt time doubled this often at most.
const MAX_DOUBLINGS: u32 = 5;

/// The index.
#[derive(Debug)]
pub struct Outbox {
    bounds: OutboxBounds,
    /// By age: boot and counter rise.
    waiting: BTreeMap<(BootId, u64), Message>,
    bytes: u64,
}

#[derive(Debug)]
struct Message {
    name: OutboxName,
    length: u64,
    /// When it was sealed, on the agent's steady clock; before its start for messages of earlier starts.
    born: i64,
    /// When it was last sent over this connection, and how often in all.
    sent: Option<u64>,
    tries: u32,
}

impl Outbox {
    /// Nothing waits.
    pub fn new(bounds: OutboxBounds) -> Self {
        Self { bounds, waiting: BTreeMap::new(), bytes: 0 }
    }

    /// A message found on disk at start. Its age is judged once by the wall clock and from then on by the steady one, so a
    /// clock that is set right later does not throw out everything that was sealed before.
    pub fn restore(&mut self, name: OutboxName, length: u64, trusted_ms: i64, steady: u64) {
        let age = trusted_ms.saturating_sub(i64::try_from(name.sealed_ms).unwrap_or(i64::MAX)).max(0);
        let born = i64::try_from(steady).unwrap_or(i64::MAX).saturating_sub(age);
        self.insert(name, length, born);
    }

    /// A message that is being written. Returns the files that must go to make room, oldest first.
    pub fn admit(&mut self, name: OutboxName, length: u64, steady: u64) -> Vec<DiskPath> {
        self.insert(name, length, i64::try_from(steady).unwrap_or(i64::MAX));
        self.trim(steady)
    }

    fn insert(&mut self, name: OutboxName, length: u64, born: i64) {
        let message = Message { name, length, born, sent: None, tries: 0 };
        if let Some(old) = self.waiting.insert((name.boot, name.counter), message) {
            self.bytes = self.bytes.saturating_sub(old.length);
        }
        self.bytes = self.bytes.saturating_add(length);
    }

    /// Push out what is over the bounds, oldest first; returns the files.
    pub fn trim(&mut self, steady: u64) -> Vec<DiskPath> {
        let oldest_allowed =
            i64::try_from(steady).unwrap_or(i64::MAX).saturating_sub(i64::try_from(self.bounds.max_age_ms).unwrap_or(i64::MAX));
        let mut gone = Vec::new();
        while let Some((&key, message)) = self.waiting.first_key_value() {
            let over = self.bytes > self.bounds.max_bytes || self.waiting.len() as u64 > self.bounds.max_messages;
            if !over && message.born >= oldest_allowed {
                break;
            }
            gone.extend(self.forget(key));
        }
        gone
    }

    /// A message that is not waiting any more, for whatever reason; its file, if it was waiting.
    pub fn forget(&mut self, key: (BootId, u64)) -> Option<DiskPath> {
        let message = self.waiting.remove(&key)?;
        self.bytes = self.bytes.saturating_sub(message.length);
        Some(DiskPath::outbox(&message.name))
    }

    /// Give up the oldest message; its file.
    pub fn forget_oldest(&mut self) -> Option<DiskPath> {
        let (&key, _) = self.waiting.first_key_value()?;
        self.forget(key)
    }

    /// The controller has stored these; returns the files to remove.
    pub fn receipt(&mut self, stored: &[(u64, u64)]) -> Vec<DiskPath> {
        stored.iter().filter_map(|&(boot, counter)| self.forget((BootId(boot), counter))).collect()
    }

    /// What is to be sent now, oldest first; counts as sent from here on.
    pub fn due(&mut self, steady: u64, receipt_ms: u64) -> Vec<OutboxName> {
        let is_due = |m: &Message| m.sent.is_none_or(|at| steady.saturating_sub(at) >= patience(m.tries, receipt_ms));
        let flying = self.waiting.values().filter(|m| !is_due(m)).count();
        let room = IN_FLIGHT.saturating_sub(flying);
        let mut due = Vec::new();
        for message in self.waiting.values_mut().filter(|m| is_due(m)).take(room) {
            message.sent = Some(steady);
            message.tries = message.tries.saturating_add(1);
            due.push(message.name);
        }
        due
    }

    /// When the next message is due again, if nothing else happens.
    pub fn next_due(&self, receipt_ms: u64) -> Option<u64> {
        let flying = self.waiting.values().filter_map(|m| Some(m.sent?.saturating_add(patience(m.tries, receipt_ms))));
        flying.min()
    }

    /// How often a message was sent, or was to be.
    pub fn tries(&self, key: (BootId, u64)) -> u32 {
        self.waiting.get(&key).map_or(0, |message| message.tries)
    }

    /// The connection is gone: whatever was on its way may be lost.
    pub fn disconnected(&mut self) {
        for message in self.waiting.values_mut() {
            message.sent = None;
        }
    }

    /// Messages that wait.
    pub fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Their bytes.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }
}

fn patience(tries: u32, receipt_ms: u64) -> u64 {
    receipt_ms.saturating_mul(1 << tries.saturating_sub(1).min(MAX_DOUBLINGS))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::action::OutboxKind;

    fn name(counter: u64) -> OutboxName {
        OutboxName { boot: BootId(1), counter, sealed_ms: 1_000 * counter, kind: OutboxKind::Window }
    }

    fn outbox() -> Outbox {
        Outbox::new(OutboxBounds { max_bytes: 100, max_messages: 5, max_age_ms: 10_000 })
    }

    fn counters(names: &[OutboxName]) -> Vec<u64> {
        names.iter().map(|n| n.counter).collect()
    }

    #[test]
    fn bytes_number_and_age_push_out_the_oldest() {
        let mut full = outbox();
        for counter in 0..4 {
            assert_eq!(full.admit(name(counter), 25, 0), []);
        }
        assert_eq!(full.admit(name(4), 30, 0), [DiskPath::outbox(&name(0)), DiskPath::outbox(&name(1))]);
        assert_eq!((full.len(), full.bytes()), (3, 80));

        let mut many = outbox();
        let gone: Vec<_> = (0..7).flat_map(|counter| many.admit(name(counter), 1, 0)).collect();
        assert_eq!(gone, [DiskPath::outbox(&name(0)), DiskPath::outbox(&name(1))]);

        let mut old = outbox();
        old.restore(name(1), 1, 9_000, 500);
        old.restore(name(8), 1, 9_000, 500);
        assert_eq!(old.trim(2_500), []);
        assert_eq!(old.trim(2_501), [DiskPath::outbox(&name(1))], "8,000 ms old at start, and 2,001 ms since");
    }

    #[test]
    fn messages_are_sent_oldest_first_few_at_a_time_and_again_without_a_receipt() {
        let mut outbox = Outbox::new(OutboxBounds::default());
        for counter in 0..40 {
            outbox.admit(name(counter), 1, 0);
        }
        assert_eq!(counters(&outbox.due(0, 1_000)), (0..32).collect::<Vec<_>>());
        assert!(outbox.due(500, 1_000).is_empty(), "the rest waits for receipts");
        assert_eq!(outbox.receipt(&[(1, 0), (1, 1), (1, 999), (7, 2)]).len(), 2);
        assert_eq!(counters(&outbox.due(600, 1_000)), [32, 33]);
        assert_eq!(outbox.next_due(1_000), Some(1_000));
        assert_eq!(counters(&outbox.due(1_000, 1_000)), (2..32).collect::<Vec<_>>());
        assert!(outbox.due(2_500, 1_000).len() <= 2, "patience doubles");
        outbox.disconnected();
        assert_eq!(counters(&outbox.due(2_600, 1_000)), (2..34).collect::<Vec<_>>(), "a new connection starts over");
    }
}
