//! Changing keys: what the people of a fleet do after a theft, and what thieves do with what they stole.
//!
//! The same builders and the same repository that a real fleet has; only that everybody is in one room. What stays true: each
//! change is a new version, signed by as many of the old and of the new keys as a device asks for.
use leeway_protocol::trust::keyring::PublicKey;
use leeway_protocol::trust::metadata::{Document, LinePolicy, Root};
use leeway_protocol::trust::repository::RootBuilder;

use super::*;
use crate::world::DIRECTOR;

/// The people who sign roots, and those who sign targets.
const ROOT_KEYS: [&str; 3] = ["root-1", "root-2", "root-3"];
const TARGETS_KEYS: [&str; 3] = ["targets-1", "targets-2", "targets-3"];
/// What the director's one key signs for.
const DIRECTOR_ROLES: [&str; 3] = ["targets", "snapshot", "timestamp"];
/// Signatures that root and targets ask for.
const THRESHOLD: u32 = 2;
/// The longest root that is read back.
const MAX_ROOT_BYTES: usize = 512 << 10;

impl Press {
    /// A key, as whoever has it now.
    pub fn key(&self, name: &'static str) -> Result<&SigningKey, PressError> {
        self.ceremony.key(name).ok_or(PressError::NoKey(name))
    }

    /// The keys that release for the line.
    pub fn line_keys(&self) -> &[SigningKey] {
        &self.line_keys
    }

    /// Everything that both repositories serve, for a mirror.
    pub fn everything(&self) -> BTreeMap<String, Vec<u8>> {
        let mut files = self.state.files().clone();
        files.extend(self.director_roots.iter().enumerate().map(|(n, root)| (format!("{DIRECTOR}{}.root.json", n + 1), root.clone())));
        files
    }

    /// The image repository: the same code that a controller has.
    pub fn repository(&self) -> &RepositoryState {
        &self.state
    }

    /// New snapshot and timestamp keys by a new root.
    pub fn rotate_freshness(&mut self, now: Timestamp) -> Result<(), PressError> {
        let (snapshot, timestamp) = (self.fresh("snapshot")?, self.fresh("timestamp")?);
        (self.signer.snapshot, self.signer.timestamp) = (self.key("snapshot")?.clone(), self.key("timestamp")?.clone());
        let root = self.next_root(now).role("snapshot", &[snapshot], 1).role("timestamp", &[timestamp], 1);
        let bytes = root.sign(&self.people(&["root-1", "root-2"])?)?;
        self.take_root(&bytes, now)
    }

    /// A new director key by a new root of the director.
    pub fn rotate_director(&mut self, now: Timestamp) -> Result<(), PressError> {
        let director = self.fresh("director")?;
        self.signer.director = self.key("director")?.clone();
        let bytes = with_director(self.next_director_root(now)?, director).sign(&self.people(&["root-1", "root-2"])?)?;
        self.director_roots.push(bytes);
        Ok(())
    }

    /// Every online key and one person's, by one new root of each repository.
    pub fn rotate_everything(&mut self, person: &'static str, now: Timestamp) -> Result<(), PressError> {
        let [snapshot, timestamp, director, _] =
            [self.fresh("snapshot")?, self.fresh("timestamp")?, self.fresh("director")?, self.fresh(person)?];
        self.signer.snapshot = self.key("snapshot")?.clone();
        self.signer.timestamp = self.key("timestamp")?.clone();
        self.signer.director = self.key("director")?.clone();
        let publics = self.publics(&ROOT_KEYS)?;
        let others: Vec<&'static str> = ROOT_KEYS.into_iter().filter(|name| *name != person).collect();
        let image = self.next_root(now).role("root", &publics, THRESHOLD).role("snapshot", &[snapshot], 1);
        let image = image.role("timestamp", &[timestamp], 1).sign(&self.people(&others)?)?;
        let directors = with_director(self.next_director_root(now)?.role("root", &publics, THRESHOLD), director);
        let directors = directors.sign(&self.people(&others)?)?;
        self.director_roots.push(directors);
        self.take_root(&image, now)
    }

    /// Another key for one of the people who sign roots, by roots of both repositories that the other two sign.
    pub fn replace_root_key(&mut self, stolen: &'static str, now: Timestamp) -> Result<(), PressError> {
        self.fresh(stolen)?;
        let publics = self.publics(&ROOT_KEYS)?;
        let others: Vec<&'static str> = ROOT_KEYS.into_iter().filter(|name| *name != stolen).collect();
        let image = self.next_root(now).role("root", &publics, THRESHOLD).sign(&self.people(&others)?)?;
        let director = self.next_director_root(now)?.role("root", &publics, THRESHOLD).sign(&self.people(&others)?)?;
        self.director_roots.push(director);
        self.take_root(&image, now)
    }

