//! Whether a device is in the fleet: who waits to be let in, who was refused, who was put out.
//!
//! A device that is not accepted belongs to no cohort, is told nothing, and what it says does not count. Being revoked is for good:
//! the key may be in other hands, so the way back is another key. What stays true: every state that keeps a device out carries
//! the sentence that the device, the operator and the audit trail read.
use leeway_protocol::ids::DeviceId;
use leeway_protocol::time::Timestamp;
use serde::{Deserialize, Serialize};

/// Certificates of a device that count at one time: the newest, and those before it whose successor may not have arrived.
const MAX_CERTIFICATES: usize = 4;

/// Whether a device is in.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "state")]
pub enum Admission {
    /// It is.
    #[default]
    Accepted,
    /// Nobody has said yet.
    Pending,
    /// Somebody said no.
    Refused(Dismissal),
    /// It was in, and its key counts no more.
    Revoked(Dismissal),
}

/// Who put a device out, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dismissal {
    /// When.
    pub at: Timestamp,
    /// Who.
    pub by: String,
    /// Why, as it was given.
    pub reason: String,
}

/// What a person decides about a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// Let it in.
    Accept,
    /// Do not let it in.
    Refuse,
    /// Put it out.
    Revoke,
}

/// A certificate that was given to a device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Certificate {
    /// Its serial number, in hex.
    pub serial: String,
    /// Its end.
    pub not_after: Timestamp,
}

/// A decision that does not fit.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Misfit(String);

impl Admission {
    /// Whether it is in.
    pub fn is_in(&self) -> bool {
        *self == Self::Accepted
    }

    /// In a word, if it is not in.
    pub fn word(&self) -> Option<&'static str> {
        match self {
            Self::Accepted => None,
            Self::Pending => Some("pending"),
            Self::Refused(_) => Some("not accepted"),
            Self::Revoked(_) => Some("revoked"),
        }
    }

    /// In a sentence, if it is not in.
    pub fn sentence(&self, device: &DeviceId) -> Option<String> {
        match self {
            Self::Accepted => None,
            Self::Pending => Some(format!("{device} waits to be accepted: `leeway device accept {device}` lets it in.")),
            Self::Refused(why) => Some(format!("{device} was not accepted into this fleet, by {}: {}", why.by, why.reason)),
            Self::Revoked(why) => Some(format!(
                "{device} was revoked on {}, by {}: {}. Its key counts no more; with another key it can be enrolled anew once it is removed here.",
                why.at,
                why.by,
                why.reason.trim_end_matches('.')
            )),
        }
    }

    /// What a decision leads to.
    pub fn after(&self, decision: Decision, device: &DeviceId, why: Dismissal) -> Result<Self, Misfit> {
        let misfit = |text: String| Err(Misfit(text));
        match (decision, self) {
            (_, Self::Revoked(_)) => misfit(format!(
                "{device} is revoked, and that is for good: `leeway device remove {device}`, then enrol it anew with another key"
            )),
            (Decision::Accept, Self::Accepted) => misfit(format!("{device} is accepted already")),
            (Decision::Accept, Self::Pending | Self::Refused(_)) => Ok(Self::Accepted),
            (Decision::Refuse, Self::Accepted) => misfit(format!("{device} is in the fleet: `leeway device revoke {device}` puts it out")),
            (Decision::Refuse, Self::Pending | Self::Refused(_)) => Ok(Self::Refused(why)),
            (Decision::Revoke, _) => Ok(Self::Revoked(why)),
        }
    }
}

/// Add a certificate to those that count; those that are over, and too old ones, count no more.
pub fn renewed(held: &[Certificate], new: Certificate, now: Timestamp) -> Vec<Certificate> {
    let mut all: Vec<Certificate> = held.iter().filter(|c| c.not_after > now).cloned().collect();
    all.push(new);
    let surplus = all.len().saturating_sub(MAX_CERTIFICATES);
    all.drain(..surplus);
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_out_is_told_why_and_a_revoked_key_never_comes_back() {
        let device: DeviceId = "station-7".parse().unwrap();
        let why = || Dismissal { at: Timestamp::from_secs(1), by: "ann".into(), reason: "stolen.".into() };
        let after = |from: &Admission, decision| from.after(decision, &device, why());
        let (pending, refused, revoked) = (Admission::Pending, Admission::Refused(why()), Admission::Revoked(why()));
        let table = [
            (Admission::Accepted, Decision::Accept, None),
            (Admission::Accepted, Decision::Refuse, None),
            (Admission::Accepted, Decision::Revoke, Some(revoked.clone())),
            (pending.clone(), Decision::Accept, Some(Admission::Accepted)),
            (pending.clone(), Decision::Refuse, Some(refused.clone())),
            (pending.clone(), Decision::Revoke, Some(revoked.clone())),
            (refused.clone(), Decision::Accept, Some(Admission::Accepted)),
            (refused.clone(), Decision::Revoke, Some(revoked.clone())),
            (revoked.clone(), Decision::Accept, None),
            (revoked.clone(), Decision::Refuse, None),
            (revoked.clone(), Decision::Revoke, None),
        ];
        for (from, decision, expected) in table {
            assert_eq!(after(&from, decision).ok(), expected, "{from:?} {decision:?}");
        }
        for (out, says) in [(&pending, "device accept station-7"), (&refused, "by ann: stolen"), (&revoked, "by ann: stolen. Its key")] {
            assert!(out.sentence(&device).unwrap().contains(says), "{:?}", out.sentence(&device));
            assert!(!out.is_in() && out.word().is_some());
        }
        assert_eq!(Admission::default().sentence(&device), None);
        let text = serde_json::to_string(&revoked).unwrap();
        assert_eq!(serde_json::from_str::<Admission>(&text).unwrap(), revoked);
    }

    #[test]
    fn few_certificates_count_and_none_that_is_over() {
        let one = |n: i64| Certificate { serial: n.to_string(), not_after: Timestamp::from_secs(n) };
        let mut held = Vec::new();
        for n in 10..20 {
            held = renewed(&held, one(n), Timestamp::from_secs(0));
        }
        assert_eq!(held.iter().map(|c| c.serial.as_str()).collect::<Vec<_>>(), ["16", "17", "18", "19"]);
        assert_eq!(renewed(&held, one(30), Timestamp::from_secs(18)), [one(19), one(30)]);
    }
}
