//! What the device says and when: birth and will, reported state, and the outbox of what must not be lost.
//!
//! What stays true: an outbox message is on disk before it is sent, and leaves the disk with a receipt that the director signed;
//! the will is sealed after the birth of the same connection and before the next one's, so a late will is an old message.
use std::collections::VecDeque;

use leeway_protocol::capture::CaptureBatch;
use leeway_protocol::ids::WindowId;
use leeway_protocol::report::{NEWEST_FORM, WindowReport};
use leeway_protocol::reported::{MAX_RECEIPTS, Receipt, ShadowSummary, Status};
use leeway_protocol::topic::Channel;
use leeway_protocol::trust::envelope::{self, Kind};

use super::Agent;
use super::persist::Message;
use crate::action::{Action, Dir, DiskOp, DiskPath, Level, OutboxKind, OutboxName, Payload};
use crate::control::number;

/// Messages held in memory while the disk refuses: a few events and windows, then the oldest is given up.
const MAX_HELD: usize = 16;
/// Tries to send a message that the disk refuses to read, before it is given up.
const READ_TRIES: u32 = 5;

/// The connection and what was last said over it.
#[derive(Debug, Default)]
pub(super) struct Link {
    connected: bool,
    /// Connections in this start.
    sessions: u32,
    birth: Option<Vec<u8>>,
    /// Last number used for sealing in this start.
    counter: u64,
    /// Windows and batches numbered in this start.
    numbers: u32,
    /// Whether the reported state changed since it was sent.
    pub(super) report_due: bool,
    reported_at: Option<u64>,
    /// The shadow run under the present generation.
    pub(super) shadow: Option<ShadowSummary>,
    /// The last event that was told, so that the same one is not told with every try.
    pub(super) told: Option<super::report::Told>,
    /// Messages that the disk would not take yet.
    held: VecDeque<(OutboxKind, Vec<u8>)>,
}

impl Agent {
    /// Seal a message under the next number of this start.
    fn seal(&mut self, kind: Kind, body: &[u8]) -> Option<(u64, Vec<u8>)> {
        if !self.boot_ready {
            return None;
        }
        self.link.counter = self.link.counter.saturating_add(1);
        let counter = self.link.counter;
        match envelope::seal(&self.settings.key, &self.settings.device, self.state.boot, counter, kind, body) {
            Ok(bytes) => Some((counter, bytes)),
            Err(error) => {
                self.log(Level::Error, format!("a message of type {} cannot be sent: {error}", kind.payload_type()));
                None
            }
        }
    }

    fn status(&mut self, online: bool) -> Option<Vec<u8>> {
        let session = number(self.state.boot, self.link.sessions);
        let (agent, labels) = (self.settings.agent.clone(), self.settings.labels.clone());
        let status = Status { v: 1, online, session, agent, labels, report_form: NEWEST_FORM };
        let body = serde_json::to_vec(&status).unwrap_or_default();
        self.seal(Kind::Status, &body).map(|(_, bytes)| bytes)
    }

    /// The executor is about to connect.
    pub(super) fn connecting(&mut self) {
        if !self.boot_ready || self.stopping || self.is_revoked() {
            return;
        }
        self.link.sessions = self.link.sessions.saturating_add(1);
        self.link.birth = self.status(true);
        if let Some(will) = self.status(false) {
            self.out.push(Action::Connect { will });
        }
    }

    pub(super) fn connected(&mut self) {
        self.link.connected = true;
        self.link.report_due = true;
        // The session at the broker may have lost what was on its way, whatever it says.
        self.outbox.disconnected();
        if let Some(birth) = self.link.birth.clone() {
            self.publish(Channel::Status, birth);
        }
    }

    pub(super) fn disconnected(&mut self) {
        self.link.connected = false;
        self.outbox.disconnected();
    }

    /// Said before an orderly end, so that nobody waits for the will.
    pub(super) fn say_offline(&mut self) {
        if self.link.connected
            && let Some(bytes) = self.status(false)
        {
            self.publish(Channel::Status, bytes);
        }
    }

    fn publish(&mut self, channel: Channel, bytes: Vec<u8>) {
        self.out.push(Action::Publish { channel, payload: Payload::Bytes(bytes) });
    }

    /// A window closed. Its lasting number comes from this start's number, which is on disk.
    pub(super) fn window_closed(&mut self, mut report: WindowReport) {
        report.window = WindowId(self.next_number());
        self.post(OutboxKind::Window, report.to_bytes());
    }

    /// Rows for retraining.
    pub(super) fn captured(&mut self, mut batch: CaptureBatch) {
        batch.batch = self.next_number();
        self.post(OutboxKind::Capture, batch.to_bytes());
    }

    fn next_number(&mut self) -> u64 {
        self.link.numbers = self.link.numbers.saturating_add(1);
        number(self.state.boot, self.link.numbers)
    }

    /// Put a message on disk, then on its way.
    pub(super) fn post(&mut self, kind: OutboxKind, body: Vec<u8>) {
        if !self.disk_is_ready() || !self.boot_ready {
            return self.hold(kind, body);
        }
        let envelope_kind = match kind {
            OutboxKind::Window => Kind::Window,
            OutboxKind::Capture => Kind::Capture,
            OutboxKind::Event => Kind::Event,
        };
        let Some((counter, bytes)) = self.seal(envelope_kind, &body) else { return self.gave_up(1) };
        let sealed_ms = self.clock.trusted().as_millis().unsigned_abs();
        let name = OutboxName { boot: self.state.boot, counter, sealed_ms, kind };
        let path = DiskPath::outbox(&name);
        let length = bytes.len() as u64;
        self.replace(path, bytes);
        self.wrote_message(Message { key: (name.boot, counter), kind, body });
        let gone = self.outbox.admit(name, length, self.clock.steady());
        self.push_out(gone);
    }

