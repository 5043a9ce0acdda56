//! What goes with a release for other people's tools: a model signature, and provenance.
use std::sync::OnceLock;

use leeway_controller::supply::oms::{self, Files, Key};
use leeway_controller::supply::provenance::{self, Build};
use leeway_protocol::digest::Digest;
use leeway_protocol::manifest::{Blob, Calibration, Dataset, Decision, Golden, Limits, Lineage, Manifest};
use leeway_protocol::profile::Reference;
use leeway_protocol::time::Timestamp;
use leeway_protocol::trust::keyring::SigningKey;

/// A key of nobody's, so that what it signs is the same in every run.
const PEM: &str = "-----BEGIN EC PRIVATE KEY-----
MHcCAQEEIAVazSqAt4h+b22JgOLSZTfbmJCzi1rvBP05cYeLETaJoAoGCCqGSM49
AwEHoUQDQgAE8eSArHXxD8lP7Q22iCN+kvZNJpH0RjXCVWSXoLVE6fP9SCTifSwa
krs1Kpt99tAYA/4AOb45OYn693zndRs+Zw==
-----END EC PRIVATE KEY-----";

struct World {
    maker: Key,
    files: Files,
    publisher: SigningKey,
    manifest: Manifest,
    build: Build,
}

fn world() -> &'static World {
    static WORLD: OnceLock<World> = OnceLock::new();
    WORLD.get_or_init(|| {
        let dataset = Dataset { role: "train".to_owned(), name: "days.csv".to_owned(), digest: Digest::of(b"days"), rows: 900 };
        let manifest = Manifest {
            v: 1,
            line: "rain".parse().expect("a line"),
            version: "1".parse().expect("a version"),
            seq: 1,
            model: Blob::of(b"model"),
            inputs: Vec::new(),
            outputs: Vec::new(),
            state: Vec::new(),
            constants: Vec::new(),
            redact: Default::default(),
            decision: Decision::None,
            reference: Reference::default(),
            calibration: Calibration::default(),
            golden: Golden::default(),
            limits: Limits::default(),
            lineage: Lineage { code: "weather".to_owned(), datasets: vec![dataset], parent: Some(Digest::of(b"p")), ..Lineage::default() },
            created_at: Timestamp::from_secs(1),
        };
        World {
            maker: Key::from_pem(PEM).expect("a key"),
            files: [("model.onnx", b"model".as_slice()), ("sub/labels.txt", b"dry".as_slice())]
                .map(|(p, b)| (p.to_owned(), Digest::of(b)))
                .into(),
            publisher: SigningKey::from_seed(&[7; 32]),
            manifest,
            build: Build::default(),
        }
    })
}

/// What is believed says exactly what was signed, however it is wrapped.
pub fn enter(bytes: &[u8]) {
    let world = world();
    let claimed = oms::unverified(bytes);
    if let Ok(listed) = oms::verify(bytes, &world.maker.public()) {
        assert_eq!((&listed.files, &listed.ignored[..]), (&world.files, &[".git".to_owned()][..]));
        assert_eq!(claimed.ok(), Some(listed));
    }
    let keys = [world.publisher.public()];
    if let Ok(build) = provenance::check(bytes, keys.iter(), &world.manifest, world.manifest.blob(), false) {
        assert_eq!(build, world.build);
    }
}

/// What honest documents look like.
pub fn honest() -> Vec<(String, Vec<u8>)> {
    let world = world();
    let statement = provenance::statement(&world.manifest, world.manifest.blob(), false, &world.build);
    vec![
        ("bundle.json".to_owned(), oms::sign("model", &world.files, &[".git".to_owned()], &world.maker)),
        ("provenance.json".to_owned(), provenance::seal(&statement, &world.publisher)),
        ("statement.json".to_owned(), serde_json::to_vec(&statement).expect("JSON")),
    ]
}
