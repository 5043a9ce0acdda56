//! A disk that keeps only what was synced, and keeps the rest only if it feels like it.
//!
//! The model is the one a careful program may assume and no more: data reach the platter by `sync` of the file, names by
//! `sync_dir` of their directory. At a power cut every 512-byte sector not synced is old or new independently, and every
//! name not synced is old or new independently of every other, in any directory; so a rename may leave both names, or neither
//! content. After a failed `sync` the pages count as clean although they were lost, as real kernels do it.
//! What stays true: without a power cut, reads give back exactly what was written.
use std::collections::{BTreeMap, BTreeSet};

use crate::rng::Rng;

/// What a device writes in one piece.
pub const SECTOR: usize = 512;

/// Why the disk refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DiskError {
    /// No room; part of the bytes may have been written.
    #[error("no space left on the disk")]
    Full,
    /// The hardware failed.
    #[error("the disk failed")]
    Io,
    /// No such file.
    #[error("no such file")]
    Missing,
}

#[derive(Debug, Clone, Default)]
struct Inode {
    cached: Vec<u8>,
    durable: Vec<u8>,
    /// Whether `cached` holds bytes that a sync would have to write.
    dirty: bool,
}

/// A name that was changed in the cache only.
#[derive(Debug, Clone)]
struct Pending {
    path: String,
    inode: Option<u64>,
}

/// Trouble that is armed and not yet used up.
#[derive(Debug, Clone, Copy, Default)]
struct Trouble {
    /// Operations until one fails; 0 when none is to fail.
    fail_in: u32,
    /// Only a sync fails.
    only_sync: bool,
}

/// The disk of one device.
#[derive(Debug, Clone, Default)]
pub struct Disk {
    inodes: BTreeMap<u64, Inode>,
    names: BTreeMap<String, u64>,
    durable_names: BTreeMap<String, u64>,
    pending: Vec<Pending>,
    next_inode: u64,
    capacity: Option<usize>,
    trouble: Trouble,
    operations: u64,
}

impl Disk {
    /// What the factory put there: durable from the start.
    pub fn with_files(files: impl IntoIterator<Item = (String, Vec<u8>)>) -> Self {
        let mut disk = Self::default();
        for (path, bytes) in files {
            let inode = disk.fresh_inode(bytes.clone());
            if let Some(node) = disk.inodes.get_mut(&inode) {
                node.durable = bytes;
                node.dirty = false;
            }
            disk.names.insert(path.clone(), inode);
            disk.durable_names.insert(path, inode);
        }
        disk
    }

    /// The bytes of a file, as a running program sees them.
    pub fn read(&self, path: &str) -> Option<&[u8]> {
        Some(self.inodes.get(self.names.get(path)?)?.cached.as_slice())
    }

