//! What comes back, of full devices and of odd ones, and how little they take.
use leeway_protocol::assignment::Intent;
use leeway_protocol::reason::Code;

use super::super::admission::Dismissal;
use super::super::{Arm, DeviceSettings, Fleet};
use super::*;
use crate::planner::tests::world::name;

fn at(secs: i64) -> Timestamp {
    Timestamp::from_secs(1_800_000_000 + secs)
}

/// A device with something in every field.
fn full(n: i64) -> Device {
    let labels = [("region", "coast"), ("hw", "rev-2"), ("firmware", "4.1")].map(|(k, v)| (k.to_owned(), v.to_owned())).into();
    let mut device = Device::new(name(&format!("station-{n:05}")), Digest::of(&n.to_le_bytes()).hex(), labels, at(n));
    let serial = Digest::of(&n.to_be_bytes()).hex()[..40].to_owned();
    device.certificates = vec![Certificate { serial, not_after: at(90_000 + n) }];
    device.credential = Some(Digest::of(b"secret"));
    let (session, agent) = (n.unsigned_abs() * 7_919, "0.1.0".to_owned());
    device.presence =
        crate::fleet::Presence { online: true, session, last_seen: Some(at(9)), changed_at: Some(at(3)), agent, ..Default::default() };
    device.presence.contact.note(false, true, at(3));
    device.desired = Some(DesiredRecord {
        generation: Generation(7),
        intent: Intent::Install,
        line: Some(name("rain")),
        version: Some(name("2")),
        manifest: Some(Digest::of(b"manifest")),
        rollout: Some(name("r2")),
        reason: "Install rain 2 for rollout r2, stage 1 of 3 (canary).".to_owned(),
        issued_at: at(4),
        settings: DeviceSettings { spread_ms: 30_000, ..DeviceSettings::default() },
    });
    device.observe(reported(n), at(5));
    device
}

fn reported(n: i64) -> Reported {
    let condition = |kind: &str, message: &str| Condition { kind: kind.to_owned(), holds: true, message: message.to_owned() };
    let active = Running {
        line: name("rain"),
        version: name("2"),
        manifest: Digest::of(b"manifest"),
        model: Digest::of(b"model"),
        since: at(n),
        inferences: 123_456 + n.unsigned_abs(),
        golden: Some(Digest::of(b"golden")),
    };
    Reported {
        v: 1,
        generation: Generation(7),
        rollout: Some(name("r2")),
        phase: Phase::Committed,
        reason: None,
        active: Some(active),
        last_known_good: Some(Digest::of(b"manifest")),
        shadow: None,
        conditions: vec![
            condition("ModelVerified", "the model that answers matched its golden vectors on this device"),
            condition("InferenceHealthy", "no inference failed since the model was loaded"),
            condition("MetadataFresh", "the signed metadata is fresh"),
            condition("ClockSane", "the clock agrees with what was signed"),
            condition("TelemetryFlowing", "no message was given up"),
            condition("CertificateGood", &format!("certificate until {}; obtained {}", at(90_000 + n), at(n))),
        ],
        trusted: TrustedVersions { root: 1, timestamp: 400, snapshot: 12, targets: 3 },
        agent: "0.1.0".to_owned(),
        boot: BootId(3),
        outbox: 0,
        dropped: 0,
        at: at(n),
    }
}

fn part() -> Part {
    let (exposed_at, proven_at) = (Some(at(6)), None);
    let failure = Some(Reason::new(Code::Other("from-the-future".to_owned()), "no room"));
    Part {
        rollout: name("r2"),
        arm: Arm::Canary,
        stage: 1,
        at: at(4),
        attempts: 2,
        exposed_at,
        proven_at,
        failure,
        failed_at: Some(at(7)),
        deferred_at: Some(at(5)),
        proof_inferences: 20,
        recalled: true,
    }
}

