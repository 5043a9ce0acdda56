//! The forms a report has had on the wire, oldest first; a form that was ever sent is never changed again.
//!
//! A device that has nothing to say beyond an older form goes on sending that one, so that a controller which does not know the
//! newer one loses nothing. What stays true: every report is written in the oldest form that holds all of it.
use super::*;

/// The forms that exist. Append only.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Form {
    V1(Box<V1>),
    /// With user metrics. Its layout is that of [`WindowReport`], until there is a V3.
    V2(Box<WindowReport>),
}

/// A report without user metrics, frozen.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct V1 {
    manifest: Digest,
    model: Digest,
    window: WindowId,
    opened_at: Timestamp,
    closed_at: Timestamp,
    inferences: u64,
    recorded: u64,
    errors: Errors,
    latency: Vec<u32>,
    features: Vec<Counts>,
    rho_percent: Vec<u8>,
    confidence: [u32; CONFIDENCE_BINS],
    classes: Vec<u32>,
    labelled: [Labelled; CONFIDENCE_BINS],
    data_time: Option<(Timestamp, Timestamp)>,
}

impl Form {
    pub(super) fn of(report: WindowReport) -> Self {
        if report.user.is_empty() { Self::V1(Box::new(V1::of(report))) } else { Self::V2(Box::new(report)) }
    }

    pub(super) fn into_report(self) -> WindowReport {
        match self {
            Self::V1(report) => report.into_report(),
            Self::V2(report) => *report,
        }
    }
}

impl V1 {
    fn of(report: WindowReport) -> Self {
        Self {
            manifest: report.manifest,
            model: report.model,
            window: report.window,
            opened_at: report.opened_at,
            closed_at: report.closed_at,
            inferences: report.inferences,
            recorded: report.recorded,
            errors: report.errors,
            latency: report.latency,
            features: report.features,
            rho_percent: report.rho_percent,
            confidence: report.confidence,
            classes: report.classes,
            labelled: report.labelled,
            data_time: report.data_time,
        }
    }

    fn into_report(self) -> WindowReport {
        WindowReport {
            manifest: self.manifest,
            model: self.model,
            window: self.window,
            opened_at: self.opened_at,
            closed_at: self.closed_at,
            inferences: self.inferences,
            recorded: self.recorded,
            errors: self.errors,
            latency: self.latency,
            features: self.features,
            rho_percent: self.rho_percent,
            confidence: self.confidence,
            classes: self.classes,
            labelled: self.labelled,
            data_time: self.data_time,
            user: BTreeMap::new(),
        }
    }
}
