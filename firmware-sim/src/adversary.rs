//! Somebody who has keys of their own, perhaps the controller's director key too, and a model that nobody should ever run.
//!
//! With the stolen key the adversary can choose among what the offline keys approved, and be heard; that is what the trust
//! design grants to a stolen controller, and the simulation shows that it is all.
use leeway_protocol::assignment::{AssignedRelease, Assignment, Intent, target_path};
use leeway_protocol::digest::Digest;
use leeway_protocol::ids::{DeviceId, Generation, NameError, Version};
use leeway_protocol::manifest::Blob;
use leeway_protocol::time::Timestamp;
use leeway_protocol::trust::director::{self, DirectedTarget};
use leeway_protocol::trust::keyring::SigningKey;
use leeway_protocol::trust::repository::RoleBuilder;

use crate::model::{self, Behaviour, Made};
use crate::press::Press;
use crate::rng::Rng;
use crate::scenario::policies;

/// How long a forged document says it is good for.
const LIFE_SECS: i64 = 30 * 86_400;

/// The adversary.
#[derive(Debug)]
pub struct Adversary {
    own: SigningKey,
    director: Option<SigningKey>,
    evil: Made,
    version: Version,
    role: Vec<u8>,
    rng: Rng,
}

impl Adversary {
    /// With the director's key, if it was stolen.
    pub fn new(press: &Press, stolen_director: bool, mut rng: Rng) -> Result<Self, NameError> {
        let own = SigningKey::from_seed(&rng.bytes32());
        let version: Version = "6.6.6".parse()?;
        let evil = model::make(press.line(), &version, 666, Behaviour::Serves { accuracy: 0 }, 0);
        let expires = Timestamp::from_secs(4_000_000_000);
        let role = RoleBuilder::new(false, expires).add(&Blob::of(&evil.model), &evil.custom).sign(&[&own]).unwrap_or_default();
        let director = stolen_director.then(|| press.signer().director.clone());
        Ok(Self { own, director, evil, version, role, rng })
    }

    /// A metadata file of the adversary's own making, signed with the adversary's own key.
    pub fn metadata(&self, name: &str) -> Option<Vec<u8>> {
        name.ends_with("rain.json").then(|| self.role.clone())
    }

    /// The evil model or its manifest, which any mirror may hold.
    pub fn blob(&self, digest: &Digest) -> Option<&[u8]> {
        [&self.evil.model, &self.evil.manifest].into_iter().find(|bytes| Digest::of(bytes) == *digest).map(Vec::as_slice)
    }

    /// A document for this device, whose last known generation is `generation`.
    pub fn forge(&mut self, device: &DeviceId, generation: u64, stolen: bool, press: &Press, now: Timestamp) -> Option<Vec<u8>> {
        let key = if stolen { self.director.as_ref()? } else { &self.own };
        let evil = Blob::of(&self.evil.model);
        let evil_path = target_path(press.line(), false, &self.version);
        let approved = press.releases().get(self.rng.index(press.releases().len()));
        let (path, blob, version) = match (self.rng.below(4), approved) {
            // Under the name of an approved release, but with the evil bytes.
            (0, Some(release)) => (release.named.path.clone(), evil, release.named.version.clone()),
            // The approved release itself: old, revoked, below the floor or current.
            (1 | 2, Some(release)) => (release.named.path.clone(), release.model, release.named.version.clone()),
            _ => (evil_path, evil, self.version.clone()),
        };
        let generation = Generation(generation + self.rng.between(1, 3));
        let (shadow, probation, windows, capture) = policies();
        let assignment = Assignment {
            v: 1,
            device: device.clone(),
            generation,
            intent: if self.rng.chance(0.5) { Intent::Rollback } else { Intent::Install },
            release: Some(AssignedRelease { path: path.clone(), line: press.line().clone(), version }),
            rollout: None,
            reason: "trust me".to_owned(),
            issued_at: now,
            spread_ms: 0,
            window: None,
            shadow,
            probation,
            windows,
            capture,
            avoid: Vec::new(),
        };
        let target = DirectedTarget { path, sha256: blob.digest, length: blob.length };
        director::sign(device, generation, &assignment, Some(&target), now.plus_secs(LIFE_SECS), key).ok()
    }
}
