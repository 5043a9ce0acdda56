//! One closed window: what one model did on one device between two moments, as exact counts.
//!
//! Identified by (device, model digest, window id), so duplicates and late arrivals change nothing. Postcard inside the signed
//! envelope; postcard has no evolution of its own, so the first byte names the form, and each is frozen by golden bytes.
use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::ids::WindowId;
use crate::manifest::CONFIDENCE_BINS;
use crate::profile::{Counts, MAX_FEATURES};
use crate::time::Timestamp;

mod form;
mod user;

use form::Form;
pub use user::{MAX_USER_METRICS, MAX_USER_NAME, MAX_USER_TRIALS, MILLION, UserMetric, UserMetricError, UserTotals, UserValue};

/// Buckets of the latency histogram: bucket i counts inferences of 2^i to 2^(i+1) nanoseconds; the last one everything above.
pub const LATENCY_BUCKETS: usize = 40;

/// The newest form this program writes, for those who want to know beforehand.
pub const NEWEST_FORM: u32 = 2;

/// Inferences that did not give an answer, by cause.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Errors {
    /// Refused inputs: wrong shape or type.
    pub rejected: u64,
    /// The runtime returned an error.
    pub failed: u64,
    /// The output held NaN or infinity.
    pub not_finite: u64,
    /// Over the time limit.
    pub timed_out: u64,
}

impl Errors {
    /// Errors that speak against the model (a refused input speaks against the application).
    pub fn against_model(&self) -> u64 {
        self.failed + self.not_finite + self.timed_out
    }
}

/// Labels that arrived in this window for decisions of this model (made in this window or before).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Labelled {
    /// Decisions with a label.
    pub rows: u64,
    /// Of these, right ones.
    pub correct: u64,
}

/// A closed window.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct WindowReport {
    /// Digest of the manifest, whose reference the counts refer to.
    pub manifest: Digest,
    /// Digest of the model.
    pub model: Digest,
    /// Number of this window at this device for this model.
    pub window: WindowId,
    /// First inference, device clock.
    pub opened_at: Timestamp,
    /// Closing moment, device clock.
    pub closed_at: Timestamp,
    /// Inferences served.
    pub inferences: u64,
    /// Of these, folded into the counts (fewer when the cost budget made the recorder sample).
    pub recorded: u64,
    /// Failures.
    pub errors: Errors,
    /// Latency histogram, [`LATENCY_BUCKETS`] long.
    pub latency: Vec<u32>,
    /// One entry per feature of the reference, in its order.
    pub features: Vec<Counts>,
    /// Lag-1 autocorrelation per feature, times 100, at least 0: tempers the evidence (n_eff = n (1-ρ)/(1+ρ)).
    pub rho_percent: Vec<u8>,
    /// Decisions by confidence bin.
    pub confidence: [u32; CONFIDENCE_BINS],
    /// Decisions by class (binary: two).
    pub classes: Vec<u32>,
    /// Labels by confidence bin.
    pub labelled: [Labelled; CONFIDENCE_BINS],
    /// Application time covered, if the application stamps its requests (simulated weather does): first and last.
    pub data_time: Option<(Timestamp, Timestamp)>,
    /// What the application told in this window about what this model did, at most [`MAX_USER_METRICS`].
    pub user: BTreeMap<UserMetric, UserTotals>,
}

/// A report that cannot be counted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReportError {
    /// Not the bytes of a known form.
    #[error("the report cannot be read: not a form this program knows, or cut off")]
    Unreadable,
    /// It does not add up.
    #[error("the report does not add up: {0}")]
    Inconsistent(&'static str),
}

/// The most classes counted apart.
pub const MAX_CLASSES: usize = 4096;

impl WindowReport {
    /// The bytes that are signed and sent.
    pub fn to_bytes(&self) -> Vec<u8> {
        postcard::to_stdvec(&Form::of(self.clone())).unwrap_or_default()
    }

    /// Read and check a report.
    pub fn parse(bytes: &[u8]) -> Result<Self, ReportError> {
        let (form, rest): (Form, _) = postcard::take_from_bytes(bytes).map_err(|_| ReportError::Unreadable)?;
        if !rest.is_empty() {
            return Err(ReportError::Unreadable);
        }
        let report = form.into_report();
        report.check()?;
        Ok(report)
    }

    fn check(&self) -> Result<(), ReportError> {
        let fail = |what| Err(ReportError::Inconsistent(what));
        if self.latency.len() != LATENCY_BUCKETS {
            return fail("the latency histogram has another number of buckets");
        }
        if self.features.len() > MAX_FEATURES || self.rho_percent.len() != self.features.len() || self.classes.len() > MAX_CLASSES {
            return fail("more features or classes than the bounds, or autocorrelations of another number");
        }
        if self.recorded > self.inferences {
            return fail("more inferences recorded than served");
        }
        if self.features.iter().any(|counts| counts.total() > self.recorded) {
            return fail("a feature was counted more often than inferences were recorded");
        }
        if self.confidence.iter().map(|&n| u64::from(n)).sum::<u64>() > self.inferences {
            return fail("more confidences than inferences");
        }
        if self.labelled.iter().any(|l| l.correct > l.rows) {
            return fail("more right labels than labels");
        }
        if self.user.len() > MAX_USER_METRICS {
            return fail("more user metrics than the bound");
        }
        if !self.user.values().all(UserTotals::adds_up) {
            return fail("a user metric without trials, with more than the bound, or with a sum above its trials");
        }
        Ok(())
    }

    /// Labels over all confidence bins.
    pub fn labels(&self) -> Labelled {
        self.labelled.iter().fold(Labelled::default(), |sum, l| Labelled { rows: sum.rows + l.rows, correct: sum.correct + l.correct })
    }

