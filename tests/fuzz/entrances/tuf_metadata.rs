//! Metadata of a repository: from nobody, and from a thief of every online and release key.
use std::collections::BTreeMap;
use std::sync::OnceLock;

use leeway_protocol::time::Timestamp;
use leeway_protocol::trust::canonical;
use leeway_protocol::trust::keyring::SigningKey;
use leeway_protocol::trust::metadata::{Document, Role, Root, SnapshotMeta, Targets, TimestampMeta, add_signature};
use leeway_protocol::trust::repository::{Ceremony, Lifetimes, LineGrant, OnlineSigner, RepositoryState, ceremony};
use leeway_protocol::trust::tuf::{Client, Stored};

/// The longest document that is tried; every type has a bound at or above it.
const MAX: usize = 512 << 10;

struct World {
    keys: Ceremony,
    files: BTreeMap<String, Vec<u8>>,
}

fn now() -> Timestamp {
    Timestamp::from_secs(1_795_410_000)
}

fn world() -> &'static World {
    static WORLD: OnceLock<World> = OnceLock::new();
    WORLD.get_or_init(|| {
        let lifetimes = Lifetimes::default();
        let mut seed = 0;
        let lines = [LineGrant { line: "rain".parse().expect("a line"), trainer_io: None }];
        let keys = ceremony(&lines, &lifetimes, now(), &mut || {
            seed += 1;
            [seed; 32]
        })
        .expect("a ceremony");
        let key = |name: &str| keys.key(name).expect("a key of the ceremony").clone();
        let signer = OnlineSigner { snapshot: key("snapshot"), timestamp: key("timestamp"), director: key("director"), lifetimes };
        let state = RepositoryState::create(&keys.image_root, &keys.image_targets, &signer, now()).expect("a repository");
        World { files: state.files().clone(), keys }
    })
}

/// Whatever is read must be kept as it came, and its canonical form must be read as the same value.
pub fn enter(bytes: &[u8]) {
    if let Ok(value) = canonical::parse(bytes, MAX)
        && let Ok(form) = canonical::to_bytes(&value)
    {
        assert_eq!(canonical::parse(&form, MAX).ok().as_ref(), Some(&value));
        assert_eq!(canonical::to_bytes(&value).ok().as_ref(), Some(&form));
    }
    read::<Root>(bytes);
    read::<TimestampMeta>(bytes);
    read::<SnapshotMeta>(bytes);
    read::<Targets>(bytes);
    // Somebody else's root of trust, with everything else in its place.
    if let Ok(mut client) = Client::new(bytes, Stored::default(), now()) {
        drop(client.run_over(&world().files));
    }
    // A thief signs it and lists it in the place of each file in turn.
    for file in world().files.keys() {
        let mut files = world().files.clone();
        let name = file.trim_end_matches(".json").rsplit('.').next().unwrap_or_default();
        let signed = match name {
            "root" => stolen::<Root>(bytes),
            "timestamp" => stolen::<TimestampMeta>(bytes),
            "snapshot" => stolen::<SnapshotMeta>(bytes),
            _ => stolen::<Targets>(bytes),
        };
        files.insert(file.clone(), signed.unwrap_or_else(|| bytes.to_vec()));
        let mut client = Client::new(&world().keys.image_root, Stored::default(), now()).expect("our own root");
        let before = client.versions().root;
        drop(client.run_over(&files));
        assert!(client.versions().root >= before, "the root never goes back");
    }
}

fn read<T: Role>(bytes: &[u8]) {
    if let Ok(document) = Document::<T>::parse(bytes, MAX) {
        assert_eq!(document.bytes(), bytes, "kept verbatim");
        assert_eq!(document.version(), document.claims().header().version);
    }
}

/// The document with the signatures of all keys that were ever online.
fn stolen<T: Role>(bytes: &[u8]) -> Option<Vec<u8>> {
    let stolen: [&SigningKey; 4] = ["snapshot", "timestamp", "director", "rain"].map(|name| world().keys.key(name).expect("a key"));
    stolen.into_iter().try_fold(bytes.to_vec(), |bytes, key| add_signature::<T>(&bytes, MAX, key).ok())
}

/// What honest documents look like.
pub fn honest() -> Vec<(String, Vec<u8>)> {
    world().files.clone().into_iter().collect()
}
