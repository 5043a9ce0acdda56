//! Devices as the API shows them.
use leeway_protocol::assignment::Intent;
use leeway_protocol::ids::DeviceId;
use leeway_protocol::reported::Phase;

use super::Facts;
use crate::fleet::Admission;
use crate::io::web::resource::device::{DesiredInfo, Device, DeviceSummary, RunningInfo, Span};
use crate::io::web::resource::drift::DeviceDrift;
use crate::io::web::resource::event::Event;
use crate::io::web::resource::{Condition, Level};
use crate::io::web::words::{self, capital};

impl Facts<'_> {
    /// One device in a list.
    pub(in crate::io::web) fn device_summary(&self, device: &crate::fleet::Device) -> DeviceSummary {
        let active = device.active();
        let wanted = device.desired.as_ref().and_then(|d| d.version.as_ref());
        let phase = device.reported.as_ref().map(|r| r.phase);
        let online = device.presence.online;
        DeviceSummary {
            id: device.id.to_string(),
            cohort: self.cohort_name(device),
            labels: device.labels.clone(),
            admitted: device.admission.is_in(),
            online,
            last_seen: device.presence.last_seen,
            line: active.map(|r| r.line.to_string()),
            version: active.map(|r| r.version.to_string()),
            target_version: wanted.filter(|w| active.is_none_or(|a| a.version != **w)).map(ToString::to_string),
            phase: device.admission.word().unwrap_or_else(|| phase_word(phase)).to_owned(),
            level: standing(device).unwrap_or_else(|| level(phase, online)),
            sentence: self.sentence(device),
        }
    }

    fn sentence(&self, device: &crate::fleet::Device) -> String {
        if let Some(sentence) = device.admission.sentence(&device.id).or_else(|| device.twin.clone()) {
            return sentence;
        }
        let Some(reported) = &device.reported else {
            return "Enrolled, but has not reported yet.".to_owned();
        };
        let away = match device.presence.changed_at.filter(|_| !device.presence.online) {
            Some(at) => format!(" Not connected since {}.", words::ago(self.now, at).trim_end_matches(" ago")),
            None => String::new(),
        };
        match &reported.reason {
            Some(reason) => format!("{}: {reason}{away}", capital(reported.phase.sentence())),
            None => format!("{}.{away}", capital(reported.phase.sentence())),
        }
    }

    /// One device, whole.
    pub(in crate::io::web) fn device_detail(&self, id: &DeviceId, events: Vec<Event>, drift: Vec<DeviceDrift>) -> Option<Device> {
        let device = self.device(id)?;
        let device = device.as_ref();
        let reported = device.reported.as_ref();
        Some(Device {
            summary: self.device_summary(device),
            enrolled_at: device.enrolled_at,
            public_key: device.public_key.clone(),
            agent: reported.map_or_else(|| device.presence.agent.clone(), |r| r.agent.clone()),
            running: device.active().map(running),
            desired: device.desired.as_ref().map(desired),
            generation: reported.map_or(0, |r| r.generation.0),
            last_known_good: reported.and_then(|r| r.last_known_good).map(|d| d.to_string()),
            reason: reported.and_then(|r| r.reason.as_ref()).map(ToString::to_string),
            conditions: identity(device).into_iter().chain(reported.map(conditions).unwrap_or_default()).collect(),
            outbox: reported.map_or(0, |r| r.outbox),
            dropped: reported.map_or(0, |r| r.dropped),
            clock_skew_ms: skew(device),
            drift,
            timeline: timeline(device),
            events,
        })
    }
}

/// How to read a device that is not in, or not alone.
fn standing(device: &crate::fleet::Device) -> Option<Level> {
    match device.admission {
        Admission::Pending => Some(Level::Warn),
        Admission::Refused(_) | Admission::Revoked(_) => Some(Level::Bad),
        Admission::Accepted => device.twin.as_ref().map(|_| Level::Bad),
    }
}

