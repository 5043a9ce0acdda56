//! One uplink at a time: who is let in, what is refused and why, and what duplicates and late ones change.
use leeway_protocol::capture::CapturedRow;
use leeway_protocol::ids::WindowId;
use leeway_protocol::manifest::{Blob, CONFIDENCE_BINS, Calibration, Golden, GoldenVector, Limits, Lineage};
use leeway_protocol::profile::{Counts, Cuts, FeatureReference, Reference, Source};
use leeway_protocol::report::{Errors, LATENCY_BUCKETS, Labelled};
use leeway_protocol::reported::Phase;
use leeway_protocol::tensor::{DType, Tensor};
use leeway_protocol::time::Timestamp;
use leeway_protocol::topic::Channel;
use leeway_protocol::trust::keyring::SigningKey;

use super::*;

fn key(n: u8) -> SigningKey {
    SigningKey::from_seed(&[n; 32])
}

fn tenant() -> Tenant {
    "demo".parse().unwrap()
}

fn device(name: &str) -> DeviceId {
    name.parse().unwrap()
}

/// Two inputs, one probability, one feature with one regular bin.
pub(crate) fn manifest() -> Manifest {
    let spec = |name: &str, n: u64| TensorSpec { name: name.to_owned(), dtype: DType::F32, shape: vec![1, n] };
    let feature = FeatureReference {
        name: "wind".to_owned(),
        source: Source::Input { tensor: 0, index: 0 },
        cuts: Cuts::Numeric { edges: vec![0.0, 1.0] },
        masses: vec![0.0, 0.0, 0.0, 0.0, 0.0, 1.0],
        importance: None,
        worth: None,
    };
    let vector = GoldenVector { inputs: vec![Tensor::f32("x", &[1, 2], &[0.0, 1.0])], outputs: vec![Tensor::f32("p", &[1, 1], &[0.5])] };
    Manifest {
        v: 1,
        line: "rain".parse().unwrap(),
        version: "1".parse().unwrap(),
        seq: 1,
        model: Blob::of(b"model"),
        inputs: vec![spec("x", 2)],
        outputs: vec![spec("p", 1)],
        state: Vec::new(),
        constants: Vec::new(),
        redact: Default::default(),
        decision: Decision::Binary { output: 0, index: 0, threshold: 0.5 },
        reference: Reference { rows: 10, features: vec![feature] },
        calibration: Calibration {
            edges: (0..=CONFIDENCE_BINS).map(|i| 0.5 + 0.05 * i as f64).collect(),
            accuracy: vec![0.8; CONFIDENCE_BINS],
            rows: vec![10; CONFIDENCE_BINS],
        },
        golden: Golden { rtol: 1e-3, atol: 1e-4, vectors: vec![vector] },
        limits: Limits::default(),
        lineage: Lineage::default(),
        created_at: Timestamp::from_secs(1),
    }
}

pub(crate) fn window(number: u64) -> WindowReport {
    let manifest = manifest();
    let mut latency = vec![0; LATENCY_BUCKETS];
    latency[12] = 4;
    WindowReport {
        manifest: manifest.blob().digest,
        model: manifest.model.digest,
        window: WindowId(number),
        opened_at: Timestamp::from_secs(1),
        closed_at: Timestamp::from_secs(2),
        inferences: 4,
        recorded: 4,
        errors: Errors::default(),
        latency,
        features: vec![Counts(vec![0, 0, 0, 0, 0, 4])],
        rho_percent: vec![0],
        confidence: [0, 0, 0, 0, 0, 0, 0, 0, 0, 4],
        classes: vec![3, 1],
        labelled: [Labelled::default(); CONFIDENCE_BINS],
        data_time: None,
        user: Default::default(),
    }
}

fn batch(number: u64, values: usize) -> CaptureBatch {
    let row = CapturedRow {
        request: 1,
        at: Timestamp::from_secs(1),
        inputs: vec![0.0; values],
        decided: 1.0,
        confidence: 0.9,
        label: None,
        inclusion: 1.0,
    };
    CaptureBatch { manifest: manifest().blob().digest, batch: number, rows: vec![row] }
}

fn status(online: bool) -> Status {
    Status { v: 1, online, session: 1, agent: "1".to_owned(), labels: BTreeMap::new(), report_form: 1 }
}

fn sealed(counter: u64, channel: Channel, body: &[u8]) -> (String, Vec<u8>) {
    let device = device("d1");
    let kind = Kind::of(channel).unwrap();
    (Topic::new(&tenant(), &device, channel).to_string(), envelope::seal(&key(1), &device, BootId(1), counter, kind, body).unwrap())
}

fn keys(device: &DeviceId) -> Option<PublicKey> {
    match device.as_str() {
        "d1" => Some(key(1).public()),
        "d2" => Some(key(2).public()),
        _ => None,
    }
}

fn message(counter: u64, body: Body) -> Message {
    Message { device: device("d1"), boot: BootId(1), counter, mark: 0, body }
}

fn desk() -> Desk {
    let mut desk = Desk::default();
    desk.know(manifest().blob().digest, &manifest());
    desk
}