    /// The latency below which `share` of the inferences stayed, microseconds, from the upper edges of the buckets.
    pub fn latency_quantile_us(&self, share: f64) -> f64 {
        latency_quantile_us(&self.latency, share)
    }
}

/// The bucket of a latency in nanoseconds.
#[inline]
pub fn latency_bucket(nanos: u64) -> usize {
    (nanos.max(1).ilog2() as usize).min(LATENCY_BUCKETS - 1)
}

/// The latency below which `share` of the counted inferences stayed, microseconds, from the upper edges of the buckets.
pub fn latency_quantile_us(buckets: &[u32], share: f64) -> f64 {
    let total: u64 = buckets.iter().map(|&n| u64::from(n)).sum();
    let wanted = share.clamp(0.0, 1.0) * total as f64;
    let mut seen = 0.0;
    for (i, &n) in buckets.iter().enumerate() {
        seen += f64::from(n);
        if n > 0 && seen >= wanted {
            return 2f64.powi(i as i32 + 1) / 1000.0;
        }
    }
    0.0
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn report() -> WindowReport {
        let mut latency = vec![0; LATENCY_BUCKETS];
        latency[12] = 9;
        latency[20] = 1;
        WindowReport {
            manifest: Digest::of(b"manifest"),
            model: Digest::of(b"model"),
            window: WindowId(7),
            opened_at: Timestamp::from_secs(1_000),
            closed_at: Timestamp::from_secs(2_000),
            inferences: 10,
            recorded: 10,
            errors: Errors::default(),
            latency,
            features: vec![Counts(vec![0, 0, 1, 0, 0, 4, 5])],
            rho_percent: vec![80],
            confidence: [0, 0, 0, 0, 0, 1, 2, 3, 4, 0],
            classes: vec![6, 4],
            labelled: [Labelled { rows: 1, correct: 1 }; CONFIDENCE_BINS],
            data_time: None,
            user: BTreeMap::new(),
        }
    }

    fn with_user() -> WindowReport {
        let user = |name: &str, trials, sum_millionths| (name.parse().unwrap(), UserTotals { trials, sum_millionths });
        WindowReport { user: [user("pick_success", 40, 38_500_000), user("retry", 3, 0)].into(), ..report() }
    }

    #[test]
    fn the_wire_forms_are_frozen() {
        let bytes = report().to_bytes();
        assert_eq!(WindowReport::parse(&bytes), Ok(report()));
        assert_eq!(Digest::of(&bytes).short(), "45a23e91c4f4", "the wire form of V1 changed: add another instead ({} bytes)", bytes.len());
        let second = with_user().to_bytes();
        assert_eq!(WindowReport::parse(&second), Ok(with_user()));
        assert_eq!(Digest::of(&second).short(), "7d89281f6efe", "the wire form of V2 changed: add a V3 instead ({} bytes)", second.len());
        assert_eq!((bytes[0], second[0]), (0, 1), "an older controller reads what it always read where nothing is new");
        let tail = b"\x02\x0cpick_success\x28\xa0\xed\xad\x12\x05retry\x03\x00";
        assert_eq!(&second[bytes.len()..], tail, "the rest of V2 is that of V1");
        assert_eq!(second[1..bytes.len()], bytes[1..]);
    }

    #[test]
    fn reports_that_do_not_add_up_are_refused() {
        type Spoil = fn(&mut WindowReport);
        fn user(r: &mut WindowReport, name: &str, trials: u64, sum_millionths: u64) {
            r.user.insert(name.parse().unwrap(), UserTotals { trials, sum_millionths });
        }
        let table: [(&str, Spoil); 10] = [
            ("latency", |r| r.latency.truncate(3)),
            ("recorded", |r| r.recorded = 11),
            ("feature", |r| r.features[0].0[0] = 9),
            ("confidence", |r| r.confidence[0] = 9),
            ("labels", |r| r.labelled[0].correct = 2),
            ("a sum above its trials", |r| user(r, "retry", 3, 3_000_001)),
            ("no trials", |r| user(r, "retry", 0, 0)),
            ("trials beyond the bound", |r| user(r, "retry", MAX_USER_TRIALS + 1, 0)),
            ("a product beyond 64 bits", |r| user(r, "retry", u64::MAX, u64::MAX)),
            ("too many user metrics", |r| (0..MAX_USER_METRICS).for_each(|i| user(r, &format!("m{i}"), 1, 1))),
        ];
        for (name, spoil) in table {
            let mut bad = with_user();
            spoil(&mut bad);
            let refused = WindowReport::parse(&bad.to_bytes());
            assert!(matches!(refused, Err(ReportError::Inconsistent(_))), "{name}: {refused:?}");
        }
        let mut misnamed = with_user().to_bytes();
        let at = misnamed.len() - 3;
        assert_eq!(misnamed[at], b'y');
        misnamed[at] = b'Y';
        assert_eq!(WindowReport::parse(&misnamed), Err(ReportError::Unreadable));
        let good = report().to_bytes();
        assert_eq!(WindowReport::parse(&good[..good.len() - 1]), Err(ReportError::Unreadable));
        let longer: Vec<u8> = good.iter().copied().chain([0]).collect();
        assert_eq!(WindowReport::parse(&longer), Err(ReportError::Unreadable));
    }

    #[test]
    fn latency_quantiles_come_from_upper_edges() {
        assert_eq!(latency_bucket(0), 0);
        assert_eq!(latency_bucket(5_000), 12);
        assert_eq!(latency_bucket(u64::MAX), LATENCY_BUCKETS - 1);
        let report = report();
        assert!((report.latency_quantile_us(0.5) - 8.192).abs() < 1e-9);
        assert!((report.latency_quantile_us(0.99) - 2097.152).abs() < 1e-9);
    }
}
