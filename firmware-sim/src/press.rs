//! The image repository of a simulated fleet, made with real keys and real signatures, and everything it ever served.
//!
//! The offline people, the release machine and the controller's freshness keys in one place, because here only what leaves
//! them matters: the same documents that a real fleet would get. The history is kept for the adversary, who replays it.
use std::collections::BTreeMap;
use std::sync::Arc;

use leeway_protocol::assignment::{AssignedRelease, target_path};
use leeway_protocol::digest::Digest;
use leeway_protocol::ids::{Line, Version};
use leeway_protocol::manifest::{Blob, TargetCustom};
use leeway_protocol::time::Timestamp;
use leeway_protocol::trust::director::DirectedTarget;
use leeway_protocol::trust::keyring::SigningKey;
use leeway_protocol::trust::metadata::SignError;
use leeway_protocol::trust::repository::{
    Ceremony, Lifetimes, LineGrant, OnlineSigner, RepositoryError, RepositoryState, RoleBuilder, TargetsBuilder, ceremony, release_role,
};

use crate::model::{self, Behaviour};
use crate::rng::Rng;

mod rotate;

/// What a simulated repository could not do.
#[derive(Debug, thiserror::Error)]
pub enum PressError {
    /// A document could not be signed.
    #[error(transparent)]
    Sign(#[from] SignError),
    /// The repository refused it.
    #[error(transparent)]
    Repository(#[from] RepositoryError),
    /// A document could not be read again.
    #[error(transparent)]
    Metadata(#[from] leeway_protocol::trust::metadata::MetadataError),
    /// The ceremony made no such key.
    #[error("the ceremony made no key called {0}")]
    NoKey(&'static str),
}

/// A release as the world knows it.
#[derive(Debug, Clone)]
pub struct Release {
    /// What assignments call it.
    pub named: AssignedRelease,
    /// Its place in the line.
    pub custom: TargetCustom,
    /// Its model.
    pub model: Blob,
    /// What it does.
    pub behaviour: Behaviour,
    /// The version of the top-level targets in which the offline keys took it back, if they did.
    pub revoked_in: Option<u64>,
}

impl Release {
    /// As a director's document names it.
    pub fn directed(&self) -> DirectedTarget {
        DirectedTarget { path: self.named.path.clone(), sha256: self.model.digest, length: self.model.length }
    }

    /// Digest of its manifest.
    pub fn manifest(&self) -> Digest {
        self.custom.manifest.digest
    }
}

/// The repository.
#[derive(Debug, Clone)]
pub struct Press {
    ceremony: Ceremony,
    signer: OnlineSigner,
    state: RepositoryState,
    line: Line,
    releases: Vec<Release>,
    blobs: BTreeMap<Digest, Arc<[u8]>>,
    /// Floors by the version of the top-level targets that brought them.
    floors: BTreeMap<u64, u64>,
    history: BTreeMap<String, Vec<Arc<[u8]>>>,
    /// Who releases for the line; all of them sign.
    line_keys: Vec<SigningKey>,
    /// The director's roots, the first one first.
    director_roots: Vec<Vec<u8>>,
    /// Where later keys come from.
    rng: Rng,
    drawn: u64,
}

impl Press {
    /// A new repository with one line and no release.
    pub fn new(line: &Line, now: Timestamp, rng: &Rng) -> Result<Self, PressError> {
        let mut seeds = rng.fork("ceremony", 0);
        let lifetimes = Lifetimes::default();
        let grants = [LineGrant { line: line.clone(), trainer_io: None }];
        let ceremony = ceremony(&grants, &lifetimes, now, &mut || seeds.bytes32())?;
        let key = |name| ceremony.key(name).cloned().ok_or(PressError::NoKey(name));
        let signer = OnlineSigner { snapshot: key("snapshot")?, timestamp: key("timestamp")?, director: key("director")?, lifetimes };
        let state = RepositoryState::create(&ceremony.image_root, &ceremony.image_targets, &signer, now)?;
        let (blobs, floors, history) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        let release_key = ceremony.key(release_role(line).as_str()).cloned().ok_or(PressError::NoKey("release"))?;
        let director_roots = vec![ceremony.director_root.clone()];
        let mut press = Self {
            ceremony,
            signer,
            state,
            line: line.clone(),
            releases: Vec::new(),
            blobs,
            floors,
            history,
            line_keys: vec![release_key],
            director_roots,
            rng: rng.fork("press", 0),
            drawn: 0,
        };
        press.remember();
        Ok(press)
    }

    /// The line.
    pub fn line(&self) -> &Line {
        &self.line
    }

    /// Every release so far, the oldest first.
    pub fn releases(&self) -> &[Release] {
        &self.releases
    }

    /// The release with this manifest.
    pub fn by_manifest(&self, manifest: &Digest) -> Option<&Release> {
        self.releases.iter().find(|release| release.manifest() == *manifest)
    }

    /// The controller's keys.
    pub fn signer(&self) -> &OnlineSigner {
        &self.signer
    }

    /// The image root that devices are made with.
    pub fn image_root(&self) -> &[u8] {
        &self.ceremony.image_root
    }

    /// The director root that devices are made with.
    pub fn director_root(&self) -> &[u8] {
        &self.ceremony.director_root
    }

    /// Version of the top-level targets.
    pub fn targets_version(&self) -> u64 {
        self.state.next_version("targets").saturating_sub(1)
    }

    /// Make, sign and publish the next release.
    pub fn release(&mut self, version: &Version, behaviour: Behaviour, padding: usize, now: Timestamp) -> Result<&Release, PressError> {
        let seq = self.releases.len() as u64 + 1;
        let made = model::make(&self.line, version, seq, behaviour, padding);
        let role = release_role(&self.line);
        let expires = now.plus_secs(self.signer.lifetimes.role_secs);
        let builder = match self.state.role(&role) {
            Some(current) => RoleBuilder::after(&current, false, expires),
            None => RoleBuilder::new(false, expires),
        };
        let blob = Blob::of(&made.model);
        let signed = builder.add(&blob, &made.custom).sign(&self.line_keys.iter().collect::<Vec<_>>())?;
        self.state.accept_role(&role, &signed, &self.signer, now)?;
        let path = target_path(&self.line, false, version);
        let named = AssignedRelease { path, line: self.line.clone(), version: version.clone() };
        self.blobs.insert(blob.digest, made.model.into());
        self.blobs.insert(made.custom.manifest.digest, made.manifest.into());
        self.remember();
        self.releases.push(Release { named, custom: made.custom, model: blob, behaviour, revoked_in: None });
        self.releases.last().ok_or(PressError::NoKey("release"))
    }

    /// Take a release back with the offline keys: it must not run any more, not even where it does.
    pub fn revoke(&mut self, manifest: &Digest, now: Timestamp) -> Result<(), PressError> {
        let Some(release) = self.releases.iter_mut().find(|r| r.manifest() == *manifest) else { return Ok(()) };
        let digest = release.model.digest;
        release.revoked_in = Some(self.state.next_version("targets"));
        self.policy(now, |policy| {
            policy.revoked.insert(digest);
        })
    }

    /// Refuse everything below `seq` from now on.
    pub fn raise_floor(&mut self, seq: u64, now: Timestamp) -> Result<(), PressError> {
        self.floors.insert(self.state.next_version("targets"), seq);
        self.policy(now, |policy| policy.min_seq = policy.min_seq.max(seq))
    }

    /// The floor that this version of the top-level targets sets.
    pub fn floor_in(&self, targets: u64) -> u64 {
        self.floors.range(..=targets).map(|(_, seq)| *seq).max().unwrap_or(0)
    }

    /// Sign freshness anew.
    pub fn refresh(&mut self, now: Timestamp) -> Result<(), PressError> {
        self.state.refresh(&self.signer, now)?;
        self.remember();
        Ok(())
    }

    /// A metadata file of the image repository as it is served now.
    pub fn file(&self, name: &str) -> Option<&[u8]> {
        self.state.file(name)
    }

    /// A director root, by the name that it is served under.
    pub fn director_file(&self, name: &str) -> Option<&[u8]> {
        let version: usize = name.strip_suffix(".root.json")?.parse().ok()?;
        self.director_roots.get(version.checked_sub(1)?).map(Vec::as_slice)
    }

    /// Every version of a file that was ever served under this name.
    pub fn ever_served(&self, name: &str) -> &[Arc<[u8]>] {
        self.history.get(name).map_or(&[], Vec::as_slice)
    }

    /// A blob by digest.
    pub fn blob(&self, digest: &Digest) -> Option<&[u8]> {
        self.blobs.get(digest).map(AsRef::as_ref)
    }

    fn policy(&mut self, now: Timestamp, edit: impl FnOnce(&mut leeway_protocol::trust::metadata::LinePolicy)) -> Result<(), PressError> {
        let current = self.state.role("targets").ok_or(PressError::NoKey("targets"))?;
        let expires = now.plus_secs(self.signer.lifetimes.targets_secs);
        let builder = TargetsBuilder::after(&current, expires)?.policy(&self.line, edit);
        let shares = ["targets-1", "targets-3"].map(|name| self.ceremony.key(name).ok_or(PressError::NoKey("targets")));
        let [first, second] = shares;
        let signed = builder.sign(&[first?, second?])?;
        self.state.accept_targets(&signed, &self.signer, now)?;
        self.remember();
        Ok(())
    }

    fn remember(&mut self) {
        for (name, bytes) in self.state.files() {
            let versions = self.history.entry(name.clone()).or_default();
            if versions.last().is_none_or(|last| **last != **bytes) {
                versions.push(bytes.as_slice().into());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_find_the_release_and_the_revocation() {
        let (line, now) = ("rain".parse().unwrap(), Timestamp::from_secs(1_795_410_000));
        let mut press = Press::new(&line, now, &Rng::new(1)).unwrap();
        let version: Version = "1.0.0".parse().unwrap();
        let release = press.release(&version, Behaviour::Serves { accuracy: 90 }, 0, now).unwrap().clone();
        press.release(&"2.0.0".parse().unwrap(), Behaviour::MissesGolden, 0, now).unwrap();
        let client = press.state.client_at(now).unwrap();
        let target = client.target(&release.named.path).unwrap().unwrap();
        assert_eq!(target.sha256, release.model.digest);
        assert_eq!(press.blob(&release.model.digest).map(Digest::of), Some(release.model.digest));
        let before = press.ever_served("timestamp.json").len();
        press.revoke(&release.manifest(), now).unwrap();
        press.raise_floor(2, now).unwrap();
        let client = press.state.client_at(now).unwrap();
        let policy = client.line_policy(&line).unwrap();
        assert!(policy.is_revoked(&release.model.digest) && policy.min_seq == 2);
        assert_eq!(press.ever_served("timestamp.json").len(), before + 2);
        assert_eq!(press.targets_version(), 3);
    }
}