    /// Every file below `directory` (`""` is everything), with its bytes.
    pub fn files<'a>(&'a self, directory: &'a str) -> impl Iterator<Item = (&'a str, &'a [u8])> {
        self.names
            .range(directory.to_owned()..)
            .take_while(move |(path, _)| path.starts_with(directory))
            .filter(move |(path, _)| directory.is_empty() || path.as_bytes().get(directory.len()) == Some(&b'/'))
            .filter_map(|(path, inode)| Some((path.as_str(), self.inodes.get(inode)?.cached.as_slice())))
    }

    /// The disk as the worst power cut would leave it: only what was synced, under names that were synced.
    #[must_use]
    pub fn synced_only(&self) -> Self {
        let inode = |at: &u64| self.inodes.get(at).map(|node| node.durable.clone()).unwrap_or_default();
        Self::with_files(self.durable_names.iter().map(|(path, at)| (path.clone(), inode(at))))
    }

    /// Does a synced file below `directory` hold exactly these bytes?
    pub fn has_synced(&self, directory: &str, bytes: &[u8]) -> bool {
        let below = |path: &str| parent(path) == directory;
        let holds = |at: &u64| self.inodes.get(at).is_some_and(|node| node.durable == bytes);
        self.durable_names.iter().any(|(path, at)| below(path) && holds(at))
    }

    /// Bytes in use.
    pub fn used(&self) -> usize {
        self.names.values().collect::<BTreeSet<_>>().into_iter().filter_map(|i| self.inodes.get(i)).map(|n| n.cached.len()).sum()
    }

    /// Operations so far.
    pub fn operations(&self) -> u64 {
        self.operations
    }

    /// Create the file or replace its content, in the cache.
    pub fn write(&mut self, path: &str, bytes: &[u8]) -> Result<(), DiskError> {
        self.operate(false)?;
        let inode = self.open(path);
        let old = self.inodes.get(&inode).map_or(0, |n| n.cached.len());
        let room = self.room().map(|room| room + old);
        self.put(inode, bytes, room, true)
    }

    /// Add to the end of the file, in the cache.
    pub fn append(&mut self, path: &str, bytes: &[u8]) -> Result<(), DiskError> {
        self.operate(false)?;
        let inode = self.open(path);
        let room = self.room();
        self.put(inode, bytes, room, false)
    }

    /// Make the file's content durable (not its name).
    pub fn sync(&mut self, path: &str) -> Result<(), DiskError> {
        let outcome = self.operate(true);
        let inode = self.names.get(path).ok_or(DiskError::Missing)?;
        let node = self.inodes.get_mut(inode).ok_or(DiskError::Missing)?;
        if outcome.is_ok() && node.dirty {
            node.durable = node.cached.clone();
        }
        // After an error the kernel has marked the pages clean: a second sync would succeed and write nothing.
        node.dirty = false;
        outcome
    }

    /// Give the file another name, replacing what had it, in the cache.
    pub fn rename(&mut self, from: &str, to: &str) -> Result<(), DiskError> {
        self.operate(false)?;
        let inode = self.names.remove(from).ok_or(DiskError::Missing)?;
        self.names.insert(to.to_owned(), inode);
        self.pending.push(Pending { path: to.to_owned(), inode: Some(inode) });
        self.pending.push(Pending { path: from.to_owned(), inode: None });
        Ok(())
    }

    /// Make the names in this directory durable.
    pub fn sync_dir(&mut self, directory: &str) -> Result<(), DiskError> {
        self.operate(true)?;
        let (settled, pending): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.pending).into_iter().partition(|p| parent(&p.path) == directory);
        self.pending = pending;
        for change in settled {
            self.settle(change);
        }
        self.collect();
        Ok(())
    }

    /// Forget the name, in the cache. A name that is not there is no error: that is what was wanted.
    pub fn remove(&mut self, path: &str) -> Result<(), DiskError> {
        self.operate(false)?;
        if self.names.remove(path).is_some() {
            self.pending.push(Pending { path: path.to_owned(), inode: None });
            self.collect();
        }
        Ok(())
    }

    /// Limit the room to `bytes`; `None` lifts the limit.
    pub fn limit(&mut self, bytes: Option<usize>) {
        self.capacity = bytes;
    }

    /// The `n`-th operation from now fails once; with `only_sync`, the `n`-th sync.
    pub fn fail_in(&mut self, n: u32, only_sync: bool) {
        self.trouble = Trouble { fail_in: n.max(1), only_sync };
    }

    /// Whether it refuses, or is about to.
    pub fn is_in_trouble(&self) -> bool {
        self.capacity.is_some() || self.trouble.fail_in > 0
    }

    /// Trouble that is still armed never comes.
    pub fn fail_never(&mut self) {
        self.trouble = Trouble::default();
    }

    /// Flip one bit of one of the files whose path begins with `prefix`; says which file it was.
    pub fn flip_bit(&mut self, prefix: &str, rng: &mut Rng) -> Option<String> {
        let paths: Vec<String> = self.names.keys().filter(|p| p.starts_with(prefix)).cloned().collect();
        let path = rng.pick(&paths)?.clone();
        let node = self.inodes.get_mut(self.names.get(&path)?)?;
        let at = rng.index(node.cached.len());
        let bit = 1 << rng.below(8);
        *node.cached.get_mut(at)? ^= bit;
        if let Some(byte) = node.durable.get_mut(at) {
            *byte ^= bit;
        }
        Some(path)
    }

    /// The power is gone and comes back: what was not synced is old or new, piece by piece.
    pub fn power_cut(&mut self, rng: &mut Rng) {
        // Per name any prefix of its changes may have reached the platter, whatever happened to other names.
        let mut by_name: BTreeMap<String, Vec<Pending>> = BTreeMap::new();
        for change in std::mem::take(&mut self.pending) {
            by_name.entry(change.path.clone()).or_default().push(change);
        }
        for changes in by_name.into_values() {
            let kept = rng.index(changes.len() + 1);
            if let Some(last) = changes.into_iter().take(kept).next_back() {
                self.settle(last);
            }
        }
        self.names = self.durable_names.clone();
        self.collect();
        for node in self.inodes.values_mut() {
            if node.dirty || node.cached != node.durable {
                node.durable = tear(&node.durable, &node.cached, rng);
            }
            node.cached = node.durable.clone();
            node.dirty = false;
        }
        self.trouble = Trouble::default();
    }

    fn operate(&mut self, is_sync: bool) -> Result<(), DiskError> {
        self.operations += 1;
        if self.trouble.fail_in == 0 || (self.trouble.only_sync && !is_sync) {
            return Ok(());
        }
        self.trouble.fail_in -= 1;
        if self.trouble.fail_in == 0 { Err(DiskError::Io) } else { Ok(()) }
    }

    fn room(&self) -> Option<usize> {
        self.capacity.map(|capacity| capacity.saturating_sub(self.used()))
    }

    fn open(&mut self, path: &str) -> u64 {
        if let Some(inode) = self.names.get(path) {
            return *inode;
        }
        let inode = self.fresh_inode(Vec::new());
        self.names.insert(path.to_owned(), inode);
        self.pending.push(Pending { path: path.to_owned(), inode: Some(inode) });
        inode
    }

    fn fresh_inode(&mut self, bytes: Vec<u8>) -> u64 {
        self.next_inode += 1;
        self.inodes.insert(self.next_inode, Inode { cached: bytes, durable: Vec::new(), dirty: true });
        self.next_inode
    }

    fn put(&mut self, inode: u64, bytes: &[u8], room: Option<usize>, replace: bool) -> Result<(), DiskError> {
        let node = self.inodes.get_mut(&inode).ok_or(DiskError::Missing)?;
        if replace {
            node.cached.clear();
        }
        let fits = room.map_or(bytes.len(), |room| room.min(bytes.len()));
        node.cached.extend_from_slice(bytes.get(..fits).unwrap_or(bytes));
        node.dirty = true;
        if fits == bytes.len() { Ok(()) } else { Err(DiskError::Full) }
    }

    fn settle(&mut self, change: Pending) {
        match change.inode {
            Some(inode) => self.durable_names.insert(change.path, inode),
            None => self.durable_names.remove(&change.path),
        };
    }

    /// Forget contents that no name can bring back.
    fn collect(&mut self) {
        let live: BTreeSet<u64> =
            self.names.values().chain(self.durable_names.values()).copied().chain(self.pending.iter().filter_map(|p| p.inode)).collect();
        self.inodes.retain(|inode, _| live.contains(inode));
    }
}