    /// Keep a message in memory until the disk takes it.
    pub(super) fn hold(&mut self, kind: OutboxKind, body: Vec<u8>) {
        if self.link.held.len() >= MAX_HELD {
            self.link.held.pop_front();
            self.gave_up(1);
        }
        self.link.held.push_back((kind, body));
    }

    fn push_out(&mut self, files: Vec<DiskPath>) {
        if files.is_empty() {
            return;
        }
        self.gave_up(files.len());
        self.log(Level::Warn, format!("{} messages were given up: the outbox is full or they are too old", files.len()));
        for file in files {
            self.remove(file);
        }
    }

    fn gave_up(&mut self, messages: usize) {
        self.state.dropped = self.state.dropped.saturating_add(messages as u64);
        self.link.report_due = true;
    }

    pub(super) fn trim_outbox(&mut self) {
        if self.disk_is_ready() && self.boot_ready {
            for (kind, body) in std::mem::take(&mut self.link.held) {
                self.post(kind, body);
            }
        }
        let gone = self.outbox.trim(self.clock.steady());
        self.push_out(gone);
    }

    /// The controller has stored messages: they may go.
    pub(super) fn receipt(&mut self, bytes: &[u8]) {
        let Some(chain) = &self.trust.director else { return };
        let opened = envelope::open_by_role(bytes, &self.settings.device, Kind::Receipt, &chain.root().keys_of("targets"));
        let receipt = match opened {
            Ok(opened) => opened.try_map(|opened| serde_json::from_slice::<Receipt>(&opened.body)),
            Err(error) => return self.log(Level::Warn, format!("a receipt was ignored: {error}")),
        };
        match receipt {
            Ok(receipt) if receipt.v == 1 && receipt.stored.len() <= MAX_RECEIPTS => {
                for file in self.outbox.receipt(&receipt.stored) {
                    self.remove(file);
                }
            }
            _ => self.log(Level::Warn, "a receipt was ignored: it has a form this program does not read".to_owned()),
        }
    }

    /// Send the reported state and the outbox, as far as they are due.
    pub(super) fn send_what_is_due(&mut self) {
        if !self.link.connected || !self.boot_ready {
            return;
        }
        let now = self.clock.steady();
        for name in self.outbox.due(now, self.settings.timing.receipt_ms) {
            let payload = Payload::File(DiskPath::outbox(&name));
            self.out.push(Action::Publish { channel: name.kind.channel(), payload });
        }
        let late = self.link.reported_at.is_none_or(|at| now.saturating_sub(at) >= self.settings.timing.report_ms);
        if self.link.report_due || late {
            self.link.report_due = false;
            self.link.reported_at = Some(now);
            let body = serde_json::to_vec(&self.reported()).unwrap_or_default();
            if let Some((_, bytes)) = self.seal(Kind::Reported, &body) {
                self.publish(Channel::Reported, bytes);
            }
        }
    }

    pub(super) fn send_due(&self) -> Option<u64> {
        if !self.link.connected {
            return None;
        }
        let report = self.link.reported_at.map(|at| at.saturating_add(self.settings.timing.report_ms));
        self.outbox.next_due(self.settings.timing.receipt_ms).into_iter().chain(report).min()
    }

    /// A message that lies in the outbox and was not to be read when it was to be sent: one that is gone is given up, one that the disk
    /// refuses is sent again later, like one without a receipt, and given up only after a few tries.
    pub(super) fn unreadable_message(&mut self, name: OutboxName, result: &Result<Option<Vec<u8>>, String>) {
        match result {
            Ok(Some(_)) => return,
            Ok(None) => {}
            Err(why) => {
                let again = self.outbox.tries((name.boot, name.counter)) < READ_TRIES;
                let then = if again { "it is tried again" } else { "check the disk" };
                self.log(Level::Warn, format!("message {} cannot be read: {why}; {then}", DiskPath::outbox(&name)));
                if again {
                    return;
                }
            }
        }
        if let Some(file) = self.outbox.forget((name.boot, name.counter)) {
            self.log(Level::Warn, format!("message {file} cannot be read and is given up"));
            self.gave_up(1);
            self.remove(file);
        }
    }

    /// Know again what lies in the outbox.
    pub(super) fn load_outbox(&mut self, stored: &crate::event::Stored) {
        let trusted = self.clock.trusted().as_millis();
        let steady = self.clock.steady();
        for (path, file) in stored.files.iter().filter(|(path, _)| path.dir() == Dir::Outbox) {
            match path.as_outbox() {
                Some(name) if name.boot < self.state.boot => self.outbox.restore(name, file.length, trusted, steady),
                _ => self.out.push(Action::Disk(DiskOp::Remove { path: path.clone() })),
            }
        }
    }

    pub(super) fn waiting_messages(&self) -> u64 {
        (self.outbox.len() + self.link.held.len()) as u64
    }
}