fn odd() -> Vec<Device> {
    let edits: [fn(&mut Device); 12] = [
        |_| {},
        |d| (d.reported, d.desired, d.runs) = (None, None, Vec::new()),
        |d| d.public_key = "not hex".to_owned(),
        |d| d.public_key = "ABCDEF".to_owned(),
        |d| d.certificates.push(Certificate { serial: "odd".to_owned(), not_after: at(0) }),
        |d| d.admission = Admission::Pending,
        |d| d.admission = Admission::Revoked(Dismissal { at: at(1), by: "ann".to_owned(), reason: "stolen".to_owned() }),
        |d| (d.twin, d.credential, d.retry) = (Some("Two.".to_owned()), None, true),
        |d| d.part = Some(part()),
        |d| (d.presence.last_seen, d.presence.online, d.presence.changed_at) = (None, false, None),
        |d| d.desired.as_mut().unwrap().settings.probation.max_error_ratio = 0.1 + 0.2,
        |d| {
            let reported = d.reported.as_mut().unwrap();
            reported.shadow = Some(ShadowSummary { compared: 9, disagreed: 1, p50_us: 2, p99_us: 3 });
            (reported.phase, reported.active, reported.reason) = (Phase::Unknown, None, Some(Reason::new(Code::Crashed, "3 starts")));
        },
    ];
    edits.into_iter().zip(0..).map(|(edit, n)| (full(n), edit)).map(|(mut device, edit)| (edit(&mut device), device).1).collect()
}

#[test]
fn what_is_packed_comes_back() {
    let words = Words::default();
    for device in odd() {
        let bytes = pack(&device, &words).unwrap_or_else(|| panic!("it cannot be packed: {device:?}"));
        assert_eq!(unpack(&device.id, &bytes, &words).as_ref(), Some(&device));
        let glance = glance(device.id.clone(), &bytes, &words).unwrap();
        let (at, manifest) = (at(50), Digest::of(b"manifest"));
        let seen = |d: &Device| {
            let said = d.reported.as_ref().map(|r| (r.generation, r.phase, r.reason.clone(), r.active.clone()));
            let silent = if d.presence.online { 0 } else { d.silent_ms(at) };
            let flags = (d.retry, d.presence.online, d.proves(manifest), d.runs(manifest), d.has_seen_desired(), d.follows_another());
            (
                d.labels.clone(),
                d.enrolled_at,
                d.admission.clone(),
                d.desired.clone(),
                d.part.clone(),
                said,
                silent,
                flags,
                d.next_generation(),
            )
        };
        assert_eq!(seen(&glance), seen(&device), "what planning looks at");
        assert!(unpack(&device.id, &bytes[..bytes.len() - 1], &words).is_none(), "half of it is nothing");
    }
}

#[test]
fn devices_that_cannot_be_packed_are_kept_whole() {
    let mut fleet = Fleet::default();
    odd().into_iter().for_each(|device| fleet.insert(device));
    let mut strange = full(50);
    // Not a number is not equal to itself, so what comes back is never the same.
    strange.desired.as_mut().unwrap().settings.probation.max_error_ratio = f64::NAN;
    let id = strange.id.clone();
    fleet.insert(strange);
    (51..300).for_each(|n| fleet.insert(full(n)));
    assert!(fleet.device(&id).unwrap().desired.as_ref().unwrap().settings.probation.max_error_ratio.is_nan());
    assert!(fleet.touch(&id, at(77)) && fleet.device(&id).unwrap().presence.last_seen == Some(at(77)));
    fleet.device_mut(&id).unwrap().desired = None;
    assert_eq!(fleet.device(&id).unwrap().desired, None, "and packed once they can be");
    for device in odd() {
        assert_eq!(fleet.device(&device.id).as_deref(), Some(&device));
        assert!(fleet.touch(&device.id, at(88)));
        let mut touched = device;
        touched.presence.last_seen = Some(at(88));
        assert_eq!(fleet.device(&touched.id).as_deref(), Some(&touched));
    }
    assert!(!fleet.touch(&name("stranger"), at(0)));
}

#[test]
fn words_beyond_the_bound_are_written_out() {
    let words = Words::default();
    let mut device = full(1);
    for n in 0..=MAX_WORDS {
        device.presence.agent = n.to_string();
        words.0.write().unwrap().texts.look_up(&device.presence.agent);
    }
    device.presence.agent = "one more".to_owned();
    let bytes = pack(&device, &words).unwrap();
    assert_eq!(unpack(&device.id, &bytes, &words), Some(device));
    assert_eq!(words.0.read().unwrap().texts.words.len(), MAX_WORDS);
}

#[test]
fn a_quiet_device_takes_some_three_hundred_bytes() {
    let words = Words::default();
    let sizes: Vec<usize> = (0..100).map(|n| pack(&full(n), &words).unwrap().len()).collect();
    assert!(sizes.iter().all(|size| *size < 320), "{sizes:?}");
}
