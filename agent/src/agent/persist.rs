//! What goes to disk, in which order, and what follows when the disk refuses.
//!
//! A document is replaced whole: write a new copy, sync it, rename it over the old one, sync the directory. A failed effect
//! ends its list, so whatever came after it did not happen: [`Last`] remembers what that was, and [`Agent::disk_failed`] puts the
//! agent back to where the disk is. What stays true: the running model goes on whatever the disk does.
use std::collections::{BTreeMap, BTreeSet};

use leeway_protocol::digest::Digest;
use leeway_protocol::ids::BootId;
use leeway_protocol::manifest::Blob;
use leeway_protocol::reason::{Code, Reason};
use leeway_protocol::trust::tuf::Persist;

use super::state::State;
use super::{Agent, Followed};
use crate::action::{Action, Dir, DiskOp, DiskPath, Level, OutboxKind, RunId};
use crate::deployment::Deployment;
use crate::probation::Gate;
use crate::slot::Slots;

/// Tries to remove a file that the disk does not let go, and files that are kept in mind for that.
const REMOVE_TRIES: u32 = 20;
const MAX_UNREMOVED: usize = 1024;

/// What the list of one event depends on. Each entry carries its place: how many disk effects stood before it in the list.
#[derive(Debug, Default)]
pub(super) struct Last {
    /// The disk effects, as they are named when they fail.
    effects: Vec<String>,
    /// State that was saved.
    savings: Vec<(usize, Saving)>,
    /// Messages that were written.
    messages: Vec<(usize, Message)>,
    /// Metadata that was written.
    metadata: Vec<(usize, (DiskPath, Vec<u8>))>,
    /// A download that was moved to its place.
    moved: Option<usize>,
    /// The last thing that was asked for and will be answered.
    asked: Option<usize>,
    /// A serving runner that was started.
    started_runner: Option<usize>,
    /// A candidate's runner that was started.
    started_candidate: Option<usize>,
    /// Files that were removed, and how often the disk had refused to before.
    removed: Vec<(usize, DiskPath, u32)>,
    /// Runners that were ended.
    killed: Vec<(usize, RunId)>,
}

impl Last {
    /// The place of what comes next.
    fn place(&self) -> usize {
        self.effects.len()
    }

    /// Something was asked for that will be answered.
    pub(super) fn asks(&mut self) {
        self.asked = Some(self.place());
    }

    /// A serving runner is started.
    pub(super) fn starts_runner(&mut self) {
        self.started_runner = Some(self.place());
    }

    /// A runner is ended.
    pub(super) fn kills(&mut self, run: RunId) {
        self.killed.push((self.place(), run));
    }

    /// A candidate's runner is started.
    pub(super) fn starts_candidate(&mut self) {
        self.started_candidate = Some(self.place());
    }

    /// Drop what was done before the effect `failed`, and leave what was not. An effect that stands in the list twice counts
    /// at its first place: what is done again is harmless, what is believed done and was not is not.
    fn keep_lost(&mut self, failed: &str) {
        let at = self.effects.iter().position(|effect| effect == failed).unwrap_or(0);
        let lost = |place: usize| place > at;
        self.savings.retain(|(place, _)| lost(*place));
        self.messages.retain(|(place, _)| lost(*place));
        self.metadata.retain(|(place, _)| lost(*place));
        self.removed.retain(|(place, ..)| lost(*place));
        for (_, _, tries) in self.removed.iter_mut().filter(|(place, ..)| *place == at + 1) {
            *tries = tries.saturating_add(1);
        }
        self.killed.retain(|(place, _)| lost(*place));
        for place in [&mut self.moved, &mut self.asked, &mut self.started_runner, &mut self.started_candidate] {
            *place = place.filter(|place| lost(*place));
        }
    }
}

/// A message that was sealed in a list.
#[derive(Debug)]
pub(super) struct Message {
    pub(super) key: (BootId, u64),
    pub(super) kind: OutboxKind,
    pub(super) body: Vec<u8>,
}

/// Why the state is saved, and how to take it back.
#[derive(Debug)]
pub(super) enum Saving {
    /// The number of this start.
    Boot,
    /// A newer assignment: the state and the assignment before it, and the document.
    Accept(Box<(State, Option<Followed>, Vec<u8>)>),
    /// A trial begins: the slots before it.
    Trial(Box<Slots>),
    /// A trial goes on with one start less.
    Boots,
    /// A trial was passed: the state before it, and the trial.
    Commit(Box<(State, Gate)>),
    /// Nothing waits for it; it is saved again later.
    Note,
}

/// The blobs and downloads that lie on the disk.
#[derive(Debug, Default)]
pub(super) struct Files {
    pub(super) blobs: BTreeMap<Digest, u64>,
    pub(super) staging: BTreeSet<Digest>,
}

