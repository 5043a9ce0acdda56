//! Files, clock and memory of a process, as the runtime asks for them.
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read as _, Seek as _};
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use leeway_protocol::manifest::Manifest;

use super::sandbox::Memory;
use crate::control::Slot;
use crate::runtime::Organs;

/// The longest account a system gives of a process.
const MAX_STATUS: usize = 16 << 10;

/// The real ones.
#[derive(Debug, Clone)]
pub struct FileOrgans {
    root: PathBuf,
    started: Instant,
    /// The system's account of this process, open: a confined runner cannot open it any more. `None` if the process does more
    /// than hold models.
    status: Option<Arc<File>>,
    /// Files that were opened before the process was confined, by the names they are asked for.
    opened: Arc<BTreeMap<String, File>>,
    /// What bounds this process, and the slot that is loaded for.
    memory: Option<(Memory, Slot)>,
}

impl FileOrgans {
    /// For the runner, a process that holds models and nothing else: its memory is the model's. Paths are relative to `root`.
    pub fn of_runner(root: impl Into<PathBuf>) -> Self {
        let status = File::open("/proc/self/status").ok().map(Arc::new);
        Self { status, ..Self::in_process(root) }
    }

    /// For a program that does more than run one device's models; the memory limit is not judged there.
    pub fn in_process(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into(), started: Instant::now(), status: None, opened: Arc::default(), memory: None }
    }

    /// The same, with files that are open already and are read instead of opened.
    pub(super) fn with_opened(self, opened: BTreeMap<String, File>) -> Self {
        Self { opened: Arc::new(opened), ..self }
    }

    /// The same, loading for a slot in a process whose memory is bounded by what was signed.
    pub(super) fn bounded(self, memory: Memory, slot: Slot) -> Self {
        Self { memory: Some((memory, slot)), ..self }
    }
}

impl Organs for FileOrgans {
    fn read(&mut self, path: &str, most: u64) -> Result<Vec<u8>, String> {
        let full = self.root.join(path);
        let failed = |error: std::io::Error| format!("{}: {error}", full.display());
        let mut bytes = Vec::new();
        // One byte more than allowed tells too long from just long enough, whatever the directory says of the length.
        let most_read = most.saturating_add(1);
        if let Some(mut file) = self.opened.get(path) {
            file.rewind().map_err(failed)?;
            file.take(most_read).read_to_end(&mut bytes).map_err(failed)?;
        } else {
            File::open(&full).map_err(failed)?.take(most_read).read_to_end(&mut bytes).map_err(failed)?;
        }
        if bytes.len() as u64 > most {
            return Err(format!("{} has more than {most} bytes", full.display()));
        }
        Ok(bytes)
    }

    fn nanos(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    fn resident_bytes(&self) -> u64 {
        let Some(status) = &self.status else { return 0 };
        let mut text = vec![0; MAX_STATUS];
        let read = status.read_at(&mut text, 0).unwrap_or(0);
        let text = String::from_utf8_lossy(text.get(..read).unwrap_or_default());
        let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        line.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok()).unwrap_or(0) * 1024
    }

    fn admit(&mut self, manifest: &Manifest) {
        let Some((memory, slot)) = &self.memory else { return };
        if let Err(error) = memory.admit(*slot, manifest) {
            tracing::warn!("the memory of {} version {} is not bounded: {error}", manifest.line, manifest.version);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_read_up_to_their_bound_and_errors_name_them() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("f"), [7; 10]).unwrap();
        let mut organs = FileOrgans::of_runner(dir.path());
        assert_eq!(organs.read("f", 10), Ok(vec![7; 10]));
        assert!(organs.read("f", 9).unwrap_err().contains("more than 9 bytes"));
        assert!(organs.read("g", 9).unwrap_err().contains("/g: "));
        assert!(organs.resident_bytes() > 1_000_000);
        assert_eq!(FileOrgans::in_process("/").resident_bytes(), 0);
        assert!(organs.nanos() <= organs.nanos());
    }
}
