//! What the supervisor and the runner say to each other, and how it is framed on the child's stdin and stdout.
//!
//! Both are programs of one release, started by one another, so postcard without evolution is enough here: the first notice
//! carries [`PROTOCOL`], and a supervisor that reads another number stops the child instead of guessing. Frames are a length
//! (u32, little-endian) and that many bytes; the child logs to stderr, so nothing else is ever on the pipe.
//!
//! Numbers of windows and capture batches are given by the *supervisor* ([`number`]): the runner counts its own from 0 and may
//! die at any moment; the supervisor raises its boot id durably before it speaks, so a number is never used for two contents.
//!
//! What stays true: decoding never panics and never holds more than [`MAX_FRAME`] bytes plus what was pushed at once.
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use leeway_protocol::assignment::{CapturePolicy, Windows};
use leeway_protocol::capture::CaptureBatch;
use leeway_protocol::digest::Digest;
use leeway_protocol::ids::BootId;
use leeway_protocol::reason::Reason;
use leeway_protocol::report::{Errors, WindowReport};
use leeway_protocol::reported::ShadowSummary;

use crate::confinement::Confinement;

/// The number of this conversation's form; raised with every change of the enums below.
pub const PROTOCOL: u32 = 4;

/// The longest frame: the largest window (some 70 KB) and the largest capture batch (256 KB) fit many times over.
pub const MAX_FRAME: usize = 4 << 20;

/// Bytes in front of a frame.
const PREFIX: usize = 4;

/// A place for a release on the device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Slot {
    /// One of the two that take turns.
    A,
    /// The other.
    B,
    /// What the device was delivered with.
    Factory,
}

/// What a loaded release is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Answers the application.
    Active,
    /// Is tested on its golden vectors and timed, then dropped; meant for a runner that is thrown away afterwards.
    Candidate,
    /// Runs on the same inputs as the active one and answers nobody.
    Shadow,
}

/// What the supervisor asks of the runner.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum RunnerCommand {
    /// Read, check, load, test and time a release; answered by [`RunnerNotice::Loaded`] or [`RunnerNotice::LoadFailed`].
    /// With [`Role::Active`] it answers the application from then on (an earlier active one serves until that moment).
    Load {
        /// Where it lies on the device; also its name in later commands.
        slot: Slot,
        /// What it is for.
        role: Role,
        /// The ONNX file.
        model_path: String,
        /// The manifest's exact bytes.
        manifest_path: String,
        /// The digest the manifest's bytes must have: the runner trusts what the supervisor verified, not the disk.
        manifest: Digest,
    },
    /// The shadow in this slot becomes the active one without a gap; its earlier self stays loaded until dropped.
    /// Answered by [`RunnerNotice::Activated`] or [`RunnerNotice::LoadFailed`].
    Activate {
        /// Which.
        slot: Slot,
    },
    /// Forget the release in this slot; its open window is sent first. Dropping the active one leaves nobody serving.
    Drop {
        /// Which.
        slot: Slot,
    },
    /// When windows close and what is captured, from now on.
    SetPolicy {
        /// Bounds of a window.
        windows: Windows,
        /// What rows may be kept.
        capture: CapturePolicy,
    },
    /// The truth about an earlier request arrived by way of the supervisor.
    Label {
        /// The request's number.
        request: u64,
        /// The class, or the value for a regression.
        label: f32,
    },
    /// Send every open window that holds anything now.
    CloseWindows,
    /// Send open windows and captured rows, then end.
    Stop,
}

/// What the runner tells the supervisor.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum RunnerNotice {
    /// The first notice of a child.
    Ready {
        /// [`PROTOCOL`] of the runner.
        protocol: u32,
        /// Its process id.
        pid: u32,
        /// Its version.
        version: String,
        /// Where the application asks for inferences: `127.0.0.1:8000`, `/run/leeway/agent.sock`; empty for a candidate's runner.
        listens: Vec<String>,
        /// How far it has confined itself; it has read no model yet.
        confinement: Confinement,
    },
    /// The release in this slot passed its golden vectors and is in its role now (a candidate is already dropped again).
    Loaded {
        /// Which slot.
        slot: Slot,
        /// For what.
        role: Role,
        /// What was found.
        proof: Proof,
    },
    /// It is not in its role; what served before serves on.
    LoadFailed {
        /// Which slot.
        slot: Slot,
        /// For what.
        role: Role,
        /// Why.
        reason: Reason,
    },
    /// The release in this slot answers the application now.
    Activated {
        /// Which.
        slot: Slot,
    },
    /// A window closed. Its number counts from 0 in this runner; the supervisor gives it the lasting one.
    Window(Box<WindowReport>),
    /// Rows for retraining; numbered likewise.
    Captured(CaptureBatch),
    /// The shadow run so far, at least every second while there is one.
    Shadow {
        /// The shadow's slot.
        slot: Slot,
        /// The comparison.
        summary: ShadowSummary,
    },
    /// Sign of life of the loop that serves, at least every second while a model is active; a runner that stays silent for
    /// longer than its limit hangs.
    Progress {
        /// The active slot.
        slot: Slot,
        /// Inferences answered since it became active in this runner.
        inferences: u64,
        /// Failures since then.
        errors: Errors,
    },
    /// Said by the supervisor's executor, never by the child: the child has ended.
    Exited {
        /// Exit status, if it ended by itself.
        code: Option<i32>,
        /// Signal, if it was ended by one.
        signal: Option<i32>,
    },
}

