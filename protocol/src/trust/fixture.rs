//! A small fleet's repository for the tests of this module, and the thief's tools: signing anything with any of its keys.
use std::collections::BTreeMap;

use super::keyring::SigningKey;
use super::metadata::{self, Document, FileMeta, Role, SnapshotMeta, Targets, TimestampMeta, versioned_name};
use super::repository::{Ceremony, Lifetimes, LineGrant, OnlineSigner, RepositoryState, RoleBuilder, ceremony};
use super::tuf::{Client, Persist, Step, Stored, TufError};
use crate::assignment::target_path;
use crate::digest::Digest;
use crate::ids::{Line, Version};
use crate::manifest::{Blob, TargetCustom};
use crate::time::Timestamp;

pub(super) type Files = BTreeMap<String, Vec<u8>>;

/// The moment of the ceremony.
pub(super) const NOW_SECS: i64 = 1_795_410_000;

pub(super) fn now() -> Timestamp {
    Timestamp::from_secs(NOW_SECS)
}

pub(super) fn line(name: &str) -> Line {
    name.parse().unwrap()
}

pub(super) fn version(name: &str) -> Version {
    name.parse().unwrap()
}

/// Keys that the ceremony did not make.
pub(super) fn spare(n: u8) -> SigningKey {
    SigningKey::from_seed(&[n; 32])
}

/// A key that no metadata lists.
pub(super) fn stranger() -> SigningKey {
    spare(0xee)
}

pub(super) fn io() -> Digest {
    Digest::of(b"8 x f32 -> 1 x f32")
}

pub(super) fn model(name: &str) -> Blob {
    Blob::of(format!("model {name}").as_bytes())
}

pub(super) fn custom(line_name: &str, version_name: &str, seq: u64) -> TargetCustom {
    let manifest = Blob::of(format!("manifest {line_name} {version_name}").as_bytes());
    TargetCustom { v: 1, line: line(line_name), version: version(version_name), seq, manifest, io: io(), provenance: None, bundle: None }
}

/// `rain` and `wind`, rain with releases 1.0.0 (seq 1), 1.1.0 (seq 2) and the trainer's auto-3 (seq 3), wind with 2.0.0.
pub(super) struct World {
    pub(super) keys: Ceremony,
    pub(super) signer: OnlineSigner,
    pub(super) state: RepositoryState,
}

impl World {
    pub(super) fn new() -> Self {
        let mut world = Self::empty();
        world.release("rain", "1.0.0", 1);
        world.release("rain", "1.1.0", 2);
        world.release("rain-auto", "auto-3", 3);
        world.release("wind", "2.0.0", 1);
        world
    }

    pub(super) fn empty() -> Self {
        let lifetimes = Lifetimes::default();
        let lines = [LineGrant { line: line("rain"), trainer_io: Some(io()) }, LineGrant { line: line("wind"), trainer_io: None }];
        let mut n = 0;
        let keys = ceremony(&lines, &lifetimes, now(), &mut || {
            n += 1;
            [n; 32]
        })
        .unwrap();
        let key = |name: &str| keys.key(name).unwrap().clone();
        let signer = OnlineSigner { snapshot: key("snapshot"), timestamp: key("timestamp"), director: key("director"), lifetimes };
        let state = RepositoryState::create(&keys.image_root, &keys.image_targets, &signer, now()).unwrap();
        Self { keys, signer, state }
    }

    pub(super) fn key(&self, name: &str) -> &SigningKey {
        self.keys.key(name).unwrap()
    }

    /// Release a version through the front door; `role` is `rain`, `rain-auto`, …
    pub(super) fn release(&mut self, role: &str, version_name: &str, seq: u64) {
        let auto = role.ends_with("-auto");
        let line_name = role.trim_end_matches("-auto");
        let expires = now().plus_secs(self.signer.lifetimes.role_secs);
        let builder = match self.state.role(role) {
            Some(previous) => RoleBuilder::after(&previous, auto, expires),
            None => RoleBuilder::new(auto, expires),
        };
        let bytes = builder.add(&model(version_name), &custom(line_name, version_name, seq)).sign(&[self.key(role)]).unwrap();
        let signer = self.signer.clone();
        self.state.accept_role(role, &bytes, &signer, now()).unwrap();
    }

