//! What the client does with each file: the checks of TUF's client workflow, one function per role, in the order of the
//! specification. Each either changes the client completely or returns an error and changes nothing.
use std::sync::Arc;

use super::walk::MAX_VISITED;
use super::{Client, MAX_ROLES, MAX_SNAPSHOT_BYTES, MAX_TARGETS_BYTES, MAX_TIMESTAMP_BYTES, Persist, Phase, TufError};
use crate::trust::metadata::{Document, FileMeta, Header, KeySet, Role, SnapshotMeta, Targets, TimestampMeta, file_name};

impl Client {
    /// The root chain ended: only the last root's expiry counts, and what is stored must verify under *its* keys.
    pub(super) fn end_root_chain(&mut self) -> Result<Vec<Persist>, TufError> {
        self.expect_fresh("root", &self.root().header)?;
        self.load_stored();
        self.phase = Phase::Timestamp;
        Ok(Vec::new())
    }

    /// Trust what is stored as far as the current root's keys reach. Copies signed by keys that were rotated out are dropped
    /// here, and with them any absurdly high version that a thief of the old keys had signed.
    pub(super) fn load_stored(&mut self) {
        let (root, stored) = (self.chain.root(), &self.stored);
        self.timestamp = trusted(stored.file("timestamp.json"), MAX_TIMESTAMP_BYTES, &root.keys_of("timestamp"));
        self.snapshot = trusted(stored.file("snapshot.json"), MAX_SNAPSHOT_BYTES, &root.keys_of("snapshot"));
        self.targets = trusted(stored.file("targets.json"), MAX_TARGETS_BYTES, &root.keys_of("targets"));
        // `Document::parse` has refused targets whose policy cannot be read.
        self.policy = self.targets.as_ref().and_then(|d| d.claims().policy().ok()).unwrap_or_default();
        self.delegated.clear();
    }

    pub(super) fn take_timestamp(&mut self, bytes: &[u8]) -> Result<Vec<Persist>, TufError> {
        let file = "timestamp.json";
        let new = read::<TimestampMeta>(file, bytes, MAX_TIMESTAMP_BYTES, &self.root().keys_of("timestamp"))?;
        if let Some(old) = &self.timestamp {
            not_lower("timestamp", old.version(), new.version())?;
            if old.version() == new.version() {
                // Nothing new, whatever else it says. The trusted copy goes on, under its own expiry.
                self.expect_fresh("timestamp", &old.claims().header)?;
                self.phase = Phase::Snapshot;
                return Ok(Vec::new());
            }
        }
        let named = new.claims().snapshot().map_or(0, |meta| meta.version);
        not_lower("snapshot", self.snapshot_meta().map_or(0, |meta| meta.version), named)?;
        // The snapshot itself speaks, too: the timestamp that named it may be lost, or its key taken away.
        not_lower("snapshot", self.snapshot.as_ref().map_or(0, Document::version), named)?;
        self.expect_fresh("timestamp", &new.claims().header)?;
        self.timestamp = Some(new);
        self.phase = Phase::Snapshot;
        Ok(vec![Persist { file: file.to_owned(), bytes: bytes.to_vec() }])
    }

    pub(super) fn take_snapshot(&mut self, file: &str, bytes: &[u8]) -> Result<Vec<Persist>, TufError> {
        let meta = self.snapshot_meta().ok_or(TufError::NotFresh)?;
        is_listed(file, meta, bytes)?;
        let new = read::<SnapshotMeta>(file, bytes, MAX_SNAPSHOT_BYTES, &self.root().keys_of("snapshot"))?;
        has_version(file, meta.version, new.version())?;
        for (entry, old) in self.snapshot.iter().flat_map(|old| &old.claims().meta) {
            match new.claims().meta.get(entry) {
                Some(new) => not_lower(entry, old.version, new.version)?,
                None => return Err(TufError::SnapshotDropped { entry: entry.clone() }),
            }
        }
        self.expect_fresh("snapshot", &new.claims().header)?;
        self.snapshot = Some(new);
        self.phase = Phase::Targets;
        Ok(vec![Persist { file: "snapshot.json".to_owned(), bytes: bytes.to_vec() }])
    }

    pub(super) fn take_targets(&mut self, file: &str, bytes: &[u8]) -> Result<Vec<Persist>, TufError> {
        let meta = self.role_meta("targets").ok_or(TufError::NotFresh)?;
        is_listed(file, meta, bytes)?;
        let new = read::<Targets>(file, bytes, MAX_TARGETS_BYTES, &self.root().keys_of("targets"))?;
        has_version(file, meta.version, new.version())?;
        self.expect_fresh("targets", &new.claims().header)?;
        self.policy = new.claims().policy().map_err(|e| TufError::Malformed { file: file.to_owned(), cause: Arc::new(e) })?;
        self.targets = Some(new);
        self.phase = Phase::Delegated;
        Ok(vec![Persist { file: "targets.json".to_owned(), bytes: bytes.to_vec() }])
    }

    /// A delegated role's failure is its own: it is kept for [`Client::target`] and the refresh goes on.
    pub(super) fn take_delegated(&mut self, file: &str, bytes: Option<&[u8]>) -> Vec<Persist> {
        let Some((delegator, role)) = self.missing() else { return Vec::new() };
        let missing = || TufError::Missing { file: file.to_owned() };
        match bytes.ok_or_else(missing).and_then(|bytes| self.judge_delegated(&delegator, &role, file, bytes)) {
            Ok(document) => {
                let persist = Persist { file: file_name(&role), bytes: document.bytes().to_vec() };
                self.delegated.insert(role, document);
                vec![persist]
            }
            Err(error) => {
                self.refuse(delegator, role, error);
                Vec::new()
            }
        }
    }

