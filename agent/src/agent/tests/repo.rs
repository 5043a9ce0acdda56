//! Both repositories with their keys, and releases whose model says in its bytes how it behaves.
use std::collections::BTreeMap;

use leeway_protocol::assignment::{AssignedRelease, Assignment, CapturePolicy, Intent, Probation, Shadow, Windows, target_path};
use leeway_protocol::digest::Digest;
use leeway_protocol::ids::{DeviceId, Generation};
use leeway_protocol::manifest::{Blob, Calibration, Decision, Golden, GoldenVector, Limits, Lineage, Manifest, TargetCustom};
use leeway_protocol::profile::Reference;
use leeway_protocol::tensor::{Tensor, TensorSpec};
use leeway_protocol::time::Timestamp;
use leeway_protocol::trust::director::DirectedTarget;
use leeway_protocol::trust::keyring::SigningKey;
use leeway_protocol::trust::metadata::LinePolicy;
use leeway_protocol::trust::repository::{
    Ceremony, Lifetimes, LineGrant, OnlineSigner, RepositoryState, RoleBuilder, TargetsBuilder, ceremony,
};

pub(super) const START_SECS: i64 = 1_795_410_000;

pub(super) fn start() -> Timestamp {
    Timestamp::from_secs(START_SECS)
}

pub(super) fn device() -> DeviceId {
    "dev-1".parse().unwrap()
}

pub(super) struct Repo {
    pub(super) keys: Ceremony,
    pub(super) signer: OnlineSigner,
    pub(super) state: RepositoryState,
    /// What the artifact server hands out, right or wrong.
    pub(super) files: BTreeMap<String, Vec<u8>>,
    pub(super) blobs: BTreeMap<Digest, Vec<u8>>,
    pub(super) targets: BTreeMap<String, DirectedTarget>,
}

pub(super) fn manifest(line: &str, version: &str, seq: u64, model: &[u8]) -> Manifest {
    let spec = |name: &str| TensorSpec { name: name.to_owned(), dtype: leeway_protocol::tensor::DType::F32, shape: vec![1] };
    Manifest {
        v: 1,
        line: line.parse().unwrap(),
        version: version.parse().unwrap(),
        seq,
        model: Blob::of(model),
        inputs: vec![spec("x")],
        outputs: vec![spec("y")],
        state: vec![],
        constants: vec![],
        redact: Default::default(),
        decision: Decision::None,
        reference: Reference::default(),
        calibration: Calibration::default(),
        golden: Golden {
            rtol: 0.0,
            atol: 0.0,
            vectors: vec![GoldenVector { inputs: vec![Tensor::f32("x", &[1], &[1.0])], outputs: vec![Tensor::f32("y", &[1], &[2.0])] }],
        },
        limits: Limits { rss_bytes: 1000, load_ms: 1000, p99_us: 1000 },
        lineage: Lineage::default(),
        created_at: start(),
    }
}

pub(super) fn io() -> Digest {
    manifest("rain", "1", 1, b"").io_digest()
}

impl Repo {
    pub(super) fn new() -> Self {
        let lifetimes = Lifetimes::default();
        let lines = [LineGrant { line: "rain".parse().unwrap(), trainer_io: Some(io()) }];
        let mut n = 0;
        let keys = ceremony(&lines, &lifetimes, start(), &mut || {
            n += 1;
            [n; 32]
        })
        .unwrap();
        let key = |name: &str| keys.key(name).unwrap().clone();
        let signer = OnlineSigner { snapshot: key("snapshot"), timestamp: key("timestamp"), director: key("director"), lifetimes };
        let state = RepositoryState::create(&keys.image_root, &keys.image_targets, &signer, start()).unwrap();
        let files = state.files().clone();
        Self { keys, signer, state, files, blobs: BTreeMap::new(), targets: BTreeMap::new() }
    }

    /// Release `version`; the model behaves as `behaviour` says (see `world::Behaviour`).
    pub(super) fn release(&mut self, version: &str, seq: u64, behaviour: &str) {
        self.release_with("rain", version, seq, behaviour, |_, _| {});
    }

    /// The same with something wrong in manifest or target.
    pub(super) fn release_with(
        &mut self,
        role: &str,
        version: &str,
        seq: u64,
        behaviour: &str,
        spoil: impl FnOnce(&mut Manifest, &mut TargetCustom),
    ) {
        let model = format!("{version} {behaviour}").into_bytes();
        let mut manifest = manifest("rain", version, seq, &model);
        let line = manifest.line.clone();
        let mut custom = TargetCustom::of(&manifest);
        let plain = manifest.clone();
        spoil(&mut manifest, &mut custom);
        if manifest != plain {
            custom.manifest = manifest.blob();
        }
        let auto = role.ends_with("-auto");
        let expires = start().plus_secs(86_400 * 30);
        let builder = match self.state.role(role) {
            Some(previous) => RoleBuilder::after(&previous, auto, expires),
            None => RoleBuilder::new(auto, expires),
        };
        let blob = Blob::of(&model);
        let bytes = builder.add(&blob, &custom).sign(&[self.keys.key(role).unwrap()]).unwrap();
        let signer = self.signer.clone();
        self.state.accept_role(role, &bytes, &signer, start()).unwrap();
        self.files = self.state.files().clone();
        self.blobs.insert(blob.digest, model);
        self.blobs.insert(custom.manifest.digest, manifest.to_bytes());
        let path = target_path(&line, auto, &custom.version);
        self.targets.insert(version.to_owned(), DirectedTarget { path, sha256: blob.digest, length: blob.length });
    }

