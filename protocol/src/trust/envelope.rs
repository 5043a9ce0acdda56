//! What travels between a device and the controller outside TUF: a body, who says it, in which order, and a signature over all.
//!
//! The broker need not be trusted: a message counts for the device whose key signed it, whatever topic or client it came by.
//! Signed is the DSSE pre-authentication encoding of the *received* bytes, so nothing is re-encoded before it is checked, and
//! the payload type in it keeps one kind of message from passing as another. Wire form: one format byte, the payload in
//! postcard, 64 bytes of signature.
//!
//! What stays true: [`Verified`] is the only way from received bytes to a value, and only [`open`] and [`open_by_role`] make
//! one. Order is judged apart from the signature, by [`ReplayGuard`].
use std::ops::Deref;

use serde::{Deserialize, Serialize};

use super::keyring::{PublicKey, Signature, SigningKey};
use super::metadata::KeySet;
use crate::ids::{BootId, DeviceId};
use crate::topic::Channel;

mod replay;
pub use replay::{Freshness, REPLAY_WINDOW, ReplayGuard, Replayed};

/// The longest envelope: a window of a model with many features is a few kilobytes, a batch of captured rows is cut to fit.
pub const MAX_ENVELOPE_BYTES: usize = 256 << 10;

/// The first byte; a new wire form takes a new one.
const FORMAT_V1: u8 = 1;
const SIGNATURE_BYTES: usize = 64;

/// What a body is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Kind {
    /// Birth, or the last will. The will is sealed *after* the birth, so that it is the newer of the two when it comes.
    Status,
    /// Reported state.
    Reported,
    /// A closed window.
    Window,
    /// Captured rows.
    Capture,
    /// A device's event.
    Event,
    /// What the controller has stored; the one kind that goes down, signed by the director.
    Receipt,
}

impl Kind {
    /// Every kind.
    pub const ALL: [Self; 6] = [Self::Status, Self::Reported, Self::Window, Self::Capture, Self::Event, Self::Receipt];

    /// The kind that a channel carries; the desired state has a form of its own ([`super::director`]).
    pub fn of(channel: Channel) -> Option<Self> {
        match channel {
            Channel::Status => Some(Self::Status),
            Channel::Reported => Some(Self::Reported),
            Channel::Window => Some(Self::Window),
            Channel::Capture => Some(Self::Capture),
            Channel::Event => Some(Self::Event),
            Channel::Receipt => Some(Self::Receipt),
            Channel::Desired => None,
        }
    }

    /// The payload type that is signed.
    pub fn payload_type(self) -> &'static str {
        match self {
            Self::Status => "application/vnd.leeway.status.v1+json",
            Self::Reported => "application/vnd.leeway.reported.v1+json",
            Self::Window => "application/vnd.leeway.window.v1+postcard",
            Self::Capture => "application/vnd.leeway.capture.v1+postcard",
            Self::Event => "application/vnd.leeway.event.v1+json",
            Self::Receipt => "application/vnd.leeway.receipt.v1+json",
        }
    }

    /// Whether only the latest counts, so that an older one is an error; the others may come late and twice.
    pub fn is_state_like(self) -> bool {
        matches!(self, Self::Status | Self::Reported)
    }

    /// Its number on the wire; never reused.
    fn code(self) -> u8 {
        match self {
            Self::Status => 1,
            Self::Reported => 2,
            Self::Window => 3,
            Self::Capture => 4,
            Self::Event => 5,
            Self::Receipt => 6,
        }
    }
}

/// The payload as version 1 writes it. Frozen: the test at the end has its bytes.
#[derive(Serialize, Deserialize)]
struct PayloadV1<'a> {
    kind: u8,
    #[serde(borrow)]
    device: &'a str,
    boot: u64,
    counter: u64,
    #[serde(borrow)]
    body: &'a [u8],
}

/// An opened envelope.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Opened {
    /// The device that says it, or, in a receipt, that it is meant for.
    pub device: DeviceId,
    /// The start of the program that sealed it.
    pub boot: BootId,
    /// Its order within that start.
    pub counter: u64,
    /// What the body is.
    pub kind: Kind,
    /// The body; still to be decoded, with its own bounds.
    pub body: Vec<u8>,
}

/// Why an envelope was not sealed or not opened.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EnvelopeError {
    /// Beyond [`MAX_ENVELOPE_BYTES`].
    #[error("the message has {0} bytes, the bound is {MAX_ENVELOPE_BYTES}")]
    TooLong(usize),
    /// A format this program does not know.
    #[error("the message has format {0}, this program reads format {FORMAT_V1}: update it")]
    Format(u8),
    /// Not an envelope.
    #[error("the message is not an envelope of this format")]
    Unreadable,
    /// Another kind than its topic carries.
    #[error("the message says it is kind {got}, but its topic carries {expected}")]
    OtherKind {
        /// What the topic carries.
        expected: &'static str,
        /// The code it says.
        got: u8,
    },
    /// Another device than its topic names.
    #[error("the message says it is from or for device {got}, but its topic names {expected}")]
    OtherDevice {
        /// The device the topic names.
        expected: DeviceId,
        /// The device it says.
        got: String,
    },
    /// The signature is not by the expected key.
    #[error("the signature is not by the key that is known for {0}: the message was altered, or somebody else sent it")]
    Signature(DeviceId),
}

