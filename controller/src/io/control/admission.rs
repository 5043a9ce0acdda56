//! Who is let in and who is put out, by a person's word; and whether a certificate still counts.
//!
//! Putting a device out takes effect where it can do harm before the call returns: its sign-in at the embedded broker, its
//! connection there, its certificate at the HTTP listener, its messages. For brokers outside the list of revoked certificates is
//! written anew. What stays true: the decision is on disk before any of that.
use std::io::Write as _;

use leeway_protocol::ids::DeviceId;
use leeway_protocol::time::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::super::clock;
use super::super::store::{Kind, Write};
use super::super::tls::peer::Peer;
use super::decisions::{draft, no_device, reason};
use super::{ControlError, Controller, Inner, Touched, document};
use crate::fleet::admission::{Certificate, Decision, Dismissal};

/// A certificate that was revoked before its end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::io) struct Revoked {
    device: DeviceId,
    at: Timestamp,
    not_after: Timestamp,
}

/// Documents that say that these certificates count no more.
pub(super) fn revoked(device: &DeviceId, certificates: &[Certificate], at: Timestamp) -> Result<Vec<Write>, ControlError> {
    let one = |held: &Certificate| {
        let revoked = Revoked { device: device.clone(), at, not_after: held.not_after };
        document(Kind::Revoked, held.serial.clone(), Some(&revoked))
    };
    certificates.iter().filter(|held| held.not_after > at).map(one).collect()
}

impl Controller {
    /// Let a device in, or put it out.
    pub async fn decide_on(&self, device: &DeviceId, decision: Decision, why: &str, by: &str) -> Result<(), ControlError> {
        let why = match decision {
            Decision::Accept if why.trim().is_empty() => String::new(),
            _ => reason(why)?,
        };
        let out = {
            let _turn = self.inner.turn.lock().await;
            let at = clock::now();
            let mut state = self.inner.ledger().snapshot.clone();
            let mut found = state.fleet.device_mut(device).ok_or_else(|| no_device(device))?;
            let dismissal = Dismissal { at, by: by.to_owned(), reason: why.clone() };
            let after = found.admission.after(decision, device, dismissal).map_err(|e| ControlError::Conflict(e.to_string()))?;
            let out = !after.is_in();
            let more = if out { revoked(device, &found.certificates, at)? } else { Vec::new() };
            found.admission = after;
            if out {
                (found.credential, found.certificates) = (None, Vec::new());
                // Its last will does not count any more.
                found.presence.turn(false, at);
            }
            drop(found);
            state.revision += 1;
            let (kind, sentence) = match decision {
                Decision::Accept if why.is_empty() => ("device.accepted", format!("{device} was accepted by {by}.")),
                Decision::Accept => ("device.accepted", format!("{device} was accepted by {by}: {why}")),
                Decision::Refuse => ("device.not-accepted", format!("{device} was not accepted, by {by}: {why}")),
                Decision::Revoke => ("device.revoked", format!("{device} was revoked by {by}: {why}")),
            };
            let event = draft(at, by, kind, format!("devices/{device}"), sentence, json!({ "certificates": more.len() }));
            let touched = Touched { devices: [device.clone()].into(), ..Touched::default() };
            self.inner.settle(state, &touched, more, vec![event], at).await?;
            if out {
                self.inner.credentials.dismiss(device);
            }
            out
        };
        if out {
            put_out(&self.inner, device).await;
        }
        Ok(())
    }

    /// Whether devices have to show certificates.
    pub fn asks_for_certificates(&self) -> bool {
        self.inner.tls.is_some()
    }

    /// Whether this certificate counts; otherwise why not.
    pub(in crate::io) fn check_peer(&self, peer: &Peer) -> Result<(), String> {
        let device = &peer.device;
        let known = self.inner.ledger().snapshot.fleet.device(device);
        let Some(known) = known else { return Err(format!("{device} is not in this fleet: enrol it first")) };
        if let Some(sentence) = known.admission.sentence(device) {
            return Err(sentence);
        }
        if !known.certificates.iter().any(|held| held.serial == peer.serial) {
            return Err(format!("this certificate of {device} was replaced or is of an earlier life: enrol again for a newer one"));
        }
        if peer.not_after <= clock::now() {
            return Err(format!("the certificate of {device} is over since {}: enrol again for a newer one", peer.not_after));
        }
        Ok(())
    }
}

/// End what a device holds that counts no more.
pub(super) async fn put_out(inner: &Inner, device: &DeviceId) {
    if let Some(broker) = &inner.broker {
        broker.disconnect(device).await;
    }
    if let Err(error) = write_revoked(inner) {
        tracing::error!("the list of revoked certificates was not written: {error}; brokers outside do not know of {device} yet");
    }
}

/// Write the list of revoked certificates for brokers outside, where there is TLS.
pub(in crate::io) fn write_revoked(inner: &Inner) -> Result<(), ControlError> {
    let (Some(tls), Some(path)) = (&inner.tls, &inner.revoked_list) else { return Ok(()) };
    let now = clock::now();
    let all = inner.store.parsed::<Revoked>(Kind::Revoked)?;
    let serials: Vec<(String, Timestamp)> =
        all.into_iter().filter(|(_, revoked)| revoked.not_after > now).map(|(serial, revoked)| (serial, revoked.at)).collect();
    let unwritten = |e: &dyn std::fmt::Display| ControlError::Unavailable(format!("{}: {e}", path.display()));
    let text = tls.authority().revoked(&serials, now).map_err(|e| unwritten(&e))?;
    let half = path.with_extension("new");
    let written = std::fs::File::create(&half).and_then(|mut file| file.write_all(text.as_bytes()).and_then(|()| file.sync_all()));
    written.and_then(|()| std::fs::rename(&half, path)).map_err(|e| unwritten(&e))
}