/// The directory a path is in; `""` for the top.
pub fn parent(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(directory, _)| directory)
}

/// Old and new content mixed by sectors, with the length of either, or cut at a sector between.
fn tear(old: &[u8], new: &[u8], rng: &mut Rng) -> Vec<u8> {
    let (low, high) = (old.len().min(new.len()), old.len().max(new.len()));
    let length = match rng.below(3) {
        0 => old.len(),
        1 => new.len(),
        _ => (low + rng.index(high - low + 1)).next_multiple_of(SECTOR).min(high),
    };
    let mut torn = Vec::with_capacity(length);
    while torn.len() < length {
        let (from, to) = (torn.len(), (torn.len() + SECTOR).min(length));
        let source = if rng.chance(0.5) { new } else { old };
        let piece = source.get(from..to.min(source.len())).unwrap_or(&[]);
        torn.extend_from_slice(piece);
        // What neither version ever held reads as zeros.
        torn.resize(to, 0);
    }
    torn
}

#[cfg(test)]
mod tests {
    use super::*;

    fn replace(disk: &mut Disk, bytes: &[u8], sync: bool, sync_dir: bool) {
        disk.write("state.tmp", bytes).unwrap();
        if sync {
            disk.sync("state.tmp").unwrap();
        }
        disk.rename("state.tmp", "state").unwrap();
        if sync_dir {
            disk.sync_dir("").unwrap();
        }
    }

