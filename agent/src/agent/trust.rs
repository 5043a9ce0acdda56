//! What the device believes: the director's root chain, the image repository's metadata, and how both are kept fresh.
//!
//! One refresh at a time: the director's next roots first, then the image repository step by step as the TUF client asks. It
//! runs for an assignment, or by itself now and then, so that a revocation reaches a device that nobody assigns anything.
//! What stays true: every file the client takes is written to disk before the next one is asked for.
use std::collections::BTreeSet;

use leeway_protocol::digest::Digest;
use leeway_protocol::reason::{Code, Reason};
use leeway_protocol::time::Timestamp;
use leeway_protocol::trust::keyring::PublicKey;
use leeway_protocol::trust::tuf::{Client, MAX_ROOT_BYTES, Persist, RootChain, Step, Stored as TufStored, Versions};

use super::Agent;
use super::persist::Saving;
use super::state::Seen;
use crate::action::{Action, Dir, DiskPath, FetchId, Level, MetadataFile, Repository};
use crate::event::{Fetched, Stored};

/// A device that was just switched on lets assignments go first.
const FIRST_REFRESH_MS: u64 = 60_000;
/// A path that no role speaks for: a refresh without an assignment loads no role's file.
const NO_PATH: &str = "-";
/// The role of the director's root whose keys sign assignments.
const DIRECTOR_ROLE: &str = "targets";
/// The longest base of file names we wrote ourselves: the director's root is stored under one name.
const IMAGE_ROOT: &str = "root.json";

/// What the device believes.
#[derive(Debug, Default)]
pub(super) struct Trust {
    pub(super) image: Option<Client>,
    pub(super) director: Option<RootChain>,
    /// The file being fetched, if a refresh is under way.
    wanted: Option<(FetchId, MetadataFile)>,
    /// When the next refresh is due by itself, on the steady clock.
    due: Option<u64>,
    /// Failed refreshes in a row.
    failures: u32,
    /// Why the last refresh failed, if it did.
    pub(super) trouble: Option<Reason>,
    /// Accepted files that the disk refused.
    pub(super) unsaved: Vec<(DiskPath, Vec<u8>)>,
    /// The versions that were last known to be on disk.
    saved: Versions,
    /// Roots that lie on the disk in one copy only.
    pub(super) lone: Vec<(DiskPath, Vec<u8>)>,
    /// The image root that the device was made with.
    made_with: Option<Digest>,
    /// A desired document that had expired by the clock of that moment; looked at again if the clock is set back.
    pub(super) late: Option<(Timestamp, Vec<u8>)>,
    /// A desired document that no known director root explains was seen; looked at again after the next refresh.
    pub(super) unexplained: Option<Vec<u8>>,
}

/// The material of the keys that may sign assignments.
fn director_keys(chain: &RootChain) -> BTreeSet<PublicKey> {
    chain.root().keys_of(DIRECTOR_ROLE).iter().cloned().collect()
}

impl Trust {
    /// The versions that lie on the disk: only those may be spoken of, for a restart begins with them.
    pub(super) fn versions(&self) -> Versions {
        if self.unsaved.is_empty() { self.accepted() } else { self.saved.clone() }
    }

    /// Everything that was asked of the disk before this moment was done.
    pub(super) fn disk_has_followed(&mut self) {
        if self.unsaved.is_empty() {
            self.saved = self.accepted();
        }
    }

    fn accepted(&self) -> Versions {
        self.image.as_ref().map(Client::versions).unwrap_or_default()
    }
}

impl Agent {
    /// Read what enrolment and earlier refreshes left.
    pub(super) fn load_trust(&mut self, stored: &Stored) {
        let now = self.clock.trusted();
        let files = stored.files.iter().filter(|(path, _)| path.dir() == Dir::Tuf && !path.is_leftover());
        let tuf: TufStored = files.filter_map(|(path, file)| Some((path.name().to_owned(), file.bytes.clone()?))).collect();
        let copy = DiskPath::tuf(IMAGE_ROOT).unwrap_or_else(DiskPath::image_root);
        match self.whole_root(&DiskPath::image_root(), &copy, stored) {
            Some(root) => match Client::new(&root, tuf, now) {
                Ok(mut client) => {
                    client.only_for(NO_PATH);
                    self.trust.image = Some(client);
                    self.trust.made_with = stored.bytes(&DiskPath::image_root()).map(Digest::of);
                }
                Err(error) => {
                    self.log(Level::Error, format!("the image root cannot be used, so nothing is installed; enrol again: {error}"))
                }
            },
            None => self.log(Level::Error, "there is no image root, so nothing is installed; enrol the device".to_owned()),
        }
        let (made_with, newest) = (DiskPath::enrolled_director_root(), DiskPath::director_root());
        match self.whole_root(&made_with, &newest, stored).map(|root| RootChain::new(&root, stored.bytes(&newest))) {
            Some(Ok(chain)) => self.trust.director = Some(chain),
            Some(Err(error)) => {
                self.log(Level::Error, format!("the director's root cannot be used, so no assignment is followed; enrol again: {error}"))
            }
            None => self.log(Level::Error, "there is no director's root, so no assignment is followed; enrol the device".to_owned()),
        }
        self.trust.due = Some(self.clock.steady().saturating_add(self.jitter("refresh", self.state.boot.0, FIRST_REFRESH_MS)));
    }

