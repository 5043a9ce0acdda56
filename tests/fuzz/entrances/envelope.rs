//! What a device sends up: sealed, and the bodies that a device with a good key may put inside.
use leeway_protocol::capture::{CaptureBatch, CapturedRow};
use leeway_protocol::digest::Digest;
use leeway_protocol::ids::{BootId, DeviceId, WindowId};
use leeway_protocol::manifest::CONFIDENCE_BINS;
use leeway_protocol::profile::Counts;
use leeway_protocol::report::{Errors, LATENCY_BUCKETS, Labelled, WindowReport};
use leeway_protocol::reported::{DeviceEvent, Reported};
use leeway_protocol::time::Timestamp;
use leeway_protocol::trust::envelope::{Kind, open, seal};
use leeway_protocol::trust::keyring::SigningKey;

fn device() -> DeviceId {
    "bellevue-07".parse().expect("a device id")
}

fn key() -> SigningKey {
    SigningKey::from_seed(&[7; 32])
}

/// Nothing opens that the device's key did not seal; what opens is what was sealed; what is read is written as it was read.
pub fn enter(bytes: &[u8]) {
    let public = key().public();
    for kind in [Kind::Window, Kind::Capture, Kind::Event] {
        if let Ok(opened) = open(bytes, &device(), kind, &public) {
            let again = seal(&key(), &device(), opened.boot, opened.counter, kind, &opened.body).expect("what opened can be sealed");
            assert_eq!(open(&again, &device(), kind, &public).expect("our own seal").body, opened.body);
        }
        if let Ok(sealed) = seal(&key(), &device(), BootId(3), 9, kind, bytes) {
            assert_eq!(open(&sealed, &device(), kind, &public).expect("our own seal").body, bytes);
            let other = SigningKey::from_seed(&[8; 32]).public();
            assert!(open(&sealed, &device(), kind, &other).is_err());
        }
    }
    if let Ok(report) = WindowReport::parse(bytes) {
        assert_eq!(WindowReport::parse(&report.to_bytes()).ok().map(|r| r.to_bytes()), Some(report.to_bytes()));
        assert!(report.latency_quantile_us(0.99) >= report.latency_quantile_us(0.5));
        let _ = report.labels();
    }
    if let Ok(batch) = CaptureBatch::parse(bytes) {
        assert_eq!(CaptureBatch::parse(&batch.to_bytes()).ok().map(|b| b.to_bytes()), Some(batch.to_bytes()));
    }
    drop(serde_json::from_slice::<Reported>(bytes));
    drop(serde_json::from_slice::<DeviceEvent>(bytes));
}

/// What honest messages look like.
pub fn honest() -> Vec<(String, Vec<u8>)> {
    let mut latency = vec![0; LATENCY_BUCKETS];
    latency[12] = 10;
    let report = WindowReport {
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
        data_time: Some((Timestamp::from_secs(1), Timestamp::from_secs(2))),
        user: Default::default(),
    };
    let row = CapturedRow {
        request: 1,
        at: Timestamp::from_secs(9),
        inputs: vec![1.0, 2.0],
        decided: 1.0,
        confidence: 0.9,
        label: Some(0.0),
        inclusion: 0.5,
    };
    let batch = CaptureBatch { manifest: Digest::of(b"manifest"), batch: 3, rows: vec![row] };
    let sealed = seal(&key(), &device(), BootId(3), 9, Kind::Window, &report.to_bytes()).expect("a message");
    vec![("window".to_owned(), report.to_bytes()), ("capture".to_owned(), batch.to_bytes()), ("sealed".to_owned(), sealed)]
}