impl Files {
    /// Whether the whole blob is there.
    pub(super) fn has(&self, blob: &Blob) -> bool {
        self.blobs.get(&blob.digest) == Some(&blob.length)
    }
}

impl Agent {
    pub(super) fn disk(&mut self, op: DiskOp) {
        self.last.effects.push(op.to_string());
        match &op {
            DiskOp::Remove { path } => self.last.removed.push((self.last.place(), path.clone(), 0)),
            // What is written anew is not what was to be removed.
            op => drop(op.path().and_then(|path| self.unremoved.remove(path))),
        }
        self.out.push(Action::Disk(op));
    }

    /// End a runner without asking it.
    pub(super) fn kill(&mut self, run: RunId) {
        self.last.kills(run);
        self.out.push(Action::KillRunner { run });
    }

    /// Replace a document whole.
    pub(super) fn replace(&mut self, path: DiskPath, bytes: Vec<u8>) {
        let new = path.new_copy();
        let dir = path.dir();
        self.disk(DiskOp::Write { path: new.clone(), bytes });
        self.disk(DiskOp::Sync { path: new.clone() });
        self.disk(DiskOp::Rename { from: new, to: path });
        self.disk(DiskOp::SyncDir { dir });
    }

    /// Save the state, both copies: the first is what counts, the second is for a rotten first.
    pub(super) fn save(&mut self, saving: Saving) {
        if matches!(saving, Saving::Note) && !self.disk_is_ready() {
            self.unsaved = true;
            return;
        }
        let bytes = self.state.to_bytes();
        self.replace(DiskPath::state(), bytes.clone());
        self.replace(DiskPath::counters(), bytes);
        self.unsaved = false;
        if matches!(saving, Saving::Boot) {
            self.boot_ready = true;
        }
        self.last.savings.push((self.last.place(), saving));
    }

    pub(super) fn remove(&mut self, path: DiskPath) {
        self.disk(DiskOp::Remove { path });
    }

    /// Keep a metadata file; it is tried again before the next refresh if the disk refuses.
    pub(super) fn keep_metadata(&mut self, path: DiskPath, bytes: Vec<u8>) {
        self.trust.lone.retain(|(lone, _)| *lone != path);
        self.replace(path.clone(), bytes.clone());
        self.last.metadata.push((self.last.place(), (path, bytes)));
    }

    pub(super) fn keep_persist(&mut self, persist: Vec<Persist>) {
        for Persist { file, bytes } in persist {
            match DiskPath::tuf(&file) {
                Some(path) => self.keep_metadata(path, bytes),
                None => self.log(Level::Error, format!("metadata file {file:?} has a name that cannot be a file name and is not kept")),
            }
        }
    }

    /// A whole, verified download becomes a blob.
    pub(super) fn keep_blob(&mut self, digest: Digest, length: u64) {
        self.disk(DiskOp::Rename { from: DiskPath::staging(&digest), to: DiskPath::blob(&digest) });
        self.disk(DiskOp::SyncDir { dir: Dir::Blobs });
        self.files.staging.remove(&digest);
        self.files.blobs.insert(digest, length);
        self.last.moved = Some(self.last.place());
    }

    /// Remember that a message was written in this list.
    pub(super) fn wrote_message(&mut self, message: Message) {
        self.last.messages.push((self.last.place(), message));
    }

    /// Save again what an earlier failure kept from the disk.
    pub(super) fn save_what_lags(&mut self) {
        if self.disk_is_ready() && (self.unsaved || !self.boot_ready) {
            self.save(if self.boot_ready { Saving::Note } else { Saving::Boot });
        }
        if self.disk_is_ready() {
            for (path, tries) in std::mem::take(&mut self.unremoved) {
                self.remove_again(path, tries);
            }
        }
    }

    fn remove_again(&mut self, path: DiskPath, tries: u32) {
        self.remove(path);
        if let Some((_, _, tried)) = self.last.removed.last_mut() {
            *tried = tries;
        }
    }

    /// Removals that the disk refused or did not come to: without them the files would lie there until the next start. One that is
    /// refused again and again is left for that, because each try keeps everything else from the disk for a while.
    fn keep_unremoved(&mut self, removed: Vec<(usize, DiskPath, u32)>) {
        for (_, path, tries) in removed {
            if tries >= REMOVE_TRIES {
                self.log(Level::Warn, format!("{path} is left until the next start"));
            } else if self.unremoved.len() < MAX_UNREMOVED {
                self.unremoved.insert(path, tries);
            }
        }
    }

