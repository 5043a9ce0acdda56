//! A disk that keeps after a power cut exactly what was synced: contents by `Sync`, names by `SyncDir`.
use std::collections::BTreeMap;

use crate::action::{AtStart, Dir, DiskOp, DiskPath};
use crate::event::{Stored, StoredFile};

#[derive(Debug, Clone, Default)]
struct File {
    bytes: Vec<u8>,
    synced: Option<Vec<u8>>,
}

/// Why an effect was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Trouble {
    Full,
    Broken,
}

#[derive(Debug, Clone, Default)]
pub(super) struct Disk {
    files: Vec<File>,
    names: BTreeMap<DiskPath, usize>,
    durable: BTreeMap<DiskPath, usize>,
    /// Effects that are refused from now on: in this directory, or everywhere.
    pub(super) trouble: Option<(Option<Dir>, Trouble)>,
    /// Whether removals are refused from now on.
    pub(super) keeps: bool,
}

impl Disk {
    /// A file that was there before, safe.
    pub(super) fn put(&mut self, path: DiskPath, bytes: Vec<u8>) {
        self.files.push(File { synced: Some(bytes.clone()), bytes });
        self.names.insert(path.clone(), self.files.len() - 1);
        self.durable.insert(path, self.files.len() - 1);
    }

    pub(super) fn read(&self, path: &DiskPath) -> Option<&[u8]> {
        self.names.get(path).map(|at| self.files[*at].bytes.as_slice())
    }

    pub(super) fn paths(&self, dir: Dir) -> Vec<DiskPath> {
        self.names.keys().filter(|path| path.dir() == dir).cloned().collect()
    }

    pub(super) fn trouble_in(&self, dir: Dir) -> Option<Trouble> {
        self.trouble.filter(|(where_, _)| where_.is_none_or(|d| d == dir)).map(|(_, trouble)| trouble)
    }

    pub(super) fn perform(&mut self, op: &DiskOp) -> Result<(), Trouble> {
        let dir = match op {
            DiskOp::SyncDir { dir } => *dir,
            op => op.path().unwrap().dir(),
        };
        if let Some(trouble) = self.trouble_in(dir)
            && !matches!(op, DiskOp::Remove { .. })
        {
            return Err(trouble);
        }
        if self.keeps && matches!(op, DiskOp::Remove { path } if self.names.contains_key(path)) {
            return Err(Trouble::Broken);
        }
        match op {
            DiskOp::Write { path, bytes } => {
                assert!(!matches!(dir, Dir::Roots | Dir::Factory), "the agent may not write {path}");
                match self.names.get(path) {
                    Some(at) => self.files[*at] = File { bytes: bytes.clone(), synced: None },
                    None => {
                        self.files.push(File { bytes: bytes.clone(), synced: None });
                        self.names.insert(path.clone(), self.files.len() - 1);
                    }
                }
            }
            DiskOp::Sync { path } => {
                let at = *self.names.get(path).unwrap_or_else(|| panic!("sync of {path}, which is not there"));
                self.files[at].synced = Some(self.files[at].bytes.clone());
            }
            DiskOp::Rename { from, to } => {
                let at = self.names.remove(from).unwrap_or_else(|| panic!("rename of {from}, which is not there"));
                assert!(self.files[at].synced.is_some(), "{from} is renamed into place before it was synced");
                self.names.insert(to.clone(), at);
            }
            DiskOp::SyncDir { dir } => {
                self.durable.retain(|path, _| path.dir() != *dir);
                let names = self.names.iter().filter(|(path, _)| path.dir() == *dir);
                self.durable.extend(names.map(|(path, at)| (path.clone(), *at)));
            }
            DiskOp::Remove { path } => drop(self.names.remove(path)),
        }
        Ok(())
    }

    /// The power goes: only synced names with synced contents are left.
    pub(super) fn lose_power(&mut self) {
        self.names = self.durable.clone();
        for file in &mut self.files {
            file.bytes = file.synced.clone().unwrap_or_default();
        }
    }

    /// Flip a bit of a file for good.
    pub(super) fn rot(&mut self, path: &DiskPath) {
        let file = &mut self.files[self.names[path]];
        let middle = file.bytes.len() / 2;
        file.bytes[middle] ^= 1;
        file.synced = Some(file.bytes.clone());
    }

    pub(super) fn stored(&self) -> Stored {
        let files = self.names.iter().map(|(path, at)| {
            let bytes = &self.files[*at].bytes;
            let wanted = matches!(path.at_start(), AtStart::Bytes { .. });
            (path.clone(), StoredFile { length: bytes.len() as u64, bytes: wanted.then(|| bytes.clone()) })
        });
        Stored { files: files.collect() }
    }
}
