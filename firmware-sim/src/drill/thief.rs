//! What thieves sign, with what they stole.
use std::collections::BTreeMap;

use leeway_protocol::assignment::{AssignedRelease, Assignment, Intent, target_path};
use leeway_protocol::ids::{Generation, Version};
use leeway_protocol::manifest::Blob;
use leeway_protocol::time::Timestamp;
use leeway_protocol::trust::director::{self, DirectedTarget};
use leeway_protocol::trust::keyring::SigningKey;
use leeway_protocol::trust::metadata::{self, FileMeta, Header, Role, SnapshotMeta, TimestampMeta, versioned_name};
use leeway_protocol::trust::repository::{OnlineSigner, RoleBuilder, release_role};

use super::DrillError;
use super::lab::Lab;
use crate::model::{self, Behaviour};
use crate::press::Press;
use crate::scenario::policies;

/// How long thieves want to be believed: a frozen repository would stay frozen for so long.
const TEN_YEARS_SECS: i64 = 10 * 365 * 86_400;
/// The thief's model: nobody who may approve it ever does.
const EVIL: &str = "6.6.6";

type Files = BTreeMap<String, Vec<u8>>;

/// A model of the thief's own, listed by a line role that the thief signs with these keys.
pub(super) struct Evil {
    pub(super) target: DirectedTarget,
    named: AssignedRelease,
    role: Vec<u8>,
}

pub(super) fn sign<T>(signed: Result<T, impl std::fmt::Display>) -> Result<T, DrillError> {
    signed.map_err(|e| DrillError::Thief(e.to_string()))
}

impl Evil {
    pub(super) fn signed_by(press: &Press, keys: &[&SigningKey], now: Timestamp) -> Result<Self, DrillError> {
        let version: Version = sign(EVIL.parse())?;
        let made = model::make(press.line(), &version, 666, Behaviour::Serves { accuracy: 0 }, 0);
        let (path, blob) = (target_path(press.line(), false, &version), Blob::of(&made.model));
        let current = press.repository().role(&release_role(press.line()));
        let expires = now.plus_secs(TEN_YEARS_SECS);
        let builder = current.map_or_else(|| RoleBuilder::new(false, expires), |current| RoleBuilder::after(&current, false, expires));
        let role = sign(builder.add(&blob, &made.custom).sign(keys))?;
        let target = DirectedTarget { path: path.clone(), sha256: blob.digest, length: blob.length };
        Ok(Self { target, named: AssignedRelease { path, line: press.line().clone(), version }, role })
    }

    /// The line role that lists it.
    pub(super) fn role(&self) -> &[u8] {
        &self.role
    }
}

/// Both repositories as a thief of the freshness keys serves them: everything real, plus `more`, under a snapshot and a timestamp
/// of these versions that nobody will outdo, good for ten years.
pub(super) fn mirror(press: &Press, stolen: &OnlineSigner, version: u64, more: Option<&Evil>, now: Timestamp) -> Result<Files, DrillError> {
    let mut files = press.everything();
    let until = now.plus_secs(TEN_YEARS_SECS);
    let mut meta = press.repository().contents().snapshot().map(|snapshot| snapshot.meta.clone()).unwrap_or_default();
    if let Some(evil) = more {
        let role = release_role(press.line());
        let next = press.repository().next_version(&role);
        meta.insert(format!("{role}.json"), FileMeta::of(next, &evil.role));
        files.insert(versioned_name(&role, next), evil.role.clone());
    }
    let snapshot = SnapshotMeta { header: Header::new(SnapshotMeta::TYPE, version, until), meta, rest: Default::default() };
    let snapshot = sign(metadata::sign(&snapshot, &[&stolen.snapshot]))?;
    let meta = BTreeMap::from([("snapshot.json".to_owned(), FileMeta::of(version, &snapshot))]);
    let timestamp = TimestampMeta { header: Header::new(TimestampMeta::TYPE, version, until), meta, rest: Default::default() };
    files.insert(versioned_name("snapshot", version), snapshot);
    files.insert("timestamp.json".to_owned(), sign(metadata::sign(&timestamp, &[&stolen.timestamp]))?);
    Ok(files)
}

/// Which target a forged assignment names.
pub(super) enum Wanted<'a> {
    Release(usize),
    Evil(&'a Evil),
}

impl Lab {
    /// An assignment for `device` by whoever has this director key, `ahead` of what the device follows, said to be of `issued_at`.
    pub(super) fn forge(
        &self,
        device: usize,
        wanted: &Wanted<'_>,
        ahead: u64,
        issued_at: Timestamp,
        key: &SigningKey,
    ) -> Result<Vec<u8>, DrillError> {
        let (named, target) = match wanted {
            Wanted::Evil(evil) => (evil.named.clone(), evil.target.clone()),
            Wanted::Release(number) => {
                let release = self.world.press().releases().get(*number);
                let release = release.ok_or_else(|| DrillError::Thief(format!("there is no release {number}")))?;
                (release.named.clone(), release.directed())
            }
        };
        let id = self.device_id(device).ok_or_else(|| DrillError::Thief(format!("there is no device {device}")))?;
        let generation = Generation(self.generation(device).saturating_add(ahead));
        let (shadow, probation, windows, capture) = policies();
        let now = self.world.now();
        let assignment = Assignment {
            v: 1,
            device: id.clone(),
            generation,
            intent: Intent::Rollback,
            release: Some(named),
            rollout: None,
            reason: "trust me".to_owned(),
            issued_at,
            spread_ms: 0,
            window: None,
            shadow,
            probation,
            windows,
            capture,
            avoid: Vec::new(),
        };
        sign(director::sign(&id, generation, &assignment, Some(&target), now.plus_secs(TEN_YEARS_SECS), key))
    }

    /// Show every device a forged assignment.
    pub(super) fn show_all(&mut self, wanted: &Wanted<'_>, ahead: u64, key: &SigningKey) -> Result<(), DrillError> {
        self.show_all_of(wanted, ahead, self.world.now(), key)
    }

    /// The same, said to be signed at another moment.
    pub(super) fn show_all_of(
        &mut self,
        wanted: &Wanted<'_>,
        ahead: u64,
        issued_at: Timestamp,
        key: &SigningKey,
    ) -> Result<(), DrillError> {
        for device in 0..super::lab::DEVICES {
            let bytes = self.forge(device, wanted, ahead, issued_at, key)?;
            self.world.show_document(device, bytes);
        }
        Ok(())
    }
}
