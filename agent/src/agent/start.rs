//! The first event: from what lies on the disk back to where the device was, and something good answering as soon as it can.
//!
//! Order: what may answer without the disk's help is started first; then the number of this start is written, which everything
//! that is sealed needs; a start on trial is taken off its budget in the same write and happens after it.
use leeway_protocol::manifest::Manifest;
use leeway_protocol::reason::{Code, Reason};

use super::Agent;
use super::persist::Saving;
use super::state::{Outcome, State};
use crate::action::{Dir, DiskPath, Level};
use crate::control::Slot;
use crate::event::Stored;
use crate::slot::Release;

impl Agent {
    pub(super) fn start(&mut self, stored: &Stored) {
        let (state, damaged) = State::restore(stored.bytes(&DiskPath::state()), stored.bytes(&DiskPath::counters()));
        self.state = state;
        if damaged {
            self.log(
                Level::Error,
                "a copy of the state was damaged and is not used; the other copy and the broker fill the gap".to_owned(),
            );
        }
        if let Some(at) = self.state.trusted_at {
            self.clock.accept(at);
        }
        self.count_start(stored);
        self.load_certificate();
        self.load_files(stored);
        self.load_factory(stored);
        self.load_trust(stored);
        self.load_outbox(stored);
        if let Some(bytes) = stored.bytes(&DiskPath::desired()) {
            self.load_followed(bytes);
        }
        let files = std::mem::take(&mut self.files);
        if self.state.slots.forget_missing(|blob| files.has(blob)) {
            self.log(Level::Error, "files of a release are missing, so its slot is empty now".to_owned());
            self.ask_again_for_what_is_lost();
        }
        self.files = files;
        if self.state.slots.active.is_none() {
            self.state.slots.active = self.state.slots.last_known_good_at_start(self.factory.as_ref());
        }
        self.start_what_answers();
        self.resume();
        self.collect_garbage();
        self.link.report_due = true;
    }

    /// The release that is assigned was committed here and its files are gone: it is installed again, by the same assignment. Otherwise
    /// the device would call that done, and wait for a newer one without a model.
    fn ask_again_for_what_is_lost(&mut self) {
        let target = self.followed.as_ref().and_then(|followed| followed.directive.target.as_ref()).map(|target| target.sha256);
        let kept = self.state.slots.blobs().any(|blob| Some(blob) == target);
        if target.is_some() && !kept && self.state.outcome == Some(Outcome::Committed) {
            self.state.outcome = None;
        }
    }

    /// The number of this start, higher than every earlier one. A device that has lived before and lost both copies of its state
    /// cannot know how often it started; the seconds since 1970 are more than that, and go on rising.
    fn count_start(&mut self, stored: &Stored) {
        let lived = stored.files.keys().any(|path| !matches!(path.dir(), Dir::Roots | Dir::Factory));
        if self.state.boot.0 == 0 && lived {
            self.state.boot.0 = (self.clock.trusted().as_millis() / 1000).unsigned_abs();
            self.log(Level::Warn, format!("the number of starts was lost; it goes on from {}", self.state.boot.0));
        }
        self.state.boot.0 = self.state.boot.0.saturating_add(1);
    }

    fn start_what_answers(&mut self) {
        match &mut self.state.slots.trial {
            None => {
                self.start_serving();
                self.save(Saving::Boot);
            }
            Some(trial) if trial.boots_left == 0 => {
                self.resume();
                self.save(Saving::Boot);
                self.revert(Reason::new(Code::Crashed, "the last of its starts on trial ended without a word"));
            }
            Some(trial) => {
                trial.boots_left -= 1;
                self.save(Saving::Boot);
                self.start_serving();
            }
        }
    }

    /// Blobs and downloads; copies that a power cut kept from being renamed are removed.
    fn load_files(&mut self, stored: &Stored) {
        for (path, file) in &stored.files {
            if path.is_leftover() && !matches!(path.dir(), Dir::Roots | Dir::Factory) {
                self.remove(path.clone());
            } else if let Some(digest) = path.as_blob() {
                self.files.blobs.insert(digest, file.length);
            } else if let Some(digest) = path.as_staging() {
                self.files.staging.insert(digest);
            }
        }
    }

    fn load_factory(&mut self, stored: &Stored) {
        let Some(bytes) = stored.bytes(&DiskPath::factory_manifest()) else { return };
        let there = stored.files.get(&DiskPath::factory_model());
        match Manifest::parse(bytes) {
            Ok(manifest) if there.is_some_and(|file| file.length == manifest.model.length) => {
                self.factory = Some(Release::factory(bytes, &manifest));
            }
            Ok(_) => self.log(Level::Error, "the factory's model is missing or has another length than its manifest says".to_owned()),
            Err(error) => self.log(Level::Error, format!("the factory's manifest cannot be used: {error}")),
        }
        if self.factory.is_none() && self.state.slots.active == Some(Slot::Factory) {
            self.state.slots.active = None;
        }
    }
}