/// A value whose origin was checked. Made only by [`open`] and [`open_by_role`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verified<T> {
    value: T,
}

impl<T> Verified<T> {
    /// The value.
    pub fn into_inner(self) -> T {
        self.value
    }

    /// The value, turned into another: decoding a body.
    pub fn map<U>(self, turn: impl FnOnce(T) -> U) -> Verified<U> {
        Verified { value: turn(self.value) }
    }

    /// The same, where decoding can fail.
    pub fn try_map<U, E>(self, turn: impl FnOnce(T) -> Result<U, E>) -> Result<Verified<U>, E> {
        turn(self.value).map(|value| Verified { value })
    }
}

impl<T> Deref for Verified<T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.value
    }
}

/// The DSSE 1.0.2 pre-authentication encoding: what is signed in place of `body`, so that no signature fits two types.
pub fn pae(payload_type: &str, body: &[u8]) -> Vec<u8> {
    let mut bytes = format!("DSSEv1 {} {payload_type} {} ", payload_type.len(), body.len()).into_bytes();
    bytes.extend_from_slice(body);
    bytes
}

/// Seal one message. `(boot, counter)` must never have been used before with this key: the device makes `boot` durable first.
pub fn seal(key: &SigningKey, device: &DeviceId, boot: BootId, counter: u64, kind: Kind, body: &[u8]) -> Result<Vec<u8>, EnvelopeError> {
    let payload = PayloadV1 { kind: kind.code(), device: device.as_str(), boot: boot.0, counter, body };
    let payload = postcard::to_stdvec(&payload).map_err(|_| EnvelopeError::Unreadable)?;
    let len = 1 + payload.len() + SIGNATURE_BYTES;
    if len > MAX_ENVELOPE_BYTES {
        return Err(EnvelopeError::TooLong(len));
    }
    let signature = key.sign(&pae(kind.payload_type(), &payload));
    let mut bytes = Vec::with_capacity(len);
    bytes.push(FORMAT_V1);
    bytes.extend_from_slice(&payload);
    bytes.extend_from_slice(signature.as_bytes());
    Ok(bytes)
}

/// Open a message that came by the topic of `device` for `kind`, if `key` signed it.
pub fn open(bytes: &[u8], device: &DeviceId, kind: Kind, key: &PublicKey) -> Result<Verified<Opened>, EnvelopeError> {
    open_with(bytes, device, kind, |message, signature| key.verifies(message, signature))
}

/// The same for a message from the controller: signed by any key of a role, such as the director's
/// (`director_root.keys_of("targets")`).
pub fn open_by_role(bytes: &[u8], device: &DeviceId, kind: Kind, keys: &KeySet<'_>) -> Result<Verified<Opened>, EnvelopeError> {
    open_with(bytes, device, kind, |message, signature| keys.iter().any(|key| key.verifies(message, signature)))
}

fn open_with(
    bytes: &[u8],
    device: &DeviceId,
    kind: Kind,
    verifies: impl FnOnce(&[u8], &Signature) -> bool,
) -> Result<Verified<Opened>, EnvelopeError> {
    if bytes.len() > MAX_ENVELOPE_BYTES {
        return Err(EnvelopeError::TooLong(bytes.len()));
    }
    let (&format, rest) = bytes.split_first().ok_or(EnvelopeError::Unreadable)?;
    if format != FORMAT_V1 {
        return Err(EnvelopeError::Format(format));
    }
    let (payload, signature) = rest.split_last_chunk::<SIGNATURE_BYTES>().ok_or(EnvelopeError::Unreadable)?;
    let (read, left) = postcard::take_from_bytes::<PayloadV1<'_>>(payload).map_err(|_| EnvelopeError::Unreadable)?;
    if !left.is_empty() {
        return Err(EnvelopeError::Unreadable);
    }
    if read.kind != kind.code() {
        return Err(EnvelopeError::OtherKind { expected: kind.payload_type(), got: read.kind });
    }
    if read.device != device.as_str() {
        let got = read.device.chars().take(40).collect();
        return Err(EnvelopeError::OtherDevice { expected: device.clone(), got });
    }
    if !verifies(&pae(kind.payload_type(), payload), &Signature::from_bytes(*signature)) {
        return Err(EnvelopeError::Signature(device.clone()));
    }
    let (boot, counter, body) = (BootId(read.boot), read.counter, read.body.to_vec());
    Ok(Verified { value: Opened { device: device.clone(), boot, counter, kind, body } })
}

#[cfg(test)]
mod tests;