    /// `count` new keys for the line, all of which must sign, by new targets with this change of the line's policy; and the
    /// line's releases signed again by them.
    pub fn replace_line_keys(&mut self, count: u32, now: Timestamp, edit: impl FnOnce(&mut LinePolicy)) -> Result<(), PressError> {
        self.line_keys = (0..count).map(|_| self.draw()).collect();
        let publics: Vec<PublicKey> = self.line_keys.iter().map(SigningKey::public).collect();
        let current = self.state.role("targets").ok_or(PressError::NoKey("targets"))?;
        let mut after = LinePolicy::default();
        let builder = TargetsBuilder::after(&current, now.plus_secs(self.signer.lifetimes.targets_secs))?
            .line(&self.line, &publics, count)
            .policy(&self.line, |policy| {
                edit(policy);
                after = policy.clone();
            });
        let version = self.state.next_version("targets");
        self.floors.insert(version, after.min_seq);
        for release in self.releases.iter_mut().filter(|release| after.is_revoked(&release.model.digest)) {
            release.revoked_in.get_or_insert(version);
        }
        let signed = builder.sign(&self.people(&["targets-1", "targets-3"])?)?;
        self.state.accept_targets(&signed, &self.signer, now)?;
        let role = release_role(&self.line);
        if let Some(releases) = self.state.role(&role) {
            let again = RoleBuilder::after(&releases, false, now.plus_secs(self.signer.lifetimes.role_secs));
            let signed = again.sign(&self.line_keys.iter().collect::<Vec<_>>())?;
            self.state.accept_role(&role, &signed, &self.signer, now)?;
        }
        self.remember();
        Ok(())
    }

    /// What thieves of two root keys do: roots of both repositories, and targets, in which every key is their own.
    pub fn seize(&mut self, now: Timestamp) -> Result<(), PressError> {
        let stolen: Vec<SigningKey> = self.people(&["root-1", "root-2"])?.into_iter().cloned().collect();
        for name in ROOT_KEYS.into_iter().chain(TARGETS_KEYS).chain(DIRECTOR_ROLES.into_iter().skip(1)).chain(["director"]) {
            self.fresh(name)?;
        }
        self.signer.snapshot = self.key("snapshot")?.clone();
        self.signer.timestamp = self.key("timestamp")?.clone();
        self.signer.director = self.key("director")?.clone();
        let mut signers: Vec<&SigningKey> = stolen.iter().collect();
        signers.extend(self.people(&["root-1", "root-2"])?);
        let image = self
            .next_root(now)
            .role("root", &self.publics(&ROOT_KEYS)?, THRESHOLD)
            .role("targets", &self.publics(&TARGETS_KEYS)?, THRESHOLD)
            .role("snapshot", &[self.signer.snapshot.public()], 1)
            .role("timestamp", &[self.signer.timestamp.public()], 1)
            .sign(&signers)?;
        let directors = self.next_director_root(now)?.role("root", &self.publics(&ROOT_KEYS)?, THRESHOLD);
        let directors = with_director(directors, self.signer.director.public()).sign(&signers)?;
        let line_key = self.draw();
        let current = self.state.role("targets").ok_or(PressError::NoKey("targets"))?;
        let policy = TargetsBuilder::after(&current, now.plus_secs(self.signer.lifetimes.targets_secs))?
            .line(&self.line, &[line_key.public()], 1)
            .sign(&self.people(&["targets-1", "targets-2"])?)?;
        self.state.accept_root_with(&image, Some(&policy), &self.signer, now)?;
        self.line_keys = vec![line_key];
        self.director_roots.push(directors);
        self.remember();
        Ok(())
    }

    /// A root after the newest, in which thieves of these root keys name only themselves, with every signature they can make.
    pub fn forged_root(&mut self, stolen: &[&'static str], now: Timestamp) -> Result<Vec<u8>, PressError> {
        let own = self.draw();
        let all = ["root", "targets", "snapshot", "timestamp"];
        let root = all.iter().fold(self.next_root(now), |root, role| root.role(role, &[own.public()], 1));
        let mut signers = self.people(stolen)?;
        signers.push(&own);
        Ok(root.sign(&signers)?)
    }

    fn take_root(&mut self, bytes: &[u8], now: Timestamp) -> Result<(), PressError> {
        self.state.accept_root(bytes, &self.signer, now)?;
        self.remember();
        Ok(())
    }

    fn next_root(&self, now: Timestamp) -> RootBuilder {
        RootBuilder::after(self.state.contents().root(), now.plus_secs(self.signer.lifetimes.root_secs))
    }

    fn next_director_root(&self, now: Timestamp) -> Result<RootBuilder, PressError> {
        let newest = self.director_roots.last().map_or(&[][..], Vec::as_slice);
        let newest = Document::<Root>::parse(newest, MAX_ROOT_BYTES)?;
        Ok(RootBuilder::after(newest.claims(), now.plus_secs(self.signer.lifetimes.root_secs)))
    }

    fn people(&self, names: &[&'static str]) -> Result<Vec<&SigningKey>, PressError> {
        names.iter().map(|name| self.key(name)).collect()
    }

    fn publics(&self, names: &[&'static str]) -> Result<Vec<PublicKey>, PressError> {
        names.iter().map(|name| Ok(self.key(name)?.public())).collect()
    }

    /// Draw another key in place of the one called `name`.
    fn fresh(&mut self, name: &'static str) -> Result<PublicKey, PressError> {
        let key = self.draw();
        let public = key.public();
        let place = self.ceremony.keys.iter_mut().find(|known| known.name == name).ok_or(PressError::NoKey(name))?;
        place.key = key;
        Ok(public)
    }

    fn draw(&mut self) -> SigningKey {
        self.drawn += 1;
        SigningKey::from_seed(&self.rng.fork("rotation", self.drawn).bytes32())
    }
}

fn with_director(root: RootBuilder, key: PublicKey) -> RootBuilder {
    DIRECTOR_ROLES.iter().fold(root, |root, role| root.role(role, &[key], 1))
}