    pub(super) fn policy(&mut self, edit: impl FnOnce(&mut LinePolicy)) {
        let current = self.state.role("targets").unwrap_or_else(|| self.top());
        let builder = TargetsBuilder::after(&current, start().plus_secs(86_400 * 80)).unwrap().policy(&"rain".parse().unwrap(), edit);
        let keys: Vec<&SigningKey> = ["targets-1", "targets-2"].iter().map(|name| self.keys.key(name).unwrap()).collect();
        let bytes = builder.sign(&keys).unwrap();
        let signer = self.signer.clone();
        self.state.accept_targets(&bytes, &signer, start()).unwrap();
        self.files = self.state.files().clone();
    }

    fn top(&self) -> leeway_protocol::trust::metadata::Targets {
        let version = self.state.contents().versions().targets;
        let bytes = self.state.file(&format!("{version}.targets.json")).unwrap();
        leeway_protocol::trust::metadata::Document::<leeway_protocol::trust::metadata::Targets>::parse(bytes, 1 << 22)
            .unwrap()
            .claims()
            .clone()
    }

    pub(super) fn assignment(&self, generation: u64, intent: Intent, version: Option<&str>) -> Assignment {
        let release = version.map(|version| AssignedRelease {
            path: self.targets[version].path.clone(),
            line: "rain".parse().unwrap(),
            version: version.parse().unwrap(),
        });
        Assignment {
            v: 1,
            device: device(),
            generation: Generation(generation),
            intent,
            release,
            rollout: None,
            reason: "a test".to_owned(),
            issued_at: start(),
            spread_ms: 0,
            window: None,
            shadow: Shadow { min_inferences: 60, max_ms: 10_000, max_disagreement: 0.5 },
            probation: Probation { min_ms: 3_000, min_inferences: 20, boots: 3, max_error_ratio: 0.02 },
            windows: Windows::default(),
            capture: CapturePolicy::default(),
            avoid: Vec::new(),
        }
    }

    pub(super) fn sign(&self, assignment: &Assignment, version: Option<&str>) -> Vec<u8> {
        self.signer.sign_assignment(assignment, version.map(|version| &self.targets[version]), start()).unwrap()
    }

    /// A signed assignment.
    pub(super) fn assign(&self, generation: u64, intent: Intent, version: Option<&str>) -> Vec<u8> {
        self.sign(&self.assignment(generation, intent, version), version)
    }

    pub(super) fn install(&self, generation: u64, version: &str) -> Vec<u8> {
        self.assign(generation, Intent::Install, Some(version))
    }

    pub(super) fn rollback(&self, generation: u64, version: &str) -> Vec<u8> {
        self.assign(generation, Intent::Rollback, Some(version))
    }
}

impl Repo {
    /// What a thief of the online keys can do: list any bytes as the next version of `role`.
    pub(super) fn list_anyway(&mut self, role: &str, current: &str, bytes: Vec<u8>) {
        use leeway_protocol::trust::metadata::{self, Document, FileMeta, Role, SnapshotMeta, TimestampMeta, versioned_name};
        fn claims<T: Role>(bytes: &[u8]) -> T {
            Document::<T>::parse(bytes, 1 << 22).unwrap().claims().clone()
        }
        let version: u64 = current.split('.').next().unwrap().parse().unwrap();
        let mut timestamp = claims::<TimestampMeta>(&self.files["timestamp.json"]);
        let mut snapshot = claims::<SnapshotMeta>(&self.files[&versioned_name("snapshot", timestamp.snapshot().unwrap().version)]);
        snapshot.header.version += 1;
        snapshot.meta.insert(format!("{role}.json"), FileMeta::of(version, &bytes));
        self.files.insert(versioned_name(role, version), bytes);
        let bytes = metadata::sign(&snapshot, &[&self.signer.snapshot]).unwrap();
        timestamp.header.version += 1;
        timestamp.meta.insert("snapshot.json".to_owned(), FileMeta::of(snapshot.header.version, &bytes));
        self.files.insert(versioned_name("snapshot", snapshot.header.version), bytes);
        self.files.insert("timestamp.json".to_owned(), metadata::sign(&timestamp, &[&self.signer.timestamp]).unwrap());
    }
}
