//! All keys and first documents of a new fleet, from seeds that are handed in.
//!
//! Root and targets are 2-of-3, so that one lost or stolen key is neither the end nor a disaster. The keys come back apart by
//! who keeps them: only the three online ones may ever be on the controller.
use std::collections::BTreeSet;

use super::{Lifetimes, RootBuilder, TargetsBuilder, release_role, trainer_role};
use crate::digest::Digest;
use crate::ids::Line;
use crate::time::Timestamp;
use crate::trust::keyring::{PublicKey, SigningKey};
use crate::trust::metadata::{MetadataError, SignError};

/// People who hold a share of root or targets.
const SHARES: usize = 3;
/// How many of them must agree.
const SHARE_THRESHOLD: u32 = 2;

/// Where a key belongs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Custody {
    /// Offline, each with another person.
    Offline,
    /// On the machine that releases a line.
    Release,
    /// With the trainer of a line.
    Trainer,
    /// On the controller.
    Online,
}

/// A key and who keeps it.
#[derive(Debug, Clone)]
pub struct CeremonyKey {
    /// Its name, fit for a file: `root-1`, `targets-3`, `rain`, `rain-auto`, `snapshot`, `timestamp`, `director`.
    pub name: String,
    /// Who keeps it.
    pub custody: Custody,
    /// The key.
    pub key: SigningKey,
}

/// A line to be set up.
#[derive(Debug, Clone)]
pub struct LineGrant {
    /// Its name.
    pub line: Line,
    /// [`crate::manifest::Manifest::io_digest`] of the models its trainer may release. If it is not known yet, the trainer gets
    /// its key now and its grant later, from [`TargetsBuilder::grant_trainer`].
    pub trainer_io: Option<Digest>,
}

/// What a ceremony makes.
#[derive(Debug, Clone)]
pub struct Ceremony {
    /// Every key.
    pub keys: Vec<CeremonyKey>,
    /// The image repository's `1.root.json`; devices are made with it.
    pub image_root: Vec<u8>,
    /// The image repository's `1.targets.json`.
    pub image_targets: Vec<u8>,
    /// The director's `1.root.json`; devices are made with it.
    pub director_root: Vec<u8>,
}

impl Ceremony {
    /// The key called `name`.
    pub fn key(&self, name: &str) -> Option<&SigningKey> {
        self.keys.iter().find(|key| key.name == name).map(|key| &key.key)
    }
}

/// Make every key of a new fleet with `lines`, and sign the first documents. `seed` gives fresh random bytes at each call.
pub fn ceremony(
    lines: &[LineGrant],
    lifetimes: &Lifetimes,
    now: Timestamp,
    seed: &mut dyn FnMut() -> [u8; 32],
) -> Result<Ceremony, SignError> {
    let mut keys = Vec::new();
    let mut draw = |name: String, custody| {
        let key = SigningKey::from_seed(&seed());
        let public = key.public();
        keys.push(CeremonyKey { name, custody, key });
        public
    };
    let root: Vec<PublicKey> = (1..=SHARES).map(|n| draw(format!("root-{n}"), Custody::Offline)).collect();
    let targets: Vec<PublicKey> = (1..=SHARES).map(|n| draw(format!("targets-{n}"), Custody::Offline)).collect();
    let snapshot = draw("snapshot".to_owned(), Custody::Online);
    let timestamp = draw("timestamp".to_owned(), Custody::Online);
    let director = draw("director".to_owned(), Custody::Online);
    let mut policy = TargetsBuilder::new(now.plus_secs(lifetimes.targets_secs));
    for LineGrant { line, trainer_io } in lines {
        let release = draw(release_role(line), Custody::Release);
        let trainer = draw(trainer_role(line), Custody::Trainer);
        policy = policy.line(line, &[release], 1).trainer(line, &[trainer], *trainer_io);
    }
    let names: BTreeSet<&str> = keys.iter().map(|key| key.name.as_str()).collect();
    if names.len() != keys.len() {
        let why = "two keys would have one name: lines may not be named twice, nor like another key (root-1, director, …)";
        return Err(MetadataError::Rule(why.to_owned()).into());
    }
    let root_until = now.plus_secs(lifetimes.root_secs);
    let image_root = RootBuilder::new(root_until)
        .role("root", &root, SHARE_THRESHOLD)
        .role("targets", &targets, SHARE_THRESHOLD)
        .role("snapshot", &[snapshot], 1)
        .role("timestamp", &[timestamp], 1);
    let director_root = RootBuilder::new(root_until)
        .role("root", &root, SHARE_THRESHOLD)
        .role("targets", &[director], 1)
        .role("snapshot", &[director], 1)
        .role("timestamp", &[director], 1);
    // Everybody is in the room: all sign.
    let signers =
        |prefix: &str| -> Vec<&SigningKey> { keys.iter().filter(|k| k.name.starts_with(prefix)).take(SHARES).map(|k| &k.key).collect() };
    let (image_root, director_root) = (image_root.sign(&signers("root-"))?, director_root.sign(&signers("root-"))?);
    let image_targets = policy.sign(&signers("targets-"))?;
    Ok(Ceremony { keys, image_root, image_targets, director_root })
}