    /// What a thief of the online keys can do: list `bytes` as the next version of `role`, whatever they are.
    pub(super) fn list_anyway(&self, role: &str, version: u64, bytes: &[u8]) -> Files {
        let mut files = self.state.files().clone();
        files.insert(versioned_name(role, version), bytes.to_vec());
        self.resign(&mut files, |snapshot| drop(snapshot.meta.insert(format!("{role}.json"), FileMeta::of(version, bytes))));
        files
    }

    /// A new snapshot after an edit, and the timestamp that names it, with the online keys.
    pub(super) fn resign(&self, files: &mut Files, edit: impl FnOnce(&mut SnapshotMeta)) {
        let timestamp = claims::<TimestampMeta>(&files["timestamp.json"]);
        let mut snapshot = claims::<SnapshotMeta>(&files[&versioned_name("snapshot", timestamp.snapshot().unwrap().version)]);
        snapshot.header.version += 1;
        edit(&mut snapshot);
        let bytes = metadata::sign(&snapshot, &[&self.signer.snapshot]).unwrap();
        let mut timestamp = timestamp;
        timestamp.header.version += 1;
        timestamp.meta.insert("snapshot.json".to_owned(), FileMeta::of(snapshot.header.version, &bytes));
        files.insert(versioned_name("snapshot", snapshot.header.version), bytes);
        files.insert("timestamp.json".to_owned(), metadata::sign(&timestamp, &[&self.signer.timestamp]).unwrap());
    }

    pub(super) fn client(&self) -> Client {
        Client::new(&self.keys.image_root, Stored::default(), now()).unwrap()
    }

    /// A device that has refreshed from the repository as it is now.
    pub(super) fn refreshed(&self) -> (Client, Stored) {
        refresh(&self.keys.image_root, Stored::default(), self.state.files(), now()).unwrap()
    }
}

/// One whole refresh, and what is durable after it.
pub(super) fn refresh(root: &[u8], mut stored: Stored, files: &Files, at: Timestamp) -> Result<(Client, Stored), TufError> {
    let mut client = Client::new(root, stored.clone(), at)?;
    for Persist { file, bytes } in client.run_over(files)? {
        stored.insert(file, bytes);
    }
    Ok((client, stored))
}

/// The names of the files a refresh asks for.
pub(super) fn asked_for(mut client: Client, files: &Files) -> Vec<String> {
    let mut names = Vec::new();
    while let Step::Need { file, .. } = client.next() {
        client.provide(&file, files.get(&file).map(Vec::as_slice)).unwrap();
        names.push(file);
    }
    names
}

pub(super) fn claims<T: Role>(bytes: &[u8]) -> T {
    Document::<T>::parse(bytes, 1 << 22).unwrap().claims().clone()
}

/// The document after an edit, signed by `keys`.
pub(super) fn edited<T: Role>(bytes: &[u8], keys: &[&SigningKey], edit: impl FnOnce(&mut T)) -> Vec<u8> {
    let mut content = claims::<T>(bytes);
    edit(&mut content);
    metadata::sign(&content, keys).unwrap()
}

/// A role document that lists one model under any path.
pub(super) fn role_listing(version: u64, path: &str, custom: &TargetCustom, key: &SigningKey) -> Vec<u8> {
    let mut targets = Targets::new(version, now().plus_secs(86_400 * 30));
    let model = model("stolen");
    let value = serde_json::to_value(custom).unwrap();
    targets.targets.insert(path.to_owned(), metadata::TargetMeta::new(model.digest, model.length, Some(value)));
    metadata::sign(&targets, &[key]).unwrap()
}

pub(super) fn rain_path(version_name: &str) -> String {
    target_path(&line("rain"), version_name.starts_with("auto"), &version(version_name))
}
