//! Why something did not happen: one closed list of codes, each with a sentence for people.
//!
//! The same code and sentence appear in the device's report, the log, the dashboard, the command line and the audit trail.
//! Codes are sent by name, so an old controller shows a new code instead of failing on it.
use std::fmt;

use serde::{Deserialize, Serialize};

macro_rules! codes {
    ($($(#[$doc:meta])* $code:ident = $text:literal, $sentence:literal;)*) => {
        /// Why a device refused or gave back a release.
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(from = "String", into = "String")]
        pub enum Code {
            $($(#[$doc])* $code,)*
            /// A code this program does not know, from a newer peer.
            Other(String),
        }

        impl Code {
            /// The code as it is written.
            pub fn as_str(&self) -> &str {
                match self {
                    $(Self::$code => $text,)*
                    Self::Other(text) => text,
                }
            }

            /// What it means and what follows, in a sentence.
            pub fn sentence(&self) -> &str {
                match self {
                    $(Self::$code => $sentence,)*
                    Self::Other(_) => "The device gave a reason that this program does not know; update it to read the text.",
                }
            }
        }

        impl From<String> for Code {
            fn from(text: String) -> Self {
                match text.as_str() {
                    $($text => Self::$code,)*
                    _ => Self::Other(text.chars().take(60).collect()),
                }
            }
        }
    };
}

codes! {
    /// A signature is missing, wrong, or by a key that may not sign this.
    SignatureInvalid = "signature-invalid", "The release or its assignment is not signed by the keys this device trusts, so it was refused.";
    /// The bytes are not the signed bytes.
    DigestMismatch = "digest-mismatch", "The downloaded bytes are not the bytes that were signed (digest differs), so they were discarded.";
    /// More or fewer bytes than signed.
    LengthMismatch = "length-mismatch", "The download has another length than the signed one, so it was discarded.";
    /// The offline-signed repository does not list it.
    NotListed = "not-listed", "The assignment names a model that the offline-signed repository does not list, so it was refused.";
    /// Taken back by an offline signature.
    Revoked = "revoked", "This model was revoked by an offline signature, so it does not run any more.";
    /// Below the signed floor.
    BelowFloor = "below-floor", "This model is older than the signed floor of its line, so it was refused.";
    /// Metadata too old to trust for an install.
    MetadataExpired = "metadata-expired", "The signed metadata has expired, so nothing new is installed; the running model goes on.";
    /// Metadata versions went down or do not fit together.
    MetadataRollback = "metadata-rollback", "The metadata offered is older than what this device has already accepted, so it was refused.";
    /// Metadata could not be fetched.
    MetadataUnavailable = "metadata-unavailable", "The signed metadata could not be fetched; the device tries again.";
    /// The manifest cannot be used.
    ManifestInvalid = "manifest-invalid", "The release's manifest cannot be read or does not add up, so it was refused.";
    /// Inputs or outputs differ from those granted.
    IoMismatch = "io-mismatch", "The model has other inputs or outputs than this line was granted, so it was refused.";
    /// The file is not a model this runtime runs.
    PrescanRefused = "prescan-refused", "The model file uses something this runtime does not run or does not allow, so it was refused before loading.";
    /// It did not load.
    LoadFailed = "load-failed", "The model did not load on this device.";
    /// Its outputs on the golden vectors are wrong.
    GoldenMismatch = "golden-mismatch", "The model gave other outputs than the signed golden vectors on this device, so it was not activated.";
    /// Slower than its signed limit.
    TooSlow = "too-slow", "The model is slower on this device than its signed limit.";
    /// More memory than its signed limit.
    TooMuchMemory = "too-much-memory", "The model needs more memory on this device than its signed limit.";
    /// The runner died with it.
    Crashed = "crashed", "The runner crashed repeatedly with this model, so the device went back to the last known good one.";
    /// It stopped answering.
    Hung = "hung", "The model stopped answering within its time limit, so the device went back to the last known good one.";
    /// NaN or infinite outputs.
    OutputNotFinite = "output-not-finite", "The model gave outputs that are not numbers, so the device went back to the last known good one.";
    /// Errors while serving.
    InferenceErrors = "inference-errors", "Too many inferences failed with this model, so the device went back to the last known good one.";
    /// Differs too much from the active model in the shadow run.
    ShadowDiverged = "shadow-diverged", "Beside the active model, the new one decided differently too often, so it was not activated.";
    /// No room.
    DiskFull = "disk-full", "There is not enough disk space for the release; free some, and the device tries again.";
    /// The disk failed.
    DiskFailed = "disk-failed", "The disk refused to write or read; the previous model goes on.";
    /// The download did not complete.
    DownloadFailed = "download-failed", "The download did not complete after the allowed tries; the device tries again later.";
    /// Already tried and failed under this assignment.
    AlreadyFailed = "already-failed", "This release already failed on this device under the same assignment; a new assignment is needed to try again.";
    /// Not for this device, or an older generation.
    AssignmentStale = "assignment-stale", "The assignment is older than the one already followed, or is meant for another device, so it was ignored.";
    /// Outside its maintenance window.
    MaintenanceWindow = "maintenance-window", "The device waits for its maintenance window to open before it begins.";
    /// No clock to tell whether the maintenance window is open.
    ClockUntrusted = "clock-untrusted", "The device's clock cannot be trusted, so it cannot tell whether its maintenance window is open.";
    /// A newer assignment came before this one was complete.
    Superseded = "superseded", "A newer assignment came before this one was complete.";
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl From<Code> for String {
    fn from(code: Code) -> String {
        code.as_str().to_owned()
    }
}

/// A code with what was seen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reason {
    /// Which reason.
    pub code: Code,
    /// What was seen, with names and figures; may be empty.
    #[serde(default)]
    pub detail: String,
}

/// The longest detail that is kept and sent.
pub const MAX_DETAIL: usize = 400;

impl Reason {
    /// A reason with its detail, cut to [`MAX_DETAIL`] characters.
    pub fn new(code: Code, detail: impl fmt::Display) -> Self {
        Self { code, detail: detail.to_string().chars().take(MAX_DETAIL).collect() }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.code.sentence())?;
        if self.detail.is_empty() { Ok(()) } else { write!(f, " ({})", self.detail) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_travel_by_name_and_unknown_ones_survive() {
        let reason = Reason::new(Code::GoldenMismatch, "output 0 off by 0.9");
        let json = serde_json::to_string(&reason).unwrap();
        assert!(json.contains("golden-mismatch"));
        assert_eq!(serde_json::from_str::<Reason>(&json).unwrap(), reason);
        let new: Code = serde_json::from_str("\"from-the-future\"").unwrap();
        assert_eq!(serde_json::to_string(&new).unwrap(), "\"from-the-future\"");
        assert!(reason.to_string().ends_with("(output 0 off by 0.9)"));
    }
}