    /// A disk effect failed, and nothing after it in the last list was done.
    pub(super) fn disk_failed(&mut self, what: &str, path: Option<&DiskPath>, full: bool, error: &str) {
        let (code, remedy) = if full { (Code::DiskFull, "free some space") } else { (Code::DiskFailed, "check the disk") };
        self.log(Level::Error, format!("the disk refused to {what}: {error}; {remedy}, the agent tries again"));
        self.disk_pause = Some(self.clock.steady().saturating_add(self.settings.timing.disk_pause_ms));
        let reason = Reason::new(code, format_args!("{what}: {error}"));
        let mut last = std::mem::take(&mut self.last);
        let refused_to_go = last.removed.iter().any(|(_, removed, _)| Some(removed) == path);
        if let Some(path) = path.filter(|path| path.is_leftover() && !refused_to_go) {
            // What was not synced must never be renamed into place by a later try; and it may be what fills the disk.
            self.remove(path.clone());
        }
        last.keep_lost(what);
        for (_, run) in std::mem::take(&mut last.killed) {
            self.kill(run);
        }
        self.keep_unremoved(std::mem::take(&mut last.removed));
        self.take_back_messages(last.messages, full);
        if last.moved.is_some() {
            self.forget_moved();
        }
        if (last.asked.is_some() || !last.metadata.is_empty()) && self.is_refreshing() {
            self.refresh_failed(reason.clone());
        }
        self.trust.unsaved.extend(last.metadata.into_iter().map(|(_, file)| file));
        let lost = last.moved.is_some() || last.asked.is_some() || last.started_candidate.is_some();
        if lost && matches!(self.deployment, Deployment::Fetching(_) | Deployment::Staged(_) | Deployment::SelfTesting { .. }) {
            self.fault(reason.clone());
        }
        if last.started_runner.is_some() {
            self.serving = None;
        }
        for (_, saving) in last.savings.into_iter().rev() {
            self.take_back(saving, &reason);
        }
        if last.started_runner.is_some() {
            self.start_serving();
        }
    }

    /// Messages that were to be written are held in memory for another try; a full disk costs the oldest message on it.
    fn take_back_messages(&mut self, messages: Vec<(usize, Message)>, full: bool) {
        for (_, message) in messages {
            if let Some(file) = self.outbox.forget(message.key) {
                self.remove(file.new_copy());
                self.remove(file);
            }
            self.hold(message.kind, message.body);
        }
        if full && let Some(oldest) = self.outbox.forget_oldest() {
            self.state.dropped = self.state.dropped.saturating_add(1);
            self.unsaved = true;
            self.remove(oldest);
        }
    }

    fn take_back(&mut self, saving: Saving, reason: &Reason) {
        self.unsaved = true;
        // What was given up to make room in the meantime stays counted.
        let dropped = self.state.dropped;
        match saving {
            Saving::Note => {}
            Saving::Boot => {
                self.boot_ready = false;
                if self.state.slots.trial.is_some() {
                    // Its start could not be taken off its budget, so it does not start.
                    self.revert(reason.clone());
                }
            }
            Saving::Boots => self.revert(reason.clone()),
            Saving::Trial(before) => {
                self.state.slots = *before;
                self.forget_shadow();
                self.fault(reason.clone());
            }
            Saving::Commit(before) => {
                let (state, gate) = *before;
                self.state = State { dropped, ..state };
                // Not a move: the commit never happened.
                self.deployment = Deployment::Probation(gate);
            }
            Saving::Accept(before) => {
                let (state, followed, bytes) = *before;
                self.unsaved = dropped != state.dropped;
                self.state = State { dropped, ..state };
                self.followed = followed;
                self.pending = Some(bytes);
                self.resume();
            }
        }
    }

    /// It is not known whether the rename happened: ask for the blob again, the executor resumes from whatever is there.
    fn forget_moved(&mut self) {
        let kept: BTreeSet<Digest> = self.state.slots.blobs().collect();
        self.files.blobs.retain(|digest, _| kept.contains(digest));
    }

    /// Remove blobs and downloads that nothing refers to.
    pub(super) fn collect_garbage(&mut self) {
        let mut keep: BTreeSet<Digest> = self.state.slots.blobs().collect();
        keep.extend(self.followed.iter().filter_map(|f| Some(f.directive.target.as_ref()?.sha256)));
        keep.extend(self.deployment_blobs());
        let blobs: Vec<Digest> = self.files.blobs.keys().filter(|digest| !keep.contains(digest)).copied().collect();
        for digest in blobs {
            self.files.blobs.remove(&digest);
            self.remove(DiskPath::blob(&digest));
        }
        let parts: Vec<Digest> = self.files.staging.iter().filter(|digest| !keep.contains(digest)).copied().collect();
        for digest in parts {
            self.files.staging.remove(&digest);
            self.remove(DiskPath::staging(&digest));
        }
    }
}