    /// The root that the device was made with, or, if that has rotted, the newest that the agent wrote down itself. What lies there in
    /// one copy only is written down a second time after the next refresh.
    fn whole_root(&mut self, made_with: &DiskPath, newest: &DiskPath, stored: &Stored) -> Option<Vec<u8>> {
        let (given, kept) = (stored.bytes(made_with), stored.bytes(newest));
        let root = match (given.map(|root| RootChain::new(root, kept)), kept) {
            (Some(Ok(chain)), kept) => {
                if kept != Some(chain.bytes()) {
                    self.trust.lone.push((newest.clone(), chain.bytes().to_vec()));
                }
                return given.map(<[u8]>::to_vec);
            }
            (None, None) => return None,
            (_, Some(kept)) if RootChain::new(kept, None).is_ok() => kept,
            // There is no good one; what is wrong with it is told by who tries to use it.
            (_, _) => return given.or(kept).map(<[u8]>::to_vec),
        };
        self.log(Level::Error, format!("{made_with} is damaged or missing; {newest} takes its place. Enrol again to have both"));
        Some(root.to_vec())
    }

    /// Whether the director's root is older than one that was accepted, because its file was lost: then it says nothing about today.
    pub(super) fn director_lags(&self) -> bool {
        let same = self.state.seen.under.is_some() && self.state.seen.under == self.trust.made_with;
        let version = self.trust.director.as_ref().map_or(0, |chain| chain.root().header.version);
        same && version < self.state.seen.director
    }

    /// Write down the versions that are trusted now, beside the files that hold them.
    fn note_versions(&mut self) {
        let (Some(image), Some(director)) = (&self.trust.image, &self.trust.director) else { return };
        if !self.trust.unsaved.is_empty() || self.trust.made_with.is_none() {
            return;
        }
        let now = image.versions();
        let before = &self.state.seen;
        let same = before.root == now.root && before.targets == now.targets && before.under == self.trust.made_with;
        let mut roles = if same { before.roles.clone() } else { Default::default() };
        roles.extend(now.roles);
        let seen = Seen {
            under: self.trust.made_with,
            root: now.root,
            timestamp: now.timestamp,
            snapshot: now.snapshot,
            targets: now.targets,
            roles,
            director: director.root().header.version,
        };
        if *before != seen {
            self.state.seen = seen;
            self.save(Saving::Note);
        }
    }

    /// Whether a refresh is under way.
    pub(super) fn is_refreshing(&self) -> bool {
        self.trust.wanted.is_some()
    }

    /// Begin a refresh, or go on with the one under way; `path` is the target that is wanted.
    pub(super) fn refresh(&mut self, path: Option<&str>) {
        let now = self.clock.trusted();
        if let (Some(image), Some(path)) = (&mut self.trust.image, path) {
            image.only_for(path);
        }
        if self.is_refreshing() {
            return;
        }
        for (path, bytes) in std::mem::take(&mut self.trust.unsaved) {
            self.keep_metadata(path, bytes);
        }
        match &mut self.trust.image {
            Some(image) => image.refresh(now),
            None => return self.refresh_failed(Reason::new(Code::SignatureInvalid, "the device has no image root: enrol it")),
        }
        match self.trust.director.as_ref().map(|chain| (RootChain::new(chain.bytes(), None), chain.next_file())) {
            Some((Ok(chain), name)) => {
                self.trust.director = Some(chain);
                self.want(Repository::Director, name, MAX_ROOT_BYTES);
            }
            _ => self.next_image_file(),
        }
    }

    fn want(&mut self, repository: Repository, name: String, max_len: u64) {
        let (fetch, file) = (self.next_fetch(), MetadataFile { repository, name });
        self.trust.wanted = Some((fetch, file.clone()));
        self.last.asks();
        self.out.push(Action::FetchMetadata { fetch, file, max_len });
    }

    fn next_image_file(&mut self) {
        match self.trust.image.as_ref().map(Client::next) {
            Some(Step::Need { file, max_len, .. }) => self.want(Repository::Image, file, max_len),
            Some(Step::Done) => self.refreshed(),
            None => self.refresh_failed(Reason::new(Code::MetadataUnavailable, "the device has no image root")),
        }
    }