    /// All contents that "state" has after a power cut, over many seeds.
    fn outcomes(sync: bool, sync_dir: bool) -> BTreeSet<Option<Vec<u8>>> {
        let (old, new) = (vec![1; 700], vec![2; 700]);
        let run = |seed| {
            let mut disk = Disk::with_files([("state".to_owned(), old.clone())]);
            replace(&mut disk, &new, sync, sync_dir);
            assert_eq!(disk.read("state"), Some(new.as_slice()));
            disk.power_cut(&mut Rng::new(seed));
            disk.read("state").map(<[u8]>::to_vec)
        };
        (0..200).map(run).collect()
    }

    #[test]
    fn atomic_replacement_needs_both_syncs_in_this_model() {
        let (old, new) = (Some(vec![1; 700]), Some(vec![2; 700]));
        assert_eq!(outcomes(true, true), BTreeSet::from([new.clone()]));
        assert_eq!(outcomes(true, false), BTreeSet::from([old.clone(), new.clone()]));
        let careless = outcomes(false, true);
        assert!(careless.contains(&Some(Vec::new())) && careless.iter().any(|o| *o != old && *o != new), "{}", careless.len());
    }

    #[test]
    fn a_failed_sync_loses_the_pages_for_good() {
        let mut disk = Disk::default();
        disk.write("a", b"x").unwrap();
        disk.fail_in(1, true);
        assert_eq!(disk.sync("a"), Err(DiskError::Io));
        assert_eq!((disk.sync("a"), disk.sync_dir("")), (Ok(()), Ok(())));
        let lost = (0..50).any(|seed| {
            let mut copy = disk.clone();
            copy.power_cut(&mut Rng::new(seed));
            copy.read("a") != Some(b"x")
        });
        assert!(lost, "a sync that failed and was asked again must not count");
    }

    #[test]
    fn a_full_disk_writes_part_and_says_so() {
        let mut disk = Disk::with_files([("a".to_owned(), vec![0; 10])]);
        disk.limit(Some(14));
        assert_eq!(disk.write("b", b"123456"), Err(DiskError::Full));
        assert_eq!(disk.read("b"), Some(b"1234".as_slice()));
        assert_eq!((disk.remove("b"), disk.used()), (Ok(()), 10));
        assert_eq!(disk.write("a", b"01234567890123"), Ok(()), "replacing frees what was there");
        disk.limit(None);
        assert!(!disk.has_synced("", b"01234567890123") && disk.synced_only().read("a") == Some([0; 10].as_slice()));
        assert_eq!(disk.sync("a"), Ok(()));
        assert!(disk.has_synced("", b"01234567890123") && !disk.has_synced("x", b"01234567890123"));
        assert_eq!(disk.append("a", b"4"), Ok(()));
        assert_eq!(disk.used(), 15);
    }

    #[test]
    fn names_are_listed_by_directory() {
        let mut disk = Disk::default();
        for path in ["outbox/1", "outbox/2", "outboxes", "tuf/root.json"] {
            disk.write(path, b"x").unwrap();
        }
        assert_eq!(disk.files("outbox").map(|(p, _)| p).collect::<Vec<_>>(), ["outbox/1", "outbox/2"]);
        assert_eq!(disk.files("").count(), 4);
        assert_eq!(disk.flip_bit("tuf", &mut Rng::new(0)).as_deref(), Some("tuf/root.json"));
        assert_ne!(disk.read("tuf/root.json"), Some(b"x".as_slice()));
        assert_eq!(disk.rename("nothing", "x"), Err(DiskError::Missing));
    }
}
