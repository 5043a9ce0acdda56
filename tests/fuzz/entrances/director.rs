//! A device's assignment: from nobody, and from a thief of the director's key.
use std::sync::OnceLock;

use leeway_protocol::assignment::{AssignedRelease, Assignment, CapturePolicy, Intent, Probation, Shadow, Windows};
use leeway_protocol::digest::Digest;
use leeway_protocol::ids::{DeviceId, Generation};
use leeway_protocol::time::Timestamp;
use leeway_protocol::trust::director::{DirectedTarget, MAX_DIRECTIVE_BYTES, sign, verify};
use leeway_protocol::trust::keyring::SigningKey;
use leeway_protocol::trust::metadata::{Document, Root, Targets, add_signature};
use leeway_protocol::trust::repository::RootBuilder;

fn now() -> Timestamp {
    Timestamp::from_secs(1_795_410_000)
}

fn device() -> DeviceId {
    "bellevue-07".parse().expect("a device id")
}

fn director() -> SigningKey {
    SigningKey::from_seed(&[7; 32])
}

fn root() -> &'static Root {
    static ROOT: OnceLock<Root> = OnceLock::new();
    ROOT.get_or_init(|| {
        let (key, builder) = (director(), RootBuilder::new(now().plus_secs(86_400)));
        let builder = ["root", "targets", "snapshot", "timestamp"].iter().fold(builder, |b, role| b.role(role, &[key.public()], 1));
        let bytes = builder.sign(&[&key]).expect("a root");
        Document::<Root>::parse(&bytes, bytes.len()).expect("our own root").claims().clone()
    })
}

/// Only what the director's key signed is followed, and only for this device, and never backwards.
pub fn enter(bytes: &[u8]) {
    judge(bytes, Generation(0));
    let max = MAX_DIRECTIVE_BYTES as usize;
    if let Ok(signed) = add_signature::<Targets>(bytes, max, &director()) {
        judge(&signed, Generation(3));
    }
    if let Ok(value) = serde_json::from_slice::<serde_json::Value>(bytes)
        && let Ok(signed) = sign(&device(), Generation(9), &value, None, now().plus_secs(60), &director())
    {
        judge(&signed, Generation(9));
    }
}

fn judge(bytes: &[u8], last: Generation) {
    if let Ok(directive) = verify(bytes, root(), &device(), now(), last) {
        assert!(directive.device == device() && directive.generation >= last);
        if let Ok(assignment) = directive.assignment::<Assignment>() {
            let text = serde_json::to_string(&assignment).expect("what was read can be written");
            assert_eq!(serde_json::from_str::<Assignment>(&text).ok(), Some(assignment));
        }
    }
}

/// What honest documents look like.
pub fn honest() -> Vec<(String, Vec<u8>)> {
    let path = "models/rain/release/1.1.0.onnx".to_owned();
    let release =
        AssignedRelease { path: path.clone(), line: "rain".parse().expect("a line"), version: "1.1.0".parse().expect("a version") };
    let assignment = Assignment {
        v: 1,
        device: device(),
        generation: Generation(7),
        intent: Intent::Install,
        release: Some(release),
        rollout: None,
        reason: "canary of 1.1.0".to_owned(),
        issued_at: now(),
        spread_ms: 0,
        window: None,
        shadow: Shadow::default(),
        probation: Probation::default(),
        windows: Windows::default(),
        capture: CapturePolicy { uniform: 0.25, max_rows_per_day: 10, labelled_only: true, ..CapturePolicy::default() },
        avoid: Vec::new(),
    };
    let target = DirectedTarget { path, sha256: Digest::of(b"model"), length: 5 };
    let signed = sign(&device(), Generation(7), &assignment, Some(&target), now().plus_secs(60), &director()).expect("an assignment");
    let unsigned = serde_json::to_vec(&assignment).expect("an assignment");
    vec![("signed.json".to_owned(), signed), ("assignment.json".to_owned(), unsigned)]
}