    /// An answer to a metadata fetch.
    pub(super) fn metadata(&mut self, fetch: FetchId, file: &MetadataFile, fetched: Fetched) {
        if !matches!(&self.trust.wanted, Some((wanted, name)) if *wanted == fetch && name == file) {
            return;
        }
        self.trust.wanted = None;
        let bytes = match fetched {
            Fetched::Bytes(bytes) => Some(bytes),
            Fetched::Absent => None,
            Fetched::Failed(why) => {
                return self.refresh_failed(Reason::new(Code::MetadataUnavailable, format_args!("{}: {why}", file.url_path())));
            }
        };
        match file.repository {
            Repository::Director => self.take_director_root(bytes),
            Repository::Image => self.take_image_file(&file.name, bytes),
        }
    }

    fn take_director_root(&mut self, bytes: Option<Vec<u8>>) {
        let (Some(chain), Some(bytes)) = (&mut self.trust.director, bytes) else { return self.next_image_file() };
        let before = director_keys(chain);
        match chain.provide(&bytes) {
            Ok(Persist { bytes, .. }) => {
                let next = chain.next_file();
                // Whoever lost the key may have signed moments far ahead, and nothing fresh would look fresh any more.
                let lost_one = !before.is_subset(&director_keys(chain));
                if lost_one {
                    self.clock.forget_signed();
                    self.state.trusted_at = None;
                    self.save(Saving::Note);
                }
                self.keep_metadata(DiskPath::director_root(), bytes);
                self.want(Repository::Director, next, MAX_ROOT_BYTES);
            }
            Err(error) => self.refresh_failed(Reason::new(error.code(), format_args!("director: {error}"))),
        }
    }

    fn take_image_file(&mut self, name: &str, bytes: Option<Vec<u8>>) {
        let Some(image) = &mut self.trust.image else { return };
        let before = image.clone();
        match image.provide(name, bytes.as_deref()) {
            Ok(persist) => {
                let bound = self.state.seen.under.is_some() && self.state.seen.under == self.trust.made_with && !name.ends_with(IMAGE_ROOT);
                if let Some(older) = self.state.seen.forbids(&image.versions()).filter(|_| bound) {
                    *image = before;
                    return self.refresh_failed(Reason::new(Code::MetadataRollback, older));
                }
                let policy_may_differ = persist.iter().any(|p| p.file == "targets.json" || p.file == IMAGE_ROOT);
                self.keep_persist(persist);
                if policy_may_differ {
                    self.enforce_policy();
                }
                self.next_image_file();
            }
            Err(error) => self.refresh_failed(Reason::new(error.code(), error)),
        }
    }

    fn refreshed(&mut self) {
        self.trust.failures = 0;
        self.trust.trouble = None;
        let span = self.jitter("refresh", self.clock.steady(), self.settings.timing.refresh_ms);
        self.trust.due = Some(self.clock.steady().saturating_add(span));
        for (path, bytes) in std::mem::take(&mut self.trust.lone) {
            self.keep_metadata(path, bytes);
        }
        self.note_versions();
        self.enforce_policy();
        if let Some(bytes) = self.trust.unexplained.take() {
            self.desired_again(bytes);
        }
        self.metadata_is_fresh();
        self.link.report_due = true;
    }

    /// The refresh under way, if any, ends here; it is tried again.
    pub(super) fn refresh_failed(&mut self, reason: Reason) {
        self.trust.wanted = None;
        self.trust.failures = self.trust.failures.saturating_add(1);
        let delay = self.retry_delay("refresh", self.trust.failures);
        self.trust.due = Some(self.clock.steady().saturating_add(delay));
        if self.trust.trouble.as_ref().map(|r| &r.code) != Some(&reason.code) {
            self.log(Level::Warn, format!("the signed metadata was not refreshed: {reason}"));
            self.link.report_due = true;
        }
        self.trust.trouble = Some(reason.clone());
        self.metadata_is_not_fresh(reason);
    }

    pub(super) fn refresh_when_due(&mut self) {
        let due = self.trust.due.is_some_and(|at| at <= self.clock.steady());
        if due && !self.is_refreshing() && !self.stopping && self.trust.image.is_some() {
            self.refresh(None);
        }
    }

    pub(super) fn refresh_due(&self) -> Option<u64> {
        if self.is_refreshing() || self.trust.image.is_none() { None } else { self.trust.due }
    }

    /// Whether something new may be installed by what is trusted now; else why not.
    pub(super) fn metadata_problem(&self) -> Option<String> {
        let image = self.trust.image.as_ref()?;
        if image.versions().timestamp == 0 {
            return Some("no signed metadata was accepted yet".to_owned());
        }
        let expires = image.expires();
        if expires <= self.clock.trusted() {
            return Some(format!("the signed metadata expired at {expires}; nothing new is installed until it is renewed"));
        }
        None
    }
}