/// What loading a release found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proof {
    /// Digest of the manifest.
    pub manifest: Digest,
    /// Digest of the model's bytes, computed by the runner.
    pub model: Digest,
    /// Digest over the outputs this device computed for the golden vectors.
    pub golden: Digest,
    /// Reading to warmed up, milliseconds.
    pub load_ms: u64,
    /// Median of the timed runs, microseconds.
    pub p50_us: u64,
    /// 99th percentile of the timed runs, microseconds.
    pub p99_us: u64,
    /// Resident memory of the runner afterwards, bytes.
    pub rss_bytes: u64,
}

/// The lasting number of the `n`-th window or batch the supervisor accepted since it started: boot id in the upper half.
/// It rises over restarts and is never used twice, because the boot id is on disk before the first number is given.
pub fn number(boot: BootId, n: u32) -> u64 {
    boot.0 << 32 | u64::from(n)
}

/// A frame that cannot be sent or read; the conversation cannot go on after it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// Longer than the bound.
    #[error("a frame of {0} bytes is longer than the bound of {MAX_FRAME}: stop the runner, it is not of this release")]
    TooLong(usize),
    /// Not a message of this release.
    #[error("a frame is not a message this release knows: stop the runner, supervisor and runner must be of one release")]
    Unreadable,
}

/// One message as a frame.
pub fn encode<T: Serialize>(message: &T) -> Result<Vec<u8>, FrameError> {
    let frame = postcard::to_extend(message, vec![0; PREFIX]).map_err(|_| FrameError::Unreadable)?;
    let length = frame.len().saturating_sub(PREFIX);
    let prefix = u32::try_from(length).ok().filter(|_| length <= MAX_FRAME).ok_or(FrameError::TooLong(length))?;
    let mut frame = frame;
    for (to, from) in frame.iter_mut().zip(prefix.to_le_bytes()) {
        *to = from;
    }
    Ok(frame)
}

/// Bytes in, messages out; no I/O.
#[derive(Debug, Default)]
pub struct Decoder {
    bytes: Vec<u8>,
    start: usize,
}

impl Decoder {
    /// Add bytes as they were read.
    pub fn push(&mut self, bytes: &[u8]) {
        if self.start > 0 {
            self.bytes.drain(..self.start);
            self.start = 0;
        }
        self.bytes.extend_from_slice(bytes);
    }

    /// The next whole message, or `None` until more bytes are pushed.
    pub fn take<T: DeserializeOwned>(&mut self) -> Result<Option<T>, FrameError> {
        let waiting = self.bytes.get(self.start..).unwrap_or(&[]);
        let Some((prefix, rest)) = waiting.split_first_chunk::<PREFIX>() else { return Ok(None) };
        let length = u32::from_le_bytes(*prefix) as usize;
        if length > MAX_FRAME {
            return Err(FrameError::TooLong(length));
        }
        let Some(frame) = rest.get(..length) else { return Ok(None) };
        let (message, left) = postcard::take_from_bytes(frame).map_err(|_| FrameError::Unreadable)?;
        if !left.is_empty() {
            return Err(FrameError::Unreadable);
        }
        self.start += PREFIX + length;
        Ok(Some(message))
    }
}

#[cfg(test)]
mod tests {
    use leeway_protocol::reason::Code;

    use super::*;

    fn notices() -> Vec<RunnerNotice> {
        let reason = Reason::new(Code::GoldenMismatch, "output 0 off by 0.9");
        vec![
            RunnerNotice::Ready {
                protocol: PROTOCOL,
                pid: 7,
                version: "0.1.0".into(),
                listens: vec!["127.0.0.1:1".into()],
                confinement: Confinement::in_process(),
            },
            RunnerNotice::LoadFailed { slot: Slot::B, role: Role::Candidate, reason },
            RunnerNotice::Progress { slot: Slot::A, inferences: 9, errors: Errors::default() },
            RunnerNotice::Exited { code: None, signal: Some(9) },
        ]
    }

    #[test]
    fn messages_survive_any_cutting_of_the_stream() {
        let stream: Vec<u8> = notices().iter().flat_map(|n| encode(n).unwrap()).collect();
        for step in [1, 2, 3, 7, stream.len()] {
            let mut decoder = Decoder::default();
            let mut seen = Vec::new();
            for piece in stream.chunks(step) {
                decoder.push(piece);
                while let Some(notice) = decoder.take::<RunnerNotice>().unwrap() {
                    seen.push(notice);
                }
            }
            assert_eq!(seen, notices(), "step {step}");
        }
    }

    #[test]
    fn commands_survive_and_rubbish_is_refused() {
        let load = RunnerCommand::Load {
            slot: Slot::A,
            role: Role::Active,
            model_path: "blobs/00".into(),
            manifest_path: "blobs/01".into(),
            manifest: Digest::of(b"m"),
        };
        let mut decoder = Decoder::default();
        decoder.push(&encode(&load).unwrap());
        assert_eq!(decoder.take(), Ok(Some(load)));
        assert_eq!(decoder.take::<RunnerCommand>(), Ok(None));
        let table: [(&[u8], FrameError); 3] = [
            (&[255, 255, 255, 255], FrameError::TooLong(u32::MAX as usize)),
            (&[1, 0, 0, 0, 200], FrameError::Unreadable),
            (&[2, 0, 0, 0, 5, 5], FrameError::Unreadable),
        ];
        for (bytes, error) in table {
            let mut decoder = Decoder::default();
            decoder.push(bytes);
            assert_eq!(decoder.take::<RunnerCommand>(), Err(error));
        }
    }

    #[test]
    fn numbers_rise_over_restarts() {
        assert!(number(BootId(1), u32::MAX) < number(BootId(2), 0));
        assert!(number(BootId(2), 0) < number(BootId(2), 1));
    }
}