#[test]
fn what_a_device_says_is_read_and_garbage_is_refused_by_name() {
    let (topic, bytes) = sealed(5, Channel::Window, &window(1).to_bytes());
    let opened = open(&topic, &bytes, &tenant(), keys).unwrap();
    let mark = lives::mark(&window(1).to_bytes());
    assert_eq!(opened, Message { mark, ..message(5, Body::Window(Box::new(window(1)))) });

    let at = |topic: &str| open(topic, &bytes, &tenant(), keys).unwrap_err().why;
    assert_eq!(at("leeway/v1/demo/dev/d2/tele/window"), Why::Envelope, "another device's topic");
    assert_eq!(at("leeway/v1/demo/dev/d1/tele/capture"), Why::Envelope, "another kind's topic");
    assert_eq!(at("leeway/v1/demo/dev/d9/tele/window"), Why::UnknownDevice);
    assert_eq!(at("leeway/v1/other/dev/d1/tele/window"), Why::Topic);
    assert_eq!(at("leeway/v1/demo/dev/d1/desired"), Why::Topic);
    assert_eq!(at("leeway/v1/demo/dev/d1/cmd/receipt"), Why::Topic);
    assert_eq!(at(&"x".repeat(70_000)), Why::Topic);
    for garbage in [&b""[..], b"\x01", b"\xff\xff\xff", &[1; 200], &vec![0; 300_000]] {
        let refusal = open(&topic, garbage, &tenant(), keys).unwrap_err();
        assert_eq!((refusal.why, refusal.sender), (Why::Envelope, None));
    }
    for at in 0..bytes.len() {
        let mut spoilt = bytes.clone();
        spoilt[at] ^= 1;
        assert_eq!(open(&topic, &spoilt, &tenant(), keys).unwrap_err().sender, None, "byte {at}");
    }
    for (channel, body) in [
        (Channel::Window, &b"nonsense"[..]),
        (Channel::Reported, b"{}"),
        (Channel::Status, b"{\"v\":2,\"online\":true,\"session\":1,\"agent\":\"\"}"),
    ] {
        let (topic, bytes) = sealed(9, channel, body);
        let refusal = open(&topic, &bytes, &tenant(), keys).unwrap_err();
        assert_eq!((refusal.why, refusal.sender), (Why::Body, Some((device("d1"), BootId(1), 9))), "signed nonsense is receipted");
    }
}

#[test]
fn the_same_report_twice_changes_nothing() {
    let mut desk = desk();
    let first = message(5, Body::Window(Box::new(window(7))));
    assert_eq!(desk.judge(&first), Ok(Standing::New));
    assert_eq!(desk.judge(&first), Ok(Standing::New), "judging alone remembers nothing");
    assert!(desk.note(&first));
    let again = message(99, Body::Window(Box::new(window(7))));
    assert_eq!(desk.judge(&again), Ok(Standing::Duplicate), "by its number, whatever envelope it comes in");
    assert!(!desk.note(&again));
    assert_eq!(first.identity(), again.identity());
    let event =
        DeviceEvent { v: 1, at: Timestamp::default(), generation: Generation(1), phase: Phase::Committed, manifest: None, reason: None };
    for (body, kind) in [(Body::Capture(batch(1, 2)), "capture"), (Body::Event(event), "event")] {
        let one = message(50, body);
        assert_eq!(desk.judge(&one), Ok(Standing::New), "{kind}");
        assert!(desk.note(&one));
        assert_eq!(desk.judge(&one), Ok(Standing::Duplicate), "{kind}");
    }
    let json = serde_json::to_string(desk.uplink(&device("d1")).unwrap()).unwrap();
    let mut restored = self::desk();
    restored.restore(device("d1"), serde_json::from_str(&json).unwrap());
    assert_eq!(restored.judge(&again), Ok(Standing::Duplicate), "a restart forgets nothing");
}

#[test]
fn state_must_rise_and_a_late_will_is_too_late() {
    let mut desk = desk();
    desk.note(&message(10, Body::Status(status(true))));
    assert_eq!(desk.judge(&message(11, Body::Status(status(false)))), Ok(Standing::New));
    for counter in [10, 3] {
        let refusal = desk.judge(&message(counter, Body::Status(status(false)))).unwrap_err();
        assert_eq!(refusal.why, Why::Replayed);
    }
}

#[test]
fn reports_count_only_for_their_own_model_and_shape() {
    let desk = desk();
    type Spoil = fn(&mut WindowReport);
    let table: [(Spoil, Why); 4] = [
        (|w| w.manifest = Digest::of(b"unheard of"), Why::UnknownManifest),
        (|w| w.model = Digest::of(b"other model"), Why::Shape),
        (|w| w.features[0] = Counts(vec![0; 5]), Why::Shape),
        (|w| w.classes = vec![1, 1, 1], Why::Shape),
    ];
    for (spoil, why) in table {
        let mut bad = window(1);
        spoil(&mut bad);
        let refusal = desk.judge(&message(1, Body::Window(Box::new(bad)))).unwrap_err();
        assert_eq!((refusal.why, refusal.sender.is_some()), (why, true), "{}", refusal.sentence);
    }
    assert_eq!(desk.judge(&message(1, Body::Capture(batch(1, 3)))).unwrap_err().why, Why::Shape);
}
