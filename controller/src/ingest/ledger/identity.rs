//! Who speaks: whether the sender is in the fleet, and whether it is one device.
use leeway_protocol::time::Timestamp;
use serde_json::json;

use super::super::{Message, Refusal, Why};
use super::Ledger;
use crate::audit::Draft;

impl Ledger {
    /// Whether its sender is in the fleet. Who is not gets no answer: a receipt would make it forget what may count one day.
    pub fn admits(&self, message: &Message) -> Result<(), Refusal> {
        let admission = self.snapshot.fleet.device(&message.device).map(|device| device.admission.clone());
        match admission.and_then(|admission| admission.sentence(&message.device)) {
            Some(sentence) => Err(Refusal::unverified(Why::NotAdmitted, sentence)),
            None => Ok(()),
        }
    }

    /// Look whether its sender is one device or two with one key; what to write into the event log when that is found out. Said
    /// once: a person has to do something about it.
    pub fn compare(&mut self, message: &Message, at: Timestamp) -> Option<Draft> {
        let name = &message.device;
        let known = self.snapshot.fleet.device(name)?;
        if known.twin.is_some() {
            return None;
        }
        let found = self.desk.compare(message, known.desired.as_ref().map(|desired| desired.generation))?;
        let sentence = format!(
            "Two devices speak with the key of {name}: {found} Revoke it, and enrol both anew with keys of their own. (If its disk was \
             put back to an earlier state, there is one device only; a key that signed two lives is to be replaced all the same.)"
        );
        self.snapshot.fleet.device_mut(name)?.twin = Some(sentence.clone());
        self.snapshot.revision += 1;
        self.dirty.devices.insert(name.clone());
        self.dirty.uplinks.insert(name.clone());
        let data = json!({ "boot": message.boot, "counter": message.counter });
        let (kind, subject) = ("device.cloned".to_owned(), format!("devices/{name}"));
        Some(Draft { at, actor: "controller".to_owned(), kind, subject, sentence, data })
    }
}