/// What the controller itself knows about who the device is.
fn identity(device: &crate::fleet::Device) -> Vec<Condition> {
    let said = |kind: &str, holds, message: String| Condition { kind: kind.to_owned(), holds: Some(holds), message };
    let out = device.admission.sentence(&device.id).map(|sentence| said("Admitted", false, sentence));
    let twin = device.twin.clone().map(|sentence| said("AloneWithItsKey", false, sentence));
    let certificate =
        device.certificates.last().map(|c| said("Certified", true, format!("Its certificate is good until {}.", c.not_after)));
    out.into_iter().chain(twin).chain(certificate).collect()
}

fn phase_word(phase: Option<Phase>) -> &'static str {
    match phase {
        None => "enrolled",
        Some(Phase::Idle) => "idle",
        Some(Phase::Waiting) => "waiting",
        Some(Phase::Fetching) => "fetching",
        Some(Phase::Staged) => "staged",
        Some(Phase::SelfTesting) => "self-testing",
        Some(Phase::Shadowing) => "shadowing",
        Some(Phase::Probation) => "on trial",
        Some(Phase::Committed) => "committed",
        Some(Phase::Reverted) => "reverted",
        Some(Phase::Refused) => "refused",
        Some(Phase::Unknown) => "unknown",
    }
}

fn level(phase: Option<Phase>, online: bool) -> Level {
    match phase {
        Some(Phase::Reverted | Phase::Refused) => Level::Bad,
        _ if !online => Level::Warn,
        Some(Phase::Idle | Phase::Committed) => Level::Ok,
        None | Some(Phase::Unknown) => Level::Idle,
        Some(_) => Level::Busy,
    }
}

fn running(r: &leeway_protocol::reported::Running) -> RunningInfo {
    RunningInfo {
        line: r.line.to_string(),
        version: r.version.to_string(),
        manifest: r.manifest.to_string(),
        model: r.model.to_string(),
        since: r.since,
        inferences: r.inferences,
        golden: r.golden.map(|d| d.to_string()),
    }
}

fn desired(d: &crate::fleet::DesiredRecord) -> DesiredInfo {
    let intent = match d.intent {
        Intent::Install => "install",
        Intent::Rollback => "rollback",
        Intent::Hold => "hold",
    };
    DesiredInfo {
        generation: d.generation.0,
        intent: intent.to_owned(),
        version: d.version.as_ref().map(ToString::to_string),
        rollout: d.rollout.as_ref().map(ToString::to_string),
        reason: d.reason.clone(),
        at: Some(d.issued_at),
    }
}

fn conditions(reported: &leeway_protocol::reported::Reported) -> Vec<Condition> {
    reported.conditions.iter().map(|c| Condition { kind: c.kind.clone(), holds: Some(c.holds), message: capital(&c.message) }).collect()
}

/// The device's clock against ours, as far as the last report tells: it was sent a little before it was seen.
fn skew(device: &crate::fleet::Device) -> Option<i64> {
    let (said, seen) = (device.reported.as_ref()?.at, device.presence.last_seen?);
    let ahead = said.millis_since(seen);
    // A report that was made long before it came says nothing about the clock; one from the future does.
    Some(if ahead > 0 || device.presence.online { ahead } else { 0 })
}

/// What ran when, and whether it was there.
fn timeline(device: &crate::fleet::Device) -> Vec<Span> {
    let runs = device.runs.iter().map(|run| Span {
        from: run.from,
        to: run.to,
        lane: "model".to_owned(),
        label: format!("{} {}", run.line, run.version),
        level: Level::Ok,
        sentence: run.why.clone(),
    });
    let presence = device.presence.changed_at.map(|at| {
        let (label, level) = if device.presence.online { ("online", Level::Ok) } else { ("offline", Level::Warn) };
        Span {
            from: at,
            to: None,
            lane: "connection".to_owned(),
            label: label.to_owned(),
            level,
            sentence: format!("{} since then.", capital(label)),
        }
    });
    runs.chain(presence).collect()
}