    fn judge_delegated(&self, delegator: &str, role: &str, file: &str, bytes: &[u8]) -> Result<Document<Targets>, TufError> {
        let not_listed = || TufError::NotListed { role: role.to_owned() };
        let meta = self.role_meta(role).ok_or_else(not_listed)?;
        is_listed(file, meta, bytes)?;
        let (_, keys) = self.loaded(delegator).and_then(|d| d.claims().delegation(role)).ok_or_else(not_listed)?;
        let new = read::<Targets>(file, bytes, MAX_TARGETS_BYTES, &keys)?;
        has_version(file, meta.version, new.version())?;
        self.expect_fresh(role, &new.claims().header)?;
        Ok(new)
    }

    /// Not by the word of this delegator; another one may name other keys.
    fn refuse(&mut self, delegator: String, role: String, error: TufError) {
        self.failures.entry(role.clone()).or_insert_with(|| error.clone());
        self.refused.entry(role).or_default().insert(delegator, error);
    }

    /// Go on as far as stored copies reach, so that only what changed is fetched.
    pub(super) fn settle(&mut self) {
        if self.phase == Phase::Snapshot
            && let (Some(stored), Some(meta)) = (&self.snapshot, self.snapshot_meta())
            && self.is_current(stored, meta)
        {
            self.phase = Phase::Targets;
        }
        if self.phase == Phase::Targets
            && let (Some(stored), Some(meta)) = (&self.targets, self.role_meta("targets"))
            && self.is_current(stored, meta)
        {
            self.phase = Phase::Delegated;
        }
        // Each round loads a role or notes its failure, so the walk gets shorter; the bound is for a mistake here.
        for _ in 0..=MAX_ROLES + MAX_VISITED * self.named() {
            if self.phase != Phase::Delegated {
                return;
            }
            let Some((delegator, role)) = self.missing() else {
                self.phase = Phase::Done;
                return;
            };
            if self.role_meta(&role).is_none() {
                self.refuse(delegator, role.clone(), TufError::NotListed { role });
                continue;
            }
            let file = file_name(&role);
            let Some(stored) = self.stored.file(&file) else { return };
            match self.judge_delegated(&delegator, &role, &file, stored) {
                Ok(document) => drop(self.delegated.insert(role, document)),
                Err(_) => return,
            }
        }
    }

    fn is_current<T: Role>(&self, stored: &Document<T>, meta: &FileMeta) -> bool {
        stored.version() == meta.version
            && is_listed("", meta, stored.bytes()).is_ok()
            && !stored.claims().header().expires.is_over(self.now)
    }

    pub(super) fn snapshot_meta(&self) -> Option<&FileMeta> {
        self.timestamp.as_ref()?.claims().snapshot()
    }

    pub(super) fn role_meta(&self, role: &str) -> Option<&FileMeta> {
        self.snapshot.as_ref()?.claims().meta.get(&format!("{role}.json"))
    }

    /// A targets document of this refresh: the top-level one or a delegated one.
    pub(super) fn loaded(&self, role: &str) -> Option<&Document<Targets>> {
        if role == "targets" { self.targets.as_ref() } else { self.delegated.get(role) }
    }

    fn expect_fresh(&self, role: &str, header: &Header) -> Result<(), TufError> {
        if header.expires.is_over(self.now) {
            return Err(TufError::Expired { role: role.to_owned(), at: header.expires.moment(), now: self.now });
        }
        Ok(())
    }
}

/// A stored copy, if it still verifies.
fn trusted<T: Role>(bytes: Option<&[u8]>, max: u64, keys: &KeySet<'_>) -> Option<Document<T>> {
    let document = Document::<T>::parse(bytes?, usize::try_from(max).ok()?).ok()?;
    document.verify(keys).ok()?;
    Some(document)
}

fn read<T: Role>(file: &str, bytes: &[u8], max: u64, keys: &KeySet<'_>) -> Result<Document<T>, TufError> {
    let max = usize::try_from(max).unwrap_or(usize::MAX);
    let document =
        Document::<T>::parse(bytes, max).map_err(|cause| TufError::Malformed { file: file.to_owned(), cause: Arc::new(cause) })?;
    document.verify(keys).map_err(|cause| TufError::Unsigned { file: file.to_owned(), cause })?;
    Ok(document)
}

/// Length and digest as the parent lists them.
fn is_listed(file: &str, meta: &FileMeta, bytes: &[u8]) -> Result<(), TufError> {
    let len = bytes.len() as u64;
    if let Some(listed) = meta.length
        && listed != len
    {
        return Err(TufError::WrongLength { file: file.to_owned(), listed, got: len });
    }
    if !meta.matches(bytes) {
        return Err(TufError::WrongDigest { file: file.to_owned() });
    }
    Ok(())
}

fn has_version(file: &str, listed: u64, got: u64) -> Result<(), TufError> {
    if listed != got {
        return Err(TufError::WrongVersion { file: file.to_owned(), listed, got });
    }
    Ok(())
}

fn not_lower(what: &str, have: u64, got: u64) -> Result<(), TufError> {
    if got < have {
        return Err(TufError::Rollback { what: what.to_owned(), have, got });
    }
    Ok(())
}
