//! Which releases lie on the device and which of them answers: two slots that take turns, and what came with the device.
//!
//! A slot is only an entry that names blobs by digest, so switching is one atomic rewrite of the state document and never a
//! copy of files. What stays true: `active` is a release that has passed its trial on this device (or the factory's); a trial
//! stands beside it and never replaces it before it is committed, so there is always something to go back to without a network.
use serde::{Deserialize, Serialize};

use leeway_protocol::digest::Digest;
use leeway_protocol::ids::{Line, Version};
use leeway_protocol::manifest::{Blob, Manifest};
use leeway_protocol::reason::Reason;

use crate::action::DiskPath;
use crate::control::Slot;

/// A release on the disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Release {
    /// Path of its target in the image repository; empty for the factory's.
    pub path: String,
    /// The model line.
    pub line: Line,
    /// The version's name.
    pub version: Version,
    /// Its place in the line.
    pub seq: u64,
    /// The manifest.
    pub manifest: Blob,
    /// The model.
    pub model: Blob,
}

impl Release {
    /// What the device was delivered with.
    pub fn factory(manifest_bytes: &[u8], manifest: &Manifest) -> Self {
        Self {
            path: String::new(),
            line: manifest.line.clone(),
            version: manifest.version.clone(),
            seq: manifest.seq,
            manifest: Blob::of(manifest_bytes),
            model: manifest.model,
        }
    }

    /// Is `digest` that of its model or of its manifest?
    pub fn has(&self, digest: &Digest) -> bool {
        self.model.digest == *digest || self.manifest.digest == *digest
    }
}

/// A release in a slot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kept {
    /// Which.
    pub release: Release,
    /// Whether it has passed its trial on this device.
    pub committed: bool,
    /// Why it is not to be used, if it is not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub broken: Option<Reason>,
}

/// A release on trial.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trial {
    /// Where it lies.
    pub slot: Slot,
    /// Starts of the runner it may still use up. Lowered on disk before a start, so a crash that takes the whole device with
    /// it counts too.
    pub boots_left: u32,
    /// It was committed on this device before: its golden vectors are trial enough.
    pub kept: bool,
}

/// The slots, as they are in the state document.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Slots {
    /// The first.
    #[serde(default)]
    pub a: Option<Kept>,
    /// The second.
    #[serde(default)]
    pub b: Option<Kept>,
    /// The one that answers, or would if there were no trial.
    #[serde(default)]
    pub active: Option<Slot>,
    /// The trial, if there is one.
    #[serde(default)]
    pub trial: Option<Trial>,
    /// Why the factory's release is not to be used, if it is not.
    #[serde(default)]
    pub factory_broken: Option<Reason>,
}

impl Slots {
    /// What lies in one of the two slots.
    pub fn kept(&self, slot: Slot) -> Option<&Kept> {
        match slot {
            Slot::A => self.a.as_ref(),
            Slot::B => self.b.as_ref(),
            Slot::Factory => None,
        }
    }

    /// The slot to write: never the active one.
    pub fn standby(&self) -> Slot {
        if self.active == Some(Slot::A) { Slot::B } else { Slot::A }
    }

    /// Put a release into a slot, or empty it.
    pub fn put(&mut self, slot: Slot, kept: Option<Kept>) {
        match slot {
            Slot::A => self.a = kept,
            Slot::B => self.b = kept,
            Slot::Factory => {}
        }
    }

    /// The slot that must answer now.
    pub fn serving(&self) -> Option<Slot> {
        self.trial.as_ref().map(|trial| trial.slot).or(self.active)
    }

    /// A slot, other than the one that must answer, whose release passed its trial here and can be used at once.
    pub fn find_kept(&self, matches: impl Fn(&Release) -> bool) -> Option<Slot> {
        let usable = |slot: &Slot| self.kept(*slot).is_some_and(|k| k.committed && k.broken.is_none() && matches(&k.release));
        [Slot::A, Slot::B].into_iter().filter(|slot| self.serving() != Some(*slot)).find(usable)
    }

    /// What answers if the active release fails: the other slot if it passed its trial here, else the factory's, else nothing.
    /// During a trial: what was active before.
    pub fn last_known_good(&self, factory: Option<&Release>) -> Option<Slot> {
        if self.trial.is_some() {
            return self.active;
        }
        let good = |slot: Slot| self.kept(slot).is_some_and(|k| k.committed && k.broken.is_none());
        let other = [Slot::A, Slot::B].into_iter().find(|slot| self.active != Some(*slot) && good(*slot));
        let factory = (factory.is_some() && self.factory_broken.is_none() && self.active != Some(Slot::Factory)).then_some(Slot::Factory);
        other.or(factory)
    }

    /// What can answer when nothing is marked as active: a slot that passed its trial here, else the factory's.
    pub fn last_known_good_at_start(&self, factory: Option<&Release>) -> Option<Slot> {
        let without_trial = Self { trial: None, ..self.clone() };
        without_trial.last_known_good(factory)
    }

    /// The release in a slot.
    pub fn release<'a>(&'a self, slot: Slot, factory: Option<&'a Release>) -> Option<&'a Release> {
        match slot {
            Slot::Factory => factory,
            slot => self.kept(slot).map(|kept| &kept.release),
        }
    }

    /// The active release failed outside a trial: it is not to be used any more, and the last known good one takes over.
    /// A release whose bytes have rotted is forgotten altogether.
    pub fn fall_back(&mut self, reason: &Reason, forget: bool, factory: Option<&Release>) -> Option<Slot> {
        let next = self.last_known_good(factory);
        match self.active {
            Some(Slot::Factory) => self.factory_broken = Some(reason.clone()),
            Some(slot) if forget => self.put(slot, None),
            Some(Slot::A) => mark_broken(&mut self.a, reason),
            Some(Slot::B) => mark_broken(&mut self.b, reason),
            None => {}
        }
        self.active = next;
        next
    }

    /// Forget releases with missing files; true if that changed anything.
    pub fn forget_missing(&mut self, is_there: impl Fn(&Blob) -> bool) -> bool {
        let before = self.clone();
        for slot in [Slot::A, Slot::B] {
            if self.kept(slot).is_some_and(|k| !is_there(&k.release.model) || !is_there(&k.release.manifest)) {
                self.put(slot, None);
            }
        }
        let gone = |slots: &Self, slot: Slot| slot != Slot::Factory && slots.kept(slot).is_none();
        if self.trial.as_ref().is_some_and(|trial| gone(self, trial.slot)) {
            self.trial = None;
        }
        if self.active.is_some_and(|slot| gone(self, slot)) {
            self.active = None;
        }
        *self != before
    }

    /// The blobs that must not be removed.
    pub fn blobs(&self) -> impl Iterator<Item = Digest> + '_ {
        let kept = self.a.iter().chain(&self.b);
        kept.flat_map(|k| [k.release.manifest.digest, k.release.model.digest])
    }
}

fn mark_broken(kept: &mut Option<Kept>, reason: &Reason) {
    if let Some(kept) = kept {
        kept.broken = Some(reason.clone());
    }
}

/// Where the model and the manifest of a slot's release lie.
pub fn paths(slot: Slot, release: &Release) -> (DiskPath, DiskPath) {
    match slot {
        Slot::Factory => (DiskPath::factory_model(), DiskPath::factory_manifest()),
        Slot::A | Slot::B => (DiskPath::blob(&release.model.digest), DiskPath::blob(&release.manifest.digest)),
    }
}

#[cfg(test)]
mod tests {
    use leeway_protocol::reason::Code;

    use super::*;

    fn release(version: &str) -> Release {
        Release {
            path: format!("models/rain/release/{version}.onnx"),
            line: "rain".parse().unwrap(),
            version: version.parse().unwrap(),
            seq: 1,
            manifest: Blob::of(format!("manifest {version}").as_bytes()),
            model: Blob::of(format!("model {version}").as_bytes()),
        }
    }

    fn kept(version: &str, committed: bool) -> Option<Kept> {
        Some(Kept { release: release(version), committed, broken: None })
    }

    #[test]
    fn a_trial_stands_beside_the_active_release() {
        let trial = Some(Trial { slot: Slot::B, boots_left: 2, kept: false });
        let slots = Slots { a: kept("1", true), b: kept("2", false), active: Some(Slot::A), trial, ..Slots::default() };
        assert_eq!(slots.serving(), Some(Slot::B));
        assert_eq!(slots.last_known_good(None), Some(Slot::A));
        assert_eq!(slots.standby(), Slot::B);
        assert_eq!(slots.find_kept(|r| r.version.as_str() == "1"), Some(Slot::A));
        assert_eq!(slots.find_kept(|r| r.version.as_str() == "2"), None, "the trial itself is not kept");
    }

    #[test]
    fn falling_back_goes_to_the_other_slot_then_the_factory_then_nothing() {
        let reason = Reason::new(Code::Crashed, "");
        let factory = release("0");
        let mut slots = Slots { a: kept("1", true), b: kept("2", true), active: Some(Slot::B), ..Slots::default() };
        assert_eq!(slots.fall_back(&reason, false, Some(&factory)), Some(Slot::A));
        assert_eq!(slots.fall_back(&reason, false, Some(&factory)), Some(Slot::Factory), "a broken release is not tried again");
        assert_eq!(slots.fall_back(&reason, false, Some(&factory)), None);
        assert_eq!(slots.serving(), None);
        let mut slots = Slots { a: kept("1", true), b: kept("2", false), active: Some(Slot::A), ..Slots::default() };
        assert_eq!(slots.fall_back(&reason, true, None), None, "what never passed its trial is no fallback");
        assert_eq!(slots.a, None);
    }

    #[test]
    fn a_slot_whose_files_are_gone_is_forgotten() {
        let trial = Some(Trial { slot: Slot::B, boots_left: 2, kept: false });
        let mut slots = Slots { a: kept("1", true), b: kept("2", false), active: Some(Slot::A), trial, ..Slots::default() };
        assert!(!slots.clone().forget_missing(|_| true));
        let lost = release("2").model;
        assert!(slots.forget_missing(|blob| *blob != lost));
        assert_eq!((slots.serving(), &slots.b), (Some(Slot::A), &None));
    }
}
